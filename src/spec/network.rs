//! Network modes and host names.

use std::fmt;
use std::str::FromStr;

use super::error::SpecError;
use super::namespaces::RunRef;

const MAX_HOSTNAME_BYTES: usize = 63;

/// Which network the workload sees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Network {
    /// The machine's own.
    #[default]
    Host,
    /// A fresh namespace with nothing but `lo`.
    None,
    /// That of another run, with its host name and its files for looking names up.
    Run(RunRef),
    /// A fresh namespace with an address on a bridge of this machine, and a way out.
    Private,
}

impl Network {
    /// Whether the container has a network namespace to itself.
    #[must_use]
    pub const fn is_own(&self) -> bool {
        match self {
            Self::Host | Self::Run(_) => false,
            Self::None | Self::Private => true,
        }
    }
}

impl FromStr for Network {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "host" => Ok(Self::Host),
            "none" => Ok(Self::None),
            // The second is docker's name for it.
            "private" | "bridge" => Ok(Self::Private),
            other => match RunRef::in_mode("--network", other) {
                Some(run) => run.map(Self::Run),
                None => Err(SpecError::Network(other.to_owned())),
            },
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::None => f.write_str("none"),
            Self::Private => f.write_str("private"),
            Self::Run(run) => write!(f, "container:{run}"),
        }
    }
}

/// A host name: 1 to 63 bytes (the kernel holds 64), labels of letters, digits and inner `-`, separated by dots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hostname(String);

impl Hostname {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Hostname {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let label = |label: &str| {
            label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if text.len() <= MAX_HOSTNAME_BYTES && text.split('.').all(label) {
            return Ok(Self(text.to_owned()));
        }
        Err(SpecError::Hostname(text.to_owned()))
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        assert_eq!("host".parse::<Network>().unwrap(), Network::Host);
        assert_eq!("none".parse::<Network>().unwrap(), Network::None);
        for text in ["private", "bridge"] {
            assert_eq!(text.parse::<Network>().unwrap(), Network::Private);
        }
        let message = "macvlan".parse::<Network>().unwrap_err().to_string();
        assert_eq!(
            message,
            "network `macvlan` is not supported, expected `host`, `none`, `private` or `container:RUN`"
        );
        assert_eq!("container:db".parse::<Network>().unwrap().to_string(), "container:db");
        assert!("container:".parse::<Network>().is_err());
    }

    #[test]
    fn host_names() {
        let longest = "a".repeat(MAX_HOSTNAME_BYTES);
        for good in ["a", "node-1", "a.b.c", "1", &longest] {
            assert_eq!(good.parse::<Hostname>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", "a..b", ".a", "a_b", "a b", "a\0", "ü", &format!("{longest}a")] {
            assert!(bad.parse::<Hostname>().is_err(), "`{bad}` was accepted");
        }
    }
}
