//! Device nodes of the driver: which a container needs, by number, and making those that are missing here.
//!
//! Majors come from `/proc/devices`: 195 is NVIDIA's for ever, those of `nvidia-uvm` and `nvidia-caps` are given out when the
//! module is loaded. Nothing makes `/dev/nvidia-uvm` on a machine without X or NVIDIA's own tools until somebody who is root
//! runs a CUDA program. So a node that is missing, or that is left from an earlier load with another major, is made here as the
//! driver's own tool makes it: with mode, owner and group of `/proc/driver/nvidia/params`, unless that says `ModifyDeviceFiles: 0`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{Gid, Uid, chown};

use super::chosen::ChosenGpu;
use super::edits::Node;
use super::inventory::Platform;
use super::process::output;
use super::small_file::{self, MAX_BYTES};
use super::{Capabilities, Capability, Roots, node};
use crate::spec::{Device, DeviceKind};

const ACCESS: &str = "rw";
/// The driver's, as the kernel's list of devices.txt has it.
const NVIDIA_MAJOR: u32 = 195;
const CONTROL_MINOR: u32 = 255;
const MODESET_MINOR: u32 = 254;
const DEFAULT_MODE: u32 = 0o666;
const MODPROBE: &str = "/sbin/modprobe";
/// A module that initialises eight GPUs takes its time.
const MODPROBE_PATIENCE: Duration = Duration::from_secs(60);

/// Why a container cannot be given a device.
#[derive(Debug, thiserror::Error)]
pub enum DevicesError {
    /// The module that belongs to it is not loaded.
    #[error(
        "`{}` is not there, and the kernel's driver has no device for it: {meaning}\nhint: `modprobe {module}`; `dmesg` tells why it does not load",
        path.display()
    )]
    NoModule {
        /// The node.
        path: PathBuf,
        /// What does not work.
        meaning: &'static str,
        /// The kernel module.
        module: &'static str,
    },
}

/// Nodes that a container is given, and what is to be told about them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nodes {
    /// The nodes.
    pub list: Vec<Node>,
    /// What is not as it should be, in words.
    pub notes: Vec<String>,
    makes: bool,
}

/// Who may open nodes, as the driver is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Permissions {
    modify: bool,
    mode: u32,
    uid: u32,
    gid: u32,
}

/// Loads the driver's modules if they are not, as NVIDIA's own tools do: before anybody looks what there is. Only for a
/// driver that is this machine's own. Tells what could not be done.
#[must_use]
pub fn load_modules(roots: &Roots, has_devices: bool) -> Vec<String> {
    if *roots != Roots::host() || !has_devices || !nix::unistd::geteuid().is_root() {
        return Vec::new();
    }
    let loaded = |file: &str| roots.proc.join(file).exists();
    let mut modules = Vec::new();
    if !loaded("driver/nvidia/version") {
        modules.push("nvidia");
    }
    if !majors(&roots.proc).contains_key("nvidia-uvm") {
        modules.push("nvidia-uvm");
    }
    modules.into_iter().filter_map(load).collect()
}

fn load(module: &'static str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "there is no other way to load a module with what it depends on")]
    let mut command = Command::new(MODPROBE);
    command.args(["--quiet", module]).env_clear().current_dir("/").stdin(Stdio::null());
    let failed = output(&mut command, "modprobe", MODPROBE_PATIENCE, 4096).err()?;
    Some(format!("the kernel module `{module}` cannot be loaded: {failed}"))
}

/// The nodes for these GPUs. With `makes`, those that this machine lacks are made.
pub fn nodes(
    roots: &Roots,
    platform: Platform,
    gpus: &[ChosenGpu],
    capabilities: &Capabilities,
    makes: bool,
) -> Result<Nodes, DevicesError> {
    let mut nodes = Nodes { makes, ..Nodes::default() };
    if gpus.is_empty() {
        return Ok(nodes);
    }
    if platform == Platform::Wsl {
        nodes.existing(roots, "dxg", "Windows' driver");
        return Ok(nodes);
    }
    let majors = majors(&roots.proc);
    let permissions = permissions(&roots.proc);
    let nvidia = majors.get("nvidia").or_else(|| majors.get("nvidia-frontend")).copied().unwrap_or(NVIDIA_MAJOR);
    let mut driver = |name: &str, major, minor, purpose: &str| {
        nodes.own(roots, permissions, name, (major, minor), purpose);
    };
    driver("nvidiactl", nvidia, CONTROL_MINOR, "control of the driver");
    for ChosenGpu { gpu, .. } in gpus {
        if let Some(minor) = gpu.minor {
            driver(&format!("nvidia{minor}"), nvidia, minor, &format!("GPU {}", gpu.index));
        }
    }
    match majors.get("nvidia-uvm") {
        Some(uvm) => {
            driver("nvidia-uvm", *uvm, 0, "memory of programs and GPUs together, for CUDA");
            driver("nvidia-uvm-tools", *uvm, 1, "the same for debuggers and profilers");
        }
        None if capabilities.has(Capability::Compute) => {
            return Err(DevicesError::NoModule {
                path: roots.dev.join("nvidia-uvm"),
                meaning: "CUDA programs fail without it",
                module: "nvidia-uvm",
            });
        }
        None => {}
    }
    if capabilities.has(Capability::Display) {
        driver("nvidia-modeset", nvidia, MODESET_MINOR, "screens");
    }
    nodes.of_parts(roots, permissions, majors.get("nvidia-caps").copied(), gpus);
    for ChosenGpu { gpu, .. } in gpus {
        for name in rendering(&roots.sys, &gpu.pci.to_string()) {
            nodes.existing(roots, &format!("dri/{name}"), &format!("rendering on GPU {}", gpu.index));
        }
    }
    nodes.existing(roots, "gdrdrv", "copies between GPU and processor (GDRCopy)");
    Ok(nodes)
}

impl Nodes {
    /// A node that somebody else's driver makes; none when it is not there.
    fn existing(&mut self, roots: &Roots, name: &str, purpose: &str) {
        let host = roots.dev.join(name);
        if let Ok(device) = node::device(&host, &Path::new("/dev").join(name), ACCESS) {
            self.list.push(Node { device, host, purpose: purpose.to_owned() });
        }
    }

    /// A node of the driver's, whose numbers are known.
    fn own(&mut self, roots: &Roots, permissions: Permissions, name: &str, (major, minor): (u32, u32), purpose: &str) {
        let host = roots.dev.join(name);
        let path = Path::new("/dev").join(name);
        let Permissions { mode, uid, gid, .. } = permissions;
        let wanted = Device { path, kind: DeviceKind::Char, major, minor, mode, uid, gid, access: ACCESS.to_owned() };
        let device = match node::device(&host, &wanted.path, ACCESS) {
            Ok(found) if (found.kind, found.major, found.minor) == (DeviceKind::Char, major, minor) => found,
            found => {
                // The container's own node needs no node here, but programs outside do, NVML among them.
                if !self.makes {
                    self.notes.push(format!("`{}` is missing; the first run makes it", host.display()));
                } else if let Err(why) = make(roots, &host, &wanted, permissions, found.is_ok()) {
                    self.notes.push(format!("`{}` is missing and was not made: {why}", host.display()));
                }
                wanted
            }
        };
        self.list.push(Node { device, host, purpose: purpose.to_owned() });
    }

    /// The nodes that let parts of GPUs be used.
    fn of_parts(&mut self, roots: &Roots, permissions: Permissions, major: Option<u32>, gpus: &[ChosenGpu]) {
        let parts = gpus.iter().flat_map(|chosen| chosen.mig.iter().map(move |part| (&chosen.gpu, part)));
        for (gpu, part) in parts {
            let minors = [part.minors.gpu_instance_minor, part.minors.compute_instance_minor];
            for minor in minors.into_iter().flatten() {
                let Some(major) = major else { continue };
                let purpose = format!("part {} of GPU {}", part.profile, gpu.index);
                let name = format!("nvidia-caps/nvidia-cap{minor}");
                if !self.list.iter().any(|known| known.host == roots.dev.join(&name)) {
                    // Everybody may read them: who has the node has the right.
                    self.own(roots, Permissions { mode: 0o444, ..permissions }, &name, (major, minor), &purpose);
                }
            }
            if minors.contains(&None) || major.is_none() {
                self.notes.push(format!(
                    "the driver names no capability file for part {} of GPU {}",
                    part.profile, gpu.index
                ));
            }
        }
    }
}

/// Makes a node here. One with other numbers in its place is of an earlier load of the driver.
fn make(roots: &Roots, host: &Path, wanted: &Device, permissions: Permissions, is_stale: bool) -> Result<(), String> {
    if !permissions.modify {
        return Err("the driver is told to leave device files alone (`ModifyDeviceFiles: 0`)".to_owned());
    }
    let in_words = |errno: Errno| errno.desc().to_owned();
    if is_stale {
        fs::remove_file(host).map_err(|error| error.to_string())?;
    }
    if let Some(parent) = host.parent() {
        fs::create_dir_all(parent).map_err(|error| error.to_string())?;
    }
    let mode = Mode::from_bits_truncate(wanted.mode);
    match mknod(host, SFlag::S_IFCHR, mode, makedev(wanted.major.into(), wanted.minor.into())) {
        // Somebody was faster.
        Err(Errno::EEXIST) => return Ok(()),
        result => result.map_err(in_words)?,
    }
    chown(host, Some(Uid::from_raw(wanted.uid)), Some(Gid::from_raw(wanted.gid))).map_err(in_words)?;
    // The umask has taken from the mode.
    fs::set_permissions(host, std::os::unix::fs::PermissionsExt::from_mode(wanted.mode))
        .map_err(|error| error.to_string())?;
    let by_number = roots.dev.join("char");
    if let (true, Ok(below)) = (by_number.is_dir(), host.strip_prefix(&roots.dev)) {
        let link = by_number.join(format!("{}:{}", wanted.major, wanted.minor));
        // As udev has them; one that is there already is right.
        drop(symlink(Path::new("..").join(below), link));
    }
    Ok(())
}

/// Numbers of character devices by the name of their driver.
fn majors(proc: &Path) -> BTreeMap<String, u32> {
    let text = read(&proc.join("devices"));
    let lines = text.lines().take_while(|line| !line.starts_with("Block"));
    lines
        .filter_map(|line| line.trim().split_once(' '))
        .filter_map(|(n, name)| Some((name.to_owned(), n.parse().ok()?)))
        .collect()
}

fn permissions(proc: &Path) -> Permissions {
    let text = read(&proc.join("driver/nvidia/params"));
    let number = |key: &str| -> Option<u32> {
        text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')?.trim().parse().ok())
    };
    Permissions {
        modify: number("ModifyDeviceFiles") != Some(0),
        mode: number("DeviceFileMode").map_or(DEFAULT_MODE, |mode| mode & 0o777),
        uid: number("DeviceFileUID").unwrap_or(0),
        gid: number("DeviceFileGID").unwrap_or(0),
    }
}

/// Names of the nodes in `/dev/dri` that belong to a PCI address.
fn rendering(sys: &Path, address: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(sys.join("bus/pci/devices").join(address).join("drm")) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.starts_with("card") || name.starts_with("renderD")).collect();
    names.sort();
    names
}

fn read(path: &Path) -> String {
    small_file::read(path, MAX_BYTES).ok().flatten().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::chosen::testing;
    use super::*;
    use crate::gpu::MigMinors;

    const DEVICES: &str = "Character devices:\n  1 mem\n195 nvidia-frontend\n511 nvidia-uvm\n510 nvidia-caps\n\nBlock devices:\n  7 loop\n";

    fn roots(files: &[(&str, &str)]) -> (tempfile::TempDir, Roots) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let at = |name: &str| dir.path().join(name);
        let roots = Roots { driver: dir.path().to_owned(), dev: at("dev"), proc: at("proc"), sys: at("sys") };
        (dir, roots)
    }

    fn whole(index: u32) -> ChosenGpu {
        ChosenGpu { gpu: testing::gpu(index, "Tesla T4", 15360), mig: Vec::new() }
    }

    fn described(nodes: &Nodes) -> Vec<String> {
        let word = |node: &Node| {
            let Device { path, major, minor, mode, gid, .. } = &node.device;
            format!("{} {major}:{minor} {mode:o} {gid}", path.display())
        };
        nodes.list.iter().map(word).collect()
    }

    #[test]
    fn numbers_and_modes_are_the_drivers() {
        let params = "ModifyDeviceFiles: 1\nDeviceFileUID: 0\nDeviceFileGID: 44\nDeviceFileMode: 432\n";
        let (dir, roots) =
            roots(&[("proc/devices", DEVICES), ("proc/driver/nvidia/params", params), ("dev/char/x", "")]);
        let found = nodes(&roots, Platform::Linux, &[whole(3)], &Capabilities::all(), true).unwrap();
        assert_eq!(
            described(&found),
            [
                "/dev/nvidiactl 195:255 660 44",
                "/dev/nvidia3 195:3 660 44",
                "/dev/nvidia-uvm 511:0 660 44",
                "/dev/nvidia-uvm-tools 511:1 660 44",
                "/dev/nvidia-modeset 195:254 660 44"
            ]
        );
        if nix::unistd::geteuid().is_root() {
            assert_eq!(found.notes, [""; 0]);
            let made = node::device(&roots.dev.join("nvidia3"), Path::new("/dev/x"), "rw").unwrap();
            assert_eq!((made.major, made.minor, made.mode, made.gid), (195, 3, 0o660, 44));
            assert_eq!(fs::read_link(dir.path().join("dev/char/511:0")).unwrap(), Path::new("../nvidia-uvm"));
            // Those that are there stay as they are.
            fs::set_permissions(roots.dev.join("nvidia3"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
                .unwrap();
            let again = nodes(&roots, Platform::Linux, &[whole(3)], &Capabilities::default(), true).unwrap();
            assert_eq!(described(&again)[1], "/dev/nvidia3 195:3 600 44");
            // After a new load the major is another, and the old node would open something else.
            fs::write(roots.proc.join("devices"), DEVICES.replace("511", "236")).unwrap();
            let again = nodes(&roots, Platform::Linux, &[whole(3)], &Capabilities::default(), true).unwrap();
            assert_eq!(described(&again)[2], "/dev/nvidia-uvm 236:0 660 44");
            assert_eq!(node::device(&roots.dev.join("nvidia-uvm"), Path::new("/dev/x"), "rw").unwrap().major, 236);
        }
    }

    #[test]
    fn device_files_are_left_alone_when_the_driver_says_so() {
        let (_dir, roots) =
            roots(&[("proc/devices", DEVICES), ("proc/driver/nvidia/params", "ModifyDeviceFiles: 0\n")]);
        let found = nodes(&roots, Platform::Linux, &[whole(0)], &Capabilities::default(), true).unwrap();
        assert_eq!(found.list.len(), 4, "the container gets its nodes in any case");
        assert!(found.notes[0].contains("ModifyDeviceFiles") && !roots.dev.exists(), "{:?}", found.notes);
    }

    #[test]
    fn cuda_needs_its_module() {
        let devices = DEVICES.replace("511 nvidia-uvm\n", "");
        let (_dir, roots) = roots(&[("proc/devices", &devices)]);
        let error =
            nodes(&roots, Platform::Linux, &[whole(0)], &Capabilities::default(), true).unwrap_err().to_string();
        assert!(error.contains("nvidia-uvm` is not there") && error.contains("hint: `modprobe nvidia-uvm`"), "{error}");
        let utility = Capabilities::of(&[Capability::Utility]);
        assert_eq!(nodes(&roots, Platform::Linux, &[whole(0)], &utility, true).unwrap().list.len(), 2);
        assert!(nodes(&roots, Platform::Linux, &[], &Capabilities::default(), true).unwrap().list.is_empty());
    }

    #[test]
    fn parts_have_nodes_of_their_own() {
        let (_dir, roots) = roots(&[("proc/devices", DEVICES)]);
        let mut gpu = testing::mig(0, &["1g.5gb", "1g.5gb"]);
        let known = MigMinors { gpu_instance_minor: Some(3), compute_instance_minor: Some(4), ..MigMinors::default() };
        gpu.mig[0].minors = known;
        let chosen = ChosenGpu { mig: gpu.mig.clone(), gpu };
        let found = nodes(&roots, Platform::Linux, &[chosen], &Capabilities::default(), true).unwrap();
        let parts: Vec<String> = described(&found).into_iter().filter(|line| line.contains("cap")).collect();
        assert_eq!(parts, ["/dev/nvidia-caps/nvidia-cap3 510:3 444 0", "/dev/nvidia-caps/nvidia-cap4 510:4 444 0"]);
        assert!(found.notes.iter().any(|note| note.contains("no capability file")), "the second is not known");
    }
}
