//! `reserve`: a file of allocated, unused blocks, so that `index.json` can be written anew on a full file system.
//!
//! Removing an image begins with taking its name out of `index.json`, and that file is replaced, never changed in place. On
//! a file system without a free block or inode the reserve itself becomes the new file: it has both already, and its
//! place is given to nobody else meanwhile, as freed blocks would be. It is laid in again when there is room.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::FallocateFlags;

use super::trash::is_full;
use super::{Store, StoreError};
use crate::sys::{Lock, LockMode, sync_dir, write_atomic};

/// Enough for the names of a few thousand images.
const RESERVE_BYTES: u64 = 1 << 20;
/// The unit of `st_blocks` (stat(2)).
const BLOCK_BYTES: u64 = 512;

impl Store {
    /// Lays the reserve in unless it is there, and anew where a crash has left less of it. A file system that has no room for it, or
    /// cannot allocate, goes without.
    pub fn lay_in_reserve(&self) {
        let path = self.root().join("reserve");
        if open_reserve(&path, RESERVE_BYTES).is_ok() {
            return;
        }
        // Whoever writes the index may be making it of the reserve this moment.
        let Ok(Some(_lock)) = Lock::try_acquire(&self.lock_path("index"), LockMode::Exclusive) else { return };
        if open_reserve(&path, RESERVE_BYTES).is_ok() {
            return;
        }
        let new = self.root().join("reserve.new");
        let lay_in = || {
            let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES)?;
            fs::rename(&new, &path)
        };
        if lay_in().is_err() {
            drop(fs::remove_file(&new));
        }
    }

    /// Takes one of the locks that removing needs. Where its file is missing and no inode is free, the reserve gives its own.
    pub(super) fn lock_at_any_rate(
        &self,
        name: &str,
        mut on_wait: impl FnMut(Option<u32>),
    ) -> Result<Lock, StoreError> {
        match self.lock(name, LockMode::Exclusive, &mut on_wait) {
            Err(StoreError::Lock { source, .. })
                if is_full(&source) && fs::remove_file(self.root().join("reserve")).is_ok() =>
            {
                self.lock(name, LockMode::Exclusive, on_wait)
            }
            locked => locked,
        }
    }

    /// Replaces the file at `path`, which stands in the root of the store; from the reserve when there is no room. The
    /// caller holds the lock of the index.
    pub(super) fn write_at_any_rate(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let written = match write_atomic(path, bytes) {
            Err(error) if is_full(&error) => self.write_from_reserve(path, bytes).map_err(|_| error),
            written => written,
        };
        written.map_err(|source| StoreError::Write { path: path.to_owned(), source })
    }

    fn write_from_reserve(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let reserve = self.root().join("reserve");
        let mut file = open_reserve(&reserve, bytes.len() as u64)?;
        file.write_all(bytes)?;
        file.set_len(bytes.len() as u64)?;
        file.sync_all()?;
        fs::rename(&reserve, path)?;
        path.parent().map_or(Ok(()), sync_dir)
    }
}

fn open_reserve(path: &Path, needed: u64) -> io::Result<File> {
    let file = OpenOptions::new().write(true).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    let is_good = metadata.is_file() && metadata.nlink() == 1 && metadata.blocks() * BLOCK_BYTES >= needed;
    if is_good { Ok(file) } else { Err(io::Error::new(io::ErrorKind::StorageFull, "the reserve is too small")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_becomes_the_file_and_is_laid_in_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (reserve, index) = (store.root().join("reserve"), store.root().join("index.json"));
        let inode = fs::metadata(&reserve).unwrap().ino();
        assert!(fs::metadata(&reserve).unwrap().blocks() * BLOCK_BYTES >= RESERVE_BYTES);
        store.write_from_reserve(&index, b"{\"schemaVersion\":2}").unwrap();
        assert_eq!(fs::read(&index).unwrap(), b"{\"schemaVersion\":2}");
        assert!(fs::metadata(&index).unwrap().ino() == inode && !reserve.exists());
        assert!(store.write_from_reserve(&index, b"x").is_err());
        // A crash after the index was written into it and before it was renamed.
        fs::write(&reserve, "{").unwrap();
        store.lay_in_reserve();
        assert!(open_reserve(&reserve, RESERVE_BYTES).is_ok() && fs::read(&reserve).unwrap()[0] == 0);
        assert!(store.write_from_reserve(&index, &vec![b'x'; 2 << 20]).is_err(), "more than it has");
        assert_eq!(fs::read(&index).unwrap(), b"{\"schemaVersion\":2}");
    }
}
