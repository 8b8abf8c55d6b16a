//! `/proc/driver/nvidia` as a container sees it: a copy with nothing but its own GPUs.
//!
//! The kernel's own directory lists every GPU of the machine, and `params` there lets the driver's libraries make device nodes
//! (`ModifyDeviceFiles: 1`), which a container must not. So the files are read here, put down as plain files in a directory of the
//! run, and that directory is mounted read-only over `/proc/driver/nvidia`. libcontainer 0.7 allows such a mount: it checks the
//! places below `/proc` for mounts of the type `proc` only, and opens them inside the container's root.
//!
//! A place in `/proc` cannot be made. Where the kernel has no `/proc/driver/nvidia` (the driver's files are those of a tree that
//! somebody made), the mount goes over `/proc/driver`, which every kernel has (`fs/proc/root.c`).

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use super::chosen::ChosenGpu;
use super::files::search::Root;

/// Largest file; that with a MIG device's minor has 60 bytes, `registry` perhaps 1 kB.
const MAX_BYTES: u64 = 64 << 10;
const GENERAL: [&str; 3] = ["version", "params", "registry"];
const OF_A_GPU: [&str; 3] = ["information", "registry", "power"];

/// The files of the view.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProcView {
    /// Content by path below the directory.
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    /// Whether the kernel has no `/proc/driver/nvidia` to mount upon.
    pub over_driver: bool,
}

/// Why the view cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ProcViewError {
    /// A file of the driver cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A file of the view cannot be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl ProcView {
    /// Reads what the driver says in `proc` about itself and about `gpus`. `kernel_proc` is the `proc(5)` that containers get a
    /// mount of. A link in the driver's directory leads nowhere else.
    pub fn read(proc: &Path, kernel_proc: &Path, gpus: &[ChosenGpu]) -> Result<Self, ProcViewError> {
        let mut view = Self { over_driver: !kernel_proc.join("driver/nvidia").is_dir(), ..Self::default() };
        let path = proc.join("driver/nvidia");
        let source = match Root::open(&path) {
            Ok(source) => source,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(view),
            Err(source) => return Err(ProcViewError::Read { path, source }),
        };
        for name in GENERAL {
            view.copy(&source, Path::new(name))?;
        }
        for ChosenGpu { gpu, mig } in gpus {
            for name in OF_A_GPU {
                view.copy(&source, &Path::new("gpus").join(gpu.pci.to_string()).join(name))?;
            }
            // Minor numbers count the GPUs there.
            let Some(minor) = gpu.minor else { continue };
            let instances = PathBuf::from(format!("capabilities/gpu{minor}/mig"));
            for device in mig {
                let gpu_instance = instances.join(format!("gi{}", device.minors.gpu_instance));
                view.copy(&source, &gpu_instance.join("access"))?;
                let compute_instance = gpu_instance.join(format!("ci{}", device.minors.compute_instance));
                view.copy(&source, &compute_instance.join("access"))?;
            }
        }
        Ok(view)
    }

    /// Takes a file over; one that is not there or that only root may read (`registry`) is left out.
    fn copy(&mut self, source: &Root, name: &Path) -> Result<(), ProcViewError> {
        match source.read(name, MAX_BYTES) {
            Ok(Some(content)) if name == Path::new("params") => {
                self.files.insert(name.to_owned(), without_device_files(&content));
            }
            Ok(Some(content)) => drop(self.files.insert(name.to_owned(), content)),
            Ok(None) => {}
            Err(source) => return Err(ProcViewError::Read { path: name.to_owned(), source }),
        }
        Ok(())
    }

    /// Where it is mounted in the container, and what of `directory`, into which it was written.
    #[must_use]
    pub fn mount(&self, directory: &Path) -> (PathBuf, PathBuf) {
        if self.over_driver {
            ("/proc/driver".into(), directory.to_owned())
        } else {
            ("/proc/driver/nvidia".into(), directory.join("nvidia"))
        }
    }

    /// Writes the files into `directory`, which must not be there yet, below `nvidia/`.
    pub fn write(&self, directory: &Path) -> Result<(), ProcViewError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| ProcViewError::Write { path, source }
        };
        // Whoever the workload runs as may read them, whatever this process' umask is.
        let open_to_all =
            |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed(path));
        let make_directory = |path: &Path| {
            fs::create_dir(path).map_err(failed(path))?;
            open_to_all(path, 0o755)
        };
        let top = directory.join("nvidia");
        make_directory(directory)?;
        make_directory(&top)?;
        let plain = |name: &Path| name.components().all(|part| matches!(part, Component::Normal(_)));
        for (name, content) in self.files.iter().filter(|(name, _)| plain(name)) {
            let parents: Vec<&Path> = name.ancestors().skip(1).filter(|parent| *parent != Path::new("")).collect();
            for parent in parents.iter().rev().map(|parent| top.join(parent)).filter(|parent| !parent.is_dir()) {
                make_directory(&parent)?;
            }
            let path = top.join(name);
            fs::write(&path, content).map_err(failed(&path))?;
            open_to_all(&path, 0o444)?;
        }
        Ok(())
    }
}

/// The parameters with the one that lets the driver's libraries make device nodes turned off.
fn without_device_files(params: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(params);
    let lines =
        text.lines().map(|line| if line.starts_with("ModifyDeviceFiles:") { "ModifyDeviceFiles: 0" } else { line });
    let mut text: String = lines.flat_map(|line| [line, "\n"]).collect();
    if !text.contains("ModifyDeviceFiles: 0\n") {
        text.push_str("ModifyDeviceFiles: 0\n");
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::super::edits::testing::{chosen, mig};
    use super::*;

    fn tree() -> tempfile::TempDir {
        let proc = tempfile::tempdir().unwrap();
        let nvidia = proc.path().join("driver/nvidia");
        for (name, content) in [
            ("version", "NVRM version: 570.86.10\n"),
            ("params", "ResmanDebugLevel: 4294967295\nModifyDeviceFiles: 1\nDeviceFileMode: 438\n"),
            ("gpus/0000:41:00.0/information", "Model: A\n"),
            ("gpus/0000:c1:00.0/information", "Model: B\n"),
            ("capabilities/mig/config", "DeviceFileMinor: 1\n"),
            ("capabilities/gpu0/mig/gi1/access", "DeviceFileMinor: 12\n"),
            ("capabilities/gpu0/mig/gi1/ci0/access", "DeviceFileMinor: 13\n"),
            ("capabilities/gpu0/mig/gi2/access", "DeviceFileMinor: 21\n"),
        ] {
            let path = nvidia.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        proc
    }

    fn names(view: &ProcView) -> Vec<&str> {
        view.files.keys().map(|path| path.to_str().unwrap()).collect()
    }

    #[test]
    fn only_the_chosen_are_seen() {
        let proc = tree();
        let view = ProcView::read(proc.path(), proc.path(), &[chosen(0, "0000:41:00.0")]).unwrap();
        assert_eq!(names(&view), ["gpus/0000:41:00.0/information", "params", "version"]);
        let with_mig = ChosenGpu { mig: vec![mig(1, 0)], ..chosen(0, "0000:41:00.0") };
        let view = ProcView::read(proc.path(), Path::new("/nowhere"), &[with_mig]).unwrap();
        assert_eq!(
            names(&view),
            [
                "capabilities/gpu0/mig/gi1/access",
                "capabilities/gpu0/mig/gi1/ci0/access",
                "gpus/0000:41:00.0/information",
                "params",
                "version"
            ]
        );
        assert_eq!(view.mount(Path::new("/run/x")), ("/proc/driver".into(), "/run/x".into()));
    }

    #[test]
    fn device_files_are_never_made() {
        let proc = tree();
        let view = ProcView::read(proc.path(), proc.path(), &[]).unwrap();
        let params = String::from_utf8(view.files[Path::new("params")].clone()).unwrap();
        assert_eq!(params, "ResmanDebugLevel: 4294967295\nModifyDeviceFiles: 0\nDeviceFileMode: 438\n");
        assert_eq!(without_device_files(b"Other: 1"), b"Other: 1\nModifyDeviceFiles: 0\n");
    }

    #[test]
    fn it_is_written_as_plain_files() {
        let proc = tree();
        let view = ProcView::read(proc.path(), proc.path(), &[chosen(0, "0000:c1:00.0")]).unwrap();
        let run = tempfile::tempdir().unwrap();
        let directory = run.path().join("proc");
        view.write(&directory).unwrap();
        let (place, source) = view.mount(&directory);
        assert_eq!(place, Path::new("/proc/driver/nvidia"));
        assert_eq!(fs::read_to_string(source.join("gpus/0000:c1:00.0/information")).unwrap(), "Model: B\n");
        assert!(!source.join("gpus/0000:41:00.0").exists());
        for (name, mode) in [("", 0o755), ("gpus", 0o755), ("gpus/0000:c1:00.0/information", 0o444)] {
            assert_eq!(fs::metadata(source.join(name)).unwrap().permissions().mode() & 0o777, mode, "{name}");
        }
        assert!(view.write(&directory).unwrap_err().to_string().starts_with("cannot write `"));
    }

    #[test]
    fn a_link_shows_nothing_of_the_machine() {
        let proc = tree();
        let secret = proc.path().join("secret");
        fs::write(&secret, "secret").unwrap();
        let version = proc.path().join("driver/nvidia/version");
        fs::remove_file(&version).unwrap();
        std::os::unix::fs::symlink(&secret, &version).unwrap();
        let view = ProcView::read(proc.path(), proc.path(), &[]).unwrap();
        assert_eq!(names(&view), ["params"]);
    }

    #[test]
    fn a_machine_without_it_has_an_empty_view() {
        let nothing = tempfile::tempdir().unwrap();
        let view = ProcView::read(nothing.path(), nothing.path(), &[chosen(0, "0000:41:00.0")]).unwrap();
        assert_eq!(view, ProcView { over_driver: true, ..ProcView::default() });
    }
}
