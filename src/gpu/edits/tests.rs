//! What a container is given, by distribution and capability, compared with what NVIDIA's toolkit gives.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::testing::{chosen, mig, node};
use super::*;
use crate::gpu::ChosenGpu;
use crate::gpu::Platform::{self, Linux, Wsl};
use crate::gpu::Version;
use crate::gpu::explain::Report;
use crate::gpu::files::testing::{Tree, VERSION, relative};

fn nodes() -> Vec<Node> {
    vec![
        node("/dev/nvidiactl", 195, 255, "the driver's control device"),
        node("/dev/nvidia0", 195, 0, "GPU 0"),
        node("/dev/nvidia-uvm", 511, 0, "memory shared with the CPU"),
        node("/dev/nvidia-modeset", 195, 254, "screens"),
        node("/dev/dri/renderD128", 226, 128, "rendering on GPU 0"),
    ]
}

fn view() -> ProcView {
    let files = ["params", "version", "gpus/0000:41:00.0/information"].map(|name| (PathBuf::from(name), Vec::new()));
    ProcView { files: files.into(), over_driver: false }
}

fn inject(tree: &Tree, platform: Platform, capabilities: &str, gpus: &[ChosenGpu]) -> Injection {
    let files = tree.find(platform, capabilities);
    let view = view();
    edits(&Ingredients {
        files: &files,
        gpus,
        nodes: &nodes(),
        capabilities: &capabilities.parse().unwrap(),
        proc_view: (platform == Linux).then_some(&view),
        proc_directory: Path::new("/run/dockless/gpu-proc"),
    })
}

/// The same on every machine: paths of the tree are written from its root.
fn shown(tree: &Tree, injection: &Injection) -> Value {
    let Injection { spec, root, libraries, .. } = injection;
    let text = |path: &PathBuf| path.display().to_string();
    let mounts = spec.mounts.iter().map(|mount| {
        let EditMount { source, destination, options, kind } = mount;
        assert_eq!(kind, "bind");
        format!("{} -> {} {}", relative(tree, source), destination.display(), options.join(","))
    });
    json!({
        "env": spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>(),
        "devices": spec.devices.iter().map(|device| text(&device.path)).collect::<Vec<_>>(),
        "mounts": mounts.collect::<Vec<_>>(),
        "own_directories": root.own_directories.iter().map(text).collect::<Vec<_>>(),
        "mounted_directories": root.mounted_directories.iter().map(text).collect::<Vec<_>>(),
        "files": root.files.iter().map(|file| format!("{}: {}", text(&file.path), String::from_utf8_lossy(&file.content))).collect::<Vec<_>>(),
        "links": root.links.iter().map(|link| format!("{} -> {}", text(&link.path), text(&link.target))).collect::<Vec<_>>(),
        "libraries": libraries.iter().map(|(path, soname)| format!("{} {soname}", text(path))).collect::<Vec<_>>(),
    })
}

#[test]
fn debian_by_default() {
    let tree = Tree::debian();
    let injection = inject(&tree, Linux, "compute,utility", &[chosen(0, "0000:41:00.0")]);
    insta::assert_json_snapshot!(shown(&tree, &injection));
}

#[test]
fn debian_with_everything() {
    let tree = Tree::debian();
    let injection = inject(&tree, Linux, "all", &[chosen(0, "0000:41:00.0"), chosen(3, "0000:c1:00.0")]);
    insta::assert_json_snapshot!(shown(&tree, &injection));
}

#[test]
fn rhel_with_graphics() {
    let tree = Tree::rhel();
    let injection = inject(&tree, Linux, "compute,utility,graphics", &[chosen(0, "0000:41:00.0")]);
    insta::assert_json_snapshot!(shown(&tree, &injection));
}

#[test]
fn wsl() {
    let tree = Tree::wsl();
    let mut gpu = chosen(0, "0000:41:00.0");
    gpu.gpu.minor = None;
    let injection = inject(&tree, Wsl, "compute,utility,video", &[gpu]);
    insta::assert_json_snapshot!(shown(&tree, &injection));
}

#[test]
fn a_report_for_people() {
    let tree = Tree::rhel();
    let injection = inject(&tree, Linux, "compute,utility", &[chosen(0, "0000:41:00.0")]);
    let report = Report {
        driver: Some(Version::new(VERSION)),
        capabilities: Capabilities::default(),
        entries: injection.lines,
        notes: vec!["the note".to_owned()],
    };
    let text = report.text();
    // The tree's own path has another length on every machine, and with it the columns.
    let root = tree.path().display().to_string();
    let shrunk: Vec<String> = text
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.split("  ").filter(|word| !word.is_empty()).map(str::trim).collect();
            words.join(" | ").replace(&root, "")
        })
        .collect();
    insta::assert_snapshot!(shrunk.join("\n"));
}

#[test]
fn utility_alone_gets_no_memory_device() {
    let injection = inject(&Tree::debian(), Linux, "utility", &[chosen(0, "0000:41:00.0")]);
    let devices: Vec<_> = injection.spec.devices.iter().map(|device| device.path.display().to_string()).collect();
    assert_eq!(devices, ["/dev/nvidiactl", "/dev/nvidia0"]);
}

#[test]
fn parts_of_gpus_are_named_to_cuda() {
    let part = ChosenGpu { mig: vec![mig(1, 0), mig(2, 0)], ..chosen(0, "0000:41:00.0") };
    let injection = inject(&Tree::rhel(), Linux, "compute", &[part, chosen(1, "0000:c1:00.0")]);
    let value =
        injection.spec.env.iter().find(|(name, _)| name == "CUDA_VISIBLE_DEVICES").map(|(_, value)| value.as_str());
    assert_eq!(
        value,
        Some(
            "MIG-00000000-0000-0000-0000-000000000010,MIG-00000000-0000-0000-0000-000000000020,\
             GPU-00000000-0000-0000-0000-000000000001"
        )
    );
}

#[test]
fn every_mount_has_a_place_and_a_line() {
    let injection = inject(&Tree::debian(), Linux, "all", &[chosen(0, "0000:41:00.0")]);
    let places: BTreeSet<&PathBuf> =
        injection.root.mounted_files.iter().chain(&injection.root.mounted_directories).collect();
    for mount in &injection.spec.mounts {
        assert!(mount.source.is_absolute() && mount.destination.is_absolute(), "{mount:?}");
        assert!(mount.options.iter().any(|option| option == "ro"), "{mount:?}");
        if !mount.destination.starts_with("/proc") {
            assert!(places.contains(&mount.destination), "{mount:?}");
            let at = mount.destination.display().to_string();
            assert_eq!(injection.lines.iter().filter(|line| line.container == at).count(), 1, "{at}");
        }
    }
    assert_eq!(places.len(), injection.spec.mounts.len() - 1, "two mounts at one place");
}

#[test]
fn parts_of_one_gpu_are_gathered() {
    let (first, second) = (chosen(0, "0000:41:00.0").gpu, chosen(1, "0000:c1:00.0").gpu);
    let gathered = ChosenGpu::gather([
        (first.clone(), Some(mig(1, 0))),
        (second.clone(), Some(mig(1, 0))),
        (first.clone(), Some(mig(2, 0))),
        (second.clone(), None),
    ]);
    let expected =
        [ChosenGpu { gpu: first, mig: vec![mig(1, 0), mig(2, 0)] }, ChosenGpu { gpu: second, mig: Vec::new() }];
    assert_eq!(gathered, expected);
}

/// What `nvidia-ctk cdi generate` (nvidia-container-toolkit 1.20, `pkg/nvcdi`, `internal/discover`) would give for the tree of
/// [`Tree::debian`], as its lists have it; and what becomes of each here.
const TOOLKIT: &[(&str, Here)] = &[
    // `*.so.<version>` in the directories of libcuda and in `vdpau/`: the toolkit keeps the paths, we have one directory.
    ("libcuda.so.570.86.10", Here::Library),
    ("libcudadebugger.so.570.86.10", Here::Library),
    ("libnvidia-ptxjitcompiler.so.570.86.10", Here::Library),
    ("libnvidia-nvvm.so.570.86.10", Here::Library),
    ("libnvidia-opencl.so.570.86.10", Here::Library),
    ("libnvidia-gpucomp.so.570.86.10", Here::Library),
    ("libnvidia-allocator.so.570.86.10", Here::Library),
    ("libnvidia-ml.so.570.86.10", Here::Library),
    ("libnvidia-cfg.so.570.86.10", Here::Library),
    ("libnvidia-encode.so.570.86.10", Here::Library),
    ("libnvcuvid.so.570.86.10", Here::Library),
    ("libnvidia-opticalflow.so.570.86.10", Here::Library),
    ("libGLX_nvidia.so.570.86.10", Here::Library),
    ("libEGL_nvidia.so.570.86.10", Here::Library),
    ("libnvidia-eglcore.so.570.86.10", Here::Library),
    ("libnvidia-glcore.so.570.86.10", Here::Library),
    ("libnvidia-vulkan-producer.so.570.86.10", Here::Library),
    ("libnvidia-ngx.so.570.86.10", Here::Library),
    ("libnvidia-of-tomorrow.so.570.86.10", Here::Library),
    ("libvdpau_nvidia.so.570.86.10", Here::Library),
    ("libnvidia-egl-gbm.so.1.1.2", Here::Library),
    // It matches the toolkit's pattern and is of no use without the desktop's settings program.
    ("libnvidia-gtk3.so.570.86.10", Here::Nowhere),
    // Programs: the toolkit keeps the path, we add a directory of ours.
    ("/usr/bin/nvidia-smi", Here::Same),
    ("/usr/bin/nvidia-debugdump", Here::Same),
    ("/usr/bin/nvidia-persistenced", Here::Same),
    ("/usr/bin/nvidia-cuda-mps-control", Here::Same),
    ("/usr/bin/nvidia-cuda-mps-server", Here::Same),
    // Firmware and configuration: the same places.
    ("/lib/firmware/nvidia/570.86.10/gsp_ga10x.bin", Here::Same),
    ("/lib/firmware/nvidia/570.86.10/gsp_tu10x.bin", Here::Same),
    ("/usr/share/glvnd/egl_vendor.d/10_nvidia.json", Here::Same),
    ("/usr/share/egl/egl_external_platform.d/15_nvidia_gbm.json", Here::Same),
    ("/usr/share/nvidia/nvoptix.bin", Here::Same),
    ("/usr/share/X11/xorg.conf.d/10-nvidia.conf", Here::Same),
    ("/etc/OpenCL/vendors/nvidia.icd", Here::Same),
    ("/etc/vulkan/icd.d/nvidia_icd.json", Here::Same),
    ("/etc/vulkan/implicit_layer.d/nvidia_layers.json", Here::Same),
    // Modules of X: the paths that they have here.
    ("/usr/lib/xorg/modules/drivers/nvidia_drv.so", Here::Same),
    ("/usr/lib/x86_64-linux-gnu/nvidia/xorg/libglxserver_nvidia.so.570.86.10", Here::Same),
];

/// Where a file of the toolkit's is with us.
enum Here {
    Library,
    Same,
    Nowhere,
}

/// What we give beside the toolkit: 32-bit libraries (libnvidia-container has them, CDI does not), and a second place for each
/// program. What it does by hooks is done by us before the start: links, `ld.so.cache`, `ModifyDeviceFiles`, the application
/// profile of EGL.
#[test]
fn the_toolkit_gives_the_same() {
    let injection = inject(&Tree::debian(), Linux, "all", &[chosen(0, "0000:41:00.0")]);
    let mut places: BTreeSet<String> =
        injection.spec.mounts.iter().map(|mount| mount.destination.display().to_string()).collect();
    for (name, here) in TOOLKIT {
        match here {
            Here::Library => assert!(places.remove(&format!("{LIBRARIES}/{name}")), "{name}"),
            Here::Same => assert!(places.remove(*name), "{name}"),
            Here::Nowhere => assert!(!places.iter().any(|place| place.ends_with(name)), "{name}"),
        }
    }
    places.retain(|place| !place.starts_with(PROGRAMS) && !place.starts_with(LIBRARIES_32));
    assert_eq!(places.into_iter().collect::<Vec<_>>(), ["/proc/driver/nvidia"]);
}
