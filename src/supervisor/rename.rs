//! Giving a run another name, so that a crash at any moment leaves it whole under one of the two.
//!
//! A run's name is in several places: its directory, its record, the directory of its artifacts with their manifests, tags.
//! The run's directory is renamed in the middle. A note in it, `renaming`, stands there from before the first change until
//! after the last; both names are marked as unfinished meanwhile, so that the next command finds the note. Found under the
//! old name everything is taken back; found under the new one, it is finished. Of a run that goes on its supervisor does it
//! ([`live`]); here are the ended ones.

pub(super) mod live;

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::artifact::{ArtifactError, ArtifactStore, ArtifactStoreUrl};
use crate::store::{RunDir, RunName, RunRecord, Store, StoreError};
use crate::sys::{Lock, read_bounded, sync_dir, write_atomic};

const NOTE: &str = "renaming";
const MAX_NOTE_BYTES: u64 = 4096;

/// Why a run keeps its name.
#[derive(Debug, thiserror::Error)]
pub enum RenameError {
    /// It has that name already.
    #[error("the run's name is `{0}` already")]
    Same(RunName),
    /// It goes on: its supervisor is to be asked.
    #[error("run `{0}` is being set up or cleaned up this moment\nhint: try again")]
    Live(RunName),
    /// The new name would be wrong in the bucket.
    #[error("the artifacts of run `{run}` are in `{url}` under its name\nhint: give it a tag instead")]
    Bucket {
        /// The run.
        run: RunName,
        /// Where.
        url: String,
    },
    /// The store cannot be read or written, the name is taken, or the run is in use.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The artifacts cannot be moved.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// A file of ours.
    #[error("cannot rename `{path}`")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What is to be finished or taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    from: RunName,
    to: RunName,
    /// There were artifacts under the old name, and none under the new one.
    artifacts: bool,
}

/// Renames an ended run.
///
/// # Errors
/// Nothing has changed then, but for [`RenameError::Store`] of a full disk after the middle, which the next sweep mends.
pub fn rename_run(
    store: &Store,
    run: &RunDir,
    to: &RunName,
    on_wait: impl FnMut(Option<u32>),
) -> Result<(), RenameError> {
    let record = run.record()?;
    let from = record.name.clone();
    if from == *to {
        return Err(RenameError::Same(from));
    }
    if !record.state.is_final() {
        return Err(RenameError::Live(from));
    }
    let artifacts = artifacts_of(store, &record)?;
    let _unused = hold_unused(store, &from, on_wait)?;
    let Some(lock) = run.try_lock()? else { return Err(RenameError::Live(from)) };
    let moved =
        move_to_new_name(store, run, &Note { artifacts: artifacts.has(&from), from: from.clone(), to: to.clone() });
    // Either way nothing is left to be done for the old name, unless it could not be taken back.
    if moved.is_ok() || !run.path().join(NOTE).exists() {
        run.finish()?;
    }
    drop(lock);
    moved
}

/// Nobody uses the artifacts of a run, nor begins to as long as this is held.
///
/// # Errors
/// When somebody does.
pub fn hold_unused(store: &Store, name: &RunName, on_wait: impl FnMut(Option<u32>)) -> Result<Lock, StoreError> {
    let inputs = store.change_inputs(on_wait)?;
    match store.used()?.runs.get(name) {
        Some(by) => Err(StoreError::RunInUse { name: name.to_string(), by: by.to_string() }),
        None => Ok(inputs),
    }
}

fn move_to_new_name(store: &Store, run: &RunDir, note: &Note) -> Result<(), RenameError> {
    let mut reserved = store.create_run(&note.to)?;
    let path = run.path().join(NOTE);
    let json = serde_json::to_vec(note).unwrap_or_default();
    write_atomic(&path, &json).map_err(|source| RenameError::Io { path, source })?;
    let new = reserved.dir().clone();
    if let Err(error) = move_both(store, run, &new, note) {
        take_back(store, run, note)?;
        return Err(error);
    }
    // From here on it is the run itself that stands there. Its lock keeps a sweep from finishing what is finished here.
    reserved.hold();
    finish(store, &new, note)?;
    Ok(new.finish()?)
}

/// Artifacts first: the run's directory decides.
fn move_both(store: &Store, run: &RunDir, new: &RunDir, note: &Note) -> Result<(), RenameError> {
    let artifacts = artifacts_of(store, &run.record()?)?;
    if artifacts.has(&note.to) {
        return Err(ArtifactError::AlreadyThere { run: note.to.clone() }.into());
    }
    if note.artifacts {
        artifacts.rename(&note.from, &note.to)?;
    }
    let failed = |source| RenameError::Io { path: run.path().to_owned(), source };
    // Takes the place of the empty directory.
    fs::rename(run.path(), new.path()).map_err(failed)?;
    run.path().parent().map_or(Ok(()), sync_dir).map_err(failed)
}

/// Finishes or takes back what was being done when somebody was killed. The caller holds the run's lock.
pub(super) fn resume(store: &Store, run: &RunDir) -> Result<(), RenameError> {
    let path = run.path().join(NOTE);
    let note = match read_bounded(&path, MAX_NOTE_BYTES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        bytes => bytes.map_err(|source| RenameError::Io { path: path.clone(), source })?,
    };
    let note: Note = serde_json::from_slice(&note).map_err(|source| StoreError::Json { path, source })?;
    match run.name() {
        Ok(name) if name == note.from => take_back(store, run, &note),
        Ok(name) if name == note.to => finish(store, run, &note),
        _ => Ok(()),
    }
}

fn take_back(store: &Store, run: &RunDir, note: &Note) -> Result<(), RenameError> {
    let artifacts = artifacts_of(store, &run.record()?)?;
    // Nobody else can have made those of the new name: they were refused.
    if note.artifacts && !artifacts.has(&note.from) && artifacts.has(&note.to) {
        artifacts.rename(&note.to, &note.from)?;
    }
    remove_note(run)
}

fn finish(store: &Store, run: &RunDir, note: &Note) -> Result<(), RenameError> {
    let mut record = run.record()?;
    if note.artifacts {
        artifacts_of(store, &record)?.rename(&note.from, &note.to)?;
    }
    record.name = note.to.clone();
    run.write_record(&record)?;
    for (name, tag) in store.tags().list()? {
        if let Ok(tag) = tag
            && tag.run == note.from
        {
            store.tags().set(&name, &note.to, &tag.created)?;
        }
    }
    remove_note(run)
}

fn remove_note(run: &RunDir) -> Result<(), RenameError> {
    let path = run.path().join(NOTE);
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(RenameError::Io { path, source }),
        _ => Ok(()),
    }
}

fn artifacts_of(store: &Store, record: &RunRecord) -> Result<ArtifactStore, RenameError> {
    match record.artifact_store.as_deref().map(str::parse) {
        None | Some(Err(_)) => Ok(ArtifactStore::new(store.artifacts())),
        Some(Ok(ArtifactStoreUrl::Local(directory))) => Ok(ArtifactStore::new(directory)),
        Some(Ok(ArtifactStoreUrl::S3(url))) => {
            Err(RenameError::Bucket { run: record.name.clone(), url: url.to_string() })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::artifact::Declared;
    use crate::store::testing::ended_run;

    /// A store with the ended run `old`, which has an artifact and the tag `best`.
    pub(super) fn store() -> (tempfile::TempDir, Store, RunDir) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let name = ended_run(&store, "old", |_| {});
        let run = store.run("old").unwrap();
        let declared = Declared::new("out".parse().unwrap(), true, Path::new("/workflow"), None).unwrap();
        ArtifactStore::new(store.artifacts()).prepare(&name, run.path(), &[declared]).unwrap();
        store.tags().set(&"best".parse().unwrap(), &name, "2024-05-01T12:00:00Z").unwrap();
        (dir, store, run)
    }

    /// The run is whole under `name` and nothing of it is left under `other`.
    #[track_caller]
    pub(super) fn assert_named(store: &Store, name: &str, other: &str) {
        let run = store.run(name).unwrap();
        assert_eq!(run.record().unwrap().name.as_str(), name);
        assert!(store.run(other).is_err() && !run.path().join(NOTE).exists());
        let artifacts = ArtifactStore::new(store.artifacts());
        assert_eq!(artifacts.manifest(&name.parse().unwrap()).unwrap().run.as_str(), name);
        assert!(!artifacts.has(&other.parse().unwrap()));
        assert_eq!(store.tags().get(&"best".parse().unwrap()).unwrap().run.as_str(), name);
    }

    #[test]
    fn everything_has_the_new_name() {
        let (_dir, store, run) = store();
        rename_run(&store, &run, &"new".parse().unwrap(), |_| {}).unwrap();
        assert_named(&store, "new", "old");
        assert!(store.unfinished_runs().unwrap().is_empty());
        let run = store.run("new").unwrap();
        assert!(matches!(rename_run(&store, &run, &"new".parse().unwrap(), |_| {}), Err(RenameError::Same(_))));
        ended_run(&store, "old", |_| {});
        let taken = rename_run(&store, &run, &"old".parse().unwrap(), |_| {}).unwrap_err();
        assert!(taken.to_string().contains("the name `old` is taken"), "{taken}");
        assert!(store.unfinished_runs().unwrap().is_empty() && store.run("new").is_ok());
    }

    #[test]
    fn a_crash_leaves_it_whole() {
        for steps in 0..5 {
            let (dir, store, run) = store();
            let note = Note { from: "old".parse().unwrap(), to: "new".parse().unwrap(), artifacts: true };
            let artifacts = ArtifactStore::new(store.artifacts());
            drop(run.try_lock().unwrap());
            let reserved = store.create_run(&note.to).unwrap();
            let new = reserved.dir().clone();
            reserved.keep();
            if steps >= 1 {
                fs::write(run.path().join(NOTE), serde_json::to_vec(&note).unwrap()).unwrap();
            }
            if steps >= 2 {
                artifacts.rename(&note.from, &note.to).unwrap();
            }
            if steps >= 3 {
                fs::rename(run.path(), new.path()).unwrap();
            }
            if steps >= 4 {
                finish(&store, &new, &note).unwrap();
            }
            let at = |name: &str| dir.path().join(name);
            super::super::sweep(&store, &at("state"), &at("leases"), &at("network")).unwrap();
            assert_named(&store, if steps < 3 { "old" } else { "new" }, if steps < 3 { "new" } else { "old" });
            assert!(store.unfinished_runs().unwrap().is_empty(), "{steps}");
        }
    }

    #[test]
    fn two_that_rename_at_once_do_not_share_a_name() {
        let (_dir, store, _run) = store();
        for name in ["a", "b", "c"] {
            ended_run(&store, name, |_| {});
        }
        let rename = |name: &str| rename_run(&store, &store.run(name).unwrap(), &"same".parse().unwrap(), |_| {});
        let done: Vec<bool> = std::thread::scope(|scope| {
            let threads: Vec<_> = ["a", "b", "c"].map(|name| scope.spawn(move || rename(name).is_ok())).into();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(done.iter().filter(|done| **done).count(), 1);
        assert_eq!((store.runs().unwrap().len(), store.unfinished_runs().unwrap().len()), (4, 0));
    }
}
