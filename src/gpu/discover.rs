//! What GPUs there are: from `/proc/driver/nvidia` and sysfs, with memory, MIG and utilisation from whoever tells.
//!
//! The driver's formats: `/proc/driver/nvidia/version`, whose first line names the version after `Kernel Module`, and
//! `gpus/<PCI address>/information` with a `Key: value` in each line. Under WSL neither is there: `/dev/dxg` says that
//! Windows' driver is, and only NVML and nvidia-smi know its GPUs.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::facts::{Facts, GpuFacts};
use super::inventory::{Driver, Gpu, GpuUuid, Inventory, PciAddress, Platform, Source, Version};
use super::mig_minors;
use super::small_file::{self, MAX_BYTES};

const UNKNOWN_MODEL: &str = "GPU of unknown model";
/// GPUs that are looked at; the largest machines have 16.
const MAX_GPUS: usize = 256;
/// NVIDIA's number among vendors of PCI devices.
const VENDOR: &str = "0x10de";
/// Class of display controllers, of whatever kind.
const DISPLAY_CLASS: &str = "0x03";

/// Why it cannot be told what there is.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    /// A directory of the kernel cannot be read.
    #[error("cannot read `{path}`")]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The driver's own file has another form than all drivers so far.
    #[error("cannot make out the driver's version in `{path}`, found `{}`", .text.escape_debug())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its first line.
        text: String,
    },
}

/// Looks at what lies below `proc`, `dev` and `sys`; `ask` is called once a driver is there, to tell what those do not.
pub fn discover(
    proc: &Path,
    dev: &Path,
    sys: &Path,
    ask: impl FnOnce(&Driver) -> Facts,
) -> Result<Inventory, DiscoverError> {
    let Some(mut driver) = driver(proc, dev)? else {
        return Ok(Inventory { notes: without_driver(sys), ..Inventory::default() });
    };
    let mut gpus = listed(proc)?;
    let Facts { source, version, cuda, gpus: facts, mut notes } = ask(&driver);
    driver.cuda = cuda;
    if driver.platform == Platform::Wsl {
        driver.version = version.unwrap_or(driver.version);
        gpus = facts.iter().map(|(uuid, facts)| from_facts(uuid, facts)).collect();
    }
    gpus.sort_by_key(|gpu| gpu.pci);
    for (index, gpu) in (0..).zip(&mut gpus) {
        gpu.index = index;
        if let Some(facts) = facts.get(&gpu.uuid) {
            complete(gpu, facts);
        } else if source != Source::Proc {
            notes.push(format!("GPU {index} ({}) is known to the kernel's driver only", gpu.uuid));
            // Nor can a program of CUDA reach what NVML cannot: the GPU has fallen off the bus, say.
            gpu.unusable =
                gpu.unusable.take().or_else(|| (source == Source::Nvml).then(|| "NVML cannot reach it".to_owned()));
        }
        mig_minors::complete(proc, gpu);
        gpu.unusable = gpu.unusable.take().or_else(|| not_openable(dev, gpu));
    }
    Ok(Inventory { driver: Some(driver), gpus, source, notes })
}

fn driver(proc: &Path, dev: &Path) -> Result<Option<Driver>, DiscoverError> {
    let path = proc.join("driver/nvidia/version");
    let Some(text) = read(&path)? else {
        let wsl = Driver { version: Version::new(""), platform: Platform::Wsl, cuda: None };
        return Ok(dev.join("dxg").exists().then_some(wsl));
    };
    let first = text.lines().next().unwrap_or_default();
    // `NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.10  …` and `… UNIX Open Kernel Module for x86_64  570.86.10  …`.
    let after = first.split_once("Kernel Module").map_or("", |(_, after)| after);
    let is_version = |word: &&str| word.contains('.') && word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let Some(version) = after.split_whitespace().find(is_version) else {
        return Err(DiscoverError::Version { path, text: first.to_owned() });
    };
    Ok(Some(Driver { version: Version::new(version), platform: Platform::Linux, cuda: None }))
}

/// Why there is no driver, in words, if there should be one.
fn without_driver(sys: &Path) -> Vec<String> {
    let addresses = pci_gpus(sys);
    if addresses.is_empty() {
        return Vec::new();
    }
    let list = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    vec![format!(
        "NVIDIA devices are there ({list}), but their driver is not loaded\nhint: `modprobe nvidia`; `dmesg | grep -i nvidia` \
         tells why it does not load"
    )]
}

/// NVIDIA's display controllers on the bus, with or without a driver.
#[must_use]
pub fn pci_gpus(sys: &Path) -> Vec<PciAddress> {
    let Ok(entries) = fs::read_dir(sys.join("bus/pci/devices")) else { return Vec::new() };
    let mut found: Vec<PciAddress> = entries
        .flatten()
        .filter(|entry| {
            let starts = |name, with| {
                read(&entry.path().join(name)).ok().flatten().is_some_and(|text: String| text.starts_with(with))
            };
            starts("vendor", VENDOR) && starts("class", DISPLAY_CLASS)
        })
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    found.sort();
    found
}

/// The GPUs that the kernel's driver lists. One that it says nothing useful of is left out.
fn listed(proc: &Path) -> Result<Vec<Gpu>, DiscoverError> {
    let dir = proc.join("driver/nvidia/gpus");
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(DiscoverError::Read { path: dir, source }),
    };
    let mut gpus = Vec::new();
    for entry in entries.flatten().take(MAX_GPUS) {
        let Some(Ok(pci)) = entry.file_name().to_str().map(str::parse::<PciAddress>) else { continue };
        // A device that goes away this moment is none.
        let Ok(Some(text)) = read(&entry.path().join("information")) else { continue };
        gpus.extend(from_information(&text, pci));
    }
    Ok(gpus)
}

fn from_information(text: &str, pci: PciAddress) -> Option<Gpu> {
    let keys: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.split_once(':')).map(|(key, value)| (key.trim(), value.trim())).collect();
    // Before a GPU is initialised its UUID is a row of question marks.
    let uuid: GpuUuid = keys.get("GPU UUID")?.parse().ok()?;
    let unusable =
        (keys.get("GPU Excluded") == Some(&"Yes")).then(|| "the driver is told to leave it alone".to_owned());
    let model = keys.get("Model").unwrap_or(&UNKNOWN_MODEL);
    let minor = keys.get("Device Minor").and_then(|minor| minor.parse().ok());
    Some(Gpu { minor, unusable, ..Gpu::new(uuid, model, pci) })
}

fn from_facts(uuid: &GpuUuid, facts: &GpuFacts) -> Gpu {
    let mut gpu = Gpu::new(uuid.clone(), facts.model.as_deref().unwrap_or(UNKNOWN_MODEL), facts.pci);
    complete(&mut gpu, facts);
    gpu
}

fn complete(gpu: &mut Gpu, facts: &GpuFacts) {
    gpu.memory = facts.memory;
    gpu.utilisation = facts.utilisation;
    gpu.brand.clone_from(&facts.brand);
    gpu.compute_capability = facts.compute_capability;
    gpu.mig_enabled = facts.mig_enabled;
    gpu.mig.clone_from(&facts.mig);
}

/// A node that is there and that the cgroup around us, say a batch system's, does not let us open.
fn not_openable(dev: &Path, gpu: &Gpu) -> Option<String> {
    let path = dev.join(format!("nvidia{}", gpu.minor?));
    let denied = File::options().read(true).write(true).open(&path).err()?;
    // Without a device behind it (ENXIO) it is not permission that is missing.
    (denied.kind() == io::ErrorKind::PermissionDenied).then(|| format!("`{}` may not be opened", path.display()))
}

fn read(path: &Path) -> Result<Option<String>, DiscoverError> {
    small_file::read(path, MAX_BYTES).map_err(|source| DiscoverError::Read { path: path.to_owned(), source })
}
