//! From an image's configuration and the user's options to an OCI runtime specification. Pure: no file, clock,
//! environment or random number is looked at; what the machine and the image hold comes in as [`HostFacts`] and
//! [`ImageFiles`].
//!
//! The defaults are docker's: capabilities, system call filter, masked paths, mounts, environment. Where the runtime
//! (libcontainer 0.7) does something else than the specification says, the place is marked and the way round it is here:
//! `clone` in `seccomp.rs`, cgroup v1 and propagation in `linux.rs`, `setgroups` in `user.rs`, `no_new_privs` in
//! `process.rs`, refused mount options in `mount_flags.rs`.

mod bind_options;
mod capabilities;
mod edits;
mod env;
mod error;
mod exec;
mod flag_error;
mod labels;
mod linux;
mod mapped;
mod mount_fields;
mod mount_flags;
mod mounts;
mod name_lookup;
mod namespaces;
mod network;
mod path;
mod process;
mod resources;
mod seccomp;
mod security;
mod signal;
mod syscalls;
mod sysctl;
mod ulimit;
mod user;
mod users;

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_spec::runtime::{Capability, RootBuilder, Spec, SpecBuilder};

pub use capabilities::CapabilityName;
pub use edits::{Device, DeviceKind, EditHook, EditMount, Edits};
pub use env::{CallerEnv, EnvSetting, parse_env_file};
pub use error::{EnvFileProblem, MountProblem, Origin, SpecError};
pub use exec::{ExecOptions, exec_process};
pub use flag_error::FlagProblem;
pub use labels::{label_file, pair};
pub use mapped::check_mapped;
pub use mount_flags::{BindMount, ImageMount, MountSetting, Propagation, TmpfsMount, container_path};
pub use mounts::ImageVolume;
pub use name_lookup::{ExtraHost, NameLookup};
pub use namespaces::{IpcMode, Namespaces, OwnOrHost, PidMode, RunRef, Shared};
pub use network::{Hostname, Network};
pub use resources::{
    Cpus, IdList, MemoryLimit, MemorySwap, ResourceOptions, Throttle, ThrottleKind, blkio_weight, cpu_period,
    cpu_quota, cpu_shares, limits, memory_reservation, memory_swap, memory_swappiness, oom_score_adj, pids,
};
pub use seccomp::{MAX_PROFILE_BYTES, Profile};
pub use security::{SeccompChoice, SecurityOpt, SecurityOptions};
pub use signal::StopSignal;
pub use sysctl::{Namespace, Sysctl};
pub use ulimit::{LIMIT_COUNT, Ulimit};
pub use user::Identity;
pub use users::{AUTO_SIZE, MapProblem, Users};

use crate::image::{ByteSize, ImageConfig, Platform};

/// The largest user or group id, docker's: what is above wraps around to others in programs that use a signed number.
pub const MAX_ID: u32 = i32::MAX as u32;
/// The most that is read of the image's /etc/passwd and /etc/group.
pub const MAX_IDENTITY_FILE_BYTES: usize = 1 << 20;
/// The most groups that a process can have (`NGROUPS_MAX`).
pub const MAX_GROUPS: usize = 65_536;

/// The version of the runtime specification that `rro` is from; everything else here is older.
const OCI_VERSION: &str = "1.1.0";
/// For a network of its own without a name: what the hosts file knows in any case.
const LAST_HOSTNAME: &str = "localhost";

/// What the user asked for. Every field has docker's meaning, the default is docker's (but for the network).
#[derive(Debug, Clone)]
pub struct Options {
    /// Arguments after the image; they replace the image's command.
    pub command: Vec<String>,
    /// `--entrypoint`; any value, also the empty one, drops the image's entrypoint and command.
    pub entrypoint: Option<Vec<String>>,
    /// Variables to set or remove over the image's, in order.
    pub env: Vec<EnvSetting>,
    /// `--user`, over the image's.
    pub user: Option<String>,
    /// `--workdir`, over the image's.
    pub working_dir: Option<String>,
    /// `--hostname`.
    pub hostname: Option<Hostname>,
    /// `--domainname`.
    pub domainname: Option<Hostname>,
    /// The host name of a network of its own when none was asked for; the caller's name for the run.
    pub default_hostname: Option<Hostname>,
    /// `-v`, `--mount` and `--tmpfs`, in order.
    pub mounts: Vec<MountSetting>,
    /// `--cpus`.
    pub cpus: Option<Cpus>,
    /// `--memory`.
    pub memory: Option<MemoryLimit>,
    /// The other limits.
    pub resources: ResourceOptions,
    /// Capabilities, filters and what else sets it apart.
    pub security: SecurityOptions,
    /// `--stop-signal`, over the image's.
    pub stop_signal: Option<StopSignal>,
    /// `--annotation`: said to the runtime.
    pub annotations: BTreeMap<String, String>,
    /// `--shm-size`, the size of `/dev/shm`; 0 is the default of 64 MiB.
    pub shm_size: ByteSize,
    /// `--network`.
    pub network: Network,
    /// `--ipc`, `--pid`, `--uts`, `--cgroupns`, `--userns`.
    pub namespaces: Namespaces,
    /// `--add-host` and the `--dns` flags.
    pub lookup: NameLookup,
    /// `--read-only`: the root file system cannot be written.
    pub read_only: bool,
    /// `--tty`: the workload's streams are a terminal.
    pub terminal: bool,
    /// `--read-only-tmpfs`: with that, `/tmp`, `/var/tmp` and `/run` can, and start empty.
    pub read_only_tmpfs: bool,
    /// What devices bring with them.
    pub edits: Edits,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            entrypoint: None,
            env: Vec::new(),
            user: None,
            working_dir: None,
            hostname: None,
            domainname: None,
            default_hostname: None,
            mounts: Vec::new(),
            cpus: None,
            memory: None,
            resources: ResourceOptions::default(),
            security: SecurityOptions::default(),
            stop_signal: None,
            annotations: BTreeMap::new(),
            shm_size: ByteSize(64 << 20),
            network: Network::default(),
            namespaces: Namespaces::default(),
            lookup: NameLookup::default(),
            read_only: false,
            terminal: false,
            read_only_tmpfs: false,
            edits: Edits::default(),
        }
    }
}

impl Options {
    /// Whether the machine can give what is asked for; what can be said before there is an image.
    pub fn check(&self, host: &HostFacts) -> Result<(), SpecError> {
        self.resources.check(self.cpus, self.memory, host)?;
        self.security.check(host, &self.network, &self.namespaces)?;
        mapped::check_kernel(self, host)?;
        mapped::check(self)
    }
}

/// Which program will read the specification. It has no default: the wrong one opens a hole (`seccomp.rs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// libcontainer 0.7, which reads masked comparisons of system call arguments the wrong way round.
    Libcontainer,
    /// runc, crun and all else that follows the specification: for bundles that we hand out.
    Standard,
}

/// How the machine's control groups are mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupVersion {
    /// One hierarchy per controller (also "hybrid").
    V1 {
        /// The directories in `/sys/fs/cgroup` on which a v1 hierarchy is mounted: `memory`, `cpu,cpuacct`, `systemd`, …
        hierarchies: Vec<String>,
    },
    /// The unified hierarchy.
    V2,
}

/// What the machine and the caller's rights on it are.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct HostFacts {
    /// Who will read the specification.
    pub dialect: Dialect,
    /// How control groups are mounted.
    pub cgroup: CgroupVersion,
    /// Whether swap is accounted, so that it can be limited: `memory.memsw.*` or `memory.swap.max` are there.
    pub swap_accounting: bool,
    /// The caller's hard limit of open files; `u64::MAX` is unlimited.
    pub nofile_hard: u64,
    /// The caller's hard limits, by their numbers in the kernel.
    pub hard_limits: [u64; LIMIT_COUNT],
    /// `fs.nr_open`, above which nobody may raise that limit.
    pub nr_open: u64,
    /// Whether the caller has `CAP_SYS_RESOURCE`.
    pub can_raise_limits: bool,
    /// The caller's bounding set, a bit for each capability number.
    pub bounding_capabilities: u64,
    /// The caller's own OOM score adjustment.
    pub oom_score_adj: i32,
    /// The machine's host name.
    pub hostname: String,
    /// The machine's platform; the system call filter is for its architecture.
    pub platform: Platform,
    /// Processors that can be used.
    pub cpu_count: u32,
    /// Major and minor version of the kernel.
    pub kernel: (u32, u32),
    /// Processors that a control group can have, as the kernel lists them.
    pub cpuset_cpus: String,
    /// Memory nodes that a control group can have.
    pub cpuset_mems: String,
    /// Whether block devices can be weighed.
    pub block_io_weight: bool,
    /// Whether `AppArmor` is on.
    pub apparmor: bool,
    /// Whether `SELinux` is on.
    pub selinux: bool,
    /// One more than the highest CPU that has a `thermal_throttle` directory in `/sys/devices/system/cpu`; 0 without.
    pub thermal_throttle_cpus: u32,
}

/// Text of the image's files, read by the caller beneath the image's root; `None` for a file that is not there.
#[derive(Debug, Clone, Copy, Default)]
pub struct ImageFiles<'a> {
    /// `/etc/passwd`
    pub passwd: Option<&'a str>,
    /// `/etc/group`
    pub group: Option<&'a str>,
}

/// Where things of this run are on the machine; absolute paths.
#[derive(Debug, Clone)]
pub struct Paths {
    /// The assembled root file system.
    pub rootfs: PathBuf,
    /// The control group, relative to the root of the hierarchies: `/dockless/RUN`.
    pub cgroup: String,
    /// File to mount on `/etc/resolv.conf`.
    pub resolv_conf: Option<PathBuf>,
    /// File to mount on `/etc/hosts`.
    pub hosts: Option<PathBuf>,
    /// File to mount on `/etc/hostname`.
    pub hostname: Option<PathBuf>,
    /// Directory for the image's volumes of a read-only container.
    pub volumes: PathBuf,
    /// Directory for what is taken from other runs: namespaces by the kernel's names, and `shm`.
    pub joined: PathBuf,
    /// Directory for mounted images, each by its place among them.
    pub images: PathBuf,
}

/// The specification and what the caller has to see to.
#[derive(Debug, Clone)]
pub struct Built {
    /// The specification.
    pub spec: Spec,
    /// Who the workload runs as.
    pub identity: Identity,
    /// The host name, also for the file of [`Paths::hostname`].
    pub hostname: String,
    /// The working directory in the container: to be made in the root file system when it is missing, owned by the
    /// workload's user. Where it lies in a mount of the user's, it has to exist there already.
    pub working_dir: PathBuf,
    /// What asks the workload to stop.
    pub stop_signal: StopSignal,
    /// The image's volumes, to be made before the start.
    pub image_volumes: Vec<ImageVolume>,
    /// What was asked for and will not be so; for everyone to see.
    pub warnings: Vec<String>,
    /// What is less than usual on this machine; for `-v`.
    pub notes: Vec<String>,
}

/// Puts the specification together.
pub fn build(
    image: &ImageConfig,
    options: &Options,
    host: &HostFacts,
    files: &ImageFiles<'_>,
    paths: &Paths,
) -> Result<Built, SpecError> {
    options.check(host)?;
    check(options, host)?;
    // What a user namespace gives does not reach the machine's limits.
    let host = &HostFacts {
        can_raise_limits: host.can_raise_limits && !options.namespaces.users.are_mapped(),
        ..host.clone()
    };
    let identity = identity(image, options, files)?;
    mapped::check_identity(options, &identity)?;
    let working_dir = process::working_dir(image, options)?;
    let hostname = hostname(options, host);
    let mut granted = capabilities::granted(host.bounding_capabilities, &options.security)?;
    if !options.edits.devices.is_empty() && !options.security.asks_for_nodes() {
        // Who has some of the machine's devices is not to make nodes for its other ones.
        granted.set.remove(&Capability::Mknod);
    }
    let mounts = mounts::mounts(image, options, host, paths)?;
    let (stop_signal, signal_warning) = stop_signal(image, options);

    let parts = process::Parts {
        identity: &identity,
        working_dir: &working_dir,
        hostname: &hostname,
        capabilities: &granted.set,
    };
    let process = process::process(image, options, host, &parts)?;
    let root = RootBuilder::default().path(paths.rootfs.as_path()).readonly(options.read_only).build()?;
    let mut spec = SpecBuilder::default()
        .version(OCI_VERSION)
        .root(root)
        .process(process)
        .mounts(mounts.list)
        .linux(linux::linux(options, host, paths, &granted.set)?)
        .build()?;
    let has_name = options.namespaces.uts == OwnOrHost::Private;
    // The crate's default is a name of its own.
    spec.set_hostname(has_name.then(|| hostname.clone()));
    spec.set_domainname(options.domainname.as_ref().map(ToString::to_string));
    let annotations: std::collections::HashMap<_, _> = options.annotations.clone().into_iter().collect();
    spec.set_annotations((!annotations.is_empty()).then_some(annotations));
    spec.set_hooks(edits::hooks(&options.edits)?);

    let notes = process::notes(options, host, &granted.missing);
    let limits = options.resources.warnings(host);
    let profile = match &options.security.seccomp {
        SeccompChoice::Profile(profile) => profile.warning(),
        _ => None,
    };
    let warnings = mounts.warnings.into_iter().chain(signal_warning).chain(limits).chain(profile).collect();
    let image_volumes = mounts.image_volumes;
    Ok(Built { spec, identity, hostname, working_dir, stop_signal, image_volumes, warnings, notes })
}

/// The specification as JSON, indented, always the same for the same specification: the crate's own serialisation
/// gives sets and maps in an order that changes from run to run.
pub fn to_json(spec: &Spec) -> Result<String, serde_json::Error> {
    let mut document = serde_json::to_value(spec)?;
    if let Some(serde_json::Value::Object(sets)) = document.pointer_mut("/process/capabilities") {
        for set in sets.values_mut().filter_map(serde_json::Value::as_array_mut) {
            set.sort_by(|left, right| left.as_str().cmp(&right.as_str()));
        }
    }
    for map in ["/linux/sysctl", "/annotations"] {
        if let Some(serde_json::Value::Object(map)) = document.pointer_mut(map) {
            map.sort_keys();
        }
    }
    serde_json::to_string_pretty(&document)
}

fn identity(image: &ImageConfig, options: &Options, files: &ImageFiles<'_>) -> Result<Identity, SpecError> {
    let identity = match &options.user {
        Some(user) => Identity::resolve(user, Origin::Flag("--user"), files),
        None => Identity::resolve(&image.user, Origin::Image, files),
    }?;
    identity.with_groups(&options.security.group_add, files)
}

/// With the machine's network the machine's name, unless another was asked for.
fn hostname(options: &Options, host: &HostFacts) -> String {
    match (&options.hostname, &options.network, &options.default_hostname) {
        _ if options.namespaces.uts == OwnOrHost::Host => host.hostname.clone(),
        (Some(hostname), _, _) | (None, Network::None | Network::Private | Network::Run(_), Some(hostname)) => {
            hostname.to_string()
        }
        (None, Network::Host, _) => host.hostname.clone(),
        (None, Network::None | Network::Private | Network::Run(_), None) => LAST_HOSTNAME.to_owned(),
    }
}

/// What cannot be together.
fn check(options: &Options, host: &HostFacts) -> Result<(), SpecError> {
    let names = [("--hostname", &options.hostname), ("--domainname", &options.domainname)];
    let asked = names.into_iter().find_map(|(flag, name)| name.as_ref().map(|name| format!("{flag} {name}")));
    if let Some(asked) = &asked {
        if options.namespaces.uts == OwnOrHost::Host {
            let why = "the name would become the machine's";
            return Err(SpecError::Conflict(asked.clone(), "--uts host".to_owned(), why));
        }
        if let Network::Run(_) = options.network {
            let why = "the name is that of the other run";
            return Err(SpecError::Conflict(asked.clone(), format!("--network {}", options.network), why));
        }
    }
    if let (Network::Run(_), Some(flag)) = (&options.network, options.lookup.first_flag()) {
        let why = "names are looked up as in the other run";
        return Err(SpecError::Conflict(flag.to_owned(), format!("--network {}", options.network), why));
    }
    options.lookup.check(&options.network)?;
    mounts::check_propagation(options, host)
}

/// A bad signal in the image does not stop a run.
fn stop_signal(image: &ImageConfig, options: &Options) -> (StopSignal, Option<String>) {
    if let Some(signal) = options.stop_signal {
        return (signal, None);
    }
    match image.stop_signal.as_deref().map(str::parse) {
        None => (StopSignal::TERM, None),
        Some(Ok(signal)) => (signal, None),
        Some(Err(error)) => {
            let SpecError::Signal(text) = error else { return (StopSignal::TERM, None) };
            let text = text.escape_debug();
            (StopSignal::TERM, Some(format!("stop signal `{text}` of the image is unknown, SIGTERM is used instead")))
        }
    }
}

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;
