//! What a seed decides about each end of each connection, and the octets it sends.

use core::time::Duration;

use crate::chance::Chance;

/// What one end of a connection does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Script {
    /// Octets to send.
    pub(crate) total: u32,
    /// Octets queued at a time.
    pub(crate) chunk: u32,
    /// Queued by name and written again when needed, or copied.
    pub(crate) generated: bool,
    /// Pause between chunks.
    pub(crate) think: Option<Duration>,
    /// Closes only after the peer has.
    pub(crate) waits_for_peer: bool,
    /// Aborts when so many octets have been queued and received in all.
    pub(crate) abort_at: Option<u32>,
    /// Takes this much of what it is offered, then nothing for so long; so many times.
    pub(crate) reader: Option<Reader>,
}

/// An application that reads slowly.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader {
    pub(crate) takes: u32,
    pub(crate) pause: Duration,
    pub(crate) times: u32,
}

/// Which end: the opener is 0, the other 1.
pub(crate) type Role = usize;

/// Messages of one connection are told apart by so many bits of the tag.
pub(crate) const MESSAGE_BITS: u32 = 11;

impl Script {
    /// The script of one end of connection number `number`.
    pub(crate) fn new(seed: u64, aborts: bool, number: u32, role: Role) -> Self {
        // The opener's comes first: only if it does not wait for the peer may the peer wait for it.
        let opener_waits = role == 1 && Self::new(seed, aborts, number, 0).waits_for_peer;
        let mut chance = Chance::new(seed, 1000 + 2 * u64::from(number) + role as u64);
        let total = match chance.between(0, 9) {
            0 => 0,
            1..=4 => chance.between(1, 2_000),
            5..=7 => chance.scale(1_000, 30_000),
            8 => chance.scale(10_000, 200_000),
            _ => chance.scale(100_000, 600_000),
        } as u32;
        let think = chance.percent(20).then(|| chance.micros(100, 400_000));
        let pieces = if think.is_some() { 8 } else { 1000 };
        let least = (total / pieces).max(1);
        let chunk = chance.scale(u64::from(least), u64::from(total.max(least))) as u32;
        Self {
            total,
            chunk,
            generated: chance.percent(60),
            think,
            waits_for_peer: chance.percent(30) && !opener_waits,
            abort_at: (aborts && chance.percent(15)).then(|| chance.between(0, 50_000) as u32),
            reader: chance.percent(25).then(|| Reader {
                takes: chance.scale(1, 20_000) as u32,
                pause: chance.micros(100, 4_000_000),
                times: chance.between(1, 10) as u32,
            }),
        }
    }
}

/// Writes the octets from `offset` on of what connection `number` sends from its end `role`.
pub(crate) fn octets(number: u32, role: Role, offset: u32, out: &mut [u8]) {
    let key = u64::from(number) << 33 | (role as u64) << 32;
    let (mut at, mut out) = (offset, out);
    while !out.is_empty() {
        let word = (key | u64::from(at / 8)).wrapping_add(0x9e37_79b9).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ word >> 29).wrapping_mul(0x94d0_49bb_1331_11eb).to_le_bytes();
        let word = &word[(at % 8) as usize..];
        let n = word.len().min(out.len());
        let (now, later) = out.split_at_mut(n);
        now.copy_from_slice(&word[..n]);
        at += n as u32;
        out = later;
    }
}
