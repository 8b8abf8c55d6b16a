//! From what files say to what is done: each edit checked against this machine and against what the runtime can do.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::document::{ContainerEdits, DeviceNode, Hook, IntelRdt, Mount};
use super::error::EditProblem;
use super::hook::{NativeAction, Step, is_runtimes, steps};
use super::trust;
use crate::gpu::node;
use crate::rootfs::{RootEdits, RootFile};
use crate::spec::{
    DeviceKind, EditHook, EditMount, Edits, MAX_ID, MountProblem, MountSetting, SpecError, container_path,
};

/// What the specification means by no permissions at all being named.
const ALL_ACCESS: &str = "rwm";
/// What a bind mount may say and the runtime then does. `private` and `rprivate` are what every mount is.
const BIND_OPTIONS: [&str; 24] = [
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "exec",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "nosuid",
    "private",
    "rbind",
    "relatime",
    "rnodev",
    "rnoexec",
    "rnosuid",
    "ro",
    "rprivate",
    "rro",
    "rw",
    "strictatime",
    "suid",
    "norelatime",
];
const EXPECTED_OPTIONS: &str = "some of `ro`, `rw`, `bind`, `rbind`, `nosuid`, `nodev`, `noexec`, `suid`, `dev`, `exec`, `private`, `rprivate`, `noatime`, `relatime`, `strictatime`";
const STAGES: [&str; 5] = ["createRuntime", "createContainer", "prestart", "poststart", "poststop"];
/// The most of each sort that all chosen devices bring; sixteen partitioned GPUs bring a few hundred.
const MAX_EDITS: usize = 4096;
/// Where the driver reads settings of applications from.
const APPLICATION_PROFILE: &str = "/etc/nvidia/nvidia-application-profiles-rc.d/10-container.conf";

/// All that the chosen devices bring into a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Injected {
    /// For the runtime specification; mounts stand parents first.
    pub spec: Edits,
    /// For the root file system.
    pub root: RootEdits,
    /// What NVIDIA's hooks would do beyond that, in their order and each once.
    pub actions: Vec<NativeAction>,
    /// Nodes for which no file names owner or group. `spec` gives them those of this machine; the interface's own library
    /// gives them to the container's user if that is not root.
    pub nodes_without_owner: Vec<PathBuf>,
    /// What a user should know.
    pub warnings: Vec<String>,
}

/// Edits on their way to [`Injected`]; later ones win where two are about the same thing.
#[derive(Debug, Default)]
pub(super) struct Collector {
    injected: Injected,
    groups: BTreeSet<u32>,
    application_profile: bool,
}

impl Collector {
    pub(super) fn add(&mut self, edits: &ContainerEdits) -> Result<(), EditProblem> {
        if !edits.net_devices.is_empty() {
            return Err(EditProblem::Unsupported("netDevices"));
        }
        if edits.intel_rdt.as_ref().is_some_and(|rdt| *rdt != IntelRdt::default()) {
            return Err(EditProblem::Unsupported("intelRdt"));
        }
        let injected = &self.injected.spec;
        for (what, count) in [
            ("env", injected.env.len() + edits.env.len()),
            ("deviceNodes", injected.devices.len() + edits.device_nodes.len()),
            ("mounts", injected.mounts.len() + edits.mounts.len()),
            ("hooks", injected.hooks.len() + edits.hooks.len()),
            ("additionalGids", self.groups.len() + edits.additional_gids.len()),
        ] {
            if count > MAX_EDITS {
                return Err(EditProblem::TooMany { what, most: MAX_EDITS });
            }
        }
        for text in &edits.env {
            self.variable(text)?;
        }
        for node in &edits.device_nodes {
            self.node(node)?;
        }
        for mount in &edits.mounts {
            self.mount(mount)?;
        }
        for hook in &edits.hooks {
            self.hook(hook)?;
        }
        for group in edits.additional_gids.iter().copied().filter(|group| *group != 0) {
            if group > MAX_ID {
                return Err(EditProblem::Group(group));
            }
            self.groups.insert(group);
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Injected {
        self.injected.spec.mounts.sort_by_key(|mount| mount.destination.components().count());
        self.injected.spec.groups = self.groups.into_iter().collect();
        for mount in &self.injected.spec.mounts {
            let root = &mut self.injected.root;
            if is_runtimes(&mount.destination) {
                continue;
            }
            let directory = mount.kind == "tmpfs" || mount.source.is_dir();
            let places = if directory { &mut root.mounted_directories } else { &mut root.mounted_files };
            places.push(mount.destination.clone());
        }
        if self.application_profile {
            self.injected.root.files.extend(application_profile(&self.injected.spec));
        }
        self.injected
    }

    fn variable(&mut self, text: &str) -> Result<(), EditProblem> {
        let (name, value) = variable(text)?;
        let env = &mut self.injected.spec.env;
        match env.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => value.clone_into(known),
            None => env.push((name.to_owned(), value.to_owned())),
        }
        Ok(())
    }

    fn node(&mut self, node: &DeviceNode) -> Result<(), EditProblem> {
        let path = node::place(&node.path)?;
        let host = node.host_path.as_deref().filter(|text| !text.is_empty()).unwrap_or(&node.path);
        let host = plain("hostPath", host)?;
        let declared = node.node_type.as_deref().filter(|text| !text.is_empty());
        if let Some(declared) = declared.filter(|text| !["c", "u", "b"].contains(text)) {
            return Err(EditProblem::UnknownNodeType { path: node.path.clone(), declared: declared.to_owned() });
        }
        let mut device = node::device(&host, &path, &access(node)?)?;
        if let Some(declared) = declared.filter(|text| (*text == "b") != (device.kind == DeviceKind::Block)) {
            let found = if device.kind == DeviceKind::Block { "block" } else { "character" };
            return Err(EditProblem::NodeType { path: host, found, declared: declared.to_owned() });
        }
        let Injected { spec, nodes_without_owner, .. } = &mut self.injected;
        nodes_without_owner.retain(|known| *known != path);
        if node.uid.is_none() || node.gid.is_none() {
            nodes_without_owner.push(path.clone());
        }
        // Go programs write the type into the mode as well.
        device.mode = node.file_mode.map_or(device.mode, |mode| mode & 0o777);
        device.uid = node.uid.unwrap_or(device.uid);
        device.gid = node.gid.unwrap_or(device.gid);
        for id in [device.uid, device.gid] {
            if id > MAX_ID {
                return Err(EditProblem::Group(id));
            }
        }
        spec.devices.retain(|known| known.path != path);
        spec.devices.push(device);
        Ok(())
    }

    fn mount(&mut self, mount: &Mount) -> Result<(), EditProblem> {
        plain("containerPath", &mount.container_path)?;
        let problem = |problem| EditProblem::Mount { destination: mount.container_path.clone(), problem };
        let destination = container_path(Path::new(&mount.container_path)).map_err(problem)?;
        if let Some(option) = mount.options.iter().find(|option| option.contains(char::is_control)) {
            let option = option.escape_debug().to_string();
            return Err(problem(MountProblem::Unknown { option, expected: EXPECTED_OPTIONS }));
        }
        let binds = mount.options.iter().any(|option| option == "bind" || option == "rbind");
        let made = match mount.mount_type.as_deref().unwrap_or_default() {
            "tmpfs" if !binds => tmpfs(mount, destination)?,
            "" | "none" | "bind" => bind(mount, destination)?,
            _ if binds => bind(mount, destination)?,
            other => return Err(problem(MountProblem::Unsupported(format!("type={}", other.escape_debug())))),
        };
        let mounts = &mut self.injected.spec.mounts;
        mounts.retain(|known| known.destination != made.destination);
        mounts.push(made);
        Ok(())
    }

    fn hook(&mut self, hook: &Hook) -> Result<(), EditProblem> {
        if let Some(steps) = steps(hook)? {
            for step in steps {
                self.step(step);
            }
            return Ok(());
        }
        let hook = foreign(hook)?;
        if !self.injected.spec.hooks.contains(&hook) {
            self.injected.spec.hooks.push(hook);
        }
        Ok(())
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Link(link) => {
                let links = &mut self.injected.root.links;
                links.retain(|known| known.path != link.path);
                links.push(link);
            }
            Step::Action(action) => {
                if !self.injected.actions.contains(&action) {
                    self.injected.actions.push(action);
                }
            }
            Step::ApplicationProfile => self.application_profile = true,
        }
    }
}

fn plain(what: &'static str, text: &str) -> Result<PathBuf, EditProblem> {
    node::plain_path(text).map_err(|problem| EditProblem::Path { what, path: text.to_owned(), problem })
}

fn variable(text: &str) -> Result<(&str, &str), EditProblem> {
    text.split_once('=')
        .filter(|(name, _)| !name.is_empty() && !text.contains('\0'))
        .ok_or_else(|| EditProblem::Env(text.to_owned()))
}

/// What the cgroup allows. `none` is a node that cannot be opened.
fn access(node: &DeviceNode) -> Result<String, EditProblem> {
    let permissions = node.permissions.as_deref().unwrap_or_default();
    match permissions {
        "" => Ok(ALL_ACCESS.to_owned()),
        "none" => Ok(String::new()),
        text if text.bytes().all(|byte| ALL_ACCESS.as_bytes().contains(&byte)) => {
            Ok(ALL_ACCESS.chars().filter(|letter| text.contains(*letter)).collect())
        }
        text => Err(EditProblem::Permissions { path: node.path.clone(), permissions: text.to_owned() }),
    }
}

/// The source is resolved now, so that what is mounted is what was looked at.
fn bind(mount: &Mount, destination: PathBuf) -> Result<EditMount, EditProblem> {
    let missing = |source| EditProblem::Source { path: mount.host_path.clone(), source };
    let source = plain("hostPath", &mount.host_path)?.canonicalize().map_err(missing)?;
    let is_directory = source.metadata().map_err(missing)?.is_dir();
    let mut options = bind_options(&mount.options)
        .map_err(|problem| EditProblem::Mount { destination: mount.container_path.clone(), problem })?;
    let has = |options: &[String], name: &str| options.iter().any(|option| option == name);
    if !has(&options, "bind") && !has(&options, "rbind") {
        options.insert(0, "rbind".to_owned());
    }
    // `ro` alone leaves what is mounted below writable.
    if is_directory && has(&options, "rbind") && has(&options, "ro") && !has(&options, "rro") {
        options.push("rro".to_owned());
    }
    Ok(EditMount { source, destination, options, kind: "bind".to_owned() })
}

fn bind_options(options: &[String]) -> Result<Vec<String>, MountProblem> {
    const KNOWN_ELSEWHERE: [&str; 16] = [
        "shared",
        "rshared",
        "slave",
        "rslave",
        "unbindable",
        "runbindable",
        "sync",
        "async",
        "dirsync",
        "remount",
        "idmap",
        "ridmap",
        "nosymfollow",
        "rnosymfollow",
        "mand",
        "tmpcopyup",
    ];
    for option in options {
        if KNOWN_ELSEWHERE.contains(&option.as_str()) {
            return Err(MountProblem::Unsupported(option.clone()));
        }
        if !BIND_OPTIONS.contains(&option.as_str()) {
            return Err(MountProblem::Unknown {
                option: option.escape_debug().to_string(),
                expected: EXPECTED_OPTIONS,
            });
        }
    }
    for (one, other) in [("ro", "rw"), ("suid", "nosuid"), ("dev", "nodev"), ("exec", "noexec")] {
        if [one, other].iter().all(|name| options.iter().any(|option| option == name)) {
            return Err(MountProblem::Conflict(one.to_owned(), other.to_owned()));
        }
    }
    Ok(options.iter().filter(|option| *option != "defaults").cloned().collect())
}

/// With the options of `--tmpfs`, whose defaults are stricter than the interface's.
fn tmpfs(mount: &Mount, destination: PathBuf) -> Result<EditMount, EditProblem> {
    if mount.container_path.contains(':') {
        let path = mount.container_path.clone();
        return Err(EditProblem::Path { what: "containerPath", path, problem: "holds `:`" });
    }
    let text = format!("{}:{}", mount.container_path, mount.options.join(","));
    let options = match MountSetting::from_tmpfs(&text) {
        Ok(MountSetting::Tmpfs(made)) => made.options().to_vec(),
        Ok(MountSetting::Bind(_) | MountSetting::Image(_)) => return Err(EditProblem::Unsupported("tmpfs")),
        Err(SpecError::Mount { problem, .. }) => {
            return Err(EditProblem::Mount { destination: mount.container_path.clone(), problem });
        }
        Err(other) => return Err(other.into()),
    };
    Ok(EditMount { source: "tmpfs".into(), destination, options, kind: "tmpfs".to_owned() })
}

fn foreign(hook: &Hook) -> Result<EditHook, EditProblem> {
    if !STAGES.contains(&hook.hook_name.as_str()) {
        // It would be looked up in the image and given the image's environment.
        let hint =
            if hook.hook_name == "startContainer" { "; a program of the image is not run as a hook" } else { "" };
        return Err(EditProblem::Stage { path: hook.path.clone(), stage: hook.hook_name.clone(), hint });
    }
    if let Some(seconds) = hook.timeout.filter(|seconds| *seconds < 0) {
        return Err(EditProblem::Timeout { path: hook.path.clone(), seconds });
    }
    if let Some(arg) = hook.args.iter().find(|arg| arg.contains('\0')) {
        let problem = format!("`{}` holds a NUL byte", arg.escape_debug());
        return Err(EditProblem::Argument { command: hook.path.escape_debug().to_string(), problem });
    }
    for text in &hook.env {
        variable(text)?;
    }
    let path = trust::program(&plain("path", &hook.path)?)
        .map_err(|reason| EditProblem::Program { path: hook.path.clone(), reason })?;
    let args = if hook.args.is_empty() { vec![hook.path.clone()] } else { hook.args.clone() };
    // 0 is Go's way to say nothing.
    let timeout = hook.timeout.filter(|seconds| *seconds > 0);
    Ok(EditHook { stage: hook.hook_name.clone(), path, args, env: hook.env.clone(), timeout })
}

/// Tells the driver's EGL which GPUs there are: a mask of the minors of the container's nodes. The form is the driver's.
fn application_profile(edits: &Edits) -> Option<RootFile> {
    let is_gpu = |path: &Path| {
        let number = path.strip_prefix("/dev").ok().and_then(Path::to_str).and_then(|name| name.strip_prefix("nvidia"));
        number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let minors = edits.devices.iter().filter(|device| is_gpu(&device.path) && device.minor < 64).map(|it| it.minor);
    let mask = minors.fold(0_u64, |mask, minor| mask | 1 << minor);
    let content = format!(
        r#"{{"profiles":[{{"name":"_container_","settings":["EGLVisibleDGPUDevices",{mask:#x}]}}],"rules":[{{"pattern":[],"profile":"_container_"}}]}}"#
    );
    (mask != 0).then(|| RootFile { path: APPLICATION_PROFILE.into(), content: content.into_bytes(), mode: 0o444 })
}
