//! Another run whose namespaces are joined, and the certainty that it is that run.
//!
//! A process id may come to mean another process at any time. So its process is held first (a pidfd), then it is checked
//! that the record still names it and that its parent is the supervisor that holds that run's lock, then what is wanted of
//! it is opened, and last of all that it has not ended meanwhile: a process that lives throughout is one and the same.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;

use super::ARGV0;
use crate::container::StartFailure;
use crate::store::{RunDir, RunName, RunState, Store};
use crate::sys;
use crate::sys::graft::{copy_tree_of, open_place, open_place_in};
use crate::words::describe;

/// A run that lives.
#[derive(Debug)]
pub(super) struct Donor {
    name: RunName,
    /// Its init, as `/proc` has it.
    process: PathBuf,
    pidfd: OwnedFd,
}

impl Donor {
    /// Finds the run and its init.
    pub(super) fn find(store: &Store, name: &RunName) -> Result<Self, StartFailure> {
        let gone = || StartFailure::ours(format!("run `{name}` has ended, or does not run yet"));
        let read = |run: &RunDir| run.record().map_err(|error| StartFailure::ours(describe(&error)));
        let run = store.run(name.as_str()).map_err(|error| StartFailure::ours(describe(&error)))?;
        let running = |record: &crate::store::RunRecord| record.pid.filter(|_| record.state == RunState::Running);
        let pid = running(&read(&run)?).ok_or_else(gone)?;
        let pidfd = sys::pidfd(Pid::from_raw(pid)).map_err(|_| gone())?;
        let process = PathBuf::from(format!("/proc/{pid}"));
        let is_same = running(&read(&run)?) == Some(pid) && is_child_of_supervisor(&process, &run.lock_path());
        if is_same { Ok(Self { name: name.clone(), process, pidfd }) } else { Err(gone()) }
    }

    /// One of its namespaces.
    pub(super) fn namespace(&self, kernel_name: &str) -> io::Result<OwnedFd> {
        Ok(fs::File::open(self.process.join("ns").join(kernel_name))?.into())
    }

    /// A copy of what it has at `/dev/shm`.
    pub(super) fn shm(&self) -> io::Result<OwnedFd> {
        let namespace = self.namespace("mnt")?;
        let root = open_place(&self.process.join("root"))?;
        let shm = open_place_in(root.as_fd(), Path::new("/dev/shm"))?;
        copy_tree_of(namespace.as_fd(), shm.as_fd())
    }

    /// Whether its init lives still.
    pub(super) fn confirm(&self) -> Result<(), StartFailure> {
        let mut fds = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::ZERO) {
            Ok(0) => Ok(()),
            _ => Err(StartFailure::ours(format!("run `{}` has ended meanwhile", self.name))),
        }
    }
}

/// Whether the parent is a process of ours that has the run's lock open.
fn is_child_of_supervisor(process: &Path, lock: &Path) -> bool {
    let Ok(lock) = fs::metadata(lock) else { return false };
    let Some(parent) = fs::read_to_string(process.join("stat")).ok().as_deref().and_then(parent_of) else {
        return false;
    };
    let parent = PathBuf::from(format!("/proc/{parent}"));
    let is_ours = fs::read(parent.join("cmdline")).is_ok_and(|words| words.starts_with(ARGV0.as_bytes()));
    let mut files = fs::read_dir(parent.join("fd")).into_iter().flatten().flatten();
    is_ours
        && files.any(|file| {
            fs::metadata(file.path()).is_ok_and(|file| (file.dev(), file.ino()) == (lock.dev(), lock.ino()))
        })
}

/// The parent in `/proc/PID/stat`; the name before it may hold anything, parentheses too.
fn parent_of(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_found_behind_any_name() {
        assert_eq!(parent_of("7 (a) b) 1 (x) S 42 7 7"), Some(42));
        assert_eq!(parent_of("7 (a"), None);
        let own = fs::read_to_string("/proc/self/stat").unwrap();
        assert_eq!(parent_of(&own), Some(nix::unistd::getppid().as_raw()));
    }

    #[test]
    fn no_other_process_passes_for_an_init_of_ours() {
        let dir = tempfile::tempdir().unwrap();
        let lock = dir.path().join("lock");
        fs::write(&lock, "").unwrap();
        assert!(!is_child_of_supervisor(Path::new("/proc/self"), &lock));
        assert!(!is_child_of_supervisor(Path::new("/proc/self"), &dir.path().join("absent")));
    }
}
