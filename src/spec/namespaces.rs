//! Which of the kernel's namespaces a container has to itself, which it shares with the machine, and which with another
//! run. Words and defaults are docker's.
//!
//! A namespace of another run is opened by the supervisor, which knows that the process it is taken from still is that
//! run's; the specification names the place where the supervisor puts it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::SpecError;
use super::users::Users;

/// How another run is named in a mode.
const CONTAINER: &str = "container:";
const MAX_RUN_NAME_BYTES: usize = 63;

/// The name of another run, as it was written; whether there is such a run is seen when it is joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRef(String);

impl RunRef {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads `container:RUN`; `None` for what does not start so.
    pub(super) fn in_mode(flag: &'static str, text: &str) -> Option<Result<Self, SpecError>> {
        let name = text.strip_prefix(CONTAINER)?;
        let good = !name.is_empty()
            && name.len() <= MAX_RUN_NAME_BYTES
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
        let bad = || SpecError::Mode { flag, text: text.to_owned(), expected: "the name of a run after `container:`" };
        Some(if good { Ok(Self(name.to_owned())) } else { Err(bad()) })
    }
}

impl fmt::Display for RunRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `--ipc`: semaphores, message queues, System V shared memory, and `/dev/shm`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum IpcMode {
    /// Its own; no other run may join.
    #[default]
    Private,
    /// Its own; other runs may join with `container:RUN`.
    Shareable,
    /// Its own, without `/dev/shm`.
    None,
    /// The machine's, with its `/dev/shm`.
    Host,
    /// Another run's, with its `/dev/shm`.
    Run(RunRef),
}

impl IpcMode {
    /// Whether the container gets a `/dev/shm` of its own, which a size means something for.
    #[must_use]
    pub const fn has_own_shm(&self) -> bool {
        matches!(self, Self::Private | Self::Shareable)
    }
}

impl FromStr for IpcMode {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "`private`, `shareable`, `none`, `host` or `container:RUN`";
        match text {
            "" | "private" => Ok(Self::Private),
            "shareable" => Ok(Self::Shareable),
            "none" => Ok(Self::None),
            "host" => Ok(Self::Host),
            other => {
                RunRef::in_mode("--ipc", other).unwrap_or_else(|| Err(unknown("--ipc", other, EXPECTED))).map(Self::Run)
            }
        }
    }
}

/// `--pid`: which processes are seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PidMode {
    /// Its own.
    #[default]
    Private,
    /// All of the machine.
    Host,
    /// Another run's and its own.
    Run(RunRef),
}

impl FromStr for PidMode {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "`private`, `host` or `container:RUN`";
        match text {
            "" | "private" => Ok(Self::Private),
            "host" => Ok(Self::Host),
            other => {
                RunRef::in_mode("--pid", other).unwrap_or_else(|| Err(unknown("--pid", other, EXPECTED))).map(Self::Run)
            }
        }
    }
}

/// A namespace that no other run's can stand for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OwnOrHost {
    /// The container's own.
    #[default]
    Private,
    /// The machine's.
    Host,
}

impl OwnOrHost {
    /// Reads the value of `--uts` or `--cgroupns`.
    pub fn parse(flag: &'static str, text: &str) -> Result<Self, SpecError> {
        match text {
            "" | "private" => Ok(Self::Private),
            "host" => Ok(Self::Host),
            other => Err(unknown(flag, other, "`private` or `host`")),
        }
    }
}

/// What `run` was asked for about namespaces; that of the network is [`super::Network`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// `--ipc`.
    pub ipc: IpcMode,
    /// `--pid`.
    pub pid: PidMode,
    /// `--uts`.
    pub uts: OwnOrHost,
    /// `--cgroupns`.
    pub cgroup: OwnOrHost,
    /// `--userns`, `--uidmap`, `--gidmap`.
    pub users: Users,
}

/// A kind of namespace that is shared with another run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shared {
    /// `--ipc container:RUN`.
    Ipc,
    /// `--pid container:RUN`.
    Pid,
    /// `--network container:RUN`.
    Network,
}

impl Shared {
    /// What the kernel calls it, in `/proc/PID/ns`.
    #[must_use]
    pub const fn kernel_name(self) -> &'static str {
        match self {
            Self::Ipc => "ipc",
            Self::Pid => "pid",
            Self::Network => "net",
        }
    }
}

fn unknown(flag: &'static str, text: &str, expected: &'static str) -> SpecError {
    SpecError::Mode { flag, text: text.to_owned(), expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        assert_eq!("".parse::<IpcMode>().unwrap(), IpcMode::Private);
        assert_eq!("shareable".parse::<IpcMode>().unwrap(), IpcMode::Shareable);
        assert_eq!("container:a-1".parse::<IpcMode>().unwrap(), IpcMode::Run(RunRef("a-1".to_owned())));
        assert_eq!("host".parse::<PidMode>().unwrap(), PidMode::Host);
        assert_eq!(OwnOrHost::parse("--uts", "host").unwrap(), OwnOrHost::Host);
    }

    #[test]
    fn bad_modes_say_what_there_is() {
        for (error, words) in [
            ("shared".parse::<IpcMode>().unwrap_err(), "`--ipc shared` is unknown, expected `private`, `shareable`"),
            ("container:".parse::<IpcMode>().unwrap_err(), "expected the name of a run after `container:`"),
            ("container:a/b".parse::<PidMode>().unwrap_err(), "expected the name of a run after `container:`"),
            ("none".parse::<PidMode>().unwrap_err(), "`--pid none` is unknown"),
            (
                OwnOrHost::parse("--uts", "container:a").unwrap_err(),
                "`--uts container:a` is unknown, expected `private` or `host`",
            ),
            (OwnOrHost::parse("--cgroupns", "no").unwrap_err(), "`--cgroupns no` is unknown"),
        ] {
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}
