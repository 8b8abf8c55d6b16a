//! What `docker save` writes (moby's image specification 1.2, "Combined Image JSON + Filesystem Changeset Format"):
//! `manifest.json`, a list of images with the names of their configuration and of their layers in the archive.
//!
//! There is no OCI manifest in it, so one is made, always the same for the same archive. The configuration stays as it is,
//! and with it the image ID. Layers are tar archives; a few tools compress them, which their first bytes tell.

use std::collections::HashMap;
use std::io::{self, Read};

use serde::Deserialize;
use serde_json::json;

use super::files::{Content, Files, MANIFEST};
use super::take::Taker;
use super::{Found, MAX_IMAGES, Root, TransportError};
use crate::image::{Algorithm, Descriptor, Digest, Hasher, ImageConfig, MAX_DOCUMENT_BYTES, MediaType, Reference};
use crate::rootfs::{Inflate, MAX_LAYER_BYTES};
use crate::words::printable;

const BUFFER_BYTES: usize = 256 << 10;

/// One image of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

/// The images that the archive lists.
pub(super) fn find(files: &Files) -> Result<Vec<Found>, TransportError> {
    let damaged = |source| TransportError::Json { what: files.what(), name: MANIFEST.to_owned(), source };
    let entries: Vec<Entry> = serde_json::from_slice(&files.read(MANIFEST)?).map_err(damaged)?;
    if entries.len() > MAX_IMAGES {
        let limit = format!("{MAX_IMAGES} images");
        return Err(TransportError::TooLarge { what: files.what(), name: format!("`{MANIFEST}`"), limit });
    }
    let found = entries.into_iter().map(|entry| {
        let labels = entry.repo_tags.unwrap_or_default();
        let names = labels.iter().filter_map(|name| name.parse::<Reference>().ok()).collect();
        Found { labels, names, root: Root::Docker { config: entry.config, layers: entry.layers.unwrap_or_default() } }
    });
    Ok(found.collect())
}

impl Taker<'_> {
    /// Takes an image and makes its manifest.
    pub(super) fn take_docker(&self, config: &str, layers: &[String]) -> Result<Descriptor, TransportError> {
        let bytes = self.files.read(config)?;
        let digest = Digest::sha256(&bytes);
        if let Some(expected) = named_digest(config).filter(|expected| *expected != digest) {
            return Err(self.wrong_digest(config, digest, expected));
        }
        let parsed = ImageConfig::parse(&bytes, &digest);
        let parsed = parsed.map_err(|source| TransportError::Config { what: self.files.what(), source })?;
        self.check_platform(&parsed)?;
        if layers.len() != parsed.diff_ids.len() {
            let (layers, diff_ids) = (layers.len(), parsed.diff_ids.len());
            return Err(TransportError::LayerCount { what: self.files.what(), layers, diff_ids });
        }
        let mut taken: HashMap<(&str, &Digest), Descriptor> = HashMap::new();
        let mut described = Vec::new();
        for (name, diff_id) in layers.iter().zip(&parsed.diff_ids) {
            let descriptor = match taken.get(&(name.as_str(), diff_id)) {
                Some(descriptor) => descriptor.clone(),
                None => self.take_layer(name, diff_id)?,
            };
            described.push(json!(descriptor));
            taken.insert((name, diff_id), descriptor);
        }
        let config =
            descriptor("application/vnd.oci.image.config.v1+json".to_owned(), digest.clone(), bytes.len() as u64);
        let media_type = MediaType::OCI_MANIFEST;
        let manifest = json!({ "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": described });
        let manifest = manifest.to_string().into_bytes();
        if manifest.len() as u64 > MAX_DOCUMENT_BYTES {
            return Err(TransportError::too_large(&self.files.what(), "the list of layers", MAX_DOCUMENT_BYTES));
        }
        self.store.put_document(&digest, &bytes)?;
        let digest = Digest::sha256(&manifest);
        self.store.put_document(&digest, &manifest)?;
        Ok(descriptor(media_type.to_owned(), digest, manifest.len() as u64))
    }

    fn take_layer(&self, name: &str, diff_id: &Digest) -> Result<Descriptor, TransportError> {
        let content = self.files.get(name)?;
        let stream = |source| TransportError::Stream { what: self.member(name), source };
        let suffix = Inflate::new(content.clone()).map_err(stream)?.suffix();
        let digest =
            if suffix.is_empty() { diff_id.clone() } else { self.look_through(name, content.clone(), diff_id)? };
        let media_type = format!("application/vnd.oci.image.layer.v1.tar{suffix}");
        let descriptor = descriptor(media_type, digest, content.size());
        self.take_blob(&descriptor, name)?;
        Ok(descriptor)
    }

    /// The digest of a compressed layer, whose uncompressed one is held against what the configuration says.
    fn look_through(&self, name: &str, content: Content, diff_id: &Digest) -> Result<Digest, TransportError> {
        let read = |source| TransportError::Read { what: self.member(name), source };
        let mut hashed = Hashed { content, hasher: Hasher::new(Algorithm::Sha256) };
        let mut inflated = Hasher::new(diff_id.algorithm());
        let stream = |source| TransportError::Stream { what: self.member(name), source };
        let mut layer = Inflate::new(&mut hashed).map_err(stream)?;
        let (mut buffer, mut total) = (vec![0; BUFFER_BYTES], 0_u64);
        loop {
            let length = layer.read(&mut buffer).map_err(read)?;
            if length == 0 {
                break;
            }
            inflated.update(&buffer[..length]);
            total += length as u64;
            if total > MAX_LAYER_BYTES {
                return Err(TransportError::too_large(
                    &self.files.what(),
                    &format!("`{}`", printable(name)),
                    MAX_LAYER_BYTES,
                ));
            }
        }
        drop(layer);
        let actual = inflated.finish();
        if actual != *diff_id {
            return Err(self.wrong_digest(name, actual, diff_id.clone()));
        }
        Ok(hashed.hasher.finish())
    }

    pub(super) fn wrong_digest(&self, name: &str, actual: Digest, expected: Digest) -> TransportError {
        TransportError::Digest { what: self.files.what(), name: printable(name), actual, expected }
    }

    /// A member of the archive, in words.
    fn member(&self, name: &str) -> String {
        format!("{}` in `{}", printable(name), self.files.what())
    }
}

fn descriptor(media_type: String, digest: Digest, size: u64) -> Descriptor {
    let annotations = std::collections::BTreeMap::new();
    Descriptor { media_type: MediaType(media_type), digest, size, urls: Vec::new(), platform: None, annotations }
}

/// The digest that a configuration's name spells: `<hex>.json`, and `blobs/sha256/<hex>` since docker 25.
fn named_digest(name: &str) -> Option<Digest> {
    let name = name.rsplit('/').next().unwrap_or(name);
    format!("sha256:{}", name.strip_suffix(".json").unwrap_or(name)).parse().ok()
}

/// Hashes what is read.
struct Hashed {
    content: Content,
    hasher: Hasher,
}

impl Read for Hashed {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.content.read(into)?;
        self.hasher.update(&into[..read]);
        Ok(read)
    }
}
