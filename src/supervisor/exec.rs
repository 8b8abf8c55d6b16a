//! The process behind an `exec`: our own binary once more, since entering a container takes a process with one thread.
//!
//! It is the parent of the command in the container, and ends with it. The command line holds its socket; when that closes
//! the command is killed, unless it was left or wanted to be. The death signal ties the command to this process, so that
//! kill -9 of anything leaves nothing.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, dup2_stdin, setsid};
use serde::{Deserialize, Serialize};

use super::life::one_thread;
use super::protocol::{receive_request, send_line};
use crate::container::{Member, Reporter, StartFailure, Started, Tenant, TenantStreams, kill_session, start_tenant};
use crate::sys;

/// The name under which our own binary is executed to be this process.
pub const EXEC_ARGV0: &str = "dockless-exec";

/// What it needs to know. With it come a pidfd of the container's first process and, without a terminal, three pipes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// The first process of the container.
    pub init: i32,
    /// What is to run.
    pub tenant: Tenant,
    /// It goes on without the command line.
    pub detached: bool,
}

/// What it tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case", deny_unknown_fields)]
pub enum ExecEvent {
    /// The program has been executed; the master of its terminal comes along, when it has one.
    Started,
    /// It cannot be.
    Failed {
        /// Why.
        failure: StartFailure,
    },
    /// It has ended.
    Exited {
        /// What a shell would see.
        code: i32,
    },
}

/// What it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case", deny_unknown_fields)]
pub enum ExecOrder {
    /// Send this signal.
    Signal {
        /// Its number.
        number: i32,
    },
    /// The command line leaves, the command goes on.
    Detach,
    /// SIGKILL for it and what it has started, as far as that is still in its session.
    Kill,
}

/// Becomes the process behind an `exec` if this one was started as one; for the first line of `main`, before any thread.
#[must_use]
pub fn exec_entry(argv0: Option<&OsStr>) -> Option<ExitCode> {
    (argv0 == Some(OsStr::new(EXEC_ARGV0))).then(main)
}

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever started us sees the socket close.
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve() -> io::Result<()> {
    let threads = sys::thread_count();
    if threads == 1 {
        // What a caller has left open is nothing for the container. Above the standard streams nothing is anybody's yet.
        sys::close_from(3);
    }
    sys::hear_signals();
    // A terminal's signals go to whoever started us; they come as orders.
    setsid()?;
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    dup2_stdin(File::open("/dev/null")?)?;
    let (request, mut descriptors): (ExecRequest, Vec<OwnedFd>) = receive_request(&socket)?;
    if descriptors.is_empty() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    if let Err(failure) = one_thread(threads) {
        return send_line(&socket, &ExecEvent::Failed { failure });
    }
    let pipes = descriptors.split_off(1);
    let started = Member::adopt(request.init, descriptors.remove(0)).and_then(|init| start(&request, &init, pipes));
    match started {
        Ok((Started { pid, reporter }, terminal)) => {
            let ended = sys::pidfd(pid)?;
            let guard = Guard { pid, ended, socket, terminal, is_left: request.detached };
            guard.stay(reporter)
        }
        Err(error) => {
            let failure = StartFailure::ours(match error.kind() {
                io::ErrorKind::NotFound => "cannot enter the container: it has ended meanwhile".to_owned(),
                _ => format!("cannot enter the container: {error}"),
            });
            send_line(&socket, &ExecEvent::Failed { failure })
        }
    }
}

/// Starts it; the second value is the master of its terminal.
fn start(request: &ExecRequest, init: &Member, pipes: Vec<OwnedFd>) -> io::Result<(Started, Option<File>)> {
    if request.tenant.process.terminal() != Some(true) {
        let pipes = pipes.try_into().map_err(|_| io::ErrorKind::InvalidData)?;
        return Ok((start_tenant(init, &request.tenant, TenantStreams::Pipes(pipes))?, None));
    }
    let (ours, theirs) = UnixStream::pair()?;
    let started = start_tenant(init, &request.tenant, TenantStreams::Terminal(theirs))?;
    // Nothing comes from one that has failed before.
    let (_, master) = sys::receive_descriptor(&ours, &mut [0; 1])?;
    Ok((started, master.map(File::from)))
}

/// The parent of the command.
struct Guard {
    /// Was not waited for yet, so that its number is its own.
    pid: Pid,
    ended: OwnedFd,
    socket: UnixStream,
    terminal: Option<File>,
    /// Nobody stays with it.
    is_left: bool,
}

impl Guard {
    fn stay(mut self, reporter: Reporter) -> io::Result<()> {
        let mut reporter = Some(reporter);
        let mut is_heard = true;
        let mut orders = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let ready = self.wait(reporter.as_ref(), is_heard);
            if ready.socket {
                is_heard = self.hear(&mut orders, &mut buffer);
                if !is_heard && !self.is_left {
                    self.signal(Signal::SIGKILL as i32);
                }
            }
            if ready.terminal && self.drain(&mut buffer) {
                self.terminal = None;
            }
            if ready.report
                && let Some(reporter) = reporter.take()
                && let Some(failure) = reporter.outcome()
            {
                let _ = waitpid(self.pid, None);
                return send_line(&self.socket, &ExecEvent::Failed { failure });
            } else if ready.report {
                self.tell_start()?;
            }
            // Not before it is told that it has started.
            if ready.end && reporter.is_none() {
                return self.tell_end();
            }
        }
    }

    fn wait(&self, reporter: Option<&Reporter>, is_heard: bool) -> Ready {
        let mut fds = vec![PollFd::new(self.ended.as_fd(), PollFlags::POLLIN)];
        let report = reporter.map(|reporter| push(&mut fds, reporter.as_fd()));
        let socket = is_heard.then(|| push(&mut fds, self.socket.as_fd()));
        let terminal = self.terminal.as_ref().filter(|_| self.is_left).map(|master| push(&mut fds, master.as_fd()));
        let _ = poll(&mut fds, PollTimeout::NONE);
        let any = |place: Option<usize>| place.is_some_and(|place| fds[place].any().unwrap_or(false));
        Ready { end: any(Some(0)), report: any(report), socket: any(socket), terminal: any(terminal) }
    }

    /// Carries out orders; false when no more can come.
    fn hear(&mut self, begun: &mut Vec<u8>, buffer: &mut [u8]) -> bool {
        let Ok(read @ 1..) = (&self.socket).read(buffer) else { return false };
        begun.extend_from_slice(&buffer[..read]);
        let end = begun.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        for line in begun.drain(..end).collect::<Vec<u8>>().split(|byte| *byte == b'\n') {
            match serde_json::from_slice(line) {
                Ok(ExecOrder::Signal { number }) => self.signal(number),
                Ok(ExecOrder::Detach) => self.is_left = true,
                Ok(ExecOrder::Kill) => kill_session(self.pid),
                Err(_) => {}
            }
        }
        begun.len() <= buffer.len()
    }

    /// Output that nobody wants any more; true at its end.
    fn drain(&mut self, buffer: &mut [u8]) -> bool {
        let read = self.terminal.as_mut().map(|master| master.read(buffer));
        !matches!(read, Some(Ok(1..))) && !matches!(read, Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock)
    }

    fn signal(&self, number: i32) {
        drop(sys::send_signal(self.pid, number));
    }

    fn tell_start(&self) -> io::Result<()> {
        let line = serde_json::to_string(&ExecEvent::Started)? + "\n";
        match &self.terminal {
            Some(master) => sys::send_descriptor(&self.socket, line.as_bytes(), master.as_fd()),
            None => send_line(&self.socket, &ExecEvent::Started),
        }
        // Whoever has gone meanwhile is noticed by the closed socket.
        .or(Ok(()))
    }

    fn tell_end(&self) -> io::Result<()> {
        let code = match waitpid(self.pid, None)? {
            WaitStatus::Exited(_, code) => code,
            WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
            _ => 125,
        };
        drop(send_line(&self.socket, &ExecEvent::Exited { code }));
        Ok(())
    }
}

/// Where something has happened.
#[expect(clippy::struct_excessive_bools, reason = "each is a place of its own")]
struct Ready {
    end: bool,
    report: bool,
    socket: bool,
    terminal: bool,
}

fn push<'a>(fds: &mut Vec<PollFd<'a>>, file: BorrowedFd<'a>) -> usize {
    fds.push(PollFd::new(file, PollFlags::POLLIN));
    fds.len() - 1
}
