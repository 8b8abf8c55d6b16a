//! Where the driver is looked for. Everything that `gpu` reads of the machine lies below one of these four directories.

use std::path::{Path, PathBuf};

/// Directories as they are on this machine; `/`, `/dev`, `/proc` and `/sys` unless the driver is elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// Root of the file system that the driver's libraries and programs are in: `/`, `/run/nvidia/driver`.
    pub driver: PathBuf,
    /// Device nodes.
    pub dev: PathBuf,
    /// `proc(5)`.
    pub proc: PathBuf,
    /// `sysfs(5)`.
    pub sys: PathBuf,
}

impl Roots {
    /// This machine's own.
    #[must_use]
    pub fn host() -> Self {
        Self::at(Path::new("/"))
    }

    /// A driver in a root file system of its own, as driver containers have it: its `dev`, `proc` and `sys` count where they
    /// hold something of NVIDIA's, the machine's own otherwise.
    #[must_use]
    pub fn below(driver_root: &Path) -> Self {
        let (host, own) = (Self::host(), Self::at(driver_root));
        let choose = |own: PathBuf, host: PathBuf, marks: &[&str]| {
            if marks.iter().any(|mark| own.join(mark).exists()) { own } else { host }
        };
        Self {
            dev: choose(own.dev, host.dev, &["nvidiactl", "dxg"]),
            proc: choose(own.proc, host.proc, &["driver/nvidia/version"]),
            sys: choose(own.sys, host.sys, &["bus/pci/devices"]),
            driver: own.driver,
        }
    }

    fn at(root: &Path) -> Self {
        Self { driver: root.to_owned(), dev: root.join("dev"), proc: root.join("proc"), sys: root.join("sys") }
    }
}
