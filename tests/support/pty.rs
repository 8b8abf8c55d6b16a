//! A terminal of the test's own, with the program in it as a shell would have it: leader of a session, in front.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::spawn;

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;

use super::env::{program, wait_until};

/// See the module.
#[derive(Debug)]
pub(crate) struct Typist {
    child: Child,
    master: File,
    /// Our own, to see how the terminal is left.
    slave: OwnedFd,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Typist {
    /// Starts the command in a terminal of 30 lines with 100 characters.
    #[track_caller]
    pub(crate) fn start(command: &Command) -> Self {
        let size = Winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).expect("a terminal");
        let stream = || Stdio::from(pty.slave.try_clone().expect("a descriptor"));
        // Replaces itself by the command, since it leads no group.
        let mut leader = program("setsid", ["--ctty"]);
        leader.arg(command.get_program()).args(command.get_args()).env_clear();
        leader.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        leader.current_dir(command.get_current_dir().expect("a directory"));
        let command = leader.stdin(stream()).stdout(stream()).stderr(stream());
        let child = command.spawn().expect("the command starts");
        let master = File::from(pty.master);
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut source, target) = (master.try_clone().expect("a descriptor"), Arc::clone(&shown));
        spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = source.read(&mut buffer) {
                target.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..read]);
            }
        });
        Self { child, master, slave: pty.slave, shown }
    }

    /// All that was shown so far.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    pub(crate) fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("a terminal that takes it");
    }

    #[track_caller]
    pub(crate) fn wait_for(&self, text: &str) {
        assert!(wait_until(|| self.text().contains(text)), "no `{text}` in: {}", self.text());
    }

    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&self.master, size).expect("a terminal of ours");
    }

    /// Whether the terminal is as a shell leaves it: lines, echo, and keys that make signals.
    pub(crate) fn is_cooked(&self) -> bool {
        let flags = tcgetattr(self.slave.as_fd()).expect("a terminal of ours").local_flags;
        flags.contains(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("the number of a process")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("a process that goes on");
    }

    /// Waits for the end of the command; its exit code.
    #[track_caller]
    pub(crate) fn finish(&mut self) -> i32 {
        let mut status = None;
        let ended = wait_until(|| {
            status = self.child.try_wait().expect("a child of ours");
            status.is_some()
        });
        assert!(ended, "it hangs: {}", self.text());
        status.and_then(|status| status.code()).unwrap_or(-1)
    }
}

impl Drop for Typist {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
