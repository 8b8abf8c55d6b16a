//! Tests of the whole way from blobs to root file systems. Most need root, as layers hold devices and other people's files.

mod escape;
mod model;
mod random;
mod rest;
mod rows;
mod stacks;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;

use super::error::{LayerError, RootfsError};
use super::layers::{Layers, Unpacker};
use crate::image::{Descriptor, Digest, Image, ImageConfig, Manifest, MediaType, Observer, PullEvent, Silent};
use crate::store::Store;

/// A store in a temporary directory, and images made of archives.
struct Fixture {
    dir: tempfile::TempDir,
    store: Store,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        Self { dir, store }
    }

    /// An image of the given uncompressed layers, lowest first, whose blobs are in the store.
    fn image(&self, archives: &[Vec<u8>]) -> Image {
        let blobs: Vec<(Vec<u8>, Digest)> =
            archives.iter().map(|archive| (gzip(archive), Digest::sha256(archive))).collect();
        self.image_of_blobs(&blobs)
    }

    /// An image of blobs and the diff IDs that its configuration claims.
    fn image_of_blobs(&self, blobs: &[(Vec<u8>, Digest)]) -> Image {
        let layers: Vec<Descriptor> = blobs.iter().map(|(blob, _)| self.put(blob)).collect();
        let config = ImageConfig { diff_ids: blobs.iter().map(|(_, id)| id.clone()).collect(), ..Default::default() };
        let digest = Digest::sha256(format!("{layers:?} {:?}", config.diff_ids).as_bytes());
        let manifest = Manifest { config: self.put(b"{}"), layers };
        Image::new("test".parse().unwrap(), digest, manifest, config).unwrap()
    }

    fn put(&self, blob: &[u8]) -> Descriptor {
        let digest = Digest::sha256(blob);
        self.store.put_document(&digest, blob).unwrap();
        Descriptor {
            media_type: MediaType("application/vnd.oci.image.layer.v1.tar+gzip".to_owned()),
            digest,
            size: blob.len() as u64,
            urls: Vec::new(),
            platform: None,
            annotations: BTreeMap::new(),
        }
    }

    /// Unpacks all layers, the topmost first.
    fn unpack(&self, image: &Image) -> Result<Vec<Digest>, RootfsError> {
        self.unpack_with(image, &Silent)
    }

    fn unpack_with(&self, image: &Image, observer: &dyn Observer) -> Result<Vec<Digest>, RootfsError> {
        let unpacker = Unpacker::begin(&self.store, image, observer)?;
        for index in unpacker.missing().into_iter().rev() {
            unpacker.unpack(index)?;
        }
        unpacker.finish()
    }

    fn layers(&self, archives: &[Vec<u8>]) -> Layers {
        let keys = self.unpack(&self.image(archives)).unwrap_or_else(|error| panic!("{}", chain(&error)));
        Layers::load(&self.store, &keys).unwrap()
    }

    /// The tree of a layer that is alone in its image.
    fn layer(&self, archive: &[u8]) -> std::path::PathBuf {
        self.layers(&[archive.to_vec()]).paths()[0].clone()
    }

    /// Why a layer that is alone in its image cannot be unpacked.
    fn refusal(&self, archive: &[u8]) -> LayerError {
        match self.unpack(&self.image(&[archive.to_vec()])) {
            Err(RootfsError::Layer { source, .. }) => source,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// How many entries there are below a directory of the store.
    fn count(&self, directory: &str) -> usize {
        std::fs::read_dir(self.store.root().join(directory)).unwrap().count()
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}

/// Writes down what it hears.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Observer for Heard {
    fn pull(&self, event: &PullEvent<'_>) {
        let word = match event {
            PullEvent::LayerExists { .. } => "exists",
            PullEvent::Waiting { .. } => "waiting",
            PullEvent::Unpacking { .. } => "unpacking",
            PullEvent::Unpacked { .. } => "unpacked",
            _ => "other",
        };
        self.0.lock().unwrap().push(word.to_owned());
    }
}
