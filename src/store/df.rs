//! What the store takes on its disk, by kind: the numbers of `system df`.
//!
//! Each byte is counted once and under one kind: content that several images share, and files with several names. Sizes
//! are allocated blocks, as du(1) counts them. Nothing is locked, so that others are not held up; what goes while it is
//! measured counts for nothing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::gc::Content;
use super::{RunDir, RunRecord, Store, StoreError, StoredImage};
use crate::image::Digest;
use crate::sys::{Lock, disk_usage};

/// A kind of thing that takes space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ShareKind {
    /// Images as they were fetched: compressed layers, configurations, manifests.
    Images,
    /// Unpacked layers that images or runs need.
    Layers,
    /// Directories of runs: writable layers, logs, unsaved artifacts.
    Runs,
    /// What runs have saved in the store.
    Artifacts,
    /// Directories that workflows find again.
    Caches,
    /// Blobs and layers that no image and no run reaches.
    Orphans,
    /// What is being written or deleted, and what killed processes left of that.
    LeftOvers,
}

/// What one kind takes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Share {
    /// The kind.
    #[serde(rename = "type")]
    pub kind: ShareKind,
    /// How many there are.
    pub total: usize,
    /// How many of them are in use.
    pub active: usize,
    /// Bytes on disk.
    pub size_bytes: u64,
    /// Bytes that `system prune --all` frees.
    pub reclaimable_bytes: u64,
    /// Each by itself.
    pub items: Vec<SharedItem>,
}

/// One thing that takes space.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SharedItem {
    /// What it is called.
    pub name: String,
    /// Bytes on disk; of an image those that it shares with others too, so that these add up to more than its kind takes.
    pub size_bytes: u64,
    /// Whether it is in use.
    pub active: bool,
    /// Whether `system prune --all` removes it.
    pub reclaimable: bool,
}

impl Store {
    /// What the store takes on its disk.
    pub fn disk_shares(&self) -> Result<Vec<Share>, StoreError> {
        let images = self.runs_needing(&self.images()?)?;
        let images: Vec<_> = images.into_iter().map(|(image, run)| Reach::new(self, image, run.is_some())).collect();
        let (orphan_blobs, orphan_layers) = self.orphans()?;
        let (runs, artifacts) = self.shares_of_runs()?;
        Ok(vec![
            self.share_of_images(&images),
            self.share_of_layers(&images, &orphan_layers)?,
            runs,
            artifacts,
            self.share_of_caches()?,
            self.share_of_orphans(orphan_blobs.into_iter().chain(orphan_layers).map(|(path, _)| path)),
            self.share_of_left_overs(),
        ])
    }

    fn share_of_images(&self, images: &[Reach]) -> Share {
        let mut sizes: HashMap<&Digest, u64> = HashMap::new();
        for digest in images.iter().flat_map(|image| &image.blobs) {
            sizes.entry(digest).or_insert_with(|| usage(&self.blob_path(digest)));
        }
        let needed: HashSet<_> = images.iter().filter(|image| image.is_used).flat_map(|image| &image.blobs).collect();
        let items = images.iter().map(|image| SharedItem {
            name: image.name(),
            size_bytes: image.blobs.iter().filter_map(|digest| sizes.get(digest)).sum(),
            active: image.is_used,
            reclaimable: !image.is_used,
        });
        let mut share = share(ShareKind::Images, items.collect());
        // Shared content counts once, and goes only with the last that needs it.
        share.size_bytes = sizes.values().sum();
        share.reclaimable_bytes =
            sizes.iter().filter(|(digest, _)| !needed.contains(*digest)).map(|(_, size)| size).sum();
        share
    }

    fn share_of_layers(&self, images: &[Reach], orphans: &[Content]) -> Result<Share, StoreError> {
        let mounted: HashSet<PathBuf> =
            self.runs_with_layers()?.iter().flat_map(RunRecord::needed_layers).map(|key| self.layer_dir(key)).collect();
        let used_images = images.iter().filter(|image| image.is_used);
        let needed: HashSet<PathBuf> =
            used_images.flat_map(|image| &image.layers).map(|key| self.layer_dir(key)).collect();
        let mut items = Vec::new();
        for (path, key) in self.content("layers")? {
            if !orphans.iter().any(|(_, orphan)| *orphan == key) {
                let reclaimable = !mounted.contains(&path) && !needed.contains(&path);
                let (name, size_bytes) = (key.to_string(), usage(&path));
                items.push(SharedItem { name, size_bytes, active: mounted.contains(&path), reclaimable });
            }
        }
        Ok(share(ShareKind::Layers, items))
    }

    /// Of the runs, and of what they have saved.
    fn shares_of_runs(&self) -> Result<(Share, Share), StoreError> {
        let tags = self.tags().list()?;
        let tagged: HashSet<String> =
            tags.iter().filter_map(|(_, tag)| Some(tag.as_ref().ok()?.run.to_string())).collect();
        let used = self.used()?;
        let may_go = |run: &RunDir, name: &str| {
            let is_used = name.parse().is_ok_and(|name| used.runs.contains_key(&name));
            let has_ended = run.record().is_ok_and(|record| record.state.is_final()) && !run.is_live();
            has_ended && !tagged.contains(name) && !is_used && !run.has_unsaved_artifacts()
        };
        let (mut runs, mut going) = (Vec::new(), BTreeMap::new());
        for run in self.runs()? {
            let name = last_name(run.path());
            going.insert(name.clone(), may_go(&run, &name));
            runs.push(SharedItem {
                size_bytes: usage(run.path()),
                active: run.is_live(),
                reclaimable: going[&name],
                name,
            });
        }
        let saved = children(&self.artifacts()).into_iter().map(|path| {
            let name = last_name(&path);
            let active = used.runs.keys().any(|run| run.as_str() == name);
            SharedItem { size_bytes: usage(&path), active, reclaimable: going.get(&name) == Some(&true), name }
        });
        let saved = saved.collect();
        Ok((share(ShareKind::Runs, runs), share(ShareKind::Artifacts, saved)))
    }

    fn share_of_caches(&self) -> Result<Share, StoreError> {
        let used = self.used()?;
        let items = self.caches().list()?.into_iter().map(|cache| SharedItem {
            size_bytes: self.caches().disk_usage(&cache.key).unwrap_or(0),
            active: used.caches.contains(&cache.key),
            // `prune cache` removes them; they are there to be found again.
            reclaimable: false,
            name: cache.key,
        });
        Ok(share(ShareKind::Caches, items.collect()))
    }

    fn share_of_orphans(&self, paths: impl Iterator<Item = PathBuf>) -> Share {
        let items = paths.map(|path| SharedItem {
            name: path.strip_prefix(self.root()).unwrap_or(&path).to_string_lossy().into_owned(),
            size_bytes: usage(&path),
            active: false,
            reclaimable: true,
        });
        share(ShareKind::Orphans, items.collect())
    }

    fn share_of_left_overs(&self) -> Share {
        let held = |path: &Path| {
            let name = last_name(path);
            let lock = name.split_once('.').map(|(lock, _)| self.root().join("locks").join(lock));
            lock.is_some_and(|lock| Lock::holder(&lock).is_ok_and(|holder| holder.is_some()))
        };
        let writing = children(&self.root().join("tmp")).into_iter().map(|path| (held(&path), path));
        let deleting = children(&self.trash()).into_iter().map(|path| (false, path));
        let items = writing.chain(deleting).map(|(active, path)| SharedItem {
            name: path.strip_prefix(self.root()).unwrap_or(&path).to_string_lossy().into_owned(),
            size_bytes: usage(&path),
            active,
            reclaimable: !active,
        });
        share(ShareKind::LeftOvers, items.collect())
    }
}

/// An image with all that it reaches.
struct Reach {
    image: StoredImage,
    is_used: bool,
    blobs: HashSet<Digest>,
    layers: HashSet<Digest>,
}

impl Reach {
    fn new(store: &Store, image: StoredImage, is_used: bool) -> Self {
        let (blobs, layers) = store.reached(&image.descriptor.digest);
        Self { image, is_used, blobs, layers }
    }

    fn name(&self) -> String {
        let digest = &self.image.descriptor.digest;
        if self.image.name.is_empty() { digest.to_string() } else { self.image.name.clone() }
    }
}

fn share(kind: ShareKind, items: Vec<SharedItem>) -> Share {
    let sum = |is_meant: fn(&SharedItem) -> bool| {
        items.iter().filter(|item| is_meant(item)).map(|item| item.size_bytes).sum()
    };
    Share {
        kind,
        total: items.len(),
        active: items.iter().filter(|item| item.active).count(),
        size_bytes: sum(|_| true),
        reclaimable_bytes: sum(|item| item.reclaimable),
        items,
    }
}

/// What goes while it is measured counts for nothing.
fn usage(path: &Path) -> u64 {
    disk_usage(path).unwrap_or(0)
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn last_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
