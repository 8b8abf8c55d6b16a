//! Limits, as they stand in the cgroup and as they are felt.

use crate::base::app;
use crate::support::env::Output;

/// Shell functions that read the container's own cgroup, of whatever version.
const CGROUP: &str = r#"
cg=/sys/fs/cgroup
limits() {
    if [ -e $cg/memory.max ]; then cat $cg/memory.max $cg/cpu.max
    else cat $cg/memory/memory.limit_in_bytes; echo $(cat $cg/cpu/cpu.cfs_quota_us $cg/cpu/cpu.cfs_period_us); fi
}
used_us() {
    if [ -e $cg/cpu.max ]; then awk '$1 == "usage_usec" { print $2 }' $cg/cpu.stat
    else awk '{ printf "%.0f\n", $1 / 1000 }' $cg/cpuacct/cpuacct.usage; fi
}
throttled() { cat $cg/cpu.stat $cg/cpu/cpu.stat 2>/dev/null | awk '$1 == "nr_throttled" { print $2 }'; }
now_us() { awk '{ printf "%.0f\n", $1 * 1000000 }' /proc/uptime; }
"#;

#[test]
fn limits_stand_in_the_cgroup() {
    let Some(env) = app() else { return };
    let limits = env.script(&["--cpus", "0.5", "-m", "128m"], &format!("{CGROUP} limits")).text();
    assert_eq!(limits, "134217728\n50000 100000");
    let none = env.script(&[], &format!("{CGROUP} limits")).text();
    let (memory, cpu) = none.split_once('\n').unwrap();
    assert!(memory == "max" || memory.parse::<u64>().unwrap() > 1 << 60, "{none}");
    assert!(cpu.starts_with("max") || cpu.starts_with("-1"), "{none}");
    env.assert_clean();
}

#[test]
fn a_memory_hog_is_killed_and_the_reason_told() {
    let Some(env) = app() else { return };
    // The buffer is of anonymous memory, twice what limit and as much swap would hold.
    let hog = ["-m", "64m", "app", "dd", "if=/dev/zero", "of=/dev/null", "bs=300M", "count=1"];
    env.container(&hog).refused(137, &["killed: out of memory (", "limit 64 MiB, peak 64 MiB)"]);
    env.assert_clean();
}

#[test]
fn a_child_that_hogs_memory_is_told_when_asked_for() {
    let Some(env) = app() else { return };
    let script = "dd if=/dev/zero of=/dev/null bs=300M count=1; echo went on";
    let output = env.script(&["-m", "64m", "--verbose"], script).code(0);
    assert!(output.stdout.contains("went on"));
    let told = ["processes of the container killed for want of memory: 1 (", "limit 64 MiB, peak 64 MiB)"];
    assert!(told.iter().all(|told| output.stderr.contains(told)), "{}", output.stderr);
}

/// Two spinners would use both of two CPUs; they are held to so little that also a busy machine has it for them.
#[test]
fn spinners_are_held_to_a_fifth_of_a_cpu() {
    let Some(env) = app() else { return };
    let script = format!(
        r"{CGROUP}
        from=$(now_us); before=$(used_us)
        timeout 3 sh -c 'while :; do :; done' & timeout 3 sh -c 'while :; do :; done'; wait
        echo $(($(used_us) - before)) $(($(now_us) - from)) $(throttled)"
    );
    let numbers = env.script(&["--cpus", "0.2"], &script).text();
    let [used, wall, throttled] = parse(&numbers);
    // A fifth, 20 % of that, and the quota of the two periods at the ends. The clock is read outside of what is counted.
    assert!(used <= wall / 5 * 12 / 10 + 40_000, "{used} of {wall} µs");
    // Held up is only who wanted more.
    assert!(used > 0 && throttled > 0, "{used} of {wall} µs, throttled {throttled} times");
}

fn parse<const N: usize>(numbers: &str) -> [u64; N] {
    let numbers: Vec<u64> = numbers.split_whitespace().map(|number| number.parse().unwrap()).collect();
    numbers.try_into().unwrap()
}

#[test]
fn shared_memory_has_the_asked_size() {
    let Some(env) = app() else { return };
    let size = |flags: &[&str]| {
        let output = env.script(flags, "df -k /dev/shm | tail -n 1 | awk '{ print $2 }'");
        output.text().parse::<u64>().unwrap()
    };
    assert_eq!(size(&[]), 64 << 10);
    assert_eq!(size(&["--shm-size", "256m"]), 256 << 10);
    let fill = |megabytes: u32| -> Output {
        env.script(&["--shm-size", "8m"], &format!("dd if=/dev/zero of=/dev/shm/x bs=1M count={megabytes} 2>&1"))
    };
    fill(7).code(0);
    assert!(fill(9).code(1).stdout.contains("No space left on device"));
}

#[test]
fn open_files_are_limited_as_the_machine_permits() {
    let Some(env) = app() else { return };
    let limits = env.script(&[], "ulimit -Sn; ulimit -Hn").text();
    let [soft, hard] = parse(&limits);
    assert_eq!(soft, hard);
    assert!((1024..=1_048_576).contains(&soft), "{soft}");
}
