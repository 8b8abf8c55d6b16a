//! The log of a run, in the CRI format: `<RFC 3339 time> <stdout|stderr> <F|P> <text>`, one entry a line.
//!
//! `F` closes a line of the workload, `P` is a piece of one whose end has not come yet, so that the exact bytes can be had
//! back: the text of an `F` entry with a newline, that of a `P` entry without one (Kubernetes, "CRI container logging").
//!
//! With a limit the file `log` becomes `log.1` when it is full, `log.1` becomes `log.2`, and the last one goes.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

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

/// What is kept of what a container writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Logging {
    /// All of it.
    #[default]
    All,
    /// The last of it.
    Bounded {
        /// Size of a file after which the next is begun; one read of the container's output may go beyond.
        max_bytes: u64,
        /// How many files there are at most.
        max_files: u32,
    },
    /// Nothing.
    Nothing,
}

/// Appends to the log.
#[derive(Debug)]
pub(super) struct LogWriter {
    path: PathBuf,
    /// `None` when nothing is kept.
    file: Option<File>,
    size_bytes: u64,
    logging: Logging,
    buffer: Vec<u8>,
}

impl LogWriter {
    pub(super) fn open(path: &Path, logging: Logging) -> io::Result<Self> {
        let file = if logging == Logging::Nothing { None } else { Some(append_to(path)?) };
        let size_bytes = file.as_ref().map_or(Ok(0), |file| file.metadata().map(|metadata| metadata.len()))?;
        Ok(Self { path: path.to_owned(), file, size_bytes, logging, buffer: Vec::new() })
    }

    /// Its directory has another name now: the file stays, what is begun later is found there.
    pub(super) fn follow(&mut self, path: &Path) {
        path.clone_into(&mut self.path);
    }

    /// Writes what was read from the container in one go, as entries of one time.
    pub(super) fn write(&mut self, now: Timestamp, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        if self.file.is_none() {
            return Ok(());
        }
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
        self.make_room()?;
        self.size_bytes += self.buffer.len() as u64;
        self.file.as_mut().map_or(Ok(()), |file| file.write_all(&self.buffer))
    }

    /// Begins the next file when this one would grow too large.
    fn make_room(&mut self) -> io::Result<()> {
        let Logging::Bounded { max_bytes, max_files } = self.logging else { return Ok(()) };
        if self.size_bytes == 0 || self.size_bytes + self.buffer.len() as u64 <= max_bytes {
            return Ok(());
        }
        let oldest = max_files.saturating_sub(1);
        if oldest == 0 {
            fs::remove_file(&self.path)?;
        }
        for number in (0..oldest).rev() {
            match fs::rename(part(&self.path, number), part(&self.path, number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.file = Some(append_to(&self.path)?);
        self.size_bytes = 0;
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// The file that was the log `number` files ago.
pub(super) fn part(path: &Path, number: u32) -> PathBuf {
    if number == 0 { path.to_owned() } else { path.with_extension(number.to_string()) }
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

    pub(super) fn entry(&self) -> LogEntry {
        let end = self.text.len() - usize::from(!self.whole);
        LogEntry { time: self.time.to_owned(), stream: self.stream, bytes: self.text[..end].to_vec() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::reader::LogReader;
    use super::*;

    #[test]
    fn entries_have_the_cri_form() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = LogWriter::open(&path, Logging::All).unwrap();
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

    #[test]
    fn full_files_are_put_aside_and_read_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let logging = Logging::Bounded { max_bytes: 100, max_files: 3 };
        let mut log = LogWriter::open(&path, logging).unwrap();
        let mut follower = None;
        let mut seen_by_it = Vec::new();
        for number in 0..40 {
            log.write(Timestamp::UNIX_EPOCH, Stream::Stdout, format!("{number}\n").as_bytes()).unwrap();
            let reader = follower.get_or_insert_with(|| LogReader::open(&path).unwrap());
            // Whoever follows is passed by three files at a time, which is as many as there are.
            if number % 5 == 0 {
                while let Some(entry) = reader.next_entry().unwrap() {
                    seen_by_it.push(String::from_utf8(entry.bytes).unwrap().trim().parse::<u32>().unwrap());
                }
            }
        }
        let names = |dir: &Path| {
            let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(dir.path()), ["log", "log.1", "log.2"]);
        let read = |mut reader: LogReader| {
            let mut text = String::new();
            while let Some(entry) = reader.next_entry().unwrap() {
                text.push_str(&String::from_utf8(entry.bytes).unwrap());
            }
            text
        };
        // Two entries fill a file.
        assert_eq!(read(LogReader::open(&path).unwrap()), "34\n35\n36\n37\n38\n39\n");
        for (lines, expected) in [(1, "39\n"), (3, "37\n38\n39\n"), (9, "34\n35\n36\n37\n38\n39\n")] {
            assert_eq!(read(LogReader::open_tail(&path, lines, None).unwrap()), expected, "{lines}");
        }
        assert_eq!(seen_by_it, (0..=35).collect::<Vec<_>>());
    }

    #[test]
    fn one_file_begins_anew_and_nothing_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = LogWriter::open(&path, Logging::Bounded { max_bytes: 100, max_files: 1 }).unwrap();
        for _ in 0..9 {
            log.write(Timestamp::UNIX_EPOCH, Stream::Stdout, b"line\n").unwrap();
        }
        assert!(fs::metadata(&path).unwrap().len() <= 100);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let nothing = dir.path().join("nothing");
        let mut log = LogWriter::open(&nothing, Logging::Nothing).unwrap();
        log.write(Timestamp::UNIX_EPOCH, Stream::Stdout, b"line\n").unwrap();
        assert!(!nothing.exists());
    }

    proptest! {
        #[test]
        fn bytes_come_back_exactly(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..20)) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("log");
            let mut log = LogWriter::open(&path, Logging::All).unwrap();
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
