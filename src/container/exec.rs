//! The last steps before the workload: find its program inside the container, say why it cannot run, execute it.
//!
//! Runs in the container's init, after `pivot_root`, as the container's user, with its capabilities and seccomp filter. What
//! goes wrong there is told to the supervisor through a pipe that the kernel closes on a successful execve(2): an end of
//! file without a word is the proof that the workload started.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::unistd::{AccessFlags, faccessat};
use serde::{Deserialize, Serialize};

use crate::sys;

/// Longest failure report that is read; what the container's side sends is not trusted.
const MAX_REPORT_BYTES: u64 = 64 << 10;

/// Why a workload did not start, with the exit code that shells have for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartFailure {
    /// 125 for a fault of ours, 126 for a program that cannot be executed, 127 for one that is not there.
    pub code: i32,
    /// What happened, with a `hint:` line when there is something to try.
    pub message: String,
}

impl StartFailure {
    /// A fault of ours or of the machine, 125.
    #[must_use]
    pub fn ours(message: impl Into<String>) -> Self {
        Self { code: 125, message: message.into() }
    }

    fn cannot_execute(message: String) -> Self {
        Self { code: 126, message }
    }

    fn not_found(message: String) -> Self {
        Self { code: 127, message }
    }
}

/// The workload as execve(2) wants it.
#[derive(Debug, Clone)]
pub(super) struct Workload {
    arguments: Vec<String>,
    environment: Vec<String>,
}

impl Workload {
    pub(super) const fn new(arguments: Vec<String>, environment: Vec<String>) -> Self {
        Self { arguments, environment }
    }

    /// The path of the program: as it is when it has a slash, else from the container's own `PATH`.
    pub(super) fn find(&self) -> Result<PathBuf, StartFailure> {
        let name = self.arguments.first().map_or("", String::as_str);
        if name.is_empty() {
            return Err(StartFailure::not_found("the command is empty".to_owned()));
        }
        if name.contains('/') {
            return check(Path::new(name)).map(|()| PathBuf::from(name));
        }
        let path = self.environment.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or_default();
        let mut refused = None;
        for dir in path.split(':').filter(|dir| !dir.is_empty()) {
            let candidate = Path::new(dir).join(name);
            match check(&candidate) {
                Ok(()) => return Ok(candidate),
                Err(failure) if failure.code == 127 => {}
                Err(failure) => {
                    refused.get_or_insert(failure);
                }
            }
        }
        Err(refused.unwrap_or_else(|| {
            StartFailure::not_found(format!("`{name}` was not found in the container's PATH (looked in {path})"))
        }))
    }

    /// Replaces the process by the workload; comes back only when that fails.
    pub(super) fn execute(&self) -> StartFailure {
        let program = match self.find() {
            Ok(program) => program,
            Err(failure) => return failure,
        };
        let strings =
            |list: &[String]| list.iter().map(|text| CString::new(text.as_bytes())).collect::<Result<Vec<_>, _>>();
        let (Ok(path), Ok(arguments), Ok(environment)) =
            (CString::new(program.as_os_str().as_bytes()), strings(&self.arguments), strings(&self.environment))
        else {
            return StartFailure::cannot_execute("the command or the environment has a NUL character in it".to_owned());
        };
        let Err(errno) = nix::unistd::execve(&path, &arguments, &environment);
        explain(&program, errno)
    }
}

/// Whether the container's user may execute what stands at `path`.
fn check(path: &Path) -> Result<(), StartFailure> {
    let shown = path.display();
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            Err(StartFailure::cannot_execute(format!("`{shown}` is a directory, expected a program")))
        }
        Ok(metadata) if !metadata.is_file() => {
            Err(StartFailure::cannot_execute(format!("`{shown}` is not a regular file, expected a program")))
        }
        Ok(_) => match faccessat(rustix::fs::CWD, path, AccessFlags::X_OK, AtFlags::AT_EACCESS) {
            Ok(()) => Ok(()),
            Err(_) => Err(StartFailure::cannot_execute(format!(
                "`{shown}` is not executable for the container's user\nhint: `chmod +x` it in the image, or run it through its interpreter"
            ))),
        },
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Err(StartFailure::cannot_execute(format!("`{shown}` is out of reach for the container's user")))
        }
        Err(_) => Err(StartFailure::not_found(format!("`{shown}` does not exist in the container"))),
    }
}

/// Says what an errno of execve(2) means for this program.
fn explain(program: &Path, errno: Errno) -> StartFailure {
    let shown = program.display();
    match errno {
        Errno::ENOENT | Errno::ELOOP => {
            let interpreter = interpreter(program).map_or_else(
                || "its dynamic loader is not in the image".to_owned(),
                |path| format!("its interpreter `{path}` is not in the image"),
            );
            StartFailure::not_found(format!("`{shown}` cannot be executed: {interpreter}"))
        }
        Errno::ENOEXEC => StartFailure::cannot_execute(format!(
            "`{shown}` cannot be executed: exec format error\nhint: it is built for another architecture, or a script without a `#!` line"
        )),
        Errno::E2BIG => StartFailure::cannot_execute(
            "the arguments and the environment are too long together\nhint: pass large values in a file".to_owned(),
        ),
        other => StartFailure::cannot_execute(format!("`{shown}` cannot be executed: {}", other.desc())),
    }
}

/// The interpreter that a script names in its first line.
fn interpreter(program: &Path) -> Option<String> {
    let mut head = [0; 256];
    let read = File::open(program).ok()?.read(&mut head).ok()?;
    let line = head[..read].strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let word = line.trim_ascii().split(|byte| *byte == b' ').next()?;
    Some(OsStr::from_bytes(word).to_string_lossy().into_owned())
}

/// The supervisor's end of the pipe.
#[derive(Debug)]
pub struct Reporter {
    read: File,
}

/// The container's end: a bare number, because it must survive two forks inside libcontainer; init marks it
/// close-on-exec together with everything else above standard error.
#[derive(Debug, Clone, Copy)]
pub(super) struct Report(RawFd);

impl Reporter {
    /// A fresh pipe; the second value is the container's end, to be dropped in the supervisor once the container is made.
    pub(super) fn new() -> nix::Result<(Self, OwnedFd)> {
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        Ok((Self { read: File::from(read) }, write))
    }

    /// Waits until the workload has started (`None`) or failed to. Every holder of the other end must be gone by then.
    #[must_use]
    pub fn outcome(self) -> Option<StartFailure> {
        let mut bytes = Vec::new();
        self.read.take(MAX_REPORT_BYTES).read_to_end(&mut bytes).ok()?;
        if bytes.is_empty() {
            return None;
        }
        let parsed = serde_json::from_slice(&bytes);
        Some(parsed.unwrap_or_else(|_| StartFailure::ours("the container's init sent a garbled report")))
    }
}

/// Readable when the outcome is there.
impl AsFd for Reporter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }
}

impl Report {
    pub(super) fn new(write: &OwnedFd) -> Self {
        Self(write.as_raw_fd())
    }

    pub(super) fn send(self, failure: &StartFailure) {
        let json = serde_json::to_vec(failure).unwrap_or_default();
        // A lost report shows as an init that ended early, which the supervisor tells as such.
        drop(sys::write_raw(self.0, &json));
    }

    /// Ties a process to the supervisor that is not its child yet, until it executes something.
    pub(super) fn end_with_supervisor(self) {
        // Where a filter does not permit it the next command finds what is left.
        drop(sys::exit_with_reader(self.0));
    }

    /// Ties the process to the supervisor: when that dies, the kernel kills this one. Told by the closed pipe if it is
    /// dead already, since the signal only comes for a death that is still ahead.
    pub(super) fn die_with_supervisor(self) {
        let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
        if sys::reader_is_gone(self.0) {
            sys::exit_now(137);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(arguments: &[&str], path: &str) -> Workload {
        Workload::new(arguments.iter().map(ToString::to_string).collect(), vec![format!("PATH={path}")])
    }

    #[test]
    fn finds_programs_as_a_shell_does() {
        assert_eq!(workload(&["sh"], "/nowhere:/bin").find().unwrap(), Path::new("/bin/sh"));
        assert_eq!(workload(&["/bin/sh"], "").find().unwrap(), Path::new("/bin/sh"));
    }

    #[test]
    fn says_why_not() {
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().join("plain");
        std::fs::write(&plain, "x").unwrap();
        let dir = dir.path().to_str().unwrap();
        for (arguments, path, code, words) in [
            (vec!["nothing"], "/bin", 127, "looked in /bin"),
            (vec!["/no/such"], "/bin", 127, "does not exist"),
            (vec![""], "/bin", 127, "empty"),
            (vec!["/etc"], "", 126, "is a directory"),
            (vec!["/dev/null"], "", 126, "not a regular file"),
            (vec!["plain"], dir, 126, "not executable"),
        ] {
            let failure = workload(&arguments, path).find().unwrap_err();
            assert_eq!(failure.code, code, "{failure:?}");
            assert!(failure.message.contains(words), "{failure:?}");
        }
    }

    #[test]
    fn a_script_names_its_missing_interpreter() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("script");
        std::fs::write(&script, "#!/no/such/python3 -u\nprint()\n").unwrap();
        let failure = explain(&script, Errno::ENOENT);
        assert!(failure.message.contains("`/no/such/python3`"), "{failure:?}");
        assert_eq!(explain(&script, Errno::ENOEXEC).code, 126);
    }
}
