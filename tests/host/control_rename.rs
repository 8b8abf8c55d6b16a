//! Runs under another name, and their root file systems as archives.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use crate::base::app;
use crate::control::start;
use crate::support::env::{Running, TestEnv, entries, finish, have, is_thorough, program, tool, wait_until};
use crate::support::tracer::run_until;

#[test]
fn an_ended_run_is_renamed() {
    let Some(env) = app() else { return };
    let [old, new, going] = [env.name(), env.name(), env.name()];
    let script = "echo said; echo made > /out/x";
    env.run(["run", "--name", &old, "-a", "/out", "app", "sh", "-c", script]).code(0);
    env.run(["tags", "add", "best", &old]).code(0);
    env.run(["rename", &old, "no/name"]).refused(125, &["run name `no/name` is malformed"]);
    env.run(["rename", ":best", &new]).code(0);
    env.run(["inspect", &old]).refused(125, &["no run"]);
    assert_eq!(env.run(["inspect", &new]).json()[0]["name"].as_str(), Some(&*new));
    assert_eq!(env.run(["logs", ":best"]).text(), "said");
    env.run(["artifacts", "cp", &new, "saved"]).code(0);
    assert_eq!(fs::read_to_string(env.work().join("saved/out/x")).unwrap(), "made\n");
    // The old name is free, and the new one is not.
    env.run(["run", "--name", &new, "app", "true"]).refused(125, &[&format!("the name `{new}` is taken")]);
    env.run(["run", "--name", &old, "app", "true"]).code(0);
    env.run(["rename", &old, &new]).refused(125, &[&format!("the name `{new}` is taken")]);

    let run = start(&env, &[], &going);
    env.run(["rename", &going, &going]).refused(125, &["already"]);
    env.run(["rename", &going, &old]).refused(125, &["cannot rename run", "is taken"]);
    env.run(["rename", &old, &going]).refused(125, &["is taken"]);
    env.run(["rm", "-f", &going, &old, &new]).code(0);
    run.finish().code(137);
    assert!(entries(&env.root().join("runs")).is_empty() && entries(&env.root().join("artifacts")).is_empty());
    env.assert_clean();
}

/// A run that writes lines for ever, with artifacts in real time and others, and a log of small files.
fn talkative(env: &TestEnv, name: &str) -> Running {
    let script = "trap 'exit 5' TERM; echo made > /live/x; echo made > /late/y; i=0; pad=$(printf 'x%.0s' $(seq 900))
        echo ready; while :; do i=$((i+1)); echo \"line $i $pad\"; usleep 20000; done";
    let artifacts = ["-a", "/live:mount", "-a", "/late", "--log-opt", "max-size=16k", "--log-opt", "max-file=50"];
    let run = env.spawn([&["run", "--name", name], &artifacts[..], &["app", "sh", "-c", script]].concat());
    run.wait_for("ready");
    run
}

/// The number of the last line that the log has.
fn last_line(env: &TestEnv, name: &str) -> u32 {
    env.run(["logs", "--tail", "1", name]).text().split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0)
}

#[test]
fn a_live_run_is_renamed_and_those_who_follow_go_on() {
    let Some(env) = app() else { return };
    let [old, new, last, other] = [env.name(), env.name(), env.name(), env.name()];
    let run = talkative(&env, &old);
    env.run(["tags", "add", "best", &old]).code(0);
    let followers = [&["logs", "-f", "--tail", "0"][..], &["attach", "--no-stdin", "--sig-proxy=false"], &["wait"]]
        .map(|words| env.spawn([words, &[&*old]].concat()));
    followers[0].wait_for("line");
    followers[1].wait_for("line");
    env.run(["rename", &old, &new]).code(0);
    env.run(["rename", &new, &last]).code(0);
    assert_eq!(env.run(["ps", "-q"]).text(), last);
    env.run(["inspect", &old]).refused(125, &["no run"]);
    assert_eq!(env.run(["inspect", ":best"]).json()[0]["name"].as_str(), Some(&*last));
    assert!(env.run(["exec", &last, "cat", "/live/x", "/etc/hosts"]).text().starts_with("made"));
    // The old name is free while it goes on, and the log is begun anew more than once.
    env.run(["run", "--rm", "--name", &old, "app", "true"]).code(0);
    let seen = last_line(&env, &last);
    assert!(wait_until(|| last_line(&env, &last) > seen + 60));
    let said = format!("line {} ", seen + 50);
    followers.iter().take(2).for_each(|follower| follower.wait_for(&said));
    for follow in ["pause", "unpause"] {
        env.run([follow, &last]).code(0);
    }
    env.run(["stop", &last]).code(0);
    run.finish().code(5);
    let [logs, attached, waited] = followers;
    assert!(logs.finish().code(0).stdout.contains(&said));
    attached.finish().code(5);
    assert_eq!(waited.finish().code(0).stdout.trim(), "5");
    let types = env.run(["events", "--stream=false", "--since", "10m", "--format", "json", "--filter", "type=renamed"]);
    assert_eq!(types.text().matches("\"from\":").count(), 2);
    env.run(["artifacts", "cp", &last, "saved"]).code(0);
    for (path, place) in [("saved/live/x", "live"), ("saved/late/y", "late")] {
        assert_eq!(fs::read_to_string(env.work().join(path)).unwrap(), "made\n", "{place}");
    }
    env.run(["run", "--name", &other, "app", "true"]).code(0);
    assert_eq!(entries(&env.root().join("artifacts")).len(), 1);
    env.run(["rm", &last, &other]).code(0);
    env.assert_clean();
}

#[test]
fn a_supervisor_killed_while_it_renames_leaves_one_name() {
    let Some(env) = app() else { return };
    for turn in 0..6 {
        let [old, new] = [env.name(), env.name()];
        let run = start(&env, &["-a", "/out"], &old);
        let supervisor = run.supervisor();
        let rename = env.spawn(["rename", &old, &new]);
        std::thread::sleep(Duration::from_millis(15 * turn));
        kill(supervisor, Signal::SIGKILL).unwrap();
        drop((rename.finish(), run.finish()));
        let listed = env.run(["ps", "-aq"]).text();
        assert!(listed == old || listed == new, "{listed}");
        let record = env.record(&listed);
        assert_eq!((record["name"].as_str(), record["state"].as_str()), (Some(&*listed), Some("failed")), "{record}");
        env.run(["rm", &old, "-f"]).code(0);
        env.run(["rm", &new, "-f"]).code(0);
        assert!(entries(&env.root().join("runs")).is_empty() && entries(&env.root().join("active")).is_empty());
        assert!(entries(&env.root().join("artifacts")).is_empty());
    }
    env.assert_clean();
}

/// It is whole under one of its names, and under no other.
#[track_caller]
fn named(env: &TestEnv, old: &str, new: &str) -> bool {
    let listed = env.run(["ps", "-aq"]).text();
    let is_old = listed == old;
    assert!(is_old || listed == new, "{listed}");
    assert_eq!(env.run(["inspect", &listed]).json()[0]["name"].as_str(), Some(&*listed));
    assert_eq!(env.run(["logs", ":best"]).text(), "said");
    assert_eq!(env.run(["tags", "list", "--format", "json"]).json()[0]["run"].as_str(), Some(&*listed));
    assert!(env.run(["artifacts", "ls", &listed]).text().contains('x'));
    let kept: Vec<_> =
        entries(&env.root().join("artifacts")).iter().map(|path| path.file_name().unwrap().to_owned()).collect();
    assert_eq!(kept, [&*listed]);
    env.assert_clean();
    is_old
}

#[test]
fn a_rename_killed_at_any_step_is_done_or_not() {
    let Some(env) = app() else { return };
    let [old, new] = [env.name(), env.name()];
    let script = "echo said; echo made > /out/x";
    env.run(["run", "--name", &old, "-a", "/out", "app", "sh", "-c", script]).code(0);
    env.run(["tags", "add", "best", &old]).code(0);
    let full = env.dir().join("full");
    tool("cp", ["-a".as_ref(), env.root().as_os_str(), full.as_os_str()]);
    let stop = |step| {
        fs::remove_dir_all(env.root()).unwrap();
        tool("cp", ["-a".as_ref(), full.as_os_str(), env.root().as_os_str()]);
        run_until(&env.command(["rename", &old, &new]), &env.root(), step, &env.work().join("log"))
    };
    let whole = stop(usize::MAX);
    assert_eq!(whole.code, Some(0));
    assert!(!named(&env, &old, &new));
    let (mut kept, mut renamed) = (0, 0);
    for step in (1..=whole.steps).step_by(if is_thorough() { 1 } else { whole.steps.div_ceil(12) }) {
        stop(step);
        let is_old = named(&env, &old, &new);
        *(if is_old { &mut kept } else { &mut renamed }) += 1;
        // Neither name is in anybody's way.
        env.run(if is_old { ["rename", &old, &new] } else { ["rename", &new, &old] }).code(0);
    }
    assert!(kept > 0 && renamed > 0, "{kept} {renamed} of {}", whole.steps);
}

/// What a shell makes of the things that archives lose easily; the last line of it tells all of it again.
const MAKE: &str = "
mkdir -p /data/deep && cd /data && echo hello > plain && ln plain hard && ln -s ../elsewhere soft
echo x > long-$(printf 'n%.0s' $(seq 150)) && mknod pipe p && mknod node c 1 3 && chown 5:6 plain && chmod 4755 plain
dd if=/dev/zero of=sparse bs=1 count=1 seek=5000000 2>/dev/null && echo private > deep/file && chmod 700 deep
rm /etc/group && rm -r /home && mkdir /home && touch /home/new && echo ready";

#[track_caller]
fn check_unpacked(env: &TestEnv, archive: &str, place: &str) {
    for judge in ["tar", "bsdtar"] {
        check_unpacked_by(judge, env, archive, &format!("{place}-{judge}"));
    }
}

#[track_caller]
fn check_unpacked_by(judge: &str, env: &TestEnv, archive: &str, place: &str) {
    if !have(&[judge]) {
        return;
    }
    let root = env.work().join(place);
    fs::create_dir(&root).unwrap();
    finish(&mut program(judge, ["-C", root.to_str().unwrap(), "-xpf", archive])).code(0);
    let data = root.join("data");
    assert_eq!(fs::read_to_string(data.join("plain")).unwrap(), "hello\n");
    let plain = fs::metadata(data.join("plain")).unwrap();
    assert_eq!((plain.uid(), plain.gid(), plain.mode() & 0o7777, plain.nlink()), (5, 6, 0o4755, 2));
    assert_eq!(plain.ino(), fs::metadata(data.join("hard")).unwrap().ino());
    assert_eq!(fs::read_link(data.join("soft")).unwrap().to_str(), Some("../elsewhere"));
    assert!(data.join(format!("long-{}", "n".repeat(150))).exists());
    let node = fs::metadata(data.join("node")).unwrap();
    assert_eq!((node.mode() & 0o170_000, node.rdev()), (0o020_000, 0x103));
    let sparse = fs::metadata(data.join("sparse")).unwrap();
    assert_eq!(sparse.len(), 5_000_001);
    assert!(sparse.blocks() * 512 < 1 << 20, "its holes are filled");
    assert_eq!(fs::metadata(data.join("deep")).unwrap().permissions().mode() & 0o7777, 0o700);
    // Of the image there is what was not removed.
    assert!(root.join("bin/busybox").exists() && root.join("etc/passwd").exists() && !root.join("etc/group").exists());
    assert!(root.join("home/new").exists() && !root.join("home/app").exists());
    assert!(fs::metadata(archive).unwrap().len() < 30 << 20);
    for kernels in ["proc", "sys", "dev"] {
        assert!(entries(&root.join(kernels)).is_empty(), "{kernels}");
    }
}

#[test]
fn a_live_run_is_exported() {
    let Some(env) = app() else { return };
    for (how, place) in [("overlay", "one"), ("copy", "two")] {
        let name = env.name();
        let script = format!("{MAKE}; while :; do usleep 20000; done");
        let run = env.spawn(["run", "--rootfs", how, "--name", &name, "app", "sh", "-c", &script]);
        run.wait_for("ready");
        let archive = env.work().join(format!("{how}.tar"));
        let archive = archive.to_str().unwrap();
        env.run(["export", "-o", archive, &name]).code(0);
        check_unpacked(&env, archive, place);
        env.run(["kill", &name]).code(0);
        run.finish().code(137);
        env.run(["export", "-o", archive, &name]).refused(125, &["there is no root file system", "hint: "]);
    }
    env.assert_clean();
}

#[test]
fn a_kept_run_is_exported() {
    let Some(env) = app() else { return };
    for how in ["overlay", "copy"] {
        let name = env.name();
        env.run(["run", "--rootfs", how, "--keep", "--name", &name, "app", "sh", "-c", MAKE]).code(0);
        let archive = env.work().join(format!("kept-{how}.tar"));
        let mut command = env.command(["export", &name]);
        let status = command.stdout(fs::File::create(&archive).unwrap()).status().unwrap();
        assert!(status.success());
        check_unpacked(&env, archive.to_str().unwrap(), &format!("kept-{how}"));
        // What the image has is there as well.
        env.run(["cp", &format!("{name}:/data/plain"), how]).code(0);
        assert_eq!(fs::read_to_string(env.work().join(how)).unwrap(), "hello\n");
        env.run(["cp", &format!("{name}:/etc/passwd"), &format!("passwd-{how}")]).code(0);
        env.run(["rm", &name]).code(0);
    }
    assert!(entries(&env.root().join("runs")).is_empty());
    env.assert_clean();
}
