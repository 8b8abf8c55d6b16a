//! What a run has used, and who was killed for want of memory.
//!
//! Facts: kernel documentation, cgroup-v1/memory.rst, cgroup-v1/cpuacct.rst and cgroup-v2.rst. Where the run has no counters
//! of its own those of its caller's cgroup are compared with what they said before; where the caller is in the root, which
//! counts nothing, `oom_kill` in `/proc/vmstat` is, which is about the whole machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use nix::unistd::Pid;

use super::Cgroup;
use super::hierarchy::{Hierarchy, Version};
use crate::container::host_resources;
use crate::image::ByteSize;

/// What a run has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Highest memory use in bytes; `None` where the kernel does not count it (v2 before 5.19).
    pub memory_peak: Option<u64>,
    /// Processes killed for want of memory.
    pub oom_kills: u64,
    /// Somebody else's processes may be among those killed: the counter is that of the caller's cgroup.
    pub kills_are_shared: bool,
    /// Time on processors; `None` where nobody counts it.
    pub cpu: Option<Duration>,
}

/// The counters of the cgroup made for a run, each where it is kept.
#[derive(Debug, Default)]
struct Own {
    memory_peak: Option<u64>,
    oom_kills: Option<u64>,
    cpu: Option<Duration>,
}

impl Cgroup {
    /// To be called before the container is made: what is counted now is not its doing.
    pub fn begin(&mut self) {
        self.kills_before = self.callers_kills();
    }

    /// Says which process stands for the run where no cgroup does.
    pub const fn has_init(&mut self, init: Pid) {
        self.init = Some(init);
    }

    /// Reads the counters; to be called after init was waited for and before [`Cgroup::remove`].
    #[must_use]
    pub fn usage(&self) -> Usage {
        let own = match self.version() {
            Version::V1 => self.usage_v1(),
            Version::V2 => self.usage_v2(),
        };
        let shared = || self.callers_kills().saturating_sub(self.kills_before);
        let cpu = || if self.places.is_empty() { time_of_children() } else { None };
        Usage {
            memory_peak: own.memory_peak,
            oom_kills: own.oom_kills.unwrap_or_else(shared),
            kills_are_shared: own.oom_kills.is_none(),
            cpu: own.cpu.or_else(cpu),
        }
    }

    /// The memory that the caller's cgroup leaves to a run without a limit of its own; nothing when that is all there is.
    #[must_use]
    pub fn callers_memory_limit(&self) -> Option<ByteSize> {
        let found = host_resources(Path::new("/")).ok().filter(|_| !self.mode.makes_one())?;
        found.memory_is_limited.then_some(found.memory)
    }

    fn usage_v1(&self) -> Own {
        let file = |controller: &str, name: &str| Some(self.place_of(controller)?.dir.join(name));
        Own {
            memory_peak: file("memory", "memory.max_usage_in_bytes").and_then(|path| read_number(&path)),
            oom_kills: file("memory", "memory.oom_control").and_then(|path| read_key(&path, "oom_kill")),
            cpu: file("cpuacct", "cpuacct.usage").and_then(|path| read_number(&path)).map(Duration::from_nanos),
        }
    }

    fn usage_v2(&self) -> Own {
        let Some(dir) = self.unified_dir() else { return Own::default() };
        Own {
            memory_peak: read_number(&dir.join("memory.peak")),
            oom_kills: read_key(&dir.join("memory.events"), "oom_kill"),
            cpu: read_key(&dir.join("cpu.stat"), "usage_usec").map(Duration::from_micros),
        }
    }

    /// Processes that were killed for want of memory in the nearest cgroup around this process that counts them.
    fn callers_kills(&self) -> u64 {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let (hierarchy, file) = match self.version() {
            Version::V1 => (self.hierarchies.iter().find(|h| h.controls("memory")), "memory.oom_control"),
            Version::V2 => (self.hierarchies.iter().find(|h| h.version == Version::V2), "memory.events"),
        };
        let around = |hierarchy: &Hierarchy| -> Vec<PathBuf> {
            let dir = hierarchy.dir_of(&own);
            dir.ancestors().take_while(|dir| dir.starts_with(&hierarchy.mount)).map(|dir| dir.join(file)).collect()
        };
        let files = hierarchy.map(around).unwrap_or_default();
        let counted = files.iter().find_map(|file| read_key(file, "oom_kill"));
        counted.or_else(|| read_key(Path::new("/proc/vmstat"), "oom_kill")).unwrap_or(0)
    }
}

/// Time of children that were waited for, and of theirs: init among them, and the few milliseconds of making it.
fn time_of_children() -> Option<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).ok()?;
    let time = |time: TimeVal| {
        let micros = time.tv_sec().checked_mul(1_000_000)?.checked_add(time.tv_usec())?;
        u64::try_from(micros).ok().map(Duration::from_micros)
    };
    time(usage.user_time())?.checked_add(time(usage.system_time())?)
}

pub(in crate::container) fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The value of `key` in a file of `key value` lines.
pub(in crate::container) fn read_key(path: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_counters() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory.oom_control");
        fs::write(&path, "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n").unwrap();
        assert_eq!(read_key(&path, "oom_kill"), Some(3));
        assert_eq!(read_key(&path, "absent"), None);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a child whose time counts")]
    fn time_of_children_is_counted() {
        let script = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done";
        assert!(std::process::Command::new("sh").args(["-c", script]).status().unwrap().success());
        assert!(time_of_children().unwrap() > Duration::from_millis(1));
    }
}
