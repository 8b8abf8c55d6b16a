//! The process that outlives the command line: it makes the container, waits for it, keeps its log, and takes it apart.
//!
//! libcontainer forks and must not be called in a process with threads, so the command line executes its own binary again
//! ([`Supervisor::start`]) under the name [`ARGV0`], and `main` hands such a process to [`entry`] before anything else starts. The two
//! talk over a socket, the supervisor's standard input ([`protocol`]). What keeps a killed process from leaving anything:
//!
//! - supervisor killed: the kernel kills init (its death signal), drops the run's lock, and the mounts go with the
//!   supervisor's private mount namespace; the cgroup and the record are mended by the next command ([`sweep()`]);
//! - command line killed: the socket closes, and the supervisor stops the run as `docker stop` would.

mod attempt;
mod audience;
mod between;
mod clean;
mod donor;
mod ending;
pub mod exec;
mod flow;
mod gpus;
mod health;
mod hint;
mod input;
mod launch;
mod life;
mod links;
mod live;
mod log;
mod mask;
mod network;
mod places;
mod probe;
pub mod protocol;
mod pulse;
mod reader;
mod relay;
mod rename;
mod restart;
mod save;
mod streams;
mod surroundings;
mod sweep;
mod tail;
mod terminal;
mod users;
mod victim;

use std::ffi::OsStr;
use std::process::ExitCode;

pub use audience::come_to;
pub use gpus::{GpuWatch, WatchedGpu};
pub use hint::shm_hint;
pub use launch::{Entered, LaunchError, Supervisor};
pub use log::{LogEntry, Logging, Stream};
pub use mask::{MASK, MaskedStream, Masker};
pub use reader::LogReader;
pub use rename::{RenameError, hold_unused, rename_run};
pub use surroundings::{Join, Linked, MountedPart, Surroundings};
pub use sweep::{SweepError, sweep};

/// The name under which our own binary is executed to be a supervisor.
pub const ARGV0: &str = "dockless-supervisor";

/// Becomes the supervisor if the process was started as one; for the first line of `main`, before any thread starts.
#[must_use]
pub fn entry(argv0: Option<&OsStr>) -> Option<ExitCode> {
    (argv0 == Some(OsStr::new(ARGV0))).then(life::main)
}
