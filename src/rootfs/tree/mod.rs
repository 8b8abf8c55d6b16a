//! A layer's tree on disk, made entry by entry in overlay form.
//!
//! Whiteouts become character devices 0:0, opaque directories carry an attribute. Both speak about layers below only:
//! what the layer itself has under a name stays, in whatever order the two come. Beyond that the last entry of a name
//! wins, with what applying entries one after another would leave: a directory that replaces a file of its own layer is
//! opaque, because that file had hidden what is below.
//!
//! A layer is mostly unpacked while those below it are still on their way. What cannot be known then is noted as
//! [`Needs`]; what cannot even be noted, a hard link to a file of a lower layer, ends the attempt with
//! [`Fault::NeedsLowers`], and the layer is unpacked again when they are there.

mod finish;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::{self, BufRead};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;

use self::walk::Way;
use super::archive::{Archive, ContentError, Entry, Kind};
use super::attributes::{
    Attributes, Marks, OPAQUE_NAME, Original, copy_node, finish_dir, finish_file, finish_node, is_acl, is_wanted,
    tolerate,
};
use super::error::{EntryError, LayerError};
use super::merged::{Found, Merged};
use super::path::{ImagePath, forget, forget_in_set};
use super::pax::Xattrs;
use crate::image::ByteSize;
use crate::sys::beneath::{Dir, FileKind, device_number};

const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// AUFS' own files, which docker's oldest layers contain and every tool skips.
const AUFS_PREFIX: &[u8] = b".wh..wh.";

/// Most bytes of directories' access control lists, which wait in memory until all is there.
const MAX_ACL_BYTES: usize = 16 << 20;

/// Why an entry was not made.
pub(super) enum Fault {
    /// It depends on layers that are not known here.
    NeedsLowers,
    /// There is no such directory, and none was to be made.
    Nowhere,
    /// The archive or the layer is bad.
    Layer(LayerError),
    /// The entry is bad, or the file system refused it.
    Entry(EntryError),
}

impl<E: Into<EntryError>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::Entry(error.into())
    }
}

/// What of a tree depends on the layers below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// Where directories were made, some only for a while, that no entry had asked for. If the lower layers have a link at
    /// one of these, things have gone astray and the layer must be unpacked again.
    pub guesses: BTreeSet<ImagePath>,
    /// Directories without an entry of their own: they are what the lower layers' directory is, or root's.
    pub parents: BTreeSet<ImagePath>,
    /// Whiteouts: where nothing is to be hidden they must go, or a directory that is in no other layer would list them.
    pub whiteouts: BTreeSet<ImagePath>,
}

impl Needs {
    pub(super) fn is_empty(&self) -> bool {
        self.guesses.is_empty() && self.parents.is_empty() && self.whiteouts.is_empty()
    }
}

/// A finished tree.
#[derive(Debug)]
pub(super) struct Finished {
    pub needs: Needs,
    /// Bytes of file content, without holes.
    pub size_bytes: u64,
    /// Whether the root has an entry of its own.
    pub has_root: bool,
    /// Whether the root is opaque: then the layers below count for nothing.
    pub is_opaque: bool,
}

/// The tree while it grows.
pub(super) struct Tree<'a> {
    root: Rc<Dir>,
    umask: u32,
    /// The layers below, when they are known.
    lowers: Option<&'a Merged>,
    marks: Marks,
    /// Open directories, each below the one before it, so that the next entry's is seldom far.
    open: Vec<(ImagePath, Rc<Dir>)>,
    /// What each directory is to be once it has its content.
    dirs: BTreeMap<ImagePath, Attributes>,
    /// Access control lists of directories, which wait for the mode and, as new files inherit them, for the content.
    acls: BTreeMap<ImagePath, Xattrs>,
    acl_bytes: usize,
    /// Bytes of the names in the maps and sets here, and their bound.
    name_bytes: u64,
    max_name_bytes: u64,
    /// Directories without an entry of their own, and those of them that came to stand for nothing in a lower layer,
    /// because of a whiteout of their name.
    implicit: BTreeSet<ImagePath>,
    buried: BTreeSet<ImagePath>,
    /// See [`Needs::guesses`].
    guesses: BTreeSet<ImagePath>,
    whiteouts: BTreeSet<ImagePath>,
    opaque: BTreeSet<ImagePath>,
    size_bytes: u64,
    has_root: bool,
}

/// What stood where something is to be made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Former {
    Nothing,
    Dir,
    /// A whiteout, or a file of this layer.
    Hiding,
}

/// What an entry's name asks for.
enum Wish {
    Make,
    Hide(Vec<u8>),
    MakeOpaque,
    Nothing,
}

impl<'a> Tree<'a> {
    /// A tree in the empty directory `root`, with the layers below it if they are known, marked for the overlays
    /// it is made for.
    pub(super) fn new(root: &Path, lowers: Option<&'a Merged>, marks: Marks, max_name_bytes: u64) -> io::Result<Self> {
        let root = Dir::open(root)?;
        // What the store's own directories hand down, a group or access control lists, is not for images.
        drop_xattrs(&root)?;
        finish_dir(&root, &Attributes::IMPLICIT)?;
        Ok(Self {
            umask: root.umask(),
            root: Rc::new(root),
            lowers,
            marks,
            open: Vec::new(),
            dirs: BTreeMap::from([(ImagePath::root(), Attributes::IMPLICIT)]),
            acls: BTreeMap::new(),
            acl_bytes: 0,
            name_bytes: 0,
            max_name_bytes,
            implicit: BTreeSet::new(),
            buried: BTreeSet::new(),
            guesses: BTreeSet::new(),
            whiteouts: BTreeSet::new(),
            opaque: BTreeSet::new(),
            size_bytes: 0,
            has_root: false,
        })
    }

    /// Makes what `entry` says; its content comes from `archive`.
    pub(super) fn add<R: BufRead>(&mut self, entry: &Entry, archive: &mut Archive<R>) -> Result<(), Fault> {
        let path = ImagePath::parse(&entry.path)?;
        if path.is_root() {
            return self.set_root(entry);
        }
        let wish = wish(&path)?;
        if matches!(wish, Wish::Nothing) {
            return Ok(());
        }
        let way = if matches!(wish, Wish::Make) { Way::Entry } else { Way::Mark };
        let (parent, dir) = match self.directory(&path.parent(), way) {
            // Where nothing can be there is nothing to hide.
            Err(Fault::Nowhere) => return Ok(()),
            other => other?,
        };
        match wish {
            Wish::Make => self.make(entry, archive, &dir, &parent.join(path.name().as_bytes())?),
            Wish::Hide(name) => self.hide(&dir, &parent.join(&name)?),
            Wish::MakeOpaque => self.make_opaque(&parent),
            Wish::Nothing => Ok(()),
        }
    }

    /// Whether directories were made that the layers below, unknown here, may have as something else.
    pub(super) fn rests_on_guesses(&self) -> bool {
        !self.guesses.is_empty()
    }

    fn set_root(&mut self, entry: &Entry) -> Result<(), Fault> {
        if entry.kind != Kind::Dir {
            return Err(EntryError::Root.into());
        }
        self.has_root = true;
        drop_xattrs(&self.root).map_err(EntryError::io("set its attributes"))?;
        self.dirs.insert(ImagePath::root(), attributes(entry));
        self.set_dir_xattrs(&Rc::clone(&self.root), &ImagePath::root(), &entry.xattrs)
    }

    fn make<R: BufRead>(
        &mut self,
        entry: &Entry,
        archive: &mut Archive<R>,
        dir: &Rc<Dir>,
        path: &ImagePath,
    ) -> Result<(), Fault> {
        let mode = entry.mode & 0o777;
        let kind = match entry.kind {
            Kind::File => return self.make_file(entry, archive, dir, path),
            Kind::Dir => return self.make_dir(entry, dir, path),
            Kind::Hardlink => return self.make_hardlink(entry, dir, path),
            Kind::Symlink => {
                let target = OsStr::from_bytes(&entry.link);
                self.put("make the link", dir, path, |name| dir.make_symlink(name, target))?;
                FileKind::Symlink
            }
            Kind::CharDevice(0, minor @ (0 | 255)) => return Err(EntryError::NullDevice { minor }.into()),
            // In a user namespace none can be made, nor opened: podman leaves them out too.
            Kind::CharDevice(..) | Kind::BlockDevice(..) if self.marks == Marks::User => {
                return self.leave_out(dir, path);
            }
            Kind::CharDevice(major, minor) => FileKind::CharDevice(device_number(major, minor)),
            Kind::BlockDevice(major, minor) => FileKind::BlockDevice(device_number(major, minor)),
            Kind::Fifo => FileKind::Fifo,
        };
        if kind != FileKind::Symlink {
            self.put("make the node", dir, path, |name| dir.make_node(name, kind, mode))?;
        }
        finish_node(dir, path.name(), kind, &attributes(entry), &entry.xattrs, self.umask)
            .map_err(EntryError::io("set its attributes"))?;
        Ok(())
    }

    /// Nothing is there in the end, neither what an earlier entry nor what a lower layer has.
    fn leave_out(&mut self, dir: &Dir, path: &ImagePath) -> Result<(), Fault> {
        let whiteout = self.marks.whiteout();
        self.put("leave out the device", dir, path, |name| dir.make_node(name, whiteout, 0))?;
        self.count_name(path)?;
        self.whiteouts.insert(path.clone());
        Ok(())
    }

    fn make_file<R: BufRead>(
        &mut self,
        entry: &Entry,
        archive: &mut Archive<R>,
        dir: &Rc<Dir>,
        path: &ImagePath,
    ) -> Result<(), Fault> {
        let file = self.put("make the file", dir, path, |name| dir.create_file(name, entry.mode & 0o777))?;
        let mut end = 0;
        let written = archive.read_content(entry, |offset, bytes| {
            end = offset + bytes.len() as u64;
            self.size_bytes += bytes.len() as u64;
            file.write_all_at(bytes, offset)
        });
        written.map_err(|error| match error {
            ContentError::Archive(error) => Fault::Layer(error.into()),
            ContentError::Taker(source) => EntryError::Io { operation: "write the file", source }.into(),
        })?;
        if end < entry.size {
            file.set_len(entry.size).map_err(EntryError::io("write the file"))?;
        }
        finish_file(&file, &attributes(entry), &entry.xattrs, self.umask)
            .map_err(EntryError::io("set its attributes"))?;
        Ok(())
    }

    fn make_dir(&mut self, entry: &Entry, dir: &Rc<Dir>, path: &ImagePath) -> Result<(), Fault> {
        let name = path.name();
        let make = || dir.make_dir(name, Attributes::IMPLICIT.mode);
        let mut former = Former::Nothing;
        if let Err(error) = make() {
            former = self.make_room(error, dir, path, true).map_err(EntryError::io("make the directory"))?;
            if former != Former::Dir {
                make().map_err(EntryError::io("make the directory"))?;
            }
        }
        if former == Former::Hiding {
            self.mark_opaque(path)?;
        }
        self.implicit.remove(path);
        self.buried.remove(path);
        self.count_name(path)?;
        self.dirs.insert(path.clone(), attributes(entry));
        if former != Former::Dir && entry.xattrs.is_empty() {
            return Ok(());
        }
        let inner = dir.open_dir(name).map_err(EntryError::io("open the directory"))?;
        if former == Former::Dir {
            drop_xattrs(&inner).map_err(EntryError::io("set its attributes"))?;
        }
        self.set_dir_xattrs(&inner, path, &entry.xattrs)
    }

    fn set_dir_xattrs(&mut self, dir: &Dir, path: &ImagePath, xattrs: &Xattrs) -> Result<(), Fault> {
        self.acls.remove(path);
        for (name, value) in xattrs {
            let name = OsStr::from_bytes(name);
            if is_acl(name) {
                self.acls.entry(path.clone()).or_default().insert(name.as_bytes().to_vec(), value.clone());
                self.acl_bytes += value.len();
                if self.acl_bytes > MAX_ACL_BYTES {
                    return Err(EntryError::Acls { limit: ByteSize(MAX_ACL_BYTES as u64) }.into());
                }
            } else if is_wanted(name) {
                tolerate(name, dir.set_own_xattr(name, value)).map_err(EntryError::io("set its attributes"))?;
            }
        }
        Ok(())
    }

    fn make_hardlink(&mut self, entry: &Entry, dir: &Rc<Dir>, path: &ImagePath) -> Result<(), Fault> {
        let target = ImagePath::parse(&entry.link)?;
        if target.is_root() {
            return Err(EntryError::LinkDirectory { target }.into());
        }
        let (parent, from) = match self.directory(&target.parent(), Way::Target) {
            Err(Fault::Nowhere) => return Err(EntryError::LinkTarget { target }.into()),
            other => other?,
        };
        let name = target.name();
        let at = parent.join(name.as_bytes())?;
        let look = EntryError::io("look at the link's target");
        match from.stat(name).map_err(look)? {
            Some(found) if found.is_whiteout() => return Err(EntryError::LinkTarget { target }.into()),
            Some(found) if found.is_dir() => return Err(EntryError::LinkDirectory { target }.into()),
            Some(_) => {}
            None => self.copy_up(&at, &from, &target)?,
        }
        if at != *path {
            self.put("make the hard link", dir, path, |new| dir.link(new, &from, name))?;
        }
        Ok(())
    }

    /// Brings a file of a lower layer into this one, so that it can be linked.
    fn copy_up(&mut self, at: &ImagePath, dir: &Dir, target: &ImagePath) -> Result<(), Fault> {
        if self.lowers.is_none() {
            return Err(Fault::NeedsLowers);
        }
        let missing = || EntryError::LinkTarget { target: target.clone() };
        match self.lower(at)? {
            Some((lower, Found::Other(place, metadata))) => {
                let original = Original { dir: lower.part(place), name: at.name(), metadata: &metadata };
                copy_node(&original, dir, at.name(), self.umask).map_err(EntryError::io("copy the link's target"))?;
                self.size_bytes += if metadata.kind == FileKind::Regular { metadata.size } else { 0 };
                Ok(())
            }
            Some((_, Found::Dir(_))) => Err(EntryError::LinkDirectory { target: target.clone() }.into()),
            None => Err(missing().into()),
        }
    }

    fn make_opaque(&mut self, path: &ImagePath) -> Result<(), Fault> {
        self.mark_opaque(path)
    }

    fn hide(&mut self, dir: &Dir, path: &ImagePath) -> Result<(), Fault> {
        let name = path.name();
        match dir.stat(name).map_err(EntryError::io("look for what it hides"))? {
            None => self.make_whiteout(dir, path)?,
            Some(found) if found.is_dir() => {
                self.mark_opaque(path)?;
                if self.implicit.remove(path) {
                    // It was taken for the lower layers' directory, but that one is gone.
                    self.buried.insert(path.clone());
                    self.dirs.insert(path.clone(), Attributes::IMPLICIT);
                    self.acls.remove(path);
                    let inner = dir.open_dir(name);
                    inner.and_then(|inner| drop_xattrs(&inner)).map_err(EntryError::io("set its attributes"))?;
                }
            }
            Some(_) => {}
        }
        Ok(())
    }

    fn make_whiteout(&mut self, dir: &Dir, path: &ImagePath) -> Result<(), EntryError> {
        dir.make_node(path.name(), self.marks.whiteout(), 0).map_err(EntryError::io("make the whiteout"))?;
        self.count_name(path)?;
        self.whiteouts.insert(path.clone());
        Ok(())
    }

    fn mark_opaque(&mut self, path: &ImagePath) -> Result<(), Fault> {
        if self.marks != Marks::Plain && !self.opaque.contains(path) {
            self.set_opaque(path).map_err(EntryError::io("mark the directory as opaque"))?;
        }
        self.opaque.insert(path.clone());
        Ok(())
    }

    /// The root's mark is never asked for by the kernel; it goes into the layer's description.
    fn set_opaque(&self, path: &ImagePath) -> io::Result<()> {
        if path.is_root() {
            return Ok(());
        }
        self.marks.set_opaque(&self.root.open_dir(path.as_os_str())?)
    }

    /// Counts a name that is remembered; those that are forgotten again still count.
    fn count_name(&mut self, path: &ImagePath) -> Result<(), EntryError> {
        self.name_bytes += path.as_bytes().len() as u64;
        if self.name_bytes > self.max_name_bytes {
            return Err(EntryError::Names { limit: ByteSize(self.max_name_bytes) });
        }
        Ok(())
    }

    /// Makes something new under a name, first taking away what an earlier entry left there.
    fn put<T>(
        &mut self,
        operation: &'static str,
        dir: &Dir,
        path: &ImagePath,
        make: impl Fn(&OsStr) -> io::Result<T>,
    ) -> Result<T, EntryError> {
        make(path.name())
            .or_else(|error| self.make_room(error, dir, path, false).and_then(|_| make(path.name())))
            .map_err(EntryError::io(operation))
    }

    /// Takes away what stands in the way, if that is why `error` came.
    fn make_room(&mut self, error: io::Error, dir: &Dir, path: &ImagePath, for_dir: bool) -> io::Result<Former> {
        if error.kind() != io::ErrorKind::AlreadyExists {
            return Err(error);
        }
        let name = path.name();
        let Some(found) = dir.stat(name)? else { return Ok(Former::Nothing) };
        if !found.is_dir() {
            self.whiteouts.remove(path);
            dir.remove_file(name)?;
            return Ok(Former::Hiding);
        }
        if !for_dir {
            dir.remove_tree(name)?;
            self.forget(path);
        }
        Ok(Former::Dir)
    }

    fn forget(&mut self, path: &ImagePath) {
        self.open.clear();
        for set in [&mut self.implicit, &mut self.buried, &mut self.whiteouts, &mut self.opaque] {
            forget_in_set(set, path);
        }
        forget(&mut self.dirs, path);
        forget(&mut self.acls, path);
    }
}

/// What an entry of that name is about.
fn wish(path: &ImagePath) -> Result<Wish, EntryError> {
    if !path.as_bytes().windows(WHITEOUT_PREFIX.len()).any(|bytes| bytes == WHITEOUT_PREFIX) {
        return Ok(Wish::Make);
    }
    let (parent, name) = path.split();
    for component in parent.split(|byte| *byte == b'/') {
        if component.starts_with(AUFS_PREFIX) {
            return Ok(Wish::Nothing);
        }
        if component.starts_with(WHITEOUT_PREFIX) {
            return Err(EntryError::Whiteout);
        }
    }
    match name.strip_prefix(WHITEOUT_PREFIX) {
        None => Ok(Wish::Make),
        Some(b"" | b"." | b"..") => Err(EntryError::Whiteout),
        Some(_) if name == OPAQUE_NAME.as_bytes() => Ok(Wish::MakeOpaque),
        Some(_) if name.starts_with(AUFS_PREFIX) => Ok(Wish::Nothing),
        Some(hidden) => Ok(Wish::Hide(hidden.to_vec())),
    }
}

fn attributes(entry: &Entry) -> Attributes {
    Attributes { uid: entry.uid, gid: entry.gid, mode: entry.mode, modified: entry.modified }
}

/// Removes the attributes of an entry that a later one of the same name replaces; the overlay's own stay.
fn drop_xattrs(dir: &Dir) -> io::Result<()> {
    let own = OsStr::new(".");
    for attribute in dir.xattr_names(own)?.iter().filter(|attribute| is_wanted(attribute)) {
        dir.remove_xattr(own, attribute)?;
    }
    Ok(())
}
