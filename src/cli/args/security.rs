//! What a container may do beyond docker's defaults, and what less.

use clap::Args;

/// Capabilities, filters and the like; names and meanings are docker's.
#[derive(Debug, Args)]
pub(in crate::cli) struct SecurityArgs {
    /// Give a capability, e.g. `NET_ADMIN`; `ALL` for every one that this machine gives.
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) cap_add: Vec<String>,
    /// Take a capability away; `ALL` for every one that is not added.
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) cap_drop: Vec<String>,
    /// All capabilities and devices, no filter of system calls, /proc, /sys and the control groups writable.
    #[arg(long)]
    pub(in crate::cli) privileged: bool,
    /// `seccomp=FILE|unconfined|builtin`, `no-new-privileges`, `apparmor=PROFILE|unconfined`, `label=disable`,
    /// `systempaths=unconfined`.
    #[arg(long, value_name = "OPTION")]
    pub(in crate::cli) security_opt: Vec<String>,
    /// One more group for the workload, by name or number.
    #[arg(long, value_name = "GROUP")]
    pub(in crate::cli) group_add: Vec<String>,
    /// A kernel parameter of the container's namespaces, e.g. `net.ipv4.ip_forward=1`.
    #[arg(long, value_name = "NAME=VALUE")]
    pub(in crate::cli) sysctl: Vec<String>,
    /// Tell the runtime something.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(in crate::cli) annotation: Vec<String>,
}
