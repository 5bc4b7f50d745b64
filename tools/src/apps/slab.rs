//! Slots that are numbered and reused, for what only some connections need.

const PAGE: usize = 256;

/// Grows a page of 256 slots at a time and never moves what it holds, so that growth does not stall the loop.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    pages: Vec<Box<[T]>>,
    free: Vec<u32>,
    slots_max: u32,
    used: u32,
}

impl<T: Default> Slab<T> {
    /// An empty slab of at most `slots_max` slots.
    pub(crate) fn new(slots_max: u32) -> Self {
        let pages = (slots_max as usize).div_ceil(PAGE);
        Self { pages: Vec::with_capacity(pages), free: Vec::with_capacity(PAGE), slots_max, used: 0 }
    }

    /// Takes a slot, which still holds whatever its last user left there. `None` if the limit is reached.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => self.grow()?,
        };
        self.used += 1;
        Some(slot)
    }

    fn grow(&mut self) -> Option<u32> {
        let first = (self.pages.len() * PAGE) as u32;
        if first >= self.slots_max {
            return None;
        }
        self.pages.push((0..PAGE).map(|_| T::default()).collect());
        // Room for every slot at once, so that giving back never allocates.
        self.free.reserve(self.pages.len() * PAGE);
        self.free.extend((first + 1..(first + PAGE as u32).min(self.slots_max)).rev());
        Some(first)
    }

    /// Gives a slot back.
    pub(crate) fn give_back(&mut self, slot: u32) {
        self.used -= 1;
        self.free.push(slot);
    }

    /// Slots taken.
    #[cfg(test)]
    pub(crate) fn used(&self) -> u32 {
        self.used
    }
}

impl<T> core::ops::Index<u32> for Slab<T> {
    type Output = T;

    #[inline]
    fn index(&self, slot: u32) -> &T {
        &self.pages[slot as usize / PAGE][slot as usize % PAGE]
    }
}

impl<T> core::ops::IndexMut<u32> for Slab<T> {
    #[inline]
    fn index_mut(&mut self, slot: u32) -> &mut T {
        &mut self.pages[slot as usize / PAGE][slot as usize % PAGE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_distinct_bounded_and_reused() {
        let mut slab = Slab::<u32>::new(300);
        let slots: Vec<_> = core::iter::from_fn(|| slab.take()).collect();
        assert_eq!(slots.len(), 300);
        for &slot in &slots {
            slab[slot] = slot + 1;
        }
        assert!(slots.iter().all(|&slot| slab[slot] == slot + 1));
        slab.give_back(17);
        assert_eq!((slab.used(), slab.take(), slab.take()), (299, Some(17), None));
    }
}
