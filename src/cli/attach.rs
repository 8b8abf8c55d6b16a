//! `attach`: what a run writes from now on is ours, what we are given is its, and so is its exit code.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::args::AttachArgs;
use super::attend::{Signals, report, tell};
use super::context::{Context, block_on};
use super::exit::CliError;
use super::printer::Printer;
use super::terminal::{DetachKeys, Heard, Outlet, Shown, check_input, own_size, relay_stdin};
use crate::engine::{Attached, Engine, Event, Masked, Order};
use crate::store::{Exit, RunDir, RunRecord};
use crate::sys::{WindowSize, enlarge_pipe};

/// How long the last of the output may take; the supervisor closes its ends before it tells the end.
const LAST_OUTPUT: Duration = Duration::from_secs(5);
/// What a pipe holds for us while we are slow.
const PIPE_BYTES: usize = 1 << 20;

/// How we come away from the run.
enum Way {
    Ended(Box<Exit>),
    Lost,
    Left,
    /// A signal that is not the run's.
    Signalled(i32),
}

pub(super) fn attach(context: &Context, args: &AttachArgs) -> Result<u8, CliError> {
    let printer = context.printer(args.talk);
    let keys = detach_keys(args.detach_keys.as_deref())?;
    let engine = context.engine(None, printer)?;
    let run = engine.store().find_run(&args.run)?;
    let record = run.record()?;
    if !run.is_live() {
        let name = &args.run;
        return Err(CliError::Usage(format!(
            "run `{name}` has ended, and only one that goes on can be attached to\nhint: `dockless logs {name}` shows what it wrote"
        )));
    }
    let gives_input = record.interactive && !args.no_stdin;
    if record.terminal && gives_input {
        check_input()?;
    }
    block_on(stay(&engine, &run, &record, gives_input.then_some(keys), args.sig_proxy, printer))
}

/// The keys as they were asked for.
pub(super) fn detach_keys(text: Option<&str>) -> Result<DetachKeys, CliError> {
    let parsed = text.map(str::parse).transpose();
    Ok(parsed.map_err(|error| CliError::Usage(format!("`--detach-keys`: {error}")))?.unwrap_or_default())
}

async fn stay(
    engine: &Engine,
    run: &RunDir,
    record: &RunRecord,
    keys: Option<DetachKeys>,
    sig_proxy: bool,
    printer: Printer,
) -> Result<u8, CliError> {
    let mut signals = Signals::listen()?;
    let (mut shown, input) = match keys {
        Some(keys) => {
            let (input, left) = relay_stdin(record.terminal.then_some(keys))?;
            (if record.terminal { Shown::terminal(Some(left))? } else { Shown::default() }, Some(input))
        }
        None if record.terminal => (Shown::terminal(None)?, None),
        None => (Shown::default(), None),
    };
    let (out, out_end) = pipe()?;
    let (err, err_end) = pipe()?;
    let mut pipes = vec![out_end.as_fd(), err_end.as_fd()];
    pipes.extend(input.as_ref().map(AsFd::as_fd));
    let place = run.place();
    let mut attached = engine.attach(run, &pipes)?;
    drop((out_end, err_end, input));
    // The supervisor has masked it.
    let plain = || Masked::default().masker().stream();
    let outlets = [Outlet::open(out, &io::stdout(), plain())?, Outlet::open(err, &io::stderr(), plain())?];
    shown.begin()?;
    if record.terminal
        && let Some(size) = own_size()
    {
        redraw(&attached, size);
    }
    let way = loop {
        tokio::select! {
            event = attached.event() => match event {
                Some(Event::Exited { exit }) => break Way::Ended(exit),
                Some(event) => tell(&event, printer),
                None => break Way::Lost,
            },
            number = signals.next() => {
                if !sig_proxy {
                    break Way::Signalled(number);
                }
                attached.order(&Order::Signal { number });
            }
            heard = shown.next() => match heard {
                Heard::Resized(size) => attached.order(&Order::Resize { size }),
                Heard::Left => break Way::Left,
            },
        }
    };
    if matches!(way, Way::Ended(_) | Way::Lost) {
        for outlet in outlets {
            outlet.finish(LAST_OUTPUT);
        }
    }
    drop(shown);
    end(engine, &place.now(), record, way, printer)
}

fn end(engine: &Engine, run: &RunDir, record: &RunRecord, way: Way, printer: Printer) -> Result<u8, CliError> {
    match way {
        Way::Ended(exit) => Ok(report(&exit, printer)),
        Way::Lost => {
            let exit = engine.end_of(run)?;
            exit.map_or_else(
                || Err(CliError::SupervisorLost(record.name.to_string())),
                |exit| Ok(report(&exit, printer)),
            )
        }
        Way::Left => {
            printer.say(&format!("detached; run `{}` goes on", record.name));
            Ok(0)
        }
        Way::Signalled(number) => Ok(128 + u8::try_from(number).unwrap_or(0)),
    }
}

/// Has the program in the terminal draw itself anew: a size that differs for a moment makes it do so, as docker does it.
fn redraw(attached: &Attached, size: WindowSize) {
    let other = WindowSize { rows: size.rows.saturating_add(1), ..size };
    attached.order(&Order::Resize { size: other });
    attached.order(&Order::Resize { size });
}

fn pipe() -> Result<(File, OwnedFd), CliError> {
    let (reader, writer) = io::pipe().map_err(|source| CliError::Process("make a pipe", source))?;
    let writer = OwnedFd::from(writer);
    enlarge_pipe(writer.as_fd(), PIPE_BYTES);
    Ok((File::from(OwnedFd::from(reader)), writer))
}
