//! What a process that enters a container has of libcontainer: the same code that its first process went through.

use libcontainer::syscall::syscall::create_syscall;
use libcontainer::{apparmor, capabilities, seccomp};
use oci_spec::runtime::{LinuxSeccomp, Process};

use super::reasons;
use crate::container::exec::StartFailure;

fn failed(what: &'static str, error: &(dyn std::error::Error + 'static)) -> StartFailure {
    StartFailure::ours(format!("cannot {what}: {}", reasons(error)))
}

/// Everything above standard error is closed when the program is executed, whoever has left it open.
pub(in crate::container) fn close_on_exec() -> Result<(), StartFailure> {
    create_syscall().close_range(0).map_err(|error| failed("close descriptors", &error))
}

/// The resource limits.
pub(in crate::container) fn set_limits(process: &Process) -> Result<(), StartFailure> {
    let syscall = create_syscall();
    let mut limits = process.rlimits().iter().flatten();
    limits.try_for_each(|limit| syscall.set_rlimit(limit)).map_err(|error| failed("set a limit", &error))
}

/// The `AppArmor` profile, from execve(2) on.
pub(in crate::container) fn use_profile(process: &Process) -> Result<(), StartFailure> {
    let Some(profile) = process.apparmor_profile() else { return Ok(()) };
    apparmor::apply_profile(profile).map_err(|error| failed("apply the AppArmor profile", &error))
}

/// Loads the container's filter into this process.
pub(in crate::container) fn load_filter(filter: Option<&LinuxSeccomp>) -> Result<(), StartFailure> {
    let Some(filter) = filter else { return Ok(()) };
    if seccomp::is_notify(filter) {
        let message = "the run's seccomp profile asks somebody else (SCMP_ACT_NOTIFY), which `exec` cannot do";
        return Err(StartFailure::ours(message));
    }
    seccomp::initialize_seccomp(filter).map(drop).map_err(|error| failed("load the seccomp filter", &error))
}

/// All that the process may do it does: another user starts without.
pub(in crate::container) fn raise_capabilities() -> Result<(), StartFailure> {
    capabilities::reset_effective(create_syscall().as_ref()).map_err(|error| failed("raise capabilities", &error))
}

/// All five sets become what they are in the specification.
pub(in crate::container) fn drop_capabilities(process: &Process) -> Result<(), StartFailure> {
    let Some(sets) = process.capabilities() else { return Ok(()) };
    capabilities::drop_privileges(sets, create_syscall().as_ref()).map_err(|error| failed("drop capabilities", &error))
}
