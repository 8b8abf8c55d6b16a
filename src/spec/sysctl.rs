//! `--sysctl`: kernel parameters that belong to a namespace (sysctl(5), `ipc_namespaces(7)`, `network_namespaces(7)`).

use std::fmt;

use super::error::SpecError;
use super::flag_error::FlagProblem;
use super::{IpcMode, Namespaces, Network, OwnOrHost};

const FLAG: &str = "--sysctl";
/// What the kernel takes in one write to a parameter.
const MAX_VALUE_BYTES: usize = 4096;
/// Parameters of an IPC namespace; besides those below `fs.mqueue.`.
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shm_rmid_forced",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
];

/// Whose a kernel parameter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    /// System V and POSIX queues and memory.
    Ipc,
    /// Interfaces, addresses, protocols.
    Network,
    /// Host and domain name.
    Uts,
}

impl Namespace {
    pub(super) const fn hint(self) -> &'static str {
        match self {
            Self::Ipc => "leave `--ipc` out",
            Self::Network => "`--network none`",
            Self::Uts => "leave `--uts host` out",
        }
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipc => "an IPC namespace",
            Self::Network => "a network namespace",
            Self::Uts => "a UTS namespace",
        })
    }
}

/// A parameter and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    name: String,
    value: String,
    namespace: Namespace,
}

impl Sysctl {
    /// Reads `NAME=VALUE`, the name with dots.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        let wrong = |problem| SpecError::flag(FLAG, text, problem);
        let shape = wrong(FlagProblem::Shape("`NAME=VALUE`, the name with dots, e.g. `net.ipv4.ip_forward=1`"));
        let Some((name, value)) = text.split_once('=') else { return Err(shape) };
        let is_part = |part: &str| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
        };
        let value_fits = value.len() < MAX_VALUE_BYTES && !value.contains(['\0', '\n']);
        if !name.split('.').all(is_part) || !value_fits {
            return Err(shape);
        }
        let Some(namespace) = namespace(name) else {
            let hint = if name == "kernel.hostname" { "\nhint: `--hostname NAME`" } else { "" };
            return Err(wrong(FlagProblem::NotNamespaced { hint }));
        };
        Ok(Self { name: name.to_owned(), value: value.to_owned(), namespace })
    }

    /// Whether the container has the namespace that it belongs to, as one of its own: another run's is not to be changed either.
    pub(super) fn check(&self, network: &Network, namespaces: &Namespaces) -> Result<(), SpecError> {
        let has_own = match self.namespace {
            Namespace::Network => network.is_own(),
            Namespace::Ipc => !matches!(namespaces.ipc, IpcMode::Host | IpcMode::Run(_)),
            Namespace::Uts => namespaces.uts == OwnOrHost::Private,
        };
        if !has_own {
            let text = format!("{}={}", self.name, self.value);
            return Err(SpecError::flag(FLAG, &text, FlagProblem::Namespace(self.namespace)));
        }
        Ok(())
    }

    pub(super) fn pair(&self) -> (String, String) {
        (self.name.clone(), self.value.clone())
    }
}

fn namespace(name: &str) -> Option<Namespace> {
    if IPC.contains(&name) || name.starts_with("fs.mqueue.") {
        Some(Namespace::Ipc)
    } else if name.starts_with("net.") {
        Some(Namespace::Network)
    } else if name == "kernel.domainname" {
        Some(Namespace::Uts)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_belongs_to_a_namespace() {
        for (text, namespace) in [
            ("kernel.msgmax=65536", Namespace::Ipc),
            ("fs.mqueue.msg_max=20", Namespace::Ipc),
            ("net.ipv4.ip_forward=1", Namespace::Network),
            ("net.ipv4.ping_group_range=0 1", Namespace::Network),
            ("kernel.domainname=a=b", Namespace::Uts),
        ] {
            assert_eq!(Sysctl::parse(text).unwrap().namespace, namespace, "{text}");
        }
        for (text, expected) in [
            ("net.ipv4.ip_forward", "expected `NAME=VALUE`"),
            ("=1", "expected `NAME=VALUE`"),
            ("net..x=1", "expected `NAME=VALUE`"),
            ("net./../kernel=1", "expected `NAME=VALUE`"),
            ("net/ipv4/ip_forward=1", "expected `NAME=VALUE`"),
            ("net.x=a\nb", "expected `NAME=VALUE`"),
            ("kernel.panic=1", "not a parameter of a namespace: it would change the whole machine"),
            ("vm.swappiness=1", "not a parameter of a namespace"),
            (
                "kernel.hostname=x",
                "not a parameter of a namespace: it would change the whole machine\nhint: `--hostname",
            ),
        ] {
            let message = Sysctl::parse(text).unwrap_err().to_string();
            assert!(message.contains(&format!("`: {expected}")), "{text}: {message}");
        }
        assert!(Sysctl::parse(&format!("net.x={}", "1".repeat(MAX_VALUE_BYTES))).is_err());
    }

    #[test]
    fn the_machines_network_is_left_alone() {
        let sysctl = Sysctl::parse("net.ipv4.ip_forward=1").unwrap();
        sysctl.check(&Network::None, &Namespaces::default()).unwrap();
        let message = sysctl.check(&Network::Host, &Namespaces::default()).unwrap_err().to_string();
        assert!(message.contains("needs a network namespace of its own") && message.contains("--network none"));
        Sysctl::parse("kernel.sem=1 2 3 4").unwrap().check(&Network::Host, &Namespaces::default()).unwrap();
    }
}
