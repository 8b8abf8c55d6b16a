//! Giving a run that goes on another name. Its supervisor does it, as it alone may write the record and knows the paths.
//!
//! The run's mark of being unfinished, whose lock the supervisor holds, gets the new name as a second link first: both
//! names are taken from then on, and nobody can take either for free. The directory is renamed under the note that the
//! sweep knows, and the mark's old name goes last. Mounts below the directory are no obstacle (rename(2) refuses mount
//! points only, not what is above them), and what the container has mounted of it stays mounted.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::Value;

use super::{NOTE, Note, RenameError, artifacts_of, finish, take_back};
use crate::artifact::{ArtifactError, Prepared};
use crate::store::{RunDir, RunName, RunRecord, Store, StoreError};
use crate::sys::{read_bounded, sync_dir, write_atomic};

/// Largest `config.json`; a request with all of it in it is no larger.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// The parts of a live run that its name is in.
pub(in crate::supervisor) struct Named<'a> {
    pub(in crate::supervisor) store: &'a Store,
    pub(in crate::supervisor) run: &'a mut RunDir,
    pub(in crate::supervisor) record: &'a mut RunRecord,
    pub(in crate::supervisor) artifacts: &'a mut Vec<Prepared>,
}

impl Named<'_> {
    /// Gives the run the name `to`. The caller holds the run's lock and opens no file of that name.
    ///
    /// # Errors
    /// The run has its old name then, unless the disk refused to note the new one after the middle: the sweep does it.
    pub(in crate::supervisor) fn rename(&mut self, to: &RunName) -> Result<(), RenameError> {
        let from = self.record.name.clone();
        if from == *to {
            return Err(RenameError::Same(from));
        }
        let artifacts = artifacts_of(self.store, self.record)?;
        let old = self.run.clone();
        let new = RunDir::at(old.path().with_file_name(to.as_str()));
        let note = Note { artifacts: artifacts.has(&from), from, to: to.clone() };
        take_mark(&old, &new, to)?;
        if let Err(error) = self.move_to(&new, &note) {
            take_back(self.store, &old, &note)?;
            new.finish()?;
            return Err(error);
        }
        // From here on it has the new name, whatever else fails.
        *self.run = new.clone();
        self.record.name = to.clone();
        let finished = finish(self.store, &new, &note);
        *self.artifacts = artifacts.prepared(to, new.path())?;
        let mended = mend_config(&new, old.path());
        finished?;
        mended?;
        Ok(old.finish()?)
    }

    /// Artifacts first: the run's directory decides.
    fn move_to(&self, new: &RunDir, note: &Note) -> Result<(), RenameError> {
        let artifacts = artifacts_of(self.store, self.record)?;
        if artifacts.has(&note.to) {
            return Err(ArtifactError::AlreadyThere { run: note.to.clone() }.into());
        }
        let path = self.run.path().join(NOTE);
        let json = serde_json::to_vec(note).unwrap_or_default();
        write_atomic(&path, &json).map_err(|source| RenameError::Io { path, source })?;
        if note.artifacts {
            artifacts.rename(&note.from, &note.to)?;
        }
        let failed = |source| RenameError::Io { path: self.run.path().to_owned(), source };
        renameat_with(CWD, self.run.path(), CWD, new.path(), RenameFlags::NOREPLACE)
            .map_err(|error| failed(error.into()))?;
        new.path().parent().map_or(Ok(()), sync_dir).map_err(failed)
    }
}

/// Gives the locked mark its second name. Linking opens nothing, so that the lock stays.
fn take_mark(old: &RunDir, new: &RunDir, to: &RunName) -> Result<(), RenameError> {
    let taken = || StoreError::RunExists { name: to.to_string() }.into();
    if new.path().exists() {
        return Err(taken());
    }
    let path = new.lock_path();
    match fs::hard_link(old.lock_path(), &path) {
        // Somebody is just beginning or removing a run of that name.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(taken()),
        linked => linked.map_err(|source| RenameError::Io { path, source }),
    }
}

/// Paths below the run's directory, which whoever starts the container once more reads.
fn mend_config(run: &RunDir, before: &Path) -> Result<(), RenameError> {
    let path = run.config();
    let failed = |source| RenameError::Io { path: path.clone(), source };
    let text = read_bounded(&path, MAX_CONFIG_BYTES).map_err(failed)?;
    let mut spec: Value =
        serde_json::from_slice(&text).map_err(|source| StoreError::Json { path: path.clone(), source })?;
    let mounts = spec.pointer("/mounts").and_then(Value::as_array).map_or(0, Vec::len);
    let sources = (0..mounts).map(|number| format!("/mounts/{number}/source"));
    for pointer in std::iter::once("/root/path".to_owned()).chain(sources) {
        let Some(Value::String(text)) = spec.pointer_mut(&pointer) else { continue };
        let moved =
            moved(Path::new(text), before, run.path()).and_then(|path| path.into_os_string().into_string().ok());
        if let Some(moved) = moved {
            *text = moved;
        }
    }
    write_atomic(&path, &serde_json::to_vec(&spec).unwrap_or_default()).map_err(failed)
}

fn moved(path: &Path, before: &Path, after: &Path) -> Option<PathBuf> {
    path.strip_prefix(before).ok().map(|rest| after.join(rest))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_named, store};
    use super::*;
    use crate::artifact::ArtifactStore;

    #[test]
    fn a_live_run_has_one_of_its_names_at_every_step() {
        for steps in 0..5 {
            let (dir, store, old) = store();
            let note = Note { from: "old".parse().unwrap(), to: "new".parse().unwrap(), artifacts: true };
            let artifacts = ArtifactStore::new(store.artifacts());
            let lock = old.try_lock().unwrap().unwrap();
            let new = RunDir::at(old.path().with_file_name("new"));
            if steps >= 1 {
                take_mark(&old, &new, &note.to).unwrap();
                assert!(new.is_live() && new.try_lock().unwrap().is_none());
                assert!(store.create_run(&"old".parse().unwrap()).is_err());
                assert!(matches!(take_mark(&old, &new, &note.to), Err(RenameError::Store(_))));
            }
            if steps >= 2 {
                fs::write(old.path().join(NOTE), serde_json::to_vec(&note).unwrap()).unwrap();
                artifacts.rename(&note.from, &note.to).unwrap();
            }
            if steps >= 3 {
                fs::rename(old.path(), new.path()).unwrap();
            }
            if steps >= 4 {
                finish(&store, &new, &note).unwrap();
            }
            let at = |name: &str| dir.path().join(name);
            let sweep = || super::super::super::sweep(&store, &at("state"), &at("leases"), &at("network")).unwrap();
            sweep();
            // Nobody has touched what is held.
            assert_eq!(old.path().exists(), steps < 3, "{steps}");
            drop(lock);
            sweep();
            assert_named(&store, if steps < 3 { "old" } else { "new" }, if steps < 3 { "new" } else { "old" });
            assert!(store.unfinished_runs().unwrap().is_empty(), "{steps}");
        }
    }

    #[test]
    fn everything_follows_and_what_is_taken_stays() {
        let (_dir, store, mut run) = store();
        let before = run.path().to_owned();
        let mut record = run.record().unwrap();
        let _lock = run.try_lock().unwrap().unwrap();
        let config = |root: &Path| {
            serde_json::json!({"root": {"path": root.join("rootfs")}, "process": {"args": [before]},
                "mounts": [{"source": root.join("etc/hosts")}, {"source": "/elsewhere"}, {"type": "tmpfs"}]})
        };
        fs::write(run.config(), config(run.path()).to_string()).unwrap();
        let mut artifacts = Vec::new();
        let mut named = Named { store: &store, run: &mut run, record: &mut record, artifacts: &mut artifacts };
        assert!(matches!(named.rename(&"old".parse().unwrap()), Err(RenameError::Same(_))));
        fs::create_dir(before.with_file_name("taken")).unwrap();
        assert!(matches!(named.rename(&"taken".parse().unwrap()), Err(RenameError::Store(_))));
        assert!(before.exists());
        named.rename(&"new".parse().unwrap()).unwrap();
        assert_eq!((record.name.as_str(), run.name().unwrap().as_str()), ("new", "new"));
        assert!(artifacts[0].host_dir.is_dir());
        let mended: Value = serde_json::from_slice(&fs::read(run.config()).unwrap()).unwrap();
        assert_eq!(mended, config(run.path()));
        assert!(run.is_live() && !RunDir::at(before).is_live());
        fs::remove_dir(run.path().with_file_name("taken")).unwrap();
        assert_named(&store, "new", "old");
    }
}
