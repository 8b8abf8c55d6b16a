//! `pull`, `images` and `rmi`.

use std::sync::Arc;

use serde::Serialize;

use super::args::{ListArgs, PullArgs, RmiArgs};
use super::context::{Context, block_on};
use super::exit::CliError;
use super::printer::{print_data, print_list, waiting};
use super::prune::dispose_of_trash;
use crate::engine::removal::{Insistence, remove_images};
use crate::engine::{Engine, ImageRequest, PullPolicy};
use crate::image::{ByteSize, Digest, ImageConfig, Observer, Platform, Source};
use crate::store::{Store, StoreError, StoredImage};
use crate::words::printable;

pub(super) fn pull(context: &Context, args: &PullArgs) -> Result<u8, CliError> {
    let printer = context.printer(args.talk);
    let platform = args.platform.as_deref().map_or_else(|| Ok(Platform::host()), str::parse)?;
    let source: Source = args.image.parse()?;
    let engine = context.engine(Some(&args.registry), printer)?;
    let observer: Arc<dyn Observer> = Arc::new(printer.progress());
    let ready = block_on(async {
        let _kept = engine.keep_images().await?;
        let request = image_request(&engine, source, platform, PullPolicy::Always, &observer).await?;
        Ok(engine.image(&request, &observer).await?)
    })?;
    print_data(&format!("{}\n", ready.image.manifest_digest));
    Ok(0)
}

/// A request for the image; one of a directory or archive is brought into the store first.
pub(super) async fn image_request(
    engine: &Engine,
    source: Source,
    platform: Platform,
    pull: PullPolicy,
    observer: &Arc<dyn Observer>,
) -> Result<ImageRequest, CliError> {
    let (reference, brought) = match source {
        Source::Registry(reference) => (reference, None),
        Source::Local(source) => {
            let brought = engine.bring(&source, &platform, observer).await?;
            (brought.reference, Some((source, brought.descriptor)))
        }
    };
    Ok(ImageRequest { reference, platform, pull, login: None, brought })
}

/// One line of `images`; the keys of its JSON are documented in docs/json.md.
#[derive(Serialize)]
struct Line {
    name: String,
    digest: Digest,
    platform: Option<String>,
    /// Compressed size of all layers.
    size_bytes: Option<u64>,
    created: Option<String>,
    /// Why the image cannot be used, when it cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    damage: Option<String>,
}

pub(super) fn list(context: &Context, args: &ListArgs) -> Result<u8, CliError> {
    let store = context.store()?;
    let lines: Vec<Line> = store.images()?.iter().map(|image| line(&store, image)).collect();
    print_list(args.format, ["NAME", "PLATFORM", "DIGEST", "SIZE", "CREATED"], &lines, |line| {
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        let name = line.name.parse::<crate::image::Reference>().map_or(line.name.clone(), |name| name.familiar());
        let size = line.size_bytes.map_or_else(|| "damaged".to_owned(), |bytes| ByteSize(bytes).to_string());
        [name, shown(&line.platform), line.digest.short().to_owned(), size, shown(&line.created)]
    });
    Ok(0)
}

fn line(store: &Store, image: &StoredImage) -> Line {
    let mut line = Line {
        name: image.name.clone(),
        digest: image.descriptor.digest.clone(),
        platform: None,
        size_bytes: None,
        created: None,
        damage: None,
    };
    if let Err(error) = describe_manifests(store, image, &mut line) {
        line.damage = Some(crate::words::describe(&error));
    }
    line
}

/// Fills in platforms and size; of an index, those of the images that are here.
fn describe_manifests(store: &Store, image: &StoredImage, line: &mut Line) -> Result<(), StoreError> {
    let (mut platforms, mut size_bytes) = (Vec::new(), 0);
    for (_, manifest) in store.manifests(image)? {
        let bytes = store.read_document(&manifest.config.digest)?;
        let config = ImageConfig::parse(&bytes, &manifest.config.digest).map_err(StoreError::Config)?;
        platforms.extend(config.platform.map(|platform| platform.to_string()));
        line.created = line.created.take().or(config.created);
        size_bytes += manifest.layers.iter().map(|layer| layer.size).sum::<u64>();
    }
    line.platform = Some(platforms.join(",")).filter(|platforms| !platforms.is_empty());
    line.size_bytes = Some(size_bytes);
    Ok(())
}

pub(super) fn remove(context: &Context, args: &RmiArgs) -> Result<u8, CliError> {
    let printer = context.printer(args.talk);
    let engine = context.engine(None, printer)?;
    let store = engine.store();
    let insistence = if args.force { Insistence::Force } else { Insistence::None };
    let names = (!args.all).then_some(args.images.as_slice());
    let done = remove_images(store, names, insistence, |holder| printer.say(&waiting(holder)))?;
    for image in &done.images {
        let name = if image.name.is_empty() { image.descriptor.digest.to_string() } else { printable(&image.name) };
        print_data(&format!("{name}\n"));
    }
    done.told.iter().for_each(|line| printer.say(&printable(line)));
    let removed = done.removed;
    printer.say(&format!("removed {} blobs and {} layers, {}", removed.blobs, removed.layers, ByteSize(removed.bytes)));
    dispose_of_trash(store, false, printer);
    Ok(0)
}
