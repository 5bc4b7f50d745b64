//! Whose turn it is: targets in turn, and of a mix, kinds of connections by their weights.

use super::plan::Flow;

/// The number of the flow that each target belongs to; empty for a single flow.
pub(super) fn flow_of(flows: &[Flow]) -> Vec<u16> {
    if flows.len() < 2 {
        return Vec::new();
    }
    let mut of = Vec::new();
    for (number, flow) in flows.iter().enumerate() {
        let end = flow.targets.1 as usize;
        of.resize(end.max(of.len()), 0);
        of[flow.targets.0 as usize..end].fill(number as u16);
    }
    of
}

/// Hands out targets.
#[derive(Debug)]
pub(super) struct Turns {
    /// There is but one target.
    alone: bool,
    /// Numbers of flows in the order of their turns, as evenly mixed as the weights allow.
    order: Vec<u16>,
    at: usize,
    /// The targets of each flow, from and up to but without, and which is next.
    flows: Vec<((u32, u32), u32)>,
}

impl Turns {
    pub(super) fn new(flows: &[Flow]) -> Self {
        let whole: i64 = flows.iter().map(|flow| i64::from(flow.weight)).sum();
        // Each turn everybody gains its weight; the richest takes the turn and pays for it with the whole.
        let mut credit = vec![0i64; flows.len()];
        let order = (0..if flows.len() < 2 { 1 } else { whole }).map(|_| {
            credit.iter_mut().zip(flows).for_each(|(credit, flow)| *credit += i64::from(flow.weight));
            let richest = (0..flows.len()).rev().max_by_key(|flow| credit[*flow]).unwrap_or(0);
            credit[richest] -= whole;
            richest as u16
        });
        Self {
            alone: matches!(flows, [flow] if flow.targets == (0, 1)),
            order: order.collect(),
            at: 0,
            flows: flows.iter().map(|flow| (flow.targets, flow.targets.0)).collect(),
        }
    }

    /// The next target.
    #[inline]
    pub(super) fn next(&mut self) -> u32 {
        if self.alone {
            return 0;
        }
        let flow = usize::from(self.order[self.at]);
        self.at = if self.at + 1 == self.order.len() { 0 } else { self.at + 1 };
        let ((first, end), next) = &mut self.flows[flow];
        let target = *next;
        *next = if target + 1 == *end { *first } else { target + 1 };
        target
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Plan, Profile};
    use super::*;

    fn flow(weight: u32, targets: (u32, u32)) -> Flow {
        Flow { weight, targets, ..Plan::new(Profile::Crr, Vec::new()).flows().remove(0) }
    }

    #[test]
    fn weights_are_kept_and_mixed() {
        let flows = [flow(5, (0, 2)), flow(1, (2, 3)), flow(4, (3, 6))];
        let mut turns = Turns::new(&flows);
        let taken: Vec<_> = (0..600).map(|_| turns.next()).collect();
        let count = |target: u32| taken.iter().filter(|taken| **taken == target).count();
        assert_eq!((0..6).map(count).collect::<Vec<_>>(), [150, 150, 60, 80, 80, 80]);
        // No kind waits for long: within any five turns the first has at least two.
        assert!(taken.windows(5).all(|five| five.iter().filter(|target| **target < 2).count() >= 2));
        assert_eq!(flow_of(&flows), [0, 0, 1, 2, 2, 2]);
    }

    #[test]
    fn one_kind_takes_its_targets_in_turn() {
        let flows = [flow(7, (0, 3))];
        let mut turns = Turns::new(&flows);
        assert_eq!((0..7).map(|_| turns.next()).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2, 0]);
        assert!(flow_of(&flows).is_empty());
        let mut alone = Turns::new(&[flow(1, (0, 1))]);
        assert_eq!((0..3).map(|_| alone.next()).collect::<Vec<_>>(), [0; 3]);
    }
}
