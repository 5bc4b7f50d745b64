//! The chunks of a UMEM as the engine's frames.
//!
//! A frame is a pointer and two lengths: it is made, moved and taken apart for every packet. What the rings want to
//! know of its chunk besides waits here, by chunk.

use std::ptr::{NonNull, with_exposed_provenance_mut};

use syncline_engine::device::Frame;
use xsk_rs::{FrameDesc, Umem};

/// A frame in a chunk of its device's UMEM.
#[derive(Debug)]
pub struct XdpFrame {
    data: NonNull<u8>,
    len: u32,
    capacity: u32,
    /// When it arrived, nanoseconds of CLOCK_MONOTONIC; 0: nobody knows.
    stamp: u64,
}

const _: () = assert!(size_of::<XdpFrame>() == 24 && size_of::<Option<XdpFrame>>() == 24);

// SAFETY: a frame is the only way to its chunk's octets while it exists, and the octets belong to no thread.
unsafe impl Send for XdpFrame {}

impl Frame for XdpFrame {
    #[inline]
    fn bytes(&self) -> &[u8] {
        // SAFETY: `data` points at `capacity` octets, at least `len`, of a mapping that outlives the frame (the device
        // unmaps it only when no frame is out), zeroed when mapped and therefore initialised. This frame is the only
        // access to them (see the device's module).
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.len as usize) }
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `self` is exclusively borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.len as usize) }
    }

    #[inline]
    fn capacity(&self) -> usize {
        self.capacity as usize
    }

    #[inline]
    fn resize(&mut self, len: usize) -> &mut [u8] {
        assert!(len <= self.capacity as usize, "a frame of {len} octets in a buffer of {}", self.capacity);
        self.len = len as u32;
        self.bytes_mut()
    }

    #[inline]
    fn stamp(&self) -> Option<u64> {
        (self.stamp != 0).then_some(self.stamp)
    }
}

/// `struct stamp` of the program, which it puts before a frame: a key, and the time.
type Stamp = [[u8; 8]; 2];

/// The time of a stamp, 0 if it is none. It is none then, lest it is taken for that of the next frame in the chunk.
#[inline]
fn take(stamp: &mut Stamp, key: u64) -> u64 {
    let [beside, at] = stamp.map(u64::from_ne_bytes);
    if beside != key {
        return 0;
    }
    *stamp = Stamp::default();
    at
}

/// Where the octets of a frame lie: where they begin in the UMEM, octets from its start, and how many they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) addr: usize,
    pub(crate) len: u32,
}

/// The chunks of a device's UMEM.
pub(crate) struct Chunks {
    umem: Umem,
    /// Where its mapping begins.
    base: NonNull<u8>,
    /// Octets of a chunk, a power of two.
    chunk_bytes: usize,
    /// What the rings know each chunk by, and where a frame in it begins.
    descs: Box<[FrameDesc]>,
    /// What tells a stamp before a frame; 0: there are none.
    stamp_key: u64,
}

// SAFETY: the pointer is to the mapping that `umem` keeps, which belongs to no thread.
unsafe impl Send for Chunks {}

impl Chunks {
    /// Those of `umem`, all of them described by `descs` in their order, each of `chunk_bytes` octets.
    pub(crate) fn new(umem: Umem, descs: Vec<FrameDesc>, chunk_bytes: u32, stamp_key: u64) -> Self {
        let base = descs.first().and_then(|first| {
            // SAFETY: a chunk of this UMEM; the slice is not read.
            let data = unsafe { umem.data(first) };
            // Of the whole mapping, which the slice's own pointer is not
            NonNull::new(with_exposed_provenance_mut(data.contents().as_ptr().expose_provenance() - first.addr()))
        });
        Self {
            umem,
            // Without chunks nothing is ever looked for
            base: base.unwrap_or(NonNull::dangling()),
            chunk_bytes: chunk_bytes as usize,
            descs: descs.into_boxed_slice(),
            stamp_key,
        }
    }

    /// Where the frames begin that the chunks are made for, octets from the start of the UMEM.
    pub(crate) fn addrs(&self) -> impl Iterator<Item = usize> {
        self.descs.iter().map(FrameDesc::addr)
    }

    /// The empty frame that begins at `addr` of the UMEM.
    ///
    /// # Safety
    ///
    /// `addr` lies in the UMEM, and the caller has, and gives away, the only right to the chunk there.
    #[inline]
    pub(crate) unsafe fn frame(&self, addr: usize) -> XdpFrame {
        let capacity = self.chunk_bytes - (addr & (self.chunk_bytes - 1));
        XdpFrame { data: self.at(addr), len: 0, capacity: capacity as u32, stamp: 0 }
    }

    /// The frame that the kernel has put where `desc` says.
    ///
    /// # Safety
    ///
    /// `desc` came from the RX ring of this UMEM's socket, and is made a frame of once.
    #[inline]
    pub(crate) unsafe fn received(&mut self, desc: &FrameDesc) -> XdpFrame {
        // SAFETY: what the kernel has put on the RX ring is ours alone.
        let mut frame = unsafe { self.frame(desc.addr()) };
        frame.len = desc.lengths().data() as u32;
        let known = &mut self.descs[desc.addr() / self.chunk_bytes];
        if known.addr() != desc.addr() {
            *known = *desc;
        }
        frame.stamp = self.take_stamp(desc.addr());
        frame
    }

    /// When the frame arrived that begins at `addr`, if the program stamped it; 0: nobody knows.
    #[inline]
    fn take_stamp(&self, addr: usize) -> u64 {
        // The kernel leaves room before a frame; a program that moved the frame there would take it
        if self.stamp_key == 0 || addr & (self.chunk_bytes - 1) < size_of::<Stamp>() {
            return 0;
        }
        let place = self.at(addr - size_of::<Stamp>()).cast::<Stamp>();
        // SAFETY: within the frame's chunk, which is mapped, was zeroed then and is ours alone while the frame is out; no
        // slice reaches there. Octets have no alignment.
        take(unsafe { &mut *place.as_ptr() }, self.stamp_key)
    }

    /// Whose the octets of `frame` are: where it begins in this UMEM and how long it is, or `None` if it is another's.
    #[inline]
    pub(crate) fn extent(&self, frame: &XdpFrame) -> Option<Extent> {
        let addr = frame.data.addr().get().wrapping_sub(self.base.addr().get());
        (addr < self.descs.len() * self.chunk_bytes).then_some(Extent { addr, len: frame.len })
    }

    /// The octets of a frame that has been handed back.
    ///
    /// # Safety
    ///
    /// `extent` was that of a frame of this UMEM, and nothing else has had a right to its chunk since.
    #[inline]
    pub(crate) unsafe fn octets(&self, extent: Extent) -> &[u8] {
        // SAFETY: initialised octets of the mapping, which `umem` keeps; the caller vouches that nothing else writes there.
        unsafe { std::slice::from_raw_parts(self.at(extent.addr).as_ptr(), extent.len as usize) }
    }

    /// What the fill ring wants to know of the chunk where a frame begins at `addr`.
    #[inline]
    pub(crate) fn chunk(&self, addr: usize) -> FrameDesc {
        self.descs[addr / self.chunk_bytes]
    }

    /// What the TX ring wants to know of a frame that has been handed back.
    ///
    /// # Safety
    ///
    /// As for [`octets`](Self::octets).
    #[inline]
    pub(crate) unsafe fn describe(&self, extent: Extent) -> FrameDesc {
        let mut desc = self.chunk(extent.addr);
        desc.set_options(0);
        // SAFETY: a chunk of this UMEM, and nobody else has a right to it, the caller vouches. The octets are not read.
        let mut data = unsafe { self.umem.data_mut(&mut desc) };
        data.cursor().set_pos(extent.len as usize);
        desc
    }

    /// Never unmaps the octets, nor deletes the UMEM: frames that are out point into it.
    pub(crate) fn leak(&self) {
        std::mem::forget(self.umem.clone());
    }

    #[inline]
    fn at(&self, addr: usize) -> NonNull<u8> {
        self.base.map_addr(|base| base.saturating_add(addr))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_once_and_by_its_key_alone() {
        let mut stamp: Stamp = [7u64.to_ne_bytes(), 1_000u64.to_ne_bytes()];
        assert_eq!([take(&mut stamp, 9), take(&mut stamp, 7), take(&mut stamp, 7)], [0, 1_000, 0]);
    }
}
