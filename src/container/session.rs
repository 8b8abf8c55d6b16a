//! The processes of a session (setsid(2)): what a command has started, unless it has begun a session of its own.

use std::fs;
use std::os::fd::AsFd;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::sys;

/// What is started while we look is found the next time.
const ROUNDS: u32 = 20;

/// Kills the leader of a session and all that is in it. The leader is a child of the caller's that was not waited for yet, so
/// that its number, which is the session's, means nothing else.
pub fn kill_session(leader: Pid) {
    let kill = Signal::SIGKILL as i32;
    drop(sys::send_signal(leader, kill));
    for _ in 0..ROUNDS {
        let mut found = false;
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let pid = Pid::from_raw(pid);
            if pid == leader || !is_in(pid, leader) {
                continue;
            }
            // The number may belong to another process by now: held, it is looked at once more.
            if let Ok(held) = sys::pidfd(pid)
                && is_in(pid, leader)
            {
                found |= sys::signal_process(held.as_fd(), kill).is_ok();
            }
        }
        if !found {
            return;
        }
    }
}

/// Whether a process lives and is of that session.
fn is_in(pid: Pid, leader: Pid) -> bool {
    let text = fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    session(&String::from_utf8_lossy(&text)) == Some(leader.as_raw())
}

/// The session of a process that is not dead, from its `stat` (`proc_pid_stat(5)`).
fn session(stat: &str) -> Option<i32> {
    // The name stands in brackets and may have some itself.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") { None } else { fields.nth(2)?.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_session() {
        assert_eq!(session("7 (a) S 1 2 3) S 5 6 7 0 -1"), Some(7));
        assert_eq!(session("7 (a) Z 5 6 7 0 -1"), None);
        assert_eq!(session(""), None);
    }
}
