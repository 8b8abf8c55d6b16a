//! Caches: directories that a workflow finds again in its next run, such as that of a package manager.
//!
//! ```text
//! caches/<key>/         0700
//!   cache.json          {"schema": 1, "project": …, "workflow": …, "path": …, "used": "2024-05-01T12:00:00Z"}
//!   data/               0777: mounted read-write into each run of the workflow
//! ```
//!
//! The key is a hash of project directory, workflow and path in the container. Runs share a cache, also at the same time:
//! what is in it must bear that, as the caches of package managers do. Nothing here looks into `data`, whose content is
//! as hostile as the workloads that wrote it; others than the owner of the store do not get past the directory above.
//!
//! A cache is opened while [`Store::keep_inputs`] is held, and it is used as long as the record of a live run names its key.

use std::fs::{self, DirBuilder, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::secrets::named_entries;
use super::{Store, StoreError};
use crate::image::Digest;
use crate::sys::{Lock, LockMode, disk_usage, read_bounded, write_atomic};

/// Digits of the hash that are a key: 128 bits.
const KEY_DIGITS: usize = 32;
/// Whatever user the container runs as, it can write. The directory above is ours.
const OPEN_MODE: u32 = 0o777;
/// Most bytes of a `cache.json` that are read.
const MAX_INFO_BYTES: u64 = 1 << 20;

/// What a cache belongs to; `cache.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheInfo {
    /// Format of the file; 1.
    pub schema: u32,
    /// The project directory.
    pub project: String,
    /// The workflow.
    pub workflow: String,
    /// The directory in the container.
    pub path: String,
    /// When a run last began or ended to use it (RFC 3339, UTC).
    pub used: String,
}

/// A cache that is ready to be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// What records of runs call it.
    pub key: String,
    /// The directory on the host, writable for every user.
    pub host_dir: PathBuf,
    /// Where it goes in the container.
    pub container_path: PathBuf,
}

/// A cache as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedCache {
    /// What records of runs call it.
    pub key: String,
    /// What it belongs to; `None` when that cannot be read.
    pub info: Option<CacheInfo>,
    /// When it was last used, or last seen to change when that cannot be read.
    pub used: Timestamp,
}

/// The caches of a store; see [`Store::caches`].
#[derive(Debug, Clone)]
pub struct Caches {
    dir: PathBuf,
    lock: PathBuf,
}

impl Store {
    /// The caches of this store.
    #[must_use]
    pub fn caches(&self) -> Caches {
        Caches { dir: self.root().join("caches"), lock: self.lock_path("caches") }
    }

    /// Takes a cache out of sight and removes it; the bytes that it took. The caller holds [`Store::change_inputs`] and has
    /// seen that no live run uses it.
    pub fn remove_cache(&self, key: &str) -> Result<u64, StoreError> {
        self.remove_out_of_sight(&self.caches().dir.join(key), &format!("cache-{key}"))
    }
}

impl Caches {
    /// Has the cache of a workflow for a directory in its container, whatever that takes, and notes the time.
    ///
    /// The caller holds [`Store::keep_inputs`] until the key is in the record of the run.
    pub fn open(&self, project: &str, workflow: &str, path: &Path, now: &str) -> Result<Cache, StoreError> {
        let info = CacheInfo {
            schema: 1,
            project: project.to_owned(),
            workflow: workflow.to_owned(),
            path: path.to_string_lossy().into_owned(),
            used: now.to_owned(),
        };
        let key = key(&info);
        let dir = self.dir.join(&key);
        let data = dir.join("data");
        let _lock = self.lock()?;
        make_dir(&dir, 0o700)?;
        write_info(&dir, &info)?;
        // Only a new one is opened up: what a container has made of the mode of its directory stays.
        if make_dir(&data, 0o700)? {
            fs::set_permissions(&data, Permissions::from_mode(OPEN_MODE))
                .map_err(|source| StoreError::Write { path: data.clone(), source })?;
        }
        Ok(Cache { key, host_dir: data, container_path: path.to_owned() })
    }

    /// Notes that a run has used a cache until now. One that is gone is none.
    pub fn touch(&self, key: &str, now: &str) -> Result<(), StoreError> {
        let dir = self.dir.join(key);
        let _lock = self.lock()?;
        match read_info(&dir) {
            Some(info) => write_info(&dir, &CacheInfo { used: now.to_owned(), ..info }),
            None => Ok(()),
        }
    }

    /// All caches, by key.
    pub fn list(&self) -> Result<Vec<ListedCache>, StoreError> {
        let mut found: Vec<ListedCache> =
            named_entries(&self.dir)?.into_iter().filter_map(|(key, dir)| listed(key, &dir)).collect();
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// Bytes that a cache takes on disk.
    pub fn disk_usage(&self, key: &str) -> Result<u64, StoreError> {
        let path = self.dir.join(key);
        disk_usage(&path).map_err(|source| StoreError::Read { path, source })
    }

    fn lock(&self) -> Result<Lock, StoreError> {
        let locked = Lock::acquire(&self.lock, LockMode::Exclusive, |_| {});
        locked.map_err(|source| StoreError::Lock { path: self.lock.clone(), source })
    }
}

fn key(info: &CacheInfo) -> String {
    // No part contains NUL: they are paths and names.
    let text = format!("{}\0{}\0{}", info.project, info.workflow, info.path);
    Digest::sha256(text.as_bytes()).hex()[..KEY_DIGITS].to_owned()
}

/// `None` for what is no cache, or is gone this moment.
fn listed(key: String, dir: &Path) -> Option<ListedCache> {
    let is_key = key.len() == KEY_DIGITS && key.bytes().all(|b| b.is_ascii_hexdigit());
    let metadata = fs::symlink_metadata(dir).ok().filter(|metadata| is_key && metadata.is_dir())?;
    let info = read_info(dir);
    let noted = info.as_ref().and_then(|info| info.used.parse().ok());
    let used = noted.or_else(|| Timestamp::try_from(metadata.modified().ok()?).ok())?;
    Some(ListedCache { key, info, used })
}

fn read_info(dir: &Path) -> Option<CacheInfo> {
    serde_json::from_slice(&read_bounded(&dir.join("cache.json"), MAX_INFO_BYTES).ok()?).ok()
}

fn write_info(dir: &Path, info: &CacheInfo) -> Result<(), StoreError> {
    let path = dir.join("cache.json");
    let json = serde_json::to_vec_pretty(info).unwrap_or_default();
    write_atomic(&path, &json).map_err(|source| StoreError::Write { path, source })
}

/// Whether it had to be made.
fn make_dir(path: &Path, mode: u32) -> Result<bool, StoreError> {
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(false),
        Err(source) => Err(StoreError::Write { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2024-05-01T12:00:00Z";

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        (dir, store)
    }

    #[test]
    fn a_cache_is_found_again_and_no_other() {
        let (_dir, store) = store();
        let caches = store.caches();
        let open =
            |project: &str, workflow: &str, path: &str| caches.open(project, workflow, Path::new(path), TIME).unwrap();
        let first = open("/p", "train", "/root/.cache");
        fs::write(first.host_dir.join("wheel"), "x").unwrap();
        assert_eq!(fs::metadata(&first.host_dir).unwrap().permissions().mode() & 0o777, 0o777);
        let again = open("/p", "train", "/root/.cache");
        assert_eq!(again, first);
        assert!(again.host_dir.join("wheel").exists());
        let others =
            [open("/p2", "train", "/root/.cache"), open("/p", "eval", "/root/.cache"), open("/p", "train", "/x")];
        for other in &others {
            assert!(other.key != first.key && !other.host_dir.join("wheel").exists());
        }
        assert_eq!(caches.list().unwrap().len(), 4);
        let listed = caches.list().unwrap().into_iter().find(|cache| cache.key == first.key).unwrap();
        let info = listed.info.unwrap();
        assert_eq!((&*info.project, &*info.workflow, &*info.path, &*info.used), ("/p", "train", "/root/.cache", TIME));
        assert_eq!(listed.used, TIME.parse().unwrap());
    }

    #[test]
    fn the_last_use_is_noted() {
        let (_dir, store) = store();
        let cache = store.caches().open("/p", "w", Path::new("/c"), TIME).unwrap();
        store.caches().touch(&cache.key, "2025-01-01T00:00:00Z").unwrap();
        assert_eq!(store.caches().list().unwrap()[0].info.as_ref().unwrap().used, "2025-01-01T00:00:00Z");
        store.caches().touch(&"0".repeat(KEY_DIGITS), TIME).unwrap();
        assert_eq!(store.caches().list().unwrap().len(), 1);
    }

    #[test]
    fn what_a_crash_left_is_mended_and_can_be_removed() {
        let (_dir, store) = store();
        let cache = store.caches().open("/p", "w", Path::new("/c"), TIME).unwrap();
        let dir = cache.host_dir.parent().unwrap();
        fs::remove_dir(&cache.host_dir).unwrap();
        fs::write(dir.join("cache.json"), "{").unwrap();
        assert_eq!(store.caches().list().unwrap()[0].info, None);
        assert_eq!(store.caches().open("/p", "w", Path::new("/c"), TIME).unwrap(), cache);
        assert!(cache.host_dir.is_dir() && store.caches().list().unwrap()[0].info.is_some());
        fs::write(cache.host_dir.join("file"), vec![1; 100_000]).unwrap();
        assert!(store.caches().disk_usage(&cache.key).unwrap() >= 100_000);
        assert!(store.remove_cache(&cache.key).unwrap() >= 100_000);
        assert!(store.caches().list().unwrap().is_empty() && !dir.exists());
        assert_eq!(store.remove_cache(&cache.key).unwrap(), 0);
    }
}
