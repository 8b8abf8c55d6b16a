//! Our own program, which is executed once more under another name for work that wants a process of its own.
//!
//! A program that embeds the library has to hand such a process over at the start of its `main`. One that does not would do
//! its own work again in each of them, and start the next one. So nothing is started before [`permit_helpers`] was called,
//! which the library does where it takes processes over.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};

/// Our own binary, whatever its name is now; it stays the same file even when a new version replaces it.
const SELF: &str = "/proc/self/exe";
/// What of our arguments is read to find the first one.
const MAX_NAME_BYTES: u64 = 4096;
/// Where the numbers of standard streams end.
const FIRST_FREE: i32 = 3;

static MAY_START: AtomicBool = AtomicBool::new(false);

/// A program that uses the library has not said that it hands helper processes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this program does not hand dockless its helper processes, and each would start the program again\n\
     hint: begin `main` with `if let Some(code) = dockless::engine::entry(std::env::args_os()) {{ return code; }}`"
)]
pub struct NotHandedOver;

/// From now on helper processes may be started.
pub fn permit_helpers() {
    MAY_START.store(true, Ordering::Release);
}

/// The program to start a helper from.
pub fn own_program() -> Result<&'static Path, NotHandedOver> {
    if MAY_START.load(Ordering::Acquire) { Ok(Path::new(SELF)) } else { Err(NotHandedOver) }
}

/// The same, for those who have an I/O error to tell anyway.
pub fn own_program_io() -> io::Result<&'static Path> {
    own_program().map_err(io::Error::other)
}

/// The name that this process was started under, as the kernel has it.
#[must_use]
pub fn own_name() -> Option<OsString> {
    let mut bytes = Vec::new();
    File::open("/proc/self/cmdline").ok()?.take(MAX_NAME_BYTES).read_to_end(&mut bytes).ok()?;
    let end = bytes.iter().position(|byte| *byte == 0)?;
    bytes.truncate(end);
    Some(OsString::from_vec(bytes))
}

/// How many threads this process has; 1 where nothing tells.
#[must_use]
pub fn thread_count() -> usize {
    fs::read_dir("/proc/self/task").map_or(1, Iterator::count)
}

/// A descriptor whose number is not that of a standard stream: a caller may have closed those, and a child gets others there
/// before it is executed.
pub fn above_standard(fd: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), FIRST_FREE)?)
}

/// A process of ours. When this is dropped it goes on, and is waited for whenever it ends: it leaves no zombie in a program
/// that goes on for long.
#[derive(Debug)]
pub struct Helper(Option<Child>);

impl Helper {
    /// What was started.
    #[must_use]
    pub const fn new(child: Child) -> Self {
        Self(Some(child))
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.as_ref().map_or(0, Child::id)
    }

    /// Whether it has ended, however that came about.
    pub fn has_ended(&mut self) -> bool {
        // A program that waits for every child of its own may have waited for this one.
        self.0.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
    }

    /// Waits for its end.
    pub fn wait(mut self) -> io::Result<ExitStatus> {
        self.0.take().ok_or(io::ErrorKind::NotFound)?.wait()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if self.has_ended() {
            return;
        }
        let Some(mut child) = self.0.take() else { return };
        // Without a thread it is a zombie until this program ends, which harms nobody else.
        drop(std::thread::Builder::new().name("reap".to_owned()).spawn(move || drop(child.wait())));
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn the_kernel_knows_our_name_and_threads() {
        assert_eq!(own_name(), std::env::args_os().next());
        assert!(std::thread::spawn(thread_count).join().unwrap() > 1);
    }

    #[test]
    fn descriptors_stay_clear_of_standard_streams() {
        let fd = above_standard(&File::open("/dev/null").unwrap().into()).unwrap();
        assert!(fd.as_raw_fd() >= FIRST_FREE);
    }
}
