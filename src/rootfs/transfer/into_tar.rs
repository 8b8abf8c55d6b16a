//! Entries written as a tar archive.
//!
//! The form is POSIX' (pax, IEEE Std 1003.1): headers as ustar has them, and records before them for what does not fit.
//! Extended attributes are `SCHILY.xattr.` records and files with holes are in GNU's form 1.0, which GNU tar, bsdtar and Go read.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use tar::{EntryType, Header};

use super::{Content, Item, Sink, TransferError, write_error};
use crate::sys::beneath::{FileKind, data_pieces};

const BLOCK_BYTES: usize = 512;
const BLOCK: u64 = BLOCK_BYTES as u64;
const BUFFER_BYTES: usize = 256 << 10;
/// Files with more pieces than that are written with their holes filled.
const MAX_PIECES: usize = 100_000;
/// Longest name and link target in a ustar header.
const MAX_SHORT_NAME: usize = 100;
/// Largest number in eight and twelve octal digits of a header.
const MAX_ID: u32 = 0o777_7777;
const MAX_SIZE: u64 = 0o777_7777_7777;

/// Writes a tar archive.
#[derive(Debug)]
pub struct TarSink<W: Write> {
    writer: W,
    buffer: Vec<u8>,
}

impl<W: Write> TarSink<W> {
    /// Begins an archive.
    pub fn new(writer: W) -> Self {
        Self { writer, buffer: vec![0; BUFFER_BYTES] }
    }

    fn write(&mut self, item: &Item<'_>, content: &Content<'_>) -> io::Result<()> {
        let file = if let Content::File(file) = content { Some(*file) } else { None };
        let pieces = match file {
            Some(file) => data_pieces(file, item.size, MAX_PIECES)?,
            None => None,
        };
        let map = pieces.as_deref().map(|pieces| sparse_map(pieces, item.size));
        let stored = match (&pieces, &map) {
            (Some(pieces), Some(map)) => map.len() as u64 + pieces.iter().map(|(_, length)| length).sum::<u64>(),
            _ if file.is_some() => item.size,
            _ => 0,
        };
        let name = name_of(item);
        let records = records(item, &name, stored, map.is_some());
        if !records.is_empty() {
            let mut header = Header::new_ustar();
            header.set_entry_type(EntryType::XHeader);
            fill(&mut header, b"./PaxHeaders/entry", b"", records.len() as u64);
            self.writer.write_all(header.as_bytes())?;
            self.writer.write_all(&records)?;
            self.pad(records.len() as u64)?;
        }
        self.writer.write_all(header_of(item, &name, stored)?.as_bytes())?;
        if let Some(map) = &map {
            self.writer.write_all(map)?;
        }
        if let Some(file) = file {
            let whole = [(0, item.size)];
            for (offset, length) in pieces.as_deref().unwrap_or(&whole) {
                self.copy(file, *offset, *length)?;
            }
        }
        self.pad(stored)
    }

    /// Writes as many bytes as were promised: what a file that became shorter does not have any more is zeros.
    fn copy(&mut self, file: &File, mut offset: u64, length: u64) -> io::Result<()> {
        let end = offset + length;
        while offset < end {
            let want = usize::try_from(end - offset).unwrap_or(usize::MAX).min(self.buffer.len());
            let mut got = file.read_at(&mut self.buffer[..want], offset)?;
            if got == 0 {
                self.buffer[..want].fill(0);
                got = want;
            }
            self.writer.write_all(&self.buffer[..got])?;
            offset += got as u64;
        }
        Ok(())
    }

    fn pad(&mut self, length: u64) -> io::Result<()> {
        let padding = usize::try_from((BLOCK - length % BLOCK) % BLOCK).unwrap_or(0);
        self.writer.write_all(&[0; BLOCK_BYTES][..padding])
    }
}

impl<W: Write> Sink for TarSink<W> {
    #[expect(private_interfaces, reason = "as in the trait")]
    fn put(&mut self, item: &Item<'_>, content: Content<'_>) -> Result<(), TransferError> {
        self.write(item, &content).map_err(write_error(item.path))
    }

    fn finish(&mut self) -> Result<(), TransferError> {
        let written = self.writer.write_all(&[0; 2 * BLOCK_BYTES]).and_then(|()| self.writer.flush());
        written.map_err(|source| TransferError::Write { path: "-".to_owned(), source })
    }
}

/// Directories end with a slash; the destination itself is `./`.
fn name_of(item: &Item<'_>) -> Vec<u8> {
    let mut name = if item.path.is_root() { b".".to_vec() } else { item.path.as_bytes().to_vec() };
    if item.kind == FileKind::Directory {
        name.push(b'/');
    }
    name
}

fn header_of(item: &Item<'_>, name: &[u8], stored: u64) -> io::Result<Header> {
    let mut header = Header::new_ustar();
    let device = match item.kind {
        FileKind::CharDevice(device) | FileKind::BlockDevice(device) => Some(device),
        _ => None,
    };
    header.set_entry_type(match item.kind {
        _ if item.same_as.is_some() => EntryType::Link,
        FileKind::Regular => EntryType::Regular,
        FileKind::Directory => EntryType::Directory,
        FileKind::Symlink => EntryType::Symlink,
        FileKind::CharDevice(_) => EntryType::Char,
        FileKind::BlockDevice(_) => EntryType::Block,
        FileKind::Fifo => EntryType::Fifo,
        FileKind::Socket => return Err(io::ErrorKind::InvalidInput.into()),
    });
    if let Some(device) = device {
        header.set_device_major(rustix::fs::major(device))?;
        header.set_device_minor(rustix::fs::minor(device))?;
    }
    header.set_mode(item.attributes.mode);
    header.set_uid(item.attributes.uid.into());
    header.set_gid(item.attributes.gid.into());
    header.set_mtime(u64::try_from(item.attributes.modified.seconds).unwrap_or(0));
    let link = item.same_as.map_or(item.link, |first| first.as_bytes());
    fill(&mut header, name, link, stored);
    Ok(header)
}

/// Sets names, cut where a record has the whole of them, size and checksum.
fn fill(header: &mut Header, name: &[u8], link: &[u8], size: u64) {
    let old = header.as_old_mut();
    let set = |field: &mut [u8; MAX_SHORT_NAME], text: &[u8]| {
        let length = text.len().min(MAX_SHORT_NAME);
        field[..length].copy_from_slice(&text[..length]);
    };
    set(&mut old.name, name);
    set(&mut old.linkname, link);
    header.set_size(size);
    header.set_cksum();
}

fn records(item: &Item<'_>, name: &[u8], stored: u64, is_sparse: bool) -> Vec<u8> {
    let mut records = Vec::new();
    let mut add = |key: &[u8], value: &[u8]| record(&mut records, key, value);
    let attributes = &item.attributes;
    if is_sparse {
        add(b"GNU.sparse.major", b"1");
        add(b"GNU.sparse.minor", b"0");
        add(b"GNU.sparse.name", name);
        add(b"GNU.sparse.realsize", item.size.to_string().as_bytes());
    }
    if name.len() > MAX_SHORT_NAME || !name.is_ascii() {
        add(b"path", name);
    }
    let link = item.same_as.map_or(item.link, |first| first.as_bytes());
    if link.len() > MAX_SHORT_NAME || !link.is_ascii() {
        add(b"linkpath", link);
    }
    if stored > MAX_SIZE {
        add(b"size", stored.to_string().as_bytes());
    }
    for (key, id) in [(b"uid", attributes.uid), (b"gid", attributes.gid)] {
        if id > MAX_ID {
            add(key, id.to_string().as_bytes());
        }
    }
    let time = attributes.modified;
    if time.seconds < 0 {
        // Seconds are rounded down, and the text is of the whole number.
        let (seconds, nanoseconds) = if time.nanoseconds == 0 {
            (time.seconds, 0)
        } else {
            (time.seconds + 1, 1_000_000_000 - time.nanoseconds)
        };
        add(b"mtime", format!("-{}.{nanoseconds:09}", seconds.unsigned_abs()).as_bytes());
    } else if time.nanoseconds != 0 {
        add(b"mtime", format!("{}.{:09}", time.seconds, time.nanoseconds).as_bytes());
    }
    if item.same_as.is_none() {
        for (attribute, value) in item.xattrs {
            add(&[b"SCHILY.xattr.", attribute.as_slice()].concat(), value);
        }
    }
    records
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} ").as_bytes());
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// Where the pieces go, in front of them: how many, then offset and length of each, filled up to a block.
fn sparse_map(pieces: &[(u64, u64)], size: u64) -> Vec<u8> {
    // A hole at the end is told by a piece of nothing there.
    let tail = pieces.last().is_none_or(|(offset, length)| offset + length < size).then_some((size, 0));
    let pieces: Vec<_> = pieces.iter().copied().chain(tail).collect();
    let mut map = format!("{}\n", pieces.len()).into_bytes();
    for (offset, length) in pieces {
        map.extend_from_slice(format!("{offset}\n{length}\n").as_bytes());
    }
    map.resize(map.len().next_multiple_of(BLOCK_BYTES), 0);
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_count_their_own_length() {
        for length in [0, 1, 84, 85, 86, 87, 88, 90, 980, 990, 9_985, 9_990, 10_000] {
            let mut records = Vec::new();
            record(&mut records, b"key", &vec![b'x'; length]);
            let digits = records.iter().position(|byte| *byte == b' ').unwrap();
            let said: usize = std::str::from_utf8(&records[..digits]).unwrap().parse().unwrap();
            assert_eq!(said, records.len());
        }
    }
}
