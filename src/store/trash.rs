//! `trash/`: what is deleted, on its way out.
//!
//! ```text
//! trash/<what>-<number>     a blob, a layer, a run, a cache
//! trash/collect             content is being collected; there after a crash that cut a collection off
//! ```
//!
//! Deleting is a rename, which takes no time and is seen whole or not at all; it happens under the lock of what is deleted.
//! Unlinking comes after that lock is released, so that nobody waits for it. Who empties the trash holds flock(2) on the
//! directory itself: that needs no inode on a full file system, and dies with its holder. Whatever a crash leaves here goes
//! with the next command.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::{Store, StoreError};
use crate::sys::{Lock, LockMode, Progress, remove_some};

/// Says that a collection was begun and not ended.
const MARK: &str = "collect";
/// What could not be removed is renamed to this, so that not every command tries it again.
const STUCK: &str = ".stuck";
/// The tree of a layer that could not be moved away; [`Store::layer_fs`] does not see it.
const GONE: &str = "gone";
/// Names that are tried for one thing.
const MAX_NUMBER: u32 = 10_000;

/// What emptying the trash came to.
#[derive(Debug, Default)]
pub struct Emptied {
    /// Whether something is left that only needs more time; also when another process is at it.
    pub unfinished: bool,
    /// What cannot be removed, each with the reason in words.
    pub stuck: Vec<(PathBuf, io::Error)>,
}

impl Emptied {
    /// Names that are to go and have not been tried yet.
    fn waiting(&self, trash: &Path, again: bool) -> Vec<String> {
        let mut names = names(trash);
        names.retain(|name| {
            let was_tried =
                self.stuck.iter().any(|(path, _)| path.file_name().is_some_and(|tried| tried == name.as_str()));
            name != MARK && !was_tried && (again || !name.ends_with(STUCK))
        });
        names
    }
}

impl Store {
    /// Where deleted things are on their way out.
    #[must_use]
    pub fn trash(&self) -> PathBuf {
        self.root().join("trash")
    }

    pub(super) fn make_trash(&self) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(self.trash()) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            made => made,
        }
    }

    /// Whether something is on its way out, apart from what cannot be removed.
    #[must_use]
    pub fn has_trash(&self) -> bool {
        names(&self.trash()).iter().any(|name| !name.ends_with(STUCK))
    }

    /// Takes what stands at `path` out of sight, in one step; false when nothing did. `what` becomes part of its name.
    ///
    /// The caller holds a lock that keeps others from making or deleting `path`. A directory that has no room for one more
    /// name, on a full file system, is emptied first.
    pub(super) fn throw_away(&self, path: &Path, what: &str) -> Result<bool, StoreError> {
        let write = |source| StoreError::Write { path: path.to_owned(), source };
        match self.rename_away(path, what) {
            Err(error) if is_full(&error) => {
                // Frees blocks, and the names in this directory.
                let mut budget = u64::MAX;
                drop(self.empty_trash(&mut budget, false));
                match self.rename_away(path, what) {
                    Err(error) if is_full(&error) => remove_in_place(path).map(|()| true).map_err(write),
                    renamed => renamed.map_err(write),
                }
            }
            renamed => renamed.map_err(write),
        }
    }

    fn rename_away(&self, path: &Path, what: &str) -> io::Result<bool> {
        for number in 0..MAX_NUMBER {
            let away = self.trash().join(format!("{what}-{number}"));
            if fs::symlink_metadata(&away).is_ok() {
                continue;
            }
            match fs::rename(path, &away) {
                Ok(()) => return Ok(true),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    if fs::symlink_metadata(path).is_err() {
                        return Ok(false);
                    }
                    self.make_trash()?;
                    return fs::rename(path, &away).map(|()| true);
                }
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("the trash is full of things of this name"))
    }

    /// Unlinks what is in the trash for as long as `budget` lasts (see [`remove_some`]). Holds no lock that anybody else
    /// waits for.
    ///
    /// With `again`, what could not be removed before is tried once more.
    pub fn empty_trash(&self, budget: &mut u64, again: bool) -> Result<Emptied, StoreError> {
        let path = self.trash();
        let read = |source| StoreError::Read { path: path.clone(), source };
        let (mut emptied, mut again) = (Emptied::default(), again);
        loop {
            let dir = match File::open(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(emptied),
                opened => opened.map_err(read)?,
            };
            let waiting = emptied.waiting(&path, again);
            if waiting.is_empty() {
                return Ok(emptied);
            }
            if flock(&dir, FlockOperation::NonBlockingLockExclusive).is_err() {
                emptied.unfinished = true;
                return Ok(emptied);
            }
            for name in waiting {
                match remove_some(&path.join(&name), budget) {
                    Ok(Progress::Gone) => {}
                    Ok(Progress::Spent) => {
                        emptied.unfinished = true;
                        return Ok(emptied);
                    }
                    Err(error) => emptied.stuck.push((set_aside(&path, &name), error)),
                }
            }
            again = false;
            // Whoever threw something away meanwhile has seen the lock held and relies on its holder: look once more.
            drop(dir);
        }
    }

    /// Notes that content is being collected; best effort, because a full file system must not keep anybody from it.
    pub(super) fn mark_collecting(&self) {
        drop(self.make_trash().and_then(|()| File::create(self.trash().join(MARK))));
    }

    pub(super) fn mark_collected(&self) {
        drop(fs::remove_file(self.trash().join(MARK)));
    }

    /// Whether a process empties the trash this moment.
    #[must_use]
    pub fn trash_is_attended(&self) -> bool {
        File::open(self.trash()).is_ok_and(|dir| flock(&dir, FlockOperation::NonBlockingLockExclusive).is_err())
    }

    /// Ends a collection that was cut off by a crash, unless somebody uses the store this moment.
    pub fn finish_collecting(&self) -> Result<(), StoreError> {
        if fs::symlink_metadata(self.trash().join(MARK)).is_err() {
            return Ok(());
        }
        let path = self.root().join("locks/store");
        let lock = Lock::try_acquire(&path, LockMode::Exclusive).map_err(|source| StoreError::Lock { path, source })?;
        lock.map_or(Ok(()), |lock| self.collect(&lock).map(drop))
    }
}

/// Marks what cannot be removed; where it is now.
fn set_aside(trash: &Path, name: &str) -> PathBuf {
    let path = trash.join(name);
    if name.ends_with(STUCK) {
        return path;
    }
    let aside = trash.join(format!("{name}{STUCK}"));
    if fs::symlink_metadata(&aside).is_err() && fs::rename(&path, &aside).is_ok() { aside } else { path }
}

/// For a file system that has no room for a name: a file goes at once; the tree of a layer gets another name in the layer's
/// own directory, which has room for it, and so is never seen half.
fn remove_in_place(path: &Path) -> io::Result<()> {
    match fs::rename(path.join("fs"), path.join(GONE)) {
        Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Err(error),
        _ => {}
    }
    crate::sys::remove_tree(path).map(drop)
}

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        (dir, store)
    }

    #[test]
    fn what_is_thrown_away_is_out_of_sight_at_once_and_gone_later() {
        let (_dir, store) = store();
        let tree = store.root().join("runs/one");
        for _ in 0..2 {
            fs::create_dir_all(tree.join("upper/dir")).unwrap();
            fs::write(tree.join("upper/dir/file"), "x").unwrap();
            assert!(store.throw_away(&tree, "run-one").unwrap());
            assert!(!tree.exists() && !store.throw_away(&tree, "run-one").unwrap());
        }
        assert_eq!(names(&store.trash()).len(), 2);
        assert!(store.empty_trash(&mut 2, false).unwrap().unfinished && store.has_trash());
        assert!(!store.empty_trash(&mut 100, false).unwrap().unfinished && !store.has_trash());
        assert!(names(&store.trash()).is_empty());
    }

    #[test]
    fn one_empties_the_trash_at_a_time() {
        let (_dir, store) = store();
        fs::write(store.trash().join("blob-0"), "x").unwrap();
        let dir = File::open(store.trash()).unwrap();
        flock(&dir, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert!(store.empty_trash(&mut 9, false).unwrap().unfinished && store.has_trash());
        drop(dir);
        assert!(!store.empty_trash(&mut 9, false).unwrap().unfinished && !store.has_trash());
    }

    #[test]
    fn a_collection_that_was_cut_off_is_ended() {
        let (_dir, store) = store();
        let blob = crate::image::Digest::sha256(b"x");
        store.put_document(&blob, b"x").unwrap();
        store.finish_collecting().unwrap();
        assert!(store.blob_path(&blob).exists(), "nobody has asked for it");
        store.mark_collecting();
        assert!(store.has_trash());
        let held = store.shared().unwrap();
        store.finish_collecting().unwrap();
        assert!(store.blob_path(&blob).exists(), "somebody uses the store");
        drop(held);
        store.finish_collecting().unwrap();
        assert!(!store.blob_path(&blob).exists());
        assert_eq!(names(&store.trash()), ["blob-2d711642b726-0"]);
    }

    #[test]
    fn a_layer_that_cannot_be_moved_is_never_seen_half() {
        let (_dir, store) = store();
        let key = crate::image::Digest::sha256(b"layer");
        let dir = store.layer_dir(&key);
        fs::create_dir_all(dir.join("fs/etc")).unwrap();
        fs::write(dir.join("fs/etc/file"), "x").unwrap();
        remove_in_place(&dir).unwrap();
        assert!(!dir.exists());
        fs::write(&dir, "x").unwrap();
        remove_in_place(&dir).unwrap();
        assert!(!dir.exists());
    }
}
