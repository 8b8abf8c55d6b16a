//! The run's own side of artifacts that go to a bucket: all are in the run's directory until they are saved.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::artifact::error::ArtifactError;
use crate::artifact::manifest::Manifest;
use crate::artifact::path::{Declared, overlap};
use crate::artifact::settle::OPEN_MODE;
use crate::artifact::store::{Prepared, make_parents, make_private, read_manifest, write_manifest};
use crate::store::RunName;

/// Makes an empty directory in `run_dir` for each declared artifact, also for those with `mount: true`; they are mounted
/// as those of a local store are. What was made is taken back when this fails.
pub fn prepare_remote(run: &RunName, run_dir: &Path, declared: &[Declared]) -> Result<Vec<Prepared>, ArtifactError> {
    if let Some((first, second)) = overlap(declared) {
        let name = |index: usize| declared[index].path.to_string();
        return Err(ArtifactError::Overlap { first: name(first), second: name(second) });
    }
    if declared.is_empty() {
        return Ok(Vec::new());
    }
    let staging = run_dir.join("artifacts");
    make_private(&staging)?;
    let fill = || {
        for declared in declared {
            let host_dir = staging.join(declared.path.store_path());
            host_dir.parent().map_or(Ok(()), make_parents)?;
            make_private(&host_dir)?;
            std::fs::set_permissions(&host_dir, Permissions::from_mode(OPEN_MODE))
                .map_err(ArtifactError::io("open up", &host_dir))?;
        }
        write_manifest(&staging, &Manifest::unfinished(run, declared))
    };
    fill().inspect_err(|_| drop(std::fs::remove_dir_all(&staging)))?;
    prepared_remote(run_dir)
}

/// What [`prepare_remote`] gave for a run, read back: for a run whose supervisor was killed, and for another attempt to
/// save it. Empty when the run declared nothing, or when all is saved.
pub fn prepared_remote(run_dir: &Path) -> Result<Vec<Prepared>, ArtifactError> {
    let staging = run_dir.join("artifacts");
    let artifacts = read_manifest(&staging)?.map(|manifest| manifest.artifacts).unwrap_or_default();
    let prepared = artifacts.into_iter().map(|artifact| {
        let host_dir = staging.join(artifact.path.store_path());
        let (path, container_path, mount) = (artifact.path, artifact.container_path, artifact.mount);
        Prepared { declared: Declared { path, container_path, mount }, host_dir }
    });
    Ok(prepared.collect())
}
