//! A container whose users are not the machine's: its user namespace, and a place that its root may enter.
//!
//! The runtime enters the user namespace before it mounts anything, and is nobody then in directories that are root's alone:
//! in the store, and often in those that are mounted. So everything that it mounts is put below a small file system of the
//! supervisor's own mount namespace, by an open directory and not by name; that goes again when the container is made.
//! The runtime reads a specification of its own, in which those places stand; the run keeps the one that was asked for.

use std::fs::{DirBuilder, Permissions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag};
use oci_spec::runtime::{Hook, LinuxDevice, LinuxDeviceType, LinuxNamespaceType, Mount, MountBuilder, Spec};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use super::attempt::without_devices;
use super::protocol::Request;
use crate::container::StartFailure;
use crate::rootfs::{Layers, Owners, Rootfs, namespace_for, remount_mapped};
use crate::store::{RunDir, Store};
use crate::sys::graft::{attach, copy_mount, copy_tree, open_place, path_of};
use crate::sys::mapped_copy;
use crate::sys::mount::unmount;
use crate::words::describe;

/// Directories that every machine has some of and whose content is not needed while a container is made.
const STAGES: [&str; 8] = ["/mnt", "/media", "/srv", "/opt", "/home", "/var/tmp", "/run", "/tmp"];

/// Where message queues are, those of the machine too.
const QUEUES: &str = "/dev/mqueue";

/// The users of a container: a namespace of its own, or none.
#[derive(Debug)]
pub(super) struct Users(Option<(OwnedFd, (u32, u32))>);

impl Users {
    /// Makes the namespace, and sees whether the store can be mounted for it.
    pub(super) fn of(request: &Request, run: &RunDir) -> Result<Self, StartFailure> {
        let Some(maps) = &request.record.id_maps else { return Ok(Self(None)) };
        let root = maps.root().ok_or_else(|| StartFailure::ours("the container's root is not mapped"))?;
        // Before one of its files is to blame.
        let namespace = namespace_for(maps, run.path()).map_err(|error| StartFailure::ours(describe(&error)))?;
        Ok(Self(Some((namespace, root))))
    }

    /// Whose files they see; `None` for the machine's users.
    pub(super) fn owners(&self) -> Option<Owners<'_>> {
        self.0.as_ref().map(|(namespace, root)| Owners { namespace: namespace.as_fd(), root: *root })
    }
}

/// What the container's users need; gone when this is dropped.
#[derive(Debug)]
pub(super) struct Staged {
    stage: Option<PathBuf>,
    bundle: PathBuf,
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(stage) = &self.stage {
            // With all that is mounted below it; at the latest it goes with the mount namespace.
            let _ = unmount(stage);
        }
    }
}

impl Staged {
    /// Where the runtime finds its specification.
    pub(super) fn bundle(&self) -> &Path {
        &self.bundle
    }

    /// Brings everything into place; does nothing for a container with the machine's users.
    pub(super) fn of(
        request: &Request,
        run: &RunDir,
        rootfs: &Rootfs,
        owners: Option<Owners<'_>>,
    ) -> Result<Self, StartFailure> {
        let Some(owners) = owners else { return Ok(Self { stage: None, bundle: run.path().to_owned() }) };
        let config = run.config();
        let mut spec = Spec::load(&config).map_err(|error| failed("read", &config, &error))?;
        // Before anything is covered.
        let trees = open_trees(&mut spec, owners)?;
        let stage = stage(request, &spec)?;
        mount(Some("tmpfs"), &stage, Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=755,size=1m"))
            .map_err(|error| failed("mount a file system at", &stage, &error))?;
        let staged = Self { stage: Some(stage.clone()), bundle: run.path().join("staged") };
        let root = stage.join("rootfs");
        make_dir(&root)?;
        stage_root(request, run, rootfs, &root, owners)?;
        let user = stage.join("user");
        write(&user, b"")?;
        mount(Some(&path_of(&owners.namespace)), &user, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(|error| failed("keep the user namespace at", &user, &error))?;
        stage_mounts(&mut spec, trees, &stage.join("mounts"))?;
        stage_devices(&mut spec, &stage.join("devices"))?;
        if let Some(place) = spec.root_mut() {
            place.set_path(root);
        }
        if let Some(linux) = spec.linux_mut() {
            // The runtime joins it: what it would make itself it cannot map in several lines.
            for one in linux.namespaces_mut().iter_mut().flatten() {
                if one.typ() == LinuxNamespaceType::User {
                    one.set_path(Some(user.clone()));
                }
            }
            linux.set_uid_mappings(None).set_gid_mappings(None);
        }
        staged.write(&spec)?;
        Ok(staged)
    }

    /// The specification as the runtime can follow it.
    fn write(&self, spec: &Spec) -> Result<(), StartFailure> {
        let made = DirBuilder::new().mode(0o700).recursive(true).create(&self.bundle);
        made.map_err(|error| failed("make the directory", &self.bundle, &error))?;
        let path = self.bundle.join("config.json");
        let json = serde_json::to_vec(spec).map_err(|error| failed("write", &path, &error))?;
        write(&path, &json)
    }
}

fn stage_root(
    request: &Request,
    run: &RunDir,
    rootfs: &Rootfs,
    target: &Path,
    owners: Owners<'_>,
) -> Result<(), StartFailure> {
    let rootfs_failed = |error| StartFailure::ours(describe(&error));
    let layers = Layers::load(&Store::at(request.store.clone()), &request.record.layers).map_err(rootfs_failed)?;
    remount_mapped(rootfs, &layers, run.path(), target, request.record.keep, owners).map_err(rootfs_failed)?;
    if request.record.cgroup.as_ref().is_some_and(|cgroup| !cgroup.mode.makes_one()) {
        without_devices(target).map_err(|error| failed("keep devices from being opened in", target, &error))?;
    }
    Ok(())
}

/// A directory that may be covered while the container is made, and that everybody may go to.
fn stage(request: &Request, spec: &Spec) -> Result<PathBuf, StartFailure> {
    let hooks = spec.hooks().iter().flat_map(|hooks| {
        [hooks.create_runtime(), hooks.create_container()].into_iter().flatten().flatten().map(Hook::path)
    });
    let needed: Vec<&PathBuf> =
        [&request.store, &request.state, &request.artifact_store].into_iter().chain(hooks).collect();
    let is_free = |path: &Path| {
        let is_open = |path: &Path| {
            path.symlink_metadata().is_ok_and(|found| found.is_dir() && found.permissions().mode() & 0o001 != 0)
        };
        path.ancestors().all(is_open) && !needed.iter().any(|needed| needed.starts_with(path))
    };
    STAGES.iter().map(Path::new).find(|path| is_free(path)).map(Path::to_owned).ok_or_else(|| {
        let hint = "hint: make `/mnt`, or let the store be somewhere else than below it";
        StartFailure::ours(format!(
            "a container with other users needs one of {} to mount upon\n{hint}",
            STAGES.join(", ")
        ))
    })
}

/// What is to be bind-mounted, by its place in the list of mounts.
struct Tree {
    index: usize,
    mount: OwnedFd,
    is_dir: bool,
}

/// Opens what the specification binds, and takes out of it what is done by that.
fn open_trees(spec: &mut Spec, owners: Owners<'_>) -> Result<Vec<Tree>, StartFailure> {
    let mut trees = Vec::new();
    for (index, mount) in spec.mounts_mut().iter_mut().flatten().enumerate() {
        let has = |word: &str| mount.options().iter().flatten().any(|option| option == word);
        let (is_recursive, is_bind) = (has("rbind"), has("bind") || has("rbind"));
        let Some(source) = mount.source().clone().filter(|_| is_bind) else { continue };
        let cannot = |error: std::io::Error| failed("mount", &source, &error);
        // The machine's queues, whether or not it has mounted them itself.
        if source == Path::new(QUEUES) {
            let mount = mount_queues().map_err(cannot)?;
            trees.push(Tree { index, mount, is_dir: true });
            continue;
        }
        let open = open_place(&source).map_err(cannot)?;
        let is_dir = path_of(&open).metadata().map_err(cannot)?.is_dir();
        // Files keep their owners unless they are the run's own or it was asked otherwise.
        let tree = if has("idmap") {
            let words = mount.options().iter().flatten().filter(|option| *option != "idmap").cloned().collect();
            mount.set_options(Some(words));
            mapped_copy(open.as_fd(), owners.namespace, is_recursive).map_err(|error| no_owners(&source, &error))?
        } else if is_recursive {
            copy_tree(open.as_fd()).map_err(cannot)?
        } else {
            copy_mount(open.as_fd()).map_err(cannot)?
        };
        trees.push(Tree { index, mount: tree, is_dir });
    }
    Ok(trees)
}

/// The message queues of the supervisor's IPC namespace, which is the machine's.
fn mount_queues() -> std::io::Result<OwnedFd> {
    let attributes =
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let context = fsopen(c"mqueue", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Lets the mounts come from below `dir`.
fn stage_mounts(spec: &mut Spec, trees: Vec<Tree>, dir: &Path) -> Result<(), StartFailure> {
    make_dir(dir)?;
    for tree in trees {
        let place = dir.join(tree.index.to_string());
        if tree.is_dir {
            make_dir(&place)?;
        } else {
            write(&place, b"")?;
        }
        attach(tree.mount.as_fd(), &place).map_err(|error| failed("mount at", &place, &error))?;
        if let Some(mount) = spec.mounts_mut().as_mut().and_then(|mounts| mounts.get_mut(tree.index)) {
            mount.set_source(Some(place));
        }
    }
    Ok(())
}

fn no_owners(source: &Path, error: &std::io::Error) -> StartFailure {
    let why = "its file system or the kernel cannot mount it with other owners";
    let hint = "hint: leave `idmap` out; where it was not asked for, leave `--userns` and `--uidmap` out";
    StartFailure::ours(format!("cannot mount `{}` for the container's users: {why}: {error}\n{hint}", source.display()))
}

/// Devices that the machine has under the same name are mounted by the runtime, the others here.
fn stage_devices(spec: &mut Spec, dir: &Path) -> Result<(), StartFailure> {
    let Some(linux) = spec.linux_mut() else { return Ok(()) };
    let (same, others): (Vec<_>, Vec<_>) =
        linux.devices().clone().unwrap_or_default().into_iter().partition(is_same_here);
    linux.set_devices(Some(same));
    make_dir(dir)?;
    for (number, device) in others.iter().enumerate() {
        let mount = stage_device(device, &dir.join(number.to_string()))?;
        spec.mounts_mut().get_or_insert_default().push(mount);
    }
    Ok(())
}

/// Whether the machine has the device under the same name: then the runtime mounts that one.
fn is_same_here(device: &LinuxDevice) -> bool {
    device.path().symlink_metadata().is_ok_and(|found| {
        (found.file_type().is_char_device() || found.file_type().is_block_device()) && found.rdev() == number(device)
    })
}

fn number(device: &LinuxDevice) -> u64 {
    nix::sys::stat::makedev(device.major().cast_unsigned(), device.minor().cast_unsigned())
}

/// A node under another name than the machine's own, which only the machine's root can make: whose it is there it is here.
fn stage_device(device: &LinuxDevice, place: &Path) -> Result<Mount, StartFailure> {
    let cannot = |error: &dyn std::fmt::Display| failed("make a node for", device.path(), error);
    let kind = if device.typ() == LinuxDeviceType::B { SFlag::S_IFBLK } else { SFlag::S_IFCHR };
    let mode = Mode::from_bits_truncate(device.file_mode().unwrap_or(0o600));
    nix::sys::stat::mknod(place, kind, mode, number(device)).map_err(|error| cannot(&error))?;
    std::os::unix::fs::chown(place, device.uid(), device.gid()).map_err(|error| cannot(&error))?;
    // The umask is ours.
    std::fs::set_permissions(place, Permissions::from_mode(mode.bits())).map_err(|error| cannot(&error))?;
    let options = ["bind", "rprivate", "nosuid", "noexec"].map(str::to_owned);
    let mount = MountBuilder::default().destination(device.path().as_path()).typ("bind").source(place).options(options);
    mount.build().map_err(|error| cannot(&error))
}

fn make_dir(path: &Path) -> Result<(), StartFailure> {
    let made = DirBuilder::new().mode(0o755).create(path);
    made.and_then(|()| std::fs::set_permissions(path, Permissions::from_mode(0o755)))
        .map_err(|error| failed("make", path, &error))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), StartFailure> {
    std::fs::write(path, bytes).map_err(|error| failed("write", path, &error))
}

fn failed(what: &str, path: &Path, error: &dyn std::fmt::Display) -> StartFailure {
    StartFailure::ours(format!("cannot {what} `{}`: {error}", path.display()))
}
