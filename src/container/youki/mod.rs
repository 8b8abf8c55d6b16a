//! The only place that knows libcontainer.
//!
//! What it needs of its caller: one thread, absolute paths, a fresh process per container, and standard error kept for
//! its logging at most. What it does not do is done here: its `Executor` is ours (exec.rs), its error chains are walked to
//! their ends, its state directory is removed with the container.

mod tenant;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use libcontainer::container::Container as Inner;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

pub(super) use self::tenant::{
    close_on_exec, drop_capabilities, load_filter, raise_capabilities, set_limits, use_profile,
};
use super::exec::{Report, Reporter, StartFailure, Workload};
use super::init::stay_as_init;
use crate::sys;

/// How readily the kernel kills this process when memory is short (`proc_pid_oom_score_adj(5)`).
const OWN_SCORE: &str = "/proc/self/oom_score_adj";

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
    /// Makes the container that `bundle/config.json` describes; its state goes to `state_root/<id>`. With `with_init` its first
    /// process is ours, and the workload a child of that.
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
    ) -> Result<Self, ContainerError> {
        let (reporter, report) =
            Reporter::new().map_err(|source| ContainerError::System { operation: "make a pipe", source })?;
        let executor = Init { report: Report::new(&report), stays: with_init };
        let builder = ContainerBuilder::new(id.to_owned(), SyscallType::default()).with_executor(executor);
        let builder = match stdio {
            Stdio::Streams { stdin, stdout, stderr } => {
                builder.with_stdin(stdin).with_stdout(stdout).with_stderr(stderr)
            }
            Stdio::Console(path) => builder.with_console_socket(Some(path)),
        };
        // libcontainer gives the container's score to this process first, which then would be killed as readily.
        let score = std::fs::read(OWN_SCORE);
        let built = builder
            .with_root_path(state_root)
            .and_then(ContainerBuilder::validate_id)
            .and_then(|builder| builder.as_init(bundle).with_systemd(false).with_detach(true).build());
        drop(report);
        if let Ok(score) = score {
            // Nobody may forbid it: it was ours before.
            let _ = std::fs::write(OWN_SCORE, score);
        }
        let inner = match built {
            Ok(inner) => inner,
            Err(error) => {
                // Init, if it got so far, has said it better than the chain of libcontainer.
                let failure = reporter.outcome();
                let hint = || creation_hint(&error, bundle);
                return Err(failure.map_or_else(|| with_hint(runtime("create", &error), hint), ContainerError::Start));
            }
        };
        let Some(pid) = inner.pid() else {
            let reason = "libcontainer tells no process id".to_owned();
            return Err(ContainerError::Runtime { operation: "create", reason, hint: String::new() });
        };
        // libcontainer 0.7 still has nix 0.29 in its interface.
        Ok(Self { inner, pid: Pid::from_raw(pid.as_raw()), stage: Created { reporter } })
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

/// Removes what libcontainer keeps about a container that is no more.
pub fn remove_state(state_root: &Path, id: &str) -> std::io::Result<()> {
    match std::fs::remove_dir_all(state_root.join(id)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
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
        // From here on no credential changes any more, which would clear the death signal.
        self.report.die_with_supervisor();
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
