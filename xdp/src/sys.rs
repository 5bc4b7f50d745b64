//! The system calls that no library wraps: interface requests, ethtool's questions and AF_XDP's socket options.

use std::ffi::{c_int, c_ulong, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr::NonNull;

use rustix::net::{AddressFamily, SocketType, socket};
use syncline_engine::device::toeplitz::{KEY_BYTES, Rss, TABLE_ENTRIES_MAX};

const SIOCETHTOOL: c_ulong = 0x8946;
const SIOCGIFNAME: c_ulong = 0x8910;
const SIOCGIFFLAGS: c_ulong = 0x8913;
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETHTOOL_GRXFH: u32 = 0x29;
const ETHTOOL_GRSSH: u32 = 0x46;
/// Flow types of `ETHTOOL_GRXFH`.
const TCP_V4_FLOW: u32 = 0x01;
const TCP_V6_FLOW: u32 = 0x05;
/// What of a TCP segment is hashed: both addresses, and both halves of the ports.
const RXH_FOUR_TUPLE: u64 = 0xf0;
/// `hfunc` of `ETHTOOL_GRSSH`.
const ETH_RSS_HASH_TOP: u8 = 1;

/// Linux 6.17's `setsockopt` for the frames one `sendto` may send; not in the C library's headers yet.
const XDP_MAX_TX_SKB_BUDGET: c_int = 9;
const XDP_OPTIONS: c_int = 8;
const XDP_OPTIONS_ZEROCOPY: u32 = 1;

/// `struct ifreq`: a name and a union of 24 octets.
#[repr(C, align(8))]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    value: [u8; 24],
}

const _: () = assert!(size_of::<InterfaceRequest>() == size_of::<libc::ifreq>());

impl InterfaceRequest {
    fn named(name: &str) -> Self {
        let mut request = Self { name: [0; libc::IFNAMSIZ], value: [0; 24] };
        // One octet stays zero; a longer name is no device's.
        let len = name.len().min(libc::IFNAMSIZ - 1);
        request.name[..len].copy_from_slice(&name.as_bytes()[..len]);
        request
    }
}

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

const _: () = assert!(size_of::<DriverInfo>() == 196);

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    rx_max: u32,
    tx_max: u32,
    other_max: u32,
    combined_max: u32,
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// `struct ethtool_rxnfc` up to what `ETHTOOL_GRXFH` writes; the rest is room.
#[repr(C)]
struct HashedFields {
    command: u32,
    flow_type: u32,
    fields: u64,
    rest: [u64; 22],
}

const _: () = assert!(size_of::<HashedFields>() == 192);

/// Room for what `ETHTOOL_GRSSH` writes behind its header: the table's entries, 4 octets each, then the key.
const RSS_WORDS: usize = TABLE_ENTRIES_MAX + 64;

/// `struct ethtool_rxfh` and room for what follows it.
#[repr(C)]
struct ReceiveHash {
    command: u32,
    context: u32,
    table_len: u32,
    key_bytes: u32,
    function: u8,
    /// Whether the input is made symmetric before it is hashed (Linux 6.8), and a reserved half.
    transform: u8,
    reserved: [u8; 6],
    config: [u32; RSS_WORDS],
}

const _: () = assert!(size_of::<ReceiveHash>() == 24 + 4 * RSS_WORDS);

impl ReceiveHash {
    /// The question, with room for so many entries and octets of key.
    fn ask(table_len: u32, key_bytes: u32) -> Box<Self> {
        Box::new(Self {
            command: ETHTOOL_GRSSH,
            context: 0,
            table_len,
            key_bytes,
            function: 0,
            transform: 0,
            reserved: [0; 6],
            config: [0; RSS_WORDS],
        })
    }

    /// Whether table and key are there in sizes that there is room for.
    fn fits(&self) -> bool {
        let words = u64::from(self.table_len) + u64::from(self.key_bytes).div_ceil(4);
        self.table_len > 0 && self.key_bytes as usize >= KEY_BYTES && words <= RSS_WORDS as u64
    }

    /// Key and table, if flows are hashed in a way that the engine can foresee.
    fn rss(&self) -> Option<Rss> {
        if !self.fits() || self.function != ETH_RSS_HASH_TOP || self.transform != 0 {
            return None;
        }
        let (table, rest) = self.config.split_at(self.table_len as usize);
        let table: Vec<_> = table.iter().map(|&queue| u16::try_from(queue)).collect::<Result<_, _>>().ok()?;
        let key: Vec<_> = rest.iter().flat_map(|word| word.to_ne_bytes()).take(KEY_BYTES).collect();
        Rss::with(key.try_into().ok()?, &table)
    }
}

/// How many queues a device receives on, and what ethtool calls them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReceiveQueues {
    pub(crate) count: u32,
    pub(crate) ethtool_name: &'static str,
}

/// Asks about the interfaces of the network namespace it was opened in, from whatever thread.
#[derive(Debug)]
pub(crate) struct InterfaceQuery(OwnedFd);

impl InterfaceQuery {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self(socket(AddressFamily::INET, SocketType::DGRAM, None)?))
    }

    /// Whether the device with this number is up; an error if it is gone.
    pub(crate) fn is_up(&self, index: u32) -> io::Result<bool> {
        let mut request = InterfaceRequest::named("");
        request.value[..4].copy_from_slice(&index.to_ne_bytes());
        self.ask(SIOCGIFNAME, &mut request)?;
        request.value = [0; 24];
        self.ask(SIOCGIFFLAGS, &mut request)?;
        let flags = i16::from_ne_bytes([request.value[0], request.value[1]]);
        Ok(c_int::from(flags) & libc::IFF_UP != 0)
    }

    /// The driver's name by ethtool.
    pub(crate) fn driver(&self, name: &str) -> io::Result<String> {
        let mut info = DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
        self.ethtool(name, &mut info)?;
        let len = info.driver.iter().position(|&octet| octet == 0).unwrap_or(info.driver.len());
        Ok(String::from_utf8_lossy(&info.driver[..len]).into_owned())
    }

    /// The channels the device receives on by ethtool.
    pub(crate) fn receive_queues(&self, name: &str) -> io::Result<ReceiveQueues> {
        let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
        self.ethtool(name, &mut channels)?;
        let ethtool_name = if channels.combined > 0 { "combined" } else { "rx" };
        Ok(ReceiveQueues { count: channels.combined + channels.rx, ethtool_name })
    }

    /// How the device spreads TCP flows over its queues; `None` if it does not say, or not by the Toeplitz hash of the
    /// four-tuple.
    pub(crate) fn rss(&self, name: &str) -> Option<Rss> {
        // First the sizes only; then, with these, all of it.
        let mut sizes = ReceiveHash::ask(0, 0);
        self.ethtool(name, &mut *sizes).ok()?;
        if !sizes.fits() {
            return None;
        }
        let mut answer = ReceiveHash::ask(sizes.table_len, sizes.key_bytes);
        self.ethtool(name, &mut *answer).ok()?;
        let four_tuple = |flow_type| {
            let mut asked = HashedFields { command: ETHTOOL_GRXFH, flow_type, fields: 0, rest: [0; 22] };
            // A driver that does not tell hashes what is usual.
            self.ethtool(name, &mut asked).is_err() || asked.fields & RXH_FOUR_TUPLE == RXH_FOUR_TUPLE
        };
        (four_tuple(TCP_V4_FLOW) && four_tuple(TCP_V6_FLOW)).then(|| answer.rss()).flatten()
    }

    /// `T` begins with an ethtool command and is what that command writes.
    fn ethtool<T>(&self, name: &str, argument: &mut T) -> io::Result<()> {
        let mut request = InterfaceRequest::named(name);
        let pointer = (&raw mut *argument) as usize;
        request.value[..size_of::<usize>()].copy_from_slice(&pointer.to_ne_bytes());
        self.ask(SIOCETHTOOL, &mut request)
    }

    fn ask(&self, what: c_ulong, request: &mut InterfaceRequest) -> io::Result<()> {
        // SAFETY: `request` has the size and layout of `struct ifreq` and is exclusively borrowed. For SIOCETHTOOL its
        // value is the address of a live, exclusively borrowed structure of the size the command writes (`ethtool`).
        let result = unsafe { libc::ioctl(self.0.as_fd().as_raw_fd(), what as _, &raw mut *request) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Raises the frames that one `sendto` sends in copy mode; an error on kernels before 6.17.
pub(crate) fn set_transmit_budget(socket: RawFd, frames: u32) -> io::Result<()> {
    set_u32(socket, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, frames)
}

/// Lets the socket have this many octets on their way, beyond the system's limit if privileged.
pub(crate) fn set_send_buffer(socket: RawFd, bytes: u32) -> io::Result<()> {
    set_u32(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, bytes)
        .or_else(|_| set_u32(socket, libc::SOL_SOCKET, libc::SO_SNDBUF, bytes))
}

/// Whether a bound AF_XDP socket moves frames without a copy.
pub(crate) fn is_zerocopy(socket: RawFd) -> io::Result<bool> {
    let mut flags = 0u32;
    let mut len = size_of::<u32>() as libc::socklen_t;
    // SAFETY: both pointers are to live, exclusively borrowed locals, and `len` is the size of the first.
    let result = unsafe {
        libc::getsockopt(socket, libc::SOL_XDP, XDP_OPTIONS, (&raw mut flags).cast::<c_void>(), &raw mut len)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(flags & XDP_OPTIONS_ZEROCOPY != 0) }
}

fn set_u32(socket: RawFd, level: c_int, option: c_int, value: u32) -> io::Result<()> {
    let len = size_of::<u32>() as libc::socklen_t;
    // SAFETY: the pointer is to a live local of `len` octets, which the kernel only reads.
    let result = unsafe { libc::setsockopt(socket, level, option, (&raw const value).cast::<c_void>(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Keeps libxdp and libbpf from writing to standard error: what went wrong is in our own errors.
pub(crate) fn silence_libraries() {
    // SAFETY: a null callback is documented to turn output off; the functions only exchange a pointer.
    let _ = unsafe { libxdp_sys::libxdp_set_print(None) };
    // SAFETY: as above.
    let _ = unsafe { libbpf_sys::libbpf_set_print(None) };
}

/// The other end of the device, or the device's hardware, sends XDP frames (`NETDEV_XDP_ACT_NDO_XMIT`).
const XDP_FEATURE_TRANSMIT: u64 = 4;

/// Whether the device with this number, in the calling thread's namespace, sends XDP frames. Linux tells since 6.3.
pub(crate) fn takes_xdp_frames(index: u32) -> bool {
    let mut answer = libbpf_sys::bpf_xdp_query_opts::default();
    answer.sz = size_of_val(&answer) as _;
    // SAFETY: the structure says its own size, and is exclusively borrowed during the call.
    let result = unsafe { libbpf_sys::bpf_xdp_query(index as c_int, 0, &raw mut answer) };
    result == 0 && answer.feature_flags & XDP_FEATURE_TRANSMIT != 0
}

/// The memory of a BPF array that user space shares.
pub(crate) struct Mapping<T> {
    start: NonNull<T>,
    bytes: usize,
}

// SAFETY: the mapping belongs to no thread; what is done with its values is their users' concern.
unsafe impl<T> Send for Mapping<T> {}
// SAFETY: as above; a shared reference only gives out the address.
unsafe impl<T> Sync for Mapping<T> {}

impl<T> Mapping<T> {
    /// Maps the first `count` of `map`'s values, which are as far apart as `T` is long.
    pub(crate) fn new(map: BorrowedFd<'_>, count: usize) -> io::Result<Self> {
        let bytes = count * size_of::<T>();
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, map.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, bytes })
    }

    /// The address of value `index`, which must be one of those mapped.
    pub(crate) fn at(&self, index: usize) -> NonNull<T> {
        assert!((index + 1) * size_of::<T>() <= self.bytes, "value {index} is not mapped");
        // SAFETY: within the mapping, as just checked.
        unsafe { self.start.add(index) }
    }
}

impl<T> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`; whoever has its address keeps this from being dropped.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// Closes a file descriptor that nobody else will close or use.
///
/// # Safety
/// `fd` is open and its former owner has given it up.
pub(crate) unsafe fn adopt(fd: RawFd) -> OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: the caller's promise.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_up_and_an_unknown_number_is_not_there() {
        let query = InterfaceQuery::open().unwrap();
        assert!(query.is_up(1).is_ok());
        assert_eq!(query.is_up(0x7fff_ffff).unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }

    fn answer(table: &[u32], key: &[u8], function: u8, transform: u8) -> Box<ReceiveHash> {
        let mut answer = ReceiveHash::ask(table.len() as u32, key.len() as u32);
        (answer.function, answer.transform) = (function, transform);
        answer.config[..table.len()].copy_from_slice(table);
        for (word, octets) in answer.config[table.len()..].iter_mut().zip(key.chunks(4)) {
            *word = u32::from_ne_bytes(octets.try_into().unwrap());
        }
        answer
    }

    #[test]
    fn a_card_that_hashes_as_expected_is_understood_and_any_other_is_not() {
        // Some cards have keys of 52 octets; the first 40 serve TCP.
        let key: Vec<u8> = (1..=52).collect();
        let table: Vec<u32> = (0..512).map(|entry| entry % 6).collect();
        let rss = answer(&table, &key, ETH_RSS_HASH_TOP, 0).rss().unwrap();
        assert_eq!(rss.key()[..], key[..KEY_BYTES]);
        assert_eq!((rss.table().len(), rss.table()[511]), (512, 1));
        assert_eq!(answer(&table, &key, 2, 0).rss(), None, "another function");
        assert_eq!(answer(&table, &key, ETH_RSS_HASH_TOP, 1).rss(), None, "a symmetric hash");
        assert_eq!(answer(&table[..96], &key, ETH_RSS_HASH_TOP, 0).rss(), None, "no power of two");
        assert_eq!(answer(&table, &key[..16], ETH_RSS_HASH_TOP, 0).rss(), None, "a short key");
        assert_eq!(answer(&[1 << 20], &key, ETH_RSS_HASH_TOP, 0).rss(), None, "no queue's number");
        let mut huge = ReceiveHash::ask(u32::MAX, u32::MAX);
        huge.function = ETH_RSS_HASH_TOP;
        assert_eq!(huge.rss(), None);
    }

    #[test]
    fn the_loopback_device_does_not_hash() {
        assert_eq!(InterfaceQuery::open().unwrap().rss("lo"), None);
    }
}
