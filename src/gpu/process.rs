//! Programs that are asked one question: bounded in time and in what they say.

use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;

/// What of standard error is shown.
const MAX_SHOWN_CHARACTERS: usize = 200;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// It cannot be started or listened to.
    #[error("cannot run {name}")]
    Run {
        /// What.
        name: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It hangs, as programs do that wait for a GPU which has gone.
    #[error("{name} did not end within {} s and was killed", .patience.as_secs())]
    Hangs {
        /// What.
        name: &'static str,
        /// How long it was waited for.
        patience: Duration,
    },
    /// It says that it failed.
    #[error("{name} ended with {status}{}", shown(.said))]
    Failed {
        /// What.
        name: &'static str,
        /// How.
        status: String,
        /// What it said.
        said: String,
    },
    /// It says more than it could have to say.
    #[error("{name} said more than {limit} bytes")]
    TooMuch {
        /// What.
        name: &'static str,
        /// How much it may say.
        limit: usize,
    },
}

fn shown(said: &str) -> String {
    let line: String = said.trim().chars().take(MAX_SHOWN_CHARACTERS).collect();
    if line.is_empty() { String::new() } else { format!(": `{}`", line.escape_debug()) }
}

/// Runs a program to its end and returns what it printed.
pub(super) fn output(
    command: &mut Command,
    name: &'static str,
    patience: Duration,
    limit: usize,
) -> Result<Vec<u8>, OutputError> {
    let run = |source| OutputError::Run { name, source };
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(run)?;
    let read = read_all(&mut child, name, patience, limit);
    if read.is_err() {
        // Only of ours, and not waited for yet.
        drop(child.kill());
    }
    let status = child.wait().map_err(run)?;
    let bytes = read?;
    if !status.success() {
        let said = String::from_utf8_lossy(&bytes).into_owned();
        return Err(OutputError::Failed { name, status: status.to_string(), said });
    }
    Ok(bytes)
}

fn read_all(child: &mut Child, name: &'static str, patience: Duration, limit: usize) -> Result<Vec<u8>, OutputError> {
    let run = |source: io::Error| OutputError::Run { name, source };
    let Some(mut stdout) = child.stdout.take() else { return Ok(Vec::new()) };
    let until = Instant::now() + patience;
    let (mut bytes, mut buffer) = (Vec::new(), [0; 8192]);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)];
        let ready = match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Err(nix::Error::EINTR) => continue,
            ready => ready.map_err(|errno| run(errno.into()))?,
        };
        if ready == 0 {
            return Err(OutputError::Hangs { name, patience });
        }
        match stdout.read(&mut buffer).map_err(run)? {
            0 => return Ok(bytes),
            count => bytes.extend_from_slice(&buffer[..count]),
        }
        if bytes.len() > limit {
            return Err(OutputError::TooMuch { name, limit });
        }
    }
}
