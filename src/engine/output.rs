//! Where the output of a run goes besides its log.

use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::EngineError;
use crate::supervisor::Stream;

/// How much is read of a stream at once.
const READ_BYTES: usize = 16 << 10;

/// Where what a container writes goes besides its log, which is [`Conduct::logging`](super::Conduct::logging)'s matter.
#[derive(Debug, Default)]
pub enum Output {
    /// To this program's own standard output and error. A detached run writes to its log only.
    #[default]
    Inherited,
    /// To these files, pipes or sockets. What comes out of a terminal goes to `stdout` alone.
    ///
    /// A pipe that is full holds the workload back, as one in a shell would. One that nobody reads any more is closed for the
    /// workload as well.
    Files {
        /// For standard output.
        stdout: OwnedFd,
        /// For standard error.
        stderr: OwnedFd,
    },
    /// Nowhere else.
    Log,
}

impl Output {
    /// Pipes into this program, and their other ends. For a program that runs in tokio's runtime.
    ///
    /// # Errors
    /// No more descriptors can be opened.
    pub fn pipes() -> io::Result<(Self, Pipes)> {
        let ((stdout, our_out), (stderr, our_err)) = (pipe::pipe()?, pipe::pipe()?);
        // The supervisor writes only what fits, so it waits for nobody for long; a plain pipe is what a workload expects.
        let (stdout, stderr) = (stdout.into_blocking_fd()?, stderr.into_blocking_fd()?);
        Ok((Self::Files { stdout, stderr }, Pipes { stdout: our_out, stderr: our_err }))
    }

    /// The supervisor's own streams.
    pub(super) fn into_streams(self, detached: bool) -> Result<[Stdio; 2], EngineError> {
        match self {
            Self::Files { .. } if detached => Err(EngineError::DetachedOutput),
            Self::Files { stdout, stderr } => Ok([stdout.into(), stderr.into()]),
            Self::Inherited if !detached => Ok([Stdio::inherit(), Stdio::inherit()]),
            Self::Inherited | Self::Log => Ok([Stdio::null(), Stdio::null()]),
        }
    }
}

/// The output of a run, as it comes into this program.
#[derive(Debug)]
pub struct Pipes {
    /// Its standard output.
    pub stdout: pipe::Receiver,
    /// Its standard error.
    pub stderr: pipe::Receiver,
}

impl Pipes {
    /// Calls `on_bytes` with whatever comes, as it comes, until both streams have ended, which is a moment after the run has.
    ///
    /// The order within a stream is kept. Pieces end anywhere, also within a line or a character.
    ///
    /// # Errors
    /// A pipe cannot be read.
    pub async fn for_each(mut self, mut on_bytes: impl FnMut(Stream, &[u8])) -> io::Result<()> {
        let (mut out, mut err) = (vec![0; READ_BYTES], vec![0; READ_BYTES]);
        let (mut out_goes_on, mut err_goes_on) = (true, true);
        while out_goes_on || err_goes_on {
            tokio::select! {
                read = self.stdout.read(&mut out), if out_goes_on => {
                    let read = read?;
                    out_goes_on = read > 0;
                    pass_on(Stream::Stdout, &out[..read], &mut on_bytes);
                }
                read = self.stderr.read(&mut err), if err_goes_on => {
                    let read = read?;
                    err_goes_on = read > 0;
                    pass_on(Stream::Stderr, &err[..read], &mut on_bytes);
                }
            }
        }
        Ok(())
    }
}

fn pass_on(stream: Stream, bytes: &[u8], on_bytes: &mut impl FnMut(Stream, &[u8])) {
    if !bytes.is_empty() {
        on_bytes(stream, bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn both_streams_come_to_their_end() {
        let (output, pipes) = Output::pipes().unwrap();
        let Output::Files { stdout, stderr } = output else { panic!("{output:?}") };
        let writer = std::thread::spawn(move || {
            File::from(stderr).write_all(b"first").unwrap();
            File::from(stdout).write_all(&vec![b'x'; 300_000]).unwrap();
        });
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let read = pipes.for_each(|stream, bytes| match stream {
            Stream::Stdout => out.extend_from_slice(bytes),
            Stream::Stderr => err.extend_from_slice(bytes),
        });
        read.await.unwrap();
        writer.join().unwrap();
        assert_eq!((out.len(), err.as_slice()), (300_000, b"first".as_slice()));
    }

    #[tokio::test]
    async fn a_detached_run_cannot_write_to_a_program_that_leaves_it() {
        let (output, _pipes) = Output::pipes().unwrap();
        assert!(matches!(output.into_streams(true), Err(EngineError::DetachedOutput)));
        assert!(Output::Inherited.into_streams(true).is_ok());
    }
}
