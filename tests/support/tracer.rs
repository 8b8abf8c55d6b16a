//! Stops a program at its n-th change of a directory, as a power cut or `kill -9` at the worst moment would.
//!
//! Every system call of every thread is looked at (ptrace). One counts as a step when it may change files below the
//! directory: writing, renaming, linking, removing, changing attributes, syncing. The program is killed before the step is taken.
#![expect(clippy::disallowed_methods, reason = "starts the program that it traces")]

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// How a traced program ended.
#[derive(Debug)]
pub(crate) struct Traced {
    /// Steps that were taken or about to be.
    pub(crate) steps: usize,
    /// Its exit code; `None` when it was killed at a step.
    pub(crate) code: Option<i32>,
}

/// Calls that name what they change by a descriptor: these count when it is below the directory.
const BY_DESCRIPTOR: [i64; 16] = [
    libc::SYS_write,
    libc::SYS_pwrite64,
    libc::SYS_writev,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_syncfs,
    libc::SYS_sync_file_range,
    libc::SYS_fchmod,
    libc::SYS_fchown,
    libc::SYS_fsetxattr,
    libc::SYS_sendfile,
    libc::SYS_utimensat,
];

/// Calls whose names are not looked at: a program that changes something elsewhere is stopped there as well.
const BY_NAME: [i64; 16] = [
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_unlinkat,
    libc::SYS_fchmodat,
    libc::SYS_fchownat,
    libc::SYS_truncate,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_removexattr,
    libc::SYS_copy_file_range,
    libc::SYS_mount,
    libc::SYS_umount2,
];

/// What glibc still uses where the kernel has the older calls.
#[cfg(target_arch = "x86_64")]
const OLD: [i64; 11] = [
    libc::SYS_rename,
    libc::SYS_link,
    libc::SYS_symlink,
    libc::SYS_mkdir,
    libc::SYS_mknod,
    libc::SYS_unlink,
    libc::SYS_rmdir,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_creat,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: [i64; 0] = [];

/// Runs the program until it is about to take step `stop_at` (from 1) below `directory`, and kills it there with all it
/// has started. What it says goes to the file `log`.
#[track_caller]
pub(crate) fn run_until(command: &Command, directory: &Path, stop_at: usize, log: &Path) -> Traced {
    let log = fs::File::create(log).expect("a file of the test");
    // The program waits in a shell until it is traced.
    let mut gate = Command::new("sh");
    gate.args(["-c", "read go; exec \"$@\" </dev/null", "sh"]).arg(command.get_program()).args(command.get_args());
    gate.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    gate.current_dir(command.get_current_dir().unwrap_or_else(|| Path::new("/")));
    gate.stdin(Stdio::piped()).stdout(log.try_clone().expect("a file")).stderr(log);
    let mut child = gate.spawn().expect("a shell");
    let leader = Pid::from_raw(i32::try_from(child.id()).expect("the number of a process"));
    let options = ptrace::Options::PTRACE_O_TRACESYSGOOD
        | ptrace::Options::PTRACE_O_TRACECLONE
        | ptrace::Options::PTRACE_O_TRACEFORK
        | ptrace::Options::PTRACE_O_TRACEVFORK
        | ptrace::Options::PTRACE_O_TRACEEXEC
        | ptrace::Options::PTRACE_O_EXITKILL;
    ptrace::seize(leader, options).expect("the right to trace a child");
    child.stdin.take().expect("a pipe").write_all(b"\n").expect("a shell that reads");
    let traced = follow(leader, directory, stop_at);
    // Its end has been taken already.
    drop(child.wait());
    traced
}

fn follow(leader: Pid, directory: &Path, stop_at: usize) -> Traced {
    let mut traced = Traced { steps: 0, code: None };
    let mut tasks = HashSet::from([leader]);
    loop {
        // Only what this very thread has started: other tests run beside.
        match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)) {
            Ok(WaitStatus::PtraceSyscall(task)) => {
                tasks.insert(task);
                if is_step(task, directory) && traced.steps < stop_at {
                    traced.steps += 1;
                    if traced.steps == stop_at {
                        for task in &tasks {
                            let _ = kill(*task, Signal::SIGKILL);
                        }
                    }
                }
                let _ = ptrace::syscall(task, None);
            }
            Ok(WaitStatus::PtraceEvent(task, ..)) => {
                tasks.insert(task);
                let _ = ptrace::syscall(task, None);
            }
            Ok(WaitStatus::Stopped(task, signal)) => {
                let _ = ptrace::syscall(task, signal);
            }
            Ok(WaitStatus::Exited(task, code)) if task == leader => traced.code = Some(code),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return traced,
        }
    }
}

/// Whether the thread, which has been stopped at the beginning or the end of a system call, is about to change something.
fn is_step(task: Pid, directory: &Path) -> bool {
    if !ptrace::syscall_info(task).is_ok_and(|info| info.op == libc::PTRACE_SYSCALL_INFO_ENTRY) {
        return false;
    }
    let Ok(line) = fs::read_to_string(format!("/proc/{task}/syscall")) else { return false };
    let mut words = line.split_whitespace();
    let Some(number) = words.next().and_then(|word| word.parse::<i64>().ok()) else { return false };
    if BY_NAME.contains(&number) || OLD.contains(&number) {
        return true;
    }
    let descriptor = words.next().and_then(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok());
    BY_DESCRIPTOR.contains(&number)
        && descriptor.is_some_and(|descriptor| {
            fs::read_link(format!("/proc/{task}/fd/{descriptor}")).is_ok_and(|path| path.starts_with(directory))
        })
}
