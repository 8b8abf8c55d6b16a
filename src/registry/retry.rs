//! When a failed request is tried again, and how long to wait before.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::fmt::rfc2822;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

use super::failure::Failure;
use crate::image::{Observer, PullEvent};

/// How often and how long.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// Attempts in all, the first one included.
    pub attempts: u32,
    /// Wait after the first failure; it doubles with each further one.
    pub base_delay: Duration,
    /// Longest wait of our own choosing.
    pub max_delay: Duration,
    /// Longest wait that a server may ask for (`Retry-After`); one that asks for more is given up on.
    pub max_server_delay: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 5,
            base_delay: Duration::from_millis(500),
            max_delay: Duration::from_secs(10),
            max_server_delay: Duration::from_secs(120),
        }
    }
}

/// Counts the attempts at one thing and says how long to wait between them.
#[derive(Debug, Clone)]
pub(super) struct Backoff {
    policy: RetryPolicy,
    failures: u32,
    random: u64,
}

impl Backoff {
    pub(super) const fn new(policy: RetryPolicy, seed: u64) -> Self {
        Self { policy, failures: 0, random: seed }
    }

    /// Attempts that failed so far.
    pub(super) const fn failures(&self) -> u32 {
        self.failures
    }

    /// Starts counting anew, after real progress.
    pub(super) const fn reset(&mut self) {
        self.failures = 0;
    }

    /// Counts a failure; the wait before the next attempt, or `None` when there should be none.
    pub(super) fn next(&mut self, asked_by_server: Option<Duration>) -> Option<Duration> {
        self.failures += 1;
        if self.failures >= self.policy.attempts {
            return None;
        }
        if let Some(asked) = asked_by_server {
            return (asked <= self.policy.max_server_delay).then_some(asked);
        }
        let doubled = self.policy.base_delay.saturating_mul(1 << (self.failures - 1).min(16));
        let full = doubled.min(self.policy.max_delay);
        // Between half and all of it, so that clients that failed together do not come back together.
        Some(full.mul_f64(0.5 + 0.5 * self.fraction()))
    }

    /// The next pseudo-random number from 0 to 1 (`SplitMix64`).
    fn fraction(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let bits = u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap_or_default();
        f64::from(bits) / f64::from(u32::MAX)
    }
}

/// What a server asks for in `Retry-After`: seconds, or a date, which is taken relative to the server's own `Date`.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let asked = text(RETRY_AFTER)?;
    if let Ok(seconds) = asked.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = |text| rfc2822::parse(text).ok().map(|zoned| zoned.timestamp());
    let wait = date(asked)?.as_second().saturating_sub(date(text(DATE)?)?.as_second());
    Some(Duration::from_secs(u64::try_from(wait).unwrap_or(0)))
}

/// Runs `attempt` until it succeeds, fails for good, or has failed too often.
///
/// `answered` says whether the server has ever answered: a server that was there a moment ago may come back, one that
/// refuses the very first connection is most likely not there. It is set when the server answers.
pub(super) async fn with_retries<T, F: Future<Output = Result<T, Failure>>>(
    mut backoff: Backoff,
    what: &str,
    answered: &AtomicBool,
    observer: &dyn Observer,
    mut attempt: impl FnMut() -> F,
) -> Result<T, Failure> {
    loop {
        let failure = match attempt().await {
            Ok(value) => {
                answered.store(true, Ordering::Relaxed);
                return Ok(value);
            }
            Err(failure) => failure,
        };
        let delay = failure.is_passing(answered.load(Ordering::Relaxed)).then(|| backoff.next(failure.retry_after()));
        if matches!(failure, Failure::Answer(_)) {
            answered.store(true, Ordering::Relaxed);
        }
        let Some(Some(delay)) = delay else { return Err(failure) };
        pause(delay, &format!("{what}: {failure}"), observer).await;
    }
}

/// Waits, and says so.
pub(super) async fn pause(delay: Duration, what: &str, observer: &dyn Observer) {
    let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
    tracing::debug!(what, delay_ms, "trying again");
    observer.pull(&PullEvent::Retrying { what, delay_ms });
    tokio::time::sleep(delay).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_within_bounds_and_end() {
        let policy = RetryPolicy { attempts: 8, ..RetryPolicy::default() };
        for seed in 0..100 {
            let mut backoff = Backoff::new(policy, seed);
            for expected_ms in [500, 1000, 2000, 4000, 8000, 10_000, 10_000_u128] {
                let delay_ms = backoff.next(None).unwrap().as_millis();
                assert!((expected_ms / 2..=expected_ms).contains(&delay_ms), "{delay_ms} is not near {expected_ms}");
            }
            assert_eq!(backoff.next(None), None);
            backoff.reset();
            assert!(backoff.next(None).unwrap() <= Duration::from_millis(500));
        }
    }

    #[test]
    fn seeds_spread() {
        let delays: std::collections::HashSet<Duration> =
            (0..50).filter_map(|seed| Backoff::new(RetryPolicy::default(), seed).next(None)).collect();
        assert!(delays.len() > 40, "only {} different delays", delays.len());
    }

    #[test]
    fn the_server_is_obeyed_up_to_a_bound() {
        let mut backoff = Backoff::new(RetryPolicy::default(), 1);
        assert_eq!(backoff.next(Some(Duration::from_secs(7))), Some(Duration::from_secs(7)));
        assert_eq!(backoff.next(Some(Duration::from_secs(121))), None);
    }

    #[test]
    fn reads_seconds_and_dates() {
        let parse = |asked: &str, date: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, asked.parse().unwrap());
            date.map(|date| headers.insert(DATE, date.parse().unwrap()));
            retry_after(&headers).map(|delay| delay.as_secs())
        };
        let (early, late) = ("Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:28:30 GMT");
        assert_eq!(parse("5", None), Some(5));
        assert_eq!(parse(late, Some(early)), Some(30));
        assert_eq!(parse(early, Some(late)), Some(0));
        assert_eq!(parse(late, None), None);
        assert_eq!(parse("soon", Some(early)), None);
        assert_eq!(parse("-1", None), None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
