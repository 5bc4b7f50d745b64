//! TCP options (RFC 9293 §3.2, RFC 7323, RFC 2018): read in one pass, written in the order Linux writes them.

use super::checksum::Sum;
use super::seq::Seq;

/// The most octets of options that a TCP header has room for.
pub const OPTIONS_LEN_MAX: usize = 40;

/// The largest window shift that may be used (RFC 7323 §2.3).
pub const WINDOW_SCALE_MAX: u8 = 14;

/// Octets of a timestamp option with the two no-operations that align it.
pub const TIMESTAMPS_LEN: usize = 12;

/// Octets of the options of a SYN that offers everything.
pub(crate) const OFFER_LEN: usize = 20;

const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;

/// `nop nop` and the head of a timestamp option: how nearly every segment's options begin.
const ALIGNED_TIMESTAMPS: [u8; 4] = [NOP, NOP, TIMESTAMPS, 10];

/// The timestamp option (RFC 7323 §3.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timestamps {
    // Neighbours of the option, the other way round: then they are turned and stored in one piece
    /// TSecr: the clock it echoes; means something only if ACK is set.
    pub echo: u32,
    /// TSval: the sender's clock.
    pub value: u32,
}

/// Octets received out of order: `start =< seq < end` (RFC 2018 §3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SackBlock {
    /// Left edge: the first octet of the block.
    pub start: Seq,
    /// Right edge: the octet after its last.
    pub end: Seq,
}

/// Up to four SACK blocks, in the order they were sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SackBlocks {
    len: u8,
    blocks: [SackBlock; Self::MAX],
}

impl SackBlocks {
    /// The most blocks that fit into a header.
    pub const MAX: usize = 4;

    /// No blocks.
    pub const NONE: Self = Self { len: 0, blocks: [SackBlock { start: Seq(0), end: Seq(0) }; Self::MAX] };

    /// The blocks.
    #[inline]
    pub fn as_slice(&self) -> &[SackBlock] {
        self.blocks.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// Whether there is none.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends `block`; says whether there was room for it.
    #[inline]
    pub fn push(&mut self, block: SackBlock) -> bool {
        match self.blocks.get_mut(usize::from(self.len)) {
            Some(slot) => {
                *slot = block;
                self.len += 1;
                true
            }
            None => false,
        }
    }
}

/// The options of one segment, received or to be sent.
///
/// Which of them mean something on which segment is for the reader to know: the first three count on a SYN only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpOptions {
    /// Maximum segment size, octets.
    pub mss: Option<u16>,
    /// Window shift, at most [`WINDOW_SCALE_MAX`] (a larger one is received as that).
    pub window_scale: Option<u8>,
    /// Whether SACK may be sent to the sender.
    pub sack_permitted: bool,
    /// Timestamps.
    pub timestamps: Option<Timestamps>,
    /// SACK blocks.
    pub sack: SackBlocks,
    /// Whether the options received break their own lengths. What came before the break is kept.
    pub malformed: bool,
}

impl TcpOptions {
    /// No options.
    pub const NONE: Self = Self {
        mss: None,
        window_scale: None,
        sack_permitted: false,
        timestamps: None,
        sack: SackBlocks::NONE,
        malformed: false,
    };

    /// Timestamps only: the options of nearly every segment.
    #[inline]
    pub const fn with_timestamps(timestamps: Timestamps) -> Self {
        Self { timestamps: Some(timestamps), ..Self::NONE }
    }

    /// What nearly every SYN offers.
    #[inline]
    pub(super) const fn offering(offer: Offer) -> Self {
        let mut options = Self::NONE;
        options.take_offer(offer);
        options
    }

    /// Puts in what nearly every SYN offers.
    #[inline(always)]
    pub(super) const fn take_offer(&mut self, offer: Offer) {
        self.mss = Some(offer.mss);
        self.window_scale = Some(offer.window_scale);
        self.sack_permitted = true;
        self.timestamps = Some(offer.timestamps);
    }

    /// Reads the options of a header.
    ///
    /// An option whose length cannot be followed ends the reading (RFC 9293 MUST-7); a known option of a wrong length
    /// is stepped over. Both count as malformed. Where an option comes twice the later one holds.
    #[inline]
    pub fn parse(octets: &[u8]) -> Self {
        let timestamps = <&[u8; TIMESTAMPS_LEN]>::try_from(octets).ok().and_then(Timestamps::parse_alone);
        let offer = <&[u8; OFFER_LEN]>::try_from(octets).ok().and_then(Offer::parse);
        let mut options = Self::NONE;
        match (timestamps, offer) {
            (Some(timestamps), _) => options.timestamps = Some(timestamps),
            (None, Some(offer)) => options.take_offer(offer),
            (None, None) => return Self::parse_each(octets),
        }
        options
    }

    //= RFC 9293 MUST-4, MUST-6, MUST-64, MUST-68
    fn parse_each(mut rest: &[u8]) -> Self {
        let mut options = Self::NONE;
        loop {
            match *rest {
                [] | [END, ..] => return options,
                [NOP, ref after @ ..] => rest = after,
                [kind, len, ..] if len >= 2 && usize::from(len) <= rest.len() => {
                    let (option, after) = rest.split_at(usize::from(len));
                    options.take(kind, &option[2..]);
                    rest = after;
                }
                _ => {
                    //= RFC 9293 MUST-7
                    options.malformed = true;
                    return options;
                }
            }
        }
    }

    fn take(&mut self, kind: u8, value: &[u8]) {
        match (kind, value) {
            (MSS, &[a, b]) => self.mss = Some(u16::from_be_bytes([a, b])),
            //= RFC 7323 2.3-MUST-3, 2.3-SHOULD-1
            (WINDOW_SCALE, &[shift]) => self.window_scale = Some(shift.min(WINDOW_SCALE_MAX)),
            (SACK_PERMITTED, []) => self.sack_permitted = true,
            (TIMESTAMPS, &[a, b, c, d, e, f, g, h]) => {
                let value = u32::from_be_bytes([a, b, c, d]);
                self.timestamps = Some(Timestamps { value, echo: u32::from_be_bytes([e, f, g, h]) });
            }
            (SACK, edges) => match edges.as_chunks::<8>() {
                (blocks, []) if !blocks.is_empty() => {
                    self.sack = SackBlocks::NONE;
                    for &[a, b, c, d, e, f, g, h] in blocks {
                        let start = Seq(u32::from_be_bytes([a, b, c, d]));
                        self.sack.push(SackBlock { start, end: Seq(u32::from_be_bytes([e, f, g, h])) });
                    }
                }
                _ => self.malformed = true,
            },
            (MSS | WINDOW_SCALE | SACK_PERMITTED | TIMESTAMPS, _) => self.malformed = true,
            _ => {}
        }
    }

    /// Whether there is nothing to send but, perhaps, timestamps.
    #[inline]
    fn is_plain(&self) -> bool {
        self.mss.is_none() && self.window_scale.is_none() && !self.sack_permitted && self.sack.is_empty()
    }

    /// Octets that [`emit`](TcpOptions::emit) writes: a multiple of four, at most [`OPTIONS_LEN_MAX`].
    #[inline]
    pub fn emitted_len(&self) -> usize {
        let timestamps = if self.timestamps.is_some() { TIMESTAMPS_LEN } else { 0 };
        if self.is_plain() {
            return timestamps;
        }
        let fixed = self.fixed_len();
        let blocks = self.blocks_that_fit(fixed);
        fixed + if blocks == 0 { 0 } else { 4 + 8 * blocks }
    }

    /// Octets of everything but the SACK blocks.
    fn fixed_len(&self) -> usize {
        let pair = match (self.timestamps, self.sack_permitted) {
            (Some(_), _) => TIMESTAMPS_LEN,
            (None, true) => 4,
            (None, false) => 0,
        };
        let mss = if self.mss.is_some() { 4 } else { 0 };
        let window_scale = if self.window_scale.is_some() { 4 } else { 0 };
        mss + pair + window_scale
    }

    fn blocks_that_fit(&self, fixed: usize) -> usize {
        self.sack.as_slice().len().min(OPTIONS_LEN_MAX.saturating_sub(fixed + 4) / 8)
    }

    /// Writes the options to the start of `octets` and returns how many octets that took, or `None` if there is no
    /// room for [`emitted_len`](TcpOptions::emitted_len) of them. SACK blocks that a header has no room for are left
    /// out, the last first.
    ///
    /// The order and the padding are those of Linux, so that a middlebox sees nothing new.
    #[inline]
    pub fn emit(&self, octets: &mut [u8]) -> Option<usize> {
        if !self.is_plain() {
            return self.emit_each(octets);
        }
        let Some(timestamps) = self.timestamps else { return Some(0) };
        timestamps.emit(octets.first_chunk_mut()?, [NOP, NOP]);
        Some(TIMESTAMPS_LEN)
    }

    /// The timestamps, if there is nothing else to send.
    #[inline(always)]
    pub(crate) fn only_timestamps(&self) -> Option<Timestamps> {
        self.timestamps.filter(|_| self.is_plain())
    }

    /// The options of a SYN, if all of them and nothing else are to be sent.
    #[inline(always)]
    pub(crate) fn full_offer(&self) -> Option<Offer> {
        match (self.mss, self.window_scale, self.timestamps) {
            (Some(mss), Some(window_scale), Some(timestamps)) if self.sack_permitted && self.sack.is_empty() => {
                Some(Offer { mss, window_scale, timestamps })
            }
            _ => None,
        }
    }

    /// [`emit`](TcpOptions::emit), with the sum of what it wrote.
    #[inline]
    pub(crate) fn emit_summed(&self, octets: &mut [u8]) -> Option<(usize, Sum)> {
        if let Some(timestamps) = self.only_timestamps() {
            return Some((TIMESTAMPS_LEN, timestamps.emit_summed(octets.first_chunk_mut()?)));
        }
        let len = self.emit(octets)?;
        Some((len, Sum::of(octets.get(..len)?)))
    }

    //= RFC 9293 MUST-68
    fn emit_each(&self, octets: &mut [u8]) -> Option<usize> {
        if let Some(offer) = self.full_offer() {
            offer.emit_summed(octets.first_chunk_mut()?);
            return Some(OFFER_LEN);
        }
        let len = self.emitted_len();
        let mut rest = octets.get_mut(..len)?;
        if let Some(mss) = self.mss {
            let [a, b] = mss.to_be_bytes();
            rest = put(rest, [MSS, 4, a, b])?;
        }
        match (self.timestamps, self.sack_permitted) {
            (Some(timestamps), sack_permitted) => {
                let (option, after) = rest.split_first_chunk_mut()?;
                timestamps.emit(option, if sack_permitted { [SACK_PERMITTED, 2] } else { [NOP, NOP] });
                rest = after;
            }
            (None, true) => rest = put(rest, [NOP, NOP, SACK_PERMITTED, 2])?,
            (None, false) => {}
        }
        if let Some(shift) = self.window_scale {
            rest = put(rest, [NOP, WINDOW_SCALE, 3, shift.min(WINDOW_SCALE_MAX)])?;
        }
        let blocks = self.blocks_that_fit(self.fixed_len());
        if blocks > 0 {
            rest = put(rest, [NOP, NOP, SACK, 2 + 8 * blocks as u8])?;
            for block in &self.sack.as_slice()[..blocks] {
                rest = put(rest, block.start.0.to_be_bytes())?;
                rest = put(rest, block.end.0.to_be_bytes())?;
            }
        }
        Some(len)
    }
}

/// The options of a SYN that offers everything, as most do: MSS, SACK, timestamps, window scaling.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    pub(crate) mss: u16,
    pub(crate) window_scale: u8,
    pub(crate) timestamps: Timestamps,
}

impl Offer {
    /// Reads them if they come in the order that Linux and we write them in.
    #[inline(always)]
    pub(super) fn parse(octets: &[u8; OFFER_LEN]) -> Option<Self> {
        let [mss, pair, value, echo, scale] = words(octets).map(u32::from_be_bytes);
        let usual = mss & !0xffff == Self::MSS && pair == Self::SACK_AND_TIMESTAMPS && scale & !0xff == Self::SCALE;
        if !usual {
            return None;
        }
        Some(Self {
            mss: mss as u16,
            window_scale: (scale as u8).min(WINDOW_SCALE_MAX),
            timestamps: Timestamps { value, echo },
        })
    }

    const MSS: u32 = u32::from_be_bytes([MSS, 4, 0, 0]);
    const SACK_AND_TIMESTAMPS: u32 = u32::from_be_bytes([SACK_PERMITTED, 2, TIMESTAMPS, 10]);
    const SCALE: u32 = u32::from_be_bytes([NOP, WINDOW_SCALE, 3, 0]);

    /// Writes them; the sum is taken over the words.
    #[inline]
    pub(crate) fn emit_summed(self, octets: &mut [u8; OFFER_LEN]) -> Sum {
        let words = [
            Self::MSS | u32::from(self.mss),
            Self::SACK_AND_TIMESTAMPS,
            self.timestamps.value,
            self.timestamps.echo,
            Self::SCALE | u32::from(self.window_scale.min(WINDOW_SCALE_MAX)),
        ];
        let (chunks, _) = octets.as_chunks_mut::<4>();
        for (chunk, word) in chunks.iter_mut().zip(words) {
            *chunk = word.to_be_bytes();
        }
        words.into_iter().fold(Sum::ZERO, Sum::add_u32)
    }
}

impl Timestamps {
    /// Reads the option after two no-operations, if that is what all the options are.
    #[inline(always)]
    pub(super) fn parse_alone(octets: &[u8; TIMESTAMPS_LEN]) -> Option<Self> {
        let clocks = u64::from_be_bytes(*octets.last_chunk()?);
        let timestamps = Self { echo: clocks as u32, value: (clocks >> 32) as u32 };
        octets.starts_with(&ALIGNED_TIMESTAMPS).then_some(timestamps)
    }

    /// The option after two no-operations, and its sum: taken over the fields, as reading back octets just written would
    /// stall.
    #[inline]
    pub(crate) fn emit_summed(self, octets: &mut [u8; TIMESTAMPS_LEN]) -> Sum {
        self.emit(octets, [NOP, NOP]);
        Sum::ZERO.add_u32(u32::from_be_bytes(ALIGNED_TIMESTAMPS)).add_u32(self.value).add_u32(self.echo)
    }

    #[inline]
    fn emit(self, octets: &mut [u8; TIMESTAMPS_LEN], [a, b]: [u8; 2]) {
        octets[..4].copy_from_slice(&[a, b, TIMESTAMPS, 10]);
        octets[4..8].copy_from_slice(&self.value.to_be_bytes());
        octets[8..].copy_from_slice(&self.echo.to_be_bytes());
    }
}

/// The words of options that are all words.
#[inline(always)]
fn words<const LEN: usize, const WORDS: usize>(octets: &[u8; LEN]) -> [[u8; 4]; WORDS] {
    const { assert!(LEN == WORDS * 4) };
    octets.as_chunks().0.first_chunk().copied().unwrap_or([[0; 4]; WORDS])
}

fn put(octets: &mut [u8], word: [u8; 4]) -> Option<&mut [u8]> {
    let (head, rest) = octets.split_first_chunk_mut()?;
    *head = word;
    Some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::samples::XorShift;

    const TS: Timestamps = Timestamps { value: 0x0102_0304, echo: 0x0506_0708 };
    const TS_OCTETS: [u8; 10] = [8, 10, 1, 2, 3, 4, 5, 6, 7, 8];

    fn syn(sack_permitted: bool, timestamps: Option<Timestamps>, window_scale: Option<u8>) -> TcpOptions {
        TcpOptions { mss: Some(1460), window_scale, sack_permitted, timestamps, ..TcpOptions::NONE }
    }

    fn blocks(n: u32) -> SackBlocks {
        let mut blocks = SackBlocks::NONE;
        for i in 0..n {
            assert!(blocks.push(SackBlock { start: Seq(i * 100), end: Seq(i * 100 + 50) }));
        }
        blocks
    }

    fn emitted(options: &TcpOptions) -> Vec<u8> {
        let mut octets = [0xee; OPTIONS_LEN_MAX];
        let len = options.emit(&mut octets).unwrap();
        assert_eq!(len, options.emitted_len());
        assert_eq!(len % 4, 0);
        for short in 0..len {
            assert_eq!(options.emit(&mut { octets }[..short]), None);
        }
        octets[..len].to_vec()
    }

    #[test]
    //= RFC 9293 MUST-68
    fn the_order_is_that_of_linux() {
        let mss: &[u8] = &[2, 4, 0x05, 0xb4];
        let cases: [(TcpOptions, Vec<u8>); 9] = [
            (TcpOptions::NONE, vec![]),
            (syn(true, Some(TS), Some(7)), [mss, &[4, 2], &TS_OCTETS, &[1, 3, 3, 7]].concat()),
            (syn(true, None, Some(7)), [mss, &[1, 1, 4, 2, 1, 3, 3, 7]].concat()),
            (syn(false, None, Some(7)), [mss, &[1, 3, 3, 7]].concat()),
            (syn(true, None, None), [mss, &[1, 1, 4, 2]].concat()),
            (syn(false, Some(TS), None), [mss, &[1, 1], &TS_OCTETS].concat()),
            (syn(false, None, None), mss.to_vec()),
            (TcpOptions::with_timestamps(TS), [&[1, 1], &TS_OCTETS[..]].concat()),
            (
                TcpOptions { timestamps: Some(TS), sack: blocks(1), ..TcpOptions::NONE },
                [&[1, 1][..], &TS_OCTETS, &[1, 1, 5, 10, 0, 0, 0, 0, 0, 0, 0, 50]].concat(),
            ),
        ];
        for (options, octets) in cases {
            assert_eq!(emitted(&options), octets, "{options:?}");
            assert_eq!(TcpOptions::parse(&octets), options);
        }
    }

    #[test]
    fn blocks_beyond_the_room_are_left_out() {
        let bare = TcpOptions { sack: blocks(4), ..TcpOptions::NONE };
        assert_eq!(TcpOptions::parse(&emitted(&bare)), bare);
        let stamped = TcpOptions { timestamps: Some(TS), ..bare };
        assert_eq!(emitted(&stamped).len(), OPTIONS_LEN_MAX);
        assert_eq!(TcpOptions::parse(&emitted(&stamped)), TcpOptions { sack: blocks(3), ..stamped });
        assert!(!blocks(4).push(SackBlock::default()));
    }

    #[test]
    //= RFC 9293 MUST-4, MUST-6, MUST-64
    fn end_of_options_ends_them_and_the_unknown_is_stepped_over() {
        let octets = [34, 4, 9, 9, 254, 2, 1, 2, 4, 1, 0, 0, 8, 10];
        assert_eq!(TcpOptions::parse(&octets), TcpOptions { mss: Some(256), ..TcpOptions::NONE });
    }

    #[test]
    //= RFC 7323 2.3-MUST-3
    fn a_large_shift_is_received_as_the_largest() {
        assert_eq!(TcpOptions::parse(&[3, 3, 255, 0]).window_scale, Some(WINDOW_SCALE_MAX));
    }

    #[test]
    //= RFC 9293 MUST-7
    fn malformed_options_keep_what_came_before() {
        let kept = TcpOptions { mss: Some(1460), malformed: true, ..TcpOptions::NONE };
        for tail in [
            &[8, 0, 1, 1][..],
            &[8, 1, 1, 1],
            &[8, 10, 0, 0],
            &[8],
            &[99, 0],
            &[5, 2, 1, 1],
            &[5, 9, 1, 1, 1, 1, 1, 1, 1],
        ] {
            let octets = [&[2, 4, 0x05, 0xb4], tail].concat();
            assert_eq!(TcpOptions::parse(&octets), kept, "{tail:?}");
        }
        // A known option of a wrong length is stepped over.
        assert_eq!(TcpOptions::parse(&[3, 4, 1, 1, 2, 4, 0x05, 0xb4]), kept);
    }

    #[test]
    fn noise_is_survived_and_what_is_read_can_be_sent() {
        let mut random = XorShift::new(7323);
        for _ in 0..200_000 {
            let octets: [u8; OPTIONS_LEN_MAX] = core::array::from_fn(|_| (random.next() % 12) as u8);
            let options = TcpOptions::parse(&octets[..(random.next() % 41) as usize]);
            assert!(options.emit(&mut [0; OPTIONS_LEN_MAX]).is_some());
        }
    }
}
