//! What can go wrong on the way, from a seed: one model for the simulated link and, as [`Faulty`], for any device.

use super::{BURST, Capabilities, Device, DeviceCounters, DeviceError, Frame};
use std::collections::VecDeque;

/// A probability, exact to 2⁻³².
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Probability(u64);

impl Probability {
    /// Never happens.
    pub const NEVER: Self = Self(0);
    /// Always happens.
    pub const ALWAYS: Self = Self(1 << 32);

    /// `n` in a million; more than a million means always.
    pub const fn ppm(n: u32) -> Self {
        if n >= 1_000_000 { Self::ALWAYS } else { Self(((n as u64) << 32) / 1_000_000) }
    }

    /// `n` in a hundred; more than a hundred means always.
    pub const fn percent(n: u32) -> Self {
        Self::ppm(n.saturating_mul(10_000))
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, fast, the same everywhere. For simulations, not for secrets.
#[derive(Clone, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// The generator's `stream`-th sequence for `seed`: streams of one seed are unrelated.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut mixer = Self(seed);
        Self(mixer.next_u64() ^ Self(stream).next_u64())
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, or zero if `bound` is zero. The bias is below `bound` · 2⁻⁶⁴.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// Whether something of this probability happens now.
    pub fn happens(&mut self, probability: Probability) -> bool {
        (self.next_u64() >> 32) < probability.0
    }
}

/// Loss in bursts: a two-state Markov chain that moves once per frame (Gilbert 1960, Elliott 1963).
/// A bad spell lasts 1/`leave` frames on average, and `enter` / (`enter` + `leave`) of all frames meet one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GilbertElliott {
    /// From the good state to the bad.
    pub enter: Probability,
    /// From the bad state to the good.
    pub leave: Probability,
    /// Loss while good; independent loss belongs into [`Faults::loss`].
    pub loss_good: Probability,
    /// Loss while bad.
    pub loss_bad: Probability,
}

/// The faults of one direction. The default has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Each frame by itself is lost.
    pub loss: Probability,
    /// Frames are lost in bursts.
    pub burst_loss: Option<GilbertElliott>,
    /// A frame arrives twice.
    pub duplicate: Probability,
    /// One bit of the IP packet is flipped. The Ethernet header, and what is not IP, stays whole: each hop checks the
    /// FCS, so what survives to a receiver was damaged inside a router, between two of them.
    pub corrupt: Probability,
    /// Later frames overtake this one: by how much is up to the device.
    pub reorder: Probability,
    /// Longer frames vanish without a word: a path MTU black hole. Octets of the Ethernet frame.
    pub frame_bytes_max: Option<usize>,
}

impl Faults {
    /// Independent loss of `percent` in a hundred, nothing else.
    pub fn lossy(percent: u32) -> Self {
        Self { loss: Probability::percent(percent), ..Self::default() }
    }
}

/// Why a frame never arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// By itself, at random.
    Random,
    /// In a bad spell.
    Burst,
    /// Longer than the path carries.
    TooLong,
    /// The path was a black hole just then.
    BlackHole,
    /// The queue before the bottleneck was full.
    QueueFull,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is lost.
    Lost(Loss),
    /// It arrives.
    Arrives {
        /// This bit is flipped, counted from the most significant of the first octet.
        flip_bit: Option<usize>,
        /// It arrives twice.
        twice: bool,
        /// Others overtake it.
        late: bool,
    },
}

/// What a fault model has done so far, in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounters {
    /// Judged.
    pub judged: u64,
    /// Lost at random.
    pub lost_random: u64,
    /// Lost in a bad spell.
    pub lost_burst: u64,
    /// Lost for their size.
    pub lost_too_long: u64,
    /// Marked to arrive twice.
    pub duplicated: u64,
    /// Marked to be corrupted.
    pub corrupted: u64,
    /// Marked to be overtaken.
    pub reordered: u64,
}

impl FaultCounters {
    /// Frames lost for whatever reason.
    pub fn lost(&self) -> u64 {
        self.lost_random + self.lost_burst + self.lost_too_long
    }
}

/// Decides over frames, one after the other.
///
/// Each kind of fault draws from a stream of its own, once per frame: adding one does not move the others.
#[derive(Clone, Debug)]
pub struct FaultModel {
    faults: Faults,
    counters: FaultCounters,
    bad_spell: bool,
    loss: SplitMix64,
    burst: SplitMix64,
    duplicate: SplitMix64,
    corrupt: SplitMix64,
    reorder: SplitMix64,
}

impl FaultModel {
    /// A model at its beginning. `direction` keeps the two directions of one seed apart.
    pub fn new(faults: Faults, seed: u64, direction: u64) -> Self {
        let stream = |kind| SplitMix64::new(seed, direction * 8 + kind);
        Self {
            faults,
            counters: FaultCounters::default(),
            bad_spell: false,
            loss: stream(0),
            burst: stream(1),
            duplicate: stream(2),
            corrupt: stream(3),
            reorder: stream(4),
        }
    }

    /// Replaces the faults; the streams of chance and the counters go on.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
        self.bad_spell &= faults.burst_loss.is_some();
    }

    /// What becomes of this frame.
    pub fn judge(&mut self, frame: &[u8]) -> Fate {
        let faults = self.faults;
        let lost_random = self.loss.happens(faults.loss);
        let lost_burst = faults.burst_loss.is_some_and(|chain| self.step(chain));
        let twice = self.duplicate.happens(faults.duplicate);
        let corrupt = self.corrupt.happens(faults.corrupt);
        let late = self.reorder.happens(faults.reorder);

        self.counters.judged += 1;
        if faults.frame_bytes_max.is_some_and(|max| frame.len() > max) {
            self.counters.lost_too_long += 1;
            return Fate::Lost(Loss::TooLong);
        }
        if lost_random {
            self.counters.lost_random += 1;
            return Fate::Lost(Loss::Random);
        }
        if lost_burst {
            self.counters.lost_burst += 1;
            return Fate::Lost(Loss::Burst);
        }
        let flip_bit = if corrupt { self.pick_bit(frame) } else { None };
        self.counters.corrupted += u64::from(flip_bit.is_some());
        self.counters.duplicated += u64::from(twice);
        self.counters.reordered += u64::from(late);
        Fate::Arrives { flip_bit, twice, late }
    }

    /// What was decided so far.
    pub fn counters(&self) -> FaultCounters {
        self.counters
    }

    /// Moves the chain on by one frame and says whether that frame is lost.
    fn step(&mut self, chain: GilbertElliott) -> bool {
        let (turn, loss) = if self.bad_spell { (chain.leave, chain.loss_bad) } else { (chain.enter, chain.loss_good) };
        let lost = self.burst.happens(loss);
        self.bad_spell ^= self.burst.happens(turn);
        lost
    }

    fn pick_bit(&mut self, frame: &[u8]) -> Option<usize> {
        let (ip_at, _) = super::ip_offset(frame)?;
        let bits = frame.len().saturating_sub(ip_at) * 8;
        (bits > 0).then(|| ip_at * 8 + self.corrupt.below(bits as u64) as usize)
    }
}

/// Flips one bit of `frame`, counted from the most significant of the first octet; none if there is no such bit.
pub fn flip_bit(frame: &mut [u8], bit: usize) {
    if let Some(octet) = frame.get_mut(bit / 8) {
        *octet ^= 0x80 >> (bit % 8);
    }
}

/// Frames a direction of [`Faulty`] may hold back at any time; more are let through in order.
const HELD_MAX: usize = 256;

/// Loops without traffic after which a frame held back is let go: nothing comes that could overtake it.
const IDLE_LOOPS_MAX: u32 = 1024;

/// A device with faults on both ways, for tests over links that have none of their own.
///
/// What is reordered is held back until a later burst has passed it. There is no delay: a device has no clock.
/// A duplicate needs a free frame; without one the frame arrives once.
pub struct Faulty<D: Device> {
    device: D,
    rx: FaultModel,
    tx: FaultModel,
    arrived: Vec<D::Frame>,
    ready: VecDeque<D::Frame>,
    rx_held: Held<D::Frame>,
    tx_held: Held<D::Frame>,
    counters: DeviceCounters,
}

/// Frames held back to be overtaken.
struct Held<F> {
    frames: VecDeque<F>,
    /// So many of them, the oldest, were here before the present burst.
    due: usize,
    /// A frame of the present burst went past.
    passed: bool,
    idle_loops: u32,
}

impl<F> Held<F> {
    fn new() -> Self {
        Self { frames: VecDeque::with_capacity(HELD_MAX), due: 0, passed: false, idle_loops: 0 }
    }

    /// Ends a burst and says how many of the oldest frames may go after it.
    fn end_burst(&mut self) -> usize {
        self.idle_loops = if self.due > 0 { self.idle_loops + 1 } else { 0 };
        let go = if self.passed || self.idle_loops > IDLE_LOOPS_MAX { self.due } else { 0 };
        if go > 0 {
            self.idle_loops = 0;
        }
        self.passed = false;
        self.due = self.frames.len() - go;
        go
    }
}

impl<D: Device> Faulty<D> {
    /// Puts `rx` and `tx` faults, drawn from `seed`, before `device`.
    pub fn new(device: D, rx: Faults, tx: Faults, seed: u64) -> Self {
        Self {
            device,
            rx: FaultModel::new(rx, seed, 0),
            tx: FaultModel::new(tx, seed, 1),
            arrived: Vec::with_capacity(BURST),
            ready: VecDeque::with_capacity(2 * BURST + HELD_MAX),
            rx_held: Held::new(),
            tx_held: Held::new(),
            counters: DeviceCounters::default(),
        }
    }

    /// What was done to received frames.
    pub fn rx_faults(&self) -> FaultCounters {
        self.rx.counters()
    }

    /// What was done to transmitted frames.
    pub fn tx_faults(&self) -> FaultCounters {
        self.tx.counters()
    }

    /// The device below.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Takes one burst from the device and passes judgement on it.
    fn take_in(&mut self) {
        let Self { device, rx, arrived, ready, rx_held, .. } = self;
        device.receive(arrived);
        for mut frame in arrived.drain(..) {
            let (bit, twice, late) = match rx.judge(frame.bytes()) {
                Fate::Lost(_) => {
                    device.release(frame);
                    continue;
                }
                Fate::Arrives { flip_bit, twice, late } => (flip_bit, twice, late),
            };
            if let Some(bit) = bit {
                flip_bit(frame.bytes_mut(), bit);
            }
            if let Some(copy) = if twice { copy_of(device, &frame) } else { None } {
                ready.push_back(copy);
                rx_held.passed = true;
            }
            if late && rx_held.frames.len() < HELD_MAX {
                rx_held.frames.push_back(frame);
            } else {
                ready.push_back(frame);
                rx_held.passed = true;
            }
        }
        let go = rx_held.end_burst();
        ready.extend(rx_held.frames.drain(..go));
    }

    /// Transmits what later frames have overtaken by now.
    fn send_overtaken(&mut self) -> bool {
        let go = self.tx_held.end_burst();
        for sent in 0..go {
            let Some(frame) = self.tx_held.frames.pop_front() else { break };
            if let Err(frame) = self.device.transmit(frame) {
                self.tx_held.frames.push_front(frame);
                self.tx_held.due += go - sent;
                self.tx_held.passed = true;
                break;
            }
        }
        go > 0
    }
}

fn copy_of<D: Device>(device: &mut D, frame: &D::Frame) -> Option<D::Frame> {
    let mut copy = device.allocate()?;
    copy.resize(frame.bytes().len()).copy_from_slice(frame.bytes());
    Some(copy)
}

impl<D: Device> Device for Faulty<D> {
    type Frame = D::Frame;

    fn capabilities(&self) -> &Capabilities {
        self.device.capabilities()
    }

    fn reap(&mut self) {
        self.device.reap();
        if self.send_overtaken() {
            self.device.doorbell();
        }
    }

    fn receive(&mut self, burst: &mut Vec<D::Frame>) -> usize {
        if self.ready.is_empty() {
            self.take_in();
        }
        let count = self.ready.len().min(burst.capacity() - burst.len());
        for frame in self.ready.drain(..count) {
            self.counters.rx_frames += 1;
            self.counters.rx_bytes += frame.bytes().len() as u64;
            burst.push(frame);
        }
        count
    }

    fn allocate(&mut self) -> Option<D::Frame> {
        let frame = self.device.allocate();
        self.counters.tx_full += u64::from(frame.is_none());
        frame
    }

    fn transmit(&mut self, mut frame: D::Frame) -> Result<(), D::Frame> {
        let bytes = frame.bytes().len() as u64;
        match self.tx.judge(frame.bytes()) {
            Fate::Lost(_) => self.device.release(frame),
            Fate::Arrives { flip_bit: bit, twice, late } => {
                if let Some(bit) = bit {
                    flip_bit(frame.bytes_mut(), bit);
                }
                let copy = if twice { copy_of(&mut self.device, &frame) } else { None };
                if late && self.tx_held.frames.len() < HELD_MAX {
                    self.tx_held.frames.push_back(frame);
                } else if let Err(mut frame) = self.device.transmit(frame) {
                    // The caller will offer it again, and it is to be whole then.
                    if let Some(bit) = bit {
                        flip_bit(frame.bytes_mut(), bit);
                    }
                    if let Some(copy) = copy {
                        self.device.release(copy);
                    }
                    self.counters.tx_full += 1;
                    return Err(frame);
                } else {
                    self.tx_held.passed = true;
                }
                if let Some(Err(refused)) = copy.map(|copy| self.device.transmit(copy)) {
                    self.device.release(refused);
                }
            }
        }
        self.counters.tx_frames += 1;
        self.counters.tx_bytes += bytes;
        Ok(())
    }

    fn release(&mut self, frame: D::Frame) {
        self.device.release(frame);
    }

    fn doorbell(&mut self) {
        self.send_overtaken();
        self.device.doorbell();
    }

    /// Frames as the engine sees them; those that the faults took count as dropped.
    fn counters(&self) -> DeviceCounters {
        let below = self.device.counters();
        DeviceCounters {
            rx_dropped: below.rx_dropped + self.rx.counters().lost(),
            tx_dropped: below.tx_dropped + self.tx.counters().lost(),
            doorbells: below.doorbells,
            ..self.counters
        }
    }

    fn health(&mut self) -> Result<(), DeviceError> {
        self.device.health()
    }
}

#[cfg(test)]
#[path = "fault_tests.rs"]
mod tests;
