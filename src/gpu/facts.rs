//! What is known about GPUs beside what `/proc` says.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::inventory::{GpuUuid, MigDevice, PciAddress, Source, Utilisation, Version};
use crate::image::ByteSize;

/// All that was told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// By whom.
    pub source: Source,
    /// Version of the driver.
    pub version: Option<Version>,
    /// The newest CUDA that it speaks.
    pub cuda: Option<(u32, u32)>,
    /// By GPU.
    pub gpus: BTreeMap<GpuUuid, GpuFacts>,
    /// What could not be found out and why, in words.
    pub notes: Vec<String>,
}

/// What was told about one GPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuFacts {
    /// Its model.
    pub model: Option<String>,
    /// Where it is.
    pub pci: PciAddress,
    /// All of its memory.
    pub memory: Option<ByteSize>,
    /// What it does.
    pub utilisation: Utilisation,
    /// `tesla`, `geforce`, …
    pub brand: Option<String>,
    /// Compute capability.
    pub compute_capability: Option<(u32, u32)>,
    /// Whether it is partitioned.
    pub mig_enabled: bool,
    /// Its partitions.
    pub mig: Vec<MigDevice>,
}
