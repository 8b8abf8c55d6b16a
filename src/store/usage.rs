//! What live runs rely on, and removing what none of them does.
//!
//! A run has artifacts of earlier runs and caches mounted; its record names them (`deps`, `caches`). Between looking for
//! them and having that record, it holds [`Store::keep_inputs`]; whoever removes runs, artifacts or caches holds
//! [`Store::change_inputs`] while it looks whether a live run uses them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use jiff::Timestamp;
use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

use super::{RunDir, RunName, RunRecord, Store, StoreError, StoredImage};
use crate::image::Digest;
use crate::sys::{Lock, LockMode, disk_usage, open_regular};

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
        self.lock_at_any_rate(INPUTS, on_wait)
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
        let bytes = self.remove_out_of_sight(run.path(), &format!("run-{name}"))?;
        run.finish()?;
        Ok(bytes)
    }

    /// Renames what stands at `path` into the trash; the bytes that it takes there. The caller holds
    /// [`Store::change_inputs`] and empties the trash afterwards.
    pub(super) fn remove_out_of_sight(&self, path: &Path, what: &str) -> Result<u64, StoreError> {
        let bytes = disk_usage(path).unwrap_or(0);
        Ok(if self.throw_away(path, what)? { bytes } else { 0 })
    }

    /// Records of the runs whose layers must stay: those that have not been cleaned up yet, and ended ones that have kept
    /// their writable layer, which means nothing without the layers below.
    ///
    /// # Errors
    /// [`StoreError::RunUnreadable`] for one that goes on and whose record cannot be read.
    pub fn runs_with_layers(&self) -> Result<Vec<RunRecord>, StoreError> {
        let mut found = Vec::new();
        let mut seen = BTreeSet::new();
        for run in self.unfinished_runs()? {
            seen.insert(run.path().to_owned());
            match run.record() {
                Ok(record) => found.push(record),
                // It is just being made: whoever makes it holds [`Store::shared`] before it looks for layers.
                // Said of what was read: a second look may find the record there.
                Err(StoreError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => {}
                Err(source) if run.is_live() => {
                    let name = run.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
                    return Err(StoreError::RunUnreadable { name, source: Box::new(source) });
                }
                Err(_) => {}
            }
        }
        for run in self.runs()? {
            if !seen.contains(run.path()) && run.path().join("upper").exists() {
                found.extend(run.record().ok());
            }
        }
        Ok(found)
    }

    /// The images, each with a run that needs its layers.
    pub fn runs_needing(&self, images: &[StoredImage]) -> Result<Vec<(StoredImage, Option<RunName>)>, StoreError> {
        let runs = self.runs_with_layers()?;
        let user = |image: &StoredImage| {
            let manifests = self.manifests(image).unwrap_or_default();
            let uses = |run: &&RunRecord| {
                run.needed_manifests().any(|needed| manifests.iter().any(|(digest, _)| digest == needed))
            };
            runs.iter().find(uses).map(|run| run.name.clone())
        };
        Ok(images.iter().map(|image| (image.clone(), user(image))).collect())
    }

    /// Notes that the image of this manifest (or index) was used now: the time is the modification time of that blob, whose
    /// content never changes. It costs one system call, needs no lock and no space, and goes with the blob.
    pub fn touch_image(&self, digest: &Digest) {
        // An image that is about to be read must not fail because its time cannot be noted.
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let as_it_is = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let times = Timestamps { last_access: as_it_is, last_modification: now };
        drop(open_regular(&self.blob_path(digest)).map(|blob| rustix::fs::futimens(&blob, &times)));
    }

    /// When the image was last pulled or used, as far as that is known. Names of the same content share it.
    #[must_use]
    pub fn image_last_used(&self, image: &StoredImage) -> Option<Timestamp> {
        let manifests = self.manifests(image).unwrap_or_default();
        let digests = manifests.iter().map(|(digest, _)| digest).chain([&image.descriptor.digest]);
        let times = digests.filter_map(|digest| fs::metadata(self.blob_path(digest)).ok()?.modified().ok());
        times.max().and_then(|time| Timestamp::try_from(time).ok())
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
        assert!(store.has_trash());
        assert!(store.empty_trash(&mut 100, false).unwrap().stuck.is_empty());
        for name in ["runs", "active", "tmp", "trash"] {
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
