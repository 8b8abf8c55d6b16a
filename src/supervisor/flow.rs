//! One of the containers' streams on its way: to the log, to our own output, and to whoever is attached.
//!
//! Our own output holds the container back when it does not take more, as it would without us. Those who are attached do
//! not: what does not fit into their pipe at once is lost to them, and they are told how much.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;

use jiff::Timestamp;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::log::{LogWriter, Stream};
use super::mask::{MaskedStream, Masker};
use super::relay::Outcome;
use crate::sys;

/// What a pipe or terminal takes without blocking once it says it takes anything.
const SAFE_WRITE_BYTES: usize = 4096;

/// See the module.
pub(super) struct Flow {
    stream: Stream,
    /// Where the container writes; `None` after its end of file, and between two containers.
    source: Option<File>,
    /// Our own standard output or error; `None` when nobody reads it any more.
    sink: Option<File>,
    sink_takes_bytes: usize,
    /// Our own output was closed, and so is each container's.
    is_closed: bool,
    pending: Vec<u8>,
    /// Nobody waits for a sink that does not take more at once: what it misses stands in the log.
    is_lossy: bool,
    /// Hides secrets from all.
    masked: MaskedStream,
    listeners: Vec<Listener>,
}

/// Somebody who is attached.
struct Listener {
    pipe: File,
    /// Bytes that it was not given since it last took some.
    lost: usize,
}

impl Flow {
    /// Without a sink, for a run that nobody watches, the log alone gets it.
    pub(super) fn new(stream: Stream, sink: Option<BorrowedFd<'_>>, masker: &Masker) -> io::Result<Self> {
        let sink = sink.map(|sink| sink.try_clone_to_owned()).transpose()?.map(File::from);
        let kind = sink.as_ref().map(File::metadata).transpose()?.map(|metadata| metadata.file_type());
        let may_block = kind.is_none_or(|kind| kind.is_fifo() || kind.is_char_device() || kind.is_socket());
        Ok(Self {
            stream,
            source: None,
            sink,
            sink_takes_bytes: if may_block { SAFE_WRITE_BYTES } else { usize::MAX },
            is_closed: false,
            pending: Vec::new(),
            is_lossy: false,
            masked: masker.stream(),
            listeners: Vec::new(),
        })
    }

    /// A container writes there.
    pub(super) fn read_from(&mut self, source: OwnedFd) {
        self.source = (!self.is_closed).then(|| File::from(source));
    }

    /// The container has ended; somebody outside may still hold what it wrote to.
    pub(super) fn let_go(&mut self) {
        self.source = None;
    }

    /// Gives somebody more what comes from now on.
    pub(super) fn add_listener(&mut self, pipe: OwnedFd) {
        if sys::set_nonblocking(pipe.as_fd()).is_ok() {
            self.listeners.push(Listener { pipe: File::from(pipe), lost: 0 });
        }
    }

    /// What our own output does not take at once is lost to it from now on.
    pub(super) const fn let_lose(&mut self) {
        self.is_lossy = true;
    }

    /// Our own output belongs to somebody who has gone.
    pub(super) fn leave_sink(&mut self) {
        self.sink = None;
        self.pending.clear();
    }

    /// All that came has been passed on, and nothing more comes.
    pub(super) const fn is_over(&self) -> bool {
        self.source.is_none() && !self.waits_for_sink()
    }

    /// What to wait for: room in the sink while something is pending, else more from the source.
    pub(super) fn interest(&self) -> Option<PollFd<'_>> {
        match (&self.sink, &self.source) {
            (Some(sink), _) if self.waits_for_sink() => Some(PollFd::new(sink.as_fd(), PollFlags::POLLOUT)),
            (_, Some(source)) => Some(PollFd::new(source.as_fd(), PollFlags::POLLIN)),
            (_, None) => None,
        }
    }

    pub(super) const fn waits_for_sink(&self) -> bool {
        !self.pending.is_empty() && !self.is_lossy
    }

    pub(super) fn advance(&mut self, log: &mut LogWriter, buffer: &mut [u8], outcome: &mut Outcome) {
        if self.waits_for_sink() {
            self.write();
            return;
        }
        self.read(log, buffer, outcome);
        while self.is_lossy && !self.pending.is_empty() && self.sink_is_ready() {
            self.write();
        }
        if self.is_lossy {
            self.pending.clear();
        }
    }

    fn read(&mut self, log: &mut LogWriter, buffer: &mut [u8], outcome: &mut Outcome) {
        let Some(source) = &mut self.source else { return };
        match source.read(buffer) {
            Ok(read @ 1..) => self.take_in(&buffer[..read], log, outcome),
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            // The master of a terminal says EIO when nobody has the terminal open any more.
            Ok(_) | Err(_) => {
                self.source = None;
                self.give_out_the_rest(log, outcome);
            }
        }
    }

    fn take_in(&mut self, bytes: &[u8], log: &mut LogWriter, outcome: &mut Outcome) {
        // What may still become a secret is kept back.
        let before = self.pending.len();
        self.masked.push(bytes, &mut self.pending);
        self.spread_from(before, log, outcome);
    }

    /// Nothing more comes.
    pub(super) fn give_out_the_rest(&mut self, log: &mut LogWriter, outcome: &mut Outcome) {
        let before = self.pending.len();
        self.masked.finish(&mut self.pending);
        self.spread_from(before, log, outcome);
    }

    /// Gives what is new to the log and to those who are attached.
    fn spread_from(&mut self, start: usize, log: &mut LogWriter, outcome: &mut Outcome) {
        let new = &self.pending[start..];
        if !new.is_empty() {
            if let Err(error) = log.write(Timestamp::now(), self.stream, new) {
                outcome.log_error.get_or_insert(error);
            }
            self.listeners.retain_mut(|listener| listener.give(new));
        }
        if self.sink.is_none() {
            self.pending.clear();
        }
    }

    fn write(&mut self) {
        let Some(sink) = &mut self.sink else { return };
        let piece = &self.pending[..self.pending.len().min(self.sink_takes_bytes)];
        match sink.write(piece) {
            Ok(written) => drop(self.pending.drain(..written)),
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            // Nobody reads it any more. The workload is told as it would be in a pipeline of a shell: by a closed pipe.
            Err(_) => {
                self.sink = None;
                self.pending.clear();
                self.source = None;
                self.is_closed = true;
            }
        }
    }

    fn sink_is_ready(&self) -> bool {
        let Some(sink) = &self.sink else { return false };
        let mut fds = [PollFd::new(sink.as_fd(), PollFlags::POLLOUT)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}

impl Listener {
    /// False when it has gone.
    fn give(&mut self, bytes: &[u8]) -> bool {
        if self.lost > 0 {
            let word = format!("\n[dockless: {} bytes lost, the reader was too slow; the log has them]\n", self.lost);
            match write_some(&mut self.pipe, word.as_bytes()) {
                Some(written) if written == word.len() => self.lost = 0,
                Some(_) => {
                    self.lost += bytes.len();
                    return true;
                }
                None => return false,
            }
        }
        let written = write_some(&mut self.pipe, bytes);
        self.lost += bytes.len() - written.unwrap_or(0);
        written.is_some()
    }
}

/// Writes what fits now; `None` when nobody reads it any more.
fn write_some(pipe: &mut File, bytes: &[u8]) -> Option<usize> {
    let mut written = 0;
    while written < bytes.len() {
        match pipe.write(&bytes[written..]) {
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(_) => return None,
        }
    }
    Some(written)
}

#[cfg(test)]
mod tests {
    use super::super::log::Logging;
    use super::*;
    use crate::supervisor::protocol::Masked;

    #[test]
    fn a_slow_listener_loses_and_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(&dir.path().join("log"), Logging::All).unwrap();
        let mut outcome = Outcome::default();
        let mut flow = Flow::new(Stream::Stdout, None, &Masked::default().masker()).unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        flow.add_listener(writer.into());
        flow.take_in(&vec![b'x'; 100_000], &mut log, &mut outcome);
        let lost = flow.listeners[0].lost;
        assert!(lost > 0, "the pipe has taken everything");
        let mut taken = vec![0; 100_000 - lost];
        reader.read_exact(&mut taken).unwrap();
        flow.take_in(b"y", &mut log, &mut outcome);
        flow.listeners.clear();
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        let said = format!("\n[dockless: {lost} bytes lost, the reader was too slow; the log has them]\ny");
        assert_eq!(rest, said);
        drop(reader);
        let (reader, writer) = io::pipe().unwrap();
        flow.add_listener(writer.into());
        drop(reader);
        flow.take_in(b"z", &mut log, &mut outcome);
        assert!(flow.listeners.is_empty(), "somebody who has gone is kept");
    }
}
