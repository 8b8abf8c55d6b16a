//! Commands about the store as a whole, and about removing images.

use clap::{Args, Subcommand};

use super::kept::PruneArgs;
use super::{Format, ListArgs, TalkArgs};

#[derive(Debug, Args)]
pub(in crate::cli) struct RmiArgs {
    /// Names or digests.
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "IMAGE")]
    pub(in crate::cli) images: Vec<String>,
    /// All images.
    #[arg(short, long)]
    pub(in crate::cli) all: bool,
    /// Take names away although runs need them, which keep their layers; take all names of a digest; names that are not there
    /// are no error.
    #[arg(short, long)]
    pub(in crate::cli) force: bool,
    #[command(flatten)]
    pub(in crate::cli) talk: TalkArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PruneImagesArgs {
    /// Images with names too, unless a run needs them.
    #[arg(short, long)]
    pub(in crate::cli) all: bool,
    /// Only images that are so: `label=KEY[=VALUE]`, `label!=KEY[=VALUE]`, `until=TIME` (last used or pulled before), `dangling=BOOL`.
    #[arg(long, value_name = "FILTER")]
    pub(in crate::cli) filter: Vec<String>,
    #[command(flatten)]
    pub(in crate::cli) list: ListArgs,
    #[command(flatten)]
    pub(in crate::cli) prune: PruneArgs,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum SystemCommand {
    /// Show what images, layers, runs and left-overs take on the disk.
    Df(DfArgs),
    /// Remove ended runs, images without a name, content that nothing reaches, and left-overs.
    Prune(PruneImagesArgs),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct DfArgs {
    /// Each image, layer and run by itself.
    #[arg(long)]
    pub(in crate::cli) details: bool,
    /// How to print.
    #[arg(long, value_enum, default_value = "table")]
    pub(in crate::cli) format: Format,
}
