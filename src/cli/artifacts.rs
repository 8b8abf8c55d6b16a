//! `artifacts ls` and `artifacts cp`.

use serde::Serialize;

use super::args::{ArtifactsCpArgs, ArtifactsLsArgs};
use super::context::Context;
use super::exit::CliError;
use super::printer::print_list;
use crate::artifact::{ArtifactStore, FileKind, ListedFile};
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
    let listing = store(context)?.list(&args.run.parse()?)?;
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
    let copied = store(context)?.copy_out(&run.parse()?, path, &args.destination)?;
    let count = if copied.files == 1 { "1 file".to_owned() } else { format!("{} files", copied.files) };
    printer.say(&format!("copied {count}, {}", copied.bytes));
    Ok(0)
}

fn store(context: &Context) -> Result<ArtifactStore, CliError> {
    Ok(ArtifactStore::new(context.store()?.artifacts()))
}
