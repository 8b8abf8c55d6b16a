//! The streams of a run: what leads to the log, to the terminal and to whoever is attached is there once; each container
//! of the run gets pipes, or sends a terminal of its own.
//!
//! The pipe that containers read from is the same for all of them: what one has not read, the next one gets. What was
//! typed into a terminal goes with it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::fcntl::OFlag;
use nix::unistd::{Pid, dup2_stderr, dup2_stdout, pipe2};

use super::flow::Flow;
use super::input::Input;
use super::log::{LogWriter, Stream};
use super::protocol::Request;
use super::terminal::{ConsoleSocket, Terminal, give_to_user_of};
use crate::container::Stdio;
use crate::sys::{self, WindowSize};

/// Our ends; see the module.
pub(super) struct Streams {
    /// What comes from the command line, and from whoever is attached.
    pub(super) input: Input,
    /// What containers write; one for a terminal, else standard output and error.
    pub(super) flows: Vec<Flow>,
    /// The terminal of the container that runs, or was the last to.
    pub(super) terminal: Option<Terminal>,
    pub(super) log: LogWriter,
    /// Where containers read, kept for the next one.
    source: Option<OwnedFd>,
    /// There may be a next one.
    is_lasting: bool,
}

/// Our ends for one container, while it is made.
#[derive(Debug)]
pub(super) enum NewEnds {
    /// A terminal will be sent.
    Terminal(ConsoleSocket),
    /// Pipes.
    Pipes { stdout: OwnedFd, stderr: OwnedFd },
}

impl Streams {
    /// `given` is what the command line has given for the input. Input is read from /dev/null unless somebody may give some.
    pub(super) fn new(request: &Request, given: Option<OwnedFd>, log: LogWriter) -> io::Result<Self> {
        let masker = request.conduct.secrets.masker();
        let (out, err) = (io::stdout(), io::stderr());
        let is_shown = !request.record.detached;
        let flow = |stream, sink| Flow::new(stream, is_shown.then_some(sink), &masker);
        let mut flows = vec![flow(Stream::Stdout, out.as_fd())?];
        let (source, input) = if request.terminal.is_some() {
            (None, Input::of_terminal(request.interactive, given))
        } else {
            flows.push(flow(Stream::Stderr, err.as_fd())?);
            let (source, target) = if request.interactive || given.is_some() {
                let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
                (Some(read), Some(write))
            } else {
                (None, None)
            };
            (source, Input::of_pipe(target, given)?)
        };
        Ok(Self { input, flows, terminal: None, log, source, is_lasting: !request.record.restart.is_no() })
    }

    /// Ends for one more container; a terminal is sent to the socket at `console`.
    pub(super) fn open(&mut self, request: &Request, console: PathBuf) -> io::Result<(Stdio, NewEnds)> {
        if request.terminal.is_some() {
            let socket = ConsoleSocket::open(console.clone())?;
            return Ok((Stdio::Console(console), NewEnds::Terminal(socket)));
        }
        let (stdout, container_out) = pipe2(OFlag::O_CLOEXEC)?;
        let (stderr, container_err) = pipe2(OFlag::O_CLOEXEC)?;
        let stdin = match &self.source {
            None => File::open("/dev/null")?.into(),
            Some(kept) if self.is_lasting => {
                // The container before may have set it to not wait, and it is one for all.
                sys::set_blocking(kept.as_fd())?;
                kept.try_clone()?
            }
            // Nobody else holds it: whoever writes is told when the container reads no more.
            Some(_) => self.source.take().ok_or(io::ErrorKind::NotFound)?,
        };
        let theirs = Stdio::Streams { stdin, stdout: container_out, stderr: container_err };
        Ok((theirs, NewEnds::Pipes { stdout, stderr }))
    }

    /// Once the container is made: its user owns them, and a terminal has its size.
    pub(super) fn settle(&mut self, ends: NewEnds, init: Pid, request: &Request) -> io::Result<()> {
        match ends {
            NewEnds::Terminal(socket) => {
                let mut terminal = socket.receive()?;
                terminal.give_to_user_of(init)?;
                let wanted = request.terminal.and_then(|terminal| terminal.size);
                let size = self.terminal.as_ref().and_then(Terminal::size).or(wanted);
                if let Some(size) = size {
                    terminal.resize(size);
                }
                if request.interactive {
                    self.input.lead_to(terminal.master()?);
                }
                if let [flow] = self.flows.as_mut_slice() {
                    flow.read_from(terminal.master()?);
                }
                self.terminal = Some(terminal);
            }
            NewEnds::Pipes { stdout, stderr } => {
                // Both ends of a pipe are one inode.
                for pipe in self.input.target().into_iter().chain([stdout.as_fd(), stderr.as_fd()]) {
                    give_to_user_of(pipe, init)?;
                }
                for (flow, pipe) in self.flows.iter_mut().zip([stdout, stderr]) {
                    flow.read_from(pipe);
                }
            }
        }
        Ok(())
    }

    /// Somebody comes with pipes while no container runs.
    pub(super) fn attach(&mut self, pipes: Vec<OwnedFd>) {
        attach(&mut self.input, &mut self.flows, pipes);
    }

    /// The terminal that the run is shown in has another size; the next container finds that.
    pub(super) fn resize(&mut self, size: WindowSize) {
        self.terminal.iter_mut().for_each(|terminal| terminal.resize(size));
    }

    /// The command line leaves.
    pub(super) fn leave(&mut self) {
        leave(&mut self.input, &mut self.flows);
    }

    /// The container has ended.
    pub(super) fn let_go(&mut self) {
        self.input.lead_nowhere();
        self.flows.iter_mut().for_each(Flow::let_go);
    }
}

/// Gives somebody the output from now on, and takes what they write. A terminal has one stream; the pipe for the other one
/// is closed.
pub(super) fn attach(input: &mut Input, flows: &mut [Flow], pipes: Vec<OwnedFd>) {
    let mut pipes = pipes.into_iter();
    for (pipe, place) in pipes.by_ref().take(2).zip(0..) {
        if let Some(flow) = flows.get_mut(place) {
            flow.add_listener(pipe);
        }
    }
    if let Some(source) = pipes.next() {
        input.add(source);
    }
}

/// The command line leaves, and the run goes on without it.
pub(super) fn leave(input: &mut Input, flows: &mut [Flow]) {
    input.keep_open();
    flows.iter_mut().for_each(Flow::leave_sink);
    // Its terminal, which is ours as well.
    if let Ok(null) = OpenOptions::new().write(true).open("/dev/null") {
        let _ = dup2_stdout(&null);
        let _ = dup2_stderr(&null);
    }
}
