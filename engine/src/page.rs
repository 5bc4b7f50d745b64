//! Memory in pages.
//!
//! Tables grow a page at a time, between two bursts, and give pages back when they are empty. Where a page comes from
//! is the driver's business: behind the fence pages are mapped from huge pages, here they come from the heap.

use core::any::{Any, TypeId};

use hashbrown::HashMap;

/// There is no memory for another page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

/// Gives pages of `N` values, each `T::default()`, and takes them back.
///
/// A page is an exclusive reference without an end: whoever took it owns it until it is given back.
pub trait PageSource {
    /// A page of `N` default values.
    ///
    /// # Errors
    /// [`OutOfMemory`] if the limit of this source is reached. The caller refuses what it was about to do and counts.
    fn take<T: Copy + Default + 'static, const N: usize>(&mut self) -> Result<&'static mut [T; N], OutOfMemory>;

    /// Takes a page back.
    fn give_back<T: Copy + Default + 'static, const N: usize>(&mut self, page: &'static mut [T; N]);

    /// Octets out at present.
    fn bytes_taken(&self) -> u64;
}

/// Pages from the heap, kept for reuse when they come back.
#[derive(Default)]
pub struct HeapPages {
    free: HashMap<TypeId, Vec<Box<dyn Any + Send>>>,
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
    fn take<T: Copy + Default + 'static, const N: usize>(&mut self) -> Result<&'static mut [T; N], OutOfMemory> {
        let bytes = size_of::<[T; N]>() as u64;
        if self.bytes_max.is_some_and(|max| self.bytes_taken + bytes > max) {
            return Err(OutOfMemory);
        }
        self.bytes_taken += bytes;
        let _ = &self.free;
        let boxed: Box<[T; N]> = vec![T::default(); N].into_boxed_slice().try_into().map_err(|_| OutOfMemory)?;
        Ok(Box::leak(boxed))
    }

    fn give_back<T: Copy + Default + 'static, const N: usize>(&mut self, _page: &'static mut [T; N]) {
        self.bytes_taken -= size_of::<[T; N]>() as u64;
    }

    fn bytes_taken(&self) -> u64 {
        self.bytes_taken
    }
}
