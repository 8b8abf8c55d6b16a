//! What devices bring into a container beside what every container gets: the shape of CDI's `containerEdits`.

use std::path::PathBuf;

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
