//! `logs`: what a run wrote, to the same streams.

use std::io::{self, StderrLock, StdoutLock, Write};
use std::thread::sleep;
use std::time::Duration;

use jiff::Timestamp;

use super::args::LogsArgs;
use super::context::Context;
use super::exit::CliError;
use super::time::moment;
use crate::store::RunPlace;
use crate::supervisor::{LogEntry, LogReader, Stream};

/// How long after it was written a line is seen with `-f`, at most.
const FOLLOW_PAUSE: Duration = Duration::from_millis(50);
/// Written at once when there is so much.
const BATCH_BYTES: usize = 64 << 10;

pub(super) fn show(context: &Context, args: &LogsArgs) -> Result<u8, CliError> {
    let wanted = Wanted::new(args)?;
    let run = context.store()?.find_run(&args.run)?;
    if run.record().is_ok_and(|record| record.no_log) {
        return Err(CliError::Usage(format!(
            "run `{}` keeps no log: it was started with `--log-driver none`",
            args.run
        )));
    }
    // It may get another name while it is followed.
    let place = run.place();
    let Some(mut reader) = open(&place, &wanted)? else { return Ok(0) };
    let read = |source| CliError::Read { path: run.log(), source };
    let mut shown = Shown::new(args.timestamps);
    loop {
        // Asked before reading: what is written by the time the run has ended is read in this round.
        let goes_on = wanted.follow && place.is_live() && wanted.until.is_none_or(|until| Timestamp::now() <= until);
        while let Some(entry) = reader.next_entry().map_err(read)? {
            if wanted.has(&entry) && shown.entry(&entry).is_err() {
                // Whoever read it has seen enough.
                return Ok(0);
            }
        }
        if shown.flush().is_err() || !goes_on {
            return Ok(0);
        }
        sleep(FOLLOW_PAUSE);
    }
}

/// What is asked for.
struct Wanted {
    follow: bool,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    /// So many lines at most.
    lines: Option<usize>,
}

impl Wanted {
    fn new(args: &LogsArgs) -> Result<Self, CliError> {
        let now = Timestamp::now();
        let lines = match args.tail.as_str() {
            "all" => None,
            number => Some(number.parse().map_err(|_| {
                CliError::Usage(format!("`--tail {number}` is malformed, expected a number of lines or `all`"))
            })?),
        };
        Ok(Self {
            follow: args.follow,
            since: args.since.as_deref().map(|text| moment("--since", text, now)).transpose()?,
            until: args.until.as_deref().map(|text| moment("--until", text, now)).transpose()?,
            lines,
        })
    }

    /// Whether the entry was written in the time asked for. One without a time that makes sense is not kept back.
    fn has(&self, entry: &LogEntry) -> bool {
        if self.since.is_none() && self.until.is_none() {
            return true;
        }
        entry.timestamp().is_none_or(|time| {
            self.since.is_none_or(|since| time >= since) && self.until.is_none_or(|until| time <= until)
        })
    }
}

/// The log; `None` for a run that ended before it wrote one.
fn open(run: &RunPlace, wanted: &Wanted) -> Result<Option<LogReader>, CliError> {
    loop {
        let live = run.is_live();
        let opened = match wanted.lines {
            None => LogReader::open(&run.log()),
            Some(lines) => LogReader::open_tail(&run.log(), lines, wanted.until),
        };
        match opened {
            Ok(reader) => return Ok(Some(reader)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(CliError::Read { path: run.now().log(), source }),
        }
        if !(wanted.follow && live) {
            return Ok(None);
        }
        sleep(FOLLOW_PAUSE);
    }
}

/// Both streams, in the order in which they were written, in few writes.
struct Shown {
    stdout: StdoutLock<'static>,
    stderr: StderrLock<'static>,
    timestamps: bool,
    /// What has not been written, and where it goes.
    batch: Vec<u8>,
    stream: Stream,
    /// Whether the next byte of standard output, and of standard error, begins a line.
    begins_line: [bool; 2],
}

impl Shown {
    fn new(timestamps: bool) -> Self {
        Self {
            stdout: io::stdout().lock(),
            stderr: io::stderr().lock(),
            timestamps,
            batch: Vec::new(),
            stream: Stream::Stdout,
            begins_line: [true; 2],
        }
    }

    fn entry(&mut self, entry: &LogEntry) -> io::Result<()> {
        if entry.stream != self.stream || self.batch.len() >= BATCH_BYTES {
            self.flush()?;
            self.stream = entry.stream;
        }
        // The pieces of a line bear the time of its first.
        let begins_line = &mut self.begins_line[entry.stream as usize];
        if self.timestamps && *begins_line {
            self.batch.extend_from_slice(entry.time.as_bytes());
            self.batch.push(b' ');
        }
        *begins_line = entry.bytes.ends_with(b"\n");
        self.batch.extend_from_slice(&entry.bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let written = match self.stream {
            Stream::Stdout => self.stdout.write_all(&self.batch).and_then(|()| self.stdout.flush()),
            Stream::Stderr => self.stderr.write_all(&self.batch),
        };
        self.batch.clear();
        written
    }
}
