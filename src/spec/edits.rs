//! What devices bring into a container beside what every container gets: the shape of CDI's `containerEdits`.

use std::path::PathBuf;

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Hook, HookBuilder, Hooks, LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder,
    LinuxDeviceType, Mount, MountBuilder,
};
use serde::{Deserialize, Serialize};

/// Additions to a specification. What they change in the root file system itself is [`crate::rootfs::RootEdits`]' matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edits {
    /// Variables, over those of image and user.
    pub env: Vec<(String, String)>,
    /// Device nodes to be made in the container; the cgroup lets the container open exactly these.
    pub devices: Vec<Device>,
    /// Files and directories of this machine.
    pub mounts: Vec<EditMount>,
    /// Groups that the workload is in as well.
    pub groups: Vec<u32>,
    /// Programs of this machine that the runtime runs.
    pub hooks: Vec<EditHook>,
}

/// Which kind a node is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// Character device.
    Char,
    /// Block device.
    Block,
}

/// A device node in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Absolute, in the container.
    pub path: PathBuf,
    /// Character or block.
    pub kind: DeviceKind,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// What the cgroup allows: some of `r`, `w` and `m`.
    pub access: String,
}

/// A file or directory of this machine seen in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EditMount {
    /// Absolute, on this machine, without links.
    pub source: PathBuf,
    /// Absolute, in the container.
    pub destination: PathBuf,
    /// `ro`, `nosuid`, `nodev`, `rbind`, … as in a runtime specification.
    pub options: Vec<String>,
    /// `bind` but for what CDI gives another type (`tmpfs`).
    pub kind: String,
}

/// A program that the runtime runs; nothing of the image's reaches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EditHook {
    /// `createRuntime`, `createContainer`, `startContainer`, `poststart`, `poststop`, `prestart`.
    pub stage: String,
    /// Absolute, on this machine.
    pub path: PathBuf,
    /// With the name of the program first.
    pub args: Vec<String>,
    /// `KEY=VALUE`.
    pub env: Vec<String>,
    /// In seconds.
    pub timeout: Option<i64>,
}

/// Stages whose hooks run in the container's namespaces or after its start; all others run before it is made.
const STAGES: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

pub(super) fn devices(edits: &Edits) -> Result<Vec<LinuxDevice>, OciSpecError> {
    let device = |device: &Device| {
        LinuxDeviceBuilder::default()
            .path(device.path.as_path())
            .typ(kind(device.kind))
            .major(i64::from(device.major))
            .minor(i64::from(device.minor))
            .file_mode(device.mode)
            .uid(device.uid)
            .gid(device.gid)
            .build()
    };
    edits.devices.iter().map(device).collect()
}

pub(super) fn device_rules(edits: &Edits) -> Result<Vec<LinuxDeviceCgroup>, OciSpecError> {
    let rule = |device: &Device| {
        LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(kind(device.kind))
            .major(i64::from(device.major))
            .minor(i64::from(device.minor))
            .access(device.access.as_str())
            .build()
    };
    edits.devices.iter().map(rule).collect()
}

pub(super) fn mounts(edits: &Edits) -> Result<Vec<Mount>, OciSpecError> {
    let mount = |mount: &EditMount| {
        MountBuilder::default()
            .destination(mount.destination.as_path())
            .typ(mount.kind.as_str())
            .source(mount.source.as_path())
            .options(mount.options.clone())
            .build()
    };
    edits.mounts.iter().map(mount).collect()
}

/// `None` without any, so that the specification of other containers stays as it is.
pub(super) fn hooks(edits: &Edits) -> Result<Option<Hooks>, OciSpecError> {
    if edits.hooks.is_empty() {
        return Ok(None);
    }
    let mut all = Hooks::default();
    for stage in STAGES {
        let of_stage = edits.hooks.iter().filter(|hook| hook.stage == stage);
        let list = of_stage.map(hook).collect::<Result<Vec<Hook>, _>>()?;
        if list.is_empty() {
            continue;
        }
        match stage {
            "prestart" => drop(all.set_prestart(Some(list))),
            "createRuntime" => drop(all.set_create_runtime(Some(list))),
            "createContainer" => drop(all.set_create_container(Some(list))),
            "startContainer" => drop(all.set_start_container(Some(list))),
            "poststart" => drop(all.set_poststart(Some(list))),
            _ => drop(all.set_poststop(Some(list))),
        }
    }
    Ok(Some(all))
}

fn hook(hook: &EditHook) -> Result<Hook, OciSpecError> {
    let mut built =
        HookBuilder::default().path(hook.path.as_path()).args(hook.args.clone()).env(hook.env.clone()).build()?;
    built.set_timeout(hook.timeout);
    Ok(built)
}

const fn kind(kind: DeviceKind) -> LinuxDeviceType {
    match kind {
        DeviceKind::Char => LinuxDeviceType::C,
        DeviceKind::Block => LinuxDeviceType::B,
    }
}
