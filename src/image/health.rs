//! Health checks as images declare them: docker's `Healthcheck`, which the OCI format does not have, though tools write it there
//! too. All of it is data from outside.

use std::time::Duration;

use serde_json::Value;

/// The longest command of a check; the kernel takes no argument of twice that (`MAX_ARG_STRLEN`, execve(2)).
const MAX_COMMAND_BYTES: usize = 64 << 10;
/// So much is told of a value that is none.
const MAX_SHOWN_CHARACTERS: usize = 40;
/// Nothing shorter can be said.
const LEAST: Duration = Duration::from_millis(1);

/// What is asked in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckCommand {
    /// No check at all, whatever an image below this one says.
    Nothing,
    /// A program with its arguments.
    Program(Vec<String>),
    /// A line for the image's shell.
    Shell(String),
}

/// When and how often; `None` where nothing is said. Spans of time are at least one millisecond.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CheckTiming {
    /// Between the end of one check and the beginning of the next, in milliseconds.
    pub interval_ms: Option<u64>,
    /// How long one may take, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// How long failures do not count after the start, in milliseconds.
    pub start_period_ms: Option<u64>,
    /// As `interval_ms`, in the start period until the first success.
    pub start_interval_ms: Option<u64>,
    /// So many failures in a row are one too many.
    pub retries: Option<u32>,
}

impl CheckTiming {
    /// What is not said here as it is said there.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            interval_ms: self.interval_ms.or(other.interval_ms),
            timeout_ms: self.timeout_ms.or(other.timeout_ms),
            start_period_ms: self.start_period_ms.or(other.start_period_ms),
            start_interval_ms: self.start_interval_ms.or(other.start_interval_ms),
            retries: self.retries.or(other.retries),
        }
    }
}

/// The check of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeclaredCheck {
    /// `None` when only times are given.
    pub command: Option<CheckCommand>,
    /// When it is run.
    pub timing: CheckTiming,
}

/// Why a declaration is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// Not a JSON object.
    #[error("the health check is no object")]
    Shape,
    /// The command.
    #[error(
        "`Test` of the health check is malformed, expected `[\"NONE\"]`, `[\"CMD\", …]` or `[\"CMD-SHELL\", LINE]`"
    )]
    Test,
    /// The command is not short enough for the kernel, or there is none.
    #[error("the command of the health check has {0} bytes, expected 1 to {MAX_COMMAND_BYTES}")]
    Length(usize),
    /// A character that no argument can have.
    #[error("the command of the health check has a NUL character in it")]
    Nul,
    /// A span of time or a count.
    #[error("`{key}` of the health check is `{found}`, expected {expected}")]
    Number {
        /// Which.
        key: &'static str,
        /// What is there.
        found: String,
        /// What should be.
        expected: &'static str,
    },
}

impl DeclaredCheck {
    /// Reads the value of `Healthcheck`.
    ///
    /// # Errors
    /// [`CheckError`] when it is something else.
    pub fn parse(value: &Value) -> Result<Self, CheckError> {
        let Value::Object(object) = value else {
            return if value.is_null() { Ok(Self::default()) } else { Err(CheckError::Shape) };
        };
        let span = |key| milliseconds(key, object.get(key));
        let command = match object.get("Test") {
            None | Some(Value::Null) => None,
            Some(test) => {
                let words: Vec<String> = serde_json::from_value(test.clone()).map_err(|_| CheckError::Test)?;
                if words.is_empty() { None } else { Some(CheckCommand::from_test(words)?) }
            }
        };
        Ok(Self {
            command,
            timing: CheckTiming {
                interval_ms: span("Interval")?,
                timeout_ms: span("Timeout")?,
                start_period_ms: span("StartPeriod")?,
                start_interval_ms: span("StartInterval")?,
                retries: count("Retries", object.get("Retries"))?,
            },
        })
    }
}

impl CheckCommand {
    /// What `--health-cmd` says: a line for a shell; as podman has it, also a list in JSON, and `none`.
    ///
    /// # Errors
    /// [`CheckError`] when it cannot be executed.
    pub fn from_flag(text: &str) -> Result<Self, CheckError> {
        if text.eq_ignore_ascii_case("none") {
            return Ok(Self::Nothing);
        }
        let command = match serde_json::from_str::<Vec<String>>(text) {
            // A line like `[ -e /ready ]` is no JSON.
            Err(_) => Self::Shell(text.to_owned()),
            Ok(words) => match words.first().map(String::as_str) {
                Some("NONE" | "CMD" | "CMD-SHELL") => return Self::from_test(words),
                _ => Self::Program(words),
            },
        };
        command.checked()
    }

    fn from_test(mut words: Vec<String>) -> Result<Self, CheckError> {
        let rest = words.split_off(1);
        match (words[0].as_str(), rest.as_slice()) {
            ("NONE", []) => Ok(Self::Nothing),
            ("CMD", [_, ..]) => Self::Program(rest).checked(),
            ("CMD-SHELL", [line]) => Self::Shell(line.clone()).checked(),
            _ => Err(CheckError::Test),
        }
    }

    fn checked(self) -> Result<Self, CheckError> {
        let words: &[String] = match &self {
            Self::Nothing => return Ok(self),
            Self::Program(words) => words,
            Self::Shell(line) => std::slice::from_ref(line),
        };
        let length = words.iter().map(String::len).sum();
        if words.first().is_none_or(|word| word.trim().is_empty()) || length > MAX_COMMAND_BYTES {
            return Err(CheckError::Length(length));
        }
        if words.iter().any(|word| word.contains('\0')) { Err(CheckError::Nul) } else { Ok(self) }
    }

    /// Program and arguments; `shell` begins the command of a line.
    #[must_use]
    pub fn words(&self, shell: &[String]) -> Vec<String> {
        match self {
            Self::Nothing => Vec::new(),
            Self::Program(words) => words.clone(),
            Self::Shell(line) => shell.iter().chain([line]).cloned().collect(),
        }
    }
}

/// Nanoseconds; 0 says nothing.
fn milliseconds(key: &'static str, value: Option<&Value>) -> Result<Option<u64>, CheckError> {
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(None) };
    let number = value.as_u64().filter(|number| i64::try_from(*number).is_ok());
    let wrong = || CheckError::Number { key, found: shown(value), expected: "a number of nanoseconds" };
    let span = Duration::from_nanos(number.ok_or_else(wrong)?);
    let rounded = u64::try_from(span.max(LEAST).as_millis()).unwrap_or(u64::MAX);
    Ok((!span.is_zero()).then_some(rounded))
}

fn count(key: &'static str, value: Option<&Value>) -> Result<Option<u32>, CheckError> {
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(None) };
    let wrong = || CheckError::Number { key, found: shown(value), expected: "a number of failures" };
    let number = value.as_u64().and_then(|number| u32::try_from(number).ok()).ok_or_else(wrong)?;
    Ok((number > 0).then_some(number))
}

/// The beginning of it.
fn shown(value: &Value) -> String {
    value.to_string().chars().take(MAX_SHOWN_CHARACTERS).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn reads_what_docker_and_buildah_write() {
        let check = DeclaredCheck::parse(&json!({
            "Test": ["CMD-SHELL", "test -e /ready"], "Interval": 5_000_000_000_u64, "Timeout": 1, "Retries": 2
        }));
        let check = check.unwrap();
        assert_eq!(check.command, Some(CheckCommand::Shell("test -e /ready".to_owned())));
        let timing =
            CheckTiming { interval_ms: Some(5000), timeout_ms: Some(1), retries: Some(2), ..CheckTiming::default() };
        assert_eq!(check.timing, timing);
        let none = DeclaredCheck::parse(&json!({ "Test": ["NONE"] })).unwrap();
        assert_eq!(none.command, Some(CheckCommand::Nothing));
        let program = DeclaredCheck::parse(&json!({ "Test": ["CMD", "a", "b"], "StartPeriod": 0 })).unwrap();
        assert_eq!(program.command.unwrap().words(&words(&["sh", "-c"])), ["a", "b"]);
        for nothing in [json!(null), json!({}), json!({ "Test": null }), json!({ "Test": [] })] {
            assert_eq!(DeclaredCheck::parse(&nothing), Ok(DeclaredCheck::default()), "{nothing}");
        }
    }

    #[test]
    fn what_is_malformed_is_told() {
        for (value, told) in [
            (json!("curl"), "no object"),
            (json!({ "Test": "curl" }), "`Test`"),
            (json!({ "Test": ["curl"] }), "`Test`"),
            (json!({ "Test": ["CMD"] }), "`Test`"),
            (json!({ "Test": ["CMD-SHELL", "a", "b"] }), "`Test`"),
            (json!({ "Test": ["CMD", 7] }), "`Test`"),
            (json!({ "Test": ["CMD-SHELL", " "] }), "1 bytes"),
            (json!({ "Test": ["CMD-SHELL", "x".repeat(70_000)] }), "70000 bytes"),
            (json!({ "Test": ["CMD", "a\u{0}"] }), "NUL"),
            (json!({ "Test": ["CMD", "a"], "Interval": -1 }), "`-1`"),
            (json!({ "Test": ["CMD", "a"], "Timeout": "5s" }), "`Timeout`"),
            (json!({ "Test": ["CMD", "a"], "Retries": 1e99 }), "`Retries`"),
        ] {
            let error = DeclaredCheck::parse(&value).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn a_flag_is_a_line_or_a_list() {
        let shell = |line: &str| Ok(CheckCommand::Shell(line.to_owned()));
        for (text, command) in [
            ("curl -f http://localhost", shell("curl -f http://localhost")),
            ("[ -e /ready ]", shell("[ -e /ready ]")),
            (r#"["test", "-e", "/ready"]"#, Ok(CheckCommand::Program(words(&["test", "-e", "/ready"])))),
            (r#"["CMD", "test"]"#, Ok(CheckCommand::Program(words(&["test"])))),
            (r#"["CMD-SHELL", "test"]"#, shell("test")),
            ("none", Ok(CheckCommand::Nothing)),
            (r#"["NONE"]"#, Ok(CheckCommand::Nothing)),
            ("", Err(CheckError::Length(0))),
            ("[]", Err(CheckError::Length(0))),
        ] {
            assert_eq!(CheckCommand::from_flag(text), command, "{text}");
        }
    }
}
