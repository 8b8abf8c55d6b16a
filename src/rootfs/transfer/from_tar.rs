//! Entries of a tar archive that somebody gives us.

use std::io::{BufReader, Read};

use super::super::archive::{Archive, ContentError, Entry, Kind};
use super::super::attributes::Attributes;
use super::super::member::Inflate;
use super::super::path::ImagePath;
use super::{Content, Item, Sink, Taker, Transfer, TransferError, write_error};
use crate::sys::beneath::{FileKind, device_number};

const BUFFER_BYTES: usize = 128 << 10;

/// Sends all entries of an archive, which may be compressed with gzip or zstd, to `sink`.
pub fn take_archive(reader: impl Read, sink: &mut dyn Sink, transfer: &mut Transfer<'_>) -> Result<(), TransferError> {
    let mut archive = Archive::new(BufReader::with_capacity(BUFFER_BYTES, Inflate::new(reader)?));
    while let Some(entry) = archive.next()? {
        take(&mut archive, &entry, sink, transfer)?;
    }
    // Whoever writes it must not find the pipe closed.
    archive.drain()?;
    sink.finish()
}

fn take<R: std::io::BufRead>(
    archive: &mut Archive<R>,
    entry: &Entry,
    sink: &mut dyn Sink,
    transfer: &mut Transfer<'_>,
) -> Result<(), TransferError> {
    let parse = |raw: &[u8]| {
        let name = |source| TransferError::Name { path: String::from_utf8_lossy(raw).into_owned(), source };
        ImagePath::parse(raw).map_err(name)
    };
    let path = parse(&entry.path)?;
    let first = if entry.kind == Kind::Hardlink { Some(parse(&entry.link)?) } else { None };
    let item = Item {
        path: &path,
        kind: match entry.kind {
            Kind::File | Kind::Hardlink => FileKind::Regular,
            Kind::Dir => FileKind::Directory,
            Kind::Symlink => FileKind::Symlink,
            Kind::CharDevice(major, minor) => FileKind::CharDevice(device_number(major, minor)),
            Kind::BlockDevice(major, minor) => FileKind::BlockDevice(device_number(major, minor)),
            Kind::Fifo => FileKind::Fifo,
        },
        same_as: first.as_ref(),
        link: &entry.link,
        attributes: Attributes { uid: entry.uid, gid: entry.gid, mode: entry.mode, modified: entry.modified },
        xattrs: &entry.xattrs,
        size: entry.size,
    };
    if path.is_root() && item.kind != FileKind::Directory {
        let (found, wanted) = (FileKind::Directory.words(), item.kind.words());
        return Err(TransferError::InTheWay { path: ".".to_owned(), found, wanted });
    }
    let mut read = |taker: &mut Taker<'_>| {
        archive.read_content(entry, taker).map_err(|error| match error {
            ContentError::Archive(error) => TransferError::Archive(error),
            ContentError::Taker(source) => write_error(&path)(source),
        })
    };
    let content = if entry.kind == Kind::File { Content::Archive(&mut read) } else { Content::None };
    transfer.hand(sink, &item, content)
}
