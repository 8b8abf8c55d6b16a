//! Starting a run and staying with it, or not: its output is ours, our signals are its, and so is its exit code.

use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::exit::{CliError, FAULT};
use super::printer::{Printer, print_data, print_error};
use super::terminal::{Heard, Shown};
use crate::engine::{Engine, Order, Run, RunRequest, StopReason, end_of_lost_run, ports};
use crate::image::{ByteSize, Observer};
use crate::store::{Exit, ExitReason};
use crate::supervisor::protocol::Event;

/// Interrupts after which a workload that they are passed on to, and that does not stop, is killed.
const PATIENCE: u32 = 3;

/// How the signals that we get end a run.
struct Ending {
    /// They stop it; else they are passed on.
    stops: bool,
    interruptible: bool,
    interrupts: u32,
}

/// How the way to the workload goes on.
enum Way {
    /// The run has ended.
    Ended(Box<Exit>),
    /// Its supervisor is gone.
    Lost,
    /// The keys for that were pressed.
    Left,
}

/// Starts the run. Attached, stays with it to its end; detached, prints its name once the workload runs.
pub(super) async fn start(
    engine: &Engine,
    request: RunRequest,
    mut shown: Shown,
    printer: Printer,
) -> Result<u8, CliError> {
    let detached = request.detached;
    let listening = ports::listening(&request.ports);
    let mut ending =
        Ending { stops: request.conduct.stops_on_signals, interruptible: request.interruptible, interrupts: 0 };
    let observer: Arc<dyn Observer> = Arc::new(printer.progress());
    // Before the run is there: a signal that comes while it is set up must not end us and leave it alone.
    let mut signals = Signals::listen()?;
    let mut run = tokio::select! {
        run = engine.run(request, &observer) => run?,
        number = signals.next() => return Ok(128 + u8::try_from(number).unwrap_or(0)),
    };
    drop(observer);
    introduce(&run, printer, ending.stops && !detached);
    if let Some(line) = run.published().map(ToOwned::to_owned).or(listening) {
        printer.say(&line);
    }
    let way = loop {
        tokio::select! {
            event = run.event() => match event {
                Some(Event::Exited { exit }) => break Way::Ended(exit),
                Some(Event::Detached) => break Way::Left,
                Some(Event::Started { .. }) if detached => {
                    print_data(&format!("{}\n", run.name()));
                    return Ok(0);
                }
                Some(event) => {
                    if matches!(event, Event::Started { .. }) {
                        shown.begin()?;
                    }
                    tell(&event, printer);
                }
                None => break Way::Lost,
            },
            number = signals.next() => run.order(&ending.order(number, printer)),
            heard = shown.next() => match heard {
                Heard::Resized(size) => run.order(&Order::Resize { size }),
                Heard::Left => run.order(&Order::Detach),
            },
        }
    };
    // The terminal as it was, before anything more is said.
    drop(shown);
    match way {
        Way::Ended(exit) => Ok(report(&exit, printer)),
        Way::Lost => lost(engine, run, printer),
        Way::Left => {
            printer.say(&format!("detached; `dockless attach {}` comes back", run.name()));
            Ok(0)
        }
    }
}

/// Says the run's name to whoever has not chosen it, and what was noticed while it was set up.
fn introduce(run: &Run, printer: Printer, named: bool) {
    let name = format!("run {}", run.name());
    if named {
        printer.say(&name);
    } else {
        printer.detail(&name);
    }
    for warning in run.warnings() {
        printer.warn(warning);
    }
    for note in run.notes() {
        printer.detail(note);
    }
}

impl Ending {
    /// What the supervisor is told when we get a signal.
    fn order(&mut self, number: i32, printer: Printer) -> Order {
        if !self.stops {
            self.interrupts += u32::from(matches!(number, INTERRUPT | TERMINATE));
            if self.interrupts == PATIENCE {
                printer.warn(&format!("asked {PATIENCE} times to stop, killing it"));
            }
            return Order::Signal { number: if self.interrupts >= PATIENCE { KILL } else { number } };
        }
        if matches!(number, USER_1 | USER_2) {
            return Order::Signal { number };
        }
        self.interrupts += 1;
        let taken_away = self.interruptible && number == TERMINATE;
        let reason = if taken_away { StopReason::Interrupted } else { StopReason::Stopped };
        let grace_ms = match self.interrupts {
            1 => {
                printer.say("stopping the run; once more kills it");
                None
            }
            _ => Some(0),
        };
        Order::Stop { reason, grace_ms, signal: None }
    }
}

pub(super) fn tell(event: &Event, printer: Printer) {
    match event {
        Event::Warning { text } => printer.warn(text),
        Event::Rootfs { method, why } => printer.detail(&format!("root file system: {method} ({why})")),
        Event::Started { pid } => printer.detail(&format!("started, process {pid} on this machine")),
        Event::Restarting { restarts, delay_ms, exit_code } => {
            printer.detail(&format!(
                "ended with {exit_code}, started once more (for the {restarts}. time) in {delay_ms} ms"
            ));
        }
        Event::Saved { files, bytes } => {
            let count = if *files == 1 { "1 file".to_owned() } else { format!("{files} files") };
            printer.say(&format!("saved artifacts: {count}, {}", ByteSize(*bytes)));
        }
        Event::Renamed { to } => printer.detail(&format!("the run's name is `{to}` now")),
        // Taken by the caller; told to others.
        Event::Exited { .. } | Event::Detached | Event::Answer { .. } => {}
    }
}

/// Says what there is to say about the end, and makes it our own exit code.
pub(super) fn report(exit: &Exit, printer: Printer) -> u8 {
    if let Some(message) = &exit.message {
        match exit.reason {
            ExitReason::Exited | ExitReason::Signalled if !is_for_all(exit) => printer.detail(message),
            ExitReason::Stopped => printer.say(message),
            _ => print_error(message),
        }
    }
    u8::try_from(exit.code).unwrap_or(FAULT)
}

/// Whether an end that is in the exit code already has more to it.
fn is_for_all(exit: &Exit) -> bool {
    exit.failed_command.is_some() || exit.message.as_ref().is_some_and(|message| message.contains("\nhint: "))
}

fn lost(engine: &Engine, run: Run, printer: Printer) -> Result<u8, CliError> {
    let name = run.name().to_string();
    let (exit, told) = end_of_lost_run(engine, run)?;
    for line in told {
        printer.warn(&line);
    }
    exit.map_or(Err(CliError::SupervisorLost(name)), |exit| Ok(report(&exit, printer)))
}

const INTERRUPT: i32 = nix::libc::SIGINT;
const TERMINATE: i32 = nix::libc::SIGTERM;
const KILL: i32 = nix::libc::SIGKILL;
const USER_1: i32 = nix::libc::SIGUSR1;
const USER_2: i32 = nix::libc::SIGUSR2;

/// The signals that are passed on to the workload.
pub(super) struct Signals([(i32, Signal); 6]);

impl Signals {
    pub(super) fn listen() -> Result<Self, CliError> {
        let one = |kind: SignalKind| {
            let listener = signal(kind).map_err(|source| CliError::Process("listen to signals", source))?;
            Ok::<_, CliError>((kind.as_raw_value(), listener))
        };
        Ok(Self([
            one(SignalKind::interrupt())?,
            one(SignalKind::terminate())?,
            one(SignalKind::hangup())?,
            one(SignalKind::quit())?,
            one(SignalKind::user_defined1())?,
            one(SignalKind::user_defined2())?,
        ]))
    }

    /// The number of the next one. Safe to cancel.
    pub(super) async fn next(&mut self) -> i32 {
        std::future::poll_fn(|context| {
            for (number, listener) in &mut self.0 {
                if listener.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*number);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}
