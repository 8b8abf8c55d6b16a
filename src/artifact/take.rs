//! Taking artifacts out of the store: what is there, and copies of it.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;

use super::copy::{copy_leaf, copy_metadata, copy_tree, first_conflict};
use super::error::ArtifactError;
use super::manifest::Manifest;
use super::path::ArtifactPath;
use super::settle::{Tally, close};
use super::store::{ArtifactStore, RunPlaces};
use super::tree::{Entry, TreeError, Visitor, open_below, open_top, walk};
use crate::image::ByteSize;
use crate::store::RunName;

/// What a run left, or has written so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// What was declared and how it ended. While the run goes on its counts are 0.
    pub manifest: Manifest,
    /// The files, by path.
    pub files: Vec<ListedFile>,
}

/// One file or link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedFile {
    /// The declared path of its artifact and the path in it, e.g. `output/hello.txt`. The names are the container's.
    pub path: PathBuf,
    /// What it is.
    pub kind: FileKind,
    /// Size in bytes; of a link, the length of what it says.
    pub size: ByteSize,
    /// Time of the last change, in seconds since 1970.
    pub modified: i64,
}

/// What a [`ListedFile`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
}

/// What was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// Regular files and symbolic links.
    pub files: u64,
    /// Bytes in regular files.
    pub bytes: ByteSize,
}

impl ArtifactStore {
    /// What a run left; of a run that goes on, what its artifacts with `mount: true` hold now.
    pub fn list(&self, run: &RunName) -> Result<Listing, ArtifactError> {
        let manifest = self.manifest(run)?;
        let places = self.places(run, Path::new(""));
        let mut files = Vec::new();
        for artifact in &manifest.artifacts {
            let top = places.in_store(&artifact.path, artifact.mount);
            let Some(opened) = open_if_there(&top)? else { continue };
            let mut lister = Lister { prefix: PathBuf::from(artifact.path.to_string()), files: &mut files };
            walk(opened.as_fd(), &mut lister).map_err(ArtifactError::tree(&top))?;
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Listing { manifest, files })
    }

    /// Copies what a run left, as `cp -a` does, and overwrites nothing.
    ///
    /// Without `path` each artifact goes to its place below `destination`, which is made and may hold other files. With a
    /// `path` (an artifact, or a file or directory in one) that alone is copied: into `destination` when that is a
    /// directory, else under that name.
    pub fn copy_out(&self, run: &RunName, path: Option<&str>, destination: &Path) -> Result<Copied, ArtifactError> {
        let manifest = self.manifest(run)?;
        let places = self.places(run, Path::new(""));
        match path {
            None => copy_all(&manifest, &places, destination),
            Some(path) => {
                let source = find(&manifest, &places, path)?;
                let missing = || ArtifactError::NoSuchPath { run: run.clone(), path: path.to_owned() };
                copy_one(&source, destination)?.ok_or_else(missing)
            }
        }
    }
}

struct Lister<'a> {
    prefix: PathBuf,
    files: &'a mut Vec<ListedFile>,
}

impl Visitor for Lister<'_> {
    fn leaf(&mut self, entry: &Entry<'_>) -> Result<(), TreeError> {
        let kind = match entry.kind() {
            FileType::RegularFile => FileKind::File,
            FileType::Symlink => FileKind::Link,
            _ => return Ok(()),
        };
        let size = ByteSize(u64::try_from(entry.stat.st_size).unwrap_or_default());
        self.files.push(ListedFile { path: self.prefix.join(entry.path), kind, size, modified: entry.stat.st_mtime });
        Ok(())
    }

    fn enter(&mut self, _entry: &Entry<'_>) -> Result<bool, TreeError> {
        Ok(true)
    }

    fn leave(&mut self, _entry: &Entry<'_>, _inside: BorrowedFd<'_>) -> Result<(), TreeError> {
        Ok(())
    }
}

/// Something in the store: an artifact, and the path in it.
struct Wanted {
    top: PathBuf,
    rest: PathBuf,
    /// What a copy of it is called.
    name: CString,
}

fn find(manifest: &Manifest, places: &RunPlaces, path: &str) -> Result<Wanted, ArtifactError> {
    let missing = || ArtifactError::NoSuchPath { run: manifest.run.clone(), path: path.to_owned() };
    let wanted = path.parse::<ArtifactPath>().map_err(|_| missing())?.store_path();
    let found = manifest.artifacts.iter().find_map(|artifact| {
        let rest = wanted.strip_prefix(artifact.path.store_path()).ok()?;
        Some((places.in_store(&artifact.path, artifact.mount), rest.to_owned()))
    });
    let (top, rest) = found.ok_or_else(missing)?;
    let name = wanted.file_name().and_then(|name| CString::new(name.as_bytes()).ok()).ok_or_else(missing)?;
    Ok(Wanted { top, rest, name })
}

/// `None` when it is not there.
fn copy_one(wanted: &Wanted, destination: &Path) -> Result<Option<Copied>, ArtifactError> {
    let Some(top) = open_if_there(&wanted.top)? else { return Ok(None) };
    let (target_dir, name) = if destination.is_dir() {
        (destination, wanted.name.clone())
    } else {
        let name = destination.file_name().and_then(|name| CString::new(name.as_bytes()).ok()).unwrap_or_default();
        let parent = destination.parent().filter(|parent| !parent.as_os_str().is_empty());
        (parent.unwrap_or(Path::new(".")), name)
    };
    let target = open_directory(target_dir)?;
    let target_path = target_dir.join(OsStr::from_bytes(name.to_bytes()));
    if rustix::fs::statat(&target, &name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        return Err(ArtifactError::Exists { path: target_path });
    }
    let Some((parent, last)) = wanted.rest.parent().zip(wanted.rest.file_name()) else {
        return copy_directory(top.as_fd(), target.as_fd(), &name, &target_path, Part::Whole).map(Some);
    };
    let parent = match open_below(top.as_fd(), parent) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        parent => parent.map_err(ArtifactError::io("open", &wanted.top))?,
    };
    let source_path = wanted.top.join(&wanted.rest);
    let stat = match rustix::fs::statat(&parent, last, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(None),
        stat => stat.map_err(ArtifactError::io("read", &source_path))?,
    };
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        let from = open_below(parent.as_fd(), Path::new(last)).map_err(ArtifactError::io("open", &source_path))?;
        return copy_directory(from.as_fd(), target.as_fd(), &name, &target_path, Part::Inner).map(Some);
    }
    let last = CString::new(last.as_bytes()).unwrap_or_default();
    let entry = Entry { dir: parent.as_fd(), name: &last, stat: &stat, path: Path::new("") };
    copy_leaf(&entry, target.as_fd(), &name)
        .map_err(ArtifactError::tree(&source_path))
        .map(|tally| Some(copied(&[tally])))
}

/// Whether a directory is an artifact, of which a run that goes on has the top open to all, or one in an artifact.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    Inner,
}

fn copy_directory(
    from: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    name: &CString,
    path: &Path,
    part: Part,
) -> Result<Copied, ArtifactError> {
    let failed = |operation| ArtifactError::io::<Errno>(operation, path);
    rustix::fs::mkdirat(target, name, Mode::from_raw_mode(0o700)).map_err(failed("make"))?;
    let to = open_below(target, Path::new(OsStr::from_bytes(name.to_bytes()))).map_err(failed("open"))?;
    fill(from, to.as_fd(), path, part).map(|tally| copied(&[tally]))
}

/// Copies the content of a directory, and its mode and owner, to one that was made for it.
fn fill(from: BorrowedFd<'_>, to: BorrowedFd<'_>, path: &Path, part: Part) -> Result<Tally, ArtifactError> {
    let stat = rustix::fs::fstat(from).map_err(ArtifactError::io("read", path))?;
    let tally = copy_tree(from, to, None, false).map_err(ArtifactError::tree(path))?;
    copy_metadata(from, to, &stat, None).map_err(ArtifactError::io("set the mode of", path))?;
    if part == Part::Whole {
        close(to).map_err(ArtifactError::io("set the mode of", path))?;
    }
    Ok(tally)
}

fn copy_all(manifest: &Manifest, places: &RunPlaces, destination: &Path) -> Result<Copied, ArtifactError> {
    check_places(manifest)?;
    std::fs::create_dir_all(destination).map_err(ArtifactError::io("make", destination))?;
    let target = open_directory(destination)?;
    let mut sources = Vec::new();
    for artifact in &manifest.artifacts {
        let top = places.in_store(&artifact.path, artifact.mount);
        if let Some(opened) = open_if_there(&top)? {
            sources.push((opened, artifact.path.copy_path()));
        }
    }
    for (source, place) in &sources {
        check_free(source.as_fd(), target.as_fd(), destination, place)?;
    }
    let mut tallies = Vec::new();
    for (source, place) in sources {
        let path = destination.join(place);
        let (to, made) = make_below(target.as_fd(), place).map_err(ArtifactError::io("make", &path))?;
        tallies.push(if made {
            fill(source.as_fd(), to.as_fd(), &path, Part::Whole)?
        } else {
            copy_tree(source.as_fd(), to.as_fd(), None, true).map_err(ArtifactError::tree(&path))?
        });
    }
    Ok(copied(&tallies))
}

/// `models` and `/models` are two artifacts with one place to go to.
fn check_places(manifest: &Manifest) -> Result<(), ArtifactError> {
    let artifacts = &manifest.artifacts;
    for (index, second) in artifacts.iter().enumerate() {
        let (second_place, nested) = (second.path.copy_path(), |place: &Path, other: &Path| {
            place.starts_with(other) || other.starts_with(place)
        });
        if let Some(first) = artifacts[..index].iter().find(|first| nested(first.path.copy_path(), second_place)) {
            return Err(ArtifactError::SamePlace {
                run: manifest.run.clone(),
                first: first.path.to_string(),
                second: second.path.to_string(),
            });
        }
    }
    Ok(())
}

/// Nothing of `source` may be in the way at `place` below the destination.
fn check_free(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    destination: &Path,
    place: &Path,
) -> Result<(), ArtifactError> {
    let path = destination.join(place);
    let to = match open_below(target, place) {
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return Err(ArtifactError::Exists { path }),
        to => to.map_err(ArtifactError::io("open", &path))?,
    };
    match first_conflict(source, to.as_fd()).map_err(ArtifactError::tree(&path))? {
        Some(name) => Err(ArtifactError::Exists { path: path.join(name) }),
        None => Ok(()),
    }
}

/// Opens the directory at a relative path, making what is missing; whether the last one was made.
fn make_below(top: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<(OwnedFd, bool)> {
    let mut current = open_below(top, Path::new(""))?;
    let mut made = false;
    for component in path.components() {
        made = match rustix::fs::mkdirat(&current, component.as_os_str(), Mode::from_raw_mode(0o755)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(errno),
        };
        current = open_below(current.as_fd(), Path::new(component.as_os_str()))?;
    }
    Ok((current, made))
}

fn open_if_there(path: &Path) -> Result<Option<OwnedFd>, ArtifactError> {
    match open_top(path) {
        Err(Errno::NOENT) => Ok(None),
        opened => opened.map(Some).map_err(ArtifactError::io("open", path)),
    }
}

/// A directory that the user named, through whatever links he has there.
fn open_directory(path: &Path) -> Result<OwnedFd, ArtifactError> {
    use rustix::fs::OFlags;

    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(ArtifactError::io("open", path))
}

fn copied(tallies: &[Tally]) -> Copied {
    let files = tallies.iter().map(|tally| tally.files).sum();
    Copied { files, bytes: ByteSize(tallies.iter().map(|tally| tally.bytes).sum()) }
}
