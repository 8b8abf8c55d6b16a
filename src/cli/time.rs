//! Times as people write and read them: `5m`, `2026-01-02T15:04:05Z`, `5 minutes ago`.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::duration::Span;
use super::exit::CliError;

/// A point in time given as such or as how long before `now`; `flag` is for the message.
pub(super) fn moment(flag: &str, text: &str, now: Timestamp) -> Result<Timestamp, CliError> {
    let seconds_since_1970 = |text: &str| text.parse().ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    let without_zone = |text: &str| TimeZone::UTC.to_timestamp(text.parse::<DateTime>().ok()?).ok();
    let ago = |text: &str| now.checked_sub(text.parse::<Span>().ok()?.duration()).ok();
    let time =
        seconds_since_1970(text).or_else(|| text.parse().ok()).or_else(|| without_zone(text)).or_else(|| ago(text));
    time.ok_or_else(|| {
        CliError::Usage(format!(
            "`{flag} {text}` is malformed, expected how long ago, or a time\nhint: `{flag} 1h30m`, `{flag} 2026-01-02T15:04:05Z`"
        ))
    })
}

/// How long ago something was, in one number, as docker says it.
pub(super) fn ago(time: Timestamp, now: Timestamp) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    // A clock that was set back is no reason to speak of the future.
    let seconds = now.duration_since(time).as_secs().max(0);
    let (count, unit) = match seconds {
        ..MINUTE => (seconds, "second"),
        MINUTE..HOUR => (seconds / MINUTE, "minute"),
        HOUR..DAY => (seconds / HOUR, "hour"),
        _ => (seconds / DAY, "day"),
    };
    match (count, unit) {
        (0, _) => "just now".to_owned(),
        (1, unit) => format!("1 {unit} ago"),
        (count, unit) => format!("{count} {unit}s ago"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn moments_are_read() {
        let now = at("2026-01-02T15:04:05Z");
        for (text, expected) in [
            ("5m", "2026-01-02T14:59:05Z"),
            ("1h30m", "2026-01-02T13:34:05Z"),
            ("90s", "2026-01-02T15:02:35Z"),
            ("2d", "2025-12-31T15:04:05Z"),
            ("0s", "2026-01-02T15:04:05Z"),
            ("2026-01-01T10:00:00Z", "2026-01-01T10:00:00Z"),
            ("2026-01-01T10:00:00.5+02:00", "2026-01-01T08:00:00.5Z"),
            ("2026-01-01T10:00:00", "2026-01-01T10:00:00Z"),
            ("2026-01-01 10:00", "2026-01-01T10:00:00Z"),
            ("2026-01-01", "2026-01-01T00:00:00Z"),
            ("1767225600", "2026-01-01T00:00:00Z"),
        ] {
            assert_eq!(moment("--since", text, now).unwrap(), at(expected), "{text}");
        }
        for bad in ["", "5", "5x", "-5m", "yesterday", "2026-13-01", "m", "99999999999999999999"] {
            let read = moment("--since", bad, now);
            // A bare number counts seconds since 1970, as with docker.
            assert!(bad == "5" || read.is_err(), "{bad}: {read:?}");
        }
    }

    #[test]
    fn ages_are_told() {
        let now = at("2026-01-02T15:04:05Z");
        for (time, expected) in [
            ("2026-01-02T15:04:05Z", "just now"),
            ("2026-01-02T16:00:00Z", "just now"),
            ("2026-01-02T15:04:04Z", "1 second ago"),
            ("2026-01-02T15:03:06Z", "59 seconds ago"),
            ("2026-01-02T15:03:05Z", "1 minute ago"),
            ("2026-01-02T14:05:00Z", "59 minutes ago"),
            ("2026-01-02T12:00:00Z", "3 hours ago"),
            ("2025-12-01T00:00:00Z", "32 days ago"),
        ] {
            assert_eq!(ago(at(time), now), expected);
        }
    }
}
