//! `inspect`: all that is known about a run or an image.

use serde_json::{Value, json};

use super::args::InspectArgs;
use super::context::Context;
use super::exit::CliError;
use super::printer::print_json;
use crate::image::Platform;
use crate::store::{Store, StoreError, StoredImage};

pub(super) fn inspect(context: &Context, args: &InspectArgs) -> Result<u8, CliError> {
    let store = context.store()?;
    let found = args.names.iter().map(|name| one(&store, name)).collect::<Result<Vec<_>, _>>()?;
    print_json(&found);
    Ok(0)
}

/// A run of that name, or else an image.
fn one(store: &Store, name: &str) -> Result<Value, CliError> {
    match store.find_run(name) {
        Ok(run) => {
            let mut value = serde_json::to_value(run.record()?).unwrap_or_default();
            value["kind"] = json!("run");
            value["log"] = json!(run.log());
            Ok(value)
        }
        Err(StoreError::NoRun { .. }) => match store.find(name) {
            Ok(stored) => Ok(image(store, &stored)?),
            Err(StoreError::NoImage { .. }) => Err(CliError::Usage(format!(
                "no run and no image `{name}`\nhint: `dockless ps -a` lists the runs, `dockless images` the images"
            ))),
            Err(error) => Err(error.into()),
        },
        Err(error) => Err(error.into()),
    }
}

fn image(store: &Store, stored: &StoredImage) -> Result<Value, StoreError> {
    let raw = |digest| -> Result<Value, StoreError> {
        Ok(serde_json::from_slice(&store.read_document(digest)?).unwrap_or_default())
    };
    let mut value = json!({ "kind": "image", "name": stored.name, "digest": stored.descriptor.digest });
    let manifests = store.manifests(stored)?;
    if !manifests.iter().any(|(digest, _)| *digest == stored.descriptor.digest) {
        value["index"] = raw(&stored.descriptor.digest)?;
    }
    // Of an index with several images here, the first.
    if let Some((digest, manifest)) = manifests.first() {
        value["manifest_digest"] = json!(digest);
        value["manifest"] = raw(digest)?;
        value["config"] = raw(&manifest.config.digest)?;
    }
    let reference = stored.reference();
    let image = reference.map(|reference| store.load(&reference, stored, &Platform::host())).transpose()?.flatten();
    if let Some(image) = image {
        let unpacked = crate::rootfs::ready(store, &image);
        value["unpacked"] = json!(unpacked.map(|keys| keys.iter().map(|k| store.layer_dir(k)).collect::<Vec<_>>()));
    }
    Ok(value)
}
