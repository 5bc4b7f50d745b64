//! The interface that packetdrill loads: `packetdrill_interface_init`, and a table of functions in C's calling
//! convention (`struct packetdrill_interface`, 33 pointers). The one file with unsafe code: each function checks its
//! pointers for NULL, makes slices of them and calls the [`Stack`].
//!
//! What every function relies on, as the SAFETY comments say by "C's contract": `userdata` is what
//! [`packetdrill_interface_init`] put into the table and not freed yet; other pointers are NULL or point to as much
//! memory as the call of that name in POSIX says, which nobody else writes to meanwhile.

use core::ffi::{CStr, c_char, c_int, c_long, c_longlong, c_uint, c_ulong, c_void};
use std::time::Duration;

use libc::{epoll_event, iovec, loff_t, msghdr, nfds_t, pollfd, sockaddr, socklen_t, timeval};
use rustix::io::Errno;

use crate::{How, Message, Settings, Stack, address};

/// How long `netdev_receive` waits for a packet before it says that there is none.
const RECEIVE_PATIENCE: Duration = Duration::from_secs(120);
/// ioctl SIOCOUTQ of Linux (TIOCOUTQ).
const SIOCOUTQ: c_ulong = libc::TIOCOUTQ as c_ulong;
/// ioctl SIOCINQ of Linux (FIONREAD).
const SIOCINQ: c_ulong = libc::FIONREAD as c_ulong;
/// ioctl FIONBIO.
const FIONBIO: c_ulong = libc::FIONBIO as c_ulong;
/// Buffers of one readv or writev (IOV_MAX).
const BUFFERS_MAX: usize = 1024;

type Data = *mut c_void;

/// `struct packetdrill_interface`: the user data and 32 functions that take it first.
#[repr(C)]
#[allow(missing_docs)]
pub struct Interface {
    pub userdata: Data,
    pub free: unsafe extern "C" fn(Data),
    pub socket: unsafe extern "C" fn(Data, c_int, c_int, c_int) -> c_int,
    pub bind: unsafe extern "C" fn(Data, c_int, *const sockaddr, socklen_t) -> c_int,
    pub listen: unsafe extern "C" fn(Data, c_int, c_int) -> c_int,
    pub accept: unsafe extern "C" fn(Data, c_int, *mut sockaddr, *mut socklen_t) -> c_int,
    pub connect: unsafe extern "C" fn(Data, c_int, *const sockaddr, socklen_t) -> c_int,
    pub read: unsafe extern "C" fn(Data, c_int, *mut c_void, usize) -> isize,
    pub readv: unsafe extern "C" fn(Data, c_int, *const iovec, c_int) -> isize,
    pub recv: unsafe extern "C" fn(Data, c_int, *mut c_void, usize, c_int) -> isize,
    pub recvfrom: unsafe extern "C" fn(Data, c_int, *mut c_void, usize, c_int, *mut sockaddr, *mut socklen_t) -> isize,
    pub recvmsg: unsafe extern "C" fn(Data, c_int, *mut msghdr, c_int) -> isize,
    pub write: unsafe extern "C" fn(Data, c_int, *const c_void, usize) -> isize,
    pub writev: unsafe extern "C" fn(Data, c_int, *const iovec, c_int) -> isize,
    pub send: unsafe extern "C" fn(Data, c_int, *const c_void, usize, c_int) -> isize,
    pub sendto: unsafe extern "C" fn(Data, c_int, *const c_void, usize, c_int, *const sockaddr, socklen_t) -> isize,
    pub sendmsg: unsafe extern "C" fn(Data, c_int, *const msghdr, c_int) -> isize,
    /// Variadic in C: on x86-64 and aarch64 Linux the argument is passed as if it were not.
    pub fcntl: unsafe extern "C" fn(Data, c_int, c_int, c_long) -> c_int,
    /// Variadic in C, as above.
    pub ioctl: unsafe extern "C" fn(Data, c_int, c_ulong, *mut c_int) -> c_int,
    pub close: unsafe extern "C" fn(Data, c_int) -> c_int,
    pub shutdown: unsafe extern "C" fn(Data, c_int, c_int) -> c_int,
    pub getsockopt: unsafe extern "C" fn(Data, c_int, c_int, c_int, *mut c_void, *mut socklen_t) -> c_int,
    pub setsockopt: unsafe extern "C" fn(Data, c_int, c_int, c_int, *const c_void, socklen_t) -> c_int,
    pub poll: unsafe extern "C" fn(Data, *mut pollfd, nfds_t, c_int) -> c_int,
    pub netdev_send: unsafe extern "C" fn(Data, *const c_void, usize) -> c_int,
    pub netdev_receive: unsafe extern "C" fn(Data, *mut c_void, *mut usize, *mut c_longlong) -> c_int,
    pub usleep: extern "C" fn(Data, c_uint) -> c_int,
    pub gettimeofday: unsafe extern "C" fn(Data, *mut timeval, *mut c_void) -> c_int,
    pub epoll_create: extern "C" fn(Data, c_int) -> c_int,
    pub epoll_ctl: extern "C" fn(Data, c_int, c_int, c_int, *mut epoll_event) -> c_int,
    pub epoll_wait: extern "C" fn(Data, c_int, *mut epoll_event, c_int, c_int) -> c_int,
    pub pipe: extern "C" fn(Data, *mut c_int) -> c_int,
    pub splice: extern "C" fn(Data, c_int, *mut loff_t, c_int, *mut loff_t, usize, c_uint) -> isize,
}

const _: () = assert!(size_of::<Interface>() == 33 * size_of::<usize>());

/// Fills `out` with a stack that is configured by `flags` (see [`Settings`]). If that fails it says why on standard
/// error and ends the process: packetdrill has no other way to be told.
///
/// # Safety
/// `flags` is NULL or a string that ends in NUL; `out` points to room for an [`Interface`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn packetdrill_interface_init(flags: *const c_char, out: *mut Interface) {
    let flags = if flags.is_null() {
        String::new()
    } else {
        // SAFETY: not NULL, so a string that ends in NUL, by this function's contract.
        unsafe { CStr::from_ptr(flags) }.to_string_lossy().into_owned()
    };
    let stack = flags
        .parse::<Settings>()
        .and_then(|settings| Stack::new(settings).map_err(|error| format!("no thread for the stack: {error}")));
    let stack = match stack {
        Ok(stack) => Box::into_raw(Box::new(stack)).cast(),
        Err(error) => {
            eprintln!("syncline: {error}");
            std::process::exit(2);
        }
    };
    let interface = Interface {
        userdata: stack,
        free,
        socket,
        bind,
        listen,
        accept,
        connect,
        read,
        readv,
        recv,
        recvfrom,
        recvmsg,
        write,
        writev,
        send,
        sendto,
        sendmsg,
        fcntl,
        ioctl,
        close,
        shutdown,
        getsockopt,
        setsockopt,
        poll,
        netdev_send,
        netdev_receive,
        usleep,
        gettimeofday,
        epoll_create,
        epoll_ctl,
        epoll_wait,
        pipe,
        splice,
    };
    // SAFETY: there is room for an `Interface` at `out`, by this function's contract.
    unsafe { out.write(interface) }
}

// ---- from C and back

/// The stack behind `userdata`.
///
/// # Safety
/// `userdata` is that of an [`Interface`] whose `free` has not been called.
unsafe fn stack<'a>(userdata: Data) -> &'a Stack {
    // SAFETY: it came from `Box::into_raw` of a `Stack`, which only `free` takes back.
    unsafe { &*userdata.cast::<Stack>() }
}

/// `len` octets at `from`.
///
/// # Safety
/// `from` is NULL or points to `len` octets that may be read for as long as the slice is used.
unsafe fn octets<'a>(from: *const c_void, len: usize) -> Result<&'a [u8], Errno> {
    if from.is_null() {
        return if len == 0 { Ok(&[]) } else { Err(Errno::FAULT) };
    }
    // SAFETY: not NULL, so readable for `len` octets, by this function's contract.
    Ok(unsafe { core::slice::from_raw_parts(from.cast(), len) })
}

/// Copies `from` to `to`.
///
/// # Safety
/// `to` is NULL or points to at least as many octets that may be written.
unsafe fn put(from: &[u8], to: *mut c_void) -> Result<(), Errno> {
    if to.is_null() {
        return if from.is_empty() { Ok(()) } else { Err(Errno::FAULT) };
    }
    // SAFETY: not NULL, so writable for as many octets, by this function's contract; ours do not overlap C's.
    unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), to.cast(), from.len()) }
    Ok(())
}

/// A value at `from`.
///
/// # Safety
/// `from` is NULL or points to a `T` that may be read.
unsafe fn value<T: Copy>(from: *const T) -> Result<T, Errno> {
    if from.is_null() {
        return Err(Errno::FAULT);
    }
    // SAFETY: not NULL, so a `T`, by this function's contract.
    Ok(unsafe { from.read_unaligned() })
}

/// Puts a value to `to`, if that is not NULL.
///
/// # Safety
/// `to` is NULL or points to room for a `T`.
unsafe fn set<T>(to: *mut T, value: T) {
    if !to.is_null() {
        // SAFETY: not NULL, so room for a `T`, by this function's contract.
        unsafe { to.write_unaligned(value) }
    }
}

/// What C returns: the number, or -1 with errno.
fn answer<T: TryFrom<i64> + From<i8>>(result: Result<i64, Errno>) -> T {
    let error = match result.map(T::try_from) {
        Ok(Ok(value)) => return value,
        Ok(Err(_)) => Errno::OVERFLOW,
        Err(error) => error,
    };
    // SAFETY: has no precondition; the place is this thread's own for as long as the thread lives.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: the place holds an int.
    unsafe { place.write(error.raw_os_error()) }
    T::from(-1)
}

/// The buffers of a scattered read or write.
///
/// # Safety
/// `buffers` is NULL or points to `count` iovecs.
unsafe fn buffers<'a>(buffers: *const iovec, count: usize) -> Result<&'a [iovec], Errno> {
    if count > BUFFERS_MAX {
        return Err(Errno::INVAL);
    }
    if buffers.is_null() {
        return if count == 0 { Ok(&[]) } else { Err(Errno::FAULT) };
    }
    // SAFETY: not NULL, so `count` iovecs, by this function's contract.
    Ok(unsafe { core::slice::from_raw_parts(buffers, count) })
}

/// What lies in the buffers, in one piece.
///
/// # Safety
/// Each buffer's base is NULL or points to as many octets as its length says, which may be read.
unsafe fn gather(buffers: &[iovec]) -> Result<Vec<u8>, Errno> {
    let mut all = Vec::new();
    for buffer in buffers {
        // SAFETY: the buffer is NULL or readable for its length, by this function's contract.
        all.extend(unsafe { octets(buffer.iov_base, buffer.iov_len) }?);
    }
    Ok(all)
}

/// Spreads octets over the buffers.
///
/// # Safety
/// Each buffer's base is NULL or points to as many octets as its length says, which may be written.
unsafe fn scatter(mut from: &[u8], buffers: &[iovec]) -> Result<(), Errno> {
    for buffer in buffers {
        let (piece, rest) = from.split_at(buffer.iov_len.min(from.len()));
        // SAFETY: the buffer is NULL or writable for its length, of which the piece is no more.
        unsafe { put(piece, buffer.iov_base) }?;
        from = rest;
    }
    Ok(())
}

/// Hands an address out, as much of it as there is room for.
///
/// # Safety
/// `len` is NULL or points to the room at `to`, which is NULL or points to so much.
unsafe fn put_address(address: &[u8], to: *mut sockaddr, len: *mut socklen_t) -> Result<(), Errno> {
    if to.is_null() {
        return Ok(());
    }
    // SAFETY: NULL or an int, by this function's contract.
    let room = unsafe { value(len) }?;
    // SAFETY: there is room for so much, by this function's contract.
    unsafe { put(&address[..address.len().min(room as usize)], to.cast()) }?;
    // SAFETY: it was read from.
    unsafe { set(len, address.len() as socklen_t) };
    Ok(())
}

/// Reads into a buffer of ours and hands that out: C's may not be initialised.
fn read_into(stack: &Stack, fd: c_int, len: usize, flags: c_int) -> Result<Vec<u8>, Errno> {
    let mut room = vec![0; len];
    let n = stack.read(fd, &mut room, message(flags))?;
    room.truncate(n);
    Ok(room)
}

fn message(flags: c_int) -> Message {
    Message {
        dont_wait: flags & libc::MSG_DONTWAIT != 0,
        peek: flags & libc::MSG_PEEK != 0,
        wait_all: flags & libc::MSG_WAITALL != 0,
        more: flags & libc::MSG_MORE != 0,
    }
}

// ---- the functions

unsafe extern "C" fn free(userdata: Data) {
    // SAFETY: it came from `Box::into_raw` of a `Stack`, and C calls this once.
    drop(unsafe { Box::from_raw(userdata.cast::<Stack>()) });
}

unsafe extern "C" fn socket(userdata: Data, domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    // SAFETY: C's contract.
    let stack = unsafe { stack(userdata) };
    answer(stack.socket(domain, kind, protocol).map(i64::from))
}

unsafe extern "C" fn bind(userdata: Data, fd: c_int, to: *const sockaddr, len: socklen_t) -> c_int {
    // SAFETY: C's contract.
    let stack = unsafe { stack(userdata) };
    // SAFETY: C's contract.
    let to = unsafe { octets(to.cast(), len as usize) };
    answer(to.and_then(address::decode).and_then(|to| stack.bind(fd, to)).map(|()| 0))
}

unsafe extern "C" fn listen(userdata: Data, fd: c_int, backlog: c_int) -> c_int {
    // SAFETY: C's contract.
    let stack = unsafe { stack(userdata) };
    answer(stack.listen(fd, backlog).map(|()| 0))
}

unsafe extern "C" fn accept(userdata: Data, fd: c_int, from: *mut sockaddr, len: *mut socklen_t) -> c_int {
    // SAFETY: C's contract.
    let stack = unsafe { stack(userdata) };
    answer(stack.accept(fd, false).and_then(|(fd, remote, domain)| {
        // SAFETY: C's contract.
        unsafe { put_address(&address::encode(remote, domain), from, len) }?;
        Ok(fd.into())
    }))
}

unsafe extern "C" fn connect(userdata: Data, fd: c_int, to: *const sockaddr, len: socklen_t) -> c_int {
    // SAFETY: C's contract.
    let stack = unsafe { stack(userdata) };
    // SAFETY: C's contract.
    let to = unsafe { octets(to.cast(), len as usize) };
    answer(to.and_then(address::decode).and_then(|to| stack.connect(fd, to)).map(|()| 0))
}

unsafe extern "C" fn read(userdata: Data, fd: c_int, to: *mut c_void, len: usize) -> isize {
    // SAFETY: C's contract; no flag.
    unsafe { recv(userdata, fd, to, len, 0) }
}

unsafe extern "C" fn readv(userdata: Data, fd: c_int, to: *const iovec, count: c_int) -> isize {
    // SAFETY: C's contract.
    let stack = unsafe { stack(userdata) };
    // SAFETY: C's contract.
    let to = unsafe { buffers(to, count.max(0) as usize) };
    answer(to.and_then(|to| {
        let got = read_into(stack, fd, to.iter().map(|buffer| buffer.iov_len).sum(), 0)?;
        // SAFETY: C's contract.
        unsafe { scatter(&got, to) }?;
        Ok(got.len() as i64)
    }))
}

unsafe extern "C" fn recv(userdata: Data, fd: c_int, to: *mut c_void, len: usize, flags: c_int) -> isize {
    // SAFETY: C's contract.
    let stack = unsafe { stack(userdata) };
    if to.is_null() && len > 0 {
        return answer(Err(Errno::FAULT));
    }
    answer(read_into(stack, fd, len, flags).and_then(|got| {
        // SAFETY: C's contract; no more than `len` octets.
        unsafe { put(&got, to) }?;
        Ok(got.len() as i64)
    }))
}

unsafe extern "C" fn recvfrom(
    userdata: Data,
    fd: c_int,
    to: *mut c_void,
    len: usize,
    flags: c_int,
    _from: *mut sockaddr,
    from_len: *mut socklen_t,
) -> isize {
    // SAFETY: C's contract. A connected socket tells no address (POSIX leaves that open).
    unsafe { set(from_len, 0) };
    // SAFETY: C's contract.
    unsafe { recv(userdata, fd, to, len, flags) }
}

unsafe extern "C" fn recvmsg(userdata: Data, fd: c_int, to: *mut msghdr, flags: c_int) -> isize {
    // SAFETY: C's contract.
    let stack = unsafe { stack(userdata) };
    // SAFETY: C's contract.
    let header = unsafe { value(to) };
    answer(header.and_then(|mut header| {
        // SAFETY: C's contract.
        let room = unsafe { buffers(header.msg_iov, header.msg_iovlen) }?;
        let got = read_into(stack, fd, room.iter().map(|buffer| buffer.iov_len).sum(), flags)?;
        // SAFETY: C's contract.
        unsafe { scatter(&got, room) }?;
        (header.msg_namelen, header.msg_controllen, header.msg_flags) = (0, 0, 0);
        // SAFETY: it was read from, and C expects the lengths and the flags to be set.
        unsafe { set(to, header) };
        Ok(got.len() as i64)
    }))
}

unsafe extern "C" fn write(userdata: Data, fd: c_int, from: *const c_void, len: usize) -> isize {
    // SAFETY: C's contract; no flag.
    unsafe { send(userdata, fd, from, len, 0) }
}

unsafe extern "C" fn writev(userdata: Data, fd: c_int, from: *const iovec, count: c_int) -> isize {
    // SAFETY: C's contract.
    let stack = unsafe { stack(userdata) };
    // SAFETY: C's contract.
    let from = unsafe { buffers(from, count.max(0) as usize) };
    // SAFETY: C's contract.
    let data = from.and_then(|from| unsafe { gather(from) });
    answer(data.and_then(|data| stack.write(fd, &data, Message::default())).map(|n| n as i64))
}

unsafe extern "C" fn send(userdata: Data, fd: c_int, from: *const c_void, len: usize, flags: c_int) -> isize {
    // SAFETY: C's contract.
    let stack = unsafe { stack(userdata) };
    // SAFETY: C's contract.
    let data = unsafe { octets(from, len) };
    answer(data.and_then(|data| stack.write(fd, data, message(flags))).map(|n| n as i64))
}

unsafe extern "C" fn sendto(
    userdata: Data,
    fd: c_int,
    from: *const c_void,
    len: usize,
    flags: c_int,
    _to: *const sockaddr,
    _to_len: socklen_t,
) -> isize {
    // SAFETY: C's contract. A connected stream ignores the address.
    unsafe { send(userdata, fd, from, len, flags) }
}

unsafe extern "C" fn sendmsg(userdata: Data, fd: c_int, from: *const msghdr, flags: c_int) -> isize {
    // SAFETY: C's contract.
    let stack = unsafe { stack(userdata) };
    // SAFETY: C's contract.
    let header = unsafe { value(from) };
    // SAFETY: C's contract.
    let pieces = header.and_then(|header| unsafe { buffers(header.msg_iov, header.msg_iovlen) });
    // SAFETY: C's contract.
    let data = pieces.and_then(|pieces| unsafe { gather(pieces) });
    answer(data.and_then(|data| stack.write(fd, &data, message(flags))).map(|n| n as i64))
}

unsafe extern "C" fn fcntl(userdata: Data, fd: c_int, command: c_int, argument: c_long) -> c_int {
    // SAFETY: C's contract.
    let stack = unsafe { stack(userdata) };
    answer(stack.control(fd, command, argument).map(i64::from))
}

unsafe extern "C" fn ioctl(userdata: Data, fd: c_int, request: c_ulong, argument: *mut c_int) -> c_int {
    // SAFETY: C's contract.
    let stack = unsafe { stack(userdata) };
    let counted = match request {
        SIOCINQ => stack.unread(fd),
        SIOCOUTQ => stack.unacknowledged(fd),
        FIONBIO => {
            // SAFETY: C's contract.
            let on = unsafe { value(argument) };
            let flags = on.map(|on| if on == 0 { 0 } else { libc::O_NONBLOCK.into() });
            return answer(flags.and_then(|flags| stack.control(fd, libc::F_SETFL, flags)).map(i64::from));
        }
        _ => Err(Errno::INVAL),
    };
    answer(counted.map(|n| {
        // SAFETY: C's contract.
        unsafe { set(argument, n as c_int) };
        0
    }))
}

unsafe extern "C" fn close(userdata: Data, fd: c_int) -> c_int {
    // SAFETY: C's contract.
    let stack = unsafe { stack(userdata) };
    answer(stack.close(fd).map(|()| 0))
}

unsafe extern "C" fn shutdown(userdata: Data, fd: c_int, how: c_int) -> c_int {
    // SAFETY: C's contract.
    let stack = unsafe { stack(userdata) };
    let how = match how {
        libc::SHUT_RD => Ok(How { read: true, write: false }),
        libc::SHUT_WR => Ok(How { read: false, write: true }),
        libc::SHUT_RDWR => Ok(How { read: true, write: true }),
        _ => Err(Errno::INVAL),
    };
    answer(how.and_then(|how| stack.shutdown(fd, how)).map(|()| 0))
}

unsafe extern "C" fn getsockopt(
    userdata: Data,
    fd: c_int,
    level: c_int,
    name: c_int,
    to: *mut c_void,
    len: *mut socklen_t,
) -> c_int {
    // SAFETY: C's contract.
    let stack = unsafe { stack(userdata) };
    // SAFETY: C's contract.
    let room = unsafe { value(len) };
    answer(room.and_then(|room| {
        let octets = stack.option(fd, level, name)?;
        let n = octets.len().min(room as usize);
        // SAFETY: C's contract; no more than there is room for.
        unsafe { put(&octets[..n], to) }?;
        // SAFETY: it was read from.
        unsafe { set(len, n as socklen_t) };
        Ok(0)
    }))
}

unsafe extern "C" fn setsockopt(
    userdata: Data,
    fd: c_int,
    level: c_int,
    name: c_int,
    from: *const c_void,
    len: socklen_t,
) -> c_int {
    // SAFETY: C's contract.
    let stack = unsafe { stack(userdata) };
    // SAFETY: C's contract.
    let octets = unsafe { octets(from, len as usize) };
    answer(octets.and_then(|octets| stack.set_option(fd, level, name, octets)).map(|()| 0))
}

unsafe extern "C" fn poll(userdata: Data, fds: *mut pollfd, count: nfds_t, timeout_ms: c_int) -> c_int {
    // SAFETY: C's contract.
    let stack = unsafe { stack(userdata) };
    let fds = if fds.is_null() || count > BUFFERS_MAX as nfds_t {
        return answer(Err(Errno::FAULT));
    } else {
        // SAFETY: not NULL, so `count` pollfds that nobody else uses meanwhile, by C's contract.
        unsafe { core::slice::from_raw_parts_mut(fds, count as usize) }
    };
    let asked: Vec<_> = fds.iter().map(|fd| (fd.fd, fd.events)).collect();
    let patience = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
    let found = stack.poll(&asked, patience);
    for (fd, events) in fds.iter_mut().zip(&found) {
        fd.revents = *events;
    }
    answer(Ok(found.iter().filter(|&&events| events != 0).count() as i64))
}

unsafe extern "C" fn netdev_send(userdata: Data, from: *const c_void, len: usize) -> c_int {
    // SAFETY: C's contract.
    let stack = unsafe { stack(userdata) };
    // SAFETY: C's contract.
    let packet = unsafe { octets(from, len) };
    answer(packet.and_then(|packet| stack.netdev_send(packet)).map(|()| 0))
}

unsafe extern "C" fn netdev_receive(userdata: Data, to: *mut c_void, len: *mut usize, at: *mut c_longlong) -> c_int {
    // SAFETY: C's contract.
    let stack = unsafe { stack(userdata) };
    // SAFETY: C's contract.
    let room = unsafe { value(len) };
    answer(room.and_then(|room| {
        let (packet, when) = stack.netdev_receive(RECEIVE_PATIENCE).unwrap_or_else(|| (Vec::new(), stack.now()));
        let n = packet.len().min(room);
        // SAFETY: C's contract; no more than there is room for.
        unsafe { put(&packet[..n], to) }?;
        // SAFETY: it was read from.
        unsafe { set(len, n) };
        // SAFETY: C's contract.
        unsafe { set(at, when.micros() as c_longlong) };
        Ok(0)
    }))
}

extern "C" fn usleep(_userdata: Data, micros: c_uint) -> c_int {
    std::thread::sleep(Duration::from_micros(micros.into()));
    0
}

unsafe extern "C" fn gettimeofday(userdata: Data, to: *mut timeval, _zone: *mut c_void) -> c_int {
    // SAFETY: C's contract.
    let micros = unsafe { stack(userdata) }.now().micros() as i64;
    // SAFETY: C's contract.
    unsafe { set(to, timeval { tv_sec: micros / 1_000_000, tv_usec: micros % 1_000_000 }) };
    0
}

extern "C" fn epoll_create(_: Data, _: c_int) -> c_int {
    answer(Err(Errno::NOSYS))
}

extern "C" fn epoll_ctl(_: Data, _: c_int, _: c_int, _: c_int, _: *mut epoll_event) -> c_int {
    answer(Err(Errno::NOSYS))
}

extern "C" fn epoll_wait(_: Data, _: c_int, _: *mut epoll_event, _: c_int, _: c_int) -> c_int {
    answer(Err(Errno::NOSYS))
}

extern "C" fn pipe(_: Data, _: *mut c_int) -> c_int {
    answer(Err(Errno::NOSYS))
}

extern "C" fn splice(_: Data, _: c_int, _: *mut loff_t, _: c_int, _: *mut loff_t, _: usize, _: c_uint) -> isize {
    answer(Err(Errno::NOSYS))
}

#[cfg(test)]
#[path = "ffi_tests.rs"]
mod tests;
