//! dockless: a daemonless container executor.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod image;
pub mod rootfs;
pub mod store;
pub mod sys;
