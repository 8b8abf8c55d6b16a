//! Copying a tree: content with its holes, modes, owners, times, links, extended attributes.
//!
//! What is never copied: devices, sockets and FIFOs, setuid and setgid bits, and attributes that give power
//! (`security.*`, `trusted.*`). Nothing that exists is replaced, and the destination is no more trusted than the source:
//! every file is made with `O_EXCL`, and from then on known by its descriptor.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, SeekFrom, Stat, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use super::settle::{Owner, Tally, new_owner, open_file, permitted};
use super::tree::{Cursor, Entry, Identity, TreeError, Visitor, identity, walk};

/// Bytes that are read and written at once where the kernel cannot copy by itself.
const BUFFER_BYTES: usize = 256 * 1024;
/// Largest attribute value (`XATTR_SIZE_MAX`) and list of names (`XATTR_LIST_MAX`).
pub(super) const MAX_ATTRIBUTE_BYTES: usize = 65536;

/// How file content gets from one file to another; each falls back to the next where the file system cannot do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// Shares the blocks (`FICLONE`).
    Reflink,
    /// The kernel copies (`copy_file_range`).
    Kernel,
    /// Through a buffer of ours.
    Buffer,
}

/// Copies what is below `from` into `to`, both open directories. With `merge`, directories that exist are filled.
pub(super) fn copy_tree(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    owner: Option<Owner>,
    merge: bool,
) -> Result<Tally, TreeError> {
    let mut copier = Copier::new(to, owner, merge)?;
    walk(from, &mut copier)?;
    Ok(copier.tally)
}

/// Copies one file or link that stands alone.
pub(super) fn copy_leaf(entry: &Entry<'_>, to: BorrowedFd<'_>, name: &CStr) -> Result<Tally, TreeError> {
    let mut copier = Copier::new(to, None, false)?;
    copier.copy_as(entry, name)?;
    Ok(copier.tally)
}

/// Gives a directory that was made here the mode, owner, times and attributes of another. Whether any attribute was lost.
pub(super) fn copy_metadata(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    stat: &Stat,
    owner: Option<Owner>,
) -> rustix::io::Result<bool> {
    let lost = copy_attributes(from, to)?;
    let (uid, gid) = new_owner(stat, owner);
    permitted(rustix::fs::fchown(to, uid, gid))?;
    let kept = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory { 0o3777 } else { 0o1777 };
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & kept))?;
    rustix::fs::futimens(to, &times(stat))?;
    Ok(lost)
}

struct Copier<'a> {
    target: Cursor,
    top: BorrowedFd<'a>,
    owner: Option<Owner>,
    merge: bool,
    method: Method,
    /// Where the first name of a file with several went, and which file that is.
    linked: HashMap<Identity, (PathBuf, Identity)>,
    /// For each open directory of the destination, whether it was made here.
    made: Vec<bool>,
    tally: Tally,
}

impl Visitor for Copier<'_> {
    fn leaf(&mut self, entry: &Entry<'_>) -> Result<(), TreeError> {
        self.copy_as(entry, entry.name)
    }

    fn enter(&mut self, entry: &Entry<'_>) -> Result<bool, TreeError> {
        self.tally.entries += 1;
        let made = match rustix::fs::mkdirat(self.target.dir(), entry.name, Mode::from_raw_mode(0o700)) {
            Ok(()) => true,
            Err(Errno::EXIST) if self.merge => false,
            Err(errno) => return Err(TreeError::at("make", entry.path)(errno)),
        };
        self.target.down(entry.name).map_err(TreeError::at("open the copy of", entry.path))?;
        self.made.push(made);
        Ok(true)
    }

    fn leave(&mut self, entry: &Entry<'_>, inside: BorrowedFd<'_>) -> Result<(), TreeError> {
        if self.made.pop() == Some(true) {
            let copied = copy_metadata(inside, self.target.dir(), entry.stat, self.owner);
            self.tally.lost_attributes += u64::from(copied.map_err(TreeError::at("set the mode of", entry.path))?);
        }
        self.target.up().map_err(TreeError::at("leave the copy of", entry.path))
    }
}

impl<'a> Copier<'a> {
    fn new(top: BorrowedFd<'a>, owner: Option<Owner>, merge: bool) -> Result<Self, TreeError> {
        let (target, linked) = (Cursor::new(top)?, HashMap::new());
        Ok(Self {
            target,
            top,
            owner,
            merge,
            method: Method::Reflink,
            linked,
            made: Vec::new(),
            tally: Tally::default(),
        })
    }

    fn copy_as(&mut self, entry: &Entry<'_>, name: &CStr) -> Result<(), TreeError> {
        self.tally.entries += 1;
        match entry.kind() {
            FileType::RegularFile => self.file(entry, name),
            FileType::Symlink => self.link(entry, name).map_err(TreeError::at("copy the link", entry.path)),
            other => {
                self.tally.skip(entry.path, other);
                Ok(())
            }
        }
    }

    fn file(&mut self, entry: &Entry<'_>, name: &CStr) -> Result<(), TreeError> {
        self.tally.files += 1;
        let several = entry.stat.st_nlink > 1;
        if several && self.link_to_first(entry, name) {
            return Ok(());
        }
        let from = open_file(entry).map_err(TreeError::at("open", entry.path))?;
        let stat = rustix::fs::fstat(&from).map_err(TreeError::at("read", entry.path))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let to = rustix::fs::openat(self.target.dir(), name, flags, Mode::from_raw_mode(0o600))
            .map_err(TreeError::at("make", entry.path))?;
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        self.method =
            copy_content(from.as_fd(), to.as_fd(), size, self.method).map_err(TreeError::at("copy", entry.path))?;
        let lost = copy_metadata(from.as_fd(), to.as_fd(), &stat, self.owner)
            .map_err(TreeError::at("set the mode of", entry.path))?;
        self.tally.lost_attributes += u64::from(lost);
        self.tally.privileged += u64::from(stat.st_mode & 0o6000 != 0);
        self.tally.bytes += size;
        if several {
            let copy = rustix::fs::fstat(&to).map_err(TreeError::at("read", entry.path))?;
            self.linked.insert(identity(&stat), (entry.path.to_owned(), identity(&copy)));
        }
        Ok(())
    }

    /// Makes another name of a file that was copied already. Where it cannot be, the file is copied once more.
    fn link_to_first(&self, entry: &Entry<'_>, name: &CStr) -> bool {
        let Some((path, expected)) = self.linked.get(&identity(entry.stat)) else { return false };
        let link = || {
            let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let first = rustix::fs::openat2(self.top, path, flags, Mode::empty(), inside)?;
            if identity(&rustix::fs::fstat(&first)?) != *expected {
                return Err(Errno::STALE);
            }
            let by_descriptor = proc_path(first.as_fd());
            rustix::fs::linkat(rustix::fs::CWD, by_descriptor, self.target.dir(), name, AtFlags::SYMLINK_FOLLOW)
        };
        link().is_ok()
    }

    fn link(&mut self, entry: &Entry<'_>, name: &CStr) -> rustix::io::Result<()> {
        self.tally.files += 1;
        let to = rustix::fs::readlinkat(entry.dir, entry.name, Vec::new())?;
        rustix::fs::symlinkat(to, self.target.dir(), name)?;
        // The link is known by a descriptor before its owner changes: its name might be given to another file by then.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(self.target.dir(), name, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&made)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink || stat.st_nlink != 1 {
            return Err(Errno::STALE);
        }
        let (uid, gid) = new_owner(entry.stat, self.owner);
        permitted(rustix::fs::chownat(&made, c"", uid, gid, AtFlags::EMPTY_PATH))?;
        rustix::fs::utimensat(self.target.dir(), name, &times(entry.stat), AtFlags::SYMLINK_NOFOLLOW)
    }
}

/// Tells which names of a destination would be in the way of a copy.
pub(super) fn first_conflict(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<Option<PathBuf>, TreeError> {
    let mut check = ConflictCheck { target: Cursor::new(to)?, found: None };
    walk(from, &mut check)?;
    Ok(check.found)
}

struct ConflictCheck {
    target: Cursor,
    found: Option<PathBuf>,
}

impl Visitor for ConflictCheck {
    fn leaf(&mut self, entry: &Entry<'_>) -> Result<(), TreeError> {
        match rustix::fs::statat(self.target.dir(), entry.name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(()),
            Ok(_) => {
                self.found.get_or_insert_with(|| entry.path.to_owned());
                Ok(())
            }
            Err(errno) => Err(TreeError::at("read", entry.path)(errno)),
        }
    }

    fn enter(&mut self, entry: &Entry<'_>) -> Result<bool, TreeError> {
        match self.target.down(entry.name) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                self.found.get_or_insert_with(|| entry.path.to_owned());
                Ok(false)
            }
            Err(errno) => Err(TreeError::at("open", entry.path)(errno)),
        }
    }

    fn leave(&mut self, entry: &Entry<'_>, _inside: BorrowedFd<'_>) -> Result<(), TreeError> {
        self.target.up().map_err(TreeError::at("leave", entry.path))
    }
}

/// Copies `size` bytes; holes stay holes. Gives back the method that worked, to start with for the next file.
pub(super) fn copy_content(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    size: u64,
    method: Method,
) -> rustix::io::Result<Method> {
    if size == 0 {
        return Ok(method);
    }
    if method == Method::Reflink && rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(Method::Reflink);
    }
    let mut method = if method == Method::Reflink { Method::Kernel } else { method };
    let mut position = 0;
    while let Some((start, end)) = next_data(from, position, size)? {
        if method == Method::Kernel && !copy_in_kernel(from, to, start, end)? {
            method = Method::Buffer;
        }
        if method == Method::Buffer {
            copy_by_buffer(from, to, start, end)?;
        }
        position = end;
    }
    rustix::fs::ftruncate(to, size)?;
    Ok(method)
}

/// The next range at or after `position` that holds data; all the rest where the file system does not know.
fn next_data(file: BorrowedFd<'_>, position: u64, size: u64) -> rustix::io::Result<Option<(u64, u64)>> {
    if position >= size {
        return Ok(None);
    }
    let start = match rustix::fs::seek(file, SeekFrom::Data(position)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL) => return Ok(Some((position, size))),
        Err(errno) => return Err(errno),
    };
    let end = match rustix::fs::seek(file, SeekFrom::Hole(start)) {
        Ok(end) => end,
        // The file has become shorter.
        Err(Errno::NXIO) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    Ok((start < size).then_some((start, end.min(size))))
}

/// `false` when these two files cannot be copied so; nothing that was written then matters, as all is written again.
fn copy_in_kernel(from: BorrowedFd<'_>, to: BorrowedFd<'_>, start: u64, end: u64) -> rustix::io::Result<bool> {
    let (mut from_offset, mut to_offset) = (start, start);
    while from_offset < end {
        let length = usize::try_from(end - from_offset).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(from, Some(&mut from_offset), to, Some(&mut to_offset), length) {
            // Some file systems answer 0 for what they cannot do.
            Ok(0) => return Ok(false),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM | Errno::IO) => {
                return Ok(false);
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(true)
}

fn copy_by_buffer(from: BorrowedFd<'_>, to: BorrowedFd<'_>, start: u64, end: u64) -> rustix::io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut offset = start;
    while offset < end {
        let want = usize::try_from(end - offset).unwrap_or(usize::MAX).min(BUFFER_BYTES);
        let count = match rustix::io::pread(from, &mut buffer[..want], offset) {
            // The file has become shorter: the rest is a hole.
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno),
        };
        let mut written = 0;
        while written < count {
            match rustix::io::pwrite(to, &buffer[written..count], offset + written as u64) {
                Ok(more) => written += more,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        offset += count as u64;
    }
    Ok(())
}

/// Copies the attributes that users and access control lists have. Whether the destination could not take one.
fn copy_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    if rustix::fs::flistxattr_query(from).unwrap_or(0) == 0 {
        return Ok(false);
    }
    let mut buffer = vec![0; MAX_ATTRIBUTE_BYTES];
    let length = rustix::fs::flistxattr(from, &mut buffer[..])?;
    let names: Vec<CString> = buffer[..length]
        .split_inclusive(|b| *b == 0)
        .filter_map(|name| CString::from_vec_with_nul(name.to_vec()).ok())
        .collect();
    let mut lost = false;
    for name in names.iter().filter(|name| may_keep(name.to_bytes())) {
        let length = match rustix::fs::fgetxattr(from, name, &mut buffer[..]) {
            Ok(length) => length,
            Err(Errno::NODATA) => continue,
            Err(errno) => return Err(errno),
        };
        match rustix::fs::fsetxattr(to, name, &buffer[..length], XattrFlags::empty()) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP | Errno::PERM) => lost = true,
            Err(errno) => return Err(errno),
        }
    }
    Ok(lost)
}

pub(super) fn may_keep(name: &[u8]) -> bool {
    name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_")
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let nanoseconds = |value| i64::try_from(value).unwrap_or_default();
    Timestamps {
        last_access: time(stat.st_atime, nanoseconds(stat.st_atime_nsec)),
        last_modification: time(stat.st_mtime, nanoseconds(stat.st_mtime_nsec)),
    }
}

pub(super) fn proc_path(file: BorrowedFd<'_>) -> PathBuf {
    use std::os::fd::AsRawFd;
    Path::new("/proc/self/fd").join(file.as_raw_fd().to_string())
}
