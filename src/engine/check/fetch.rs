//! Asking an image's own registry once more for what is damaged, from a thread that may wait.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::super::EngineError;
use crate::image::{Descriptor, Digest, Observer, Reference};
use crate::registry::{Registry, RegistryError, Settings};
use crate::store::Store;

/// A way to registries.
pub(super) struct Fetcher {
    registry: Registry,
    handle: Handle,
    observer: Arc<dyn Observer>,
}

impl Fetcher {
    pub(super) fn new(settings: Settings, handle: Handle, observer: Arc<dyn Observer>) -> Result<Self, EngineError> {
        Ok(Self { registry: Registry::new(settings)?, handle, observer })
    }

    /// Brings a manifest or index into `scratch`, whatever the tag names by now.
    pub(super) fn manifest(
        &self,
        reference: &Reference,
        digest: &Digest,
        scratch: &Store,
    ) -> Result<(), RegistryError> {
        let pinned = format!("{}/{}@{digest}", reference.registry(), reference.repository());
        // What is made of the parts of a reference is one.
        let pinned = pinned.parse().unwrap_or_else(|_| reference.clone());
        let fetched = self.handle.block_on(self.registry.fetch_manifest(&pinned, &*self.observer))?;
        Ok(scratch.put_document(digest, &fetched.bytes)?)
    }

    /// Brings a blob into `scratch`.
    pub(super) fn blob(&self, reference: &Reference, blob: &Descriptor, scratch: &Store) -> Result<(), RegistryError> {
        self.handle.block_on(self.registry.fetch_blob(reference, blob, scratch, &*self.observer))
    }
}
