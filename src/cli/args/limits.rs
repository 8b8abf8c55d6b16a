//! What a container may use, and how a run is stopped and labelled.

use std::path::PathBuf;

use clap::Args;

/// Limits beside `--cpus` and `--memory`; names and meanings are docker's.
#[derive(Debug, Args)]
pub(in crate::cli) struct LimitArgs {
    /// Memory and swap together, e.g. `1g`; -1 for as much swap as there is [default: twice the memory limit].
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(in crate::cli) memory_swap: Option<String>,
    /// Memory that the kernel tries to leave to the container when there is little.
    #[arg(long, value_name = "SIZE")]
    pub(in crate::cli) memory_reservation: Option<String>,
    /// How readily memory is swapped out, 0 to 100; -1 is the machine's own (cgroup v1 only).
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub(in crate::cli) memory_swappiness: Option<String>,
    /// Not supported: a container that runs out of memory would hang instead of ending.
    #[arg(long, hide = true)]
    pub(in crate::cli) oom_kill_disable: bool,
    /// Which processes the kernel kills first when memory is short, -1000 (last) to 1000.
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub(in crate::cli) oom_score_adj: Option<String>,
    /// Processes and threads; -1 for no limit.
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub(in crate::cli) pids_limit: Option<String>,
    /// Weight among others that want the processors, 2 to 262144 [default: 1024].
    #[arg(short, long, value_name = "N")]
    pub(in crate::cli) cpu_shares: Option<String>,
    /// Period of `--cpu-quota` in microseconds, 1000 to 1000000 [default: 100000].
    #[arg(long, value_name = "MICROSECONDS")]
    pub(in crate::cli) cpu_period: Option<String>,
    /// Processor time in each period in microseconds; -1 for no limit.
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    pub(in crate::cli) cpu_quota: Option<String>,
    /// Processors that may be used, e.g. `0-3,5`.
    #[arg(long, value_name = "LIST")]
    pub(in crate::cli) cpuset_cpus: Option<String>,
    /// Memory nodes that may be used, e.g. `0`.
    #[arg(long, value_name = "LIST")]
    pub(in crate::cli) cpuset_mems: Option<String>,
    /// Weight among others that use the same block devices, 10 to 1000.
    #[arg(long, value_name = "N")]
    pub(in crate::cli) blkio_weight: Option<String>,
    /// Bytes that are read from a block device in a second, e.g. `/dev/sda:10mb`.
    #[arg(long, value_name = "DEVICE:SIZE")]
    pub(in crate::cli) device_read_bps: Vec<String>,
    /// Bytes that are written to a block device in a second.
    #[arg(long, value_name = "DEVICE:SIZE")]
    pub(in crate::cli) device_write_bps: Vec<String>,
    /// Reads from a block device in a second.
    #[arg(long, value_name = "DEVICE:N")]
    pub(in crate::cli) device_read_iops: Vec<String>,
    /// Writes to a block device in a second.
    #[arg(long, value_name = "DEVICE:N")]
    pub(in crate::cli) device_write_iops: Vec<String>,
    /// A limit of each process, e.g. `nofile=1024:4096`, `core=0`, `memlock=-1`.
    #[arg(long, value_name = "TYPE=SOFT[:HARD]")]
    pub(in crate::cli) ulimit: Vec<String>,
}

/// What a run is known by and how it is stopped: nothing that a specification holds.
#[derive(Debug, Args)]
pub(in crate::cli) struct RunKeepingArgs {
    /// Signal that asks the workload to stop, by name or number [default: the image's, else SIGTERM].
    #[arg(long, value_name = "SIGNAL")]
    pub(in crate::cli) stop_signal: Option<String>,
    /// Seconds between that signal and SIGKILL; -1 waits for ever [default: 10].
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true)]
    pub(in crate::cli) stop_timeout: Option<String>,
    /// Note this with the run.
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub(in crate::cli) label: Vec<String>,
    /// Read labels from a file, one a line.
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) label_file: Vec<PathBuf>,
}
