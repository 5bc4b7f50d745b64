//! Transmission by the XDP program itself: a burst of frames leaves in one system call, without a socket buffer each.
//!
//! In copy mode `sendto` makes a socket buffer of every frame on the TX ring and takes it through the stack, one at a
//! time. Since 5.18 Linux can also run an XDP program on frames that it makes for the purpose
//! (`BPF_F_TEST_XDP_LIVE_FRAMES`): ours fills each with the engine's next one and sends it off by `XDP_TX`. On a veth
//! whose other end takes XDP frames (native XDP, or GRO, at the peer) a frame then costs a fraction; but each call has a
//! price of its own, so that only a burst is worth one, and all else goes over the ring.
//!
//! ```text
//!   transmit ▶ pending ─┬─ few, or the peer takes none ──▶ TX ring ▶ sendto
//!                       └─ a burst ▶ live_frames (shared with the program) ▶ BPF_PROG_TEST_RUN ▶ XDP_TX
//! ```

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aya::programs::{TestRunAttrs, TestRunOptions};
use rustix::thread::sched_getcpu;

use crate::netns;
use crate::program::Program;
use crate::sys::{self, Mapping};

/// Frames of a queue that one call sends; the C source has the same number.
pub(crate) const LIVE_FRAMES: usize = 512;
/// The longest frame, octets; the C source has the same number.
pub(crate) const LIVE_OCTETS: usize = 2_040;
/// Frames that the kernel prepares before it lets the receiver have them: no more than a veth's ring takes in.
const BATCH: u32 = 64;
/// How often to look whether frames may go this way: while they do, and while they do not. It takes some 50 µs.
const LOOK_EVERY: [Duration; 2] = [Duration::from_secs(1), Duration::from_millis(100)];
/// What precedes an empty frame, `struct live_ticket` of the program: the key that tells it from arriving ones, and the
/// queue whose next frame it is to become. The kernel does not let `rx_queue_index` say that to frames that are sent.
const TICKET_BYTES: usize = 16;

/// `struct live_frame` of the program.
#[repr(C)]
struct Slot {
    len: u32,
    reserved: u32,
    octets: [u8; LIVE_OCTETS],
}

/// `struct live_cursor` of the program: which of a queue's frames is next to be sent.
#[repr(C)]
struct Cursor {
    next: u32,
    reserved: [u32; 15],
}

const _: () = assert!(size_of::<Slot>() == 2_048 && size_of::<Cursor>() == 64, "the strides of the program's arrays");

/// The memory that the program takes frames from: `LIVE_FRAMES` slots and a cursor for each queue.
pub(crate) struct LiveMaps {
    slots: Mapping<Slot>,
    cursors: Mapping<Cursor>,
    queues: u32,
    key: u64,
}

impl LiveMaps {
    /// The program's maps `live_frames` and `live_cursors`.
    pub(crate) fn new(frames: BorrowedFd<'_>, cursors: BorrowedFd<'_>, queues: u32, key: u64) -> io::Result<Self> {
        let count = queues as usize;
        let (slots, cursors) = (Mapping::new(frames, count * LIVE_FRAMES)?, Mapping::new(cursors, count)?);
        Ok(Self { slots, cursors, queues, key })
    }

    /// What precedes an empty frame of `queue`.
    pub(crate) fn ticket(&self, queue: u32) -> [u8; TICKET_BYTES] {
        let (mut ticket, words) = ([0; TICKET_BYTES], [self.key, queue.into()]);
        for (place, word) in ticket.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *place = word.to_ne_bytes();
        }
        ticket
    }

    /// Makes `octets` the first frame of `queue`, and the next to be sent.
    #[cfg(test)]
    pub(crate) fn put_first(&self, queue: u32, octets: &[u8]) {
        let mut filled = Slot { len: octets.len() as u32, reserved: 0, octets: [0; LIVE_OCTETS] };
        filled.octets[..octets.len()].copy_from_slice(octets);
        // SAFETY: within the mapping, aligned to its pages, and nothing else uses it in a test.
        unsafe { self.slots.at(queue as usize * LIVE_FRAMES).write(filled) };
        // SAFETY: as above.
        unsafe { self.cursors.at(queue as usize).write(Cursor { next: 0, reserved: [0; 15] }) };
    }
}

/// One queue's way out by the program.
pub(crate) struct LiveQueue {
    slots: NonNull<Slot>,
    /// `next` of the queue's cursor.
    next: NonNull<u32>,
    /// The ticket, and what the kernel makes a frame of before the program fills it.
    input: Box<[u8]>,
    queue: u32,
    queues: u32,
    interface_index: u32,
    /// Where the interface's number means that interface.
    namespace: u64,
    /// The thread and the peer are as they have to be.
    ready: bool,
    /// The kernel refused for good.
    refused: bool,
    /// When that was last looked into.
    looked: Option<Instant>,
    /// Keeps the maps.
    program: Arc<Program>,
}

// SAFETY: the pointers are into mappings that `program` keeps, to parts that belong to this queue alone.
unsafe impl Send for LiveQueue {}

impl LiveQueue {
    /// The way out of `queue` by `program`, if it has one.
    pub(crate) fn new(program: &Arc<Program>, queue: u32, interface_index: u32, namespace: u64) -> Option<Self> {
        let maps = program.live()?;
        let mut input = vec![0; TICKET_BYTES + LIVE_OCTETS].into_boxed_slice();
        input[..TICKET_BYTES].copy_from_slice(&maps.ticket(queue));
        Some(Self {
            slots: maps.slots.at(queue as usize * LIVE_FRAMES),
            next: maps.cursors.at(queue as usize).cast(),
            input,
            queue,
            queues: maps.queues,
            interface_index,
            namespace,
            ready: false,
            refused: false,
            looked: None,
            program: Arc::clone(program),
        })
    }

    /// Whether frames may go this way now.
    #[inline]
    pub(crate) fn is_ready(&self) -> bool {
        self.ready
    }

    /// Looks whether frames may go this way: from this thread, to this peer. Now and then only.
    pub(crate) fn check(&mut self) {
        let wait = LOOK_EVERY[usize::from(!self.ready)];
        if self.looked.is_some_and(|looked| looked.elapsed() < wait) {
            return;
        }
        self.look();
        self.looked = Some(Instant::now());
    }

    fn look(&mut self) {
        // veth hands XDP frames to the peer's queue of the sender's core, wherever their flow belongs.
        let own_queue = self.queues == 1 || sched_getcpu() % self.queues as usize == self.queue as usize;
        self.ready = !self.refused
            && own_queue
            && netns::current().is_ok_and(|namespace| namespace == self.namespace)
            && sys::takes_xdp_frames(self.interface_index);
    }

    /// Puts a frame in place `at`, to be sent with the next call.
    #[inline]
    pub(crate) fn put(&mut self, at: usize, octets: &[u8]) {
        // SAFETY: `LIVE_FRAMES` slots of a mapping that `program` keeps, which are this queue's alone, valid for any
        // octets; the program reads them only during `send`, which borrows `self` exclusively.
        let slots = unsafe { std::slice::from_raw_parts_mut(self.slots.as_ptr(), LIVE_FRAMES) };
        let slot = &mut slots[at];
        slot.len = octets.len() as u32;
        slot.octets[..octets.len()].copy_from_slice(octets);
    }

    /// Sends the first `count` frames, the longest of `longest` octets. Returns how many have left: fewer only if the
    /// kernel refused, or a signal came.
    pub(crate) fn send(&mut self, count: usize, longest: usize) -> usize {
        let end = TICKET_BYTES + longest;
        // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context = [TICKET_BYTES as u32, end as u32, 0, self.interface_index, 0, 0];
        let mut octets = [0u8; 24];
        for (place, word) in octets.as_chunks_mut::<4>().0.iter_mut().zip(context) {
            *place = word.to_ne_bytes();
        }
        // SAFETY: in a mapping that `program` keeps; the program writes it only during the call.
        unsafe { self.next.write_volatile(0) };
        let options = TestRunOptions {
            data_in: Some(&self.input[..end]),
            ctx_in: Some(&octets),
            repeat: count as u32,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::new()
        };
        let Err(error) = self.program.run(options) else { return count };
        if error.kind() != io::ErrorKind::Interrupted {
            (self.ready, self.refused) = (false, true);
        }
        // SAFETY: as above.
        let next = unsafe { self.next.read_volatile() };
        (next as usize).min(count)
    }
}
