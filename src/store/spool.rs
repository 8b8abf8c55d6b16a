//! Room for bytes that are read more than once and kept nowhere: a stream that is an archive.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;

use super::{Store, StoreError};
use crate::sys::LockMode;

const NAME: &str = "spool";

impl Store {
    /// An empty file on the store's file system that has no name: it is gone with its last descriptor.
    ///
    /// # Errors
    /// [`StoreError::Write`] when it cannot be made.
    pub fn spool(&self) -> Result<File, StoreError> {
        // Held only while the file has a name, so that a sweep finds either a name without a holder or nothing.
        let _lock = self.lock(NAME, LockMode::Exclusive, |_| {})?;
        let path = self.root().join("tmp").join(format!("{NAME}.file"));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path);
        let unnamed = file.and_then(|file| std::fs::remove_file(&path).map(|()| file));
        unnamed.map_err(|source| StoreError::Write { path, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spool_has_no_name() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (_one, _two) = (store.spool().unwrap(), store.spool().unwrap());
        assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
        // What a killed process left is taken over.
        std::fs::write(dir.path().join("tmp/spool.file"), "x").unwrap();
        assert_eq!(store.spool().unwrap().metadata().unwrap().len(), 0);
    }
}
