//! The limits of a run, written into its cgroup while its first process waits for the word to go.
//!
//! Facts: cgroup-v1/{memory,cpusets,blkio-controller}.rst, sched-bwc.rst and cgroup-v2.rst of the kernel.

use std::path::Path;

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice, Spec};

use super::cgroup::Cgroup;
use super::update::{CPU_PERIOD_US, LimitChange, Places, UpdateError, Write, carry_out, write};

impl Cgroup {
    /// Sets all that a specification limits but devices, or nothing when one of them is refused.
    pub fn set_limits(&self, spec: &Spec) -> Result<(), UpdateError> {
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        let Some(resources) = resources.filter(|_| self.mode().makes_one()) else { return Ok(()) };
        let places = Places::of(self);
        let mut writes = places.plan(&common(resources, &places))?;
        match &places {
            Places::V1([memory, cpu, _, _, blkio]) => {
                writes.extend(time_of_v1(resources.cpu().as_ref(), cpu)?);
                if let Some(swappiness) = resources.memory().as_ref().and_then(LinuxMemory::swappiness) {
                    writes.push(write("swappiness", memory.join("memory.swappiness"), swappiness.to_string())?);
                }
                for (list, name, _) in throttles(resources) {
                    let path = blkio.join(format!("blkio.throttle.{name}_device"));
                    for device in list {
                        let value = format!("{}:{} {}", device.major(), device.minor(), device.rate());
                        writes.push(write(DISKS, path.clone(), value)?);
                    }
                }
            }
            Places::V2(dir) => {
                writes.extend(time_of_v2(resources.cpu().as_ref(), dir)?);
                for (list, _, name) in throttles(resources) {
                    for device in list {
                        let value = format!("{}:{} {name}={}", device.major(), device.minor(), device.rate());
                        writes.push(write(DISKS, dir.join("io.max"), value)?);
                    }
                }
            }
        }
        carry_out(&writes)
    }
}

const DISKS: &str = "disk input and output";
const TIME: &str = "CPU time";

/// What can be changed later as well.
fn common(resources: &LinuxResources, places: &Places) -> LimitChange {
    let (cpu, memory) = (resources.cpu().as_ref(), resources.memory().as_ref());
    let positive = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok());
    // Where swap is not accounted that was said before.
    let counts_swap = match places {
        Places::V1(_) => true,
        Places::V2(dir) => dir.join("memory.swap.max").exists(),
    };
    LimitChange {
        memory: positive(memory.and_then(LinuxMemory::limit)),
        memory_swap: memory.and_then(LinuxMemory::swap).filter(|_| counts_swap),
        memory_reservation: positive(memory.and_then(LinuxMemory::reservation)),
        cpus: None,
        cpu_shares: cpu.and_then(LinuxCpu::shares),
        cpuset_cpus: cpu.and_then(|cpu| cpu.cpus().clone()),
        cpuset_mems: cpu.and_then(|cpu| cpu.mems().clone()),
        pids_limit: resources.pids().as_ref().map(oci_spec::runtime::LinuxPids::limit),
        blkio_weight: resources.block_io().as_ref().and_then(oci_spec::runtime::LinuxBlockIo::weight),
    }
}

fn time_of_v1(cpu: Option<&LinuxCpu>, dir: &Path) -> Result<Vec<Write>, UpdateError> {
    let period = cpu.and_then(LinuxCpu::period).map(|period| ("cpu.cfs_period_us", period.to_string()));
    let quota = cpu.and_then(LinuxCpu::quota).map(|quota| ("cpu.cfs_quota_us", quota.to_string()));
    period.into_iter().chain(quota).map(|(name, value)| write(TIME, dir.join(name), value)).collect()
}

fn time_of_v2(cpu: Option<&LinuxCpu>, dir: &Path) -> Result<Option<Write>, UpdateError> {
    let (quota, period) = (cpu.and_then(LinuxCpu::quota), cpu.and_then(LinuxCpu::period));
    if quota.is_none() && period.is_none() {
        return Ok(None);
    }
    let quota = quota.filter(|quota| *quota > 0).map_or_else(|| "max".to_owned(), |quota| quota.to_string());
    let period = period.map_or_else(|| CPU_PERIOD_US.to_string(), |period| period.to_string());
    write(TIME, dir.join("cpu.max"), format!("{quota} {period}")).map(Some)
}

/// The throttled devices, with the names of each throttle in versions 1 and 2.
fn throttles(resources: &LinuxResources) -> Vec<(&[LinuxThrottleDevice], &'static str, &'static str)> {
    let Some(disks) = resources.block_io() else { return Vec::new() };
    let lists = [
        (disks.throttle_read_bps_device(), "read_bps", "rbps"),
        (disks.throttle_write_bps_device(), "write_bps", "wbps"),
        (disks.throttle_read_iops_device(), "read_iops", "riops"),
        (disks.throttle_write_iops_device(), "write_iops", "wiops"),
    ];
    lists.into_iter().filter_map(|(list, v1, v2)| Some((list.as_deref()?, v1, v2))).collect()
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::LinuxCpuBuilder;

    use super::*;

    #[test]
    fn time_in_the_words_of_each_version() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.max"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let values = |cpu: &LinuxCpu| {
            let v1: Vec<String> =
                time_of_v1(Some(cpu), dir.path()).unwrap().into_iter().map(|write| write.value).collect();
            (v1.join(" "), time_of_v2(Some(cpu), dir.path()).unwrap().map(|write| write.value))
        };
        let cpu = |quota: Option<i64>, period: Option<u64>| {
            let mut cpu = LinuxCpuBuilder::default().build().unwrap();
            cpu.set_quota(quota).set_period(period);
            cpu
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(values(&cpu(Some(50_000), Some(100_000))), ("100000 50000".to_owned(), some("50000 100000")));
        assert_eq!(values(&cpu(None, Some(20_000))), ("20000".to_owned(), some("max 20000")));
        assert_eq!(values(&cpu(Some(-1), None)), ("-1".to_owned(), some("max 100000")));
        assert_eq!(values(&cpu(None, None)), (String::new(), None));
    }
}
