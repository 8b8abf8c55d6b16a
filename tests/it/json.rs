//! `docs/json.md` against what is written: every key is documented, and every documented key is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use dockless::image::{ByteSize, Digest};
use dockless::store::{
    CgroupMode, Exit, ExitReason, FailedCommand, FeedLine, GpuUsage, Happening, HealthCheck, HealthResult, IdMap,
    IdMaps, Limits, MountedImage, OnFailure, RestartPolicy, RunCgroup, RunGpu, RunHealth, RunNetwork, RunRecord,
    RunState, Victim,
};
use serde_json::{Value, json};

use crate::support::env::{TestEnv, finish_with, have_root};
use crate::support::image::ImageBuilder;

fn documentation() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/json.md")).unwrap()
}

/// The first column of the first table below a heading, and which of its keys may be absent.
fn documented(heading: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let text = documentation();
    let section = text.split_once(&format!("\n{heading}\n")).unwrap().1;
    let rows = section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let (mut all, mut optional) = (BTreeSet::new(), BTreeSet::new());
    for row in rows.skip(2) {
        let cell = row.split('|').nth(1).unwrap();
        let key = cell.split('`').nth(1).unwrap().to_owned();
        if cell.trim().ends_with('?') {
            optional.insert(key.clone());
        }
        all.insert(key);
    }
    (all, optional)
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

fn network() -> RunNetwork {
    let (address, gateway) = ([10, 188, 0, 2].into(), [10, 188, 0, 1].into());
    RunNetwork { bridge: String::new(), address, gateway, aliases: vec![String::new()] }
}

/// A record with every key. A new field fails to compile here, and belongs into the documentation.
fn full() -> RunRecord {
    let text = || Some("x".to_owned());
    RunRecord {
        schema: 1,
        name: "run".parse().unwrap(),
        id: "run-1".to_owned(),
        workflow: text(),
        project: text(),
        resolved: Some(json!({})),
        image: "app".parse().unwrap(),
        manifest: Some(Digest::sha256(b"")),
        layers: Vec::new(),
        mounted: vec![MountedImage { manifest: Digest::sha256(b""), layers: Vec::new() }],
        ipc: text(),
        id_maps: Some(IdMaps { uids: vec![IdMap { container: 0, host: 1, length: 1 }], gids: Vec::new() }),
        command: Vec::new(),
        limits: Limits { cpus: Some(0.5), memory: Some(ByteSize(1)), shm_size: Some(ByteSize(1)) },
        gpus: vec![RunGpu { uuid: String::new(), model: String::new(), shared: true }],
        detached: true,
        terminal: true,
        interactive: true,
        interruptible: true,
        ports: vec!["8080".to_owned()],
        network: Some(network()),
        artifact_store: text(),
        deps: vec!["other".parse().unwrap()],
        labels: [("team".to_owned(), "a".to_owned())].into(),
        group_add: vec!["video".to_owned()],
        caches: vec!["key".to_owned()],
        tag: text(),
        no_log: true,
        restart: RestartPolicy::OnFailure { max: Some(3) },
        restarts: 1,
        health: Some(health()),
        state: RunState::Done,
        rootfs: "overlay".to_owned(),
        boot_id: String::new(),
        created: String::new(),
        started: text(),
        finished: text(),
        pid: Some(1),
        pid_start: Some(1),
        cgroup: Some(RunCgroup { mode: CgroupMode::Own, paths: vec![String::new()] }),
        remove: false,
        keep: false,
        exit: Some(Exit {
            code: 1,
            signal: Some(1),
            reason: ExitReason::Exited,
            oom_kills: 0,
            victim: Some(Victim { pid: 1, command: String::new() }),
            memory_peak: Some(ByteSize(1)),
            memory_limit: Some(ByteSize(1)),
            shm_peak: Some(ByteSize(1)),
            cpu_seconds: Some(0.5),
            started: text(),
            finished: text(),
            gpus: vec![GpuUsage {
                uuid: String::new(),
                compute_percent_max: Some(1),
                compute_percent_mean: Some(0.5),
                memory_peak: Some(ByteSize(1)),
            }],
            failed_command: Some(FailedCommand { index: 1, of: 2, text: String::new(), code: 1 }),
            message: text(),
        }),
        spec: Some(json!({})),
    }
}

fn health() -> RunHealth {
    let mut health = RunHealth::new(HealthCheck {
        command: Vec::new(),
        interval_ms: 1,
        timeout_ms: 1,
        retries: 1,
        start_period_ms: 1,
        start_interval_ms: 1,
        on_failure: OnFailure::None,
    });
    health.log.push(HealthResult { start: String::new(), end: String::new(), exit_code: 0, output: String::new() });
    health
}

#[test]
fn the_keys_of_a_run_are_documented() {
    let value = serde_json::to_value(full()).unwrap();
    let health = &value["health"];
    for (value, heading) in
        [(health, "### `health`"), (&health["check"], "### `check`"), (&health["log"][0], "### `log`")]
    {
        assert_eq!(keys(value), documented(heading).0);
    }
    let (all, optional) = documented("## A run");
    assert_eq!(keys(&value), all);
    assert_eq!(keys(&value["cgroup"]), documented("### `cgroup`").0);
    assert_eq!(keys(&value["limits"]), documented("### `limits`").0);
    let (all_of_exit, optional_of_exit) = documented("### `exit`");
    assert_eq!(keys(&value["exit"]), all_of_exit);
    for key in keys(&value["exit"]["failed_command"]) {
        assert!(documentation().contains(&format!("`{key}`")), "{key}");
    }
    // And those that may be absent are so in a record that has nothing to say.
    let mut bare: RunRecord = serde_json::from_value(value).unwrap();
    let exit = json!({ "exit_code": 0, "reason": "exited", "oom_kills": 0 });
    bare.exit = Some(serde_json::from_value(exit).unwrap());
    let least = serde_json::to_value(&bare).unwrap();
    assert_eq!(keys(&least["exit"]), &all_of_exit - &optional_of_exit);
    let required: BTreeSet<&String> = all.difference(&optional).collect();
    let object: serde_json::Map<_, _> = least
        .as_object()
        .unwrap()
        .iter()
        .filter(|(key, _)| required.contains(key))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    let bare: RunRecord = serde_json::from_value(Value::Object(object)).unwrap();
    assert_eq!(keys(&serde_json::to_value(bare).unwrap()).iter().collect::<BTreeSet<_>>(), required);
}

#[test]
fn the_words_of_states_and_reasons_are_documented() {
    use ExitReason::{
        Aborted, ClientLost, Exited, GpuLost, HostReboot, Interrupted, OomKilled, Signalled, StartFailed, Stopped,
        SupervisorLost, Timeout, Unhealthy,
    };
    let states = [
        RunState::Submitted,
        RunState::Pulling,
        RunState::Creating,
        RunState::Running,
        RunState::Paused,
        RunState::Restarting,
        RunState::Saving,
        RunState::Done,
        RunState::Failed,
        RunState::Stopped,
        RunState::Interrupted,
        RunState::Aborted,
    ];
    let reasons = [
        Exited,
        Timeout,
        Unhealthy,
        Signalled,
        OomKilled,
        GpuLost,
        StartFailed,
        Stopped,
        Interrupted,
        Aborted,
        ClientLost,
        SupervisorLost,
        HostReboot,
    ];
    let words = states.iter().map(|state| json!(state)).chain(reasons.iter().map(|reason| json!(reason)));
    for word in words {
        let word = word.as_str().unwrap();
        assert!(documentation().contains(&format!("`{word}`")), "{word}");
    }
}

#[test]
fn the_keys_of_tags_secrets_and_workflows_are_documented() {
    let env = TestEnv::new();
    let dir = env.root().join("runs/run");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("run.json"), serde_json::to_string(&full()).unwrap()).unwrap();
    env.run(["tags", "add", "best", "run"]).code(0);
    finish_with(&mut env.command(["secrets", "add", "TOKEN"]), b"s3cret").code(0);
    env.write(".dstack/workflows.yaml", "workflows: [{ name: train, image: app }]");
    for command in ["tags list", "secrets list", "workflow list"] {
        let listed = env.run(command.split(' ').chain(["--format", "json"])).json();
        let text = documentation();
        let row = text.lines().find(|line| line.contains(&format!("`{command} "))).unwrap();
        let words: BTreeSet<String> = row.split('`').skip(3).step_by(2).map(str::to_owned).collect();
        assert!(keys(&listed[0]).is_subset(&words), "{command}: {listed}");
        assert!(!listed.to_string().contains("s3cret"));
    }
}

#[test]
fn the_keys_of_images_are_documented() {
    let env = TestEnv::new().image("app", || ImageBuilder::new().dir("bin"));
    let text = documentation();
    let section = text.split_once("\n## An image\n").unwrap().1;
    let (listed, inspected) = section.split_once("In `inspect`").unwrap();
    for (value, section) in
        [(env.run(["images", "--format", "json"]).json(), listed), (env.run(["inspect", "app"]).json(), inspected)]
    {
        for key in keys(&value[0]) {
            assert!(section.contains(&format!("`{key}`")), "{key}");
        }
    }
}

/// A finding with every key, and the words that the keys may have.
#[test]
fn the_keys_of_findings_are_documented() {
    use dockless::engine::check::{Finding, FindingKind, FindingState};
    use {FindingKind as Kind, FindingState as State};
    let finding = Finding {
        state: State::Damaged,
        kind: Kind::Blob,
        name: String::new(),
        problem: String::new(),
        images: Vec::new(),
        hint: Some(String::new()),
    };
    let (all, optional) = documented("## A finding of `check`");
    assert_eq!(keys(&json!(finding)), all);
    assert_eq!(keys(&json!(Finding { hint: None, ..finding })), &all - &optional);
    let text = documentation();
    let section = text.split_once("\n## A finding of `check`\n").unwrap().1.split_once("\n## ").unwrap().0;
    let kinds =
        [Kind::Index, Kind::Manifest, Kind::Config, Kind::Blob, Kind::Layer, Kind::Image, Kind::Run, Kind::Stray];
    let states = [State::Damaged, State::Repaired, State::Unchecked, State::Notice];
    let words = kinds.map(|kind| (json!(kind), kind.word())).into_iter();
    for (json, word) in words.chain(states.map(|state| (json!(state), state.word()))) {
        assert_eq!(json, word);
        assert!(section.contains(&format!("`{word}`")), "{word}");
    }
}

#[test]
fn the_keys_of_the_disk_and_of_prunings_are_documented() {
    let env = TestEnv::new().image("app", || ImageBuilder::new().dir("bin"));
    let (all, optional) = documented("## The disk");
    let df = env.run(["system", "df", "--format", "json"]).json();
    let kinds = ["images", "layers", "runs", "artifacts", "caches", "orphans", "left_overs"];
    let found: Vec<&str> = df.as_array().unwrap().iter().map(|share| share["type"].as_str().unwrap()).collect();
    assert_eq!(found, kinds);
    assert!(kinds.iter().all(|kind| documentation().contains(&format!("`{kind}`"))));
    assert_eq!(keys(&df[0]), &all - &optional);
    let details = env.run(["system", "df", "--details", "--format", "json"]).json();
    assert_eq!(keys(&details[0]), all);
    assert_eq!(keys(&details[0]["items"][0]), documented("### `items`").0);
    if !have_root() {
        return;
    }
    for command in ["prune images", "system prune"] {
        let words = command.split(' ').chain(["--all", "--dry-run", "--format", "json"]);
        let pruned = env.run(words).json();
        assert_eq!(keys(&pruned), documented("## A pruning").0, "{command}");
        assert_eq!(keys(&pruned["images"][0]), BTreeSet::from(["digest".to_owned(), "name".to_owned()]));
        assert_eq!(pruned["images"][0]["name"], "app");
    }
}

#[test]
fn the_types_of_events_are_documented() {
    let all = [
        Happening::PullLayer { digest: Digest::sha256(b""), size_bytes: 1, existed: true },
        Happening::PullDone { image: String::new(), manifest: Digest::sha256(b"") },
        Happening::Created,
        Happening::Started { pid: 1 },
        Happening::Oom { oom_kills: 1, victim: Some(Victim { pid: 1, command: String::new() }) },
        Happening::Health { status: String::new() },
        Happening::Renamed { from: "a".parse().unwrap() },
        Happening::Signal { signal: 1 },
        Happening::Restarting { restarts: 1, delay_ms: 1, exit: Box::new(Exit::new(0, ExitReason::Exited)) },
        Happening::Exited { exit: Box::new(Exit::new(0, ExitReason::Exited)) },
        Happening::ArtifactsSaved { files: 1, size_bytes: ByteSize(1) },
        Happening::Cleaned,
    ];
    let text = documentation();
    let section = text.split_once("\n## Events\n").unwrap().1.split_once("\n## ").unwrap().0;
    let rows: BTreeSet<&str> = section
        .split_once("\n| type | further")
        .unwrap()
        .1
        .lines()
        .skip(2)
        .filter(|line| line.starts_with('|'))
        .collect();
    let (mut types, of_exit) = (BTreeSet::new(), documented("### `exit`").0);
    for happening in all {
        let value = serde_json::to_value(happening).unwrap();
        let kind = value["type"].as_str().unwrap();
        let row = rows.iter().find(|row| row.starts_with(&format!("| `{kind}` |"))).unwrap();
        for key in keys(&value) {
            let is_of_exit = of_exit.contains(&key) && row.contains("the keys of `exit`");
            assert!(key == "type" || is_of_exit || row.contains(&format!("`{key}`")), "{kind}: {key}");
        }
        types.insert(kind.to_owned());
    }
    assert_eq!(types.len(), rows.len());
    let run = "run".parse().unwrap();
    let line =
        FeedLine { schema: 1, seq: 1, time: String::new(), run, id: String::new(), happening: Happening::Created };
    assert_eq!(keys(&serde_json::to_value(line).unwrap()), documented("## Events").0);
}
