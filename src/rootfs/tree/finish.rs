//! The end of a tree: what could only be settled, or set, once all entries are there.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

use super::super::attributes::{Attributes, Marks, finish_dir, tolerate};
use super::super::error::{EntryError, LayerError};
use super::super::merged::Found;
use super::super::path::ImagePath;
use super::{Finished, Needs, Tree, drop_xattrs};

impl Tree<'_> {
    /// Sets what had to wait: directories become what they are to be, children first.
    pub(in super::super) fn finish(mut self) -> Result<Finished, LayerError> {
        self.open.clear();
        self.drop_needless_whiteouts()?;
        self.drop_hollow_dirs()?;
        self.forget_hidden_likeness()?;
        if self.marks == Marks::Plain {
            // Until now it would have been in the way of removing a directory that is left empty.
            for path in &self.opaque {
                self.set_opaque(path).map_err(|source| LayerError::Finish { path: path.clone(), source })?;
            }
        }
        for (path, attributes) in self.dirs.iter().rev() {
            let finish = self.root.open_dir(path.as_os_str()).and_then(|dir| finish_dir(&dir, attributes));
            finish.map_err(|source| LayerError::Finish { path: path.clone(), source })?;
        }
        for (path, acls) in &self.acls {
            for (name, acl) in acls {
                let name = OsStr::from_bytes(name);
                let set = self.root.open_dir(path.as_os_str()).and_then(|dir| dir.set_own_xattr(name, acl));
                tolerate(name, set).map_err(|source| LayerError::Finish { path: path.clone(), source })?;
            }
        }
        let mut needs = Needs::default();
        if self.lowers.is_none() {
            needs.guesses = self.guesses;
            needs.parents = self.implicit;
            needs.whiteouts = self.whiteouts;
        }
        let is_opaque = self.opaque.contains(&ImagePath::root());
        Ok(Finished { needs, size_bytes: self.size_bytes, has_root: self.has_root, is_opaque })
    }

    fn drop_needless_whiteouts(&mut self) -> Result<(), LayerError> {
        let all = std::mem::take(&mut self.whiteouts);
        for path in all {
            let remove = || -> io::Result<bool> {
                let needless = self.is_below_opaque(&path)
                    || match self.lowers {
                        Some(lowers) => lowers.find(&path)?.is_none(),
                        None => false,
                    };
                if needless {
                    self.root.open_dir(path.parent().as_os_str())?.remove_file(path.name())?;
                }
                Ok(needless)
            };
            if !remove().map_err(|source| LayerError::Finish { path: path.clone(), source })? {
                self.whiteouts.insert(path);
            }
        }
        Ok(())
    }

    /// A directory that was made like the lower layers' one is only itself if a later entry hid that one.
    fn forget_hidden_likeness(&mut self) -> Result<(), LayerError> {
        let hidden: Vec<ImagePath> = self.implicit.iter().filter(|path| self.is_below_opaque(path)).cloned().collect();
        for path in hidden {
            let dropped = self.root.open_dir(path.as_os_str()).and_then(|dir| drop_xattrs(&dir));
            dropped.map_err(|source| LayerError::Finish { path: path.clone(), source })?;
            self.acls.remove(&path);
            self.implicit.remove(&path);
            self.dirs.insert(path, Attributes::IMPLICIT);
        }
        Ok(())
    }

    /// Whiteouts make no directories: one that was only made to put a whiteout in goes where it shows.
    fn drop_hollow_dirs(&mut self) -> Result<(), LayerError> {
        let all: Vec<ImagePath> = self.implicit.union(&self.buried).cloned().collect();
        for path in all.into_iter().rev() {
            let mut drop = || -> Result<(), EntryError> {
                let is_buried = self.buried.contains(&path);
                let is_alone = is_buried || self.is_below_opaque(&path);
                let is_dir_below = matches!(self.lower(&path)?, Some((_, Found::Dir(_))));
                if !is_alone && (self.lowers.is_none() || is_dir_below) {
                    return Ok(());
                }
                let failed = || EntryError::io("remove an empty directory");
                let parent = self.root.open_dir(path.parent().as_os_str()).map_err(failed())?;
                if !parent.remove_empty_dir(path.name()).map_err(failed())? {
                    return Ok(());
                }
                self.forget(&path);
                // Below something opaque it would hide nothing, and keep the directory around it from being empty.
                if is_buried && !self.is_below_opaque(&path) { self.make_whiteout(&parent, &path) } else { Ok(()) }
            };
            drop().map_err(|source| LayerError::Entry { path: path.as_bytes().to_vec(), source })?;
        }
        self.drop_needless_whiteouts()
    }

    /// Whether layers below have nothing to say about `path`, because a directory above it is opaque.
    pub(super) fn is_below_opaque(&self, path: &ImagePath) -> bool {
        !self.opaque.is_empty() && path.ancestors().any(|above| self.opaque.contains(&above))
    }
}
