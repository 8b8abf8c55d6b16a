//! Which hierarchies are mounted, and where in each of them a process is.
//!
//! Facts: `proc_pid_mountinfo(5)` for the mounts, cgroups(7) for `/proc/PID/cgroup`. With a cgroup namespace or a container
//! around us a mount shows a part of the hierarchy only, and the path of a process may lead out of what is mounted.

use std::path::{Path, PathBuf};

/// Where hierarchies are mounted by convention; libcontainer knows no other place.
pub(super) const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// Controllers of version 1 that the runtime makes cgroups for, as mount options name them.
const CONTROLLERS: [&str; 12] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "hugetlb",
    "memory",
    "net_cls",
    "net_prio",
    "pids",
    "perf_event",
    "blkio",
    "freezer",
];

/// The two kinds of hierarchies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// What of the hierarchy is mounted: `/` for all of it.
    pub(super) root: String,
    pub(super) mount: PathBuf,
    pub(super) version: Version,
    /// v1 only, with the other mount options: `memory`, `cpu`, `name=systemd`, …
    pub(super) controllers: Vec<String>,
}

impl Hierarchy {
    /// Whether it is of version 1 and has this controller.
    pub(super) fn controls(&self, controller: &str) -> bool {
        self.controllers.iter().any(|own| own == controller)
    }

    /// Its directory below [`CGROUP_ROOT`]: `memory`; empty for the root itself, nothing for another place.
    pub(super) fn name(&self) -> Option<&str> {
        self.mount.strip_prefix(CGROUP_ROOT).ok()?.to_str()
    }

    /// The directory of a process whose `/proc/PID/cgroup` this is.
    ///
    /// Where its path leads out of what is mounted, the mount itself is all that can be seen of it.
    pub(super) fn dir_of(&self, proc_cgroup: &str) -> PathBuf {
        let path = proc_cgroup.lines().find_map(|line| {
            let (number, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            let is_this = match self.version {
                Version::V2 => number == "0" && controllers.is_empty(),
                Version::V1 => !controllers.is_empty() && controllers.split(',').all(|name| self.controls(name)),
            };
            is_this.then_some(path)
        });
        let below = path.and_then(|path| Path::new(path).strip_prefix(&self.root).ok());
        let inside = below.filter(|below| !below.components().any(|part| part.as_os_str() == ".."));
        let dir = inside.map_or_else(|| self.mount.clone(), |below| self.mount.join(below));
        // Joining an empty path leaves a slash at the end.
        let dir: PathBuf = dir.components().collect();
        if dir.is_dir() { dir } else { self.mount.clone() }
    }
}

/// Which kind of hierarchy has the controllers.
pub(super) fn version(hierarchies: &[Hierarchy]) -> Version {
    let has_v1 = hierarchies.iter().any(|hierarchy| hierarchy.controls("memory") || hierarchy.controls("cpu"));
    if has_v1 { Version::V1 } else { Version::V2 }
}

/// Those in which the runtime makes cgroups: all with controllers of version 1 where there are such, else the unified one.
pub(super) fn used(hierarchies: &[Hierarchy]) -> impl Iterator<Item = &Hierarchy> {
    let version = version(hierarchies);
    hierarchies.iter().filter(move |hierarchy| match version {
        Version::V1 => CONTROLLERS.iter().any(|name| hierarchy.controls(name)),
        Version::V2 => hierarchy.version == Version::V2,
    })
}

/// Finds the cgroup mounts in the text of mountinfo.
pub(super) fn hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for hierarchy in all_mounts(mountinfo) {
        // A hierarchy may be mounted in several places; the first is the one that counts.
        let is_known =
            |known: &Hierarchy| known.version == hierarchy.version && known.controllers == hierarchy.controllers;
        if !found.iter().any(is_known) {
            found.push(hierarchy);
        }
    }
    found
}

/// Every mount of a hierarchy, in the order of mounting.
pub(super) fn all_mounts(mountinfo: &str) -> impl Iterator<Item = Hierarchy> {
    mountinfo.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let (mut left, mut right) = (left.split(' ').skip(3), right.split(' '));
        let (root, mount, kind) = (left.next()?, left.next()?, right.next()?);
        let (version, controllers) = match kind {
            "cgroup2" => (Version::V2, Vec::new()),
            "cgroup" => {
                let options = right.nth(1).unwrap_or_default();
                (Version::V1, options.split(',').map(str::to_owned).collect())
            }
            _ => return None,
        };
        Some(Hierarchy { root: root.to_owned(), mount: PathBuf::from(mount), version, controllers })
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) const HYBRID: &str = "\
30 20 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
34 30 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
    pub(in super::super) const UNIFIED: &str =
        "30 20 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";

    #[test]
    fn reads_hybrid_and_unified_mounts() {
        let found = hierarchies(HYBRID);
        assert_eq!(found.len(), 4);
        assert_eq!(version(&found), Version::V1);
        let names: Vec<&str> = used(&found).filter_map(Hierarchy::name).collect();
        assert_eq!(names, ["cpu,cpuacct", "memory"]);
        let found = hierarchies(UNIFIED);
        assert_eq!(version(&found), Version::V2);
        assert_eq!(used(&found).filter_map(Hierarchy::name).collect::<Vec<_>>(), [""]);
        assert!(hierarchies("").is_empty());
    }

    #[test]
    fn finds_the_place_of_a_process() {
        let root = tempfile::tempdir().unwrap();
        for dir in ["job/step", "docker"] {
            std::fs::create_dir_all(root.path().join(dir)).unwrap();
        }
        let at = |hierarchy_root: &str, version, controllers: &[&str], text: &str| {
            let hierarchy = Hierarchy {
                root: hierarchy_root.to_owned(),
                mount: root.path().to_owned(),
                version,
                controllers: controllers.iter().map(|&name| name.to_owned()).collect(),
            };
            let dir = hierarchy.dir_of(text);
            dir.strip_prefix(root.path()).unwrap().to_str().unwrap().to_owned()
        };
        let v2 =
            |hierarchy_root: &str, path: &str| at(hierarchy_root, Version::V2, &[], &format!("3:cpu:/x\n0::{path}\n"));
        assert_eq!(v2("/", "/job/step"), "job/step");
        assert_eq!(v2("/", "/"), "");
        // A container without a namespace of its own for cgroups.
        assert_eq!(v2("/docker/abc", "/docker/abc"), "");
        assert_eq!(v2("/docker/abc", "/docker/abc/job/step"), "job/step");
        // Out of what is mounted, or no longer there.
        for path in ["/other", "/../x", "/docker/../job"] {
            assert_eq!(v2("/docker/abc", path), "", "{path}");
        }
        assert_eq!(v2("/", "/job/../docker"), "");
        let v1 = |controllers: &[&str], text: &str| at("/", Version::V1, controllers, text);
        assert_eq!(v1(&["rw", "memory"], "4:memory:/job\n0::/docker\n"), "job");
        assert_eq!(v1(&["rw", "cpu", "cpuacct"], "4:memory:/job\n2:cpu,cpuacct:/docker\n"), "docker");
        assert_eq!(v1(&["rw", "pids"], "4:memory:/job\n"), "");
    }
}
