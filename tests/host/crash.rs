//! kill -9 at the worst moment: nothing stays, nothing is lost, and the record tells the truth.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::base::app;
use crate::support::env::{Running, TestEnv, wait_until};

const LOOP: &str = "while :; do usleep 20000; done";

#[track_caller]
fn start(env: &TestEnv, name: &str, script: &str) -> Running {
    let run = env.spawn(["run", "--name", name, "app", "sh", "-c", script]);
    run.wait_for("ready");
    run
}

fn exit(env: &TestEnv, name: &str) -> Value {
    env.record(name)["exit"].clone()
}

fn is_alive(pid: i64) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_killed_command_line_stops_the_run() {
    let Some(env) = app() else { return };
    let name = env.name();
    let run = start(&env, &name, &format!("trap 'echo stopped; exit 5' TERM; echo ready; {LOOP}"));
    run.signal(Signal::SIGKILL);
    // The supervisor holds our pipes until it has ended.
    let output = run.finish().code(137);
    assert_eq!(output.stdout, "ready\nstopped\n");
    let exit = exit(&env, &name);
    assert_eq!((exit["exit_code"].as_i64(), exit["reason"].as_str()), (Some(5), Some("client_lost")));
    env.assert_clean();
}

#[test]
fn a_killed_command_line_does_not_cost_the_artifacts() {
    let Some(env) = app() else { return };
    env.write(
        ".dstack/workflows.yaml",
        "workflows: [{ name: w, image: app, artifacts: [out], commands: \
         ['trap \"exit 5\" TERM; echo kept > out/x; echo ready; while :; do usleep 20000; done'] }]",
    );
    let name = env.name();
    let run = env.spawn(["workflow", "run", "w", "--name", &name]);
    run.wait_for("ready");
    run.signal(Signal::SIGKILL);
    run.finish().code(137);
    env.run(["artifacts", "cp", &name, "saved"]).code(0);
    assert_eq!(fs::read_to_string(env.work().join("saved/out/x")).unwrap(), "kept\n");
    env.assert_clean();
}

/// The image's stop signal is used, and `--rm` holds.
#[test]
fn a_killed_command_line_stops_as_the_image_says() {
    let Some(env) = crate::base::app_with(|image| image.stop_signal("SIGUSR1")) else { return };
    let name = env.name();
    let script = format!("trap 'echo usr1; exit 0' USR1; trap 'echo term; exit 1' TERM; echo ready; {LOOP}");
    let run = env.spawn(["run", "--rm", "--name", &name, "app", "sh", "-c", &script]);
    run.wait_for("ready");
    run.signal(Signal::SIGKILL);
    assert_eq!(run.finish().stdout, "ready\nusr1\n");
    assert!(wait_until(|| !env.root().join("runs").join(&name).exists()));
    env.assert_clean();
}

/// Slow: this is the grace of ten seconds.
#[test]
fn a_workload_that_does_not_stop_is_killed_after_the_grace() {
    let Some(env) = app() else { return };
    let name = env.name();
    let run = start(&env, &name, &format!("trap 'echo no' TERM; echo ready; {LOOP}"));
    let start = Instant::now();
    run.signal(Signal::SIGKILL);
    assert_eq!(run.finish().stdout, "ready\nno\n");
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(9) && took < Duration::from_secs(30), "{took:?}");
    let exit = exit(&env, &name);
    assert_eq!((exit["exit_code"].as_i64(), exit["reason"].as_str()), (Some(137), Some("client_lost")));
    env.assert_clean();
}

#[test]
fn a_killed_supervisor_ends_the_container() {
    let Some(env) = app() else { return };
    let name = env.name();
    let run = start(&env, &name, &format!("echo ready; (while :; do sleep 1; done) & {LOOP}"));
    let init = env.record(&name)["pid"].as_i64().unwrap();
    kill(run.supervisor(), Signal::SIGKILL).unwrap();
    let output = run.finish().code(137);
    assert!(output.stderr.contains("supervisor was killed"), "{}", output.stderr);
    assert!(!is_alive(init));
    let record = env.record(&name);
    assert_eq!(
        (record["state"].as_str(), record["exit"]["reason"].as_str()),
        (Some("failed"), Some("supervisor_lost"))
    );
    assert!(!env.root().join("runs").join(&name).join("upper").exists());
    env.assert_clean();
}

/// Whatever the workload has made of its signals, as whatever user it runs.
#[test]
fn a_killed_supervisor_ends_a_stubborn_container() {
    let Some(env) = app() else { return };
    let name = env.name();
    let script = format!("trap '' TERM INT HUP QUIT; echo ready; {LOOP}");
    let run = env.spawn(["run", "--rm", "-u", "app", "--name", &name, "app", "sh", "-c", &script]);
    run.wait_for("ready");
    kill(run.supervisor(), Signal::SIGKILL).unwrap();
    run.finish().code(137);
    assert!(!env.root().join("runs").join(&name).exists(), "--rm holds for a killed run as well");
    env.assert_clean();
}

#[test]
fn both_killed_is_mended_by_the_next_command() {
    let Some(env) = app() else { return };
    let name = env.name();
    let run = start(&env, &name, &format!("echo ready; {LOOP}"));
    let init = env.record(&name)["pid"].as_i64().unwrap();
    let supervisor = run.supervisor();
    // Stopped first, so that neither sees the other's end.
    kill(supervisor, Signal::SIGSTOP).unwrap();
    run.signal(Signal::SIGKILL);
    kill(supervisor, Signal::SIGKILL).unwrap();
    run.finish().code(137);
    assert!(wait_until(|| !is_alive(init)));
    let runs = env.run(["ps", "-a", "--format", "json"]).json();
    assert_eq!((runs[0]["name"].as_str(), runs[0]["state"].as_str()), (Some(&*name), Some("failed")));
    assert_eq!(
        (runs[0]["exit"]["exit_code"].as_i64(), runs[0]["exit"]["reason"].as_str()),
        (Some(137), Some("supervisor_lost"))
    );
    env.assert_clean();
}

/// What a killed supervisor did not come to, the next command does.
#[test]
fn artifacts_survive_both_kills() {
    let Some(env) = app() else { return };
    env.write(
        ".dstack/workflows.yaml",
        "workflows: [{ name: w, image: app, artifacts: [out], commands: \
         ['echo kept > out/x; echo ready; while :; do usleep 20000; done'] }]",
    );
    let name = env.name();
    let run = env.spawn(["workflow", "run", "w", "--name", &name]);
    run.wait_for("ready");
    let supervisor = run.supervisor();
    kill(supervisor, Signal::SIGSTOP).unwrap();
    run.signal(Signal::SIGKILL);
    kill(supervisor, Signal::SIGKILL).unwrap();
    run.finish().code(137);
    env.run(["ps"]).code(0);
    env.run(["artifacts", "cp", &name, "saved"]).code(0);
    assert_eq!(fs::read_to_string(env.work().join("saved/out/x")).unwrap(), "kept\n");
    env.assert_clean();
}

/// A supervisor that is killed while it sets the container up leaves as little.
#[test]
fn kills_at_any_moment_leave_nothing() {
    let Some(env) = app() else { return };
    // Unpacked before, so that the moments are those of the set-up.
    env.container(&["app", "true"]).code(0);
    for delay_ms in [0, 5, 10, 15, 20, 30, 45, 60, 80] {
        for only_command_line in [true, false] {
            let name = env.name();
            let run = env.spawn(["run", "--rm", "--name", &name, "app", "sh", "-c", "echo ready; sleep 1000"]);
            let supervisor = (!only_command_line).then(|| run.supervisor());
            std::thread::sleep(Duration::from_millis(delay_ms));
            if let Some(supervisor) = supervisor {
                let _ = kill(supervisor, Signal::SIGKILL);
            } else {
                run.signal(Signal::SIGKILL);
                // `sh` as init ignores the stop signal, so the rest is killed as well.
                kill_all_of(&env);
            }
            // A supervisor that could not even be spoken to is a fault of ours.
            let output = run.finish();
            assert!([125, 137].contains(&output.code), "after {delay_ms} ms: {output:?}");
            env.run(["ps"]).code(0);
            env.assert_clean();
        }
    }
}

/// Kills supervisors that hold a lock of this test's store.
fn kill_all_of(env: &TestEnv) {
    let active = env.root().join("active");
    for process in crate::support::env::entries(std::path::Path::new("/proc")) {
        let Some(pid) = process.file_name().and_then(|name| name.to_str()?.parse::<i32>().ok()) else { continue };
        let holds = crate::support::env::entries(&process.join("fd"))
            .iter()
            .any(|fd| fs::read_link(fd).is_ok_and(|target| target.starts_with(&active)));
        if holds && u32::try_from(pid) != Ok(std::process::id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// A process that the workload leaves behind holds the output open; it ends with the container.
#[test]
fn processes_left_behind_by_the_workload_end_with_it() {
    let Some(env) = app() else { return };
    let start = Instant::now();
    let output = env.script(&[], "sleep 1000 & setsid sleep 1000 & echo started").code(0);
    assert_eq!(output.stdout, "started\n");
    assert!(start.elapsed() < Duration::from_secs(20));
    env.assert_clean();
}
