//! The layers of an image as one plain tree, with everything that an overlay of them would show.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::assemble::describe_root;
use super::attributes::{Original, copy_dir_attributes, copy_node};
use super::error::RootfsError;
use super::layers::Layers;
use super::merged::{Found, Merged, Node, OpenNode};
use super::path::ImagePath;
use crate::sys::beneath::{Dir, Metadata};

/// Mode of directories while they are being filled.
const WORKING_MODE: u32 = 0o700;

/// Copies the merged layers into the empty directory `target`: content with its holes, owners, modes, times, extended
/// attributes, hard links. Blocks are shared with the layers where the file system can do that.
pub fn copy_flat(layers: &Layers, target: &Path) -> Result<(), RootfsError> {
    let host = |source| RootfsError::Host { operation: "prepare the directory", path: target.to_owned(), source };
    let to = Dir::open(target).map_err(host)?;
    // A group that the host hands down is not for images; nobody else looks in before all is there.
    to.set_own_owner(0, 0).and_then(|()| to.set_own_mode(WORKING_MODE)).map_err(host)?;
    let merged = layers.open()?;
    let mut copy = Copy { umask: to.umask(), to, merged: &merged, links: HashMap::new() };
    let mut directories = Vec::new();
    let mut waiting = vec![merged.root()];
    while let Some(node) = waiting.pop() {
        let inner = copy.fill(&node).map_err(|(path, source)| RootfsError::Copy { path, source })?;
        waiting.extend(inner);
        directories.push(node);
    }
    // Every directory was filled before its parent is described, as it came after it.
    for node in directories.iter().rev().filter(|node| !node.path.is_root()) {
        copy.describe(node).map_err(|source| RootfsError::Copy { path: node.path.clone(), source })?;
    }
    describe_root(layers, target)
}

struct Copy<'a> {
    to: Dir,
    umask: u32,
    merged: &'a Merged,
    /// Where the files with several names went first, by the device and inode they are copied from.
    links: HashMap<(u64, u64), (ImagePath, OsString)>,
}

impl Copy<'_> {
    /// Copies what stands in one directory, and makes the directories in it, which are returned.
    fn fill(&mut self, node: &Node) -> Result<Vec<Node>, (ImagePath, io::Error)> {
        let at = |source| (node.path.clone(), source);
        let from = self.merged.enter(node).map_err(at)?;
        let to = self.to.open_dir(node.path.as_os_str()).map_err(at)?;
        let mut inner = Vec::new();
        for name in from.names().map_err(at)? {
            let copied = match from.child(&name) {
                Ok(None) => Ok(()),
                Ok(Some(Found::Dir(child))) => {
                    inner.push(child);
                    to.make_dir(&name, WORKING_MODE)
                }
                Ok(Some(Found::Other(place, metadata))) => self.copy(&from, place, &name, &metadata, &to, node),
                Err(error) => Err(error),
            };
            copied.map_err(|source| (node.path.join(name.as_bytes()).unwrap_or_default(), source))?;
        }
        Ok(inner)
    }

    fn copy(
        &mut self,
        from: &OpenNode,
        place: usize,
        name: &OsStr,
        metadata: &Metadata,
        to: &Dir,
        node: &Node,
    ) -> io::Result<()> {
        if metadata.links > 1 {
            if let Some((path, first)) = self.links.get(&metadata.identity) {
                return to.link(name, &self.to.open_dir(path.as_os_str())?, first);
            }
            self.links.insert(metadata.identity, (node.path.clone(), name.to_owned()));
        }
        copy_node(&Original { dir: from.part(place), name, metadata }, to, name, self.umask)
    }

    fn describe(&self, node: &Node) -> io::Result<()> {
        copy_dir_attributes(&self.merged.top(node)?, &self.to.open_dir(node.path.as_os_str())?)
    }
}
