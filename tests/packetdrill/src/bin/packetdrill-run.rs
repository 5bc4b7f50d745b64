//! Runs directories of packetdrill scripts against the engine and writes a table of what came of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use clap::Parser;

/// Run packetdrill scripts against the engine, each in a network namespace of its own (root is needed).
#[derive(Parser)]
#[command(
    after_help = "Example:\n  packetdrill-run --packetdrill ./packetdrill --set google=…/gtests/net/tcp --out RESULTS.md"
)]
struct Arguments {
    /// The packetdrill program
    #[arg(long, value_name = "FILE")]
    packetdrill: PathBuf,
    /// A directory of scripts and the name of the set; may be given several times
    #[arg(long = "set", value_name = "NAME=DIR", required = true)]
    sets: Vec<String>,
    /// The directory that the scripts of a set run in, if not each in its own
    #[arg(long = "in", value_name = "NAME=DIR")]
    directories: Vec<String>,
    /// The library [default: libsyncline_packetdrill.so beside this program]
    #[arg(long, value_name = "FILE")]
    library: Option<PathBuf>,
    /// Only scripts with this in their path
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Run the scripts over IPv6, those that say nothing of a family: a device of 20 octets more gives the same MSS
    #[arg(long)]
    ipv6: bool,
    /// Further so_flags
    #[arg(long, value_name = "FLAGS", default_value = "")]
    so_flags: String,
    /// Seconds after which a script has failed
    #[arg(long, value_name = "S", default_value_t = 60)]
    timeout: u32,
    /// How late or early a packet may be where the script does not say so itself
    #[arg(long, value_name = "US", default_value_t = 10_000)]
    tolerance_usecs: u32,
    /// Attempts a script has: other work on the machine makes packets late
    #[arg(long, value_name = "N", default_value_t = 2)]
    tries: u32,
    /// What is known of scripts: `flags SET PREFIX SO_FLAGS`, `needs SET PREFIX WHAT`, `differs SET PREFIX REASON`
    #[arg(long, value_name = "FILE")]
    known: Option<PathBuf>,
    /// Where the table goes [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What a script needs that is no part of TCP's behaviour: words in it, and what they stand for.
const NOT_APPLICABLE: &[(&str, &str)] = &[
    ("IPPROTO_SCTP", "SCTP"),
    ("sctp", "SCTP"),
    ("IPPROTO_UDP", "UDP"),
    ("SOCK_DGRAM", "UDP"),
    ("udp", "UDP"),
    ("FASTOPEN", "TCP fast open"),
    ("tcp_fastopen", "TCP fast open"),
    ("TCP_MD5SIG", "TCP MD5 signatures"),
    ("<md5", "TCP MD5 signatures"),
    ("epoll_", "epoll"),
    ("splice(", "splice"),
    ("sendfile(", "sendfile"),
    ("ZEROCOPY", "zero-copy socket calls"),
    ("SO_TIMESTAMPING", "socket time stamps (cmsg)"),
    ("TCP_INQ", "TCP_INQ (cmsg)"),
    ("TCP_NOTSENT_LOWAT", "TCP_NOTSENT_LOWAT"),
    ("tcp_notsent_lowat", "TCP_NOTSENT_LOWAT"),
    ("SO_MARK", "SO_MARK"),
    ("IP_TOS", "IP_TOS"),
    ("MSG_EOR", "MSG_EOR"),
    ("`ss ", "ss, which asks the kernel"),
    ("ss -4", "ss, which asks the kernel"),
    ("ss -6", "ss, which asks the kernel"),
    ("sockstat", "a program of FreeBSD"),
    ("tcpi_", "TCP_INFO"),
    ("%{", "code that asks the kernel"),
    ("IP_MTU_DISCOVER", "IP_MTU_DISCOVER"),
    ("IP_FREEBIND", "IP_FREEBIND"),
    ("tcp_mtu_probing", "Linux' MTU probing"),
    ("ip route change", "route metrics of the kernel"),
    ("ip -6 route change", "route metrics of the kernel"),
    ("inet_diag", "inet_diag"),
    ("tc qdisc replace dev tun0 root pfifo limit 0", "a full queue of the kernel's device"),
    ("tc qdisc delete dev tun0", "a full queue of the kernel's device"),
    ("net.inet.", "sysctls of FreeBSD"),
    ("sysctlbyname", "sysctls of FreeBSD"),
    ("accecn", "Accurate ECN"),
    ("TCP_INFO", "TCP_INFO"),
    ("TCP_CONGESTION", "TCP_CONGESTION"),
    ("TCP_DEFER_ACCEPT", "TCP_DEFER_ACCEPT"),
];

/// What ties a script to IPv4.
const OF_IPV4: &[(&str, &str)] = &[
    ("--ip_version", "a family of its own"),
    ("192.", "IPv4 addresses"),
    ("AF_INET,", "IPv4 addresses"),
    ("sockaddr_in", "IPv4 addresses"),
    ("icmp", "ICMP of IPv4"),
    ("--mtu=", "an MTU of its own"),
];

#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Pass,
    Fail(String),
    /// Fails, and the reason is known.
    Differs(String),
    NotApplicable(String),
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let library = match &arguments.library {
        Some(library) => library.clone(),
        None => std::env::current_exe()?.with_file_name("libsyncline_packetdrill.so"),
    };
    for file in [&library, &arguments.packetdrill] {
        if !file.exists() {
            bail!("{} is missing: build it, or say where it is (--library, --packetdrill)", file.display());
        }
    }
    let library = library.canonicalize()?;
    let packetdrill = arguments.packetdrill.canonicalize()?;
    let known = match &arguments.known {
        Some(file) => read_known(file)?,
        None => Vec::new(),
    };
    let mut report = String::new();
    let mut unexpected = 0;
    for set in &arguments.sets {
        let (name, directory) = set.split_once('=').with_context(|| format!("--set {set}: expected NAME=DIR"))?;
        let directory = Path::new(directory);
        let prefix = format!("{name}=");
        let runs_in = arguments.directories.iter().find_map(|pair| pair.strip_prefix(&prefix)).map(Path::new);
        let mut outcomes = Vec::new();
        for script in scripts(directory)? {
            let short = script.strip_prefix(directory).unwrap_or(&script).display().to_string();
            if arguments.only.as_ref().is_some_and(|only| !short.contains(only.as_str())) {
                continue;
            }
            let mut outcome = match about(&known, "needs", name, &short).next() {
                Some(what) => Outcome::NotApplicable(what.to_owned()),
                None => {
                    let flags: String = about(&known, "flags", name, &short).map(|flags| format!("{flags},")).collect();
                    run(&arguments, &packetdrill, &library, &script, runs_in, &flags)?
                }
            };
            if let (Outcome::Fail(_), Some(reason)) = (&outcome, about(&known, "differs", name, &short).next()) {
                outcome = Outcome::Differs(reason.to_owned());
            }
            eprintln!("{name} {short}: {outcome:?}");
            unexpected += usize::from(matches!(outcome, Outcome::Fail(_)));
            outcomes.push((short, outcome));
        }
        table(&mut report, name, &outcomes);
    }
    match &arguments.out {
        Some(file) => std::fs::write(file, report).with_context(|| format!("{}: cannot write", file.display()))?,
        None => print!("{report}"),
    }
    Ok(if unexpected == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// All scripts below a directory, in order.
fn scripts(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(directory).with_context(|| format!("{}: cannot list", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(scripts(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "pkt") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// A line of the file of what is known: a kind, a set, how the path of the script begins, and the rest.
#[derive(Debug)]
struct Known {
    kind: String,
    set: String,
    prefix: String,
    text: String,
}

/// Reads what is known of scripts; `#` begins a comment.
fn read_known(file: &Path) -> Result<Vec<Known>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{}: cannot read", file.display()))?;
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    let known = lines.map(|line| {
        let words: Vec<_> = line.splitn(4, ' ').map(|word| word.trim().to_owned()).collect();
        let [kind, set, prefix, text] = <[String; 4]>::try_from(words)
            .map_err(|_| anyhow::anyhow!("{}: expected a kind, a set, a prefix and more: {line}", file.display()))?;
        if !matches!(kind.as_str(), "flags" | "needs" | "differs") {
            bail!("{}: {kind}: expected flags, needs or differs", file.display());
        }
        Ok(Known { kind, set, prefix, text })
    });
    known.collect()
}

/// What is known of one script, of one kind.
fn about<'a>(known: &'a [Known], kind: &'a str, set: &'a str, script: &'a str) -> impl Iterator<Item = &'a str> {
    let lines = known.iter().filter(move |k| k.kind == kind && k.set == set && script.starts_with(&k.prefix));
    lines.map(|k| k.text.as_str())
}

/// Runs a script, if it is for us.
fn run(
    arguments: &Arguments,
    packetdrill: &Path,
    library: &Path,
    script: &Path,
    runs_in: Option<&Path>,
    flags: &str,
) -> Result<Outcome> {
    let text = String::from_utf8_lossy(&std::fs::read(script)?).into_owned();
    if script.components().any(|part| part.as_os_str() == "fastopen") {
        return Ok(Outcome::NotApplicable("TCP fast open".into()));
    }
    let code: String = text.lines().map(|line| line.split("//").next().unwrap_or_default()).fold(
        String::with_capacity(text.len()),
        |mut code, line| {
            code.push_str(line);
            code.push('\n');
            code
        },
    );
    let of_ipv4 = || OF_IPV4.iter().find(|(word, _)| arguments.ipv6 && code.contains(word));
    if let Some(&(_, reason)) = NOT_APPLICABLE.iter().find(|(word, _)| code.contains(word)).or_else(of_ipv4) {
        return Ok(Outcome::NotApplicable(reason.to_owned()));
    }
    let mut outcome = Outcome::Pass;
    for _ in 0..arguments.tries.max(1) {
        outcome = attempt(arguments, packetdrill, library, script, runs_in, &code, flags)?;
        if outcome == Outcome::Pass {
            break;
        }
    }
    Ok(outcome)
}

/// The value of an option of packetdrill that a script sets in its first lines.
fn option<'a>(code: &'a str, name: &str) -> Option<&'a str> {
    let line = code.lines().map(str::trim).find(|line| line.starts_with(name))?;
    let value = line[name.len()..].split_whitespace().next()?.trim_matches('"');
    Some(value.split('/').next().unwrap_or(value))
}

fn attempt(
    arguments: &Arguments,
    packetdrill: &Path,
    library: &Path,
    script: &Path,
    runs_in: Option<&Path>,
    code: &str,
    flags: &str,
) -> Result<Outcome> {
    let v6 = arguments.ipv6 || option(code, "--ip_version=") == Some("ipv6");
    let local = option(code, "--local_ip=").unwrap_or(if v6 { "fd3d:a0b:17d6::1" } else { "192.168.0.1" });
    let mtu = option(code, "--mtu=").unwrap_or(if arguments.ipv6 { "1520" } else { "1500" });
    let family: &[&str] = if arguments.ipv6 { &["--ip_version=ipv6", "--mtu=1520"] } else { &[] };
    let flags = format!("sysctl,local={local},mtu={mtu},{flags}{}", arguments.so_flags);
    // What scripts do to the kernel (sysctl, tc) happens in a namespace that goes away with the shell
    let namespace = "ip link set lo up && ip tuntap add dev tun0 mode tun && ip link set tun0 up && exec \"$@\"";
    let output = Command::new("timeout")
        .args(["--kill-after=2", &arguments.timeout.to_string()])
        .args(["unshare", "--net", "sh", "-c", namespace, "sh"])
        .arg(packetdrill)
        .arg(format!("--so_filename={}", library.display()))
        .arg(format!("--so_flags={flags}"))
        .arg(format!("--local_ip={local}"))
        .arg(format!("--tolerance_usecs={}", arguments.tolerance_usecs))
        .args(family)
        .arg(script.canonicalize()?)
        .current_dir(runs_in.or(script.parent()).unwrap_or(Path::new(".")))
        .stdin(Stdio::null())
        .output()
        .context("cannot start timeout, unshare or sh")?;
    if output.status.success() {
        return Ok(Outcome::Pass);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let mut why = said.lines().find(|line| line.contains(".pkt:")).or(said.lines().next()).unwrap_or("").to_owned();
    if let Some(at) = why.find(".pkt:") {
        // the line in the script and what is wrong with it; the table has the script's name
        why = format!("line {}", &why[at + 5..]);
    }
    if why.contains("parse error") || why.contains("semantic error") {
        return Ok(Outcome::NotApplicable("a dialect that this packetdrill does not understand".into()));
    }
    if output.status.code() == Some(124) || output.status.code() == Some(137) {
        why = format!("no end within {} s", arguments.timeout);
    }
    Ok(Outcome::Fail(why))
}

fn table(report: &mut String, name: &str, outcomes: &[(String, Outcome)]) {
    let count = |wanted: fn(&Outcome) -> bool| outcomes.iter().filter(|(_, outcome)| wanted(outcome)).count();
    let (pass, fail) = (count(|o| *o == Outcome::Pass), count(|o| matches!(o, Outcome::Fail(_))));
    let differs = count(|o| matches!(o, Outcome::Differs(_)));
    let left_out = count(|o| matches!(o, Outcome::NotApplicable(_)));
    let mut lines = format!(
        "## {name}\n\n{} scripts: {pass} pass, {fail} fail, {differs} differ for a reason, {left_out} not applicable\n",
        outcomes.len()
    );
    let mut section = |title: &str, rows: Vec<(&str, &str)>| {
        if !rows.is_empty() {
            let _ = write!(lines, "\n{title}\n\n| script | reason |\n|---|---|\n");
            for (script, reason) in rows {
                let _ = writeln!(lines, "| {script} | {} |", reason.replace('|', "\\|"));
            }
        }
    };
    let rows = |reason: fn(&Outcome) -> Option<&str>| -> Vec<(&str, &str)> {
        outcomes.iter().filter_map(|(script, outcome)| Some((script.as_str(), reason(outcome)?))).collect()
    };
    section("Fail:", rows(|o| if let Outcome::Fail(why) = o { Some(why) } else { None }));
    section("Differ:", rows(|o| if let Outcome::Differs(why) = o { Some(why) } else { None }));
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, outcome) in outcomes {
        if let Outcome::NotApplicable(reason) = outcome {
            *reasons.entry(reason).or_default() += 1;
        }
    }
    if !reasons.is_empty() {
        let _ =
            write!(lines, "\nNot applicable, by the first thing a script needs:\n\n| needs | scripts |\n|---|---|\n");
        for (reason, n) in reasons {
            let _ = writeln!(lines, "| {reason} | {n} |");
        }
    }
    report.push_str(&lines);
    report.push('\n');
}
