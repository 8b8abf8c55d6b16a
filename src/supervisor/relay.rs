//! Carries what the container writes to the log and to the terminal, and keeps an ear on everything else meanwhile.
//!
//! One thread, one poll(2). A terminal or pipe that does not take more holds back the container's stream it belongs to, as
//! it would without us, but never the signals and orders: writes are so small that they cannot block after POLLOUT
//! (pipe(7): `PIPE_BUF` bytes fit).

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;

use super::log::{LogWriter, Stream};
use super::protocol::Order;
use crate::sys;

const READ_BYTES: usize = 64 << 10;
/// What a pipe or terminal takes without blocking once it says it takes anything.
const SAFE_WRITE_BYTES: usize = 4096;
/// How long output may still come after init has ended: only from a pipe that was handed out of the container.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);
/// How long the workload has to stop after the command line was killed; docker's default for `stop`.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// What the relay has seen by the time the container has ended.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The command line went away before the container ended.
    pub(super) client_lost: bool,
    /// The log could not be written, and why.
    pub(super) log_error: Option<io::Error>,
}

/// One of the container's streams on its way.
struct Flow {
    stream: Stream,
    /// The container's end; `None` after its end of file.
    source: Option<File>,
    /// Our own standard output or error; `None` when nobody reads it any more.
    sink: Option<File>,
    sink_takes_bytes: usize,
    pending: Vec<u8>,
    /// Nobody waits for a sink that does not take more at once: what it misses stands in the log.
    is_lossy: bool,
}

impl Flow {
    fn new(stream: Stream, source: OwnedFd, sink: BorrowedFd<'_>) -> io::Result<Self> {
        let sink = File::from(sink.try_clone_to_owned()?);
        let kind = sink.metadata()?.file_type();
        let may_block = kind.is_fifo() || kind.is_char_device() || kind.is_socket();
        let sink_takes_bytes = if may_block { SAFE_WRITE_BYTES } else { usize::MAX };
        Ok(Self {
            stream,
            source: Some(File::from(source)),
            sink: Some(sink),
            sink_takes_bytes,
            pending: Vec::new(),
            is_lossy: false,
        })
    }

    /// What to wait for: room in the sink while something is pending, else more from the source.
    fn interest(&self) -> Option<PollFd<'_>> {
        match (&self.sink, &self.source) {
            (Some(sink), _) if self.waits_for_sink() => Some(PollFd::new(sink.as_fd(), PollFlags::POLLOUT)),
            (_, Some(source)) => Some(PollFd::new(source.as_fd(), PollFlags::POLLIN)),
            (_, None) => None,
        }
    }

    fn waits_for_sink(&self) -> bool {
        !self.pending.is_empty() && !self.is_lossy
    }

    fn advance(&mut self, log: &mut LogWriter, buffer: &mut [u8], outcome: &mut Outcome) {
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
            Ok(0) => self.source = None,
            Ok(read) => {
                if let Err(error) = log.write(Timestamp::now(), self.stream, &buffer[..read]) {
                    outcome.log_error.get_or_insert(error);
                }
                if self.sink.is_some() {
                    self.pending.extend_from_slice(&buffer[..read]);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.source = None,
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
            }
        }
    }

    fn sink_is_ready(&self) -> bool {
        let Some(sink) = &self.sink else { return false };
        let mut fds = [PollFd::new(sink.as_fd(), PollFlags::POLLOUT)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}

/// Everything the supervisor listens to while the container runs.
pub(super) struct Relay<'a> {
    orders: Option<BufReader<&'a UnixStream>>,
    signals: &'a SignalFd,
    init: Pid,
    init_ended: BorrowedFd<'a>,
    flows: [Flow; 2],
    log: LogWriter,
    stop_signal: i32,
}

impl<'a> Relay<'a> {
    pub(super) fn new(
        control: &'a UnixStream,
        signals: &'a SignalFd,
        (init, init_ended): (Pid, BorrowedFd<'a>),
        (stdout, stderr): (OwnedFd, OwnedFd),
        log: LogWriter,
        stop_signal: i32,
    ) -> io::Result<Self> {
        let flows = [
            Flow::new(Stream::Stdout, stdout, io::stdout().as_fd())?,
            Flow::new(Stream::Stderr, stderr, io::stderr().as_fd())?,
        ];
        Ok(Self { orders: Some(BufReader::new(control)), signals, init, init_ended, flows, log, stop_signal })
    }

    /// Runs until init has ended and all it wrote has been passed on.
    pub(super) fn run(mut self) -> Outcome {
        let mut outcome = Outcome::default();
        let mut buffer = vec![0; READ_BYTES];
        let mut ended = false;
        let mut kill_at: Option<Instant> = None;
        while !(ended && self.flows.iter().all(|flow| flow.source.is_none() && !flow.waits_for_sink())) {
            if kill_at.is_some_and(|at| Instant::now() >= at) {
                self.signal(Signal::SIGKILL as i32);
                kill_at = None;
            }
            let Some(ready) = self.wait(ended, kill_at) else { break };
            let mut has_written = false;
            for (flow, ready) in self.flows.iter_mut().zip(ready.flows) {
                // Both may write to one pipe, and what poll(2) has said holds for one write only.
                let writes = flow.waits_for_sink();
                if ready && !(writes && has_written) {
                    flow.advance(&mut self.log, &mut buffer, &mut outcome);
                    has_written |= writes;
                }
            }
            if ready.signal
                && let Ok(Some(signal)) = self.signals.read_signal()
                && !ended
            {
                self.signal(i32::try_from(signal.ssi_signo).unwrap_or_default());
            }
            if ready.order && !self.obey(ended) {
                self.orders = None;
                // A reader that has stalled must not keep the run from ending.
                self.flows.iter_mut().for_each(|flow| flow.is_lossy = true);
                if !ended {
                    outcome.client_lost = true;
                    self.signal(self.stop_signal);
                    kill_at = Some(Instant::now() + STOP_GRACE);
                }
            }
            ended |= ready.ended;
        }
        outcome
    }

    /// Waits for anything to happen; `None` when the container has ended and its streams stay silent though open.
    fn wait(&self, ended: bool, kill_at: Option<Instant>) -> Option<Ready> {
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        let order = self.orders.as_ref().map(|orders| {
            fds.push(PollFd::new(orders.get_ref().as_fd(), PollFlags::POLLIN));
            fds.len() - 1
        });
        let init = (!ended).then(|| {
            fds.push(PollFd::new(self.init_ended, PollFlags::POLLIN));
            fds.len() - 1
        });
        let flows = self.flows.each_ref().map(|flow| {
            flow.interest().map(|interest| {
                fds.push(interest);
                fds.len() - 1
            })
        });
        let draining = ended && self.flows.iter().all(|flow| !flow.waits_for_sink());
        let timeout = match kill_at {
            _ if draining => PollTimeout::try_from(DRAIN_LIMIT).unwrap_or(PollTimeout::MAX),
            Some(at) => PollTimeout::try_from(at.saturating_duration_since(Instant::now())).unwrap_or(PollTimeout::MAX),
            None => PollTimeout::NONE,
        };
        let count = poll(&mut fds, timeout).unwrap_or(1);
        if count == 0 && draining {
            return None;
        }
        let happened = |index: Option<usize>| index.is_some_and(|index| fds[index].any().unwrap_or(false));
        Some(Ready {
            signal: happened(Some(0)),
            order: happened(order),
            ended: happened(init),
            flows: flows.map(happened),
        })
    }

    /// Carries out what the command line sent; `false` when it is gone.
    fn obey(&mut self, ended: bool) -> bool {
        let Some(orders) = &mut self.orders else { return false };
        loop {
            let mut line = String::new();
            match orders.read_line(&mut line) {
                Ok(0) | Err(_) => return false,
                Ok(_) => {}
            }
            if let Ok(Order::Signal { number }) = serde_json::from_str(&line)
                && !ended
            {
                drop(sys::send_signal(self.init, number));
            }
            if orders.buffer().is_empty() {
                return true;
            }
        }
    }

    /// Init is our child and was not waited for yet, so its number is still its own.
    fn signal(&self, number: i32) {
        drop(sys::send_signal(self.init, number));
    }
}

struct Ready {
    signal: bool,
    order: bool,
    ended: bool,
    flows: [bool; 2],
}
