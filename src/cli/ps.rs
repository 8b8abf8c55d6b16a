//! `ps`, `rename` and `rm`.

mod filter;

use jiff::Timestamp;

pub(super) use self::filter::Filter;
use self::filter::{are_about_all, fit};
use super::args::{Format, PsArgs, RenameArgs, RmArgs, TalkArgs};
use super::context::{Context, block_on};
use super::exit::CliError;
use super::printer::{print_data, print_list, waiting};
use super::prune::dispose_of_trash;
use super::table::table;
use super::time::ago;
use crate::engine::removal::remove_run;
use crate::engine::{Order, StopReason};
use crate::store::{HealthStatus, RunRecord, StoreError};
use crate::words::describe;

pub(super) fn list(context: &Context, args: &PsArgs) -> Result<u8, CliError> {
    let printer = context.printer(TalkArgs { quiet: args.quiet, verbose: 0 });
    let engine = context.engine(None, printer)?;
    let mut records = Vec::new();
    for run in engine.store().runs()? {
        match run.record() {
            Ok(record) => records.push(record),
            // Being created this moment, or just removed.
            Err(StoreError::Read { .. }) => {}
            Err(error) => printer.warn(&describe(&error)),
        }
    }
    let last = if args.latest { Some(1) } else { args.last };
    let all = args.all || last.is_some() || are_about_all(&args.filter);
    records.retain(|record| (all || !record.state.is_final()) && fit(&args.filter, record));
    records.sort_by(|a, b| b.created.cmp(&a.created));
    records.truncate(last.unwrap_or(usize::MAX));
    if args.quiet {
        for record in &records {
            print_data(&format!("{}\n", record.name));
        }
        return Ok(0);
    }
    for record in &mut records {
        // A whole document for each run; `inspect` has it.
        record.spec = None;
    }
    let now = Timestamp::now();
    let header = ["RUN", "WORKFLOW", "IMAGE", "COMMAND", "SUBMITTED", "STATUS", "PORTS", "GPU", "EXIT"];
    let row = |record: &RunRecord| row(record, args.no_trunc, now);
    if args.no_trunc && args.list.format == Format::Table {
        print_data(&table(header, records.iter().map(row).collect(), None));
    } else {
        print_list(args.list.format, header, &records, row);
    }
    Ok(0)
}

/// So much of a command is shown, as with docker.
const COMMAND_CHARACTERS: usize = 20;

fn command(record: &RunRecord, whole: bool) -> String {
    let text = record.command.join(" ");
    if whole || text.chars().count() <= COMMAND_CHARACTERS {
        return text;
    }
    text.chars().take(COMMAND_CHARACTERS - 1).chain(['…']).collect()
}

fn row(record: &RunRecord, whole: bool, now: Timestamp) -> [String; 9] {
    let none = || "-".to_owned();
    [
        record.name.to_string(),
        record.workflow.clone().unwrap_or_else(none),
        record.image.familiar(),
        command(record, whole),
        record.created.parse().map_or_else(|_| none(), |time| ago(time, now)),
        status(record),
        ports(record).unwrap_or_else(none),
        gpus(record).unwrap_or_else(none),
        record.exit.as_ref().map_or_else(none, |exit| exit.code.to_string()),
    ]
}

/// `running (healthy)`, as docker has it.
fn status(record: &RunRecord) -> String {
    let state = record.state;
    match &record.health {
        Some(health) if record.has_health() => match health.status {
            HealthStatus::Starting => format!("{state} (health: starting)"),
            status => format!("{state} ({status})"),
        },
        _ => state.to_string(),
    }
}

/// As with docker, of runs that go on: `0.0.0.0:8080->80/tcp, 8081`.
fn ports(record: &RunRecord) -> Option<String> {
    (!record.state.is_final() && !record.ports.is_empty()).then(|| record.ports.join(", "))
}

/// `NVIDIA H200`, `2 x Tesla K80`, `NVIDIA A100-SXM4-40GB, Tesla T4`.
fn gpus(record: &RunRecord) -> Option<String> {
    let mut models: Vec<(&str, usize)> = Vec::new();
    for gpu in &record.gpus {
        match models.iter_mut().find(|(model, _)| *model == gpu.model) {
            Some((_, count)) => *count += 1,
            None => models.push((&gpu.model, 1)),
        }
    }
    let words = |(model, count): &(&str, usize)| match count {
        1 => (*model).to_owned(),
        count => format!("{count} x {model}"),
    };
    (!models.is_empty()).then(|| models.iter().map(words).collect::<Vec<_>>().join(", "))
}

pub(super) fn rename(context: &Context, args: &RenameArgs) -> Result<u8, CliError> {
    let to = args.to.parse()?;
    let printer = context.printer(TalkArgs::default());
    let engine = context.engine(None, printer)?;
    let run = engine.store().find_run(&args.run)?;
    block_on(async { Ok(engine.rename(&run, &to, |holder| printer.say(&waiting(holder))).await?) })?;
    Ok(0)
}

pub(super) fn remove(context: &Context, args: &RmArgs) -> Result<u8, CliError> {
    let printer = context.printer(args.talk);
    let engine = context.engine(None, printer)?;
    let store = engine.store();
    // All names are looked up before any is removed, so that a typing error removes nothing.
    let mut runs = Vec::new();
    for name in &args.runs {
        match store.find_run(name) {
            Err(error @ (StoreError::NoRun { .. } | StoreError::TaggedRunGone { .. })) if args.force => {
                printer.warn(&describe(&error));
            }
            found => runs.push(found?),
        }
    }
    for run in runs {
        if args.force {
            let order = Order::Stop { reason: StopReason::Aborted, grace_ms: None, signal: None };
            block_on(async { Ok(engine.wait(&run, Some(&order)).await?) })?;
        }
        // One with `--rm` goes by itself.
        if args.force && !run.path().exists() {
            print_data(&format!("{}\n", run.name()?));
            continue;
        }
        remove_run(store, &run, |holder| printer.say(&waiting(holder)))?;
        print_data(&format!("{}\n", run.name()?));
    }
    dispose_of_trash(store, false, printer);
    Ok(0)
}
