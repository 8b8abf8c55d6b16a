//! From `--cgroups`, `--cgroup-parent` and the environment to the place of a run's cgroup.

use super::args::CgroupArgs;
use super::context::setting;
use super::exit::CliError;
use super::printer::Printer;
use crate::container::default_cgroup_mode;
use crate::engine::CgroupWish;
use crate::store::CgroupMode;

/// What batch systems set in their jobs: Slurm, PBS and its descendants, LSF.
const SCHEDULERS: [&str; 3] = ["SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID"];

/// Checks the flags; a place that nobody asked for and that is not the ordinary one is told at `-v`.
pub(super) fn cgroups(args: &CgroupArgs, printer: Printer) -> Result<CgroupWish, CliError> {
    let parent = args.cgroup_parent.as_deref().map(str::parse).transpose()?;
    let mode = match args.cgroups.as_deref() {
        Some(text) => text.parse().map_err(|error| CliError::Usage(format!("`--cgroups`: {error}")))?,
        // Who names the parent wants a cgroup of its own there.
        None if parent.is_some() => CgroupMode::Own,
        None => {
            let scheduler = SCHEDULERS.into_iter().find(|name| setting(name).is_some());
            let (mode, why) = default_cgroup_mode(scheduler);
            if let Some(why) = why {
                printer.detail(&format!("cgroups: {mode}, because {why}"));
            }
            mode
        }
    };
    Ok(CgroupWish { mode, parent })
}
