//! From what was found and chosen to what a container is given. Pure.
//!
//! Libraries go to one directory of ours, programs to another and to `/usr/bin`, everything else to where it is expected. All
//! files are mounted read-only, from paths without links. Each of them leaves a line for `gpu explain`, so that what is shown is
//! what is done.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::explain::{ExplainLine, Section};
use super::files::{Bits, DriverFile, DriverFiles, FileKind, Rule};
use super::proc_view::ProcView;
use super::{Capabilities, Capability, ChosenGpu};
use crate::rootfs::{RootEdits, RootFile, RootLink};
use crate::spec::{Device, EditMount, Edits};

/// The one directory that is ours in a container.
pub const DIRECTORY: &str = "/usr/local/nvidia";
const LIBRARIES: &str = "/usr/local/nvidia/lib64";
const LIBRARIES_32: &str = "/usr/local/nvidia/lib32";
const PROGRAMS: &str = "/usr/local/nvidia/bin";
const PATH_PROGRAMS: &str = "/usr/bin";
const GBM: &str = "/usr/local/nvidia/lib64/gbm";
const PROFILE: &str = "/etc/nvidia/nvidia-application-profiles-rc.d/10-container.conf";

const READ_ONLY: &[&str] = &["ro", "nosuid", "nodev", "rbind", "rprivate"];
/// Clients of the multi process service make files of their own in its directory.
const PIPES: &[&str] = &["nosuid", "nodev", "noexec", "rbind", "rprivate"];
const VIEW: &[&str] = &["ro", "nosuid", "nodev", "noexec", "rbind", "rprivate"];

/// A device node for the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// As it will be in the container.
    pub device: Device,
    /// Where this machine has it.
    pub host: PathBuf,
    /// What it is for, in words.
    pub purpose: String,
}

/// Everything that the edits depend on.
#[derive(Debug, Clone, Copy)]
pub struct Ingredients<'a> {
    /// The driver's files on this machine, found for the same capabilities.
    pub files: &'a DriverFiles,
    /// What the run was given.
    pub gpus: &'a [ChosenGpu],
    /// Nodes of those GPUs and of the driver; those that no capability wants are left out here.
    pub nodes: &'a [Node],
    /// What the run may do.
    pub capabilities: &'a Capabilities,
    /// `/proc/driver/nvidia` for this container; `None` under WSL, which has none.
    pub proc_view: Option<&'a ProcView>,
    /// The directory of this machine that the view is written to.
    pub proc_directory: &'a Path,
}

/// What a container is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Injection {
    /// For the runtime specification.
    pub spec: Edits,
    /// For the root file system. Links by `soname` are not among them: who tells the loader makes them, from `libraries`.
    pub root: RootEdits,
    /// Path in the container and the name that programs ask for, of each library.
    pub libraries: Vec<(PathBuf, String)>,
    /// What all of this is, for people.
    pub lines: Vec<ExplainLine>,
}

/// Computes what a container is given.
#[must_use]
pub fn edits(ingredients: &Ingredients<'_>) -> Injection {
    let mut injection = Injection::default();
    gpus(ingredients.gpus, &mut injection);
    devices(ingredients, &mut injection);
    for file in &ingredients.files.found {
        place(file, &mut injection);
    }
    development_links(&mut injection);
    directories(&mut injection);
    environment(ingredients, &mut injection);
    application_profile(ingredients, &mut injection);
    proc_view(ingredients, &mut injection);
    not_given(ingredients.files, &mut injection);
    injection
}

fn gpus(gpus: &[ChosenGpu], injection: &mut Injection) {
    for ChosenGpu { gpu, mig } in gpus {
        let whole = ExplainLine {
            section: Section::Gpus,
            container: gpu.model.clone(),
            host: Some(format!("GPU {} at {}, {}", gpu.index, gpu.pci, gpu.uuid)),
            found: "the driver".to_owned(),
            why: if mig.is_empty() { "asked for" } else { "a part of it is asked for" }.to_owned(),
        };
        injection.lines.push(whole);
        injection.lines.extend(mig.iter().map(|device| ExplainLine {
            section: Section::Gpus,
            container: format!("{} part {}", gpu.model, device.profile),
            host: Some(format!("GPU {}:{}, {}", gpu.index, device.index, device.uuid)),
            found: "the driver".to_owned(),
            why: "asked for".to_owned(),
        }));
    }
}

fn devices(ingredients: &Ingredients<'_>, injection: &mut Injection) {
    let nodes = ingredients.nodes.iter().filter(|node| node_is_wanted(&node.device.path, ingredients.capabilities));
    for Node { device, host, purpose } in nodes {
        injection.lines.push(ExplainLine {
            section: Section::Devices,
            container: device.path.display().to_string(),
            host: Some(host.display().to_string()),
            found: format!("device {}:{}", device.major, device.minor),
            why: purpose.clone(),
        });
        injection.spec.devices.push(device.clone());
    }
}

/// `nvidia-uvm` is CUDA's, whatever asks for memory of the GPU goes through it; `nvidia-modeset` drives screens; `/dev/dri` is
/// rendering. Everything else is every GPU's, or was asked for by itself.
fn node_is_wanted(path: &Path, capabilities: &Capabilities) -> bool {
    let has = |list: &[Capability]| list.iter().any(|capability| capabilities.has(*capability));
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match name {
        "nvidia-uvm" | "nvidia-uvm-tools" => {
            has(&[Capability::Compute, Capability::Video, Capability::Graphics, Capability::Display, Capability::Ngx])
        }
        "nvidia-modeset" => has(&[Capability::Display]),
        _ if path.starts_with("/dev/dri") => has(&[Capability::Graphics, Capability::Display]),
        _ => true,
    }
}

/// Puts one file into the container.
fn place(file: &DriverFile, injection: &mut Injection) {
    match &file.kind {
        FileKind::Library { name, soname, bits } => {
            let directory = if *bits == Bits::B64 { LIBRARIES } else { LIBRARIES_32 };
            let at = Path::new(directory).join(name);
            injection.libraries.push((at.clone(), soname.clone().unwrap_or_else(|| name.clone())));
            mount_file(file, at, Section::Libraries, injection);
        }
        FileKind::Program { name } => {
            mount_file(file, Path::new(PROGRAMS).join(name), Section::Programs, injection);
            mount_file(file, Path::new(PATH_PROGRAMS).join(name), Section::Programs, injection);
        }
        FileKind::Firmware(at) => mount_file(file, at.clone(), Section::Firmware, injection),
        FileKind::Configuration(at) | FileKind::XModule(at) => {
            mount_file(file, at.clone(), Section::Configuration, injection);
        }
        FileKind::Socket(at) => mount_file(file, at.clone(), Section::Sockets, injection),
        FileKind::Pipes(at) => mount_directory(file, at, PIPES, Section::Sockets, injection),
        FileKind::DriverStore(at) => mount_directory(file, at, READ_ONLY, Section::Libraries, injection),
    }
}

fn mount_file(file: &DriverFile, at: PathBuf, section: Section, injection: &mut Injection) {
    injection.lines.push(line(file, &at, section));
    injection.spec.mounts.push(mount(&file.host, &at, READ_ONLY));
    injection.root.mounted_files.push(at);
}

fn mount_directory(file: &DriverFile, at: &Path, options: &[&str], section: Section, injection: &mut Injection) {
    injection.lines.push(line(file, at, section));
    injection.spec.mounts.push(mount(&file.host, at, options));
    injection.root.mounted_directories.push(at.to_owned());
}

fn mount(source: &Path, destination: &Path, options: &[&str]) -> EditMount {
    EditMount {
        source: source.to_owned(),
        destination: destination.to_owned(),
        options: options.iter().map(|&option| option.to_owned()).collect(),
        kind: "bind".to_owned(),
    }
}

fn line(file: &DriverFile, at: &Path, section: Section) -> ExplainLine {
    let found = match file.rule {
        Rule::Manifest => "the driver's list",
        Rule::List => "a known name",
        Rule::VersionSuffix => "the driver's version in its name",
        Rule::Directory => "in the driver's directory",
    };
    ExplainLine {
        section,
        container: at.display().to_string(),
        host: Some(file.host.display().to_string()),
        found: found.to_owned(),
        why: match file.purpose {
            "" => format!("{}: not known to us", file.wanted_by),
            purpose => format!("{}: {purpose}", file.wanted_by),
        },
    }
}

/// Links that programs and loaders ask for beside `soname`: `dlopen("libcuda.so")`, the second name of GLX's library, what
/// libgbm and libvdpau look for.
fn development_links(injection: &mut Injection) {
    let named = |stem: &str| {
        let prefix = format!("{stem}.so");
        let inside = injection.libraries.iter().filter(|(path, _)| path.starts_with(LIBRARIES));
        inside
            .clone()
            .find(|(path, _)| name_of(path).starts_with(&prefix))
            .map(|(path, soname)| (name_of(path), soname))
    };
    let mut links = Vec::new();
    let mut link = |at: String, target: String| links.push(RootLink { path: at.into(), target: target.into() });
    for stem in
        ["libcuda", "libnvidia-ml", "libnvidia-opticalflow", "libvdpau_nvidia", "libnvcuvid", "libnvidia-encode"]
    {
        let name = format!("{stem}.so");
        if let Some((file, soname)) = named(stem).filter(|(file, soname)| *file != name && **soname != name) {
            let target = if soname.as_str() == file { file } else { soname };
            link(format!("{LIBRARIES}/{name}"), target.to_owned());
        }
    }
    if let Some((file, _)) = named("libGLX_nvidia") {
        link(format!("{LIBRARIES}/libGLX_indirect.so.0"), file.to_owned());
    }
    if named("libEGL_nvidia").is_some() && named("libnvidia-allocator").is_some() {
        link(format!("{GBM}/nvidia-drm_gbm.so"), "../libnvidia-allocator.so.1".to_owned());
    }
    injection.root.links = links;
}

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// The directories of ours that something is in.
fn directories(injection: &mut Injection) {
    let links = injection.root.links.iter().map(|link| &link.path);
    let parents = injection.root.mounted_files.iter().chain(links).filter_map(|path| path.parent());
    let used: BTreeSet<&Path> = parents.filter(|parent| parent.starts_with(DIRECTORY)).collect();
    if !used.is_empty() {
        let own = std::iter::once(Path::new(DIRECTORY)).chain(used).map(Path::to_owned);
        injection.root.own_directories = own.collect();
    }
}

fn environment(ingredients: &Ingredients<'_>, injection: &mut Injection) {
    let mut set = |name: &str, value: String, why: &str| {
        injection.lines.push(ExplainLine {
            section: Section::Environment,
            container: format!("{name}={value}"),
            host: None,
            found: "set by dockless".to_owned(),
            why: why.to_owned(),
        });
        injection.spec.env.push((name.to_owned(), value));
    };
    set("NVIDIA_VISIBLE_DEVICES", "void".to_owned(), "so that no other container tool adds GPUs again");
    set("CUDA_DEVICE_ORDER", "PCI_BUS_ID".to_owned(), "CUDA counts the GPUs as nvidia-smi does");
    if ingredients.gpus.iter().any(|chosen| !chosen.mig.is_empty()) {
        let names = ingredients.gpus.iter().flat_map(|ChosenGpu { gpu, mig }| {
            let whole = mig.is_empty().then_some(gpu.uuid.as_str());
            whole.into_iter().chain(mig.iter().map(|device| device.uuid.as_str()))
        });
        let value = names.collect::<Vec<_>>().join(",");
        set("CUDA_VISIBLE_DEVICES", value, "CUDA uses a part of a GPU only when it is named");
    }
    if injection.root.own_directories.iter().any(|directory| directory == Path::new(GBM)) {
        let value =
            format!("{GBM}:/usr/lib/x86_64-linux-gnu/gbm:/usr/lib/aarch64-linux-gnu/gbm:/usr/lib64/gbm:/usr/lib/gbm");
        set("GBM_BACKENDS_PATH", value, "rendering without a screen finds the driver, and the image's own");
    }
}

/// Tells EGL which GPUs it may use, as it asks the kernel for all of them: a mask of minor numbers
/// (libnvidia-container, `nvc_mount.c`).
fn application_profile(ingredients: &Ingredients<'_>, injection: &mut Injection) {
    let graphics = [Capability::Graphics, Capability::Display].iter().any(|one| ingredients.capabilities.has(*one));
    let minors: Option<Vec<u32>> = ingredients.gpus.iter().map(|chosen| chosen.gpu.minor).collect();
    let Some(minors) = minors.filter(|minors| graphics && !minors.is_empty()) else { return };
    let mask = minors.iter().filter_map(|minor| 1_u64.checked_shl(*minor)).fold(0, |mask, bit| mask | bit);
    let content = format!(
        r#"{{"profiles":[{{"name":"_container_","settings":["EGLVisibleDGPUDevices",{mask:#x}]}}],"rules":[{{"pattern":[],"profile":"_container_"}}]}}"#
    );
    injection.root.files.push(RootFile { path: PROFILE.into(), content: content.into_bytes(), mode: 0o644 });
    injection.lines.push(ExplainLine {
        section: Section::Configuration,
        container: PROFILE.to_owned(),
        host: None,
        found: "written by dockless".to_owned(),
        why: "EGL uses the chosen GPUs only".to_owned(),
    });
}

fn proc_view(ingredients: &Ingredients<'_>, injection: &mut Injection) {
    let Some(view) = ingredients.proc_view.filter(|view| !view.files.is_empty()) else { return };
    let (destination, source) = view.mount(ingredients.proc_directory);
    injection.spec.mounts.push(mount(&source, &destination, VIEW));
    injection.lines.extend(view.files.keys().map(|name| ExplainLine {
        section: Section::ProcView,
        container: Path::new("/proc/driver/nvidia").join(name).display().to_string(),
        host: None,
        found: "copied for this run".to_owned(),
        why: view_purpose(name).to_owned(),
    }));
}

fn view_purpose(name: &Path) -> &'static str {
    if name == Path::new("params") {
        "tells the driver's libraries not to make device nodes"
    } else if name.starts_with("gpus") {
        "a chosen GPU; the others are not to be seen"
    } else if name.starts_with("capabilities") {
        "lets CUDA find the part of the GPU"
    } else {
        "what the driver says about itself"
    }
}

fn not_given(files: &DriverFiles, injection: &mut Injection) {
    // A file that two capabilities miss is one.
    let missing: BTreeMap<&str, _> = files.missing.iter().map(|file| (file.name.as_str(), file)).collect();
    injection.lines.extend(missing.values().map(|file| ExplainLine {
        section: Section::Missing,
        container: file.name.clone(),
        host: None,
        found: if file.needed { "needed" } else { "optional" }.to_owned(),
        why: format!("{} ({})", file.meaning, file.wanted_by),
    }));
    injection.lines.extend(files.withheld.iter().map(|file| ExplainLine {
        section: Section::Withheld,
        container: file.seen.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        host: Some(file.seen.display().to_string()),
        found: "a known name".to_owned(),
        why: file.why.to_owned(),
    }));
}

#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;
