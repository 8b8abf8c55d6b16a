//! `--restart`: what is started once more and what is not, what stays and what is new, and who is heard meanwhile.
//!
//! The first waits are 100, 200, 400, 800 and 1600 ms.

use std::fs;
use std::io::{Read, Write};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::base::app;
use crate::support::env::{Output, Running, TestEnv, entries, finish_with, wait_until};
use crate::support::pty::Typist;

const LOOP: &str = "while :; do usleep 10000; done";

/// A named run of a script with these flags, to its end. The directory `work` is at `/work` in it.
#[track_caller]
fn run(env: &TestEnv, name: &str, flags: &[&str], script: &str) -> Output {
    let volume = format!("{}:/work", env.work().display());
    env.run([&["run", "--name", name, "-v", &volume], flags, &["app", "sh", "-c", script]].concat())
}

fn exit(env: &TestEnv, name: &str) -> Value {
    env.record(name)["exit"].clone()
}

/// Exit code, reason, state, restarts.
fn end(env: &TestEnv, name: &str) -> (i64, String, String, u64) {
    let record = env.record(name);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let exit = &record["exit"];
    (
        exit["exit_code"].as_i64().unwrap(),
        text(&exit["reason"]),
        text(&record["state"]),
        record["restarts"].as_u64().unwrap_or(0),
    )
}

fn ended(code: i64, reason: &str, state: &str, restarts: u64) -> (i64, String, String, u64) {
    (code, reason.to_owned(), state.to_owned(), restarts)
}

/// Waits until the run waits for its n-th restart, or, on a busy machine, for a later one; returns for which.
#[track_caller]
fn wait_for_restart(env: &TestEnv, name: &str, restarts: u64) -> u64 {
    let mut found = 0;
    let waits = wait_until(|| {
        let record = env.record(name);
        found = record["restarts"].as_u64().unwrap_or(0);
        record["state"] == "restarting" && found >= restarts
    });
    assert!(waits, "{:?}", env.record(name));
    found
}

#[test]
fn what_fails_is_started_once_more_and_so_often_as_permitted() {
    let Some(env) = app() else { return };
    // The writable layer stays, what is in memory does not.
    let script =
        "echo x >>/n; echo $(wc -l </n) $(ls /dev/shm | wc -l); touch /dev/shm/x; [ $(wc -l </n) = $1 ]; exit $?";
    let script = format!("set -- $LIMIT; {script}");
    let output = run(&env, "fails", &["-e", "LIMIT=9", "--restart", "on-failure:2", "--pidfile", "pid"], &script);
    assert_eq!(output.code(1).stdout, "1 0\n2 0\n3 0\n");
    assert_eq!(end(&env, "fails"), ended(1, "exited", "failed", 2));
    assert_eq!(env.run(["logs", "fails"]).code(0).stdout, "1 0\n2 0\n3 0\n");
    assert_eq!(env.run(["inspect", "fails"]).json()[0]["restart"], "on-failure:2");
    let pid: i64 = fs::read_to_string(env.work().join("pid")).unwrap().trim().parse().unwrap();
    let shown = env.run(["events", "--since", "1h", "--stream=false", "--filter", "run=fails", "--format", "json"]);
    let events: Vec<Value> = shown.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let types: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    let one = ["created", "started"];
    let all = [&one[..], &["restarting"], &one, &["restarting"], &one, &["exited", "cleaned"]].concat();
    assert_eq!(types, all);
    let told = |event: &Value| ["restarts", "delay_ms", "exit_code"].map(|key| event[key].as_i64().unwrap());
    assert_eq!((told(&events[2]), told(&events[5])), ([1, 100, 1], [2, 200, 1]));
    assert_eq!(events[7]["pid"], pid);
    assert_eq!(exit(&env, "fails")["started"], env.record("fails")["started"]);
    assert!(events[5]["finished"].as_str() < exit(&env, "fails")["started"].as_str());

    let output = run(&env, "mends", &["-e", "LIMIT=2", "--restart", "on-failure"], &script);
    assert_eq!(output.code(0).stdout, "1 0\n2 0\n");
    assert_eq!(end(&env, "mends"), ended(0, "exited", "done", 1));
    let detached = ["-d", "-e", "LIMIT=2", "--restart", "on-failure:7"];
    run(&env, "waited", &detached, &script).code(0);
    assert_eq!(env.run(["logs", "-f", "waited"]).code(0).stdout, "1 0\n2 0\n");
    assert_eq!(env.run(["wait", "waited"]).text(), "0");
    run(&env, "not", &["-e", "LIMIT=9"], &script).code(1);
    assert_eq!(end(&env, "not"), ended(1, "exited", "failed", 0));
    env.assert_clean();
}

#[test]
fn policies_that_cannot_be_are_refused() {
    let Some(env) = app() else { return };
    for (flags, words) in [
        (&["--restart", "always"][..], &["no daemon is here", "hint: "][..]),
        (&["--restart", "unless-stopped"], &["`--restart unless-stopped`", "hint: "]),
        (&["--restart", "on-failure:x"], &["expected a whole number"]),
        (&["--restart", "on-failure:-1"], &["expected a whole number"]),
        (&["--restart", "sometimes"], &["expected `no` or `on-failure[:N]`"]),
        (&["--rm", "--restart", "on-failure"], &["cannot specify both `--restart on-failure` and `--rm`", "hint: "]),
    ] {
        env.run([&["run"], flags, &["app", "true"]].concat()).refused(125, words);
    }
    assert!(entries(&env.root().join("runs")).is_empty());
    env.container(&["--restart", "no", "app", "true"]).code(0);
}

#[test]
fn what_was_ended_or_never_started_is_not_started_once_more() {
    let Some(env) = app() else { return };
    let flags = ["--restart", "on-failure"];
    let script = format!("trap 'exit 9' INT HUP; trap 'exit 8' USR1; echo ready; {LOOP}");
    let start = |name: &str| {
        let run = env.spawn([&["run", "--name", name], &flags[..], &["app", "sh", "-c", &script]].concat());
        run.wait_for("ready");
        run
    };
    let interrupted = start("interrupted");
    interrupted.signal(Signal::SIGINT);
    interrupted.finish().code(9);
    let killed = start("killed");
    env.run(["kill", "killed"]).code(0);
    killed.finish().code(137);
    let stopped = start("stopped");
    env.run(["stop", "-s", "INT", "stopped"]).code(0);
    stopped.finish().code(9);
    // Something else than a wish to end it.
    let told = start("told");
    env.run(["kill", "-s", "USR1", "told"]).code(0);
    assert!(wait_until(|| env.record("told")["restarts"] == 1));
    env.run(["stop", "-t", "0", "told"]).code(0);
    drop(told.finish());
    assert_eq!(end(&env, "interrupted"), ended(9, "exited", "failed", 0));
    assert_eq!(end(&env, "killed"), ended(137, "signalled", "failed", 0));
    assert_eq!(end(&env, "stopped"), ended(9, "stopped", "stopped", 0));

    env.run([&["run", "--name", "missing"], &flags[..], &["app", "missing"]].concat()).code(127);
    assert_eq!(end(&env, "missing"), ended(127, "start_failed", "failed", 0));
    // One that could not be started once more says so.
    run(&env, "gone", &flags, "rm -r /bin/sh; exit 3").code(127);
    assert_eq!(end(&env, "gone"), ended(127, "start_failed", "failed", 1));
    env.assert_clean();
}

/// The root file system belongs to the workload, and the runtime mounts upon it as root.
#[test]
fn what_a_workload_has_left_is_looked_at_again() {
    let Some(env) = app() else { return };
    let may_unmount = ["--restart", "on-failure:1", "--cap-add", "SYS_ADMIN"];
    let unmount = "umount /etc/hosts /etc/hostname /etc/resolv.conf";
    let output = run(&env, "link", &may_unmount, &format!("{unmount}; rm -r /etc; ln -s /work /etc; exit 3"));
    output.refused(125, &["`/etc`"]);
    assert_eq!(end(&env, "link"), ended(125, "start_failed", "failed", 1));
    assert!(entries(&env.work()).is_empty(), "something was made on the machine");
    // Where nothing can be led astray it is put in order.
    let script = "[ -e /n ] && { ls -d $PWD; head -c 4 /etc/hosts; exit 0; }; touch /n; cd /; rmdir /deep/er /deep; \
                  umount /etc/hosts; ln -sf /n /etc/hosts; exit 1";
    let flags = ["--restart", "on-failure:1", "-w", "/deep/er", "--cap-add", "SYS_ADMIN"];
    let output = run(&env, "mended", &flags, script).code(0);
    assert_eq!(output.stdout, "/deep/er\n127.");
    env.assert_clean();
}

#[test]
fn the_counters_and_limits_are_those_of_the_new_container() {
    let Some(env) = app() else { return };
    let script = "echo go; [ -e /n ] && { exec dd if=/dev/zero of=/dev/null bs=300M count=1; }; \
                  until [ -e /work/changed ]; do usleep 10000; done; touch /n; \
                  exec dd if=/dev/zero of=/dev/null bs=300M count=1";
    let volume = format!("{}:/work", env.work().display());
    let flags = ["-m", "64m", "--memory-swap", "64m", "--restart", "on-failure:1", "-v", &volume];
    let hungry = env.spawn([&["run", "--name", "hungry"], &flags[..], &["app", "sh", "-c", script]].concat());
    hungry.wait_for("go");
    env.run(["update", "-m", "48m", "--memory-swap", "48m", "hungry"]).code(0);
    env.write("changed", "");
    hungry.finish().code(137);
    assert_eq!(end(&env, "hungry"), ended(137, "oom_killed", "failed", 1));
    let exit = exit(&env, "hungry");
    assert_eq!((&exit["oom_kills"], &exit["memory_limit"]), (&Value::from(1), &Value::from(48 << 20)));
    // The limit that was set while the first one ran.
    let peak = exit["memory_peak"].as_u64().unwrap();
    assert!((24 << 20..=48 << 20).contains(&peak), "{peak}");
    env.assert_clean();
}

#[test]
fn whoever_asks_meanwhile_is_heard() {
    let Some(env) = app() else { return };
    run(&env, "slow", &["-d", "--restart", "on-failure", "--stop-signal", "USR2"], "exit 5").code(0);
    let restarts = wait_for_restart(&env, "slow", 5);
    let attached = env.spawn(["attach", "--no-stdin", "--sig-proxy=false", "slow"]);
    assert!(env.run(["ps"]).code(0).stdout.contains("restarting"));
    assert_eq!(env.run(["ps", "-q", "--filter", "status=restarting"]).text(), "slow");
    env.run(["exec", "slow", "true"]).refused(125, &["run `slow` is `restarting`"]);
    env.run(["pause", "slow"]).refused(125, &["it has failed and waits to be started once more (`restarting`)"]);
    env.run(["update", "-m", "64m", "slow"]).refused(125, &["`restarting`"]);
    env.run(["kill", "-s", "USR1", "slow"]).refused(125, &["`restarting`"]);
    env.run(["cp", "slow:/etc/passwd", "-"]).refused(125, &["run `slow` is restarting"]);
    assert_eq!(env.record("slow")["restarts"], restarts, "too slow: the next one has started already");
    env.run(["stop", "slow"]).code(0);
    assert_eq!(end(&env, "slow"), ended(5, "stopped", "stopped", restarts));
    let message = "stopped before it was started once more, the workload had ended with 5";
    assert_eq!(exit(&env, "slow")["message"], message);
    assert_eq!(attached.finish().code, 5);
    env.assert_clean();
}

/// Its own stop signal, Ctrl-C, the loss of its command line, and the end of its time end it as well.
#[test]
fn a_run_that_waits_is_ended() {
    let Some(env) = app() else { return };
    run(&env, "killed", &["-d", "--restart", "on-failure", "--stop-signal", "USR2"], "exit 5").code(0);
    let ends = [("interrupted", Signal::SIGINT, "stopped"), ("lost", Signal::SIGKILL, "client_lost")];
    let attached = ends.map(|(name, signal, reason)| {
        let run = env.spawn(["run", "--name", name, "--restart", "on-failure", "app", "sh", "-c", "exit 5"]);
        assert!(wait_until(|| env.root().join("runs").join(name).join("run.json").exists()));
        (name, signal, reason, run)
    });
    let restarts = wait_for_restart(&env, "killed", 4);
    env.run(["kill", "-s", "USR2", "killed"]).code(0);
    env.run(["wait", "killed"]).code(0);
    assert_eq!(end(&env, "killed"), ended(5, "stopped", "stopped", restarts));
    for (name, signal, reason, run) in attached {
        let restarts = wait_for_restart(&env, name, 4);
        run.signal(signal);
        drop(run.finish());
        assert_eq!(end(&env, name), ended(5, reason, "stopped", restarts));
    }
    run(&env, "late", &["--restart", "on-failure", "--timeout", "1s"], "exit 5").code(124);
    assert_eq!(end(&env, "late").1, "timeout");
    let message = exit(&env, "late")["message"].as_str().unwrap().to_owned();
    assert!(message.contains("its time was over before it was started once more"), "{message}");
    env.assert_clean();
}

/// It has ended, and what it wrote is not read yet: nobody may be told that it goes on after that.
#[test]
fn whoever_asks_at_its_very_end_is_heard() {
    let Some(env) = app() else { return };
    let script = "dd if=/dev/zero bs=1k count=100 2>/dev/null; exit 5";
    let arguments = ["run", "--name", "full", "--restart", "on-failure", "app", "sh", "-c", script];
    let mut run = env.command(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let has_ended = || {
        let path = env.root().join("runs/full/run.json");
        let record: Option<Value> = fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let init = record.and_then(|record| record["pid"].as_i64());
        let stat = init.and_then(|init| fs::read_to_string(format!("/proc/{init}/stat")).ok());
        stat.is_some_and(|stat| stat.contains(") Z "))
    };
    // Its last words are in the pipes, so that it ends; they fill them, so that its supervisor waits.
    assert!(wait_until(has_ended));
    let stop = env.spawn(["stop", "full"]);
    std::thread::sleep(Duration::from_millis(200));
    let mut output = Vec::new();
    run.stdout.take().unwrap().read_to_end(&mut output).unwrap();
    assert_eq!((output.len(), run.wait().unwrap().code()), (100 << 10, Some(5)));
    stop.finish().code(0);
    assert_eq!(end(&env, "full"), ended(5, "stopped", "stopped", 0));
    env.assert_clean();
}

#[test]
fn a_run_in_its_callers_cgroup_or_of_copied_layers_is_started_once_more() {
    let Some(env) = app() else { return };
    let script = "echo x >>/n; (sleep 100 &); [ $(wc -l </n) = 3 ]";
    for flags in [["--cgroups", "nested"], ["--cgroups", "inherit"], ["--cgroups", "none"], ["--rootfs", "copy"]] {
        let name = env.name();
        run(&env, &name, &[&flags[..], &["--restart", "on-failure:2"]].concat(), script).code(0);
        assert_eq!(end(&env, &name), ended(0, "exited", "done", 2), "{flags:?}");
    }
    env.assert_clean();
}

/// The time of a run is that of all its containers.
#[test]
fn the_timeout_does_not_begin_anew() {
    let Some(env) = app() else { return };
    let script = "usleep 700000; [ -e /n ] && exec sleep 60; touch /n; exit 5";
    run(&env, "late", &["--restart", "on-failure", "--timeout", "1s", "--init"], script).code(124);
    assert_eq!(end(&env, "late"), ended(124, "timeout", "failed", 1));
    let exit = exit(&env, "late");
    let time = |key: &str| exit[key].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let lasted = time("finished").duration_since(time("started"));
    assert!(lasted < jiff::SignedDuration::from_millis(900), "{lasted:?}");
}

#[test]
fn the_input_goes_on() {
    let Some(env) = app() else { return };
    let script = "read line; echo got $line; [ \"$line\" = three ]";
    let arguments = ["run", "-i", "--name", "reads", "--restart", "on-failure", "app", "sh", "-c", script];
    let output = finish_with(&mut env.command(arguments), b"one\ntwo\nthree\n").code(0);
    assert_eq!(output.stdout, "got one\ngot two\ngot three\n");
    // Its end is the end for all.
    let arguments = ["run", "-i", "--name", "ends", "--restart", "on-failure:1", "app", "sh", "-c", "cat; exit 1"];
    assert_eq!(finish_with(&mut env.command(arguments), b"one\n").code(1).stdout, "one\n");
    // Somebody who comes later is kept as well.
    let script =
        "until [ -e /work/there ]; do echo waits; usleep 10000; done; echo ready; read line; echo got $line; exit 1";
    run(&env, "kept", &["-d", "-i", "--restart", "on-failure:1"], script).code(0);
    let mut attach = env.command(["attach", "kept"]);
    let mut attached = Running::start(attach.stdin(Stdio::piped()));
    let mut input = attached.stdin();
    attached.wait_for("waits");
    env.write("there", "");
    attached.wait_for("ready");
    input.write_all(b"one\n").unwrap();
    attached.wait_for("got one\nready");
    input.write_all(b"two\n").unwrap();
    attached.wait_for("got two");
    drop(input);
    attached.finish().code(1);
    env.assert_clean();
}

#[test]
fn each_container_has_a_terminal_of_the_size_that_is_now() {
    let Some(env) = app() else { return };
    let script = "tty; stty size; read x; [ \"$x\" = end ]";
    let arguments = ["run", "--name", "typed", "-it", "--restart", "on-failure", "app", "sh", "-c", script];
    let mut typist = Typist::start(&env.command(arguments));
    typist.wait_for("30 100");
    typist.resize(41, 77);
    typist.type_in("more\n");
    typist.wait_for("41 77");
    typist.type_in("end\n");
    assert_eq!(typist.finish(), 0);
    assert_eq!(typist.text().matches("/dev/pts/0").count(), 2, "{}", typist.text());
    assert!(typist.is_cooked(), "the terminal stays raw");
    assert_eq!(end(&env, "typed"), ended(0, "exited", "done", 1));

    // Whoever leaves a run has left all of its containers.
    let script = "echo up; usleep 200000; exit 1";
    let arguments = ["run", "--name", "left", "-it", "--restart", "on-failure", "app", "sh", "-c", script];
    let mut typist = Typist::start(&env.command(arguments));
    typist.wait_for("up");
    assert!(wait_until(|| !typist.is_cooked()), "keys would wait for the end of a line");
    typist.type_in("\x10\x11");
    assert_eq!(typist.finish(), 0);
    let restarts = wait_for_restart(&env, "left", 3);
    env.run(["stop", "left"]).code(0);
    assert_eq!(end(&env, "left"), ended(1, "stopped", "stopped", restarts));
    env.assert_clean();
}

#[test]
fn mounted_images_and_joined_namespaces_are_there_again() {
    let Some(env) = app() else { return };
    env.run(["run", "-d", "--name", "other", "--ipc", "shareable", "app", "sleep", "60"]).code(0);
    let script = "echo x >>/n; ls /image/bin/sh; readlink /proc/self/ns/ipc; [ $(wc -l </n) = 2 ]";
    let flags =
        ["--restart", "on-failure", "--mount", "type=image,source=app,target=/image", "--ipc", "container:other"];
    let text = run(&env, "joined", &flags, script).text();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() == 4 && lines[..2] == lines[2..], "{text}");
    env.run(["stop", "-t", "0", "other"]).code(0);
    env.assert_clean();
}

/// Nothing grows with the number of restarts.
#[test]
fn a_restart_leaves_no_descriptor_and_no_process() {
    let Some(env) = app() else { return };
    let flags = ["run", "-i", "--name", "leaky", "--restart", "on-failure:4", "--init"];
    let mut command = env.command([&flags[..], &["app", "sh", "-c", "exit 1"]].concat());
    let run = Running::start(command.stdin(Stdio::piped()));
    let supervisor = run.supervisor();
    let held = |restarts| {
        wait_for_restart(&env, "leaky", restarts);
        // What is told first is done a moment later.
        std::thread::sleep(Duration::from_millis(50));
        let process = format!("/proc/{supervisor}");
        let mut files: Vec<String> = entries(format!("{process}/fd").as_ref())
            .iter()
            .filter_map(|fd| Some(fs::read_link(fd).ok()?.to_string_lossy().split(':').next()?.to_owned()))
            .collect();
        files.sort();
        let children = fs::read_to_string(format!("{process}/task/{supervisor}/children")).unwrap();
        (files, children)
    };
    let first = held(1);
    assert_eq!(held(4), first);
    assert_eq!(first.1, "");
    run.finish().code(1);
    env.assert_clean();
}

#[test]
fn a_supervisor_that_is_killed_meanwhile_leaves_nothing() {
    let Some(env) = app() else { return };
    let run = env.spawn(["run", "--name", "lost", "--restart", "on-failure", "app", "sh", "-c", "exit 5"]);
    let supervisor: Pid = run.supervisor();
    let restarts = wait_for_restart(&env, "lost", 4);
    kill(supervisor, Signal::SIGKILL).unwrap();
    run.finish().code(137);
    env.run(["ps"]).code(0);
    assert_eq!(end(&env, "lost"), ended(137, "supervisor_lost", "failed", restarts));
    env.assert_clean();
}

#[test]
fn what_turns_unhealthy_is_started_once_more() {
    let Some(env) = app() else { return };
    // Its workload ends well when it is asked to, which does not count.
    let script = "echo x >>/work/starts; trap 'exit 0' TERM; while :; do usleep 10000; done";
    let check = ["--health-cmd", "false", "--health-interval", "50ms", "--health-retries", "2"];
    let flags = ["--restart", "on-failure:2", "--health-on-failure", "restart"];
    let output = run(&env, "sick", &[&check[..], &flags].concat(), script);
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert_eq!(end(&env, "sick"), ended(0, "unhealthy", "failed", 2));
    assert_eq!(fs::read_to_string(env.work().join("starts")).unwrap().lines().count(), 3);
    env.run(["rm", "sick"]).code(0);
    env.assert_clean();
}
