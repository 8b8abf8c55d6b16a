//! Layers seen as one tree, without mounting anything.
//!
//! The rules are overlayfs' (kernel, `filesystems/overlayfs.rst`): what an upper layer has hides what lower ones have under
//! that name, unless both are directories, which are merged; a whiteout hides without being there; an opaque directory is
//! not merged with what is below it. The layers must not change meanwhile, as those of the store do not.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::attributes::Marks;
use super::path::{ImagePath, Step, Trail};
use crate::sys::beneath::{Dir, FileKind, Metadata};

/// Open layers, topmost first.
#[derive(Debug)]
pub(super) struct Merged {
    roots: Vec<Dir>,
    marks: Marks,
}

/// A directory of the merged tree: where it is and which layers it is made of, topmost first. Holds nothing open.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub path: ImagePath,
    layers: Vec<usize>,
}

/// The open directories that a [`Node`] is made of.
#[derive(Debug)]
pub(super) struct OpenNode {
    path: ImagePath,
    parts: Vec<(usize, Dir)>,
    marks: Marks,
}

/// What stands under a name of the merged tree.
#[derive(Debug)]
pub(super) enum Found {
    /// A directory.
    Dir(Node),
    /// Anything else, with the place in [`OpenNode::part`] that has it.
    Other(usize, Metadata),
}

/// What a path leads to.
pub(super) enum Resolved {
    /// A directory.
    Dir(Node),
    /// Anything else: the directory it stands in, its name there, and what [`Found::Other`] says.
    Other { parent: OpenNode, name: OsString, place: usize, metadata: Metadata },
}

impl Merged {
    /// Opens layers, topmost first.
    pub(super) fn open<'a>(layers: impl Iterator<Item = &'a Path>, marks: Marks) -> io::Result<Self> {
        Ok(Self { roots: layers.map(Dir::open).collect::<io::Result<_>>()?, marks })
    }

    /// The root.
    pub(super) fn root(&self) -> Node {
        Node { path: ImagePath::root(), layers: (0..self.roots.len()).collect() }
    }

    /// Opens the directories that make up `node`.
    pub(super) fn enter(&self, node: &Node) -> io::Result<OpenNode> {
        let open = |layer: &usize| Ok((*layer, self.roots[*layer].open_dir(node.path.as_os_str())?));
        let parts = node.layers.iter().map(open).collect::<io::Result<_>>()?;
        Ok(OpenNode { path: node.path.clone(), parts, marks: self.marks })
    }

    /// Opens the directory that says what `node` is like: the topmost.
    pub(super) fn top(&self, node: &Node) -> io::Result<Dir> {
        let layer = node.layers.first().ok_or(io::ErrorKind::NotFound)?;
        self.roots[*layer].open_dir(node.path.as_os_str())
    }

    /// What stands at `path`, with the directory it stands in. No link is followed: what lies behind one is not there.
    ///
    /// `None` for the root, which stands in no directory.
    pub(super) fn find(&self, path: &ImagePath) -> io::Result<Option<(OpenNode, Found)>> {
        let mut node = self.root();
        let mut components = path.components().peekable();
        // Only one directory is open at a time: with hundreds of layers each is as many descriptors.
        while let Some(component) = components.next() {
            let open = self.enter(&node)?;
            let child = open.child(OsStr::from_bytes(component))?;
            if components.peek().is_none() {
                return Ok(child.map(|child| (open, child)));
            }
            let Some(Found::Dir(inner)) = child else { return Ok(None) };
            node = inner;
        }
        Ok(None)
    }

    /// What `path` leads to, links followed inside the root, the last one too. `None` when nothing is there.
    pub(super) fn resolve(&self, path: &[u8]) -> io::Result<Option<Resolved>> {
        let mut trail = Trail::new(path);
        let (mut at, mut above) = (self.root(), Vec::new());
        while let Some(step) = trail.step() {
            let Step::Down(name) = step else {
                at = above.pop().unwrap_or_else(|| self.root());
                continue;
            };
            let parent = self.enter(&at)?;
            match parent.child(&name)? {
                None => return Ok(None),
                Some(Found::Dir(node)) => above.push(std::mem::replace(&mut at, node)),
                Some(Found::Other(place, metadata)) if metadata.kind == FileKind::Symlink => {
                    if trail.follow(&parent.part(place).read_link(&name)?)? {
                        (at, above) = (self.root(), Vec::new());
                    }
                }
                Some(Found::Other(place, metadata)) => {
                    return Ok(trail.is_done().then_some(Resolved::Other { parent, name, place, metadata }));
                }
            }
        }
        Ok(Some(Resolved::Dir(at)))
    }
}

impl OpenNode {
    /// What stands under `name`.
    pub(super) fn child(&self, name: &OsStr) -> io::Result<Option<Found>> {
        let mut layers = Vec::new();
        for (place, (layer, dir)) in self.parts.iter().enumerate() {
            let Some(metadata) = dir.stat(name)? else { continue };
            if metadata.is_whiteout() {
                break;
            }
            if !metadata.is_dir() {
                if layers.is_empty() {
                    return Ok(Some(Found::Other(place, metadata)));
                }
                break;
            }
            layers.push(*layer);
            let is_last = place + 1 == self.parts.len();
            if !is_last && self.marks.is_opaque(dir, name)? {
                break;
            }
        }
        if layers.is_empty() {
            return Ok(None);
        }
        let path =
            self.path.join(name.as_bytes()).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(Some(Found::Dir(Node { path, layers })))
    }

    /// All names that may stand for something, in order.
    pub(super) fn names(&self) -> io::Result<BTreeSet<OsString>> {
        let mut names = BTreeSet::new();
        for (_, dir) in &self.parts {
            names.extend(dir.names()?);
        }
        Ok(names)
    }

    /// One of the directories that it is made of, as [`Found::Other`] names it.
    pub(super) fn part(&self, place: usize) -> &Dir {
        &self.parts[place].1
    }
}
