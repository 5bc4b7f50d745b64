//! The engine's pages from huge pages of the operating system.
//!
//! ```text
//!   region: 2 MiB, aligned to it          all slots of a region are of one page size
//!   ┌────────┬────────┬────────┬───┬──┐
//!   │ slot 0 │ slot 1 │ slot 2 │ … │  │  a page larger than 2 MiB has a region of its own,
//!   └────────┴────────┴────────┴───┴──┘  rounded up to a multiple of 2 MiB
//! ```

use std::collections::HashMap;
use std::io;
use std::ptr::NonNull;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use syncline_engine::page::{OutOfMemory, PageSource};

/// Octets of a reserved huge page.
pub(crate) const HUGE_PAGE_BYTES: usize = 2 << 20;
/// What regions come in multiples of, and are aligned to.
const REGION_BYTES: usize = HUGE_PAGE_BYTES;
/// After the operating system had no memory it is asked again this much later: who needs pages asks in every pass of a loop.
const ASK_AGAIN: Duration = Duration::from_millis(10);
/// Regions that a thread keeps ready: at a million new connections a second they last for some 70 ms.
const REGIONS_READY: usize = 3;
/// Slots start on a cache line.
const SLOT_ALIGN: usize = 64;

/// A region that every page fault is over with, on its way to whoever needs it.
#[derive(Debug)]
struct Ready {
    base: NonNull<u8>,
    reserved: bool,
}

// SAFETY: memory that belongs to no thread, and that nothing refers to yet.
unsafe impl Send for Ready {}

impl Ready {
    /// The region, which is the caller's now.
    fn take(self) -> NonNull<u8> {
        core::mem::ManuallyDrop::new(self).base
    }
}

impl Drop for Ready {
    /// Nobody needed it.
    fn drop(&mut self) {
        unmap(self.base, REGION_BYTES);
    }
}

/// Pages in mapped regions: from the reserved huge pages (`/proc/sys/vm/nr_hugepages`) while there are any, otherwise
/// ordinary memory that the kernel is asked to back with transparent huge pages.
///
/// A region whose pages have all come back goes back to the operating system, but for one per page size, so that a
/// table that shrinks and grows by a page does not map and unmap each time.
#[derive(Debug, Default)]
pub struct MappedPages {
    /// By the address of their first octet.
    regions: HashMap<usize, Region>,
    /// Regions with a free slot, by page size.
    partial: HashMap<usize, Vec<usize>>,
    bytes_taken: u64,
    bytes_mapped: u64,
    bytes_max: Option<u64>,
    /// Set once the kernel has no reserved huge page left for us.
    no_reserved: bool,
    /// Regions that were made ready.
    ready: Option<Receiver<Ready>>,
    /// When the operating system last had no memory.
    refused: Option<Instant>,
}

#[derive(Debug)]
struct Region {
    base: NonNull<u8>,
    bytes: usize,
    page_bytes: usize,
    slot_bytes: usize,
    slots: u32,
    free: Vec<u32>,
}

// SAFETY: a region is memory that belongs to no thread; what points into it are exclusive references handed out.
unsafe impl Send for Region {}

impl MappedPages {
    /// A source without a limit of its own.
    pub fn new() -> Self {
        Self::default()
    }

    /// A source that maps at most `bytes_max` octets, which it does in regions of 2 MiB.
    pub fn with_limit(bytes_max: u64) -> Self {
        let mut source = Self::default();
        source.bytes_max = Some(bytes_max);
        source
    }

    /// A source with a thread that keeps three regions ready. The kernel may take milliseconds to find and clear a
    /// huge page: whoever takes pages here does not wait for that, unless it takes them faster than the thread can go.
    ///
    /// The thread ends with the source. Without one, regions are mapped as they are needed.
    pub fn with_thread() -> Self {
        // One is in the hands of the thread.
        let (give, ready) = sync_channel(REGIONS_READY - 1);
        let keep_ready = move || {
            let mut no_reserved = false;
            while let Ok((base, reserved)) = map_region(REGION_BYTES, &mut no_reserved) {
                populate(base, REGION_BYTES);
                if give.send(Ready { base, reserved }).is_err() {
                    return;
                }
            }
        };
        let started = thread::Builder::new().name("pages".into()).spawn(keep_ready);
        let mut source = Self::default();
        source.ready = started.ok().map(|_| ready);
        source
    }

    /// Octets mapped at present, whether handed out or not.
    pub fn bytes_mapped(&self) -> u64 {
        self.bytes_mapped
    }

    /// Whether all regions so far came from reserved huge pages.
    pub fn all_reserved(&self) -> bool {
        !self.no_reserved && !self.regions.is_empty()
    }

    /// A free slot of a region for pages of `page_bytes`.
    fn slot(&mut self, page_bytes: usize) -> Result<NonNull<u8>, OutOfMemory> {
        if self.partial.get(&page_bytes).is_none_or(Vec::is_empty) {
            self.grow(page_bytes)?;
        }
        let partial = self.partial.get_mut(&page_bytes).ok_or(OutOfMemory)?;
        let base = *partial.last().ok_or(OutOfMemory)?;
        let region = self.regions.get_mut(&base).ok_or(OutOfMemory)?;
        let slot = region.free.pop().ok_or(OutOfMemory)?;
        if region.free.is_empty() {
            partial.pop();
        }
        // SAFETY: `slot < slots`, and `slots * slot_bytes <= bytes` of the mapping at `base`.
        Ok(unsafe { region.base.byte_add(slot as usize * region.slot_bytes) })
    }

    fn grow(&mut self, page_bytes: usize) -> Result<(), OutOfMemory> {
        let slot_bytes = page_bytes.max(1).checked_next_multiple_of(SLOT_ALIGN).ok_or(OutOfMemory)?;
        let bytes = slot_bytes.checked_next_multiple_of(REGION_BYTES).ok_or(OutOfMemory)?;
        if self.bytes_max.is_some_and(|max| self.bytes_mapped + bytes as u64 > max) {
            return Err(OutOfMemory);
        }
        let slots = if bytes == REGION_BYTES { bytes / slot_bytes } else { 1 } as u32;
        let base = self.map(bytes)?;
        let region = Region { base, bytes, page_bytes, slot_bytes, slots, free: (0..slots).rev().collect() };
        self.bytes_mapped += bytes as u64;
        self.regions.insert(base.as_ptr() as usize, region);
        self.partial.entry(page_bytes).or_default().push(base.as_ptr() as usize);
        Ok(())
    }

    fn map(&mut self, bytes: usize) -> Result<NonNull<u8>, OutOfMemory> {
        let ready = self.ready.as_ref().filter(|_| bytes == REGION_BYTES).and_then(|ready| ready.try_recv().ok());
        if let Some(ready) = ready {
            self.no_reserved |= !ready.reserved;
            return Ok(ready.take());
        }
        if self.refused.is_some_and(|at| at.elapsed() < ASK_AGAIN) {
            return Err(OutOfMemory);
        }
        let mapped = map_region(bytes, &mut self.no_reserved);
        self.refused = mapped.is_err().then(Instant::now);
        mapped.map(|(base, _)| base).map_err(|_| OutOfMemory)
    }

    /// Gives the region at `base` back to the operating system if none of its pages is out and another one of its
    /// kind has a free slot.
    fn shrink(&mut self, base: usize) {
        let Some(region) = self.regions.get(&base) else { return };
        let Some(partial) = self.partial.get_mut(&region.page_bytes) else { return };
        if region.free.len() < region.slots as usize || partial.len() < 2 {
            return;
        }
        partial.retain(|&other| other != base);
        if let Some(region) = self.regions.remove(&base) {
            self.bytes_mapped -= region.bytes as u64;
            region.unmap();
        }
    }
}

impl Region {
    /// Only where no page of the region is out.
    fn unmap(self) {
        debug_assert_eq!(self.free.len(), self.slots as usize);
        unmap(self.base, self.bytes);
    }
}

impl PageSource for MappedPages {
    fn take<T: Copy + Default + Send + 'static, const N: usize>(&mut self) -> Result<&'static mut [T; N], OutOfMemory> {
        const {
            assert!(align_of::<T>() <= SLOT_ALIGN, "a page's values are aligned to a cache line at most");
        }
        let page_bytes = size_of::<[T; N]>();
        let page: NonNull<[T; N]> = self.slot(page_bytes)?.cast();
        self.bytes_taken += page_bytes as u64;
        let first: NonNull<T> = page.cast();
        for index in 0..N {
            // SAFETY: `index < N`, and the slot has the octets of N values.
            let place = unsafe { first.add(index) };
            // SAFETY: within the slot, aligned (a slot begins on a cache line, asserted above), and referred to by
            // nobody: the slot was free.
            unsafe { place.write(T::default()) };
        }
        // SAFETY: all N values are initialised; the slot is nobody else's until the page is given back, and its region
        // is not unmapped before that, even if `self` is dropped.
        Ok(unsafe { &mut *page.as_ptr() })
    }

    /// Takes a page back. One that came from another source, or is only a part of one, is left alone: its memory is
    /// not ours to reuse.
    fn give_back<T: Copy + Default + Send + 'static, const N: usize>(&mut self, page: &'static mut [T; N]) {
        let address = page.as_ptr() as usize;
        let base = address & !(REGION_BYTES - 1);
        let page_bytes = size_of::<[T; N]>();
        let Some(region) = self.regions.get_mut(&base) else { return };
        let offset = address - base;
        if region.page_bytes != page_bytes || !offset.is_multiple_of(region.slot_bytes) {
            return;
        }
        region.free.push((offset / region.slot_bytes) as u32);
        if region.free.len() == 1 {
            self.partial.entry(page_bytes).or_default().push(base);
        }
        self.bytes_taken -= page_bytes as u64;
        self.shrink(base);
    }

    fn bytes_taken(&self) -> u64 {
        self.bytes_taken
    }
}

impl Drop for MappedPages {
    /// Unmaps what no page is out of; the rest stays for the life of the process.
    fn drop(&mut self) {
        for (_, region) in self.regions.drain() {
            if region.free.len() == region.slots as usize {
                region.unmap();
            }
        }
    }
}

/// A region, and whether it is of reserved huge pages. `no_reserved` is set once there is none left.
fn map_region(bytes: usize, no_reserved: &mut bool) -> io::Result<(NonNull<u8>, bool)> {
    if !*no_reserved {
        if let Ok(base) = map_anonymous(bytes, libc::MAP_HUGETLB | libc::MAP_HUGE_2MB) {
            return Ok((base, true));
        }
        *no_reserved = true;
    }
    map_aligned(bytes).map(|base| (base, false))
}

/// Has every page of a mapping faulted in. Kernels before 5.14 cannot: then it happens on first use.
fn populate(base: NonNull<u8>, bytes: usize) {
    // SAFETY: the range is a mapping of the caller's; populating it does not change its contents.
    let _ = unsafe { libc::madvise(base.as_ptr().cast(), bytes, libc::MADV_POPULATE_WRITE) };
}

fn map_anonymous(bytes: usize, flags: libc::c_int) -> io::Result<NonNull<u8>> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags;
    // SAFETY: a new private mapping at an address of the kernel's choice touches no memory there is.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(base.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

/// A mapping aligned to [`REGION_BYTES`], for which the kernel is asked for transparent huge pages.
fn map_aligned(bytes: usize) -> io::Result<NonNull<u8>> {
    let generous = bytes.checked_add(REGION_BYTES).ok_or(io::ErrorKind::OutOfMemory)?;
    let mapping = map_anonymous(generous, 0)?;
    let head = mapping.as_ptr().align_offset(REGION_BYTES);
    // SAFETY: the offset to the next multiple is below REGION_BYTES, so `bytes` follow it within the mapping.
    let base = unsafe { mapping.byte_add(head) };
    if head > 0 {
        unmap(mapping, head);
    }
    if head < REGION_BYTES {
        // SAFETY: `head + bytes` is below `generous`, so this is within the mapping.
        let tail = unsafe { base.byte_add(bytes) };
        unmap(tail, REGION_BYTES - head);
    }
    // SAFETY: the range is this mapping; advice does not change its contents. Without transparent huge pages the call
    // fails, and ordinary pages do.
    let _ = unsafe { libc::madvise(base.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
    Ok(base)
}

/// Unmaps a range that was mapped here and that nothing refers to any more.
fn unmap(base: NonNull<u8>, bytes: usize) {
    // SAFETY: as this private function's callers promise; a failure leaves the mapping, which is a leak and no more.
    let _ = unsafe { libc::munmap(base.as_ptr().cast(), bytes) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Odd(u64, u16);

    impl Default for Odd {
        fn default() -> Self {
            Self(7, 9)
        }
    }

    #[test]
    fn pages_are_default_apart_and_come_back() {
        let mut source = MappedPages::new();
        let mut pages: Vec<&'static mut [Odd; 1000]> = (0..300).map(|_| source.take().unwrap()).collect();
        assert_eq!(source.bytes_taken(), 300 * 16_000);
        assert!(source.bytes_mapped() >= source.bytes_taken());
        for (index, page) in pages.iter_mut().enumerate() {
            assert!(page.iter().all(|&odd| odd == Odd(7, 9)), "page {index} is not new");
            page.fill(Odd(index as u64, 1));
        }
        for (index, page) in pages.iter().enumerate() {
            assert!(page.iter().all(|&odd| odd == Odd(index as u64, 1)), "page {index} shares octets with another");
        }
        for page in pages {
            source.give_back(page);
        }
        assert_eq!(source.bytes_taken(), 0);
        assert_eq!(source.bytes_mapped(), REGION_BYTES as u64, "one empty region is kept, the rest is given back");
        let page: &'static mut [Odd; 1000] = source.take().unwrap();
        assert!(page.iter().all(|&odd| odd == Odd(7, 9)), "a reused page is not new");
        source.give_back(page);
    }

    #[test]
    fn the_limit_holds() {
        let mut source = MappedPages::with_limit(REGION_BYTES as u64);
        let mut pages: Vec<&'static mut [u64; 65_536]> = Vec::new();
        while let Ok(page) = source.take() {
            pages.push(page);
        }
        assert_eq!(pages.len(), 4);
        source.give_back(pages.pop().unwrap());
        assert!(source.take::<u8, 1>().is_err(), "another page size needs another region");
        pages.push(source.take().unwrap());
        pages.into_iter().for_each(|page| source.give_back(page));
    }

    #[test]
    fn a_page_larger_than_a_region_has_its_own() {
        let mut source = MappedPages::new();
        let page: &'static mut [u64; 400_000] = source.take().unwrap();
        page[399_999] = 1;
        assert_eq!(page.as_ptr() as usize % REGION_BYTES, 0);
        assert_eq!(source.bytes_mapped(), 2 * REGION_BYTES as u64);
        source.give_back(page);
        assert_eq!(source.bytes_taken(), 0);
    }

    #[test]
    fn a_page_stays_when_its_source_goes() {
        let mut source = MappedPages::new();
        let page: &'static mut [u64; 512] = source.take().unwrap();
        let empty: &'static mut [u32; 512] = source.take().unwrap();
        source.give_back(empty);
        drop(source);
        page.fill(3);
        assert_eq!(page.iter().sum::<u64>(), 3 * 512);
    }

    #[test]
    fn parts_and_strangers_are_not_taken() {
        let mut source = MappedPages::new();
        let page: &'static mut [u64; 512] = source.take().unwrap();
        let (part, rest) = page.split_first_chunk_mut::<511>().unwrap();
        source.give_back(part);
        let stranger: &'static mut [u64; 512] = Box::leak(Box::new([0; 512]));
        source.give_back(stranger);
        assert_eq!(source.bytes_taken(), 4096);
        let other: &'static mut [u64; 512] = source.take().unwrap();
        other.fill(1);
        assert_eq!(rest[0], 0);
        source.give_back(other);
    }

    #[test]
    fn a_source_can_move_to_its_worker() {
        fn assert_send<T: Send>() {}
        assert_send::<MappedPages>();
    }
    #[test]
    fn regions_that_a_thread_made_ready_are_like_any_others() {
        let mut pages = MappedPages::with_thread();
        let mut out = Vec::new();
        for round in 0..40u64 {
            let page = pages.take::<u64, { 1 << 16 }>().unwrap();
            assert!(page.iter().all(|&word| word == 0), "fresh");
            page.fill(round);
            out.push(page);
        }
        assert_eq!(pages.bytes_mapped(), 40 / 4 * REGION_BYTES as u64);
        assert!((0..).zip(&out).all(|(round, page)| page.iter().all(|&word| word == round)), "each its own");
        let huge = pages.take::<u64, { 1 << 19 }>().unwrap();
        assert!(huge.iter().all(|&word| word == 0), "larger than what is kept ready");
        pages.give_back(huge);
        out.into_iter().for_each(|page| pages.give_back(page));
        assert_eq!(pages.bytes_taken(), 0);
    }
}
