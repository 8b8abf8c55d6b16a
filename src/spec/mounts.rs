//! The list of mounts of a container: docker's defaults, then files for name look-up, image volumes and the user's own.
//!
//! The runtime mounts in the order of the list. A mount of the user at the place of a default replaces it; the others
//! come after the defaults, parents before what lies in them. Every option written here has its effect in libcontainer
//! 0.7, but for two: `rprivate` is ignored there (`linux.rootfsPropagation: private` does the same for all mounts), and
//! the options of `/sys/fs/cgroup` are ignored on cgroup v1 (`linux.rs` makes those directories read-only).

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use oci_spec::OciSpecError;
use oci_spec::runtime::{Mount, MountBuilder};

use super::bind_options::{BindOptions, Propagation};
use super::error::SpecError;
use super::mount_flags::{BindMount, MountSetting, container_path};
use super::namespaces::IpcMode;
use super::path::depth;
use super::{Dialect, HostFacts, Options, Paths, edits, mapped};
use crate::image::{ByteSize, ImageConfig};

/// Destination, type, source, options.
type DefaultMount = (&'static str, &'static str, &'static str, &'static [&'static str]);

const SHM: &str = "/dev/shm";
const CGROUPS: &str = "/sys/fs/cgroup";
const DEFAULTS: [DefaultMount; 7] = [
    ("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
    ("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
    // Group 5 is `tty` in every distribution.
    ("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
    (SHM, "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777"]),
    ("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
    ("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    (CGROUPS, "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
];
/// What docker's `--shm-size 0` means; a tmpfs of size 0 would have no bound.
const DEFAULT_SHM_SIZE: ByteSize = ByteSize(64 << 20);

/// podman's list of what programs expect to be able to write, with its modes.
const WRITABLE_PLACES: [(&str, &str); 3] = [("/tmp", "mode=1777"), ("/var/tmp", "mode=1777"), ("/run", "mode=755")];

/// A directory that the image keeps its data in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageVolume {
    /// Where the workload sees it.
    pub destination: PathBuf,
    /// The directory of this machine that is mounted there, to be made and filled with what the image has at the
    /// destination. `None`: the destination itself is writable and only has to exist.
    pub host: Option<PathBuf>,
}

/// What becomes of all mount settings.
pub(super) struct Mounts {
    pub(super) list: Vec<Mount>,
    pub(super) image_volumes: Vec<ImageVolume>,
    pub(super) warnings: Vec<String>,
}

pub(super) fn mounts(
    image: &ImageConfig,
    options: &Options,
    host: &HostFacts,
    paths: &Paths,
) -> Result<Mounts, SpecError> {
    let mut taken = HashSet::new();
    for setting in &options.mounts {
        if !taken.insert(setting.destination().to_owned()) {
            return Err(SpecError::DuplicateMount(setting.destination().to_owned()));
        }
    }
    let mut warnings = relabel_warnings(options, host);
    let mut later = user_mounts(options, host.dialect, paths)?;
    later.extend(writable_places(options, &mut taken)?);
    let image_volumes = image_volumes(image, options, paths, &mut taken, &mut warnings);
    for volume in &image_volumes {
        if let Some(source) = &volume.host {
            later.push(own_bind(options, source, &volume.destination, false)?);
        }
    }
    for (source, destination) in lookup_files(paths) {
        if !taken.contains(Path::new(destination)) {
            later.push(own_bind(options, source, Path::new(destination), options.read_only)?);
        }
    }
    for mount in edits::mounts(&options.edits)? {
        if taken.insert(mount.destination().clone()) {
            later.push(mount);
        } else {
            let place = mount.destination().display();
            warnings.push(format!("the device's own `{place}` is hidden by a mount that was asked for"));
        }
    }
    later.sort_by_key(|mount| depth(mount.destination()));
    let mut list = defaults(options, paths, &taken)?;
    list.extend(later);
    Ok(Mounts { list, image_volumes, warnings })
}

fn defaults(options: &Options, paths: &Paths, taken: &HashSet<PathBuf>) -> Result<Vec<Mount>, OciSpecError> {
    let shm_size = if options.shm_size.0 == 0 { DEFAULT_SHM_SIZE } else { options.shm_size };
    let make = |&(destination, kind, source, fixed): &DefaultMount| {
        if destination == SHM {
            match options.namespaces.ipc {
                IpcMode::Private | IpcMode::Shareable => {}
                IpcMode::None => return Ok(None),
                IpcMode::Host => return bind(Path::new(SHM), Path::new(SHM), false).map(Some),
                IpcMode::Run(_) => return bind(&paths.joined.join("shm"), Path::new(SHM), false).map(Some),
            }
        }
        // A privileged container may change /sys and its control groups.
        let kept = fixed.iter().filter(|option| !(options.security.privileged && **option == "ro"));
        let mut fixed: Vec<String> = kept.map(|&option| option.to_owned()).collect();
        if destination == SHM {
            fixed.push(format!("size={}", shm_size.0));
        }
        let mount = MountBuilder::default().destination(destination).typ(kind).source(source).options(fixed).build()?;
        mapped::default_mount(options, mount).map(Some)
    };
    let wanted = DEFAULTS.iter().filter(|(destination, ..)| !taken.contains(Path::new(destination)));
    wanted.filter_map(|mount| make(mount).transpose()).collect()
}

fn user_mounts(options: &Options, dialect: Dialect, paths: &Paths) -> Result<Vec<Mount>, OciSpecError> {
    let mut images = 0;
    let make = |setting: &MountSetting| match setting {
        MountSetting::Bind(mount) => {
            let propagation = match dialect {
                Dialect::Libcontainer => Propagation::Private,
                Dialect::Standard => mount.propagation(),
            };
            let mut bind = mount.options().clone();
            bind.is_mapped |= bind.is_of_run && options.namespaces.users.are_mapped();
            bind_with(mount.source(), mount.destination(), bind.in_spec(propagation))
        }
        MountSetting::Tmpfs(mount) => MountBuilder::default()
            .destination(mount.destination())
            .typ("tmpfs")
            .source("tmpfs")
            .options(mount.options())
            .build(),
        MountSetting::Image(mount) => {
            let source = paths.images.join(images.to_string());
            images += 1;
            bind(&source, &mount.destination, !mount.writable)
        }
    };
    options.mounts.iter().map(make).collect()
}

/// What `--read-only-tmpfs` leaves writable, where nothing else is mounted. `/dev/shm` is so in any case.
fn writable_places(options: &Options, taken: &mut HashSet<PathBuf>) -> Result<Vec<Mount>, OciSpecError> {
    let places = WRITABLE_PLACES.iter().filter(|_| options.read_only && options.read_only_tmpfs);
    let free = places.filter(|(place, _)| taken.insert(PathBuf::from(place)));
    free.map(|(place, mode)| {
        let options = ["nosuid", "nodev", mode].map(str::to_owned);
        MountBuilder::default().destination(*place).typ("tmpfs").source("tmpfs").options(options).build()
    })
    .collect()
}

fn bind(source: &Path, destination: &Path, read_only: bool) -> Result<Mount, OciSpecError> {
    bind_with(source, destination, BindOptions::plain(read_only).in_spec(Propagation::Private))
}

/// A bind mount of what was made for this run: its files are those of the container's users.
fn own_bind(options: &Options, source: &Path, destination: &Path, read_only: bool) -> Result<Mount, OciSpecError> {
    let mut bind = BindOptions::plain(read_only);
    bind.is_mapped = options.namespaces.users.are_mapped();
    bind_with(source, destination, bind.in_spec(Propagation::Private))
}

fn bind_with(source: &Path, destination: &Path, options: Vec<String>) -> Result<Mount, OciSpecError> {
    MountBuilder::default().destination(destination).typ("bind").source(source).options(options).build()
}

/// The propagation that the runtime gives everything first. One that follows the specification makes mounts slaves or
/// shared only if all are so to begin with.
pub(super) fn root_propagation(options: &Options, dialect: Dialect) -> &'static str {
    let mut asked = propagations(options).map(|(_, propagation)| propagation).peekable();
    match dialect {
        Dialect::Standard if asked.peek().is_some() => {
            if asked.any(Propagation::is_shared) {
                "shared"
            } else {
                "slave"
            }
        }
        Dialect::Standard | Dialect::Libcontainer => "private",
    }
}

/// Whether the kernel can give a mount that is there already to a group of others (`MOVE_MOUNT_SET_GROUP`, Linux 5.15).
pub(super) fn check_propagation(options: &Options, host: &HostFacts) -> Result<(), SpecError> {
    match propagations(options).next() {
        Some((destination, propagation)) if host.dialect == Dialect::Libcontainer && host.kernel < (5, 15) => {
            Err(SpecError::PropagationKernel {
                destination: destination.to_owned(),
                propagation: propagation.as_str(),
                kernel: host.kernel,
            })
        }
        _ => Ok(()),
    }
}

/// The mounts that are not private.
fn propagations(options: &Options) -> impl Iterator<Item = (&Path, Propagation)> {
    options.mounts.iter().filter_map(|mount| match mount {
        MountSetting::Bind(bind) if bind.propagation() != Propagation::Private => {
            Some((bind.destination(), bind.propagation()))
        }
        _ => None,
    })
}

fn lookup_files(paths: &Paths) -> impl Iterator<Item = (&Path, &'static str)> {
    [(&paths.resolv_conf, "/etc/resolv.conf"), (&paths.hostname, "/etc/hostname"), (&paths.hosts, "/etc/hosts")]
        .into_iter()
        .filter_map(|(source, destination)| source.as_deref().map(|source| (source, destination)))
}

fn relabel_warnings(options: &Options, host: &HostFacts) -> Vec<String> {
    let relabelled =
        |mount: &&MountSetting| matches!(mount, MountSetting::Bind(bind) if BindMount::wants_relabel(bind));
    let mounts = options.mounts.iter().filter(relabelled).filter(|_| host.selinux);
    let warning = |mount: &MountSetting| {
        format!("`{}` keeps its SELinux label: `z` and `Z` are not supported yet", mount.destination().display())
    };
    mounts.map(warning).collect()
}

/// The image's volumes that no mount of the user covers. A place where nothing may be mounted is left out with a
/// warning: a run must not fail over what the user did not write.
fn image_volumes(
    image: &ImageConfig,
    options: &Options,
    paths: &Paths,
    taken: &mut HashSet<PathBuf>,
    warnings: &mut Vec<String>,
) -> Vec<ImageVolume> {
    let mut volumes = Vec::new();
    for text in &image.volumes {
        match container_path(Path::new(text)) {
            Ok(destination) if taken.insert(destination.clone()) => {
                let host = options.read_only.then(|| paths.volumes.join(volumes.len().to_string()));
                volumes.push(ImageVolume { destination, host });
            }
            Ok(_) => {}
            Err(problem) => {
                warnings.push(format!("volume `{}` of the image is left out: {problem}", text.escape_debug()));
            }
        }
    }
    volumes
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    fn build(image: &ImageConfig, options: &Options) -> Mounts {
        mounts(image, options, &fixture::host(), &fixture::paths()).unwrap()
    }

    fn with_volumes(volumes: &[&str]) -> ImageConfig {
        ImageConfig { volumes: volumes.iter().map(|&volume| volume.to_owned()).collect(), ..ImageConfig::default() }
    }

    fn with_mounts(mounts: &[&str]) -> Options {
        let parse = |text: &&str| MountSetting::from_volume(text, Path::new("/")).unwrap();
        Options { mounts: mounts.iter().map(parse).collect(), ..Options::default() }
    }

    fn destinations(mounts: &Mounts) -> Vec<&str> {
        mounts.list.iter().map(|mount| mount.destination().to_str().unwrap()).collect()
    }

    fn mount_at<'a>(mounts: &'a Mounts, destination: &str) -> &'a Mount {
        let mut found = mounts.list.iter().filter(|mount| mount.destination() == Path::new(destination));
        let mount = found.next().unwrap();
        assert!(found.next().is_none(), "{destination} is mounted twice");
        mount
    }

    fn options_at(mounts: &Mounts, destination: &str) -> Vec<String> {
        mount_at(mounts, destination).options().clone().unwrap()
    }

    #[test]
    fn parents_come_first() {
        let mounts =
            build(&ImageConfig::default(), &with_mounts(&["/1:/a/b/c", "/2:/a", "/3:/etc", "/4:/z/b", "/5:/b"]));
        assert_eq!(
            destinations(&mounts)[7..],
            ["/a", "/etc", "/b", "/z/b", "/etc/resolv.conf", "/etc/hostname", "/etc/hosts", "/a/b/c"]
        );
    }

    #[test]
    fn a_users_mount_replaces_a_default() {
        let mounts = build(&ImageConfig::default(), &with_mounts(&["/mine:/dev/shm", "/hosts:/etc/hosts:ro"]));
        assert_eq!(mount_at(&mounts, "/dev/shm").source().as_deref(), Some(Path::new("/mine")));
        assert_eq!(options_at(&mounts, "/etc/hosts"), ["rbind", "rprivate", "ro", "rro"]);
        assert!(!mount_at(&mounts, "/etc/resolv.conf").options().as_ref().unwrap().contains(&"ro".to_owned()));
    }

    #[test]
    fn shared_memory_has_the_asked_size() {
        for (asked, size) in [(None, "size=67108864"), (Some(0), "size=67108864"), (Some(1 << 30), "size=1073741824")] {
            let mut options = Options::default();
            if let Some(asked) = asked {
                options.shm_size = ByteSize(asked);
            }
            let mounts = build(&ImageConfig::default(), &options);
            assert_eq!(options_at(&mounts, "/dev/shm").last().unwrap(), size);
        }
    }

    #[test]
    fn two_mounts_at_one_place_are_an_error() {
        let options = with_mounts(&["/a:/x", "/b:/y/../x/"]);
        let error = mounts(&ImageConfig::default(), &options, &fixture::host(), &fixture::paths()).err().unwrap();
        assert_eq!(error.to_string(), "two mounts have the destination `/x`");
    }

    #[test]
    fn image_volumes_are_directories_or_mounts() {
        let image = with_volumes(&["/data", "/data/", "/covered", "/proc/sys", "relative", "/"]);
        let writable = build(&image, &with_mounts(&["/a:/covered"]));
        assert_eq!(writable.image_volumes, [ImageVolume { destination: "/data".into(), host: None }]);
        assert_eq!(writable.warnings.len(), 3);
        assert!(
            writable.warnings[0].contains("volume `/proc/sys` of the image is left out"),
            "{:?}",
            writable.warnings
        );

        let read_only = build(&with_volumes(&["/a", "/b"]), &Options { read_only: true, ..Options::default() });
        assert_eq!(read_only.image_volumes[1].host.as_deref(), Some(Path::new("/run/volumes/1")));
        assert_eq!(mount_at(&read_only, "/b").source().as_deref(), Some(Path::new("/run/volumes/1")));
        assert_eq!(options_at(&read_only, "/b"), ["rbind", "rprivate"]);
        assert_eq!(options_at(&read_only, "/etc/hosts"), ["rbind", "rprivate", "ro", "rro"]);
    }

    #[test]
    fn shared_memory_is_as_the_ipc_mode_says() {
        use super::super::namespaces::Namespaces;
        for (mode, source) in [
            ("shareable", Some("shm")),
            ("host", Some("/dev/shm")),
            ("container:a", Some("/run/joined/shm")),
            ("none", None),
        ] {
            let namespaces = Namespaces { ipc: mode.parse().unwrap(), ..Namespaces::default() };
            let mounts = build(&ImageConfig::default(), &Options { namespaces, ..Options::default() });
            let found = mounts.list.iter().find(|mount| mount.destination() == Path::new(SHM));
            assert_eq!(found.and_then(|mount| mount.source().clone()).as_deref(), source.map(Path::new), "{mode}");
        }
    }

    #[test]
    fn places_stay_writable_when_asked_for() {
        let options = Options { read_only: true, read_only_tmpfs: true, ..with_mounts(&["/a:/tmp"]) };
        let mounts = build(&with_volumes(&["/run"]), &options);
        assert_eq!(options_at(&mounts, "/run"), ["nosuid", "nodev", "mode=755"]);
        assert_eq!(options_at(&mounts, "/var/tmp"), ["nosuid", "nodev", "mode=1777"]);
        assert_eq!(options_at(&mounts, "/tmp"), ["rbind", "rprivate"]);
        assert!(mounts.image_volumes.is_empty());
        let writable = build(&ImageConfig::default(), &Options { read_only: false, ..options });
        assert!(!destinations(&writable).contains(&"/run"));
    }

    #[test]
    fn propagation_is_the_runtimes_only_if_it_knows_how() {
        let options = with_mounts(&["/a:/b:rslave", "/c:/d:shared"]);
        assert_eq!(options_at(&build(&ImageConfig::default(), &options), "/b"), ["rbind", "rprivate"]);
        assert_eq!(root_propagation(&options, Dialect::Libcontainer), "private");
        let host = HostFacts { dialect: Dialect::Standard, kernel: (5, 4), ..fixture::host() };
        let standard = mounts(&ImageConfig::default(), &options, &host, &fixture::paths()).unwrap();
        assert_eq!(options_at(&standard, "/b"), ["rbind", "rslave"]);
        assert_eq!(root_propagation(&options, Dialect::Standard), "shared");
        assert_eq!(root_propagation(&with_mounts(&["/a:/b:slave"]), Dialect::Standard), "slave");
        assert!(check_propagation(&options, &host).is_ok());
        let old = HostFacts { kernel: (5, 10), ..fixture::host() };
        let message = check_propagation(&options, &old).unwrap_err().to_string();
        assert!(message.contains("`/b`") && message.contains("5.10"), "{message}");
    }

    #[test]
    fn files_for_name_lookup_are_optional() {
        let none = Paths { resolv_conf: None, hosts: None, hostname: None, ..fixture::paths() };
        let mounts =
            mounts(&ImageConfig::default(), &Options::default(), &fixture::host(), &none).map(|m| m.list.len());
        assert_eq!(mounts.unwrap(), DEFAULTS.len());
    }

    #[test]
    fn relabelling_is_refused_aloud_where_it_matters() {
        let options = with_mounts(&["/a:/b:z", "/c:/d"]);
        assert!(build(&ImageConfig::default(), &options).warnings.is_empty());
        let host = HostFacts { selinux: true, ..fixture::host() };
        let warnings = mounts(&ImageConfig::default(), &options, &host, &fixture::paths()).unwrap().warnings;
        assert_eq!(warnings, ["`/b` keeps its SELinux label: `z` and `Z` are not supported yet"]);
    }
}
