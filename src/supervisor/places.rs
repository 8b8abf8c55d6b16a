//! Where mounts of a run really go, in spite of links.
//!
//! The specification keeps mounts away from `/proc` and `/dev` by their names. An image with a link to one of them gets around
//! that: the runtime follows links inside the root, makes its device nodes in what was mounted over `/dev`, and writes to what stands for
//! a file of `/proc` (CVE-2025-52881 and its kin). So destinations are followed before the runtime does it. A directory that
//! several containers share may change in between; therefore what has been mounted is looked at once more, before the workload starts.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;
use oci_spec::runtime::{Mount, Spec};

use crate::container::StartFailure;
use crate::rootfs::{Cover, ImagePath, MountPlaces};
use crate::spec::container_path;
use crate::sys::graft::{MountEntry, parse_mounts};

/// Refuses mounts that links lead to where none may be. `config` is the file with the specification.
pub(super) fn check_destinations(root: &Path, config: &Path) -> Result<(), StartFailure> {
    let spec = load(config)?;
    let mut places = MountPlaces::new(root)
        .map_err(|error| StartFailure::ours(format!("cannot look into `{}`: {error}", root.display())))?;
    for mount in spec.mounts().iter().flatten() {
        let destination = mount.destination();
        let place = places.find(destination.as_os_str().as_bytes()).map_err(|error| {
            StartFailure::ours(format!("cannot follow the way to the mount at `{}`: {error}", destination.display()))
        })?;
        refuse_detour(destination, &place)?;
        places.add(place, cover(mount));
    }
    Ok(())
}

fn cover(mount: &Mount) -> Cover {
    let is_bind = mount.typ().as_deref() == Some("bind")
        || mount.options().iter().flatten().any(|option| matches!(option.as_str(), "bind" | "rbind"));
    match mount.source() {
        Some(source) if is_bind => Cover::Bind(source.clone()),
        _ => Cover::Fresh,
    }
}

/// What stands in the specification has been judged; links must not lead to what would not have been allowed there.
fn refuse_detour(destination: &Path, place: &ImagePath) -> Result<(), StartFailure> {
    let place = Path::new("/").join(place.as_os_str());
    if place == destination {
        return Ok(());
    }
    container_path(&place).map(drop).map_err(|problem| {
        let (destination, place) = (destination.display(), place.display());
        StartFailure::ours(format!(
            "links lead from `{destination}`, which is to be mounted upon, to `{place}`: {problem}\n\
             hint: mount at another place, or use an image without such a link"
        ))
    })
}

/// Fails when the created container has another mount on `/dev` or in `/proc` than the specification says. The workload does not
/// run yet.
pub(super) fn confirm_mounts(init: Pid, config: &Path) -> Result<(), StartFailure> {
    let spec = load(config)?;
    let table = std::fs::read(format!("/proc/{init}/mountinfo"))
        .map_err(|error| StartFailure::ours(format!("cannot read the mounts of the container: {error}")))?;
    match unexpected(&spec, &parse_mounts(&table)) {
        None => Ok(()),
        Some(place) => Err(StartFailure::ours(format!(
            "something was mounted at `{}`, where nothing was to be: somebody changes links while the container is made",
            place.display()
        ))),
    }
}

fn unexpected<'t>(spec: &Spec, table: &'t [MountEntry]) -> Option<&'t Path> {
    let destinations = spec.mounts().iter().flatten().map(|mount| mount.destination().clone());
    let linux = spec.linux().as_ref();
    let covered = linux.into_iter().flat_map(|linux| {
        let paths = [linux.masked_paths(), linux.readonly_paths()].into_iter().flatten().flatten();
        paths.map(PathBuf::from).collect::<Vec<_>>()
    });
    let mut expected: Vec<PathBuf> = destinations.chain(covered).collect();
    let guarded = |place: &Path| place == Path::new("/dev") || place.starts_with("/proc");
    table.iter().map(|entry| entry.place.as_path()).filter(|place| guarded(place)).find(|place| {
        // Each of them is there once.
        let known = expected.iter().position(|path| path == place);
        known.map(|index| expected.swap_remove(index)).is_none()
    })
}

fn load(config: &Path) -> Result<Spec, StartFailure> {
    Spec::load(config).map_err(|error| StartFailure::ours(format!("cannot read `{}`: {error}", config.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        serde_json::from_value(serde_json::json!({
            "ociVersion": "1.1.0",
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs" },
                { "destination": "/proc/driver/nvidia", "type": "bind", "source": "/run/x", "options": ["rbind"] },
            ],
            "linux": { "maskedPaths": ["/proc/kcore"], "readonlyPaths": ["/proc/sys"] },
        }))
        .unwrap()
    }

    fn table(places: &[&str]) -> Vec<MountEntry> {
        let line = |place: &&str| format!("1 2 0:3 / {place} rw - tmpfs tmpfs rw\n");
        parse_mounts(places.iter().map(line).collect::<String>().as_bytes())
    }

    #[test]
    fn only_what_was_asked_for_is_mounted() {
        let usual = ["/", "/proc", "/dev", "/dev/pts", "/data", "/proc/kcore", "/proc/sys", "/proc/driver/nvidia"];
        assert_eq!(unexpected(&spec(), &table(&usual)), None);
        for other in ["/proc", "/dev", "/proc/sys", "/proc/1/attr", "/proc/sys/kernel"] {
            let more = table(&[&usual[..], &[other]].concat());
            assert_eq!(unexpected(&spec(), &more), Some(Path::new(other)));
        }
    }

    #[test]
    fn links_to_what_is_the_runtimes_are_refused() {
        let (root, config) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
        std::os::unix::fs::symlink("/", root.path().join("a")).unwrap();
        std::os::unix::fs::symlink("/opt", root.path().join("fine")).unwrap();
        for (destination, is_fine) in
            [("/a/proc/self/attr", false), ("/a/dev", false), ("/a", false), ("/fine/x", true), ("/a/dev/shm", true)]
        {
            let mut spec = serde_json::to_value(spec()).unwrap();
            let mount = serde_json::json!({ "destination": destination, "type": "bind", "source": "/tmp" });
            spec["mounts"].as_array_mut().unwrap().push(mount);
            std::fs::write(config.path(), spec.to_string()).unwrap();
            let checked = check_destinations(root.path(), config.path());
            assert_eq!(checked.is_ok(), is_fine, "{destination}: {checked:?}");
        }
    }
}
