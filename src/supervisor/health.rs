//! The health check of a run: when it is run, what its result means, and that it holds up nobody.
//!
//! Everything here is a state of the supervisor's one loop: [`HealthWatch::fds`] and [`HealthWatch::due`] tell what to wait for,
//! [`HealthWatch::attend`] does what can be done at once. A run without a check has none of this. One check goes on at a time,
//! in the same bounds as the container (see [`super::exec`]); none begins while the run is paused or is being ended.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::poll::PollFlags;
use nix::unistd::Pid;
use oci_spec::runtime::Spec;

use super::exec::ExecRequest;
use super::life::{Life, now};
use super::live::LiveRun;
use super::mask::Masker;
use super::probe::{Probe, ProbeEnd};
use crate::container::{Member, Tenant};
use crate::spec::{ExecOptions, ImageFiles, exec_process};
use crate::store::{Happening, HealthCheck, HealthResult, HealthStatus, OnFailure, RunHealth, RunState};
use crate::sys;
use crate::words::describe;

/// What stands for the exit code of a check that took too long, as with docker.
const TOO_LONG: i32 = -1;
/// What stands for it when the check could not even be begun.
const NOT_BEGUN: i32 = 125;
/// How long a check may take to die before its helper is killed.
const DYING: Duration = Duration::from_secs(2);
/// poll(2) waits for whole milliseconds; one more, and it does not wake too early again and again.
const ROUNDING: Duration = Duration::from_millis(1);
const READ_BYTES: usize = 4096;

/// See the module.
pub(super) struct HealthWatch {
    command: Vec<String>,
    config: PathBuf,
    init: Member,
    masker: Masker,
    /// For the helper; made for the first check, the same for all.
    body: Option<Rc<[u8]>>,
    /// When the workload started, moved by the time for which it was paused.
    began: Instant,
    /// When the next check begins; never, when that is further away than clocks reach.
    next: Option<Instant>,
    check: Option<Going>,
    /// The clock stands still since then.
    paused_since: Option<Instant>,
    /// No check begins, and none counts.
    is_ending: bool,
}

/// A check that goes on, or is dying.
struct Going {
    probe: Probe,
    start: String,
    began: Instant,
    /// When its time is over; for one that is dying, when its helper's is.
    until: Option<Instant>,
    /// Its time was over, which is told already.
    is_dying: bool,
}

impl Life {
    /// Begins with a run's checks, if it has any; for the moment after each start of its workload.
    pub(super) fn begin_health(&mut self, pid: Pid) -> Option<HealthWatch> {
        let check = self.request.record.health.as_ref()?.check.clone();
        let fresh = RunHealth::new(check);
        if self.request.record.health.as_ref() != Some(&fresh) {
            self.request.record.health = Some(fresh.clone());
            let written = self.run.write_passing_record(&self.request.record);
            self.warn_if(written.map_err(|error| describe(&error)));
        }
        self.happens(Happening::Health { status: fresh.status.to_string() });
        // One that has ended already is not asked.
        let init = sys::pidfd(pid).and_then(|pidfd| Member::adopt(pid.as_raw(), pidfd)).ok()?;
        let began = Instant::now();
        Some(HealthWatch {
            command: self.request.health_command.clone(),
            config: self.run.config(),
            init,
            masker: self.request.conduct.secrets.masker(),
            body: None,
            began,
            next: began.checked_add(Duration::from_millis(fresh.pause_ms(0))),
            check: None,
            paused_since: None,
            is_ending: false,
        })
    }
}

impl HealthWatch {
    /// All that something may come from.
    pub(super) fn fds(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        self.check.iter().flat_map(|check| check.probe.fds())
    }

    /// When there will be something to do, whatever happens.
    pub(super) fn due(&self) -> Option<Instant> {
        let due = match &self.check {
            _ if self.paused_since.is_some() => None,
            Some(check) => check.until,
            None => self.next.filter(|_| !self.is_ending),
        };
        due.and_then(|due| due.checked_add(ROUNDING))
    }

    /// Does what can be done now; how the run is, if that has changed. `has_news` says that something came from [`Self::fds`].
    pub(super) fn attend(&mut self, live: &mut LiveRun<'_>, has_news: bool, is_ending: bool) -> Option<HealthStatus> {
        let now = Instant::now();
        self.is_ending = is_ending;
        self.keep_time(live.record.state == RunState::Paused, now);
        if has_news && let Some(end) = self.hear() {
            return self.end(live, end);
        }
        if self.paused_since.is_some() {
            return None;
        }
        if self.check.is_some() {
            return self.end_in_time(live, now);
        }
        if is_ending || self.next.is_none_or(|next| now < next) {
            return None;
        }
        self.begin(live, now)
    }

    /// For what is done when the run turns unhealthy.
    pub(super) fn on_failure(live: &LiveRun<'_>) -> OnFailure {
        live.record.health.as_ref().map(|health| health.check.on_failure).unwrap_or_default()
    }

    /// Times that go by while everything stands still do not count.
    fn keep_time(&mut self, is_paused: bool, now: Instant) {
        if is_paused {
            self.paused_since.get_or_insert(now);
            return;
        }
        let Some(since) = self.paused_since.take() else { return };
        let stood = now.saturating_duration_since(since);
        self.began += stood;
        self.next = self.next.and_then(|next| next.checked_add(stood));
        if let Some(check) = &mut self.check {
            check.began += stood;
            check.until = check.until.and_then(|until| until.checked_add(stood));
        }
    }

    fn begin(&mut self, live: &mut LiveRun<'_>, now: Instant) -> Option<HealthStatus> {
        // Stopped by somebody else: a check would stand still as well.
        if self.init.is_frozen() {
            self.rest(live, now);
            return None;
        }
        let timeout = check_of(live).map_or(0, |check| check.timeout_ms);
        let start = self::now();
        let body = match &self.body {
            Some(body) => Ok(Rc::clone(body)),
            None => self.request().inspect(|body| self.body = Some(Rc::clone(body))),
        };
        match body.and_then(|body| Probe::begin(&body, &self.init, &self.masker)) {
            Ok(probe) => {
                let until = now.checked_add(Duration::from_millis(timeout));
                self.check = Some(Going { probe, start, began: now, until, is_dying: false });
                None
            }
            Err(error) => {
                let output = format!("the check cannot be begun: {error}");
                self.note(live, start, now, ProbeEnd { exit_code: NOT_BEGUN, output })
            }
        }
    }

    /// The same for all checks: as `exec` would run the command.
    fn request(&self) -> io::Result<Rc<[u8]>> {
        let spec = Spec::load(&self.config).map_err(io::Error::other)?;
        let container = spec.process().as_ref().ok_or(io::ErrorKind::InvalidData)?;
        let options = ExecOptions { command: self.command.clone(), ..ExecOptions::default() };
        // Only another user, or all capabilities, would take more than the container's own process says.
        let process = exec_process(container, &options, &ImageFiles::default(), 0).map_err(io::Error::other)?;
        let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().clone());
        let tenant = Tenant { process, seccomp, size: None };
        let request = ExecRequest { init: self.init.pid().as_raw(), tenant, detached: false };
        Ok(serde_json::to_vec(&request)?.into())
    }

    fn hear(&mut self) -> Option<ProbeEnd> {
        self.check.as_mut()?.probe.advance(&mut [0; READ_BYTES])
    }

    /// It has ended.
    fn end(&mut self, live: &mut LiveRun<'_>, end: ProbeEnd) -> Option<HealthStatus> {
        let check = self.check.take()?;
        if check.is_dying || self.is_ending {
            self.rest(live, Instant::now());
            return None;
        }
        self.note(live, check.start, check.began, end)
    }

    /// What takes too long is killed, and its helper if that does not help.
    fn end_in_time(&mut self, live: &mut LiveRun<'_>, now: Instant) -> Option<HealthStatus> {
        let check = self.check.as_mut().filter(|check| check.until.is_some_and(|until| now >= until))?;
        check.until = None;
        if check.is_dying || !check.probe.kill() {
            check.probe.kill_helper();
        } else {
            check.until = now.checked_add(DYING);
        }
        if std::mem::replace(&mut check.is_dying, true) || self.is_ending {
            return None;
        }
        let timeout = check_of(live).map(|check| Duration::from_millis(check.timeout_ms)).unwrap_or_default();
        let output = check.probe.output_so_far(&format!("the check took longer than {timeout:?}"));
        let (start, began) = (check.start.clone(), check.began);
        self.note(live, start, began, ProbeEnd { exit_code: TOO_LONG, output })
    }

    /// Puts a result into the record, and plans the next check.
    fn note(&mut self, live: &mut LiveRun<'_>, start: String, began: Instant, end: ProbeEnd) -> Option<HealthStatus> {
        let health = live.record.health.as_mut()?;
        let result = HealthResult { start, end: self::now(), exit_code: end.exit_code, output: end.output };
        let changed = health.note(result, self.since_start_ms(began));
        self.rest(live, Instant::now());
        // The next result writes it again.
        drop(live.write());
        changed
    }

    fn rest(&mut self, live: &LiveRun<'_>, now: Instant) {
        let since_start = self.since_start_ms(now);
        let pause = live.record.health.as_ref().map(|health| Duration::from_millis(health.pause_ms(since_start)));
        self.next = pause.and_then(|pause| now.checked_add(pause));
    }

    fn since_start_ms(&self, then: Instant) -> u64 {
        u64::try_from(then.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX)
    }
}

fn check_of<'a>(live: &'a LiveRun<'_>) -> Option<&'a HealthCheck> {
    live.record.health.as_ref().map(|health| &health.check)
}
