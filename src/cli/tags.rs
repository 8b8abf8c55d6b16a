//! `tags list`, `add` and `delete`.

use jiff::Timestamp;
use serde::Serialize;

use super::args::{ListArgs, TagsAddArgs, TagsDeleteArgs, TalkArgs};
use super::context::Context;
use super::exit::CliError;
use super::printer::{print_data, print_list};
use crate::store::{Tag, TagName};
use crate::words::describe;

/// One line of `tags list`.
#[derive(Serialize)]
struct Line {
    tag: String,
    run: String,
    /// RFC 3339, UTC.
    created: String,
    /// Whether the run is still there.
    run_exists: bool,
}

pub(super) fn list(context: &Context, args: &ListArgs) -> Result<u8, CliError> {
    let (store, mut lines) = (context.store()?, Vec::new());
    for (_, tag) in store.tags().list()? {
        match tag {
            Ok(Tag { tag, run, created, .. }) => {
                let run_exists = store.run(run.as_str()).is_ok();
                lines.push(Line { tag: tag.to_string(), run: run.to_string(), created, run_exists });
            }
            Err(error) => context.printer(TalkArgs { quiet: false, verbose: 0 }).warn(&describe(&error)),
        }
    }
    print_list(args.format, ["TAG", "RUN", "CREATED"], &lines, |line| {
        let gone = if line.run_exists { "" } else { " (gone)" };
        [line.tag.clone(), format!("{}{gone}", line.run), line.created.clone()]
    });
    Ok(0)
}

pub(super) fn add(context: &Context, args: &TagsAddArgs) -> Result<u8, CliError> {
    let tag: TagName = args.tag.parse()?;
    let store = context.store()?;
    // It must not be removed between being found and having the tag.
    let _kept = store.keep_inputs()?;
    let run = store.find_run(&args.run)?.name()?;
    let before = match store.tags().set(&tag, &run, &format!("{:.0}", Timestamp::now()))? {
        Some(before) if before != run => format!(", until now `{before}`"),
        _ => String::new(),
    };
    context.printer(args.talk).say(&format!("tag `{tag}` names run `{run}`{before}"));
    Ok(0)
}

pub(super) fn delete(context: &Context, args: &TagsDeleteArgs) -> Result<u8, CliError> {
    let tags = context.store()?.tags();
    // All names are looked up before any is removed, so that a typing error removes nothing.
    let names = args.tags.iter().map(|name| Ok(name.parse::<TagName>()?)).collect::<Result<Vec<_>, CliError>>()?;
    for name in &names {
        tags.find(name)?;
    }
    for name in names {
        tags.delete(&name)?;
        print_data(&format!("{name}\n"));
    }
    Ok(0)
}
