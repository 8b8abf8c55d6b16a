//! The system calls that need care, each behind a safe function; the only place for `unsafe`.

mod atomic;
pub mod beneath;
mod bpf;
mod file;
pub mod graft;
mod lock;
pub mod mount;
mod net;
mod nvml;
mod process;
mod space;
mod tree;

pub use atomic::{sync_dir, write_atomic};
pub use bpf::attach_device_filter;
pub use file::{open_regular, read_bounded};
pub use lock::{Lock, LockMode, bind_lock_to_process};
pub use net::{bring_up_loopback, in_mount_namespace, remove_bridge, stand_in_network};
pub use nvml::{RawNvml, RawXid};
pub use process::{
    die_with_parent, exit_now, inherited, join_new_keyring, pidfd, raise_open_files, reader_is_gone, reset_signals,
    send_signal, signal_process, write_raw,
};
pub use space::{free_bytes, is_tmpfs, network_file_system};
pub use tree::{Progress, disk_usage, remove_some, remove_tree};
