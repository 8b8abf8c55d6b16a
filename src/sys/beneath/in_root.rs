//! Ways through a directory that is the root of somebody who may be hostile: a container, which has put links in them.
//!
//! Links are followed as a process would for which the directory is `/`: neither they nor `..` lead out (`RESOLVE_IN_ROOT`),
//! whoever renames what meanwhile. The kernel's own links are not followed.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{DIRECTORY, Dir};

/// How often a way is tried again on which somebody renames.
const RENAME_ATTEMPTS: u32 = 10_000;

impl Dir {
    /// The same directory, from which other file systems that are mounted below are reached too, as in a container.
    #[must_use]
    pub fn across_mounts(self) -> Self {
        Self(self.0, self.1.difference(ResolveFlags::NO_XDEV))
    }

    /// Opens the directory at `path`, with this one as the root.
    pub fn open_in_root(&self, path: &OsStr) -> io::Result<Self> {
        let path = if path.is_empty() { OsStr::new("/") } else { path };
        Ok(Self(self.resolve_in_root(path, DIRECTORY)?, self.1))
    }

    /// Opens the regular file at `path` for reading, with this directory as the root; `None` for what is not there or is
    /// anything else, which is not even opened.
    pub fn open_file_in_root(&self, path: &OsStr) -> io::Result<Option<File>> {
        let found = match self.resolve_in_root(path, OFlags::PATH | OFlags::CLOEXEC) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            found => found?,
        };
        if FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        // The very file that was looked at, by its descriptor.
        let same = Path::new("/proc/self/fd").join(found.as_raw_fd().to_string());
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        Ok(Some(File::from(rustix::fs::open(&same, flags, Mode::empty())?)))
    }

    fn resolve_in_root(&self, path: &OsStr, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | self.1.intersection(ResolveFlags::NO_XDEV);
        let mut attempts = 0;
        loop {
            match rustix::fs::openat2(&self.0, path, flags, Mode::empty(), resolve) {
                // Something was renamed while `..` was looked at, and the kernel cannot tell any more that it stays inside.
                Err(Errno::AGAIN) if attempts < RENAME_ATTEMPTS => attempts += 1,
                opened => return opened,
            }
        }
    }
}
