//! `kill`, `pause`, `unpause`, `update`: orders to runs that go on.

use futures_util::future::join_all;

use super::args::{KillArgs, RunsArgs, TalkArgs, UpdateArgs};
use super::context::{Context, block_on};
use super::exit::CliError;
use super::printer::{print_data, print_error};
use crate::engine::{Engine, LimitChange, Order};
use crate::image::ByteSize;
use crate::spec::{Cpus, MemoryLimit, StopSignal};
use crate::store::RunDir;
use crate::words::describe;

/// Most processors and memory nodes that a list may name; the kernel itself has 8192.
const MAX_SET: u32 = 8191;

pub(super) fn kill(context: &Context, args: &KillArgs) -> Result<u8, CliError> {
    let number = args.signal.parse::<StopSignal>()?.number();
    let engine = context.engine(None, context.printer(TalkArgs::default()))?;
    let order = Order::Signal { number };
    each(&engine, &args.runs, &async |run| {
        engine.give_order(run, "kill", &order).await?;
        // As with docker, it is gone when this ends.
        if number == nix::libc::SIGKILL {
            engine.wait(run, None).await?;
        }
        Ok(())
    })
}

pub(super) fn pause(context: &Context, args: &RunsArgs) -> Result<u8, CliError> {
    let engine = context.engine(None, context.printer(TalkArgs::default()))?;
    each(&engine, &args.runs, &async |run| Ok(engine.give_order(run, "pause", &Order::Pause).await?))
}

pub(super) fn unpause(context: &Context, args: &RunsArgs) -> Result<u8, CliError> {
    let engine = context.engine(None, context.printer(TalkArgs::default()))?;
    each(&engine, &args.runs, &async |run| Ok(engine.give_order(run, "unpause", &Order::Unpause).await?))
}

pub(super) fn update(context: &Context, args: &UpdateArgs) -> Result<u8, CliError> {
    let order = Order::Update { change: change(args)? };
    let engine = context.engine(None, context.printer(TalkArgs::default()))?;
    each(&engine, &args.runs, &async |run| Ok(engine.give_order(run, "update", &order).await?))
}

/// Does it for all runs at once, and prints the names of those it was done for. Every name is looked up first, so that a
/// typing error does nothing; after that one failure keeps nobody else from it.
fn each(
    engine: &Engine,
    names: &[String],
    act: &impl AsyncFn(&RunDir) -> Result<(), CliError>,
) -> Result<u8, CliError> {
    let runs = names.iter().map(|name| engine.store().find_run(name)).collect::<Result<Vec<_>, _>>()?;
    let done = block_on(async { Ok(join_all(runs.iter().map(|run| act(run))).await) })?;
    let mut failures = Vec::new();
    for (run, done) in runs.iter().zip(done) {
        match done {
            Ok(()) => print_data(&format!("{}\n", run.name()?)),
            Err(error) => failures.push(error),
        }
    }
    let last = failures.pop();
    for error in failures {
        print_error(&describe(&error));
    }
    last.map_or(Ok(0), Err)
}

fn change(args: &UpdateArgs) -> Result<LimitChange, CliError> {
    let size = |text: &String| text.parse::<MemoryLimit>().map(|limit| limit.size().0);
    let change = LimitChange {
        memory: args.memory.as_ref().map(size).transpose()?,
        memory_swap: args.memory_swap.as_deref().map(memory_swap).transpose()?,
        memory_reservation: args.memory_reservation.as_ref().map(size).transpose()?,
        cpus: args.cpus.as_deref().map(cpus).transpose()?,
        cpu_shares: args.cpu_shares,
        cpuset_cpus: args.cpuset_cpus.as_deref().map(|list| set("--cpuset-cpus", list)).transpose()?,
        cpuset_mems: args.cpuset_mems.as_deref().map(|list| set("--cpuset-mems", list)).transpose()?,
        // docker's 0 is no limit as well.
        pids_limit: args.pids_limit.map(|limit| if limit > 0 { limit } else { -1 }),
        blkio_weight: args.blkio_weight,
    };
    if change.is_empty() {
        return Err(CliError::Usage("no limit was given\nhint: e.g. `dockless update --memory 1g RUN`".to_owned()));
    }
    if let (Some(soft), Some(memory)) = (change.memory_reservation, change.memory)
        && soft > memory
    {
        let (soft, memory) = (ByteSize(soft), ByteSize(memory));
        return Err(CliError::Usage(format!("`--memory-reservation` of {soft} is above `--memory`, {memory}")));
    }
    if let (Some(total), Some(memory)) = (change.memory_swap.and_then(|total| u64::try_from(total).ok()), change.memory)
        && total < memory
    {
        let (total, memory) = (ByteSize(total), ByteSize(memory));
        return Err(CliError::Usage(format!(
            "`--memory-swap` of {total} is below `--memory`, {memory}\nhint: it is the limit of memory and swap together"
        )));
    }
    Ok(change)
}

fn memory_swap(text: &str) -> Result<i64, CliError> {
    if text == "-1" {
        return Ok(-1);
    }
    let size = text.parse::<MemoryLimit>()?.size();
    Ok(i64::try_from(size.0).unwrap_or(i64::MAX))
}

fn cpus(text: &str) -> Result<f64, CliError> {
    let cpus = text.parse::<Cpus>()?;
    cpus.check(crate::container::cpu_count())?;
    Ok(cpus.as_f64())
}

/// Numbers and ranges of them, as the kernel reads them (cpuset(7), "List format").
fn set(flag: &str, text: &str) -> Result<String, CliError> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u32>().ok().filter(|number| digits && *number <= MAX_SET)
    };
    let is_good = |part: &str| match part.split_once('-') {
        None => number(part).is_some(),
        Some((first, last)) => number(first).zip(number(last)).is_some_and(|(first, last)| first <= last),
    };
    if text.split(',').all(is_good) {
        return Ok(text.to_owned());
    }
    Err(CliError::Usage(format!("`{flag}`: `{text}` is malformed, expected numbers and ranges, e.g. `0-3,7`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors() {
        for good in ["0", "0-3", "0,2,4-6", "8191"] {
            assert_eq!(set("--cpuset-cpus", good).unwrap(), good);
        }
        for bad in ["", ",", "0,", "3-1", "-1", "0-", "a", "+1", "8192", "0 1", "0-1-2", "99999999999"] {
            let error = set("--cpuset-cpus", bad).unwrap_err().to_string();
            assert!(error.contains("--cpuset-cpus") && error.contains(bad), "{error}");
        }
    }
}
