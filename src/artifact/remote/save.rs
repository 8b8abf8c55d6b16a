//! Saving a run's artifacts in a bucket, at its end and, with `mount: true`, while it goes on.
//!
//! What is seen there is at any time one of: nothing, an unfinished manifest, the final one. The name of a run is taken
//! by making `unfinished.json`, which only the first of two can do; the final manifest is written when all it names is
//! there, and only then goes what nobody names any more.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use object_store::PutPayload;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::client::Client;
use super::entry::{Entry, EntryKind, IndexRef, RemoteManifest, write_index};
use super::error::RemoteError;
use super::journal::{Journal, SentFile};
use super::scan::{Found, Moment, Scan, scan};
use super::settings::{Patience, RemoteSettings};
use super::transfer::{FILES_AT_ONCE, Transfer};
use super::url::S3Url;
use crate::artifact::error::ArtifactError;
use crate::artifact::manifest::{Manifest, Outcome, SCHEMA, SavedArtifact};
use crate::artifact::path::Declared;
use crate::artifact::save::{Saved, summary, warnings};
use crate::artifact::settle::{Owner, Tally};
use crate::artifact::store::{MAX_MANIFEST_BYTES, Prepared, remove_tree};
use crate::image::ByteSize;
use crate::store::RunName;

pub(super) const FINAL: &str = "manifest.json";
pub(super) const UNFINISHED: &str = "unfinished.json";
/// While the run goes on, a server that is away is asked again with the next look at the files anyway.
const LIVE_PATIENCE_MS: u64 = 2_000;

/// Which run's artifacts go where.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UploadRequest {
    /// The place in the bucket.
    #[serde(with = "text")]
    pub url: S3Url,
    /// How to get there.
    pub settings: RemoteSettings,
    /// The run.
    pub run: RunName,
    /// Tells runs of one name apart, also those of other machines: the `id` of the run's record.
    pub run_id: String,
    /// The run's directory.
    pub run_dir: PathBuf,
    /// What [`prepare_remote`](super::prepare_remote) gave.
    pub prepared: Vec<Prepared>,
}

/// How the run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finish {
    /// As the local store has it.
    pub outcome: Outcome,
    /// Who is noted as the owner of what root wrote in the container; `None` leaves it root's.
    pub owner: Option<Owner>,
    /// The time to note.
    #[serde(with = "text")]
    pub saved_at: Timestamp,
}

/// What is written as text.
mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    pub(super) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Takes the name of a run in the store; `false` when this very run is saved there already.
pub(super) async fn claim(
    client: &Client,
    run: &RunName,
    run_id: &str,
    declared: &[Declared],
) -> Result<bool, ArtifactError> {
    let run_key = client.url().key(run.as_str());
    let taken = || RemoteError::Taken { run: run.clone(), store: client.url().to_string() };
    let saved = if client.has_any(&run_key).await? {
        read_manifest(client, &format!("{run_key}/{FINAL}")).await?
    } else {
        None
    };
    if let Some(saved) = saved {
        return if saved.run_id == run_id { Ok(false) } else { Err(taken().into()) };
    }
    let manifest = Manifest::unfinished(run, declared);
    let claim = RemoteManifest { run_id: run_id.to_owned(), index: None, manifest };
    let key = format!("{run_key}/{UNFINISHED}");
    let body = to_json(client, &key, &claim)?;
    match client.put_new(&key, body.clone()).await {
        Ok(true) => return Ok(true),
        Ok(false) => {}
        // A server that knows no conditions: two runs of one name at the same moment go unnoticed.
        Err(RemoteError::Refused { answer, .. }) if answer.starts_with("501") => {}
        Err(error) => return Err(error.into()),
    }
    match read_manifest(client, &key).await? {
        Some(other) if other.run_id != run_id => Err(taken().into()),
        Some(_) => Ok(true),
        None => client.put(&key, body).await.map(|()| true).map_err(Into::into),
    }
}

pub(super) async fn read_manifest(client: &Client, key: &str) -> Result<Option<RemoteManifest>, RemoteError> {
    let Some(bytes) = client.get(key, MAX_MANIFEST_BYTES).await? else { return Ok(None) };
    let damaged = |error: serde_json::Error| RemoteError::Damaged { object: client.shown(key), why: error.to_string() };
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

fn to_json(client: &Client, key: &str, document: &impl Serialize) -> Result<PutPayload, ArtifactError> {
    let path = || PathBuf::from(client.shown(key));
    let json = serde_json::to_vec_pretty(document).map_err(|source| ArtifactError::Json { path: path(), source })?;
    Ok(PutPayload::from(json))
}

/// The saving of one run.
pub(super) struct Session {
    request: UploadRequest,
    client: Client,
    transfer: Transfer,
    run_key: String,
    /// What of each file is in the bucket.
    sent: HashMap<String, SentFile>,
    /// The index that `unfinished.json` names.
    published: Option<IndexRef>,
    /// Large files that change all the time are sent again only after a while.
    not_before: HashMap<String, Instant>,
    is_saved: bool,
}

/// What a look at the files of a run that goes on has brought.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) files: u64,
    pub(super) bytes: u64,
}

impl Session {
    pub(super) async fn begin(request: UploadRequest) -> Result<Self, ArtifactError> {
        let client = Client::new(&request.url, &request.settings)?;
        let declared: Vec<Declared> = request.prepared.iter().map(|prepared| prepared.declared.clone()).collect();
        let is_saved = !claim(&client, &request.run, &request.run_id, &declared).await?;
        let run_dir = &request.run_dir;
        let journal = Journal::open(run_dir, &request.run_id, &request.url.to_string())
            .map_err(ArtifactError::io("keep a journal in", run_dir))?;
        let run_key = request.url.key(request.run.as_str());
        let sent = journal.files.clone();
        let transfer = Transfer::new(client.clone(), run_key.clone(), journal);
        let (published, not_before) = (None, HashMap::new());
        Ok(Self { request, client, transfer, run_key, sent, published, not_before, is_saved })
    }

    pub(super) fn has_live(&self) -> bool {
        !self.is_saved && self.request.prepared.iter().any(|prepared| prepared.declared.mount)
    }

    /// Sends what has changed, and has the unfinished manifest say so. Cancelling it loses nothing.
    pub(super) async fn follow(&mut self) -> Result<Progress, ArtifactError> {
        let scan = self.scan(Moment::Live, None).await?;
        let patience = self.request.settings.patience;
        let hasty = Patience { give_up_after_ms: patience.give_up_after_ms.min(LIVE_PATIENCE_MS), ..patience };
        let hasty = self.client.with_settings(&RemoteSettings { patience: hasty, ..self.client.settings().clone() });
        let now = Instant::now();
        let transfer = self.transfer.with_client(hasty);
        let progress = self.send_changed(&transfer, &scan, |session, path| {
            session.not_before.get(path).is_none_or(|not_before| *not_before <= now)
        });
        let progress = progress.await?;
        let gone: Vec<String> = self.sent.keys().filter(|path| !scan.found.contains_key(*path)).cloned().collect();
        self.publish_unfinished(&scan).await?;
        for path in gone {
            let object = super::entry::object_for(&path).unwrap_or_else(|| path.clone());
            self.client.delete(&format!("{}/{object}", self.run_key)).await?;
            self.sent.remove(&path);
            self.not_before.remove(&path);
            self.transfer.journal().gone(&path);
        }
        Ok(progress)
    }

    /// Sends all that is missing, then the manifest, and removes the run's own copy.
    pub(super) async fn finish(&mut self, finish: &Finish) -> Result<Saved, ArtifactError> {
        if self.is_saved {
            return self.already_saved().await;
        }
        let scan = self.scan(Moment::End, finish.owner).await?;
        self.send_changed(&self.transfer.clone(), &scan, |_, _| true).await?;
        let begun = self.transfer.journal().begun();
        for (path, multipart) in begun {
            self.transfer.abort(&path, &multipart).await?;
        }
        let entries = self.entries(&scan);
        if entries.len() != scan.found.len() {
            let gone = std::io::Error::other("files went away while they were saved");
            return Err(ArtifactError::io("save", &self.request.run_dir.join("artifacts"))(gone));
        }
        let index = self.put_index(&entries).await?;
        let manifest = manifest(&self.request, finish, &scan.tallies);
        self.put_manifest(FINAL, &manifest, &index).await?;
        // It is saved; what cannot be taken away now is in nobody's way.
        drop(self.tidy(&entries, &index).await);
        self.remove_staging()?;
        let artifacts = self.request.prepared.iter().zip(&scan.tallies);
        Ok(summary(&manifest, artifacts.flat_map(|(prepared, tally)| warnings(prepared, tally)).collect()))
    }

    async fn already_saved(&self) -> Result<Saved, ArtifactError> {
        let key = format!("{}/{FINAL}", self.run_key);
        let missing = || ArtifactError::NoArtifacts { run: self.request.run.clone() };
        let saved = read_manifest(&self.client, &key).await?.ok_or_else(missing)?;
        self.remove_staging()?;
        Ok(summary(&saved.manifest, Vec::new()))
    }

    fn remove_staging(&self) -> Result<(), ArtifactError> {
        let run_dir = &self.request.run_dir;
        remove_tree(&run_dir.join("artifacts"))?;
        Journal::remove(run_dir);
        Ok(())
    }

    async fn scan(&self, moment: Moment, owner: Option<Owner>) -> Result<Scan, ArtifactError> {
        let prepared = self.request.prepared.clone();
        let scanned = spawn_blocking(move || scan(&prepared, moment, owner)).await;
        scanned
            .map_err(|error| ArtifactError::io("look through", &self.request.run_dir)(std::io::Error::other(error)))?
    }

    async fn send_changed(
        &mut self,
        transfer: &Transfer,
        scan: &Scan,
        is_time: impl Fn(&Self, &str) -> bool,
    ) -> Result<Progress, ArtifactError> {
        let changed: Vec<(&String, &Found)> = scan
            .found
            .iter()
            .filter(|(_, found)| found.entry.kind == EntryKind::File && found.same_as.is_none())
            .filter(|(path, found)| self.sent.get(*path).is_none_or(|sent| sent.stamp != Some(found.stamp)))
            .filter(|(path, _)| is_time(self, path))
            .collect();
        let prepared = self.request.prepared.clone();
        let sending = changed.into_iter().map(|(path, found)| {
            let top = prepared[found.artifact].host_dir.clone();
            async move {
                let begun = Instant::now();
                let sent = transfer.send(&top, found).await?;
                Ok::<_, ArtifactError>((path, sent, begun.elapsed()))
            }
        });
        let mut progress = Progress::default();
        let mut sending = stream::iter(sending).buffer_unordered(FILES_AT_ONCE);
        while let Some((path, sent, took)) = sending.try_next().await? {
            let Some(sent) = sent else { continue };
            progress.files += 1;
            progress.bytes += sent.size;
            if sent.stamp.is_none() && took > Duration::from_secs(1) {
                self.not_before.insert(path.clone(), Instant::now() + 2 * took);
            }
            self.sent.insert(path.clone(), sent);
        }
        Ok(progress)
    }

    /// What of a scan is in the bucket.
    fn entries(&self, scan: &Scan) -> Vec<Entry> {
        let entry = |(path, found): (&String, &Found)| {
            let mut entry = found.entry.clone();
            if entry.kind == EntryKind::File {
                let sent = self.sent.get(found.same_as.as_ref().unwrap_or(path))?;
                entry.size = sent.size;
                entry.sha256 = Some(sent.sha256.clone());
            }
            Some(entry)
        };
        scan.found.iter().filter_map(entry).collect()
    }

    async fn publish_unfinished(&mut self, scan: &Scan) -> Result<(), ArtifactError> {
        let entries = self.entries(scan);
        let (_, index) = Self::index(&entries)?;
        if self.published.as_ref() == Some(&index) {
            return Ok(());
        }
        let index = self.put_index(&entries).await?;
        let declared: Vec<Declared> = self.request.prepared.iter().map(|prepared| prepared.declared.clone()).collect();
        self.put_manifest(UNFINISHED, &Manifest::unfinished(&self.request.run, &declared), &index).await?;
        if let Some(old) = self.published.replace(index) {
            self.client.delete(&format!("{}/{}", self.run_key, old.key())).await?;
        }
        Ok(())
    }

    fn index(entries: &[Entry]) -> Result<(Vec<u8>, IndexRef), ArtifactError> {
        write_index(entries.iter()).map_err(|source| ArtifactError::Json { path: PathBuf::from("index.jsonl"), source })
    }

    async fn put_index(&self, entries: &[Entry]) -> Result<IndexRef, ArtifactError> {
        let (bytes, index) = Self::index(entries)?;
        self.client.put(&format!("{}/{}", self.run_key, index.key()), PutPayload::from(bytes)).await?;
        Ok(index)
    }

    async fn put_manifest(&self, name: &str, manifest: &Manifest, index: &IndexRef) -> Result<(), ArtifactError> {
        let run_id = self.request.run_id.clone();
        let document = RemoteManifest { run_id, index: Some(index.clone()), manifest: manifest.clone() };
        let key = format!("{}/{name}", self.run_key);
        let body = to_json(&self.client, &key, &document)?;
        Ok(self.client.put(&key, body).await?)
    }

    /// Removes what the final manifest does not name.
    async fn tidy(&self, entries: &[Entry], index: &IndexRef) -> Result<(), RemoteError> {
        let key = |rest: &str| format!("{}/{rest}", self.run_key);
        let mut named: HashSet<String> = [key(FINAL), key(&index.key())].into();
        named.extend(entries.iter().filter(|entry| entry.kind == EntryKind::File).map(|entry| key(entry.object())));
        let keys = self.client.keys(&self.run_key).await?;
        delete_all(&self.client, keys.into_iter().filter(|key| !named.contains(key))).await
    }
}

pub(super) async fn delete_all(client: &Client, keys: impl Iterator<Item = String>) -> Result<(), RemoteError> {
    let deleting = keys.map(|key| async move { client.delete(&key).await });
    stream::iter(deleting).buffer_unordered(FILES_AT_ONCE).try_for_each(|()| async { Ok(()) }).await
}

fn manifest(request: &UploadRequest, finish: &Finish, tallies: &[Tally]) -> Manifest {
    let artifact = |(prepared, tally): (&Prepared, &Tally)| SavedArtifact {
        path: prepared.declared.path.clone(),
        container_path: prepared.declared.container_path.clone(),
        mount: prepared.declared.mount,
        files: tally.files,
        bytes: ByteSize(tally.bytes),
    };
    Manifest {
        schema: SCHEMA,
        run: request.run.clone(),
        outcome: Some(finish.outcome),
        saved_at: Some(finish.saved_at.to_string()),
        artifacts: request.prepared.iter().zip(tallies).map(artifact).collect(),
    }
}
