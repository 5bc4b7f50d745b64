//! Prefetch hints: the one module of the engine with unsafe code in it.
//!
//! A lookup in a table of millions of flows misses every cache; a burst of them overlaps its misses if all the
//! addresses are announced before the first is used. What another core wrote and this one will write over is asked for to be
//! written: whoever asks to read first has to ask again, and the writes wait for it.
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

/// Asks for `LINES` cache lines from `start` on, as lines that this core will write: no other keeps a copy of them, which a write
/// would have to wait for. Does nothing where that cannot be asked for.
#[inline(always)]
pub fn prefetch_write<const LINES: usize, T>(start: *const T) {
    #[cfg(target_arch = "x86_64")]
    for line in 0..LINES {
        let place = start.wrapping_byte_add(64 * line);
        // SAFETY: PREFETCHW is a hint like the one above, whatever the address. It is not in the baseline, but processors of
        // 64 bits without it take it for no operation.
        unsafe {
            core::arch::asm!("prefetchw [{}]", in(reg) place, options(nostack, preserves_flags, readonly));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = start;
}
