//! `ps` and `rm`.

use jiff::Timestamp;

use super::args::{PsArgs, RenameArgs, RmArgs, TalkArgs};
use super::context::{Context, block_on};
use super::exit::CliError;
use super::printer::{print_data, print_list, waiting};
use super::prune::dispose_of_trash;
use super::time::ago;
use crate::engine::removal::remove_run;
use crate::engine::{EngineError, Order, StopReason, rename_run};
use crate::store::{RunRecord, StoreError};
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
    records.retain(|record| args.all || !record.state.is_final());
    records.sort_by(|a, b| b.created.cmp(&a.created));
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
    let header = ["RUN", "WORKFLOW", "SUBMITTED", "STATUS", "GPU", "EXIT"];
    print_list(args.list.format, header, &records, |record| row(record, now));
    Ok(0)
}

fn row(record: &RunRecord, now: Timestamp) -> [String; 6] {
    let none = || "-".to_owned();
    [
        record.name.to_string(),
        record.workflow.clone().unwrap_or_else(none),
        record.created.parse().map_or_else(|_| none(), |time| ago(time, now)),
        record.state.to_string(),
        gpus(record).unwrap_or_else(none),
        record.exit.as_ref().map_or_else(none, |exit| exit.code.to_string()),
    ]
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
    let renamed = rename_run(engine.store(), &run, &to, |holder| printer.say(&waiting(holder)));
    renamed.map_err(EngineError::from)?;
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
