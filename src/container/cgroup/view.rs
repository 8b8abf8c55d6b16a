//! What libcontainer and the container get to see of cgroups.
//!
//! libcontainer would make a cgroup of its own, move processes there, and kill all that are in it when a creation fails. All
//! that is ours, so it sees no hierarchy, which it takes for a machine without controllers: it moves and limits nothing. It
//! is called by a process that ends afterwards, in a mount namespace where a tmpfs hides the hierarchies; in there is, for
//! the container, a tree of the cgroup that it is in: the run's own, or with `inherit` the caller's.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, Mount, Spec};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::hierarchy::{CGROUP_ROOT, Hierarchy, all_mounts};
use super::{Cgroup, CgroupError};
use crate::store::CgroupMode;

/// What is in the tmpfs: the specification that libcontainer reads; the container's directory of hierarchies; with numbers each
/// of these, since libcontainer knows them by the names that they have there, and volumes that would be hidden.
const BUNDLE: &str = "bundle";
const SHOWN: &str = "shown";
const TREE: &str = "tree-";
const VOLUME: &str = "volume-";
/// Options of the mount of the hierarchies that are kept.
const KEPT_OPTIONS: [&str; 4] = ["ro", "nosuid", "nodev", "noexec"];

impl Cgroup {
    /// Makes a specification fit: the path of the cgroup, and for a run that has none of its own no limits and no way to make
    /// device nodes, which nothing would keep it from opening.
    pub fn adapt(&self, spec: &mut Spec) {
        let path = self.path();
        if let Some(linux) = spec.linux_mut() {
            linux.set_cgroups_path(Some(PathBuf::from(path)));
            if self.mode.makes_one() {
                return;
            }
            linux.set_resources(None);
        }
        if let Some(process) = spec.process_mut()
            && let Some(capabilities) = process.capabilities().as_ref().map(without_mknod)
        {
            process.set_capabilities(Some(capabilities));
        }
        if let Some(mounts) = spec.mounts_mut() {
            mounts.iter_mut().for_each(without_nodes);
            mounts.retain(|mount| self.mode != CgroupMode::None || !shows_cgroups(mount));
        }
    }

    /// Leaves the machine's mounts for some without cgroup hierarchies; to be called in the cgroup, by a process with one thread
    /// that ends when it has made the container. The result is the bundle that libcontainer takes in place of this one: of that
    /// nothing but the specification is of interest, since its paths are absolute.
    pub fn hide(&self, bundle: &Path) -> Result<PathBuf, CgroupError> {
        let rewritten = "write the specification for the runtime";
        let mut spec =
            Spec::load(bundle.join("config.json")).map_err(|error| failed(rewritten)(io::Error::other(error)))?;
        unshare(CloneFlags::CLONE_NEWNS).map_err(system("leave the mount namespace"))?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).map_err(system("make mounts private"))?;
        let own = fs::read_to_string("/proc/self/cgroup").map_err(CgroupError::Callers)?;
        let shown = self.shown();
        let names: Vec<&str> = self.shown().filter_map(Hierarchy::name).collect();
        let trees = shown.map(|hierarchy| clone_tree(&hierarchy.dir_of(&own))).collect::<Result<Vec<_>, _>>()?;
        let volumes = take_volumes(&mut spec)?;
        for_runtime(&mut spec, &names);
        take_away()?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("cgroups"), CGROUP_ROOT, Some("tmpfs"), flags, Some("mode=755,size=64m"))
            .map_err(system("mount a tmpfs on `/sys/fs/cgroup`"))?;
        show(&names)?;
        for (place, tree) in (0..).map(tree_place).zip(trees).chain(volumes) {
            put(&tree, &place)?;
        }
        let dir = in_tmpfs(BUNDLE);
        fs::create_dir(&dir).map_err(failed(rewritten))?;
        spec.save(dir.join("config.json")).map_err(|error| failed(rewritten)(io::Error::other(error)))?;
        Ok(dir)
    }

    /// Hierarchies of which the container sees a part.
    fn shown(&self) -> impl Iterator<Item = &Hierarchy> {
        let version = self.version();
        let is_shown = move |hierarchy: &&Hierarchy| hierarchy.version == version && hierarchy.name().is_some();
        self.hierarchies.iter().filter(move |hierarchy| self.mode != CgroupMode::None && is_shown(hierarchy))
    }
}

/// Takes every hierarchy out of sight. That all are gone is checked: libcontainer must not find any.
fn take_away() -> Result<(), CgroupError> {
    let mounts = || fs::read_to_string("/proc/self/mountinfo").map_err(CgroupError::Mounts);
    // Where that is a mount all go with it at once.
    let _ = umount2(CGROUP_ROOT, MntFlags::MNT_DETACH);
    let found: Vec<Hierarchy> = all_mounts(&mounts()?).collect();
    for hierarchy in found.iter().rev() {
        // One may have gone with the one it was in.
        let _ = umount2(&hierarchy.mount, MntFlags::MNT_DETACH);
    }
    if found.is_empty() {
        return Ok(());
    }
    match all_mounts(&mounts()?).next() {
        Some(_) => Err(failed("take the hierarchies away")(io::ErrorKind::ResourceBusy.into())),
        None => Ok(()),
    }
}

/// The directory in which the container sees its hierarchies of version 1.
fn show(names: &[&str]) -> Result<(), CgroupError> {
    let root = in_tmpfs(SHOWN);
    let failed = |error| failed("make a directory in `/sys/fs/cgroup`")(error);
    fs::create_dir(&root).map_err(failed)?;
    for name in names.iter().filter(|name| !name.is_empty()) {
        DirBuilder::new().recursive(true).mode(0o755).create(root.join(name)).map_err(failed)?;
        // Programs look for `cpu` where the machine has `cpu,cpuacct`.
        for part in name.split(',').filter(|part| part != name) {
            symlink(name, root.join(part)).map_err(failed)?;
        }
    }
    Ok(())
}

fn in_tmpfs(name: &str) -> PathBuf {
    Path::new(CGROUP_ROOT).join(name)
}

fn tree_place(number: usize) -> PathBuf {
    in_tmpfs(&format!("{TREE}{number}"))
}

/// The volumes whose source is about to be hidden, or something in it, and where it is from then on. libcontainer finds
/// hierarchies of version 1 there and moves the container to where it is already.
fn take_volumes(spec: &mut Spec) -> Result<Vec<(PathBuf, OwnedFd)>, CgroupError> {
    let mounted = fs::read_to_string("/proc/self/mountinfo").map_err(CgroupError::Mounts)?;
    let hidden: Vec<PathBuf> =
        all_mounts(&mounted).map(|hierarchy| hierarchy.mount).chain([PathBuf::from(CGROUP_ROOT)]).collect();
    let mut taken = Vec::new();
    for mount in spec.mounts_mut().iter_mut().flatten() {
        let has = |word: &str| mount.options().iter().flatten().any(|option| option == word);
        let concerns = |source: &PathBuf| {
            let has_below = |dir: &PathBuf| has("rbind") && dir.starts_with(source);
            hidden.iter().any(|dir| source.starts_with(dir) || has_below(dir))
        };
        let source = mount.source().clone().filter(|_| has("bind") || has("rbind")).filter(concerns);
        let Some(source) = source else { continue };
        let place = in_tmpfs(&format!("{VOLUME}{}", taken.len()));
        let flags = OpenTreeFlags::AT_RECURSIVE | OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(CWD, &source, flags).map_err(|errno| failed("open a volume")(errno.into()))?;
        taken.push((place.clone(), tree));
        mount.set_source(Some(place));
    }
    Ok(taken)
}

fn put(tree: &OwnedFd, place: &Path) -> Result<(), CgroupError> {
    let is_dir = rustix::fs::fstat(tree)
        .is_ok_and(|found| rustix::fs::FileType::from_raw_mode(found.st_mode) == rustix::fs::FileType::Directory);
    let made = if is_dir {
        DirBuilder::new().recursive(true).mode(0o755).create(place)
    } else {
        File::create_new(place).map(drop)
    };
    made.map_err(failed("make a place in `/sys/fs/cgroup`"))?;
    move_mount(tree.as_fd(), "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|errno| failed("show the cgroup")(errno.into()))
}

/// Without limits, and with the trees of these names in place of the mount of the hierarchies.
fn for_runtime(spec: &mut Spec, names: &[&str]) {
    if let Some(linux) = spec.linux_mut() {
        linux.set_resources(None);
        if let Some(paths) = linux.readonly_paths_mut() {
            // The mounts are so by themselves.
            paths.retain(|path| !path.starts_with(CGROUP_ROOT));
        }
    }
    let Some(mounts) = spec.mounts_mut() else { return };
    let Some(place) = mounts.iter().position(shows_cgroups) else { return };
    let bind = |destination: PathBuf, source: PathBuf| {
        let mut mount = mounts[place].clone();
        let options = mount.options().iter().flatten().filter(|option| KEPT_OPTIONS.contains(&option.as_str()));
        let options = std::iter::once("bind".to_owned()).chain(options.cloned()).collect();
        mount.set_typ(Some("bind".to_owned())).set_destination(destination);
        mount.set_source(Some(source)).set_options(Some(options));
        mount
    };
    let root = mounts[place].destination().clone();
    // Version 2 is the root itself.
    let top = (names != [""]).then(|| bind(root.clone(), in_tmpfs(SHOWN)));
    let trees = names.iter().enumerate().map(|(number, name)| {
        let destination = if name.is_empty() { root.clone() } else { root.join(name) };
        bind(destination, tree_place(number))
    });
    let shown: Vec<Mount> = top.into_iter().chain(trees).collect();
    mounts.splice(place..=place, shown);
}

fn shows_cgroups(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("cgroup")
}

/// A mount of that directory that is nowhere yet (kernel 5.2).
fn clone_tree(dir: &Path) -> Result<OwnedFd, CgroupError> {
    open_tree(CWD, dir, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
        .map_err(|errno| failed("open the cgroup")(errno.into()))
}

/// Keeps device nodes in bound directories from being opened: those of an image's volume, or what an earlier run has left in
/// a cache. A node that is bound by itself is meant.
fn without_nodes(mount: &mut Mount) {
    let options = mount.options().clone().unwrap_or_default();
    let is_bind = options.iter().any(|option| option == "bind" || option == "rbind");
    // The directory of a volume is made later.
    let may_hold_nodes = mount.source().as_deref().is_some_and(|source| source.is_dir() || !source.exists());
    if is_bind && may_hold_nodes {
        mount.set_options(Some([options, vec!["nodev".to_owned()]].concat()));
    }
}

fn without_mknod(capabilities: &LinuxCapabilities) -> LinuxCapabilities {
    let without = |set: &Option<Capabilities>| {
        let mut set = set.clone()?;
        set.remove(&Capability::Mknod);
        Some(set)
    };
    let mut fewer = LinuxCapabilities::default();
    fewer
        .set_bounding(without(capabilities.bounding()))
        .set_effective(without(capabilities.effective()))
        .set_inheritable(without(capabilities.inheritable()))
        .set_permitted(without(capabilities.permitted()))
        .set_ambient(without(capabilities.ambient()));
    fewer
}

fn failed(operation: &'static str) -> impl Fn(io::Error) -> CgroupError {
    move |source| CgroupError::View { operation, source }
}

fn system(operation: &'static str) -> impl Fn(nix::Error) -> CgroupError {
    move |errno| CgroupError::View { operation, source: errno.into() }
}

#[cfg(test)]
mod tests {
    use super::super::hierarchy::hierarchies;
    use super::super::hierarchy::tests::{HYBRID, UNIFIED};
    use super::*;

    fn cgroup(mode: CgroupMode, mounts: &str) -> Cgroup {
        let hierarchies = hierarchies(mounts);
        Cgroup { hierarchies, places: Vec::new(), mode, id: "run-1".to_owned(), init: None, kills_before: 0 }
    }

    fn adapted(mode: CgroupMode) -> serde_json::Value {
        let spec = serde_json::json!({
            "ociVersion": "1.1.0",
            "process": { "cwd": "/", "user": { "uid": 0, "gid": 0 }, "capabilities": {
                "bounding": ["CAP_MKNOD", "CAP_KILL"], "effective": ["CAP_MKNOD"], "permitted": ["CAP_MKNOD"] } },
            "mounts": [
                { "destination": "/sys", "type": "sysfs" },
                { "destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["relatime", "ro"] },
                { "destination": "/dev/shm", "type": "tmpfs" },
            ],
            "linux": { "resources": { "memory": { "limit": 1 } }, "readonlyPaths": ["/proc/sys", "/sys/fs/cgroup/memory"] },
        });
        let mut spec: Spec = serde_json::from_value(spec).unwrap();
        cgroup(mode, HYBRID).adapt(&mut spec);
        serde_json::to_value(spec).unwrap()
    }

    fn mounts(spec: &serde_json::Value) -> Vec<String> {
        let mounts = spec["mounts"].as_array().unwrap().iter();
        mounts
            .map(|mount| format!("{} {}", mount["type"].as_str().unwrap(), mount["destination"].as_str().unwrap()))
            .collect()
    }

    #[test]
    fn a_run_without_a_cgroup_has_neither_limits_nor_device_nodes() {
        for mode in [CgroupMode::Inherit, CgroupMode::None] {
            let spec = adapted(mode);
            assert!(spec["linux"]["resources"].is_null(), "{spec}");
            assert!(!spec.to_string().contains("MKNOD") && spec.to_string().contains("CAP_KILL"), "{spec}");
            assert_eq!(spec["linux"]["cgroupsPath"], "/dockless/run-1");
        }
        let own = adapted(CgroupMode::Own);
        assert!(own["linux"]["resources"]["memory"]["limit"] == 1 && own.to_string().contains("CAP_MKNOD"), "{own}");
    }

    #[test]
    fn the_runtime_is_told_of_no_cgroups() {
        let v1 = "bind /sys/fs/cgroup, bind /sys/fs/cgroup/cpu,cpuacct, bind /sys/fs/cgroup/memory";
        for (mode, names, shown) in [
            (CgroupMode::Own, vec!["cpu,cpuacct", "memory"], v1),
            (CgroupMode::Inherit, vec![""], "bind /sys/fs/cgroup"),
            (CgroupMode::None, vec![], ""),
        ] {
            let mut spec: Spec = serde_json::from_value(adapted(mode)).unwrap();
            for_runtime(&mut spec, &names);
            let spec = serde_json::to_value(spec).unwrap();
            let found = mounts(&spec);
            assert_eq!(found[1..found.len() - 1].join(", "), shown);
            assert!(spec["linux"]["resources"].is_null());
            assert_eq!(spec["linux"]["readonlyPaths"], serde_json::json!(["/proc/sys"]));
            if mode != CgroupMode::None {
                assert_eq!(spec["mounts"][1]["options"], serde_json::json!(["bind", "ro"]));
            }
        }
    }

    #[test]
    fn what_has_the_controllers_is_shown() {
        let names = |mode, text: &str| {
            let cgroup = cgroup(mode, text);
            cgroup.shown().filter_map(Hierarchy::name).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(names(CgroupMode::Own, UNIFIED), [""]);
        assert_eq!(names(CgroupMode::Inherit, HYBRID), ["cpu,cpuacct", "memory", "systemd"]);
        assert!(names(CgroupMode::None, HYBRID).is_empty());
    }
}
