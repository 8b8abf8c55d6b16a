//! What a container shares with others: namespaces of another run, images mounted beside its own, and mounts of the
//! machine that go on following each other.
//!
//! Everything is put below the run's directory in the supervisor's own mount namespace, from where the runtime takes it:
//! images once for all containers of the run, namespaces for each. [`Placed`] takes those mounts away before the run's
//! directory is removed, so that nothing can reach through them then.

use std::fs::DirBuilder;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use serde::{Deserialize, Serialize};

use super::donor::Donor;
use crate::container::StartFailure;
use crate::image::Digest;
use crate::rootfs::{self, Choice, Layers, Owners};
use crate::spec::Shared;
use crate::store::{RunName, Store};
use crate::sys::graft::{attach, copy_tree, open_place, open_place_in, path_of};
use crate::sys::mount::unmount;
use crate::words::describe;

/// What a run shares with others.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Surroundings {
    /// Namespaces of other runs.
    pub joins: Vec<Join>,
    /// Images that are mounted, in the order of the specification.
    pub images: Vec<MountedPart>,
    /// Mounts of the machine that are not private.
    pub linked: Vec<Linked>,
    /// Its processes are not alone in a namespace that ends with init, so their end must be seen to.
    pub shares_processes: bool,
}

/// A namespace of another run.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// Which.
    pub kind: Shared,
    /// Whose.
    pub run: RunName,
}

/// An image, or a part of one, to be mounted.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountedPart {
    /// Its layers in the store, lowest first.
    pub layers: Vec<Digest>,
    /// Absolute path in it of what is mounted; all of it without.
    pub subpath: Option<PathBuf>,
}

/// A bind mount whose later mounts are seen on the other side.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Linked {
    /// Absolute path on the machine.
    pub source: PathBuf,
    /// Absolute path in the container.
    pub destination: PathBuf,
    /// Both ways, or from the machine to the container only.
    pub shared: bool,
    /// With all that is mounted below the source already.
    pub recursive: bool,
    /// The option's name, for messages.
    pub option: String,
}

/// Mounts of the supervisor's own, gone when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Placed(Vec<PathBuf>);

impl Drop for Placed {
    fn drop(&mut self) {
        for target in self.0.iter().rev() {
            // Everything of it goes with the mount namespace at the latest.
            let _ = unmount(target);
        }
    }
}

impl Surroundings {
    /// Puts the namespaces into `run`, the run's directory, for one container: those whose they are may be others by now. The
    /// caller is in a mount namespace of its own.
    pub(super) fn place_joins(&self, store: &Store, run: &Path) -> Result<Placed, StartFailure> {
        let mut placed = Placed::default();
        if !self.joins.is_empty() {
            let dir = run.join("joined");
            make_dir(&dir)?;
            for join in &self.joins {
                place_join(join, store, &dir, &mut placed)?;
            }
        }
        Ok(placed)
    }

    /// The same with the images.
    pub(super) fn place_images(
        &self,
        store: &Store,
        run: &Path,
        choice: Choice,
        owners: Option<Owners<'_>>,
    ) -> Result<Placed, StartFailure> {
        let mut placed = Placed::default();
        if !self.images.is_empty() {
            let dir = run.join("images");
            make_dir(&dir)?;
            for (number, part) in self.images.iter().enumerate() {
                let whole = mount_whole(part, store, &dir, number, (choice, owners), &mut placed)?;
                place_part(part, &whole, dir.join(number.to_string()), &mut placed)?;
            }
        }
        Ok(placed)
    }
}

fn place_join(join: &Join, store: &Store, dir: &Path, placed: &mut Placed) -> Result<(), StartFailure> {
    let flag = join.kind.kernel_name();
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        StartFailure::ours(format!("cannot {what} of run `{}`: {error}", join.run))
    };
    let donor = Donor::find(store, &join.run)?;
    let namespace = donor.namespace(flag).map_err(|error| failed("open a namespace", &error))?;
    let shm = match join.kind {
        Shared::Ipc => Some(donor.shm().map_err(|error| failed("open `/dev/shm`", &error))?),
        Shared::Pid | Shared::Network => None,
    };
    // Only now is it sure that all that was opened is that run's.
    donor.confirm()?;
    let target = dir.join(flag);
    std::fs::write(&target, "").map_err(|error| failed("make room for a namespace", &error))?;
    mount(Some(&path_of(&namespace)), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(|error| failed("keep a namespace", &error))?;
    placed.0.push(target);
    if let Some(shm) = shm {
        let target = dir.join("shm");
        make_dir(&target)?;
        attach(shm.as_fd(), &target).map_err(|error| failed("mount `/dev/shm`", &error))?;
        placed.0.push(target);
    }
    Ok(())
}

/// Mounts the whole image out of the way, for the container's users where they are not the machine's.
fn mount_whole(
    part: &MountedPart,
    store: &Store,
    dir: &Path,
    number: usize,
    (choice, owners): (Choice, Option<Owners<'_>>),
    placed: &mut Placed,
) -> Result<PathBuf, StartFailure> {
    let failed = |error: rootfs::RootfsError| StartFailure::ours(describe(&error));
    let layers = Layers::load(store, &part.layers).map_err(failed)?;
    let scratch = dir.join(format!("{number}.layers"));
    let whole = scratch.join("root");
    make_dir(&scratch)?;
    make_dir(&whole)?;
    let rootfs = rootfs::assemble(choice, &layers, &scratch, &whole, false).map_err(failed)?;
    let Some(owners) = owners else {
        if rootfs.method == rootfs::Method::Overlay {
            placed.0.push(whole.clone());
        }
        return Ok(whole);
    };
    let mapped = dir.join(format!("{number}.mapped"));
    make_dir(&mapped)?;
    rootfs::remount_mapped(&rootfs, &layers, &scratch, &mapped, false, owners).map_err(failed)?;
    placed.0.push(mapped.clone());
    Ok(mapped)
}

/// Mounts the part that is wanted where the specification names it: a link of the image in that part's path then leads
/// nowhere else.
fn place_part(part: &MountedPart, whole: &Path, target: PathBuf, placed: &mut Placed) -> Result<(), StartFailure> {
    let system = |what: &str| {
        let what = what.to_owned();
        move |error: std::io::Error| StartFailure::ours(format!("cannot {what}: {error}"))
    };
    let root = open_place(whole).map_err(system("open a mounted image"))?;
    let wanted = match &part.subpath {
        Some(subpath) => open_place_in(root.as_fd(), subpath)
            .map_err(system(&format!("find `{}` in the mounted image", subpath.display())))?,
        None => root,
    };
    let tree = copy_tree(wanted.as_fd()).map_err(system("mount a part of an image"))?;
    if std::fs::metadata(path_of(&wanted)).map_err(system("look at a part of an image"))?.is_dir() {
        make_dir(&target)?;
    } else {
        std::fs::write(&target, "").map_err(system("make room for a part of an image"))?;
    }
    attach(tree.as_fd(), &target).map_err(system("mount a part of an image"))?;
    placed.0.push(target);
    Ok(())
}

fn make_dir(path: &Path) -> Result<(), StartFailure> {
    match DirBuilder::new().mode(0o755).create(path) {
        // Made for the container before; nobody but root comes here.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map_err(|error| StartFailure::ours(format!("cannot make `{}`: {error}", path.display()))),
    }
}
