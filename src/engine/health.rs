//! Which health check a run has: what is asked for over what the image declares, with docker's defaults for the rest.

use serde_json::Value;

use crate::image::{CheckCommand, CheckError, CheckTiming, DeclaredCheck, ImageConfig};
use crate::store::{HealthCheck, OnFailure, RunHealth};
use crate::supervisor::protocol::Masked;
use crate::words::printable;

const INTERVAL_MS: u64 = 30_000;
const TIMEOUT_MS: u64 = 30_000;
const START_INTERVAL_MS: u64 = 5000;
const RETRIES: u32 = 3;
/// What a check costs outside of its container is not the image's to spend: it does not make us check more often than that.
const IMAGES_LEAST_MS: u64 = 100;
/// What reads the line of a check, unless the image says something else.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// What is asked for; the default is the image's own check, of which nothing follows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HealthWishes {
    /// `--no-healthcheck`.
    pub disabled: bool,
    /// `--health-cmd`, over the image's.
    pub command: Option<CheckCommand>,
    /// Its times, over the image's.
    pub timing: CheckTiming,
    /// `--health-on-failure`.
    pub on_failure: OnFailure,
}

/// Why a run does not get the check that is asked for.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// There is nothing that the flag could change.
    #[error("`{flag}` was given, but the image has no health check\nhint: `--health-cmd COMMAND` gives the run one")]
    NoCheck {
        /// The first of the flags.
        flag: &'static str,
    },
    /// The image's is none.
    #[error("`{flag}` was given, but in the image {problem}\nhint: `--health-cmd COMMAND` gives the run another one")]
    Malformed {
        /// The first of the flags.
        flag: &'static str,
        /// What is wrong with it.
        problem: CheckError,
    },
}

/// The check that a run has.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    /// For the record.
    pub(super) health: Option<RunHealth>,
    /// Program and arguments as they are executed.
    pub(super) command: Vec<String>,
    /// What is not as the image says.
    pub(super) warning: Option<String>,
}

impl HealthWishes {
    /// The first flag that makes sense only with a check.
    fn first_flag(&self) -> Option<&'static str> {
        let timing = &self.timing;
        [
            (timing.interval_ms.is_some(), "--health-interval"),
            (timing.timeout_ms.is_some(), "--health-timeout"),
            (timing.retries.is_some(), "--health-retries"),
            (timing.start_period_ms.is_some(), "--health-start-period"),
            (timing.start_interval_ms.is_some(), "--health-start-interval"),
            (self.on_failure != OnFailure::None, "--health-on-failure"),
        ]
        .into_iter()
        .find_map(|(is_given, flag)| is_given.then_some(flag))
    }

    /// What becomes of them with this image. A malformed check of the image's own keeps nobody from running it.
    pub(super) fn choose(&self, image: &ImageConfig, secrets: &Masked) -> Result<Chosen, HealthError> {
        if self.disabled {
            return Ok(Chosen::default());
        }
        let (declared, problem) = match DeclaredCheck::parse(image.health_check.as_ref().unwrap_or(&Value::Null)) {
            Ok(declared) => (declared, None),
            Err(problem) => (DeclaredCheck::default(), Some(problem)),
        };
        let command = self.command.clone().or(declared.command).filter(|command| *command != CheckCommand::Nothing);
        let Some(command) = command else {
            return match (self.first_flag(), problem) {
                (Some(flag), Some(problem)) => Err(HealthError::Malformed { flag, problem }),
                (Some(flag), None) => Err(HealthError::NoCheck { flag }),
                (None, problem) => {
                    let told = problem.map(|problem| printable(&format!("in the image {problem}; it is not run")));
                    Ok(Chosen { warning: told, ..Chosen::default() })
                }
            };
        };
        let as_said = self.timing.or(declared.timing);
        let timing = self.timing.or(slow_down(declared.timing));
        let warning = (timing != as_said).then(too_often);
        let command = command.words(&shell(image));
        let health = RunHealth::new(HealthCheck {
            command: command.iter().map(|word| secrets.mask(word)).collect(),
            interval_ms: timing.interval_ms.unwrap_or(INTERVAL_MS),
            timeout_ms: timing.timeout_ms.unwrap_or(TIMEOUT_MS),
            retries: timing.retries.unwrap_or(RETRIES),
            start_period_ms: timing.start_period_ms.unwrap_or(0),
            start_interval_ms: timing.start_interval_ms.unwrap_or(START_INTERVAL_MS),
            on_failure: self.on_failure,
        });
        Ok(Chosen { health: Some(health), command, warning })
    }
}

/// Keeps the image's intervals from being too short.
fn slow_down(declared: CheckTiming) -> CheckTiming {
    let raise = |span: Option<u64>| span.map(|span| span.max(IMAGES_LEAST_MS));
    CheckTiming {
        interval_ms: raise(declared.interval_ms),
        start_interval_ms: raise(declared.start_interval_ms),
        ..declared
    }
}

fn too_often() -> String {
    let told =
        format!("the image wants its health check more often than every {IMAGES_LEAST_MS} ms and gets it that often");
    format!("{told}\nhint: `--health-interval` and `--health-start-interval` take any time")
}

/// docker's `SHELL` of an image, when it is a command.
fn shell(image: &ImageConfig) -> Vec<String> {
    let own = image.shell.as_ref().and_then(|value| serde_json::from_value::<Vec<String>>(value.clone()).ok());
    own.filter(|words| words.first().is_some_and(|word| !word.is_empty()) && !words.iter().any(|w| w.contains('\0')))
        .unwrap_or_else(|| SHELL.map(str::to_owned).to_vec())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn image(check: Value) -> ImageConfig {
        ImageConfig { health_check: Some(check), ..ImageConfig::default() }
    }

    fn choose(wishes: &HealthWishes, image: &ImageConfig) -> Result<Chosen, HealthError> {
        wishes.choose(image, &Masked::new(["s3cret".to_owned()]))
    }

    #[test]
    fn flags_win_over_the_image_and_the_image_over_defaults() {
        let declared = json!({ "Test": ["CMD-SHELL", "own s3cret"], "Interval": 2_000_000_000, "Retries": 7 });
        let mut image = image(declared);
        let chosen = choose(&HealthWishes::default(), &image).unwrap();
        assert_eq!(chosen.command, ["/bin/sh", "-c", "own s3cret"]);
        let check = chosen.health.unwrap().check;
        assert_eq!(check.command, ["/bin/sh", "-c", "own ****"]);
        assert_eq!((check.interval_ms, check.timeout_ms, check.retries), (2000, 30_000, 7));
        assert_eq!((check.start_period_ms, check.start_interval_ms), (0, 5000));
        image.shell = Some(json!(["/bin/bash", "-ec"]));
        let timing = CheckTiming { interval_ms: Some(5), ..CheckTiming::default() };
        let command = Some(CheckCommand::Shell("other".to_owned()));
        let wishes = HealthWishes { command, timing, on_failure: OnFailure::Kill, ..HealthWishes::default() };
        let check = choose(&wishes, &image).unwrap().health.unwrap().check;
        assert_eq!(check.command, ["/bin/bash", "-ec", "other"]);
        assert_eq!((check.interval_ms, check.retries, check.on_failure), (5, 7, OnFailure::Kill));
        let disabled = HealthWishes { disabled: true, ..HealthWishes::default() };
        assert!(choose(&disabled, &image).unwrap().health.is_none());
        let nothing = HealthWishes { command: Some(CheckCommand::Nothing), ..HealthWishes::default() };
        assert!(choose(&nothing, &image).unwrap().health.is_none());
    }

    #[test]
    fn flags_need_a_check() {
        let wishes = HealthWishes { on_failure: OnFailure::Kill, ..HealthWishes::default() };
        for (image, told) in [
            (ImageConfig::default(), "the image has no health check"),
            (image(json!({ "Test": ["NONE"] })), "the image has no health check"),
            (image(json!({ "Test": "x" })), "`Test` of the health check is malformed"),
        ] {
            let error = choose(&wishes, &image).unwrap_err().to_string();
            assert!(error.contains("`--health-on-failure`") && error.contains(told), "{error}");
        }
        assert!(choose(&HealthWishes::default(), &ImageConfig::default()).unwrap().warning.is_none());
        let told = choose(&HealthWishes::default(), &image(json!({ "Test": "x" }))).unwrap().warning.unwrap();
        assert!(told.contains("malformed"), "{told}");
        let often = image(json!({ "Test": ["CMD", "x"], "Interval": 1_000_000 }));
        let chosen = choose(&HealthWishes::default(), &often).unwrap();
        assert!(chosen.warning.unwrap().contains("100 ms"));
        assert_eq!(chosen.health.unwrap().check.interval_ms, IMAGES_LEAST_MS);
        let timing = CheckTiming { interval_ms: Some(1), ..CheckTiming::default() };
        let asked = choose(&HealthWishes { timing, ..HealthWishes::default() }, &often).unwrap();
        assert_eq!(asked.health.unwrap().check.interval_ms, 1);
    }
}
