//! A root file system whose owners are the users of a container that are not the machine's.
//!
//! On the disk everything keeps the container's ids: layers, the writable layer and what is mounted of a run. Mounts with other
//! owners (idmapped, `mount_setattr(2)`) show them as the machine's ids that stand for them. An overlay itself cannot be such a
//! mount, so those that it is made of are (Linux 5.19), and it is mounted in the name of the container's root: whiteouts
//! and its own directories have an owner then whom the mount below knows.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::assemble::{Method, Rootfs, mount_overlay_of};
use super::error::RootfsError;
use super::layers::Layers;
use crate::store::{IdMaps, map_text};
use crate::sys::graft::{attach, open_place};
use crate::sys::mount::unmount;
use crate::sys::{mapped_copy, user_namespace, with_filesystem_ids};

/// Whose files they are to be.
#[derive(Debug, Clone, Copy)]
pub struct Owners<'a> {
    /// The user namespace.
    pub namespace: BorrowedFd<'a>,
    /// Its root on the machine, user and group.
    pub root: (u32, u32),
}

/// Mounts what [`super::assemble`] has made once more at `target`, outside of `scratch`, for other owners. What was mounted
/// before is no more. The arguments are those of the first time.
pub fn remount_mapped(
    rootfs: &Rootfs,
    layers: &Layers,
    scratch: &Path,
    target: &Path,
    keep: bool,
    owners: Owners<'_>,
) -> Result<(), RootfsError> {
    if rootfs.method == Method::Copy {
        return map_onto(&rootfs.path, target, owners);
    }
    let host = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| RootfsError::Host { operation, path, source }
    };
    unmount(&rootfs.path).map_err(host("unmount", &rootfs.path))?;
    empty_work(scratch)?;
    let mut covered = Covered::default();
    for path in layers.paths().iter().map(PathBuf::as_path).chain([scratch]) {
        map_onto(path, path, owners)?;
        covered.0.push(path.to_owned());
    }
    let (user, group) = owners.root;
    with_filesystem_ids(user, group, || mount_overlay_of(layers, scratch, target, !keep))
        .map_err(host("mount with other owners at", target))?
}

/// Mounts for the machine's users once more what was mounted for others, when that is no more. The arguments are those of the
/// first time.
pub fn remount(rootfs: &Rootfs, layers: &Layers, scratch: &Path, keep: bool) -> Result<(), RootfsError> {
    if rootfs.method == Method::Copy {
        return Ok(());
    }
    empty_work(scratch)?;
    mount_overlay_of(layers, scratch, &rootfs.path, !keep)
}

/// A volatile overlay has left a mark there that it must not be mounted again. What a container has written is lost with the
/// machine in any case, and what we have written was not lost since.
fn empty_work(scratch: &Path) -> Result<(), RootfsError> {
    let work = scratch.join("work");
    let emptied = std::fs::remove_dir_all(&work).and_then(|()| std::fs::create_dir(&work));
    emptied.map_err(|source| RootfsError::Host { operation: "empty", path: work, source })
}

/// Makes a user namespace with these maps, and sees whether files below `directory` can be mounted for its users: not on network
/// file systems or overlays.
pub fn namespace_for(maps: &IdMaps, directory: &Path) -> Result<OwnedFd, RootfsError> {
    let namespace = user_namespace(&map_text(&maps.uids), &map_text(&maps.gids)).map_err(RootfsError::users)?;
    let open = |source| RootfsError::Host { operation: "open", path: directory.to_owned(), source };
    let place = open_place(directory).map_err(open)?;
    mapped_copy(place.as_fd(), namespace.as_fd(), false)
        .map_err(|source| RootfsError::Owners { path: directory.to_owned(), source })?;
    Ok(namespace)
}

/// Covers `target` with a mount of `path` that has other owners.
fn map_onto(path: &Path, target: &Path, owners: Owners<'_>) -> Result<(), RootfsError> {
    let host = |operation| move |source| RootfsError::Host { operation, path: path.to_owned(), source };
    let place = open_place(path).map_err(host("open"))?;
    let mount = mapped_copy(place.as_fd(), owners.namespace, false)
        .map_err(|source| RootfsError::Owners { path: path.to_owned(), source })?;
    attach(mount.as_fd(), target).map_err(host("mount with other owners"))
}

/// Mounts that an overlay has copies of, once it is there.
#[derive(Default)]
struct Covered(Vec<PathBuf>);

impl Drop for Covered {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            // They go with the mount namespace at the latest.
            let _ = unmount(path);
        }
    }
}
