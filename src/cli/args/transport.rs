//! Commands that carry images in and out: `load`, `save`, `tag`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::TalkArgs;

#[derive(Debug, Args)]
pub(in crate::cli) struct LoadArgs {
    /// Read this file or OCI layout [default: standard input]; archives may be compressed with gzip or zstd.
    #[arg(short, long, value_name = "FILE")]
    pub(in crate::cli) input: Option<PathBuf>,
    #[command(flatten)]
    pub(in crate::cli) talk: TalkArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct SaveArgs {
    /// Write to this file, or make this directory [default: standard output].
    #[arg(short, long, value_name = "PATH")]
    pub(in crate::cli) output: Option<PathBuf>,
    /// What to write.
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "docker-archive")]
    pub(in crate::cli) format: SaveAs,
    /// Which image of a multi-platform one a docker archive gets, e.g. `linux/arm64`.
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(in crate::cli) platform: Option<String>,
    /// Names or digests.
    #[arg(required = true, value_name = "IMAGE")]
    pub(in crate::cli) images: Vec<String>,
    #[command(flatten)]
    pub(in crate::cli) talk: TalkArgs,
}

/// What `save` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum SaveAs {
    /// What `docker save` writes and `docker load` reads.
    DockerArchive,
    /// An OCI image layout in a tar archive.
    OciArchive,
    /// An OCI image layout; needs `--output`.
    OciDir,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct TagArgs {
    /// An image: its name, or the first digits of its digest.
    pub(in crate::cli) source: String,
    /// The name to give it, which another image may have had until now.
    pub(in crate::cli) target: String,
}
