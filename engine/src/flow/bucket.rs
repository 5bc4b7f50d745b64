//! Buckets of the flow table: eight entries in a cache line, 512 such lines in a segment, and the ways of an entry there.
//!
//! An entry goes to the first bucket with room on a way that starts at its home and follows from its tag. The eight
//! `passed` bits of a bucket are one number: how many entries went past it. Zero ends a search, so hits and misses alike
//! cost one line most times, and removal leaves no tombstone. At the presized load of 0.79 28 of 100 misses need a second
//! line, and 100 hits need 12 more.
//!
//! Which segment an entry belongs to, and when one is split or merged, is for the [table](super::table) to say: there is
//! the drawing of an entry, too.

/// Handles are below this.
pub const HANDLE_SPAN: u32 = 1 << HANDLE_BITS;

const HANDLE_BITS: u32 = 28;
const HANDLE_SHIFT: u32 = 1;
const KIND_SHIFT: u32 = HANDLE_SHIFT + HANDLE_BITS;
pub(super) const TAG_SHIFT: u32 = KIND_SHIFT + 2;
pub(super) const PASSED: u64 = 1;
const REFERENCE_MASK: u32 = ((1 << TAG_SHIFT) - 1) & !(PASSED as u32);

pub(super) const SLOTS: usize = 8;

/// Buckets of a segment. Splitting one takes time in proportion; the fewer segments there are, the more of their numbers
/// and headers the cache holds.
pub(super) const BUCKETS: usize = 512;
pub(super) const SEGMENT_ENTRIES: usize = BUCKETS * SLOTS;

/// Bits of the tag that choose the home bucket; those above choose the segment.
pub(super) const HOME_BITS: u32 = BUCKETS.trailing_zeros();

/// Buckets that an entry may lie in, and that a search may visit.
pub(super) const PROBES_MAX: usize = 32;

const _: () = assert!(size_of::<Bucket>() == 64 && align_of::<Bucket>() == 64);

const _: () = assert!(BUCKETS / 2 == 1 << u8::BITS && PROBES_MAX / 2 <= 16, "the ways of `probe`");

/// What a handle refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A connection's block.
    Connection = 1,
    /// A record of the SYN cache.
    SynReceived = 2,
    /// A TIME-WAIT record.
    TimeWait = 3,
}

/// No room where the entry belongs. Counted in [`TableStats::full`](super::table::TableStats::full).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Eight entries in a cache line, the home of those whose tag ends in its number.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
pub(super) struct Bucket(pub(super) [u64; SLOTS]);

pub(super) type Page = [Bucket; BUCKETS];

impl Bucket {
    /// A bit for each slot whose tag has `high` as its high 32 bits ([`high`]); the record's key decides. Empty slots have
    /// tag 0. The bit of slot `n` is at `n + SLOTS`: the number of a bit, modulo `SLOTS`, is its slot's, and none is at
    /// position 0, which compilers treat apart. Alike, they become vector lanes, sixteen instructions for all: in a
    /// function of its own, as what callers know of the tag and want of the entries would make scalars of them.
    #[inline(never)]
    pub(super) fn matches(&self, high: u32) -> u32 {
        let bit = |slot: usize| if (self.0[slot] >> 32) as u32 == high { 1 << (slot + SLOTS) } else { 0 };
        (0..SLOTS).fold(0, |bits, slot| bits | bit(slot))
    }

    /// Whether there is no room: the next entry that is at home here goes past.
    #[inline(always)]
    pub(super) fn is_full(&self) -> bool {
        !self.0.iter().any(|&entry| is_empty(entry))
    }

    /// Whether any entry went past this bucket.
    #[inline(always)]
    pub(super) fn is_passed(&self) -> bool {
        self.0.iter().fold(0, |bits, entry| bits | entry) & PASSED != 0
    }

    /// The slot of a packed entry.
    #[inline(always)]
    fn slot_of(&self, packed: u64) -> Option<usize> {
        self.0.iter().position(|&entry| entry & !PASSED == packed)
    }

    /// How many entries went past.
    #[cfg(test)]
    pub(super) fn passed(&self) -> u32 {
        (0..SLOTS).fold(0, |count, slot| count | ((self.0[slot] & PASSED) as u32) << slot)
    }

    /// Whether as many went past as can be counted.
    #[inline(always)]
    fn is_passed_out(&self) -> bool {
        self.0.iter().fold(PASSED, |bits, entry| bits & entry) != 0
    }

    /// One more went past: of the number whose bits the slots hold, ones become zeros up to the first zero, which becomes
    /// one.
    fn count_passed(&mut self) {
        for entry in &mut self.0 {
            *entry ^= PASSED;
            if *entry & PASSED != 0 {
                return;
            }
        }
    }

    /// One fewer.
    fn uncount_passed(&mut self) {
        for entry in &mut self.0 {
            *entry ^= PASSED;
            if *entry & PASSED == 0 {
                return;
            }
        }
    }
}

/// The high 32 bits of a tag: what entries are told apart by before their records are looked at.
#[inline(always)]
pub(super) fn high(tag: u64) -> u32 {
    (tag >> 1) as u32
}

#[inline(always)]
pub(super) fn home_of(tag: u64) -> usize {
    tag as usize % BUCKETS
}

#[inline(always)]
pub(super) fn pack(tag: u64, kind: Kind, handle: u32) -> u64 {
    tag << TAG_SHIFT | (kind as u64) << KIND_SHIFT | u64::from(handle) << HANDLE_SHIFT
}

/// What of an entry says which record it refers to: the entry without its tag.
#[inline(always)]
pub(super) fn reference(kind: Kind, handle: u32) -> u64 {
    pack(0, kind, handle)
}

/// Whether an entry refers to a record: there is one such entry at most, whatever its tag.
#[inline(always)]
pub(super) fn refers_to(entry: u64, kind: Kind, handle: u32) -> bool {
    (entry as u32 ^ reference(kind, handle) as u32) & REFERENCE_MASK == 0
}

#[inline(always)]
pub(super) fn unpack(entry: u64) -> Option<(Kind, u32)> {
    (!is_empty(entry)).then(|| (kind_of(entry), handle_of(entry)))
}

/// What an entry refers to; it is not empty.
#[inline(always)]
pub(super) fn kind_of(entry: u64) -> Kind {
    match entry >> KIND_SHIFT & 3 {
        1 => Kind::Connection,
        2 => Kind::SynReceived,
        _ => Kind::TimeWait,
    }
}

#[inline(always)]
pub(super) fn handle_of(entry: u64) -> u32 {
    (entry >> HANDLE_SHIFT) as u32 & (HANDLE_SPAN - 1)
}

pub(super) fn is_empty(entry: u64) -> bool {
    entry & !PASSED == 0
}

/// The bucket that an entry tries after `distance` others: its home, the other line of the home's pair (which
/// processors fetch along), then pair after pair, each from another sixteenth of the page, in an order of its own. A common
/// order, the next bucket, makes runs of full buckets that are longer than [`PROBES_MAX`] at a load of 0.8; and where flows come
/// with their [neighbours](super::key::HashKey::index_hash), the buckets of one sixteenth fill alike.
#[inline(always)]
pub(super) fn probe(tag: u64, distance: usize) -> usize {
    let stride = (tag >> HOME_BITS) as u8 | 1;
    // An odd stride has other low bits after each of 16 steps: in front, they choose the sixteenth
    let way = stride.wrapping_mul((distance / 2) as u8).rotate_left(4);
    let pair = home_of(tag) / 2 ^ usize::from(way);
    pair * 2 + ((tag as usize ^ distance) & 1)
}

/// Puts a packed entry into the first free slot on its way, and counts it where it went past. Nearly all find one at home.
/// Returns the bucket and the slot.
#[inline(always)]
pub(super) fn place(page: &mut Page, packed: u64) -> Result<(usize, usize), Full> {
    let home = home_of(packed >> TAG_SHIFT);
    match page[home].0.iter().position(|&entry| is_empty(entry)) {
        Some(slot) => {
            page[home].0[slot] |= packed;
            Ok((home, slot))
        }
        None => place_away(page, packed),
    }
}

/// [`place`], for an entry whose home is full.
#[cold]
fn place_away(page: &mut Page, packed: u64) -> Result<(usize, usize), Full> {
    let tag = packed >> TAG_SHIFT;
    for distance in 1..PROBES_MAX {
        if page[probe(tag, distance - 1)].is_passed_out() {
            return Err(Full);
        }
        let index = probe(tag, distance);
        if let Some(slot) = page[index].0.iter().position(|&entry| is_empty(entry)) {
            page[index].0[slot] |= packed;
            (0..distance).for_each(|passed| page[probe(tag, passed)].count_passed());
            return Ok((index, slot));
        }
    }
    Err(Full)
}

/// Empties a slot and uncounts its entry where it had gone past. Returns the entry.
#[inline(always)]
pub(super) fn take_out(page: &mut Page, distance: usize, bucket: usize, slot: usize) -> u64 {
    let entry = &mut page[bucket].0[slot];
    let packed = *entry & !PASSED;
    *entry &= PASSED;
    if distance > 0 {
        uncount(page, packed >> TAG_SHIFT, distance);
    }
    packed
}

/// Uncounts an entry in the buckets that it went past.
#[cold]
fn uncount(page: &mut Page, tag: u64, distance: usize) {
    (0..distance).for_each(|passed| page[probe(tag, passed)].uncount_passed());
}

/// Where a packed entry lies: distance, bucket, slot. Nearly all lie at home.
#[inline(always)]
pub(super) fn locate(page: &Page, packed: u64) -> Option<(usize, usize, usize)> {
    let home = home_of(packed >> TAG_SHIFT);
    match page[home].slot_of(packed) {
        Some(slot) => Some((0, home, slot)),
        None => locate_away(page, packed),
    }
}

/// [`locate`], for an entry that is not at home.
#[cold]
fn locate_away(page: &Page, packed: u64) -> Option<(usize, usize, usize)> {
    for distance in 1..PROBES_MAX {
        if !page[probe(packed >> TAG_SHIFT, distance - 1)].is_passed() {
            return None;
        }
        let index = probe(packed >> TAG_SHIFT, distance);
        if let Some(slot) = page[index].slot_of(packed) {
            return Some((distance, index, slot));
        }
    }
    None
}

/// Moves the entries that `is_upper` wants, by tag, from `lower` to the empty page `upper`, and pulls those that stay
/// towards their homes. Returns how many moved; `None`, and `lower` is as it was, if one finds no room.
///
/// An entry at home is at home in the other page too, so nine in ten move bucket by bucket, without a search and
/// without a branch on the tag, which no processor could predict.
pub(super) fn split_page(lower: &mut Page, upper: &mut Page, is_upper: impl Fn(u64) -> bool) -> Option<u16> {
    let is_home = |entry: u64, index| home_of(entry >> TAG_SHIFT) == index;
    // The tag of an empty slot is 0, and not upper
    let moves = |entry: u64, index| is_home(entry, index) & is_upper(entry >> TAG_SHIFT);
    let mut moved = 0;
    let mut with_displaced = [false; BUCKETS];
    // A bit for each slot
    let mut moving = [0u8; BUCKETS];
    for (index, (from, to)) in lower.iter().zip(upper.iter_mut()).enumerate() {
        let mut filled = 0;
        for (slot, entry) in from.0.into_iter().enumerate() {
            let moves = moves(entry, index);
            to.0[filled % SLOTS] = entry & !PASSED & mask_if(moves);
            filled += usize::from(moves);
            moving[index] |= u8::from(moves) << slot;
            with_displaced[index] |= !is_empty(entry) & !is_home(entry, index);
        }
        moved += filled as u16;
    }
    let displaced = |page: &Page, index: usize, slot: usize| {
        let entry = page[index].0[slot];
        (!is_empty(entry) && !is_home(entry, index)).then_some(entry & !PASSED)
    };
    let places = || {
        let buckets = (0..BUCKETS).filter(|&index| with_displaced[index]);
        buckets.flat_map(|index| (0..SLOTS).map(move |slot| (index, slot)))
    };
    for (index, slot) in places() {
        if let Some(packed) = displaced(lower, index, slot)
            && is_upper(packed >> TAG_SHIFT)
        {
            place(upper, packed).ok()?;
            moved += 1;
        }
    }

    for (bucket, moving) in lower.iter_mut().zip(moving) {
        for (slot, entry) in bucket.0.iter_mut().enumerate() {
            *entry &= PASSED | mask_if(moving >> slot & 1 == 0);
        }
    }
    for (index, slot) in places() {
        if let Some(packed) = displaced(lower, index, slot) {
            take_out(lower, distance_of(packed >> TAG_SHIFT, index), index, slot);
            if !is_upper(packed >> TAG_SHIFT) {
                // There is room: the slot it left is on its way, and so are the counts it gave back.
                let _ = place(lower, packed);
            }
        }
    }
    Some(moved)
}

#[inline(always)]
fn mask_if(condition: bool) -> u64 {
    u64::from(condition).wrapping_neg()
}

/// Copies the entries of `from` into `to`: all of them, or none if one finds no room. Returns whether it did.
pub(super) fn copy_all(from: &Page, to: &mut Page) -> bool {
    let entries = || from.iter().flat_map(|bucket| bucket.0).filter(|&entry| !is_empty(entry)).map(|e| e & !PASSED);
    let Some(copied) = entries().position(|packed| place(to, packed).is_err()) else {
        return true;
    };
    for packed in entries().take(copied) {
        if let Some((distance, bucket, slot)) = locate(to, packed) {
            take_out(to, distance, bucket, slot);
        }
    }
    false
}

/// How far from home an entry in bucket `index` is.
#[cold]
pub(super) fn distance_of(tag: u64, index: usize) -> usize {
    (0..PROBES_MAX).find(|&distance| probe(tag, distance) == index).unwrap_or(0)
}
