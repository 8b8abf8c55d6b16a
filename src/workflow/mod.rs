//! Workflow files: found ([`find`]), parsed ([`mod@file`]), one workflow of them checked ([`plan`]) and made into a
//! request to the engine ([`run`]). [`check`] looks at all of them at once, [`schema`] describes them to editors.
//!
//! `check`, `file`, `plan`, `run` and `schema` do no I/O. Everything that is wrong in a file is a [`Mistake`] with its place.

pub mod check;
pub mod file;
pub mod find;
pub mod plan;
pub mod run;
pub mod schema;

mod commands;
mod fields;
mod mistake;
mod source;
#[cfg(test)]
mod tests;
mod yaml;

pub use mistake::{Mistake, Problem};
pub use source::{At, Source, Span, Text};
