//! Pseudo-terminals: pairs made in whatever mount namespace we are in, their sizes, and becoming their session's leader.
//!
//! A slave is opened through its master (`TIOCGPTPEER`, Linux 4.13), never by a path: in a container the path may lead
//! anywhere.
#![expect(unsafe_code, reason = "ioctls without a safe wrapper; each says what it relies on")]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use nix::libc;

/// What a devpts says it is (`linux/magic.h`).
const DEVPTS_MAGIC: i64 = 0x1cd1;
/// The inode of `ptmx` in each devpts (kernel, `fs/devpts/inode.c`).
const PTMX_INODE: u64 = 2;
/// The number of `ptmx`, 5:2.
const PTMX_NUMBER: (u32, u32) = (5, 2);

/// Rows and columns of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// A fresh pair, master and slave, of the devpts that is mounted here.
///
/// What stands at `/dev/ptmx` is not trusted: a master that is not of a real devpts is refused.
pub fn open_pty() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = libc::O_NOCTTY | libc::O_CLOEXEC;
    let master = OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/ptmx")?;
    let found = master.metadata()?;
    let number = (rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()));
    let is_devpts = rustix::fs::fstatfs(&master)?.f_type == DEVPTS_MAGIC;
    if !is_devpts || found.ino() != PTMX_INODE || number != PTMX_NUMBER {
        return Err(io::Error::other("`/dev/ptmx` of the container is no terminal"));
    }
    let unlocked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int from the address, which lives through the call.
    if unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let slave = open_peer(master.as_fd())?;
    Ok((master.into(), slave))
}

/// The slave of a master, without becoming our controlling terminal.
pub fn open_peer(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags by value and touches no memory of ours.
    let fd = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes the terminal that of our session, whose leader we must be.
pub fn make_controlling(slave: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes its argument by value; 0 does not take the terminal from another session.
    if unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Tells a terminal its size; who uses it gets SIGWINCH when it is another one.
pub fn set_window_size(terminal: BorrowedFd<'_>, size: WindowSize) -> io::Result<()> {
    let size = rustix::termios::Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}

/// The size of a terminal; `None` for what is none, or does not know.
#[must_use]
pub fn window_size(terminal: BorrowedFd<'_>) -> Option<WindowSize> {
    let size = rustix::termios::tcgetwinsize(terminal).ok()?;
    let size = WindowSize { rows: size.ws_row, columns: size.ws_col };
    (size.rows > 0 && size.columns > 0).then_some(size)
}

/// Reads and writes of the open file give up rather than wait.
pub fn set_nonblocking(file: BorrowedFd<'_>) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    Ok(rustix::fs::fcntl_setfl(file, flags | rustix::fs::OFlags::NONBLOCK)?)
}

/// Reading from it waits, whatever others who share it have made of it.
pub fn set_blocking(file: BorrowedFd<'_>) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    Ok(rustix::fs::fcntl_setfl(file, flags - rustix::fs::OFlags::NONBLOCK)?)
}

/// Lets a pipe hold so much, where that is permitted (`fs.pipe-max-size`).
pub fn enlarge_pipe(pipe: BorrowedFd<'_>, bytes: usize) {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    let _ = nix::fcntl::fcntl(pipe, nix::fcntl::FcntlArg::F_SETPIPE_SZ(bytes));
}
