//! One engine worker under one lock, its clock and its thread.

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::io::Errno;
use syncline_engine::app::Net;
use syncline_engine::config::SynCookies;
use syncline_engine::page::HeapPages;
use syncline_engine::tcp::Secrets;
use syncline_engine::time::{Clock, Instant};
use syncline_engine::worker::Worker;

use crate::device::{Packet, Tap};
use crate::settings::Settings;
use crate::socket::Sockets;

/// Where the kernel shows the sysctls of the namespace.
const SYSCTLS: &str = "/proc/sys/net/ipv4";
/// Passes of the loop in a row, at most: two ends that keep each other busy cannot hold the lock for ever.
const PASSES_MAX: usize = 1000;
/// Stack of the thread, octets: packetdrill locks all memory, and this much is touched at once.
const STACK_BYTES: usize = 512 << 10;

/// The real clock: its origin is the Unix epoch, it goes on by the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wall {
    epoch: Duration,
    since: std::time::Instant,
}

impl Wall {
    fn start() -> Self {
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { epoch, since: std::time::Instant::now() }
    }
}

impl Clock for Wall {
    fn now(&self) -> Instant {
        Instant::ZERO + self.epoch + self.since.elapsed()
    }
}

type Engine = Worker<Tap, Sockets, HeapPages>;

/// Everything behind the lock.
pub(crate) struct Core {
    settings: Settings,
    clock: Wall,
    /// Made when the first connection may come or go: by then a script has set what it wants set.
    engine: Option<Engine>,
    /// The sockets until then.
    early: Sockets,
    stop: bool,
}

impl Core {
    /// The sockets.
    pub(crate) fn sockets(&mut self) -> &mut Sockets {
        match &mut self.engine {
            Some(engine) => engine.app_mut(),
            None => &mut self.early,
        }
    }

    /// The sockets and the connections, if there may be any.
    pub(crate) fn sockets_and_net(&mut self) -> (&mut Sockets, Option<Net<'_>>) {
        match &mut self.engine {
            Some(engine) => {
                let (sockets, net) = engine.app_and_net();
                (sockets, Some(net))
            }
            None => (&mut self.early, None),
        }
    }

    /// Makes the engine, with the address that `seen` is if the flags name none.
    /// Says when listeners are to send SYN cookies.
    pub(crate) fn start(&mut self, seen: Option<IpAddr>) -> Result<SynCookies, Errno> {
        if self.engine.is_some() {
            return Ok(self.settings.cookies);
        }
        let mut settings = self.settings.clone();
        if settings.sysctl {
            // the flags have been read once, and are as good as they were
            settings.read_sysctls(Path::new(SYSCTLS)).map_err(|_| Errno::INVAL)?;
        }
        let local = settings.local.or(seen).ok_or(Errno::ADDRNOTAVAIL)?;
        let mut sockets = core::mem::take(&mut self.early);
        sockets.configure(&mut settings);
        let tap = Tap::new(settings.mtu, self.clock);
        let engine = Worker::new(&settings.config(local), &secrets(self.clock.now()), tap, sockets, HeapPages::new());
        match engine {
            Ok(engine) => {
                self.settings.cookies = settings.cookies;
                self.engine = Some(engine);
                Ok(settings.cookies)
            }
            Err(error) => {
                eprintln!("syncline: {error}");
                Err(Errno::INVAL)
            }
        }
    }

    /// Whether there is an engine, and its configuration is fixed.
    pub(crate) fn running(&self) -> bool {
        self.engine.is_some()
    }

    /// The time.
    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Lets the engine work until it has nothing to do. Says whether it had anything.
    pub(crate) fn settle(&mut self) -> bool {
        let Some(engine) = &mut self.engine else { return false };
        let mut worked = false;
        for _ in 0..PASSES_MAX {
            let activity = engine.poll(&self.clock);
            let (sockets, mut net) = engine.app_and_net();
            let asked = sockets.after_pass(&mut net);
            if activity.is_idle() && !asked {
                break;
            }
            worked = true;
        }
        worked
    }

    fn next_deadline(&mut self) -> Option<Instant> {
        self.engine.as_mut()?.next_deadline()
    }
}

/// Keys that differ from run to run. Nobody attacks a test: the clock is random enough.
fn secrets(now: Instant) -> Secrets {
    let mut state = now.nanos();
    let mut word = || {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    };
    let mut pair = || [word(), word()];
    Secrets::new(pair(), pair(), pair())
}

struct Shared {
    core: Mutex<Core>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what is due, and sleeps until something is again.
    fn run(&self) {
        let mut core = self.lock();
        while !core.stop {
            if core.settle() {
                self.changed.notify_all();
            }
            core = match core.next_deadline() {
                None => self.changed.wait(core).unwrap_or_else(PoisonError::into_inner),
                Some(at) => {
                    let rest = at.since(core.clock.now()).max(Duration::from_micros(50));
                    self.changed.wait_timeout(core, rest).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

/// A stack: the sockets and the network device that packetdrill sees. Its methods are the calls, and may be made from
/// any thread.
pub struct Stack {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Stack {
    /// A stack, and the thread that its timers need.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn new(settings: Settings) -> std::io::Result<Self> {
        let core = Core { settings, clock: Wall::start(), engine: None, early: Sockets::default(), stop: false };
        let shared = Arc::new(Shared { core: Mutex::new(core), changed: Condvar::new() });
        let runner = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("syncline".into()).stack_size(STACK_BYTES);
        let thread = thread.spawn(move || runner.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Runs `action` under the lock, and what follows of it.
    pub(crate) fn with<T>(&self, action: impl FnOnce(&mut Core) -> T) -> T {
        let mut core = self.shared.lock();
        let result = action(&mut core);
        core.settle();
        drop(core);
        self.shared.changed.notify_all();
        result
    }

    /// Tries `attempt` again whenever something has changed, until it has a result, for at most `patience`.
    pub(crate) fn wait<T>(
        &self,
        patience: Option<Duration>,
        mut attempt: impl FnMut(&mut Core) -> Option<T>,
    ) -> Option<T> {
        let mut core = self.shared.lock();
        let until = patience.and_then(|patience| std::time::Instant::now().checked_add(patience));
        loop {
            let result = attempt(&mut core);
            if core.settle() || result.is_some() {
                self.shared.changed.notify_all();
            }
            if result.is_some() {
                return result;
            }
            let rest = until.map(|until| until.saturating_duration_since(std::time::Instant::now()));
            core = match rest {
                Some(Duration::ZERO) => return None,
                Some(rest) => self.shared.changed.wait_timeout(core, rest).unwrap_or_else(PoisonError::into_inner).0,
                None => self.shared.changed.wait(core).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// The time.
    pub fn now(&self) -> Instant {
        self.shared.lock().now()
    }

    /// Sends an IP packet of the peer's into the stack.
    ///
    /// # Errors
    /// EINVAL if it is none.
    pub fn netdev_send(&self, packet: &[u8]) -> Result<(), Errno> {
        let local = destination(packet).ok_or(Errno::INVAL)?;
        self.with(|core| {
            core.start(Some(local))?;
            if let Some(engine) = &mut core.engine {
                engine.device_mut().deliver(packet);
            }
            Ok(())
        })
    }

    /// Takes the oldest packet that the stack has sent, and when it did; waits for one for at most `patience`.
    pub fn netdev_receive(&self, patience: Duration) -> Option<(Vec<u8>, Instant)> {
        let take = |core: &mut Core| core.engine.as_mut()?.device_mut().take_sent();
        self.wait(Some(patience), take).map(|Packet { octets, at }| (octets, at))
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // a panic there has been told already
            let _ = thread.join();
        }
        self.shared.lock().sockets().abandon();
    }
}

/// Where an IP packet goes to.
fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?)),
        6 => Some(IpAddr::from(<[u8; 16]>::try_from(packet.get(24..40)?).ok()?)),
        _ => None,
    }
}
