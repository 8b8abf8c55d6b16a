//! The life of a supervisor: take the request, make the root file system and the container, relay, report, clean up.
//!
//! Order at the end: the exit is in the record, durably, before anything is taken apart; the artifacts are saved before
//! the writable layer goes; `exited` is told last, so that whoever waits for it finds nothing left.

use std::fs::{DirBuilder, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use jiff::Timestamp;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, dup2_stdin, setsid};
use oci_spec::runtime::Spec;

use super::audience::Audience;
use super::clean::clean_up;
use super::ending::Evidence;
use super::gpus::GpuEye;
use super::links::Models;
use super::live::LiveRun;
use super::log::LogWriter;
use super::network::OwnNetwork;
use super::protocol::{Event, Masked, Request, receive_request};
use super::pulse::Pulse;
use super::relay::{Listeners, Relay, Streams, Watched};
use super::streams::OurEnds;
use super::terminal::ConsoleSocket;
use super::users::{Staged, Users};
use super::victim::last_victim;
use crate::artifact::Uploader;
use crate::container::{
    Cgroup, Container, ContainerError, Created, StartFailure, Stdio, forbid_swap, restrict_devices, start_time_of,
};
use crate::gpu::lease::Handed;
use crate::rootfs::{self, Layers, Rootfs};
use crate::store::{Exit, ExitReason, FailedCommand, Feed, Happening, RunDir, RunState, Store, StoreError};
use crate::sys::{self, LockMode, write_atomic};
use crate::words::{describe, printable};

/// Passed on to the workload.
const FORWARDED: [Signal; 6] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

/// What is read of the file that a workflow's shell writes.
const MAX_STEP_BYTES: u64 = 32;

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
    audience: Audience,
    feed: Feed,
    signals: SignalFd,
    /// The run's lock: held until this process ends, however it ends.
    _lock: OwnedFd,
    /// Its GPUs, until nothing of the run is left that could use them.
    leases: Option<Handed>,
    network: OwnNetwork,
    stdin: Option<OwnedFd>,
}

impl Life {
    /// Takes the request from standard input, which is the socket, and puts /dev/null there.
    fn begin() -> io::Result<Self> {
        // What a caller has left open is nothing that a run should keep, least of all for days.
        sys::close_from(FIRST_OWN);
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
        Ok(Self { request, run, uploader: None, audience, feed, signals, _lock: lock, leases, network, stdin })
    }

    fn live(&mut self) {
        let mut exit = match self.run_container() {
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

    fn run_container(&mut self) -> Result<Exit, StartFailure> {
        self.audience.open(&self.run.control()).map_err(system("listen to other commands"))?;
        // Before we leave the machine's mount namespace, which it stays in.
        self.start_uploader();
        let eye = GpuEye::open(self.request.gpu_watch.as_ref());
        let mut models = Models::default();
        models.open(&self.request.surroundings.linked, true)?;
        self.network.open(self.request.network.as_ref())?;
        self.isolate().map_err(system("set up the supervisor"))?;
        models.open(&self.request.surroundings.linked, false)?;
        let cgroup_failure = |error| StartFailure::ours(describe(&error));
        let record = &self.request.record;
        let mut cgroup = Cgroup::recorded(record.cgroup.as_ref(), &record.id).map_err(cgroup_failure)?;
        cgroup.begin();
        let rootfs = self.make_rootfs()?;
        self.tell(&Event::Rootfs { method: rootfs.method.to_string(), why: rootfs.why.clone() });
        self.request.record.rootfs = rootfs.method.to_string();
        let log = LogWriter::open(&self.run.log(), self.request.conduct.logging).map_err(system("write the log"))?;
        let (theirs, ours) = self.streams().map_err(system("make the container's streams"))?;
        let container = {
            let store = Store::at(self.request.store.clone());
            let users = Users::of(&self.request, &self.run)?;
            let (path, choice) = (self.run.path(), self.request.rootfs);
            let _placed = self.request.surroundings.place(&store, path, choice, users.owners())?;
            let _guard = cgroup.guard_parent().map_err(cgroup_failure)?;
            let staged = Staged::of(&self.request, &self.run, &rootfs, users.owners())?;
            let (request, bundle) = (&self.request, staged.bundle());
            let create = || Container::create(&request.record.id, &request.state, bundle, theirs, request.init);
            cgroup.in_view(create).map_err(cgroup_failure)?.map_err(ContainerError::into_failure)?
        };
        cgroup.has_init(container.pid());
        let init = sys::pidfd(container.pid()).map_err(system("watch the container"))?;
        let settled = ours.settle(container.pid(), &self.request).map_err(system("set up the container's streams"));
        let linked = settled.and_then(|streams| models.apply(container.pid().as_raw()).map(|()| streams));
        let ended = linked.and_then(|streams| self.relay(container, &cgroup, streams, log, eye));
        if ended.is_err() {
            // Where it has no cgroup, nothing else would end it. Whoever waited for it already is not met again.
            drop(sys::signal_process(init.as_fd(), Signal::SIGKILL as i32));
        }
        ended
    }

    /// The container's ends of its streams and ours.
    fn streams(&mut self) -> io::Result<(Stdio, OurEnds)> {
        let given = self.stdin.take();
        if self.request.terminal.is_some() {
            let path = self.run.console();
            let socket = ConsoleSocket::open(path.clone())?;
            return Ok((Stdio::Console(path), OurEnds::Terminal { socket, given }));
        }
        OurEnds::pipes(given, self.request.interactive)
    }

    /// Starts what was created and stays with it until it has ended.
    fn relay(
        &mut self,
        container: Container<Created>,
        cgroup: &Cgroup,
        streams: Streams,
        log: LogWriter,
        mut eye: GpuEye,
    ) -> Result<Exit, StartFailure> {
        let pid = container.pid();
        if self.request.own_network {
            sys::bring_up_loopback(pid.as_raw()).map_err(system("bring up the loopback interface"))?;
        }
        self.network.set_up(self.request.network.as_ref(), pid)?;
        self.restrict_devices(cgroup)?;
        let init_ended = sys::pidfd(pid).map_err(system("watch the container"))?;
        if !self.request.record.detached && self.audience.client_is_gone() {
            return Err(StartFailure::ours(
                "the command that had started the run was killed before its workload started",
            ));
        }
        self.happens(Happening::Created);
        let timeout = self.request.conduct.timeout_ms.map(Duration::from_millis);
        let mut pulse = Pulse::new(pid, self.request.record.limits.shm_size, timeout);
        let container = container.start().map_err(ContainerError::into_failure)?;
        self.record_start(pid.as_raw());
        let id = self.request.record.id.clone();
        let watched = Watched {
            init: pid,
            id: &id,
            init_ended: init_ended.as_fd(),
            cgroup,
            stop_signal: self.request.stop_signal,
            shares_processes: self.request.surroundings.shares_processes,
            detached: self.request.record.detached,
            interruptible: self.request.record.interruptible,
            conduct: &self.request.conduct,
            live: LiveRun {
                run: &self.run,
                record: &mut self.request.record,
                memory_limit: &mut self.request.memory_limit,
                cgroup,
            },
        };
        let listeners = Listeners {
            audience: &mut self.audience,
            uploader: self.uploader.as_mut(),
            signals: &self.signals,
            feed: &mut self.feed,
        };
        let relay = Relay::new(watched, listeners, &mut pulse, &mut eye, streams, log)
            .map_err(system("relay the container's output"))?;
        let outcome = relay.run();
        let status = container.wait().map_err(ContainerError::into_failure)?;
        if let Some(error) = &outcome.log_error {
            self.warn(format!("the log is incomplete: cannot write `{}`: {error}", self.run.log().display()));
        }
        let usage = cgroup.usage();
        let evidence = Evidence {
            status,
            usage,
            outcome: &outcome,
            victim: if usage.oom_kills > 0 { last_victim(&self.request.record.id) } else { None },
            memory_limit: self.request.memory_limit.or_else(|| cgroup.callers_memory_limit()),
            shm_size: self.request.record.limits.shm_size,
            shm_peak: pulse.shm_peak(),
        };
        let mut exit = evidence.exit();
        // What the driver said in the workload's last moment.
        eye.look().into_iter().for_each(|text| self.warn(text));
        eye.report(&mut exit);
        self.name_failed_command(&mut exit);
        Ok(exit)
    }

    /// The runtime has written the device rules where there is a file for them; elsewhere it is done here, before the workload
    /// starts, and so is what it leaves out of the limits of version 2.
    fn restrict_devices(&self, cgroup: &Cgroup) -> Result<(), StartFailure> {
        let Some(dir) = cgroup.unified_dir() else { return Ok(()) };
        let config = self.run.config();
        let spec = Spec::load(&config)
            .map_err(|error| StartFailure::ours(format!("cannot read `{}`: {error}", config.display())))?;
        forbid_swap(&dir, &spec).map_err(system("limit swap"))?;
        restrict_devices(&dir, &spec).map_err(|error| StartFailure::ours(describe(&error)))
    }

    /// Tells which command of a workflow was running when it failed, if its shell has noted that.
    fn name_failed_command(&self, exit: &mut Exit) {
        let steps = &self.request.conduct.steps;
        let by_itself = matches!(
            exit.reason,
            ExitReason::Exited | ExitReason::Signalled | ExitReason::OomKilled | ExitReason::GpuLost
        );
        if exit.code == 0 || !by_itself {
            return;
        }
        // One command alone notes nothing: there is no doubt.
        let noted = if steps.len() == 1 { Some(1) } else { read_step(&self.run.step()) };
        let Some(index) = noted.filter(|index| (1..=steps.len()).contains(index)) else { return };
        let text = self.request.conduct.secrets.mask(&steps[index - 1]);
        let place = format!("command {index} of {}, `{}`", steps.len(), printable(&text));
        exit.message = Some(match &exit.message {
            None => format!("{place}, failed with exit code {}", exit.code),
            Some(message) => match message.split_once("\nhint:") {
                Some((message, hint)) => format!("{message}, in {place}\nhint:{hint}"),
                None => format!("{message}, in {place}"),
            },
        });
        exit.failed_command = Some(FailedCommand { index, of: steps.len(), text, code: exit.code });
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

    fn make_rootfs(&self) -> Result<Rootfs, StartFailure> {
        let failure = |error: rootfs::RootfsError| StartFailure::ours(describe(&error));
        let request = &self.request;
        let layers = Layers::load(&Store::at(request.store.clone()), &request.record.layers).map_err(failure)?;
        let target = self.run.path().join("rootfs");
        DirBuilder::new().mode(0o700).create(&target).map_err(system("make the root file system's directory"))?;
        let rootfs = rootfs::assemble(request.rootfs, &layers, self.run.path(), &target, request.record.keep)
            .map_err(failure)?;
        if request.record.cgroup.as_ref().is_some_and(|cgroup| !cgroup.mode.makes_one()) {
            without_devices(&rootfs.path).map_err(system("keep the image's device nodes from being opened"))?;
        }
        rootfs::preflight(&rootfs.path).map_err(failure)?;
        rootfs::replace_etc_links(&rootfs.path).map_err(failure)?;
        let volumes: Vec<String> = request.volumes.iter().map(|volume| volume.destination.clone()).collect();
        rootfs::prepare(&rootfs.path, &request.working_dir, &volumes).map_err(failure)?;
        for volume in &request.volumes {
            if let Some(host) = &volume.host {
                rootfs::seed_volume(&rootfs.path, &volume.destination, host).map_err(failure)?;
            }
        }
        rootfs::apply(&rootfs.path, &request.root_edits).map_err(failure)?;
        Ok(rootfs)
    }

    fn record_start(&mut self, pid: i32) {
        let record = &mut self.request.record;
        record.state = RunState::Running;
        record.started = Some(now());
        record.pid = Some(pid);
        record.pid_start = start_time_of(Pid::from_raw(pid));
        if let Some(path) = self.request.conduct.pid_file.clone() {
            let written = write_atomic(&path, format!("{pid}\n").as_bytes());
            self.warn_if(written.map_err(|error| format!("cannot write `{}`: {error}", path.display())));
        }
        // A reboot ends the run, so this state need not survive one.
        let written = self.run.write_passing_record(&self.request.record);
        self.warn_if(written.map_err(|error| describe(&error)));
        self.happens(Happening::Started { pid });
        self.tell(&Event::Started { pid });
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

/// The number that the shell of a workflow wrote last.
fn read_step(path: &Path) -> Option<usize> {
    let mut text = String::new();
    // The container may have written anything there.
    File::open(path).ok()?.take(MAX_STEP_BYTES).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn read_spec(path: &Path, secrets: &Masked) -> Option<serde_json::Value> {
    let text = std::fs::read_to_string(path).ok()?;
    serde_json::from_str(&secrets.mask(&text)).ok()
}

/// Device nodes of an image can be opened where no cgroup of the run forbids it; so its root file system has none.
pub(super) fn without_devices(root: &Path) -> nix::Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_NODEV;
    let forbid = || mount(None::<&str>, root, None::<&str>, flags, None::<&str>);
    match forbid() {
        // A copy is a directory like any other and becomes a mount first; an overlay is one, and stays the only one there.
        Err(nix::Error::EINVAL) => {
            mount(Some(root), root, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            forbid()
        }
        other => other,
    }
}

/// A system call that failed, as the reason why nothing was started.
fn system<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> StartFailure {
    move |error| StartFailure::ours(format!("cannot {what}: {error}"))
}

pub(super) fn now() -> String {
    format!("{:.9}", Timestamp::now())
}
