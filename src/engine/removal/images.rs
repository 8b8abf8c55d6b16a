//! Removing images: by name, or those that nobody misses.

use jiff::Timestamp;

use super::{Candidate, RemovalError};
use crate::image::ImageConfig;
use crate::store::{Partials, Removed, RunName, Store, StoreError, StoredImage, sweep_tmp};

/// A wish about a label: `KEY` or `KEY=VALUE`, or that it be otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelFilter {
    /// The key.
    pub key: String,
    /// The value; any will do without.
    pub value: Option<String>,
    /// Whether images that have it stay.
    pub negated: bool,
}

/// Which images are pruned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageFilter {
    /// Those with names too.
    pub all: bool,
    /// Only those last used or pulled before.
    pub before: Option<Timestamp>,
    /// Only those whose labels are all so.
    pub labels: Vec<LabelFilter>,
}

/// What pruning would do to the images.
#[derive(Debug, Default)]
pub struct ImagesToPrune {
    /// Would go, each with the bytes that it alone takes.
    pub remove: Vec<Candidate<StoredImage>>,
    /// Would go if no run needed them.
    pub keep: Vec<(StoredImage, RunName)>,
    /// Blobs and layers that nothing reaches, which go with them.
    pub orphans: usize,
    /// What all of it takes.
    pub bytes: u64,
}

/// The images that the filter names, and which of them may go.
///
/// # Errors
/// [`StoreError::RunUnreadable`] when it cannot be told what a run needs.
pub fn images_to_prune(store: &Store, filter: &ImageFilter) -> Result<ImagesToPrune, RemovalError> {
    let mut found = ImagesToPrune::default();
    let mut going = Vec::new();
    for (image, run) in meant(store, filter)? {
        match run {
            Some(run) => found.keep.push((image, run)),
            None => going.push(image),
        }
    }
    let freed = store.freed_by(&going)?;
    found.remove = going.into_iter().zip(freed.alone).map(|(item, bytes)| Candidate { item, bytes }).collect();
    Ok(ImagesToPrune { orphans: freed.orphans, bytes: freed.bytes, ..found })
}

/// Removes those of `images` that may still go, and with them all content that nothing reaches and all unfinished downloads;
/// which images, and what all that took.
pub fn prune_images(
    store: &Store,
    images: &[StoredImage],
    filter: &ImageFilter,
    on_wait: impl FnMut(Option<u32>),
) -> Result<(Vec<StoredImage>, Removed), RemovalError> {
    let lock = store.exclusive(on_wait)?;
    // A run may have come to use one, or somebody has removed it.
    let mut going = meant(store, filter)?;
    going.retain(|(image, run)| run.is_none() && images.iter().any(|listed| listed.is_same_entry(image)));
    let going: Vec<StoredImage> = going.into_iter().map(|(image, _)| image).collect();
    let mut removed = store.remove_images(&going, &lock)?;
    removed.bytes += sweep_tmp(store, Partials::None)?;
    Ok((going, removed))
}

/// How images are removed by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Insistence {
    /// Anything unclear or in use is an error, and nothing is removed.
    None,
    /// Names go although runs need the image: these keep what they need. A digest stands for all its names, and names that
    /// are not there are no error.
    Force,
}

/// What removing images by name came to.
#[derive(Debug, Default)]
pub struct RemovedImages {
    /// Names that are gone.
    pub images: Vec<StoredImage>,
    /// Names that were not there, or are needed by a run that keeps their layers, in words.
    pub told: Vec<String>,
    /// What went with them.
    pub removed: Removed,
}

/// Removes the images that people name; without names all of them.
///
/// All are looked up before any is removed, so that a typing error removes nothing.
///
/// # Errors
/// [`StoreError::ImageInUse`], [`StoreError::NoImage`] unless forced; [`StoreError::AmbiguousImage`] for a digest that has
/// several names.
pub fn remove_images(
    store: &Store,
    names: Option<&[String]>,
    insistence: Insistence,
    on_wait: impl FnMut(Option<u32>),
) -> Result<RemovedImages, RemovalError> {
    let lock = store.exclusive(on_wait)?;
    let mut done = RemovedImages::default();
    let mut found: Vec<(StoredImage, String)> = Vec::new();
    let listed = if names.is_none() { store.images()? } else { Vec::new() };
    found.extend(listed.into_iter().map(|image| (image.clone(), shown(&image).to_owned())));
    for name in names.unwrap_or_default() {
        match named(store, name, insistence) {
            Ok(images) => found.extend(images.into_iter().map(|image| (image, name.clone()))),
            Err(StoreError::NoImage { name }) if insistence == Insistence::Force => {
                done.told.push(format!("no image `{name}` in the store"));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let images: Vec<StoredImage> = found.iter().map(|(image, _)| image.clone()).collect();
    for ((image, run), (_, name)) in store.runs_needing(&images)?.into_iter().zip(found) {
        match run {
            Some(run) if insistence == Insistence::None => {
                return Err(StoreError::ImageInUse { name, run: run.to_string() }.into());
            }
            Some(run) => done.told.push(format!("run `{run}` keeps the layers of `{name}`")),
            None => {}
        }
        if !done.images.iter().any(|listed| listed.is_same_entry(&image)) {
            done.images.push(image);
        }
    }
    done.removed = store.remove_images(&done.images, &lock)?;
    Ok(done)
}

/// The name of an image; one without is known by its digest.
fn shown(image: &StoredImage) -> &str {
    if image.name.is_empty() { image.descriptor.digest.short() } else { &image.name }
}

/// What `name` stands for: one entry, or when forced, all entries of one digest.
fn named(store: &Store, name: &str, insistence: Insistence) -> Result<Vec<StoredImage>, StoreError> {
    let found = store.find(name)?;
    if found
        .reference()
        .is_some_and(|reference| name.parse().is_ok_and(|asked: crate::image::Reference| asked == reference))
    {
        return Ok(vec![found]);
    }
    let mut same = store.images()?;
    same.retain(|image| image.descriptor.digest == found.descriptor.digest);
    if same.len() > 1 && insistence == Insistence::None {
        let found = same.iter().map(|image| format!("`{}`", shown(image))).collect::<Vec<_>>().join(", ");
        return Err(StoreError::AmbiguousImage { name: name.to_owned(), found });
    }
    Ok(same)
}

/// The images that the filter names, each with a run that needs it.
fn meant(store: &Store, filter: &ImageFilter) -> Result<Vec<(StoredImage, Option<RunName>)>, StoreError> {
    let mut images = store.images()?;
    images.retain(|image| {
        let young =
            || filter.before.is_some_and(|before| store.image_last_used(image).is_none_or(|used| used >= before));
        (filter.all || image.name.is_empty()) && labels_fit(store, image, &filter.labels) && !young()
    });
    store.runs_needing(&images)
}

/// Of an index, one image that fits is enough. What cannot be read has no labels.
fn labels_fit(store: &Store, image: &StoredImage, wanted: &[LabelFilter]) -> bool {
    if wanted.is_empty() {
        return true;
    }
    let read = |digest| ImageConfig::parse(&store.read_document(digest).ok()?, digest).ok();
    let manifests = store.manifests(image).unwrap_or_default();
    let labels: Vec<_> = manifests
        .iter()
        .filter_map(|(_, manifest)| read(&manifest.config.digest))
        .map(|config| config.labels)
        .collect();
    let has = |labels: &[(String, String)], filter: &LabelFilter| {
        labels
            .iter()
            .any(|(key, value)| *key == filter.key && filter.value.as_ref().is_none_or(|wanted| wanted == value))
    };
    let fits = |labels: &[(String, String)]| wanted.iter().all(|filter| has(labels, filter) != filter.negated);
    labels.iter().any(|labels| fits(labels)) || (labels.is_empty() && fits(&[]))
}
