//! Docker's default system call filter (a filter of the user's own is read in `profile.rs`): what it lists is allowed, the rest fails with `EPERM`.
//!
//! The filter is for the machine's own architecture only, so 32-bit programs on a 64-bit machine are killed: three
//! architectures, docker's way, take more than five times as long to compile at every start.

mod names;
mod profile;

use std::collections::{BTreeSet, HashSet};

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompBuilder,
    LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};

pub use self::profile::{MAX_PROFILE_BYTES, Profile};
use super::error::SpecError;
use super::syscalls;
use super::{Dialect, HostFacts};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// `CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET`
const NEW_NAMESPACES: u64 = 0x7e02_0000;
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;
/// The address family between the two.
const AF_NFC: u64 = 39;
/// The execution domains of personality(2) that change nothing that matters: Linux, 32-bit Linux, both with
/// `UNAME26`, and the question which one is set.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
const TRACING_IS_SAFE_SINCE: (u32, u32) = (4, 8);

/// The filter for a workload whose bounding set is `capabilities`.
pub(super) fn filter(host: &HostFacts, capabilities: &HashSet<Capability>) -> Result<LinuxSeccomp, SpecError> {
    let architecture = host.platform.architecture.as_str();
    let unknown = || SpecError::Architecture(architecture.to_owned());
    let names = allowed_names(host, capabilities).ok_or_else(unknown)?;
    let mut rules = vec![rule(&names, LinuxSeccompAction::ScmpActAllow).build()?];
    for domain in PERSONALITIES {
        rules.push(allow_if("personality", argument(0, LinuxSeccompOperator::ScmpCmpEq, domain)?)?);
    }
    rules.push(allow_if("socket", argument(0, LinuxSeccompOperator::ScmpCmpLt, AF_ALG)?)?);
    rules.push(allow_if("socket", argument(0, LinuxSeccompOperator::ScmpCmpEq, AF_NFC)?)?);
    rules.push(allow_if("socket", argument(0, LinuxSeccompOperator::ScmpCmpGt, AF_VSOCK)?)?);
    if !capabilities.contains(&Capability::SysAdmin) {
        // Z passes the flags second.
        let flags = usize::from(architecture == "s390x");
        rules.push(allow_if("clone", without_bits(host.dialect, flags, NEW_NAMESPACES)?)?);
        // A filter cannot follow the pointer that `clone3` takes; with ENOSYS libraries fall back to `clone`.
        rules.push(rule(&["clone3"], LinuxSeccompAction::ScmpActErrno).errno_ret(ENOSYS).build()?);
    }
    Ok(LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(EPERM)
        .architectures(vec![arch(architecture).ok_or_else(unknown)?])
        .syscalls(rules)
        .build()?)
}

/// Everything that is allowed whatever its arguments, each name once: every name costs when the filter is compiled.
fn allowed_names(host: &HostFacts, capabilities: &HashSet<Capability>) -> Option<Vec<&'static str>> {
    let of_architecture = syscalls::of_architecture(&host.platform.architecture)?;
    let of_capabilities = syscalls::OF_CAPABILITIES
        .iter()
        .filter(|(capability, _)| capabilities.contains(capability))
        .map(|(_, names)| names);
    let tracing = (host.kernel >= TRACING_IS_SAFE_SINCE).then_some(&syscalls::TRACING);
    let tables = syscalls::EVERYWHERE.iter().chain(of_architecture).chain(of_capabilities).chain(tracing);
    let names: BTreeSet<&'static str> = tables.flat_map(|names| names.split_ascii_whitespace()).collect();
    Some(names.into_iter().collect())
}

fn arch(architecture: &str) -> Option<Arch> {
    Some(match architecture {
        "amd64" => Arch::ScmpArchX86_64,
        "arm64" => Arch::ScmpArchAarch64,
        "loong64" | "loongarch64" => Arch::ScmpArchLoongarch64,
        "riscv64" => Arch::ScmpArchRiscv64,
        "ppc64le" => Arch::ScmpArchPpc64le,
        "s390x" => Arch::ScmpArchS390x,
        _ => return None,
    })
}

fn rule(names: &[&str], action: LinuxSeccompAction) -> LinuxSyscallBuilder {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    LinuxSyscallBuilder::default().names(names).action(action)
}

fn allow_if(name: &str, argument: LinuxSeccompArg) -> Result<LinuxSyscall, OciSpecError> {
    rule(&[name], LinuxSeccompAction::ScmpActAllow).args(vec![argument]).build()
}

fn argument(index: usize, op: LinuxSeccompOperator, value: u64) -> Result<LinuxSeccompArg, OciSpecError> {
    LinuxSeccompArgBuilder::default().index(index).op(op).value(value).build()
}

/// True when none of the bits of `mask` is set.
///
/// By the runtime specification (and in runc and crun) a masked comparison is `argument & value == valueTwo`.
/// libcontainer 0.7 reads the two the other way round, and `argument & 0 == mask` compiles to "always": in that dialect
/// docker's rule lets a container make user namespaces. So each reader gets its own form.
fn without_bits(dialect: Dialect, index: usize, mask: u64) -> Result<LinuxSeccompArg, OciSpecError> {
    let (value, value_two) = match dialect {
        Dialect::Standard => (mask, 0),
        Dialect::Libcontainer => (0, mask),
    };
    let builder = LinuxSeccompArgBuilder::default().index(index).op(LinuxSeccompOperator::ScmpCmpMaskedEq);
    builder.value(value).value_two(value_two).build()
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;
    use crate::image::Platform;

    fn names(host: &HostFacts, capabilities: &[Capability]) -> Vec<&'static str> {
        allowed_names(host, &capabilities.iter().copied().collect()).unwrap()
    }

    fn rules_of(filter: &LinuxSeccomp, name: &str) -> Vec<LinuxSyscall> {
        let rules = filter.syscalls().clone().unwrap();
        rules.into_iter().filter(|rule| rule.names().iter().any(|known| known == name)).collect()
    }

    #[test]
    fn what_a_workload_needs_and_what_it_must_not_have() {
        let names = names(&fixture::host(), &[Capability::SysChroot]);
        for needed in ["read", "openat", "open", "execve", "futex", "mmap", "arch_prctl", "fork", "chroot", "ptrace"] {
            assert!(names.contains(&needed), "{needed} is missing");
        }
        for forbidden in [
            "add_key",
            "bpf",
            "clone",
            "clone3",
            "create_module",
            "delete_module",
            "init_module",
            "io_uring_enter",
            "io_uring_setup",
            "iopl",
            "kexec_load",
            "keyctl",
            "mount",
            "move_mount",
            "nfsservctl",
            "open_by_handle_at",
            "open_tree",
            "perf_event_open",
            "personality",
            "pivot_root",
            "reboot",
            "request_key",
            "setns",
            "settimeofday",
            "socket",
            "swapon",
            "syslog",
            "umount2",
            "unshare",
            "userfaultfd",
            "vm86",
        ] {
            assert!(!names.contains(&forbidden), "{forbidden} is allowed");
        }
    }

    #[test]
    fn names_stand_once() {
        let all: Vec<&str> = syscalls::EVERYWHERE.iter().flat_map(|names| names.split_ascii_whitespace()).collect();
        let unique: BTreeSet<&str> = all.iter().copied().collect();
        assert_eq!(all.len(), unique.len());
        // The count of moby's profile: 361 names less those of 32-bit machines and of other architectures.
        assert_eq!(all.len(), 260);
    }

    #[test]
    fn capabilities_architecture_and_kernel_change_it() {
        let host = fixture::host();
        assert!(names(&host, &[Capability::SysAdmin]).contains(&"mount"));
        assert!(names(&host, &[Capability::SysTime]).contains(&"settimeofday"));
        assert!(!names(&host, &[]).contains(&"chroot"));
        let old = HostFacts { kernel: (4, 7), ..fixture::host() };
        assert!(!names(&old, &[]).contains(&"ptrace"));
        assert!(names(&old, &[Capability::SysPtrace]).contains(&"ptrace"));
        let arm = HostFacts { platform: Platform::new("linux", "arm64", None), ..fixture::host() };
        assert!(!names(&arm, &[]).contains(&"open"));
        let other = HostFacts { platform: Platform::new("linux", "m68k", None), ..fixture::host() };
        let message = filter(&other, &HashSet::new()).unwrap_err().to_string();
        assert_eq!(message, "there is no system call filter for the architecture `m68k`");
        for known in ["amd64", "arm64", "riscv64", "ppc64le", "s390x", "loong64"] {
            let host = HostFacts { platform: Platform::new("linux", known, None), ..fixture::host() };
            assert_eq!(filter(&host, &HashSet::new()).unwrap().architectures().as_ref().unwrap().len(), 1);
        }
    }

    #[test]
    fn clone_is_written_for_its_reader() {
        for (dialect, value, value_two) in
            [(Dialect::Standard, NEW_NAMESPACES, Some(0)), (Dialect::Libcontainer, 0, Some(NEW_NAMESPACES))]
        {
            let host = HostFacts { dialect, ..fixture::host() };
            let filter = filter(&host, &HashSet::new()).unwrap();
            let rules = rules_of(&filter, "clone");
            assert_eq!(rules.len(), 1, "a second rule for clone would open it");
            let argument = rules[0].args().as_ref().unwrap()[0];
            assert_eq!((argument.index(), argument.value(), argument.value_two()), (0, value, value_two));
            assert_eq!(rules_of(&filter, "clone3")[0].errno_ret(), Some(ENOSYS));
        }
        let powerful = filter(&fixture::host(), &HashSet::from([Capability::SysAdmin])).unwrap();
        let rules = rules_of(&powerful, "clone");
        assert_eq!((rules.len(), rules[0].args()), (1, &None));
        assert_eq!(rules_of(&powerful, "clone3")[0].action(), LinuxSeccompAction::ScmpActAllow);
        let z = HostFacts { platform: Platform::new("linux", "s390x", None), ..fixture::host() };
        let rules = rules_of(&filter(&z, &HashSet::new()).unwrap(), "clone");
        assert_eq!(rules[0].args().as_ref().unwrap()[0].index(), 1);
    }

    #[test]
    fn sockets_and_personalities_are_chosen_by_argument() {
        let filter = filter(&fixture::host(), &HashSet::new()).unwrap();
        let allowed = |family: u64| {
            rules_of(&filter, "socket").iter().any(|rule| {
                let argument = rule.args().as_ref().unwrap()[0];
                match argument.op() {
                    LinuxSeccompOperator::ScmpCmpLt => family < argument.value(),
                    LinuxSeccompOperator::ScmpCmpEq => family == argument.value(),
                    LinuxSeccompOperator::ScmpCmpGt => family > argument.value(),
                    other => panic!("unexpected {other:?}"),
                }
            })
        };
        let denied: Vec<u64> = (0..64).filter(|family| !allowed(*family)).collect();
        assert_eq!(denied, [AF_ALG, AF_VSOCK]);
        assert_eq!(rules_of(&filter, "personality").len(), PERSONALITIES.len());
    }
}
