//! Everything that is kept on disk, under one root (0700): images, unpacked layers, runs and their artifacts.
//!
//! ```text
//! <root>/
//!   store.json                                        which version of this tree it is (see `version`)
//!   oci-layout, index.json, blobs/<algorithm>/<hex>   an OCI image layout: other tools read and write it
//!   layers/<algorithm>/<hex>/fs                       a layer unpacked in overlay form, named by diff ID (or by chain ID
//!                            layer.json               when it was mended against the layers below it)
//!   runs/<name>/                                      one run: record, log, bundle, writable layer (see `runs`)
//!   active/<name>                                     lock of a run that has not been cleaned up yet
//!   artifacts/<name>/                                 what a run left (see `crate::artifact`)
//!   tags/<name>.json                                  a name that the user gave to a run (see `tags`)
//!   caches/<key>/                                     a directory that a workflow finds again (see `caches`)
//!   secrets/<name>                                    a value that workflows ask for by name (see `secrets`)
//!   tmp/                                              being written; each entry is named after the lock that guards it
//!   trash/                                            deleted; unlinked after the lock is released (see `trash`)
//!   reserve                                           room for `index.json` on a full file system (see `reserve`)
//!   locks/                                            locks between processes
//! ```
//!
//! Invariants: what stands in `blobs` and `layers` is complete and verified, because it is written in `tmp`, made durable
//! and renamed; metadata is never durable before the data it names; whoever deletes holds [`Store::exclusive`], whoever
//! relies on what is there holds [`Store::shared`]. The same with [`Store::change_inputs`] and [`Store::keep_inputs`] for
//! runs, artifacts and caches.

mod blobs;
mod caches;
mod check;
mod df;
mod error;
mod feed;
mod gc;
mod health;
mod id_maps;
mod images;
mod journal;
mod layers;
mod record;
mod removal;
mod reserve;
mod restart;
mod run_cgroup;
mod runs;
mod secrets;
mod spool;
mod tags;
#[cfg(test)]
pub(crate) mod testing;
mod trash;
mod usage;
mod version;

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

pub use blobs::BlobWriter;
pub use caches::{Cache, CacheInfo, Caches, ListedCache};
pub use check::{BlobDamage, Loose, Scratch};
pub use df::{Share, ShareKind, SharedItem};
pub use error::StoreError;
pub use feed::{Feed, FeedLine, Happening, JOURNAL, OLD_JOURNAL};
pub use gc::{Partials, Removed, sweep_tmp};
pub use health::{HealthCheck, HealthResult, HealthStatus, OnFailure, RunHealth};
pub use id_maps::{IdMap, IdMaps, map_text, share, to_container, to_host};
pub use images::StoredImage;
pub use journal::Journal;
pub use layers::{LayerInfo, LayerWriter};
pub use record::{
    Exit, ExitReason, FailedCommand, GpuUsage, Limits, MountedImage, RunGpu, RunNetwork, RunRecord, RunState, Victim,
};
pub use removal::Freed;
pub use restart::{RestartPolicy, RestartPolicyError};
pub use run_cgroup::{CgroupMode, CgroupModeError, RunCgroup};
pub use runs::{Reservation, RunDir, RunName, RunNameError, RunPlace};
pub use secrets::{MAX_SECRET_BYTES, SecretInfo, SecretName, SecretNameError, SecretValue, SecretValueError, Secrets};
pub use tags::{ListedTag, Tag, TagName, TagNameError, Tags};
pub use trash::Emptied;
pub use usage::Used;

use crate::image::Digest;
use crate::sys::{Lock, LockMode, network_file_system};

/// A handle on the store; cheap to clone, holds nothing open.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Opens the store at `root`, making what is missing of it.
    ///
    /// # Errors
    /// [`StoreError::Open`] when it cannot be made, [`StoreError::Network`] where other machines could be at it, and
    /// [`StoreError::Newer`] when a newer dockless wrote it.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let open = |path: &Path, source| StoreError::Open { path: path.to_owned(), source };
        let there = root.ancestors().find(|path| path.exists()).unwrap_or_else(|| Path::new("."));
        if let Some(kind) = network_file_system(there).map_err(|source| open(root, source))? {
            return Err(StoreError::Network { path: root.to_owned(), kind });
        }
        make_private_dir(root).map_err(|source| open(root, source))?;
        let store = Self { root: root.canonicalize().map_err(|source| open(root, source))? };
        let is_current = store.is_current()?;
        for name in [
            "blobs",
            "blobs/sha256",
            "blobs/sha512",
            "layers",
            "layers/sha256",
            "layers/sha512",
            "runs",
            "active",
            "artifacts",
            "tags",
            "caches",
            "secrets",
            "tmp",
            "locks",
        ] {
            let path = store.root.join(name);
            make_private_dir(&path).map_err(|source| open(&path, source))?;
        }
        for name in ["tmp", "trash"] {
            let path = store.root.join(name);
            refuse_link(&path).map_err(|source| open(&path, source))?;
        }
        if !is_current {
            store.migrate()?;
        }
        store.open_layout()?;
        // Neither can be had on a full file system, and both are done without there.
        drop(store.make_trash());
        store.lay_in_reserve();
        Ok(store)
    }

    /// The store at `root` that this process's parent has opened already.
    #[must_use]
    pub const fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// Where it is; absolute.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the artifacts of runs are kept.
    #[must_use]
    pub fn artifacts(&self) -> PathBuf {
        self.root.join("artifacts")
    }

    /// Keeps images and layers from being deleted while it is held.
    pub fn shared(&self) -> Result<Lock, StoreError> {
        self.lock("store", LockMode::Shared, |_| {})
    }

    /// The right to delete images and layers; waits for pulls and for runs that are being set up. Who that is, is not known:
    /// those who share a lock leave no name, and what they have not overwritten is that of somebody else.
    pub fn exclusive(&self, mut on_wait: impl FnMut(Option<u32>)) -> Result<Lock, StoreError> {
        self.lock_at_any_rate("store", |_| on_wait(None))
    }

    /// The right to decide whether the machine has room for one more run: held from before the other runs are looked at
    /// until the new run's record says what it holds, so that no two runs are given the last of something.
    pub fn lock_resources(&self, on_wait: impl FnMut(Option<u32>)) -> Result<Lock, StoreError> {
        self.lock("resources", LockMode::Exclusive, on_wait)
    }

    /// The right to fetch or unpack what `digest` names. Waits for another process that is at it.
    pub fn lock_digest(&self, digest: &Digest, on_wait: impl FnMut(Option<u32>)) -> Result<Lock, StoreError> {
        self.lock(&lock_name(digest), LockMode::Exclusive, on_wait)
    }

    /// The same without waiting; `None` when another process is at it.
    pub fn try_lock_digest(&self, digest: &Digest) -> Result<Option<Lock>, StoreError> {
        let path = self.lock_path(&lock_name(digest));
        Lock::try_acquire(&path, LockMode::Exclusive).map_err(|source| StoreError::Lock { path, source })
    }

    /// Who holds the lock of `digest`, if somebody does and it is known.
    #[must_use]
    pub fn digest_lock_holder(&self, digest: &Digest) -> Option<u32> {
        Lock::holder(&self.lock_path(&lock_name(digest))).ok().flatten().flatten()
    }

    fn lock(&self, name: &str, mode: LockMode, on_wait: impl FnMut(Option<u32>)) -> Result<Lock, StoreError> {
        let path = self.lock_path(name);
        Lock::acquire(&path, mode, on_wait).map_err(|source| StoreError::Lock { path, source })
    }

    fn lock_path(&self, name: &str) -> PathBuf {
        self.root.join("locks").join(name)
    }

    /// A path in `tmp/` that belongs to whoever holds the lock of `digest`.
    fn tmp_path(&self, digest: &Digest, kind: &str) -> PathBuf {
        self.root.join("tmp").join(format!("{}.{kind}", lock_name(digest)))
    }
}

fn lock_name(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm().name(), digest.hex())
}

/// Refuses a link to where everything is removed: what it points to is not ours.
fn refuse_link(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.is_dir() => {
            let found = if metadata.is_symlink() { "it is a symbolic link" } else { "it is a file" };
            Err(io::Error::new(io::ErrorKind::NotADirectory, format!("{found}, expected a directory; remove it")))
        }
        _ => Ok(()),
    }
}

/// Makes a directory that only its owner may enter. One that is there already must not belong to somebody else.
fn make_private_dir(path: &Path) -> io::Result<()> {
    match DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(error) => return Err(error),
    }
    let metadata = std::fs::metadata(path)?;
    let me = nix::unistd::geteuid().as_raw();
    if metadata.uid() != me {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("owned by user {}, expected {me}", metadata.uid()),
        ));
    }
    if metadata.mode() & 0o077 != 0 {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn what_a_link_to_somewhere_else_points_to_is_not_removed() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(other.path().join("a.b"), "precious").unwrap();
        for name in ["tmp", "trash"] {
            Store::open(dir.path()).unwrap();
            let path = dir.path().join(name);
            fs::remove_dir(&path).unwrap();
            symlink(other.path(), &path).unwrap();
            let Err(StoreError::Open { path: told, source }) = Store::open(dir.path()) else { panic!("{name}") };
            assert_eq!((told.file_name(), source.kind()), (path.file_name(), io::ErrorKind::NotADirectory));
            fs::remove_file(&path).unwrap();
        }
        assert!(other.path().join("a.b").exists());
    }

    #[test]
    fn a_fifo_or_an_endless_file_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["store.json", "oci-layout", "index.json"] {
            let read = || Store::open(dir.path()).and_then(|store| store.images());
            read().unwrap();
            let path = dir.path().join(name);
            drop(fs::remove_file(&path));
            nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
            assert!(matches!(read(), Err(StoreError::Read { .. })), "{name}");
            fs::remove_file(&path).unwrap();
            fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
            assert!(matches!(read(), Err(StoreError::Read { .. })), "{name}");
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_lock_that_is_a_link_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let target = dir.path().join("made");
        drop(fs::remove_file(store.lock_path("store")));
        symlink(&target, store.lock_path("store")).unwrap();
        assert!(matches!(store.shared(), Err(StoreError::Lock { .. })));
        assert!(!target.exists(), "made where the link points to");
    }
}
