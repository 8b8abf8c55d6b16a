//! The process that unlinks what was deleted, so that nobody waits for it: our binary once more, under another name.
//!
//! It holds no lock that anybody waits for, nothing of the terminal, and neither standard output nor error. Killed, it leaves
//! the rest in the trash, and the next command starts another.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use crate::store::{Emptied, Store};
use crate::sys::{Helper, own_program};

/// The name that makes our binary a reaper.
pub const REAPER_ARGV0: &str = "dockless-reaper";
/// What is unlinked on the spot, in the units of [`crate::sys::remove_some`]: some tens of milliseconds.
const AT_ONCE: u64 = 2000;

/// Frees what was thrown away: a little on the spot, much by a process of its own. Returns a line for each thing that
/// cannot be removed; with `again`, what could not be removed before is tried once more.
///
/// The caller holds no lock any more.
#[must_use = "what cannot be removed is to be told"]
pub fn dispose(store: &Store, again: bool) -> Vec<String> {
    let mut budget = AT_ONCE;
    let emptied = store.empty_trash(&mut budget, again).unwrap_or_default();
    if emptied.unfinished {
        attend(store);
    } else {
        store.lay_in_reserve();
    }
    in_words(&emptied)
}

/// Has the trash emptied if there is some and nobody is at it. Where no process can be started, the next command tries again.
pub(super) fn attend(store: &Store) {
    if store.has_trash()
        && !store.trash_is_attended()
        && let Ok(binary) = own_program()
    {
        drop(start(binary, store.root()));
    }
}

fn start(binary: &Path, root: &Path) -> io::Result<()> {
    #[expect(clippy::disallowed_methods, reason = "our own binary, as supervisors are started")]
    let mut command = Command::new(binary);
    command.arg0(REAPER_ARGV0).arg(root).env_clear().current_dir("/");
    // Nobody waits to hear of its end, and it may outlive this command.
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    drop(Helper::new(child));
    Ok(())
}

fn in_words(emptied: &Emptied) -> Vec<String> {
    let told = emptied.stuck.iter().map(|(path, error)| {
        let path = path.display();
        let hint = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                format!("\nhint: is it immutable? `chattr -R -i -a {path}` lets it go, then `dockless system prune`")
            }
            io::ErrorKind::ResourceBusy => "\nhint: is something mounted there?".to_owned(),
            _ => String::new(),
        };
        format!("cannot remove `{path}`, {error}{hint}")
    });
    told.collect()
}

/// Becomes the reaper if the process was started as one; for `main`, before any thread starts.
pub fn reaper_entry(argv0: Option<&OsStr>, mut arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    (argv0 == Some(OsStr::new(REAPER_ARGV0))).then(|| {
        let Some(root) = arguments.next() else { return ExitCode::FAILURE };
        // The terminal's Ctrl-C and its end are not for us.
        let _ = nix::unistd::setsid();
        reap(&Store::at(PathBuf::from(root)));
        ExitCode::SUCCESS
    })
}

fn reap(store: &Store) {
    // What cannot be done now is seen by the next command.
    drop(store.finish_collecting());
    let mut budget = u64::MAX;
    drop(store.empty_trash(&mut budget, false));
    store.lay_in_reserve();
}
