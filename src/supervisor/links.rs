//! Mounts that go on following those of the machine: `slave`, `rslave`, `shared`, `rshared`.
//!
//! libcontainer 0.7 makes every mount of a container private. Between creation and start each mount that is to be
//! otherwise is given what the machine's mount is, in place: the workload finds its directory, program and all as the
//! runtime has left them. The machine's own mounts are opened before the supervisor leaves its namespace, because a peer of
//! those is what `shared` means; for `slave` the supervisor's copies are what is wanted, which are slaves themselves.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::surroundings::Linked;
use crate::container::StartFailure;
use crate::sys::graft::{MountEntry, identity, mount_id, open_place, open_place_in, parse_mounts, share_group};

/// A mount that one of the container is to be like.
#[derive(Debug)]
struct Model {
    /// The machine's mount, by its root.
    mount: OwnedFd,
    /// What is to be seen at the place in the container: file system and inode.
    content: (u64, u64),
    /// Absolute path in the container.
    place: PathBuf,
    /// The one that was asked for, as opposed to one below it.
    is_uppermost: bool,
}

/// The models of some mounts.
#[derive(Debug, Default)]
pub(super) struct Models(Vec<Model>);

impl Models {
    /// Opens the models of those of `linked` that are `shared`, or of those that are not.
    pub(super) fn open(&mut self, linked: &[Linked], shared: bool) -> Result<(), StartFailure> {
        let wanted: Vec<&Linked> = linked.iter().filter(|link| link.shared == shared).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let table = std::fs::read("/proc/self/mountinfo")
            .map_err(|error| StartFailure::ours(format!("cannot read `/proc/self/mountinfo`: {error}")))?;
        let table = parse_mounts(&table);
        for link in wanted {
            self.open_one(link, &table)?;
        }
        Ok(())
    }

    fn open_one(&mut self, link: &Linked, table: &[MountEntry]) -> Result<(), StartFailure> {
        let shown = link.source.display();
        let failed = |error: std::io::Error| StartFailure::ours(format!("cannot look at `{shown}`: {error}"));
        let source = open_place(&link.source).map_err(failed)?;
        let path = link.source.canonicalize().map_err(failed)?;
        let id = mount_id(source.as_fd()).map_err(failed)?;
        let entry = table.iter().find(|entry| entry.id == id);
        let mount = entry.filter(|entry| fits(entry, link.shared)).and_then(open_mount);
        let (Some(entry), Some(mount)) = (entry, mount) else {
            return Err(not_fitting(link, entry));
        };
        let content = identity(source.as_fd()).map_err(failed)?;
        self.0.push(Model { mount, content, place: link.destination.clone(), is_uppermost: true });
        let below = table.iter().filter(|other| link.recursive && other.id != entry.id && fits(other, link.shared));
        for other in below {
            let Some(rest) = other.place.strip_prefix(&path).ok().filter(|rest| !rest.as_os_str().is_empty()) else {
                continue;
            };
            // What another mount hides is not seen in the container either.
            let Some(mount) = open_mount(other) else { continue };
            let content = identity(mount.as_fd()).map_err(failed)?;
            self.0.push(Model { mount, content, place: link.destination.join(rest), is_uppermost: false });
        }
        Ok(())
    }

    /// Makes the container's mounts like their models. Its workload does not run yet.
    pub(super) fn apply(&self, init: i32) -> Result<(), StartFailure> {
        if self.0.is_empty() {
            return Ok(());
        }
        let root = open_place(Path::new(&format!("/proc/{init}/root")))
            .map_err(|error| StartFailure::ours(format!("cannot look into the container: {error}")))?;
        for model in &self.0 {
            let failed = |error: std::io::Error| {
                StartFailure::ours(format!(
                    "cannot link the mount at `{}` to the machine's: {error}",
                    model.place.display()
                ))
            };
            let place = match open_place_in(root.as_fd(), &model.place) {
                Ok(place) => place,
                Err(_) if !model.is_uppermost => continue,
                Err(error) => return Err(failed(error)),
            };
            if identity(place.as_fd()).map_err(failed)? != model.content {
                // Another mount of the container covers it.
                if model.is_uppermost {
                    return Err(failed(std::io::Error::other("another mount covers it")));
                }
                continue;
            }
            share_group(model.mount.as_fd(), place.as_fd()).map_err(failed)?;
        }
        Ok(())
    }
}

fn fits(entry: &MountEntry, shared: bool) -> bool {
    entry.is_shared || (!shared && entry.is_slave)
}

/// The root of a mount, if nothing is mounted over it.
fn open_mount(entry: &MountEntry) -> Option<OwnedFd> {
    let place = open_place(&entry.place).ok()?;
    (mount_id(place.as_fd()).ok()? == entry.id).then_some(place)
}

fn not_fitting(link: &Linked, entry: Option<&MountEntry>) -> StartFailure {
    let (source, option) = (link.source.display(), &link.option);
    let wanted = if link.shared { "a shared mount" } else { "a shared or slave mount" };
    let mount =
        entry.map_or_else(|| "a mount that is out of sight".to_owned(), |entry| format!("`{}`", entry.place.display()));
    let place = entry.map_or_else(|| "MOUNT".to_owned(), |entry| entry.place.display().to_string());
    StartFailure::ours(format!(
        "`{source}` is on {mount}, which is not {wanted}, so it cannot be mounted with `{option}`\nhint: `mount --make-shared {place}` makes it one"
    ))
}
