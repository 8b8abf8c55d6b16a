//! Runs that go on alone, and the ways to end a run from outside: stop, abort, Ctrl-C, a machine that is taken away.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::base::{app, base_image, empty};
use crate::support::env::{Running, TestEnv, wait_until};
use crate::support::registry::TestRegistry;

/// Writes to its artifact when it is told to stop, and ends well.
const POLITE: &str = "\
workflows:
  - name: polite
    image: app
    artifacts: [out]
    commands:
      - trap 'echo stopped > out/state; exit 0' TERM
      - echo begun > out/state; echo ready
      - while :; do usleep 20000; done
  - name: preemptible
    image: app
    artifacts: [out]
    resources: { interruptible: true }
    commands:
      - trap 'echo saved > out/state; exit 0' TERM
      - echo ready
      - while :; do usleep 20000; done
  - name: stubborn
    image: app
    artifacts: [out]
    commands: [\"trap '' TERM INT\", echo begun > out/state; echo ready, while :; do usleep 20000; done]
  # The shell waits for its child and does not pass signals on.
  - name: nested
    image: app
    artifacts: [out]
    commands: [echo ready, sleep 1000, echo never]
  - { name: quick, image: app, commands: [echo one, exit 3] }
";

fn project() -> Option<TestEnv> {
    let env = app()?;
    env.write(".dstack/workflows.yaml", POLITE);
    Some(env)
}

/// A workflow that has got as far as `ready`.
#[track_caller]
fn begun(env: &TestEnv, workflow: &str) -> (String, Running) {
    let name = env.name();
    let run = env.spawn(["workflow", "run", workflow, "--name", &name]);
    run.wait_for("ready");
    (name, run)
}

#[track_caller]
fn saved(env: &TestEnv, run: &str) -> String {
    env.run(["artifacts", "cp", run, run]).code(0);
    fs::read_to_string(env.work().join(run).join("out/state")).unwrap_or_default()
}

#[track_caller]
fn exit(env: &TestEnv, run: &str, key: &str) -> Value {
    env.record(run)["exit"][key].clone()
}

#[track_caller]
fn state(env: &TestEnv, run: &str) -> String {
    env.record(run)["state"].as_str().unwrap().to_owned()
}

#[test]
fn a_detached_run_goes_on_alone_and_can_be_waited_for() {
    let Some(env) = app() else { return };
    let name = env.name();
    let script = "echo begun; while ! test -e /work/stop; do usleep 20000; done; echo over; exit 5";
    let mount = format!("{}:/work", env.work().display());
    let output = env.run(["run", "-d", "--name", &name, "-v", &mount, "app", "sh", "-c", script]);
    assert_eq!(output.text(), name);
    assert_eq!(state(&env, &name), "running");
    let wait = env.spawn(["wait", &name]);
    let ps = env.run(["ps", "-q"]).text();
    assert_eq!(ps, name);
    env.write("stop", "");
    assert_eq!(wait.finish().text(), "5");
    assert_eq!(env.run(["wait", &name]).text(), "5");
    assert_eq!(env.run(["logs", &name]).text(), "begun\nover");
    assert_eq!(state(&env, &name), "failed");
    env.assert_clean();
}

#[test]
fn a_detached_run_that_cannot_start_says_so() {
    let Some(env) = app() else { return };
    let name = env.name();
    env.run(["run", "-d", "--rm", "--name", &name, "app", "no-such-program"]).refused(127, &["no-such-program"]);
    env.assert_clean();
}

#[test]
fn a_detached_run_outlives_its_command_line_and_terminal() {
    let Some(env) = app() else { return };
    let name = env.name();
    let run = env.spawn(["run", "-d", "--name", &name, "app", "sh", "-c", "trap '' HUP; sleep 0.5; echo still here"]);
    assert_eq!(run.finish().text(), name);
    assert_eq!(env.run(["logs", "-f", &name]).text(), "still here");
    assert_eq!(env.run(["wait", &name]).text(), "0");
    env.assert_clean();
}

#[test]
fn stop_asks_saves_and_waits() {
    let Some(env) = project() else { return };
    let (name, run) = begun(&env, "polite");
    assert_eq!(env.run(["stop", &name]).text(), name);
    assert_eq!(state(&env, &name), "stopped");
    run.finish().code(0);
    assert_eq!(saved(&env, &name), "stopped\n");
    assert_eq!(exit(&env, &name, "reason"), "stopped");
    // Once more is no mistake.
    let again = env.run(["stop", &name]).code(0);
    assert!(again.stderr.contains("has ended already"), "{}", again.stderr);
    env.assert_clean();
}

#[test]
fn stop_kills_when_the_time_is_over_and_still_saves() {
    let Some(env) = project() else { return };
    let (name, run) = begun(&env, "stubborn");
    let start = Instant::now();
    env.run(["stop", "--grace", "1s", &name]).code(0);
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    run.finish().code(137);
    assert_eq!(saved(&env, &name), "begun\n");
    assert_eq!(exit(&env, &name, "message"), "stopped: killed");
    env.assert_clean();
}

#[test]
fn stop_reaches_what_a_shell_waits_for() {
    let Some(env) = project() else { return };
    let (name, run) = begun(&env, "nested");
    let start = Instant::now();
    env.run(["stop", &name]).code(0);
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    let output = run.finish().code(143);
    assert!(!output.stdout.contains("never"), "{}", output.stdout);
    env.assert_clean();
}

#[test]
fn abort_kills_and_saves_nothing() {
    let Some(env) = project() else { return };
    let (name, run) = begun(&env, "polite");
    env.run(["stop", "--abort", &name]).code(0);
    run.finish().code(137);
    assert_eq!((state(&env, &name).as_str(), &exit(&env, &name, "reason")), ("aborted", &Value::from("aborted")));
    env.run(["artifacts", "ls", &name]).code(125);
    assert!(!env.root().join("artifacts").join(&name).exists());
    assert!(!env.root().join("runs").join(&name).join("artifacts").exists());
    env.assert_clean();
}

#[test]
fn ctrl_c_stops_a_workflow_and_a_second_one_kills_it() {
    let Some(env) = project() else { return };
    let (name, run) = begun(&env, "polite");
    run.signal(Signal::SIGINT);
    run.finish().code(0);
    assert_eq!((saved(&env, &name).as_str(), state(&env, &name).as_str()), ("stopped\n", "stopped"));

    let (name, run) = begun(&env, "stubborn");
    run.signal(Signal::SIGINT);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(state(&env, &name), "running");
    run.signal(Signal::SIGINT);
    let output = run.finish().code(137);
    assert!(output.stderr.contains("once more kills it"), "{}", output.stderr);
    assert_eq!((saved(&env, &name).as_str(), state(&env, &name).as_str()), ("begun\n", "stopped"));
    env.assert_clean();
}

/// A spot machine gets SIGTERM; whatever the workload makes of it, the run counts as taken away.
#[test]
fn sigterm_interrupts_an_interruptible_workflow() {
    let Some(env) = project() else { return };
    let (name, run) = begun(&env, "preemptible");
    run.signal(Signal::SIGTERM);
    run.finish().code(143);
    assert_eq!((saved(&env, &name).as_str(), state(&env, &name).as_str()), ("saved\n", "interrupted"));
    let manifest = fs::read_to_string(env.root().join("artifacts").join(&name).join("saved/manifest.json")).unwrap();
    assert!(manifest.contains("interrupted"), "{manifest}");

    // The supervisor of a detached one gets it as well when the machine goes down.
    let (name, run) = begun(&env, "preemptible");
    kill(run.supervisor(), Signal::SIGTERM).unwrap();
    run.finish().code(143);
    assert_eq!(state(&env, &name), "interrupted");

    let (name, run) = begun(&env, "polite");
    run.signal(Signal::SIGTERM);
    run.finish().code(0);
    assert_eq!(state(&env, &name), "stopped");
    env.assert_clean();
}

#[test]
fn a_run_that_still_pulls_is_shown_and_can_be_stopped() {
    let Some(env) = empty() else { return };
    let registry = TestRegistry::start();
    let reference = registry.push("app:1", &base_image().build()).to_string();
    registry.when("/blobs/").stall_after(10);
    let name = env.name();
    let run = env.spawn(["run", "--name", &name, &reference, "true"]);
    assert!(wait_until(|| !registry.requests_for("/blobs/").is_empty()));
    assert!(wait_until(|| env.run(["ps", "--format", "json"]).json()[0]["state"] == "pulling"));
    let start = Instant::now();
    env.run(["stop", &name]).code(0);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    run.finish().code(143);
    assert_eq!(env.run(["ps", "-a", "-q"]).text(), "");
}

#[test]
fn the_failing_command_is_named() {
    let Some(env) = project() else { return };
    let name = env.name();
    let output = env.run(["workflow", "run", "quick", "--name", &name]).code(3);
    assert!(output.stderr.contains("command 2 of 2, `exit 3`, failed with exit code 3"), "{}", output.stderr);
    let failed = exit(&env, &name, "failed_command");
    assert_eq!((&failed["index"], &failed["of"], &failed["code"]), (&Value::from(2), &Value::from(2), &Value::from(3)));
    env.assert_clean();
}

#[test]
fn a_supervisor_that_is_killed_ends_a_wait() {
    let Some(env) = app() else { return };
    let name = env.name();
    env.run(["run", "-d", "--name", &name, "app", "sleep", "1000"]).code(0);
    let wait = env.spawn(["wait", &name]);
    std::thread::sleep(Duration::from_millis(200));
    let supervisor = supervisor_of(&env, &name);
    kill(supervisor, Signal::SIGKILL).unwrap();
    assert_eq!(wait.finish().text(), "137");
    assert_eq!(exit(&env, &name, "reason"), "supervisor_lost");
    env.assert_clean();
}

/// The parent of the container's init.
fn supervisor_of(env: &TestEnv, name: &str) -> Pid {
    let init = env.record(name)["pid"].as_i64().unwrap();
    let status = fs::read_to_string(format!("/proc/{init}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
    Pid::from_raw(parent.trim().parse().unwrap())
}

#[test]
fn the_record_tells_limits_use_and_spec() {
    let Some(env) = app() else { return };
    let name = env.name();
    env.run([
        "run",
        "--name",
        &name,
        "--cpus",
        "0.5",
        "--memory",
        "64m",
        "app",
        "sh",
        "-c",
        "i=0; while test $i -lt 20000; do i=$((i+1)); done",
    ])
    .code(0);
    let record = env.record(&name);
    assert_eq!(record["limits"]["cpus"], 0.5);
    assert_eq!(record["limits"]["memory"], 64 << 20);
    assert!(record["exit"]["cpu_seconds"].as_f64().unwrap() > 0.001, "{record}");
    assert!(record["exit"]["memory_peak"].as_u64().unwrap() > 0, "{record}");
    assert_eq!(record["spec"]["process"]["args"][0], "sh");
    env.assert_clean();
}
