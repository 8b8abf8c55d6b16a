//! What a process does to itself: signals, keyring, and descriptors known by number only.
#![expect(unsafe_code, reason = "system calls without a safe wrapper; each says what it relies on")]

use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, sigprocmask};

/// Gives the process the signal dispositions and mask of a fresh one. Ignored signals and masks pass through execve(2), so a
/// workload would otherwise inherit our ignored SIGPIPE and the mask of our signalfd.
pub fn reset_signals() {
    for signal in Signal::iterator().filter(|signal| !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP)) {
        // SAFETY: `SigDfl` installs no handler of ours, so there is no code that could run at a bad moment.
        let _ = unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) };
    }
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

/// Blocks no signal and hears of its children, whatever the program did that has executed this one: the mask and an ignored
/// SIGCHLD pass through execve(2), and nobody can wait for a child while that is ignored. SIGPIPE stays ignored, which is
/// why a write to a closed pipe is an error and not the end.
pub fn hear_signals() {
    // SAFETY: `SigDfl` installs no handler of ours, so there is no code that could run at a bad moment.
    let _ = unsafe { nix::sys::signal::signal(Signal::SIGCHLD, SigHandler::SigDfl) };
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

/// Lets the process and what it starts open as many files as it may: the usual 1024 are few where each layer of an image is
/// held open. What cannot be raised stays as it is.
pub fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Leaves the session keyring of whoever started us for an empty one (keyctl(2), `KEYCTL_JOIN_SESSION_KEYRING`), so that a
/// container cannot read the keys of the user's session.
pub fn join_new_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_ulong = 1;
    // SAFETY: keyctl reads its second argument as a string or, when it is null, makes an anonymous keyring.
    let result =
        unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Writes to a descriptor that was inherited across a fork and is known by its number only.
pub fn write_raw(fd: RawFd, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: write(2) reads `bytes.len()` bytes from a live slice; a number that is no descriptor gives EBADF.
    let written = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
    if usize::try_from(written) == Ok(bytes.len()) { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A descriptor that whoever started us has opened, by its number; the copy is closed on exec.
pub fn inherited(fd: RawFd) -> io::Result<std::os::fd::OwnedFd> {
    if fd < 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the borrow lasts for this call only, which answers a number that is no descriptor with EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    Ok(rustix::io::fcntl_dupfd_cloexec(borrowed, 3)?)
}

/// Whether nobody holds the reading end of the pipe any more whose writing end is `fd`.
#[must_use]
pub fn reader_is_gone(fd: RawFd) -> bool {
    if fd < 0 {
        return false;
    }
    // SAFETY: the borrow lasts for this call only, during which the single-threaded caller closes nothing.
    let pipe = unsafe { BorrowedFd::borrow_raw(fd) };
    let mut fds = [PollFd::new(pipe, PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
        && fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR))
}

/// Ends the process, with this code, as soon as nobody holds the reading end of the pipe any more whose writing end is `fd`;
/// until [`reset_signals`]. A death signal would come with the death of a parent that is meant to end.
pub fn exit_with_reader(fd: RawFd) -> io::Result<()> {
    static PIPE: AtomicI32 = AtomicI32::new(-1);
    extern "C" fn look(_: libc::c_int) {
        let errno = Errno::last_raw();
        // The kernel tells of much besides, as of each read(2).
        if reader_is_gone(PIPE.load(Ordering::Relaxed)) {
            exit_now(KILLED);
        }
        Errno::set_raw(errno);
    }
    PIPE.store(fd, Ordering::Relaxed);
    // SAFETY: the handler makes system calls only and leaves errno as it was, and so may run at any moment.
    unsafe { nix::sys::signal::signal(Signal::SIGIO, SigHandler::Handler(look)) }?;
    let fcntl = |command: libc::c_int, argument: libc::c_int| {
        // SAFETY: these commands of fcntl(2) take and return numbers; one that is no descriptor gives EBADF.
        let result = unsafe { libc::fcntl(fd, command, argument) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
    };
    fcntl(libc::F_SETOWN, nix::unistd::getpid().as_raw())?;
    fcntl(libc::F_SETFL, fcntl(libc::F_GETFL, 0)? | libc::O_ASYNC)?;
    // It may have gone before that.
    if reader_is_gone(fd) { exit_now(KILLED) } else { Ok(()) }
}

/// Exit status of a process that was killed, as a shell has it.
const KILLED: i32 = 137;

/// Ends the process at once, without destructors or exit handlers, as a child of a fork must.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit(2) takes any value and touches no memory of ours.
    unsafe { libc::_exit(code) }
}

/// Lets a program that is about to be started be killed when the thread that starts it ends (`PR_SET_PDEATHSIG`); what it starts
/// itself lives on.
pub fn die_with_parent(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let parent = rustix::process::getpid();
    let ask = move || {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // It may have ended before that.
        if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    };
    // SAFETY: the closure runs after fork(2) and makes two system calls; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(ask) };
}

/// A descriptor that becomes readable when the process ends (`pidfd_open(2)`).
pub fn pidfd(pid: nix::unistd::Pid) -> io::Result<std::os::fd::OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid.as_raw()).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
}

/// Sends a signal by its number to the process of a descriptor from [`pidfd`]: never to a later one with its pid.
pub fn signal_process(process: std::os::fd::BorrowedFd<'_>, number: i32) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let nothing = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: pidfd_send_signal(2) takes a null pointer for "as kill(2) does" and touches no memory of ours then; a bad number
    // is answered with an error.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), number, nothing, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends a signal by its number, real-time signals included.
pub fn send_signal(pid: nix::unistd::Pid, number: i32) -> io::Result<()> {
    // SAFETY: kill(2) touches no memory; a bad number or pid is answered with an error.
    if unsafe { libc::kill(pid.as_raw(), number) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes a copy of the process; `None` in the copy. Only for a process with one thread: in a copy of another one nothing
/// may be done that takes a lock, allocation included.
pub fn fork() -> io::Result<Option<nix::unistd::Pid>> {
    // SAFETY: the callers have one thread, so no lock is held by a thread that the copy lacks.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(Some(child)),
        nix::unistd::ForkResult::Child => Ok(None),
    }
}

/// As [`fork`], with the copy in the cgroup of version 2 whose directory that is (`CLONE_INTO_CGROUP`, Linux 5.7). A process that
/// is moved there waits for all processors (a grace period of RCU); one that is made there does not.
pub fn fork_into(cgroup: BorrowedFd<'_>) -> io::Result<Option<nix::unistd::Pid>> {
    use std::os::fd::AsRawFd;
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let number = |value: libc::c_int| u64::try_from(value).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    // SAFETY: all zero is what clone3(2) takes for "nothing special"; the structure has no other meaning of its own.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = CLONE_INTO_CGROUP;
    arguments.exit_signal = number(libc::SIGCHLD)?;
    arguments.cgroup = number(cgroup.as_raw_fd())?;
    // SAFETY: the structure lives through the call and has the size that is given. Without a stack or shared memory the
    // copy goes on here as after fork(2); the callers have one thread, so no lock is held by a thread that it lacks.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) };
    match i32::try_from(result) {
        Ok(0) => Ok(None),
        Ok(pid) if pid > 0 => Ok(Some(nix::unistd::Pid::from_raw(pid))),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Closes every descriptor from this number on, whoever in the process believes to own it: for a process that does nothing
/// with descriptors any more.
pub fn close_from(first: u32) {
    // SAFETY: close_range(2) touches no memory. That owners of descriptors find them closed is the contract above.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    if closed < 0 {
        // Before Linux 5.9, or where a filter does not know the call.
        for fd in i32::try_from(first).unwrap_or(i32::MAX)..1024 {
            // SAFETY: as above.
            unsafe { libc::close(fd) };
        }
    }
}

/// Waits for the next signal of all that are blocked; its number.
#[must_use]
pub fn next_signal() -> i32 {
    let all = SigSet::all();
    let mut number = 0;
    loop {
        // SAFETY: sigwait(3) reads the set and writes one number, both of which live here.
        if unsafe { libc::sigwait(all.as_ref(), &raw mut number) } == 0 {
            return number;
        }
    }
}

/// Whether the process behind a pidfd has ended.
#[must_use]
pub fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}
