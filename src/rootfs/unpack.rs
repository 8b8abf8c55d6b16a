//! One layer: from its blob to a tree in overlay form.

use std::fs::File;
use std::io;
use std::path::Path;

use super::archive::Archive;
use super::attributes::{Marks, copy_dir_attributes};
use super::error::LayerError;
use super::merged::{Found, Merged};
use super::path::ImagePath;
use super::stream::{ChunkReader, Source, StreamError, uncompress};
use super::tree::{Fault, Finished, Needs, Tree};
use crate::image::Digest;
use crate::store::LayerInfo;
use crate::sys::beneath::{Dir, FileKind};

/// Most bytes that a layer may hold uncompressed (1 TiB), against streams without end.
pub const MAX_LAYER_BYTES: u64 = 1 << 40;
/// Most entries of a layer.
pub const MAX_LAYER_ENTRIES: u64 = 10_000_000;

/// Most bytes of names that are held in memory while a layer is unpacked: those of its directories and whiteouts. One entry
/// can bring half a thousand directories with long names.
pub const MAX_LAYER_NAME_BYTES: u64 = 512 << 20;

/// The bounds of a layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub bytes: u64,
    pub entries: u64,
    pub name_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: MAX_LAYER_BYTES, entries: MAX_LAYER_ENTRIES, name_bytes: MAX_LAYER_NAME_BYTES }
    }
}

/// A layer to unpack.
pub(super) struct Layer<'a> {
    pub blob: File,
    pub diff_id: &'a Digest,
    pub limits: Limits,
    /// What its tree is for; the layers below are marked the same way.
    pub marks: Marks,
    /// Told the compressed bytes read so far.
    pub progress: &'a (dyn Fn(u64) + Sync),
}

/// What became of a layer that was unpacked without knowing those below it.
#[derive(Debug)]
pub(super) enum Unpacked {
    /// The tree is right on top of any layers.
    Clean(LayerInfo),
    /// The tree is right once it is mended.
    Needs(LayerInfo, Needs),
    /// It must be unpacked again with the lower layers at hand; the tree is worthless.
    Again,
}

/// Unpacks a layer into the empty directory `root`, not knowing the layers below.
pub(super) fn unpack_alone(layer: Layer<'_>, root: &Path) -> Result<Unpacked, LayerError> {
    let Some((mut info, needs)) = unpack(layer, root, None)? else { return Ok(Unpacked::Again) };
    if needs.is_empty() {
        return Ok(Unpacked::Clean(info));
    }
    info.mended = true;
    Ok(Unpacked::Needs(info, needs))
}

/// Unpacks a layer into the empty directory `root`, on top of `lowers`.
pub(super) fn unpack_upon(layer: Layer<'_>, root: &Path, lowers: &Merged) -> Result<LayerInfo, LayerError> {
    let unpacked = unpack(layer, root, Some(lowers))?;
    // With the lower layers at hand nothing is left open.
    let (info, _) = unpacked.ok_or_else(|| StreamError::Read(io::ErrorKind::Unsupported.into()))?;
    Ok(LayerInfo { mended: true, ..info })
}

fn unpack(layer: Layer<'_>, root: &Path, lowers: Option<&Merged>) -> Result<Option<(LayerInfo, Needs)>, LayerError> {
    let Layer { blob, diff_id, limits, marks, progress } = layer;
    let source = Source { blob, max_bytes: limits.bytes, algorithm: diff_id.algorithm(), progress };
    let tree = Tree::new(root, lowers, marks, limits.name_bytes);
    let tree = tree.map_err(|source| LayerError::Finish { path: ImagePath::root(), source })?;
    let (taken, actual) = uncompress(source, |reader| read_entries(reader, tree, limits.entries))?;
    let Some((finished, entries)) = taken else { return Ok(None) };
    if actual != *diff_id {
        return Err(LayerError::DiffId { expected: diff_id.clone(), actual });
    }
    let info = LayerInfo {
        schema: LayerInfo::SCHEMA,
        diff_id: diff_id.clone(),
        size_bytes: finished.size_bytes,
        entries,
        mended: false,
        has_root: finished.has_root,
        is_opaque: finished.is_opaque,
        is_plain: marks == Marks::Plain,
    };
    Ok(Some((info, finished.needs)))
}

/// Makes every entry of the archive; `None` when that is impossible without the lower layers.
fn read_entries(
    reader: ChunkReader,
    mut tree: Tree<'_>,
    max_entries: u64,
) -> Result<Option<(Finished, u64)>, LayerError> {
    let mut archive = Archive::new(reader);
    let mut entries = 0;
    while let Some(entry) = archive.next()? {
        entries += 1;
        if entries > max_entries {
            return Err(LayerError::Entries { limit: max_entries });
        }
        match tree.add(&entry, &mut archive) {
            Ok(()) => {}
            Err(Fault::NeedsLowers | Fault::Nowhere) => return Ok(None),
            // What was taken for a directory may be a link below, and then the entry may be good.
            Err(Fault::Entry(error)) if tree.rests_on_guesses() && !error.is_final() => return Ok(None),
            Err(Fault::Layer(error)) => return Err(error),
            Err(Fault::Entry(source)) => return Err(LayerError::Entry { path: entry.path, source }),
        }
    }
    // What follows the end marker counts for the digest; it must be read before the threads are let go.
    archive.drain()?;
    tree.finish().map(|finished| Some((finished, entries)))
}

/// Makes a tree right that was unpacked alone, now that the layers below are known. `false` when that takes unpacking it
/// again: a lower layer has a link where this one has a directory only because something stands in it.
pub(super) fn mend(root: &Path, needs: &Needs, lowers: &Merged) -> Result<bool, LayerError> {
    let failed = |path: &ImagePath, source| LayerError::Finish { path: path.clone(), source };
    let tree = Dir::open(root).map_err(|source| failed(&ImagePath::root(), source))?;
    for path in &needs.guesses {
        let found = lowers.find(path).map_err(|source| failed(path, source))?;
        if matches!(found, Some((_, Found::Other(_, metadata))) if metadata.kind == FileKind::Symlink) {
            return Ok(false);
        }
    }
    for path in &needs.whiteouts {
        mend_whiteout(&tree, path, lowers).map_err(|source| failed(path, source))?;
    }
    // Children first, so that directories that are left empty go from below.
    for path in needs.parents.iter().rev() {
        mend_parent(&tree, path, lowers).map_err(|source| failed(path, source))?;
    }
    Ok(true)
}

/// A whiteout of nothing would be listed by a directory that no other layer has.
fn mend_whiteout(tree: &Dir, path: &ImagePath, lowers: &Merged) -> io::Result<()> {
    if lowers.find(path)?.is_some() {
        return Ok(());
    }
    unchanged(&tree.open_dir(path.parent().as_os_str())?, |parent| parent.remove_file(path.name()))
}

/// A directory without an entry is what the lower layers have there.
fn mend_parent(tree: &Dir, path: &ImagePath, lowers: &Merged) -> io::Result<()> {
    match lowers.find(path)? {
        Some((_, Found::Dir(node))) => copy_dir_attributes(&lowers.top(&node)?, &tree.open_dir(path.as_os_str())?),
        Some((_, Found::Other(..))) | None => {
            // Whiteouts make no directories: one that was only made to put a whiteout in is empty by now.
            let parent = tree.open_dir(path.parent().as_os_str())?;
            unchanged(&parent, |parent| parent.remove_empty_dir(path.name()).map(drop))
        }
    }
}

/// Changes what stands in a directory so that it looks as old as before.
fn unchanged(dir: &Dir, change: impl FnOnce(&Dir) -> io::Result<()>) -> io::Result<()> {
    let modified = dir.metadata()?.modified;
    change(dir)?;
    dir.set_own_times(modified)
}
