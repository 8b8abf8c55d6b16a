//! Which users of the machine stand for those of a container (`user_namespaces(7)`).

use serde::{Deserialize, Serialize};

/// One line of a map: `length` ids from `container` on are those from `host` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdMap {
    /// First id in the container.
    pub container: u32,
    /// First id on the machine.
    pub host: u32,
    /// How many.
    pub length: u32,
}

impl IdMap {
    /// The end of what is mapped in the container, not in it.
    #[must_use]
    pub const fn container_end(&self) -> u64 {
        self.container as u64 + self.length as u64
    }

    /// The end of what is taken on the machine, not in it.
    #[must_use]
    pub const fn host_end(&self) -> u64 {
        self.host as u64 + self.length as u64
    }
}

/// All of a container's users and groups.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdMaps {
    /// Users.
    pub uids: Vec<IdMap>,
    /// Groups.
    pub gids: Vec<IdMap>,
}

impl IdMaps {
    /// The user and the group of the machine that are root in the container.
    #[must_use]
    pub fn root(&self) -> Option<(u32, u32)> {
        Some((to_host(&self.uids, 0)?, to_host(&self.gids, 0)?))
    }

    /// Whether some id of the machine stands in both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let meet = |left: &[IdMap], right: &[IdMap]| {
            left.iter().any(|left| right.iter().any(|right| share(left.host, left.length, right.host, right.length)))
        };
        meet(&self.uids, &other.uids) || meet(&self.gids, &other.gids)
    }
}

/// The machine's id for one of a container.
#[must_use]
pub fn to_host(maps: &[IdMap], id: u32) -> Option<u32> {
    let found = maps.iter().find(|map| (u64::from(map.container)..map.container_end()).contains(&u64::from(id)))?;
    found.host.checked_add(id - found.container)
}

/// A container's id for one of the machine.
#[must_use]
pub fn to_container(maps: &[IdMap], id: u32) -> Option<u32> {
    let found = maps.iter().find(|map| (u64::from(map.host)..map.host_end()).contains(&u64::from(id)))?;
    found.container.checked_add(id - found.host)
}

/// Whether two ranges have an id in common.
#[must_use]
pub fn share(left: u32, left_length: u32, right: u32, right_length: u32) -> bool {
    let (left, right) = (u64::from(left), u64::from(right));
    left < right + u64::from(right_length) && right < left + u64::from(left_length)
}

/// The text that the kernel reads (`uid_map`, `gid_map`).
#[must_use]
pub fn map_text(maps: &[IdMap]) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    for IdMap { container, host, length } in maps {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{container} {host} {length}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: [IdMap; 2] =
        [IdMap { container: 0, host: 100_000, length: 1000 }, IdMap { container: 2000, host: 5, length: 1 }];

    #[test]
    fn ids_go_both_ways() {
        for (container, host) in [(0, 100_000), (999, 100_999), (2000, 5)] {
            assert_eq!((to_host(&MAPS, container), to_container(&MAPS, host)), (Some(host), Some(container)));
        }
        assert_eq!((to_host(&MAPS, 1000), to_container(&MAPS, 0), to_container(&MAPS, 101_000)), (None, None, None));
        let last = [IdMap { container: u32::MAX - 1, host: 7, length: 1 }];
        assert_eq!(to_host(&last, u32::MAX - 1), Some(7));
    }

    #[test]
    fn ranges_meet_or_not() {
        assert!(share(0, 10, 9, 1) && !share(0, 10, 10, 1) && share(u32::MAX - 1, 1, 0, u32::MAX));
        let maps = |host| IdMaps { uids: vec![IdMap { container: 0, host, length: 10 }], gids: Vec::new() };
        assert!(maps(5).overlaps(&maps(14)) && !maps(5).overlaps(&maps(15)));
    }

    #[test]
    fn the_kernels_form() {
        assert_eq!(map_text(&MAPS), "0 100000 1000\n2000 5 1\n");
    }
}
