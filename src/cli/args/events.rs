//! The arguments of `events`.

use clap::{ArgAction, Args};

use super::ListArgs;

#[derive(Debug, Args)]
pub(in super::super) struct EventsArgs {
    /// Begin with what happened since then: a time, or how long ago (`5m`). Without it only what happens from now on is shown.
    #[arg(long, value_name = "TIME")]
    pub(in super::super) since: Option<String>,
    /// End with what happened until then.
    #[arg(long, value_name = "TIME")]
    pub(in super::super) until: Option<String>,
    /// `run=NAME` or `type=TYPE` (e.g. `exited`); of one kind any, of several kinds all must hold.
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(in super::super) filter: Vec<String>,
    /// Wait for what happens next; `--stream=false` shows what is known and ends.
    #[arg(long, default_value = "true", action = ArgAction::Set, value_name = "BOOL")]
    pub(in super::super) stream: bool,
    #[command(flatten)]
    pub(in super::super) list: ListArgs,
}
