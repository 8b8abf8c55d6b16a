//! The local store and, when there is one, the bucket, as one place to look for a run's artifacts.

use std::path::Path;

use super::take::Remote;
use crate::artifact::error::ArtifactError;
use crate::artifact::manifest::Manifest;
use crate::artifact::store::ArtifactStore;
use crate::artifact::take::{Copied, Listing};
use crate::store::RunName;

/// Where the artifacts of a run may be. The local store is asked first; a run is in one of the two only.
#[derive(Debug, Clone)]
pub struct Stores {
    /// The store on this machine.
    pub local: ArtifactStore,
    /// The bucket, if one is configured or the run's record names one.
    pub remote: Option<Remote>,
}

impl Stores {
    /// What is known of a run's artifacts.
    pub async fn manifest(&self, run: &RunName) -> Result<Manifest, ArtifactError> {
        match (self.local.manifest(run), &self.remote) {
            (Err(ArtifactError::NoArtifacts { .. }), Some(remote)) => remote.manifest(run).await,
            (found, _) => found,
        }
    }

    /// What a run left, or has written so far.
    pub async fn list(&self, run: &RunName) -> Result<Listing, ArtifactError> {
        match (self.local.list(run), &self.remote) {
            (Err(ArtifactError::NoArtifacts { .. }), Some(remote)) => remote.list(run).await,
            (found, _) => found,
        }
    }

    /// Copies what a run left; see [`ArtifactStore::copy_out`].
    pub async fn copy_out(
        &self,
        run: &RunName,
        path: Option<&str>,
        destination: &Path,
    ) -> Result<Copied, ArtifactError> {
        match (self.local.copy_out(run, path, destination), &self.remote) {
            (Err(ArtifactError::NoArtifacts { .. }), Some(remote)) => remote.copy_out(run, path, destination).await,
            (copied, _) => copied,
        }
    }

    /// Removes all that a run left in either; `false` when there was nothing.
    pub async fn remove(&self, run: &RunName) -> Result<bool, ArtifactError> {
        let here = self.local.remove(run)?;
        let there = match &self.remote {
            Some(remote) => remote.remove(run).await?,
            None => false,
        };
        Ok(here || there)
    }

    /// The runs that have artifacts, by name.
    pub async fn runs(&self) -> Result<Vec<RunName>, ArtifactError> {
        let mut runs = self.local.runs()?;
        if let Some(remote) = &self.remote {
            runs.extend(remote.runs().await?);
        }
        runs.sort();
        runs.dedup();
        Ok(runs)
    }
}
