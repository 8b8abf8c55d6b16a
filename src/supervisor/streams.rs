//! The container's standard streams, made before it: pipes, or a terminal that comes out of it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::OFlag;
use nix::unistd::{Pid, pipe2};

use super::input::Input;
use super::log::Stream;
use super::protocol::Request;
use super::relay::Streams;
use super::terminal::{ConsoleSocket, give_to_user_of};
use crate::container::Stdio;

/// Our ends, while the container is made.
#[derive(Debug)]
pub(super) enum OurEnds {
    /// A terminal will be sent.
    Terminal {
        socket: ConsoleSocket,
        /// What the command line has given for it.
        given: Option<OwnedFd>,
    },
    /// Pipes.
    Pipes {
        /// Where the container's input goes; `None` for one that reads nothing.
        input: Option<OwnedFd>,
        given: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
}

impl OurEnds {
    /// Pipes; input is read from /dev/null unless somebody may give some.
    pub(super) fn pipes(given: Option<OwnedFd>, interactive: bool) -> io::Result<(Stdio, Self)> {
        let (stdout, container_out) = pipe2(OFlag::O_CLOEXEC)?;
        let (stderr, container_err) = pipe2(OFlag::O_CLOEXEC)?;
        let (stdin, input) = if interactive || given.is_some() {
            let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
            (read, Some(write))
        } else {
            (File::open("/dev/null")?.into(), None)
        };
        let theirs = Stdio::Streams { stdin, stdout: container_out, stderr: container_err };
        Ok((theirs, Self::Pipes { input, given, stdout, stderr }))
    }

    /// Once the container is made: its user owns them, and a terminal has its size.
    pub(super) fn settle(self, init: Pid, request: &Request) -> io::Result<Streams> {
        match self {
            Self::Terminal { socket, given } => {
                let terminal = socket.receive()?;
                terminal.give_to_user_of(init)?;
                if let Some(size) = request.terminal.and_then(|terminal| terminal.size) {
                    terminal.resize(size);
                }
                let target = if request.interactive { Some(terminal.master()?) } else { None };
                let input = Input::new(target, given, true)?;
                Ok(Streams { input, output: vec![(Stream::Stdout, terminal.master()?)], terminal: Some(terminal) })
            }
            Self::Pipes { input, given, stdout, stderr } => {
                // Both ends of a pipe are one inode.
                for pipe in input.iter().chain([&stdout, &stderr]) {
                    give_to_user_of(pipe, init)?;
                }
                let input = Input::new(input, given, false)?;
                let output = vec![(Stream::Stdout, stdout), (Stream::Stderr, stderr)];
                Ok(Streams { input, output, terminal: None })
            }
        }
    }
}
