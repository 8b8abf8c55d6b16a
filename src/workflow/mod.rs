//! Workflow files: found ([`find`]), parsed ([`mod@file`]), and one workflow of them checked and made ready to run ([`plan`]).
//!
//! `file` and `plan` do no I/O. Everything that is wrong in a file is a [`Mistake`] with its place.

pub mod file;
pub mod find;
pub mod plan;

mod commands;
mod fields;
mod mistake;
mod source;
mod yaml;

pub use mistake::{Mistake, Problem};
pub use source::{At, Source, Span, Text};
