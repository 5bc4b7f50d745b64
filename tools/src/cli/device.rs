//! What `serve` and `load` have in common: the device, the addresses, the cores.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;
use syncline_xdp::{ModeChoice, TransmitChoice, ZerocopyChoice};

use crate::error::{Error, Result};
use crate::net::{Cidr, Cores, IfName, OwnedAddrs, Ports};
use crate::units::Span;

/// How the XDP program is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Native, and generic where the driver cannot
    #[default]
    Auto,
    /// In the driver
    Native,
    /// Generic, after the kernel made its own buffer
    Skb,
}

/// Whether the device writes into our buffers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Zerocopy {
    /// If it can
    #[default]
    Auto,
    /// Or fail
    On,
    /// Never
    Off,
}

/// How frames leave in copy mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Transmit {
    /// Bursts by the XDP program where a veth's other end takes XDP frames, else over the ring
    #[default]
    Auto,
    /// Over the socket's ring, frame by frame
    Ring,
}

impl From<Mode> for ModeChoice {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Auto => Self::Auto,
            Mode::Native => Self::Native,
            Mode::Skb => Self::Skb,
        }
    }
}

impl From<Zerocopy> for ZerocopyChoice {
    fn from(zerocopy: Zerocopy) -> Self {
        match zerocopy {
            Zerocopy::Auto => Self::Auto,
            Zerocopy::On => Self::On,
            Zerocopy::Off => Self::Off,
        }
    }
}

impl From<Transmit> for TransmitChoice {
    fn from(transmit: Transmit) -> Self {
        match transmit {
            Transmit::Auto => Self::Auto,
            Transmit::Ring => Self::Ring,
        }
    }
}

/// The flags shared by `serve` and `load`.
#[derive(Clone, Debug, Args, Serialize)]
#[command(next_help_heading = "Device")]
pub struct DeviceArgs {
    /// Enter this network namespace first
    #[arg(long, value_name = "NAME")]
    pub netns: Option<String>,
    /// Network interface
    #[arg(long, value_name = "IF")]
    pub dev: IfName,
    /// Take the device even if this host's own traffic leaves by it
    #[arg(long, hide_short_help = true)]
    pub allow_default_route: bool,
    /// Addresses the engine owns (repeatable)
    ///
    /// For example 10.0.0.1/24 or 10.0.0.1-10.0.0.99/24. The kernel must not have them.
    #[arg(long, value_name = "CIDR|A-B/LEN")]
    pub addr: Vec<OwnedAddrs>,
    /// Address the kernel keeps; only --local-ports of it are the engine's
    #[arg(long, hide_short_help = true, value_name = "CIDR", requires = "local_ports")]
    pub shared_addr: Option<Cidr>,
    /// Local ports for connections: those of --shared-addr that are ours
    #[arg(long, hide_short_help = true, value_name = "A-B")]
    pub local_ports: Option<Ports>,
    /// Next hop for what is not on the link
    ///
    /// One of each family.
    #[arg(long, value_name = "IP")]
    pub gateway: Vec<IpAddr>,
    /// 802.1Q VLAN of all frames
    #[arg(long, hide_short_help = true, value_name = "ID", value_parser = clap::value_parser!(u16).range(1..=4094))]
    pub vlan: Option<u16>,
    /// Cores, a worker and a queue each: 0,2-3
    #[arg(long, value_name = "LIST", help_heading = "Run")]
    pub cores: Option<Cores>,
    /// Keep polling when there is nothing to do, instead of sleeping
    ///
    /// A worker without work sleeps until a frame arrives or something is due, which takes some tens of microseconds
    /// to wake up from. A load generator does not sleep while an answer is awaited (for 50 ms) or something is due within
    /// 20 ms, unless others want its core. With this flag every worker takes its core whole.
    #[arg(long, hide_short_help = true, help_heading = "Run")]
    pub busy_poll: bool,
    /// How the XDP program is attached
    #[arg(long, hide_short_help = true, value_enum, default_value_t)]
    pub mode: Mode,
    /// Whether the device writes into our buffers
    #[arg(long, hide_short_help = true, value_enum, default_value_t)]
    pub zerocopy: Zerocopy,
    /// How frames leave, where the device does not read our buffers
    #[arg(long, hide_short_help = true, value_enum, default_value_t)]
    pub transmit: Transmit,
    /// Frames that may arrive while a core is away: 64 to 8192, a power of two
    #[arg(long, hide_short_help = true, value_name = "N", default_value_t = 2048, value_parser = receive_ring)]
    pub receive_ring: u32,
    /// How long TIME-WAIT lasts
    #[arg(long, hide_short_help = true, value_name = "S", default_value = "60s")]
    #[serde(rename = "time_wait_s")]
    pub time_wait: Span,
    /// End after this long
    #[arg(long, value_name = "S", help_heading = "Run")]
    #[serde(rename = "duration_s")]
    pub duration: Option<Span>,
    /// Seed of every random choice; without it, one is drawn and reported
    #[arg(long, hide_short_help = true, value_name = "N", help_heading = "Run")]
    pub seed: Option<u64>,
    /// Write every frame to this capture file
    #[arg(long, hide_short_help = true, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// Show the first N connections as ladders at the end, on stderr (docs/insight.md)
    #[arg(long, hide_short_help = true, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1_000))]
    pub trace: u32,
}

fn receive_ring(text: &str) -> std::result::Result<u32, String> {
    let fits = |frames: &u32| frames.is_power_of_two() && (64..=8192).contains(frames);
    text.parse().ok().filter(fits).ok_or_else(|| "not a power of two from 64 to 8192".to_owned())
}

impl DeviceArgs {
    /// Checks what follows from several arguments together.
    ///
    /// # Errors
    /// Exit 2.
    pub fn check(&self) -> Result<()> {
        if self.addr.is_empty() && self.shared_addr.is_none() {
            return Err(Error::usage(
                "no address",
                "the engine needs one of its own",
                "give --addr 10.0.0.1/24, or --shared-addr with --local-ports",
            ));
        }
        for (index, addrs) in self.addr.iter().enumerate() {
            let overlaps = |other: &&OwnedAddrs| other.contains(addrs.first()) || addrs.contains(other.first());
            if let Some(other) = self.addr[..index].iter().find(overlaps) {
                return Err(Error::usage(format!("--addr {addrs}"), format!("overlaps {other}"), "name each once"));
            }
        }
        for (index, gateway) in self.gateway.iter().enumerate() {
            if self.gateway[..index].iter().any(|other| other.is_ipv4() == gateway.is_ipv4()) {
                let why = "is the second of its family";
                return Err(Error::usage(format!("--gateway {gateway}"), why, "one gateway of each family is used"));
            }
            if !self.on_link(*gateway) {
                let why = "is on the link of none of the addresses";
                return Err(Error::usage(format!("--gateway {gateway}"), why, "check the prefix lengths of --addr"));
            }
        }
        Ok(())
    }

    /// Whether `addr` is on the link of one of the addresses.
    pub fn on_link(&self, addr: IpAddr) -> bool {
        self.addr.iter().any(|addrs| addrs.on_link(addr)) || self.shared_addr.is_some_and(|own| own.contains(addr))
    }

    /// Checks that `addr` can be reached: on the link, or by a gateway of its family.
    ///
    /// # Errors
    /// Exit 2.
    pub fn check_reachable(&self, addr: IpAddr) -> Result<()> {
        let what = || format!("{addr} cannot be reached");
        let own = self.addr.iter().map(OwnedAddrs::first).chain(self.shared_addr.map(Cidr::addr));
        if !own.into_iter().any(|own| own.is_ipv4() == addr.is_ipv4()) {
            let family = if addr.is_ipv4() { "an IPv4" } else { "an IPv6" };
            return Err(Error::usage(what(), "no address of ours is of its family", format!("give {family} --addr")));
        }
        if !self.on_link(addr) && !self.gateway.iter().any(|gateway| gateway.is_ipv4() == addr.is_ipv4()) {
            return Err(Error::usage(what(), "it is on no link of ours", "give --gateway, or check the prefix length"));
        }
        Ok(())
    }
}
