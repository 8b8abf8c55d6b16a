//! A machine and a run that the tests of this module share.

use super::{CgroupVersion, Dialect, HostFacts, LIMIT_COUNT, Paths};
use crate::image::Platform;

/// A big machine with cgroup v2, and root on it.
pub(super) fn host() -> HostFacts {
    HostFacts {
        dialect: Dialect::Libcontainer,
        cgroup: CgroupVersion::V2,
        swap_accounting: true,
        nofile_hard: 1_048_576,
        hard_limits: [u64::MAX; LIMIT_COUNT],
        nr_open: 1_048_576,
        can_raise_limits: true,
        bounding_capabilities: u64::MAX,
        oom_score_adj: 0,
        hostname: "node".to_owned(),
        platform: Platform::new("linux", "amd64", None),
        cpu_count: 8,
        kernel: (6, 1),
        cpuset_cpus: "0-7".to_owned(),
        cpuset_mems: "0".to_owned(),
        block_io_weight: true,
        apparmor: false,
        selinux: false,
        thermal_throttle_cpus: 0,
    }
}

pub(super) fn paths() -> Paths {
    Paths {
        rootfs: "/run/rootfs".into(),
        cgroup: "/dockless/run".to_owned(),
        resolv_conf: Some("/run/resolv.conf".into()),
        hosts: Some("/run/hosts".into()),
        hostname: Some("/run/hostname".into()),
        volumes: "/run/volumes".into(),
        joined: "/run/joined".into(),
        images: "/run/images".into(),
    }
}
