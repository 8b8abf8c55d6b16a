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
    /// Users: only `host` is there yet.
    #[arg(long, value_name = "MODE")]
    pub(in crate::cli) userns: Option<String>,
    /// Not supported yet.
    #[arg(long, value_name = "CONTAINER:HOST:SIZE", hide = true)]
    pub(in crate::cli) uidmap: Vec<String>,
    /// Not supported yet.
    #[arg(long, value_name = "CONTAINER:HOST:SIZE", hide = true)]
    pub(in crate::cli) gidmap: Vec<String>,
    /// Control groups: `private` (the default) or `host`.
    #[arg(long, value_name = "MODE")]
    pub(in crate::cli) cgroupns: Option<String>,
}
