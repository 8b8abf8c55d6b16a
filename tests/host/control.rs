//! What can be asked of runs that go on: signals, standing still, other limits.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use crate::base::app;
use crate::support::env::{Running, TestEnv, cgroup_mounts, entries, wait_until};

/// Starts a run that says `ready`, names the signals it gets, and goes on.
#[track_caller]
pub(crate) fn start(env: &TestEnv, flags: &[&str], name: &str) -> Running {
    let traps = "for s in HUP USR1 36; do trap \"echo got $s\" $s; done; trap 'echo bye; exit 7' TERM";
    let script = format!("{traps}; echo ready; while :; do usleep 10000; done");
    let run = env.spawn([&["run", "--name", name], flags, &["app", "sh", "-c", &script]].concat());
    run.wait_for("ready");
    run
}

fn state(env: &TestEnv, name: &str) -> String {
    env.run(["inspect", name]).json()[0]["state"].as_str().unwrap().to_owned()
}

fn reason(env: &TestEnv, name: &str) -> String {
    env.record(name)["exit"]["reason"].as_str().unwrap().to_owned()
}

/// Processes that are in any cgroup of this test.
fn alive(env: &TestEnv) -> usize {
    env.cgroups()
        .iter()
        .map(|cgroup| fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default().lines().count())
        .sum()
}

/// A file of the run's cgroup, in whichever hierarchy has it.
fn cgroup_file(env: &TestEnv, name: &str, file: &str) -> String {
    let id = env.record(name)["id"].as_str().unwrap().to_owned();
    let mut paths = cgroup_mounts().into_iter().map(|mount| mount.join("dockless").join(&id).join(file));
    let found = paths.find_map(|path| fs::read_to_string(path).ok());
    found.unwrap_or_else(|| panic!("no {file}")).trim().to_owned()
}

#[test]
fn kill_sends_any_signal() {
    let Some(env) = app() else { return };
    let [first, second] = [env.name(), env.name()];
    let runs = [start(&env, &[], &first), start(&env, &[], &second)];
    assert_eq!(env.run(["kill", "-s", "SIGUSR1", &first, &second]).text(), format!("{first}\n{second}"));
    runs[0].wait_for("got USR1");
    runs[1].wait_for("got USR1");
    env.run(["kill", "--signal", "1", &first]).code(0);
    runs[0].wait_for("got HUP");
    env.run(["kill", "-s", "rtmin+2", &first]).code(0);
    runs[0].wait_for("got 36");
    env.run(["kill", "-s", "WRONG", &first]).refused(125, &["signal `WRONG`"]);
    env.run(["kill", &first, "nobody"]).refused(125, &["no run `nobody`"]);
    assert_eq!(state(&env, &first), "running");
    env.run(["kill", &first]).code(0);
    // It has ended when the command has.
    assert_eq!((state(&env, &first), reason(&env, &first)), ("failed".to_owned(), "signalled".to_owned()));
    let [one, two] = runs;
    one.finish().code(137);
    // Of those that can be killed all are.
    let output = env.run(["kill", &first, &second]).refused(125, &[&format!("run `{first}` is not running"), "ended"]);
    assert_eq!(output.stdout.trim(), second);
    two.finish().code(137);
    env.assert_clean();
}

#[test]
fn stop_has_dockers_time_and_signal() {
    let Some(env) = app() else { return };
    let [patient, asked] = [env.name(), env.name()];
    let stubborn = env.spawn([
        "run",
        "--name",
        &patient,
        "app",
        "sh",
        "-c",
        "trap '' TERM; echo ready; while :; do usleep 10000; done",
    ]);
    stubborn.wait_for("ready");
    let begin = Instant::now();
    env.run(["stop", "-t", "1", &patient]).code(0);
    let took = begin.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(8), "{took:?}");
    stubborn.finish().code(137);
    let run = start(&env, &[], &asked);
    let stop = env.spawn(["stop", "--signal", "USR1", "--time", "-1", &asked]);
    run.wait_for("got USR1");
    env.run(["stop", "-t", "-2", &asked]).code(125);
    env.run(["stop", "-t", "1", "-g", "1s", &asked]).code(125);
    env.run(["kill", "-s", "TERM", &asked]).code(0);
    stop.finish().code(0);
    run.finish().code(7);
    assert_eq!(reason(&env, &asked), "stopped");
    env.assert_clean();
}

#[test]
fn rm_force_ends_what_goes_on() {
    let Some(env) = app() else { return };
    let [going, ended, paused, vanishing] = [env.name(), env.name(), env.name(), env.name()];
    env.run(["run", "--name", &ended, "app", "true"]).code(0);
    let runs = [start(&env, &[], &going), start(&env, &[], &paused), start(&env, &["--rm"], &vanishing)];
    env.run(["pause", &paused]).code(0);
    env.run(["rm", &going]).refused(125, &["still running"]);
    let output = env.run(["rm", "-f", &going, &ended, &paused, "nobody", &vanishing]).code(0);
    assert_eq!(output.stdout, format!("{going}\n{ended}\n{paused}\n{vanishing}\n"));
    assert!(output.stderr.contains("no run `nobody`"), "{}", output.stderr);
    for run in runs {
        run.finish().code(137);
    }
    assert!(entries(&env.root().join("runs")).is_empty());
    env.assert_clean();
}

#[test]
fn a_paused_run_stands_still() {
    let Some(env) = app() else { return };
    let name = env.name();
    let script = "i=0; echo ready; while :; do i=$((i+1)); echo $i > /count; usleep 5000; done";
    let run = env.spawn(["run", "--rootfs", "copy", "--name", &name, "app", "sh", "-c", script]);
    run.wait_for("ready");
    let path = env.root().join("runs").join(&name).join("rootfs/count");
    let count = || fs::read_to_string(&path).unwrap_or_default();
    assert!(wait_until(|| !count().is_empty()));
    assert_eq!(env.run(["pause", &name]).text(), name);
    assert_eq!(state(&env, &name), "paused");
    let table = env.run(["ps"]).text();
    assert!(table.contains("paused"), "{table}");
    env.run(["pause", &name]).refused(125, &[&format!("cannot pause run `{name}`: it is paused already")]);
    let before = count();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(count(), before, "it goes on");
    env.run(["unpause", &name]).code(0);
    assert!(wait_until(|| count() != before));
    assert_eq!(state(&env, &name), "running");
    env.run(["unpause", &name]).refused(125, &["it is not paused"]);
    env.run(["kill", &name]).code(0);
    run.finish().code(137);
    env.run(["pause", &name]).refused(125, &["is not running"]);
    env.assert_clean();
}

/// It could not take the signal otherwise.
#[test]
fn whoever_ends_a_paused_run_lets_it_go_on() {
    let Some(env) = app() else { return };
    for (arguments, code, output) in [
        (&["stop"][..], 7, "ready\nbye\n"),
        (&["stop", "--abort"], 137, "ready\n"),
        (&["kill"], 137, "ready\n"),
        (&["kill", "-s", "TERM"], 7, "ready\nbye\n"),
    ] {
        let name = env.name();
        let run = start(&env, &[], &name);
        env.run(["pause", &name]).code(0);
        env.run([arguments, &[&name]].concat()).code(0);
        assert_eq!(run.finish().code(code).stdout, output, "{arguments:?}");
    }
    // And the one who had started it goes away.
    let name = env.name();
    let run = start(&env, &[], &name);
    env.run(["pause", &name]).code(0);
    run.signal(Signal::SIGKILL);
    assert_eq!(run.finish().stdout, "ready\nbye\n");
    env.assert_clean();
}

/// A process that stands still does not die of SIGKILL on cgroup v1.
#[test]
fn a_paused_run_whose_supervisor_was_killed_is_cleaned_up() {
    let Some(env) = app() else { return };
    let name = env.name();
    let run = start(&env, &[], &name);
    env.run(["pause", &name]).code(0);
    kill(run.supervisor(), Signal::SIGKILL).unwrap();
    run.finish().code(137);
    assert!(wait_until(|| state(&env, &name) == "failed"));
    assert_eq!((alive(&env), reason(&env, &name)), (0, "supervisor_lost".to_owned()));
    env.assert_clean();
}

#[test]
fn limits_are_changed_while_it_runs() {
    let Some(env) = app() else { return };
    let name = env.name();
    let run = start(&env, &["-m", "64m"], &name);
    let v2 = cgroup_mounts().iter().all(|mount| !mount.join("memory.limit_in_bytes").exists());
    let file = |v1: &str, unified: &str| cgroup_file(&env, &name, if v2 { unified } else { v1 });
    let memory = || file("memory.limit_in_bytes", "memory.max");
    let update = |flags: &[&str]| env.run([&["update"], flags, &[&name]].concat());

    assert_eq!(update(&["--cpus", "0.5", "--pids-limit", "50", "-m", "96m"]).text(), name);
    assert_eq!((memory(), file("pids.max", "pids.max")), ((96 << 20).to_string(), "50".to_owned()));
    assert!(file("cpu.cfs_quota_us", "cpu.max").starts_with("50000"));
    let limits = env.record(&name)["limits"].clone();
    assert_eq!((limits["memory"].as_u64(), limits["cpus"].as_f64()), (Some(96 << 20), Some(0.5)));
    update(&["-c", "512", "--cpuset-cpus", "0", "--memory-reservation", "32m", "--pids-limit", "-1"]).code(0);
    assert_eq!((file("cpuset.cpus", "cpuset.cpus"), file("pids.max", "pids.max")), ("0".into(), "max".into()));
    assert_eq!(file("cpu.shares", "cpu.weight"), if v2 { "20" } else { "512" });
    assert_eq!(file("memory.soft_limit_in_bytes", "memory.low"), (32 << 20).to_string());
    update(&["--cpuset-mems", "0"]).code(0);
    assert_eq!(file("cpuset.mems", "cpuset.mems"), "0");
    // Which disks have weights depends on the kernel; what cannot be done is told.
    let weighed = update(&["--blkio-weight", "321"]);
    if weighed.code == 0 {
        let weights = ["blkio.bfq.weight", "blkio.weight"].map(|file| {
            let id = env.record(&name)["id"].as_str().unwrap().to_owned();
            let mut paths = cgroup_mounts().into_iter().map(|mount| mount.join("dockless").join(&id).join(file));
            paths.find_map(|path| fs::read_to_string(path).ok()).unwrap_or_default()
        });
        assert!(v2 || weights.iter().any(|weight| weight.contains("321")), "{weights:?}");
    } else {
        weighed.refused(125, &["cannot update", "the weight of disk accesses"]);
    }
    // In both directions, although memory must not pass memory and swap.
    for (size, swap) in [("512m", "600m"), ("32m", "40m"), ("48m", "-1"), ("64m", "64m")] {
        update(&["--memory", size, "--memory-swap", swap]).code(0);
    }
    let limit = (64 << 20).to_string();
    assert_eq!(memory(), limit);

    update(&["-m", "1g"]).refused(125, &["memory and swap", "hint: give `--memory-swap`"]);
    // Nothing of what is refused is done.
    update(&["--pids-limit", "9", "--cpuset-cpus", "8000"]).refused(125, &["cannot update", "`8000`"]);
    assert_eq!(file("pids.max", "pids.max"), "max");
    update(&[]).refused(125, &["no limit was given", "hint: "]);
    update(&["--memory", "64m", "--memory-swap", "32m"]).refused(125, &["--memory-swap"]);
    update(&["--cpuset-cpus", "1-0"]).refused(125, &["--cpuset-cpus", "malformed"]);
    update(&["--cpus", "100000"]).refused(125, &["100000"]);
    update(&["--cpu-shares", "1"]).code(125);
    assert_eq!(memory(), limit);
    env.run(["kill", &name]).code(0);
    run.finish().code(137);
    assert_eq!(env.record(&name)["exit"]["memory_limit"].as_u64(), Some(64 << 20));
    update(&["-m", "64m"]).refused(125, &["is not running"]);
    env.assert_clean();
}

/// The kernel cannot take back what is in a tmpfs when there is no swap left.
#[test]
fn memory_in_use_cannot_be_taken_away() {
    let Some(env) = app() else { return };
    let name = env.name();
    let script = "dd if=/dev/zero of=/dev/shm/x bs=1M count=30 2>/dev/null; echo ready; while :; do usleep 20000; done";
    let run = env.spawn(["run", "-m", "64m", "--name", &name, "app", "sh", "-c", script]);
    run.wait_for("ready");
    let update = env.run(["update", "--memory", "16m", "--memory-swap", "16m", &name]);
    update.refused(125, &["of memory are in use", "16 MiB"]);
    assert_eq!(env.record(&name)["limits"]["memory"].as_u64(), Some(64 << 20));
    assert_eq!(state(&env, &name), "running");
    env.run(["kill", &name]).code(0);
    run.finish().code(137);
    env.assert_clean();
}

#[test]
fn ps_lists_what_is_asked_for() {
    let Some(env) = app() else { return };
    let [well, badly, going] = [env.name(), env.name(), env.name()];
    env.run(["run", "--name", &well, "app", "true"]).code(0);
    env.run(["run", "--name", &badly, "app", "sh", "-c", "exit 3 # a longer command"]).code(3);
    let run = start(&env, &[], &going);
    // Labels stand in the record, whoever wrote them there.
    let mut record = env.record(&well);
    record["labels"] = serde_json::json!({ "team": "vision" });
    let path = env.root().join("runs").join(&well).join("run.json");
    fs::write(path, serde_json::to_vec(&record).unwrap()).unwrap();
    let id = env.record(&going)["id"].as_str().unwrap().to_owned();
    for (flags, names) in [
        (&["--filter", "status=exited"][..], vec![&badly, &well]),
        (&["--filter", "status=running", "-f", "status=failed"], vec![&going, &badly]),
        (&["-f", "exited=3"], vec![&badly]),
        (&["-a", "-f", "label=team=vision"], vec![&well]),
        (&["-a", "-f", "label=team=sound"], vec![]),
        (&["-f", &format!("name={going}")], vec![&going]),
        (&["-f", &format!("name={well}")], vec![]),
        (&["-f", &format!("id={id}")], vec![&going]),
        (&["-a", "-f", "ancestor=app"], vec![&going, &badly, &well]),
        (&["-a", "-f", "ancestor=app:2"], vec![]),
        (&["--last", "2"], vec![&going, &badly]),
        (&["--latest"], vec![&going]),
    ] {
        let listed = env.run([&["ps", "-q"], flags].concat()).text();
        assert_eq!(listed.lines().collect::<Vec<_>>(), names, "{flags:?}");
    }
    let table = env.run(["ps", "-a", "--no-trunc"]).text();
    assert!(table.lines().next().unwrap().contains("IMAGE") && table.contains("exit 3 # a longer command"), "{table}");
    assert!(env.run(["ps", "-a"]).text().contains("sh -c exit 3 # a lo…"));
    env.run(["ps", "-f", "status=gone"]).code(125);
    env.run(["kill", &going]).code(0);
    run.finish().code(137);
    env.assert_clean();
}

/// Whatever stands in the record: only its supervisor knows its processes.
#[test]
fn nobody_else_is_hit() {
    let Some(env) = app() else { return };
    let name = env.name();
    let run = start(&env, &[], &name);
    let mut bystander = crate::support::env::program("sleep", ["60"]).spawn().unwrap();
    let path = env.root().join("runs").join(&name).join("run.json");
    let mut record = env.record(&name);
    record["pid"] = bystander.id().into();
    fs::write(&path, serde_json::to_vec(&record).unwrap()).unwrap();
    env.run(["kill", "-s", "USR1", &name]).code(0);
    run.wait_for("got USR1");
    env.run(["kill", &name]).code(0);
    run.finish().code(137);
    assert!(bystander.try_wait().unwrap().is_none());
    bystander.kill().unwrap();
    bystander.wait().unwrap();
    env.assert_clean();
}
