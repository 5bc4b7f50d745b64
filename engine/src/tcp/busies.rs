//! The pool of busy blocks, and their places on the timer wheel.
//!
//! A block that is given back keeps its place on the wheel while it lies ready for the next connection: its timer then mostly
//! comes in time for that one, and only has to be put off. Connections that come and go so leave the wheel alone. Where
//! the timer of a block that lies ready comes, it finds nothing to do.

use core::ops::{Deref, DerefMut};

use crate::flow::Slab;
use crate::timer_wheel::{Link, Links, TimerWheel};

use super::block::Busy;

/// Blocks that may lie ready: a burst of connections come and go without the wheel.
const READY_MAX: usize = 128;

/// The pool: the slab it is made of counts the blocks that lie ready as in use.
#[derive(Debug)]
pub(crate) struct Busies {
    blocks: Slab<Busy, 1024>,
    ready: [u32; READY_MAX],
    ready_len: usize,
    /// Calls of [`settle`](Self::settle), modulo how often it takes back what lies ready.
    turn: u16,
}

impl Busies {
    /// An empty pool for so many blocks, rounded up to pages.
    pub(crate) fn with_limit(blocks_max: u32) -> Self {
        Self { blocks: Slab::with_limit(blocks_max), ready: [0; READY_MAX], ready_len: 0, turn: 0 }
    }

    /// Blocks in use.
    pub(crate) fn len(&self) -> u32 {
        self.blocks.len() - self.ready_len as u32
    }

    /// Blocks that can be allocated without growing.
    #[inline]
    pub(crate) fn room(&self) -> u32 {
        self.blocks.room() + self.ready_len as u32
    }

    /// A free block, holding whatever its last owner left; it may be on the wheel. `None` if there is no room.
    #[inline(always)]
    pub(crate) fn alloc(&mut self) -> Option<u32> {
        let top = self.ready_len.wrapping_sub(1);
        let Some(&slot) = self.ready.get(top) else { return self.blocks.alloc() };
        self.ready_len = top;
        Some(slot)
    }

    /// Gives a block back that nothing but its place on the wheel hangs on any more.
    #[inline(always)]
    pub(crate) fn free(&mut self, slot: u32, wheel: &mut TimerWheel) {
        self.blocks[slot].timers = 0;
        match self.ready.get_mut(self.ready_len) {
            Some(place) => {
                *place = slot;
                self.ready_len += 1;
            }
            None => self.free_wholly(slot, wheel),
        }
    }

    #[inline(never)]
    fn free_wholly(&mut self, slot: u32, wheel: &mut TimerWheel) {
        wheel.cancel(self, slot);
        self.blocks.free(slot);
    }

    /// Now and then all that lie ready go back to their pages, which could otherwise never be given back. Call it between
    /// polls.
    pub(crate) fn settle(&mut self, wheel: &mut TimerWheel) {
        self.turn = self.turn.wrapping_add(1);
        if self.turn == 0 {
            for at in 0..core::mem::take(&mut self.ready_len) {
                self.free_wholly(self.ready[at], wheel);
            }
        }
    }

    /// Gives every page back; all blocks become invalid.
    pub(crate) fn release<P: crate::page::PageSource>(&mut self, pages: &mut P) {
        self.ready_len = 0;
        self.blocks.release(pages);
    }
}

impl Deref for Busies {
    type Target = Slab<Busy, 1024>;

    #[inline(always)]
    fn deref(&self) -> &Self::Target {
        &self.blocks
    }
}

impl DerefMut for Busies {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.blocks
    }
}

impl Links for Busies {
    #[inline]
    fn link(&self, id: u32) -> &Link {
        &self[id].link
    }

    #[inline]
    fn link_mut(&mut self, id: u32) -> &mut Link {
        &mut self[id].link
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::HeapPages;

    #[test]
    fn a_block_that_is_given_back_keeps_its_place_for_the_next() {
        let (mut busies, mut wheel) = (Busies::with_limit(256), TimerWheel::new(0));
        busies.reserve(&mut HeapPages::new(), 256).unwrap();
        let first = busies.alloc().unwrap();
        wheel.schedule(&mut busies, first, 200);
        busies.free(first, &mut wheel);
        assert_eq!((busies.len(), wheel.len()), (0, 1));
        // who comes next and is due earlier moves it; later, finds it there
        let next = busies.alloc().unwrap();
        assert_eq!(next, first);
        wheel.schedule(&mut busies, next, 150);
        assert_eq!(busies[next].link.deadline_ms(), Some(150));
        wheel.schedule(&mut busies, next, 400);
        busies.free(next, &mut wheel);
        // it comes to nobody
        let mut budget = 100;
        assert_eq!(wheel.pop_expired(&mut busies, 400, &mut budget), Some(first));
        assert_eq!((busies[first].timers, wheel.len()), (0, 0));
    }

    #[test]
    fn what_lies_ready_goes_back_now_and_then() {
        let (mut busies, mut wheel) = (Busies::with_limit(1024), TimerWheel::new(0));
        busies.reserve(&mut HeapPages::new(), 1024).unwrap();
        let slots: Vec<u32> = (0..READY_MAX as u32 + 50).map(|_| busies.alloc().unwrap()).collect();
        for &slot in &slots {
            wheel.schedule(&mut busies, slot, 1_000);
            busies.free(slot, &mut wheel);
        }
        assert_eq!((busies.len(), busies.room(), wheel.len() as usize), (0, 1024, READY_MAX));
        for _ in 0..1 << 16 {
            busies.settle(&mut wheel);
        }
        assert_eq!((busies.len(), busies.blocks.len(), wheel.len()), (0, 0, 0));
    }
}
