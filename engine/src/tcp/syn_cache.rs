//! The SYN cache: half-open connections that a peer began, 32 octets each.
//!
//! One log for each time the SYN-ACK has been sent again, so that each log expires in order without a timer. The pages
//! for as many records as the configuration allows are taken at the start and stay, whichever log uses them: a flood
//! moves records from log to log, and finds the memory there already.

use crate::flow::Log;
use crate::page::{OutOfMemory, PageSource};

use super::RESERVE;
use super::block::SynReceived;

/// Logs: a SYN-ACK is sent again at most so often. There is a bit for each in [`SynCache::stirred`].
pub(crate) const CLASSES: usize = u8::BITS as usize;

/// Bits of a handle below the class.
const CLASS_SHIFT: u32 = 25;

/// Records in a page.
const PAGE_RECORDS: usize = 2048;

/// Records that one pass may move into a log of SYN-ACKs sent again.
const RESERVE_AGAIN: u32 = 64;

type Page = [SynReceived; PAGE_RECORDS];

/// Half-open connections by handle: `class << 25 | position`.
pub(crate) struct SynCache {
    logs: [Log<SynReceived, PAGE_RECORDS>; CLASSES],
    /// Logs that may have records or want pages, a bit each: for all others there is nothing to do between two bursts.
    stirred: u8,
    /// Records that live, in all of them.
    len: u32,
    /// Pages that no log uses.
    spare: Vec<&'static mut Page>,
    /// Pages held whatever the load.
    pages_kept: usize,
}

impl SynCache {
    /// A cache for up to `records_max`; takes no page yet.
    pub(crate) fn new(records_max: u32) -> Self {
        let limit = |class| {
            // Dead records that the front has not passed count: the first log is where handshakes complete
            let records = if class == 0 { records_max.saturating_mul(4) } else { records_max };
            Log::with_limit(records.clamp(4096, 1 << (CLASS_SHIFT - 1)))
        };
        // As many as hold all records, and one that is begun and one that is reserved in each log
        let pages_kept = (records_max as usize).div_ceil(PAGE_RECORDS) + 2 * CLASSES;
        Self {
            logs: core::array::from_fn(limit),
            stirred: u8::MAX,
            len: 0,
            spare: Vec::with_capacity(pages_kept),
            pages_kept,
        }
    }

    /// Records that live.
    #[inline]
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// Every record that lives.
    pub(crate) fn live(&self) -> impl Iterator<Item = &SynReceived> {
        self.logs.iter().flat_map(Log::live)
    }

    /// Octets held.
    pub(crate) fn bytes(&self) -> u64 {
        self.logs.iter().map(Log::bytes).sum::<u64>() + (self.spare.len() * size_of::<Page>()) as u64
    }

    /// Takes what it is to hold at all times.
    pub(crate) fn prepare<P: PageSource>(&mut self, source: &mut P) -> Result<(), OutOfMemory> {
        while self.spare.len() < self.pages_kept {
            self.spare.push(source.take()?);
        }
        self.reserve(source)
    }

    /// Makes room for what one pass may add.
    pub(crate) fn reserve<P: PageSource>(&mut self, source: &mut P) -> Result<(), OutOfMemory> {
        for class in self.classes() {
            let log = &mut self.logs[class];
            while log.is_short_of(records_ahead(class)) {
                let page = match self.spare.pop() {
                    Some(page) => page,
                    None => source.take()?,
                };
                log.extend(page);
            }
        }
        Ok(())
    }

    /// Takes back what the logs have left; what is beyond the pages to keep goes to the source.
    pub(crate) fn maintain<P: PageSource>(&mut self, source: &mut P) {
        for class in self.classes() {
            while let Some(page) = self.logs[class].take_left_page() {
                let in_use: usize = self.logs.iter().map(Log::page_count).sum();
                if in_use + self.spare.len() < self.pages_kept {
                    self.spare.push(page);
                } else {
                    source.give_back(page);
                }
            }
            let log = &self.logs[class];
            if log.is_passed() && !log.is_short_of(records_ahead(class)) {
                self.stirred &= !(1 << class);
            }
        }
    }

    /// Gives every page back.
    pub(crate) fn release<P: PageSource>(&mut self, source: &mut P) {
        self.spare.drain(..).for_each(|page| source.give_back(page));
        self.logs.iter_mut().for_each(|log| log.release(source));
        (self.stirred, self.len) = (u8::MAX, 0);
    }

    /// The logs that there may be records in: the first, in which most are, and most often no other.
    #[inline]
    pub(crate) fn classes(&self) -> impl Iterator<Item = usize> + use<> {
        let mut rest = self.stirred | 1;
        core::iter::from_fn(move || {
            let class = (rest != 0).then(|| rest.trailing_zeros() as usize);
            rest &= rest.wrapping_sub(1);
            class
        })
    }

    /// Keeps a record whose SYN-ACK is sent for the first time.
    #[inline]
    pub(crate) fn push(&mut self, record: SynReceived) -> Option<u32> {
        let handle = self.logs[0].push(record)?;
        self.len += 1;
        Some(handle)
    }

    /// The record at `handle`.
    #[inline]
    pub(crate) fn get(&self, handle: u32) -> Option<&SynReceived> {
        let (class, position) = split(handle);
        self.logs[class].get(position)
    }

    /// Asks for the record's cache line.
    #[inline]
    pub(crate) fn prefetch(&self, handle: u32) {
        let (class, position) = split(handle);
        self.logs[class].prefetch(position);
    }

    /// Ends a record's life.
    #[inline]
    pub(crate) fn kill(&mut self, handle: u32) {
        let (class, position) = split(handle);
        self.len -= u32::from(self.logs[class].kill(position));
    }

    /// The record whose SYN-ACK has been sent again `class` times and that waits longest, and its handle.
    #[inline]
    pub(crate) fn oldest(&mut self, class: usize) -> Option<(u32, &SynReceived)> {
        let (position, record) = self.logs[class].front()?;
        Some((join(class, position), record))
    }

    /// Puts `record` in the place of `handle`, among those sent once more. `None`, and nothing is done, if there is no
    /// room, or no such log.
    pub(crate) fn again(&mut self, handle: u32, record: SynReceived) -> Option<u32> {
        let class = split(handle).0 + 1;
        let position = self.logs.get_mut(class)?.push(record)?;
        self.stirred |= 1 << class;
        self.len += 1;
        self.kill(handle);
        Some(join(class, position))
    }
}

/// Records that one pass may add to a log.
fn records_ahead(class: usize) -> u32 {
    if class == 0 { RESERVE } else { RESERVE_AGAIN }
}

fn split(handle: u32) -> (usize, u32) {
    ((handle >> CLASS_SHIFT) as usize % CLASSES, handle & ((1 << CLASS_SHIFT) - 1))
}

fn join(class: usize, position: u32) -> u32 {
    (class as u32) << CLASS_SHIFT | position
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::HeapPages;

    /// As many records as are allowed come, grow old in every log, and go: the memory stays what it was.
    #[test]
    fn a_full_cache_takes_no_page_that_it_did_not_have() {
        const RECORDS: u32 = 40_000;
        let mut source = HeapPages::new();
        let mut cache = SynCache::new(RECORDS);
        cache.prepare(&mut source).unwrap();
        let taken = source.bytes_taken();
        let turn = |cache: &mut SynCache, source: &mut HeapPages| {
            cache.maintain(source);
            cache.reserve(source).unwrap();
            assert_eq!(source.bytes_taken(), taken);
        };
        for _ in 0..3 {
            for _ in 0..RECORDS {
                assert!(cache.push(SynReceived::default()).is_some());
                turn(&mut cache, &mut source);
            }
            for class in 0..CLASSES {
                while let Some((handle, &record)) = cache.oldest(class) {
                    let moved = cache.again(handle, record);
                    assert_eq!(moved.is_some(), class + 1 < CLASSES);
                    if moved.is_none() {
                        cache.kill(handle);
                    }
                    turn(&mut cache, &mut source);
                }
            }
            assert_eq!(cache.len(), 0);
        }
        cache.release(&mut source);
        assert_eq!(source.bytes_taken(), 0);
    }
}
