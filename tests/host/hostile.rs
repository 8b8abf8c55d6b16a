//! Images and workloads that want the machine. What must never happen, and the tests that hold us to it; names are those of
//! `tests/host`, others come with their file.
//!
//! | attack | where it comes from | tests |
//! |---|---|---|
//! | the program that enters a container is overwritten through `/proc/self/exe` | CVE-2019-5736 | `hostile::our_program_cannot_be_rewritten_from_inside` `init::our_binary_is_sealed`, `src/sys/sealed.rs::nobody_writes_to_what_is_sealed` |
//! | who enters is looked into before it is the workload | CVE-2016-9962 | `hostile::who_enters_cannot_be_looked_into` `init::it_gives_nothing_away` |
//! | `/dev`, `/proc`, `/sys`, `/etc` of the image is a link or no directory | CVE-2026-41579 | `hostile::what_stands_for_the_runtimes_directories_is_refused`, `src/rootfs/prepare.rs::a_link_instead_of_dev_is_refused` |
//! | links, files, pipes and devices below the image's `/dev` | CVE-2026-41579, CVE-2025-52565 | `hostile::what_the_image_has_in_dev_is_not_used` |
//! | a mount is led to `/dev` or `/proc` by links of the image | CVE-2025-52881, CVE-2019-19921 | `hostile::mounts_are_not_led_astray_by_links`, `src/rootfs/places.rs::links_lead_inside_the_root`, `src/supervisor/places.rs::links_to_what_is_the_runtimes_are_refused` |
//! | the same by links of a directory that is shared with another container, exchanged all the time | CVE-2021-30465, CVE-2025-31133 | `hostile::links_that_are_exchanged_during_the_start_win_nothing`, `src/supervisor/places.rs::only_what_was_asked_for_is_mounted` |
//! | a mount or working directory is led out of the root | CVE-2018-15664 | `mounts::links_of_the_image_do_not_lead_outside` `hostile::mounts_are_not_led_astray_by_links` |
//! | masked and read-only paths are left open | CVE-2025-31133, CVE-2023-27561 | `isolation::the_kernels_files_are_read_only_or_hidden` `hostile::the_kernels_controls_are_out_of_reach` `flags_security::system_paths_can_be_left_open` |
//! | a working directory outside the root, by a descriptor that was left open | CVE-2024-21626 | `hostile::working_directories_are_inside` `exec::hostile_identity_files` |
//! | descriptors of the caller | CVE-2016-9962, CVE-2024-21626 | `isolation::descriptors_of_the_caller_stay_outside` `hostile::exec_leaves_descriptors_of_the_caller_outside` |
//! | files that change under `cp` | CVE-2018-15664, CVE-2019-14271 | `cp::exchanged_links_lead_nowhere` `cp::archives_both_ways` |
//! | keys of the caller | | `hostile::keys_of_the_caller_stay_outside` |
//! | system calls with a history: `io_uring`, `userfaultfd`, bpf, keys, handles, namespaces | CVE-2014-3519, CVE-2022-0185 | `hostile::system_calls_with_a_history_are_refused` `isolation::system_calls_are_filtered` `isolation::user_namespaces_cannot_be_made` |
//! | `exec` without the filter | | `hostile::system_calls_with_a_history_are_refused` `exec::the_bounds_are_those_of_the_container` |
//! | capabilities that are inherited | CVE-2022-24769 | `isolation::capabilities_are_dockers` `flags_security::capabilities_are_added_and_dropped` `hostile::capabilities_are_not_inherited` |
//! | groups of the caller | CVE-2022-36109 | `options::groups_of_the_caller_stay_outside` `hostile::capabilities_are_not_inherited` |
//! | set-user-ID programs where new privileges are forbidden | | `flags_security::new_privileges_are_forbidden_when_that_is_asked_for` |
//! | device nodes | | `isolation::devices_are_the_harmless_ones` `isolation::device_rules_hold_on_cgroup_v2` `flags_mounts::permissions_of_devices_are_enforced` |
//! | the environment and files of the supervisor | | `isolation::the_environment_of_the_caller_stays_outside` `hostile::the_supervisor_is_not_looked_into` |
//! | services on 127.0.0.1 of the machine | CVE-2020-8558 | `hostile::services_on_the_machines_loopback_are_not_reached` |
//! | users whose number does not fit, `/etc/passwd` as a pipe or without end | CVE-2024-40635, CVE-2026-47262, CVE-2024-9676 | `hostile::files_of_identity_hold_nobody_up` `exec::hostile_identity_files`, `src/spec/user.rs::numbers_that_do_not_fit_are_never_root` |
//! | programs of the machine with the image's `LD_PRELOAD` | CVE-2025-23266 | `gpu::gpu_an_images_preload_is_its_own_affair` `gpu::gpu_hostile_images_change_nothing_outside` |
//! | terminal escapes | | `src/words.rs::terminals_are_not_driven` |
//! | a store that others read | CVE-2024-25621 | `hostile::the_store_is_for_root_alone` |
//!
//! What archives try is at the head of `src/rootfs/tests/mod.rs`. A container that was given `SYS_PTRACE` and no user namespace may
//! look into who enters it by `exec` and so become root of the machine; nothing keeps it from that yet, and no test covers it.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::base::{app, app_with, base_image};
use crate::network::private;
use crate::support::env::{TestEnv, entries, finish, have, program, tool, wait_until};
use crate::support::image::{Entry, ImageBuilder};

/// Makes a program or library of `hostile_probe.c`.
fn compiled(flags: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("probe.c"), dir.path().join("out"));
    fs::write(&source, include_str!("hostile_probe.c")).unwrap();
    let words = flags.iter().map(AsRef::as_ref).chain(["-o".as_ref(), out.as_os_str(), source.as_os_str()]);
    tool("cc", words);
    fs::read(out).unwrap()
}

/// A program that tries things.
fn probe() -> &'static [u8] {
    static PROBE: OnceLock<Vec<u8>> = OnceLock::new();
    PROBE.get_or_init(|| compiled(&["-static", "-O1"]))
}

fn app_with_probe(change: impl FnOnce(ImageBuilder) -> ImageBuilder) -> Option<TestEnv> {
    have(&["cc"]).then(|| app_with(|image| change(image.program("probe", probe())))).flatten()
}

/// A run that goes on until it is told not to.
fn sleeper(env: &TestEnv, flags: &[&str]) -> String {
    let name = env.name();
    let script = "trap 'exit 0' TERM; while :; do usleep 9000; done";
    env.run([&["run", "-d", "--name", &name], flags, &["app", "sh", "-c", script]].concat()).code(0);
    name
}

fn stop(env: &TestEnv, name: &str) {
    env.run(["stop", "-g", "0s", name]).code(0);
    env.assert_clean();
}

/// The image has all that our program needs to start in there, and a library that takes hold of it.
#[test]
fn our_program_cannot_be_rewritten_from_inside() {
    let binary = TestEnv::new().command([""; 0]).get_program().to_owned();
    let before = fs::read(&binary).unwrap();
    let loaded = finish(&mut program("ldd", [&binary])).stdout;
    let libraries: Vec<&str> = loaded.split_whitespace().filter(|word| word.starts_with('/')).collect();
    let change = |image: ImageBuilder| {
        let image = image.program("evil.so", compiled(&["-shared", "-fPIC"]));
        let image = image.program("bin/script", "#!/proc/self/exe\n").env("LD_PRELOAD", "/evil.so").env("STEAL", "1");
        libraries.iter().fold(image, |image, path| {
            image
                .program(path.trim_start_matches('/'), fs::read(path).unwrap())
                .env("LD_LIBRARY_PATH", "/lib/x86_64-linux-gnu")
        })
    };
    let Some(env) = app_with_probe(change) else { return };
    let assert_kept = |output: String| {
        let lines: Vec<&str> = output.lines().collect();
        // Where our program needs no loader of the image, it does not listen to it either.
        let is_attack = lines.first() == Some(&"foreign program");
        assert!(is_attack || libraries.is_empty(), "the attack did not take place: {output}");
        assert!(!is_attack || lines.get(1) == Some(&"sealed"), "{output}");
        assert!(!output.contains("WORKS"), "{output}");
    };
    for flags in [&[][..], &["--init"]] {
        for command in ["/proc/self/exe", "/bin/script"] {
            let output = env.container(&[flags, &["app", command]].concat());
            assert_kept(output.stdout);
        }
        let name = env.name();
        let quiet = ["-e", "LD_PRELOAD=", "-e", "STEAL=", "app", "sleep", "1000"];
        env.run([&["run", "-d", "--name", &name], flags, &quiet].concat()).code(0);
        let steal = ["exec", "-e", "LD_PRELOAD=/evil.so", "-e", "STEAL=1", &name];
        for command in ["/proc/self/exe", "/bin/script"] {
            assert_kept(env.run([&steal[..], &[command]].concat()).stdout);
        }
        // The first process as well, which stays.
        let script = "(exec 7>>/proc/1/exe) 2>&1 | head -n 1";
        let output = env.run(["exec", &name, "sh", "-c", script]).stdout;
        assert!(output.contains("ermission denied") || output.contains("busy"), "{output}");
        env.run(["stop", "-g", "0s", &name]).code(0);
    }
    assert!(fs::read(&binary).unwrap() == before, "our program was overwritten");
    env.assert_clean();
}

/// A process of the container waits for whoever enters.
#[test]
fn who_enters_cannot_be_looked_into() {
    let Some(env) = app_with_probe(|image| image) else { return };
    let name = env.name();
    let spy = env.spawn(["run", "--name", &name, "app", "/probe", "spy"]);
    spy.wait_for("ready");
    for _ in 0..25 {
        env.run(["exec", &name, "true"]).code(0);
    }
    // The container may end before it does.
    let touched = env.run(["exec", &name, "touch", "/stop"]).code;
    assert!([0, 137].contains(&touched), "{touched}");
    let output = spy.finish().code(0).stdout;
    assert!(!output.contains("LOOKED INTO"), "{output}");
    let seen: u64 = output.trim().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(seen > 0, "nobody was met on the way in");
    env.assert_clean();
}

#[test]
fn what_stands_for_the_runtimes_directories_is_refused() {
    let outside = tempfile::tempdir().unwrap();
    let there = outside.path().to_str().unwrap();
    let Some(env) = app() else { return };
    for (index, name) in ["dev", "proc", "sys"].into_iter().enumerate() {
        let kinds: [fn(&str, &str) -> Entry; 4] = [
            |name, there| Entry::symlink(name, there),
            |name, _| Entry::symlink(name, "/tmp"),
            |name, _| Entry::file(name, ""),
            |name, _| Entry::fifo(name),
        ];
        for (kind, entry) in kinds.iter().enumerate().filter(|(kind, _)| index == 0 || kind % 2 == 0) {
            let image = format!("{name}-{kind}");
            env.store_image(&image, &base_image().entry(entry(name, there)).build());
            env.container(&[&image, "true"]).refused(125, &[&format!("`/{name}`"), "expected a directory"]);
        }
    }
    env.store_image("etc", &base_image().dir("etc/hosts").build());
    env.container(&["etc", "true"]).refused(125, &["`/etc/hosts` of the image is a directory, expected a file"]);
    env.store_image("pipes", &base_image().entry(Entry::fifo("etc/hosts")).symlink("etc/resolv.conf", there).build());
    env.container(&["pipes", "cat", "/etc/hosts"]).code(0);
    assert_eq!(entries(outside.path()), Vec::<PathBuf>::new());
    env.assert_clean();
}

#[test]
fn what_the_image_has_in_dev_is_not_used() {
    let outside = tempfile::tempdir().unwrap();
    let there = outside.path().to_str().unwrap();
    let Some(env) = app() else { return };
    let links = ["null", "zero", "pts", "shm", "mqueue", "console", "ptmx", "tty", "fd", "stdin"];
    let linked = |target: &str| {
        links.iter().fold(base_image().dir("dev"), |image, name| {
            image.symlink(&format!("dev/{name}"), &format!("{target}/{name}"))
        })
    };
    env.store_image("out", &linked(there).build());
    env.store_image("in", &linked("/tmp").build());
    env.store_image("loop", &linked("/dev/pts/../pts").build());
    let files = links.iter().fold(base_image().dir("dev"), |image, name| image.file(&format!("dev/{name}"), "evil"));
    env.store_image("files", &files.build());
    let dirs = links.iter().fold(base_image().dir("dev"), |image, name| image.dir(&format!("dev/{name}")));
    env.store_image("dirs", &dirs.volume("/dev").build());
    let script = "stat -c %t:%T /dev/null /dev/zero /dev/tty | tr '\\n' ' '; ls /tmp | wc -l; \
        grep -c -e ' /dev tmpfs' -e ' /dev/pts devpts' -e ' /dev/shm tmpfs' /proc/mounts; readlink /dev/fd; head -c 1 /proc/keys | wc -c";
    for image in ["out", "in", "loop", "files", "dirs"] {
        for flags in [&[][..], &["--read-only"]] {
            let output = env.container(&[flags, &[image, "sh", "-c", script]].concat()).text();
            assert_eq!(output, "1:3 1:5 5:0 0\n3\n/proc/self/fd\n0", "{image} {flags:?}");
        }
        // With a terminal the runtime puts one on `/dev/console` (CVE-2025-52565).
        let mut command = program("script", ["-qec"]);
        let run = env.command(["run", "--rm", "-t", image, "sh", "-c", "stat -c %F /dev/console; ls /tmp"]);
        let words: Vec<String> = std::iter::once(run.get_program())
            .chain(run.get_args())
            .map(|word| format!("'{}'", word.to_str().unwrap()))
            .collect();
        if have(&["script"]) {
            let output = finish(command.arg(words.join(" ")).arg("/dev/null")).code(0).stdout;
            assert!(output.trim().ends_with("character special file"), "{image}: {output}");
        }
    }
    assert_eq!(entries(outside.path()), Vec::<PathBuf>::new());
    env.assert_clean();
}

/// Harmless places by their names; the image has links there.
#[test]
fn mounts_are_not_led_astray_by_links() {
    let change = |image: ImageBuilder| {
        let image =
            image.symlink("p", "/proc").symlink("d", "tmp/../dev").symlink("r", "../../..").symlink("p2", "r/p");
        image.dir("dir").symlink("dir/up", "../../../p2/self").volume("/v").symlink("v", "p/sys")
    };
    let Some(env) = app_with(change) else { return };
    let source = env.work().join("source");
    fs::create_dir(&source).unwrap();
    std::os::unix::fs::symlink("/etc/shadow", source.join("null")).unwrap();
    std::os::unix::fs::symlink("/proc/self", source.join("inner")).unwrap();
    let source = source.to_str().unwrap();
    let before = entries(Path::new(source)).len();
    for (place, leads) in [
        ("/p", "/proc"),
        ("/d", "/dev"),
        ("/r", "root of the container"),
        ("/p/self/attr", "/proc/self/attr"),
        ("/p2/sys", "/proc/sys"),
        ("/dir/up/attr/exec", "/proc/self/attr/exec"),
        ("/r/r/d", "/dev"),
    ] {
        for flags in [&["-v", &format!("{source}:{place}")], &["--tmpfs", place]] {
            env.container(&[&flags[..], &["app", "true"]].concat()).refused(125, &["links lead from", leads, "hint: "]);
        }
    }
    // Links of what was mounted before count as well.
    let (outer, inner) = (format!("{source}:/data"), format!("{source}:/data/inner/attr"));
    env.container(&["-v", &outer, "-v", &inner, "app", "true"]).refused(125, &["links lead from", "/proc/self/attr"]);
    // Volumes of the image become mounts where the root is read-only.
    env.container(&["--read-only", "app", "true"]).refused(125, &["links lead from `/v`", "`/proc/sys`"]);
    assert_eq!(entries(Path::new(source)).len(), before, "something was made in the source");
    // What leads to a place like any other is fine.
    let fine = format!("{source}:/r/tmp/here");
    assert_eq!(env.script(&["-v", &fine], "ls /tmp/here | wc -l").text(), before.to_string());
    env.assert_clean();
}

/// One container exchanges a directory and a link to `/` in a volume; others start with a mount below it.
#[test]
fn links_that_are_exchanged_during_the_start_win_nothing() {
    let Some(env) = app() else { return };
    let shared = env.work().join("shared");
    fs::create_dir_all(shared.join("a/dev")).unwrap();
    std::os::unix::fs::symlink("/", shared.join("b")).unwrap();
    fs::create_dir(env.work().join("mine")).unwrap();
    let volume = format!("{}:/data", shared.display());
    let name = env.name();
    let exchange = "cd /data; echo ready; while :; do mv -T a t; mv -T b a; mv -T a b; mv -T t a; done";
    let racer = env.spawn(["run", "--rm", "--name", &name, "-v", &volume, "app", "sh", "-c", exchange]);
    racer.wait_for("ready");
    let mine = format!("{}:/data/a/dev", env.work().join("mine").display());
    let script = "grep -c ' /dev ' /proc/mounts; stat -c %t:%T /dev/null; head -c 1 /proc/keys | wc -c";
    let (until, mut ran) = (Instant::now() + Duration::from_secs(2), 0);
    while Instant::now() < until {
        let output = env.script(&["-v", &volume, "-v", &mine], script);
        // Refused, or as it should be.
        if output.code == 0 {
            assert_eq!(output.stdout, "1\n1:3\n0\n");
            ran += 1;
        } else {
            assert_eq!(output.code, 125, "{output:?}");
        }
    }
    assert!(ran > 0, "nothing was tried");
    env.run(["kill", &name]).code(0);
    racer.finish();
    env.assert_clean();
}

#[test]
fn the_kernels_controls_are_out_of_reach() {
    let change = |image: ImageBuilder| {
        image.symlink("way", "/proc/self/root/proc/sys/kernel").symlink("trigger", "proc/sysrq-trigger")
    };
    let Some(env) = app_with(change) else { return };
    let pattern = fs::read("/proc/sys/kernel/core_pattern").unwrap();
    let script = r#"
        try() { (echo "|/tmp/x" >"$1") 2>/dev/null && echo "wrote $1"; }
        for file in /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /way/core_pattern /trigger \
            /proc/1/root/proc/sysrq-trigger /proc/sys/fs/binfmt_misc/register /sys/kernel/uevent_helper /proc/sys/kernel/hotplug \
            /proc/1/task/1/root/proc/sys/kernel/core_pattern /proc/thread-self/root/proc/sys/kernel/core_pattern \
            /sys/fs/cgroup/*/release_agent /sys/fs/cgroup/*/notify_on_release /sys/fs/cgroup/*/devices.allow \
            /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/cgroup.procs /sys/kernel/debug/x /sys/power/state; do
            [ -e $file ] && try $file
        done
        for place in /proc /proc/sys /sys /sys/fs/cgroup; do
            mount -o remount,rw $place 2>/dev/null && echo "remounted $place"
            umount $place 2>/dev/null && echo "unmounted $place"
        done
        mkdir /tmp/p; mount -t proc proc /tmp/p 2>/dev/null && echo "another /proc"
        mount --bind /proc/sys /tmp/p 2>/dev/null && echo "another /proc/sys"
        ls /proc/1/map_files >/dev/null 2>&1; true"#;
    for user in ["root", "app"] {
        assert_eq!(env.script(&["-u", user], script).text(), "", "{user}");
    }
    let name = sleeper(&env, &[]);
    assert_eq!(env.run(["exec", &name, "sh", "-c", script]).text(), "");
    assert_eq!(fs::read("/proc/sys/kernel/core_pattern").unwrap(), pattern);
    stop(&env, &name);
}

#[test]
fn working_directories_are_inside() {
    let Some(env) = app_with(|image| image.symlink("link", "/proc/self/fd/7").symlink("up", "/../../..")) else {
        return;
    };
    let script = "pwd -P; ls -d bin; cat /proc/self/cwd/etc/passwd | head -n 1 | cut -d: -f 1";
    assert_eq!(env.script(&["-w", "/up"], script).text(), "/\nbin\nroot");
    assert_eq!(env.script(&["-w", "/../../../.."], script).text(), "/\nbin\nroot");
    let name = sleeper(&env, &[]);
    // Whatever is open, and whatever the caller has open.
    for dir in ["/link", "/proc/self/fd/3", "/proc/self/fd/5", "/proc/self/fd/7", "/proc/self/fd/8/../root"] {
        for arguments in [&["run", "--rm", "-w", dir, "app"][..], &["exec", "-w", dir, &name]] {
            let command = env.command([arguments, &["ls", "-d", "home", "tmp"]].concat());
            let mut shell = program("sh", ["-c", "exec 7</ 8</root; exec \"$@\"", "sh"]);
            let output = finish(shell.arg(command.get_program()).args(command.get_args()));
            assert!(output.code != 0 && output.stdout.is_empty(), "{dir}: {output:?}");
        }
    }
    env.container(&["-w", "/link", "app", "true"]).refused(125, &["the working directory `/link` cannot be entered"]);
    stop(&env, &name);
}

#[test]
fn exec_leaves_descriptors_of_the_caller_outside() {
    let Some(env) = app() else { return };
    let name = sleeper(&env, &["--init"]);
    for flags in [&[][..], &["--privileged"], &["-u", "app"]] {
        let exec = env.command([&["exec"], flags, &[&name, "sh", "-c", "ls /proc/self/fd | wc -l"]].concat());
        let mut shell = program("sh", ["-c", "exec 7</ 9<>/dev/null; exec \"$@\"", "sh"]);
        // The three streams and the directory that is listed.
        assert_eq!(finish(shell.arg(exec.get_program()).args(exec.get_args())).text(), "4", "{flags:?}");
    }
    stop(&env, &name);
}

#[test]
fn keys_of_the_caller_stay_outside() {
    let Some(env) = app_with_probe(|image| image) else { return };
    let place = env.work().join("probe");
    fs::write(&place, probe()).unwrap();
    crate::support::env::make_executable(&place);
    let keyring = |words: &[&str]| {
        let output = finish(program(place.to_str().unwrap(), ["with-key"]).args(words)).text();
        let number: i64 = output.split(' ').next().unwrap().parse().unwrap();
        (number, output.ends_with("found -1"))
    };
    let (_, is_hidden) = keyring(&[place.to_str().unwrap(), "keyring"]);
    assert!(!is_hidden, "the test proves nothing");
    let name = sleeper(&env, &["--security-opt", "seccomp=unconfined"]);
    let words = |command: std::process::Command| -> Vec<String> {
        std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| word.to_str().unwrap().to_owned())
            .collect()
    };
    let run = words(env.command(["run", "--rm", "--security-opt", "seccomp=unconfined", "app", "/probe", "keyring"]));
    let exec = words(env.command(["exec", &name, "/probe", "keyring"]));
    let mut numbers = Vec::new();
    for command in [&run, &exec, &run] {
        let (number, is_hidden) = keyring(&command.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(number > 0 && is_hidden, "{command:?}");
        numbers.push(number);
    }
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 3, "each has its own");
    stop(&env, &name);
}

#[test]
fn system_calls_with_a_history_are_refused() {
    let Some(env) = app_with_probe(|image| image) else { return };
    let name = sleeper(&env, &[]);
    for output in [
        env.container(&["app", "/probe", "calls"]),
        env.container(&["-u", "app", "app", "/probe", "calls"]),
        env.run(["exec", &name, "/probe", "calls"]),
    ] {
        let output = output.code(0).stdout;
        assert!(output.lines().count() >= 25, "{output}");
        assert!(!output.contains("WORKS"), "{output}");
    }
    stop(&env, &name);
}

/// Whatever a caller without privileges has kept to be inherited.
#[test]
fn capabilities_are_not_inherited() {
    let Some(env) = app() else { return };
    if !have(&["setpriv"]) {
        return;
    }
    let script =
        "grep -E '^(CapInh|CapAmb)' /proc/self/status | cut -f 2 | uniq; grep ^Groups: /proc/self/status | cut -f 2";
    let name = sleeper(&env, &[]);
    let head = ["--inh-caps", "+chown,+sys_admin", "--ambient-caps", "+chown,+sys_admin", "--groups", "4,24,27,1234"];
    for arguments in [
        &["run", "--rm", "app"][..],
        &["run", "--rm", "-u", "app", "app"],
        &["exec", &name],
        &["exec", "-u", "app", &name],
    ] {
        let command = env.command([arguments, &["sh", "-c", script]].concat());
        let mut caller = program("setpriv", head);
        let output = finish(caller.arg(command.get_program()).args(command.get_args())).code(0).stdout;
        let (capabilities, groups) = output.split_once('\n').unwrap();
        assert_eq!(capabilities, "0000000000000000", "{arguments:?}: {output}");
        let is_callers = |group: &str| ["4", "24", "27", "1234"].contains(&group);
        assert!(!groups.split_whitespace().any(is_callers), "{arguments:?}: {output}");
    }
    stop(&env, &name);
}

/// In the machine's pid namespace the supervisor has a number, and that is all.
#[test]
fn the_supervisor_is_not_looked_into() {
    let Some(env) = app() else { return };
    let name = sleeper(&env, &["--pid", "host"]);
    let init = env.record(&name)["pid"].as_i64().unwrap();
    let status = fs::read_to_string(format!("/proc/{init}/status")).unwrap();
    let supervisor = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().to_owned();
    let script = format!(
        "cd /proc/{supervisor} && cat comm && for f in environ mem maps auxv; do head -c 1 $f 2>/dev/null | wc -c; done; \
         readlink fd/* exe root cwd ns/mnt; ls root/ 2>/dev/null; ls cwd/ 2>/dev/null; echo end"
    );
    let output = env.run(["exec", &name, "sh", "-c", &script]).code(0).stdout;
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[1..], ["0", "0", "0", "0", "end"], "{output}");
    // Without that, it has not even a number.
    let seen = env.script(&[], "cat /proc/[0-9]*/comm; cat /proc/1/status | grep PPid").text();
    assert!(!seen.contains("dockless") && seen.ends_with("PPid:\t0"), "{seen}");
    stop(&env, &name);
}

/// A published port needs `route_localnet` on the bridge, and any container may write packets for 127.0.0.1.
#[test]
fn services_on_the_machines_loopback_are_not_reached() {
    let Some((env, _guard)) = private(app()) else { return };
    let name = env.name();
    let web = ["-p", "127.0.0.1::80", "--sysctl", "net.ipv4.conf.all.route_localnet=1", "--cap-add", "NET_ADMIN"];
    let server = "nc -ll -p 80 -e echo web";
    let head = ["run", "-d", "--network", "private", "--name", &name];
    env.run([&head[..], &web, &["app", "sh", "-c", server]].concat()).code(0);
    let record = env.record(&name);
    let (bridge, gateway) = (
        record["network"]["bridge"].as_str().unwrap().to_owned(),
        record["network"]["gateway"].as_str().unwrap().to_owned(),
    );
    let secret = TcpListener::bind("127.0.0.1:0").unwrap();
    secret.set_nonblocking(true).unwrap();
    let port = secret.local_addr().unwrap().port();
    // The way to 127.0.0.1 leads to the machine from now on.
    let astray = format!(
        "ip addr del 127.0.0.1/8 dev lo; ip route add 127.0.0.0/8 via {gateway} && ip route get 127.0.0.1 | grep -o -m 1 eth0; \
         timeout 1 nc -w 1 127.0.0.1 {port} </dev/null; timeout 1 nc -w 1 127.0.0.2 {port} </dev/null; echo tried"
    );
    let output = env.run(["exec", "--privileged", &name, "sh", "-c", &astray]).code(0).stdout;
    assert_eq!(output, "eth0\ntried\n", "the attack did not take place");
    let reached = secret.accept();
    assert!(reached.is_err(), "a container has reached 127.0.0.1:{port} of the machine");
    // It proves something: without the rule it is reached, where the machine lets it.
    let is_open = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{bridge}/route_localnet")).unwrap();
    assert_eq!(is_open.trim(), "1", "the test proves nothing");
    let rule = ["-i", &bridge, "-d", "127.0.0.0/8", "-j", "DROP"];
    tool("iptables", [&["-w", "-t", "raw", "-D", "PREROUTING"][..], &rule].concat());
    env.run([
        "exec",
        "--privileged",
        &name,
        "sh",
        "-c",
        &astray.replace("ip addr", "ip route del 127.0.0.0/8; ip addr"),
    ])
    .code(0);
    assert!(wait_until(|| secret.accept().is_ok()), "the test proves nothing");
    // The next one that publishes sees to it again, and with the last the rule goes.
    let other = env.name();
    env.run(["run", "-d", "--network", "private", "--name", &other, "-p", "80", "app", "sleep", "1000"]).code(0);
    tool("iptables", [&["-w", "-t", "raw", "-C", "PREROUTING"][..], &rule].concat());
    for name in [name, other] {
        env.run(["stop", "-g", "0s", &name]).code(0);
    }
    let left = finish(&mut program("iptables", [&["-w", "-t", "raw", "-C", "PREROUTING"][..], &rule].concat()));
    assert_ne!(left.code, 0, "the rule stays");
    env.assert_clean();
}

#[test]
fn files_of_identity_hold_nobody_up() {
    let Some(env) = app() else { return };
    let start = Instant::now();
    let big = vec![b'x'; 3_000_000];
    for (name, entry) in [
        ("pipe", Entry::fifo("etc/passwd")),
        ("huge", Entry::file("etc/passwd", big)),
        ("link", Entry::symlink("etc/passwd", "/proc/self/environ")),
        ("device", Entry::char_device("etc/passwd", 1, 5)),
        ("overflow", Entry::file("etc/passwd", "app:x:4294967296:0::/:\n")),
    ] {
        env.store_image(name, &base_image().entry(entry).build());
        env.container(&["-u", "app", name, "id", "-u"]).code(125);
        env.container(&["-u", "4294967296", name, "id", "-u"]).code(125);
    }
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    env.assert_clean();
}

#[test]
fn the_store_is_for_root_alone() {
    let Some(env) = app() else { return };
    env.run(["run", "--name", "kept", "--keep", "app", "sh", "-c", "echo x >/x; chmod 777 /x"]).code(0);
    for dir in [env.root(), env.state()] {
        let found = fs::metadata(&dir).unwrap();
        assert_eq!((found.uid(), found.permissions().mode() & 0o077), (0, 0), "{}", dir.display());
    }
    let as_nobody = |path: &Path| {
        let path = path.to_str().unwrap();
        finish(&mut program("setpriv", ["--reuid", "65534", "--regid", "65534", "--clear-groups", "ls", path])).code
    };
    if have(&["setpriv"]) {
        assert_ne!(as_nobody(&env.root().join("runs")), 0);
    }
}

/// The table above names tests that there are.
#[test]
fn every_row_has_its_test() {
    macro_rules! files {
        ($($name:literal => $path:literal),+ $(,)?) => { [$(($name, include_str!($path))),+] };
    }
    let files = files![
        "hostile" => "hostile.rs", "init" => "init.rs", "mounts" => "mounts.rs", "isolation" => "isolation.rs",
        "flags_security" => "flags_security.rs", "exec" => "exec.rs", "cp" => "cp.rs", "options" => "options.rs",
        "flags_mounts" => "flags_mounts.rs", "gpu" => "gpu.rs",
        "src/sys/sealed.rs" => "../../src/sys/sealed.rs", "src/rootfs/prepare.rs" => "../../src/rootfs/prepare.rs",
        "src/rootfs/places.rs" => "../../src/rootfs/places.rs", "src/supervisor/places.rs" => "../../src/supervisor/places.rs",
        "src/spec/user.rs" => "../../src/spec/user.rs", "src/words.rs" => "../../src/words.rs",
    ];
    let rows = include_str!("hostile.rs").lines().filter_map(|line| line.strip_prefix("//! | ")).skip(1);
    let mut count = 0;
    for row in rows {
        let tests = row.split('|').nth(2).unwrap();
        let named: Vec<(&str, &str)> = tests.split('`').filter_map(|word| word.split_once("::")).collect();
        assert!(!named.is_empty(), "{row}");
        for (file, test) in named {
            let (_, text) = files.iter().find(|(name, _)| *name == file).unwrap_or_else(|| panic!("{row}"));
            assert!(text.contains(&format!("fn {test}(")), "`{file}::{test}` is no test");
        }
        count += 1;
    }
    assert!(count > 20, "{count} rows");
}
