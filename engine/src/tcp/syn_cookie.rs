//! SYN cookies (RFC 4987 §3.6): a half-open connection kept in the numbers of its SYN-ACK.
//!
//! ```text
//!  without timestamps: the ISN              with timestamps: the ISN             and TSval
//!   31  30..28  27..25  24   23..0           31   30..0                           ..9  8..5   4    3   2..0
//!  ┌───┬──────┬───────┬────┬────────┐       ┌───┬──────────────────────┐         ┌───┬───────┬────┬───┬─────┐
//!  │key│ MSS  │ scale │SACK│  MAC   │       │key│         MAC          │         │   │ scale │SACK│ECN│ MSS │
//!  └───┴──────┴───────┴────┴────────┘       └───┴──────────────────────┘         └───┴───────┴────┴───┴─────┘
//!      └── masked by the flow ──┘
//! ```
//!
//! The MAC is SipHash-2-4 over addresses, ports, the peer's ISN, the options and the epoch, and all of its bits are
//! compared. The peer's ISN is an input of it and not added to it: where it is added, an ACK that was lost with a few
//! octets of data behind it leads to a number that is valid too, and those octets vanish without a trace.
//!
//! Keys follow from one secret and the epoch of 32 s, so that every worker has the same ones. A cookie is good in its
//! own epoch and the next.

use core::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip::SipHasher24;

use crate::time::Instant;
use crate::wire::Seq;

use super::FlowId;
use super::block::flag;
use super::listen::Offer;
use super::siphash::SipKey;

/// Length of an epoch, milliseconds.
const EPOCH_MS: u64 = 32_768;

/// Bits of TSval that hold options.
pub(crate) const TS_BITS: u32 = 9;

/// What three bits can say of the peer's MSS: the largest that it does not exceed is used.
const MSS_TABLE: [u16; 8] = [64, 536, 1220, 1360, 1400, 1440, 1460, 8940];

/// What three bits can say of the peer's window scale, none first. A smaller one than the peer's takes its window for
/// less than it is, which is safe.
const SCALE_TABLE: [Option<u8>; 8] = [None, Some(0), Some(2), Some(4), Some(6), Some(7), Some(8), Some(10)];

/// Four bits of window scale: this one says that there is none.
const SCALE_NONE: u32 = 15;

/// Makes and checks cookies.
pub(crate) struct CookieJar {
    secret: [u64; 2],
    mask: SipKey,
    /// Keys of the even and the odd epoch among the present and the last.
    keys: [SipKey; 2],
    epoch: u64,
    /// When a cookie was last all that was left of a SYN: until two epochs later an ACK may hold one.
    sent: Option<Instant>,
}

/// A cookie: the ISN of a SYN-ACK, and the low bits of its TSval if it has timestamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cookie {
    pub(crate) iss: Seq,
    pub(crate) ts_bits: Option<u32>,
}

impl CookieJar {
    pub(crate) fn new(secret: [u64; 2]) -> Self {
        let mut jar = Self {
            secret,
            mask: SipKey::new(secret[0].rotate_left(32), secret[1]),
            keys: [SipKey::new(0, 0); 2],
            epoch: 0,
            sent: None,
        };
        jar.keys = [jar.key(0), jar.key(u64::MAX)];
        jar
    }

    fn key(&self, epoch: u64) -> SipKey {
        let mut derive = SipHasher24::new_with_keys(self.secret[0], self.secret[1]);
        derive.write_u64(epoch);
        let first = derive.finish();
        derive.write_u64(first);
        SipKey::new(first, derive.finish())
    }

    /// Takes the present epoch's key.
    fn roll(&mut self, now: Instant) {
        let epoch = now.micros() / 1000 / EPOCH_MS;
        if epoch != self.epoch {
            self.epoch = epoch;
            self.keys[(epoch & 1) as usize] = self.key(epoch);
            self.keys[(epoch & 1 ^ 1) as usize] = self.key(epoch.wrapping_sub(1));
        }
    }

    /// The cookie for a SYN with sequence number `irs`, and what it will remember of `offer`.
    pub(crate) fn bake(&mut self, local: IpAddr, flow: &FlowId, irs: Seq, offer: &Offer, now: Instant) -> Cookie {
        self.roll(now);
        let key_bit = (self.epoch & 1) as u32;
        if offer.flags & flag::TIMESTAMPS != 0 {
            let bits = pack_wide(offer);
            let mac = self.mac(key_bit, local, flow, irs, bits | 1 << 31) & 0x7fff_ffff;
            return Cookie { iss: Seq(key_bit << 31 | mac), ts_bits: Some(bits) };
        }
        let bits = pack_narrow(offer);
        let mac = self.mac(key_bit, local, flow, irs, bits) & 0x00ff_ffff;
        let masked = (bits ^ self.mask(local, flow, irs)) & 0x7f;
        Cookie { iss: Seq(key_bit << 31 | masked << 24 | mac), ts_bits: None }
    }

    /// A SYN-ACK left of which nothing is kept. Where all are kept no ACK is taken for a cookie: a segment of a connection
    /// that has ended would open it a second time.
    pub(crate) fn rely(&mut self, now: Instant) {
        self.sent = Some(now);
    }

    /// What a peer that acknowledges `iss` had offered, if `iss` is a cookie of ours for this flow and `irs`. `echo` is
    /// the timestamp it echoes, if it sends any.
    pub(crate) fn open(
        &mut self,
        local: IpAddr,
        flow: &FlowId,
        (irs, iss): (Seq, Seq),
        echo: Option<u32>,
        now: Instant,
    ) -> Option<Offer> {
        self.roll(now);
        let key_bit = iss.0 >> 31;
        match echo {
            Some(echo) => {
                let bits = echo & ((1 << TS_BITS) - 1);
                let mac = self.mac(key_bit, local, flow, irs, bits | 1 << 31) & 0x7fff_ffff;
                (mac == iss.0 & 0x7fff_ffff).then(|| unpack_wide(bits))
            }
            None => {
                let bits = (iss.0 >> 24 ^ self.mask(local, flow, irs)) & 0x7f;
                let mac = self.mac(key_bit, local, flow, irs, bits) & 0x00ff_ffff;
                (mac == iss.0 & 0x00ff_ffff).then(|| unpack_narrow(bits))
            }
        }
    }

    /// Whether an ACK may hold a cookie: one was relied on in this epoch or the last.
    pub(crate) fn outstanding(&self, now: Instant) -> bool {
        self.sent.is_some_and(|sent| now.since(sent).as_millis() < u128::from(2 * EPOCH_MS))
    }

    #[inline]
    fn mac(&self, key_bit: u32, local: IpAddr, flow: &FlowId, irs: Seq, bits: u32) -> u32 {
        tag(self.keys[key_bit as usize & 1], local, flow, irs, bits)
    }

    #[inline]
    fn mask(&self, local: IpAddr, flow: &FlowId, irs: Seq) -> u32 {
        tag(self.mask, local, flow, irs, 0)
    }
}

/// The hash of all that a cookie is bound to.
#[inline]
fn tag(key: SipKey, local: IpAddr, flow: &FlowId, irs: Seq, bits: u32) -> u32 {
    let ports = u32::from(flow.local_port) << 16 | u32::from(flow.remote_port);
    let numbers = u64::from(irs.0) << 32 | u64::from(ports);
    let hash = match (local, flow.remote) {
        (IpAddr::V4(local), IpAddr::V4(remote)) => {
            let addresses = u64::from(local.to_bits()) << 32 | u64::from(remote.to_bits());
            key.hash([addresses, numbers], bits)
        }
        (local, remote) => {
            let wide = |address: IpAddr| match address {
                IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
                IpAddr::V6(address) => address.to_bits(),
            };
            let (local, remote) = (wide(local), wide(remote));
            let words = [(local >> 64) as u64, local as u64, (remote >> 64) as u64, remote as u64, numbers];
            key.hash(words, bits)
        }
    };
    hash as u32
}

fn mss_index(mss: u16) -> u32 {
    MSS_TABLE.iter().rposition(|&known| known <= mss).unwrap_or(0) as u32
}

fn pack_narrow(offer: &Offer) -> u32 {
    let scale = if offer.flags & flag::SCALING == 0 {
        0
    } else {
        SCALE_TABLE.iter().rposition(|known| known.is_some_and(|known| known <= offer.snd_scale)).unwrap_or(0)
    };
    mss_index(offer.mss) << 4 | (scale as u32) << 1 | u32::from(offer.flags & flag::SACK != 0)
}

fn unpack_narrow(bits: u32) -> Offer {
    let scale = SCALE_TABLE[(bits >> 1 & 7) as usize];
    let mut flags = if bits & 1 != 0 { flag::SACK } else { 0 };
    flags |= if scale.is_some() { flag::SCALING } else { 0 };
    Offer { mss: MSS_TABLE[(bits >> 4 & 7) as usize], flags, snd_scale: scale.unwrap_or(0), ts_recent: 0 }
}

/// The nine bits of options that a TSval holds.
fn pack_wide(offer: &Offer) -> u32 {
    let scale = if offer.flags & flag::SCALING == 0 { SCALE_NONE } else { u32::from(offer.snd_scale) };
    let sack = u32::from(offer.flags & flag::SACK != 0);
    let ecn = u32::from(offer.flags & flag::ECN != 0);
    scale << 5 | sack << 4 | ecn << 3 | mss_index(offer.mss)
}

fn unpack_wide(bits: u32) -> Offer {
    let scale = bits >> 5 & 15;
    let mut flags = flag::TIMESTAMPS;
    for (bit, meaning) in [(4, flag::SACK), (3, flag::ECN)] {
        flags |= if bits >> bit & 1 != 0 { meaning } else { 0 };
    }
    flags |= if scale != SCALE_NONE { flag::SCALING } else { 0 };
    let snd_scale = if scale == SCALE_NONE { 0 } else { scale as u8 };
    Offer { mss: MSS_TABLE[(bits & 7) as usize], flags, snd_scale, ts_recent: 0 }
}

/// The TSval of a SYN-ACK whose low bits hold options: never later than `now`, and at most two of the steps that the
/// bits take earlier (RFC 7323 wants it not to go back afterwards).
pub(crate) fn timestamp_with(bits: u32, now: u32) -> u32 {
    let value = now & !((1 << TS_BITS) - 1) | bits;
    if (value.wrapping_sub(now) as i32) > 0 { value.wrapping_sub(1 << TS_BITS) } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(remote: &str, remote_port: u16) -> FlowId {
        FlowId { remote: remote.parse().unwrap(), local: 0, remote_port, local_port: 80 }
    }

    fn offer(mss: u16, flags: u8, snd_scale: u8) -> Offer {
        Offer { mss, flags, snd_scale, ts_recent: 0 }
    }

    const ALL: u8 = flag::SACK | flag::SCALING | flag::TIMESTAMPS;

    #[test]
    fn a_cookie_remembers_what_was_offered() {
        let mut jar = CookieJar::new([7, 8]);
        let now = Instant::from_millis(5_000_000);
        for remote in ["192.0.2.1", "2001:db8::1"] {
            let local = if remote.contains(':') { "2001:db8::2" } else { "192.0.2.2" }.parse().unwrap();
            let flow = flow(remote, 40_000);
            for (mss, flags, scale) in [
                (1460, ALL, 7),
                (1460, ALL | flag::ECN, 14),
                (536, flag::SACK, 0),
                (1440, flag::SCALING, 7),
                (9000, 0, 0),
            ] {
                let cookie = jar.bake(local, &flow, Seq(99), &offer(mss, flags, scale), now);
                let echo = cookie.ts_bits.map(|bits| timestamp_with(bits, 123_456_789));
                let kept = jar.open(local, &flow, (Seq(99), cookie.iss), echo, now).unwrap();
                assert_eq!(kept.flags, flags);
                assert_eq!(kept.snd_scale, scale);
                assert!(kept.mss <= mss && u32::from(kept.mss) * 10 >= u32::from(mss) * 9, "{} for {mss}", kept.mss);
            }
        }
    }

    #[test]
    fn a_changed_cookie_is_refused() {
        let mut jar = CookieJar::new([7, 8]);
        let now = Instant::from_millis(5_000_000);
        let local: IpAddr = "192.0.2.2".parse().unwrap();
        let it = flow("192.0.2.1", 40_000);
        for flags in [ALL, flag::SACK | flag::SCALING] {
            let cookie = jar.bake(local, &it, Seq(1000), &offer(1460, flags, 7), now);
            let echo = cookie.ts_bits.map(|bits| timestamp_with(bits, 123_456_789));
            let mut open = |flow: &FlowId, irs, iss, echo, now| jar.open(local, flow, (irs, iss), echo, now).is_some();
            assert!(open(&it, Seq(1000), cookie.iss, echo, now));
            assert!(!open(&flow("192.0.2.3", 40_000), Seq(1000), cookie.iss, echo, now), "another address");
            assert!(!open(&flow("192.0.2.1", 40_001), Seq(1000), cookie.iss, echo, now), "another port");
            for bit in 0..32 {
                assert!(!open(&it, Seq(1000), Seq(cookie.iss.0 ^ 1 << bit), echo, now), "ISN bit {bit}");
            }
            for lost in 1..=3 {
                // the ACK was lost, and the first octets behind it
                assert!(!open(&it, Seq(1000 + lost), cookie.iss, echo, now), "{lost} octets on");
                assert!(!open(&it, Seq(1000 + lost), cookie.iss + lost, echo, now));
            }
            if let Some(echo) = echo {
                for bit in 0..TS_BITS {
                    assert!(!open(&it, Seq(1000), cookie.iss, Some(echo ^ 1 << bit), now), "option bit {bit}");
                }
            }
            let later = Instant::from_millis(5_000_000 + EPOCH_MS);
            assert!(open(&it, Seq(1000), cookie.iss, echo, later), "the next epoch takes it");
            let too_late = Instant::from_millis(5_000_000 + 2 * EPOCH_MS);
            assert!(!open(&it, Seq(1000), cookie.iss, echo, too_late), "the one after does not");
        }
    }

    #[test]
    fn guesses_succeed_no_more_often_than_they_should() {
        const GUESSES: u32 = 1 << 24;
        let mut jar = CookieJar::new([7, 8]);
        let now = Instant::from_millis(5_000_000);
        let local: IpAddr = "192.0.2.2".parse().unwrap();
        let mut x = 0x9e37_79b9_7f4a_7c15u64;
        let mut hits = [0; 2];
        for n in 0..GUESSES {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            let it = flow("192.0.2.1", n as u16);
            let ids = (Seq((x >> 32) as u32), Seq(x as u32));
            hits[0] += u32::from(jar.open(local, &it, ids, None, now).is_some());
            if n % 4 == 0 {
                hits[1] += u32::from(jar.open(local, &it, ids, Some((x >> 16) as u32), now).is_some());
            }
        }
        // 24 bits of MAC: one hit on average, eight once in a million times. 31 bits: one in 512 such tests.
        assert!(hits[0] < 8, "{} of 2^24 guesses without timestamps were taken", hits[0]);
        assert!(hits[1] < 2, "{} of 2^22 guesses with timestamps were taken", hits[1]);
    }

    #[test]
    fn timestamps_never_run_ahead() {
        for now in [0, 1, 511, 512, 1000, u32::MAX - 3, u32::MAX] {
            for bits in [0, 1, 255, 511] {
                let value = timestamp_with(bits, now);
                let behind = now.wrapping_sub(value);
                assert!(behind < 2 << TS_BITS, "{value} at {now}");
                assert_eq!(value & 511, bits);
            }
        }
    }
}
