//! Made-up GPUs and nodes.

use std::path::{Path, PathBuf};

use super::Node;
use crate::gpu::ChosenGpu;
use crate::gpu::{Gpu, GpuUuid, MigDevice, MigMinors, Utilisation};
use crate::spec::{Device, DeviceKind};

pub(in crate::gpu) fn chosen(index: u32, pci: &str) -> ChosenGpu {
    let gpu = Gpu {
        uuid: format!("GPU-00000000-0000-0000-0000-00000000000{index}").parse::<GpuUuid>().unwrap(),
        index,
        model: "NVIDIA A100-SXM4-40GB".to_owned(),
        pci: pci.parse().unwrap(),
        minor: Some(index),
        memory: None,
        utilisation: Utilisation::default(),
        brand: Some("nvidia".to_owned()),
        compute_capability: Some((8, 0)),
        mig_enabled: false,
        mig: Vec::new(),
        unusable: None,
    };
    ChosenGpu { gpu, mig: Vec::new() }
}

pub(in crate::gpu) fn mig(gpu_instance: u32, compute_instance: u32) -> MigDevice {
    MigDevice {
        uuid: format!("MIG-00000000-0000-0000-0000-0000000000{gpu_instance}{compute_instance}").parse().unwrap(),
        index: 0,
        profile: "3g.20gb".to_owned(),
        memory: None,
        minors: MigMinors { gpu_instance, compute_instance, ..MigMinors::default() },
    }
}

pub(in crate::gpu) fn node(path: &str, major: u32, minor: u32, purpose: &str) -> Node {
    let device = Device {
        path: PathBuf::from(path),
        kind: DeviceKind::Char,
        major,
        minor,
        mode: 0o666,
        uid: 0,
        gid: 0,
        access: "rw".to_owned(),
    };
    Node { device, host: Path::new(path).to_owned(), purpose: purpose.to_owned() }
}
