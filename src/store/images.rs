//! Which images are there: `index.json`, the index of an OCI image layout.
//!
//! Each entry names its image by the annotation `org.opencontainers.image.ref.name` (OCI image layout specification). We
//! write the full reference there, as other tools do; a short name that another tool wrote is read as docker reads short
//! names. Entries of others are carried over as they are.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Store, StoreError};
use crate::image::{Descriptor, Digest, Document, Image, ImageConfig, Manifest, MediaType, Platform, Reference};
use crate::sys::{LockMode, read_bounded, write_atomic};

const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Annotation of an entry: the manifest of it whose layers have all been unpacked once, so that they should be there.
const UNPACKED: &str = "dockless.unpacked";
const LAYOUT_VERSION: &str = "1.0.0";
/// Most bytes of `index.json` that are read; an image takes some hundred.
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// One entry of the index.
#[derive(Debug, Clone)]
pub struct StoredImage {
    /// What it is called, as it stands in the annotation; entries without a name have an empty one.
    pub name: String,
    /// The manifest or index it points to.
    pub descriptor: Descriptor,
}

impl StoredImage {
    /// Whether all layers of this manifest of it have been unpacked once: one that is missing has been lost.
    #[must_use]
    pub fn was_unpacked(&self, manifest: &Digest) -> bool {
        self.descriptor.annotations.get(UNPACKED).is_some_and(|noted| *noted == manifest.to_string())
    }

    /// The name as a reference; `None` for a name that is none.
    #[must_use]
    pub fn reference(&self) -> Option<Reference> {
        self.name.parse().ok()
    }

    /// Whether both are one entry of the index.
    #[must_use]
    pub fn is_same_entry(&self, other: &Self) -> bool {
        self.name == other.name && self.descriptor.digest == other.descriptor.digest
    }

    fn is_entry(&self, entry: &Value) -> bool {
        entry_name(entry) == self.name && entry["digest"] == self.descriptor.digest.to_string()
    }
}

impl Store {
    pub(super) fn open_layout(&self) -> Result<(), StoreError> {
        let path = self.root().join("oci-layout");
        let bytes = match read_bounded(&path, MAX_INDEX_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(StoreError::Read { path, source }),
        };
        let layout: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        match layout["imageLayoutVersion"].as_str() {
            Some(LAYOUT_VERSION) => Ok(()),
            Some(found) => {
                let (path, found) = (self.root().to_owned(), found.to_owned());
                Err(StoreError::Version { path, found, expected: LAYOUT_VERSION })
            }
            // Missing or damaged, and it never says anything else.
            None => {
                let layout = json!({ "imageLayoutVersion": LAYOUT_VERSION }).to_string();
                let _lock = self.lock("index", LockMode::Exclusive, |_| {})?;
                write_atomic(&path, layout.as_bytes()).map_err(|source| StoreError::Write { path, source })
            }
        }
    }

    /// All images, in the order they were first stored. Entries that are none are passed over, so that they harm no other.
    pub fn images(&self) -> Result<Vec<StoredImage>, StoreError> {
        Ok(self.read_index()?.0.into_iter().filter_map(|entry| parse_entry(entry).ok()).collect())
    }

    /// Entries of the index that are no images, in words.
    pub fn strange_entries(&self) -> Result<Vec<String>, StoreError> {
        let entries = self.read_index()?.0.into_iter().enumerate();
        Ok(entries.filter_map(|(at, entry)| Some(format!("entry {at}: {}", parse_entry(entry).err()?))).collect())
    }

    /// Keeps a damaged index under the name `aside` and writes one with these images in its place.
    pub(super) fn replace_index(
        &self,
        aside: &Path,
        images: &[(Option<Reference>, Descriptor)],
    ) -> Result<(), StoreError> {
        let _lock = self.lock("index", LockMode::Exclusive, |_| {})?;
        let path = self.root().join("index.json");
        // A second name for the old one, so that the list is missing at no moment. It is only kept to be looked at.
        drop(std::fs::remove_file(aside));
        drop(std::fs::hard_link(&path, aside));
        let mut entries = Vec::new();
        for (reference, descriptor) in images {
            let mut descriptor = descriptor.clone();
            if let Some(reference) = reference {
                descriptor.annotations.insert(REF_NAME.to_owned(), reference.to_string());
            }
            entries.push(serde_json::to_value(&descriptor).unwrap_or_default());
        }
        self.write_index(&path, &entries)
    }

    /// What `reference` points to, if it is stored.
    pub fn lookup(&self, reference: &Reference) -> Result<Option<StoredImage>, StoreError> {
        Ok(self.images()?.into_iter().find(|image| image.reference().as_ref() == Some(reference)))
    }

    /// Finds an image by what a person would type: a reference, a digest, or the first digits of one.
    pub fn find(&self, name: &str) -> Result<StoredImage, StoreError> {
        // What was made here and has no registry is called `localhost/NAME`, as podman has it.
        for name in [name.to_owned(), format!("localhost/{name}")] {
            if let Ok(reference) = name.parse::<Reference>()
                && let Some(image) = self.lookup(&reference)?
            {
                return Ok(image);
            }
        }
        let prefix = name.strip_prefix("sha256:").unwrap_or(name);
        let is_prefix = prefix.len() >= 4 && prefix.bytes().all(|b| b.is_ascii_hexdigit());
        let mut fitting: Vec<StoredImage> =
            self.images()?.into_iter().filter(|i| is_prefix && i.descriptor.digest.hex().starts_with(prefix)).collect();
        let distinct: HashSet<&Digest> = fitting.iter().map(|image| &image.descriptor.digest).collect();
        if distinct.len() > 1 {
            let found = fitting.iter().map(|image| format!("`{}`", image.name)).collect::<Vec<_>>().join(", ");
            return Err(StoreError::AmbiguousImage { name: name.to_owned(), found });
        }
        fitting.pop().ok_or_else(|| StoreError::NoImage { name: name.to_owned() })
    }

    /// Makes `reference` point to `manifest`, which is in the store with all it names.
    pub fn tag(&self, reference: &Reference, manifest: &Descriptor) -> Result<(), StoreError> {
        let mut descriptor = manifest.clone();
        descriptor.annotations.insert(REF_NAME.to_owned(), reference.to_string());
        self.change_index(|entries| {
            let entry = serde_json::to_value(&descriptor).unwrap_or_default();
            match entries.iter_mut().find(|entry| entry_reference(entry).as_ref() == Some(reference)) {
                Some(old) => *old = entry,
                None => entries.push(entry),
            }
        })
    }

    /// The same for an image whose layers are unpacked; `manifest` is the one of them when the name stands for several.
    pub fn tag_unpacked(&self, reference: &Reference, top: &Descriptor, manifest: &Digest) -> Result<(), StoreError> {
        let mut top = top.clone();
        top.annotations.insert(UNPACKED.to_owned(), manifest.to_string());
        self.tag(reference, &top)
    }

    /// Notes that the layers of one manifest of an image are unpacked now.
    pub fn note_unpacked(&self, image: &StoredImage, manifest: &Digest) -> Result<(), StoreError> {
        self.change_index(|entries| {
            // The rest of the entry stays as it is: another tool may have written it.
            let meant = entries.iter_mut().filter(|entry| image.is_entry(entry));
            for annotations in meant.filter_map(|entry| entry.get_mut("annotations")?.as_object_mut()) {
                annotations.insert(UNPACKED.to_owned(), json!(manifest.to_string()));
            }
        })
    }

    /// Takes the name away; returns whether it was there. The content stays until [`Store::collect`].
    pub fn untag(&self, image: &StoredImage) -> Result<bool, StoreError> {
        self.untag_all(std::slice::from_ref(image)).map(|removed| removed > 0)
    }

    /// Takes all these names away at once; returns how many were there.
    pub fn untag_all(&self, images: &[StoredImage]) -> Result<usize, StoreError> {
        let is_meant = |entry: &Value| images.iter().any(|image| image.is_entry(entry));
        let mut removed = 0;
        self.change_index(|entries| {
            let before = entries.len();
            entries.retain(|entry| !is_meant(entry));
            removed = before - entries.len();
        })?;
        Ok(removed)
    }

    /// Reads the documents of a stored image; for an index the manifest that suits `platform`.
    ///
    /// `None` when the index has nothing for the platform, or the manifest was built for another one.
    pub fn load(
        &self,
        reference: &Reference,
        stored: &StoredImage,
        platform: &Platform,
    ) -> Result<Option<Image>, StoreError> {
        let mut digest = stored.descriptor.digest.clone();
        let manifest = loop {
            match Document::parse(&self.read_document(&digest)?, &digest).map_err(StoreError::Document)? {
                Document::Manifest(manifest) => break manifest,
                Document::Index(index) => match index.select_or_only(platform) {
                    Some(chosen) => digest = chosen.digest.clone(),
                    None => return Ok(None),
                },
            }
        };
        let image = self.assemble(reference, digest, manifest)?;
        let suits = image.config.platform.as_ref().is_none_or(|offered| platform.rank(offered).is_some());
        Ok(suits.then_some(image))
    }

    /// The images that a stored name stands for, by the digest of their manifests: of an index only those that are here.
    pub fn manifests(&self, stored: &StoredImage) -> Result<Vec<(Digest, Manifest)>, StoreError> {
        let mut found = Vec::new();
        let mut waiting = vec![stored.descriptor.digest.clone()];
        // An index may name one index two thousand times, and that one another: each is looked at once.
        let mut seen = HashSet::new();
        while let Some(digest) = waiting.pop() {
            if !seen.insert(digest.clone()) {
                continue;
            }
            match Document::parse(&self.read_document(&digest)?, &digest).map_err(StoreError::Document)? {
                Document::Manifest(manifest) => found.push((digest, manifest)),
                Document::Index(index) => {
                    let images =
                        index.manifests.iter().rev().filter(|d| d.media_type.is_manifest() || d.media_type.is_index());
                    waiting.extend(images.filter(|child| self.has_blob(child)).map(|child| child.digest.clone()));
                }
            }
        }
        Ok(found)
    }

    fn assemble(&self, reference: &Reference, digest: Digest, manifest: Manifest) -> Result<Image, StoreError> {
        let bytes = self.read_document(&manifest.config.digest)?;
        let config = ImageConfig::parse(&bytes, &manifest.config.digest).map_err(StoreError::Config)?;
        Image::new(reference.clone(), digest, manifest, config).map_err(StoreError::Document)
    }

    fn read_index(&self) -> Result<(Vec<Value>, PathBuf), StoreError> {
        let path = self.root().join("index.json");
        let bytes = match read_bounded(&path, MAX_INDEX_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok((Vec::new(), path)),
            Err(source) => return Err(StoreError::Read { path, source }),
        };
        let damaged = |source| StoreError::Index { path: path.clone(), source };
        let mut index: serde_json::Map<String, Value> = serde_json::from_slice(&bytes).map_err(damaged)?;
        // Go's tools write `null` for an empty list.
        let entries: Option<Vec<Value>> =
            serde_json::from_value(index.remove("manifests").unwrap_or_default()).map_err(damaged)?;
        Ok((entries.unwrap_or_default(), path))
    }

    fn change_index(&self, change: impl FnOnce(&mut Vec<Value>)) -> Result<(), StoreError> {
        let _lock = self.lock_at_any_rate("index", |_| {})?;
        let (mut entries, path) = self.read_index()?;
        change(&mut entries);
        self.write_index(&path, &entries)
    }

    fn write_index(&self, path: &Path, entries: &[Value]) -> Result<(), StoreError> {
        let index = json!({ "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": entries });
        self.write_at_any_rate(path, index.to_string().as_bytes())
    }
}

fn parse_entry(entry: Value) -> Result<StoredImage, serde_json::Error> {
    let name = entry_name(&entry).to_owned();
    Ok(StoredImage { name, descriptor: serde_json::from_value(entry)? })
}

fn entry_name(entry: &Value) -> &str {
    entry["annotations"][REF_NAME].as_str().unwrap_or_default()
}

fn entry_reference(entry: &Value) -> Option<Reference> {
    entry_name(entry).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(text: &str) -> Descriptor {
        Descriptor {
            media_type: MediaType(MediaType::OCI_MANIFEST.to_owned()),
            digest: Digest::sha256(text.as_bytes()),
            size: 1,
            urls: Vec::new(),
            platform: None,
            annotations: std::collections::BTreeMap::new(),
        }
    }

    #[test]
    fn an_index_that_would_fill_the_memory_is_refused_and_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let path = store.root().join("index.json");
        std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert!(matches!(store.images(), Err(StoreError::Read { .. })));
        assert!(store.index_damage().unwrap().unwrap().contains("has more than the 67108864 bytes"));
        assert!(store.rebuild_index().unwrap().is_empty());
        assert!(store.images().unwrap().is_empty());
    }

    #[test]
    fn names_point_to_one_image_each() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (debian, alpine): (Reference, Reference) = ("debian:12".parse().unwrap(), "alpine".parse().unwrap());
        store.tag(&debian, &descriptor("a")).unwrap();
        store.tag(&alpine, &descriptor("b")).unwrap();
        store.tag(&debian, &descriptor("c")).unwrap();
        assert_eq!(store.images().unwrap().len(), 2);
        assert_eq!(store.lookup(&debian).unwrap().unwrap().descriptor.digest, descriptor("c").digest);
        assert_eq!(store.find("debian:12").unwrap().name, "docker.io/library/debian:12");
        assert_eq!(store.find(descriptor("b").digest.short()).unwrap().name, "docker.io/library/alpine:latest");
        assert!(matches!(store.find("nothing"), Err(StoreError::NoImage { .. })));
        store.tag(&"localhost/made:1".parse().unwrap(), &descriptor("d")).unwrap();
        assert_eq!(store.find("made:1").unwrap().name, "localhost/made:1");
        store.untag(&store.find("made:1").unwrap()).unwrap();
        let stored = store.find("alpine").unwrap();
        assert!(store.untag(&stored).unwrap());
        assert!(!store.untag(&stored).unwrap());
    }

    #[test]
    fn entries_of_other_tools_are_read_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut foreign = serde_json::to_value(descriptor("a")).unwrap();
        foreign["annotations"] = json!({ REF_NAME: "debian:12", "x": "y" });
        foreign["artifactType"] = json!("z");
        let index = json!({ "schemaVersion": 2, "manifests": [foreign] });
        std::fs::write(dir.path().join("index.json"), index.to_string()).unwrap();
        assert!(store.lookup(&"debian:12".parse().unwrap()).unwrap().is_some());
        store.tag(&"alpine".parse().unwrap(), &descriptor("b")).unwrap();
        let after: Value = serde_json::from_slice(&std::fs::read(dir.path().join("index.json")).unwrap()).unwrap();
        assert_eq!(after["manifests"][0], foreign);
    }

    #[test]
    fn an_entry_that_is_none_harms_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let write = |text: &str| std::fs::write(dir.path().join("index.json"), text).unwrap();
        let good = serde_json::to_value(descriptor("a")).unwrap();
        write(&json!({ "schemaVersion": 2, "manifests": [7, { "digest": "sha256:../x" }, good] }).to_string());
        assert_eq!(store.images().unwrap().len(), 1);
        assert_eq!(store.strange_entries().unwrap().len(), 2);
        store.tag(&"alpine".parse().unwrap(), &descriptor("b")).unwrap();
        assert_eq!((store.images().unwrap().len(), store.strange_entries().unwrap().len()), (2, 2));
        for damaged in ["", "{", "[]", r#"{"manifests":{}}"#, "\0\0"] {
            write(damaged);
            assert!(matches!(store.images(), Err(StoreError::Index { .. })), "{damaged}");
        }
        for empty in ["{}", r#"{"manifests":null}"#] {
            write(empty);
            assert!(store.images().unwrap().is_empty(), "{empty}");
        }
    }

    #[test]
    fn a_newer_layout_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"9.0.0"}"#).unwrap();
        assert!(matches!(Store::open(dir.path()), Err(StoreError::Version { .. })));
        // A damaged one is made anew.
        for damaged in ["", "{\"image", "\0\0"] {
            std::fs::write(dir.path().join("oci-layout"), damaged).unwrap();
            Store::open(dir.path()).unwrap();
            let written = std::fs::read_to_string(dir.path().join("oci-layout")).unwrap();
            assert_eq!(written, r#"{"imageLayoutVersion":"1.0.0"}"#);
        }
    }
}
