//! Reads the journal of what happened to runs, also while it grows and its files are put aside.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::feed::{FeedLine, JOURNAL, OLD_JOURNAL};

/// The journal, at some place in it.
#[derive(Debug)]
pub struct Journal {
    state: PathBuf,
    /// `None` while there is no journal.
    reader: Option<BufReader<File>>,
    begun: Vec<u8>,
}

impl Journal {
    /// Opens the journal of the state directory, at the oldest line that is there or, with `from_now`, at what comes next.
    pub fn open(state: &Path, from_now: bool) -> io::Result<Self> {
        let mut journal = Self { state: state.to_owned(), reader: None, begun: Vec::new() };
        let first = if from_now { None } else { open(&state.join(OLD_JOURNAL))? };
        let mut file = match first {
            Some(file) => Some(file),
            None => open(&state.join(JOURNAL))?,
        };
        if from_now && let Some(file) = &mut file {
            file.seek(SeekFrom::End(0))?;
        }
        journal.reader = file.map(BufReader::new);
        Ok(journal)
    }

    /// How many lines were told of the run with this id, as far as is still known.
    pub fn last_seq(state: &Path, id: &str) -> io::Result<u64> {
        let (mut journal, mut last) = (Self::open(state, false)?, 0);
        while let Some(line) = journal.next_line()? {
            last = if line.id == id { line.seq.max(last) } else { last };
        }
        Ok(last)
    }

    /// The next line, or `None` when there is none yet. What is no event is passed over.
    pub fn next_line(&mut self) -> io::Result<Option<FeedLine>> {
        loop {
            let Some(reader) = &mut self.reader else {
                let Some(file) = open(&self.state.join(JOURNAL))? else { return Ok(None) };
                self.reader = Some(BufReader::new(file));
                continue;
            };
            reader.read_until(b'\n', &mut self.begun)?;
            if self.begun.last() != Some(&b'\n') {
                let own = reader.get_ref().metadata()?.ino();
                let Some(next) = open(&self.state.join(JOURNAL))? else { return Ok(None) };
                if next.metadata()?.ino() == own {
                    return Ok(None);
                }
                // Put aside: whatever was written until then has been read, or is now.
                reader.read_until(b'\n', &mut self.begun)?;
                if self.begun.last() != Some(&b'\n') {
                    self.begun.clear();
                    self.reader = Some(BufReader::new(next));
                    continue;
                }
            }
            let line = std::mem::take(&mut self.begun);
            if let Ok(line) = serde_json::from_slice(&line) {
                return Ok(Some(line));
            }
        }
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::super::feed::{Feed, Happening};
    use super::*;

    #[test]
    fn lines_are_read_across_files_and_as_they_come() {
        let dir = tempfile::tempdir().unwrap();
        let mut all = Journal::open(dir.path(), false).unwrap();
        assert_eq!(all.next_line().unwrap(), None);
        let mut feed = Feed::new(dir.path(), None, "run".parse().unwrap(), "run-1".to_owned(), 0);
        feed.tell("t".to_owned(), Happening::Created);
        assert_eq!(all.next_line().unwrap().unwrap().seq, 1);
        let mut late = Journal::open(dir.path(), true).unwrap();
        std::fs::rename(dir.path().join(JOURNAL), dir.path().join(OLD_JOURNAL)).unwrap();
        feed.tell("t".to_owned(), Happening::Cleaned);
        let rest = |journal: &mut Journal| {
            let mut seen = Vec::new();
            while let Some(line) = journal.next_line().unwrap() {
                seen.push(line.seq);
            }
            seen
        };
        assert_eq!(Journal::last_seq(dir.path(), "run-1").unwrap(), 2);
        assert_eq!(rest(&mut late), [2]);
        assert_eq!(rest(&mut all), [2]);
        assert_eq!(rest(&mut Journal::open(dir.path(), false).unwrap()), [1, 2]);
        std::fs::write(dir.path().join(JOURNAL), "nonsense\n{\"schema\":1").unwrap();
        assert_eq!(rest(&mut Journal::open(dir.path(), false).unwrap()), [1]);
    }
}
