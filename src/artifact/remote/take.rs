//! The store as a command sees it: claim, save again, list, copy, fetch, remove. Needs a tokio runtime.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use futures_util::{StreamExt, TryStreamExt, stream};
use rustix::io::Errno;

use super::client::Client;
use super::entry::{Entry, EntryKind, read_index};
use super::error::RemoteError;
use super::fetch::{Check, Wanted, fetch, make_directories};
use super::save::{FINAL, Finish, Session, UNFINISHED, UploadRequest, claim, delete_all, read_manifest};
use super::settings::RemoteSettings;
use super::transfer::FILES_AT_ONCE;
use super::url::S3Url;
use crate::artifact::error::ArtifactError;
use crate::artifact::manifest::{Manifest, SavedArtifact};
use crate::artifact::path::{ArtifactPath, Declared};
use crate::artifact::save::{Saved, summary};
use crate::artifact::store::{ArtifactStore, FETCHING, make_parents, make_private, remove_tree, write_manifest};
use crate::artifact::take::{Copied, FileKind, ListedFile, Listing};
use crate::artifact::tree::open_top;
use crate::image::ByteSize;
use crate::store::RunName;
use crate::words::describe;

/// Largest index that is read: some three million files.
const MAX_INDEX_BYTES: u64 = 1 << 30;
/// A run that goes on replaces its index; whoever reads looks again.
const MAX_LOOKS: usize = 5;

/// The artifacts of all runs in one bucket, below one prefix.
#[derive(Debug, Clone)]
pub struct Remote {
    client: Client,
}

/// What is there of one run.
struct Found {
    manifest: Manifest,
    /// By path below the run, parents first.
    entries: Vec<(PathBuf, Entry)>,
}

/// Saves the artifacts of a run that has ended, or does what is missing of it; for `artifacts save RUN`, in this process.
///
/// The caller holds the run's lock. `request.prepared` comes from [`prepared_remote`](super::prepared_remote).
pub async fn save_remote(request: UploadRequest, finish: &Finish) -> Result<Saved, ArtifactError> {
    let (run, run_dir) = (request.run.clone(), request.run_dir.clone());
    if request.prepared.is_empty() {
        // Nothing is left to be saved: all is, or there never was anything.
        let manifest = Remote::new(&request.url, &request.settings)?.manifest(&run).await?;
        let saved = manifest.saved_at.is_some().then(|| summary(&manifest, Vec::new()));
        return saved.ok_or(ArtifactError::NoArtifacts { run });
    }
    let saved = async { Session::begin(request).await?.finish(finish).await };
    saved.await.map_err(|error| not_saved(run, &run_dir, describe(&error)))
}

/// What is told when a save fails.
pub(super) fn not_saved(run: RunName, run_dir: &Path, told: String) -> ArtifactError {
    RemoteError::NotSaved { run, told, kept_in: run_dir.join("artifacts") }.into()
}

impl Remote {
    /// The store at `url`. Nothing is asked yet.
    pub fn new(url: &S3Url, settings: &RemoteSettings) -> Result<Self, RemoteError> {
        Ok(Self { client: Client::new(url, settings)? })
    }

    /// Where it is.
    #[must_use]
    pub const fn url(&self) -> &S3Url {
        self.client.url()
    }

    /// Takes a run's name in the store before the run starts, which shows at once whether bucket and credentials are good.
    pub async fn claim(&self, run: &RunName, run_id: &str, declared: &[Declared]) -> Result<(), ArtifactError> {
        claim(&self.client, run, run_id, declared).await.map(drop)
    }

    /// Gives the name back for a run that never started; whether it was the run's own.
    pub async fn discard(&self, run: &RunName, run_id: &str) -> Result<bool, ArtifactError> {
        let key = format!("{}/{UNFINISHED}", self.key(run));
        let own = read_manifest(&self.client, &key).await?.is_some_and(|claim| claim.run_id == run_id);
        if own {
            self.client.delete(&key).await?;
        }
        Ok(own)
    }

    /// The runs that are saved, by name.
    pub async fn runs(&self) -> Result<Vec<RunName>, ArtifactError> {
        let names = self.client.directories(self.url().key("").trim_end_matches('/')).await?;
        let runs = names.iter().filter_map(|name| name.parse::<RunName>().ok());
        let looking = runs.map(|run| async move {
            let saved = read_manifest(&self.client, &format!("{}/{FINAL}", self.key(&run))).await?;
            Ok::<_, ArtifactError>(saved.map(|_| run))
        });
        let mut saved: Vec<RunName> = stream::iter(looking)
            .buffer_unordered(FILES_AT_ONCE)
            .try_filter_map(|run| async { Ok(run) })
            .try_collect()
            .await?;
        saved.sort();
        Ok(saved)
    }

    /// What is known of a run's artifacts: the final manifest, or the unfinished one.
    pub async fn manifest(&self, run: &RunName) -> Result<Manifest, ArtifactError> {
        for name in [FINAL, UNFINISHED] {
            if let Some(found) = read_manifest(&self.client, &format!("{}/{name}", self.key(run))).await? {
                return if found.manifest.run == *run {
                    Ok(found.manifest)
                } else {
                    Err(self.damaged(run, "it is another run's"))
                };
            }
        }
        Err(ArtifactError::NoArtifacts { run: run.clone() })
    }

    /// What a run left; of a run that goes on, what of its artifacts with `mount: true` is uploaded.
    pub async fn list(&self, run: &RunName) -> Result<Listing, ArtifactError> {
        let Found { manifest, entries } = self.find(run).await?;
        let mut files: Vec<ListedFile> =
            entries.iter().filter_map(|(path, entry)| listed(&manifest, path, entry)).collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Listing { manifest, files })
    }

    /// Copies what a run left, as the local store's [`copy_out`](ArtifactStore::copy_out) does.
    ///
    /// The files are downloaded beside `destination` first, so that nothing is half there when the line breaks.
    pub async fn copy_out(
        &self,
        run: &RunName,
        path: Option<&str>,
        destination: &Path,
    ) -> Result<Copied, ArtifactError> {
        let mut found = self.find(run).await?;
        if let Some(path) = path {
            let missing = || ArtifactError::NoSuchPath { run: run.clone(), path: path.to_owned() };
            let wanted = path.parse::<ArtifactPath>().map_err(|_| missing())?.store_path();
            let above = |path: &Path| wanted.starts_with(path);
            if !found.entries.iter().any(|(path, _)| *path == wanted) {
                return Err(missing());
            }
            found
                .entries
                .retain(|(path, entry)| path.starts_with(&wanted) || entry.kind == EntryKind::Directory && above(path));
            found.manifest.artifacts.retain(|artifact| wanted.starts_with(artifact.path.store_path()));
        }
        check_free(&found, path, destination)?;
        let parent = destination.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("."));
        let temporary = parent.join(format!(".dockless-{run}-{}", std::process::id()));
        // Whoever has guessed the name must not have it.
        make_private(&temporary)?;
        let copied = self.copy_through(run, &found, &temporary, path, destination).await;
        drop(remove_tree(&temporary));
        copied
    }

    async fn copy_through(
        &self,
        run: &RunName,
        found: &Found,
        temporary: &Path,
        path: Option<&str>,
        destination: &Path,
    ) -> Result<Copied, ArtifactError> {
        let store = ArtifactStore::new(temporary.to_owned());
        self.download(found, &temporary.join(run.as_str())).await?;
        store.copy_out(run, path, destination)
    }

    /// Downloads a saved run into a local artifact store, where it is then as if it had been saved there: all or nothing,
    /// verified. What is there already is not fetched again.
    pub async fn fetch(&self, run: &RunName, into: &ArtifactStore) -> Result<Manifest, ArtifactError> {
        let found = self.find(run).await?;
        if found.manifest.saved_at.is_none() {
            return Err(ArtifactError::NoArtifacts { run: run.clone() });
        }
        if into.manifest(run).is_ok_and(|there| there == found.manifest) {
            return Ok(found.manifest);
        }
        make_parents(into.directory())?;
        let fetching = into.directory().join(format!("{FETCHING}{run}-{}", std::process::id()));
        remove_tree(&fetching)?;
        let downloaded = self.download(&found, &fetching).await;
        let place = into.directory().join(run.as_str());
        let published = downloaded.and_then(|()| {
            into.remove(run)?;
            std::fs::rename(&fetching, &place).map_err(ArtifactError::io("publish", &place))
        });
        published.inspect_err(|_| drop(remove_tree(&fetching)))?;
        Ok(found.manifest)
    }

    /// Removes all that is there of a run; `false` when there was nothing. It is out of sight first.
    pub async fn remove(&self, run: &RunName) -> Result<bool, ArtifactError> {
        let run_key = self.key(run);
        let keys = self.client.keys(&run_key).await?;
        let manifest = format!("{run_key}/{FINAL}");
        self.client.delete(&manifest).await?;
        let there = !keys.is_empty();
        delete_all(&self.client, keys.into_iter().filter(|key| *key != manifest)).await?;
        Ok(there)
    }

    /// Lays out a run as the local store does, in a directory that is made.
    async fn download(&self, found: &Found, home: &Path) -> Result<(), ArtifactError> {
        let Found { manifest, entries } = found;
        for dir in ["", "saved", "live"] {
            make_parents(&home.join(dir))?;
        }
        let top = open_top(home).map_err(ArtifactError::io("open", home))?;
        let mut wanted: Vec<Wanted> = Vec::new();
        for (path, entry) in entries {
            let Some(artifact) = artifact_of(manifest, path) else {
                return Err(self.damaged(&manifest.run, "it holds files of no artifact"));
            };
            let place = Path::new(if artifact.mount { "live" } else { "saved" }).join(path);
            let above = place.parent().unwrap_or(Path::new(""));
            make_directories(top.as_fd(), above).map_err(ArtifactError::io::<Errno>("make", &home.join(above)))?;
            wanted.push((place, entry.clone()));
        }
        let check = if manifest.saved_at.is_some() { Check::Strict } else { Check::Changing };
        fetch(&self.client, &self.key(&manifest.run), &wanted, home, check).await?;
        // What tells that all is there comes last.
        write_manifest(&home.join("saved"), manifest)?;
        write_manifest(home, manifest)
    }

    async fn find(&self, run: &RunName) -> Result<Found, ArtifactError> {
        for _ in 0..MAX_LOOKS {
            let run_key = self.key(run);
            let mut manifest = None;
            for name in [FINAL, UNFINISHED] {
                manifest = read_manifest(&self.client, &format!("{run_key}/{name}")).await?;
                if manifest.is_some() {
                    break;
                }
            }
            let Some(found) = manifest else { return Err(ArtifactError::NoArtifacts { run: run.clone() }) };
            if found.manifest.run != *run {
                return Err(self.damaged(run, "it is another run's"));
            }
            let Some(index) = found.index else { return Ok(Found { manifest: found.manifest, entries: Vec::new() }) };
            let key = format!("{run_key}/{}", index.key());
            let Some(bytes) = self.client.get(&key, MAX_INDEX_BYTES).await? else { continue };
            if super::entry::sha256_hex(&bytes) != index.sha256 {
                return Err(self.damaged(run, "its index is not the one that its manifest names"));
            }
            let entries = read_index(&bytes).map_err(|why| self.damaged(run, &why))?;
            return Ok(Found { manifest: found.manifest, entries });
        }
        Err(self.damaged(run, "its index is missing"))
    }

    fn key(&self, run: &RunName) -> String {
        self.url().key(run.as_str())
    }

    fn damaged(&self, run: &RunName, why: &str) -> ArtifactError {
        RemoteError::Damaged { object: self.client.shown(&self.key(run)), why: why.to_owned() }.into()
    }
}

/// Nothing may be in the way of a copy; looked at before all is downloaded, and again by the copy itself.
fn check_free(found: &Found, path: Option<&str>, destination: &Path) -> Result<(), ArtifactError> {
    let check = |path: PathBuf| match path.symlink_metadata() {
        Ok(_) => Err(ArtifactError::Exists { path }),
        Err(_) => Ok(()),
    };
    if let Some(path) = path {
        let name = Path::new(path).file_name().unwrap_or_default();
        return check(if destination.is_dir() { destination.join(name) } else { destination.to_owned() });
    }
    for (path, entry) in found.entries.iter().filter(|(_, entry)| entry.kind != EntryKind::Directory) {
        if let Some(listed) = listed(&found.manifest, path, entry) {
            // Declared paths begin with `/` or `~/`; copies go below the destination all the same.
            let place = listed.path.strip_prefix("/").or_else(|_| listed.path.strip_prefix("~"));
            check(destination.join(place.unwrap_or(&listed.path)))?;
        }
    }
    Ok(())
}

fn artifact_of<'a>(manifest: &'a Manifest, path: &Path) -> Option<&'a SavedArtifact> {
    manifest.artifacts.iter().find(|artifact| path.starts_with(artifact.path.store_path()))
}

fn listed(manifest: &Manifest, path: &Path, entry: &Entry) -> Option<ListedFile> {
    let artifact = artifact_of(manifest, path)?;
    let rest = path.strip_prefix(artifact.path.store_path()).ok()?;
    let kind = match entry.kind {
        EntryKind::File => FileKind::File,
        EntryKind::Link => FileKind::Link,
        EntryKind::Directory => return None,
    };
    let said = || entry.target.as_deref().and_then(super::entry::decode).map_or(0, |target| target.len() as u64);
    let size = ByteSize(if kind == FileKind::Link { said() } else { entry.size });
    Some(ListedFile { path: Path::new(&artifact.path.to_string()).join(rest), kind, size, modified: entry.mtime })
}
