//! The life of a supervisor: take the request, make what stays, have one container after the other until the run is over,
//! report, clean up.
//!
//! Once for all containers of a run there are its lock, name and id, root file system with its writable layer, mounted
//! images, log, input, leases of GPUs and of an address, and whoever listens ([`Ground`]). What each gets anew is in
//! `attempt.rs`.
//!
//! Order at the end: the exit is in the record, durably, before anything is taken apart; the artifacts are saved before
//! the writable layer goes; `exited` is told last, so that whoever waits for it finds nothing left.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use jiff::Timestamp;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{dup2_stdin, setsid};

use super::attempt::{Ended, Ground};
use super::audience::Audience;
use super::between::{Between, end_of_waiting};
use super::clean::{clean_up, clear_away};
use super::gpus::GpuEye;
use super::links::Models;
use super::log::LogWriter;
use super::network::OwnNetwork;
use super::protocol::{Event, Masked, Request, receive_request};
use super::relay::Listeners;
use super::restart::{Again, Restarts};
use super::streams::Streams;
use super::users::Users;
use crate::artifact::Uploader;
use crate::container::{LimitChange, StartFailure};
use crate::gpu::lease::Handed;
use crate::store::{Exit, ExitReason, Feed, Happening, RunDir, RunState, Store, StoreError};
use crate::sys::{self, LockMode};
use crate::words::describe;

/// Passed on to the workload.
const FORWARDED: [Signal; 6] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

/// The first descriptor after the standard streams; none above is anybody's when we begin.
const FIRST_OWN: u32 = 3;

/// Exit status of the supervisor itself when it could not even take its request.
const NO_REQUEST: u8 = 125;

pub(super) fn main() -> ExitCode {
    match Life::begin() {
        Ok(mut life) => {
            life.live();
            ExitCode::SUCCESS
        }
        // Whoever started us sees the socket close without an `exited`.
        Err(_) => ExitCode::from(NO_REQUEST),
    }
}

pub(super) struct Life {
    pub(super) request: Request,
    pub(super) run: RunDir,
    /// Sends artifacts to their bucket while the run goes on.
    pub(super) uploader: Option<Uploader>,
    pub(super) audience: Audience,
    pub(super) feed: Feed,
    pub(super) signals: SignalFd,
    /// The run's lock: held until this process ends, however it ends.
    _lock: OwnedFd,
    /// Its GPUs, until nothing of the run is left that could use them.
    leases: Option<Handed>,
    pub(super) network: OwnNetwork,
    stdin: Option<OwnedFd>,
    /// Of this process; more than one when it was handed over too late.
    threads: usize,
}

impl Life {
    /// Takes the request from standard input, which is the socket, and puts /dev/null there.
    fn begin() -> io::Result<Self> {
        let threads = sys::thread_count();
        if threads == 1 {
            // What a caller has left open is nothing that a run should keep, least of all for days.
            sys::close_from(FIRST_OWN);
        }
        sys::hear_signals();
        // A terminal's signals go to whoever started us; they come as orders.
        setsid()?;
        let signals: SigSet = FORWARDED.into_iter().collect();
        signals.thread_block()?;
        let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let control = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        dup2_stdin(File::open("/dev/null")?)?;
        let (request, descriptors) = receive_request::<Request>(&control)?;
        let mut descriptors = descriptors.into_iter();
        let lock = descriptors.next().ok_or(io::ErrorKind::InvalidData)?;
        sys::bind_lock_to_process(&lock, LockMode::Exclusive)?;
        let leases = match &request.leases {
            Some(leases) => {
                let files = descriptors.by_ref().take(leases.count).collect();
                Some(Handed::adopt(&leases.dir, &request.record.id, leases.shared, files)?)
            }
            None => None,
        };
        let address = if request.network.is_some() { descriptors.next() } else { None };
        let network = OwnNetwork::adopt(address)?;
        let run = RunDir::at(request.store.join("runs").join(request.record.name.as_str()));
        let audience = Audience::new(control);
        let listener = if request.feed.has_listener { descriptors.next() } else { None };
        let (name, id) = (request.record.name.clone(), request.record.id.clone());
        let feed = Feed::new(&request.state, listener, name, id, request.feed.seq);
        let stdin = descriptors.next();
        Ok(Self { request, run, uploader: None, audience, feed, signals, _lock: lock, leases, network, stdin, threads })
    }

    fn live(&mut self) {
        let mut exit = match self.run_containers() {
            Ok(exit) => exit,
            Err(failure) => Exit {
                memory_limit: self.request.memory_limit,
                message: Some(failure.message),
                ..Exit::new(failure.code, ExitReason::StartFailed)
            },
        };
        exit.started.clone_from(&self.request.record.started);
        exit.finished = Some(now());
        self.happens(Happening::Exited { exit: Box::new(exit.clone()) });
        // A full disk may refuse the record now and take it when the writable layer is gone.
        let mut recorded = self.record_exit(&exit);
        recorded = self.save_artifacts(&exit).unwrap_or(recorded);
        self.set_tag();
        self.touch_caches();
        let problems = clean_up(&self.run, &self.request.record, &self.request.state);
        let is_clean = problems.is_empty();
        let network_problem = self.network.end(self.request.network.as_ref());
        for warning in problems.into_iter().chain(network_problem) {
            self.warn(warning);
        }
        // Where something is left the note stays, and whoever takes the GPUs next sees to it first.
        if is_clean && let Some(leases) = self.leases.take() {
            let released = leases.release();
            self.warn_if(released.map_err(|error| format!("the note about the run's GPUs stays: {error}")));
        }
        if !self.request.record.remove {
            let written = recorded.or_else(|_| self.run.write_record(&self.request.record));
            let finished = written.and_then(|()| self.run.finish());
            self.warn_if(finished.map_err(|error| describe(&error)));
        }
        self.happens(Happening::Cleaned);
        self.tell(&Event::Exited { exit: Box::new(exit) });
    }

    /// Has one container after the other until the last one has ended.
    fn run_containers(&mut self) -> Result<Exit, StartFailure> {
        let mut ground = self.lay_ground()?;
        let mut restarts = Restarts::new(self.request.record.restart, self.request.stop_signal);
        loop {
            let Ended { exit, outcome, ran } = self.attempt(&mut ground)?;
            let Some(again) = restarts.after(&exit, &outcome, ran) else { return Ok(exit) };
            let end = match outcome.late {
                Some(reason) => Some(reason),
                None => self.wait_for(again, &exit, &mut ground)?,
            };
            if let Some(reason) = end {
                return Ok(end_of_waiting(exit, reason));
            }
        }
    }

    /// Makes what all containers of the run have in common.
    fn lay_ground(&mut self) -> Result<Ground, StartFailure> {
        one_thread(self.threads)?;
        self.audience.open(&self.run.control()).map_err(system("listen to other commands"))?;
        // Before we leave the machine's mount namespace, which it stays in.
        self.start_uploader();
        let eye = GpuEye::open(self.request.gpu_watch.as_ref());
        let mut models = Models::default();
        models.open(&self.request.surroundings.linked, true)?;
        self.network.open(self.request.network.as_ref())?;
        self.isolate().map_err(system("set up the supervisor"))?;
        models.open(&self.request.surroundings.linked, false)?;
        let rootfs = self.make_rootfs()?;
        self.tell(&Event::Rootfs { method: rootfs.method.to_string(), why: rootfs.why.clone() });
        self.request.record.rootfs = rootfs.method.to_string();
        let log = LogWriter::open(&self.run.log(), self.request.conduct.logging).map_err(system("write the log"))?;
        let streams = Streams::new(&self.request, self.stdin.take(), log);
        let store = Store::at(self.request.store.clone());
        let users = Users::of(&self.request, &self.run)?;
        Ok(Ground {
            images: self.request.surroundings.place_images(
                &store,
                self.run.path(),
                self.request.rootfs,
                users.owners(),
            )?,
            rootfs,
            users,
            models,
            streams: streams.map_err(system("make the container's streams"))?,
            eye,
            changes: LimitChange::default(),
            detached: self.request.record.detached,
            deadline: None,
        })
    }

    /// Takes the container away that has failed, and waits for the time of the next one; returns why there is none if the run
    /// ends instead.
    fn wait_for(&mut self, again: Again, exit: &Exit, ground: &mut Ground) -> Result<Option<ExitReason>, StartFailure> {
        let next = Instant::now() + again.delay;
        self.record_restart(again, exit);
        let cleared = clear_away(&self.request.record, &self.request.state);
        cleared
            .map_err(|why| StartFailure::ours(format!("cannot start it once more, its last container stays: {why}")))?;
        let between = Between {
            listeners: Listeners {
                audience: &mut self.audience,
                uploader: self.uploader.as_mut().filter(|uploader| uploader.is_there()),
                signals: &self.signals,
                feed: &mut self.feed,
            },
            streams: &mut ground.streams,
            gpus: &mut ground.eye,
            conduct: &self.request.conduct,
            stop_signal: self.request.stop_signal,
            interruptible: self.request.record.interruptible,
            detached: &mut ground.detached,
            deadline: ground.deadline,
            end: None,
        };
        Ok(between.wait(next))
    }

    /// Leaves what the container must not inherit: keyring, umask, the mount table of the machine.
    fn isolate(&mut self) -> io::Result<()> {
        if let Err(error) = sys::join_new_keyring() {
            self.warn(format!("the container shares the session keyring of its user: {error}"));
        }
        umask(Mode::from_bits_truncate(0o022));
        unshare(CloneFlags::CLONE_NEWNS)?;
        // Slave: what is mounted on the machine later is seen, what is mounted here is not.
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)?;
        Ok(())
    }

    fn record_restart(&mut self, Again { restarts, delay }: Again, exit: &Exit) {
        let record = &mut self.request.record;
        (record.state, record.restarts) = (RunState::Restarting, restarts);
        (record.pid, record.pid_start) = (None, None);
        let written = self.run.write_passing_record(&self.request.record);
        self.warn_if(written.map_err(|error| describe(&error)));
        let exit = Exit { started: self.request.record.started.clone(), finished: Some(now()), ..exit.clone() };
        let (delay_ms, exit_code) = (u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), exit.code);
        self.happens(Happening::Restarting { restarts, delay_ms, exit: Box::new(exit) });
        self.tell(&Event::Restarting { restarts, delay_ms, exit_code });
    }

    fn record_exit(&mut self, exit: &Exit) -> Result<(), StoreError> {
        let record = &mut self.request.record;
        record.state = if self.request.artifacts.is_empty() { RunState::after(exit) } else { RunState::Saving };
        record.finished.clone_from(&exit.finished);
        (record.pid, record.pid_start) = (None, None);
        record.exit = Some(exit.clone());
        if !record.remove {
            record.spec = read_spec(&self.run.config(), &self.request.conduct.secrets);
        }
        // A record that is about to be removed need not survive a power cut; the sweep would remove it as well.
        let lasting = !self.request.record.remove || !self.request.artifacts.is_empty();
        if lasting {
            self.run.write_record(&self.request.record)
        } else {
            self.run.write_passing_record(&self.request.record)
        }
    }

    pub(super) fn warn_if(&mut self, result: Result<(), String>) {
        if let Err(text) = result {
            self.warn(text);
        }
    }

    pub(super) fn warn(&mut self, text: String) {
        self.tell(&Event::Warning { text });
    }

    /// Tells programs.
    pub(super) fn happens(&mut self, happening: Happening) {
        self.feed.tell(now(), happening);
    }

    /// Whoever listened may be gone; the run does not depend on it.
    pub(super) fn tell(&mut self, event: &Event) {
        self.audience.tell(event);
    }
}

/// A fork of a process with more threads may hang, and libcontainer forks.
pub(super) fn one_thread(count: usize) -> Result<(), StartFailure> {
    if count == 1 {
        return Ok(());
    }
    let hint = "hint: call `dockless::engine::entry` first in `main`, before a runtime or any other thread is started";
    Err(StartFailure::ours(format!("a helper process has {count} threads when it is handed over, expected 1\n{hint}")))
}

fn read_spec(path: &Path, secrets: &Masked) -> Option<serde_json::Value> {
    let text = std::fs::read_to_string(path).ok()?;
    serde_json::from_str(&secrets.mask(&text)).ok()
}

/// A system call that failed, as the reason why nothing was started.
pub(super) fn system<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> StartFailure {
    move |error| StartFailure::ours(format!("cannot {what}: {error}"))
}

pub(super) fn now() -> String {
    format!("{:.9}", Timestamp::now())
}
