//! Docker's default capabilities.
//!
//! Root gets them all. Another user starts with none: the kernel would drop them at `exec` anyway, and until then the
//! program to run would be opened with root's powers. The bounding set stays for set-user-ID programs.

use std::collections::HashSet;

use oci_spec::OciSpecError;
use oci_spec::runtime::{Capability, LinuxCapabilities, LinuxCapabilitiesBuilder};

/// Docker's list, with each capability's number in the kernel (capability.h).
const DEFAULTS: [(Capability, u32); 14] = [
    (Capability::Chown, 0),
    (Capability::DacOverride, 1),
    (Capability::Fowner, 3),
    (Capability::Fsetid, 4),
    (Capability::Kill, 5),
    (Capability::Setgid, 6),
    (Capability::Setuid, 7),
    (Capability::Setpcap, 8),
    (Capability::NetBindService, 10),
    (Capability::NetRaw, 13),
    (Capability::SysChroot, 18),
    (Capability::Mknod, 27),
    (Capability::AuditWrite, 29),
    (Capability::Setfcap, 31),
];

/// The defaults that are in the caller's own bounding set (a mask by capability number); nobody can give the others.
pub(super) fn available(bounding: u64) -> HashSet<Capability> {
    DEFAULTS.iter().filter(|(_, number)| bounding & (1 << number) != 0).map(|(capability, _)| *capability).collect()
}

/// The defaults that `available` lacks, in the kernel's order.
pub(super) fn missing(available: &HashSet<Capability>) -> Vec<Capability> {
    DEFAULTS.iter().map(|(capability, _)| *capability).filter(|capability| !available.contains(capability)).collect()
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

    #[test]
    fn root_has_them_and_others_do_not() {
        let all = available(u64::MAX);
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
        let without = available(!mknod);
        assert_eq!(missing(&without), [Capability::Mknod]);
        assert!(available(0).is_empty());
        assert_eq!(available(mknod), HashSet::from([Capability::Mknod]));
    }
}
