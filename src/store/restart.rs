//! `--restart`: whether a run is started once more when its workload has failed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// When a run is started once more, by docker's names; in the record a string: `no`, `on-failure`, `on-failure:3`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// When the workload has ended by itself, and not with 0.
    OnFailure {
        /// So often at most; `None` for as often as it fails.
        max: Option<u32>,
    },
}

/// A `--restart` that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestartPolicyError {
    /// docker has it, and there is nobody here to do it.
    #[error(
        "`--restart {0}` is not possible: no daemon is here that would start a run after it was stopped or after a reboot, expected `no` or `on-failure[:N]`\n\
         hint: `--restart on-failure`, or a unit of the machine's service manager that runs `dockless run`"
    )]
    NeedsDaemon(String),
    /// Nobody has it.
    #[error("`--restart {0}` is unknown, expected `no` or `on-failure[:N]`")]
    Unknown(String),
    /// How often is no number.
    #[error("`--restart {0}`: expected a whole number from 0 (no limit) to {limit} after the colon", limit = u32::MAX)]
    Count(String),
    /// How often, of what never happens.
    #[error("`--restart {0}`: only `on-failure` takes a number")]
    CountWithout(String),
}

impl RestartPolicy {
    /// Whether it is never started once more.
    #[must_use]
    pub fn is_no(&self) -> bool {
        *self == Self::No
    }

    /// Whether a run that failed, and that was started once more `restarts` times, is so again.
    #[must_use]
    pub fn permits(self, restarts: u32) -> bool {
        match self {
            Self::No => false,
            Self::OnFailure { max } => max.is_none_or(|max| restarts < max),
        }
    }
}

impl FromStr for RestartPolicy {
    type Err = RestartPolicyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let whole = || text.to_owned();
        let (name, count) = text.split_once(':').map_or((text, None), |(name, count)| (name, Some(count)));
        match (name, count) {
            ("no", None) => Ok(Self::No),
            ("on-failure", None) => Ok(Self::OnFailure { max: None }),
            ("on-failure", Some(count)) => {
                let is_number = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
                let count: Option<u32> = count.parse().ok().filter(|_| is_number);
                let count = count.ok_or_else(|| RestartPolicyError::Count(whole()))?;
                // As docker has it, 0 is no limit.
                Ok(Self::OnFailure { max: Some(count).filter(|count| *count > 0) })
            }
            ("always" | "unless-stopped", _) => Err(RestartPolicyError::NeedsDaemon(whole())),
            ("no", Some(_)) => Err(RestartPolicyError::CountWithout(whole())),
            _ => Err(RestartPolicyError::Unknown(whole())),
        }
    }
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::OnFailure { max: None } => f.write_str("on-failure"),
            Self::OnFailure { max: Some(max) } => write!(f, "on-failure:{max}"),
        }
    }
}

impl TryFrom<String> for RestartPolicy {
    type Error = RestartPolicyError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<RestartPolicy> for String {
    fn from(policy: RestartPolicy) -> Self {
        policy.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_as_docker_reads_them() {
        for (text, policy, written) in [
            ("no", RestartPolicy::No, "no"),
            ("on-failure", RestartPolicy::OnFailure { max: None }, "on-failure"),
            ("on-failure:0", RestartPolicy::OnFailure { max: None }, "on-failure"),
            ("on-failure:3", RestartPolicy::OnFailure { max: Some(3) }, "on-failure:3"),
        ] {
            assert_eq!(text.parse(), Ok(policy));
            assert_eq!(serde_json::to_string(&policy).unwrap(), format!("\"{written}\""));
            assert_eq!(serde_json::from_str::<RestartPolicy>(&format!("\"{written}\"")).unwrap(), policy);
        }
        for (text, told) in [
            ("always", "no daemon is here"),
            ("unless-stopped", "hint: "),
            ("always:3", "no daemon is here"),
            ("on-failure:x", "expected a whole number"),
            ("on-failure:-1", "expected a whole number"),
            ("on-failure:+1", "expected a whole number"),
            ("on-failure:", "expected a whole number"),
            ("on-failure:4294967296", "expected a whole number"),
            ("no:1", "only `on-failure` takes a number"),
            ("", "is unknown"),
            ("On-Failure", "is unknown"),
        ] {
            let error = text.parse::<RestartPolicy>().unwrap_err().to_string();
            assert!(error.contains(told) && error.contains(text), "{error}");
        }
        assert!(serde_json::from_str::<RestartPolicy>("\"always\"").is_err());
    }

    #[test]
    fn so_often_and_no_more() {
        let policy = RestartPolicy::OnFailure { max: Some(2) };
        assert!(policy.permits(0) && policy.permits(1) && !policy.permits(2) && !policy.permits(u32::MAX));
        assert!(RestartPolicy::OnFailure { max: None }.permits(u32::MAX) && !RestartPolicy::No.permits(0));
    }
}
