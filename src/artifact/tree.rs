//! Walking a tree that somebody hostile wrote.
//!
//! The containers' files are walked by descriptors only: each step opens one name in one open directory, never through a
//! link, and the way up is checked to lead back to the directory that the walk came from. One directory is open at a
//! time, so that neither the depth of a tree nor the length of its paths is bounded by ours.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// A step that failed: what was done, to which entry of the tree.
#[derive(Debug)]
pub(super) struct TreeError {
    pub(super) operation: &'static str,
    /// Relative to the top of the tree; empty for the top itself.
    pub(super) path: PathBuf,
    pub(super) source: io::Error,
}

impl TreeError {
    /// For `map_err`.
    pub(super) fn at(operation: &'static str, path: &Path) -> impl FnOnce(Errno) -> Self {
        move |errno| Self { operation, path: path.to_owned(), source: errno.into() }
    }
}

/// One entry on the way.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    /// The directory it is in.
    pub(super) dir: BorrowedFd<'a>,
    /// Its name there.
    pub(super) name: &'a CStr,
    /// What it is; of a link, the link itself.
    pub(super) stat: &'a Stat,
    /// Its path relative to the top, for messages.
    pub(super) path: &'a Path,
}

impl Entry<'_> {
    pub(super) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }
}

/// What is done on a walk.
pub(super) trait Visitor {
    /// Anything but a directory.
    fn leaf(&mut self, entry: &Entry<'_>) -> Result<(), TreeError>;

    /// A directory, before what is in it; `false` passes over what is in it.
    fn enter(&mut self, entry: &Entry<'_>) -> Result<bool, TreeError>;

    /// A directory that was entered, after what is in it; `inside` is the directory itself.
    fn leave(&mut self, entry: &Entry<'_>, inside: BorrowedFd<'_>) -> Result<(), TreeError>;

    /// Whether somebody may be writing: what goes while it is looked at is then passed over.
    fn is_live(&self) -> bool {
        false
    }
}

/// What tells two files apart.
pub(super) type Identity = (u64, u64);

pub(super) const fn identity(stat: &Stat) -> Identity {
    (stat.st_dev, stat.st_ino)
}

struct Level {
    identity: Identity,
    name: CString,
    stat: Stat,
    /// Directories in it that are still to be entered.
    pending: Vec<(CString, Stat)>,
}

/// Visits all that is below `top`, and not `top` itself. Of each directory the files come first.
pub(super) fn walk(top: BorrowedFd<'_>, visitor: &mut dyn Visitor) -> Result<(), TreeError> {
    let mut path = PathBuf::new();
    let stat = rustix::fs::fstat(top).map_err(TreeError::at("read", &path))?;
    let mut current = open_dir(top, c".", identity(&stat)).map_err(TreeError::at("open", &path))?;
    let pending = visit_leaves(current.as_fd(), &mut path, visitor)?;
    let mut levels = vec![Level { identity: identity(&stat), name: CString::default(), stat, pending }];
    while let Some(level) = levels.last_mut() {
        if let Some((name, stat)) = level.pending.pop() {
            path.push(OsStr::from_bytes(name.to_bytes()));
            if !visitor.enter(&Entry { dir: current.as_fd(), name: &name, stat: &stat, path: &path })? {
                path.pop();
                continue;
            }
            current = match open_dir(current.as_fd(), &name, identity(&stat)) {
                Err(Errno::NOENT | Errno::STALE | Errno::NOTDIR | Errno::LOOP) if visitor.is_live() => {
                    path.pop();
                    continue;
                }
                opened => opened.map_err(TreeError::at("open", &path))?,
            };
            let pending = visit_leaves(current.as_fd(), &mut path, visitor)?;
            levels.push(Level { identity: identity(&stat), name, stat, pending });
        } else {
            let done = levels.pop();
            let (Some(done), Some(above)) = (done, levels.last()) else { break };
            let parent = open_dir(current.as_fd(), c"..", above.identity).map_err(TreeError::at("leave", &path))?;
            let entry = Entry { dir: parent.as_fd(), name: &done.name, stat: &done.stat, path: &path };
            visitor.leave(&entry, current.as_fd())?;
            current = parent;
            path.pop();
        }
    }
    Ok(())
}

/// Visits what is no directory; gives the directories back.
fn visit_leaves(
    dir: BorrowedFd<'_>,
    path: &mut PathBuf,
    visitor: &mut dyn Visitor,
) -> Result<Vec<(CString, Stat)>, TreeError> {
    let mut directories = Vec::new();
    // All names first: a visitor may remove what it sees.
    for name in names(dir).map_err(TreeError::at("list", path))? {
        path.push(OsStr::from_bytes(name.to_bytes()));
        let stat = match rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) if visitor.is_live() => {
                path.pop();
                continue;
            }
            stat => stat.map_err(TreeError::at("read", path))?,
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            directories.push((name, stat));
        } else {
            visitor.leaf(&Entry { dir, name: &name, stat: &stat, path })?;
        }
        path.pop();
    }
    Ok(directories)
}

fn names(dir: BorrowedFd<'_>) -> rustix::io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

/// Opens a directory that must be the expected one.
fn open_dir(dir: BorrowedFd<'_>, name: &CStr, expected: Identity) -> rustix::io::Result<OwnedFd> {
    let opened = rustix::fs::openat(dir, name, DIRECTORY, Mode::empty())?;
    if identity(&rustix::fs::fstat(&opened)?) == expected { Ok(opened) } else { Err(Errno::STALE) }
}

/// Opens a directory by a path of ours, the last component not through a link.
pub(super) fn open_top(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, DIRECTORY, Mode::empty())
}

/// Opens the directory at a relative path below `top`, no component through a link.
pub(super) fn open_below(top: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    let mut current = rustix::fs::openat(top, c".", DIRECTORY, Mode::empty())?;
    for component in path.components() {
        current = rustix::fs::openat(&current, component.as_os_str(), DIRECTORY, Mode::empty())?;
    }
    Ok(current)
}

/// Where a walk's copy goes: moves through the destination as the walk moves through the source.
pub(super) struct Cursor {
    current: OwnedFd,
    above: Vec<Identity>,
}

impl Cursor {
    pub(super) fn new(top: BorrowedFd<'_>) -> Result<Self, TreeError> {
        let current = open_below(top, Path::new("")).map_err(TreeError::at("open", Path::new("")))?;
        Ok(Self { current, above: Vec::new() })
    }

    pub(super) fn dir(&self) -> BorrowedFd<'_> {
        self.current.as_fd()
    }

    pub(super) fn down(&mut self, name: &CStr) -> rustix::io::Result<()> {
        let here = identity(&rustix::fs::fstat(&self.current)?);
        self.current = rustix::fs::openat(&self.current, name, DIRECTORY, Mode::empty())?;
        self.above.push(here);
        Ok(())
    }

    pub(super) fn up(&mut self) -> rustix::io::Result<()> {
        let Some(expected) = self.above.pop() else { return Err(Errno::INVAL) };
        self.current = open_dir(self.current.as_fd(), c"..", expected)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_was_exchanged_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::create_dir_all(dir.path().join("other")).unwrap();
        let top = open_top(dir.path()).unwrap();
        let mut cursor = Cursor::new(top.as_fd()).unwrap();
        cursor.down(c"a").unwrap();
        cursor.down(c"b").unwrap();
        // Somebody moves the directory that the cursor is in: the way up leads elsewhere.
        std::fs::rename(dir.path().join("a/b"), dir.path().join("other/b")).unwrap();
        assert_eq!(cursor.up(), Err(Errno::STALE));
        std::os::unix::fs::symlink("other", dir.path().join("link")).unwrap();
        assert!(open_below(top.as_fd(), Path::new("link/b")).is_err());
        assert!(open_below(top.as_fd(), Path::new("other/b")).is_ok());
        assert_eq!(open_top(&dir.path().join("link")).unwrap_err(), Errno::NOTDIR);
    }
}
