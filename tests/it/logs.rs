//! `logs` on logs made by hand, so that times and pieces are what the test says; nothing here needs a container.

use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use dockless::sys::{Lock, LockMode};

use crate::support::env::{Output, TestEnv};

/// A minute of two streams; the second line of standard output comes in three pieces, the last line has no end.
const LOG: &str = "\
2026-01-02T03:04:00.000000001Z stdout F one
2026-01-02T03:04:10.000000001Z stdout P tw
2026-01-02T03:04:20.000000001Z stderr F oops
2026-01-02T03:04:30.000000001Z stdout P o and
2026-01-02T03:04:30.500000001Z stdout F  more
2026-01-02T03:04:40.000000001Z stderr F again
2026-01-02T03:04:50.000000001Z stdout F three
2026-01-02T03:05:00.000000001Z stdout P four
";

/// A run `r` with this log, as an ended one is; returns the path of the log.
fn run_with(env: &TestEnv, log: &str) -> PathBuf {
    let dir = env.root().join("runs/r");
    fs::create_dir_all(&dir).unwrap();
    fs::create_dir_all(env.root().join("active")).unwrap();
    let path = dir.join("log");
    fs::write(&path, log).unwrap();
    path
}

/// Standard output and error of `logs FLAGS… r`.
#[track_caller]
fn logs(env: &TestEnv, flags: &[&str]) -> (String, String) {
    let Output { code, stdout, stderr } = env.run([&["logs"], flags, &["r"]].concat());
    assert_eq!(code, 0, "{stderr}");
    (stdout, stderr)
}

#[test]
fn parts_of_a_log() {
    let env = TestEnv::new();
    run_with(&env, LOG);
    for (flags, stdout, stderr) in [
        (&[][..], "one\ntwo and more\nthree\nfour", "oops\nagain\n"),
        (&["--tail", "all"], "one\ntwo and more\nthree\nfour", "oops\nagain\n"),
        (&["--tail", "0"], "", ""),
        (&["--tail", "1"], "four", ""),
        (&["-n", "3"], "three\nfour", "again\n"),
        // A line with all its pieces, and not the line of the other stream between them.
        (&["--tail", "4"], "two and more\nthree\nfour", "again\n"),
        (&["--tail", "100"], "one\ntwo and more\nthree\nfour", "oops\nagain\n"),
        (&["--since", "2026-01-02T03:04:35Z"], "three\nfour", "again\n"),
        (&["--until", "2026-01-02T03:04:35Z"], "one\ntwo and more\n", "oops\n"),
        (&["--since", "2026-01-02T03:04:15Z", "--until", "2026-01-02T03:04:25Z"], "", "oops\n"),
        (&["--until", "2026-01-02T03:04:55Z", "--tail", "2"], "three\n", "again\n"),
        (&["--since", "5m"], "", ""),
        (&["--until", "5m", "--tail", "1"], "four", ""),
    ] {
        assert_eq!(logs(&env, flags), (stdout.to_owned(), stderr.to_owned()), "{flags:?}");
    }
}

#[test]
fn each_line_has_one_time() {
    let env = TestEnv::new();
    run_with(&env, LOG);
    let (stdout, stderr) = logs(&env, &["-t"]);
    let expected = "\
2026-01-02T03:04:00.000000001Z one
2026-01-02T03:04:10.000000001Z two and more
2026-01-02T03:04:50.000000001Z three
2026-01-02T03:05:00.000000001Z four";
    assert_eq!(stdout, expected);
    assert_eq!(stderr, "2026-01-02T03:04:20.000000001Z oops\n2026-01-02T03:04:40.000000001Z again\n");
    assert_eq!(logs(&env, &["--timestamps", "--tail", "1"]).0, "2026-01-02T03:05:00.000000001Z four");
}

#[test]
fn bad_flags_are_told() {
    let env = TestEnv::new();
    run_with(&env, LOG);
    for (flags, words) in [
        (["--tail", "-1"], &["`--tail -1`", "a number of lines or `all`"][..]),
        (["--tail", "x"], &["`--tail x`"]),
        (["--since", "yesterday"], &["`--since yesterday`", "hint: `--since 1h30m`"]),
        (["--until", "5 parsecs"], &["`--until 5 parsecs`"]),
    ] {
        let [flag, value] = flags;
        env.run(["logs", &format!("{flag}={value}"), "r"]).refused(125, words);
    }
}

#[test]
fn the_end_of_a_huge_log_comes_at_once() {
    let env = TestEnv::new();
    let path = run_with(&env, "");
    let mut log = OpenOptions::new().write(true).open(path).unwrap();
    // A hole: it takes no space on the disk, but would take its time to be read line by line.
    log.set_len(200 << 20).unwrap();
    log.seek(SeekFrom::End(0)).unwrap();
    writeln!(log, "\n{}", LOG.trim_end()).unwrap();
    let began = Instant::now();
    assert_eq!(logs(&env, &["--tail", "2"]).0, "three\nfour");
    assert!(began.elapsed() < Duration::from_secs(5), "took {:?}", began.elapsed());
}

/// The lock is what says that a run goes on, whoever started it.
#[test]
fn a_run_is_followed_from_before_its_log_to_its_end() {
    let env = TestEnv::new();
    let path = run_with(&env, "");
    fs::remove_file(&path).unwrap();
    let lock = Lock::try_acquire(&env.root().join("active/r"), LockMode::Exclusive).unwrap().unwrap();
    assert_eq!(logs(&env, &[]), (String::new(), String::new()), "without -f nobody waits");
    let [all, last] =
        [&["logs", "-f", "r"][..], &["logs", "-f", "--tail", "1", "-t", "r"]].map(|words| env.spawn(words));
    std::thread::sleep(Duration::from_millis(100));
    let mut log = OpenOptions::new().create(true).append(true).open(&path).unwrap();
    let (half, rest) = LOG.split_at(LOG.find(" more").unwrap());
    log.write_all(half.as_bytes()).unwrap();
    all.wait_for("two and");
    last.wait_for("two and");
    log.write_all(rest.as_bytes()).unwrap();
    drop(lock);
    assert_eq!(all.finish().code(0).stdout, "one\ntwo and more\nthree\nfour");
    let last = last.finish().code(0);
    assert!(last.stdout.ends_with("2026-01-02T03:04:10.000000001Z two and more\n2026-01-02T03:04:50.000000001Z three\n2026-01-02T03:05:00.000000001Z four"), "{last:?}");
}

#[test]
fn following_ends_at_the_time_asked_for() {
    let env = TestEnv::new();
    run_with(&env, LOG);
    let _lock = Lock::try_acquire(&env.root().join("active/r"), LockMode::Exclusive).unwrap().unwrap();
    assert_eq!(logs(&env, &["-f", "--until", "2026-01-02T03:04:05Z"]).0, "one\n");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let env = TestEnv::new();
    let line = "2026-01-02T03:04:00.000000001Z stdout F a line of some length, so that a pipe is full soon\n";
    run_with(&env, &line.repeat(20_000));
    let mut command = env.command(["logs", "r"]);
    let mut child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}
