//! The table of functions as packetdrill uses it, against a peer made by hand.

use core::mem::MaybeUninit;
use std::net::SocketAddr;

use syncline_engine::wire::ethernet::Link;
use syncline_engine::wire::{Ecn, Flags, MacAddr, OutSegment, ParseRules, Parsed, Seq, TcpOptions, TcpSegment, parse};

use super::*;

/// Octets of an Ethernet header, which packets here have none of.
const HEADER: usize = 14;
const LOCAL: &str = "192.168.0.1:8080";
const REMOTE: &str = "192.0.2.1:40000";

/// A loaded library and the peer's side of a connection with it.
struct Drill {
    library: Interface,
    ours: SocketAddr,
    seq: Seq,
    ack: Seq,
}

impl Drill {
    fn load(flags: &CStr) -> Self {
        let mut library = MaybeUninit::uninit();
        // SAFETY: the flags end in NUL, and there is room for an `Interface`.
        unsafe { packetdrill_interface_init(flags.as_ptr(), library.as_mut_ptr()) };
        // SAFETY: it has just been filled.
        let library = unsafe { library.assume_init() };
        Self { library, ours: REMOTE.parse().unwrap(), seq: Seq(1000), ack: Seq(0) }
    }

    /// Sends a segment of the peer's.
    fn send(&mut self, flags: Flags, payload: &[u8]) {
        let to: SocketAddr = LOCAL.parse().unwrap();
        let segment = OutSegment {
            link: Link { source: MacAddr([2; 6]), destination: MacAddr([4; 6]), vlan: None },
            source: self.ours.ip(),
            destination: to.ip(),
            source_port: self.ours.port(),
            destination_port: to.port(),
            seq: self.seq,
            ack: self.ack,
            flags,
            window: 60_000,
            urgent_pointer: 0,
            hop_limit: 64,
            dscp: 0,
            ecn: Ecn::NotCapable,
            options: TcpOptions { mss: flags.syn().then_some(1460), ..TcpOptions::NONE },
        };
        let mut frame = vec![0; 2000];
        let len = segment.emit_with(&mut frame, payload.len(), |out| out.copy_from_slice(payload)).unwrap();
        let packet = &frame[HEADER..len];
        // SAFETY: the packet is as long as is said.
        let sent = unsafe { (self.library.netdev_send)(self.library.userdata, packet.as_ptr().cast(), packet.len()) };
        assert_eq!(sent, 0);
        self.seq += payload.len() as u32 + u32::from(flags.syn()) + u32::from(flags.fin());
    }

    /// The next packet of the library's, and its payload.
    fn receive(&mut self) -> (TcpSegment, Vec<u8>) {
        let (mut packet, mut len, mut at) = ([0u8; 2000], 2000usize, 0);
        // SAFETY: there is room for as much as is said.
        let got = unsafe {
            (self.library.netdev_receive)(self.library.userdata, packet.as_mut_ptr().cast(), &raw mut len, &raw mut at)
        };
        assert!(got == 0 && len > 0 && at > 0);
        let frame = [&[2; 6][..], &[4; 6], &[8, 0], &packet[..len]].concat();
        let Ok(Parsed::Tcp(segment)) = parse(&frame, &ParseRules::default()) else { panic!("no segment: {frame:?}") };
        let payload = segment.payload(&frame).to_vec();
        self.ack = segment.seq + payload.len() as u32 + u32::from(segment.flags.syn()) + u32::from(segment.flags.fin());
        (segment, payload)
    }

    fn socket(&self) -> c_int {
        // SAFETY: the table has not been freed.
        unsafe { (self.library.socket)(self.library.userdata, libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_TCP) }
    }

    /// A socket that listens on [`LOCAL`].
    fn listen(&self) -> c_int {
        let fd = self.socket();
        let to = address::encode(LOCAL.parse().unwrap(), libc::AF_INET);
        // SAFETY: the address is as long as is said.
        let bound = unsafe { (self.library.bind)(self.library.userdata, fd, to.as_ptr().cast(), to.len() as u32) };
        // SAFETY: the table has not been freed.
        let listening = unsafe { (self.library.listen)(self.library.userdata, fd, 1) };
        assert!(fd >= 0 && bound == 0 && listening == 0);
        fd
    }

    /// The peer's handshake, and what accept() gives.
    fn accept(&mut self, listener: c_int) -> c_int {
        self.send(Flags::SYN, b"");
        let (syn_ack, _) = self.receive();
        assert_eq!((syn_ack.flags, syn_ack.options.mss), (Flags::SYN_ACK, Some(1460)));
        self.send(Flags::ACK, b"");
        let (mut from, mut len) = ([0u8; 28], 28);
        // SAFETY: there is room for as much as is said.
        let fd =
            unsafe { (self.library.accept)(self.library.userdata, listener, from.as_mut_ptr().cast(), &raw mut len) };
        assert!(fd > listener);
        assert_eq!(address::decode(&from[..len as usize]), Ok(self.ours));
        fd
    }

    fn read(&self, fd: c_int, room: &mut [u8]) -> isize {
        // SAFETY: there is room for as much as is said.
        unsafe { (self.library.read)(self.library.userdata, fd, room.as_mut_ptr().cast(), room.len()) }
    }

    fn close(&self, fd: c_int) -> c_int {
        // SAFETY: the table has not been freed.
        unsafe { (self.library.close)(self.library.userdata, fd) }
    }

    fn nonblocking(&self, fd: c_int) {
        // SAFETY: the table has not been freed.
        let set = unsafe { (self.library.fcntl)(self.library.userdata, fd, libc::F_SETFL, libc::O_NONBLOCK.into()) };
        assert_eq!(set, 0);
    }
}

impl Drop for Drill {
    fn drop(&mut self) {
        // SAFETY: once, and nobody calls afterwards.
        unsafe { (self.library.free)(self.library.userdata) }
    }
}

fn errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap()
}

#[test]
fn open_echo_close() {
    let mut drill = Drill::load(c"local=192.168.0.1");
    let listener = drill.listen();
    let fd = drill.accept(listener);
    drill.send(Flags::ACK | Flags::PSH, b"hello");
    let mut room = [0; 100];
    assert_eq!(drill.read(fd, &mut room), 5);
    assert_eq!(&room[..5], b"hello");
    let (ack, _) = drill.receive();
    assert_eq!((ack.flags, ack.ack), (Flags::ACK, drill.seq), "the first segment is acknowledged at once");
    // SAFETY: the data is as long as is said.
    let written = unsafe { (drill.library.write)(drill.library.userdata, fd, room.as_ptr().cast(), 5) };
    assert_eq!(written, 5);
    let (echo, payload) = drill.receive();
    assert_eq!((echo.flags, &payload[..]), (Flags::ACK | Flags::PSH, &b"hello"[..]));
    drill.send(Flags::ACK, b"");
    assert_eq!(drill.close(fd), 0);
    let (fin, _) = drill.receive();
    assert_eq!(fin.flags, Flags::FIN | Flags::ACK);
    drill.send(Flags::FIN | Flags::ACK, b"");
    let (last, _) = drill.receive();
    assert_eq!((last.flags, last.ack), (Flags::ACK, drill.seq));
    assert_eq!(drill.close(listener), 0);
    assert_eq!((drill.close(fd), errno()), (-1, Errno::BADF));
}

#[test]
fn a_peer_that_finishes_and_a_closed_port() {
    let mut drill = Drill::load(c"local=192.168.0.1,sack=off");
    let listener = drill.listen();
    let fd = drill.accept(listener);
    drill.nonblocking(fd);
    let mut room = [0; 100];
    assert_eq!((drill.read(fd, &mut room), errno()), (-1, Errno::AGAIN));
    drill.send(Flags::FIN | Flags::ACK, b"bye");
    drill.receive();
    assert_eq!(drill.read(fd, &mut room), 3);
    assert_eq!(drill.read(fd, &mut room), 0, "the end");
    assert_eq!(drill.close(listener), 0);
    drill.ours.set_port(40_001);
    drill.send(Flags::SYN, b"");
    let (answer, _) = drill.receive();
    assert!(answer.flags.rst(), "nobody listens any more");
}

#[test]
fn unread_octets_at_close_draw_a_reset() {
    let mut drill = Drill::load(c"local=192.168.0.1");
    let listener = drill.listen();
    let fd = drill.accept(listener);
    drill.send(Flags::ACK | Flags::PSH, b"nobody reads this");
    drill.receive();
    assert_eq!(drill.close(fd), 0);
    let (reset, _) = drill.receive();
    assert!(reset.flags.rst());
}

#[test]
fn a_blocking_read_sleeps_until_octets_come() {
    let mut drill = Drill::load(c"local=192.168.0.1");
    let listener = drill.listen();
    let fd = drill.accept(listener);
    // SAFETY: the table is freed after the thread has been joined.
    let stack: &Stack = unsafe { stack(drill.library.userdata) };
    let reader = std::thread::spawn(move || {
        let mut room = [0; 10];
        stack.read(fd, &mut room, Message::default()).map(|n| room[..n].to_vec())
    });
    std::thread::sleep(Duration::from_millis(20));
    assert!(!reader.is_finished());
    drill.send(Flags::ACK | Flags::PSH, b"late");
    assert_eq!(reader.join().unwrap(), Ok(b"late".to_vec()));
}

#[test]
fn a_connection_that_nobody_answers_is_refused() {
    let mut drill = Drill::load(c"local=192.168.0.1,timestamps=off");
    let fd = drill.socket();
    drill.nonblocking(fd);
    let to = address::encode(drill.ours, libc::AF_INET);
    // SAFETY: the address is as long as is said.
    let connected = unsafe { (drill.library.connect)(drill.library.userdata, fd, to.as_ptr().cast(), to.len() as u32) };
    assert_eq!((connected, errno()), (-1, Errno::INPROGRESS));
    let (syn, _) = drill.receive();
    assert_eq!(syn.flags, Flags::SYN);
    let stack = {
        // SAFETY: it is used before the table is freed.
        unsafe { stack(drill.library.userdata) }
    };
    let mut frame = vec![0; 200];
    let rst =
        OutSegment::reset_for(&syn, Link { source: MacAddr([2; 6]), destination: MacAddr([4; 6]), vlan: None }, 64);
    let len = rst.unwrap().emit(&mut frame, 0).unwrap();
    stack.netdev_send(&frame[HEADER..len]).unwrap();
    assert_eq!(stack.option(fd, libc::SOL_SOCKET, libc::SO_ERROR), Ok(libc::ECONNREFUSED.to_ne_bytes().to_vec()));
}
