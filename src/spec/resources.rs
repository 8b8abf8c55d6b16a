//! CPU, memory, processes, block devices and device rules. One description for both cgroup versions: the runtime converts it
//! (`cpu.cfs_quota_us`/`cpu.cfs_period_us` or `cpu.max`; `memory.limit_in_bytes` and `memory.memsw.limit_in_bytes`, or
//! `memory.max` and `memory.swap.max`, where swap is the difference of the two).

mod id_list;
mod options;

use std::fmt;
use std::str::FromStr;

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    LinuxBlockIo, LinuxBlockIoBuilder, LinuxCpu, LinuxCpuBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder,
    LinuxDeviceType, LinuxMemory, LinuxMemoryBuilder, LinuxPids, LinuxPidsBuilder, LinuxResources,
    LinuxResourcesBuilder, LinuxThrottleDevice, LinuxThrottleDeviceBuilder,
};

pub use self::id_list::IdList;
pub use self::options::{
    MemorySwap, ResourceOptions, Throttle, ThrottleKind, blkio_weight, cpu_period, cpu_quota, cpu_shares,
    memory_reservation, memory_swap, memory_swappiness, oom_score_adj, pids,
};
use super::error::SpecError;
use super::{Edits, HostFacts, Options, edits};
use crate::image::ByteSize;

/// The kernel's default; long enough that a small share of a CPU is still a usable slice.
const CPU_PERIOD_US: u64 = 100_000;
/// What one CPU is in [`Cpus`].
const NANO: u64 = 1_000_000_000;
/// The kernel takes no quota below 1000 µs (`min_cfs_quota_period`): 0.01 of the period above.
const LEAST_CPUS_NANO: u64 = NANO / 100;

/// A number of CPUs above zero, exact to nine decimals; not yet compared with what the machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cpus {
    nano: u64,
}

impl Cpus {
    /// CPU time in microseconds for each 100 ms.
    const fn quota_us(self) -> u64 {
        self.nano / (NANO / CPU_PERIOD_US)
    }
}

impl Cpus {
    /// The number.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a billion processors are still exact")]
    pub fn as_f64(self) -> f64 {
        self.nano as f64 / NANO as f64
    }

    /// Whether a machine with `available` processors has that many; for whoever wants to know before an image is fetched.
    pub fn check(self, available: u32) -> Result<(), SpecError> {
        if self.nano > u64::from(available) * NANO {
            return Err(SpecError::CpusRange { asked: self.to_string(), available });
        }
        Ok(())
    }
}

impl FromStr for Cpus {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || SpecError::CpusMalformed(text.to_owned());
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(fraction) || fraction.len() > 9 || whole.len() + fraction.len() == 0 {
            return Err(bad());
        }
        let parse = |part: &str| part.parse::<u64>().map_err(|_| bad());
        let whole = parse(&format!("0{whole}"))?;
        let fraction = parse(&format!("{fraction:0<9}"))?;
        let nano = whole.checked_mul(NANO).and_then(|nano| nano.checked_add(fraction)).ok_or_else(bad)?;
        if nano < LEAST_CPUS_NANO {
            return Err(SpecError::CpusTooSmall(text.to_owned()));
        }
        Ok(Self { nano })
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:09}", self.nano / NANO, self.nano % NANO);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// A memory limit of at least 6 MiB, docker's floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemoryLimit(ByteSize);

impl MemoryLimit {
    /// The least that a container starts with.
    pub const LEAST: ByteSize = ByteSize(6 << 20);

    /// Checks a size from whatever dialect it was read in.
    pub fn new(size: ByteSize) -> Result<Self, SpecError> {
        if size < Self::LEAST {
            return Err(SpecError::MemoryTooSmall(size));
        }
        // Twice the limit must fit as well: it is the limit of memory and swap together.
        match i64::try_from(size.0) {
            Ok(bytes) if bytes <= i64::MAX / 2 => Ok(Self(size)),
            _ => Err(SpecError::MemoryTooLarge(size)),
        }
    }

    /// The limit.
    #[must_use]
    pub const fn size(self) -> ByteSize {
        self.0
    }
}

impl FromStr for MemoryLimit {
    type Err = SpecError;

    /// Reads docker's dialect.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(ByteSize::from_docker(text)?)
    }
}

impl fmt::Display for MemoryLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The limits that options ask for, as the runtime is told them; with the device rules.
pub fn limits(options: &Options, host: &HostFacts) -> Result<LinuxResources, SpecError> {
    resources(options, host)
}

pub(super) fn resources(options: &Options, host: &HostFacts) -> Result<LinuxResources, SpecError> {
    let rules = if options.security.privileged { every_device()? } else { device_rules(&options.edits)? };
    let mut resources = LinuxResourcesBuilder::default().devices(rules).build()?;
    resources.set_cpu(cpu(options)?);
    resources.set_memory(memory(options, host)?);
    resources.set_pids(options.resources.pids.map(process_count).transpose()?);
    resources.set_block_io(block_io(&options.resources, host)?);
    Ok(resources)
}

fn cpu(options: &Options) -> Result<Option<LinuxCpu>, OciSpecError> {
    let wanted = &options.resources;
    let mut cpu = LinuxCpuBuilder::default().build()?;
    if let Some(cpus) = options.cpus {
        cpu.set_quota(Some(i64::try_from(cpus.quota_us()).unwrap_or(i64::MAX)));
        cpu.set_period(Some(CPU_PERIOD_US));
    } else {
        cpu.set_quota(wanted.cpu_quota_us);
        // A quota is of the default period where no other was asked for.
        cpu.set_period(wanted.cpu_period_us.or(wanted.cpu_quota_us.map(|_| CPU_PERIOD_US)));
    }
    cpu.set_shares(wanted.cpu_shares);
    cpu.set_cpus(wanted.cpuset_cpus.as_ref().map(|list| list.as_str().to_owned()));
    cpu.set_mems(wanted.cpuset_mems.as_ref().map(|list| list.as_str().to_owned()));
    Ok(Some(cpu).filter(|cpu| *cpu != LinuxCpu::default()))
}

/// Docker's default: as much swap again as memory. Without swap accounting the kernel has no file to write that to.
fn memory(options: &Options, host: &HostFacts) -> Result<Option<LinuxMemory>, OciSpecError> {
    let signed = |size: ByteSize| i64::try_from(size.0).unwrap_or(i64::MAX);
    let wanted = &options.resources;
    let limit = options.memory.map(|limit| signed(limit.size()));
    let swap = match wanted.memory_swap {
        Some(MemorySwap::Unlimited) => Some(-1),
        Some(MemorySwap::Total(total)) => Some(signed(total)),
        None => limit.map(|limit| limit.saturating_mul(2)),
    };
    let mut memory = LinuxMemoryBuilder::default().build()?;
    memory.set_limit(limit);
    memory.set_swap(swap.filter(|_| host.swap_accounting));
    memory.set_reservation(wanted.memory_reservation.map(|limit| signed(limit.size())));
    memory.set_swappiness(wanted.effective_swappiness(host));
    Ok(Some(memory).filter(|memory| *memory != LinuxMemory::default()))
}

fn process_count(limit: i64) -> Result<LinuxPids, OciSpecError> {
    LinuxPidsBuilder::default().limit(limit).build()
}

fn block_io(wanted: &ResourceOptions, host: &HostFacts) -> Result<Option<LinuxBlockIo>, OciSpecError> {
    let of_kind = |kind: ThrottleKind| -> Result<Option<Vec<LinuxThrottleDevice>>, OciSpecError> {
        let throttles = wanted.throttles.iter().filter(|throttle| throttle.kind == kind);
        let build = |throttle: &Throttle| {
            LinuxThrottleDeviceBuilder::default()
                .major(i64::from(throttle.major))
                .minor(i64::from(throttle.minor))
                .rate(throttle.rate)
                .build()
        };
        let list = throttles.map(build).collect::<Result<Vec<_>, _>>()?;
        Ok((!list.is_empty()).then_some(list))
    };
    let mut block_io = LinuxBlockIoBuilder::default().build()?;
    block_io.set_weight(wanted.effective_blkio_weight(host));
    block_io.set_throttle_read_bps_device(of_kind(ThrottleKind::ReadBps)?);
    block_io.set_throttle_write_bps_device(of_kind(ThrottleKind::WriteBps)?);
    block_io.set_throttle_read_iops_device(of_kind(ThrottleKind::ReadIops)?);
    block_io.set_throttle_write_iops_device(of_kind(ThrottleKind::WriteIops)?);
    Ok(Some(block_io).filter(|block_io| *block_io != LinuxBlockIo::default()))
}

/// What a privileged container may open: all of them.
fn every_device() -> Result<Vec<LinuxDeviceCgroup>, OciSpecError> {
    Ok(vec![LinuxDeviceCgroupBuilder::default().allow(true).access("rwm").build()?])
}

/// Nothing but the devices of the edits and those that the runtime makes: null, zero, full, random, urandom, tty, console, ptmx and pts.
/// Any node may be made (`m`), as in docker: without `r` and `w` it cannot be opened.
fn device_rules(edits: &Edits) -> Result<Vec<LinuxDeviceCgroup>, OciSpecError> {
    const OPEN: [(i64, Option<i64>); 9] = [
        (1, Some(3)),
        (1, Some(5)),
        (1, Some(7)),
        (1, Some(8)),
        (1, Some(9)),
        (5, Some(0)),
        (5, Some(1)),
        (5, Some(2)),
        (136, None),
    ];
    let rule = |allow: bool, access: &str| LinuxDeviceCgroupBuilder::default().allow(allow).access(access);
    let mut rules = vec![
        rule(false, "rwm").build()?,
        rule(true, "m").typ(LinuxDeviceType::C).build()?,
        rule(true, "m").typ(LinuxDeviceType::B).build()?,
    ];
    for (major, minor) in OPEN {
        let mut allowed = rule(true, "rwm").typ(LinuxDeviceType::C).major(major).build()?;
        allowed.set_minor(minor);
        rules.push(allowed);
    }
    rules.extend(edits::device_rules(edits)?);
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn cpus_are_exact() {
        for (text, quota_us, shown) in [
            ("0.5", 50_000, "0.5"),
            (".5", 50_000, "0.5"),
            ("2", 200_000, "2"),
            ("2.", 200_000, "2"),
            ("0.01", 1000, "0.01"),
            ("1.33", 133_000, "1.33"),
            ("0.333333333", 33_333, "0.333333333"),
            ("100", 10_000_000, "100"),
        ] {
            let cpus: Cpus = text.parse().unwrap();
            assert_eq!((cpus.quota_us(), cpus.to_string().as_str()), (quota_us, shown), "{text}");
        }
        for bad in ["", ".", "-1", "+1", "1e3", "1/2", "a", "1,5", "0.1234567890", "99999999999999999999", " 1"] {
            let message = bad.parse::<Cpus>().unwrap_err().to_string();
            assert!(message.contains("malformed"), "{bad}: {message}");
        }
        for small in ["0", "0.0", "0.009", "0.000000001"] {
            let message = small.parse::<Cpus>().unwrap_err().to_string();
            assert!(message.contains("the least is 0.01"), "{small}: {message}");
        }
    }

    #[test]
    fn more_cpus_than_there_are() {
        let cpus = |text: &str| text.parse::<Cpus>().unwrap();
        cpus("2").check(2).unwrap();
        let message = cpus("2.01").check(2).unwrap_err().to_string();
        assert_eq!(message, "number of CPUs `2.01` is out of range, expected 0.01 to 2.00, as this machine has 2");
    }

    #[test]
    fn memory_has_a_floor_and_a_ceiling() {
        assert_eq!("64m".parse::<MemoryLimit>().unwrap().size(), ByteSize(64 << 20));
        assert_eq!("6m".parse::<MemoryLimit>().unwrap().to_string(), "6 MiB");
        let message = "1".parse::<MemoryLimit>().unwrap_err().to_string();
        assert_eq!(
            message,
            "memory limit is 1 B, the least is 6 MiB\nhint: a plain number counts bytes, `64m` is 64 MiB"
        );
        assert!("lots".parse::<MemoryLimit>().unwrap_err().to_string().contains("size `lots` is malformed"));
        assert!(matches!(MemoryLimit::new(ByteSize(u64::MAX)), Err(SpecError::MemoryTooLarge(_))));
        assert!(matches!(MemoryLimit::new(ByteSize(1 << 62)), Err(SpecError::MemoryTooLarge(_))));
    }

    #[test]
    fn swap_is_as_much_again() {
        let limits = |swap: Option<&str>, swap_accounting: bool| {
            let resources = ResourceOptions {
                memory_swap: swap.and_then(|text| memory_swap(text).unwrap()),
                ..ResourceOptions::default()
            };
            let options = Options { memory: Some("64m".parse().unwrap()), resources, ..Options::default() };
            let built = memory(&options, &HostFacts { swap_accounting, ..fixture::host() }).unwrap().unwrap();
            (built.limit(), built.swap())
        };
        assert_eq!(limits(None, true), (Some(64 << 20), Some(128 << 20)));
        assert_eq!(limits(Some("0"), true), (Some(64 << 20), Some(128 << 20)));
        assert_eq!(limits(Some("64m"), true), (Some(64 << 20), Some(64 << 20)));
        assert_eq!(limits(Some("-1"), true), (Some(64 << 20), Some(-1)));
        assert_eq!(limits(Some("1g"), false), (Some(64 << 20), None));
    }

    #[test]
    fn nothing_is_written_that_was_not_asked_for() {
        let built = resources(&Options::default(), &fixture::host()).unwrap();
        assert!(built.cpu().is_none() && built.memory().is_none());
        assert!(built.pids().is_none() && built.block_io().is_none());
        let quota = ResourceOptions { cpu_quota_us: Some(20_000), ..ResourceOptions::default() };
        let built = resources(&Options { resources: quota, ..Options::default() }, &fixture::host()).unwrap();
        let cpu = built.cpu().clone().unwrap();
        assert_eq!((cpu.quota(), cpu.period(), cpu.shares()), (Some(20_000), Some(CPU_PERIOD_US), None));
    }

    #[test]
    fn devices_are_denied_first() {
        let rules: Vec<String> = device_rules(&Edits::default()).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(rules[..3], ["a *:* rwm", "c *:* m", "b *:* m"]);
        assert!(rules.contains(&"c 136:* rwm".to_owned()));
        assert!(!rules.contains(&"c 10:229 rwm".to_owned()), "fuse is not for everyone");
        assert_eq!(device_rules(&Edits::default()).unwrap().iter().filter(|rule| !rule.allow()).count(), 1);
    }
}
