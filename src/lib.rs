//! dockless: a daemonless container executor.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod artifact;
pub mod cli;
pub mod container;
pub mod engine;
pub mod image;
pub mod registry;
pub mod rootfs;
pub mod spec;
pub mod store;
pub mod supervisor;
pub mod sys;
pub mod words;
pub mod workflow;
