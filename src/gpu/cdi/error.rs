//! Why files of the interface cannot be used, and why a device cannot be given.

use std::path::PathBuf;

use super::name::{NameError, QualifiedName};
use crate::gpu::node::NodeProblem;
use crate::spec::{MountProblem, SpecError};

/// What is wrong with the text of a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentProblem {
    /// Not JSON, not YAML, or not of the specification's form.
    #[error("malformed: {0}")]
    Malformed(String),
    /// A version that nobody knew when this was written.
    #[error("version `{}` is unknown, expected {first} to {last}", .version.escape_debug())]
    Version {
        /// What the file says.
        version: String,
        /// The oldest that is read.
        first: &'static str,
        /// The newest.
        last: &'static str,
    },
    /// Something that the version did not have yet.
    #[error("{feature} came with version {required}, but `cdiVersion` is `{declared}`")]
    NewerFeature {
        /// In words.
        feature: &'static str,
        /// The first version that has it.
        required: &'static str,
        /// What the file says.
        declared: String,
    },
    /// A malformed name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Nothing in it.
    #[error("it describes no device")]
    NoDevices,
    /// Two devices of one name.
    #[error("it describes the device `{0}` twice")]
    DuplicateDevice(String),
    /// A device that changes nothing.
    #[error("device `{0}` has no edits")]
    EmptyDevice(String),
}

/// Why a device cannot be given.
#[derive(Debug, thiserror::Error)]
pub enum CdiError {
    /// Nobody describes it.
    #[error("there is no device `{name}`{known}")]
    Unknown {
        /// What was asked for.
        name: QualifiedName,
        /// Which there are, and which was meant, in words.
        known: String,
    },
    /// Two files of one directory describe it.
    #[error("device `{name}` is described by several files: {}\nhint: remove all but one", list(.files))]
    Conflict {
        /// What was asked for.
        name: QualifiedName,
        /// Which files.
        files: Vec<PathBuf>,
    },
    /// What the file asks for cannot be done.
    #[error("device `{name}` of `{}` cannot be used: {problem}", .file.display())]
    Edit {
        /// What was asked for.
        name: QualifiedName,
        /// Who describes it.
        file: PathBuf,
        /// What cannot be done.
        problem: Box<EditProblem>,
    },
}

fn list(files: &[PathBuf]) -> String {
    files.iter().map(|file| format!("`{}`", file.display())).collect::<Vec<_>>().join(", ")
}

/// An edit that cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum EditProblem {
    /// A variable without name or with a NUL byte.
    #[error("`env` holds `{}`, expected `KEY=VALUE`", .0.escape_debug())]
    Env(String),
    /// A path that cannot be one.
    #[error("{what} `{}` {problem}", .path.escape_debug())]
    Path {
        /// `containerPath`, ….
        what: &'static str,
        /// The path.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A device node that is not there.
    #[error(transparent)]
    Node(#[from] NodeProblem),
    /// A node of another type than the file says.
    #[error("`{}` is a {found} device, but the file says type `{}`", .path.display(), .declared.escape_debug())]
    NodeType {
        /// On this machine.
        path: PathBuf,
        /// `character` or `block`.
        found: &'static str,
        /// What the file says.
        declared: String,
    },
    /// A kind of node that is none of a device.
    #[error("`{}` has type `{}`, expected `c`, `u` or `b`", .path.escape_debug(), .declared.escape_debug())]
    UnknownNodeType {
        /// In the container.
        path: String,
        /// What the file says.
        declared: String,
    },
    /// Permissions that there are not.
    #[error("`permissions` of `{}` are `{}`, expected some of `r`, `w` and `m`, or `none`", .path.escape_debug(), .permissions.escape_debug())]
    Permissions {
        /// In the container.
        path: String,
        /// What the file says.
        permissions: String,
    },
    /// A source that is not there.
    #[error(
        "`{}`, which is to be mounted, cannot be found{}\nhint: the file may be older than the driver; have it written anew",
        .path.escape_debug(), reason(.source)
    )]
    Source {
        /// On this machine.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A mount that the runtime does not make.
    #[error("the mount on `{}` cannot be made: {problem}", .destination.escape_debug())]
    Mount {
        /// In the container.
        destination: String,
        /// Why not.
        problem: MountProblem,
    },
    /// The same, said by the flag's parser.
    #[error(transparent)]
    Tmpfs(#[from] SpecError),
    /// A group that is none.
    #[error("group {0} is above the highest group id, {most}", most = crate::spec::MAX_ID)]
    Group(u32),
    /// More than any device needs.
    #[error("there are more than {most} `{what}`")]
    TooMany {
        /// Which of the edits.
        what: &'static str,
        /// How many are taken.
        most: usize,
    },
    /// What the runtime could do and we do not.
    #[error("`{0}` is not supported yet")]
    Unsupported(&'static str),
    /// A hook that runs at no time.
    #[error("hook `{}` runs at `{}`, expected `createRuntime`, `createContainer`, `prestart`, `poststart` or `poststop`{hint}", .path.escape_debug(), .stage.escape_debug())]
    Stage {
        /// The program.
        path: String,
        /// When it would run.
        stage: String,
        /// A second line, or nothing.
        hint: &'static str,
    },
    /// Seconds that are none.
    #[error("hook `{}` has the timeout {seconds}, expected a number of seconds above 0", .path.escape_debug())]
    Timeout {
        /// The program.
        path: String,
        /// What the file says.
        seconds: i64,
    },
    /// A program that is not there, or that others could have changed.
    #[error("hook `{}` is not run: {reason}", .path.escape_debug())]
    Program {
        /// The program.
        path: String,
        /// Why not.
        reason: String,
    },
    /// NVIDIA's own hook with arguments that make no sense.
    #[error("hook `{command}` has a bad argument: {problem}")]
    Argument {
        /// `create-symlinks`, ….
        command: String,
        /// In words.
        problem: String,
    },
}

fn reason(source: &std::io::Error) -> String {
    if source.kind() == std::io::ErrorKind::NotFound { String::new() } else { format!(": {source}") }
}
