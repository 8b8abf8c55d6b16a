//! Sizes in bytes, in the two dialects that users write them in.
//!
//! Docker's flags (`-m 128m`, `--shm-size 1g`) count in powers of 1024 whatever the suffix (docker's `units.RAMInBytes`).
//! Workflow files follow dstack and the SI: `GB` and `G` are powers of 1000, `GiB` and `Gi` powers of 1024.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A number of bytes that prints as a person would say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

/// Why a string is not a size.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("size `{0}` is malformed, expected a number with an optional unit, e.g. `512MB`, `16GB`, `8GiB`, `64m`")]
pub struct ByteSizeError(String);

impl ByteSize {
    /// Reads docker's dialect: every unit is binary.
    ///
    /// # Errors
    /// [`ByteSizeError`] for anything but a number with an optional unit.
    pub fn from_docker(text: &str) -> Result<Self, ByteSizeError> {
        Self::parse(text, |_| 1024)
    }

    /// Reads the workflow dialect: a unit with an `i` is binary, one without is decimal.
    ///
    /// # Errors
    /// [`ByteSizeError`] for anything but a number with an optional unit.
    pub fn from_workflow(text: &str) -> Result<Self, ByteSizeError> {
        Self::parse(text, |unit| if unit.contains('i') { 1024 } else { 1000 })
    }

    /// As people have written it: decimal when it is round in decimal units only.
    #[must_use]
    pub fn in_words(self) -> String {
        const UNITS: [(u64, &str); 4] =
            [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1000, "kB")];
        let is_binary = self.0.is_multiple_of(1 << 20);
        let decimal = UNITS.iter().find(|(unit, _)| !is_binary && self.0 >= *unit && self.0.is_multiple_of(*unit));
        decimal.map_or_else(|| self.to_string(), |(unit, name)| format!("{} {name}", self.0 / unit))
    }

    fn parse(text: &str, base: impl Fn(&str) -> u32) -> Result<Self, ByteSizeError> {
        let bad = || ByteSizeError(text.to_owned());
        let compact: String = text.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_ascii_lowercase();
        let end = compact.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(compact.len());
        let (number, unit) = compact.split_at(end);
        let prefix = match unit {
            "" | "b" => "",
            _ => unit.strip_suffix("ib").or(unit.strip_suffix('b')).or(unit.strip_suffix('i')).unwrap_or(unit),
        };
        let power = match prefix {
            "" if matches!(unit, "" | "b") => 0,
            "k" => 1,
            "m" => 2,
            "g" => 3,
            "t" => 4,
            "p" => 5,
            _ => return Err(bad()),
        };
        if number.is_empty() || number.starts_with('.') {
            return Err(bad());
        }
        let scale = u64::from(base(unit)).pow(power);
        scaled(number, scale).map(Self).ok_or_else(bad)
    }
}

/// `number × scale` without a float, so that `1.5GB` and `9007199254740993` are exact; `None` when it does not fit.
fn scaled(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let mut bytes = u128::from(whole.parse::<u64>().ok()?) * u128::from(scale);
    if !fraction.is_empty() {
        let digits = &fraction[..fraction.len().min(12)];
        let numerator: u128 = digits.parse().ok()?;
        bytes += numerator * u128::from(scale) / 10_u128.pow(u32::try_from(digits.len()).ok()?);
        fraction.bytes().all(|b| b.is_ascii_digit()).then_some(())?;
    }
    u64::try_from(bytes).ok()
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
        let mut unit = 0;
        let mut scale: u64 = 1;
        while unit + 1 < UNITS.len() && self.0 / scale >= 1024 {
            scale *= 1024;
            unit += 1;
        }
        let tenths = u128::from(self.0) * 10 / u128::from(scale);
        if tenths % 10 == 0 {
            f.pad(&format!("{} {}", tenths / 10, UNITS[unit]))
        } else {
            f.pad(&format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_dialects() {
        for (text, docker, workflow) in [
            ("1", 1, 1),
            ("64m", 64 << 20, 64_000_000),
            ("1g", 1 << 30, 1_000_000_000),
            ("16GB", 16 << 30, 16_000_000_000),
            ("8 GiB", 8 << 30, 8 << 30),
            ("8Gi", 8 << 30, 8 << 30),
            ("1.5k", 1536, 1500),
            ("512b", 512, 512),
        ] {
            assert_eq!(ByteSize::from_docker(text).map(|s| s.0), Ok(docker), "{text} as docker");
            assert_eq!(ByteSize::from_workflow(text).map(|s| s.0), Ok(workflow), "{text} as workflow");
        }
    }

    #[test]
    fn refuses_the_rest() {
        for bad in ["", "g", "-1", "1x", "1gbb", "1.5.2g", ".5g", "1e9", "99999999999g", "bb", "1 2 z", "1ib", "1bi"] {
            assert!(ByteSize::from_docker(bad).is_err(), "`{bad}` was accepted");
            assert!(ByteSize::from_workflow(bad).is_err(), "`{bad}` was accepted");
        }
    }

    #[test]
    fn prints_as_people_say_it() {
        assert_eq!(ByteSize(0).to_string(), "0 B");
        assert_eq!(ByteSize(64 << 20).to_string(), "64 MiB");
        assert_eq!(ByteSize(1536).to_string(), "1.5 KiB");
        assert_eq!(ByteSize(u64::MAX).to_string(), "16383.9 PiB");
        for (bytes, words) in [(16_000_000_000, "16 GB"), (16 << 30, "16 GiB"), (1_500_000_000, "1500 MB"), (0, "0 B")]
        {
            assert_eq!(ByteSize(bytes).in_words(), words);
        }
    }
}
