//! `run`, `spec` and `bundle`.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::args::{BundleArgs, ContainerArgs, ImageArgs, PullWhen, RunArgs, SpecArgs};
use super::context::{Context, block_on, random};
use super::exit::CliError;
use super::names::take_free_name;
use super::options::options;
use super::printer::{Printer, print_json};
use crate::engine::{Engine, ImageRequest, PullPolicy, Run, RunRequest, end_of_lost_run};
use crate::image::{Observer, Platform};
use crate::rootfs::ChoiceError;
use crate::spec;
use crate::store::{Exit, ExitReason, Reservation, Store};
use crate::supervisor::protocol::Event;

/// Interrupts after which a workload that does not stop is killed.
const PATIENCE: u32 = 3;

pub(super) fn run(context: &Context, args: RunArgs) -> Result<u8, CliError> {
    let printer = context.printer(args.talk);
    let (image, options) = image_and_options(&args.image, &args.container, args.image_and_command)?;
    let rootfs = args.rootfs.parse().map_err(|error: ChoiceError| CliError::Usage(error.to_string()))?;
    let engine = context.engine(Some(&args.image.registry), printer)?;
    let request = RunRequest {
        reservation: reserve(engine.store(), args.name.as_deref())?,
        workflow: None,
        image,
        options,
        rootfs,
        artifacts: Vec::new(),
        artifact_owner: None,
        remove: args.rm,
        keep: args.keep,
        stdin: args.interactive.then(relay_stdin).transpose()?,
        created: now(),
        nonce: nonce(),
    };
    block_on(attached(&engine, request, printer))
}

pub(super) fn spec(context: &Context, args: SpecArgs) -> Result<u8, CliError> {
    let printer = context.printer(args.talk);
    let (image, options) = image_and_options(&args.image, &args.container, args.image_and_command)?;
    let engine = context.engine(Some(&args.image.registry), printer)?;
    let observer: Arc<dyn Observer> = Arc::new(printer.progress());
    let built = block_on(async { Ok(engine.spec(&image, &options, &observer).await?) })?;
    for warning in &built.warnings {
        printer.warn(warning);
    }
    print_json(&built.spec);
    Ok(0)
}

pub(super) fn bundle(context: &Context, args: BundleArgs) -> Result<u8, CliError> {
    let printer = context.printer(args.talk);
    let mut words = args.image_dir_and_command;
    let dir = PathBuf::from(words.remove(1));
    let (image, options) = image_and_options(&args.image, &args.container, words)?;
    let engine = context.engine(Some(&args.image.registry), printer)?;
    let observer: Arc<dyn Observer> = Arc::new(printer.progress());
    let warnings = block_on(async { Ok(engine.bundle(&image, &options, &dir, &observer).await?) })?;
    for warning in &warnings {
        printer.warn(warning);
    }
    printer.say(&format!("{}: `runc run --bundle {} NAME` runs it", dir.display(), dir.display()));
    Ok(0)
}

fn image_and_options(
    image: &ImageArgs,
    container: &ContainerArgs,
    mut words: Vec<String>,
) -> Result<(ImageRequest, spec::Options), CliError> {
    let command = words.split_off(1);
    let reference = words.remove(0);
    Ok((image_request(image, &reference)?, options(container, command)?))
}

fn image_request(args: &ImageArgs, reference: &str) -> Result<ImageRequest, CliError> {
    let platform = args.platform.as_deref().map_or_else(|| Ok(Platform::host()), str::parse)?;
    Ok(ImageRequest { reference: reference.parse()?, platform, pull: pull_policy(args.pull), login: None })
}

pub(super) const fn pull_policy(when: PullWhen) -> PullPolicy {
    match when {
        PullWhen::Always => PullPolicy::Always,
        PullWhen::Missing => PullPolicy::Missing,
        PullWhen::Never => PullPolicy::Never,
    }
}

/// Takes the name before anything is fetched, so that nobody else does meanwhile and a conflict is told at once.
pub(super) fn reserve(store: &Store, given: Option<&str>) -> Result<Reservation, CliError> {
    match given {
        Some(name) => Ok(store.create_run(&name.parse()?)?),
        None => Ok(take_free_name(store, random())?),
    }
}

pub(super) fn now() -> String {
    format!("{:.9}", jiff::Timestamp::now())
}

pub(super) fn nonce() -> u32 {
    u32::try_from(random() >> 32).unwrap_or_default()
}

/// Starts the run and stays with it: its output is ours, our signals are its, and so is its exit code.
pub(super) async fn attached(engine: &Engine, request: RunRequest, printer: Printer) -> Result<u8, CliError> {
    let observer: Arc<dyn Observer> = Arc::new(printer.progress());
    // Before the run is there: a signal that comes while it is set up must not end us and leave it alone.
    let mut signals = Signals::listen()?;
    let mut run = tokio::select! {
        run = engine.run(request, &observer) => run?,
        number = signals.next() => return Ok(128 + u8::try_from(number).unwrap_or(0)),
    };
    drop(observer);
    printer.detail(&format!("run {}", run.name()));
    for warning in run.warnings() {
        printer.warn(warning);
    }
    for note in run.notes() {
        printer.detail(note);
    }
    let mut interrupts = 0;
    loop {
        tokio::select! {
            event = run.next_event() => match event {
                Some(Event::Exited { exit }) => return Ok(report(&exit, printer)),
                Some(event) => tell(&event, printer),
                None => return lost(engine, run, printer),
            },
            number = signals.next() => {
                interrupts += u32::from(matches!(number, INTERRUPT | TERMINATE));
                if interrupts == PATIENCE {
                    printer.warn(&format!("asked {PATIENCE} times to stop, killing it"));
                }
                run.signal(if interrupts >= PATIENCE { KILL } else { number });
            }
        }
    }
}

fn tell(event: &Event, printer: Printer) {
    match event {
        Event::Warning { text } => printer.warn(text),
        Event::Rootfs { method, why } => printer.detail(&format!("root file system: {method} ({why})")),
        Event::Started { pid } => printer.detail(&format!("started, process {pid} on this machine")),
        Event::Saved { files, bytes } => {
            let count = if *files == 1 { "1 file".to_owned() } else { format!("{files} files") };
            printer.say(&format!("saved artifacts: {count}, {}", crate::image::ByteSize(*bytes)));
        }
        // Taken by the caller.
        Event::Exited { .. } => {}
    }
}

/// Says what there is to say about the end, and makes it our own exit code.
fn report(exit: &Exit, printer: Printer) -> u8 {
    if let Some(message) = &exit.message {
        match exit.reason {
            ExitReason::Exited | ExitReason::Signalled => printer.detail(message),
            _ => super::printer::print_error(message),
        }
    }
    u8::try_from(exit.code).unwrap_or(super::exit::FAULT)
}

fn lost(engine: &Engine, run: Run, printer: Printer) -> Result<u8, CliError> {
    let name = run.name().to_string();
    end_of_lost_run(engine, run)?.map_or(Err(CliError::SupervisorLost(name)), |exit| Ok(report(&exit, printer)))
}

const INTERRUPT: i32 = nix::libc::SIGINT;
const TERMINATE: i32 = nix::libc::SIGTERM;
const KILL: i32 = nix::libc::SIGKILL;

/// The signals that are passed on to the workload.
struct Signals([(i32, Signal); 6]);

impl Signals {
    fn listen() -> Result<Self, CliError> {
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
    async fn next(&mut self) -> i32 {
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

/// A pipe that carries our standard input, so that the container never holds a descriptor of ours.
///
/// The thread ends with the input, with the container's end of the pipe, or with us.
fn relay_stdin() -> Result<OwnedFd, CliError> {
    let pipe = |source| CliError::Process("relay standard input", source);
    let (reader, mut writer) = io::pipe().map_err(pipe)?;
    let relay = move || {
        let mut buffer = vec![0; 64 << 10];
        let mut stdin = io::stdin().lock();
        while let Ok(read @ 1..) = stdin.read(&mut buffer) {
            if writer.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
    };
    std::thread::Builder::new().name("stdin".to_owned()).spawn(relay).map_err(pipe)?;
    Ok(reader.into())
}
