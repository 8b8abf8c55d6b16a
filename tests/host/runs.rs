//! Runs as they are listed, shown, followed and removed.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::base::app;
use crate::support::env::{Running, TestEnv, entries};

/// Starts a run that says `ready` and goes on until it is told to stop.
#[track_caller]
fn start(env: &TestEnv, name: &str) -> Running {
    let script = "trap 'echo bye; exit 0' TERM; echo ready; while :; do usleep 20000; done";
    let run = env.spawn(["run", "--name", name, "app", "sh", "-c", script]);
    run.wait_for("ready");
    run
}

fn names(list: &serde_json::Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|run| run["name"].as_str().unwrap()).collect()
}

#[test]
fn ps_tells_what_runs_and_what_ran() {
    let Some(env) = app() else { return };
    let [first, second] = [env.name(), env.name()];
    env.run(["run", "--name", &first, "app", "sh", "-c", "exit 3"]).code(3);
    let running = start(&env, &second);
    let all = env.run(["ps", "-a", "--format", "json"]).json();
    assert_eq!(names(&all), [&*second, &*first]);
    assert_eq!(names(&env.run(["ps", "--format", "json"]).json()), [&*second]);
    assert_eq!((all[0]["state"].as_str(), all[1]["state"].as_str()), (Some("running"), Some("failed")));
    assert_eq!((all[1]["exit"]["exit_code"].as_i64(), all[1]["exit"]["reason"].as_str()), (Some(3), Some("exited")));
    assert_eq!(all[1]["command"], serde_json::json!(["sh", "-c", "exit 3"]));
    assert!(all[0]["pid"].as_i64().is_some() && all[1]["pid"].is_null());
    let table = env.run(["ps", "-a"]).text();
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("RUN ") && lines[0].ends_with("EXIT"), "{table}");
    assert!(lines[1].starts_with(&*second) && lines[1].contains("running") && lines[1].ends_with('-'), "{table}");
    assert!(lines[2].starts_with(&*first) && lines[2].ends_with('3'), "{table}");
    running.signal(Signal::SIGTERM);
    running.finish().code(0);
    assert_eq!(env.run(["ps", "--format", "json"]).json(), serde_json::json!([]));
    env.assert_clean();
}

#[test]
fn logs_tell_what_was_written_where() {
    let Some(env) = app() else { return };
    let name = env.name();
    env.run(["run", "--name", &name, "app", "sh", "-c", "echo out; echo err >&2; printf partial"]).code(0);
    let output = env.run(["logs", &name]).code(0);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\npartial", "err\n"));
    let log = std::fs::read_to_string(env.root().join("runs").join(&name).join("log")).unwrap();
    let first = log.lines().next().unwrap();
    assert!(first.ends_with(" stdout F out") || first.ends_with(" stderr F err"), "{log}");
    assert!(log.lines().any(|line| line.ends_with(" stdout P partial")), "{log}");
    env.run(["logs", "nobody"]).refused(125, &["no run `nobody`", "hint: "]);
}

#[test]
fn logs_are_followed_to_the_end() {
    let Some(env) = app() else { return };
    let name = env.name();
    let running = start(&env, &name);
    let follower = env.spawn(["logs", "-f", &name]);
    follower.wait_for("ready");
    std::thread::sleep(Duration::from_millis(150));
    running.signal(Signal::SIGTERM);
    assert_eq!(follower.finish().code(0).stdout, "ready\nbye\n");
    running.finish().code(0);
    env.assert_clean();
}

#[test]
fn rm_removes_ended_runs_only() {
    let Some(env) = app() else { return };
    let [ended, going] = [env.name(), env.name()];
    env.run(["run", "--name", &ended, "app", "true"]).code(0);
    let running = start(&env, &going);
    env.run(["rm", &going]).refused(125, &[&format!("run `{going}` is still running"), "hint: "]);
    env.run(["rm", &ended, "nobody"]).refused(125, &["no run `nobody`"]);
    assert_eq!(env.run(["rm", &ended]).text(), ended);
    assert_eq!(names(&env.run(["ps", "-a", "--format", "json"]).json()), [&*going]);
    running.signal(Signal::SIGTERM);
    running.finish().code(0);
    env.run(["rm", &going]).code(0);
    assert!(entries(&env.root().join("runs")).is_empty());
    env.assert_clean();
}

#[test]
fn a_name_is_given_once() {
    let Some(env) = app() else { return };
    let name = env.name();
    let running = start(&env, &name);
    let taken = format!("the name `{name}` is taken");
    env.run(["run", "--name", &name, "app", "true"]).refused(125, &[&taken, "hint: "]);
    running.signal(Signal::SIGTERM);
    running.finish().code(0);
    env.run(["run", "--name", &name, "app", "true"]).refused(125, &[&taken, "hint: "]);
    env.run(["rm", &name]).code(0);
    env.run(["run", "--name", &name, "app", "true"]).code(0);
    env.assert_clean();
}

#[test]
fn what_stays_of_a_run() {
    let Some(env) = app() else { return };
    let files = |name: &str| {
        let mut files: Vec<String> = entries(&env.root().join("runs").join(name))
            .iter()
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        files.sort();
        files
    };
    let [removed, plain, kept] = [env.name(), env.name(), env.name()];
    env.run(["run", "--rm", "--name", &removed, "app", "touch", "/new"]).code(0);
    assert!(!env.root().join("runs").join(&removed).exists());
    env.run(["run", "--name", &plain, "app", "touch", "/new"]).code(0);
    assert_eq!(files(&plain), ["log", "run.json"]);
    env.run(["run", "--keep", "--name", &kept, "app", "touch", "/new"]).code(0);
    assert!(env.root().join("runs").join(&kept).join("upper/new").exists(), "{:?}", files(&kept));
    env.run(["rm", &kept]).code(0);
    assert!(!env.root().join("runs").join(&kept).exists());
    env.run(["run", "--rm", "--keep", "app", "true"]).code(125);
    env.assert_clean();
}

#[test]
fn inspect_tells_all_about_a_run() {
    let Some(env) = app() else { return };
    let name = env.name();
    env.run(["run", "-m", "64m", "--name", &name, "app", "sh", "-c", "exit 5"]).code(5);
    let shown = env.run(["inspect", &name]).json();
    let run = &shown[0];
    assert_eq!((run["kind"].as_str(), run["name"].as_str()), (Some("run"), Some(&*name)));
    assert_eq!((run["exit"]["exit_code"].as_i64(), run["exit"]["memory_limit"].as_u64()), (Some(5), Some(64 << 20)));
    assert_eq!(run["rootfs"], "overlay");
    let (created, started, finished) = (&run["created"], &run["started"], &run["finished"]);
    assert!(created.as_str() < started.as_str() && started.as_str() < finished.as_str(), "{run}");
    assert!(std::path::Path::new(run["log"].as_str().unwrap()).is_file());
    env.run(["inspect", "nobody"]).refused(125, &["no run and no image `nobody`", "hint: "]);
}

/// A damaged record of one run harms no other.
#[test]
fn a_damaged_record_harms_nobody_else() {
    let Some(env) = app() else { return };
    let [good, bad] = [env.name(), env.name()];
    for name in [&good, &bad] {
        env.run(["run", "--name", name, "app", "true"]).code(0);
    }
    std::fs::write(env.root().join("runs").join(&bad).join("run.json"), "{ half").unwrap();
    let output = env.run(["ps", "-a", "--format", "json"]).code(0);
    assert!(output.stderr.contains("run.json` is damaged"), "{}", output.stderr);
    assert_eq!(names(&output.json()), [&*good]);
    env.run(["rm", &bad]).code(0);
    env.assert_clean();
}

#[test]
fn quiet_and_verbose() {
    let Some(env) = app() else { return };
    let name = env.name();
    let talk = env.run(["run", "--verbose", "--rm", "--name", &name, "app", "true"]).code(0).stderr;
    assert!(talk.contains("root file system: overlay") && talk.contains(&format!("run {name}")), "{talk}");
    let same = env.run(["-v", "run", "--rm", "--name", &name, "app", "true"]).code(0).stderr;
    assert_eq!(same.lines().count(), talk.lines().count(), "{talk}\n{same}");
    assert_eq!(env.run(["run", "-q", "--rm", "--name", &name, "app", "true"]).code(0).stderr, "");
}

#[test]
fn ps_names_alone_and_without_specs() {
    let Some(env) = app() else { return };
    let [first, second] = [env.name(), env.name()];
    for name in [&first, &second] {
        env.run(["run", "--name", name, "app", "true"]).code(0);
    }
    assert_eq!(env.run(["ps", "-aq"]).text(), format!("{second}\n{first}"));
    assert_eq!(env.run(["ps", "-q"]).text(), "");
    let all = env.run(["ps", "-a", "--format", "json"]).json();
    assert!(all.as_array().unwrap().iter().all(|run| run["spec"].is_null()), "{all}");
    let table = env.run(["ps", "-a"]).text();
    assert!(table.lines().next().unwrap().contains("SUBMITTED") && table.contains(" ago") | table.contains("just now"));
    env.assert_clean();
}

/// `printf` is one write without an end, so its piece and the rest of its line are written at times of their own.
#[test]
fn parts_of_a_real_log() {
    let Some(env) = app() else { return };
    let name = env.name();
    let script = "echo one; printf tw; usleep 300000; echo o; echo three; echo err >&2; printf four";
    env.run(["run", "--name", &name, "app", "sh", "-c", script]).code(0);
    let logs = |flags: &[&str]| env.run([&["logs"], flags, &[&name]].concat()).code(0);
    assert_eq!(logs(&["--tail", "1"]).stdout.len() + logs(&["--tail", "1"]).stderr.len(), 4, "either `four` or `err`");
    assert_eq!(logs(&["--tail", "4"]).stdout, "two\nthree\nfour");
    assert_eq!(logs(&["--since", "1h"]).stdout, "one\ntwo\nthree\nfour");
    assert_eq!(logs(&["--until", "1h"]).stdout, "");
    let stamped = logs(&["-t"]);
    let times: Vec<&str> = stamped.stdout.lines().map(|line| line.split_once("Z ").unwrap().0).collect();
    assert!(times.len() == 4 && times.is_sorted(), "{times:?}");
    // A busy machine may read two lines at once, which have one time then.
    let lines = |flags: &[&str]| logs(flags).stdout.lines().count();
    assert_eq!(lines(&["--until", times[0]]), times.iter().filter(|time| **time <= times[0]).count(), "{times:?}");
    assert_eq!(lines(&["--since", times[1]]), times.iter().filter(|time| **time >= times[1]).count(), "{times:?}");
    env.assert_clean();
}
