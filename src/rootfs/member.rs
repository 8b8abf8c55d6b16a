//! Archives that are files of their own (`docker save`, `oci-archive`): where each member's content is in the file.
//!
//! Nothing is unpacked by name. Content is passed over by seeking, so that an archive of many gigabytes is looked through
//! quickly; what it says of sizes is held against the length of the file.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use super::archive::{Archive, Kind, TarError};
use super::stream::{Decoder, StreamError};

/// Bytes read at once between members: little more than their headers.
const HEADER_BYTES: usize = 4 << 10;
/// Compressed bytes read at once.
const INPUT_BYTES: usize = 256 << 10;

/// One member of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name as it stands in the archive.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: MemberKind,
}

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberKind {
    /// A file in one piece.
    File {
        /// Where its content begins in the archive.
        offset: u64,
        /// How many bytes it has.
        size: u64,
    },
    /// A symbolic link with its target.
    Symlink(Vec<u8>),
    /// Another name of a member, with that member's name.
    Hardlink(Vec<u8>),
    /// Something else.
    Other,
}

/// Goes through the members of a tar archive that is not compressed.
pub struct Members {
    archive: Archive<BufReader<File>>,
    length: u64,
}

impl Members {
    /// Begins at the start of `file`, wherever it stands.
    pub fn of(file: &File) -> Result<Self, TarError> {
        let mut file = file.try_clone().map_err(TarError::Read)?;
        let length = file.metadata().and_then(|metadata| file.rewind().map(|()| metadata.len()));
        let length = length.map_err(TarError::Read)?;
        Ok(Self { archive: Archive::new(BufReader::with_capacity(HEADER_BYTES, file)), length })
    }

    fn member(&mut self) -> Result<Option<Member>, TarError> {
        let Some(entry) = self.archive.next()? else { return Ok(None) };
        let offset = self.archive.offset();
        self.archive.seek_behind_content(self.length)?;
        let kind = match entry.kind {
            Kind::File if entry.is_in_one_piece() => MemberKind::File { offset, size: entry.size },
            Kind::Symlink => MemberKind::Symlink(entry.link),
            Kind::Hardlink => MemberKind::Hardlink(entry.link),
            _ => MemberKind::Other,
        };
        Ok(Some(Member { name: entry.path, kind }))
    }
}

impl Iterator for Members {
    type Item = Result<Member, TarError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.member().transpose()
    }
}

impl std::fmt::Debug for Members {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Members").field("offset", &self.archive.offset()).field("length", &self.length).finish()
    }
}

/// The uncompressed bytes of a reader, on this thread: gzip, zstd or as they are, told by the first bytes.
pub struct Inflate<R>(Decoder<BufReader<R>>);

impl<R: Read> Inflate<R> {
    /// Looks at the first bytes.
    pub fn new(reader: R) -> Result<Self, StreamError> {
        Ok(Self(Decoder::new(BufReader::with_capacity(INPUT_BYTES, reader))?))
    }

    /// The media type's ending of what it reads: `""`, `"+gzip"`, `"+zstd"`.
    #[must_use]
    pub fn suffix(&self) -> &'static str {
        self.0.suffix()
    }
}

impl<R: Read> Read for Inflate<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into).map_err(|error| match error {
            StreamError::Read(source) => source,
            other => io::Error::other(other),
        })
    }
}

impl<R> std::fmt::Debug for Inflate<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inflate")
    }
}

impl Archive<BufReader<File>> {
    /// Passes over the current content without reading it; `length` is that of the file.
    fn seek_behind_content(&mut self, length: u64) -> Result<(), TarError> {
        let (content, padding) = self.forget_content();
        let end = self.offset().checked_add(content).filter(|end| *end <= length);
        let end = end.ok_or(TarError::Truncated { offset: length })?;
        // Some writers leave the padding of the last entry away.
        let next = end.saturating_add(padding).min(length);
        self.reader_mut().seek(SeekFrom::Start(next)).map_err(TarError::Read)?;
        self.set_offset(next);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn names(file: &File) -> Result<Vec<(String, u64, u64)>, TarError> {
        let name = |member: Result<Member, TarError>| {
            let Member { name, kind } = member?;
            let MemberKind::File { offset, size } = kind else { panic!("no file") };
            Ok((String::from_utf8(name).unwrap(), offset, size))
        };
        Members::of(file)?.map(name).collect()
    }

    #[test]
    fn members_are_where_they_are_said_to_be() {
        let long = "l".repeat(300);
        let big = vec![7; 10_000];
        let bytes = archive(&[("a", b"one"), (&long, &big), ("c", b"")]);
        let found = names(&file(&bytes)).unwrap();
        assert_eq!(found.iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>(), ["a", &long, "c"]);
        for ((_, offset, size), expected) in found.iter().zip([b"one".as_slice(), &big, b""]) {
            let start = usize::try_from(*offset).unwrap();
            assert_eq!(&bytes[start..start + usize::try_from(*size).unwrap()], expected);
        }
    }

    #[test]
    fn content_that_is_cut_off_is_told_without_being_read() {
        let bytes = archive(&[("a", &[7; 10_000])]);
        assert!(matches!(names(&file(&bytes[..5_000])), Err(TarError::Truncated { .. })));
        // Without the padding and the end marker it is whole.
        assert_eq!(names(&file(&bytes[..10_512])).unwrap().len(), 1);
    }
}
