//! A machine and a run that the tests of this module share.

use super::{CgroupVersion, Dialect, HostFacts, Paths};
use crate::image::Platform;

/// A big machine with cgroup v2, and root on it.
pub(super) fn host() -> HostFacts {
    HostFacts {
        dialect: Dialect::Libcontainer,
        cgroup: CgroupVersion::V2,
        swap_accounting: true,
        nofile_hard: 1_048_576,
        nr_open: 1_048_576,
        can_raise_limits: true,
        bounding_capabilities: u64::MAX,
        hostname: "node".to_owned(),
        platform: Platform::new("linux", "amd64", None),
        cpu_count: 8,
        kernel: (6, 1),
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
