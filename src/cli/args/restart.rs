//! `--restart`.

use clap::Args;

/// When a run is started once more.
#[derive(Debug, Args)]
pub(in crate::cli) struct RestartArgs {
    /// `on-failure[:N]` starts the command once more when it has failed, N times at most, as long as the run is not stopped;
    /// later each time, a minute at most. `no` does not.
    #[arg(long, value_name = "POLICY", default_value = "no")]
    pub(in crate::cli) restart: String,
}
