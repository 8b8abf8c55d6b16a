//! Cgroups of either version, as the kernel enforces them: limits, device rules, the freezer, and where a run's cgroup is.
//!
//! The same tests run on this machine, whichever version it has, and on version 2 alone in `scripts/vm-test`.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::base::{app, app_with};
use crate::support::env::{Output, Running, TestEnv, cgroup_mounts, find_program, finish, program, skip, wait_until};
use crate::support::image::{Entry, ImageBuilder};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Whether all controllers are in the unified hierarchy.
fn is_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Where a controller is mounted.
fn mount_of(controller: &str) -> PathBuf {
    if is_v2() {
        return "/sys/fs/cgroup".into();
    }
    let mounts = cgroup_mounts().into_iter();
    let mut named =
        mounts.filter(|dir| dir.to_string_lossy().rsplit('/').next().unwrap().split(',').any(|n| n == controller));
    named.next().expect("a hierarchy of that controller")
}

/// The directory of a run's cgroup in the hierarchy of a controller, as its record has it.
fn dir_of(env: &TestEnv, run: &str, controller: &str) -> PathBuf {
    let record = env.record(run);
    let mount = mount_of(controller);
    let paths: Vec<&str> =
        record["cgroup"]["paths"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
    let path = paths.iter().find(|path| Path::new(path).starts_with(&mount));
    PathBuf::from(path.expect("a path in that hierarchy"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
}

/// Starts a run that sleeps, and waits until it does.
fn sleeper(env: &TestEnv, name: &str, flags: &[&str]) -> Running {
    let words = [&["run", "--name", name][..], flags, &["app", "sh", "-c", "echo up; exec sleep 600"]].concat();
    let running = env.spawn(words);
    running.wait_for("up");
    running
}

/// A cgroup that plays the caller's, in every hierarchy that has controllers.
pub(crate) struct Job {
    dirs: Vec<PathBuf>,
}

impl Job {
    pub(crate) fn new(name: &str) -> Self {
        let name = format!("{name}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let controllers: &[&str] = if is_v2() { &["memory"] } else { &["memory", "pids", "cpu", "freezer", "devices"] };
        let dirs: Vec<PathBuf> = controllers.iter().map(|controller| mount_of(controller).join(&name)).collect();
        for dir in &dirs {
            // On version 2 the root has to hand its controllers on.
            for controller in ["+memory", "+pids", "+cpu"].iter().filter(|_| is_v2()) {
                fs::write(dir.parent().unwrap().join("cgroup.subtree_control"), controller).unwrap();
            }
            fs::create_dir(dir).unwrap();
        }
        Self { dirs }
    }

    /// Limits memory, and swap where there is some, to so many bytes.
    fn limit_memory(&self, bytes: &str) {
        let file = if is_v2() { "memory.max" } else { "memory.limit_in_bytes" };
        fs::write(self.dirs[0].join(file), bytes).unwrap();
        drop(fs::write(self.dirs[0].join("memory.swap.max"), "0"));
    }

    /// The command as it is started in there.
    fn command(&self, env: &TestEnv, words: &[&str]) -> Command {
        let run = env.command(words);
        let dirs: Vec<String> =
            self.dirs.iter().map(|dir| format!("echo $$ >'{}/cgroup.procs'", dir.display())).collect();
        let mut command = program("sh", ["-c", &format!("{}; exec \"$@\"", dirs.join("; ")), "sh"]);
        command.arg(run.get_program()).args(run.get_args()).env_clear();
        let variables = run.get_envs().filter_map(|(name, value)| Some((name, value?)));
        command.envs(variables).current_dir(env.work());
        command
    }

    #[track_caller]
    pub(crate) fn run(&self, env: &TestEnv, words: &[&str]) -> Output {
        finish(&mut self.command(env, words))
    }

    /// What was made below it.
    fn children(&self) -> Vec<PathBuf> {
        let entries = self.dirs.iter().flat_map(|dir| fs::read_dir(dir).unwrap().flatten());
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        for dir in &self.dirs {
            wait_until(|| fs::remove_dir(dir).is_ok() || !dir.exists());
        }
    }
}

#[test]
fn over_its_memory_a_run_is_killed_and_the_exit_tells_limit_and_peak() {
    let Some(env) = app() else { return };
    let name = env.name();
    let output = env.run([
        "run",
        "--name",
        &name,
        "-m",
        "48m",
        "app",
        "dd",
        "if=/dev/zero",
        "of=/dev/null",
        "bs=200M",
        "count=1",
    ]);
    output.refused(137, &["killed: out of memory (", "limit 48 MiB"]);
    let exit = env.record(&name)["exit"].clone();
    assert_eq!((&exit["reason"], &exit["memory_limit"]), (&Value::from("oom_killed"), &Value::from(48 << 20)));
    assert!(exit["oom_kills"].as_u64().unwrap() >= 1, "{exit}");
    // Kernels before 5.19 do not keep a peak on version 2.
    if let Some(peak) = exit["memory_peak"].as_u64() {
        assert!(((40 << 20)..=(48 << 20)).contains(&peak), "{exit}");
    }
    assert!(exit["cpu_seconds"].as_f64().unwrap() > 0.0, "{exit}");
    env.assert_clean();
}

#[test]
fn a_killed_child_is_in_the_exit_of_a_run_that_went_on() {
    let Some(env) = app() else { return };
    let name = env.name();
    let script = "dd if=/dev/zero of=/dev/null bs=200M count=1; echo $? went on";
    let output = env.run(["run", "--name", &name, "-m", "48m", "app", "sh", "-c", script]).code(0);
    assert!(output.stdout.contains("137 went on"), "{output:?}");
    let exit = env.record(&name)["exit"].clone();
    assert_eq!(
        (&exit["exit_code"], &exit["reason"], &exit["oom_kills"]),
        (&0.into(), &"exited".into(), &1.into()),
        "{exit}"
    );
    assert!(exit["message"].as_str().unwrap().contains("killed for want of memory: 1"), "{exit}");
}

#[test]
fn the_limits_and_events_of_a_run_are_in_its_cgroup() {
    let Some(env) = app() else { return };
    let name = env.name();
    let running = sleeper(&env, &name, &["-m", "64m", "--cpus", "0.5"]);
    let (memory, cpu) = (dir_of(&env, &name, "memory"), dir_of(&env, &name, "cpu"));
    if is_v2() {
        assert_eq!(read(&memory.join("memory.max")), "67108864");
        assert_eq!(read(&cpu.join("cpu.max")), "50000 100000");
        assert!(read(&memory.join("memory.events")).contains("oom_kill 0"));
        assert_eq!(read(&memory.join("cgroup.events")), "populated 1\nfrozen 0");
    } else {
        assert_eq!(read(&memory.join("memory.limit_in_bytes")), "67108864");
        assert_eq!(read(&cpu.join("cpu.cfs_quota_us")), "50000");
    }
    let record = env.record(&name);
    assert_eq!(record["cgroup"]["mode"], "own");
    assert!(memory.ends_with(Path::new("dockless").join(record["id"].as_str().unwrap())), "{record}");
    let init = record["pid"].to_string();
    assert!(read(&memory.join("cgroup.procs")).lines().any(|pid| pid == init));
    env.run(["stop", "--grace", "0s", &name]).code(0);
    drop(running);
    assert!(!memory.exists() && !cpu.exists());
    env.assert_clean();
}

/// What `--pids-limit` and `update` write to: the files are there, and the kernel heeds them.
#[test]
fn processes_are_limited_by_the_runs_cgroup() {
    let Some(env) = app() else { return };
    let name = env.name();
    let script = "echo up; read go; for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; echo started; kill $(jobs -p); true";
    let mut command = env.command(["run", "-i", "--name", &name, "app", "sh", "-c", script]);
    command.stdin(std::process::Stdio::piped());
    let mut running = Running::start(&mut command);
    running.wait_for("up");
    fs::write(dir_of(&env, &name, "pids").join("pids.max"), "4").unwrap();
    drop(running.stdin());
    let output = running.finish();
    assert!(output.stderr.contains("can't fork"), "{output:?}");
    env.assert_clean();
}

#[test]
fn a_frozen_run_stands_still() {
    let Some(env) = app() else { return };
    let name = env.name();
    let script = "i=0; while :; do i=$((i+1)); echo $i; usleep 5000; done";
    let running = env.spawn(["run", "--name", &name, "app", "sh", "-c", script]);
    running.wait_for("3\n");
    let dir = dir_of(&env, &name, "freezer");
    let (file, frozen, thawed) =
        if is_v2() { ("cgroup.freeze", "1", "0") } else { ("freezer.state", "FROZEN", "THAWED") };
    let is_frozen = || {
        let state = read(&dir.join(if is_v2() { "cgroup.events" } else { "freezer.state" }));
        state == "FROZEN" || state.contains("frozen 1")
    };
    fs::write(dir.join(file), frozen).unwrap();
    assert!(wait_until(is_frozen));
    let lines = || env.run(["logs", &name]).stdout.lines().count();
    // What was on its way when it froze.
    std::thread::sleep(std::time::Duration::from_millis(200));
    let before = lines();
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(lines(), before);
    fs::write(dir.join(file), thawed).unwrap();
    assert!(wait_until(|| lines() > before));
    env.run(["stop", "--grace", "0s", &name]).code(0);
    env.assert_clean();
}

#[test]
fn devices_that_are_not_granted_cannot_be_opened() {
    // A node of the image is as good as one that root makes.
    let Some(env) = app_with(|image| image.entry(Entry::char_device("dev-of-image", 1, 11))) else { return };
    let script = r#"
        try() { (eval "$2") 2>/dev/null && echo $1; }
        try made 'mknod /tmp/kmsg c 1 11'; try open ': </tmp/kmsg'; try image ': </dev-of-image'; try append ': >>/tmp/kmsg'
        try null ': <>/dev/null'; try zero 'mknod /tmp/zero c 1 5 && head -c 1 /tmp/zero'; grep CapEff /proc/self/status
    "#;
    let output = env.script(&[], script).code(0).stdout;
    let [made, null, zero, capabilities] = output.split_whitespace().take(4).collect::<Vec<_>>()[..] else {
        panic!("{output}")
    };
    // CAP_MKNOD is bit 27, so it is the rules that keep it from being opened.
    assert_eq!((made, null, zero.trim_matches('\0'), capabilities), ("made", "null", "zero", "CapEff:"), "{output}");
    let bits = u64::from_str_radix(output.trim().rsplit(char::is_whitespace).next().unwrap(), 16).unwrap();
    assert_ne!(bits & (1 << 27), 0, "{output}");
}

#[test]
fn a_granted_device_opens_as_it_was_granted() {
    let Some(env) = app() else { return };
    // To open them does nothing, and asks for no capability.
    let candidates = ["/dev/vga_arbiter", "/dev/loop-control", "/dev/cpu_dma_latency", "/dev/fuse"];
    let opens = |path: &&str| fs::File::options().read(true).write(true).open(path).is_ok();
    let Some(device) = candidates.into_iter().find(opens) else {
        skip("no harmless device can be opened on this machine");
        return;
    };
    let tries = |access: &str| {
        let script = "(: </dev/it) 2>/dev/null && echo r; (: >>/dev/it) 2>/dev/null && echo w; true";
        env.script(&["--device", &format!("{device}:/dev/it:{access}")], script).text().replace('\n', "")
    };
    assert_eq!(tries("rwm"), "rw");
    assert_eq!(tries("r"), "r");
    assert_eq!(tries("w"), "w");
}

#[test]
fn a_parent_that_was_named_is_made_and_goes_again() {
    let Some(env) = app() else { return };
    let top = format!("dltest-{}", std::process::id());
    let (name, other) = (env.name(), env.name());
    let parent = format!("/{top}/sub");
    let flags = ["--cgroup-parent", parent.as_str(), "-m", "64m"];
    let first = sleeper(&env, &name, &flags);
    let second = sleeper(&env, &other, &flags);
    let dir = dir_of(&env, &name, "memory");
    let id = env.record(&name)["id"].as_str().unwrap().to_owned();
    assert_eq!(dir, mount_of("memory").join(&top).join("sub").join(&id));
    assert_eq!(read(&dir.join(if is_v2() { "memory.max" } else { "memory.limit_in_bytes" })), "67108864");
    env.run(["stop", "--grace", "0s", &name]).code(0);
    assert!(!dir.exists() && dir.parent().unwrap().exists(), "the other run is in there");
    env.run(["stop", "--grace", "0s", &other]).code(0);
    drop((first, second));
    for mount in cgroup_mounts() {
        assert!(!mount.join(&top).exists(), "{}", mount.display());
    }
    // One that was there before stays.
    let job = Job::new("dlparent");
    let named = job.dirs[0].file_name().unwrap().to_str().unwrap();
    env.container(&["--cgroup-parent", named, "app", "true"]).code(0);
    assert!(job.dirs.iter().all(|dir| dir.exists()) && job.children().is_empty());
    env.assert_clean();
}

#[test]
fn an_inheriting_run_stays_in_its_callers_cgroup() {
    let Some(env) = app() else { return };
    let job = Job::new("dljob");
    job.limit_memory("67108864");
    let name = env.name();
    let file = if is_v2() { "memory.max" } else { "memory/memory.limit_in_bytes" };
    // It sees the limit it is under, and cannot change it.
    let script = format!(
        "cat /sys/fs/cgroup/{file}; (echo 1 >/sys/fs/cgroup/{file}) 2>/dev/null || echo kept
         mknod /tmp/x c 1 11 2>/dev/null || echo no nodes; exec sleep 600"
    );
    let words = ["run", "--name", &name, "--cgroups", "inherit", "app", "sh", "-c", &script];
    let running = Running::start(&mut job.command(&env, &words));
    running.wait_for("67108864\nkept\nno nodes\n");
    let record = env.record(&name);
    assert_eq!(record["cgroup"], serde_json::json!({ "mode": "inherit" }));
    let init = record["pid"].to_string();
    assert!(read(&job.dirs[0].join("cgroup.procs")).lines().any(|pid| pid == init));
    assert!(job.children().is_empty(), "nothing is made in it");
    env.run(["stop", "--grace", "0s", &name]).code(0);
    drop(running);
    env.assert_clean();
    assert!(job.dirs.iter().all(|dir| dir.exists()), "and nothing of it is removed");
}

#[test]
fn an_image_brings_no_devices_into_a_run_without_a_cgroup() {
    let with_nodes = |image: ImageBuilder| {
        image
            .dir("vol")
            .entry(Entry::char_device("node", 1, 5))
            .entry(Entry::char_device("vol/node", 1, 5))
            .volume("/vol")
    };
    let Some(env) = app_with(with_nodes) else { return };
    for mode in ["inherit", "none"] {
        for rootfs in ["overlay", "copy"] {
            let flags = ["--cgroups", mode, "--rootfs", rootfs];
            let output = env.script(&flags, "head -c 1 /node >/tmp/x && echo opened; head -c 1 /dev/zero | wc -c");
            assert_eq!(output.stdout, "1\n", "{mode} {rootfs}: {}", output.stderr);
        }
        // The image's volume lies on this machine.
        let output =
            env.script(&["--cgroups", mode, "--read-only"], "head -c 1 /vol/node | wc -c; ls /vol; echo >/vol/x");
        assert_eq!(output.stdout, "0\nnode\n", "{mode}: {}", output.stderr);
    }
    env.assert_clean();
}

#[test]
fn without_a_cgroup_a_kill_for_memory_is_told_by_the_callers_counters() {
    let Some(env) = app() else { return };
    for mode in ["inherit", "none"] {
        let job = Job::new("dloom");
        job.limit_memory("100000000");
        let name = env.name();
        let hog = [
            "run",
            "--name",
            &name,
            "--cgroups",
            mode,
            "app",
            "dd",
            "if=/dev/zero",
            "of=/dev/null",
            "bs=300M",
            "count=1",
        ];
        let output = job.run(&env, &hog).code(137);
        assert!(output.stderr.contains("out of memory") && output.stderr.contains("caller"), "{}", output.stderr);
        let exit = env.record(&name)["exit"].clone();
        assert_eq!((&exit["reason"], &exit["oom_kills"]), (&"oom_killed".into(), &1.into()), "{exit}");
        assert!(exit["memory_limit"].as_u64().unwrap() <= 100_000_000, "{exit}");
        // A child alone.
        let script = "dd if=/dev/zero of=/dev/null bs=300M count=1; echo went on";
        let words = ["run", "--rm", "--verbose", "--cgroups", mode, "app", "sh", "-c", script];
        let output = job.run(&env, &words).code(0);
        assert!(
            output.stderr.contains("processes of its caller's cgroup killed for want of memory: 1"),
            "{}",
            output.stderr
        );
    }
    env.assert_clean();
}

#[test]
fn a_nested_run_has_a_cgroup_below_its_callers() {
    let Some(env) = app() else { return };
    let job = Job::new("dljob");
    let name = env.name();
    let limits: &[&str] = if is_v2() { &[] } else { &["-m", "64m", "--cpus", "0.5"] };
    let words =
        [&["run", "--name", &name, "--cgroups", "nested"], limits, &["app", "sh", "-c", "echo up; exec sleep 600"]];
    let running = Running::start(&mut job.command(&env, &words.concat()));
    running.wait_for("up");
    let record = env.record(&name);
    assert_eq!(record["cgroup"]["mode"], "nested");
    let dir = dir_of(&env, &name, "memory");
    assert_eq!(dir, job.dirs[0].join("dockless").join(record["id"].as_str().unwrap()));
    let init = record["pid"].to_string();
    assert!(read(&dir.join("cgroup.procs")).lines().any(|pid| pid == init));
    if !is_v2() {
        assert_eq!(read(&dir.join("memory.limit_in_bytes")), "67108864");
    }
    env.run(["stop", "--grace", "0s", &name]).code(0);
    drop(running);
    assert!(job.children().is_empty(), "{:?}", job.children());
    // Device rules hold there too.
    let words =
        ["run", "--rm", "--cgroups", "nested", "app", "sh", "-c", "mknod /tmp/x c 1 11; (: </tmp/x) || echo refused"];
    assert_eq!(job.run(&env, &words).text(), "refused");
    env.assert_clean();
    assert!(job.dirs.iter().all(|dir| dir.exists()));
}

/// The constraint on internal processes: the caller itself stands in the way.
#[test]
fn on_version_2_nested_limits_are_refused_where_the_kernel_would_not_keep_them() {
    // Those of version 1 have no such rule; `scripts/vm-test` runs this.
    let Some(env) = app().filter(|_| is_v2()) else { return };
    let job = Job::new("dljob");
    let words = ["run", "--rm", "--cgroups", "nested", "-m", "64m", "app", "true"];
    job.run(&env, &words)
        .refused(125, &["cannot limit memory", "there are processes in cgroup", "hint: ", "--cgroup-parent"]);
    let named = job.dirs[0].file_name().unwrap().to_str().unwrap();
    let words = ["run", "--rm", "--cgroup-parent", named, "-m", "64m", "app", "true"];
    job.run(&env, &words).refused(125, &["there are processes in cgroup"]);
    assert!(job.children().is_empty());
    // An empty one does.
    env.run(words).code(0);
    // That one hands controllers on from now, so no process may enter it any more.
    let job = Job::new("dljob");
    // A kill in a cgroup that counts no memory is in the counters of the one above.
    job.limit_memory("100000000");
    let hog = ["run", "--rm", "--cgroups", "nested", "app", "dd", "if=/dev/zero", "of=/dev/null", "bs=300M", "count=1"];
    job.run(&env, &hog).refused(137, &["killed: out of memory"]);
    env.assert_clean();
}

#[test]
fn in_a_schedulers_job_runs_stay_in_its_cgroup() {
    let Some(env) = app() else { return };
    for variable in ["SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID"] {
        let name = env.name();
        let mut command = env.command(["-v", "run", "--name", &name, "app", "true"]);
        let output = finish(command.env(variable, "7")).code(0);
        assert!(output.stderr.contains(&format!("cgroups: inherit, because `{variable}` is set")), "{}", output.stderr);
        assert_eq!(env.record(&name)["cgroup"]["mode"], "inherit");
    }
    let limited = finish(env.command(["run", "--rm", "-m", "64m", "app", "true"]).env("SLURM_JOB_ID", "7"));
    limited.refused(125, &["--cgroups inherit", "memory", "hint: `--cgroups nested`"]);
    let asked =
        finish(env.command(["run", "--rm", "--cgroups", "own", "-m", "64m", "app", "true"]).env("SLURM_JOB_ID", "7"));
    asked.code(0);
    env.assert_clean();
}

#[test]
fn a_run_without_cgroups_sees_none_and_ends_whole() {
    let Some(env) = app() else { return };
    let name = env.name();
    let script = "ls /sys/fs/cgroup | wc -l; sleep 600 & setsid sleep 600 & echo up; wait";
    let running = env.spawn(["run", "--name", &name, "--cgroups", "none", "app", "sh", "-c", script]);
    running.wait_for("0\nup\n");
    assert_eq!(env.record(&name)["cgroup"], serde_json::json!({ "mode": "none" }));
    assert!(env.cgroups().is_empty());
    env.run(["stop", "--grace", "0s", &name]).code(0);
    let exit = env.record(&name)["exit"].clone();
    assert!(exit["cpu_seconds"].as_f64().is_some() && exit["memory_peak"].is_null(), "{exit}");
    env.assert_clean();
}

/// A workload may clear the signal that its supervisor's death sends; then the next command finds it by the record.
#[test]
fn what_a_killed_supervisor_leaves_is_found_in_every_mode() {
    let Some(env) = app() else { return };
    for mode in ["own", "nested", "inherit", "none"] {
        let job = Job::new("dlkill");
        let name = env.name();
        // Who changes its user clears the signal of its parent's death (prctl(2)).
        let words = ["run", "-d", "--name", &name, "--cgroups", mode, "app", "su", "app", "-c", "sleep 600"];
        job.run(&env, &words).code(0);
        let record = env.record(&name);
        let init = Pid::from_raw(i32::try_from(record["pid"].as_i64().unwrap()).unwrap());
        let mut status = String::new();
        let has_changed_user = wait_until(|| {
            status = read(Path::new(&format!("/proc/{init}/status")));
            status.contains("\nUid:\t1000\t1000")
        });
        assert!(has_changed_user, "{status}");
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap();
        kill(Pid::from_raw(parent), Signal::SIGKILL).unwrap();
        wait_until(|| !Path::new(&format!("/proc/{parent}/root")).exists());
        assert!(
            Path::new(&format!("/proc/{init}/root")).exists(),
            "{mode}: the workload has not cleared its death signal"
        );
        env.run(["ps"]).code(0);
        assert!(wait_until(|| !Path::new(&format!("/proc/{init}/root")).exists()), "{mode}: init lives");
        assert_eq!(env.record(&name)["exit"]["reason"], "supervisor_lost", "{mode}");
        assert!(job.children().is_empty(), "{mode}: {:?}", job.children());
        assert!(job.dirs.iter().all(|dir| dir.exists()), "{mode}");
        env.assert_clean();
    }
}

/// Calls dockless as in a container that is not trusted with cgroups.
#[track_caller]
pub(crate) fn where_read_only(env: &TestEnv, words: &[&str]) -> Output {
    let run = env.command(words);
    // Each mount of a hierarchy, read-only, in a mount namespace of its own.
    let script = "awk '$3 ~ /^cgroup/ { print $2 }' /proc/mounts | while read -r dir; do mount -o remount,bind,ro \"$dir\"; done; exec \"$@\"";
    let mut command = program("unshare", ["-m", "sh", "-c", script, "sh"]);
    command.arg(run.get_program()).args(run.get_args()).current_dir(env.work());
    command
        .envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin");
    finish(command.arg0("unshare"))
}

#[test]
fn where_cgroups_are_read_only_runs_inherit() {
    let Some(env) = app() else { return };
    let within = |words: &[&str]| where_read_only(&env, words);
    let name = env.name();
    let output = within(&["-v", "run", "--name", &name, "app", "echo", "hi"]).code(0);
    assert!(output.stdout.contains("hi") && output.stderr.contains("cgroups: inherit, because"), "{output:?}");
    assert!(output.stderr.contains("is mounted read-only"), "{output:?}");
    let refused = within(&["run", "--rm", "--cgroups", "own", "app", "true"]);
    refused.refused(125, &["mounted read-only", "hint: `--cgroups inherit`"]);
    within(&["run", "--rm", "-m", "64m", "app", "true"]).refused(125, &["--cgroups inherit", "memory"]);
    env.assert_clean();
}

/// As in a container that may write its cgroups: all that is seen of the hierarchies is what is below its own.
#[test]
fn inside_a_container_cgroups_are_made_below_its_own() {
    let Some(env) = app() else { return };
    let job = Job::new("dlinside");
    // By its path, because busybox's shell takes its own, which knows no namespace for cgroups.
    let Some(unshare) = find_program("unshare").map(|path| path.display().to_string()) else { return };
    let within = |words: &[&str]| {
        let run = env.command(words);
        let hierarchies = "cpu cpuacct cpuset memory devices freezer blkio pids";
        let mounts = if is_v2() {
            "umount -l /sys/fs/cgroup; mount -t cgroup2 c /sys/fs/cgroup".to_owned()
        } else {
            format!(
                "awk '$3 ~ /^cgroup/ {{ print $2 }}' /proc/mounts | while read -r dir; do umount -l \"$dir\"; done
                 mount -t tmpfs c /sys/fs/cgroup
                 for name in {hierarchies}; do mkdir /sys/fs/cgroup/$name; mount -t cgroup -o $name c /sys/fs/cgroup/$name; done"
            )
        };
        let enter: Vec<String> =
            job.dirs.iter().map(|dir| format!("echo $$ >'{}/cgroup.procs'", dir.display())).collect();
        let script = format!("{}; exec {unshare} -C -m sh -c \"$0\" sh \"$@\"", enter.join("; "));
        let mut command = program("sh", ["-c", &script, &format!("{mounts}; exec \"$@\"")]);
        command.arg(run.get_program()).args(run.get_args()).current_dir(env.work());
        command.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command
    };
    for mode in ["own", "nested", "inherit"] {
        let name = env.name();
        let words = ["run", "--name", &name, "--cgroups", mode, "app", "sh", "-c", "echo up; exec sleep 600"];
        let running = Running::start(&mut within(&words));
        running.wait_for("up");
        let record = env.record(&name);
        let cgroups = read(Path::new(&format!("/proc/{}/cgroup", record["pid"])));
        let of_job = format!("/{}", job.dirs[0].file_name().unwrap().to_str().unwrap());
        let line = cgroups.lines().find_map(|line| {
            line.strip_prefix("0::").filter(|_| is_v2()).or(line.split_once(":memory:").map(|it| it.1))
        });
        let below =
            if mode == "inherit" { String::new() } else { format!("/dockless/{}", record["id"].as_str().unwrap()) };
        assert_eq!(line, Some(format!("{of_job}{below}").as_str()), "{mode}: {cgroups}");
        env.run(["stop", "--grace", "0s", &name]).code(0);
        drop(running);
        assert!(wait_until(|| job.children().is_empty()), "{mode}: {:?}", job.children());
    }
    let limited = finish(&mut within(&["run", "--rm", "-m", "64m", "app", "true"]));
    if is_v2() {
        limited.refused(125, &["cannot limit memory", "there are processes in cgroup `/sys/fs/cgroup`"]);
    } else {
        limited.code(0);
    }
    env.assert_clean();
}

#[test]
fn flags_that_make_no_sense_are_refused() {
    let Some(env) = app() else { return };
    for (flags, words) in [
        (&["--cgroups", "host"][..], &["`--cgroups`", "`host`", "`nested`"][..]),
        (&["--cgroup-parent", "/a/../b"], &["`--cgroup-parent`", "`/a/../b`", "`..`"]),
        (&["--cgroup-parent", "/"], &["names no cgroup"]),
        (&["--cgroups", "inherit", "--cgroup-parent", "/a"], &["`--cgroup-parent`", "`--cgroups inherit`", "hint: "]),
        (&["--cgroups", "none", "-m", "64m"], &["`--cgroups none`", "memory", "hint: `--cgroups nested`"]),
        (&["--cgroups", "inherit", "--cpus", "0.5"], &["processor time"]),
    ] {
        env.container(&[flags, &["app", "true"]].concat()).refused(125, words);
    }
    env.assert_clean();
}

/// Volumes keep the machine's hierarchies that are hidden while the container is made.
#[test]
fn volumes_show_the_machines_cgroups() {
    let Some(env) = app() else { return };
    let volumes = ["-v", "/:/host:ro", "-v", "/sys/fs/cgroup:/cg:ro"];
    let mount = mount_of("memory");
    let below = mount.strip_prefix("/sys/fs/cgroup").unwrap().display().to_string();
    let script =
        format!("for top in /cg /host/sys/fs/cgroup; do test -d $top/{below}/dockless/seer-* && echo seen; done");
    let flags = [&["run", "--name", "seer"], &volumes[..], &["app", "sh", "-c", &script]].concat();
    assert_eq!(env.run(flags).text(), "seen\nseen");
    // What is told of a failure is the same.
    let failed = env.run([&["run", "--rm"], &volumes[..], &["app", "nosuch"]].concat()).code(127);
    assert!(failed.stderr.contains("`nosuch` was not found in the container's PATH"), "{}", failed.stderr);
    env.run(["rm", "seer"]).code(0);
    env.assert_clean();
}
