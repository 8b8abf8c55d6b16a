//! The health flags of `run`, and `healthcheck run`.

use std::time::Duration;

use tokio::time::timeout;

use super::args::{HealthAction, HealthArgs, HealthcheckRunArgs};
use super::context::{Context, block_on};
use super::exec::stay;
use super::exit::{CliError, UNHEALTHY};
use super::printer::print_error;
use crate::engine::{EngineError, EnterError, HealthWishes};
use crate::image::{CheckCommand, CheckTiming};
use crate::spec::ExecOptions;
use crate::store::OnFailure;

/// docker's least: nothing shorter can be asked for.
const LEAST: Duration = Duration::from_millis(1);
/// Go's units, which docker takes.
const UNITS: [(&str, u64); 7] = [
    ("ns", 1),
    ("us", 1000),
    ("µs", 1000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// What is asked for. `restarts` says that a run that fails is started once more.
pub(super) fn health(args: &HealthArgs, restarts: bool) -> Result<HealthWishes, CliError> {
    let command = args.health_cmd.as_deref().map(CheckCommand::from_flag).transpose();
    let command = command.map_err(|error| CliError::Usage(format!("`--health-cmd`: {error}")))?;
    let wishes = HealthWishes {
        disabled: args.no_healthcheck,
        command,
        timing: CheckTiming {
            interval_ms: span("--health-interval", args.health_interval.as_deref())?,
            timeout_ms: span("--health-timeout", args.health_timeout.as_deref())?,
            start_period_ms: span("--health-start-period", args.health_start_period.as_deref())?,
            start_interval_ms: span("--health-start-interval", args.health_start_interval.as_deref())?,
            retries: retries(args.health_retries.as_deref())?,
        },
        on_failure: match args.health_on_failure {
            HealthAction::None => OnFailure::None,
            HealthAction::Kill => OnFailure::Kill,
            HealthAction::Stop => OnFailure::Stop,
            HealthAction::Restart => OnFailure::Restart,
        },
    };
    if wishes.on_failure == OnFailure::Restart && !restarts {
        return Err(CliError::Usage(
            "`--health-on-failure restart` means nothing without a restart policy\n\
             hint: `--health-on-failure stop` ends the run, with an exit code that a scheduler sees"
                .to_owned(),
        ));
    }
    let others = wishes.timing != CheckTiming::default() || wishes.on_failure != OnFailure::None;
    if wishes.command == Some(CheckCommand::Nothing) && others {
        let hint = "hint: leave the other flags out, or name a command";
        return Err(CliError::Usage(format!(
            "`--health-cmd none` cannot be given together with other flags of a health check\n{hint}"
        )));
    }
    Ok(wishes)
}

/// Milliseconds; 0 leaves it at the default, as with docker.
fn span(flag: &str, text: Option<&str>) -> Result<Option<u64>, CliError> {
    let Some(text) = text else { return Ok(None) };
    let wrong = |expected: &str| CliError::Usage(format!("`{flag} {text}`: expected {expected}"));
    let span = go_duration(text).ok_or_else(|| wrong("a number and a unit, e.g. `500ms`, `30s`, `1m30s`"))?;
    if span.is_zero() {
        return Ok(None);
    }
    if span < LEAST {
        return Err(wrong("1ms or more; 0 for the default"));
    }
    Ok(u64::try_from(span.as_millis()).ok())
}

fn retries(text: Option<&str>) -> Result<Option<u32>, CliError> {
    let Some(text) = text else { return Ok(None) };
    let wrong =
        |_| CliError::Usage(format!("`--health-retries {text}`: expected a number of failures, 0 for the default"));
    Ok(Some(text.parse().map_err(wrong)?).filter(|retries| *retries > 0))
}

/// `1m30s`, `1.5h`, `500ms`, `0`; no sign, and no more than Go can hold.
fn go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut total) = (text, 0_u64);
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (digits, after) = rest.split_at(number);
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (_, nanoseconds) = UNITS.iter().find(|(name, _)| *name == &after[..unit])?;
        total = total.checked_add(scaled(digits, *nanoseconds)?)?;
        rest = &after[unit..];
    }
    (!text.is_empty() && i64::try_from(total).is_ok()).then(|| Duration::from_nanos(total))
}

/// A decimal number of such units.
fn scaled(digits: &str, unit: u64) -> Option<u64> {
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    if (whole.is_empty() && part.is_empty()) || part.contains('.') {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()? };
    let (mut fraction, mut scale) = (0, unit);
    for digit in part.bytes() {
        scale /= 10;
        fraction += u64::from(digit - b'0') * scale;
    }
    whole.checked_mul(unit)?.checked_add(fraction)
}

/// Runs the check of a run once; its output is ours.
pub(super) fn run(context: &Context, args: &HealthcheckRunArgs) -> Result<u8, CliError> {
    let printer = context.printer(args.talk);
    let engine = context.engine(None, printer)?;
    let run = engine.store().find_run(&args.run)?;
    let Some(health) = run.record()?.health else {
        return Err(CliError::Usage(format!(
            "run `{}` has no health check\nhint: `dockless run --health-cmd COMMAND` gives it one",
            args.run
        )));
    };
    let limit = Duration::from_millis(health.check.timeout_ms);
    let options = ExecOptions { command: health.check.command, ..ExecOptions::default() };
    let ended = block_on(async { Ok(timeout(limit, stay(&engine, &run, options, None, printer)).await.ok()) })?;
    match ended {
        Some(Ok(0)) => return Ok(0),
        Some(Ok(code)) => print_error(&format!("unhealthy: the check ended with {code}")),
        Some(Err(CliError::Engine(EngineError::Enter(EnterError::Start(failure))))) => print_error(&failure.message),
        Some(Err(error)) => return Err(error),
        None => print_error(&format!("unhealthy: the check took longer than {limit:?}")),
    }
    Ok(UNHEALTHY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_as_docker_takes_them() {
        for (text, milliseconds) in [
            ("30s", Some(30_000)),
            ("1m30s", Some(90_000)),
            ("1.5h", Some(5_400_000)),
            ("500ms", Some(500)),
            (".5s", Some(500)),
            ("1000us", Some(1)),
            ("1500000ns", Some(1)),
            ("0", None),
            ("0s", None),
        ] {
            assert_eq!(span("--x", Some(text)).unwrap(), milliseconds, "{text}");
        }
        for (text, told) in [
            ("30", "a unit"),
            ("-1s", "a unit"),
            ("", "a unit"),
            ("s", "a unit"),
            ("1.2.3s", "a unit"),
            (".s", "a unit"),
            ("1d", "a unit"),
            ("300000h300000000000h", "a unit"),
            ("999us", "1ms or more"),
        ] {
            let error = span("--x", Some(text)).unwrap_err().to_string();
            assert!(error.contains(told) && error.contains(&format!("`--x {text}`")), "{error}");
        }
        assert_eq!(retries(Some("0")).unwrap(), None);
        assert_eq!(retries(Some("4")).unwrap(), Some(4));
        for text in ["-1", "x", "4294967296", ""] {
            assert!(retries(Some(text)).is_err(), "{text}");
        }
    }
}
