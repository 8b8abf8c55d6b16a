//! How much this machine has to give: processors and memory.
//!
//! Where it is read: `sched_getaffinity(2)`; `MemTotal` of `proc_meminfo(5)`; the memory limits of the cgroup that this
//! process is in and of those above it (`memory.max`, cgroup-v2.rst; `memory.limit_in_bytes`, cgroup-v1/memory.rst), since
//! a batch system or a container around us is asked for its share, not for the machine. GPUs are `gpu`'s matter.

use std::fs;
use std::path::{Path, PathBuf};

use super::host::{HostError, cpu_count};
use crate::image::ByteSize;

/// What there is, whoever uses it at the moment.
#[derive(Debug, Clone, PartialEq)]
pub struct HostResources {
    /// Processors that this process may use.
    pub cpus: u32,
    /// Memory, or the part of it that the cgroup of this process may use.
    pub memory: ByteSize,
    /// It is the cgroup's limit, and the machine has more.
    pub memory_is_limited: bool,
}

/// Looks at the machine whose file systems are mounted below `root`, which is `/` but in tests.
pub fn host_resources(root: &Path) -> Result<HostResources, HostError> {
    let total = total_memory(root)?;
    let limit = memory_limit(root).filter(|limit| *limit < total);
    Ok(HostResources { cpus: cpu_count(), memory: limit.unwrap_or(total), memory_is_limited: limit.is_some() })
}

fn total_memory(root: &Path) -> Result<ByteSize, HostError> {
    const PATH: &str = "/proc/meminfo";
    let text =
        fs::read_to_string(root.join("proc/meminfo")).map_err(|source| HostError::Read { path: PATH, source })?;
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    kib.and_then(|kib: u64| kib.checked_mul(1024)).map(ByteSize).ok_or(HostError::Form { path: PATH })
}

/// The least limit from this process's cgroup up to the root of what is mounted; `None` without any.
fn memory_limit(root: &Path) -> Option<ByteSize> {
    let own = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mounts = root.join("sys/fs/cgroup");
    let limits = own.lines().filter_map(|line| {
        // `hierarchy:controllers:path` (cgroups(7)); in v2 the hierarchy is 0 and there are no controllers.
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let least = |mount: PathBuf, file: &str| {
            let below = mount.join(path.trim_start_matches('/'));
            // With a cgroup namespace around us the path may lead out of what is mounted: then only its root is ours.
            let lowest = if below.starts_with(&mount) && below.is_dir() { below } else { mount.clone() };
            let all = lowest.ancestors().take_while(|dir| dir.starts_with(&mount));
            all.filter_map(|dir| fs::read_to_string(dir.join(file)).ok()?.trim().parse::<u64>().ok()).min()
        };
        match controllers {
            "" if mounts.join("unified").is_dir() => least(mounts.join("unified"), "memory.max"),
            "" => least(mounts.clone(), "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                least(mounts.join("memory"), "memory.limit_in_bytes")
            }
            _ => None,
        }
    });
    limits.min().map(ByteSize)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root directory with these files.
    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let memory = ("proc/meminfo", "MemTotal:       16777216 kB\nMemFree:         1000000 kB\n");
        for (path, text) in files.iter().chain([&memory]) {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn memory(files: &[(&str, &str)]) -> (u64, bool) {
        let found = host_resources(root(files).path()).unwrap();
        (found.memory.0 >> 20, found.memory_is_limited)
    }

    #[test]
    fn memory_is_what_the_cgroup_leaves_of_it() {
        assert_eq!(memory(&[]), (16384, false));
        let v2 = ("proc/self/cgroup", "0::/batch/job\n");
        let job = |limit| ("sys/fs/cgroup/batch/job/memory.max", limit);
        assert_eq!(memory(&[v2, job("4294967296\n")]), (4096, true));
        assert_eq!(memory(&[v2, job("max\n")]), (16384, false));
        assert_eq!(memory(&[v2, job("max\n"), ("sys/fs/cgroup/batch/memory.max", "1073741824\n")]), (1024, true));
        // More than there is is no limit.
        assert_eq!(memory(&[v2, job("99999999999999\n")]), (16384, false));
        // A namespace around us: the path is that of the machine, the mount is ours.
        assert_eq!(memory(&[v2, ("sys/fs/cgroup/memory.max", "2147483648\n")]), (2048, true));
        assert_eq!(memory(&[("proc/self/cgroup", "0::/../x\n"), ("sys/fs/cgroup/memory.max", "max")]), (16384, false));
        let v1 = ("proc/self/cgroup", "5:cpu,cpuacct:/a\n4:memory:/a\n0::/a\n");
        let limit = ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "8589934592\n");
        assert_eq!(memory(&[v1, limit]), (8192, true));
        let none = ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(memory(&[v1, none]), (16384, false));
    }

    #[test]
    fn this_machine_can_be_measured() {
        let found = host_resources(Path::new("/")).unwrap();
        assert!(found.cpus > 0 && found.memory.0 > 1 << 20, "{found:?}");
        let empty = tempfile::tempdir().unwrap();
        assert!(matches!(host_resources(empty.path()), Err(HostError::Read { .. })));
    }
}
