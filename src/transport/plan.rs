//! What an archive will hold, before any of it is written: names in order, each with its content.
//!
//! Nothing in it depends on the clock, on the machine or on the order in which things were stored, so the same images
//! under the same names give the same bytes.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, Read};

use serde_json::{Value, json};

use super::TransportError;
use super::files::{MANIFEST, MARK};
use super::layout::{FULL_NAME, INDEX, REF_NAME, VERSION, blob_name};
use crate::image::{Descriptor, Digest, Document, Hasher, ImageConfig, Manifest, MediaType, Platform, Reference};
use crate::rootfs::{Inflate, MAX_LAYER_BYTES};
use crate::store::{Store, StoreError, StoredImage};

const BUFFER_BYTES: usize = 256 << 10;

/// How images are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaveFormat {
    /// As `docker save` does.
    DockerArchive,
    /// An OCI image layout in a tar archive.
    OciArchive,
    /// An OCI image layout.
    OciDir,
}

/// Content on its way out.
pub(super) enum Item {
    Bytes(Vec<u8>),
    /// A blob of the store as it is.
    Blob(Descriptor),
    /// A blob of the store uncompressed, with the digest and size of what comes out.
    Layer {
        blob: Digest,
        diff_id: Digest,
        size: u64,
    },
}

/// Names in order.
pub(super) type Plan = BTreeMap<String, Item>;

impl Item {
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Blob(descriptor) => descriptor.size,
            Self::Layer { size, .. } => *size,
        }
    }

    /// What it is read from and the digest that it must have.
    pub(super) fn open(&self, store: &Store) -> Result<(Box<dyn Read + '_>, Option<Digest>), TransportError> {
        Ok(match self {
            Self::Bytes(bytes) => (Box::new(bytes.as_slice()), None),
            Self::Blob(descriptor) => (Box::new(store.open_blob(&descriptor.digest)?), Some(descriptor.digest.clone())),
            Self::Layer { blob, diff_id, .. } => (Box::new(inflate(store, blob)?), Some(diff_id.clone())),
        })
    }
}

/// Plans what `format` wants. `platform` chooses among the images of an index where only one can be written.
pub(super) fn plan(
    store: &Store,
    images: &[StoredImage],
    format: SaveFormat,
    platform: &Platform,
) -> Result<Plan, TransportError> {
    match format {
        SaveFormat::DockerArchive => docker(store, images, platform),
        SaveFormat::OciArchive | SaveFormat::OciDir => oci(store, images),
    }
}

fn docker(store: &Store, images: &[StoredImage], platform: &Platform) -> Result<Plan, TransportError> {
    let mut plan = Plan::new();
    // By configuration: names and layers.
    let mut entries: BTreeMap<String, (Vec<String>, Vec<String>)> = BTreeMap::new();
    for image in images {
        let manifest = one_manifest(store, image, platform)?;
        let bytes = store.read_document(&manifest.config.digest)?;
        let config = ImageConfig::parse(&bytes, &manifest.config.digest).map_err(StoreError::Config)?;
        let mut layers = Vec::new();
        for (layer, diff_id) in manifest.layers.iter().zip(&config.diff_ids) {
            let name = format!("{}.tar", diff_id.hex());
            if !plan.contains_key(&name) {
                plan.insert(name.clone(), uncompressed(store, image, layer, diff_id)?);
            }
            layers.push(name);
        }
        let name = format!("{}.json", manifest.config.digest.hex());
        plan.insert(name.clone(), Item::Bytes(bytes));
        // Docker knows no names with digests.
        let tag = image.reference().filter(|name| name.digest().is_none()).map(|name| name.familiar());
        let (tags, _) = entries.entry(name).or_insert_with(|| (Vec::new(), layers));
        tags.extend(tag.filter(|tag| !tags.contains(tag)));
        tags.sort();
    }
    let manifest: Vec<Value> = entries
        .into_iter()
        .map(|(config, (tags, layers))| json!({ "Config": config, "RepoTags": tags, "Layers": layers }))
        .collect();
    plan.insert(MANIFEST.to_owned(), json_item(&json!(manifest)));
    Ok(plan)
}

/// The manifest of an image that is here, of several the one for the platform.
fn one_manifest(store: &Store, image: &StoredImage, platform: &Platform) -> Result<Manifest, TransportError> {
    let mut offered = Vec::new();
    let mut best: Option<(u32, Manifest)> = None;
    let mut manifests = store.manifests(image)?;
    if manifests.len() == 1
        && let Some((_, only)) = manifests.pop()
    {
        return Ok(only);
    }
    for (_, manifest) in manifests {
        let bytes = store.read_document(&manifest.config.digest)?;
        let config = ImageConfig::parse(&bytes, &manifest.config.digest).map_err(StoreError::Config)?;
        let Some(found) = config.platform else { continue };
        offered.push(found.to_string());
        if let Some(rank) = platform.rank(&found)
            && best.as_ref().is_none_or(|(highest, _)| rank > *highest)
        {
            best = Some((rank, manifest));
        }
    }
    let none = || TransportError::ManyPlatforms { image: shown(image), offered: offered.join(", ") };
    best.map(|(_, manifest)| manifest).ok_or_else(none)
}

/// A layer whose size is known: counted, and verified, when it is compressed.
fn uncompressed(
    store: &Store,
    image: &StoredImage,
    layer: &Descriptor,
    diff_id: &Digest,
) -> Result<Item, TransportError> {
    if !store.has_blob(layer) {
        return Err(TransportError::Incomplete { image: shown(image), digest: layer.digest.clone() });
    }
    let mut content = inflate(store, &layer.digest)?;
    let mut size = layer.size;
    if !content.suffix().is_empty() {
        let read = |source| TransportError::Read { what: format!("blob {}", layer.digest), source };
        let (mut hasher, mut buffer) = (Hasher::new(diff_id.algorithm()), vec![0; BUFFER_BYTES]);
        size = 0;
        loop {
            let length = content.read(&mut buffer).map_err(read)?;
            if length == 0 {
                break;
            }
            hasher.update(&buffer[..length]);
            size += length as u64;
            if size > MAX_LAYER_BYTES {
                return Err(TransportError::too_large(
                    &shown(image),
                    &format!("layer `{}`", layer.digest),
                    MAX_LAYER_BYTES,
                ));
            }
        }
        if hasher.finish() != *diff_id {
            return Err(TransportError::Damaged { digest: layer.digest.clone() });
        }
    }
    Ok(Item::Layer { blob: layer.digest.clone(), diff_id: diff_id.clone(), size })
}

fn inflate(store: &Store, blob: &Digest) -> Result<Inflate<File>, TransportError> {
    let stream = |source| TransportError::Stream { what: format!("blob {blob}"), source };
    Inflate::new(store.open_blob(blob)?).map_err(stream)
}

fn oci(store: &Store, images: &[StoredImage]) -> Result<Plan, TransportError> {
    let mut plan = Plan::new();
    let (mut entries, mut seen): (Vec<Value>, HashSet<(String, Digest)>) = (Vec::new(), HashSet::new());
    for image in images {
        let mut parts = Parts::default();
        parts.collect(store, image, &image.descriptor)?;
        let mut top = match parts.manifests.as_slice() {
            // Of an index with one image that image is written, whole; of one with more, the index with what is here.
            [only] if parts.lacks => {
                let only = only.clone();
                parts = Parts::default();
                parts.collect(store, image, &only)?;
                only
            }
            _ => image.descriptor.clone(),
        };
        plan.extend(parts.blobs.into_iter().map(|blob| (blob_name(&blob.digest), Item::Blob(blob))));
        if let Some(name) = image.reference() {
            top.annotations = [FULL_NAME, REF_NAME].map(|key| (key.to_owned(), name.to_string())).into();
        }
        if seen.insert((image.name.clone(), top.digest.clone())) {
            entries.push(serde_json::to_value(&top).unwrap_or_default());
        }
    }
    entries.sort_by_key(ToString::to_string);
    let index = json!({ "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": entries });
    plan.insert(INDEX.to_owned(), json_item(&index));
    plan.insert(MARK.to_owned(), json_item(&json!({ "imageLayoutVersion": VERSION })));
    Ok(plan)
}

/// What an image consists of.
#[derive(Default)]
struct Parts {
    blobs: Vec<Descriptor>,
    manifests: Vec<Descriptor>,
    /// An index names images that are not here.
    lacks: bool,
    /// What was looked at: an index may be named any number of times.
    seen: HashSet<Digest>,
}

impl Parts {
    fn collect(&mut self, store: &Store, image: &StoredImage, top: &Descriptor) -> Result<(), TransportError> {
        if !self.seen.insert(top.digest.clone()) {
            return Ok(());
        }
        let bytes = store.read_document(&top.digest)?;
        match Document::parse(&bytes, &top.digest).map_err(StoreError::Document)? {
            Document::Manifest(manifest) => {
                let parts: Vec<Descriptor> = std::iter::once(manifest.config).chain(manifest.layers).collect();
                if let Some(missing) = parts.iter().find(|part| !store.has_blob(part)) {
                    let (image, digest) = (shown(image), missing.digest.clone());
                    return Err(TransportError::Incomplete { image, digest });
                }
                self.blobs.extend(parts);
                self.manifests.push(top.clone());
            }
            Document::Index(index) => {
                for child in index.manifests {
                    let is_document = child.media_type.is_manifest() || child.media_type.is_index();
                    if is_document && store.has_blob(&child) {
                        self.collect(store, image, &child)?;
                    } else {
                        self.lacks = true;
                    }
                }
            }
        }
        // Its size is taken from what is there, as an index that another tool wrote may be wrong about it.
        self.blobs.push(Descriptor { size: bytes.len() as u64, ..top.clone() });
        Ok(())
    }
}

fn json_item(value: &Value) -> Item {
    Item::Bytes(value.to_string().into_bytes())
}

fn shown(image: &StoredImage) -> String {
    image.reference().map_or_else(|| image.descriptor.digest.to_string(), |name: Reference| name.familiar())
}

/// Hashes and counts what is read.
pub(super) struct Checked<R> {
    inner: R,
    hasher: Option<Hasher>,
    left: u64,
}

impl<R: Read> Checked<R> {
    pub(super) fn new(inner: R, digest: Option<&Digest>, size: u64) -> Self {
        Self { inner, hasher: digest.map(|digest| Hasher::new(digest.algorithm())), left: size }
    }

    /// Whether all of it came and nothing more, and it was what it should be.
    pub(super) fn finish(mut self, digest: Option<&Digest>) -> io::Result<bool> {
        let more = self.inner.read(&mut [0])? > 0;
        Ok(!more && self.left == 0 && self.hasher.map(Hasher::finish).as_ref() == digest)
    }
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        if wanted == 0 {
            return Ok(0);
        }
        let read = self.inner.read(&mut into[..wanted])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&into[..read]);
        }
        Ok(read)
    }
}
