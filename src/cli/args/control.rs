//! Commands about runs that go on; names and meanings are docker's.

use std::path::PathBuf;

use clap::Args;

use super::super::duration::Span;
use super::super::ps::Filter;
use super::{Format, ListArgs, TalkArgs};

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(in crate::cli) struct PsArgs {
    /// Ended runs too.
    #[arg(short, long)]
    pub(in crate::cli) all: bool,
    /// Only runs that are so: `name=`, `id=`, `status=`, `label=KEY[=VALUE]`, `ancestor=IMAGE`, `exited=CODE`,
    /// `health=STATUS`.
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(in crate::cli) filter: Vec<Filter>,
    /// Only so many of the latest, ended ones too.
    #[arg(short = 'n', long, value_name = "N")]
    pub(in crate::cli) last: Option<usize>,
    /// Only the latest, even if it has ended.
    #[arg(short, long, conflicts_with = "last")]
    pub(in crate::cli) latest: bool,
    /// Cut nothing off.
    #[arg(long)]
    pub(in crate::cli) no_trunc: bool,
    /// Only the names, one a line.
    #[arg(short, long)]
    pub(in crate::cli) quiet: bool,
    #[command(flatten)]
    pub(in crate::cli) list: ListArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct KillArgs {
    /// Which signal, by name or number: `KILL`, `SIGUSR1`, `10`, `RTMIN+1`.
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    pub(in crate::cli) signal: String,
    /// Which runs.
    #[arg(required = true, value_name = "RUN|:TAG")]
    pub(in crate::cli) runs: Vec<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct StopArgs {
    /// How long the workload has after its stop signal before it is killed, e.g. `30s`, `2m` [default: the run's own, 10s].
    #[arg(short, long, value_name = "DURATION")]
    pub(in crate::cli) grace: Option<Span>,
    /// The same in seconds; `-1` waits for ever.
    #[arg(
        short,
        long,
        visible_alias = "timeout",
        value_name = "SECONDS",
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(i64).range(-1..=i64::from(i32::MAX)),
        conflicts_with = "grace"
    )]
    pub(in crate::cli) time: Option<i64>,
    /// The signal that asks the workload to stop [default: the run's own].
    #[arg(short, long, value_name = "SIGNAL")]
    pub(in crate::cli) signal: Option<String>,
    /// Kill at once and save nothing.
    #[arg(long, conflicts_with_all = ["grace", "time", "signal"])]
    pub(in crate::cli) abort: bool,
    /// Which runs.
    #[arg(required = true)]
    pub(in crate::cli) runs: Vec<String>,
    #[command(flatten)]
    pub(in crate::cli) talk: TalkArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RmArgs {
    /// Kill those that go on first; what is not there is no error.
    #[arg(short, long)]
    pub(in crate::cli) force: bool,
    /// Which runs.
    #[arg(required = true, value_name = "RUN|:TAG")]
    pub(in crate::cli) runs: Vec<String>,
    #[command(flatten)]
    pub(in crate::cli) talk: TalkArgs,
}

/// For commands that need to know nothing else.
#[derive(Debug, Args)]
pub(in crate::cli) struct RunsArgs {
    /// Which runs.
    #[arg(required = true, value_name = "RUN|:TAG")]
    pub(in crate::cli) runs: Vec<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct UpdateArgs {
    /// Memory limit, e.g. `512m`, `2g` (powers of 1024).
    #[arg(short, long, value_name = "SIZE")]
    pub(in crate::cli) memory: Option<String>,
    /// Limit of memory and swap together; `-1` for no limit.
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(in crate::cli) memory_swap: Option<String>,
    /// Memory that is left to it longest when memory gets scarce.
    #[arg(long, value_name = "SIZE")]
    pub(in crate::cli) memory_reservation: Option<String>,
    /// Number of CPUs, in fractions if need be.
    #[arg(long, value_name = "N")]
    pub(in crate::cli) cpus: Option<String>,
    /// Weight of CPU time against that of others, 2 to 262144; 1024 is usual.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..=262_144))]
    pub(in crate::cli) cpu_shares: Option<u64>,
    /// CPUs to run on: `0-3`, `0,2`.
    #[arg(long, value_name = "LIST")]
    pub(in crate::cli) cpuset_cpus: Option<String>,
    /// Memory nodes to use: `0-1`, `0,1`.
    #[arg(long, value_name = "LIST")]
    pub(in crate::cli) cpuset_mems: Option<String>,
    /// Number of processes and threads; `-1` for no limit.
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(i64).range(-1..=4_194_304)
    )]
    pub(in crate::cli) pids_limit: Option<i64>,
    /// Weight of disk accesses against those of others, 10 to 1000.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(10..=1000))]
    pub(in crate::cli) blkio_weight: Option<u16>,
    /// Which runs.
    #[arg(required = true, value_name = "RUN|:TAG")]
    pub(in crate::cli) runs: Vec<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct StatsArgs {
    /// Show it once.
    #[arg(long)]
    pub(in crate::cli) no_stream: bool,
    /// How to print; `json` is one object a line for each run.
    #[arg(long, value_enum, default_value = "table")]
    pub(in crate::cli) format: Format,
    /// Which runs [default: all that go on].
    #[arg(value_name = "RUN|:TAG")]
    pub(in crate::cli) runs: Vec<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct TopArgs {
    /// How to print.
    #[arg(long, value_enum, default_value = "table")]
    pub(in crate::cli) format: Format,
    /// Which run.
    #[arg(value_name = "RUN|:TAG")]
    pub(in crate::cli) run: String,
    /// What to show: options of ps (`-o pid,comm`, `aux`, `-ef`: numbers and users of the machine), or names as podman has them
    /// (`pid hpid user huser args`: those of the container, with `h` those of the machine).
    #[arg(value_name = "PS OPTION|COLUMN", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(in crate::cli) columns: Vec<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RenameArgs {
    /// Which run.
    #[arg(value_name = "RUN|:TAG")]
    pub(in crate::cli) run: String,
    /// Its new name.
    #[arg(value_name = "NEW")]
    pub(in crate::cli) to: String,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ExportArgs {
    /// Where to write it [default: standard output].
    #[arg(short, long, value_name = "FILE")]
    pub(in crate::cli) output: Option<PathBuf>,
    /// Which run: one that goes on, or one that was kept (`--keep`).
    #[arg(value_name = "RUN|:TAG")]
    pub(in crate::cli) run: String,
}
