//! Files as vendors' tools write them, hostile files, and what becomes of both on this machine. Nodes stand for the real
//! ones: `/dev/zero` and others that every machine has.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::*;
use crate::gpu::Version;
use crate::rootfs::RootLink;
use crate::spec::{DeviceKind, EditMount, Edits};
use crate::words::describe;

/// Two directories of descriptions, and files of a made-up driver.
struct Place {
    root: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for name in ["etc", "run", "driver/firmware"] {
            fs::create_dir_all(root.path().join(name)).unwrap();
        }
        for name in ["libcuda.so.570.86.10", "nvidia-smi", "firmware/gsp.bin"] {
            fs::write(root.path().join("driver").join(name), name).unwrap();
        }
        Self { root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().canonicalize().unwrap().join(name)
    }

    /// Writes a description; `DRIVER` in it is the made-up driver's directory.
    fn file(self, name: &str, text: &str) -> Self {
        let driver = self.path("driver").display().to_string();
        fs::write(self.path(name), text.replace("DRIVER", &driver)).unwrap();
        self
    }

    /// A description of the device `v.com/c=d` with the given edits.
    fn with_edits(edits: &str) -> Self {
        Self::new().file("etc/c.json", &simple("v.com/c", "d", edits))
    }

    fn read(&self) -> Registry {
        Registry::read(&[self.path("etc"), self.path("run")])
    }

    fn resolve(&self, names: &[&str]) -> Result<Injected, CdiError> {
        let names: Vec<QualifiedName> = names.iter().map(|name| name.parse().unwrap()).collect();
        self.read().resolve(&names)
    }

    /// The message about `v.com/c=d`.
    fn complaint(&self) -> String {
        describe(&self.resolve(&["v.com/c=d"]).unwrap_err())
    }
}

fn simple(kind: &str, device: &str, edits: &str) -> String {
    format!(
        r#"{{"cdiVersion": "1.1.0", "kind": "{kind}", "devices": [{{"name": "{device}", "containerEdits": {edits}}}]}}"#
    )
}

fn nodes(edits: &Edits) -> Vec<(String, u32, u32, String)> {
    let device = |it: &crate::spec::Device| (it.path.display().to_string(), it.major, it.minor, it.access.clone());
    edits.devices.iter().map(device).collect()
}

/// In the shape of NVIDIA's generator.
const NVIDIA: &str = r#"---
cdiVersion: 0.5.0
containerEdits:
  deviceNodes:
  - path: /dev/nvidiactl
    hostPath: /dev/full
  env:
  - NVIDIA_VISIBLE_DEVICES=void
  - NVIDIA_CTK_LIBCUDA_DIR=/usr/lib64
  hooks:
  - args: [nvidia-cdi-hook, create-symlinks, --link, "libcuda.so.1::/usr/lib64/libcuda.so"]
    env: [NVIDIA_CTK_DEBUG=false]
    hookName: createContainer
    path: /nowhere/nvidia-cdi-hook
  - args: [nvidia-cdi-hook, enable-cuda-compat, --host-driver-version=570.86.10, --host-cuda-version=12.8]
    hookName: createContainer
    path: /nowhere/nvidia-cdi-hook
  - args: [nvidia-cdi-hook, update-ldcache, --folder, /usr/lib64]
    hookName: createContainer
    path: /nowhere/nvidia-cdi-hook
  - args: [nvidia-cdi-hook, disable-device-node-modification]
    hookName: createContainer
    path: /nowhere/nvidia-cdi-hook
  mounts:
  - containerPath: /lib/firmware/nvidia/570.86.10
    hostPath: DRIVER/firmware
    options: [ro, nosuid, nodev, rbind, rprivate]
  - containerPath: /usr/bin/nvidia-smi
    hostPath: DRIVER/nvidia-smi
    options: [ro, nosuid, nodev, rbind, rprivate]
  - containerPath: /usr/lib64/libcuda.so.570.86.10
    hostPath: DRIVER/libcuda.so.570.86.10
    options: [ro, nosuid, nodev, bind]
devices:
- containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
      hostPath: /dev/zero
    - {path: /dev/dri/card1, hostPath: /dev/random}
    hooks:
    - args: [nvidia-cdi-hook, create-symlinks, --link, "../card1::/dev/dri/by-path/pci-0000:41:00.0-card"]
      hookName: createContainer
      path: /nowhere/nvidia-cdi-hook
    - args: [nvidia-ctk, hook, chmod, --mode, "755", --path, /dev/dri]
      hookName: createContainer
      path: /nowhere/nvidia-ctk
  name: "0"
- containerEdits:
    deviceNodes:
    - path: /dev/nvidia1
      hostPath: /dev/null
      permissions: rw
  name: "1"
- containerEdits:
    deviceNodes:
    - {path: /dev/nvidia0, hostPath: /dev/zero}
    - {path: /dev/nvidia1, hostPath: /dev/null}
  name: all
kind: nvidia.com/gpu
"#;

#[test]
fn nvidias_devices_need_none_of_its_programs() {
    let place = Place::new().file("etc/nvidia.yaml", NVIDIA);
    let injected = place.resolve(&["nvidia.com/gpu=0", "nvidia.com/gpu=1"]).unwrap();
    let node = |path: &str, minor, access: &str| (path.to_owned(), 1, minor, access.to_owned());
    assert_eq!(
        nodes(&injected.spec),
        [
            node("/dev/nvidiactl", 7, "rwm"),
            node("/dev/nvidia0", 5, "rwm"),
            node("/dev/dri/card1", 8, "rwm"),
            node("/dev/nvidia1", 3, "rw")
        ]
    );
    assert_eq!(injected.spec.env[0], ("NVIDIA_VISIBLE_DEVICES".to_owned(), "void".to_owned()));
    let mounts: Vec<_> = injected.spec.mounts.iter().map(|it| it.destination.to_str().unwrap()).collect();
    let expected = ["/usr/bin/nvidia-smi", "/usr/lib64/libcuda.so.570.86.10", "/lib/firmware/nvidia/570.86.10"];
    assert_eq!(mounts, expected);
    assert_eq!(injected.spec.mounts[1].source, place.path("driver/libcuda.so.570.86.10"));
    assert_eq!(injected.spec.mounts[1].options, ["ro", "nosuid", "nodev", "bind"]);
    assert_eq!(injected.spec.mounts[2].options, ["ro", "nosuid", "nodev", "rbind", "rprivate", "rro"]);
    assert_eq!(injected.root.mounted_directories, [Path::new("/lib/firmware/nvidia/570.86.10")]);
    assert_eq!(injected.root.mounted_files, [Path::new("/usr/bin/nvidia-smi"), Path::new(expected[1])]);
    let link = |path: &str, target: &str| RootLink { path: path.into(), target: target.into() };
    assert_eq!(injected.root.links, [link("/usr/lib64/libcuda.so", "libcuda.so.1")]);
    assert_eq!(
        injected.actions,
        [
            NativeAction::CudaCompat {
                driver_version: Some(Version::new("570.86.10")),
                cuda_version: Some("12.8".to_owned()),
                directory: "/usr/local/cuda/compat".into()
            },
            NativeAction::LoaderDirectory("/usr/lib64".into()),
            NativeAction::HideDeviceFileModification,
            NativeAction::Link(link("/dev/dri/by-path/pci-0000:41:00.0-card", "../card1")),
            NativeAction::Chmod { path: "/dev/dri".into(), mode: 0o755 },
        ]
    );
    assert_eq!(injected.spec.hooks, []);
    assert_eq!(injected.nodes_without_owner.len(), 4);
}

#[test]
fn all_is_a_name_or_every_device_of_the_kind() {
    let place = Place::new().file("etc/nvidia.yaml", NVIDIA);
    assert_eq!(place.resolve(&["nvidia.com/gpu=all"]).unwrap().spec.devices.len(), 3);
    // Asked for twice is asked for once.
    assert_eq!(place.resolve(&["nvidia.com/gpu=all", "nvidia.com/gpu=0"]).unwrap().spec.devices.len(), 4);
    let text = NVIDIA.replace("name: all", "name: both");
    let place = Place::new().file("etc/nvidia.yaml", &text);
    assert_eq!(place.resolve(&["nvidia.com/gpu=all"]).unwrap().spec.devices.len(), 4);
    assert!(place.resolve(&["amd.com/gpu=all"]).is_err());
}

#[test]
fn amds_and_intels_devices() {
    let amd = r#"{"cdiVersion": "0.6.0", "kind": "amd.com/gpu",
        "containerEdits": {"deviceNodes": [{"path": "/dev/kfd", "hostPath": "/dev/zero", "type": "c", "major": 510, "minor": 0, "fileMode": 438}]},
        "devices": [
            {"name": "0", "containerEdits": {"deviceNodes": [
                {"path": "/dev/dri/card1", "hostPath": "/dev/full", "type": "c", "fileMode": 432, "permissions": "rw", "gid": 44},
                {"path": "/dev/dri/renderD128", "hostPath": "/dev/random", "permissions": "wr", "uid": 0, "gid": 109}]}},
            {"name": "all", "containerEdits": {"deviceNodes": [{"path": "/dev/dri/renderD128", "hostPath": "/dev/random"}]}}]}"#;
    let intel = "cdiVersion: 0.7.0\nkind: intel.com/gpu\ndevices:\n- name: card0\n  annotations: {vendor: '0x8086'}\n  containerEdits:\n    deviceNodes:\n    - {path: /dev/dri/renderD129, hostPath: /dev/urandom}\n    mounts:\n    - {hostPath: DRIVER/firmware, containerPath: /dev/dri/by-path, options: [ro, rbind], type: none}\n    additionalGids: [44, 109, 0, 44]\n";
    let gaudi = "cdiVersion: 0.5.0\nkind: intel.com/gaudi\ncontainerEdits:\n  hooks:\n  - {hookName: createRuntime, path: /bin/true, args: [habana-container-cdi-hook, expose-interfaces], timeout: 10, env: [A=1]}\n  mounts:\n  - {hostPath: DRIVER/nvidia-smi, containerPath: /etc/habanalabs/gaudinet.json}\ndevices:\n- name: \"0\"\n  containerEdits:\n    deviceNodes: [{path: /dev/accel/accel0, hostPath: /dev/zero}, {path: /dev/accel/accel_controlD0, hostPath: /dev/full}]\n";
    let place = Place::new().file("etc/amd.json", amd).file("etc/intel.yaml", intel).file("run/gaudi.yaml", gaudi);
    assert_eq!(place.read().warnings(), []);

    let found = place.resolve(&["amd.com/gpu=0"]).unwrap();
    let (kfd, card, render) = (&found.spec.devices[0], &found.spec.devices[1], &found.spec.devices[2]);
    // The numbers are this machine's, whatever the file says.
    assert_eq!((kfd.major, kfd.minor, kfd.mode, kfd.kind), (1, 5, 0o666, DeviceKind::Char));
    assert_eq!((card.mode, card.gid, card.access.as_str()), (0o660, 44, "rw"));
    assert_eq!((render.gid, render.access.as_str()), (109, "rw"));
    assert_eq!(found.nodes_without_owner, [Path::new("/dev/kfd"), Path::new("/dev/dri/card1")]);

    let found = place.resolve(&["intel.com/gpu=card0"]).unwrap();
    assert_eq!(found.spec.groups, [44, 109]);
    assert_eq!(found.spec.mounts[0].destination, Path::new("/dev/dri/by-path"));
    // `/dev` is made anew in each container: nothing is prepared there.
    assert_eq!(found.root, crate::rootfs::RootEdits::default());

    let found = place.resolve(&["intel.com/gaudi=0"]).unwrap();
    let hook = &found.spec.hooks[0];
    assert_eq!((hook.stage.as_str(), hook.timeout), ("createRuntime", Some(10)));
    assert_eq!(hook.args, ["habana-container-cdi-hook", "expose-interfaces"]);
    assert_eq!(hook.path, Path::new("/bin/true").canonicalize().unwrap());
    assert_eq!(found.spec.mounts[0].options, ["rbind"]);
    assert_eq!(found.root.mounted_files, [Path::new("/etc/habanalabs/gaudinet.json")]);
}

#[test]
fn later_directories_win_and_later_edits_too() {
    let env = |value: &str| format!(r#"{{"env": ["A={value}", "B=1"]}}"#);
    let place = Place::new()
        .file("etc/a.json", &simple("v.com/c", "d", &env("etc")))
        .file("etc/b.json", &simple("v.com/c", "e", &env("e")))
        .file("run/a.json", &simple("v.com/c", "d", &env("run")));
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(place.resolve(&["v.com/c=d"]).unwrap().spec.env, [pair("A", "run"), pair("B", "1")]);
    assert_eq!(place.resolve(&["v.com/c=d", "v.com/c=e"]).unwrap().spec.env, [pair("A", "e"), pair("B", "1")]);
    let names: Vec<String> = place.read().names().map(ToString::to_string).collect();
    assert_eq!(names, ["v.com/c=d", "v.com/c=e"]);
}

#[test]
fn a_device_of_two_files_is_nobodys() {
    let text = simple("v.com/c", "d", r#"{"env": ["A=1"]}"#);
    let place = Place::new()
        .file("etc/a.json", &text)
        .file("etc/b.json", &text)
        .file("etc/c.json", &simple("v.com/c", "other", r#"{"env": ["A=1"]}"#));
    let message = place.complaint();
    for part in [
        "device `v.com/c=d` is described by several files: `",
        "etc/a.json`, `",
        "etc/b.json`\nhint: remove all but one",
    ] {
        assert!(message.contains(part), "{message}");
    }
    assert!(place.read().warnings()[0].reason.contains("is described by"), "{:?}", place.read().warnings());
    assert!(place.resolve(&["v.com/c=other"]).is_ok());
    assert!(place.resolve(&["v.com/c=all"]).is_err());
    // A file of higher priority ends the dispute.
    let place = place.file("run/z.json", &text);
    assert!(place.resolve(&["v.com/c=d"]).is_ok());
    assert_eq!(place.read().warnings(), []);
}

#[test]
fn broken_files_cost_only_themselves() {
    let good = simple("v.com/c", "d", r#"{"env": ["A=1"]}"#);
    let place = Place::new()
        .file("etc/good.json", &good)
        .file("etc/broken.json", "{")
        .file("etc/broken.yaml", "\tx")
        .file("etc/future.yaml", "cdiVersion: 9.0.0\nkind: v.com/c\ndevices: []\n")
        .file("etc/notes.txt", "{")
        .file("etc/.hidden", "{");
    fs::create_dir(place.path("etc/directory.json")).unwrap();
    fs::write(place.path("etc/binary.json"), b"\xff\xfe{}").unwrap();
    fs::write(place.path("etc/huge.yaml"), "#".repeat(5 << 20)).unwrap();
    fs::write(place.path("etc/open.json"), &good).unwrap();
    fs::set_permissions(place.path("etc/open.json"), fs::Permissions::from_mode(0o666)).unwrap();
    symlink("/nowhere", place.path("etc/dangling.json")).unwrap();
    symlink("/dev/zero", place.path("etc/endless.json")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        place.path("etc/pipe.json"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let registry = place.read();
    let told: Vec<(String, &str)> = registry
        .warnings()
        .iter()
        .map(|it| (it.path.file_name().unwrap().to_str().unwrap().to_owned(), it.reason.as_str()))
        .collect();
    let expected = [
        ("binary.json", "it is not UTF-8"),
        ("broken.json", "malformed: "),
        ("broken.yaml", "malformed: "),
        ("dangling.json", "it cannot be opened: "),
        ("endless.json", "it is a device, expected a regular file"),
        ("future.yaml", "version `9.0.0` is unknown"),
        ("huge.yaml", "it is larger than 4 MiB"),
        ("open.json", "every user of this machine can change it"),
        ("pipe.json", "it is a named pipe, expected a regular file"),
    ];
    assert_eq!(told.len(), expected.len(), "{told:?}");
    for ((name, reason), (expected_name, expected_reason)) in told.iter().zip(expected) {
        assert_eq!(name, expected_name);
        assert!(reason.starts_with(expected_reason), "{name}: {reason}");
    }
    assert!(place.resolve(&["v.com/c=d"]).is_ok());
    assert_eq!(Registry::read(&["/nowhere/at/all"]).warnings(), []);
    assert_eq!(Registry::read(&[place.path("etc/good.json")]).warnings()[0].reason, "Not a directory (os error 20)");
}

#[test]
fn unknown_devices_are_answered_with_those_that_there_are() {
    let place = Place::new().file("etc/nvidia.yaml", NVIDIA).file("etc/x.json", "{");
    let message = describe(&place.resolve(&["nvidia.com/gpu=2"]).unwrap_err());
    assert!(message.starts_with("there is no device `nvidia.com/gpu=2`, expected one of `nvidia.com/gpu=0`, `nvidia.com/gpu=1`, `nvidia.com/gpu=all`; `"), "{message}");
    assert!(message.contains("x.json` is left out: malformed: "), "{message}");
    let message = describe(&place.resolve(&["nvidia.com/gpus=all"]).unwrap_err());
    assert!(message.ends_with("\nhint: did you mean `nvidia.com/gpu=all`?"), "{message}");
    let message = describe(&Place::new().resolve(&["nvidia.com/gpu=0"]).unwrap_err());
    assert_eq!(
        message,
        "there is no device `nvidia.com/gpu=0`: no file describes any\nhint: `dockless gpu cdi` writes one for NVIDIA's GPUs"
    );
    let many: Vec<String> =
        (0..30).map(|index| format!(r#"{{"name": "d{index}", "containerEdits": {{"env": ["A=1"]}}}}"#)).collect();
    let text = format!(r#"{{"cdiVersion": "0.5.0", "kind": "v.com/c", "devices": [{}]}}"#, many.join(","));
    let message = describe(&Place::new().file("run/m.json", &text).resolve(&["v.com/c=no-such"]).unwrap_err());
    assert!(message.ends_with(" and 10 more"), "{message}");
}

/// Edits, and what the message about them says.
const REFUSED: &[(&str, &str)] = &[
    (r#"{"env": ["A"]}"#, "`env` holds `A`, expected `KEY=VALUE`"),
    (r#"{"env": ["=A"]}"#, "`env` holds `=A`"),
    (r#"{"env": ["A=\u0000"]}"#, "`env` holds `A=\\0`"),
    (r#"{"deviceNodes": [{"path": "/dev/x", "hostPath": "/dev/no-such"}]}"#, "there is no device `/dev/no-such`"),
    (
        r#"{"deviceNodes": [{"path": "/dev/no-such", "type": "c", "major": 1, "minor": 3}]}"#,
        "there is no device `/dev/no-such`",
    ),
    (r#"{"deviceNodes": [{"path": "/dev/x", "hostPath": "/dev"}]}"#, "`/dev` is a directory, expected a device"),
    (r#"{"deviceNodes": [{"path": "/dev/x", "hostPath": "zero"}]}"#, "hostPath `zero` is not absolute"),
    (r#"{"deviceNodes": [{"path": "/dev/x", "hostPath": "/dev/../dev/zero"}]}"#, "holds `..`"),
    (r#"{"deviceNodes": [{"path": ""}]}"#, "`` is empty"),
    (r#"{"deviceNodes": [{"path": "/dev/../etc/x", "hostPath": "/dev/zero"}]}"#, "`/dev/../etc/x` holds `..`"),
    (r#"{"deviceNodes": [{"path": "/dev/x\u0000", "hostPath": "/dev/zero"}]}"#, "holds a NUL byte"),
    (r#"{"deviceNodes": [{"path": "/dev/null"}]}"#, "belongs to the runtime"),
    (
        r#"{"deviceNodes": [{"path": "/dev/x", "hostPath": "/dev/zero", "type": "b"}]}"#,
        "`/dev/zero` is a character device, but the file says type `b`",
    ),
    (
        r#"{"deviceNodes": [{"path": "/dev/x", "hostPath": "/dev/zero", "type": "p"}]}"#,
        "has type `p`, expected `c`, `u` or `b`",
    ),
    (
        r#"{"deviceNodes": [{"path": "/dev/x", "hostPath": "/dev/zero", "permissions": "rx"}]}"#,
        "`permissions` of `/dev/x` are `rx`",
    ),
    (
        r#"{"deviceNodes": [{"path": "/dev/x", "hostPath": "/dev/zero", "uid": 4294967295}]}"#,
        "group 4294967295 is above",
    ),
    (
        r#"{"mounts": [{"hostPath": "DRIVER/libcuda.so.535", "containerPath": "/a"}]}"#,
        "cannot be found\nhint: the file may be older than the driver",
    ),
    (r#"{"mounts": [{"hostPath": "lib", "containerPath": "/a"}]}"#, "hostPath `lib` is not absolute"),
    (r#"{"mounts": [{"hostPath": "/", "containerPath": "/a"}]}"#, "hostPath `/` is the root"),
    (r#"{"mounts": [{"hostPath": "DRIVER/../../etc", "containerPath": "/a"}]}"#, "holds `..`"),
    (r#"{"mounts": [{"hostPath": "DRIVER", "containerPath": "a"}]}"#, "containerPath `a` is not absolute"),
    (
        r#"{"mounts": [{"hostPath": "DRIVER", "containerPath": "/a/../../etc"}]}"#,
        "containerPath `/a/../../etc` holds `..`",
    ),
    (
        r#"{"mounts": [{"hostPath": "DRIVER", "containerPath": "/a\u0000b"}]}"#,
        "containerPath `/a\\0b` holds a NUL byte",
    ),
    (r#"{"mounts": [{"hostPath": "DRIVER", "containerPath": "/"}]}"#, "containerPath `/` is the root"),
    (
        r#"{"mounts": [{"hostPath": "DRIVER", "containerPath": "/dev"}]}"#,
        "the mount on `/dev` cannot be made: the destination `/dev` belongs to the runtime",
    ),
    (r#"{"mounts": [{"hostPath": "DRIVER", "containerPath": "/proc/sys/kernel"}]}"#, "belongs to the runtime"),
    (
        r#"{"mounts": [{"hostPath": "DRIVER", "containerPath": "/a", "options": ["rshared"]}]}"#,
        "the mount on `/a` cannot be made: `rshared` is not supported yet",
    ),
    (
        r#"{"mounts": [{"hostPath": "DRIVER", "containerPath": "/a", "options": ["idmap"]}]}"#,
        "`idmap` is not supported yet",
    ),
    (
        r#"{"mounts": [{"hostPath": "DRIVER", "containerPath": "/a", "options": ["quantum"]}]}"#,
        "`quantum` is unknown, expected some of `ro`",
    ),
    (
        r#"{"mounts": [{"hostPath": "DRIVER", "containerPath": "/a", "options": ["ro", "rw"]}]}"#,
        "`ro` and `rw` exclude each other",
    ),
    (
        r#"{"mounts": [{"hostPath": "overlay", "containerPath": "/a", "type": "overlay", "options": ["lowerdir=/"]}]}"#,
        "`type=overlay` is not supported yet",
    ),
    (
        r#"{"mounts": [{"hostPath": "tmpfs", "containerPath": "/a", "type": "tmpfs", "options": ["size=x"]}]}"#,
        "has a bad value",
    ),
    (r#"{"mounts": [{"hostPath": "tmpfs", "containerPath": "/a:b", "type": "tmpfs"}]}"#, "holds `:`"),
    (
        r#"{"hooks": [{"hookName": "lunch", "path": "/bin/true"}]}"#,
        "hook `/bin/true` runs at `lunch`, expected `createRuntime`",
    ),
    (
        r#"{"hooks": [{"hookName": "startContainer", "path": "/bin/true"}]}"#,
        "a program of the image is not run as a hook",
    ),
    (
        r#"{"hooks": [{"hookName": "poststop", "path": "/nowhere/hook"}]}"#,
        "hook `/nowhere/hook` is not run: it cannot be found",
    ),
    (r#"{"hooks": [{"hookName": "poststop", "path": "true"}]}"#, "path `true` is not absolute"),
    (r#"{"hooks": [{"hookName": "poststop", "path": "/bin/true", "timeout": -1}]}"#, "has the timeout -1"),
    (r#"{"hooks": [{"hookName": "poststop", "path": "/bin/true", "env": ["A"]}]}"#, "`env` holds `A`"),
    (r#"{"hooks": [{"hookName": "poststop", "path": "/bin/true", "args": ["a\u0000"]}]}"#, "holds a NUL byte"),
    (r#"{"hooks": [{"hookName": "poststop", "path": "DRIVER/nvidia-smi"}]}"#, "is not run: it is not executable"),
    (
        r#"{"hooks": [{"hookName": "createContainer", "path": "/nowhere/nvidia-ctk", "args": ["nvidia-ctk", "hook", "teleport"]}]}"#,
        "is not run: it cannot be found",
    ),
    (
        r#"{"hooks": [{"hookName": "createContainer", "path": "/x/nvidia-ctk", "args": ["nvidia-ctk", "hook", "create-symlinks", "--link", "a::/b/../c"]}]}"#,
        "hook `create-symlinks` has a bad argument",
    ),
    (r#"{"additionalGids": [3000000000]}"#, "group 3000000000 is above the highest group id, 2147483647"),
    (r#"{"intelRdt": {"closID": "gold"}}"#, "`intelRdt` is not supported yet"),
    (r#"{"netDevices": [{"hostInterfaceName": "a", "name": "b"}]}"#, "`netDevices` is not supported yet"),
    (
        r#"{"mounts": [{"hostPath": "DRIVER", "containerPath": "/a", "options": ["\u001b[2J"]}]}"#,
        "`\\u{1b}[2J` is unknown",
    ),
    (
        r#"{"mounts": [{"hostPath": "tmpfs", "containerPath": "/a", "type": "tmpfs", "options": ["\u001b[2J"]}]}"#,
        "`\\u{1b}[2J` is unknown",
    ),
    (r#"{"deviceNodes": [{"path": "/dev/x", "hostPath": "/dev/\u001b[2J"}]}"#, "holds a control character"),
];

#[test]
fn edits_that_cannot_be_done_are_refused_in_words() {
    for (edits, message) in REFUSED {
        let told = Place::with_edits(edits).complaint();
        assert!(told.contains(message), "{edits}: {told}");
        assert!(told.starts_with("device `v.com/c=d` of `") && told.contains("etc/c.json` cannot be used: "), "{told}");
        assert!(!told.contains(['\0', '\u{1b}']), "{told}");
    }
}

#[test]
fn edits_that_are_unusual_are_done() {
    let injected = Place::with_edits(
        r#"{"env": ["A=b=c"], "additionalGids": [0], "intelRdt": {},
            "deviceNodes": [{"path": "/dev/x", "hostPath": "/dev/zero", "permissions": "none", "fileMode": 8630, "type": "u", "hostPath": "/dev/zero"}]}"#
            .replace(r#", "hostPath": "/dev/zero"}]"#, "}]")
            .as_str(),
    )
    .resolve(&["v.com/c=d"])
    .unwrap();
    assert_eq!((injected.spec.devices[0].access.as_str(), injected.spec.devices[0].mode), ("", 0o666));
    assert_eq!(injected.spec.env, [("A".to_owned(), "b=c".to_owned())]);
    assert!(injected.spec.groups.is_empty());

    let injected = Place::with_edits(
        r#"{"mounts": [
            {"hostPath": "DRIVER/nvidia-smi", "containerPath": "/a/b/c", "options": ["ro", "bind", "defaults"]},
            {"hostPath": "tmpfs", "containerPath": "/t", "type": "tmpfs", "options": ["size=1m", "mode=755"]},
            {"hostPath": "DRIVER", "containerPath": "/a", "type": "ext4", "options": ["bind"]},
            {"hostPath": "DRIVER/firmware", "containerPath": "/a/b/c", "options": ["rbind"]}]}"#,
    )
    .resolve(&["v.com/c=d"])
    .unwrap();
    let mounts: Vec<_> =
        injected.spec.mounts.iter().map(|it| (it.destination.to_str().unwrap(), it.kind.as_str())).collect();
    assert_eq!(mounts, [("/t", "tmpfs"), ("/a", "bind"), ("/a/b/c", "bind")]);
    assert_eq!(injected.spec.mounts[0].options, ["noexec", "nosuid", "nodev", "mode=755", "size=1048576"]);
    assert!(injected.spec.mounts[2].source.ends_with("driver/firmware"), "the later one wins");
    assert_eq!(injected.root.mounted_directories.len(), 3);
}

#[test]
fn links_on_this_machine_are_resolved_before_the_mount() {
    let place = Place::with_edits(
        r#"{"mounts": [{"hostPath": "DRIVER/libcuda.so", "containerPath": "/usr/lib/libcuda.so.1", "options": ["ro"]}]}"#,
    );
    symlink("libcuda.so.570.86.10", place.path("driver/libcuda.so")).unwrap();
    let injected = place.resolve(&["v.com/c=d"]).unwrap();
    assert_eq!(injected.spec.mounts[0].source, place.path("driver/libcuda.so.570.86.10"));
}

#[test]
fn the_application_profile_names_the_gpus_of_the_container() {
    let injected = Place::with_edits(
        r#"{"deviceNodes": [{"path": "/dev/nvidia0", "hostPath": "/dev/null"}, {"path": "/dev/nvidia1", "hostPath": "/dev/zero"}, {"path": "/dev/nvidiactl", "hostPath": "/dev/full"}],
            "hooks": [{"hookName": "createContainer", "path": "/x/nvidia-cdi-hook", "args": ["nvidia-cdi-hook", "update-application-profile"]}]}"#,
    )
    .resolve(&["v.com/c=d"])
    .unwrap();
    let [file] = &injected.root.files[..] else { panic!("{:?}", injected.root.files) };
    let content: serde_json::Value =
        serde_json::from_slice(&String::from_utf8_lossy(&file.content).replace("0x28", "40").into_bytes()).unwrap();
    assert_eq!(content["profiles"][0]["settings"], serde_json::json!(["EGLVisibleDGPUDevices", (1 << 3) | (1 << 5)]));
}

fn own_mount(place: &Place, name: &str, destination: &str) -> EditMount {
    let options = ["ro", "nosuid", "nodev", "rbind", "rro"].map(str::to_owned).to_vec();
    EditMount {
        source: place.path("driver").join(name),
        destination: destination.into(),
        options,
        kind: "bind".to_owned(),
    }
}

/// What we would write for two GPUs, one of them partitioned.
fn written(place: &Place, hook: Option<&Path>, format: Format) -> String {
    let node = |host: &str| crate::gpu::node::device(Path::new(host), Path::new(host), "rw").unwrap();
    let common = Edits {
        env: vec![("CUDA_DEVICE_ORDER".to_owned(), "PCI_BUS_ID".to_owned())],
        mounts: vec![
            own_mount(place, "libcuda.so.570.86.10", "/usr/local/nvidia/lib64/libcuda.so.570.86.10"),
            own_mount(place, "nvidia-smi", "/usr/bin/nvidia-smi"),
        ],
        ..Edits::default()
    };
    let link = |path: &str, target: &str| RootLink { path: path.into(), target: target.into() };
    let links = [
        link("/usr/local/nvidia/lib64/libcuda.so", "libcuda.so.1"),
        link("/usr/local/nvidia/lib64/libcuda.so.1", "libcuda.so.570.86.10"),
        link("/usr/local/nvidia/lib64/libgone.so", "libgone.so.1"),
    ];
    let device = |host: &str| Edits { devices: vec![node(host)], ..Edits::default() };
    let mut devices = vec![
        (vec!["0".to_owned(), "GPU-8f2d0b6e".to_owned()], device("/dev/zero")),
        (vec!["1:0".to_owned(), "MIG-1".to_owned()], device("/dev/full")),
    ];
    // Nodes that every container has cannot be given; they only lend their numbers here.
    for (_, edits) in &mut devices {
        for device in &mut edits.devices {
            device.path = Path::new("/dev/nvidia").join(device.path.file_name().unwrap());
        }
    }
    let dev = place.path("dev/nvidia");
    fs::create_dir_all(&dev).unwrap();
    for name in ["zero", "full"] {
        drop(symlink(Path::new("/dev").join(name), dev.join(name)));
    }
    let output = Output {
        common: &common,
        links: &links,
        loader_directories: &["/usr/local/nvidia/lib64".into()],
        standard_directories: &["/usr/lib64".into(), "/usr/lib/x86_64-linux-gnu".into()],
        devices: &devices,
        hook,
        dev: &place.path("dev"),
    };
    write(&output, format).unwrap()
}

#[test]
fn what_is_written_is_read_again() {
    for (name, format) in [("run/own.json", Format::Json), ("run/own.yaml", Format::Yaml)] {
        let place = Place::new();
        let text = written(&place, None, format);
        let place = place.file(name, &text);
        let registry = place.read();
        assert_eq!(registry.warnings(), [], "{text}");
        let names: Vec<String> = registry.names().map(ToString::to_string).collect();
        let kind = "nvidia.com/gpu";
        assert_eq!(names, ["0", "1:0", "GPU-8f2d0b6e", "MIG-1", "all"].map(|device| format!("{kind}={device}")));
        let injected = place.resolve(&["nvidia.com/gpu=all"]).unwrap();
        assert_eq!(
            nodes(&injected.spec),
            [
                ("/dev/nvidia/zero".to_owned(), 1, 5, "rw".to_owned()),
                ("/dev/nvidia/full".to_owned(), 1, 7, "rw".to_owned())
            ]
        );
        // Without a hook each library has all its names where loaders look, and nothing is needed beyond mounts.
        let mut mounts: Vec<_> = injected.spec.mounts.iter().map(|it| it.destination.to_str().unwrap()).collect();
        mounts.sort_unstable();
        let names = ["libcuda.so", "libcuda.so.1", "libcuda.so.570.86.10"];
        let mut expected: Vec<String> = ["/usr/lib64", "/usr/lib/x86_64-linux-gnu"]
            .iter()
            .flat_map(|dir| names.map(|name| format!("{dir}/{name}")))
            .collect();
        expected.push("/usr/bin/nvidia-smi".to_owned());
        expected.sort_unstable();
        assert_eq!(mounts, expected);
        assert!(injected.actions.is_empty() && injected.root.links.is_empty() && injected.spec.hooks.is_empty());
        assert_eq!(injected.spec.env, [("CUDA_DEVICE_ORDER".to_owned(), "PCI_BUS_ID".to_owned())]);
    }
}

#[test]
fn with_nvidias_hook_libraries_stay_where_they_are() {
    for program in ["/usr/bin/nvidia-cdi-hook", "/usr/bin/nvidia-ctk"] {
        let place = Place::new();
        let text = written(&place, Some(Path::new(program)), Format::Yaml);
        let injected = place.file("etc/own.yaml", &text).resolve(&["nvidia.com/gpu=0"]).unwrap();
        assert_eq!(injected.actions, [NativeAction::LoaderDirectory("/usr/local/nvidia/lib64".into())]);
        assert_eq!(injected.root.links.len(), 3);
        assert_eq!(injected.spec.mounts.len(), 2);
    }
}

#[test]
fn names_of_devices_are_nvidias() {
    use crate::gpu::{Gpu, Inventory, MigDevice, MigMinors, Utilisation};
    let gpu = |index: u32, mig: &[&str]| Gpu {
        uuid: format!("GPU-{index}").parse().unwrap(),
        index,
        model: String::new(),
        pci: "0000:41:00.0".parse().unwrap(),
        minor: Some(index),
        memory: None,
        utilisation: Utilisation::default(),
        brand: None,
        compute_capability: None,
        mig_enabled: !mig.is_empty(),
        mig: (0..)
            .zip(mig)
            .map(|(index, uuid)| MigDevice {
                uuid: uuid.parse().unwrap(),
                index,
                profile: "1g.10gb".to_owned(),
                memory: None,
                minors: MigMinors::default(),
            })
            .collect(),
        unusable: None,
    };
    let inventory = Inventory { gpus: vec![gpu(0, &[]), gpu(1, &["MIG-a", "MIG-b"])], ..Inventory::default() };
    assert_eq!(device_names(&inventory), [["0", "GPU-0"], ["1:0", "MIG-a"], ["1:1", "MIG-b"]]);
}

#[test]
fn nothing_is_written_of_nothing() {
    let (common, devices) = (Edits::default(), [(Vec::new(), Edits::default())]);
    let output = Output {
        common: &common,
        links: &[],
        loader_directories: &[],
        standard_directories: &[],
        devices: &devices,
        hook: None,
        dev: Path::new("/dev"),
    };
    let message = describe(&write(&output, Format::Yaml).unwrap_err());
    assert_eq!(message, "there is no GPU that a CDI file could describe\nhint: `dockless gpu list` tells why");
    let names = vec!["a/b".to_owned()];
    let edits = Edits { env: vec![("A".to_owned(), "1".to_owned())], ..Edits::default() };
    let message = describe(&write(&Output { devices: &[(names, edits)], ..output }, Format::Json).unwrap_err());
    assert!(message.starts_with("the file would not be valid: device name `a/b` is malformed"), "{message}");
}

#[test]
fn a_device_has_bounds() {
    let items = vec![r#""A=1""#; 5000].join(",");
    assert!(Place::with_edits(&format!(r#"{{"env": [{items}]}}"#)).complaint().contains("more than 4096 `env`"));
    let items = (1..5000).map(|id| id.to_string()).collect::<Vec<_>>().join(",");
    let told = Place::with_edits(&format!(r#"{{"additionalGids": [{items}]}}"#)).complaint();
    assert!(told.contains("more than 4096 `additionalGids`"), "{told}");
}

proptest::proptest! {
    /// Bytes of a good file changed at random: whatever is made of it, nobody panics, and messages are harmless.
    #[test]
    fn damaged_files_are_errors_in_words(changes in proptest::collection::vec((0..NVIDIA.len(), 0_u8..128), 1..12)) {
        let mut bytes = NVIDIA.as_bytes().to_vec();
        for (index, byte) in changes {
            bytes[index] = byte;
        }
        let text = String::from_utf8(bytes).unwrap();
        match Document::parse(&text, Syntax::Yaml) {
            Err(problem) => proptest::prop_assert!(!problem.to_string().contains(['\0', '\u{1b}']), "{:?}", problem),
            Ok(document) => {
                let mut collector = super::edits::Collector::default();
                let all = document.devices.iter().map(|device| &device.container_edits);
                for edits in all.chain([&document.container_edits]) {
                    if let Err(problem) = collector.add(edits) {
                        proptest::prop_assert!(!problem.to_string().contains(['\0', '\u{1b}']), "{}", problem);
                    }
                }
                drop(collector.finish());
            }
        }
    }
}
