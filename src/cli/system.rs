//! `system df` and `system prune`.

use jiff::Timestamp;
use serde::Serialize;

use super::args::{DfArgs, Format, PruneImagesArgs};
use super::context::Context;
use super::exit::CliError;
use super::printer::{Printer, print_data, print_json, print_list, waiting};
use super::prune::{
    Pruned, agree, before, count, dispose_of_trash, image_filter, name_of_image, say_kept_images, say_kept_runs,
    short_name,
};
use crate::engine::removal::{Candidate, ImageFilter, images_to_prune, prune_images, prune_run, runs_to_prune};
use crate::image::ByteSize;
use crate::store::{RunName, Share, ShareKind, SharedItem, Store, StoredImage};
use crate::words::printable;

pub(super) fn df(context: &Context, args: &DfArgs) -> Result<u8, CliError> {
    let mut shares = context.store()?.disk_shares()?;
    if args.format == Format::Json {
        if args.details {
            print_json(&shares);
        } else {
            print_json(&shares.iter().map(Line::from).collect::<Vec<_>>());
        }
        return Ok(0);
    }
    print_list(Format::Table, ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"], &shares, |share| {
        [
            in_words(share.kind).to_owned(),
            share.total.to_string(),
            share.active.to_string(),
            ByteSize(share.size_bytes).to_string(),
            with_percent(share.reclaimable_bytes, share.size_bytes),
        ]
    });
    if args.details {
        shares.retain(|share| !share.items.is_empty());
        for share in &mut shares {
            print_data(&format!("\n{}:\n", in_words(share.kind)));
            share.items.sort_by_key(|item| std::cmp::Reverse(item.size_bytes));
            print_list(Format::Table, ["NAME", "SIZE", "STATUS"], &share.items, |item| {
                [printable(&short_name(&item.name)), ByteSize(item.size_bytes).to_string(), status(item).to_owned()]
            });
        }
    }
    Ok(0)
}

/// One kind without its items; the keys are documented in docs/json.md.
#[derive(Serialize)]
struct Line {
    r#type: ShareKind,
    total: usize,
    active: usize,
    size_bytes: u64,
    reclaimable_bytes: u64,
}

impl From<&Share> for Line {
    fn from(share: &Share) -> Self {
        let Share { kind, total, active, size_bytes, reclaimable_bytes, .. } = *share;
        Self { r#type: kind, total, active, size_bytes, reclaimable_bytes }
    }
}

const fn in_words(kind: ShareKind) -> &'static str {
    match kind {
        ShareKind::Images => "Images",
        ShareKind::Layers => "Layers",
        ShareKind::Runs => "Runs",
        ShareKind::Artifacts => "Artifacts",
        ShareKind::Caches => "Caches",
        ShareKind::Orphans => "Orphans",
        ShareKind::LeftOvers => "Left-overs",
    }
}

const fn status(item: &SharedItem) -> &'static str {
    match (item.active, item.reclaimable) {
        (true, _) => "in use",
        (false, true) => "reclaimable",
        (false, false) => "kept",
    }
}

fn with_percent(part: u64, whole: u64) -> String {
    let percent = part.saturating_mul(100).checked_div(whole).unwrap_or(0);
    format!("{} ({percent}%)", ByteSize(part))
}

/// Runs first, then images, then what is left of earlier removals.
pub(super) fn prune(context: &Context, args: &PruneImagesArgs) -> Result<u8, CliError> {
    let printer = context.printer(args.prune.talk);
    let engine = context.engine(None, printer)?;
    let store = engine.store();
    let (before, filter) = (before(&args.prune)?, image_filter(args)?);
    let (runs, images) = (runs_to_prune(store, before)?, images_to_prune(store, &filter)?);
    say_kept_runs(printer, &runs.keep);
    say_kept_images(printer, &images.keep);
    if runs.remove.is_empty() && images.remove.is_empty() && images.orphans == 0 {
        Pruned::default().print(args.list.format);
        printer.say("nothing to remove");
        dispose_of_trash(store, true, printer);
        return Ok(0);
    }
    let bytes = images.bytes + runs.remove.iter().map(|run| run.bytes).sum::<u64>();
    let counted = [count(runs.remove.len(), "run"), count(images.remove.len(), "image")].join(", ");
    let all = format!("{counted}, {}", ByteSize(bytes));
    let listed: Vec<_> = images.remove.iter().map(|image| image.item.clone()).collect();
    if args.prune.dry_run {
        let runs = runs.remove.into_iter().map(|run| run.item).collect();
        Pruned { runs, dry_run: true, freed_bytes: bytes, ..Pruned::of_images(&listed) }.print(args.list.format);
        printer.say(&format!("would remove {all}"));
        return Ok(0);
    }
    let lines = runs.remove.iter().map(|run| (format!("run {}", run.item), run.bytes));
    let image_lines = images.remove.iter().map(|image| (format!("image {}", name_of_image(&image.item)), image.bytes));
    if !agree(&args.prune, printer, &lines.chain(image_lines).collect::<Vec<_>>(), &all)? {
        return Ok(0);
    }
    let pruned = remove(store, runs.remove, listed, before, &filter, printer)?;
    pruned.print(args.list.format);
    printer.say(&pruned.in_words());
    dispose_of_trash(store, true, printer);
    Ok(0)
}

fn remove(
    store: &Store,
    runs: Vec<Candidate<RunName>>,
    mut images: Vec<StoredImage>,
    before: Option<Timestamp>,
    filter: &ImageFilter,
    printer: Printer,
) -> Result<Pruned, CliError> {
    // Runs first: an ended one that kept its writable layer needs its image.
    let (mut gone, mut freed_bytes) = (Vec::new(), 0);
    for Candidate { item, .. } in runs {
        if let Some(bytes) = prune_run(store, &item, before)? {
            gone.push(item);
            freed_bytes += bytes;
        }
    }
    if filter.all {
        // More may have become free with the runs that were agreed to.
        images = images_to_prune(store, filter)?.remove.into_iter().map(|image| image.item).collect();
    }
    let (removed, collected) = prune_images(store, &images, filter, |holder| printer.say(&waiting(holder)))?;
    Ok(Pruned {
        runs: gone,
        blobs: collected.blobs,
        layers: collected.layers,
        freed_bytes: freed_bytes + collected.bytes,
        ..Pruned::of_images(&removed)
    })
}
