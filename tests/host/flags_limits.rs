//! Flags of limits: what stands in the cgroup and what the workload feels; values that are refused; labels; stopping.

use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};

use crate::base::{app, app_with};
use crate::support::env::{TestEnv, skip};

/// Shell functions that read a file of the container's own cgroup: the first argument is that of version 1, with the
/// controller before it, the second that of version 2.
const CGROUP: &str = r#"
own() { awk -F: -v c="$1" '$2 == c || c == "" && $2 == "" { print $3 }' /proc/self/cgroup; }
v1() { [ ! -e /sys/fs/cgroup/cgroup.controllers ]; }
file() { if v1; then cat /sys/fs/cgroup/$1; else cat /sys/fs/cgroup/$2; fi; }
"#;

fn in_cgroup(env: &TestEnv, flags: &[&str], script: &str) -> String {
    env.script(flags, &format!("{CGROUP}{script}")).text()
}

/// Whether control groups are of version 1 here.
fn is_v1() -> bool {
    !std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

#[test]
fn shares_quota_and_processes_stand_in_the_cgroup() {
    let Some(env) = app() else { return };
    let flags = ["-c", "512", "--cpu-period", "50000", "--cpu-quota", "20000", "--pids-limit", "77"];
    let script = "
        if v1; then cat /sys/fs/cgroup/cpu/cpu.shares; echo $(file cpu/cpu.cfs_quota_us) $(file cpu/cpu.cfs_period_us)
        else cat /sys/fs/cgroup/cpu.weight /sys/fs/cgroup/cpu.max; fi
        file pids/pids.max pids.max";
    let shares = if is_v1() { "512" } else { "59" };
    assert_eq!(in_cgroup(&env, &flags, script), format!("{shares}\n20000 50000\n77"));
    // A quota alone is of the usual period; a period alone bounds nothing; no limit of processes is none.
    let script = "if v1; then echo $(file cpu/cpu.cfs_quota_us) $(file cpu/cpu.cfs_period_us)
        else cat /sys/fs/cgroup/cpu.max; fi; file pids/pids.max pids.max";
    let quota = in_cgroup(&env, &["--cpu-quota", "30000", "--pids-limit", "0"], script);
    assert_eq!(quota, "30000 100000\nmax");
    let period = in_cgroup(&env, &["--cpu-period", "20000", "--pids-limit=-1"], script);
    assert_eq!(period.replace("-1 ", "max "), "max 20000\nmax");
    env.assert_clean();
}

#[test]
fn processes_beyond_their_limit_are_refused() {
    let Some(env) = app() else { return };
    let script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 1 & done; echo all";
    let output = env.script(&["--pids-limit", "5"], script);
    assert!(output.stdout.trim() != "all" && output.stderr.contains("fork"), "{output:?}");
    env.script(&["--pids-limit", "50"], script).code(0);
}

#[test]
fn a_container_keeps_to_its_processors() {
    let Some(env) = app() else { return };
    let script = "grep -E '(Cpus|Mems)_allowed_list' /proc/self/status | tr -d '\\t '";
    let lists = env.script(&["--cpuset-cpus", "0", "--cpuset-mems", "0"], script).text();
    assert_eq!(lists, "Cpus_allowed_list:0\nMems_allowed_list:0");
    for (flag, list) in [("--cpuset-cpus", "0,60000"), ("--cpuset-mems", "60000")] {
        env.container(&[flag, list, "app", "true"]).refused(125, &[flag, list, "not available, this machine has `0"]);
    }
    env.assert_clean();
}

#[test]
fn memory_and_swap_stand_in_the_cgroup() {
    let Some(env) = app() else { return };
    if is_v1() && !std::path::Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists() {
        skip("the kernel does not count swap");
        return;
    }
    let script = "file memory/memory.limit_in_bytes memory.max; file memory/memory.memsw.limit_in_bytes memory.swap.max
        file memory/memory.soft_limit_in_bytes memory.low; v1 && file memory/memory.swappiness; true";
    let flags = ["-m", "64m", "--memory-swap", "96m", "--memory-reservation", "32m", "--memory-swappiness", "7"];
    let output = env.script(&flags, &format!("{CGROUP}{script}"));
    let (memory, both, reserved) = (64 << 20, 96 << 20, 32 << 20);
    if is_v1() {
        assert_eq!(output.text(), format!("{memory}\n{both}\n{reserved}\n7"));
    } else {
        let output = output.code(0);
        assert_eq!(output.stdout.trim(), format!("{memory}\n{}\n{reserved}", both - memory));
        assert!(output.stderr.contains("`--memory-swappiness` has no effect"), "{}", output.stderr);
    }
    let limits = in_cgroup(&env, &["-m", "64m", "--memory-swap=-1"], script);
    let (_, swap) = limits.split_once('\n').unwrap();
    let swap = swap.lines().next().unwrap();
    assert!(swap == "max" || swap.parse::<u64>().unwrap() > 1 << 60, "{limits}");
    // Without swap the same memory is all there is.
    let limits = in_cgroup(&env, &["-m", "64m", "--memory-swap", "64m"], script);
    assert_eq!(limits.lines().nth(1).unwrap(), if is_v1() { "67108864" } else { "0" });
    env.assert_clean();
}

#[test]
fn processes_have_their_own_limits() {
    let Some(env) = app() else { return };
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let script = "ulimit -Sn; ulimit -Hn; ulimit -c; ulimit -Sf; ulimit -Hf; grep 'locked' /proc/self/limits";
    let flags = ["--ulimit", "nofile=100:200", "--ulimit", "core=0", "--ulimit", "fsize=512:1024"];
    let limits = env.script(&[&flags[..], &["--ulimit", "memlock=4096"]].concat(), script).text();
    let lines: Vec<&str> = limits.lines().collect();
    assert_eq!(lines[..5], ["100", "200", "0", "1", "2"], "{limits}");
    assert_eq!(lines[5].split_whitespace().collect::<Vec<_>>()[3..5], ["4096", "4096"]);
    // Beyond what may be given it is the most that may, and that is said.
    let may_raise = std::fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        let set = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or("0");
        u64::from_str_radix(set.trim(), 16).is_ok_and(|set| set & (1 << 24) != 0)
    });
    if most < 1 << 20 && !may_raise {
        let output = env.script(&["--ulimit", "nofile=300:-1"], "ulimit -Sn; ulimit -Hn").code(0);
        assert_eq!(output.stdout, format!("300\n{most}\n"));
        let told = format!("the limit `nofile` is 300:{most} instead of 300:unlimited: this machine permits no more");
        assert!(output.stderr.contains(&told), "{}", output.stderr);
    }
    env.script(&["--ulimit", "fsize=1024"], "dd if=/dev/zero of=/f bs=1024 count=2; echo $?").code(0);
}

/// The score is the container's; the supervisor is not killed before others.
#[test]
fn the_score_of_the_oom_killer_is_the_containers() {
    let Some(env) = app() else { return };
    let mine: i32 = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim().parse().unwrap();
    let name = env.name();
    let run = env.spawn([
        "run",
        "--name",
        &name,
        "--oom-score-adj",
        "789",
        "app",
        "sh",
        "-c",
        "cat /proc/self/oom_score_adj; sleep 60",
    ]);
    run.wait_for("789");
    let pid = env.record(&name)["pid"].as_i64().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim();
    let supervisor = std::fs::read_to_string(format!("/proc/{parent}/oom_score_adj")).unwrap();
    assert_eq!(supervisor.trim(), mine.to_string());
    env.run(["stop", "--abort", &name]).code(0);
    // Lower than the caller's own only with CAP_SYS_RESOURCE, else as low as can be, with a word.
    let output = env.script(&["--oom-score-adj", "-500"], "cat /proc/self/oom_score_adj").code(0);
    match output.stdout.trim() {
        "-500" => assert_eq!(output.stderr, ""),
        other => {
            assert_eq!(other, mine.to_string());
            let told = format!("the OOM score is {mine} instead of -500: lowering it further needs CAP_SYS_RESOURCE");
            assert!(output.stderr.contains(&told), "{}", output.stderr);
        }
    }
}

/// A whole disk of this machine, and its numbers.
fn disk() -> Option<(String, String)> {
    let entries = std::fs::read_dir("/sys/block").ok()?;
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    // Any will do: nothing is read from it or written to it.
    names.into_iter().find_map(|name| {
        let numbers = std::fs::read_to_string(format!("/sys/block/{name}/dev")).ok()?;
        let path = format!("/dev/{name}");
        std::path::Path::new(&path).exists().then(|| (path, numbers.trim().to_owned()))
    })
}

#[test]
fn block_devices_are_slowed_down() {
    let Some(env) = app() else { return };
    let Some((path, numbers)) = disk() else {
        skip("there is no block device");
        return;
    };
    let rate = |rate: &str| format!("{path}:{rate}");
    let (read, write, reads, writes) = (rate("1mb"), rate("2097152"), rate("30"), rate("40"));
    let flags = [
        "--device-read-bps",
        &read,
        "--device-write-bps",
        &write,
        "--device-read-iops",
        &reads,
        "--device-write-iops",
        &writes,
        "--blkio-weight",
        "321",
    ];
    let script = "if v1; then cd /sys/fs/cgroup/blkio
        cat blkio.throttle.read_bps_device blkio.throttle.write_bps_device
        cat blkio.throttle.read_iops_device blkio.throttle.write_iops_device
        cat blkio.bfq.weight blkio.weight 2>/dev/null; else cd /sys/fs/cgroup; cat io.max; fi; true";
    let output = env.script(&flags, &format!("{CGROUP}{script}")).code(0);
    if is_v1() {
        let throttled = format!("{numbers} 1048576\n{numbers} 2097152\n{numbers} 30\n{numbers} 40\n");
        let rest = output.stdout.strip_prefix(&throttled).unwrap_or_else(|| panic!("{output:?}"));
        assert!(rest == "321\n" || output.stderr.contains("`--blkio-weight` has no effect"), "{output:?}");
    } else {
        assert_eq!(output.stdout.trim(), format!("{numbers} rbps=1048576 wbps=2097152 riops=30 wiops=40"));
    }
    env.container(&["--device-read-bps", "/nowhere:1m", "app", "true"]).refused(125, &["/nowhere"]);
    env.container(&["--device-read-bps", "/dev/null:1m", "app", "true"])
        .refused(125, &["`--device-read-bps /dev/null:1m`: `/dev/null` is no block device"]);
    env.assert_clean();
}

/// Before anything is fetched: the image is nowhere.
#[test]
fn bad_limits_are_refused_at_once() {
    let Some(env) = app() else { return };
    for (flags, expected) in [
        (&["--cpus", "1", "--cpu-quota", "1000"][..], "`--cpu-quota 1000`: cannot be given together with `--cpus`"),
        (&["--cpus", "1", "--cpu-period", "1000"], "`--cpu-period 1000`: cannot be given together with `--cpus`"),
        (&["--cpus", "100000"], "number of CPUs `100000` is out of range"),
        (&["--cpu-shares", "1"], "`--cpu-shares 1`: out of range, expected 2 to 262144"),
        (&["--cpu-period", "1"], "`--cpu-period 1`: out of range, expected 1000 to 1000000 microseconds"),
        (&["--cpu-quota", "-5"], "`--cpu-quota -5`: out of range, expected at least 1000 microseconds"),
        (&["--cpuset-cpus", "1-"], "`--cpuset-cpus 1-`: expected numbers and ranges"),
        (&["--cpuset-cpus", "65000"], "`--cpuset-cpus 65000`: not available, this machine has `0"),
        (&["--cpuset-mems", "x"], "`--cpuset-mems x`: expected numbers and ranges"),
        (&["-m", "64m", "--memory-swap", "32m"], "`--memory-swap 32 MiB`: less than `--memory 64 MiB`"),
        (&["--memory-swap", "32m"], "`--memory-swap 32 MiB`: needs `--memory`"),
        (&["--memory-reservation", "1m"], "`--memory-reservation 1m`: out of range, expected at least 6 MiB"),
        (&["-m", "64m", "--memory-reservation", "65m"], "`--memory-reservation 65 MiB`: more than `--memory 64 MiB`"),
        (&["--memory-swappiness", "101"], "`--memory-swappiness 101`: out of range, expected 0 to 100"),
        (&["--oom-kill-disable"], "`--oom-kill-disable` is not supported"),
        (&["--oom-score-adj", "1001"], "`--oom-score-adj 1001`: out of range, expected -1000 to 1000"),
        (&["--pids-limit", "-2"], "`--pids-limit -2`: out of range, expected 2 to 4194304"),
        (&["--blkio-weight", "5"], "`--blkio-weight 5`: out of range, expected 10 to 1000"),
        (&["--device-write-iops", "/dev/null"], "`--device-write-iops /dev/null`: expected `DEVICE:NUMBER`"),
        (&["--ulimit", "files=1"], "`--ulimit files=1`: `files` is unknown, expected core, cpu,"),
        (&["--ulimit", "nofile=2:1"], "`--ulimit nofile=2:1`: the soft limit is above the hard one"),
        (&["--stop-signal", "SIGNOTHING"], "signal `SIGNOTHING` is unknown"),
        (&["--stop-timeout", "-2"], "`--stop-timeout -2`: expected a number of seconds"),
        (&["--label", "=x"], "`--label =x`: expected `KEY=VALUE`"),
        (&["--label-file", "/nowhere"], "/nowhere"),
        (&["--annotation", "=x"], "`--annotation =x`: expected `KEY=VALUE`"),
    ] {
        let arguments = [flags, &["nowhere.invalid/image", "true"]].concat();
        env.container(&arguments).refused(125, &[expected]);
    }
    env.assert_clean();
}

#[test]
fn labels_stand_in_the_record() {
    let Some(env) = app() else { return };
    let file = env.write("labels", "# none\nfrom=file\nteam=a\n");
    let name = env.name();
    let flags =
        ["run", "--name", &name, "--label-file", &file, "-l", "team=b", "--label", "bare", "--annotation", "k=v"];
    env.run([&flags[..], &["app", "true"]].concat()).code(0);
    let record = env.record(&name);
    assert_eq!(record["labels"], serde_json::json!({"bare": "", "from": "file", "team": "b"}));
    assert_eq!(record["spec"]["annotations"], serde_json::json!({"k": "v"}));
    let plain = env.name();
    env.run(["run", "--name", &plain, "app", "true"]).code(0);
    assert!(env.record(&plain).get("labels").is_none());
}

#[test]
fn the_signal_to_stop_is_the_one_asked_for() {
    let Some(env) = app_with(|image| image.stop_signal("SIGQUIT")) else { return };
    let script =
        "trap 'echo usr1; exit 3' USR1; trap 'echo quit; exit 4' QUIT; echo ready; while :; do sleep 0.05; done";
    for (flags, code, word) in [(&["--stop-signal", "USR1"][..], 3, "usr1"), (&[], 4, "quit")] {
        let name = env.name();
        let run = env.spawn([&["run", "--name", &name], flags, &["app", "sh", "-c", script]].concat());
        run.wait_for("ready");
        env.run(["stop", &name]).code(0);
        assert!(run.finish().stdout.contains(word));
        assert_eq!(env.record(&name)["exit"]["message"], format!("stopped: the workload ended with {code}"));
    }
}

#[test]
fn the_time_to_stop_is_the_one_asked_for() {
    let Some(env) = app() else { return };
    let script = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    let name = env.name();
    let run = env.spawn(["run", "--name", &name, "--stop-timeout", "1", "app", "sh", "-c", script]);
    run.wait_for("ready");
    let start = Instant::now();
    env.run(["stop", &name]).code(0);
    let took = start.elapsed();
    assert!(took > Duration::from_millis(900) && took < Duration::from_secs(8), "{took:?}");
    assert_eq!(env.record(&name)["exit"]["exit_code"], 137);
    env.assert_clean();
}
