//! Runs that other processes have started: ending them, waiting for them, and all that can be asked of them meanwhile.

mod error;
mod export;
mod order;
mod rename;

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::time::sleep;

pub use self::error::ControlError;
use super::{Engine, EngineError, Event, Order};
use crate::store::{Exit, RunDir, StoreError};
use crate::supervisor::protocol::{send_attach, send_line};
use crate::supervisor::{come_to, sweep};
use crate::sys;

/// How often a run without a supervisor, not yet or not any more, is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(30);

impl Engine {
    /// Waits until a run has ended and is cleaned up, after giving it `order`; at once for one that has ended already.
    ///
    /// `None` when nothing tells any more how it ended: it was removed meanwhile, or gave up before its workload started.
    pub async fn wait(&self, run: &RunDir, order: Option<&Order>) -> Result<Option<Exit>, EngineError> {
        let mut heard = None;
        let mut order = order.cloned();
        let place = run.place();
        while place.is_live() {
            let run = &place.now();
            match connect(run) {
                Ok(stream) => heard = listen(stream, order.take()).await.or(heard),
                // Nobody there yet: whoever sets the run up gives it up when asked to.
                Err(_) => {
                    if order.is_some() && run.is_before_its_supervisor() && ask_creator(run) {
                        order = None;
                    }
                }
            }
            sleep(LOOK_AGAIN).await;
        }
        self.end_of(&place.now()).map(|recorded| recorded.or(heard))
    }

    /// Has what a run writes from now on come out of `pipes` (output, errors) and, with a third one, gives it input. What a
    /// slow reader of these pipes does not take is lost to it and never holds the run up.
    pub fn attach(&self, run: &RunDir, pipes: &[BorrowedFd<'_>]) -> Result<Attached, EngineError> {
        let talk = |source| EngineError::Attach { name: name_of(run), source };
        let socket = come_to(&run.control()).map_err(talk)?;
        send_attach(&socket, pipes).map_err(talk)?;
        let orders = socket.try_clone().map_err(talk)?;
        socket.set_nonblocking(true).map_err(talk)?;
        let events = BufReader::new(UnixStream::from_std(socket).map_err(talk)?).lines();
        Ok(Attached { events, orders })
    }

    /// How a run ended whose supervisor is gone; `None` when nothing tells it any more.
    pub fn end_of(&self, run: &RunDir) -> Result<Option<Exit>, EngineError> {
        // Its supervisor may have been killed.
        sweep(&self.store, &self.settings.state, &self.settings.leases, &self.settings.network.dir)?;
        match run.record() {
            Ok(record) => Ok(record.exit),
            Err(StoreError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// A run of others whose output we get.
#[derive(Debug)]
pub struct Attached {
    events: Lines<BufReader<UnixStream>>,
    orders: std::os::unix::net::UnixStream,
}

impl Attached {
    /// What happens next; `None` when the supervisor is gone. Safe to cancel.
    pub async fn event(&mut self) -> Option<Event> {
        loop {
            let line = self.events.next_line().await.ok().flatten()?;
            if let Ok(event) = serde_json::from_str(&line) {
                return Some(event);
            }
        }
    }

    /// Tells the supervisor what to do with the workload. One that is gone is no error: its end is told by the events.
    pub fn order(&self, order: &Order) {
        drop(send_line(&self.orders, order));
    }
}

fn name_of(run: &RunDir) -> String {
    run.name().map(|name| name.to_string()).unwrap_or_default()
}

fn connect(run: &RunDir) -> io::Result<UnixStream> {
    let stream = come_to(&run.control())?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// Gives the order and listens until the supervisor is gone, or does not listen any more itself.
async fn listen(mut stream: UnixStream, order: Option<Order>) -> Option<Exit> {
    if let Some(order) = order {
        let line = serde_json::to_string(&order).unwrap_or_default() + "\n";
        // One that is just ending needs no order.
        drop(stream.write_all(line.as_bytes()).await);
    }
    let mut lines = BufReader::new(stream).lines();
    let mut exit = None;
    while let Ok(Some(line)) = lines.next_line().await {
        if let Ok(Event::Exited { exit: heard }) = serde_json::from_str(&line) {
            exit = Some(*heard);
        }
    }
    exit
}

/// Whether it is another process of our own program.
fn is_like_us(pid: i32) -> bool {
    let is_other = u32::try_from(pid).is_ok_and(|pid| pid != std::process::id());
    let program =
        |process: &str| std::fs::metadata(format!("/proc/{process}/exe")).map(|file| (file.dev(), file.ino()));
    is_other && matches!((program("self"), program(&pid.to_string())), (Ok(ours), Ok(theirs)) if ours == theirs)
}

/// Whether it could be asked.
fn ask_creator(run: &RunDir) -> bool {
    // This very program, or another one that embeds the library, may have more to do than this run.
    let Some(pid) = run.creator().filter(|pid| is_like_us(*pid)) else { return false };
    sys::send_signal(nix::unistd::Pid::from_raw(pid), nix::libc::SIGTERM).is_ok()
}
