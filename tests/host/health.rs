//! Health checks: what is asked when, what comes of it, and that a check neither holds up nor leaves anything.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::statvfs::FsFlags;
use serde_json::{Value, json};

use crate::base::{app, app_with};
use crate::support::env::{TestEnv, entries, finish_with, wait_until};

/// Goes on until it is told not to.
const LOOP: &str = "trap 'exit 7' TERM; while :; do usleep 20000; done";
/// A check of an image that looks for a file.
const LOOKS: &str = "echo looked; test -e /tmp/ok";

fn image_check() -> Value {
    json!({ "Test": ["CMD-SHELL", LOOKS], "Interval": 100_000_000, "Timeout": 5_000_000_000_u64, "Retries": 2 })
}

/// Starts a run that goes on.
#[track_caller]
fn start(env: &TestEnv, flags: &[&str]) -> String {
    let name = env.name();
    env.run([&["run", "-d", "--name", &name], flags, &["app", "sh", "-c", LOOP]].concat()).code(0);
    name
}

fn health(env: &TestEnv, name: &str) -> Value {
    env.record(name)["health"].clone()
}

fn log(env: &TestEnv, name: &str) -> Vec<Value> {
    health(env, name)["log"].as_array().unwrap().clone()
}

#[track_caller]
fn wait_for_status(env: &TestEnv, name: &str, status: &str) {
    assert!(wait_until(|| health(env, name)["status"] == status), "not {status}: {}", health(env, name));
}

#[track_caller]
fn sh(env: &TestEnv, name: &str, script: &str) -> String {
    env.run(["exec", name, "sh", "-c", script]).text()
}

/// Processes of the container with this word in their arguments, and zombies of the run.
fn count(env: &TestEnv, name: &str, word: &str) -> usize {
    sh(env, name, "cat /proc/[0-9]*/cmdline | tr '\\0\\n' '  '; true").matches(word).count()
}

#[test]
fn the_check_of_an_image_is_run_and_shown() {
    let Some(env) = app_with(|image| image.docker_schema2().config("Healthcheck", image_check())) else { return };
    let name = start(&env, &["--events", "events"]);
    wait_for_status(&env, &name, "unhealthy");
    sh(&env, &name, "touch /tmp/ok");
    wait_for_status(&env, &name, "healthy");
    assert_eq!(env.run(["ps", "-q", "--filter", "health=healthy"]).text(), name);
    assert!(env.run(["ps"]).text().contains("running (healthy)"));
    assert_eq!(env.run(["ps", "--format", "json"]).json()[0]["health"]["status"], "healthy");
    env.run(["healthcheck", "run", &name]).code(0);
    sh(&env, &name, "rm /tmp/ok");
    wait_for_status(&env, &name, "unhealthy");
    let hand = env.run(["healthcheck", "run", &name]).code(1);
    assert!(hand.stdout.contains("looked") && hand.stderr.contains("unhealthy"), "{hand:?}");
    let shown = env.run(["inspect", &name]).json()[0]["health"].clone();
    let check = &shown["check"];
    assert_eq!(check["command"], json!(["/bin/sh", "-c", LOOKS]));
    let times = ["interval_ms", "timeout_ms", "retries", "start_period_ms", "start_interval_ms"].map(|key| &check[key]);
    assert_eq!(times, [100, 5000, 2, 0, 5000]);
    assert!(shown["failing_streak"].as_u64().unwrap() >= 2);
    let results = shown["log"].as_array().unwrap();
    assert_eq!(results.len(), 5);
    let last = &results[4];
    assert_eq!((&last["exit_code"], &last["output"]), (&json!(1), &json!("looked\n")));
    assert!(last["start"].as_str() < last["end"].as_str() && results[3]["end"].as_str() < last["start"].as_str());
    assert!(!env.run(["ps", "-q", "--filter", "health=none"]).text().contains(&name));
    env.run(["stop", &name]).code(0);
    let events = fs::read_to_string(env.work().join("events")).unwrap();
    let events = events.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let told: Vec<Value> =
        events.filter(|event| event["type"] == "health").map(|event| event["status"].clone()).collect();
    assert_eq!(told, ["starting", "unhealthy", "healthy", "unhealthy"]);
    assert!(env.run(["ps", "-a"]).text().contains("stopped  "), "an ended run is not unhealthy any more");
    env.assert_clean();
}

#[test]
fn flags_win_over_the_image() {
    let Some(env) = app_with(|image| image.config("Healthcheck", image_check())) else { return };
    let flags = ["--health-cmd", r#"["sh", "-c", "exit 3"]"#, "--health-interval", "50ms", "--health-retries", "1"];
    let name = start(&env, &[&flags[..], &["--health-timeout", "1m30s", "--health-start-interval", "1.5s"]].concat());
    wait_for_status(&env, &name, "unhealthy");
    let shown = health(&env, &name);
    assert_eq!(shown["check"]["command"], json!(["sh", "-c", "exit 3"]));
    assert_eq!(shown["log"][0]["exit_code"], 3);
    assert_eq!((&shown["check"]["timeout_ms"], &shown["check"]["start_interval_ms"]), (&json!(90_000), &json!(1500)));
    env.run(["stop", "--grace", "0s", &name]).code(0);
    for off in [&["--no-healthcheck"][..], &["--health-cmd", "none"]] {
        let name = start(&env, off);
        assert_eq!(env.run(["ps", "-q", "--filter", "health=none"]).text(), name);
        assert!(env.record(&name).get("health").is_none());
        env.run(["healthcheck", "run", &name]).refused(125, &["has no health check", "hint: "]);
        env.run(["stop", "--grace", "0s", &name]).code(0);
    }
    env.assert_clean();
}

#[test]
fn what_cannot_be_is_refused() {
    let Some(env) = app() else { return };
    for (flags, words) in [
        (&["--health-interval", "1s"][..], &["`--health-interval`", "the image has no health check", "hint: "][..]),
        (&["--health-on-failure", "kill"], &["`--health-on-failure`", "hint: "]),
        (&["--health-cmd", "true", "--health-interval", "30"], &["`--health-interval 30`", "a unit"]),
        (&["--health-cmd", "true", "--health-timeout", "-1s"], &["`--health-timeout -1s`"]),
        (&["--health-cmd", "true", "--health-start-period", "1us"], &["1ms or more"]),
        (&["--health-cmd", "true", "--health-retries", "-1"], &["`--health-retries -1`"]),
        (&["--health-cmd", ""], &["`--health-cmd`"]),
        (&["--health-cmd", "none", "--health-retries", "2"], &["`--health-cmd none`", "hint: "]),
        (&["--health-cmd", "true", "--health-on-failure", "restart"], &["restart policy", "hint: "]),
    ] {
        env.run([&["run"], flags, &["app", "true"]].concat()).refused(125, words);
    }
    let both = env.run(["run", "--no-healthcheck", "--health-retries", "1", "app", "true"]).code(125);
    assert!(both.stderr.contains("cannot be used with"), "{}", both.stderr);
    env.assert_clean();
    // What is wrong with an image's own keeps nobody from running it.
    let broken = json!({ "Test": "curl\u{1b}", "Interval": "x" });
    let Some(env) = app_with(|image| image.config("Healthcheck", broken)) else { return };
    let output = env.run(["run", "app", "true"]).code(0);
    assert!(output.stderr.contains("`Test` of the health check is malformed"), "{}", output.stderr);
    env.run(["run", "--health-retries", "1", "app", "true"]).refused(125, &["`--health-retries`", "malformed"]);
}

#[test]
fn failures_do_not_count_at_the_start() {
    let Some(env) = app() else { return };
    let flags = ["--health-cmd", "false", "--health-retries", "1", "--health-interval", "1h"];
    let times = ["--health-start-period", "1200ms", "--health-start-interval", "100ms"];
    let began = Instant::now();
    let name = start(&env, &[&flags[..], &times].concat());
    assert!(wait_until(|| log(&env, &name).len() >= 3));
    assert!(began.elapsed() > Duration::from_millis(300));
    let early = health(&env, &name);
    assert_eq!((&early["status"], &early["failing_streak"]), (&json!("starting"), &json!(0)), "{early}");
    assert!(env.run(["ps"]).text().contains("running (health: starting)"));
    // The period is over, and with it the short interval: one more failure at most, an hour till the next.
    sleep(Duration::from_millis(1500).saturating_sub(began.elapsed()));
    let late = log(&env, &name);
    sleep(Duration::from_millis(400));
    assert_eq!(log(&env, &name), late);
    env.run(["stop", &name]).code(0);
    env.assert_clean();
}

#[test]
fn a_check_that_hangs_is_killed_with_all_it_started() {
    let Some(env) = app() else { return };
    let hangs = "echo begun; sleep 1001 & sleep 1002";
    let flags = ["--health-cmd", hangs, "--health-timeout", "150ms", "--health-interval", "150ms"];
    let name = start(&env, &[&flags[..], &["--health-retries", "3"]].concat());
    wait_for_status(&env, &name, "unhealthy");
    let results = log(&env, &name);
    assert_eq!(results[0]["exit_code"], -1);
    assert_eq!(results[0]["output"], "begun\nthe check took longer than 150ms");
    assert!(wait_until(|| log(&env, &name).len() == 5));
    for word in ["sleep 1001", "sleep 1002"] {
        // Twice when its shell has not been replaced yet.
        assert!(wait_until(|| count(&env, &name, word) == 0), "{word}");
    }
    env.run(["stop", &name]).code(0);
    // Told even where there is no room for it.
    let writes = "head -c 9000 /dev/zero | tr '\\0' x; sleep 1002";
    let name = start(&env, &["--health-cmd", writes, "--health-timeout", "500ms", "--health-interval", "50ms"]);
    assert!(wait_until(|| !log(&env, &name).is_empty()));
    let output = log(&env, &name)[0]["output"].as_str().unwrap().to_owned();
    assert!(output.len() == 4096 && output.ends_with("x\nthe check took longer than 500ms"), "{output}");
    env.run(["stop", &name]).code(0);
    // What a check has left on purpose stays until the end, as with docker, and does not keep it from ending.
    let leaves = "setsid sleep 1003 & exit 0";
    let name = start(&env, &["--health-cmd", leaves, "--health-interval", "100ms"]);
    wait_for_status(&env, &name, "healthy");
    assert!(wait_until(|| count(&env, &name, "sleep 1003") > 1));
    env.run(["stop", &name]).code(0);
    env.assert_clean();
}

#[test]
fn a_check_is_within_the_containers_bounds() {
    let Some(env) = app() else { return };
    let script = "grep Seccomp: /proc/self/status; echo $(id -u) $(pwd) $A; cat /proc/self/cgroup | md5sum; \
        cat /proc/1/cgroup | md5sum; ls /proc/self/fd | wc -l; wc -c; cat /proc/self/oom_score_adj /proc/1/oom_score_adj | uniq | wc -l";
    let flags = ["-u", "app", "-w", "/tmp", "-e", "A=run", "--memory", "64m", "--health-interval", "50ms"];
    let name = start(&env, &[&flags[..], &["--health-cmd", script]].concat());
    wait_for_status(&env, &name, "healthy");
    let output = log(&env, &name)[0]["output"].as_str().unwrap().to_owned();
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!((lines[0], lines[1]), ("Seccomp:\t2", "1000 /tmp run"), "{output}");
    assert_eq!((lines[2], lines[4], lines[5], lines[6]), (lines[3], "4", "0", "1"), "{output}");
    env.run(["stop", &name]).code(0);
    // However much it writes, so much is kept; and all of it is taken.
    let writes = "head -c 3000000 /dev/zero | tr '\\0' x; echo end >&2";
    let name = start(&env, &["--health-cmd", writes, "--health-interval", "50ms"]);
    wait_for_status(&env, &name, "healthy");
    assert_eq!(log(&env, &name)[0]["output"], "x".repeat(4096));
    env.run(["stop", &name]).code(0);
    let name = start(&env, &["--health-cmd", r#"["no-such"]"#, "--health-interval", "50ms"]);
    wait_for_status(&env, &name, "unhealthy");
    let result = &log(&env, &name)[0];
    assert_eq!(result["exit_code"], 127);
    assert!(result["output"].as_str().unwrap().contains("`no-such` was not found"), "{result}");
    env.run(["healthcheck", "run", &name]).refused(1, &["`no-such` was not found"]);
    env.run(["stop", &name]).code(0);
    env.assert_clean();
}

#[test]
fn a_run_that_turns_unhealthy_is_ended_on_request() {
    let Some(env) = app() else { return };
    for (action, code, told) in [("kill", 137, "killed"), ("stop", 7, "the workload ended with 7")] {
        let flags = ["--health-cmd", "false", "--health-interval", "100ms", "--health-retries", "2"];
        let name = env.name();
        let output = env.run(
            [&["run", "--name", &name], &flags[..], &["--health-on-failure", action, "app", "sh", "-c", LOOP]].concat(),
        );
        let output = output.refused(code, &["unhealthy: its health check failed too often", told]);
        let record = env.record(&name);
        assert_eq!((&record["exit"]["reason"], &record["exit"]["exit_code"]), (&json!("unhealthy"), &json!(code)));
        assert_eq!(
            (&record["state"], &record["health"]["failing_streak"]),
            (&json!("failed"), &json!(2)),
            "{output:?}"
        );
    }
    // Ended well, it has still failed.
    let flags = ["--health-cmd", "false", "--health-interval", "50ms", "--health-on-failure", "stop"];
    let script = "trap 'exit 0' TERM; while :; do usleep 20000; done";
    env.run([&["run", "--name", "well"], &flags[..], &["app", "sh", "-c", script]].concat()).code(0);
    assert_eq!(env.record("well")["state"], "failed");
    env.assert_clean();
}

#[test]
fn a_paused_run_is_not_asked() {
    let Some(env) = app() else { return };
    // One that goes on at the time is not too late because of it.
    let flags = ["--health-cmd", "usleep 200000", "--health-interval", "50ms", "--health-timeout", "1s"];
    let name = start(&env, &[&flags[..], &["--health-retries", "1"]].concat());
    wait_for_status(&env, &name, "healthy");
    env.run(["pause", &name]).code(0);
    assert!(env.run(["ps"]).text().contains("paused (healthy)"));
    let before = log(&env, &name);
    sleep(Duration::from_millis(1300));
    assert_eq!(log(&env, &name), before);
    env.run(["unpause", &name]).code(0);
    assert!(wait_until(|| log(&env, &name).last() != before.last()));
    sleep(Duration::from_millis(300));
    assert!(log(&env, &name).iter().all(|result| result["exit_code"] == 0), "{:?}", log(&env, &name));
    env.run(["stop", &name]).code(0);
    env.assert_clean();
}

#[test]
fn a_check_that_hangs_holds_up_nothing() {
    let Some(env) = app() else { return };
    let hangs = ["--health-cmd", "trap '' TERM; touch /tmp/asked; sleep 1004", "--health-interval", "10ms"];
    for pid in ["", "host"] {
        let name = start(&env, &[&hangs[..], &["--pid", pid]].concat());
        let asked = || env.run(["exec", &name, "test", "-e", "/tmp/asked"]).code == 0;
        assert!(wait_until(asked));
        let began = Instant::now();
        env.run(["stop", "--grace", "60s", &name]).code(0);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert_eq!(env.record(&name)["exit"]["exit_code"], 7);
        env.assert_clean();
    }
    // Killed with its supervisor.
    let name = env.name();
    let run = env.spawn([&["run", "--name", &name], &hangs[..], &["app", "sh", "-c", LOOP]].concat());
    let supervisor = run.supervisor();
    assert!(wait_until(|| helpers(supervisor.as_raw()) == 1));
    let asked = || env.run(["exec", &name, "test", "-e", "/tmp/asked"]).code == 0;
    assert!(wait_until(asked));
    // What has come near the container is a file that nobody can write to (CVE-2019-5736).
    let helper = children(supervisor.as_raw()).into_iter().find(|pid| is_helper(pid)).unwrap();
    let program = format!("/proc/{helper}/exe");
    let is_read_only = nix::sys::statvfs::statvfs(program.as_str()).unwrap().flags().contains(FsFlags::ST_RDONLY);
    assert!(is_read_only || fs::read_link(&program).unwrap().starts_with("/memfd:"));
    nix::sys::signal::kill(supervisor, Signal::SIGKILL).unwrap();
    run.finish().code(137);
    assert_eq!(env.record(&name)["exit"]["reason"], "supervisor_lost");
    env.assert_clean();
}

fn children(supervisor: i32) -> Vec<String> {
    let children = fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).unwrap_or_default();
    children.split_whitespace().map(str::to_owned).collect()
}

fn is_helper(pid: &str) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| words.starts_with(b"dockless-exec"))
}

/// Children of the supervisor that are checks, dead or alive.
fn helpers(supervisor: i32) -> usize {
    let is_dead = |pid: &str| fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z"));
    children(supervisor).iter().filter(|pid| is_dead(pid) || is_helper(pid)).count()
}

#[test]
fn secrets_are_hidden_from_what_a_check_says() {
    let check = json!({ "Test": ["CMD-SHELL", "echo said $TOKEN"], "Interval": 100_000_000 });
    let Some(env) = app_with(|image| image.config("Healthcheck", check)) else { return };
    finish_with(&mut env.command(["secrets", "add", "TOKEN"]), b"hunter2-and-more").code(0);
    let workflow = "workflows:\n  - name: w\n    image: app\n    commands: [usleep 700000]\n";
    env.write(".dstack/workflows.yaml", workflow);
    env.run(["workflow", "run", "w", "--name", "w", "--secret", "TOKEN"]).code(0);
    let last = log(&env, "w").pop().unwrap();
    assert_eq!((&last["exit_code"], &last["output"]), (&json!(0), &json!("said ****\n")));
    env.assert_clean();
}

#[test]
fn many_checks_leave_nothing() {
    let Some(env) = app() else { return };
    let name = env.name();
    let flags = ["--health-cmd", "echo x >>/tmp/asked", "--health-interval", "1ms"];
    let run = env.spawn([&["run", "--name", &name], &flags[..], &["app", "sh", "-c", LOOP]].concat());
    let supervisor = run.supervisor().as_raw();
    let asked = || env.run(["exec", &name, "wc", "-l", "/tmp/asked"]).stdout.trim_end_matches(" /tmp/asked\n").parse();
    assert!(wait_until(|| asked().unwrap_or(0) > 5));
    // Fewest of several looks, as one check goes on most of the time; what each leaves would be fifty more.
    let least = || {
        let look = |_| {
            sleep(Duration::from_millis(3));
            entries(&Path::new("/proc").join(supervisor.to_string()).join("fd")).len()
        };
        (0..30).map(look).min().unwrap()
    };
    let before = least();
    assert!(wait_until(|| asked().unwrap_or(0) > 60));
    let after = least();
    assert!(after < before + 10, "{after} after {before}");
    assert!(helpers(supervisor) <= 1);
    assert!(log(&env, &name).iter().all(|result| result["exit_code"] == 0));
    env.run(["stop", &name]).code(0);
    run.finish().code(7);
    env.assert_clean();
}
