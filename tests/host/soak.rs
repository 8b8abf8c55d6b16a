//! Many runs of all sorts, four at a time, some killed: what is there afterwards is what was there before.
//!
//! A few dozen unless `DOCKLESS_SOAK_RUNS` says how many; `scripts/soak` does. Other programs may work on the machine, so what is
//! compared is what can be told to be ours; with `DOCKLESS_SOAK_ALONE` all mounts, cgroups and files of passing places are.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::base::app_with;
use crate::network::private;
use crate::support::env::{
    Output, Running, TestEnv, cgroup_mounts, entries, finish_with, say, setting, tool, wait_until,
};

const DEFAULT_RUNS: usize = 64;
const AT_ONCE: usize = 4;
const LOOP: &str = "trap 'exit 0' TERM; echo ready; while :; do usleep 9000; done";

type Kind = fn(&TestEnv, &str, usize);

/// Each takes a name for its run and a number to vary with.
const KINDS: [(&str, Kind); 16] = [
    ("ends well, removed", |env, name, _| drop(run(env, name, &["--rm"], "echo out; echo err >&2").code(0))),
    ("ends well, kept with its files", kept),
    ("fails", |env, name, _| drop(run(env, name, &[], "exit 3").code(3))),
    ("cannot start", |env, name, _| drop(env.run(["run", "--name", name, "app", "no-such"]).code(127))),
    ("killed by a signal", |env, name, _| drop(run(env, name, &["--rm", "--init"], "kill -9 $$").code(137))),
    ("detached and stopped", detached),
    ("entered", entered),
    ("with volumes and memory to share", mounts),
    ("with input", input),
    ("too slow", |env, name, _| drop(run(env, name, &["--timeout", "1s"], LOOP).code(124))),
    ("eats its memory", |env, name, _| {
        let script = "x=$(head -c 40000000 /dev/zero | tr '\\0' x); echo $x | wc -c";
        drop(run(env, name, &["--rm", "--memory", "24m"], script));
    }),
    ("with a network of its own", network),
    ("whose supervisor is killed", supervisor_killed),
    ("whose command line is killed", command_line_killed),
    ("whose namespaces another joins", joined),
    ("renamed, another paused and removed by force", renamed),
];

fn run(env: &TestEnv, name: &str, flags: &[&str], script: &str) -> Output {
    env.run([&["run", "--name", name], flags, &["app", "sh", "-c", script]].concat())
}

fn start(env: &TestEnv, name: &str, flags: &[&str]) {
    env.run([&["run", "-d", "--name", name], flags, &["app", "sh", "-c", LOOP]].concat()).code(0);
}

fn kept(env: &TestEnv, name: &str, number: usize) {
    run(env, name, &["--keep", "--label", "soak"], "echo x >/x; mkdir /d; touch /d/y").code(0);
    let to = format!("out-{number}");
    env.run(["cp", "-q", &format!("{name}:/d"), &to]).code(0);
    fs::remove_dir_all(env.work().join(to)).unwrap();
}

fn detached(env: &TestEnv, name: &str, number: usize) {
    start(env, name, if number.is_multiple_of(2) { &["--rm"] } else { &[] });
    env.run(["logs", name]).code(0);
    let how = [["stop", "-g", "1s"], ["kill", "-s", "KILL"], ["kill", "-s", "TERM"]][number % 3];
    env.run(how.iter().copied().chain([name])).code(0);
    // With `--rm` it may be gone.
    env.run(["wait", name]);
}

fn entered(env: &TestEnv, name: &str, number: usize) {
    start(env, name, &["--rm"]);
    env.run(["exec", name, "true"]).code(0);
    env.run(["exec", "-d", name, "sleep", "100"]).code(0);
    let exec = env.spawn(["exec", name, "sleep", "100"]);
    sleep(Duration::from_millis(number as u64 % 40));
    if number.is_multiple_of(2) {
        exec.signal(Signal::SIGKILL);
    }
    env.run(["stop", "-g", "0s", name]).code(0);
    // 125 when there was nothing to enter any more.
    let output = exec.finish();
    assert!([125, 137].contains(&output.code), "{output:?}");
}

fn mounts(env: &TestEnv, name: &str, number: usize) {
    let volume = format!("./volume-{number}:/data");
    let flags = ["--rm", "-v", &volume, "--shm-size", "8m", "--tmpfs", "/scratch:size=1m", "--read-only"];
    run(env, name, &flags, "echo x >/data/x; dd if=/dev/zero of=/dev/shm/x bs=64k count=9 2>/dev/null; ls /scratch")
        .code(0);
    fs::remove_dir_all(env.work().join(format!("volume-{number}"))).unwrap();
}

fn input(env: &TestEnv, name: &str, _: usize) {
    let mut command = env.command(["run", "-i", "--rm", "--name", name, "--init", "app", "wc", "-c"]);
    assert_eq!(finish_with(&mut command, &vec![b'x'; 70_000]).text(), "70000");
}

fn network(env: &TestEnv, name: &str, number: usize) {
    let flags = ["--rm", "--network", "private", "-p", "80", "--network-alias", "db"];
    run(env, name, &flags[..if number.is_multiple_of(2) { 5 } else { 7 }], "ip -o addr show eth0 | wc -l").code(0);
}

fn supervisor_killed(env: &TestEnv, name: &str, number: usize) {
    let run = env.spawn(["run", "--name", name, "app", "sh", "-c", LOOP]);
    let supervisor = run.supervisor();
    if number.is_multiple_of(2) {
        run.wait_for("ready");
    } else {
        sleep(Duration::from_millis(number as u64 % 60));
    }
    // It may have failed before.
    let _ = kill(supervisor, Signal::SIGKILL);
    let output = run.finish();
    assert!([125, 137].contains(&output.code), "{output:?}");
}

fn command_line_killed(env: &TestEnv, name: &str, number: usize) {
    let run = env.spawn(["run", "--rm", "--stop-timeout", "1", "--name", name, "app", "sh", "-c", LOOP]);
    if number.is_multiple_of(2) {
        run.wait_for("ready");
    } else {
        sleep(Duration::from_millis(number as u64 % 60));
    }
    run.signal(Signal::SIGKILL);
    run.finish().code(137);
}

fn joined(env: &TestEnv, name: &str, _: usize) {
    start(env, name, &["--ipc", "shareable", "--rm"]);
    let of = format!("container:{name}");
    let other = format!("{name}-other");
    let flags = ["--rm", "--network", &of, "--ipc", &of, "--pid", &of];
    run(env, &other, &flags, "ps | wc -l").code(0);
    env.run(["kill", name]).code(0);
}

fn renamed(env: &TestEnv, name: &str, _: usize) {
    run(env, name, &["--keep"], "touch /x").code(0);
    env.run(["rename", name, &format!("{name}-new")]).code(0);
    start(env, name, &[]);
    env.run(["pause", name]).code(0);
    env.run(["rm", "-f", name]).code(0);
}

/// What there is of ours, and of the machine as far as nobody else changes it.
fn present(env: &TestEnv) -> BTreeSet<String> {
    let mut found: BTreeSet<String> = BTreeSet::new();
    files_below(env.dir(), &mut found);
    if setting("DOCKLESS_SOAK_ALONE").is_some() {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        found.extend(mounts.lines().map(|line| format!("mount {line}")));
        for mount in cgroup_mounts() {
            directories_below(&mount, &mut found);
        }
        for place in ["/tmp", "/dev/shm", "/run", "/run/netns", "/sys/class/net", "/var/tmp", "/dev/mqueue"] {
            found.extend(entries(Path::new(place)).iter().map(|path| format!("place {}", path.display())));
        }
        found.extend(tool("iptables-save", [""; 0]).lines().filter(|line| line.starts_with("-A")).map(str::to_owned));
    }
    found
}

fn files_below(dir: &Path, found: &mut BTreeSet<String>) {
    for path in entries(dir) {
        if path.is_dir() && !path.is_symlink() {
            files_below(&path, found);
        }
        found.insert(format!("file {}", path.display()));
    }
}

fn directories_below(dir: &Path, found: &mut BTreeSet<String>) {
    for path in entries(dir).into_iter().filter(|path| path.is_dir() && !path.is_symlink()) {
        directories_below(&path, found);
        found.insert(format!("cgroup {}", path.display()));
    }
}

/// What a process has open, by kind, and how many bytes are its own.
fn held(process: &Running) -> (usize, u64) {
    let dir = PathBuf::from(format!("/proc/{}", process.pid()));
    let status = fs::read_to_string(dir.join("status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    (entries(&dir.join("fd")).len(), resident.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10)
}

/// Runs `count` of them.
fn runs(env: &TestEnv, count: usize) {
    let next = AtomicUsize::new(0);
    let slowest = Mutex::new((Duration::ZERO, ""));
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return;
            }
            let (what, kind) = KINDS[number % KINDS.len()];
            let start = Instant::now();
            kind(env, &env.name(), number / KINDS.len());
            let took = start.elapsed();
            let mut slowest = slowest.lock().unwrap();
            if took > slowest.0 {
                *slowest = (took, what);
            }
            if (number + 1).is_multiple_of(100) {
                say(&format!("{} of {count}", number + 1));
            }
        }
    };
    scope(|scope| (0..AT_ONCE).for_each(|_| drop(scope.spawn(work))));
    let (took, what) = *slowest.lock().unwrap();
    say(&format!("slowest: {took:?}, a run that {what}"));
}

/// Removes the runs that stay on purpose.
fn remove_kept(env: &TestEnv) -> usize {
    let names = env.run(["ps", "-aq"]).code(0).stdout;
    let names: Vec<&str> = names.lines().collect();
    if !names.is_empty() {
        env.run([&["rm"], &names[..]].concat()).code(0);
    }
    names.len()
}

#[test]
fn many_runs_leave_nothing() {
    let count = setting("DOCKLESS_SOAK_RUNS").map_or(DEFAULT_RUNS, |count| count.parse().unwrap());
    let Some((env, _guard)) = private(app_with(|image| image.volume("/v"))) else { return };
    // What is made once, such as the lock of the networks, and unpacked once.
    runs(&env, KINDS.len());
    remove_kept(&env);
    env.assert_clean();
    let watcher = env.spawn(["events"]);
    // While it starts it has more open.
    sleep(Duration::from_millis(500));
    let (before, held_before, start) = (present(&env), held(&watcher), Instant::now());
    runs(&env, count);
    let took = start.elapsed();
    let kept = remove_kept(&env);
    let held_after = held(&watcher);
    env.assert_clean_but(&[watcher.pid()]);
    kill(Pid::from_raw(watcher.pid()), Signal::SIGKILL).unwrap();
    watcher.finish();
    let mut after = present(&env);
    // Reaping goes on for a moment.
    wait_until(|| {
        after = present(&env);
        after == before || start.elapsed() > took + Duration::from_secs(5)
    });
    let new: Vec<&String> = after.difference(&before).collect();
    assert!(new.is_empty(), "left behind: {new:#?}");
    let gone: Vec<&String> = before.difference(&after).collect();
    assert!(gone.is_empty(), "gone: {gone:#?}");
    assert_eq!(held_after.0, held_before.0, "descriptors of a process that listened all the time");
    assert!(held_after.1 < held_before.1 + (4 << 20), "memory of it: {held_before:?}, then {held_after:?}");
    say(&format!("{count} runs in {took:?}, {kept} were kept and removed; nothing is left"));
}
