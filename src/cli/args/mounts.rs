//! What is mounted into a container, beside `--volume`, `--mount` and `--tmpfs`.

use clap::Args;

/// Mounts.
#[derive(Debug, Args)]
pub(in crate::cli) struct MountArgs {
    /// With `--read-only`: let /tmp, /var/tmp and /run be written all the same; they start empty.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(in crate::cli) read_only_tmpfs: Option<bool>,
    /// Not supported.
    #[arg(long, value_name = "RUN[:ro]", hide = true)]
    pub(in crate::cli) volumes_from: Vec<String>,
}
