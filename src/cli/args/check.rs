//! Arguments of `check`.

use clap::Args;

use super::{ListArgs, RegistryArgs, TalkArgs};

#[derive(Debug, Args)]
pub(in crate::cli) struct CheckArgs {
    /// Names or digests of the images to check [default: all, and the store itself].
    #[arg(value_name = "IMAGE")]
    pub(in crate::cli) images: Vec<String>,
    /// Do not read content: look only whether everything is there and has its size.
    #[arg(long)]
    pub(in crate::cli) quick: bool,
    /// Mend what is damaged: fetch blobs again, unpack layers again.
    #[arg(long)]
    pub(in crate::cli) repair: bool,
    #[command(flatten)]
    pub(in crate::cli) list: ListArgs,
    #[command(flatten)]
    pub(in crate::cli) registry: RegistryArgs,
    #[command(flatten)]
    pub(in crate::cli) talk: TalkArgs,
}
