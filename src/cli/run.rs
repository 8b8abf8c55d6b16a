//! `run`, `spec` and `bundle`.

use std::path::PathBuf;
use std::sync::Arc;

use super::args::{BundleArgs, ContainerArgs, ImageArgs, PullWhen, RunArgs, SpecArgs};
use super::attach::detach_keys;
use super::attend::start;
use super::cgroups::cgroups;
use super::context::{Context, artifact_store, block_on, caller, random};
use super::devices::devices;
use super::exit::CliError;
use super::health::health;
use super::images::image_request;
use super::life::{IdFile, conduct, events, restart};
use super::limits::labels;
use super::names::take_free_name;
use super::options::{artifacts, options};
use super::port::network_wishes;
use super::printer::{Printer, print_json};
use super::terminal::{Shown, check_input, own_size, relay_stdin};
use crate::engine::{Engine, ImageRequest, PullPolicy, RunRequest};
use crate::image::{Observer, Platform, Source};
use crate::rootfs::ChoiceError;
use crate::spec;
use crate::store::{Reservation, Store};

pub(super) fn run(context: &Context, args: RunArgs) -> Result<u8, CliError> {
    let printer = context.printer(args.talk);
    let (image, mut options) = image_and_options(&args.image, &args.container, args.image_and_command)?;
    options.terminal = args.terminal.tty;
    let keys = detach_keys(args.terminal.detach_keys.as_deref())?;
    let gives_input = args.interactive && !args.detach;
    if gives_input && args.terminal.tty {
        check_input()?;
    }
    options.stop_signal = args.keeping.stop_signal.as_deref().map(str::parse).transpose()?;
    let (labels, mut conduct) = (labels(&args.keeping)?, conduct(&args.life, &args.keeping)?);
    conduct.restart = restart(&args.restart, args.rm)?;
    let health = health(&args.health, !conduct.restart.is_no())?;
    let rootfs = args.rootfs.parse().map_err(|error: ChoiceError| CliError::Usage(error.to_string()))?;
    let artifacts = artifacts(&args.artifact, args.container.workdir.as_deref())?;
    let devices = devices(&args.container.devices, Some(&args.lease))?;
    let cgroups = cgroups(&args.cgroups, printer)?;
    let network = network_wishes(&args.network, &options.network)?;
    let engine = context.engine(Some(&args.image.registry), printer)?;
    let reservation = reserve(engine.store(), args.name.as_deref())?;
    let image = image.request(&engine, printer)?;
    let (stdin, left) = if gives_input {
        relay_stdin(args.terminal.tty.then_some(keys)).map(|(stdin, left)| (Some(stdin), Some(left)))?
    } else {
        (None, None)
    };
    let is_shown = args.terminal.tty && !args.detach;
    let request = RunRequest {
        options,
        rootfs,
        artifacts,
        artifact_store: artifact_store(&args.store)?,
        artifact_owner: caller(),
        remove: args.rm,
        keep: args.keep,
        stdin,
        interactive: args.interactive,
        terminal_size: own_size(),
        init: args.terminal.init,
        detached: args.detach,
        network,
        devices,
        labels,
        conduct,
        health,
        events: events(&args.life)?,
        cgroups,
        ..RunRequest::new(reservation, image, now(), nonce())
    };
    let id_file = IdFile::create(args.life.cidfile.as_deref(), &request.id())?;
    let code = block_on(async {
        let shown = if is_shown { Shown::terminal(left)? } else { Shown::default() };
        Box::pin(start(&engine, request, shown, printer)).await
    })?;
    if let Some(file) = id_file {
        file.keep();
    }
    Ok(code)
}

pub(super) fn spec(context: &Context, args: SpecArgs) -> Result<u8, CliError> {
    let printer = context.printer(args.talk);
    let (image, options) = image_and_options(&args.image, &args.container, args.image_and_command)?;
    let devices = devices(&args.container.devices, None)?;
    let engine = context.engine(Some(&args.image.registry), printer)?;
    let image = image.request(&engine, printer)?;
    let observer: Arc<dyn Observer> = Arc::new(printer.progress());
    let built = block_on(async { Ok(engine.spec(&image, &options, &devices, &observer).await?) })?;
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
    let devices = devices(&args.container.devices, None)?;
    let engine = context.engine(Some(&args.image.registry), printer)?;
    let image = image.request(&engine, printer)?;
    let observer: Arc<dyn Observer> = Arc::new(printer.progress());
    let warnings = block_on(async { Ok(engine.bundle(&image, &options, &devices, &dir, &observer).await?) })?;
    for warning in &warnings {
        printer.warn(warning);
    }
    printer.say(&format!("{}: `runc run --bundle {} NAME` runs it", dir.display(), dir.display()));
    Ok(0)
}

/// The image as it was asked for, checked before anything is fetched.
struct Wanted {
    source: Source,
    platform: Platform,
    pull: PullPolicy,
}

impl Wanted {
    fn request(self, engine: &Engine, printer: Printer) -> Result<ImageRequest, CliError> {
        let observer: Arc<dyn Observer> = Arc::new(printer.progress());
        block_on(image_request(engine, self.source, self.platform, self.pull, &observer))
    }
}

fn image_and_options(
    args: &ImageArgs,
    container: &ContainerArgs,
    mut words: Vec<String>,
) -> Result<(Wanted, spec::Options), CliError> {
    let command = words.split_off(1);
    let platform = args.platform.as_deref().map_or_else(|| Ok(Platform::host()), str::parse)?;
    let image = Wanted { source: words.remove(0).parse()?, platform, pull: pull_policy(args.pull) };
    Ok((image, options(container, command)?))
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
