//! What can go wrong with artifacts.

use std::io;
use std::path::{Path, PathBuf};

use super::remote::RemoteError;
use super::tree::TreeError;
use crate::image::ByteSize;
use crate::store::RunName;

/// An operation on artifacts that failed, with what it was about.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// Two declared artifacts of which one is the other or holds it.
    #[error("artifacts `{first}` and `{second}` are one directory or one is in the other\nhint: keep the outer one")]
    Overlap {
        /// The first.
        first: String,
        /// The second.
        second: String,
    },
    /// The run's name is taken in the artifact store.
    #[error(
        "there are artifacts of a run `{run}` already\nhint: choose another `--name`, or remove them with `dockless rm {run}`"
    )]
    AlreadyThere {
        /// The run.
        run: RunName,
    },
    /// There is nothing of that run.
    #[error("run `{run}` has no artifacts")]
    NoArtifacts {
        /// The run.
        run: RunName,
    },
    /// A path that is in none of the run's artifacts.
    #[error("run `{run}` has no artifact file `{path}`\nhint: `dockless artifacts ls {run}` shows what it has")]
    NoSuchPath {
        /// The run.
        run: RunName,
        /// What was asked for.
        path: String,
    },
    /// Something stands where a copy would go.
    #[error("`{path}` exists already, and nothing is overwritten\nhint: copy to another place, or remove it first")]
    Exists {
        /// What is in the way.
        path: PathBuf,
    },
    /// Two artifacts would be copied to one place.
    #[error(
        "artifacts `{first}` and `{second}` would go to one place\nhint: copy them one by one: `dockless artifacts cp {run}/{first} DIR`"
    )]
    SamePlace {
        /// The run.
        run: RunName,
        /// The first.
        first: String,
        /// The second.
        second: String,
    },
    /// The store cannot hold what the run wrote. The run's directory is as it was.
    #[error(
        "no space for the artifacts: {needed} needed in `{store}`, {available} free\nhint: make space; the artifacts are kept in `{kept_in}` until then"
    )]
    NoSpace {
        /// What they take on disk.
        needed: ByteSize,
        /// What the store's file system has free.
        available: ByteSize,
        /// The store.
        store: PathBuf,
        /// Where the artifacts are.
        kept_in: PathBuf,
    },
    /// A file of ours cannot be read or written.
    #[error("cannot {operation} `{path}`")]
    Io {
        /// What was done.
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An object store, or the way there.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// A manifest is damaged.
    #[error("`{path}` is not an artifact manifest")]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl ArtifactError {
    /// For `map_err`.
    pub(super) fn io<E: Into<io::Error>>(operation: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { operation, path: path.to_owned(), source: source.into() }
    }

    /// For `map_err`: a step in a tree whose top is at `top`.
    pub(super) fn tree(top: &Path) -> impl FnOnce(TreeError) -> Self {
        move |TreeError { operation, path, source }| {
            let path = if path.as_os_str().is_empty() { top.to_owned() } else { top.join(path) };
            Self::Io { operation, path, source }
        }
    }
}
