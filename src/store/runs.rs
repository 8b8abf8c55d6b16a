//! Runs: one directory each, with everything that is known about it.
//!
//! ```text
//! runs/<name>/
//!   run.json      the record: what was asked for, how it stands, how it ended (below)
//!   log           what the container wrote, in the CRI format: time, stream, tag, text
//!   config.json   the OCI runtime spec that libcontainer reads
//!   secrets       what its output does not show, for `exec`; gone when it has ended, as config.json is
//!   etc/          resolv.conf, hosts and hostname of the container
//!   control       socket of the supervisor, for `stop` and `wait` of other processes
//!   console       socket that the container's terminal comes through; gone when it has
//!   step          number of the workflow's command that runs, written by its shell
//!   gpu/          what a container with GPUs sees of `/proc/driver/nvidia`
//!   joined/       namespaces and shared memory of other runs, while the container is made
//!   images/       mounted images, with what was written to them
//!   staged/       the spec of a container with users of its own, as libcontainer reads it (see `supervisor::users`)
//!   rootfs/       mount point of the root file system, in the supervisor's own mount namespace; or a copy of it, which stays
//!                 where it is to be kept
//!   upper/ work/  the writable layer; gone at the end unless it is kept
//!   artifacts/    artifact directories until they are saved
//! ```
//!
//! `active/<name>` stands beside it from before the directory is made until the run has been cleaned up. It is a lock: the
//! supervisor holds it as long as it lives. An active run that nobody holds has lost its supervisor, and the next command
//! cleans up after it.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::layers::remove_any;
use super::record::{RunRecord, RunState};
use super::{Store, StoreError};
use crate::sys::{Lock, LockMode, read_bounded, write_atomic};

const MAX_NAME_LEN: usize = 63;
/// Most bytes of a record that are read; arguments and environment may take megabytes.
const MAX_RECORD_BYTES: u64 = 64 << 20;
/// How often and how long the lock of a free name is waited for.
const LOCK_ATTEMPTS: u32 = 2000;
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// The name of a run: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`, at most 63 characters, safe as a file name and a cgroup name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunName(String);

/// Why a string is not the name of a run.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("run name `{0}` is malformed, expected a letter or digit, then letters, digits, `_`, `.`, `-`, 63 at most")]
pub struct RunNameError(String);

impl RunName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RunName {
    type Err = RunNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let good = text.len() <= MAX_NAME_LEN
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
            && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        if good { Ok(Self(text.to_owned())) } else { Err(RunNameError(text.to_owned())) }
    }
}

impl TryFrom<String> for RunName {
    type Error = RunNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<RunName> for String {
    fn from(name: RunName) -> Self {
        name.0
    }
}

impl fmt::Display for RunName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The directory of a run.
#[derive(Debug, Clone)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// A run's directory as it stands on disk already.
    #[must_use]
    pub const fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it is; absolute.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The run's name.
    ///
    /// # Errors
    /// When the directory was not made by [`Store::create_run`].
    pub fn name(&self) -> Result<RunName, RunNameError> {
        self.path.file_name().unwrap_or_default().to_string_lossy().parse()
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Reads the record.
    pub fn record(&self) -> Result<RunRecord, StoreError> {
        let path = self.path.join("run.json");
        let bytes =
            read_bounded(&path, MAX_RECORD_BYTES).map_err(|source| StoreError::Read { path: path.clone(), source })?;
        serde_json::from_slice(&bytes).map_err(|source| StoreError::Json { path, source })
    }

    /// Writes the record so that it survives a power cut.
    pub fn write_record(&self, record: &RunRecord) -> Result<(), StoreError> {
        let path = self.path.join("run.json");
        let json = serde_json::to_vec_pretty(record).unwrap_or_default();
        write_atomic(&path, &json).map_err(|source| StoreError::Write { path, source })
    }

    /// Writes the record atomically but not durably: for a state that a reboot makes meaningless anyway.
    pub fn write_passing_record(&self, record: &RunRecord) -> Result<(), StoreError> {
        let (path, new) = (self.path.join("run.json"), self.path.join("run.json.new"));
        let json = serde_json::to_vec_pretty(record).unwrap_or_default();
        fs::write(&new, json)
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|source| StoreError::Write { path, source })
    }

    /// Takes the lock that says the run lives; `None` when somebody holds it.
    pub fn try_lock(&self) -> Result<Option<Lock>, StoreError> {
        let path = active_path(&self.path);
        Lock::try_acquire(&path, LockMode::Exclusive).map_err(|source| StoreError::Lock { path, source })
    }

    /// Whether a supervisor holds the run.
    #[must_use]
    pub fn is_live(&self) -> bool {
        Lock::holder(&active_path(&self.path)).is_ok_and(|holder| holder.is_some())
    }

    /// The file whose lock says that the run lives; see [`RunDir::try_lock`].
    #[must_use]
    pub fn lock_path(&self) -> PathBuf {
        active_path(&self.path)
    }

    /// The supervisor's socket.
    #[must_use]
    pub fn control(&self) -> PathBuf {
        self.path.join("control")
    }

    /// Where the container's terminal is sent to while it is made.
    #[must_use]
    pub fn console(&self) -> PathBuf {
        self.path.join("console")
    }

    /// Where the shell of a workflow notes which command runs.
    #[must_use]
    pub fn step(&self) -> PathBuf {
        self.path.join("step")
    }

    /// The runtime spec that libcontainer reads; gone when the run has ended.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.path.join("config.json")
    }

    /// Where its root file system is, or was mounted; a copy that was kept is there still.
    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.path.join("rootfs")
    }

    /// Texts that its output does not show, for others who show some; gone when the run has ended.
    #[must_use]
    pub fn secrets(&self) -> PathBuf {
        self.path.join("secrets")
    }

    /// The process that has set the run up, if the run lives; as long as there is no supervisor it can be asked to stop.
    #[must_use]
    pub fn creator(&self) -> Option<i32> {
        Lock::holder(&active_path(&self.path)).ok().flatten().flatten().and_then(|pid| i32::try_from(pid).ok())
    }

    /// The supervisor of a run that lives, once it has bound the run's lock to itself. The kernel tells it, so it is that process
    /// and no other as long as the lock is held.
    #[must_use]
    pub fn supervisor(&self) -> Option<i32> {
        Lock::owner(&active_path(&self.path)).ok().flatten()
    }

    /// Whether the run is still being set up by whoever wants it.
    #[must_use]
    pub fn is_before_its_supervisor(&self) -> bool {
        self.record().is_ok_and(|record| matches!(record.state, RunState::Submitted | RunState::Pulling))
    }

    /// Files that are mounted into a container with GPUs.
    #[must_use]
    pub fn gpu(&self) -> PathBuf {
        self.path.join("gpu")
    }

    /// Where artifacts are until they are saved.
    #[must_use]
    pub fn artifacts(&self) -> PathBuf {
        self.path.join("artifacts")
    }

    /// Whether something lies there still.
    #[must_use]
    pub fn has_unsaved_artifacts(&self) -> bool {
        // Saving them moves the whole directory away.
        self.artifacts().is_dir()
    }

    /// Removes what an ended run needs no more; with `keep` the writable layer stays, or the copy that took its place.
    pub fn tidy(&self, keep: bool) -> Result<(), StoreError> {
        let mut names = vec![
            "work",
            "volumes",
            "etc",
            "gpu",
            "joined",
            "images",
            "staged",
            "config.json",
            "secrets",
            "control",
            "console",
            "step",
        ];
        // What an overlay was mounted on is empty.
        let has_copy = keep && fs::read_dir(self.rootfs()).is_ok_and(|mut entries| entries.next().is_some());
        if !has_copy {
            names.push("rootfs");
        }
        if !keep {
            names.push("upper");
        }
        if !self.has_unsaved_artifacts() {
            names.push("artifacts");
        }
        for name in names {
            remove_any(&self.path.join(name))?;
        }
        Ok(())
    }

    /// Removes the directory and all in it.
    pub fn remove(self) -> Result<(), StoreError> {
        remove_any(&self.path)?;
        self.finish()
    }

    /// The directory itself, to be found again whatever name the run is given.
    #[must_use]
    pub fn place(&self) -> RunPlace {
        let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_DIRECTORY).open(&self.path).ok();
        RunPlace { file, path: self.path.clone() }
    }

    /// Takes the mark of an unfinished run away: it has been cleaned up, and its record says how it ended.
    pub fn finish(&self) -> Result<(), StoreError> {
        remove_any(&active_path(&self.path))
    }

    /// Whether there is no record at all, as opposed to one that cannot be read.
    #[must_use]
    pub fn lacks_record(&self) -> bool {
        matches!(self.record(), Err(StoreError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound)
    }
}

/// The directory of a run that may get another name.
#[derive(Debug)]
pub struct RunPlace {
    /// `None` for one that is not there.
    file: Option<File>,
    path: PathBuf,
}

impl RunPlace {
    /// It under the name that the run has this moment; one that was removed has a path that nothing has.
    #[must_use]
    pub fn now(&self) -> RunDir {
        // The kernel writes the path of an open directory there (proc_pid_fd(5)).
        let path = self.file.as_ref().and_then(|file| fs::read_link(descriptor_path(file)).ok());
        RunDir { path: path.unwrap_or_else(|| self.path.clone()) }
    }

    /// As [`RunDir::is_live`].
    #[must_use]
    pub fn is_live(&self) -> bool {
        let mut run = self.now();
        loop {
            if run.is_live() {
                return true;
            }
            // The old name's mark goes after the directory has the new one.
            let again = self.now();
            if again.path == run.path {
                return false;
            }
            run = again;
        }
    }

    /// The log, by a path that stays right.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.file.as_ref().map_or_else(|| self.path.clone(), descriptor_path).join("log")
    }
}

fn descriptor_path(file: &File) -> PathBuf {
    Path::new("/proc/self/fd").join(file.as_raw_fd().to_string())
}

/// A name with its directory and its lock, for a run that is being set up; dropping it gives all of them back.
#[derive(Debug)]
pub struct Reservation {
    name: RunName,
    dir: RunDir,
    lock: Lock,
    kept: bool,
}

impl Reservation {
    /// The name.
    #[must_use]
    pub const fn name(&self) -> &RunName {
        &self.name
    }

    /// The run's directory.
    #[must_use]
    pub const fn dir(&self) -> &RunDir {
        &self.dir
    }

    /// The run's lock.
    #[must_use]
    pub const fn lock(&self) -> &Lock {
        &self.lock
    }

    /// The run belongs to its supervisor from now on.
    pub fn keep(mut self) {
        self.hold();
    }

    /// The run stays, and its lock is held until this is dropped.
    pub fn hold(&mut self) {
        self.kept = true;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.kept {
            drop(self.dir.clone().remove());
        }
    }
}

impl Store {
    /// Makes the directory of a new run, whose name must be free, and takes the lock that says the run lives.
    pub fn create_run(&self, name: &RunName) -> Result<Reservation, StoreError> {
        let dir = RunDir { path: self.run_path(name) };
        let taken = || StoreError::RunExists { name: name.to_string() };
        let mut attempts = 0;
        let lock = loop {
            if dir.path.exists() {
                return Err(taken());
            }
            if let Some(lock) = dir.try_lock()? {
                break lock;
            }
            // A sweep holds every lock it finds for a moment; a run has made its directory by then.
            attempts += 1;
            if attempts == LOCK_ATTEMPTS {
                return Err(taken());
            }
            std::thread::sleep(LOCK_PAUSE);
        };
        match fs::DirBuilder::new().mode(0o700).create(&dir.path) {
            Ok(()) => Ok(Reservation { name: name.clone(), dir, lock, kept: false }),
            // Another process was faster; the mark stays for the sweep, which sees what is true by then.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(taken()),
            Err(source) => {
                drop(lock.remove());
                Err(StoreError::Write { path: dir.path, source })
            }
        }
    }

    /// Opens the directory of a run.
    pub fn run(&self, name: &str) -> Result<RunDir, StoreError> {
        let missing = || StoreError::NoRun { name: name.to_owned() };
        let path = self.run_path(&name.parse().map_err(|_| missing())?);
        if path.is_dir() { Ok(RunDir { path }) } else { Err(missing()) }
    }

    /// The directories of all runs, by name; their records are read by whoever needs them, so that a damaged one harms
    /// nobody else.
    pub fn runs(&self) -> Result<Vec<RunDir>, StoreError> {
        let dir = self.root().join("runs");
        let read = |source| StoreError::Read { path: dir.clone(), source };
        let mut paths = Vec::new();
        for entry in fs::read_dir(&dir).map_err(read)? {
            let entry = entry.map_err(read)?;
            if entry.file_name().to_str().is_some_and(|name| name.parse::<RunName>().is_ok()) {
                paths.push(entry.path());
            }
        }
        paths.sort();
        Ok(paths.into_iter().map(|path| RunDir { path }).collect())
    }

    /// Runs that nobody has cleaned up after yet: those that go on, and those whose supervisor was killed.
    pub fn unfinished_runs(&self) -> Result<Vec<RunDir>, StoreError> {
        let dir = self.root().join("active");
        let read = |source| StoreError::Read { path: dir.clone(), source };
        let mut found = Vec::new();
        for entry in fs::read_dir(&dir).map_err(read)? {
            let name = entry.map_err(read)?.file_name();
            if let Some(Ok(name)) = name.to_str().map(str::parse) {
                found.push(RunDir { path: self.run_path(&name) });
            }
        }
        Ok(found)
    }

    /// Records of the runs that rely on images and layers right now.
    pub fn live_runs(&self) -> Result<Vec<RunRecord>, StoreError> {
        Ok(self.unfinished_runs()?.iter().filter_map(|run| run.record().ok()).collect())
    }

    fn run_path(&self, name: &RunName) -> PathBuf {
        self.root().join("runs").join(name.as_str())
    }
}

/// The lock of a run. All of them stand in one place, so that looking for the unfinished does not grow with the runs kept.
fn active_path(run: &Path) -> PathBuf {
    let root = run.parent().and_then(Path::parent).unwrap_or(run);
    root.join("active").join(run.file_name().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_everywhere() {
        for good in ["a", "clever-otter-1", "A.b_c-9"] {
            assert!(good.parse::<RunName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "-a", ".a", "a/b", "a b", "ä", &"a".repeat(64)] {
            assert!(bad.parse::<RunName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_is_taken_once_and_a_lock_says_who_lives() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let name: RunName = "one".parse().unwrap();
        let reserved = store.create_run(&name).unwrap();
        let run = reserved.dir().clone();
        assert!(matches!(store.create_run(&name), Err(StoreError::RunExists { .. })));
        assert!(run.is_live() && run.try_lock().unwrap().is_none());
        let lock = reserved.lock().file().try_clone().unwrap();
        reserved.keep();
        assert!(run.is_live(), "the lock is held as long as anybody has its file");
        drop(lock);
        assert!(!run.is_live());
        assert!(matches!(store.create_run(&name), Err(StoreError::RunExists { .. })), "an ended run keeps its name");
        assert_eq!(store.unfinished_runs().unwrap().len(), 1, "the mark of an unfinished run is lost");
        store.run("one").unwrap().remove().unwrap();
        assert!(matches!(store.run("one"), Err(StoreError::NoRun { .. })));
        drop(store.create_run(&name).unwrap());
        assert!(store.create_run(&name).is_ok(), "a name that was not used is free again");
        assert_eq!(store.unfinished_runs().unwrap().len(), 0);
        assert!(matches!(store.run("../x"), Err(StoreError::NoRun { .. })));
    }
}
