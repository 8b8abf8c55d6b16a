//! Which users of the machine the users of a run's container are: what was asked for as ids that nobody else has.
//!
//! A range for `--userns auto` is taken of what `/etc/subuid` and `/etc/subgid` give to `containers`, as podman does, else of
//! a fixed part of the ids that no distribution gives to anybody. Live runs of this store do not share; where to begin to look
//! is told by the run's id, so that runs of other stores hardly ever do.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use crate::rootfs::{RootfsError, namespace_for};
use crate::spec::Users;
use crate::store::{IdMap, IdMaps, RunRecord, Store, StoreError, share};
use crate::sys::read_bounded;

/// Whose ranges `auto` takes.
const AUTO_NAME: &str = "containers";
/// Where they are taken from without: above all that `useradd` and systemd give away (`UIDS-GIDS.md` of systemd), below what
/// programs take for negative.
const AUTO_RANGE: Range = Range { first: 524_288_000, length: 1_073_741_824 };
/// The most that is read of `/etc/subuid`.
const MAX_BYTES: u64 = 1 << 20;
/// The kernel's bound on lines of a map.
const MAX_RANGES: usize = 340;

/// Why no users can be found for a container.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// `/etc/subuid` or `/etc/subgid`.
    #[error("cannot read `{path}`")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A name without a range.
    #[error("`{flag} {name}`: `{path}` gives no range to that name\nhint: a line of it is `{name}:100000:65536`")]
    NoRange {
        /// The flag.
        flag: &'static str,
        /// The name.
        name: String,
        /// Where it was looked for.
        path: &'static str,
    },
    /// All are taken.
    #[error(
        "`--userns auto`: no {size} ids in a row are free in {place}\nhint: `--userns auto:size=N` takes fewer, `--uidmap` takes what you say"
    )]
    Full {
        /// How many were wanted.
        size: u32,
        /// Where.
        place: String,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Ids in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    first: u32,
    length: u32,
}

/// One of the two files.
struct Source {
    path: &'static str,
    flag: &'static str,
}

const USERS: Source = Source { path: "/etc/subuid", flag: "--subuidname" };
const GROUPS: Source = Source { path: "/etc/subgid", flag: "--subgidname" };

/// Finds the ids. The caller holds the store's lock on resources until the run's record names them.
pub(super) fn choose(store: &Store, users: &Users, run: &str, id: &str) -> Result<Users, UsersError> {
    match users {
        Users::Host | Users::Maps(_) => Ok(users.clone()),
        Users::Subordinate { users, groups } => {
            Ok(Users::Maps(IdMaps { uids: all_of(&USERS, users)?, gids: all_of(&GROUPS, groups)? }))
        }
        Users::Auto { size } => {
            let others: Vec<IdMaps> = live(&store.live_runs()?, run).collect();
            let uids = free(&USERS, *size, id, others.iter().map(|maps| maps.uids.as_slice()))?;
            let gids = free(&GROUPS, *size, id, others.iter().map(|maps| maps.gids.as_slice()))?;
            Ok(Users::Maps(IdMaps { uids: vec![uids], gids: vec![gids] }))
        }
    }
}

/// Whether this machine makes such a namespace, and can mount the store for its users; told before anything is fetched.
pub(super) fn probe(store: &Store, users: &Users) -> Result<(), RootfsError> {
    users.maps().map_or(Ok(()), |maps| namespace_for(maps, store.root()).map(drop))
}

/// What the user should know about these maps.
pub(super) fn warnings(users: &Users) -> Vec<String> {
    let is_root = |maps: &[IdMap]| maps.iter().any(|map| map.host == 0);
    let maps = users.maps().filter(|maps| is_root(&maps.uids) || is_root(&maps.gids));
    maps.map(|_| "a user or group of the container is root on this machine: the maps name the host's 0".to_owned())
        .into_iter()
        .collect()
}

fn live(records: &[RunRecord], own: &str) -> impl Iterator<Item = IdMaps> {
    records.iter().filter(move |record| record.name.as_str() != own).filter_map(|record| record.id_maps.clone())
}

/// All ranges of a name, one after the other from the container's 0 on.
fn all_of(source: &Source, name: &str) -> Result<Vec<IdMap>, UsersError> {
    let mut next = Some(0_u32);
    let mut maps: Vec<IdMap> = Vec::new();
    for Range { first, length } in read(source, name)? {
        let (Some(container), true) = (next, maps.len() < MAX_RANGES) else { break };
        // A line twice would be two users of the container as one of the machine.
        if maps.iter().any(|map| share(map.host, map.length, first, length)) {
            continue;
        }
        maps.push(IdMap { container, host: first, length });
        next = container.checked_add(length).filter(|next| *next < u32::MAX);
    }
    if maps.is_empty() {
        return Err(UsersError::NoRange { flag: source.flag, name: name.to_owned(), path: source.path });
    }
    Ok(maps)
}

fn free<'a>(
    source: &Source,
    size: u32,
    id: &str,
    taken: impl Iterator<Item = &'a [IdMap]>,
) -> Result<IdMap, UsersError> {
    let ranges = read(source, AUTO_NAME)?;
    let (ranges, place) = if ranges.is_empty() {
        (vec![AUTO_RANGE], format!("{} to {}", AUTO_RANGE.first, AUTO_RANGE.first + AUTO_RANGE.length - 1))
    } else {
        (ranges, format!("what `{}` gives to `{AUTO_NAME}`", source.path))
    };
    let taken: Vec<IdMap> = taken.flatten().copied().collect();
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    let found = find_free(&ranges, size, hasher.finish(), &taken);
    found.map(|host| IdMap { container: 0, host, length: size }).ok_or(UsersError::Full { size, place })
}

/// The ranges as slots of `size`, looked at from one on that `seed` chooses; the first that nobody has.
fn find_free(ranges: &[Range], size: u32, seed: u64, taken: &[IdMap]) -> Option<u32> {
    let slots = |range: &Range| u64::from(range.length / size);
    let count: u64 = ranges.iter().map(slots).sum();
    let slot = |mut number: u64| {
        ranges.iter().find_map(|range| {
            if number < slots(range) {
                return u32::try_from(number * u64::from(size)).ok().map(|offset| range.first + offset);
            }
            number -= slots(range);
            None
        })
    };
    // No more than this many can be met by those that are taken.
    let in_the_way: u64 = taken.iter().map(|map| u64::from(map.length / size) + 2).sum();
    let candidates = (0..count.min(in_the_way + 1)).filter_map(|step| slot((seed % count + step) % count));
    let mut free = candidates.filter(|first| !taken.iter().any(|map| share(*first, size, map.host, map.length)));
    free.next()
}

/// The ranges of a name (`subuid(5)`); none when there is no such file. Lines that are not understood are not there.
fn read(source: &Source, name: &str) -> Result<Vec<Range>, UsersError> {
    match read_bounded(Path::new(source.path), MAX_BYTES) {
        Ok(bytes) => Ok(parse(&String::from_utf8_lossy(&bytes), name)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(UsersError::Read { path: source.path.into(), source: error }),
    }
}

fn parse(text: &str, name: &str) -> Vec<Range> {
    let range = |line: &str| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let (first, length): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let fits = length > 0 && length < u32::MAX - first;
        (owner == name && fits && fields.next().is_none()).then_some(Range { first, length })
    };
    text.lines().filter_map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_subuid() {
        let text = "# containers:1:1\nbob:100000:65536\ncontainers:200000:10\ncontainers:x:1\ncontainers:5:0\ncontainers:4294967295:1\ncontainers:300000:20\n";
        let range = |first, length| Range { first, length };
        assert_eq!(parse(text, "containers"), [range(200_000, 10), range(300_000, 20)]);
        assert_eq!(parse(text, "alice"), []);
    }

    #[test]
    fn ranges_are_not_shared_and_run_out() {
        let ranges = [Range { first: 1000, length: 10 }, Range { first: 5000, length: 25 }];
        for seed in 0..9 {
            let mut taken: Vec<IdMap> = Vec::new();
            for _ in 0..3 {
                let host = find_free(&ranges, 10, seed, &taken).unwrap();
                assert!(!taken.iter().any(|map| share(map.host, map.length, host, 10)));
                taken.push(IdMap { container: 0, host, length: 10 });
            }
            assert_eq!(find_free(&ranges, 10, seed, &taken), None);
        }
        // One that is taken otherwise is in the way of several.
        let taken = [IdMap { container: 0, host: 999, length: 4100 }];
        assert_eq!(find_free(&ranges, 10, 0, &taken), None);
        assert_eq!(find_free(&[AUTO_RANGE], 65_536, 3, &[]), Some(524_288_000 + 3 * 65_536));
        assert_eq!(find_free(&ranges, 26, 0, &[]), None);
    }
}
