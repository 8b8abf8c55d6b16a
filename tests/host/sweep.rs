//! After `kill -9` of anything, a reboot or a full disk: the next command cleans up, and the record says how it ended.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::base::app;
use crate::faults::SmallDisk;
use crate::network::private;
use crate::support::env::{Running, TestEnv, entries, program, tool, wait_until};

const LOOP: &str = "trap 'exit 0' TERM; echo ready; while :; do usleep 9000; done";

fn start(env: &TestEnv, name: &str, flags: &[&str]) {
    env.run([&["run", "-d", "--name", name], flags, &["app", "sh", "-c", LOOP]].concat()).code(0);
}

fn reason(env: &TestEnv, name: &str) -> String {
    env.record(name)["exit"]["reason"].as_str().unwrap_or("none").to_owned()
}

fn parent_of(pid: i64) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

fn is_alive(pid: i64) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// The fields of a process after its name; the 20th is when it was started.
fn start_time_of(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap().parse().unwrap()
}

/// What a power cut leaves of a run, told by its record alone: no process, cgroup, mount or runtime state.
fn cut_power(env: &TestEnv, names: &[&str], change: impl Fn(&mut Value)) {
    for name in names {
        let init = env.record(name)["pid"].as_i64().unwrap();
        let supervisor = Pid::from_raw(parent_of(init).unwrap());
        kill(supervisor, Signal::SIGKILL).unwrap();
        assert!(wait_until(|| !is_alive(init)));
        let path = env.root().join("runs").join(name).join("run.json");
        let mut record = env.record(name);
        record["boot_id"] = "00000000-0000-4000-8000-000000000000".into();
        change(&mut record);
        fs::write(path, record.to_string()).unwrap();
    }
    for cgroup in env.cgroups() {
        assert!(wait_until(|| fs::remove_dir(&cgroup).is_ok() || !cgroup.exists()));
    }
    fs::remove_dir_all(env.state()).unwrap();
}

#[test]
fn a_reboot_is_told() {
    let Some(env) = app() else { return };
    env.write(
        ".dstack/workflows.yaml",
        "workflows: [{ name: w, image: app, artifacts: [out], commands: ['echo kept > out/x', 'while :; do usleep 9000; done'] }]",
    );
    let names = ["kept", "removed", "inside", "saved"];
    start(&env, "kept", &[]);
    start(&env, "removed", &["--rm"]);
    start(&env, "inside", &["--keep"]);
    env.run(["workflow", "run", "w", "--name", "saved", "-d"]).code(0);
    let written = env.root().join("runs/saved/artifacts");
    assert!(wait_until(
        || env.record("saved")["state"] == "running" && entries(&written).iter().any(|dir| dir.join("out/x").exists())
    ));
    // The numbers of its processes mean others now.
    let mut bystander = program("sleep", ["1000"]).spawn().unwrap();
    let (pid, started) = (bystander.id(), start_time_of(bystander.id()));
    cut_power(&env, &names, |record| {
        record["pid"] = pid.into();
        record["pid_start"] = started.into();
    });
    let told = env.run(["ps", "-a", "--format", "json"]).json();
    assert_eq!(told.as_array().unwrap().len(), 3, "{told}");
    for name in ["kept", "inside", "saved"] {
        let record = env.record(name);
        let exit = &record["exit"];
        assert_eq!((record["state"].as_str(), reason(&env, name).as_str()), (Some("failed"), "host_reboot"), "{name}");
        assert_eq!(exit["exit_code"], 137);
        assert_eq!(exit["message"], "the machine went down while it ran");
        assert!(exit["started"].is_string() && record["pid"].is_null(), "{record}");
    }
    assert!(!env.root().join("runs/removed").exists());
    assert!(bystander.try_wait().unwrap().is_none(), "a stranger was killed");
    bystander.kill().unwrap();
    bystander.wait().unwrap();
    env.run(["artifacts", "cp", "saved", "copy"]).code(0);
    assert_eq!(fs::read_to_string(env.work().join("copy/out/x")).unwrap(), "kept\n");
    env.run(["cp", "-q", "inside:/etc/passwd", "passwd"]).code(0);
    // `wait` and `events` tell it, too.
    assert_eq!(env.run(["wait", "kept"]).text(), "137");
    env.assert_clean();
    env.run(["rm", "kept", "inside", "saved"]).code(0);
}

/// Before its workload was started, it was still being prepared.
#[test]
fn a_reboot_in_the_middle_of_a_start_is_told() {
    let Some(env) = app() else { return };
    start(&env, "early", &[]);
    cut_power(&env, &["early"], |record| {
        record["state"] = "creating".into();
        for key in ["pid", "pid_start", "started"] {
            record.as_object_mut().unwrap().remove(key);
        }
    });
    // What a mount left half made looks like.
    fs::create_dir_all(env.root().join("runs/early/upper/x")).unwrap();
    env.run(["ps"]).code(0);
    assert_eq!(reason(&env, "early"), "host_reboot");
    assert!(!env.root().join("runs/early/upper").exists());
    env.assert_clean();
}

/// The supervisor, its container's first process, and the command line, while there is more to a run than a container.
#[test]
fn kills_while_namespaces_are_joined_and_images_mounted() {
    let Some(env) = app() else { return };
    let donor = env.name();
    start(&env, &donor, &["--ipc", "shareable"]);
    let of = format!("container:{donor}");
    let kinds: [&[&str]; 3] = [
        &["--network", &of, "--ipc", &of, "--pid", &of],
        &["--mount", "type=image,src=app,dst=/image", "--shm-size", "1m"],
        &["--init", "--tmpfs", "/x", "--read-only", "-v", "./made:/made"],
    ];
    for (index, delay_ms) in [0, 8, 16, 24, 32, 45, 60, 90].into_iter().enumerate() {
        for (kind, flags) in kinds.iter().enumerate() {
            let name = env.name();
            let run = env.spawn([&["run", "--name", &name], *flags, &["app", "sh", "-c", LOOP]].concat());
            let supervisor = run.supervisor();
            std::thread::sleep(Duration::from_millis(delay_ms));
            let both = (index + kind).is_multiple_of(2);
            if both {
                let _ = kill(supervisor, Signal::SIGSTOP);
                run.signal(Signal::SIGKILL);
            }
            let _ = kill(supervisor, Signal::SIGKILL);
            let output = run.finish();
            assert!([125, 137].contains(&output.code), "{flags:?} after {delay_ms} ms: {output:?}");
            env.run(["ps"]).code(0);
            // Killed before its first record it has never been.
            if env.root().join("runs").join(&name).exists() {
                let reason = reason(&env, &name);
                assert!(["supervisor_lost", "client_lost", "start_failed"].contains(&reason.as_str()), "{reason}");
            }
            assert!(env.root().join("runs").join(&donor).join("control").exists(), "the other run ended");
        }
    }
    env.run(["stop", &donor]).code(0);
    assert_eq!(env.record(&donor)["exit"]["exit_code"], 0);
    env.assert_clean();
}

#[test]
fn a_first_process_that_is_killed_from_outside_is_told() {
    let Some(env) = app() else { return };
    for flags in [&[][..], &["--init"]] {
        let name = env.name();
        start(&env, &name, flags);
        let init = env.record(&name)["pid"].as_i64().unwrap();
        kill(Pid::from_raw(init.try_into().unwrap()), Signal::SIGKILL).unwrap();
        assert_eq!(env.run(["wait", &name]).text(), "137");
        assert_eq!(reason(&env, &name), "signalled");
        assert_eq!(env.record(&name)["exit"]["signal"], 9);
    }
    env.assert_clean();
}

/// Children of a process, by name.
fn child(parent: Pid, name: &str) -> Option<Pid> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    let is_named = |pid: &str| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name);
    children.split_whitespace().find(|pid| is_named(pid))?.parse().ok().map(Pid::from_raw)
}

/// Who makes the network is killed in the middle, alone or with the supervisor.
#[test]
fn a_network_that_is_half_made_is_taken_down() {
    let Some((env, _guard)) = private(app()) else { return };
    let mut met = 0;
    for round in 0..6 {
        let name = env.name();
        let arguments = ["run", "--name", &name, "--network", "private", "-p", "80", "app", "sleep", "1000"];
        let run = Running::start(&mut env.command(arguments));
        let supervisor = run.supervisor();
        let mut netavark = None;
        let until = Instant::now() + Duration::from_secs(5);
        while netavark.is_none() && Instant::now() < until && is_alive(supervisor.as_raw().into()) {
            netavark = child(supervisor, "netavark");
        }
        let Some(netavark) = netavark else { panic!("netavark was not seen") };
        std::thread::sleep(Duration::from_millis(round * 9));
        if round % 2 == 0 {
            let _ = kill(supervisor, Signal::SIGKILL);
        }
        met += i32::from(kill(netavark, Signal::SIGKILL).is_ok() && round % 2 == 1);
        if round % 2 == 1 {
            // It may have been done already.
            let _ = wait_until(|| env.record(&name)["state"] != "creating");
            if env.record(&name)["state"] == "running" {
                env.run(["stop", "-g", "0s", &name]).code(0);
            }
        }
        let output = run.finish();
        assert!([125, 137].contains(&output.code), "{output:?}");
        env.run(["ps"]).code(0);
        env.assert_clean();
    }
    assert!(met > 0, "it was always too late");
    assert_eq!(entries(&env.network().join("leases")), Vec::<PathBuf>::new());
    // And the next one has its network. Each rule for a port names the container.
    let name = env.name();
    env.run(["run", "--name", &name, "--network", "private", "-p", "80", "app", "true"]).code(0);
    let prefix = format!("id: {}", name.split_once('-').unwrap().0);
    let rules = tool("iptables-save", [""; 0]);
    assert!(!rules.contains(&prefix), "{rules}");
    env.assert_clean();
}

/// Takes all that is left of a disk.
fn fill(dir: &Path) -> PathBuf {
    let path = dir.join("fill");
    let mut file = fs::File::create(&path).unwrap();
    for size in [1 << 20, 4096, 512] {
        while std::io::Write::write_all(&mut file, &vec![1; size]).is_ok() {}
    }
    path
}

/// Takes all inodes that are left.
fn fill_inodes(dir: &Path) -> PathBuf {
    let path = dir.join("fill");
    fs::create_dir(&path).unwrap();
    let mut number = 0;
    while fs::File::create(path.join(number.to_string())).is_ok() {
        number += 1;
    }
    path
}

fn free(path: &Path) {
    if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
}

/// [`TestEnv::assert_clean`] with a store on a disk of its own, which is a mount.
#[track_caller]
fn assert_nothing_left(env: &TestEnv) {
    let left = || {
        let dirs = ["tmp", "trash", "active"].map(|name| env.root().join(name)).into_iter().chain([env.state()]);
        let files = dirs.flat_map(|dir| entries(&dir)).filter(|path| !path.ends_with("events.jsonl"));
        files.chain(env.cgroups()).collect::<Vec<_>>()
    };
    let until = Instant::now() + Duration::from_secs(5);
    while !left().is_empty() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(left(), Vec::<PathBuf>::new());
}

/// A store with the image `app` on a small disk.
fn on_disk(limit: &str) -> Option<(TestEnv, SmallDisk)> {
    let env = app()?;
    let aside = env.work().join("store");
    fs::rename(env.root(), &aside).unwrap();
    let disk = SmallDisk::on(env.root(), limit);
    tool("cp", ["-a".as_ref(), aside.join(".").as_os_str(), env.root().as_os_str()]);
    Some((env, disk))
}

/// A disk for the store, and what takes all of its space or all of its inodes.
type Filled = (&'static str, fn(&Path) -> PathBuf);
const FILLED: [Filled; 2] = [("size=24m", fill), ("size=64m,nr_inodes=900", fill_inodes)];

#[test]
fn a_run_on_a_full_disk_is_refused_and_leaves_nothing() {
    for (limit, fill) in FILLED {
        let Some((env, _disk)) = on_disk(limit) else { return };
        env.container(&["app", "true"]).code(0);
        let full = fill(&env.root());
        let name = env.name();
        let output = env.run(["run", "--name", &name, "app", "true"]).code(125);
        assert!(output.stderr.contains("No space left on device"), "{limit}: {}", output.stderr);
        env.run(["ps", "-a"]).code(0);
        free(&full);
        env.run(["ps", "-a"]).code(0);
        assert_nothing_left(&env);
        env.run(["run", "--rm", "--name", &name, "app", "true"]).code(0);
        assert_nothing_left(&env);
    }
}

#[test]
fn a_disk_that_fills_while_a_run_goes_on_is_told_and_the_end_is_not_lost() {
    for (limit, fill) in FILLED {
        for next_command_first in [false, true] {
            let Some((env, _disk)) = on_disk(limit) else { return };
            let name = env.name();
            // 20 KB of log: more than the rest of a page.
            let script = "trap 'i=0; while test $i -lt 400; do echo a line of fifty characters, or so, for the log; i=$((i+1)); done; \
                echo end; exit 7' TERM; echo ready; while :; do usleep 9000; done";
            let run = env.spawn(["run", "--name", &name, "app", "sh", "-c", script]);
            run.wait_for("ready");
            let full = fill(&env.root());
            run.signal(Signal::SIGTERM);
            let output = run.finish().code(7);
            assert!(output.stdout.ends_with("end\n"), "{limit}: {}", output.stdout);
            if limit.starts_with("size=24m") {
                assert!(output.stderr.contains("the log is incomplete"), "{limit}: {}", output.stderr);
            }
            if next_command_first {
                env.run(["ps", "-a"]).code(0);
            }
            free(&full);
            env.run(["ps", "-a"]).code(0);
            let record = env.record(&name);
            assert_eq!(
                (record["exit"]["exit_code"].as_i64(), reason(&env, &name).as_str()),
                (Some(7), "exited"),
                "{limit} {next_command_first}: {record}"
            );
            assert_nothing_left(&env);
        }
    }
}

/// The command line of an `exec` or the process behind it, from the moment that it is there on.
#[test]
fn an_exec_that_is_killed_at_any_moment_leaves_nothing_inside() {
    let Some(env) = app() else { return };
    let name = env.name();
    start(&env, &name, &[]);
    let init = env.record(&name)["pid"].as_i64().unwrap();
    for (round, delay_ms) in [0, 2, 4, 6, 9, 12, 16, 24, 40].into_iter().enumerate() {
        for kills_helper in [true, false] {
            let exec = env.spawn(["exec", &name, "sleep", "7777"]);
            let helper = || {
                let threads = entries(&PathBuf::from(format!("/proc/{}/task", exec.pid())));
                let children = threads.iter().filter_map(|dir| fs::read_to_string(dir.join("children")).ok());
                children.collect::<String>().split_whitespace().next().and_then(|pid| pid.parse().ok())
            };
            let mut found = None;
            if kills_helper {
                assert!(wait_until(|| {
                    found = helper();
                    found.is_some()
                }));
            }
            std::thread::sleep(Duration::from_millis(delay_ms));
            match found {
                Some(helper) => drop(kill(Pid::from_raw(helper), Signal::SIGKILL)),
                None => exec.signal(Signal::SIGKILL),
            }
            let output = exec.finish();
            assert!([125, 137].contains(&output.code), "round {round}: {output:?}");
        }
    }
    // In the container there is its first process, and the one that counts.
    let script = "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c 7777";
    assert!(wait_until(|| env
        .run(["exec", &name, "sh", "-c", script.replace("7777", "77[7]7").as_str()])
        .stdout
        .trim()
        == "0"));
    assert!(is_alive(init));
    env.run(["stop", &name]).code(0);
    env.assert_clean();
}

/// `active/` says which runs have not been cleaned up after; what a hostile or broken disk makes of it holds nobody up.
#[test]
fn what_cannot_be_mended_is_told_and_does_not_stand_in_the_way() {
    let Some(env) = app() else { return };
    for name in ["broken", "fine"] {
        start(&env, name, &[]);
    }
    let supervisors: Vec<i32> =
        ["broken", "fine"].iter().map(|name| parent_of(env.record(name)["pid"].as_i64().unwrap()).unwrap()).collect();
    fs::write(env.root().join("runs/broken/run.json"), "{").unwrap();
    for supervisor in supervisors {
        kill(Pid::from_raw(supervisor), Signal::SIGKILL).unwrap();
    }
    let output = env.run(["ps"]).code(0);
    assert!(output.stderr.contains("runs/broken/run.json"), "{}", output.stderr);
    assert!(wait_until(|| reason(&env, "fine") == "supervisor_lost"));
    // The next run is not held up, and the broken one can be removed.
    env.container(&["app", "true"]).code(0);
    env.run(["rm", "-f", "broken"]);
    env.run(["ps"]).code(0);
    assert_eq!(env.cgroups(), Vec::<PathBuf>::new());
}
