//! What this machine can do for containers, and what would have to change where it cannot.
//!
//! Nothing is mended here, and nothing is left behind; only the store's directories are made if they are missing, as any
//! command does.

use std::fs;
use std::path::Path;
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde::Serialize;

use super::Settings;
use crate::container::{Cgroup, CgroupWish, host_facts};
use crate::gpu::{Machine, Roots};
use crate::image::ByteSize;
use crate::rootfs;
use crate::spec::{CgroupVersion, Dialect};
use crate::store::Store;
use crate::sys::{free_bytes, is_tmpfs};
use crate::words::describe;

/// openat2(2), without which an image could lead us out of its root.
const LEAST_KERNEL: (u32, u32) = (5, 6);
/// Overlays that are not flushed when they are unmounted.
const GOOD_KERNEL: (u32, u32) = (5, 10);
/// What no container can be made without: bits of `CAP_SYS_ADMIN`, `CAP_SETUID`, `CAP_SETGID`, `CAP_MKNOD`, `CAP_CHOWN`.
const NEEDED_CAPABILITIES: [(u32, &str); 5] =
    [(21, "CAP_SYS_ADMIN"), (7, "CAP_SETUID"), (6, "CAP_SETGID"), (27, "CAP_MKNOD"), (0, "CAP_CHOWN")];
/// Controllers that limits are made of.
const CONTROLLERS: [&str; 6] = ["cpu", "memory", "pids", "cpuset", "freezer", "io"];
const LEAST_SPACE: ByteSize = ByteSize(1 << 30);
const GOOD_SPACE: ByteSize = ByteSize(10 << 30);

/// How something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// As it should be.
    Ok,
    /// Something cannot be had; runs go on without.
    Warning,
    /// Runs fail.
    Failed,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Symptom {
    /// What.
    pub name: &'static str,
    /// How it stands.
    pub health: Health,
    /// What was found.
    pub found: String,
    /// What helps; always there when it has failed.
    pub fix: Option<String>,
}

impl Symptom {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, health: Health::Ok, found: found.into(), fix: None }
    }

    fn warning(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, health: Health::Warning, found: found.into(), fix: Some(fix.into()) }
    }

    fn failed(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, health: Health::Failed, found: found.into(), fix: Some(fix.into()) }
    }

    /// An error with a hint of its own.
    fn error(name: &'static str, error: &(dyn std::error::Error + 'static), fix: &str) -> Self {
        let text = describe(error);
        match text.split_once("\nhint: ") {
            Some((found, hint)) => Self::failed(name, found, hint),
            None => Self::failed(name, text, fix),
        }
    }
}

/// Looks at everything, in the order in which it matters.
#[must_use]
pub fn examine(settings: &Settings, gpus: &Roots) -> Vec<Symptom> {
    let mut symptoms = vec![user(), kernel()];
    symptoms.extend(capabilities());
    symptoms.extend([cgroups(), seccomp(), user_namespaces(), state(&settings.state)]);
    match Store::open(&settings.root) {
        Ok(store) => symptoms.extend([overlay(&store), space(store.root()), images(&store)]),
        Err(error) => symptoms.push(Symptom::error("store", &error, "name another place with `--root DIR`")),
    }
    symptoms.extend([shm(), kernel_log(), gpu(gpus)]);
    symptoms
}

fn user() -> Symptom {
    match nix::unistd::geteuid().as_raw() {
        0 => Symptom::ok("user", "root"),
        uid => Symptom::failed("user", format!("user {uid}, and containers need root"), "run it with sudo"),
    }
}

fn kernel() -> Symptom {
    let release = text("/proc/sys/kernel/osrelease");
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let in_words = |(major, minor): (u32, u32)| format!("{major}.{minor}");
    if version < LEAST_KERNEL {
        let found = format!("{release}, older than {}", in_words(LEAST_KERNEL));
        Symptom::failed("kernel", found, format!("install Linux {} or later", in_words(LEAST_KERNEL)))
    } else if version < GOOD_KERNEL {
        let fix = format!("Linux {} or later ends runs faster", in_words(GOOD_KERNEL));
        Symptom::warning("kernel", release, fix)
    } else {
        Symptom::ok("kernel", release)
    }
}

fn capabilities() -> Vec<Symptom> {
    let facts = match Cgroup::mounted().map(|cgroup| host_facts(&cgroup, Dialect::Libcontainer)) {
        Ok(Ok(facts)) => facts,
        Ok(Err(error)) => return vec![Symptom::error("capabilities", &error, "mount /proc")],
        // Told by the cgroups themselves.
        Err(_) => return Vec::new(),
    };
    let missing: Vec<&str> = NEEDED_CAPABILITIES
        .iter()
        .filter(|(bit, _)| facts.bounding_capabilities & (1 << bit) == 0)
        .map(|(_, name)| *name)
        .collect();
    let mut symptoms = Vec::new();
    symptoms.push(if !missing.is_empty() {
        let fix = "if this is a container itself, start it with these capabilities (`--privileged`)";
        Symptom::failed("capabilities", format!("{} missing", missing.join(", ")), fix)
    } else if facts.can_raise_limits {
        Symptom::ok("capabilities", "all that are needed")
    } else {
        let found = "CAP_SYS_RESOURCE missing: limits of open files and processes cannot be raised above ours";
        Symptom::warning("capabilities", found, "raise them before (`ulimit -Hn`), or give us that capability")
    });
    symptoms.push(if facts.swap_accounting {
        Symptom::ok("swap limits", "swap is accounted for each cgroup")
    } else {
        let found = "swap is not accounted: `--memory-swap` has no effect";
        Symptom::warning("swap limits", found, "boot with `swapaccount=1`, or turn swap off")
    });
    symptoms
}

fn cgroups() -> Symptom {
    let cgroup = match Cgroup::plan(&CgroupWish::default(), "doctor") {
        Ok(cgroup) => cgroup,
        // Runs go on in their caller's, or without; what cannot be had are limits.
        Err(error) => {
            let Symptom { name, found, fix, .. } = Symptom::error("cgroups", &error, "mount them writable");
            let found = format!("{found}; runs have no limits");
            return Symptom { name, health: Health::Warning, found, fix };
        }
    };
    let (mode, there) = match cgroup.spec_version() {
        CgroupVersion::V1 { hierarchies } => {
            let names = hierarchies.iter().flat_map(|names| names.split(',')).map(str::to_owned).collect::<Vec<_>>();
            let has_both = text("/proc/self/mounts").lines().any(|line| line.split(' ').nth(2) == Some("cgroup2"));
            let mode = if has_both { "v1 (hybrid)" } else { "v1" };
            (mode, names)
        }
        CgroupVersion::V2 => {
            // Every cgroup but the root has a freezer, whatever its controllers.
            let names = text("/sys/fs/cgroup/cgroup.controllers");
            ("v2", names.split(' ').map(str::to_owned).chain(["freezer".to_owned()]).collect())
        }
    };
    let has = |name: &str| there.iter().any(|known| known == name || (name == "io" && known == "blkio"));
    let missing: Vec<&str> = CONTROLLERS.into_iter().filter(|name| !has(name)).collect();
    let found =
        format!("{mode}, with {}", CONTROLLERS.into_iter().filter(|name| has(name)).collect::<Vec<_>>().join(", "));
    if missing.is_empty() {
        Symptom::ok("cgroups", found)
    } else {
        let fix = "boot without `cgroup_disable=`, or have whoever started this machine delegate them";
        Symptom::warning("cgroups", format!("{found}; missing: {}", missing.join(", ")), fix)
    }
}

fn seccomp() -> Symptom {
    if text("/proc/sys/kernel/seccomp/actions_avail").split(' ').any(|action| action == "errno") {
        Symptom::ok("seccomp", "system calls can be filtered")
    } else {
        let fix = "use a kernel with CONFIG_SECCOMP_FILTER";
        Symptom::failed("seccomp", "the kernel filters no system calls", fix)
    }
}

fn user_namespaces() -> Symptom {
    match text("/proc/sys/user/max_user_namespaces").parse::<u64>() {
        Ok(0) => {
            let fix = "sysctl user.max_user_namespaces=10000";
            Symptom::warning("user namespaces", "turned off: `--userns` cannot be had", fix)
        }
        Ok(_) => Symptom::ok("user namespaces", "there"),
        Err(_) => Symptom::warning("user namespaces", "the kernel has none", "use a kernel with CONFIG_USER_NS"),
    }
}

fn state(state: &Path) -> Symptom {
    let there = state.ancestors().find(|path| path.exists()).unwrap_or_else(|| Path::new("/"));
    let path = state.display();
    match is_tmpfs(there) {
        Ok(true) => Symptom::ok("state", format!("`{path}` is on a tmpfs")),
        Ok(false) => {
            let fix = "name a directory below /run with `--state DIR`";
            Symptom::warning("state", format!("`{path}` is not on a tmpfs: starts are slower"), fix)
        }
        Err(error) => Symptom::failed("state", format!("`{path}`: {error}"), "name another place with `--state DIR`"),
    }
}

fn overlay(store: &Store) -> Symptom {
    let dir = store.root().join("tmp").join(format!("doctor-{}", std::process::id()));
    let probe = || {
        fs::create_dir(&dir).map_err(|error| error.to_string())?;
        // In mounts of this thread's own, so that nobody else ever sees one.
        unshare(CloneFlags::CLONE_NEWNS).map_err(|error| error.to_string())?;
        let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
        mount(None::<&str>, "/", None::<&str>, slave, None::<&str>).map_err(|error| error.to_string())?;
        rootfs::probe(&dir).map_err(|error| describe(&error))
    };
    let tried = thread::scope(|scope| scope.spawn(probe).join()).unwrap_or_else(|_| Err("it died".to_owned()));
    drop(fs::remove_dir_all(&dir));
    match tried {
        Ok(()) => Symptom::ok("overlay", "can be mounted on the store's file system"),
        Err(why) => {
            let found = format!("cannot be mounted, so that root file systems are copied: {}", why.replace('\n', "; "));
            Symptom::warning("overlay", found, "`modprobe overlay`, or put the store on ext4, xfs, btrfs or tmpfs")
        }
    }
}

fn space(root: &Path) -> Symptom {
    let path = root.display();
    match free_bytes(root).map(ByteSize) {
        Ok(free) if free < LEAST_SPACE => {
            let found = format!("{free} free in `{path}`, which few images fit in");
            Symptom::failed("disk", found, "`dockless system prune --all`, or a store elsewhere with `--root DIR`")
        }
        Ok(free) if free < GOOD_SPACE => {
            let fix = "`dockless system df` shows what takes it";
            Symptom::warning("disk", format!("{free} free in `{path}`, which images with CUDA do not fit in"), fix)
        }
        Ok(ByteSize(u64::MAX)) => Symptom::ok("disk", format!("`{path}` has no size of its own")),
        Ok(free) => Symptom::ok("disk", format!("{free} free in `{path}`")),
        Err(error) => Symptom::failed("disk", format!("`{path}`: {error}"), "name another place with `--root DIR`"),
    }
}

fn images(store: &Store) -> Symptom {
    let fix = "`dockless check --repair`";
    let images = match store.images() {
        Ok(images) => images,
        Err(error) => return Symptom::error("store", &error, fix),
    };
    let damaged: Vec<&str> =
        images.iter().filter(|image| !store.has_blob(&image.descriptor)).map(|image| image.name.as_str()).collect();
    let lost = store.unfinished_runs().map_or(0, |runs| runs.iter().filter(|run| !run.is_live()).count());
    if !damaged.is_empty() {
        let found = format!("{} of {} images without a manifest: {}", damaged.len(), images.len(), damaged.join(", "));
        Symptom::failed("store", found, fix)
    } else if lost > 0 {
        let found = format!("{lost} runs whose supervisor is gone");
        Symptom::warning("store", found, "the next `dockless ps` or `run` cleans up after them")
    } else {
        Symptom::ok("store", format!("`{}`, {} images", store.root().display(), images.len()))
    }
}

/// Each container gets one of its own; what the machine's memory holds is its bound.
fn shm() -> Symptom {
    let available = text("/proc/meminfo")
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    match available.map(|kib| ByteSize(kib << 10)) {
        Some(available) if available < LEAST_SPACE => {
            let found = format!("{available} of memory available, which bounds every /dev/shm");
            Symptom::warning("shm", found, "stop what takes it, or add memory")
        }
        Some(available) => Symptom::ok("shm", format!("{available} of memory available for it and all else")),
        None => Symptom::warning("shm", "the memory of this machine cannot be told", "mount /proc"),
    }
}

fn kernel_log() -> Symptom {
    match fs::File::open("/dev/kmsg") {
        Ok(_) => Symptom::ok("kernel log", "can be read: victims of memory limits and lost GPUs are named"),
        Err(error) => {
            let found = format!("`/dev/kmsg`: {error}; who was killed for want of memory is not named");
            Symptom::warning("kernel log", found, "`sysctl kernel.dmesg_restrict=0`, or give us CAP_SYSLOG")
        }
    }
}

fn gpu(roots: &Roots) -> Symptom {
    let inventory = match Machine::look(roots) {
        Ok(machine) => machine.inventory,
        Err(error) => return Symptom::error("gpu", &error, "reinstall the NVIDIA driver"),
    };
    let count = inventory.gpus.len();
    if let Some(note) = inventory.notes.first() {
        let (found, fix) = note.split_once("\nhint: ").unwrap_or((note, "`dockless gpu list` tells more"));
        return Symptom::warning("gpu", found, fix);
    }
    match inventory.gpus.first() {
        None => Symptom::ok("gpu", "no NVIDIA GPU on this machine"),
        Some(gpu) if count == 1 => Symptom::ok("gpu", gpu.model.clone()),
        Some(gpu) => Symptom::ok("gpu", format!("{count}, the first: {}", gpu.model)),
    }
}

/// What a small file of the kernel's says; empty when it cannot be read.
fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}
