//! dockless: a daemonless container executor.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod artifact;
pub mod image;
pub mod store;
pub mod sys;
pub mod workflow;
