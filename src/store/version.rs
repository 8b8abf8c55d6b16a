//! Which version the store has: `store.json`, `{"version":1}`.
//!
//! The number goes up when what stands in the store means something else than before. A store from before the file was
//! written counts as version 0. A newer store is refused before anything in it is touched; an older one is brought up to
//! date under [`Store::exclusive`], in steps that can be taken twice, and gets its number when all of them are done.
//! How layers are unpacked has a number of its own, in their `layer.json`, because they can be made again one by one.

use std::io::ErrorKind;

use serde::{Deserialize, Serialize};

use super::{Store, StoreError};
use crate::sys::{read_bounded, write_atomic};

/// What this dockless reads and writes.
const VERSION: u32 = 1;
const FILE: &str = "store.json";
/// Most bytes of the file that are read; it has a few.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// The file. What a newer version may say beside its number does not matter.
#[derive(Serialize, Deserialize)]
struct StoreVersion {
    version: u32,
}

impl Store {
    /// Whether the store has this dockless's version, and not an older one.
    ///
    /// # Errors
    /// [`StoreError::Newer`] for a newer one.
    pub(super) fn is_current(&self) -> Result<bool, StoreError> {
        let path = self.root().join(FILE);
        let bytes = match read_bounded(&path, MAX_FILE_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(source) => return Err(StoreError::Read { path, source }),
        };
        let StoreVersion { version } =
            serde_json::from_slice(&bytes).map_err(|source| StoreError::NoVersion { path, source })?;
        if version > VERSION {
            return Err(StoreError::Newer { path: self.root().to_owned(), found: version, known: VERSION });
        }
        Ok(version == VERSION)
    }

    /// Brings an older store up to date, waiting for commands that are at work in it.
    pub(super) fn migrate(&self) -> Result<(), StoreError> {
        let exclusive = self.exclusive(|_| {})?;
        // Another may have done it meanwhile.
        if !self.is_current()? {
            // From 0 to 1 nothing changes but that there is a number.
            let path = self.root().join(FILE);
            let bytes = serde_json::to_vec(&StoreVersion { version: VERSION }).unwrap_or_default();
            write_atomic(&path, &bytes).map_err(|source| StoreError::Write { path, source })?;
        }
        // It is seldom wanted, and of no use in a store that is only just made.
        drop(exclusive.remove());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_newer_store_is_refused_and_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), r#"{"version":7,"more":{}}"#).unwrap();
        let error = Store::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("has version `7`, expected at most `1`\nhint: "), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_older_store_keeps_what_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let key = crate::image::Digest::sha256(b"x");
        Store::open(dir.path()).unwrap().put_document(&key, b"x").unwrap();
        let file = dir.path().join(FILE);
        assert_eq!(fs::read_to_string(&file).unwrap(), r#"{"version":1}"#);
        for older in [None, Some(r#"{"version":0}"#)] {
            fs::remove_file(&file).unwrap();
            if let Some(text) = older {
                fs::write(&file, text).unwrap();
            }
            let store = Store::open(dir.path()).unwrap();
            assert!(store.is_current().unwrap());
            assert_eq!(store.read_document(&key).unwrap(), b"x");
        }
    }

    /// A command that reads the store does not see it change.
    #[test]
    fn an_older_store_is_migrated_when_nobody_uses_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        fs::remove_file(dir.path().join(FILE)).unwrap();
        let user = store.shared().unwrap();
        let (opened, opens) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| opened.send(Store::open(dir.path()).unwrap().is_current().unwrap()).unwrap());
            assert!(opens.recv_timeout(Duration::from_millis(100)).is_err());
            drop(user);
            assert!(opens.recv_timeout(Duration::from_secs(20)).unwrap());
        });
    }

    #[test]
    fn a_damaged_number_is_no_old_one() {
        let dir = tempfile::tempdir().unwrap();
        Store::open(dir.path()).unwrap();
        for damaged in ["", "{", "{}", r#"{"version":-1}"#] {
            fs::write(dir.path().join(FILE), damaged).unwrap();
            let error = Store::open(dir.path()).unwrap_err();
            assert!(matches!(error, StoreError::NoVersion { .. }), "{damaged}: {error}");
        }
    }
}
