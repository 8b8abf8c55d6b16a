//! From an unpacked image and options to everything a supervisor needs: the run's directory, its spec, its record.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::devices::{self, Brought, Devices, Given};
use super::inputs::{InputMount, hidden};
use super::places::directory;
use super::{EngineError, Origin, ReadyImage, RunRequest, STEP_FILE, Settings, etc, network, share};
use crate::artifact::{self, UploadRequest, prepare_remote};
use crate::container::{Cgroup, CgroupError, boot_id, host_devices, host_facts};
use crate::network::Lease;
use crate::rootfs::{self, Layers, RootEdits, View};
use crate::spec::{
    self, Dialect, HostFacts, Hostname, ImageFiles, IpcMode, MAX_IDENTITY_FILE_BYTES, MountSetting, Options, Paths,
    PidMode,
};
use crate::store::{Limits, Reservation, RunDir, RunGpu, RunName, RunRecord, RunState, Store};
use crate::supervisor::Logging;
use crate::supervisor::protocol::{FeedStart, LeaseFiles, Masked, Request, TerminalWish, Volume};

/// A run that was let in.
pub(super) struct Admitted {
    pub(super) record: RunRecord,
    /// What the machine is.
    pub(super) host: HostFacts,
    /// Its GPUs.
    pub(super) given: Given,
    /// The images that are mounted beside its own, in order.
    pub(super) mounted: Vec<ReadyImage>,
    /// What it gets of earlier runs.
    pub(super) mounts: Vec<InputMount>,
    /// What was not there and not insisted on, in words.
    pub(super) warnings: Vec<String>,
}

/// A run that only has to be started.
pub(super) struct Prepared {
    pub(super) request: Request,
    pub(super) reservation: Reservation,
    pub(super) stdin: Option<OwnedFd>,
    /// Its address.
    pub(super) lease: Option<Lease>,
    pub(super) warnings: Vec<String>,
    pub(super) notes: Vec<String>,
}

/// What the spec has to say about itself.
struct Words {
    warnings: Vec<String>,
    notes: Vec<String>,
}

/// Writes the first record of a run, so that others see it from now on.
pub(super) fn submit(
    request: &RunRequest,
    gpus: Vec<RunGpu>,
    deps: Vec<RunName>,
    caches: Vec<String>,
) -> Result<RunRecord, EngineError> {
    let record = record(request, gpus, deps, caches)?;
    // Not durable: a run that never started is none after a reboot.
    request.reservation.dir().write_passing_record(&record)?;
    Ok(record)
}

/// The same for a run that waits for GPUs: it holds nothing yet.
pub(super) fn submit_waiting(request: &RunRequest) -> Result<(), EngineError> {
    let record = record(request, Vec::new(), Vec::new(), Vec::new())?;
    let record = RunRecord { limits: Limits::default(), ..record };
    Ok(request.reservation.dir().write_passing_record(&record)?)
}

/// Refuses a place for the run's cgroup that cannot be had, and limits that would not be kept there.
pub(super) fn check_cgroup(request: &RunRequest, host: &HostFacts) -> Result<(), EngineError> {
    let cgroup = Cgroup::plan(&request.cgroups, &request.id())?;
    if !cgroup.mode().makes_one() && request.options.namespaces.pid != PidMode::Private {
        return Err(CgroupError::SharedProcesses(cgroup.mode()).into());
    }
    Ok(cgroup.check_limits(&spec::limits(&request.options, host)?)?)
}

fn record(
    request: &RunRequest,
    gpus: Vec<RunGpu>,
    deps: Vec<RunName>,
    caches: Vec<String>,
) -> Result<RunRecord, EngineError> {
    let name = request.reservation.name();
    let Origin { workflow, project, resolved } = &request.origin;
    let options = &request.options;
    let cgroup = Cgroup::plan(&request.cgroups, &request.id())?;
    Ok(RunRecord {
        schema: 1,
        name: name.clone(),
        id: request.id(),
        workflow: workflow.clone(),
        project: project.as_deref().map(in_words),
        resolved: resolved.clone(),
        image: request.image.reference.clone(),
        manifest: None,
        layers: Vec::new(),
        mounted: Vec::new(),
        ipc: (options.namespaces.ipc == IpcMode::Shareable).then(|| share::SHAREABLE.to_owned()),
        id_maps: options.namespaces.users.maps().cloned(),
        command: Vec::new(),
        limits: Limits {
            cpus: options.cpus.map(spec::Cpus::as_f64),
            memory: options.memory.map(spec::MemoryLimit::size),
            shm_size: options.namespaces.ipc.has_own_shm().then_some(options.shm_size),
        },
        gpus,
        detached: request.detached,
        terminal: request.options.terminal,
        interactive: request.interactive,
        interruptible: request.interruptible,
        ports: request.ports.iter().map(ToString::to_string).collect(),
        network: None,
        artifact_store: request
            .artifact_store
            .as_ref()
            .filter(|_| !request.artifacts.is_empty())
            .map(ToString::to_string),
        deps,
        caches,
        labels: request.labels.clone(),
        group_add: request.options.security.group_add.clone(),
        tag: request.tag.as_ref().map(ToString::to_string),
        no_log: request.conduct.logging == Logging::Nothing,
        restart: request.conduct.restart,
        restarts: 0,
        health: None,
        cgroup: Some(cgroup.record()),
        state: RunState::Submitted,
        rootfs: String::new(),
        boot_id: boot_id()?,
        created: request.created.clone(),
        started: None,
        finished: None,
        pid: None,
        pid_start: None,
        remove: request.remove,
        keep: request.keep,
        exit: None,
        spec: None,
    })
}

/// What this machine is, for whoever will read the spec.
pub(super) fn host(dialect: Dialect) -> Result<HostFacts, EngineError> {
    Ok(host_facts(&Cgroup::mounted()?, dialect)?)
}

/// Notes a state on the way; one that cannot be written now is overtaken by the next.
pub(super) fn record_state(request: &RunRequest, record: &RunRecord, state: RunState) {
    drop(request.reservation.dir().write_passing_record(&RunRecord { state, ..record.clone() }));
}

/// Fills the run's directory. When something fails nothing of it stays.
pub(super) fn run(
    store: &Store,
    settings: &Settings,
    request: RunRequest,
    admitted: &Admitted,
    upload: Option<UploadRequest>,
    image: &ReadyImage,
) -> Result<Prepared, EngineError> {
    // A failure drops the reservation, which removes the directory.
    match fill(store, settings, &request, admitted, upload, image) {
        Ok((supervised, lease, Words { mut warnings, notes })) => {
            warnings.extend(hidden_directories(store, &request, &admitted.mounts, image)?);
            let RunRequest { reservation, stdin, .. } = request;
            Ok(Prepared { request: supervised, reservation, stdin, lease, warnings, notes })
        }
        Err(error) => {
            // Only what this run has made: an earlier one of that name may have left artifacts.
            if let Some(artifacts) = directory(store, request.artifact_store.as_ref()) {
                drop(artifacts.discard(request.reservation.name()));
            }
            Err(error)
        }
    }
}

fn volume(volume: spec::ImageVolume) -> Volume {
    Volume { destination: in_words(&volume.destination), host: volume.host }
}

fn fill(
    store: &Store,
    settings: &Settings,
    request: &RunRequest,
    admitted: &Admitted,
    upload: Option<UploadRequest>,
    image: &ReadyImage,
) -> Result<(Request, Option<Lease>, Words), EngineError> {
    let (name, dir) = (request.reservation.name(), request.reservation.dir());
    let (given, record) = (&admitted.given, admitted.record.clone());
    let mut options = request.options.clone();
    let local = directory(store, request.artifact_store.as_ref());
    let artifacts = match &local {
        Some(local) => local.prepare(name, dir.path(), &request.artifacts)?,
        None => prepare_remote(name, dir.path(), &request.artifacts)?,
    };
    options.mounts.extend(own_mounts(request, dir, &artifacts)?);
    let network_of = share::network_of(store, &options)?;
    options.default_hostname = default_hostname(network_of.as_ref(), name)?;
    let health = request.health.choose(&image.image.config, &request.conduct.secrets)?;
    let surroundings = share::surroundings(store, &options, &admitted.mounted)?;
    make_sources(&options.mounts)?;
    let etc = dir.path().join("etc");
    let cgroup = Cgroup::recorded(record.cgroup.as_ref(), &record.id)?;
    let paths = paths(dir, &etc, &cgroup);
    let brought = bring_devices(store, image, &mut options, &request.devices, given, Some(&dir.gpu()))?;
    let mut built = build(store, image, &options, &paths, &admitted.host)?;
    cgroup.adapt(&mut built.spec);
    let lease = network::lease(request, settings, &record.id, &image.image.config.exposed_ports)?;
    let plan = lease.as_ref().map(Lease::plan);
    etc::write(&etc, &built.hostname, &options, network_of.as_ref(), plan)?;
    write_spec(&dir.config(), &built)?;
    write_secrets(&dir.secrets(), &request.conduct.secrets)?;
    let command = built.spec.process().as_ref().and_then(|process| process.args().clone()).unwrap_or_default();
    let record = RunRecord {
        manifest: Some(image.image.manifest_digest.clone()),
        layers: image.layers.clone(),
        mounted: share::recorded(&admitted.mounted),
        command: command.iter().map(|word| request.conduct.secrets.mask(word)).collect(),
        labels: image_labels(image).chain(record.labels).collect(),
        state: RunState::Creating,
        health: health.health,
        network: plan.map(network::recorded),
        ports: plan.map_or(record.ports, |plan| plan.ports.iter().map(ToString::to_string).collect()),
        ..record
    };
    dir.write_passing_record(&record)?;
    let supervised = Request {
        store: store.root().to_owned(),
        state: settings.state.canonicalize().unwrap_or_else(|_| settings.state.clone()),
        record,
        rootfs: request.rootfs,
        working_dir: in_words(&built.working_dir),
        volumes: built.image_volumes.into_iter().map(volume).collect(),
        root_edits: brought.root,
        leases: lease_files(settings, request, given),
        gpu_watch: given.watch(&request.devices),
        own_network: options.network.is_own(),
        network: plan.cloned(),
        surroundings,
        stop_signal: built.stop_signal.number(),
        memory_limit: options.memory.map(spec::MemoryLimit::size),
        artifact_store: local.map_or_else(|| store.artifacts(), |local| local.directory().to_owned()),
        upload: upload.map(|upload| UploadRequest { prepared: artifacts.clone(), ..upload }),
        artifacts,
        artifact_owner: request.artifact_owner,
        terminal: options.terminal.then_some(TerminalWish { size: request.terminal_size }),
        interactive: request.interactive,
        init: request.init,
        conduct: request.conduct.clone(),
        health_command: health.command,
        feed: FeedStart::default(),
    };
    let of_network = plan.map(network::warnings).unwrap_or_default();
    let warnings = [brought.warnings, built.warnings, of_network, Vec::from_iter(health.warning)].concat();
    Ok((supervised, lease, Words { warnings, notes: [brought.notes, built.notes].concat() }))
}

/// The labels of the image, which the run's own come after and so win, as with docker.
fn image_labels(image: &ReadyImage) -> impl Iterator<Item = (String, String)> + use<> {
    image.image.config.labels.clone().into_iter()
}

/// What `exec` must hide as well. The directory is root's alone, and the specification beside it has the same texts.
fn write_secrets(path: &Path, secrets: &Masked) -> Result<(), EngineError> {
    if secrets.is_empty() {
        return Ok(());
    }
    let json = serde_json::to_vec(secrets).unwrap_or_default();
    fs::write(path, json).map_err(|source| EngineError::Write { path: path.to_owned(), source })
}

/// The host name when none is asked for: that of the run whose network is shared, else the run's own.
fn default_hostname(network_of: Option<&RunDir>, name: &RunName) -> Result<Option<Hostname>, EngineError> {
    Ok(match network_of {
        Some(run) => share::etc_of(run, "hostname")?.trim().parse().ok(),
        None => name.as_str().parse().ok(),
    })
}

/// Artifacts, and the file that a workflow's shell writes.
fn own_mounts(
    request: &RunRequest,
    dir: &RunDir,
    artifacts: &[artifact::Prepared],
) -> Result<Vec<MountSetting>, EngineError> {
    let mount = |artifact: &artifact::Prepared| {
        MountSetting::bind("artifact", &artifact.host_dir, &artifact.declared.container_path)
            .map(MountSetting::of_run)
            .map_err(EngineError::from)
    };
    let steps = (!request.conduct.steps.is_empty()).then(|| step_mount(dir));
    artifacts.iter().map(mount).chain(steps).collect()
}

/// The locks of the run's GPUs, as its supervisor gets them.
fn lease_files(settings: &Settings, request: &RunRequest, given: &Given) -> Option<LeaseFiles> {
    given.leases.as_ref().map(|leases| LeaseFiles {
        dir: settings.leases.clone(),
        count: leases.descriptors().len(),
        shared: request.devices.shared,
    })
}

/// Where things of a run are.
fn paths(dir: &RunDir, etc: &Path, cgroup: &Cgroup) -> Paths {
    Paths {
        rootfs: dir.path().join("rootfs"),
        cgroup: cgroup.path(),
        resolv_conf: Some(etc.join("resolv.conf")),
        hosts: Some(etc.join("hosts")),
        hostname: Some(etc.join("hostname")),
        volumes: dir.path().join("volumes"),
        joined: dir.path().join("joined"),
        images: dir.path().join("images"),
    }
}

/// Puts what the run's devices bring into its options, and returns the rest. Nothing is looked at for a run without any.
fn bring_devices(
    store: &Store,
    image: &ReadyImage,
    options: &mut Options,
    devices: &Devices,
    given: &Given,
    staging: Option<&Path>,
) -> Result<Brought, EngineError> {
    if given.chosen.is_empty()
        && !devices.has_others()
        && !devices::image_or_run_names_gpus(&image.image.config, options)
    {
        return Ok(Brought::default());
    }
    let view = View::open(&Layers::load(store, &image.layers)?)?;
    if let Some(staging) = staging {
        let write = |source| EngineError::Write { path: staging.to_owned(), source };
        fs::DirBuilder::new().mode(0o755).create(staging).map_err(write)?;
    }
    let brought = devices::bring(devices, given, &image.image.config, &options.env, &view, staging)?;
    options.edits = brought.spec.clone();
    Ok(brought)
}

/// A word for each mount of ours that hides something.
fn hidden_directories(
    store: &Store,
    request: &RunRequest,
    inputs: &[InputMount],
    image: &ReadyImage,
) -> Result<Vec<String>, EngineError> {
    let artifacts = request.artifacts.iter().map(|artifact| {
        let what = format!("artifact `{}`", artifact.path);
        (what, artifact.container_path.as_path())
    });
    let inputs = inputs.iter().map(|input| (input.what.clone(), input.container_path.as_path()));
    let places: Vec<(String, &Path)> = artifacts.chain(inputs).collect();
    if places.is_empty() {
        return Ok(Vec::new());
    }
    let view = View::open(&Layers::load(store, &image.layers)?)?;
    let project = request.origin.project.as_deref().zip(request.project_place());
    let found = places.into_iter().map(|(what, path)| hidden(&view, project, &what, path));
    Ok(found.filter_map(Result::transpose).collect::<Result<_, _>>()?)
}

/// The file in which the shell of a workflow notes where it is; writable for every user of the container.
fn step_mount(dir: &RunDir) -> Result<MountSetting, EngineError> {
    let path = dir.step();
    let write = |source| EngineError::Write { path: path.clone(), source };
    fs::write(&path, "").map_err(write)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).map_err(write)?;
    Ok(MountSetting::bind("step", &path, Path::new(STEP_FILE))?.of_run())
}

/// A runtime gives a container a network namespace, and nothing to reach through it.
const EMPTY_NETWORK: &str = "`--network private`: a runtime that runs this gives it an empty network namespace, without bridge, \
    ports and names\nhint: `--network host` has the machine's network; `dockless run` sets up a private one";

/// The spec of a run that will not take place, for those who want to see it.
pub(super) fn spec(
    store: &Store,
    image: &ReadyImage,
    options: &Options,
    devices: &Devices,
    given: &Given,
    host: &HostFacts,
    name: &str,
) -> Result<(spec::Built, RootEdits), EngineError> {
    let mut options = options.clone();
    let brought = bring_devices(store, image, &mut options, devices, given, None)?;
    let paths = Paths {
        rootfs: PathBuf::from("rootfs"),
        // Not below the parent of our runs: other runtimes would make that and leave it behind.
        cgroup: format!("/dockless-{name}"),
        resolv_conf: None,
        hosts: None,
        hostname: None,
        volumes: PathBuf::from("volumes"),
        joined: PathBuf::from("joined"),
        images: PathBuf::from("images"),
    };
    let mut built = build(store, image, &options, &paths, host)?;
    built.warnings.splice(0..0, brought.warnings);
    built.notes.splice(0..0, brought.notes);
    if options.network == spec::Network::Private {
        built.warnings.push(EMPTY_NETWORK.to_owned());
    }
    Ok((built, brought.root))
}

/// Writes root file system and spec to a new directory.
pub(super) fn bundle(
    store: &Store,
    image: &ReadyImage,
    options: &Options,
    devices: &Devices,
    given: &Given,
    host: &HostFacts,
    dir: &Path,
) -> Result<Vec<String>, EngineError> {
    let name = dir.file_name().map_or_else(|| "bundle".to_owned(), |name| name.to_string_lossy().into_owned());
    let (built, root_edits) = spec(store, image, options, devices, given, host, &name)?;
    let write = |source| EngineError::Write { path: dir.to_owned(), source };
    fs::DirBuilder::new().mode(0o700).create(dir).map_err(write)?;
    let fill = || {
        let root = dir.join("rootfs");
        fs::DirBuilder::new().mode(0o755).create(&root).map_err(write)?;
        rootfs::copy_flat(&Layers::load(store, &image.layers)?, &root)?;
        rootfs::preflight(&root)?;
        let volumes: Vec<_> = built.image_volumes.iter().map(|volume| in_words(&volume.destination)).collect();
        rootfs::prepare(&root, &in_words(&built.working_dir), &volumes)?;
        rootfs::apply(&root, &root_edits)?;
        write_spec(&dir.join("config.json"), &built)
    };
    match fill() {
        Ok(()) => Ok(built.warnings),
        Err(error) => {
            drop(fs::remove_dir_all(dir));
            Err(error)
        }
    }
}

fn build(
    store: &Store,
    image: &ReadyImage,
    options: &Options,
    paths: &Paths,
    host: &HostFacts,
) -> Result<spec::Built, EngineError> {
    let view = View::open(&Layers::load(store, &image.layers)?)?;
    let read = |path| -> Result<Option<String>, EngineError> {
        let bytes = view.read_file(path, MAX_IDENTITY_FILE_BYTES as u64)?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    };
    let (passwd, group) = (read("/etc/passwd")?, read("/etc/group")?);
    let files = ImageFiles { passwd: passwd.as_deref(), group: group.as_deref() };
    let mut options = options.clone();
    if options.security.privileged {
        let given: Vec<PathBuf> = options.edits.devices.iter().map(|device| device.path.clone()).collect();
        options.edits.devices.extend(host_devices().into_iter().filter(|device| !given.contains(&device.path)));
    }
    Ok(spec::build(&image.image.config, &options, host, &files, paths)?)
}

/// Directories of this machine that `-v` names are made when they are missing, as docker does.
fn make_sources(mounts: &[MountSetting]) -> Result<(), EngineError> {
    for mount in mounts {
        let MountSetting::Bind(bind) = mount else { continue };
        match (bind.source().exists(), bind.creates_source()) {
            (true, _) => {}
            (false, true) => fs::create_dir_all(bind.source())
                .map_err(|source| EngineError::Write { path: bind.source().to_owned(), source })?,
            (false, false) => return Err(EngineError::NoMountSource { path: bind.source().to_owned() }),
        }
    }
    Ok(())
}

/// A path that came out of a string.
fn in_words(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn write_spec(path: &Path, built: &spec::Built) -> Result<(), EngineError> {
    let json = serde_json::to_vec(&built.spec).unwrap_or_default();
    fs::write(path, json).map_err(|source| EngineError::Write { path: path.to_owned(), source })
}
