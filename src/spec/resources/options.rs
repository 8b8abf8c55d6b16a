//! The limits of a control group beside `--cpus` and `--memory`, with docker's names, units and ranges.
//!
//! The runtime writes them all, in both versions of control groups, but for what is refused or warned about here: it never
//! disables the OOM killer, and on version 2 it takes 0 processes for 1 and leaves swappiness out.

use super::super::error::SpecError;
use super::super::flag_error::FlagProblem;
use super::super::ulimit::Ulimit;
use super::super::{CgroupVersion, HostFacts};
use super::{Cpus, IdList, MemoryLimit};
use crate::image::ByteSize;

/// The kernel's `PIDS_MAX`: it refuses to count further.
const MAX_PIDS: i64 = 1 << 22;
/// Starting takes a process that makes init.
const LEAST_PIDS: i64 = 2;
/// What the kernel bounds `cpu.shares` to.
const SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;
/// In microseconds (`min_cfs_quota_period`, `max_cfs_quota_period`).
const PERIOD_US: std::ops::RangeInclusive<u64> = 1_000..=1_000_000;

/// What a run may use, beyond `--cpus` and `--memory`. `None` is the kernel's default.
#[derive(Debug, Clone, Default)]
pub struct ResourceOptions {
    /// `--cpu-shares`
    pub cpu_shares: Option<u64>,
    /// `--cpu-period`, in microseconds.
    pub cpu_period_us: Option<u64>,
    /// `--cpu-quota`, in microseconds; -1 is no limit.
    pub cpu_quota_us: Option<i64>,
    /// `--cpuset-cpus`
    pub cpuset_cpus: Option<IdList>,
    /// `--cpuset-mems`
    pub cpuset_mems: Option<IdList>,
    /// `--memory-swap`
    pub memory_swap: Option<MemorySwap>,
    /// `--memory-reservation`
    pub memory_reservation: Option<MemoryLimit>,
    /// `--memory-swappiness`, 0 to 100.
    pub memory_swappiness: Option<u64>,
    /// `--pids-limit`; -1 is no limit.
    pub pids: Option<i64>,
    /// `--blkio-weight`, 10 to 1000.
    pub blkio_weight: Option<u16>,
    /// `--device-read-bps` and its like.
    pub throttles: Vec<Throttle>,
    /// `--ulimit`
    pub ulimits: Vec<Ulimit>,
    /// `--oom-score-adj`, -1000 to 1000.
    pub oom_score_adj: Option<i32>,
}

/// How much memory and swap together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemorySwap {
    /// As much swap as the machine has.
    Unlimited,
    /// Memory and swap.
    Total(ByteSize),
}

/// Which way of a device is slowed down, and in what it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThrottleKind {
    /// Bytes read in a second.
    ReadBps,
    /// Bytes written in a second.
    WriteBps,
    /// Reads in a second.
    ReadIops,
    /// Writes in a second.
    WriteIops,
}

impl ThrottleKind {
    /// The flag.
    #[must_use]
    pub const fn flag(self) -> &'static str {
        match self {
            Self::ReadBps => "--device-read-bps",
            Self::WriteBps => "--device-write-bps",
            Self::ReadIops => "--device-read-iops",
            Self::WriteIops => "--device-write-iops",
        }
    }

    /// Splits `PATH:RATE`; the rate is above zero, and the path absolute.
    pub fn parse(self, text: &str) -> Result<(String, u64), SpecError> {
        let wrong = |problem| SpecError::flag(self.flag(), text, problem);
        let is_bytes = matches!(self, Self::ReadBps | Self::WriteBps);
        let shape =
            if is_bytes { "`DEVICE:SIZE`, e.g. `/dev/sda:1mb`" } else { "`DEVICE:NUMBER`, e.g. `/dev/sda:1000`" };
        let shape = || wrong(FlagProblem::Shape(shape));
        let (path, rate) = text.rsplit_once(':').filter(|(path, _)| path.starts_with('/')).ok_or_else(shape)?;
        let rate = if is_bytes {
            ByteSize::from_docker(rate).map_err(|error| wrong(error.into()))?.0
        } else {
            number(rate).ok_or_else(shape)?
        };
        if rate == 0 { Err(shape()) } else { Ok((path.to_owned(), rate)) }
    }
}

/// A device that is slowed down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Throttle {
    /// How.
    pub kind: ThrottleKind,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Bytes or operations in a second.
    pub rate: u64,
}

fn number(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

fn signed(text: &str) -> Option<i64> {
    match text.strip_prefix('-') {
        Some(digits) => number(digits).and_then(|number| i64::try_from(number).ok()).map(|number| -number),
        None => number(text).and_then(|number| i64::try_from(number).ok()),
    }
}

/// A number of that range; `None` for 0, which is docker's "not set".
fn in_range<T: TryFrom<u64>>(
    flag: &'static str,
    text: &str,
    range: &std::ops::RangeInclusive<u64>,
    expected: &'static str,
) -> Result<Option<T>, SpecError> {
    let value = number(text).filter(|value| *value == 0 || range.contains(value));
    let value = value.ok_or_else(|| SpecError::flag(flag, text, FlagProblem::Range(expected)))?;
    Ok(T::try_from(value).ok().filter(|_| value != 0))
}

/// Reads `--cpu-shares`.
pub fn cpu_shares(text: &str) -> Result<Option<u64>, SpecError> {
    in_range("--cpu-shares", text, &SHARES, "2 to 262144, or 0 for the default")
}

/// Reads `--cpu-period`.
pub fn cpu_period(text: &str) -> Result<Option<u64>, SpecError> {
    in_range("--cpu-period", text, &PERIOD_US, "1000 to 1000000 microseconds, or 0 for the default")
}

/// Reads `--cpu-quota`.
pub fn cpu_quota(text: &str) -> Result<Option<i64>, SpecError> {
    let expected = FlagProblem::Range("at least 1000 microseconds, -1 for no limit, or 0 for the default");
    match signed(text) {
        Some(0) => Ok(None),
        Some(quota) if quota == -1 || quota >= 1_000 => Ok(Some(quota)),
        _ => Err(SpecError::flag("--cpu-quota", text, expected)),
    }
}

/// Reads `--pids-limit`: 0 and -1 are no limit.
pub fn pids(text: &str) -> Result<i64, SpecError> {
    match signed(text) {
        Some(0 | -1) => Ok(-1),
        Some(limit @ LEAST_PIDS..=MAX_PIDS) => Ok(limit),
        _ => Err(SpecError::flag("--pids-limit", text, FlagProblem::Range("2 to 4194304, or -1 for no limit"))),
    }
}

/// Reads `--memory-swap`: -1 is no limit, 0 the default.
pub fn memory_swap(text: &str) -> Result<Option<MemorySwap>, SpecError> {
    if text == "-1" {
        return Ok(Some(MemorySwap::Unlimited));
    }
    let wrong = |problem| SpecError::flag("--memory-swap", text, problem);
    let size = ByteSize::from_docker(text).map_err(|error| wrong(error.into()))?;
    if i64::try_from(size.0).is_err() {
        return Err(wrong(FlagProblem::Range("less than 8 EiB")));
    }
    Ok((size.0 != 0).then_some(MemorySwap::Total(size)))
}

/// Reads `--memory-reservation`; 0 is none.
pub fn memory_reservation(text: &str) -> Result<Option<MemoryLimit>, SpecError> {
    let wrong = |problem| SpecError::flag("--memory-reservation", text, problem);
    let size = ByteSize::from_docker(text).map_err(|error| wrong(error.into()))?;
    let too_small = || wrong(FlagProblem::Range("at least 6 MiB, or 0 for none"));
    if size.0 == 0 { Ok(None) } else { MemoryLimit::new(size).map(Some).map_err(|_| too_small()) }
}

/// Reads `--memory-swappiness`; -1 is the default.
pub fn memory_swappiness(text: &str) -> Result<Option<u64>, SpecError> {
    match signed(text) {
        Some(-1) => Ok(None),
        Some(value @ 0..=100) => Ok(Some(value.unsigned_abs())),
        _ => Err(SpecError::flag("--memory-swappiness", text, FlagProblem::Range("0 to 100, or -1 for the default"))),
    }
}

/// Reads `--blkio-weight`.
pub fn blkio_weight(text: &str) -> Result<Option<u16>, SpecError> {
    in_range("--blkio-weight", text, &(10..=1000), "10 to 1000, or 0 for the default")
}

/// Reads `--oom-score-adj`.
pub fn oom_score_adj(text: &str) -> Result<i32, SpecError> {
    let value = signed(text).filter(|value| (-1000..=1000).contains(value));
    let value = value.and_then(|value| i32::try_from(value).ok());
    value.ok_or_else(|| SpecError::flag("--oom-score-adj", text, FlagProblem::Range("-1000 to 1000")))
}

impl ResourceOptions {
    /// Whether the limits go together, and with what the machine has.
    pub(in crate::spec) fn check(
        &self,
        cpus: Option<Cpus>,
        memory: Option<MemoryLimit>,
        host: &HostFacts,
    ) -> Result<(), SpecError> {
        let wrong = |flag, text: &dyn ToString, problem| Err(SpecError::flag(flag, &text.to_string(), problem));
        match (cpus, self.cpu_period_us, self.cpu_quota_us) {
            (Some(_), Some(period), _) => return wrong("--cpu-period", &period, FlagProblem::Conflict("--cpus")),
            (Some(_), _, Some(quota)) => return wrong("--cpu-quota", &quota, FlagProblem::Conflict("--cpus")),
            _ => {}
        }
        if let Some(cpus) = cpus {
            cpus.check(host.cpu_count)?;
        }
        if let Some(list) = &self.cpuset_cpus {
            list.check("--cpuset-cpus", &host.cpuset_cpus)?;
        }
        if let Some(list) = &self.cpuset_mems {
            list.check("--cpuset-mems", &host.cpuset_mems)?;
        }
        match (self.memory_swap, memory.map(MemoryLimit::size)) {
            (Some(MemorySwap::Total(total)), None) => {
                return wrong("--memory-swap", &total, FlagProblem::Needs("--memory"));
            }
            (Some(MemorySwap::Total(total)), Some(limit)) if total < limit => {
                return wrong("--memory-swap", &total, FlagProblem::Less(format!("--memory {limit}")));
            }
            _ => {}
        }
        match (self.memory_reservation.map(MemoryLimit::size), memory.map(MemoryLimit::size)) {
            (Some(reservation), Some(limit)) if reservation > limit => {
                wrong("--memory-reservation", &reservation, FlagProblem::More(format!("--memory {limit}")))
            }
            _ => Ok(()),
        }
    }

    /// The block input and output that can be weighed here.
    pub(super) fn effective_blkio_weight(&self, host: &HostFacts) -> Option<u16> {
        self.blkio_weight.filter(|_| host.block_io_weight)
    }

    /// Version 2 has no such thing.
    pub(super) fn effective_swappiness(&self, host: &HostFacts) -> Option<u64> {
        self.memory_swappiness.filter(|_| matches!(host.cgroup, CgroupVersion::V1 { .. }))
    }

    /// The score to be set: without `CAP_SYS_RESOURCE` nobody can go below the caller's own.
    pub(in crate::spec) fn effective_oom_score_adj(&self, host: &HostFacts) -> Option<i32> {
        let least = if host.can_raise_limits { i32::MIN } else { host.oom_score_adj };
        self.oom_score_adj.map(|score| score.max(least))
    }

    /// What was asked for and will not be so.
    pub(in crate::spec) fn warnings(&self, host: &HostFacts) -> Vec<String> {
        let mut warnings = super::super::ulimit::warnings(&self.ulimits, host);
        if self.memory_swap.is_some() && !host.swap_accounting {
            warnings.push("`--memory-swap` has no effect: the kernel does not count swap".to_owned());
        }
        if self.memory_swappiness != self.effective_swappiness(host) {
            warnings.push("`--memory-swappiness` has no effect: cgroup v2 does not have it".to_owned());
        }
        if self.blkio_weight != self.effective_blkio_weight(host) {
            warnings.push("`--blkio-weight` has no effect: the kernel does not weigh block devices".to_owned());
        }
        let score = self.effective_oom_score_adj(host);
        if let (Some(asked), Some(score)) = (self.oom_score_adj, score)
            && asked != score
        {
            warnings.push(format!(
                "the OOM score is {score} instead of {asked}: lowering it further needs CAP_SYS_RESOURCE"
            ));
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::fixture;
    use super::*;

    #[test]
    fn zero_and_minus_one_mean_what_they_mean_in_docker() {
        assert_eq!((cpu_shares("0").unwrap(), cpu_shares("2").unwrap()), (None, Some(2)));
        assert_eq!((cpu_period("0").unwrap(), cpu_period("1000000").unwrap()), (None, Some(1_000_000)));
        assert_eq!((cpu_quota("0").unwrap(), cpu_quota("-1").unwrap()), (None, Some(-1)));
        assert_eq!((pids("0").unwrap(), pids("-1").unwrap(), pids("4194304").unwrap()), (-1, -1, 4_194_304));
        assert_eq!(memory_swap("0").unwrap(), None);
        assert_eq!(memory_swap("-1").unwrap(), Some(MemorySwap::Unlimited));
        assert_eq!(memory_swap("1g").unwrap(), Some(MemorySwap::Total(ByteSize(1 << 30))));
        assert_eq!(memory_reservation("0").unwrap(), None);
        assert_eq!((memory_swappiness("-1").unwrap(), memory_swappiness("0").unwrap()), (None, Some(0)));
        assert_eq!((blkio_weight("0").unwrap(), blkio_weight("10").unwrap()), (None, Some(10)));
        assert_eq!((oom_score_adj("-1000").unwrap(), oom_score_adj("1000").unwrap()), (-1000, 1000));
        assert_eq!(ThrottleKind::ReadBps.parse("/dev/a:b:1mb").unwrap(), ("/dev/a:b".to_owned(), 1 << 20));
        assert_eq!(ThrottleKind::WriteIops.parse("/dev/a:7").unwrap(), ("/dev/a".to_owned(), 7));
    }

    #[test]
    fn bad_values_are_refused() {
        fn message<T: std::fmt::Debug>(result: Result<T, SpecError>) -> String {
            result.unwrap_err().to_string()
        }
        for (message, expected) in [
            (message(cpu_shares("1")), "`--cpu-shares 1`: out of range, expected 2 to 262144"),
            (message(cpu_shares("262145")), "`--cpu-shares 262145`: out of range"),
            (message(cpu_shares("-2")), "`--cpu-shares -2`: out of range"),
            (message(cpu_shares("")), "`--cpu-shares `: out of range"),
            (message(cpu_period("999")), "`--cpu-period 999`: out of range, expected 1000 to 1000000"),
            (message(cpu_period("1000001")), "`--cpu-period 1000001`: out of range"),
            (message(cpu_quota("999")), "`--cpu-quota 999`: out of range, expected at least 1000"),
            (message(cpu_quota("-2")), "`--cpu-quota -2`: out of range"),
            (message(pids("-2")), "`--pids-limit -2`: out of range, expected 2 to 4194304"),
            (message(pids("1")), "`--pids-limit 1`: out of range"),
            (message(pids("4194305")), "`--pids-limit 4194305`: out of range"),
            (message(pids("many")), "`--pids-limit many`: out of range"),
            (message(memory_swap("x")), "`--memory-swap x`: "),
            (message(memory_swap("-2")), "`--memory-swap -2`: "),
            (message(memory_reservation("5m")), "`--memory-reservation 5m`: out of range, expected at least 6 MiB"),
            (message(memory_swappiness("101")), "`--memory-swappiness 101`: out of range, expected 0 to 100"),
            (message(memory_swappiness("-2")), "`--memory-swappiness -2`: out of range"),
            (message(blkio_weight("9")), "`--blkio-weight 9`: out of range, expected 10 to 1000"),
            (message(blkio_weight("1001")), "`--blkio-weight 1001`: out of range"),
            (message(oom_score_adj("1001")), "`--oom-score-adj 1001`: out of range, expected -1000 to 1000"),
            (message(oom_score_adj("--1")), "`--oom-score-adj --1`: out of range"),
            (message(ThrottleKind::ReadBps.parse("/dev/a")), "`--device-read-bps /dev/a`: expected `DEVICE:SIZE`"),
            (message(ThrottleKind::ReadBps.parse("sda:1m")), "`--device-read-bps sda:1m`: expected `DEVICE:SIZE`"),
            (message(ThrottleKind::WriteBps.parse("/dev/a:0")), "`--device-write-bps /dev/a:0`: expected"),
            (message(ThrottleKind::WriteBps.parse("/dev/a:x")), "`--device-write-bps /dev/a:x`: "),
            (message(ThrottleKind::ReadIops.parse("/dev/a:1k")), "`--device-read-iops /dev/a:1k`: expected"),
            (message(ThrottleKind::WriteIops.parse("/dev/a:")), "`--device-write-iops /dev/a:`: expected"),
        ] {
            assert!(message.starts_with(expected), "{message}, not {expected}");
        }
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let swap = |total| ResourceOptions {
            memory_swap: Some(MemorySwap::Total(ByteSize(total))),
            ..ResourceOptions::default()
        };
        let reservation =
            ResourceOptions { memory_reservation: Some("64m".parse().unwrap()), ..ResourceOptions::default() };
        let period = ResourceOptions { cpu_period_us: Some(1000), ..ResourceOptions::default() };
        let quota = ResourceOptions { cpu_quota_us: Some(-1), ..ResourceOptions::default() };
        let cpus = ResourceOptions {
            cpuset_cpus: Some(IdList::parse("--cpuset-cpus", "8").unwrap()),
            ..ResourceOptions::default()
        };
        let nodes = ResourceOptions {
            cpuset_mems: Some(IdList::parse("--cpuset-mems", "1").unwrap()),
            ..ResourceOptions::default()
        };
        let (one, memory) = (Some("1".parse().unwrap()), Some("32m".parse().unwrap()));
        for (options, cpus, memory, expected) in [
            (&swap(64 << 20), None, None, "`--memory-swap 64 MiB`: needs `--memory`"),
            (&swap(16 << 20), None, memory, "`--memory-swap 16 MiB`: less than `--memory 32 MiB`"),
            (&reservation, None, memory, "`--memory-reservation 64 MiB`: more than `--memory 32 MiB`"),
            (&period, one, None, "`--cpu-period 1000`: cannot be given together with `--cpus`"),
            (&quota, one, None, "`--cpu-quota -1`: cannot be given together with `--cpus`"),
            (&cpus, None, None, "`--cpuset-cpus 8`: not available, this machine has `0-7`"),
            (&nodes, None, None, "`--cpuset-mems 1`: not available, this machine has `0`"),
        ] {
            let message = options.check(cpus, memory, &fixture::host()).unwrap_err().to_string();
            assert!(message.starts_with(expected), "{message}, not {expected}");
        }
        swap(32 << 20).check(one, memory, &fixture::host()).unwrap();
        reservation.check(None, None, &fixture::host()).unwrap();
    }

    #[test]
    fn what_the_machine_cannot_do_is_warned_about() {
        let options = ResourceOptions {
            memory_swap: Some(MemorySwap::Unlimited),
            memory_swappiness: Some(1),
            blkio_weight: Some(10),
            oom_score_adj: Some(-5),
            ..ResourceOptions::default()
        };
        let weak = HostFacts {
            swap_accounting: false,
            block_io_weight: false,
            can_raise_limits: false,
            oom_score_adj: 3,
            ..fixture::host()
        };
        assert_eq!(options.warnings(&weak).len(), 4, "{:?}", options.warnings(&weak));
        assert_eq!(options.effective_oom_score_adj(&weak), Some(3));
        let v1 = HostFacts { cgroup: CgroupVersion::V1 { hierarchies: Vec::new() }, ..fixture::host() };
        assert!(options.warnings(&v1).is_empty(), "{:?}", options.warnings(&v1));
    }
}
