//! One more command in the container of a run that goes on.

use std::ffi::OsStr;
use std::io::{self, Cursor, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci_spec::runtime::Spec;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Chain, Lines};
use tokio::net::UnixStream;
use tokio::task::spawn_blocking;

use super::{Engine, EngineError};
use crate::container::{Member, StartFailure, Tenant, bounding_capabilities, live_init};
use crate::spec::{ExecOptions, ImageFiles, MAX_IDENTITY_FILE_BYTES, check_mapped, exec_process};
use crate::store::{RunDir, RunState};
use crate::supervisor::exec::{ExecEvent, ExecOrder, ExecRequest};
use crate::supervisor::protocol::Masked;
use crate::supervisor::{Entered, LaunchError};
use crate::sys::{WindowSize, read_bounded};

/// As large as a request to a supervisor may be, which has them in it.
const MAX_SECRETS_BYTES: u64 = 16 << 20;
/// `CAP_MKNOD` (capability.h).
const MKNOD: u64 = 1 << 27;

/// Why a command does not run in the container of a run.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// There is no container to enter.
    #[error(
        "run `{name}` is `{state}`, and a command can be run only in one that is `running`\nhint: `dockless ps -a` shows how runs stand"
    )]
    NotRunning {
        /// The run.
        name: String,
        /// How it stands.
        state: String,
    },
    /// What enters a paused container would stand still as well.
    #[error("run `{name}` is paused\nhint: `dockless unpause {name}` lets it go on")]
    Paused {
        /// The run.
        name: String,
    },
    /// The container cannot be looked at.
    #[error("cannot look into the container of run `{name}`")]
    Look {
        /// The run.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The command cannot be started; the message is complete.
    #[error("{}", .0.message)]
    Start(StartFailure),
}

/// A command as it is asked for.
#[derive(Debug)]
pub struct ExecWish {
    /// What, and as whom.
    pub options: ExecOptions,
    /// The size of its terminal.
    pub size: Option<WindowSize>,
    /// It goes on without whoever starts it.
    pub detached: bool,
    /// Its input, output and errors, unless it has a terminal.
    pub pipes: Option<[OwnedFd; 3]>,
}

/// A command that goes on. When this is dropped it is killed, unless it was detached.
#[derive(Debug)]
pub struct Exec {
    entered: Entered,
    secrets: Masked,
    events: Lines<BufReader<Chain<Cursor<Vec<u8>>, UnixStream>>>,
}

impl Engine {
    /// Starts a command in a run's container: in its namespaces and cgroup, with its filter, limits and capabilities.
    ///
    /// # Errors
    /// [`EnterError::Start`] when the program cannot be executed, with the code that shells have for it.
    pub async fn exec(&self, run: &RunDir, wish: ExecWish) -> Result<Exec, EngineError> {
        let name = run.name().map(|name| name.to_string()).unwrap_or_default();
        let init = first_process(run, &name)?;
        let request = request(run, &name, &init, &wish)?;
        let secrets = secrets(run).map_err(|source| EnterError::Look { name, source })?;
        let start = move || {
            let pipes: Vec<BorrowedFd<'_>> = wish.pipes.iter().flatten().map(AsFd::as_fd).collect();
            Entered::start(&request, &init, &pipes)
        };
        let entered = spawn_blocking(start).await.map_err(|_| EngineError::Task("starting a command"))??;
        Ok(Exec::new(entered.map_err(EnterError::Start)?, secrets)?)
    }
}

impl Exec {
    fn new(mut entered: Entered, secrets: Masked) -> Result<Self, LaunchError> {
        let (stream, begun) = entered.events().map_err(LaunchError::Talk)?;
        stream.set_nonblocking(true).map_err(LaunchError::Talk)?;
        let stream = UnixStream::from_std(stream).map_err(LaunchError::Talk)?;
        Ok(Self { entered, secrets, events: BufReader::new(AsyncReadExt::chain(Cursor::new(begun), stream)).lines() })
    }

    /// What its output must not show: it comes as the command has written it, and whoever passes it on hides the run's secrets.
    #[must_use]
    pub const fn secrets(&self) -> &Masked {
        &self.secrets
    }

    /// The master of its terminal, for whoever shows it.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.entered.take_terminal()
    }

    /// Its exit code, as a shell would see it; `None` when its parent was killed. Safe to cancel.
    pub async fn end(&mut self) -> Option<i32> {
        loop {
            let line = self.events.next_line().await.ok().flatten()?;
            if let Ok(ExecEvent::Exited { code }) = serde_json::from_str(&line) {
                return Some(code);
            }
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, number: i32) {
        self.entered.order(&ExecOrder::Signal { number });
    }

    /// It goes on without us.
    pub fn detach(&self) {
        self.entered.order(&ExecOrder::Detach);
    }
}

/// The first process of a run's container.
fn first_process(run: &RunDir, name: &str) -> Result<Member, EngineError> {
    let state = run.record()?.state;
    let paused = || EnterError::Paused { name: name.to_owned() };
    if run.is_live() && state == RunState::Paused {
        return Err(paused().into());
    }
    let init = live_init(run).map_err(|_| {
        let state = if state == RunState::Running { "about to end".to_owned() } else { state.to_string() };
        EnterError::NotRunning { name: name.to_owned(), state }
    })?;
    if init.is_frozen() {
        return Err(paused().into());
    }
    Ok(init)
}

/// The capabilities that `--privileged` gives. Where the run has no cgroup of its own nothing forbids devices, so nobody in
/// it may make their nodes.
fn bounding(run: &RunDir) -> Result<u64, EngineError> {
    let may_make_nodes = run.record()?.cgroup.is_none_or(|cgroup| cgroup.mode.makes_one());
    let given = bounding_capabilities()?;
    Ok(if may_make_nodes { given } else { given & !MKNOD })
}

fn request(run: &RunDir, name: &str, init: &Member, wish: &ExecWish) -> Result<ExecRequest, EngineError> {
    let enter = |source| EnterError::Look { name: name.to_owned(), source };
    let spec = Spec::load(run.config()).map_err(|error| enter(io::Error::other(error)))?;
    let container = spec.process().as_ref().ok_or_else(|| enter(io::ErrorKind::InvalidData.into()))?;
    let (passwd, group) = match wish.options.user {
        Some(_) => (identity_file(init, "etc/passwd"), identity_file(init, "etc/group")),
        None => (Ok(None), Ok(None)),
    };
    let (passwd, group) = (passwd.map_err(enter)?, group.map_err(enter)?);
    let files = ImageFiles { passwd: passwd.as_deref(), group: group.as_deref() };
    let record = run.record()?;
    let options = ExecOptions { group_add: record.group_add, ..wish.options.clone() };
    let process = exec_process(container, &options, &files, bounding(run)?)?;
    if let Some(maps) = &record.id_maps {
        check_mapped(maps, &process)?;
    }
    let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().clone());
    let tenant = Tenant { process, seccomp, size: wish.size };
    Ok(ExecRequest { init: init.pid().as_raw(), tenant, detached: wish.detached })
}

/// The run's secrets; most have none.
fn secrets(run: &RunDir) -> io::Result<Masked> {
    match read_bounded(&run.secrets(), MAX_SECRETS_BYTES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Masked::default()),
        bytes => Ok(serde_json::from_slice(&bytes?)?),
    }
}

/// A file of the container as it is now. What is too large, or no file, is as the container has made it: hostile.
fn identity_file(init: &Member, path: &str) -> io::Result<Option<String>> {
    let Some(file) = init.root()?.open_file_in_root(OsStr::new(path))? else { return Ok(None) };
    let mut bytes = Vec::new();
    // One more than what is permitted, which is refused then.
    file.take(MAX_IDENTITY_FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}
