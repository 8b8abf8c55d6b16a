//! Which capabilities a workload has: docker's defaults, changed by `--cap-add`, `--cap-drop` and `--privileged`.
//!
//! Root gets them all. Another user starts with none: the kernel would drop them at `exec` anyway, and until then the
//! program to run would be opened with root's powers. The bounding set stays for set-user-ID programs.

use std::collections::HashSet;

use oci_spec::OciSpecError;
use oci_spec::runtime::{Capability, LinuxCapabilities, LinuxCapabilitiesBuilder};

use super::error::SpecError;
use super::flag_error::FlagProblem;
use super::security::SecurityOptions;

/// All of them; the index is the number in the kernel (capability.h).
const ALL: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// Docker's list.
const DEFAULTS: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::SysChroot,
    Capability::Mknod,
    Capability::AuditWrite,
    Capability::Setfcap,
];

const ADD: &str = "--cap-add";
const DROP: &str = "--cap-drop";

/// A value of `--cap-add` or `--cap-drop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CapabilityName {
    /// `ALL`
    All,
    /// One of them.
    One(Capability),
}

impl CapabilityName {
    /// Reads a value of `--cap-add`: in any case, with and without `CAP_`.
    pub fn to_add(text: &str) -> Result<Self, SpecError> {
        Self::parse(ADD, text)
    }

    /// Reads a value of `--cap-drop`.
    pub fn to_drop(text: &str) -> Result<Self, SpecError> {
        Self::parse(DROP, text)
    }

    fn parse(flag: &'static str, text: &str) -> Result<Self, SpecError> {
        let upper = text.to_ascii_uppercase();
        if upper == "ALL" {
            return Ok(Self::All);
        }
        named(upper.strip_prefix("CAP_").unwrap_or(&upper)).map(Self::One).ok_or_else(|| {
            let expected = "`ALL` or a name as in capabilities(7), e.g. `NET_ADMIN`".to_owned();
            SpecError::flag(flag, text, FlagProblem::Unknown { name: text.to_owned(), expected })
        })
    }
}

/// The capability with that name, without `CAP_`.
pub(super) fn named(name: &str) -> Option<Capability> {
    ALL.into_iter().find(|capability| capability.to_string() == name)
}

/// What a workload gets.
pub(super) struct Granted {
    pub(super) set: HashSet<Capability>,
    /// What it would have had on another machine, in the kernel's order.
    pub(super) missing: Vec<Capability>,
}

/// Docker's rules: with `ALL` added all but what is dropped, with `ALL` dropped what is added, else the defaults without
/// what is dropped and with what is added. Bounded by the caller's own bounding set (a mask by capability number); a
/// capability that was asked for by its name and is not in it is an error.
pub(super) fn granted(bounding: u64, security: &SecurityOptions) -> Result<Granted, SpecError> {
    let is_in = |list: &[CapabilityName], capability: Capability| list.contains(&CapabilityName::One(capability));
    let (add, drop) = (&security.cap_add, &security.cap_drop);
    let is_wanted = |capability: Capability| {
        if security.privileged {
            true
        } else if add.contains(&CapabilityName::All) {
            !is_in(drop, capability)
        } else if drop.contains(&CapabilityName::All) {
            is_in(add, capability)
        } else {
            is_in(add, capability) || (DEFAULTS.contains(&capability) && !is_in(drop, capability))
        }
    };
    let mut granted = Granted { set: HashSet::new(), missing: Vec::new() };
    for (number, capability) in ALL.into_iter().enumerate().filter(|(_, capability)| is_wanted(*capability)) {
        if bounding & (1 << number) != 0 {
            granted.set.insert(capability);
        } else if is_in(add, capability) {
            return Err(SpecError::flag(ADD, &capability.to_string(), FlagProblem::CapabilityNotGiven));
        } else {
            granted.missing.push(capability);
        }
    }
    Ok(granted)
}

/// All that the caller's own bounding set (a mask by capability number) gives.
pub(super) fn all(bounding: u64) -> HashSet<Capability> {
    ALL.into_iter().enumerate().filter(|(number, _)| bounding & (1 << number) != 0).map(|(_, one)| one).collect()
}

/// The five sets of a process.
pub(super) fn sets(available: &HashSet<Capability>, is_root: bool) -> Result<LinuxCapabilities, OciSpecError> {
    let active = if is_root { available.clone() } else { HashSet::new() };
    LinuxCapabilitiesBuilder::default()
        .bounding(available.clone())
        .effective(active.clone())
        .permitted(active)
        .inheritable(HashSet::new())
        .ambient(HashSet::new())
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(add: &[&str], drop: &[&str]) -> SecurityOptions {
        SecurityOptions {
            cap_add: add.iter().map(|name| CapabilityName::to_add(name).unwrap()).collect(),
            cap_drop: drop.iter().map(|name| CapabilityName::to_drop(name).unwrap()).collect(),
            ..SecurityOptions::default()
        }
    }

    #[test]
    fn root_has_them_and_others_do_not() {
        let all = granted(u64::MAX, &SecurityOptions::default()).unwrap().set;
        assert_eq!(all.len(), 14);
        assert!(!all.contains(&Capability::SysAdmin));
        let root = sets(&all, true).unwrap();
        assert_eq!(root.effective().as_ref(), Some(&all));
        assert_eq!(root.inheritable().as_ref().unwrap().len() + root.ambient().as_ref().unwrap().len(), 0);
        let user = sets(&all, false).unwrap();
        assert_eq!(user.bounding().as_ref(), Some(&all));
        assert_eq!(user.permitted().as_ref().unwrap().len() + user.effective().as_ref().unwrap().len(), 0);
    }

    #[test]
    fn the_machine_bounds_them() {
        let mknod = 1_u64 << 27;
        assert_eq!(granted(!mknod, &SecurityOptions::default()).unwrap().missing, [Capability::Mknod]);
        assert!(granted(0, &SecurityOptions::default()).unwrap().set.is_empty());
        assert_eq!(granted(mknod, &SecurityOptions::default()).unwrap().set, HashSet::from([Capability::Mknod]));
        assert_eq!(granted(mknod, &changed(&["all"], &[])).unwrap().missing.len(), 40);
        let message = granted(!mknod, &changed(&["mknod"], &[])).err().unwrap().to_string();
        assert!(message.starts_with("`--cap-add MKNOD`: this machine does not give it"), "{message}");
    }

    #[test]
    fn names_are_read_as_docker_reads_them() {
        for text in ["SYS_ADMIN", "sys_admin", "CAP_SYS_ADMIN", "Cap_Sys_Admin"] {
            assert_eq!(CapabilityName::to_add(text).unwrap(), CapabilityName::One(Capability::SysAdmin));
        }
        assert_eq!(CapabilityName::to_add("all").unwrap(), CapabilityName::All);
        for bad in ["", "CAP_", "SYS-ADMIN", "CAP_CAP_CHOWN", "CAP_ALL", "0", "chown,kill"] {
            let message = CapabilityName::to_drop(bad).unwrap_err().to_string();
            assert!(message.starts_with(&format!("`--cap-drop {bad}`: `{bad}` is unknown")), "{message}");
        }
        let names: HashSet<String> = ALL.iter().map(ToString::to_string).collect();
        assert_eq!(names.len(), ALL.len());
    }

    #[test]
    fn rules_are_dockers() {
        for (add, drop, expected) in [
            (&[][..], &[][..], 14),
            (&["NET_ADMIN"], &[], 15),
            (&["CHOWN"], &[], 14),
            (&[], &["CHOWN", "MKNOD"], 12),
            (&[], &["ALL"], 0),
            (&["CHOWN", "SYS_TIME"], &["ALL"], 2),
            (&["ALL"], &[], 41),
            (&["ALL"], &["SYS_ADMIN"], 40),
            (&["ALL"], &["ALL"], 41),
            // Who is named on both sides is added.
            (&["SYS_ADMIN"], &["SYS_ADMIN"], 15),
        ] {
            assert_eq!(granted(u64::MAX, &changed(add, drop)).unwrap().set.len(), expected, "{add:?} {drop:?}");
        }
        let privileged = SecurityOptions { privileged: true, ..changed(&[], &["ALL"]) };
        assert_eq!(granted(u64::MAX, &privileged).unwrap().set.len(), 41);
    }
}
