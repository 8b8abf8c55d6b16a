//! What is no longer needed goes: content that no name reaches, and what a killed process left in `tmp/`.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::blobs::PARTIAL;
use super::layers::remove_any;
use super::{Store, StoreError, StoredImage};
use crate::image::{ChainId, Digest, Document, ImageConfig};
use crate::sys::{Lock, LockMode, disk_usage};

/// What a collection freed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Blobs deleted.
    pub blobs: usize,
    /// Layers deleted.
    pub layers: usize,
    /// Bytes of the blobs and of the files in the layers.
    pub bytes: u64,
}

/// A blob or a layer: where it is, and its name.
pub(super) type Content = (PathBuf, Digest);

impl Store {
    /// Takes every blob and layer out of sight that no image and no run reaches; [`Store::empty_trash`] frees what they
    /// took. The caller holds [`Store::exclusive`].
    ///
    /// An image with a missing or damaged document keeps what can still be read of it and nothing else is touched by it.
    ///
    /// # Errors
    /// [`StoreError::RunUnreadable`] when it cannot be told which layers a live run has mounted: then nothing is deleted.
    pub fn collect(&self, _exclusive: &Lock) -> Result<Removed, StoreError> {
        let live = self.live(&[])?;
        self.mark_collecting();
        let mut removed = self.discard_layers(&live)?;
        for (path, name) in self.content("blobs")? {
            if !live.blobs.contains(&name) {
                removed.bytes += fs::symlink_metadata(&path).map_or(0, |metadata| metadata.len());
                removed.blobs += usize::from(self.throw_away(&path, &format!("blob-{}", name.short()))?);
            }
        }
        self.mark_collected();
        Ok(removed)
    }

    /// The same for layers alone, and those of `leaving` too, whose names are still there: without its layers an image is
    /// one that is unpacked when it is next wanted. That makes room on a full file system.
    pub(super) fn collect_layers(&self, leaving: &[StoredImage]) -> Result<Removed, StoreError> {
        self.discard_layers(&self.live(leaving)?)
    }

    fn discard_layers(&self, live: &Live) -> Result<Removed, StoreError> {
        let mut removed = Removed::default();
        for (path, name) in self.content("layers")? {
            if !live.layers.contains(&name) {
                removed.bytes += self.layer_info(&name).map_or(0, |info| info.size_bytes);
                removed.layers += usize::from(self.throw_away(&path, &format!("layer-{}", name.short()))?);
            }
        }
        Ok(removed)
    }

    /// What images, `leaving` left out, and runs reach, as far as it can be read.
    fn live(&self, leaving: &[StoredImage]) -> Result<Live, StoreError> {
        let mut live = Live::default();
        for image in self.images()? {
            if !leaving.iter().any(|leaving| leaving.is_same_entry(&image)) {
                self.mark(&image.descriptor.digest, &mut live);
            }
        }
        for run in self.runs_with_layers()? {
            live.layers.extend(run.needed_layers().cloned());
        }
        Ok(live)
    }

    /// What stands in the store that no image and no run reaches: blobs, then layers.
    pub(super) fn orphans(&self) -> Result<(Vec<Content>, Vec<Content>), StoreError> {
        let live = self.live(&[])?;
        let without = |kind, reached: &HashSet<Digest>| {
            let mut found = self.content(kind)?;
            found.retain(|(_, name)| !reached.contains(name));
            found.sort();
            Ok::<_, StoreError>(found)
        };
        Ok((without("blobs", &live.blobs)?, without("layers", &live.layers)?))
    }

    /// Downloads that were not finished: how many, and their bytes.
    pub(super) fn partials(&self) -> Result<(usize, u64), StoreError> {
        let mut all = read_dir(&self.root().join("tmp"))?;
        all.retain(|entry| entry.path().extension().is_some_and(|kind| kind == PARTIAL));
        Ok((all.len(), all.iter().filter_map(|entry| disk_usage(&entry.path()).ok()).sum()))
    }

    /// The blobs and the layers that an image reaches, as far as that can be told.
    pub(super) fn reached(&self, digest: &Digest) -> (HashSet<Digest>, HashSet<Digest>) {
        let mut live = Live::default();
        self.mark(digest, &mut live);
        (live.blobs, live.layers)
    }

    /// Marks what a manifest or index reaches, as far as it can be read. Does not recurse: nothing bounds how deep the
    /// indexes are that another tool wrote.
    fn mark(&self, digest: &Digest, live: &mut Live) {
        let mut waiting = vec![digest.clone()];
        while let Some(digest) = waiting.pop() {
            if live.blobs.insert(digest.clone()) {
                waiting.extend(self.mark_document(&digest, live));
            }
        }
    }

    /// Marks what a manifest names; the children of an index.
    fn mark_document(&self, digest: &Digest, live: &mut Live) -> Vec<Digest> {
        let Some(document) = self.read_document(digest).ok().and_then(|bytes| Document::parse(&bytes, digest).ok())
        else {
            return Vec::new();
        };
        match document {
            Document::Index(index) => return index.manifests.into_iter().map(|child| child.digest).collect(),
            Document::Manifest(manifest) => {
                live.blobs.insert(manifest.config.digest.clone());
                live.blobs.extend(manifest.layers.iter().map(|layer| layer.digest.clone()));
                let config = self
                    .read_document(&manifest.config.digest)
                    .ok()
                    .and_then(|bytes| ImageConfig::parse(&bytes, &manifest.config.digest).ok());
                if let Some(config) = config {
                    live.layers.extend(layer_keys(&config.diff_ids));
                }
            }
        }
        Vec::new()
    }

    /// What stands under a directory of content, with the digest that its name spells. Foreign names are left alone.
    pub(super) fn content(&self, kind: &str) -> Result<Vec<Content>, StoreError> {
        let mut found = Vec::new();
        for algorithm in ["sha256", "sha512"] {
            let dir = self.root().join(kind).join(algorithm);
            for entry in read_dir(&dir)? {
                let name = entry.file_name();
                if let Ok(digest) = format!("{algorithm}:{}", name.to_string_lossy()).parse() {
                    found.push((entry.path(), digest));
                }
            }
        }
        Ok(found)
    }
}

/// A layer may stand under its diff ID, or under its chain when it had to be mended.
fn layer_keys(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut keys = diff_ids.to_vec();
    let mut chain: Option<ChainId> = None;
    for diff_id in diff_ids {
        let next = chain.map_or_else(|| ChainId::base(diff_id), |chain| chain.push(diff_id));
        keys.push(next.digest().clone());
        chain = Some(next);
    }
    keys
}

/// Content that something needs.
#[derive(Default)]
struct Live {
    pub(super) blobs: HashSet<Digest>,
    pub(super) layers: HashSet<Digest>,
}

/// Which unfinished downloads a sweep leaves for the next one to go on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Partials {
    /// Those that were written to since then.
    Since(SystemTime),
    /// None.
    None,
}

/// Removes what killed processes left in `tmp/`: each entry whose lock nobody holds. Returns the bytes that it took.
///
/// # Errors
/// The first that something could not be removed for; the rest is gone.
pub fn sweep_tmp(store: &Store, kept: Partials) -> Result<u64, StoreError> {
    let (mut bytes, mut failed) = (0, None);
    for entry in read_dir(&store.root().join("tmp"))? {
        match sweep_entry(store, &entry, kept) {
            Ok(freed) => bytes += freed,
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(bytes), Err)
}

fn sweep_entry(store: &Store, entry: &fs::DirEntry, kept: Partials) -> Result<u64, StoreError> {
    let name = entry.file_name();
    let name = name.to_string_lossy();
    let Some((lock, kind)) = name.split_once('.') else { return Ok(0) };
    let is_young = |since| {
        let written = entry.metadata().and_then(|metadata| metadata.modified());
        written.is_ok_and(|at| at >= since)
    };
    if kind == PARTIAL && matches!(kept, Partials::Since(time) if is_young(time)) {
        return Ok(0);
    }
    let path = store.lock_path(lock);
    let held = Lock::try_acquire(&path, LockMode::Exclusive)
        .map_err(|source| StoreError::Lock { path: path.clone(), source })?;
    let Some(held) = held else { return Ok(0) };
    // Whoever held it may have finished meanwhile; then nothing is there, and that is fine.
    let bytes = disk_usage(&entry.path()).unwrap_or(0);
    remove_any(&entry.path())?;
    drop(held.remove());
    Ok(bytes)
}

pub(super) fn read_dir(dir: &Path) -> Result<Vec<fs::DirEntry>, StoreError> {
    let read = |source| StoreError::Read { path: dir.to_owned(), source };
    fs::read_dir(dir).map_err(read)?.collect::<Result<_, _>>().map_err(read)
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;
    use crate::image::{Descriptor, MediaType};
    use crate::store::LayerInfo;

    /// Stores an image of one layer and returns its manifest's descriptor and its diff ID.
    pub(in crate::store) fn image(store: &Store, layer: &str) -> (Descriptor, Digest) {
        let put = |bytes: &[u8], media_type: &str| {
            let digest = Digest::sha256(bytes);
            store.put_document(&digest, bytes).unwrap();
            json!({ "mediaType": media_type, "digest": digest.to_string(), "size": bytes.len() })
        };
        let diff_id = Digest::sha256(format!("tar of {layer}").as_bytes());
        let config = json!({ "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": [diff_id.to_string()] } });
        let config = put(config.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json");
        let layer = put(layer.as_bytes(), "application/vnd.oci.image.layer.v1.tar");
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
        let manifest = put(manifest.to_string().as_bytes(), MediaType::OCI_MANIFEST);
        let writer = store.write_layer(&diff_id, 0).unwrap();
        let info = LayerInfo {
            schema: 1,
            diff_id: diff_id.clone(),
            size_bytes: 7,
            entries: 1,
            mended: false,
            has_root: false,
            is_opaque: false,
            is_plain: false,
        };
        writer.commit(&diff_id, &info).unwrap();
        (serde_json::from_value(manifest).unwrap(), diff_id)
    }

    #[test]
    fn collects_what_nothing_reaches() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (first, first_layer) = image(&store, "first");
        let (second, second_layer) = image(&store, "second");
        store.tag(&"first".parse().unwrap(), &first).unwrap();
        store.tag(&"second".parse().unwrap(), &second).unwrap();
        let lock = store.exclusive(|_| {}).unwrap();
        assert_eq!(store.collect(&lock).unwrap(), Removed::default());
        store.untag(&store.find("first").unwrap()).unwrap();
        let removed = store.collect(&lock).unwrap();
        assert_eq!((removed.blobs, removed.layers), (3, 1));
        assert!(store.layer_fs(&first_layer).is_none() && store.layer_fs(&second_layer).is_some());
        assert!(store.has_blob(&second));
    }

    #[test]
    fn sweeps_only_what_nobody_holds() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (held, left) = (Digest::sha256(b"held"), Digest::sha256(b"left"));
        let lock = store.lock_digest(&held, |_| {}).unwrap();
        let mut writer = store.write_blob(&held, 1).unwrap();
        std::fs::write(store.tmp_path(&left, "blob"), "x").unwrap();
        fs::create_dir_all(store.tmp_path(&left, "layer").join("fs")).unwrap();
        assert!(sweep_tmp(&store, Partials::None).unwrap() > 0);
        assert!(!store.tmp_path(&left, "blob").exists() && !store.tmp_path(&left, "layer").exists());
        writer.write(b"h").unwrap();
        drop(writer);
        drop(lock);
    }

    #[test]
    fn a_sweep_goes_on_past_what_it_cannot_remove() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for name in ["a", "b", "c", "d"] {
            std::fs::write(store.root().join("tmp").join(format!("{name}.blob")), "x").unwrap();
        }
        fs::create_dir(store.lock_path("b")).unwrap();
        assert!(matches!(sweep_tmp(&store, Partials::None), Err(StoreError::Lock { .. })));
        let left: Vec<_> = read_dir(&store.root().join("tmp")).unwrap().iter().map(fs::DirEntry::file_name).collect();
        assert_eq!(left, ["b.blob"]);
    }
}
