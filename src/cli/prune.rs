//! `prune runs`, `prune cache` and `prune images`.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde::Serialize;

use super::args::{Format, PruneArgs, PruneImagesArgs};
use super::ask::{confirm, somebody_is_there};
use super::context::Context;
use super::exit::CliError;
use super::printer::{Printer, print_data, print_json, waiting};
use super::time::moment;
use crate::engine::reaper::dispose;
use crate::engine::removal::{
    Candidate, ImageFilter, Kept, LabelFilter, caches_to_prune, images_to_prune, prune_cache, prune_images, prune_run,
    runs_to_prune,
};
use crate::image::{ByteSize, Digest, Reference};
use crate::store::{ListedCache, RunName, Store, StoredImage};
use crate::words::printable;

pub(super) fn runs(context: &Context, args: &PruneArgs) -> Result<u8, CliError> {
    let printer = context.printer(args.talk);
    let engine = context.engine(None, printer)?;
    let before = before(args)?;
    let found = runs_to_prune(engine.store(), before)?;
    say_kept_runs(printer, &found.keep);
    let names = |run: &_| format!("{run}");
    let code =
        prune(args, printer, ("run", "runs"), found.remove, names, |run| Ok(prune_run(engine.store(), run, before)?));
    dispose_of_trash(engine.store(), false, printer);
    code
}

pub(super) fn caches(context: &Context, args: &PruneArgs) -> Result<u8, CliError> {
    let printer = context.printer(args.talk);
    let engine = context.engine(None, printer)?;
    let before = before(args)?;
    let found = caches_to_prune(engine.store(), before)?;
    let code = prune(args, printer, ("cache", "caches"), found, name_of_cache, |cache| {
        Ok(prune_cache(engine.store(), &cache.key, before)?)
    });
    dispose_of_trash(engine.store(), false, printer);
    code
}

pub(super) fn say_kept_runs(printer: Printer, kept: &[(RunName, Kept)]) {
    for (run, why) in kept {
        let text = format!("kept run `{run}`: {why}");
        match why {
            Kept::Unsaved => printer.warn(&format!("{text}\nhint: `dockless artifacts save {run}` saves them")),
            Kept::Damaged => printer.warn(&format!("{text}\nhint: `dockless rm {run}` removes it all the same")),
            Kept::Tag(_) | Kept::UsedBy(_) => printer.detail(&text),
        }
    }
}

pub(super) fn say_kept_images(printer: Printer, kept: &[(StoredImage, RunName)]) {
    for (image, run) in kept {
        printer.detail(&format!("kept image `{}`: run `{run}` needs it", printable(&short_name(&image.name))));
    }
}

pub(super) fn images(context: &Context, args: &PruneImagesArgs) -> Result<u8, CliError> {
    let printer = context.printer(args.prune.talk);
    let engine = context.engine(None, printer)?;
    let store = engine.store();
    let filter = image_filter(args)?;
    let found = images_to_prune(store, &filter)?;
    say_kept_images(printer, &found.keep);
    if found.remove.is_empty() && found.orphans == 0 {
        Pruned::default().print(args.list.format);
        printer.say("no images to remove");
        dispose_of_trash(store, true, printer);
        return Ok(0);
    }
    let lines: Vec<_> = found.remove.iter().map(|image| (name_of_image(&image.item), image.bytes)).collect();
    let mut all = format!("{}, {}", count(lines.len(), "image"), ByteSize(found.bytes));
    if found.orphans > 0 {
        write!(all, " with {} that nothing reaches", count(found.orphans, "blob or layer")).unwrap_or_default();
    }
    let listed: Vec<_> = found.remove.into_iter().map(|image| image.item).collect();
    if args.prune.dry_run {
        Pruned { dry_run: true, freed_bytes: found.bytes, ..Pruned::of_images(&listed) }.print(args.list.format);
        printer.say(&format!("would remove {all}"));
        return Ok(0);
    }
    if !agree(&args.prune, printer, &lines, &all)? {
        return Ok(0);
    }
    let (gone, freed) = prune_images(store, &listed, &filter, |holder| printer.say(&waiting(holder)))?;
    let pruned =
        Pruned { blobs: freed.blobs, layers: freed.layers, freed_bytes: freed.bytes, ..Pruned::of_images(&gone) };
    pruned.print(args.list.format);
    printer.say(&pruned.in_words());
    dispose_of_trash(store, true, printer);
    Ok(0)
}

/// `--all`, `--older-than` and `--filter` as the engine has them.
pub(super) fn image_filter(args: &PruneImagesArgs) -> Result<ImageFilter, CliError> {
    let mut filter = ImageFilter { all: args.all, before: before(&args.prune)?, labels: Vec::new() };
    for text in &args.filter {
        add_filter(&mut filter, text)?;
    }
    Ok(filter)
}

fn add_filter(filter: &mut ImageFilter, text: &str) -> Result<(), CliError> {
    let malformed = || {
        CliError::Usage(format!(
            "`--filter {text}` is malformed, expected `label=KEY[=VALUE]`, `label!=KEY[=VALUE]`, `until=TIME` or `dangling=true|false`"
        ))
    };
    let (what, value) = text.split_once('=').filter(|(_, value)| !value.is_empty()).ok_or_else(malformed)?;
    match what {
        "label" | "label!" => {
            let (key, value) = value.split_once('=').map_or((value, None), |(key, value)| (key, Some(value)));
            let value = value.map(str::to_owned);
            filter.labels.push(LabelFilter { key: key.to_owned(), value, negated: what == "label!" });
        }
        "until" => {
            let until = moment("--filter until", value, Timestamp::now())?;
            filter.before = Some(filter.before.map_or(until, |before| before.min(until)));
        }
        "dangling" => filter.all = !value.parse::<bool>().map_err(|_| malformed())?,
        _ => return Err(malformed()),
    }
    Ok(())
}

/// What pruning came to; the keys of its JSON are documented in docs/json.md.
#[derive(Debug, Default, Serialize)]
pub(super) struct Pruned {
    pub(super) dry_run: bool,
    pub(super) runs: Vec<RunName>,
    pub(super) images: Vec<PrunedImage>,
    pub(super) blobs: usize,
    pub(super) layers: usize,
    pub(super) freed_bytes: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct PrunedImage {
    name: String,
    digest: Digest,
}

impl Pruned {
    pub(super) fn of_images(images: &[StoredImage]) -> Self {
        let image =
            |image: &StoredImage| PrunedImage { name: image.name.clone(), digest: image.descriptor.digest.clone() };
        Self { images: images.iter().map(image).collect(), ..Self::default() }
    }

    /// Names alone, runs first, or one JSON document.
    pub(super) fn print(&self, format: Format) {
        if format == Format::Json {
            print_json(self);
            return;
        }
        let images = self
            .images
            .iter()
            .map(|image| if image.name.is_empty() { image.digest.to_string() } else { image.name.clone() });
        let names = self.runs.iter().map(RunName::to_string).chain(images);
        print_data(&names.map(|name| printable(&name) + "\n").collect::<String>());
    }

    pub(super) fn in_words(&self) -> String {
        let runs = if self.runs.is_empty() { String::new() } else { count(self.runs.len(), "run") + ", " };
        let (images, bytes) = (count(self.images.len(), "image"), ByteSize(self.freed_bytes));
        format!("removed {runs}{images} ({} and {}), {bytes}", count(self.blobs, "blob"), count(self.layers, "layer"))
    }
}

pub(super) fn name_of_image(image: &StoredImage) -> String {
    if image.name.is_empty() { image.descriptor.digest.to_string() } else { short_name(&image.name) }
}

/// The name of an image as people write it; anything else as it is.
pub(super) fn short_name(name: &str) -> String {
    name.parse::<Reference>().map_or_else(|_| name.to_owned(), |name| name.familiar())
}

/// `1 image`, `2 images`.
pub(super) fn count(number: usize, word: &str) -> String {
    match (number, word) {
        (1, word) => format!("1 {word}"),
        (number, "blob or layer") => format!("{number} blobs or layers"),
        (number, word) => format!("{number} {word}s"),
    }
}

/// Frees what was removed, when no lock is held any more; with `again`, what could not be removed before too.
pub(super) fn dispose_of_trash(store: &Store, again: bool, printer: Printer) {
    for line in dispose(store, again) {
        printer.warn(&line);
    }
}

fn name_of_cache(cache: &ListedCache) -> String {
    match &cache.info {
        Some(info) => printable(&format!("{} of workflow {} in {}", info.path, info.workflow, info.project)),
        None => cache.key.clone(),
    }
}

pub(super) fn before(args: &PruneArgs) -> Result<Option<Timestamp>, CliError> {
    let Some(span) = args.older_than else { return Ok(None) };
    let before = Timestamp::now().checked_sub(span.duration());
    before.map(Some).map_err(|_| CliError::Usage("`--older-than` is longer than time itself".to_owned()))
}

/// Says what would go, asks, and does it.
fn prune<T>(
    args: &PruneArgs,
    printer: Printer,
    words: (&str, &str),
    found: Vec<Candidate<T>>,
    name: impl Fn(&T) -> String,
    remove: impl Fn(&T) -> Result<Option<u64>, CliError>,
) -> Result<u8, CliError> {
    let counted = |count: usize, bytes: u64| {
        let word = if count == 1 { words.0 } else { words.1 };
        format!("{count} {word}, {}", ByteSize(bytes))
    };
    let all = counted(found.len(), found.iter().map(|candidate| candidate.bytes).sum());
    if found.is_empty() {
        printer.say(&format!("no {} to remove", words.1));
        return Ok(0);
    }
    if args.dry_run {
        print_data(&found.iter().map(|candidate| name(&candidate.item) + "\n").collect::<String>());
        printer.say(&format!("would remove {all}"));
        return Ok(0);
    }
    let lines: Vec<_> = found.iter().map(|it| (name(&it.item), it.bytes)).collect();
    if !agree(args, printer, &lines, &all)? {
        return Ok(0);
    }
    let (mut count, mut bytes) = (0, 0);
    for Candidate { item, .. } in found {
        // Somebody may have come to use it, or removed it.
        if let Some(freed) = remove(&item)? {
            print_data(&(name(&item) + "\n"));
            count += 1;
            bytes += freed;
        }
    }
    printer.say(&format!("removed {}", counted(count, bytes)));
    Ok(0)
}

/// Whether what the lines name may go: with `--force` without asking.
pub(super) fn agree(args: &PruneArgs, printer: Printer, lines: &[(String, u64)], all: &str) -> Result<bool, CliError> {
    if args.force {
        return Ok(true);
    }
    if !somebody_is_there() {
        return Err(CliError::Usage(format!(
            "{all} would be removed, and there is nobody to ask\nhint: `--force` removes without asking, `--dry-run` shows what"
        )));
    }
    let line = |(name, bytes): &(String, u64)| format!("  {} ({})", printable(name), ByteSize(*bytes));
    let lines: Vec<String> = lines.iter().map(line).collect();
    let agreed = confirm(&format!("{}\nremove {all}?", lines.join("\n")))?;
    if !agreed {
        printer.say("nothing was removed");
    }
    Ok(agreed)
}
