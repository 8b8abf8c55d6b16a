//! Walking a tree that is to be copied: a directory, or the layers of a run that has ended.
//!
//! A directory may change while it is walked. What goes away under way is passed over; what takes its place is looked at
//! anew; the way to each directory is opened from the top, without links, so that it never leads elsewhere.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;

use super::super::attributes::{Attributes, read_xattrs};
use super::super::error::RootfsError;
use super::super::layers::Layers;
use super::super::merged::{Found, Merged, Node, OpenNode, Resolved};
use super::super::path::ImagePath;
use super::super::pax::Xattrs;
use super::place::Spot;
use super::{Content, Item, Sink, Transfer, TransferError, read_error};
use crate::sys::beneath::{Dir, FileKind, Metadata, file_metadata};

/// A tree with directories that are opened one at a time.
trait Tree {
    /// Where a directory is; holds nothing open.
    type Node;
    /// An open directory.
    type Open;

    fn enter(&self, node: &Self::Node) -> io::Result<Self::Open>;
    fn names(open: &Self::Open) -> io::Result<Vec<OsString>>;
    fn child(open: &Self::Open, name: &OsStr) -> io::Result<Option<Child<Self::Node>>>;
    /// The directory that holds a [`Child::Other`]; place 0 says what the directory itself is like.
    fn part(open: &Self::Open, place: usize) -> &Dir;
}

enum Child<N> {
    Dir(N),
    Other(usize, Metadata),
}

struct Plain(Dir);

impl Tree for Plain {
    type Node = ImagePath;
    type Open = (ImagePath, Dir);

    fn enter(&self, node: &ImagePath) -> io::Result<Self::Open> {
        Ok((node.clone(), self.0.open_dir(node.as_os_str())?))
    }

    fn names(open: &Self::Open) -> io::Result<Vec<OsString>> {
        // What the kernel makes up is not for copying: reading it may block, or do something.
        if open.1.is_made_up()? { Ok(Vec::new()) } else { open.1.names() }
    }

    fn child(open: &Self::Open, name: &OsStr) -> io::Result<Option<Child<ImagePath>>> {
        let Some(metadata) = open.1.stat(name)? else { return Ok(None) };
        if !metadata.is_dir() {
            return Ok(Some(Child::Other(0, metadata)));
        }
        let path = open.0.join(name.as_bytes());
        path.map(|path| Some(Child::Dir(path))).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    fn part(open: &Self::Open, _place: usize) -> &Dir {
        &open.1
    }
}

impl Tree for Merged {
    type Node = Node;
    type Open = OpenNode;

    fn enter(&self, node: &Node) -> io::Result<OpenNode> {
        Self::enter(self, node)
    }

    fn names(open: &OpenNode) -> io::Result<Vec<OsString>> {
        Ok(open.names()?.into_iter().collect())
    }

    fn child(open: &OpenNode, name: &OsStr) -> io::Result<Option<Child<Node>>> {
        Ok(open.child(name)?.map(|found| match found {
            Found::Dir(node) => Child::Dir(node),
            Found::Other(place, metadata) => Child::Other(place, metadata),
        }))
    }

    fn part(open: &OpenNode, place: usize) -> &Dir {
        open.part(place)
    }
}

/// The files of a run that has ended: its image with its writable layer, unmounted.
#[derive(Debug)]
pub struct Kept {
    merged: Merged,
}

impl Kept {
    /// Opens them.
    pub fn open(layers: &Layers, upper: &Path) -> Result<Self, RootfsError> {
        Ok(Self { merged: layers.open_below(upper)? })
    }

    /// What `path` leads to; `None` when nothing is there. The last link is followed with `follow` only.
    pub fn find(self, path: &[u8], follow: bool) -> io::Result<Option<Origin>> {
        let clean = ImagePath::parse(path).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        if !follow && !clean.is_root() {
            let Some(Resolved::Dir(above)) = self.merged.resolve(clean.parent().as_bytes())? else { return Ok(None) };
            let open = self.merged.enter(&above)?;
            return Ok(match open.child(clean.name())? {
                None => None,
                Some(Found::Dir(node)) => Some(Origin(Inner::KeptDir(self.merged, node))),
                Some(Found::Other(place, metadata)) => {
                    Some(Origin(Inner::KeptLeaf { parent: open, name: clean.name().to_owned(), place, metadata }))
                }
            });
        }
        Ok(match self.merged.resolve(clean.as_bytes())? {
            None => None,
            Some(Resolved::Dir(node)) => Some(Origin(Inner::KeptDir(self.merged, node))),
            Some(Resolved::Other { parent, name, place, metadata }) => {
                Some(Origin(Inner::KeptLeaf { parent, name, place, metadata }))
            }
        })
    }
}

/// What is to be copied.
#[derive(Debug)]
pub struct Origin(Inner);

#[derive(Debug)]
enum Inner {
    Dir(Dir),
    Leaf { parent: Dir, name: OsString, metadata: Metadata },
    KeptDir(Merged, Node),
    KeptLeaf { parent: OpenNode, name: OsString, place: usize, metadata: Metadata },
}

impl Origin {
    /// What was found in a directory; `None` when nothing was.
    #[must_use]
    pub fn of(spot: Spot) -> Option<Self> {
        match spot {
            Spot::Dir(dir) => Some(Self(Inner::Dir(dir))),
            Spot::Other { parent, name, metadata } => Some(Self(Inner::Leaf { parent, name, metadata })),
            Spot::Missing { .. } => None,
        }
    }

    /// What it is.
    #[must_use]
    pub const fn kind(&self) -> FileKind {
        match &self.0 {
            Inner::Dir(_) | Inner::KeptDir(..) => FileKind::Directory,
            Inner::Leaf { metadata, .. } | Inner::KeptLeaf { metadata, .. } => metadata.kind,
        }
    }

    /// Whether the kernel makes it up, as what is below `/proc`.
    pub fn is_made_up(&self) -> io::Result<bool> {
        match &self.0 {
            Inner::Dir(dir) | Inner::Leaf { parent: dir, .. } => dir.is_made_up(),
            Inner::KeptDir(..) | Inner::KeptLeaf { .. } => Ok(false),
        }
    }

    /// Sends it to `sink`, under the path `name` there.
    pub fn send(self, name: ImagePath, sink: &mut dyn Sink, transfer: &mut Transfer<'_>) -> Result<(), TransferError> {
        let mut walk = Walk { sink: &mut *sink, transfer, links: HashMap::new() };
        match self.0 {
            Inner::Dir(dir) => walk.tree(&Plain(dir), ImagePath::root(), name)?,
            Inner::KeptDir(merged, node) => walk.tree(&merged, node, name)?,
            Inner::Leaf { parent, name: from, metadata } => walk.leaf(&parent, &from, &metadata, &name)?,
            Inner::KeptLeaf { parent, name: from, place, metadata } => {
                walk.leaf(parent.part(place), &from, &metadata, &name)?;
            }
        }
        sink.finish()
    }
}

struct Walk<'a, 't> {
    sink: &'a mut dyn Sink,
    transfer: &'a mut Transfer<'t>,
    /// Where files with several names went first.
    links: HashMap<(u64, u64), ImagePath>,
}

impl Walk<'_, '_> {
    fn tree<T: Tree>(&mut self, tree: &T, top: T::Node, name: ImagePath) -> Result<(), TransferError> {
        let mut is_top = true;
        let mut waiting = vec![(top, name)];
        while let Some((node, path)) = waiting.pop() {
            let open = match tree.enter(&node) {
                Err(error) if !is_top && is_gone(&error) => continue,
                open => open.map_err(read_error(&path))?,
            };
            is_top = false;
            self.directory(T::part(&open, 0), &path)?;
            for name in T::names(&open).map_err(read_error(&path))? {
                let inner = path
                    .join(name.as_bytes())
                    .map_err(|source| TransferError::Name { path: path.to_string(), source })?;
                match T::child(&open, &name).map_err(read_error(&inner))? {
                    // Gone since the names were read.
                    None => {}
                    Some(Child::Dir(node)) => waiting.push((node, inner)),
                    Some(Child::Other(place, metadata)) => {
                        match self.leaf(T::part(&open, place), &name, &metadata, &inner) {
                            Err(TransferError::Read { source, .. }) if is_gone(&source) => {}
                            done => done?,
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn directory(&mut self, dir: &Dir, path: &ImagePath) -> Result<(), TransferError> {
        let metadata = dir.metadata().map_err(read_error(path))?;
        let xattrs = read_xattrs(dir, OsStr::new(".")).map_err(read_error(path))?;
        self.hand(path, &metadata, &xattrs, &[], Content::None)
    }

    fn leaf(&mut self, dir: &Dir, name: &OsStr, metadata: &Metadata, path: &ImagePath) -> Result<(), TransferError> {
        if metadata.kind == FileKind::Socket {
            self.transfer.skipped += 1;
            return Ok(());
        }
        if metadata.links > 1
            && metadata.kind == FileKind::Regular
            && let Some(first) = self.links.get(&metadata.identity)
        {
            let item = Item {
                path,
                kind: metadata.kind,
                same_as: Some(first),
                link: &[],
                attributes: Attributes::from(metadata),
                xattrs: &Xattrs::new(),
                size: 0,
            };
            return self.transfer.hand(self.sink, &item, Content::None);
        }
        let xattrs = read_xattrs(dir, name).map_err(read_error(path))?;
        match metadata.kind {
            FileKind::Regular => {
                let gone = || read_error(path)(Errno::NOENT.into());
                let file: File = dir.open_file(name).map_err(read_error(path))?.ok_or_else(gone)?;
                // What was opened counts, whatever stood there before.
                let metadata = file_metadata(&file).map_err(read_error(path))?;
                self.hand(path, &metadata, &xattrs, &[], Content::File(&file))?;
                if metadata.links > 1 {
                    self.links.insert(metadata.identity, path.clone());
                }
                Ok(())
            }
            FileKind::Symlink => {
                let target = dir.read_link(name).map_err(read_error(path))?;
                self.hand(path, metadata, &xattrs, &target, Content::None)
            }
            _ => self.hand(path, metadata, &xattrs, &[], Content::None),
        }
    }

    fn hand(
        &mut self,
        path: &ImagePath,
        metadata: &Metadata,
        xattrs: &Xattrs,
        link: &[u8],
        content: Content<'_>,
    ) -> Result<(), TransferError> {
        let attributes = Attributes::from(metadata);
        let item = Item { path, kind: metadata.kind, same_as: None, link, attributes, xattrs, size: metadata.size };
        self.transfer.hand(self.sink, &item, content)
    }
}

/// Whether a name went away, or became something else, while it was looked at.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE | Errno::INVAL | Errno::NXIO)
    )
}
