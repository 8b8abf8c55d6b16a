//! Devices of a run. GPUs are chosen and leased before the image is fetched; what they and other devices bring is put together
//! when the image is there, because its loaders and its environment have a say in it.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::container::kill_container;
use crate::gpu::cdi::{
    CdiError, DEFAULT_DIRECTORIES, Format, Injected, NativeAction, Output, QualifiedName, Registry, WriteError,
    device_names, installed_hook, standard_directories, write,
};
use crate::gpu::edits::{DIRECTORY, Ingredients, Injection, edits};
use crate::gpu::explain::Report;
use crate::gpu::files::FilesError;
use crate::gpu::ldcache::Entry;
use crate::gpu::lease::{Asking, LeaseError, Leased, Leases, Wait, Waiting, acquire};
use crate::gpu::loader::{ImageLoaders, Library, NATIVE_LOADER, loader_edits, soname};
use crate::gpu::proc_view::{ProcView, ProcViewError};
use crate::gpu::require::RequireError;
use crate::gpu::{
    Capabilities, CapabilityError, Chosen, ChosenGpu, DeviceFlag, DeviceFlagError, DevicesError, DiscoverError, Driver,
    GpuRequest, Grant, HostDevice, Machine, Platform, Roots, SelectError, can_load, compat, driver_files, nodes,
    require, select, wishes,
};
use crate::image::ImageConfig;
use crate::rootfs::{RootEdits, RootfsError, View};
use crate::spec::{Device, EditMount, Edits, EnvSetting, Options};
use crate::store::{RunGpu, RunName};
use crate::supervisor::{GpuWatch, WatchedGpu};
use crate::words::describe;

/// Where the kernel's own `proc(5)` is, which containers get a mount of.
const KERNEL_PROC: &str = "/proc";

/// Devices that a run is to have, and where they are looked for.
#[derive(Debug, Clone)]
pub struct Devices {
    /// NVIDIA's GPUs.
    pub gpus: GpuRequest,
    /// Other runs that say so as well may have the same GPUs.
    pub shared: bool,
    /// How long to wait for GPUs that others hold.
    pub wait: Wait,
    /// Driver capabilities, over what run and image say.
    pub capabilities: Option<String>,
    /// Devices of a CDI specification.
    pub cdi: Vec<QualifiedName>,
    /// Nodes of this machine.
    pub host: Vec<HostDevice>,
    /// Where NVIDIA's driver is.
    pub roots: Roots,
    /// Where CDI specifications are, the last first in rank.
    pub cdi_dirs: Vec<PathBuf>,
    /// What a scheduler grants us.
    pub grant: Grant,
}

/// Where GPUs are leased, unless the caller has a reason to do it elsewhere: one place for all stores of a machine.
pub const LEASE_DIR: &str = "/run/dockless/gpus";

/// Why a run cannot have its devices.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
#[expect(missing_docs, reason = "each is the error of the module that it is named after")]
pub enum DeviceError {
    Discover(#[from] DiscoverError),
    Select(#[from] SelectError),
    Lease(#[from] LeaseError),
    Files(#[from] FilesError),
    Nodes(#[from] DevicesError),
    ProcView(#[from] ProcViewError),
    Require(#[from] RequireError),
    Capability(#[from] CapabilityError),
    Cdi(#[from] CdiError),
    Write(#[from] WriteError),
    Flag(#[from] DeviceFlagError),
    Rootfs(#[from] RootfsError),
}

impl DeviceError {
    /// What is missing, in words without a hint, when the machine does not have the GPUs or others hold them.
    pub(super) fn unmet(&self) -> Option<String> {
        let is_unmet = match self {
            Self::Lease(error) => {
                matches!(error, LeaseError::Select(_) | LeaseError::Waited { .. } | LeaseError::InLine { .. })
            }
            _ => false,
        };
        is_unmet.then(|| without_hint(&describe(self)))
    }
}

fn without_hint(text: &str) -> String {
    text.split("\nhint:").next().unwrap_or_default().to_owned()
}

impl Default for Devices {
    /// None.
    fn default() -> Self {
        Self {
            gpus: GpuRequest::none(),
            shared: false,
            wait: Wait::No,
            capabilities: None,
            cdi: Vec::new(),
            host: Vec::new(),
            roots: Roots::host(),
            cdi_dirs: DEFAULT_DIRECTORIES.map(PathBuf::from).to_vec(),
            grant: Grant::everything(),
        }
    }
}

impl Devices {
    /// Whether it is more than NVIDIA's GPUs.
    pub(super) fn has_others(&self) -> bool {
        !(self.cdi.is_empty() && self.host.is_empty())
    }

    /// Sorts what `--device` names.
    pub fn add(&mut self, flag: DeviceFlag) {
        match flag {
            DeviceFlag::Cdi(name) => self.cdi.push(name),
            DeviceFlag::Host(device) => self.host.push(device),
        }
    }
}

/// GPUs that a run has, while it is being set up.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) machine: Machine,
    pub(super) chosen: Vec<Chosen>,
    pub(super) leases: Option<Leases>,
}

impl Given {
    /// How the supervisor keeps an eye on them.
    pub(super) fn watch(&self, devices: &Devices) -> Option<GpuWatch> {
        let gpu = |chosen: &Chosen| WatchedGpu {
            uuid: chosen.uuid().clone(),
            pci: chosen.gpu().pci,
            gpu_instance: match chosen {
                Chosen::Gpu(_) => None,
                Chosen::Mig { device, .. } => Some(device.minors.gpu_instance),
            },
            model: chosen.gpu().model.clone(),
        };
        (!self.chosen.is_empty()).then(|| GpuWatch {
            library: self.machine.nvml.clone(),
            kernel_log: devices.roots.dev.join("kmsg"),
            gpus: self.chosen.iter().map(gpu).collect(),
        })
    }

    /// As records have them.
    pub(super) fn recorded(&self, shared: bool) -> Vec<RunGpu> {
        let gpu = |chosen: &Chosen| {
            let model = match chosen {
                Chosen::Gpu(gpu) => gpu.model.clone(),
                Chosen::Mig { gpu, device } => format!("{} {}", gpu.model, device.profile),
            };
            RunGpu { uuid: chosen.uuid().to_string(), model, shared }
        };
        self.chosen.iter().map(gpu).collect()
    }
}

/// Chooses GPUs without taking them, for a specification that nobody runs here.
pub(super) fn choose(devices: &Devices) -> Result<Given, DeviceError> {
    if devices.gpus.is_none() {
        return Ok(Given::default());
    }
    let machine = Machine::look(&devices.roots)?.fitting()?;
    let chosen = select(&devices.gpus, &machine.inventory, &devices.grant, &[])?;
    Ok(Given { machine, chosen, leases: None })
}

/// Who takes GPUs, and where that is noted.
#[derive(Debug, Clone)]
pub(super) struct Taker {
    pub(super) devices: Devices,
    pub(super) lease_dir: PathBuf,
    pub(super) run: RunName,
    pub(super) id: String,
    pub(super) store: PathBuf,
    pub(super) since: String,
}

impl Taker {
    /// Chooses and takes the GPUs of a run. `on_wait` is told while it is waited, and can end that.
    pub(super) fn take(&self, on_wait: impl FnMut(&Waiting) -> ControlFlow<()>) -> Result<Given, DeviceError> {
        let machine = Machine::look(&self.devices.roots)?.fitting()?;
        let asking = Asking {
            request: &self.devices.gpus,
            inventory: &machine.inventory,
            grant: &self.devices.grant,
            dir: &self.lease_dir,
            run: &self.run,
            store: &self.store,
            id: &self.id,
            since: &self.since,
            shared: self.devices.shared,
        };
        let Leased { chosen, mut leases } = acquire(&asking, self.devices.wait, on_wait)?;
        if let Some(leases) = &mut leases {
            end_orphans(leases)?;
        }
        Ok(Given { machine, chosen, leases })
    }
}

/// What is waited for, in words.
pub(super) fn waiting_in_words(waiting: &Waiting) -> String {
    match (&waiting.missing, waiting.ahead) {
        (Some(missing), _) => format!("waiting for GPUs: {}", without_hint(&describe(missing))),
        (None, 1) => "waiting for GPUs: 1 run waits in front of this one".to_owned(),
        (None, ahead) => format!("waiting for GPUs: {ahead} runs wait in front of this one"),
    }
}

/// Kills what is left of runs that had one of these GPUs and whose supervisor was killed: a workload that has cleared its
/// death signal may still use it.
fn end_orphans(leases: &mut Leases) -> Result<(), DeviceError> {
    for orphan in leases.orphans() {
        kill_container(&orphan.id);
    }
    Ok(leases.forget_orphans()?)
}

/// All that devices bring into one container.
#[derive(Debug, Clone, Default)]
pub(super) struct Brought {
    pub(super) spec: Edits,
    pub(super) root: RootEdits,
    /// For everyone to see.
    pub(super) warnings: Vec<String>,
    /// For `-v`.
    pub(super) notes: Vec<String>,
}

/// Puts together what the devices bring. `staging` is a directory of the run for files that are mounted, to be made here; a
/// specification that nobody runs here has none, and shows the kernel's own view of the driver.
pub(super) fn bring(
    devices: &Devices,
    given: &Given,
    image: &ImageConfig,
    env: &[EnvSetting],
    view: &View,
    staging: Option<&Path>,
) -> Result<Brought, DeviceError> {
    let files = staging.map_or(Files::None, Files::Written);
    let mut brought = Brought::default();
    let run_env: Vec<String> =
        env.iter().filter_map(|setting| Some(format!("{}={}", setting.name(), setting.value()?))).collect();
    let remark = wishes::visible_devices(!devices.gpus.is_none(), &run_env, &image.env);
    match remark {
        Some(wishes::Remark::Warning(text)) => brought.warnings.push(text),
        Some(wishes::Remark::Note(text)) => brought.notes.push(text),
        None => {}
    }
    brought.warnings.extend(unleased(devices));
    let mut libraries = Vec::new();
    if !given.chosen.is_empty() {
        let both = [image.env.as_slice(), &run_env].concat();
        let gpus = gathered(given);
        brought.notes.extend(require::check(&both, given.machine.inventory.driver.as_ref(), &gpus)?);
        let wish = wishes::capabilities(devices.capabilities.as_deref(), &run_env, &image.env)?;
        brought.warnings.extend(wish.warnings);
        let injection = injection(devices, given, &gpus, &wish.capabilities, files, &mut brought)?;
        libraries = injection.libraries.iter().map(library).collect();
        brought.spec = injection.spec;
        brought.root = injection.root;
        keep_order_of_devices(&mut brought.spec, env);
    }
    let cdi = cdi(devices, &mut brought)?;
    for device in &devices.host {
        brought.spec.devices.extend(device.nodes()?);
    }
    let libraries = [libraries, merge(&mut brought, cdi)].concat();
    keep_one_of_each(&mut brought.spec);
    tell_loaders(given, view, &libraries, &mut brought)?;
    Ok(brought)
}

/// Makes the image's loaders find the libraries, and says when they cannot.
fn tell_loaders(given: &Given, view: &View, libraries: &[Library], brought: &mut Brought) -> Result<(), DeviceError> {
    if libraries.is_empty() {
        return Ok(());
    }
    let driver = given.machine.inventory.driver.as_ref();
    let cuda = libraries.iter().find(|library| library.soname == "libcuda.so.1" && !library.is_32_bit);
    let preferred = match (driver, cuda) {
        (Some(driver), Some(_)) => newer_libraries(driver, view, brought).unwrap_or_else(|error| {
            brought.warnings.push(format!("newer CUDA libraries of the image are left alone: {}", describe(&error)));
            Vec::new()
        }),
        _ => Vec::new(),
    };
    let links = brought.root.links.clone();
    let (mut loader, note) = loader_edits(&ImageLoaders::of(view)?, &preferred, libraries, &links);
    brought.warnings.extend(note);
    brought.root.files.append(&mut loader.files);
    brought.root.links.append(&mut loader.links);
    match cuda {
        Some(cuda) => brought.warnings.extend(loading_problems(cuda, libraries, view, &brought.spec)),
        None => brought.warnings.extend(nameless_cuda(libraries)),
    }
    Ok(())
}

/// Libraries of the image that are made for older drivers and newer than this one (CUDA's forward compatibility).
fn newer_libraries(driver: &Driver, view: &View, brought: &mut Brought) -> Result<Vec<Entry>, RootfsError> {
    let candidates = compat::candidates(view)?;
    if candidates.is_empty() {
        return Ok(Vec::new());
    }
    match compat::decide(compat::Host { driver: Some(&driver.version), cuda: None }, &candidates) {
        compat::Decision::Use { directory, why } => {
            brought.notes.push(why);
            compat::libraries(view, &directory, NATIVE_LOADER)
        }
        compat::Decision::No { why } => {
            brought.notes.push(why);
            Ok(Vec::new())
        }
    }
}

/// Why the driver cannot be loaded in the container: found out by looking, nothing of the image is run.
fn loading_problems(cuda: &Library, libraries: &[Library], view: &View, edits: &Edits) -> Vec<String> {
    let Some(mount) = edits.mounts.iter().find(|mount| mount.destination == cuda.path) else { return Vec::new() };
    let given: Vec<&str> = libraries.iter().map(|library| library.soname.as_str()).collect();
    can_load(&mount.source, view, &given).unwrap_or_else(|error| vec![describe(&error)])
}

/// A file of CUDA's name that does not say itself what it is called: cut short by a full disk, say.
fn nameless_cuda(libraries: &[Library]) -> Option<String> {
    let file = libraries.iter().find(|library| library.soname.starts_with("libcuda.so."))?;
    Some(format!(
        "`{}` is damaged, and no CUDA program will find it\nhint: install NVIDIA's driver anew",
        file.path.display()
    ))
}

/// GPUs that are named as devices: nobody else knows that they are taken.
fn unleased(devices: &Devices) -> impl Iterator<Item = String> {
    let cdi = devices.cdi.iter().filter(|name| name.kind().vendor() == "nvidia.com").map(ToString::to_string);
    let is_gpu = |path: &&Path| path.to_str().is_some_and(|path| path.starts_with("/dev/nvidia"));
    let host = devices.host.iter().map(HostDevice::source).filter(is_gpu).map(|path| path.display().to_string());
    cdi.chain(host).map(|name| {
        format!("`--device {name}` takes no lease: other runs may use that GPU meanwhile\nhint: `--gpus` gives it to this run alone")
    })
}

fn gathered(given: &Given) -> Vec<ChosenGpu> {
    ChosenGpu::gather(given.chosen.iter().map(|chosen| match chosen {
        Chosen::Gpu(gpu) => (gpu.clone(), None),
        Chosen::Mig { gpu, device } => (gpu.clone(), Some(device.clone())),
    }))
}

/// What becomes of the files that are mounted over the kernel's view of the driver.
#[derive(Debug, Clone, Copy)]
enum Files<'a> {
    /// They are left out.
    None,
    /// They are shown as if they were in this directory, and nothing on this machine is changed.
    Shown(&'a Path),
    /// They are written to this directory.
    Written(&'a Path),
}

/// What NVIDIA's driver brings.
fn injection(
    devices: &Devices,
    given: &Given,
    gpus: &[ChosenGpu],
    capabilities: &Capabilities,
    place: Files<'_>,
    brought: &mut Brought,
) -> Result<Injection, DeviceError> {
    let Some(driver) = &given.machine.inventory.driver else { return Ok(Injection::default()) };
    let files = driver_files(&devices.roots, driver, capabilities)?;
    if !matches!(place, Files::Shown(_)) {
        files.check()?;
    }
    brought.notes.extend(files.notes.iter().cloned());
    let makes = matches!(place, Files::Written(_));
    let made = nodes(&devices.roots, driver.platform, gpus, capabilities, makes)?;
    brought.notes.extend(made.notes);
    let directory = match place {
        Files::None => None,
        Files::Shown(directory) | Files::Written(directory) => Some(directory.join("proc")),
    };
    let proc_view = match &directory {
        Some(_) if driver.platform == Platform::Linux => {
            Some(ProcView::read(&devices.roots.proc, Path::new(KERNEL_PROC), gpus)?)
        }
        _ => None,
    };
    if let (Files::Written(_), Some(view), Some(directory)) = (place, &proc_view, &directory) {
        view.write(directory)?;
    }
    Ok(edits(&Ingredients {
        files: &files,
        gpus,
        nodes: &made.list,
        capabilities,
        proc_view: proc_view.as_ref(),
        proc_directory: directory.as_deref().unwrap_or(Path::new("/")),
    }))
}

/// Stands for the directory of a run, as there is none.
const NO_RUN: &str = "/run/dockless/gpu";

/// What a run with these GPUs would be given, and why. Changes nothing.
pub fn explain(devices: &Devices) -> Result<Report, DeviceError> {
    let capabilities = wishes::capabilities(devices.capabilities.as_deref(), &[], &[])?.capabilities;
    let machine = Machine::look(&devices.roots)?;
    let mut notes = machine.inventory.notes.clone();
    let Some(driver) = machine.inventory.driver.as_ref().map(|driver| driver.version.clone()) else {
        notes.push("no NVIDIA driver runs on this machine, so a container can be given no GPU".to_owned());
        return Ok(Report { driver: None, capabilities, entries: Vec::new(), notes });
    };
    let chosen = select(&devices.gpus, &machine.inventory, &devices.grant, &[])?;
    let given = Given { machine, chosen, leases: None };
    let mut brought = Brought::default();
    let place = Files::Shown(Path::new(NO_RUN));
    let injection = injection(devices, &given, &gathered(&given), &capabilities, place, &mut brought)?;
    notes.extend(brought.notes);
    Ok(Report { driver: Some(driver), capabilities, entries: injection.lines, notes })
}

/// Nodes that every GPU needs.
const COMMON_NODES: [&str; 6] = ["nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset", "gdrdrv", "dxg"];

/// A CDI specification of all GPUs, for other container tools.
pub fn cdi_specification(devices: &Devices, format: Format) -> Result<String, DeviceError> {
    let machine = Machine::look(&devices.roots)?;
    let names = device_names(&machine.inventory);
    let mut single: Vec<ChosenGpu> = Vec::new();
    for gpu in &machine.inventory.gpus {
        if gpu.mig_enabled {
            single.extend(gpu.mig.iter().map(|part| ChosenGpu { gpu: gpu.clone(), mig: vec![part.clone()] }));
        } else {
            single.push(ChosenGpu { gpu: gpu.clone(), mig: Vec::new() });
        }
    }
    let given = Given { machine, ..Given::default() };
    let (mut common, mut links, mut per_device) = (Edits::default(), Vec::new(), Vec::new());
    for (names, gpu) in names.into_iter().zip(single) {
        let mut brought = Brought::default();
        let all = Capabilities::all();
        let Injection { spec, root, libraries, .. } =
            injection(devices, &given, &[gpu], &all, Files::None, &mut brought)?;
        let libraries: Vec<Library> = libraries.iter().map(library).collect();
        let (loader, _) = loader_edits(&ImageLoaders::default(), &[], &libraries, &[]);
        links = [root.links, loader.links].concat();
        let is_common = |device: &Device| {
            device.path.file_name().is_some_and(|name| COMMON_NODES.iter().any(|common| name == *common))
        };
        let (shared, mut own): (Vec<Device>, Vec<Device>) = spec.devices.into_iter().partition(is_common);
        if own.is_empty() {
            // Under WSL all GPUs have one node, and a device without any edits is not valid.
            own.clone_from(&shared);
        }
        let (env, own_env) = spec.env.into_iter().partition(|(name, _)| name != "CUDA_VISIBLE_DEVICES");
        common = Edits { devices: shared, env, mounts: spec.mounts, ..Edits::default() };
        per_device.push((names, Edits { devices: own, env: own_env, ..Edits::default() }));
    }
    let directories = ["lib64", "lib32"].map(|name| Path::new(DIRECTORY).join(name));
    let used = |directory: &PathBuf| common.mounts.iter().any(|mount| mount.destination.starts_with(directory));
    let hook = installed_hook();
    let output = Output {
        common: &common,
        links: &links,
        loader_directories: &directories.into_iter().filter(used).collect::<Vec<_>>(),
        standard_directories: &standard_directories(),
        devices: &per_device,
        hook: hook.as_deref(),
        dev: &devices.roots.dev,
    };
    Ok(write(&output, format)?)
}

fn library((path, soname): &(PathBuf, String)) -> Library {
    let is_32_bit = path.parent().is_some_and(|directory| directory.ends_with("lib32"));
    Library { path: path.clone(), soname: soname.clone(), is_32_bit }
}

/// How a run counts its GPUs is its own affair, if it says so.
fn keep_order_of_devices(edits: &mut Edits, env: &[EnvSetting]) {
    const ORDER: &str = "CUDA_DEVICE_ORDER";
    if env.iter().any(|setting| setting.name() == ORDER) {
        edits.env.retain(|(name, _)| name != ORDER);
    }
}

/// Two ways of asking may lead to one node or file, and a node cannot be made twice. Of nodes what was named last stays.
fn keep_one_of_each(edits: &mut Edits) {
    let mut places = BTreeSet::new();
    edits.mounts.retain(|mount| places.insert(mount.destination.clone()));
    places.clear();
    edits.devices.reverse();
    edits.devices.retain(|device| places.insert(device.path.clone()));
    edits.devices.reverse();
}

/// What the devices of CDI specifications bring.
fn cdi(devices: &Devices, brought: &mut Brought) -> Result<Injected, DeviceError> {
    if devices.cdi.is_empty() {
        return Ok(Injected::default());
    }
    let registry = Registry::read(&devices.cdi_dirs);
    brought.warnings.extend(registry.warnings().iter().map(ToString::to_string));
    let injected = registry.resolve(&devices.cdi)?;
    brought.warnings.extend(injected.warnings.iter().cloned());
    Ok(injected)
}

/// Adds what a CDI specification brings, and does what NVIDIA's hooks would do. Returns the libraries for the loader.
fn merge(brought: &mut Brought, cdi: Injected) -> Vec<Library> {
    let Injected { spec, root, actions, .. } = cdi;
    brought.spec.env.extend(spec.env);
    brought.spec.devices.extend(spec.devices);
    brought.spec.groups.extend(spec.groups);
    brought.spec.hooks.extend(spec.hooks);
    brought.root.own_directories.extend(root.own_directories);
    brought.root.mounted_directories.extend(root.mounted_directories);
    brought.root.mounted_files.extend(root.mounted_files);
    brought.root.files.extend(root.files);
    brought.root.links.extend(root.links);
    let mut libraries = Vec::new();
    for action in actions {
        match action {
            NativeAction::LoaderDirectory(directory) | NativeAction::SonameLinks(directory) => {
                libraries.extend(mounted_libraries(&spec.mounts, &directory));
            }
            NativeAction::Link(link) => brought.notes.push(format!(
                "the link `{}` is left out: `/dev` is made anew for every container",
                link.path.display()
            )),
            // The image's newer libraries are looked for in any case; directories of /dev are open to all; what the driver
            // may make in a container it may not open.
            NativeAction::CudaCompat { .. } | NativeAction::Chmod { .. } | NativeAction::HideDeviceFileModification => {
            }
        }
    }
    brought.spec.mounts.extend(spec.mounts);
    libraries.dedup();
    libraries
}

/// Libraries that are mounted into a directory, by the names that are in the files themselves.
fn mounted_libraries(mounts: &[EditMount], directory: &Path) -> Vec<Library> {
    let inside = mounts.iter().filter(|mount| mount.destination.parent() == Some(directory));
    let library = |mount: &EditMount| {
        let (soname, is_32_bit) = soname(&mount.source)?;
        Some(Library { path: mount.destination.clone(), soname, is_32_bit })
    };
    inside.filter_map(library).collect()
}

/// Whether there may be something to say about GPUs that were not asked for.
pub(super) fn image_or_run_names_gpus(image: &ImageConfig, options: &Options) -> bool {
    const VARIABLE: &str = "NVIDIA_VISIBLE_DEVICES";
    let of_image = image.env.iter().any(|entry| entry.split('=').next() == Some(VARIABLE));
    of_image || options.env.iter().any(|setting| setting.name() == VARIABLE)
}
