//! Removing images: their names in one step, then what only they reached.
//!
//! The names go first, so that no image is ever seen half. What a crash leaves after that is content that nothing reaches;
//! a mark in the trash says so, and the next command ends the collection.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use super::trash::is_full;
use super::{Removed, RunRecord, Store, StoreError, StoredImage};
use crate::sys::Lock;

impl Store {
    /// Removes the names of `images`, and takes all content out of sight that no image and no run reaches then.
    /// [`Store::empty_trash`] frees what it took, once the lock is released.
    ///
    /// Works on a full file system: the names are written from the reserve; where that is lost, the layers of these images
    /// go before their names.
    ///
    /// # Errors
    /// [`StoreError::RunUnreadable`] before anything is removed.
    pub fn remove_images(&self, images: &[StoredImage], exclusive: &Lock) -> Result<Removed, StoreError> {
        // Before anything is changed: this is where it is told that nothing can be.
        self.runs_with_layers()?;
        self.mark_collecting();
        let before = if images.is_empty() { Ok(Removed::default()) } else { self.forget_names(images) };
        let before = before.inspect_err(|_| self.mark_collected())?;
        let after = self.collect(exclusive)?;
        Ok(Removed { blobs: after.blobs, layers: before.layers + after.layers, bytes: before.bytes + after.bytes })
    }

    fn forget_names(&self, images: &[StoredImage]) -> Result<Removed, StoreError> {
        match self.untag_all(images) {
            Err(StoreError::Write { source, .. }) if is_full(&source) => {
                let removed = self.collect_layers(images)?;
                let mut budget = u64::MAX;
                self.empty_trash(&mut budget, false)?;
                self.untag_all(images)?;
                Ok(removed)
            }
            untagged => untagged.map(|_| Removed::default()),
        }
    }
}

/// What removing some images would free; nothing of it is exact to the byte: blobs count by their length, layers by their
/// files' content, as [`Removed`] does.
#[derive(Debug, Default)]
pub struct Freed {
    /// Of each image, in the order they were given, what no other image and no run reaches.
    pub alone: Vec<u64>,
    /// Of all together, and with them what nothing reaches already.
    pub bytes: u64,
    /// Blobs and layers that nothing reaches already, and downloads that were not finished.
    pub orphans: usize,
}

impl Store {
    /// What removing `images` would free.
    pub fn freed_by(&self, images: &[StoredImage]) -> Result<Freed, StoreError> {
        let (orphans, bytes) = self.partials()?;
        let mut freed = Freed { alone: vec![0; images.len()], bytes, orphans };
        let mut users: HashMap<PathBuf, Vec<Option<usize>>> = HashMap::new();
        for image in self.images()? {
            let number = images.iter().position(|leaving| leaving.is_same_entry(&image));
            let (blobs, layers) = self.reached(&image.descriptor.digest);
            let paths = blobs.iter().map(|key| self.blob_path(key)).chain(layers.iter().map(|key| self.layer_dir(key)));
            paths.for_each(|path| users.entry(path).or_default().push(number));
        }
        for layer in self.runs_with_layers()?.iter().flat_map(RunRecord::needed_layers) {
            users.entry(self.layer_dir(layer)).or_default().push(None);
        }
        for kind in ["blobs", "layers"] {
            for (path, key) in self.content(kind)? {
                let by = users.get(&path).map(Vec::as_slice).unwrap_or_default();
                if by.contains(&None) {
                    continue;
                }
                let size = match kind {
                    "blobs" => fs::symlink_metadata(&path).map_or(0, |metadata| metadata.len()),
                    _ => self.layer_info(&key).map_or(0, |info| info.size_bytes),
                };
                freed.bytes += size;
                match by {
                    [] => freed.orphans += 1,
                    [Some(only)] => freed.alone[*only] += size,
                    _ => {}
                }
            }
        }
        Ok(freed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::gc::tests::image;
    use super::*;

    #[test]
    fn what_is_freed_is_told_before() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (first, _) = image(&store, "first");
        let (second, _) = image(&store, "second");
        for (name, descriptor) in [("first", &first), ("again", &first), ("second", &second)] {
            store.tag(&name.parse().unwrap(), descriptor).unwrap();
        }
        let find = |name| store.find(name).unwrap();
        let one = store.freed_by(&[find("first"), find("second")]).unwrap();
        assert!(one.alone[0] == 0 && one.alone[1] == one.bytes && one.bytes > 7 && one.orphans == 0, "{one:?}");
        let all = [find("first"), find("second"), find("again")];
        let both = store.freed_by(&all).unwrap();
        assert!(both.alone[0] == 0 && both.bytes > one.bytes);
        let lock = store.exclusive(|_| {}).unwrap();
        assert_eq!(store.remove_images(&all, &lock).unwrap().bytes, both.bytes);
        assert!(store.images().unwrap().is_empty());
        let (_, layers) = store.reached(&first.digest);
        assert!(layers.iter().all(|layer| store.layer_fs(layer).is_none()));
    }

    #[test]
    fn a_live_run_that_cannot_be_read_keeps_everything() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (first, layer) = image(&store, "first");
        store.tag(&"first".parse().unwrap(), &first).unwrap();
        let run = store.create_run(&"live".parse().unwrap()).unwrap();
        fs::write(run.dir().path().join("run.json"), "{").unwrap();
        let lock = store.exclusive(|_| {}).unwrap();
        let error = store.remove_images(&store.images().unwrap(), &lock).unwrap_err();
        assert!(matches!(error, StoreError::RunUnreadable { .. }), "{error}");
        assert!(store.find("first").is_ok() && store.layer_fs(&layer).is_some() && !store.has_trash());
    }

    #[test]
    fn a_run_that_kept_its_writable_layer_keeps_the_layers_below() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (first, layer) = image(&store, "first");
        store.tag(&"first".parse().unwrap(), &first).unwrap();
        let reservation = store.create_run(&"kept".parse().unwrap()).unwrap();
        let run = reservation.dir().clone();
        let mut record = super::super::testing::record("kept");
        record.layers = vec![layer.clone()];
        record.manifest = Some(first.digest.clone());
        run.write_record(&record).unwrap();
        fs::create_dir(run.path().join("upper")).unwrap();
        reservation.keep();
        run.finish().unwrap();
        let found = store.find("first").unwrap();
        let needing = store.runs_needing(std::slice::from_ref(&found)).unwrap();
        assert_eq!(needing[0].1.as_ref().unwrap().as_str(), "kept");
        let lock = store.exclusive(|_| {}).unwrap();
        assert_eq!(store.remove_images(&[found], &lock).unwrap().layers, 0);
        assert!(store.layer_fs(&layer).is_some());
        fs::remove_dir(run.path().join("upper")).unwrap();
        assert_eq!(store.collect(&lock).unwrap().layers, 1);
    }
}
