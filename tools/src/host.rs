//! What the host is and what it does: facts for the report, from `/proc`.

use std::fs;
use std::time::Duration;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::time::{ClockId, clock_gettime};

/// The kernel's release, as `6.12.0`.
pub fn kernel_release() -> Option<String> {
    Some(fs::read_to_string("/proc/sys/kernel/osrelease").ok()?.trim().to_owned())
}

/// The processor's model.
pub fn cpu_model() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    field(&text, "model name").map(str::to_owned)
}

/// Cores this process may run on.
pub fn cores() -> Option<u32> {
    std::thread::available_parallelism().ok().and_then(|cores| u32::try_from(cores.get()).ok())
}

/// Resident set of this process, octets. The kernel counts reserved huge pages apart from it; here they belong to it.
pub fn rss_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let octets = |key: &str| kib(&status, key).map(|kib| kib << 10);
    Some(octets("VmRSS")? + octets("HugetlbPages").unwrap_or(0))
}

/// A figure of `/proc` that is told in kB.
fn kib(text: &str, key: &str) -> Option<u64> {
    field(text, key)?.trim_end_matches(" kB").parse().ok()
}

/// Memory that this process may still take, octets: what the host has left, or its limit on address space.
pub fn memory_left_bytes() -> Option<u64> {
    let octets = |file: &str, key: &str| kib(&fs::read_to_string(file).ok()?, key).map(|kib| kib << 10);
    let free = octets("/proc/meminfo", "MemAvailable");
    let limit = getrlimit(Resource::RLIMIT_AS).ok().map(|(soft, _)| soft).filter(|soft| *soft != RLIM_INFINITY);
    let under_limit = limit.zip(octets("/proc/self/status", "VmSize")).map(|(limit, used)| limit.saturating_sub(used));
    free.into_iter().chain(under_limit).min()
}

/// Processor time of the calling thread.
pub fn thread_time() -> Option<Duration> {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).ok().map(Duration::from)
}

/// Time a core has spent since the host started, in the kernel's ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoreTimes {
    /// In softirqs.
    pub softirq: u64,
    /// In all, idle included.
    pub total: u64,
}

impl CoreTimes {
    /// The present times of `core`.
    pub fn read(core: usize) -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/stat").ok()?, core)
    }

    /// From the text of `/proc/stat`: `cpuN user nice system idle iowait irq softirq steal guest guest_nice`, where
    /// guest time is part of user time already.
    fn parse(stat: &str, core: usize) -> Option<Self> {
        let name = format!("cpu{core}");
        let line = stat.lines().find(|line| line.split_whitespace().next() == Some(&name))?;
        let times: Vec<u64> = line.split_whitespace().skip(1).take(8).map_while(|word| word.parse().ok()).collect();
        Some(Self { softirq: *times.get(6)?, total: times.iter().sum() })
    }

    /// Share of the time since `earlier` that went to softirqs.
    pub fn softirq_ratio_since(self, earlier: Self) -> Option<f64> {
        let total = self.total.checked_sub(earlier.total).filter(|ticks| *ticks > 0)?;
        Some(self.softirq.saturating_sub(earlier.softirq) as f64 / total as f64)
    }
}

/// The value after `key` and a colon, in text of such lines.
pub(crate) fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 10 0 20 60 0 0 10 0 5 0\ncpu10 1 1 1 1 1 1 1 1 1 1\n";

    #[test]
    fn softirq_share_of_one_core() {
        let early = CoreTimes::parse(STAT, 0).unwrap();
        assert_eq!(early, CoreTimes { softirq: 10, total: 100 });
        assert_eq!(CoreTimes::parse(STAT, 1), None);
        let late = CoreTimes { softirq: 35, total: 150 };
        assert_eq!(late.softirq_ratio_since(early), Some(0.5));
        assert_eq!(early.softirq_ratio_since(early), None);
    }

    #[test]
    fn this_host_tells_about_itself() {
        assert!(kernel_release().is_some_and(|release| release.contains('.')));
        assert!(rss_bytes().is_some_and(|bytes| bytes > 1 << 16));
        assert!(thread_time().is_some() && cores().is_some_and(|cores| cores > 0));
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        assert_eq!(field("model\t: 1\nmodel name\t: A: B\n", "model name"), Some("A: B"));
        assert_eq!(field("CapEff:\t00ff\n", "CapEff"), Some("00ff"));
    }
}
