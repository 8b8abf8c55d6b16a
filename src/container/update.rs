//! Changing the limits of a cgroup that lives: all that were asked for, or none.
//!
//! On v1 memory must never be above memory and swap together, so that the order of the two writes depends on the direction
//! (kernel documentation, cgroup-v1/memory.rst). Below current use v1 answers EBUSY; v2 would rather kill the workload, so
//! there the use is looked at first.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::cgroup::{Cgroup, read_number};
use crate::image::ByteSize;
use crate::store::Limits;

/// The period that CPU time is counted in, as at the start of a run.
pub(super) const CPU_PERIOD_US: f64 = 100_000.0;

/// The limits that are to change; sizes in bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitChange {
    /// Memory.
    pub memory: Option<u64>,
    /// Memory and swap together; -1 for no limit.
    pub memory_swap: Option<i64>,
    /// What is left to it longest when memory gets scarce.
    pub memory_reservation: Option<u64>,
    /// Processors.
    pub cpus: Option<f64>,
    /// Weight of its CPU time, 2 to 262144, as v1 counts it.
    pub cpu_shares: Option<u64>,
    /// Processors that it may run on: `0-3,7`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes that it may use.
    pub cpuset_mems: Option<String>,
    /// Processes and threads; -1 for no limit.
    pub pids_limit: Option<i64>,
    /// Weight of its disk accesses, 10 to 1000, as v1 counts it.
    pub blkio_weight: Option<u16>,
}

impl LimitChange {
    /// Whether nothing is to change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Both changes as one, of which `later` was the second.
    pub fn add(&mut self, later: &Self) {
        fn put<T: Clone>(place: &mut Option<T>, value: Option<&T>) {
            *place = value.cloned().or_else(|| place.take());
        }
        put(&mut self.memory, later.memory.as_ref());
        put(&mut self.memory_swap, later.memory_swap.as_ref());
        put(&mut self.memory_reservation, later.memory_reservation.as_ref());
        put(&mut self.cpus, later.cpus.as_ref());
        put(&mut self.cpu_shares, later.cpu_shares.as_ref());
        put(&mut self.cpuset_cpus, later.cpuset_cpus.as_ref());
        put(&mut self.cpuset_mems, later.cpuset_mems.as_ref());
        put(&mut self.pids_limit, later.pids_limit.as_ref());
        put(&mut self.blkio_weight, later.blkio_weight.as_ref());
    }

    /// The limits of a record after this change.
    pub fn note_in(&self, limits: &mut Limits) {
        limits.memory = self.memory.map(ByteSize).or(limits.memory);
        limits.cpus = self.cpus.or(limits.cpus);
    }
}

/// Why limits cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// This kernel, or this hierarchy, has no such limit.
    #[error("this machine cannot limit {what}: there is no `{file}`")]
    Missing {
        /// In words.
        what: &'static str,
        /// The file it would be in.
        file: String,
    },
    /// docker's rule: whoever sets memory above the old limit of memory and swap has to say what becomes of that.
    #[error("memory of {memory} is above the limit of memory and swap, {total}\nhint: give `--memory-swap` as well")]
    AboveSwap {
        /// Asked for.
        memory: ByteSize,
        /// What holds.
        total: ByteSize,
    },
    /// Swap can only be limited with memory.
    #[error("memory and swap of {total} is below the memory limit, {memory}\nhint: give `--memory` as well")]
    BelowMemory {
        /// Asked for.
        total: ByteSize,
        /// What holds.
        memory: ByteSize,
    },
    /// More is in use.
    #[error("{used} of memory are in use, and the kernel cannot take them back to get below {asked}")]
    InUse {
        /// Bytes in use.
        used: ByteSize,
        /// Asked for.
        asked: ByteSize,
    },
    /// The kernel refused.
    #[error("the kernel does not take `{value}` for {what}")]
    Refused {
        /// In words.
        what: &'static str,
        /// What was written.
        value: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// One file and what goes into it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Write {
    what: &'static str,
    path: PathBuf,
    pub(super) value: String,
}

impl Cgroup {
    /// Changes all these limits, or none when one of them is refused.
    pub fn change_limits(&self, change: &LimitChange) -> Result<(), UpdateError> {
        carry_out(&Places::of(self).plan(change)?)
    }
}

/// Where the files are.
pub(super) enum Places {
    /// Of memory, cpu, cpuset, pids, blkio.
    V1([PathBuf; 5]),
    V2(PathBuf),
}

impl Places {
    pub(super) fn of(cgroup: &Cgroup) -> Self {
        let v1 = || {
            let dir = |controller| cgroup.v1_dir(controller).unwrap_or_default();
            Self::V1(["memory", "cpu", "cpuset", "pids", "blkio"].map(dir))
        };
        cgroup.unified_dir().map_or_else(v1, Self::V2)
    }

    pub(super) fn plan(&self, change: &LimitChange) -> Result<Vec<Write>, UpdateError> {
        let mut writes = match self {
            Self::V1([memory, ..]) => memory_of_v1(memory, change)?,
            Self::V2(dir) => memory_of_v2(dir, change)?,
        };
        let cpus = change.cpus.map(quota_us);
        let pids = change.pids_limit.map(|limit| if limit > 0 { limit.to_string() } else { "max".to_owned() });
        let (sets, pids_dir) = match self {
            Self::V1([_, cpu, cpuset, pids, blkio]) => {
                if let Some(quota) = cpus {
                    writes.push(write("CPU time", cpu.join("cpu.cfs_period_us"), format!("{CPU_PERIOD_US}"))?);
                    writes.push(write("CPU time", cpu.join("cpu.cfs_quota_us"), quota.to_string())?);
                }
                if let Some(shares) = change.cpu_shares {
                    writes.push(write("the weight of CPU time", cpu.join("cpu.shares"), shares.to_string())?);
                }
                if let Some(weight) = change.blkio_weight {
                    let path = first(blkio, ["blkio.bfq.weight", "blkio.weight"]);
                    writes.push(write("the weight of disk accesses", path, weight.to_string())?);
                }
                (cpuset, pids)
            }
            Self::V2(dir) => {
                if let Some(quota) = cpus {
                    writes.push(write("CPU time", dir.join("cpu.max"), format!("{quota} {CPU_PERIOD_US}"))?);
                }
                if let Some(shares) = change.cpu_shares {
                    let weight = weight_of_shares(shares).to_string();
                    writes.push(write("the weight of CPU time", dir.join("cpu.weight"), weight)?);
                }
                if let Some(weight) = change.blkio_weight {
                    writes.push(disk_weight_of_v2(dir, weight)?);
                }
                (dir, dir)
            }
        };
        if let Some(cpus) = &change.cpuset_cpus {
            writes.push(write("the processors to run on", sets.join("cpuset.cpus"), cpus.clone())?);
        }
        if let Some(nodes) = &change.cpuset_mems {
            writes.push(write("the memory nodes to use", sets.join("cpuset.mems"), nodes.clone())?);
        }
        if let Some(limit) = pids {
            writes.push(write("processes", pids_dir.join("pids.max"), limit)?);
        }
        Ok(writes)
    }
}

/// Memory, memory with swap, and the soft limit; the first two in the order that the kernel takes.
fn memory_of_v1(dir: &Path, change: &LimitChange) -> Result<Vec<Write>, UpdateError> {
    const TOTAL: &str = "memory.memsw.limit_in_bytes";
    let current = |file: &str| read_number(&dir.join(file));
    let held = current("memory.limit_in_bytes").unwrap_or(u64::MAX);
    let held_total = current(TOTAL);
    let mut writes = Vec::new();
    if let Some(memory) = change.memory {
        writes.push(write("memory", dir.join("memory.limit_in_bytes"), memory.to_string())?);
        if let (None, Some(total)) = (change.memory_swap, held_total)
            && memory > total
        {
            return Err(UpdateError::AboveSwap { memory: ByteSize(memory), total: ByteSize(total) });
        }
    }
    if let Some(asked) = change.memory_swap {
        let total = u64::try_from(asked).ok();
        let memory = change.memory.unwrap_or(held);
        if let Some(total) = total.filter(|total| *total < memory) {
            return Err(UpdateError::BelowMemory { total: ByteSize(total), memory: ByteSize(memory) });
        }
        let rises = total.is_none_or(|total| held_total.is_none_or(|held| total > held));
        let written = write("memory and swap", dir.join(TOTAL), asked.to_string())?;
        writes.insert(if rises { 0 } else { writes.len() }, written);
    }
    if let Some(soft) = change.memory_reservation {
        writes.push(write("the reserved memory", dir.join("memory.soft_limit_in_bytes"), soft.to_string())?);
    }
    Ok(writes)
}

/// v2 counts swap by itself.
fn memory_of_v2(dir: &Path, change: &LimitChange) -> Result<Vec<Write>, UpdateError> {
    let held = read_number(&dir.join("memory.max"));
    let held_swap = read_number(&dir.join("memory.swap.max"));
    let mut writes = Vec::new();
    let memory = change.memory.or(held);
    if let Some(memory) = change.memory {
        let used = read_number(&dir.join("memory.current")).unwrap_or(0);
        if used > memory {
            return Err(UpdateError::InUse { used: ByteSize(used), asked: ByteSize(memory) });
        }
        writes.push(write("memory", dir.join("memory.max"), memory.to_string())?);
    }
    let total = match (change.memory_swap, change.memory) {
        // As on v1 the sum stays what it was.
        (None, Some(memory)) => match held.zip(held_swap).map(|(held, swap)| held.saturating_add(swap)) {
            Some(total) if memory > total => {
                return Err(UpdateError::AboveSwap { memory: ByteSize(memory), total: ByteSize(total) });
            }
            total => total.map(Some),
        },
        (None, None) => None,
        (Some(asked), _) => Some(u64::try_from(asked).ok()),
    };
    if let Some(total) = total {
        let swap = match (total, memory) {
            (None, _) => "max".to_owned(),
            (Some(total), memory) => {
                let memory = memory.unwrap_or(u64::MAX);
                let below = UpdateError::BelowMemory { total: ByteSize(total), memory: ByteSize(memory) };
                total.checked_sub(memory).ok_or(below)?.to_string()
            }
        };
        writes.push(write("swap", dir.join("memory.swap.max"), swap)?);
    }
    if let Some(soft) = change.memory_reservation {
        writes.push(write("the reserved memory", dir.join("memory.low"), soft.to_string())?);
    }
    Ok(writes)
}

fn disk_weight_of_v2(dir: &Path, weight: u16) -> Result<Write, UpdateError> {
    let bfq = dir.join("io.bfq.weight");
    if bfq.exists() {
        return write("the weight of disk accesses", bfq, weight.to_string());
    }
    // 10 to 1000 become 1 to 10000.
    let weight = 1 + (u32::from(weight).saturating_sub(10)) * 9999 / 990;
    write("the weight of disk accesses", dir.join("io.weight"), weight.to_string())
}

/// 2 to 262144 become 1 to 10000, and the usual 1024 the usual 100: the curve that runtimes have agreed upon (crun 1.23,
/// runc 1.3.2), since the straight line they had before gave 39.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "1 to 10000, from a number far below 2^52"
)]
fn weight_of_shares(shares: u64) -> u64 {
    let log = (shares.clamp(2, 262_144) as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    (10_f64.powf(exponent).ceil() as u64).clamp(1, 10_000)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a number of processors is small and positive"
)]
fn quota_us(cpus: f64) -> u64 {
    (cpus * CPU_PERIOD_US).round() as u64
}

fn first(dir: &Path, names: [&str; 2]) -> PathBuf {
    let [one, other] = names.map(|name| dir.join(name));
    if one.exists() { one } else { other }
}

/// # Errors
/// When there is no such file: then nothing is written at all.
pub(super) fn write(what: &'static str, path: PathBuf, value: String) -> Result<Write, UpdateError> {
    if path.exists() {
        return Ok(Write { what, path, value });
    }
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Err(UpdateError::Missing { what, file })
}

pub(super) fn carry_out(writes: &[Write]) -> Result<(), UpdateError> {
    let mut done: Vec<(&Write, String)> = Vec::new();
    for write in writes {
        let before = fs::read_to_string(&write.path).unwrap_or_default();
        if let Err(source) = fs::write(&write.path, &write.value) {
            for (write, before) in done.iter().rev() {
                drop(fs::write(&write.path, before.trim()));
            }
            return Err(refused(write, source));
        }
        done.push((write, before));
    }
    Ok(())
}

fn refused(write: &Write, source: io::Error) -> UpdateError {
    let dir = write.path.parent().unwrap_or(&write.path);
    let used = read_number(&dir.join("memory.usage_in_bytes"));
    match (write.what, used, write.value.parse()) {
        ("memory" | "memory and swap", Some(used), Ok(asked)) if source.kind() == io::ErrorKind::ResourceBusy => {
            UpdateError::InUse { used: ByteSize(used), asked: ByteSize(asked) }
        }
        (what, ..) => UpdateError::Refused { what, value: write.value.clone(), source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn files(entries: &[(&str, u64)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, value) in entries {
            fs::write(dir.path().join(name), format!("{value}\n")).unwrap();
        }
        dir
    }

    fn order(writes: &[Write]) -> Vec<(String, String)> {
        let name = |write: &Write| write.path.file_name().unwrap().to_string_lossy().into_owned();
        writes.iter().map(|write| (name(write), write.value.clone())).collect()
    }

    fn memory(memory: u64, memory_swap: Option<i64>) -> LimitChange {
        LimitChange { memory: Some(memory), memory_swap, ..LimitChange::default() }
    }

    #[test]
    fn memory_never_passes_memory_and_swap() {
        let dir = files(&[("memory.limit_in_bytes", 64 * MIB), ("memory.memsw.limit_in_bytes", 128 * MIB)]);
        let first = |change: &LimitChange| order(&memory_of_v1(dir.path(), change).unwrap())[0].0.clone();
        assert_eq!(first(&memory(256 * MIB, Some(512 << 20))), "memory.memsw.limit_in_bytes");
        assert_eq!(first(&memory(256 * MIB, Some(-1))), "memory.memsw.limit_in_bytes");
        assert_eq!(first(&memory(32 * MIB, Some(64 << 20))), "memory.limit_in_bytes");
        assert_eq!(first(&memory(100 * MIB, None)), "memory.limit_in_bytes");
        let above = memory_of_v1(dir.path(), &memory(256 * MIB, None)).unwrap_err();
        assert!(above.to_string().contains("hint: give `--memory-swap`"), "{above}");
        let swap = LimitChange { memory_swap: Some(32 << 20), ..LimitChange::default() };
        assert!(matches!(memory_of_v1(dir.path(), &swap), Err(UpdateError::BelowMemory { .. })));
    }

    #[test]
    fn v2_counts_swap_alone_and_kills_nobody() {
        let names = [("memory.max", 64 * MIB), ("memory.swap.max", 64 * MIB), ("memory.current", 20 * MIB)];
        let dir = files(&names);
        let plan = |change: &LimitChange| memory_of_v2(dir.path(), change).map(|writes| order(&writes));
        let pair = |name: &str, value: u64| (name.to_owned(), value.to_string());
        let expected = vec![pair("memory.max", 32 * MIB), pair("memory.swap.max", 96 * MIB)];
        assert_eq!(plan(&memory(32 * MIB, None)).unwrap(), expected);
        let expected = vec![pair("memory.max", 256 * MIB), ("memory.swap.max".to_owned(), "max".to_owned())];
        assert_eq!(plan(&memory(256 * MIB, Some(-1))).unwrap(), expected);
        assert!(matches!(plan(&memory(10 * MIB, None)), Err(UpdateError::InUse { .. })));
        assert!(matches!(plan(&memory(256 * MIB, None)), Err(UpdateError::AboveSwap { .. })));
    }

    #[test]
    fn other_limits_in_the_words_of_each_version() {
        let change = LimitChange {
            cpus: Some(0.5),
            cpu_shares: Some(1024),
            cpuset_cpus: Some("0".to_owned()),
            pids_limit: Some(-1),
            blkio_weight: Some(500),
            ..LimitChange::default()
        };
        let dir = files(&[("cpu.max", 0), ("cpu.weight", 0), ("cpuset.cpus", 0), ("pids.max", 0), ("io.weight", 0)]);
        let plan = Places::V2(dir.path().to_owned()).plan(&change).unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            order(&plan),
            [
                pair("cpu.max", "50000 100000"),
                pair("cpu.weight", "100"),
                pair("io.weight", "4950"),
                pair("cpuset.cpus", "0"),
                pair("pids.max", "max")
            ]
        );
        let v1 = files(&[]);
        let error = Places::V1(std::array::from_fn(|_| v1.path().to_owned())).plan(&change).unwrap_err();
        assert_eq!(error.to_string(), "this machine cannot limit CPU time: there is no `cpu.cfs_period_us`");
    }

    #[test]
    fn weights_are_those_of_other_runtimes() {
        for (shares, weight) in [(0, 1), (2, 1), (512, 59), (1024, 100), (262_144, 10_000), (u64::MAX, 10_000)] {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
    }

    #[test]
    fn a_refused_limit_takes_the_others_back() {
        let dir = files(&[("pids.max", 7)]);
        let writes = [
            Write { what: "processes", path: dir.path().join("pids.max"), value: "9".to_owned() },
            Write { what: "memory", path: dir.path().join("absent/memory.max"), value: "1".to_owned() },
        ];
        assert!(matches!(carry_out(&writes), Err(UpdateError::Refused { .. })));
        assert_eq!(fs::read_to_string(dir.path().join("pids.max")).unwrap(), "7");
    }
}
