//! Descriptions of devices read by podman as well: does it see what we see, and can it use what we write?
//!
//! podman looks into `/run/cdi` whatever it is told, so it runs in a mount namespace with a `/run` of its own.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use dockless::gpu::cdi::{Format, Output, QualifiedName, Registry, write};
use dockless::rootfs::RootLink;
use dockless::spec::{EditMount, Edits};

use crate::support::env::{finish, have, have_root, program};

const DESCRIPTION: &str = r#"
cdiVersion: "0.5.0"
kind: vendor.com/card
containerEdits:
  env: ["SHARED=for all", "SIMPLE=overridden"]
  mounts:
  - {hostPath: DIR/deep, containerPath: /opt/card/deep/file, options: [ro, nosuid, nodev, bind]}
  - {hostPath: DIR/tree, containerPath: /opt/card, options: [rbind, ro]}
devices:
- name: first
  containerEdits:
    env: [SIMPLE=first]
    deviceNodes:
    - {path: /dev/card/first, hostPath: /dev/zero, permissions: rw}
    - {path: /dev/plain, hostPath: /dev/full}
- name: second
  containerEdits:
    env: [SECOND=2]
    mounts:
    - {hostPath: DIR/deep, containerPath: /usr/lib64/libsecond.so, options: [bind, noexec]}
"#;

/// Without systemd, and within the limits of a machine that lets nobody raise them.
const CONFIGURATION: &str = r#"
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
lock_type = "file"
runtime = "runc"
tmp_dir = "TMP"
"#;

/// A directory with a root file system, the description and what it names.
struct Stage {
    directory: tempfile::TempDir,
}

impl Stage {
    /// Nothing if there is no podman to ask. scripts/setup installs it for comparisons of speed only.
    fn new() -> Option<Self> {
        if !have_root() || !have(&["unshare"]) || !Path::new("/usr/bin/podman").exists() {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        for name in ["root/bin", "root/proc", "root/sys", "root/dev", "root/etc", "root/tmp", "tree/deep", "cdi", "dev"]
        {
            fs::create_dir_all(path.join(name)).unwrap();
        }
        fs::copy("/bin/busybox", path.join("root/bin/busybox")).unwrap();
        symlink("busybox", path.join("root/bin/sh")).unwrap();
        fs::write(path.join("deep"), "deep").unwrap();
        fs::write(path.join("tree/deep/file"), "").unwrap();
        for name in ["root", "cdi"] {
            fs::set_permissions(path.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let temporary = path.join("podman").display().to_string();
        fs::write(path.join("containers.conf"), CONFIGURATION.replace("TMP", &temporary)).unwrap();
        Some(Self { directory })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().canonicalize().unwrap().join(name)
    }

    fn describe(&self, name: &str, text: &str) {
        let directory = self.path("").display().to_string();
        fs::write(self.path("cdi").join(name), text.replace("DIR", directory.trim_end_matches('/'))).unwrap();
    }

    /// What a script says in a container that podman makes with these devices.
    fn podman(&self, devices: &[&str], script: &str) -> String {
        let flags = devices.iter().flat_map(|device| [" --device ", device]).collect::<String>();
        let directory = self.path("");
        let at = directory.display();
        let all = format!(
            "mount -t tmpfs tmpfs /run && mkdir /run/cdi && cp {at}/cdi/* /run/cdi/ && exec podman --root {at}/store \
             --runroot /run/podman run --rm --network none{flags} --rootfs {at}/root /bin/sh -c \"$1\""
        );
        let mut unshare = program("unshare", ["--mount", "sh", "-c", &all, "sh", script]);
        finish(unshare.env("CONTAINERS_CONF", self.path("containers.conf"))).text()
    }
}

#[test]
fn podman_reads_a_description_as_we_do() {
    let Some(stage) = Stage::new() else { return };
    stage.describe("card.yaml", DESCRIPTION);
    let names = ["vendor.com/card=first", "vendor.com/card=second"];
    let registry = Registry::read(&[stage.path("cdi")]);
    assert_eq!(registry.warnings(), []);
    let wanted: Vec<QualifiedName> = names.iter().map(|name| name.parse().unwrap()).collect();
    let ours = registry.resolve(&wanted).unwrap();

    let seen = stage.podman(&names, "busybox env; busybox cat /proc/mounts; busybox ls -l /dev/card/first /dev/plain");
    for (name, value) in &ours.spec.env {
        assert!(seen.lines().any(|line| line == format!("{name}={value}")), "{name}={value} is not in\n{seen}");
    }
    for mount in &ours.spec.mounts {
        let at = format!(" {} ", mount.destination.display());
        let line = seen.lines().find(|line| line.contains(&at)).unwrap_or_else(|| panic!("{at} is not in\n{seen}"));
        let flags: Vec<&str> = line.split(' ').nth(3).unwrap().split(',').collect();
        for option in
            mount.options.iter().filter(|option| ["ro", "nosuid", "nodev", "noexec"].contains(&option.as_str()))
        {
            assert!(flags.contains(&option.as_str()), "{option} is not in {line}");
        }
    }
    for device in &ours.spec.devices {
        let path = device.path.display().to_string();
        let line =
            seen.lines().find(|line| line.ends_with(&path)).unwrap_or_else(|| panic!("{path} is not in\n{seen}"));
        let numbers: String = line.split_whitespace().skip(4).take(2).collect();
        assert_eq!(numbers, format!("{},{}", device.major, device.minor), "{line}");
        assert!(line.starts_with("crw-rw-rw-"), "{line}");
    }
    assert_eq!(ours.spec.mounts.len() + ours.spec.devices.len() + ours.spec.env.len(), 8);
}

#[test]
fn podman_uses_what_we_write() {
    let Some(stage) = Stage::new() else { return };
    let mount = |name: &str, destination: &str| EditMount {
        source: stage.path(name),
        destination: destination.into(),
        options: ["ro", "nosuid", "nodev", "rbind", "rprivate", "rro"].map(str::to_owned).to_vec(),
        kind: "bind".to_owned(),
    };
    let common = Edits {
        env: vec![("CUDA_DEVICE_ORDER".to_owned(), "PCI_BUS_ID".to_owned())],
        mounts: vec![mount("deep", "/usr/local/nvidia/lib64/libcuda.so.570.86.10")],
        ..Edits::default()
    };
    let links =
        [RootLink { path: "/usr/local/nvidia/lib64/libcuda.so.1".into(), target: "libcuda.so.570.86.10".into() }];
    let node = dockless::spec::Device {
        path: "/dev/nvidia0".into(),
        kind: dockless::spec::DeviceKind::Char,
        major: 195,
        minor: 0,
        mode: 0o666,
        uid: 0,
        gid: 0,
        access: "rw".to_owned(),
    };
    // A real node: podman wants to see it on this machine.
    finish(&mut program("mknod", [stage.path("dev/nvidia0").to_str().unwrap(), "c", "195", "0"])).text();
    let devices =
        [(vec!["0".to_owned(), "GPU-8f2d0b6e-0d5c".to_owned()], Edits { devices: vec![node], ..Edits::default() })];
    for (name, format) in [("own.json", Format::Json), ("own.yaml", Format::Yaml)] {
        let output = Output {
            common: &common,
            links: &links,
            loader_directories: &["/usr/local/nvidia/lib64".into()],
            standard_directories: &["/usr/lib64".into(), "/usr/lib/x86_64-linux-gnu".into()],
            devices: &devices,
            hook: None,
            dev: &stage.path("dev"),
        };
        stage.describe(name, &write(&output, format).unwrap());
        for device in ["0", "GPU-8f2d0b6e-0d5c", "all"] {
            let seen = stage.podman(
                &[&format!("nvidia.com/gpu={device}")],
                "busybox ls -l /dev/nvidia0; busybox cat /usr/lib64/libcuda.so.1 /usr/lib/x86_64-linux-gnu/libcuda.so.1; echo $CUDA_DEVICE_ORDER",
            );
            let numbers: String = seen.split_whitespace().skip(4).take(2).collect();
            assert_eq!(numbers, "195,0", "{seen}");
            assert!(seen.ends_with("deepdeepPCI_BUS_ID") || seen.ends_with("deepdeepPCI_BUS_ID\n"), "{seen}");
        }
        fs::remove_file(stage.path("cdi").join(name)).unwrap();
    }
}
