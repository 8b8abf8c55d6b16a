//! What the driver is made of, by capability, and where distributions put it.
//!
//! Facts of libnvidia-container (`nvc_info.c`), nvidia-container-toolkit 1.20 (`pkg/nvcdi`, `internal/discover`) and of the
//! packages of Debian, Fedora, NixOS, GKE and WSL 2. A driver's own manifest ([`super::manifest`]) goes before these lists.

use crate::gpu::Capability::{self, Compute, Display, Graphics, Ngx, Utility, Video};

/// A library of the driver.
pub(super) struct Library {
    /// Its name up to `.so`.
    pub(super) stem: &'static str,
    /// Which capabilities want it.
    pub(super) wanted_by: &'static [Capability],
    /// What it is for, in words.
    pub(super) purpose: &'static str,
    /// What does not work without it, if people are to be told. Drivers differ in the others.
    pub(super) loss: Option<Loss>,
}

/// What is lost with a missing file.
pub(super) struct Loss {
    /// Whether a run with this capability fails over it.
    pub(super) needed: bool,
    /// In words.
    pub(super) meaning: &'static str,
}

const fn library(stem: &'static str, wanted_by: &'static [Capability], purpose: &'static str) -> Library {
    Library { stem, wanted_by, purpose, loss: None }
}

const fn missed(
    stem: &'static str,
    wanted_by: &'static [Capability],
    purpose: &'static str,
    needed: bool,
    meaning: &'static str,
) -> Library {
    Library { stem, wanted_by, purpose, loss: Some(Loss { needed, meaning }) }
}

/// Shared with the shader compilers of graphics.
const BOTH: &[Capability] = &[Compute, Graphics];

/// In the order in which `gpu explain` shows them. NVENC and NVDEC go through CUDA, so video brings libcuda as well.
pub(super) const LIBRARIES: &[Library] = &[
    missed("libcuda", &[Compute, Video], "CUDA itself", true, "no CUDA program can use a GPU"),
    library("libcudadebugger", &[Compute], "debugging CUDA programs"),
    missed(
        "libnvidia-ptxjitcompiler",
        &[Compute, Video],
        "compiles CUDA code for the GPU",
        false,
        "CUDA code that is not compiled for this GPU cannot run",
    ),
    missed(
        "libnvidia-nvvm",
        &[Compute],
        "compiles and links GPU code at run time",
        false,
        "compiling and linking GPU code at run time may fail",
    ),
    library("libnvidia-nvvm70", &[Compute], "compiles and links GPU code at run time"),
    missed("libnvidia-opencl", &[Compute], "OpenCL", false, "OpenCL programs do not see the GPU"),
    library("libnvidia-gpucomp", BOTH, "compiles GPU code and shaders"),
    library("libnvidia-fatbinaryloader", &[Compute], "loads CUDA code"),
    library("libnvidia-allocator", BOTH, "allocates memory that is shared with the GPU"),
    library("libnvidia-compiler", &[Compute], "compiles OpenCL programs"),
    library("libnvidia-pkcs11", &[Compute], "encryption for confidential computing"),
    library("libnvidia-pkcs11-openssl3", &[Compute], "encryption for confidential computing"),
    library("libnvidia-tileiras", &[Compute], "compiles CUDA code of tiles"),
    missed(
        "libnvidia-ml",
        &[Utility],
        "asking about GPUs (NVML)",
        false,
        "nvidia-smi and everything else that asks NVML does not work",
    ),
    library("libnvidia-cfg", &[Utility], "configuration of GPUs"),
    library("libnvidia-nscq", &[Utility], "asking about NVSwitches"),
    missed("libnvidia-encode", &[Video], "encodes video", false, "video cannot be encoded by the GPU"),
    missed("libnvcuvid", &[Video], "decodes video", false, "video cannot be decoded by the GPU"),
    library("libvdpau_nvidia", &[Video], "decodes video (VDPAU)"),
    library("libnvidia-opticalflow", &[Video], "finds motion between pictures"),
    missed(
        "libGLX_nvidia",
        &[Graphics],
        "OpenGL through X11, and Vulkan",
        false,
        "OpenGL through X11 and Vulkan do not use the GPU",
    ),
    missed(
        "libEGL_nvidia",
        &[Graphics],
        "OpenGL through EGL",
        false,
        "OpenGL without a display (EGL) does not use the GPU",
    ),
    library("libGLESv2_nvidia", &[Graphics], "OpenGL ES 2"),
    library("libGLESv1_CM_nvidia", &[Graphics], "OpenGL ES 1"),
    library("libnvidia-eglcore", &[Graphics], "the core of EGL"),
    library("libnvidia-glcore", &[Graphics], "the core of OpenGL"),
    library("libnvidia-tls", &[Graphics], "storage of threads, for OpenGL"),
    library("libnvidia-glsi", &[Graphics], "OpenGL's way to the system"),
    library("libnvidia-fbc", &[Graphics], "records the screen"),
    library("libnvidia-ifr", &[Graphics], "records OpenGL"),
    library("libnvidia-rtcore", &[Graphics], "ray tracing"),
    library("libnvoptix", &[Graphics], "ray tracing (OptiX)"),
    library("libnvidia-glvkspirv", &[Graphics], "compiles shaders of Vulkan"),
    library("libnvidia-cbl", &[Graphics], "ray tracing of Vulkan"),
    library("libnvidia-vulkan-producer", &[Graphics], "shows pictures of Vulkan"),
    library("libnvidia-vksc-core", &[Graphics], "Vulkan SC"),
    library("libnvidia-present", &[Graphics], "shows pictures of Vulkan"),
    library("libnvidia-egl-gbm", &[Graphics], "EGL without a display server"),
    library("libnvidia-egl-wayland", &[Graphics], "EGL on Wayland"),
    library("libnvidia-egl-wayland2", &[Graphics], "EGL on Wayland"),
    library("libnvidia-egl-xcb", &[Graphics], "EGL on X11"),
    library("libnvidia-egl-xlib", &[Graphics], "EGL on X11"),
    missed("libnvidia-ngx", &[Ngx], "NGX (DLSS)", false, "NGX (DLSS) does not work"),
];

/// Libraries with a version of their own instead of the driver's.
pub(super) const OWN_VERSIONS: &[&str] = &[
    "libnvidia-egl-gbm",
    "libnvidia-egl-wayland",
    "libnvidia-egl-wayland2",
    "libnvidia-egl-xcb",
    "libnvidia-egl-xlib",
    "libnvidia-nvvm70",
];

/// Libraries that are there and not given, and why.
pub(super) const WITHHELD: &[(&str, &str)] = &[
    ("libGL", GLVND),
    ("libGLX", GLVND),
    ("libEGL", GLVND),
    ("libGLESv1_CM", GLVND),
    ("libGLESv2", GLVND),
    ("libOpenGL", GLVND),
    ("libGLdispatch", GLVND),
    (
        "libOpenCL",
        "a loader that images bring themselves; this machine's may need a newer C library than the image has",
    ),
    ("libvdpau", "a loader that images bring themselves; this machine's may need a newer C library than the image has"),
    ("libnvidia-gtk2", "only for the settings window of the desktop"),
    ("libnvidia-gtk3", "only for the settings window of the desktop"),
    ("libnvidia-wayland-client", "only for the settings window of the desktop"),
    ("libnvidia-sandboxutils", "for tools on this machine that set up containers, not for what runs in them"),
];
const GLVND: &str =
    "a dispatcher that images bring themselves; this machine's may need a newer C library than the image has";

/// A program of the driver.
pub(super) struct Program {
    pub(super) name: &'static str,
    pub(super) wanted_by: &'static [Capability],
    /// What it is for, in words.
    pub(super) purpose: &'static str,
    pub(super) loss: Option<Loss>,
}

const fn program(name: &'static str, wanted_by: &'static [Capability], purpose: &'static str) -> Program {
    Program { name, wanted_by, purpose, loss: None }
}

pub(super) const PROGRAMS: &[Program] = &[
    Program {
        name: "nvidia-smi",
        wanted_by: &[Utility],
        purpose: "shows and sets up GPUs",
        loss: Some(Loss { needed: false, meaning: "the command nvidia-smi is not there" }),
    },
    program("nvidia-debugdump", &[Utility], "collects data of a crashed GPU"),
    program("nvidia-persistenced", &[Utility], "keeps GPUs ready"),
    program("nv-fabricmanager", &[Utility], "sets up NVSwitches"),
    program("nvidia-imex", &[Utility], "shares memory between machines"),
    program("nvidia-imex-ctl", &[Utility], "shares memory between machines"),
    program("nvidia-cuda-mps-control", &[Compute], "runs several CUDA programs on one GPU"),
    program("nvidia-cuda-mps-server", &[Compute], "runs several CUDA programs on one GPU"),
    program("nvidia-xconfig", &[Display], "configures the X server"),
];

/// A file of configuration, or of data that a library reads.
pub(super) struct Configuration {
    /// Below `/etc`, `/usr/share` and the like on this machine.
    pub(super) tail: &'static str,
    /// The directory that `tail` lies below in the container.
    pub(super) base: &'static str,
    pub(super) wanted_by: &'static [Capability],
    /// What it is for, in words.
    pub(super) purpose: &'static str,
}

const fn share(tail: &'static str, wanted_by: &'static [Capability], purpose: &'static str) -> Configuration {
    Configuration { tail, base: "/usr/share", wanted_by, purpose }
}

const fn etc(tail: &'static str, wanted_by: &'static [Capability], purpose: &'static str) -> Configuration {
    Configuration { tail, base: "/etc", wanted_by, purpose }
}

pub(super) const CONFIGURATION: &[Configuration] = &[
    etc("OpenCL/vendors/nvidia.icd", &[Compute], "tells OpenCL which library to load"),
    share("glvnd/egl_vendor.d/10_nvidia.json", &[Graphics], "tells EGL which library to load"),
    share("egl/egl_external_platform.d/09_nvidia_wayland2.json", &[Graphics], "tells EGL which library to load"),
    share("egl/egl_external_platform.d/10_nvidia_wayland.json", &[Graphics], "tells EGL which library to load"),
    share("egl/egl_external_platform.d/15_nvidia_gbm.json", &[Graphics], "tells EGL which library to load"),
    share("egl/egl_external_platform.d/20_nvidia_xcb.json", &[Graphics], "tells EGL which library to load"),
    share("egl/egl_external_platform.d/20_nvidia_xlib.json", &[Graphics], "tells EGL which library to load"),
    etc("vulkan/icd.d/nvidia_icd.json", &[Graphics], "tells Vulkan which library to load"),
    etc("vulkan/icd.d/nvidia_icd.x86_64.json", &[Graphics], "tells Vulkan which library to load"),
    etc("vulkan/icd.d/nvidia_icd.aarch64.json", &[Graphics], "tells Vulkan which library to load"),
    etc("vulkan/icd.d/nvidia_layers.json", &[Graphics], "tells Vulkan which library to load"),
    etc("vulkan/implicit_layer.d/nvidia_layers.json", &[Graphics], "tells Vulkan which library to load"),
    share("vulkansc/icd.d/nvidia_icd_vksc.json", &[Graphics], "tells Vulkan which library to load"),
    share("nvidia/nvoptix.bin", &[Graphics], "data of OptiX"),
    share("X11/xorg.conf.d/10-nvidia.conf", &[Display], "configures the X server"),
    share("X11/xorg.conf.d/nvidia-drm-outputclass.conf", &[Display], "configures the X server"),
];

/// Where those are looked for; the last two are NixOS' and GKE's.
pub(super) const CONFIGURATION_DIRECTORIES: &[&str] =
    &["/etc", "/usr/local/share", "/usr/share", "/run/opengl-driver/share", "/home/kubernetes/bin/nvidia"];

/// Modules of the X server, given at the path that they have here, as a configured `ModulePath` may name it.
pub(super) const X_MODULES: &[&str] = &["nvidia_drv.so", "libglxserver_nvidia.so"];

/// Below the directories of libraries, and below `/usr/lib` and `/usr/lib64`.
pub(super) const X_DIRECTORIES: &[&str] = &[
    "nvidia/xorg",
    "xorg/modules/drivers",
    "xorg/modules/extensions",
    "xorg/modules/updates/drivers",
    "xorg/modules/updates/extensions",
    "xorg/modules/extensions/nvidia",
];

/// Sockets and the directory of the multi process service; what each is for.
pub(super) const SOCKETS: &[(&str, &[Capability], &str)] = &[
    ("/run/nvidia-persistenced/socket", &[Utility], "talks to the daemon that keeps GPUs ready"),
    ("/run/nvidia-fabricmanager/socket", &[Compute, Utility], "talks to the manager of the NVSwitches"),
    ("/tmp/nvidia-mps", &[Compute], "lets several CUDA programs share one GPU"),
];

/// Roots of `firmware/` directories, the kernel's order (`drivers/base/firmware_loader`), NixOS' last.
pub(super) const FIRMWARE_DIRECTORIES: &[&str] =
    &["/lib/firmware/updates", "/lib/firmware", "/usr/lib/firmware", "/run/current-system/firmware"];

pub(super) const PROGRAM_DIRECTORIES: &[&str] = &[
    "/usr/bin",
    "/usr/sbin",
    "/bin",
    "/sbin",
    "/usr/local/bin",
    "/usr/lib/nvidia/current",
    "/usr/local/nvidia/bin",
    "/home/kubernetes/bin/nvidia/bin",
    "/var/lib/nvidia/bin",
    "/opt/bin",
    "/run/current-system/sw/bin",
];

/// Where Windows' driver shows under WSL 2.
pub(super) const WSL_LIBRARIES: &str = "/usr/lib/wsl/lib";
/// Where the libraries of [`WSL_LIBRARIES`] look for the rest, by a path that Windows tells them: it must be the same in
/// the container.
pub(super) const WSL_DRIVER_STORES: &str = "/usr/lib/wsl/drivers";

/// Directories of libraries after those of `ld.so.cache`. `multiarch` is Debian's name of the machine.
pub(super) fn library_directories(multiarch: &str, multiarch_32: &str) -> Vec<String> {
    let debian = |triplet: &str| [format!("/usr/lib/{triplet}"), format!("/usr/lib/{triplet}/nvidia/current")];
    let mut directories = debian(multiarch).to_vec();
    directories.extend(
        [
            "/usr/lib64",
            "/usr/lib64/nvidia",
            "/usr/lib/nvidia",
            "/usr/local/nvidia/lib64",
            "/home/kubernetes/bin/nvidia/lib64",
            "/var/lib/nvidia/lib64",
            "/run/opengl-driver/lib",
            "/usr/lib",
        ]
        .map(str::to_owned),
    );
    directories.extend(debian(multiarch_32));
    directories.extend(
        ["/usr/lib32", "/usr/lib/nvidia-32", "/usr/local/nvidia/lib", "/run/opengl-driver-32/lib"].map(str::to_owned),
    );
    directories
}

/// The entry of a file name such as `libcuda.so.1`.
pub(super) fn library_of(stem: &str) -> Option<&'static Library> {
    LIBRARIES.iter().find(|library| library.stem == stem)
}

/// Why a library is not given, if it never is.
pub(super) fn withheld(stem: &str) -> Option<&'static str> {
    WITHHELD.iter().find(|(name, _)| *name == stem).map(|(_, why)| *why)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_name_is_listed_twice_or_given_and_withheld() {
        let mut seen = HashSet::new();
        let given = LIBRARIES.iter().map(|library| library.stem).chain(PROGRAMS.iter().map(|program| program.name));
        for name in given.chain(WITHHELD.iter().map(|(name, _)| *name)) {
            assert!(seen.insert(name), "{name}");
        }
        assert!(OWN_VERSIONS.iter().all(|stem| library_of(stem).is_some()));
    }
}
