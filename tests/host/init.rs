//! `--init`: a first process that reaps, passes signals on and ends as the workload does.

use std::path::Path;

use nix::sys::signal::Signal;

use crate::base::app;
use crate::support::env::{entries, finish, program, wait_until};

#[test]
fn it_reaps_and_ends_as_the_workload_does() {
    let Some(env) = app() else { return };
    // A child that outlives its parent becomes the first process's, which has to take its end.
    let orphan = "sh -c 'sleep 0.1 & exit'; sleep 0.5; grep -l 'State:.Z' /proc/[0-9]*/status; echo $$";
    let output = env.script(&["--init"], orphan).code(0);
    assert_ne!(output.stdout, "1\n", "the workload is the first process");
    assert!(!output.stdout.contains("/proc"), "zombies: {}", output.stdout);
    env.script(&["--init"], "exit 33").code(33);
    env.script(&["--init"], "kill -TERM $$").code(143);
    env.container(&["--init", "app", "no-such"]).refused(127, &["`no-such` was not found"]);
    // The workload gets what it does not ask for as well, unlike a first process.
    let run =
        env.spawn(["run", "--rm", "--name", &env.name(), "--init", "app", "sh", "-c", "echo ready; sleep 1000 & wait"]);
    run.wait_for("ready");
    run.signal(Signal::SIGTERM);
    run.finish().code(143);
    env.assert_clean();
}

/// In the machine's pid namespace, or in that of another run, it takes in what others leave all the same.
#[test]
fn it_reaps_where_it_is_not_the_first() {
    let Some(env) = app() else { return };
    let donor = env.name();
    let wait = "trap 'exit 0' TERM; while :; do usleep 20000; done";
    env.run(["run", "-d", "--name", &donor, "app", "sh", "-c", wait]).code(0);
    let of_donor = format!("container:{donor}");
    for flags in [["--pid", "host"], ["--pid", &of_donor], ["--network", &of_donor]] {
        let name = env.name();
        let script = "sh -c 'sleep 4322 & exit'; echo ready; while :; do usleep 20000; done";
        let run = env.spawn([&["run", "--init", "--name", &name], &flags[..], &["app", "sh", "-c", script]].concat());
        run.wait_for("ready");
        let processes = env.run(["top", "--format", "json", &name]).json();
        let find = |test: &dyn Fn(&serde_json::Value) -> bool| {
            processes
                .as_array()
                .unwrap()
                .iter()
                .find(|process| test(process))
                .unwrap_or_else(|| panic!("{processes}"))
                .clone()
        };
        let init = find(&|process| process["pid"] == env.record(&name)["pid"]);
        let orphan = find(&|process| process["command"] == "sleep 4322");
        assert_eq!(orphan["parent"], init["pid"], "{flags:?}: {processes}");
        assert!(flags[0] == "--network" || init["container_pid"] != 1, "{flags:?}");
        // Commands of `exec` see it under the same number, and when it has ended nothing of it stays.
        let number = orphan["container_pid"].to_string();
        env.run(["exec", &name, "sh", "-c", &format!("kill {number}")]).code(0);
        assert!(wait_until(|| env.run(["exec", &name, "sh", "-c", &format!("test -e /proc/{number}")]).code == 1));
        // What outlives its command goes with the run.
        env.run(["exec", &name, "sh", "-c", "sleep 4323 >/dev/null 2>&1 & sleep 4324 >/dev/null 2>&1 & true"]).code(0);
        env.run(["stop", &name]).code(0);
        run.finish().code(143);
        let left = finish(&mut program("pgrep", ["-f", "^sleep 432[234]$"]));
        assert_eq!(left.stdout, "", "{flags:?}");
    }
    env.run(["stop", &donor]).code(0);
    env.assert_clean();
}

#[test]
fn it_gives_nothing_away() {
    let Some(env) = app() else { return };
    let script = "ls /proc/1/fd 2>&1 | wc -l; readlink /proc/1/exe || echo hidden; cat /proc/1/environ 2>/dev/null | wc -c; \
        grep -E '^(Seccomp|CapEff)' /proc/1/status /proc/self/status | cut -d: -f2- | sort | uniq -c | wc -l; cat /proc/1/comm";
    let output = env.script(&["--init"], script).code(0);
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(lines[1..], ["hidden", "0", "3", "dockless-init"], "{}", output.stdout);
    env.assert_clean();
}

/// What of ours is seen from a container cannot be written by it (CVE-2019-5736).
#[test]
fn our_binary_is_sealed() {
    let Some(env) = app() else { return };
    let name = env.name();
    env.run([
        "run",
        "-d",
        "--name",
        &name,
        "--init",
        "app",
        "sh",
        "-c",
        "trap 'exit 0' TERM; while :; do usleep 9000; done",
    ])
    .code(0);
    let init = env.record(&name)["pid"].as_i64().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{init}/status")).unwrap();
    let supervisor = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim();
    let exec = env.spawn(["exec", &name, "sleep", "100"]);
    let mut helper = String::new();
    assert!(crate::support::env::wait_until(|| {
        let threads = entries(Path::new(&format!("/proc/{}/task", exec.pid())));
        let children = threads.iter().filter_map(|dir| std::fs::read_to_string(dir.join("children")).ok());
        helper = children.collect::<String>().trim().to_owned();
        let words = std::fs::read(format!("/proc/{helper}/cmdline")).unwrap_or_default();
        words.starts_with(b"dockless-exec")
    }));
    for process in [&init.to_string(), supervisor, &helper] {
        // A program that runs is busy and cannot be written, which passes; a mount that is read-only stays so.
        let binary = std::fs::File::open(format!("/proc/{process}/exe")).unwrap();
        let flags = rustix::fs::fstatvfs(&binary).unwrap().f_flag;
        assert!(flags.contains(rustix::fs::StatVfsMountFlags::RDONLY), "{process}: {flags:?}");
    }
    env.run(["stop", &name]).code(0);
    exec.finish().code(137);
    env.assert_clean();
}
