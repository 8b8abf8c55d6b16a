//! What concerns terminals, `exec` and `attach`.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::TalkArgs;

/// The terminal of a run, and its first process.
#[derive(Debug, Args)]
pub(in super::super) struct TerminalArgs {
    /// Give the command a terminal.
    #[arg(short, long)]
    pub(in super::super) tty: bool,
    /// The keys that leave a terminal and let the run go on [default: ctrl-p,ctrl-q].
    #[arg(long, value_name = "KEYS")]
    pub(in super::super) detach_keys: Option<String>,
    /// Have a first process in the container that passes signals on and reaps what others leave.
    #[arg(long)]
    pub(in super::super) init: bool,
}

#[derive(Debug, Args)]
pub(in super::super) struct AttachArgs {
    /// Pass no input on.
    #[arg(long)]
    pub(in super::super) no_stdin: bool,
    /// Pass the signals that we get on to the run; with `false` they only end this command.
    #[arg(long, value_name = "BOOL", default_value = "true", default_missing_value = "true", num_args = 0..=1,
        require_equals = true, action = ArgAction::Set)]
    pub(in super::super) sig_proxy: bool,
    /// The keys that leave a terminal and let the run go on [default: ctrl-p,ctrl-q].
    #[arg(long, value_name = "KEYS")]
    pub(in super::super) detach_keys: Option<String>,
    /// Which run.
    pub(in super::super) run: String,
    #[command(flatten)]
    pub(in super::super) talk: TalkArgs,
}

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(in super::super) struct ExecArgs {
    /// Do not stay: return once the command runs.
    #[arg(short, long)]
    pub(in super::super) detach: bool,
    /// Pass standard input on.
    #[arg(short, long)]
    pub(in super::super) interactive: bool,
    /// Give the command a terminal.
    #[arg(short, long)]
    pub(in super::super) tty: bool,
    /// Set an environment variable over the run's; without a value, the caller's.
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub(in super::super) env: Vec<String>,
    /// Read environment variables from a file.
    #[arg(long, value_name = "FILE")]
    pub(in super::super) env_file: Vec<PathBuf>,
    /// User and group, by name or number as the container knows them [default: the run's].
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(in super::super) user: Option<String>,
    /// Working directory in the container [default: the run's].
    #[arg(short, long, value_name = "DIR")]
    pub(in super::super) workdir: Option<String>,
    /// Give the command all capabilities that there are.
    #[arg(long)]
    pub(in super::super) privileged: bool,
    /// The keys that leave a terminal and let the command go on [default: ctrl-p,ctrl-q].
    #[arg(long, value_name = "KEYS")]
    pub(in super::super) detach_keys: Option<String>,
    #[command(flatten)]
    pub(in super::super) talk: TalkArgs,
    /// The run, and the command with its arguments.
    #[arg(value_names = ["RUN", "COMMAND"], num_args = 2.., required = true, trailing_var_arg = true)]
    pub(in super::super) run_and_command: Vec<String>,
}
