//! dockless: a daemonless container executor.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod container;
pub mod image;
pub mod spec;
pub mod store;
pub mod sys;
pub mod words;
