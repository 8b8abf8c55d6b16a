//! Entries of a tar archive, from a stream.
//!
//! Reads what builders of images write: ustar, PAX (local and global headers), GNU long names, base-256 numbers, and files
//! with holes in GNU's old format and its three PAX formats. The crate `tar` knows the layout of headers; walking from
//! entry to entry is done here, because its iterator splits PAX records at line breaks (so that an attribute's value could
//! pose as a name), fills holes with zeros, and sizes entries by what such records say.
//!
//! Where dialects differ we read as Go's `archive/tar` does, by which most layers are written and were first unpacked:
//! links, devices and directories have no content whatever their size says; GNU long names win over PAX.

use std::io::{self, BufRead};

use tar::{GnuExtSparseHeader, Header};

use super::pax::{MAX_RECORD_BYTES, Records, Xattrs, decimal, number};
use crate::sys::beneath::Time;

const BLOCK_BYTES: usize = 512;
const BLOCK: u64 = BLOCK_BYTES as u64;
/// Longest name that a GNU `L` or `K` header may hold; more is refused before it is read.
const MAX_LONG_NAME_BYTES: u64 = 64 << 10;
/// Most pieces of a file with holes.
const MAX_SPARSE_PIECES: usize = 1 << 20;
/// Most digits of a number in the map of such a file; without a bound its only line could fill the memory.
const MAX_NUMBER_BYTES: usize = 20;
/// Largest user or group ID: 2^32-1 is "no change" to chown(2).
const MAX_ID: i64 = (1 << 32) - 2;

/// Why bytes are not a tar archive that we can read; `offset` counts from the start of the uncompressed archive.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream ends inside an entry.
    #[error("the archive ends early, at byte {offset}")]
    Truncated {
        /// Where.
        offset: u64,
    },
    /// Something that no writer of archives writes.
    #[error("malformed archive at byte {offset}: {problem}")]
    Malformed {
        /// Where.
        offset: u64,
        /// What.
        problem: &'static str,
    },
    /// An entry of a kind that a layer cannot have.
    #[error("unknown kind of entry `{kind}` at byte {offset}{}", what_it_is(*kind))]
    Kind {
        /// Where.
        offset: u64,
        /// The type flag.
        kind: char,
    },
    /// One of our bounds.
    #[error("the {what} at byte {offset} is too large, at most {limit} are allowed")]
    Limit {
        /// Where.
        offset: u64,
        /// What is bounded.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
    /// The stream below failed.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
}

/// What an entry makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Dir,
    Symlink,
    Hardlink,
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

/// A piece of a file's content; between pieces are holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    offset: u64,
    length: u64,
}

/// One entry, with everything but its content.
#[derive(Debug)]
pub(super) struct Entry {
    /// The name as it stands in the archive.
    pub path: Vec<u8>,
    /// What a link points to.
    pub link: Vec<u8>,
    pub kind: Kind,
    /// Bytes of the file, holes included.
    pub size: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub modified: Time,
    pub xattrs: Xattrs,
    /// Where the content goes in the file; `None` for all of it in one piece.
    pieces: Option<Vec<Piece>>,
}

impl Entry {
    /// Whether the content stands in the archive as it is in the file.
    pub(super) const fn is_in_one_piece(&self) -> bool {
        self.pieces.is_none()
    }
}

/// Why content could not be handed on: the archive's fault or the taker's.
pub(super) enum ContentError {
    Archive(TarError),
    Taker(io::Error),
}

/// The reader; see the module.
pub(super) struct Archive<R> {
    reader: R,
    offset: u64,
    /// Bytes of the current entry's content that are still to come, and of the padding behind it.
    content: u64,
    padding: u64,
    global: Records,
}

/// What stood before an entry to describe it.
#[derive(Default)]
struct Ahead {
    records: Option<Records>,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl<R: BufRead> Archive<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, offset: 0, content: 0, padding: 0, global: Records::default() }
    }

    /// The next entry; what was left of the last one's content is skipped. `None` at the end marker or the end of the
    /// stream between two entries.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, TarError> {
        let mut ahead = Ahead::default();
        loop {
            self.skip_content()?;
            let start = self.offset;
            let Some(header) = self.header()? else {
                let nothing_pending = ahead.records.is_none() && ahead.path.is_none() && ahead.link.is_none();
                return if nothing_pending { Ok(None) } else { Err(TarError::Truncated { offset: start }) };
            };
            let size = self.field(&header.as_old().size, "size")?;
            match flag(&header) {
                // Solaris wrote `X` before POSIX had settled on `x`.
                b'x' | b'X' => {
                    let mut records = self.global.clone();
                    self.read_records(size, &mut records)?;
                    ahead.records = Some(records);
                }
                b'g' => {
                    let mut records = std::mem::take(&mut self.global);
                    self.read_records(size, &mut records)?;
                    records.keep_global().map_err(|problem| TarError::Malformed { offset: start, problem })?;
                    self.global = records;
                }
                b'L' => ahead.path = Some(self.read_long_name(size)?),
                b'K' => ahead.link = Some(self.read_long_name(size)?),
                // A volume's label is no file.
                b'V' => self.set_content(size),
                _ => return self.entry(&header, size, ahead).map(Some),
            }
        }
    }

    /// Hands the content of the current entry to `take`, piece by piece with its offset in the file.
    pub(super) fn read_content(
        &mut self,
        entry: &Entry,
        mut take: impl FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> Result<(), ContentError> {
        let whole = [Piece { offset: 0, length: entry.size }];
        for piece in entry.pieces.as_deref().unwrap_or(&whole) {
            let (mut offset, end) = (piece.offset, piece.offset + piece.length);
            while offset < end {
                let available = self.available().map_err(ContentError::Archive)?;
                let length = usize::try_from(end - offset).unwrap_or(usize::MAX).min(available.len());
                take(offset, &available[..length]).map_err(ContentError::Taker)?;
                self.consume(length);
                self.content -= length as u64;
                offset += length as u64;
            }
        }
        Ok(())
    }

    /// Reads on to the end of the stream: what follows the end marker is part of the layer's digest.
    pub(super) fn drain(&mut self) -> Result<(), TarError> {
        loop {
            let length = self.reader.fill_buf().map_err(TarError::Read)?.len();
            if length == 0 {
                return Ok(());
            }
            self.consume(length);
        }
    }

    /// Where the reader stands, counted from the start of the archive.
    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

    /// For a reader that is moved by other means than reading: what was left of the current content, and its padding.
    pub(super) fn forget_content(&mut self) -> (u64, u64) {
        (std::mem::take(&mut self.content), std::mem::take(&mut self.padding))
    }

    pub(super) const fn reader_mut(&mut self) -> &mut R {
        &mut self.reader
    }

    pub(super) const fn set_offset(&mut self, offset: u64) {
        self.offset = offset;
    }

    fn entry(&mut self, header: &Header, stored: u64, ahead: Ahead) -> Result<Entry, TarError> {
        let mut records = ahead.records.unwrap_or_else(|| self.global.clone());
        let old = header.as_old();
        let path = ahead.path.or(records.sparse.path.take()).or(records.path).unwrap_or_else(|| name_of(header));
        let kind = self.kind(header, &path)?;
        let has_content = kind == Kind::File;
        // What stands behind a dumped directory is the list of its names.
        let stored = if has_content || flag(header) == b'D' { records.size.unwrap_or(stored) } else { 0 };
        if stored > i64::MAX as u64 {
            return Err(self.malformed("the size of an entry is out of range"));
        }
        self.set_content(stored);
        let mut entry = Entry {
            path,
            link: ahead.link.or(records.link).unwrap_or_else(|| until_nul(&old.linkname).to_vec()),
            kind,
            size: stored,
            mode: u32::try_from(self.field(&old.mode, "mode")? & 0o7777).unwrap_or(0),
            uid: self.id(records.uid, &old.uid)?,
            gid: self.id(records.gid, &old.gid)?,
            modified: match records.modified {
                Some(time) => time,
                None => Time { seconds: self.signed_field(&old.mtime)?, nanoseconds: 0 },
            },
            xattrs: records.xattrs,
            pieces: None,
        };
        if has_content {
            if flag(header) == b'S' {
                self.read_old_sparse(header, &mut entry)?;
            } else if let Some(real_size) = records.sparse.real_size {
                let map = if records.sparse.map_in_content { self.read_sparse_map()? } else { records.sparse.map };
                self.set_pieces(&mut entry, &map, real_size)?;
            }
        }
        Ok(entry)
    }

    fn kind(&self, header: &Header, path: &[u8]) -> Result<Kind, TarError> {
        let device = |at: usize| number(&header.as_bytes()[at..at + 8]).and_then(|n| u32::try_from(n).ok());
        let numbers = || match (device(329), device(337)) {
            (Some(major), Some(minor)) => Ok((major, minor)),
            _ => Err(self.malformed("a device number is out of range")),
        };
        Ok(match flag(header) {
            // Archives from before 1988 mark directories by a slash only.
            0 if path.ends_with(b"/") => Kind::Dir,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::Hardlink,
            b'2' => Kind::Symlink,
            b'3' => numbers().map(|(major, minor)| Kind::CharDevice(major, minor))?,
            b'4' => numbers().map(|(major, minor)| Kind::BlockDevice(major, minor))?,
            // `D` is a directory in a dump of GNU tar (`--listed-incremental`).
            b'5' | b'D' => Kind::Dir,
            b'6' => Kind::Fifo,
            other => return Err(TarError::Kind { offset: self.offset - BLOCK, kind: char::from(other) }),
        })
    }

    /// The next header with a checksum that is right; `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<Header>, TarError> {
        let mut header = Header::new_old();
        if !self.read_block(header.as_mut_bytes())? || header.as_bytes().iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let stored = number(&header.as_old().cksum);
        let bytes = header.as_bytes().iter().enumerate();
        let (unsigned, signed) = bytes.fold((0_i64, 0_i64), |(unsigned, signed), (at, byte)| {
            // The checksum is made with blanks in its own place; old writers took bytes as signed.
            let byte = if (148..156).contains(&at) { b' ' } else { *byte };
            (unsigned + i64::from(byte), signed + i64::from(byte.cast_signed()))
        });
        if stored != Some(unsigned) && stored != Some(signed) {
            return Err(self.malformed("the checksum of a header is wrong"));
        }
        Ok(Some(header))
    }

    fn read_records(&mut self, size: u64, records: &mut Records) -> Result<(), TarError> {
        let offset = self.offset;
        let bytes = self.read_small(size, "extended header", MAX_RECORD_BYTES)?;
        records.read(&bytes).map_err(|problem| TarError::Malformed { offset, problem })
    }

    fn read_long_name(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        let bytes = self.read_small(size, "name", MAX_LONG_NAME_BYTES)?;
        Ok(until_nul(&bytes).to_vec())
    }

    fn read_small(&mut self, size: u64, what: &'static str, limit: u64) -> Result<Vec<u8>, TarError> {
        if size > limit {
            return Err(TarError::Limit { offset: self.offset, what, limit });
        }
        self.set_content(size);
        let mut bytes = Vec::new();
        while self.content > 0 {
            let available = self.available()?;
            bytes.extend_from_slice(available);
            let length = available.len();
            self.consume(length);
            self.content -= length as u64;
        }
        Ok(bytes)
    }

    /// GNU's old format: four pieces in the header, more in blocks behind it.
    fn read_old_sparse(&mut self, header: &Header, entry: &mut Entry) -> Result<(), TarError> {
        let Some(gnu) = header.as_gnu() else { return Err(self.malformed("a sparse entry without a GNU header")) };
        let real_size = self.field(&gnu.realsize, "size")?;
        let mut map = Vec::new();
        let mut add = |pieces: &[tar::GnuSparseHeader]| {
            for piece in pieces.iter().filter(|piece| piece.offset[0] != 0 && piece.numbytes[0] != 0) {
                map.extend([number(&piece.offset), number(&piece.numbytes)]);
            }
            map.len() / 2 <= MAX_SPARSE_PIECES
        };
        let mut more = add(&gnu.sparse) && gnu.is_extended();
        while more {
            let mut block = GnuExtSparseHeader::new();
            if !self.read_block(block.as_mut_bytes())? {
                return Err(TarError::Truncated { offset: self.offset });
            }
            if !add(block.sparse()) {
                let limit = MAX_SPARSE_PIECES as u64;
                return Err(TarError::Limit { offset: self.offset, what: "map of a sparse file", limit });
            }
            more = block.is_extended();
        }
        let map: Option<Vec<u64>> = map.into_iter().map(|value| u64::try_from(value?).ok()).collect();
        let map = map.ok_or_else(|| self.malformed("the map of a sparse file has a malformed number"))?;
        self.set_pieces(entry, &map, real_size)
    }

    /// PAX format 1.0: decimal lines before the content, padded to a block.
    fn read_sparse_map(&mut self) -> Result<Vec<u64>, TarError> {
        let (mut map, mut line, mut expected) = (Vec::new(), Vec::new(), None);
        while expected.is_none_or(|expected| map.len() < expected) {
            if self.content < BLOCK {
                return Err(self.malformed("the map of a sparse file is cut off"));
            }
            let mut block = [0; BLOCK_BYTES];
            if !self.read_block(&mut block)? {
                return Err(TarError::Truncated { offset: self.offset });
            }
            self.content -= BLOCK;
            for byte in block {
                if expected.is_some_and(|expected| map.len() == expected) {
                    break;
                }
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > MAX_NUMBER_BYTES {
                        return Err(self.malformed("the map of a sparse file is malformed"));
                    }
                    continue;
                }
                let value = decimal(&line).ok_or_else(|| self.malformed("the map of a sparse file is malformed"))?;
                line.clear();
                match expected {
                    Some(_) => map.push(value),
                    None => expected = Some(self.piece_count(value)? * 2),
                }
            }
        }
        Ok(map)
    }

    fn piece_count(&self, count: u64) -> Result<usize, TarError> {
        let limit = MAX_SPARSE_PIECES as u64;
        let what = "map of a sparse file";
        usize::try_from(count).ok().filter(|count| *count <= MAX_SPARSE_PIECES).ok_or(TarError::Limit {
            offset: self.offset,
            what,
            limit,
        })
    }

    /// Checks a map: pieces in order, inside the file, with all of the content that is there.
    fn set_pieces(&self, entry: &mut Entry, map: &[u64], real_size: u64) -> Result<(), TarError> {
        let mut pieces = Vec::with_capacity(map.len() / 2);
        let (mut end, mut total) = (0_u64, 0_u64);
        let mut check = |offset: u64, length: u64| {
            (offset >= end).then_some(())?;
            end = offset.checked_add(length)?;
            total = total.checked_add(length)?;
            pieces.push(Piece { offset, length });
            (end <= real_size).then_some(())
        };
        let in_order = map.len().is_multiple_of(2) && map.chunks_exact(2).all(|pair| check(pair[0], pair[1]).is_some());
        if !in_order || total != self.content || real_size > i64::MAX as u64 {
            return Err(self.malformed("the map of a sparse file does not fit its content"));
        }
        entry.size = real_size;
        entry.pieces = Some(pieces);
        Ok(())
    }

    fn set_content(&mut self, size: u64) {
        self.content = size;
        self.padding = size.wrapping_neg() % BLOCK;
    }

    fn skip_content(&mut self) -> Result<(), TarError> {
        let mut left = self.content + self.padding;
        while left > 0 {
            let buffered = self.reader.fill_buf().map_err(TarError::Read)?.len();
            if buffered == 0 {
                // umoci 0.4.7 leaves the padding of the last entry away; all of the content is there.
                if left <= self.padding {
                    break;
                }
                return Err(TarError::Truncated { offset: self.offset });
            }
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffered);
            self.consume(length);
            left -= length as u64;
        }
        self.set_content(0);
        Ok(())
    }

    /// What is buffered of the current content; never empty.
    fn available(&mut self) -> Result<&[u8], TarError> {
        let (offset, content) = (self.offset, self.content);
        let buffered = self.reader.fill_buf().map_err(TarError::Read)?;
        if buffered.is_empty() {
            return Err(TarError::Truncated { offset });
        }
        let length = usize::try_from(content).unwrap_or(usize::MAX).min(buffered.len());
        Ok(&buffered[..length])
    }

    /// Fills a block; `false` when the stream ended before it.
    fn read_block(&mut self, block: &mut [u8; BLOCK_BYTES]) -> Result<bool, TarError> {
        let mut filled = 0;
        while filled < block.len() {
            let buffered = self.reader.fill_buf().map_err(TarError::Read)?;
            let length = buffered.len().min(block.len() - filled);
            if length == 0 {
                return if filled == 0 { Ok(false) } else { Err(TarError::Truncated { offset: self.offset }) };
            }
            block[filled..filled + length].copy_from_slice(&buffered[..length]);
            self.consume(length);
            filled += length;
        }
        Ok(true)
    }

    fn consume(&mut self, length: usize) {
        self.reader.consume(length);
        self.offset += length as u64;
    }

    fn field(&self, field: &[u8], what: &'static str) -> Result<u64, TarError> {
        let problem = if what == "size" { "the size of an entry is malformed" } else { "a number is malformed" };
        number(field).and_then(|value| u64::try_from(value).ok()).ok_or_else(|| self.malformed(problem))
    }

    fn signed_field(&self, field: &[u8]) -> Result<i64, TarError> {
        number(field).ok_or_else(|| self.malformed("a time is malformed"))
    }

    fn id(&self, record: Option<u64>, field: &[u8]) -> Result<u32, TarError> {
        let value = record.map_or_else(|| number(field), |id| i64::try_from(id).ok());
        value
            .filter(|id| (0..=MAX_ID).contains(id))
            .and_then(|id| u32::try_from(id).ok())
            .ok_or_else(|| self.malformed("a user or group ID is out of range, the largest is 4294967294"))
    }

    fn malformed(&self, problem: &'static str) -> TarError {
        TarError::Malformed { offset: self.offset, problem }
    }
}

/// What stands behind a type flag that we do not take.
const fn what_it_is(kind: char) -> &'static str {
    match kind {
        'M' => ", the continuation of a file from another volume",
        'N' => ", names in a way that GNU tar gave up in 1989",
        'A' => ", access control lists of Solaris",
        _ => "",
    }
}

/// What kind of entry the header is for.
fn flag(header: &Header) -> u8 {
    header.as_bytes()[156]
}

/// The name in the header itself, with ustar's prefix.
fn name_of(header: &Header) -> Vec<u8> {
    let bytes = header.as_bytes();
    let name = until_nul(&bytes[..100]);
    // GNU's own format, told by a blank here, has other fields where ustar has its prefix, and star's, told by its end, has
    // two times in the last part of it.
    let prefix_end = if &bytes[508..512] == b"tar\0" { 476 } else { 500 };
    let prefix = if &bytes[257..263] == b"ustar\0" { until_nul(&bytes[345..prefix_end]) } else { b"" };
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rootfs::testing::{Item, device, dir, entry, file, hardlink, header, seal, symlink, tar};

    /// Every entry with the content it would have as a file.
    fn read(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
        let mut archive = Archive::new(bytes);
        let mut entries = Vec::new();
        while let Some(entry) = archive.next()? {
            let mut content = vec![0; usize::try_from(entry.size.min(1 << 20)).unwrap()];
            let taken = archive.read_content(&entry, |offset, bytes| {
                let offset = usize::try_from(offset).unwrap();
                content[offset..offset + bytes.len()].copy_from_slice(bytes);
                Ok(())
            });
            match taken {
                Ok(()) => entries.push((entry, content)),
                Err(ContentError::Archive(error)) => return Err(error),
                Err(ContentError::Taker(_)) => unreachable!(),
            }
        }
        archive.drain()?;
        Ok(entries)
    }

    fn one(bytes: &[u8]) -> (Entry, Vec<u8>) {
        read(bytes).unwrap().pop().unwrap()
    }

    #[test]
    fn reads_every_kind() {
        let long = "d/".repeat(80) + "name";
        let items = [
            dir("d/"),
            file("d/f", "content").owner(4_294_967_294, 7),
            symlink("s", &long),
            hardlink("h", "d/f"),
            device("c", b'3', 1, 3),
            device("b", b'4', 259, 70_000),
            Item::new("p", b'6'),
            file(&long, "x").at(-5, 250_000_000),
            file(b"\xff\xfe", ""),
        ];
        let entries = read(&tar(&items)).unwrap();
        let kinds: Vec<Kind> = entries.iter().map(|(entry, _)| entry.kind).collect();
        assert_eq!(
            kinds,
            [
                Kind::Dir,
                Kind::File,
                Kind::Symlink,
                Kind::Hardlink,
                Kind::CharDevice(1, 3),
                Kind::BlockDevice(259, 70_000),
                Kind::Fifo,
                Kind::File,
                Kind::File
            ]
        );
        assert_eq!((entries[1].0.uid, entries[1].0.gid, entries[1].1.as_slice()), (4_294_967_294, 7, &b"content"[..]));
        assert_eq!(entries[2].0.link, long.as_bytes());
        assert_eq!(
            (entries[7].0.path.as_slice(), entries[7].0.modified),
            (long.as_bytes(), Time { seconds: -5, nanoseconds: 250_000_000 })
        );
        assert_eq!(entries[8].0.path, b"\xff\xfe");
    }

    #[test]
    fn gnu_long_names_and_prefixes() {
        let long = "n".repeat(300);
        let mut bytes = entry(&Item { content: long.clone().into_bytes(), ..Item::new("././@LongLink", b'L') });
        bytes.extend(entry(&Item { content: b"target\0".to_vec(), ..Item::new("././@LongLink", b'K') }));
        bytes.extend(entry(&symlink("short", "short")));
        let (found, _) = one(&bytes);
        assert_eq!((found.path.as_slice(), found.link.as_slice()), (long.as_bytes(), &b"target"[..]));

        let mut prefixed = header(&file("name", ""), 0);
        prefixed[345..351].copy_from_slice(b"prefix");
        seal(&mut prefixed);
        assert_eq!(one(&prefixed).0.path, b"prefix/name");
    }

    #[test]
    fn global_headers_hold_for_all_that_follow() {
        let records = crate::rootfs::testing::pax_record("uid", b"42");
        let records = [records, crate::rootfs::testing::pax_record("path", b"evil")].concat();
        let global = Item { content: records, ..Item::new("pax_global_header", b'g') };
        let entries = read(&tar(&[global, file("a", "").owner(1, 1), file("b", "").pax("uid", "7")])).unwrap();
        let seen: Vec<(&[u8], u32)> = entries.iter().map(|(entry, _)| (entry.path.as_slice(), entry.uid)).collect();
        assert_eq!(seen, [(&b"a"[..], 42), (&b"b"[..], 7)]);
    }

    #[test]
    fn size_of_pax_wins_and_links_have_no_content() {
        let mut item = file("big", "12345").pax("size", "5");
        item.declared_size = Some(0);
        let mut linked = hardlink("h", "big");
        linked.declared_size = Some(99);
        let entries = read(&tar(&[item, linked, file("after", "x")])).unwrap();
        assert_eq!(entries[0].1, b"12345");
        assert_eq!(entries[2].1, b"x");
    }

    #[test]
    fn holes_in_all_four_formats() {
        let mut expected = vec![0; 2048];
        expected[512..517].copy_from_slice(b"first");
        expected[1500..1504].copy_from_slice(b"last");
        let content = b"firstlast".to_vec();

        let mut old = header(&Item::new("f", b'S'), 9);
        old[257..265].copy_from_slice(b"ustar  \0");
        for (at, value) in [(386, 512), (398, 5), (410, 1500), (422, 4), (483, 2048)] {
            old[at..at + 11].copy_from_slice(format!("{value:011o}").as_bytes());
        }
        seal(&mut old);
        let mut old = old.to_vec();
        old.extend_from_slice(&content);
        old.resize(1024, 0);

        let base = |content: &[u8]| file("GNUSparseFile.0/f", content).pax("GNU.sparse.name", "f");
        let map = b"2\n512\n5\n1500\n4\n".to_vec();
        let mapped = [map.as_slice(), &vec![0; 512 - map.len()], &content].concat();
        let formats = [
            ("old", old),
            (
                "0.0",
                entry(
                    &base(&content)
                        .pax("GNU.sparse.size", "2048")
                        .pax("GNU.sparse.offset", "512")
                        .pax("GNU.sparse.numbytes", "5")
                        .pax("GNU.sparse.offset", "1500")
                        .pax("GNU.sparse.numbytes", "4"),
                ),
            ),
            ("0.1", entry(&base(&content).pax("GNU.sparse.size", "2048").pax("GNU.sparse.map", "512,5,1500,4"))),
            (
                "1.0",
                entry(
                    &base(&mapped)
                        .pax("GNU.sparse.major", "1")
                        .pax("GNU.sparse.minor", "0")
                        .pax("GNU.sparse.realsize", "2048"),
                ),
            ),
        ];
        for (format, bytes) in formats {
            let followed = [bytes, tar(&[file("after", "x")])].concat();
            let entries = read(&followed).unwrap_or_else(|error| panic!("{format}: {error}"));
            assert_eq!(entries[0].0.path, b"f", "{format}");
            assert!(entries[0].1 == expected, "{format}: content differs");
            assert_eq!(entries[1].1, b"x", "{format}");
        }
        for map in ["512,5,500,4", "512,5,2046,4", "512,5", "512,5,1500,5", "18446744073709551615,5,1,4", "1"] {
            let bad = entry(&base(&content).pax("GNU.sparse.size", "2048").pax("GNU.sparse.map", map));
            assert!(read(&bad).is_err(), "map {map} was accepted");
        }
    }

    #[test]
    fn ends_early_or_with_junk() {
        let whole = tar(&[file("a", "x".repeat(600)), dir("d/")]);
        for cut in [1, 511, 513, 1000, 1024, 1111, 1537] {
            assert!(matches!(read(&whole[..cut]), Err(TarError::Truncated { .. })), "cut at {cut}");
        }
        // Writers that forget the end marker, or the padding before it, are believed.
        for cut in [1112, 1535, 1536] {
            assert_eq!(read(&whole[..cut]).unwrap().len(), 1, "cut at {cut}");
        }
        assert_eq!(read(&[]).unwrap().len(), 0);
        let junk = [whole.clone(), b"junk".repeat(1000)].concat();
        assert_eq!(read(&junk).unwrap().len(), 2);
        let dangling = entry(&Item { content: b"name".to_vec(), ..Item::new("L", b'L') });
        assert!(matches!(read(&dangling), Err(TarError::Truncated { .. })));
    }

    #[test]
    fn malformed_headers_and_bounds() {
        let mut wrong_sum = tar(&[file("a", "")]);
        wrong_sum[0] = b'b';
        let mut negative = header(&file("a", ""), 0);
        negative[108..116].fill(0xff);
        seal(&mut negative);
        for (what, bytes) in [
            ("checksum", wrong_sum),
            ("negative uid", negative.to_vec()),
            ("uid", tar(&[file("a", "").owner(4_294_967_295, 0)])),
            ("uid of pax", tar(&[file("a", "").pax("uid", "4294967295")])),
            ("kind", tar(&[Item::new("a", b'M')])),
            ("records", header(&Item::new("x", b'x'), MAX_RECORD_BYTES + 1).to_vec()),
            ("long name", header(&Item::new("x", b'L'), MAX_LONG_NAME_BYTES + 1).to_vec()),
            ("size", tar(&[file("a", "").pax("size", "9223372036854775808")])),
        ] {
            let error = read(&bytes).expect_err(what);
            assert!(!matches!(error, TarError::Truncated { .. }), "{what}: {error}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
            let _ = read(&bytes);
        }

        #[test]
        fn damaged_archives_never_panic(at in 0_usize..3000, value in any::<u8>(), reseal in any::<bool>()) {
            let mut bytes = tar(&[
                file("a", "x").xattr("user.a", "b"), symlink("s", "t"),
                file("f", "abc").pax("GNU.sparse.size", "9").pax("GNU.sparse.map", "0,1,5,2"),
            ]);
            let at = at % bytes.len();
            bytes[at] = value;
            if reseal {
                let start = at / 512 * 512;
                let mut block: [u8; 512] = bytes[start..start + 512].try_into().unwrap();
                seal(&mut block);
                bytes[start..start + 512].copy_from_slice(&block);
            }
            let _ = read(&bytes);
        }
    }
}
