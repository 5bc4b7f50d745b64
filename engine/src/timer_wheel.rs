//! A hierarchical timing wheel with a tick of 1 ms, its lists threaded through the records it times.
//!
//! ```text
//!  level   slot is    reaches             64 slots each, a bit of `occupied` for each slot
//!    0       1 ms      64 ms
//!    1      64 ms       4 s
//!    2       4 s        4 min
//!    3       4 min      4.7 h
//!    4     4.7 h       12 days
//!    5      12 days   2³² ms              only 4 slots, used in a circle
//! ```
//!
//! A timer lies on the level of the highest six-bit digit in which its deadline differs from the wheel's time, in the
//! slot that digit names. When time reaches a slot above level 0, its timers move down.
//!
//! Times are milliseconds modulo 2³², as [`Instant::millis32`](crate::time::Instant::millis32) gives them.

/// No record.
const NONE: u32 = u32::MAX;

const LEVELS: usize = 6;
const DIGIT_BITS: u32 = 6;
const SLOTS: usize = 1 << DIGIT_BITS;

/// Slots of the highest level: 2³² ms are 4 of its 2³⁰.
const TOP_SLOTS: u32 = 4;

/// The deadline furthest ahead of the present that can be told from one in the past.
pub const HORIZON_MS: u32 = i32::MAX as u32;

/// A record's place on the wheel: keep one in each record that can have a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    next: u32,
    /// The record before, or `NONE` at the head of a slot.
    prev: u32,
    deadline_ms: u32,
    slot: u16,
}

const _: () = assert!(size_of::<Link>() == 16);

/// `Link::slot` of a record that has no timer.
const UNSCHEDULED: u16 = u16::MAX;

impl Default for Link {
    fn default() -> Self {
        Self { next: NONE, prev: NONE, deadline_ms: 0, slot: UNSCHEDULED }
    }
}

impl Link {
    /// Gives the timer a later deadline, or the same. False, and nothing is done, if it does not run or would have to
    /// fire earlier: that takes [`TimerWheel::schedule`].
    #[inline]
    pub fn put_off(&mut self, deadline_ms: u32) -> bool {
        let possible = self.slot != UNSCHEDULED && !is_before(deadline_ms, self.deadline_ms);
        if possible {
            self.deadline_ms = deadline_ms;
        }
        possible
    }

    /// The deadline, if the timer runs.
    pub fn deadline_ms(&self) -> Option<u32> {
        (self.slot != UNSCHEDULED).then_some(self.deadline_ms)
    }
}

/// The records that have timers, by the identities the wheel was given.
///
/// A record that is scheduled must stay where it is until its timer is cancelled or has fired.
pub trait Links {
    /// The link of record `id`.
    fn link(&self, id: u32) -> &Link;

    /// The link of record `id`.
    fn link_mut(&mut self, id: u32) -> &mut Link;
}

/// The wheel: see the [module](self).
#[derive(Clone, Debug)]
pub struct TimerWheel {
    /// The first record of each slot, level after level.
    heads: [u32; SLOTS * LEVELS],
    occupied: [u64; LEVELS],
    /// All slots before this time are done.
    time_ms: u32,
    len: u32,
}

impl TimerWheel {
    /// An empty wheel at `now_ms`.
    pub fn new(now_ms: u32) -> Self {
        Self { heads: [NONE; SLOTS * LEVELS], occupied: [0; LEVELS], time_ms: now_ms, len: 0 }
    }

    /// Timers running.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether no timer runs.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Starts the timer of `id`, or gives it a new deadline: at most [`HORIZON_MS`] ahead; one in the past fires next.
    ///
    /// A deadline after the time at which the timer is looked at anyway is only written down: a timer that is put off by
    /// every acknowledgment costs a store each time.
    #[inline]
    pub fn schedule(&mut self, links: &mut impl Links, id: u32, deadline_ms: u32) {
        if !links.link_mut(id).put_off(deadline_ms) {
            self.start(links, id, deadline_ms);
        }
    }

    /// [`schedule`](Self::schedule) of a deadline that [`Link::put_off`] has refused.
    #[inline(never)]
    pub fn start(&mut self, links: &mut impl Links, id: u32, deadline_ms: u32) {
        let link = links.link_mut(id);
        if link.slot != UNSCHEDULED && !is_before(deadline_ms, self.look_ms(link.slot)) {
            // it had been put off, and is looked at early enough all the same
            link.deadline_ms = deadline_ms;
            return;
        }
        self.put(links, id, deadline_ms);
    }

    /// When a slot is looked at.
    #[inline]
    fn look_ms(&self, at: u16) -> u32 {
        let (level, slot) = (u32::from(at) / SLOTS as u32, u32::from(at) % SLOTS as u32);
        let shift = DIGIT_BITS * level;
        // the highest level has no digits above
        let above = u32::MAX.checked_shl(shift + DIGIT_BITS).unwrap_or(0);
        self.time_ms & above | slot << shift
    }

    /// Puts a timer where its deadline belongs.
    fn put(&mut self, links: &mut impl Links, id: u32, deadline_ms: u32) {
        let former = *links.link(id);
        if former.slot != UNSCHEDULED {
            self.close_gap(links, former);
        }
        // One in the past goes to the present slot, and keeps its deadline for comparisons.
        let place_ms = if is_before(deadline_ms, self.time_ms) { self.time_ms } else { deadline_ms };
        let level = ((place_ms ^ self.time_ms) | 1).ilog2() as usize / DIGIT_BITS as usize;
        let slot = digit(place_ms, level);
        let head = &mut self.heads[level * SLOTS + slot];
        let next = core::mem::replace(head, id);
        *links.link_mut(id) = Link { next, prev: NONE, deadline_ms, slot: (level * SLOTS + slot) as u16 };
        if next != NONE {
            links.link_mut(next).prev = id;
        }
        self.occupied[level] |= 1 << slot;
        self.len += 1;
    }

    /// Stops the timer of `id`, if it runs.
    #[inline]
    pub fn cancel(&mut self, links: &mut impl Links, id: u32) {
        let former = core::mem::take(links.link_mut(id));
        if former.slot != UNSCHEDULED {
            self.close_gap(links, former);
        }
    }

    /// Takes one timer that is due by `now_ms`. Each timer fired, put off or moved down costs one of `budget`, and
    /// `None` with a budget left means that no more are due; without, the next call goes on where this one stopped.
    ///
    /// Call it at least every [`HORIZON_MS`] while timers run.
    #[inline]
    pub fn pop_expired(&mut self, links: &mut impl Links, now_ms: u32, budget: &mut u32) -> Option<u32> {
        while self.len > 0 {
            let (at_ms, level, slot) = self.next_slot()?;
            if is_before(now_ms, at_ms) {
                break;
            }
            if *budget == 0 {
                return None;
            }
            *budget -= 1;
            self.time_ms = at_ms;
            let id = self.heads[level * SLOTS + slot];
            let deadline_ms = links.link(id).deadline_ms;
            if level == 0 && !is_before(at_ms, deadline_ms) {
                self.cancel(links, id);
                return Some(id);
            }
            self.put(links, id, deadline_ms);
        }
        if is_before(self.time_ms, now_ms) || self.len == 0 {
            self.time_ms = now_ms;
        }
        None
    }

    /// Nothing is to be done before this time, which is not after the present if a timer is due; `None` if none runs. There may be none due at this time either, when one has to
    /// move down or was put off: then [`pop_expired`](Self::pop_expired) says so and the next answer is later.
    pub fn next_deadline_ms(&self) -> Option<u32> {
        self.next_slot().map(|(at_ms, _, _)| at_ms)
    }

    /// The slot to look at next, and its time. A slot that the wheel has reached and not emptied comes before those
    /// below it.
    #[inline]
    fn next_slot(&self) -> Option<(u32, usize, usize)> {
        for level in (1..LEVELS).rev() {
            let slot = digit(self.time_ms, level);
            if self.occupied[level] >> slot & 1 != 0 {
                return Some((self.time_ms, level, slot));
            }
        }
        for level in 0..LEVELS - 1 {
            let ahead = self.occupied[level] >> digit(self.time_ms, level);
            if ahead != 0 {
                let slot = digit(self.time_ms, level) + ahead.trailing_zeros() as usize;
                let shift = DIGIT_BITS * level as u32;
                let base = self.time_ms & !((1 << (shift + DIGIT_BITS)) - 1);
                return Some((base | (slot as u32) << shift, level, slot));
            }
        }
        let top = LEVELS - 1;
        let shift = DIGIT_BITS * top as u32;
        (1..TOP_SLOTS)
            .map(|ahead| ((self.time_ms >> shift) + ahead) % TOP_SLOTS)
            .find_map(|slot| (self.occupied[top] >> slot & 1 != 0).then_some((slot << shift, top, slot as usize)))
    }

    /// Joins what lay before and after a record that has left its place. `former` is its link as it was.
    fn close_gap(&mut self, links: &mut impl Links, former: Link) {
        if former.next != NONE {
            links.link_mut(former.next).prev = former.prev;
        }
        if former.prev != NONE {
            links.link_mut(former.prev).next = former.next;
        } else {
            let at = usize::from(former.slot);
            self.heads[at] = former.next;
            if former.next == NONE {
                self.occupied[at / SLOTS] &= !(1 << (at % SLOTS));
            }
        }
        self.len -= 1;
    }
}

/// Whether `a` is before `b`, modulo 2³².
#[inline(always)]
fn is_before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

#[inline(always)]
fn digit(time_ms: u32, level: usize) -> usize {
    (time_ms >> (DIGIT_BITS * level as u32)) as usize % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::table::tests::Random;
    use std::collections::BTreeSet;

    struct Records(Vec<Link>);

    impl Links for Records {
        fn link(&self, id: u32) -> &Link {
            &self.0[id as usize]
        }

        fn link_mut(&mut self, id: u32) -> &mut Link {
            &mut self.0[id as usize]
        }
    }

    /// The wheel beside an ordered set, on 64-bit time.
    struct Pair {
        wheel: TimerWheel,
        records: Records,
        model: BTreeSet<(u64, u32)>,
        deadlines: Vec<Option<u64>>,
        now: u64,
    }

    impl Pair {
        fn new(now: u64, records: usize) -> Self {
            Self {
                wheel: TimerWheel::new(now as u32),
                records: Records(vec![Link::default(); records]),
                model: BTreeSet::new(),
                deadlines: vec![None; records],
                now,
            }
        }

        fn schedule(&mut self, id: u32, deadline: u64) {
            self.cancel_model(id);
            self.model.insert((deadline, id));
            self.deadlines[id as usize] = Some(deadline);
            self.wheel.schedule(&mut self.records, id, deadline as u32);
        }

        fn cancel(&mut self, id: u32) {
            self.cancel_model(id);
            self.wheel.cancel(&mut self.records, id);
        }

        fn cancel_model(&mut self, id: u32) {
            if let Some(old) = self.deadlines[id as usize].take() {
                self.model.remove(&(old, id));
            }
        }

        /// Goes to `now` and fires all that is due, at most `budget` steps a call.
        fn advance(&mut self, now: u64, budget: u32) {
            self.now = now;
            loop {
                let mut left = budget;
                while let Some(id) = self.wheel.pop_expired(&mut self.records, now as u32, &mut left) {
                    let deadline = self.deadlines[id as usize].take().expect("fired without a deadline");
                    assert!(deadline <= now, "{id} fired {} ms early", deadline - now);
                    assert!(self.model.remove(&(deadline, id)));
                }
                self.check_bound();
                if left > 0 {
                    break;
                }
            }
            if let Some((deadline, id)) = self.model.first() {
                assert!(*deadline > now, "{id} is {} ms late", now - deadline);
            }
            assert_eq!(self.wheel.len() as usize, self.model.len());
        }

        fn check_bound(&self) {
            match (self.wheel.next_deadline_ms(), self.model.first()) {
                (Some(bound), Some((first, _))) => {
                    assert!(!is_before((*first).max(self.now) as u32, bound), "would sleep too long");
                }
                (None, None) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn agree(seed: u64, start: u64, reach: u64, jump: u64, steps: u64) {
        let mut random = Random(seed);
        let mut pair = Pair::new(start, 300);
        for _ in 0..steps {
            let id = random.below(300) as u32;
            match random.below(10) {
                0..5 => {
                    let shift = random.below(32);
                    let deadline = pair.now + random.below(reach >> shift.min(reach.ilog2().into()));
                    pair.schedule(id, deadline);
                }
                5 => {
                    let past = pair.now - random.below(50);
                    pair.schedule(id, past);
                }
                6 => pair.cancel(id),
                _ => {
                    let shift = random.below(jump.ilog2().into());
                    let now = pair.now + random.below(jump >> shift);
                    pair.advance(now, 1 + random.below(20) as u32);
                }
            }
        }
        assert!(pair.now > start);
    }

    #[test]
    fn random_operations_agree_with_an_ordered_set() {
        agree(1, 1_000, 300_000, 1_000, 300_000);
        agree(2, u64::from(u32::MAX) - 50_000, 100_000, 500, 300_000);
        agree(3, 12_345, 1 << 30, 1 << 30, 300_000);
        agree(4, 1 << 31, u64::from(HORIZON_MS), 1 << 28, 300_000);
        agree(5, 77, 64, 8, 100_000);
    }

    #[test]
    fn virtual_time_can_sleep_until_the_bound() {
        let mut random = Random(9);
        let mut pair = Pair::new(5, 200);
        for id in 0..200 {
            pair.schedule(id, 5 + random.below(u64::from(HORIZON_MS)));
        }
        let mut wakes = 0;
        while let Some(bound) = pair.wheel.next_deadline_ms() {
            let now = pair.now + u64::from(bound.wrapping_sub(pair.now as u32));
            pair.advance(now, u32::MAX);
            wakes += 1;
        }
        assert!(pair.model.is_empty());
        assert!(wakes <= 200 * LEVELS, "{wakes} wakes for 200 timers");
    }

    #[test]
    fn many_timers_in_a_slot_move_within_the_budget() {
        let mut pair = Pair::new(0, 10_000);
        for id in 0..10_000 {
            pair.schedule(id, 100_000 + u64::from(id % 3));
        }
        let mut budget = 100;
        assert_eq!(pair.wheel.pop_expired(&mut pair.records, 99_000, &mut budget), None);
        assert_eq!(budget, 0);
        // What is scheduled while a slot is being emptied is not lost.
        pair.schedule(7, 98_500);
        pair.schedule(8, 200_000);
        pair.advance(99_000, 64);
        assert_eq!(pair.wheel.len(), 9_999);
        pair.advance(100_002, 64);
        assert_eq!(pair.wheel.len(), 1);
    }

    #[test]
    fn a_deadline_that_is_put_off_and_put_on_again_stays_where_it_was() {
        let mut records = Records(vec![Link::default()]);
        for now in [0, 77, u32::MAX - 3, 1 << 31] {
            let mut wheel = TimerWheel::new(now);
            for reach in [1, 63, 64, 5_000, 300_000, 1 << 26, HORIZON_MS / 2] {
                wheel.schedule(&mut records, 0, now.wrapping_add(reach));
                let slot = records.0[0].slot;
                for later in [reach, 1_000, 1] {
                    wheel.schedule(&mut records, 0, now.wrapping_add(reach).wrapping_add(later));
                    assert_eq!(records.0[0].slot, slot, "{reach} ms from {now}, and {later}");
                }
                wheel.schedule(&mut records, 0, now);
                assert_ne!(records.0[0].slot, slot, "{reach} ms from {now}, and now");
                let mut budget = 100;
                assert_eq!(wheel.pop_expired(&mut records, now, &mut budget), Some(0));
            }
        }
    }

    #[test]
    fn a_later_deadline_is_only_written_down() {
        let mut records = Records(vec![Link::default()]);
        let mut wheel = TimerWheel::new(0);
        wheel.schedule(&mut records, 0, 10);
        let slot = records.0[0].slot;
        wheel.schedule(&mut records, 0, 50_000);
        assert_eq!((records.0[0].slot, records.0[0].deadline_ms()), (slot, Some(50_000)));
        assert_eq!(wheel.next_deadline_ms(), Some(10));
        let mut budget = 1;
        assert_eq!(wheel.pop_expired(&mut records, 10, &mut budget), None);
        assert_eq!(budget, 0);
        assert_eq!(wheel.next_deadline_ms(), Some(49_152));
        wheel.cancel(&mut records, 0);
        wheel.cancel(&mut records, 0);
        assert!(wheel.is_empty() && wheel.next_deadline_ms().is_none());
        assert_eq!(records.0[0], Link::default());
    }
}
