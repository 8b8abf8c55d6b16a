//! A look at the whole machine: what GPUs there are, and which files of the driver tell more about them.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::devices::load_modules;
use super::discover::{DiscoverError, discover, pci_gpus};
use super::facts::Facts;
use super::files::{self, Arch, DriverFile, DriverFiles, FileKind, FilesError, Places};
use super::ldcache::{self, MAX_CACHE_BYTES};
use super::{Capabilities, Capability, Driver, Inventory, Roots, nvml, small_file, smi};
use crate::sys::own_program;
use crate::words::describe;

const CACHE: &str = "etc/ld.so.cache";

/// What was seen.
#[derive(Debug, Default)]
pub struct Machine {
    /// The driver and its GPUs.
    pub inventory: Inventory,
    /// The driver's NVML, a file without links.
    pub nvml: Option<PathBuf>,
    /// Why no file of the driver can be given to anybody.
    mismatch: Option<FilesError>,
}

impl Machine {
    /// Looks, and asks the driver what the kernel does not tell, which may wake GPUs.
    pub fn look(roots: &Roots) -> Result<Self, DiscoverError> {
        let unloaded = load_modules(roots, !pci_gpus(&roots.sys).is_empty());
        let (mut nvml, mut mismatch) = (None, None);
        let mut inventory = discover(&roots.proc, &roots.dev, &roots.sys, |driver| {
            let tools = Tools::of(roots, driver).unwrap_or_else(|error| {
                let problem = Some(describe(&error));
                mismatch = Some(error);
                Tools { problem, ..Tools::default() }
            });
            let mut facts = ask(tools.nvml.as_deref(), tools.smi.as_deref());
            facts.notes.extend(tools.problem);
            nvml = tools.nvml;
            facts
        })?;
        inventory.notes.extend(unloaded);
        Ok(Self { inventory, nvml, mismatch })
    }

    /// The same for who is about to give GPUs away: it need not wait for an image to learn that the driver's libraries do not
    /// belong to its kernel module.
    pub fn fitting(self) -> Result<Self, FilesError> {
        match self.mismatch {
            Some(error) => Err(error),
            None => Ok(self),
        }
    }
}

/// Asks the driver's library at `library`, else the program at `smi`; both are files of this machine, resolved already.
#[must_use]
pub fn ask(library: Option<&Path>, smi: Option<&Path>) -> Facts {
    match own_program() {
        Ok(binary) => ask_from(binary, nvml::PATIENCE, library, smi),
        Err(error) => {
            let facts = smi.and_then(|smi| smi::ask(smi).ok()).unwrap_or_default();
            Facts { notes: vec![format!("NVML is not asked: {error}")], ..facts }
        }
    }
}

/// The same, with NVML asked by another binary than this process is, and for as long as `patience`; for programs that embed the
/// library and tests.
#[must_use]
pub fn ask_from(binary: &Path, patience: Duration, library: Option<&Path>, smi: Option<&Path>) -> Facts {
    let mut notes = Vec::new();
    match library.map(|library| nvml::probe(binary, patience, library)) {
        Some(Ok(facts)) => return facts,
        Some(Err(error)) => notes.push(format!("NVML does not answer: {}", describe(&error))),
        None => notes.push("the driver has no libnvidia-ml".to_owned()),
    }
    match smi.map(smi::ask) {
        Some(Ok(facts)) => return Facts { notes, ..facts },
        Some(Err(error)) => notes.push(format!("nvidia-smi does not answer: {}", describe(&error))),
        None => {
            notes.push("the driver has no nvidia-smi; memory, MIG devices and utilisation are not known".to_owned());
        }
    }
    Facts { notes, ..Facts::default() }
}

/// The driver's files that tell about GPUs.
#[derive(Default)]
struct Tools {
    nvml: Option<PathBuf>,
    smi: Option<PathBuf>,
    /// Why one that is there is not used.
    problem: Option<String>,
}

impl Tools {
    fn of(roots: &Roots, driver: &Driver) -> Result<Self, FilesError> {
        let found = driver_files(roots, driver, &Capabilities::of(&[Capability::Utility]))?.found;
        let library = found.iter().find(|file| match &file.kind {
            FileKind::Library { name, bits, .. } => name.starts_with("libnvidia-ml.so") && *bits == files::Bits::B64,
            _ => false,
        });
        let smi = found.iter().find(|file| matches!(&file.kind, FileKind::Program { name } if name == "nvidia-smi"));
        let path = |file: Option<&DriverFile>| file.map(|file| file.host.clone());
        Ok(match path(library) {
            // It is loaded into a process of ours.
            Some(library) if !is_roots(&library) => {
                let problem = Some(format!("`{}` is not loaded: it does not belong to root alone", library.display()));
                Self { nvml: None, smi: path(smi), problem }
            }
            nvml => Self { nvml, smi: path(smi), problem: None },
        })
    }
}

/// Whether nobody but root, or who runs us, can have written a file.
fn is_roots(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| {
        let own = [0, rustix::process::geteuid().as_raw()].contains(&found.uid());
        own && found.permissions().mode() & 0o022 == 0
    })
}

/// The driver's files for these capabilities.
pub fn driver_files(roots: &Roots, driver: &Driver, capabilities: &Capabilities) -> Result<DriverFiles, FilesError> {
    // One that is too long, or no file at all, is none.
    let bytes = small_file::read_bytes(&roots.driver.join(CACHE), MAX_CACHE_BYTES as u64 + 1).ok().flatten();
    let cache = bytes.and_then(|bytes| ldcache::parse(&bytes).ok());
    let cache_paths: Vec<PathBuf> = cache.unwrap_or_default().iter().map(|entry| PathBuf::from(entry.path())).collect();
    let user = nix::unistd::geteuid().as_raw();
    files::find(&Places { roots, cache_paths: &cache_paths, arch: Arch::native(), user }, driver, capabilities)
}
