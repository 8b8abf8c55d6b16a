//! What is wrong with one flag of limits or security.

use super::sysctl::Namespace;
use crate::image::ByteSizeError;

/// Why the value of a flag does not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlagProblem {
    /// Not of the flag's form at all.
    #[error("expected {0}")]
    Shape(&'static str),
    /// Not a size.
    #[error("{0}")]
    Size(#[from] ByteSizeError),
    /// A number outside of what the kernel takes.
    #[error("out of range, expected {0}")]
    Range(&'static str),
    /// A name that nothing has.
    #[error("`{name}` is unknown, expected {expected}")]
    Unknown {
        /// The name.
        name: String,
        /// Those that there are.
        expected: String,
    },
    /// Docker has it, we do not.
    #[error("not supported: {0}")]
    Unsupported(&'static str),
    /// Two flags that exclude each other.
    #[error("cannot be given together with `{0}`")]
    Conflict(&'static str),
    /// A flag that makes no sense alone.
    #[error("needs `{0}`")]
    Needs(&'static str),
    /// A soft limit above the hard one.
    #[error("the soft limit is above the hard one")]
    SoftAboveHard,
    /// Less than another flag says.
    #[error("less than `{0}`, expected as much or more: memory and swap are counted together")]
    Less(String),
    /// More than another flag says.
    #[error("more than `{0}`, expected as much or less")]
    More(String),
    /// The machine does not have that.
    #[error("not available, this machine has `{available}`")]
    NotAvailable {
        /// What it has.
        available: String,
    },
    /// Nobody here can give that capability.
    #[error("this machine does not give it: it is not in the bounding set of this process")]
    CapabilityNotGiven,
    /// A kernel parameter of the whole machine.
    #[error("not a parameter of a namespace: it would change the whole machine{hint}")]
    NotNamespaced {
        /// Advice for some, with the line break before it.
        hint: &'static str,
    },
    /// A kernel parameter of a namespace that the container shares with the machine.
    #[error("the container needs {0} of its own for that\nhint: {hint}", hint = .0.hint())]
    Namespace(Namespace),
    /// The machine has no such security module.
    #[error("{0} is not enabled on this machine\nhint: leave the option out")]
    NotEnabled(&'static str),
    /// A group that is not in the image.
    #[error("not in the image's /etc/group{missing}\nhint: give a number, or a name that the image has")]
    GroupUnknown {
        /// Says so when the image has no such file at all.
        missing: &'static str,
    },
    /// A line of a file.
    #[error("line {line}: {reason}")]
    Line {
        /// Counted from one.
        line: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A profile of system calls.
    #[error("{0}")]
    Profile(String),
}
