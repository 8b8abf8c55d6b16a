//! The cgroup of a run: found in every hierarchy, read before it goes, emptied, removed.
//!
//! All of it is ours, since libcontainer's way takes half of the time of a start: where it is to be (`place.rs`), making it
//! (`make.rs`), the way in (`entrance.rs`), what libcontainer and the container get to see of cgroups (`view.rs`), the counters
//! that tell how a run ended (`usage.rs`), killing what is left in it, and removing it together with the parents we made. Only
//! cgroups that are named as the run is, and parents of ours, are ever removed.

mod entrance;
mod hierarchy;
mod make;
mod place;
mod usage;
mod view;

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::FlockArg;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::fs::getxattr;

pub(super) use self::entrance::{Entrance, Forked};
use self::hierarchy::{Hierarchy, Version, version};
pub use self::place::{CgroupParent, CgroupWish, default_cgroup_mode};
pub use self::usage::Usage;
pub(super) use self::usage::{read_key, read_number};
use crate::spec::CgroupVersion;
use crate::store::CgroupMode;
use crate::sys;

/// The cgroup that holds all of ours, below each hierarchy's root.
const PARENT: &str = "dockless";
/// Marks other parents that we made; the kernel takes `trusted.` attributes for cgroups of both versions.
const MADE_BY_US: &str = "trusted.dockless";
/// Controllers of version 2 that a limit may need.
const HANDED_ON: [&str; 6] = ["cpu", "cpuset", "hugetlb", "io", "memory", "pids"];
/// A process that was killed needs a moment to leave its cgroup.
const EMPTY_ATTEMPTS: u32 = 200;
/// How often the lock of the parent is asked for when that looks empty.
const PARENT_ATTEMPTS: u32 = 20;
const EMPTY_PAUSE: Duration = Duration::from_millis(5);

/// The directory of a run's cgroup in one hierarchy.
#[derive(Debug, Clone)]
struct Place {
    hierarchy: Hierarchy,
    dir: PathBuf,
}

/// The cgroup of one run.
#[derive(Debug, Clone)]
pub struct Cgroup {
    /// All that are mounted.
    hierarchies: Vec<Hierarchy>,
    /// Where one is made for the run; nowhere when it stays in its caller's.
    places: Vec<Place>,
    mode: CgroupMode,
    id: String,
    /// Stands for the run where no cgroup does: whose pid namespace holds its processes.
    init: Option<Pid>,
    /// What the counters of the caller's cgroup said before the run.
    kills_before: u64,
}

/// Why cgroups cannot be had or removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The mounts cannot be read.
    #[error("cannot read `/proc/self/mountinfo`")]
    Mounts(#[source] io::Error),
    /// Our own place cannot be read.
    #[error("cannot read `/proc/self/cgroup`")]
    Callers(#[source] io::Error),
    /// There is none.
    #[error(
        "no cgroup hierarchy is mounted\nhint: mount one, e.g. `mount -t cgroup2 none /sys/fs/cgroup`, or run without with `--cgroups none`"
    )]
    None,
    /// Not ours to write.
    #[error(
        "cannot make a cgroup for `--cgroups {mode}`: `{path}` is mounted read-only\nhint: `--cgroups inherit` stays in the caller's"
    )]
    ReadOnly {
        /// Where the hierarchy is mounted.
        path: PathBuf,
        /// What was asked for.
        mode: CgroupMode,
    },
    /// A parent that is none.
    #[error("`--cgroup-parent`: `{path}` {why}, expected a path such as `/batch`")]
    Parent {
        /// As it was given.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A parent for what has none of that kind.
    #[error(
        "`--cgroup-parent` says where a run's own cgroup is, and this one has `--cgroups {0}`\nhint: leave one of them out"
    )]
    ParentWithout(CgroupMode),
    /// Limits without a cgroup to set them in.
    #[error(
        "with `--cgroups {mode}` the run has no cgroup of its own, so nothing limits its {limits}\nhint: `--cgroups nested` makes one below the caller's"
    )]
    LimitsWithout {
        /// Where the run is to be.
        mode: CgroupMode,
        /// What was to be limited.
        limits: String,
    },
    /// Nothing would tell its processes from others.
    #[error(
        "with `--cgroups {0}` a run's processes are known by their pid namespace, and `--pid` shares one\nhint: leave one of them out"
    )]
    SharedProcesses(CgroupMode),
    /// The kernel, or whoever mounted the hierarchies, has left a controller out.
    #[error(
        "this machine cannot limit {limit}: no hierarchy with the cgroup controller `{controller}` is mounted\nhint: run it without that limit"
    )]
    NoController {
        /// What was to be limited.
        limit: &'static str,
        /// The missing controller.
        controller: &'static str,
    },
    /// Whoever made the cgroup above has not handed the controller on.
    #[error(
        "cannot limit {limit}: cgroup `{path}` does not have the controller `{controller}`\nhint: who made that cgroup has to hand it on (`cgroup.subtree_control` of the one above); or run it without that limit"
    )]
    NotHandedOn {
        /// What was to be limited.
        limit: &'static str,
        /// The missing controller.
        controller: &'static str,
        /// The highest cgroup that we see.
        path: PathBuf,
    },
    /// Version 2 lets a cgroup either hold processes or limit its children.
    #[error(
        "cannot limit {limit}: there are processes in cgroup `{path}`, and the kernel limits the children of empty cgroups only\nhint: name one without processes of its own with `--cgroup-parent PATH`, or run it without that limit"
    )]
    Occupied {
        /// What was to be limited.
        limit: &'static str,
        /// The cgroup with the processes.
        path: PathBuf,
    },
    /// It cannot be made.
    #[error("cannot make cgroup `{path}`")]
    Make {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What the runtime is to see cannot be arranged.
    #[error("cannot {operation} to keep the runtime out of the machine's cgroups")]
    View {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
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

impl Cgroup {
    /// The cgroup `/dockless/<id>` of every hierarchy with controllers, whether it exists there or not.
    pub fn of(id: &str) -> Result<Self, CgroupError> {
        Self::plan(&CgroupWish::default(), id).or_else(|error| match error {
            // Good enough for looking.
            CgroupError::ReadOnly { .. } => Self::mounted(),
            other => Err(other),
        })
    }

    /// None in particular: what is mounted on this machine.
    pub fn mounted() -> Result<Self, CgroupError> {
        Self::plan(&CgroupWish { mode: CgroupMode::Inherit, parent: None }, "")
    }

    /// The path of a run's own cgroup as the runtime spec wants it.
    #[must_use]
    pub fn spec_path(id: &str) -> String {
        format!("/{PARENT}/{id}")
    }

    /// How it stands to those that were there.
    #[must_use]
    pub const fn mode(&self) -> CgroupMode {
        self.mode
    }

    /// What is mounted, as the spec wants to know it.
    #[must_use]
    pub fn spec_version(&self) -> CgroupVersion {
        let v1 = self.hierarchies.iter().filter(|hierarchy| hierarchy.version == Version::V1);
        match self.version() {
            Version::V1 => CgroupVersion::V1 { hierarchies: v1.filter_map(|h| Some(h.name()?.to_owned())).collect() },
            Version::V2 => CgroupVersion::V2,
        }
    }

    fn version(&self) -> Version {
        version(&self.hierarchies)
    }

    /// Its directory where all controllers are in the unified hierarchy, which has no file for device rules; nothing for a
    /// run that stays in its caller's.
    #[must_use]
    pub fn unified_dir(&self) -> Option<PathBuf> {
        let unified = self.places.iter().find(|place| place.hierarchy.version == Version::V2);
        unified.map(|place| place.dir.clone())
    }

    /// Whether the kernel limits swap per cgroup.
    #[must_use]
    pub fn has_swap_accounting(&self) -> bool {
        match self.version() {
            Version::V1 => {
                let memory = self.hierarchies.iter().find(|hierarchy| hierarchy.controls("memory"));
                memory.is_some_and(|memory| memory.mount.join("memory.memsw.limit_in_bytes").exists())
            }
            // The root has no memory.swap.max of its own; every kernel with v2 memory control since 4.5 can have it.
            Version::V2 => Path::new("/proc/swaps").exists(),
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

    /// Sends a signal to every process of the run.
    pub fn signal_all(&self, signal: i32) {
        match self.init {
            Some(init) if !self.mode.makes_one() => signal_namespace(init, signal),
            _ => self.pids().into_iter().for_each(|pid| drop(sys::send_signal(pid, signal))),
        }
    }

    /// Removes it from every hierarchy, and those above it that we made when nobody else has anything in them.
    pub fn remove(&self) -> Result<(), CgroupError> {
        for place in &self.places {
            remove_dir(&place.dir)?;
        }
        // Whoever holds the lock is about to put something into them, or is about to remove them.
        for _ in 0..PARENT_ATTEMPTS {
            let is_left =
                self.places.iter().any(|place| place.parents().next().is_some_and(|dir| children(dir).is_empty()));
            if !is_left {
                break;
            }
            if let Some(_lock) = self.lock(FlockArg::LockExclusiveNonblock) {
                // Fails, as it should, while other runs are in it.
                for place in &self.places {
                    drop(place.parents().try_for_each(fs::remove_dir));
                }
                break;
            }
            std::thread::sleep(EMPTY_PAUSE);
        }
        Ok(())
    }

    /// Every process of the run.
    #[must_use]
    pub fn pids(&self) -> Vec<Pid> {
        if let Some(init) = self.init.filter(|_| !self.mode.makes_one()) {
            return namespace_pids(init);
        }
        let mut pids = Vec::new();
        for place in &self.places {
            collect_pids(&place.dir, &mut pids);
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Where a controller of v1 has it.
    pub(super) fn v1_dir(&self, controller: &str) -> Option<PathBuf> {
        self.place_of(controller).filter(|place| place.hierarchy.version == Version::V1).map(|place| place.dir.clone())
    }

    /// Whether a process with these lines in its `/proc/PID/cgroup` is the run's.
    pub(super) fn has(&self, pid: Pid, cgroups: &str) -> bool {
        match self.init.filter(|_| !self.mode.makes_one()) {
            Some(init) => pid_namespace(init).is_some_and(|own| pid_namespace(pid) == Some(own)),
            None => is_below(cgroups, &self.id),
        }
    }
}

impl Place {
    /// The highest cgroup that is looked at and changed on the way to this one.
    fn top(&self, mode: CgroupMode) -> &Path {
        let callers = self.dir.ancestors().nth(2).filter(|_| mode == CgroupMode::Nested);
        callers.unwrap_or(&self.hierarchy.mount)
    }

    /// The cgroups above it that are ours, the nearest first.
    fn parents(&self) -> impl Iterator<Item = &Path> {
        let is_ours = |dir: &&Path| {
            dir.file_name().is_some_and(|name| name == PARENT) || getxattr(*dir, MADE_BY_US, &mut [0_u8; 8][..]).is_ok()
        };
        let above = self.dir.ancestors().skip(1).take_while(|dir| *dir != self.hierarchy.mount);
        above.take_while(is_ours).filter(|dir| dir.is_dir())
    }
}

/// The root of the hierarchy of version 2 has no type, and may hold processes beside handing controllers on.
fn is_root(dir: &Path) -> bool {
    !dir.join("cgroup.type").exists()
}

/// A process that cannot be seen from here shows as `0`.
fn has_processes(dir: &Path) -> bool {
    match fs::read_to_string(dir.join("cgroup.procs")) {
        Ok(processes) => !processes.trim().is_empty(),
        // In a threaded cgroup it cannot be read, and there are some.
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// Kills what is left of a container of which only the id is known, wherever its cgroup is.
pub fn kill_container(id: &str) {
    if id.is_empty() {
        return;
    }
    for attempt in 0..EMPTY_ATTEMPTS {
        let mut found = false;
        for pid in all_pids() {
            let Ok(process) = sys::pidfd(pid) else { continue };
            // Read after the descriptor was taken, so that it is about the process that is killed.
            let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            if is_below(&cgroups, id) {
                found |= sys::signal_process(process.as_fd(), Signal::SIGKILL as i32).is_ok();
            }
        }
        if !found {
            return;
        }
        if attempt > 0 {
            std::thread::sleep(EMPTY_PAUSE);
        }
    }
}

/// Whether one of the lines `hierarchy:controllers:path` names the cgroup of a run or one below it.
fn is_below(lines: &str, id: &str) -> bool {
    let mut paths = lines.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.any(|path| path.split('/').any(|name| name == id))
}

/// Kills init if it still is the process that had started at that time, and with it all of its pid namespace; waits until it
/// is gone.
pub fn kill_init(pid: Pid, start_time: u64) {
    let Ok(process) = sys::pidfd(pid) else { return };
    for _ in 0..EMPTY_ATTEMPTS {
        if start_time_of(pid) != Some(start_time)
            || sys::signal_process(process.as_fd(), Signal::SIGKILL as i32).is_err()
        {
            return;
        }
        std::thread::sleep(EMPTY_PAUSE);
    }
}

/// When a process started, in clock ticks since the boot (`proc_pid_stat(5)`, field 22); tells it from a later one with its
/// number. Nothing for one that has ended.
#[must_use]
pub fn start_time_of(pid: Pid) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program comes second, in parentheses, and may have anything in it.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let is_dead = fields.first().is_some_and(|state| ["Z", "X"].contains(state));
    fields.get(19).filter(|_| !is_dead)?.parse().ok()
}

/// Signals every process of the pid namespace that `init` has begun.
fn signal_namespace(init: Pid, signal: i32) {
    let Some(own) = pid_namespace(init) else { return };
    for pid in all_pids() {
        let Ok(process) = sys::pidfd(pid) else { continue };
        if pid_namespace(pid).as_ref() == Some(&own) {
            drop(sys::signal_process(process.as_fd(), signal));
        }
    }
}

fn pid_namespace(pid: Pid) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

fn namespace_pids(init: Pid) -> Vec<Pid> {
    let Some(own) = pid_namespace(init) else { return Vec::new() };
    all_pids().into_iter().filter(|pid| pid_namespace(*pid).as_ref() == Some(&own)).collect()
}

fn all_pids() -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.map(Pid::from_raw).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_known_by_the_runs_id() {
        let lines = "5:pids:/\n3:memory:/outer/dockless/run-1/inner\n0::/\n";
        assert!(is_below(lines, "run-1") && is_below("0::/dockless/run-1", "run-1"));
        assert!(!is_below("0::/dockless/run-12", "run-1") && !is_below("0::/\n", "run-1"));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a child to be killed")]
    fn a_process_is_known_by_its_start() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let start = start_time_of(pid).unwrap();
        kill_init(pid, start + 1);
        assert_eq!(child.try_wait().unwrap(), None, "another process of that number was meant");
        kill_init(pid, start);
        assert!(!child.wait().unwrap().success());
        assert_eq!(start_time_of(pid), None);
    }
}
