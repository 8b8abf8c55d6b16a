//! Tags: names that users give to runs, so that artifacts outlive the memory of a run's name.
//!
//! ```text
//! tags/NAME.json    {"schema": 1, "tag": "best", "run": "clever-otter-1", "created": "2024-05-01T12:00:00Z"}
//! ```
//!
//! A tag names one run and may outlive it. Whoever changes tags holds the lock `locks/tags`, so that two runs that set the
//! same one both succeed and the later one has it. The suffix keeps the temporary file of one tag from being another tag.

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::secrets::named_entries;
use super::{RunDir, RunName, Store, StoreError};
use crate::sys::{Lock, LockMode, read_bounded, write_atomic};
use crate::words::nearest;

/// Most bytes of a tag that are read; it has some hundred.
const MAX_TAG_BYTES: u64 = 1 << 20;
const SUFFIX: &str = ".json";
/// What tells a tag from the name of a run in an argument.
const MARK: char = ':';

/// The name of a tag; the grammar is that of run names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TagName(RunName);

/// Why a string is not the name of a tag.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("tag `{0}` is malformed, expected a letter or digit, then letters, digits, `_`, `.`, `-`, 63 at most")]
pub struct TagNameError(String);

impl TagName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl FromStr for TagName {
    type Err = TagNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self).map_err(|_| TagNameError(text.escape_debug().to_string()))
    }
}

impl TryFrom<String> for TagName {
    type Error = TagNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TagName> for String {
    fn from(name: TagName) -> Self {
        name.0.into()
    }
}

impl fmt::Display for TagName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A tag and what it names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tag {
    /// Format of the file; 1.
    pub schema: u32,
    /// The tag.
    pub tag: TagName,
    /// The run, which may be gone.
    pub run: RunName,
    /// When it was set (RFC 3339, UTC).
    pub created: String,
}

/// A tag with what it names, or why that cannot be told.
pub type ListedTag = (TagName, Result<Tag, StoreError>);

/// The tags of a store; see [`Store::tags`].
#[derive(Debug, Clone)]
pub struct Tags {
    dir: PathBuf,
    lock: PathBuf,
}

impl Store {
    /// The tags of this store.
    #[must_use]
    pub fn tags(&self) -> Tags {
        Tags { dir: self.root().join("tags"), lock: self.lock_path("tags") }
    }

    /// The run that an argument names: `NAME`, or `:TAG`. The run itself need not be there.
    pub fn run_name(&self, argument: &str) -> Result<RunName, StoreError> {
        match argument.strip_prefix(MARK) {
            Some(tag) => {
                let name = tag.parse().map_err(|_| self.tags().missing(tag))?;
                Ok(self.tags().get(&name)?.run)
            }
            None => argument.parse().map_err(|_| StoreError::NoRun { name: argument.to_owned() }),
        }
    }

    /// Opens the directory of the run that an argument names: `NAME`, `:TAG`, or the id that `--cidfile` writes.
    pub fn find_run(&self, argument: &str) -> Result<RunDir, StoreError> {
        self.find_named_run(argument).or_else(|error| self.find_run_by_id(argument).ok_or(error))
    }

    /// An id is the run's name with a suffix.
    fn find_run_by_id(&self, id: &str) -> Option<RunDir> {
        let run = self.run(id.rsplit_once('-')?.0).ok()?;
        run.record().is_ok_and(|record| record.id == id).then_some(run)
    }

    fn find_named_run(&self, argument: &str) -> Result<RunDir, StoreError> {
        let name = self.run_name(argument)?;
        self.run(name.as_str()).map_err(|error| match (error, argument.strip_prefix(MARK)) {
            (StoreError::NoRun { .. }, Some(tag)) => {
                StoreError::TaggedRunGone { tag: tag.to_owned(), run: name.to_string() }
            }
            (error, _) => error,
        })
    }
}

impl Tags {
    /// Gives `run` the tag; the run that had it until now.
    pub fn set(&self, tag: &TagName, run: &RunName, created: &str) -> Result<Option<RunName>, StoreError> {
        let _lock = self.hold()?;
        // A damaged tag is mended by being set.
        let previous = self.get(tag).ok().map(|tag| tag.run);
        let entry = Tag { schema: 1, tag: tag.clone(), run: run.clone(), created: created.to_owned() };
        let (path, json) = (self.path(tag), serde_json::to_vec_pretty(&entry).unwrap_or_default());
        write_atomic(&path, &json).map_err(|source| StoreError::Write { path, source })?;
        Ok(previous)
    }

    /// What a tag names.
    ///
    /// # Errors
    /// [`StoreError::NoTag`] with the tag that was probably meant.
    pub fn get(&self, tag: &TagName) -> Result<Tag, StoreError> {
        let path = self.path(tag);
        match read_bounded(&path, MAX_TAG_BYTES) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| StoreError::Json { path, source }),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(self.missing(tag.as_str())),
            Err(source) => Err(StoreError::Read { path, source }),
        }
    }

    /// Whether there is such a tag, damaged or not.
    ///
    /// # Errors
    /// [`StoreError::NoTag`] with the tag that was probably meant.
    pub fn find(&self, tag: &TagName) -> Result<(), StoreError> {
        if self.path(tag).exists() { Ok(()) } else { Err(self.missing(tag.as_str())) }
    }

    /// All tags, by name.
    pub fn list(&self) -> Result<Vec<ListedTag>, StoreError> {
        let mut found: Vec<_> = self.names()?.into_iter().map(|name| (name.clone(), self.get(&name))).collect();
        // One that is deleted this moment is not there.
        found.retain(|(_, tag)| !matches!(tag, Err(StoreError::NoTag { .. })));
        Ok(found)
    }

    /// Takes a tag away; the run keeps everything.
    ///
    /// # Errors
    /// [`StoreError::NoTag`] with the tag that was probably meant.
    pub fn delete(&self, tag: &TagName) -> Result<(), StoreError> {
        let _lock = self.hold()?;
        let path = self.path(tag);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Err(self.missing(tag.as_str())),
            removed => removed.map_err(|source| StoreError::Write { path, source }),
        }
    }

    /// Keeps all tags as they are while it is held.
    pub fn hold(&self) -> Result<Lock, StoreError> {
        let locked = Lock::acquire(&self.lock, LockMode::Exclusive, |_| {});
        locked.map_err(|source| StoreError::Lock { path: self.lock.clone(), source })
    }

    fn names(&self) -> Result<Vec<TagName>, StoreError> {
        let entries = named_entries(&self.dir)?;
        let mut names: Vec<TagName> =
            entries.iter().filter_map(|(name, _)| name.strip_suffix(SUFFIX)?.parse().ok()).collect();
        names.sort();
        Ok(names)
    }

    fn missing(&self, tag: &str) -> StoreError {
        let known = self.names().unwrap_or_default();
        let meant = nearest(tag, known.iter().map(TagName::as_str)).map(str::to_owned);
        StoreError::NoTag { name: tag.to_owned(), meant }
    }

    fn path(&self, tag: &TagName) -> PathBuf {
        self.dir.join(format!("{tag}{SUFFIX}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2024-05-01T12:00:00Z";

    fn tags(store: &Store) -> Vec<(String, Option<String>)> {
        let listed = store.tags().list().unwrap();
        listed.into_iter().map(|(name, tag)| (name.to_string(), tag.ok().map(|tag| tag.run.to_string()))).collect()
    }

    #[test]
    fn the_later_run_has_the_tag() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (best, one, two) = ("best".parse().unwrap(), "one".parse().unwrap(), "two".parse().unwrap());
        assert_eq!(store.tags().set(&best, &one, TIME).unwrap(), None);
        assert_eq!(store.tags().set(&best, &two, TIME).unwrap(), Some(one));
        assert_eq!(
            store.tags().get(&best).unwrap(),
            Tag { schema: 1, tag: best.clone(), run: two, created: TIME.into() }
        );
        assert_eq!(tags(&store), [("best".into(), Some("two".into()))]);
        store.tags().delete(&best).unwrap();
        assert!(matches!(store.tags().delete(&best), Err(StoreError::NoTag { .. })));
        assert!(tags(&store).is_empty());
    }

    #[test]
    fn the_temporary_file_of_a_tag_is_no_tag() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let run = "r".parse().unwrap();
        for tag in ["a", "a.new", "a.json", "a.json.new"] {
            store.tags().set(&tag.parse().unwrap(), &run, TIME).unwrap();
        }
        fs::write(dir.path().join("tags/b.json.new"), "half").unwrap();
        let names: Vec<String> = tags(&store).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a", "a.json", "a.json.new", "a.new"]);
    }

    #[test]
    fn arguments_name_runs_and_tags() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let run: RunName = "one".parse().unwrap();
        store.create_run(&run).unwrap().keep();
        store.tags().set(&"best".parse().unwrap(), &run, TIME).unwrap();
        store.tags().set(&"old".parse().unwrap(), &"gone".parse().unwrap(), TIME).unwrap();
        for argument in ["one", ":best"] {
            assert_eq!(store.find_run(argument).unwrap().name().unwrap(), run, "{argument}");
        }
        for (argument, words) in [
            ("two", "no run `two`"),
            ("../x", "no run `../x`"),
            (":bset", "did you mean `:best`?"),
            (":../x", "no tag `../x`"),
            (":", "no tag ``"),
            (":old", "run `gone`, which tag `old` names, is gone"),
        ] {
            let error = store.find_run(argument).unwrap_err().to_string();
            assert!(error.contains(words), "{argument}: {error}");
        }
        assert_eq!(store.run_name(":old").unwrap().as_str(), "gone");
    }

    #[test]
    fn a_damaged_tag_harms_no_other_and_can_be_set() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (bad, run) = ("bad".parse().unwrap(), "one".parse().unwrap());
        store.tags().set(&"good".parse().unwrap(), &run, TIME).unwrap();
        fs::write(dir.path().join("tags/bad.json"), "{").unwrap();
        assert_eq!(tags(&store), [("bad".into(), None), ("good".into(), Some("one".into()))]);
        assert_eq!(store.tags().set(&bad, &run, TIME).unwrap(), None);
        assert_eq!(store.tags().get(&bad).unwrap().run, run);
    }
}
