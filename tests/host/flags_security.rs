//! Flags of security: what the workload may do, tried in a container.

use crate::base::app;
use crate::support::env::{TestEnv, finish, have, program, skip, tool};

/// What the kernel says about the process: `CapEff`, `Seccomp`, …
fn status(env: &TestEnv, flags: &[&str], key: &str) -> String {
    let text = env.script(flags, &format!("grep ^{key}: /proc/self/status")).code(0);
    text.stdout.split_whitespace().nth(1).unwrap().to_owned()
}

fn capabilities(env: &TestEnv, flags: &[&str], set: &str) -> u64 {
    u64::from_str_radix(&status(env, flags, set), 16).unwrap()
}

/// What this process could give.
fn bounding() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

const DEFAULTS: u64 = 0xa804_25fb;
const CHOWN: u64 = 1;
const NET_ADMIN: u64 = 1 << 12;
const SYS_ADMIN: u64 = 1 << 21;
const SYS_TIME: u64 = 1 << 25;

#[test]
fn capabilities_are_added_and_dropped() {
    let Some(env) = app() else { return };
    let machine = bounding();
    for (flags, expected) in [
        (&[][..], DEFAULTS & machine),
        (&["--cap-add", "net_admin"], (DEFAULTS & machine) | NET_ADMIN),
        (&["--cap-add", "CAP_NET_ADMIN", "--cap-drop", "chown"], (DEFAULTS & machine & !CHOWN) | NET_ADMIN),
        (&["--cap-drop", "all"], 0),
        (&["--cap-drop", "ALL", "--cap-add", "SYS_TIME", "--cap-add", "Cap_Chown"], SYS_TIME | CHOWN),
        (&["--cap-add", "ALL", "--cap-drop", "SYS_ADMIN"], machine & !SYS_ADMIN),
        (&["--privileged"], machine),
    ] {
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            assert_eq!(capabilities(&env, flags, set), expected, "{set} with {flags:?}");
        }
        // Like docker's: another user has them in reach of set-user-ID programs alone.
        let user = [flags, &["--user", "app"]].concat();
        assert_eq!((capabilities(&env, &user, "CapBnd"), capabilities(&env, &user, "CapEff")), (expected, 0));
    }
    // As it is felt.
    let fails = |flags: &[&str], script: &str| {
        let output = env.script(flags, script).code(1);
        assert!(output.stderr.contains("not permitted") || output.stderr.contains("denied"), "{output:?}");
    };
    fails(&["--cap-drop", "CHOWN"], "touch /f && chown 5 /f");
    fails(&["--cap-drop", "mknod"], "mknod /null c 1 3");
    fails(&[], "mount -t tmpfs none /tmp");
    env.script(&["--cap-add", "SYS_ADMIN"], "mount -t tmpfs none /tmp && umount /tmp").code(0);
    env.assert_clean();
}

#[test]
fn a_capability_that_cannot_be_given_is_refused() {
    let Some(env) = app() else { return };
    let missing =
        [("SYS_RESOURCE", 24), ("MAC_ADMIN", 33)].into_iter().find(|(_, number)| bounding() & (1 << number) == 0);
    let Some((name, _)) = missing else { return };
    env.container(&["--cap-add", name, "app", "true"])
        .refused(125, &[&format!("`--cap-add {name}`: this machine does not give it")]);
}

#[test]
fn a_privileged_container_is_close_to_the_machine() {
    let Some(env) = app() else { return };
    let script = "
        grep ^Seccomp: /proc/self/status | tr -d '\\t'
        mount -t tmpfs none /tmp && echo mounts
        v=$(cat /proc/sys/vm/swappiness) && echo $v > /proc/sys/vm/swappiness && echo writes /proc/sys
        d=/sys/fs/cgroup; [ -e $d/cgroup.controllers ] || d=$d/memory
        mkdir $d/inner 2>/dev/null && echo writes cgroups
        grep -c ' /sys sysfs ro' /proc/mounts
        head -n 1 /proc/interrupts | grep -q CPU && echo sees /proc/interrupts
        mknod /kmsg c 1 11 && dd if=/kmsg of=/dev/null bs=8192 count=1 2>/dev/null && echo reads any device
        for f in kmsg loop-control; do test -e /dev/$f && echo $f; done; ls -l /dev/kmsg | cut -c 1";
    let there: Vec<&str> =
        ["kmsg", "loop-control"].into_iter().filter(|name| std::path::Path::new("/dev").join(name).exists()).collect();
    let output = env.script(&["--privileged"], script);
    let text = output.stdout.clone();
    for expected in
        ["Seccomp:0", "mounts", "writes /proc/sys", "writes cgroups", "sees /proc/interrupts", "reads any device"]
    {
        assert!(text.lines().any(|line| line == expected), "{expected}: {output:?}");
    }
    for name in there {
        assert!(text.lines().any(|line| line == name), "{name}: {output:?}");
    }
    assert!(text.lines().any(|line| line == "0"), "/sys is read-only: {text}");
    // And others are not.
    let output = env.script(&[], script);
    for hidden in [
        "Seccomp:0",
        "mounts",
        "writes /proc/sys",
        "writes cgroups",
        "sees /proc/interrupts",
        "reads any device",
        "kmsg",
    ] {
        assert!(!output.stdout.lines().any(|line| line == hidden), "{hidden}: {output:?}");
    }
    env.assert_clean();
}

#[test]
fn a_privileged_container_gets_the_machines_devices() {
    let Some(env) = app() else { return };
    let script = "find /dev -type b -o -type c | grep -v -e ^/dev/pts/ | sort";
    let seen = env.script(&["--privileged"], script).text();
    let there = tool("find", ["/dev", "-xdev", "-type", "b", "-o", "-type", "c"]);
    for path in
        there.lines().filter(|path| !path.starts_with("/dev/pts/") && !matches!(*path, "/dev/console" | "/dev/ptmx"))
    {
        assert!(seen.lines().any(|line| line == path), "{path} is missing");
    }
    let usual = env.script(&[], script).text();
    assert_eq!(usual.lines().count(), 6, "{usual}");
}

/// The default takes the place of what is there; a profile of docker's form decides by name, argument and condition.
#[test]
fn a_filter_of_the_users_own_is_applied() {
    let Some(env) = app() else { return };
    assert_eq!(status(&env, &[], "Seccomp"), "2");
    assert_eq!(status(&env, &["--security-opt", "seccomp=builtin"], "Seccomp"), "2");
    assert_eq!(status(&env, &["--security-opt", "seccomp=unconfined"], "Seccomp"), "0");
    let profile = env.write(
        "profile.json",
        r#"{"defaultAction": "SCMP_ACT_ALLOW",
            "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
            "syscalls": [
                {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 30},
                {"names": ["chmod", "fchmodat"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_NET_ADMIN"]}},
                {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95,
                 "args": [{"index": 1, "value": 3, "valueTwo": 2, "op": "SCMP_CMP_MASKED_EQ"}]}]}"#,
    );
    let seccomp = format!("seccomp={profile}");
    let misspelt =
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdri"], "action": "SCMP_ACT_ERRNO"}]}"#;
    let misspelt = format!("seccomp={}", env.write("misspelt.json", misspelt));
    let told = env.script(&["--security-opt", &misspelt], "mkdir /new && echo made").code(0);
    assert!(
        told.stdout == "made\n" && told.stderr.contains("not known, rules for them have no effect: `mkdri`"),
        "{told:?}"
    );
    let script = "
        mkdir /new 2>&1; chmod 700 /tmp 2>&1 && echo chmod
        trap '' INT HUP USR1 USR2 WINCH; for s in 1 2 10 12 28; do kill -$s $$ 2>/dev/null && echo signal $s; done; true";
    let text = env.script(&["--security-opt", &seccomp], script).code(0).stdout;
    assert!(text.contains("Read-only file system") && text.contains("Operation not permitted"), "{text}");
    // Of the signals those are refused whose number has the two lowest bits `10`: 2 and 10.
    let signals: Vec<&str> = text.lines().filter(|line| line.starts_with("signal")).collect();
    assert_eq!(signals, ["signal 1", "signal 12", "signal 28"], "{text}");
    let text = env.script(&["--security-opt", &seccomp, "--cap-add", "NET_ADMIN"], script).code(0).stdout;
    assert!(text.contains("chmod\n"), "{text}");
    // A privileged container has the filter that it was given.
    let text = env.script(&["--privileged", "--security-opt", &seccomp], "mkdir /new 2>&1; true").code(0).stdout;
    assert!(text.contains("Read-only file system"), "{text}");
    // Runtimes that follow the specification get the comparison as it stands.
    let spec = env.run(["spec", "--security-opt", &seccomp, "app"]).code(0);
    let spec: serde_json::Value = serde_json::from_str(&spec.stdout).unwrap();
    let argument = &spec["linux"]["seccomp"]["syscalls"][2]["args"][0];
    assert_eq!((&argument["value"], &argument["valueTwo"]), (&3.into(), &2.into()));
    env.assert_clean();
}

#[test]
fn new_privileges_are_forbidden_when_that_is_asked_for() {
    let Some(env) = app() else { return };
    for (option, expected) in [
        (None, "0"),
        (Some("no-new-privileges"), "1"),
        (Some("no-new-privileges:true"), "1"),
        (Some("no-new-privileges=false"), "0"),
    ] {
        let flags: Vec<&str> = option.iter().flat_map(|option| ["--security-opt", *option]).collect();
        assert_eq!(status(&env, &flags, "NoNewPrivs"), expected, "{option:?}");
        let user = [&flags[..], &["--user", "app"]].concat();
        assert_eq!(status(&env, &user, "NoNewPrivs"), expected, "{option:?}");
        assert_eq!(status(&env, &user, "Seccomp"), "2", "{option:?}");
    }
}

#[test]
fn system_paths_can_be_left_open() {
    let Some(env) = app() else { return };
    let script =
        "head -n 1 /proc/interrupts | grep -q CPU && echo sees; echo 10 > /proc/sys/vm/stat_interval 2>/dev/null && echo writes;
        mkdir /sys/fs/cgroup/*/inner /sys/fs/cgroup/inner 2>/dev/null && echo escapes; true";
    let interval = std::fs::read_to_string("/proc/sys/vm/stat_interval").unwrap();
    let script = &script.replace("echo 10", &format!("echo {}", interval.trim()));
    assert_eq!(env.script(&[], script).text(), "");
    assert_eq!(env.script(&["--security-opt", "systempaths=unconfined"], script).text(), "sees\nwrites");
    env.script(&["--security-opt", "label=disable", "--security-opt", "apparmor=unconfined"], "true").code(0);
}

#[test]
fn groups_are_added_by_name_and_number() {
    let Some(env) = app() else { return };
    let groups = |flags: &[&str]| env.script(flags, "grep ^Groups: /proc/self/status").text().replace('\t', " ");
    assert_eq!(
        groups(&["--user", "app", "--group-add", "root", "--group-add", "4242"]).trim(),
        "Groups: 0 44 1001 4242"
    );
    assert_eq!(groups(&["--user", "5:6", "--group-add", "video", "--group-add", "44"]).trim(), "Groups: 6 44");
    env.container(&["--group-add", "nobodies", "app", "true"])
        .refused(125, &["`--group-add nobodies`: not in the image's /etc/group"]);
    env.container(&["--group-add", "4294967295", "app", "true"]).refused(125, &["too large"]);
}

#[test]
fn parameters_of_namespaces_are_set() {
    let Some(env) = app() else { return };
    let flags = [
        "--network",
        "none",
        "--sysctl",
        "net.ipv4.ip_forward=1",
        "--sysctl",
        "kernel.msgmax=4321",
        "--sysctl",
        "net.ipv4.ip_unprivileged_port_start=500",
        "--sysctl",
        "fs.mqueue.msg_max=7",
    ];
    let script =
        "cd /proc/sys; cat net/ipv4/ip_forward kernel/msgmax net/ipv4/ip_unprivileged_port_start fs/mqueue/msg_max";
    let before = std::fs::read_to_string("/proc/sys/kernel/msgmax").unwrap();
    assert_eq!(env.script(&flags, script).text(), "1\n4321\n500\n7");
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/msgmax").unwrap(), before, "the machine's own");
    // What the kernel does not know is found by it, and nothing is left behind.
    env.container(&["--network", "none", "--sysctl", "net.ipv4.no_such_thing=1", "app", "true"])
        .refused(125, &["hint: `--sysctl`", "`net.ipv4.no_such_thing`"]);
    env.container(&["--sysctl", "kernel.msgmax=many", "app", "true"])
        .refused(125, &["hint: `--sysctl`", "`kernel.msgmax`"]);
    env.assert_clean();
}

/// Before anything is fetched: the image is nowhere.
#[test]
fn bad_security_flags_are_refused_at_once() {
    let Some(env) = app() else { return };
    let broken = env.write("broken.json", "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"sycalls\": []}");
    let broken = format!("seccomp={broken}");
    for (flags, expected) in [
        (&["--cap-add", "SYS_NOTHING"][..], "`--cap-add SYS_NOTHING`: `SYS_NOTHING` is unknown"),
        (&["--cap-drop", ""], "`--cap-drop `: `` is unknown"),
        (&["--security-opt", "secomp=unconfined"], "`secomp` is unknown, expected apparmor="),
        (&["--security-opt", "seccomp=/nowhere"], "/nowhere"),
        (&["--security-opt", &broken], "unknown field `sycalls`"),
        (&["--security-opt", "no-new-privileges=maybe"], "expected `true` or `false`"),
        (&["--security-opt", "label=type:x"], "containers get no SELinux labels"),
        (&["--sysctl", "vm.swappiness=1"], "not a parameter of a namespace"),
        (&["--sysctl", "net.ipv4.ip_forward=1"], "needs a network namespace of its own"),
        (&["--sysctl", "kernel.msgmax"], "expected `NAME=VALUE`"),
    ] {
        let arguments = [flags, &["nowhere.invalid/image", "true"]].concat();
        env.container(&arguments).refused(125, &[expected]);
    }
    if !std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y")) {
        env.container(&["--security-opt", "apparmor=mine", "nowhere.invalid/image", "true"])
            .refused(125, &["`--security-opt apparmor=mine`: AppArmor is not enabled on this machine"]);
    }
    env.assert_clean();
}

/// Where podman is installed, its filter, which has keys of its own. Unlike docker's it lets everyone make user namespaces.
#[test]
fn the_filter_of_podman_is_read() {
    const PROFILE: &str = "/usr/share/containers/seccomp.json";
    let Some(env) = app() else { return };
    if !std::path::Path::new(PROFILE).exists() {
        skip("podman's profile of system calls is not here");
        return;
    }
    let script = "grep ^Seccomp: /proc/self/status; unshare -U echo made; ls / | wc -l";
    let theirs = env.script(&["--security-opt", &format!("seccomp={PROFILE}")], script).code(0);
    assert!(theirs.stdout.starts_with("Seccomp:\t2\nmade\n"), "{theirs:?}");
    let ours = env.script(&[], script).code(0);
    assert!(ours.stdout.starts_with("Seccomp:\t2\n") && !ours.stdout.contains("made"), "{ours:?}");
}

/// A filter under which not even init can work ends the start, with a word about what may be the cause.
#[test]
fn a_filter_that_forbids_too_much_is_told() {
    let Some(env) = app() else { return };
    for action in ["SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"] {
        let profile = env.write("profile.json", format!(r#"{{"defaultAction": "{action}"}}"#));
        let seccomp = format!("seccomp={profile}");
        for more in [&[][..], &["--security-opt", "no-new-privileges"]] {
            let arguments = [&["--security-opt", &seccomp], more, &["app", "true"]].concat();
            env.container(&arguments)
                .refused(125, &["hint: its first process ended", "a seccomp profile that forbids"]);
        }
    }
    let profile = env.write(
        "profile.json",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["execve"], "action": "SCMP_ACT_ERRNO"}]}"#,
    );
    env.container(&["--security-opt", &format!("seccomp={profile}"), "app", "true"])
        .refused(126, &["cannot be executed: Operation not permitted"]);
    env.assert_clean();
}

/// What `bundle` writes has the same effect under a runtime that follows the specification.
#[test]
fn bundles_carry_the_flags() {
    let Some(env) = app() else { return };
    let profile = env.write(
        "profile.json",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["kill"], "action": "SCMP_ACT_ERRNO",
             "args": [{"index": 1, "value": 3, "valueTwo": 2, "op": "SCMP_CMP_MASKED_EQ"}]}]}"#,
    );
    let seccomp = format!("seccomp={profile}");
    let flags = [
        "--cap-drop",
        "ALL",
        "--cap-add",
        "CHOWN",
        "--cap-add",
        "KILL",
        "--pids-limit",
        "50",
        "--ulimit",
        "core=0",
        "--security-opt",
        "no-new-privileges",
        "--security-opt",
        &seccomp,
        "--oom-score-adj",
        "100",
        "--annotation",
        "a=b",
        "--cpu-shares",
        "512",
        "--group-add",
        "video",
        "--sysctl",
        "kernel.msgmax=4321",
    ];
    let bundle = env.work().join("bundle");
    let script = "grep -E '^(CapEff|NoNewPrivs|Groups):' /proc/self/status | tr -d '\\t '; ulimit -c
        cat /proc/self/oom_score_adj /proc/sys/kernel/msgmax /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null
        trap '' USR1 USR2 INT; for s in 2 10 12; do kill -$s $$ 2>/dev/null && echo signal $s; done; true";
    let expected = "Groups:044\nCapEff:0000000000000021\nNoNewPrivs:1\n0\n100\n4321\n50\nsignal 12";
    assert_eq!(env.script(&flags, script).text(), expected);
    let arguments = [&["bundle"], &flags[..], &["app", bundle.to_str().unwrap(), "sh", "-c", script]].concat();
    env.run(arguments).code(0);
    let spec: serde_json::Value = serde_json::from_slice(&std::fs::read(bundle.join("config.json")).unwrap()).unwrap();
    assert_eq!(spec["annotations"]["a"], "b");
    assert_eq!(spec["linux"]["resources"]["cpu"]["shares"], 512);
    if have(&["runc"]) {
        let root = env.dir().join("runc");
        let mut command = program("runc", ["--root"]);
        command.arg(&root).args(["run", "--bundle"]).arg(&bundle).arg(env.name());
        assert_eq!(finish(&mut command).text(), expected);
        std::fs::remove_dir_all(root).unwrap();
    }
    env.assert_clean();
}
