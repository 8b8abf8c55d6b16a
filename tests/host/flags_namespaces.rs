//! `--ipc`, `--pid`, `--uts`, `--userns`, `--cgroupns`, `--network container:…`: what a container shares, and with whom.

use std::fs;

use crate::base::app;
use crate::support::env::{Running, TestEnv, tool, wait_until};

/// A run in the background, stopped when this goes.
struct Other<'e> {
    env: &'e TestEnv,
    name: String,
}

impl<'e> Other<'e> {
    fn start(env: &'e TestEnv, flags: &[&str], script: &str) -> Self {
        let name = env.name();
        let mut words = vec!["run", "-d", "--name", &name];
        words.extend(flags);
        words.extend(["app", "sh", "-c", script]);
        env.run(words).code(0);
        Self { env, name }
    }

    fn flag(&self, name: &str) -> String {
        format!("{name}=container:{}", self.name)
    }

    fn pid(&self) -> i64 {
        self.env.record(&self.name)["pid"].as_i64().unwrap()
    }
}

impl Drop for Other<'_> {
    fn drop(&mut self) {
        // Gone already where the test has seen to that.
        self.env.run(["stop", "--grace", "0s", &self.name]);
    }
}

fn own(namespace: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{namespace}")).unwrap().display().to_string()
}

#[test]
fn the_hosts_namespaces_are_had_when_asked_for() {
    let Some(env) = app() else { return };
    let script = "for n in ipc pid uts cgroup user; do readlink /proc/self/ns/$n; done; hostname";
    let hosts: Vec<String> = ["ipc", "pid", "uts", "cgroup", "user"].map(own).into();
    let output = env
        .script(&["--ipc", "host", "--pid", "host", "--uts", "host", "--cgroupns", "host", "--userns", "host"], script)
        .text();
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[..5], hosts, "{output}");
    assert_eq!(lines[5], fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim());
    // By default none of them but the users.
    let output =
        env.script(&["--ipc", "private", "--pid=private", "--uts=private", "--cgroupns=private"], script).text();
    let lines: Vec<&str> = output.lines().collect();
    assert!(lines[..4].iter().zip(&hosts).all(|(mine, host)| mine != host), "{output}");
    env.assert_clean();
}

#[test]
fn shared_memory_of_the_host() {
    let Some(env) = app() else { return };
    let file = format!("/dev/shm/dockless-test-{}", std::process::id());
    fs::write(&file, "of the host").unwrap();
    let seen = env.script(&["--ipc", "host"], &format!("cat {file}"));
    let unseen = env.script(&["--ipc", "private"], &format!("cat {file}"));
    let none = env.script(&["--ipc", "none"], "ls -d /dev/shm; readlink /proc/self/ns/ipc");
    fs::remove_file(&file).unwrap();
    assert_eq!(seen.text(), "of the host");
    unseen.code(1);
    assert!(none.stdout != own("ipc") && none.stderr.contains("/dev/shm"), "{none:?}");
}

#[test]
fn shared_memory_of_a_run_that_allows_it() {
    let Some(env) = app() else { return };
    let donor = Other::start(&env, &["--ipc", "shareable", "--shm-size", "3m"], "echo theirs >/dev/shm/x; sleep 60");
    assert_eq!(env.record(&donor.name)["ipc"], "shareable");
    let theirs = fs::read_link(format!("/proc/{}/ns/ipc", donor.pid())).unwrap();
    let script = "readlink /proc/self/ns/ipc; df -k /dev/shm | tail -n 1; cat /dev/shm/x; echo mine >/dev/shm/y";
    assert!(wait_until(|| std::path::Path::new(&format!("/proc/{}/root/dev/shm/x", donor.pid())).exists()));
    let output = env.script(&[&donor.flag("--ipc")], script).text();
    assert!(output.starts_with(&theirs.display().to_string()), "{output}");
    assert!(output.contains("3072") && output.ends_with("theirs"), "{output}");
    // It is one file system, and nothing of the other run was taken away when this one was cleaned up.
    let shm = format!("/proc/{}/root/dev/shm", donor.pid());
    assert_eq!(fs::read_to_string(format!("{shm}/y")).unwrap(), "mine\n");
    assert_eq!(fs::read_to_string(format!("{shm}/x")).unwrap(), "theirs\n");

    let selfish = Other::start(&env, &[], "sleep 60");
    env.container(&[&selfish.flag("--ipc"), "app"])
        .refused(125, &["keeps its IPC namespace to itself", "--ipc shareable"]);
    env.container(&[&donor.flag("--ipc"), "--shm-size", "1m", "app"])
        .refused(125, &["--shm-size 1m", "exclude each other"]);
}

#[test]
fn processes_of_another_run_are_seen_and_end_with_it() {
    let Some(env) = app() else { return };
    let donor = Other::start(&env, &[], "exec sleep 4321");
    let output = env.script(&[&donor.flag("--pid")], "readlink /proc/self/ns/pid; ps | grep -c '[s]leep 4321'").text();
    let theirs = fs::read_link(format!("/proc/{}/ns/pid", donor.pid())).unwrap();
    assert_eq!(output, format!("{}\n1", theirs.display()));
    // The first of the namespace takes the guest with it.
    let guest = Other::start(&env, &[&donor.flag("--pid")], "sleep 60 & sleep 60");
    let name = guest.name.clone();
    drop(donor);
    assert!(wait_until(|| env.record(&name)["exit"]["signal"] == 9), "{}", env.record(&name));
    env.run(["rm", &name]).code(0);
}

/// libcontainer looks for the guest's number in the machine's `/proc` where it mounts the hierarchies of cgroup v1.
#[test]
fn the_number_of_a_guest_need_not_be_one_of_the_machine() {
    let Some(env) = app() else { return };
    let script = "i=0; while test $i -lt 400; do (:); i=$((i+1)); done; touch /ready; exec sleep 4322";
    let donor = Other::start(&env, &[], script);
    assert!(wait_until(|| env.run(["exec", &donor.name, "test", "-e", "/ready"]).code == 0));
    for _ in 0..4 {
        env.script(&[&donor.flag("--pid")], "ps | grep -q '[s]leep 4322'").code(0);
    }
}

/// Nothing but us ends what init leaves behind where it is not the first process of its namespace.
#[test]
fn processes_among_the_hosts_end_with_the_container() {
    let Some(env) = app() else { return };
    let mark = format!("{}", 7_000_000 + std::process::id());
    let output =
        env.script(&["--pid", "host"], &format!("sleep {mark} & setsid sleep {mark} & echo $$; exit 3")).code(3);
    assert!(output.stdout.trim().parse::<u32>().unwrap() > 1);
    assert!(wait_until(|| !tool("ps", ["-eo", "args"]).contains(&format!("sleep {mark}"))));
    env.assert_clean();
    // The same when the supervisor is killed: the next command cleans up.
    let running = env.spawn([
        "run",
        "--name",
        &env.name(),
        "--pid",
        "host",
        "app",
        "sh",
        "-c",
        &format!("setsid sleep {mark} & echo up; sleep 60"),
    ]);
    running.wait_for("up");
    nix::sys::signal::kill(running.supervisor(), nix::sys::signal::Signal::SIGKILL).unwrap();
    end(running);
    env.run(["ps"]).code(0);
    assert!(wait_until(|| !tool("ps", ["-eo", "args"]).contains(&format!("sleep {mark}"))));
    env.assert_clean();
}

fn end(running: Running) {
    assert_ne!(running.finish().code, 0);
}

#[test]
fn the_network_of_another_run() {
    let Some(env) = app() else { return };
    let flags = ["--network", "none", "--hostname", "front", "--add-host", "db:10.9.8.7", "--dns", "10.9.8.1"];
    let donor = Other::start(&env, &flags, "nc -l -p 9 127.0.0.1 -e echo hello; sleep 60");
    let theirs = fs::read_link(format!("/proc/{}/ns/net", donor.pid())).unwrap();
    let network = donor.flag("--network");
    let script = "readlink /proc/self/ns/net; hostname; grep -c 10.9.8.7 /etc/hosts; grep -c 10.9.8.1 /etc/resolv.conf";
    assert_eq!(env.script(&[&network], script).text(), format!("{}\nfront\n1\n1", theirs.display()));
    let talk = "usleep 200000; nc -w 2 127.0.0.1 9 </dev/null";
    assert_eq!(env.script(&[&network], talk).text(), "hello");
    for (flag, value) in [("--add-host", "a:1.1.1.1"), ("--dns", "1.1.1.1"), ("--hostname", "x"), ("--domainname", "x")]
    {
        env.container(&[&network, flag, value, "app"]).refused(125, &[flag, "exclude each other"]);
    }
}

#[test]
fn names_of_hosts_and_domains() {
    let Some(env) = app() else { return };
    let script = "hostname; cat /proc/sys/kernel/domainname; grep '127.0.0.1' /etc/hosts";
    let output = env.script(&["--network", "none", "--hostname", "web", "--domainname", "example.org"], script).text();
    assert_eq!(output, "web\nexample.org\n127.0.0.1\tlocalhost web.example.org web");
    let before = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    for (flag, value) in [("--hostname", "x"), ("--domainname", "x.org")] {
        env.container(&["--uts", "host", flag, value, "app"]).refused(125, &[flag, "--uts host", "the machine's"]);
    }
    assert_eq!(fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), before);
}

#[test]
fn the_cgroup_namespace() {
    let Some(env) = app() else { return };
    let path =
        env.script(&["--cgroupns", "host"], "grep -m 1 memory /proc/self/cgroup || cat /proc/self/cgroup").text();
    assert!(path.contains("/dockless/"), "{path}");
    let path = env.script(&[], "grep -m 1 memory /proc/self/cgroup || cat /proc/self/cgroup").text();
    assert!(path.ends_with(":/"), "{path}");
    // The hierarchies are read-only in either.
    let script = "for d in /sys/fs/cgroup /sys/fs/cgroup/*; do mkdir $d/x 2>/dev/null && echo $d; done; true";
    assert_eq!(env.script(&["--cgroupns", "host"], script).text(), "");
}

#[test]
fn bad_modes_are_refused_before_anything_is_made() {
    let Some(env) = app() else { return };
    for (flags, words) in [
        (&["--ipc", "shared"][..], "`--ipc shared` is unknown"),
        (&["--ipc", "container:"], "the name of a run"),
        (&["--pid", "none"], "`--pid none` is unknown"),
        (&["--uts", "container:x"], "`private` or `host`"),
        (&["--cgroupns", "own"], "`private` or `host`"),
        (&["--userns", "keep-id"], "is not supported"),
        (&["--userns", "keep"], "is unknown"),
        (&["--pid", "container:nobody-there"], "nobody-there"),
        (&["--network", "container:nobody-there"], "nobody-there"),
        (&["--ipc", "none", "--shm-size", "1m"], "exclude each other"),
    ] {
        env.container(&[flags, &["app"]].concat()).refused(125, &[words]);
    }
    // A bundle belongs to no store.
    env.run(["spec", "--pid", "container:x", "app"]).refused(125, &["`--pid container:x` is for `run` only"]);
    // An ended run has no namespaces any more.
    let name = env.name();
    env.run(["run", "--name", &name, "app", "true"]).code(0);
    env.container(&["--pid", &format!("container:{name}"), "app"]).refused(125, &["the run is done"]);
    env.run(["rm", &name]).code(0);
    env.assert_clean();
}

/// What others read of the specification: runc makes of it what we do.
#[test]
fn bundles_have_them_too() {
    let Some(env) = app() else { return };
    let spec = env
        .run([
            "spec",
            "--ipc",
            "host",
            "--pid",
            "host",
            "--uts",
            "host",
            "--cgroupns",
            "host",
            "-v",
            "/tmp:/t:rslave",
            "app",
        ])
        .json();
    assert_eq!(spec["linux"]["namespaces"], serde_json::json!([{ "type": "mount" }]));
    assert!(spec.get("hostname").is_none());
    assert_eq!(spec["linux"]["rootfsPropagation"], "slave");
    let mounts = spec["mounts"].as_array().unwrap();
    let of = |place: &str| mounts.iter().find(|mount| mount["destination"] == place).unwrap();
    assert_eq!(of("/t")["options"], serde_json::json!(["rbind", "rslave"]));
    assert_eq!(of("/dev/shm")["source"], "/dev/shm");
}
