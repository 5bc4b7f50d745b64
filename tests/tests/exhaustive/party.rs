//! The application of either side: it does what the explorer tells it, and writes down what happened.

use syncline_engine::app::{App, Conn, ConnId, End, Net};
use syncline_engine::time::Instant;

use std::net::SocketAddr;

/// What an application may be told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Act {
    /// Open a connection to the peer.
    Open,
    /// Send one octet.
    Send,
    /// Close its direction.
    Close,
    /// RST.
    Abort,
}

/// What one connection came to, at one side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Story {
    pub(crate) sent: Vec<u8>,
    pub(crate) got: Vec<u8>,
    pub(crate) finished: bool,
    pub(crate) end: Option<End>,
}

/// Octets of the `n`th connection of a side: its own, so that none can be taken for another's.
const PER_STORY: u8 = 8;

#[derive(Debug, Default)]
pub(crate) struct Party {
    /// Added to every octet, so that the two sides' differ as well.
    base: u8,
    peer: Option<SocketAddr>,
    pub(crate) stories: Vec<Story>,
    /// The connection there is, and the number of its story.
    pub(crate) live: Option<(ConnId, usize)>,
    told: Option<Act>,
    /// Something that an application must never see.
    pub(crate) fault: Option<String>,
}

impl Party {
    pub(crate) fn new(base: u8, peer: SocketAddr) -> Self {
        Self { base, peer: Some(peer), ..Self::default() }
    }

    pub(crate) fn tell(&mut self, act: Act) {
        self.told = Some(act);
    }

    fn begin(&mut self, id: ConnId) {
        self.stories.push(Story::default());
        self.live = Some((id, self.stories.len() - 1));
    }

    fn story(&mut self, id: ConnId) -> Option<&mut Story> {
        let number = self.live.filter(|live| live.0 == id)?.1;
        self.stories.get_mut(number)
    }

    /// The story that an octet was sent in.
    pub(crate) fn story_of(&self, octet: u8) -> Option<usize> {
        let number = usize::from(octet.checked_sub(self.base)? / PER_STORY);
        (number < self.stories.len()).then_some(number)
    }

    fn fault(&mut self, what: &str) {
        self.fault.get_or_insert_with(|| what.to_owned());
    }
}

impl App for Party {
    fn accepted(&mut self, conn: &mut Conn<'_>, _: usize) {
        // A second one while the first lives: the peer has forgotten that, and is told apart by its number
        if self.live.is_some() {
            self.fault("a second connection was accepted beside a live one of the same name");
        }
        self.begin(conn.id());
    }

    fn connected(&mut self, _: &mut Conn<'_>) {}

    fn received(&mut self, conn: &mut Conn<'_>, data: &[u8]) -> usize {
        match self.story(conn.id()) {
            Some(story) if !story.finished => story.got.extend_from_slice(data),
            Some(_) => self.fault("text came after the FIN"),
            None => self.fault("text came for a connection that is over"),
        }
        data.len()
    }

    fn finished(&mut self, conn: &mut Conn<'_>) {
        match self.story(conn.id()) {
            Some(story) if !story.finished => story.finished = true,
            Some(_) => self.fault("a second FIN"),
            None => self.fault("a FIN came for a connection that is over"),
        }
    }

    fn closed(&mut self, id: ConnId, _: u64, end: End, _: Instant) {
        match self.story(id) {
            Some(story) => story.end = Some(end),
            None => self.fault("a connection that is over ended again"),
        }
        self.live = None;
    }

    fn fill(&self, tag: u32, _: u32, out: &mut [u8]) {
        out.fill(tag as u8);
    }

    fn poll(&mut self, net: &mut Net<'_>) {
        let Some(act) = self.told.take() else { return };
        let live = self.live;
        if let (Act::Open, Some(peer), None) = (act, self.peer, live) {
            if let Ok(id) = net.connect(peer, 0) {
                self.begin(id);
            }
            return;
        }
        let Some((id, number)) = live else { return };
        let Some(mut conn) = net.conn(id) else { return };
        match act {
            Act::Open => {}
            Act::Send => {
                let octet = self.base + number as u8 * PER_STORY + self.stories[number].sent.len() as u8;
                if conn.send(u32::from(octet), 1) {
                    self.stories[number].sent.push(octet);
                }
            }
            Act::Close => conn.close(),
            Act::Abort => conn.abort(),
        }
    }
}
