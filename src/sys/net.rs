//! Interfaces of network namespaces: `lo` that is down, bridges that were left.
#![expect(unsafe_code, reason = "interface ioctls have no safe wrapper")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::libc;
use nix::sched::{CloneFlags, setns, unshare};
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

/// Does something in another mount namespace and comes back; the working directory is `/` then.
///
/// The caller must be single-threaded: the kernel refuses it otherwise.
pub fn in_mount_namespace<T>(namespace: &File, act: impl FnOnce() -> T) -> io::Result<T> {
    let home = File::open("/proc/self/ns/mnt")?;
    setns(namespace, CloneFlags::CLONE_NEWNS)?;
    let done = act();
    setns(home, CloneFlags::CLONE_NEWNS)?;
    Ok(done)
}

/// A fresh network namespace with an interface of that name, which can be deleted, and nothing else: for programs that want to undo
/// what they did in a namespace which is gone.
pub fn stand_in_network(interface: &str) -> io::Result<File> {
    // In a thread of its own, which ends: there is no way back to fail.
    let make = || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        // A bridge is what takes the fewest words to make.
        bridge_request(SIOCBRADDBR, interface)?;
        File::open("/proc/thread-self/ns/net")
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, make)?;
        thread.join().map_err(|_| io::Error::other("a thread died"))?
    })
}

/// Removes a bridge, whatever is connected to it. One that is not there is no error.
pub fn remove_bridge(name: &str) -> io::Result<()> {
    let removed = change_flags(name, |flags| flags & !INTERFACE_UP).and_then(|()| bridge_request(SIOCBRDELBR, name));
    match removed {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO)) => Ok(()),
        removed => removed,
    }
}

/// `linux/sockios.h`; the argument is the bridge's name.
const SIOCBRADDBR: u32 = 0x89a0;
/// The same for the end of a bridge.
const SIOCBRDELBR: u32 = 0x89a1;
/// `IFF_UP` of `linux/if.h`.
const INTERFACE_UP: i16 = 1;

fn interface_name(name: &str) -> io::Result<[libc::c_char; libc::IFNAMSIZ]> {
    let mut bytes = [0; libc::IFNAMSIZ];
    if name.is_empty() || name.len() >= bytes.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in bytes.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    Ok(bytes)
}

fn bridge_request(request: u32, name: &str) -> io::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let name = interface_name(name)?;
    // SAFETY: both requests read IFNAMSIZ bytes, which `name` has, and which end with a NUL.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::c_ulong::from(request), name.as_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn set_loopback_up() -> io::Result<()> {
    change_flags("lo", |flags| flags | INTERFACE_UP)
}

fn change_flags(name: &str, change: impl FnOnce(i16) -> i16) -> io::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: `ifreq` is plain old data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name = interface_name(name)?;
    // SAFETY: netdevice(7): SIOCGIFFLAGS reads `ifr_name`, which is NUL-terminated, and fills in `ifr_flags`.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above has written `ifr_flags`, so that member of the union is the live one.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = change(flags);
    // SAFETY: SIOCSIFFLAGS reads `ifr_name` and `ifr_flags`, both set.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
