//! Terminals: the container's is real, ours is left as it was.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::base::app;
use crate::support::env::{TestEnv, finish_with, wait_until};
use crate::support::pty::Typist;

/// A shell in a container with a terminal, shown in one of ours.
#[track_caller]
fn shell(env: &TestEnv, name: &str, flags: &[&str]) -> Typist {
    let arguments = [&["run", "--name", name, "-it"], flags, &["app", "sh"]].concat();
    let typist = Typist::start(&env.command(arguments));
    typist.wait_for("# ");
    typist
}

#[test]
fn a_terminal_is_a_real_one() {
    let Some(env) = app() else { return };
    let name = env.name();
    let mut typist = shell(&env, &name, &["--rm", "-e", "PS1=# "]);
    for (line, answer) in [
        ("tty", "/dev/pts/0"),
        ("stty size", "30 100"),
        ("echo term=$TERM", "term=xterm"),
        // The console of the container is the same terminal.
        ("echo to-console >/dev/console", "to-console"),
        ("ls -l /proc/self/fd/2", "/dev/pts/0"),
        ("sleep 100 & jobs; echo j=$!", "[1]+"),
        ("kill %1; wait; echo waited", "waited"),
    ] {
        typist.type_in(&format!("{line}\n"));
        typist.wait_for(answer);
    }
    assert!(!typist.is_cooked(), "keys would be ours");
    typist.resize(41, 77);
    typist.type_in("stty size\n");
    typist.wait_for("41 77");
    // Ctrl-C ends what is in front of the terminal, and neither the shell nor us.
    typist.type_in("sleep 1000; echo code=$?\n");
    std::thread::sleep(std::time::Duration::from_millis(200));
    typist.type_in("\x03");
    typist.type_in("echo still-here; exit 7\n");
    typist.wait_for("still-here");
    assert_eq!(typist.finish(), 7);
    assert!(typist.is_cooked(), "the terminal stays raw");
    env.assert_clean();
}

#[test]
fn the_containers_user_owns_its_terminal_and_its_pipes() {
    let Some(env) = app() else { return };
    let script = "stat -c %u:%a $(tty); echo to-tty >/dev/tty; echo to-err >&2; test -t 0 && test -t 1 && echo both";
    let output = env.script(&["-t", "-u", "app", "-e", "TERM=dumb"], &format!("{script}; echo $TERM")).code(0);
    assert_eq!(output.stdout, "1000:620\r\nto-tty\r\nto-err\r\nboth\r\ndumb\r\n", "{}", output.stderr);
    let output = env.script(&["-u", "app"], "echo one >/dev/stdout; echo two >/dev/stderr; test -t 1 || echo pipe");
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("one\npipe\n", "two\n"));
    env.assert_clean();
}

#[test]
fn input_that_is_no_terminal() {
    let Some(env) = app() else { return };
    let name = env.name();
    env.run(["run", "--name", &name, "-it", "app", "true"]).refused(125, &["the input device is not a TTY", "hint: "]);
    // -t alone takes no input, -i alone any.
    assert_eq!(env.script(&["-t"], "echo hi").text(), "hi");
    let mut command = env.command(["run", "--rm", "--name", &name, "-i", "app", "sh", "-c", "wc -c; echo over"]);
    let output = finish_with(&mut command, &vec![b'x'; 300_000]).code(0);
    assert_eq!(output.stdout, "300000\nover\n");
    env.run(["run", "--detach-keys", "ctrl-1", "-t", "app", "true"]).refused(125, &["`ctrl-1` names no keys"]);
    env.assert_clean();
}

/// However it ends, whoever typed has the terminal back.
#[test]
fn the_terminal_is_restored_when_something_is_killed() {
    let Some(env) = app() else { return };
    for victim in ["workload", "supervisor"] {
        let name = env.name();
        let mut typist = shell(&env, &name, &["-e", "PS1=# "]);
        assert!(wait_until(|| !typist.is_cooked()));
        let pid = if victim == "workload" {
            env.record(&name)["pid"].as_i64().map(|pid| i32::try_from(pid).unwrap()).unwrap()
        } else {
            let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", typist.pid())).unwrap();
            children.split_whitespace().next().unwrap().parse().unwrap()
        };
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        assert_eq!(typist.finish(), 137, "{victim}: {}", typist.text());
        assert!(typist.is_cooked(), "{victim}: the terminal stays raw");
    }
    let name = env.name();
    // The first process of a container gets no signal that it does not ask for; so not the shell itself.
    let mut typist = shell(&env, &name, &["-e", "PS1=# ", "--init"]);
    assert!(wait_until(|| !typist.is_cooked()));
    typist.signal(Signal::SIGHUP);
    assert_eq!(typist.finish(), 129, "{}", typist.text());
    assert!(typist.is_cooked());
    env.assert_clean();
}

#[test]
fn keys_leave_the_run_and_attach_comes_back() {
    let Some(env) = app() else { return };
    let name = env.name();
    let mut typist = shell(&env, &name, &["-e", "PS1=# "]);
    typist.type_in("X=kept\n\x10\x11");
    assert_eq!(typist.finish(), 0, "{}", typist.text());
    assert!(typist.is_cooked());
    assert!(typist.text().contains("detached"), "{}", typist.text());
    assert_eq!(env.run(["inspect", &name]).json()[0]["detached"], true);
    let mut typist = Typist::start(&env.command(["attach", "--detach-keys", "ctrl-a,z", &name]));
    std::thread::sleep(std::time::Duration::from_millis(300));
    typist.type_in("echo is-$X; stty size\n");
    typist.wait_for("is-kept");
    typist.wait_for("30 100");
    typist.type_in("\x01z");
    assert_eq!(typist.finish(), 0, "{}", typist.text());
    let mut typist = Typist::start(&env.command(["attach", &name]));
    std::thread::sleep(std::time::Duration::from_millis(300));
    typist.type_in("exit 9\n");
    assert_eq!(typist.finish(), 9, "{}", typist.text());
    assert!(typist.is_cooked());
    assert!(env.run(["logs", &name]).text().contains("is-kept"));
    env.assert_clean();
}
