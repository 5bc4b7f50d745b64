//! Whose work ran on whose core: what the kernel did on the generator's, and how to have it done elsewhere.

use super::model::{Report, WorkerReport};

/// Share of a core's time in softirqs below which it is not worth a word.
const SOFTIRQ_WORTH_A_WORD: f64 = 0.1;

/// Half of the launches later than this, in µs, on workers that were idle for most of the time: they did not have their cores.
const LATE: u64 = 1_000;

/// What to know, and what to do, about the cores of a finished run: a sentence each.
pub fn advice(report: &Report) -> Vec<String> {
    softirqs(report).into_iter().chain(cores_taken(report)).collect()
}

/// Launches were late although there was little to do.
fn cores_taken(report: &Report) -> Option<String> {
    let late = report.blocks.latency_us.schedule_delay.p50.is_some_and(|p50| p50 > LATE);
    let busy = report.blocks.workers.iter().filter_map(|worker| worker.busy_ratio).reduce(f64::max)?;
    (late && busy < 0.5).then(|| {
        format!(
            "launches were late with workers that were busy for {:.0}% of the time: others had their cores; keep other programs \
             off them (--cores says which they are), or ask the host of this machine for more",
            busy * 100.0
        )
    })
}

fn softirqs(report: &Report) -> Vec<String> {
    let device = report.host.device.as_deref().unwrap_or("the device");
    let veth = report.host.driver.as_deref() == Some("veth");
    // Only a kernel leaves checksums for hardware to finish
    let kernel_target = report.blocks.packets.partial_checksum.is_some_and(|count| count > 0);
    if veth && !kernel_target {
        // Between two engines it is the price of the pair itself, and each end pays its own
        return Vec::new();
    }
    let busy = |worker: &WorkerReport| {
        let (core, ratio) = (worker.core?, worker.softirq_ratio.filter(|&ratio| ratio >= SOFTIRQ_WORTH_A_WORD)?);
        let percent = ratio * 100.0;
        Some(if veth {
            format!(
                "{percent:.0}% of core {core} went to softirqs: on veth the target's kernel takes in on our core what we send; \
                 rps_cpus of {device}'s other end moves that to another core"
            )
        } else {
            format!(
                "{percent:.0}% of core {core} went to softirqs: have {device}'s interrupts served elsewhere \
                 (/proc/irq/N/smp_affinity_list), or choose other --cores"
            )
        })
    };
    report.blocks.workers.iter().filter_map(busy).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(driver: &str, partial_checksum: u64, softirq_ratio: f64) -> Report {
        let mut report = Report::new("load");
        (report.host.driver, report.host.device) = (Some(driver.into()), Some("syn-a0".into()));
        report.blocks.packets.partial_checksum = Some(partial_checksum);
        let worker = WorkerReport { core: Some(1), softirq_ratio: Some(softirq_ratio), ..WorkerReport::default() };
        report.blocks.workers = vec![worker];
        report
    }

    #[test]
    fn the_kernels_work_on_our_core_is_told_with_what_would_move_it() {
        let said = advice(&report("veth", 5, 0.3));
        assert!(said[0].contains("core 1") && said[0].contains("30%") && said[0].contains("rps_cpus"), "{said:?}");
        let said = advice(&report("ice", 0, 0.3));
        assert!(said[0].contains("smp_affinity_list"), "{said:?}");
        assert!(advice(&report("veth", 0, 0.5)).is_empty(), "both ends are engines");
        assert!(advice(&report("veth", 5, 0.05)).is_empty(), "too little to matter");
    }

    #[test]
    fn launches_that_are_late_without_work_were_kept_from_their_cores() {
        let said = |p50, busy| {
            let mut report = report("veth", 5, 0.0);
            report.blocks.latency_us.schedule_delay.p50 = Some(p50);
            report.blocks.workers[0].busy_ratio = Some(busy);
            advice(&report)
        };
        assert!(matches!(&said(5_435, 0.12)[..], [one] if one.contains("12%") && one.contains("--cores")));
        assert!(said(LATE, 0.12).is_empty() && said(5_435, 0.9).is_empty());
    }
}
