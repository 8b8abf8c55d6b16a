//! What live runs rely on, and removing what none of them does.
//!
//! A run has artifacts of earlier runs and caches mounted; its record names them (`deps`, `caches`). Between looking for
//! them and having that record, it holds [`Store::keep_inputs`]; whoever removes runs, artifacts or caches holds
//! [`Store::change_inputs`] while it looks whether a live run uses them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::{RunDir, RunName, Store, StoreError};
use crate::image::Digest;
use crate::sys::{Lock, LockMode, disk_usage, remove_tree};

/// Locks it all: the name in `locks/`.
const INPUTS: &str = "inputs";

/// What the live runs have mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Used {
    /// Runs whose artifacts are mounted, each with a live run that has them.
    pub runs: BTreeMap<RunName, RunName>,
    /// Keys of caches.
    pub caches: BTreeSet<String>,
}

impl Store {
    /// Keeps artifacts and caches from being removed while a run that wants them has no record yet.
    pub fn keep_inputs(&self) -> Result<Lock, StoreError> {
        self.lock(INPUTS, LockMode::Shared, |_| {})
    }

    /// The right to remove runs, artifacts and caches that [`Store::used`] does not name; waits for runs that are being
    /// set up.
    pub fn change_inputs(&self, on_wait: impl FnMut(Option<u32>)) -> Result<Lock, StoreError> {
        self.lock(INPUTS, LockMode::Exclusive, on_wait)
    }

    /// What the live runs have mounted. It stays true as long as [`Store::change_inputs`] is held.
    pub fn used(&self) -> Result<Used, StoreError> {
        let mut used = Used::default();
        for record in self.live_runs()? {
            used.runs.extend(record.deps.iter().map(|dep| (dep.clone(), record.name.clone())));
            used.caches.extend(record.caches);
        }
        Ok(used)
    }

    /// Takes an ended run out of sight and removes its directory; the bytes that it took.
    ///
    /// The caller holds [`Store::change_inputs`] and the run's own lock, and has seen that no live run uses it.
    pub fn remove_run(&self, run: &RunDir) -> Result<u64, StoreError> {
        let name = run.path().file_name().unwrap_or_default().to_string_lossy();
        let bytes = self.remove_out_of_sight(run.path(), &format!("run {name}"))?;
        run.finish()?;
        Ok(bytes)
    }

    /// Renames what stands at `path` into `tmp/` and removes it there; the bytes that it took. What a crash leaves of it is
    /// swept by the next command.
    pub(super) fn remove_out_of_sight(&self, path: &Path, what: &str) -> Result<u64, StoreError> {
        let guard = Digest::sha256(what.as_bytes());
        let lock = self.lock_digest(&guard, |_| {})?;
        let away = self.tmp_path(&guard, "trash");
        let write = |source| StoreError::Write { path: path.to_owned(), source };
        remove_tree(&away).map_err(write)?;
        match fs::rename(path, &away) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
            renamed => renamed.map_err(write)?,
        }
        let bytes = disk_usage(&away).unwrap_or(0);
        remove_tree(&away).map_err(write)?;
        // Nobody will soon want this name; what cannot be removed is an empty file.
        drop(lock.remove());
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::record;
    use super::*;

    #[test]
    fn live_runs_use_what_their_records_name() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let live = store.create_run(&"live".parse().unwrap()).unwrap();
        let mut written = record("live");
        written.deps = vec!["old".parse().unwrap()];
        written.caches = vec!["key".to_owned()];
        live.dir().write_record(&written).unwrap();
        let used = store.used().unwrap();
        assert_eq!(used.runs, BTreeMap::from([("old".parse().unwrap(), "live".parse().unwrap())]));
        assert_eq!(used.caches, BTreeSet::from(["key".to_owned()]));
        live.dir().finish().unwrap();
        assert_eq!(store.used().unwrap(), Used::default());
    }

    #[test]
    fn a_removed_run_leaves_nothing_and_its_name_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let name = "one".parse().unwrap();
        let reserved = store.create_run(&name).unwrap();
        let run = reserved.dir().clone();
        reserved.keep();
        run.write_record(&record("one")).unwrap();
        let lock = run.try_lock().unwrap().unwrap();
        assert!(store.remove_run(&run).unwrap() > 0);
        drop(lock);
        for name in ["runs", "active", "tmp"] {
            assert_eq!(fs::read_dir(dir.path().join(name)).unwrap().count(), 0, "{name}");
        }
        assert!(store.create_run(&name).is_ok());
    }

    #[test]
    fn who_sets_up_keeps_others_from_removing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (first, second) = (store.keep_inputs().unwrap(), store.keep_inputs().unwrap());
        let (told, hears) = std::sync::mpsc::channel();
        let remover = store.clone();
        let waiter = std::thread::spawn(move || drop(remover.change_inputs(|_| told.send(()).unwrap()).unwrap()));
        hears.recv().unwrap();
        assert!(!waiter.is_finished());
        drop(first);
        drop(second);
        waiter.join().unwrap();
    }
}
