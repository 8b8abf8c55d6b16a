//! Ports that a workload listens on. With the network of the machine they are the machine's own: nothing is mapped, so
//! all there is to do is to see that they are free and to say where the workload is reached.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::str::FromStr;
use std::{fmt, num::NonZeroU16};

/// State of a listening socket in `/proc/net/tcp` (`TCP_LISTEN` in `net/tcp_states.h`).
const LISTENING: &str = "0A";

/// A port as it is asked for: `8080`, or `8080:80` for port 80 of the container on port 8080 of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    host: NonZeroU16,
    container: NonZeroU16,
}

impl Port {
    /// The port of the machine.
    #[must_use]
    pub const fn host(self) -> u16 {
        self.host.get()
    }

    /// The port that the workload listens on.
    #[must_use]
    pub const fn container(self) -> u16 {
        self.container.get()
    }
}

impl FromStr for Port {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || PortError::Malformed(text.to_owned());
        let number = |text: &str| {
            let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| text.parse().ok()).flatten().ok_or_else(bad)
        };
        let (host, container) = text.split_once(':').unwrap_or((text, text));
        Ok(Self { host: number(host)?, container: number(container)? })
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host == self.container {
            write!(f, "{}", self.host)
        } else {
            write!(f, "{}:{}", self.host, self.container)
        }
    }
}

/// Why ports cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Not a port at all.
    #[error("port `{0}` is malformed, expected a number from 1 to 65535 or `HOST:CONTAINER`")]
    Malformed(String),
    /// Two entries want the same port of the machine.
    #[error("the ports `{first}` and `{second}` are the same port of this machine, {}", .first.host())]
    Twice {
        /// The entry.
        first: Port,
        /// The other.
        second: Port,
    },
    /// Somebody listens there.
    #[error("port {port} is in use{}\nhint: stop what listens there, or let the workload listen on another port", by(.holder.as_ref()))]
    InUse {
        /// The port.
        port: u16,
        /// Who, where it can be told.
        holder: Option<Holder>,
    },
    /// It cannot be had for another reason, like a missing privilege.
    #[error("cannot listen on port {port} of this machine")]
    Bind {
        /// The port.
        port: u16,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn by(holder: Option<&Holder>) -> String {
    holder.map_or_else(String::new, |holder| format!(": process {} (`{}`) listens there", holder.pid, holder.name))
}

/// A process that listens on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// What the kernel calls it (`proc_pid_comm(5)`), made harmless.
    pub name: String,
}

/// Finds entries that contradict each other. Pure.
pub fn distinct(ports: &[Port]) -> Result<(), PortError> {
    for (at, second) in ports.iter().enumerate() {
        if let Some(first) = ports[..at].iter().find(|first| first.host == second.host) {
            return Err(PortError::Twice { first: *first, second: *second });
        }
    }
    Ok(())
}

/// Sees that the workload can listen on its ports on this machine. A port may be taken between this and the workload's
/// start; then the workload itself is told by the kernel.
pub fn check_free(ports: &[Port]) -> Result<(), PortError> {
    distinct(ports)?;
    for port in ports.iter().map(|port| port.container()) {
        match listen(port) {
            Ok(()) => {}
            Err(source) if source.kind() == io::ErrorKind::AddrInUse => {
                return Err(PortError::InUse { port, holder: holder_of(port) });
            }
            Err(source) => return Err(PortError::Bind { port, source }),
        }
    }
    Ok(())
}

/// Finds so many ports of this machine that nobody listens on. As with [`check_free`], one may be taken meanwhile.
pub fn free(count: u16) -> Result<Vec<Port>, PortError> {
    let bind = |source| PortError::Bind { port: 0, source };
    // All at once: a port that is given back could be found again.
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))).collect::<io::Result<_>>().map_err(bind)?;
    let ports = listeners.iter().filter_map(|listener| NonZeroU16::new(listener.local_addr().ok()?.port()));
    Ok(ports.map(|port| Port { host: port, container: port }).collect())
}

/// What to say of ports that are mapped, where nothing maps them.
#[must_use]
pub fn warnings(ports: &[Port]) -> Vec<String> {
    let mapped = ports.iter().filter(|port| port.host != port.container);
    mapped
        .map(|port| {
            let (host, container) = (port.host, port.container);
            format!("port `{port}`: with the machine's network the workload is reached on {container}, not on {host}")
        })
        .collect()
}

/// Where the workload is reached, for people; `None` without ports.
#[must_use]
pub fn listening(ports: &[Port]) -> Option<String> {
    let mut numbers: Vec<u16> = ports.iter().map(|port| port.container()).collect();
    numbers.dedup();
    let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    (!numbers.is_empty()).then(|| format!("listening ports: {}", numbers.join(", ")))
}

/// Listens for a moment on all addresses, of either family. The standard library sets `SO_REUSEADDR`, so that a port whose
/// last connections are only fading away counts as free.
fn listen(port: u16) -> io::Result<()> {
    drop(TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?);
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))) {
        // A machine without IPv6.
        Err(error)
            if error.kind() == io::ErrorKind::AddrNotAvailable
                || error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT) =>
        {
            Ok(())
        }
        tried => tried.map(drop),
    }
}

/// Who listens on the port, as far as `/proc` lets it be known: the socket's inode is in `net/tcp`, and a link to it
/// among the descriptors of its process (`proc_pid_net(5)`, `proc_pid_fd(5)`).
pub(super) fn holder_of(port: u16) -> Option<Holder> {
    holder(port, Path::new("/proc"))
}

/// The same with another `/proc`.
fn holder(port: u16, proc: &Path) -> Option<Holder> {
    let sockets: Vec<String> = ["net/tcp", "net/tcp6"]
        .iter()
        .flat_map(|table| inodes(&fs::read_to_string(proc.join(table)).unwrap_or_default(), port))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    if sockets.is_empty() {
        return None;
    }
    for process in fs::read_dir(proc).ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(mut descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        let holds = descriptors.any(|descriptor| {
            let target = descriptor.and_then(|descriptor| fs::read_link(descriptor.path()));
            target.is_ok_and(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str()))
        });
        if holds {
            let name = fs::read(process.path().join("comm")).unwrap_or_default();
            return Some(Holder { pid, name: crate::words::printable(String::from_utf8_lossy(&name).trim()) });
        }
    }
    None
}

/// Inodes of the sockets that listen on the port, in a table of the form of `/proc/net/tcp`.
fn inodes(table: &str, port: u16) -> Vec<String> {
    let port = format!(":{port:04X}");
    let rows = table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
    rows.filter(|fields| fields.len() > 9 && fields[1].ends_with(&port) && fields[3] == LISTENING)
        .map(|fields| fields[9].to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(texts: &[&str]) -> Vec<Port> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn ports_are_read() {
        for (text, host, container) in [("8080", 8080, 8080), ("8080:80", 8080, 80), ("1:65535", 1, 65535)] {
            let port: Port = text.parse().unwrap();
            assert_eq!((port.host(), port.container(), port.to_string().as_str()), (host, container, text));
        }
        assert_eq!("80:80".parse::<Port>().unwrap().to_string(), "80");
        for bad in ["", "0", "65536", "-1", "+1", "a", "80:", ":80", "1:2:3", "80/tcp", " 80", "127.0.0.1:80:80"] {
            let message = bad.parse::<Port>().unwrap_err().to_string();
            assert!(message.contains(&format!("`{bad}`")) && message.contains("65535"), "{message}");
        }
    }

    #[test]
    fn one_port_of_the_machine_is_given_once() {
        assert!(distinct(&ports(&["80", "81:80", "82:80"])).is_ok());
        let error = distinct(&ports(&["80", "8080", "80:8080"])).unwrap_err();
        assert_eq!(error.to_string(), "the ports `80` and `80:8080` are the same port of this machine, 80");
    }

    #[test]
    fn what_is_said_of_ports() {
        assert_eq!(listening(&[]), None);
        let mapped = ports(&["8080", "9000:90"]);
        assert_eq!(listening(&mapped).unwrap(), "listening ports: 8080, 90");
        assert_eq!(
            warnings(&mapped),
            ["port `9000:90`: with the machine's network the workload is reached on 90, not on 9000"]
        );
    }

    #[test]
    fn a_port_in_use_is_told_with_its_holder() {
        for address in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
            // A machine without IPv6 cannot show that one.
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let number = listener.local_addr().unwrap().port();
            let error = check_free(&ports(&[&number.to_string()])).unwrap_err();
            let PortError::InUse { port, holder } = &error else { panic!("{error}") };
            assert_eq!((*port, holder.as_ref().map(|holder| holder.pid)), (number, Some(std::process::id())));
            assert!(error.to_string().contains(&format!("process {} (`", std::process::id())), "{error}");
            // The port that is looked at is the one that the workload listens on.
            let other = if number == 9 { 10 } else { 9 };
            assert!(check_free(&ports(&[&format!("{other}:{number}")])).is_err());
            drop(listener);
            assert!(check_free(&ports(&[&number.to_string()])).is_ok(), "{address}");
        }
    }

    #[test]
    fn only_listening_sockets_of_the_port_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1 x
   1: 0100007F:1F90 0100007F:C000 01 00000000:00000000 00:00000000 00000000     0        0 222 1 x
   2: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 333 1 x
   3: half a row
";
        assert_eq!(inodes(table, 8080), ["111"]);
        assert_eq!(inodes(table, 22), ["333"]);
        assert!(inodes(table, 49152).is_empty() && inodes("", 1).is_empty());
    }
}
