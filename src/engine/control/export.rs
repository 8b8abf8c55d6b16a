//! The root file system of a run as a tar.

use std::io::Write;

use super::super::{Engine, EngineError};
use super::ControlError;
use crate::rootfs::{Layers, export};
use crate::store::RunDir;

impl Engine {
    /// Writes what the container has in its root file system: without what is mounted in it, and without `/proc`, `/sys` and
    /// `/dev`. The run goes on, or was kept with its writable layer.
    ///
    /// Nothing of the container's own view is entered: its layers are read where they are.
    ///
    /// # Errors
    /// [`ControlError::NoRootFs`] when the writable layer is gone.
    pub fn export(&self, run: &RunDir, out: &mut dyn Write) -> Result<(), EngineError> {
        // The layers stay meanwhile.
        let _kept = self.store.shared()?;
        let record = run.record()?;
        let (upper, copy) = (run.path().join("upper"), run.path().join("rootfs"));
        let layers = match record.rootfs.as_str() {
            "overlay" if upper.is_dir() => Layers::load(&self.store, &record.layers)?.below(upper),
            "copy" if copy.is_dir() => Layers::from_paths(vec![copy.clone()], Some(copy)),
            _ => return Err(ControlError::NoRootFs { run: record.name, state: record.state }.into()),
        };
        Ok(export(&layers, out)?)
    }
}
