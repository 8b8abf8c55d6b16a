//! A tree as a tar: what the container of a run sees in its root file system, written as others read it.
//!
//! POSIX.1-2001 with records of its own where the old header is too small: long names, extended attributes
//! (`SCHILY.xattr.`), parts of seconds, and files with holes in GNU's format 1.0. A container may write to its layer
//! meanwhile: what is gone when it is read is left out, and a file that got shorter is filled up with zeros.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{SeekFrom, seek};
use tar::{EntryType, Header};

use super::attributes::read_xattrs;
use super::error::RootfsError;
use super::layers::Layers;
use super::merged::{Found, Merged, Node, OpenNode};
use super::path::ImagePath;
use crate::sys::beneath::{Dir, FileKind, Metadata};

/// Directories of the root that hold the kernel's things: their content is not the container's.
const KERNELS: [&[u8]; 3] = [b"dev", b"proc", b"sys"];
/// A directory that was renamed in an overlay and has its content under another name below.
const REDIRECT_XATTR: &str = "trusted.overlay.redirect";
const BLOCK: usize = 512;
/// Fewer bytes in holes are not worth a map.
const LEAST_HOLES: u64 = 4096;
/// Largest number that the old header has room for in octal digits (7 of them).
const MAX_OLD_ID: u32 = 0o7_777_777;
/// The same for sizes (11).
const MAX_OLD_SIZE: u64 = 0o77_777_777_777;

/// Writes the merged layers, topmost first, to `out`.
///
/// # Errors
/// [`RootfsError::Export`] with the file that could not be read, [`RootfsError::ExportWrite`] for `out`.
pub fn export(layers: &Layers, out: &mut dyn Write) -> Result<(), RootfsError> {
    let merged = layers.open()?;
    let mut export = Export { out, links: HashMap::new(), merged: &merged };
    let mut waiting = vec![merged.root()];
    while let Some(node) = waiting.pop() {
        let at = |error| match error {
            Failure::Read(source) => RootfsError::Export { path: node.path.clone(), source },
            Failure::Write(source) => RootfsError::ExportWrite(source),
        };
        let mut inner = match export.directory(&node) {
            Err(Failure::Read(error)) if is_gone(&error) => continue,
            inner => inner.map_err(at)?,
        };
        // In the order of their names, the first one next.
        inner.reverse();
        waiting.append(&mut inner);
    }
    export.finish().map_err(RootfsError::ExportWrite)
}

/// Which side failed.
enum Failure {
    Read(io::Error),
    Write(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

/// Whether something else, or nothing, stands there by now.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        || error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}

struct Export<'a> {
    out: &'a mut dyn Write,
    merged: &'a Merged,
    /// Where the files with several names went first.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl Export<'_> {
    /// Writes the directory and the files in it; the directories in it are returned.
    fn directory(&mut self, node: &Node) -> Result<Vec<Node>, Failure> {
        let from = self.merged.enter(node)?;
        if !node.path.is_root() {
            let top = self.merged.top(node)?;
            if top.xattr(OsStr::new("."), OsStr::new(REDIRECT_XATTR))?.is_some() {
                return Err(Failure::Read(io::Error::other(
                    "the directory was renamed, and this kernel keeps its content elsewhere",
                )));
            }
            let xattrs = read_xattrs(&top, OsStr::new("."))?;
            let mut name = relative(&node.path);
            name.push(b'/');
            let records = Records::of(xattrs);
            self.entry(&name, &top.metadata()?, EntryType::Directory, None, 0, records).map_err(Failure::Write)?;
            if KERNELS.contains(&&name[..name.len() - 1]) {
                return Ok(Vec::new());
            }
        }
        let mut inner = Vec::new();
        for name in from.names()? {
            match from.child(&name)? {
                None => {}
                Some(Found::Dir(child)) => inner.push(child),
                Some(Found::Other(place, metadata)) => match self.file(&from, place, &name, &metadata, node) {
                    Err(Failure::Read(error)) if is_gone(&error) => {}
                    written => written?,
                },
            }
        }
        Ok(inner)
    }

    fn file(
        &mut self,
        from: &OpenNode,
        place: usize,
        name: &OsStr,
        metadata: &Metadata,
        node: &Node,
    ) -> Result<(), Failure> {
        let dir = from.part(place);
        let path = node.path.join(name.as_bytes()).map_err(io::Error::other)?;
        let own_name = relative(&path);
        if let Some(first) = self.links.get(&metadata.identity).cloned() {
            let (link, records) = (Some(first.as_slice()), Records::default());
            return self.entry(&own_name, metadata, EntryType::Link, link, 0, records).map_err(Failure::Write);
        }
        let (kind, target) = match metadata.kind {
            FileKind::Regular => return self.regular(dir, name, metadata, own_name),
            FileKind::Symlink => (EntryType::Symlink, Some(dir.read_link(name)?)),
            FileKind::CharDevice(_) => (EntryType::Char, None),
            FileKind::BlockDevice(_) => (EntryType::Block, None),
            FileKind::Fifo => (EntryType::Fifo, None),
            // A tar has none, and nobody is behind it.
            FileKind::Socket | FileKind::Directory => return Ok(()),
        };
        let records = Records::of(read_xattrs(dir, name)?);
        self.entry(&own_name, metadata, kind, target.as_deref(), 0, records).map_err(Failure::Write)?;
        self.remember(metadata, own_name);
        Ok(())
    }

    fn remember(&mut self, metadata: &Metadata, name: Vec<u8>) {
        if metadata.links > 1 {
            self.links.insert(metadata.identity, name);
        }
    }

    fn regular(&mut self, dir: &Dir, name: &OsStr, metadata: &Metadata, own: Vec<u8>) -> Result<(), Failure> {
        let Some(mut file) = dir.open_file(name)? else { return Ok(()) };
        let size = file.metadata()?.len();
        let mut records = Records::of(read_xattrs(dir, name)?);
        let pieces = pieces(&file, size)?;
        let stored: u64 = pieces.iter().map(|(_, length)| length).sum();
        if size.saturating_sub(stored) < LEAST_HOLES {
            self.entry(&own, metadata, EntryType::Regular, None, size, records).map_err(Failure::Write)?;
            self.copy(&mut file, &[(0, size)])?;
        } else {
            let map = map(&pieces);
            for (key, value) in [("major", "1"), ("minor", "0"), ("realsize", &size.to_string())] {
                records.push(&format!("GNU.sparse.{key}"), value.as_bytes());
            }
            records.push("GNU.sparse.name", &own);
            let length = stored + u64::try_from(map.len()).unwrap_or(0);
            let stand_in = [b"GNUSparseFile.0/", &own[own.len().saturating_sub(60)..]].concat();
            self.entry(&stand_in, metadata, EntryType::Regular, None, length, records).map_err(Failure::Write)?;
            self.out.write_all(&map).map_err(Failure::Write)?;
            self.copy(&mut file, &pieces)?;
        }
        self.remember(metadata, own);
        Ok(())
    }

    /// Writes the pieces, and fills the last block up.
    fn copy(&mut self, file: &mut File, pieces: &[(u64, u64)]) -> Result<(), Failure> {
        let mut written = 0;
        for (start, length) in pieces {
            seek(&*file, SeekFrom::Start(*start)).map_err(io::Error::from)?;
            let copied = io::copy(&mut Read::take(&mut *file, *length), &mut self.out).map_err(Failure::Write)?;
            // Its container has shortened it meanwhile.
            io::copy(&mut io::repeat(0).take(length - copied), &mut self.out).map_err(Failure::Write)?;
            written += length;
        }
        self.out.write_all(&padding(written)).map_err(Failure::Write)
    }

    fn entry(
        &mut self,
        name: &[u8],
        metadata: &Metadata,
        kind: EntryType,
        link: Option<&[u8]>,
        size: u64,
        mut records: Records,
    ) -> io::Result<()> {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(metadata.mode);
        header.set_uid(u64::from(metadata.uid.min(MAX_OLD_ID)));
        header.set_gid(u64::from(metadata.gid.min(MAX_OLD_ID)));
        header.set_size(size.min(MAX_OLD_SIZE));
        header.set_mtime(u64::try_from(metadata.modified.seconds).unwrap_or(0).min(MAX_OLD_SIZE));
        if let FileKind::CharDevice(number) | FileKind::BlockDevice(number) = metadata.kind {
            header.set_device_major(rustix::fs::major(number))?;
            header.set_device_minor(rustix::fs::minor(number))?;
        }
        if metadata.uid > MAX_OLD_ID {
            records.push("uid", metadata.uid.to_string().as_bytes());
        }
        if metadata.gid > MAX_OLD_ID {
            records.push("gid", metadata.gid.to_string().as_bytes());
        }
        if size > MAX_OLD_SIZE {
            records.push("size", size.to_string().as_bytes());
        }
        if metadata.modified.nanoseconds > 0 || metadata.modified.seconds < 0 {
            records.push("mtime", seconds(metadata).as_bytes());
        }
        let Some(old) = header.as_ustar_mut() else { return Err(io::ErrorKind::InvalidData.into()) };
        if !fits(&mut old.name, name) {
            records.push("path", name);
        }
        if let Some(link) = link
            && !fits(&mut old.linkname, link)
        {
            records.push("linkpath", link);
        }
        self.records(&records)?;
        header.set_cksum();
        self.out.write_all(header.as_bytes())
    }

    /// Writes the header that describes the next one.
    fn records(&mut self, records: &Records) -> io::Result<()> {
        if records.0.is_empty() {
            return Ok(());
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_mode(0o644);
        header.set_size(u64::try_from(records.0.len()).unwrap_or(0));
        if let Some(old) = header.as_ustar_mut() {
            fits(&mut old.name, b"PaxHeaders/x");
        }
        header.set_cksum();
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(&records.0)?;
        self.out.write_all(&padding(u64::try_from(records.0.len()).unwrap_or(0)))
    }

    fn finish(self) -> io::Result<()> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()
    }
}

/// Records as `pax` has them: their own length in decimal digits, a key and a value.
#[derive(Default)]
struct Records(Vec<u8>);

impl Records {
    fn of(xattrs: super::pax::Xattrs) -> Self {
        let mut records = Self::default();
        for (name, value) in xattrs {
            let key = [b"SCHILY.xattr.", name.as_slice()].concat();
            records.push_bytes(&key, &value);
        }
        records
    }

    fn push(&mut self, key: &str, value: &[u8]) {
        self.push_bytes(key.as_bytes(), value);
    }

    fn push_bytes(&mut self, key: &[u8], value: &[u8]) {
        // A space, an equals sign and a line feed.
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length.to_string().len() + rest != length {
            length = length.to_string().len() + rest;
        }
        self.0.extend(length.to_string().bytes().chain(*b" "));
        self.0.extend(key.iter().chain(b"=").chain(value).chain(b"\n"));
    }
}

/// Puts what fits into a field of the old header; whether all of it does.
fn fits(field: &mut [u8], value: &[u8]) -> bool {
    let length = value.len().min(field.len());
    field[..length].copy_from_slice(&value[..length]);
    // What is not ASCII has no meaning there.
    value.len() <= field.len() && value.is_ascii()
}

fn relative(path: &ImagePath) -> Vec<u8> {
    path.components().collect::<Vec<_>>().join(&b'/')
}

/// Seconds since 1970 with their parts; the parts count upwards also before.
fn seconds(metadata: &Metadata) -> String {
    let time = metadata.modified;
    let nanoseconds = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds);
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let nanoseconds = nanoseconds.unsigned_abs();
    format!("{sign}{}.{:09}", nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000)
}

/// Where a file has data: offset and length of each piece.
fn pieces(file: &File, size: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            // A file system that knows no holes.
            Err(rustix::io::Errno::INVAL) => return Ok(vec![(0, size)]),
            Err(errno) => return Err(errno.into()),
        };
        let end = seek(file, SeekFrom::Hole(start)).unwrap_or(size).min(size);
        if start >= end {
            break;
        }
        pieces.push((start, end - start));
        at = end;
    }
    Ok(pieces)
}

/// GNU's map of the pieces: numbers in lines, in whole blocks. The last piece says where the file ends.
fn map(pieces: &[(u64, u64)]) -> Vec<u8> {
    let numbers = pieces.iter().flat_map(|(start, length)| [*start, *length]);
    let lines = [u64::try_from(pieces.len()).unwrap_or(0)].into_iter().chain(numbers);
    let text: String = lines.flat_map(|number| [number.to_string(), "\n".to_owned()]).collect();
    let mut bytes = text.into_bytes();
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

/// Zeros up to the next block.
fn padding(length: u64) -> Vec<u8> {
    let over = usize::try_from(length % 512).unwrap_or(0);
    vec![0; (BLOCK - over) % BLOCK]
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

    use super::*;
    use crate::sys::beneath::Time;

    #[test]
    fn records_count_their_own_length() {
        let mut records = Records::default();
        records.push("path", b"x");
        records.push("key", &[b'v'; 93]);
        assert_eq!(records.0[..9], *b"9 path=x\n");
        // 93 + 3 + 3 and two digits would be 101, and with three it is 102.
        assert!(records.0[9..].starts_with(b"102 key=v"), "{}", String::from_utf8_lossy(&records.0[9..20]));
        assert_eq!(records.0.len(), 111);
    }

    #[test]
    fn times_before_1970() {
        let at = |seconds, nanoseconds| {
            let time = Time { seconds, nanoseconds };
            self::seconds(&Metadata {
                kind: FileKind::Fifo,
                uid: 0,
                gid: 0,
                mode: 0,
                modified: time,
                size: 0,
                links: 1,
                identity: (0, 0),
            })
        };
        assert_eq!((at(1, 5), at(-2, 500_000_000)), ("1.000000005".to_owned(), "-1.500000000".to_owned()));
    }

    #[test]
    fn a_tree_is_what_it_was_after_being_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        let [lower, upper] = ["lower", "upper"].map(|name| dir.path().join(name));
        let long = "n".repeat(150);
        for path in [&lower, &upper] {
            std::fs::create_dir_all(path.join("d")).unwrap();
        }
        std::fs::create_dir_all(lower.join("proc/1")).unwrap();
        std::fs::write(lower.join("d/old"), "old").unwrap();
        std::fs::write(lower.join(&long), "long").unwrap();
        std::fs::write(upper.join("d/old"), "new").unwrap();
        std::fs::set_permissions(upper.join("d/old"), std::fs::Permissions::from_mode(0o4751)).unwrap();
        std::fs::hard_link(upper.join("d/old"), upper.join("link")).unwrap();
        std::os::unix::fs::symlink("/elsewhere", upper.join("sym")).unwrap();
        let sparse = File::create(upper.join("sparse")).unwrap();
        sparse.set_len(3 << 20).unwrap();
        sparse.write_at(b"here", 1 << 20).unwrap();
        // Not every file system has room for attributes.
        let noted = rustix::fs::setxattr(upper.join("d/old"), "user.note", b"yes", rustix::fs::XattrFlags::empty());
        let layers = Layers::from_paths(vec![upper.clone(), lower], Some(upper));
        let mut archive = Vec::new();
        export(&layers, &mut archive).unwrap();
        assert!(archive.len() < 1 << 20, "the holes are in it: {}", archive.len());
        let mut names = Vec::new();
        for entry in tar::Archive::new(archive.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            // The first of its two names.
            if name == "link" && noted.is_ok() {
                let records = entry.pax_extensions().unwrap().unwrap();
                let has_note = |record: &tar::PaxExtension<'_>| {
                    (record.key_bytes(), record.value_bytes()) == (&b"SCHILY.xattr.user.note"[..], &b"yes"[..])
                };
                assert!(records.flatten().any(|record| has_note(&record)));
            }
            names.push(name);
        }
        for name in ["d/", "d/old", "link", &long, "proc/", "sym"] {
            assert!(names.iter().any(|found| found == name), "{name} in {names:?}");
        }
        assert!(!names.iter().any(|name| name.contains("proc/1")), "{names:?}");
        assert_eq!(std::fs::metadata(dir.path().join("upper/link")).unwrap().nlink(), 2);
    }
}
