//! The log of a run, in the CRI format: `<RFC 3339 time> <stdout|stderr> <F|P> <text>`, one entry a line.
//!
//! `F` closes a line of the workload, `P` is a piece of one whose end has not come yet, so that the exact bytes can be had
//! back: the text of an `F` entry with a newline, that of a `P` entry without one (Kubernetes, "CRI container logging").

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use jiff::Timestamp;

use super::tail;

/// Which of the workload's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Appends to the log.
#[derive(Debug)]
pub(super) struct LogWriter {
    file: File,
    buffer: Vec<u8>,
}

impl LogWriter {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        Ok(Self { file, buffer: Vec::new() })
    }

    /// Writes what was read from the container in one go, as entries of one time.
    pub(super) fn write(&mut self, now: Timestamp, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        let mut head = String::new();
        let _ = write!(head, "{now:.9} {} ", stream.name());
        self.buffer.clear();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (tag, text) = piece.strip_suffix(b"\n").map_or((b"P ", piece), |text| (b"F ", text));
            self.buffer.extend_from_slice(head.as_bytes());
            self.buffer.extend_from_slice(tag);
            self.buffer.extend_from_slice(text);
            self.buffer.push(b'\n');
        }
        self.file.write_all(&self.buffer)
    }
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// When it was read from the container, as it stands in the log.
    pub time: String,
    /// Where from.
    pub stream: Stream,
    /// The exact bytes, the newline included when there was one.
    pub bytes: Vec<u8>,
}

impl LogEntry {
    /// When it was read from the container; `None` when the log has something else there.
    #[must_use]
    pub fn timestamp(&self) -> Option<Timestamp> {
        self.time.parse().ok()
    }
}

/// Reads a log from its beginning or from its last lines, and further as it grows.
#[derive(Debug)]
pub struct LogReader {
    reader: BufReader<File>,
    /// An entry whose end has not been written yet.
    started: Vec<u8>,
    /// Where that entry begins in the file.
    position: u64,
    /// Entries of either stream before these offsets are passed over.
    starts: tail::Starts,
}

impl LogReader {
    /// Opens a log.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::open_at(File::open(path)?, [0; 2])
    }

    /// Opens a log at the last `lines` lines of the workload, found from the end. With `until` they are the last of those
    /// written by then, and what was written later comes after them.
    pub fn open_tail(path: &Path, lines: usize, until: Option<Timestamp>) -> io::Result<Self> {
        let file = File::open(path)?;
        let starts = tail::starts(&file, lines, until)?;
        Self::open_at(file, starts)
    }

    fn open_at(mut file: File, starts: tail::Starts) -> io::Result<Self> {
        let position = file.seek(SeekFrom::Start(starts[0].min(starts[1])))?;
        Ok(Self { reader: BufReader::with_capacity(64 << 10, file), started: Vec::new(), position, starts })
    }

    /// The next entry, or `None` when there is none yet. Lines that are no entries are passed over.
    pub fn next_entry(&mut self) -> io::Result<Option<LogEntry>> {
        loop {
            if self.reader.read_until(b'\n', &mut self.started)? == 0 || self.started.last() != Some(&b'\n') {
                return Ok(None);
            }
            let line = std::mem::take(&mut self.started);
            let offset = self.position;
            self.position += line.len() as u64;
            if let Some(head) = Head::of(&line)
                && offset >= self.starts[head.stream as usize]
            {
                return Ok(Some(head.entry()));
            }
        }
    }
}

/// An entry as it stands in the log.
pub(super) struct Head<'a> {
    time: &'a str,
    pub(super) stream: Stream,
    /// It closes a line.
    pub(super) whole: bool,
    /// With the newline that ends the entry.
    text: &'a [u8],
}

impl<'a> Head<'a> {
    pub(super) fn of(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.splitn(4, |byte| *byte == b' ');
        let time = str::from_utf8(fields.next()?).ok()?;
        let stream = match fields.next()? {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        let whole = match fields.next()? {
            b"F" => true,
            b"P" => false,
            _ => return None,
        };
        Some(Self { time, stream, whole, text: fields.next()? })
    }

    pub(super) fn is_after(&self, time: Timestamp) -> bool {
        self.time.parse::<Timestamp>().is_ok_and(|written| written > time)
    }

    fn entry(&self) -> LogEntry {
        let end = self.text.len() - usize::from(!self.whole);
        LogEntry { time: self.time.to_owned(), stream: self.stream, bytes: self.text[..end].to_vec() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn entries_have_the_cri_form() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = LogWriter::open(&path).unwrap();
        let now: Timestamp = "2026-01-02T03:04:05.000000006Z".parse().unwrap();
        log.write(now, Stream::Stdout, b"one\ntwo").unwrap();
        log.write(now, Stream::Stderr, b"\n").unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "2026-01-02T03:04:05.000000006Z stdout F one\n\
             2026-01-02T03:04:05.000000006Z stdout P two\n\
             2026-01-02T03:04:05.000000006Z stderr F \n"
        );
    }

    #[test]
    fn a_half_written_entry_waits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "2026-01-02T03:04:05Z stdout F hel").unwrap();
        let mut reader = LogReader::open(&path).unwrap();
        assert_eq!(reader.next_entry().unwrap(), None);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"lo\n").unwrap();
        assert_eq!(reader.next_entry().unwrap().unwrap().bytes, b"hello\n");
    }

    proptest! {
        #[test]
        fn bytes_come_back_exactly(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..20)) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("log");
            let mut log = LogWriter::open(&path).unwrap();
            for chunk in &chunks {
                log.write(Timestamp::UNIX_EPOCH, Stream::Stdout, chunk).unwrap();
            }
            let mut reader = LogReader::open(&path).unwrap();
            let mut read = Vec::new();
            while let Some(entry) = reader.next_entry().unwrap() {
                read.extend(entry.bytes);
            }
            prop_assert_eq!(read, chunks.concat());
        }
    }
}
