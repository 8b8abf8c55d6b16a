//! What libcontainer gets to see of cgroups.
//!
//! It makes its cgroup below the root of each hierarchy, as they are mounted in `/sys/fs/cgroup`, and when a creation fails it
//! kills all processes of that cgroup. So it must never be handed the caller's cgroup. In a mount namespace that is thrown
//! away afterwards it sees
//!
//! - for `own` all there is,
//! - for `nested` the caller's cgroup as the root of each hierarchy,
//! - for `inherit` and `none` no hierarchy at all, which it takes for a machine without controllers: it moves and limits nothing.
//!   For `inherit` the caller's cgroup is there as plain directories, which the container gets to read.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{chroot, fchdir};
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, Mount, MountBuilder, Spec};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::hierarchy::{CGROUP_ROOT, Hierarchy, all_mounts, used};
use super::{Cgroup, CgroupError};
use crate::store::CgroupMode;

/// Where `inherit` finds the caller's cgroups: no name that libcontainer looks for.
const CALLERS: &str = "callers";
/// How a container sees the cgroup it is in.
const READ_ONLY_BIND: [&str; 5] = ["bind", "ro", "nosuid", "noexec", "nodev"];

impl Cgroup {
    /// Makes a specification fit: the path of the cgroup, and for a run that has none of its own no limits, no way to make
    /// device nodes, which nothing would keep it from opening, and the caller's cgroup to look at.
    pub fn adapt(&self, spec: &mut Spec) {
        let path = self.path_in_view();
        if let Some(linux) = spec.linux_mut() {
            linux.set_cgroups_path(Some(PathBuf::from(path)));
            if self.mode.makes_one() {
                return;
            }
            linux.set_resources(None);
            let shown: Vec<String> =
                self.mounts_of_callers().iter().map(|mount| path_of(mount.destination())).collect();
            if let Some(paths) = linux.readonly_paths_mut() {
                paths.retain(|path| !path.starts_with(CGROUP_ROOT) || shown.contains(path));
            }
        }
        if let Some(process) = spec.process_mut()
            && let Some(capabilities) = process.capabilities().as_ref().map(without_mknod)
        {
            process.set_capabilities(Some(capabilities));
        }
        if let Some(mounts) = spec.mounts_mut() {
            mounts.iter_mut().for_each(without_nodes);
            let place = mounts.iter().position(|mount| mount.typ().as_deref() == Some("cgroup"));
            if let Some(place) = place {
                mounts.splice(place..=place, self.mounts_of_callers());
            }
        }
    }

    /// Instead of a mount of the hierarchies, which libcontainer would look for.
    fn mounts_of_callers(&self) -> Vec<Mount> {
        let mount = |destination: String, kind: &str, source: String, options: &[&str]| {
            let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
            let built =
                MountBuilder::default().destination(destination).typ(kind).source(source).options(options).build();
            built.ok()
        };
        let shown = self.shown();
        let tmpfs = |_: &&(usize, &Hierarchy)| {
            mount(CGROUP_ROOT.to_owned(), "tmpfs", "tmpfs".to_owned(), &["nosuid", "noexec", "nodev", "mode=755"])
        };
        let top = shown.first().filter(|(_, hierarchy)| hierarchy.name() != Some("")).as_ref().and_then(tmpfs);
        let binds = shown.iter().filter_map(|(number, hierarchy)| {
            let name = hierarchy.name()?;
            let destination = if name.is_empty() { CGROUP_ROOT.to_owned() } else { format!("{CGROUP_ROOT}/{name}") };
            mount(destination, "bind", format!("{CGROUP_ROOT}/{CALLERS}/{number}"), &READ_ONLY_BIND)
        });
        top.into_iter().chain(binds).collect()
    }

    /// Hierarchies of which the container sees the caller's part, numbered.
    fn shown(&self) -> Vec<(usize, &Hierarchy)> {
        if self.mode != CgroupMode::Inherit {
            return Vec::new();
        }
        used(&self.hierarchies).filter(|hierarchy| hierarchy.name().is_some()).enumerate().collect()
    }

    /// Calls libcontainer where it sees of cgroups what it should. Only for a process with one thread.
    pub fn in_view<T>(&self, work: impl FnOnce() -> T) -> Result<T, CgroupError> {
        if self.mode == CgroupMode::Own {
            return Ok(work());
        }
        let home = File::open("/proc/self/ns/mnt").map_err(failed("open the mount namespace"))?;
        let root = File::open("/").map_err(failed("open `/`"))?;
        unshare(CloneFlags::CLONE_NEWNS).map_err(system("leave the mount namespace"))?;
        let result = self.arrange().map(|()| work());
        setns(&home, CloneFlags::CLONE_NEWNS).map_err(system("go back to the mount namespace"))?;
        // Whoever started us may have another root than the namespace.
        fchdir(&root).and_then(|()| chroot(".")).map_err(system("go back to `/`"))?;
        result
    }

    fn arrange(&self) -> Result<(), CgroupError> {
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).map_err(system("make mounts private"))?;
        let callers = fs::read_to_string("/proc/self/cgroup").map_err(CgroupError::Callers)?;
        let mut trees: Vec<(String, OwnedFd)> = Vec::new();
        if self.mode == CgroupMode::Nested {
            for place in &self.places {
                let name = place.hierarchy.name().ok_or(io::ErrorKind::Unsupported.into());
                let name = name.map_err(failed("find the hierarchies in `/sys/fs/cgroup`"))?;
                trees.push((name.to_owned(), clone_tree(&place.hierarchy.dir_of(&callers))?));
            }
        }
        for (number, hierarchy) in self.shown() {
            trees.push((format!("{CALLERS}/{number}"), clone_tree(&hierarchy.dir_of(&callers))?));
        }
        take_away()?;
        put(trees)
    }
}

/// Takes every hierarchy out of sight. That all are gone is checked: libcontainer must not find the caller's.
fn take_away() -> Result<(), CgroupError> {
    let mounts = || fs::read_to_string("/proc/self/mountinfo").map_err(CgroupError::Mounts);
    let found: Vec<Hierarchy> = all_mounts(&mounts()?).collect();
    for hierarchy in found.iter().rev() {
        // One may have gone with the one it was in.
        let _ = umount2(&hierarchy.mount, MntFlags::MNT_DETACH);
    }
    // The directory that held them, where that is a mount of its own.
    let _ = umount2(CGROUP_ROOT, MntFlags::MNT_DETACH);
    match all_mounts(&mounts()?).next() {
        Some(_) => Err(failed("take the hierarchies away")(io::ErrorKind::ResourceBusy.into())),
        None => Ok(()),
    }
}

fn put(trees: Vec<(String, OwnedFd)>) -> Result<(), CgroupError> {
    let at_root = trees.iter().any(|(name, _)| name.is_empty());
    if !at_root {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("cgroups"), CGROUP_ROOT, Some("tmpfs"), flags, Some("mode=755,size=64k"))
            .map_err(system("mount a tmpfs on `/sys/fs/cgroup`"))?;
    }
    for (name, tree) in trees {
        let target = if name.is_empty() { PathBuf::from(CGROUP_ROOT) } else { Path::new(CGROUP_ROOT).join(name) };
        if !at_root {
            let made = DirBuilder::new().recursive(true).mode(0o755).create(&target);
            made.map_err(failed("make a directory in `/sys/fs/cgroup`"))?;
        }
        move_mount(tree.as_fd(), "", CWD, &target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(|errno| failed("show the caller's cgroup")(errno.into()))?;
    }
    Ok(())
}

/// A mount of that directory that is nowhere yet (kernel 5.2).
fn clone_tree(dir: &Path) -> Result<OwnedFd, CgroupError> {
    open_tree(CWD, dir, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
        .map_err(|errno| failed("open the caller's cgroup")(errno.into()))
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

fn path_of(path: &Path) -> String {
    path.to_string_lossy().into_owned()
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

    fn adapted(mode: CgroupMode, mounts: &str) -> serde_json::Value {
        let cgroup = Cgroup {
            hierarchies: hierarchies(mounts),
            places: Vec::new(),
            mode,
            id: "run-1".to_owned(),
            init: None,
            kills_before: 0,
        };
        let spec = serde_json::json!({
            "ociVersion": "1.1.0",
            "process": { "cwd": "/", "user": { "uid": 0, "gid": 0 }, "capabilities": {
                "bounding": ["CAP_MKNOD", "CAP_KILL"], "effective": ["CAP_MKNOD"], "permitted": ["CAP_MKNOD"] } },
            "mounts": [
                { "destination": "/sys", "type": "sysfs" },
                { "destination": "/sys/fs/cgroup", "type": "cgroup" },
                { "destination": "/dev/shm", "type": "tmpfs" },
            ],
            "linux": { "resources": { "memory": { "limit": 1 } }, "readonlyPaths": ["/proc/sys", "/sys/fs/cgroup/memory"] },
        });
        let mut spec: Spec = serde_json::from_value(spec).unwrap();
        cgroup.adapt(&mut spec);
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
            let spec = adapted(mode, HYBRID);
            assert!(spec["linux"]["resources"].is_null(), "{spec}");
            assert!(!spec.to_string().contains("MKNOD") && spec.to_string().contains("CAP_KILL"), "{spec}");
            assert_eq!(spec["linux"]["cgroupsPath"], "/dockless/run-1");
        }
        let own = adapted(CgroupMode::Own, HYBRID);
        assert!(own["linux"]["resources"]["memory"]["limit"] == 1 && own.to_string().contains("CAP_MKNOD"), "{own}");
    }

    #[test]
    fn the_callers_cgroup_is_shown_where_the_run_stays_in_it() {
        let names = |mode, text| mounts(&adapted(mode, text));
        let (sys, shm) = ("sysfs /sys".to_owned(), "tmpfs /dev/shm".to_owned());
        let between = |list: Vec<String>| {
            assert_eq!((list.first(), list.last()), (Some(&sys), Some(&shm)));
            list[1..list.len() - 1].join(", ")
        };
        assert_eq!(between(names(CgroupMode::Inherit, UNIFIED)), "bind /sys/fs/cgroup");
        let hybrid = "tmpfs /sys/fs/cgroup, bind /sys/fs/cgroup/cpu,cpuacct, bind /sys/fs/cgroup/memory";
        assert_eq!(between(names(CgroupMode::Inherit, HYBRID)), hybrid);
        assert_eq!(between(names(CgroupMode::None, HYBRID)), "");
        assert_eq!(between(names(CgroupMode::Nested, HYBRID)), "cgroup /sys/fs/cgroup");
        let none = adapted(CgroupMode::None, HYBRID);
        assert_eq!(none["linux"]["readonlyPaths"], serde_json::json!(["/proc/sys"]));
    }
}
