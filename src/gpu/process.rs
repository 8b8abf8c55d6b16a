//! Programs that are asked one question: bounded in time and in what they say.

use std::io::{self, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;

/// How long a program that was killed may take to go. One that waits for a GPU within the kernel does not go at all.
const GRACE: Duration = Duration::from_secs(1);
/// What of its output is shown.
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
    #[error("{name} did not end within {:?} and was killed", .patience)]
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
    let until = Instant::now() + patience;
    // It may close its output and go on.
    let ended = read_all(&mut child, name, patience, limit).and_then(|bytes| match wait(&mut child, until) {
        Ok(Some(status)) => Ok((bytes, status)),
        Ok(None) => Err(OutputError::Hangs { name, patience }),
        Err(source) => Err(run(source)),
    });
    if ended.is_err() {
        end(&mut child);
    }
    let (bytes, status) = ended?;
    if !status.success() {
        let said = String::from_utf8_lossy(&bytes).into_owned();
        return Err(OutputError::Failed { name, status: status.to_string(), said });
    }
    Ok(bytes)
}

/// Kills a program. One that the kernel does not let go is left behind rather than waited for.
pub(super) fn end(child: &mut Child) {
    drop(child.kill());
    drop(wait(child, Instant::now() + GRACE));
}

fn wait(child: &mut Child, until: Instant) -> io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= until {
            return Ok(None);
        }
        // Programs end within a moment of closing their output.
        std::thread::sleep(Duration::from_millis(2));
    }
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
        match stdout.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(run(error)),
            Ok(0) => return Ok(bytes),
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
        }
        if bytes.len() > limit {
            return Err(OutputError::TooMuch { name, limit });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a program that behaves in one way")]
    fn ask(script: &str) -> Result<String, OutputError> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::null());
        let bytes = output(&mut command, "the script", Duration::from_millis(1500), 100)?;
        Ok(String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn answers_are_bounded_in_time_and_size() {
        let start = Instant::now();
        assert_eq!(ask("echo yes").unwrap(), "yes\n");
        for (script, words) in [
            ("echo no; exit 3", "the script ended with exit status: 3: `no`"),
            ("kill -11 $$", "the script ended with signal: 11 (SIGSEGV)"),
            ("while :; do echo much; done", "the script said more than 100 bytes"),
            ("echo yes; exec sleep 100", "the script did not end within 1.5s and was killed"),
            // Whoever closes its output has not ended.
            ("echo yes; exec >&-; exec sleep 100", "the script did not end within 1.5s and was killed"),
        ] {
            assert_eq!(ask(script).unwrap_err().to_string(), words, "{script}");
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    }
}
