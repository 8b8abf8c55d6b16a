//! What runs leave to later ones, observed inside containers: deps, caches, tags, secrets; and that it is not removed while
//! it is used.

use std::fs;

use nix::sys::signal::Signal;

use crate::base::{app, app_with};
use crate::support::env::{BINARY, Output, Running, TestEnv, entries, finish, program};

fn write(env: &TestEnv, workflows: &str) {
    env.write(".dstack/workflows.yaml", workflows);
}

#[track_caller]
fn run(env: &TestEnv, workflow: &str, flags: &[&str]) -> (String, Output) {
    let name = env.name();
    let output = env.run([&["workflow", "run", workflow, "--name", &name], flags].concat());
    (name, output)
}

/// A workflow that makes something, and one that reads it: `train` fails where it can write to what `prepare` has made.
const CHAIN: &str = "\
workflows:
  - name: prepare
    image: app
    env: [WORD=first]
    artifacts: [data, /models]
    commands: ['echo $WORD > data/word', 'echo weights > /models/w', 'test $WORD != bad']
  - name: train
    image: app
    deps: [{workflow: prepare}]
    artifacts: [out]
    commands: ['cat data/word /models/w', '! touch data/new 2>/dev/null', '! rm /models/w 2>/dev/null', 'cp data/word out']
  - name: tagged
    image: app
    deps: [{tag: best}]
    commands: ['cat data/word']
  - name: going
    image: app
    deps: [{tag: best}]
    commands: ['echo ready; trap \"exit 0\" TERM; while :; do usleep 20000; done']
";

#[test]
fn a_dep_is_seen_read_only_where_it_was_written() {
    let Some(env) = app() else { return };
    write(&env, CHAIN);
    let (_, never) = run(&env, "train", &[]);
    never.refused(
        125,
        &["dep workflow `prepare`: it has never run", "hint: run it first: `dockless workflow run prepare`"],
    );
    let (first, output) = run(&env, "prepare", &[]);
    output.code(0);
    let (trained, output) = run(&env, "train", &[]);
    assert_eq!(output.code(0).stdout, "first\nweights\n");
    assert_eq!(env.record(&trained)["deps"], serde_json::json!([first]));
    let (second, output) = run(&env, "prepare", &["-e", "WORD=second"]);
    output.code(0);
    assert_eq!(run(&env, "train", &[]).1.code(0).stdout, "second\nweights\n");
    // One that fails later changes nothing.
    run(&env, "prepare", &["-e", "WORD=bad"]).1.code(1);
    assert_eq!(run(&env, "train", &[]).1.code(0).stdout, "second\nweights\n");

    env.run(["tags", "add", "best", &first]).code(0);
    assert_eq!(run(&env, "tagged", &[]).1.code(0).stdout, "first\n");
    env.run(["tags", "add", "best", &second]).code(0);
    assert_eq!(run(&env, "tagged", &[]).1.code(0).stdout, "second\n");
    assert!(!env.work().join("data/word").exists(), "the project has nothing of it");
    env.assert_clean();
}

#[test]
fn deps_that_cannot_be_had() {
    let Some(env) = app() else { return };
    write(&env, &CHAIN.replace("echo $WORD > data/word", "exit 3"));
    let (failed, output) = run(&env, "prepare", &[]);
    output.code(3);
    let last = format!("the last one, `{failed}`, is failed with exit code 3");
    run(&env, "train", &[]).1.refused(125, &[&last, "hint: "]);
    run(&env, "tagged", &[]).1.refused(125, &["no tag `best`"]);

    write(&env, CHAIN);
    let (made, output) = run(&env, "prepare", &[]);
    output.code(0);
    assert_eq!(env.run(["artifacts", "rm", &made]).text(), made);
    run(&env, "train", &[]).1.refused(125, &[&format!("its run `{made}` has no artifacts")]);
    env.run(["tags", "add", "best", &made]).code(0);
    env.run(["rm", ":best"]).code(0);
    run(&env, "tagged", &[]).1.refused(125, &[&format!("run `{made}`, which tag `best` names, is gone")]);

    write(&env, &CHAIN.replace("artifacts: [out]", "artifacts: [data/deep, out]"));
    run(&env, "prepare", &[]).1.code(0);
    run(&env, "train", &[]).1.refused(125, &["artifact `/workflow/data/deep`", "one is in the other"]);
    env.assert_clean();
}

/// The same for a run, for its artifacts and for its cache.
#[test]
fn what_a_live_run_has_mounted_stays() {
    let Some(env) = app() else { return };
    write(
        &env,
        &CHAIN.replace(
            "deps: [{tag: best}]\n    commands: ['echo",
            "deps: [{tag: best}]\n    cache: [/c]\n    commands: ['echo",
        ),
    );
    let (made, output) = run(&env, "prepare", &["--tag", "best"]);
    output.code(0);
    let name = env.name();
    let going = env.spawn(["workflow", "run", "going", "--name", &name]);
    going.wait_for("ready");
    let used = format!("run `{made}` is used by run `{name}`, which has its artifacts mounted");
    env.run(["rm", &made]).refused(125, &[&used, "hint: "]);
    env.run(["artifacts", "rm", ":best"]).refused(125, &[&used]);
    env.run(["tags", "delete", "best"]).code(0);
    assert_eq!(env.run(["prune", "runs", "-f"]).code(0).stdout, "");
    assert_eq!(env.run(["prune", "cache", "-f"]).code(0).stdout, "");
    going.signal(Signal::SIGTERM);
    drop(going.finish());
    assert_eq!(
        env.run(["prune", "cache", "-f"]).code(0).stdout,
        format!("/c of workflow going in {}\n", env.work().display())
    );
    let mut pruned: Vec<String> = env.run(["prune", "runs", "-f"]).text().lines().map(str::to_owned).collect();
    pruned.sort();
    assert_eq!(pruned, [made, name]);
    assert!(entries(&env.root().join("artifacts")).is_empty() && entries(&env.root().join("caches")).is_empty());
    env.assert_clean();
}

#[test]
fn a_cache_is_kept_between_runs_and_shared_at_once() {
    let Some(env) = app() else { return };
    write(
        &env,
        "workflows:\n  - {name: one, image: app, cache: [.cache], commands: ['ls .cache', 'touch .cache/$RUN_NAME']}\n  \
         - {name: two, image: app, cache: [.cache], commands: ['ls .cache']}\n  \
         - name: meets\n    image: app\n    cache: [/shared]\n    commands:\n      \
         - touch /shared/$RUN_NAME\n      \
         - n=0; while [ $(ls /shared | wc -l) -lt 3 ] && [ $n -lt 2000 ]; do usleep 10000; n=$((n + 1)); done\n      \
         - ls /shared | wc -l\n",
    );
    let (first, output) = run(&env, "one", &[]);
    assert_eq!(output.code(0).stdout, "");
    assert_eq!(run(&env, "one", &[]).1.code(0).stdout, format!("{first}\n"));
    assert_eq!(run(&env, "two", &[]).1.code(0).stdout, "", "each workflow has its own");
    assert!(entries(&env.work().join(".cache")).is_empty(), "the project has nothing of it");

    // None of them was there before: all make it at once, and see each other in it.
    let going: Vec<Running> = (0..3).map(|_| env.spawn(["workflow", "run", "meets", "--name", &env.name()])).collect();
    for running in going {
        assert_eq!(running.finish().code(0).stdout.trim(), "3");
    }
    assert_eq!(entries(&env.root().join("caches")).len(), 3);
    env.assert_clean();
}

#[test]
fn a_cache_can_be_written_by_any_user() {
    let Some(env) = app_with(|image| image.user("app")) else { return };
    write(
        &env,
        "workflows: [{name: w, image: app, cache: [/c], commands: ['id -u', 'echo x >> /c/file', 'cat /c/file']}]",
    );
    assert_eq!(run(&env, "w", &[]).1.code(0).stdout, "1000\nx\n");
    assert_eq!(run(&env, "w", &[]).1.code(0).stdout, "1000\nx\nx\n");
}

/// A tree deeper than the descriptors of a process, in a cache and in the writable layer.
#[test]
fn deep_trees_are_removed() {
    let Some(env) = app() else { return };
    let deep = "cd DIR; n=0; while [ $n -lt 1500 ]; do mkdir d && cd d; n=$((n + 1)); done";
    let [cache, own] = ["/c", "/tmp"].map(|dir| format!("({})", deep.replace("DIR", dir)));
    write(&env, &format!("workflows: [{{name: w, image: app, cache: [/c], commands: ['{cache}', '{own}']}}]"));
    let name = env.name();
    let mut command = program("sh", ["-c", "ulimit -n 256; exec \"$@\"", "sh", BINARY, "--root"]);
    command.arg(env.root()).arg("--state").arg(env.state()).args(["workflow", "run", "w", "--name", &name]);
    let output = finish(command.current_dir(env.work())).code(0);
    assert!(!output.stderr.contains("warning"), "{}", output.stderr);
    assert!(!env.root().join("runs").join(&name).join("upper").exists());
    env.run(["prune", "cache", "-f"]).code(0);
    assert!(entries(&env.root().join("caches")).is_empty());
    env.assert_clean();
}

#[test]
fn what_a_mount_hides_is_told() {
    let Some(env) = app_with(|image| image.dir("models").file("models/old", "x").dir("empty")) else { return };
    env.write("data/mine", "x");
    fs::create_dir_all(env.work().join("void")).unwrap();
    write(
        &env,
        "workflows: [{name: w, image: app, artifacts: [data, void, /models, /empty], cache: [/etc], \
         commands: ['ls data /models']}]",
    );
    let (_, output) = run(&env, "w", &[]);
    let stderr = output.code(0).stderr;
    for (path, whose) in [("/workflow/data", "project"), ("/models", "image"), ("/etc", "image")] {
        assert!(stderr.contains(&format!("hides `{path}` of the {whose}, which is not empty")), "{path}: {stderr}");
    }
    assert!(!stderr.contains("/workflow/void") && !stderr.contains("`/empty` of"), "{stderr}");
    assert_eq!(fs::read_to_string(env.work().join("data/mine")).unwrap(), "x");
}

/// What could not be saved when the run ended is saved by hand.
#[test]
fn what_stayed_in_the_run_is_saved_later() {
    let Some(env) = app() else { return };
    write(
        &env,
        "workflows: [{name: w, image: app, artifacts: [out], commands: ['echo x > out/x', 'echo ready', 'usleep 500000', 'exit 4']}]",
    );
    let name = env.name();
    let running = env.spawn(["workflow", "run", "w", "--name", &name]);
    running.wait_for("ready");
    // A file in the way of the directory that the artifacts are to go to.
    let saved = env.root().join("artifacts").join(&name).join("saved");
    fs::write(&saved, "in the way").unwrap();
    let output = running.finish().code(4);
    assert!(output.stderr.contains("artifacts were not saved"), "{}", output.stderr);
    assert_eq!(env.run(["prune", "runs", "-f"]).code(0).stdout, "");
    fs::remove_file(&saved).unwrap();
    let output = env.run(["artifacts", "save", &name]).code(0);
    assert!(output.stderr.contains("saved artifacts: 1 file, 2 B"), "{}", output.stderr);
    env.run(["artifacts", "save", &name]).refused(125, &["has nothing unsaved"]);
    assert!(env.run(["artifacts", "ls", &name]).text().contains("out/x"));
    let manifest = fs::read_to_string(saved.join("manifest.json")).unwrap();
    assert!(manifest.contains("\"failed\""), "{manifest}");
    env.assert_clean();
}
