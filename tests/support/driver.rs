//! Made-up NVIDIA drivers: a directory that looks to us as the root of a machine with the bare driver does.
//!
//! Libraries are real ELF files with the right `DT_SONAME`; `libcuda` answers `cuInit`. Nodes are real nodes with the driver's
//! majors, which cannot be opened for want of a driver behind them. `/proc` and `/sys` have the driver's own format. Every
//! tree has UUIDs of its own, because leases hold for the whole machine.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::id;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use nix::sys::stat::{Mode, SFlag, makedev, mknod, umask};
use tempfile::TempDir;

use super::env::tool;

pub(crate) mod nvml;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Model, MiB, compute capability, PCI device id.
type Card = (&'static str, u32, &'static str, u16);
const CARDS: [Card; 6] = [
    ("Tesla K80", 11441, "3.7", 0x102d),
    ("Tesla V100-SXM2-16GB", 16160, "7.0", 0x1db1),
    ("Tesla T4", 15360, "7.5", 0x1eb8),
    ("NVIDIA A100-SXM4-40GB", 40960, "8.0", 0x20b0),
    ("NVIDIA H100 80GB HBM3", 81559, "9.0", 0x2330),
    ("NVIDIA H200", 143_771, "9.0", 0x2335),
];

/// Libraries of every installation: stem, what follows `.so.` in the soname (nothing: the driver's version).
const LIBRARIES: [(&str, &str); 20] = [
    ("libnvidia-cfg", "1"),
    ("libnvidia-ptxjitcompiler", "1"),
    ("libnvidia-nvvm", "4"),
    ("libnvidia-gpucomp", ""),
    ("libnvidia-opencl", "1"),
    ("libnvidia-allocator", "1"),
    ("libcudadebugger", "1"),
    ("libnvidia-encode", "1"),
    ("libnvidia-opticalflow", "1"),
    ("libnvcuvid", "1"),
    ("libnvidia-eglcore", ""),
    ("libnvidia-glcore", ""),
    ("libnvidia-tls", ""),
    ("libnvidia-glsi", ""),
    ("libnvidia-rtcore", ""),
    ("libnvidia-fbc", "1"),
    ("libnvoptix", "1"),
    ("libGLX_nvidia", "0"),
    ("libEGL_nvidia", "0"),
    ("libnvidia-ngx", "1"),
];

/// Of these one is enough, and no container may get them from the host.
const GLVND: [&str; 4] = ["libGL.so.1.7.0", "libEGL.so.1.1.0", "libOpenGL.so.0.0.0", "libOpenCL.so.1.0.0"];

const CUDA: &str = "int cuInit(unsigned flags) { return 0; }\n\
                    int cuDriverGetVersion(int *version) { *version = VERSION; return 0; }\n";

/// Where libraries are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// `/usr/lib/x86_64-linux-gnu`
    Debian,
    /// `/usr/lib/x86_64-linux-gnu/nvidia/current`, with links to it.
    DebianCurrent,
    /// `/usr/lib64`
    Rhel,
    /// `/usr/local/nvidia`, all of it.
    Local,
    /// `/usr/lib/wsl`
    Wsl,
}

/// A driver that is being made up.
#[derive(Debug, Clone)]
pub(crate) struct TreeBuilder {
    layout: Layout,
    version: String,
    other_version: Option<String>,
    gpus: Vec<Card>,
    mig: BTreeMap<usize, Vec<String>>,
    has_cache: bool,
    has_manifest: bool,
    left_out: Vec<String>,
    nvml: nvml::Nvml,
}

/// The root of a made-up driver, removed when dropped.
#[derive(Debug)]
pub(crate) struct DriverTree {
    dir: TempDir,
    uuids: Vec<String>,
    version: String,
    /// Directories of libraries and of programs.
    libraries: &'static str,
    programs: &'static str,
}

impl DriverTree {
    pub(crate) fn debian() -> TreeBuilder {
        TreeBuilder::new(Layout::Debian)
    }

    pub(crate) fn debian_current() -> TreeBuilder {
        TreeBuilder::new(Layout::DebianCurrent)
    }

    pub(crate) fn rhel() -> TreeBuilder {
        TreeBuilder::new(Layout::Rhel)
    }

    pub(crate) fn local() -> TreeBuilder {
        TreeBuilder::new(Layout::Local)
    }

    pub(crate) fn wsl() -> TreeBuilder {
        TreeBuilder::new(Layout::Wsl)
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The same as a word of a command line.
    pub(crate) fn root(&self) -> &str {
        self.path().to_str().expect("a path in UTF-8")
    }

    /// UUIDs of the GPUs, in the order of their bus.
    pub(crate) fn uuids(&self) -> &[String] {
        &self.uuids
    }

    /// PCI address of a GPU.
    pub(crate) fn address(index: usize) -> String {
        format!("0000:{:02x}:00.0", 0x10 + 16 * index)
    }

    /// UUID of the n-th MIG device of a GPU.
    pub(crate) fn mig_uuid(&self, gpu: usize, device: usize) -> String {
        self.uuids[gpu].replacen("GPU-", "MIG-", 1).replace("-4000-", &format!("-5{device:03}-"))
    }

    /// Writes a file below the root.
    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        write(&self.path().join(path), content.as_ref(), 0o644);
    }
}

impl TreeBuilder {
    fn new(layout: Layout) -> Self {
        Self {
            layout,
            version: "570.86.10".to_owned(),
            other_version: None,
            gpus: vec![CARDS[3]],
            mig: BTreeMap::new(),
            has_cache: true,
            has_manifest: false,
            left_out: Vec::new(),
            nvml: nvml::Nvml::Empty,
        }
    }

    /// These models, by any part of their name.
    pub(crate) fn gpus(mut self, models: &[&str]) -> Self {
        let card = |model: &&str| *CARDS.iter().find(|card| card.0.contains(*model)).expect("a known model");
        self.gpus = models.iter().map(card).collect();
        self
    }

    pub(crate) fn version(mut self, version: &str) -> Self {
        version.clone_into(&mut self.version);
        self
    }

    /// Libraries of another version stand beside the running one's.
    pub(crate) fn beside(mut self, version: &str) -> Self {
        self.other_version = Some(version.to_owned());
        self
    }

    /// The GPU is partitioned into devices of these profiles; known to NVML alone.
    pub(crate) fn mig(mut self, gpu: usize, profiles: &[&str]) -> Self {
        self.mig.insert(gpu, profiles.iter().map(|&profile| profile.to_owned()).collect());
        self
    }

    /// Without a loader cache.
    pub(crate) fn no_cache(mut self) -> Self {
        self.has_cache = false;
        self
    }

    /// With the list of its files that newer drivers ship.
    pub(crate) fn manifest(mut self) -> Self {
        self.has_manifest = true;
        self
    }

    /// Without anything whose path contains this.
    pub(crate) fn without(mut self, part: &str) -> Self {
        self.left_out.push(part.to_owned());
        self
    }

    pub(crate) fn build(&self) -> DriverTree {
        let dir = tempfile::Builder::new().prefix("dockless-driver-").tempdir().expect("a directory for the driver");
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let uuid = |index| format!("GPU-{:08x}-{number:04x}-4000-8000-{index:012x}", id());
        let tree = DriverTree {
            dir,
            uuids: (0..self.gpus.len()).map(uuid).collect(),
            version: self.version.clone(),
            libraries: self.libraries(),
            programs: self.programs(),
        };
        // Nodes are to have the modes that are asked for.
        let before = umask(Mode::from_bits_truncate(0o022));
        self.proc(&tree);
        self.sys(tree.path());
        self.nodes(tree.path());
        self.files(&tree);
        self.nvml_state(&tree);
        for part in &self.left_out {
            remove_matching(tree.path(), part);
        }
        if self.has_cache {
            let root = tree.path();
            let directory = self.libraries();
            write(&root.join("etc/ld.so.conf"), format!("/{directory}\n").as_bytes(), 0o644);
            tool("ldconfig", ["-X".as_ref(), "-r".as_ref(), root.as_os_str()]);
        }
        umask(before);
        tree
    }

    /// The directory of the 64-bit libraries.
    const fn libraries(&self) -> &'static str {
        match self.layout {
            Layout::Debian => "usr/lib/x86_64-linux-gnu",
            Layout::DebianCurrent => "usr/lib/x86_64-linux-gnu/nvidia/current",
            Layout::Rhel => "usr/lib64",
            Layout::Local => "usr/local/nvidia/lib64",
            Layout::Wsl => "usr/lib/wsl/lib",
        }
    }

    const fn programs(&self) -> &'static str {
        match self.layout {
            Layout::Debian | Layout::DebianCurrent | Layout::Rhel => "usr/bin",
            Layout::Local => "usr/local/nvidia/bin",
            Layout::Wsl => "usr/lib/wsl/lib",
        }
    }

    fn proc(&self, tree: &DriverTree) {
        let proc = tree.path().join("proc");
        write(&proc.join("devices"), PROC_DEVICES.as_bytes(), 0o444);
        if self.layout == Layout::Wsl {
            return;
        }
        let driver = proc.join("driver/nvidia");
        let version = format!(
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Wed Jan  1 00:00:00 UTC 2025\nGCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n",
            self.version
        );
        write(&driver.join("version"), version.as_bytes(), 0o444);
        write(&driver.join("params"), PARAMS.as_bytes(), 0o444);
        write(&driver.join("registry"), b"Binary: \"\"\n", 0o444);
        for (index, ((model, ..), uuid)) in self.gpus.iter().zip(&tree.uuids).enumerate() {
            let address = DriverTree::address(index);
            let information = format!(
                "Model: \t\t {model}\nIRQ:   \t\t {}\nGPU UUID: \t {uuid}\nVideo BIOS: \t 92.00.19.00.01\nBus Type: \t PCIe\n\
                 DMA Size: \t 47 bits\nDMA Mask: \t 0x7fffffffffff\nBus Location: \t {address}\nDevice Minor: \t {}\n\
                 GPU Firmware: \t {}\nGPU Excluded:\t No\n",
                100 + index,
                self.minor(index),
                self.version
            );
            write(&driver.join("gpus").join(&address).join("information"), information.as_bytes(), 0o444);
            write(&driver.join("gpus").join(&address).join("registry"), b"Binary: \"\"\n", 0o444);
        }
        if !self.mig.is_empty() {
            self.capabilities(&proc);
        }
    }

    /// The minors do not follow the bus, as on real machines.
    const fn minor(&self, index: usize) -> usize {
        self.gpus.len() - 1 - index
    }

    /// `/proc/driver/nvidia/capabilities` and `/proc/driver/nvidia-caps`.
    fn capabilities(&self, proc: &Path) {
        let access = |minor: u32| format!("DeviceFileMinor: {minor}\nDeviceFileMode: 292\nDeviceFileModify: 1\n");
        let mig = proc.join("driver/nvidia/capabilities/mig");
        write(&mig.join("config"), access(1).as_bytes(), 0o400);
        write(&mig.join("monitor"), access(2).as_bytes(), 0o444);
        let mut minors = String::from("config 1\nmonitor 2\n");
        let mut next = 3;
        for (gpu, profiles) in &self.mig {
            for device in 0..profiles.len() {
                // Instances are numbered from 7 on when the smallest are made.
                let (instance, minor) = (7 + device, self.minor(*gpu));
                let dir = proc.join(format!("driver/nvidia/capabilities/gpu{minor}/mig/gi{instance}"));
                write(&dir.join("access"), access(next).as_bytes(), 0o444);
                write(&dir.join("ci0/access"), access(next + 1).as_bytes(), 0o444);
                write!(
                    minors,
                    "gpu{minor}/gi{instance}/access {next}\ngpu{minor}/gi{instance}/ci0/access {}\n",
                    next + 1
                )
                .expect("memory");
                next += 2;
            }
        }
        write(&proc.join("driver/nvidia-caps/mig-minors"), minors.as_bytes(), 0o444);
    }

    fn sys(&self, root: &Path) {
        for (index, (.., device)) in self.gpus.iter().enumerate() {
            let dir = root.join("sys/bus/pci/devices").join(DriverTree::address(index));
            write(&dir.join("vendor"), b"0x10de\n", 0o444);
            write(&dir.join("device"), format!("{device:#06x}\n").as_bytes(), 0o444);
            write(&dir.join("class"), b"0x030200\n", 0o444);
            for name in [format!("card{index}"), format!("renderD{}", 128 + index)] {
                fs::create_dir_all(dir.join("drm").join(name)).expect("a directory of the tree");
            }
        }
        // A network card is no GPU.
        let other = root.join("sys/bus/pci/devices/0000:01:00.0");
        write(&other.join("vendor"), b"0x15b3\n", 0o444);
        write(&other.join("class"), b"0x020000\n", 0o444);
    }

    fn nodes(&self, root: &Path) {
        let dev = root.join("dev");
        fs::create_dir_all(&dev).expect("a directory of the tree");
        if self.layout == Layout::Wsl {
            return node(&dev.join("dxg"), 10, 125);
        }
        for (name, major, minor) in [
            ("nvidiactl", 195, 255),
            ("nvidia-modeset", 195, 254),
            ("nvidia-uvm", 511, 0),
            ("nvidia-uvm-tools", 511, 1),
        ] {
            node(&dev.join(name), major, minor);
        }
        for index in 0..self.gpus.len() {
            let minor = u64::try_from(self.minor(index)).expect("a small number");
            node(&dev.join(format!("nvidia{minor}")), 195, minor);
            let index = u64::try_from(index).expect("a small number");
            node(&dev.join(format!("dri/card{index}")), 226, index);
            node(&dev.join(format!("dri/renderD{}", 128 + index)), 226, 128 + index);
        }
        let capabilities: usize = self.mig.values().map(|profiles| 2 * profiles.len()).sum();
        for minor in (1..).take(if capabilities > 0 { 2 + capabilities } else { 0 }) {
            node(&dev.join(format!("nvidia-caps/nvidia-cap{minor}")), 510, minor);
        }
    }

    fn files(&self, tree: &DriverTree) {
        let (root, directory) = (tree.path(), self.libraries());
        for version in self.other_version.iter().chain([&self.version]) {
            self.library(root, directory, "libcuda", "1", version);
            self.library(root, directory, "libnvidia-ml", "1", version);
            for (stem, soname) in LIBRARIES {
                self.library(root, directory, stem, soname, version);
            }
        }
        if self.layout == Layout::Wsl {
            for name in ["libdxcore.so", "libd3d12.so", "libd3d12core.so"] {
                write(&root.join(directory).join(name), &library(name), 0o755);
            }
        }
        for name in GLVND {
            write(&root.join(directory).join(name), &library(name), 0o755);
        }
        if self.layout == Layout::DebianCurrent {
            // Debian's alternatives lead there.
            for name in ["libcuda.so.1", "libnvidia-ml.so.1"] {
                link(&root.join("usr/lib/x86_64-linux-gnu").join(name), &format!("nvidia/current/{name}"));
            }
        }
        let local = self.layout == Layout::Local;
        let (bin, share) = (self.programs(), if local { "usr/local/nvidia/share" } else { "usr/share" });
        self.smi(tree, bin);
        for name in ["nvidia-debugdump", "nvidia-persistenced", "nvidia-cuda-mps-control", "nvidia-cuda-mps-server"] {
            write(&root.join(bin).join(name), b"#!/bin/sh\n", 0o755);
        }
        for path in ["vulkan/icd.d/nvidia_icd.json", "glvnd/egl_vendor.d/10_nvidia.json", "nvidia/nvoptix.bin"] {
            write(&root.join(share).join(path), b"{}\n", 0o644);
        }
        write(&root.join("etc/OpenCL/vendors/nvidia.icd"), b"libnvidia-opencl.so.1\n", 0o644);
        for name in ["gsp_ga10x.bin", "gsp_tu10x.bin"] {
            write(&root.join("lib/firmware/nvidia").join(&self.version).join(name), b"firmware", 0o644);
        }
        if self.has_manifest {
            write(
                &root.join("usr/share/nvidia/files.d/sandboxutils-filelist.json"),
                self.manifest_text().as_bytes(),
                0o644,
            );
        }
    }

    /// A library with its version in the name, and the links that an installer leaves.
    fn library(&self, root: &Path, directory: &str, stem: &str, soname: &str, version: &str) {
        let file = format!("{stem}.so.{version}");
        let soname = format!("{stem}.so.{}", if soname.is_empty() { version } else { soname });
        let content = match (stem, self.nvml_source(root)) {
            ("libcuda", _) => compiled(CUDA, &soname, &["-nostdlib", &format!("-DVERSION={}", cuda_version(version))]),
            ("libnvidia-ml", Some((source, flags))) => {
                compiled(source, &soname, &flags.iter().map(String::as_str).collect::<Vec<_>>())
            }
            _ => library(&soname),
        };
        let directory = root.join(directory);
        // Under WSL the files have no version in their names.
        let file = if self.layout == Layout::Wsl && stem == "libcuda" { "libcuda.so.1.1".to_owned() } else { file };
        write(&directory.join(&file), &content, 0o755);
        if soname != file && version == self.version {
            link(&directory.join(&soname), &file);
        }
    }

    /// Answers the one question that it knows, for whatever columns, as the real one does.
    fn smi(&self, tree: &DriverTree, bin: &str) {
        let mut script = String::from(
            "#!/bin/sh\ncase $1 in --query-gpu=*) columns=$(echo \"${1#*=}\" | tr ,. ' _') ;; *) exit 9 ;; esac\n\
             row() {\n  out=\n  for column in $columns; do\n    eval \"value=\\${$column-[N/A]}\"\n    \
             out=${out:+$out, }$value\n  done\n  echo \"$out\"\n}\n",
        );
        for (index, ((model, mib, capability, _), uuid)) in self.gpus.iter().zip(&tree.uuids).enumerate() {
            write!(
                script,
                "index={index} name='{model}' uuid={uuid} pci_bus_id=0000{} driver_version={} memory_total={mib} \
                 memory_used={} utilization_gpu={} compute_cap={capability} mig_mode_current={}\nrow\n",
                DriverTree::address(index).to_uppercase(),
                self.version,
                index + 1,
                10 * index,
                if self.mig.contains_key(&index) { "Enabled" } else { "'[N/A]'" }
            )
            .expect("memory");
        }
        write(&tree.path().join(bin).join("nvidia-smi"), script.as_bytes(), 0o755);
    }

    fn manifest_text(&self) -> String {
        let entry = |name: String, kind: &str, category: &str| serde_json::json!({ "name": name, "type": kind, "category": [category], "optional": false });
        let version = &self.version;
        let list = [
            entry(format!("libcuda.so.{version}"), "LIB", "compute"),
            entry("libcuda.so.1".to_owned(), "SYMLINK", "compute"),
            entry(format!("libnvidia-ptxjitcompiler.so.{version}"), "LIB", "compute"),
            entry(format!("libnvidia-ml.so.{version}"), "LIB", "utility"),
            entry("nvidia-smi".to_owned(), "BINARY", "utility"),
            entry(format!("libEGL_nvidia.so.{version}"), "LIB", "graphics"),
        ];
        serde_json::to_string_pretty(&list).expect("a list")
    }
}

const PROC_DEVICES: &str = "\
Character devices:
  1 mem
  5 /dev/tty
 10 misc
136 pts
195 nvidia-frontend
226 drm
507 nvidia-caps-imex-channels
508 nvidia-nvlink
510 nvidia-caps
511 nvidia-uvm

Block devices:
  7 loop
259 blkext
";
const PARAMS: &str = "ResmanDebugLevel: 4294967295\nRmLogonRC: 1\nModifyDeviceFiles: 1\nDeviceFileUID: 0\nDeviceFileGID: 0\n\
                      DeviceFileMode: 438\nInitializeSystemMemoryAllocations: 1\n";

/// What `cuDriverGetVersion` says: `12080` for drivers of the branch 570.
fn cuda_version(version: &str) -> String {
    let branch: u32 = version.split('.').next().and_then(|part| part.parse().ok()).expect("a version");
    match branch {
        570.. => "12080",
        550.. => "12040",
        _ => "11040",
    }
    .to_owned()
}

/// A library of this soname that holds nothing: one is compiled, and the name written into it.
fn library(soname: &str) -> Vec<u8> {
    const PLACEHOLDER: &str = "libPLACEHOLDER-PLACEHOLDER-PLACEHOLDER-PLACEHOLDER.so.1";
    static TEMPLATE: OnceLock<Vec<u8>> = OnceLock::new();
    let mut bytes = TEMPLATE.get_or_init(|| compiled("int nothing;\n", PLACEHOLDER, &["-nostdlib"])).clone();
    let place = PLACEHOLDER.as_bytes();
    let at = bytes.windows(place.len()).position(|window| window == place).expect("the name in the file");
    let mut name = soname.as_bytes().to_vec();
    assert!(name.len() <= place.len(), "{soname} is too long");
    name.resize(place.len(), 0);
    bytes[at..at + place.len()].copy_from_slice(&name);
    bytes
}

/// A library made of one source. With `-nostdlib` it needs no other, so that every loader takes it.
fn compiled(source: &str, soname: &str, flags: &[&str]) -> Vec<u8> {
    type Known = Mutex<BTreeMap<(String, String, String), Vec<u8>>>;
    static KNOWN: OnceLock<Known> = OnceLock::new();
    let mut known = KNOWN.get_or_init(Known::default).lock().expect("no test died here");
    let key = (source.to_owned(), soname.to_owned(), flags.join(" "));
    let make = || {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, out) = (dir.path().join("library.c"), dir.path().join("library.so"));
        fs::write(&file, source).expect("a source");
        let named = format!("-Wl,-soname,{soname}");
        let words = ["-shared", "-fPIC", "-O1", &named].into_iter().chain(flags.iter().copied());
        let words = words.map(std::ffi::OsStr::new);
        tool("cc", words.chain(["-o".as_ref(), out.as_os_str(), file.as_os_str()]));
        fs::read(out).expect("a library")
    };
    known.entry(key).or_insert_with(make).clone()
}

fn write(path: &Path, content: &[u8], mode: u32) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("a directory of the tree");
    fs::write(path, content).expect("a file of the tree");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a file of the tree");
}

fn link(path: &Path, target: &str) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("a directory of the tree");
    symlink(target, path).expect("a link of the tree");
}

/// Where nodes may not be made there are no tests that need them.
fn node(path: &Path, major: u64, minor: u64) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("a directory of the tree");
    let made = mknod(path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(major, minor));
    assert!(made.is_ok() || !nix::unistd::geteuid().is_root(), "a node of the tree: {made:?}");
    if made.is_ok() {
        fs::set_permissions(path, fs::Permissions::from_mode(0o666)).expect("a node of the tree");
    }
}

fn remove_matching(dir: &Path, part: &str) {
    for entry in super::env::entries(dir) {
        let is_dir = entry.symlink_metadata().is_ok_and(|entry| entry.is_dir());
        if entry.to_string_lossy().contains(part) {
            drop(if is_dir { fs::remove_dir_all(&entry) } else { fs::remove_file(&entry) });
        } else if is_dir {
            remove_matching(&entry, part);
        }
    }
}

/// The paths of a tree, for tests that compare them.
pub(crate) fn paths(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in super::env::entries(root) {
        if entry.symlink_metadata().is_ok_and(|entry| entry.is_dir()) {
            found.extend(paths(&entry));
        }
        found.push(entry);
    }
    found
}
