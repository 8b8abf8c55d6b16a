//! What can go wrong with images in directories and archives. `what` is the place as the user named it.

use std::io;
use std::path::{Path, PathBuf};

use crate::image::{ByteSize, ConfigError, Digest, DocumentError, Platform, Source};
use crate::rootfs::{StreamError, TarError};
use crate::store::StoreError;

/// An operation on a directory or archive that failed.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// It cannot be opened.
    #[error("cannot open `{}`{}", path.display(), open_hint(path, source))]
    Open {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file where a directory should be, or the other way round.
    #[error("`{path}` is {found}, expected {expected}\nhint: {hint}")]
    WrongKind {
        /// The path.
        path: PathBuf,
        /// What it is.
        found: &'static str,
        /// What it should be.
        expected: &'static str,
        /// What to write instead.
        hint: String,
    },
    /// Neither form of image.
    #[error("`{what}` holds no image: {found}\nhint: {hint}")]
    NotImage {
        /// The place.
        what: String,
        /// What is there instead.
        found: String,
        /// What to do.
        hint: String,
    },
    /// The archive around the image is damaged.
    #[error("cannot read `{what}`{}", cut_off_hint(source))]
    Tar {
        /// The place.
        what: String,
        /// Why.
        #[source]
        source: TarError,
    },
    /// The compression around the archive, or of a layer, is damaged.
    #[error("cannot uncompress `{what}`{}", unpack_hint(source))]
    Stream {
        /// The place.
        what: String,
        /// Why.
        #[source]
        source: StreamError,
    },
    /// Bytes cannot be read.
    #[error("cannot read `{what}`")]
    Read {
        /// The place.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A layout that is newer than we are.
    #[error("`{what}` has layout version `{found}`, expected `1.0.0`")]
    Version {
        /// The place.
        what: String,
        /// What it says.
        found: String,
    },
    /// A list of images that does not parse.
    #[error("`{name}` in `{what}` is damaged")]
    Json {
        /// The place.
        what: String,
        /// The list.
        name: String,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// A manifest or index that is none.
    #[error("an image in `{what}` cannot be read")]
    Document {
        /// The place.
        what: String,
        /// Why.
        #[source]
        source: DocumentError,
    },
    /// A configuration that is none.
    #[error("an image in `{what}` cannot be read")]
    Config {
        /// The place.
        what: String,
        /// Why.
        #[source]
        source: ConfigError,
    },
    /// A manifest that is called an index, or the other way round.
    #[error("`{digest}` in `{what}` is called `{announced}` and is something else, refused (CVE-2021-41190)")]
    Mislabelled {
        /// The place.
        what: String,
        /// The document.
        digest: Digest,
        /// What it is called.
        announced: String,
    },
    /// Indexes in indexes in indexes.
    #[error("an index in `{what}` holds indexes more than {limit} deep")]
    TooDeep {
        /// The place.
        what: String,
        /// The bound.
        limit: usize,
    },
    /// Something that is named is not there.
    #[error("`{what}` has no `{name}`, which its documents name\nhint: it is incomplete; write or copy it again")]
    Missing {
        /// The place.
        what: String,
        /// What is missing.
        name: String,
    },
    /// A link inside the archive that leads nowhere in it.
    #[error("`{name}` in `{what}` is a link that leads nowhere in the archive, refused")]
    Link {
        /// The place.
        what: String,
        /// The link.
        name: String,
    },
    /// One of our bounds.
    #[error("`{what}`: {name} is too large, at most {limit} are allowed")]
    TooLarge {
        /// The place.
        what: String,
        /// What is bounded, in words.
        name: String,
        /// The bound, with its unit.
        limit: String,
    },
    /// Lists that should run in step.
    #[error("`manifest.json` in `{what}` has {layers} layers for an image with {diff_ids} diff IDs")]
    LayerCount {
        /// The place.
        what: String,
        /// Layers that are listed.
        layers: usize,
        /// Layers that the configuration knows.
        diff_ids: usize,
    },
    /// Content of another size than its descriptor says.
    #[error("`{name}` in `{what}` has {actual} bytes, expected {expected}{DAMAGED}")]
    Size {
        /// The place.
        what: String,
        /// The content.
        name: String,
        /// Bytes that are there.
        actual: u64,
        /// Bytes that its descriptor promises.
        expected: u64,
    },
    /// Content that hashes to something else.
    #[error("`{name}` in `{what}` hashes to `{actual}`, expected `{expected}`{DAMAGED}")]
    Digest {
        /// The place.
        what: String,
        /// The content.
        name: String,
        /// What it hashes to.
        actual: Digest,
        /// What it must hash to.
        expected: Digest,
    },
    /// No image of that name.
    #[error("`{what}` has not got {wanted}\nhint: there is {there}")]
    NoImage {
        /// The place.
        what: String,
        /// What was asked for.
        wanted: String,
        /// What can be asked for.
        there: String,
    },
    /// Several images, and none was named.
    #[error("`{what}` holds several images\nhint: add `:NAME` to say which: {there}; `dockless load` takes all")]
    Several {
        /// The place.
        what: String,
        /// What can be asked for.
        there: String,
    },
    /// The image was built for something else.
    #[error("the image in `{what}` is for {offered}, expected {wanted}\nhint: `--platform OS/ARCH` takes another one")]
    Platform {
        /// The place.
        what: String,
        /// What it is for.
        offered: String,
        /// What was asked for.
        wanted: Platform,
    },
    /// Several images of an index, and an archive that holds one under a name.
    #[error(
        "image `{image}` is stored for {offered}, and a docker archive holds one of them\nhint: say which with `--platform`, or save all with `--format oci-archive`"
    )]
    ManyPlatforms {
        /// The image.
        image: String,
        /// What is there.
        offered: String,
    },
    /// Part of an image is not in the store.
    #[error(
        "image `{image}` is incomplete, blob `{digest}` is not in the store\nhint: `dockless pull` fetches it again"
    )]
    Incomplete {
        /// The image.
        image: String,
        /// What is missing.
        digest: Digest,
    },
    /// Part of an image in the store is not what it was.
    #[error("blob `{digest}` in the store is damaged\nhint: `dockless rmi` and `dockless pull` fetch the image again")]
    Damaged {
        /// The blob.
        digest: Digest,
    },
    /// Something cannot be written.
    #[error("cannot write `{what}`")]
    Write {
        /// What.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A directory that would have to be replaced.
    #[error("`{path}` exists\nhint: name a directory that is not there yet")]
    Exists {
        /// The directory.
        path: PathBuf,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

const DAMAGED: &str = "; nothing of it was kept\nhint: it is damaged; write or copy it again";

/// For what is a place with its transport where a path alone is wanted, and for paths with a colon.
fn open_hint(path: &Path, source: &io::Error) -> String {
    let text = path.to_string_lossy();
    match text.parse() {
        Ok(Source::Local(_)) if source.kind() == io::ErrorKind::NotFound => {
            format!("\nhint: `--input` takes a path alone; `dockless pull {text}` takes one image")
        }
        _ => String::new(),
    }
}

const fn unpack_hint(source: &StreamError) -> &'static str {
    match source {
        StreamError::Unsupported { .. } => "\nhint: uncompress it and hand it on: `xz -dc FILE | dockless load`",
        _ => "",
    }
}

fn cut_off_hint(source: &TarError) -> &'static str {
    match source {
        TarError::Truncated { .. } => "\nhint: it was cut off; write or copy it again",
        _ => "",
    }
}

impl TransportError {
    /// A bound in bytes that something named exceeds.
    pub(super) fn too_large(what: &str, name: &str, limit_bytes: u64) -> Self {
        let limit = ByteSize(limit_bytes).to_string();
        Self::TooLarge { what: what.to_owned(), name: name.to_owned(), limit }
    }
}
