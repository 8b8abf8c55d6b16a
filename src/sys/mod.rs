//! The system calls that need care, each behind a safe function; the only place for `unsafe`.

mod atomic;
pub mod beneath;
mod bpf;
mod lock;
pub mod mount;
mod net;
mod nvml;
mod process;
mod tree;

pub use atomic::{sync_dir, write_atomic};
pub use bpf::attach_device_filter;
pub use lock::{Lock, LockMode, bind_lock_to_process};
pub use net::bring_up_loopback;
pub use nvml::{RawNvml, RawXid};
pub use process::{
    exit_now, join_new_keyring, pidfd, raise_open_files, reader_is_gone, reset_signals, send_signal, write_raw,
};
pub use tree::{disk_usage, remove_tree};
