//! What a container whose users are not the machine's has otherwise than others, and what it cannot have.
//!
//! Its user namespace owns its other namespaces: what belongs to a namespace of the machine's or of another run, its root
//! has no right to mount or to change.

use oci_spec::OciSpecError;
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, Mount, MountBuilder, Process};

use super::error::SpecError;
use super::mount_flags::MountSetting;
use super::namespaces::{IpcMode, OwnOrHost, PidMode};
use super::{HostFacts, Identity, Network, Options, Propagation};
use crate::store::{IdMap, IdMaps, to_host};

/// The first that can.
const OVERLAY_KERNEL: (u32, u32) = (5, 19);
/// `tty` in every distribution, and whose terminals are.
const TTY_GROUP: &str = "gid=5";

/// How the flags are called in messages.
const FLAGS: &str = "--userns` or `--uidmap";

/// What cannot be together with other users than the machine's.
pub(super) fn check(options: &Options) -> Result<(), SpecError> {
    if !options.namespaces.users.are_mapped() {
        return refuse_idmap(options);
    }
    check_namespaces(options)?;
    for mount in &options.mounts {
        if let MountSetting::Bind(bind) = mount
            && bind.propagation() != Propagation::Private
        {
            let why = "what is mounted in a user namespace does not leave it";
            return Err(SpecError::Conflict(FLAGS.to_owned(), bind.propagation().to_string(), why));
        }
    }
    let Some(maps) = options.namespaces.users.maps() else { return Ok(()) };
    options.mounts.iter().try_for_each(|mount| match mount {
        MountSetting::Tmpfs(tmpfs) => check_owner(maps, tmpfs.options()),
        MountSetting::Bind(_) | MountSetting::Image(_) => Ok(()),
    })
}

fn refuse_idmap(options: &Options) -> Result<(), SpecError> {
    let asked = options.mounts.iter().find_map(|mount| match mount {
        MountSetting::Bind(bind) if bind.is_mapped() => Some(bind.destination()),
        _ => None,
    });
    let Some(place) = asked else { return Ok(()) };
    let asked = format!("idmap` of the mount at `{}", place.display());
    let why = "the container's users are the machine's, and so are the owners of files";
    Err(SpecError::Conflict(asked, "--userns host".to_owned(), why))
}

/// Namespaces of others.
fn check_namespaces(options: &Options) -> Result<(), SpecError> {
    let namespaces = &options.namespaces;
    let pid = match &namespaces.pid {
        PidMode::Private => None,
        PidMode::Host => Some("--pid host".to_owned()),
        PidMode::Run(run) => Some(format!("--pid container:{run}")),
    };
    let ipc = if let IpcMode::Run(run) = &namespaces.ipc { Some(format!("--ipc container:{run}")) } else { None };
    let network = matches!(options.network, Network::Run(_)).then(|| format!("--network {}", options.network));
    let cgroup = (namespaces.cgroup == OwnOrHost::Host).then(|| "--cgroupns host".to_owned());
    let why = "the namespace belongs to other users than the container's";
    let found = pid.or(ipc).or(network).or(cgroup);
    found.map_or(Ok(()), |flag| Err(SpecError::Conflict(FLAGS.to_owned(), flag, why)))
}

/// Whether the kernel can mount an overlay whose layers have other owners.
pub(super) fn check_kernel(options: &Options, host: &HostFacts) -> Result<(), SpecError> {
    if options.namespaces.users.are_mapped() && host.kernel < OVERLAY_KERNEL {
        return Err(SpecError::UsersKernel { kernel: host.kernel });
    }
    Ok(())
}

/// A tmpfs cannot belong to who is not there.
fn check_owner(maps: &IdMaps, options: &[String]) -> Result<(), SpecError> {
    for (key, word, flag, maps) in
        [("uid=", "users", "--uidmap", &maps.uids), ("gid=", "groups", "--gidmap", &maps.gids)]
    {
        for option in options {
            let Some(id) = option.strip_prefix(key).and_then(|id| id.parse().ok()) else { continue };
            known(&format!("`{option}` of a tmpfs"), id, word, flag, maps)?;
        }
    }
    Ok(())
}

/// Refuses a workload as somebody whom the container does not have.
pub(super) fn check_identity(options: &Options, identity: &Identity) -> Result<(), SpecError> {
    let Some(maps) = options.namespaces.users.maps() else { return Ok(()) };
    known(&format!("user {}", identity.uid), identity.uid, "users", "--uidmap", &maps.uids)?;
    let groups = identity.groups.iter().chain(&options.edits.groups).chain([&identity.gid]);
    groups.copied().try_for_each(|group| known(&format!("group {group}"), group, "groups", "--gidmap", &maps.gids))
}

/// The same for a command that is started later.
pub fn check_mapped(maps: &IdMaps, process: &Process) -> Result<(), SpecError> {
    let user = process.user();
    known(&format!("user {}", user.uid()), user.uid(), "users", "--uidmap", &maps.uids)?;
    let groups = user.additional_gids().iter().flatten().copied().chain([user.gid()]);
    groups.into_iter().try_for_each(|group| known(&format!("group {group}"), group, "groups", "--gidmap", &maps.gids))
}

fn known(what: &str, id: u32, kind: &'static str, flag: &'static str, maps: &[IdMap]) -> Result<(), SpecError> {
    if to_host(maps, id).is_some() {
        return Ok(());
    }
    let ranges: Vec<String> =
        maps.iter().take(3).map(|map| format!("{} to {}", map.container, map.container_end() - 1)).collect();
    let more = if maps.len() > 3 { " and more" } else { "" };
    Err(SpecError::NotMapped { what: what.to_owned(), kind, has: ranges.join(", ") + more, flag })
}

/// A default mount as it can be had.
pub(super) fn default_mount(options: &Options, mount: Mount) -> Result<Mount, OciSpecError> {
    let Some(maps) = options.namespaces.users.maps() else { return Ok(mount) };
    let bind = |place: &str, words: &[&str]| {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        MountBuilder::default().destination(place).typ("bind").source(place).options(words).build()
    };
    let mut mount = mount;
    match mount.destination().to_str() {
        // Only the owner of the network may mount one that shows it.
        Some("/sys") if !options.network.is_own() => {
            return bind("/sys", &["bind", "rprivate", "nosuid", "noexec", "nodev", "ro"]);
        }
        Some("/dev/mqueue") if options.namespaces.ipc == IpcMode::Host => {
            return bind("/dev/mqueue", &["bind", "rprivate", "nosuid", "noexec", "nodev"]);
        }
        Some("/dev/pts") if to_host(&maps.gids, 5).is_none() => {
            let words = mount.options().iter().flatten().filter(|word| *word != TTY_GROUP).cloned().collect();
            mount.set_options(Some(words));
        }
        _ => {}
    }
    Ok(mount)
}

/// The last group of those from 0 on that follow one another: as far as the kernel takes a range.
pub(super) fn last_group(maps: &IdMaps) -> u64 {
    maps.gids.iter().find(|map| map.container == 0).map_or(0, |map| map.container_end() - 1)
}

/// The maps as the specification has them.
pub(super) fn mappings(maps: &[IdMap]) -> Result<Vec<LinuxIdMapping>, OciSpecError> {
    let build = |map: &IdMap| {
        LinuxIdMappingBuilder::default().container_id(map.container).host_id(map.host).size(map.length).build()
    };
    maps.iter().map(build).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::users::Users;
    use super::super::{ImageFiles, Namespaces, build, fixture};
    use super::*;
    use crate::image::ImageConfig;

    fn at<'a>(list: &'a [Mount], place: &str) -> &'a Mount {
        list.iter().find(|mount| mount.destination() == Path::new(place)).unwrap()
    }

    fn mapped(options: Options, length: u32) -> Options {
        let map = IdMap { container: 0, host: 100_000, length };
        let users = Users::Maps(IdMaps { uids: vec![map], gids: vec![map] });
        Options { command: vec!["sh".to_owned()], namespaces: Namespaces { users, ..options.namespaces }, ..options }
    }

    fn built(options: &Options) -> Result<super::super::Built, SpecError> {
        let host = HostFacts { can_raise_limits: true, ..fixture::host() };
        build(&ImageConfig::default(), options, &host, &ImageFiles::default(), &fixture::paths())
    }

    #[test]
    fn a_namespace_with_its_maps() {
        let spec = built(&mapped(Options::default(), 65_536)).unwrap().spec;
        let linux = spec.linux().as_ref().unwrap();
        let map = linux.uid_mappings().as_ref().unwrap()[0];
        assert_eq!((map.container_id(), map.host_id(), map.size()), (0, 100_000, 65_536));
        assert_eq!(linux.gid_mappings().as_ref().unwrap().len(), 1);
        let list = spec.mounts().as_ref().unwrap();
        // The network is the machine's, so a sysfs of its own cannot be had.
        assert_eq!(at(list, "/sys").typ().as_deref(), Some("bind"));
        let own = Options { network: Network::None, ..Options::default() };
        let spec = built(&mapped(own, 4)).unwrap().spec;
        let list = spec.mounts().as_ref().unwrap();
        assert_eq!(at(list, "/sys").typ().as_deref(), Some("sysfs"));
        assert!(!at(list, "/dev/pts").options().as_ref().unwrap().contains(&TTY_GROUP.to_owned()));
        let sysctl = spec.linux().as_ref().unwrap().sysctl().as_ref().unwrap()["net.ipv4.ping_group_range"].clone();
        assert_eq!(sysctl, "0 3");
    }

    #[test]
    fn who_is_not_mapped_is_refused() {
        for (options, words) in [
            (
                Options { user: Some("70000".to_owned()), ..Options::default() },
                "user 70000 is not mapped: the container has users 0 to 65535",
            ),
            (Options { user: Some("1:70000".to_owned()), ..Options::default() }, "group 70000 is not mapped"),
        ] {
            let error = built(&mapped(options, 65_536)).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        let tmpfs = MountSetting::from_tmpfs("/x:uid=70000").unwrap();
        let error = built(&mapped(Options { mounts: vec![tmpfs], ..Options::default() }, 65_536)).unwrap_err();
        assert!(error.to_string().contains("`uid=70000` of a tmpfs is not mapped"), "{error}");
    }

    #[test]
    fn what_belongs_to_others_is_refused() {
        let pid = Namespaces { pid: PidMode::Host, ..Namespaces::default() };
        let error = built(&mapped(Options { namespaces: pid, ..Options::default() }, 9)).unwrap_err().to_string();
        assert!(error.contains("`--pid host` exclude each other"), "{error}");
        let bind = MountSetting::from_volume("/a:/b:idmap", Path::new("/")).unwrap();
        let options = Options { mounts: vec![bind], command: vec!["sh".to_owned()], ..Options::default() };
        assert!(built(&options).unwrap_err().to_string().contains("`idmap` of the mount at `/b` and `--userns host`"));
        assert!(built(&mapped(options, 9)).is_ok());
    }
}
