//! dockless: a daemonless container executor.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod image;
pub mod registry;
pub mod store;
pub mod sys;
