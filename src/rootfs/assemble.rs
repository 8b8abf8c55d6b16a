//! A root file system of a run's own: an overlay over the image's layers, or a copy of them where none can be mounted.

use std::fmt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::attributes::{Attributes, copy_dir_attributes, finish_dir};
use super::copy::copy_flat;
use super::error::RootfsError;
use super::layers::Layers;
use crate::sys::beneath::Dir;
use crate::sys::mount::{MAX_OVERLAY_LOWERS, Overlay, unmount};

/// How the root file system is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    /// An overlay, or a copy where it cannot be mounted.
    #[default]
    Auto,
    /// An overlay or an error.
    Overlay,
    /// A copy.
    Copy,
}

/// Why a string is not a [`Choice`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("root file system `{0}` is unknown, expected `auto`, `overlay` or `copy`")]
pub struct ChoiceError(String);

impl FromStr for Choice {
    type Err = ChoiceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "overlay" => Ok(Self::Overlay),
            "copy" => Ok(Self::Copy),
            _ => Err(ChoiceError(text.to_owned())),
        }
    }
}

/// How the root file system was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// An overlay.
    Overlay,
    /// A copy.
    Copy,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Overlay => "overlay",
            Self::Copy => "copy",
        })
    }
}

/// A root file system that is there.
#[derive(Debug, Clone)]
pub struct Rootfs {
    /// Where; absolute.
    pub path: PathBuf,
    /// How.
    pub method: Method,
    /// Why so, in words.
    pub why: String,
}

/// Makes a root file system at the empty directory `target`, in the caller's mount namespace. `scratch`, an absolute path,
/// gets what an overlay needs besides: `upper`, the writable layer, and `work`. With `keep` the writable layer is to
/// outlive the run, so it must be durable.
pub fn assemble(
    choice: Choice,
    layers: &Layers,
    scratch: &Path,
    target: &Path,
    keep: bool,
) -> Result<Rootfs, RootfsError> {
    let rootfs = |method, why: String| Rootfs { path: target.to_owned(), method, why };
    let why = match choice {
        Choice::Copy => "asked for".to_owned(),
        Choice::Overlay | Choice::Auto => match mount_overlay(layers, scratch, target, !keep) {
            Ok(()) => return Ok(rootfs(Method::Overlay, "it can be mounted".to_owned())),
            Err(error) if choice == Choice::Overlay => return Err(error),
            Err(error) => reason(&error),
        },
    };
    copy_flat(layers, target)?;
    Ok(rootfs(Method::Copy, why))
}

/// Mounts an overlay of `layers` at `target`, with a new writable layer in `scratch`. The mount is gone with the caller's
/// mount namespace at the latest; the directories in `scratch` stay, except when this fails.
pub fn mount_overlay(layers: &Layers, scratch: &Path, target: &Path, volatile: bool) -> Result<(), RootfsError> {
    if !layers.are_mountable() {
        return Err(RootfsError::PlainLayers);
    }
    let (upper, work, empty) = (scratch.join("upper"), scratch.join("work"), scratch.join("empty"));
    let count = layers.paths().len();
    if count > MAX_OVERLAY_LOWERS {
        return Err(RootfsError::TooManyLayers { layers: count, limit: MAX_OVERLAY_LOWERS });
    }
    let mut made = Made::default();
    if count == 0 {
        // An overlay wants something below, even for an image of nothing.
        made.directory(&empty)?;
    }
    made.directory(&upper)?;
    made.directory(&work)?;
    describe_root(layers, &upper)?;
    mount_overlay_of(layers, scratch, target, volatile)?;
    made.keep();
    Ok(())
}

/// Mounts an overlay with a writable layer that is there.
pub(super) fn mount_overlay_of(
    layers: &Layers,
    scratch: &Path,
    target: &Path,
    volatile: bool,
) -> Result<(), RootfsError> {
    let mut lowers = layers.paths().to_vec();
    if lowers.is_empty() {
        lowers.push(scratch.join("empty"));
    }
    let overlay = Overlay { lowers: &lowers, upper: &scratch.join("upper"), work: &scratch.join("work"), volatile };
    overlay.mount(target).map_err(|error| RootfsError::Mount {
        target: target.to_owned(),
        operation: error.operation,
        log: error.log,
        source: error.source,
    })
}

/// Whether an overlay can be mounted with its writable layer in `directory`, and works: on network file systems, on other
/// overlays and without the rights for it, it does not. Mounts nothing that could be seen.
pub fn probe(directory: &Path) -> Result<(), RootfsError> {
    let scratch = directory.join("overlay-probe");
    let host = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| RootfsError::Host { operation, path, source }
    };
    let mut made = Made::default();
    made.directory(&scratch)?;
    let (lower, upper, work) = (scratch.join("lower"), scratch.join("upper"), scratch.join("work"));
    for path in [&lower, &upper, &work] {
        made.directory(path)?;
    }
    let (file, sub) = (lower.join("file"), lower.join("directory"));
    std::fs::write(&file, "").map_err(host("write", &file))?;
    made.directory(&sub)?;
    let target = scratch.join("target");
    made.directory(&target)?;
    let overlay = Overlay { lowers: &[lower], upper: &upper, work: &work, volatile: true };
    let failed = |operation, log, source| RootfsError::Mount { target: directory.to_owned(), operation, log, source };
    overlay.mount(&target).map_err(|error| failed(error.operation, error.log, error.source))?;
    // A whiteout and an opaque directory are what file systems fail at.
    let tried = std::fs::remove_file(target.join("file"))
        .and_then(|()| std::fs::remove_dir(target.join("directory")))
        .and_then(|()| std::fs::create_dir(target.join("directory")));
    unmount(&target).map_err(host("unmount", &target))?;
    tried.map_err(|source| failed("change a file of a lower layer", String::new(), source))
}

/// Makes the root of a writable layer or a copy what the image's root is.
pub(super) fn describe_root(layers: &Layers, root: &Path) -> Result<(), RootfsError> {
    let describe = || {
        let to = Dir::open(root)?;
        match layers.root() {
            Some(from) => copy_dir_attributes(&Dir::open(from)?, &to),
            None => finish_dir(&to, &Attributes::IMPLICIT),
        }
    };
    describe().map_err(|source| RootfsError::Host { operation: "set the attributes of", path: root.to_owned(), source })
}

/// An error with all its causes, on one line.
fn reason(error: &RootfsError) -> String {
    let mut text = String::new();
    let mut next: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = next {
        let message = error.to_string();
        let first_line = message.lines().next().unwrap_or_default();
        text.push_str(if text.is_empty() { "" } else { ": " });
        text.push_str(first_line);
        next = error.source();
    }
    text
}

/// Directories that go again unless they are kept.
#[derive(Default)]
struct Made(Vec<PathBuf>);

impl Made {
    fn directory(&mut self, path: &Path) -> Result<(), RootfsError> {
        std::fs::DirBuilder::new().mode(0o755).create(path).map_err(|source| RootfsError::Host {
            operation: "make the directory",
            path: path.to_owned(),
            source,
        })?;
        self.0.push(path.to_owned());
        Ok(())
    }

    fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            drop(std::fs::remove_dir_all(path));
        }
    }
}
