//! getsockopt and setsockopt: the options that the engine has something for. All others are ENOPROTOOPT.

use core::time::Duration;

use rustix::io::Errno;
use syncline_engine::app::Conn;

use crate::settings::Settings;
use crate::socket::{Role, Socket};
use crate::stack::{Core, Stack};

/// Linux' default send buffer, octets.
const SEND_BUFFER: u32 = 256 << 10;
/// What Linux assumes of a peer without the option, and shows before there is one.
const MSS_DEFAULT: u16 = 536;

/// What a socket was told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) no_delay: bool,
    pub(crate) cork: bool,
    /// Octets, doubled as Linux does.
    pub(crate) send_buffer: Option<u32>,
    pub(crate) receive_buffer: Option<u32>,
    pub(crate) max_segment: Option<u16>,
    pub(crate) keep_alive: bool,
    pub(crate) keep_idle_s: Option<u32>,
    pub(crate) keep_interval_s: Option<u32>,
    pub(crate) keep_count: Option<u8>,
    pub(crate) user_timeout_ms: u32,
    pub(crate) syn_count: Option<u8>,
    pub(crate) reuse_address: bool,
    /// Whether close() waits for what is queued, or throws it away, and the seconds.
    pub(crate) linger: Option<u32>,
}

impl Options {
    /// Puts into the engine's configuration what was told before there was an engine.
    pub(crate) fn configure(&self, settings: &mut Settings) {
        let tcp = &mut settings.tcp;
        if let Some(bytes) = self.receive_buffer {
            // half of it is overhead by Linux' reckoning
            tcp.receive_window = (bytes / 2).max(4096);
        }
        if let Some(mss) = self.max_segment {
            settings.mtu = settings.mtu.min(mss + 40);
        }
        if self.keep_alive {
            tcp.keepalive = Some(Duration::from_secs(self.keep_idle_s.unwrap_or(7200).into()));
        }
        if let Some(seconds) = self.keep_interval_s {
            tcp.keepalive_interval = Duration::from_secs(seconds.into());
        }
        if let Some(count) = self.keep_count {
            tcp.keepalive_probes = count;
        }
        tcp.user_timeout = self.user_timeout();
        if let Some(count) = self.syn_count {
            tcp.syn_retries = count;
        }
    }

    /// Tells a connection what can be told to one.
    pub(crate) fn apply(&self, conn: &mut Conn<'_>, nagle: bool) {
        conn.set_nagle(nagle && !self.no_delay);
        conn.set_cork(self.cork);
    }

    fn user_timeout(&self) -> Option<Duration> {
        Some(Duration::from_millis(self.user_timeout_ms.into())).filter(|limit| !limit.is_zero())
    }

    /// Octets that may wait to be acknowledged.
    pub(crate) fn send_limit(&self) -> u32 {
        self.send_buffer.unwrap_or(SEND_BUFFER)
    }
}

/// An int that a call was given.
fn int(value: &[u8]) -> Result<i32, Errno> {
    Ok(i32::from_ne_bytes(value.get(..4).ok_or(Errno::INVAL)?.try_into().map_err(|_| Errno::INVAL)?))
}

fn within<T: TryFrom<i32>>(value: i32, least: i32) -> Result<T, Errno> {
    if value < least {
        return Err(Errno::INVAL);
    }
    T::try_from(value).map_err(|_| Errno::INVAL)
}

/// Whether the engine's configuration, which is fixed once there is a connection, holds this option.
fn fixed(level: i32, name: i32) -> bool {
    match level {
        libc::SOL_SOCKET => name == libc::SO_KEEPALIVE,
        _ => matches!(
            name,
            libc::TCP_MAXSEG | libc::TCP_KEEPIDLE | libc::TCP_KEEPINTVL | libc::TCP_KEEPCNT | libc::TCP_SYNCNT
        ),
    }
}

fn set(options: &mut Options, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
    let number = int(value)?;
    match (level, name) {
        (libc::SOL_SOCKET, libc::SO_REUSEADDR) => options.reuse_address = number != 0,
        (libc::SOL_SOCKET, libc::SO_SNDBUF) => {
            options.send_buffer = Some(within::<u32>(number, 0)?.saturating_mul(2).clamp(4608, 8 << 20));
        }
        (libc::SOL_SOCKET, libc::SO_RCVBUF) => {
            options.receive_buffer = Some(within::<u32>(number, 0)?.saturating_mul(2).clamp(2304, 1 << 30));
        }
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE) => options.keep_alive = number != 0,
        (libc::SOL_SOCKET, libc::SO_LINGER) => {
            let seconds = int(value.get(4..).ok_or(Errno::INVAL)?)?;
            options.linger = if number == 0 { None } else { Some(within(seconds, 0)?) };
        }
        (libc::IPPROTO_TCP, libc::TCP_NODELAY) => options.no_delay = number != 0,
        (libc::IPPROTO_TCP, libc::TCP_CORK) => options.cork = number != 0,
        (libc::IPPROTO_TCP, libc::TCP_MAXSEG) => {
            options.max_segment = Some(within::<u16>(number, 88)?);
        }
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE) => options.keep_idle_s = Some(within(number, 1)?),
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL) => options.keep_interval_s = Some(within(number, 1)?),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT) => options.keep_count = Some(within(number, 1)?),
        (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT) => options.user_timeout_ms = within(number, 0)?,
        (libc::IPPROTO_TCP, libc::TCP_SYNCNT) => options.syn_count = Some(within(number, 1)?),
        _ => return Err(Errno::NOPROTOOPT),
    }
    Ok(())
}

/// The octets of an option's value.
fn get(core: &mut Core, fd: i32, level: i32, name: i32) -> Result<Vec<u8>, Errno> {
    let mss = segment_size(core, fd)?;
    let socket = core.sockets().by_fd(fd)?;
    let number = match (level, name) {
        (libc::SOL_SOCKET, libc::SO_ERROR) => socket.error.take().map_or(0, Errno::raw_os_error),
        (libc::SOL_SOCKET, libc::SO_REUSEADDR) => socket.options.reuse_address.into(),
        (libc::SOL_SOCKET, libc::SO_SNDBUF) => socket.options.send_limit() as i32,
        (libc::SOL_SOCKET, libc::SO_RCVBUF) => socket.options.receive_buffer.unwrap_or(540_000) as i32,
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE) => socket.options.keep_alive.into(),
        (libc::SOL_SOCKET, libc::SO_TYPE) => libc::SOCK_STREAM,
        (libc::SOL_SOCKET, libc::SO_LINGER) => {
            let (on, seconds) = (i32::from(socket.options.linger.is_some()), socket.options.linger.unwrap_or(0));
            return Ok([on.to_ne_bytes(), (seconds as i32).to_ne_bytes()].concat());
        }
        (libc::IPPROTO_TCP, libc::TCP_NODELAY) => socket.options.no_delay.into(),
        (libc::IPPROTO_TCP, libc::TCP_CORK) => socket.options.cork.into(),
        (libc::IPPROTO_TCP, libc::TCP_MAXSEG) => mss.into(),
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE) => socket.options.keep_idle_s.unwrap_or(7200) as i32,
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL) => socket.options.keep_interval_s.unwrap_or(75) as i32,
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT) => socket.options.keep_count.unwrap_or(9).into(),
        (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT) => socket.options.user_timeout_ms as i32,
        (libc::IPPROTO_TCP, libc::TCP_SYNCNT) => socket.options.syn_count.unwrap_or(6).into(),
        _ => return Err(Errno::NOPROTOOPT),
    };
    Ok(number.to_ne_bytes().to_vec())
}

/// The largest payload of a connection's segments; before there is one, what was asked for.
fn segment_size(core: &mut Core, fd: i32) -> Result<u16, Errno> {
    let (sockets, net) = core.sockets_and_net();
    let socket: &mut Socket = sockets.by_fd(fd)?;
    let asked = socket.options.max_segment;
    if let (Role::Connection(link), Some(mut net)) = (&socket.role, net)
        && let Some(conn) = link.id.and_then(|id| net.conn(id))
        && link.open
    {
        return Ok(conn.payload_max());
    }
    Ok(asked.unwrap_or(MSS_DEFAULT))
}

/// Tells a socket's connection, if there is one.
fn tell(core: &mut Core, fd: i32, options: &Options) {
    let nagle = core.sockets().nagle();
    let (sockets, net) = core.sockets_and_net();
    if let (Ok(Socket { role: Role::Connection(link), .. }), Some(mut net)) = (sockets.by_fd(fd), net)
        && let Some(mut conn) = link.id.and_then(|id| net.conn(id))
    {
        options.apply(&mut conn, nagle);
    }
}

impl Stack {
    /// setsockopt().
    ///
    /// # Errors
    /// ENOPROTOOPT for an option that the engine has nothing for, or has only before the first connection.
    pub fn set_option(&self, fd: i32, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
        self.with(|core| {
            let running = core.running();
            let socket = core.sockets().by_fd(fd)?;
            let mut options = socket.options.clone();
            set(&mut options, level, name, value)?;
            if running && fixed(level, name) {
                return Err(Errno::NOPROTOOPT);
            }
            if options.no_delay && level == libc::IPPROTO_TCP && name == libc::TCP_NODELAY {
                // Linux: what waits goes now, even if a cork holds it
                tell(core, fd, &Options { cork: false, ..options.clone() });
                core.settle();
            }
            tell(core, fd, &options);
            if let (libc::TCP_USER_TIMEOUT, (_, Some(mut net))) = (name, core.sockets_and_net()) {
                // the engine knows one for all connections, and a script has one connection
                net.set_user_timeout(options.user_timeout());
            }
            core.sockets().by_fd(fd)?.options = options;
            Ok(())
        })
    }

    /// getsockopt(): the octets of the option's value.
    ///
    /// # Errors
    /// ENOPROTOOPT for an option that the engine has nothing for.
    pub fn option(&self, fd: i32, level: i32, name: i32) -> Result<Vec<u8>, Errno> {
        self.with(|core| get(core, fd, level, name))
    }
}
