//! `exec`: one more command in a run's container; its output is ours, our signals are its, and so is its exit code.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::args::ExecArgs;
use super::attach::detach_keys;
use super::attend::Signals;
use super::context::{Context, block_on};
use super::exit::{CliError, FAULT};
use super::options::env;
use super::printer::Printer;
use super::terminal::{DetachKeys, Heard, Outlet, Shown, check_input, own_size, pump_stdin, relay_stdin};
use crate::engine::{Engine, Exec, ExecWish};
use crate::spec::ExecOptions;
use crate::store::RunDir;
use crate::sys::set_window_size;

/// How long output may still come after the command: only from what it has left running, with its streams.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// How we come away from the command.
enum Way {
    Ended(i32),
    Lost,
    Left,
}

/// What is to be shown.
struct Staging {
    outlets: Vec<Outlet>,
    /// Ours while it is shown; its size is that of our terminal.
    terminal: Option<OwnedFd>,
    shown: Shown,
}

pub(super) fn exec(context: &Context, args: ExecArgs) -> Result<u8, CliError> {
    let printer = context.printer(args.talk);
    let keys = detach_keys(args.detach_keys.as_deref())?;
    let mut words = args.run_and_command;
    let command = words.split_off(1);
    let options = ExecOptions {
        command,
        user: args.user,
        group_add: Vec::new(),
        working_dir: args.workdir,
        env: env(&args.env_file, &args.env)?,
        terminal: args.tty,
        privileged: args.privileged,
    };
    let gives_input = args.interactive && !args.detach;
    if gives_input && args.tty {
        check_input()?;
    }
    let engine = context.engine(None, printer)?;
    let run = engine.store().find_run(&words[0])?;
    block_on(async {
        if args.detach {
            return leave(&engine, &run, options).await;
        }
        stay(&engine, &run, options, gives_input.then_some(keys), printer).await
    })
}

/// Starts it and goes. What it writes nobody gets, as with docker.
async fn leave(engine: &Engine, run: &RunDir, options: ExecOptions) -> Result<u8, CliError> {
    let null = || {
        let opened = File::options().read(true).write(true).open("/dev/null");
        opened.map(OwnedFd::from).map_err(|source| CliError::Process("open `/dev/null`", source))
    };
    let pipes = if options.terminal { None } else { Some([null()?, null()?, null()?]) };
    drop(engine.exec(run, ExecWish { options, size: None, detached: true, pipes }).await?);
    Ok(0)
}

pub(super) async fn stay(
    engine: &Engine,
    run: &RunDir,
    options: ExecOptions,
    keys: Option<DetachKeys>,
    printer: Printer,
) -> Result<u8, CliError> {
    let mut signals = Signals::listen()?;
    let has_terminal = options.terminal;
    let (pipes, sources) = if has_terminal { (None, Vec::new()) } else { streams(keys.is_some())? };
    let wish = ExecWish { options, size: own_size(), detached: false, pipes };
    let mut exec = tokio::select! {
        exec = engine.exec(run, wish) => exec?,
        number = signals.next() => return Ok(128 + u8::try_from(number).unwrap_or(0)),
    };
    let mut staging = stage(&mut exec, sources, keys)?;
    let way = loop {
        tokio::select! {
            end = exec.end() => break end.map_or(Way::Lost, Way::Ended),
            number = signals.next() => exec.signal(number),
            heard = staging.shown.next() => match (heard, &staging.terminal) {
                (Heard::Left, _) => break Way::Left,
                (Heard::Resized(size), Some(master)) => drop(set_window_size(master.as_fd(), size)),
                (Heard::Resized(_), None) => {}
            },
        }
    };
    if matches!(way, Way::Left) {
        exec.detach();
    } else {
        staging.outlets.drain(..).for_each(|outlet| outlet.finish(DRAIN_LIMIT));
    }
    // The terminal as it was, before anything more is said.
    drop(staging);
    match way {
        Way::Ended(code) => Ok(u8::try_from(code).unwrap_or(FAULT)),
        Way::Lost => Err(CliError::ExecLost),
        Way::Left => {
            printer.say("detached; the command goes on");
            Ok(0)
        }
    }
}

/// The command's ends of its streams, and where its output comes out.
fn streams(gives_input: bool) -> Result<(Option<[OwnedFd; 3]>, Vec<File>), CliError> {
    let pipe = || io::pipe().map_err(|source| CliError::Process("make a pipe", source));
    let input = if gives_input {
        relay_stdin(None)?.0
    } else {
        File::open("/dev/null").map_err(|source| CliError::Process("open `/dev/null`", source))?.into()
    };
    let ((out, out_end), (err, err_end)) = (pipe()?, pipe()?);
    let sources = [out, err].map(|reader| File::from(OwnedFd::from(reader)));
    Ok((Some([input, out_end.into(), err_end.into()]), sources.into()))
}

/// Lets the output come, and the input go.
fn stage(exec: &mut Exec, sources: Vec<File>, keys: Option<DetachKeys>) -> Result<Staging, CliError> {
    let terminal = exec.take_terminal();
    // Each stream by itself, as the run's own.
    let masked = || exec.secrets().masker().stream();
    let Some(terminal) = terminal else {
        let mut outlets = Vec::new();
        for (source, place) in sources.into_iter().zip(0..) {
            outlets.push(if place == 0 {
                Outlet::open(source, &io::stdout(), masked())?
            } else {
                Outlet::open(source, &io::stderr(), masked())?
            });
        }
        return Ok(Staging { outlets, terminal: None, shown: Shown::default() });
    };
    let copy = || terminal.try_clone().map(File::from).map_err(|source| CliError::Process("copy a descriptor", source));
    let left = keys.map(|keys| pump_stdin(copy()?, Some(keys))).transpose()?;
    let mut shown = Shown::terminal(left)?;
    shown.begin()?;
    Ok(Staging { outlets: vec![Outlet::open(copy()?, &io::stdout(), masked())?], terminal: Some(terminal), shown })
}
