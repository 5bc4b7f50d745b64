//! What the generator knows about a connection, in the connection's own 64-bit word.
//!
//! ```text
//!  63      62..31          30..15        14..10      9..4      3          2..0
//! ┌───┬──────────────┬───────────────┬───────────┬────────┬──────────┬─────────┐
//! │ 0 │ stamp, µs    │ behind, coded │ requests  │ target │ measured │ stage   │
//! └───┴──────────────┴───────────────┴───────────┴────────┴──────────┴─────────┘
//! ┌───┬────────────────────────────────────────┬─────────────────────────────────┐
//! │ 1 │ 0                                      │ number of a side record (32 b)  │
//! └───┴────────────────────────────────────────┴─────────────────────────────────┘
//! ```
//!
//! What does not fit (an answer in the midst of being read, many requests to go) is kept in a side record for as long
//! as that lasts.

use core::time::Duration;

use sha2::Sha256;
use syncline_engine::time::Instant;

use super::response::Reader;
use crate::apps::slab::Slab;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Stage {
    /// Its SYN is out.
    #[default]
    Connecting,
    /// A request is out and its answer is not complete.
    Waiting,
    /// Open, with nothing to do just now.
    Idle,
    /// Has done everything; the peer is to close first.
    AwaitingFin,
    /// We have closed.
    Closing,
    /// We have reset it, as was asked for.
    Resetting,
    /// Its failure has been counted; the end is to come.
    Failed,
    /// Open; its next request is due when its time to think is over.
    Thinking,
}

impl Stage {
    pub(super) const COUNT: usize = 8;

    const ALL: [Self; Self::COUNT] = [
        Self::Connecting,
        Self::Waiting,
        Self::Idle,
        Self::AwaitingFin,
        Self::Closing,
        Self::Resetting,
        Self::Failed,
        Self::Thinking,
    ];

    fn from_bits(bits: u64) -> Self {
        Self::ALL[(bits & STAGES) as usize]
    }
}

/// [`Session::left`] of a connection that makes requests until the run ends.
pub(super) const UNLIMITED: u32 = u32::MAX;
/// [`Session::behind`] of what no schedule asked for.
pub(super) const UNSCHEDULED: u32 = u32::MAX;
/// [`Session::sent`] once all of the request is queued.
pub(super) const ALL_SENT: u64 = u64::MAX;

/// What the generator knows about a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) stage: Stage,
    /// Launched in the measured window.
    pub(super) measured: bool,
    /// Number of the target.
    pub(super) target: u32,
    /// When the stage began, microseconds modulo 2³².
    pub(super) stamp: u32,
    /// Microseconds from the scheduled time to `stamp`, or [`UNSCHEDULED`].
    pub(super) behind: u32,
    /// Requests not yet answered, or [`UNLIMITED`].
    pub(super) left: u32,
    /// Octets of the present answer that have come.
    pub(super) received: u64,
    /// Octets of the present request that have been queued, or [`ALL_SENT`].
    pub(super) sent: u64,
    /// An answer's head or body is being read in the side record.
    pub(super) reading: bool,
    /// The answer is being hashed in the side record.
    pub(super) hashing: bool,
    /// The side record, if there is one, plus 1.
    pub(super) slot: u32,
}

/// Where what becomes of a connection is counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Account {
    /// Whether it was launched in the measured window.
    pub(super) measured: bool,
    /// Number of the target.
    pub(super) target: u32,
}

const SPILLED: u64 = 1 << 63;
const STAGES: u64 = 7;
const MEASURED_BIT: u32 = 3;
const TARGET_BIT: u32 = 4;
const LEFT_BIT: u32 = 10;
const BEHIND_BIT: u32 = 15;
const STAMP_BIT: u32 = 31;
const TARGETS: u32 = 1 << 6;
/// Coded number of requests that stands for [`UNLIMITED`].
const UNLIMITED_CODE: u32 = 31;
const UNSCHEDULED_CODE: u64 = 0xffff;

/// Codes microseconds in 16 bits: 5 of exponent, 11 of mantissa, so that at most 1/2048 is lost. The largest is about
/// half an hour; the last code is for what no schedule asked for.
#[inline]
fn code(micros: u32) -> u64 {
    if micros == UNSCHEDULED {
        return UNSCHEDULED_CODE;
    }

    let bits = 32 - micros.leading_zeros();
    let exponent = bits.saturating_sub(11);
    (u64::from(exponent) << 11 | u64::from(micros >> exponent)).min(UNSCHEDULED_CODE - 1)
}

#[inline]
fn decode(code: u64) -> u32 {
    if code == UNSCHEDULED_CODE {
        return UNSCHEDULED;
    }
    let (exponent, mantissa) = (code >> 11, code & 0x7ff);
    u32::try_from(mantissa << exponent).unwrap_or(UNSCHEDULED - 1)
}

/// A word that holds a whole session: read and changed where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word(u64);

impl Word {
    /// `word`, if it holds a whole session, and that is in `stage`.
    #[inline]
    pub(super) fn in_stage(word: u64, stage: Stage) -> Option<Self> {
        (word & (SPILLED | STAGES) == stage as u64).then_some(Self(word))
    }

    /// The word itself.
    #[inline]
    pub(super) fn bits(self) -> u64 {
        self.0
    }

    /// [`Session::measured`].
    #[inline]
    pub(super) fn measured(self) -> bool {
        self.0 >> MEASURED_BIT & 1 != 0
    }

    /// [`Session::account`].
    #[inline]
    pub(super) fn account(self) -> Account {
        Account { measured: self.measured(), target: self.target() }
    }

    #[inline]
    fn target(self) -> u32 {
        (self.0 >> TARGET_BIT) as u32 & (TARGETS - 1)
    }

    /// [`Session::stamp`].
    #[inline]
    pub(super) fn stamp(self) -> u32 {
        (self.0 >> STAMP_BIT) as u32
    }

    /// [`Session::behind`].
    #[inline]
    pub(super) fn behind(self) -> u32 {
        decode(self.0 >> BEHIND_BIT & 0xffff)
    }

    #[inline]
    fn left_code(self) -> u32 {
        (self.0 >> LEFT_BIT) as u32 & UNLIMITED_CODE
    }

    /// Whether there are requests to be answered.
    #[inline]
    pub(super) fn has_requests(self) -> bool {
        self.left_code() != 0
    }

    /// A request, of which there are some, has been answered.
    #[inline]
    pub(super) fn answered(self) -> Self {
        if self.left_code() == UNLIMITED_CODE { self } else { Self(self.0 - (1 << LEFT_BIT)) }
    }

    /// The connection moves on to `stage`, which begins at `stamp`.
    #[inline]
    pub(super) fn enter(self, stage: Stage, stamp: u32, behind: u32) -> Self {
        let kept = self.0 & ((1 << BEHIND_BIT) - 1) & !STAGES;
        Self(kept | stage as u64 | code(behind) << BEHIND_BIT | u64::from(stamp) << STAMP_BIT)
    }
}

impl Session {
    /// Where it is counted.
    #[inline]
    pub(super) fn account(&self) -> Account {
        Account { measured: self.measured, target: self.target }
    }

    /// The word that says all of it, if there is one.
    #[inline]
    pub(super) fn pack(&self) -> Option<u64> {
        let left = match self.left {
            UNLIMITED => UNLIMITED_CODE,
            left => left,
        };
        let small = self.received == 0 && self.target < TARGETS && (left < UNLIMITED_CODE || self.left == UNLIMITED);
        let plain = !self.reading && !self.hashing && (self.stage != Stage::Waiting || self.sent == ALL_SENT);
        if !small || !plain {
            return None;
        }
        let kept = u64::from(left) << LEFT_BIT
            | u64::from(self.target) << TARGET_BIT
            | u64::from(self.measured) << MEASURED_BIT;
        Some(Word(kept).enter(self.stage, self.stamp, self.behind).bits())
    }

    /// Whether the present stage began less than `ago` before `now`.
    pub(super) fn stamp_is_after(&self, now: Instant, ago: Duration) -> bool {
        u128::from((now.micros() as u32).wrapping_sub(self.stamp)) < ago.as_micros()
    }

    fn unpack(bits: u64) -> Self {
        let word = Word(bits);
        let left = word.left_code();
        Self {
            stage: Stage::from_bits(bits),
            measured: word.measured(),
            target: word.target(),
            stamp: word.stamp(),
            behind: word.behind(),
            left: if left == UNLIMITED_CODE { UNLIMITED } else { left },
            sent: ALL_SENT,
            ..Self::default()
        }
    }
}

/// A side record.
#[derive(Debug, Default)]
pub(super) struct Side {
    session: Session,
    pub(super) reader: Reader,
    pub(super) hash: Sha256,
}

/// Words and side records of a worker's connections.
#[derive(Debug)]
pub(super) struct Sessions {
    pub(super) sides: Slab<Side>,
}

impl Sessions {
    pub(super) fn new(sides_max: u32) -> Self {
        Self { sides: Slab::new(sides_max) }
    }

    /// Whether `word` only names a side record. Otherwise all of the present request has been queued.
    #[inline]
    pub(super) fn is_spilled(&self, word: u64) -> bool {
        word & SPILLED != 0
    }

    /// What `word` says.
    #[inline]
    pub(super) fn load(&self, word: u64) -> Session {
        if !self.is_spilled(word) { Session::unpack(word) } else { self.sides[word as u32].session }
    }

    /// The word that says `session`. `None` if that needs a side record and there is none to be had.
    #[inline]
    pub(super) fn store(&mut self, session: &mut Session) -> Option<u64> {
        if let Some(word) = session.pack() {
            self.release(session);
            return Some(word);
        }
        self.spill(session)
    }

    /// The word that names a side record with `session` in it. `None` if there is none to be had.
    pub(super) fn spill(&mut self, session: &mut Session) -> Option<u64> {
        let slot = self.side(session)?;
        self.sides[slot].session = *session;
        Some(SPILLED | u64::from(slot))
    }

    /// The session's side record; takes one if it has none.
    pub(super) fn side(&mut self, session: &mut Session) -> Option<u32> {
        if session.slot == 0 {
            session.slot = self.sides.take()? + 1;
        }
        Some(session.slot - 1)
    }

    /// Gives the side record back, if there is one.
    #[inline]
    pub(super) fn release(&mut self, session: &mut Session) {
        if session.slot != 0 {
            self.sides.give_back(session.slot - 1);
            session.slot = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_session_lives_in_its_word() {
        let mut sessions = Sessions::new(1_000);
        for stage in Stage::ALL {
            for (left, behind, target) in [(0, 0, 0), (1, 2_047, 63), (30, UNSCHEDULED, 5), (UNLIMITED, 1, 1)] {
                for stamp in [0, 1, u32::MAX] {
                    let mut session = Session {
                        stage,
                        measured: target == 63,
                        target,
                        stamp,
                        behind,
                        left,
                        sent: ALL_SENT,
                        ..Session::default()
                    };
                    let word = sessions.store(&mut session).unwrap();
                    assert_eq!(sessions.load(word), session);
                }
            }
        }
        assert_eq!(sessions.sides.used(), 0);
    }

    #[test]
    fn a_large_one_takes_a_side_record_and_gives_it_back() {
        let mut sessions = Sessions::new(1_000);
        for change in [
            (|s| s.left = 31) as fn(&mut Session),
            |s| s.target = 64,
            |s| s.received = 1,
            |s| s.sent = 7,
            |s| s.reading = true,
            |s| s.hashing = true,
        ] {
            let small = Session { stage: Stage::Waiting, sent: ALL_SENT, stamp: 9, ..Session::default() };
            let mut large = small;
            change(&mut large);
            let word = sessions.store(&mut large).unwrap();
            assert_eq!((sessions.load(word), sessions.sides.used()), (large, 1));
            let mut again = Session { slot: large.slot, ..small };
            let word = sessions.store(&mut again).unwrap();
            assert_eq!((sessions.load(word), sessions.sides.used()), (small, 0));
        }
    }

    /// What is changed in the word is what would be changed in the session.
    #[test]
    fn a_word_is_changed_as_its_session_is() {
        let mut sessions = Sessions::new(1);
        for stage in Stage::ALL {
            for (left, behind, measured) in
                [(0, 5, true), (1, UNSCHEDULED, false), (30, 7, true), (UNLIMITED, 9, false)]
            {
                let mut session = Session {
                    stage,
                    measured,
                    target: 63,
                    stamp: 77,
                    behind,
                    left,
                    sent: ALL_SENT,
                    ..Session::default()
                };
                let word = Word::in_stage(sessions.store(&mut session).unwrap(), stage).unwrap();
                assert_eq!((word.measured(), word.target(), word.stamp()), (measured, 63, 77));
                assert_eq!((word.behind(), word.has_requests()), (behind, left > 0));
                assert_eq!(Word::in_stage(word.bits(), Stage::ALL[(stage as usize + 1) % Stage::COUNT]), None);
                for (next, behind) in [(Stage::Closing, UNSCHEDULED), (Stage::Connecting, 11)] {
                    let left = if left == UNLIMITED { left } else { left.saturating_sub(1) };
                    let answered = if word.has_requests() { word.answered() } else { word };
                    let moved = Session { stage: next, stamp: u32::MAX, behind, left, ..session };
                    assert_eq!(sessions.load(answered.enter(next, u32::MAX, behind).bits()), moved);
                }
            }
        }
        let mut large = Session { received: 1, stage: Stage::Waiting, ..Session::default() };
        assert_eq!(Word::in_stage(sessions.store(&mut large).unwrap(), Stage::Waiting), None);
    }

    #[test]
    fn coded_times_lose_a_two_thousandth_at_most() {
        let mut micros = 0u64;
        while micros < 2_000_000_000 {
            let back = u64::from(decode(code(micros as u32)));
            assert!(back <= micros && (micros - back) * 1_024 <= micros, "{micros} {back}");
            micros = micros + micros / 97 + 1;
        }
        assert!((0..2_048).all(|micros| decode(code(micros)) == micros));
        assert!(code(UNSCHEDULED - 1) < UNSCHEDULED_CODE);
        assert_eq!((code(UNSCHEDULED), decode(code(UNSCHEDULED))), (UNSCHEDULED_CODE, UNSCHEDULED));
    }
}
