//! How long a run lasts, and who is told of it.

use std::os::fd::RawFd;
use std::path::PathBuf;

use clap::Args;

use super::super::duration::Span;

#[derive(Debug, Args)]
pub(in super::super) struct LifeArgs {
    /// Stop the run when it takes longer, e.g. `90s`, `12h`; it ends with 124.
    #[arg(long, value_name = "DURATION")]
    pub(in super::super) timeout: Option<Span>,
    /// Write the run's id to this file, which must not be there yet.
    #[arg(long, value_name = "FILE")]
    pub(in super::super) cidfile: Option<PathBuf>,
    /// Write the process id of the container's init to this file when the command runs.
    #[arg(long, value_name = "FILE")]
    pub(in super::super) pidfile: Option<PathBuf>,
    /// Append what happens to this file or named pipe, one JSON document a line.
    #[arg(long, value_name = "FILE")]
    pub(in super::super) events: Option<PathBuf>,
    /// `k8s-file` keeps what the container writes for `logs`; `none` does not.
    #[arg(long, value_name = "DRIVER", default_value = "k8s-file")]
    pub(in super::super) log_driver: String,
    /// `max-size=SIZE` (e.g. `10m`) begins a new log file at that size, `max-file=N` keeps so many [default: 1].
    #[arg(long, value_name = "KEY=VALUE")]
    pub(in super::super) log_opt: Vec<String>,
    /// The same to an open file descriptor.
    #[arg(long, value_name = "N", conflicts_with = "events")]
    pub(in super::super) events_fd: Option<RawFd>,
}
