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
mod own_program;
mod passing;
mod process;
mod pty;
mod sealed;
mod space;
mod terminal;
mod tree;
mod userns;

pub use atomic::{sync_dir, write_atomic};
pub use bpf::attach_device_filter;
pub use file::{open_regular, read_bounded};
pub use lock::{Lock, LockMode, bind_lock_to_process};
pub use net::{bring_up_loopback, in_mount_namespace, remove_bridge, stand_in_network};
pub use nvml::{RawNvml, RawXid};
pub use own_program::{
    Helper, NotHandedOver, above_standard, own_name, own_program, own_program_io, permit_helpers, thread_count,
};
pub use passing::{receive_descriptor, send_descriptor};
pub use process::{
    close_from, die_with_parent, exit_now, exit_with_reader, fork, fork_into, has_ended, hear_signals, inherited,
    join_new_keyring, next_signal, pidfd, raise_open_files, reader_is_gone, reset_signals, send_signal, signal_process,
    write_raw,
};
pub use pty::{
    WindowSize, enlarge_pipe, make_controlling, open_peer, open_pty, set_blocking, set_nonblocking, set_window_size,
    window_size,
};
pub use sealed::seal_program;
pub use space::{free_bytes, is_tmpfs, network_file_system};
pub use terminal::{RawTerminal, is_terminal};
pub use tree::{Progress, disk_usage, remove_some, remove_tree};
pub use userns::{map_mount, mapped_copy, user_namespace, with_filesystem_ids};
