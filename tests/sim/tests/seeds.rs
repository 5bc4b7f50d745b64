//! Many small runs, each from its seed. `SYNCLINE_SEEDS=5000-9000 cargo test -p syncline-sim` plays others.

use syncline_sim::{Size, run};

/// First and last seed of the usual run.
const SEEDS: (u64, u64) = (1, 2000);
/// Failures that are shown.
const SHOWN: usize = 3;

fn seeds() -> (u64, u64) {
    let Ok(range) = std::env::var("SYNCLINE_SEEDS") else { return SEEDS };
    let parsed = range.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    parsed.unwrap_or_else(|| panic!("SYNCLINE_SEEDS={range}: write FIRST-LAST, as in 1-2000"))
}

#[test]
fn every_seed_keeps_every_promise() {
    let (first, last) = seeds();
    let mut failures = Vec::new();
    let (mut closed, mut octets, mut retransmitted) = (0, 0, 0);
    for seed in first..=last {
        match run(seed, Size::default()) {
            Ok(outcome) => {
                closed += u64::from(outcome.closed);
                octets += outcome.octets;
                retransmitted += outcome.retransmitted;
            }
            Err(failure) => {
                if failures.len() < SHOWN {
                    println!("{failure}\n");
                }
                failures.push(format!("{seed}: {}", failure.what));
            }
        }
    }
    println!("{closed} ends closed, {octets} octets moved, {retransmitted} segments sent again");
    assert!(failures.is_empty(), "{} of {} seeds fail:\n{}", failures.len(), last - first + 1, failures.join("\n"));
}

#[test]
fn a_seed_gives_the_same_run_again() {
    for seed in [3, 77, 1234] {
        let (once, again) = (run(seed, Size::default()), run(seed, Size::default()));
        match (once, again) {
            (Ok(once), Ok(again)) => assert_eq!(once, again),
            (Err(failure), _) | (_, Err(failure)) => panic!("{failure}"),
        }
    }
}
