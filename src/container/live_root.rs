//! The root directory of a container that runs, as its own processes see it: with its volumes and other mounts.
//!
//! `/proc/PID/root` leads there (proc(5)). What must not happen is that PID is somebody else by now, or a process of ours in
//! the root of the machine. So the process is held by a pidfd first, and then shown to be the run's init: the record, read
//! after that, says so; the supervisor, which holds the run's lock, is its parent; it has a mount namespace that is neither
//! ours nor the supervisor's; and it still lives when its root has been opened. The kernel gives no pid anew that a pidfd
//! has seen alive all the time.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;

use crate::store::{RunDir, RunState, StoreError};
use crate::sys::beneath::Dir;
use crate::sys::pidfd;

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
#[derive(Debug)]
pub struct LiveInit {
    run: String,
    pid: i32,
    handle: OwnedFd,
}

impl LiveInit {
    /// Finds and verifies it.
    pub fn of(run: &RunDir) -> Result<Self, LiveRootError> {
        let record = run.record()?;
        let name = record.name.to_string();
        let not_running = |state| LiveRootError::NotRunning { run: name.clone(), state };
        let Some(pid) = record.pid.filter(|_| record.state == RunState::Running) else {
            return Err(not_running(record.state));
        };
        let not_init = || LiveRootError::NotInit { run: name.clone(), pid };
        let handle = pidfd(Pid::from_raw(pid)).map_err(|_| not_init())?;
        let again = run.record()?;
        if again.state != RunState::Running || again.pid != Some(pid) {
            return Err(not_running(again.state));
        }
        let supervisor = run.supervisor().ok_or_else(not_init)?;
        let init = Self { run: name.clone(), pid, handle };
        let is_init = init.parent() == Some(supervisor) && init.has_own_mounts(supervisor);
        if is_init && init.is_alive() { Ok(init) } else { Err(not_init()) }
    }

    /// Its number.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it has not ended.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let mut fds = [PollFd::new(self.handle.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready == 0)
    }

    fn proc_path(&self, rest: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{rest}", self.pid))
    }

    fn parent(&self) -> Option<i32> {
        let status = fs::read_to_string(self.proc_path("status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
    }

    fn has_own_mounts(&self, supervisor: i32) -> bool {
        let namespace = |path: PathBuf| fs::metadata(path).ok().map(|namespace| (namespace.dev(), namespace.ino()));
        let its = namespace(self.proc_path("ns/mnt"));
        let others = [format!("/proc/{supervisor}/ns/mnt"), "/proc/self/ns/mnt".to_owned()];
        its.is_some() && others.into_iter().all(|other| namespace(other.into()).is_some_and(|other| Some(other) != its))
    }
}

/// Opens the root of a run that runs. What is mounted below is entered; see [`Dir::open_in_root`] for ways through it.
pub fn live_root(run: &RunDir) -> Result<Dir, LiveRootError> {
    let init = LiveInit::of(run)?;
    let failed = |source| LiveRootError::System { run: init.run.clone(), source };
    let root = Dir::open(&init.proc_path("root")).map_err(failed)?;
    if init.is_alive() {
        Ok(root.across_mounts())
    } else {
        Err(LiveRootError::NotInit { run: init.run.clone(), pid: init.pid })
    }
}
