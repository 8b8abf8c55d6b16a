//! Secrets, tags and pruning, on runs made by hand: nothing here needs a container.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use dockless::store::{RunRecord, Store};
use nix::pty::openpty;
use serde_json::{Value, json};

use crate::support::env::{Output, Running, TestEnv, entries, finish, finish_with, have_root, wait_until};

/// Puts an ended run into the store; `changes` go over a record of a run that ended well.
fn ended_run(env: &TestEnv, name: &str, changes: &Value) {
    let mut record = json!({
        "schema": 1, "name": name, "id": format!("{name}-0"), "image": "docker.io/library/app:latest", "layers": [],
        "command": ["true"], "state": "done", "rootfs": "overlay", "boot_id": "boot",
        "created": "2024-05-01T12:00:00Z", "finished": "2024-05-01T12:01:00Z", "remove": false, "keep": false
    });
    for (key, value) in changes.as_object().unwrap() {
        record[key] = value.clone();
    }
    let record: RunRecord = serde_json::from_value(record).unwrap();
    let reserved = Store::open(&env.root()).unwrap().create_run(&record.name).unwrap();
    reserved.dir().write_record(&record).unwrap();
    let log = "2024-05-01T12:00:30.000000001Z stdout F hello\n".repeat(2000);
    fs::write(reserved.dir().log(), log).unwrap();
    reserved.dir().finish().unwrap();
    reserved.keep();
}

fn runs(env: &TestEnv) -> Vec<String> {
    let name = |path: &std::path::PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    let mut names: Vec<String> = entries(&env.root().join("runs")).iter().map(name).collect();
    names.sort();
    names
}

#[track_caller]
fn add_secret(env: &TestEnv, words: &[&str], input: &str) -> Output {
    finish_with(&mut env.command([&["secrets", "add"], words].concat()), input.as_bytes())
}

fn secret(env: &TestEnv, name: &str) -> String {
    fs::read_to_string(env.root().join("secrets").join(name)).unwrap()
}

#[test]
fn secrets_are_added_listed_and_deleted() {
    let env = TestEnv::new();
    assert_eq!(add_secret(&env, &["TOKEN"], "hunter2\n").code(0).stderr, "added secret `TOKEN`\n");
    assert_eq!(secret(&env, "TOKEN"), "hunter2");
    add_secret(&env, &["LINES"], "one\ntwo\n\n").code(0);
    assert_eq!(secret(&env, "LINES"), "one\ntwo\n");
    let file = env.write("key", "from a file\n");
    env.run(["secrets", "add", "KEY", "--file", &file]).code(0);
    assert_eq!(secret(&env, "KEY"), "from a file\n");
    let mut command = env.command(["secrets", "add", "ENV", "--env", "MINE"]);
    finish(command.env("MINE", "from the environment")).code(0);
    assert_eq!(secret(&env, "ENV"), "from the environment");
    let mode = |path: &str| fs::metadata(env.root().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("secrets"), mode("secrets/TOKEN")), (0o700, 0o600));

    let listed = env.run(["secrets", "list", "--format", "json"]);
    assert!(!listed.stdout.contains("hunter2"));
    let names: Vec<String> =
        listed.json().as_array().unwrap().iter().map(|line| line["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, ["ENV", "KEY", "LINES", "TOKEN"]);
    let table = env.run(["secrets", "list"]).text();
    assert!(table.starts_with("SECRET   CHANGED\nENV      2") && !table.contains("hunter2"), "{table}");

    env.write("../root/secrets/KEY.new", "what a crash left");
    assert_eq!(env.run(["secrets", "delete", "KEY", "LINES"]).text(), "KEY\nLINES");
    assert!(!env.root().join("secrets/KEY.new").exists());
    env.run(["secrets", "delete", "TOKEN", "TOKNE"]).refused(125, &["no secret `TOKNE`", "did you mean `TOKEN`?"]);
    assert_eq!(secret(&env, "TOKEN"), "hunter2", "a typing error deletes nothing");
}

#[test]
fn a_secret_is_replaced_only_on_demand() {
    let env = TestEnv::new();
    add_secret(&env, &["TOKEN"], "one").code(0);
    add_secret(&env, &["TOKEN"], "two").refused(125, &["there is a secret `TOKEN` already", "hint: `--force`"]);
    assert_eq!(secret(&env, "TOKEN"), "one");
    assert_eq!(add_secret(&env, &["-f", "TOKEN"], "two").code(0).stderr, "replaced secret `TOKEN`\n");
    assert_eq!(secret(&env, "TOKEN"), "two");
}

/// What is refused, and that no message repeats a value.
#[test]
fn secrets_that_cannot_be() {
    let env = TestEnv::new();
    let long = "x".repeat((64 << 10) + 1);
    for (words, input, expected) in [
        (&["TOKEN", "hunter2"][..], "", "a value on the command line is seen by every user"),
        (&["TOKEN=hunter2"], "", "`dockless secrets add TOKEN` reads it from standard input"),
        (&["1TOKEN"], "hunter2", "secret name `1TOKEN` is malformed"),
        (&["A-B"], "hunter2", "secret name `A-B` is malformed"),
        (&["TOKEN"], "", "the secret is empty"),
        (&["TOKEN"], "\n", "the secret is empty"),
        (&["TOKEN"], "hunter2\0", "contains a NUL byte"),
        (&["TOKEN"], &long, "the secret is too long, expected 65536 bytes at most"),
        (&["TOKEN", "--env", "UNSET"], "", "the variable `UNSET` is not set"),
        (&["TOKEN", "--file", "nowhere"], "", "cannot read `nowhere`"),
        (&["TOKEN", "--file", "a", "--env", "B"], "", "cannot be used with"),
    ] {
        // The program may be gone before it has read its input.
        let mut running =
            Running::start(env.command([&["secrets", "add"], words].concat()).stdin(std::process::Stdio::piped()));
        drop(running.stdin().write_all(input.as_bytes()));
        let output = running.finish().code(125);
        assert!(output.stderr.contains(expected), "{words:?}: {}", output.stderr);
        assert!(!output.stderr.contains("hunter2"), "{words:?}: {}", output.stderr);
    }
    assert!(entries(&env.root().join("secrets")).is_empty());
}

/// A terminal shows neither the value nor, after Ctrl-C, stays silent.
#[test]
fn a_typed_secret_is_not_shown() {
    let env = TestEnv::new();
    for (typed, code) in [("hunter2\n", 0), ("hunt\u{3}", 125)] {
        let pty = openpty(None, None).unwrap();
        let (slave, mut master) = (File::from(pty.slave), File::from(pty.master));
        let mut command = env.command(["secrets", "add", "-f", "TYPED"]);
        command.stdin(slave.try_clone().unwrap()).stdout(slave.try_clone().unwrap());
        command.stderr(slave.try_clone().unwrap());
        let mut child = command.spawn().unwrap();
        drop(command);
        let shown = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
        let reader = std::thread::spawn({
            let (shown, mut master) = (shown.clone(), master.try_clone().unwrap());
            move || {
                let mut buffer = [0; 1024];
                while let Ok(read @ 1..) = master.read(&mut buffer) {
                    shown.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..read]));
                }
            }
        });
        assert!(wait_until(|| shown.lock().unwrap().contains("(not shown): ")), "{shown:?}");
        master.write_all(typed.as_bytes()).unwrap();
        assert!(wait_until(|| child.try_wait().unwrap().is_some()));
        assert_eq!(child.wait().unwrap().code(), Some(code), "{shown:?}");
        let flags = nix::sys::termios::tcgetattr(&slave).unwrap().local_flags;
        assert!(flags.contains(nix::sys::termios::LocalFlags::ECHO), "the terminal is as it was");
        drop(slave);
        reader.join().unwrap();
        assert!(!shown.lock().unwrap().contains("hunt"), "{shown:?}");
        assert_eq!(secret(&env, "TYPED"), "hunter2");
    }
}

#[test]
fn tags_are_set_listed_and_deleted() {
    let env = TestEnv::new();
    ended_run(&env, "one", &json!({}));
    ended_run(&env, "two", &json!({}));
    let added = env.run(["tags", "add", "best", "one"]).code(0);
    assert_eq!(added.stderr, "tag `best` names run `one`\n");
    let moved = env.run(["tags", "add", "best", "two"]).code(0);
    assert_eq!(moved.stderr, "tag `best` names run `two`, until now `one`\n");
    env.run(["tags", "add", "also", ":best"]).code(0);
    env.run(["tags", "add", "old", "one"]).code(0);
    fs::remove_dir_all(env.root().join("runs/one")).unwrap();
    let listed = env.run(["tags", "list", "--format", "json"]).json();
    let lines: Vec<(&str, &str, bool)> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|line| {
            let text = |key: &str| line[key].as_str().unwrap();
            (text("tag"), text("run"), line["run_exists"].as_bool().unwrap())
        })
        .collect();
    assert_eq!(lines, [("also", "two", true), ("best", "two", true), ("old", "one", false)]);
    assert!(env.run(["tags", "list"]).text().contains("one (gone)"));

    assert_eq!(env.run(["inspect", ":best"]).json()[0]["name"], "two");
    assert_eq!(env.run(["logs", "-n", "1", ":also"]).code(0).stdout, "hello\n");
    env.run(["inspect", ":old"]).refused(125, &["run `one`, which tag `old` names, is gone", "tags delete old"]);
    env.run(["inspect", ":bset"]).refused(125, &["no tag `bset`", "did you mean `:best`?"]);
    env.run(["tags", "add", "x/y", "two"]).refused(125, &["tag `x/y` is malformed"]);
    env.run(["tags", "add", "x", "three"]).refused(125, &["no run `three`"]);
    env.run(["tags", "delete", "old", "nope"]).refused(125, &["no tag `nope`"]);
    assert_eq!(env.run(["tags", "delete", "old", "also"]).text(), "old\nalso");
    assert_eq!(env.run(["tags", "list", "--format", "json"]).json().as_array().unwrap().len(), 1);
}

/// Whoever is last has it, and nobody fails.
#[test]
fn many_set_one_tag_and_one_secret_at_once() {
    let env = TestEnv::new();
    let names: Vec<String> = (0..6).map(|number| format!("run-{number}")).collect();
    for name in &names {
        ended_run(&env, name, &json!({}));
    }
    for _ in 0..3 {
        let mut going: Vec<Running> = names.iter().map(|name| env.spawn(["tags", "add", "best", name])).collect();
        for name in &names {
            let mut command = env.command(["secrets", "add", "-f", "S", "--env", "V"]);
            going.push(Running::start(command.env("V", name.repeat(1000))));
        }
        for running in going {
            running.finish().code(0);
        }
        let tags = env.run(["tags", "list", "--format", "json"]).json();
        assert_eq!(tags.as_array().unwrap().len(), 1);
        assert!(names.iter().any(|name| tags[0]["run"] == **name), "{tags}");
        let value = secret(&env, "S");
        assert!(names.iter().any(|name| value == name.repeat(1000)), "a mixture");
    }
    for dir in ["tags", "secrets"] {
        assert_eq!(entries(&env.root().join(dir)).len(), 1);
    }
}

#[test]
fn runs_are_pruned() {
    if !have_root() {
        return;
    }
    let env = TestEnv::new();
    let now = jiff::Timestamp::now() - Duration::from_secs(3600);
    ended_run(&env, "old", &json!({}));
    ended_run(&env, "young", &json!({ "finished": now.to_string() }));
    ended_run(&env, "tagged", &json!({}));
    env.run(["tags", "add", "best", "tagged"]).code(0);
    ended_run(&env, "unsaved", &json!({}));
    fs::create_dir(env.root().join("runs/unsaved/artifacts")).unwrap();

    let nobody = env.run(["prune", "runs"]).code(125);
    assert!(nobody.stderr.contains("2 runs, ") && nobody.stderr.contains("hint: `--force`"), "{}", nobody.stderr);
    assert!(nobody.stderr.contains("warning: kept run `unsaved`: it holds artifacts that are not saved yet"));
    let dry = env.run(["prune", "runs", "--older-than", "1d", "--dry-run"]).code(0);
    assert_eq!(dry.stdout, "old\n");
    assert!(dry.stderr.contains("would remove 1 run, 1"), "{}", dry.stderr);
    assert_eq!(runs(&env), ["old", "tagged", "unsaved", "young"]);
    let pruned = env.run(["prune", "runs", "--older-than", "1d", "-f"]).code(0);
    assert!(pruned.stdout == "old\n" && pruned.stderr.contains("removed 1 run, "), "{pruned:?}");
    let all = env.run(["prune", "runs", "-f", "--verbose"]).code(0);
    assert!(all.stdout == "young\n" && all.stderr.contains("kept run `tagged`: tag `best` points to it"), "{all:?}");
    assert_eq!(runs(&env), ["tagged", "unsaved"]);
    assert_eq!(env.run(["prune", "runs", "-f"]).code(0).stdout, "");
    env.run(["prune", "runs", "--older-than", "soon"]).code(125);
    env.assert_clean();
}

#[test]
fn caches_are_pruned() {
    if !have_root() {
        return;
    }
    let env = TestEnv::new();
    let store = Store::open(&env.root()).unwrap();
    let open = |path: &str, time: &str| store.caches().open("/p", "train", path.as_ref(), time).unwrap();
    let (old, young) = (open("/old", "2024-01-01T00:00:00Z"), open("/young", &jiff::Timestamp::now().to_string()));
    assert!(env.run(["prune", "cache"]).code(125).stderr.contains("2 caches, "));
    let pruned = env.run(["prune", "cache", "--older-than", "1d", "-f"]).code(0);
    assert_eq!(pruned.stdout, "/old of workflow train in /p\n");
    assert!(!old.host_dir.exists() && young.host_dir.exists());
    assert!(env.run(["prune", "cache", "--older-than", "1d"]).code(0).stderr.contains("no caches to remove"));
    env.assert_clean();
}

#[test]
fn what_is_mounted_into_a_live_run_is_not_removed() {
    if !have_root() {
        return;
    }
    let env = TestEnv::new();
    ended_run(&env, "dep", &json!({}));
    fs::create_dir_all(env.root().join("artifacts/dep/saved")).unwrap();
    let manifest =
        json!({ "schema": 1, "run": "dep", "outcome": "done", "saved_at": "2024-05-01T12:00:00Z", "artifacts": [] });
    fs::write(env.root().join("artifacts/dep/saved/manifest.json"), manifest.to_string()).unwrap();
    ended_run(&env, "live", &json!({ "state": "running", "deps": ["dep"] }));
    let store = Store::open(&env.root()).unwrap();
    let lock = store.run("live").unwrap().try_lock().unwrap().unwrap();
    for words in [&["rm", "dep"][..], &["artifacts", "rm", "dep"]] {
        env.run(words).refused(125, &["run `dep` is used by run `live`, which has its artifacts mounted", "hint: "]);
        assert!(!env.root().join("active/dep").exists(), "it is no unfinished run now");
    }
    let pruned = env.run(["prune", "runs", "-f", "--verbose"]).code(0);
    assert!(pruned.stdout.is_empty() && pruned.stderr.contains("run `live` uses its artifacts"), "{pruned:?}");
    env.run(["rm", "live"]).refused(125, &["run `live` is still running"]);
    assert_eq!(runs(&env), ["dep", "live"]);
    drop(lock);
    store.run("live").unwrap().finish().unwrap();
    assert_eq!(env.run(["artifacts", "rm", "dep"]).text(), "dep");
    env.run(["artifacts", "rm", "dep"]).refused(125, &["run `dep` has no artifacts"]);
    env.run(["artifacts", "save", "dep"]).refused(125, &["run `dep` has nothing unsaved", "hint: "]);
    assert_eq!(env.run(["rm", "dep"]).text(), "dep");
    env.assert_clean();
}
