//! Whoever the supervisor talks with: the command line that started it, and others that have come to its socket.
//!
//! The socket `control` stands in the run's directory, which only root may enter. Everybody hears every event and may give
//! orders; only the end of the first one means something to the run.

use std::fs::{self, File};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send};

use super::protocol::{Event, Order, send_line};

/// Longest order; who sends more is no friend.
const MAX_ORDER_BYTES: usize = 4096;
/// How many others are listened to at a time.
const MAX_GUESTS: usize = 256;
/// Descriptors that come with an order: output, errors, input.
const MAX_DESCRIPTORS: usize = 3;

/// One end that orders come from.
#[derive(Debug)]
struct Speaker {
    socket: UnixStream,
    begun: Vec<u8>,
    /// Came with an order that has not been obeyed yet.
    descriptors: Vec<OwnedFd>,
}

/// What somebody said.
pub(super) enum Heard {
    /// Orders, perhaps none yet.
    Orders(Vec<Order>),
    /// Nothing ever again.
    End,
}

/// Who listens. The first speaker is the command line.
#[derive(Debug)]
pub(super) struct Audience {
    client: Speaker,
    client_is_here: bool,
    listener: Option<UnixListener>,
    guests: Vec<Speaker>,
}

/// One of the audience.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seat {
    Client,
    /// Somebody is at the door.
    Door,
    Guest(usize),
}

impl Audience {
    /// The command line alone.
    pub(super) const fn new(client: UnixStream) -> Self {
        let client = Speaker::new(client);
        Self { client, client_is_here: true, listener: None, guests: Vec::new() }
    }

    /// Lets others in through the socket at `path`.
    pub(super) fn open(&mut self, path: &Path) -> io::Result<()> {
        self.listener = Some(at_socket(path, |short| UnixListener::bind(short))?);
        self.listener.as_ref().map_or(Ok(()), |listener| listener.set_nonblocking(true))
    }

    /// Tells everybody. Whoever is gone, or does not listen, is not waited for; but the command line is.
    pub(super) fn tell(&mut self, event: &Event) {
        if self.client_is_here {
            drop(send_line(&self.client.socket, event));
        }
        let mut line = serde_json::to_vec(event).unwrap_or_default();
        line.push(b'\n');
        self.guests.retain(|guest| {
            let sent = send(&guest.socket, &line, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
            sent.is_ok_and(|sent| sent == line.len())
        });
    }

    /// The command line's end of the socket is closed.
    pub(super) fn client_is_gone(&self) -> bool {
        let mut fds = [PollFd::new(self.client.socket.as_fd(), PollFlags::empty())];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
            && fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
    }

    /// All that something may come from.
    pub(super) fn seats(&self) -> Vec<(Seat, BorrowedFd<'_>)> {
        let client = self.client_is_here.then(|| (Seat::Client, self.client.socket.as_fd()));
        let door = self.listener.as_ref().filter(|_| self.guests.len() < MAX_GUESTS);
        let door = door.map(|listener| (Seat::Door, listener.as_fd()));
        let guests = self.guests.iter().enumerate().map(|(index, guest)| (Seat::Guest(index), guest.socket.as_fd()));
        client.into_iter().chain(door).chain(guests).collect()
    }

    /// What came from there.
    pub(super) fn hear(&mut self, seat: Seat) -> Heard {
        match seat {
            Seat::Client => {
                let heard = self.client.hear();
                self.client_is_here = matches!(heard, Heard::Orders(_));
                heard
            }
            Seat::Guest(index) => self.guests.get_mut(index).map_or(Heard::End, Speaker::hear),
            Seat::Door => {
                let guest = self.listener.as_ref().and_then(|listener| listener.accept().ok());
                self.guests.extend(guest.map(|(socket, _)| Speaker::new(socket)));
                Heard::Orders(Vec::new())
            }
        }
    }

    /// What came with the order that was just heard from there.
    pub(super) fn take_descriptors(&mut self, seat: Seat) -> Vec<OwnedFd> {
        let speaker = match seat {
            Seat::Client => Some(&mut self.client),
            Seat::Guest(index) => self.guests.get_mut(index),
            Seat::Door => None,
        };
        speaker.map(|speaker| std::mem::take(&mut speaker.descriptors)).unwrap_or_default()
    }

    /// Tells the one guest who gave an order what became of it.
    pub(super) fn answer(&self, seat: Seat, event: &Event) {
        let Seat::Guest(index) = seat else { return };
        let Some(guest) = self.guests.get(index) else { return };
        let mut line = serde_json::to_vec(event).unwrap_or_default();
        line.push(b'\n');
        let _ = send(&guest.socket, &line, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }

    /// Lets those go who have ended, last ones first.
    pub(super) fn dismiss(&mut self, mut ended: Vec<usize>) {
        ended.sort_unstable();
        for index in ended.into_iter().rev() {
            drop(self.guests.remove(index));
        }
    }
}

impl Speaker {
    const fn new(socket: UnixStream) -> Self {
        Self { socket, begun: Vec::new(), descriptors: Vec::new() }
    }

    fn hear(&mut self) -> Heard {
        let mut buffer = [0; MAX_ORDER_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(&self.socket, &mut [IoSliceMut::new(&mut buffer)], &mut ancillary, flags);
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(list) = message {
                self.descriptors = list.collect();
            }
        }
        match received.map(|received| received.bytes) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Heard::Orders(Vec::new()),
            Ok(read @ 1..) => {
                self.begun.extend_from_slice(&buffer[..read]);
                let orders = self.whole_lines();
                if self.begun.len() > MAX_ORDER_BYTES { Heard::End } else { Heard::Orders(orders) }
            }
            Ok(_) | Err(_) => Heard::End,
        }
    }

    fn whole_lines(&mut self) -> Vec<Order> {
        let end = self.begun.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let lines: Vec<u8> = self.begun.drain(..end).collect();
        lines.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
    }
}

/// Comes to the socket of a run that goes on, for `stop` and `wait`.
pub fn come_to(path: &Path) -> io::Result<UnixStream> {
    at_socket(path, |short| UnixStream::connect(short))
}

/// Does something with the socket at a path, which may be longer than the 107 bytes of an address (unix(7)).
pub(super) fn at_socket<T>(path: &Path, work: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let missing = || io::Error::from(io::ErrorKind::InvalidInput);
    let directory = File::open(path.parent().ok_or_else(missing)?)?;
    let name = path.file_name().ok_or_else(missing)?;
    let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    if fs::symlink_metadata(&short).is_ok_and(|found| found.file_type().is_symlink()) {
        return Err(missing());
    }
    work(&short)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};

    use super::super::protocol::StopReason;
    use super::*;

    #[test]
    fn guests_hear_and_are_heard() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(200));
        fs::create_dir(&deep).unwrap();
        let path = deep.join("control");
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut audience = Audience::new(theirs);
        audience.open(&path).unwrap();
        let mut guest = come_to(&path).unwrap();
        assert!(matches!(audience.hear(Seat::Door), Heard::Orders(orders) if orders.is_empty()));
        let order = Order::Stop { reason: StopReason::Stopped, grace_ms: Some(5), signal: None };
        let line = serde_json::to_string(&order).unwrap() + "\n";
        let (begin, end) = line.split_at(9);
        guest.write_all(format!("nonsense\n{begin}").as_bytes()).unwrap();
        assert!(matches!(audience.hear(Seat::Guest(0)), Heard::Orders(orders) if orders.is_empty()));
        guest.write_all(end.as_bytes()).unwrap();
        assert!(matches!(audience.hear(Seat::Guest(0)), Heard::Orders(orders) if orders == [order]));

        let event = Event::Started { pid: 7 };
        audience.tell(&event);
        for socket in [&ours, &guest] {
            let mut line = String::new();
            BufReader::new(socket).read_line(&mut line).unwrap();
            assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event);
        }
        drop(guest);
        assert!(matches!(audience.hear(Seat::Guest(0)), Heard::End));
        audience.dismiss(vec![0]);
        assert_eq!(audience.seats().len(), 2);
        assert!(!audience.client_is_gone());
        drop(ours);
        assert!(audience.client_is_gone());
        assert!(matches!(audience.hear(Seat::Client), Heard::End));
        assert_eq!(audience.seats().len(), 1);
    }

    #[test]
    fn a_guest_that_does_not_listen_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let (_ours, theirs) = UnixStream::pair().unwrap();
        let mut audience = Audience::new(theirs);
        audience.client_is_here = false;
        audience.open(&dir.path().join("control")).unwrap();
        let _guest = come_to(&dir.path().join("control")).unwrap();
        audience.hear(Seat::Door);
        let text = "x".repeat(1000);
        for _ in 0..10_000 {
            audience.tell(&Event::Warning { text: text.clone() });
        }
        assert!(audience.guests.is_empty());
    }
}
