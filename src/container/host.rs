//! What this machine is and permits, as the spec needs to know it.

use std::fs;
use std::io;
use std::path::Path;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{Pid, SysconfVar, sysconf};

use super::cgroup::Cgroup;
use crate::image::Platform;
use crate::spec::{Dialect, HostFacts};

/// Bit of `CAP_SYS_RESOURCE` (capabilities(7), `linux/capability.h`).
const CAP_SYS_RESOURCE: u32 = 24;

/// Something of the machine that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A file under /proc.
    #[error("cannot read `{path}`\nhint: is /proc mounted?")]
    Read {
        /// The file.
        path: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file under /proc has another form than the kernel's documentation says.
    #[error("cannot make sense of `{path}`")]
    Form {
        /// The file.
        path: &'static str,
    },
}

/// Looks at the machine; `dialect` is who will read the spec.
pub fn host_facts(cgroup: &Cgroup, dialect: Dialect) -> Result<HostFacts, HostError> {
    let nofile_hard = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(_, hard)| hard);
    Ok(HostFacts {
        dialect,
        cgroup: cgroup.spec_version(),
        swap_accounting: cgroup.has_swap_accounting(),
        nofile_hard,
        nr_open: parse("/proc/sys/fs/nr_open", |text| text.trim().parse().ok())?,
        can_raise_limits: capabilities("CapEff")? & (1 << CAP_SYS_RESOURCE) != 0,
        bounding_capabilities: capabilities("CapBnd")?,
        hostname: nix::unistd::gethostname()
            .map_or_else(|_| "localhost".to_owned(), |name| name.to_string_lossy().into_owned()),
        platform: Platform::host(),
        cpu_count: cpu_count(),
        kernel: parse("/proc/sys/kernel/osrelease", kernel_version)?,
        selinux: Path::new("/sys/fs/selinux/enforce").exists(),
        thermal_throttle_cpus: thermal_throttle_cpus(Path::new("/sys/devices/system/cpu")),
    })
}

/// Processors that this process may run on, and what it starts with it; docker counts the same way.
#[must_use]
pub fn cpu_count() -> u32 {
    if let Ok(mine) = sched_getaffinity(Pid::from_raw(0)) {
        let count = (0..CpuSet::count()).filter(|cpu| mine.is_set(*cpu).unwrap_or(false)).count();
        return u32::try_from(count).unwrap_or(1);
    }
    // More processors than the set has bits for.
    let count = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
    count.and_then(|count| u32::try_from(count).ok()).unwrap_or(1)
}

/// The bounding set of this process, a bit for each capability.
pub fn bounding_capabilities() -> Result<u64, HostError> {
    capabilities("CapBnd")
}

/// Tells this boot of the machine from every other.
pub fn boot_id() -> Result<String, HostError> {
    parse("/proc/sys/kernel/random/boot_id", |text| Some(text.trim().to_owned()))
}

fn parse<T>(path: &'static str, read: impl FnOnce(&str) -> Option<T>) -> Result<T, HostError> {
    let text = fs::read_to_string(path).map_err(|source| HostError::Read { path, source })?;
    read(&text).ok_or(HostError::Form { path })
}

/// One of the capability sets of this process (`proc_pid_status(5)`).
fn capabilities(set: &str) -> Result<u64, HostError> {
    parse("/proc/self/status", |text| {
        let line = text.lines().find_map(|line| line.strip_prefix(set)?.strip_prefix(':'))?;
        u64::from_str_radix(line.trim(), 16).ok()
    })
}

fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.trim().split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// One more than the highest CPU with a directory that tells of its throttling, which docker masks.
fn thermal_throttle_cpus(cpus: &Path) -> u32 {
    let Ok(entries) = fs::read_dir(cpus) else { return 0 };
    entries
        .flatten()
        .filter(|entry| entry.path().join("thermal_throttle").is_dir())
        .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("cpu")?.parse::<u32>().ok())
        .max()
        .map_or(0, |highest| highest + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_kernel_releases() {
        assert_eq!(kernel_version("6.1.0-18-cloud-amd64\n"), Some((6, 1)));
        assert_eq!(kernel_version("5.14+"), Some((5, 14)));
        assert_eq!(kernel_version("5"), None);
        assert_eq!(kernel_version(""), None);
    }

    #[test]
    fn this_machine_can_be_read() {
        assert_ne!(capabilities("CapBnd").unwrap(), 0);
        assert_eq!(boot_id().unwrap().len(), 36);
    }
}
