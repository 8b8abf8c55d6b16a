//! What others may change of a run that goes on: whether it stands still, and its limits. The supervisor alone writes the
//! record, so that all of it comes here.

use super::rename::live::Named;
use crate::artifact::Prepared;
use crate::container::{Cgroup, LimitChange};
use crate::image::ByteSize;
use crate::store::{RunDir, RunName, RunRecord, RunState, Store};
use crate::words::describe;

/// The parts of a run that change while it goes on.
pub(super) struct LiveRun<'a> {
    /// Where its record is.
    pub(super) run: &'a mut RunDir,
    /// What the record says.
    pub(super) record: &'a mut RunRecord,
    /// What it saves at its end.
    pub(super) artifacts: &'a mut Vec<Prepared>,
    /// For the exit report.
    pub(super) memory_limit: &'a mut Option<ByteSize>,
    /// All that was changed, for the containers to come.
    pub(super) changes: &'a mut LimitChange,
    /// Its processes and their limits.
    pub(super) cgroup: &'a Cgroup,
}

impl LiveRun<'_> {
    /// Stops every process where it is.
    pub(super) fn pause(&mut self) -> Result<(), String> {
        if self.record.state == RunState::Paused {
            return Err("it is paused already".to_owned());
        }
        self.cgroup.freeze().map_err(|error| describe(&error))?;
        self.note(RunState::Paused)
    }

    /// Lets them go on.
    pub(super) fn unpause(&mut self) -> Result<(), String> {
        if self.record.state != RunState::Paused {
            return Err("it is not paused".to_owned());
        }
        self.cgroup.thaw();
        self.note(RunState::Running)
    }

    /// Lets a paused run go on, whoever paused it: it has been sent a signal.
    pub(super) fn thaw(&mut self) {
        if self.record.state == RunState::Paused {
            self.cgroup.thaw();
            drop(self.note(RunState::Running));
        }
    }

    /// Lets everything go on that stands still, also in cgroups that the workload has made itself: it is to die.
    pub(super) fn thaw_for_death(&mut self) {
        self.thaw();
        self.cgroup.thaw_all();
    }

    /// Changes limits: all of them, or none.
    pub(super) fn update(&mut self, change: &LimitChange) -> Result<(), String> {
        self.cgroup.change_limits(change).map_err(|error| describe(&error))?;
        self.changes.add(change);
        change.note_in(&mut self.record.limits);
        *self.memory_limit = change.memory.map(ByteSize).or(*self.memory_limit);
        self.write()
    }

    /// Nobody stays with it any more. A record that cannot be written now is written at the end.
    pub(super) fn detach(&mut self) {
        self.record.detached = true;
        drop(self.write());
    }

    /// Gives it another name. What goes wrong after the middle is told, and has the new name.
    pub(super) fn rename(&mut self, to: &RunName) -> Result<(), String> {
        let root = self.run.path().ancestors().nth(2).unwrap_or(self.run.path());
        let store = Store::at(root.to_owned());
        let mut named = Named { store: &store, run: self.run, record: self.record, artifacts: self.artifacts };
        named.rename(to).map_err(|error| describe(&error))
    }

    fn note(&mut self, state: RunState) -> Result<(), String> {
        self.record.state = state;
        self.write()
    }

    pub(super) fn write(&self) -> Result<(), String> {
        self.run.write_passing_record(self.record).map_err(|error| format!("it is done, but {}", describe(&error)))
    }
}
