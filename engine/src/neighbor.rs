//! The stations of the link: which hardware address has an IP address (RFC 826, RFC 4861 §7).
//!
//! One table for one worker, of a size fixed at the start. It says what to ask and believes what it asked for; whom to
//! ask about (the destination itself or the gateway) and what waits for the answer are the caller's business. The
//! states are those of RFC 4861 §7.3.2 for both families, without DELAY: a stale entry is used, and probed, at once.

use core::num::NonZeroU32;
use core::time::Duration;
use std::net::{IpAddr, Ipv6Addr};

use hashbrown::HashTable;

use crate::flow::HashKey;
use crate::time::Instant;
use crate::wire::MacAddr;
use crate::wire::arp::{ArpOperation, ArpPacket};
use crate::wire::ndp::{NeighborAdvertisement, NeighborSolicitation};

/// Bits of a [`NeighborIndex`] that name the entry; the others are the entry's generation.
const SLOT_BITS: u32 = 20;
const SLOT_MASK: u32 = (1 << SLOT_BITS) - 1;

/// What an entry counts by how often its place is given anew: never 0, so that an index is not.
const GENERATION: NonZeroU32 = NonZeroU32::new(1 << SLOT_BITS).unwrap();

/// The most entries a table can have.
pub const CAPACITY_MAX: usize = 1 << SLOT_BITS;

/// Entries looked at to find one to evict: exact for a small table, a good guess and no stall for a large one.
const EVICTION_SCAN: usize = 256;

/// The tunables of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighborConfig {
    /// The most entries, 1 to [`CAPACITY_MAX`]; a value outside is taken as the nearest inside.
    pub capacity: usize,
    /// How long an answer is good for: ReachableTime of RFC 4861 §10, 30 s.
    pub reachable: Duration,
    /// Time between two requests: RetransTimer of RFC 4861 §10, 1 s.
    pub retry_interval: Duration,
    /// Requests without an answer before giving up: MAX_MULTICAST_SOLICIT of RFC 4861 §10, 3.
    pub tries: u8,
    /// How long an address that did not answer counts as failed before it is asked for again (RFC 1122 §2.3.2.1).
    pub hold_down: Duration,
}

impl Default for NeighborConfig {
    fn default() -> Self {
        Self {
            capacity: 4096,
            reachable: Duration::from_secs(30),
            retry_interval: Duration::from_secs(1),
            tries: 3,
            hold_down: Duration::from_secs(3),
        }
    }
}

/// Names an entry. Stays good until the entry is evicted; after that it names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NeighborIndex(NonZeroU32);

/// What is known of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Frames go to this station.
    Ready(MacAddr),
    /// It has been asked for: keep the frame, or drop it.
    Pending,
    /// It does not answer: drop the frame.
    Failed,
}

/// What a table wants done. See [`NeighborTable::poll`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighborEvent {
    /// Send an ARP request or a neighbour solicitation.
    Solicit {
        /// The address to ask for.
        address: IpAddr,
        /// The station that had it last, to be asked alone; `None` asks everyone.
        station: Option<MacAddr>,
    },
    /// Nobody answered: drop what waits.
    Failed {
        /// The entry.
        index: NeighborIndex,
        /// The address that was asked for.
        address: IpAddr,
    },
}

/// What a table did, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NeighborCounters {
    /// Requests asked to be sent.
    pub solicitations: u64,
    /// Entries that an answer made or kept usable.
    pub resolved: u64,
    /// Entries that nobody answered for.
    pub failed: u64,
    /// Entries learnt from a neighbour's own request or handshake.
    pub learned: u64,
    /// Answers that nobody had asked for.
    pub unsolicited: u64,
    /// Entries that gave way to another.
    pub evicted: u64,
    /// Addresses not taken in, or not asked for, because every entry was of more use or too many were asked for.
    pub refused: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No entry.
    Free,
    /// Asked for, never answered.
    Incomplete,
    /// Answered not long ago.
    Reachable,
    /// Usable, but the next use asks again.
    Stale,
    /// Usable, and asked again.
    Probe,
    /// Not answered.
    Failed,
    /// Set from outside; never asked for and never evicted.
    Permanent,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    address: IpAddr,
    mac: MacAddr,
    state: State,
    /// Requests sent since the state was entered.
    tries: u8,
    /// Whether the slot is in `asked`, which outlives the entry.
    in_asked: bool,
    /// A multiple of [`GENERATION`].
    generation: NonZeroU32,
    /// When to ask again, when an answer is too old, or when a failure is forgotten.
    deadline: Instant,
    used: Instant,
}

const FREE: Entry = Entry {
    address: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    mac: MacAddr::ZERO,
    state: State::Free,
    tries: 0,
    in_asked: false,
    generation: GENERATION,
    deadline: Instant::ZERO,
    used: Instant::ZERO,
};

/// The neighbours of one worker.
pub struct NeighborTable {
    config: NeighborConfig,
    /// The slot of each address: a word each, as a search looks at the entry in any case.
    slots: HashTable<u32>,
    /// Hashes addresses with a secret, so that nobody on the link can choose some to collide.
    keyed: HashKey,
    /// The slot found last for an address that ends in these bits: a guess that spares the hash.
    recent: Box<[u32]>,
    entries: Vec<Entry>,
    /// Slots that may be asking. What is not asking any more is taken out when the scan comes by.
    asked: Vec<u32>,
    /// Where in `asked` the scan goes on, and the earliest deadline it has come by.
    cursor: usize,
    earliest: Option<Instant>,
    /// Nothing in `asked` is due before this.
    due: Instant,
    /// Entries asked for and never answered.
    incomplete: usize,
    /// Where the search for an entry to evict goes on.
    hand: usize,
    counters: NeighborCounters,
}

impl NeighborTable {
    /// An empty table. `key` is the secret of its hash. Allocates everything it will ever need.
    pub fn new(config: NeighborConfig, key: [u64; 2]) -> Self {
        let capacity = config.capacity.clamp(1, CAPACITY_MAX);
        Self {
            config: NeighborConfig { capacity, ..config },
            // Twice the room: at half load a table full of tombstones is cleaned in place instead of growing.
            slots: HashTable::with_capacity(2 * capacity),
            keyed: HashKey::new(key),
            recent: vec![0; capacity.next_power_of_two()].into_boxed_slice(),
            entries: Vec::with_capacity(capacity),
            asked: Vec::with_capacity(capacity),
            cursor: 0,
            earliest: None,
            due: Instant::ZERO,
            incomplete: 0,
            hand: 0,
            counters: NeighborCounters::default(),
        }
    }

    /// What the table did.
    pub fn counters(&self) -> NeighborCounters {
        self.counters
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether an answer is awaited: [`poll`](Self::poll) will have something to do before long.
    pub fn is_waiting(&self) -> bool {
        !self.asked.is_empty()
    }

    /// The entry for `address`, if there is one.
    pub fn lookup(&self, address: IpAddr) -> Option<NeighborIndex> {
        self.slot_at(address).map(|slot| self.index_of(slot))
    }

    /// The entry for `address`, made and asked for if there is none, and what is known of it. `None` if there is no
    /// room: every entry is permanent, or half of them are asked for already (RFC 6583 §7: a scan, or a flood from
    /// invented neighbours, must not drive out those that are there).
    pub fn resolve(&mut self, address: IpAddr, now: Instant) -> Option<(NeighborIndex, Resolution)> {
        let slot = match self.find(address) {
            Some(slot) => slot,
            None if self.incomplete >= self.asked_max() => {
                self.counters.refused += 1;
                return None;
            }
            None => {
                let slot = self.insert(address, now)?;
                self.ask(slot, State::Incomplete, now);
                slot
            }
        };
        Some((self.index_of(slot), self.use_slot(slot, now)))
    }

    /// What is known of the entry at `index`, for a frame that is to be sent there now. `None` if it was evicted.
    #[inline]
    pub fn resolution(&mut self, index: NeighborIndex, now: Instant) -> Option<Resolution> {
        let slot = self.slot_of(index)?;
        let entry = self.entries.get_mut(slot as usize)?;
        if entry.state == State::Reachable && now < entry.deadline {
            // as nearly always
            entry.used = now;
            return Some(Resolution::Ready(entry.mac));
        }
        Some(self.use_slot(slot, now))
    }

    /// Notes that a segment from the neighbour acknowledged something new: it is reachable, and need not be asked (RFC
    /// 4861 §7.3.1).
    #[inline]
    pub fn confirm(&mut self, index: NeighborIndex, now: Instant) {
        if let Some(slot) = self.slot_of(index)
            && let Some(entry) = self.entries.get_mut(slot as usize)
            && matches!(entry.state, State::Reachable | State::Stale | State::Probe)
        {
            entry.state = State::Reachable;
            entry.deadline = now + self.config.reachable;
        }
    }

    /// Nothing that was sent to the neighbour has been answered for some time: it is asked, and everyone if it is silent.
    pub fn suspect(&mut self, index: NeighborIndex, now: Instant) {
        if let Some(slot) = self.slot_of(index) {
            self.probe(slot, now);
        }
    }

    /// Takes in an ARP packet from a sender on the link; a request must be for an address of ours. Returns the entry
    /// that became usable by it: what waits for it can go.
    pub fn on_arp(&mut self, packet: &ArpPacket, now: Instant) -> Option<NeighborIndex> {
        let sender = IpAddr::V4(packet.sender);
        match packet.operation {
            // A probe has no address yet (RFC 5227 §2.1.1).
            ArpOperation::Request if packet.sender.is_unspecified() => None,
            ArpOperation::Request => self.learn_from_request(sender, packet.sender_mac, now),
            ArpOperation::Reply => self.learn_from_answer(sender, Some(packet.sender_mac), now),
        }
    }

    /// Takes in a neighbour solicitation for an address of ours. Returns the entry that became usable by it.
    pub fn on_solicitation(&mut self, message: &NeighborSolicitation, now: Instant) -> Option<NeighborIndex> {
        let mac = message.source_link_layer.filter(|_| !message.source.is_unspecified())?;
        self.learn_from_request(IpAddr::V6(message.source), mac, now)
    }

    /// Takes in a neighbour advertisement. Returns the entry that became usable by it.
    pub fn on_advertisement(&mut self, message: &NeighborAdvertisement, now: Instant) -> Option<NeighborIndex> {
        //= RFC 4861 7.3.1-MUST-1
        if !message.solicited {
            self.counters.unsolicited += 1;
            let claimed = message.target_link_layer.filter(|_| message.overrides);
            self.doubt(IpAddr::V6(message.target), claimed, now);
            return None;
        }
        self.learn_from_answer(IpAddr::V6(message.target), message.target_link_layer, now)
    }

    /// Makes an entry for a neighbour whose handshake completed, unless there is one that says where it is: frames came
    /// from `mac` and answers arrived there.
    pub fn learn_from_handshake(&mut self, address: IpAddr, mac: MacAddr, now: Instant) -> Option<NeighborIndex> {
        if !mac.is_unicast() {
            return None;
        }
        let known = self.find(address);
        let slot = match known {
            Some(slot) => slot,
            None => self.insert(address, now)?,
        };
        let entry = self.entries.get_mut(slot as usize)?;
        if matches!(entry.state, State::Free | State::Incomplete | State::Failed) {
            self.incomplete -= usize::from(entry.state == State::Incomplete);
            entry.mac = mac;
            entry.state = State::Reachable;
            entry.deadline = now + self.config.reachable;
            self.counters.learned += 1;
        }
        Some(self.index_of(slot))
    }

    /// Sets an entry that is neither asked for nor evicted, as a kernel's table or an operator has it. `None` if there
    /// is no room.
    pub fn set_permanent(&mut self, address: IpAddr, mac: MacAddr, now: Instant) -> Option<NeighborIndex> {
        let known = self.find(address);
        let slot = match known {
            Some(slot) => slot,
            None => self.insert(address, now)?,
        };
        let entry = self.entries.get_mut(slot as usize)?;
        self.incomplete -= usize::from(entry.state == State::Incomplete);
        entry.mac = mac;
        entry.state = State::Permanent;
        Some(self.index_of(slot))
    }

    /// The next thing to be done at `now`; to be called until there is none. Costs one comparison if nothing is due.
    #[inline]
    pub fn poll(&mut self, now: Instant) -> Option<NeighborEvent> {
        if self.asked.is_empty() || now < self.due { None } else { self.poll_asked(now) }
    }

    fn poll_asked(&mut self, now: Instant) -> Option<NeighborEvent> {
        while let Some(&slot) = self.asked.get(self.cursor) {
            let entry = &mut self.entries[slot as usize];
            if !matches!(entry.state, State::Incomplete | State::Probe) {
                entry.in_asked = false;
                self.asked.swap_remove(self.cursor);
                continue;
            }
            if entry.deadline <= now {
                return Some(self.ask_again(slot, now));
            }
            self.earliest = Some(self.earliest.map_or(entry.deadline, |earliest| earliest.min(entry.deadline)));
            self.cursor += 1;
        }
        self.cursor = 0;
        self.due = self.earliest.take().unwrap_or(now);
        None
    }

    /// One more request for an entry whose deadline has passed, or the end of asking.
    //= RFC 4861 7.2.2-MUST-1
    //= RFC 1122 2.3.2.1-MUST-2
    fn ask_again(&mut self, slot: u32, now: Instant) -> NeighborEvent {
        let index = self.index_of(slot);
        let entry = &mut self.entries[slot as usize];
        let address = entry.address;
        if entry.tries >= self.config.tries {
            if entry.state == State::Incomplete {
                self.incomplete -= 1;
                entry.state = State::Failed;
                entry.deadline = now + self.config.hold_down;
                self.counters.failed += 1;
                return NeighborEvent::Failed { index, address };
            }
            // The station is gone; perhaps another one has the address now.
            self.incomplete += 1;
            entry.state = State::Incomplete;
            entry.tries = 0;
        }
        entry.tries += 1;
        entry.deadline = now + self.config.retry_interval;
        self.counters.solicitations += 1;
        NeighborEvent::Solicit { address, station: (entry.state == State::Probe).then_some(entry.mac) }
    }

    /// Enters a state that asks, the first request being due at once.
    fn ask(&mut self, slot: u32, state: State, now: Instant) {
        let Some(entry) = self.entries.get_mut(slot as usize) else { return };
        self.incomplete += usize::from(state == State::Incomplete);
        entry.state = state;
        entry.tries = 0;
        entry.deadline = now;
        if !entry.in_asked {
            entry.in_asked = true;
            self.asked.push(slot);
        }
        self.due = self.due.min(now);
    }

    /// The most entries that may be asked for at a time.
    fn asked_max(&self) -> usize {
        (self.config.capacity / 2).max(1)
    }

    //= RFC 1122 2.3.2.1-MUST-1
    fn use_slot(&mut self, slot: u32, now: Instant) -> Resolution {
        let Some(entry) = self.entries.get_mut(slot as usize) else { return Resolution::Failed };
        entry.used = now;
        let mac = entry.mac;
        match entry.state {
            State::Reachable if now < entry.deadline => Resolution::Ready(mac),
            State::Permanent | State::Probe => Resolution::Ready(mac),
            State::Reachable | State::Stale => {
                self.ask(slot, State::Probe, now);
                Resolution::Ready(mac)
            }
            State::Failed if now < entry.deadline => Resolution::Failed,
            State::Failed | State::Free => {
                self.ask(slot, State::Incomplete, now);
                Resolution::Pending
            }
            State::Incomplete => Resolution::Pending,
        }
    }

    /// A neighbour that asks for us tells where it is (RFC 826, RFC 4861 §7.2.3): believed, until it is used. Who claims
    /// an address that another station is known to have is not believed: the other one is asked, and everyone if it is
    /// gone.
    //= RFC 4861 7.2.3-MUST-1
    fn learn_from_request(&mut self, address: IpAddr, mac: MacAddr, now: Instant) -> Option<NeighborIndex> {
        if !mac.is_unicast() {
            return None;
        }
        let known = self.find(address);
        let slot = match known {
            Some(slot) => slot,
            None => self.insert_unused(address)?,
        };
        let entry = self.entries.get_mut(slot as usize)?;
        match entry.state {
            State::Permanent | State::Probe => None,
            State::Reachable | State::Stale => {
                self.doubt(address, Some(mac), now);
                None
            }
            State::Free | State::Incomplete | State::Failed => {
                self.incomplete -= usize::from(entry.state == State::Incomplete);
                entry.mac = mac;
                entry.state = State::Stale;
                self.counters.learned += 1;
                Some(self.index_of(slot))
            }
        }
    }

    /// Somebody claims an address that another station is known to have: that one is asked once, and everyone if it is
    /// silent. An address that has moved is found in a second, and a forged claim moves nothing.
    pub fn doubt(&mut self, address: IpAddr, claimed: Option<MacAddr>, now: Instant) {
        let (Some(slot), Some(mac)) = (self.find(address), claimed.filter(|mac| mac.is_unicast())) else { return };
        let tries = self.config.tries.saturating_sub(1);
        if self.entries.get(slot as usize).is_some_and(|entry| entry.mac != mac)
            && let Some(entry) = self.probe(slot, now)
        {
            entry.tries = tries;
        }
    }

    /// Asks the station that is known, if there is one that is not being asked already.
    fn probe(&mut self, slot: u32, now: Instant) -> Option<&mut Entry> {
        let known = |entry: &Entry| matches!(entry.state, State::Reachable | State::Stale);
        if !self.entries.get(slot as usize).is_some_and(known) {
            return None;
        }
        self.ask(slot, State::Probe, now);
        self.entries.get_mut(slot as usize)
    }

    /// An answer counts if somebody asked. As long as a station is known to have the address and is being asked, only it
    /// confirms that: the override flag (RFC 4861 §7.2.5) can be set by anybody. Everyone is asked when it is silent.
    //= RFC 4861 7.2.5-MUST-1, 7.2.5-SHOULD-1, 7.2.5-SHOULD-2
    fn learn_from_answer(&mut self, address: IpAddr, mac: Option<MacAddr>, now: Instant) -> Option<NeighborIndex> {
        let slot = self.find(address);
        let asking = slot.and_then(|slot| Some((slot, self.entries.get_mut(slot as usize)?)));
        let Some((slot, entry)) = asking.filter(|(_, entry)| matches!(entry.state, State::Incomplete | State::Probe))
        else {
            self.counters.unsolicited += 1;
            self.doubt(address, mac, now);
            return None;
        };
        let waited = entry.state == State::Incomplete;
        let mac = match mac {
            Some(mac) if mac.is_unicast() => mac,
            None if !waited => entry.mac,
            _ => return None,
        };
        if !waited && mac != entry.mac {
            return None;
        }
        self.incomplete -= usize::from(waited);
        entry.mac = mac;
        entry.state = State::Reachable;
        entry.deadline = now + self.config.reachable;
        self.counters.resolved += 1;
        waited.then(|| self.index_of(slot))
    }

    /// The slot of an address.
    #[inline]
    fn find(&mut self, address: IpAddr) -> Option<u32> {
        let last_bits = match address {
            IpAddr::V4(address) => address.to_bits(),
            IpAddr::V6(address) => address.to_bits() as u32,
        };
        let at = last_bits as usize & (self.recent.len() - 1);
        let guess = self.recent[at];
        // Every entry is in the table under its address
        if self.entries.get(guess as usize).is_some_and(|entry| entry.address == address) {
            return Some(guess);
        }
        let slot = self.slot_at(address)?;
        self.recent[at] = slot;
        Some(slot)
    }

    #[inline]
    fn slot_at(&self, address: IpAddr) -> Option<u32> {
        let is_it = |&slot: &u32| self.entries.get(slot as usize).is_some_and(|entry| entry.address == address);
        self.slots.find(self.keyed.hash_address(address), is_it).copied()
    }

    /// A slot for `address`, which has none, in state [`State::Free`].
    fn insert(&mut self, address: IpAddr, now: Instant) -> Option<u32> {
        self.insert_over(address, now, false)
    }

    /// As [`insert`](Self::insert), for an address that nobody here has asked for: no entry that was ever used gives way.
    fn insert_unused(&mut self, address: IpAddr) -> Option<u32> {
        self.insert_over(address, Instant::ZERO, true)
    }

    fn insert_over(&mut self, address: IpAddr, now: Instant, unused_only: bool) -> Option<u32> {
        let slot = if self.entries.len() < self.config.capacity {
            self.entries.push(FREE);
            Some(self.entries.len() - 1)
        } else {
            self.evict(unused_only)
        };
        let Some(slot) = slot else {
            self.counters.refused += 1;
            return None;
        };
        let entry = self.entries.get_mut(slot)?;
        let Entry { in_asked, generation, .. } = *entry;
        *entry = Entry { address, used: now, in_asked, generation, ..FREE };
        let (entries, keyed) = (&self.entries, &self.keyed);
        let rehash = |&slot: &u32| entries.get(slot as usize).map_or(0, |entry| keyed.hash_address(entry.address));
        self.slots.insert_unique(keyed.hash_address(address), slot as u32, rehash);
        Some(slot as u32)
    }

    /// Empties the slot of the entry that has not been used for longest, of those never used if that is asked for.
    fn evict(&mut self, unused_only: bool) -> Option<usize> {
        let len = self.entries.len();
        let scan = (0..len.min(EVICTION_SCAN)).map(|step| (self.hand + step) % len);
        let may_go = |entry: &Entry| entry.state != State::Permanent && (!unused_only || entry.used == Instant::ZERO);
        let evictable = scan.filter(|&slot| may_go(&self.entries[slot]));
        let victim = evictable.min_by_key(|&slot| self.entries[slot].used);
        self.hand = (self.hand + EVICTION_SCAN) % len;
        let entry = &mut self.entries[victim?];
        self.incomplete -= usize::from(entry.state == State::Incomplete);
        let next = entry.generation.get().wrapping_add(GENERATION.get());
        entry.generation = NonZeroU32::new(next).unwrap_or(GENERATION);
        let (hash, slot) = (self.keyed.hash_address(entry.address), victim? as u32);
        if let Ok(found) = self.slots.find_entry(hash, |&other| other == slot) {
            found.remove();
        }
        self.counters.evicted += 1;
        victim
    }

    #[inline]
    fn index_of(&self, slot: u32) -> NeighborIndex {
        let generation = self.entries.get(slot as usize).map_or(GENERATION, |entry| entry.generation);
        NeighborIndex(generation | slot)
    }

    #[inline]
    fn slot_of(&self, index: NeighborIndex) -> Option<u32> {
        let (slot, generation) = (index.0.get() & SLOT_MASK, index.0.get() & !SLOT_MASK);
        let entry = self.entries.get(slot as usize)?;
        (entry.generation.get() == generation).then_some(slot)
    }
}

#[cfg(test)]
#[path = "neighbor_tests.rs"]
mod tests;
