//! Frames that arrive on a worker that does not own their flow.
//!
//! Where a device spreads flows over its queues in its own way (veth delivers to the queue of the sender's core), a
//! segment may reach the wrong worker. With several workers each flow has one owner, named by its hash; the others
//! copy such a frame into a parcel and put it on the owner's bounded queue. What finds no room there is dropped and
//! counted, as on a full ring. Answers to ARP and neighbour discovery go to everyone: each worker has its own table.
//!
//! Parcels are made at the start and go round between the workers; nothing is allocated on the way.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

/// A frame on its way from one worker to another.
struct Parcel {
    octets: Box<[u8]>,
    len: usize,
}

/// One worker's place among several: where its parcels arrive, and where it sends those of others.
pub struct Exchange {
    index: u32,
    inboxes: Vec<Arc<ArrayQueue<Parcel>>>,
    /// Empty parcels, shared by all.
    empties: Arc<ArrayQueue<Parcel>>,
}

impl Exchange {
    /// Places for `workers` workers with room for `parcels` frames of up to `frame_bytes` octets on the way to each.
    pub fn among(workers: usize, parcels: usize, frame_bytes: usize) -> Vec<Self> {
        let inboxes: Vec<_> = (0..workers).map(|_| Arc::new(ArrayQueue::new(parcels.max(1)))).collect();
        let empties = Arc::new(ArrayQueue::new((workers * parcels).max(1)));
        for _ in 0..workers * parcels {
            let parcel = Parcel { octets: vec![0; frame_bytes].into_boxed_slice(), len: 0 };
            // There is room for all of them.
            let _ = empties.push(parcel);
        }
        (0..workers)
            .map(|index| Self { index: index as u32, inboxes: inboxes.clone(), empties: Arc::clone(&empties) })
            .collect()
    }

    /// The worker that owns a flow, by the hash that all workers compute alike.
    #[inline]
    pub(crate) fn owner(&self, hash: u64) -> u32 {
        // A multiplication spreads the high half over the workers; the table uses other bits of the same hash
        ((u64::from(hash as u32) * self.inboxes.len() as u64) >> 32) as u32
    }

    /// Whether this worker owns a flow.
    #[inline]
    pub(crate) fn is_mine(&self, hash: u64) -> bool {
        self.owner(hash) == self.index
    }

    /// Hands a frame to `worker`. False if it has no room: the frame is lost.
    pub(crate) fn hand_over(&self, worker: u32, frame: &[u8]) -> bool {
        let (Some(inbox), Some(mut parcel)) = (self.inboxes.get(worker as usize), self.empties.pop()) else {
            return false;
        };
        let fits = frame.len() <= parcel.octets.len();
        if fits {
            parcel.octets[..frame.len()].copy_from_slice(frame);
            parcel.len = frame.len();
        }
        let refused = if fits { inbox.push(parcel).err() } else { Some(parcel) };
        match refused {
            Some(parcel) => {
                let _ = self.empties.push(parcel);
                false
            }
            None => true,
        }
    }

    /// Hands a copy of a frame to every other worker.
    pub(crate) fn hand_to_all(&self, frame: &[u8]) {
        for worker in (0..self.inboxes.len() as u32).filter(|&worker| worker != self.index) {
            self.hand_over(worker, frame);
        }
    }

    /// The next frame that was handed to this worker, copied into `frame`. Its length, or `None` if there is none.
    pub(crate) fn take(&self, frame: &mut [u8]) -> Option<usize> {
        let parcel = self.inboxes.get(self.index as usize)?.pop()?;
        let len = parcel.len.min(frame.len());
        frame[..len].copy_from_slice(&parcel.octets[..len]);
        let _ = self.empties.push(parcel);
        Some(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parcels_arrive_whole_and_go_round() {
        let places = Exchange::among(3, 4, 64);
        for round in 0..100u8 {
            assert!(places[0].hand_over(2, &[round; 60]));
            let mut frame = [0; 64];
            assert_eq!(places[1].take(&mut frame), None);
            assert_eq!(places[2].take(&mut frame), Some(60));
            assert_eq!(frame[..60], [round; 60]);
        }
    }

    #[test]
    fn a_full_inbox_refuses_and_loses_no_parcel() {
        let places = Exchange::among(2, 4, 64);
        let accepted = (0..10).filter(|_| places[0].hand_over(1, &[1; 10])).count();
        assert_eq!(accepted, 4);
        assert!(!places[0].hand_over(0, &[1; 65]), "too long");
        let mut frame = [0; 64];
        assert_eq!((0..10).filter(|_| places[1].take(&mut frame).is_some()).count(), 4);
        assert_eq!(places[0].empties.len(), 8);
    }

    #[test]
    fn every_flow_has_one_owner_and_each_worker_its_share() {
        let places = Exchange::among(3, 1, 64);
        let mut share = [0; 3];
        for n in 0..3000u64 {
            let hash = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ n << 7;
            let owners: Vec<_> = (0..3).filter(|&worker| places[worker].is_mine(hash)).collect();
            assert_eq!(owners, [places[0].owner(hash) as usize]);
            share[owners[0]] += 1;
        }
        assert!(share.iter().all(|&n| (800..1200).contains(&n)), "{share:?}");
    }
}
