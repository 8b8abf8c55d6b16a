//! Trees on their way from one place to another, entry by entry: from a directory, the layers of an ended run or a tar
//! archive into a directory or a tar archive.
//!
//! Either end may be changed by a hostile workload meanwhile. Every step is one name in one open directory, no link is
//! followed inside a tree, and nothing but regular files is opened. Little is remembered: the directories that an entry
//! stands in, their names still to come, and where files with several names went first.

mod from_tar;
mod into_tar;
mod into_tree;
mod owners;
mod place;
mod source;

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

pub use self::from_tar::take_archive;
pub use self::into_tar::TarSink;
pub use self::into_tree::{Ownership, TreeSink};
pub use self::owners::{Direction, OwnerSink};
pub use self::place::{Spot, find};
pub use self::source::{Kept, Origin};
use super::archive::TarError;
use super::attributes::Attributes;
use super::path::{ImagePath, PathError};
use super::pax::Xattrs;
use super::stream::StreamError;
use crate::sys::beneath::FileKind;

/// Why a tree could not be brought over; paths are relative to the place that was named.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// Where it comes from.
    #[error("cannot read `{path}`")]
    Read {
        /// What.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Where it goes to.
    #[error("cannot write `{path}`{}", write_hint(source))]
    Write {
        /// What.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something of another kind stands there.
    #[error("cannot replace {found} with {wanted}: `{path}`\nhint: remove it, or name another destination")]
    InTheWay {
        /// Where.
        path: String,
        /// What stands there.
        found: &'static str,
        /// What was to come.
        wanted: &'static str,
    },
    /// Devices give power over the machine, so they are made only when they are asked for.
    #[error(
        "`{path}` is {kind}, expected files, directories and links\nhint: `-a` makes devices as they are; `-` writes them to a tar archive"
    )]
    Device {
        /// Where.
        path: String,
        /// Which kind.
        kind: &'static str,
    },
    /// What comes is no archive, or a bad one.
    #[error("cannot read the tar archive")]
    Archive(#[from] TarError),
    /// The same, of what it is packed with.
    #[error("cannot read the tar archive")]
    Unpack(#[from] StreamError),
    /// Longer or deeper than is possible.
    #[error("`{path}` cannot be copied")]
    Name {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: PathError,
    },
    /// The container does not have its owner.
    #[error("`{path}` belongs to {id}, whom the container does not have\nhint: without `-a` the copy is its root's")]
    Owner {
        /// Which.
        path: String,
        /// Its user or group.
        id: u32,
    },
    /// Somebody asked for the end.
    #[error("interrupted: what was copied so far stays, the file being copied does not")]
    Interrupted,
}

fn write_hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::ReadOnlyFilesystem => {
            "\nhint: it is mounted read-only there; a volume or `--tmpfs` of the run can be written"
        }
        io::ErrorKind::StorageFull => "\nhint: there is no space left there",
        _ => "",
    }
}

/// For `map_err`, with the path the entry has at its destination.
fn read_error(path: &ImagePath) -> impl Fn(io::Error) -> TransferError {
    let path = path.to_string();
    move |source| TransferError::Read { path: path.clone(), source }
}

fn write_error(path: &ImagePath) -> impl Fn(io::Error) -> TransferError {
    let path = path.to_string();
    move |source| TransferError::Write { path: path.clone(), source }
}

/// One entry, without its content.
#[derive(Debug)]
pub struct Item<'a> {
    /// Its path at the destination; the root stands for the destination itself.
    pub(super) path: &'a ImagePath,
    pub(super) kind: FileKind,
    /// The entry before of which it is another name.
    pub(super) same_as: Option<&'a ImagePath>,
    /// Where a symbolic link points to.
    pub(super) link: &'a [u8],
    pub(super) attributes: Attributes,
    pub(super) xattrs: &'a Xattrs,
    /// Bytes of a regular file, holes included.
    pub(super) size: u64,
}

/// Takes pieces of a file's content, each with its offset.
type Taker<'a> = dyn FnMut(u64, &[u8]) -> io::Result<()> + 'a;

/// What is in a regular file.
pub(super) enum Content<'a> {
    /// Nothing is to be written: no regular file, or another name of one.
    None,
    File(&'a File),
    Archive(&'a mut dyn FnMut(&mut Taker<'_>) -> Result<(), TransferError>),
}

/// What takes entries, parents before what is in them.
pub trait Sink {
    /// Takes one.
    #[doc(hidden)]
    #[expect(private_interfaces, reason = "content is handed over between modules of this one only")]
    fn put(&mut self, item: &Item<'_>, content: Content<'_>) -> Result<(), TransferError>;

    /// All have come.
    fn finish(&mut self) -> Result<(), TransferError>;
}

/// What a transfer did, and whether it is to go on.
#[derive(Debug)]
pub struct Transfer<'a> {
    /// Set when it is to end before its time.
    pub stop: &'a AtomicBool,
    /// Entries that were brought over.
    pub entries: u64,
    /// Bytes of regular files, holes included.
    pub bytes: u64,
    /// Sockets, which nobody can use elsewhere.
    pub skipped: u64,
}

impl<'a> Transfer<'a> {
    /// Begins one.
    #[must_use]
    pub const fn new(stop: &'a AtomicBool) -> Self {
        Self { stop, entries: 0, bytes: 0, skipped: 0 }
    }

    fn hand(&mut self, sink: &mut dyn Sink, item: &Item<'_>, content: Content<'_>) -> Result<(), TransferError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(TransferError::Interrupted);
        }
        self.entries += 1;
        if item.same_as.is_none() && item.kind == FileKind::Regular {
            self.bytes += item.size;
        }
        sink.put(item, content)
    }
}
