//! The binary: a supervisor, the parent of an `exec`, an uploader, a reaper or the process that speaks with NVML when it was started as one, the command line otherwise.

use std::env::args_os;
use std::process::ExitCode;

fn main() -> ExitCode {
    let argv0 = args_os().next();
    // Before anything starts a thread: the supervisor forks.
    dockless::supervisor::entry(argv0.as_deref())
        .or_else(|| dockless::supervisor::exec::exec_entry(argv0.as_deref()))
        .or_else(|| dockless::artifact::uploader_entry(argv0.as_deref()))
        .or_else(|| dockless::engine::reaper::reaper_entry(argv0.as_deref(), args_os().skip(1)))
        .or_else(|| dockless::gpu::nvml_entry(argv0.as_deref(), args_os().skip(1)))
        .unwrap_or_else(dockless::cli::main)
}
