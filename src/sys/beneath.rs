//! Directories held open, and everything that is done in them, one name at a time.
//!
//! Whoever chose the names may be hostile, so nothing here follows a link and nothing leaves a directory: a name is one
//! component, made and looked at by `*at` calls with `O_EXCL` and `O_NOFOLLOW`; a path of several components is opened with
//! openat2(2) and `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV`. Links are read and
//! followed by the caller, who knows what their root is.
//!
//! The exceptions are [`Dir::open_in_root`] and [`Dir::open_file_in_root`], for ways through a container that its own processes would take; the kernel keeps
//! it inside. A [`Dir`] that was asked for [`Dir::across_mounts`] enters what is mounted below it, with `RESOLVE_NO_XDEV` left out.
//!
//! Some calls exist only for paths (`chmod`, `*xattr` on links and devices). They go through `/proc/self/fd/N/name`: the
//! kernel takes the open directory from the descriptor and treats the last component as `l*` calls do.

mod in_root;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};

use super::space::kind_number;

/// Largest list of attribute names and largest attribute value that the kernel hands out (xattr(7)).
const MAX_XATTR_BYTES: usize = 64 << 10;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device with its number.
    CharDevice(u64),
    /// A block device with its number.
    BlockDevice(u64),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl FileKind {
    /// The kind in words, with an article.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Regular => "a regular file",
            Self::Directory => "a directory",
            Self::Symlink => "a symbolic link",
            Self::CharDevice(_) => "a character device",
            Self::BlockDevice(_) => "a block device",
            Self::Fifo => "a named pipe",
            Self::Socket => "a socket",
        }
    }
}

/// A moment of a file system: seconds since 1970, which may be negative, and nanoseconds below 10⁹.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Time {
    /// Whole seconds, rounded down.
    pub seconds: i64,
    /// The rest.
    pub nanoseconds: u32,
}

/// What the file system knows about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// What it is.
    pub kind: FileKind,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits with set-user-ID, set-group-ID and sticky bit.
    pub mode: u32,
    /// When the content changed.
    pub modified: Time,
    /// Bytes of content.
    pub size: u64,
    /// Names of the file.
    pub links: u64,
    /// Device and inode.
    pub identity: (u64, u64),
}

/// A whiteout of overlayfs: a character device 0:0.
pub const WHITEOUT: FileKind = FileKind::CharDevice(0);
/// A whiteout on file systems that refuse overlayfs' own, as overlays do: another device that cannot be, 0:255, since no
/// driver has the number 0.
pub const PLAIN_WHITEOUT: FileKind = FileKind::CharDevice(255);

impl Metadata {
    /// A whiteout of overlayfs (kernel, `filesystems/overlayfs.rst`), or what stands for one where those cannot be made.
    #[must_use]
    pub fn is_whiteout(&self) -> bool {
        self.kind == WHITEOUT || self.kind == PLAIN_WHITEOUT
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }

    fn from_stat(stat: &Stat) -> io::Result<Self> {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => FileKind::Regular,
            FileType::Directory => FileKind::Directory,
            FileType::Symlink => FileKind::Symlink,
            FileType::CharacterDevice => FileKind::CharDevice(stat.st_rdev),
            FileType::BlockDevice => FileKind::BlockDevice(stat.st_rdev),
            FileType::Fifo => FileKind::Fifo,
            FileType::Socket => FileKind::Socket,
            FileType::Unknown => return Err(io::Error::other("a file of unknown type")),
        };
        Ok(Self {
            kind,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode & 0o7777,
            modified: Time { seconds: stat.st_mtime, nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) },
            size: u64::try_from(stat.st_size).unwrap_or(0),
            links: link_count(stat),
            identity: (stat.st_dev, stat.st_ino),
        })
    }
}

#[allow(clippy::useless_conversion, reason = "the width of the field differs between architectures")]
fn link_count(stat: &Stat) -> u64 {
    u64::from(stat.st_nlink)
}

/// An open directory.
#[derive(Debug)]
pub struct Dir(OwnedFd, ResolveFlags);

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Dir {
    /// Opens a directory of ours by its path, links and all.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(rustix::fs::open(path, DIRECTORY, Mode::empty())?, BENEATH))
    }

    /// A second handle on the same directory.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self(self.0.try_clone()?, self.1))
    }

    /// Opens a directory further down. No link is followed on the way: `ELOOP` or `ENOTDIR` where one stands.
    pub fn open_dir(&self, path: &OsStr) -> io::Result<Self> {
        if path.is_empty() {
            return self.try_clone();
        }
        let flags = DIRECTORY.union(OFlags::NOFOLLOW);
        Ok(Self(rustix::fs::openat2(&self.0, path, flags, Mode::empty(), self.1)?, self.1))
    }

    /// Opens a regular file for reading; `None` for anything else. A FIFO or a device is not even opened.
    pub fn open_file(&self, name: &OsStr) -> io::Result<Option<File>> {
        if self.stat(name)?.is_none_or(|found| found.kind != FileKind::Regular) {
            return Ok(None);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat2(&self.0, name, flags, Mode::empty(), self.1)?);
        Ok(file.metadata()?.is_file().then_some(file))
    }

    /// Whether the directory is of a file system that the kernel makes up, in which reading may block, or do something.
    pub fn is_made_up(&self) -> io::Result<bool> {
        // linux/magic.h.
        const MADE_UP: [u32; 16] = [
            0x9fa0,
            0x6265_6572,
            0x0027_e0eb,
            0x6367_7270,
            0x6462_6720,
            0x7472_6163,
            0x7363_6673,
            0x1cd1,
            0x1980_0202,
            0xcafe_4a11,
            0x6265_6570,
            0x6165_676c,
            0xde5e_81e4,
            0x4249_4e4d,
            0x6573_5543,
            0x6e73_6673,
        ];
        Ok(MADE_UP.contains(&kind_number(&rustix::fs::fstatfs(&self.0)?)))
    }

    /// Whether something is mounted upon `name`.
    pub fn is_mount_point(&self, name: &OsStr) -> io::Result<bool> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat2(&self.0, component(name)?, flags, Mode::empty(), BENEATH) {
            Ok(_) | Err(rustix::io::Errno::LOOP) => Ok(false),
            Err(rustix::io::Errno::XDEV) => Ok(true),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Makes a file without a name: if nobody calls [`Dir::link_file`], it goes when it is closed.
    pub fn create_unnamed(&self, mode: u32) -> io::Result<File> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(&self.0, c".", flags, Mode::from_raw_mode(mode))?))
    }

    /// Gives an open file a name that is free.
    pub fn link_file(&self, name: &OsStr, file: &File) -> io::Result<()> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let to = component(name)?;
        Ok(rustix::fs::linkat(rustix::fs::CWD, path, &self.0, to, AtFlags::SYMLINK_FOLLOW)?)
    }

    /// Opens a regular file to write it anew where it stands, emptied.
    pub fn open_emptied(&self, name: &OsStr) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat2(&self.0, component(name)?, flags, Mode::empty(), self.1)?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        rustix::fs::ftruncate(&file, 0)?;
        Ok(file)
    }

    /// Gives what stands under `from` the name `to`, in place of what has it.
    pub fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.0, component(from)?, &self.0, component(to)?)?)
    }

    /// What stands under `name`; a link is not followed. `None` when nothing does.
    pub fn stat(&self, name: &OsStr) -> io::Result<Option<Metadata>> {
        match rustix::fs::statat(&self.0, component(name)?, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Metadata::from_stat(&stat).map(Some),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// What the directory itself is like.
    pub fn metadata(&self) -> io::Result<Metadata> {
        Metadata::from_stat(&rustix::fs::fstat(&self.0)?)
    }

    /// Where the link `name` points to.
    pub fn read_link(&self, name: &OsStr) -> io::Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(&self.0, component(name)?, Vec::new())?.into_bytes())
    }

    /// The names in the directory, in no order, without `.` and `..`.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.0)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
        }
        Ok(names)
    }

    /// Makes a directory. `mode` is cut by the umask.
    pub fn make_dir(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(&self.0, component(name)?, Mode::from_raw_mode(mode))?)
    }

    /// Makes a regular file that was not there. `mode` is cut by the umask.
    pub fn create_file(&self, name: &OsStr, mode: u32) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(&self.0, component(name)?, flags, Mode::from_raw_mode(mode))?))
    }

    /// Makes a symbolic link.
    pub fn make_symlink(&self, name: &OsStr, target: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(target, &self.0, component(name)?)?)
    }

    /// Makes a device, a FIFO or a socket. `mode` is cut by the umask.
    pub fn make_node(&self, name: &OsStr, kind: FileKind, mode: u32) -> io::Result<()> {
        let (kind, device) = match kind {
            FileKind::CharDevice(device) => (FileType::CharacterDevice, device),
            FileKind::BlockDevice(device) => (FileType::BlockDevice, device),
            FileKind::Fifo => (FileType::Fifo, 0),
            FileKind::Socket => (FileType::Socket, 0),
            FileKind::Regular | FileKind::Directory | FileKind::Symlink => {
                return Err(io::ErrorKind::InvalidInput.into());
            }
        };
        // The system call takes 32 bits of it and drops the others: 4096:0 would become 0:0, a whiteout.
        if u32::try_from(device).is_err() {
            let words = "the device's number is out of range, expected at most 4095:1048575";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, words));
        }
        Ok(rustix::fs::mknodat(&self.0, component(name)?, kind, Mode::from_raw_mode(mode), device)?)
    }

    /// Gives the file `from_name` of `from` a second name here. A symbolic link is itself linked.
    pub fn link(&self, name: &OsStr, from: &Self, from_name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::linkat(&from.0, component(from_name)?, &self.0, component(name)?, AtFlags::empty())?)
    }

    /// Removes a name that is no directory.
    pub fn remove_file(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, component(name)?, AtFlags::empty())?)
    }

    /// Removes a directory if it is empty; whether it was.
    pub fn remove_empty_dir(&self, name: &OsStr) -> io::Result<bool> {
        match rustix::fs::unlinkat(&self.0, component(name)?, AtFlags::REMOVEDIR) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::NOTEMPTY | rustix::io::Errno::EXIST) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Removes a name with everything below it.
    pub fn remove_tree(&self, name: &OsStr) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.0, component(name)?, AtFlags::empty()) {
            Err(rustix::io::Errno::ISDIR) => {}
            other => return Ok(other?),
        }
        let inner = self.open_dir(name)?;
        for child in inner.names()? {
            inner.remove_tree(&child)?;
        }
        Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR)?)
    }

    /// Gives `name` to an owner and a group.
    pub fn set_owner(&self, name: &OsStr, uid: u32, gid: u32) -> io::Result<()> {
        let (uid, gid) = owner(uid, gid);
        Ok(rustix::fs::chownat(&self.0, component(name)?, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Sets the mode of `name`, which is no link.
    pub fn set_mode(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let node = rustix::fs::openat2(&self.0, component(name)?, flags, Mode::empty(), self.1)?;
        let path = format!("/proc/self/fd/{}", node.as_raw_fd());
        Ok(rustix::fs::chmod(path, Mode::from_raw_mode(mode))?)
    }

    /// Sets when the content of `name` changed and was read.
    pub fn set_times(&self, name: &OsStr, modified: Time) -> io::Result<()> {
        Ok(rustix::fs::utimensat(&self.0, component(name)?, &timestamps(modified), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Sets an extended attribute of `name`.
    pub fn set_xattr(&self, name: &OsStr, attribute: &OsStr, value: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::lsetxattr(self.proc_path(name)?, attribute, value, XattrFlags::empty())?)
    }

    /// Removes an extended attribute of `name`.
    pub fn remove_xattr(&self, name: &OsStr, attribute: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::lremovexattr(self.proc_path(name)?, attribute)?)
    }

    /// The value of an extended attribute of `name`, if it has one.
    pub fn xattr(&self, name: &OsStr, attribute: &OsStr) -> io::Result<Option<Vec<u8>>> {
        let path = self.proc_path(name)?;
        let mut value = vec![0; 256];
        loop {
            match rustix::fs::lgetxattr(&path, attribute, value.as_mut_slice()) {
                Ok(length) => {
                    value.truncate(length);
                    return Ok(Some(value));
                }
                Err(rustix::io::Errno::NODATA | rustix::io::Errno::NOTSUP) => return Ok(None),
                Err(rustix::io::Errno::RANGE) if value.len() < MAX_XATTR_BYTES => value.resize(MAX_XATTR_BYTES, 0),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// The names of the extended attributes of `name`; none where the file system has none.
    pub fn xattr_names(&self, name: &OsStr) -> io::Result<Vec<OsString>> {
        let path = self.proc_path(name)?;
        let mut list = vec![0; 1024];
        let length = loop {
            match rustix::fs::llistxattr(&path, list.as_mut_slice()) {
                Ok(length) => break length,
                Err(rustix::io::Errno::NOTSUP) => break 0,
                Err(rustix::io::Errno::RANGE) if list.len() < MAX_XATTR_BYTES => list.resize(MAX_XATTR_BYTES, 0),
                Err(errno) => return Err(errno.into()),
            }
        };
        let names = list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
        Ok(names.map(|name| OsString::from_vec(name.to_vec())).collect())
    }

    /// A path that reaches `name` through the descriptor. `.` stands for the directory itself.
    fn proc_path(&self, name: &OsStr) -> io::Result<OsString> {
        let mut path = OsString::from(format!("/proc/self/fd/{}/", self.0.as_raw_fd()));
        path.push(if name == "." { name } else { component(name)? });
        Ok(path)
    }

    /// Sets an extended attribute of the directory itself.
    pub fn set_own_xattr(&self, attribute: &OsStr, value: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::fsetxattr(&self.0, attribute, value, XattrFlags::empty())?)
    }

    /// Gives the directory itself to an owner and a group.
    pub fn set_own_owner(&self, uid: u32, gid: u32) -> io::Result<()> {
        let (uid, gid) = owner(uid, gid);
        Ok(rustix::fs::fchown(&self.0, uid, gid)?)
    }

    /// Sets the mode of the directory itself.
    pub fn set_own_mode(&self, mode: u32) -> io::Result<()> {
        Ok(rustix::fs::fchmod(&self.0, Mode::from_raw_mode(mode))?)
    }

    /// Sets when the directory itself changed.
    pub fn set_own_times(&self, modified: Time) -> io::Result<()> {
        Ok(rustix::fs::futimens(&self.0, &timestamps(modified))?)
    }

    /// The bits that the process' umask takes from the modes of new files; all of them when that cannot be told.
    #[must_use]
    pub fn umask(&self) -> u32 {
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::openat(&self.0, c".", flags, Mode::from_raw_mode(0o777))
            .and_then(|file| rustix::fs::fstat(&file))
            .map_or(0o777, |stat| !stat.st_mode & 0o777)
    }
}

/// What is known about an open file.
pub fn file_metadata(file: &File) -> io::Result<Metadata> {
    Metadata::from_stat(&rustix::fs::fstat(file)?)
}

/// The pieces of an open file that hold data, each its offset and length; `None` where it has no holes worth telling, or
/// more than `most` pieces.
pub fn data_pieces(file: &File, size: u64, most: usize) -> io::Result<Option<Vec<(u64, u64)>>> {
    use rustix::io::Errno;
    let (mut pieces, mut position) = (Vec::new(), 0);
    while position < size {
        let start = match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(position)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        if start >= size {
            break;
        }
        let end = match rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(start)) {
            Ok(end) => end.min(size),
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        pieces.push((start, end - start));
        if pieces.len() > most {
            return Ok(None);
        }
        position = end;
    }
    let is_whole = matches!(pieces[..], [(0, length)] if length == size) || size == 0;
    Ok((!is_whole).then_some(pieces))
}

/// Gives an open file to an owner and a group.
pub fn set_file_owner(file: &File, uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = owner(uid, gid);
    Ok(rustix::fs::fchown(file, uid, gid)?)
}

/// Sets an extended attribute of an open file.
pub fn set_file_xattr(file: &File, attribute: &OsStr, value: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(file, attribute, value, XattrFlags::empty())?)
}

/// Sets the mode of an open file.
pub fn set_file_mode(file: &File, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?)
}

/// Sets when the content of an open file changed and was read.
pub fn set_file_times(file: &File, modified: Time) -> io::Result<()> {
    Ok(rustix::fs::futimens(file, &timestamps(modified))?)
}

/// The number of a device.
#[must_use]
pub fn device_number(major: u32, minor: u32) -> u64 {
    rustix::fs::makedev(major, minor)
}

/// Copies the content of `from` into the empty file `to`, sharing blocks where the file system can and leaving holes.
pub fn copy_content(from: &File, to: &File, size: u64) -> io::Result<()> {
    use rustix::io::Errno;
    if size == 0 || rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    rustix::fs::ftruncate(to, size)?;
    let mut position = 0;
    while position < size {
        let start = match rustix::fs::seek(from, rustix::fs::SeekFrom::Data(position)) {
            Ok(start) => start,
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        let end = rustix::fs::seek(from, rustix::fs::SeekFrom::Hole(start))?.min(size);
        copy_range(from, to, start, end)?;
        position = end.max(start + 1);
    }
    Ok(())
}

fn copy_range(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;

    use rustix::io::Errno;
    let (mut source, mut target) = (start, start);
    while source < end {
        let length = usize::try_from(end - source).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(from, Some(&mut source), to, Some(&mut target), length) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    let mut buffer = vec![0; if source < end { 1 << 20 } else { 0 }];
    while source < end {
        let want = usize::try_from(end - source).unwrap_or(usize::MAX).min(buffer.len());
        let got = from.read_at(&mut buffer[..want], source)?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.write_all_at(&buffer[..got], source)?;
        source += got as u64;
    }
    Ok(())
}

/// Refuses what is not one name.
fn component(name: &OsStr) -> io::Result<&OsStr> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the name of a file"));
    }
    Ok(name)
}

fn owner(uid: u32, gid: u32) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}

fn timestamps(modified: Time) -> Timestamps {
    let moment = Timespec { tv_sec: modified.seconds, tv_nsec: modified.nanoseconds.into() };
    Timestamps { last_access: moment, last_modification: moment }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> &OsStr {
        OsStr::new(text)
    }

    #[test]
    fn large_numbers_make_no_whiteouts() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = Dir::open(temporary.path()).unwrap();
        for (major, minor) in [(4096, 0), (0, 1 << 20), (4097, 3), (1 << 20, 255)] {
            for kind in [FileKind::CharDevice, FileKind::BlockDevice] {
                let made = dir.make_node(name("node"), kind(device_number(major, minor)), 0);
                assert_eq!(made.unwrap_err().kind(), io::ErrorKind::InvalidInput, "{major}:{minor}");
            }
        }
        assert_eq!(dir.names().unwrap(), [] as [OsString; 0]);
        assert!(u32::try_from(device_number(4095, (1 << 20) - 1)).is_ok());
    }

    #[test]
    fn nothing_leaves_the_directory() {
        let temporary = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temporary.path().join("root/a/b")).unwrap();
        std::os::unix::fs::symlink("..", temporary.path().join("root/a/up")).unwrap();
        std::os::unix::fs::symlink("b", temporary.path().join("root/a/link")).unwrap();
        std::fs::write(temporary.path().join("secret"), "x").unwrap();
        let root = Dir::open(&temporary.path().join("root")).unwrap();
        assert!(root.open_dir(name("a/b")).is_ok());
        for bad in ["..", "a/../..", "/", "/tmp", "a/up", "a/link", "a/up/../..", "a/missing"] {
            assert!(root.open_dir(name(bad)).is_err(), "`{bad}` was opened");
        }
        for bad in ["", ".", "..", "a/b", "/", "../x"] {
            assert!(root.stat(name(bad)).is_err(), "stat of `{bad}`");
            assert!(root.make_dir(name(bad), 0o700).is_err(), "mkdir of `{bad}`");
            assert!(root.create_file(name(bad), 0o600).is_err(), "create of `{bad}`");
            assert!(root.remove_tree(name(bad)).is_err(), "remove of `{bad}`");
            assert!(root.set_xattr(name(bad), name("user.x"), b"").is_err() || bad == ".", "xattr of `{bad}`");
        }
    }

    #[test]
    fn only_regular_files_are_opened_for_reading() {
        let temporary = tempfile::tempdir().unwrap();
        let root = Dir::open(temporary.path()).unwrap();
        root.make_node(name("fifo"), FileKind::Fifo, 0o600).unwrap();
        root.make_symlink(name("link"), name("file")).unwrap();
        std::fs::write(temporary.path().join("file"), "x").unwrap();
        assert!(root.open_file(name("fifo")).unwrap().is_none());
        assert!(root.open_file(name("link")).unwrap().is_none());
        assert!(root.open_file(name("missing")).unwrap().is_none());
        assert!(root.open_file(name("file")).unwrap().is_some());
    }

    #[test]
    fn content_is_copied_with_its_holes() {
        use std::os::unix::fs::{FileExt, MetadataExt};
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("from");
        let from = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        from.write_all_at(b"end", 8 << 20).unwrap();
        from.write_all_at(b"start", 0).unwrap();
        let to = File::create(temporary.path().join("to")).unwrap();
        copy_content(&from, &to, from.metadata().unwrap().len()).unwrap();
        let (before, after) = (std::fs::read(&path).unwrap(), std::fs::read(temporary.path().join("to")).unwrap());
        assert!(before == after, "content differs");
        assert!(to.metadata().unwrap().blocks() * 512 < 1 << 20, "the hole was filled");
    }
}
