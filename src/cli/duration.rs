//! Spans of time as they are typed: `30s`, `5m`, `2h`, `7d`, `1h30m`.

use std::str::FromStr;
use std::time::Duration;

/// Units with their seconds, the longest first; each may be given once, in this order.
const UNITS: [(char, u64); 5] = [('w', 604_800), ('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)];

/// A span of time in whole seconds. Clap reads it from an argument by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span(Duration);

/// Why a string is not a span of time.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("duration `{0}` is malformed, expected a number and a unit, e.g. `30s`, `5m`, `2h`, `7d`, `1h30m`")]
pub(super) struct SpanError(String);

impl Span {
    /// The span as the standard library has it.
    pub(super) const fn duration(self) -> Duration {
        self.0
    }
}

impl FromStr for Span {
    type Err = SpanError;

    /// A number alone is a number of seconds.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let seconds = if is_number(text) { text.parse().ok() } else { with_units(text) };
        seconds.map(|seconds| Self(Duration::from_secs(seconds))).ok_or_else(|| SpanError(text.to_owned()))
    }
}

/// `None` for what is malformed and for what does not fit.
fn with_units(text: &str) -> Option<u64> {
    let (mut rest, mut total) = (text, 0_u64);
    for (unit, seconds) in UNITS {
        let Some((number, after)) = rest.split_once(unit) else { continue };
        if !is_number(number) {
            return None;
        }
        total = number.parse::<u64>().ok()?.checked_mul(seconds)?.checked_add(total)?;
        rest = after;
    }
    (rest.is_empty() && !text.is_empty()).then_some(total)
}

/// `u64::from_str` takes a sign too.
fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_in_seconds() {
        for (text, seconds) in [
            ("0", 0),
            ("0s", 0),
            ("10", 10),
            ("30s", 30),
            ("5m", 300),
            ("2h", 7200),
            ("7d", 604_800),
            ("1w", 604_800),
            ("1h30m", 5400),
            ("1d12h", 129_600),
            ("90m", 5400),
            ("1w1d1h1m1s", 694_861),
        ] {
            assert_eq!(text.parse::<Span>().map(Span::duration), Ok(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_span() {
        for text in [
            "",
            "s",
            "m5",
            "5x",
            "-5m",
            "+5m",
            "5 m",
            "1.5h",
            "1m1h",
            "1h1h",
            "5m3",
            "5ms",
            "18446744073709551616",
            "30500568904944w",
            "1h-3m",
            "٣s",
        ] {
            assert_eq!(text.parse::<Span>(), Err(SpanError(text.to_owned())), "{text}");
        }
    }
}
