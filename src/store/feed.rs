//! What happens to runs, told to programs: one JSON document a line, numbered for each run.
//!
//! Every line goes to the journal of the machine, [`JOURNAL`] in the state directory, which `dockless events` reads, and to
//! what the caller has opened for the run (`--events`, `--events-fd`). `docs/json.md` describes the keys.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use super::record::{Exit, Victim};
use super::runs::RunName;
use crate::image::{ByteSize, Digest};

/// The journal's name in the state directory.
pub const JOURNAL: &str = "events.jsonl";
/// What it is renamed to when it has grown enough; one such file is kept.
pub const OLD_JOURNAL: &str = "events.1.jsonl";
/// The size at which that happens.
const MAX_JOURNAL_BYTES: u64 = 4 << 20;
/// The most that a pipe takes whole once it says it takes anything (`PIPE_BUF`, pipe(7)).
const WHOLE_WRITE_BYTES: usize = 4096;

/// What has happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum Happening {
    /// A layer of the image is in the store.
    #[serde(rename = "pull.layer")]
    PullLayer {
        /// The compressed layer.
        digest: Digest,
        /// Compressed.
        size_bytes: u64,
        /// It was there before.
        existed: bool,
    },
    /// The image is unpacked.
    #[serde(rename = "pull.done")]
    PullDone {
        /// As it was asked for.
        image: String,
        /// What was chosen.
        manifest: Digest,
    },
    /// The container is there, its workload does not run yet.
    #[serde(rename = "created")]
    Created,
    /// The workload runs.
    #[serde(rename = "started")]
    Started {
        /// Init on the machine.
        pid: i32,
    },
    /// The kernel has killed processes of it for want of memory.
    #[serde(rename = "oom")]
    Oom {
        /// How many in all.
        oom_kills: u64,
        /// The last one, where the kernel's log can be read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        victim: Option<Victim>,
    },
    /// Its health check has another result than before.
    #[serde(rename = "health")]
    Health {
        /// `starting`, `healthy` or `unhealthy`.
        status: String,
    },
    /// It has another name: the line's.
    #[serde(rename = "renamed")]
    Renamed {
        /// Its name before.
        from: RunName,
    },
    /// Init was sent a signal.
    #[serde(rename = "signal")]
    Signal {
        /// Its number.
        signal: i32,
    },
    /// The workload has failed, and is started once more.
    #[serde(rename = "restarting")]
    Restarting {
        /// How often it was, this time included.
        restarts: u32,
        /// When that will be: so long after this.
        delay_ms: u64,
        /// How it ended.
        #[serde(flatten)]
        exit: Box<Exit>,
    },
    /// The workload has ended; all there is to know is in here.
    #[serde(rename = "exited")]
    Exited {
        /// How.
        #[serde(flatten)]
        exit: Box<Exit>,
    },
    /// Its artifacts are saved.
    #[serde(rename = "artifacts.saved")]
    ArtifactsSaved {
        /// In all of them.
        files: u64,
        /// Of the files' content.
        size_bytes: ByteSize,
    },
    /// Nothing of it is left but what is kept.
    #[serde(rename = "cleaned")]
    Cleaned,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeedLine {
    /// Form of the line; 1.
    pub schema: u32,
    /// Counted from 1 for each run; a gap says that the reader was too slow.
    pub seq: u64,
    /// When (RFC 3339, UTC).
    pub time: String,
    /// The run.
    pub run: RunName,
    /// What the kernel knows it by.
    pub id: String,
    /// What.
    #[serde(flatten)]
    pub happening: Happening,
}

/// Tells what happens to one run.
#[derive(Debug)]
pub struct Feed {
    state: PathBuf,
    listener: Option<File>,
    run: RunName,
    id: String,
    seq: u64,
}

impl Feed {
    /// For a run of which `seq` lines have been told; `state` is the state directory, `listener` what the caller has opened.
    #[must_use]
    pub fn new(state: &Path, listener: Option<OwnedFd>, run: RunName, id: String, seq: u64) -> Self {
        Self { state: state.to_owned(), listener: listener.map(File::from), run, id, seq }
    }

    /// What is told from now on is told of a run of this name.
    pub fn rename(&mut self, to: RunName) {
        self.run = to;
    }

    /// How many lines were told.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        self.seq
    }

    /// What the caller has opened.
    #[must_use]
    pub fn listener(&self) -> Option<&File> {
        self.listener.as_ref()
    }

    /// Tells it. Nobody is waited for, and no run depends on it: what cannot be told now is not told.
    pub fn tell(&mut self, time: String, happening: Happening) {
        self.seq += 1;
        let (run, id) = (self.run.clone(), self.id.clone());
        let line = FeedLine { schema: 1, seq: self.seq, time, run, id, happening };
        let mut text = serde_json::to_vec(&line).unwrap_or_default();
        text.push(b'\n');
        drop(append(&self.state, &text));
        if let Some(listener) = &mut self.listener {
            let told = tell_listener(listener, &text);
            if told.is_err() {
                self.listener = None;
            }
        }
    }
}

/// In one write: lines of several processes do not mix.
fn append(state: &Path, text: &[u8]) -> io::Result<()> {
    let path = state.join(JOURNAL);
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
    file.write_all(text)?;
    let found = file.metadata()?;
    if found.size() > MAX_JOURNAL_BYTES
        && let Ok(_turn) = Flock::lock(file, FlockArg::LockExclusiveNonblock)
        // Somebody may have been faster.
        && path.metadata()?.ino() == found.ino()
    {
        std::fs::rename(&path, state.join(OLD_JOURNAL))?;
    }
    Ok(())
}

/// A pipe or socket that takes nothing now does without this line; one that nobody reads any more is an error.
fn tell_listener(listener: &mut File, text: &[u8]) -> io::Result<()> {
    if listener.metadata()?.is_file() {
        return listener.write_all(text);
    }
    for piece in text.chunks(WHOLE_WRITE_BYTES) {
        let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLOUT)];
        // The rest of a line that was begun is waited for, as half of one would spoil the next.
        let patience = if piece.as_ptr() == text.as_ptr() { PollTimeout::ZERO } else { PollTimeout::from(1000_u16) };
        if poll(&mut fds, patience)? == 0 {
            return Ok(());
        }
        listener.write_all(piece)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;

    fn feed(state: &Path, listener: Option<OwnedFd>) -> Feed {
        Feed::new(state, listener, "run".parse().unwrap(), "run-1".to_owned(), 4)
    }

    #[test]
    fn lines_go_to_journal_and_listener() {
        let dir = tempfile::tempdir().unwrap();
        let (reader, writer) = io::pipe().unwrap();
        let mut feed = feed(dir.path(), Some(writer.into()));
        feed.tell("2026-01-02T03:04:05Z".to_owned(), Happening::Started { pid: 7 });
        let mut line = String::new();
        BufReader::new(reader).read_line(&mut line).unwrap();
        let expected = "{\"schema\":1,\"seq\":5,\"time\":\"2026-01-02T03:04:05Z\",\"run\":\"run\",\"id\":\"run-1\",\
                        \"type\":\"started\",\"pid\":7}\n";
        assert_eq!(line, expected);
        assert_eq!(std::fs::read_to_string(dir.path().join(JOURNAL)).unwrap(), expected);
        let read: FeedLine = serde_json::from_str(&line).unwrap();
        assert_eq!((read.seq, read.happening), (5, Happening::Started { pid: 7 }));
        let failed = Exit { signal: Some(9), ..Exit::new(137, super::super::ExitReason::OomKilled) };
        let restarting = Happening::Restarting { restarts: 1, delay_ms: 100, exit: Box::new(failed) };
        let text = serde_json::to_string(&FeedLine { happening: restarting.clone(), ..read }).unwrap();
        assert!(text.contains("\"exit_code\":137") && text.contains("\"restarts\":1"), "{text}");
        assert_eq!(serde_json::from_str::<FeedLine>(&text).unwrap().happening, restarting);
        // The reader is gone; the run is not to hear of it.
        feed.tell(String::new(), Happening::Created);
        assert!(feed.listener().is_none());
    }

    #[test]
    fn a_listener_that_does_not_read_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let (_reader, writer) = io::pipe().unwrap();
        let mut feed = feed(dir.path(), Some(writer.into()));
        for _ in 0..2000 {
            feed.tell(String::new(), Happening::Created);
        }
        assert_eq!(feed.seq(), 2004);
    }

    #[test]
    fn the_journal_has_a_bound() {
        let dir = tempfile::tempdir().unwrap();
        let journal = dir.path().join(JOURNAL);
        File::create(&journal).unwrap().set_len(MAX_JOURNAL_BYTES).unwrap();
        let mut feed = feed(dir.path(), None);
        feed.tell(String::new(), Happening::Created);
        assert!(!journal.exists() && dir.path().join(OLD_JOURNAL).exists());
        feed.tell(String::new(), Happening::Cleaned);
        assert!(std::fs::read_to_string(&journal).unwrap().contains("cleaned"));
    }
}
