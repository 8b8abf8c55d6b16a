//! What is true of a program that embeds the library.

use std::fs;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::base::{base_image, empty};
use crate::program::WORD;
use crate::support::env::{TestEnv, program};
use crate::support::registry::TestRegistry;

pub(crate) const ALL: [(&str, fn()); 8] = [
    ("pulls_and_runs_without_environment_and_standard_streams", pulls_and_runs),
    ("two_runs_at_once", two_runs_at_once),
    ("an_oom_kill_is_told", an_oom_kill_is_told),
    ("a_run_is_stopped", a_run_is_stopped),
    ("a_dropped_run_ends_and_leaves_no_zombie", a_dropped_run_ends),
    ("a_detached_run_has_no_output", a_detached_run_has_no_output),
    ("a_program_that_forgets_the_entry_is_refused", forgetful_programs_are_refused),
    ("a_program_with_bad_manners_starts_no_copies_of_itself", bad_manners_are_told),
];

/// What the embedder saw; its streams are /dev/null, its environment is empty.
fn seen(env: &TestEnv, registry: &TestRegistry, what: &str) -> Value {
    let image = registry.push("app:1", &base_image().build()).to_string();
    let own = std::env::current_exe().unwrap();
    let mut command =
        program(own.to_str().unwrap(), [WORD.as_ref(), what.as_ref(), env.dir().as_os_str(), image.as_ref()]);
    command.env_clear().stdout(Stdio::null()).stderr(Stdio::null());
    let status = command.status().unwrap();
    assert!(status.success(), "{what}: {status}");
    let path = env.dir().join("seen.json");
    let seen = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    fs::remove_file(path).unwrap();
    seen
}

fn places() -> Option<(TestEnv, TestRegistry)> {
    Some((empty()?, TestRegistry::start()))
}

fn pulls_and_runs() {
    let Some((env, registry)) = places() else { return };
    let seen = seen(&env, &registry, "closed");
    assert_eq!(seen["exit"]["code"], 7, "{seen}");
    assert_eq!((&seen["stdout"], &seen["stderr"]), (&json!("out\n"), &json!("err\n")));
    assert_eq!(seen["events"], json!(["rootfs", "started", "exited"]));
    let steps = seen["steps"].as_array().unwrap();
    for step in ["resolved", "downloaded", "unpacked"] {
        assert!(steps.contains(&json!(step)), "{seen}");
    }
    assert_eq!(env.record("e-closed")["state"], "failed");
    env.assert_clean();
}

fn two_runs_at_once() {
    let Some((env, registry)) = places() else { return };
    let seen = seen(&env, &registry, "pair");
    assert_eq!((&seen[0]["stdout"], &seen[0]["exit"]["code"]), (&json!("one\n"), &json!(0)), "{seen}");
    assert_eq!((&seen[1]["stdout"], &seen[1]["exit"]["code"]), (&json!("two\n"), &json!(2)), "{seen}");
    env.assert_clean();
}

fn an_oom_kill_is_told() {
    let Some((env, registry)) = places() else { return };
    let seen = seen(&env, &registry, "oom");
    assert_eq!((&seen["exit"]["code"], &seen["exit"]["reason"]), (&json!(137), &json!("oom_killed")), "{seen}");
    env.assert_clean();
}

fn a_run_is_stopped() {
    let Some((env, registry)) = places() else { return };
    let seen = seen(&env, &registry, "stop");
    assert_eq!((&seen["code"], &seen["reason"]), (&json!(3), &json!("stopped")), "{seen}");
    env.assert_clean();
}

fn a_dropped_run_ends() {
    let Some((env, registry)) = places() else { return };
    let seen = seen(&env, &registry, "drop");
    assert_eq!(seen["exit"]["reason"], "client_lost", "{seen}");
    assert_eq!(seen["children"], "", "{seen}");
    env.assert_clean();
}

fn a_detached_run_has_no_output() {
    let Some((env, registry)) = places() else { return };
    let seen = seen(&env, &registry, "detached");
    assert_eq!(seen["kind"], "DetachedOutput", "{seen}");
    env.assert_clean();
}

fn forgetful_programs_are_refused() {
    let Some((env, registry)) = places() else { return };
    let seen = seen(&env, &registry, "forgetful");
    assert_eq!(seen["kind"], "NotHandedOver(NotHandedOver)", "{seen}");
    assert!(seen["error"].as_str().unwrap().contains("dockless::engine::entry(std::env::args_os())"), "{seen}");
    assert!(!env.root().exists());
}

fn bad_manners_are_told() {
    let Some((env, registry)) = places() else { return };
    let late = seen(&env, &registry, "late");
    assert_eq!(late["exit"]["code"], 125, "{late}");
    assert!(late["exit"]["message"].as_str().unwrap().contains("threads when it is handed over"), "{late}");
    let env = TestEnv::new();
    let careless = seen(&env, &registry, "careless");
    assert!(careless["error"].is_string() || careless["exit"]["code"] != 0, "{careless}");
    assert_ne!(careless["stdout"], "never\n");
    env.assert_clean();
}
