//! One check in the container while it goes on: the process behind an `exec` once more, but heard from a loop that waits for
//! nothing. Starting, output, end and death are what poll(2) tells.
//!
//! The request is sent as far as the socket takes it, the pipe is emptied, and the helper is waited for once its pidfd says
//! that it has ended. When this is dropped the helper is killed and waited for; the command in the container dies with it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::rc::Rc;

use nix::poll::PollFlags;
use rustix::net::{SendFlags, send};

use super::exec::{EXEC_ARGV0, ExecEvent, ExecOrder};
use super::launch::spawn_again;
use super::mask::{MaskedStream, Masker};
use super::protocol::{send_head, send_line};
use crate::container::Member;
use crate::sys;

/// So much of the output is kept, docker's number.
const MAX_OUTPUT_BYTES: usize = 4096;
/// Longest words of the helper; a failure with a path or two.
const MAX_HEARD_BYTES: usize = 128 << 10;
/// So much is read at a time, so that a check that writes without end does not hold up anything else.
const READ_BYTES: usize = 64 << 10;
/// What is told when the helper has ended without a word.
const HELPER_LOST: i32 = 125;

/// See the module.
pub(super) struct Probe {
    /// Was not waited for yet.
    helper: Child,
    ended: OwnedFd,
    /// `None` when nothing more can come from it.
    socket: Option<UnixStream>,
    /// The request, and how much of it was sent.
    body: Rc<[u8]>,
    sent: usize,
    heard: Vec<u8>,
    /// `None` when nobody writes any more.
    output: Option<File>,
    kept: Kept,
}

/// What a check has said.
pub(super) struct ProbeEnd {
    pub(super) exit_code: i32,
    pub(super) output: String,
}

impl Probe {
    /// Begins one. `body` is the request for the helper.
    pub(super) fn begin(body: &Rc<[u8]>, init: &Member, masker: &Masker) -> io::Result<Self> {
        let null = File::open("/dev/null")?;
        let (output, theirs) = io::pipe()?;
        let (ours, helpers) = UnixStream::pair()?;
        send_head(&ours, body.len(), &[init.pidfd().as_fd(), null.as_fd(), theirs.as_fd(), theirs.as_fd()])?;
        ours.set_nonblocking(true)?;
        let output = File::from(OwnedFd::from(output));
        rustix::io::ioctl_fionbio(&output, true)?;
        let mut helper = spawn_again(EXEC_ARGV0, helpers)?;
        let pid = i32::try_from(helper.id()).unwrap_or_default();
        let ended = sys::pidfd(nix::unistd::Pid::from_raw(pid)).inspect_err(|_| {
            drop(helper.kill());
            drop(helper.wait());
        })?;
        Ok(Self {
            helper,
            ended,
            socket: Some(ours),
            body: Rc::clone(body),
            sent: 0,
            heard: Vec::new(),
            output: Some(output),
            kept: Kept { masked: masker.stream(), bytes: Vec::new() },
        })
    }

    /// All that something may come from.
    pub(super) fn fds(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let wanted =
            if self.sent < self.body.len() { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN };
        let socket = self.socket.as_ref().map(|socket| (socket.as_fd(), wanted));
        let output = self.output.as_ref().map(|output| (output.as_fd(), PollFlags::POLLIN));
        [Some((self.ended.as_fd(), PollFlags::POLLIN)), socket, output].into_iter().flatten()
    }

    /// Takes what has come; its end, once.
    pub(super) fn advance(&mut self, buffer: &mut [u8]) -> Option<ProbeEnd> {
        self.send_more();
        self.hear(buffer);
        self.take_output(buffer);
        if !sys::has_ended(self.ended.as_fd()) {
            return None;
        }
        // What it said before its end. What others that it left behind will still write is nobody's.
        self.hear(buffer);
        self.take_output(buffer);
        let _ = self.helper.try_wait();
        let (exit_code, message) = self.said();
        let written = self.kept.finish();
        let output = match message {
            None => written,
            Some(message) => bounded(&format!("{written}{}", self.kept.mask(&message)), MAX_OUTPUT_BYTES).to_owned(),
        };
        Some(ProbeEnd { exit_code, output })
    }

    /// What was written so far, of a check that is not waited for, and why that is so.
    pub(super) fn output_so_far(&mut self, why: &str) -> String {
        let written = self.kept.finish();
        let written = bounded(&written, MAX_OUTPUT_BYTES.saturating_sub(why.len() + 1));
        let gap = if written.is_empty() || written.ends_with('\n') { "" } else { "\n" };
        format!("{written}{gap}{why}")
    }

    /// Ends the check and all that is in its session. False when there is nobody to tell that.
    pub(super) fn kill(&mut self) -> bool {
        let was_sent = self.sent == self.body.len();
        let told = self.socket.as_ref().filter(|_| was_sent).map(|socket| send_line(socket, &ExecOrder::Kill));
        told.is_some_and(|told| told.is_ok())
    }

    /// Ends the helper itself; the command goes with it.
    pub(super) fn kill_helper(&mut self) {
        drop(self.helper.kill());
    }

    fn send_more(&mut self) {
        let Some(socket) = self.socket.as_ref().filter(|_| self.sent < self.body.len()) else { return };
        match send(socket, &self.body[self.sent..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) => self.sent += sent,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            // It has ended, which its pidfd tells.
            Err(_) => self.socket = None,
        }
    }

    fn hear(&mut self, buffer: &mut [u8]) {
        let Some(mut socket) = self.socket.as_ref() else { return };
        match socket.read(buffer) {
            Ok(read @ 1..) if self.heard.len() + read <= MAX_HEARD_BYTES => {
                self.heard.extend_from_slice(&buffer[..read]);
            }
            Err(error) if is_for_later(&error) => {}
            _ => self.socket = None,
        }
    }

    fn take_output(&mut self, buffer: &mut [u8]) {
        let Some(output) = &mut self.output else { return };
        let size = buffer.len().min(READ_BYTES);
        match output.read(&mut buffer[..size]) {
            Ok(read @ 1..) => self.kept.push(&buffer[..read]),
            Err(error) if is_for_later(&error) => {}
            _ => self.output = None,
        }
    }

    /// The exit code, and what there is to say beside the output.
    fn said(&self) -> (i32, Option<String>) {
        let mut events = self.heard.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
        match events.next_back() {
            Some(ExecEvent::Exited { code }) => (code, None),
            Some(ExecEvent::Failed { failure }) => (failure.code, Some(failure.message)),
            Some(ExecEvent::Started) | None => (HELPER_LOST, Some("the check was killed with its helper".to_owned())),
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        drop(self.helper.kill());
        drop(self.helper.wait());
    }
}

fn is_for_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// The beginning of the output, without secrets.
struct Kept {
    masked: MaskedStream,
    bytes: Vec<u8>,
}

impl Kept {
    fn push(&mut self, bytes: &[u8]) {
        if self.bytes.len() < MAX_OUTPUT_BYTES {
            self.masked.push(bytes, &mut self.bytes);
        }
    }

    fn finish(&mut self) -> String {
        self.masked.finish(&mut self.bytes);
        bounded(&String::from_utf8_lossy(&self.bytes), MAX_OUTPUT_BYTES).to_owned()
    }

    fn mask(&mut self, text: &str) -> String {
        let mut masked = Vec::new();
        self.masked.push(text.as_bytes(), &mut masked);
        self.masked.finish(&mut masked);
        String::from_utf8_lossy(&masked).into_owned()
    }
}

/// The beginning, without half of a character.
fn bounded(text: &str, max_bytes: usize) -> &str {
    let end = (0..=max_bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or_default()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_is_masked_and_bounded() {
        let masker = Masker::new(&["s3cret".to_owned()]);
        let mut kept = Kept { masked: masker.stream(), bytes: Vec::new() };
        kept.push(b"a s3c");
        kept.push(b"ret b\xff");
        assert_eq!(kept.finish(), "a **** b\u{fffd}");
        let mut kept = Kept { masked: masker.stream(), bytes: Vec::new() };
        (0..1000).for_each(|_| kept.push("ä\u{1}€".as_bytes()));
        kept.push(b"s3cret");
        let text = kept.finish();
        assert!((MAX_OUTPUT_BYTES - 3..=MAX_OUTPUT_BYTES).contains(&text.len()) && !text.contains("s3cret"));
    }
}
