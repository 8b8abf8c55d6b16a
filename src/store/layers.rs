//! Unpacked layers in overlay form.
//!
//! `layers/<algorithm>/<hex>/fs` is a `lowerdir` as it is: whiteouts are character devices 0:0, opaque directories carry
//! `trusted.overlay.opaque`. `layer.json` beside it says what it holds; a directory without it is never seen under its name.

use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{RunDir, Store, StoreError};
use crate::image::Digest;
use crate::sys::{read_bounded, sync_dir, write_atomic};

/// Most bytes of a `layer.json` that are read; it has a few hundred.
const MAX_INFO_BYTES: u64 = 64 << 10;

/// What an unpacked layer holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "facts that have nothing to do with each other")]
pub struct LayerInfo {
    /// Format of this file and of the tree; [`LayerInfo::SCHEMA`].
    pub schema: u32,
    /// Digest of the uncompressed tar it was unpacked from.
    pub diff_id: Digest,
    /// Bytes of file content.
    pub size_bytes: u64,
    /// Entries of the tar.
    pub entries: u64,
    /// Whether the tree was made for the layers below it: then it is named by the chain, and otherwise by the diff ID.
    pub mended: bool,
    /// Whether the tar has an entry for the root directory; if not, the root is what the layers below say.
    pub has_root: bool,
    /// Whether the root is opaque, so that the layers below count for nothing.
    pub is_opaque: bool,
    /// Whether whiteouts and opaque directories are not marked as overlays want it, because the file system refused that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_plain: bool,
}

impl LayerInfo {
    /// Goes up when a blob unpacks to another tree than before; a layer of another format is unpacked again.
    pub const SCHEMA: u32 = 1;
}

impl Store {
    /// The directory of a layer, complete or not there at all. `key` is a diff ID or a chain ID.
    #[must_use]
    pub fn layer_dir(&self, key: &Digest) -> PathBuf {
        self.root().join("layers").join(key.algorithm().name()).join(key.hex())
    }

    /// The tree of a layer, for `lowerdir`; `None` when it is not unpacked.
    #[must_use]
    pub fn layer_fs(&self, key: &Digest) -> Option<PathBuf> {
        let fs = self.layer_dir(key).join("fs");
        fs.is_dir().then_some(fs)
    }

    /// What is known about a layer.
    pub fn layer_info(&self, key: &Digest) -> Result<LayerInfo, StoreError> {
        let path = self.layer_dir(key).join("layer.json");
        let bytes =
            read_bounded(&path, MAX_INFO_BYTES).map_err(|source| StoreError::Read { path: path.clone(), source })?;
        let damaged = |source| StoreError::Json { path: path.clone(), source };
        let info: Value = serde_json::from_slice(&bytes).map_err(damaged)?;
        // The number first: another format may well have other keys.
        match info["schema"].as_u64() {
            Some(found) if found != u64::from(LayerInfo::SCHEMA) => {
                Err(StoreError::LayerFormat { path, found, expected: LayerInfo::SCHEMA })
            }
            _ => serde_json::from_value(info).map_err(damaged),
        }
    }

    /// What is known about a layer that is whole as far as can be told without its content: tree and description are
    /// there. One that is not counts as missing, so that it is unpacked again.
    #[must_use]
    pub fn whole_layer(&self, key: &Digest) -> Option<LayerInfo> {
        self.layer_fs(key).and_then(|_| self.layer_info(key).ok())
    }

    /// A live run that has the layer mounted; one whose record cannot be read may have any.
    pub fn layer_user(&self, key: &Digest) -> Result<Option<String>, StoreError> {
        let uses = |run: &RunDir| run.record().map_or_else(|_| run.is_live(), |record| record.layers.contains(key));
        let found = self.unfinished_runs()?.into_iter().find(uses);
        Ok(found.map(|run| run.path().file_name().unwrap_or_default().to_string_lossy().into_owned()))
    }

    /// Starts unpacking a layer; the caller holds the lock of `guard` and unpacks no other layer with that `number` under
    /// it. Nothing stays unless it is committed.
    pub fn write_layer(&self, guard: &Digest, number: usize) -> Result<LayerWriter, StoreError> {
        let path = self.tmp_path(guard, &format!("{number}.layer"));
        let write = |source| StoreError::Write { path: path.clone(), source };
        remove_tree(&path).map_err(write)?;
        std::fs::DirBuilder::new().mode(0o700).create(&path).map_err(write)?;
        std::fs::DirBuilder::new().mode(0o755).create(path.join("fs")).map_err(write)?;
        Ok(LayerWriter { store: self.clone(), path, committed: false })
    }
}

/// A layer on its way in.
#[derive(Debug)]
pub struct LayerWriter {
    store: Store,
    path: PathBuf,
    committed: bool,
}

impl LayerWriter {
    /// The directory to unpack into.
    #[must_use]
    pub fn fs(&self) -> PathBuf {
        self.path.join("fs")
    }

    /// Makes the tree durable and names it by its diff ID or its chain ID. Where that layer is already, this one goes.
    pub fn commit(mut self, key: &Digest, info: &LayerInfo) -> Result<(), StoreError> {
        let target = self.store.layer_dir(key);
        let write = |source| StoreError::Write { path: target.clone(), source };
        let json = serde_json::to_vec(info).unwrap_or_default();
        write_atomic(&self.path.join("layer.json"), &json).map_err(write)?;
        // One sync of the file system instead of one for each of thousands of files.
        let dir = std::fs::File::open(&self.path).map_err(write)?;
        rustix::fs::syncfs(&dir).map_err(|errno| write(errno.into()))?;
        match std::fs::rename(&self.path, &target) {
            Ok(()) => self.committed = true,
            Err(error) if !is_taken(&error) => return Err(write(error)),
            // Two images that share a layer may have mended it at the same time, to the same effect.
            Err(_) if self.store.whole_layer(key).is_some() => {}
            Err(_) => {
                if let Some(run) = self.store.layer_user(key)? {
                    return Err(StoreError::LayerInUse { digest: key.clone(), run });
                }
                // What is damaged comes here, and goes with this.
                exchange(&self.path, &target).map_err(write)?;
            }
        }
        target.parent().map_or(Ok(()), sync_dir).map_err(write)
    }
}

/// Whether something stands where a directory was to be renamed to.
fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists | ErrorKind::NotADirectory)
}

/// Lets two names change places, so that neither is missing for a moment.
pub(super) fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    Ok(rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
}

impl Drop for LayerWriter {
    fn drop(&mut self) {
        if !self.committed {
            drop(remove_tree(&self.path));
        }
    }
}

/// Removes a tree that may be missing. Only for trees that nobody else writes to.
pub(super) fn remove_tree(path: &Path) -> std::io::Result<()> {
    crate::sys::remove_tree(path).map(drop)
}

/// Removes a file or a tree that may be missing.
pub(super) fn remove_any(path: &Path) -> Result<(), StoreError> {
    remove_tree(path).map_err(|source| StoreError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_there_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let key = Digest::sha256(b"layer");
        let info = LayerInfo {
            schema: 1,
            diff_id: key.clone(),
            size_bytes: 1,
            entries: 1,
            mended: false,
            has_root: false,
            is_opaque: false,
            is_plain: false,
        };

        let dropped = store.write_layer(&key, 0).unwrap();
        std::fs::write(dropped.fs().join("file"), "x").unwrap();
        assert_eq!(store.layer_fs(&key), None);
        drop(dropped);
        assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);

        let (kept, late) = (store.write_layer(&key, 0).unwrap(), store.write_layer(&key, 1).unwrap());
        std::fs::write(kept.fs().join("file"), "x").unwrap();
        kept.commit(&key, &info).unwrap();
        late.commit(&key, &info).unwrap();
        assert!(store.layer_fs(&key).unwrap().join("file").exists());
        assert_eq!(store.layer_info(&key).unwrap(), info);
        // A damaged one is no reason to throw a good one away.
        let again = store.write_layer(&key, 2).unwrap();
        let json = dir.path().join("layers/sha256").join(key.hex()).join("layer.json");
        for damaged in ["", "junk", "[]", "{}", r#"{"schema":1}"#] {
            std::fs::write(&json, damaged).unwrap();
            assert!(matches!(store.layer_info(&key), Err(StoreError::Json { .. })), "{damaged}");
        }
        for other in [r#"{"schema":0}"#, r#"{"schema":9,"new":true}"#] {
            std::fs::write(&json, other).unwrap();
            assert!(matches!(store.layer_info(&key), Err(StoreError::LayerFormat { .. })), "{other}");
        }
        assert_eq!(store.whole_layer(&key), None);
        again.commit(&key, &info).unwrap();
        assert_eq!(store.whole_layer(&key), Some(info));
        assert!(!store.layer_fs(&key).unwrap().join("file").exists());
        assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    }
}
