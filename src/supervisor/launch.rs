//! The command line's side: starts a supervisor and hears of it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use super::ARGV0;
use super::exec::{EXEC_ARGV0, ExecEvent, ExecOrder, ExecRequest};
use super::protocol::{Order, Request, send_line, send_request};
use crate::container::{Member, StartFailure};
use crate::sys::{self, Helper, Lock};

/// Why no supervisor could be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Our binary cannot be executed again.
    #[error("cannot start the supervisor from `/proc/self/exe`\nhint: is /proc mounted?")]
    Spawn(#[source] io::Error),
    /// It cannot be spoken to.
    #[error("cannot talk to the supervisor")]
    Talk(#[source] io::Error),
}

/// A supervisor that was started by this process.
#[derive(Debug)]
pub struct Supervisor {
    child: Helper,
    socket: UnixStream,
}

impl Supervisor {
    /// Starts one for `request`. It shares the run's lock, which the caller may drop then, and writes what the container
    /// writes to `output`.
    ///
    /// `leases` are the open files of [`Request::leases`], `listener` is what the caller has opened for the feed. `stdin` is the reading end that the container gets; without one it reads from /dev/null.
    pub fn start(
        request: &Request,
        lock: &Lock,
        leases: &[BorrowedFd<'_>],
        listener: Option<BorrowedFd<'_>>,
        stdin: Option<&OwnedFd>,
        output: [Stdio; 2],
    ) -> Result<Self, LaunchError> {
        let (ours, theirs) = UnixStream::pair().map_err(LaunchError::Talk)?;
        let child = spawn(ARGV0, theirs, output).map_err(LaunchError::Spawn)?;
        let supervisor = Self { child: Helper::new(child), socket: ours };
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
        self.child.has_ended()
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
    pub fn wait(self) -> io::Result<ExitStatus> {
        self.child.wait()
    }
}

/// A process in a container that was started by this one.
#[derive(Debug)]
pub struct Entered {
    /// Its parent, our own binary.
    child: Helper,
    /// Where its end is told; what was read of that already.
    socket: UnixStream,
    begun: Vec<u8>,
    /// The master of its terminal.
    terminal: Option<OwnedFd>,
}

/// Longest first event; a failure with a path or two.
const MAX_EVENT_BYTES: usize = 128 << 10;

impl Entered {
    /// Starts one in the container of `init`, with `pipes` for its streams unless it has a terminal, and waits until it has
    /// started or failed to.
    pub fn start(
        request: &ExecRequest,
        init: &Member,
        pipes: &[BorrowedFd<'_>],
    ) -> Result<Result<Self, StartFailure>, LaunchError> {
        let (ours, theirs) = UnixStream::pair().map_err(LaunchError::Talk)?;
        let child = spawn(EXEC_ARGV0, theirs, [Stdio::null(), Stdio::null()]).map_err(LaunchError::Spawn)?;
        let descriptors: Vec<BorrowedFd<'_>> = [&[init.pidfd().as_fd()], pipes].concat();
        send_request(&ours, request, &descriptors).map_err(LaunchError::Talk)?;
        Self::hear_start(child, ours).map_err(LaunchError::Talk)
    }

    fn hear_start(mut child: Child, socket: UnixStream) -> io::Result<Result<Self, StartFailure>> {
        let (mut begun, mut terminal) = (Vec::new(), None);
        let mut buffer = vec![0; MAX_EVENT_BYTES];
        let end = loop {
            if let Some(end) = begun.iter().position(|byte| *byte == b'\n') {
                break end + 1;
            }
            let (read, file) = sys::receive_descriptor(&socket, &mut buffer)?;
            terminal = terminal.or(file);
            begun.extend_from_slice(&buffer[..read]);
            if read == 0 || begun.len() > MAX_EVENT_BYTES {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let line: Vec<u8> = begun.drain(..end).collect();
        match serde_json::from_slice(&line)? {
            ExecEvent::Started => Ok(Ok(Self { child: Helper::new(child), socket, begun, terminal })),
            ExecEvent::Failed { failure } => {
                child.wait()?;
                Ok(Err(failure))
            }
            ExecEvent::Exited { .. } => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// The master of its terminal, for whoever shows it.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// Where its end is told, and what was read of that already.
    pub fn events(&mut self) -> io::Result<(UnixStream, Vec<u8>)> {
        Ok((self.socket.try_clone()?, std::mem::take(&mut self.begun)))
    }

    /// Tells its parent what to do.
    pub fn order(&self, order: &ExecOrder) {
        drop(send_line(&self.socket, order));
    }

    /// Waits for its parent, after the end of its events.
    pub fn wait(self) -> io::Result<ExitStatus> {
        self.child.wait()
    }
}

/// Executes our binary under another name, with a socket as its standard input. What becomes of it enters a container, so it
/// is executed from a file that nobody in there can write to.
fn spawn(argv0: &str, socket: UnixStream, [stdout, stderr]: [Stdio; 2]) -> io::Result<Child> {
    let sealed = sys::above_standard(&sys::seal_program(sys::own_program_io()?)?)?;
    let program = Path::new("/proc/self/fd").join(sealed.as_raw_fd().to_string());
    command(&program, argv0, socket).stdout(stdout).stderr(stderr).spawn()
}

/// The same from a process that was started here: the file that it was executed from is sealed already.
pub(super) fn spawn_again(argv0: &str, socket: UnixStream) -> io::Result<Child> {
    command(sys::own_program_io()?, argv0, socket).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
}

fn command(program: &Path, argv0: &str, socket: UnixStream) -> Command {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that starts a program")]
    let mut command = Command::new(program);
    command
        .arg0(argv0)
        // LISTEN_FDS and its like mean something to libcontainer; nothing of the caller's reaches it.
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(socket)));
    command
}
