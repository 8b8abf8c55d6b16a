//! Where artifacts are: the path as declared, the directory in the container, the place in the store.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest declared path in bytes; leaves room for the store's own path in front (`PATH_MAX` is 4096).
const MAX_PATH_BYTES: usize = 1024;
/// Longest component in bytes (`NAME_MAX`).
const MAX_NAME_BYTES: usize = 255;
/// Directories that the container's set-up owns.
const RESERVED: [&str; 3] = ["/proc", "/sys", "/dev"];

/// A declared path in its normal form: relative to the working directory, absolute, or relative to the home directory.
///
/// It has at least one component, and none that is empty, `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ArtifactPath {
    base: Base,
    rest: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Base {
    WorkingDir,
    Root,
    Home,
}

/// Why a path cannot be an artifact's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ArtifactPathError {
    /// Nothing there.
    #[error("artifact path is empty, expected a directory such as `output`")]
    Empty,
    /// The root of the container.
    #[error("artifact path `{0}` is the container's whole file system\nhint: name a directory such as `output`")]
    Root(String),
    /// The directory that relative paths start from.
    #[error("artifact path `{0}` is the working directory itself\nhint: name a directory in it such as `output`")]
    WorkingDir(String),
    /// The home directory as a whole.
    #[error("artifact path `{0}` is the whole home directory\nhint: name a directory in it such as `~/output`")]
    Home(String),
    /// It goes up.
    #[error("artifact path `{0}` contains `..`\nhint: write where it leads to as an absolute path")]
    Parent(String),
    /// A home directory that is not the run's.
    #[error(
        "artifact path `{0}` names another user's home directory, expected `~/…`\nhint: a path that starts with `~` is written `./~…`"
    )]
    OtherHome(String),
    /// A control character.
    #[error("artifact path `{0}` contains a control character")]
    Control(String),
    /// Too long for a file system.
    #[error(
        "artifact path is too long: {0} bytes, expected {MAX_PATH_BYTES} at most and {MAX_NAME_BYTES} in each part"
    )]
    TooLong(usize),
    /// `~/…` without a home directory.
    #[error("artifact path `{0}` needs a home directory\nhint: set `home_dir`, or write the path out")]
    NoHome(String),
    /// In a directory that the container's set-up owns.
    #[error("artifact path `{path}` is in `{reserved}`, which the kernel provides")]
    Reserved {
        /// The path in the container.
        path: String,
        /// The directory.
        reserved: &'static str,
    },
    /// It would hide the working directory.
    #[error("artifact path `{path}` holds the working directory `{working_dir}`, which it would hide")]
    HidesWorkingDir {
        /// The path in the container.
        path: String,
        /// The working directory.
        working_dir: String,
    },
}

impl ArtifactPath {
    /// Where it is in the store and in a run's directory, relative to the top of either.
    ///
    /// Each kind of path has a directory of its own, so that `models` and `/models` are two places.
    #[must_use]
    pub fn store_path(&self) -> PathBuf {
        let top = match self.base {
            Base::WorkingDir => "files",
            Base::Root => "absolute",
            Base::Home => "home",
        };
        Path::new(top).join(&self.rest)
    }

    /// Where a copy of it goes below a directory of the user's choice: `output`, and `models` for `/models` and `~/models`.
    #[must_use]
    pub fn copy_path(&self) -> &Path {
        Path::new(&self.rest)
    }

    /// The directory in the container; `None` for `~/…` without a home directory.
    fn container_path(&self, working_dir: &Path, home_dir: Option<&Path>) -> Option<PathBuf> {
        let base = match self.base {
            Base::WorkingDir => working_dir,
            Base::Root => Path::new("/"),
            Base::Home => home_dir?,
        };
        Some(base.join(&self.rest))
    }
}

impl FromStr for ArtifactPath {
    type Err = ArtifactPathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let owned = || text.to_owned();
        let (base, path) = match (text.strip_prefix('/'), text.strip_prefix('~')) {
            (Some(path), _) => (Base::Root, path),
            (_, Some("")) => (Base::Home, ""),
            (_, Some(path)) if path.starts_with('/') => (Base::Home, path),
            (_, Some(_)) => return Err(ArtifactPathError::OtherHome(owned())),
            (None, None) => (Base::WorkingDir, text),
        };
        if text.is_empty() {
            return Err(ArtifactPathError::Empty);
        }
        if text.chars().any(char::is_control) {
            return Err(ArtifactPathError::Control(text.escape_default().to_string()));
        }
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        if parts.contains(&"..") {
            return Err(ArtifactPathError::Parent(owned()));
        }
        let rest = parts.join("/");
        if rest.len() > MAX_PATH_BYTES || parts.iter().any(|part| part.len() > MAX_NAME_BYTES) {
            return Err(ArtifactPathError::TooLong(text.len()));
        }
        match base {
            Base::WorkingDir if rest.is_empty() => Err(ArtifactPathError::WorkingDir(owned())),
            Base::Root if rest.is_empty() => Err(ArtifactPathError::Root(owned())),
            Base::Home if rest.is_empty() => Err(ArtifactPathError::Home(owned())),
            _ => Ok(Self { base, rest }),
        }
    }
}

impl fmt::Display for ArtifactPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = match self.base {
            Base::WorkingDir => "",
            Base::Root => "/",
            Base::Home => "~/",
        };
        f.pad(&format!("{prefix}{}", self.rest))
    }
}

impl TryFrom<String> for ArtifactPath {
    type Error = ArtifactPathError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ArtifactPath> for String {
    fn from(path: ArtifactPath) -> Self {
        // A relative path that starts with `~` or is told apart from the others by nothing else keeps its `./`.
        if path.base == Base::WorkingDir && path.rest.starts_with('~') {
            format!("./{}", path.rest)
        } else {
            path.to_string()
        }
    }
}

/// An artifact that a run was asked to keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declared {
    /// The path as declared.
    pub path: ArtifactPath,
    /// The absolute directory in the container.
    pub container_path: PathBuf,
    /// Whether the store's own directory is written, so that files are visible while the run goes on.
    pub mount: bool,
}

impl Declared {
    /// Finds the directory in the container. `working_dir` and `home_dir` are absolute paths in the container.
    pub fn new(
        path: ArtifactPath,
        mount: bool,
        working_dir: &Path,
        home_dir: Option<&Path>,
    ) -> Result<Self, ArtifactPathError> {
        let Some(container_path) = path.container_path(working_dir, home_dir) else {
            return Err(ArtifactPathError::NoHome(path.to_string()));
        };
        if let Some(reserved) = RESERVED.into_iter().find(|reserved| container_path.starts_with(reserved)) {
            return Err(ArtifactPathError::Reserved { path: container_path.display().to_string(), reserved });
        }
        if working_dir == container_path {
            return Err(ArtifactPathError::WorkingDir(path.to_string()));
        }
        if working_dir.starts_with(&container_path) {
            let path = container_path.display().to_string();
            return Err(ArtifactPathError::HidesWorkingDir { path, working_dir: working_dir.display().to_string() });
        }
        Ok(Self { path, container_path, mount })
    }
}

/// The first two artifacts, by their position, of which one is the other or holds it.
#[must_use]
pub fn overlap(declared: &[Declared]) -> Option<(usize, usize)> {
    let mut order: Vec<usize> = (0..declared.len()).collect();
    order.sort_by(|a, b| declared[*a].container_path.cmp(&declared[*b].container_path));
    // Sorted by components, whatever a path holds follows it directly.
    let pairs = order.windows(2).map(|pair| (pair[0], pair[1]));
    pairs
        .filter(|(outer, inner)| declared[*inner].container_path.starts_with(&declared[*outer].container_path))
        .map(|(a, b)| (a.min(b), a.max(b)))
        .min()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn declared(path: &str) -> Result<String, ArtifactPathError> {
        let declared = Declared::new(path.parse()?, false, Path::new("/workflow/sub"), Some(Path::new("/root")))?;
        Ok(declared.container_path.display().to_string())
    }

    #[test]
    fn paths_in_the_container() {
        for (path, normal, container, store) in [
            ("output", "output", "/workflow/sub/output", "files/output"),
            ("./output/", "output", "/workflow/sub/output", "files/output"),
            (".//a/./b//", "a/b", "/workflow/sub/a/b", "files/a/b"),
            ("/models", "/models", "/models", "absolute/models"),
            ("//models/x/", "/models/x", "/models/x", "absolute/models/x"),
            ("/workflow/sub/x", "/workflow/sub/x", "/workflow/sub/x", "absolute/workflow/sub/x"),
            ("~/out", "~/out", "/root/out", "home/out"),
            ("..x/...", "..x/...", "/workflow/sub/..x/...", "files/..x/..."),
            ("./~x", "~x", "/workflow/sub/~x", "files/~x"),
            ("/processes", "/processes", "/processes", "absolute/processes"),
            ("mit leer", "mit leer", "/workflow/sub/mit leer", "files/mit leer"),
        ] {
            let parsed: ArtifactPath = path.parse().unwrap();
            assert_eq!(parsed.to_string(), normal, "{path}");
            assert_eq!(declared(path).unwrap(), container, "{path}");
            assert_eq!(parsed.store_path(), Path::new(store), "{path}");
        }
    }

    #[test]
    fn what_cannot_be_an_artifact() {
        for (path, message) in [
            ("", "is empty"),
            (".", "working directory itself"),
            ("./", "working directory itself"),
            ("/workflow/sub", "working directory itself"),
            ("/", "whole file system"),
            ("///./", "whole file system"),
            ("~", "whole home directory"),
            ("..", "contains `..`"),
            ("a/../../b", "contains `..`"),
            ("/a/..", "contains `..`"),
            ("~/../x", "contains `..`"),
            ("~bob/x", "another user's home"),
            ("a\nb", "control character"),
            ("a\0b", "control character"),
            ("/proc", "which the kernel provides"),
            ("/dev/shm/x", "which the kernel provides"),
            ("/sys/fs", "which the kernel provides"),
            ("/workflow", "holds the working directory `/workflow/sub`"),
        ] {
            let error = declared(path).unwrap_err().to_string();
            assert!(error.contains(message), "`{path}` gave: {error}");
        }
        assert!(declared(&"x".repeat(256)).is_err());
        assert!(declared(&"x/".repeat(2000)).is_err());
        let no_home = Declared::new("~/x".parse().unwrap(), false, Path::new("/w"), None).unwrap_err();
        assert!(no_home.to_string().contains("hint: set `home_dir`"), "{no_home}");
    }

    #[test]
    fn equal_and_nested_paths_overlap() {
        let all = |paths: &[&str]| -> Option<(usize, usize)> {
            let declare = |path: &&str| {
                Declared::new(path.parse().unwrap(), false, Path::new("/workflow"), Some(Path::new("/workflow/h")))
                    .unwrap()
            };
            overlap(&paths.iter().map(declare).collect::<Vec<_>>())
        };
        assert_eq!(all(&[]), None);
        assert_eq!(all(&["a", "b", "/a", "ab", "a-b"]), None);
        assert_eq!(all(&["a", "b", "./a/"]), Some((0, 2)));
        assert_eq!(all(&["a", "/workflow/a"]), Some((0, 1)));
        assert_eq!(all(&["x", "a/b/c", "a-b", "a"]), Some((1, 3)));
        assert_eq!(all(&["h/x", "~/x"]), Some((0, 1)));
    }

    proptest! {
        #[test]
        fn never_leaves_the_store(text in "[a.~/ ]{0,12}") {
            if let Ok(path) = text.parse::<ArtifactPath>() {
                let plain = |c: std::path::Component<'_>| matches!(c, std::path::Component::Normal(_));
                prop_assert!(path.store_path().components().all(plain), "{:?}", path.store_path());
                prop_assert!(path.store_path().components().count() >= 2);
                prop_assert_eq!(&String::from(path.clone()).parse::<ArtifactPath>().unwrap(), &path);
            }
        }
    }
}
