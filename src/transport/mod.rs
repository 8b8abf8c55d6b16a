//! Images in directories and archives: OCI image layouts and what `docker save` writes.
//!
//! ```text
//! path, stream ──files──> named contents ──layout, docker──> images found ──take──> blobs and documents in the store
//! store ──plan──> named contents ──write──> archive, directory
//! ```
//!
//! What is read is hostile. Nothing is unpacked: archives are indexed (`files`), and contents are asked for by the names
//! that their documents give, links included, so that no name leads anywhere but into the archive. Directories are read
//! through [`crate::sys::beneath`]. Everything is verified while it is copied into the store, and names come last, so
//! that whoever sees one finds all it stands for.
//!
//! It stands above `rootfs` for the sake of its archive reader and its decompressors, which are hardened already.

mod docker;
mod error;
mod files;
mod layout;
mod plan;
mod take;
mod write;

use std::io::Read;
use std::path::Path;

pub use error::TransportError;
pub use plan::SaveFormat;
pub use write::{Destination, replace_file, save};

use self::files::{Files, MANIFEST, MARK};
use self::take::Taker;
use crate::image::{Descriptor, Digest, Form, LocalSource, Observer, Platform, Reference, Which, local_repository};
use crate::store::Store;

/// Most images that one archive or directory may hold.
const MAX_IMAGES: usize = 1000;

/// Where `load` reads from.
pub enum Input {
    /// A file or an OCI layout.
    Path(std::path::PathBuf),
    /// A stream, under the name that errors give it.
    Stream(&'static str, Box<dyn Read + Send>),
}

/// An image that is in the store now.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What it is called.
    pub reference: Reference,
    /// The manifest or index that the name points to.
    pub descriptor: Descriptor,
}

/// An image as an archive or directory lists it.
struct Found {
    /// Its names as they stand there, for whoever asks for one.
    labels: Vec<String>,
    /// Its full names.
    names: Vec<Reference>,
    root: Root,
}

/// Where an image begins.
enum Root {
    /// In an OCI layout: its manifest or index.
    Oci(Descriptor),
    /// In an archive of docker: the names of its contents.
    Docker { config: String, layers: Vec<String> },
}

/// Brings all images of an archive or directory into the store, and then names them.
///
/// The caller holds [`Store::shared`]. Nothing is named unless everything is there.
pub fn load(store: &Store, input: Input, observer: &dyn Observer) -> Result<Vec<Loaded>, TransportError> {
    let (files, repository) = match input {
        Input::Path(path) => (Files::open(store, &path, path.display().to_string())?, repository_of(&path)),
        Input::Stream(name, stream) => (Files::spool(store, stream, name.to_owned())?, "localhost/image".to_owned()),
    };
    let found = find(&files, &repository)?;
    if found.is_empty() {
        return Err(none(&files, "an image".to_owned(), &found));
    }
    let taker = Taker::new(store, &files, None, observer);
    let alone = found.len() == 1;
    let mut loaded = Vec::new();
    for image in found {
        let descriptor = taker.take(&image.root)?;
        // A name with a digest that is not the image's would be a lie.
        let is_honest = |name: &Reference| name.digest().is_none_or(|digest| *digest == descriptor.digest);
        let mut names: Vec<Reference> = image.names.into_iter().filter(is_honest).collect();
        if names.is_empty() {
            let tag = if alone { "latest" } else { descriptor.digest.short() };
            names.push(files.made_name(&repository, tag)?);
        }
        loaded.extend(names.into_iter().map(|reference| Loaded { reference, descriptor: descriptor.clone() }));
    }
    for Loaded { reference, descriptor } in &loaded {
        store.tag(reference, descriptor)?;
    }
    Ok(loaded)
}

/// Brings the image that `source` names into the store, as far as `platform` needs it, and names it.
///
/// The caller holds [`Store::shared`].
pub fn bring(
    store: &Store,
    source: &LocalSource,
    platform: &Platform,
    observer: &dyn Observer,
) -> Result<Loaded, TransportError> {
    let repository = repository_of(&source.path);
    let files = Files::of(store, source)?;
    let found = match source.form {
        Form::OciDir | Form::OciArchive => layout::find(&files, &repository)?,
        Form::DockerArchive => docker::find(&files)?,
    };
    let image = select(&files, &found, &source.which)?;
    let descriptor = Taker::new(store, &files, Some(platform), observer).take(&image.root)?;
    let reference = match chosen_name(image, &source.which, &descriptor.digest) {
        Some(name) => name,
        None => files.made_name(&repository, "latest")?,
    };
    store.tag(&reference, &descriptor)?;
    Ok(Loaded { reference, descriptor })
}

/// The images of whatever it is: an OCI layout, unless what docker says beside it names more.
fn find(files: &Files, repository: &str) -> Result<Vec<Found>, TransportError> {
    let (is_oci, is_docker) = (files.has(MARK)?, files.has(MANIFEST)?);
    match (is_oci, is_docker) {
        (false, false) => Err(files.no_image()),
        (true, false) => layout::find(files, repository),
        (false, true) => docker::find(files),
        (true, true) => {
            let (oci, docker) = (layout::find(files, repository)?, docker::find(files)?);
            let named = |name: &Reference| oci.iter().any(|image| image.names.contains(name));
            let all_named = docker.iter().flat_map(|image| &image.names).all(named) && oci.len() >= docker.len();
            Ok(if all_named { oci } else { docker })
        }
    }
}

fn select<'f>(files: &Files, found: &'f [Found], which: &Which) -> Result<&'f Found, TransportError> {
    let none = |wanted: String| none(files, wanted, found);
    match which {
        Which::Only => match found {
            [only] => Ok(only),
            [] => Err(none("an image".to_owned())),
            _ => Err(TransportError::Several { what: files.what(), there: listed(found) }),
        },
        Which::Place(place) => found.get(*place).ok_or_else(|| none(format!("`@{place}`"))),
        Which::Name(name) => {
            let reference = name.parse::<Reference>().ok();
            let has_label = |image: &&Found| image.labels.contains(name);
            let has_name = |image: &&Found| reference.as_ref().is_some_and(|name| image.names.contains(name));
            let image = found.iter().find(has_label).or_else(|| found.iter().find(has_name));
            image.ok_or_else(|| none(format!("`{name}`")))
        }
    }
}

fn none(files: &Files, wanted: String, found: &[Found]) -> TransportError {
    TransportError::NoImage { what: files.what(), wanted, there: listed(found) }
}

/// The name that was asked for, else the first one.
fn chosen_name(image: &Found, which: &Which, digest: &Digest) -> Option<Reference> {
    let asked = match which {
        Which::Name(name) => name.parse::<Reference>().ok(),
        Which::Only | Which::Place(_) => None,
    };
    let mut honest = image.names.iter().filter(|name| name.digest().is_none_or(|named| named == digest));
    let first = honest.clone().next();
    honest.find(|name| Some(*name) == asked.as_ref()).or(first).cloned()
}

/// What can be asked for, in words.
fn listed(found: &[Found]) -> String {
    const SHOWN: usize = 10;
    let one = |(place, image): (usize, &Found)| match image.labels.first() {
        Some(label) => format!("`{}`", crate::words::printable(label)),
        None => format!("`@{place}` (without a name)"),
    };
    let mut list: Vec<String> = found.iter().enumerate().take(SHOWN).map(one).collect();
    if list.is_empty() {
        return "no image at all".to_owned();
    }
    if found.len() > SHOWN {
        list.push("…".to_owned());
    }
    list.join(", ")
}

fn repository_of(path: &Path) -> String {
    // `oci:.` has no name of its own.
    local_repository(&path.canonicalize().unwrap_or_else(|_| path.to_owned()))
}
