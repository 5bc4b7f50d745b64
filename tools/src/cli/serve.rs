//! `syncline serve`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{DeviceArgs, OutputArgs};
use crate::error::{Error, Result};
use crate::net::Ports;
use crate::units::{Count, Octets, Span, SpanRange};

/// What answers on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ServerApp {
    /// Sends back what it reads (RFC 862)
    Echo,
    /// Reads and forgets (RFC 863)
    Discard,
    /// Greets with a line (RFC 867)
    Daytime,
    /// Sends without end (RFC 864)
    Chargen,
    /// Reads a request of fixed size, answers with a response of fixed size and FIN
    Respond,
    /// HTTP/1.1
    Http,
}

/// When SYNs are answered with cookies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SynCookieMode {
    /// When many connections are half open
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// `syncline serve`.
#[derive(Clone, Debug, Args, Serialize)]
#[command(
    next_help_heading = "Server",
    after_help = "\
Examples:
  syncline serve --netns syn-a --dev syn-a0 --addr 10.9.0.1/24 \\
    --port 80 --app http
  syncline serve --dev eth1 --addr 192.0.2.10/24 \\
    --port 7 --app echo --port 9 --app discard"
)]
pub struct ServeArgs {
    /// Port or ports to answer on (repeatable)
    #[arg(long, value_name = "P|P-Q", required = true)]
    pub port: Vec<Ports>,
    /// What answers there: one per --port, in order, or one for all
    #[arg(long, value_enum, required = true)]
    pub app: Vec<ServerApp>,
    /// Octets of a request (respond)
    #[arg(long, value_name = "N", default_value = "64")]
    pub request_bytes: Octets,
    /// Octets of a response (respond, http)
    #[arg(long, value_name = "N", default_value = "64")]
    pub response_bytes: Octets,
    /// How long a request waits for its answer: 5ms, or at random within 1ms-20ms (respond)
    #[arg(long, value_name = "S|S-S", hide_short_help = true)]
    pub delay: Option<SpanRange>,
    /// When SYNs are answered with cookies
    #[arg(long, value_enum, default_value_t)]
    pub syn_cookies: SynCookieMode,
    /// Most connections at once, over all workers; there must be memory for them at the start, 84 octets each
    #[arg(long, value_name = "N")]
    pub max_connections: Option<Count>,
    /// End connections whose peer keeps its window shut, or nearly so, for this long; 0s is never
    #[arg(long, value_name = "S", default_value = "2m", hide_short_help = true)]
    pub stall_timeout: Span,
    /// Tell what became of every connection: at once through a socket (a path that ends with .sock), or in a file at the
    /// end (docs/insight.md)
    #[arg(long, hide_short_help = true, value_name = "SOCKET|FILE")]
    pub server_report: Option<PathBuf>,
    /// Where results go.
    #[command(flatten)]
    #[serde(skip)]
    pub output: OutputArgs,
    /// The device.
    #[command(flatten)]
    #[serde(flatten)]
    pub device: DeviceArgs,
}

impl ServeArgs {
    /// The ports and what answers on them, in the order given.
    ///
    /// # Errors
    /// Exit 2 if they do not pair up, or ports overlap.
    pub fn listeners(&self) -> Result<Vec<(Ports, ServerApp)>> {
        let apps = match self.app.as_slice() {
            [one] => vec![*one; self.port.len()],
            apps if apps.len() == self.port.len() => apps.to_vec(),
            apps => {
                let why = format!("{} of them for {} --port", apps.len(), self.port.len());
                return Err(Error::usage("--app", why, "give one for each --port, or one for all"));
            }
        };
        for (index, ports) in self.port.iter().enumerate() {
            let overlaps = |other: &&Ports| ports.first() <= other.last() && other.first() <= ports.last();
            if let Some(other) = self.port[..index].iter().find(overlaps) {
                return Err(Error::usage(
                    format!("--port {ports}"),
                    format!("overlaps {other}"),
                    "name each port once",
                ));
            }
        }
        Ok(self.port.iter().copied().zip(apps).collect())
    }

    /// Checks what follows from several arguments together.
    ///
    /// # Errors
    /// Exit 2.
    pub fn check(&self) -> Result<()> {
        self.device.check()?;
        let listeners = self.listeners()?;
        if self.delay.is_some() && !listeners.iter().any(|(_, app)| *app == ServerApp::Respond) {
            return Err(Error::usage("--delay", "no port has the app respond", "use it with --app respond"));
        }
        Ok(())
    }
}
