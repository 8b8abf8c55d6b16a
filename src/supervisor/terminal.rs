//! The container's terminal: made in the container, held here.
//!
//! libcontainer sends the master over a socket that stands in the run's directory (OCI runtime specification, "console").
//! We hold the slave open as well, so that a workload that closes its terminal and opens it again finds it; when the
//! leader of its session ends the kernel hangs it up all the same.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

use nix::unistd::Pid;

use super::audience::at_socket;
use crate::sys::{self, WindowSize};

/// It was sent before the container was ready.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where a terminal is waited for.
#[derive(Debug)]
pub(super) struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ConsoleSocket {
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let listener = at_socket(&path, |short| UnixListener::bind(short))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, path })
    }

    /// The terminal that was sent, which must have happened by now.
    pub(super) fn receive(self) -> io::Result<Terminal> {
        let (socket, _) = self.listener.accept()?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let (_, master) = sys::receive_descriptor(&socket, &mut [0; 64])?;
        let master = master.ok_or_else(|| io::Error::other("the container has sent no terminal"))?;
        let peer = sys::open_peer(master.as_fd())?;
        Ok(Terminal { master, peer, size: None })
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.path));
    }
}

/// Both ends of it.
#[derive(Debug)]
pub(super) struct Terminal {
    master: OwnedFd,
    peer: OwnedFd,
    size: Option<WindowSize>,
}

impl Terminal {
    /// One more descriptor of the master, which never waits.
    pub(super) fn master(&self) -> io::Result<OwnedFd> {
        sys::set_nonblocking(self.master.as_fd())?;
        self.master.try_clone()
    }

    /// What the workload finds when it asks.
    pub(super) fn resize(&mut self, size: WindowSize) {
        self.size = Some(size);
        drop(sys::set_window_size(self.master.as_fd(), size));
    }

    /// What it was last told, for the next one.
    pub(super) const fn size(&self) -> Option<WindowSize> {
        self.size
    }

    /// Gives it to the user that init has become. The group stays: it is that of terminals.
    pub(super) fn give_to_user_of(&self, init: Pid) -> io::Result<()> {
        give_to_user_of(self.peer.as_fd(), init)
    }
}

/// Makes the container's user the owner of what it reads or writes, as its own `/dev/stdout` could not be opened otherwise.
pub(super) fn give_to_user_of(file: BorrowedFd<'_>, init: Pid) -> io::Result<()> {
    let status = fs::read_to_string(format!("/proc/{init}/status"))?;
    // Real, effective, saved and file system user; the second one counts.
    let user = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1)?.parse().ok());
    let user: u32 = user.ok_or(io::ErrorKind::InvalidData)?;
    Ok(rustix::fs::fchown(file, Some(rustix::fs::Uid::from_raw(user)), None)?)
}
