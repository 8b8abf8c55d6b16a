//! One more process in a running container: entered by ourselves, step by step, in the order that keeps it in bounds.
//!
//! libcontainer's own way loses the system call filter, knows no user namespaces and trusts the number of a process. What
//! is done here instead, in a fresh process with one thread: join the cgroups while they can be written; enter the
//! namespaces; only then touch the container's files; become its user; filter, capabilities, verified directory; execute.
//! From the moment that the container's processes can see it nobody in there may look into it (`PR_SET_DUMPABLE`), and
//! nothing of ours is open in the program.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{
    Gid, Pid, Uid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, getcwd, setgroups, setresgid, setresuid, setsid,
};
use oci_spec::runtime::{LinuxSeccomp, Process};
use serde::{Deserialize, Serialize};

use super::cgroup::{Entrance, Forked};
use super::exec::{Report, Reporter, StartFailure, Workload};
use super::member::{Member, Namespace};
use super::youki::{close_on_exec, drop_capabilities, load_filter, raise_capabilities, set_limits, use_profile};
use crate::sys::{self, WindowSize};

/// What is to run.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tenant {
    /// The process, complete.
    pub process: Process,
    /// The container's filter.
    pub seccomp: Option<LinuxSeccomp>,
    /// The size of its terminal, if it has one.
    pub size: Option<WindowSize>,
}

/// Standard streams of the process.
#[derive(Debug)]
pub enum TenantStreams {
    /// Input, output, errors.
    Pipes([OwnedFd; 3]),
    /// A terminal, made in the container; its master comes out of this socket.
    Terminal(UnixStream),
}

/// A process that was started or will say why not.
#[derive(Debug)]
pub struct Started {
    /// It; a child of this process.
    pub pid: Pid,
    /// How the start went.
    pub reporter: Reporter,
}

/// Starts a process beside `member`. The caller stays its parent, has one thread and does nothing else.
pub fn start_tenant(member: &Member, tenant: &Tenant, streams: TenantStreams) -> io::Result<Started> {
    let namespaces = member.namespaces()?;
    let entrance = Entrance::open(member.cgroups_to_join()?)?;
    let (reporter, write) = Reporter::new()?;
    // Before the container can see us.
    prctl::set_dumpable(false)?;
    // For children only; the namespace is that of the first process until then.
    if let Some(pids) = namespaces.iter().find(|namespace| namespace.kind == CloneFlags::CLONE_NEWPID) {
        setns(&pids.file, pids.kind)?;
    }
    let joined = match entrance.fork()? {
        Forked::Parent(pid) => return Ok(Started { pid, reporter }),
        Forked::Child(joined) => joined,
    };
    // The helper alone reads it, so that its end is seen.
    drop(reporter);
    let report = Report::new(&write);
    let entry = Entry { namespaces, joined, report };
    let failure = match entry.enter(tenant, streams) {
        Ok(workload) => {
            sys::reset_signals();
            workload.execute()
        }
        Err(failure) => failure,
    };
    report.send(&failure);
    sys::exit_now(failure.code)
}

/// The way in.
struct Entry {
    namespaces: Vec<Namespace>,
    /// Whether the process is in the container's cgroups.
    joined: io::Result<()>,
    report: Report,
}

/// A step that failed, as the reason why nothing was started.
fn step<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> StartFailure {
    move |error| StartFailure::ours(format!("cannot {what}: {error}"))
}

impl Entry {
    fn enter(self, tenant: &Tenant, streams: TenantStreams) -> Result<Workload, StartFailure> {
        let process = &tenant.process;
        self.report.die_with_supervisor();
        setsid().map_err(step("start a session"))?;
        self.joined.map_err(step("join the container's cgroup"))?;
        limit(process)?;
        cross(&self.namespaces)?;
        connect(streams, process.user().uid(), tenant.size)?;
        if process.no_new_privileges() == Some(true) {
            prctl::set_no_new_privs().map_err(step("give up new privileges"))?;
        }
        use_profile(process)?;
        umask(Mode::from_bits_truncate(process.user().umask().unwrap_or(0o022)));
        become_user(tenant)?;
        // No credential changes any more, which would clear the death signal.
        self.report.die_with_supervisor();
        let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        Ok(Workload::new(list(process.args()), list(process.env())))
    }
}

/// Into the namespaces. From here on paths are the container's.
fn cross(namespaces: &[Namespace]) -> Result<(), StartFailure> {
    for namespace in namespaces {
        if namespace.kind == CloneFlags::CLONE_NEWPID {
            continue;
        }
        setns(&namespace.file, namespace.kind).map_err(step("enter the container"))?;
        if namespace.kind == CloneFlags::CLONE_NEWUSER {
            // Nobody so far; its root has the right to the rest.
            setresgid(ROOT_GROUP, ROOT_GROUP, ROOT_GROUP).map_err(step("become root of the container"))?;
            setresuid(ROOT, ROOT, ROOT).map_err(step("become root of the container"))?;
            let _ = prctl::set_dumpable(false);
        }
    }
    Ok(())
}

/// What the process inherits.
fn limit(process: &Process) -> Result<(), StartFailure> {
    // The keys of whoever calls are nothing for the container. Where there are no keyrings there is nothing to leave.
    drop(sys::join_new_keyring());
    if let Some(score) = process.oom_score_adj() {
        // Lowering it takes a right that not every machine gives; `run` has told that.
        drop(fs::write("/proc/self/oom_score_adj", score.to_string()));
    }
    set_limits(process)
}

/// User, filter, capabilities and directory, in this order; the same as at the container's own start.
fn become_user(tenant: &Tenant) -> Result<(), StartFailure> {
    let process = &tenant.process;
    // Root may go where the user may not, and the user where root may not (a network file system).
    let entered = go_to(process.cwd());
    let groups: Vec<Gid> = process.user().additional_gids().iter().flatten().copied().map(Gid::from_raw).collect();
    setgroups(&groups).map_err(step("set the groups"))?;
    prctl::set_keepcaps(true).map_err(step("keep capabilities"))?;
    let (uid, gid) = (Uid::from_raw(process.user().uid()), Gid::from_raw(process.user().gid()));
    setresgid(gid, gid, gid).map_err(step("become the container's user"))?;
    setresuid(uid, uid, uid).map_err(step("become the container's user"))?;
    prctl::set_keepcaps(false).map_err(step("drop capabilities"))?;
    close_on_exec()?;
    raise_capabilities()?;
    // Loading it takes capabilities, unless new privileges were given up; then it is loaded last.
    let is_early = process.no_new_privileges() != Some(true);
    if is_early {
        load_filter(tenant.seccomp.as_ref())?;
    }
    drop_capabilities(process)?;
    match entered {
        Err(Errno::EPERM | Errno::EACCES) => go_to(process.cwd()),
        other => other,
    }
    .map_err(|errno| no_directory(process.cwd(), errno))?;
    // The kernel calls a directory that is not below the root unreachable (CVE-2024-21626).
    let here = getcwd().map_err(|errno| no_directory(process.cwd(), errno))?;
    if !here.is_absolute() {
        return Err(StartFailure::ours("the working directory is not in the container"));
    }
    if !is_early {
        load_filter(tenant.seccomp.as_ref())?;
    }
    Ok(())
}

const ROOT: Uid = Uid::from_raw(0);
const ROOT_GROUP: Gid = Gid::from_raw(0);

fn go_to(path: &Path) -> nix::Result<()> {
    chdir(if path.as_os_str().is_empty() { Path::new("/") } else { path })
}

fn no_directory(path: &Path, errno: Errno) -> StartFailure {
    let path = path.display();
    StartFailure::ours(match errno {
        Errno::ENOENT | Errno::ENOTDIR => {
            format!(
                "the working directory `{path}` does not exist in the container\nhint: `--workdir DIR` names another"
            )
        }
        other => format!("cannot enter the working directory `{path}`: {}", other.desc()),
    })
}

/// Makes the streams the process's own, and its user their owner: it could not open `/dev/stdout` otherwise.
fn connect(streams: TenantStreams, uid: u32, size: Option<WindowSize>) -> Result<(), StartFailure> {
    let uid = Some(rustix::fs::Uid::from_raw(uid));
    let [stdin, stdout, stderr] = match streams {
        TenantStreams::Pipes(pipes) => {
            for pipe in &pipes {
                // Not where the container's users are others than the machine's; nothing is lost but that.
                let is_pipe = rustix::fs::fstat(pipe).is_ok_and(|found| {
                    rustix::fs::FileType::from_raw_mode(found.st_mode) == rustix::fs::FileType::Fifo
                });
                if is_pipe {
                    let _ = rustix::fs::fchown(pipe, uid, None);
                }
            }
            pipes
        }
        TenantStreams::Terminal(socket) => {
            let slave = make_terminal(&socket, size).map_err(step("make a terminal in the container"))?;
            let _ = rustix::fs::fchown(&slave, uid, None);
            let copy = || slave.try_clone().map_err(step("copy a descriptor"));
            [copy()?, copy()?, copy()?]
        }
    };
    dup2_stdin(&stdin).map_err(step("set up standard input"))?;
    dup2_stdout(&stdout).map_err(step("set up standard output"))?;
    dup2_stderr(&stderr).map_err(step("set up standard error"))
}

/// A terminal of the container's own devpts, so that it has a name in there.
fn make_terminal(socket: &UnixStream, size: Option<WindowSize>) -> io::Result<OwnedFd> {
    let (master, slave) = sys::open_pty()?;
    if let Some(size) = size {
        sys::set_window_size(master.as_fd(), size)?;
    }
    sys::send_descriptor(socket, b"t", master.as_fd())?;
    sys::make_controlling(slave.as_fd())?;
    Ok(slave)
}
