//! Removing and measuring whole trees that somebody hostile may have written.
//!
//! Trees are walked by descriptors: each step opens one name in one open directory and never follows a link, and the way up
//! is checked to lead back to where the walk came from. One directory is open at a time and nothing recurses, so neither
//! the depth of a tree nor the length of its paths is bounded: a container may well make both larger than a path of ours
//! or a stack can hold.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);
/// The unit of `st_blocks` (stat(2)).
const BLOCK_BYTES: u64 = 512;

type Identity = (u64, u64);

/// Removes what stands at `path`, a tree or anything else; whether something did. Nobody else may write there.
pub fn remove_tree(path: &Path) -> io::Result<bool> {
    let Some((parent, name)) = open_parent(path)? else { return Ok(false) };
    match rustix::fs::unlinkat(&parent, &name, AtFlags::empty()) {
        Ok(()) => return Ok(true),
        Err(Errno::NOENT) => return Ok(false),
        // Linux says the first of a directory; POSIX allows the second.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    if let Some(top) = enter(parent.as_fd(), &name)? {
        walk(top, &mut |dir, name, _| gone(rustix::fs::unlinkat(dir, name, AtFlags::empty())), &mut |dir, name| {
            gone(rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR))
        })?;
    }
    gone(rustix::fs::unlinkat(&parent, &name, AtFlags::REMOVEDIR))?;
    Ok(true)
}

/// What [`remove_some`] came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing stands there any more.
    Gone,
    /// The budget is spent, and something is left.
    Spent,
}

/// Removes what stands at `path` for as long as `budget` lasts: each name costs one, and each `BYTES_A_UNIT` that its file
/// takes another, for a file system needs time for both.
///
/// What cannot be removed does not keep the rest from going.
///
/// # Errors
/// The first that something could not be removed for, with its name; the rest is gone.
pub fn remove_some(path: &Path, budget: &mut u64) -> io::Result<Progress> {
    let Some((parent, name)) = open_parent(path)? else { return Ok(Progress::Gone) };
    let stat = match rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(Progress::Gone),
        stat => stat?,
    };
    let mut removal = Removal { budget, failed: None };
    let removed = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        removal.tree(parent.as_fd(), &name)
    } else {
        removal.leaf(parent.as_fd(), &name, &stat)
    };
    match (removed, removal.failed) {
        (Err(SPENT), _) => Ok(Progress::Spent),
        (Err(errno), None) => Err(errno.into()),
        (_, Some(error)) => Err(error),
        (Ok(()), None) => Ok(Progress::Gone),
    }
}

/// Bytes whose removal costs as much as that of one name.
const BYTES_A_UNIT: u64 = 1 << 20;
/// How a walk says that the budget is spent; no call that is made here answers so.
const SPENT: Errno = Errno::CANCELED;

struct Removal<'a> {
    budget: &'a mut u64,
    failed: Option<io::Error>,
}

impl Removal<'_> {
    fn tree(&mut self, parent: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<()> {
        if let Some(top) = enter(parent, name)? {
            let this = std::cell::RefCell::new(&mut *self);
            walk(top, &mut |dir, name, stat| this.borrow_mut().leaf(dir, name, stat), &mut |dir, name| {
                this.borrow_mut().directory(dir, name)
            })?;
        }
        self.directory(parent, name)
    }

    fn leaf(&mut self, dir: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> rustix::io::Result<()> {
        let size = if stat.st_nlink < 2 { blocks(stat) / BYTES_A_UNIT } else { 0 };
        self.spend(1 + size)?;
        let removed = gone(rustix::fs::unlinkat(dir, name, AtFlags::empty()));
        self.note(name, removed);
        Ok(())
    }

    fn directory(&mut self, dir: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<()> {
        self.spend(1)?;
        match gone(rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)) {
            // Told already, of what is in it.
            Err(Errno::NOTEMPTY | Errno::EXIST) if self.failed.is_some() => {}
            removed => self.note(name, removed),
        }
        Ok(())
    }

    fn spend(&mut self, cost: u64) -> rustix::io::Result<()> {
        if *self.budget == 0 {
            return Err(SPENT);
        }
        *self.budget = self.budget.saturating_sub(cost);
        Ok(())
    }

    fn note(&mut self, name: &CStr, removed: rustix::io::Result<()>) {
        if let (Err(errno), None) = (removed, &self.failed) {
            let source = io::Error::from(errno);
            let text = format!("`{}`: {source}", name.to_string_lossy().escape_debug());
            self.failed = Some(io::Error::new(source.kind(), text));
        }
    }
}

/// Bytes that the tree at `path` takes on its disk; a file with several names counts once. What is not there takes none.
pub fn disk_usage(path: &Path) -> io::Result<u64> {
    let Some((parent, name)) = open_parent(path)? else { return Ok(0) };
    let stat = match rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(0),
        stat => stat?,
    };
    let mut seen = HashSet::new();
    let bytes = std::cell::Cell::new(blocks(&stat));
    let add = |stat: &Stat| bytes.set(bytes.get() + blocks(stat));
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        let top = rustix::fs::openat(&parent, &name, DIRECTORY, Mode::empty())?;
        let mut count = |_: BorrowedFd<'_>, _: &CStr, stat: &Stat| {
            // Only files with several names are remembered.
            if stat.st_nlink < 2 || seen.insert(identity(stat)) {
                add(stat);
            }
            Ok(())
        };
        walk(top, &mut count, &mut |dir, name| {
            rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| add(&stat))
        })?;
    }
    Ok(bytes.get())
}

/// Calls `leaf` for each entry below `top` that is no directory, and `leave` for each directory after what is in it.
fn walk(
    top: OwnedFd,
    leaf: &mut dyn FnMut(BorrowedFd<'_>, &CStr, &Stat) -> rustix::io::Result<()>,
    leave: &mut dyn FnMut(BorrowedFd<'_>, &CStr) -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    struct Level {
        identity: Identity,
        name: CString,
        pending: Vec<CString>,
    }
    let mut level = |dir: &OwnedFd, name: CString| {
        let identity = identity(&rustix::fs::fstat(dir)?);
        Ok::<_, Errno>(Level { identity, name, pending: leaves(dir.as_fd(), leaf)? })
    };
    let mut current = top;
    let mut levels = vec![level(&current, CString::default())?];
    while let Some(here) = levels.last_mut() {
        if let Some(name) = here.pending.pop() {
            if let Some(inside) = enter(current.as_fd(), &name)? {
                current = inside;
                levels.push(level(&current, name)?);
            }
            continue;
        }
        let (Some(done), Some(above)) = (levels.pop(), levels.last()) else { break };
        let parent = rustix::fs::openat(&current, c"..", DIRECTORY, Mode::empty())?;
        if identity(&rustix::fs::fstat(&parent)?) != above.identity {
            return Err(Errno::STALE);
        }
        leave(parent.as_fd(), &done.name)?;
        current = parent;
    }
    Ok(())
}

/// Visits what is no directory; gives the names of the directories back.
fn leaves(
    dir: BorrowedFd<'_>,
    leaf: &mut dyn FnMut(BorrowedFd<'_>, &CStr, &Stat) -> rustix::io::Result<()>,
) -> rustix::io::Result<Vec<CString>> {
    let mut names = Vec::new();
    // All names first: the visitor may remove what it sees.
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    let mut directories = Vec::new();
    for name in names {
        let stat = match rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            stat => stat?,
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            directories.push(name);
        } else {
            leaf(dir, &name, &stat)?;
        }
    }
    Ok(directories)
}

/// Opens a directory; `None` when it is not there any more. Without root's rights its owner must be let in first.
fn enter(dir: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<Option<OwnedFd>> {
    let open = || rustix::fs::openat(dir, name, DIRECTORY, Mode::empty());
    match open() {
        Err(Errno::NOENT) => Ok(None),
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(dir, name, Mode::from_raw_mode(0o700), AtFlags::empty())?;
            open().map(Some)
        }
        opened => opened.map(Some),
    }
}

/// The directory that holds `path`, and its name there; `None` when that directory is missing.
fn open_parent(path: &Path) -> io::Result<Option<(OwnedFd, CString)>> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let name = CString::new(name.as_bytes()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::open(if parent.as_os_str().is_empty() { Path::new(".") } else { parent }, flags, Mode::empty()) {
        Err(Errno::NOENT) => Ok(None),
        opened => Ok(Some((opened?, name))),
    }
}

const fn identity(stat: &Stat) -> Identity {
    (stat.st_dev, stat.st_ino)
}

fn blocks(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK_BYTES
}

fn gone(removed: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match removed {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn removes_what_is_there_and_nothing_behind_links() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir_all(path("outside/kept")).unwrap();
        fs::create_dir_all(path("tree/a/b")).unwrap();
        fs::write(path("tree/a/file"), "x").unwrap();
        symlink(path("outside"), path("tree/a/link")).unwrap();
        symlink("..", path("tree/up")).unwrap();
        fs::create_dir(path("tree/closed")).unwrap();
        fs::write(path("tree/closed/file"), "x").unwrap();
        fs::set_permissions(path("tree/closed"), fs::Permissions::from_mode(0o000)).unwrap();
        assert!(remove_tree(&path("tree")).unwrap());
        assert!(!path("tree").exists() && path("outside/kept").exists());
        symlink("outside", path("link")).unwrap();
        assert!(remove_tree(&path("link")).unwrap());
        assert!(path("outside/kept").exists());
        assert!(!remove_tree(&path("nothing")).unwrap() && !remove_tree(&path("no/thing")).unwrap());
    }

    /// Deeper than `PATH_MAX` and than the descriptors that a process may have.
    #[test]
    fn depth_is_no_bound() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("tree");
        fs::create_dir(&top).unwrap();
        let mut current = rustix::fs::open(&top, DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&current, c"deep", Mode::RWXU).unwrap();
            current = rustix::fs::openat(&current, c"deep", DIRECTORY, Mode::empty()).unwrap();
        }
        drop(current);
        disk_usage(&top).unwrap();
        assert!(remove_tree(&top).unwrap());
        assert!(!top.exists());
    }

    #[test]
    fn a_budget_is_kept_and_what_is_left_goes_the_next_time() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("tree");
        fs::create_dir_all(top.join("inner")).unwrap();
        for number in 0..20 {
            fs::write(top.join(format!("inner/{number}")), "x").unwrap();
        }
        let mut budget = 5;
        assert_eq!(remove_some(&top, &mut budget).unwrap(), Progress::Spent);
        assert_eq!((budget, fs::read_dir(top.join("inner")).unwrap().count()), (0, 15));
        assert_eq!(remove_some(&top, &mut budget).unwrap(), Progress::Spent);
        let mut budget = 100;
        assert_eq!(remove_some(&top, &mut budget).unwrap(), Progress::Gone);
        assert_eq!(budget, 100 - 15 - 2);
        assert_eq!(remove_some(&top, &mut budget).unwrap(), Progress::Gone);
        fs::write(&top, vec![1; 3 << 20]).unwrap();
        let mut budget = 10;
        assert_eq!(remove_some(&top, &mut budget).unwrap(), Progress::Gone);
        assert!(budget <= 6, "bytes cost too: {budget}");
    }

    #[test]
    fn a_file_with_several_names_takes_its_space_once() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("inner")).unwrap();
        let empty = disk_usage(&tree).unwrap();
        fs::write(tree.join("file"), vec![1; 64 << 10]).unwrap();
        let once = disk_usage(&tree).unwrap();
        assert!(once >= empty + (64 << 10), "{once}");
        fs::hard_link(tree.join("file"), tree.join("inner/name")).unwrap();
        symlink("/", tree.join("link")).unwrap();
        assert!(disk_usage(&tree).unwrap() < once + (64 << 10));
        assert_eq!(disk_usage(&dir.path().join("none")).unwrap(), 0);
    }
}
