//! The driver's own library, NVML, loaded in a process of its own.
//!
//! NVML hangs or crashes when a GPU has fallen off the bus, and it maps and opens things that a supervisor must not have. So our
//! binary is executed again under the name [`NVML_ARGV0`] with an empty environment: `probe LIBRARY` prints what there is as one
//! JSON document, `watch LIBRARY UUID…` a line of JSON for each event until nobody reads them any more.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use nvml_wrapper::enum_wrappers::device::Brand;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use super::facts::{Facts, GpuFacts};
use super::inventory::{GpuUuid, MigDevice, MigMinors, Source, Utilisation, Version};
use super::process::{OutputError, output};
use super::watch::watch;
use crate::image::ByteSize;
use crate::sys::RawNvml;

/// The name under which our own binary is executed to speak with NVML.
pub const NVML_ARGV0: &str = "dockless-nvml";

/// A GPU that has to be woken first takes seconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
const MAX_OUTPUT_BYTES: usize = 4 << 20;
/// MIG devices of one GPU; there are 7, or 14 with media extensions.
const MAX_MIG_DEVICES: u32 = 64;

/// Why NVML does not answer.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The process that asks it failed.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// It cannot be understood.
    #[error("its answer cannot be understood")]
    Answer(#[source] serde_json::Error),
}

/// Asks the library at `library` what there is.
pub(super) fn probe(binary: &Path, patience: Duration, library: &Path) -> Result<Facts, ProbeError> {
    let mut command = nvml_command(binary, &["probe".as_ref(), library.as_os_str()]);
    let bytes = output(&mut command, "the process that asks NVML", patience, MAX_OUTPUT_BYTES)?;
    serde_json::from_slice(&bytes).map_err(ProbeError::Answer)
}

/// Our `binary`, to be executed as the process that speaks with NVML.
pub(super) fn nvml_command(binary: &Path, arguments: &[&OsStr]) -> Command {
    #[expect(clippy::disallowed_methods, reason = "our own binary, as supervisors are started")]
    let mut command = Command::new(binary);
    command.arg0(NVML_ARGV0).args(arguments).env_clear().current_dir("/").stdin(Stdio::null());
    command
}

/// Becomes the process that speaks with NVML if it was started as one; for `main`, before any thread starts.
#[must_use]
pub fn nvml_entry(argv0: Option<&OsStr>, arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    if argv0 != Some(OsStr::new(NVML_ARGV0)) {
        return None;
    }
    let words: Vec<OsString> = arguments.collect();
    let result = match words.as_slice() {
        [what, library] if what == "probe" => answer_probe(Path::new(library)),
        [what, library, uuids @ ..] if what == "watch" => watch(Path::new(library), uuids),
        _ => Err("expected `probe LIBRARY` or `watch LIBRARY UUID…`".to_owned()),
    };
    Some(match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(words) => {
            drop(io::stdout().write_all(words.as_bytes()));
            ExitCode::FAILURE
        }
    })
}

fn answer_probe(library: &Path) -> Result<(), String> {
    let facts = facts(library).map_err(in_words)?;
    let json = serde_json::to_vec(&facts).map_err(|error| error.to_string())?;
    io::stdout().write_all(&json).map_err(|error| error.to_string())
}

/// The crate's words, with what most often is behind them.
pub(super) fn in_words(error: NvmlError) -> String {
    match error {
        NvmlError::LibRmVersionMismatch => "its library is of another version than the driver in the kernel".to_owned(),
        NvmlError::DriverNotLoaded => "the driver is not loaded, or its devices cannot be opened".to_owned(),
        error => error.to_string(),
    }
}

pub(super) fn open(library: &Path) -> Result<Nvml, NvmlError> {
    Nvml::builder().lib_path(library.as_os_str()).init()
}

fn facts(library: &Path) -> Result<Facts, NvmlError> {
    let nvml = open(library)?;
    let raw = RawNvml::open(library);
    let mut facts = Facts {
        source: Source::Nvml,
        version: nvml.sys_driver_version().ok().map(|version| Version::new(&version)),
        cuda: nvml.sys_cuda_driver_version().ok().and_then(cuda_version),
        ..Facts::default()
    };
    for index in 0..nvml.device_count()? {
        match device_facts(&nvml, raw.as_ref(), index) {
            Ok((uuid, found)) => drop(facts.gpus.insert(uuid, found)),
            Err(NvmlError::GpuLost) => facts.notes.push(format!("NVML's GPU {index} has fallen off the bus")),
            Err(error) => facts.notes.push(format!("NVML's GPU {index} cannot be asked: {}", in_words(error))),
        }
    }
    Ok(facts)
}

/// `12080` is 12.8.
fn cuda_version(number: i32) -> Option<(u32, u32)> {
    let number = u32::try_from(number).ok()?;
    Some((number / 1000, number % 1000 / 10))
}

fn device_facts(nvml: &Nvml, raw: Option<&RawNvml>, index: u32) -> Result<(GpuUuid, GpuFacts), NvmlError> {
    let device = nvml.device_by_index(index)?;
    let uuid = device.uuid()?.parse().map_err(|_| NvmlError::Unknown)?;
    let pci = device.pci_info()?.bus_id.parse().map_err(|_| NvmlError::Unknown)?;
    let (memory, used) = memory(&device, raw).unzip();
    let mig_enabled = device.mig_mode().is_ok_and(|mode| mode.current == 1);
    let compute = device.cuda_compute_capability().ok();
    let found = GpuFacts {
        model: device.name().ok(),
        pci,
        memory: memory.map(ByteSize),
        utilisation: Utilisation { memory_used: used.map(ByteSize), compute_percent: compute_percent(&device) },
        brand: device.brand().ok().and_then(brand).map(str::to_owned),
        compute_capability: compute.and_then(|c| Some((u32::try_from(c.major).ok()?, u32::try_from(c.minor).ok()?))),
        mig_enabled,
        mig: if mig_enabled { mig_devices(&device, raw) } else { Vec::new() },
    };
    Ok((uuid, found))
}

pub(super) fn memory(device: &Device<'_>, raw: Option<&RawNvml>) -> Option<(u64, u64)> {
    let newer = device.memory_info().ok().map(|memory| (memory.total, memory.used));
    newer.or_else(|| raw?.memory(device))
}

pub(super) fn compute_percent(device: &Device<'_>) -> Option<u32> {
    device.utilization_rates().ok().map(|rates| rates.gpu)
}

/// As `NVIDIA_REQUIRE_BRAND` writes them.
const fn brand(brand: Brand) -> Option<&'static str> {
    Some(match brand {
        Brand::Quadro => "quadro",
        Brand::Tesla => "tesla",
        Brand::NVS => "nvs",
        Brand::GRID => "grid",
        Brand::GeForce => "geforce",
        Brand::Titan => "titan",
        Brand::VApps => "nvidiavapps",
        Brand::VPC => "nvidiavpc",
        Brand::VCS => "nvidiavcs",
        Brand::VWS => "nvidiavws",
        Brand::CloudGaming | Brand::VGaming => "nvidiacloudgaming",
        Brand::QuadroRTX => "quadrortx",
        Brand::NvidiaRTX => "nvidiartx",
        Brand::Nvidia => "nvidia",
        Brand::GeForceRTX => "geforcertx",
        Brand::TitanRTX => "titanrtx",
        Brand::Unknown => return None,
    })
}

fn mig_devices(device: &Device<'_>, raw: Option<&RawNvml>) -> Vec<MigDevice> {
    let count = device.mig_device_count().unwrap_or(MAX_MIG_DEVICES).min(MAX_MIG_DEVICES);
    // Places may be empty between others.
    let parts = (0..count).filter_map(|place| device.mig_device_by_index(place).ok());
    (0..).zip(parts).filter_map(|(index, part)| mig_device(index, &part, raw)).collect()
}

fn mig_device(index: u32, part: &Device<'_>, raw: Option<&RawNvml>) -> Option<MigDevice> {
    let (gpu_instance, compute_instance) = raw?.instance_ids(part)?;
    // `NVIDIA H100 80GB HBM3 MIG 1g.10gb`
    let name = part.name().ok()?;
    Some(MigDevice {
        uuid: part.uuid().ok()?.parse().ok()?,
        index,
        profile: name.rsplit_once("MIG ").map_or(name.as_str(), |(_, profile)| profile).to_owned(),
        memory: memory(part, raw).map(|(total, _)| ByteSize(total)),
        minors: MigMinors { gpu_instance, compute_instance, ..MigMinors::default() },
    })
}
