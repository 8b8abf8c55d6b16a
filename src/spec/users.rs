//! `--userns`, `--uidmap`, `--gidmap`: which users of the machine a container's users are. Words are podman's.

use super::error::SpecError;
use crate::store::{IdMap, IdMaps, map_text, share};

/// Ids of a range that nobody has chosen the size of, as many as 16 bits can tell.
pub const AUTO_SIZE: u32 = 65_536;
/// Most lines of a map (Linux 4.15).
const MAX_LINES: usize = 340;
/// The kernel takes less than a page of text.
const MAX_TEXT_BYTES: usize = 4095;

/// Which users the container has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Users {
    /// The machine's.
    #[default]
    Host,
    /// A range that no other live run has.
    Auto {
        /// How many.
        size: u32,
    },
    /// The ranges that `/etc/subuid` and `/etc/subgid` give to a name.
    Subordinate {
        /// Whose users.
        users: String,
        /// Whose groups.
        groups: String,
    },
    /// These.
    Maps(IdMaps),
}

/// Why a map does not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MapProblem {
    /// Not of its form.
    #[error("expected `CONTAINER:HOST:LENGTH`, three numbers\nhint: `0:100000:65536`")]
    Shape,
    /// Nothing is mapped.
    #[error("the length is 0, expected 1 or more")]
    Empty,
    /// Beyond what the kernel counts.
    #[error("an id above 4294967294, expected CONTAINER + LENGTH and HOST + LENGTH up to 4294967295")]
    Overflow,
    /// A user of the container is two of the machine, or the other way round.
    #[error("overlaps with `{0}`, expected each id once, in the container and on the machine")]
    Overlap(String),
    /// The kernel's bound.
    #[error("too many maps, expected up to {MAX_LINES} lines and {MAX_TEXT_BYTES} bytes of text")]
    TooMany,
    /// The runtime is root in the container.
    #[error("root is not mapped, expected a line that maps the container's 0\nhint: `0:100000:65536`")]
    NoRoot,
}

impl Users {
    /// Puts the flags together.
    ///
    /// # Errors
    /// When they cannot be understood or exclude each other.
    pub fn read(
        mode: &str,
        uidmap: &[String],
        gidmap: &[String],
        users_of: Option<&str>,
        groups_of: Option<&str>,
    ) -> Result<Self, SpecError> {
        const FLAG: &str = "--userns";
        let by_name = users_of.is_some() || groups_of.is_some();
        let by_lines = !uidmap.is_empty() || !gidmap.is_empty();
        let other = match (by_lines, by_name) {
            (true, true) => {
                let why = "both say which users the container has";
                return Err(conflict("--uidmap", "--subuidname", why));
            }
            (true, false) => Some(if uidmap.is_empty() { "--gidmap" } else { "--uidmap" }),
            (false, true) => Some(if users_of.is_none() { "--subgidname" } else { "--subuidname" }),
            (false, false) => None,
        };
        let (word, rest) = mode.split_once(':').map_or((mode, None), |(word, rest)| (word, Some(rest)));
        match (word, rest) {
            ("host", None) | ("auto", _) if other.is_some() => {
                let why = "both say which users the container has";
                Err(conflict(&format!("{FLAG} {mode}"), other.unwrap_or_default(), why))
            }
            // `private` is podman's word for what the maps say.
            ("" | "private", None) if by_lines => Ok(Self::Maps(lines(uidmap, gidmap)?)),
            ("" | "private", None) if by_name => {
                let (users, groups) = (users_of.or(groups_of), groups_of.or(users_of));
                Ok(Self::Subordinate {
                    users: name("--subuidname", users.unwrap_or_default())?,
                    groups: name("--subgidname", groups.unwrap_or_default())?,
                })
            }
            ("" | "host", None) => Ok(Self::Host),
            ("auto" | "private", None) => Ok(Self::Auto { size: AUTO_SIZE }),
            ("auto", Some(text)) => Ok(Self::Auto { size: size(mode, text)? }),
            ("keep-id" | "nomap" | "ns" | "container", _) => Err(SpecError::UserMapping(format!("{FLAG} {mode}"))),
            _ => {
                let expected = "`host`, `auto` or `auto:size=NUMBER`";
                Err(SpecError::Mode { flag: FLAG, text: mode.to_owned(), expected })
            }
        }
    }

    /// The maps, once they are known.
    #[must_use]
    pub const fn maps(&self) -> Option<&IdMaps> {
        match self {
            Self::Maps(maps) => Some(maps),
            Self::Host | Self::Auto { .. } | Self::Subordinate { .. } => None,
        }
    }

    /// Whether they are not the machine's.
    #[must_use]
    pub const fn are_mapped(&self) -> bool {
        !matches!(self, Self::Host)
    }
}

fn conflict(one: &str, other: &str, why: &'static str) -> SpecError {
    SpecError::Conflict(one.to_owned(), other.to_owned(), why)
}

fn size(mode: &str, text: &str) -> Result<u32, SpecError> {
    let size = text.strip_prefix("size=").and_then(|number| number.parse().ok());
    // A container wants at least root and nobody, and more than this no range of the machine has.
    size.filter(|size| (1..=1 << 24).contains(size)).ok_or_else(|| SpecError::Mode {
        flag: "--userns",
        text: mode.to_owned(),
        expected: "`auto:size=NUMBER` with a number from 1 to 16777216",
    })
}

/// What can stand at the start of a line of `/etc/subuid`.
fn name(flag: &'static str, text: &str) -> Result<String, SpecError> {
    if text.is_empty() || text.contains([':', '\n', '\0']) {
        let expected = "a name or number as in /etc/subuid";
        return Err(SpecError::Mode { flag, text: text.escape_debug().to_string(), expected });
    }
    Ok(text.to_owned())
}

/// Only one of the two given: the other is the same.
fn lines(uidmap: &[String], gidmap: &[String]) -> Result<IdMaps, SpecError> {
    let (uidmap, gidmap) = match (uidmap.is_empty(), gidmap.is_empty()) {
        (true, _) => (gidmap, gidmap),
        (_, true) => (uidmap, uidmap),
        _ => (uidmap, gidmap),
    };
    Ok(IdMaps { uids: read_maps("--uidmap", uidmap)?, gids: read_maps("--gidmap", gidmap)? })
}

fn read_maps(flag: &'static str, texts: &[String]) -> Result<Vec<IdMap>, SpecError> {
    let failed = |text: &str, problem| SpecError::IdMap { flag, text: text.to_owned(), problem };
    let mut maps: Vec<IdMap> = Vec::new();
    for text in texts {
        let map = read_map(text).map_err(|problem| failed(text, problem))?;
        check_against(&maps, map).map_err(|problem| failed(text, problem))?;
        maps.push(map);
        if maps.len() > MAX_LINES {
            return Err(failed(text, MapProblem::TooMany));
        }
    }
    let shown = texts.first().map(String::as_str).unwrap_or_default();
    if map_text(&maps).len() > MAX_TEXT_BYTES {
        return Err(failed(shown, MapProblem::TooMany));
    }
    if !maps.iter().any(|map| map.container == 0) {
        return Err(failed(shown, MapProblem::NoRoot));
    }
    Ok(maps)
}

fn read_map(text: &str) -> Result<IdMap, MapProblem> {
    let numbers: Vec<u64> = text
        .split(':')
        .map(|word| word.parse().ok().filter(|_| word.bytes().all(|byte| byte.is_ascii_digit())))
        .collect::<Option<_>>()
        .ok_or(MapProblem::Shape)?;
    let [container, host, length] = numbers[..] else { return Err(MapProblem::Shape) };
    if length == 0 {
        return Err(MapProblem::Empty);
    }
    // The last number stands for "no such user" in the kernel.
    let fits = |first: u64| first.checked_add(length).is_some_and(|end| u32::try_from(end).is_ok());
    match (u32::try_from(container), u32::try_from(host), u32::try_from(length)) {
        (Ok(container), Ok(host), Ok(length)) if fits(container.into()) && fits(host.into()) => {
            Ok(IdMap { container, host, length })
        }
        _ => Err(MapProblem::Overflow),
    }
}

fn check_against(maps: &[IdMap], new: IdMap) -> Result<(), MapProblem> {
    let meets = |old: &&IdMap| {
        share(old.container, old.length, new.container, new.length) || share(old.host, old.length, new.host, new.length)
    };
    match maps.iter().find(meets) {
        Some(IdMap { container, host, length }) => Err(MapProblem::Overlap(format!("{container}:{host}:{length}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(mode: &str, uidmap: &[&str], gidmap: &[&str]) -> Result<Users, SpecError> {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        Users::read(mode, &owned(uidmap), &owned(gidmap), None, None)
    }

    #[test]
    fn modes_and_maps() {
        assert_eq!(users("", &[], &[]).unwrap(), Users::Host);
        assert_eq!(users("host", &[], &[]).unwrap(), Users::Host);
        assert_eq!(users("auto", &[], &[]).unwrap(), Users::Auto { size: 65_536 });
        assert_eq!(users("auto:size=9", &[], &[]).unwrap(), Users::Auto { size: 9 });
        let map = |container, host, length| IdMap { container, host, length };
        let uids = vec![map(0, 100_000, 1000), map(1000, 5, 1)];
        let both = users("", &["0:100000:1000", "1000:5:1"], &[]).unwrap();
        assert_eq!(both, Users::Maps(IdMaps { uids: uids.clone(), gids: uids.clone() }));
        assert_eq!(users("private", &[], &["0:100000:1000", "1000:5:1"]).unwrap(), both);
        let gids = vec![map(0, 7, 1)];
        let apart = users("", &["0:100000:1000", "1000:5:1"], &["0:7:1"]).unwrap();
        assert_eq!(apart, Users::Maps(IdMaps { uids, gids }));
        let named = Users::read("", &[], &[], Some("bob"), None).unwrap();
        assert_eq!(named, Users::Subordinate { users: "bob".to_owned(), groups: "bob".to_owned() });
    }

    #[test]
    fn bad_maps_say_what_is_wrong() {
        for (maps, words) in [
            (&["0:1"][..], "`--uidmap 0:1`: expected `CONTAINER:HOST:LENGTH`"),
            (&["0:+1:1"], "expected `CONTAINER:HOST:LENGTH`"),
            (&["0:@1:1"], "expected `CONTAINER:HOST:LENGTH`"),
            (&["0:100000:0"], "the length is 0"),
            (&["0:4294967295:1"], "an id above"),
            (&["0:99999999999999999999:1"], "expected `CONTAINER:HOST:LENGTH`"),
            (&["0:1:4294967296"], "an id above"),
            (&["0:100000:10", "9:5:1"], "overlaps with `0:100000:10`"),
            (&["0:100000:10", "10:100009:1"], "overlaps with `0:100000:10`"),
            (&["1:100000:10"], "root is not mapped"),
        ] {
            let error = users("", maps, &[]).unwrap_err().to_string();
            assert!(error.contains(words), "{maps:?}: {error}");
        }
        let many: Vec<String> = (0..341).map(|id| format!("{id}:{}:1", id * 2)).collect();
        let error = Users::read("", &many, &[], None, None).unwrap_err().to_string();
        assert!(error.contains("too many maps"), "{error}");
        let long: Vec<String> = (0..300).map(|id| format!("{id}:{}:1", 4_000_000_000_u32 + id * 2)).collect();
        let error = Users::read("", &long, &[], None, None).unwrap_err().to_string();
        assert!(error.contains("too many maps"), "{error}");
    }

    #[test]
    fn what_cannot_be_together() {
        for (mode, uidmap, words) in [
            ("host", &["0:1:1"][..], "exclude each other"),
            ("auto", &["0:1:1"], "exclude each other"),
            ("keep-id", &[], "is not supported"),
            ("container:x", &[], "is not supported"),
            ("auto:size=0", &[], "expected `auto:size=NUMBER`"),
            ("auto:uidmapping=0:1:1", &[], "expected `auto:size=NUMBER`"),
            ("keep", &[], "is unknown, expected `host`, `auto`"),
        ] {
            let error = users(mode, uidmap, &[]).unwrap_err().to_string();
            assert!(error.contains(words), "{mode}: {error}");
        }
        assert!(Users::read("", &["0:1:1".to_owned()], &[], Some("bob"), None).is_err());
        assert!(Users::read("", &[], &[], Some("b:c"), None).is_err());
    }
}
