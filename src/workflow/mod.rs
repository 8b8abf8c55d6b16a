//! Workflow files: found ([`find`]), parsed ([`mod@file`]), one workflow of them checked ([`plan`]) and
//! made into a request to the engine ([`run`]).
//!
//! `file`, `plan` and `run` do no I/O. Everything that is wrong in a file is a [`Mistake`] with its place.

pub mod file;
pub mod find;
pub mod plan;
pub mod run;

mod commands;
mod fields;
mod mistake;
mod source;
mod yaml;

pub use mistake::{Mistake, Problem};
pub use source::{At, Source, Span, Text};
