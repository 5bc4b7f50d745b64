//! The host: kernel, privileges, memory, cores, programs.

use std::fs;
use std::path::Path;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use super::Finding;
use crate::command;
use crate::host;

/// bpf_link for XDP, which takes the program off when the process ends, came with this release.
const KERNEL_MIN: (u32, u32) = (5, 9);

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
        privileges(effective()),
        memlock(effective()),
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

/// A capability: its bit, its name, what it is used for.
type Capability = (u32, &'static str, &'static str);

/// Without these nothing works. SECURITY.md has the line for `setcap`.
const CAPABILITIES: [Capability; 3] = [
    (12, "CAP_NET_ADMIN", "attach XDP programs"),
    (13, "CAP_NET_RAW", "open AF_XDP sockets"),
    (CAP_BPF, "CAP_BPF", "load programs and maps"),
];
const CAP_IPC_LOCK: u32 = 14;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

/// The calling thread's capabilities, a bit each.
fn effective() -> u64 {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    host::field(&status, "CapEff").and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0)
}

fn privileges(effective: u64) -> Finding {
    let has = |bit: u32| effective & (1 << bit) != 0 || bit == CAP_BPF && effective & (1 << CAP_SYS_ADMIN) != 0;
    let lacking: Vec<_> = CAPABILITIES.iter().filter(|(bit, ..)| !has(*bit)).collect();
    if !lacking.is_empty() {
        let lacking: Vec<_> = lacking.iter().map(|(_, name, what_for)| format!("{name} ({what_for})")).collect();
        let program = std::env::current_exe().unwrap_or_else(|_| "syncline".into());
        let mend = format!("run as root, or `setcap {SETCAP} {}`", program.display());
        return Finding::missing("privileges", format!("without {}", lacking.join(", ")), mend);
    }
    if !has(CAP_SYS_ADMIN) {
        let detail = "all but CAP_SYS_ADMIN: no --netns, no test beds";
        return Finding::warn("privileges", detail, "start it in the namespace: `ip netns exec NAME …`");
    }
    Finding::ok("privileges", "all that are used; given up after set-up")
}

/// What `setcap` is to be told.
const SETCAP: &str = "cap_net_raw,cap_net_admin,cap_bpf,cap_ipc_lock=ep";

fn memlock(effective: u64) -> Finding {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_MEMLOCK) else {
        return Finding::warn("RLIMIT_MEMLOCK", "unknown", "check with `ulimit -l`");
    };
    let text = |limit| if limit == RLIM_INFINITY { "unlimited".into() } else { format!("{} KiB", limit >> 10) };
    let detail = format!("{} of {}", text(soft), text(hard));
    if effective & (1 << CAP_IPC_LOCK) != 0 {
        return Finding::ok("RLIMIT_MEMLOCK", format!("{detail}; with CAP_IPC_LOCK it does not matter"));
    }
    if hard >= MEMLOCK_WANTED {
        return Finding::ok("RLIMIT_MEMLOCK", detail);
    }
    Finding::warn("RLIMIT_MEMLOCK", detail, "ulimit -l unlimited, or CAP_IPC_LOCK")
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
    fn what_is_missing_is_named_with_the_line_that_grants_it() {
        let bit = |bit: u32| 1u64 << bit;
        let three = bit(12) | bit(13) | bit(CAP_BPF);
        assert_eq!(privileges(three | bit(CAP_SYS_ADMIN)).status, Status::Ok);
        assert_eq!(privileges(bit(12) | bit(13) | bit(CAP_SYS_ADMIN)).status, Status::Ok, "it includes CAP_BPF");
        assert_eq!(privileges(three).status, Status::Warn);
        let lacking = privileges(bit(13));
        assert_eq!(lacking.status, Status::Missing);
        assert!(lacking.detail.contains("CAP_NET_ADMIN") && lacking.detail.contains("CAP_BPF"), "{lacking:?}");
        assert!(lacking.mend.is_some_and(|mend| mend.contains("setcap cap_net_raw,")));
        assert_eq!(memlock(bit(CAP_IPC_LOCK)).status, Status::Ok);
    }

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
