//! A program file that nobody who gets hold of it can write to (CVE-2019-5736).
//!
//! A process in a container may open the binary of ours that it was executed from, by `/proc/PID/exe` or as the interpreter of
//! a script, and wait until it may be written. So what enters containers is executed from a mount of its own that cannot be
//! written (`open_tree`(2), `mount_setattr`(2), Linux 5.12), which is in no mount namespace and costs two system calls; where
//! that cannot be made, from a copy in memory that is sealed (`memfd_create`(2), `F_ADD_SEALS`).
#![expect(unsafe_code, reason = "a system call without a safe wrapper; it says what it relies on")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::libc;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mount::OpenTreeFlags;

/// The program at `path` as a descriptor that is executed by its name in `/proc/self/fd`.
pub fn seal_program(path: &Path) -> io::Result<OwnedFd> {
    read_only_mount(path).or_else(|_| sealed_copy(path))
}

fn read_only_mount(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = rustix::mount::open_tree(rustix::fs::CWD, path, flags)?;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: mount_setattr(2) reads an empty path and a structure of the size that is given; both live through the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(mount) }
}

fn sealed_copy(path: &Path) -> io::Result<OwnedFd> {
    // Not executable on some machines unless it is asked for, and older kernels do not know the word.
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = rustix::fs::memfd_create(c"dockless", flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create(c"dockless", flags))?;
    let mut copy = File::from(memory);
    io::copy(&mut File::open(path)?, &mut copy)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&copy, seals)?;
    Ok(copy.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Opening for writing is refused, or the first write is.
    fn can_be_written(program: &OwnedFd) -> bool {
        use std::io::Write;
        let path = Path::new("/proc/self/fd").join(program.as_raw_fd().to_string());
        File::options().write(true).open(path).is_ok_and(|mut file| file.write(b"x").is_ok())
    }

    #[test]
    fn nobody_writes_to_what_is_sealed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        std::fs::write(&path, "content").unwrap();
        assert!(can_be_written(&File::options().read(true).open(&path).unwrap().into()), "the test proves nothing");
        let copy = sealed_copy(&path).unwrap();
        assert!(!can_be_written(&copy));
        // Only root may make mounts.
        if nix::unistd::geteuid().is_root() {
            assert!(!can_be_written(&read_only_mount(&path).unwrap()));
            assert!(!can_be_written(&seal_program(&path).unwrap()));
        }
    }
}
