//! Octets that must be kept: out of order, not yet taken by the application, or written and not yet acknowledged.
//!
//! Chunks of one size come from one bounded pool; a connection holds chains of them. Most connections hold none.

use crate::flow::Slab;
use crate::page::{OutOfMemory, PageSource};
use crate::wire::Seq;

use super::block::{Busy, NONE};

/// Octets of payload in a chunk.
pub(crate) const CHUNK: usize = 2032;
/// Chunks in a page.
const PAGE: usize = 128;

/// A piece of a byte stream.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Chunk {
    pub(crate) next: u32,
    /// Sequence number of the octet at `first`.
    pub(crate) seq: Seq,
    /// Used part of `data`.
    pub(crate) first: u16,
    pub(crate) end: u16,
    data: [u8; CHUNK],
}

const _: () = assert!(size_of::<Chunk>() == 2048);

impl Default for Chunk {
    fn default() -> Self {
        Self { next: NONE, seq: Seq(0), first: 0, end: 0, data: [0; CHUNK] }
    }
}

impl Chunk {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        usize::from(self.end - self.first)
    }

    /// Sequence number after the last octet.
    #[inline]
    pub(crate) fn end_seq(&self) -> Seq {
        self.seq + self.len() as u32
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        self.data.get(usize::from(self.first)..usize::from(self.end)).unwrap_or(&[])
    }

    /// Appends what fits of `data`; returns how much.
    pub(crate) fn append(&mut self, data: &[u8]) -> usize {
        let room = CHUNK - usize::from(self.end);
        let n = room.min(data.len());
        self.data[usize::from(self.end)..][..n].copy_from_slice(&data[..n]);
        self.end += n as u16;
        n
    }

    /// Drops the first `n` octets.
    pub(crate) fn advance(&mut self, n: usize) {
        let n = n.min(self.len());
        self.first += n as u16;
        self.seq += n as u32;
    }
}

/// A chain of chunks: its ends, kept by the connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain {
    pub(crate) head: u32,
    pub(crate) tail: u32,
}

/// The pool of a worker.
pub(crate) struct Buffers {
    chunks: Slab<Chunk, PAGE>,
    chunks_max: u32,
    /// Chunks with octets ahead of holes, and the most there may be.
    pub(crate) ahead: u32,
    ahead_max: u32,
}

impl Buffers {
    /// A pool that never holds more than `bytes_max` octets, `ahead_bytes_max` of them ahead of holes.
    pub(crate) fn new(bytes_max: u64, ahead_bytes_max: u64) -> Self {
        let chunks = |bytes: u64| (bytes / size_of::<Chunk>() as u64).min(1 << 28) as u32;
        let chunks_max = chunks(bytes_max).max(PAGE as u32);
        let ahead_max = chunks(ahead_bytes_max).min(chunks_max);
        Self { chunks: Slab::with_limit(chunks_max), chunks_max, ahead: 0, ahead_max }
    }

    /// Whether three quarters of the pool are in use.
    pub(crate) fn is_short(&self) -> bool {
        self.chunks.len() >= self.chunks_max / 4 * 3
    }

    /// Whether there may be another chunk with octets ahead of a hole.
    #[inline]
    pub(crate) fn room_ahead(&self) -> bool {
        self.ahead < self.ahead_max
    }

    /// Makes sure that `n` chunks can be taken without another page, within the limit.
    pub(crate) fn reserve<P: PageSource>(&mut self, pages: &mut P, n: u32) -> Result<(), OutOfMemory> {
        self.chunks.reserve(pages, n)
    }

    /// Chunks in use.
    pub(crate) fn len(&self) -> u32 {
        self.chunks.len()
    }

    /// Octets held.
    pub(crate) fn bytes(&self) -> u64 {
        self.chunks.bytes()
    }

    /// Gives every page back.
    pub(crate) fn release<P: PageSource>(&mut self, pages: &mut P) {
        self.chunks.release(pages);
    }

    #[inline]
    pub(crate) fn get(&self, chunk: u32) -> &Chunk {
        &self.chunks[chunk]
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, chunk: u32) -> &mut Chunk {
        &mut self.chunks[chunk]
    }

    /// An empty chunk.
    pub(crate) fn take(&mut self, seq: Seq) -> Option<u32> {
        let id = self.chunks.alloc()?;
        let chunk = &mut self.chunks[id];
        (chunk.next, chunk.seq, chunk.first, chunk.end) = (NONE, seq, 0, 0);
        Some(id)
    }

    /// Gives a chunk back.
    pub(crate) fn free(&mut self, chunk: u32) {
        self.chunks.free(chunk);
    }

    /// Appends `data`, whose first octet is `seq`, to a chain without holes. Returns how much found room.
    pub(crate) fn append(&mut self, chain: &mut Chain, mut seq: Seq, data: &[u8]) -> usize {
        let mut done = 0;
        while done < data.len() {
            if chain.tail != NONE {
                let n = self.chunks[chain.tail].append(&data[done..]);
                done += n;
                seq += n as u32;
                if done == data.len() {
                    break;
                }
            }
            let Some(fresh) = self.take(seq) else { break };
            if chain.tail == NONE {
                chain.head = fresh;
            } else {
                self.chunks[chain.tail].next = fresh;
            }
            chain.tail = fresh;
        }
        done
    }

    /// Drops the octets before `seq` from the front of a chain.
    pub(crate) fn drop_before(&mut self, chain: &mut Chain, seq: Seq) {
        while chain.head != NONE {
            let chunk = &mut self.chunks[chain.head];
            if chunk.end_seq().after(seq) {
                if chunk.seq.before(seq) {
                    chunk.advance((seq - chunk.seq) as usize);
                }
                return;
            }
            let next = chunk.next;
            self.chunks.free(chain.head);
            chain.head = next;
        }
        chain.tail = NONE;
    }

    /// Copies octets from `seq` on into `out`, which the chain holds without a hole.
    pub(crate) fn copy(&self, chain: &Chain, seq: Seq, out: &mut [u8]) {
        let (mut at, mut done) = (chain.head, 0);
        while at != NONE && done < out.len() {
            let chunk = &self.chunks[at];
            let want = seq + done as u32;
            if chunk.end_seq().after(want) {
                let bytes = chunk.bytes().get((want - chunk.seq) as usize..).unwrap_or(&[]);
                let n = bytes.len().min(out.len() - done);
                out[done..done + n].copy_from_slice(&bytes[..n]);
                done += n;
            }
            at = chunk.next;
        }
    }

    /// Gives all back that hangs on a busy block.
    #[inline(never)]
    pub(crate) fn clear_all(&mut self, b: &Busy) {
        for (head, tail) in [(b.write_head, b.write_tail), (b.read_head, b.read_tail), (b.ahead_head, b.ahead_tail)] {
            self.clear(&mut Chain { head, tail });
        }
        self.ahead -= u32::from(b.ahead_chunks);
    }

    /// Gives a whole chain back.
    pub(crate) fn clear(&mut self, chain: &mut Chain) {
        while chain.head != NONE {
            let next = self.chunks[chain.head].next;
            self.chunks.free(chain.head);
            chain.head = next;
        }
        chain.tail = NONE;
    }
}
