//! The process that watches the GPUs of a run: what they do, once a second, and what the driver reports of them, at once.
//!
//! It is our binary again, as [`super::nvml`] says. It outlives nobody: without a reader it ends within a second, and a
//! supervisor that lets go of it kills it.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, EventSet, Nvml};
use serde::{Deserialize, Serialize};

use super::inventory::{GpuUuid, Utilisation};
use super::nvml::{compute_percent, in_words, memory, nvml_command, open};
use super::process::end;
use super::xid::is_lost;
use crate::image::ByteSize;
use crate::sys::own_program_io;
use crate::sys::{RawNvml, RawXid, reader_is_gone};

/// The shortest period over which drivers count utilisation is a sixth of a second, the longest is a second.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// Pause after NVML failed to wait, so that a library that always fails does not keep a processor busy.
const PAUSE: Duration = Duration::from_millis(250);
/// A line of the process; no event is near that long.
const MAX_LINE_BYTES: usize = 64 << 10;
/// What NVML calls an error whose number it does not know.
const UNKNOWN_XID: u64 = 999;

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

/// The process that watches the GPUs of a run. Dropping it ends the process.
#[derive(Debug)]
pub struct Watcher {
    child: Child,
    stdout: ChildStdout,
    unread: Vec<u8>,
}

impl Watcher {
    /// Starts one for GPUs and MIG devices.
    pub fn start(library: &Path, uuids: &[GpuUuid]) -> io::Result<Self> {
        Self::start_from(own_program_io()?, library, uuids)
    }

    /// The same from another binary, for programs that embed the library and tests.
    pub fn start_from(binary: &Path, library: &Path, uuids: &[GpuUuid]) -> io::Result<Self> {
        let mut words = vec![OsStr::new("watch"), library.as_os_str()];
        words.extend(uuids.iter().map(|uuid| OsStr::new(uuid.as_str())));
        let mut child = nvml_command(binary, &words).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        rustix::io::ioctl_fionbio(&stdout, true)?;
        Ok(Self { child, stdout, unread: Vec::new() })
    }

    /// Readable when there are events, or when the process is gone.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.stdout.as_fd()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The events that are there, without waiting; `UnexpectedEof`, with what the process last said, once it is gone and all
    /// were read.
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
            // The driver's library may print something of its own.
            events.extend(serde_json::from_slice::<WatchEvent>(&line));
        }
        if self.unread.len() > MAX_LINE_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a line of it has no end"));
        }
        if ended && events.is_empty() {
            let words = String::from_utf8_lossy(&self.unread).into_owned();
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, words));
        }
        Ok(events)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// A GPU or a MIG device that is watched.
struct Watched<'n> {
    uuid: GpuUuid,
    device: Device<'n>,
    /// The GPU that it is or is a part of: errors are reported of that one.
    whole: Option<Device<'n>>,
    /// Which part of it.
    instances: Option<(u32, u32)>,
    is_lost: bool,
}

impl<'n> Watched<'n> {
    fn new(nvml: &'n Nvml, raw: Option<&RawNvml>, uuid: GpuUuid) -> Result<Self, NvmlError> {
        let device = nvml.device_by_uuid(uuid.as_str())?;
        let is_part = uuid.as_str().starts_with("MIG-");
        let whole = if is_part { device.mig_parent_device() } else { nvml.device_by_uuid(uuid.as_str()) };
        let instances = if is_part { raw.and_then(|raw| raw.instance_ids(&device)) } else { None };
        Ok(Self { uuid, device, whole: whole.ok(), instances, is_lost: false })
    }

    fn concerns(&self, xid: &RawXid) -> bool {
        let same = |ours: u32, theirs: Option<u32>| theirs.is_none_or(|theirs| theirs == ours);
        self.whole.as_ref().is_some_and(|whole| xid.is_of(whole))
            && self
                .instances
                .is_none_or(|(gpu, compute)| same(gpu, xid.gpu_instance) && same(compute, xid.compute_instance))
    }

    fn look(&self, raw: Option<&RawNvml>) -> WatchEvent {
        let uuid = self.uuid.clone();
        // Any question will do to find out whether it is still there.
        if matches!(self.device.uuid().and_then(|_| self.device.memory_info()), Err(NvmlError::GpuLost)) {
            return WatchEvent::Lost { uuid };
        }
        let memory_used = memory(&self.device, raw).map(|(_, used)| ByteSize(used));
        WatchEvent::Sample {
            uuid,
            utilisation: Utilisation { compute_percent: compute_percent(&self.device), memory_used },
        }
    }
}

/// Tells of these until nobody listens any more.
pub(super) fn watch(library: &Path, uuids: &[OsString]) -> Result<(), String> {
    let nvml = open(library).map_err(in_words)?;
    let raw = RawNvml::open(library);
    let mut watched = Vec::new();
    for uuid in uuids.iter().filter_map(|uuid| uuid.to_str()?.parse::<GpuUuid>().ok()) {
        match Watched::new(&nvml, raw.as_ref(), uuid.clone()) {
            Ok(one) => watched.push(one),
            Err(NvmlError::GpuLost) => tell(&WatchEvent::Lost { uuid }).map_err(|error| error.to_string())?,
            Err(error) => return Err(format!("`{uuid}` cannot be watched: {}", in_words(error))),
        }
    }
    let mut set = None;
    while !reader_is_gone(io::stdout().as_raw_fd()) {
        for one in watched.iter_mut().filter(|one| !one.is_lost) {
            let event = one.look(raw.as_ref());
            if matches!(event, WatchEvent::Lost { .. }) {
                one.is_lost = true;
                // Waiting for a lost GPU fails at once, and with it for all others of the set.
                set = None;
            }
            tell(&event).map_err(|error| error.to_string())?;
        }
        set = set.or_else(|| register(&nvml, &watched));
        set = wait(raw.as_ref(), set, &watched).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// The errors of all GPUs that report any.
fn register<'n>(nvml: &'n Nvml, watched: &[Watched<'n>]) -> Option<EventSet<'n>> {
    let reports = |device: &Device<'_>| {
        device.supported_event_types().is_ok_and(|types| types.contains(EventTypes::CRITICAL_XID_ERROR))
    };
    let live = watched.iter().filter(|one| !one.is_lost);
    let mut devices = live.filter_map(|one| one.whole.as_ref()).filter(|device| reports(device)).peekable();
    devices.peek()?;
    let set = nvml.create_event_set().ok()?;
    devices.try_fold(set, |set, device| device.register_events(EventTypes::CRITICAL_XID_ERROR, set).ok())
}

/// Tells of errors until the next look is due. The set comes back unless waiting failed.
fn wait<'n>(
    raw: Option<&RawNvml>,
    set: Option<EventSet<'n>>,
    watched: &[Watched<'_>],
) -> io::Result<Option<EventSet<'n>>> {
    let due = Instant::now() + SAMPLE_EVERY;
    let (Some(raw), Some(set)) = (raw, set) else {
        sleep(SAMPLE_EVERY);
        return Ok(None);
    };
    loop {
        let left = due.saturating_duration_since(Instant::now());
        match raw.wait(&set, u32::try_from(left.as_millis()).unwrap_or(u32::MAX)) {
            Ok(Some(xid)) => {
                let uuids = watched.iter().filter(|one| one.concerns(&xid)).map(|one| one.uuid.clone());
                for uuid in uuids.filter(|_| xid.number != UNKNOWN_XID) {
                    tell(&WatchEvent::Xid { uuid, number: xid.number })?;
                }
                if is_lost(xid.number) {
                    return Ok(Some(set));
                }
            }
            Ok(None) => {}
            Err(_) => {
                sleep(left.min(PAUSE));
                return Ok(None);
            }
        }
        if Instant::now() >= due {
            return Ok(Some(set));
        }
    }
}

fn tell(event: &WatchEvent) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(&line)?;
    stdout.flush()
}
