//! `syncline veth`.

use clap::{Args, Subcommand};

use crate::bed::{BedName, BedSpec};
use crate::net::Cidr;

/// `syncline veth`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  syncline veth up                                  two silent ends, for an engine on each
  syncline veth up --kernel-b 10.9.0.2/24           end b is an ordinary Linux host
  ip netns exec syn-b nginx                         run anything there
  syncline veth up --name nat --via --kernel-b 10.77.2.1/24   a router between;
                                                    status prints its networks
  syncline veth down --name nat")]
pub struct VethArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: VethAction,
}

/// What can be done with a bed.
#[derive(Debug, Subcommand)]
pub enum VethAction {
    /// Make the namespaces NAME-a and NAME-b, joined by the devices NAME-a0 and NAME-b0
    #[command(after_help = "Example:\n  syncline veth up --kernel-b 10.9.0.2/24")]
    Up {
        /// The bed.
        #[command(flatten)]
        bed: NameArgs,
        /// Its shape.
        #[command(flatten)]
        spec: SpecArgs,
    },
    /// Remove the bed and all that is in it
    #[command(after_help = "Example:\n  syncline veth down --name nat")]
    Down {
        /// The bed.
        #[command(flatten)]
        bed: NameArgs,
        /// Once standard input has ended: what takes a bed away for a process that gave up the privilege to do it
        #[arg(long, hide = true)]
        after_stdin: bool,
    },
    /// Show the bed's namespaces, devices and addresses
    #[command(after_help = "Example:\n  syncline veth status")]
    Status(NameArgs),
}

/// Which bed.
#[derive(Clone, Debug, Args)]
pub struct NameArgs {
    /// The bed's name: its namespaces and devices begin with it
    #[arg(long, default_value = "syn", value_name = "NAME")]
    pub name: BedName,
}

/// What it is like.
#[derive(Clone, Debug, Args)]
pub struct SpecArgs {
    /// Queues of each device
    #[arg(long, default_value_t = 1, value_name = "N")]
    queues: u16,
    /// Largest IP packet
    #[arg(long, default_value_t = 1_500, value_name = "OCTETS")]
    mtu: u16,
    /// Address of the kernel's own stack on end a (repeatable)
    #[arg(long, value_name = "CIDR")]
    kernel_a: Vec<Cidr>,
    /// Address of the kernel's own stack on end b (repeatable)
    #[arg(long, value_name = "CIDR")]
    kernel_b: Vec<Cidr>,
    /// A third namespace NAME-dut between the ends, which forwards
    #[arg(long)]
    via: bool,
}

impl From<SpecArgs> for BedSpec {
    fn from(args: SpecArgs) -> Self {
        let SpecArgs { queues, mtu, kernel_a, kernel_b, via } = args;
        Self { queues, mtu, kernel_a, kernel_b, via }
    }
}
