//! The Linux part: namespaces, cgroup, filter, masked and read-only paths, sysctls.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Capability, Linux, LinuxBuilder, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, LinuxSeccomp,
};

use super::error::SpecError;
use super::namespaces::{IpcMode, OwnOrHost, PidMode, Shared};
use super::security::SeccompChoice;
use super::sysctl::Sysctl;
use super::{CgroupVersion, HostFacts, Network, Options, Paths, edits, mapped, mounts, resources, seccomp};

/// Docker's list: what tells about, or reaches, the machine itself.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// Docker's list: what changes the machine itself.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// Docker's for a network of its own: nobody else is there to protect from a low port or a ping.
const NETWORK_SYSCTLS: [(&str, &str); 2] =
    [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];

pub(super) fn linux(
    options: &Options,
    host: &HostFacts,
    paths: &Paths,
    capabilities: &HashSet<Capability>,
) -> Result<Linux, SpecError> {
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces(options, &paths.joined)?)
        .resources(resources::resources(options, host)?)
        .cgroups_path(paths.cgroup.as_str())
        .masked_paths(masked_paths(options, host))
        .readonly_paths(read_only_paths(options, host))
        // Docker's binds are `rprivate`; libcontainer ignores that option of a mount, but takes this one for all. What is
        // to be otherwise becomes so between creation and start.
        .rootfs_propagation(mounts::root_propagation(options, host.dialect))
        .build()?;
    if !options.edits.devices.is_empty() {
        linux.set_devices(Some(edits::devices(&options.edits)?));
    }
    linux.set_seccomp(filter(options, host, capabilities)?);
    linux.set_sysctl(sysctls(options));
    if let Some(maps) = options.namespaces.users.maps() {
        linux.set_uid_mappings(Some(mapped::mappings(&maps.uids)?));
        linux.set_gid_mappings(Some(mapped::mappings(&maps.gids)?));
    }
    Ok(linux)
}

fn filter(
    options: &Options,
    host: &HostFacts,
    capabilities: &HashSet<Capability>,
) -> Result<Option<LinuxSeccomp>, SpecError> {
    match &options.security.seccomp {
        SeccompChoice::Unconfined => Ok(None),
        SeccompChoice::Default if options.security.privileged => Ok(None),
        SeccompChoice::Default | SeccompChoice::Builtin => seccomp::filter(host, capabilities).map(Some),
        SeccompChoice::Profile(profile) => profile.filter(host, capabilities).map(Some),
    }
}

/// The user's win over docker's.
fn sysctls(options: &Options) -> Option<HashMap<String, String>> {
    let dockers = NETWORK_SYSCTLS.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let groups = options.namespaces.users.maps().map(mapped::last_group);
    let dockers = dockers.into_iter().filter(|_| options.network.is_own()).map(|(name, value)| match groups {
        // Groups that the container does not have are none for the kernel.
        Some(last) if name.ends_with("ping_group_range") => (name, format!("0 {last}")),
        _ => (name, value),
    });
    let sysctls: HashMap<_, _> = dockers.chain(options.security.sysctls.iter().map(Sysctl::pair)).collect();
    (!sysctls.is_empty()).then_some(sysctls)
}

/// A kind that is not in the list is the machine's.
fn namespaces(options: &Options, joined: &Path) -> Result<Vec<LinuxNamespace>, OciSpecError> {
    let own = |kind| LinuxNamespaceBuilder::default().typ(kind).build();
    let of_run = |kind, shared| LinuxNamespaceBuilder::default().typ(kind).path(joined_path(joined, shared)).build();
    let modes = &options.namespaces;
    let mut list = vec![own(LinuxNamespaceType::Mount)?];
    if modes.users.are_mapped() {
        list.push(own(LinuxNamespaceType::User)?);
    }
    match &modes.pid {
        PidMode::Private => list.push(own(LinuxNamespaceType::Pid)?),
        PidMode::Run(_) => list.push(of_run(LinuxNamespaceType::Pid, Shared::Pid)?),
        PidMode::Host => {}
    }
    match &modes.ipc {
        IpcMode::Private | IpcMode::Shareable | IpcMode::None => list.push(own(LinuxNamespaceType::Ipc)?),
        IpcMode::Run(_) => list.push(of_run(LinuxNamespaceType::Ipc, Shared::Ipc)?),
        IpcMode::Host => {}
    }
    match &options.network {
        Network::None | Network::Private => list.push(own(LinuxNamespaceType::Network)?),
        Network::Run(_) => list.push(of_run(LinuxNamespaceType::Network, Shared::Network)?),
        Network::Host => {}
    }
    for (mode, kind) in [(modes.uts, LinuxNamespaceType::Uts), (modes.cgroup, LinuxNamespaceType::Cgroup)] {
        if mode == OwnOrHost::Private {
            list.push(own(kind)?);
        }
    }
    Ok(list)
}

/// Where the supervisor puts a namespace of another run.
pub(super) fn joined_path(joined: &Path, shared: Shared) -> std::path::PathBuf {
    joined.join(shared.kernel_name())
}

/// The throttle counters leak what the machine computes (GHSA-6fw5-f8r9-fgfm).
fn masked_paths(options: &Options, host: &HostFacts) -> Vec<String> {
    if options.security.privileged || options.security.unconfined_paths {
        return Vec::new();
    }
    let counters =
        (0..host.thermal_throttle_cpus).map(|cpu| format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle"));
    MASKED.iter().map(|&path| path.to_owned()).chain(counters).collect()
}

/// libcontainer mounts the hierarchies of cgroup v1 writable whatever the options of `/sys/fs/cgroup`: root in the
/// container could raise its own limits. So each is bound read-only over itself, the directory that holds them first.
fn read_only_paths(options: &Options, host: &HostFacts) -> Vec<String> {
    if options.security.privileged {
        return Vec::new();
    }
    let usual = READ_ONLY.iter().filter(|_| !options.security.unconfined_paths);
    let mut paths: Vec<String> = usual.map(|&path| path.to_owned()).collect();
    if let CgroupVersion::V1 { hierarchies } = &host.cgroup {
        paths.push(CGROUP_ROOT.to_owned());
        paths.extend(hierarchies.iter().map(|name| format!("{CGROUP_ROOT}/{name}")));
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::super::{SecurityOptions, fixture};
    use super::*;

    fn build(options: &Options, host: &HostFacts) -> Linux {
        linux(options, host, &fixture::paths(), &HashSet::new()).unwrap()
    }

    fn has_network_namespace(linux: &Linux) -> bool {
        linux.namespaces().as_ref().unwrap().iter().any(|ns| ns.typ() == LinuxNamespaceType::Network)
    }

    #[test]
    fn namespaces_are_own_shared_or_the_machines() {
        use super::super::namespaces::Namespaces;
        let kinds = |namespaces: Namespaces| {
            let linux = build(&Options { namespaces, ..Options::default() }, &fixture::host());
            let list = linux.namespaces().clone().unwrap();
            list.iter()
                .map(|ns| {
                    format!(
                        "{}{}",
                        ns.typ(),
                        ns.path().as_ref().map(|path| format!("={}", path.display())).unwrap_or_default()
                    )
                })
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(kinds(Namespaces::default()), "mnt pid ipc uts cgroup");
        let host = Namespaces {
            ipc: IpcMode::Host,
            pid: PidMode::Host,
            uts: OwnOrHost::Host,
            cgroup: OwnOrHost::Host,
            ..Namespaces::default()
        };
        assert_eq!(kinds(host), "mnt");
        let other = Namespaces {
            ipc: "container:a".parse().unwrap(),
            pid: "container:b".parse().unwrap(),
            ..Namespaces::default()
        };
        assert_eq!(kinds(other), "mnt pid=/run/joined/pid ipc=/run/joined/ipc uts cgroup");
    }

    #[test]
    fn a_network_of_its_own_only_when_asked_for() {
        let host = build(&Options::default(), &fixture::host());
        assert!(!has_network_namespace(&host) && host.sysctl().is_none());
        let none = build(&Options { network: Network::None, ..Options::default() }, &fixture::host());
        assert!(has_network_namespace(&none));
        assert_eq!(none.sysctl().as_ref().unwrap()["net.ipv4.ip_unprivileged_port_start"], "0");
    }

    #[test]
    fn a_privileged_container_sees_and_writes_all() {
        let host =
            HostFacts { cgroup: CgroupVersion::V1 { hierarchies: vec!["memory".to_owned()] }, ..fixture::host() };
        let privileged = build(
            &Options { security: SecurityOptions { privileged: true, ..Default::default() }, ..Options::default() },
            &host,
        );
        assert!(privileged.seccomp().is_none());
        assert!(privileged.masked_paths().as_ref().unwrap().is_empty());
        assert!(privileged.readonly_paths().as_ref().unwrap().is_empty());
        let rules = privileged.resources().as_ref().unwrap().devices().clone().unwrap();
        assert_eq!(rules.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a *:* rwm"]);
        let security = SecurityOptions { privileged: true, seccomp: SeccompChoice::Builtin, ..Default::default() };
        assert!(build(&Options { security, ..Options::default() }, &host).seccomp().is_some());
        // The limits of the container stay out of its reach.
        let security = SecurityOptions { unconfined_paths: true, ..Default::default() };
        let paths = build(&Options { security, ..Options::default() }, &host);
        assert!(paths.masked_paths().as_ref().unwrap().is_empty());
        assert_eq!(paths.readonly_paths().as_ref().unwrap().as_slice(), ["/sys/fs/cgroup", "/sys/fs/cgroup/memory"]);
    }

    #[test]
    fn hierarchies_of_cgroup_v1_are_read_only() {
        let hierarchies = vec!["cpu,cpuacct".to_owned(), "memory".to_owned()];
        let host = HostFacts { cgroup: CgroupVersion::V1 { hierarchies }, ..fixture::host() };
        let paths = build(&Options::default(), &host).readonly_paths().clone().unwrap();
        assert_eq!(paths[5..], ["/sys/fs/cgroup", "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/memory"]);
        assert_eq!(build(&Options::default(), &fixture::host()).readonly_paths().as_ref().unwrap().len(), 5);
    }

    #[test]
    fn throttle_counters_are_masked_where_they_are() {
        let host = HostFacts { thermal_throttle_cpus: 2, ..fixture::host() };
        let paths = build(&Options::default(), &host).masked_paths().clone().unwrap();
        assert_eq!(paths[MASKED.len()..].len(), 2);
        assert_eq!(paths.last().unwrap(), "/sys/devices/system/cpu/cpu1/thermal_throttle");
    }
}
