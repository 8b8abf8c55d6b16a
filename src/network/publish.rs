//! Ports of the machine that lead to ports of a container.
//!
//! netavark only writes rules, so that two could be given one port. A published port is therefore also listened on, by the run's
//! supervisor and as long as it lives; the rules lead connections away before they come to that socket.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::NetworkError;

/// Each takes a descriptor and half a dozen rules, which netavark writes one by one.
const MAX_PORTS: usize = 256;

/// How a port is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// With connections.
    Tcp,
    /// With single packets.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port of a container: `80/tcp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContainerPort {
    /// Its number.
    pub number: NonZeroU16,
    /// Its kind.
    pub protocol: Protocol,
}

impl ContainerPort {
    /// Reads `--expose`, and what images expose: `80`, `80/udp`, `8000-8010/tcp`.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, NetworkError> {
        let bad = || NetworkError::Expose(text.escape_debug().to_string());
        let (numbers, protocol) = with_protocol(text).ok_or_else(bad)?;
        let (first, last) = range(numbers).ok_or_else(bad)?;
        Ok(numbers_of(first, last).map(|number| Self { number, protocol }).collect())
    }
}

impl FromStr for ContainerPort {
    type Err = NetworkError;

    /// Reads one port.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match Self::parse_all(text)?.as_slice() {
            [one] => Ok(*one),
            _ => Err(NetworkError::Expose(text.escape_debug().to_string())),
        }
    }
}

impl fmt::Display for ContainerPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol)
    }
}

/// A wish for a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish {
    address: Ipv4Addr,
    /// `None` for any that is free.
    host: Option<NonZeroU16>,
    container: ContainerPort,
}

impl Publish {
    /// Reads one `-p`; a range is several.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, NetworkError> {
        let bad = |problem| NetworkError::Publish { text: text.escape_debug().to_string(), problem };
        if text.contains('[') {
            return Err(bad("names an address of IPv6, which containers do not have here"));
        }
        let (rest, protocol) = with_protocol(text).ok_or_else(|| bad("is malformed"))?;
        let words: Vec<&str> = rest.split(':').collect();
        let (address, host, container) = match words.as_slice() {
            [container] => ("", "", *container),
            [host, container] => ("", *host, *container),
            [address, host, container] => (*address, *host, *container),
            _ => return Err(bad("is malformed")),
        };
        let address = match address {
            "" if words.len() == 3 => return Err(bad("has an empty address")),
            "" => Ipv4Addr::UNSPECIFIED,
            address => address.parse().map_err(|_| bad("has no address of IPv4 before the ports"))?,
        };
        if host.is_empty() && words.len() == 2 {
            return Err(bad("has an empty port"));
        }
        let (first, last) = range(container).ok_or_else(|| bad("is malformed"))?;
        let containers = numbers_of(first, last).map(|number| ContainerPort { number, protocol });
        if host.is_empty() {
            return Ok(containers.map(|container| Self { address, host: None, container }).collect());
        }
        let (host_first, host_last) = range(host).ok_or_else(|| bad("is malformed"))?;
        if host_last.get() - host_first.get() != last.get() - first.get() {
            return Err(bad("has two ranges of different lengths"));
        }
        let hosts = numbers_of(host_first, host_last);
        Ok(hosts.zip(containers).map(|(host, container)| Self { address, host: Some(host), container }).collect())
    }
}

fn with_protocol(text: &str) -> Option<(&str, Protocol)> {
    match text.split_once('/') {
        None => Some((text, Protocol::Tcp)),
        Some((rest, "tcp")) => Some((rest, Protocol::Tcp)),
        Some((rest, "udp")) => Some((rest, Protocol::Udp)),
        Some(_) => None,
    }
}

/// `80` is a range of one.
fn range(text: &str) -> Option<(NonZeroU16, NonZeroU16)> {
    let number = |text: &str| {
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| text.parse().ok()).flatten()
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}

fn numbers_of(first: NonZeroU16, last: NonZeroU16) -> impl Iterator<Item = NonZeroU16> {
    (first.get()..=last.get()).filter_map(NonZeroU16::new)
}

/// A published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// The machine's address; 0.0.0.0 is all of them.
    pub address: Ipv4Addr,
    /// The machine's port.
    pub host: u16,
    /// The container's.
    pub container: u16,
    /// The kind of both.
    pub protocol: Protocol,
}

impl Published {
    /// The port of the container, as docker writes it.
    #[must_use]
    pub fn container_port(&self) -> String {
        format!("{}/{}", self.container, self.protocol)
    }
}

/// As docker writes it: `0.0.0.0:8080->80/tcp`.
impl fmt::Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}->{}/{}", self.address, self.host, self.container, self.protocol)
    }
}

impl FromStr for Published {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = || {
            let (place, container) = text.split_once("->")?;
            let (address, host) = place.split_once(':')?;
            let container: ContainerPort = container.parse().ok()?;
            let (address, host) = (address.parse().ok()?, host.parse().ok()?);
            Some(Self { address, host, container: container.number.get(), protocol: container.protocol })
        };
        read().ok_or_else(|| NetworkError::Publish { text: text.escape_debug().to_string(), problem: "is malformed" })
    }
}

/// What an image exposes, as far as it can be read; images are made elsewhere, and a bad entry publishes nothing.
#[must_use]
pub fn exposed(texts: &[String]) -> Vec<ContainerPort> {
    texts.iter().filter_map(|text| ContainerPort::parse_all(text).ok()).flatten().collect()
}

/// Finds a port of the machine for each wish, and sees that those which were named are free. One may be taken between this and
/// [`hold`].
pub fn publish(wishes: &[Publish], exposed: &[ContainerPort]) -> Result<Vec<Published>, NetworkError> {
    let mut wishes = wishes.to_vec();
    for port in exposed {
        // What was published by hand is not published once more.
        if !wishes.iter().any(|wish| wish.container == *port) {
            wishes.push(Publish { address: Ipv4Addr::UNSPECIFIED, host: None, container: *port });
        }
    }
    if wishes.len() > MAX_PORTS {
        return Err(NetworkError::TooMany { count: wishes.len(), limit: MAX_PORTS });
    }
    // Named ones first, and all at once: what is given back could be found again.
    let mut held = Vec::new();
    let mut found: Vec<Option<u16>> = vec![None; wishes.len()];
    for is_named in [true, false] {
        for (wish, found) in wishes.iter().zip(&mut found).filter(|(wish, _)| wish.host.is_some() == is_named) {
            let port = wish.host.map_or(0, NonZeroU16::get);
            let (socket, port) = listen(wish.address, port, wish.container.protocol)?;
            held.push(socket);
            *found = Some(port);
        }
    }
    let published = wishes.iter().zip(found).filter_map(|(wish, host)| {
        let ContainerPort { number, protocol } = wish.container;
        Some(Published { address: wish.address, host: host?, container: number.get(), protocol })
    });
    Ok(published.collect())
}

/// Takes the ports, for as long as the sockets are kept.
pub fn hold(ports: &[Published]) -> Result<Vec<OwnedFd>, NetworkError> {
    let listen = |port: &Published| listen(port.address, port.host, port.protocol).map(|(socket, _)| socket);
    ports.iter().map(listen).collect()
}

fn listen(address: Ipv4Addr, port: u16, protocol: Protocol) -> Result<(OwnedFd, u16), NetworkError> {
    let bound = match protocol {
        Protocol::Tcp => TcpListener::bind((address, port)).and_then(|socket| {
            let port = socket.local_addr()?.port();
            Ok((OwnedFd::from(socket), port))
        }),
        Protocol::Udp => UdpSocket::bind((address, port)).and_then(|socket| {
            let port = socket.local_addr()?.port();
            Ok((OwnedFd::from(socket), port))
        }),
    };
    bound.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => NetworkError::Taken { address, port, protocol },
        _ => NetworkError::Bind { address, port, protocol, source },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let wishes = Publish::parse_all(text).unwrap();
        let host = |wish: &Publish| wish.host.map_or_else(String::new, |host| host.to_string());
        wishes.iter().map(|wish| format!("{}:{}:{}", wish.address, host(wish), wish.container)).collect()
    }

    #[test]
    fn dockers_forms() {
        for (text, expected) in [
            ("80", &["0.0.0.0::80/tcp"][..]),
            ("8080:80", &["0.0.0.0:8080:80/tcp"]),
            ("8080:80/udp", &["0.0.0.0:8080:80/udp"]),
            ("127.0.0.1:8080:80", &["127.0.0.1:8080:80/tcp"]),
            ("127.0.0.1::80", &["127.0.0.1::80/tcp"]),
            ("8000-8001:80-81", &["0.0.0.0:8000:80/tcp", "0.0.0.0:8001:81/tcp"]),
            ("80-81", &["0.0.0.0::80/tcp", "0.0.0.0::81/tcp"]),
            ("65535:1/tcp", &["0.0.0.0:65535:1/tcp"]),
        ] {
            assert_eq!(words(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_port() {
        let bad =
            ["", "0", "65536", "a", "80:", ":80", "::80", "1:2:3:4", "80/sctp", "80/", "81-80", "80-", " 80", "+1"];
        for bad in bad.into_iter().chain(["8000-8001:80", "host:1:2", "[::1]:80:80", "1.2.3:80:80", "80\n"]) {
            let error = Publish::parse_all(bad).unwrap_err().to_string();
            assert!(error.contains(&bad.escape_debug().to_string()) && error.contains("expected"), "{error}");
        }
        for bad in ["", "0", "80/x", "1:2", "2-1"] {
            assert!(ContainerPort::parse_all(bad).is_err(), "`{bad}` was accepted");
        }
        assert_eq!(exposed(&["80/tcp".to_owned(), "nonsense".to_owned(), "1-2/udp".to_owned()]).len(), 3);
    }

    #[test]
    fn a_port_has_one_holder() {
        let any = Publish::parse_all("127.0.0.1::80").unwrap();
        let exposed = ["80", "81"].map(|text| text.parse().unwrap());
        let published = publish(&any, &exposed).unwrap();
        assert_eq!(published.iter().map(Published::container_port).collect::<Vec<_>>(), ["80/tcp", "81/tcp"]);
        let held = hold(&published).unwrap();
        let port = published[0].host;
        let again = Publish::parse_all(&format!("127.0.0.1:{port}:1")).unwrap();
        assert!(matches!(publish(&again, &[]), Err(NetworkError::Taken { port: taken, .. }) if taken == port));
        drop(held);
        assert!(publish(&again, &[]).is_ok());
        let twice = [again.clone(), again].concat();
        assert!(publish(&twice, &[]).is_err());
    }

    #[test]
    fn what_is_written_is_read() {
        for text in ["0.0.0.0:8080->80/tcp", "127.0.0.1:53->5353/udp"] {
            assert_eq!(text.parse::<Published>().unwrap().to_string(), text);
        }
        for bad in ["8080", "8080:80", "->", "0.0.0.0:1->2"] {
            assert_eq!(bad.parse::<Published>().is_ok(), bad == "0.0.0.0:1->2", "{bad}");
        }
    }
}
