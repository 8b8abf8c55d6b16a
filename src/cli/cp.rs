//! `cp`: files out of a run, and into it.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

use super::args::CpArgs;
use super::context::{Context, caller, current_dir, random};
use super::exit::CliError;
use super::printer::print_error;
use crate::engine::copy::{CopiedFiles, CopyError, How};
use crate::image::ByteSize;
use crate::sys::exit_now;
use crate::words::describe;

/// How long a copy that was told to end has for the file it is at.
const LEAVING: Duration = Duration::from_secs(2);

/// Set by a signal: the copy is to end, and because of which.
static STOP: AtomicBool = AtomicBool::new(false);
static SIGNAL: AtomicI32 = AtomicI32::new(0);

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Side {
    Run { run: String, path: Vec<u8> },
    Local(OsString),
    Archive,
}

pub(super) fn copy(context: &Context, args: &CpArgs) -> Result<u8, CliError> {
    let (source, destination) = (side(&args.source)?, side(&args.destination)?);
    check(&source, &destination)?;
    let printer = context.printer(args.talk);
    let engine = context.engine(None, printer)?;
    let owner = caller().unwrap_or_else(|| (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()));
    let how = How { archive: args.archive, follow: args.follow_link, owner, nonce: random(), stop: &STOP };
    let find = |run: &str| engine.store().find_run(run);
    let copied = match (&source, &destination) {
        (Side::Run { run, path }, Side::Archive) => {
            engine.copy_to_archive(&find(run)?, path, io::stdout().lock(), &how)
        }
        (Side::Archive, Side::Run { run, path }) => {
            let run = find(run)?;
            end_on_signals()?;
            engine.copy_from_archive(io::stdin().lock(), &run, path, &how)
        }
        (Side::Run { run, path }, Side::Local(local)) => {
            let (run, local) = (find(run)?, absolute(local)?);
            end_on_signals()?;
            engine.copy_out(&run, path, &local, &how)
        }
        (Side::Local(local), Side::Run { run, path }) => {
            let (run, local) = (find(run)?, absolute(local)?);
            end_on_signals()?;
            engine.copy_in(&local, &run, path, &how)
        }
        _ => return Err(one_run()),
    };
    let copied = match copied {
        Err(error) if error.is_interrupt() => {
            print_error(&describe(&error));
            return Ok(128 + u8::try_from(SIGNAL.load(Ordering::Relaxed)).unwrap_or(0));
        }
        copied => copied?,
    };
    if copied.skipped > 0 {
        printer.warn(&format!("{} sockets were not copied", copied.skipped));
    }
    if destination != Side::Archive {
        printer.say(&said(&copied, &args.destination));
    }
    Ok(0)
}

fn said(copied: &CopiedFiles, destination: &OsStr) -> String {
    let entries = if copied.entries == 1 { "1 entry".to_owned() } else { format!("{} entries", copied.entries) };
    format!("copied {entries}, {}, to `{}`", ByteSize(copied.bytes), destination.display())
}

/// Reads one side as docker does: what begins with `/` or `.` is of this machine, whatever else is in it.
fn side(text: &OsStr) -> Result<Side, CliError> {
    let bytes = text.as_bytes();
    if bytes.is_empty() {
        return Err(CliError::Usage("a path is empty, expected `RUN:PATH`, a path of this machine or `-`".to_owned()));
    }
    if bytes == b"-" {
        return Ok(Side::Archive);
    }
    let colon = bytes.iter().position(|byte| *byte == b':').filter(|_| !matches!(bytes[0], b'/' | b'.'));
    // `:TAG` names a run too.
    let colon = match colon {
        Some(0) => bytes[1..].iter().position(|byte| *byte == b':').map(|at| at + 1),
        other => other,
    };
    let Some(colon) = colon else { return Ok(Side::Local(text.to_owned())) };
    let (run, path) = (String::from_utf8_lossy(&bytes[..colon]).into_owned(), bytes[colon + 1..].to_vec());
    if path.is_empty() {
        return Err(CliError::Usage(format!(
            "`{run}:` names no path in the run\nhint: `{run}:/` is its root; a file of this machine is `./{run}:`"
        )));
    }
    Ok(Side::Run { run, path })
}

fn check(source: &Side, destination: &Side) -> Result<(), CliError> {
    match (source, destination) {
        (Side::Run { .. }, Side::Run { .. }) => Err(CliError::Usage(
            "copying between two runs is not supported\nhint: `dockless cp A:PATH - | dockless cp - B:PATH`".to_owned(),
        )),
        (Side::Run { .. }, Side::Archive) if io::stdout().is_terminal() => Err(CliError::Usage(
            "standard output is a terminal, and an archive is no text\nhint: name a file, or pipe it to `tar`"
                .to_owned(),
        )),
        (Side::Archive, Side::Run { .. }) if io::stdin().is_terminal() => Err(CliError::Usage(
            "standard input is a terminal, expected a tar archive\nhint: pipe one into the command".to_owned(),
        )),
        (Side::Run { .. }, _) | (_, Side::Run { .. }) => Ok(()),
        _ => Err(one_run()),
    }
}

fn one_run() -> CliError {
    CliError::Usage("neither side is in a run, expected `RUN:PATH` once\nhint: `dockless cp RUN:/file .`".to_owned())
}

/// A path of this machine from its root, with its ending, which means something.
fn absolute(path: &OsStr) -> Result<PathBuf, CliError> {
    if path.as_bytes().starts_with(b"/") {
        return Ok(path.into());
    }
    let mut whole = current_dir()?.into_os_string().into_vec();
    whole.push(b'/');
    whole.extend_from_slice(path.as_bytes());
    Ok(OsString::from_vec(whole).into())
}

/// A signal ends the copy between two files, so that none is left behind under a name of ours; one that takes long is left.
fn end_on_signals() -> Result<(), CliError> {
    let failed = |errno: nix::Error| CliError::Process("listen to signals", errno.into());
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().map_err(failed)?;
    std::thread::spawn(move || {
        let Ok(signal) = signals.wait() else { return };
        SIGNAL.store(signal as i32, Ordering::Relaxed);
        STOP.store(true, Ordering::Relaxed);
        std::thread::sleep(LEAVING);
        exit_now(128 + signal as i32);
    });
    Ok(())
}

impl From<CopyError> for CliError {
    fn from(error: CopyError) -> Self {
        Self::Copy(Box::new(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_read_as_docker_does() {
        let run = |run: &str, path: &str| Side::Run { run: run.to_owned(), path: path.into() };
        let local = |path: &str| Side::Local(path.into());
        for (text, expected) in [
            ("a:/x", run("a", "/x")),
            ("a:x:y", run("a", "x:y")),
            (":tag:/x", run(":tag", "/x")),
            ("./a:/x", local("./a:/x")),
            ("/a:/x", local("/a:/x")),
            ("..:x", local("..:x")),
            ("plain", local("plain")),
            ("-", Side::Archive),
        ] {
            assert_eq!(side(OsStr::new(text)).unwrap(), expected, "{text}");
        }
        assert!(side(OsStr::new("")).is_err() && side(OsStr::new("a:")).is_err());
    }
}
