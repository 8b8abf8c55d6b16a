//! A file for other tools that says of this machine's GPUs what we would do with them.
//!
//! Others run no edits of ours in the root file system, so links and the loader's cache are said otherwise:
//!
//! - Where NVIDIA's hook program is installed, it is named as their own generator names it (`create-symlinks`,
//!   `update-ldcache`): then the libraries stay in their directory and any image finds them.
//! - Where it is not, no hook can be named, and a variable will not do: `LD_LIBRARY_PATH` of a file replaces the image's own,
//!   which breaks images that need theirs. So each library is mounted once more under each of its names, into the directories
//!   that the loaders of Debian and of Red Hat search in any case. A cache is not needed for that.
//!
//! Their newer hooks are not named: a release of the program that does not know one fails, and the container with it.
//!
//! Numbers, owners and modes of nodes are left out: who reads the file takes those of the moment.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::document::{ContainerEdits, DeviceNode, Document, DocumentDevice, Hook, Mount};
use super::error::DocumentProblem;
use super::trust;
use crate::gpu::Inventory;
use crate::rootfs::RootLink;
use crate::spec::{EditMount, Edits};

const KIND: &str = "nvidia.com/gpu";
/// The oldest that knows names which start with a digit and `hostPath`; more readers know it than any newer one.
const VERSION: &str = "0.5.0";
/// With `additionalGids`.
const VERSION_WITH_GROUPS: &str = "0.7.0";
const ALL: &str = "all";
/// Newest form first.
const HOOKS: [&str; 3] =
    ["/usr/bin/nvidia-cdi-hook", "/usr/local/nvidia/toolkit/nvidia-cdi-hook", "/usr/bin/nvidia-ctk"];
/// A chain of links longer than this leads nowhere.
const MAX_LINKS: usize = 8;

/// How a file is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `.json`.
    Json,
    /// `.yaml`.
    Yaml,
}

/// What goes into a file.
#[derive(Debug, Clone, Copy)]
pub struct Output<'a> {
    /// What every device brings: libraries, programs, nodes of all GPUs.
    pub common: &'a Edits,
    /// Links between the files of `common`.
    pub links: &'a [RootLink],
    /// Directories of the container in which `common` puts libraries.
    pub loader_directories: &'a [PathBuf],
    /// Directories that loaders search in any case, for when there is no hook: `/usr/lib64`, `/usr/lib/x86_64-linux-gnu`.
    pub standard_directories: &'a [PathBuf],
    /// Each device by all of its names.
    pub devices: &'a [(Vec<String>, Edits)],
    /// NVIDIA's `nvidia-cdi-hook`, if it is installed.
    pub hook: Option<&'a Path>,
    /// Where this machine's nodes are if not in `/dev`.
    pub dev: &'a Path,
}

/// Why no file can be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A path of this machine that no document can hold.
    #[error("`{}` is not UTF-8, a CDI file cannot name it", .0.display())]
    NotUtf8(PathBuf),
    /// Nothing to write.
    #[error("there is no GPU that a CDI file could describe\nhint: `dockless gpu list` tells why")]
    NoDevices,
    /// What would be written could not be read.
    #[error("the file would not be valid")]
    Invalid(#[from] DocumentProblem),
    /// The document cannot be put into text.
    #[error("the file cannot be put together: {0}")]
    Encode(String),
}

/// The names of each device in the order of the inventory, whole GPUs before the parts of each: index and UUID, and
/// `GPU:PART` and UUID of the parts. A GPU that is partitioned has no name of its own: it can only be used in parts.
#[must_use]
pub fn device_names(inventory: &Inventory) -> Vec<Vec<String>> {
    let of_gpu = |gpu: &crate::gpu::Gpu| -> Vec<Vec<String>> {
        if !gpu.mig_enabled {
            return vec![vec![gpu.index.to_string(), gpu.uuid.to_string()]];
        }
        gpu.mig.iter().map(|part| vec![format!("{}:{}", gpu.index, part.index), part.uuid.to_string()]).collect()
    };
    inventory.gpus.iter().flat_map(of_gpu).collect()
}

/// NVIDIA's hook program, where its packages and its operator install it. One that others could have changed is not named.
#[must_use]
pub fn installed_hook() -> Option<PathBuf> {
    HOOKS.into_iter().map(PathBuf::from).find(|path| trust::program(path).is_ok())
}

/// Directories that the loaders of Red Hat's and of Debian's family search on this machine's architecture.
#[must_use]
pub fn standard_directories() -> [PathBuf; 2] {
    ["/usr/lib64".into(), format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH).into()]
}

/// The text of the file. A device `all` is added that has what all the others have.
pub fn write(output: &Output<'_>, format: Format) -> Result<String, WriteError> {
    if output.devices.iter().all(|(names, _)| names.is_empty()) {
        return Err(WriteError::NoDevices);
    }
    let mut container_edits = edits(output.common, output.dev)?;
    if output.hook.is_some() {
        container_edits.hooks.extend(hooks(output)?);
    } else {
        container_edits.mounts = mounts_by_every_name(output)?;
    }
    let groups = |edits: &Edits| !edits.groups.is_empty();
    let newer = groups(output.common) || output.devices.iter().any(|(_, edits)| groups(edits));
    let document = Document {
        cdi_version: if newer { VERSION_WITH_GROUPS } else { VERSION }.to_owned(),
        kind: KIND.to_owned(),
        devices: devices(output)?,
        container_edits,
        ..Document::default()
    };
    let text = match format {
        Format::Json => {
            serde_json::to_string_pretty(&document).map_err(|error| WriteError::Encode(error.to_string()))?
        }
        Format::Yaml => serde_yaml::to_string(&document).map_err(|error| WriteError::Encode(error.to_string()))?,
    };
    let syntax = if format == Format::Json { super::Syntax::Json } else { super::Syntax::Yaml };
    Document::parse(&text, syntax)?;
    Ok(if text.ends_with('\n') { text } else { text + "\n" })
}

fn devices(output: &Output<'_>) -> Result<Vec<DocumentDevice>, WriteError> {
    let mut devices = Vec::new();
    let mut all = ContainerEdits::default();
    for (names, own) in output.devices {
        let own = edits(own, output.dev)?;
        merge(&mut all, &own);
        let named =
            |name: &String| DocumentDevice { name: name.clone(), container_edits: own.clone(), ..Default::default() };
        devices.extend(names.iter().map(named));
    }
    if !devices.is_empty() && devices.iter().all(|device| device.name != ALL) {
        devices.push(DocumentDevice { name: ALL.to_owned(), container_edits: all, ..Default::default() });
    }
    Ok(devices)
}

fn merge(all: &mut ContainerEdits, one: &ContainerEdits) {
    fn add<T: Clone + PartialEq>(all: &mut Vec<T>, some: &[T]) {
        for item in some {
            if !all.contains(item) {
                all.push(item.clone());
            }
        }
    }
    add(&mut all.env, &one.env);
    add(&mut all.device_nodes, &one.device_nodes);
    add(&mut all.mounts, &one.mounts);
    add(&mut all.hooks, &one.hooks);
    add(&mut all.additional_gids, &one.additional_gids);
}

fn text(path: &Path) -> Result<String, WriteError> {
    path.to_str().map(str::to_owned).ok_or_else(|| WriteError::NotUtf8(path.to_owned()))
}

fn edits(edits: &Edits, dev: &Path) -> Result<ContainerEdits, WriteError> {
    let node = |device: &crate::spec::Device| -> Result<DeviceNode, WriteError> {
        let host = device.path.strip_prefix("/dev").map_or_else(|_| device.path.clone(), |name| dev.join(name));
        Ok(DeviceNode {
            path: text(&device.path)?,
            host_path: if host == device.path { None } else { Some(text(&host)?) },
            permissions: match device.access.as_str() {
                "rwm" => None,
                "" => Some("none".to_owned()),
                some => Some(some.to_owned()),
            },
            ..DeviceNode::default()
        })
    };
    let hook = |hook: &crate::spec::EditHook| -> Result<Hook, WriteError> {
        let (hook_name, path) = (hook.stage.clone(), text(&hook.path)?);
        Ok(Hook { hook_name, path, args: hook.args.clone(), env: hook.env.clone(), timeout: hook.timeout })
    };
    Ok(ContainerEdits {
        env: edits.env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        device_nodes: edits.devices.iter().map(node).collect::<Result<_, _>>()?,
        mounts: edits.mounts.iter().map(|it| mount(it, &it.destination)).collect::<Result<_, _>>()?,
        hooks: edits.hooks.iter().map(hook).collect::<Result<_, _>>()?,
        additional_gids: edits.groups.clone(),
        ..ContainerEdits::default()
    })
}

fn mount(mount: &EditMount, destination: &Path) -> Result<Mount, WriteError> {
    // What not every runtime knows is left out; of single files it says nothing anyway.
    let options = mount.options.iter().filter(|option| *option != "rro").cloned().collect();
    let mount_type = (mount.kind != "bind").then(|| mount.kind.clone());
    Ok(Mount { host_path: text(&mount.source)?, container_path: text(destination)?, options, mount_type })
}

fn hooks(output: &Output<'_>) -> Result<Vec<Hook>, WriteError> {
    let Some(path) = output.hook else { return Ok(Vec::new()) };
    let path = text(path)?;
    let program = Path::new(&path).file_name().and_then(|name| name.to_str()).unwrap_or(&path).to_owned();
    let hook = |command: &str, pairs: Vec<String>, flag: &str| {
        let mut args = vec![program.clone()];
        if program == "nvidia-ctk" {
            args.push("hook".to_owned());
        }
        args.push(command.to_owned());
        args.extend(pairs.into_iter().flat_map(|value| [flag.to_owned(), value]));
        Hook { hook_name: "createContainer".to_owned(), path: path.clone(), args, ..Hook::default() }
    };
    let mut links = Vec::new();
    for link in output.links {
        links.push(format!("{}::{}", text(&link.target)?, text(&link.path)?));
    }
    let folders = output.loader_directories.iter().map(|directory| text(directory)).collect::<Result<Vec<_>, _>>()?;
    let mut hooks = Vec::new();
    if !links.is_empty() {
        hooks.push(hook("create-symlinks", links, "--link"));
    }
    if !folders.is_empty() {
        hooks.push(hook("update-ldcache", folders, "--folder"));
    }
    Ok(hooks)
}

/// The mounts of `common` with each link as a mount of what it leads to; libraries in the standard directories instead of ours.
fn mounts_by_every_name(output: &Output<'_>) -> Result<Vec<Mount>, WriteError> {
    let mounts = &output.common.mounts;
    let linked =
        output.links.iter().filter_map(|link| target(output, &link.path).map(|found| (found, link.path.as_path())));
    let named = mounts.iter().map(|it| (it, it.destination.as_path())).chain(linked);
    let mut seen = BTreeSet::new();
    let mut written = Vec::new();
    for (found, path) in named {
        for destination in places(output, path) {
            if seen.insert(destination.clone()) {
                written.push(mount(found, &destination)?);
            }
        }
    }
    written.sort_by_key(|mount| mount.container_path.matches('/').count());
    Ok(written)
}

/// Where a file goes: a library of ours into each standard directory, anything else where it is.
fn places(output: &Output<'_>, path: &Path) -> Vec<PathBuf> {
    let directory = output.loader_directories.iter().find(|directory| path.starts_with(directory));
    match directory.map(|directory| path.strip_prefix(directory)) {
        Some(Ok(name)) if !output.standard_directories.is_empty() => {
            output.standard_directories.iter().map(|standard| standard.join(name)).collect()
        }
        _ => vec![path.to_owned()],
    }
}

/// The mount that a link leads to, over other links.
fn target<'a>(output: &Output<'a>, link: &Path) -> Option<&'a EditMount> {
    let mut path = link.to_owned();
    for _ in 0..MAX_LINKS {
        if let Some(mount) = output.common.mounts.iter().find(|mount| mount.destination == path) {
            return Some(mount);
        }
        let link = output.links.iter().find(|link| link.path == path)?;
        path = lexical(&link.path.parent()?.join(&link.target));
    }
    None
}

fn lexical(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut clean, component| {
        match component {
            std::path::Component::ParentDir => {
                clean.pop();
            }
            std::path::Component::CurDir => {}
            other => clean.push(other),
        }
        clean
    })
}
