//! One direction of a simulated network path: a bottleneck with its queue, then a wire with delay and faults.

use super::fault::{Fate, FaultCounters, FaultModel, Faults, Loss, SplitMix64, flip_bit};
use crate::time::Instant;
use core::ops::Range;
use core::time::Duration;

/// A link that carries so many bits a second, with a drop-tail queue before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bottleneck {
    /// Bits of Ethernet frames per second, without preamble, gap and FCS. Zero counts as one.
    pub bits_per_s: u64,
    /// Octets that may wait, those being sent included. A frame that would make it more is lost, unless it is the only one.
    pub queue_bytes: u64,
    /// From so many octets waiting, ECN-capable packets are marked CE (RFC 3168 §5). Others are not touched.
    pub ecn_mark_bytes: Option<u64>,
}

/// One direction of a path. The default is perfect: no delay, no limit, no fault.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathConfig {
    /// The limit on the rate, if any.
    pub bottleneck: Option<Bottleneck>,
    /// How long a frame travels.
    pub delay: Duration,
    /// Uniformly distributed from zero to this, on top. Jitter alone does not reorder.
    pub jitter: Duration,
    /// From each of these times on the delay is another. A shorter one lets later frames overtake earlier ones, as a
    /// change of route does.
    pub delay_changes: Vec<(Instant, Duration)>,
    /// How much longer a reordered frame travels.
    pub reorder_delay: Duration,
    /// Times in which everything that is sent is lost.
    pub black_holes: Vec<Range<Instant>>,
    /// Loss, duplication, corruption, reordering.
    pub faults: Faults,
}

/// What a path has done so far, in frames.
///
/// Every frame is accounted for: `sent` + `duplicated` = `arrived` + lost for any reason + still on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathCounters {
    /// Given to the path.
    pub sent: u64,
    /// Made by duplication. Fewer than [`FaultCounters::duplicated`] if the frame pool ran dry.
    pub duplicated: u64,
    /// Handed to the receiving end.
    pub arrived: u64,
    /// Lost in a black hole.
    pub lost_black_hole: u64,
    /// Lost at the bottleneck's queue.
    pub lost_queue_full: u64,
    /// Marked CE at the bottleneck.
    pub ecn_marked: u64,
    /// What the fault model decided.
    pub faults: FaultCounters,
}

impl PathCounters {
    /// Frames lost for whatever reason.
    pub fn lost(&self) -> u64 {
        self.lost_black_hole + self.lost_queue_full + self.faults.lost()
    }

    /// Frames that are on the way.
    pub fn in_flight(&self) -> u64 {
        self.sent + self.duplicated - self.arrived - self.lost()
    }
}

/// What a path does to one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passage {
    /// It is lost.
    Lost(Loss),
    /// It arrives, at this time.
    Arrives { at: Instant, twice: bool },
}

/// One direction of a path at work.
pub(super) struct Path {
    config: PathConfig,
    faults: FaultModel,
    jitter: SplitMix64,
    counters: PathCounters,
    /// When the bottleneck will have sent everything that waits.
    busy_until: Instant,
    /// The base delay of the last frame, and when that frame arrives.
    last_delay: Duration,
    last_arrival: Instant,
}

impl Path {
    /// A path at its beginning. `direction` keeps the two directions of one seed apart.
    pub(super) fn new(mut config: PathConfig, seed: u64, direction: u64) -> Self {
        config.delay_changes.sort_by_key(|&(from, _)| from);
        Self {
            faults: FaultModel::new(config.faults, seed, direction),
            jitter: SplitMix64::new(seed, direction * 8 + 7),
            counters: PathCounters::default(),
            busy_until: Instant::ZERO,
            last_delay: config.delay,
            last_arrival: Instant::ZERO,
            config,
        }
    }

    /// Replaces the configuration. What is on the way arrives as it would have; the streams of chance and the counters
    /// go on.
    pub(super) fn reconfigure(&mut self, mut config: PathConfig) {
        config.delay_changes.sort_by_key(|&(from, _)| from);
        self.faults.set_faults(config.faults);
        self.config = config;
    }

    /// Sends `frame` at `now`, marking or corrupting it if that is its lot.
    pub(super) fn send(&mut self, now: Instant, frame: &mut [u8]) -> Passage {
        self.counters.sent += 1;
        if self.config.black_holes.iter().any(|hole| hole.contains(&now)) {
            self.counters.lost_black_hole += 1;
            return Passage::Lost(Loss::BlackHole);
        }
        let Some(departure) = self.pass_bottleneck(now, frame) else {
            self.counters.lost_queue_full += 1;
            return Passage::Lost(Loss::QueueFull);
        };
        match self.faults.judge(frame) {
            Fate::Lost(loss) => Passage::Lost(loss),
            Fate::Arrives { flip_bit: bit, twice, late } => {
                if let Some(bit) = bit {
                    flip_bit(frame, bit);
                }
                Passage::Arrives { at: self.arrival(departure, late), twice }
            }
        }
    }

    /// Counts a duplicate that was made.
    pub(super) fn count_duplicate(&mut self) {
        self.counters.duplicated += 1;
    }

    /// Counts a frame that was handed to the receiving end.
    pub(super) fn count_arrival(&mut self) {
        self.counters.arrived += 1;
    }

    /// What was done so far.
    pub(super) fn counters(&self) -> PathCounters {
        PathCounters { faults: self.faults.counters(), ..self.counters }
    }

    /// When the frame has left the bottleneck, or `None` if there is no room for it to wait.
    fn pass_bottleneck(&mut self, now: Instant, frame: &mut [u8]) -> Option<Instant> {
        let Some(Bottleneck { bits_per_s, queue_bytes, ecn_mark_bytes }) = self.config.bottleneck else {
            return Some(now);
        };
        const NANO_BITS: u128 = 8 * 1_000_000_000;
        let rate = u128::from(bits_per_s.max(1));
        let waiting = (self.busy_until.since(now).as_nanos() * rate / NANO_BITS) as u64;
        if waiting > 0 && waiting + frame.len() as u64 > queue_bytes {
            return None;
        }
        if ecn_mark_bytes.is_some_and(|mark| waiting >= mark) && mark_ce(frame) {
            self.counters.ecn_marked += 1;
        }
        let nanos = (frame.len() as u128 * NANO_BITS).div_ceil(rate);
        self.busy_until = self.busy_until.max(now) + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        Some(self.busy_until)
    }

    fn arrival(&mut self, departure: Instant, late: bool) -> Instant {
        let changes = &self.config.delay_changes;
        let past = changes.partition_point(|&(from, _)| from <= departure);
        let delay = past.checked_sub(1).map_or(self.config.delay, |last| changes[last].1);
        let jitter = self.jitter.below((self.config.jitter.as_nanos() as u64).saturating_add(1));
        let arrival = departure + delay + Duration::from_nanos(jitter);
        if late {
            return arrival + self.config.reorder_delay;
        }
        let in_order = if delay == self.last_delay { arrival.max(self.last_arrival) } else { arrival };
        self.last_delay = delay;
        self.last_arrival = in_order;
        in_order
    }
}

/// Sets the ECN field of an ECN-capable packet to CE (RFC 3168 §5); says whether it did.
fn mark_ce(frame: &mut [u8]) -> bool {
    const CE: u8 = 0b11;
    let Some((ip_at, version)) = super::ip_offset(frame) else { return false };
    let ip = &mut frame[ip_at..];
    if version == 6 {
        // The traffic class lies across the first two octets; ECN is bits 4 and 5 of the second.
        let Some(octet) = ip.get_mut(1) else { return false };
        let capable = *octet & (CE << 4) != 0;
        if capable {
            *octet |= CE << 4;
        }
        return capable;
    }
    if ip.len() < 20 || ip[1] & CE == 0 {
        return false;
    }
    let before = u16::from_be_bytes([ip[0], ip[1]]);
    ip[1] |= CE;
    let after = u16::from_be_bytes([ip[0], ip[1]]);
    // RFC 1624, eqn. 3: HC' = ~(~HC + ~m + m')
    let sum = u32::from(!u16::from_be_bytes([ip[10], ip[11]])) + u32::from(!before) + u32::from(after);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    ip[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn arrivals(path: &mut Path, times: impl IntoIterator<Item = u64>, len: usize) -> Vec<Option<u64>> {
        let at = |nanos| match path.send(Instant::from_nanos(nanos), &mut vec![0; len]) {
            Passage::Arrives { at, .. } => Some(at.nanos()),
            Passage::Lost(_) => None,
        };
        times.into_iter().map(at).collect()
    }

    #[test]
    fn a_bottleneck_spaces_frames_and_drops_what_does_not_fit_its_queue() {
        let bottleneck = Bottleneck { bits_per_s: 8_000_000, queue_bytes: 3_000, ecn_mark_bytes: None };
        let config = PathConfig { bottleneck: Some(bottleneck), delay: MS, ..PathConfig::default() };
        let mut path = Path::new(config, 1, 0);
        // 1000 octets take 1 ms: one is being sent, two wait, the fourth is too many.
        let out = arrivals(&mut path, [0, 0, 0, 0], 1000);
        assert_eq!(out, [Some(2_000_000), Some(3_000_000), Some(4_000_000), None]);
        assert_eq!(arrivals(&mut path, [1_000_000], 1000), [Some(5_000_000)], "a place is free again");
        assert_eq!(path.counters().lost_queue_full, 1);
        assert_eq!(path.counters().in_flight(), 4);
    }

    #[test]
    fn jitter_keeps_the_order_and_a_shorter_route_does_not() {
        let config = PathConfig {
            delay: 10 * MS,
            jitter: 5 * MS,
            delay_changes: vec![(Instant::from_millis(100), MS)],
            ..PathConfig::default()
        };
        let mut path = Path::new(config, 7, 0);
        let out = arrivals(&mut path, (0..100).map(|ms| ms * 1_000_000), 100);
        assert!(out.is_sorted() && out.iter().all(Option::is_some));
        let spread: Vec<u64> = out.iter().zip(0..).map(|(at, ms)| at.unwrap() - ms * 1_000_000).collect();
        assert!(spread.iter().all(|&delay| (10_000_000..=15_000_000).contains(&delay)));
        assert!(spread.iter().max().unwrap() - spread.iter().min().unwrap() > 3_000_000);
        let after = arrivals(&mut path, [100_000_000], 100)[0];
        assert!(after < out[99], "{after:?} overtakes {:?}", out[99]);
    }

    #[test]
    fn nothing_crosses_a_black_hole() {
        let hole = Instant::from_millis(10)..Instant::from_millis(20);
        let config = PathConfig { black_holes: vec![hole], ..PathConfig::default() };
        let mut path = Path::new(config, 1, 0);
        let out = arrivals(&mut path, [9_999_999, 10_000_000, 19_999_999, 20_000_000], 60);
        assert_eq!(out, [Some(9_999_999), None, None, Some(20_000_000)]);
        assert_eq!(path.counters().lost_black_hole, 2);
    }

    #[test]
    fn frames_over_the_path_mtu_vanish() {
        let faults = Faults { frame_bytes_max: Some(1014), ..Faults::default() };
        let mut path = Path::new(PathConfig { faults, ..PathConfig::default() }, 1, 0);
        assert_eq!(arrivals(&mut path, [1], 1014), [Some(1)]);
        assert_eq!(arrivals(&mut path, [1], 1015), [None]);
        assert_eq!(path.counters().faults.lost_too_long, 1);
    }

    fn ipv4_header_sum(header: &[u8]) -> u16 {
        let sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        ((sum & 0xffff) + (sum >> 16)) as u16
    }

    #[test]
    fn only_ecn_capable_packets_are_marked_and_their_checksum_stays_right() {
        for (tos, marked) in [(0x00, None), (0x01, Some(0x03)), (0xba, Some(0xbb)), (0x03, Some(0x03))] {
            let mut frame = vec![0; 12];
            frame.extend([0x08, 0x00, 0x45, tos, 0, 40, 0x12, 0x34, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
            let sum = !ipv4_header_sum(&frame[14..]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
            assert_eq!(mark_ce(&mut frame), marked.is_some());
            assert_eq!(frame[15], marked.unwrap_or(tos));
            assert_eq!(ipv4_header_sum(&frame[14..]), 0xffff);
        }
        let mut frame = vec![0; 12];
        frame.extend([0x86, 0xdd, 0x60, 0x2f]);
        assert!(mark_ce(&mut frame));
        assert_eq!(frame[14..], [0x60, 0x3f]);
        frame[15] = 0x0f;
        assert!(!mark_ce(&mut frame));
    }

    #[test]
    fn marking_starts_at_the_threshold() {
        let bottleneck = Bottleneck { bits_per_s: 8_000, queue_bytes: 10_000, ecn_mark_bytes: Some(100) };
        let mut path = Path::new(PathConfig { bottleneck: Some(bottleneck), ..PathConfig::default() }, 1, 0);
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00, 0x45, 0x02]);
        frame.resize(60, 0);
        for _ in 0..5 {
            path.send(Instant::ZERO, &mut frame.clone());
        }
        assert_eq!(path.counters().ecn_marked, 3, "0 and 60 octets wait before the first two");
    }
}
