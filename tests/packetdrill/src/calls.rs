//! The calls of BSD sockets, blocking and not.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use syncline_engine::app::{Conn, Endpoints, Net};
use syncline_engine::config::Listener;
use syncline_engine::tcp::State;

use crate::socket::{Link, Role, Socket};
use crate::stack::{Core, Stack};

/// Flags of fcntl's F_GETFL that every socket has.
const READ_WRITE: i32 = libc::O_RDWR;
/// Ports that a bind to port 0 chooses from.
const EPHEMERAL: std::ops::RangeInclusive<u16> = 49_152..=65_535;

/// Which direction shutdown() ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct How {
    /// The peer's octets are not wanted any more.
    pub read: bool,
    /// A FIN follows what is queued.
    pub write: bool,
}

/// Flags of send() and recv() that mean something here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// MSG_DONTWAIT.
    pub dont_wait: bool,
    /// MSG_PEEK.
    pub peek: bool,
    /// MSG_WAITALL.
    pub wait_all: bool,
    /// MSG_MORE.
    pub more: bool,
}

/// Runs `action` on a socket, its link and, if it lives, its connection.
fn connected<T>(core: &mut Core, fd: i32, action: impl FnOnce(&mut Link, Option<Conn<'_>>) -> T) -> Result<T, Errno> {
    let (sockets, net) = core.sockets_and_net();
    let link = sockets.by_fd(fd)?.link().ok_or(Errno::NOTCONN)?;
    let id = link.id;
    match net {
        Some(mut net) => Ok(action(link, id.and_then(|id| Net::conn(&mut net, id)))),
        None => Ok(action(link, None)),
    }
}

impl Stack {
    /// socket(): a file descriptor.
    ///
    /// # Errors
    /// EAFNOSUPPORT, EPROTONOSUPPORT for what is not TCP over IP; EMFILE and the like.
    pub fn socket(&self, domain: i32, kind: i32, protocol: i32) -> Result<i32, Errno> {
        if !matches!(domain, libc::AF_INET | libc::AF_INET6) {
            return Err(Errno::AFNOSUPPORT);
        }
        let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        if kind & !flags != libc::SOCK_STREAM || !matches!(protocol, 0 | libc::IPPROTO_TCP) {
            return Err(Errno::PROTONOSUPPORT);
        }
        let fd = eventfd(0, EventfdFlags::CLOEXEC)?;
        Ok(self.with(|core| core.sockets().open(fd, domain, kind & libc::SOCK_NONBLOCK != 0)))
    }

    /// bind().
    ///
    /// # Errors
    /// EINVAL if it is bound already, EADDRINUSE if the port has a listener.
    pub fn bind(&self, fd: i32, mut address: SocketAddr) -> Result<(), Errno> {
        self.with(|core| {
            let sockets = core.sockets();
            if sockets.listens_on(address.port()) && !sockets.by_fd(fd)?.options.reuse_address {
                return Err(Errno::ADDRINUSE);
            }
            if address.port() == 0 {
                let free = EPHEMERAL.clone().find(|&port| !sockets.listens_on(port));
                address.set_port(free.ok_or(Errno::ADDRINUSE)?);
            }
            let socket = sockets.by_fd(fd)?;
            if socket.bound.is_some() || !matches!(socket.role, Role::Fresh) {
                return Err(Errno::INVAL);
            }
            socket.bound = Some(address);
            Ok(())
        })
    }

    /// listen().
    ///
    /// # Errors
    /// EADDRINUSE if somebody listens on the port, EINVAL on a connection.
    pub fn listen(&self, fd: i32, backlog: i32) -> Result<(), Errno> {
        self.with(|core| {
            let socket = core.sockets().by_fd(fd)?;
            let backlog = backlog.max(0) as usize;
            match &mut socket.role {
                Role::Listening { backlog: old, .. } => {
                    *old = backlog;
                    return Ok(());
                }
                Role::Connection(_) => return Err(Errno::INVAL),
                Role::Fresh => {}
            }
            let bound = socket.bound.ok_or(Errno::INVAL)?;
            let cookies = core.start(specific(bound.ip()))?;
            let (sockets, net) = core.sockets_and_net();
            let ports = Listener { first_port: bound.port(), last_port: bound.port(), syn_cookies: cookies };
            let listener = net.and_then(|mut net| net.listen(ports)).ok_or(Errno::ADDRINUSE)?;
            sockets.by_fd(fd)?.role = Role::Listening { listener, queue: VecDeque::new(), backlog };
            Ok(())
        })
    }

    /// accept(): the new file descriptor and who connected.
    ///
    /// # Errors
    /// EAGAIN on a non-blocking socket, EINVAL on one that does not listen.
    pub fn accept(&self, fd: i32, nonblocking: bool) -> Result<(i32, SocketAddr, i32), Errno> {
        self.block(fd, false, |core| {
            let sockets = core.sockets();
            let index = match &mut sockets.by_fd(fd)?.role {
                Role::Listening { queue, .. } => queue.pop_front().ok_or(Errno::AGAIN)?,
                _ => return Err(Errno::INVAL),
            };
            let new = eventfd(0, EventfdFlags::CLOEXEC)?;
            let raw = sockets.give_fd(index, new);
            let socket = sockets.by_fd(raw)?;
            socket.nonblocking = nonblocking;
            let domain = socket.domain;
            let endpoints = socket.link().and_then(|link| link.endpoints).ok_or(Errno::INVAL)?;
            Ok((raw, endpoints.remote, domain))
        })
    }

    /// connect().
    ///
    /// # Errors
    /// EINPROGRESS on a non-blocking socket; ECONNREFUSED, ETIMEDOUT and the like for how the attempt ended.
    pub fn connect(&self, fd: i32, remote: SocketAddr) -> Result<(), Errno> {
        let nonblocking = self.with(|core| {
            let socket = core.sockets().by_fd(fd)?;
            let nonblocking = socket.nonblocking;
            let bound = socket.bound;
            match &mut socket.role {
                Role::Fresh => {}
                Role::Listening { .. } => return Err(Errno::ISCONN),
                Role::Connection(link) if link.open && link.id.is_some() => return Err(Errno::ISCONN),
                Role::Connection(link) if link.id.is_some() => return Err(Errno::ALREADY),
                Role::Connection(_) => {
                    socket.take_error()?;
                    return Err(Errno::CONNABORTED);
                }
            }
            core.start(bound.and_then(|bound| specific(bound.ip())))?;
            let index = core.sockets().index(fd)?;
            let (sockets, net) = core.sockets_and_net();
            let mut net = net.ok_or(Errno::NETUNREACH)?;
            let id = net.connect(remote, index as u64 + 1).map_err(|_| Errno::ADDRNOTAVAIL)?;
            let unknown = Endpoints { local: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0), remote };
            let endpoints = net.conn(id).map_or(unknown, |conn| conn.endpoints());
            sockets.connecting(index, id, endpoints);
            Ok(nonblocking)
        })?;
        if nonblocking {
            // it may have failed at once
            self.with(|core| core.sockets().by_fd(fd)?.take_error())?;
            return Err(Errno::INPROGRESS);
        }
        self.block(fd, false, |core| {
            let socket = core.sockets().by_fd(fd)?;
            socket.take_error()?;
            match socket.link() {
                Some(link) if link.open => Ok(()),
                Some(link) if link.id.is_some() => Err(Errno::AGAIN),
                _ => Err(Errno::CONNABORTED),
            }
        })
    }

    /// Tries `attempt` until it says something else than EAGAIN; only once on a non-blocking socket.
    fn block<T>(
        &self,
        fd: i32,
        dont_wait: bool,
        mut attempt: impl FnMut(&mut Core) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let result = self.wait(None, |core| {
            let nonblocking = match core.sockets().by_fd(fd) {
                Ok(socket) => socket.nonblocking,
                Err(error) => return Some(Err(error)),
            };
            match attempt(core) {
                Err(Errno::AGAIN) if !nonblocking && !dont_wait => None,
                result => Some(result),
            }
        });
        result.unwrap_or(Err(Errno::AGAIN))
    }

    /// read(), recv() and their kin: how many octets came, 0 after the peer's FIN.
    ///
    /// # Errors
    /// EAGAIN on a non-blocking socket, ENOTCONN, or how the connection ended.
    pub fn read(&self, fd: i32, out: &mut [u8], flags: Message) -> Result<usize, Errno> {
        let mut done = 0;
        let all = flags.wait_all && !flags.peek;
        let result = self.block(fd, flags.dont_wait, |core| {
            done += fetch(core, fd, &mut out[done..], flags.peek)?;
            if done == out.len() || done > 0 && !all {
                return Ok(done);
            }
            let socket = core.sockets().by_fd(fd)?;
            if !matches!(socket.role, Role::Connection(_)) {
                return Err(Errno::NOTCONN);
            }
            socket.take_error()?;
            match socket.link() {
                Some(link) if link.finished || link.read_shut || link.end.is_some() => Ok(done),
                _ => Err(Errno::AGAIN),
            }
        });
        if done > 0 { Ok(done) } else { result }
    }

    /// write(), send() and their kin: how many octets were queued.
    ///
    /// # Errors
    /// EPIPE after shutdown() or the end, EAGAIN on a non-blocking socket, or how the connection ended.
    pub fn write(&self, fd: i32, data: &[u8], flags: Message) -> Result<usize, Errno> {
        let mut done = 0;
        let result = self.block(fd, flags.dont_wait, |core| {
            let socket = core.sockets().by_fd(fd)?;
            socket.take_error()?;
            let (limit, corked) = (socket.options.send_limit(), socket.options.cork);
            let (open, over) = match &socket.role {
                Role::Connection(link) => (link.open, link.write_shut || link.id.is_none()),
                _ => (false, true),
            };
            if over {
                return Err(Errno::PIPE);
            }
            if !open {
                return Err(Errno::AGAIN);
            }
            let now = core.now();
            done += connected(core, fd, |link, conn| {
                let Some(mut conn) = conn else { return 0 };
                link.converses(now);
                link.more = flags.more && !corked;
                conn.set_cork(corked || flags.more);
                let room = limit.saturating_sub(conn.queued()) as usize;
                conn.write(&data[done..data.len().min(done + room)])
            })?;
            if done == data.len() { Ok(done) } else { Err(Errno::AGAIN) }
        });
        if done > 0 { Ok(done) } else { result }
    }

    /// shutdown().
    ///
    /// # Errors
    /// ENOTCONN without a connection.
    pub fn shutdown(&self, fd: i32, how: How) -> Result<(), Errno> {
        self.with(|core| {
            let (sockets, net) = core.sockets_and_net();
            let socket = sockets.by_fd(fd)?;
            match &mut socket.role {
                Role::Listening { .. } if how.read => {
                    stop_listening(core, fd);
                    return Ok(());
                }
                Role::Connection(link) if link.id.is_some() => {
                    link.read_shut |= how.read;
                    if how.write && !link.write_shut {
                        link.write_shut = true;
                        if let (Some(mut net), Some(id)) = (net, link.id)
                            && let Some(mut conn) = net.conn(id)
                        {
                            conn.close();
                        }
                    }
                    return Ok(());
                }
                _ => {}
            }
            Err(Errno::NOTCONN)
        })
    }

    /// close(). With SO_LINGER it waits until the peer has acknowledged everything, or resets.
    ///
    /// # Errors
    /// EBADF.
    pub fn close(&self, fd: i32) -> Result<(), Errno> {
        let linger = self.with(|core| {
            stop_listening(core, fd);
            let linger = core.sockets().by_fd(fd)?.options.linger;
            let _ = connected(core, fd, |link, conn| {
                let Some(mut conn) = conn else { return };
                // RFC 1122 §4.2.2.13: who has not read everything resets
                if conn.unread() > 0 || !link.inbox.is_empty() || linger == Some(0) {
                    conn.abort();
                } else {
                    conn.close();
                }
            });
            Ok(linger)
        })?;
        if let Some(seconds) = linger.filter(|&seconds| seconds > 0) {
            let patience = Duration::from_secs(seconds.into());
            self.wait(Some(patience), |core| {
                let flushed =
                    |conn: Conn<'_>| matches!(conn.state(), State::FinWait2 | State::TimeWait | State::Closed);
                connected(core, fd, |_, conn| conn.is_none_or(flushed)).unwrap_or(true).then_some(())
            });
        }
        self.with(|core| core.sockets().close(fd));
        Ok(())
    }

    /// fcntl() with F_GETFL, F_SETFL, F_GETFD, F_SETFD.
    ///
    /// # Errors
    /// EINVAL for other commands.
    pub fn control(&self, fd: i32, command: i32, argument: i64) -> Result<i32, Errno> {
        self.with(|core| {
            let socket = core.sockets().by_fd(fd)?;
            match command {
                libc::F_GETFL => Ok(READ_WRITE | if socket.nonblocking { libc::O_NONBLOCK } else { 0 }),
                libc::F_SETFL => {
                    socket.nonblocking = argument & i64::from(libc::O_NONBLOCK) != 0;
                    Ok(0)
                }
                libc::F_GETFD | libc::F_SETFD => Ok(0),
                _ => Err(Errno::INVAL),
            }
        })
    }

    /// Octets that may be read: ioctl SIOCINQ.
    ///
    /// # Errors
    /// EINVAL on a listener.
    pub fn unread(&self, fd: i32) -> Result<usize, Errno> {
        self.with(|core| match &core.sockets().by_fd(fd)?.role {
            Role::Listening { .. } => Err(Errno::INVAL),
            Role::Fresh => Ok(0),
            Role::Connection(link) => Ok(link.available()),
        })
    }

    /// Octets that the peer has not acknowledged: ioctl SIOCOUTQ.
    ///
    /// # Errors
    /// EINVAL on a listener.
    pub fn unacknowledged(&self, fd: i32) -> Result<usize, Errno> {
        self.with(|core| {
            if matches!(core.sockets().by_fd(fd)?.role, Role::Listening { .. }) {
                return Err(Errno::INVAL);
            }
            Ok(connected(core, fd, |_, conn| conn.map_or(0, |conn| conn.queued() as usize)).unwrap_or(0))
        })
    }

    /// poll(): what is true of each descriptor, of `(fd, events)`.
    pub fn poll(&self, asked: &[(i32, i16)], patience: Option<Duration>) -> Vec<i16> {
        let look = |core: &mut Core| -> Vec<i16> {
            let always = libc::POLLERR | libc::POLLHUP | libc::POLLNVAL;
            let of = |&(fd, events): &(i32, i16)| if fd < 0 { 0 } else { ready(core, fd) & (events | always) };
            asked.iter().map(of).collect()
        };
        let some = self.wait(patience, |core| Some(look(core)).filter(|found| found.iter().any(|&events| events != 0)));
        some.unwrap_or_else(|| vec![0; asked.len()])
    }
}

/// An address that is more than "any".
fn specific(address: IpAddr) -> Option<IpAddr> {
    Some(address).filter(|address| !address.is_unspecified())
}

/// Moves octets from the engine to `out`. Zero if there are none.
fn fetch(core: &mut Core, fd: i32, out: &mut [u8], peek: bool) -> Result<usize, Errno> {
    let len = out.len();
    if core.sockets().by_fd(fd)?.link().is_none() {
        return Ok(0);
    }
    connected(core, fd, |link, conn| {
        link.wanted = len;
        if let Some(mut conn) = conn {
            conn.resume();
        }
    })?;
    core.settle();
    connected(core, fd, |link, conn| {
        link.wanted = 0;
        let n = len.min(link.inbox.len());
        for (to, &from) in out.iter_mut().zip(link.inbox.iter()) {
            *to = from;
        }
        if !peek {
            link.inbox.drain(..n);
        }
        if let Some(mut conn) = conn
            && n > 0
            && conn.unread() == 0
            && link.in_a_hurry()
        {
            // all has been read: the peer may as well hear of it, unless an answer is likely to carry it
            conn.acknowledge();
        }
        n
    })
}

/// A listener ends, and with it the connections that nobody has accepted.
fn stop_listening(core: &mut Core, fd: i32) {
    let (sockets, net) = core.sockets_and_net();
    let Ok(socket) = sockets.by_fd(fd) else { return };
    let Role::Listening { listener, queue, .. } = &mut socket.role else { return };
    let (listener, queue) = (*listener, core::mem::take(queue));
    socket.role = Role::Fresh;
    let Some(mut net) = net else { return };
    net.stop_listening(listener);
    for index in queue {
        let id = sockets.get(index).and_then(Socket::link).and_then(|link| link.id);
        if let Some(mut conn) = id.and_then(|id| net.conn(id)) {
            conn.abort();
        }
        sockets.orphan(index);
    }
}

/// Events of poll() that are true of a descriptor.
fn ready(core: &mut Core, fd: i32) -> i16 {
    let (sockets, net) = core.sockets_and_net();
    let Ok(socket) = sockets.by_fd(fd) else { return libc::POLLNVAL };
    let mut events = if socket.error.is_some() { libc::POLLERR } else { 0 };
    let limit = socket.options.send_limit();
    match &socket.role {
        Role::Fresh => events |= libc::POLLOUT | libc::POLLHUP,
        Role::Listening { queue, .. } if queue.is_empty() => {}
        Role::Listening { .. } => events |= libc::POLLIN | libc::POLLRDNORM,
        Role::Connection(link) => {
            if link.readable() {
                events |= libc::POLLIN | libc::POLLRDNORM;
            }
            let finished = link.finished || link.read_shut || link.end.is_some();
            if finished {
                events |= libc::POLLRDHUP;
            }
            if link.end.is_some() || finished && link.write_shut {
                events |= libc::POLLHUP;
            }
            let queued = net.and_then(|mut net| Some(net.conn(link.id?)?.queued())).unwrap_or(0);
            if link.end.is_some() || link.open && (link.write_shut || queued < limit / 3 * 2) {
                events |= libc::POLLOUT | libc::POLLWRNORM;
            }
        }
    }
    events
}
