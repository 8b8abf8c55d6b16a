//! Whether a run whose workload has ended is started once more, and when.
//!
//! Only what ended by itself is: whoever stops or kills a run means it. docker's times hold: 100 ms first, twice as long
//! each time up to a minute, and from the beginning again after a container that ran for ten seconds.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::protocol::{Order, StopReason};
use super::relay::Outcome;
use crate::store::{Exit, ExitReason, RestartPolicy};

const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// A container that ran so long had started well.
const GOOD_RUN: Duration = Duration::from_secs(10);
/// Whoever sends one of these wants the run to end, now or soon.
const ENDING: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL];
/// These end a workload that does nothing about them.
const ENDING_BY_DEFAULT: [Signal; 2] = [Signal::SIGHUP, Signal::SIGQUIT];

/// Signals that init was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct SentSignals(u128);

impl SentSignals {
    pub(super) fn add(&mut self, number: i32) {
        self.0 |= bit(number);
    }

    fn has(self, number: i32) -> bool {
        self.0 & bit(number) != 0
    }
}

/// Nothing for what is no number of a signal.
fn bit(number: i32) -> u128 {
    u32::try_from(number).ok().and_then(|number| 1_u128.checked_shl(number)).unwrap_or(0)
}

/// How often the run was started once more, and how long it waits the next time.
#[derive(Debug)]
pub(super) struct Restarts {
    policy: RestartPolicy,
    stop_signal: i32,
    count: u32,
    delay: Duration,
}

/// The run is started once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Again {
    /// How often it was, this time included.
    pub(super) restarts: u32,
    /// How long it waits before.
    pub(super) delay: Duration,
}

impl Restarts {
    pub(super) const fn new(policy: RestartPolicy, stop_signal: i32) -> Self {
        Self { policy, stop_signal, count: 0, delay: FIRST_DELAY }
    }

    /// What follows such an end of a container that ran for so long; `None` when it is that of the run.
    pub(super) fn after(&mut self, exit: &Exit, outcome: &Outcome, ran: Duration) -> Option<Again> {
        let has_failed =
            exit.code != 0 && matches!(exit.reason, ExitReason::Exited | ExitReason::Signalled | ExitReason::OomKilled);
        let is_to_be = outcome.to_restart || (has_failed && !self.was_asked_for(exit, outcome.sent));
        let was_stopped = outcome.stopped.is_some_and(|reason| !outcome.to_restart || reason != ExitReason::Unhealthy);
        if !is_to_be || was_stopped || !self.policy.permits(self.count) {
            return None;
        }
        if ran >= GOOD_RUN {
            self.delay = FIRST_DELAY;
        }
        let delay = self.delay;
        self.delay = (self.delay * 2).min(LONGEST_DELAY);
        self.count = self.count.saturating_add(1);
        Some(Again { restarts: self.count, delay })
    }

    /// Whether somebody has asked the workload to end, or has sent the very signal that ended it.
    fn was_asked_for(&self, exit: &Exit, sent: SentSignals) -> bool {
        let asked = ENDING.iter().any(|signal| sent.has(*signal as i32)) || sent.has(self.stop_signal);
        // A shell, and our own init, tell of it by their code.
        let ended_by = exit.signal.or_else(|| exit.code.checked_sub(128).filter(|number| *number > 0));
        asked || ended_by.is_some_and(|number| sent.has(number))
    }
}

/// What an order means for a run whose container has ended: its end, and why. `None` for one that does not end it.
pub(super) fn end_by(order: &Order, stop_signal: i32) -> Option<ExitReason> {
    match order {
        Order::Stop { reason: StopReason::Stopped, .. } => Some(ExitReason::Stopped),
        Order::Stop { reason: StopReason::Interrupted, .. } => Some(ExitReason::Interrupted),
        Order::Stop { reason: StopReason::Aborted, .. } => Some(ExitReason::Aborted),
        Order::Signal { number } if ends(*number, stop_signal) => Some(ExitReason::Stopped),
        _ => None,
    }
}

/// Whether a signal would have ended a workload that does nothing about it, as far as anybody sends it for that.
pub(super) fn ends(number: i32, stop_signal: i32) -> bool {
    ENDING.iter().chain(&ENDING_BY_DEFAULT).any(|signal| *signal as i32 == number) || number == stop_signal
}

#[cfg(test)]
mod tests {
    use super::*;

    const USR1: i32 = Signal::SIGUSR1 as i32;
    const ENDLESS: RestartPolicy = RestartPolicy::OnFailure { max: None };

    fn outcome(sent: &[i32]) -> Outcome {
        let mut outcome = Outcome::default();
        for number in sent {
            outcome.sent.add(*number);
        }
        outcome
    }

    fn exit(code: i32, reason: ExitReason) -> Exit {
        let signal = (reason == ExitReason::Signalled).then_some(code - 128);
        Exit { signal, ..Exit::new(code, reason) }
    }

    #[test]
    fn only_what_failed_by_itself_is_started_once_more() {
        use ExitReason::{Exited, GpuLost, OomKilled, Signalled, StartFailed};
        let again = |code, reason, sent: &[i32]| {
            let mut restarts = Restarts::new(ENDLESS, Signal::SIGTERM as i32);
            restarts.after(&exit(code, reason), &outcome(sent), Duration::ZERO).is_some()
        };
        for (code, reason, sent) in [
            (1, Exited, &[][..]),
            (139, Signalled, &[]),
            (137, OomKilled, &[]),
            // Sent for something else.
            (1, Exited, &[USR1]),
            (139, Signalled, &[Signal::SIGHUP as i32, Signal::SIGQUIT as i32]),
        ] {
            assert!(again(code, reason, sent), "{code} {reason:?} {sent:?}");
        }
        for (code, reason, sent) in [
            (0, Exited, &[][..]),
            (125, StartFailed, &[]),
            (1, GpuLost, &[]),
            (137, Signalled, &[Signal::SIGKILL as i32]),
            (137, OomKilled, &[Signal::SIGKILL as i32]),
            (1, Exited, &[Signal::SIGINT as i32]),
            (3, Exited, &[Signal::SIGTERM as i32]),
            (138, Signalled, &[USR1]),
            (138, Exited, &[USR1]),
        ] {
            assert!(!again(code, reason, sent), "{code} {reason:?} {sent:?}");
        }
        let stopped = Outcome { stopped: Some(ExitReason::Stopped), ..Outcome::default() };
        let mut restarts = Restarts::new(ENDLESS, Signal::SIGTERM as i32);
        assert_eq!(restarts.after(&exit(1, OomKilled), &stopped, Duration::ZERO), None);
        // Ended by us for that, whatever it was sent and whatever it made of it.
        let ended_for_that = Outcome { to_restart: true, ..outcome(&[15, 9]) };
        assert!(restarts.after(&exit(0, Exited), &ended_for_that, Duration::ZERO).is_some());
        let mut never = Restarts::new(RestartPolicy::No, Signal::SIGTERM as i32);
        assert_eq!(never.after(&exit(1, Exited), &outcome(&[]), Duration::ZERO), None);
    }

    #[test]
    fn it_waits_longer_each_time_until_one_has_run_well() {
        let mut restarts = Restarts::new(ENDLESS, 15);
        let failed = exit(1, ExitReason::Exited);
        let mut next = |ran| restarts.after(&failed, &outcome(&[]), ran).unwrap();
        let waits: Vec<u128> = (0..12).map(|_| next(Duration::from_millis(9999)).delay.as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000]);
        assert_eq!(next(GOOD_RUN), Again { restarts: 13, delay: FIRST_DELAY });
        assert_eq!(next(Duration::ZERO).delay, FIRST_DELAY * 2);

        let mut restarts = Restarts::new(RestartPolicy::OnFailure { max: Some(2) }, 15);
        let mut next = || restarts.after(&failed, &outcome(&[]), Duration::ZERO).map(|again| again.restarts);
        assert_eq!([next(), next(), next(), next()], [Some(1), Some(2), None, None]);
    }

    #[test]
    fn orders_end_a_run_that_waits() {
        let stop = |reason| Order::Stop { reason, grace_ms: None, signal: None };
        for (order, end) in [
            (stop(StopReason::Aborted), Some(ExitReason::Aborted)),
            (stop(StopReason::Interrupted), Some(ExitReason::Interrupted)),
            (Order::Signal { number: 9 }, Some(ExitReason::Stopped)),
            (Order::Signal { number: 2 }, Some(ExitReason::Stopped)),
            (Order::Signal { number: 1 }, Some(ExitReason::Stopped)),
            (Order::Signal { number: 37 }, Some(ExitReason::Stopped)),
            (Order::Signal { number: USR1 }, None),
            (Order::Signal { number: -1 }, None),
            (Order::Pause, None),
        ] {
            assert_eq!(end_by(&order, 37), end, "{order:?}");
        }
    }
}
