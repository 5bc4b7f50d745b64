//! `--metrics`: the counters of a run for Prometheus and whatever else reads OpenMetrics, while it runs.
//!
//! [`catalog`] names what there is (docs/metrics.md is written from it), `page` writes it down, `server` answers.

pub mod catalog;
mod page;
mod server;
mod totals;

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::registry::Registry;

use crate::apps::ServerCounters;
use crate::error::{Error, Result};
use crate::load::Snapshot;
use crate::run::Member;
use totals::LoadTotals;

/// The metrics of this process, answered for on an address.
#[derive(Clone, Debug)]
pub struct Metrics {
    source: Arc<Source>,
    addr: SocketAddr,
}

/// What metrics are read from.
#[derive(Debug, Default)]
struct Source {
    command: &'static str,
    members: Mutex<Vec<Member>>,
    load: Mutex<Option<LoadTotals>>,
    servers: Mutex<Vec<Arc<ServerCounters>>>,
}

/// What is behind a lock are numbers: they are worth as much after a panic as before.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Metrics {
    /// Answers on `addr` of the present network namespace, on a thread that stays off the workers' `cores`.
    ///
    /// # Errors
    /// Exit 3 if the address cannot be had.
    pub fn serve(addr: SocketAddr, command: &'static str, cores: Vec<usize>) -> Result<Self> {
        let failed =
            |error| Error::environment(format!("cannot serve metrics on {addr}"), error, "name another --metrics");
        let listener = TcpListener::bind(addr).map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        let source = Arc::new(Source { command, ..Source::default() });
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Arc::clone(&source)));
        server::start(listener, registry, cores).map_err(failed)?;
        Ok(Self { source, addr })
    }

    /// Where it answers.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The workers are `members` from now on.
    pub fn follow(&self, members: &[Member]) {
        *locked(&self.source.members) = members.to_vec();
    }

    /// They are servers.
    pub fn follow_servers(&self, servers: &[Arc<ServerCounters>]) {
        *locked(&self.source.servers) = servers.to_vec();
    }

    /// They are load generators, that are asked for `offered_cps` connections a second.
    pub fn follow_load(&self, offered_cps: Option<f64>) {
        locked(&self.source.load).get_or_insert_default().offered_cps = offered_cps;
    }

    /// Worker `index` has measured this.
    pub fn add(&self, index: usize, snapshot: &Snapshot) {
        locked(&self.source.load).get_or_insert_default().add(index, snapshot);
    }
}
