//! `attach`: several at once, none of them in the way.

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::base::app;
use crate::support::env::{Running, TestEnv};

fn detached(env: &TestEnv, flags: &[&str], script: &str) -> String {
    let name = env.name();
    env.run([&["run", "-d", "--name", &name], flags, &["app", "sh", "-c", script]].concat()).code(0);
    name
}

/// Waits until the supervisor has let somebody in: that is not told to anybody.
fn settle() {
    std::thread::sleep(Duration::from_millis(300));
}

#[test]
fn several_see_and_one_writes() {
    let Some(env) = app() else { return };
    let name = detached(&env, &["-i"], "while read line; do echo got $line; echo err >&2; done; exit 5");
    let mut writer = Running::start(env.command(["attach", &name]).stdin(Stdio::piped()));
    let reader = env.spawn(["attach", "--no-stdin", &name]);
    settle();
    writer.stdin().write_all(b"one\ntwo\n").unwrap();
    for attached in [&writer, &reader] {
        attached.wait_for("got two");
        attached.wait_for_stderr("err\nerr");
    }
    // The end of its input is not the run's, which others may write to.
    let mut last = Running::start(env.command(["attach", &name]).stdin(Stdio::piped()));
    settle();
    last.stdin().write_all(b"three\n").unwrap();
    for attached in [&writer, &reader, &last] {
        attached.wait_for("got three");
    }
    env.run(["stop", "--grace", "0s", &name]).code(0);
    for attached in [writer, reader, last] {
        let output = attached.finish().code(137);
        assert!(output.stdout.ends_with("got three\n"), "{}", output.stdout);
    }
    assert_eq!(env.run(["logs", &name]).code(0).stdout, "got one\ngot two\ngot three\n");
    env.run(["attach", &name]).refused(125, &["has ended", "hint: `dockless logs"]);
    env.run(["attach", "no-such-run"]).refused(125, &["no-such-run"]);
    env.assert_clean();
}

#[test]
fn the_exit_code_and_the_signals_are_the_runs() {
    let Some(env) = app() else { return };
    let name = detached(&env, &[], "trap 'echo usr; exit 3' USR1; echo ready; while :; do usleep 20000; done");
    let alone = env.spawn(["attach", "--sig-proxy=false", &name]);
    let attached = env.spawn(["attach", &name]);
    settle();
    alone.signal(Signal::SIGINT);
    alone.finish().code(130);
    attached.signal(Signal::SIGUSR1);
    assert_eq!(attached.finish().code(3).stdout, "usr\n");
    env.assert_clean();
}

/// Somebody who does not read loses, is told how much, and holds nobody up.
#[test]
fn a_stalled_reader_stops_nobody() {
    let Some(env) = app() else { return };
    let name = detached(&env, &["-i"], "read go; yes | head -c 8000000; echo end; read go; echo bye");
    let stalled = env.spawn(["attach", &name]);
    let mut driver = Running::start(env.command(["attach", &name]).stdin(Stdio::piped()));
    settle();
    stalled.signal(Signal::SIGSTOP);
    let start = Instant::now();
    let mut input = driver.stdin();
    input.write_all(b"\n").unwrap();
    driver.wait_for("end\n");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    let log = env.run(["logs", &name]).code(0).stdout;
    assert_eq!(log.len(), 8_000_000 + 4, "the log is incomplete");
    stalled.signal(Signal::SIGCONT);
    settle();
    input.write_all(b"\n").unwrap();
    driver.finish().code(0);
    let output = stalled.finish().code(0);
    assert!(output.stdout.contains("bytes lost, the reader was too slow"), "{}", output.stdout.len());
    assert!(output.stdout.ends_with("bye\n"));
    env.assert_clean();
}
