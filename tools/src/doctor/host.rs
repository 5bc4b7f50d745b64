//! The host: kernel, privileges, memory, cores, programs.

use std::fs;
use std::path::Path;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use super::Finding;
use crate::command;
use crate::host;

/// bpf_link for XDP, which takes the program off when the process ends, came with this release.
const KERNEL_MIN: (u32, u32) = (5, 9);

/// From this release on BPF memory is charged to the cgroup, not to RLIMIT_MEMLOCK.
const KERNEL_CGROUP_MEMORY: (u32, u32) = (5, 11);

/// XDP_MAX_TX_SKB_BUDGET came with this release.
const KERNEL_TX_BUDGET: (u32, u32) = (6, 17);

/// What one worker's frames, rings and tables need before the first connection, octets.
const MEMLOCK_WANTED: u64 = 64 << 20;

pub(super) fn examine() -> Vec<Finding> {
    let kernel = host::kernel_release().unwrap_or_default();
    let release = parse_release(&kernel);
    vec![
        kernel_release(&kernel, release),
        af_xdp(),
        btf(),
        bpf_jit(),
        tx_budget(release),
        privileges(),
        memlock(release),
        huge_pages(),
        cores(),
        governor(),
        memory(),
        iproute2(),
    ]
}

fn parse_release(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|word| word.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn kernel_release(text: &str, release: (u32, u32)) -> Finding {
    if release >= KERNEL_MIN {
        return Finding::ok("kernel", format!("Linux {text}"));
    }
    let (major, minor) = KERNEL_MIN;
    Finding::missing("kernel", format!("Linux {text}"), format!("use Linux {major}.{minor} or newer (XDP by bpf_link)"))
}

fn af_xdp() -> Finding {
    let protocols = fs::read_to_string("/proc/net/protocols").unwrap_or_default();
    if protocols.lines().any(|line| line.starts_with("XDP ")) {
        return Finding::ok("AF_XDP", "the kernel has it");
    }
    Finding::missing("AF_XDP", "the kernel has no such sockets", "use a kernel built with CONFIG_XDP_SOCKETS=y")
}

fn btf() -> Finding {
    if Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Finding::ok("BTF", "/sys/kernel/btf/vmlinux");
    }
    Finding::warn("BTF", "the kernel does not describe its types", "use a kernel built with CONFIG_DEBUG_INFO_BTF=y")
}

fn bpf_jit() -> Finding {
    let path = "/proc/sys/net/core/bpf_jit_enable";
    match fs::read_to_string(path).map(|text| text.trim().to_owned()).as_deref() {
        Ok("0") => Finding::warn("BPF JIT", "off: the XDP program is interpreted", "sysctl net.core.bpf_jit_enable=1"),
        Ok(_) => Finding::ok("BPF JIT", "on"),
        // Only the first network namespace has the setting.
        Err(_) => Finding::ok("BPF JIT", "not visible from this network namespace"),
    }
}

fn tx_budget(release: (u32, u32)) -> Finding {
    if release >= KERNEL_TX_BUDGET {
        return Finding::ok("TX budget", "more than 32 frames per doorbell (XDP_MAX_TX_SKB_BUDGET)");
    }
    let (major, minor) = KERNEL_TX_BUDGET;
    let detail = "32 frames per doorbell in copy mode";
    Finding::warn("TX budget", detail, format!("Linux {major}.{minor} or newer sends more; expect 10 to 15% less"))
}

/// The capabilities used: number, name, and what for.
const CAPABILITIES: [(u32, &str, &str); 4] = [
    (12, "CAP_NET_ADMIN", "attach XDP programs"),
    (13, "CAP_NET_RAW", "open AF_XDP sockets"),
    (39, "CAP_BPF", "load programs and maps"),
    (21, "CAP_SYS_ADMIN", "enter network namespaces"),
];

fn privileges() -> Finding {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = host::field(&status, "CapEff").and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0);
    let lacking: Vec<_> = CAPABILITIES.iter().filter(|(bit, ..)| effective & (1 << bit) == 0).collect();
    if lacking.is_empty() {
        return Finding::ok("privileges", "all that are used");
    }
    let lacking: Vec<_> = lacking.iter().map(|(_, name, what_for)| format!("{name} ({what_for})")).collect();
    Finding::missing("privileges", format!("without {}", lacking.join(", ")), "run as root, for example with sudo")
}

fn memlock(release: (u32, u32)) -> Finding {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_MEMLOCK) else {
        return Finding::warn("RLIMIT_MEMLOCK", "unknown", "check with `ulimit -l`");
    };
    let text = |limit| if limit == RLIM_INFINITY { "unlimited".into() } else { format!("{} KiB", limit >> 10) };
    let detail = format!("{} of {}", text(soft), text(hard));
    // A process with CAP_IPC_LOCK is not held to the limit.
    if hard >= MEMLOCK_WANTED || release >= KERNEL_CGROUP_MEMORY && nix::unistd::geteuid().is_root() {
        return Finding::ok("RLIMIT_MEMLOCK", detail);
    }
    Finding::warn("RLIMIT_MEMLOCK", detail, "ulimit -l unlimited, or run as root")
}

fn huge_pages() -> Finding {
    let setting = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let reserved = host::field(&info, "HugePages_Free").unwrap_or("0");
    let chosen = setting.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or("none", |(word, _)| word);
    let detail = format!("transparent: {chosen}, reserved and free: {reserved}");
    if matches!(chosen, "always" | "madvise") || reserved != "0" {
        return Finding::ok("huge pages", detail);
    }
    let mend = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled";
    Finding::warn("huge pages", detail, mend)
}

fn cores() -> Finding {
    let model = host::cpu_model().unwrap_or_else(|| "unknown model".into());
    match host::cores() {
        Some(1) => Finding::warn("cores", format!("1, {model}"), "with one core load and server share it"),
        Some(cores) => Finding::ok("cores", format!("{cores}, {model}")),
        None => Finding::warn("cores", model, "their number is unknown; give --cores"),
    }
}

fn governor() -> Finding {
    match fs::read_to_string("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") {
        Err(_) => Finding::ok("CPU frequency", "not managed by this kernel"),
        Ok(governor) if governor.trim() == "performance" => Finding::ok("CPU frequency", "governor performance"),
        Ok(governor) => {
            let detail = format!("governor {}: figures depend on what ran before", governor.trim());
            Finding::warn("CPU frequency", detail, "cpupower frequency-set -g performance")
        }
    }
}

fn memory() -> Finding {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = |key| host::field(&info, key).and_then(|text| text.split(' ').next()).and_then(|n| n.parse::<u64>().ok());
    let Some((available, total)) = kib("MemAvailable").zip(kib("MemTotal")) else {
        return Finding::warn("memory", "unknown", "check with `free -m`");
    };
    let detail = format!("{} MiB available of {}", available >> 10, total >> 10);
    if available << 10 < MEMLOCK_WANTED * 4 {
        return Finding::warn("memory", detail, "free some: a million connections take about 100 MiB");
    }
    Finding::ok("memory", detail)
}

fn iproute2() -> Finding {
    match command::run("ip", ["-V"]) {
        Ok(version) => Finding::ok("iproute2", version.trim().trim_start_matches("ip utility, ").to_owned()),
        Err(_) => Finding::missing("iproute2", "no `ip` program (for `syncline veth`)", "apt-get install iproute2"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn releases_compare_as_numbers() {
        assert_eq!(parse_release("6.18.44-fc-v669"), (6, 18));
        assert_eq!(parse_release("5.4"), (5, 4));
        assert_eq!(parse_release(""), (0, 0));
        assert_eq!(kernel_release("5.8.0", (5, 8)).status, Status::Missing);
        assert_eq!(kernel_release("5.10.0", (5, 10)).status, Status::Ok);
        assert_eq!(tx_budget((6, 16)).status, Status::Warn);
    }
}
