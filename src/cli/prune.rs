//! `prune runs` and `prune cache`.

use jiff::Timestamp;

use super::args::PruneArgs;
use super::ask::{confirm, somebody_is_there};
use super::context::Context;
use super::exit::CliError;
use super::printer::{Printer, print_data};
use crate::engine::removal::{Candidate, Kept, caches_to_prune, prune_cache, prune_run, runs_to_prune};
use crate::image::ByteSize;
use crate::store::ListedCache;
use crate::words::printable;

pub(super) fn runs(context: &Context, args: &PruneArgs) -> Result<u8, CliError> {
    let printer = context.printer(args.talk);
    let engine = context.engine(None, printer)?;
    let before = before(args)?;
    let found = runs_to_prune(engine.store(), before)?;
    for (run, why) in &found.keep {
        let text = format!("kept run `{run}`: {why}");
        match why {
            Kept::Unsaved => printer.warn(&format!("{text}\nhint: `dockless artifacts save {run}` saves them")),
            Kept::Damaged => printer.warn(&format!("{text}\nhint: `dockless rm {run}` removes it all the same")),
            Kept::Tag(_) | Kept::UsedBy(_) => printer.detail(&text),
        }
    }
    let names = |run: &_| format!("{run}");
    prune(args, printer, ("run", "runs"), found.remove, names, |run| Ok(prune_run(engine.store(), run, before)?))
}

pub(super) fn caches(context: &Context, args: &PruneArgs) -> Result<u8, CliError> {
    let printer = context.printer(args.talk);
    let engine = context.engine(None, printer)?;
    let before = before(args)?;
    let found = caches_to_prune(engine.store(), before)?;
    prune(args, printer, ("cache", "caches"), found, name_of_cache, |cache| {
        Ok(prune_cache(engine.store(), &cache.key, before)?)
    })
}

fn name_of_cache(cache: &ListedCache) -> String {
    match &cache.info {
        Some(info) => printable(&format!("{} of workflow {} in {}", info.path, info.workflow, info.project)),
        None => cache.key.clone(),
    }
}

fn before(args: &PruneArgs) -> Result<Option<Timestamp>, CliError> {
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
    if !args.force && !agreed(&found, &name, &all)? {
        printer.say("nothing was removed");
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

fn agreed<T>(found: &[Candidate<T>], name: impl Fn(&T) -> String, all: &str) -> Result<bool, CliError> {
    if !somebody_is_there() {
        return Err(CliError::Usage(format!(
            "{all} would be removed, and there is nobody to ask\nhint: `--force` removes without asking, `--dry-run` shows what"
        )));
    }
    let line = |it: &Candidate<T>| format!("  {} ({})", name(&it.item), ByteSize(it.bytes));
    let lines: Vec<String> = found.iter().map(line).collect();
    confirm(&format!("{}\nremove {all}?", lines.join("\n")))
}
