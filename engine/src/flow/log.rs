//! Records that are written in order and expire in order.

use crate::page::{OutOfMemory, PageSource};
use crate::prefetch::prefetch_read;

/// Words of the bitmap that one [`Log::front`] looks at: 4,096 records.
const SKIP_WORDS_MAX: usize = 64;

/// Pages moved in one [`Log::maintain`].
const RETURNS_PER_CALL: u32 = 4;

/// A first-in-first-out store: TIME-WAIT or SYN-RECEIVED records of one class, which all live equally long, so that
/// the oldest is always the next to expire and needs no timer.
///
/// Records are found by handle and may die early, in any order; the space comes back when the front passes it. A
/// handle is a position modulo [`handle_span`](Self::handle_span), a power of two up to 2²⁸: who keeps several logs
/// can put the class above it. Pages hold `N` records (a power of two, at least 64).
#[derive(Debug)]
pub struct Log<T: 'static, const N: usize> {
    /// A ring of pages, indexed by page number modulo its length, a power of two.
    ring: Vec<Option<&'static mut [T; N]>>,
    /// A bit per position of the ring, set while the record lives. Untouched words cost no memory.
    live_bits: Vec<u64>,
    /// Page number of the oldest page that is still held.
    held_from: u64,
    /// Position of the oldest record that may live.
    front: u64,
    /// Position of the next record.
    back: u64,
    /// Position after the last record there is a page for.
    end: u64,
    /// Position after the last record that may be pushed as things are: the end, or so many beyond the front as there may be.
    limit: u64,
    positions_max: u64,
    len: u32,
}

impl<T: Copy + Default + Send + 'static, const N: usize> Log<T, N> {
    const SHIFT: u32 = {
        assert!(N.is_power_of_two() && N >= 64, "a page is a power of two of records, at least 64");
        N.trailing_zeros()
    };

    /// An empty log for up to `records_max` records (at most 2²⁷), dead ones that the front has not passed included.
    /// Takes no page yet.
    pub fn with_limit(records_max: u32) -> Self {
        let positions_max = u64::from(records_max.min(1 << 27));
        let pages = (positions_max.div_ceil(N as u64) + 2).next_power_of_two() as usize;
        Self {
            ring: core::iter::repeat_with(|| None).take(pages).collect(),
            live_bits: vec![0; pages * N / 64],
            held_from: 0,
            front: 0,
            back: 0,
            end: 0,
            limit: 0,
            positions_max,
            len: 0,
        }
    }

    /// Handles are below this power of two.
    pub fn handle_span(&self) -> u32 {
        (self.ring.len() * N) as u32
    }

    /// Records that live.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether no record lives.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Records that can be pushed without growing.
    pub fn room(&self) -> u32 {
        (self.limit - self.back) as u32
    }

    /// Octets held: pages, their liveness bits, and the ring of pointers.
    pub fn bytes(&self) -> u64 {
        self.page_count() as u64 * (size_of::<[T; N]>() + N / 8) as u64
            + (self.ring.len() * size_of::<Option<&T>>()) as u64
    }

    /// Makes pages ready for `count` more records, or as many as the limit given at creation leaves, those that the front
    /// has left first. Call it between polls.
    ///
    /// # Errors
    /// [`OutOfMemory`] if the source refuses; what was taken stays.
    pub fn reserve<P: PageSource>(&mut self, source: &mut P, count: u32) -> Result<(), OutOfMemory> {
        while self.is_short_of(count) {
            let page = match self.take_left_page() {
                Some(page) => page,
                None => source.take()?,
            };
            self.extend(page);
        }
        Ok(())
    }

    /// Whether there are pages for fewer than `count` more records, or as many as the limit leaves.
    #[inline]
    pub fn is_short_of(&self, count: u32) -> bool {
        self.end - self.back < u64::from(count).min(self.positions_max - (self.back - self.front))
    }

    /// Adds a page for further records, for who keeps pages for several logs. Only while the log
    /// [is short](Self::is_short_of) of some.
    pub fn extend(&mut self, page: &'static mut [T; N]) {
        let slot = self.ring_index(self.end);
        self.ring[slot] = Some(page);
        self.end += N as u64;
        self.set_limit();
    }

    #[inline]
    fn set_limit(&mut self) {
        self.limit = self.end.min(self.front + self.positions_max);
    }

    /// Whether the front has passed every record there ever was.
    #[inline]
    pub fn is_passed(&self) -> bool {
        self.front == self.back
    }

    /// Pages held.
    pub fn page_count(&self) -> usize {
        ((self.end >> Self::SHIFT) - self.held_from) as usize
    }

    /// Gives back a few of the pages that the front has left. Call it between polls.
    pub fn maintain<P: PageSource>(&mut self, source: &mut P) {
        for _ in 0..RETURNS_PER_CALL {
            match self.take_left_page() {
                Some(page) => source.give_back(page),
                None => return,
            }
        }
    }

    /// Gives back every page; all handles become invalid.
    pub fn release<P: PageSource>(&mut self, source: &mut P) {
        for page in self.ring.iter_mut().filter_map(Option::take) {
            source.give_back(page);
        }
        self.live_bits.fill(0);
        (self.held_from, self.front, self.back, self.end, self.limit, self.len) = (0, 0, 0, 0, 0, 0);
    }

    /// Appends a record. `None` if there is no room: `reserve` was not called or was refused.
    #[inline]
    pub fn push(&mut self, record: T) -> Option<u32> {
        if self.back >= self.limit {
            return None;
        }
        let handle = self.handle(self.back);
        *self.get_mut(handle)? = record;
        self.live_bits[handle as usize / 64] |= 1 << (handle % 64);
        self.back += 1;
        self.len += 1;
        Some(handle)
    }

    /// The record at `handle`, `None` if there is no page. Whether it lives is not checked.
    #[inline(always)]
    pub fn get(&self, handle: u32) -> Option<&T> {
        match self.ring.get((handle >> Self::SHIFT) as usize) {
            Some(Some(page)) => Some(&page[handle as usize & (N - 1)]),
            _ => None,
        }
    }

    /// The record at `handle`, `None` if there is no page. Whether it lives is not checked.
    #[inline(always)]
    pub fn get_mut(&mut self, handle: u32) -> Option<&mut T> {
        match self.ring.get_mut((handle >> Self::SHIFT) as usize) {
            Some(Some(page)) => Some(&mut page[handle as usize & (N - 1)]),
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

    /// Whether the record at `handle` lives.
    #[inline]
    pub fn is_live(&self, handle: u32) -> bool {
        self.live_bits.get(handle as usize / 64).is_some_and(|word| word & 1 << (handle % 64) != 0)
    }

    /// Every record that lives, the oldest first.
    pub fn live(&self) -> impl Iterator<Item = &T> {
        let positions = self.front..self.back;
        positions
            .map(|at| (at % u64::from(self.handle_span())) as u32)
            .filter(|&at| self.is_live(at))
            .filter_map(|at| self.get(at))
    }

    /// Ends a record's life. Returns false, and does nothing, if it did not live.
    #[inline]
    pub fn kill(&mut self, handle: u32) -> bool {
        let bit = 1 << (handle % 64);
        match self.live_bits.get_mut(handle as usize / 64) {
            Some(word) if *word & bit != 0 => *word ^= bit,
            _ => return false,
        }
        self.len -= 1;
        true
    }

    /// The oldest record that lives. Skips at most some 4,000 dead ones: `None` may mean that there are more of them,
    /// and the next call goes on.
    pub fn front(&mut self) -> Option<(u32, &T)> {
        let handle = self.skip_dead()?;
        self.get(handle).map(|record| (handle, record))
    }

    /// Takes the oldest record that lives; otherwise as [`front`](Self::front).
    pub fn pop_front(&mut self) -> Option<(u32, T)> {
        let handle = self.skip_dead()?;
        let record = *self.get(handle)?;
        self.kill(handle);
        self.front += 1;
        self.set_limit();
        Some((handle, record))
    }

    fn skip_dead(&mut self) -> Option<u32> {
        let front = self.skip_some_dead();
        self.set_limit();
        front
    }

    #[inline(always)]
    fn skip_some_dead(&mut self) -> Option<u32> {
        for _ in 0..SKIP_WORDS_MAX {
            if self.front == self.back {
                return None;
            }
            let handle = self.handle(self.front);
            let rest = self.live_bits[handle as usize / 64] >> (handle % 64);
            if rest != 0 {
                self.front += u64::from(rest.trailing_zeros());
                return Some(self.handle(self.front));
            }
            self.front = (self.front | 63).saturating_add(1).min(self.back);
        }
        None
    }

    #[inline(always)]
    fn handle(&self, position: u64) -> u32 {
        (position & (self.ring.len() * N - 1) as u64) as u32
    }

    fn ring_index(&self, position: u64) -> usize {
        (position >> Self::SHIFT) as usize & (self.ring.len() - 1)
    }

    /// The oldest page, if no record from the front on is in it.
    pub fn take_left_page(&mut self) -> Option<&'static mut [T; N]> {
        if self.held_from >= self.front >> Self::SHIFT {
            return None;
        }
        let slot = self.ring_index(self.held_from << Self::SHIFT);
        self.held_from += 1;
        self.ring[slot].take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::HeapPages;
    use std::collections::VecDeque;

    #[test]
    fn random_operations_agree_with_a_queue() {
        let mut source = HeapPages::new();
        let mut log = Log::<u64, 64>::with_limit(300);
        let mut model: VecDeque<(u32, u64)> = VecDeque::new();
        let mut random = crate::flow::table::tests::Random(11);
        let mut refused = 0;
        for step in 0..500_000u64 {
            let draining = step / 5_000 % 2 == 1;
            match random.below(100) {
                0..50 if !draining => {
                    log.reserve(&mut source, 1).unwrap();
                    match log.push(step) {
                        Some(handle) => model.push_back((handle, step)),
                        None => refused += 1,
                    }
                }
                50..70 if !model.is_empty() => {
                    let (handle, value) = model.remove(random.below(model.len() as u64) as usize).unwrap();
                    assert_eq!(log.get(handle), Some(&value));
                    assert!(log.kill(handle) && !log.kill(handle));
                }
                70..90 => {
                    assert_eq!(log.front().map(|(handle, value)| (handle, *value)), model.front().copied());
                    assert_eq!(log.pop_front(), model.pop_front());
                }
                _ => log.maintain(&mut source),
            }
            assert_eq!(log.len() as usize, model.len());
            assert!(source.bytes_taken() <= (300 / 64 + 5) * 512);
        }
        assert!(refused > 0, "the limit was never reached");
        log.release(&mut source);
        assert_eq!(source.bytes_taken(), 0);
    }

    #[test]
    fn a_run_of_dead_records_is_skipped_in_bounded_steps() {
        let mut log = Log::<u64, 1024>::with_limit(100_000);
        log.reserve(&mut HeapPages::new(), 100_000).unwrap();
        let handles: Vec<u32> = (0..100_000).map_while(|value| log.push(value)).collect();
        assert_eq!(log.push(0), None);
        for &handle in &handles[..99_999] {
            log.kill(handle);
        }
        let calls = (0..).take_while(|_| log.front().is_none()).count();
        assert_eq!(calls, 99_999 / 4_096);
        assert_eq!(log.pop_front(), Some((handles[99_999], 99_999)));
        assert!(log.is_empty());
    }

    #[test]
    fn unknown_handles_are_refused() {
        let mut log = Log::<u64, 64>::with_limit(100);
        assert!(log.get(5).is_none() && log.get(u32::MAX).is_none());
        assert!(!log.kill(u32::MAX) && !log.is_live(3));
        assert_eq!((log.push(1), log.pop_front()), (None, None));
    }
}
