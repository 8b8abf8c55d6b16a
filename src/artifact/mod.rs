//! a
mod path;
pub use path::{ArtifactPath, ArtifactPathError, Declared, overlap};
