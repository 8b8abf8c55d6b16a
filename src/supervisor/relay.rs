//! Carries what the container writes to the log and to the terminal, and keeps an ear on everything else meanwhile.
//!
//! One thread, one poll(2). A terminal or pipe that does not take more holds back the container's stream it belongs to, as
//! it would without us, but never the signals and orders: writes are so small that they cannot block after POLLOUT
//! (pipe(7): `PIPE_BUF` bytes fit).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;

use super::audience::{Audience, Heard, Seat};
use super::flow::Flow;
use super::gpus::GpuEye;
use super::health::HealthWatch;
use super::input::{Inlet, Input};
use super::life::now;
use super::live::LiveRun;
use super::log::LogWriter;
use super::protocol::{Conduct, Event, Order, StopReason};
use super::pulse::Pulse;
use super::restart::{SentSignals, end_by, ends};
use super::streams::{self, Streams};
use super::terminal::Terminal;
use super::victim::last_victim;
use crate::artifact::{UploadEvent, Uploader};
use crate::container::Cgroup;
use crate::store::{ExitReason, Feed, Happening, HealthStatus, OnFailure, RunName};
use crate::sys;

const READ_BYTES: usize = 64 << 10;
/// How long output may still come after init has ended: only from a pipe that was handed out of the container.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// Said when that is so.
const LOST_UPLOADER: &str = "the uploader was killed: nothing more is uploaded before the run's end";

/// What the relay has seen by the time the container has ended.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The run was ended from outside, and why.
    pub(super) stopped: Option<ExitReason>,
    /// The workload did not stop in time, or was not asked to.
    pub(super) killed: bool,
    /// The log could not be written, and why.
    pub(super) log_error: Option<io::Error>,
    /// What init was sent.
    pub(super) sent: SentSignals,
    /// It was ended by us so that it is started once more, where the policy permits that.
    pub(super) to_restart: bool,
    /// When the workload had ended already, the run was to be ended, and why: it is not started once more.
    pub(super) late: Option<ExitReason>,
}

/// What the relay must know about the run.
pub(super) struct Watched<'a> {
    /// Init, a child of this process that was not waited for yet, so that its number is its own.
    pub(super) init: Pid,
    /// Readable when it has ended.
    pub(super) init_ended: BorrowedFd<'a>,
    /// What the kernel knows the run by.
    pub(super) id: &'a str,
    /// All its processes.
    pub(super) cgroup: &'a Cgroup,
    /// What asks the workload to stop.
    pub(super) stop_signal: i32,
    /// Its processes outlive init unless they are ended.
    pub(super) shares_processes: bool,
    /// The run goes on without the command line.
    pub(super) detached: &'a mut bool,
    /// SIGTERM to us means that the machine is being taken away.
    pub(super) interruptible: bool,
    /// How to go about it.
    pub(super) conduct: &'a Conduct,
    /// What can be changed of it.
    pub(super) live: LiveRun<'a>,
    /// Its health check, if it has one.
    pub(super) health: Option<HealthWatch>,
}

/// Whom the supervisor talks with.
pub(super) struct Listeners<'a> {
    pub(super) audience: &'a mut Audience,
    /// `None` when there is none, or none any more.
    pub(super) uploader: Option<&'a mut Uploader>,
    pub(super) signals: &'a SignalFd,
    pub(super) feed: &'a mut Feed,
}

impl Listeners<'_> {
    pub(super) fn hear_uploader(&mut self) {
        let Some(uploader) = &mut self.uploader else { return };
        let Ok(events) = uploader.read_events() else {
            // Another one saves everything at the end.
            self.uploader = None;
            return self.audience.tell(&Event::Warning { text: LOST_UPLOADER.to_owned() });
        };
        for event in events {
            if let UploadEvent::Warning { text } = event {
                self.audience.tell(&Event::Warning { text });
            }
        }
    }

    pub(super) fn hear_gpus(&mut self, eye: &mut GpuEye) {
        for text in eye.look() {
            self.audience.tell(&Event::Warning { text });
        }
    }
}

/// Everything the supervisor listens to while the container runs.
pub(super) struct Relay<'a> {
    watched: Watched<'a>,
    listeners: Listeners<'a>,
    pulse: &'a mut Pulse,
    gpus: &'a mut GpuEye,
    flows: &'a mut [Flow],
    input: &'a mut Input,
    terminal: &'a mut Option<Terminal>,
    log: &'a mut LogWriter,
    /// Init has ended.
    ended: bool,
    kill_at: Option<Instant>,
    outcome: Outcome,
}

/// Where something has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Signals,
    Uploader,
    Gpus,
    Health,
    Init,
    Flow(usize),
    Input(Inlet),
    Seat(Seat),
}

impl<'a> Relay<'a> {
    pub(super) fn new(
        watched: Watched<'a>,
        listeners: Listeners<'a>,
        pulse: &'a mut Pulse,
        gpus: &'a mut GpuEye,
        streams: &'a mut Streams,
    ) -> Self {
        let Streams { input, flows, terminal, log, .. } = streams;
        Self {
            watched,
            listeners,
            pulse,
            gpus,
            flows,
            input,
            terminal,
            log,
            ended: false,
            kill_at: None,
            outcome: Outcome::default(),
        }
    }

    /// Runs until init has ended and all it wrote has been passed on.
    pub(super) fn run(mut self) -> Outcome {
        let mut buffer = vec![0; READ_BYTES];
        while !(self.ended && self.flows.iter().all(Flow::is_over)) {
            if self.kill_at.is_some_and(|at| Instant::now() >= at) {
                self.kill();
            }
            self.beat();
            let Some(places) = self.wait() else {
                self.flows.iter_mut().for_each(|flow| flow.give_out_the_rest(self.log, &mut self.outcome));
                break;
            };
            self.pass_on(&places, &mut buffer);
            self.take_input(&places, &mut buffer);
            if places.contains(&Place::Signals) {
                self.take_signal();
            }
            if places.contains(&Place::Uploader) {
                self.listeners.hear_uploader();
            }
            if places.contains(&Place::Gpus) {
                self.listeners.hear_gpus(self.gpus);
            }
            if places.contains(&Place::Health) {
                self.attend_health(true);
            }
            self.hear(&places);
            if places.contains(&Place::Init) {
                self.ended = true;
                // A check that goes on goes with it.
                self.watched.health = None;
                // Where init is the first of a namespace the kernel does that.
                if self.watched.shares_processes {
                    self.watched.cgroup.kill_all();
                }
            }
        }
        self.outcome
    }

    /// Waits for anything to happen; `None` when the container has ended and its streams stay silent though open.
    fn wait(&self) -> Option<Vec<Place>> {
        let mut places = vec![Place::Signals];
        let mut fds = vec![PollFd::new(self.listeners.signals.as_fd(), PollFlags::POLLIN)];
        for (seat, fd) in self.listeners.audience.seats() {
            places.push(Place::Seat(seat));
            fds.push(PollFd::new(fd, PollFlags::POLLIN));
        }
        if let Some(uploader) = &self.listeners.uploader {
            places.push(Place::Uploader);
            fds.push(PollFd::new(uploader.socket(), PollFlags::POLLIN));
        }
        for fd in self.gpus.fds() {
            places.push(Place::Gpus);
            fds.push(PollFd::new(fd, PollFlags::POLLIN));
        }
        for (fd, wanted) in self.watched.health.iter().flat_map(HealthWatch::fds) {
            places.push(Place::Health);
            fds.push(PollFd::new(fd, wanted));
        }
        if !self.ended {
            places.push(Place::Init);
            fds.push(PollFd::new(self.watched.init_ended, PollFlags::POLLIN));
            for (inlet, fd) in self.input.inlets() {
                let wanted = if inlet == Inlet::Room { PollFlags::POLLOUT } else { PollFlags::POLLIN };
                places.push(Place::Input(inlet));
                fds.push(PollFd::new(fd, wanted));
            }
        }
        for (index, flow) in self.flows.iter().enumerate() {
            if let Some(interest) = flow.interest() {
                places.push(Place::Flow(index));
                fds.push(interest);
            }
        }
        let draining = self.ended && self.flows.iter().all(|flow| !flow.waits_for_sink());
        let rest = Instant::now().checked_add(self.pulse.rest());
        let health = self.watched.health.as_ref().and_then(HealthWatch::due);
        let until = self.kill_at.into_iter().chain(rest).chain(health).min().filter(|_| !self.ended);
        let timeout = match until {
            _ if draining => PollTimeout::try_from(DRAIN_LIMIT).unwrap_or(PollTimeout::MAX),
            Some(at) => PollTimeout::try_from(at.saturating_duration_since(Instant::now())).unwrap_or(PollTimeout::MAX),
            None => PollTimeout::NONE,
        };
        let count = poll(&mut fds, timeout).unwrap_or(1);
        if count == 0 && draining {
            return None;
        }
        let happened = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
        Some(places.into_iter().zip(&fds).filter(|(_, fd)| happened(fd)).map(|(place, _)| place).collect())
    }

    /// What nobody tells of.
    fn beat(&mut self) {
        if self.ended {
            return;
        }
        let beat = self.pulse.beat(self.watched.cgroup);
        if let Some(oom_kills) = beat.oom_kills {
            let victim = last_victim(self.watched.id);
            self.listeners.feed.tell(now(), Happening::Oom { oom_kills, victim });
        }
        if beat.is_too_late {
            self.stop(ExitReason::Timeout, None);
        }
        self.attend_health(false);
    }

    /// Lets the health check go on, and acts on what it says.
    fn attend_health(&mut self, has_news: bool) {
        let Some(health) = &mut self.watched.health else { return };
        let is_ending = self.outcome.stopped.is_some() || self.outcome.killed;
        let Some(status) = health.attend(&mut self.watched.live, has_news, is_ending) else { return };
        self.listeners.feed.tell(now(), Happening::Health { status: status.to_string() });
        if status != HealthStatus::Unhealthy {
            return;
        }
        match HealthWatch::on_failure(&self.watched.live) {
            OnFailure::None => {}
            OnFailure::Kill => {
                self.outcome.stopped = Some(ExitReason::Unhealthy);
                self.kill();
            }
            OnFailure::Stop => self.stop(ExitReason::Unhealthy, None),
            OnFailure::Restart => {
                self.outcome.to_restart = self.outcome.stopped.is_none();
                self.stop(ExitReason::Unhealthy, None);
            }
        }
    }

    fn pass_on(&mut self, places: &[Place], buffer: &mut [u8]) {
        let mut has_written = false;
        for (index, flow) in self.flows.iter_mut().enumerate() {
            // Both may write to one pipe, and what poll(2) has said holds for one write only.
            let writes = flow.waits_for_sink();
            if places.contains(&Place::Flow(index)) && !(writes && has_written) {
                flow.advance(self.log, buffer, &mut self.outcome);
                has_written |= writes;
            }
        }
    }

    fn take_input(&mut self, places: &[Place], buffer: &mut [u8]) {
        // Last ones first: one that has ended leaves its place to the last.
        for place in places.iter().rev() {
            if let Place::Input(inlet) = *place {
                self.input.advance(inlet, buffer);
            }
        }
    }

    /// A signal to us: passed on, or a wish to end the run.
    fn take_signal(&mut self) {
        let Ok(Some(signal)) = self.listeners.signals.read_signal() else { return };
        let number = i32::try_from(signal.ssi_signo).unwrap_or_default();
        let ends = ![Signal::SIGUSR1 as i32, Signal::SIGUSR2 as i32].contains(&number);
        if !(self.watched.conduct.stops_on_signals && ends) {
            self.signal(number);
        } else if self.watched.interruptible && number == Signal::SIGTERM as i32 {
            self.stop(ExitReason::Interrupted, None);
        } else {
            self.stop(ExitReason::Stopped, None);
        }
    }

    /// Carries out what the command line and others say.
    fn hear(&mut self, places: &[Place]) {
        let mut ended_guests = Vec::new();
        for place in places {
            let Place::Seat(seat) = *place else { continue };
            match (self.listeners.audience.hear(seat), seat) {
                (Heard::Orders(orders), _) => {
                    for order in orders {
                        let error = self.obey(&order, seat).err();
                        self.listeners.audience.answer(seat, &Event::Answer { error });
                    }
                }
                (Heard::End, Seat::Guest(index)) => ended_guests.push(index),
                (Heard::End, _) => self.lose_client(),
            }
        }
        self.listeners.audience.dismiss(ended_guests);
    }

    fn lose_client(&mut self) {
        // A reader that has stalled must not keep the run from ending.
        self.flows.iter_mut().for_each(Flow::let_lose);
        if !*self.watched.detached {
            self.stop(ExitReason::ClientLost, None);
        }
    }

    /// Why it could not, in words.
    fn obey(&mut self, order: &Order, seat: Seat) -> Result<(), String> {
        match order {
            // The last of the output comes when init has ended.
            Order::Attach => self.attach(seat),
            Order::Resize { size } => self.terminal.iter_mut().for_each(|terminal| terminal.resize(*size)),
            Order::Detach if seat == Seat::Client => self.detach(),
            Order::Detach => return Err("only the command line that started it may detach it".to_owned()),
            _ if self.ended => {
                self.outcome.late = self.outcome.late.or_else(|| end_by(order, self.watched.stop_signal));
                return Err("it has just ended".to_owned());
            }
            Order::Signal { number } => return self.send(*number),
            Order::Stop { reason: StopReason::Aborted, .. } => {
                self.outcome.stopped = Some(ExitReason::Aborted);
                self.kill();
            }
            Order::Stop { reason, grace_ms, signal } => {
                self.watched.stop_signal = signal.unwrap_or(self.watched.stop_signal);
                let interrupted = *reason == StopReason::Interrupted;
                self.stop(if interrupted { ExitReason::Interrupted } else { ExitReason::Stopped }, *grace_ms);
            }
            Order::Pause => return self.watched.live.pause(),
            Order::Unpause => return self.watched.live.unpause(),
            Order::Update { change } => return self.watched.live.update(change),
            Order::Rename { to } => return self.rename(to),
        }
        Ok(())
    }

    fn rename(&mut self, to: &RunName) -> Result<(), String> {
        let from = self.watched.live.record.name.clone();
        let renamed = self.watched.live.rename(to);
        let now_named = &self.watched.live.record.name;
        if *now_named != from {
            self.log.follow(&self.watched.live.run.log());
            self.listeners.feed.rename(now_named.clone());
            self.listeners.feed.tell(now(), Happening::Renamed { from });
            self.listeners.audience.tell(&Event::Renamed { to: now_named.clone() });
        }
        renamed
    }

    /// As [`Self::signal`], for somebody who wants to know whether it was sent.
    fn send(&mut self, number: i32) -> Result<(), String> {
        let kills = number == Signal::SIGKILL as i32;
        // The kernel's own SIGKILL, for want of memory, must not be taken for this one.
        self.outcome.killed |= kills;
        self.outcome.sent.add(number);
        let sent = sys::send_signal(self.watched.init, number);
        if kills {
            self.watched.live.thaw_for_death();
        } else {
            self.watched.live.thaw();
        }
        self.listeners.feed.tell(now(), Happening::Signal { signal: number });
        sent.map_err(|error| format!("the kernel refuses the signal: {error}"))
    }

    /// Somebody who has come with pipes gets the output from now on, and may write when the container reads.
    fn attach(&mut self, seat: Seat) {
        streams::attach(self.input, self.flows, self.listeners.audience.take_descriptors(seat));
    }

    /// The command line leaves, and the run goes on without it.
    fn detach(&mut self) {
        *self.watched.detached = true;
        self.watched.live.detach();
        streams::leave(self.input, self.flows);
        self.listeners.audience.tell(&Event::Detached);
    }

    /// Asks the workload to stop; whoever asks again may only shorten its time.
    fn stop(&mut self, reason: ExitReason, grace_ms: Option<u64>) {
        if self.ended {
            self.outcome.late = self.outcome.late.or(Some(reason));
            return;
        }
        // Whoever stops what is about to be started once more means the run.
        self.outcome.to_restart &= reason == ExitReason::Unhealthy;
        let grace = Duration::from_millis(grace_ms.unwrap_or(self.watched.conduct.grace_ms));
        // A time that no clock reaches is none.
        let at = Instant::now().checked_add(grace);
        self.kill_at = self.kill_at.into_iter().chain(at).min();
        if self.outcome.stopped.is_none() {
            self.outcome.stopped = Some(reason);
            self.ask_to_stop();
        }
    }

    fn ask_to_stop(&mut self) {
        if self.watched.conduct.steps.is_empty() {
            self.signal(self.watched.stop_signal);
        } else {
            self.watched.cgroup.signal_all(self.watched.stop_signal);
            self.watched.live.thaw();
        }
    }

    fn kill(&mut self) {
        self.kill_at = None;
        self.outcome.killed = true;
        self.signal(Signal::SIGKILL as i32);
    }

    /// A paused workload takes the signal and goes on: it could not end otherwise.
    fn signal(&mut self, number: i32) {
        if !self.ended {
            drop(self.send(number));
        } else if ends(number, self.watched.stop_signal) {
            self.outcome.late = self.outcome.late.or(Some(ExitReason::Stopped));
        }
    }
}
