//! What a container wrote becomes ours: owners, privileges, special files; and it is counted.

use std::collections::HashSet;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

use super::tree::{Entry, Identity, TreeError, Visitor, identity, walk};

/// Mode of a new artifact directory: whatever user the container runs as, it can write. The directories above are ours.
pub(super) const OPEN_MODE: u32 = 0o777;
/// Mode of that directory once the run has ended.
pub(super) const CLOSED_MODE: u32 = 0o755;

/// A user and group of the host.
pub type Owner = (u32, u32);

/// What was found in a tree.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Tally {
    /// Everything, directories too.
    pub(super) entries: u64,
    /// Regular files and symbolic links.
    pub(super) files: u64,
    /// Bytes in regular files; a file with several names counts once.
    pub(super) bytes: u64,
    /// Bytes that a copy takes on disk.
    pub(super) disk_bytes: u64,
    /// Files that had a setuid or setgid bit.
    pub(super) privileged: u64,
    /// Special files that are not kept, and the first of them.
    pub(super) special: u64,
    pub(super) first_special: Option<(PathBuf, &'static str)>,
    /// Files and directories with an extended attribute that the store's file system cannot hold.
    pub(super) lost_attributes: u64,
}

impl Tally {
    pub(super) fn skip(&mut self, path: &Path, kind: FileType) {
        let kind = match kind {
            FileType::Fifo => "FIFO",
            FileType::Socket => "socket",
            FileType::CharacterDevice | FileType::BlockDevice => "device",
            _ => "special file",
        };
        self.special += 1;
        self.first_special.get_or_insert_with(|| (path.to_owned(), kind));
    }
}

impl Tally {
    /// The same counts, with what an earlier pass has found and mended already.
    pub(super) fn with_findings_of(mut self, earlier: &Self) -> Self {
        self.special = self.special.max(earlier.special);
        self.privileged = self.privileged.max(earlier.privileged);
        self.first_special = self.first_special.or_else(|| earlier.first_special.clone());
        // A special file that is gone now was an entry too: somebody wrote there.
        self.entries = self.entries.max(earlier.entries);
        self
    }
}

/// Who a file belongs to afterwards: what root wrote in the container is `owner`'s.
pub(super) fn new_owner(stat: &Stat, owner: Option<Owner>) -> (Option<Uid>, Option<Gid>) {
    let (uid, gid) = owner.filter(|_| stat.st_uid == 0).unwrap_or((stat.st_uid, stat.st_gid));
    (Some(Uid::from_raw_unchecked(uid)), Some(Gid::from_raw_unchecked(gid)))
}

/// Only root gives files away; anybody else keeps what he copies.
pub(super) fn permitted(changed: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match changed {
        Err(Errno::PERM) if !rustix::process::geteuid().is_root() => Ok(()),
        other => other,
    }
}

/// Settles all that is in `top`, and `top` itself. It can be done again.
pub(super) fn settle(top: BorrowedFd<'_>, owner: Option<Owner>) -> Result<Tally, TreeError> {
    let path = Path::new("");
    let stat = rustix::fs::fstat(top).map_err(TreeError::at("read", path))?;
    let (uid, gid) = new_owner(&stat, owner);
    permitted(rustix::fs::fchown(top, uid, gid)).map_err(TreeError::at("change the owner of", path))?;
    close(top).map_err(TreeError::at("change the mode of", path))?;
    let mut settler = Settler { owner, change: true, seen: HashSet::new(), tally: Tally::default() };
    walk(top, &mut settler)?;
    Ok(settler.tally)
}

/// Takes the mode that all could write with away from an artifact's top; one that the container has chosen stays.
pub(super) fn close(top: BorrowedFd<'_>) -> rustix::io::Result<()> {
    if rustix::fs::fstat(top)?.st_mode & 0o7777 == OPEN_MODE {
        rustix::fs::fchmod(top, Mode::from_raw_mode(CLOSED_MODE))?;
    }
    Ok(())
}

/// Counts without changing anything.
pub(super) fn measure(top: BorrowedFd<'_>) -> Result<Tally, TreeError> {
    let mut settler = Settler { owner: None, change: false, seen: HashSet::new(), tally: Tally::default() };
    walk(top, &mut settler)?;
    Ok(settler.tally)
}

/// Makes all that is in `top`, and `top` itself, durable.
pub(super) fn sync_each(top: BorrowedFd<'_>) -> Result<(), TreeError> {
    walk(top, &mut Syncer)?;
    rustix::fs::fsync(top).map_err(TreeError::at("sync", Path::new("")))
}

struct Syncer;

impl Visitor for Syncer {
    fn leaf(&mut self, entry: &Entry<'_>) -> Result<(), TreeError> {
        // What a link says is in its directory's blocks or its inode, and goes with the sync of the directory.
        if entry.kind() != FileType::RegularFile {
            return Ok(());
        }
        let sync = || rustix::fs::fsync(open_file(entry)?);
        sync().map_err(TreeError::at("sync", entry.path))
    }

    fn enter(&mut self, _entry: &Entry<'_>) -> Result<bool, TreeError> {
        Ok(true)
    }

    fn leave(&mut self, entry: &Entry<'_>, inside: BorrowedFd<'_>) -> Result<(), TreeError> {
        rustix::fs::fsync(inside).map_err(TreeError::at("sync", entry.path))
    }
}

/// Opens a regular file for reading; it must still be the one that was seen.
pub(super) fn open_file(entry: &Entry<'_>) -> rustix::io::Result<OwnedFd> {
    // Without NONBLOCK, what turned out to be a FIFO would wait for its writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(entry.dir, entry.name, flags, Mode::empty())?;
    if identity(&rustix::fs::fstat(&file)?) == identity(entry.stat) { Ok(file) } else { Err(Errno::STALE) }
}

struct Settler {
    owner: Option<Owner>,
    change: bool,
    /// Files with several names that were counted.
    seen: HashSet<Identity>,
    tally: Tally,
}

impl Visitor for Settler {
    fn leaf(&mut self, entry: &Entry<'_>) -> Result<(), TreeError> {
        self.tally.entries += 1;
        match entry.kind() {
            FileType::RegularFile => {
                self.count(entry.stat);
                if self.change { self.disarm(entry) } else { Ok(()) }
            }
            FileType::Symlink => {
                self.tally.files += 1;
                if self.change && entry.stat.st_uid == 0 { self.give(entry) } else { Ok(()) }
            }
            other => {
                self.tally.skip(entry.path, other);
                if !self.change {
                    return Ok(());
                }
                rustix::fs::unlinkat(entry.dir, entry.name, AtFlags::empty())
                    .map_err(TreeError::at("remove", entry.path))
            }
        }
    }

    fn enter(&mut self, entry: &Entry<'_>) -> Result<bool, TreeError> {
        self.tally.entries += 1;
        self.tally.disk_bytes += 4096;
        if self.change && entry.stat.st_uid == 0 {
            self.give(entry)?;
        }
        Ok(true)
    }

    fn leave(&mut self, _entry: &Entry<'_>, _inside: BorrowedFd<'_>) -> Result<(), TreeError> {
        Ok(())
    }
}

impl Settler {
    fn count(&mut self, stat: &Stat) {
        self.tally.files += 1;
        if stat.st_nlink == 1 || self.seen.insert(identity(stat)) {
            self.tally.bytes += u64::try_from(stat.st_size).unwrap_or_default();
            // `st_blocks` counts in units of 512 bytes whatever the file system (inode(7)).
            self.tally.disk_bytes += u64::try_from(stat.st_blocks).unwrap_or_default() * 512;
        }
    }

    fn give(&self, entry: &Entry<'_>) -> Result<(), TreeError> {
        let (uid, gid) = new_owner(entry.stat, self.owner);
        permitted(rustix::fs::chownat(entry.dir, entry.name, uid, gid, AtFlags::SYMLINK_NOFOLLOW))
            .map_err(TreeError::at("change the owner of", entry.path))
    }

    /// A program that was setuid root in the container must not be so on the host.
    fn disarm(&mut self, entry: &Entry<'_>) -> Result<(), TreeError> {
        // Changing the owner, even to the same one, makes the kernel drop file capabilities (`ATTR_KILL_PRIV`).
        self.give(entry)?;
        if entry.stat.st_mode & 0o6000 == 0 {
            return Ok(());
        }
        self.tally.privileged += 1;
        let change = || rustix::fs::fchmod(open_file(entry)?, Mode::from_raw_mode(entry.stat.st_mode & 0o1777));
        change().map_err(TreeError::at("change the mode of", entry.path))
    }
}
