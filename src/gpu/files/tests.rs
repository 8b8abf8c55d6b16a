//! Which files are found in made-up trees, and which are not.

use std::fs::{self, File};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use super::testing::{Tree, VERSION, elf, relative};
use super::*;
use crate::gpu::Platform::{Linux, Wsl};

/// Names of the libraries of one word size.
fn libraries(files: &DriverFiles, wanted: Bits) -> Vec<&str> {
    let names = files.found.iter().filter_map(|file| match &file.kind {
        FileKind::Library { name, bits, .. } if *bits == wanted => Some(name.as_str()),
        _ => None,
    });
    names.collect()
}

fn programs(files: &DriverFiles) -> Vec<&str> {
    let names = files.found.iter().filter_map(|file| match &file.kind {
        FileKind::Program { name } => Some(name.as_str()),
        _ => None,
    });
    names.collect()
}

fn one<'a>(files: &'a DriverFiles, stem: &str) -> &'a DriverFile {
    let named = |file: &&DriverFile| matches!(&file.kind, FileKind::Library { name, .. } if name.starts_with(stem));
    files.found.iter().find(named).unwrap_or_else(|| panic!("{stem} in {:?}", files.found))
}

#[test]
fn capabilities_decide_what_is_given() {
    let tree = Tree::debian();
    let utility = tree.find(Linux, "utility");
    assert_eq!(libraries(&utility, Bits::B64), ["libnvidia-ml.so.570.86.10", "libnvidia-cfg.so.570.86.10"]);
    assert_eq!(programs(&utility), ["nvidia-smi", "nvidia-debugdump", "nvidia-persistenced"]);
    let compute = tree.find(Linux, "compute");
    assert!(libraries(&compute, Bits::B64).contains(&"libcuda.so.570.86.10"));
    assert!(!libraries(&compute, Bits::B64).contains(&"libnvidia-ml.so.570.86.10"));
    assert_eq!(programs(&compute), ["nvidia-cuda-mps-control", "nvidia-cuda-mps-server"]);
    let all = tree.find(Linux, "all");
    let everything = libraries(&all, Bits::B64);
    for name in ["libvdpau_nvidia.so.570.86.10", "libnvidia-egl-gbm.so.1.1.2", "libnvidia-ngx.so.570.86.10"] {
        assert!(everything.contains(&name), "{name} in {everything:?}");
    }
    assert_eq!(libraries(&all, Bits::B32), ["libcuda.so.570.86.10", "libnvidia-ml.so.570.86.10"]);
    assert_eq!(libraries(&tree.find(Linux, "compute,utility"), Bits::B32), Vec::<&str>::new());
}

#[test]
fn how_a_library_was_found_is_known() {
    let tree = Tree::debian();
    let files = tree.find(Linux, "compute,utility");
    assert_eq!(one(&files, "libcuda.so").rule, Rule::Manifest);
    assert_eq!(one(&files, "libnvidia-nvvm.so").rule, Rule::List);
    let new = one(&files, "libnvidia-of-tomorrow");
    assert_eq!((new.rule, new.wanted_by), (Rule::VersionSuffix, Capability::Compute));
    assert!(libraries(&tree.find(Linux, "utility"), Bits::B64).iter().all(|name| !name.contains("tomorrow")));
    let FileKind::Library { soname, .. } = &one(&files, "libnvidia-nvvm.so").kind else { panic!() };
    assert_eq!(soname.as_deref(), Some("libnvidia-nvvm.so.4"));
    assert_eq!(relative(&tree, &new.host), format!("/usr/lib/x86_64-linux-gnu/libnvidia-of-tomorrow.so.{VERSION}"));
}

#[test]
fn dispatchers_are_never_given() {
    let files = Tree::debian().find(Linux, "all");
    let names = libraries(&files, Bits::B64).join(" ");
    assert!(!names.contains("libGL.so") && !names.contains("libEGL.so") && !names.contains("libOpenCL"), "{names}");
    let withheld: Vec<_> = files.withheld.iter().filter_map(|file| file_name(&file.seen)).collect();
    assert_eq!(withheld, ["libnvidia-gtk3.so.570.86.10", "libEGL.so.1.1.0", "libGL.so.1.7.0", "libOpenCL.so.1.0.0"]);
}

#[test]
fn what_the_manifest_names_and_nobody_has_is_told() {
    let files = Tree::debian().find(Linux, "compute");
    let missing: Vec<_> = files.missing.iter().map(|file| (file.name.as_str(), file.needed)).collect();
    assert_eq!(missing, [("libnvidia-sandbox-only.so.570.86.10", false)]);
    files.check().unwrap();
}

#[test]
fn a_manifest_of_another_driver_is_not_used() {
    let path = "usr/share/nvidia/files.d/sandboxutils-filelist.json";
    let other = r#"[{"name": "libcuda.so.555.42.06", "type": "LIB", "category": ["cuda"]}]"#;
    for (content, note) in [(other, "does not belong to driver 570.86.10"), ("[", "EOF while parsing")] {
        let tree = Tree::debian().file(path, content);
        let files = tree.find(Linux, "compute");
        assert_eq!(one(&files, "libcuda.so").rule, Rule::List);
        assert!(files.notes[0].contains(note), "{:?}", files.notes);
    }
    let large = Tree::debian();
    File::create(large.path().join(path)).unwrap().set_len(super::manifest::MAX_BYTES + 1).unwrap();
    assert!(large.find(Linux, "compute").notes[0].contains("more than 1048576 bytes"));
}

#[test]
fn libraries_of_another_driver_are_an_error() {
    let lib = "/usr/lib/x86_64-linux-gnu";
    let tree = Tree::new().version_of_library(lib, "libcuda", "libcuda.so.1", "570.124.06");
    let error = tree.try_find(Linux, "compute,utility", &[]).unwrap_err().to_string();
    assert!(
        error.starts_with(
            "driver/library version mismatch: the kernel runs driver 570.86.10, but the library \
             `/usr/lib/x86_64-linux-gnu/libcuda.so.570.124.06` belongs to 570.124.06\nhint: the driver was updated"
        ),
        "{error}"
    );
    // Beside the right one it is only left out.
    let both = tree.library(lib, "libnvidia-ml", "libnvidia-ml.so.1").library("/usr/lib64", "libcuda", "libcuda.so.1");
    let files = both.find(Linux, "compute,utility");
    assert_eq!(libraries(&files, Bits::B64), ["libcuda.so.570.86.10", "libnvidia-ml.so.570.86.10"]);
}

#[test]
fn a_library_that_says_its_version_counts_more() {
    let tree = Tree::new().file("/usr/lib64/libcuda.so.1", elf(Bits::B64, "libcuda.so.1")).library(
        "/usr/local/nvidia/lib64",
        "libcuda",
        "libcuda.so.1",
    );
    let files = tree.find(Linux, "compute");
    assert_eq!(libraries(&files, Bits::B64), ["libcuda.so.570.86.10"]);
    // Without such a one, what has no version is taken at its word.
    let tree = Tree::new().file("/usr/lib64/libcuda.so.1", elf(Bits::B64, "libcuda.so.1"));
    assert_eq!(libraries(&tree.find(Linux, "compute"), Bits::B64), ["libcuda.so.1"]);
    // But not a link to another driver's.
    let tree = Tree::new()
        .version_of_library("/opt", "libcuda", "libcuda.so.1", "555.42.06")
        .link("/usr/lib64/libcuda.so.1", "/opt/libcuda.so.1");
    assert!(tree.try_find(Linux, "compute", &[]).is_err());
}

#[test]
fn a_driver_in_two_halves_is_an_error_for_who_computes() {
    let lib = "/usr/lib64";
    let old_cuda = Tree::new().version_of_library(lib, "libcuda", "libcuda.so.1", "555.42.06").library(
        lib,
        "libnvidia-ml",
        "libnvidia-ml.so.1",
    );
    assert!(old_cuda.try_find(Linux, "compute,utility", &[]).is_err());
    old_cuda.find(Linux, "utility").check().unwrap();
    let old_nvml = Tree::new().library(lib, "libcuda", "libcuda.so.1").version_of_library(
        lib,
        "libnvidia-ml",
        "libnvidia-ml.so.1",
        "555.42.06",
    );
    old_nvml.find(Linux, "compute,utility").check().unwrap();
    assert!(old_nvml.try_find(Linux, "utility", &[]).is_err());
}

#[test]
fn without_libcuda_nothing_computes() {
    let tree = Tree::new().library("/usr/lib64", "libnvidia-ml", "libnvidia-ml.so.1");
    let files = tree.find(Linux, "compute,utility");
    let error = files.check().unwrap_err().to_string();
    assert!(
        error.starts_with(
            "`libcuda.so.570.86.10` of NVIDIA's driver is not on this machine, and without it no CUDA program can use a GPU"
        ),
        "{error}"
    );
    tree.find(Linux, "utility").check().unwrap();
}

#[test]
fn links_of_alternatives_are_followed_in_the_root() {
    let current = "/usr/lib/x86_64-linux-gnu/nvidia/tesla";
    let tree = Tree::new()
        .library(current, "libcuda", "libcuda.so.1")
        .library(current, "libnvidia-nvvm", "libnvidia-nvvm.so.4")
        .link("/etc/alternatives/nvidia--libcuda.so.1", &format!("{current}/libcuda.so.1"))
        .link("/usr/lib/x86_64-linux-gnu/libcuda.so.1", "/etc/alternatives/nvidia--libcuda.so.1");
    let files = tree.find(Linux, "compute");
    assert_eq!(libraries(&files, Bits::B64), ["libcuda.so.570.86.10", "libnvidia-nvvm.so.570.86.10"]);
    let libcuda = one(&files, "libcuda.so");
    assert_eq!(relative(&tree, &libcuda.host), format!("{current}/libcuda.so.{VERSION}"));
}

#[test]
fn the_cache_knows_directories_that_no_list_does() {
    let tree = Tree::new().library("/opt/nvidia/lib", "libcuda", "libcuda.so.1");
    assert!(tree.find(Linux, "compute").found.is_empty());
    let cache = [PathBuf::from("/opt/other/libc.so.6"), PathBuf::from("/opt/nvidia/lib/libcuda.so.1")];
    let files = tree.try_find(Linux, "compute", &cache).unwrap();
    assert_eq!(libraries(&files, Bits::B64), ["libcuda.so.570.86.10"]);
}

#[test]
fn a_driver_container_is_looked_into() {
    let inner = "/run/nvidia/driver/usr/lib/x86_64-linux-gnu";
    let lib = "/usr/lib/x86_64-linux-gnu";
    let tree = Tree::new().library(inner, "libcuda", "libcuda.so.1").version_of_library(
        lib,
        "libcuda",
        "libcuda.so.1",
        "555.42.06",
    );
    let files = tree.find(Linux, "compute");
    assert_eq!(relative(&tree, &one(&files, "libcuda.so").host), format!("{inner}/libcuda.so.{VERSION}"));
    assert_eq!(one(&files, "libcuda.so").seen, Path::new(lib).join(format!("libcuda.so.{VERSION}")));
}

#[test]
fn what_is_no_library_for_this_machine_is_left_out() {
    let lib = "/usr/lib/x86_64-linux-gnu";
    let mut foreign = elf(Bits::B64, "libnvidia-nvvm.so.4");
    foreign[18] = 183;
    let mut torn = elf(Bits::B64, "libnvidia-compiler.so.1");
    torn.truncate(100);
    let escaping = elf(Bits::B64, "../../etc/passwd");
    let tree = Tree::new()
        .library(lib, "libcuda", "libcuda.so.1")
        .file(&format!("{lib}/libnvidia-nvvm.so.{VERSION}"), foreign)
        .file(&format!("{lib}/libnvidia-opencl.so.{VERSION}"), "/* GNU ld script */")
        .file(&format!("{lib}/libnvidia-compiler.so.{VERSION}"), torn)
        .file(&format!("{lib}/libnvidia-allocator.so.{VERSION}"), escaping)
        .link(&format!("{lib}/libnvidia-gpucomp.so.{VERSION}"), "libcuda.so.1/none");
    let files = tree.find(Linux, "compute");
    let names = libraries(&files, Bits::B64);
    assert!(!names.iter().any(|name| name.contains("nvvm") || name.contains("opencl")), "{names:?}");
    // A name that is a path is no name.
    let FileKind::Library { soname, .. } = &one(&files, "libnvidia-allocator").kind else { panic!() };
    assert_eq!(*soname, None);
}

#[test]
fn a_real_library_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let library = directory.path().join("libcuda.so.1");
    #[expect(clippy::disallowed_methods, reason = "a real library has to be made by a real linker")]
    let status = std::process::Command::new("cc")
        .args(["-shared", "-nostdlib", "-Wl,-soname,libcuda.so.1", "-x", "c", "/dev/null", "-o"])
        .arg(&library)
        .status()
        .unwrap();
    assert!(status.success());
    let elf = super::elf::read(File::open(&library).unwrap()).unwrap();
    assert_eq!(elf.soname.as_deref(), Some("libcuda.so.1"));
    assert_eq!((elf.bits, elf.machine), (Bits::B64, Arch::native().machine(Bits::B64)));
}

#[test]
fn rhel_keeps_both_word_sizes_apart_by_content() {
    let files = Tree::rhel().find(Linux, "compute,utility,compat32");
    assert_eq!(libraries(&files, Bits::B32), ["libcuda.so.570.86.10"]);
    assert_eq!(one(&files, "libcuda.so").seen, Path::new("/usr/lib64/libcuda.so.570.86.10"));
    assert_eq!(programs(&files), ["nvidia-smi", "nvidia-imex"]);
}

#[test]
fn windows_driver_needs_no_version() {
    let tree = Tree::wsl();
    let files = tree.find(Wsl, "compute,utility");
    let names = ["libnvidia-ml.so.1", "libnvdxgdmal.so.1", "libdxcore.so", "libcuda.so.1.1"];
    assert_eq!(libraries(&files, Bits::B64), names);
    assert_eq!(programs(&files), ["nvidia-smi"]);
    let stores: Vec<_> = files.found.iter().filter(|file| matches!(file.kind, FileKind::DriverStore(_))).collect();
    assert_eq!(stores.len(), 1);
    assert!(stores[0].seen.ends_with("nv_dispi.inf_amd64_0123456789abcdef"));
    files.check().unwrap();
    let error = Tree::new().find(Wsl, "compute").check().unwrap_err().to_string();
    assert!(error.starts_with("`libdxcore.so` of NVIDIA's driver is not on this machine"), "{error}");
}

#[test]
fn firmware_is_looked_for_where_the_kernel_does() {
    let tree = Tree::rhel()
        .file(&format!("/opt/firmware/nvidia/{VERSION}/gsp_gh100.bin"), "")
        .file("/sys/module/firmware_class/parameters/path", "/opt/firmware\n");
    let files = tree.find(Linux, "compute");
    let places = files.found.iter().filter_map(|file| match &file.kind {
        FileKind::Firmware(place) => Some(place.to_str().unwrap()),
        _ => None,
    });
    assert_eq!(places.collect::<Vec<_>>(), ["/lib/firmware/nvidia/570.86.10/gsp_gh100.bin"]);
}

#[test]
fn sockets_are_real_and_of_people_we_trust() {
    let tree = Tree::rhel().file("/run/nvidia-fabricmanager/socket", "no socket").link("/tmp/nvidia-mps", "/usr");
    let socket = tree.path().join("run/nvidia-persistenced/socket");
    fs::create_dir_all(socket.parent().unwrap()).unwrap();
    let _listener = UnixListener::bind(&socket).unwrap();
    let places = |files: &DriverFiles| {
        let places = files.found.iter().filter_map(|file| match &file.kind {
            FileKind::Socket(place) | FileKind::Pipes(place) => Some(place.clone()),
            _ => None,
        });
        places.collect::<Vec<_>>()
    };
    // A link in `/tmp` is not followed, whoever made it.
    assert_eq!(places(&tree.find(Linux, "compute,utility")), [Path::new("/run/nvidia-persistenced/socket")]);
    fs::remove_file(tree.path().join("tmp/nvidia-mps")).unwrap();
    fs::create_dir(tree.path().join("tmp/nvidia-mps")).unwrap();
    let roots = tree.roots();
    let driver = Driver { version: Version::new(VERSION), platform: Linux, cuda: None };
    let me = nix::unistd::getuid().as_raw();
    for (user, given) in [(me, 1), (me + 1, usize::from(me == 0))] {
        let places_of = Places { roots: &roots, cache_paths: &[], arch: Arch::X86_64, user };
        let files = find(&places_of, &driver, &Capabilities::of(&[Capability::Compute])).unwrap();
        assert_eq!(places(&files).len(), given, "{:?}", files.notes);
    }
}

#[test]
fn a_root_that_is_not_there_is_an_error() {
    let roots = Roots { driver: "/nowhere/at/all".into(), ..Tree::new().roots() };
    let places = Places { roots: &roots, cache_paths: &[], arch: Arch::X86_64, user: 0 };
    let driver = Driver { version: Version::new(VERSION), platform: Linux, cuda: None };
    let error = find(&places, &driver, &Capabilities::default()).unwrap_err().to_string();
    assert!(error.starts_with("cannot open the driver's root `/nowhere/at/all`\nhint: `--driver-root`"), "{error}");
}

#[test]
fn configuration_that_names_a_path_is_noted() {
    let path = "/nix/store/0123-nvidia/lib/libGLX_nvidia.so.0";
    let icd = |library: &str| format!(r#"{{"ICD": {{"library_path": "{library}", "api_version": "1.4"}}}}"#);
    let place = "/run/opengl-driver/share/vulkan/icd.d/nvidia_icd.x86_64.json";
    let notes = |library: &str| Tree::new().file(place, icd(library)).find(Linux, "graphics").notes;
    assert!(notes("libGLX_nvidia.so.0").is_empty());
    assert!(notes(path)[0].starts_with(&format!("`{place}` names the library `{path}` by its path")));
}
