//! Whole specifications, compared with snapshots.

use std::path::Path;

use super::*;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n";
const GROUP: &str = "root:x:0:\napp:x:1000:\nvideo:x:44:app\n";
const FILES: ImageFiles<'static> = ImageFiles { passwd: Some(PASSWD), group: Some(GROUP) };

fn image() -> ImageConfig {
    ImageConfig {
        cmd: vec!["/bin/sh".to_owned()],
        env: vec!["PATH=/usr/bin:/bin".to_owned(), "LANG=C".to_owned()],
        ..ImageConfig::default()
    }
}

fn built(options: &Options, host: &HostFacts) -> Built {
    build(&image(), options, host, &FILES, &fixture::paths()).unwrap()
}

/// The JSON without the long list of system calls, which `seccomp.rs` tests.
fn json(built: &Built) -> String {
    let mut document: serde_json::Value = serde_json::from_str(&to_json(&built.spec).unwrap()).unwrap();
    let names = document.pointer_mut("/linux/seccomp/syscalls/0/names").unwrap();
    let count = names.as_array().unwrap().len();
    *names = serde_json::json!([format!("{count} names")]);
    serde_json::to_string_pretty(&document).unwrap()
}

#[test]
fn a_plain_image() {
    let built = built(&Options::default(), &fixture::host());
    insta::assert_snapshot!(json(&built));
    assert!(built.warnings.is_empty() && built.notes.is_empty());
    assert_eq!((built.working_dir.as_path(), built.stop_signal), (std::path::Path::new("/"), StopSignal::TERM));
}

/// Everything that can be asked for at once, as a difference from the plain one.
#[test]
fn all_options() {
    let directory = std::path::Path::new("/home");
    let options = Options {
        command: vec!["-c".to_owned(), "id".to_owned()],
        terminal: true,
        entrypoint: Some(vec!["sh".to_owned()]),
        env: vec![EnvSetting::set("LANG", "de").unwrap(), EnvSetting::set("HOME", "/tmp").unwrap()],
        user: Some("app".to_owned()),
        working_dir: Some("/work".to_owned()),
        hostname: Some("box".parse().unwrap()),
        default_hostname: Some("unused".parse().unwrap()),
        mounts: vec![
            MountSetting::from_volume("./data:/data:ro", directory).unwrap(),
            MountSetting::from_tmpfs("/scratch:size=1m").unwrap(),
        ],
        cpus: Some("1.5".parse().unwrap()),
        memory: Some("64m".parse().unwrap()),
        shm_size: ByteSize(1 << 30),
        network: Network::None,
        domainname: Some("example.org".parse().unwrap()),
        namespaces: Namespaces { ipc: IpcMode::None, cgroup: OwnOrHost::Host, ..Namespaces::default() },
        lookup: NameLookup::default(),
        read_only: true,
        read_only_tmpfs: true,
        edits: Edits::default(),
        ..Options::default()
    };
    let plain: Vec<String> = json(&built(&Options::default(), &fixture::host())).lines().map(str::to_owned).collect();
    let all = json(&built(&options, &fixture::host()));
    let added: Vec<&str> = all.lines().filter(|line| !plain.iter().any(|known| known == line)).collect();
    insta::assert_snapshot!(added.join("\n"));
}

#[test]
fn cgroup_versions_differ_in_read_only_paths_alone() {
    let options =
        Options { cpus: Some("0.5".parse().unwrap()), memory: Some("64m".parse().unwrap()), ..Options::default() };
    let cgroup = CgroupVersion::V1 { hierarchies: vec!["memory".to_owned()] };
    let v1 = built(&options, &HostFacts { cgroup, ..fixture::host() }).spec;
    let v2 = built(&options, &fixture::host()).spec;
    assert_eq!(v1.mounts(), v2.mounts());
    let (v1, v2) = (v1.linux().clone().unwrap(), v2.linux().clone().unwrap());
    assert_eq!(v1.resources(), v2.resources());
    let (v1, v2) = (v1.readonly_paths().clone().unwrap(), v2.readonly_paths().clone().unwrap());
    assert_eq!(v1[..v2.len()], v2);
    assert_eq!(v1[v2.len()..], ["/sys/fs/cgroup", "/sys/fs/cgroup/memory"]);
}

#[test]
fn what_is_written_is_read_again() {
    for network in [Network::Host, Network::None] {
        let built = built(&Options { network, user: Some("app".to_owned()), ..Options::default() }, &fixture::host());
        let json = to_json(&built.spec).unwrap();
        let read: Spec = serde_json::from_str(&json).unwrap();
        assert_eq!(read, built.spec);
        assert_eq!(to_json(&read).unwrap(), json, "the order changed");
    }
}

#[test]
fn host_names() {
    let name = |text: &str| Some(text.parse::<Hostname>().unwrap());
    for (asked, default, network, expected) in [
        (None, None, Network::Host, "node"),
        (None, name("run"), Network::Host, "node"),
        (name("box"), name("run"), Network::Host, "box"),
        (None, name("run"), Network::None, "run"),
        (name("box"), name("run"), Network::None, "box"),
        (None, None, Network::None, "localhost"),
    ] {
        let options = Options { hostname: asked, default_hostname: default, network, ..Options::default() };
        let built = built(&options, &fixture::host());
        assert_eq!(built.hostname, expected);
        assert_eq!(built.spec.hostname().as_deref(), Some(expected));
        assert!(
            built.spec.process().as_ref().unwrap().env().as_ref().unwrap().contains(&format!("HOSTNAME={expected}"))
        );
    }
}

#[test]
fn the_images_user_and_signal_count() {
    let image = ImageConfig { user: "app".to_owned(), stop_signal: Some("SIGQUIT".to_owned()), ..image() };
    let built = build(&image, &Options::default(), &fixture::host(), &FILES, &fixture::paths()).unwrap();
    assert_eq!((built.identity.uid, built.identity.groups.as_slice()), (1000, &[1000, 44][..]));
    assert_eq!(built.stop_signal.to_string(), "SIGQUIT");

    let over = Options { user: Some("0".to_owned()), ..Options::default() };
    assert!(build(&image, &over, &fixture::host(), &FILES, &fixture::paths()).unwrap().identity.is_root());

    let odd = ImageConfig { stop_signal: Some("SIG\u{1b}WHAT".to_owned()), ..self::image() };
    let built = build(&odd, &Options::default(), &fixture::host(), &FILES, &fixture::paths()).unwrap();
    assert_eq!(built.stop_signal, StopSignal::TERM);
    assert_eq!(built.warnings, ["stop signal `SIG\\u{1b}WHAT` of the image is unknown, SIGTERM is used instead"]);
}

#[test]
fn errors_name_what_is_to_blame() {
    let options = |change: &dyn Fn(&mut Options)| {
        let mut options = Options::default();
        change(&mut options);
        options
    };
    for (options, reason) in [
        (options(&|o| o.user = Some("ghost".to_owned())), "user `ghost` of `--user`"),
        (options(&|o| o.working_dir = Some("here".to_owned())), "`--workdir`"),
        (options(&|o| o.cpus = Some("9".parse().unwrap())), "expected 0.01 to 8.00"),
        (options(&|o| o.entrypoint = Some(Vec::new())), "no command to run"),
        (options(&|o| o.command = vec!["a\0b".to_owned()]), "holds a NUL byte: `a\\0b`"),
    ] {
        let message = build(&image(), &options, &fixture::host(), &FILES, &fixture::paths()).unwrap_err().to_string();
        assert!(message.contains(reason), "{message}");
    }
}

/// What devices bring, as a difference from the plain one.
#[test]
fn edits_of_devices() {
    let device = |name: &str, minor| Device {
        path: Path::new("/dev").join(name),
        kind: DeviceKind::Char,
        major: 195,
        minor,
        mode: 0o660,
        uid: 0,
        gid: 44,
        access: "rw".to_owned(),
    };
    let mount = |source: &str, destination: &str| EditMount {
        source: source.into(),
        destination: destination.into(),
        options: ["rbind", "rprivate", "ro", "nosuid", "nodev"].map(str::to_owned).to_vec(),
        kind: "bind".to_owned(),
    };
    let edits = Edits {
        env: vec![
            ("LANG".to_owned(), "of the device".to_owned()),
            ("NVIDIA_VISIBLE_DEVICES".to_owned(), "void".to_owned()),
        ],
        devices: vec![device("nvidia0", 0), device("nvidia-caps/nvidia-cap1", 1)],
        mounts: vec![mount("/driver/lib", "/usr/local/nvidia/lib64"), mount("/driver/taken", "/data")],
        groups: vec![44],
        hooks: vec![EditHook {
            stage: "createRuntime".to_owned(),
            path: "/usr/bin/hook".into(),
            args: vec!["hook".to_owned()],
            env: Vec::new(),
            timeout: Some(5),
        }],
    };
    let options = Options {
        mounts: vec![MountSetting::from_volume("/mine:/data", Path::new("/")).unwrap()],
        env: vec![EnvSetting::set("LANG", "de").unwrap()],
        edits,
        ..Options::default()
    };
    let plain: Vec<String> = json(&built(&Options::default(), &fixture::host())).lines().map(str::to_owned).collect();
    let built = built(&options, &fixture::host());
    let all = json(&built);
    let new: Vec<&str> = all.lines().filter(|line| !plain.iter().any(|old| old == line)).collect();
    insta::assert_snapshot!(new.join("\n"));
    assert!(plain.iter().any(|line| line.contains("CAP_MKNOD")) && !all.contains("CAP_MKNOD"));
    assert_eq!(built.warnings, ["the device's own `/data` is hidden by a mount that was asked for"]);
    // Nothing of it without devices.
    assert!(!plain.iter().any(|line| line.contains("hooks") || line.contains("195")));
}
