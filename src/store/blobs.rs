//! Blobs: content named by its digest, written once, never changed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{Store, StoreError};
use crate::image::{ByteSize, Descriptor, Digest, Hasher, MAX_DOCUMENT_BYTES};
use crate::sys::sync_dir;

/// Free space that a pull leaves to others.
const SPACE_RESERVE_BYTES: u64 = 16 << 20;

impl Store {
    /// Where the blob is or would be.
    #[must_use]
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root().join("blobs").join(digest.algorithm().name()).join(digest.hex())
    }

    /// Whether the blob is there with its full size.
    #[must_use]
    pub fn has_blob(&self, descriptor: &Descriptor) -> bool {
        std::fs::metadata(self.blob_path(&descriptor.digest))
            .is_ok_and(|metadata| metadata.is_file() && metadata.len() == descriptor.size)
    }

    /// Opens a blob for reading.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, StoreError> {
        let path = self.blob_path(digest);
        File::open(&path).map_err(|source| StoreError::Read { path, source })
    }

    /// Reads a small blob (a manifest, an index, a configuration) and verifies it.
    pub fn read_document(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.blob_path(digest);
        let mut bytes = Vec::new();
        self.open_blob(digest)?
            .take(MAX_DOCUMENT_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| StoreError::Read { path, source })?;
        let actual = Digest::of(digest.algorithm(), &bytes);
        if actual != *digest {
            return Err(StoreError::Damaged { digest: digest.clone(), actual });
        }
        Ok(bytes)
    }

    /// Stores a small blob that the caller has in memory, under the digest it must have. One that is there but damaged is
    /// replaced.
    pub fn put_document(&self, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
        if self.read_document(digest).is_ok() {
            return Ok(());
        }
        let lock = self.lock_digest(digest, |_| {})?;
        let mut writer = self.write_blob(digest, bytes.len() as u64)?;
        writer.write(bytes)?;
        writer.commit()?;
        drop(lock.remove());
        Ok(())
    }

    /// Starts writing a blob; the caller holds the lock of `digest`. Nothing stays unless it is committed.
    pub fn write_blob(&self, digest: &Digest, size: u64) -> Result<BlobWriter, StoreError> {
        self.check_space(size)?;
        let path = self.tmp_path(digest, "blob");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| StoreError::Write { path: path.clone(), source })?;
        Ok(BlobWriter {
            file,
            path,
            target: self.blob_path(digest),
            hasher: Hasher::new(digest.algorithm()),
            digest: digest.clone(),
            size,
            written: 0,
            committed: false,
        })
    }

    /// Refuses what cannot fit before a byte of it is fetched.
    pub fn check_space(&self, needed: u64) -> Result<(), StoreError> {
        let path = self.root();
        let free = free_bytes(path).map_err(|source| StoreError::Read { path: path.to_owned(), source })?;
        let needed = needed.saturating_add(SPACE_RESERVE_BYTES);
        if free < needed {
            return Err(StoreError::Space { path: path.to_owned(), needed: ByteSize(needed), free: ByteSize(free) });
        }
        Ok(())
    }
}

fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = nix::sys::statvfs::statvfs(path)?;
    Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

/// A blob on its way in: hashed and counted as it is written, stopped hard at its size.
#[derive(Debug)]
pub struct BlobWriter {
    file: File,
    path: PathBuf,
    target: PathBuf,
    hasher: Hasher,
    digest: Digest,
    size: u64,
    written: u64,
    committed: bool,
}

impl BlobWriter {
    /// Bytes taken in so far: where a resumed download goes on.
    #[must_use]
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// Bytes that the blob must have.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The digest that the blob must have.
    #[must_use]
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Takes in the next bytes.
    ///
    /// # Errors
    /// [`StoreError::Size`] as soon as there is one byte too many, [`StoreError::Write`] when the disk refuses.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let written = self.written.saturating_add(bytes.len() as u64);
        if written > self.size {
            return Err(StoreError::Size {
                digest: self.digest.clone(),
                actual: written,
                more: true,
                expected: self.size,
            });
        }
        self.file.write_all(bytes).map_err(|source| StoreError::Write { path: self.path.clone(), source })?;
        self.hasher.update(bytes);
        self.written = written;
        Ok(())
    }

    /// Forgets what was written, for a server that cannot resume.
    pub fn restart(&mut self) -> Result<(), StoreError> {
        use std::io::Seek;
        let emptied = self.file.set_len(0).and_then(|()| self.file.rewind());
        emptied.map_err(|source| StoreError::Write { path: self.path.clone(), source })?;
        self.hasher = Hasher::new(self.digest.algorithm());
        self.written = 0;
        Ok(())
    }

    /// Verifies size and digest, makes the bytes durable and gives them their name.
    pub fn commit(mut self) -> Result<(), StoreError> {
        if self.written != self.size {
            return Err(StoreError::Size {
                digest: self.digest.clone(),
                actual: self.written,
                more: false,
                expected: self.size,
            });
        }
        let hasher = std::mem::replace(&mut self.hasher, Hasher::new(self.digest.algorithm()));
        let actual = hasher.finish();
        if actual != self.digest {
            return Err(StoreError::Digest { expected: self.digest.clone(), actual });
        }
        let write = |source| StoreError::Write { path: self.target.clone(), source };
        self.file.sync_data().map_err(write)?;
        std::fs::rename(&self.path, &self.target).map_err(write)?;
        self.committed = true;
        self.target.parent().map_or(Ok(()), sync_dir).map_err(write)
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if !self.committed {
            drop(std::fs::remove_file(&self.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        (dir, store)
    }

    fn entries(path: &Path) -> usize {
        std::fs::read_dir(path).unwrap().count()
    }

    #[test]
    fn keeps_what_is_right_and_nothing_else() {
        let (_dir, store) = store();
        let digest = Digest::sha256(b"hello");
        store.put_document(&digest, b"hello").unwrap();
        assert_eq!(store.read_document(&digest).unwrap(), b"hello");

        let other = Digest::sha256(b"other");
        let mut wrong = store.write_blob(&other, 5).unwrap();
        wrong.write(b"wrong").unwrap();
        assert!(matches!(wrong.commit(), Err(StoreError::Digest { .. })));
        let mut short = store.write_blob(&other, 5).unwrap();
        short.write(b"oth").unwrap();
        assert!(matches!(short.commit(), Err(StoreError::Size { more: false, .. })));
        let mut long = store.write_blob(&other, 5).unwrap();
        assert!(matches!(long.write(b"other!"), Err(StoreError::Size { more: true, .. })));
        drop(long);

        assert_eq!(entries(&store.root().join("tmp")), 0);
        assert_eq!(entries(&store.root().join("blobs/sha256")), 1);
        // Only the lock of the index stays; those of the digests are gone.
        assert_eq!(entries(&store.root().join("locks")), 1);
    }

    #[test]
    fn a_damaged_document_is_told() {
        let (_dir, store) = store();
        let digest = Digest::sha256(b"hello");
        store.put_document(&digest, b"hello").unwrap();
        std::fs::write(store.blob_path(&digest), b"jello").unwrap();
        assert!(matches!(store.read_document(&digest), Err(StoreError::Damaged { .. })));
        // Whoever has it whole mends it, though the size is right.
        store.put_document(&digest, b"hello").unwrap();
        assert_eq!(store.read_document(&digest).unwrap(), b"hello");
    }

    #[test]
    fn what_cannot_fit_is_refused_at_once() {
        let (_dir, store) = store();
        assert!(matches!(store.check_space(u64::MAX / 2), Err(StoreError::Space { .. })));
    }
}
