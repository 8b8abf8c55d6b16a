//! The cgroup of a run: found in every hierarchy, read before it goes, emptied, removed.
//!
//! libcontainer creates it and sets its limits. What remains ours: the counters that tell how a run ended (kernel
//! documentation, cgroup-v1/memory.rst and cgroup-v2.rst), killing what is left in it, and removing it together with the
//! parent we made. Only cgroups under [`PARENT`] are ever touched.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::spec::CgroupVersion;
use crate::sys;

/// The cgroup that holds all of ours, below each hierarchy's root.
const PARENT: &str = "dockless";
/// A process that was killed needs a moment to leave its cgroup.
const EMPTY_ATTEMPTS: u32 = 200;
/// How often the lock of the parent is asked for when that looks empty.
const PARENT_ATTEMPTS: u32 = 20;
const EMPTY_PAUSE: Duration = Duration::from_millis(5);

/// The two kinds of hierarchies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    mount: PathBuf,
    version: Version,
    /// v1 only: `memory`, `cpu`, …
    controllers: Vec<String>,
}

/// The cgroup of one run.
#[derive(Debug, Clone)]
pub struct Cgroup {
    hierarchies: Vec<Hierarchy>,
    name: String,
}

/// What a run has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Highest memory use in bytes; `None` where the kernel does not count it (v2 before 5.19).
    pub memory_peak: Option<u64>,
    /// Processes killed for want of memory.
    pub oom_kills: u64,
    /// Time on processors; `None` where nobody counts it.
    pub cpu: Option<Duration>,
}

/// Why cgroups cannot be had or removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The mounts cannot be read.
    #[error("cannot read `/proc/self/mountinfo`")]
    Mounts(#[source] io::Error),
    /// There is none.
    #[error("no cgroup hierarchy is mounted\nhint: mount one, e.g. `mount -t cgroup2 none /sys/fs/cgroup`")]
    None,
    /// It does not go away.
    #[error("cannot remove cgroup `{path}`")]
    Remove {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Keeps [`PARENT`] from being removed while a cgroup is made in it.
#[derive(Debug)]
pub struct ParentGuard(#[expect(dead_code, reason = "held for its lock")] Option<Flock<File>>);

impl Cgroup {
    /// The cgroup `/dockless/<id>` of every mounted hierarchy, whether it exists there or not.
    pub fn of(id: &str) -> Result<Self, CgroupError> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(CgroupError::Mounts)?;
        let hierarchies = hierarchies(&mounts);
        if hierarchies.is_empty() { Err(CgroupError::None) } else { Ok(Self { hierarchies, name: id.to_owned() }) }
    }

    /// The path as the runtime spec wants it.
    #[must_use]
    pub fn spec_path(id: &str) -> String {
        format!("/{PARENT}/{id}")
    }

    /// What is mounted, as the spec wants to know it.
    #[must_use]
    pub fn spec_version(&self) -> CgroupVersion {
        let names =
            self.hierarchies.iter().filter(|hierarchy| hierarchy.version == Version::V1).filter_map(|hierarchy| {
                let directory = hierarchy.mount.strip_prefix("/sys/fs/cgroup").ok()?;
                Some(directory.to_str()?.to_owned())
            });
        match self.version() {
            Version::V1 => CgroupVersion::V1 { hierarchies: names.collect() },
            Version::V2 => CgroupVersion::V2,
        }
    }

    /// Which kind of hierarchy has the controllers.
    fn version(&self) -> Version {
        let v1 = self.hierarchies.iter().any(|h| h.controllers.iter().any(|c| c == "memory" || c == "cpu"));
        if v1 { Version::V1 } else { Version::V2 }
    }

    /// Its directory where all controllers are in the unified hierarchy, which has no file for device rules.
    #[must_use]
    pub fn unified_dir(&self) -> Option<PathBuf> {
        let unified = self.hierarchies.iter().find(|hierarchy| hierarchy.version == Version::V2);
        unified.filter(|_| self.version() == Version::V2).map(|hierarchy| self.dir(&hierarchy.mount))
    }

    /// Whether the kernel limits swap per cgroup.
    #[must_use]
    pub fn has_swap_accounting(&self) -> bool {
        match self.version() {
            Version::V1 => self.v1_root("memory").is_some_and(|root| root.join("memory.memsw.limit_in_bytes").exists()),
            // The root has no memory.swap.max of its own; every kernel with v2 memory control since 4.5 can have it.
            Version::V2 => Path::new("/proc/swaps").exists(),
        }
    }

    /// To be held while the runtime makes the cgroup.
    #[must_use]
    pub fn guard_parent(&self) -> ParentGuard {
        ParentGuard(self.lock(FlockArg::LockShared))
    }

    /// Reads the counters; to be called before [`Cgroup::remove`].
    #[must_use]
    pub fn usage(&self) -> Usage {
        match self.version() {
            Version::V1 => {
                let memory = self.v1_root("memory").map(|root| self.dir(&root)).unwrap_or_default();
                let cpu = self.v1_root("cpuacct").map(|root| self.dir(&root)).unwrap_or_default();
                Usage {
                    memory_peak: read_number(&memory.join("memory.max_usage_in_bytes")),
                    oom_kills: read_key(&memory.join("memory.oom_control"), "oom_kill").unwrap_or(0),
                    cpu: read_number(&cpu.join("cpuacct.usage")).map(Duration::from_nanos),
                }
            }
            Version::V2 => {
                let Some(hierarchy) = self.hierarchies.iter().find(|h| h.version == Version::V2) else {
                    return Usage::default();
                };
                let dir = self.dir(&hierarchy.mount);
                Usage {
                    memory_peak: read_number(&dir.join("memory.peak")),
                    oom_kills: read_key(&dir.join("memory.events"), "oom_kill").unwrap_or(0),
                    cpu: read_key(&dir.join("cpu.stat"), "usage_usec").map(Duration::from_micros),
                }
            }
        }
    }

    /// Kills every process in it and waits until they are gone.
    pub fn kill_all(&self) {
        for attempt in 0..EMPTY_ATTEMPTS {
            let pids = self.pids();
            if pids.is_empty() {
                return;
            }
            for pid in pids {
                let _ = kill(pid, Signal::SIGKILL);
            }
            // One that stands still does not even die (v1).
            self.thaw_all();
            if attempt > 0 {
                std::thread::sleep(EMPTY_PAUSE);
            }
        }
    }

    /// Sends a signal to every process in it.
    pub fn signal_all(&self, signal: i32) {
        for pid in self.pids() {
            drop(sys::send_signal(pid, signal));
        }
    }

    /// Removes it from every hierarchy, and their parent when nobody else has anything in it.
    pub fn remove(&self) -> Result<(), CgroupError> {
        for hierarchy in &self.hierarchies {
            remove_dir(&self.dir(&hierarchy.mount))?;
        }
        let parents = || self.hierarchies.iter().map(|hierarchy| hierarchy.mount.join(PARENT));
        // Whoever holds the lock is about to put something into it, or is about to remove it.
        for _ in 0..PARENT_ATTEMPTS {
            let is_left = parents().any(|parent| parent.is_dir() && children(&parent).is_empty());
            if !is_left {
                break;
            }
            if let Some(_lock) = self.lock(FlockArg::LockExclusiveNonblock) {
                // Fails, as it should, while other runs are in it.
                parents().for_each(|parent| drop(fs::remove_dir(parent)));
                break;
            }
            std::thread::sleep(EMPTY_PAUSE);
        }
        Ok(())
    }

    /// Every process in it.
    #[must_use]
    pub fn pids(&self) -> Vec<Pid> {
        let mut pids = Vec::new();
        for hierarchy in &self.hierarchies {
            collect_pids(&self.dir(&hierarchy.mount), &mut pids);
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    fn dir(&self, mount: &Path) -> PathBuf {
        mount.join(PARENT).join(&self.name)
    }

    /// Where a controller of v1 has it.
    pub(super) fn v1_dir(&self, controller: &str) -> Option<PathBuf> {
        self.v1_root(controller).map(|root| self.dir(&root))
    }

    /// Its path below the root of each hierarchy, as `/proc/PID/cgroup` ends with.
    pub(super) fn path(&self) -> String {
        Self::spec_path(&self.name)
    }

    fn v1_root(&self, controller: &str) -> Option<PathBuf> {
        self.hierarchies.iter().find(|h| h.controllers.iter().any(|c| c == controller)).map(|h| h.mount.clone())
    }

    /// A lock that all stores on the machine share; without it a parent may vanish under the runtime, which then fails.
    fn lock(&self, how: FlockArg) -> Option<Flock<File>> {
        let root = File::open(&self.hierarchies.first()?.mount).ok()?;
        Flock::lock(root, how).ok()
    }
}

/// Finds the cgroup mounts in the text of mountinfo (`proc_pid_mountinfo(5)`).
fn hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let (mut left, mut right) = (left.split(' ').skip(3), right.split(' '));
        let (Some(_root), Some(mount), Some(kind)) = (left.next(), left.next(), right.next()) else { continue };
        let (version, controllers) = match kind {
            "cgroup2" => (Version::V2, Vec::new()),
            "cgroup" => {
                let options = right.nth(1).unwrap_or_default();
                (Version::V1, options.split(',').map(str::to_owned).collect())
            }
            _ => continue,
        };
        let hierarchy = Hierarchy { mount: PathBuf::from(mount), version, controllers };
        // A hierarchy may be mounted in several places; the first is the one that counts.
        if !found.iter().any(|known| known.version == version && known.controllers == hierarchy.controllers) {
            found.push(hierarchy);
        }
    }
    found
}

fn collect_pids(dir: &Path, pids: &mut Vec<Pid>) {
    let Ok(procs) = fs::read_to_string(dir.join("cgroup.procs")) else { return };
    // 0 stands for a process of another pid namespace, and kill(2) takes it for our own process group.
    pids.extend(procs.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).map(Pid::from_raw));
    for child in children(dir) {
        collect_pids(&child, pids);
    }
}

pub(super) fn children(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()).collect()
}

fn remove_dir(dir: &Path) -> Result<(), CgroupError> {
    for attempt in 0.. {
        match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) if attempt >= EMPTY_ATTEMPTS => {
                return Err(CgroupError::Remove { path: dir.to_owned(), source });
            }
            Err(_) => {
                // A workload with a cgroup namespace of its own may have made cgroups inside.
                for child in children(dir) {
                    remove_dir(&child)?;
                }
                if attempt > 0 {
                    std::thread::sleep(EMPTY_PAUSE);
                }
            }
        }
    }
    Ok(())
}

pub(super) fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The value of `key` in a file of `key value` lines.
pub(super) fn read_key(path: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_hybrid_and_unified_mounts() {
        let hybrid = "\
30 20 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
        let found = hierarchies(hybrid);
        assert_eq!(found.len(), 3);
        let cgroup = Cgroup { hierarchies: found, name: "x".to_owned() };
        assert_eq!(cgroup.version(), Version::V1);
        assert_eq!(cgroup.v1_root("memory").unwrap(), Path::new("/sys/fs/cgroup/memory"));

        let unified = hierarchies("30 20 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate");
        let cgroup = Cgroup { hierarchies: unified, name: "x".to_owned() };
        assert_eq!(cgroup.version(), Version::V2);
        assert!(hierarchies("").is_empty());
    }

    #[test]
    fn reads_counters() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory.oom_control");
        fs::write(&path, "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n").unwrap();
        assert_eq!(read_key(&path, "oom_kill"), Some(3));
        assert_eq!(read_key(&path, "absent"), None);
    }
}
