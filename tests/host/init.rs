//! `--init`: a first process that reaps, passes signals on and ends as the workload does.

use nix::sys::signal::Signal;

use crate::base::app;

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
