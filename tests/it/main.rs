//! Tests that need no privileges, in one binary.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod cli;
mod gpu_discover;
mod gpu_lease;
mod json;
mod kept;
mod logs;
mod pull;
mod schema;
#[path = "../support/mod.rs"]
mod support;
mod table;
mod tidy;
mod transport;
mod workflow;
