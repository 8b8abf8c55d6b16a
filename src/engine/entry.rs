//! The processes that our program plays beside its own part, told apart by the name that they were started under.

use std::ffi::OsString;
use std::process::ExitCode;

use super::reaper::{REAPER_ARGV0, reaper_entry};
use crate::artifact::{UPLOADER_ARGV0, uploader_entry};
use crate::gpu::{NVML_ARGV0, nvml_entry};
use crate::supervisor::exec::{EXEC_ARGV0, exec_entry};
use crate::supervisor::{self, ARGV0};
use crate::sys;

/// All of them.
const NAMES: [&str; 5] = [ARGV0, EXEC_ARGV0, UPLOADER_ARGV0, REAPER_ARGV0, NVML_ARGV0];

/// Takes over a process that the engine has started from this program; for the first line of `main`.
///
/// A run lives in a process of its own, and so does some other work: this very program, executed again under another name
/// (`dockless-supervisor` and the like). `arguments` are all that the process was started with, its name included:
/// [`std::env::args_os`]. With `Some` it was such a process, its work is done, and `main` returns the code. With `None` it
/// is the program itself.
///
/// It must be called before any thread is started, so not below `#[tokio::main]`: the supervisor forks, which a process with
/// threads cannot do safely. A helper with threads ends its run with exit code 125 and says why. A program that never calls it
/// cannot open an engine ([`EngineError::NotHandedOver`](super::EngineError::NotHandedOver)), as each helper would be that
/// program once more. Helpers get an empty environment, so the dynamic linker must find the program's libraries without
/// `LD_LIBRARY_PATH`.
///
/// ```no_run
/// use std::process::ExitCode;
///
/// fn main() -> ExitCode {
///     if let Some(code) = dockless::engine::entry(std::env::args_os()) {
///         return code;
///     }
///     // Here the program begins.
///     ExitCode::SUCCESS
/// }
/// ```
#[must_use = "a process that was taken over ends with this code"]
pub fn entry(arguments: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    sys::permit_helpers();
    let mut arguments = arguments.into_iter();
    let argv0 = arguments.next();
    let argv0 = argv0.as_deref();
    let taken = match argv0.and_then(|name| name.to_str()) {
        Some(ARGV0) => supervisor::entry(argv0),
        Some(EXEC_ARGV0) => exec_entry(argv0),
        Some(UPLOADER_ARGV0) => uploader_entry(argv0),
        Some(REAPER_ARGV0) => reaper_entry(argv0, arguments),
        Some(NVML_ARGV0) => nvml_entry(argv0, arguments),
        _ => None,
    };
    taken.or_else(refuse_lost_helper)
}

/// A helper whose arguments were not handed over as they were must not go on as the program.
fn refuse_lost_helper() -> Option<ExitCode> {
    let name = sys::own_name()?;
    NAMES.iter().any(|helper| name == *helper).then_some(ExitCode::FAILURE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_any_name_is_itself() {
        for name in ["dockless", "scheduler", "/usr/bin/dockless-agent", "", "dockless-supervisor2"] {
            assert!(entry([OsString::from(name), "dockless-supervisor".into()]).is_none(), "{name}");
        }
        assert!(entry([]).is_none());
        assert!(sys::own_program().is_ok());
    }

    #[test]
    fn helpers_are_known_by_their_names() {
        // Without the arguments that a reaper is started with, it ends at once.
        assert!(entry(["dockless-reaper".into()]).is_some());
        assert!(entry(["dockless-nvml".into()]).is_some());
    }
}
