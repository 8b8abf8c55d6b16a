//! Taking a run apart, by its supervisor at the end or by a later command in its place.

use std::path::Path;

use nix::mount::{MntFlags, umount2};
use nix::unistd::Pid;

use crate::container::{self, Cgroup};
use crate::store::{RunDir, RunRecord};
use crate::words::describe;

/// Kills every process of a run: all in its cgroup, and init, with which its pid namespace ends, where it has none.
pub(super) fn kill_rest(record: &RunRecord) {
    if let Ok(cgroup) = Cgroup::recorded(record.cgroup.as_ref(), &record.id) {
        cgroup.kill_all();
        if let Some((pid, start)) = record.pid.zip(record.pid_start)
            && !cgroup.mode().makes_one()
        {
            container::kill_init(Pid::from_raw(pid), start);
        }
    }
}

/// Removes what is left of one container of a run that gets another one: processes, cgroup, libcontainer's state.
pub(super) fn clear_away(record: &RunRecord, state_root: &Path) -> Result<(), String> {
    kill_rest(record);
    remove_cgroup(record)?;
    remove_state(record, state_root)
}

fn remove_cgroup(record: &RunRecord) -> Result<(), String> {
    let cgroup = Cgroup::recorded(record.cgroup.as_ref(), &record.id);
    cgroup.and_then(|cgroup| cgroup.remove()).map_err(|error| describe(&error))
}

fn remove_state(record: &RunRecord, state_root: &Path) -> Result<(), String> {
    container::remove_state(state_root, &record.id).map_err(|error| error.to_string())
}

/// Removes everything of the run that is not to stay: processes, cgroup, libcontainer's state, mounts, writable layer, and
/// the whole directory when the record says so. Goes on after a failure; returns what could not be done, in words.
///
/// A run that stays keeps its mark of being unfinished: that goes when its end is on disk.
pub(super) fn clean_up(run: &RunDir, record: &RunRecord, state_root: &Path) -> Vec<String> {
    let mut problems = Vec::new();
    let mut note = |what: &str, result: Result<(), String>| {
        if let Err(why) = result {
            problems.push(format!("{what}: {why}"));
        }
    };
    kill_rest(record);
    note("clean-up is incomplete", remove_cgroup(record));
    note("cannot remove the runtime state", remove_state(record, state_root));
    // Gone already, with the mount namespace, when this is not the supervisor itself.
    let _ = umount2(&run.path().join("rootfs"), MntFlags::MNT_DETACH);
    let removed = if record.remove { run.clone().remove() } else { run.tidy(record.keep) };
    note("cannot remove the writable layer", removed.map_err(|error| describe(&error)));
    problems
}
