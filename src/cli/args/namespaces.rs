//! What a container shares with the machine or with other runs. Names and meanings are docker's.

use clap::Args;

/// Namespaces.
#[derive(Debug, Args)]
pub(in crate::cli) struct NamespaceArgs {
    /// Shared memory, semaphores and message queues: `private` (the default), `shareable` with other runs, `none`
    /// (without /dev/shm), `host`, `container:RUN`.
    #[arg(long, value_name = "MODE")]
    pub(in crate::cli) ipc: Option<String>,
    /// Which processes are seen: `private` (the default), `host`, `container:RUN`.
    #[arg(long, value_name = "MODE")]
    pub(in crate::cli) pid: Option<String>,
    /// Host name: `private` (the default) or `host`.
    #[arg(long, value_name = "MODE")]
    pub(in crate::cli) uts: Option<String>,
    /// Users: `host` (the default), or `auto[:size=N]`, a range of the machine's that no other run has (65536 ids without
    /// a size).
    #[arg(long, value_name = "MODE")]
    pub(in crate::cli) userns: Option<String>,
    /// Let users of the machine be those of the container, e.g. `0:100000:65536`; may be repeated. Groups are mapped the
    /// same way unless `--gidmap` says otherwise.
    #[arg(long, value_name = "CONTAINER:HOST:LENGTH")]
    pub(in crate::cli) uidmap: Vec<String>,
    /// The same for groups.
    #[arg(long, value_name = "CONTAINER:HOST:LENGTH")]
    pub(in crate::cli) gidmap: Vec<String>,
    /// Map users to the ranges that /etc/subuid gives to this name.
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) subuidname: Option<String>,
    /// Map groups to the ranges that /etc/subgid gives to this name.
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) subgidname: Option<String>,
    /// Control groups: `private` (the default) or `host`.
    #[arg(long, value_name = "MODE")]
    pub(in crate::cli) cgroupns: Option<String>,
}
