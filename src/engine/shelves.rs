//! Where the artifacts of a run are: in the store, in another directory, or in a bucket; and what can be done with them there.
//!
//! A run's record tells. For a run that has no record on this machine, the caller says where to look.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use jiff::Timestamp;

use super::places::recorded;
use super::removal::{RemovalError, remove_artifacts, save_again};
use super::{Engine, EngineError, RunRequest};
use crate::artifact::{
    ArtifactError, ArtifactStore, ArtifactStoreUrl, Copied, Finish, Listing, Owner, Prepared, Remote, RemoteError,
    RemoteSettings, S3Url, Saved, UploadRequest, prepared_remote, save_remote,
};
use crate::store::{RunDir, RunName, RunRecord, StoreError};

/// The variables that tell how a bucket is reached (`AWS_…`), as the caller found them. `Debug` shows their names.
#[derive(Clone, Default)]
pub struct BucketVariables(HashMap<String, String>);

impl BucketVariables {
    /// These.
    #[must_use]
    pub fn new(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(variables.into_iter().collect())
    }

    /// What they say.
    pub fn settings(&self) -> Result<RemoteSettings, RemoteError> {
        RemoteSettings::from_variables(|name| self.0.get(name).cloned())
    }
}

impl fmt::Debug for BucketVariables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Where artifacts are.
enum Shelf {
    Directory(ArtifactStore),
    Bucket(S3Url),
}

impl Engine {
    /// Lists what a run has saved, or is saving. `elsewhere` is for a run of another machine.
    pub async fn list_artifacts(
        &self,
        run: &RunName,
        elsewhere: Option<&ArtifactStoreUrl>,
    ) -> Result<Listing, EngineError> {
        match self.shelf(run, elsewhere) {
            Shelf::Directory(store) => Ok(store.list(run)?),
            Shelf::Bucket(url) => Ok(self.remote(&url)?.list(run).await?),
        }
    }

    /// Copies what a run has saved, or a part of it.
    pub async fn copy_artifacts(
        &self,
        run: &RunName,
        path: Option<&str>,
        destination: &Path,
        elsewhere: Option<&ArtifactStoreUrl>,
    ) -> Result<Copied, EngineError> {
        match self.shelf(run, elsewhere) {
            Shelf::Directory(store) => Ok(store.copy_out(run, path, destination)?),
            Shelf::Bucket(url) => Ok(self.remote(&url)?.copy_out(run, path, destination).await?),
        }
    }

    /// Removes what a run has saved; the bytes that this frees on this machine.
    pub async fn remove_artifacts(
        &self,
        run: &RunName,
        elsewhere: Option<&ArtifactStoreUrl>,
        on_wait: impl FnMut(Option<u32>),
    ) -> Result<u64, EngineError> {
        match self.shelf(run, elsewhere) {
            Shelf::Directory(_) if self.store.run(run.as_str()).is_ok() || elsewhere.is_none() => {
                Ok(remove_artifacts(&self.store, run, on_wait)?)
            }
            Shelf::Directory(artifacts) => {
                let removed = artifacts.remove(run)?;
                if removed { Ok(0) } else { Err(ArtifactError::NoArtifacts { run: run.clone() }.into()) }
            }
            Shelf::Bucket(url) => {
                let removed = self.remote(&url)?.remove(run).await?;
                // What was fetched of it as a dep.
                match remove_artifacts(&self.store, run, on_wait) {
                    Err(RemovalError::Artifact(_)) if removed => Ok(0),
                    other => Ok(other?),
                }
            }
        }
    }

    /// Saves what could not be saved when the run ended.
    pub async fn save_artifacts(
        &self,
        run: &RunDir,
        owner: Option<Owner>,
        now: Timestamp,
    ) -> Result<Saved, EngineError> {
        let record = run.record()?;
        let url = recorded(&record);
        let Some(ArtifactStoreUrl::S3(url)) = url else {
            return Ok(save_again(&self.store, run, owner, now)?);
        };
        if !run.has_unsaved_artifacts() {
            return Err(RemovalError::NothingUnsaved { run: record.name }.into());
        }
        let active = || StoreError::RunActive { name: record.name.to_string() };
        let _lock = run.try_lock()?.ok_or_else(active)?;
        let request = self.upload(&url, &record, run, prepared_remote(run.path())?)?;
        let outcome = super::removal::outcome(&record);
        let saved = save_remote(request, &Finish { outcome, owner, saved_at: now }).await;
        if saved.is_ok() {
            run.tidy(record.keep)?;
        }
        // The lock is the mark of an unfinished run, which this one was not.
        run.finish()?;
        Ok(saved?)
    }

    /// Brings the artifacts of a run from their bucket into the store, where a dep can be mounted from.
    pub(super) async fn fetch_artifacts(&self, record: &RunRecord) -> Result<(), EngineError> {
        if let Some(ArtifactStoreUrl::S3(url)) = recorded(record) {
            self.remote(&url)?.fetch(&record.name, &ArtifactStore::new(self.store.artifacts())).await?;
        }
        Ok(())
    }

    /// Takes the run's name in its bucket, when its artifacts go to one; shows at once whether bucket and keys are good.
    pub(super) async fn claim(
        &self,
        request: &RunRequest,
        record: &RunRecord,
    ) -> Result<Option<UploadRequest>, EngineError> {
        let Some(ArtifactStoreUrl::S3(url)) = recorded(record) else { return Ok(None) };
        let upload = self.upload(&url, record, request.reservation.dir(), Vec::new())?;
        self.remote(&url)?.claim(&record.name, &record.id, &request.artifacts).await?;
        Ok(Some(upload))
    }

    /// Gives it back for a run that never started.
    pub(super) async fn disclaim(&self, upload: &UploadRequest) {
        if let Ok(remote) = self.remote(&upload.url) {
            // The first error is the one to tell.
            drop(remote.discard(&upload.run, &upload.run_id).await);
        }
    }

    fn remote(&self, url: &S3Url) -> Result<Remote, EngineError> {
        Ok(Remote::new(url, &self.settings.bucket.settings()?)?)
    }

    fn upload(
        &self,
        url: &S3Url,
        record: &RunRecord,
        run: &RunDir,
        prepared: Vec<Prepared>,
    ) -> Result<UploadRequest, EngineError> {
        Ok(UploadRequest {
            url: url.clone(),
            settings: self.settings.bucket.settings()?,
            run: record.name.clone(),
            run_id: record.id.clone(),
            run_dir: run.path().to_owned(),
            prepared,
        })
    }

    fn shelf(&self, run: &RunName, elsewhere: Option<&ArtifactStoreUrl>) -> Shelf {
        let record = self.store.run(run.as_str()).and_then(|run| run.record());
        let url = record.map_or_else(|_| elsewhere.cloned(), |record| recorded(&record));
        match url {
            Some(ArtifactStoreUrl::S3(url)) => Shelf::Bucket(url),
            Some(ArtifactStoreUrl::Local(directory)) => Shelf::Directory(ArtifactStore::new(directory)),
            None => Shelf::Directory(ArtifactStore::new(self.store.artifacts())),
        }
    }
}
