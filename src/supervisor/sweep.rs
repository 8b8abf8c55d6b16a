//! Mending what a killed supervisor or a reboot left: the record gets its end, the rest is removed.

use std::path::Path;

use super::clean::clean_up;
use crate::container::{HostError, boot_id};
use crate::store::{Exit, ExitReason, RunDir, RunState, Store, StoreError, sweep_tmp};

/// What a sweep could not do. The command that swept goes on.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The store cannot be read or written.
    #[error("cannot clean up after killed processes")]
    Store(#[from] StoreError),
    /// The boot cannot be told.
    #[error("cannot read the boot id")]
    Boot(#[source] HostError),
}

/// Ends every run that says it is going on although nobody holds its lock, and empties `tmp/` of what nobody holds.
///
/// Returns a line for each thing worth telling. Cheap when there is nothing to do: only runs that have not been cleaned up
/// are looked at, however many ended ones are kept.
pub fn sweep(store: &Store, state_root: &Path) -> Result<Vec<String>, SweepError> {
    let mut told = Vec::new();
    for run in store.unfinished_runs()? {
        // Whoever holds the lock is the supervisor, or another command that sweeps this very run.
        let Some(_lock) = run.try_lock()? else { continue };
        told.extend(end(&run, state_root)?);
    }
    sweep_tmp(store)?;
    Ok(told)
}

fn end(run: &RunDir, state_root: &Path) -> Result<Vec<String>, SweepError> {
    let Ok(mut record) = run.record() else {
        // Killed before its first record: there is nothing in it that anybody could miss.
        run.clone().remove()?;
        return Ok(Vec::new());
    };
    if !record.state.is_final() {
        let boot = boot_id().map_err(SweepError::Boot)?;
        let exit = record.exit.clone().unwrap_or_else(|| lost(record.boot_id != boot));
        record.state = if exit.code == 0 { RunState::Done } else { RunState::Failed };
        record.exit = Some(exit);
        record.pid = None;
        // Artifacts that were not saved stay, and so does the run.
        record.remove &= !run.has_unsaved_artifacts();
        run.write_record(&record)?;
    }
    let mut told: Vec<String> = clean_up(run, &record, state_root);
    if run.has_unsaved_artifacts() {
        told.push(format!(
            "run `{}` ended before its artifacts were saved; they are in `{}`",
            record.name,
            run.artifacts().display()
        ));
    }
    Ok(told)
}

fn lost(rebooted: bool) -> Exit {
    let (reason, message) = if rebooted {
        (ExitReason::HostReboot, "the machine went down while it ran")
    } else {
        (ExitReason::SupervisorLost, "its supervisor was killed")
    };
    Exit {
        code: 137,
        signal: None,
        reason,
        oom_kills: 0,
        memory_peak: None,
        memory_limit: None,
        message: Some(message.to_owned()),
    }
}
