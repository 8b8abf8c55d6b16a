//! How long a run lasts, what is kept of what it writes, and what programs are told of it.

use std::fs;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::base::app;
use crate::support::env::{Output, TestEnv, finish, wait_until};

/// Sleeps until it is told to stop.
const LOOP: &str = "while :; do usleep 20000; done";

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn types(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

fn exit(env: &TestEnv, name: &str) -> Value {
    env.record(name)["exit"].clone()
}

/// A run whose flags name it.
fn named(env: &TestEnv, flags: &[&str], script: &str) -> Output {
    env.run([&["run"], flags, &["app", "sh", "-c", script]].concat())
}

#[test]
fn a_run_that_takes_too_long_is_stopped() {
    let Some(env) = app() else { return };
    let began = Instant::now();
    let script = format!("trap 'echo asked; exit 0' TERM; echo ready; {LOOP}");
    let output = named(&env, &["--name", "slow", "--timeout", "1s"], &script).code(124);
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    assert_eq!(output.stdout, "ready\nasked\n");
    assert!(output.stderr.contains("timeout: its time was over, the workload ended with 0"), "{}", output.stderr);
    let exit = exit(&env, "slow");
    assert_eq!((exit["exit_code"].as_i64(), exit["reason"].as_str()), (Some(124), Some("timeout")));
    assert_eq!(env.record("slow")["state"], "failed");
    assert!(exit["started"].as_str().unwrap() < exit["finished"].as_str().unwrap());
    // Time enough, or none set.
    env.script(&["--timeout", "1h"], "exit 3").code(3);
    env.script(&["--timeout", "0"], "exit 3").code(3);
    assert!(env.container(&["--timeout", "soon", "app", "true"]).code(125).stderr.contains("`soon` is malformed"));
    env.assert_clean();
}

#[test]
fn files_with_the_id_and_the_process() {
    let Some(env) = app() else { return };
    env.run(["run", "-d", "--name", "one", "--cidfile", "cid", "--pidfile", "pid", "app", "sleep", "60"]).code(0);
    let id = fs::read_to_string(env.work().join("cid")).unwrap();
    assert_eq!(env.record("one")["id"], id.as_str());
    let pid: i64 = fs::read_to_string(env.work().join("pid")).unwrap().trim().parse().unwrap();
    assert_eq!(env.record("one")["pid"], pid);
    let again = env.run(["run", "--cidfile", "cid", "--name", "two", "app", "true"]);
    again.refused(125, &["`cid` is there already, expected a new file", "hint: "]);
    assert!(!env.root().join("runs/two").exists());
    env.container(&["--cidfile", "other", "missing", "true"]).code(125);
    assert!(!env.work().join("other").exists(), "a run that never was has left its file");
    // The id names the run wherever its name does.
    env.run(["stop", "--grace", "0s", &id]).code(0);
    let waited = env.run(["wait", "--format", "json", &id]).code(0).json();
    assert_eq!((waited[0]["exit_code"].as_i64(), waited[0]["reason"].as_str()), (Some(137), Some("stopped")));
    assert_eq!(waited[0]["finished"], env.record("one")["finished"]);
    env.assert_clean();
}

#[test]
fn programs_are_told_what_happens() {
    let Some(env) = app() else { return };
    let script = format!("trap 'exit 4' USR1; echo ready; {LOOP}");
    let run = env.spawn(["run", "--name", "told", "--events", "events", "app", "sh", "-c", &script]);
    run.wait_for("ready");
    run.signal(Signal::SIGUSR1);
    run.finish().code(4);
    let events = lines(&fs::read_to_string(env.work().join("events")).unwrap());
    assert_eq!(types(&events), ["created", "started", "signal", "exited", "cleaned"]);
    for (number, event) in events.iter().enumerate() {
        assert_eq!((&event["schema"], &event["seq"]), (&Value::from(1), &Value::from(number + 1)));
        assert_eq!((&event["run"], &event["id"]), (&Value::from("told"), &env.record("told")["id"]));
        assert!(event["time"].as_str().unwrap().ends_with('Z'));
    }
    assert_eq!(events[2]["signal"], Signal::SIGUSR1 as i32);
    assert_eq!((&events[3]["exit_code"], &events[3]["reason"]), (&Value::from(4), &Value::from("exited")));

    // A descriptor of the caller's, and an image that has to be fetched first.
    let file = fs::File::create(env.work().join("fd")).unwrap();
    fcntl(&file, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let number = file.as_raw_fd().to_string();
    env.run(["run", "--rm", "--events-fd", &number, "app", "sh", "-c", "exit 3"]).code(3);
    let events = lines(&fs::read_to_string(env.work().join("fd")).unwrap());
    assert_eq!(types(&events), ["created", "started", "exited", "cleaned"]);

    env.container(&["--events-fd", "1", "app", "true"]).refused(125, &["it is a standard stream", "hint: "]);
    env.container(&["--events-fd", "777", "app", "true"]).refused(125, &["`--events-fd 777`", "hint: "]);
    env.container(&["--events", "no/such/directory", "app", "true"]).refused(125, &["cannot write"]);
    env.assert_clean();
}

#[test]
fn events_of_all_runs() {
    let Some(env) = app() else { return };
    let follower = env.spawn(["events", "--filter", "run=one", "--format", "json"]);
    env.run(["run", "--name", "before", "app", "true"]).code(0);
    let one = env.spawn(["run", "--name", "one", "app", "sh", "-c", &format!("echo ready; {LOOP}")]);
    one.wait_for("ready");
    one.signal(Signal::SIGKILL);
    drop(one.finish());
    follower.wait_for("\"cleaned\"");
    follower.signal(Signal::SIGTERM);
    let events = lines(&follower.finish().stdout);
    assert!(types(&events).contains(&"exited") && events.iter().all(|event| event["run"] == "one"), "{events:?}");

    let shown = env.run(["events", "--since", "1h", "--stream=false", "--filter", "type=exited"]).code(0).stdout;
    let (before, one) = shown.split_once('\n').unwrap();
    assert!(before.contains("exited") && before.contains("before") && before.contains("exit code 0"), "{shown}");
    assert!(one.contains("one") && one.contains("the command that had started the run was killed"), "{shown}");
    assert_eq!(env.run(["events", "--since", "1h", "--until", "30m"]).code(0).stdout, "");
    env.run(["events", "--filter", "colour=red"]).refused(125, &["expected `run=NAME` or `type=TYPE`"]);
}

#[test]
fn a_lost_run_is_told_too() {
    let Some(env) = app() else { return };
    let run = env.spawn(["run", "--name", "lost", "app", "sh", "-c", &format!("echo ready; {LOOP}")]);
    run.wait_for("ready");
    nix::sys::signal::kill(run.supervisor(), Signal::SIGKILL).unwrap();
    run.finish().code(137);
    let shown = env.run(["events", "--since", "1h", "--stream=false", "--format", "json"]).code(0);
    let events = lines(&shown.stdout);
    assert_eq!(types(&events), ["created", "started", "exited"]);
    assert_eq!((&events[2]["seq"], &events[2]["reason"]), (&Value::from(3), &Value::from("supervisor_lost")));
    env.assert_clean();
}

#[test]
fn the_kernels_victim_is_named() {
    let Some(env) = app() else { return };
    let script = "(exec dd if=/dev/zero of=/dev/null bs=300M count=1); sleep 2; exit 7";
    let events = ["--name", "hungry", "-m", "64m", "--memory-swap", "64m", "--events", "events"];
    let flags = if env.run(["run", "--help"]).stdout.contains("--memory-swap ") { &events[..] } else { &events[..4] };
    named(&env, flags, script).code(7);
    let exit = exit(&env, "hungry");
    assert_eq!((&exit["reason"], &exit["oom_kills"]), (&Value::from("exited"), &Value::from(1)));
    if fs::File::open("/dev/kmsg").is_ok() {
        assert_eq!(exit["victim"]["command"], "dd", "{exit}");
        assert!(exit["victim"]["pid"].as_i64().unwrap() > 1);
    }
    env.assert_clean();
}

#[test]
fn a_full_dev_shm_is_named() {
    let Some(env) = app() else { return };
    let fill = "dd if=/dev/zero of=/dev/shm/x bs=1M count=8 2>/dev/null; sh -c 'kill -BUS $$'; exit $?";
    let output = named(&env, &["--name", "full", "--shm-size", "8m"], fill).code(135);
    assert!(output.stderr.contains("bus error; /dev/shm (8 MiB) was full\nhint: `--shm-size`"), "{}", output.stderr);
    assert_eq!(exit(&env, "full")["shm_peak"], 8 << 20);
    // What was there for a while only is seen when it is looked at.
    let passing = "dd if=/dev/zero of=/dev/shm/x bs=1M count=4 2>/dev/null; sleep 2; rm /dev/shm/x";
    named(&env, &["--name", "passing", "--shm-size", "8m"], passing).code(0);
    assert_eq!(exit(&env, "passing")["shm_peak"], 4 << 20);
    env.assert_clean();
}

#[test]
fn the_log_has_the_size_that_it_may_have() {
    let Some(env) = app() else { return };
    let bounds = ["--log-opt", "max-size=64k", "--log-opt", "max-file=3"];
    let script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i + 1)); done";
    named(&env, &[&["--name", "talker"], &bounds[..]].concat(), script).code(0);
    let run = env.root().join("runs/talker");
    let sizes: Vec<u64> =
        ["log", "log.1", "log.2"].iter().map(|name| fs::metadata(run.join(name)).unwrap().len()).collect();
    assert!(!run.join("log.3").exists());
    // What is read at once may make it larger.
    assert!(sizes.iter().all(|size| *size <= 64 << 10 || *size < 1 << 20), "{sizes:?}");
    let shown = env.run(["logs", "talker"]).code(0).stdout;
    let numbers: Vec<u32> = shown.lines().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert_eq!(numbers, (20000 - u32::try_from(numbers.len()).unwrap()..20000).collect::<Vec<_>>());
    assert_eq!(env.run(["logs", "--tail", "2", "talker"]).code(0).stdout, "line 19998\nline 19999\n");

    assert_eq!(named(&env, &["--name", "mute", "--log-driver", "none"], "echo shown").code(0).stdout, "shown\n");
    assert!(!env.root().join("runs/mute/log").exists());
    env.run(["logs", "mute"]).refused(125, &["keeps no log"]);
    for (flags, words) in [
        (&["--log-driver", "syslog"][..], "expected `k8s-file` or `none`"),
        (&["--log-opt", "max-size=1"], "too small"),
        (&["--log-opt", "max-file=2"], "needs `--log-opt max-size=SIZE`"),
        (&["--log-opt", "max-size=64k", "--log-opt", "max-file=0"], "a number from 1"),
        (&["--log-opt", "tag=x"], "expected `max-size=SIZE` or `max-file=N`"),
        (&["--log-driver", "none", "--log-opt", "max-size=64k"], "keeps none"),
    ] {
        env.container(&[flags, &["app", "true"]].concat()).refused(125, &[words]);
    }
    env.assert_clean();
}

#[test]
fn followers_of_a_log_that_is_put_aside_miss_nothing() {
    let Some(env) = app() else { return };
    let script = "i=0; while [ $i -lt 3000 ]; do echo line $i of many that fill a file; i=$((i + 1)); \
                  [ $((i % 100)) = 0 ] && usleep 30000; done";
    let bounds = ["--log-opt", "max-size=32k", "--log-opt", "max-file=20"];
    named(&env, &[&["-d", "--name", "talker"], &bounds[..]].concat(), script).code(0);
    let followed = finish(&mut env.command(["logs", "--follow", "talker"])).code(0).stdout;
    assert_eq!(followed.lines().count(), 3000);
    assert!(wait_until(|| env.record("talker")["state"] == "done"));
}
