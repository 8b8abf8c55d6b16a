//! Which directory the artifacts of a run are in, if they are in one of this machine.

use crate::artifact::{ArtifactStore, ArtifactStoreUrl};
use crate::store::{RunRecord, Store};

/// The directory that a run's artifacts are in or go to, `None` for a bucket.
pub(super) fn directory(store: &Store, url: Option<&ArtifactStoreUrl>) -> Option<ArtifactStore> {
    match url {
        None => Some(ArtifactStore::new(store.artifacts())),
        Some(ArtifactStoreUrl::Local(directory)) => Some(ArtifactStore::new(directory.clone())),
        Some(ArtifactStoreUrl::S3(_)) => None,
    }
}

/// What a record says; a text that was damaged is the store's own directory.
pub(super) fn recorded(record: &RunRecord) -> Option<ArtifactStoreUrl> {
    record.artifact_store.as_deref()?.parse().ok()
}
