//! Random stacks of layers against a model that is simple, slow and obviously right: a map of paths, changed by one entry
//! after the other. What is mounted and what is copied must both be what the model says.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::Fixture;
use crate::rootfs::testing::{
    Item, Line, content_text, device, dir, file, hardlink, in_own_mounts, is_root, line_text, lines, listing, symlink,
    tar,
};
use crate::rootfs::{copy_flat, mount_overlay};
use crate::sys::beneath::{FileKind, Time};

/// A file of the model; several paths may lead to one.
#[derive(Clone)]
struct Inode {
    item: Item,
    layer: usize,
}

/// A tree as sequential application of entries makes it.
struct Model {
    inodes: Vec<Inode>,
    /// Components to inode; the root is empty.
    paths: BTreeMap<Vec<Vec<u8>>, usize>,
    layer: usize,
}

type Way = Vec<Vec<u8>>;

/// The archive is one that must be refused.
#[derive(Debug)]
struct Refused;

impl Model {
    fn new() -> Self {
        let mut model = Self { inodes: Vec::new(), paths: BTreeMap::new(), layer: 0 };
        model.insert(Vec::new(), implicit());
        model
    }

    fn apply(&mut self, items: &[Item]) -> Result<(), Refused> {
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
    fn clean(name: &[u8]) -> (Way, Option<Vec<u8>>) {
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
                        return Err(Refused);
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

    fn listing(&self) -> Vec<String> {
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

fn name() -> impl Strategy<Value = String> {
    let component = prop::sample::select(vec!["a", "b", "c", "d"]);
    prop::collection::vec(component, 1..4).prop_map(|components| components.join("/"))
}

/// Anything that makes something. Every item is told from every other by its time.
fn item() -> impl Strategy<Value = Item> {
    let target = prop::sample::select(vec!["a", "b/c", "../d", "/c", "/a/b", "..", "missing"]);
    let kind = prop_oneof![
        4 => (name(), any::<u16>()).prop_map(|(name, content)| file(name, content.to_string())),
        4 => name().prop_map(dir),
        2 => (name(), target).prop_map(|(name, target)| symlink(name, target)),
        2 => (name(), name()).prop_map(|(name, target)| hardlink(name, target)),
        1 => name().prop_map(|name| Item::new(name, b'6')),
        1 => name().prop_map(|name| device(name, b'3', 1, 5)),
        1 => Just(dir("./")),
    ];
    let bits = (0_u32..0o10000, 0_u64..3, 0_u64..3, -5_i64..1000, 0_u32..1_000_000_000, any::<bool>());
    (kind, bits).prop_map(|(item, (mode, uid, gid, seconds, nanoseconds, attribute))| {
        let mode = if item.flag == b'2' { 0o777 } else { mode };
        let item = item.mode(mode).owner(uid, gid).at(seconds, nanoseconds);
        if attribute && item.flag != b'1' { item.xattr("trusted.t", seconds.to_string()) } else { item }
    })
}

/// Anything that hides something.
fn whiteout() -> impl Strategy<Value = Item> {
    (name(), 0_u8..4).prop_map(|(name, kind)| {
        let (parent, last) = name.rsplit_once('/').map_or(("", name.as_str()), |(parent, last)| (parent, last));
        match kind {
            0 => file(format!("{name}/.wh..wh..opq"), ""),
            _ => file(format!("{parent}/.wh.{last}"), ""),
        }
    })
}

fn layer() -> impl Strategy<Value = (Vec<Item>, Vec<Item>)> {
    (prop::collection::vec(whiteout(), 0..3), prop::collection::vec(item(), 0..7))
}

/// What is mounted and what is copied, or that the stack was refused.
fn real(fixture: &Fixture, stack: &[Vec<Item>]) -> Option<(Vec<String>, Vec<String>)> {
    let archives: Vec<Vec<u8>> = stack.iter().map(|items| tar(items)).collect();
    let keys = fixture.unpack(&fixture.image(&archives)).ok()?;
    let layers = crate::rootfs::Layers::load(&fixture.store, &keys).unwrap();
    let scratch = tempfile::tempdir_in(fixture.path()).unwrap();
    let (mounted, copied) = (scratch.path().join("mounted"), scratch.path().join("copied"));
    std::fs::create_dir(&mounted).unwrap();
    std::fs::create_dir(&copied).unwrap();
    copy_flat(&layers, &copied).unwrap();
    let mut overlay = Vec::new();
    in_own_mounts(|| {
        mount_overlay(&layers, scratch.path(), &mounted, true).unwrap();
        overlay = listing(&mounted);
    });
    Some((overlay, listing(&copied)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn stacks_look_as_if_applied_one_after_the_other(stack in prop::collection::vec(layer(), 1..5)) {
        if !is_root() {
            return Ok(());
        }
        let stack: Vec<Vec<Item>> = stack.into_iter().map(|(whiteouts, items)| [whiteouts, items].concat()).collect();
        let mut model = Model::new();
        let applied: Result<Vec<()>, Refused> = stack.iter().map(|items| model.apply(items)).collect();
        let real = real(&Fixture::new(), &stack);
        match applied {
            Ok(_) => {
                let (overlay, copy) = real.ok_or_else(|| TestCaseError::fail("a good stack was refused"))?;
                prop_assert_eq!(&overlay, &model.listing(), "overlay (left) and model (right)");
                prop_assert_eq!(&copy, &model.listing(), "copy (left) and model (right)");
            }
            Err(Refused) => prop_assert!(real.is_none(), "a bad stack was accepted"),
        }
    }

    #[test]
    fn whiteouts_may_come_at_any_place(
        lower in prop::collection::vec(item(), 0..8),
        (whiteouts, items) in layer(),
        places in prop::collection::vec(any::<prop::sample::Index>(), 3),
    ) {
        if !is_root() {
            return Ok(());
        }
        // Links in the way make it a question of order what an entry even names.
        let plain = |items: Vec<Item>| -> Vec<Item> {
            items.into_iter().filter(|item| !matches!(item.flag, b'1' | b'2')).collect()
        };
        let (lower, items) = (plain(lower), plain(items));
        let first = [whiteouts.clone(), items.clone()].concat();
        let mut mixed = items;
        for (whiteout, place) in whiteouts.into_iter().zip(places) {
            mixed.insert(place.index(mixed.len() + 1), whiteout);
        }
        let expected = real(&Fixture::new(), &[lower.clone(), first]);
        prop_assert_eq!(real(&Fixture::new(), &[lower, mixed]), expected);
    }
}

/// How many stacks are tried; long runs set `PROPTEST_CASES`, which is for tests alone.
fn cases() -> u32 {
    let asked = ProptestConfig::default().cases;
    if asked == 256 { 64 } else { asked }
}

#[test]
fn the_model_itself() {
    let mut model = Model::new();
    model.apply(&[dir("a"), file("a/x", "1"), symlink("l", "a"), file("l/y", "2")]).unwrap();
    model.apply(&[file("a/.wh.x", ""), hardlink("z", "a/y")]).unwrap();
    let paths: BTreeSet<String> =
        model.listing().iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(paths.into_iter().collect::<Vec<_>>(), ["/", "/a", "/a/y", "/l", "/z"]);
}
