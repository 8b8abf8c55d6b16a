//! What is there, as data: the driver and its GPUs. Made by `discover`, looked at by everything else.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::image::ByteSize;

/// The driver and all GPUs that it drives.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Inventory {
    /// `None` when no driver runs.
    pub driver: Option<Driver>,
    /// In the order of their PCI addresses, which is NVML's.
    pub gpus: Vec<Gpu>,
    /// Where memory, MIG and utilisation are known from.
    pub source: Source,
    /// What could not be found out and why, in words, for `gpu list` and `gpu explain`.
    pub notes: Vec<String>,
}

/// Who told about the GPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The driver's library.
    Nvml,
    /// `nvidia-smi`.
    Smi,
    /// `/proc/driver/nvidia` alone: memory and MIG are not known.
    #[default]
    Proc,
}

/// The running driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Driver {
    /// Of the kernel's module, to which libraries must belong.
    pub version: Version,
    /// How devices are reached.
    pub platform: Platform,
    /// The newest CUDA that it speaks, major and minor.
    pub cuda: Option<(u32, u32)>,
}

/// How the driver reaches its devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    /// `/dev/nvidia*`.
    Linux,
    /// Windows' driver under WSL 2: `/dev/dxg`.
    Wsl,
}

/// A driver's version: `570.86.10`. Compared number by number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(String);

impl Version {
    /// The text as it is.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// As in file names.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first number: the branch.
    #[must_use]
    pub fn major(&self) -> Option<u32> {
        self.numbers().first().copied()
    }

    fn numbers(&self) -> Vec<u32> {
        self.0.split('.').map_while(|part| part.parse().ok()).collect()
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.numbers().cmp(&other.numbers()))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A PCI address, `0000:41:00.0`; sorts as the bus does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

impl FromStr for PciAddress {
    type Err = String;

    /// Reads `0000:41:00.0`, also in NVML's form with eight digits of domain, in either case, and without function.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = || {
            let (rest, function) = text.split_once('.').unwrap_or((text, "0"));
            let mut parts = rest.rsplit(':');
            let device = u8::from_str_radix(parts.next()?, 16).ok()?;
            let bus = u8::from_str_radix(parts.next()?, 16).ok()?;
            let domain = parts.next().map_or(Some(0), |part| u32::from_str_radix(part, 16).ok())?;
            let function = u8::from_str_radix(function, 16).ok()?;
            parts.next().is_none().then_some(Self { domain, bus, device, function })
        };
        read().ok_or_else(|| format!("PCI address `{text}` is malformed, expected e.g. `0000:41:00.0`"))
    }
}

impl TryFrom<String> for PciAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<PciAddress> for String {
    fn from(address: PciAddress) -> Self {
        address.to_string()
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, device, function } = self;
        f.pad(&format!("{domain:04x}:{bus:02x}:{device:02x}.{function:x}"))
    }
}

/// What a GPU (`GPU-…`) or a MIG device (`MIG-…`) is known by for ever; safe as a file name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GpuUuid(String);

/// Why a text is not such a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not the UUID of a GPU, expected e.g. `GPU-8f2d0b6e-0d5c-4a0b-9f4e-1d2c3b4a5968`", .0.escape_debug())]
pub struct GpuUuidError(String);

impl GpuUuid {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for GpuUuid {
    type Err = GpuUuidError;

    /// Old MIG names hold slashes (`MIG-GPU-…/1/0`): they are kept out, the driver gives every device a new one as well.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let good = (text.starts_with("GPU-") || text.starts_with("MIG-"))
            && text.len() <= 80
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if good { Ok(Self(text.to_owned())) } else { Err(GpuUuidError(text.to_owned())) }
    }
}

impl TryFrom<String> for GpuUuid {
    type Error = GpuUuidError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<GpuUuid> for String {
    fn from(uuid: GpuUuid) -> Self {
        uuid.0
    }
}

impl fmt::Display for GpuUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A GPU.
#[derive(Debug, Clone, PartialEq)]
pub struct Gpu {
    /// Its name for ever.
    pub uuid: GpuUuid,
    /// Its place in the order of PCI addresses: what `--gpus device=0` counts.
    pub index: u32,
    /// As the driver says it: `NVIDIA A100-SXM4-40GB`, `Tesla K80`.
    pub model: String,
    /// Where it is.
    pub pci: PciAddress,
    /// The number of `/dev/nvidiaN`; none under WSL.
    pub minor: Option<u32>,
    /// What it has, as the driver reports it: less than what it is sold as.
    pub memory: Option<ByteSize>,
    /// How busy it is.
    pub utilisation: Utilisation,
    /// `tesla`, `geforce`, … as in `NVIDIA_REQUIRE_*`.
    pub brand: Option<String>,
    /// Compute capability, `(8, 0)`.
    pub compute_capability: Option<(u32, u32)>,
    /// Whether it is partitioned; it can then only be used through its devices.
    pub mig_enabled: bool,
    /// Its partitions.
    pub mig: Vec<MigDevice>,
    /// Why it cannot be given to anybody (its node cannot be opened, …).
    pub unusable: Option<String>,
}

impl Gpu {
    /// A GPU of which nothing else is known.
    #[must_use]
    pub fn new(uuid: GpuUuid, model: &str, pci: PciAddress) -> Self {
        Self {
            uuid,
            index: 0,
            model: model.to_owned(),
            pci,
            minor: None,
            memory: None,
            utilisation: Utilisation::default(),
            brand: None,
            compute_capability: None,
            mig_enabled: false,
            mig: Vec::new(),
            unusable: None,
        }
    }
}

/// What a GPU does at the moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Utilisation {
    /// Per cent of the last sample period in which it computed.
    pub compute_percent: Option<u32>,
    /// Memory in use.
    pub memory_used: Option<ByteSize>,
}

/// A part of a GPU (Multi-Instance GPU).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigDevice {
    /// Its name for ever.
    pub uuid: GpuUuid,
    /// Its number on its GPU: `--gpus device=0:1` is the second of the first.
    pub index: u32,
    /// `1g.10gb`.
    pub profile: String,
    /// What it has.
    pub memory: Option<ByteSize>,
    /// Which capability files let it be used.
    pub minors: MigMinors,
}

/// Ids of a MIG device, and the minors of its nodes in `/dev/nvidia-caps`
/// (`/proc/driver/nvidia-caps/mig-minors`, `/proc/driver/nvidia/capabilities`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigMinors {
    /// Id of the GPU instance.
    pub gpu_instance: u32,
    /// Id of the compute instance in it.
    pub compute_instance: u32,
    /// Minor of the GPU instance's node.
    pub gpu_instance_minor: Option<u32>,
    /// Minor of the compute instance's node.
    pub compute_instance_minor: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_every_form() {
        for text in ["0000:41:00.0", "00000000:41:00.0", "41:00.0", "0000:41:00", "00000000:41:00.0"] {
            assert_eq!(text.parse::<PciAddress>().unwrap().to_string(), "0000:41:00.0", "{text}");
        }
        assert!("0000:41:00.0".parse::<PciAddress>().unwrap() < "0000:C1:00.0".parse().unwrap());
        for bad in ["", "41", "x:41:00.0", "1:2:3:4.0", "0000:41:00.z", "0000:141:00.0"] {
            assert!(bad.parse::<PciAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn uuids_are_safe_as_file_names() {
        for good in ["GPU-8f2d0b6e-0d5c-4a0b-9f4e-1d2c3b4a5968", "MIG-a"] {
            assert!(good.parse::<GpuUuid>().is_ok(), "{good}");
        }
        for bad in ["", "GPU-../x", "gpu-1", "MIG-GPU-1/1/0", "GPU-\0"] {
            assert!(bad.parse::<GpuUuid>().is_err(), "{bad}");
        }
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(Version::new("570.9.1") < Version::new("570.86"));
        assert_eq!(Version::new(" 535.104.05\n").major(), Some(535));
    }
}
