//! An application that moves a given number of octets each way on each connection, and checks every one of them.

use std::net::SocketAddr;

use syncline_engine::app::{App, Conn, ConnId, End, Net};
use syncline_engine::time::Instant;

/// Writes the octets from `offset` on of the stream that connection number `tag` sends: any shift or mix-up shows.
pub fn octets(tag: u32, offset: u32, out: &mut [u8]) {
    let (mut at, mut out) = (offset, out);
    while !out.is_empty() {
        let word = (u64::from(tag) << 32 | u64::from(at / 8)).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let word = (word ^ word >> 31).wrapping_mul(0xbf58_476d_1ce4_e5b9).to_le_bytes();
        let word = &word[(at % 8) as usize..];
        let n = word.len().min(out.len());
        let (now, later) = out.split_at_mut(n);
        now.copy_from_slice(&word[..n]);
        at += n as u32;
        out = later;
    }
}

/// What one end of the transfers does and has seen.
#[derive(Debug, Default)]
pub struct Transfer {
    /// Octets to send on each connection.
    pub send: u32,
    /// Octets that the peer sends.
    pub expect: u32,
    /// Connections still to be opened, and where to.
    pub open: u32,
    /// Where to.
    pub remote: Option<SocketAddr>,
    /// Number of the next connection opened.
    next: u32,
    /// Connections that became open.
    pub established: u32,
    /// Ends seen.
    pub ended: Vec<End>,
    /// Connections whose stream arrived whole, with its FIN.
    pub whole: u32,
    /// The first thing that was wrong.
    pub fault: Option<String>,
    /// Octets received, by connection slot; the slot's direction tag is in the word.
    received: Vec<u32>,
}

/// Bit of the tag that tells the two directions apart.
const FROM_OPENER: u32 = 1 << 31;

impl Transfer {
    /// An end that opens `connections` to `remote`.
    pub fn opener(connections: u32, remote: SocketAddr, send: u32, expect: u32) -> Self {
        Self { open: connections, remote: Some(remote), send, expect, ..Self::default() }
    }

    /// An end that accepts.
    pub fn listener(send: u32, expect: u32) -> Self {
        Self { send, expect, ..Self::default() }
    }

    fn begin(&mut self, conn: &mut Conn<'_>, tag: u32) {
        self.established += 1;
        let slot = conn.id().0 as usize;
        if self.received.len() <= slot {
            self.received.resize(slot + 1, 0);
        }
        self.received[slot] = 0;
        conn.set_word(u64::from(tag));
        if self.send > 0 && !conn.send(tag, self.send) {
            self.fault.get_or_insert(format!("{tag}: send refused"));
        }
        conn.close();
    }
}

impl App for Transfer {
    fn accepted(&mut self, conn: &mut Conn<'_>, _: usize) {
        // The streams carry the opener's port, which both ends know
        self.begin(conn, u32::from(conn.endpoints().remote.port()));
    }

    fn connected(&mut self, conn: &mut Conn<'_>) {
        self.begin(conn, u32::from(conn.endpoints().local.port()) | FROM_OPENER);
    }

    fn received(&mut self, conn: &mut Conn<'_>, data: &[u8]) -> usize {
        let from_peer = conn.word() as u32 ^ FROM_OPENER;
        let at = &mut self.received[conn.id().0 as usize];
        let mut want = [0; 2048];
        for (i, got) in data.chunks(want.len()).enumerate() {
            let offset = *at + (i * want.len()) as u32;
            let want = &mut want[..got.len()];
            octets(from_peer, offset, want);
            if want != got {
                self.fault.get_or_insert(format!("tag {from_peer:x}: other octets than were sent, from {offset} on"));
            }
        }
        *at += data.len() as u32;
        data.len()
    }

    fn finished(&mut self, conn: &mut Conn<'_>) {
        let got = self.received[conn.id().0 as usize];
        if got == self.expect {
            self.whole += 1;
        } else {
            self.fault.get_or_insert(format!("FIN after {got} of {} octets", self.expect));
        }
    }

    fn closed(&mut self, _: ConnId, _: u64, end: End, _: Instant) {
        self.ended.push(end);
    }

    fn fill(&self, tag: u32, offset: u32, out: &mut [u8]) {
        octets(tag, offset, out);
    }

    fn poll(&mut self, net: &mut Net<'_>) {
        let Some(remote) = self.remote else { return };
        while self.open > 0 && net.room() > 0 {
            if let Err(error) = net.connect(remote, u64::from(self.next)) {
                self.fault.get_or_insert(error.to_string());
                return;
            }
            self.next += 1;
            self.open -= 1;
        }
    }
}
