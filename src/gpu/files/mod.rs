//! Which files of the driver a container needs, and where they are on this machine.
//!
//! What there is to look for is said by the driver's own manifest when it ships one, by lists of ours, and by names: whatever is
//! called `*.so.<version of the driver>` beside libcuda belongs to the driver. Where to look is said by `ld.so.cache` and a list of
//! directories. Only libraries of the running driver's version are taken: the kernel module refuses all others.
//!
//! A library that nobody lists is taken for one of compute's. A new driver may have split it off libcuda, so leaving it out could
//! keep CUDA from working, whereas one too many does no harm.

mod libraries;
mod lists;
mod manifest;
mod others;
pub(super) mod search;
#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

pub use super::elf::Bits;
use super::{Capabilities, Capability, Driver, Platform, Roots, Version, elf};
use libraries::Libraries;
use search::Root;

/// Where a driver container keeps its root file system on the host.
const DRIVER_CONTAINER: &str = "/run/nvidia/driver";

/// Where and how to look.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    /// The driver's root, and `sysfs(5)`.
    pub roots: &'a Roots,
    /// Paths of libraries as the `ld.so.cache` in the driver's root has them, in its order.
    pub cache_paths: &'a [PathBuf],
    /// What programs here are compiled for.
    pub arch: Arch,
    /// Who asks: the multi process service of another user is not given.
    pub user: u32,
}

/// What programs are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// `x86_64`, with `i386` for 32 bits.
    X86_64,
    /// `aarch64`, with `armhf` for 32 bits.
    Aarch64,
}

impl Arch {
    /// What this program is compiled for.
    #[must_use]
    pub const fn native() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 }
    }

    /// Debian's names, of 64 and of 32 bits.
    const fn multiarch(self) -> (&'static str, &'static str) {
        match self {
            Self::X86_64 => ("x86_64-linux-gnu", "i386-linux-gnu"),
            Self::Aarch64 => ("aarch64-linux-gnu", "arm-linux-gnueabihf"),
        }
    }

    /// The machine of an ELF file (`e_machine`).
    const fn machine(self, bits: Bits) -> u16 {
        match (self, bits) {
            (Self::X86_64, Bits::B64) => 62,
            (Self::X86_64, Bits::B32) => 3,
            (Self::Aarch64, Bits::B64) => 183,
            (Self::Aarch64, Bits::B32) => 40,
        }
    }
}

/// What was found, and what was not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DriverFiles {
    /// What the capabilities want and the machine has.
    pub found: Vec<DriverFile>,
    /// What they want and the machine has not.
    pub missing: Vec<MissingFile>,
    /// What is there and not given, however much is asked for.
    pub withheld: Vec<WithheldFile>,
    /// What else is worth knowing, in words.
    pub notes: Vec<String>,
}

/// A file of the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverFile {
    /// On this machine, without links.
    pub host: PathBuf,
    /// Where it was seen, in the driver's root; a link perhaps.
    pub seen: PathBuf,
    /// What it is, and so where it goes.
    pub kind: FileKind,
    /// Which of the asked capabilities wants it.
    pub wanted_by: Capability,
    /// What it is for, in words; empty when we do not know.
    pub purpose: &'static str,
    /// How it was found.
    pub rule: Rule,
}

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileKind {
    /// A library, which the loader must find.
    Library {
        /// File name in the container.
        name: String,
        /// What programs ask for (`DT_SONAME`).
        soname: Option<String>,
        /// Word size.
        bits: Bits,
    },
    /// A program.
    Program {
        /// File name in the container.
        name: String,
    },
    /// Firmware, at a place of the container.
    Firmware(PathBuf),
    /// Configuration or data, at a place of the container.
    Configuration(PathBuf),
    /// A module of the X server, at a place of the container.
    XModule(PathBuf),
    /// A socket, at a place of the container.
    Socket(PathBuf),
    /// The directory of the multi process service, in which clients may write.
    Pipes(PathBuf),
    /// A directory of Windows' driver (WSL), at a place of the container.
    DriverStore(PathBuf),
}

/// How a file was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The driver's own manifest names it.
    Manifest,
    /// Our list of the capability names it.
    List,
    /// It has the driver's version in its name and stands beside libcuda.
    VersionSuffix,
    /// It stands in a directory that is the driver's alone.
    Directory,
}

/// A file that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingFile {
    /// Its name.
    pub name: String,
    /// Which of the asked capabilities wants it.
    pub wanted_by: Capability,
    /// Whether a run fails over it.
    pub needed: bool,
    /// What does not work without it.
    pub meaning: String,
}

/// A file that is there and never given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WithheldFile {
    /// Where it was seen, in the driver's root.
    pub seen: PathBuf,
    /// Why it is not given.
    pub why: &'static str,
}

/// Why the driver's files cannot be given.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// There is no such root.
    #[error(
        "cannot open the driver's root `{}`\nhint: `--driver-root` names the directory that NVIDIA's driver is installed in",
        path.display()
    )]
    Root {
        /// The root.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Kernel module and libraries belong to different drivers.
    #[error(
        "driver/library version mismatch: the kernel runs driver {running}, but the library `{}` belongs to {installed}\n\
         hint: the driver was updated and its kernel module was not reloaded; reboot, or unload all nvidia modules and load \
         them again",
        library.display()
    )]
    VersionMismatch {
        /// Of the kernel's module.
        running: Version,
        /// Of the libraries.
        installed: Version,
        /// One of them.
        library: PathBuf,
    },
    /// What a run cannot do without.
    #[error(
        "`{name}` of NVIDIA's driver is not on this machine, and without it {meaning}\nhint: install the driver's libraries, \
         or say where they are with `--driver-root`; `dockless gpu explain` shows what is there"
    )]
    Needed {
        /// Its name.
        name: String,
        /// What does not work without it.
        meaning: String,
    },
}

impl DriverFiles {
    /// Fails when a file is missing that the run needs.
    pub fn check(&self) -> Result<(), FilesError> {
        match self.missing.iter().find(|file| file.needed) {
            Some(MissingFile { name, meaning, .. }) => {
                Err(FilesError::Needed { name: name.clone(), meaning: meaning.clone() })
            }
            None => Ok(()),
        }
    }
}

/// Looks for the files of `driver` that `capabilities` want.
pub fn find(places: &Places<'_>, driver: &Driver, capabilities: &Capabilities) -> Result<DriverFiles, FilesError> {
    let root_error = |source| FilesError::Root { path: places.roots.driver.clone(), source };
    let root = Root::open(&places.roots.driver).map_err(root_error)?;
    let wanted = Wanted(capabilities);
    if driver.platform == Platform::Wsl {
        return Ok(others::windows(&root, places, wanted));
    }
    let (root, libraries) = Libraries::best(root, places, &driver.version);
    libraries.check(wanted)?;
    let mut files = DriverFiles::default();
    let manifest = libraries.manifest(&root, &mut files.notes);
    libraries.take(&root, wanted, &manifest, &mut files);
    others::programs(&root, wanted, &manifest, &mut files);
    others::firmware(&root, &places.roots.sys, wanted, &driver.version, &mut files);
    others::configuration(&root, wanted, &mut files);
    others::x_modules(&root, wanted, &libraries, &mut files);
    others::sockets(&root, places.user, wanted, &mut files);
    Ok(files)
}

/// What was asked for, with what that brings along.
#[derive(Debug, Clone, Copy)]
struct Wanted<'a>(&'a Capabilities);

impl Wanted<'_> {
    /// The first of `capabilities` that was asked for.
    fn first<'b>(self, capabilities: impl IntoIterator<Item = &'b Capability>) -> Option<Capability> {
        capabilities.into_iter().copied().find(|capability| self.has(*capability))
    }

    /// Display is graphics with a screen.
    fn has(self, capability: Capability) -> bool {
        self.0.has(capability) || (capability == Capability::Graphics && self.0.has(Capability::Display))
    }
}

/// `libcuda.so.570.86.10` as `libcuda` and `570.86.10`; a name without version has an empty one.
fn split_library(name: &str) -> Option<(&str, &str)> {
    let (stem, rest) = name.split_once(".so")?;
    let version = if rest.is_empty() { "" } else { rest.strip_prefix('.')? };
    let good = version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    (good && !stem.is_empty()).then_some((stem, version))
}

/// Whether it is a driver's version and not that of an interface (`1`, `1.1`): drivers had three digits ever since
/// containers know them.
fn is_driver_version(version: &str) -> bool {
    version.split_once('.').is_some_and(|(major, _)| major.len() >= 3)
}

/// The last component as text.
fn file_name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}
