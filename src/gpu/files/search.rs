//! Looking around in the driver's root, which may be a root file system of its own below `/`.
//!
//! A link in such a root means a place in that root, whatever it says: paths are opened with `RESOLVE_IN_ROOT`, and the kernel
//! then says which file that is, so that what is mounted later has no links left in its path. What is read is bounded.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);
/// Names of one directory that are looked at; `/usr/lib/x86_64-linux-gnu` of a desktop has 5,000.
const MAX_NAMES: usize = 100_000;

/// The directory that all paths are looked for in.
#[derive(Debug)]
pub(in crate::gpu) struct Root {
    directory: OwnedFd,
    /// As the kernel knows it.
    path: PathBuf,
}

/// What a path stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A regular file; whether somebody may execute it.
    File {
        executable: bool,
    },
    Directory,
    Socket,
    Other,
}

/// A file, all links followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Real {
    /// On this machine, without links.
    pub(super) host: PathBuf,
    /// The same as the root sees it.
    pub(super) inside: PathBuf,
    pub(super) kind: Kind,
    /// Its owner.
    pub(super) uid: u32,
}

impl Real {
    pub(super) const fn is_file(&self) -> bool {
        matches!(self.kind, Kind::File { .. })
    }

    pub(super) fn name(&self) -> Option<&str> {
        self.host.file_name()?.to_str()
    }
}

impl Root {
    pub(in crate::gpu) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty())?;
        let path = location(&directory)?;
        Ok(Self { directory, path })
    }

    /// The same root with another one in it.
    pub(super) fn below(&self, inside: &Path) -> Option<Self> {
        let real = self.resolve(inside).filter(|real| real.kind == Kind::Directory)?;
        Self::open(&real.host).ok()
    }

    /// What `inside` stands for; `None` where nothing is, or nothing that may be looked at.
    pub(super) fn resolve(&self, inside: &Path) -> Option<Real> {
        self.look(inside, OFlags::PATH | OFlags::CLOEXEC)
    }

    /// The same for a last component that must be no link.
    pub(super) fn resolve_unlinked(&self, inside: &Path) -> Option<Real> {
        self.look(inside, OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW)
    }

    fn look(&self, inside: &Path, flags: OFlags) -> Option<Real> {
        let file = self.openat(inside, flags).ok()?;
        let stat = rustix::fs::fstat(&file).ok()?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File { executable: stat.st_mode & 0o111 != 0 },
            FileType::Directory => Kind::Directory,
            FileType::Socket => Kind::Socket,
            _ => Kind::Other,
        };
        let host = location(&file).ok()?;
        let inside = Path::new("/").join(host.strip_prefix(&self.path).ok()?);
        Some(Real { host, inside, kind, uid: stat.st_uid })
    }

    /// Opens a regular file for reading.
    pub(super) fn open_file(&self, inside: &Path) -> Option<File> {
        // A FIFO or a device must not even be opened.
        self.resolve(inside).filter(Real::is_file)?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = File::from(self.openat(inside, flags).ok()?);
        file.metadata().ok()?.is_file().then_some(file)
    }

    /// The content of a file; `None` when there is none, an error when it is larger than `limit` or cannot be read.
    pub(in crate::gpu) fn read(&self, inside: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = self.open_file(inside) else { return Ok(None) };
        let mut content = Vec::new();
        file.take(limit + 1).read_to_end(&mut content)?;
        if content.len() as u64 > limit {
            return Err(io::Error::other(format!("more than {limit} bytes")));
        }
        Ok(Some(content))
    }

    /// The names in a directory, sorted, without those that are no UTF-8; none when it cannot be read.
    pub(super) fn names(&self, inside: &Path) -> Vec<String> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let listing = self.openat(inside, flags).and_then(|directory| Ok(rustix::fs::Dir::read_from(directory)?));
        let Ok(listing) = listing else { return Vec::new() };
        let entries = listing.map_while(Result::ok).take(MAX_NAMES);
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned)).collect();
        names.retain(|name| name != "." && name != "..");
        names.sort_unstable();
        names
    }

    fn openat(&self, inside: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let relative = inside.strip_prefix("/").unwrap_or(inside);
        let path = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
        Ok(rustix::fs::openat2(&self.directory, path, flags, Mode::empty(), INSIDE)?)
    }
}

/// Where an open file is: the kernel writes it without links (proc(5), `/proc/pid/fd`).
fn location(file: &OwnedFd) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn tree() -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir_all(root.join("usr/lib")).unwrap();
        fs::write(root.join("usr/lib/real"), "inside").unwrap();
        fs::write(directory.path().join("secret"), "outside").unwrap();
        let root = Root::open(&root).unwrap();
        (directory, root)
    }

    #[test]
    fn links_stay_in_the_root() {
        let (directory, root) = tree();
        let at = directory.path().join("root");
        symlink("/usr/lib/real", at.join("absolute")).unwrap();
        symlink("../../../../secret", at.join("upwards")).unwrap();
        symlink(directory.path().join("secret"), at.join("outside")).unwrap();
        symlink("loop", at.join("loop")).unwrap();
        let real = root.resolve(Path::new("/absolute")).unwrap();
        assert_eq!(real.host, root.path.join("usr/lib/real"));
        assert_eq!(real.inside, Path::new("/usr/lib/real"));
        for path in ["/upwards", "/outside", "/loop", "/../secret", "/nothing"] {
            assert_eq!(root.resolve(Path::new(path)), None, "{path}");
        }
        assert_eq!(root.resolve_unlinked(Path::new("/absolute")).unwrap().kind, Kind::Other);
    }

    #[test]
    fn what_is_read_is_bounded() {
        let (directory, root) = tree();
        assert_eq!(root.read(Path::new("/usr/lib/real"), 6).unwrap().as_deref(), Some(&b"inside"[..]));
        assert_eq!(root.read(Path::new("/usr/lib/real"), 5).unwrap_err().to_string(), "more than 5 bytes");
        assert_eq!(root.read(Path::new("/usr/lib"), 6).unwrap(), None);
        let fifo = directory.path().join("root/fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(root.open_file(Path::new("/fifo")).is_none());
        assert_eq!(root.names(Path::new("/usr")), ["lib"]);
        assert_eq!(root.names(Path::new("/no")), Vec::<String>::new());
    }
}
