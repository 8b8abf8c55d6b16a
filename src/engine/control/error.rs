//! Why a run does not do what is asked of it.

use crate::store::{RunName, RunState};
use crate::supervisor::RenameError;

/// What a run, or its supervisor, or the kernel, says no to.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Only a run that goes on can be asked for anything.
    #[error("run `{run}` is not running: {how}")]
    NotRunning {
        /// The run.
        run: RunName,
        /// How it stands.
        how: String,
    },
    /// Nothing is left to be exported.
    #[error(
        "there is no root file system of run `{run}` (`{state}`)\nhint: `dockless run --keep` keeps the writable layer of an ended run"
    )]
    NoRootFs {
        /// The run.
        run: RunName,
        /// How it stands.
        state: RunState,
    },
    /// A run keeps its name.
    #[error(transparent)]
    Rename(#[from] RenameError),
    /// The supervisor, or the kernel, says no.
    #[error("cannot {what} run `{run}`: {why}")]
    Refused {
        /// The run.
        run: RunName,
        /// What was asked for: `pause`.
        what: &'static str,
        /// Why not.
        why: String,
    },
}
