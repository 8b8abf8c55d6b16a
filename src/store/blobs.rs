//! Blobs: content named by its digest, written once, never changed.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use super::layers::remove_any;
use super::{Store, StoreError};
use crate::image::{ByteSize, Descriptor, Digest, Hasher, MAX_DOCUMENT_BYTES};
use crate::sys::{free_bytes, open_regular, sync_dir};

/// Free space that a pull leaves to others.
const SPACE_RESERVE_BYTES: u64 = 16 << 20;
/// Free space is looked at again after so many bytes of a blob: others write to the disk as well.
const SPACE_STEP_BYTES: u64 = 64 << 20;
/// What is read at a time of a blob that is resumed.
const READ_BYTES: usize = 128 << 10;
/// Kind of the file in `tmp/` that a download is resumed from.
pub(super) const PARTIAL: &str = "partial";

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
        open_regular(&path).map_err(|source| StoreError::Read { path, source })
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
        Ok(self.writer(file, path, digest, size))
    }

    /// Goes on with a blob that another process left unfinished, or starts it; the caller holds the lock of `digest`.
    ///
    /// What was left is hashed here, so this takes a while for much of it. A power cut may have spoiled it, which shows in
    /// the end. What is not committed stays for the next process ([`super::sweep_tmp`]), unless it was refused.
    pub fn resume_blob(&self, digest: &Digest, size: u64) -> Result<BlobWriter, StoreError> {
        let path = self.partial_path(digest);
        // Something else can hold no bytes to go on from, and reading it may wait for ever.
        if std::fs::symlink_metadata(&path).is_ok_and(|left| !left.is_file()) {
            remove_any(&path)?;
        }
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(&path);
        let file = opened.map_err(|source| StoreError::Write { path: path.clone(), source })?;
        let mut writer = self.writer(file, path, digest, size);
        writer.keeps_rest = true;
        writer.take_rest()?;
        self.check_space(size - writer.written).inspect_err(|_| writer.keeps_rest = false)?;
        Ok(writer)
    }

    /// Bytes of the blob that an earlier process left, which need not be fetched.
    #[must_use]
    pub fn partial_bytes(&self, descriptor: &Descriptor) -> u64 {
        let left = std::fs::symlink_metadata(self.partial_path(&descriptor.digest)).map_or(0, |left| left.len());
        if left > descriptor.size { 0 } else { left }
    }

    fn partial_path(&self, digest: &Digest) -> PathBuf {
        self.tmp_path(digest, PARTIAL)
    }

    fn writer(&self, file: File, path: PathBuf, digest: &Digest, size: u64) -> BlobWriter {
        BlobWriter {
            store: self.clone(),
            file,
            path,
            hasher: Hasher::new(digest.algorithm()),
            digest: digest.clone(),
            size,
            written: 0,
            checked: 0,
            committed: false,
            keeps_rest: false,
        }
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

/// A blob on its way in: hashed and counted as it is written, stopped hard at its size.
#[derive(Debug)]
pub struct BlobWriter {
    store: Store,
    file: File,
    path: PathBuf,
    hasher: Hasher,
    digest: Digest,
    size: u64,
    written: u64,
    /// `written` when free space was last looked at.
    checked: u64,
    committed: bool,
    /// Whether what is not committed is of use to the next process.
    keeps_rest: bool,
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
        self.take(bytes).inspect_err(|_| self.keeps_rest = false)
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let written = self.written.saturating_add(bytes.len() as u64);
        if written > self.size {
            return Err(StoreError::Size {
                digest: self.digest.clone(),
                actual: written,
                more: true,
                expected: self.size,
            });
        }
        if self.written >= self.checked + SPACE_STEP_BYTES {
            self.store.check_space(self.size - self.written)?;
            self.checked = self.written;
        }
        self.file.write_all(bytes).map_err(|source| StoreError::Write { path: self.path.clone(), source })?;
        self.hasher.update(bytes);
        self.written = written;
        Ok(())
    }

    /// Takes what the file holds already as written.
    fn take_rest(&mut self) -> Result<(), StoreError> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            // What the disk cannot give back is fetched anew.
            let Ok(length) = self.file.read(&mut buffer) else { return self.restart() };
            if length == 0 {
                self.checked = self.written;
                return Ok(());
            }
            self.written += length as u64;
            if self.written > self.size {
                return self.restart();
            }
            self.hasher.update(&buffer[..length]);
        }
    }

    /// Forgets what was written, for a server that cannot resume.
    pub fn restart(&mut self) -> Result<(), StoreError> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.rewind());
        emptied.map_err(|source| StoreError::Write { path: self.path.clone(), source })?;
        self.hasher = Hasher::new(self.digest.algorithm());
        (self.written, self.checked) = (0, 0);
        Ok(())
    }

    /// Verifies size and digest, makes the bytes durable and gives them their name.
    pub fn commit(mut self) -> Result<(), StoreError> {
        if self.written == self.size {
            // What is whole and not right would only be refused again.
            self.keeps_rest = false;
        } else {
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
        let target = self.store.blob_path(&self.digest);
        let write = |source| StoreError::Write { path: target.clone(), source };
        self.file.sync_data().map_err(write)?;
        std::fs::rename(&self.path, &target).map_err(write)?;
        self.committed = true;
        target.parent().map_or(Ok(()), sync_dir).map_err(write)
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        let is_of_use = self.keeps_rest && self.written > 0;
        if !self.committed && !is_of_use {
            drop(std::fs::remove_file(&self.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::store::{Partials, Store, sweep_tmp};

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        (dir, store)
    }

    fn entries(path: &Path) -> usize {
        std::fs::read_dir(path).unwrap().count()
    }

    /// A process that ended in the middle, by whatever way.
    #[test]
    fn what_is_left_is_gone_on_with() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let digest = Digest::sha256(b"hello, world");
        let json = serde_json::json!({ "mediaType": "text/plain", "digest": digest.to_string(), "size": 12 });
        let descriptor: Descriptor = serde_json::from_value(json).unwrap();
        let mut writer = store.resume_blob(&digest, 12).unwrap();
        writer.write(b"hello").unwrap();
        drop(writer);
        assert_eq!(store.partial_bytes(&descriptor), 5);
        // Kept while it is young, whoever sweeps.
        let before = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
        assert_eq!(sweep_tmp(&store, Partials::Since(before)).unwrap(), 0);
        let mut writer = store.resume_blob(&digest, 12).unwrap();
        assert_eq!(writer.written(), 5);
        writer.write(b", world").unwrap();
        writer.commit().unwrap();
        assert_eq!(store.read_document(&digest).unwrap(), b"hello, world");
        assert_eq!(store.partial_bytes(&descriptor), 0);
    }

    #[test]
    fn what_is_left_and_wrong_goes() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let digest = Digest::sha256(b"hello");
        let partial = store.partial_path(&digest);
        let left = |bytes: &str| std::fs::write(&partial, bytes).unwrap();

        left("HELL");
        let mut writer = store.resume_blob(&digest, 5).unwrap();
        writer.write(b"o").unwrap();
        assert!(matches!(writer.commit(), Err(StoreError::Digest { .. })));
        assert!(!partial.exists());

        left("far too much");
        let writer = store.resume_blob(&digest, 5).unwrap();
        assert_eq!(writer.written(), 0);
        drop(writer);
        assert!(!partial.exists(), "nothing is no help to anybody");

        let mut writer = store.resume_blob(&digest, 5).unwrap();
        writer.write(b"hell").unwrap();
        assert!(writer.write(b"oo").is_err());
        drop(writer);
        assert!(!partial.exists());

        left("old");
        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
        sweep_tmp(&store, Partials::Since(later)).unwrap();
        assert!(!partial.exists());

        std::os::unix::fs::symlink("/etc/passwd", &partial).unwrap();
        let writer = store.resume_blob(&digest, 5).unwrap();
        assert_eq!((writer.written(), partial.is_symlink()), (0, false), "what is no file goes, and is not followed");
        drop(writer);
        nix::unistd::mkfifo(&partial, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(store.resume_blob(&digest, 5).unwrap().written(), 0);
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
