//! Signals that the command line gets are the workload's.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::base::{app, app_with};

#[test]
fn signals_are_passed_on() {
    let Some(env) = app() else { return };
    for (signal, name, code) in [
        (Signal::SIGTERM, "TERM", 3),
        (Signal::SIGINT, "INT", 4),
        (Signal::SIGHUP, "HUP", 5),
        (Signal::SIGQUIT, "QUIT", 6),
        (Signal::SIGUSR1, "USR1", 7),
        (Signal::SIGUSR2, "USR2", 8),
    ] {
        let script = format!("trap 'echo got {name}; exit {code}' {name}; echo ready; while :; do usleep 20000; done");
        let run = env.spawn(["run", "--rm", "--name", &env.name(), "app", "sh", "-c", &script]);
        run.wait_for("ready");
        run.signal(signal);
        let output = run.finish().code(code);
        assert_eq!(output.stdout, format!("ready\ngot {name}\n"));
    }
    env.assert_clean();
}

#[test]
fn a_workload_that_goes_on_after_a_signal_does_so() {
    let Some(env) = app() else { return };
    let script = "trap 'echo once' USR1; echo ready; sleep 1 & wait; wait; echo over";
    let run = env.spawn(["run", "--rm", "--name", &env.name(), "app", "sh", "-c", script]);
    run.wait_for("ready");
    run.signal(Signal::SIGUSR1);
    assert_eq!(run.finish().text(), "ready\nonce\nover");
}

/// A stubborn workload is killed when it was asked three times.
#[test]
fn the_third_interrupt_kills() {
    let Some(env) = app() else { return };
    let script = "trap 'echo no' INT; echo ready; while :; do usleep 20000; done";
    let run = env.spawn(["run", "--rm", "--name", &env.name(), "app", "sh", "-c", script]);
    run.wait_for("ready");
    for _ in 0..2 {
        run.signal(Signal::SIGINT);
        std::thread::sleep(Duration::from_millis(200));
    }
    run.wait_for("no\nno\n");
    run.signal(Signal::SIGINT);
    let output = run.finish().code(137);
    assert!(output.stderr.contains("killing it"), "{}", output.stderr);
    env.assert_clean();
}

/// Ends at once, though nothing was set up yet that could be signalled.
#[test]
fn a_signal_during_the_pull_ends_it() {
    let Some(env) = crate::base::empty() else { return };
    let registry = crate::support::registry::TestRegistry::start();
    let image = crate::base::base_image().build();
    let reference = registry.push("app:1", &image).to_string();
    registry.when("/blobs/").stall_after(10);
    let run = env.spawn(["run", "--rm", &reference, "true"]);
    assert!(crate::support::env::wait_until(|| !registry.requests_for("/blobs/").is_empty()));
    let start = Instant::now();
    run.signal(Signal::SIGINT);
    run.finish().code(130);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    // What the killed download left is removed by the next command at the latest.
    env.run(["ps"]).code(0);
    env.assert_clean();
}

/// In a pipeline the workload hears of it when nobody reads any more, as it would without a container.
#[test]
fn a_reader_that_goes_away_closes_the_workloads_pipe() {
    let Some(env) = app_with(|image| image) else { return };
    let name = env.name();
    let script = "yes 2>/dev/null; echo end >&2; exit 9";
    let mut command = crate::support::env::program("sh", ["-c", "{ \"$@\"; echo $? >code; } | head -n 1", "sh"]);
    let run = env.command(["run", "--name", &name, "app", "sh", "-c", script]);
    command.arg(run.get_program()).args(run.get_args()).current_dir(env.work());
    let output = crate::support::env::finish(&mut command);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("y\n", "end\n"));
    assert_eq!(std::fs::read_to_string(env.work().join("code")).unwrap(), "9\n");
    assert!(env.run(["logs", &name]).code(0).stdout.starts_with("y\ny\n"));
    env.assert_clean();
}
