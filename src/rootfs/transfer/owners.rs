//! Entries whose owners are ids of a container on one side and the machine's for them on the other.

use super::{Content, Item, Sink, TransferError};
use crate::rootfs::attributes::Attributes;
use crate::store::{IdMap, IdMaps, to_container, to_host};

/// How the kernel shows who is not mapped (`/proc/sys/kernel/overflowuid`).
const NOBODY: u32 = 65_534;

/// Which way entries go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Out of a container: who is not one of its users is nobody, as it sees them itself.
    Out,
    /// Into one: who is not one of its users is an error.
    Into,
}

/// Hands entries on with their owners changed.
pub struct OwnerSink<'a> {
    sink: &'a mut dyn Sink,
    maps: &'a IdMaps,
    direction: Direction,
}

impl<'a> OwnerSink<'a> {
    /// Entries go on to `sink`.
    pub fn new(sink: &'a mut dyn Sink, maps: &'a IdMaps, direction: Direction) -> Self {
        Self { sink, maps, direction }
    }

    fn change(&self, maps: &[IdMap], id: u32, path: &str) -> Result<u32, TransferError> {
        match self.direction {
            Direction::Out => Ok(to_container(maps, id).unwrap_or(NOBODY)),
            Direction::Into => to_host(maps, id).ok_or_else(|| TransferError::Owner { path: path.to_owned(), id }),
        }
    }
}

impl std::fmt::Debug for OwnerSink<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnerSink").field("direction", &self.direction).finish_non_exhaustive()
    }
}

impl Sink for OwnerSink<'_> {
    #[expect(private_interfaces, reason = "as in the trait")]
    fn put(&mut self, item: &Item<'_>, content: Content<'_>) -> Result<(), TransferError> {
        let path = item.path.to_string();
        let attributes = Attributes {
            uid: self.change(&self.maps.uids, item.attributes.uid, &path)?,
            gid: self.change(&self.maps.gids, item.attributes.gid, &path)?,
            ..item.attributes
        };
        let &Item { path, kind, same_as, link, xattrs, size, .. } = item;
        self.sink.put(&Item { path, kind, same_as, link, attributes, xattrs, size }, content)
    }

    fn finish(&mut self) -> Result<(), TransferError> {
        self.sink.finish()
    }
}
