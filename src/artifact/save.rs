//! Saving the artifacts of a run that has ended.

use std::borrow::Cow;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::copy::{copy_metadata, copy_tree};
use super::error::ArtifactError;
use super::manifest::{Manifest, Outcome, SCHEMA, SavedArtifact};
use super::path::ArtifactPath;
use super::settle::{Owner, Tally, close, measure, settle, sync_each};
use super::store::{ArtifactStore, Prepared, RunPlaces, make_parents, read_manifest, remove_tree, write_manifest};
use super::tree::{TreeError, open_top};
use crate::image::ByteSize;
use crate::store::RunName;
use crate::sys::{free_bytes, sync_dir};

/// From how many files on the whole file system is synced instead of each of them.
const MAX_SYNCED_ONE_BY_ONE: u64 = 100;

/// What is to be saved.
#[derive(Debug, Clone, Copy)]
pub struct SaveRequest<'a> {
    /// The run.
    pub run: &'a RunName,
    /// Its directory.
    pub run_dir: &'a Path,
    /// What [`prepare`](ArtifactStore::prepare) gave.
    pub prepared: &'a [Prepared],
    /// How the run ended.
    pub outcome: Outcome,
    /// Who gets what root wrote in the container; `None` leaves it root's.
    pub owner: Option<Owner>,
    /// The time to note.
    pub saved_at: Timestamp,
}

/// What was saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    /// Regular files and symbolic links.
    pub files: u64,
    /// Bytes in regular files.
    pub bytes: ByteSize,
    /// What the user should know.
    pub warnings: Vec<Warning>,
}

/// Something about an artifact that is no failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Warning {
    /// The run never wrote to it.
    NeverWritten {
        /// The artifact.
        artifact: ArtifactPath,
    },
    /// Devices, sockets or FIFOs that were left out.
    LeftOut {
        /// The artifact.
        artifact: ArtifactPath,
        /// How many.
        count: u64,
        /// The first of them, relative to the artifact.
        #[serde(with = "lossy")]
        first: PathBuf,
        /// What that is.
        kind: Cow<'static, str>,
    },
    /// Files that were setuid or setgid and are so no longer.
    Disarmed {
        /// The artifact.
        artifact: ArtifactPath,
        /// How many.
        count: u64,
    },
    /// Files whose extended attributes the store's file system cannot hold.
    LostAttributes {
        /// The artifact.
        artifact: ArtifactPath,
        /// How many.
        count: u64,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverWritten { artifact } => write!(f, "nothing was written to the artifact `{artifact}`"),
            Self::LeftOut { artifact, count, first, kind } => {
                // The name is the container's and may drive a terminal.
                let first = first.display().to_string().escape_debug().to_string();
                write!(
                    f,
                    "left {count} special files out of the artifact `{artifact}`, the first is the {kind} `{first}`"
                )
            }
            Self::Disarmed { artifact, count } => {
                write!(f, "removed the setuid and setgid bits of {count} files in the artifact `{artifact}`")
            }
            Self::LostAttributes { artifact, count } => {
                write!(f, "the store cannot hold the extended attributes of {count} files in the artifact `{artifact}`")
            }
        }
    }
}

/// A path that goes from process to process only to be shown: what is not UTF-8 in it is replaced.
mod lossy {
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&path.to_string_lossy())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        String::deserialize(deserializer).map(PathBuf::from)
    }
}

impl ArtifactStore {
    /// Saves the artifacts of a run. The container is gone, and nobody writes to them any more.
    ///
    /// All that was not in the store becomes visible with one rename; before that, a failure or a crash leaves it in the
    /// run's directory, and this can be called again. Called again after a success, it says what was saved, without the
    /// warnings.
    pub fn save(&self, request: &SaveRequest<'_>) -> Result<Saved, ArtifactError> {
        let SaveRequest { run, run_dir, prepared, .. } = *request;
        if prepared.is_empty() {
            return Ok(Saved { files: 0, bytes: ByteSize(0), warnings: Vec::new() });
        }
        let places = self.places(run, run_dir);
        if let Some(manifest) = read_manifest(&places.saved)? {
            remove_tree(&places.staging)?;
            return Ok(summary(&manifest, Vec::new()));
        }
        let mut tallies = Vec::with_capacity(prepared.len());
        let in_place = same_device(&places.staging, &places.home)?;
        for artifact in prepared {
            tallies.push(if artifact.declared.mount || in_place {
                settle_at(&artifact.host_dir, request.owner)?
            } else {
                measure_at(&artifact.host_dir)?
            });
        }
        let moved = in_place && publish_by_rename(&places, request, &tallies)?;
        if !moved {
            self.publish_by_copy(&places, request, &mut tallies)?;
        }
        remove_tree(&places.staging)?;
        let warnings = prepared.iter().zip(&tallies).flat_map(|(artifact, tally)| warnings(artifact, tally)).collect();
        Ok(summary(&manifest(request, &tallies), warnings))
    }

    fn publish_by_copy(
        &self,
        places: &RunPlaces,
        request: &SaveRequest<'_>,
        tallies: &mut [Tally],
    ) -> Result<(), ArtifactError> {
        let needed = ByteSize(
            request
                .prepared
                .iter()
                .zip(tallies.iter())
                .map(|(artifact, tally)| if artifact.declared.mount { 0 } else { tally.disk_bytes })
                .sum(),
        );
        remove_tree(&places.saving)?;
        let copied = self.check_space(places, needed).and_then(|()| copy_all(places, request, tallies));
        if let Err(error) = copied {
            // What cannot be removed now is removed when the save is tried again.
            drop(remove_tree(&places.saving));
            return Err(self.explain(error, places, needed));
        }
        std::fs::rename(&places.saving, &places.saved).map_err(ArtifactError::io("publish", &places.saved))?;
        sync_dir(&places.home).map_err(ArtifactError::io("sync", &places.home))
    }

    fn check_space(&self, places: &RunPlaces, needed: ByteSize) -> Result<(), ArtifactError> {
        let available = self.available()?;
        if needed <= available { Ok(()) } else { Err(self.no_space(places, needed, available)) }
    }

    fn available(&self) -> Result<ByteSize, ArtifactError> {
        let directory = self.directory();
        free_bytes(directory).map(ByteSize).map_err(ArtifactError::io("read the free space of", directory))
    }

    fn no_space(&self, places: &RunPlaces, needed: ByteSize, available: ByteSize) -> ArtifactError {
        let (store, kept_in) = (self.directory().to_owned(), places.staging.clone());
        ArtifactError::NoSpace { needed, available, store, kept_in }
    }

    /// A full disk or quota in the middle of the copy says what would have been needed.
    fn explain(&self, error: ArtifactError, places: &RunPlaces, needed: ByteSize) -> ArtifactError {
        let full = match &error {
            ArtifactError::Io { source, .. } => {
                matches!(Errno::from_io_error(source), Some(Errno::NOSPC | Errno::DQUOT))
            }
            _ => false,
        };
        match self.available() {
            Ok(available) if full => self.no_space(places, needed, available),
            _ => error,
        }
    }
}

/// `false` when the kernel says that the two places are on different file systems after all (bind mounts).
fn publish_by_rename(places: &RunPlaces, request: &SaveRequest<'_>, tallies: &[Tally]) -> Result<bool, ArtifactError> {
    write_manifest(&places.staging, &manifest(request, tallies))?;
    sync_trees(places, &places.staging, tallies)?;
    match rustix::fs::rename(&places.staging, &places.saved) {
        Err(Errno::XDEV) => Ok(false),
        renamed => {
            renamed.map_err(ArtifactError::io("publish", &places.saved))?;
            sync_dir(&places.home).map_err(ArtifactError::io("sync", &places.home))?;
            Ok(true)
        }
    }
}

fn copy_all(places: &RunPlaces, request: &SaveRequest<'_>, tallies: &mut [Tally]) -> Result<(), ArtifactError> {
    make_parents(&places.saving)?;
    for (artifact, tally) in request.prepared.iter().zip(tallies.iter_mut()) {
        if !artifact.declared.mount {
            let target = places.saving.join(artifact.declared.path.store_path());
            *tally = copy_one(artifact, &target, request.owner)?.with_findings_of(tally);
        }
    }
    write_manifest(&places.saving, &manifest(request, tallies))?;
    sync_trees(places, &places.saving, tallies)
}

fn copy_one(artifact: &Prepared, target: &Path, owner: Option<Owner>) -> Result<Tally, ArtifactError> {
    make_parents(target)?;
    let from = open_top(&artifact.host_dir).map_err(ArtifactError::io("open", &artifact.host_dir))?;
    let to = open_top(target).map_err(ArtifactError::io("open", target))?;
    let mut tally =
        copy_tree(from.as_fd(), to.as_fd(), owner, false).map_err(ArtifactError::tree(&artifact.host_dir))?;
    let stat = rustix::fs::fstat(&from).map_err(ArtifactError::io("read", &artifact.host_dir))?;
    let lost = copy_metadata(from.as_fd(), to.as_fd(), &stat, owner);
    tally.lost_attributes += u64::from(lost.map_err(ArtifactError::io("set the mode of", target))?);
    let closed = close(to.as_fd());
    closed.map_err(ArtifactError::io("change the mode of", target))?;
    Ok(tally)
}

fn settle_at(path: &Path, owner: Option<Owner>) -> Result<Tally, ArtifactError> {
    in_tree(path, |top| settle(top, owner))
}

fn measure_at(path: &Path) -> Result<Tally, ArtifactError> {
    in_tree(path, measure)
}

fn in_tree<T>(path: &Path, work: impl FnOnce(BorrowedFd<'_>) -> Result<T, TreeError>) -> Result<T, ArtifactError> {
    let top = open_top(path).map_err(ArtifactError::io("open", path))?;
    work(top.as_fd()).map_err(ArtifactError::tree(path))
}

fn same_device(one: &Path, other: &Path) -> Result<bool, ArtifactError> {
    let device = |path: &Path| {
        let metadata = std::fs::metadata(path).map_err(ArtifactError::io("read", path));
        metadata.map(|metadata| metadata.dev())
    };
    Ok(device(one)? == device(other)?)
}

/// Makes what is about to be published durable.
///
/// Few files are synced one by one. For many, one sync of the whole file system is quicker, though it waits for what
/// others write there.
fn sync_trees(places: &RunPlaces, published: &Path, tallies: &[Tally]) -> Result<(), ArtifactError> {
    if tallies.iter().map(|tally| tally.entries).sum::<u64>() > MAX_SYNCED_ONE_BY_ONE {
        let top = open_top(published).map_err(ArtifactError::io("open", published))?;
        return rustix::fs::syncfs(&top).map_err(ArtifactError::io("sync", published));
    }
    in_tree(published, sync_each)?;
    match in_tree(&places.live, sync_each) {
        Err(ArtifactError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(()),
        synced => synced,
    }
}

fn manifest(request: &SaveRequest<'_>, tallies: &[Tally]) -> Manifest {
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
        outcome: Some(request.outcome),
        saved_at: Some(request.saved_at.to_string()),
        artifacts: request.prepared.iter().zip(tallies).map(artifact).collect(),
    }
}

pub(super) fn summary(manifest: &Manifest, warnings: Vec<Warning>) -> Saved {
    let files = manifest.artifacts.iter().map(|artifact| artifact.files).sum();
    let bytes = ByteSize(manifest.artifacts.iter().map(|artifact| artifact.bytes.0).sum());
    Saved { files, bytes, warnings }
}

pub(super) fn warnings(prepared: &Prepared, tally: &Tally) -> Vec<Warning> {
    let artifact = || prepared.declared.path.clone();
    let mut warnings = Vec::new();
    if tally.entries == 0 {
        warnings.push(Warning::NeverWritten { artifact: artifact() });
    }
    if let Some((first, kind)) = tally.first_special.clone() {
        warnings.push(Warning::LeftOut { artifact: artifact(), count: tally.special, first, kind: kind.into() });
    }
    if tally.privileged > 0 {
        warnings.push(Warning::Disarmed { artifact: artifact(), count: tally.privileged });
    }
    if tally.lost_attributes > 0 {
        warnings.push(Warning::LostAttributes { artifact: artifact(), count: tally.lost_attributes });
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_looked_at_before_a_copy() {
        let dir = tempfile::tempdir().unwrap();
        let store = ArtifactStore::new(dir.path().to_owned());
        let places = store.places(&"a".parse().unwrap(), dir.path());
        store.check_space(&places, ByteSize(1)).unwrap();
        let error = store.check_space(&places, ByteSize(1 << 60)).unwrap_err().to_string();
        assert!(error.starts_with("no space for the artifacts: 1024 PiB needed in `"), "{error}");
    }
}
