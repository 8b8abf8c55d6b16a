//! Names of devices: `vendor.com/class=name`.
//!
//! The grammar is the one that the interface's own library enforces: vendor and class start with a letter, a device also
//! with a digit; all end with a letter or digit; between stand letters, digits, `_`, `-`, `.`, and `:` in devices. The
//! specification adds the lengths: 253 for a vendor, 63 for a class.

use std::fmt;
use std::str::FromStr;

const MAX_VENDOR_BYTES: usize = 253;
const MAX_CLASS_BYTES: usize = 63;
/// The specification has no bound; this one keeps messages readable.
const MAX_DEVICE_BYTES: usize = 253;

/// What a vendor calls one sort of devices: `nvidia.com/gpu`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kind {
    vendor: String,
    class: String,
}

/// A device by its full name: `nvidia.com/gpu=0`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QualifiedName {
    kind: Kind,
    device: String,
}

/// Why a text is not such a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No slash.
    #[error("`{}` is not a kind of devices, expected e.g. `vendor.com/class`", .0.escape_debug())]
    Kind(String),
    /// No equals sign.
    #[error("`{}` is not the name of a device, expected e.g. `vendor.com/class=name`", .0.escape_debug())]
    Qualified(String),
    /// A part that is malformed.
    #[error(
        "{what} `{}` is malformed, expected 1 to {most} of letters, digits, {marks}, starting with {first} and ending with a letter or digit",
        .text.escape_debug()
    )]
    Part {
        /// `vendor`, `class` or `device name`.
        what: &'static str,
        /// The part.
        text: String,
        /// How long it may be.
        most: usize,
        /// Which marks may stand in it.
        marks: &'static str,
        /// What it starts with.
        first: &'static str,
    },
}

impl Kind {
    /// `nvidia.com`.
    #[must_use]
    pub fn vendor(&self) -> &str {
        &self.vendor
    }

    /// `gpu`.
    #[must_use]
    pub fn class(&self) -> &str {
        &self.class
    }

    /// A device of this kind.
    pub fn device(&self, name: &str) -> Result<QualifiedName, NameError> {
        check_device(name)?;
        Ok(QualifiedName { kind: self.clone(), device: name.to_owned() })
    }
}

impl FromStr for Kind {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (vendor, class) = text.split_once('/').ok_or_else(|| NameError::Kind(text.to_owned()))?;
        let check = |what, part: &str, most| {
            let good = part.starts_with(|c: char| c.is_ascii_alphabetic()) && is_name(part, most, b"_-.");
            let error =
                || NameError::Part { what, text: part.to_owned(), most, marks: "`_`, `-`, `.`", first: "a letter" };
            if good { Ok(()) } else { Err(error()) }
        };
        check("vendor", vendor, MAX_VENDOR_BYTES)?;
        check("class", class, MAX_CLASS_BYTES)?;
        Ok(Self { vendor: vendor.to_owned(), class: class.to_owned() })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.vendor, self.class)
    }
}

impl QualifiedName {
    /// `nvidia.com/gpu`.
    #[must_use]
    pub const fn kind(&self) -> &Kind {
        &self.kind
    }

    /// `0`.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.device
    }
}

impl FromStr for QualifiedName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, device) = text.split_once('=').ok_or_else(|| NameError::Qualified(text.to_owned()))?;
        kind.parse::<Kind>()?.device(device)
    }
}

impl fmt::Display for QualifiedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.kind, self.device)
    }
}

fn check_device(name: &str) -> Result<(), NameError> {
    if is_name(name, MAX_DEVICE_BYTES, b"_-.:") {
        return Ok(());
    }
    Err(NameError::Part {
        what: "device name",
        text: name.to_owned(),
        most: MAX_DEVICE_BYTES,
        marks: "`_`, `-`, `.`, `:`",
        first: "a letter or digit",
    })
}

fn is_name(text: &str, most: usize, marks: &[u8]) -> bool {
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= most
        && ends(bytes.first())
        && ends(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || marks.contains(byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_have_their_grammar() {
        for good in [
            "nvidia.com/gpu=0",
            "nvidia.com/gpu=0:1",
            "nvidia.com/gpu=GPU-8f2d0b6e-0d5c-4a0b-9f4e-1d2c3b4a5968",
            "amd.com/gpu=all",
            "v/c=d",
            "foo.bar.baz/foo-bar123.B_az=x.y",
        ] {
            assert_eq!(good.parse::<QualifiedName>().unwrap().to_string(), good);
        }
        for (bad, message) in [
            ("", "`` is not the name of a device, expected e.g. `vendor.com/class=name`"),
            ("/dev/null", "`/dev/null` is not the name of a device"),
            ("nvidia.com/gpu", "is not the name of a device"),
            ("gpu=0", "`gpu` is not a kind of devices"),
            ("/gpu=0", "vendor `` is malformed, expected 1 to 253 of letters"),
            ("1v/gpu=0", "vendor `1v` is malformed"),
            ("v./gpu=0", "vendor `v.` is malformed"),
            ("v/=0", "class `` is malformed"),
            ("v/a/b=0", "class `a/b` is malformed"),
            ("v/c=", "device name `` is malformed, expected 1 to 253 of letters, digits, `_`, `-`, `.`, `:`, starting"),
            ("v/c=a=b", "device name `a=b` is malformed"),
            ("v/c=:a", "device name `:a` is malformed"),
            ("v/c=a\0", "device name `a\\0` is malformed"),
            ("v/c=../x", "device name `../x` is malformed"),
            ("v/ü=0", "class `ü` is malformed"),
        ] {
            let error = bad.parse::<QualifiedName>().unwrap_err().to_string();
            assert!(error.contains(message), "{bad}: {error}");
        }
        assert!(format!("v/{}=0", "c".repeat(64)).parse::<QualifiedName>().is_err());
        assert!(format!("{}/c=0", "v".repeat(254)).parse::<QualifiedName>().is_err());
    }

    proptest! {
        #[test]
        fn what_parses_prints_as_it_was(text in "[a-zA-Z0-9_.:=/-]{1,12}|[a-c]{1,3}[.]?[a-c]{0,2}/[a-c]{1,3}=[0-9a-c:]{1,4}") {
            if let Ok(name) = text.parse::<QualifiedName>() {
                prop_assert_eq!(name.to_string(), text);
                prop_assert!(!name.device().contains(['/', '=']));
            }
        }

        #[test]
        fn nothing_makes_it_panic(text in ".{0,300}") {
            drop(text.parse::<QualifiedName>());
            drop(text.parse::<Kind>());
        }
    }
}
