//! The binary: one of the engine's helpers when it was started as one, the command line otherwise.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything starts a thread: the supervisor forks.
    dockless::engine::entry(std::env::args_os()).unwrap_or_else(dockless::cli::main)
}
