//! An end's account of its connections on its way to the other end: a file, or a Unix socket, which reaches from one
//! network namespace into another.
//!
//! ```text
//! "SYNACCT1"  u32 n  n octets of JSON (Header)  u32 m  m records of RECORD_BYTES    integers little-endian
//! ```

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use syncline_engine::app::Endpoints;

use super::SharedWatch;
use super::ledger::{Entry, Kind, Passed};
use crate::error::{Error, Result};
use crate::privilege;

const MAGIC: &[u8; 8] = b"SYNACCT1";
const RECORD_BYTES: usize = 112;

/// The largest account that is read, octets.
const ACCOUNT_BYTES_MAX: u64 = 1 << 30;

/// The longest header.
const HEADER_BYTES_MAX: u32 = 1 << 20;

/// How long the other end may take to tell its account.
const PATIENCE: Duration = Duration::from_secs(20);

/// What asks for the account.
const ASK: &[u8] = b"account\n";

/// What an account says beside its connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// When it was taken, Unix microseconds.
    pub at_us: u64,
    /// Whether its end had come to an end then.
    pub last: bool,
    /// One in 2 to this power of the connections that ended well is in it.
    pub thinned: u32,
    /// Connections seen.
    pub seen: u64,
    /// Connections that found no room.
    pub untracked: u64,
    /// Frames that were lost before the engine saw them.
    pub rx_dropped: u64,
    /// Frames that were lost after the device had taken them.
    pub tx_dropped: u64,
    /// Hardware addresses of its own.
    pub own_macs: HashSet<[u8; 6]>,
    /// Hardware addresses that it sent to.
    pub next_hops: HashSet<[u8; 6]>,
}

/// An end's connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// What it says beside them.
    pub header: Header,
    /// The connections.
    pub entries: Vec<Entry>,
}

/// Unix microseconds of now.
pub fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

impl Account {
    /// Of all workers of this process.
    pub fn of(watches: &[SharedWatch], last: bool) -> Self {
        let mut account = Self::default();
        let header = &mut account.header;
        (header.at_us, header.last) = (now_us(), last);
        for watch in watches {
            let watch = watch.lock();
            let Some(ledger) = &watch.ledger else { continue };
            header.thinned = header.thinned.max(ledger.thinned());
            header.seen += ledger.seen;
            header.untracked += ledger.untracked;
            header.rx_dropped += ledger.device.rx_dropped;
            header.tx_dropped += ledger.device.tx_dropped;
            header.own_macs.extend(&ledger.own_macs);
            header.next_hops.extend(&ledger.next_hops);
            account.entries.extend_from_slice(ledger.entries());
        }
        account
    }

    /// Writes it.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let header = serde_json::to_vec(&self.header)?;
        out.write_all(MAGIC)?;
        out.write_all(&(header.len() as u32).to_le_bytes())?;
        out.write_all(&header)?;
        out.write_all(&(self.entries.len() as u32).to_le_bytes())?;
        for entry in &self.entries {
            out.write_all(&record(entry))?;
        }
        out.flush()
    }

    /// Reads one.
    ///
    /// # Errors
    /// Those of `file`, and what is no account.
    pub fn read(file: impl Read) -> io::Result<Self> {
        let mut file = io::BufReader::new(file.take(ACCOUNT_BYTES_MAX));
        let bad = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
        let mut magic = [0; 8];
        file.read_exact(&mut magic)?;
        if &magic != MAGIC {
            return Err(bad("it is no account of connections"));
        }
        let mut word = [0; 4];
        let mut length = |file: &mut dyn Read| file.read_exact(&mut word).map(|()| u32::from_le_bytes(word));
        let len = length(&mut file)?;
        if len > HEADER_BYTES_MAX {
            return Err(bad("its header is too long"));
        }
        let mut header = vec![0; len as usize];
        file.read_exact(&mut header)?;
        let header = serde_json::from_slice(&header)?;
        let count = length(&mut file)?;
        let mut entries = Vec::new();
        let mut octets = [0; RECORD_BYTES];
        for _ in 0..count {
            file.read_exact(&mut octets)?;
            entries.push(entry(&octets));
        }
        Ok(Self { header, entries })
    }
}

fn record(entry: &Entry) -> [u8; RECORD_BYTES] {
    let mut out = Vec::with_capacity(RECORD_BYTES);
    for end in [entry.ends.local, entry.ends.remote] {
        let ip = match end.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        out.extend(ip.octets());
        out.extend(end.port().to_le_bytes());
    }
    out.extend(entry.token.to_le_bytes());
    out.extend(entry.iss.to_le_bytes());
    for passed in [&entry.sent, &entry.came] {
        passed.segments.iter().for_each(|count| out.extend(count.to_le_bytes()));
        out.extend(passed.text_end.to_le_bytes());
        out.extend(passed.text.to_le_bytes());
    }
    out.extend(entry.first_us.to_le_bytes());
    out.extend(entry.last_us.to_le_bytes());
    out.push(entry.failure);
    let mut whole = [0; RECORD_BYTES];
    whole[..out.len()].copy_from_slice(&out);
    whole
}

/// Takes integers off the front of a record.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (head, rest) = self.0.split_first_chunk().map_or(([0; N], &[][..]), |(head, rest)| (*head, rest));
        self.0 = rest;
        head
    }

    fn end(&mut self) -> SocketAddr {
        let ip = IpAddr::V6(Ipv6Addr::from(self.take::<16>())).to_canonical();
        SocketAddr::new(ip, u16::from_le_bytes(self.take()))
    }

    fn passed(&mut self) -> Passed {
        let mut segments = [0; Kind::COUNT];
        segments.iter_mut().for_each(|count| *count = u16::from_le_bytes(self.take()));
        Passed { segments, text_end: u32::from_le_bytes(self.take()), text: u32::from_le_bytes(self.take()) }
    }
}

fn entry(octets: &[u8; RECORD_BYTES]) -> Entry {
    let mut fields = Fields(octets);
    let ends = Endpoints { local: fields.end(), remote: fields.end() };
    let token = u64::from_le_bytes(fields.take());
    let iss = u32::from_le_bytes(fields.take());
    let (sent, came) = (fields.passed(), fields.passed());
    let (first_us, last_us) = (u64::from_le_bytes(fields.take()), u64::from_le_bytes(fields.take()));
    let [failure] = fields.take();
    Entry { token, iss, sent, came, last_us, failure, ..Entry::begin(ends, first_us) }
}

fn failed(path: &Path, error: impl std::fmt::Display) -> Error {
    Error::environment(format!("cannot use {} for --server-report", path.display()), error, "give another path")
}

/// Tells a server's account: through a socket at any time, into a file at the end.
#[derive(Debug)]
pub struct Teller {
    path: PathBuf,
    watches: Vec<SharedWatch>,
    file: Option<fs::File>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Teller {
    /// Opens `path`: a socket if it ends with `.sock`, else a file. To be called before privileges are given up.
    ///
    /// # Errors
    /// Exit 3 if it cannot be.
    pub fn open(path: &Path, watches: Vec<SharedWatch>) -> Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let (mut file, mut thread) = (None, None);
        if path.extension().is_some_and(|extension| extension == "sock") {
            if fs::metadata(path).is_ok_and(|there| there.file_type().is_socket()) {
                // What a server that was killed has left; one that lives would still answer.
                if UnixStream::connect(path).is_ok() {
                    return Err(failed(path, "another server answers there"));
                }
                fs::remove_file(path).map_err(|error| failed(path, error))?;
            }
            let listener = UnixListener::bind(path).map_err(|error| failed(path, error))?;
            listener.set_nonblocking(true).map_err(|error| failed(path, error))?;
            let (watches, over) = (watches.clone(), Arc::clone(&over));
            let body = move || tell(&listener, &watches, &over);
            let spawned = thread::Builder::new().name("account".into()).spawn(body);
            thread = Some(spawned.map_err(|error| failed(path, error))?);
        } else {
            file = Some(fs::File::create(path).map_err(|error| failed(path, error))?);
        }
        Ok(Self { path: path.to_owned(), watches, file, over, thread })
    }

    /// The server has come to its end: tells the account for the last time.
    ///
    /// # Errors
    /// Exit 3 if the file cannot be written.
    pub fn finish(mut self) -> Result<()> {
        self.over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A panic there has been told by itself.
            let _ = thread.join();
        }
        match &mut self.file {
            Some(file) => {
                let account = Account::of(&self.watches, true);
                account.write(&mut io::BufWriter::new(file)).map_err(|error| failed(&self.path, error))
            }
            None => Ok(()),
        }
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        if self.file.is_none() {
            // If it cannot be removed the next server does.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listeners to an account at a time.
const LISTENERS_MAX: usize = 16;

fn tell(listener: &UnixListener, watches: &[SharedWatch], over: &AtomicBool) {
    // This thread is older than the moment when the process gives up its privileges.
    if let Err(error) = privilege::give_up() {
        return eprintln!("syncline: {error}");
    }
    let mut streams: Vec<(UnixStream, Vec<u8>)> = Vec::new();
    let answer = |stream: &mut UnixStream, last: bool| {
        let account = Account::of(watches, last);
        let ready = stream.set_nonblocking(false).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
        // Who does not listen to the end goes without.
        let _ = ready.and_then(|()| account.write(&mut io::BufWriter::new(stream)));
    };
    while !over.load(Ordering::Acquire) {
        while let Ok((stream, _)) = listener.accept() {
            if streams.len() < LISTENERS_MAX && stream.set_nonblocking(true).is_ok() {
                streams.push((stream, Vec::new()));
            }
        }
        streams.retain_mut(|(stream, asked)| {
            let mut octets = [0; 64];
            match stream.read(&mut octets) {
                Ok(0) => false,
                Ok(count) => {
                    asked.extend(&octets[..count]);
                    let whole = asked.ends_with(ASK);
                    if whole {
                        answer(stream, false);
                    }
                    !whole && asked.len() < ASK.len()
                }
                Err(error) => error.kind() == io::ErrorKind::WouldBlock,
            }
        });
        thread::sleep(Duration::from_millis(20));
    }
    streams.iter_mut().for_each(|(stream, _)| answer(stream, true));
}

/// What came of asking for the other end's account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// This is it.
    Account(Box<Account>),
    /// The other end was gone at this time, Unix microseconds, without telling.
    Gone(u64),
}

/// What the server told of its account, or why that failed, and when: Unix microseconds.
type Answer = (io::Result<Account>, u64);

/// Hears a server's account.
#[derive(Debug)]
pub struct Hearer {
    path: PathBuf,
    socket: Option<(UnixStream, Receiver<Answer>)>,
}

impl Hearer {
    /// Turns to `path`. A socket is connected to at once, so that it is known if the server goes away.
    ///
    /// # Errors
    /// Exit 3 if nobody answers at the socket.
    pub fn open(path: &Path) -> Result<Self> {
        let is_socket = fs::metadata(path).map(|there| there.file_type().is_socket());
        let socket = match is_socket {
            Ok(true) => {
                let mend = "start `syncline serve --server-report` first";
                let dead = |error| Error::environment(format!("no server at {}", path.display()), error, mend);
                let stream = UnixStream::connect(path).map_err(dead)?;
                let reader = stream.try_clone().map_err(dead)?;
                let (tell, told) = mpsc::channel();
                let body = move || {
                    // As above.
                    let account = match privilege::give_up() {
                        Ok(()) => Account::read(reader),
                        Err(error) => Err(io::Error::other(error)),
                    };
                    // Nobody listens any more only if the run was given up.
                    let _ = tell.send((account, now_us()));
                };
                thread::Builder::new().name("account".into()).spawn(body).map_err(dead)?;
                Some((stream, told))
            }
            Ok(false) => None,
            Err(_) if path.extension().is_some_and(|extension| extension == "sock") => {
                let mend = "start `syncline serve --server-report` first";
                return Err(Error::environment(format!("no server at {}", path.display()), "there is no socket", mend));
            }
            Err(_) => None,
        };
        Ok(Self { path: path.to_owned(), socket })
    }

    /// The account as it is now; of a file, as it is once the server has written it.
    ///
    /// # Errors
    /// Exit 3 if the file cannot be read.
    pub fn hear(self) -> Result<Heard> {
        let Some((mut stream, told)) = self.socket else { return self.read_file() };
        // If the server is gone, the other thread knows since when.
        let _ = stream.write_all(ASK);
        Ok(match told.recv_timeout(PATIENCE) {
            Ok((Ok(account), _)) => Heard::Account(Box::new(account)),
            Ok((Err(_), at_us)) => Heard::Gone(at_us),
            Err(_) => Heard::Gone(now_us()),
        })
    }

    fn read_file(self) -> Result<Heard> {
        let until = Instant::now() + PATIENCE;
        loop {
            let account = fs::File::open(&self.path).and_then(Account::read);
            match account {
                Ok(account) => return Ok(Heard::Account(Box::new(account))),
                Err(_) if Instant::now() < until => thread::sleep(Duration::from_millis(100)),
                Err(error) => {
                    let mend =
                        "let the server end within 20 s of the run, or use a socket: a path that ends with .sock";
                    let what = format!("cannot read the server's account {}", self.path.display());
                    return Err(Error::environment(what, error, mend));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Account {
        let end = |text: &str| text.parse().unwrap();
        let ends = [("10.0.0.1:5", "10.0.0.2:80"), ("[fd00::1]:6", "[fd00::2]:81")];
        let entries = ends.map(|(local, remote)| {
            let ends = Endpoints { local: end(local), remote: end(remote) };
            let sent = Passed { segments: [1, 2, 3, 4, 5, 6], text_end: 7, text: 8 };
            Entry { token: u64::MAX - 1, iss: 9, sent, last_us: 11, failure: 3, ..Entry::begin(ends, 10) }
        });
        let header = Header { at_us: 1, own_macs: [[1; 6]].into(), ..Header::default() };
        Account { header, entries: entries.to_vec() }
    }

    #[test]
    fn an_account_is_read_as_it_was_written() {
        let mut octets = Vec::new();
        account().write(&mut octets).unwrap();
        assert_eq!(Account::read(&octets[..]).unwrap(), account());
        for kept in 0..octets.len() {
            assert!(Account::read(&octets[..kept]).is_err());
        }
        octets[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Account::read(&octets[..]).unwrap_err().to_string().contains("too long"));
    }

    #[test]
    fn a_socket_tells_at_once_and_at_the_end() {
        let path = std::env::temp_dir().join(format!("syncline-account-{}.sock", std::process::id()));
        let watch = SharedWatch::new(super::super::Watch {
            ledger: Some(super::super::Ledger::with_room_for(4)),
            ..Default::default()
        });
        let teller = Teller::open(&path, vec![watch]).unwrap();
        let heard = |hearer: Hearer| match hearer.hear().unwrap() {
            Heard::Account(account) => account.header.last,
            Heard::Gone(_) => panic!("the server is there"),
        };
        let (one, other) = (Hearer::open(&path).unwrap(), Hearer::open(&path).unwrap());
        assert!(!heard(one));
        assert!(Teller::open(&path, Vec::new()).unwrap_err().to_string().contains("another server"));
        teller.finish().unwrap();
        assert!(heard(other));
        assert!(Hearer::open(&path).is_err() && !path.exists());
    }
}
