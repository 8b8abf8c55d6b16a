//! What a stack of layers must look like, by a model that is simple, slow and obviously right: a map of paths, changed by
//! one entry after the other. It knows layers whose whiteouts come first. The fuzz targets compare with it too.

use std::collections::BTreeMap;

use crate::rootfs::testing::{Item, Line, content_text, dir, line_text, lines};
use crate::sys::beneath::{FileKind, Time};

/// A file of the model; several paths may lead to one.
#[derive(Clone)]
struct Inode {
    item: Item,
    layer: usize,
}

/// A tree as sequential application of entries makes it.
pub(crate) struct Model {
    inodes: Vec<Inode>,
    /// Components to inode; the root is empty.
    paths: BTreeMap<Vec<Vec<u8>>, usize>,
    layer: usize,
}

pub(crate) type Way = Vec<Vec<u8>>;

/// The archive is one that must be refused.
#[derive(Debug)]
pub(crate) struct Refused;

impl Model {
    pub(crate) fn new() -> Self {
        let mut model = Self { inodes: Vec::new(), paths: BTreeMap::new(), layer: 0 };
        model.insert(Vec::new(), implicit());
        model
    }

    pub(crate) fn apply(&mut self, items: &[Item]) -> Result<(), Refused> {
        for item in items {
            let (mut parent, name) = Self::clean(&item.name);
            let Some(name) = name else {
                self.insert(Vec::new(), item.clone());
                continue;
            };
            if name.starts_with(b".wh.") {
                // What hides makes nothing, and below a file there is nothing to hide.
                let Some(hidden) = self.directory(parent, false)? else { continue };
                parent = hidden;
            } else {
                parent = self.directory(parent, true)?.ok_or(Refused)?;
            }
            if name == b".wh..wh..opq" {
                self.remove_below(&parent);
            } else if let Some(hidden) = name.strip_prefix(b".wh.") {
                parent.push(hidden.to_vec());
                self.remove(&parent);
            } else {
                parent.push(name);
                self.make(parent, item)?;
            }
        }
        self.layer += 1;
        Ok(())
    }

    fn make(&mut self, at: Way, item: &Item) -> Result<(), Refused> {
        if item.flag == b'1' {
            let (parent, name) = Self::clean(&item.link);
            let mut target = self.directory(parent, false)?.ok_or(Refused)?;
            target.push(name.ok_or(Refused)?);
            let mut inode = *self.paths.get(&target).ok_or(Refused)?;
            if self.inodes[inode].item.flag == b'5' {
                return Err(Refused);
            }
            if self.inodes[inode].layer < self.layer {
                // Other names of it, in lower layers, do not come along when it is copied up.
                let copy = Inode { layer: self.layer, ..self.inodes[inode].clone() };
                inode = self.inodes.len();
                self.inodes.push(copy);
                self.paths.insert(target.clone(), inode);
            }
            if at == target {
                return Ok(());
            }
            if target.starts_with(&at) {
                return Err(Refused);
            }
            self.remove(&at);
            self.paths.insert(at, inode);
            return Ok(());
        }
        if !(item.flag == b'5' && self.is_dir(&at)) {
            self.remove(&at);
        }
        self.insert(at, item.clone());
        Ok(())
    }

    fn insert(&mut self, at: Way, item: Item) {
        self.inodes.push(Inode { item, layer: self.layer });
        self.paths.insert(at, self.inodes.len() - 1);
    }

    fn is_dir(&self, at: &Way) -> bool {
        self.paths.get(at).is_some_and(|inode| self.inodes[*inode].item.flag == b'5')
    }

    fn remove(&mut self, at: &Way) {
        self.paths.retain(|path, _| !path.starts_with(at));
    }

    fn remove_below(&mut self, at: &Way) {
        self.paths.retain(|path, _| !path.starts_with(at) || path == at);
    }

    /// The cleaned name's parent and last component; none for the root.
    pub(crate) fn clean(name: &[u8]) -> (Way, Option<Vec<u8>>) {
        let mut way = Way::new();
        for component in name.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => drop(way.pop()),
                other => way.push(other.to_vec()),
            }
        }
        let name = way.pop();
        (way, name)
    }

    /// Where a directory really is, links followed; none if it cannot be there.
    fn directory(&mut self, way: Way, make: bool) -> Result<Option<Way>, Refused> {
        let mut rest = way;
        rest.reverse();
        let (mut at, mut links) = (Way::new(), 0);
        while let Some(component) = rest.pop() {
            if component == b".." {
                at.pop();
                continue;
            }
            at.push(component);
            let found = self.paths.get(&at).map(|inode| self.inodes[*inode].clone());
            match found {
                Some(inode) if inode.item.flag == b'5' => {}
                Some(inode) if inode.item.flag == b'2' => {
                    links += 1;
                    if links > 40 {
                        // In a circle nothing can be made, and there is nothing to hide.
                        return if make { Err(Refused) } else { Ok(None) };
                    }
                    at.pop();
                    if inode.item.link.first() == Some(&b'/') {
                        at.clear();
                    }
                    let target = inode.item.link.split(|byte| *byte == b'/').rev();
                    rest.extend(target.filter(|c| !matches!(*c, b"" | b".")).map(<[u8]>::to_vec));
                }
                // A file of this layer is in the way; one of a lower layer is replaced.
                Some(inode) if inode.layer == self.layer || !make => return Ok(None),
                None if !make => return Ok(None),
                _ => {
                    self.remove(&at);
                    self.insert(at.clone(), implicit());
                }
            }
        }
        Ok(Some(at))
    }

    pub(crate) fn listing(&self) -> Vec<String> {
        let line = |(path, inode): (&Way, &usize)| {
            let item = &self.inodes[*inode].item;
            let what = match item.flag {
                b'5' => "dir".to_owned(),
                b'2' => format!("-> {}", item.link.escape_ascii()),
                b'0' => content_text(&item.content),
                b'3' => {
                    format!("{:?}", FileKind::CharDevice(rustix::fs::makedev(item.device.0, item.device.1)))
                }
                _ => format!("{:?}", FileKind::Fifo),
            };
            let xattrs: BTreeMap<Vec<u8>, Vec<u8>> = item
                .pax
                .iter()
                .map(|(key, value)| (key.trim_start_matches("SCHILY.xattr.").as_bytes().to_vec(), value.clone()))
                .collect();
            let owner = (u32::try_from(item.uid).unwrap(), u32::try_from(item.gid).unwrap());
            Line {
                path: format!("/{}", path.iter().map(|c| c.escape_ascii().to_string()).collect::<Vec<_>>().join("/")),
                text: line_text(&what, item.mode, owner, item.modified, &xattrs),
                identity: (0, *inode as u64),
                is_dir: item.flag == b'5',
            }
        };
        lines(self.paths.iter().map(line).collect())
    }
}

fn implicit() -> Item {
    Item { modified: Time::default(), ..dir("") }
}
