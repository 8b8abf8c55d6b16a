//! Health checks: what `run` may be told about them, and `healthcheck`.

use clap::{Args, Subcommand, ValueEnum};

use super::TalkArgs;

/// The check of a run; names and meanings are docker's.
#[derive(Debug, Args)]
pub(in crate::cli) struct HealthArgs {
    /// Ask this command in the container how it is: a line for the image's shell, or a JSON list of a program and its
    /// arguments; `none` for no check [default: the image's].
    #[arg(long, value_name = "COMMAND")]
    pub(in crate::cli) health_cmd: Option<String>,
    /// Time from one check to the next, e.g. `30s`, `1m30s`, `500ms` [default: the image's, else 30s].
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub(in crate::cli) health_interval: Option<String>,
    /// How long a check may take [default: the image's, else 30s].
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub(in crate::cli) health_timeout: Option<String>,
    /// So many failures in a row make the run unhealthy [default: the image's, else 3].
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub(in crate::cli) health_retries: Option<String>,
    /// Failures do not count for so long after the start, until the first success [default: the image's, else 0s].
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub(in crate::cli) health_start_period: Option<String>,
    /// Time from one check to the next meanwhile [default: the image's, else 5s].
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub(in crate::cli) health_start_interval: Option<String>,
    /// What is done when the run turns unhealthy; `stop` and `kill` end it.
    #[arg(long, value_enum, value_name = "ACTION", default_value = "none")]
    pub(in crate::cli) health_on_failure: HealthAction,
    /// Do not run the image's health check.
    #[arg(long, conflicts_with_all = ["health_cmd", "health_interval", "health_timeout", "health_retries",
        "health_start_period", "health_start_interval", "health_on_failure"])]
    pub(in crate::cli) no_healthcheck: bool,
}

/// See [`HealthArgs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum HealthAction {
    /// Nothing but telling.
    None,
    /// SIGKILL.
    Kill,
    /// As `dockless stop` does it.
    Stop,
    /// The same, and begin again as the restart policy says.
    Restart,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum HealthcheckCommand {
    /// Run the health check of a run once, now; ends with 1 when it fails. It does not count for the run.
    Run(HealthcheckRunArgs),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct HealthcheckRunArgs {
    /// Which run.
    pub(in crate::cli) run: String,
    #[command(flatten)]
    pub(in crate::cli) talk: TalkArgs,
}
