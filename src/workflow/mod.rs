//! Workflow files: found ([`find`]), parsed ([`mod@file`]), one workflow of them filled in ([`interpolate`]), changed by
//! flags ([`overrides`]), checked ([`plan`]) and made into a request to the engine ([`run`]) or into text ([`show`]).
//! [`check`] looks at all of them at once, [`schema`] describes them to editors.
//!
//! All but `find` do no I/O. Everything that is wrong in a file is a [`Mistake`] with its place.

pub mod check;
pub mod deps;
pub mod file;
pub mod find;
pub mod interpolate;
pub mod overrides;
pub mod plan;
pub mod run;
pub mod schema;
pub mod show;

mod commands;
mod fields;
mod mistake;
mod numbers;
mod program;
mod source;
#[cfg(test)]
mod tests;
mod yaml;

pub use mistake::{Mistake, Problem};
pub use source::{At, Source, Span, Text};
