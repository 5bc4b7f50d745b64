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
    /// When no record is kept for a SYN, because there are too many records or too many SYNs: see [`Config::max_syn_received`], [`Config::max_syn_received_per_prefix`] and
    /// [`Config::syn_flood_per_second`].
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
    /// Shift of the windows we send, 0 to 14 (RFC 7323 §2.2). Default none: the least that lets the window field hold
    /// `receive_window`.
    pub window_scale: Option<u8>,
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
    /// User timeout (RFC 9293 §3.9.1): data unacknowledged this long ends the connection. Default none. A connection may
    /// have its own: [`Conn::set_user_timeout`](crate::app::Conn::set_user_timeout).
    pub user_timeout: Option<Duration>,
    /// Longest delay of an acknowledgement, below 0.5 s (RFC 9293 §3.8.6.3). Default 40 ms; zero acknowledges at once.
    pub ack_delay: Duration,
    /// Nagle's algorithm (RFC 9293 §3.7.4). Default false: a load generator says what it has to say.
    pub nagle: bool,
    /// Set PSH on the last segment of every burst of several, as Linux does since 5.5: a receiver that merges segments then
    /// need not wait for more. Default false: only the last segment of what is queued has it (RFC 9293 §3.9.1.2).
    pub push_bursts: bool,
    /// Put the data that [`App::connected`](crate::app::App::connected) queues on the handshake's ACK. Default false.
    pub piggyback: bool,
    /// Initial congestion window, segments (RFC 6928). Default 10.
    pub initial_window_segments: u8,
    /// The congestion control.
    pub congestion: CongestionControl,
    /// Spread a window over the round trip where that is 2 ms or more, in place of sending it as one burst. Default true.
    pub pacing: bool,
    /// End the first slow start when the round trip grows (HyStart++, RFC 9406). Default true.
    pub hystart: bool,
    /// How long TIME-WAIT lasts (RFC 9293 §3.4.2: 2 MSL). Default 60 s, as Linux; zero skips the state.
    pub time_wait: Duration,
    /// How long the peer may stay silent in FIN-WAIT-2, after we closed and before its FIN. Default 60 s.
    pub fin_wait_2: Duration,
    /// Idle time before keep-alive probes (RFC 9293 §3.8.4). Default none: connections are probed only if they ask for it
    /// ([`Conn::set_keep_alive`](crate::app::Conn::set_keep_alive)), after two hours.
    pub keepalive: Option<Duration>,
    /// Time between keep-alive probes. Default 75 s.
    pub keepalive_interval: Duration,
    /// Unanswered keep-alive probes before the connection is given up. Default 9.
    pub keepalive_probes: u8,
    /// Smallest MSS believed, octets: a peer that announces less is taken to have announced this much, and counted. Linux's
    /// `tcp_min_snd_mss` is 48; 64 is the least that a SYN cookie can say. Default 64; 64 to 536.
    pub mss_min: u16,
    /// Segments of one connection in flight, about: bounds what its loss recovery holds and looks at. Default 8,192; at
    /// least 64.
    pub flight_segments_max: u16,
    /// Segments in flight that SACK processing looks at in one pass of the loop, all connections together; blocks that come
    /// beyond that are ignored, and counted (CVE-2019-11478 is what happens without a limit). Default 65,536.
    pub scoreboard_per_pass: u32,
    /// Pieces of text beyond holes that a connection may hold although they are small; more are held only as far as they
    /// fill half of their buffers (CVE-2018-5390 is what happens without a limit). Default 256.
    pub out_of_order_pieces: u16,
    /// How long a peer may keep what is queued for it from being sent, by a window that stays shut or nearly so: in this
    /// time a full-sized segment or all of it must have been acknowledged. RFC 9293 §3.8.6.1 (MUST-37) wants the
    /// connection kept, RFC 6429 lets it be ended to save resources. Default none.
    pub stall_timeout: Option<Duration>,
    /// The same while seven eighths of the connections or three quarters of the buffers are in use. Default 30 s.
    pub stall_timeout_under_pressure: Duration,
    /// Challenge ACKs that one connection sends in five seconds (RFC 5961 §7). Default 10.
    //= RFC 5961 7-SHOULD-2
    pub challenge_acks_per_connection: u32,
    /// RSTs that one pair of sockets without a connection is answered by in five seconds. Default 10.
    pub resets_per_connection: u32,
    /// Time to live or hop limit of what is sent (RFC 9293 §3.9.2). Default 64; 1 to 255.
    //= RFC 9293 MUST-49
    //= RFC 1122 3.2.1.7-MUST-3
    pub hop_limit: u8,
    /// Differentiated services code point of every segment (RFC 9293 §3.9.1.9, RFC 2474). Default 0; at most 63.
    //= RFC 9293 MUST-48
    pub dscp: u8,
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
            window_scale: None,
            timestamps: true,
            sack: true,
            ecn: Ecn::default(),
            rto_initial: Duration::from_secs(1),
            rto_min: Duration::from_millis(200),
            rto_max: Duration::from_secs(120),
            //= RFC 9293 MUST-23
            syn_retries: 6,
            syn_ack_retries: 5,
            data_retries: 15,
            user_timeout: None,
            ack_delay: Duration::from_millis(40),
            nagle: false,
            push_bursts: false,
            piggyback: false,
            initial_window_segments: 10,
            congestion: CongestionControl::default(),
            pacing: true,
            hystart: true,
            time_wait: Duration::from_secs(60),
            fin_wait_2: Duration::from_secs(60),
            //= RFC 9293 MUST-25
            keepalive: None,
            keepalive_interval: Duration::from_secs(75),
            keepalive_probes: 9,
            mss_min: 64,
            flight_segments_max: 8_192,
            scoreboard_per_pass: 65_536,
            out_of_order_pieces: 256,
            stall_timeout: None,
            stall_timeout_under_pressure: Duration::from_secs(30),
            challenge_acks_per_connection: 10,
            resets_per_connection: 10,
            hop_limit: 64,
            dscp: 0,
            //= RFC 6056 3.2-SHOULD-1
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
    /// The most connections held at once, TIME-WAIT and SYN-RECEIVED not included. Default 1,000,000; at most
    /// [`ENTRIES_MAX`](Self::ENTRIES_MAX).
    pub max_connections: u32,
    /// The most SYN-RECEIVED records. From three quarters of it on none is made, until half of it is reached again: with
    /// cookies they complete all the same, without, SYNs are refused. Default 65,536; Linux's `tcp_max_syn_backlog` is
    /// at most 4,096 by itself.
    pub max_syn_received: u32,
    /// The most SYN-RECEIVED records of one prefix of sources, 24 bits of IPv4 or 56 of IPv6: from there on as above, for
    /// that prefix alone. Default 16,384.
    pub max_syn_received_per_prefix: u32,
    /// SYNs a second beyond the handshakes that completed in the same time, from which on `auto` makes no records, until
    /// they are half as many. Default 100,000.
    pub syn_flood_per_second: u32,
    /// The most TIME-WAIT records. Default 100 million, at most [`ENTRIES_MAX`](Self::ENTRIES_MAX); a connection that finds no
    /// room skips the state, counted.
    pub max_time_wait: u32,
    /// Connections to make room for at the start; the table grows by itself beyond that. Default 0.
    pub expected_connections: u32,
    /// Octets for buffered payload (out of order, unread, written), all connections together. Default 256 MiB.
    pub buffer_bytes: u64,
    /// How much of `buffer_bytes` may hold text beyond holes, all connections together. Default 128 MiB.
    pub out_of_order_bytes: u64,
    /// Answer segments without a flow by RST, at most this many a second. Default 100,000.
    pub resets_per_second: u32,
    /// ICMP messages sent, at most this many a second. Default 1,000, as Linux's `icmp_msgs_per_sec`.
    pub icmp_per_second: u32,
    /// Challenge ACKs sent, at most about this many a second (RFC 5961 §7). Default 1,000.
    pub challenge_acks_per_second: u32,
    /// The most neighbours known at a time; half of them may be asked for at a time. Default 4,096; 2 to 1,048,576. Linux's
    /// `gc_thresh3` is 1,024.
    pub max_neighbors: u32,
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
            max_syn_received_per_prefix: 16_384,
            syn_flood_per_second: 100_000,
            max_time_wait: 100_000_000,
            expected_connections: 0,
            buffer_bytes: 256 << 20,
            out_of_order_bytes: 128 << 20,
            resets_per_second: 100_000,
            icmp_per_second: 1_000,
            challenge_acks_per_second: 1_000,
            max_neighbors: 4_096,
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
    /// The most entries of a worker's table of one kind: 2²⁸.
    pub const ENTRIES_MAX: u32 = 1 << 28;

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
        if tcp.window_scale.is_some_and(|shift| shift > 14) {
            return fail("the shift of windows is limited to 14 (RFC 7323 section 2.3)".into());
        }
        //= RFC 9293 MUST-40
        if tcp.ack_delay >= Duration::from_millis(500) {
            return fail("the delay of acknowledgements is not below 500 ms (RFC 9293 section 3.8.6.3)".into());
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
        //= RFC 1122 3.2.1.7-MUST-1
        if tcp.hop_limit == 0 {
            return fail("a hop limit of zero reaches nobody".into());
        }
        if tcp.dscp > 63 {
            return fail(format!("a differentiated services code point of {} exceeds 63", tcp.dscp));
        }
        if !(64..=536).contains(&tcp.mss_min) {
            return fail(format!("the smallest MSS, {}, is not within 64 to 536 octets", tcp.mss_min));
        }
        if tcp.flight_segments_max < 64 {
            return fail("fewer than 64 segments in flight leave no room for loss recovery".into());
        }
        if tcp.stall_timeout.is_some_and(|limit| limit.is_zero()) || tcp.stall_timeout_under_pressure.is_zero() {
            return fail("a stall time-out of zero ends connections whose window is shut for a moment".into());
        }
        if tcp.local_ports.first == 0 || tcp.local_ports.first > tcp.local_ports.last {
            return fail(format!("local ports {}-{} are no range", tcp.local_ports.first, tcp.local_ports.last));
        }
        if !(2..=1 << 20).contains(&self.max_neighbors) {
            return fail(format!("{} neighbours are not within 2 to 1048576", self.max_neighbors));
        }
        if self.max_connections > Self::ENTRIES_MAX || self.max_time_wait > Self::ENTRIES_MAX {
            return fail(format!("a worker's table is limited to {} entries", Self::ENTRIES_MAX));
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
