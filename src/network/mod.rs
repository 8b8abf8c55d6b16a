//! A network of a container's own: a bridge, an address on it, the way out, published ports and names.
//!
//! The work in the kernel is done by the distribution's `netavark`, that of names by its `aardvark-dns`; what they do not know is
//! here: which addresses are free and whose they are (`lease`), which subnet nobody else has (`subnet`), and which ports of the
//! machine are taken (`publish`).
//!
//! ```text
//! /run/dockless/network/     of the whole machine, not of one store
//!   lock                     held while a lease is made and while netavark works: it makes and removes the bridge by itself
//!   subnet                   which of the subnets is in use, and the address that was given last
//!   leases/10.188.0.2        locked by the run's supervisor; holds all that is needed to take its network down again
//!   netavark/                what netavark and aardvark-dns keep
//!   input                    what netavark is told at the moment
//!   guard                    the bridge over which nothing for 127.0.0.0/8 comes in (`loopback`)
//! ```
//!
//! A lease that nobody has locked belonged to a process that was killed. Whoever comes next takes its network down: rules, names,
//! address, and with the last one the bridge.

mod lease;
mod loopback;
mod names;
mod netavark;
mod publish;
mod subnet;

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

pub use lease::{Dead, Lease, Plan, Wanted, forget_dead, is_there_dead};
pub use names::{Alias, Mac};
pub use netavark::{TOOL_DIRS, Tools, move_over, set_up};
pub use publish::{ContainerPort, Protocol, Publish, Published, exposed, hold, publish};
pub use subnet::Subnet;

/// Where the whole machine leases addresses.
pub const NETWORK_DIR: &str = "/run/dockless/network";

/// Where things are on this machine.
#[derive(Debug, Clone)]
pub struct Places {
    /// Where addresses are leased; [`NETWORK_DIR`] unless there is a reason.
    pub dir: PathBuf,
    /// Where netavark and aardvark-dns are looked for, in order.
    pub tools: Vec<PathBuf>,
}

impl Default for Places {
    /// Where distributions have them.
    fn default() -> Self {
        let tools = TOOL_DIRS.into_iter().chain(["/usr/local/bin", "/usr/sbin", "/usr/bin"]);
        Self { dir: NETWORK_DIR.into(), tools: tools.map(PathBuf::from).collect() }
    }
}

/// Why a container has no network of its own.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A malformed `-p`.
    #[error(
        "`--publish`: `{text}` {problem}, expected `[IP:][HOST:]CONTAINER[/tcp|/udp]`, numbers from 1 to 65535 or ranges of them"
    )]
    Publish {
        /// What was given.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A malformed `--expose`.
    #[error("`--expose`: `{0}` is not a port, expected `PORT[/tcp|/udp]`, a number from 1 to 65535 or a range of them")]
    Expose(String),
    /// A malformed `--network-alias`.
    #[error("`--network-alias`: `{0}` is not a name, expected letters, digits, `_`, `.` and `-`, 63 at most")]
    Alias(String),
    /// A malformed `--mac-address`.
    #[error("`--mac-address`: `{0}` is not an address of one machine, expected six bytes as in `02:42:ac:11:00:02`")]
    Mac(String),
    /// Too many ports.
    #[error("{count} ports are to be published, expected {limit} at most")]
    TooMany {
        /// How many.
        count: usize,
        /// How many may be.
        limit: usize,
    },
    /// Somebody has the port.
    #[error("port {port}/{protocol} of `{address}` is in use\nhint: stop what has it, or publish on another port")]
    Taken {
        /// Of which address.
        address: Ipv4Addr,
        /// The port.
        port: u16,
        /// Its kind.
        protocol: Protocol,
    },
    /// A port cannot be had for another reason.
    #[error("cannot publish on port {port}/{protocol} of `{address}`")]
    Bind {
        /// Of which address.
        address: Ipv4Addr,
        /// The port.
        port: u16,
        /// Its kind.
        protocol: Protocol,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The program is not here.
    #[error(
        "a network of its own needs `netavark`, which is in none of {}\nhint: apt install netavark aardvark-dns iptables",
        in_words(.looked_in)
    )]
    NoNetavark {
        /// Where it was looked for.
        looked_in: Vec<PathBuf>,
    },
    /// No subnet is free.
    #[error("this machine's routes leave no subnet of 10.188.0.0/16 free for containers\nhint: `ip route` lists them")]
    NoSubnet,
    /// An address that is not in the subnet.
    #[error("`--ip`: `{address}` is not an address for containers, expected one of {subnet} from {first} to {last}")]
    NotInSubnet {
        /// What was given.
        address: Ipv4Addr,
        /// What there is.
        subnet: Subnet,
        /// The lowest.
        first: Ipv4Addr,
        /// The highest.
        last: Ipv4Addr,
    },
    /// Somebody has the address.
    #[error("`--ip`: `{address}` is taken by run `{holder}`")]
    AddressTaken {
        /// What was given.
        address: Ipv4Addr,
        /// Who has it.
        holder: String,
    },
    /// All addresses are given.
    #[error("all addresses of {0} are taken\nhint: `dockless ps` lists the runs that go on")]
    Full(Subnet),
    /// A file of the leases.
    #[error("cannot {what} `{path}`")]
    File {
        /// What failed.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program cannot be run at all.
    #[error("cannot run `{path}`")]
    Run {
        /// The program.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It hangs.
    #[error("`{path} {action}` did not end within {seconds} s and was killed")]
    Hangs {
        /// The program.
        path: PathBuf,
        /// What it was to do.
        action: &'static str,
        /// How long it was waited for.
        seconds: u64,
    },
    /// It says that it failed.
    #[error("`{path} {action}` failed: {said}{}", hint(.said))]
    Failed {
        /// The program.
        path: PathBuf,
        /// What it was to do.
        action: &'static str,
        /// What it said.
        said: String,
    },
    /// Nothing keeps containers from the machine's loopback address.
    #[error(
        "cannot keep containers on `{bridge}` from services at 127.0.0.1, so no port is published: neither `iptables` nor `nft` \
         makes a rule\nhint: apt install iptables"
    )]
    NoGuard {
        /// The bridge.
        bridge: String,
    },
    /// The kernel does not do what is needed.
    #[error("cannot {what}")]
    Kernel {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn in_words(dirs: &[PathBuf]) -> String {
    dirs.iter().map(|dir| format!("`{}`", dir.display())).collect::<Vec<_>>().join(", ")
}

/// netavark says no more than "No such file or directory" where it finds no iptables.
fn hint(said: &str) -> &'static str {
    if said.contains("No such file or directory") || said.contains("iptables") {
        "\nhint: is iptables there? `apt install iptables`"
    } else if said.contains("Address already in use") || said.contains("aardvark") {
        "\nhint: does another DNS server listen on port 53 of all addresses?"
    } else {
        ""
    }
}
