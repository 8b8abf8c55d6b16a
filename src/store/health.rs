//! How a run is, as its health check says: docker's states, and its rules for going from one to another.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Results that are kept, docker's number.
const MAX_RESULTS: usize = 5;

/// What the checks say together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// No check has succeeded yet, and not too many have failed.
    Starting,
    /// The last check that counts has succeeded, or not too many have failed since.
    Healthy,
    /// Too many have failed in a row.
    Unhealthy,
}

impl fmt::Display for HealthStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        })
    }
}

/// What is done about a run that turns unhealthy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// It is told.
    #[default]
    None,
    /// SIGKILL.
    Kill,
    /// As `dockless stop` does it.
    Stop,
    /// The same; the restart policy takes it for a failure and begins again.
    Restart,
}

/// A check, with docker's defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// Program and arguments, secrets masked.
    pub command: Vec<String>,
    /// From the end of one to the beginning of the next, in milliseconds.
    pub interval_ms: u64,
    /// How long one may take, in milliseconds.
    pub timeout_ms: u64,
    /// So many failures in a row make it unhealthy.
    pub retries: u32,
    /// So long after the start failures do not count until the first success, in milliseconds.
    pub start_period_ms: u64,
    /// The interval in that time, in milliseconds.
    pub start_interval_ms: u64,
    /// What is done when it turns unhealthy.
    pub on_failure: OnFailure,
}

/// What one check has said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthResult {
    /// When it began (RFC 3339, UTC).
    pub start: String,
    /// When it had ended.
    pub end: String,
    /// 0 is healthy; -1 that it took too long.
    pub exit_code: i32,
    /// The first 4096 bytes of what it wrote, secrets masked.
    pub output: String,
}

/// How a run is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunHealth {
    /// All together.
    pub status: HealthStatus,
    /// Failures in a row that count.
    pub failing_streak: u32,
    /// What is checked, and when.
    pub check: HealthCheck,
    /// The last results, the latest last.
    pub log: Vec<HealthResult>,
}

impl RunHealth {
    /// Of a run that has just started.
    #[must_use]
    pub const fn new(check: HealthCheck) -> Self {
        Self { status: HealthStatus::Starting, failing_streak: 0, check, log: Vec::new() }
    }

    /// Notes a result of a check that began so long after the workload's start; the new status if it is another one.
    pub fn note(&mut self, result: HealthResult, since_start_ms: u64) -> Option<HealthStatus> {
        let before = self.status;
        if result.exit_code == 0 {
            self.failing_streak = 0;
            self.status = HealthStatus::Healthy;
        } else if !self.is_starting(since_start_ms) {
            self.failing_streak = self.failing_streak.saturating_add(1);
            if self.failing_streak >= self.check.retries {
                self.status = HealthStatus::Unhealthy;
            }
        }
        self.log.push(result);
        let surplus = self.log.len().saturating_sub(MAX_RESULTS);
        self.log.drain(..surplus);
        (self.status != before).then_some(self.status)
    }

    /// The time until the next check begins, in milliseconds.
    #[must_use]
    pub const fn pause_ms(&self, since_start_ms: u64) -> u64 {
        if self.is_starting(since_start_ms) { self.check.start_interval_ms } else { self.check.interval_ms }
    }

    const fn is_starting(&self, since_start_ms: u64) -> bool {
        matches!(self.status, HealthStatus::Starting) && since_start_ms < self.check.start_period_ms
    }
}

#[cfg(test)]
mod tests {
    use super::HealthStatus::{Healthy, Starting, Unhealthy};
    use super::*;

    fn health(retries: u32, start_period_ms: u64) -> RunHealth {
        RunHealth::new(HealthCheck {
            command: vec!["true".to_owned()],
            interval_ms: 30_000,
            timeout_ms: 30_000,
            retries,
            start_period_ms,
            start_interval_ms: 5000,
            on_failure: OnFailure::None,
        })
    }

    #[test]
    fn statuses_follow_each_other_as_with_docker() {
        for (retries, start_period_ms, codes, statuses) in [
            (2, 0, &[1, 1, 1, 0, 1, 0][..], &[Starting, Unhealthy, Unhealthy, Healthy, Healthy, Healthy][..]),
            (1, 0, &[0, 7, 0], &[Healthy, Unhealthy, Healthy]),
            (2, 0, &[-1, 0, -1, -1], &[Starting, Healthy, Healthy, Unhealthy]),
            // One second goes by from one to the next: the first three are in the period.
            (1, 2500, &[1, 1, 1, 1], &[Starting, Starting, Starting, Unhealthy]),
            // A success ends it.
            (1, 2500, &[1, 0, 1], &[Starting, Healthy, Unhealthy]),
        ] {
            let mut health = health(retries, start_period_ms);
            for (index, (code, status)) in codes.iter().zip(statuses).enumerate() {
                let before = health.status;
                let result =
                    HealthResult { start: String::new(), end: String::new(), exit_code: *code, output: String::new() };
                let changed = health.note(result, index as u64 * 1000);
                assert_eq!(health.status, *status, "{codes:?} {index}");
                assert_eq!(changed, (before != *status).then_some(*status), "{codes:?} {index}");
            }
            assert_eq!(health.log.len(), codes.len().min(MAX_RESULTS));
        }
    }

    #[test]
    fn the_interval_is_shorter_at_the_start() {
        let mut health = health(3, 2500);
        assert_eq!((health.pause_ms(0), health.pause_ms(2500)), (5000, 30_000));
        health.status = Healthy;
        assert_eq!(health.pause_ms(0), 30_000);
    }
}
