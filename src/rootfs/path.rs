//! Where something is in an image: a path that cannot point out of it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Longest name of one file (`NAME_MAX`).
pub const MAX_NAME_BYTES: usize = 255;
/// Longest path inside an image (`PATH_MAX` less its terminator).
pub const MAX_PATH_BYTES: usize = 4095;
/// Deepest directory inside an image. Trees are removed with one descriptor for each level, and 1024 are usual.
pub const MAX_DEPTH: usize = 512;

/// A path beneath a root: components joined by `/`, none of them empty, `.` or `..`; the root itself is empty.
///
/// Names need not be UTF-8; they hold no NUL and keep the bounds above.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ImagePath(Vec<u8>);

/// Why bytes are not a path inside an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// A NUL inside.
    #[error("the name contains a NUL byte")]
    Nul,
    /// A component that no file system takes.
    #[error("a component of the name has {0} bytes, at most {MAX_NAME_BYTES} are possible")]
    Name(usize),
    /// Longer than the kernel takes.
    #[error("the name has {0} bytes, at most {MAX_PATH_BYTES} are possible")]
    Path(usize),
    /// Too many directories.
    #[error("the name is {0} directories deep, at most {MAX_DEPTH} are allowed")]
    Depth(usize),
}

impl ImagePath {
    /// The root.
    #[must_use]
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// Reads a name as archives and configurations write it: a leading `/`, doubled slashes and `.` mean nothing, `..`
    /// takes the component before it away and stops at the root.
    pub fn parse(raw: &[u8]) -> Result<Self, PathError> {
        let mut path = Self::root();
        for component in raw.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => path.0.truncate(path.split().0.len()),
                name => path.push(name)?,
            }
        }
        path.check()
    }

    /// The path with one more component, which is neither `.` nor `..`.
    pub fn join(&self, name: &[u8]) -> Result<Self, PathError> {
        let mut path = self.clone();
        path.push(name)?;
        path.check()
    }

    fn push(&mut self, name: &[u8]) -> Result<(), PathError> {
        debug_assert!(!matches!(name, b"" | b"." | b"..") && !name.contains(&b'/'), "not a component");
        if name.contains(&0) {
            return Err(PathError::Nul);
        }
        if name.len() > MAX_NAME_BYTES {
            return Err(PathError::Name(name.len()));
        }
        if !self.0.is_empty() {
            self.0.push(b'/');
        }
        self.0.extend_from_slice(name);
        Ok(())
    }

    fn check(self) -> Result<Self, PathError> {
        if self.0.len() > MAX_PATH_BYTES {
            return Err(PathError::Path(self.0.len()));
        }
        let depth = self.components().count();
        if depth > MAX_DEPTH { Err(PathError::Depth(depth)) } else { Ok(self) }
    }

    /// Whether it is the root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes, without a leading slash.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same for system calls.
    #[must_use]
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }

    /// The components from the root down.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|component| !component.is_empty())
    }

    /// The directory it stands in; the root stands in itself.
    #[must_use]
    pub fn parent(&self) -> Self {
        Self(self.split().0.to_vec())
    }

    /// The last component; empty for the root.
    #[must_use]
    pub fn name(&self) -> &OsStr {
        OsStr::from_bytes(self.split().1)
    }

    /// The parent's bytes and the last component's.
    #[must_use]
    pub fn split(&self) -> (&[u8], &[u8]) {
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&self.0[..slash], &self.0[slash + 1..]),
            None => (b"", &self.0),
        }
    }

    /// The directories above it, the root included, itself not; the nearest first.
    pub fn ancestors(&self) -> impl Iterator<Item = Self> {
        let mut next = (!self.is_root()).then(|| self.parent());
        std::iter::from_fn(move || {
            let current = next.take()?;
            next = (!current.is_root()).then(|| current.parent());
            Some(current)
        })
    }

    /// Every path below it, in the order of paths; not for the root.
    fn below(&self) -> Range<Self> {
        // Below `p` stands what lies between `p/` and `p0`, as `0` follows `/`.
        let with = |last: u8| Self([self.0.as_slice(), &[last]].concat());
        with(b'/')..with(b'/' + 1)
    }

    /// What is left of it below `ancestor`; `None` when it is elsewhere.
    #[must_use]
    pub fn strip(&self, ancestor: &Self) -> Option<&[u8]> {
        if ancestor.is_root() {
            return Some(&self.0);
        }
        let rest = self.0.strip_prefix(ancestor.0.as_slice())?;
        if rest.is_empty() { Some(rest) } else { rest.strip_prefix(b"/") }
    }
}

/// Most symbolic links followed on one way, as in the kernel (`path_resolution(7)`).
const MAX_LINKS: usize = 40;

/// A way through an image, one step at a time, with the links met on it followed inside the image's root.
///
/// Whoever walks keeps the place; `..` at the root must stay at the root.
pub(super) struct Trail {
    /// Components still to go, the next one last.
    rest: Vec<Vec<u8>>,
    links: usize,
}

/// One step of a [`Trail`].
pub(super) enum Step {
    /// To the directory above.
    Up,
    /// To what this name stands for.
    Down(OsString),
}

impl Trail {
    pub(super) fn new(path: &[u8]) -> Self {
        let mut trail = Self { rest: Vec::new(), links: 0 };
        trail.push(path);
        trail
    }

    fn push(&mut self, path: &[u8]) {
        let components = path.split(|byte| *byte == b'/').rev();
        self.rest.extend(components.filter(|c| !matches!(*c, b"" | b".")).map(<[u8]>::to_vec));
    }

    /// The next step; `None` at the end of the way.
    pub(super) fn step(&mut self) -> Option<Step> {
        let component = self.rest.pop()?;
        Some(if component == b".." { Step::Up } else { Step::Down(OsString::from_vec(component)) })
    }

    /// Whether no step is left.
    pub(super) fn is_done(&self) -> bool {
        self.rest.is_empty()
    }

    /// Goes on where the link that the last step met points to; `true` when that is counted from the root.
    pub(super) fn follow(&mut self, target: &[u8]) -> io::Result<bool> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(rustix::io::Errno::LOOP.into());
        }
        self.push(target);
        Ok(target.first() == Some(&b'/'))
    }
}

/// Removes `path` and all that is below it from a map.
pub(super) fn forget<V>(map: &mut BTreeMap<ImagePath, V>, path: &ImagePath) {
    if path.is_root() {
        return map.clear();
    }
    let below: Vec<ImagePath> = map.range(path.below()).map(|(path, _)| path.clone()).collect();
    for gone in below.iter().chain([path]) {
        map.remove(gone);
    }
}

/// The same for a set.
pub(super) fn forget_in_set(set: &mut BTreeSet<ImagePath>, path: &ImagePath) {
    if path.is_root() {
        return set.clear();
    }
    let below: Vec<ImagePath> = set.range(path.below()).cloned().collect();
    for gone in below.iter().chain([path]) {
        set.remove(gone);
    }
}

impl fmt::Display for ImagePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for ImagePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> String {
        ImagePath::parse(text.as_bytes()).map_or_else(|error| error.to_string(), |path| path.to_string())
    }

    #[test]
    fn names_are_clamped_to_the_root() {
        for (raw, expected) in [
            ("", "/"),
            ("./", "/"),
            ("/", "/"),
            ("a", "/a"),
            ("/a//b/./c/", "/a/b/c"),
            ("../../etc/passwd", "/etc/passwd"),
            ("a/../../b", "/b"),
            ("..", "/"),
        ] {
            assert_eq!(parse(raw), expected, "`{raw}`");
        }
    }

    #[test]
    fn bounds_hold() {
        assert!(ImagePath::parse(b"a\0b").is_err());
        assert!(ImagePath::parse(&[b'a'; 256]).is_err());
        assert!(ImagePath::parse(&[b'a'; 255]).is_ok());
        assert!(ImagePath::parse(&b"a/".repeat(MAX_DEPTH)).is_ok());
        assert!(ImagePath::parse(&b"a/".repeat(MAX_DEPTH + 1)).is_err());
        let long = [[b'a'; 199].as_slice(), b"/"].concat().repeat(20);
        assert!(ImagePath::parse(&long).is_ok());
        assert!(ImagePath::parse(&long.repeat(2)).is_err());
        assert!(ImagePath::parse(&long).unwrap().join(&[b'b'; 200]).is_err());
    }

    #[test]
    fn forgets_what_is_below_and_nothing_beside() {
        let mut set: BTreeSet<ImagePath> = ["a", "a/b", "a/b/c", "a-b", "a0", "ab", "b"]
            .iter()
            .map(|p| ImagePath::parse(p.as_bytes()).unwrap())
            .collect();
        let mut map: BTreeMap<ImagePath, u8> = set.iter().map(|path| (path.clone(), 0)).collect();
        let gone = ImagePath::parse(b"a").unwrap();
        forget_in_set(&mut set, &gone);
        forget(&mut map, &gone);
        assert_eq!(format!("{set:?}"), r#"{"/a-b", "/a0", "/ab", "/b"}"#);
        assert!(map.keys().eq(&set));
    }

    proptest! {
        #[test]
        fn a_path_has_no_way_out(raw in prop::collection::vec(prop::sample::select(b"./ab\xff".to_vec()), 0..40)) {
            let path = ImagePath::parse(&raw).unwrap();
            prop_assert!(path.components().all(|c| !c.is_empty() && c != b"." && c != b".."));
            prop_assert_eq!(&ImagePath::parse(path.as_bytes()).unwrap(), &path);
            prop_assert!(path.ancestors().all(|above| path.strip(&above).is_some()));
        }
    }
}
