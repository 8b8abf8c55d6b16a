//! Copying files out of a run and into it, with docker's table of what goes where.
//!
//! | source | destination | what happens |
//! |---|---|---|
//! | file | nothing, and no `/` at the end | the file gets that name |
//! | file | nothing, with a `/` | refused |
//! | file | a file | replaced, atomically |
//! | file | a directory | goes into it under its own name |
//! | directory | nothing | the directory is made, and the content copied into it |
//! | directory | a file | refused |
//! | directory | a directory | goes into it under its own name |
//! | directory with `/.` | a directory | the content goes into it |
//!
//! Both sides are ways beneath a root that is held open: that of the container, or that of the machine. A run that goes on is
//! entered by its root ([`live_root`]); the files of one that has ended, and was to be kept, are read from its layers.

use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use rustix::io::Errno;

use super::Engine;
use crate::container::{LiveRootError, live_root};
use crate::rootfs::transfer::{
    Direction, Kept, Origin, OwnerSink, Ownership, Sink, Spot, TarSink, Transfer, TransferError, TreeSink, find,
    take_archive,
};
use crate::rootfs::{ImagePath, Layers, RootfsError};
use crate::store::{IdMaps, RunDir, RunState, StoreError};
use crate::sys::beneath::{Dir, FileKind};
use crate::sys::with_filesystem_ids;

/// Why nothing, or not everything, was copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The run's record.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The root of a run that runs.
    #[error(transparent)]
    Root(#[from] LiveRootError),
    /// The layers of one that has ended.
    #[error(transparent)]
    Layers(#[from] RootfsError),
    /// Its files are gone.
    #[error(
        "run `{run}` has ended, and what it wrote was not kept\nhint: `run --keep` keeps all of it, `run --artifact PATH` saves a directory"
    )]
    NotKept {
        /// The run.
        run: String,
    },
    /// Its files are there to be looked at only.
    #[error(
        "run `{run}` has ended, expected one that is running to copy into\nhint: copy out of it, or start another run"
    )]
    Ended {
        /// The run.
        run: String,
    },
    /// The way to a place cannot be gone.
    #[error("cannot look for `{place}`")]
    Look {
        /// Which.
        place: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The source.
    #[error("there is no `{place}`")]
    NoSource {
        /// Which.
        place: String,
    },
    /// A slash at the end means a directory.
    #[error("`{place}` is {found}, expected a directory\nhint: leave the `/` at its end out")]
    NotADirectory {
        /// Which.
        place: String,
        /// What it is.
        found: &'static str,
    },
    /// Below `/proc` and its like.
    #[error("`{place}` is made up by the kernel and cannot be copied\nhint: have a program of the container read it")]
    MadeUp {
        /// Which.
        place: String,
    },
    /// The destination, or the directory it would stand in.
    #[error("there is no directory `{place}` to copy into\nhint: make it first")]
    NoDestination {
        /// Which.
        place: String,
    },
    /// A directory cannot become a file, and only files are replaced.
    #[error("`{place}` is {found}, expected {expected}")]
    Destination {
        /// Which.
        place: String,
        /// What it is.
        found: &'static str,
        /// What it could be.
        expected: &'static str,
    },
    /// Under way.
    #[error("cannot copy `{from}` to `{to}`")]
    Transfer {
        /// The source.
        from: String,
        /// The destination.
        to: String,
        /// Why.
        #[source]
        source: TransferError,
    },
}

impl CopyError {
    /// Whether it is because somebody asked for the end.
    #[must_use]
    pub const fn is_interrupt(&self) -> bool {
        matches!(self, Self::Transfer { source: TransferError::Interrupted, .. })
    }
}

/// How to copy.
#[derive(Debug, Clone, Copy)]
pub struct How<'a> {
    /// Keep owners, and all that gives rights (`-a`).
    pub archive: bool,
    /// Follow a link that the source is (`-L`).
    pub follow: bool,
    /// Whose copies on the machine are without `archive`.
    pub owner: (u32, u32),
    /// Any number; tells copies at the same time apart.
    pub nonce: u64,
    /// Set when it is to end before its time.
    pub stop: &'a AtomicBool,
}

/// What was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopiedFiles {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// Sockets, which are not copied.
    pub skipped: u64,
}

/// A path beneath a root, and how it is called in messages.
struct Place<'a> {
    root: Dir,
    path: &'a [u8],
    name: String,
    /// Of a container with other users than the machine's.
    maps: Option<IdMaps>,
}

impl Place<'_> {
    /// Whether a directory is meant, whatever stands there.
    fn wants_directory(&self) -> bool {
        matches!(self.path, b"" | b"." | b"..")
            || [&b"/"[..], b"/.", b"/.."].iter().any(|ending| self.path.ends_with(ending))
    }

    fn find(&self, follow: bool) -> Result<Spot, CopyError> {
        let clean = self.clean()?;
        find(&self.root, clean.as_bytes(), follow).map_err(|source| match Errno::from_io_error(&source) {
            Some(Errno::NOENT | Errno::NOTDIR) => CopyError::NoSource { place: self.name.clone() },
            _ => CopyError::Look { place: self.name.clone(), source },
        })
    }

    fn clean(&self) -> Result<ImagePath, CopyError> {
        clean(self.path, &self.name)
    }
}

fn clean(path: &[u8], name: &str) -> Result<ImagePath, CopyError> {
    ImagePath::parse(path).map_err(|error| CopyError::Look {
        place: name.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidInput, error),
    })
}

/// What is copied, and how it is called at the destination; the root stands for its content alone.
struct Source {
    origin: Origin,
    name: ImagePath,
    place: String,
    /// Of a container with other users than the machine's.
    maps: Option<IdMaps>,
}

impl Engine {
    /// Copies `path` of a run to `local`, an absolute path.
    pub fn copy_out(&self, run: &RunDir, path: &[u8], local: &Path, how: &How<'_>) -> Result<CopiedFiles, CopyError> {
        let source = self.source_in(run, path, how)?;
        let ownership = if how.archive { Ownership::Kept } else { Ownership::Given(how.owner.0, how.owner.1) };
        into_place(source, &local_place(local)?, ownership, how)
    }

    /// Writes `path` of a run as a tar archive.
    pub fn copy_to_archive(
        &self,
        run: &RunDir,
        path: &[u8],
        writer: impl Write,
        how: &How<'_>,
    ) -> Result<CopiedFiles, CopyError> {
        let source = self.source_in(run, path, how)?;
        send(source, "-", &mut TarSink::new(writer), how)
    }

    /// Copies `local`, an absolute path, to `path` of a run.
    pub fn copy_in(&self, local: &Path, run: &RunDir, path: &[u8], how: &How<'_>) -> Result<CopiedFiles, CopyError> {
        let place = run_place(run, path)?;
        let source = source_at(&local_place(local)?, how)?;
        into_place(source, &place, inside(&place, how), how)
    }

    /// Unpacks a tar archive into the directory `path` of a run.
    pub fn copy_from_archive(
        &self,
        reader: impl Read,
        run: &RunDir,
        path: &[u8],
        how: &How<'_>,
    ) -> Result<CopiedFiles, CopyError> {
        let place = run_place(run, path)?;
        let top = match find_destination(&place)? {
            Spot::Dir(dir) => dir,
            Spot::Missing { .. } => return Err(CopyError::NoDestination { place: place.name }),
            Spot::Other { metadata, .. } => {
                let (found, expected) = (metadata.kind.words(), "a directory to unpack the archive in");
                return Err(CopyError::Destination { place: place.name, found, expected });
            }
        };
        let mut sink = TreeSink::new(top, inside(&place, how), how.nonce);
        let mut transfer = Transfer::new(how.stop);
        let taken = with_owners(&place, how, &mut sink, |sink| take_archive(reader, sink, &mut transfer))?;
        taken.map_err(|source| CopyError::Transfer { from: "-".to_owned(), to: place.name.clone(), source })?;
        Ok(copied(&transfer))
    }

    fn source_in(&self, run: &RunDir, path: &[u8], how: &How<'_>) -> Result<Source, CopyError> {
        let record = run.record()?;
        if !record.state.is_final() && record.state != RunState::Saving {
            return source_at(&run_place(run, path)?, how);
        }
        let (upper, copy) = (run.path().join("upper"), run.rootfs());
        if record.keep && record.rootfs == "copy" && copy.is_dir() {
            let name = format!("{}:{}", record.name, String::from_utf8_lossy(path));
            let root = Dir::open(&copy).map_err(look(&name))?;
            return source_at(&Place { root, path, name, maps: None }, how);
        }
        if !record.keep || !upper.is_dir() {
            return Err(CopyError::NotKept { run: record.name.to_string() });
        }
        let place = format!("{}:{}", record.name, String::from_utf8_lossy(path));
        let layers = Layers::load(&self.store, &record.layers)?;
        // Only the ending of the path is looked at here.
        let root = Dir::open(&upper).map_err(look(&place))?;
        let ending = Place { root, path, name: place.clone(), maps: None };
        let found =
            Kept::open(&layers, &upper)?.find(path, how.follow || ending.wants_directory()).map_err(look(&place))?;
        named(found, &ending)
    }
}

fn look(place: &str) -> impl FnOnce(io::Error) -> CopyError {
    let place = place.to_owned();
    move |source| CopyError::Look { place, source }
}

/// What comes into a container is its root's.
fn inside(place: &Place<'_>, how: &How<'_>) -> Ownership {
    let (user, group) = place.maps.as_ref().and_then(IdMaps::root).unwrap_or((0, 0));
    if how.archive { Ownership::Kept } else { Ownership::Given(user, group) }
}

/// Lets `work` put entries into `sink` as the owners at `place` have to be: in a container with other users than the machine's
/// nothing can be made in the name of who is not one of them.
fn with_owners<T>(
    place: &Place<'_>,
    how: &How<'_>,
    sink: &mut TreeSink,
    work: impl FnOnce(&mut dyn Sink) -> T,
) -> Result<T, CopyError> {
    let Some((maps, (user, group))) = place.maps.as_ref().and_then(|maps| Some((maps, maps.root()?))) else {
        return Ok(work(sink));
    };
    let work = || {
        if how.archive { work(&mut OwnerSink::new(sink, maps, Direction::Into)) } else { work(sink) }
    };
    with_filesystem_ids(user, group, work).map_err(look(&place.name))
}

fn run_place<'p>(run: &RunDir, path: &'p [u8]) -> Result<Place<'p>, CopyError> {
    let record = run.record()?;
    if record.state.is_final() || record.state == RunState::Saving {
        return Err(CopyError::Ended { run: record.name.to_string() });
    }
    let name = format!("{}:{}", record.name, String::from_utf8_lossy(path));
    Ok(Place { root: live_root(run)?, path, name, maps: record.id_maps })
}

fn local_place(path: &Path) -> Result<Place<'_>, CopyError> {
    let name = path.display().to_string();
    let root = Dir::open(Path::new("/")).map_err(look(&name))?.across_mounts();
    Ok(Place { root, path: path.as_os_str().as_bytes(), name, maps: None })
}

fn source_at(place: &Place<'_>, how: &How<'_>) -> Result<Source, CopyError> {
    let source = named(Origin::of(place.find(how.follow || place.wants_directory())?), place)?;
    if source.origin.is_made_up().map_err(look(&place.name))? {
        return Err(CopyError::MadeUp { place: place.name.clone() });
    }
    Ok(source)
}

/// Names what was found as the path that led there is called, not as what a link leads to.
fn named(found: Option<Origin>, place: &Place<'_>) -> Result<Source, CopyError> {
    let origin = found.ok_or_else(|| CopyError::NoSource { place: place.name.clone() })?;
    if place.wants_directory() && origin.kind() != FileKind::Directory {
        return Err(CopyError::NotADirectory { place: place.name.clone(), found: origin.kind().words() });
    }
    let is_content = place.path == b"." || place.path.ends_with(b"/.");
    let path = if is_content { ImagePath::root() } else { place.clean()? };
    let name = clean(path.name().as_bytes(), &place.name)?;
    Ok(Source { origin, name, place: place.name.clone(), maps: place.maps.clone() })
}

fn find_destination(place: &Place<'_>) -> Result<Spot, CopyError> {
    match place.find(true) {
        Err(CopyError::NoSource { .. }) => {
            let above = place.name.trim_end_matches('/').rsplit_once('/').map_or("", |(above, _)| above);
            let above = if above.is_empty() || above.ends_with(':') { format!("{above}/") } else { above.to_owned() };
            Err(CopyError::NoDestination { place: above })
        }
        found => found,
    }
}

fn into_place(
    mut source: Source,
    place: &Place<'_>,
    ownership: Ownership,
    how: &How<'_>,
) -> Result<CopiedFiles, CopyError> {
    let is_dir = source.origin.kind() == FileKind::Directory;
    let rename = |name: &std::ffi::OsStr| clean(name.as_bytes(), &place.name);
    let top = match find_destination(place)? {
        Spot::Dir(dir) => dir,
        Spot::Missing { .. } if !is_dir && place.wants_directory() => {
            return Err(CopyError::NoDestination { place: place.name.clone() });
        }
        Spot::Missing { parent, name } => {
            source.name = rename(&name)?;
            parent
        }
        Spot::Other { parent, name, metadata } => {
            let found = metadata.kind.words();
            if is_dir || place.wants_directory() {
                let expected = "a directory";
                return Err(CopyError::Destination { place: place.name.clone(), found, expected });
            }
            if metadata.kind != FileKind::Regular {
                let expected = "a regular file or a directory\nhint: `-` writes a tar archive to standard output";
                return Err(CopyError::Destination { place: place.name.clone(), found, expected });
            }
            source.name = rename(&name)?;
            parent
        }
    };
    if top.is_made_up().map_err(look(&place.name))? {
        return Err(CopyError::MadeUp { place: place.name.clone() });
    }
    let mut sink = TreeSink::new(top, ownership, how.nonce);
    with_owners(place, how, &mut sink, |sink| send(source, &place.name, sink, how))?
}

fn send(source: Source, to: &str, sink: &mut dyn Sink, how: &How<'_>) -> Result<CopiedFiles, CopyError> {
    let mut transfer = Transfer::new(how.stop);
    let Source { origin, name, place, maps } = source;
    let sent = match &maps {
        Some(maps) => origin.send(name, &mut OwnerSink::new(sink, maps, Direction::Out), &mut transfer),
        None => origin.send(name, sink, &mut transfer),
    };
    sent.map_err(|source| CopyError::Transfer { from: place, to: to.to_owned(), source })?;
    Ok(copied(&transfer))
}

const fn copied(transfer: &Transfer<'_>) -> CopiedFiles {
    CopiedFiles { entries: transfer.entries, bytes: transfer.bytes, skipped: transfer.skipped }
}
