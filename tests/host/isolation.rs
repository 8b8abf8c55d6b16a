//! What a container must not have, see or do.

use std::os::unix::process::CommandExt;
use std::path::Path;

use dockless::container::attach_rules;
use oci_spec::runtime::Spec;

use crate::base::{app, app_with};
use crate::support::env::{TestEnv, finish, finish_with, have_root, program, skip};
use crate::support::image::Entry;

/// The value of a line of /proc/self/status in a container.
fn status(env: &TestEnv, flags: &[&str], key: &str) -> String {
    let output = env.script(flags, "exec cat /proc/self/status").text();
    let value = output.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    value.expect("a line of that name").trim().to_owned()
}

#[test]
fn capabilities_are_dockers() {
    let Some(env) = app() else { return };
    let docker = "00000000a80425fb";
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(status(&env, &[], set), docker, "{set}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(status(&env, &[], set), "0000000000000000", "{set}");
    }
    for (set, expected) in [("CapPrm", "0000000000000000"), ("CapEff", "0000000000000000"), ("CapBnd", docker)] {
        assert_eq!(status(&env, &["-u", "app"], set), expected, "{set} of a user");
    }
}

#[test]
fn system_calls_are_filtered() {
    let Some(env) = app() else { return };
    for flags in [&[][..], &["-u", "app"]] {
        assert_eq!(status(&env, flags, "Seccomp"), "2");
    }
    for script in [
        "unshare -U true",
        "unshare -Ur true",
        "unshare -m true",
        "unshare -n true",
        "mount -t tmpfs none /tmp",
        "mount -o remount,rw /proc/sys",
        "mount -o bind /bin /tmp",
        "umount /dev/shm",
        "chroot / mount -t proc proc /proc",
        "date -s 2001-01-01",
        "pivot_root /tmp /tmp",
        "insmod /bin/busybox",
        "ip link add dummy0 type dummy",
    ] {
        let output = env.script(&["--network", "none"], &format!("{script}; true")).code(0);
        let refused = ["not permitted", "ermission denied", "ead-only"].iter().any(|word| output.stderr.contains(word));
        assert!(refused, "`{script}`: {output:?}");
    }
}

/// libcontainer 0.7 reads masked comparisons the wrong way round; see `spec::seccomp`.
#[test]
fn user_namespaces_cannot_be_made() {
    let Some(env) = app() else { return };
    for user in ["root", "app"] {
        let output = env.script(&["-u", user], "unshare -U true").code(1);
        assert!(output.stderr.contains("Operation not permitted"), "{}", output.stderr);
    }
    // Threads and processes can.
    env.script(&[], "sleep 0 & wait $!").code(0);
}

#[test]
fn the_kernels_files_are_read_only_or_hidden() {
    let Some(env) = app() else { return };
    let script = r#"
        for file in /proc/sys/kernel/panic /proc/sys/vm/drop_caches /proc/sysrq-trigger /proc/irq/default_smp_affinity \
            /sys/kernel/mm/ksm/run /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory/cgroup.procs \
            /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/devices/devices.allow /sys/fs/cgroup/memory.max \
            /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/release_agent /sys/fs/cgroup/memory/release_agent; do
            [ -e $file ] || continue
            (echo 1 >$file) 2>/dev/null && echo "wrote $file"
        done
        mkdir /sys/fs/cgroup/memory/new /sys/fs/cgroup/new 2>/dev/null && echo "made a cgroup"
        for file in /proc/kcore /proc/keys /proc/timer_list /proc/interrupts /sys/firmware /proc/acpi /proc/scsi; do
            [ -e $file ] || continue
            if [ -d $file ]; then [ -z "$(ls $file)" ] || echo "sees $file"
            else [ -z "$(head -c 1 $file)" ] || echo "sees $file"; fi
        done
        true
    "#;
    assert_eq!(env.script(&[], script).text(), "");
}

#[test]
fn devices_are_the_harmless_ones() {
    let Some(env) = app() else { return };
    let script = r"
        ls /dev
        mknod /tmp/disk b 254 0 && dd if=/tmp/disk of=/dev/null count=1 2>&1 | grep -o 'Operation not permitted'
        mknod /tmp/mem c 1 1 && dd if=/tmp/mem of=/dev/null count=1 2>&1 | grep -o 'Operation not permitted'
        mknod /tmp/null c 1 3 && echo x >/tmp/null && echo null works
        head -c 4 /dev/urandom | wc -c
    ";
    let output = env.script(&[], script).text();
    let (devices, rest) = output.split_at(output.find("Operation").expect("a refusal"));
    let devices: Vec<&str> = devices.split_whitespace().collect();
    let expected = [
        // A link to `/proc/kcore`, which is masked, where the kernel has that.
        "core", "fd", "full", "kcore", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout",
        "tty", "urandom", "zero",
    ];
    let unexpected: Vec<_> = devices.iter().filter(|name| !expected.contains(*name) && **name != "console").collect();
    assert!(unexpected.is_empty(), "{unexpected:?}");
    assert!(
        ["fd", "null", "ptmx", "pts", "shm", "stdin", "zero"].iter().all(|name| devices.contains(name)),
        "{devices:?}"
    );
    assert_eq!(rest, "Operation not permitted\nOperation not permitted\nnull works\n4");
}

#[test]
fn namespaces_are_the_containers_own() {
    let Some(env) = app() else { return };
    let script = "echo $$; for ns in pid mnt uts ipc cgroup net user; do readlink /proc/self/ns/$ns; done; ps | wc -l";
    let output = env.script(&["--network", "none"], script).text();
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[0], "1");
    for (line, name) in lines[1..].iter().zip(["pid", "mnt", "uts", "ipc", "cgroup", "net"]) {
        let ours = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_ne!(*line, ours.to_str().unwrap(), "{name}");
    }
    // Header, shell, ps, wc.
    assert!(lines[8].trim().parse::<u32>().unwrap() <= 5, "{output}");
}

#[test]
fn the_hosts_mounts_are_not_seen() {
    let Some(env) = app() else { return };
    let mounts = env.script(&[], "cat /proc/mounts").text();
    let places: Vec<&str> = mounts.lines().map(|line| line.split(' ').nth(1).unwrap()).collect();
    let ok = ["/", "/proc", "/dev", "/sys", "/etc/resolv.conf", "/etc/hosts", "/etc/hostname"];
    let below = ["/proc/", "/dev/", "/sys/"];
    let foreign: Vec<_> =
        places.iter().filter(|place| !ok.contains(place) && !below.iter().any(|top| place.starts_with(top))).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    assert_eq!(env.script(&[], "cd /; ls -d ../../..; cd -P /proc/1/cwd && pwd -P").code(0).stdout, "../../..\n/\n");
}

#[test]
fn descriptors_of_the_caller_stay_outside() {
    let Some(env) = app() else { return };
    let run = env.command(["run", "--rm", "-i", "app", "ls", "/proc/self/fd"]);
    let mut command = program("sh", ["-c", "exec 7</etc/passwd 9<>/dev/null; exec \"$@\"", "sh"]);
    let output = finish_with(command.arg(run.get_program()).args(run.get_args()), b"");
    // The last is the directory that is listed.
    assert_eq!(output.text(), "0\n1\n2\n3");
}

/// Ignored signals and a signal mask pass through execve(2). Signals 32 and 33 are glibc's own: its `posix_spawn` ignores
/// them in every child, and nobody can tell it otherwise.
#[test]
fn signals_are_those_of_a_fresh_process() {
    let Some(env) = app() else { return };
    let mut command = program("sh", ["-c", "trap '' PIPE INT HUP USR1 TERM CHLD; exec \"$@\"", "sh"]);
    let run = env.command(["run", "--rm", "app", "cat", "/proc/self/status"]);
    let output = finish(command.arg(run.get_program()).args(run.get_args())).text();
    let mask = |key: &str| {
        let value = output.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap();
        u64::from_str_radix(value.trim(), 16).unwrap()
    };
    let internal = 3 << 31;
    assert_eq!((mask("SigIgn") & !internal, mask("SigBlk")), (0, 0));
    let output = env.script(&[], "yes | head -n 1; echo $?").text();
    assert_eq!(output, "y\n0");
}

#[test]
fn umask_and_priority_are_ordinary() {
    let Some(env) = app() else { return };
    let mut command = program("sh", ["-c", "umask 0077; exec \"$@\"", "sh"]);
    let script = "umask; touch /tmp/x; stat -c %a /tmp/x; cat /proc/self/oom_score_adj";
    let run = env.command(["run", "--rm", "app", "sh", "-c", script]);
    let output = finish(command.arg(run.get_program()).args(run.get_args()));
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    assert_eq!(output.text(), format!("0022\n644\n{}", own.trim()));
}

/// A caller whose umask hides everything must not make the image's files unreadable for its users.
#[test]
fn the_callers_umask_does_not_reach_the_image() {
    let Some(env) = app_with(|image| image.dir("data").file("data/x", "readable")) else { return };
    let mut command = program("sh", ["-c", "umask 0077; exec \"$@\"", "sh"]);
    let run = env.command([
        "run",
        "--rm",
        "-u",
        "app",
        "-w",
        "/made",
        "app",
        "sh",
        "-c",
        "cat /data/x /etc/hosts >/dev/null && pwd",
    ]);
    assert_eq!(finish(command.arg(run.get_program()).args(run.get_args())).text(), "/made");
}

#[test]
fn the_environment_of_the_caller_stays_outside() {
    let Some(env) = app() else { return };
    let mut command = env.command(["run", "--rm", "app", "sh", "-c", "env; cat /proc/1/environ | tr '\\0' '\\n'"]);
    command.env("SECRET", "of the caller").env("LISTEN_FDS", "3").env("NOTIFY_SOCKET", "/x").arg0("dockless");
    let output = finish(&mut command).text();
    assert!(!["SECRET", "LISTEN_FDS", "NOTIFY_SOCKET"].iter().any(|name| output.contains(name)), "{output}");
}

/// Setuid programs of the image work, as with docker: `no_new_privs` is off.
#[test]
fn setuid_programs_of_the_image_work() {
    let busybox = std::fs::read("/bin/busybox").unwrap();
    let image =
        |image: crate::support::image::ImageBuilder| image.entry(Entry::file("bin/su-id", busybox).mode(0o4755));
    let Some(env) = app_with(image) else { return };
    assert_eq!(
        env.script(&["-u", "app"], "stat -c %a /bin/su-id; cp /bin/su-id /tmp/id 2>&1; echo done").text(),
        "4755\ndone"
    );
    assert_eq!(status(&env, &[], "NoNewPrivs"), "0");
}

/// On this machine's unified hierarchy, whether or not it is the one that containers are in.
#[test]
fn device_rules_hold_on_cgroup_v2() {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    let unified = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|fields| fields[2] == "cgroup2");
    let Some(unified) = unified.filter(|_| have_root()) else {
        skip("no cgroup2 is mounted");
        return;
    };
    let cgroup = Path::new(unified[1]).join(format!("dockless-test-{}", std::process::id()));
    std::fs::create_dir(&cgroup).unwrap();
    let rules = serde_json::json!({ "ociVersion": "1.1.0", "linux": { "resources": { "devices": [
        { "allow": false, "access": "rwm" },
        { "allow": true, "type": "c", "access": "m" },
        { "allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm" },
        { "allow": true, "type": "c", "major": 1, "minor": 5, "access": "r" },
    ] } } });
    let spec: Spec = serde_json::from_value(rules).unwrap();
    attach_rules(&cgroup, &spec).unwrap();
    let script = "echo $$ >$0/cgroup.procs
        try() { (eval \"$2\") 2>/dev/null && echo $1; }
        try null ': <>/dev/null'; try zero ': </dev/zero'; try write ': >/dev/zero'; try full ': </dev/full'
        try made \"mknod $1/node c 1 7\"; try open \": <$1/node\"; true";
    let dir = tempfile::tempdir().unwrap();
    let words = ["-c".as_ref(), script.as_ref(), cgroup.as_os_str(), dir.path().as_os_str()];
    let output = finish(&mut program("sh", words)).text();
    std::fs::remove_dir(&cgroup).unwrap();
    assert_eq!(output.split_whitespace().collect::<Vec<_>>(), ["null", "zero", "made"]);
}
