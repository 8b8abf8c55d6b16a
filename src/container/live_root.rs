//! The root directory of a container that runs, as its own processes see it: with its volumes and other mounts.
//!
//! `/proc/PID/root` leads there (proc(5)). What must not happen is that PID is somebody else by now, or a process of ours in
//! the root of the machine. So the process is held by a pidfd first, and then shown to be the run's init: the record, read
//! after that, says so; the supervisor, which holds the run's lock, is its parent; it has a mount namespace that is neither
//! ours nor the supervisor's; and it still lives when its root has been opened. The kernel gives no pid anew that a pidfd
//! has seen alive all the time.

use std::io;

use super::member::Member;
use crate::store::{RunDir, RunState, StoreError};
use crate::sys::beneath::Dir;

/// Why the root of a run cannot be entered.
#[derive(Debug, thiserror::Error)]
pub enum LiveRootError {
    /// The record cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It has no container, not yet or not any more.
    #[error("run `{run}` is {state}, expected one that is running\nhint: `dockless ps` lists those")]
    NotRunning {
        /// The run.
        run: String,
        /// How it stands.
        state: RunState,
    },
    /// The process that its record names is not its init.
    #[error(
        "process {pid} is not the init of run `{run}` any more\nhint: the run is ending; try again after `dockless wait {run}`"
    )]
    NotInit {
        /// The run.
        run: String,
        /// The process.
        pid: i32,
    },
    /// A system call failed.
    #[error("cannot enter the root of run `{run}`")]
    System {
        /// The run.
        run: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The init of a run that runs, held so that its number cannot come to mean somebody else unnoticed.
///
/// # Errors
/// When it does not run, or the process that its record names is not its init.
pub fn live_init(run: &RunDir) -> Result<Member, LiveRootError> {
    let record = run.record()?;
    let name = record.name.to_string();
    let not_running = |state| LiveRootError::NotRunning { run: name.clone(), state };
    let Some(pid) = record.pid.filter(|_| record.state == RunState::Running) else {
        return Err(not_running(record.state));
    };
    let not_init = || LiveRootError::NotInit { run: name.clone(), pid };
    let supervisor = run.supervisor().ok_or_else(not_init)?;
    let init = Member::child_of(pid, supervisor).map_err(|_| not_init())?;
    let again = run.record()?;
    if again.state != RunState::Running || again.pid != Some(pid) {
        return Err(not_running(again.state));
    }
    if init.has_own_mounts(supervisor) && init.check_alive().is_ok() { Ok(init) } else { Err(not_init()) }
}

/// Opens the root of a run that runs. What is mounted below is entered; see [`Dir::open_in_root`] for ways through it.
pub fn live_root(run: &RunDir) -> Result<Dir, LiveRootError> {
    let init = live_init(run)?;
    let name = run.name().map(|name| name.to_string()).unwrap_or_default();
    init.root().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => LiveRootError::NotInit { run: name, pid: init.pid().as_raw() },
        _ => LiveRootError::System { run: name, source },
    })
}
