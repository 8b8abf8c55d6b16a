//! The terminal that we were started from: raw while a container's terminal is shown in it, and as it was afterwards.
//!
//! "Afterwards" is each end that a process can see: the value is dropped, or a panic runs the hook. Nothing helps against
//! SIGKILL to ourselves.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, Once, PoisonError};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// How standard input was, while it is raw.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);
static HOOK: Once = Once::new();

/// Standard input is raw as long as this lives; there is one at a time.
#[derive(Debug)]
pub struct RawTerminal(());

impl RawTerminal {
    /// Makes the terminal on standard input raw: bytes pass as they are, Ctrl-C among them.
    pub fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        HOOK.call_once(|| {
            let next = std::panic::take_hook();
            // A panic may abort the process: nothing is dropped then.
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                next(panic);
            }));
        });
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        let this = Self(());
        tcsetattr(io::stdin(), OptionalActions::Drain, &raw)?;
        Ok(this)
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    // In a panic somebody else may hold it; that would be `enter`, a moment before it does anything.
    let before = match BEFORE.try_lock() {
        Ok(mut before) => before.take(),
        Err(std::sync::TryLockError::Poisoned(before)) => before.into_inner().take(),
        Err(std::sync::TryLockError::WouldBlock) => None,
    };
    if let Some(before) = before {
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &before);
    }
}

/// Whether the descriptor is a terminal.
#[must_use]
pub fn is_terminal(file: BorrowedFd<'_>) -> bool {
    rustix::termios::isatty(file.as_fd())
}
