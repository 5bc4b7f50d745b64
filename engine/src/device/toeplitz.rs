//! Receive-side scaling: the Toeplitz hash by which network cards spread flows over their queues.
//!
//! The hash is XOR-linear: every octet of the input contributes by itself, at its own offset, and the hash is the XOR of
//! the contributions. So whoever chooses a local port to meet a queue can sum up the fixed part of the four-tuple once.
//!
//! Source: Microsoft, "RSS hashing types" and "Verifying the RSS hash calculation".

use core::net::{IpAddr, SocketAddr};

/// Octets of an RSS key: 36 of input (two IPv6 addresses, two ports) and a window of 4.
pub const KEY_BYTES: usize = 40;

/// Entries of the indirection table that most cards have.
pub const TABLE_ENTRIES: usize = 128;

/// Most entries of an indirection table that is believed.
pub const TABLE_ENTRIES_MAX: usize = 1 << 12;

/// Octets of the longest input: two IPv6 addresses, two ports.
const INPUT_BYTES_MAX: usize = 36;

/// The key of Microsoft's verification suite, the default of most drivers.
pub const DEFAULT_KEY: [u8; KEY_BYTES] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca, 0x2b,
    0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac,
    0x01, 0xfa,
];

/// What `octet` contributes to the hash when it stands at `offset` of the input.
/// Zero beyond the 36 octets of input that the key serves.
pub fn contribution(key: &[u8; KEY_BYTES], offset: usize, octet: u8) -> u32 {
    let Some(&[a, b, c, d, e]) = key.get(offset..).and_then(<[u8]>::first_chunk) else {
        return 0;
    };
    // Bit i of the octet, counted from the most significant, selects the 32 key bits that start i bits further on.
    let window = u64::from_be_bytes([0, 0, 0, a, b, c, d, e]);
    (0..8).filter(|bit| octet & (0x80 >> bit) != 0).fold(0, |sum, bit| sum ^ (window >> (8 - bit)) as u32)
}

/// The hash of `input`: source address, destination address and, for TCP, source and destination port, all in network
/// byte order.
pub fn hash(key: &[u8; KEY_BYTES], input: &[u8]) -> u32 {
    input.iter().enumerate().fold(0, |sum, (offset, &octet)| sum ^ contribution(key, offset, octet))
}

/// A key and an indirection table: which queue a flow arrives on.
#[derive(Clone, PartialEq, Eq)]
pub struct Rss {
    key: [u8; KEY_BYTES],
    /// The queue for each value of the hash's low bits; a power of two of them.
    table: Box<[u16]>,
    /// What each half of an octet contributes at each place of the input: the whole hash of an IPv4 flow is 24 look-ups
    /// in 1.5 KiB.
    nibbles: Box<[[u32; 16]; 2 * INPUT_BYTES_MAX]>,
}

impl core::fmt::Debug for Rss {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Rss").field("key", &self.key).field("table", &self.table).finish_non_exhaustive()
    }
}

impl Rss {
    /// The default key and a table that deals `queues` queues out in turn, as drivers set it up. No queue means one.
    pub fn new(queues: u16) -> Self {
        let queues = queues.max(1);
        Self::build(DEFAULT_KEY, (0..TABLE_ENTRIES).map(|entry| entry as u16 % queues).collect())
    }

    /// A card's own key and table. `None` if the table's length is not a power of two up to [`TABLE_ENTRIES_MAX`]: cards
    /// that reduce their hash in another way are not understood here.
    pub fn with(key: [u8; KEY_BYTES], table: &[u16]) -> Option<Self> {
        let known = table.len().is_power_of_two() && table.len() <= TABLE_ENTRIES_MAX;
        known.then(|| Self::build(key, table.into()))
    }

    fn build(key: [u8; KEY_BYTES], table: Box<[u16]>) -> Self {
        let mut nibbles = Box::new([[0; 16]; 2 * INPUT_BYTES_MAX]);
        for (place, row) in nibbles.iter_mut().enumerate() {
            for (value, sum) in row.iter_mut().enumerate() {
                let octet = if place % 2 == 0 { value << 4 } else { value } as u8;
                *sum = contribution(&key, place / 2, octet);
            }
        }
        Self { key, table, nibbles }
    }

    /// The hash key.
    pub fn key(&self) -> &[u8; KEY_BYTES] {
        &self.key
    }

    /// The queue for each value of the hash's low bits.
    pub fn table(&self) -> &[u16] {
        &self.table
    }

    /// The queue that flows with this hash arrive on.
    #[inline]
    pub fn queue(&self, hash: u32) -> u16 {
        self.table[self.entry(hash)]
    }

    /// The entry of the table that flows with this hash look at.
    #[inline]
    pub fn entry(&self, hash: u32) -> usize {
        hash as usize & (self.table.len() - 1)
    }

    /// The queue that the segments of a TCP connection arrive on: they come from the remote end.
    #[inline]
    pub fn queue_of_flow(&self, local: SocketAddr, remote: SocketAddr) -> u16 {
        let remote = self.remote_part(remote.ip(), remote.port());
        self.queue(remote ^ self.local_part(local.ip()) ^ self.port_part(local.is_ipv6(), local.port()))
    }

    /// What the remote end of a flow contributes to the hash of the segments that come from it.
    #[inline]
    pub fn remote_part(&self, address: IpAddr, port: u16) -> u32 {
        match address {
            IpAddr::V4(address) => self.sum(0, &address.octets()) ^ self.sum(8, &port.to_be_bytes()),
            IpAddr::V6(address) => self.sum(0, &address.octets()) ^ self.sum(32, &port.to_be_bytes()),
        }
    }

    /// What our address contributes.
    #[inline]
    pub fn local_part(&self, address: IpAddr) -> u32 {
        match address {
            IpAddr::V4(address) => self.sum(4, &address.octets()),
            IpAddr::V6(address) => self.sum(16, &address.octets()),
        }
    }

    /// What our port contributes.
    #[inline]
    pub fn port_part(&self, v6: bool, port: u16) -> u32 {
        self.sum(if v6 { 34 } else { 10 }, &port.to_be_bytes())
    }

    /// What `octets` contribute from `offset` of the input on.
    #[inline]
    fn sum(&self, offset: usize, octets: &[u8]) -> u32 {
        let rows = self.nibbles[2 * offset..].chunks_exact(2);
        octets
            .iter()
            .zip(rows)
            .fold(0, |sum, (&octet, rows)| sum ^ rows[0][usize::from(octet >> 4)] ^ rows[1][usize::from(octet & 15)])
    }

    /// The queue an Ethernet frame arrives on. TCP is hashed over the four-tuple, fragments and other IP over the
    /// addresses alone, and what is not IP goes to the first entry's queue.
    pub fn queue_of_frame(&self, frame: &[u8]) -> u16 {
        let mut input = [0; INPUT_BYTES_MAX];
        let len = hash_input(frame, &mut input).unwrap_or(0);
        self.queue(hash(&self.key, &input[..len]))
    }
}

/// Writes what a card hashes of `frame` to `input` and returns how many octets that are.
fn hash_input(frame: &[u8], input: &mut [u8; INPUT_BYTES_MAX]) -> Option<usize> {
    const TCP: u8 = 6;
    let (ip_at, version) = super::ip_offset(frame)?;
    let ip = frame.get(ip_at..)?;
    let (addresses, ports_at) = match version {
        4 => {
            let fragment = u16::from_be_bytes([*ip.get(6)?, *ip.get(7)?]) & 0x3fff != 0;
            let tcp = *ip.get(9)? == TCP && !fragment;
            (ip.get(12..20)?, tcp.then_some(usize::from(ip[0] & 0x0f) * 4))
        }
        _ => (ip.get(8..40)?, (*ip.get(6)? == TCP).then_some(40)),
    };
    let len = addresses.len();
    input[..len].copy_from_slice(addresses);
    match ports_at.and_then(|at| ip.get(at..at + 4)) {
        Some(ports) => {
            input[len..len + 4].copy_from_slice(ports);
            Some(len + 4)
        }
        None => Some(len),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};

    fn concat(source: &[u8], destination: &[u8], ports: &[u16]) -> Vec<u8> {
        let ports = ports.iter().flat_map(|port| port.to_be_bytes());
        source.iter().chain(destination).copied().chain(ports).collect()
    }

    /// Source, destination, hash of the addresses alone, hash with the ports.
    type Answer = (Endpoint, Endpoint, u32, u32);
    type Endpoint = (&'static str, u16);

    /// "Verifying the RSS hash calculation", IPv4.
    #[test]
    fn known_answers_for_ipv4() {
        let answers: [Answer; 5] = [
            (("66.9.149.187", 2794), ("161.142.100.80", 1766), 0x323e_8fc2, 0x51cc_c178),
            (("199.92.111.2", 14230), ("65.69.140.83", 4739), 0xd718_262a, 0xc626_b0ea),
            (("24.19.198.95", 12898), ("12.22.207.184", 38024), 0xd2d0_a5de, 0x5c2b_394a),
            (("38.27.205.30", 48228), ("209.142.163.6", 2217), 0x8298_9176, 0xafc7_327f),
            (("153.39.163.191", 44251), ("202.188.127.2", 1303), 0x5d18_09c5, 0x10e8_28a2),
        ];
        for ((source, sport), (destination, dport), addresses, with_ports) in answers {
            let source: Ipv4Addr = source.parse().unwrap();
            let destination: Ipv4Addr = destination.parse().unwrap();
            assert_eq!(hash(&DEFAULT_KEY, &concat(&source.octets(), &destination.octets(), &[])), addresses);
            let input = concat(&source.octets(), &destination.octets(), &[sport, dport]);
            assert_eq!(hash(&DEFAULT_KEY, &input), with_ports);
        }
    }

    /// The same for IPv6.
    #[test]
    fn known_answers_for_ipv6() {
        let answers: [Answer; 3] = [
            (("3ffe:2501:200:1fff::7", 2794), ("3ffe:2501:200:3::1", 1766), 0x2cc1_8cd5, 0x4020_7d3d),
            (("3ffe:501:8::260:97ff:fe40:efab", 14230), ("ff02::1", 4739), 0x0f0c_461c, 0xdde5_1bbf),
            (
                ("3ffe:1900:4545:3:200:f8ff:fe21:67cf", 44251),
                ("fe80::200:f8ff:fe21:67cf", 38024),
                0x4b61_e985,
                0x02d1_feef,
            ),
        ];
        for ((source, sport), (destination, dport), addresses, with_ports) in answers {
            let source: Ipv6Addr = source.parse().unwrap();
            let destination: Ipv6Addr = destination.parse().unwrap();
            assert_eq!(hash(&DEFAULT_KEY, &concat(&source.octets(), &destination.octets(), &[])), addresses);
            let input = concat(&source.octets(), &destination.octets(), &[sport, dport]);
            assert_eq!(hash(&DEFAULT_KEY, &input), with_ports);
        }
    }

    fn tcp4_frame(tagged: bool, fragment_offset: u16) -> Vec<u8> {
        let mut frame = vec![0; 12];
        if tagged {
            frame.extend([0x81, 0x00, 0x00, 0x07]);
        }
        frame.extend([0x08, 0x00, 0x45, 0, 0, 40, 0, 0]);
        frame.extend(fragment_offset.to_be_bytes());
        frame.extend([64, 6, 0, 0, 66, 9, 149, 187, 161, 142, 100, 80]);
        frame.extend(2794u16.to_be_bytes());
        frame.extend(1766u16.to_be_bytes());
        frame.resize(frame.len() + 16, 0);
        frame
    }

    #[test]
    fn frames_are_hashed_as_cards_do_it() {
        let rss = Rss::with(DEFAULT_KEY, &core::array::from_fn::<_, TABLE_ENTRIES, _>(|entry| entry as u16)).unwrap();
        assert_eq!(rss.queue_of_frame(&tcp4_frame(false, 0)), 0x78);
        assert_eq!(rss.queue_of_frame(&tcp4_frame(true, 0)), 0x78, "a VLAN tag changes nothing");
        assert_eq!(rss.queue_of_frame(&tcp4_frame(false, 0x2000)), 0x42, "a first fragment has no ports");
        let full = tcp4_frame(true, 0);
        for len in 0..full.len() {
            rss.queue_of_frame(&full[..len]);
        }
        assert_eq!(rss.queue_of_frame(&full[..20]), 0, "what is not whole goes to the first queue");
    }

    #[test]
    fn every_queue_gets_its_share_of_the_table() {
        let rss = Rss::new(6);
        for queue in 0..6 {
            let share = rss.table.iter().filter(|&&entry| entry == queue).count();
            assert!((21..=22).contains(&share), "queue {queue} has {share} entries");
        }
        assert_eq!(Rss::new(0), Rss::new(1));
        assert_eq!(Rss::with(DEFAULT_KEY, &[0; 96]), None, "no power of two");
        assert_eq!(Rss::with(DEFAULT_KEY, &[]), None);
    }

    /// The parts of a flow add up to the hash of its segments as they arrive: the published answers again, seen from the
    /// destination.
    #[test]
    fn the_parts_of_a_flow_add_up_to_the_published_hashes() {
        let answers = [
            ("66.9.149.187:2794", "161.142.100.80:1766", 0x51cc_c178),
            ("199.92.111.2:14230", "65.69.140.83:4739", 0xc626_b0ea),
            ("153.39.163.191:44251", "202.188.127.2:1303", 0x10e8_28a2),
            ("[3ffe:2501:200:1fff::7]:2794", "[3ffe:2501:200:3::1]:1766", 0x4020_7d3d),
            ("[3ffe:1900:4545:3:200:f8ff:fe21:67cf]:44251", "[fe80::200:f8ff:fe21:67cf]:38024", 0x02d1_feefu32),
        ];
        let rss = Rss::new(7);
        for (remote, local, hash) in answers {
            let (remote, local): (SocketAddr, SocketAddr) = (remote.parse().unwrap(), local.parse().unwrap());
            let sum = rss.remote_part(remote.ip(), remote.port())
                ^ rss.local_part(local.ip())
                ^ rss.port_part(local.is_ipv6(), local.port());
            assert_eq!(sum, hash, "{remote} to {local}");
            assert_eq!(rss.queue_of_flow(local, remote), rss.queue(hash));
        }
    }

    /// For any key and any input: the tables say what the definition says, and the hash is linear.
    #[test]
    fn the_tables_agree_with_the_definition_for_any_key() {
        let mut state = 1u64;
        let mut octet = || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 56) as u8
        };
        for _ in 0..500 {
            let rss = Rss::with(core::array::from_fn(|_| octet()), &[0, 1]).unwrap();
            let (a, b): ([u8; 36], [u8; 36]) = (core::array::from_fn(|_| octet()), core::array::from_fn(|_| octet()));
            let both: [u8; 36] = core::array::from_fn(|at| a[at] ^ b[at]);
            for len in [8, 12, 32, 36] {
                assert_eq!(rss.sum(0, &a[..len]), hash(rss.key(), &a[..len]));
                assert_eq!(rss.sum(0, &both[..len]), rss.sum(0, &a[..len]) ^ rss.sum(0, &b[..len]));
            }
        }
    }
}
