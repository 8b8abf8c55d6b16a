//! What several test binaries share: images made by code, and a registry that can misbehave.
#![allow(dead_code, reason = "each test binary uses its own part of it")]

pub(crate) mod driver;
pub(crate) mod env;
pub(crate) mod examples;
mod http;
pub(crate) mod image;
pub(crate) mod pty;
pub(crate) mod registry;
pub(crate) mod s3;
pub(crate) mod tracer;
