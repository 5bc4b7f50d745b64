//! Prefetch hints: the one module of the engine with unsafe code in it.
//!
//! A lookup in a table of millions of flows misses every cache; a burst of them overlaps its misses if all the
//! addresses are announced before the first is used.
#![allow(unsafe_code)]

/// Asks for the cache line at the start of `value`. Does nothing where the target has no stable intrinsic for it.
#[inline(always)]
pub fn prefetch_read<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: PREFETCHT0 is in the x86_64 baseline (SSE). It is a hint: it neither faults nor changes memory that
        // the program can observe, whatever the address, and this address comes from a live reference.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(value).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
