//! `artifacts ls`, `cp`, `rm` and `save`.

use jiff::Timestamp;
use serde::Serialize;

use super::args::{ArtifactsCpArgs, ArtifactsLsArgs, ArtifactsRmArgs, ArtifactsSaveArgs, TalkArgs};
use super::context::{Context, artifact_store, block_on, caller, owner};
use super::exit::CliError;
use super::printer::{print_data, print_list, waiting};
use crate::artifact::{FileKind, ListedFile};
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
    let engine = context.engine(None, context.printer(TalkArgs::default()))?;
    let (run, elsewhere) = (engine.store().run_name(&args.run)?, artifact_store(&args.store)?);
    let listing = block_on(async { Ok(engine.list_artifacts(&run, elsewhere.as_ref()).await?) })?;
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
    let engine = context.engine(None, printer)?;
    let (run, elsewhere) = (engine.store().run_name(run)?, artifact_store(&args.store)?);
    let copying = engine.copy_artifacts(&run, path, &args.destination, elsewhere.as_ref());
    let copied = block_on(async { Ok(copying.await?) })?;
    printer.say(&format!("copied {}, {}", counted(copied.files), copied.bytes));
    Ok(0)
}

pub(super) fn remove(context: &Context, args: &ArtifactsRmArgs) -> Result<u8, CliError> {
    let printer = context.printer(args.talk);
    let engine = context.engine(None, printer)?;
    let store = engine.store();
    // All names are looked up before anything is removed, so that a typing error removes nothing.
    let runs = args.runs.iter().map(|name| store.run_name(name)).collect::<Result<Vec<_>, _>>()?;
    let elsewhere = artifact_store(&args.store)?;
    let elsewhere = elsewhere.as_ref();
    let bytes = block_on(async {
        for run in &runs {
            engine.list_artifacts(run, elsewhere).await?;
        }
        let mut bytes = 0;
        for run in runs {
            bytes += engine.remove_artifacts(&run, elsewhere, |holder| printer.say(&waiting(holder))).await?;
            print_data(&format!("{run}\n"));
        }
        Ok(bytes)
    })?;
    printer.say(&format!("removed {}", ByteSize(bytes)));
    Ok(0)
}

pub(super) fn save(context: &Context, args: &ArtifactsSaveArgs) -> Result<u8, CliError> {
    let printer = context.printer(args.talk);
    let owner = args.artifact_owner.as_deref().map(owner).transpose()?.or_else(caller);
    let engine = context.engine(None, printer)?;
    let run = engine.store().find_run(&args.run)?;
    let saved = block_on(async { Ok(engine.save_artifacts(&run, owner, Timestamp::now()).await?) })?;
    for warning in saved.warnings {
        printer.warn(&warning.to_string());
    }
    printer.say(&format!("saved artifacts: {}, {}", counted(saved.files), saved.bytes));
    Ok(0)
}

fn counted(files: u64) -> String {
    if files == 1 { "1 file".to_owned() } else { format!("{files} files") }
}
