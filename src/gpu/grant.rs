//! Which GPUs we may hand out ourselves: what a scheduler's job, or the container that we run in, was given. Pure; the
//! environment's variables are handed in.
//!
//! The rule is never to hand out what may not be granted. A UUID is exact. A number is not: what it counts depends on who
//! wrote it, so each way of counting that fits what is here is tried, and only what all of them grant is granted.
//!
//! - CUDA counts the GPUs that the process can open, the fastest first unless `CUDA_DEVICE_ORDER=PCI_BUS_ID` (CUDA Programming
//!   Guide, "Environment Variables"). Which is fastest only CUDA knows; among GPUs of one model the order is that of the bus.
//!   It stops at the first entry that names nothing.
//! - Slurm writes `CUDA_VISIBLE_DEVICES` counted from 0 over the job's own devices under `ConstrainDevices=yes`, else over all of
//!   the node: by PCI address, or by the number of `/dev/nvidiaN` where `gres.conf` lists files (slurm.schedmd.com/gres.html).
//!   `SLURM_JOB_GPUS` and `SLURM_STEP_GPUS` count over all of the node in either way. MIG devices come by UUID.
//! - Grid Engine, PBS, LSF and `HTCondor` set `CUDA_VISIBLE_DEVICES`, the last two by UUID or its beginning.
//! - `NVIDIA_VISIBLE_DEVICES` counts as NVML does on the host. `void` and nothing say only that NVIDIA's runtime was not to add
//!   GPUs; CDI, and we ourselves, leave `void` where GPUs were added otherwise.

use std::collections::BTreeSet;

use super::chosen::{Found, Unit, find};
use super::{DeviceName, Gpu, GpuUuid, Inventory};
use crate::words::printable;

/// More entries are no list of GPUs.
const MAX_ENTRIES: usize = 4096;
/// How much of a value an error shows.
const MAX_SHOWN: usize = 120;

/// What the environment says about GPUs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grant {
    lists: Vec<(Variable, String)>,
    is_scheduled: bool,
    bus_order: bool,
}

/// A variable that lists GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variable {
    Cuda,
    SlurmJob,
    SlurmStep,
    Ordinal,
    Nvidia,
}

impl Variable {
    const ALL: [Self; 5] = [Self::Cuda, Self::SlurmJob, Self::SlurmStep, Self::Ordinal, Self::Nvidia];

    const fn name(self) -> &'static str {
        match self {
            Self::Cuda => "CUDA_VISIBLE_DEVICES",
            Self::SlurmJob => "SLURM_JOB_GPUS",
            Self::SlurmStep => "SLURM_STEP_GPUS",
            Self::Ordinal => "GPU_DEVICE_ORDINAL",
            Self::Nvidia => "NVIDIA_VISIBLE_DEVICES",
        }
    }
}

impl Grant {
    /// The variables that count; the caller hands in those that are set.
    pub const VARIABLES: [&'static str; 7] = [
        "CUDA_VISIBLE_DEVICES",
        "CUDA_DEVICE_ORDER",
        "SLURM_JOB_ID",
        "SLURM_JOB_GPUS",
        "SLURM_STEP_GPUS",
        "GPU_DEVICE_ORDINAL",
        "NVIDIA_VISIBLE_DEVICES",
    ];

    /// Everything that is here.
    #[must_use]
    pub fn everything() -> Self {
        Self::default()
    }

    /// What these variables grant; others are not looked at.
    pub fn from_variables<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut grant = Self::default();
        for (name, value) in pairs {
            let value = value.trim();
            grant.is_scheduled |= name.starts_with("SLURM_");
            grant.bus_order |= name == "CUDA_DEVICE_ORDER" && value == "PCI_BUS_ID";
            if let Some(variable) = Variable::ALL.into_iter().find(|variable| variable.name() == name) {
                grant.lists.push((variable, value.to_owned()));
            }
        }
        let has_cuda = grant.lists.iter().any(|(variable, _)| *variable == Variable::Cuda);
        let is_scheduled = grant.is_scheduled;
        grant.lists.retain(|(variable, value)| match variable {
            // Slurm writes the same list for OpenCL; elsewhere it is about GPUs of AMD.
            Variable::Ordinal => is_scheduled && !has_cuda,
            Variable::Nvidia => !matches!(value.as_str(), "" | "all" | "void") && !value.starts_with('/'),
            _ => true,
        });
        grant
    }

    /// What that means here.
    #[must_use]
    pub fn over(&self, inventory: &Inventory) -> Granted {
        let mut limits: Vec<Limit> = self.lists.iter().map(|list| self.limit(list, inventory)).collect();
        // Slurm numbers MIG devices in a way of its own, and names them exactly beside that.
        let has_mig = inventory.gpus.iter().any(|gpu| gpu.mig_enabled);
        let cuda_is_exact = limits.iter().any(|limit| limit.variable == Variable::Cuda && limit.is_exact);
        if has_mig && cuda_is_exact {
            limits.retain(|limit| !matches!(limit.variable, Variable::SlurmJob | Variable::SlurmStep));
        }
        Granted { limits }
    }

    fn limit(&self, (variable, value): &(Variable, String), inventory: &Inventory) -> Limit {
        let entries = Entries::read(*variable, value, inventory);
        let (mut allowed, mut doubt) = (entries.exact, None);
        let is_exact = entries.numbers.is_empty() && !allowed.is_empty();
        if !entries.numbers.is_empty() {
            let (gpus, unclear) = self.counted(*variable, &entries.numbers, inventory);
            let partitioned = gpus.iter().any(|gpu| gpu.mig_enabled);
            doubt = unclear.or_else(|| partitioned.then_some("a number does not say which MIG device: write UUIDs"));
            allowed.extend(gpus.into_iter().filter(|gpu| !gpu.mig_enabled).map(|gpu| gpu.uuid.clone()));
        }
        let shown: String = printable(value).chars().take(MAX_SHOWN).collect();
        Limit { variable: *variable, said: format!("{}={shown}", variable.name()), allowed, is_exact, doubt }
    }

    /// The GPUs that numbers mean however they are counted, and why they may mean others.
    fn counted<'a>(
        &self,
        variable: Variable,
        numbers: &[u32],
        inventory: &'a Inventory,
    ) -> (Vec<&'a Gpu>, Option<&'static str>) {
        const ORDER: &str = "which GPU a number means depends on how fast CUDA finds each of these models: write UUIDs, or set \
                             `CUDA_DEVICE_ORDER=PCI_BUS_ID`";
        const UNCLEAR: &str = "the number of a device file and the place on the bus are not the same here: write UUIDs";
        const NOTHING: &str = "that names nothing that is here";
        let all: Vec<&Gpu> = inventory.gpus.iter().collect();
        let open: Vec<&Gpu> = all.iter().copied().filter(|gpu| gpu.unusable.is_none()).collect();
        let distinct: BTreeSet<u32> = numbers.iter().copied().collect();
        let names_all = distinct.len() == open.len();
        let by_place = |list: &[&'a Gpu]| reading(&distinct, |number| list.get(number as usize).copied());
        let by_minor = || reading(&distinct, |number| all.iter().copied().find(|gpu| gpu.minor == Some(number)));
        let readings = match variable {
            Variable::Cuda if !self.is_scheduled => {
                let one_model = open.windows(2).all(|pair| pair[0].model == pair[1].model);
                if !(self.bus_order || one_model || names_all) {
                    return (Vec::new(), Some(ORDER));
                }
                vec![by_place(&open)]
            }
            Variable::Cuda | Variable::Ordinal => vec![by_place(&open), by_place(&all), by_minor()],
            Variable::SlurmJob | Variable::SlurmStep => vec![by_place(&all), by_minor()],
            Variable::Nvidia => vec![by_place(&all)],
        };
        let mut possible = readings.into_iter().flatten();
        let Some(first) = possible.next() else {
            // Numbers of the whole node, seen from where only its own GPUs are to be seen.
            return if names_all && variable != Variable::Cuda { (open, None) } else { (Vec::new(), Some(NOTHING)) };
        };
        possible.fold((first, None), |(sure, doubt), other| {
            let both: Vec<&Gpu> = sure.iter().copied().filter(|gpu| other.contains(gpu)).collect();
            let doubt = if both.len() < sure.len() || both.len() < other.len() { Some(UNCLEAR) } else { doubt };
            (both, doubt)
        })
    }
}

/// The GPUs that numbers mean in one way of counting, if every one is there and can be opened; else nobody counted so.
fn reading<'a>(numbers: &BTreeSet<u32>, gpu: impl Fn(u32) -> Option<&'a Gpu>) -> Option<Vec<&'a Gpu>> {
    numbers.iter().map(|number| gpu(*number).filter(|gpu| gpu.unusable.is_none())).collect()
}

/// A list taken apart.
#[derive(Debug, Default)]
struct Entries {
    exact: BTreeSet<GpuUuid>,
    numbers: Vec<u32>,
}

impl Entries {
    fn read(variable: Variable, value: &str, inventory: &Inventory) -> Self {
        let mut entries = Self::default();
        for word in value.split(',').map(str::trim).take(MAX_ENTRIES) {
            // CDI names, as newer runtimes take them.
            let word = if variable == Variable::Nvidia { word.rsplit('=').next().unwrap_or(word) } else { word };
            match range(word).filter(|_| matches!(variable, Variable::SlurmJob | Variable::SlurmStep)) {
                Some(numbers) => entries.numbers.extend(numbers),
                None if entries.add(word, inventory) => {}
                None if variable == Variable::Cuda => break,
                None => {}
            }
        }
        // CUDA stops at a number that it does not have, and it has those that it can open.
        if variable == Variable::Cuda {
            let there = entries.numbers.iter().take_while(|number| (**number as usize) < inventory.gpus.len()).count();
            entries.numbers.truncate(there);
        }
        entries
    }

    /// Whether the word names something that may be here. `NoDevFiles`, `none`, `-1` and the like name nothing.
    fn add(&mut self, word: &str, inventory: &Inventory) -> bool {
        match word.parse::<DeviceName>() {
            Ok(DeviceName::Index(number)) => self.numbers.push(number),
            Ok(name) => match find(&name, inventory) {
                Found::Gpu(gpu) => drop(self.exact.insert(gpu.uuid.clone())),
                Found::Mig(unit) => drop(self.exact.insert(unit.uuid().clone())),
                Found::Nothing | Found::Several => return false,
            },
            Err(_) => return false,
        }
        true
    }
}

/// `0-3`.
fn range(word: &str) -> Option<std::ops::RangeInclusive<u32>> {
    let (first, last) = word.split_once('-')?;
    let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last && last - first < 1024).then_some(first..=last)
}

/// What is granted of an inventory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Granted {
    limits: Vec<Limit>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Limit {
    variable: Variable,
    said: String,
    allowed: BTreeSet<GpuUuid>,
    is_exact: bool,
    doubt: Option<&'static str>,
}

impl Granted {
    /// Why the unit is not granted, in words; `None` when it is.
    pub(super) fn refusal(&self, unit: &Unit<'_>) -> Option<String> {
        let allows = |limit: &Limit| limit.allowed.contains(unit.uuid()) || limit.allowed.contains(&unit.gpu.uuid);
        let limit = self.limits.iter().find(|limit| !allows(limit))?;
        let doubt = limit.doubt.map_or_else(String::new, |doubt| format!(" ({doubt})"));
        Some(format!("not granted by `{}`{doubt}", limit.said))
    }

    /// Whether this GPU may be handed out, or, if it is partitioned, any part of it; for lists.
    #[must_use]
    pub fn has(&self, gpu: &Gpu) -> bool {
        Unit::of(gpu).any(|unit| self.refusal(&unit).is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::chosen::testing::{equal, gpu, machine, mig, uuid};

    fn granted(pairs: &[(&str, &str)], inventory: &Inventory) -> Vec<String> {
        let granted = Grant::from_variables(pairs.iter().copied()).over(inventory);
        let units = inventory.gpus.iter().flat_map(Unit::of).filter(|unit| unit.gpu.unusable.is_none());
        units.filter(|unit| granted.refusal(unit).is_none()).map(|unit| unit.label()[4..].to_owned()).collect()
    }

    /// Only these can be opened.
    fn constrained(mut inventory: Inventory, open: &[u32]) -> Inventory {
        for gpu in inventory.gpus.iter_mut().filter(|gpu| !open.contains(&gpu.index)) {
            gpu.unusable = Some("cannot be opened".to_owned());
        }
        inventory
    }

    fn reversed_minors(mut inventory: Inventory) -> Inventory {
        let count = u32::try_from(inventory.gpus.len()).unwrap();
        inventory.gpus.iter_mut().for_each(|gpu| gpu.minor = Some(count - 1 - gpu.index));
        inventory
    }

    const CUDA: &str = "CUDA_VISIBLE_DEVICES";
    const JOB: &str = "SLURM_JOB_GPUS";

    #[test]
    fn cuda_lists() {
        let here = equal(4);
        for (value, expected) in [
            ("0,1", &["0", "1"][..]),
            ("3,1", &["1", "3"]),
            ("0,2,-1,1", &["0", "2"]),
            ("0,9,1", &["0"]),
            ("", &[]),
            ("-1", &[]),
            ("NoDevFiles", &[]),
            ("none", &[]),
            ("void", &[]),
            (uuid(2).as_str(), &["2"]),
            ("GPU-02aa,GPU-00aa", &["0", "2"]),
            ("GPU-0", &[]),
            ("GPU-ff,0", &[]),
        ] {
            assert_eq!(granted(&[(CUDA, value)], &here), expected, "{value}");
        }
        assert_eq!(granted(&[], &here), ["0", "1", "2", "3"]);
        assert_eq!(granted(&[("CUDA_VISIBLE_DEVICES_X", "0"), ("HOME", "/")], &here), ["0", "1", "2", "3"]);
    }

    #[test]
    fn cuda_counts_models_in_an_order_that_is_not_known() {
        let here = machine(vec![gpu(0, "Tesla T4", 15360), gpu(1, "NVIDIA A100-SXM4-40GB", 40960)]);
        assert_eq!(granted(&[(CUDA, "0")], &here), [""; 0]);
        assert_eq!(granted(&[(CUDA, "1,0")], &here), ["0", "1"]);
        assert_eq!(granted(&[(CUDA, "0"), ("CUDA_DEVICE_ORDER", "PCI_BUS_ID")], &here), ["0"]);
        assert_eq!(granted(&[(CUDA, "0"), (JOB, "0")], &here), ["0"], "Slurm counts by place");
        let granted = Grant::from_variables([(CUDA, "0")]).over(&here);
        let refusal = granted.refusal(&Unit { gpu: &here.gpus[0], mig: None }).unwrap();
        assert!(
            refusal.contains("`CUDA_VISIBLE_DEVICES=0` (which GPU a number means") && refusal.contains("PCI_BUS_ID"),
            "{refusal}"
        );
    }

    #[test]
    fn slurm_counts_from_zero_where_devices_are_constrained() {
        for (open, cuda, job, expected) in [
            (&[0, 1, 2, 3][..], "2,3", "2,3", &["2", "3"][..]),
            (&[2, 3], "0,1", "2,3", &["2", "3"]),
            (&[1, 2], "0,1", "1,2", &["1", "2"]),
            (&[3], "0", "3", &["3"]),
            // A step that is bound to one GPU of its job's.
            (&[2, 3], "1", "2,3", &["3"]),
            (&[0, 1, 2, 3], "NoDevFiles", "", &[]),
        ] {
            let here = constrained(equal(4), open);
            assert_eq!(granted(&[(CUDA, cuda), (JOB, job)], &here), expected, "{open:?} {cuda} {job}");
        }
        let here = constrained(equal(4), &[1, 2]);
        assert_eq!(granted(&[(CUDA, "0"), (JOB, "1-2"), ("SLURM_STEP_GPUS", "1")], &here), ["1"]);
        assert_eq!(granted(&[("GPU_DEVICE_ORDINAL", "0"), ("SLURM_JOB_ID", "7")], &here), ["1"]);
        assert_eq!(granted(&[("GPU_DEVICE_ORDINAL", "0")], &here), ["1", "2"], "AMD's without Slurm");
    }

    #[test]
    fn device_files_may_be_numbered_otherwise() {
        let here = reversed_minors(equal(4));
        assert_eq!(granted(&[(CUDA, "0"), (JOB, "0")], &here), [""; 0], "either 0 or 3");
        assert_eq!(granted(&[(CUDA, "0,3"), (JOB, "0,3")], &here), ["0", "3"], "both ways the same");
        // What can be opened tells which way it was.
        let here = constrained(here, &[3]);
        assert_eq!(granted(&[(CUDA, "0"), (JOB, "0")], &here), ["3"]);
        assert_eq!(granted(&[(CUDA, "0"), (JOB, "3")], &here), ["3"]);
        // Where only the job's own GPU is to be seen, numbers of the node mean that.
        let mut alone = equal(1);
        alone.gpus[0].minor = Some(5);
        assert_eq!(granted(&[(CUDA, "0"), (JOB, "2")], &alone), ["0"]);
    }

    #[test]
    fn mig_devices_come_by_uuid() {
        let here = machine(vec![mig(0, &["1g.5gb", "1g.5gb"]), mig(1, &["3g.20gb"])]);
        assert_eq!(granted(&[(CUDA, "MIG-0001-0000-4000-8000-000000000000"), (JOB, "5")], &here), ["0:1"]);
        assert_eq!(granted(&[(CUDA, "MIG-GPU-00/8/0")], &here), ["0:1"]);
        assert_eq!(granted(&[(CUDA, uuid(0).as_str())], &here), ["0:0", "0:1"], "all of the GPU");
        assert_eq!(granted(&[(CUDA, "0")], &here), [""; 0], "which of them is not said");
    }

    #[test]
    fn a_container_around_us_has_its_own() {
        let here = equal(2);
        for (value, expected) in [
            ("all", &["0", "1"][..]),
            ("void", &["0", "1"]),
            ("", &["0", "1"]),
            ("/var/run/nvidia-container-devices", &["0", "1"]),
            ("none", &[]),
            ("1", &["1"]),
            ("4,7", &["0", "1"]),
            ("4", &[]),
            (uuid(1).as_str(), &["1"]),
            ("nvidia.com/gpu=1", &["1"]),
        ] {
            assert_eq!(granted(&[("NVIDIA_VISIBLE_DEVICES", value)], &here), expected, "{value}");
        }
    }

    proptest::proptest! {
        #[test]
        fn lists_only_take_away(value in "[ -~]{0,30}", other in "[0-9,GPUMIG-]{0,20}") {
            let here = constrained(reversed_minors(equal(3)), &[0, 2]);
            for pairs in [[(CUDA, value.as_str()), (JOB, &other)], [("NVIDIA_VISIBLE_DEVICES", &value), (CUDA, &other)]] {
                let both = granted(&pairs, &here);
                let one = granted(&pairs[1..], &here);
                proptest::prop_assert!(both.iter().all(|gpu| ["0", "2"].contains(&gpu.as_str())));
                let scheduled = pairs[1].0 == JOB;
                proptest::prop_assert!(scheduled || both.iter().all(|gpu| one.contains(gpu)));
            }
        }
    }
}
