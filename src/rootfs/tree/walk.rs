//! The way to the directory that an entry stands in.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;

use rustix::io::Errno;

use super::super::attributes::{Attributes, read_xattrs};
use super::super::error::EntryError;
use super::super::merged::{Found, OpenNode};
use super::super::path::{ImagePath, Step, Trail};
use super::{Fault, Tree};
use crate::sys::beneath::{Dir, FileKind};

/// Most directories that a tree holds open.
const MAX_OPEN_DIRS: usize = 32;

/// What a directory is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// To make something in it: it is made if need be.
    Entry,
    /// To link something in it: it is made only if the lower layers have it.
    Target,
    /// To hide something in it: the same, but while the lower layers are unknown it is made for the time being.
    Mark,
}

impl Tree<'_> {
    /// Opens the directory at `path`, with where it really is once links are followed, making what is missing on the way as
    /// far as `way` has it.
    pub(super) fn directory(&mut self, path: &ImagePath, way: Way) -> Result<(ImagePath, Rc<Dir>), Fault> {
        while self.open.last().is_some_and(|(open, _)| path.strip(open).is_none()) {
            self.open.pop();
        }
        let (base, dir) = match self.open.last() {
            Some((open, dir)) => (open.clone(), Rc::clone(dir)),
            None => (ImagePath::root(), Rc::clone(&self.root)),
        };
        let rest = path.strip(&base).unwrap_or_default();
        if rest.is_empty() {
            return Ok((base, dir));
        }
        match dir.open_dir(OsStr::from_bytes(rest)) {
            Ok(found) => {
                let found = Rc::new(found);
                self.hold_open(path, &found);
                Ok((path.clone(), found))
            }
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => self.walk(path, way),
                _ => Err(EntryError::io("open the directory it stands in")(error).into()),
            },
        }
    }

    /// The slow way of [`Self::directory`]: step by step, following links and making what is missing.
    fn walk(&mut self, path: &ImagePath, way: Way) -> Result<(ImagePath, Rc<Dir>), Fault> {
        let failed = || EntryError::io("open the directory it stands in");
        let mut trail = Trail::new(path.as_bytes());
        let (mut at, mut dir) = (ImagePath::root(), Rc::clone(&self.root));
        while let Some(step) = trail.step() {
            let Step::Down(name) = step else {
                at = at.parent();
                dir = Rc::new(self.root.open_dir(at.as_os_str()).map_err(failed())?);
                continue;
            };
            let next = at.join(name.as_bytes())?;
            let found = dir.stat(&name).map_err(failed())?;
            let link = match found {
                Some(found) if found.is_dir() => None,
                Some(found) if found.kind == FileKind::Symlink => Some(dir.read_link(&name).map_err(failed())?),
                Some(found) if found.is_whiteout() => self.replace_whiteout(&dir, &next, way)?,
                Some(_) if way == Way::Entry => return Err(EntryError::NotDirectory { path: next }.into()),
                Some(_) => return Err(Fault::Nowhere),
                None => self.bring_up(&dir, &next, way)?,
            };
            if let Some(target) = link {
                let is_absolute = match trail.follow(&target) {
                    // Links in a circle lead nowhere, where nothing is to be hidden.
                    Err(_) if way == Way::Mark => return Err(Fault::Nowhere),
                    other => other.map_err(failed())?,
                };
                if is_absolute {
                    (at, dir) = (ImagePath::root(), Rc::clone(&self.root));
                }
            } else {
                dir = Rc::new(dir.open_dir(&name).map_err(failed())?);
                at = next;
            }
        }
        if at == *path {
            self.hold_open(&at, &dir);
        }
        Ok((at, dir))
    }

    fn hold_open(&mut self, path: &ImagePath, dir: &Rc<Dir>) {
        // Several layers are unpacked at once, and a process has few descriptors.
        if self.open.len() == MAX_OPEN_DIRS {
            self.open.remove(0);
        }
        self.open.push((path.clone(), Rc::clone(dir)));
    }

    /// What this layer itself has hidden is there again, as a directory that has nothing to do with the one below.
    fn replace_whiteout(&mut self, dir: &Dir, path: &ImagePath, way: Way) -> Result<Option<Vec<u8>>, Fault> {
        if way != Way::Entry {
            return Err(Fault::Nowhere);
        }
        dir.remove_file(path.name()).map_err(EntryError::io("replace a whiteout"))?;
        self.whiteouts.remove(path);
        self.make_implicit(dir, path, None)?;
        self.mark_opaque(path)?;
        self.implicit.remove(path);
        self.guesses.remove(path);
        self.buried.insert(path.clone());
        Ok(None)
    }

    /// Makes a directory that has no entry, like the lower layers' one if there is one. Where they have a link, nothing is
    /// made and the link's target returned.
    fn bring_up(&mut self, dir: &Dir, path: &ImagePath, way: Way) -> Result<Option<Vec<u8>>, Fault> {
        let Some(lowers) = self.lowers else {
            return match way {
                Way::Target => Err(Fault::NeedsLowers),
                Way::Entry | Way::Mark => self.make_implicit(dir, path, None).map(|()| None),
            };
        };
        match self.lower(path)? {
            Some((lower, Found::Other(place, metadata))) if metadata.kind == FileKind::Symlink => {
                let target = lower.part(place).read_link(path.name());
                Ok(Some(target.map_err(EntryError::io("read a link of a lower layer"))?))
            }
            Some((_, Found::Dir(node))) => {
                let top = lowers.top(&node).map_err(EntryError::io("open a directory of a lower layer"))?;
                self.make_implicit(dir, path, Some(&top)).map(|()| None)
            }
            _ if way == Way::Entry => self.make_implicit(dir, path, None).map(|()| None),
            _ => Err(Fault::Nowhere),
        }
    }

    fn make_implicit(&mut self, dir: &Dir, path: &ImagePath, like: Option<&Dir>) -> Result<(), Fault> {
        dir.make_dir(path.name(), Attributes::IMPLICIT.mode)
            .map_err(EntryError::io("make the directory it stands in"))?;
        let mut attributes = Attributes::IMPLICIT;
        if let Some(like) = like {
            let read = || EntryError::io("read the attributes of a lower layer's directory");
            attributes = Attributes::from(&like.metadata().map_err(read())?);
            let xattrs = read_xattrs(like, OsStr::new(".")).map_err(read())?;
            let made = dir.open_dir(path.name()).map_err(read())?;
            self.set_dir_xattrs(&made, path, &xattrs)?;
        }
        self.count_name(path)?;
        if self.lowers.is_none() && !self.is_below_opaque(path) {
            self.guesses.insert(path.clone());
        }
        self.dirs.insert(path.clone(), attributes);
        self.implicit.insert(path.clone());
        Ok(())
    }

    /// What the layers below show at `path`, as far as this one lets them.
    pub(super) fn lower(&self, path: &ImagePath) -> Result<Option<(OpenNode, Found)>, EntryError> {
        match self.lowers {
            Some(lowers) if !self.is_below_opaque(path) => {
                lowers.find(path).map_err(EntryError::io("look into the lower layers"))
            }
            _ => Ok(None),
        }
    }
}
