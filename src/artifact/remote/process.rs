//! The process that uploads: a supervisor has one thread and no runtime, so our binary is executed again, as it was for the
//! supervisor itself.
//!
//! Its standard input is a socket. On it goes the [`UploadRequest`] as one line of JSON, later [`Finish`] as another; back
//! come [`UploadEvent`]s, one a line. It ends when the socket closes, whoever closed it, and leaves the journal.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::time::sleep;

use super::error::RemoteError;
use super::save::{Finish, Session, UploadRequest};
use super::take::not_saved;
use crate::artifact::error::ArtifactError;
use crate::artifact::save::Saved;
use crate::store::RunName;
use crate::sys::own_program_io;
use crate::words::describe;

/// The name under which our own binary is executed to upload artifacts.
pub const UPLOADER_ARGV0: &str = "dockless-uploader";

/// Pause between two looks at the files of a run that goes on.
const LOOK_EVERY: Duration = Duration::from_millis(1_500);
/// Longest pause after looks that failed.
const LONGEST_LOOK_PAUSE: Duration = Duration::from_secs(15);
/// Exit status of an uploader that could not take its request.
const NO_REQUEST: u8 = 125;

/// What the uploader tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case", deny_unknown_fields)]
pub enum UploadEvent {
    /// Files of a run that goes on are in the store.
    Uploaded {
        /// How many were sent since the last event of this kind.
        files: u64,
        /// Bytes in them.
        bytes: u64,
    },
    /// Something is not as it should be, but it is tried again.
    Warning {
        /// In words.
        text: String,
    },
    /// All artifacts are saved. The last event.
    Saved {
        /// What.
        saved: Saved,
    },
    /// They are not saved, and are where they were. The last event.
    Failed {
        /// Why, in words.
        text: String,
    },
}

/// The uploader of one run, as its supervisor sees it. Dropping it ends the process; the journal stays.
#[derive(Debug)]
pub struct Uploader {
    child: Child,
    socket: UnixStream,
    unread: Vec<u8>,
    run: RunName,
    run_dir: PathBuf,
}

impl Uploader {
    /// Starts one: at the start of a run with artifacts that are `mount: true`, else when it has ended.
    pub fn start(request: &UploadRequest) -> Result<Self, RemoteError> {
        let binary = own_program_io().map_err(|source| RemoteError::Process { operation: "start", source })?;
        Self::start_from(binary, request)
    }

    /// The same from another binary, for programs that embed the library and tests.
    pub fn start_from(binary: &Path, request: &UploadRequest) -> Result<Self, RemoteError> {
        let failed = |operation| move |source| RemoteError::Process { operation, source };
        let (socket, theirs) = UnixStream::pair().map_err(failed("talk to"))?;
        #[expect(clippy::disallowed_methods, reason = "our own binary, as supervisors are started")]
        let child = Command::new(binary)
            .arg0(UPLOADER_ARGV0)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            // The supervisor's are the container's.
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed("start"))?;
        let uploader =
            Self { child, socket, unread: Vec::new(), run: request.run.clone(), run_dir: request.run_dir.clone() };
        uploader.send(request).map_err(failed("talk to"))?;
        Ok(uploader)
    }

    /// Whether the process still runs.
    #[must_use]
    pub fn is_there(&self) -> bool {
        let mut fds = [rustix::event::PollFd::new(&self.socket, rustix::event::PollFlags::empty())];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut fds, Some(&now)).is_ok() && !fds[0].revents().contains(rustix::event::PollFlags::HUP)
    }

    /// Readable when there are events, or when the process is gone.
    #[must_use]
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The events that are there, without waiting; `UnexpectedEof` once the process is gone and all were read.
    pub fn read_events(&mut self) -> io::Result<Vec<UploadEvent>> {
        self.socket.set_nonblocking(true)?;
        let mut buffer = [0; 8192];
        let ended = loop {
            match (&self.socket).read(&mut buffer) {
                Ok(0) => break true,
                Ok(count) => self.unread.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break true,
                Err(error) => return Err(error),
            }
        };
        let mut events = Vec::new();
        while let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.unread.drain(..=end).collect();
            events.push(serde_json::from_slice(&line)?);
        }
        if ended && events.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(events) }
    }

    /// Asks for the save at the run's end: the container and all its processes are gone. The answer is an event, `saved`
    /// or `failed`; for callers that have other things to wait for.
    pub fn order_finish(&self, finish: &Finish) -> Result<(), RemoteError> {
        self.send(finish).map_err(|source| RemoteError::Process { operation: "talk to", source })
    }

    /// Asks for the save and waits for it; other events go to `on_event`. What is not saved stays, and the error says where.
    pub fn finish(mut self, finish: &Finish, mut on_event: impl FnMut(UploadEvent)) -> Result<Saved, ArtifactError> {
        let told = self.order_finish(finish).map_err(|error| describe(&error)).and_then(|()| {
            loop {
                let mut fds = [rustix::event::PollFd::new(&self.socket, rustix::event::PollFlags::IN)];
                match rustix::event::poll(&mut fds, None) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(errno) => break Err(errno.to_string()),
                }
                let events = self.read_events().map_err(|error| match error.kind() {
                    io::ErrorKind::UnexpectedEof => "the uploader was killed".to_owned(),
                    _ => format!("the uploader cannot be understood: {error}"),
                })?;
                let mut end = None;
                for event in events {
                    match event {
                        UploadEvent::Saved { saved } => end = Some(Ok(saved)),
                        UploadEvent::Failed { text } => end = Some(Err(text)),
                        other => on_event(other),
                    }
                }
                if let Some(end) = end {
                    break end;
                }
            }
        });
        told.map_err(|told| not_saved(self.run.clone(), &self.run_dir, told))
    }

    fn send(&self, message: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.socket.set_nonblocking(false)?;
        (&self.socket).write_all(&line)
    }
}

impl Drop for Uploader {
    fn drop(&mut self) {
        // What is sent is in the journal; there is nothing that it could end more gently. A supervisor that reaps all its
        // children may have reaped it.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Becomes the uploader if the process was started as one; for `main`, before any thread starts.
#[must_use]
pub fn uploader_entry(argv0: Option<&OsStr>) -> Option<ExitCode> {
    (argv0 == Some(OsStr::new(UPLOADER_ARGV0))).then(|| match main() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(NO_REQUEST),
    })
}

fn main() -> io::Result<()> {
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    socket.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(serve(socket));
    // A read from a file system that hangs must not keep it.
    runtime.shutdown_background();
    result
}

/// Lives as long as the socket.
async fn serve(socket: UnixStream) -> io::Result<()> {
    let (read, mut write) = tokio::net::UnixStream::from_std(socket)?.into_split();
    let mut lines = BufReader::new(read).lines();
    let Some(line) = lines.next_line().await? else { return Ok(()) };
    let request: UploadRequest = serde_json::from_str(&line)?;
    let (finish, mut finishes) = tokio::sync::mpsc::channel::<Finish>(1);
    let hear = async {
        while let Ok(Some(line)) = lines.next_line().await {
            let Ok(order) = serde_json::from_str(&line) else { break };
            let _ = finish.send(order).await;
        }
    };
    tokio::select! {
        // Nobody wants to hear the end any more.
        () = hear => Ok(()),
        result = work(request, &mut finishes, &mut write) => result,
    }
}

async fn work(
    request: UploadRequest,
    finishes: &mut tokio::sync::mpsc::Receiver<Finish>,
    write: &mut OwnedWriteHalf,
) -> io::Result<()> {
    let mut session = None;
    let finish = tokio::select! {
        finish = finishes.recv() => finish,
        result = follow(&request, &mut session, write) => return result,
    };
    let Some(finish) = finish else { return Ok(()) };
    let saved = async {
        let mut session = match session {
            Some(session) => session,
            None => Session::begin(request).await?,
        };
        session.finish(&finish).await
    };
    tell(
        write,
        &match saved.await {
            Ok(saved) => UploadEvent::Saved { saved },
            Err(error) => UploadEvent::Failed { text: describe(&error) },
        },
    )
    .await
}

/// Keeps the store up to date with what a run writes, until it is dropped. What it told last is told once.
async fn follow(request: &UploadRequest, session: &mut Option<Session>, write: &mut OwnedWriteHalf) -> io::Result<()> {
    let mut told = String::new();
    let mut pause = LOOK_EVERY;
    loop {
        let looked = look(request, session).await;
        match looked {
            Ok(Some(event)) => {
                tell(write, &event).await?;
                (pause, told) = (LOOK_EVERY, String::new());
            }
            Ok(None) => (pause, told) = (LOOK_EVERY, String::new()),
            Err(error) => {
                let text = describe(&error);
                if told != text {
                    tell(write, &UploadEvent::Warning { text: text.clone() }).await?;
                    told = text;
                }
                pause = (2 * pause).min(LONGEST_LOOK_PAUSE);
            }
        }
        if session.as_ref().is_some_and(|session| !session.has_live()) {
            std::future::pending::<()>().await;
        }
        sleep(pause).await;
    }
}

async fn look(request: &UploadRequest, session: &mut Option<Session>) -> Result<Option<UploadEvent>, ArtifactError> {
    let session = match session {
        Some(session) => session,
        None => session.insert(Session::begin(request.clone()).await?),
    };
    if !session.has_live() {
        return Ok(None);
    }
    let progress = session.follow().await?;
    Ok((progress.files > 0).then_some(UploadEvent::Uploaded { files: progress.files, bytes: progress.bytes }))
}

async fn tell(write: &mut OwnedWriteHalf, event: &UploadEvent) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    write.write_all(&line).await
}
