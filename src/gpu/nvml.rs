//! The driver's own library, NVML, loaded in a process of its own.
//!
//! NVML hangs or crashes when a GPU has fallen off the bus, and it maps and opens things that a supervisor must not have. So our
//! binary is executed again under the name [`NVML_ARGV0`] with an empty environment: `probe LIBRARY` prints what there is as one
//! JSON document, `watch LIBRARY UUID…` a line of JSON for each event until nobody reads them any more.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::time::Duration;

use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enum_wrappers::device::Brand;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use serde::{Deserialize, Serialize};

use super::facts::{Facts, GpuFacts};
use super::inventory::{GpuUuid, MigDevice, MigMinors, Source, Utilisation, Version};
use super::process::{OutputError, output};
use crate::image::ByteSize;
use crate::sys::RawNvml;

/// The name under which our own binary is executed to speak with NVML.
pub const NVML_ARGV0: &str = "dockless-nvml";

/// Our own binary, whatever its name is now.
const SELF: &str = "/proc/self/exe";
/// A GPU that has to be woken first takes seconds.
const PATIENCE: Duration = Duration::from_secs(20);
const MAX_OUTPUT_BYTES: usize = 4 << 20;
/// The shortest period over which drivers count utilisation is a sixth of a second, the longest is a second.
const SAMPLE_EVERY_MS: u32 = 1000;
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

/// What the process that watches GPUs tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case", deny_unknown_fields)]
pub enum WatchEvent {
    /// What a GPU does.
    Sample {
        /// Which.
        uuid: GpuUuid,
        /// What.
        utilisation: Utilisation,
    },
    /// The driver reports an error of the GPU or of a program on it.
    Xid {
        /// Which.
        uuid: GpuUuid,
        /// The number in NVIDIA's catalogue.
        number: u64,
    },
    /// The GPU cannot be reached any more.
    Lost {
        /// Which.
        uuid: GpuUuid,
    },
}

/// Asks the library at `library` what there is.
pub(super) fn probe(library: &Path) -> Result<Facts, ProbeError> {
    let mut command = own_binary(&["probe".as_ref(), library.as_os_str()]);
    let bytes = output(&mut command, "the process that asks NVML", PATIENCE, MAX_OUTPUT_BYTES)?;
    serde_json::from_slice(&bytes).map_err(ProbeError::Answer)
}

fn own_binary(arguments: &[&OsStr]) -> Command {
    #[expect(clippy::disallowed_methods, reason = "our own binary, as supervisors are started")]
    let mut command = Command::new(SELF);
    command.arg0(NVML_ARGV0).args(arguments).env_clear().current_dir("/").stdin(Stdio::null());
    command
}

/// The process that watches the GPUs of a run. Dropping it ends the process.
#[derive(Debug)]
pub struct Watcher {
    child: Child,
    stdout: ChildStdout,
    unread: Vec<u8>,
}

impl Watcher {
    /// Starts one.
    pub fn start(library: &Path, uuids: &[GpuUuid]) -> io::Result<Self> {
        let mut words = vec![OsStr::new("watch"), library.as_os_str()];
        words.extend(uuids.iter().map(|uuid| OsStr::new(uuid.as_str())));
        let mut child = own_binary(&words).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        rustix::io::ioctl_fionbio(&stdout, true)?;
        Ok(Self { child, stdout, unread: Vec::new() })
    }

    /// Readable when there are events, or when the process is gone.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.stdout.as_fd()
    }

    /// The events that are there, without waiting; `UnexpectedEof` once the process is gone and all were read.
    pub fn read_events(&mut self) -> io::Result<Vec<WatchEvent>> {
        let mut buffer = [0; 4096];
        let ended = match self.stdout.read(&mut buffer) {
            Ok(0) => true,
            Ok(count) => {
                self.unread.extend_from_slice(&buffer[..count]);
                false
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => false,
            Err(error) => return Err(error),
        };
        let mut events = Vec::new();
        while let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.unread.drain(..=end).collect();
            events.push(serde_json::from_slice(&line)?);
        }
        if ended && events.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(events) }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
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
fn in_words(error: NvmlError) -> String {
    match error {
        NvmlError::LibRmVersionMismatch => "its library is of another version than the driver in the kernel".to_owned(),
        NvmlError::DriverNotLoaded => "the driver is not loaded, or its devices cannot be opened".to_owned(),
        error => error.to_string(),
    }
}

fn open(library: &Path) -> Result<Nvml, NvmlError> {
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

fn memory(device: &Device<'_>, raw: Option<&RawNvml>) -> Option<(u64, u64)> {
    let newer = device.memory_info().ok().map(|memory| (memory.total, memory.used));
    newer.or_else(|| raw?.memory(device))
}

fn compute_percent(device: &Device<'_>) -> Option<u32> {
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

/// Ends with an error of the output: when nobody listens any more.
fn watch(library: &Path, uuids: &[OsString]) -> Result<(), String> {
    let nvml = open(library).map_err(in_words)?;
    let raw = RawNvml::open(library);
    let uuids: Vec<GpuUuid> = uuids.iter().filter_map(|uuid| uuid.to_str()?.parse().ok()).collect();
    let devices: Vec<(GpuUuid, Device<'_>)> =
        uuids.into_iter().filter_map(|uuid| Some((uuid.clone(), nvml.device_by_uuid(uuid.as_str()).ok()?))).collect();
    let mut events = nvml.create_event_set().ok();
    for (_, device) in &devices {
        events = events.and_then(|set| device.register_events(EventTypes::CRITICAL_XID_ERROR, set).ok());
    }
    let mut lost = vec![false; devices.len()];
    loop {
        for ((uuid, device), lost) in devices.iter().zip(&mut lost).filter(|(_, lost)| !**lost) {
            for event in look(uuid, device, raw.as_ref()) {
                *lost |= matches!(event, WatchEvent::Lost { .. });
                tell(&event).map_err(|error| error.to_string())?;
            }
        }
        let Some(set) = &events else {
            std::thread::sleep(Duration::from_millis(SAMPLE_EVERY_MS.into()));
            continue;
        };
        if let Ok(event) = set.wait(SAMPLE_EVERY_MS)
            && let (Ok(uuid), Some(XidError::Value(number))) = (event.device.uuid(), event.event_data)
            && let Ok(uuid) = uuid.parse()
        {
            tell(&WatchEvent::Xid { uuid, number }).map_err(|error| error.to_string())?;
        }
    }
}

fn look(uuid: &GpuUuid, device: &Device<'_>, raw: Option<&RawNvml>) -> Vec<WatchEvent> {
    let uuid = uuid.clone();
    // Any question will do to find out whether it is still there.
    if matches!(device.uuid().and_then(|_| device.memory_info()), Err(NvmlError::GpuLost)) {
        return vec![WatchEvent::Lost { uuid }];
    }
    let memory_used = memory(device, raw).map(|(_, used)| ByteSize(used));
    let utilisation = Utilisation { compute_percent: compute_percent(device), memory_used };
    vec![WatchEvent::Sample { uuid, utilisation }]
}

fn tell(event: &WatchEvent) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    io::stdout().write_all(&line)
}
