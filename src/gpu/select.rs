//! Which GPUs a run gets. Pure: what is there, what is granted and what is held come in.
//!
//! Name, memory and count hold for the same GPUs. Chosen is in the order of the bus; several are of one model where that is
//! possible, whole GPUs come before MIG devices, and what nobody shares before what somebody does.

use super::chosen::{Found, Unit, find};
use super::{Chosen, DeviceName, GpuRequest, Grant, Granted, Inventory, Taken, Which, has_memory};
use crate::words::printable;

/// So many GPUs and MIG devices are told about.
const MAX_LINES: usize = 64;

/// Why the GPUs that are asked for cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// No driver runs.
    #[error(
        "asked for {asked}, and no NVIDIA driver runs here{}\nhint: is the driver installed and its kernel module loaded? \
         `dockless gpu list` shows what was looked at", indented(.notes)
    )]
    NoDriver {
        /// The request.
        asked: String,
        /// What could not be found out.
        notes: Vec<String>,
    },
    /// A driver without a GPU.
    #[error(
        "asked for {asked}, and the NVIDIA driver `{version}` drives no GPU here{}\nhint: `lspci -d 10de:` shows those that are \
         plugged in", indented(.notes)
    )]
    NoGpus {
        /// The request.
        asked: String,
        /// Of the driver.
        version: String,
        /// What could not be found out.
        notes: Vec<String>,
    },
    /// A name that means nothing here.
    #[error("there is no GPU `{name}`, this machine has{}\nhint: `dockless gpu list` shows them", indented(.lines))]
    Unknown {
        /// As it was asked for.
        name: String,
        /// What there is.
        lines: Vec<String>,
    },
    /// The beginning of more than one UUID.
    #[error(
        "`{name}` is the beginning of more than one UUID\nhint: write more of it; `dockless gpu list` shows them whole"
    )]
    Ambiguous {
        /// As it was asked for.
        name: String,
    },
    /// What there is does not fit, or is not free.
    #[error("asked for {asked}, and {}{}{}", so_many(*.fitting), indented(.lines), unmet_hint(*.can_come_free))]
    Unmet {
        /// The request.
        asked: String,
        /// How many would do.
        fitting: usize,
        /// For each GPU what it is and why it will not do.
        lines: Vec<String>,
        /// Whether it could be had if nobody held anything.
        can_come_free: bool,
    },
}

impl SelectError {
    /// Whether waiting for other runs can help.
    #[must_use]
    pub const fn can_come_free(&self) -> bool {
        matches!(self, Self::Unmet { can_come_free: true, .. })
    }
}

fn so_many(fitting: usize) -> String {
    if fitting == 0 { "none can be had".to_owned() } else { format!("only {fitting} can be had") }
}

const fn unmet_hint(can_come_free: bool) -> &'static str {
    if can_come_free {
        "\nhint: wait for other runs with `--gpu-wait`; `--gpus-shared` shares GPUs with runs that do so too"
    } else {
        "\nhint: `dockless gpu list` shows what can be asked for"
    }
}

fn indented(lines: &[String]) -> String {
    let more = lines.len().saturating_sub(MAX_LINES);
    let more = if more == 0 { String::new() } else { format!("\n  and {more} more") };
    lines.iter().take(MAX_LINES).flat_map(|line| ["\n  ", line]).collect::<String>() + &more
}

/// Chooses what `request` asks for, in the order of the bus; nothing for a request of no GPUs.
pub fn select(
    request: &GpuRequest,
    inventory: &Inventory,
    grant: &Grant,
    taken: &[Taken],
) -> Result<Vec<Chosen>, SelectError> {
    if request.is_none() {
        return Ok(Vec::new());
    }
    let chosen = Selection::new(request, inventory, grant)?.choose(taken)?;
    Ok(chosen.iter().map(Unit::chosen).collect())
}

/// A request held against what is there.
pub(super) struct Selection<'a> {
    request: &'a GpuRequest,
    granted: Granted,
    /// All there is, in the order of the bus.
    units: Vec<Unit<'a>>,
    /// What was asked for by name.
    named: Option<Vec<Unit<'a>>>,
    /// GPUs that are partitioned and have no parts.
    bare: Vec<String>,
}

impl<'a> Selection<'a> {
    pub(super) fn new(request: &'a GpuRequest, inventory: &'a Inventory, grant: &Grant) -> Result<Self, SelectError> {
        let (asked, notes) = (request.to_string(), inventory.notes.clone());
        let Some(driver) = &inventory.driver else { return Err(SelectError::NoDriver { asked, notes }) };
        if inventory.gpus.is_empty() {
            return Err(SelectError::NoGpus { asked, version: driver.version.to_string(), notes });
        }
        let named = match &request.which {
            Which::Devices(names) => Some(named(names, inventory)?),
            _ => None,
        };
        let mut gpus: Vec<_> = inventory.gpus.iter().collect();
        gpus.sort_by_key(|gpu| gpu.pci);
        let bare = gpus.iter().filter(|gpu| gpu.mig_enabled && gpu.mig.is_empty()).map(|gpu| {
            let unit = Unit { gpu, mig: None };
            format!("{}: MIG is on and it has no MIG devices (`nvidia-smi mig -cgi … -C` makes them)", described(&unit))
        });
        let (bare, units) = (bare.collect(), gpus.iter().copied().flat_map(Unit::of).collect());
        Ok(Self { request, granted: grant.over(inventory), units, named, bare })
    }

    /// Chooses, where `taken` is what others hold.
    pub(super) fn choose(&self, taken: &[Taken]) -> Result<Vec<Unit<'a>>, SelectError> {
        let free = self.free(taken);
        let chosen = match (&self.named, &self.request.which) {
            (Some(named), _) => (free.len() == named.len() && !named.is_empty()).then(|| free.clone()),
            // What cannot be used or is not granted is no part of all; what somebody holds is.
            (None, Which::All) => (!free.is_empty() && free.len() == self.free(&[]).len()).then(|| free.clone()),
            (None, Which::Count(count)) => pick(&free, *count as usize, taken),
            (None, Which::None | Which::Devices(_)) => Some(Vec::new()),
        };
        chosen.ok_or_else(|| self.unmet(taken, free.len()))
    }

    /// What would do, as far as nobody else holds it; in the order of the bus.
    pub(super) fn free(&self, taken: &[Taken]) -> Vec<Unit<'a>> {
        let candidates = self.named.as_ref().unwrap_or(&self.units);
        candidates.iter().filter(|unit| self.objection(unit, taken).is_none()).copied().collect()
    }

    /// How many are enough, for who collects them one by one.
    pub(super) fn enough(&self) -> usize {
        match (&self.named, &self.request.which) {
            (Some(named), _) => named.len(),
            (None, Which::Count(count)) => *count as usize,
            (None, _) => usize::MAX,
        }
    }

    fn unmet(&self, taken: &[Taken], fitting: usize) -> SelectError {
        let can_come_free = !taken.is_empty() && self.choose(&[]).is_ok();
        let units = self.named.as_ref().filter(|named| !named.is_empty()).unwrap_or(&self.units);
        let line = |unit: &Unit<'_>| {
            let objection = self.objection(unit, taken).unwrap_or_else(|| "would do".to_owned());
            format!("{}: {objection}", described(unit))
        };
        let mut lines: Vec<String> = units.iter().map(line).collect();
        lines.extend(self.bare.iter().cloned());
        SelectError::Unmet { asked: self.request.to_string(), fitting, lines, can_come_free }
    }

    /// Why the unit will not do; what lasts comes before what passes.
    fn objection(&self, unit: &Unit<'_>, taken: &[Taken]) -> Option<String> {
        self.misfit(unit)
            .or_else(|| unit.gpu.unusable.as_ref().map(|why| format!("cannot be used: {}", printable(why))))
            .or_else(|| self.granted.refusal(unit))
            .or_else(|| {
                let taken = taken.iter().find(|taken| taken.blocks && taken.uuid == *unit.uuid())?;
                Some(match &taken.by {
                    Some(holder) => format!("held by {holder}"),
                    None => "held by a process that left no note".to_owned(),
                })
            })
    }

    fn misfit(&self, unit: &Unit<'_>) -> Option<String> {
        let GpuRequest { which, name, memory, mig, .. } = self.request;
        let gigabytes = unit.gigabytes();
        let whole_gigabytes = Unit { mig: None, ..*unit }.gigabytes();
        if name.as_ref().is_some_and(|name| !name.matches(&unit.gpu.model, whole_gigabytes)) {
            return Some("another model".to_owned());
        }
        match (mig, unit.mig) {
            (Some(_), None) => return Some("no MIG device".to_owned()),
            (Some(profile), Some(device)) if !profile.matches(&device.profile) => {
                return Some("another MIG profile".to_owned());
            }
            // A slice of an A100 is not what is meant by an A100.
            (None, Some(_)) if name.is_some() && memory.is_none() && matches!(which, Which::Count(_)) => {
                return Some("a part of one; parts are asked for with `mig=PROFILE` or `memory=SIZE`".to_owned());
            }
            _ => {}
        }
        match (*memory, gigabytes) {
            (Some(asked), Some(gigabytes)) if !has_memory(gigabytes, asked) => Some("too little memory".to_owned()),
            (Some(_), None) => Some("its memory is not known without NVML or nvidia-smi".to_owned()),
            _ => None,
        }
    }
}

/// What was asked for by name; a partitioned GPU stands for all its parts. In the order of the bus, each once.
fn named<'a>(names: &[DeviceName], inventory: &'a Inventory) -> Result<Vec<Unit<'a>>, SelectError> {
    let mut units: Vec<Unit<'a>> = Vec::new();
    for name in names {
        match find(name, inventory) {
            Found::Gpu(gpu) => units.extend(Unit::of(gpu)),
            Found::Mig(unit) => units.push(unit),
            Found::Several => return Err(SelectError::Ambiguous { name: name.to_string() }),
            Found::Nothing => {
                let lines = inventory.gpus.iter().flat_map(|gpu| {
                    let whole = Unit { gpu, mig: None };
                    std::iter::once(described(&whole))
                        .chain(Unit::of(gpu).filter(|unit| unit.mig.is_some()).map(|unit| described(&unit)))
                });
                return Err(SelectError::Unknown { name: name.to_string(), lines: lines.collect() });
            }
        }
    }
    units.sort_by_key(|unit| (unit.gpu.pci, unit.mig.map(|device| device.index)));
    units.dedup_by(|one, other| one.uuid() == other.uuid());
    Ok(units)
}

/// Picks `count` of what is free.
fn pick<'a>(free: &[Unit<'a>], count: usize, taken: &[Taken]) -> Option<Vec<Unit<'a>>> {
    let mut kinds: Vec<Vec<Unit<'a>>> = Vec::new();
    for unit in free {
        match kinds.iter_mut().find(|kind| same_kind(&kind[0], unit)) {
            Some(kind) => kind.push(*unit),
            None => kinds.push(vec![*unit]),
        }
    }
    // Each stable: the order of the bus is the last to decide.
    let sharers = |unit: &Unit<'_>| taken.iter().filter(|taken| taken.uuid == *unit.uuid()).count();
    for kind in &mut kinds {
        kind.sort_by_key(sharers);
    }
    let enough = kinds.iter().filter(|kind| kind.len() >= count);
    let one_kind = enough.min_by_key(|kind| {
        let shared: usize = kind.iter().take(count).map(sharers).sum();
        (kind[0].mig.is_some(), shared)
    });
    let mut chosen: Vec<Unit<'a>> = if let Some(kind) = one_kind {
        kind[..count].to_vec()
    } else {
        kinds.sort_by_key(|kind| (kind[0].mig.is_some(), std::cmp::Reverse(kind.len())));
        kinds.into_iter().flatten().take(count).collect()
    };
    chosen.sort_by_key(|unit| (unit.gpu.pci, unit.mig.map(|device| device.index)));
    (chosen.len() == count).then_some(chosen)
}

fn same_kind(one: &Unit<'_>, other: &Unit<'_>) -> bool {
    let profile = |unit: &Unit<'_>| unit.mig.map(|device| device.profile.clone());
    one.gpu.model == other.gpu.model && one.gigabytes() == other.gigabytes() && profile(one) == profile(other)
}

/// ``GPU 0 `Tesla T4` (16 GB)``.
fn described(unit: &Unit<'_>) -> String {
    let model = printable(&unit.gpu.model);
    let profile = unit.mig.map_or_else(String::new, |device| format!(" MIG {}", printable(&device.profile)));
    let size = unit.gigabytes().map_or_else(String::new, |gigabytes| format!(" ({gigabytes} GB)"));
    format!("{} `{model}{profile}`{size}", unit.label())
}

#[cfg(test)]
mod tests;
