//! What the engine is configured with: `so_flags`, and the sysctls of the namespace that a script sets.

use core::time::Duration;
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;

use syncline_engine::config::{AddressRange, Config, CongestionControl, Ecn, SynCookies, TcpConfig};
use syncline_engine::wire::MacAddr;

use crate::device::GATEWAY;

/// Next hop of everything: nobody else is on the link.
const GATEWAY_V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(169, 254, 0, 1));
/// The same for IPv6.
const GATEWAY_V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

/// What `so_flags` say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `local=IP`: the engine's address. Without it, the one that a script binds or that the first packet goes to.
    pub local: Option<IpAddr>,
    /// `mtu=OCTETS` of the device. Default 1500.
    pub mtu: u16,
    /// `sysctl`: what the flags leave open is read from `/proc/sys/net/ipv4` when the first connection is opened.
    pub sysctl: bool,
    /// Nagle's algorithm on sockets without TCP_NODELAY: `nagle=off` turns it off.
    pub nagle: bool,
    /// `quick_acks=SEGMENTS` at the start of a connection that are acknowledged at once, as Linux does: the peer is in slow
    /// start. Default 16.
    pub quick_acks: u8,
    /// When listeners answer with SYN cookies: `cookies=auto|always|never`.
    pub cookies: SynCookies,
    /// The flags as they were given: they outdo the sysctls.
    flags: String,
    /// The rest: `ecn=off|accept|on`, `timestamps=off`, `sack=off`, `scaling=off`, `pacing=on` (Linux has none without a
    /// queue that paces), `cc=cubic|newreno`, `window=OCTETS`,
    /// `scale=SHIFT`, `push=burst|last`, `iw=SEGMENTS`, `ack_delay=MS`, `rto_min=MS`, `rto_max=MS`, `rto_initial=MS`,
    /// `time_wait=S`.
    pub tcp: TcpConfig,
}

impl Default for Settings {
    /// What Linux' scripts expect: a window of 15 MiB, and so a window scale of 8.
    fn default() -> Self {
        let window = 15 << 20;
        let tcp = TcpConfig {
            receive_window: window,
            receive_buffer: window,
            send_buffer: 4 << 20,
            push_bursts: true,
            pacing: false,
            ..TcpConfig::default()
        };
        Self {
            local: None,
            mtu: 1500,
            sysctl: false,
            nagle: true,
            quick_acks: 16,
            cookies: SynCookies::Auto,
            flags: String::new(),
            tcp,
        }
    }
}

impl FromStr for Settings {
    type Err = String;

    /// Reads flags, separated by commas.
    fn from_str(flags: &str) -> Result<Self, String> {
        let mut settings = Self { flags: flags.to_owned(), ..Self::default() };
        settings.apply(flags)?;
        Ok(settings)
    }
}

impl Settings {
    fn apply(&mut self, flags: &str) -> Result<(), String> {
        for flag in flags.split(',').filter(|flag| !flag.is_empty()) {
            let (name, value) = flag.split_once('=').unwrap_or((flag, "on"));
            self.set(name, value).map_err(|wanted| format!("so_flags: {flag}: {wanted}"))?;
        }
        Ok(())
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let tcp = &mut self.tcp;
        match name {
            "local" => self.local = Some(value.parse().map_err(|_| "expected an IP address")?),
            "mtu" => self.mtu = number(value)?,
            "sysctl" => self.sysctl = switch(value)?,
            "nagle" => self.nagle = switch(value)?,
            "cookies" => {
                self.cookies = match value {
                    "auto" => SynCookies::Auto,
                    "always" => SynCookies::Always,
                    "never" => SynCookies::Never,
                    _ => return Err("expected auto, always or never".into()),
                }
            }
            "ecn" => {
                tcp.ecn = match value {
                    "off" => Ecn::Off,
                    "accept" => Ecn::Accept,
                    "on" => Ecn::On,
                    _ => return Err("expected off, accept or on".into()),
                }
            }
            "pacing" => tcp.pacing = switch(value)?,
            "timestamps" => tcp.timestamps = switch(value)?,
            "sack" => tcp.sack = switch(value)?,
            "scaling" => tcp.window_scaling = switch(value)?,
            "cc" => tcp.congestion = congestion(value).ok_or("expected cubic or newreno")?,
            "window" => (tcp.receive_window, tcp.receive_buffer) = (number(value)?, number(value)?),
            "push" => {
                tcp.push_bursts = match value {
                    "burst" => true,
                    "last" => false,
                    _ => return Err("expected burst or last".into()),
                }
            }
            "scale" => tcp.window_scale = Some(number(value)?),
            "quick_acks" => self.quick_acks = number(value)?,
            "iw" => tcp.initial_window_segments = number(value)?,
            "ack_delay" => tcp.ack_delay = Duration::from_millis(number(value)?),
            "rto_min" => tcp.rto_min = Duration::from_millis(number(value)?),
            "rto_max" => tcp.rto_max = Duration::from_millis(number(value)?),
            "rto_initial" => tcp.rto_initial = Duration::from_millis(number(value)?),
            "time_wait" => tcp.time_wait = Duration::from_secs(number(value)?),
            _ => return Err("no such flag; Settings in tests/packetdrill/src/settings.rs lists them".into()),
        }
        Ok(())
    }

    /// Takes over what a namespace's sysctls say, where the flags say nothing; those that are not there change nothing.
    pub(crate) fn read_sysctls(&mut self, directory: &Path) -> Result<(), String> {
        self.read_files(directory);
        self.apply(&self.flags.clone())
    }

    fn read_files(&mut self, directory: &Path) {
        let read = |name: &str| std::fs::read_to_string(directory.join(name)).ok();
        let numbers = |name: &str| -> Vec<u64> {
            read(name).unwrap_or_default().split_whitespace().filter_map(|word| word.parse().ok()).collect()
        };
        let first = |name: &str| numbers(name).first().copied();
        let tcp = &mut self.tcp;
        match first("tcp_ecn") {
            Some(0) => tcp.ecn = Ecn::Off,
            Some(1) => tcp.ecn = Ecn::On,
            Some(_) => tcp.ecn = Ecn::Accept,
            None => {}
        }
        for (name, on) in [
            ("tcp_timestamps", &mut tcp.timestamps),
            ("tcp_sack", &mut tcp.sack),
            ("tcp_window_scaling", &mut tcp.window_scaling),
        ] {
            if let Some(value) = first(name) {
                *on = value != 0;
            }
        }
        for (name, tries) in [
            ("tcp_syn_retries", &mut tcp.syn_retries),
            ("tcp_synack_retries", &mut tcp.syn_ack_retries),
            ("tcp_retries2", &mut tcp.data_retries),
        ] {
            if let Some(value) = first(name) {
                *tries = value.min(255) as u8;
            }
        }
        match first("tcp_syncookies") {
            Some(0) => self.cookies = SynCookies::Never,
            Some(1) => self.cookies = SynCookies::Auto,
            Some(_) => self.cookies = SynCookies::Always,
            None => {}
        }
        if let [_, _, max] = numbers("tcp_rmem")[..] {
            tcp.receive_window = max.clamp(4096, (1 << 30) - 1) as u32;
            tcp.receive_buffer = tcp.receive_window;
        }
        if let Some(seconds) = first("tcp_fin_timeout") {
            tcp.fin_wait_2 = Duration::from_secs(seconds);
        }
        if let Some(algorithm) = read("tcp_congestion_control").and_then(|name| congestion(name.trim())) {
            tcp.congestion = algorithm;
        }
    }

    /// The engine's configuration, with `local` as its address.
    pub(crate) fn config(&self, local: IpAddr) -> Config {
        let prefix_len = if local.is_ipv4() { 32 } else { 128 };
        let mac = MacAddr(GATEWAY);
        Config {
            addresses: vec![AddressRange { first: local, last: local, prefix_len }],
            gateway_v4: Some(GATEWAY_V4),
            gateway_v6: Some(GATEWAY_V6),
            neighbors: vec![(GATEWAY_V4, mac), (GATEWAY_V6, mac)],
            tcp: self.tcp.clone(),
            max_connections: 1024,
            max_syn_received: 1024,
            max_time_wait: 4096,
            buffer_bytes: 64 << 20,
            ..Config::default()
        }
    }
}

fn switch(value: &str) -> Result<bool, String> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("expected on or off".into()),
    }
}

fn number<T: FromStr>(value: &str) -> Result<T, String> {
    value.parse().map_err(|_| "expected a number in range".into())
}

fn congestion(name: &str) -> Option<CongestionControl> {
    match name {
        "cubic" => Some(CongestionControl::Cubic),
        "newreno" | "reno" => Some(CongestionControl::NewReno),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read() {
        let settings: Settings = "local=192.168.0.1,mtu=1400,ecn=on,timestamps=off,cc=newreno,sysctl".parse().unwrap();
        assert_eq!(settings.local, "192.168.0.1".parse().ok());
        assert_eq!((settings.mtu, settings.tcp.ecn, settings.tcp.timestamps), (1400, Ecn::On, false));
        assert_eq!(settings.tcp.congestion, CongestionControl::NewReno);
        assert!(settings.sysctl);
    }

    #[test]
    fn wrong_flags_say_what_was_expected() {
        for (flags, wanted) in [("mtu=big", "a number"), ("ecn=maybe", "off, accept or on"), ("fast", "no such flag")] {
            let error = flags.parse::<Settings>().unwrap_err();
            assert!(error.contains(flags) && error.contains(wanted), "{error}");
        }
    }
}
