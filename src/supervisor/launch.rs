//! The command line's side: starts a supervisor and hears of it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};

use super::ARGV0;
use super::protocol::{Order, Request, send_line, send_request};
use crate::sys::Lock;

/// Our own binary, whatever its name is now; it stays the same file even when a new version replaces it.
const SELF: &str = "/proc/self/exe";

/// Why no supervisor could be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Our binary cannot be executed again.
    #[error("cannot start the supervisor from `{SELF}`\nhint: is /proc mounted?")]
    Spawn(#[source] io::Error),
    /// It cannot be spoken to.
    #[error("cannot talk to the supervisor")]
    Talk(#[source] io::Error),
}

/// A supervisor that was started by this process.
#[derive(Debug)]
pub struct Supervisor {
    child: Child,
    socket: UnixStream,
}

impl Supervisor {
    /// Starts one for `request`. It shares the run's lock, which the caller may drop then, and writes what the container
    /// writes to this process's standard output and error, unless the run is detached.
    ///
    /// `leases` are the open files of [`Request::leases`], `listener` is what the caller has opened for the feed. `stdin` is the reading end that the container gets; without one it reads from /dev/null.
    pub fn start(
        request: &Request,
        lock: &Lock,
        leases: &[BorrowedFd<'_>],
        listener: Option<BorrowedFd<'_>>,
        stdin: Option<&OwnedFd>,
    ) -> Result<Self, LaunchError> {
        let (ours, theirs) = UnixStream::pair().map_err(LaunchError::Talk)?;
        let output = || if request.record.detached { Stdio::null() } else { Stdio::inherit() };
        #[expect(clippy::disallowed_methods, reason = "this is the one place that starts a program")]
        let child = Command::new(SELF)
            .arg0(ARGV0)
            // LISTEN_FDS and its like mean something to libcontainer; nothing of the caller's reaches it.
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(output())
            .stderr(output())
            .spawn()
            .map_err(LaunchError::Spawn)?;
        let supervisor = Self { child, socket: ours };
        let mut descriptors = vec![lock.file().as_fd()];
        descriptors.extend(leases);
        descriptors.extend(listener);
        descriptors.extend(stdin.map(AsFd::as_fd));
        send_request(&supervisor.socket, request, &descriptors).map_err(LaunchError::Talk)?;
        Ok(supervisor)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether the process has ended, however that came about.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// The socket that its events come from, one JSON document a line.
    pub fn events(&self) -> io::Result<UnixStream> {
        self.socket.try_clone()
    }

    /// Tells it what to do. A supervisor that is gone is not an error: its end is told by the socket.
    pub fn order(&self, order: &Order) {
        drop(send_line(&self.socket, order));
    }

    /// Waits for the process, after the end of its events.
    pub fn wait(mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }
}
