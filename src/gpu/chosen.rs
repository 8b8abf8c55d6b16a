//! What a run can be given: a GPU, or a part of one. Pure.

use super::model::sold_gigabytes;
use super::{DeviceName, Gpu, GpuUuid, Inventory, MigDevice};

/// A GPU or a MIG device that a run is given.
#[derive(Debug, Clone, PartialEq)]
pub enum Chosen {
    /// A whole GPU.
    Gpu(Gpu),
    /// A part of one.
    Mig {
        /// The GPU that it is a part of.
        gpu: Gpu,
        /// The part.
        device: MigDevice,
    },
}

impl Chosen {
    /// The name that it is leased under.
    #[must_use]
    pub const fn uuid(&self) -> &GpuUuid {
        match self {
            Self::Gpu(gpu) => &gpu.uuid,
            Self::Mig { device, .. } => &device.uuid,
        }
    }

    /// The GPU, whole or not.
    #[must_use]
    pub const fn gpu(&self) -> &Gpu {
        match self {
            Self::Gpu(gpu) | Self::Mig { gpu, .. } => gpu,
        }
    }
}

/// A GPU that a run was given, whole or in parts.
#[derive(Debug, Clone, PartialEq)]
pub struct ChosenGpu {
    /// The GPU.
    pub gpu: Gpu,
    /// Its parts; none when it is given whole.
    pub mig: Vec<MigDevice>,
}

impl ChosenGpu {
    /// Chosen GPUs and parts of GPUs, in any order, as one entry per GPU. A GPU that was chosen whole stays whole.
    pub fn gather(chosen: impl IntoIterator<Item = (Gpu, Option<MigDevice>)>) -> Vec<Self> {
        let mut gathered: Vec<(Self, bool)> = Vec::new();
        for (gpu, part) in chosen {
            let at = gathered.iter().position(|(known, _)| known.gpu.uuid == gpu.uuid).unwrap_or(gathered.len());
            if at == gathered.len() {
                gathered.push((Self { gpu, mig: Vec::new() }, false));
            }
            let (known, whole) = &mut gathered[at];
            *whole |= part.is_none();
            known.mig.extend(part);
        }
        let finished = gathered.into_iter().map(|(mut chosen, whole)| {
            if whole {
                chosen.mig.clear();
            }
            chosen
        });
        finished.collect()
    }
}

/// What can be given as one, where it is in the inventory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Unit<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) mig: Option<&'a MigDevice>,
}

impl<'a> Unit<'a> {
    /// What a GPU is given as: itself, or its MIG devices when it is partitioned.
    pub(super) fn of(gpu: &'a Gpu) -> impl Iterator<Item = Self> {
        let whole = (!gpu.mig_enabled).then_some(Self { gpu, mig: None });
        let parts = gpu.mig.iter().filter(|_| gpu.mig_enabled).map(move |device| Self { gpu, mig: Some(device) });
        whole.into_iter().chain(parts)
    }

    pub(super) fn uuid(&self) -> &'a GpuUuid {
        self.mig.map_or(&self.gpu.uuid, |device| &device.uuid)
    }

    /// How many GB it is sold with; a MIG device those of its profile.
    pub(super) fn gigabytes(&self) -> Option<u64> {
        let Some(device) = self.mig else { return sold_gigabytes(&self.gpu.model, self.gpu.memory) };
        let plain = device.profile.split_once('+').map_or(device.profile.as_str(), |(plain, _)| plain);
        plain.rsplit('.').next().and_then(|last| last.to_ascii_lowercase().strip_suffix("gb")?.parse().ok())
    }

    /// `GPU 0`, `GPU 0:1`: what it is called on the command line.
    pub(super) fn label(&self) -> String {
        match self.mig {
            Some(device) => format!("GPU {}:{}", self.gpu.index, device.index),
            None => format!("GPU {}", self.gpu.index),
        }
    }

    pub(super) fn chosen(&self) -> Chosen {
        match self.mig {
            Some(device) => Chosen::Mig { gpu: self.gpu.clone(), device: device.clone() },
            None => Chosen::Gpu(self.gpu.clone()),
        }
    }
}

/// What a name says.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Found<'a> {
    /// A GPU, with all its parts if it is partitioned.
    Gpu(&'a Gpu),
    /// A MIG device.
    Mig(Unit<'a>),
    /// Nothing that is here.
    Nothing,
    /// The beginning of more than one UUID.
    Several,
}

/// What is called `name` here.
pub(super) fn find<'a>(name: &DeviceName, inventory: &'a Inventory) -> Found<'a> {
    let gpu = |wanted: &dyn Fn(&Gpu) -> bool| inventory.gpus.iter().find(|gpu| wanted(gpu));
    let part = |gpu: &'a Gpu, wanted: &dyn Fn(&MigDevice) -> bool| {
        let device = gpu.mig.iter().find(|device| gpu.mig_enabled && wanted(device))?;
        Some(Found::Mig(Unit { gpu, mig: Some(device) }))
    };
    let found = match name {
        DeviceName::Index(index) => gpu(&|gpu| gpu.index == *index).map(Found::Gpu),
        DeviceName::Pci(address) => gpu(&|gpu| gpu.pci == *address).map(Found::Gpu),
        DeviceName::Mig(index, device_index) => {
            gpu(&|gpu| gpu.index == *index).and_then(|gpu| part(gpu, &|device| device.index == *device_index))
        }
        DeviceName::OldMig(uuid, gpu_instance, compute_instance) => match by_uuid(uuid, inventory) {
            Found::Gpu(gpu) => part(gpu, &|device| {
                let minors = device.minors;
                minors.gpu_instance == *gpu_instance && minors.compute_instance == *compute_instance
            }),
            other => return other,
        },
        DeviceName::Uuid(uuid) => return by_uuid(uuid, inventory),
    };
    found.unwrap_or(Found::Nothing)
}

/// A whole UUID wins over those that only begin with it.
fn by_uuid<'a>(beginning: &str, inventory: &'a Inventory) -> Found<'a> {
    let mut found = Found::Nothing;
    let gpus = inventory.gpus.iter().map(|gpu| (&gpu.uuid, Found::Gpu(gpu)));
    let parts =
        inventory.gpus.iter().filter(|gpu| gpu.mig_enabled).flat_map(|gpu| {
            gpu.mig.iter().map(move |device| (&device.uuid, Found::Mig(Unit { gpu, mig: Some(device) })))
        });
    for (uuid, here) in gpus.chain(parts) {
        let Some(start) = uuid.as_str().get(..beginning.len()) else { continue };
        if !start.eq_ignore_ascii_case(beginning) {
            continue;
        }
        if uuid.as_str().len() == beginning.len() {
            return here;
        }
        found = if found == Found::Nothing { here } else { Found::Several };
    }
    found
}

/// Machines made up for tests.
#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use crate::gpu::{Driver, MigMinors, Platform, Version};
    use crate::image::ByteSize;

    pub(in crate::gpu) fn uuid(index: u32) -> GpuUuid {
        format!("GPU-{index:02}aabbcc-0000-4000-8000-000000000000").parse().unwrap()
    }

    pub(in crate::gpu) fn gpu(index: u32, model: &str, mib: u64) -> Gpu {
        let pci = format!("0000:{:02x}:00.0", 16 + index).parse().unwrap();
        let memory = (mib > 0).then_some(ByteSize(mib << 20));
        Gpu { index, minor: Some(index), memory, ..Gpu::new(uuid(index), model, pci) }
    }

    /// A partitioned A100.
    pub(in crate::gpu) fn mig(index: u32, profiles: &[&str]) -> Gpu {
        let device = |(number, profile): (u32, &&str)| MigDevice {
            uuid: format!("MIG-{index:02}{number:02}-0000-4000-8000-000000000000").parse().unwrap(),
            index: number,
            profile: (*profile).to_owned(),
            memory: None,
            minors: MigMinors { gpu_instance: number + 7, ..MigMinors::default() },
        };
        let mig = (0..).zip(profiles).map(device).collect();
        Gpu { mig_enabled: true, mig, ..gpu(index, "NVIDIA A100-SXM4-40GB", 40960) }
    }

    pub(in crate::gpu) fn machine(gpus: Vec<Gpu>) -> Inventory {
        let driver = Driver { version: Version::new("570.86.10"), platform: Platform::Linux, cuda: Some((12, 8)) };
        Inventory { driver: Some(driver), gpus, ..Inventory::default() }
    }

    /// So many A100.
    pub(in crate::gpu) fn equal(count: u32) -> Inventory {
        machine((0..count).map(|index| gpu(index, "NVIDIA A100-SXM4-40GB", 40960)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{equal, gpu, machine, mig, uuid};
    use super::*;

    #[test]
    fn names_find_what_they_say() {
        let here = machine(vec![gpu(0, "Tesla T4", 15360), mig(1, &["1g.5gb", "2g.10gb"]), gpu(2, "Tesla T4", 15360)]);
        for (name, found) in [
            ("0", "GPU 0"),
            ("2", "GPU 2"),
            ("3", "nothing"),
            ("GPU-00", "GPU 0"),
            ("gpu-02AABB", "GPU 2"),
            ("GPU-0", "several"),
            (uuid(2).as_str(), "GPU 2"),
            ("GPU-03", "nothing"),
            ("MIG-0101", "GPU 1:1"),
            ("MIG-01", "several"),
            ("0000:11:00.0", "GPU 1"),
            ("0000:99:00.0", "nothing"),
            ("1:1", "GPU 1:1"),
            ("1:2", "nothing"),
            ("0:0", "nothing"),
            ("MIG-GPU-01/8/0", "GPU 1:1"),
            ("MIG-GPU-01/1/0", "nothing"),
        ] {
            let told = match find(&name.parse().unwrap(), &here) {
                Found::Gpu(gpu) => format!("GPU {}", gpu.index),
                Found::Mig(unit) => unit.label(),
                Found::Nothing => "nothing".to_owned(),
                Found::Several => "several".to_owned(),
            };
            assert_eq!(told, found, "{name}");
        }
    }

    #[test]
    fn a_whole_uuid_wins_over_a_longer_one() {
        let mut here = equal(2);
        here.gpus[1].uuid = format!("{}0", uuid(0)).parse().unwrap();
        assert_eq!(find(&DeviceName::Uuid(uuid(0).to_string()), &here), Found::Gpu(&here.gpus[0]));
    }

    #[test]
    fn parts_are_as_large_as_their_profile() {
        let here = mig(0, &["1g.5gb+me", "3g.20gb", "odd"]);
        let sizes: Vec<_> = Unit::of(&here).map(|unit| unit.gigabytes()).collect();
        assert_eq!(sizes, [Some(5), Some(20), None]);
    }
}
