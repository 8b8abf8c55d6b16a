//! `--cgroups` and `--cgroup-parent`.

use clap::Args;

/// Where a run's cgroup is.
#[derive(Debug, Args)]
pub(in crate::cli) struct CgroupArgs {
    /// Where the run's cgroup is: `own`, `/dockless/RUN`; `nested`, below the caller's; `inherit`, it stays in the caller's; `none`,
    /// as `inherit`, and the container sees nothing of it [default: own, in a scheduler's job inherit].
    #[arg(long, value_name = "WHERE")]
    pub(in crate::cli) cgroups: Option<String>,
    /// The cgroup that the run's own is made in, from the root of the hierarchy on; made when missing.
    #[arg(long, value_name = "PATH")]
    pub(in crate::cli) cgroup_parent: Option<String>,
}
