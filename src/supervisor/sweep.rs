//! Mending what a killed supervisor or a reboot left: the record gets its end, the rest is removed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::ARGV0;
use super::clean::{clean_up, kill_rest};
use super::life::now;
use super::rename::{RenameError, resume};
use crate::artifact::{ArtifactStore, ArtifactStoreUrl, Outcome, SaveRequest};
use crate::container::{HostError, boot_id, kill_container};
use crate::gpu::lease::forget;
use crate::network::{self, Dead};
use crate::store::{
    Exit, ExitReason, Feed, Happening, Journal, Partials, RunDir, RunRecord, RunState, Store, StoreError, sweep_tmp,
};
use crate::sys::Lock;
use crate::words::describe;

const COPY_ATTEMPTS: u32 = 200;
/// How long a download that broke off waits for somebody to go on with it.
const PARTIALS_KEPT: Duration = Duration::from_secs(24 * 60 * 60);
const COPY_PAUSE: Duration = Duration::from_millis(5);

/// What a sweep could not do. The command that swept goes on.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The store cannot be read or written.
    #[error("cannot clean up after killed processes")]
    Store(#[from] StoreError),
    /// A run cannot be given its one name.
    #[error(transparent)]
    Rename(#[from] RenameError),
    /// The boot cannot be told.
    #[error("cannot read the boot id")]
    Boot(#[source] HostError),
}

/// Ends every run that says it is going on although nobody holds its lock, and empties `tmp/` of what nobody holds.
///
/// Returns a line for each thing worth telling. Cheap when there is nothing to do: only runs that have not been cleaned up
/// are looked at, however many ended ones are kept.
///
/// `leases` is where the GPUs of the machine are leased, `network` where its addresses are.
pub fn sweep(store: &Store, state_root: &Path, leases: &Path, network: &Path) -> Result<Vec<String>, SweepError> {
    let mut told = Vec::new();
    for run in store.unfinished_runs()? {
        // Whoever holds the lock is the supervisor, or another command that sweeps this very run.
        let lock = match run.try_lock() {
            Ok(Some(lock)) => lock,
            Ok(None) => continue,
            Err(error) => {
                told.push(describe(&error));
                continue;
            }
        };
        // A run without a record has no supervisor yet, and whoever is making it waits for the lock.
        if !run.lacks_record() {
            kill_copies(&lock);
        }
        // What cannot be mended now must not keep anybody from working, least of all from freeing space.
        match end(store, &run, state_root, leases) {
            Ok(lines) => told.extend(lines),
            Err(error) => told.push(describe(&error)),
        }
    }
    if let Err(error) = sweep_tmp(store, Partials::Since(SystemTime::now() - PARTIALS_KEPT)) {
        told.push(describe(&error));
    }
    told.extend(sweep_networks(network));
    Ok(told)
}

/// Takes down the private networks of killed supervisors, of whichever store; what is left of their containers goes first.
fn sweep_networks(dir: &Path) -> Vec<String> {
    if !network::is_there_dead(dir) {
        return Vec::new();
    }
    match network::forget_dead(dir, &kill_container) {
        Ok(dead) => {
            let problem =
                |dead: Dead| Some(format!("the network of `{}` stays: {}", dead.id, describe(&dead.problem?)));
            dead.into_iter().filter_map(problem).collect()
        }
        Err(error) => vec![describe(&error)],
    }
}

fn end(store: &Store, run: &RunDir, state_root: &Path, leases: &Path) -> Result<Vec<String>, SweepError> {
    if run.lacks_record() && !run.has_unsaved_artifacts() {
        // Killed before its first record: there is nothing in it that anybody could miss.
        run.clone().remove()?;
        return Ok(Vec::new());
    }
    resume(store, run)?;
    let mut record = run.record()?;
    let mut told = Vec::new();
    let boot = boot_id().map_err(SweepError::Boot)?;
    if record.boot_id != boot {
        // A process of that number is another one.
        (record.pid, record.pid_start) = (None, None);
    }
    // Nobody may write to its artifacts any more.
    kill_rest(&record);
    if run.has_unsaved_artifacts() {
        told.extend(save_artifacts(store, run, &record));
    }
    if !record.state.is_final() {
        let exit = record.exit.clone().unwrap_or_else(|| lost(&record, record.boot_id != boot));
        record.state = RunState::after(&exit);
        tell(state_root, &record, &exit);
        record.exit = Some(exit);
        (record.pid, record.pid_start) = (None, None);
    }
    // Artifacts that were not saved stay, and so does the run.
    record.remove &= !run.has_unsaved_artifacts();
    // Space is freed before the record needs some.
    told.extend(clean_up(run, &record, state_root));
    // Nothing is left that could use its GPUs. One that was waiting has a note, and none in its record.
    told.extend(forget(leases, &record.id).err().map(|error| describe(&error)));
    if !record.remove {
        run.write_record(&record)?;
        run.finish()?;
    }
    Ok(told)
}

/// The supervisor did not come to tell it.
fn tell(state_root: &Path, record: &RunRecord, exit: &Exit) {
    let seq = Journal::last_seq(state_root, &record.id).unwrap_or_default();
    let mut feed = Feed::new(state_root, None, record.name.clone(), record.id.clone(), seq);
    feed.tell(now(), Happening::Exited { exit: Box::new(exit.clone()) });
}

/// What the supervisor did not come to. The owner is not known any more; what root wrote stays root's. Tells what stays
/// unsaved.
fn save_artifacts(store: &Store, run: &RunDir, record: &RunRecord) -> Option<String> {
    let local = match record.artifact_store.as_deref().map(str::parse) {
        None | Some(Err(_)) => store.artifacts(),
        Some(Ok(ArtifactStoreUrl::Local(directory))) => directory,
        // Nobody but the user has the keys.
        Some(Ok(ArtifactStoreUrl::S3(url))) => {
            let name = &record.name;
            return Some(format!(
                "artifacts of run `{name}` are not in `{url}` yet\nhint: `dockless artifacts save {name}` uploads them"
            ));
        }
    };
    let saved = ArtifactStore::new(local.clone()).prepared(&record.name, run.path()).and_then(|prepared| {
        ArtifactStore::new(local).save(&SaveRequest {
            run: &record.name,
            run_dir: run.path(),
            prepared: &prepared,
            outcome: Outcome::Interrupted,
            owner: None,
            saved_at: Timestamp::now(),
        })
    });
    let place = run.artifacts();
    saved
        .err()
        .map(|error| format!("artifacts of run `{}` stay in `{}`: {}", record.name, place.display(), describe(&error)))
}

/// Ends what a killed supervisor was forking that moment: copies of it that were not init yet and so were not tied to its
/// life. libcontainer's wait for each other for ever then. They are known by their name and by the lock's file, which
/// they have open, and which nobody else of that name has, because we hold the lock.
fn kill_copies(lock: &Lock) {
    let Ok(locked) = lock.file().metadata() else { return };
    let has_it_open = |process: &Path| {
        let files = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        files
            .filter_map(|file| fs::metadata(file.path()).ok())
            .any(|file| (file.dev(), file.ino()) == (locked.dev(), locked.ino()))
    };
    for _ in 0..COPY_ATTEMPTS {
        let mut found = false;
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let path = process.path();
            let is_copy = fs::read(path.join("cmdline")).is_ok_and(|words| words.starts_with(ARGV0.as_bytes()));
            if is_copy && has_it_open(&path) {
                found = true;
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        if !found {
            return;
        }
        // One that is just being forked is seen the next time.
        sleep(COPY_PAUSE);
    }
}

fn lost(record: &RunRecord, rebooted: bool) -> Exit {
    let (reason, message) = if rebooted {
        (ExitReason::HostReboot, "the machine went down while it ran")
    } else if matches!(record.state, RunState::Submitted | RunState::Pulling) {
        (ExitReason::ClientLost, "the command that had started it was killed before its workload started")
    } else {
        (ExitReason::SupervisorLost, "its supervisor was killed")
    };
    Exit { started: record.started.clone(), message: Some(message.to_owned()), ..Exit::new(137, reason) }
}
