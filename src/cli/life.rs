//! The flags of `run` that say how long it lasts and who is told of it.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc::O_NONBLOCK;

use super::args::{LifeArgs, RestartArgs, RunKeepingArgs};
use super::context::absolute;
use super::exit::CliError;
use super::limits::grace_ms;
use crate::engine::{Conduct, Logging};
use crate::image::ByteSize;
use crate::store::{RestartPolicy, RestartPolicyError};
use crate::sys::inherited;

/// Where the caller's own descriptors begin; those before are standard streams.
const FIRST_DESCRIPTOR: i32 = 3;
/// Below that a file would be begun for every line.
const LEAST_LOG: ByteSize = ByteSize(16 << 10);
const MAX_LOG_FILES: u32 = 100;

/// How the supervisor is to go about it.
pub(super) fn conduct(args: &LifeArgs, keeping: &RunKeepingArgs) -> Result<Conduct, CliError> {
    let usual = Conduct::default();
    Ok(Conduct {
        grace_ms: grace_ms(keeping)?.unwrap_or(usual.grace_ms),
        logging: logging(&args.log_driver, &args.log_opt).map_err(CliError::Usage)?,
        // None, as podman has it, is 0 too.
        timeout_ms: args.timeout.map(|span| millis(span.duration())).filter(|millis| *millis > 0),
        pid_file: args.pidfile.as_deref().map(absolute),
        ..usual
    })
}

/// What is kept of the output: docker's names for it.
fn logging(driver: &str, options: &[String]) -> Result<Logging, String> {
    let (mut max_bytes, mut max_files) = (None, None);
    for option in options {
        let wrong = |why: String| format!("`--log-opt {option}`: {why}");
        match option.split_once('=') {
            Some(("max-size", size)) => {
                let size = ByteSize::from_docker(size).map_err(|error| wrong(error.to_string()))?;
                if size < LEAST_LOG {
                    return Err(wrong(format!("{size} is too small, expected at least {LEAST_LOG}")));
                }
                max_bytes = Some(size.0);
            }
            Some(("max-file", count)) => {
                let count = count.parse().ok().filter(|count| (1..=MAX_LOG_FILES).contains(count));
                max_files = Some(count.ok_or_else(|| wrong(format!("expected a number from 1 to {MAX_LOG_FILES}")))?);
            }
            _ => return Err(wrong("unknown, expected `max-size=SIZE` or `max-file=N`".to_owned())),
        }
    }
    match (driver, max_bytes, max_files) {
        ("none", None, None) => Ok(Logging::Nothing),
        ("none", _, _) => Err("`--log-opt` says how a log is kept, and `--log-driver none` keeps none".to_owned()),
        ("k8s-file", None, None) => Ok(Logging::All),
        ("k8s-file", None, Some(_)) => Err("`--log-opt max-file` needs `--log-opt max-size=SIZE`".to_owned()),
        ("k8s-file", Some(max_bytes), max_files) => {
            Ok(Logging::Bounded { max_bytes, max_files: max_files.unwrap_or(1) })
        }
        _ => Err(format!(
            "`--log-driver {driver}` is unknown, expected `k8s-file` or `none`\n\
             hint: leave it out; `dockless logs` shows what is kept"
        )),
    }
}

/// When the run is started once more. One that is removed at its end is not, as with docker.
pub(super) fn restart(args: &RestartArgs, removed: bool) -> Result<RestartPolicy, CliError> {
    let policy: RestartPolicy =
        args.restart.parse().map_err(|error: RestartPolicyError| CliError::Usage(error.to_string()))?;
    if removed && !policy.is_no() {
        let hint = "hint: leave one of them out; `dockless rm RUN` removes an ended run";
        return Err(CliError::Usage(format!(
            "conflicting options: cannot specify both `--restart {policy}` and `--rm`\n{hint}"
        )));
    }
    Ok(policy)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// What `--events` or `--events-fd` names, opened.
pub(super) fn events(args: &LifeArgs) -> Result<Option<OwnedFd>, CliError> {
    if let Some(number) = args.events_fd {
        let usage = |why: String| CliError::Usage(format!("`--events-fd {number}`: {why}"));
        if number < FIRST_DESCRIPTOR {
            return Err(usage(
                "it is a standard stream, which the container's output goes to\nhint: `--events-fd 3 3>FILE`"
                    .to_owned(),
            ));
        }
        return inherited(number).map(Some).map_err(|error| usage(format!("{error}\nhint: `{number}>FILE` opens it")));
    }
    let Some(path) = &args.events else { return Ok(None) };
    let write = |source| CliError::Write { path: path.clone(), source };
    // Opening a named pipe that nobody reads yet would wait for ever.
    let file = OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(O_NONBLOCK).open(path);
    Ok(Some(file.map_err(write)?.into()))
}

/// A file with the run's id; removed again unless the run starts.
pub(super) struct IdFile {
    path: PathBuf,
    kept: bool,
}

impl IdFile {
    /// Makes the file that `--cidfile` names, which must be new.
    pub(super) fn create(path: Option<&Path>, id: &str) -> Result<Option<Self>, CliError> {
        let Some(path) = path else { return Ok(None) };
        let write = |source| CliError::Write { path: path.to_owned(), source };
        let mut file = match File::create_new(path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let path = path.display();
                let hint = "hint: remove it if the run that wrote it is no more";
                return Err(CliError::Usage(format!(
                    "`--cidfile`: `{path}` is there already, expected a new file\n{hint}"
                )));
            }
            other => other.map_err(write)?,
        };
        let made = Self { path: path.to_owned(), kept: false };
        file.write_all(id.as_bytes()).map_err(write)?;
        Ok(Some(made))
    }

    /// The run has started.
    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for IdFile {
    fn drop(&mut self) {
        if !self.kept {
            drop(std::fs::remove_file(&self.path));
        }
    }
}
