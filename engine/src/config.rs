//! Every tunable: its unit, its default, the RFC section it comes from, its limits. Checked once, when a worker is
//! built; code after that relies on it.

use core::fmt;
use core::time::Duration;
use std::net::IpAddr;

use crate::wire::MacAddr;

/// Addresses that the engine owns: `first..=last`, on a link whose prefix has `prefix_len` bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    /// First owned address.
    pub first: IpAddr,
    /// Last owned address, of the same family.
    pub last: IpAddr,
    /// Bits of the prefix that is on the link: destinations inside it are resolved directly.
    pub prefix_len: u8,
}

/// A port range that connections are accepted on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// First port.
    pub first_port: u16,
    /// Last port.
    pub last_port: u16,
    /// When SYN cookies are sent.
    pub syn_cookies: SynCookies,
}

/// When a listener answers with SYN cookies (RFC 4987 §3.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SynCookies {
    /// When its half-open connections pass a mark.
    #[default]
    Auto,
    /// For every SYN: nothing is kept for a half-open connection.
    Always,
    /// For none.
    Never,
}

/// How an address shared with the kernel is used: only these local ports are the engine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

/// The TCP tunables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpConfig {
    /// Largest window advertised, octets. RFC 9293 §3.8.6. Default 1 MiB; 4,096 to 1 GiB − 1.
    pub receive_window: u32,
    /// Octets a connection may keep out of order or unread, in all. Default: as `receive_window`.
    pub receive_buffer: u32,
    /// Octets [`Conn::write`](crate::app::Conn::write) may hold for one connection. Default 256 KiB.
    pub send_buffer: u32,
    /// Offer and accept window scaling (RFC 7323 §2). Default true.
    pub window_scaling: bool,
    /// Offer and accept timestamps (RFC 7323 §3). Default true.
    pub timestamps: bool,
    /// Offer and accept selective acknowledgements (RFC 2018). Default true.
    pub sack: bool,
    /// Offer and accept explicit congestion notification (RFC 3168). Default: accept, as Linux does.
    pub ecn: Ecn,
    /// RTO before the first measurement (RFC 6298 §2.1). Default 1 s.
    pub rto_initial: Duration,
    /// Smallest RTO (RFC 6298 §2.4 says 1 s; Linux and most of the field use 200 ms). Default 200 ms.
    pub rto_min: Duration,
    /// Largest RTO (RFC 6298 §2.5: at least 60 s). Default 120 s.
    pub rto_max: Duration,
    /// SYNs sent again before an attempt is given up. Default 6: about two minutes (RFC 9293 §3.8.3 asks for three).
    pub syn_retries: u8,
    /// SYN-ACKs sent again before a half-open connection is forgotten. Default 5.
    pub syn_ack_retries: u8,
    /// Retransmissions of data in a row before the connection is given up (RFC 9293 §3.8.3, R2). Default 15.
    pub data_retries: u8,
    /// User timeout (RFC 9293 §3.9.1): data unacknowledged this long ends the connection. Default none.
    pub user_timeout: Option<Duration>,
    /// Longest delay of an acknowledgement (RFC 9293 §3.8.6.3: under 0.5 s). Default 40 ms; zero acknowledges at once.
    pub ack_delay: Duration,
    /// Nagle's algorithm (RFC 9293 §3.7.4). Default false: a load generator says what it has to say.
    pub nagle: bool,
    /// Put the data that [`App::connected`](crate::app::App::connected) queues on the handshake's ACK. Default false.
    pub piggyback: bool,
    /// Initial congestion window, segments (RFC 6928). Default 10.
    pub initial_window_segments: u8,
    /// The congestion control.
    pub congestion: CongestionControl,
    /// How long TIME-WAIT lasts (RFC 9293 §3.4.2: 2 MSL). Default 60 s, as Linux; zero skips the state.
    pub time_wait: Duration,
    /// How long the peer may stay silent in FIN-WAIT-2, after we closed and before its FIN. Default 60 s.
    pub fin_wait_2: Duration,
    /// Idle time before keep-alive probes (RFC 9293 §3.8.4). Default none.
    pub keepalive: Option<Duration>,
    /// Time between keep-alive probes. Default 75 s.
    pub keepalive_interval: Duration,
    /// Unanswered keep-alive probes before the connection is given up. Default 9.
    pub keepalive_probes: u8,
    /// Ports for active opens (RFC 6335 §6, RFC 6056 §3.2). Default 1,024 to 65,535.
    pub local_ports: PortRange,
}

/// When ECN is used (RFC 3168 §6.1.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ecn {
    /// Never.
    Off,
    /// When the peer asks for it.
    #[default]
    Accept,
    /// Ask for it, and accept.
    On,
}

/// Congestion control algorithms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CongestionControl {
    /// RFC 5681 and RFC 6582.
    NewReno,
    /// RFC 9438.
    #[default]
    Cubic,
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self {
            receive_window: 1 << 20,
            receive_buffer: 1 << 20,
            send_buffer: 256 << 10,
            window_scaling: true,
            timestamps: true,
            sack: true,
            ecn: Ecn::default(),
            rto_initial: Duration::from_secs(1),
            rto_min: Duration::from_millis(200),
            rto_max: Duration::from_secs(120),
            syn_retries: 6,
            syn_ack_retries: 5,
            data_retries: 15,
            user_timeout: None,
            ack_delay: Duration::from_millis(40),
            nagle: false,
            piggyback: false,
            initial_window_segments: 10,
            congestion: CongestionControl::default(),
            time_wait: Duration::from_secs(60),
            fin_wait_2: Duration::from_secs(60),
            keepalive: None,
            keepalive_interval: Duration::from_secs(75),
            keepalive_probes: 9,
            local_ports: PortRange { first: 1024, last: 65535 },
        }
    }
}

/// Everything a worker is built from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Addresses the engine owns and answers ARP and neighbour solicitations for. At most 65,536 in all.
    pub addresses: Vec<AddressRange>,
    /// Next hop for destinations off the link, IPv4.
    pub gateway_v4: Option<IpAddr>,
    /// Next hop for destinations off the link, IPv6.
    pub gateway_v6: Option<IpAddr>,
    /// 802.1Q VLAN of all frames, 1 to 4,094.
    pub vlan: Option<u16>,
    /// The addresses belong to the kernel too, and only these local ports are ours: no ARP, no ICMP, no RST without a
    /// flow; next hops come from [`Config::neighbors`].
    pub shared: Option<PortRange>,
    /// Next hops known beforehand (the kernel's neighbours on a shared address).
    pub neighbors: Vec<(IpAddr, MacAddr)>,
    /// Listening ports.
    pub listeners: Vec<Listener>,
    /// TCP.
    pub tcp: TcpConfig,
    /// The most connections held at once, TIME-WAIT and SYN-RECEIVED not included. Default 1,000,000; at most 2²⁸.
    pub max_connections: u32,
    /// The most SYN-RECEIVED records. Default 65,536.
    pub max_syn_received: u32,
    /// The most TIME-WAIT records. Default 100 million; a connection that finds no room skips the state, counted.
    pub max_time_wait: u32,
    /// Connections to make room for at the start; the table grows by itself beyond that. Default 0.
    pub expected_connections: u32,
    /// Octets for buffered payload (out of order, unread, written), all connections together. Default 256 MiB.
    pub buffer_bytes: u64,
    /// Answer segments without a flow by RST, at most this many a second. Default 100,000.
    pub resets_per_second: u32,
    /// ICMP messages sent, at most this many a second. Default 1,000.
    pub icmp_per_second: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            gateway_v4: None,
            gateway_v6: None,
            vlan: None,
            shared: None,
            neighbors: Vec::new(),
            listeners: Vec::new(),
            tcp: TcpConfig::default(),
            max_connections: 1_000_000,
            max_syn_received: 65_536,
            max_time_wait: 100_000_000,
            expected_connections: 0,
            buffer_bytes: 256 << 20,
            resets_per_second: 100_000,
            icmp_per_second: 1_000,
        }
    }
}

/// A tunable that cannot be: which, what it was, what would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(pub String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for ConfigError {}

impl Config {
    /// Checks every limit named in this module.
    ///
    /// # Errors
    /// The first tunable that is out of its range, with the range.
    pub fn check(&self) -> Result<(), ConfigError> {
        let fail = |message: String| Err(ConfigError(message));
        if self.addresses.is_empty() {
            return fail("no address: the engine needs at least one of its own".into());
        }
        for range in &self.addresses {
            check_range(range)?;
        }
        if let Some(vlan) = self.vlan
            && !(1..=4094).contains(&vlan)
        {
            return fail(format!("VLAN {vlan} is not within 1 to 4094"));
        }
        for listener in &self.listeners {
            if listener.first_port == 0 || listener.first_port > listener.last_port {
                return fail(format!("listening ports {}-{} are no range", listener.first_port, listener.last_port));
            }
        }
        let tcp = &self.tcp;
        if !(4096..1 << 30).contains(&tcp.receive_window) {
            return fail(format!("receive window {} is not within 4096 to 1073741823 octets", tcp.receive_window));
        }
        if tcp.ack_delay > Duration::from_millis(500) {
            return fail("the delay of acknowledgements exceeds 500 ms (RFC 9293 section 3.8.6.3)".into());
        }
        if tcp.rto_min.is_zero() || tcp.rto_min > tcp.rto_max || tcp.rto_initial > tcp.rto_max {
            return fail("the smallest and the initial RTO must lie between 1 ms and the largest".into());
        }
        if tcp.rto_max > Duration::from_secs(3600) || tcp.time_wait > Duration::from_secs(3600) {
            return fail("the largest RTO and TIME-WAIT are limited to 3600 s".into());
        }
        if tcp.initial_window_segments == 0 {
            return fail("the initial congestion window is at least one segment".into());
        }
        if tcp.local_ports.first == 0 || tcp.local_ports.first > tcp.local_ports.last {
            return fail(format!("local ports {}-{} are no range", tcp.local_ports.first, tcp.local_ports.last));
        }
        if self.max_connections > 1 << 28 || self.max_time_wait > 1 << 28 {
            return fail("a table is limited to 268435456 entries".into());
        }
        Ok(())
    }
}

fn check_range(range: &AddressRange) -> Result<(), ConfigError> {
    let bits = match (range.first, range.last) {
        (IpAddr::V4(first), IpAddr::V4(last)) if first <= last => 32,
        (IpAddr::V6(first), IpAddr::V6(last)) if first <= last => 128,
        _ => return Err(ConfigError(format!("{}-{} is no range of addresses", range.first, range.last))),
    };
    if range.prefix_len > bits {
        return Err(ConfigError(format!("prefix length {} exceeds {bits}", range.prefix_len)));
    }
    Ok(())
}
