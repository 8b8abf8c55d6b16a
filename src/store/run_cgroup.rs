//! Where the cgroup of a run is, as its record has it: whoever cleans up after a killed supervisor finds it by that alone.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How the cgroup of a run stands to those that are there already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupMode {
    /// One of its own below the root of the hierarchies, or below `--cgroup-parent`.
    #[default]
    Own,
    /// It stays in that of whoever started it, under the limits of that.
    Inherit,
    /// One of its own below that of whoever started it.
    Nested,
    /// As `Inherit`, and the container sees nothing of cgroups.
    None,
}

impl CgroupMode {
    /// Whether a cgroup is made for the run.
    #[must_use]
    pub const fn makes_one(self) -> bool {
        matches!(self, Self::Own | Self::Nested)
    }
}

/// A word that is no mode.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no way to place cgroups, expected `own`, `inherit`, `nested` or `none`")]
pub struct CgroupModeError(String);

impl FromStr for CgroupMode {
    type Err = CgroupModeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "own" => Self::Own,
            "inherit" => Self::Inherit,
            "nested" => Self::Nested,
            "none" => Self::None,
            other => return Err(CgroupModeError(other.to_owned())),
        })
    }
}

impl fmt::Display for CgroupMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Own => "own",
            Self::Inherit => "inherit",
            Self::Nested => "nested",
            Self::None => "none",
        })
    }
}

/// The cgroup of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunCgroup {
    /// How it stands to others.
    pub mode: CgroupMode,
    /// Its directories, one for each hierarchy; none where no cgroup is made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_words() {
        for mode in [CgroupMode::Own, CgroupMode::Inherit, CgroupMode::Nested, CgroupMode::None] {
            assert_eq!(mode.to_string().parse::<CgroupMode>().unwrap(), mode);
            assert_eq!(serde_json::to_value(mode).unwrap(), mode.to_string());
        }
        let message = "host".parse::<CgroupMode>().unwrap_err().to_string();
        assert_eq!(message, "`host` is no way to place cgroups, expected `own`, `inherit`, `nested` or `none`");
    }
}
