//! The arguments of `doctor`.

use clap::Args;

use super::{DriverArgs, ListArgs};

#[derive(Debug, Args)]
pub(in super::super) struct DoctorArgs {
    /// The same as `--format json`.
    #[arg(long, conflicts_with = "format")]
    pub(in super::super) json: bool,
    #[command(flatten)]
    pub(in super::super) list: ListArgs,
    #[command(flatten)]
    pub(in super::super) driver: DriverArgs,
}
