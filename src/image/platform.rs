//! Platforms (`os/architecture[/variant]`) and which image of an index suits one.
//!
//! Variants are ordered: an `arm/v7` machine runs `v6`, an `amd64/v3` machine runs `v2` and plain `amd64`. The best
//! match is the highest variant that is not above the wanted one (containerd's `platforms.Only` does the same).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An operating system, an architecture in Go's spelling, and a variant of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`, …
    pub os: String,
    /// `amd64`, `arm64`, `arm`, …
    pub architecture: String,
    /// `v7`, `v3`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// Why a string is not a platform.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("platform `{0}` is malformed, expected `os/architecture[/variant]`, e.g. `linux/amd64` or `linux/arm/v7`")]
pub struct PlatformError(String);

impl Platform {
    /// The platform that this binary was built for.
    #[must_use]
    pub fn host() -> Self {
        Self::new("linux", std::env::consts::ARCH, None)
    }

    /// Normalises the spellings that are in use (`x86_64`, `aarch64`, `armhf`, `arm64/v8`).
    #[must_use]
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let (architecture, variant) = match (architecture, variant.filter(|variant| !variant.is_empty())) {
            ("x86_64" | "x86-64" | "amd64", Some("v1")) | ("x86_64" | "x86-64", None) => ("amd64", None),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("aarch64" | "arm64", Some("v8" | "8") | None) => ("arm64", None),
            ("aarch64", variant) => ("arm64", variant),
            ("armhf" | "arm", None) => ("arm", Some("v7")),
            ("armel", None) => ("arm", Some("v6")),
            ("i386" | "i686" | "x86", variant) => ("386", variant),
            ("powerpc64le", variant) => ("ppc64le", variant),
            other => other,
        };
        Self { os: os.to_owned(), architecture: architecture.to_owned(), variant: variant.map(str::to_owned) }
    }

    /// How well an image for `offered` suits a machine of this platform: `None` not at all, else higher is better.
    #[must_use]
    pub fn rank(&self, offered: &Self) -> Option<u32> {
        let offered = Self::new(&offered.os, &offered.architecture, offered.variant.as_deref());
        if self.os != offered.os || self.architecture != offered.architecture {
            return None;
        }
        match (self.level(), offered.level()) {
            _ if self.variant == offered.variant => Some(u32::MAX),
            (Some(wanted), Some(level)) if level <= wanted => Some(level),
            _ => None,
        }
    }

    /// The variant as a number; a missing variant is the lowest one.
    fn level(&self) -> Option<u32> {
        match &self.variant {
            None => Some(0),
            Some(variant) => variant.strip_prefix('v').and_then(|level| level.parse().ok()),
        }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let good = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        let parts: Vec<&str> = text.split('/').collect();
        if !parts.iter().all(|part| good(part)) {
            return Err(PlatformError(text.to_owned()));
        }
        match parts[..] {
            [os, architecture] => Ok(Self::new(os, architecture, None)),
            [os, architecture, variant] => Ok(Self::new(os, architecture, Some(variant))),
            _ => Err(PlatformError(text.to_owned())),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    fn best<'a>(wanted: &str, offered: &[&'a str]) -> Option<&'a str> {
        let wanted = platform(wanted);
        offered
            .iter()
            .filter_map(|text| wanted.rank(&platform(text)).map(|rank| (rank, *text)))
            .max_by_key(|(rank, _)| *rank)
            .map(|(_, text)| text)
    }

    #[test]
    fn takes_the_highest_variant_that_runs() {
        assert_eq!(best("linux/arm/v7", &["linux/arm/v5", "linux/arm/v6", "linux/arm/v8"]), Some("linux/arm/v6"));
        assert_eq!(
            best("linux/amd64/v3", &["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"]),
            Some("linux/amd64/v2")
        );
        assert_eq!(best("linux/amd64", &["linux/amd64/v2", "linux/386"]), None);
        assert_eq!(best("linux/arm64", &["linux/arm64/v8"]), Some("linux/arm64/v8"));
        assert_eq!(best("linux/amd64", &["windows/amd64"]), None);
    }

    #[test]
    fn spellings_are_one() {
        assert_eq!(platform("linux/x86_64"), platform("linux/amd64"));
        assert_eq!(platform("linux/aarch64"), platform("linux/arm64/v8"));
        assert_eq!(platform("linux/arm").to_string(), "linux/arm/v7");
        for bad in ["", "linux", "linux/", "a/b/c/d", "linux/am d64"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad} was accepted");
        }
    }
}
