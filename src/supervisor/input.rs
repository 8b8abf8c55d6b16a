//! What containers read: from the command line, and from whoever is attached, through one pipe or a terminal of ours.
//!
//! Little is held: nothing is read from anybody while something waits for the container to take it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sys;

/// Where the relay has to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inlet {
    /// The container takes more.
    Room,
    /// Somebody has written.
    Source(usize),
}

/// See the module.
pub(super) struct Input {
    /// Our end of what the container reads; `None` for one that reads nothing, or no more, and between two terminals.
    target: Option<File>,
    /// Something is taken from whoever comes.
    is_open: bool,
    sources: Vec<Source>,
    pending: Vec<u8>,
    /// It ends with a key (EOT), not by being closed.
    is_terminal: bool,
    /// The command line has given all it has to give.
    has_ended: bool,
}

/// What a terminal in its usual mode takes as the end of the input: Ctrl-D.
const END_KEY: u8 = 0x04;

struct Source {
    file: File,
    /// Its end of file is the container's.
    closes: bool,
}

impl Input {
    /// `target` is the pipe that containers read, `first` what the command line has given for it.
    ///
    /// The containers' input ends with the command line's; that of a run that nobody stays with never does.
    pub(super) fn of_pipe(target: Option<OwnedFd>, first: Option<OwnedFd>) -> io::Result<Self> {
        if let Some(target) = &target {
            sys::set_nonblocking(target.as_fd())?;
        }
        let is_open = target.is_some();
        Ok(Self { target: target.map(File::from), is_open, ..Self::from_first(first, false) })
    }

    /// The terminals come one after the other, see [`Self::lead_to`].
    pub(super) fn of_terminal(is_open: bool, first: Option<OwnedFd>) -> Self {
        Self { is_open, ..Self::from_first(first, true) }
    }

    fn from_first(first: Option<OwnedFd>, is_terminal: bool) -> Self {
        let first = first.map(|file| Source { file: File::from(file), closes: true });
        let sources = first.into_iter().collect();
        Self { target: None, is_open: false, sources, pending: Vec::new(), is_terminal, has_ended: false }
    }

    /// The pipe, while it is written to.
    pub(super) fn target(&self) -> Option<BorrowedFd<'_>> {
        self.target.as_ref().map(File::as_fd)
    }

    /// A container has a terminal, whose master this is; it must not wait.
    pub(super) fn lead_to(&mut self, terminal: OwnedFd) {
        self.target = Some(File::from(terminal));
        if self.has_ended && self.pending.last() != Some(&END_KEY) {
            self.pending.push(END_KEY);
        }
    }

    /// The container with the terminal has ended. A pipe stays.
    pub(super) fn lead_nowhere(&mut self) {
        if self.is_terminal {
            self.target = None;
        }
    }

    /// Somebody more who writes.
    pub(super) fn add(&mut self, source: OwnedFd) {
        if self.is_open {
            self.sources.push(Source { file: File::from(source), closes: false });
        }
    }

    /// All that something may come from, and whether it is room that is waited for.
    pub(super) fn inlets(&self) -> Vec<(Inlet, BorrowedFd<'_>)> {
        match &self.target {
            Some(target) if !self.pending.is_empty() => vec![(Inlet::Room, target.as_fd())],
            Some(_) => {
                let sources = self.sources.iter().enumerate();
                sources.map(|(index, source)| (Inlet::Source(index), source.file.as_fd())).collect()
            }
            None => Vec::new(),
        }
    }

    /// Takes what has come there.
    pub(super) fn advance(&mut self, inlet: Inlet, buffer: &mut [u8]) {
        if let Inlet::Source(index) = inlet {
            let Some(source) = self.sources.get_mut(index) else { return };
            match source.file.read(buffer) {
                Ok(read @ 1..) => self.pending.extend_from_slice(&buffer[..read]),
                Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                Ok(_) | Err(_) => {
                    if self.sources.swap_remove(index).closes {
                        self.end();
                    }
                }
            }
        }
        self.write();
    }

    fn write(&mut self) {
        let Some(target) = &mut self.target else { return };
        while !self.pending.is_empty() {
            match target.write(&self.pending) {
                Ok(0) => return,
                Ok(written) => drop(self.pending.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // It is hung up; another may come.
                Err(_) if self.is_terminal => return self.lead_nowhere(),
                // The container reads no more. Whoever writes hears of it from a closed pipe.
                Err(_) => return self.close(),
            }
        }
    }

    /// Whoever stays with the run leaves it: the end of what it has given is not the end.
    pub(super) fn keep_open(&mut self) {
        self.sources.iter_mut().for_each(|source| source.closes = false);
    }

    fn end(&mut self) {
        if self.is_terminal {
            self.has_ended = true;
            self.pending.push(END_KEY);
        } else {
            self.close();
        }
    }

    fn close(&mut self) {
        self.target = None;
        self.is_open = false;
        self.sources.clear();
        self.pending.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the relay does: only what is ready is looked at.
    fn pump(input: &mut Input) {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        for _ in 0..4 {
            let ready = |fd: BorrowedFd<'_>| {
                let mut fds = [PollFd::new(fd, PollFlags::POLLIN | PollFlags::POLLOUT)];
                poll(&mut fds, PollTimeout::ZERO).is_ok_and(|count| count > 0)
            };
            let inlets: Vec<Inlet> =
                input.inlets().into_iter().filter(|(_, fd)| ready(*fd)).map(|(inlet, _)| inlet).collect();
            for inlet in inlets.into_iter().rev() {
                input.advance(inlet, &mut [0; 64]);
            }
        }
    }

    /// A pipe in the place of a terminal.
    fn terminal(target: io::PipeWriter, first: io::PipeReader) -> Input {
        sys::set_nonblocking(target.as_fd()).unwrap();
        let mut input = Input::of_terminal(true, Some(first.into()));
        input.lead_to(target.into());
        input
    }

    #[test]
    fn the_end_of_the_first_is_the_end_but_that_of_a_guest_is_not() {
        let (mut reader, target) = io::pipe().unwrap();
        let (first, mut writer) = io::pipe().unwrap();
        let mut input = Input::of_pipe(Some(target.into()), Some(first.into())).unwrap();
        let (guest, mut guest_writer) = io::pipe().unwrap();
        input.add(guest.into());
        guest_writer.write_all(b"guest ").unwrap();
        drop(guest_writer);
        writer.write_all(b"first ").unwrap();
        pump(&mut input);
        writer.write_all(b"more").unwrap();
        drop(writer);
        pump(&mut input);
        let mut all = String::new();
        reader.read_to_string(&mut all).unwrap();
        assert!(all.contains("guest ") && all.ends_with("more"), "{all}");
    }

    #[test]
    fn a_terminal_ends_with_a_key_unless_it_was_left() {
        for (leaves, expected) in [(false, "x\x04"), (true, "x")] {
            let (mut reader, target) = io::pipe().unwrap();
            let (first, mut writer) = io::pipe().unwrap();
            let mut input = terminal(target, first);
            writer.write_all(b"x").unwrap();
            if leaves {
                input.keep_open();
            }
            drop(writer);
            pump(&mut input);
            drop(input);
            let mut all = String::new();
            reader.read_to_string(&mut all).unwrap();
            assert_eq!(all, expected);
        }
    }

    #[test]
    fn every_terminal_is_told_that_the_input_has_ended() {
        let (mut reader, target) = io::pipe().unwrap();
        let (first, writer) = io::pipe().unwrap();
        let mut input = terminal(target, first);
        drop(writer);
        pump(&mut input);
        input.lead_nowhere();
        let mut all = String::new();
        reader.read_to_string(&mut all).unwrap();
        let (mut reader, target) = io::pipe().unwrap();
        sys::set_nonblocking(target.as_fd()).unwrap();
        input.lead_to(target.into());
        pump(&mut input);
        drop(input);
        reader.read_to_string(&mut all).unwrap();
        assert_eq!(all, "\x04\x04");
    }

    #[test]
    fn nobody_is_read_while_the_container_does_not_take_more() {
        let (reader, target) = io::pipe().unwrap();
        let (first, mut writer) = io::pipe().unwrap();
        let mut input = terminal(target, first);
        for _ in 0..40 {
            if input.inlets().iter().any(|(inlet, _)| *inlet == Inlet::Source(0)) {
                writer.write_all(&[b'x'; 4096]).unwrap();
                input.advance(Inlet::Source(0), &mut [0; 4096]);
            }
        }
        assert_eq!(input.inlets()[0].0, Inlet::Room);
        assert!(input.pending.len() <= 4096);
        drop(reader);
        input.advance(Inlet::Room, &mut []);
        assert!(input.inlets().is_empty());
        // The next terminal gets what this one did not take, and what comes meanwhile.
        writer.write_all(b"more").unwrap();
        let (mut reader, target) = io::pipe().unwrap();
        let kept = input.pending.len();
        sys::set_nonblocking(target.as_fd()).unwrap();
        input.lead_to(target.into());
        pump(&mut input);
        drop(input);
        let mut all = String::new();
        reader.read_to_string(&mut all).unwrap();
        assert!(kept > 0 && all.len() == kept + 4 && all.ends_with("more"), "{kept} {}", all.len());
    }
}
