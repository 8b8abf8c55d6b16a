//! `exec`: in the same bounds as the container itself, and gone with whoever wanted it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::base::app;
use crate::cgroups::{Job, where_read_only};
use crate::support::env::{Output, TestEnv, entries, finish, finish_with, program, wait_until};
use crate::support::pty::Typist;

/// A run that goes on until it is told not to.
fn sleeper(env: &TestEnv, flags: &[&str]) -> String {
    let name = env.name();
    let script = "trap 'exit 0' TERM; while :; do usleep 20000; done";
    env.run([&["run", "-d", "--name", &name], flags, &["app", "sh", "-c", script]].concat()).code(0);
    name
}

#[track_caller]
fn exec(env: &TestEnv, flags: &[&str], name: &str, script: &str) -> Output {
    env.run([&["exec"], flags, &[name, "sh", "-c", script]].concat())
}

/// Looks for processes of the container: how many have this word in their arguments.
fn count(env: &TestEnv, name: &str, word: &str) -> usize {
    let output = exec(env, &[], name, "cat /proc/[0-9]*/cmdline | tr '\\0\\n' '  '; true").code(0);
    output.stdout.matches(word).count()
}

#[test]
fn the_bounds_are_those_of_the_container() {
    let Some(env) = app() else { return };
    let name = sleeper(&env, &["--memory", "64m"]);
    let status = |pid: &str| {
        let script = format!("grep -E '^(Cap|NoNewPrivs|Seccomp|Groups|Uid|Gid)' /proc/{pid}/status");
        exec(&env, &[], &name, &script).text()
    };
    let own = status("self");
    assert_eq!(own, status("1"));
    assert!(own.contains("Seccomp:\t2"), "{own}");
    let bounds = "for n in cgroup ipc mnt net pid uts; do test $(readlink /proc/self/ns/$n) = $(readlink /proc/1/ns/$n) \
        || echo other $n; done; cmp /proc/self/cgroup /proc/1/cgroup && cmp /proc/self/limits /proc/1/limits && echo same; \
        cat /proc/self/oom_score_adj /proc/1/oom_score_adj | uniq | wc -l; umask";
    assert_eq!(exec(&env, &[], &name, bounds).text(), "same\n1\n0022");
    // What the filter refuses the container it refuses here: a namespace of users.
    assert_ne!(exec(&env, &[], &name, "unshare -U true").code, 0);
    // Nothing of ours is open: three streams, and the directory that is read.
    assert_eq!(exec(&env, &[], &name, "ls /proc/self/fd | wc -l; readlink /proc/$$/cwd").text(), "4\n/");
    let privileged = exec(&env, &["--privileged"], &name, "grep -E 'CapEff|Seccomp:' /proc/self/status").text();
    assert!(privileged.contains("Seccomp:\t2") && !own.contains(privileged.lines().next().unwrap()), "{privileged}");
    env.run(["stop", &name]).code(0);
    env.assert_clean();
}

/// docker gives them to whoever is named as well.
#[test]
fn another_user_has_the_runs_groups() {
    let Some(env) = app() else { return };
    let name = sleeper(&env, &["--group-add", "77", "--group-add", "app"]);
    let own = exec(&env, &[], &name, "id -G").text();
    assert!(own.split(' ').any(|group| group == "77"), "{own}");
    let user = exec(&env, &["-u", "1000"], &name, "id -u; id -G").text();
    assert!(user.starts_with("1000\n") && user.contains(" 77"), "{user}");
    env.run(["stop", &name]).code(0);
    env.assert_clean();
}

/// Whoever enters a run by a command of ours sees no more of its secrets than whoever watches it.
#[test]
fn secrets_of_the_run_are_masked() {
    let Some(env) = app() else { return };
    let secret = "a-secret-of-the-run";
    finish_with(&mut env.command(["secrets", "add", "KEY"]), secret.as_bytes()).code(0);
    let commands = "echo ready; while :; do usleep 20000; done";
    let head = "workflows:\n  - name: hold\n    image: app\n    env: ['KEY=${{ secrets.KEY }}']\n    commands:\n";
    env.write(".dstack/workflows.yaml", format!("{head}      - '{commands}'\n"));
    let name = env.name();
    let run = env.spawn(["workflow", "run", "hold", "--name", &name]);
    run.wait_for("ready");
    // However it is cut; and what is no secret is whole.
    let script = "echo $KEY; echo $KEY >&2; for part in a-sec ret-of -the-run; do printf %s $part; usleep 20000; done; echo; \
        echo a-secret-of-no-run; printf a-sec";
    let output = exec(&env, &[], &name, script).code(0);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("****\n****\na-secret-of-no-run\na-sec", "****\n"));
    assert!(exec(&env, &[], &name, "test $KEY = a-secret-of-the-run && echo whole").text().contains("whole"));
    let mut typist = Typist::start(&env.command(["exec", "-it", &name, "sh", "-c", "echo $KEY; echo said"]));
    typist.wait_for("said");
    assert_eq!(typist.finish(), 0);
    assert!(typist.text().contains("****") && !typist.text().contains(secret), "{}", typist.text());
    env.run(["stop", "--grace", "0s", &name]).code(0);
    drop(run.finish());
    finish(&mut program("grep", ["-rl", secret, env.root().join("runs").to_str().unwrap()])).code(1);
    env.assert_clean();
}

#[test]
fn flags_streams_and_codes() {
    let Some(env) = app() else { return };
    let name = sleeper(&env, &["-e", "A=run", "-w", "/tmp", "-u", "app"]);
    let output = exec(&env, &[], &name, "echo out; echo err >&2; exit 41").code(41);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!(exec(&env, &[], &name, "echo $A $B $(pwd) $(id -u) $HOME").text(), "run /tmp 1000 /home/app");
    let file = env.write("vars", "B=file\n");
    let flags = ["-e", "A=exec", "--env-file", &file, "-w", "/etc", "-u", "0:44"];
    assert_eq!(
        exec(&env, &flags, &name, "echo $A $B $(pwd) $(id -u) $(id -g) $HOME").text(),
        "exec file /etc 0 44 /root"
    );
    let mut command = env.command(["exec", "-i", &name, "sh", "-c", "wc -c; echo x >/dev/stdout"]);
    assert_eq!(finish_with(&mut command, &vec![b'x'; 200_000]).text(), "200000\nx");
    assert_eq!(exec(&env, &[], &name, "wc -c").text(), "0", "without -i there is no input");
    exec(&env, &[], &name, "kill -9 $$").code(137);
    env.run(["exec", &name, "no-such"]).refused(127, &["`no-such` was not found in the container's PATH"]);
    env.run(["exec", &name, "/etc"]).refused(126, &["`/etc` is a directory"]);
    env.run(["exec", "-w", "/nowhere", &name, "true"]).refused(125, &["`/nowhere` does not exist", "hint: "]);
    env.run(["exec", "-w", "here", &name, "true"]).refused(125, &["`here`", "not absolute"]);
    env.run(["exec", "-u", "nobody-here", &name, "true"]).refused(125, &["`nobody-here`"]);
    env.run(["exec", "-it", &name, "true"]).refused(125, &["the input device is not a TTY"]);
    env.run(["stop", &name]).code(0);
    env.run(["exec", &name, "true"]).refused(125, &["only in one that is `running`"]);
    env.assert_clean();
}

#[test]
fn a_terminal_in_a_container_that_has_none() {
    let Some(env) = app() else { return };
    let name = sleeper(&env, &["-u", "app"]);
    let mut typist = Typist::start(&env.command(["exec", "-it", "-e", "PS1=# ", &name, "sh"]));
    typist.wait_for("# ");
    for (line, answer) in [
        ("tty", "/dev/pts/0"),
        ("stty size; echo $TERM", "30 100"),
        ("stat -c o=%u $(tty)", "o=1000"),
        ("sleep 100 & jobs", "[1]+"),
    ] {
        typist.type_in(&format!("{line}\n"));
        typist.wait_for(answer);
    }
    assert!(!typist.is_cooked());
    typist.resize(31, 90);
    typist.type_in("stty size\n");
    typist.wait_for("31 90");
    typist.type_in("exit 6\n");
    assert_eq!(typist.finish(), 6, "{}", typist.text());
    assert!(typist.is_cooked());
    // Left with the keys it goes on; killed with us it does not.
    for (leaves, left) in [(true, 1), (false, 0)] {
        let mut typist = Typist::start(&env.command(["exec", "-it", "-e", "PS1=# ", &name, "sh", "-i", "+o", "vi"]));
        typist.wait_for("# ");
        if leaves {
            typist.type_in("\x10\x11");
            assert_eq!(typist.finish(), 0, "{}", typist.text());
        } else {
            typist.signal(Signal::SIGKILL);
        }
        assert!(wait_until(|| count(&env, &name, "+o vi") == left), "{leaves}: {}", typist.text());
        let kill = "for dir in /proc/[0-9]*; do grep -q [+]o $dir/cmdline && kill -9 ${dir#/proc/}; done; true";
        exec(&env, &[], &name, kill).code(0);
        assert!(wait_until(|| count(&env, &name, "+o vi") == 0), "{leaves}");
    }
    env.run(["stop", &name]).code(0);
    env.assert_clean();
}

#[test]
fn it_goes_with_whoever_wanted_it() {
    let Some(env) = app() else { return };
    let name = sleeper(&env, &[]);
    let running = env.spawn([
        "exec",
        &name,
        "sh",
        "-c",
        "trap 'echo int; exit 9' INT; echo ready; while :; do usleep 9000; done",
    ]);
    running.wait_for("ready");
    running.signal(Signal::SIGINT);
    assert_eq!(running.finish().code(9).stdout, "ready\nint\n");

    let running = env.spawn(["exec", &name, "sleep", "7001"]);
    assert!(wait_until(|| count(&env, &name, "7001") == 1));
    running.signal(Signal::SIGKILL);
    assert!(wait_until(|| count(&env, &name, "7001") == 0), "the command outlives who wanted it");

    env.run(["exec", "-d", &name, "sleep", "7002"]).code(0);
    env.run(["exec", "-d", "-t", &name, "sh", "-c", "yes; sleep 7003"]).code(0);
    assert!(wait_until(|| count(&env, &name, "7002") == 1));
    env.run(["exec", "-d", &name, "no-such"]).refused(127, &["no-such"]);

    // The run ends as if they were not there, and whoever waits for one hears of it.
    let waiting = env.spawn(["exec", &name, "sleep", "7004"]);
    assert!(wait_until(|| count(&env, &name, "7004") == 1));
    let start = Instant::now();
    env.run(["stop", &name]).code(0);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    waiting.finish().code(137);
    assert_eq!(env.record(&name)["exit"]["exit_code"], 0);
    env.assert_clean();
}

#[test]
fn a_killed_parent_takes_its_command_along() {
    let Some(env) = app() else { return };
    let name = sleeper(&env, &[]);
    let running = env.spawn(["exec", &name, "sleep", "7005"]);
    assert!(wait_until(|| count(&env, &name, "7005") == 1));
    // A thread of the command line has started it.
    let threads = entries(Path::new(&format!("/proc/{}/task", running.pid())));
    let children: String = threads.iter().map(|dir| fs::read_to_string(dir.join("children")).unwrap()).collect();
    let parent = children.split_whitespace().next().unwrap().parse().unwrap();
    kill(Pid::from_raw(parent), Signal::SIGKILL).unwrap();
    running.finish().refused(137, &["was killed, and the command with it"]);
    assert!(wait_until(|| count(&env, &name, "7005") == 0));
    env.run(["stop", &name]).code(0);
    env.assert_clean();
}

#[test]
fn a_paused_run_is_refused() {
    let Some(env) = app() else { return };
    let name = sleeper(&env, &[]);
    let set = |v1: &str, v2: &str| {
        for dir in env.cgroups() {
            for (file, word) in [("freezer.state", v1), ("cgroup.freeze", v2)] {
                if dir.join(file).exists() {
                    fs::write(dir.join(file), word).unwrap();
                }
            }
        }
    };
    set("FROZEN", "1");
    let refused = env.run(["exec", &name, "true"]);
    set("THAWED", "0");
    refused.refused(125, &["is paused", "hint: `dockless unpause"]);
    env.run(["exec", &name, "true"]).code(0);
    env.run(["pause", &name]).code(0);
    env.run(["exec", &name, "true"]).refused(125, &["is paused", "hint: `dockless unpause"]);
    env.run(["unpause", &name]).code(0);
    env.run(["exec", &name, "true"]).code(0);
    env.run(["stop", &name]).code(0);
    env.assert_clean();
}

/// A run without a cgroup of its own stays in its caller's, and so does what enters it, whoever calls.
#[test]
fn a_run_in_its_callers_cgroup_is_entered() {
    let Some(env) = app() else { return };
    let job = Job::new("dlexec");
    let name = env.name();
    job.run(&env, &["run", "-d", "--name", &name, "--cgroups", "inherit", "app", "sleep", "600"]).code(0);
    assert_eq!(exec(&env, &[], &name, "cmp /proc/self/cgroup /proc/1/cgroup && echo same").text(), "same");
    // Device nodes could be opened.
    let privileged = exec(&env, &["--privileged"], &name, "mknod /tmp/x c 1 11 || echo refused").text();
    assert!(privileged.ends_with("refused"), "{privileged}");
    env.run(["stop", "--grace", "0s", &name]).code(0);
    drop(job);

    // What is entered already need not be written.
    let name = env.name();
    where_read_only(&env, &["run", "-d", "--name", &name, "app", "sleep", "600"]).code(0);
    where_read_only(&env, &["exec", &name, "echo", "hi"]).code(0);
    env.run(["stop", "--grace", "0s", &name]).code(0);
    env.assert_clean();
}

/// The container has made of its files what it likes; who runs `exec` looks at them as root.
#[test]
fn hostile_identity_files() {
    let Some(env) = app() else { return };
    let name = sleeper(&env, &[]);
    let make = |script: &str| exec(&env, &[], &name, &format!("rm -rf /etc/passwd; {script}")).code(0);
    let start = Instant::now();
    make("mkfifo /etc/passwd");
    env.run(["exec", "-u", "app", &name, "true"]).refused(125, &["`app`"]);
    make("truncate -s 3000000 /etc/passwd");
    env.run(["exec", "-u", "app", &name, "true"]).refused(125, &["/etc/passwd"]);
    make("mkdir /etc/passwd");
    assert_eq!(exec(&env, &["-u", "12"], &name, "id -u").text(), "12");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());

    // A link is followed in the container's root, wherever it wants to go.
    env.write("passwd", "evil:x:666:666::/:\n");
    let there = env.work().join("passwd");
    make(&format!("ln -s ../../../../..{} /etc/passwd", there.display()));
    env.run(["exec", "-u", "evil", &name, "true"]).refused(125, &["`evil`"]);
    make("echo 'app:x:77:78::/x:' >/real; ln -s /../../real /etc/passwd");
    assert_eq!(exec(&env, &["-u", "app"], &name, "id -u").text(), "77");
    make("echo 'big:x:4294967296:0::/:' >/etc/passwd");
    env.run(["exec", "-u", "big", &name, "true"]).refused(125, &["`big`"]);

    // A directory that is a way out, or none.
    exec(&env, &[], &name, "ln -s /proc/self/fd /fds; ln -s /proc/1/root/../.. /up").code(0);
    assert_eq!(exec(&env, &["-w", "/up"], &name, "pwd -P; ls").text().lines().next(), Some("/"));
    for fd in 3..10 {
        let output = exec(&env, &["-w", &format!("/proc/self/fd/{fd}")], &name, "cat /proc/mounts >/dev/null");
        assert_ne!(output.code, 0, "descriptor {fd} of ours is a directory: {}", output.stdout);
    }
    env.run(["stop", &name]).code(0);
    env.assert_clean();
}
