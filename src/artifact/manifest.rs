//! `manifest.json`: what a run declared and what became of it.

use serde::{Deserialize, Serialize};

use super::path::{ArtifactPath, Declared};
use crate::image::ByteSize;
use crate::store::RunName;

/// Format of the file.
pub(super) const SCHEMA: u32 = 1;

/// How a run ended, as far as its artifacts are concerned: they are saved whatever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The workload ended with 0.
    Done,
    /// The workload failed.
    Failed,
    /// The run was stopped from outside.
    Interrupted,
}

/// The artifacts of one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Format of this file; 1.
    pub schema: u32,
    /// The run.
    pub run: RunName,
    /// How it ended; absent while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// When the artifacts were saved (RFC 3339, UTC); absent while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved_at: Option<String>,
    /// The artifacts in the order of their declaration.
    pub artifacts: Vec<SavedArtifact>,
}

/// One artifact of a [`Manifest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedArtifact {
    /// The path as declared.
    pub path: ArtifactPath,
    /// The absolute directory in the container, where a later run finds it again.
    pub container_path: std::path::PathBuf,
    /// Whether it was written in the store while the run went on.
    pub mount: bool,
    /// Regular files and symbolic links.
    pub files: u64,
    /// Bytes in regular files; a file with several names counts once.
    pub bytes: ByteSize,
}

impl Manifest {
    /// The manifest of a run that has not ended.
    pub(super) fn unfinished(run: &RunName, declared: &[Declared]) -> Self {
        let artifacts = declared
            .iter()
            .map(|declared| SavedArtifact {
                path: declared.path.clone(),
                container_path: declared.container_path.clone(),
                mount: declared.mount,
                files: 0,
                bytes: ByteSize(0),
            })
            .collect();
        Self { schema: SCHEMA, run: run.clone(), outcome: None, saved_at: None, artifacts }
    }
}
