//! The whole job in one place: resolve, pull, unpack, spec, run.
//!
//! What it needs comes as arguments: directories, credentials, names, the time. It prints nothing and reads no environment,
//! so a program can embed it.
//!
//! | | |
//! |---|---|
//! | [`entry`] | the first line of `main`; nothing works without it |
//! | [`Settings::new`], [`Engine::open`] | where everything is kept |
//! | [`Engine::image`] | has an image, with an [`Observer`] that hears of each step |
//! | [`Engine::request`] | a run with docker's defaults; its fields say what is to be otherwise |
//! | [`Output::pipes`] | what the container writes, in this program |
//! | [`Engine::run`] | starts it |
//! | [`Run::event`], [`Run::order`], [`Run::exit`] | hears of it, tells it what to do, and how it ended |
//! | [`Engine::wait`], [`Engine::attach`], [`Engine::exec`] | runs that others have started, or that are detached |
//!
//! An [`Engine`] may be cloned and shared by threads, and any number of runs may go on at once: side by side in one task
//! (`tokio::join!`), in a `LocalSet`, or each in a thread with `Handle::block_on`, as the future of [`Engine::run`] itself is not
//! `Send`. The runtime is tokio's, with its I/O and time enabled. A future of [`Engine::run`] that is dropped gives the run up; a [`Run`] that is dropped
//! ends it as the death of a command line does: the workload gets its stop signal, SIGKILL when its time of grace is over, and
//! the record says `client_lost`. A run with [`RunRequest::detached`] goes on. The page of the crate has an example.

mod admit;
pub mod check;
mod control;
pub mod copy;
mod defaults;
pub mod devices;
pub mod doctor;
mod entry;
mod error;
mod etc;
mod exec;
mod feed;
mod health;
mod images;
pub mod inputs;
mod network;
mod output;
mod places;
pub mod ports;
mod prepare;
pub mod reaper;
pub mod removal;
pub mod resources;
mod share;
mod shelves;
mod top;
pub mod users;

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use self::admit::admit;
pub use self::control::{Attached, ControlError};
use self::devices::{Devices, Given, Taker, waiting_in_words};
pub use self::entry::entry;
pub use self::error::EngineError;
pub use self::exec::{EnterError, Exec, ExecWish};
use self::feed::PullFeed;
pub use self::health::{HealthError, HealthWishes};
pub use self::images::ReadyImage;
use self::inputs::DepRequest;
pub use self::network::NetworkWishes;
pub use self::output::{Output, Pipes};
use self::ports::Port;
use self::prepare::Admitted;
pub use self::share::ShareError;
pub use self::shelves::BucketVariables;
pub use self::top::Names;
use crate::artifact::{ArtifactStoreUrl, Declared, UploadRequest};
pub use crate::container::{CgroupError, CgroupParent, CgroupWish, LimitChange};
use crate::gpu::lease::{Leases, Wait};
use crate::image::{Descriptor, LocalSource, Observer, Platform, Reference};
use crate::network::{Lease, Places};
use crate::registry::{self, Login};
use crate::rootfs::Choice;
use crate::spec::{self, Dialect};
use crate::store::{Exit, Feed, Reservation, RunName, RunRecord, RunState, Store, StoreError, TagName};
use crate::supervisor::protocol::FeedStart;
pub use crate::supervisor::protocol::{Conduct, Event, Masked, Order, StopReason};
use crate::supervisor::{LaunchError, Supervisor, sweep};
pub use crate::supervisor::{LogEntry, LogReader, Logging, Stream};
use crate::sys;
pub use crate::sys::{Lock, WindowSize};
use crate::transport::{Input, Loaded};

/// Where the command line keeps its store unless it is told otherwise.
pub const ROOT_DIR: &str = "/var/lib/dockless";

/// Where the state of running containers is unless there is a reason; it need not survive a reboot.
pub const STATE_DIR: &str = "/run/dockless";

/// Where the shell of a workflow notes the number of the command it runs; there when [`Conduct::steps`] is not empty.
pub const STEP_FILE: &str = "/run/dockless/step";

/// Where the project directory of a workflow is in the container.
pub const PROJECT_DIR: &str = "/workflow";

/// When an image is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// Ask the registry each time.
    Always,
    /// Only when it is not in the store.
    Missing,
    /// Only what is in the store will do.
    Never,
}

/// Which image; made by [`ImageRequest::new`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ImageRequest {
    /// Its name.
    pub reference: Reference,
    /// Which one of a multi-platform image.
    pub platform: Platform,
    /// Whether to ask the registry.
    pub pull: PullPolicy,
    /// A credential for the image's registry; it wins over auth files, and no other registry is shown it.
    pub login: Option<Login>,
    /// Where [`Engine::bring`] had it from, and what it was there. No registry is asked, whatever the name means by now.
    pub brought: Option<(LocalSource, Descriptor)>,
}

/// A run as it is asked for; made by [`Engine::request`].
#[derive(Debug)]
#[non_exhaustive]
#[expect(clippy::struct_excessive_bools, reason = "each is a wish of its own")]
pub struct RunRequest {
    /// Its name, taken for it ([`Store::create_run`]).
    pub reservation: Reservation,
    /// Where it comes from.
    pub origin: Origin,
    /// What it runs in.
    pub image: ImageRequest,
    /// Command, environment, mounts, limits.
    pub options: spec::Options,
    /// How the root file system is made.
    pub rootfs: Choice,
    /// Directories to be saved when the run ends.
    pub artifacts: Vec<Declared>,
    /// Where they are saved; `None` for the store's own directory.
    pub artifact_store: Option<ArtifactStoreUrl>,
    /// User and group that saved files of the container's root are given to.
    pub artifact_owner: Option<(u32, u32)>,
    /// The whole run goes at its end.
    pub remove: bool,
    /// The writable layer stays.
    pub keep: bool,
    /// What the container reads; nothing when there is none.
    pub stdin: Option<OwnedFd>,
    /// Where its output goes besides the log.
    pub output: Output,
    /// The container's input stays open for those who attach.
    pub interactive: bool,
    /// How large the terminal of [`spec::Options::terminal`] is.
    pub terminal_size: Option<WindowSize>,
    /// The container's first process is ours.
    pub init: bool,
    /// It goes on without whoever starts it.
    pub detached: bool,
    /// SIGTERM to the tool means that the machine is being taken away.
    pub interruptible: bool,
    /// Ports that the workload listens on, with the machine's network.
    pub ports: Vec<Port>,
    /// What it wants of a private network.
    pub network: NetworkWishes,
    /// What it reads and writes of earlier runs.
    pub inputs: InputsWanted,
    /// GPUs and other devices that it needs.
    pub devices: Devices,
    /// What happens when the machine cannot give what is asked for.
    pub host_check: HostCheck,
    /// What whoever starts it notes with it.
    pub labels: BTreeMap<String, String>,
    /// The tag it gets if it ends well.
    pub tag: Option<TagName>,
    /// Where its cgroup is.
    pub cgroups: CgroupWish,
    /// How its supervisor goes about it.
    pub conduct: Conduct,
    /// How it is found out how it is.
    pub health: HealthWishes,
    /// Where programs are told what happens: a file, pipe or socket that takes lines.
    pub events: Option<OwnedFd>,
    /// The time now (RFC 3339, UTC).
    pub created: String,
    /// Any number; tells runs of one name apart.
    pub nonce: u32,
}

impl RunRequest {
    /// What kernel and runtime will know the run by.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}-{:08x}", self.reservation.name(), self.nonce)
    }

    /// The project directory as records have it.
    fn project_in_words(&self) -> String {
        self.origin.project.as_deref().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Where the project is in the container.
    fn project_place(&self) -> Option<&Path> {
        self.origin.project.is_some().then_some(Path::new(PROJECT_DIR))
    }
}

/// Artifacts of earlier runs, and caches.
#[derive(Debug, Clone, Default)]
pub struct InputsWanted {
    /// Whose artifacts.
    pub deps: Vec<DepRequest>,
    /// The directories in the container that are kept from run to run.
    pub caches: Vec<PathBuf>,
}

/// Whether a run's limits are also what the machine must have, beside what other runs hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostCheck {
    /// Limits are limits, as docker has it.
    None,
    /// The run is refused.
    Refuse,
    /// The run goes on, with a warning.
    Warn,
}

/// Where a run comes from: nothing for one of an image.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// The workflow.
    pub workflow: Option<String>,
    /// The directory of its project.
    pub project: Option<PathBuf>,
    /// The workflow after interpolation, secrets masked.
    pub resolved: Option<serde_json::Value>,
}

/// Where everything is kept and how registries are spoken to; made by [`Settings::new`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// Root of the store.
    pub root: PathBuf,
    /// State of running containers; [`STATE_DIR`] unless there is a reason.
    pub state: PathBuf,
    /// Credentials, insecure hosts, certificates.
    pub registry: registry::Settings,
    /// How buckets for artifacts are reached.
    pub bucket: BucketVariables,
    /// Where the whole machine leases its GPUs; [`devices::LEASE_DIR`] unless there is a reason.
    pub leases: PathBuf,
    /// Tells the time.
    pub clock: Clock,
    /// What private networks need.
    pub network: Places,
}

/// What tells the time: [`jiff::Timestamp::now`], unless there is a reason.
pub type Clock = fn() -> Timestamp;

/// Does the jobs, for one store; a clone does the same.
#[derive(Debug, Clone)]
pub struct Engine {
    store: Store,
    settings: Settings,
}

impl Engine {
    /// Opens the store and cleans up after processes that were killed. The second value tells what was found, in words.
    pub fn open(settings: Settings) -> Result<(Self, Vec<String>), EngineError> {
        let uid = nix::unistd::geteuid().as_raw();
        if uid != 0 {
            return Err(EngineError::NotRoot { uid });
        }
        sys::own_program()?;
        let state = |source| EngineError::State { path: settings.state.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&settings.state).map_err(state)?;
        let store = Store::open(&settings.root)?;
        let told = sweep(&store, &settings.state, &settings.leases, &settings.network.dir)?;
        reaper::attend(&store);
        Ok((Self { store, settings }, told))
    }

    /// The store.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// Keeps images from being removed; waits, without holding up anything else, for a removal that is going on.
    pub async fn keep_images(&self) -> Result<Lock, EngineError> {
        let store = self.store.clone();
        let lock = spawn_blocking(move || store.shared()).await;
        Ok(lock.map_err(|_| EngineError::Task("waiting for the store"))??)
    }

    /// Has the image in the store, unpacked, whatever that takes.
    pub async fn image(&self, request: &ImageRequest, observer: &Arc<dyn Observer>) -> Result<ReadyImage, EngineError> {
        images::ready(&self.store, &self.settings.registry, request, observer, &mut || ()).await
    }

    /// Has the image of a directory or archive in the store, as far as the platform needs it.
    pub async fn bring(
        &self,
        source: &LocalSource,
        platform: &Platform,
        observer: &Arc<dyn Observer>,
    ) -> Result<Loaded, EngineError> {
        let _kept = self.keep_images().await?;
        images::bring(&self.store, source, platform, observer).await
    }

    /// Has all images of an archive or directory in the store.
    pub async fn load(&self, input: Input, observer: &Arc<dyn Observer>) -> Result<Vec<Loaded>, EngineError> {
        let _kept = self.keep_images().await?;
        images::take_all(&self.store, input, observer).await
    }

    /// Starts a run. It goes on in its supervisor; [`Run`] hears of it.
    pub async fn run(&self, mut request: RunRequest, observer: &Arc<dyn Observer>) -> Result<Run, EngineError> {
        let host = prepare::host(Dialect::Libcontainer)?;
        if request.host_check == HostCheck::None {
            request.options.check(&host)?;
        }
        let output = std::mem::take(&mut request.output).into_streams(request.detached)?;
        share::joins(&self.store, &request.options)?;
        network::check(&request, &self.settings)?;
        for record in inputs::records(&self.store, &request.project_in_words(), &request.inputs.deps)? {
            self.fetch_artifacts(&record).await?;
        }
        let given = self.devices(&request, observer).await;
        let mut admitted = admit(&self.store, &mut request, given, host)?;
        request.options.mounts.extend(admitted.mounts.iter().map(|mount| mount.setting.clone()));
        let _kept = self.keep_images().await?;
        let listener = request.events.take();
        let RunRecord { name, id, .. } = &admitted.record;
        let feed = Feed::new(&self.settings.state, listener, name.clone(), id.clone(), 0);
        let feed = PullFeed::new(feed, self.settings.clock, Arc::clone(observer));
        let observer: Arc<dyn Observer> = Arc::clone(&feed) as _;
        let mut pulling = || prepare::record_state(&request, &admitted.record, RunState::Pulling);
        let image =
            images::ready(&self.store, &self.settings.registry, &request.image, &observer, &mut pulling).await?;
        admitted.mounted = self.mounted_images(&request.options, &request.image, &observer).await?;
        let upload = self.claim(&request, &admitted.record).await?;
        let claimed = upload.clone();
        let started = feed.hand_over(|feed| self.supervise(request, output, admitted, upload, &image, feed));
        if let (Err(_), Some(claimed)) = (&started, claimed) {
            self.disclaim(&claimed).await;
        }
        started
    }

    /// From here on the run belongs to its supervisor.
    fn supervise(
        &self,
        request: RunRequest,
        output: [Stdio; 2],
        admitted: Admitted,
        upload: Option<UploadRequest>,
        image: &ReadyImage,
        feed: &Feed,
    ) -> Result<Run, EngineError> {
        let mut prepared = prepare::run(&self.store, &self.settings, request, &admitted, upload, image)?;
        prepared.request.feed = FeedStart { seq: feed.seq(), has_listener: feed.listener().is_some() };
        let Admitted { given, warnings, .. } = admitted;
        let mut leases = given.leases.as_ref().map(Leases::descriptors).unwrap_or_default();
        leases.extend(prepared.lease.as_ref().and_then(Lease::descriptor));
        let lock = prepared.reservation.lock();
        let listener = feed.listener().map(AsFd::as_fd);
        let supervisor =
            Supervisor::start(&prepared.request, lock, &leases, listener, prepared.stdin.as_ref(), output)?;
        prepared.reservation.keep();
        if let Some(leases) = given.leases {
            leases.hand_over();
        }
        let published = prepared.lease.as_ref().and_then(|lease| network::published(lease.plan()));
        if let Some(lease) = prepared.lease {
            lease.hand_over();
        }
        let warnings = [warnings, prepared.warnings].concat();
        let run = Run::new(supervisor, prepared.request.record.name, warnings, prepared.notes)?;
        Ok(Run { published, ..run })
    }

    /// Takes the GPUs of a run, which may take as long as others have them.
    async fn devices(&self, request: &RunRequest, observer: &Arc<dyn Observer>) -> Result<Given, EngineError> {
        if request.devices.gpus.is_none() {
            return Ok(Given::default());
        }
        if request.devices.wait != Wait::No {
            // Others see that it is there, and can stop it.
            prepare::submit_waiting(request)?;
        }
        let taker = Taker {
            devices: request.devices.clone(),
            lease_dir: self.settings.leases.clone(),
            run: request.reservation.name().clone(),
            id: request.id(),
            store: self.store.root().to_owned(),
            since: request.created.clone(),
        };
        let observer = Arc::clone(observer);
        let is_wanted = Arc::new(());
        let still_wanted = Arc::downgrade(&is_wanted);
        let take = move || {
            let mut told = String::new();
            taker.take(|waiting| {
                let words = waiting_in_words(waiting);
                if words != told {
                    observer.waiting(&words);
                    told = words;
                }
                // Whoever waits for us is gone when this future was dropped.
                if still_wanted.strong_count() == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
        };
        let given = spawn_blocking(take).await.map_err(|_| EngineError::Task("looking for GPUs"))?;
        drop(is_wanted);
        Ok(given?)
    }

    /// The runtime spec that a run with these options would have.
    pub async fn spec(
        &self,
        image: &ImageRequest,
        options: &spec::Options,
        devices: &Devices,
        observer: &Arc<dyn Observer>,
    ) -> Result<spec::Built, EngineError> {
        let host = prepare::host(Dialect::Standard)?;
        options.check(&host)?;
        let _kept = self.keep_images().await?;
        let given = devices::choose(devices)?;
        share::refuse_in_bundle(options)?;
        let image = self.image(image, observer).await?;
        Ok(prepare::spec(&self.store, &image, options, devices, &given, &host, "spec")?.0)
    }

    /// Writes a bundle to `dir`, which must not be there yet: the flat root file system and its `config.json`.
    pub async fn bundle(
        &self,
        image: &ImageRequest,
        options: &spec::Options,
        devices: &Devices,
        dir: &Path,
        observer: &Arc<dyn Observer>,
    ) -> Result<Vec<String>, EngineError> {
        let host = prepare::host(Dialect::Standard)?;
        options.check(&host)?;
        let _kept = self.keep_images().await?;
        let given = devices::choose(devices)?;
        share::refuse_in_bundle(options)?;
        let image = self.image(image, observer).await?;
        prepare::bundle(&self.store, &image, options, devices, &given, &host, dir)
    }
}

/// A run that goes on. When this is dropped, the run ends unless it is detached.
#[derive(Debug)]
pub struct Run {
    name: RunName,
    warnings: Vec<String>,
    notes: Vec<String>,
    published: Option<String>,
    supervisor: Supervisor,
    events: Lines<BufReader<UnixStream>>,
    exit: Option<Exit>,
}

/// How often it is looked whether a silent supervisor is still there.
const LOOK_AFTER: Duration = Duration::from_millis(500);
/// How long what a supervisor said before its end may take to be read.
const LAST_WORDS: Duration = Duration::from_millis(200);

impl Run {
    fn new(
        supervisor: Supervisor,
        name: RunName,
        warnings: Vec<String>,
        notes: Vec<String>,
    ) -> Result<Self, EngineError> {
        let stream = || {
            let events = supervisor.events()?;
            events.set_nonblocking(true)?;
            UnixStream::from_std(events)
        };
        let events = BufReader::new(stream().map_err(LaunchError::Talk)?).lines();
        Ok(Self { name, warnings, notes, published: None, supervisor, events, exit: None })
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &RunName {
        &self.name
    }

    /// What was noticed while it was set up, in words.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Where it is reached, in words, when ports of a private network are published.
    #[must_use]
    pub fn published(&self) -> Option<&str> {
        self.published.as_deref()
    }

    /// What is less than usual on this machine, in words.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Tells the supervisor what to do with the workload. One that is gone is no error: its end is told by the events.
    pub fn order(&self, order: &Order) {
        self.supervisor.order(order);
    }

    /// What happens next; `None` when the supervisor is gone. Safe to cancel.
    pub async fn event(&mut self) -> Option<Event> {
        loop {
            let line = tokio::select! {
                biased;
                line = self.events.next_line() => line,
                // Usually its end closes the socket. A copy of it that was just being forked holds it open for ever.
                () = sleep(LOOK_AFTER) => {
                    if !self.supervisor.has_ended() {
                        continue;
                    }
                    timeout(LAST_WORDS, self.events.next_line()).await.ok()?
                }
            };
            let line = line.ok().flatten()?;
            if let Ok(event) = serde_json::from_str(&line) {
                if let Event::Exited { exit } = &event {
                    self.exit = Some(Exit::clone(exit));
                }
                if let Event::Renamed { to } = &event {
                    self.name = to.clone();
                }
                return Some(event);
            }
        }
    }

    /// How it ended; waits for that, when it was not among the events yet. Where the supervisor was killed, cleans up in its
    /// place and says what the record tells.
    ///
    /// # Errors
    /// [`EngineError::SupervisorLost`] when nothing tells it any more.
    pub async fn exit(mut self, engine: &Engine) -> Result<Exit, EngineError> {
        while self.exit.is_none() && self.event().await.is_some() {}
        if let Some(exit) = self.exit.take() {
            return Ok(exit);
        }
        let (engine, name) = (engine.clone(), self.name.to_string());
        let ended = spawn_blocking(move || end_of_lost_run(&engine, self)).await;
        let (exit, _) = ended.map_err(|_| EngineError::Task("cleaning up after a supervisor"))??;
        exit.ok_or(EngineError::SupervisorLost { name })
    }
}

/// The end of a run whose supervisor was killed: cleans up in its place and reads the end from the record, which is not
/// there for a run that goes at its end. The second value tells what was found, in words.
pub fn end_of_lost_run(engine: &Engine, run: Run) -> Result<(Option<Exit>, Vec<String>), EngineError> {
    let Run { name, supervisor, .. } = run;
    // Its lock ends with it, and no earlier.
    drop(supervisor.wait());
    let told = sweep(&engine.store, &engine.settings.state, &engine.settings.leases, &engine.settings.network.dir)?;
    match engine.store.run(name.as_str()) {
        Ok(run) => Ok((run.record()?.exit, told)),
        Err(StoreError::NoRun { .. }) => Ok((None, told)),
        Err(error) => Err(error.into()),
    }
}
