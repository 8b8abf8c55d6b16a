//! What can go wrong in the store.

use std::io;
use std::path::PathBuf;

use super::secrets::SecretValueError;
use crate::image::{ByteSize, ConfigError, Digest, DocumentError};

/// An operation of the store that failed, with what it was about.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A directory of the store cannot be made or entered.
    #[error("cannot open the store at `{path}`\nhint: name another place with `--root DIR`")]
    Open {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It keeps neither whiteouts nor attributes of the system, and other machines may be at it.
    #[error(
        "the store `{path}` would be on {kind}, a network file system, which cannot hold unpacked layers\nhint: name a directory on a local disk or in memory with `--root DIR`"
    )]
    Network {
        /// The store's root.
        path: PathBuf,
        /// What it is on.
        kind: &'static str,
    },
    /// The layout is one that this version does not know.
    #[error(
        "the store at `{path}` has layout version `{found}`, expected `{expected}`\nhint: use the dockless that wrote it, or name another place with `--root DIR`"
    )]
    Version {
        /// The store's root.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What we read.
        expected: &'static str,
    },
    /// A newer dockless wrote it.
    #[error(
        "the store at `{path}` has version `{found}`, expected at most `{known}`\nhint: use the newer dockless that wrote it, or name another place with `--root DIR`"
    )]
    Newer {
        /// The store's root.
        path: PathBuf,
        /// What it says.
        found: u32,
        /// What we read.
        known: u32,
    },
    /// The version of the store is not known.
    #[error(
        "`{path}`, which has the version of the store, is damaged\nhint: remove the file if no newer dockless has used the store"
    )]
    NoVersion {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// A layer that another version unpacked.
    #[error("`{path}` has format `{found}`, expected `{expected}`{HINT_REPAIR}")]
    LayerFormat {
        /// The layer's description.
        path: PathBuf,
        /// What it says.
        found: u64,
        /// What we read.
        expected: u32,
    },
    /// A file cannot be read.
    #[error("cannot read `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file or directory cannot be written, renamed or removed.
    #[error("cannot write `{path}`{}", full_disk_hint(source))]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A lock cannot be had at all (not: is held by another).
    #[error("cannot lock `{path}`")]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// One of our own JSON files does not parse.
    #[error("`{path}` is damaged")]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// More or fewer bytes than the descriptor says.
    #[error("blob `{digest}` has {actual} bytes{}, expected {expected}; nothing of it was kept{HINT_CHANGED}", if *.more { " or more" } else { "" })]
    Size {
        /// The blob.
        digest: Digest,
        /// Bytes that arrived.
        actual: u64,
        /// Whether there would have been more.
        more: bool,
        /// Bytes that the descriptor promises.
        expected: u64,
    },
    /// Content that hashes to something else.
    #[error("blob `{expected}` has the wrong content, it hashes to `{actual}`; nothing of it was kept{HINT_CHANGED}")]
    Digest {
        /// What the descriptor promises.
        expected: Digest,
        /// What arrived.
        actual: Digest,
    },
    /// A document in the store that hashes to something else.
    #[error("blob `{digest}` in the store is damaged, it hashes to `{actual}`{HINT_REPAIR}")]
    Damaged {
        /// The blob.
        digest: Digest,
        /// What it hashes to.
        actual: Digest,
    },
    /// The list of images does not parse.
    #[error("the list of images, `{path}`, is damaged{HINT_REPAIR}")]
    Index {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// A damaged layer cannot be replaced while it is mounted.
    #[error("layer `{digest}` is damaged, and run `{run}` has it mounted\nhint: stop the run first")]
    LayerInUse {
        /// The layer.
        digest: Digest,
        /// The live run.
        run: String,
    },
    /// The file system has not enough room.
    #[error(
        "not enough space in `{path}`: {needed} needed, {free} free\nhint: free some space, `dockless rmi` removes images"
    )]
    Space {
        /// The store's root.
        path: PathBuf,
        /// What the operation needs.
        needed: ByteSize,
        /// What there is.
        free: ByteSize,
    },
    /// A manifest or index in the store is not one.
    #[error("a document in the store is damaged\nhint: remove the image with `dockless rmi` and pull it again")]
    Document(#[source] DocumentError),
    /// A configuration in the store is not one.
    #[error("a document in the store is damaged\nhint: remove the image with `dockless rmi` and pull it again")]
    Config(#[source] ConfigError),
    /// No such image.
    #[error(
        "no image `{name}` in the store\nhint: `dockless images` lists what is there, `dockless pull {name}` fetches it"
    )]
    NoImage {
        /// What was asked for.
        name: String,
    },
    /// A digest prefix that fits several images.
    #[error("`{name}` fits several images: {found}\nhint: give more digits or the full name")]
    AmbiguousImage {
        /// What was asked for.
        name: String,
        /// The names that fit.
        found: String,
    },
    /// The image is in use.
    #[error(
        "image `{name}` is used by run `{run}`\nhint: stop the run or remove it first; `dockless rmi --force` takes the name away and leaves the run what it needs"
    )]
    ImageInUse {
        /// The image.
        name: String,
        /// A run that uses it.
        run: String,
    },
    /// Which layers a live run needs cannot be told.
    #[error(
        "nothing was deleted, because it cannot be told which layers run `{name}` has mounted\nhint: stop the run first"
    )]
    RunUnreadable {
        /// The run.
        name: String,
        /// Why its record cannot be read.
        #[source]
        source: Box<StoreError>,
    },
    /// No such run.
    #[error("no run `{name}`\nhint: `dockless ps -a` lists the runs")]
    NoRun {
        /// What was asked for.
        name: String,
    },
    /// The name of a new run is taken.
    #[error(
        "the name `{name}` is taken by another run\nhint: choose another `--name`, or remove that run with `dockless rm {name}`"
    )]
    RunExists {
        /// The name.
        name: String,
    },
    /// A run that is still going on cannot be removed.
    #[error("run `{name}` is still running\nhint: stop it first")]
    RunActive {
        /// The name.
        name: String,
    },
    /// A run whose artifacts a live run has mounted.
    #[error(
        "run `{name}` is used by run `{by}`, which has its artifacts mounted\nhint: wait for `{by}`, or stop it first"
    )]
    RunInUse {
        /// The run.
        name: String,
        /// The live run.
        by: String,
    },
    /// No such tag.
    #[error("no tag `{name}`{}", meant_hint(":", meant.as_ref(), "`dockless tags list` shows the tags"))]
    NoTag {
        /// What was asked for.
        name: String,
        /// The tag that was probably meant.
        meant: Option<String>,
    },
    /// A tag that outlived its run.
    #[error("run `{run}`, which tag `{tag}` names, is gone\nhint: `dockless tags delete {tag}` forgets the tag")]
    TaggedRunGone {
        /// The tag.
        tag: String,
        /// The run.
        run: String,
    },
    /// No such secret.
    #[error("no secret `{name}`{}", meant_hint("", meant.as_ref(), "`dockless secrets add` keeps one"))]
    NoSecret {
        /// What was asked for.
        name: String,
        /// The secret that was probably meant.
        meant: Option<String>,
    },
    /// A secret that would be replaced.
    #[error("there is a secret `{name}` already\nhint: `--force` replaces it")]
    SecretExists {
        /// Its name.
        name: String,
    },
    /// The file of a secret holds something else.
    #[error("`{path}` is damaged")]
    Secret {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: SecretValueError,
    },
}

fn meant_hint(mark: &str, meant: Option<&String>, otherwise: &str) -> String {
    match meant {
        Some(meant) => format!("\nhint: did you mean `{mark}{meant}`?"),
        None => format!("\nhint: {otherwise}"),
    }
}

const HINT_REPAIR: &str = "\nhint: `dockless check --repair` mends what can be mended";

const HINT_CHANGED: &str =
    "\nhint: try again; if it stays so, the registry or a proxy on the way changes what it serves";

fn full_disk_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "\nhint: the disk is full, `dockless rmi` removes images, `--root DIR` names another place"
        }
        _ => "",
    }
}
