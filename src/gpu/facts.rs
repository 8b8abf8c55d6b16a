//! What is known about GPUs beside what `/proc` says, and who is asked for it: NVML, else nvidia-smi.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::inventory::{GpuUuid, MigDevice, PciAddress, Source, Utilisation, Version};
use super::{nvml, smi};
use crate::image::ByteSize;
use crate::words::describe;

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

/// Asks the driver's library at `library`, else the program at `smi`; both are files of this machine, resolved already.
#[must_use]
pub fn ask(library: Option<&Path>, smi: Option<&Path>) -> Facts {
    ask_from(Path::new(nvml::SELF), nvml::PATIENCE, library, smi)
}

/// The same, with NVML asked by another binary than this process is, and for as long as `patience`; for programs that embed the
/// library and tests.
#[must_use]
pub fn ask_from(binary: &Path, patience: Duration, library: Option<&Path>, smi: Option<&Path>) -> Facts {
    let mut notes = Vec::new();
    match library.map(|library| nvml::probe(binary, patience, library)) {
        Some(Ok(facts)) => return facts,
        Some(Err(error)) => notes.push(format!("NVML does not answer: {}", describe(&error))),
        None => notes.push("the driver has no libnvidia-ml".to_owned()),
    }
    match smi.map(smi::ask) {
        Some(Ok(facts)) => return Facts { notes, ..facts },
        Some(Err(error)) => notes.push(format!("nvidia-smi does not answer: {}", describe(&error))),
        None => {
            notes.push("the driver has no nvidia-smi; memory, MIG devices and utilisation are not known".to_owned());
        }
    }
    Facts { notes, ..Facts::default() }
}
