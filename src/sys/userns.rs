//! User namespaces, and what lets files belong to their users: mounts with other owners (`mount_setattr(2)`,
//! `MOUNT_ATTR_IDMAP`, Linux 5.12), and files made in another user's name.
#![expect(unsafe_code, reason = "system calls without a safe wrapper; each says what it relies on")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::waitpid;
use nix::unistd::{Gid, Uid, pipe2, setfsgid, setfsuid};

use super::process::{exit_now, fork};

/// Makes a user namespace with these maps, in the kernel's form. It is there as long as the descriptor. The caller
/// has the right to map these ids. It may have several threads: the copy of the process takes no lock and allocates nothing.
pub fn user_namespace(uid_map: &str, gid_map: &str) -> io::Result<OwnedFd> {
    let (ready, tell_ready) = pipe2(OFlag::O_CLOEXEC)?;
    let (go, tell_go) = pipe2(OFlag::O_CLOEXEC)?;
    let Some(child) = fork()? else {
        drop((ready, tell_go));
        let errno = unshare(CloneFlags::CLONE_NEWUSER).err().map_or(0, |errno| errno as i32);
        let _ = File::from(tell_ready).write_all(&errno.to_ne_bytes());
        // An end of file: the parent has what it wants, or is no more.
        let _ = File::from(go).read(&mut [0]);
        exit_now(0)
    };
    drop((tell_ready, go));
    let made = || {
        let mut errno = [0; 4];
        File::from(ready).read_exact(&mut errno)?;
        match i32::from_ne_bytes(errno) {
            0 => {}
            errno => return Err(io::Error::from_raw_os_error(errno)),
        }
        std::fs::write(format!("/proc/{child}/gid_map"), gid_map)?;
        std::fs::write(format!("/proc/{child}/uid_map"), uid_map)?;
        File::open(format!("/proc/{child}/ns/user")).map(OwnedFd::from)
    };
    let made = made();
    drop(tell_go);
    while waitpid(child, None) == Err(Errno::EINTR) {}
    made
}

/// `struct mount_attr` of the kernel.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    namespace: u64,
}

/// Lets the files of a mount, which is attached nowhere yet, belong to whom the namespace's maps say: who is `0` on the disk is the
/// namespace's root.
///
/// # Errors
/// EINVAL where the file system cannot do it, EPERM for a mount that has other owners already.
pub fn map_mount(mount: BorrowedFd<'_>, namespace: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
    const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
    let namespace = u64::try_from(namespace.as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let attr = MountAttr { set: MOUNT_ATTR_IDMAP, clear: 0, propagation: 0, namespace };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a string with its end, the structure lives on and its size is told; nothing is written to it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A capability set of the kernel (`capget(2)`, version 3).
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

/// Half of one: 32 of each kind.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// Does `work` with files made in the name of this user and group, and keeps the thread's capabilities, which the kernel else
/// takes from who is not root.
pub fn with_filesystem_ids<T>(user: u32, group: u32, work: impl FnOnce() -> T) -> io::Result<T> {
    let capabilities = capabilities()?;
    let old = (setfsuid(Uid::from_raw(user)), setfsgid(Gid::from_raw(group)));
    let _back = FilesystemIds(old);
    // A call that changes nothing tells what is set.
    let now = (setfsuid(Uid::from_raw(user)).as_raw(), setfsgid(Gid::from_raw(group)).as_raw());
    if now != (user, group) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    set_capabilities(&capabilities)?;
    Ok(work())
}

/// Goes back when dropped.
struct FilesystemIds((Uid, Gid));

impl Drop for FilesystemIds {
    fn drop(&mut self) {
        setfsgid(self.0.1);
        // Back to 0 gives the capabilities back as well.
        setfsuid(self.0.0);
    }
}

fn capabilities() -> io::Result<[CapabilityData; 2]> {
    let mut header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut data = [CapabilityData::default(); 2];
    // SAFETY: version 3 writes two structures, which is what there is room for; the header may be written too.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(data) }
}

fn set_capabilities(data: &[CapabilityData; 2]) -> io::Result<()> {
    let mut header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    // SAFETY: version 3 reads two structures, and there are two; the header may be written.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A copy of the one mount at `place`, attached nowhere, with other owners.
pub fn mapped_copy(place: BorrowedFd<'_>, namespace: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    let tree = if recursive { super::graft::copy_tree(place) } else { super::graft::copy_mount(place) }?;
    map_mount(tree.as_fd(), namespace, recursive)?;
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn files_are_made_in_anothers_name_with_all_rights() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        with_filesystem_ids(12_345, 54_321, || {
            File::create(&path).unwrap();
            std::os::unix::fs::chown(&path, Some(7), None).unwrap();
        })
        .unwrap();
        let found = path.metadata().unwrap();
        assert_eq!((found.uid(), found.gid()), (7, 54_321));
        File::create(dir.path().join("after")).unwrap();
        assert_eq!(dir.path().join("after").metadata().unwrap().uid(), 0);
    }
}
