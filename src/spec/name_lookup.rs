//! What a container finds names with: `/etc/hosts` and `/etc/resolv.conf`, as text. Grammar and meaning of `--add-host`
//! and the `--dns` flags are docker's.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use super::error::SpecError;
use super::network::Network;

/// What stands for the machine's own address.
const HOST_GATEWAY: &str = "host-gateway";
const MAX_NAME_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;
/// Longer than any option of resolv.conf(5).
const MAX_OPTION_BYTES: usize = 64;
/// For `--dns-search`: no domain at all, not even the machine's.
const NO_DOMAIN: &str = ".";

/// The address that a name is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HostAddress {
    Address(IpAddr),
    /// The machine that the container runs on.
    Gateway,
}

/// One `--add-host NAME:ADDRESS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraHost {
    name: String,
    address: HostAddress,
}

impl FromStr for ExtraHost {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = |expected| SpecError::Lookup { flag: "--add-host", text: text.to_owned(), expected };
        // An address of IPv6 is full of colons, a name has none.
        let (name, address) = match text.split_once('=') {
            Some(parts) => parts,
            None => text.split_once(':').ok_or_else(|| bad("`NAME:ADDRESS`"))?,
        };
        if !is_domain(name) {
            return Err(bad("a host name before the `:`"));
        }
        let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
        let address = match address {
            HOST_GATEWAY => HostAddress::Gateway,
            _ => HostAddress::Address(bare.parse().map_err(|_| bad("an IP address or `host-gateway` after the `:`"))?),
        };
        Ok(Self { name: name.to_owned(), address })
    }
}

/// A container's own ways of looking names up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NameLookup {
    /// `--add-host`, in order.
    pub hosts: Vec<ExtraHost>,
    servers: Vec<IpAddr>,
    search: Vec<String>,
    options: Vec<String>,
}

impl NameLookup {
    /// Checks the values of `--add-host`, `--dns`, `--dns-search` and `--dns-option`.
    pub fn parse(
        hosts: &[String],
        servers: &[String],
        search: &[String],
        options: &[String],
    ) -> Result<Self, SpecError> {
        let bad = |flag, text: &str, expected| SpecError::Lookup { flag, text: text.to_owned(), expected };
        let server = |text: &String| text.parse().map_err(|_| bad("--dns", text, "an IP address"));
        let domain = |text: &String| {
            let name = text.strip_suffix('.').unwrap_or(text);
            let good = text == NO_DOMAIN || is_domain(name);
            if good { Ok(text.clone()) } else { Err(bad("--dns-search", text, "a domain, or `.` for none at all")) }
        };
        let option = |text: &String| {
            let good = (1..=MAX_OPTION_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
            if good {
                Ok(text.clone())
            } else {
                Err(bad("--dns-option", text, "one option of resolv.conf(5), e.g. `ndots:2`"))
            }
        };
        Ok(Self {
            hosts: hosts.iter().map(|text| text.parse()).collect::<Result<_, _>>()?,
            servers: servers.iter().map(server).collect::<Result<_, _>>()?,
            search: search.iter().map(domain).collect::<Result<_, _>>()?,
            options: options.iter().map(option).collect::<Result<_, _>>()?,
        })
    }

    /// The first flag that cannot be had together with another run's files; `None` when there is none.
    #[must_use]
    pub fn first_flag(&self) -> Option<&'static str> {
        [
            ("--add-host", self.hosts.is_empty()),
            ("--dns", self.servers.is_empty()),
            ("--dns-search", self.search.is_empty()),
            ("--dns-option", self.options.is_empty()),
        ]
        .into_iter()
        .find_map(|(flag, is_absent)| (!is_absent).then_some(flag))
    }

    /// `--dns`, in order.
    #[must_use]
    pub fn servers(&self) -> &[IpAddr] {
        &self.servers
    }

    /// Refuses `host-gateway` where no way leads to the machine.
    pub(super) fn check(&self, network: &Network) -> Result<(), SpecError> {
        match self.hosts.iter().find(|host| host.address == HostAddress::Gateway) {
            Some(host) if gateway(network, Some(Ipv4Addr::UNSPECIFIED)).is_none() => {
                Err(SpecError::NoGateway { name: host.name.clone(), network: network.to_string() })
            }
            _ => Ok(()),
        }
    }

    /// The hosts file: `base` and the names of `--add-host` after it.
    /// `bridge` is the machine's address in a private network.
    #[must_use]
    pub fn hosts_file(&self, base: &str, network: &Network, bridge: Option<Ipv4Addr>) -> String {
        if self.hosts.is_empty() {
            return base.to_owned();
        }
        let mut lines: Vec<String> = base.lines().map(str::to_owned).collect();
        for ExtraHost { name, address } in &self.hosts {
            let address = match address {
                HostAddress::Address(address) => Some(*address),
                HostAddress::Gateway => gateway(network, bridge),
            };
            lines.extend(address.map(|address| format!("{address}\t{name}")));
        }
        lines.join("\n") + "\n"
    }

    /// The resolver's file: that of the machine, with what was asked for in the place of each kind of line.
    #[must_use]
    pub fn resolv_conf(&self, base: &str) -> String {
        if self.servers.is_empty() && self.search.is_empty() && self.options.is_empty() {
            return base.to_owned();
        }
        let replaced = |line: &str| match line.split_whitespace().next() {
            Some("nameserver") => !self.servers.is_empty(),
            Some("search" | "domain") => !self.search.is_empty(),
            Some("options") => !self.options.is_empty(),
            _ => false,
        };
        let mut lines: Vec<String> = base.lines().filter(|line| !replaced(line)).map(str::to_owned).collect();
        let domains: Vec<&str> = self.search.iter().map(String::as_str).filter(|domain| *domain != NO_DOMAIN).collect();
        if !domains.is_empty() {
            lines.push(format!("search {}", domains.join(" ")));
        }
        lines.extend(self.servers.iter().map(|server| format!("nameserver {server}")));
        if !self.options.is_empty() {
            lines.push(format!("options {}", self.options.join(" ")));
        }
        lines.join("\n") + "\n"
    }
}

/// Where the machine is found from within: on its own network it is the container's own loopback address.
fn gateway(network: &Network, bridge: Option<Ipv4Addr>) -> Option<IpAddr> {
    match network {
        Network::Host => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        Network::Private => bridge.map(IpAddr::V4),
        Network::None | Network::Run(_) => None,
    }
}

/// Letters, digits, `-` and `_` (which names of services have) in labels between dots.
fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        (1..=MAX_LABEL_BYTES).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= MAX_NAME_BYTES && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(hosts: &[&str], servers: &[&str], search: &[&str], options: &[&str]) -> Result<NameLookup, SpecError> {
        let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        NameLookup::parse(&owned(hosts), &owned(servers), &owned(search), &owned(options))
    }

    #[test]
    fn hosts_come_after_those_that_are_there() {
        let lookup =
            parse(&["db:10.0.0.1", "six:2001:db8::1", "b=[::1]", "up.stream_1:host-gateway"], &[], &[], &[]).unwrap();
        assert_eq!(
            lookup.hosts_file("127.0.0.1 localhost", &Network::Host, None),
            "127.0.0.1 localhost\n10.0.0.1\tdb\n2001:db8::1\tsix\n::1\tb\n127.0.0.1\tup.stream_1\n"
        );
        assert!(lookup.check(&Network::Host).is_ok());
        let error = lookup.check(&Network::None).unwrap_err().to_string();
        assert!(error.contains("`--add-host up.stream_1:host-gateway`"), "{error}");
    }

    #[test]
    fn each_kind_of_line_is_replaced_by_its_flag() {
        let base = "# theirs\nnameserver 1.1.1.1\nsearch a.org b.org\noptions ndots:5\nsortlist 1.0.0.0";
        let plain = parse(&[], &[], &[], &[]).unwrap();
        assert_eq!(plain.resolv_conf(base), base);
        let servers = parse(&[], &["9.9.9.9", "2620:fe::fe"], &[], &[]).unwrap();
        assert_eq!(
            servers.resolv_conf(base),
            "# theirs\nsearch a.org b.org\noptions ndots:5\nsortlist 1.0.0.0\nnameserver 9.9.9.9\nnameserver 2620:fe::fe\n"
        );
        let rest = parse(&[], &[], &["x.org"], &["ndots:1", "rotate"]).unwrap();
        assert_eq!(
            rest.resolv_conf(base),
            "# theirs\nnameserver 1.1.1.1\nsortlist 1.0.0.0\nsearch x.org\noptions ndots:1 rotate\n"
        );
        assert!(!parse(&[], &[], &["."], &[]).unwrap().resolv_conf(base).contains("search"));
        assert_eq!(rest.first_flag(), Some("--dns-search"));
    }

    #[test]
    fn bad_values_say_what_is_expected() {
        let longest = "x".repeat(MAX_OPTION_BYTES + 1);
        for (hosts, servers, search, options, words) in [
            ("db", "", "", "", "`--add-host db`: expected `NAME:ADDRESS`"),
            (":1.1.1.1", "", "", "", "a host name before the `:`"),
            ("a b:1.1.1.1", "", "", "", "a host name before the `:`"),
            ("a\n:1.1.1.1", "", "", "", "a host name before the `:`"),
            ("db:", "", "", "", "an IP address or `host-gateway`"),
            ("db:1.1.1", "", "", "", "an IP address or `host-gateway`"),
            ("", "dns.org", "", "", "`--dns dns.org`: expected an IP address"),
            ("", "1.1.1.1 ", "", "", "expected an IP address"),
            ("", "", "-a.org", "", "`--dns-search -a.org`: expected a domain"),
            ("", "", "a..org", "", "expected a domain"),
            ("", "", "a.org\nnameserver 6.6.6.6", "", "expected a domain"),
            ("", "", "", "ndots:1 rotate", "`--dns-option ndots:1 rotate`: expected one option"),
            ("", "", "", &longest, "expected one option"),
        ] {
            let some = |text: &'static str| -> Vec<&str> { if text.is_empty() { vec![] } else { vec![text] } };
            let option = if options.is_empty() { vec![] } else { vec![options] };
            let error = parse(&some(hosts), &some(servers), &some(search), &option).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
