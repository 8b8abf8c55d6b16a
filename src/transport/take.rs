//! Contents of an archive or directory into the store: verified while they are copied, what is there already left alone.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::Read;

use super::files::Files;
use super::layout::blob_name;
use super::{Root, TransportError};
use crate::image::{
    Descriptor, Digest, Document, DocumentError, Image, ImageConfig, Index, MAX_DOCUMENT_BYTES, Manifest, Observer,
    Platform, PullEvent,
};
use crate::store::{Store, StoreError};

/// Indexes in indexes; real ones are one deep.
const MAX_INDEX_DEPTH: usize = 4;
const BUFFER_BYTES: usize = 1 << 20;

/// See the module.
pub(super) struct Taker<'a> {
    pub store: &'a Store,
    pub files: &'a Files,
    /// What the image is for; `None` takes every image that is there as a whole.
    platform: Option<&'a Platform>,
    observer: &'a dyn Observer,
    /// What came of the entries of indexes. An entry may stand in an index, and that index in another, any number of
    /// times, so each is looked at once.
    known: RefCell<HashMap<Digest, Part>>,
}

impl<'a> Taker<'a> {
    pub(super) fn new(
        store: &'a Store,
        files: &'a Files,
        platform: Option<&'a Platform>,
        observer: &'a dyn Observer,
    ) -> Self {
        Self { store, files, platform, observer, known: RefCell::default() }
    }

    /// Takes an image: layers and configurations first, then manifests, then indexes.
    pub(super) fn take(&self, root: &Root) -> Result<Descriptor, TransportError> {
        match root {
            Root::Docker { config, layers } => self.take_docker(config, layers),
            Root::Oci(descriptor) => {
                self.take_document(descriptor, false, 0)?;
                Ok(descriptor.clone())
            }
        }
    }

    /// `labelled`: an index has said that its platform suits.
    fn take_document(&self, descriptor: &Descriptor, labelled: bool, depth: usize) -> Result<(), TransportError> {
        let (bytes, document) = self.document(descriptor)?;
        match document {
            Document::Manifest(manifest) => self.take_manifest(descriptor, &manifest, labelled)?,
            Document::Index(_) if depth >= MAX_INDEX_DEPTH => {
                return Err(TransportError::TooDeep { what: self.files.what(), limit: MAX_INDEX_DEPTH });
            }
            Document::Index(index) => self.take_index(&index, depth + 1)?,
        }
        Ok(self.store.put_document(&descriptor.digest, &bytes)?)
    }

    fn take_index(&self, index: &Index, depth: usize) -> Result<(), TransportError> {
        if let Some(platform) = self.platform {
            let Some(chosen) = index.select_or_only(platform) else {
                let offered = index.platforms().join(", ");
                return Err(self.wrong_platform(
                    if offered.is_empty() { "no platform that it names" } else { &offered },
                    platform,
                ));
            };
            return self.take_document(chosen, chosen.platform.is_some(), depth);
        }
        // Archives often hold some images of an index only; what is no image (an attestation) is left out.
        let (mut taken, mut first_missing) = (0, None);
        for child in index.manifests.iter().filter(|d| d.media_type.is_manifest() || d.media_type.is_index()) {
            match self.take_if_whole(child, depth)? {
                Part::Whole => taken += 1,
                Part::Lacks(digest) => first_missing = first_missing.or(Some(digest)),
                Part::NoImage => {}
            }
        }
        match first_missing {
            _ if taken > 0 => Ok(()),
            Some(digest) => Err(self.missing(&digest)),
            None => {
                let (wanted, there) = ("an image in one of its indexes".to_owned(), "no image at all".to_owned());
                Err(TransportError::NoImage { what: self.files.what(), wanted, there })
            }
        }
    }

    fn take_if_whole(&self, child: &Descriptor, depth: usize) -> Result<Part, TransportError> {
        if let Some(part) = self.known.borrow().get(&child.digest) {
            return Ok(part.clone());
        }
        let part = self.missing_of(child)?;
        if matches!(part, Part::Whole) {
            self.take_document(child, true, depth)?;
        }
        self.known.borrow_mut().insert(child.digest.clone(), part.clone());
        Ok(part)
    }

    /// Whether all of an image is here or in the store; of an index, whether it is itself.
    fn missing_of(&self, child: &Descriptor) -> Result<Part, TransportError> {
        if !self.has(child)? {
            return Ok(Part::Lacks(child.digest.clone()));
        }
        let manifest = match self.document(child) {
            Ok((_, Document::Manifest(manifest))) => manifest,
            Ok((_, Document::Index(_))) => return Ok(Part::Whole),
            Err(TransportError::Document { source: DocumentError::Kind { .. }, .. }) => return Ok(Part::NoImage),
            Err(error) => return Err(error),
        };
        for part in std::iter::once(&manifest.config).chain(&manifest.layers) {
            if !self.has(part)? {
                return Ok(Part::Lacks(part.digest.clone()));
            }
        }
        Ok(Part::Whole)
    }

    fn has(&self, descriptor: &Descriptor) -> Result<bool, TransportError> {
        Ok(self.store.has_blob(descriptor) || self.files.has(&blob_name(&descriptor.digest))?)
    }

    fn take_manifest(
        &self,
        descriptor: &Descriptor,
        manifest: &Manifest,
        labelled: bool,
    ) -> Result<(), TransportError> {
        let bytes = self.bytes(&manifest.config)?;
        let config = ImageConfig::parse(&bytes, &manifest.config.digest);
        let config = config.map_err(|source| TransportError::Config { what: self.files.what(), source })?;
        if !labelled {
            self.check_platform(&config)?;
        }
        // The name does not matter here.
        let name = self.files.made_name("localhost/image", "latest")?;
        Image::new(name, descriptor.digest.clone(), manifest.clone(), config)
            .map_err(|source| TransportError::Document { what: self.files.what(), source })?;
        for layer in &manifest.layers {
            self.take_blob(layer, &blob_name(&layer.digest))?;
        }
        Ok(self.store.put_document(&manifest.config.digest, &bytes)?)
    }

    pub(super) fn check_platform(&self, config: &ImageConfig) -> Result<(), TransportError> {
        match (self.platform, &config.platform) {
            (Some(wanted), Some(offered)) if wanted.rank(offered).is_none() => {
                Err(self.wrong_platform(&offered.to_string(), wanted))
            }
            _ => Ok(()),
        }
    }

    fn wrong_platform(&self, offered: &str, wanted: &Platform) -> TransportError {
        let offered = crate::words::printable(offered);
        TransportError::Platform { what: self.files.what(), offered, wanted: wanted.clone() }
    }

    /// Reads a manifest or index, from the store when it is there already.
    fn document(&self, descriptor: &Descriptor) -> Result<(Vec<u8>, Document), TransportError> {
        let bytes = self.bytes(descriptor)?;
        let document = Document::parse(&bytes, &descriptor.digest)
            .map_err(|source| TransportError::Document { what: self.files.what(), source })?;
        let fits = match document {
            Document::Manifest(_) => !descriptor.media_type.is_index(),
            Document::Index(_) => !descriptor.media_type.is_manifest(),
        };
        if !fits {
            let announced = crate::words::printable(&descriptor.media_type.0);
            let (what, digest) = (self.files.what(), descriptor.digest.clone());
            return Err(TransportError::Mislabelled { what, digest, announced });
        }
        Ok((bytes, document))
    }

    fn bytes(&self, descriptor: &Descriptor) -> Result<Vec<u8>, TransportError> {
        let name = blob_name(&descriptor.digest);
        if descriptor.size > MAX_DOCUMENT_BYTES {
            return Err(TransportError::too_large(&self.files.what(), &format!("`{name}`"), MAX_DOCUMENT_BYTES));
        }
        if self.store.has_blob(descriptor)
            && let Ok(bytes) = self.store.read_document(&descriptor.digest)
        {
            return Ok(bytes);
        }
        let bytes = self.files.read(&name)?;
        let (actual, expected) = (bytes.len() as u64, descriptor.size);
        if actual != expected {
            return Err(TransportError::Size { what: self.files.what(), name, actual, expected });
        }
        let actual = Digest::of(descriptor.digest.algorithm(), &bytes);
        if actual != descriptor.digest {
            return Err(self.wrong_digest(&name, actual, descriptor.digest.clone()));
        }
        Ok(bytes)
    }

    fn missing(&self, digest: &Digest) -> TransportError {
        TransportError::Missing { what: self.files.what(), name: blob_name(digest) }
    }

    /// Copies a blob of that name, unless the store has it.
    pub(super) fn take_blob(&self, descriptor: &Descriptor, name: &str) -> Result<(), TransportError> {
        // Without a registry, loading once more is what heals. A run from a file would read all of it each time.
        let is_read = self.platform.is_none();
        let is_stored = || self.store.verify_blob(descriptor, is_read).is_ok();
        if is_stored() {
            return Ok(());
        }
        let digest = &descriptor.digest;
        let mut content = self.files.get(name)?;
        let (actual, expected) = (content.size(), descriptor.size);
        if actual != expected {
            let (what, name) = (self.files.what(), crate::words::printable(name));
            return Err(TransportError::Size { what, name, actual, expected });
        }
        let waiting = |holder_pid| self.observer.pull(&PullEvent::Waiting { digest, holder_pid });
        let lock = self.store.lock_digest(digest, waiting)?;
        // Another process may have brought it meanwhile.
        if !is_stored() {
            let mut writer = self.store.write_blob(digest, expected)?;
            let mut buffer = vec![0; BUFFER_BYTES];
            loop {
                let read = content.read(&mut buffer);
                let read = read.map_err(|source| TransportError::Read { what: self.files.what(), source })?;
                if read == 0 {
                    break;
                }
                writer.write(&buffer[..read])?;
                self.observer.pull(&PullEvent::Downloading { digest, done: writer.written(), total: expected });
            }
            writer.commit().map_err(|error| match error {
                // The store's own words are about registries.
                StoreError::Digest { expected, actual } => self.wrong_digest(name, actual, expected),
                other => other.into(),
            })?;
        }
        drop(lock.remove());
        self.observer.pull(&PullEvent::Downloaded { digest });
        Ok(())
    }
}

/// How much of an index's entry is here.
#[derive(Clone)]
enum Part {
    Whole,
    Lacks(Digest),
    NoImage,
}
