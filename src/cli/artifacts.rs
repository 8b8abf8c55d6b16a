//! `artifacts ls`, `cp`, `rm` and `save`.

use jiff::Timestamp;
use serde::Serialize;

use super::args::{ArtifactsCpArgs, ArtifactsLsArgs, ArtifactsSaveArgs, RmArgs};
use super::context::Context;
use super::exit::CliError;
use super::printer::{print_data, print_list, waiting};
use super::workflow::caller;
use crate::artifact::{ArtifactStore, FileKind, ListedFile};
use crate::engine::removal::{remove_artifacts, save_again};
use crate::image::ByteSize;

/// One line of `artifacts ls`; the keys of its JSON are documented in docs/json.md.
#[derive(Serialize)]
struct Line {
    /// Declared path of the artifact and the path in it; what is not UTF-8 in it is replaced.
    path: String,
    kind: &'static str,
    size_bytes: ByteSize,
    /// RFC 3339, UTC.
    modified: String,
}

pub(super) fn list(context: &Context, args: &ArtifactsLsArgs) -> Result<u8, CliError> {
    let listing = store(context)?.list(&context.store()?.run_name(&args.run)?)?;
    let lines: Vec<Line> = listing.files.iter().map(line).collect();
    print_list(args.list.format, ["PATH", "SIZE", "MODIFIED"], &lines, |line| {
        [line.path.clone(), line.size_bytes.to_string(), line.modified.clone()]
    });
    Ok(0)
}

fn line(file: &ListedFile) -> Line {
    Line {
        path: file.path.to_string_lossy().into_owned(),
        kind: match file.kind {
            FileKind::File => "file",
            FileKind::Link => "link",
        },
        size_bytes: file.size,
        modified: jiff::Timestamp::from_second(file.modified).map_or_else(|_| "-".to_owned(), |time| time.to_string()),
    }
}

pub(super) fn copy(context: &Context, args: &ArtifactsCpArgs) -> Result<u8, CliError> {
    let printer = context.printer(args.talk);
    let (run, path) = args
        .source
        .split_once('/')
        .map_or((args.source.as_str(), None), |(run, path)| (run, Some(path).filter(|path| !path.is_empty())));
    let copied = store(context)?.copy_out(&context.store()?.run_name(run)?, path, &args.destination)?;
    printer.say(&format!("copied {}, {}", counted(copied.files), copied.bytes));
    Ok(0)
}

pub(super) fn remove(context: &Context, args: &RmArgs) -> Result<u8, CliError> {
    let printer = context.printer(args.talk);
    let engine = context.engine(None, printer)?;
    let store = engine.store();
    // All names are looked up before anything is removed, so that a typing error removes nothing.
    let runs = args.runs.iter().map(|name| store.run_name(name)).collect::<Result<Vec<_>, _>>()?;
    let artifacts = ArtifactStore::new(store.artifacts());
    for run in &runs {
        artifacts.manifest(run)?;
    }
    let mut bytes = 0;
    for run in runs {
        bytes += remove_artifacts(store, &run, |holder| printer.say(&waiting(holder)))?;
        print_data(&format!("{run}\n"));
    }
    printer.say(&format!("removed {}", ByteSize(bytes)));
    Ok(0)
}

pub(super) fn save(context: &Context, args: &ArtifactsSaveArgs) -> Result<u8, CliError> {
    let printer = context.printer(args.talk);
    let engine = context.engine(None, printer)?;
    let run = engine.store().find_run(&args.run)?;
    let saved = save_again(engine.store(), &run, caller(), Timestamp::now())?;
    for warning in saved.warnings {
        printer.warn(&warning.to_string());
    }
    printer.say(&format!("saved artifacts: {}, {}", counted(saved.files), saved.bytes));
    Ok(0)
}

fn counted(files: u64) -> String {
    if files == 1 { "1 file".to_owned() } else { format!("{files} files") }
}

fn store(context: &Context) -> Result<ArtifactStore, CliError> {
    Ok(ArtifactStore::new(context.store()?.artifacts()))
}
