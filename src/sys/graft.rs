//! Mounts taken from one place of the machine's mount trees and put into another, by descriptors.
//!
//! A mount may only be copied within the mount namespace that the caller is in, so one of another namespace is copied
//! there, by a short visit. What the kernel lets anybody do from outside is to give a mount to a peer group
//! (`MOVE_MOUNT_SET_GROUP`, Linux 5.15).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags};

use super::exit_now;

/// Exit status of a process that does not know any more where it is.
const LOST: i32 = 125;
const HANDLE: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// A place, open without any right to its content; links are followed.
pub fn open_place(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, HANDLE, Mode::empty())?)
}

/// A place below `root` as a process sees it whose root that is: no link leads out of it.
pub fn open_place_in(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(root, path, HANDLE, Mode::empty(), resolve)?)
}

/// The kernel's number of the mount that a place is on, as in `/proc/self/mountinfo` (Linux 5.8).
pub fn mount_id(place: BorrowedFd<'_>) -> io::Result<u64> {
    let found = rustix::fs::statx(place, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    Ok(found.stx_mnt_id)
}

/// What tells whether two places are the same file: file system and inode.
pub fn identity(place: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(place)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// A copy of the mount at `place`, with all below it, that is attached nowhere and gone when it is closed.
pub fn copy_tree(place: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    Ok(rustix::mount::open_tree(place, c"", flags)?)
}

/// The same without what is mounted below it.
pub fn copy_mount(place: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(rustix::mount::open_tree(place, c"", flags)?)
}

/// The same as [`copy_tree`] of a place in another mount namespace. The caller must have one thread only; it is back in its own namespace,
/// root and directory afterwards, or ends at once.
pub fn copy_tree_of(namespace: BorrowedFd<'_>, place: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let own_namespace = rustix::fs::open("/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let root = open_place(Path::new("/"))?;
    setns(namespace, CloneFlags::CLONE_NEWNS)?;
    let copied = copy_tree(place);
    let back = || -> io::Result<()> {
        setns(&own_namespace, CloneFlags::CLONE_NEWNS)?;
        nix::unistd::fchdir(&root)?;
        // Only a process that was started in a changed root has another one than its namespace.
        nix::unistd::chroot(".")?;
        Ok(())
    };
    if back().is_err() {
        exit_now(LOST);
    }
    copied
}

/// Attaches what [`copy_tree`] gave at `target`, which must be of its kind, a directory or a file.
pub fn attach(tree: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(rustix::mount::move_mount(tree, c"", rustix::fs::CWD, target, flags)?)
}

/// Makes the mount `to`, which must be private and show a part of `from`, what `from` is: a peer of its shared mounts, a
/// slave of its masters. Both may be in other mount namespaces.
pub fn share_group(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_SET_GROUP
        | MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH
        | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(from, c"", to, c"", flags)?)
}

/// One line of `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// Its number.
    pub id: u64,
    /// Where it is.
    pub place: PathBuf,
    /// It has peers, or may get some.
    pub is_shared: bool,
    /// It gets what is mounted in its master.
    pub is_slave: bool,
}

/// Reads what `/proc/self/mountinfo` has; lines that are not understood are left out.
#[must_use]
pub fn parse_mounts(text: &[u8]) -> Vec<MountEntry> {
    text.split(|byte| *byte == b'\n').filter_map(parse_mount).collect()
}

fn parse_mount(line: &[u8]) -> Option<MountEntry> {
    let mut words = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
    let place = unescape(words.nth(3)?);
    let tags: Vec<&[u8]> = words.skip(1).take_while(|word| *word != b"-").collect();
    let has = |name: &[u8]| tags.iter().any(|tag| tag.starts_with(name));
    Some(MountEntry { id, place, is_shared: has(b"shared:"), is_slave: has(b"master:") })
}

/// Blank, tab, line feed and backslash stand there as `\` and three octal digits.
fn unescape(word: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let [first, after @ ..] = rest {
        let code = (*first == b'\\').then(|| after.get(..3)).flatten().and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        if let Some(code) = code {
            bytes.push(code);
            rest = &after[3..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

/// The place of a descriptor, for calls that want a path.
#[must_use]
pub fn path_of(descriptor: &impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_fd().as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel() {
        let text = b"22 27 0:21 / /proc rw,relatime - proc proc rw\n\
            23 27 0:22 /x /a\\040b\\134c rw shared:5 master:1 - sysfs sysfs rw\n\
            24 27 0:22 / /s rw master:7 propagate_from:2 - tmpfs shared:1 rw\n\
            garbage\n\n";
        let entry = |id, place: &str, is_shared, is_slave| MountEntry { id, place: place.into(), is_shared, is_slave };
        assert_eq!(
            parse_mounts(text),
            [entry(22, "/proc", false, false), entry(23, "/a b\\c", true, true), entry(24, "/s", false, true)]
        );
        assert_eq!(unescape(b"\\"), PathBuf::from("\\"));
        assert_eq!(unescape(b"\\09"), PathBuf::from("\\09"));
        assert_eq!(unescape(b"\\999"), PathBuf::from("\\999"));
    }

    #[test]
    fn a_mount_is_found_by_its_number() {
        let place = open_place(Path::new("/proc")).unwrap();
        let id = mount_id(place.as_fd()).unwrap();
        let found = parse_mounts(&std::fs::read("/proc/self/mountinfo").unwrap());
        assert_eq!(found.iter().find(|mount| mount.id == id).unwrap().place, Path::new("/proc"));
    }

    #[test]
    fn links_stay_below_the_root() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("link")).unwrap();
        let root = open_place(dir.path()).unwrap();
        assert!(open_place_in(root.as_fd(), Path::new("/link")).is_err());
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        let found = open_place_in(root.as_fd(), Path::new("/link/../link")).unwrap();
        let expected = open_place(&dir.path().join("etc")).unwrap();
        assert_eq!(identity(found.as_fd()).unwrap(), identity(expected.as_fd()).unwrap());
    }
}
