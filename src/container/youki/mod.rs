//! The only place that knows libcontainer.
//!
//! What it needs of its caller: one thread, absolute paths, a process of its own per container, and standard error kept for
//! its logging at most. What it does not do is done here: its `Executor` is ours (exec.rs), its error chains are walked to
//! their ends, its state directory is removed with the container; and it gets to see no cgroup.

mod tenant;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use libcontainer::container::Container as Inner;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use nix::fcntl::OFlag;
use nix::sys::prctl;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

pub(super) use self::tenant::{
    close_on_exec, drop_capabilities, load_filter, raise_capabilities, set_limits, use_profile,
};
use super::cgroup::{Cgroup, Forked};
use super::exec::{Report, Reporter, StartFailure, Workload};
use super::init::stay_as_init;
use crate::sys;

/// Why init may end before it has started the workload.
const ENDED_EARLY: &str = "its first process ended before the workload was started: a seccomp profile that forbids what starting \
                           takes, or a `--ulimit` that leaves too little for it, may be the cause";

/// Standard streams of the container's init.
#[derive(Debug)]
pub enum Stdio {
    /// One descriptor each.
    Streams {
        /// Where it reads.
        stdin: OwnedFd,
        /// Where it writes.
        stdout: OwnedFd,
        /// Where it complains.
        stderr: OwnedFd,
    },
    /// A terminal, which the specification asks for; its master is sent to the socket at this path.
    Console(PathBuf),
}

/// The container exists, its init waits for the word to go.
#[derive(Debug)]
pub struct Created {
    reporter: Reporter,
}

/// The workload runs, or has ended and was not waited for yet.
#[derive(Debug)]
pub struct Running(());

/// A container in one stage of its life.
pub struct Container<Stage> {
    inner: Inner,
    pid: Pid,
    stage: Stage,
}

/// Why a container could not be made, started or waited for.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// The workload cannot run; the message is complete.
    #[error("{}", .0.message)]
    Start(StartFailure),
    /// libcontainer failed.
    #[error("cannot {operation} the container: {reason}{hint}")]
    Runtime {
        /// `create`, `start`, …
        operation: &'static str,
        /// All that libcontainer said, outermost first.
        reason: String,
        /// A second line with advice, or nothing.
        hint: String,
    },
    /// A system call of ours failed.
    #[error("cannot {operation}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: nix::Error,
    },
}

impl ContainerError {
    /// The failure as it goes into the record.
    #[must_use]
    pub fn into_failure(self) -> StartFailure {
        match self {
            Self::Start(failure) => failure,
            Self::Runtime { .. } => StartFailure::ours(self.to_string()),
            Self::System { operation, source } => StartFailure::ours(format!("cannot {operation}: {}", source.desc())),
        }
    }
}

impl Container<Created> {
    /// Makes the container that `bundle/config.json` describes, in a cgroup that is there; its state goes to `state_root/<id>`.
    /// With `with_init` its first process is ours, and the workload a child of that.
    ///
    /// libcontainer is called by a copy of this process, which is made in the cgroup and ends then; so nothing has to be
    /// moved there, and what libcontainer does to the process that calls it stays without effect.
    ///
    /// # Errors
    /// [`ContainerError::Start`] when the workload's program cannot be run, found out inside the container;
    /// [`ContainerError::Runtime`] for anything that libcontainer refuses. Nothing of it stays but cgroups, which the
    /// caller removes in any case.
    pub fn create(
        id: &str,
        state_root: &Path,
        bundle: &Path,
        stdio: Stdio,
        with_init: bool,
        cgroup: &Cgroup,
    ) -> Result<Self, ContainerError> {
        let failed = |operation| move |source| ContainerError::System { operation, source };
        let (reporter, report) = Reporter::new().map_err(failed("make a pipe"))?;
        let (answer, ours) = Answer::new().map_err(failed("make a pipe"))?;
        let entrance = cgroup.entrance().map_err(|error| refused("open the run's cgroup", &error))?;
        // Its processes must not look into ours, whatever they have in common with it.
        let _ = prctl::set_dumpable(false);
        // Init is a child of the copy first, and ours when that has ended.
        prctl::set_child_subreaper(true).map_err(failed("adopt processes"))?;
        let creator = match entrance.fork().map_err(|error| refused("make a process", &error))? {
            Forked::Parent(pid) => pid,
            Forked::Child(joined) => {
                drop(reporter);
                let report = Report::new(&report);
                report.die_with_supervisor();
                let made = joined
                    .map_err(|error| refused("enter the run's cgroup", &error))
                    .and_then(|()| cgroup.hide(bundle).map_err(|error| refused("hide the cgroups", &error)))
                    .and_then(|hidden| build(id, state_root, &hidden, stdio, Init { report, stays: with_init }));
                ours.send(made.map_err(ContainerError::into_failure));
                sys::exit_now(0)
            }
        };
        drop((report, ours, stdio));
        let ended = waitpid(creator, None);
        let _ = prctl::set_child_subreaper(false);
        ended.map_err(failed("wait for the process that makes the container"))?;
        let pid = match answer.read() {
            Ok(pid) => Pid::from_raw(pid),
            // Init, if it got so far, has said it better than the chain of libcontainer.
            Err(failure) => return Err(ContainerError::Start(reporter.outcome().unwrap_or(failure))),
        };
        let inner = Inner::load(state_root.join(id)).map_err(|error| runtime("find", &error))?;
        Ok(Self { inner, pid, stage: Created { reporter } })
    }

    /// Lets the workload go, and waits until it has really been executed.
    pub fn start(mut self) -> Result<Container<Running>, ContainerError> {
        self.inner.start().map_err(|error| runtime("start", &error))?;
        if let Some(failure) = self.stage.reporter.outcome() {
            let _ = waitpid(self.pid, None);
            return Err(ContainerError::Start(failure));
        }
        Ok(Container { inner: self.inner, pid: self.pid, stage: Running(()) })
    }
}

impl<Stage> Container<Stage> {
    /// Init on the host; a child of this process, so the number is its own until it was waited for.
    pub const fn pid(&self) -> Pid {
        self.pid
    }
}

impl Container<Running> {
    /// Takes the status of init, which must have ended.
    pub fn wait(self) -> Result<WaitStatus, ContainerError> {
        let Self { inner, pid, stage: Running(()) } = self;
        drop(inner);
        loop {
            match waitpid(pid, None) {
                Err(nix::Error::EINTR) => {}
                Err(source) => {
                    return Err(ContainerError::System { operation: "wait for the container", source });
                }
                Ok(status @ (WaitStatus::Exited(..) | WaitStatus::Signaled(..))) => return Ok(status),
                Ok(_) => {}
            }
        }
    }
}

/// Has libcontainer make it; the number of its first process.
fn build(id: &str, state_root: &Path, bundle: &Path, stdio: Stdio, executor: Init) -> Result<i32, ContainerError> {
    let builder = ContainerBuilder::new(id.to_owned(), SyscallType::default()).with_executor(executor);
    let builder = match stdio {
        Stdio::Streams { stdin, stdout, stderr } => builder.with_stdin(stdin).with_stdout(stdout).with_stderr(stderr),
        Stdio::Console(path) => builder.with_console_socket(Some(path)),
    };
    let built = builder
        .with_root_path(state_root)
        .and_then(ContainerBuilder::validate_id)
        .and_then(|builder| builder.as_init(bundle).with_systemd(false).with_detach(true).build());
    let inner = built.map_err(|error| with_hint(runtime("create", &error), || creation_hint(&error, bundle)))?;
    let Some(pid) = inner.pid() else {
        let reason = "libcontainer tells no process id".to_owned();
        return Err(ContainerError::Runtime { operation: "create", reason, hint: String::new() });
    };
    // libcontainer 0.7 still has nix 0.29 in its interface.
    Ok(pid.as_raw())
}

/// What the process that makes the container says of it at its end: a line in a pipe, which holds all of it.
struct Answer(File);

/// Longest answer that is sent.
const MAX_ANSWER_BYTES: usize = 32 << 10;

impl Answer {
    fn new() -> nix::Result<(Self, Self)> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        Ok((Self(File::from(read)), Self(File::from(write))))
    }

    fn send(&self, made: Result<i32, StartFailure>) {
        let made = made.map_err(|failure| {
            let message: String = failure.message.chars().take(MAX_ANSWER_BYTES / 8).collect();
            StartFailure { message, ..failure }
        });
        let line = serde_json::to_vec(&made).unwrap_or_default();
        // One that is lost shows as a process that ended early.
        drop((&self.0).write_all(&line));
    }

    /// To be called when the sender has ended. Others may still hold the other end.
    fn read(self) -> Result<i32, StartFailure> {
        let mut line = vec![0; MAX_ANSWER_BYTES];
        let read = (&self.0).read(&mut line).unwrap_or(0);
        let ended_early = || Err(StartFailure::ours("the process that makes the container ended before it was made"));
        serde_json::from_slice(&line[..read]).unwrap_or_else(|_| ended_early())
    }
}

/// Removes what libcontainer keeps about a container that is no more.
pub fn remove_state(state_root: &Path, id: &str) -> std::io::Result<()> {
    match std::fs::remove_dir_all(state_root.join(id)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A step of ours that failed.
fn refused(operation: &'static str, error: &dyn std::error::Error) -> ContainerError {
    let reason = crate::words::describe(error);
    ContainerError::Start(StartFailure::ours(format!("cannot {operation}: {reason}")))
}

/// What libcontainer does not say about a failed creation.
fn creation_hint(error: &(dyn std::error::Error + 'static), bundle: &Path) -> Option<String> {
    let reason = crate::words::describe(error);
    // Init was killed, or could not even say what it failed at.
    if reason.contains("BrokenChannel") {
        return Some(format!("\nhint: {ENDED_EARLY}"));
    }
    if reason.contains("failed to unix syscall") {
        return working_dir_hint(bundle);
    }
    if !reason.contains("sysctl") && !reason.contains("subpath in procfs") {
        return None;
    }
    // Kernel parameters are set by init without a word about which one failed.
    let spec = Spec::load(bundle.join("config.json")).ok()?;
    let sysctls = spec.linux().as_ref()?.sysctl().as_ref()?;
    let mut names: Vec<String> = sysctls.keys().map(|name| format!("`{name}`")).collect();
    names.sort();
    let names = names.join(", ");
    Some(format!("\nhint: `--sysctl`: one of {names} is not in the container's namespaces or does not take that value"))
}

/// Init enters it with a bare system call, and says no more than that one failed.
fn working_dir_hint(bundle: &Path) -> Option<String> {
    let spec = Spec::load(bundle.join("config.json")).ok()?;
    let dir = spec.process().as_ref()?.cwd().display().to_string();
    (dir != "/")
        .then(|| format!("\nhint: the working directory `{dir}` cannot be entered; `--workdir DIR` names another"))
}

fn with_hint(error: ContainerError, hint: impl FnOnce() -> Option<String>) -> ContainerError {
    match error {
        ContainerError::Runtime { operation, reason, hint: old } => {
            ContainerError::Runtime { operation, reason, hint: hint().unwrap_or(old) }
        }
        other => other,
    }
}

/// All that an error of libcontainer says, outermost first.
fn reasons(error: &(dyn std::error::Error + 'static)) -> String {
    let mut reasons: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        // Many of its errors repeat their source; one telling is enough.
        if !reasons.iter().any(|told| told.contains(&text)) {
            reasons.push(text);
        }
        next = error.source();
    }
    reasons.join(": ")
}

fn runtime(operation: &'static str, error: &(dyn std::error::Error + 'static)) -> ContainerError {
    let reason = reasons(error);
    let hint = if reason.contains("cgroup") {
        "\nhint: `mount | grep cgroup` shows whether the cgroup hierarchies are mounted and writable".to_owned()
    } else {
        String::new()
    };
    ContainerError::Runtime { operation, reason, hint }
}

/// What libcontainer calls at the end of init.
#[derive(Clone)]
struct Init {
    report: Report,
    /// As the container's first process.
    stays: bool,
}

impl Init {
    fn workload(spec: &Spec) -> Workload {
        let process = spec.process().as_ref();
        let list = |list: Option<&Vec<String>>| list.cloned().unwrap_or_default();
        Workload::new(
            list(process.and_then(|process| process.args().as_ref())),
            list(process.and_then(|process| process.env().as_ref())),
        )
    }
}

impl Executor for Init {
    /// Runs before init reports itself ready, so that a command that is not there fails the creation.
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        // A death signal now would be for the death of its first parent, which is about to end.
        self.report.end_with_supervisor();
        Self::workload(spec).find().map(drop).map_err(|failure| {
            self.report.send(&failure);
            ExecutorValidationError::ArgValidationError(failure.message)
        })
    }

    /// The environment is handed to execve(2) as it is; the process's own is left alone, because setting it after a fork
    /// may deadlock and would refuse names that are not UTF-8.
    fn setup_envs(&self, _: std::collections::HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        // Its parent is the supervisor by now. From here on no credential changes any more, which would clear the signal.
        self.report.die_with_supervisor();
        if self.stays
            && let Err(error) = stay_as_init()
        {
            self.report.send(&StartFailure::ours(format!("cannot start a process in the container: {error}")));
            sys::exit_now(125);
        }
        sys::reset_signals();
        let failure = Self::workload(spec).execute();
        self.report.send(&failure);
        sys::exit_now(failure.code)
    }
}

impl<Stage> std::fmt::Debug for Container<Stage> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Container").field("id", &self.inner.id()).field("pid", &self.pid).finish_non_exhaustive()
    }
}
