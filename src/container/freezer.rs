//! Standing still: the freezer of both cgroup versions (kernel documentation, cgroup-v1/freezer-subsystem.rst; cgroup-v2.rst,
//! `cgroup.freeze`).
//!
//! A process that stands still on v1 does not die of SIGKILL before it goes on, so whoever kills a cgroup thaws it
//! afterwards, with all cgroups that the workload itself has made in it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use super::cgroup::{Cgroup, children, read_key};

/// How often and how long it is waited for that everything stands still.
const ATTEMPTS: u32 = 500;
const PAUSE: Duration = Duration::from_millis(2);
/// Cgroups below each other that are thawed; the kernel makes more only on somebody's wish to be a nuisance.
const MAX_DEPTH: u32 = 64;

/// Why processes do not stand still.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// Nothing to do it with.
    #[error("this machine has no freezer\nhint: cgroup v1 needs its `freezer` mounted, cgroup v2 Linux 5.2")]
    Missing,
    /// The kernel refused.
    #[error("cannot write `{path}`")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It takes too long.
    #[error("some of its processes do not stand still, they hang in the kernel; all go on")]
    Unwilling,
}

/// The file that is written, and what to.
struct Freezer {
    directory: PathBuf,
    file: &'static str,
    freeze: &'static str,
    thaw: &'static str,
}

impl Cgroup {
    fn freezer(&self) -> Option<Freezer> {
        let unified =
            self.unified_dir().map(|directory| Freezer { directory, file: "cgroup.freeze", freeze: "1", thaw: "0" });
        let v1 = || {
            let directory = self.v1_dir("freezer")?;
            Some(Freezer { directory, file: "freezer.state", freeze: "FROZEN", thaw: "THAWED" })
        };
        unified.or_else(v1)
    }

    /// Stops every process where it is, and returns when all stand still.
    pub fn freeze(&self) -> Result<(), FreezeError> {
        let freezer = self.freezer().filter(Freezer::is_there).ok_or(FreezeError::Missing)?;
        freezer.freeze().inspect_err(|_| self.thaw())
    }

    /// Lets them go on. What the workload itself has frozen, in cgroups inside this one, is its own affair.
    pub fn thaw(&self) {
        self.thaw_down_to(0);
    }

    /// Lets every process go on, also in cgroups inside this one: they are to die.
    pub fn thaw_all(&self) {
        self.thaw_down_to(MAX_DEPTH);
    }

    fn thaw_down_to(&self, depth: u32) {
        if let Some(freezer) = self.freezer().filter(Freezer::is_there) {
            freezer.thaw_tree(&freezer.directory, depth);
        }
    }
}

impl Freezer {
    fn is_there(&self) -> bool {
        self.directory.join(self.file).exists()
    }

    fn freeze(&self) -> Result<(), FreezeError> {
        let path = self.directory.join(self.file);
        for _ in 0..ATTEMPTS {
            // On v1 a process that is forked meanwhile is missed; it is caught by the next attempt.
            fs::write(&path, self.freeze).map_err(|source| FreezeError::Write { path: path.clone(), source })?;
            if self.is_frozen() {
                return Ok(());
            }
            sleep(PAUSE);
        }
        Err(FreezeError::Unwilling)
    }

    fn is_frozen(&self) -> bool {
        if self.file == "cgroup.freeze" {
            return read_key(&self.directory.join("cgroup.events"), "frozen") == Some(1);
        }
        fs::read_to_string(self.directory.join(self.file)).is_ok_and(|state| state.trim() == self.freeze)
    }

    fn thaw_tree(&self, directory: &Path, depth: u32) {
        // A cgroup that goes away meanwhile needs nothing.
        drop(fs::write(directory.join(self.file), self.thaw));
        if depth > 0 {
            for child in children(directory) {
                self.thaw_tree(&child, depth - 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The unified hierarchy has its freezer also where all other controllers are in v1.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "a process of the test's own stands still")]
    fn a_process_stands_still_on_v2() {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let unified = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
        let Some(mount) = unified.and_then(|line| line.split(' ').nth(1)) else { return };
        let outer = Path::new(mount).join(format!("dockless-test-{}", std::process::id()));
        let inner = outer.join("inner");
        // Not root, or a mount that nobody may write to.
        if fs::create_dir(&outer).is_err() || fs::create_dir(&inner).is_err() {
            return;
        }
        let mut sleeper = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let state = || {
            let stat = fs::read_to_string(format!("/proc/{}/wchan", sleeper.id())).unwrap_or_default();
            stat.contains("freez")
        };
        fs::write(inner.join("cgroup.procs"), sleeper.id().to_string()).unwrap();
        let freezer = freezer(&outer, "cgroup.freeze");
        assert!(freezer.is_there() && !freezer.is_frozen());
        freezer.freeze().unwrap();
        assert!(freezer.is_frozen());
        // The workload may have frozen a part of itself.
        fs::write(inner.join("cgroup.freeze"), "1").unwrap();
        freezer.thaw_tree(&outer, MAX_DEPTH);
        let until = std::time::Instant::now() + Duration::from_secs(5);
        while (freezer.is_frozen() || state()) && std::time::Instant::now() < until {
            sleep(PAUSE);
        }
        assert!(!freezer.is_frozen() && !state());
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        for directory in [&inner, &outer] {
            fs::remove_dir(directory).unwrap();
        }
    }

    /// Files that keep what is written stand for the kernel's.
    fn freezer(directory: &Path, file: &'static str) -> Freezer {
        let (freeze, thaw) = if file == "cgroup.freeze" { ("1", "0") } else { ("FROZEN", "THAWED") };
        Freezer { directory: directory.to_owned(), file, freeze, thaw }
    }

    #[test]
    fn both_versions_are_asked_in_their_words() {
        let dir = tempfile::tempdir().unwrap();
        let v1 = freezer(dir.path(), "freezer.state");
        assert!(!v1.is_there());
        v1.freeze().unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("freezer.state")).unwrap(), "FROZEN");
        let inner = dir.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("freezer.state"), "FROZEN").unwrap();
        v1.thaw_tree(dir.path(), MAX_DEPTH);
        for place in [dir.path(), &inner] {
            assert_eq!(fs::read_to_string(place.join("freezer.state")).unwrap(), "THAWED");
        }
        let v2 = freezer(dir.path(), "cgroup.freeze");
        fs::write(dir.path().join("cgroup.events"), "populated 1\nfrozen 1\n").unwrap();
        v2.freeze().unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("cgroup.freeze")).unwrap(), "1");
        v2.thaw_tree(dir.path(), 0);
        assert_eq!(fs::read_to_string(dir.path().join("cgroup.freeze")).unwrap(), "0");
    }
}
