//! `stop` and `wait`.

use futures_util::future::try_join_all;

use super::args::{Format, StopArgs, TalkArgs, WaitArgs};
use super::context::{Context, block_on};
use super::exit::CliError;
use super::printer::{print_data, print_json};
use crate::engine::{Engine, Order, StopReason};
use crate::spec::StopSignal;
use crate::store::RunDir;

pub(super) fn stop(context: &Context, args: &StopArgs) -> Result<u8, CliError> {
    let signal = args.signal.as_deref().map(str::parse::<StopSignal>).transpose()?.map(StopSignal::number);
    let printer = context.printer(args.talk);
    let engine = context.engine(None, printer)?;
    let runs = find(&engine, &args.runs)?;
    let reason = if args.abort { StopReason::Aborted } else { StopReason::Stopped };
    let order = Order::Stop { reason, grace_ms: grace_ms(args), signal };
    for (name, run) in args.runs.iter().zip(&runs) {
        if !run.is_live() {
            printer.say(&format!("run `{name}` has ended already"));
        }
    }
    block_on(async { Ok(try_join_all(runs.iter().map(|run| engine.wait(run, Some(&order)))).await?) })?;
    print_data(&(args.runs.join("\n") + "\n"));
    Ok(0)
}

/// Prints the exit codes in the order of the arguments, as docker does; `-`, in JSON `null`, for a run that was removed before
/// it was asked.
pub(super) fn wait(context: &Context, args: &WaitArgs) -> Result<u8, CliError> {
    let printer = context.printer(TalkArgs::default());
    let engine = context.engine(None, printer)?;
    let runs = find(&engine, &args.runs)?;
    let exits = block_on(async { Ok(try_join_all(runs.iter().map(|run| engine.wait(run, None))).await?) })?;
    if args.list.format == Format::Json {
        print_json(&exits);
        return Ok(0);
    }
    for exit in exits {
        print_data(&exit.map_or_else(|| "-\n".to_owned(), |exit| format!("{}\n", exit.code)));
    }
    Ok(0)
}

/// A time that never comes for `--time -1`.
fn grace_ms(args: &StopArgs) -> Option<u64> {
    let grace = args.grace.map(|grace| u64::try_from(grace.duration().as_millis()).unwrap_or(u64::MAX));
    let time = args.time.map(|seconds| u64::try_from(seconds).map_or(u64::MAX, |seconds| seconds.saturating_mul(1000)));
    grace.or(time)
}

fn find(engine: &Engine, names: &[String]) -> Result<Vec<RunDir>, CliError> {
    Ok(names.iter().map(|name| engine.store().find_run(name)).collect::<Result<_, _>>()?)
}
