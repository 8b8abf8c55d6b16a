//! What is known about a run: its record, and in it how it stands, what it has and how it ended.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::health::RunHealth;
use super::id_maps::IdMaps;
use super::restart::RestartPolicy;
use super::run_cgroup::RunCgroup;
use super::runs::RunName;
use crate::image::{ByteSize, Digest, Reference};

/// How a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// Asked for; nothing of it is there yet.
    Submitted,
    /// Its image is being fetched.
    Pulling,
    /// Being set up; the container does not run yet.
    Creating,
    /// The container runs.
    Running,
    /// All its processes stand still.
    Paused,
    /// The container has failed and is about to be started once more.
    Restarting,
    /// The container has ended; artifacts are being saved.
    Saving,
    /// Ended with 0.
    Done,
    /// Ended otherwise, by itself.
    Failed,
    /// Ended because somebody stopped it, or the command line that had started it went away.
    Stopped,
    /// Ended because the machine was taken away (`interruptible`).
    Interrupted,
    /// Ended because somebody gave it up; nothing was saved.
    Aborted,
}

impl RunState {
    /// Whether nothing will change any more.
    #[must_use]
    pub const fn is_final(self) -> bool {
        match self {
            Self::Submitted
            | Self::Pulling
            | Self::Creating
            | Self::Running
            | Self::Paused
            | Self::Restarting
            | Self::Saving => false,
            Self::Done | Self::Failed | Self::Stopped | Self::Interrupted | Self::Aborted => true,
        }
    }

    /// The state of a run that ended so.
    #[must_use]
    pub const fn after(exit: &Exit) -> Self {
        match exit.reason {
            ExitReason::Stopped | ExitReason::ClientLost => Self::Stopped,
            ExitReason::Interrupted => Self::Interrupted,
            ExitReason::Aborted => Self::Aborted,
            // Whatever the workload made of being stopped.
            ExitReason::Unhealthy => Self::Failed,
            _ if exit.code == 0 => Self::Done,
            _ => Self::Failed,
        }
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Submitted => "submitted",
            Self::Pulling => "pulling",
            Self::Creating => "creating",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Saving => "saving",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
            Self::Interrupted => "interrupted",
            Self::Aborted => "aborted",
        })
    }
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitReason {
    /// The workload ended by itself.
    Exited,
    /// A signal ended the workload.
    Signalled,
    /// The kernel killed it for want of memory.
    OomKilled,
    /// It took longer than it was given (`--timeout`).
    Timeout,
    /// A GPU of its fell off the bus or had to be given up, and it did not end well.
    GpuLost,
    /// Its health check failed too often, and it was ended for that (`--health-on-failure`).
    Unhealthy,
    /// It never started.
    StartFailed,
    /// Somebody stopped it (`dockless stop`, Ctrl-C at a workflow).
    Stopped,
    /// Its machine is being taken away: SIGTERM to the tool, and the workflow is `interruptible`.
    Interrupted,
    /// Somebody gave it up (`dockless stop --abort`).
    Aborted,
    /// The command line that had started it was killed, and the supervisor stopped the run.
    ClientLost,
    /// The supervisor was killed, and the container with it.
    SupervisorLost,
    /// The machine went down while it ran.
    HostReboot,
}

/// The command of a workflow that was running when the run failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailedCommand {
    /// Which one, counted from 1.
    pub index: usize,
    /// Of how many.
    pub of: usize,
    /// Its first line.
    pub text: String,
    /// What it ended with.
    pub code: i32,
}

/// A GPU, or a part of one, that a run has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunGpu {
    /// What the driver knows it by: `GPU-…`, `MIG-…`.
    pub uuid: String,
    /// Its model, with the profile of a part: `NVIDIA H100 80GB HBM3 1g.10gb`.
    pub model: String,
    /// Others may have it at the same time (`--gpus-shared`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
}

/// What a run made of a GPU, as far as the driver told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuUsage {
    /// Which.
    pub uuid: String,
    /// Highest share of a second in which it computed, per cent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_percent_max: Option<u32>,
    /// The mean over the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_percent_mean: Option<f64>,
    /// Most memory in use, in bytes; whoever used it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_peak: Option<ByteSize>,
}

/// A network that a run has to itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunNetwork {
    /// The bridge of this machine that it is on.
    pub bridge: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// The machine's address there; names are asked for there too.
    pub gateway: Ipv4Addr,
    /// Names that it has beside its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
}

/// What a run may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Processors, in fractions if need be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
    /// Memory in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    /// Size of `/dev/shm` in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shm_size: Option<ByteSize>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exit {
    /// What a shell would see: the workload's own code, 128+n for signal n, 125/126/127 when it never started.
    #[serde(rename = "exit_code", alias = "code")]
    pub code: i32,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Why.
    pub reason: ExitReason,
    /// Processes of the container that the kernel killed for want of memory.
    pub oom_kills: u64,
    /// The last of them, where the kernel's log can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub victim: Option<Victim>,
    /// Highest memory use in bytes, where the kernel counts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_peak: Option<ByteSize>,
    /// Memory limit in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<ByteSize>,
    /// Most bytes seen in a `/dev/shm` of its own: the kernel keeps no peak of it, so it is looked at every second and at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shm_peak: Option<ByteSize>,
    /// Time on processors in seconds, where the kernel counts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_seconds: Option<f64>,
    /// When the workload started; absent when it never did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<String>,
    /// What it made of its GPUs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<GpuUsage>,
    /// The command of a workflow that ended the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_command: Option<FailedCommand>,
    /// The same in words, when there is more to say than the code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl Exit {
    /// An end of which nothing more is known.
    #[must_use]
    pub const fn new(code: i32, reason: ExitReason) -> Self {
        Self {
            code,
            signal: None,
            reason,
            oom_kills: 0,
            victim: None,
            memory_peak: None,
            memory_limit: None,
            shm_peak: None,
            cpu_seconds: None,
            started: None,
            finished: None,
            gpus: Vec::new(),
            failed_command: None,
            message: None,
        }
    }
}

/// A process that the kernel killed for want of memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Victim {
    /// Its number on the machine.
    pub pid: i32,
    /// Its name, as the kernel logged it: 15 bytes at most.
    pub command: String,
}

/// An image that is mounted in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountedImage {
    /// Its manifest.
    pub manifest: Digest,
    /// Its layers' directories in the store, lowest first.
    pub layers: Vec<Digest>,
}

impl RunRecord {
    /// Directories of the store that the run relies on; what was mounted beside its root is wanted until it has ended.
    pub fn needed_layers(&self) -> impl Iterator<Item = &Digest> {
        self.layers.iter().chain(self.mounted_now().flat_map(|image| &image.layers))
    }

    /// The manifests of the images that it relies on.
    pub fn needed_manifests(&self) -> impl Iterator<Item = &Digest> {
        self.manifest.iter().chain(self.mounted_now().map(|image| &image.manifest))
    }

    /// Whether its health check says how it is now.
    #[must_use]
    pub const fn has_health(&self) -> bool {
        self.health.is_some() && matches!(self.state, RunState::Running | RunState::Paused)
    }

    fn mounted_now(&self) -> impl Iterator<Item = &MountedImage> {
        self.mounted.iter().filter(|_| !self.state.is_final())
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives references")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// What is known about a run; `run.json`. `docs/json.md` describes the keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of its own in the file")]
pub struct RunRecord {
    /// Format of this file; 1.
    pub schema: u32,
    /// The run's name.
    pub name: RunName,
    /// What the kernel and libcontainer know it by: the name with a suffix that tells stores and times apart.
    pub id: String,
    /// The workflow it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
    /// The directory of the project that the workflow belongs to; what is not UTF-8 in it is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// The workflow after interpolation, secrets masked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved: Option<serde_json::Value>,
    /// The image as it was asked for.
    pub image: Reference,
    /// The manifest that was run; known once the image has been resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Digest>,
    /// Directories of the store that the root file system consists of, lowest first.
    pub layers: Vec<Digest>,
    /// Images that are mounted beside it (`--mount type=image`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounted: Vec<MountedImage>,
    /// `shareable` when other runs may join its IPC namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipc: Option<String>,
    /// Which users of the machine its users are; absent when they are the machine's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_maps: Option<IdMaps>,
    /// The container's argv, secrets masked.
    pub command: Vec<String>,
    /// What it may use.
    #[serde(default)]
    pub limits: Limits,
    /// GPUs that it has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<RunGpu>,
    /// It goes on without the command line that started it.
    #[serde(default)]
    pub detached: bool,
    /// The workload has a terminal.
    #[serde(default)]
    pub terminal: bool,
    /// The workload's input is open for whoever is attached.
    #[serde(default)]
    pub interactive: bool,
    /// SIGTERM to the tool means that the machine is being taken away.
    #[serde(default)]
    pub interruptible: bool,
    /// Ports that the workload listens on: `8080`, `8080:80`; of a network of its own those that are published:
    /// `0.0.0.0:8080->80/tcp`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
    /// Its network, when it has one to itself that leads out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<RunNetwork>,
    /// Where artifacts are saved: a URL without credentials; absent for the store's own directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_store: Option<String>,
    /// Runs whose artifacts it reads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deps: Vec<RunName>,
    /// Keys of the caches it writes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub caches: Vec<String>,
    /// The image's, and over them what whoever started it noted with it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Groups that its user has beside his own: names or numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub group_add: Vec<String>,
    /// The tag it gets if it ends well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Nothing is kept of what it writes (`--log-driver none`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_log: bool,
    /// When it is started once more; absent for never.
    #[serde(default, skip_serializing_if = "RestartPolicy::is_no")]
    pub restart: RestartPolicy,
    /// How often it was; absent for never.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub restarts: u32,
    /// How it is, when it has a health check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<RunHealth>,
    /// How it stands.
    pub state: RunState,
    /// How the root file system was made: `overlay` or `copy`.
    pub rootfs: String,
    /// The boot it ran in (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// When it was set up (RFC 3339, UTC).
    pub created: String,
    /// When the workload started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<String>,
    /// The container's init on the host, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// When that process started, in clock ticks since the boot (`proc_pid_stat(5)`): tells it from a later one of its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid_start: Option<u64>,
    /// Where its cgroup is; absent in records of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<RunCgroup>,
    /// The whole run goes at its end.
    pub remove: bool,
    /// The writable layer stays at its end.
    pub keep: bool,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// The OCI runtime spec it ran with, secrets masked; once it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<serde_json::Value>,
}
