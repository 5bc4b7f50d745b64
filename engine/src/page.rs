//! Memory in pages.
//!
//! Tables grow a page at a time, between two bursts, and give pages back when they are empty. Where a page comes from
//! is the driver's business: behind the fence pages are mapped from huge pages, here they come from the heap.

use core::any::{Any, TypeId};
use std::sync::{LazyLock, Mutex, PoisonError};

use hashbrown::HashMap;

/// There is no memory for another page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

/// Gives pages of `N` values, each `T::default()`, and takes them back.
///
/// A page is an exclusive reference without an end: whoever took it owns it until it is given back. A container that
/// is dropped with pages in it loses them for the life of the process, so every container has a `release`.
pub trait PageSource {
    /// A page of `N` default values.
    ///
    /// # Errors
    /// [`OutOfMemory`] if the limit of this source is reached. The caller refuses what it was about to do and counts.
    fn take<T: Copy + Default + Send + 'static, const N: usize>(&mut self) -> Result<&'static mut [T; N], OutOfMemory>;

    /// Takes a page back.
    fn give_back<T: Copy + Default + Send + 'static, const N: usize>(&mut self, page: &'static mut [T; N]);

    /// Octets out at present.
    fn bytes_taken(&self) -> u64;
}

/// Pages that came back, for any [`HeapPages`] to reuse: one `Vec<&'static mut [T; N]>` for each page type.
///
/// A leaked page cannot be freed without unsafe code, so it must outlive the source that leaked it: a simulation that
/// builds a worker per seed would otherwise lose every worker's memory.
static IDLE: LazyLock<Mutex<HashMap<TypeId, Box<dyn Any + Send>>>> = LazyLock::new(Mutex::default);

/// Pages from the heap. Those that come back are kept, process-wide, for the next source that asks for their type.
///
/// Takes a lock for each page: growth happens between polls, never on the data path. A fresh page is touched here, so
/// its page faults are paid in `take`: 1 to 10 us for each 4 KiB on a virtual machine, which is most of what growth costs.
/// Where that matters, reserve ahead or use a source of huge pages.
#[derive(Debug, Default)]
pub struct HeapPages {
    bytes_taken: u64,
    bytes_max: Option<u64>,
}

impl HeapPages {
    /// A source without a limit of its own.
    pub fn new() -> Self {
        Self::default()
    }

    /// A source that refuses to have more than `bytes_max` octets out.
    pub fn with_limit(bytes_max: u64) -> Self {
        Self { bytes_max: Some(bytes_max), ..Self::default() }
    }
}

impl PageSource for HeapPages {
    fn take<T: Copy + Default + Send + 'static, const N: usize>(&mut self) -> Result<&'static mut [T; N], OutOfMemory> {
        let bytes_taken = self.bytes_taken + size_of::<[T; N]>() as u64;
        if self.bytes_max.is_some_and(|max| bytes_taken > max) {
            return Err(OutOfMemory);
        }
        let page = match with_idle(Vec::pop) {
            Some(page) => {
                page.fill(T::default());
                page
            }
            None => leak_page()?,
        };
        self.bytes_taken = bytes_taken;
        Ok(page)
    }

    fn give_back<T: Copy + Default + Send + 'static, const N: usize>(&mut self, page: &'static mut [T; N]) {
        self.bytes_taken = self.bytes_taken.saturating_sub(size_of::<[T; N]>() as u64);
        with_idle(|idle| idle.push(page));
    }

    fn bytes_taken(&self) -> u64 {
        self.bytes_taken
    }
}

/// Runs `f` on the idle pages of one type.
fn with_idle<T: Send + 'static, const N: usize, R>(f: impl FnOnce(&mut Vec<&'static mut [T; N]>) -> R) -> R {
    let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
    let pages = idle
        .entry(TypeId::of::<[T; N]>())
        .or_insert_with(|| Box::new(Vec::<&'static mut [T; N]>::new()))
        .downcast_mut()
        .expect("the entry's key is the type of its pages");
    f(pages)
}

/// A new page, built in place: it may be larger than the stack.
fn leak_page<T: Copy + Default, const N: usize>() -> Result<&'static mut [T; N], OutOfMemory> {
    let mut values = Vec::new();
    values.try_reserve_exact(N).map_err(|_| OutOfMemory)?;
    values.resize(N, T::default());
    let page: Box<[T; N]> = values.into_boxed_slice().try_into().map_err(|_| OutOfMemory)?;
    Ok(Box::leak(page))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Default, Debug, PartialEq)]
    struct Mine(u64);

    #[test]
    fn a_page_that_came_back_is_reused_and_clean() {
        let mut first = HeapPages::new();
        let page = first.take::<Mine, 64>().unwrap();
        let address = page.as_ptr();
        page[63] = Mine(7);
        assert_eq!(first.bytes_taken(), 512);
        first.give_back(page);
        assert_eq!(first.bytes_taken(), 0);

        let page = HeapPages::new().take::<Mine, 64>().unwrap();
        assert_eq!(page.as_ptr(), address);
        assert_eq!(page[63], Mine(0));
    }

    #[test]
    fn the_limit_refuses_and_a_return_makes_room() {
        let mut pages = HeapPages::with_limit(1024);
        let a = pages.take::<[u8; 10], 64>().unwrap();
        assert_eq!(pages.take::<[u8; 10], 64>().map(|_| ()), Err(OutOfMemory));
        pages.give_back(a);
        assert!(pages.take::<[u8; 10], 64>().is_ok());
    }

    #[test]
    fn a_page_larger_than_the_stack() {
        let page = HeapPages::new().take::<[u64; 8], { 1 << 18 }>().unwrap();
        assert_eq!(page[(1 << 18) - 1], [0; 8]);
    }
}
