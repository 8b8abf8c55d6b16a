//! `gpu list`, `explain` and `cdi`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{Format, ListArgs};
use crate::cli::duration::Span;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum GpuCommand {
    /// List the GPUs, what they do, and who holds them.
    List(GpuListArgs),
    /// Show every file and device that a container would be given, where it was found and why, and what is missing.
    Explain(GpuExplainArgs),
    /// Print a CDI specification of the GPUs, for other container tools.
    Cdi(GpuCdiArgs),
}

/// Devices that a container is given.
#[derive(Debug, Args)]
pub(in crate::cli) struct DeviceArgs {
    /// NVIDIA GPUs: `all`, a number, `device=0,GPU-8f2d`, `name=A100,memory=40GB,count=2`, `mig=1g.10gb`.
    #[arg(long, value_name = "REQUEST")]
    pub(in crate::cli) gpus: Option<String>,
    /// What of the driver is given: `all`, or some of compute, utility, video, graphics, display, ngx, compat32
    /// [default: what the image says, else compute,utility].
    #[arg(long, value_name = "LIST")]
    pub(in crate::cli) gpu_capabilities: Option<String>,
    /// A device of this machine, or one that a CDI specification in /etc/cdi or /var/run/cdi describes.
    #[arg(long, value_name = "PATH[:PATH[:rwm]]|VENDOR/CLASS=NAME")]
    pub(in crate::cli) device: Vec<String>,
    #[command(flatten)]
    pub(in crate::cli) driver: DriverArgs,
}

/// How GPUs are shared out among runs.
#[derive(Debug, Args)]
pub(in crate::cli) struct LeaseArgs {
    /// Share the GPUs with other runs that say so too; else they are this run's alone.
    #[arg(long)]
    pub(in crate::cli) gpus_shared: bool,
    /// Wait until the GPUs are free, this long at most.
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true)]
    #[expect(clippy::option_option, reason = "the flag, and the value that it may have")]
    pub(in crate::cli) gpu_wait: Option<Option<Span>>,
}

/// Where the driver is.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct DriverArgs {
    /// Root of the file system that NVIDIA's driver is installed in, if it is not this machine's own.
    #[arg(long, value_name = "DIR", env = "DOCKLESS_DRIVER_ROOT")]
    pub(in crate::cli) driver_root: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct GpuListArgs {
    #[command(flatten)]
    pub(in crate::cli) driver: DriverArgs,
    #[command(flatten)]
    pub(in crate::cli) list: ListArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct GpuExplainArgs {
    #[command(flatten)]
    pub(in crate::cli) driver: DriverArgs,
    /// Which GPUs, as for `run`.
    #[arg(long, value_name = "REQUEST", default_value = "all")]
    pub(in crate::cli) gpus: String,
    /// Driver capabilities, as for `run`.
    #[arg(long, value_name = "LIST")]
    pub(in crate::cli) gpu_capabilities: Option<String>,
    /// How to print.
    #[arg(long, value_enum, default_value = "table")]
    pub(in crate::cli) format: Format,
}

/// How a CDI specification is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum CdiFormat {
    /// As people write it.
    Yaml,
    /// As programs do.
    Json,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct GpuCdiArgs {
    #[command(flatten)]
    pub(in crate::cli) driver: DriverArgs,
    /// How to print.
    #[arg(long, value_enum, default_value = "yaml")]
    pub(in crate::cli) format: CdiFormat,
}
