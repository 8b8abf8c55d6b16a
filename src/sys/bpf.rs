//! Device filters of cgroup v2: bpf(2) programs of the kind `BPF_PROG_TYPE_CGROUP_DEVICE`.
//!
//! The layout of what is handed to the kernel is that of `union bpf_attr` in `linux/bpf.h`, which is part of its interface
//! and only ever grows at its end.
#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper; the call says what it relies on")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::libc;

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
/// Beside programs of cgroups above and of others at the same cgroup: all of them must agree.
const BPF_F_ALLOW_MULTI: u32 = 2;

/// The beginning of `bpf_attr` for `BPF_PROG_LOAD`; what follows is zero.
#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
}

/// The beginning of `bpf_attr` for `BPF_PROG_ATTACH`.
#[repr(C)]
struct Attach {
    target_fd: u32,
    program_fd: u32,
    kind: u32,
    flags: u32,
}

/// Loads a device filter, given as its instructions, and attaches it to a cgroup, with which it goes.
pub fn attach_device_filter(cgroup: BorrowedFd<'_>, program: &[u64]) -> io::Result<()> {
    let load = Load {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).map_err(io::Error::other)?,
        insns: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
    };
    let fd = bpf(BPF_PROG_LOAD, &load)?;
    // SAFETY: BPF_PROG_LOAD gave a new descriptor that nobody else knows.
    let loaded = unsafe { OwnedFd::from_raw_fd(fd) };
    let attach = Attach {
        target_fd: number(cgroup.as_raw_fd())?,
        program_fd: number(loaded.as_raw_fd())?,
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    bpf(BPF_PROG_ATTACH, &attach).map(drop)
}

fn number(fd: i32) -> io::Result<u32> {
    u32::try_from(fd).map_err(io::Error::other)
}

/// `T` must be the beginning of `bpf_attr` as `command` wants it, and the pointers in it must be good for reading.
fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<i32> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of `attributes`, which are plain integers without padding, takes the
    // rest of its own structure for zero, and copies what the pointers lead to before the call returns.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { i32::try_from(result).map_err(io::Error::other) }
}
