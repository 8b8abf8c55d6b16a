//! What command line and supervisor say to each other, as JSON over a stream socket.
//!
//! First one [`Request`]: four bytes of length (big endian) that carry the descriptors, then the document. After that one
//! [`Event`] a line from the supervisor, one [`Order`] a line to it. The supervisor's last event is `exited`; an end of file
//! without it means that the supervisor was killed.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::gpus::GpuWatch;
use super::log::Logging;
use super::mask::Masker;
use super::surroundings::Surroundings;
use crate::artifact::{Prepared, UploadRequest};
use crate::container::LimitChange;
use crate::image::ByteSize;
use crate::network::Plan;
use crate::rootfs::{Choice, RootEdits};
use crate::store::{Exit, RestartPolicy, RunName, RunRecord};
use crate::sys::WindowSize;

/// Largest request; what a thousand mounts need is far below.
const MAX_REQUEST_BYTES: u32 = 16 << 20;
/// Descriptors that a request may carry.
const MAX_DESCRIPTORS: usize = 200;

/// Everything a supervisor needs to know. `config.json` stands in the run's directory already.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Root of the store.
    pub store: PathBuf,
    /// Where libcontainer keeps the state of running containers.
    pub state: PathBuf,
    /// The run as it stands in its record.
    pub record: RunRecord,
    /// How the root file system is to be made.
    pub rootfs: Choice,
    /// Absolute directory in the container that is made when missing.
    pub working_dir: String,
    /// Directories that the image declares as volumes.
    pub volumes: Vec<Volume>,
    /// What the run's devices change in the root file system.
    pub root_edits: RootEdits,
    /// The locks of the run's GPUs, which come after the run's own.
    pub leases: Option<LeaseFiles>,
    /// How its GPUs are watched.
    pub gpu_watch: Option<GpuWatch>,
    /// Its private network; the lock of its address comes after those of the GPUs.
    pub network: Option<Plan>,
    /// The container has a network namespace of its own, whose `lo` must be brought up.
    pub own_network: bool,
    /// What it shares with other runs, images and the machine.
    pub surroundings: Surroundings,
    /// Number of the signal that asks the workload to stop.
    pub stop_signal: i32,
    /// The memory limit, for the exit report.
    pub memory_limit: Option<ByteSize>,
    /// Where artifacts are saved.
    pub artifact_store: PathBuf,
    /// How they get to their bucket, when they go to one.
    pub upload: Option<UploadRequest>,
    /// Directories to be saved when the run ends.
    pub artifacts: Vec<Prepared>,
    /// User and group that saved files of the container's root are given to.
    pub artifact_owner: Option<(u32, u32)>,
    /// The container has a terminal.
    pub terminal: Option<TerminalWish>,
    /// The container's input is kept open for whoever gives it some.
    pub interactive: bool,
    /// The first process of the container is ours: it reaps and passes signals on.
    pub init: bool,
    /// How to go about it.
    pub conduct: Conduct,
    /// Program and arguments of its health check; empty without one.
    pub health_command: Vec<String>,
    /// Where programs are told what happens.
    pub feed: FeedStart,
}

/// Where the feed of a run is taken over.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeedStart {
    /// How many lines were told.
    pub seq: u64,
    /// What the caller has opened comes after the locks.
    pub has_listener: bool,
}

/// A terminal for the container.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TerminalWish {
    /// Its size at the start, when it is known.
    pub size: Option<WindowSize>,
}

/// Open files with locks of GPUs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseFiles {
    /// Where they are.
    pub dir: PathBuf,
    /// How many.
    pub count: usize,
    /// Whether other runs may have these GPUs as well.
    pub shared: bool,
}

/// How a supervisor goes about a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conduct {
    /// Signals to the tool stop the run, as Ctrl-C at a workflow does; else they are passed on to the workload.
    pub stops_on_signals: bool,
    /// How long the workload has between the stop signal and SIGKILL.
    pub grace_ms: u64,
    /// How long it may run before it is stopped, all its containers together.
    pub timeout_ms: Option<u64>,
    /// When it is started once more.
    pub restart: RestartPolicy,
    /// What is kept of what it writes.
    pub logging: Logging,
    /// Where init's number is written when the workload starts; absolute.
    pub pid_file: Option<PathBuf>,
    /// What log, terminal and record do not show.
    pub secrets: Masked,
    /// The first lines of a workflow's commands, if its shell notes which of them runs. Not empty means also that a stop
    /// signal goes to every process: a shell that waits for its child does not pass it on.
    pub steps: Vec<String>,
}

/// docker's time between the stop signal and SIGKILL.
const DEFAULT_GRACE_MS: u64 = 10_000;

impl Default for Conduct {
    fn default() -> Self {
        Self {
            stops_on_signals: false,
            grace_ms: DEFAULT_GRACE_MS,
            timeout_ms: None,
            restart: RestartPolicy::No,
            logging: Logging::All,
            pid_file: None,
            secrets: Masked::default(),
            steps: Vec::new(),
        }
    }
}

/// Texts that nobody is to see.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Masked(Vec<String>);

impl Masked {
    /// These texts; empty ones are left out.
    #[must_use]
    pub fn new(texts: impl IntoIterator<Item = String>) -> Self {
        Self(texts.into_iter().filter(|text| !text.is_empty()).collect())
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text without them.
    #[must_use]
    pub fn mask(&self, text: &str) -> String {
        self.masker().mask_text(text)
    }

    /// What hides them.
    #[must_use]
    pub fn masker(&self) -> Masker {
        Masker::new(&self.0)
    }
}

/// Tells nothing.
impl std::fmt::Debug for Masked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Masked({} texts)", self.0.len())
    }
}

/// A directory that the image declares as a volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Absolute, in the container; made when missing.
    pub destination: String,
    /// A directory of this machine that is mounted there, when the root file system itself cannot be written.
    pub host: Option<PathBuf>,
}

/// What the supervisor tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// The root file system is there.
    Rootfs {
        /// `overlay` or `copy`.
        method: String,
        /// Why that one.
        why: String,
    },
    /// Something is not as it should be, but the run goes on.
    Warning {
        /// In words.
        text: String,
    },
    /// The workload has been executed.
    Started {
        /// Init on the host.
        pid: i32,
    },
    /// The workload has failed, and is started once more.
    Restarting {
        /// How often it was, this time included.
        restarts: u32,
        /// When that will be: so long after this.
        delay_ms: u64,
        /// What it ended with.
        exit_code: i32,
    },
    /// The run has another name.
    Renamed {
        /// Its name from now on.
        to: RunName,
    },
    /// The command line that started the run may leave; see [`Order::Detach`].
    Detached,
    /// An artifact was saved.
    Saved {
        /// Files in all artifacts.
        files: u64,
        /// Bytes in them.
        bytes: u64,
    },
    /// What became of an order; only to the one who gave it, and not to the command line that started the run.
    Answer {
        /// Why it was not carried out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// The run is over and cleaned up.
    Exited {
        /// How.
        exit: Box<Exit>,
    },
}

/// What the supervisor is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case", deny_unknown_fields)]
pub enum Order {
    /// Send this signal to the workload.
    Signal {
        /// Its number.
        number: i32,
    },
    /// End the run: the stop signal, SIGKILL when the time is over, artifacts saved (but for [`StopReason::Aborted`]).
    Stop {
        /// Why; the first reason is the one that is kept.
        reason: StopReason,
        /// The time until SIGKILL, when it is not the run's own.
        grace_ms: Option<u64>,
        /// The signal that asks the workload to stop, when it is not the run's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<i32>,
    },
    /// Stop every process where it is, until [`Order::Unpause`] or any signal.
    Pause,
    /// Let them go on.
    Unpause,
    /// Change the limits.
    Update {
        /// Which, to what.
        change: LimitChange,
    },
    /// Give the run another name.
    Rename {
        /// Which; free.
        to: RunName,
    },
    /// The terminal that the run is shown in has another size.
    Resize {
        /// Which.
        size: WindowSize,
    },
    /// Give me the output from now on. With it come two or three descriptors: pipes for output and errors, and one with input.
    Attach,
    /// From the command line that started the run: it leaves, and the run goes on.
    Detach,
}

/// Why a run is ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// Somebody wants it.
    Stopped,
    /// The machine is being taken away.
    Interrupted,
    /// Somebody gives the run up: killed at once, nothing is saved.
    Aborted,
}

/// Sends the request; `descriptors` are the run's lock, those of its devices (as [`Request::leases`] says), the listener of its
/// feed and, when there is one, the container's standard input.
pub fn send_request(socket: &UnixStream, request: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let body = serde_json::to_vec(request)?;
    send_head(socket, body.len(), descriptors)?;
    (&*socket).write_all(&body)
}

/// Sends what goes before a request of that length. Does not block on a socket that was just made.
pub(super) fn send_head(socket: &UnixStream, length: usize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let length = u32::try_from(length).map_err(io::Error::other)?.to_be_bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors for one request"));
    }
    let sent = sendmsg(socket, &[IoSlice::new(&length)], &mut ancillary, SendFlags::empty())?;
    if sent == length.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Receives the request and its descriptors, which are closed on exec.
pub fn receive_request<T: DeserializeOwned>(socket: &UnixStream) -> io::Result<(T, Vec<OwnedFd>)> {
    let mut length = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut length)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes != length.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(list) = message {
            descriptors.extend(list);
        }
    }
    let length = u32::from_be_bytes(length);
    if length > MAX_REQUEST_BYTES {
        return Err(io::Error::other(format!("request of {length} bytes, expected {MAX_REQUEST_BYTES} at most")));
    }
    let mut body = Vec::new();
    Read::take(socket, u64::from(length)).read_to_end(&mut body)?;
    Ok((serde_json::from_slice(&body)?, descriptors))
}

/// Asks a supervisor for what its container writes, and offers to write to it; pipes as [`Order::Attach`] has them.
pub fn send_attach(socket: &UnixStream, pipes: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut line = serde_json::to_vec(&Order::Attach)?;
    line.push(b'\n');
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(pipes)) {
        return Err(io::Error::other("too many descriptors for one order"));
    }
    let sent = sendmsg(socket, &[IoSlice::new(&line)], &mut ancillary, SendFlags::NOSIGNAL)?;
    if sent == line.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Writes one event or order as a line.
pub fn send_line(socket: &UnixStream, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    (&*socket).write_all(&line)
}
