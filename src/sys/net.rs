//! The loopback interface of a network namespace.
#![expect(unsafe_code, reason = "interface ioctls have no safe wrapper")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::libc;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Brings `lo` up in the network namespace of process `pid`; it is down when a namespace is made.
///
/// The caller must be single-threaded: it visits that namespace and comes back.
pub fn bring_up_loopback(pid: i32) -> io::Result<()> {
    let home = File::open("/proc/self/ns/net")?;
    setns(File::open(format!("/proc/{pid}/ns/net"))?, CloneFlags::CLONE_NEWNET)?;
    let result = set_loopback_up();
    setns(home, CloneFlags::CLONE_NEWNET)?;
    result
}

fn set_loopback_up() -> io::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: `ifreq` is plain old data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo\0") {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    // SAFETY: netdevice(7): SIOCGIFFLAGS reads `ifr_name`, which is NUL-terminated, and fills in `ifr_flags`.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above has written `ifr_flags`, so that member of the union is the live one.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags | i16::try_from(libc::IFF_UP).unwrap_or_default();
    // SAFETY: SIOCSIFFLAGS reads `ifr_name` and `ifr_flags`, both set.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
