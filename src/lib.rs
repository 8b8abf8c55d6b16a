//! dockless: a daemonless container executor.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod image;
pub mod spec;
