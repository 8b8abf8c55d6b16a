//! Secrets: values that workflows ask for by name, and that nobody else is to see.
//!
//! ```text
//! secrets/            0700
//!   NAME              0600: the value, nothing else
//! ```
//!
//! A file is replaced by rename, so that a reader has the old value or the new one. A value never stands in an error, and
//! its `Debug` shows nothing.

use std::fmt;
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use jiff::Timestamp;

use super::{Store, StoreError};
use crate::sys::{Lock, LockMode, open_regular, write_atomic};
use crate::words::nearest;

/// Longest name in bytes.
const MAX_NAME_BYTES: usize = 63;
/// Largest value in bytes.
pub const MAX_SECRET_BYTES: usize = 64 << 10;

/// The name of a secret: `[A-Za-z_][A-Za-z0-9_]*`, at most 63 characters, so that it can be a variable's too.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretName(String);

/// Why a string is not the name of a secret.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "secret name `{0}` is malformed, expected a letter or `_`, then letters, digits, `_`, {MAX_NAME_BYTES} at most"
)]
pub struct SecretNameError(String);

impl SecretName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SecretName {
    type Err = SecretNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let good = text.len() <= MAX_NAME_BYTES
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && text.bytes().next().is_some_and(|b| !b.is_ascii_digit());
        if good { Ok(Self(text.to_owned())) } else { Err(SecretNameError(text.escape_debug().to_string())) }
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The value of a secret: UTF-8 without NUL, not empty, 64 KiB at most; it may have several lines.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(String);

/// Why bytes are not the value of a secret. Tells nothing of them.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SecretValueError {
    /// Nothing there.
    #[error("the secret is empty")]
    Empty,
    /// Too long.
    #[error("the secret is too long, expected {MAX_SECRET_BYTES} bytes at most")]
    TooLong,
    /// It could not be a variable.
    #[error("the secret contains a NUL byte, expected text")]
    Nul,
    /// Not text.
    #[error("the secret is not UTF-8, expected text\nhint: encode it, e.g. with `base64`")]
    NotText,
}

impl SecretValue {
    /// Checks a value.
    pub fn new(bytes: Vec<u8>) -> Result<Self, SecretValueError> {
        if bytes.is_empty() {
            return Err(SecretValueError::Empty);
        }
        if bytes.len() > MAX_SECRET_BYTES {
            return Err(SecretValueError::TooLong);
        }
        if bytes.contains(&0) {
            return Err(SecretValueError::Nul);
        }
        String::from_utf8(bytes).map(Self).map_err(|_| SecretValueError::NotText)
    }

    /// The value itself, for the environment of a run and for masking.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(…)")
    }
}

/// The secrets of a store; see [`Store::secrets`].
#[derive(Debug, Clone)]
pub struct Secrets {
    dir: PathBuf,
    lock: PathBuf,
}

/// A secret as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretInfo {
    /// Its name.
    pub name: SecretName,
    /// When it got its value.
    pub changed: Timestamp,
}

impl Store {
    /// The secrets of this store.
    #[must_use]
    pub fn secrets(&self) -> Secrets {
        Secrets { dir: self.root().join("secrets"), lock: self.lock_path("secrets") }
    }
}

impl Secrets {
    /// The value of a secret.
    ///
    /// # Errors
    /// [`StoreError::NoSecret`] with the name that was probably meant.
    pub fn get(&self, name: &SecretName) -> Result<SecretValue, StoreError> {
        let path = self.path(name);
        let read = |source| StoreError::Read { path: path.clone(), source };
        let file = match open_regular(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(self.missing(name)),
            file => file.map_err(read)?,
        };
        let mut bytes = Vec::new();
        file.take(MAX_SECRET_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(read)?;
        SecretValue::new(bytes).map_err(|source| StoreError::Secret { path, source })
    }

    /// Whether there is a secret of that name.
    #[must_use]
    pub fn has(&self, name: &SecretName) -> bool {
        self.path(name).exists()
    }

    /// Keeps a secret; whether there was one of that name, which only `replace` allows.
    ///
    /// # Errors
    /// [`StoreError::SecretExists`] without `replace`.
    pub fn add(&self, name: &SecretName, value: &SecretValue, replace: bool) -> Result<bool, StoreError> {
        let _lock = self.lock()?;
        let exists = self.has(name);
        if exists && !replace {
            return Err(StoreError::SecretExists { name: name.to_string() });
        }
        let path = self.path(name);
        write_atomic(&path, value.0.as_bytes()).map_err(|source| StoreError::Write { path, source })?;
        Ok(exists)
    }

    /// All secrets, by name.
    pub fn list(&self) -> Result<Vec<SecretInfo>, StoreError> {
        let mut found = Vec::new();
        for (name, path) in named_entries(&self.dir)? {
            let Ok(name) = name.parse() else { continue };
            // One that is deleted this moment is not there.
            let changed = fs::symlink_metadata(&path).and_then(|metadata| metadata.modified());
            if let Some(changed) = changed.ok().and_then(|time| Timestamp::try_from(time).ok()) {
                found.push(SecretInfo { name, changed });
            }
        }
        found.sort_by(|a: &SecretInfo, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Forgets a secret.
    ///
    /// # Errors
    /// [`StoreError::NoSecret`] with the name that was probably meant.
    pub fn delete(&self, name: &SecretName) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        let path = self.path(name);
        // What a crash has left of it (`write_atomic`) is to be forgotten too.
        drop(fs::remove_file(self.dir.join(format!("{name}.new"))));
        match fs::remove_file(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Err(self.missing(name)),
            removed => removed.map_err(|source| StoreError::Write { path, source }),
        }
    }

    fn missing(&self, name: &SecretName) -> StoreError {
        let known = self.list().unwrap_or_default();
        let meant = nearest(name.as_str(), known.iter().map(|info| info.name.as_str())).map(str::to_owned);
        StoreError::NoSecret { name: name.to_string(), meant }
    }

    fn lock(&self) -> Result<Lock, StoreError> {
        let locked = Lock::acquire(&self.lock, LockMode::Exclusive, |_| {});
        locked.map_err(|source| StoreError::Lock { path: self.lock.clone(), source })
    }

    fn path(&self, name: &SecretName) -> PathBuf {
        self.dir.join(name.as_str())
    }
}

/// The entries of one of our directories whose names are text.
pub(super) fn named_entries(dir: &Path) -> Result<Vec<(String, PathBuf)>, StoreError> {
    let read = |source| StoreError::Read { path: dir.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(read)? {
        let entry = entry.map_err(read)?;
        found.extend(entry.file_name().into_string().ok().map(|name| (name, entry.path())));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn value(text: &str) -> SecretValue {
        SecretValue::new(text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn names_can_be_variables() {
        for good in ["A", "_", "_a1", "HF_TOKEN", &"a".repeat(63)] {
            assert!(good.parse::<SecretName>().is_ok(), "{good}");
        }
        for bad in ["", "1a", "a-b", "a.b", "a=b", "../x", "a b", "ä", "a\n", &"a".repeat(64)] {
            assert!(bad.parse::<SecretName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_value() {
        for (bytes, error) in [
            (Vec::new(), SecretValueError::Empty),
            (vec![b'x'; MAX_SECRET_BYTES + 1], SecretValueError::TooLong),
            (b"a\0b".to_vec(), SecretValueError::Nul),
            (vec![0xff], SecretValueError::NotText),
        ] {
            assert_eq!(SecretValue::new(bytes).unwrap_err(), error);
        }
        assert!(SecretValue::new(vec![b'x'; MAX_SECRET_BYTES]).is_ok());
        assert_eq!(format!("{:?}", Some(value("hunter2"))), "Some(SecretValue(…))");
    }

    #[test]
    fn secrets_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let secrets = Store::open(dir.path()).unwrap().secrets();
        let (name, other): (SecretName, SecretName) = ("TOKEN".parse().unwrap(), "OTHER".parse().unwrap());
        assert!(!secrets.add(&name, &value("one\ntwo\n"), false).unwrap());
        assert_eq!(secrets.get(&name).unwrap().expose(), "one\ntwo\n");
        let mode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("secrets"), mode("secrets/TOKEN")), (0o700, 0o600));

        assert!(matches!(secrets.add(&name, &value("three"), false), Err(StoreError::SecretExists { .. })));
        assert!(secrets.add(&name, &value("three"), true).unwrap());
        assert_eq!(secrets.get(&name).unwrap().expose(), "three");
        secrets.add(&other, &value("x"), true).unwrap();
        // What a crash left is nobody's secret.
        fs::write(dir.path().join("secrets/TOKEN.new"), "half").unwrap();
        let names: Vec<String> = secrets.list().unwrap().iter().map(|info| info.name.to_string()).collect();
        assert_eq!(names, ["OTHER", "TOKEN"]);

        let missing = secrets.get(&"TOKNE".parse().unwrap()).unwrap_err();
        assert!(missing.to_string().contains("did you mean `TOKEN`?"), "{missing}");
        secrets.delete(&name).unwrap();
        assert!(matches!(secrets.delete(&name), Err(StoreError::NoSecret { .. })));
        assert!(!secrets.has(&name) && secrets.has(&other));
    }

    #[test]
    fn a_damaged_secret_is_not_told() {
        let dir = tempfile::tempdir().unwrap();
        let secrets = Store::open(dir.path()).unwrap().secrets();
        fs::write(dir.path().join("secrets/A"), b"hunter2\0").unwrap();
        let error = secrets.get(&"A".parse().unwrap()).unwrap_err();
        assert!(!crate::words::describe(&error).contains("hunter2"), "{error}");
    }
}
