//! `doctor`: what it says of this machine, and of the same machine with something taken away.

use std::fs;

use serde_json::Value;

use crate::base::app;
use crate::support::env::{Output, TestEnv, finish, have, program, skip};

fn symptom(found: &Value, name: &str, health: &str) -> Option<String> {
    let symptom = found.as_array()?.iter().find(|symptom| symptom["name"] == name && symptom["health"] == health)?;
    let words = |key: &str| symptom[key].as_str().unwrap_or_default().to_owned();
    Some(format!("{} | {}", words("found"), words("fix")))
}

/// `doctor` after a script has changed what it sees, in mounts of its own.
fn after(env: &TestEnv, script: &str) -> Output {
    let doctor = env.command(["doctor", "--json"]);
    let words: Vec<String> = std::iter::once(doctor.get_program())
        .chain(doctor.get_args())
        .map(|word| format!("'{}'", word.to_str().unwrap()))
        .collect();
    let script = format!("{script}\nexec {}", words.join(" "));
    let mut command = program("unshare", ["-m", "sh", "-ec", &script]);
    command.envs(doctor.get_envs().filter_map(|(name, value)| Some((name, value?))));
    finish(&mut command)
}

#[expect(clippy::needless_pass_by_value, reason = "what follows a check of its code")]
fn json(output: Output) -> Value {
    serde_json::from_str(&output.stdout).unwrap()
}

#[test]
fn this_machine_is_told_as_it_is() {
    let Some(env) = app() else { return };
    let found = env.run(["doctor", "--json"]).code(0).json();
    for name in ["user", "kernel", "cgroups", "seccomp", "overlay", "store", "gpu"] {
        assert!(found.as_array().unwrap().iter().any(|symptom| symptom["name"] == name), "{name}: {found}");
    }
    assert!(symptom(&found, "store", "ok").unwrap().contains("1 images"), "{found}");
    for symptom in found.as_array().unwrap() {
        assert_eq!(symptom["health"] == "ok", symptom["fix"].is_null(), "{symptom}");
    }
    let shown = env.run(["doctor"]).code(0).stdout;
    assert!(shown.starts_with("ok       user             root\n"), "{shown}");
    env.assert_clean();
}

#[test]
fn what_is_wrong_is_told_with_its_fix() {
    let Some(env) = app() else { return };
    let manifest = fs::read_to_string(env.root().join("index.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    let digest = manifest["manifests"][0]["digest"].as_str().unwrap().replace(':', "/");
    fs::rename(env.root().join("blobs").join(&digest), env.root().join("kept")).unwrap();
    let found = json(env.run(["doctor", "--json"]).code(1));
    let told = symptom(&found, "store", "failed").unwrap();
    assert!(told.contains("without a manifest") && told.contains("check --repair"), "{told}");
    fs::rename(env.root().join("kept"), env.root().join("blobs").join(&digest)).unwrap();

    let version = env.root().join("store.json");
    let current = fs::read_to_string(&version).unwrap();
    fs::write(&version, "{\"version\":999}").unwrap();
    let found = json(env.run(["doctor", "--format", "json"]).code(1));
    assert!(symptom(&found, "store", "failed").is_some(), "{found}");
    fs::write(&version, current).unwrap();

    let elsewhere = env.work().join("state");
    fs::create_dir(&elsewhere).unwrap();
    if !have(&["unshare"]) {
        skip("unshare is not there");
        return;
    }
    let found = json(after(&env, "umount -R /sys/fs/cgroup").code(0));
    let told = symptom(&found, "cgroups", "warning").unwrap();
    assert!(told.contains("runs have no limits") && told.contains("mount"), "{found}");
    let script = "for dir in /sys/fs/cgroup /sys/fs/cgroup/memory; do mount -o remount,bind,ro $dir || true; done";
    let found = json(after(&env, script).code(0));
    assert!(symptom(&found, "cgroups", "warning").unwrap().contains("read-only"), "{found}");
    let small = format!("mount -t tmpfs -o size=64m tmpfs {}", env.root().display());
    let found = json(after(&env, &small).code(1));
    assert!(symptom(&found, "disk", "failed").unwrap().contains("system prune"), "{found}");
    env.assert_clean();
}
