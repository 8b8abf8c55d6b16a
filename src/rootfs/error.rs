//! What can go wrong between a layer's blob and a root file system.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use super::archive::TarError;
use super::path::{ImagePath, PathError};
use super::stream::StreamError;
use crate::image::{ByteSize, Digest};
use crate::store::StoreError;

/// A root file system, or a part of one, that could not be had.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// A layer cannot be unpacked. Nothing of it was kept.
    #[error("cannot unpack layer `{digest}`{}", content_hint(source))]
    Layer {
        /// The blob.
        digest: Digest,
        /// Why.
        #[source]
        source: LayerError,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An image whose layers are not all unpacked was to be used.
    #[error("layer `{digest}` is not unpacked\nhint: pull the image again")]
    LayerMissing {
        /// Diff ID or chain ID.
        digest: Digest,
    },
    /// More layers than the kernel stacks.
    #[error("the image has {layers} layers, an overlay takes at most {limit}\nhint: use `--rootfs copy`")]
    TooManyLayers {
        /// How many there are.
        layers: usize,
        /// The kernel's limit.
        limit: usize,
    },
    /// The layers cannot be mounted.
    #[error(
        "the layers are in a form for copying, as they were unpacked where no overlay can be mounted\nhint: use `--rootfs copy`; where the store has been moved, `dockless check --repair` unpacks them again"
    )]
    PlainLayers,
    /// No overlay can be mounted there.
    #[error(
        "cannot mount an overlay at `{target}`: {operation}{}\nhint: use `--rootfs copy`, or name a store on a local file system with `--root DIR`",
        kernel_says(log)
    )]
    Mount {
        /// Where it was to be.
        target: PathBuf,
        /// The step that failed.
        operation: &'static str,
        /// What the kernel wrote into the log of the mount.
        log: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A directory or file of ours cannot be made or changed.
    #[error("cannot {operation} `{path}`")]
    Host {
        /// What was to be done.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel makes no user namespace with the maps that are wanted.
    #[error("cannot make a user namespace with these maps{hint}")]
    Users {
        /// Advice, with the line break before it.
        hint: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Neither the file system nor the kernel lets files belong to the users of a container.
    #[error(
        "cannot mount `{path}` with other owners: its file system or the kernel does not know how\nhint: a store on ext4, xfs or btrfs can (`--root`), and `--userns host` needs nothing of it"
    )]
    Owners {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A layer cannot be copied.
    #[error("cannot copy `{path}` of the image")]
    Copy {
        /// The file in the image.
        path: ImagePath,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of a run's root file system cannot be written into an archive.
    #[error("cannot export `{path}` of the container")]
    Export {
        /// The directory it is in.
        path: ImagePath,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The archive cannot be written.
    #[error("cannot write the archive")]
    ExportWrite(#[source] io::Error),
    /// A file of the image cannot be read.
    #[error("cannot read `{path}` of the image")]
    Read {
        /// The file in the image.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file that is read whole is too large for that.
    #[error("`{path}` of the image is too large to be read: {size}, expected at most {limit}")]
    FileTooLarge {
        /// The file in the image.
        path: String,
        /// Its size in bytes.
        size: ByteSize,
        /// The bound in bytes.
        limit: ByteSize,
    },
    /// Something of the image stands where a directory is needed.
    #[error("`{path}` of the image is {found}, expected a directory")]
    NotDirectory {
        /// The place in the image.
        path: String,
        /// What it is instead.
        found: &'static str,
    },
    /// Something of the image stands where a file is mounted.
    #[error("`{path}` of the image is {found}, expected a file")]
    NotFile {
        /// The place in the image.
        path: String,
        /// What it is instead.
        found: &'static str,
    },
    /// Something that a device brings cannot be put into the root file system.
    #[error("cannot make `{path}` in the root file system")]
    Edit {
        /// The place in the container.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The image has a directory where a file of a device belongs.
    #[error("`{path}` of the image is a directory, expected a file or nothing: a file of the device belongs there")]
    InTheWay {
        /// The place in the container.
        path: PathBuf,
    },
    /// A name from the image's configuration cannot be a path.
    #[error("`{path}` cannot be a directory of the image")]
    Name {
        /// The name.
        path: String,
        /// Why.
        #[source]
        source: PathError,
    },
    /// A directory cannot be made in the root file system.
    #[error("cannot make the directory `{path}` of the image")]
    MakeDirectory {
        /// The place in the image.
        path: ImagePath,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn kernel_says(log: &str) -> String {
    if log.is_empty() { String::new() } else { format!(" ({log})") }
}

/// What may help when the blob itself is at fault.
const fn content_hint(error: &LayerError) -> &'static str {
    match error {
        LayerError::Stream(_) | LayerError::Archive(_) | LayerError::DiffId { .. } => {
            "\nhint: `dockless check --repair` fetches it again if it was damaged in the store; if it came so, take another build"
        }
        _ => "",
    }
}

/// Why a layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The blob cannot be uncompressed.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// What comes out is not a tar archive.
    #[error(transparent)]
    Archive(#[from] TarError),
    /// The archive is another one than the configuration names.
    #[error("its content hashes to `{actual}`, expected the diff ID `{expected}`")]
    DiffId {
        /// What the image's configuration says.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// More entries than any image has.
    #[error("it has more than {limit} entries")]
    Entries {
        /// The bound.
        limit: u64,
    },
    /// An entry that cannot be made.
    #[error("entry `{}`", String::from_utf8_lossy(path))]
    Entry {
        /// Its name as it stands in the archive.
        path: Vec<u8>,
        /// Why.
        #[source]
        source: EntryError,
    },
    /// The tree is there, but its last touches failed.
    #[error("cannot make `{path}` what it is to be{}", full_disk_hint(source))]
    Finish {
        /// The place in the image.
        path: ImagePath,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Why an entry of a layer could not be made.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// The name is none.
    #[error(transparent)]
    Name(#[from] PathError),
    /// The file system refused.
    #[error("cannot {operation}{}", full_disk_hint(source))]
    Io {
        /// What was to be done.
        operation: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// `.wh.`, `.wh..`, `.wh...`, or something below a whiteout.
    #[error("it is not the name of a whiteout, expected `.wh.NAME`")]
    Whiteout,
    /// A character device 0:0, or the one that stands for it.
    #[error("a character device 0:{minor} is refused, as it would be taken for a whiteout")]
    NullDevice {
        /// The minor number.
        minor: u32,
    },
    /// The root as something else than a directory.
    #[error("the root of an image can only be a directory")]
    Root,
    /// A hard link to nothing.
    #[error("the target `{target}` of the hard link does not exist")]
    LinkTarget {
        /// The target.
        target: ImagePath,
    },
    /// A hard link to a directory.
    #[error("the target `{target}` of the hard link is a directory")]
    LinkDirectory {
        /// The target.
        target: ImagePath,
    },
    /// A file where the way to an entry needs a directory.
    #[error("`{path}`, on the way to it, is not a directory")]
    NotDirectory {
        /// The file.
        path: ImagePath,
    },
    /// More memory than a layer may take.
    #[error("the names of the directories and whiteouts of the layer are too large, at most {limit} are allowed")]
    Names {
        /// The bound in bytes.
        limit: ByteSize,
    },
    /// More memory than a layer may take.
    #[error("the access control lists of the layer are too large, at most {limit} are allowed")]
    Acls {
        /// The bound in bytes.
        limit: ByteSize,
    },
}

impl RootfsError {
    /// What the kernel says about a user namespace, and what to do about it.
    pub(super) fn users(source: io::Error) -> Self {
        let hint = match Errno::from_io_error(&source) {
            Some(Errno::NOSPC | Errno::USERS) => "\nhint: `sysctl user.max_user_namespaces` says how many there may be",
            Some(Errno::PERM) => "\nhint: inside of a container the ids have to be some that it has itself",
            _ => "",
        };
        Self::Users { hint, source }
    }
}

impl EntryError {
    /// Whether another attempt, that knows more, would end the same way.
    pub(super) fn is_final(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::Names { .. } | Self::Acls { .. })
            || matches!(self, Self::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }

    pub(super) fn io(operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, source }
    }
}

fn full_disk_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "\nhint: the disk is full, `dockless rmi` removes images, `--root DIR` names another place"
        }
        io::ErrorKind::PermissionDenied => "\nhint: unpacking images needs root",
        _ => "",
    }
}
