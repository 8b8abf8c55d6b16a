//! From a reference to unpacked layers: the store first, the registry when it must be, layers side by side. What stands in
//! a directory or archive is brought into the store first, and then is an image of the store like any other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, mpsc};

use tokio::sync::{Semaphore, oneshot};
use tokio::task::{JoinSet, spawn_blocking};

use super::{EngineError, ImageRequest, PullPolicy};
use crate::image::{Descriptor, Digest, Image, LocalSource, Observer, Platform};
use crate::registry::{self, Registry, store_documents};
use crate::rootfs::{self, RootfsError, Unpacker};
use crate::store::{Store, StoreError, StoredImage};
use crate::transport::{self, Input, Loaded};

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

/// Has the image unpacked; `on_work` is called once before anything is fetched or unpacked, and not when all is there.
pub(super) async fn ready(
    store: &Store,
    settings: &registry::Settings,
    request: &ImageRequest,
    observer: &Arc<dyn Observer>,
    on_work: &mut (dyn FnMut() + Send),
) -> Result<ReadyImage, EngineError> {
    let image = obtain(store, settings, request, observer, on_work).await?;
    // What pruning calls the time of its last use.
    store.touch_image(&image.image.manifest_digest);
    Ok(image)
}

async fn obtain(
    store: &Store,
    settings: &registry::Settings,
    request: &ImageRequest,
    observer: &Arc<dyn Observer>,
    on_work: &mut (dyn FnMut() + Send),
) -> Result<ReadyImage, EngineError> {
    if let Some(brought) = &request.brought {
        return brought_ready(store, request, brought, observer, on_work).await;
    }
    // A registry client of its own for each image: what it is given is shown to that image's registry only.
    let settings = &with_login(settings, request);
    if request.pull != PullPolicy::Always
        && let Some(image) = stored(store, request)?
    {
        if let Some(layers) = rootfs::ready(store, &image) {
            return Ok(ReadyImage { image, layers });
        }
        // Put there by another tool, or its layers were lost: what blobs there are need not be fetched again.
        on_work();
        let complete = image.manifest.layers.iter().all(|layer| store.has_blob(layer));
        if complete || request.pull == PullPolicy::Missing {
            let registry = if complete { None } else { Some(Arc::new(Registry::new(settings.clone())?)) };
            let layers = fetch_and_unpack(store, registry, &image, observer).await?;
            note_unpacked(store, request, &image);
            return Ok(ReadyImage { image, layers });
        }
    }
    if request.pull == PullPolicy::Never {
        return Err(EngineError::NotStored { reference: request.reference.familiar() });
    }
    on_work();
    pull(store, Arc::new(Registry::new(settings.clone())?), request, observer).await
}

/// The same for what came out of a directory or archive.
async fn brought_ready(
    store: &Store,
    request: &ImageRequest,
    (source, descriptor): &(LocalSource, Descriptor),
    observer: &Arc<dyn Observer>,
    on_work: &mut (dyn FnMut() + Send),
) -> Result<ReadyImage, EngineError> {
    let whole = |descriptor: &Descriptor| {
        let stored = StoredImage { name: request.reference.to_string(), descriptor: descriptor.clone() };
        let image = load(store, request, &stored)?;
        Ok::<_, EngineError>(image.filter(|image| image.manifest.layers.iter().all(|layer| store.has_blob(layer))))
    };
    let mut image = whole(descriptor)?;
    if image.is_none() {
        // Until now nothing has kept it: somebody may have pruned it.
        let again = bring(store, source, &request.platform, observer).await?;
        image = whole(&again.descriptor)?;
    }
    let image = image.ok_or_else(|| EngineError::NotStored { reference: request.reference.familiar() })?;
    if let Some(layers) = rootfs::ready(store, &image) {
        return Ok(ReadyImage { image, layers });
    }
    on_work();
    let layers = fetch_and_unpack(store, None, &image, observer).await?;
    note_unpacked(store, request, &image);
    Ok(ReadyImage { image, layers })
}

/// See [`super::Engine::bring`]. The caller keeps images from being removed.
pub(super) async fn bring(
    store: &Store,
    source: &LocalSource,
    platform: &Platform,
    observer: &Arc<dyn Observer>,
) -> Result<Loaded, EngineError> {
    let (store, source, platform, observer) = (store.clone(), source.clone(), platform.clone(), Arc::clone(observer));
    let taken = spawn_blocking(move || transport::bring(&store, &source, &platform, &*observer)).await;
    Ok(taken.map_err(|_| EngineError::Task("reading the image"))??)
}

/// See [`super::Engine::load`]. The caller keeps images from being removed.
pub(super) async fn take_all(
    store: &Store,
    input: Input,
    observer: &Arc<dyn Observer>,
) -> Result<Vec<Loaded>, EngineError> {
    let (store, observer) = (store.clone(), Arc::clone(observer));
    let taken = spawn_blocking(move || transport::load(&store, input, &*observer)).await;
    Ok(taken.map_err(|_| EngineError::Task("reading the images"))??)
}

fn with_login(settings: &registry::Settings, request: &ImageRequest) -> registry::Settings {
    let login = request.login.clone().or_else(|| settings.login.clone());
    registry::Settings { login, ..settings.clone() }
}

fn stored(store: &Store, request: &ImageRequest) -> Result<Option<Image>, EngineError> {
    store.lookup(&request.reference)?.map_or(Ok(None), |stored| load(store, request, &stored))
}

fn load(store: &Store, request: &ImageRequest, stored: &StoredImage) -> Result<Option<Image>, EngineError> {
    match store.load(&request.reference, stored, &request.platform) {
        // Of an index only the images that were asked for so far are there.
        Err(StoreError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        loaded => Ok(loaded?),
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
    let layers = match rootfs::ready(store, &image) {
        Some(layers) if image.manifest.layers.iter().all(|layer| store.has_blob(layer)) => layers,
        _ => fetch_and_unpack(store, Some(registry), &image, observer).await?,
    };
    // The name comes last: whoever sees it finds everything it stands for.
    store_documents(store, &resolved).await?;
    store.tag_unpacked(&request.reference, resolved.top(), &image.manifest_digest)?;
    Ok(ReadyImage { image, layers })
}

/// Notes that the image is unpacked now, so that a check knows what should be there.
fn note_unpacked(store: &Store, request: &ImageRequest, image: &Image) {
    // It has its layers whether that can be noted or not, and a name may have gone or moved meanwhile.
    if let Ok(Some(stored)) = store.lookup(&request.reference)
        && let Ok(Some(named)) = load(store, request, &stored)
        && named.manifest_digest == image.manifest_digest
        && let Err(error) = store.note_unpacked(&stored, &image.manifest_digest)
    {
        tracing::debug!(%error, "cannot note that the image is unpacked");
    }
}

/// Fetches what is missing, biggest first, and unpacks each layer as soon as it is there.
async fn fetch_and_unpack(
    store: &Store,
    registry: Option<Arc<Registry>>,
    image: &Image,
    observer: &Arc<dyn Observer>,
) -> Result<Vec<Digest>, EngineError> {
    let (arrived, arrivals) = mpsc::channel();
    let (tell_missing, missing) = oneshot::channel();
    let unpacking = spawn_blocking({
        let (store, image, observer) = (store.clone(), image.clone(), Arc::clone(observer));
        move || unpack(&store, &image, &*observer, tell_missing, arrivals)
    });
    // An error on the other side is told by it below.
    let fetched = match missing.await {
        Ok(missing) => fetch(store, registry, image, observer, &missing, &arrived).await,
        Err(_) => Ok(()),
    };
    drop(arrived);
    let unpacked = unpacking.await.map_err(|_| EngineError::Task("unpacking"))?;
    // A layer that could not be fetched is the reason why it was not unpacked, and not the other way round.
    fetched?;
    Ok(unpacked?)
}

/// Brings the blobs that are not in the store, and tells of each layer in `missing` when its blob is there.
async fn fetch(
    store: &Store,
    registry: Option<Arc<Registry>>,
    image: &Image,
    observer: &Arc<dyn Observer>,
    missing: &[usize],
    arrived: &mpsc::Sender<usize>,
) -> Result<(), EngineError> {
    let mut blobs: HashMap<&Digest, (&Descriptor, Vec<usize>)> = HashMap::new();
    for (index, (descriptor, _)) in image.layers().enumerate() {
        let (_, waiting) = blobs.entry(&descriptor.digest).or_insert((descriptor, Vec::new()));
        waiting.extend(missing.contains(&index).then_some(index));
    }
    let (there, mut absent): (Vec<_>, Vec<_>) =
        blobs.into_values().partition(|(descriptor, _)| store.has_blob(descriptor));
    let left = absent.iter().map(|(descriptor, _)| descriptor.size - store.partial_bytes(descriptor));
    // A manifest may claim any sizes.
    store.check_space(left.fold(0, u64::saturating_add))?;
    for index in there.into_iter().flat_map(|(_, waiting)| waiting) {
        let _ = arrived.send(index);
    }
    let Some(registry) = registry else { return Ok(()) };
    absent.sort_by_key(|(descriptor, _)| std::cmp::Reverse(descriptor.size));
    let turns = Arc::new(Semaphore::new(DOWNLOADS));
    let mut downloads = JoinSet::new();
    for (descriptor, waiting) in absent {
        let (registry, turns, store) = (Arc::clone(&registry), Arc::clone(&turns), store.clone());
        let (reference, observer, descriptor) = (image.reference.clone(), Arc::clone(observer), descriptor.clone());
        downloads.spawn(async move {
            let _turn = turns.acquire().await.map_err(|_| EngineError::Task("a download"))?;
            registry.fetch_blob(&reference, &descriptor, &store, &*observer).await?;
            Ok::<_, EngineError>(waiting)
        });
    }
    while let Some(ended) = downloads.join_next().await {
        for index in ended.map_err(|_| EngineError::Task("a download"))?? {
            if arrived.send(index).is_err() {
                // Unpacking has failed; what is still on its way is called off with the set.
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Unpacks layers as they arrive, some at a time, on threads of its own.
fn unpack(
    store: &Store,
    image: &Image,
    observer: &dyn Observer,
    tell_missing: oneshot::Sender<Vec<usize>>,
    arrivals: mpsc::Receiver<usize>,
) -> Result<Vec<Digest>, RootfsError> {
    let unpacker = Unpacker::begin(store, image, observer)?;
    drop(tell_missing.send(unpacker.missing()));
    let arrivals = Mutex::new(arrivals);
    let next = || arrivals.lock().ok()?.recv().ok();
    let work = || std::iter::from_fn(next).try_for_each(|index| unpacker.unpack(index));
    std::thread::scope(|scope| {
        let workers: Vec<_> = (1..UNPACKS).map(|_| scope.spawn(work)).collect();
        let mine = work();
        let theirs = workers.into_iter().map(|worker| worker.join().unwrap_or(Ok(())));
        // Everybody is waited for, and the first error is told.
        theirs.fold(mine, Result::and)
    })?;
    unpacker.finish()
}
