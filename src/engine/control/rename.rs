//! A run under another name, whether it goes on or not.

use super::super::{Engine, EngineError, Order};
use super::ControlError;
use crate::store::{RunDir, RunName};
use crate::supervisor::{RenameError, hold_unused, rename_run};

impl Engine {
    /// Gives a run the name `to`, which must be free: of one that goes on through its supervisor. `on_wait` is told who is
    /// waited for.
    ///
    /// # Errors
    /// [`ControlError::Rename`] and [`ControlError::Refused`]; the run has its old name then.
    pub async fn rename(
        &self,
        run: &RunDir,
        to: &RunName,
        mut on_wait: impl FnMut(Option<u32>),
    ) -> Result<(), EngineError> {
        let record = run.record()?;
        if record.state.is_final() || !run.is_live() {
            return Ok(rename_run(&self.store, run, to, on_wait).map_err(ControlError::from)?);
        }
        if record.name == *to {
            return Err(ControlError::from(RenameError::Same(record.name)).into());
        }
        let _unused = hold_unused(&self.store, &record.name, &mut on_wait)?;
        self.give_order(run, "rename", &Order::Rename { to: to.clone() }).await
    }
}
