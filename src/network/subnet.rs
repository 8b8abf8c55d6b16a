//! Which addresses containers get: the first of a few subnets that no route of this machine leads to. Pure.
//!
//! docker's networks are in 172.16.0.0/12 and 192.168.0.0/16, podman's in 10.88.0.0/16 and from 10.89.0.0 on; these are far from both.

use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// The lowest address of the first subnet.
const BASE: u32 = u32::from_be_bytes([10, 188, 0, 0]);
/// Each has 1021 addresses for containers; a bridge takes about as many.
const PREFIX: u32 = 22;
const SIZE: u32 = 1 << (32 - PREFIX);
/// All are within 10.188.0.0/16.
const COUNT: u8 = 64;

/// One of the subnets, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Subnet(u8);

impl Subnet {
    /// The bridge that its containers are on.
    #[must_use]
    pub fn bridge(self) -> String {
        format!("dockless{}", self.0)
    }

    /// The machine's own address on it.
    #[must_use]
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base() + 1)
    }

    /// The lowest and the highest address for containers.
    #[must_use]
    pub fn bounds(self) -> (Ipv4Addr, Ipv4Addr) {
        (Ipv4Addr::from(self.base() + 2), Ipv4Addr::from(self.base() + SIZE - 2))
    }

    /// The addresses for containers, beginning after `last`: one that has just been given back is still in other machines' tables.
    pub(super) fn addresses(self, last: Option<Ipv4Addr>) -> impl Iterator<Item = Ipv4Addr> {
        let (first, count) = (self.base() + 2, SIZE - 3);
        let start = last.map_or(0, |last| u32::from(last).wrapping_sub(first).wrapping_add(1) % count);
        (0..count).map(move |at| Ipv4Addr::from(first + (start + at) % count))
    }

    const fn base(self) -> u32 {
        BASE + self.0 as u32 * SIZE
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{PREFIX}", Ipv4Addr::from(self.base()))
    }
}

/// Takes the first that no route leads to. `routes` has the form of `/proc/net/route` (`proc_pid_net(5)`): addresses are numbers in the
/// machine's order of bytes. A route of the bridge `own`, which a killed process may have left, is no hindrance.
pub(super) fn choose(routes: &str, own: Option<&str>) -> Option<Subnet> {
    let number = |field: &str| u32::from_str_radix(field, 16).ok().map(u32::from_be);
    let routes: Vec<(u32, u32)> = routes
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.len() > 7 && Some(fields[0]) != own)
        .filter_map(|fields| Some((number(fields[1])?, number(fields[7])?)))
        // The default route leads everywhere.
        .filter(|(_, mask)| *mask != 0)
        .collect();
    let overlaps = |subnet: Subnet, (route, mask): (u32, u32)| {
        let common = mask & !(SIZE - 1);
        route & common == subnet.base() & common
    };
    (0..COUNT).map(Subnet).find(|subnet| !routes.iter().any(|route| overlaps(*subnet, *route)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n";

    fn route(interface: &str, destination: [u8; 4], mask: [u8; 4]) -> String {
        let word = |bytes: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(bytes));
        format!("{interface}\t{}\t00000000\t0001\t0\t0\t0\t{}\t0\t0\t0\n", word(destination), word(mask))
    }

    #[test]
    fn the_first_subnet_without_a_route() {
        let named = |routes: &[String], own| choose(&(HEAD.to_owned() + &routes.concat()), own).map(|s| s.to_string());
        assert_eq!(named(&[], None).unwrap(), "10.188.0.0/22");
        assert_eq!(named(&[route("eth0", [0; 4], [0; 4])], None).unwrap(), "10.188.0.0/22");
        assert_eq!(named(&[route("eth0", [10, 88, 0, 0], [255, 255, 0, 0])], None).unwrap(), "10.188.0.0/22");
        let narrow = route("tun0", [10, 188, 2, 7], [255; 4]);
        assert_eq!(named(std::slice::from_ref(&narrow), None).unwrap(), "10.188.4.0/22");
        let bridge = route("dockless0", [10, 188, 0, 0], [255, 255, 252, 0]);
        assert_eq!(named(std::slice::from_ref(&bridge), None).unwrap(), "10.188.4.0/22");
        assert_eq!(named(std::slice::from_ref(&bridge), Some("dockless0")).unwrap(), "10.188.0.0/22");
        assert_eq!(named(&[bridge, narrow], Some("dockless0")).unwrap(), "10.188.4.0/22");
        assert_eq!(named(&[route("vpn", [10, 0, 0, 0], [255, 0, 0, 0])], None), None);
        assert_eq!(choose("nonsense\nx y\n", None), Some(Subnet(0)));
    }

    #[test]
    fn addresses_go_round() {
        let subnet = Subnet(1);
        assert_eq!((subnet.gateway().to_string().as_str(), subnet.bridge().as_str()), ("10.188.4.1", "dockless1"));
        let all: Vec<Ipv4Addr> = subnet.addresses(None).collect();
        assert_eq!((all.len(), all[0].to_string().as_str()), (1021, "10.188.4.2"));
        assert_eq!((all[0], all[1020]), subnet.bounds());
        assert_eq!(subnet.addresses(Some(all[0])).next(), Some(all[1]));
        assert_eq!(subnet.addresses(Some(all[1020])).next(), Some(all[0]));
        assert_eq!(subnet.addresses(Some(all[5])).count(), 1021);
    }
}
