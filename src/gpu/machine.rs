//! A look at the whole machine: what GPUs there are, and which files of the driver tell more about them.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::devices::load_modules;
use super::discover::{DiscoverError, discover, pci_gpus};
use super::facts::ask;
use super::files::{self, Arch, DriverFiles, FileKind, FilesError, Places};
use super::ldcache::{self, MAX_CACHE_BYTES};
use super::{Capabilities, Capability, Driver, Inventory, Roots};
use crate::words::describe;

const CACHE: &str = "etc/ld.so.cache";

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Machine {
    /// The driver and its GPUs.
    pub inventory: Inventory,
    /// The driver's NVML, a file without links.
    pub nvml: Option<PathBuf>,
}

impl Machine {
    /// Looks, and asks the driver what the kernel does not tell, which may wake GPUs.
    pub fn look(roots: &Roots) -> Result<Self, DiscoverError> {
        let unloaded = load_modules(roots, !pci_gpus(&roots.sys).is_empty());
        let mut nvml = None;
        let mut inventory = discover(&roots.proc, &roots.dev, &roots.sys, |driver| {
            let (library, smi, problem) = tools(roots, driver);
            let mut facts = ask(library.as_deref(), smi.as_deref());
            facts.notes.extend(problem);
            nvml = library;
            facts
        })?;
        inventory.notes.extend(unloaded);
        Ok(Self { inventory, nvml })
    }
}

/// The driver's library and program that tell about GPUs.
fn tools(roots: &Roots, driver: &Driver) -> (Option<PathBuf>, Option<PathBuf>, Option<String>) {
    let found = match driver_files(roots, driver, &Capabilities::of(&[Capability::Utility])) {
        Ok(files) => files.found,
        Err(error) => return (None, None, Some(describe(&error))),
    };
    let library = found.iter().find(|file| match &file.kind {
        FileKind::Library { name, bits, .. } => name.starts_with("libnvidia-ml.so") && *bits == files::Bits::B64,
        _ => false,
    });
    let smi = found.iter().find(|file| matches!(&file.kind, FileKind::Program { name } if name == "nvidia-smi"));
    (library.map(|file| file.host.clone()), smi.map(|file| file.host.clone()), None)
}

/// The driver's files for these capabilities.
pub fn driver_files(roots: &Roots, driver: &Driver, capabilities: &Capabilities) -> Result<DriverFiles, FilesError> {
    let cache = read_cache(&roots.driver.join(CACHE)).and_then(|bytes| ldcache::parse(&bytes).ok());
    let cache_paths: Vec<PathBuf> = cache.unwrap_or_default().iter().map(|entry| PathBuf::from(entry.path())).collect();
    let user = nix::unistd::geteuid().as_raw();
    files::find(&Places { roots, cache_paths: &cache_paths, arch: Arch::native(), user }, driver, capabilities)
}

/// A cache that is too long, or no file at all, is none.
fn read_cache(path: &Path) -> Option<Vec<u8>> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path).ok()?;
    let mut bytes = Vec::new();
    file.take(MAX_CACHE_BYTES as u64 + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() <= MAX_CACHE_BYTES).then_some(bytes)
}
