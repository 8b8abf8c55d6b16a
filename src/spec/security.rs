//! `--cap-add`, `--cap-drop`, `--privileged`, `--security-opt` and `--group-add`.

use super::capabilities::CapabilityName;
use super::error::SpecError;
use super::flag_error::FlagProblem;
use super::seccomp::Profile;
use super::sysctl::Sysctl;
use super::{HostFacts, Namespaces, Network};

const FLAG: &str = "--security-opt";
const EXPECTED: &str = "apparmor=, label=disable, no-new-privileges, seccomp= or systempaths=unconfined";

/// What a workload may do beyond, or less than, docker's defaults.
#[derive(Debug, Clone, Default)]
pub struct SecurityOptions {
    /// `--cap-add`
    pub cap_add: Vec<CapabilityName>,
    /// `--cap-drop`
    pub cap_drop: Vec<CapabilityName>,
    /// All capabilities and devices, no filter, nothing masked or read-only.
    pub privileged: bool,
    /// Which system calls it may make.
    pub seccomp: SeccompChoice,
    /// Set-user-ID programs and the like give it nothing.
    pub no_new_privileges: bool,
    /// The profile of `AppArmor`; `None` is unconfined.
    pub apparmor: Option<String>,
    /// What tells about the machine in /proc and /sys is there as on the machine.
    pub unconfined_paths: bool,
    /// Groups beside those of the user, by name or number.
    pub group_add: Vec<String>,
    /// Kernel parameters of its namespaces.
    pub sysctls: Vec<Sysctl>,
}

/// Which filter of system calls.
#[derive(Debug, Clone, Default)]
pub enum SeccompChoice {
    /// Docker's, but none for a privileged container.
    #[default]
    Default,
    /// Docker's in any case.
    Builtin,
    /// None.
    Unconfined,
    /// The user's own.
    Profile(Box<Profile>),
}

/// One `--security-opt`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecurityOpt {
    /// `seccomp=unconfined`
    SeccompUnconfined,
    /// `seccomp=builtin`
    SeccompBuiltin,
    /// `seccomp=FILE`; to be read by the caller.
    SeccompFile(String),
    /// `no-new-privileges`
    NoNewPrivileges(bool),
    /// `apparmor=PROFILE`; `None` for `unconfined`.
    AppArmor(Option<String>),
    /// `label=disable`: nothing is labelled in any case.
    NoLabel,
    /// `systempaths=unconfined`
    UnconfinedPaths,
}

impl SecurityOpt {
    /// Reads `NAME=VALUE`; docker takes `NAME:VALUE` as well.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        let wrong = |problem| Err(SpecError::flag(FLAG, text, problem));
        let parts = text.split_once('=').or_else(|| text.split_once(':'));
        let (name, value) = parts.map_or((text, None), |(name, value)| (name, Some(value)));
        match (name, value) {
            ("no-new-privileges", None | Some("true")) => Ok(Self::NoNewPrivileges(true)),
            ("no-new-privileges", Some("false")) => Ok(Self::NoNewPrivileges(false)),
            ("no-new-privileges", Some(_)) => wrong(FlagProblem::Shape("`true` or `false`")),
            ("seccomp", Some("unconfined")) => Ok(Self::SeccompUnconfined),
            ("seccomp", Some("builtin")) => Ok(Self::SeccompBuiltin),
            ("seccomp", Some(file)) if !file.is_empty() => Ok(Self::SeccompFile(file.to_owned())),
            ("apparmor", Some("unconfined")) => Ok(Self::AppArmor(None)),
            ("apparmor", Some(profile)) if is_profile_name(profile) => Ok(Self::AppArmor(Some(profile.to_owned()))),
            ("label", Some("disable")) => Ok(Self::NoLabel),
            ("label", Some(_)) => {
                wrong(FlagProblem::Unsupported("containers get no SELinux labels but `label=disable`"))
            }
            ("systempaths", Some("unconfined")) => Ok(Self::UnconfinedPaths),
            ("systempaths", _) => wrong(FlagProblem::Shape("`systempaths=unconfined`")),
            ("seccomp", _) => wrong(FlagProblem::Shape("`seccomp=FILE`, `seccomp=unconfined` or `seccomp=builtin`")),
            ("apparmor", _) => wrong(FlagProblem::Shape("`apparmor=PROFILE` or `apparmor=unconfined`")),
            _ => wrong(FlagProblem::Unknown { name: name.to_owned(), expected: EXPECTED.to_owned() }),
        }
    }
}

/// What the kernel would read as one word after `exec `.
fn is_profile_name(text: &str) -> bool {
    !text.is_empty() && text.len() < 4096 && !text.contains(|c: char| c.is_control() || c.is_whitespace())
}

impl SecurityOptions {
    /// What can be known before there is an image.
    pub(super) fn check(&self, host: &HostFacts, network: &Network, namespaces: &Namespaces) -> Result<(), SpecError> {
        super::capabilities::granted(host.bounding_capabilities, self)?;
        if let Some(profile) = self.apparmor.as_deref().filter(|_| !host.apparmor) {
            let text = format!("apparmor={profile}");
            return Err(SpecError::flag(FLAG, &text, FlagProblem::NotEnabled("AppArmor")));
        }
        self.sysctls.iter().try_for_each(|sysctl| sysctl.check(network, namespaces))
    }

    /// Whether the container may make device nodes although it was given some of the machine's: it was said so.
    pub(super) fn asks_for_nodes(&self) -> bool {
        use oci_spec::runtime::Capability::Mknod;
        let named = [CapabilityName::All, CapabilityName::One(Mknod)];
        self.privileged || self.cap_add.iter().any(|name| named.contains(name))
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn options_are_dockers() {
        for (text, expected) in [
            ("seccomp=unconfined", SecurityOpt::SeccompUnconfined),
            ("seccomp:unconfined", SecurityOpt::SeccompUnconfined),
            ("seccomp=builtin", SecurityOpt::SeccompBuiltin),
            ("seccomp=/a=b.json", SecurityOpt::SeccompFile("/a=b.json".to_owned())),
            ("no-new-privileges", SecurityOpt::NoNewPrivileges(true)),
            ("no-new-privileges:true", SecurityOpt::NoNewPrivileges(true)),
            ("no-new-privileges=false", SecurityOpt::NoNewPrivileges(false)),
            ("apparmor=unconfined", SecurityOpt::AppArmor(None)),
            ("apparmor=mine", SecurityOpt::AppArmor(Some("mine".to_owned()))),
            ("label=disable", SecurityOpt::NoLabel),
            ("label:disable", SecurityOpt::NoLabel),
            ("systempaths=unconfined", SecurityOpt::UnconfinedPaths),
        ] {
            assert_eq!(SecurityOpt::parse(text).unwrap(), expected, "{text}");
        }
        for (text, expected) in [
            ("", "`` is unknown, expected apparmor=, label=disable"),
            ("seccomp", "expected `seccomp=FILE`"),
            ("seccomp=", "expected `seccomp=FILE`"),
            ("no-new-privileges=yes", "expected `true` or `false`"),
            ("apparmor", "expected `apparmor=PROFILE`"),
            ("apparmor=a b", "expected `apparmor=PROFILE`"),
            ("label=type:svirt_t", "not supported: containers get no SELinux labels"),
            ("systempaths=x", "expected `systempaths=unconfined`"),
            ("privileged", "`privileged` is unknown"),
        ] {
            let message = SecurityOpt::parse(text).unwrap_err().to_string();
            assert!(message.starts_with(&format!("`--security-opt {text}`: {expected}")), "{message}");
        }
    }

    #[test]
    fn a_profile_of_apparmor_needs_apparmor() {
        let options = SecurityOptions { apparmor: Some("mine".to_owned()), ..SecurityOptions::default() };
        let with = HostFacts { apparmor: true, ..fixture::host() };
        options.check(&with, &Network::Host, &Namespaces::default()).unwrap();
        let message = options.check(&fixture::host(), &Network::Host, &Namespaces::default()).unwrap_err().to_string();
        assert!(message.starts_with("`--security-opt apparmor=mine`: AppArmor is not enabled"), "{message}");
    }
}
