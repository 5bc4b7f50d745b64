use super::super::link::{Link, LinkConfig, LinkDevice, LinkFrame};
use super::*;

/// An IPv4 frame that carries `number` and its complement.
fn frame(number: u64) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([0x08, 0x00, 0x45, 0, 0, 36, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend(number.to_be_bytes());
    frame.extend((!number).to_be_bytes());
    frame
}

fn number_of(frame: &[u8]) -> Option<u64> {
    let number = u64::from_be_bytes(frame[34..42].try_into().unwrap());
    (frame == self::frame(number)).then_some(number)
}

/// Whether `hits` of `n` is within five standard deviations of probability `ppm`.
fn plausible(hits: u64, n: u64, ppm: u32) -> bool {
    let (n, p) = (n as f64, f64::from(ppm) / 1e6);
    (hits as f64 - n * p).abs() <= 5.0 * (n * p * (1.0 - p)).sqrt()
}

#[test]
fn ratios_are_what_was_asked_for() {
    const N: u64 = 200_000;
    for ppm in [0, 100, 10_000, 50_000, 500_000, 1_000_000] {
        let p = Probability::ppm(ppm);
        let faults = Faults { loss: p, duplicate: p, corrupt: p, reorder: p, ..Faults::default() };
        let mut model = FaultModel::new(faults, 11, 0);
        let frame = frame(1);
        for _ in 0..N {
            model.judge(&frame);
        }
        let counters = model.counters();
        assert_eq!(counters.judged, N);
        assert!(plausible(counters.lost_random, N, ppm), "{ppm} ppm: {counters:?}");
        let rest = N - counters.lost_random;
        for hits in [counters.duplicated, counters.corrupted, counters.reordered] {
            assert!(plausible(hits, rest, ppm), "{ppm} ppm: {counters:?}");
        }
    }
}

#[test]
fn bursts_have_the_length_and_the_share_of_the_chain() {
    let chain = GilbertElliott {
        enter: Probability::percent(1),
        leave: Probability::percent(10),
        loss_good: Probability::NEVER,
        loss_bad: Probability::ALWAYS,
    };
    let mut model = FaultModel::new(Faults { burst_loss: Some(chain), ..Faults::default() }, 5, 0);
    let (mut bursts, mut lost_before) = (0u64, false);
    const N: u64 = 400_000;
    for _ in 0..N {
        let lost = matches!(model.judge(&[]), Fate::Lost(Loss::Burst));
        bursts += u64::from(lost && !lost_before);
        lost_before = lost;
    }
    let lost = model.counters().lost_burst;
    let share = lost as f64 / N as f64;
    let length = lost as f64 / bursts as f64;
    assert!((0.08..0.102).contains(&share), "1 / 11 of all frames, not {share}");
    assert!((9.3..10.7).contains(&length), "10 frames a burst, not {length}");
}

#[test]
fn one_fault_does_not_move_another() {
    let loss = Faults::lossy(5);
    let more = Faults { duplicate: Probability::percent(50), corrupt: Probability::percent(50), ..loss };
    let (mut a, mut b) = (FaultModel::new(loss, 3, 0), FaultModel::new(more, 3, 0));
    for number in 0..10_000 {
        let frame = frame(number);
        let (a, b) = (a.judge(&frame), b.judge(&frame));
        assert_eq!(matches!(a, Fate::Lost(_)), matches!(b, Fate::Lost(_)));
    }
}

#[test]
fn corruption_flips_one_bit_past_the_ethernet_header_and_leaves_arp_alone() {
    let mut model = FaultModel::new(Faults { corrupt: Probability::ALWAYS, ..Faults::default() }, 8, 0);
    let mut seen = [false; 50];
    for number in 0..5_000 {
        let whole = frame(number);
        let Fate::Arrives { flip_bit: Some(bit), .. } = model.judge(&whole) else { panic!("not corrupted") };
        let mut damaged = whole.clone();
        flip_bit(&mut damaged, bit);
        let differing: u32 = whole.iter().zip(&damaged).map(|(a, b)| (a ^ b).count_ones()).sum();
        assert_eq!(differing, 1);
        seen[bit / 8] = true;
    }
    assert_eq!(seen.iter().position(|&hit| hit), Some(14));
    assert!(seen[14..].iter().all(|&hit| hit));

    let mut arp = vec![0; 60];
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    assert!(matches!(model.judge(&arp), Fate::Arrives { flip_bit: None, .. }));
}

fn bed(rx: Faults, tx: Faults) -> (Link, Faulty<LinkDevice>, LinkDevice) {
    let (link, a, b) = Link::pair(LinkConfig::default(), 1);
    (link, Faulty::new(a, rx, tx, 77), b)
}

fn send<D: Device<Frame = LinkFrame>>(device: &mut D, number: u64) {
    let mut buffer = device.allocate().unwrap();
    let bytes = frame(number);
    buffer.resize(bytes.len()).copy_from_slice(&bytes);
    device.transmit(buffer).unwrap();
}

fn take<D: Device<Frame = LinkFrame>>(device: &mut D) -> Vec<Option<u64>> {
    let mut burst = Vec::with_capacity(16);
    let mut out = Vec::new();
    while device.receive(&mut burst) > 0 {
        for frame in burst.drain(..) {
            out.push(number_of(frame.bytes()));
            device.release(frame);
        }
    }
    out
}

fn all_faults() -> Faults {
    let p = Probability::percent(5);
    Faults { loss: p, duplicate: p, corrupt: p, reorder: p, ..Faults::default() }
}

#[test]
fn both_ways_through_the_decorator_every_frame_is_accounted_for() {
    let (link, mut a, mut b) = bed(all_faults(), all_faults());
    let (mut at_a, mut at_b) = (Vec::new(), Vec::new());
    for round in 0..1_000 {
        a.reap();
        at_a.extend(take(&mut a));
        at_b.extend(take(&mut b));
        for number in 0..10 {
            send(&mut a, round * 10 + number);
            send(&mut b, round * 10 + number);
        }
        a.doorbell();
    }
    for _ in 0..2 * IDLE_LOOPS_MAX {
        a.reap();
        at_a.extend(take(&mut a));
        a.doorbell();
    }
    at_b.extend(take(&mut b));
    assert_eq!(link.free_frames(), LinkConfig::default().frames, "nothing is held for ever");

    let ways = [(at_a, a.rx_faults()), (at_b, a.tx_faults())];
    for (arrived, faults) in &ways {
        assert_eq!(faults.judged, 10_000);
        assert_eq!(arrived.len() as u64, 10_000 - faults.lost() + faults.duplicated);
        let whole: Vec<u64> = arrived.iter().copied().flatten().collect();
        let damaged = (arrived.len() - whole.len()) as u64;
        assert!(faults.corrupted <= damaged && damaged <= faults.corrupted * 6 / 5);
        let overtaken = whole.windows(2).filter(|pair| pair[0] > pair[1]).count() as u64;
        assert!(overtaken * 2 > faults.reordered, "{overtaken} of {} overtaken", faults.reordered);
    }
    let counters = a.counters();
    assert_eq!((counters.tx_frames, counters.tx_dropped), (10_000, ways[1].1.lost()));
    assert_eq!((counters.rx_frames, counters.rx_dropped), (ways[0].0.len() as u64, ways[0].1.lost()));
}

#[test]
fn a_frame_held_back_goes_after_the_next_burst_or_when_nothing_comes() {
    let late = Faults { reorder: Probability::ALWAYS, ..Faults::default() };
    let (_link, mut a, mut b) = bed(Faults::default(), late);
    send(&mut a, 1);
    a.doorbell();
    assert_eq!(take(&mut b), []);
    for _ in 0..IDLE_LOOPS_MAX + 1 {
        a.reap();
        a.doorbell();
    }
    assert_eq!(take(&mut b), [Some(1)]);
}

/// A device that refuses every second frame.
struct Moody {
    inner: LinkDevice,
    refuse: bool,
}

impl Device for Moody {
    type Frame = LinkFrame;

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn reap(&mut self) {
        self.inner.reap();
    }

    fn receive(&mut self, burst: &mut Vec<LinkFrame>) -> usize {
        self.inner.receive(burst)
    }

    fn allocate(&mut self) -> Option<LinkFrame> {
        self.inner.allocate()
    }

    fn transmit(&mut self, frame: LinkFrame) -> Result<(), LinkFrame> {
        self.refuse = !self.refuse;
        if self.refuse { Err(frame) } else { self.inner.transmit(frame) }
    }

    fn release(&mut self, frame: LinkFrame) {
        self.inner.release(frame);
    }

    fn doorbell(&mut self) {
        self.inner.doorbell();
    }

    fn counters(&self) -> DeviceCounters {
        self.inner.counters()
    }
}

#[test]
fn a_refused_frame_comes_back_whole() {
    let (link, inner, mut b) = Link::pair(LinkConfig::default(), 1);
    let mut a = Faulty::new(Moody { inner, refuse: false }, Faults::default(), all_faults(), 3);
    for number in 0..2_000 {
        let mut buffer = a.allocate().unwrap();
        buffer.resize(50).copy_from_slice(&frame(number));
        while let Err(refused) = a.transmit(buffer) {
            assert_eq!(number_of(refused.bytes()), Some(number));
            buffer = refused;
        }
        a.doorbell();
        take(&mut b);
    }
    for _ in 0..2 * IDLE_LOOPS_MAX {
        a.reap();
    }
    take(&mut b);
    assert_eq!(a.counters().tx_frames, 2_000);
    assert!(a.counters().tx_full > 0);
    assert_eq!(link.free_frames(), LinkConfig::default().frames);
}
