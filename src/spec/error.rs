//! Why a flag is not understood or a specification cannot be built. Each message names the flag or file that is to blame.

use std::fmt;
use std::path::PathBuf;

use oci_spec::OciSpecError;

use super::flag_error::FlagProblem;
use super::users::MapProblem;
use crate::image::{ByteSize, ByteSizeError};

/// Where a setting came from, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A flag of the command line (or the workflow key that stands for it).
    Flag(&'static str),
    /// The image's configuration.
    Image,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "`{flag}`"),
            Self::Image => f.write_str("the image"),
        }
    }
}

/// Everything that can be wrong with what the user or the image asked for.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// Neither image nor user names a program.
    #[error(
        "there is no command to run: the image has no entrypoint and no default command, and none was given\nhint: name one after the image, e.g. `sh`"
    )]
    NoCommand,
    /// A string that becomes an argument of a system call holds a NUL.
    #[error("{what} holds a NUL byte: `{}`", .text.escape_debug())]
    Nul {
        /// Which string.
        what: String,
        /// The string.
        text: String,
    },
    /// Not a number of CPUs.
    #[error("number of CPUs `{0}` is malformed, expected a decimal number, e.g. `0.5` or `2`")]
    CpusMalformed(String),
    /// Less than the kernel can enforce.
    #[error("number of CPUs `{0}` is too small, the least is 0.01")]
    CpusTooSmall(String),
    /// More than there are.
    #[error(
        "number of CPUs `{asked}` is out of range, expected 0.01 to {available}.00, as this machine has {available}"
    )]
    CpusRange {
        /// What was asked for.
        asked: String,
        /// What there is.
        available: u32,
    },
    /// Not a size.
    #[error(transparent)]
    Size(#[from] ByteSizeError),
    /// Below docker's floor: the runtime itself would be killed before the workload starts.
    #[error("memory limit is {0}, the least is {least}\nhint: a plain number counts bytes, `64m` is 64 MiB", least = super::MemoryLimit::LEAST)]
    MemoryTooSmall(ByteSize),
    /// The kernel counts in a signed 64-bit number.
    #[error("memory limit is {0}, which is more than the kernel can count")]
    MemoryTooLarge(ByteSize),
    /// A flag of limits or security is wrong.
    #[error("`{flag} {text}`: {problem}")]
    Flag {
        /// The flag.
        flag: &'static str,
        /// Its value.
        text: String,
        /// What is wrong with it.
        problem: Box<FlagProblem>,
    },
    /// `-v`, `--mount` or `--tmpfs` is wrong.
    #[error("`{flag} {text}`: {problem}")]
    Mount {
        /// The flag.
        flag: &'static str,
        /// Its value.
        text: String,
        /// What is wrong with it.
        problem: MountProblem,
    },
    /// Two mounts at one place.
    #[error("two mounts have the destination `{}`", .0.display())]
    DuplicateMount(PathBuf),
    /// The `user[:group]` string has another shape.
    #[error("user `{text}` of {origin} is malformed, expected `user[:group]`, names or numbers")]
    UserMalformed {
        /// The whole string.
        text: String,
        /// Who said so.
        origin: Origin,
    },
    /// The name does not stand in the image's passwd.
    #[error(
        "user `{name}` of {origin} is not in the image's /etc/passwd{missing}\nhint: give a number, e.g. `--user 1000`, or a name that the image has"
    )]
    UserUnknown {
        /// The name.
        name: String,
        /// Who said so.
        origin: Origin,
        /// Says so when the image has no such file at all.
        missing: &'static str,
    },
    /// The name does not stand in the image's group file.
    #[error(
        "group `{name}` of {origin} is not in the image's /etc/group{missing}\nhint: give a number, e.g. `--user 1000:1000`, or a name that the image has"
    )]
    GroupUnknown {
        /// The name.
        name: String,
        /// Who said so.
        origin: Origin,
        /// Says so when the image has no such file at all.
        missing: &'static str,
    },
    /// A number that does not fit wraps around to root elsewhere (CVE-2024-40635).
    #[error("{what} id `{text}` of {origin} is too large, the largest is {largest}", largest = super::MAX_ID)]
    IdTooLarge {
        /// `user` or `group`.
        what: &'static str,
        /// The number as it stands.
        text: String,
        /// Who said so.
        origin: Origin,
    },
    /// An identity file that no real image has.
    #[error("the image's {path} has {bytes} bytes, the most that is read is {most}", most = super::MAX_IDENTITY_FILE_BYTES)]
    IdentityFileTooLarge {
        /// Path in the image.
        path: &'static str,
        /// Its size.
        bytes: usize,
    },
    /// More than `setgroups` takes.
    #[error("user `{user}` is in {count} groups of the image's /etc/group, the kernel takes {most}", most = super::MAX_GROUPS)]
    TooManyGroups {
        /// The user.
        user: String,
        /// How many.
        count: usize,
    },
    /// A working directory that is not absolute.
    #[error("working directory `{text}` of {origin} is not absolute\nhint: `--workdir /{text}`")]
    WorkingDirRelative {
        /// The directory.
        text: String,
        /// Who said so.
        origin: Origin,
    },
    /// `-e` without a name.
    #[error("environment setting `{0}` has no name, expected `KEY=VALUE` or `KEY`")]
    EnvName(String),
    /// A line of an `--env-file`.
    #[error("`--env-file` {}, line {line}: {problem}", .path.display())]
    EnvFile {
        /// The file.
        path: PathBuf,
        /// The line, counted from one.
        line: usize,
        /// What is wrong with it.
        problem: EnvFileProblem,
    },
    /// Not a host name.
    #[error(
        "host name `{0}` is malformed, expected up to 63 letters, digits, `-` and `.`, starting and ending with a letter or digit"
    )]
    Hostname(String),
    /// Not a network mode.
    #[error("network `{0}` is not supported, expected `host`, `none`, `private` or `container:RUN`")]
    Network(String),
    /// Not a mode of a namespace.
    #[error("`{flag} {text}` is unknown, expected {expected}")]
    Mode {
        /// The flag.
        flag: &'static str,
        /// Its value.
        text: String,
        /// The ones that there are.
        expected: &'static str,
    },
    /// A way of choosing a container's users that is not there.
    #[error("`{0}` is not supported\nhint: `--userns auto`, or `--uidmap 0:100000:65536`")]
    UserMapping(String),
    /// A kernel that cannot show a root file system with other owners.
    #[error(
        "`--userns` or `--uidmap` needs Linux 5.19 or newer, found {}.{}\nhint: `--user` runs the workload as another user",
        .kernel.0, .kernel.1
    )]
    UsersKernel {
        /// The machine's.
        kernel: (u32, u32),
    },
    /// A line that maps users.
    #[error("`{flag} {}`: {problem}", .text.escape_debug())]
    IdMap {
        /// The flag.
        flag: &'static str,
        /// Its value.
        text: String,
        /// What is wrong.
        problem: MapProblem,
    },
    /// Somebody whom the container does not have.
    #[error("{what} is not mapped: the container has {kind} {has}\nhint: map it with `{flag}`, or choose another")]
    NotMapped {
        /// Who.
        what: String,
        /// `users` or `groups`.
        kind: &'static str,
        /// Which there are.
        has: String,
        /// What would map it.
        flag: &'static str,
    },
    /// Two settings that cannot both be.
    #[error("`{0}` and `{1}` exclude each other: {2}")]
    Conflict(String, String, &'static str),
    /// A flag about looking names up.
    #[error("`{flag} {}`: expected {expected}", .text.escape_debug())]
    Lookup {
        /// The flag.
        flag: &'static str,
        /// Its value.
        text: String,
        /// What would do.
        expected: &'static str,
    },
    /// A container that cannot reach the machine it runs on.
    #[error(
        "`--add-host {name}:host-gateway`: with `--network {network}` no way leads to this machine\nhint: give an address"
    )]
    NoGateway {
        /// The name.
        name: String,
        /// The network.
        network: String,
    },
    /// The kernel cannot do what a mount needs.
    #[error("the mount at `{}` cannot have propagation `{propagation}`: this kernel is {}.{}, expected 5.15 or newer", .destination.display(), .kernel.0, .kernel.1)]
    PropagationKernel {
        /// Where.
        destination: PathBuf,
        /// What was asked for.
        propagation: &'static str,
        /// What there is.
        kernel: (u32, u32),
    },
    /// Not a signal.
    #[error("signal `{0}` is unknown, expected a name like `SIGTERM`, `TERM`, `SIGRTMIN+3`, or a number from 1 to 64")]
    Signal(String),
    /// There is no system call table for the machine.
    #[error("there is no system call filter for the architecture `{0}`")]
    Architecture(String),
    /// The crate that holds the OCI types refused a value.
    #[error("the runtime specification cannot be put together")]
    Assemble(#[from] OciSpecError),
}

impl SpecError {
    /// A flag whose value does not do.
    pub(super) fn flag(flag: &'static str, text: &str, problem: FlagProblem) -> Self {
        Self::Flag { flag, text: text.escape_debug().to_string(), problem: Box::new(problem) }
    }
}

/// What is wrong with one mount flag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MountProblem {
    /// Not of the flag's form at all.
    #[error("expected `{0}`")]
    Shape(&'static str),
    /// Only a destination.
    #[error(
        "volumes without a source are not supported yet\nhint: give a directory of this machine, `-v DIRECTORY:{0}`, or `--tmpfs {0}`"
    )]
    AnonymousVolume(String),
    /// A name where a path belongs.
    #[error("`{0}` names a volume, which is not supported yet\nhint: for a directory give a path, `./{0}` or `/…/{0}`")]
    NamedVolume(String),
    /// A source that starts neither with `/` nor with `.`.
    #[error("the source `{0}` is not absolute")]
    SourceRelative(String),
    /// A destination that is not absolute.
    #[error("the destination `{0}` is not absolute")]
    DestinationRelative(String),
    /// The root itself.
    #[error("the destination is the root of the container")]
    DestinationRoot,
    /// A place that the runtime fills.
    #[error("the destination `{0}` belongs to the runtime, nothing can be mounted there")]
    DestinationReserved(String),
    /// A NUL byte.
    #[error("a path holds a NUL byte")]
    Nul,
    /// An option or key that has no meaning.
    #[error("`{option}` is unknown, expected {expected}")]
    Unknown {
        /// The option.
        option: String,
        /// The ones that there are.
        expected: &'static str,
    },
    /// An option that docker has and we do not.
    #[error("`{0}` is not supported yet")]
    Unsupported(String),
    /// Two options that exclude each other.
    #[error("`{0}` and `{1}` exclude each other")]
    Conflict(String, String),
    /// An option whose value is wrong.
    #[error("`{option}` has a bad value, expected {expected}")]
    Value {
        /// `key=value`.
        option: String,
        /// What would do.
        expected: &'static str,
    },
    /// A key that is required.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// A source of `type=image` that is not the name of an image.
    #[error("the image `{0}` is malformed, expected a name like `debian:12` or `host/name@sha256:…`")]
    Image(String),
    /// Quotes that do not pair.
    #[error("a quote is not closed, or stands inside a field")]
    Quotes,
}

/// What is wrong with one line of an `--env-file`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvFileProblem {
    /// Not UTF-8.
    #[error("the line is not UTF-8")]
    NotUtf8,
    /// Nothing before the `=`.
    #[error("there is no name before the `=`")]
    NoName,
    /// Blanks in the name.
    #[error("the name `{0}` holds white space")]
    WhiteSpace(String),
    /// A NUL byte.
    #[error("the line holds a NUL byte")]
    Nul,
}
