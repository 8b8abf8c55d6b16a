//! Between two containers of a run: the time until the next one, with an ear on everybody who may end the run meanwhile.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use super::audience::{Heard, Seat};
use super::ending::code_for;
use super::gpus::GpuEye;
use super::protocol::{Conduct, Event, Order};
use super::relay::Listeners;
use super::restart::{end_by, ends};
use super::streams::Streams;
use crate::store::{Exit, ExitReason};

/// See the module.
pub(super) struct Between<'a> {
    pub(super) listeners: Listeners<'a>,
    pub(super) streams: &'a mut Streams,
    pub(super) gpus: &'a mut GpuEye,
    pub(super) conduct: &'a Conduct,
    pub(super) stop_signal: i32,
    /// SIGTERM to us means that the machine is being taken away.
    pub(super) interruptible: bool,
    /// The run goes on without the command line.
    pub(super) detached: &'a mut bool,
    /// When the time of the run is over.
    pub(super) deadline: Option<Instant>,
    /// The run ends, and why.
    pub(super) end: Option<ExitReason>,
}

/// Where something has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Signals,
    Uploader,
    Gpus,
    Seat(Seat),
}

impl Between<'_> {
    /// Waits for the time of the next container; returns why there is none if the run ends instead.
    pub(super) fn wait(mut self, next: Instant) -> Option<ExitReason> {
        loop {
            let now = Instant::now();
            let is_too_late = self.deadline.is_some_and(|deadline| now >= deadline);
            self.end = self.end.or(is_too_late.then_some(ExitReason::Timeout));
            if self.end.is_some() || now >= next {
                return self.end;
            }
            let until = self.deadline.map_or(next, |deadline| deadline.min(next));
            let places = self.listen(until);
            if places.contains(&Place::Signals) {
                self.take_signal();
            }
            if places.contains(&Place::Uploader) {
                self.listeners.hear_uploader();
            }
            if places.contains(&Place::Gpus) {
                self.listeners.hear_gpus(self.gpus);
            }
            self.hear(&places);
        }
    }

    fn listen(&self, until: Instant) -> Vec<Place> {
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
        // One that is cut to whole milliseconds would end before the time.
        let rest = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        let timeout = PollTimeout::try_from(rest).unwrap_or(PollTimeout::MAX);
        if poll(&mut fds, timeout).is_err() {
            return Vec::new();
        }
        let happened = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
        places.into_iter().zip(&fds).filter(|(_, fd)| happened(fd)).map(|(place, _)| place).collect()
    }

    /// There is no workload that it could be passed on to.
    fn take_signal(&mut self) {
        let Ok(Some(signal)) = self.listeners.signals.read_signal() else { return };
        let number = i32::try_from(signal.ssi_signo).unwrap_or_default();
        if self.conduct.stops_on_signals && self.interruptible && number == Signal::SIGTERM as i32 {
            self.finish(ExitReason::Interrupted);
        } else if ends(number, self.stop_signal) {
            self.finish(ExitReason::Stopped);
        }
    }

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
                (Heard::End, _) if *self.detached => {}
                (Heard::End, _) => self.finish(ExitReason::ClientLost),
            }
        }
        self.listeners.audience.dismiss(ended_guests);
    }

    /// Why it could not, in words.
    fn obey(&mut self, order: &Order, seat: Seat) -> Result<(), String> {
        if let Some(reason) = end_by(order, self.stop_signal) {
            self.finish(reason);
            return Ok(());
        }
        match order {
            Order::Attach => self.streams.attach(self.listeners.audience.take_descriptors(seat)),
            Order::Resize { size } => self.streams.resize(*size),
            Order::Detach if seat == Seat::Client => {
                *self.detached = true;
                self.streams.leave();
                self.listeners.audience.tell(&Event::Detached);
            }
            Order::Detach => return Err("only the command line that started it may detach it".to_owned()),
            _ => return Err("it has failed and waits to be started once more (`restarting`)".to_owned()),
        }
        Ok(())
    }

    fn finish(&mut self, reason: ExitReason) {
        self.end = self.end.or(Some(reason));
    }
}

/// The end of a run that waited to be started once more when it was ended: the last container's, and why there is no other.
pub(super) fn end_of_waiting(last: Exit, reason: ExitReason) -> Exit {
    let word = match reason {
        ExitReason::Timeout => "timeout: its time was over",
        ExitReason::Interrupted => "interrupted, the machine is being taken away",
        ExitReason::ClientLost => "stopped: the command that had started the run was killed",
        ExitReason::Aborted => "aborted: nothing was saved",
        _ => "stopped",
    };
    let message = format!("{word} before it was started once more, the workload had ended with {}", last.code);
    Exit { code: code_for(reason).unwrap_or(last.code), reason, message: Some(message), ..last }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_waiting_is_that_of_the_workload() {
        let last = Exit { oom_kills: 2, signal: Some(11), ..Exit::new(139, ExitReason::Signalled) };
        let end = |reason| end_of_waiting(last.clone(), reason);
        let stopped = end(ExitReason::Stopped);
        assert_eq!((stopped.code, stopped.signal, stopped.oom_kills), (139, Some(11), 2));
        assert_eq!(
            stopped.message.as_deref(),
            Some("stopped before it was started once more, the workload had ended with 139")
        );
        assert_eq!((end(ExitReason::Timeout).code, end(ExitReason::Interrupted).code), (124, 143));
    }
}
