//! An application that moves a given number of octets each way on each connection, and checks every one of them.

use std::net::SocketAddr;

use syncline_engine::app::{App, Conn, ConnId, End, Net};
use syncline_engine::time::Instant;

/// The octet at `offset` of the stream that connection number `tag` sends: any shift or mix-up shows.
pub fn octet(tag: u32, offset: u32) -> u8 {
    let x = (u64::from(tag) << 32 | u64::from(offset)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x >> 56) as u8
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
        for (i, &got) in data.iter().enumerate() {
            let offset = *at + i as u32;
            let want = octet(from_peer, offset);
            if got != want {
                self.fault.get_or_insert(format!("tag {from_peer:x}: octet {offset} is {got:02x}, not {want:02x}"));
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
        for (i, out) in out.iter_mut().enumerate() {
            *out = octet(tag, offset + i as u32);
        }
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
