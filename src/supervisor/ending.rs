//! How a run ended, told from what init's status, the cgroup's counters and the supervisor's own deeds say together.

use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;

use super::hint::shm_hint;
use super::relay::Outcome;
use crate::container::Usage;
use crate::image::ByteSize;
use crate::store::{Exit, ExitReason, Victim};
use crate::words::printable;

/// What timeout(1) ends with when the time is over.
const TIMED_OUT: i32 = 124;

/// What is known when init has ended.
pub(super) struct Evidence<'a> {
    pub(super) status: WaitStatus,
    pub(super) usage: Usage,
    pub(super) outcome: &'a Outcome,
    /// Looked for only when the kernel counts a kill.
    pub(super) victim: Option<Victim>,
    pub(super) memory_limit: Option<ByteSize>,
    pub(super) shm_size: Option<ByteSize>,
    /// Most that was seen in its `/dev/shm`.
    pub(super) shm_peak: Option<ByteSize>,
}

/// The code of an end that has one of its own: schedulers know these for "taken away" and "too long".
pub(super) const fn code_for(reason: ExitReason) -> Option<i32> {
    match reason {
        ExitReason::Interrupted => Some(128 + Signal::SIGTERM as i32),
        ExitReason::Timeout => Some(TIMED_OUT),
        _ => None,
    }
}

impl Evidence<'_> {
    /// The truth about the end.
    pub(super) fn exit(self) -> Exit {
        let (code, signal) = match self.status {
            WaitStatus::Exited(_, code) => (code, None),
            WaitStatus::Signaled(_, signal, _) => (128 + signal as i32, Some(signal as i32)),
            // `Container::wait` returns for an end only.
            _ => (125, None),
        };
        let reason = self.reason(code, signal);
        Exit {
            // Whatever the workload made of it.
            code: code_for(reason).unwrap_or(code),
            signal,
            oom_kills: self.usage.oom_kills,
            memory_peak: self.usage.memory_peak.map(ByteSize),
            memory_limit: self.memory_limit,
            shm_peak: self.shm_peak,
            cpu_seconds: self.usage.cpu.map(|time| time.as_secs_f64()),
            message: self.message(reason, code, signal),
            victim: self.victim,
            ..Exit::new(code, reason)
        }
    }

    fn reason(&self, code: i32, signal: Option<i32>) -> ExitReason {
        // A shell that runs the victim ends with 137 of its own accord.
        let out_of_memory = self.usage.oom_kills > 0 && code == 128 + Signal::SIGKILL as i32 && !self.outcome.killed;
        match self.outcome.stopped {
            _ if out_of_memory => ExitReason::OomKilled,
            Some(reason) => reason,
            None if signal.is_some() => ExitReason::Signalled,
            None => ExitReason::Exited,
        }
    }

    fn message(&self, reason: ExitReason, code: i32, signal: Option<i32>) -> Option<String> {
        let after = if self.outcome.killed { "killed".to_owned() } else { format!("the workload ended with {code}") };
        let shm = || shm_hint(code, self.shm_size, self.shm_peak);
        Some(match reason {
            ExitReason::OomKilled => {
                let whose =
                    if self.usage.kills_are_shared { ", as the counter of its caller's cgroup says" } else { "" };
                format!("killed: out of memory{}{whose}", self.memory())
            }
            ExitReason::ClientLost => "stopped: the command that had started the run was killed".to_owned(),
            ExitReason::Stopped => format!("stopped: {after}"),
            ExitReason::Timeout => format!("timeout: its time was over, {after}"),
            ExitReason::Interrupted => format!("interrupted, the machine is being taken away: {after}"),
            ExitReason::Unhealthy => format!("unhealthy: its health check failed too often, {after}"),
            ExitReason::Aborted => "aborted: killed, nothing was saved".to_owned(),
            ExitReason::Signalled => shm().unwrap_or_else(|| {
                let name = signal.and_then(|number| Signal::try_from(number).ok());
                match (name, signal) {
                    (Some(signal), _) => format!("killed by {}", signal.as_str()),
                    (None, Some(number)) => format!("killed by signal {number}"),
                    (None, None) => "killed by a signal".to_owned(),
                }
            }),
            _ => return shm().or_else(|| self.children_killed()),
        })
    }

    /// Init has survived, others have not.
    fn children_killed(&self) -> Option<String> {
        let kills = self.usage.oom_kills;
        let whose = if self.usage.kills_are_shared { "its caller's cgroup" } else { "the container" };
        (kills > 0).then(|| format!("processes of {whose} killed for want of memory: {kills}{}", self.memory()))
    }

    fn memory(&self) -> String {
        let parts: Vec<String> = [
            self.victim.as_ref().map(|victim| format!("`{}`", printable(&victim.command))),
            self.memory_limit.map(|limit| format!("limit {limit}")),
            self.usage.memory_peak.map(|peak| format!("peak {}", ByteSize(peak))),
        ]
        .into_iter()
        .flatten()
        .collect();
        if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use nix::unistd::Pid;

    use super::*;

    const LIMIT: Option<ByteSize> = Some(ByteSize(64 << 20));

    fn end(status: WaitStatus, oom_kills: u64, stopped: Option<ExitReason>) -> Exit {
        let usage = Usage { memory_peak: Some(64 << 20), oom_kills, ..Usage::default() };
        let outcome = Outcome { stopped, ..Outcome::default() };
        let victim = (oom_kills == 1).then(|| Victim { pid: 7, command: "hog".to_owned() });
        let evidence = Evidence {
            status,
            usage,
            outcome: &outcome,
            victim,
            memory_limit: LIMIT,
            shm_size: LIMIT,
            shm_peak: Some(ByteSize(64 << 20)),
        };
        evidence.exit()
    }

    #[test]
    fn the_end_is_told_truthfully() {
        let exited = |code| WaitStatus::Exited(Pid::from_raw(1), code);
        let killed = |signal| WaitStatus::Signaled(Pid::from_raw(1), signal, false);
        let out_of_memory = Some("killed: out of memory (`hog`, limit 64 MiB, peak 64 MiB)");
        for (status, oom_kills, stopped, code, reason, message) in [
            (exited(0), 0, None, 0, ExitReason::Exited, None),
            (exited(3), 0, None, 3, ExitReason::Exited, None),
            (killed(Signal::SIGKILL), 1, None, 137, ExitReason::OomKilled, out_of_memory),
            (exited(137), 1, None, 137, ExitReason::OomKilled, out_of_memory),
            (
                exited(1),
                2,
                None,
                1,
                ExitReason::Exited,
                Some("processes of the container killed for want of memory: 2 (limit 64 MiB, peak 64 MiB)"),
            ),
            (killed(Signal::SIGKILL), 0, None, 137, ExitReason::Signalled, Some("killed by SIGKILL")),
            (
                killed(Signal::SIGTERM),
                0,
                Some(ExitReason::ClientLost),
                143,
                ExitReason::ClientLost,
                Some("stopped: the command that had started the run was killed"),
            ),
            (
                exited(0),
                0,
                Some(ExitReason::Timeout),
                124,
                ExitReason::Timeout,
                Some("timeout: its time was over, the workload ended with 0"),
            ),
            (
                exited(0),
                0,
                Some(ExitReason::Unhealthy),
                0,
                ExitReason::Unhealthy,
                Some("unhealthy: its health check failed too often, the workload ended with 0"),
            ),
            (
                killed(Signal::SIGBUS),
                0,
                None,
                135,
                ExitReason::Signalled,
                Some(
                    "bus error; /dev/shm (64 MiB) was full\n\
                     hint: `--shm-size`, or `resources.shm_size` in a workflow",
                ),
            ),
        ] {
            let exit = end(status, oom_kills, stopped);
            assert_eq!((exit.code, exit.reason, exit.message.as_deref()), (code, reason, message), "{status:?}");
        }
    }
}
