//! What is in the bucket already, so that a save that was cut short sends only the rest.
//!
//! `<run directory>/upload.jsonl` gets a line when a file, or a part of a large one, has been taken by the server. It is
//! never synced: what a power cut takes from it is sent again. A line that cannot be read is passed over; at worst it
//! names an upload that is gone, which the server then says.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::scan::Stamp;

pub(super) const JOURNAL: &str = "upload.jsonl";
/// So many lines that say nothing any more are kept before the file is written anew.
const MAX_STALE_LINES: usize = 10_000;

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    Start { schema: u32, run_id: String, store: String },
    File { path: String, file: SentFile },
    Gone { path: String },
    Multipart { path: String, stamp: Stamp, key: String, upload: String, part_bytes: u64 },
    Part { path: String, upload: String, index: usize, part: SentPart },
}

/// A file that is in the bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SentFile {
    /// Of which state of the file; `None` when it was changing.
    pub(super) stamp: Option<Stamp>,
    pub(super) size: u64,
    pub(super) sha256: String,
}

/// An upload in parts that was begun.
#[derive(Debug, Clone)]
pub(super) struct Multipart {
    pub(super) stamp: Stamp,
    pub(super) key: String,
    pub(super) upload: String,
    pub(super) part_bytes: u64,
    pub(super) parts: BTreeMap<usize, SentPart>,
}

/// A part that is in the bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SentPart {
    /// What the server calls it.
    pub(super) id: String,
    pub(super) sha256: String,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: Option<File>,
    start: Line,
    lines: usize,
    pub(super) files: HashMap<String, SentFile>,
    multiparts: HashMap<String, Multipart>,
}

impl Journal {
    /// Opens that of a run, or begins it; one for another run or store counts for nothing.
    pub(super) fn open(run_dir: &Path, run_id: &str, store: &str) -> io::Result<Self> {
        let path = run_dir.join(JOURNAL);
        let start = Line::Start { schema: 1, run_id: run_id.to_owned(), store: store.to_owned() };
        let mut journal = Self { path, file: None, start, lines: 0, files: HashMap::new(), multiparts: HashMap::new() };
        let old = match std::fs::read(&journal.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            old => old?,
        };
        let mut lines = old.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Line>(line).ok());
        let ours = |line: &Line| matches!(line, Line::Start { schema: 1, run_id: id, store: place } if *id == run_id && *place == store);
        if lines.next().as_ref().is_some_and(ours) {
            lines.for_each(|line| journal.apply(line));
        }
        journal.rewrite()?;
        Ok(journal)
    }

    fn apply(&mut self, line: Line) {
        match line {
            Line::Start { .. } => {}
            Line::File { path, file } => {
                self.multiparts.remove(&path);
                self.files.insert(path, file);
            }
            Line::Gone { path } => {
                self.multiparts.remove(&path);
                self.files.remove(&path);
            }
            Line::Multipart { path, stamp, key, upload, part_bytes } => {
                self.multiparts.insert(path, Multipart { stamp, key, upload, part_bytes, parts: BTreeMap::new() });
            }
            Line::Part { path, upload, index, part } => {
                if let Some(multipart) = self.multiparts.get_mut(&path).filter(|found| found.upload == upload) {
                    multipart.parts.insert(index, part);
                }
            }
        }
    }

    /// What cannot be written is forgotten at the next attempt only.
    fn note(&mut self, line: Line) {
        if let Some(file) = &mut self.file {
            drop(append(file, &line));
        }
        self.lines += 1;
        self.apply(line);
        if self.lines > MAX_STALE_LINES + 2 * self.files.len() && self.rewrite().is_err() {
            self.lines = 0;
        }
    }

    pub(super) fn sent(&mut self, path: &str, file: SentFile) {
        self.note(Line::File { path: path.to_owned(), file });
    }

    /// Forgets a file and an upload of it.
    pub(super) fn gone(&mut self, path: &str) {
        self.note(Line::Gone { path: path.to_owned() });
    }

    pub(super) fn multipart(&self, path: &str) -> Option<Multipart> {
        self.multiparts.get(path).cloned()
    }

    /// The uploads in parts that have not been completed.
    pub(super) fn begun(&self) -> Vec<(String, Multipart)> {
        self.multiparts.iter().map(|(path, multipart)| (path.clone(), multipart.clone())).collect()
    }

    pub(super) fn begin(&mut self, path: &str, multipart: &Multipart) {
        let Multipart { stamp, key, upload, part_bytes, .. } = multipart.clone();
        self.note(Line::Multipart { path: path.to_owned(), stamp, key, upload, part_bytes });
    }

    pub(super) fn sent_part(&mut self, path: &str, upload: &str, index: usize, part: SentPart) {
        self.note(Line::Part { path: path.to_owned(), upload: upload.to_owned(), index, part });
    }

    /// Writes only what still counts.
    fn rewrite(&mut self) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        append(&mut file, &self.start)?;
        let mut text = Vec::new();
        for (path, file) in &self.files {
            push(&mut text, &Line::File { path: path.clone(), file: file.clone() })?;
        }
        for (path, multipart) in &self.multiparts {
            let Multipart { stamp, key, upload, part_bytes, parts } = multipart.clone();
            push(&mut text, &Line::Multipart { path: path.clone(), stamp, key, upload: upload.clone(), part_bytes })?;
            for (index, part) in parts {
                push(&mut text, &Line::Part { path: path.clone(), upload: upload.clone(), index, part })?;
            }
        }
        file.write_all(&text)?;
        std::fs::rename(&new, &self.path)?;
        self.file = Some(file);
        self.lines = self.files.len();
        Ok(())
    }

    /// Removes that of a run that is saved.
    pub(super) fn remove(run_dir: &Path) {
        drop(std::fs::remove_file(run_dir.join(JOURNAL)));
    }
}

fn push(text: &mut Vec<u8>, line: &Line) -> io::Result<()> {
    serde_json::to_writer(&mut *text, line)?;
    text.push(b'\n');
    Ok(())
}

fn append(file: &mut File, line: &Line) -> io::Result<()> {
    let mut text = Vec::new();
    push(&mut text, line)?;
    file.write_all(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(path: &Path) -> Stamp {
        Stamp::of(&rustix::fs::stat(path).unwrap())
    }

    #[test]
    fn survives_what_a_crash_leaves() {
        let dir = tempfile::tempdir().unwrap();
        let stamp = stamp(dir.path());
        let file = SentFile { stamp: Some(stamp), size: 3, sha256: "ab".into() };
        let part = SentPart { id: "etag".into(), sha256: "cd".into() };
        let (key, upload) = ("k".to_owned(), "u".to_owned());
        let multipart = Multipart { stamp, key, upload, part_bytes: 8, parts: BTreeMap::new() };
        let mut journal = Journal::open(dir.path(), "a-1", "s3://b").unwrap();
        journal.sent("one", file.clone());
        journal.sent("two", file.clone());
        journal.gone("two");
        journal.begin("big", &multipart);
        journal.sent_part("big", "u", 0, part.clone());
        journal.sent_part("big", "another", 1, part.clone());
        drop(journal);
        // Killed in the middle of a line.
        let mut torn = OpenOptions::new().append(true).open(dir.path().join(JOURNAL)).unwrap();
        torn.write_all(br#"{"what":"file","path":"thr"#).unwrap();
        for _ in 0..2 {
            let journal = Journal::open(dir.path(), "a-1", "s3://b").unwrap();
            assert_eq!(journal.files, HashMap::from([("one".to_owned(), file.clone())]));
            assert_eq!(journal.multipart("big").unwrap().parts, BTreeMap::from([(0, part.clone())]));
        }
        // Another run of that name, or another store.
        assert!(Journal::open(dir.path(), "a-2", "s3://b").unwrap().files.is_empty());
    }

    #[test]
    fn does_not_grow_with_a_file_that_changes_all_the_time() {
        let dir = tempfile::tempdir().unwrap();
        let stamp = Some(stamp(dir.path()));
        let mut journal = Journal::open(dir.path(), "a-1", "s3://b").unwrap();
        for size in 0..25_000 {
            journal.sent("log", SentFile { stamp, size, sha256: "ab".into() });
        }
        let written = std::fs::metadata(dir.path().join(JOURNAL)).unwrap().len();
        assert!(written < 3 << 20, "{written} bytes");
        let journal = Journal::open(dir.path(), "a-1", "s3://b").unwrap();
        assert_eq!(journal.files["log"].size, 24_999);
    }
}
