//! The arguments of `cp`.

use std::ffi::OsString;

use clap::Args;

use super::TalkArgs;

#[derive(Debug, Args)]
pub(in super::super) struct CpArgs {
    /// Keep user and group, set-user-ID bits, capabilities and devices; without it what comes out is the caller's, and what
    /// goes in is root's.
    #[arg(short, long)]
    pub(in super::super) archive: bool,
    /// Follow the symbolic link that the source is, instead of copying it.
    #[arg(short = 'L', long)]
    pub(in super::super) follow_link: bool,
    /// What to copy: `RUN:PATH`, a path of this machine, or `-` for a tar archive from standard input.
    #[arg(value_name = "SOURCE")]
    pub(in super::super) source: OsString,
    /// Where to: a path of this machine, `-` for a tar archive to standard output, or `RUN:PATH`.
    #[arg(value_name = "DESTINATION")]
    pub(in super::super) destination: OsString,
    #[command(flatten)]
    pub(in super::super) talk: TalkArgs,
}
