//! The artifact store: making room for the artifacts of a run, finding what a run left, removing it.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::ArtifactError;
use super::manifest::Manifest;
use super::path::{ArtifactPath, Declared, overlap};
use super::settle::OPEN_MODE;
use crate::store::RunName;
use crate::sys::write_atomic;

pub(super) const MANIFEST: &str = "manifest.json";
const REMOVING: &str = ".removing-";
/// What is not all there yet would be removed by a sweep.
pub(super) const FETCHING: &str = ".removing-fetch-";
/// Largest manifest that is read: ten thousand artifacts.
pub(super) const MAX_MANIFEST_BYTES: u64 = 16 << 20;

/// The artifacts of all runs, in one directory that only its owner may enter.
#[derive(Debug, Clone)]
pub struct ArtifactStore {
    directory: PathBuf,
}

/// An artifact directory that is ready to be mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prepared {
    /// What was declared; says where in the container it goes.
    pub declared: Declared,
    /// The empty directory on the host, writable for every user (the directories above it are not).
    pub host_dir: PathBuf,
}

/// The places of one run.
pub(super) struct RunPlaces {
    /// Where artifacts with `mount: false` are until they are saved.
    pub(super) staging: PathBuf,
    /// The run's directory in the store.
    pub(super) home: PathBuf,
    pub(super) live: PathBuf,
    pub(super) saving: PathBuf,
    pub(super) saved: PathBuf,
}

impl ArtifactStore {
    /// The store in `directory`, which is made (0700) when it is first needed.
    #[must_use]
    pub const fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Where it is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes an empty directory for each declared artifact of a run: in `run_dir`, or in the store with `mount: true`.
    ///
    /// Nothing is made when nothing is declared. The run's name must be free in the store. What was made is taken back
    /// when this fails; when the run fails before its start, [`discard`](Self::discard) does that.
    pub fn prepare(
        &self,
        run: &RunName,
        run_dir: &Path,
        declared: &[Declared],
    ) -> Result<Vec<Prepared>, ArtifactError> {
        if let Some((first, second)) = overlap(declared) {
            let name = |index: usize| declared[index].path.to_string();
            return Err(ArtifactError::Overlap { first: name(first), second: name(second) });
        }
        if declared.is_empty() {
            return Ok(Vec::new());
        }
        let places = self.places(run, run_dir);
        make_parents(&self.directory)?;
        match DirBuilder::new().mode(0o700).create(&places.home) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(ArtifactError::AlreadyThere { run: run.clone() });
            }
            made => made.map_err(ArtifactError::io("make", &places.home))?,
        }
        // The first error is the one to tell; what cannot be taken back now is swept with the run.
        make_private(&places.staging).inspect_err(|_| drop(self.remove(run)))?;
        fill(&places, run, declared).inspect_err(|_| {
            drop(self.remove(run));
            drop(std::fs::remove_dir_all(&places.staging));
        })
    }

    /// What [`prepare`](Self::prepare) gave for a run, read back from the store: for a run whose supervisor was killed
    /// before it saved. Empty when the run declared nothing.
    pub fn prepared(&self, run: &RunName, run_dir: &Path) -> Result<Vec<Prepared>, ArtifactError> {
        let places = self.places(run, run_dir);
        let artifacts = read_manifest(&places.home)?.map(|manifest| manifest.artifacts).unwrap_or_default();
        let prepared = artifacts.into_iter().map(|artifact| {
            let declared =
                Declared { path: artifact.path, container_path: artifact.container_path, mount: artifact.mount };
            Prepared { host_dir: places.while_running(&declared), declared }
        });
        Ok(prepared.collect())
    }

    /// Takes back what [`prepare`](Self::prepare) made in the store for a run that never started; whether it did.
    ///
    /// What was saved or written is not touched, so that this harms no earlier run of the same name.
    pub fn discard(&self, run: &RunName) -> Result<bool, ArtifactError> {
        let places = self.places(run, Path::new(""));
        if !places.home.exists() || read_manifest(&places.saved)?.is_some() || !self.list(run)?.files.is_empty() {
            return Ok(false);
        }
        self.remove(run)
    }

    /// What is known of a run's artifacts: the final manifest, or the one that was written before the run started.
    pub fn manifest(&self, run: &RunName) -> Result<Manifest, ArtifactError> {
        let places = self.places(run, Path::new(""));
        for directory in [&places.saved, &places.home] {
            if let Some(manifest) = read_manifest(directory)? {
                return Ok(manifest);
            }
        }
        Err(ArtifactError::NoArtifacts { run: run.clone() })
    }

    /// The saved artifacts of a run that has ended, where they are; empty when nothing was saved.
    pub fn saved(&self, run: &RunName) -> Result<Vec<Prepared>, ArtifactError> {
        let places = self.places(run, Path::new(""));
        let artifacts = read_manifest(&places.saved)?.map(|manifest| manifest.artifacts).unwrap_or_default();
        let prepared = artifacts.into_iter().map(|artifact| Prepared {
            host_dir: places.in_store(&artifact.path, artifact.mount),
            declared: Declared { path: artifact.path, container_path: artifact.container_path, mount: artifact.mount },
        });
        Ok(prepared.filter(|artifact| artifact.host_dir.is_dir()).collect())
    }

    /// Whether there is anything under that name.
    #[must_use]
    pub fn has(&self, run: &RunName) -> bool {
        self.places(run, Path::new("")).home.exists()
    }

    /// Gives what a run saved the name `to`, which must be free; what has it already keeps it. Can be called again after
    /// it was cut short.
    pub fn rename(&self, from: &RunName, to: &RunName) -> Result<(), ArtifactError> {
        let (old, new) = (self.places(from, Path::new("")), self.places(to, Path::new("")));
        if old.home.exists() && !new.home.exists() {
            std::fs::rename(&old.home, &new.home).map_err(ArtifactError::io("rename", &old.home))?;
        }
        for directory in [&new.saved, &new.home] {
            if let Some(manifest) = read_manifest(directory)? {
                write_manifest(directory, &Manifest { run: to.clone(), ..manifest })?;
            }
        }
        Ok(())
    }

    /// The runs that have artifacts or are writing some, by name.
    pub fn runs(&self) -> Result<Vec<RunName>, ArtifactError> {
        let failed = || ArtifactError::io("list", &self.directory);
        let entries = match std::fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed())?,
        };
        let mut runs = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed())?.file_name();
            runs.extend(name.to_str().and_then(|name| name.parse().ok()));
        }
        runs.sort();
        Ok(runs)
    }

    /// Removes all that a run left in the store; `false` when there was nothing. It is out of sight at once.
    pub fn remove(&self, run: &RunName) -> Result<bool, ArtifactError> {
        let home = self.places(run, Path::new("")).home;
        let going = self.directory.join(format!("{REMOVING}{run}"));
        remove_tree(&going)?;
        match std::fs::rename(&home, &going) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            renamed => renamed.map_err(ArtifactError::io("remove", &home))?,
        }
        remove_tree(&going)?;
        Ok(true)
    }

    /// Removes what a run has written so far, saved or not: somebody wants nothing of it.
    pub fn give_up(&self, run: &RunName, run_dir: &Path) -> Result<(), ArtifactError> {
        remove_tree(&self.places(run, run_dir).staging)?;
        self.remove(run).map(drop)
    }

    /// Finishes removals that were cut short, and removes what was being fetched by a process that is no more.
    pub fn sweep(&self) -> Result<(), ArtifactError> {
        let entries = match std::fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(ArtifactError::io("list", &self.directory))?,
        };
        for entry in entries {
            let entry = entry.map_err(ArtifactError::io("list", &self.directory))?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(REMOVING) && !is_being_fetched(&name) {
                remove_tree(&entry.path())?;
            }
        }
        Ok(())
    }

    pub(super) fn places(&self, run: &RunName, run_dir: &Path) -> RunPlaces {
        let home = self.directory.join(run.as_str());
        RunPlaces {
            staging: run_dir.join("artifacts"),
            live: home.join("live"),
            saving: home.join("saving"),
            saved: home.join("saved"),
            home,
        }
    }
}

impl RunPlaces {
    /// Where an artifact is on the host while the run goes on.
    fn while_running(&self, declared: &Declared) -> PathBuf {
        let top = if declared.mount { &self.live } else { &self.staging };
        top.join(declared.path.store_path())
    }

    /// Where a saved artifact is in the store.
    pub(super) fn in_store(&self, path: &ArtifactPath, mount: bool) -> PathBuf {
        let top = if mount { &self.live } else { &self.saved };
        top.join(path.store_path())
    }
}

/// Whether the name is that of a fetch (`.removing-fetch-<run>-<pid>`) whose process lives.
fn is_being_fetched(name: &str) -> bool {
    let pid = name.strip_prefix(FETCHING).and_then(|rest| rest.rsplit('-').next());
    pid.is_some_and(|pid| Path::new("/proc").join(pid).exists())
}

fn fill(places: &RunPlaces, run: &RunName, declared: &[Declared]) -> Result<Vec<Prepared>, ArtifactError> {
    let mut prepared = Vec::with_capacity(declared.len());
    for declared in declared {
        let host_dir = places.while_running(declared);
        host_dir.parent().map_or(Ok(()), make_parents)?;
        make_private(&host_dir)?;
        std::fs::set_permissions(&host_dir, Permissions::from_mode(OPEN_MODE))
            .map_err(ArtifactError::io("open up", &host_dir))?;
        prepared.push(Prepared { declared: declared.clone(), host_dir });
    }
    write_manifest(&places.home, &Manifest::unfinished(run, declared))?;
    Ok(prepared)
}

pub(super) fn make_private(path: &Path) -> Result<(), ArtifactError> {
    DirBuilder::new().mode(0o700).create(path).map_err(ArtifactError::io("make", path))
}

pub(super) fn make_parents(path: &Path) -> Result<(), ArtifactError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(ArtifactError::io("make", path))
}

pub(super) fn write_manifest(directory: &Path, manifest: &Manifest) -> Result<(), ArtifactError> {
    let path = directory.join(MANIFEST);
    let json =
        serde_json::to_vec_pretty(manifest).map_err(|source| ArtifactError::Json { path: path.clone(), source })?;
    write_atomic(&path, &json).map_err(ArtifactError::io("write", &path))
}

pub(super) fn read_manifest(directory: &Path) -> Result<Option<Manifest>, ArtifactError> {
    use std::io::Read;

    let path = directory.join(MANIFEST);
    let file = match std::fs::File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(ArtifactError::io("read", &path))?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_MANIFEST_BYTES).read_to_end(&mut bytes).map_err(ArtifactError::io("read", &path))?;
    serde_json::from_slice(&bytes).map(Some).map_err(|source| ArtifactError::Json { path, source })
}

/// Removes a tree that a container may have written. What is missing is fine.
pub(super) fn remove_tree(path: &Path) -> Result<(), ArtifactError> {
    crate::sys::remove_tree(path).map(drop).map_err(ArtifactError::io("remove", path))
}
