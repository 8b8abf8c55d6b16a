//! From a reference to unpacked layers: the store first, the registry when it must be, layers side by side.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};

use super::{EngineError, ImageRequest, PullPolicy};
use crate::image::{Descriptor, Digest, Image, Observer};
use crate::registry::{self, Registry, store_documents};
use crate::rootfs::{UnpackedLayer, Unpacker, ready_layers};
use crate::store::Store;

/// Layers fetched at a time: more does not make a line faster, and holds more memory.
const DOWNLOADS: usize = 3;
/// Layers unpacked at a time: each keeps about one core inflating and part of another hashing and writing.
const UNPACKS: usize = 2;

/// An image with all its layers unpacked.
#[derive(Debug, Clone)]
pub struct ReadyImage {
    /// The image.
    pub image: Image,
    /// Names of its layer directories in the store, lowest first.
    pub layers: Vec<Digest>,
}

pub(super) async fn ready(
    store: &Store,
    settings: &registry::Settings,
    request: &ImageRequest,
    observer: &Arc<dyn Observer>,
) -> Result<ReadyImage, EngineError> {
    if request.pull != PullPolicy::Always
        && let Some(image) = stored(store, request)?
    {
        if let Some(layers) = ready_layers(store, &image)? {
            return Ok(ReadyImage { image, layers });
        }
        // Put there by another tool, or its layers were lost: what blobs there are need not be fetched again.
        let complete = image.manifest.layers.iter().all(|layer| store.has_blob(layer));
        if complete || request.pull == PullPolicy::Missing {
            let registry = if complete { None } else { Some(Arc::new(Registry::new(settings.clone())?)) };
            let layers = fetch_and_unpack(store, registry, &image, observer).await?;
            return Ok(ReadyImage { image, layers });
        }
    }
    if request.pull == PullPolicy::Never {
        return Err(EngineError::NotStored { reference: request.reference.familiar() });
    }
    pull(store, Arc::new(Registry::new(settings.clone())?), request, observer).await
}

fn stored(store: &Store, request: &ImageRequest) -> Result<Option<Image>, EngineError> {
    match store.lookup(&request.reference)? {
        Some(stored) => Ok(store.load(&request.reference, &stored, &request.platform)?),
        None => Ok(None),
    }
}

async fn pull(
    store: &Store,
    registry: Arc<Registry>,
    request: &ImageRequest,
    observer: &Arc<dyn Observer>,
) -> Result<ReadyImage, EngineError> {
    let resolved = registry.resolve(&request.reference, &request.platform, &**observer).await?;
    let image = resolved.image.clone();
    let offered = image.config.platform.as_ref();
    if let Some(offered) = offered.filter(|offered| request.platform.rank(offered).is_none()) {
        return Err(EngineError::Platform {
            reference: request.reference.familiar(),
            offered: offered.to_string(),
            wanted: request.platform.clone(),
        });
    }
    let layers = match ready_layers(store, &image)? {
        Some(layers) if image.manifest.layers.iter().all(|layer| store.has_blob(layer)) => layers,
        _ => fetch_and_unpack(store, Some(registry), &image, observer).await?,
    };
    // The name comes last: whoever sees it finds everything it stands for.
    store_documents(store, &resolved).await?;
    store.tag(&request.reference, resolved.top())?;
    Ok(ReadyImage { image, layers })
}

/// Fetches what is missing and unpacks each layer as soon as it is there, biggest first.
async fn fetch_and_unpack(
    store: &Store,
    registry: Option<Arc<Registry>>,
    image: &Image,
    observer: &Arc<dyn Observer>,
) -> Result<Vec<Digest>, EngineError> {
    let mut seen = HashSet::new();
    let mut work: Vec<(Descriptor, Digest)> = image
        .layers()
        .filter(|(_, diff_id)| seen.insert((*diff_id).clone()))
        .map(|(d, i)| (d.clone(), i.clone()))
        .collect();
    work.sort_by_key(|(descriptor, _)| std::cmp::Reverse(descriptor.size));
    let needed: u64 = work.iter().filter(|(d, _)| !store.has_blob(d)).map(|(d, _)| d.size).sum();
    store.check_space(needed)?;

    let downloads = Arc::new(Semaphore::new(DOWNLOADS));
    let unpacks = Arc::new(Semaphore::new(UNPACKS));
    let mut tasks = JoinSet::new();
    for (descriptor, diff_id) in work {
        let layer = Layer {
            store: store.clone(),
            registry: registry.clone(),
            reference: image.reference.clone(),
            observer: Arc::clone(observer),
            descriptor,
            diff_id,
        };
        tasks.spawn(layer.bring(Arc::clone(&downloads), Arc::clone(&unpacks)));
    }
    let mut unpacked = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        // The first failure drops the others, which takes their half-written files with them.
        unpacked.push(ended.map_err(|_| EngineError::Task("a download"))??);
    }
    let (store, image, observer) = (store.clone(), image.clone(), Arc::clone(observer));
    spawn_blocking(move || Ok(Unpacker::new(&store, &*observer).finish(&image, unpacked)?))
        .await
        .map_err(|_| EngineError::Task("unpacking"))?
}

/// One layer on its way in.
struct Layer {
    store: Store,
    registry: Option<Arc<Registry>>,
    reference: crate::image::Reference,
    observer: Arc<dyn Observer>,
    descriptor: Descriptor,
    diff_id: Digest,
}

impl Layer {
    async fn bring(self, downloads: Arc<Semaphore>, unpacks: Arc<Semaphore>) -> Result<UnpackedLayer, EngineError> {
        if let Some(registry) = &self.registry {
            let _turn = downloads.acquire().await.map_err(|_| EngineError::Task("a download"))?;
            registry.fetch_blob(&self.reference, &self.descriptor, &self.store, &*self.observer).await?;
        }
        let _turn = unpacks.acquire().await.map_err(|_| EngineError::Task("unpacking"))?;
        let unpacked =
            spawn_blocking(move || Unpacker::new(&self.store, &*self.observer).unpack(&self.descriptor, &self.diff_id));
        Ok(unpacked.await.map_err(|_| EngineError::Task("unpacking"))??)
    }
}
