//! Two trees in overlay form side by side: is what stands in the store still what its blob unpacks to?
//!
//! All that a container can see is compared: kind, owner, mode, modification time, size, content, target of a link, number of
//! a device, extended attributes, and which names are one file. Not compared is what the machine itself gives a file:
//! inode numbers, access and change times, the label of `SELinux`. One tree is taken to be right and within the bounds of
//! unpacking; of the other only what has the same path and kind is entered.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::pax::Xattrs;
use crate::sys::beneath::{Dir, FileKind, Metadata, Time};
use crate::words::printable;

/// Differences after which nobody looks further.
const ENOUGH: usize = 3;
/// Bytes of two files that are compared at a time.
const PIECE_BYTES: usize = 128 << 10;

/// What is different in the tree at `found`, in words; nothing when it is what the tree at `right` is. The first few of many.
///
/// # Errors
/// When `right` cannot be read; that `found` cannot be read is a difference.
pub fn compare_trees(right: &Path, found: &Path) -> io::Result<Vec<String>> {
    let right = Dir::open(right)?;
    let found = match Dir::open(found) {
        Ok(found) => found,
        Err(error) => return Ok(vec![format!("its root cannot be opened: {error}")]),
    };
    let mut comparison = Comparison { right, found, twins: Twins::default(), told: Vec::new() };
    comparison.root()?;
    comparison.rest()?;
    Ok(comparison.told)
}

/// The files with several names, by device and inode, each with its counterpart in the other tree.
#[derive(Default)]
struct Twins {
    of_right: HashMap<(u64, u64), (u64, u64)>,
    of_found: HashMap<(u64, u64), (u64, u64)>,
}

impl Twins {
    /// Whether the two may be the same file, after all that was seen so far.
    fn match_up(&mut self, right: &Metadata, found: &Metadata) -> bool {
        if right.links != found.links {
            return false;
        }
        if right.links < 2 {
            return true;
        }
        let there = *self.of_right.entry(right.identity).or_insert(found.identity);
        let back = *self.of_found.entry(found.identity).or_insert(right.identity);
        there == found.identity && back == right.identity
    }
}

struct Comparison {
    right: Dir,
    found: Dir,
    twins: Twins,
    told: Vec<String>,
}

/// The same directory in both trees.
struct Place<'a> {
    path: &'a OsStr,
    right: Dir,
    found: Dir,
}

impl Comparison {
    fn tell(&mut self, path: &OsStr, what: &str) {
        self.told.push(format!("`/{}` {what}", printable(&path.to_string_lossy())));
    }

    fn root(&mut self) -> io::Result<()> {
        let name = OsStr::new(".");
        let right = (self.right.metadata()?, own_xattrs(&self.right, name)?);
        let found = self.found.metadata().and_then(|found| Ok((found, own_xattrs(&self.found, name)?)));
        match found {
            Ok(found) => self.attributes(OsStr::new(""), &right, &found),
            Err(error) => self.tell(OsStr::new(""), &format!("cannot be read: {error}")),
        }
        Ok(())
    }

    /// All directories, breadth first.
    fn rest(&mut self) -> io::Result<()> {
        let mut waiting = VecDeque::from([OsString::new()]);
        while let Some(path) = waiting.pop_front() {
            if self.told.len() >= ENOUGH {
                break;
            }
            let right = self.right.open_dir(&path)?;
            match self.found.open_dir(&path).and_then(|found| Ok((found.names()?, found))) {
                Ok((names, found)) => self.directory(&Place { path: &path, right, found }, names, &mut waiting)?,
                Err(error) => self.tell(&path, &format!("cannot be read: {error}")),
            }
        }
        Ok(())
    }

    fn directory(
        &mut self,
        place: &Place<'_>,
        found: Vec<OsString>,
        waiting: &mut VecDeque<OsString>,
    ) -> io::Result<()> {
        let found: BTreeSet<OsString> = found.into_iter().collect();
        let right: BTreeSet<OsString> = place.right.names()?.into_iter().collect();
        for name in right.union(&found) {
            if self.told.len() >= ENOUGH {
                break;
            }
            let path = join(place.path, name);
            match (right.contains(name), found.contains(name)) {
                (true, false) => self.tell(&path, "is missing"),
                (false, _) => self.tell(&path, "is there and should not be"),
                (true, true) => {
                    if self.entry(place, name, &path)? {
                        waiting.push_back(path);
                    }
                }
            }
        }
        Ok(())
    }

    /// Compares what stands under one name; whether it is a directory in both.
    fn entry(&mut self, place: &Place<'_>, name: &OsStr, path: &OsStr) -> io::Result<bool> {
        let right = place.right.stat(name)?.ok_or(io::ErrorKind::NotFound)?;
        let right_xattrs = own_xattrs(&place.right, name)?;
        let read = || -> io::Result<_> {
            let found = place.found.stat(name)?.ok_or(io::ErrorKind::NotFound)?;
            Ok((found, own_xattrs(&place.found, name)?))
        };
        let (found, found_xattrs) = match read() {
            Ok(found) => found,
            Err(error) => {
                self.tell(path, &format!("cannot be read: {error}"));
                return Ok(false);
            }
        };
        if right.kind != found.kind {
            self.tell(path, &kinds_in_words(right.kind, found.kind));
            return Ok(false);
        }
        if right.is_whiteout() {
            // Nobody sees it, so it is made without care for what else it is.
            return Ok(false);
        }
        self.attributes(path, &(right, right_xattrs), &(found, found_xattrs));
        match right.kind {
            FileKind::Directory => return Ok(true),
            FileKind::Regular if right.size == found.size => self.content(place, name, path)?,
            FileKind::Symlink => self.target(place, name, path)?,
            _ => {}
        }
        if !self.twins.match_up(&right, &found) {
            self.tell(path, "has other hard links than it should");
        }
        Ok(false)
    }

    fn attributes(&mut self, path: &OsStr, right: &(Metadata, Xattrs), found: &(Metadata, Xattrs)) {
        let ((right, right_xattrs), (found, found_xattrs)) = (right, found);
        if (right.uid, right.gid) != (found.uid, found.gid) {
            let words = format!("is owned by {}:{}, expected {}:{}", found.uid, found.gid, right.uid, right.gid);
            self.tell(path, &words);
        }
        if right.mode != found.mode {
            self.tell(path, &format!("has mode {:04o}, expected {:04o}", found.mode, right.mode));
        }
        if right.modified != found.modified {
            let words = format!("was modified at {}, expected {}", seconds(found.modified), seconds(right.modified));
            self.tell(path, &words);
        }
        if right.kind == FileKind::Regular && right.size != found.size {
            self.tell(path, &format!("has {} bytes, expected {}", found.size, right.size));
        }
        if right_xattrs != found_xattrs {
            let names = right_xattrs.keys().chain(found_xattrs.keys());
            let other = names.into_iter().find(|name| right_xattrs.get(*name) != found_xattrs.get(*name));
            let name = other.map_or_else(String::new, |name| printable(&String::from_utf8_lossy(name)));
            self.tell(path, &format!("has another extended attribute `{name}` than it should"));
        }
    }

    fn content(&mut self, place: &Place<'_>, name: &OsStr, path: &OsStr) -> io::Result<()> {
        let right = place.right.open_file(name)?.ok_or(io::ErrorKind::NotFound)?;
        match place.found.open_file(name) {
            Ok(Some(found)) => match first_difference(right, found)? {
                None => {}
                Some(Ok(at)) => self.tell(path, &format!("has other content, from byte {at} on")),
                Some(Err(error)) => self.tell(path, &format!("cannot be read: {error}")),
            },
            Ok(None) => self.tell(path, "was changed meanwhile"),
            Err(error) => self.tell(path, &format!("cannot be read: {error}")),
        }
        Ok(())
    }

    fn target(&mut self, place: &Place<'_>, name: &OsStr, path: &OsStr) -> io::Result<()> {
        let right = place.right.read_link(name)?;
        match place.found.read_link(name) {
            Ok(found) if found == right => {}
            Ok(found) => {
                let [found, right] = [found, right].map(|target| printable(&String::from_utf8_lossy(&target)));
                self.tell(path, &format!("points to `{found}`, expected `{right}`"));
            }
            Err(error) => self.tell(path, &format!("cannot be read: {error}")),
        }
        Ok(())
    }
}

/// Where two files differ first; the inner error is one of reading `found`.
fn first_difference(mut right: File, mut found: File) -> io::Result<Option<io::Result<u64>>> {
    let (mut one, mut other) = (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]);
    let mut at = 0_u64;
    loop {
        let length = fill(&mut right, &mut one)?;
        match fill(&mut found, &mut other) {
            Err(error) => return Ok(Some(Err(error))),
            Ok(also) if also == length && one[..length] == other[..length] => {}
            Ok(also) => {
                let same = one[..length].iter().zip(&other[..also]).take_while(|(one, other)| one == other).count();
                return Ok(Some(Ok(at + same as u64)));
            }
        }
        if length == 0 {
            return Ok(None);
        }
        at += length as u64;
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// All extended attributes, those of the overlay too, but for the one that the machine's policy sets.
fn own_xattrs(dir: &Dir, name: &OsStr) -> io::Result<Xattrs> {
    let mut xattrs = Xattrs::new();
    for attribute in dir.xattr_names(name)?.iter().filter(|attribute| attribute.as_bytes() != b"security.selinux") {
        if let Some(value) = dir.xattr(name, attribute)? {
            xattrs.insert(attribute.as_bytes().to_vec(), value);
        }
    }
    Ok(xattrs)
}

fn kinds_in_words(right: FileKind, found: FileKind) -> String {
    let (expected, is) = (right.words(), found.words());
    if expected == is { format!("is {is} of another number") } else { format!("is {is}, expected {expected}") }
}

fn seconds(time: Time) -> String {
    format!("{}.{:09}", time.seconds, time.nanoseconds)
}

fn join(path: &OsStr, name: &OsStr) -> OsString {
    let mut joined = path.as_bytes().to_vec();
    if !joined.is_empty() {
        joined.push(b'/');
    }
    joined.extend_from_slice(name.as_bytes());
    OsString::from_vec(joined)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    type Change = fn(&Path);

    fn tree(at: &Path) {
        fs::create_dir_all(at.join("dir/inner")).unwrap();
        fs::write(at.join("dir/file"), vec![7; PIECE_BYTES + 10]).unwrap();
        fs::write(at.join("one"), "x").unwrap();
        fs::write(at.join("two"), "x").unwrap();
        fs::hard_link(at.join("one"), at.join("dir/linked")).unwrap();
        symlink("file", at.join("dir/link")).unwrap();
        for path in ["dir/file", "one", "two", "dir/inner", "dir", ""] {
            let time = std::time::SystemTime::UNIX_EPOCH;
            File::open(at.join(path)).unwrap().set_modified(time).unwrap();
        }
        let dir = Dir::open(&at.join("dir")).unwrap();
        dir.set_times(OsStr::new("link"), Time::default()).unwrap();
    }

    fn differences(change: Change) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let (right, found) = (dir.path().join("right"), dir.path().join("found"));
        tree(&right);
        tree(&found);
        change(&found);
        compare_trees(&right, &found).unwrap()
    }

    #[test]
    fn equal_trees_are_equal() {
        assert_eq!(differences(|_| {}), Vec::<String>::new());
    }

    #[test]
    fn each_difference_is_told() {
        let cases: &[(Change, &str)] = &[
            (|at| fs::remove_dir(at.join("dir/inner")).unwrap(), "`/dir/inner` is missing"),
            (|at| fs::write(at.join("new"), "").unwrap(), "`/new` is there and should not be"),
            (|at| fs::write(at.join("two"), "y").unwrap(), "`/two` has other content, from byte 0 on"),
            (|at| fs::write(at.join("two"), "").unwrap(), "`/two` has 0 bytes, expected 1"),
            (
                |at| {
                    let mut bytes = fs::read(at.join("dir/file")).unwrap();
                    bytes[PIECE_BYTES + 3] ^= 1;
                    fs::write(at.join("dir/file"), bytes).unwrap();
                },
                "`/dir/file` has other content, from byte 131075 on",
            ),
            (
                |at| fs::set_permissions(at.join("dir"), fs::Permissions::from_mode(0o700)).unwrap(),
                "`/dir` has mode 0700, expected 0755",
            ),
            (
                |at| {
                    fs::remove_file(at.join("dir/link")).unwrap();
                    symlink("/etc\u{1b}", at.join("dir/link")).unwrap();
                },
                "`/dir/link` points to `/etc\\u{1b}`, expected `file`",
            ),
            (
                |at| {
                    fs::remove_file(at.join("two")).unwrap();
                    fs::create_dir(at.join("two")).unwrap();
                },
                "`/two` is a directory, expected a regular file",
            ),
            (
                |at| {
                    fs::remove_file(at.join("two")).unwrap();
                    fs::hard_link(at.join("one"), at.join("two")).unwrap();
                },
                "`/two` has other hard links than it should",
            ),
            (|at| fs::remove_dir_all(at).unwrap(), "its root cannot be opened"),
        ];
        for (change, expected) in cases {
            let told = differences(*change);
            assert!(told.iter().any(|line| line.starts_with(expected)), "{expected}: {told:?}");
        }
        let times =
            differences(|at| File::open(at.join("two")).unwrap().set_modified(std::time::SystemTime::now()).unwrap());
        assert!(times.len() == 1 && times[0].starts_with("`/two` was modified at "), "{times:?}");
    }

    #[test]
    fn a_few_differences_are_enough() {
        let told = differences(|at| (0..50).for_each(|number| fs::write(at.join(format!("n{number}")), "").unwrap()));
        assert!(told.len() >= ENOUGH && told.len() < ENOUGH + 5, "{told:?}");
    }
}
