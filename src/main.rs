//! The binary: a supervisor when it was started as one, the command line otherwise.

use std::env::args_os;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything starts a thread: the supervisor forks.
    dockless::supervisor::entry(args_os().next().as_deref()).unwrap_or_else(dockless::cli::main)
}
