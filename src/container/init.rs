//! A first process for the container (`--init`): starts the workload, passes signals on, reaps what others leave, and ends
//! with the workload's code.
//!
//! It is the process that libcontainer has set up, with the container's user, capabilities and filter, so nothing of ours
//! has to be in the image. It keeps no descriptor, cannot be looked into (`PR_SET_DUMPABLE`), and its binary is sealed
//! (`supervisor/sealed.rs`).

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, setpgid, tcsetpgrp};

use crate::sys;

/// Comes back in a child, which is to become the workload. The caller stays and ends when that one does.
///
/// # Errors
/// When there can be no child.
pub(super) fn stay_as_init() -> std::io::Result<()> {
    // Before there is a child, so that none of its signals is lost.
    SigSet::all().thread_block()?;
    // In another one's pid namespace, or the machine's, orphans would go to the first process there.
    let _ = nix::sys::prctl::set_child_subreaper(true);
    if let Some(child) = sys::fork()? {
        watch_over(child);
    }
    lead_the_terminal();
    Ok(())
}

/// A group of its own in front of the terminal, as a shell gives to a job: Ctrl-C is for the workload alone, and its own
/// job control finds what it expects.
fn lead_the_terminal() {
    let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
    // SIGTTOU is blocked, so this works from the background. Without a terminal there is nothing to lead.
    let _ = tcsetpgrp(std::io::stdin(), getpid());
}

fn watch_over(child: Pid) -> ! {
    // The report of a failed start is the child's; ours must be closed for its end to be seen.
    sys::close_from(0);
    let _ = nix::sys::prctl::set_dumpable(false);
    let _ = nix::sys::prctl::set_name(c"dockless-init");
    loop {
        let number = sys::next_signal();
        match Signal::try_from(number) {
            Ok(Signal::SIGCHLD) => reap(child),
            // Ours because of what we do ourselves, and nobody's wish.
            Ok(Signal::SIGTTIN | Signal::SIGTTOU | Signal::SIGPIPE) => {}
            _ => drop(sys::send_signal(child, number)),
        }
    }
}

/// Takes all that have ended; with the workload we end.
fn reap(child: Pid) {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => sys::exit_now(code),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => sys::exit_now(128 + signal as i32),
            Ok(WaitStatus::StillAlive) => return,
            Err(Errno::EINTR) | Ok(_) => {}
            Err(_) => return,
        }
    }
}
