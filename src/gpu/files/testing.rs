//! Made-up driver trees for tests: the layout of distributions, with ELF files that hold no code.
//!
//! The files are written byte by byte, so that the tests see the same on every machine.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::{Arch, Bits, DriverFiles, FilesError, Places, find};
use crate::gpu::{Capabilities, Driver, Platform, Roots, Version};

pub(in crate::gpu) const VERSION: &str = "570.86.10";

/// A driver's root, removed when dropped.
pub(in crate::gpu) struct Tree(tempfile::TempDir);

impl Tree {
    pub(in crate::gpu) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Without links, as the paths of what is found are.
    pub(in crate::gpu) fn path(&self) -> PathBuf {
        self.0.path().canonicalize().unwrap()
    }

    pub(in crate::gpu) fn roots(&self) -> Roots {
        let at = |name: &str| self.path().join(name);
        Roots { driver: self.path(), dev: at("dev"), proc: at("proc"), sys: at("sys") }
    }

    pub(in crate::gpu) fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        let at = self.at(path);
        fs::write(&at, content).unwrap();
        fs::set_permissions(&at, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    pub(in crate::gpu) fn link(self, path: &str, target: &str) -> Self {
        symlink(target, self.at(path)).unwrap();
        self
    }

    /// A library with the driver's version in its name, and the link by its soname.
    pub(in crate::gpu) fn library(self, directory: &str, stem: &str, soname: &str) -> Self {
        self.version_of_library(directory, stem, soname, VERSION)
    }

    pub(in crate::gpu) fn version_of_library(self, directory: &str, stem: &str, soname: &str, version: &str) -> Self {
        let name = format!("{stem}.so.{version}");
        let bits = if directory.contains("i386") || directory == "/usr/lib" { Bits::B32 } else { Bits::B64 };
        let tree = self.file(&format!("{directory}/{name}"), elf(bits, soname));
        if name == soname { tree } else { tree.link(&format!("{directory}/{soname}"), &name) }
    }

    fn at(&self, path: &str) -> PathBuf {
        let at = self.path().join(path.strip_prefix('/').unwrap_or(path));
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        at
    }

    /// What every desktop has beside the driver: GLVND and the loaders.
    fn dispatchers(self, directory: &str) -> Self {
        ["libGL.so.1.7.0", "libEGL.so.1.1.0", "libOpenCL.so.1.0.0"]
            .iter()
            .fold(self, |tree, name| tree.file(&format!("{directory}/{name}"), elf(Bits::B64, name)))
    }

    fn libraries(self, directory: &str) -> Self {
        LIBRARIES.iter().fold(self, |tree, (stem, soname)| tree.library(directory, stem, soname))
    }

    /// Debian: `/usr/lib/<triplet>`, with 32-bit libraries, the driver's manifest, and everything for graphics and X.
    pub(in crate::gpu) fn debian() -> Self {
        let lib = "/usr/lib/x86_64-linux-gnu";
        let tree = Self::new().libraries(lib).dispatchers(lib);
        let tree = tree
            .library(&format!("{lib}/vdpau"), "libvdpau_nvidia", "libvdpau_nvidia.so.1")
            .library(lib, "libnvidia-of-tomorrow", "libnvidia-of-tomorrow.so.1")
            .library(lib, "libnvidia-gtk3", "libnvidia-gtk3.so.1")
            .library("/usr/lib/i386-linux-gnu", "libcuda", "libcuda.so.1")
            .library("/usr/lib/i386-linux-gnu", "libnvidia-ml", "libnvidia-ml.so.1")
            .version_of_library(lib, "libnvidia-egl-gbm", "libnvidia-egl-gbm.so.1", "1.1.2")
            .file("/usr/lib/xorg/modules/drivers/nvidia_drv.so", elf(Bits::B64, "nvidia_drv.so"))
            .file(&format!("{lib}/nvidia/xorg/libglxserver_nvidia.so.{VERSION}"), elf(Bits::B64, "libglxserver.so"));
        let tree = [
            "nvidia-smi",
            "nvidia-debugdump",
            "nvidia-persistenced",
            "nvidia-cuda-mps-control",
            "nvidia-cuda-mps-server",
        ]
        .iter()
        .fold(tree, |tree, name| tree.file(&format!("/usr/bin/{name}"), "program"));
        let tree = [
            "etc/OpenCL/vendors/nvidia.icd",
            "usr/share/glvnd/egl_vendor.d/10_nvidia.json",
            "usr/share/egl/egl_external_platform.d/15_nvidia_gbm.json",
            "usr/share/vulkan/icd.d/nvidia_icd.json",
            "usr/share/vulkan/implicit_layer.d/nvidia_layers.json",
            "usr/share/nvidia/nvoptix.bin",
            "usr/share/X11/xorg.conf.d/10-nvidia.conf",
        ]
        .iter()
        .fold(tree, |tree, path| tree.file(path, "{}"));
        tree.firmware().file("usr/share/nvidia/files.d/sandboxutils-filelist.json", MANIFEST)
    }

    /// RHEL with NVIDIA's own packages: `/usr/lib64`, 32-bit libraries in `/usr/lib`, no manifest.
    pub(in crate::gpu) fn rhel() -> Self {
        let tree = Self::new().libraries("/usr/lib64").dispatchers("/usr/lib64").link("/lib64", "usr/lib64");
        tree.library("/usr/lib", "libcuda", "libcuda.so.1")
            .file("/usr/bin/nvidia-smi", "program")
            .file("/usr/bin/nvidia-imex", "program")
            .file("/usr/share/vulkan/icd.d/nvidia_icd.x86_64.json", "{}")
            .firmware()
    }

    /// WSL 2.
    pub(in crate::gpu) fn wsl() -> Self {
        let lib = super::lists::WSL_LIBRARIES;
        let store = "/usr/lib/wsl/drivers/nv_dispi.inf_amd64_0123456789abcdef";
        let tree = Self::new().file(&format!("{lib}/nvidia-smi"), "program");
        let tree = [
            ("libdxcore.so", "libdxcore.so"),
            ("libd3d12.so", "libd3d12.so"),
            ("libcuda.so", "libcuda.so.1"),
            ("libcuda.so.1", "libcuda.so.1"),
            ("libcuda.so.1.1", "libcuda.so.1"),
            ("libnvidia-ml.so.1", "libnvidia-ml.so.1"),
            ("libnvidia-encode.so.1", "libnvidia-encode.so.1"),
            ("libnvdxgdmal.so.1", "libnvdxgdmal.so.1"),
        ]
        .iter()
        .fold(tree, |tree, (name, soname)| tree.file(&format!("{lib}/{name}"), elf(Bits::B64, soname)));
        tree.file(&format!("{store}/libcuda.so.1.1"), elf(Bits::B64, "libcuda.so.1"))
            .file("/usr/lib/wsl/drivers/c_display.inf_amd64_0/other.dll", "")
    }

    fn firmware(self) -> Self {
        let at = format!("/lib/firmware/nvidia/{VERSION}");
        self.file(&format!("{at}/gsp_ga10x.bin"), "").file(&format!("{at}/gsp_tu10x.bin"), "")
    }

    pub(in crate::gpu) fn find(&self, platform: Platform, capabilities: &str) -> DriverFiles {
        self.try_find(platform, capabilities, &[]).unwrap()
    }

    pub(in crate::gpu) fn try_find(
        &self,
        platform: Platform,
        capabilities: &str,
        cache_paths: &[PathBuf],
    ) -> Result<DriverFiles, FilesError> {
        let roots = self.roots();
        let places = Places { roots: &roots, cache_paths, arch: Arch::X86_64, user: 0 };
        let driver = Driver { version: Version::new(VERSION), platform, cuda: None };
        find(&places, &driver, &capabilities.parse::<Capabilities>().unwrap())
    }
}

/// A part of what driver 570 installs.
const LIBRARIES: [(&str, &str); 18] = [
    ("libcuda", "libcuda.so.1"),
    ("libcudadebugger", "libcudadebugger.so.1"),
    ("libnvidia-ptxjitcompiler", "libnvidia-ptxjitcompiler.so.1"),
    ("libnvidia-nvvm", "libnvidia-nvvm.so.4"),
    ("libnvidia-opencl", "libnvidia-opencl.so.1"),
    ("libnvidia-gpucomp", "libnvidia-gpucomp.so.570.86.10"),
    ("libnvidia-allocator", "libnvidia-allocator.so.1"),
    ("libnvidia-ml", "libnvidia-ml.so.1"),
    ("libnvidia-cfg", "libnvidia-cfg.so.1"),
    ("libnvidia-encode", "libnvidia-encode.so.1"),
    ("libnvcuvid", "libnvcuvid.so.1"),
    ("libnvidia-opticalflow", "libnvidia-opticalflow.so.1"),
    ("libGLX_nvidia", "libGLX_nvidia.so.0"),
    ("libEGL_nvidia", "libEGL_nvidia.so.0"),
    ("libnvidia-eglcore", "libnvidia-eglcore.so.570.86.10"),
    ("libnvidia-glcore", "libnvidia-glcore.so.570.86.10"),
    ("libnvidia-vulkan-producer", "libnvidia-vulkan-producer.so"),
    ("libnvidia-ngx", "libnvidia-ngx.so.1"),
];

const MANIFEST: &str = r#"[
    {"name": "firmware/gsp_ga10x.bin", "type": "FIRMWARE", "category": ["firmware"]},
    {"name": "nvidia-modprobe", "type": "MODPROBE", "category": ["modprobe"]},
    {"name": "nvidia-smi", "type": "BINARY", "category": ["nvml"]},
    {"name": "libcuda.so.570.86.10", "type": "LIB", "category": ["cuda", "optix", "vulkan"]},
    {"name": "libcuda.so.1", "type": "SYMLINK", "category": ["cuda"]},
    {"name": "libnvidia-ml.so.570.86.10", "type": "LIB", "category": ["nvml"]},
    {"name": "libnvidia-sandbox-only.so.570.86.10", "type": "LIB", "category": ["cuda"]},
    {"name": "libnvidia-perhaps.so.570.86.10", "type": "LIB", "category": ["cuda"], "optional": true},
    {"name": "libOpenCL.so.1", "type": "LIB", "category": ["opencl"]},
    {"name": "nvidia_icd.json", "type": "JSON", "category": ["vulkan"]}
]"#;

/// A shared library of `x86_64` or `i386` that holds its name and nothing else.
pub(in crate::gpu) fn elf(bits: Bits, soname: &str) -> Vec<u8> {
    let wide = bits == Bits::B64;
    let word = |value: u64| {
        let bytes = value.to_le_bytes();
        if wide { bytes.to_vec() } else { bytes[..4].to_vec() }
    };
    let half = |value: u16| value.to_le_bytes().to_vec();
    let long = |value: u32| value.to_le_bytes().to_vec();
    let (header, segment, entry): (u64, u64, u64) = if wide { (64, 56, 16) } else { (52, 32, 8) };
    let dynamic = header + 2 * segment;
    let strings = dynamic + 4 * entry;
    let table = format!("\0{soname}\0");
    let size = strings + table.len() as u64;

    let mut file = vec![0x7f, b'E', b'L', b'F', if wide { 2 } else { 1 }, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    file.extend([half(3), half(if wide { 62 } else { 3 }), long(1), word(0), word(header), word(0), long(0)].concat());
    let sizes = [header, segment, 2, 0, 0, 0].map(|size| half(u16::try_from(size).unwrap()));
    file.extend(sizes.concat());
    for (kind, offset, length) in [(1_u32, 0, size), (2, dynamic, 4 * entry)] {
        let flags = long(4);
        let middle = [word(offset), word(offset), word(offset), word(length), word(length)].concat();
        let whole = if wide {
            [long(kind), flags, middle, word(8)].concat()
        } else {
            [long(kind), middle, flags, word(8)].concat()
        };
        file.extend(whole);
    }
    for (tag, value) in [(5, strings), (10, table.len() as u64), (14, 1), (0, 0)] {
        file.extend([word(tag), word(value)].concat());
    }
    file.extend(table.as_bytes());
    assert_eq!(file.len() as u64, size);
    file
}

/// The path below the tree, for snapshots.
pub(in crate::gpu) fn relative(tree: &Tree, path: &Path) -> String {
    let root = tree.path();
    path.strip_prefix(&root).map_or_else(|_| path.display().to_string(), |rest| format!("/{}", rest.display()))
}
