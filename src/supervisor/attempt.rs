//! One container of a run: made, started, listened to until it has ended, and the truth about its end.
//!
//! Each has its own: libcontainer's state, cgroup, namespaces with `/dev/shm` and all other mounts, network, terminal or
//! pipes for its output. The root file system is what the one before has left of it, so what stands in it is looked at
//! again before anything is mounted upon it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use oci_spec::runtime::Spec;

use super::ending::Evidence;
use super::gpus::GpuEye;
use super::life::{Life, now, system};
use super::links::Models;
use super::live::LiveRun;
use super::places::{check_destinations, confirm_mounts};
use super::protocol::Event;
use super::pulse::Pulse;
use super::relay::{Listeners, Outcome, Relay, Watched};
use super::streams::Streams;
use super::surroundings::Placed;
use super::users::{Staged, Users};
use super::victim::last_victim;
use crate::artifact::Uploader;
use crate::container::{
    Cgroup, Container, ContainerError, Created, LimitChange, StartFailure, Stdio, restrict_devices, start_time_of,
};
use crate::rootfs::{self, Layers, Rootfs};
use crate::store::{Exit, ExitReason, FailedCommand, Happening, RunState, Store};
use crate::sys::{self, write_atomic};
use crate::words::{describe, printable};

/// What is read of the file that a workflow's shell writes.
const MAX_STEP_BYTES: u64 = 32;

/// What all containers of a run have in common.
pub(super) struct Ground {
    pub(super) rootfs: Rootfs,
    pub(super) users: Users,
    #[expect(dead_code, reason = "held for the mounts")]
    pub(super) images: Placed,
    pub(super) models: Models,
    pub(super) streams: Streams,
    pub(super) eye: GpuEye,
    /// Limits that were changed while it ran.
    pub(super) changes: LimitChange,
    /// The run goes on without the command line.
    pub(super) detached: bool,
    /// When the time of the run is over, once it has begun.
    pub(super) deadline: Option<Instant>,
}

/// A container that has ended.
pub(super) struct Ended {
    pub(super) exit: Exit,
    pub(super) outcome: Outcome,
    /// How long its workload ran.
    pub(super) ran: Duration,
}

impl Life {
    /// Has one container, from its making to its end.
    pub(super) fn attempt(&mut self, ground: &mut Ground) -> Result<Ended, StartFailure> {
        // A rename may have moved it.
        ground.rootfs.path = self.run.path().join("rootfs");
        if !self.is_first() && ground.users.owners().is_some() {
            self.remount_rootfs(&ground.rootfs)?;
        }
        self.fit_rootfs(&ground.rootfs.path)?;
        self.request.record.detached = ground.detached;
        self.forget_step().map_err(system("begin the commands once more"))?;
        let record = &self.request.record;
        let cgroup = Cgroup::recorded(record.cgroup.as_ref(), &record.id);
        let mut cgroup = cgroup.map_err(|error| StartFailure::ours(describe(&error)))?;
        cgroup.begin();
        let opened = ground.streams.open(&self.request, self.run.console());
        let (theirs, ends) = opened.map_err(system("make the container's streams"))?;
        let container = self.create(ground, &cgroup, theirs)?;
        cgroup.has_init(container.pid());
        let init = sys::pidfd(container.pid()).map_err(system("watch the container"))?;
        let settled = ground.streams.settle(ends, container.pid(), &self.request);
        let settled = settled.map_err(system("set up the container's streams"));
        let linked = settled.and_then(|()| ground.models.apply(container.pid().as_raw()));
        let ended = linked.and_then(|()| self.relay(container, &cgroup, ground));
        if ended.is_err() {
            // Where it has no cgroup, nothing else would end it. Whoever waited for it already is not met again.
            drop(sys::signal_process(init.as_fd(), Signal::SIGKILL as i32));
        }
        ground.streams.let_go();
        ended
    }

    fn is_first(&self) -> bool {
        self.request.record.restarts == 0
    }

    fn create(&self, ground: &Ground, cgroup: &Cgroup, streams: Stdio) -> Result<Container<Created>, StartFailure> {
        let (request, run) = (&self.request, self.run.path());
        let _placed = request.surroundings.place_joins(&Store::at(request.store.clone()), run)?;
        check_destinations(&ground.rootfs.path, &self.run.config())?;
        cgroup.make().map_err(|error| StartFailure::ours(describe(&error)))?;
        let staged = Staged::of(request, &self.run, &ground.rootfs, ground.users.owners())?;
        Container::create(&request.record.id, &request.state, staged.bundle(), streams, request.init, cgroup)
            .map_err(ContainerError::into_failure)
    }

    /// Starts what was created and stays with it until it has ended.
    fn relay(
        &mut self,
        container: Container<Created>,
        cgroup: &Cgroup,
        ground: &mut Ground,
    ) -> Result<Ended, StartFailure> {
        let pid = container.pid();
        confirm_mounts(pid, &self.run.config())?;
        self.finish_creation(pid, cgroup, &ground.changes)?;
        let init_ended = sys::pidfd(pid).map_err(system("watch the container"))?;
        if self.is_first() && !ground.detached && self.audience.client_is_gone() {
            return Err(StartFailure::ours(
                "the command that had started the run was killed before its workload started",
            ));
        }
        self.happens(Happening::Created);
        let began = Instant::now();
        let timeout = self.request.conduct.timeout_ms.map(Duration::from_millis);
        ground.deadline = ground.deadline.or_else(|| began.checked_add(timeout?));
        let mut pulse = Pulse::new(pid, self.request.record.limits.shm_size, ground.deadline);
        let container = container.start().map_err(ContainerError::into_failure)?;
        self.record_start(pid.as_raw());
        let outcome = self.listen(pid, init_ended.as_fd(), cgroup, &mut pulse, ground);
        let status = container.wait().map_err(ContainerError::into_failure)?;
        let ran = began.elapsed();
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
        ground.eye.look().into_iter().for_each(|text| self.warn(text));
        ground.eye.report(&mut exit);
        self.name_failed_command(&mut exit);
        Ok(Ended { exit, outcome, ran })
    }

    /// What the runtime leaves to us before the workload starts.
    fn finish_creation(&mut self, init: Pid, cgroup: &Cgroup, changes: &LimitChange) -> Result<(), StartFailure> {
        if self.request.own_network {
            sys::bring_up_loopback(init.as_raw()).map_err(system("bring up the loopback interface"))?;
        }
        self.network.set_up(self.request.network.as_ref(), init)?;
        self.limit(cgroup)?;
        if !changes.is_empty() {
            let result = cgroup.change_limits(changes);
            self.warn_if(result.map_err(|error| format!("limits are as they were at first: {}", describe(&error))));
        }
        Ok(())
    }

    /// Relays until the container has ended.
    fn listen(
        &mut self,
        init: Pid,
        init_ended: BorrowedFd<'_>,
        cgroup: &Cgroup,
        pulse: &mut Pulse,
        ground: &mut Ground,
    ) -> Outcome {
        // One that was killed while a container ran has been told of.
        let has_uploader = self.is_first() || self.uploader.as_ref().is_some_and(Uploader::is_there);
        let health = self.begin_health(init);
        let id = self.request.record.id.clone();
        let watched = Watched {
            init,
            id: &id,
            init_ended,
            cgroup,
            stop_signal: self.request.stop_signal,
            shares_processes: self.request.surroundings.shares_processes,
            detached: &mut ground.detached,
            interruptible: self.request.record.interruptible,
            conduct: &self.request.conduct,
            live: LiveRun {
                run: &mut self.run,
                record: &mut self.request.record,
                artifacts: &mut self.request.artifacts,
                memory_limit: &mut self.request.memory_limit,
                changes: &mut ground.changes,
                cgroup,
            },
            health,
        };
        let listeners = Listeners {
            audience: &mut self.audience,
            uploader: if has_uploader { self.uploader.as_mut() } else { None },
            signals: &self.signals,
            feed: &mut self.feed,
        };
        Relay::new(watched, listeners, pulse, &mut ground.eye, &mut ground.streams).run()
    }

    /// Sets the limits of the cgroup, and keeps its processes from devices that were not granted, before the workload starts.
    fn limit(&self, cgroup: &Cgroup) -> Result<(), StartFailure> {
        let config = self.run.config();
        let spec = Spec::load(&config)
            .map_err(|error| StartFailure::ours(format!("cannot read `{}`: {error}", config.display())))?;
        cgroup.set_limits(&spec).map_err(|error| StartFailure::ours(describe(&error)))?;
        restrict_devices(cgroup, &spec).map_err(|error| StartFailure::ours(describe(&error)))
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

    pub(super) fn make_rootfs(&self) -> Result<Rootfs, StartFailure> {
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
        Ok(rootfs)
    }

    /// Where the users are others, the last container has had the only mount of it.
    fn remount_rootfs(&self, rootfs: &Rootfs) -> Result<(), StartFailure> {
        let (store, record) = (Store::at(self.request.store.clone()), &self.request.record);
        let remounted = Layers::load(&store, &record.layers)
            .and_then(|layers| rootfs::remount(rootfs, &layers, self.run.path(), record.keep));
        remounted.map_err(|error| StartFailure::ours(describe(&error)))
    }

    /// Makes the root file system fit for a container: the image, and each workload, may have put anything there.
    fn fit_rootfs(&self, root: &Path) -> Result<(), StartFailure> {
        let failure = |error: rootfs::RootfsError| StartFailure::ours(describe(&error));
        let request = &self.request;
        rootfs::preflight(root).map_err(failure)?;
        rootfs::replace_etc_links(root).map_err(failure)?;
        let volumes: Vec<String> = request.volumes.iter().map(|volume| volume.destination.clone()).collect();
        rootfs::prepare(root, &request.working_dir, &volumes).map_err(failure)?;
        for volume in request.volumes.iter().filter(|_| self.is_first()) {
            if let Some(host) = &volume.host {
                rootfs::seed_volume(root, &volume.destination, host).map_err(failure)?;
            }
        }
        rootfs::apply(root, &request.root_edits).map_err(failure)
    }

    /// The shell of a workflow that is started once more has not run any command yet.
    fn forget_step(&self) -> io::Result<()> {
        if self.is_first() || self.request.conduct.steps.is_empty() {
            return Ok(());
        }
        OpenOptions::new().write(true).truncate(true).open(self.run.step()).map(drop)
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
}

/// The number that the shell of a workflow wrote last.
fn read_step(path: &Path) -> Option<usize> {
    let mut text = String::new();
    // The container may have written anything there.
    File::open(path).ok()?.take(MAX_STEP_BYTES).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
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
