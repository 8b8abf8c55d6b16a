//! Reads the log of a run, also while it is written and its files are put aside.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::log::{Head, LogEntry, part};
use super::tail;

const BUFFER_BYTES: usize = 64 << 10;
/// Most files that a log has ever been given.
pub(super) const MAX_FILES: u32 = 1000;

/// Reads a log from its beginning or from its last lines, and further as it grows.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    reader: BufReader<File>,
    /// Files that were written after the one that is read, the next one first.
    newer: VecDeque<File>,
    /// An entry whose end has not been written yet.
    started: Vec<u8>,
    /// Where that entry begins in all the files together.
    position: u64,
    /// Entries of either stream before these offsets are passed over.
    starts: tail::Starts,
}

impl LogReader {
    /// Opens a log.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::open_at(path, LogFiles::open(path)?, [0; 2])
    }

    /// Opens a log at the last `lines` lines of the workload, found from the end. With `until` they are the last of those
    /// written by then, and what was written later comes after them.
    pub fn open_tail(path: &Path, lines: usize, until: Option<Timestamp>) -> io::Result<Self> {
        let files = LogFiles::open(path)?;
        let starts = tail::starts(&files, lines, until)?;
        Self::open_at(path, files, starts)
    }

    fn open_at(path: &Path, files: LogFiles, starts: tail::Starts) -> io::Result<Self> {
        let first = starts[0].min(starts[1]);
        let mut files: VecDeque<(File, u64)> = files.files.into();
        // Whole files before the first entry are not even read.
        while files.len() > 1 && files.get(1).is_some_and(|(_, start)| *start <= first) {
            files.pop_front();
        }
        let (mut file, start) = files.pop_front().ok_or(io::ErrorKind::NotFound)?;
        let newer = files.into_iter().map(|(file, _)| file).collect();
        io::Seek::seek(&mut file, io::SeekFrom::Start(first - start))?;
        let reader = BufReader::with_capacity(BUFFER_BYTES, file);
        Ok(Self { path: path.to_owned(), reader, newer, started: Vec::new(), position: first, starts })
    }

    /// The next entry, or `None` when there is none yet. Lines that are no entries are passed over.
    pub fn next_entry(&mut self) -> io::Result<Option<LogEntry>> {
        loop {
            self.reader.read_until(b'\n', &mut self.started)?;
            if self.started.last() != Some(&b'\n') {
                if self.go_on()? {
                    continue;
                }
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

    /// At the end of a file: whether there is a later one, or may be more in this one.
    fn go_on(&mut self) -> io::Result<bool> {
        if let Some(next) = self.newer.pop_front() {
            // Its writer was killed in the middle of an entry.
            self.position += self.started.len() as u64;
            self.started.clear();
            self.reader = BufReader::with_capacity(BUFFER_BYTES, next);
            return Ok(true);
        }
        let own = self.reader.get_ref().metadata()?;
        match self.path.metadata() {
            Ok(now) if (now.dev(), now.ino()) != (own.dev(), own.ino()) => {}
            _ => return Ok(false),
        }
        // What was written before it was put aside is read first, in the next round.
        let later = files(&self.path)?.into_iter().rev();
        let mut newer: VecDeque<File> = VecDeque::new();
        for file in later {
            let found = file.metadata()?;
            if (found.dev(), found.ino()) == (own.dev(), own.ino()) {
                break;
            }
            newer.push_front(file);
        }
        self.newer = newer;
        Ok(!self.newer.is_empty())
    }
}

/// The files of a log, oldest first. One that is put aside while they are opened is not opened twice.
fn files(path: &Path) -> io::Result<Vec<File>> {
    let mut found: Vec<(File, u64)> = Vec::new();
    for number in 0..MAX_FILES {
        match File::open(part(path, number)) {
            Ok(file) => {
                let inode = file.metadata()?.ino();
                if found.iter().all(|(_, other)| *other != inode) {
                    found.push((file, inode));
                }
            }
            // The first may just be missing for a moment.
            Err(error) if error.kind() == io::ErrorKind::NotFound && number == 0 => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        }
    }
    Ok(found.into_iter().rev().map(|(file, _)| file).collect())
}

/// All files of a log as if they were one, as long as they were when they were opened.
#[derive(Debug)]
pub(super) struct LogFiles {
    /// Each with the offset of its first byte.
    files: Vec<(File, u64)>,
    len: u64,
}

impl LogFiles {
    fn open(path: &Path) -> io::Result<Self> {
        let (mut list, mut len) = (Vec::new(), 0);
        for file in files(path)? {
            let size = file.metadata()?.len();
            list.push((file, len));
            len += size;
        }
        if list.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(Self { files: list, len }) }
    }

    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    /// Fills the buffer with what stands at `offset`.
    pub(super) fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            let place = self.files.partition_point(|(_, start)| *start <= offset).saturating_sub(1);
            let (file, start) = self.files.get(place).ok_or(io::ErrorKind::UnexpectedEof)?;
            let end = self.files.get(place + 1).map_or(self.len, |(_, start)| *start);
            let here = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX).min(buffer.len());
            if here == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let (now, later) = buffer.split_at_mut(here);
            file.read_exact_at(now, offset - start)?;
            offset += here as u64;
            buffer = later;
        }
        Ok(())
    }
}
