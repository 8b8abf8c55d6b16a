//! What this machine is and permits, as the spec needs to know it.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::{major, minor};
use nix::unistd::{Pid, SysconfVar, sysconf};

use super::cgroup::Cgroup;
use crate::image::Platform;
use crate::spec::{CgroupVersion, Device, DeviceKind, Dialect, HostFacts, LIMIT_COUNT};

/// Bit of `CAP_SYS_RESOURCE` (capabilities(7), `linux/capability.h`).
const CAP_SYS_RESOURCE: u32 = 24;
/// Names in /dev that the runtime makes itself, and file systems of the machine's own that docker leaves out as well.
const RUNTIMES_OWN: [&str; 15] = [
    "null",
    "zero",
    "full",
    "random",
    "urandom",
    "tty",
    "console",
    "ptmx",
    "pts",
    "shm",
    "mqueue",
    "fd",
    ".lxc",
    ".lxd-mounts",
    ".udev",
];
/// More nodes than machines have.
const MAX_DEVICES: usize = 20_000;
/// `/dev/bus/usb/001/001` and the like.
const MAX_DEVICE_DEPTH: u32 = 8;

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
        hard_limits: hard_limits(),
        nr_open: parse("/proc/sys/fs/nr_open", |text| text.trim().parse().ok())?,
        can_raise_limits: capabilities("CapEff")? & (1 << CAP_SYS_RESOURCE) != 0,
        bounding_capabilities: capabilities("CapBnd")?,
        oom_score_adj: parse("/proc/self/oom_score_adj", |text| text.trim().parse().ok())?,
        hostname: nix::unistd::gethostname()
            .map_or_else(|_| "localhost".to_owned(), |name| name.to_string_lossy().into_owned()),
        platform: Platform::host(),
        cpu_count: cpu_count(),
        kernel: parse("/proc/sys/kernel/osrelease", kernel_version)?,
        cpuset_cpus: cpuset("cpus", "/sys/devices/system/cpu/online"),
        cpuset_mems: cpuset("mems", "/sys/devices/system/node/online"),
        block_io_weight: block_io_weight(&cgroup.spec_version()),
        apparmor: fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y")),
        selinux: Path::new("/sys/fs/selinux/enforce").exists(),
        thermal_throttle_cpus: thermal_throttle_cpus(Path::new("/sys/devices/system/cpu")),
    })
}

/// The machine's device nodes, for a privileged container: all below /dev but those that the runtime makes in every
/// container, and those of file systems that it mounts there. What cannot be looked at is left out.
#[must_use]
pub fn host_devices() -> Vec<Device> {
    let mut devices = Vec::new();
    collect_devices(Path::new("/dev"), 0, &mut devices);
    devices.sort_by(|left, right| left.path.cmp(&right.path));
    devices
}

fn collect_devices(dir: &Path, depth: u32, devices: &mut Vec<Device>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(metadata) = entry.metadata() else { continue };
        let is_ours = depth == 0 && entry.file_name().to_str().is_none_or(|name| RUNTIMES_OWN.contains(&name));
        if is_ours || devices.len() >= MAX_DEVICES {
            continue;
        }
        let kind = metadata.file_type();
        if kind.is_dir() && depth < MAX_DEVICE_DEPTH {
            collect_devices(&path, depth + 1, devices);
        } else if kind.is_char_device() || kind.is_block_device() {
            let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
            devices.push(Device {
                path,
                kind: if kind.is_block_device() { DeviceKind::Block } else { DeviceKind::Char },
                major: number(major(metadata.rdev())),
                minor: number(minor(metadata.rdev())),
                mode: metadata.mode() & 0o7777,
                uid: metadata.uid(),
                gid: metadata.gid(),
                access: "rwm".to_owned(),
            });
        }
    }
}

/// The caller's hard limits, by their numbers in the kernel (asm-generic/resource.h); unlimited where it has none.
fn hard_limits() -> [u64; LIMIT_COUNT] {
    [
        Resource::RLIMIT_CPU,
        Resource::RLIMIT_FSIZE,
        Resource::RLIMIT_DATA,
        Resource::RLIMIT_STACK,
        Resource::RLIMIT_CORE,
        Resource::RLIMIT_RSS,
        Resource::RLIMIT_NPROC,
        Resource::RLIMIT_NOFILE,
        Resource::RLIMIT_MEMLOCK,
        Resource::RLIMIT_AS,
        Resource::RLIMIT_LOCKS,
        Resource::RLIMIT_SIGPENDING,
        Resource::RLIMIT_MSGQUEUE,
        Resource::RLIMIT_NICE,
        Resource::RLIMIT_RTPRIO,
        Resource::RLIMIT_RTTIME,
    ]
    .map(|resource| getrlimit(resource).map_or(u64::MAX, |(_, hard)| hard))
}

/// What a control group at the root can have of processors or memory nodes; `fallback` tells what the machine has.
fn cpuset(kind: &str, fallback: &str) -> String {
    let places = [
        format!("/sys/fs/cgroup/cpuset/cpuset.effective_{kind}"),
        format!("/sys/fs/cgroup/cpuset/cpuset.{kind}"),
        format!("/sys/fs/cgroup/cpuset.{kind}.effective"),
        fallback.to_owned(),
    ];
    let mut found = places.iter().filter_map(|path| fs::read_to_string(path).ok()).map(|text| text.trim().to_owned());
    // A machine without memory nodes has one.
    found.find(|text| !text.is_empty()).unwrap_or_else(|| "0".to_owned())
}

/// Whether the controller of block devices knows weights: on version 1 the root shows it by other files of the same
/// scheduler. On version 2 nothing shows it; there the kernel says it when the weight is written.
fn block_io_weight(version: &CgroupVersion) -> bool {
    let CgroupVersion::V1 { hierarchies } = version else { return true };
    let has = |name: &String, file: &str| Path::new("/sys/fs/cgroup").join(name).join(file).exists();
    let controllers = hierarchies.iter().filter(|name| name.split(',').any(|controller| controller == "blkio"));
    controllers.into_iter().any(|name| has(name, "blkio.weight") || has(name, "blkio.bfq.io_service_bytes"))
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
    fn a_privileged_container_gets_what_there_is() {
        let devices = host_devices();
        assert!(devices.iter().all(|device| device.path.starts_with("/dev") && !device.path.starts_with("/dev/pts")));
        assert!(!devices.iter().any(|device| device.path == Path::new("/dev/null")), "the runtime makes it");
    }

    #[test]
    fn this_machine_can_be_read() {
        assert_ne!(capabilities("CapBnd").unwrap(), 0);
        assert_eq!(boot_id().unwrap().len(), 36);
    }
}
