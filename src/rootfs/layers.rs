//! The layers of an image: which are there, unpacking those that are not, and what they are as a stack.
//!
//! A layer is named by its diff ID if its tree is right on top of anything, and by its chain ID if it was made for the
//! layers below it: because it has directories without entries of their own, whiteouts, or hard links to files of lower
//! layers. The lowest layer's chain ID is its diff ID, so `mended` in its description tells whether others may use it.
//!
//! Locks, in the order they are taken, none waited for while a later one is held: the image's (one unpacks, others wait
//! and then find everything there), then a layer's diff ID while that layer is being unpacked.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::attributes::Marks;
use super::error::{LayerError, RootfsError};
use super::merged::Merged;
use super::tree::Needs;
use super::unpack::{Layer, Limits, Unpacked, mend, unpack_alone, unpack_upon};
use crate::image::{ChainId, Descriptor, Digest, Image, Observer, PullEvent};
use crate::store::{LayerInfo, LayerWriter, Store};
use crate::sys::Lock;
use crate::sys::beneath::Dir;

/// Steps in which the progress of a layer is told.
const PROGRESS_STEPS: u64 = 100;

/// The unpacked layers of an image, ready to be mounted, copied or read.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    /// Topmost first, each once.
    paths: Vec<PathBuf>,
    /// The layer whose root directory says what the root is like.
    root: Option<PathBuf>,
    marks: Marks,
}

impl Layers {
    /// Finds the layers `keys`, lowest first, in the store.
    pub fn load(store: &Store, keys: &[Digest]) -> Result<Self, RootfsError> {
        let mut layers = Self::default();
        let mut seen = HashSet::new();
        let mut hidden = false;
        for key in keys.iter().rev() {
            // A layer that comes again further down has nothing that the upper one does not show.
            if !seen.insert(key) {
                continue;
            }
            let path = store.layer_fs(key).ok_or_else(|| RootfsError::LayerMissing { digest: key.clone() })?;
            let info = store.layer_info(key)?;
            if info.has_root && layers.root.is_none() {
                layers.root = Some(path.clone());
            }
            if !hidden {
                layers.paths.push(path);
            }
            if info.is_plain {
                layers.marks = Marks::Plain;
            }
            hidden |= info.is_opaque;
        }
        Ok(layers)
    }

    /// Trees in overlay form that are not in a store, topmost first; `root` is the one whose root directory counts.
    #[must_use]
    pub const fn from_paths(paths: Vec<PathBuf>, root: Option<PathBuf>) -> Self {
        Self { paths, root, marks: Marks::Trusted }
    }

    /// These layers below the writable one of a run, which says what the root is like.
    #[must_use]
    pub fn below(mut self, upper: PathBuf) -> Self {
        self.paths.insert(0, upper.clone());
        self.root = Some(upper);
        self
    }

    /// Whether an overlay of them would show what they are.
    pub(super) fn are_mountable(&self) -> bool {
        self.marks != Marks::Plain
    }

    /// The trees, topmost first.
    #[must_use]
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// The tree whose root directory says what the image's root is like; `None` when no layer says.
    #[must_use]
    pub fn root(&self) -> Option<&Path> {
        self.root.as_deref()
    }

    /// The same with the writable layer of a run above them.
    pub(super) fn open_below(&self, upper: &Path) -> Result<Merged, RootfsError> {
        let paths = std::iter::once(upper).chain(self.paths.iter().map(PathBuf::as_path));
        Merged::open(paths, self.marks).map_err(|source| RootfsError::Host {
            operation: "open the writable layer and the layers below",
            path: upper.to_owned(),
            source,
        })
    }

    pub(super) fn open(&self) -> Result<Merged, RootfsError> {
        Merged::open(self.paths.iter().map(PathBuf::as_path), self.marks).map_err(|source| RootfsError::Host {
            operation: "open the layers below",
            path: self.paths.first().cloned().unwrap_or_default(),
            source,
        })
    }
}

/// The keys of an image's layers, lowest first, if all are unpacked. Takes no lock and writes nothing.
#[must_use]
pub fn ready(store: &Store, image: &Image) -> Option<Vec<Digest>> {
    standing(store, image).into_iter().collect()
}

/// The key of each of an image's layers, lowest first; `None` for one that is not unpacked or is damaged.
#[must_use]
pub fn standing(store: &Store, image: &Image) -> Vec<Option<Digest>> {
    let chains = chains(image).into_iter().enumerate();
    chains.map(|(index, (diff_id, chain))| find(store, index == 0, diff_id, &chain)).collect()
}

/// The names that each of an image's layers may have, lowest first: its diff ID and its chain ID.
#[must_use]
pub fn possible_keys(image: &Image) -> Vec<[Digest; 2]> {
    chains(image).into_iter().map(|(diff_id, chain)| [diff_id.clone(), chain.digest().clone()]).collect()
}

/// Each layer's diff ID and chain ID, lowest first.
fn chains(image: &Image) -> Vec<(&Digest, ChainId)> {
    let mut chain: Option<ChainId> = None;
    image
        .layers()
        .map(|(_, diff_id)| {
            let next = chain.as_ref().map_or_else(|| ChainId::base(diff_id), |chain| chain.push(diff_id));
            chain = Some(next.clone());
            (diff_id, next)
        })
        .collect()
}

/// The name under which a layer is there for this place in this image; a damaged one is not there.
fn find(store: &Store, is_lowest: bool, diff_id: &Digest, chain: &ChainId) -> Option<Digest> {
    let there = |key: &Digest| store.whole_layer(key).filter(|info| info.diff_id == *diff_id);
    if there(diff_id).is_some_and(|info| is_lowest || !info.mended) {
        return Some(diff_id.clone());
    }
    there(chain.digest()).map(|_| chain.digest().clone())
}

/// The unpacking of one image. Methods may be called from several threads; a layer may be unpacked as soon as its blob is
/// in the store, in any order.
pub struct Unpacker<'a> {
    store: &'a Store,
    image: &'a Image,
    observer: &'a dyn Observer,
    /// Names the lock below, which guards what is aside in `tmp`.
    guard: Digest,
    slots: Mutex<Vec<Slot>>,
    /// What the file system can hold, once that is known.
    marks: OnceLock<Marks>,
    lock: Option<Lock>,
}

/// How a layer stands.
enum Slot {
    Missing,
    /// Unpacked, waiting for the layers below to be mended against.
    Aside(LayerWriter, LayerInfo, Needs),
    /// To be unpacked with the layers below at hand.
    Again,
    Ready(Digest),
}

impl<'a> Unpacker<'a> {
    /// Begins; waits while another process unpacks the same image.
    pub fn begin(store: &'a Store, image: &'a Image, observer: &'a dyn Observer) -> Result<Self, RootfsError> {
        let guard = Digest::sha256(format!("unpack {}", image.manifest_digest).as_bytes());
        let lock = store.lock_digest(&guard, |holder_pid| {
            observer.pull(&PullEvent::Waiting { digest: &image.manifest_digest, holder_pid });
        })?;
        let mut slots = Vec::new();
        for ((blob, _), (diff_id, chain)) in image.layers().zip(chains(image)) {
            slots.push(match find(store, slots.is_empty(), diff_id, &chain) {
                Some(key) => {
                    observer.pull(&PullEvent::LayerExists { digest: &blob.digest });
                    Slot::Ready(key)
                }
                None => Slot::Missing,
            });
        }
        Ok(Self { store, image, observer, guard, slots: Mutex::new(slots), marks: OnceLock::new(), lock: Some(lock) })
    }

    /// The layers that must be unpacked, as places in [`Image::layers`]. Their blobs are needed until [`Self::finish`].
    #[must_use]
    pub fn missing(&self) -> Vec<usize> {
        let slots = self.slots();
        slots.iter().enumerate().filter(|(_, slot)| !matches!(slot, Slot::Ready(_))).map(|(index, _)| index).collect()
    }

    /// Unpacks the layer at `index` in [`Image::layers`], whose blob is in the store. Blocks until that is done.
    ///
    /// # Errors
    /// [`RootfsError::Layer`] names the blob; nothing of the layer is kept.
    pub fn unpack(&self, index: usize) -> Result<(), RootfsError> {
        let Some((blob, diff_id)) = self.image.layers().nth(index) else { return Ok(()) };
        let lock = self.store.lock_digest(diff_id, |holder_pid| {
            self.observer.pull(&PullEvent::Waiting { digest: &blob.digest, holder_pid });
        })?;
        let slot = self.unpack_alone(index, blob, diff_id);
        drop(lock.remove());
        let slot = slot?;
        let mut slots = self.slots();
        slots[index] = slot;
        self.settle(&mut slots)
    }

    /// The keys of all layers, lowest first, each once.
    ///
    /// # Errors
    /// [`RootfsError::LayerMissing`] when one was not unpacked.
    pub fn finish(self) -> Result<Vec<Digest>, RootfsError> {
        let mut keys: Vec<Digest> = Vec::new();
        for (slot, (_, diff_id)) in self.slots().iter().zip(self.image.layers()) {
            let Slot::Ready(key) = slot else { return Err(RootfsError::LayerMissing { digest: diff_id.clone() }) };
            // Overlays refuse a directory that comes twice; the upper one shows all that the lower one has.
            keys.retain(|known| known != key);
            keys.push(key.clone());
        }
        Ok(keys)
    }

    fn unpack_alone(&self, index: usize, blob: &Descriptor, diff_id: &Digest) -> Result<Slot, RootfsError> {
        let chains = chains(self.image);
        if let Some(key) = find(self.store, index == 0, diff_id, &chains[index].1) {
            self.observer.pull(&PullEvent::LayerExists { digest: &blob.digest });
            return Ok(Slot::Ready(key));
        }
        // It will hardly be smaller uncompressed.
        self.store.check_space(blob.size)?;
        let writer = self.store.write_layer(&self.guard, index)?;
        let unpacked = self.with_layer(blob, diff_id, &writer, unpack_alone)?;
        Ok(match unpacked {
            Unpacked::Clean(info) => {
                writer.commit(diff_id, &info)?;
                self.observer.pull(&PullEvent::Unpacked { digest: &blob.digest });
                Slot::Ready(diff_id.clone())
            }
            Unpacked::Needs(info, needs) => Slot::Aside(writer, info, needs),
            Unpacked::Again => Slot::Again,
        })
    }

    /// Mends what is aside as far up as all below is in place.
    fn settle(&self, slots: &mut [Slot]) -> Result<(), RootfsError> {
        let chains = chains(self.image);
        let mut keys: Vec<Digest> = Vec::new();
        for (index, (blob, diff_id)) in self.image.layers().enumerate() {
            let key = match std::mem::replace(&mut slots[index], Slot::Missing) {
                Slot::Missing => return Ok(()),
                Slot::Ready(key) => key,
                aside => {
                    let lowers = Layers::load(self.store, &keys)?.open()?;
                    let (writer, info) = self.fit(index, aside, &lowers)?;
                    let key = chains[index].1.digest();
                    writer.commit(key, &info)?;
                    self.observer.pull(&PullEvent::Unpacked { digest: &blob.digest });
                    key.clone()
                }
            };
            debug_assert!(index > 0 || key == *diff_id, "the lowest layer's chain is its diff ID");
            keys.push(key.clone());
            slots[index] = Slot::Ready(key);
        }
        Ok(())
    }

    /// Makes a layer right on top of `lowers`.
    fn fit(&self, index: usize, slot: Slot, lowers: &Merged) -> Result<(LayerWriter, LayerInfo), RootfsError> {
        let Some((blob, diff_id)) = self.image.layers().nth(index) else {
            return Err(RootfsError::LayerMissing { digest: self.image.manifest_digest.clone() });
        };
        let failed = |source| RootfsError::Layer { digest: blob.digest.clone(), source };
        if let Slot::Aside(writer, info, needs) = slot
            && mend(&writer.fs(), &needs, lowers).map_err(failed)?
        {
            return Ok((writer, info));
        }
        let writer = self.store.write_layer(&self.guard, index)?;
        let info = self.with_layer(blob, diff_id, &writer, |layer, fs| unpack_upon(layer, fs, lowers))?;
        Ok((writer, info))
    }

    fn with_layer<T>(
        &self,
        blob: &Descriptor,
        diff_id: &Digest,
        writer: &LayerWriter,
        unpack: impl FnOnce(Layer<'_>, &Path) -> Result<T, LayerError>,
    ) -> Result<T, RootfsError> {
        let told = AtomicU64::new(0);
        let progress = |done: u64| {
            let enough = told.load(Ordering::Relaxed) + blob.size / PROGRESS_STEPS;
            if done >= enough || done == blob.size {
                told.store(done, Ordering::Relaxed);
                self.observer.pull(&PullEvent::Unpacking { digest: &blob.digest, done, total: blob.size });
            }
        };
        let file = self.store.open_blob(&blob.digest)?;
        let (fs, limits) = (writer.fs(), Limits::default());
        let marks = self.marks(&fs);
        unpack(Layer { blob: file, diff_id, limits, marks, progress: &progress }, &fs)
            .map_err(|source| RootfsError::Layer { digest: blob.digest.clone(), source })
    }

    /// What the file system of the store can hold; tried in `fs`, which is still empty.
    fn marks(&self, fs: &Path) -> Marks {
        *self.marks.get_or_init(|| Dir::open(fs).map(|dir| Marks::that_fit(&dir)).unwrap_or_default())
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Slot>> {
        // A slot is replaced whole, so a panic elsewhere leaves none half-made.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Unpacker<'_> {
    fn drop(&mut self) {
        // What is aside goes while the lock still guards it.
        self.slots().clear();
        if let Some(lock) = self.lock.take() {
            drop(lock.remove());
        }
    }
}
