//! Records of one size at stable handles.

use crate::page::{OutOfMemory, PageSource};
use crate::prefetch::prefetch_read;

/// No page.
const NONE: u32 = u32::MAX;

/// Pages given back in one [`Slab::maintain`].
const RETURNS_PER_CALL: u32 = 4;

/// Empty pages kept whatever the load: the worth of one burst's swing.
const EMPTY_PAGES_MIN: u32 = 2;

/// Free handles that may lie ready: a burst of records come and go without their pages being asked.
const READY_MAX: usize = 128;

/// Handles that are moved at once between those that lie ready and their pages.
const READY_BATCH: usize = READY_MAX / 2;

/// Records of type `T` in pages of `N` (a power of two, at least 64), found by `u32` handles.
///
/// A handle is `page << log2(N) | slot`. Which slots are in use is one bit per record beside the pages, so that `T` is
/// stored as it is and a freed record is not written to. A few free handles lie ready on a stack: short-lived records
/// stay in the same few cache lines, and pages are asked for many handles at once, lowest words first.
///
/// `alloc` and `free` never allocate; [`reserve`](Self::reserve) grows and [`maintain`](Self::maintain) shrinks.
#[derive(Debug)]
pub struct Slab<T: 'static, const N: usize> {
    pages: Vec<Option<&'static mut [T; N]>>,
    meta: Vec<PageMeta>,
    /// `N / 64` words a page, a set bit is a record in use. Sized for the limit at creation; untouched words cost no memory.
    live_bits: Vec<u64>,
    /// Free handles, the last freed on top; their pages count them as taken.
    ready: [u32; READY_MAX],
    ready_len: u32,
    /// Records in use and handles that lie ready.
    taken: u32,
    /// Pages with some records taken and some room.
    open: u32,
    /// Pages without a record taken.
    empty: u32,
    /// Page numbers whose page was given back.
    absent: u32,
    empty_count: u32,
    resident: u32,
    /// Calls of `maintain`, modulo how often it takes back what lies ready.
    turn: u8,
}

/// Book-keeping of a page, linked into at most one of the lists above.
#[derive(Clone, Copy, Debug)]
struct PageMeta {
    next: u32,
    prev: u32,
    taken: u32,
    /// Word of the bitmap to look at first.
    hint: u32,
}

/// The record of a handle that is known to be live: one that an owner keeps until it frees it.
///
/// # Panics
/// If the handle is none that the slab handed out.
impl<T: 'static, const N: usize> core::ops::Index<u32> for Slab<T, N>
where
    T: Copy + Default + Send,
{
    type Output = T;

    #[inline(always)]
    fn index(&self, handle: u32) -> &T {
        self.get(handle).expect("a live handle")
    }
}

impl<T: 'static, const N: usize> core::ops::IndexMut<u32> for Slab<T, N>
where
    T: Copy + Default + Send,
{
    #[inline(always)]
    fn index_mut(&mut self, handle: u32) -> &mut T {
        self.get_mut(handle).expect("a live handle")
    }
}

impl<T: Copy + Default + Send + 'static, const N: usize> Slab<T, N> {
    const SHIFT: u32 = {
        assert!(N.is_power_of_two() && N >= 64, "a page is a power of two of records, at least 64");
        N.trailing_zeros()
    };
    const WORDS: usize = N / 64;

    /// An empty slab for up to `records_max` records, rounded up to pages. Takes no page yet.
    pub fn with_limit(records_max: u32) -> Self {
        let pages_max = (records_max as usize).div_ceil(N).min((u32::MAX >> Self::SHIFT) as usize);
        Self {
            pages: Vec::with_capacity(pages_max),
            meta: Vec::with_capacity(pages_max),
            live_bits: vec![0; pages_max * Self::WORDS],
            ready: [0; READY_MAX],
            ready_len: 0,
            taken: 0,
            open: NONE,
            empty: NONE,
            absent: NONE,
            empty_count: 0,
            resident: 0,
            turn: 0,
        }
    }

    /// Records in use.
    #[inline]
    pub fn len(&self) -> u32 {
        self.taken - self.ready_len
    }

    /// Whether no record is in use.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Records that can be allocated without growing.
    #[inline]
    pub fn room(&self) -> u32 {
        self.resident * N as u32 - self.len()
    }

    /// Octets held: pages and the book-keeping in use for them.
    pub fn bytes(&self) -> u64 {
        let book_keeping = size_of::<PageMeta>() + size_of::<Option<&T>>() + N / 8;
        u64::from(self.resident) * size_of::<[T; N]>() as u64 + (self.pages.len() * book_keeping) as u64
    }

    /// Takes pages until `count` records can be allocated, or as many as the limit given at creation leaves. Call it
    /// between polls.
    ///
    /// # Errors
    /// [`OutOfMemory`] if the source refuses; what was taken stays.
    pub fn reserve<P: PageSource>(&mut self, source: &mut P, count: u32) -> Result<(), OutOfMemory> {
        while self.room() < count && !self.is_at_limit() {
            self.grow(source)?;
        }
        Ok(())
    }

    /// Gives back a few pages if plenty are empty. Call it between polls.
    pub fn maintain<P: PageSource>(&mut self, source: &mut P) {
        // A handle that lies ready keeps its page. Now and then they all go back, if there is as much room as makes a
        // page one too many.
        self.turn = self.turn.wrapping_add(1);
        if self.turn == 0 && self.room() > EMPTY_PAGES_MIN * N as u32 {
            self.put_back(self.ready_len as usize);
        }
        for _ in 0..RETURNS_PER_CALL {
            if self.empty_count <= EMPTY_PAGES_MIN + (self.resident - self.empty_count) / 8 {
                return;
            }
            self.give_back_one(source);
        }
    }

    /// Gives back every page; all handles become invalid.
    pub fn release<P: PageSource>(&mut self, source: &mut P) {
        self.live_bits[..self.pages.len() * Self::WORDS].fill(0);
        for page in self.pages.drain(..).flatten() {
            source.give_back(page);
        }
        self.meta.clear();
        (self.open, self.empty, self.absent) = (NONE, NONE, NONE);
        (self.empty_count, self.resident, self.taken, self.ready_len) = (0, 0, 0, 0);
    }

    /// A free record, holding whatever its last owner left. `None` if there is no room: `reserve` was not called or
    /// was refused.
    #[inline]
    pub fn alloc(&mut self) -> Option<u32> {
        let top = self.ready_len.wrapping_sub(1);
        let Some(&handle) = self.ready.get(top as usize) else { return self.alloc_from_page() };
        self.ready_len = top;
        *self.live_bits.get_mut(handle as usize / 64)? |= 1 << (handle % 64);
        Some(handle)
    }

    /// Allocates a record and writes `record` into it.
    #[inline]
    pub fn insert(&mut self, record: T) -> Option<u32> {
        let handle = self.alloc()?;
        *self.get_mut(handle)? = record;
        Some(handle)
    }

    /// Frees a record. Returns false, and does nothing, if it was not in use.
    #[inline]
    pub fn free(&mut self, handle: u32) -> bool {
        let bit = 1 << (handle % 64);
        match self.live_bits.get_mut(handle as usize / 64) {
            Some(word) if *word & bit != 0 => *word ^= bit,
            _ => return false,
        }
        if let Some(place) = self.ready.get_mut(self.ready_len as usize) {
            *place = handle;
        } else {
            self.put_back(READY_BATCH);
            self.ready[self.ready_len as usize] = handle;
        }
        self.ready_len += 1;
        true
    }

    /// The record at `handle`, `None` if that handle has no page. Whether it is in use is not checked.
    #[inline(always)]
    pub fn get(&self, handle: u32) -> Option<&T> {
        let (number, slot) = Self::split(handle);
        match self.pages.get(number) {
            Some(Some(page)) => Some(&page[slot]),
            _ => None,
        }
    }

    /// The record at `handle`, `None` if that handle has no page. Whether it is in use is not checked.
    #[inline(always)]
    pub fn get_mut(&mut self, handle: u32) -> Option<&mut T> {
        let (number, slot) = Self::split(handle);
        match self.pages.get_mut(number) {
            Some(Some(page)) => Some(&mut page[slot]),
            _ => None,
        }
    }

    /// Asks for the record's first cache line.
    #[inline(always)]
    pub fn prefetch(&self, handle: u32) {
        if let Some(record) = self.get(handle) {
            prefetch_read(record);
        }
    }

    /// Whether the record at `handle` is in use.
    #[inline]
    pub fn is_live(&self, handle: u32) -> bool {
        self.live_bits.get(handle as usize / 64).is_some_and(|word| word & 1 << (handle % 64) != 0)
    }

    /// Number of pages ever in use at once: the bound for [`live_in_page`](Self::live_in_page).
    pub fn page_count(&self) -> u32 {
        self.pages.len() as u32
    }

    /// Handles in use in one page: iteration over a slab in bounded pieces.
    pub fn live_in_page(&self, number: u32) -> impl Iterator<Item = u32> {
        (0..if number < self.page_count() { N as u32 } else { 0 })
            .map(move |slot| number << Self::SHIFT | slot)
            .filter(|&handle| self.is_live(handle))
    }

    #[inline(always)]
    fn split(handle: u32) -> (usize, usize) {
        ((handle >> Self::SHIFT) as usize, handle as usize & (N - 1))
    }

    /// Whether there is a page in every place for one.
    fn is_at_limit(&self) -> bool {
        self.absent == NONE && self.pages.len() * Self::WORDS >= self.live_bits.len()
    }

    fn grow<P: PageSource>(&mut self, source: &mut P) -> Result<(), OutOfMemory> {
        let page = source.take()?;
        let number = if self.absent == NONE {
            self.pages.push(None);
            self.meta.push(PageMeta { next: NONE, prev: NONE, taken: 0, hint: 0 });
            self.pages.len() as u32 - 1
        } else {
            let number = self.absent;
            self.absent = self.meta[number as usize].next;
            number
        };
        self.pages[number as usize] = Some(page);
        self.meta[number as usize].hint = 0;
        self.resident += 1;
        self.link(number, List::Empty);
        Ok(())
    }

    fn give_back_one<P: PageSource>(&mut self, source: &mut P) {
        let number = self.empty;
        if number == NONE {
            return;
        }
        self.unlink(number, List::Empty);
        self.meta[number as usize].next = self.absent;
        self.absent = number;
        if let Some(page) = self.pages[number as usize].take() {
            source.give_back(page);
            self.resident -= 1;
        }
    }

    /// [`alloc`](Self::alloc), with no handle that lies ready.
    #[cold]
    #[inline(never)]
    fn alloc_from_page(&mut self) -> Option<u32> {
        if self.make_ready() { self.alloc() } else { None }
    }

    /// Takes free handles from the page last given back to. False if no page has any. No handle may lie ready: what the
    /// bitmap says to be free would not be all there for the taking.
    fn make_ready(&mut self) -> bool {
        let number = if self.open != NONE { self.open } else { self.empty };
        let Some(meta) = self.meta.get_mut(number as usize) else { return false };
        let words = &self.live_bits[number as usize * Self::WORDS..][..Self::WORDS];
        let mut count = 0;
        for word in (0..Self::WORDS).map(|offset| (meta.hint as usize + offset) % Self::WORDS) {
            let mut free = !words[word];
            while free != 0 && count < READY_BATCH {
                let slot = word as u32 * 64 + free.trailing_zeros();
                self.ready[count] = number << Self::SHIFT | slot;
                free &= free - 1;
                count += 1;
            }
            if count == READY_BATCH {
                meta.hint = word as u32;
                break;
            }
        }
        self.ready[..count].reverse();
        self.ready_len = count as u32;
        self.taken += count as u32;
        let before = meta.taken;
        meta.taken += count as u32;
        let is_full = meta.taken == N as u32;
        if before == 0 {
            self.move_to(number, List::Empty, List::Open);
        }
        if is_full {
            self.unlink(number, List::Open);
        }
        count > 0
    }

    /// Puts the `count` handles that lie ready longest back to their pages.
    #[cold]
    #[inline(never)]
    fn put_back(&mut self, count: usize) {
        for index in 0..count {
            let (number, slot) = Self::split(self.ready[index]);
            let meta = &mut self.meta[number];
            meta.hint = slot as u32 / 64;
            meta.taken -= 1;
            match meta.taken {
                0 => self.move_to(number as u32, List::Open, List::Empty),
                taken if taken == N as u32 - 1 => self.link(number as u32, List::Open),
                _ => {}
            }
        }
        self.ready.copy_within(count..self.ready_len as usize, 0);
        self.ready_len -= count as u32;
        self.taken -= count as u32;
    }

    fn move_to(&mut self, number: u32, from: List, to: List) {
        self.unlink(number, from);
        self.link(number, to);
    }

    fn head(&mut self, list: List) -> &mut u32 {
        match list {
            List::Open => &mut self.open,
            List::Empty => &mut self.empty,
        }
    }

    fn link(&mut self, number: u32, list: List) {
        let head = core::mem::replace(self.head(list), number);
        self.meta[number as usize].next = head;
        self.meta[number as usize].prev = NONE;
        if head != NONE {
            self.meta[head as usize].prev = number;
        }
        self.empty_count += u32::from(list == List::Empty);
    }

    fn unlink(&mut self, number: u32, list: List) {
        let PageMeta { next, prev, .. } = self.meta[number as usize];
        if prev == NONE {
            *self.head(list) = next;
        } else {
            self.meta[prev as usize].next = next;
        }
        if next != NONE {
            self.meta[next as usize].prev = prev;
        }
        self.empty_count -= u32::from(list == List::Empty);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum List {
    Open,
    Empty,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::HeapPages;
    use hashbrown::HashMap;

    #[derive(Clone, Copy, Default, PartialEq, Debug)]
    struct Record(u64);

    #[test]
    fn random_operations_agree_with_a_map() {
        let mut source = HeapPages::new();
        let mut slab = Slab::<Record, 64>::with_limit(10_000);
        let mut model: HashMap<u32, u64> = HashMap::new();
        let mut handles = Vec::new();
        let mut random = crate::flow::table::tests::Random(7);
        for step in 0..400_000u64 {
            let shrinking = step / 20_000 % 2 == 1;
            if random.below(100) < if shrinking { 30 } else { 65 } {
                slab.reserve(&mut source, 1).unwrap();
                assert_eq!(slab.room() == 0, slab.len() == 10_048, "157 pages of 64 is the limit rounded up");
                if let Some(handle) = slab.insert(Record(step)) {
                    assert_eq!(model.insert(handle, step), None, "handed out twice");
                    handles.push(handle);
                }
            } else if !handles.is_empty() {
                let handle = handles.swap_remove(random.below(handles.len() as u64) as usize);
                assert_eq!(slab.get(handle), model.remove(&handle).map(Record).as_ref());
                assert!(slab.free(handle));
                assert!(!slab.free(handle), "freed twice");
            }
            slab.maintain(&mut source);
            assert_eq!(slab.len() as usize, model.len());
        }
        let mut live: Vec<u32> = (0..slab.page_count()).flat_map(|page| slab.live_in_page(page)).collect();
        live.sort_unstable();
        handles.sort_unstable();
        assert_eq!(live, handles);
        slab.release(&mut source);
        assert_eq!(source.bytes_taken(), 0);
    }

    #[test]
    fn last_freed_is_first_used() {
        let mut slab = Slab::<Record, 64>::with_limit(1000);
        slab.reserve(&mut HeapPages::new(), 1000).unwrap();
        let handles: Vec<u32> = (0..900).map_while(|_| slab.alloc()).collect();
        assert!(slab.free(handles[130]));
        assert_eq!(slab.alloc(), Some(handles[130]));
    }

    #[test]
    fn empty_pages_go_back_a_few_at_a_time() {
        let mut source = HeapPages::new();
        let mut slab = Slab::<Record, 64>::with_limit(64_000);
        slab.reserve(&mut source, 64_000).unwrap();
        let full = source.bytes_taken();
        slab.maintain(&mut source);
        assert_eq!(source.bytes_taken(), full - 4 * 512);
        for _ in 0..1000 {
            slab.maintain(&mut source);
        }
        assert_eq!(source.bytes_taken(), 2 * 512);
        slab.reserve(&mut source, 64_000).unwrap();
        assert_eq!(slab.room(), 64_000);
    }

    /// Handles that lie ready keep few pages, and not for long.
    #[test]
    fn pages_of_freed_records_go_back() {
        let mut source = HeapPages::new();
        let mut slab = Slab::<Record, 64>::with_limit(64_000);
        slab.reserve(&mut source, 64_000).unwrap();
        let handles: Vec<u32> = (0..64_000).map_while(|_| slab.alloc()).collect();
        assert_eq!(handles.len(), 64_000);
        // the last freed are all of different pages
        for start in 0..64 {
            assert!(handles.iter().skip(start).step_by(64).all(|&handle| slab.free(handle)));
        }
        assert_eq!((slab.len(), slab.room()), (0, 64_000));
        for _ in 0..1000 {
            slab.maintain(&mut source);
        }
        assert_eq!(source.bytes_taken(), 2 * 512);
        assert_eq!((slab.room(), (0..128).map_while(|_| slab.alloc()).count()), (128, 128));
        assert_eq!(slab.alloc(), None);
    }

    #[test]
    fn without_memory_nothing_is_allocated() {
        let mut slab = Slab::<Record, 64>::with_limit(1000);
        assert_eq!(slab.alloc(), None);
        assert_eq!(slab.reserve(&mut HeapPages::with_limit(600), 100), Err(OutOfMemory));
        assert_eq!(slab.room(), 64);
        assert!(slab.get(64).is_none() && slab.get(u32::MAX).is_none());
        assert!(!slab.free(u32::MAX));
    }
}
