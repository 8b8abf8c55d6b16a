//! Looking whether what stands in the store is what it should be, and putting what is right in the place of what is not.
//!
//! What is to replace something is made in a [`Scratch`]: a store of its own in `tmp/` that goes with its lock. A blob or
//! layer moves from there into the store by one rename or exchange, so that a kill at any moment leaves the damaged one or
//! the right one, never neither.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use super::gc::read_dir;
use super::layers::{exchange, remove_tree};
use super::{Store, StoreError};
use crate::image::{Descriptor, Digest, Document, Hasher, MAX_DOCUMENT_BYTES, MediaType, Reference};
use crate::sys::{Lock, open_regular, sync_dir};

/// Bytes of a blob that are read and hashed at a time.
const PIECE_BYTES: usize = 1 << 20;
/// Where a damaged index is kept, for whoever wants to look.
const DAMAGED_INDEX: &str = "index.json.damaged";

/// What is wrong with a blob.
#[derive(Debug)]
pub enum BlobDamage {
    /// It is not there.
    Missing,
    /// It is no regular file.
    Kind,
    /// Bytes that it has, and should have.
    Size(u64, u64),
    /// What it hashes to.
    Content(Digest),
    /// The disk does not give it.
    Unreadable(io::Error),
}

impl fmt::Display for BlobDamage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("is missing"),
            Self::Kind => f.write_str("is no regular file"),
            Self::Size(actual, expected) => write!(f, "has {actual} bytes, expected {expected}"),
            Self::Content(actual) => write!(f, "has other content, it hashes to `{actual}`"),
            Self::Unreadable(error) => write!(f, "cannot be read: {error}"),
        }
    }
}

impl From<io::Error> for BlobDamage {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::NotFound { Self::Missing } else { Self::Unreadable(error) }
    }
}

/// What stands in the store and belongs to nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Loose {
    /// Blobs that no image reaches.
    pub blobs: Vec<Digest>,
    /// Layers that neither an image nor a live run reaches.
    pub layers: Vec<Digest>,
    /// What is not ours, by its path in the store.
    pub foreign: Vec<PathBuf>,
}

impl Store {
    /// Whether a blob is what its descriptor says; without `is_read` only as far as can be told without its content.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify_blob(&self, blob: &Descriptor, is_read: bool) -> Result<(), BlobDamage> {
        let path = self.blob_path(&blob.digest);
        let metadata = fs::symlink_metadata(&path)?;
        if !metadata.is_file() {
            return Err(BlobDamage::Kind);
        }
        if metadata.len() != blob.size {
            return Err(BlobDamage::Size(metadata.len(), blob.size));
        }
        if !is_read {
            return Ok(());
        }
        let mut file = open_regular(&path)?.take(blob.size.saturating_add(1));
        let mut hasher = Hasher::new(blob.digest.algorithm());
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match file.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => hasher.update(&piece[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        let actual = hasher.finish();
        if actual == blob.digest { Ok(()) } else { Err(BlobDamage::Content(actual)) }
    }

    /// What is wrong with the list of images as a whole, in words; nothing when images can be looked up.
    pub fn index_damage(&self) -> Result<Option<String>, StoreError> {
        match self.images() {
            Ok(_) => {}
            Err(StoreError::Index { source, .. }) => return Ok(Some(format!("does not parse: {source}"))),
            Err(StoreError::Read { source, .. }) => return Ok(Some(format!("cannot be read: {source}"))),
            Err(error) => return Err(error),
        }
        // Taking the last name away leaves an empty list, and a pull writes documents last.
        let is_there = self.root().join("index.json").exists();
        Ok((!is_there && !self.roots()?.is_empty()).then(|| "is missing".to_owned()))
    }

    /// Makes the list of images anew, from the manifests that are there and the names that records of runs have for them.
    /// The others get no name; the damaged list is kept beside it. Returns what the images are called, or their digests.
    pub fn rebuild_index(&self) -> Result<Vec<String>, StoreError> {
        let mut names: BTreeMap<Reference, (String, Digest)> = BTreeMap::new();
        for record in self.runs()?.iter().filter_map(|run| run.record().ok()) {
            let Some(manifest) = record.manifest else { continue };
            let known = names.get(&record.image).is_some_and(|(since, _)| *since > record.created);
            if !known {
                names.insert(record.image, (record.created, manifest));
            }
        }
        let mut images: Vec<(Option<Reference>, Descriptor)> = Vec::new();
        for (descriptor, children) in self.roots()? {
            let is_it = |digest: &Digest| *digest == descriptor.digest || children.contains(digest);
            let mut fitting: Vec<_> =
                names.iter().filter(|(_, (_, digest))| is_it(digest)).map(|(name, _)| name.clone()).collect();
            // Of several indexes with the same manifest the first has the name.
            fitting.retain(|name| !images.iter().any(|(taken, _)| taken.as_ref() == Some(name)));
            if fitting.is_empty() {
                images.push((None, descriptor));
            } else {
                images.extend(fitting.into_iter().map(|name| (Some(name), descriptor.clone())));
            }
        }
        self.replace_index(&self.root().join(DAMAGED_INDEX), &images)?;
        let called = |(name, image): &(Option<Reference>, Descriptor)| match name {
            Some(name) => name.familiar(),
            None => image.digest.to_string(),
        };
        Ok(images.iter().map(called).collect())
    }

    /// The manifests and indexes that no index has in it, each with what it has in it.
    fn roots(&self) -> Result<Vec<(Descriptor, HashSet<Digest>)>, StoreError> {
        let mut documents = Vec::new();
        for (path, digest) in self.content("blobs")? {
            let is_small = fs::symlink_metadata(&path).is_ok_and(|it| it.is_file() && it.len() <= MAX_DOCUMENT_BYTES);
            let Some(bytes) = Some(()).filter(|()| is_small).and_then(|()| self.read_document(&digest).ok()) else {
                continue;
            };
            let Ok(document) = Document::parse(&bytes, &digest) else { continue };
            documents.push(describe(&bytes, digest, &document));
        }
        let inner: HashSet<Digest> = documents.iter().flat_map(|(_, children)| children.clone()).collect();
        documents.retain(|(descriptor, _)| !inner.contains(&descriptor.digest));
        Ok(documents)
    }

    /// Records of runs that do not parse, by the run's name, each with the reason. One that is just being made has none yet.
    pub fn damaged_runs(&self) -> Result<Vec<(String, StoreError)>, StoreError> {
        let mut damaged = Vec::new();
        for run in self.runs()? {
            let name = run.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
            match run.record() {
                Err(error) if !run.lacks_record() => damaged.push((name, error)),
                _ => {}
            }
        }
        Ok(damaged)
    }

    /// What belongs to nothing. Right only when no image has a damaged document, since what that names is not known.
    pub fn loose(&self) -> Result<Loose, StoreError> {
        let (blobs, layers) = self.orphans()?;
        let names = |found: Vec<(PathBuf, Digest)>| found.into_iter().map(|(_, name)| name).collect();
        let mut foreign = Vec::new();
        for dir in ["blobs/sha256", "blobs/sha512", "layers/sha256", "layers/sha512"] {
            let algorithm = dir.split_once('/').map_or("", |(_, name)| name);
            for entry in read_dir(&self.root().join(dir))? {
                let name = entry.file_name();
                if format!("{algorithm}:{}", name.to_string_lossy()).parse::<Digest>().is_err() {
                    foreign.push(Path::new(dir).join(name));
                }
            }
        }
        // What has a lock in its name is being written, or goes with the next command.
        let unnamed = |name: &std::ffi::OsStr| !name.to_string_lossy().contains('.');
        let entries = read_dir(&self.root().join("tmp"))?.into_iter().map(|entry| entry.file_name());
        foreign.extend(entries.filter(|name| unnamed(name)).map(|name| Path::new("tmp").join(name)));
        foreign.sort();
        Ok(Loose { blobs: names(blobs), layers: names(layers), foreign })
    }

    /// A place to unpack and fetch to while it is looked at this store. One at a time: waits for another process's.
    pub fn scratch(&self, on_wait: impl FnMut(Option<u32>)) -> Result<Scratch, StoreError> {
        let guard = Digest::sha256(b"check");
        let lock = self.lock_digest(&guard, on_wait)?;
        let path = self.tmp_path(&guard, "check");
        let write = |source| StoreError::Write { path: path.clone(), source };
        remove_tree(&path).map_err(write)?;
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(write)?;
        // From here on it goes whatever happens.
        let mut scratch = Scratch { real: self.clone(), store: Self::at(path.clone()), lock: Some(lock) };
        scratch.store = Self::open(&path)?;
        Ok(scratch)
    }
}

fn describe(bytes: &[u8], digest: Digest, document: &Document) -> (Descriptor, HashSet<Digest>) {
    let (usual, children) = match document {
        Document::Manifest(_) => (MediaType::OCI_MANIFEST, HashSet::new()),
        Document::Index(index) => {
            (MediaType::OCI_INDEX, index.manifests.iter().map(|child| child.digest.clone()).collect())
        }
    };
    let value: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    let media_type = MediaType(value["mediaType"].as_str().unwrap_or(usual).to_owned());
    let descriptor = Descriptor {
        media_type,
        digest,
        size: bytes.len() as u64,
        urls: Vec::new(),
        platform: None,
        annotations: BTreeMap::new(),
    };
    (descriptor, children)
}

/// A store in the `tmp/` of another, on the same file system. It goes with this value, or with the next sweep.
#[derive(Debug)]
pub struct Scratch {
    real: Store,
    store: Store,
    lock: Option<Lock>,
}

impl Scratch {
    /// The scratch itself.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// Lets the scratch have a blob of the store.
    pub fn borrow_blob(&self, digest: &Digest) -> Result<(), StoreError> {
        borrow(&self.real.blob_path(digest), &self.store.blob_path(digest))
    }

    /// Lets the scratch have a layer of the store, in the place of its own.
    pub fn borrow_layer(&self, key: &Digest) -> Result<(), StoreError> {
        borrow(&self.real.layer_dir(key), &self.store.layer_dir(key))
    }

    /// Puts a blob of the scratch, which is whole, in the place of the store's.
    pub fn give_blob(&self, digest: &Digest) -> Result<(), StoreError> {
        let (from, to) = (self.store.blob_path(digest), self.real.blob_path(digest));
        let write = |source| StoreError::Write { path: to.clone(), source };
        // A directory in its place does not go by being renamed over.
        if fs::symlink_metadata(&to).is_ok_and(|metadata| metadata.is_dir()) {
            exchange(&from, &to).map_err(write)?;
            remove_tree(&from).map_err(write)?;
        } else {
            fs::rename(&from, &to).map_err(write)?;
        }
        to.parent().map_or(Ok(()), sync_dir).map_err(write)
    }

    /// Puts a layer of the scratch in the place of the store's. The caller holds [`Store::exclusive`], so that no run is
    /// just being set up with it.
    ///
    /// # Errors
    /// [`StoreError::LayerInUse`] while a run has it mounted.
    pub fn give_layer(&self, key: &Digest, _exclusive: &Lock) -> Result<(), StoreError> {
        let (from, to) = (self.store.layer_dir(key), self.real.layer_dir(key));
        let write = |source| StoreError::Write { path: to.clone(), source };
        if let Some(run) = self.real.layer_user(key)? {
            return Err(StoreError::LayerInUse { digest: key.clone(), run });
        }
        // Its content was made durable when the scratch took it in.
        if fs::symlink_metadata(&to).is_ok() {
            exchange(&from, &to).map_err(write)?;
        } else {
            fs::rename(&from, &to).map_err(write)?;
        }
        to.parent().map_or(Ok(()), sync_dir).map_err(write)?;
        self.borrow_layer(key)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is swept later.
        drop(remove_tree(self.store.root()));
        if let Some(lock) = self.lock.take() {
            drop(lock.remove());
        }
    }
}

fn borrow(real: &Path, place: &Path) -> Result<(), StoreError> {
    let borrowed = remove_tree(place).and_then(|()| symlink(real, place));
    borrowed.map_err(|source| StoreError::Write { path: place.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(bytes: &[u8]) -> Descriptor {
        serde_json::from_value(serde_json::json!({
            "mediaType": "x/y", "digest": Digest::sha256(bytes), "size": bytes.len()
        }))
        .unwrap()
    }

    #[test]
    fn each_damage_of_a_blob_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let good = blob(b"hello");
        let path = store.blob_path(&good.digest);
        assert!(matches!(store.verify_blob(&good, true), Err(BlobDamage::Missing)));
        fs::write(&path, "hello").unwrap();
        assert!(store.verify_blob(&good, true).is_ok());
        fs::write(&path, "jello").unwrap();
        assert!(store.verify_blob(&good, false).is_ok());
        assert!(matches!(store.verify_blob(&good, true), Err(BlobDamage::Content(_))));
        fs::write(&path, "hell").unwrap();
        assert!(matches!(store.verify_blob(&good, false), Err(BlobDamage::Size(4, 5))));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(store.verify_blob(&good, false), Err(BlobDamage::Kind)));
        let scratch = store.scratch(|_| {}).unwrap();
        scratch.store().put_document(&good.digest, b"hello").unwrap();
        scratch.give_blob(&good.digest).unwrap();
        assert!(store.verify_blob(&good, true).is_ok());
        drop(scratch);
        assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn what_belongs_to_nothing_is_told_and_what_borrows_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let lonely = blob(b"lonely");
        store.put_document(&lonely.digest, b"lonely").unwrap();
        fs::write(dir.path().join("blobs/sha256/notes.txt"), "x").unwrap();
        fs::write(dir.path().join("tmp/left"), "x").unwrap();
        let loose = store.loose().unwrap();
        assert_eq!(loose.blobs, std::slice::from_ref(&lonely.digest));
        assert_eq!(loose.foreign, [PathBuf::from("blobs/sha256/notes.txt"), PathBuf::from("tmp/left")]);
        let scratch = store.scratch(|_| {}).unwrap();
        scratch.borrow_blob(&lonely.digest).unwrap();
        assert!(scratch.store().has_blob(&lonely));
        drop(scratch);
        assert!(store.verify_blob(&lonely, true).is_ok());
    }
}
