//! Timeouts without a timer per connection.
//!
//! All waits of a kind have the same timeout, so their deadlines come in the order in which they began: a queue will
//! do. It is cut into epochs of about 1/64 of the timeout. Each counts the waits that began in it and still last; when
//! none does, its entries are dropped unread, so that in a healthy run the queue is as long as an epoch, and
//! an end costs a decrement. An entry whose wait has ended meanwhile is told by its stamp.

use core::time::Duration;

use syncline_engine::app::ConnId;

const EPOCHS: usize = 128;
const CHUNK: usize = 1_024;
const NONE: u32 = u32::MAX;

/// A wait that began: whose, and when, in microseconds modulo 2³².
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wait {
    pub(super) id: u32,
    pub(super) stamp: u32,
}

#[derive(Debug)]
struct Chunk {
    waits: [Wait; CHUNK],
    len: u32,
    next: u32,
}

#[derive(Clone, Copy, Debug)]
struct Epoch {
    /// Waits that began in it and last.
    lasting: u32,
    head: u32,
    tail: u32,
    /// Entries of the head chunk that have been read.
    read: u32,
}

const EMPTY: Epoch = Epoch { lasting: 0, head: NONE, tail: NONE, read: 0 };

/// The deadlines of one kind of wait.
#[derive(Debug)]
pub(super) struct Deadlines {
    timeout_us: u32,
    /// An epoch lasts 2^`shift` microseconds.
    shift: u32,
    epochs: Box<[Epoch; EPOCHS]>,
    /// The epoch that the latest wait began in, not wrapped.
    current: u32,
    /// No entry is older than this epoch.
    oldest: u32,
    chunks: Vec<Box<Chunk>>,
    free: u32,
}

/// The longest timeout: well within what 32 bits of microseconds tell apart.
pub(super) const TIMEOUT_MAX: Duration = Duration::from_secs(1_800);

impl Deadlines {
    /// Deadlines `timeout` after the beginning, of which more than [`TIMEOUT_MAX`] are not told apart.
    pub(super) fn new(timeout: Duration) -> Self {
        let timeout_us = timeout.min(TIMEOUT_MAX).as_micros().max(1) as u32;
        let shift = (timeout_us / 64).max(1).next_power_of_two().trailing_zeros();
        Self {
            timeout_us,
            shift,
            epochs: Box::new([EMPTY; EPOCHS]),
            current: 0,
            oldest: 0,
            chunks: Vec::new(),
            free: NONE,
        }
    }

    #[inline]
    fn index(&self, stamp: u32) -> usize {
        (stamp >> self.shift) as usize % EPOCHS
    }

    /// A wait begins at `stamp`, which is the present time.
    #[inline]
    pub(super) fn begin(&mut self, id: ConnId, stamp: u32) {
        let number = stamp >> self.shift;
        let epoch = &mut self.epochs[number as usize % EPOCHS];
        if number == self.current
            && let Some(chunk) = self.chunks.get_mut(epoch.tail as usize)
            && let Some(place) = chunk.waits.get_mut(chunk.len as usize)
        {
            *place = Wait { id: id.0, stamp };
            chunk.len += 1;
            epoch.lasting += 1;
        } else {
            self.begin_chunk(id, stamp);
        }
    }

    /// A wait begins that is the first of its epoch, or for which there is no more room in the last chunk.
    #[cold]
    #[inline(never)]
    fn begin_chunk(&mut self, id: ConnId, stamp: u32) {
        let number = stamp >> self.shift;
        if number != self.current {
            self.turn(number);
        }
        let index = self.index(stamp);
        let tail = self.append(index);
        let chunk = &mut *self.chunks[tail as usize];
        (chunk.waits[0], chunk.len) = (Wait { id: id.0, stamp }, 1);
        self.epochs[index].lasting += 1;
    }

    /// A wait that began at `stamp` has ended, one way or the other.
    #[inline]
    pub(super) fn end(&mut self, stamp: u32) {
        let number = stamp >> self.shift;
        let epoch = &mut self.epochs[number as usize % EPOCHS];
        epoch.lasting -= 1;
        if epoch.lasting == 0 && number != self.current {
            self.clear(number as usize % EPOCHS);
        }
    }

    /// The next wait whose time is up at `now_us`. It may have ended: compare its stamp with the connection's.
    pub(super) fn expired(&mut self, now_us: u32) -> Option<Wait> {
        loop {
            let index = self.oldest as usize % EPOCHS;
            let Epoch { lasting, head, read, .. } = self.epochs[index];
            if lasting == 0 || head == NONE {
                if self.oldest == self.current {
                    return None;
                }
                self.clear(index);
                self.oldest = self.oldest.wrapping_add(1) & (u32::MAX >> self.shift);
                continue;
            }
            let chunk = &self.chunks[head as usize];
            if read == chunk.len {
                if chunk.next == NONE {
                    // All read, yet some last: they expired and are being ended by the caller.
                    return None;
                }
                self.epochs[index].head = chunk.next;
                self.epochs[index].read = 0;
                self.recycle(head, head);
                continue;
            }
            let wait = chunk.waits[read as usize];
            if now_us.wrapping_sub(wait.stamp) < self.timeout_us {
                return None;
            }
            self.epochs[index].read += 1;
            return Some(wait);
        }
    }

    /// Microseconds from `now_us` until the oldest wait is up, after [`expired`](Self::expired) found none. Early if
    /// that wait has ended; `None` if there is none.
    pub(super) fn next_in(&self, now_us: u32) -> Option<u32> {
        let Epoch { lasting, head, read, .. } = self.epochs[self.oldest as usize % EPOCHS];
        let wait = self.chunks.get(head as usize).filter(|chunk| lasting > 0 && read < chunk.len)?.waits[read as usize];
        Some(self.timeout_us.saturating_sub(now_us.wrapping_sub(wait.stamp)))
    }

    fn turn(&mut self, epoch: u32) {
        let before = self.current as usize % EPOCHS;
        if self.epochs[before].lasting == 0 {
            self.clear(before);
        }
        self.current = epoch;
    }

    fn append(&mut self, index: usize) -> u32 {
        let chunk = if self.free == NONE {
            self.chunks.push(Box::new(Chunk { waits: [Wait::default(); CHUNK], len: 0, next: NONE }));
            self.chunks.len() as u32 - 1
        } else {
            let chunk = self.free;
            self.free = self.chunks[chunk as usize].next;
            chunk
        };
        (self.chunks[chunk as usize].len, self.chunks[chunk as usize].next) = (0, NONE);
        match self.epochs[index].tail {
            NONE => self.epochs[index].head = chunk,
            tail => self.chunks[tail as usize].next = chunk,
        }
        self.epochs[index].tail = chunk;
        chunk
    }

    #[cold]
    #[inline(never)]
    fn clear(&mut self, index: usize) {
        let Epoch { head, tail, lasting, .. } = self.epochs[index];
        if head != NONE {
            self.recycle(head, tail);
        }
        self.epochs[index] = Epoch { lasting, ..EMPTY };
    }

    fn recycle(&mut self, head: u32, tail: u32) {
        self.chunks[tail as usize].next = self.free;
        self.free = head;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// The oracle keeps every wait; stamps are chosen so that the clock wraps on the way.
    #[test]
    fn agrees_with_a_map_across_the_wrap_of_the_clock() {
        let timeout = Duration::from_millis(10);
        let mut deadlines = Deadlines::new(timeout);
        let mut lasting = BTreeMap::new();
        let (mut expired, mut random) = (0, 1u64);
        let origin = u64::from(u32::MAX) - 400_000;
        for step in 0..40_000u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let now = origin + step * 20;
            if step < 39_000 {
                deadlines.begin(ConnId(step as u32), now as u32);
                lasting.insert(step as u32, now);
            }
            if random >> 40 & 7 < 6
                && let Some((&id, &began)) = lasting.iter().nth((random >> 50) as usize % lasting.len().max(1))
            {
                deadlines.end(began as u32);
                lasting.remove(&id);
            }
            while let Some(wait) = deadlines.expired(now as u32) {
                if let Some(began) = lasting.remove(&wait.id) {
                    assert_eq!(began as u32, wait.stamp);
                    assert!(now - began >= 10_000 && now - began < 10_020);
                    deadlines.end(wait.stamp);
                    expired += 1;
                }
            }
            assert!(lasting.values().all(|began| now - began < 10_000));
        }
        assert!(lasting.is_empty() && expired > 1_000);
    }

    #[test]
    fn a_healthy_run_holds_an_epoch_of_entries() {
        let mut deadlines = Deadlines::new(Duration::from_secs(10));
        for step in 0..5_000_000u32 {
            let now = step.wrapping_mul(4);
            deadlines.begin(ConnId(step), now);
            deadlines.end(now);
            assert_eq!(deadlines.expired(now), None);
        }
        let epoch_waits = (1usize << deadlines.shift) / 4;
        assert!(deadlines.chunks.len() <= 2 * epoch_waits.div_ceil(CHUNK) + 1, "{}", deadlines.chunks.len());
    }
}
