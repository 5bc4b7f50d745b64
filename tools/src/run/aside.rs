//! Keeping threads that only look on out of the workers' way.

use std::thread;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The lowest priority of an ordinary thread.
const LOWEST: i32 = 19;

/// Takes the calling thread off the workers' `cores`, if there is any other, and gives it the lowest priority: where
/// it has to share a core it gets a sixtieth of it, and a worker that wakes up need not wait for it.
///
/// It cannot be undone, and threads that it starts inherit it: workers are not to be among them.
pub fn step_aside(cores: impl IntoIterator<Item = usize>) {
    let this = Pid::from_raw(0);
    if let Ok(mut allowed) = sched_getaffinity(this) {
        for core in cores {
            // A core beyond the set is one we may not run on anyway.
            let _ = allowed.unset(core);
        }
        if (0..CpuSet::count()).any(|core| allowed.is_set(core).unwrap_or(false)) {
            // Refused, it stays where the kernel puts it.
            let _ = sched_setaffinity(this, &allowed);
        }
    }
    // Linux gives each thread a priority of its own. To lower it takes no privilege.
    let _ = rustix::process::setpriority_process(None, LOWEST);
}

/// Lets a worker that waits for this core have it. Between pieces of work of a tenth of a millisecond, so that a worker
/// is not kept waiting for the sum of them.
pub fn make_way() {
    thread::yield_now();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cores() -> Vec<usize> {
        let set = sched_getaffinity(Pid::from_raw(0)).unwrap();
        (0..CpuSet::count()).filter(|core| set.is_set(*core).unwrap()).collect()
    }

    #[test]
    fn a_thread_leaves_the_cores_of_others_and_goes_last() {
        let all = cores();
        let aside = |from: Vec<usize>| {
            let look = move || {
                step_aside(from);
                (cores(), rustix::process::getpriority_process(None).unwrap())
            };
            thread::spawn(look).join().unwrap()
        };
        assert_eq!(aside(Vec::new()), (all.clone(), LOWEST));
        assert_eq!(aside(all.clone()), (all.clone(), LOWEST), "there must be one to run on");
        if let [first, rest @ ..] = all.as_slice()
            && !rest.is_empty()
        {
            assert_eq!(aside(vec![*first, 100_000]), (rest.to_vec(), LOWEST));
        }
        assert_eq!(cores(), all, "other threads are where they were");
    }
}
