//! `logs`: what a run wrote, to the same streams.

use std::io::{self, Write};
use std::thread::sleep;
use std::time::Duration;

use super::args::LogsArgs;
use super::context::Context;
use super::exit::CliError;
use crate::store::RunDir;
use crate::supervisor::{LogReader, Stream};

/// How long after it was written a line is seen with `-f`, at most.
const FOLLOW_PAUSE: Duration = Duration::from_millis(50);

pub(super) fn show(context: &Context, args: &LogsArgs) -> Result<u8, CliError> {
    let run = context.store()?.run(&args.run)?;
    let Some(mut reader) = open(&run, args.follow)? else { return Ok(0) };
    let read = |source| CliError::Read { path: run.log(), source };
    loop {
        // Asked before reading: what is written by the time the run has ended is read in this round.
        let live = args.follow && run.is_live();
        while let Some(entry) = reader.next_entry().map_err(read)? {
            let written = match entry.stream {
                Stream::Stdout => io::stdout().lock().write_all(&entry.bytes),
                Stream::Stderr => io::stderr().lock().write_all(&entry.bytes),
            };
            if written.is_err() {
                // Whoever read it has seen enough.
                return Ok(0);
            }
        }
        if !live {
            break;
        }
        drop(io::stdout().flush());
        sleep(FOLLOW_PAUSE);
    }
    drop(io::stdout().flush());
    Ok(0)
}

/// The log; `None` for a run that ended before it wrote one.
fn open(run: &RunDir, follow: bool) -> Result<Option<LogReader>, CliError> {
    loop {
        let live = run.is_live();
        match LogReader::open(&run.log()) {
            Ok(reader) => return Ok(Some(reader)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(CliError::Read { path: run.log(), source }),
        }
        if !(follow && live) {
            return Ok(None);
        }
        sleep(FOLLOW_PAUSE);
    }
}
