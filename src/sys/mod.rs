//! The system calls that need care, each behind a safe function; the only place for `unsafe`.

mod atomic;
pub mod beneath;
mod lock;

pub use atomic::{sync_dir, write_atomic};
pub use lock::{Lock, LockMode};
