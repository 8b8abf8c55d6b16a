//! Downloading a run into a directory that is laid out as a local artifact store, verified and with all its metadata.
//!
//! A bucket is no more trusted than a container: no path leads out of the destination, every file is made new and known by
//! its descriptor, setuid and setgid bits are not taken over, and content must have the sha256 that the index says.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use futures_util::{StreamExt, TryStreamExt, stream};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::client::Client;
use super::entry::{Entry, EntryKind, decode, hex};
use super::error::RemoteError;
use super::transfer::FILES_AT_ONCE;
use crate::artifact::error::ArtifactError;
use crate::artifact::settle::permitted;
use crate::artifact::tree::{open_below, open_top};

/// A file, link or directory, and where it goes below the destination.
pub(super) type Wanted = (PathBuf, Entry);

/// Whether content must be what the index says: of a run that goes on it may have been replaced since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    Strict,
    Changing,
}

/// Downloads `wanted` (parents before what is in them) into the existing directory `top`.
pub(super) async fn fetch(
    client: &Client,
    run_key: &str,
    wanted: &[Wanted],
    top_path: &Path,
    check: Check,
) -> Result<(), ArtifactError> {
    let top = open_top(top_path).map_err(ArtifactError::io("open", top_path))?;
    for (path, _) in of_kind(wanted, EntryKind::Directory) {
        make_directories(top.as_fd(), path).map_err(ArtifactError::io("make", &top_path.join(path)))?;
    }
    let mut firsts: HashMap<&str, &Path> = HashMap::new();
    let mut others = Vec::new();
    let mut files = Vec::new();
    for (path, entry) in of_kind(wanted, EntryKind::File) {
        match firsts.get(entry.object()) {
            Some(first) => others.push((*first, path)),
            None => {
                firsts.insert(entry.object(), path);
                files.push((path, entry));
            }
        }
    }
    let fetching = files.into_iter().map(|(path, entry)| fetch_file(client, run_key, &top, (path, entry), check));
    stream::iter(fetching).buffer_unordered(FILES_AT_ONCE).try_for_each(|()| async { Ok(()) }).await?;
    for (first, path) in others {
        link(top.as_fd(), first, path).map_err(ArtifactError::io("link", &top_path.join(path)))?;
    }
    for (path, entry) in of_kind(wanted, EntryKind::Link) {
        make_link(top.as_fd(), path, entry).map_err(ArtifactError::io("make the link", &top_path.join(path)))?;
    }
    // A directory's time changes with what is put into it.
    for (path, entry) in of_kind(wanted, EntryKind::Directory).rev() {
        let settle = || set_metadata(open_below(top.as_fd(), path)?.as_fd(), entry);
        settle().map_err(ArtifactError::io("set the mode of", &top_path.join(path)))?;
    }
    Ok(())
}

fn of_kind(wanted: &[Wanted], kind: EntryKind) -> impl DoubleEndedIterator<Item = (&Path, &Entry)> {
    wanted.iter().filter(move |(_, entry)| entry.kind == kind).map(|(path, entry)| (path.as_path(), entry))
}

async fn fetch_file(
    client: &Client,
    run_key: &str,
    top: &OwnedFd,
    (path, entry): (&Path, &Entry),
    check: Check,
) -> Result<(), ArtifactError> {
    let key = format!("{run_key}/{}", entry.object());
    let start = || Ok((create(top.as_fd(), path)?, Sha256::new(), 0));
    let written = client.stream(&key, start, |(file, hasher, size), piece: &[u8]| {
        hasher.update(piece);
        *size += piece.len() as u64;
        file.write_all(piece)
    });
    let failed = ArtifactError::io::<io::Error>("write", path);
    let (file, hasher, size) = written.await?.map_err(failed)?;
    let sha256 = hex(&hasher.finalize());
    if check == Check::Strict && (size != entry.size || entry.sha256.as_ref() != Some(&sha256)) {
        let expected = entry.sha256.as_deref().unwrap_or("none");
        let why = format!(
            "expected {} bytes with the sha256 `{}`, found {size} with `{sha256}`",
            entry.size,
            expected.escape_debug()
        );
        return Err(RemoteError::Damaged { object: client.shown(&key), why }.into());
    }
    set_metadata(file.as_fd(), entry).map_err(ArtifactError::io("set the mode of", path))
}

/// Makes a file that is not there; what an attempt before this one has left is removed.
fn create(top: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<File> {
    let (parent, name) = parent_of(top, path)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let create = || rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o600));
    match create() {
        Err(Errno::EXIST) => {
            rustix::fs::unlinkat(&parent, name, AtFlags::empty())?;
            create().map(File::from)
        }
        created => created.map(File::from),
    }
}

fn parent_of<'a>(top: BorrowedFd<'_>, path: &'a Path) -> rustix::io::Result<(OwnedFd, &'a OsStr)> {
    let name = path.file_name().ok_or(Errno::INVAL)?;
    Ok((open_below(top, path.parent().unwrap_or(Path::new("")))?, name))
}

/// Makes a directory and those above it, none through a link.
pub(super) fn make_directories(top: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<()> {
    let mut current = open_below(top, Path::new(""))?;
    for part in path.components() {
        match rustix::fs::mkdirat(&current, part.as_os_str(), Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        current = open_below(current.as_fd(), Path::new(part.as_os_str()))?;
    }
    Ok(())
}

fn link(top: BorrowedFd<'_>, first: &Path, path: &Path) -> rustix::io::Result<()> {
    let ((from, from_name), (to, to_name)) = (parent_of(top, first)?, parent_of(top, path)?);
    rustix::fs::linkat(&from, from_name, &to, to_name, AtFlags::empty())
}

fn make_link(top: BorrowedFd<'_>, path: &Path, entry: &Entry) -> rustix::io::Result<()> {
    let target = entry.target.as_deref().and_then(decode).ok_or(Errno::INVAL)?;
    let (parent, name) = parent_of(top, path)?;
    rustix::fs::symlinkat(&*target, &parent, name)?;
    let made = rustix::fs::openat(&parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&made)?.st_mode) != FileType::Symlink {
        return Err(Errno::STALE);
    }
    let (uid, gid) = ids(entry);
    permitted(rustix::fs::chownat(&made, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH))?;
    rustix::fs::utimensat(&parent, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)
}

fn set_metadata(file: BorrowedFd<'_>, entry: &Entry) -> rustix::io::Result<()> {
    let (uid, gid) = ids(entry);
    permitted(rustix::fs::fchown(file, Some(uid), Some(gid)))?;
    let kept = if entry.kind == EntryKind::Directory { 0o3777 } else { 0o1777 };
    rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode & kept))?;
    rustix::fs::futimens(file, &times(entry))
}

fn ids(entry: &Entry) -> (Uid, Gid) {
    (Uid::from_raw_unchecked(entry.uid), Gid::from_raw_unchecked(entry.gid))
}

fn times(entry: &Entry) -> Timestamps {
    let time = Timespec { tv_sec: entry.mtime, tv_nsec: i64::from(entry.mtime_ns.min(999_999_999)) };
    Timestamps { last_access: time, last_modification: time }
}
