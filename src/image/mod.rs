//! Names and documents of images, with no I/O: references, digests, descriptors, manifests, configurations, platforms.
//!
//! Everything that comes from outside is parsed into a type here before any other module sees it, so that a digest can
//! be made into a path and a platform compared without a second check. Shapes follow the OCI image specification 1.1
//! and docker's schema 2, which differ in media types only.

mod config;
mod digest;
mod document;
mod event;
mod health;
mod platform;
mod reference;
mod size;
mod source;

pub use config::{ConfigError, ImageConfig};
pub use digest::{Algorithm, ChainId, Digest, DigestError, Hasher};
pub use document::{Descriptor, Document, DocumentError, Index, MAX_DOCUMENT_BYTES, Manifest, MediaType};
pub use event::{Observer, PullEvent, Silent};
pub use health::{CheckCommand, CheckError, CheckTiming, DeclaredCheck};
pub use platform::{Platform, PlatformError};
pub use reference::{Reference, ReferenceError};
pub use size::{ByteSize, ByteSizeError};
pub use source::{Form, LocalSource, Source, SourceError, Which, image_name, local_repository};

/// An image whose manifest and configuration are in the store and verified; its layers may still be missing.
#[derive(Debug, Clone)]
pub struct Image {
    /// The reference it was asked for by.
    pub reference: Reference,
    /// Digest of the manifest of the chosen platform.
    pub manifest_digest: Digest,
    /// The manifest.
    pub manifest: Manifest,
    /// The configuration that the manifest names.
    pub config: ImageConfig,
}

impl Image {
    /// Puts the parts together; the configuration must have one diff ID for each layer of the manifest.
    ///
    /// # Errors
    /// [`DocumentError::LayerCount`] when the two disagree.
    pub fn new(
        reference: Reference,
        manifest_digest: Digest,
        manifest: Manifest,
        config: ImageConfig,
    ) -> Result<Self, DocumentError> {
        if manifest.layers.len() != config.diff_ids.len() {
            return Err(DocumentError::LayerCount {
                digest: manifest_digest,
                layers: manifest.layers.len(),
                diff_ids: config.diff_ids.len(),
            });
        }
        Ok(Self { reference, manifest_digest, manifest, config })
    }

    /// The layers from the lowest to the topmost, each with the digest of its uncompressed tar.
    #[must_use]
    pub fn layers(&self) -> impl ExactSizeIterator<Item = (&Descriptor, &Digest)> {
        self.manifest.layers.iter().zip(self.config.diff_ids.iter())
    }
}
