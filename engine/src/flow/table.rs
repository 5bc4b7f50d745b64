//! The index of flows: from a hash to `(kind, handle)`, 8 octets a flow.
//!
//! ```text
//!  tag (33 bits of the hash)
//!  ├─ high 24 ── × directory length ──▶ directory ──▶ segment   512 buckets, 32 KiB
//!  └─ low 9 ─────────────────────────────────────────▶ bucket    8 entries, one cache line
//!
//!  entry   63           31 30  29 28            1   0
//!          │     tag      │ kind │    handle     │ passed │      kind 0: empty
//! ```
//!
//! **Inside a segment** (`bucket.rs`) an entry lies in its home bucket, or in the first with room on a way from there.
//!
//! **Growth** is extendible hashing: a segment past its share is split in two by one more bit of the tags, one in each
//! [`maintain`](FlowTable::maintain) and without a look at any record. Which bit that is follows from the directory's
//! index being a product, `tag × length / 2²⁴`: a table can start with any number of segments, and doubling the
//! directory doubles each index. The doubled directory is built ahead of need, some entries at a time.
//!
//! **Places.** An insertion says where its entry lies. Whoever has to do with the flow again goes there and looks whether it
//! still does; only `maintain` moves entries, and then the hash finds them.
//!
//! **Full** is an answer, not a stall: an insertion that finds no room nearby is refused and counted.

use core::num::NonZeroU64;

use crate::page::{OutOfMemory, PageSource};
use crate::prefetch::prefetch_read;

use super::bucket::{
    BUCKETS, Bucket, HOME_BITS, PASSED, PROBES_MAX, Page, SEGMENT_ENTRIES, SLOTS, TAG_SHIFT, copy_all, distance_of,
    handle_of, high, home_of, kind_of, locate, pack, place, probe, reference, refers_to, split_page, take_out, unpack,
};

pub use super::bucket::{Full, HANDLE_SPAN, Kind};

const DIRECTORY_BITS: u32 = u64::BITS - TAG_SHIFT - HOME_BITS;

/// Directory entries at most: 2¹⁷ segments of 4,096 entries are more than there are handles.
const DIRECTORY_MAX: usize = 1 << 17;

/// Share of a segment filled by presizing, in 1/256: 0.79, 10.1 octets a flow.
const PRESIZED_LOAD: usize = 202;

/// Share past which a segment of the presized table is split, in 1/256: more than five deviations above
/// [`PRESIZED_LOAD`], nearly three where each flow comes with its [neighbours](super::key::HashKey::index_hash).
const PRESIZED_SPLIT_LOAD: usize = 222;

/// A segment is split past a share between these, in 1/256. They differ from segment to segment, because tags are even
/// and all would otherwise come due at once.
const SPLIT_LOAD_MIN: usize = 180;
const SPLIT_LOAD_MAX: usize = 216;

/// A pair of halves is merged when both together fill less than this of one, in 1/256.
const MERGE_LOAD: usize = 72;

/// Directory entries prepared in one `maintain`.
const DIRECTORY_STEP: usize = 4096;

const NONE: u32 = u32::MAX;

const _: () = assert!(DIRECTORY_MAX < 1 << DIRECTORY_BITS && DIRECTORY_BITS == 24);

/// What the table did, for counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableStats {
    /// Insertions refused.
    pub full: u64,
    /// Segments split.
    pub splits: u64,
    /// Pairs of segments merged.
    pub merges: u64,
    /// Directory doublings.
    pub doublings: u64,
    /// Splits put off: memory or the directory's limit refused, or the halves did not come apart.
    pub refused: u64,
}

/// The bucket that a hash leads to first: `segment << 9 | bucket`. Good until the next [`maintain`](FlowTable::maintain).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home(u32);

impl Home {
    /// Some bucket, before there is a hash.
    pub(crate) const ANY: Self = Self(0);

    #[inline(always)]
    fn at(segment: usize, bucket: usize) -> Self {
        Self((segment * BUCKETS + bucket) as u32)
    }
}

/// Where an entry lies, or lay: `segment << 12 | bucket << 3 | slot`. Entries stay where they are but for
/// [`maintain`](FlowTable::maintain); whoever comes back to a place asks whether the entry is still there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place(u32);

impl Place {
    #[inline(always)]
    fn at(home: Home, slot: usize) -> Self {
        Self(home.0 * SLOTS as u32 + slot as u32)
    }

    /// The bucket there.
    #[inline(always)]
    fn home(self) -> Home {
        Home(self.0 / SLOTS as u32)
    }

    #[inline(always)]
    fn segment(self) -> usize {
        self.0 as usize / SEGMENT_ENTRIES
    }

    #[inline(always)]
    fn bucket(self) -> usize {
        self.0 as usize / SLOTS % BUCKETS
    }

    #[inline(always)]
    fn slot(self) -> usize {
        self.0 as usize % SLOTS
    }
}

/// An entry that a hash led to, and where it lies: see [`FlowTable::candidate`]. Good until the next
/// [`maintain`](FlowTable::maintain).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The entry as it was found, without [`PASSED`].
    entry: NonZeroU64,
    place: Place,
}

impl Candidate {
    /// What the entry refers to.
    #[inline(always)]
    pub fn kind(&self) -> Kind {
        kind_of(self.entry.get())
    }

    /// Which one.
    #[inline(always)]
    pub fn handle(&self) -> u32 {
        handle_of(self.entry.get())
    }

    /// Where it lies.
    #[inline(always)]
    pub fn place(&self) -> Place {
        self.place
    }
}

const _: () = assert!(DIRECTORY_MAX * SEGMENT_ENTRIES <= 1 << 29 && SEGMENT_ENTRIES == 1 << 12);

/// The flow table of one worker: see the [module](self).
#[derive(Debug)]
pub struct FlowTable {
    /// `roots << depth` segment numbers.
    directory: Vec<u32>,
    /// The directory of the next depth, filled from the left.
    next_directory: Vec<u32>,
    pages: Vec<Option<&'static mut Page>>,
    segments: Vec<Segment>,
    roots: usize,
    depth: u32,
    /// Segment numbers whose page was given back.
    absent: u32,
    due_first: u32,
    due_last: u32,
    len: usize,
    resident: usize,
    stats: TableStats,
}

/// A segment's share of the hash space and its place in the queue of work for `maintain`.
#[derive(Clone, Copy, Debug)]
struct Segment {
    /// Its index in a directory of its own depth.
    prefix: u32,
    next: u32,
    used: u16,
    split_at: u16,
    depth: u8,
    due: bool,
}

impl FlowTable {
    /// A table sized for `expected` flows: so many fit without a split, at about 10 octets each. Where flows come with their
    /// [neighbours](super::key::HashKey::index_hash) a few of a thousand segments are split, or, if neighbours at both ends use the
    /// same ports, one in eleven.
    ///
    /// # Errors
    /// [`OutOfMemory`] if `pages` refuses, or if `expected` is beyond 2²⁸; nothing stays taken.
    pub fn with_capacity<P: PageSource>(pages: &mut P, expected: usize) -> Result<Self, OutOfMemory> {
        let roots = expected.div_ceil(SEGMENT_ENTRIES * PRESIZED_LOAD / 256).max(1);
        if roots > DIRECTORY_MAX {
            return Err(OutOfMemory);
        }
        let mut table = Self {
            directory: (0..roots as u32).collect(),
            next_directory: Vec::new(),
            // Pointers stay where they are while the table grows to its limit; untouched capacity costs no memory.
            pages: Vec::with_capacity(DIRECTORY_MAX),
            segments: Vec::with_capacity(DIRECTORY_MAX),
            roots,
            depth: 0,
            absent: NONE,
            due_first: NONE,
            due_last: NONE,
            len: 0,
            resident: 0,
            stats: TableStats::default(),
        };
        for prefix in 0..roots as u32 {
            match pages.take() {
                Ok(page) => {
                    table.add_segment(page, Segment::new(prefix, 0));
                }
                Err(refused) => {
                    table.release(pages);
                    return Err(refused);
                }
            }
        }
        Ok(table)
    }

    /// Flows in the table.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no flow.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Octets held: segments, their headers, and the directories.
    pub fn bytes(&self) -> u64 {
        let header = size_of::<Segment>() + size_of::<Option<&Page>>();
        let directories = (self.directory.capacity() + self.next_directory.capacity()) * size_of::<u32>();
        (self.resident * size_of::<Page>() + self.segments.len() * header + directories) as u64
    }

    /// What the table did so far.
    pub fn stats(&self) -> TableStats {
        self.stats
    }

    /// Asks for the home bucket's line, and says which that is. Do it for a whole burst before the first
    /// [`find`](Self::find).
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) -> Home {
        let home = self.home(hash);
        if let Some(bucket) = self.bucket(home) {
            prefetch_read(bucket);
        }
        home
    }

    /// Asks for the line at a place.
    #[inline(always)]
    pub fn prefetch_at(&self, place: Place) {
        if let Some(bucket) = self.bucket(place.home()) {
            prefetch_read(bucket);
        }
    }

    /// Whether the entry that refers to a record lies at `place` (still).
    #[inline(always)]
    pub fn is_at(&self, place: Place, kind: Kind, handle: u32) -> bool {
        self.bucket(place.home()).is_some_and(|bucket| refers_to(bucket.0[place.slot()], kind, handle))
    }

    #[inline(always)]
    fn home(&self, hash: u64) -> Home {
        let tag = hash >> TAG_SHIFT;
        Home::at(self.segment_of(tag), home_of(tag))
    }

    #[inline(always)]
    fn page(&self, home: Home) -> Option<&Page> {
        self.pages.get(home.0 as usize / BUCKETS)?.as_deref()
    }

    #[inline(always)]
    fn bucket(&self, home: Home) -> Option<&Bucket> {
        Some(&self.page(home)?[home.0 as usize % BUCKETS])
    }

    /// The first flow in the bucket `home`, that of `hash`, with the tag of `hash`: very likely the one, so that its record
    /// can be asked for early. If there is none and entries went past, or a new one would, asks for the line where they go.
    #[inline(always)]
    pub fn candidate(&self, hash: u64, home: Home) -> Option<Candidate> {
        let tag = hash >> TAG_SHIFT;
        let page = self.page(home)?;
        let bucket = &page[home.0 as usize % BUCKETS];
        let matches = bucket.matches(high(tag));
        if matches == 0 {
            if bucket.is_passed() || bucket.is_full() {
                prefetch_read(&page[probe(tag, 1)]);
            }
            return None;
        }
        let slot = matches.trailing_zeros() as usize % SLOTS;
        let entry = NonZeroU64::new(bucket.0[slot] & !PASSED)?;
        Some(Candidate { entry, place: Place::at(home, slot) })
    }

    /// Whether a candidate is still in the table: other segments of its burst may have removed or replaced it. Spares the
    /// search; that it is the right flow is for the caller to see by its record.
    #[inline(always)]
    pub fn still_holds(&self, candidate: &Candidate) -> bool {
        let bucket = self.bucket(candidate.place.home());
        bucket.is_some_and(|bucket| bucket.0[candidate.place.slot()] & !PASSED == candidate.entry.get())
    }

    /// Whether the home bucket alone says that there is no flow with `hash`, as it does of nearly every one that is not in
    /// the table.
    #[inline(always)]
    pub fn is_absent(&self, hash: u64) -> bool {
        self.is_absent_at(hash, self.home(hash))
    }

    /// [`is_absent`](Self::is_absent), where the home is known.
    #[inline(always)]
    pub fn is_absent_at(&self, hash: u64, home: Home) -> bool {
        match self.bucket(home) {
            Some(bucket) => bucket.matches(high(hash >> TAG_SHIFT)) == 0 && !bucket.is_passed(),
            None => true,
        }
    }

    /// The flow with `hash` whose record `is_it` recognises by its key.
    #[inline(always)]
    pub fn find(&self, hash: u64, mut is_it: impl FnMut(Kind, u32) -> bool) -> Option<(Kind, u32)> {
        let tag = hash >> TAG_SHIFT;
        let page = self.pages.get(self.segment_of(tag))?.as_deref()?;
        let mut bucket = &page[home_of(tag)];
        for distance in 1..=PROBES_MAX {
            let mut matches = bucket.matches(high(tag));
            while matches != 0 {
                let entry = bucket.0[matches.trailing_zeros() as usize % SLOTS];
                if let Some((kind, handle)) = unpack(entry)
                    && is_it(kind, handle)
                {
                    return Some((kind, handle));
                }
                matches &= matches - 1;
            }
            if !bucket.is_passed() {
                return None;
            }
            bucket = &page[probe(tag, distance)];
        }
        None
    }

    /// Adds a flow. That it is not in the table yet is the caller's knowledge. `handle` is below [`HANDLE_SPAN`], and
    /// refers to this flow alone. Returns where the entry lies.
    ///
    /// # Errors
    /// [`Full`] if there is no room near its home, or the handle is out of range; nothing changed.
    #[inline]
    pub fn insert(&mut self, hash: u64, kind: Kind, handle: u32) -> Result<Place, Full> {
        let tag = hash >> TAG_SHIFT;
        let segment = self.segment_of(tag);
        let placed = match self.pages.get_mut(segment) {
            Some(Some(page)) if handle < HANDLE_SPAN => place(page, pack(tag, kind, handle)),
            _ => Err(Full),
        };
        let Ok((bucket, slot)) = placed else {
            self.stats.full += 1;
            return Err(Full);
        };
        self.len += 1;
        let header = &mut self.segments[segment];
        header.used += 1;
        if header.used >= header.split_at && !header.due {
            self.make_due(segment);
        }
        Ok(Place::at(Home::at(segment, bucket), slot))
    }

    /// Puts `new` in the place of `old`, as when a connection becomes a TIME-WAIT record. Returns false, and does
    /// nothing, if the entry of `old` does not lie at `place` (any more).
    #[inline]
    pub fn replace_at(&mut self, place: Place, old: (Kind, u32), new: (Kind, u32)) -> bool {
        match self.pages.get_mut(place.segment()) {
            Some(Some(page)) if new.1 < HANDLE_SPAN => {
                let entry = &mut page[place.bucket()].0[place.slot()];
                let is_it = refers_to(*entry, old.0, old.1);
                if is_it {
                    *entry ^= reference(old.0, old.1) ^ reference(new.0, new.1);
                }
                is_it
            }
            _ => false,
        }
    }

    /// [`replace_at`](Self::replace_at), wherever the entry of `old`, whose flow has `hash`, may lie: that is returned. `None`,
    /// and nothing is done, if it is not there or the new handle is out of range.
    #[inline]
    pub fn replace(&mut self, hash: u64, old: (Kind, u32), new: (Kind, u32)) -> Option<Place> {
        let tag = hash >> TAG_SHIFT;
        let segment = self.segment_of(tag);
        let page = self.pages.get_mut(segment)?.as_deref_mut()?;
        if new.1 >= HANDLE_SPAN {
            return None;
        }
        let (_, bucket, slot) = locate(page, pack(tag, old.0, old.1))?;
        page[bucket].0[slot] ^= reference(old.0, old.1) ^ reference(new.0, new.1);
        Some(Place::at(Home::at(segment, bucket), slot))
    }

    /// Removes the flow whose entry lies at `place`. Returns false, and does nothing, if it does not lie there (any more).
    #[inline]
    pub fn remove_at(&mut self, place: Place, kind: Kind, handle: u32) -> bool {
        let Some(Some(page)) = self.pages.get_mut(place.segment()) else {
            return false;
        };
        let (tag, bucket) = (page[place.bucket()].0[place.slot()] >> TAG_SHIFT, place.bucket());
        if !refers_to(page[bucket].0[place.slot()], kind, handle) {
            return false;
        }
        let distance = if home_of(tag) == bucket { 0 } else { distance_of(tag, bucket) };
        take_out(page, distance, bucket, place.slot());
        self.removed_from(place.segment());
        true
    }

    /// Removes a flow. Returns false, and does nothing, if it is not there.
    #[inline]
    pub fn remove(&mut self, hash: u64, kind: Kind, handle: u32) -> bool {
        let tag = hash >> TAG_SHIFT;
        let segment = self.segment_of(tag);
        let Some(Some(page)) = self.pages.get_mut(segment) else {
            return false;
        };
        let Some((distance, bucket, slot)) = locate(page, pack(tag, kind, handle)) else {
            return false;
        };
        take_out(page, distance, bucket, slot);
        self.removed_from(segment);
        true
    }

    #[inline(always)]
    fn removed_from(&mut self, segment: usize) {
        self.len -= 1;
        let header = &mut self.segments[segment];
        header.used -= 1;
        if header.depth > 0 && usize::from(header.used) == SEGMENT_ENTRIES * MERGE_LOAD / 512 && !header.due {
            self.make_due(segment);
        }
    }

    /// Visits the flows of 64 buckets and returns the cursor for the next call, `None` after the last. Start at 0. A
    /// flow present all the while is seen at least once, unless `maintain` ran in between: then it may be missed.
    pub fn scan(&self, cursor: u32, mut visit: impl FnMut(Kind, u32)) -> Option<u32> {
        let (segment, first) = (cursor as usize / BUCKETS, cursor as usize % BUCKETS);
        if let Some(page) = self.pages.get(segment)? {
            page[first..].iter().take(64).flat_map(|bucket| bucket.0).filter_map(unpack).for_each(|(kind, handle)| {
                visit(kind, handle);
            });
        }
        let next = cursor + 64 - cursor % 64;
        ((next as usize) < self.pages.len() * BUCKETS).then_some(next)
    }

    /// Does one piece of growth or shrinking that is due: splits or merges one segment, or prepares a part of the next
    /// directory. Call it between polls, once for at most some hundred insertions.
    pub fn maintain<P: PageSource>(&mut self, pages: &mut P) {
        self.prepare_directory();
        let Some(number) = self.next_due() else {
            return;
        };
        let header = self.segments[number];
        if self.pages[number].is_none() {
            return;
        }
        if header.used >= header.split_at {
            match self.split(number, pages) {
                Ok(true) => {}
                Ok(false) => self.make_due(number),
                // Not due again until the next insertion there: a refused split costs no more than its try.
                Err(OutOfMemory) => self.stats.refused += 1,
            }
        } else {
            self.merge(number, pages);
        }
    }

    /// Gives back every page, leaving a table that refuses every insertion.
    pub fn release<P: PageSource>(&mut self, pages: &mut P) {
        for page in self.pages.drain(..).flatten() {
            pages.give_back(page);
        }
        self.segments.clear();
        self.next_directory = Vec::new();
        (self.due_first, self.due_last, self.absent) = (NONE, NONE, NONE);
        (self.len, self.resident) = (0, 0);
    }

    #[inline(always)]
    fn segment_of(&self, tag: u64) -> usize {
        let index = directory_index(tag, self.directory.len());
        self.directory.get(index).map_or(NONE as usize, |&segment| segment as usize)
    }

    fn add_segment(&mut self, page: &'static mut Page, header: Segment) -> usize {
        self.resident += 1;
        if self.absent == NONE {
            self.pages.push(Some(page));
            self.segments.push(header);
            return self.pages.len() - 1;
        }
        let number = self.absent as usize;
        self.absent = self.segments[number].next;
        self.pages[number] = Some(page);
        self.segments[number] = header;
        number
    }

    fn make_due(&mut self, number: usize) {
        self.segments[number].due = true;
        self.segments[number].next = NONE;
        match self.due_last {
            NONE => self.due_first = number as u32,
            last => self.segments[last as usize].next = number as u32,
        }
        self.due_last = number as u32;
    }

    fn next_due(&mut self) -> Option<usize> {
        let number = self.due_first as usize;
        let header = self.segments.get_mut(number)?;
        header.due = false;
        self.due_first = header.next;
        if self.due_first == NONE {
            self.due_last = NONE;
        }
        Some(number)
    }

    /// Splits a segment. `Ok(false)`: the directory it needs is still being prepared.
    fn split<P: PageSource>(&mut self, number: usize, source: &mut P) -> Result<bool, OutOfMemory> {
        let Segment { prefix, depth, .. } = self.segments[number];
        if u32::from(depth) == self.depth && !self.double_directory()? {
            return Ok(false);
        }
        let Some(lower_page) = &mut self.pages[number] else {
            return Ok(true);
        };
        let upper_page = source.take()?;
        let length = self.roots << (depth + 1);
        let is_upper = |tag| directory_index(tag, length) & 1 == 1;
        let Some(moved) = split_page(lower_page, upper_page, is_upper) else {
            source.give_back(upper_page);
            return Err(OutOfMemory);
        };
        let used = self.segments[number].used;
        self.segments[number] = Segment { used: used - moved, ..Segment::new(prefix << 1, depth + 1) };
        let header = Segment { used: moved, ..Segment::new(prefix << 1 | 1, depth + 1) };
        let upper = self.add_segment(upper_page, header);
        self.point(header, upper as u32);
        self.stats.splits += 1;
        // One half may still hold too much if the tags are uneven.
        for half in [number, upper] {
            if self.segments[half].used >= self.segments[half].split_at {
                self.make_due(half);
            }
        }
        Ok(true)
    }

    /// Merges a segment with its other half if both together are small.
    fn merge<P: PageSource>(&mut self, number: usize, source: &mut P) {
        let header = self.segments[number];
        let Some(other) = self.other_half(header) else {
            return;
        };
        let together = header.used + self.segments[other].used;
        if usize::from(together) > SEGMENT_ENTRIES * MERGE_LOAD / 256 || self.segments[other].due {
            return;
        }
        let (lower, upper) = if header.prefix & 1 == 0 { (number, other) } else { (other, number) };
        let Some(upper_page) = self.pages[upper].take() else {
            return;
        };
        let merged = match &mut self.pages[lower] {
            Some(lower_page) => copy_all(upper_page, lower_page),
            None => false,
        };
        if !merged {
            self.pages[upper] = Some(upper_page);
            return;
        }
        source.give_back(upper_page);
        self.resident -= 1;
        self.segments[upper].next = self.absent;
        self.absent = upper as u32;
        let header = Segment { used: together, ..Segment::new(header.prefix >> 1, header.depth - 1) };
        self.segments[lower] = header;
        self.point(header, lower as u32);
        self.stats.merges += 1;
        if usize::from(together) <= SEGMENT_ENTRIES * MERGE_LOAD / 512 && header.depth > 0 {
            self.make_due(lower);
        }
    }

    /// The segment that `header`'s was split from or with, if it has not been split further.
    fn other_half(&self, header: Segment) -> Option<usize> {
        let depth = u32::from(header.depth);
        if depth == 0 {
            return None;
        }
        let prefix = header.prefix ^ 1;
        let other = *self.directory.get((prefix as usize) << (self.depth - depth))? as usize;
        (self.segments[other].prefix == prefix && self.segments[other].depth == header.depth).then_some(other)
    }

    /// Lets the directory entries of a segment's share point to it, in the prepared part of the next one as well.
    fn point(&mut self, header: Segment, number: u32) {
        let share = |depth: u32, length: usize| {
            let shift = depth - u32::from(header.depth);
            let first = (header.prefix as usize) << shift;
            first.min(length)..(first + (1 << shift)).min(length)
        };
        let length = self.directory.len();
        self.directory[share(self.depth, length)].fill(number);
        let length = self.next_directory.len();
        self.next_directory[share(self.depth + 1, length)].fill(number);
        if u32::from(header.depth) == self.depth && self.next_directory.capacity() == 0 {
            self.begin_directory();
        }
    }

    /// Reserves the next directory as soon as one segment has reached the depth of the present one: the rest follow
    /// about a doubling of the flows later, so it is ready before it is needed.
    fn begin_directory(&mut self) {
        let length = self.directory.len() * 2;
        if length <= DIRECTORY_MAX && self.next_directory.try_reserve_exact(length).is_err() {
            self.stats.refused += 1;
        }
    }

    fn prepare_directory(&mut self) {
        if self.next_directory.capacity() == 0 {
            return;
        }
        let from = self.next_directory.len() / 2;
        let to = (from + DIRECTORY_STEP / 2).min(self.directory.len());
        self.next_directory.extend(self.directory[from..to].iter().flat_map(|&number| [number; 2]));
    }

    /// Goes to the next directory. `Ok(false)`: it is still being prepared.
    fn double_directory(&mut self) -> Result<bool, OutOfMemory> {
        let length = self.directory.len() * 2;
        if length > DIRECTORY_MAX {
            return Err(OutOfMemory);
        }
        if self.next_directory.capacity() == 0 {
            self.begin_directory();
            return if self.next_directory.capacity() == 0 { Err(OutOfMemory) } else { Ok(false) };
        }
        if self.next_directory.len() < length {
            return Ok(false);
        }
        self.directory = core::mem::take(&mut self.next_directory);
        self.depth += 1;
        self.stats.doublings += 1;
        Ok(true)
    }
}

impl Segment {
    fn new(prefix: u32, depth: u8) -> Self {
        // Segments of the presized table split late and alike; those born of a split spread their next one.
        let load = match depth {
            0 => PRESIZED_SPLIT_LOAD,
            _ => SPLIT_LOAD_MIN + (prefix.wrapping_mul(0x9E37_79B9) >> 16) as usize % (SPLIT_LOAD_MAX - SPLIT_LOAD_MIN),
        };
        Self { prefix, next: NONE, used: 0, split_at: (SEGMENT_ENTRIES * load / 256) as u16, depth, due: false }
    }
}

/// The directory's `length` is the number of roots times a power of two: doubling it doubles the index and adds the
/// bit by which a segment splits.
#[inline(always)]
fn directory_index(tag: u64, length: usize) -> usize {
    (((tag >> HOME_BITS) * length as u64) >> DIRECTORY_BITS) as usize
}

#[cfg(test)]
#[path = "table_tests.rs"]
pub(crate) mod tests;
