//! What a root file system must have before a container starts in it.
//!
//! The image decides what stands there, so every step is taken beneath the root, with links followed inside it.

use std::ffi::OsStr;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::copy::copy_flat;
use super::error::RootfsError;
use super::layers::Layers;
use super::path::{ImagePath, Step, Trail};
use crate::sys::beneath::{Dir, FileKind};

/// Places that the runtime mounts upon, or fills, by path (CVE-2026-41579: a link there led it out of the container).
const REAL_DIRECTORIES: [&str; 4] = ["dev", "etc", "proc", "sys"];

/// Mode of directories that an image names without having them, as docker makes them.
const NEW_DIRECTORY_MODE: u32 = 0o755;

/// Mode of files that are mounted upon.
const NEW_FILE_MODE: u32 = 0o644;

/// Refuses an image where something else than a directory stands where the runtime mounts.
///
/// # Errors
/// [`RootfsError::NotDirectory`] names the place. One that is missing is fine.
pub fn preflight(root: &Path) -> Result<(), RootfsError> {
    let host = |source| RootfsError::Host { operation: "look into", path: root.to_owned(), source };
    let dir = Dir::open(root).map_err(host)?;
    for name in REAL_DIRECTORIES {
        match dir.stat(OsStr::new(name)).map_err(host)? {
            Some(found) if !found.is_dir() => {
                return Err(RootfsError::NotDirectory { path: format!("/{name}"), found: found.kind.words() });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Makes the working directory (empty for `/`) and the volumes of an image where they are missing, root's and 0755.
pub fn prepare(root: &Path, working_dir: &str, volumes: &[String]) -> Result<(), RootfsError> {
    let host = |source| RootfsError::Host { operation: "look into", path: root.to_owned(), source };
    let root = Dir::open(root).map_err(host)?;
    for path in volumes.iter().map(String::as_str).chain([working_dir]) {
        // Bounds and NUL bytes; what it leads to depends on the links on the way.
        ImagePath::parse(path.as_bytes()).map_err(|source| RootfsError::Name { path: path.to_owned(), source })?;
        make_directory(&root, path)?;
    }
    Ok(())
}

/// Puts empty files where the run's `resolv.conf`, `hosts` and `hostname` will be mounted and the image has links, devices or
/// pipes.
///
/// Images that were taken from a running machine often have a link to a file under `/run` that only exists there; the
/// runtime cannot mount upon such a link. The link goes in the writable layer only.
pub fn replace_etc_links(root: &Path) -> Result<(), RootfsError> {
    let host = |source| RootfsError::Host { operation: "look into", path: root.to_owned(), source };
    let root = Dir::open(root).map_err(host)?;
    if root.stat(OsStr::new("etc")).map_err(host)?.is_none() {
        return Ok(());
    }
    let etc = root.open_dir(OsStr::new("etc")).map_err(host)?;
    for name in ["resolv.conf", "hosts", "hostname"].map(OsStr::new) {
        match etc.stat(name).map_err(host)?.map(|found| found.kind) {
            None | Some(FileKind::Regular) => {}
            Some(found @ FileKind::Directory) => {
                return Err(RootfsError::NotFile { path: format!("/etc/{}", name.display()), found: found.words() });
            }
            Some(_) => {
                etc.remove_file(name).map_err(host)?;
                etc.create_file(name, NEW_FILE_MODE).map_err(host)?;
            }
        }
    }
    Ok(())
}

/// Makes the directory `host` and fills it with what the root file system at `root` has at `destination`, as docker fills
/// a fresh volume. Links on the way are followed inside `root`.
pub fn seed_volume(root: &Path, destination: &str, host: &Path) -> Result<(), RootfsError> {
    let failed = |source| RootfsError::Host { operation: "make a volume in", path: host.to_owned(), source };
    DirBuilder::new().recursive(true).mode(NEW_DIRECTORY_MODE).create(host).map_err(failed)?;
    let from = make_directory(&Dir::open(root).map_err(failed)?, destination)?;
    // The path of an open directory cannot be led elsewhere any more.
    let open = PathBuf::from(format!("/proc/self/fd/{}", from.as_fd().as_raw_fd()));
    copy_flat(&Layers::from_paths(vec![open.clone()], Some(open)), host)
}

/// Makes a directory with those above it, and opens it.
pub(super) fn make_directory(root: &Dir, path: &str) -> Result<Dir, RootfsError> {
    let mut trail = Trail::new(path.as_bytes());
    let mut at = ImagePath::root();
    let mut dir = open(root, &at)?;
    while let Some(step) = trail.step() {
        let Step::Down(name) = step else {
            at = at.parent();
            dir = open(root, &at)?;
            continue;
        };
        let next = at.join(name.as_bytes()).map_err(|source| RootfsError::Name { path: path.to_owned(), source })?;
        let failed = |source| RootfsError::MakeDirectory { path: next.clone(), source };
        match dir.stat(&name).map_err(failed)? {
            Some(found) if found.is_dir() => {}
            Some(found) if found.kind == FileKind::Symlink => {
                let target = dir.read_link(&name).map_err(failed)?;
                if trail.follow(&target).map_err(failed)? {
                    at = ImagePath::root();
                    dir = open(root, &at)?;
                }
                continue;
            }
            Some(found) => {
                return Err(RootfsError::NotDirectory { path: next.to_string(), found: found.kind.words() });
            }
            None => new_directory(&dir, &name).map_err(failed)?,
        }
        dir = dir.open_dir(&name).map_err(failed)?;
        at = next;
    }
    Ok(dir)
}

pub(super) fn new_directory(dir: &Dir, name: &OsStr) -> io::Result<()> {
    dir.make_dir(name, NEW_DIRECTORY_MODE)?;
    // The umask is ours, not the image's; a parent with a set-group-ID bit hands down its group.
    dir.set_owner(name, 0, 0)?;
    dir.set_mode(name, NEW_DIRECTORY_MODE)
}

fn open(root: &Dir, path: &ImagePath) -> Result<Dir, RootfsError> {
    root.open_dir(path.as_os_str()).map_err(|source| RootfsError::MakeDirectory { path: path.clone(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_to_nowhere_make_room_for_mounts() {
        let root = tempfile::tempdir().unwrap();
        replace_etc_links(root.path()).unwrap();
        let etc = root.path().join("etc");
        std::fs::create_dir(&etc).unwrap();
        symlink("../run/systemd/resolve/stub-resolv.conf", etc.join("resolv.conf")).unwrap();
        std::fs::write(etc.join("hosts"), "127.0.0.1 localhost").unwrap();
        replace_etc_links(root.path()).unwrap();
        assert!(etc.join("resolv.conf").symlink_metadata().unwrap().is_file());
        assert_eq!(std::fs::read_to_string(etc.join("hosts")).unwrap(), "127.0.0.1 localhost");
        assert!(!etc.join("hostname").exists(), "what is missing is made by the runtime");
    }

    #[test]
    fn a_link_instead_of_dev_is_refused() {
        let root = tempfile::tempdir().unwrap();
        preflight(root.path()).unwrap();
        symlink("/tmp", root.path().join("dev")).unwrap();
        let error = preflight(root.path()).unwrap_err().to_string();
        assert!(error.contains("`/dev`"), "{error}");
    }
}
