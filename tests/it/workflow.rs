//! Workflows as far as they need no privileges: what `workflow show` shows, and every mistake in a workflow or its flags,
//! in full.

use crate::support::env::{Output, TestEnv, finish};

const FILE: &str = "\
workflows:
  - name: train
    help: Trains it.
    image: python:3.12
    setup: [pip install -q wheel]
    commands:
      - python train.py ${{ run.args }}
      - echo \"${{ run.name }} is done\" > output/done
    env: [EPOCHS=3, HF_TOKEN, 'KEY=${{ secrets.API_KEY }}']
    artifacts: [output, {path: checkpoints, mount: true}]
    cache: [~/.cache/pip]
    home_dir: /root
    deps: [{workflow: prepare}]
    ports: [6006]
    resources: {cpu: 4, memory: 16GB, shm_size: 8GiB, gpu: {name: V100, memory: 16GB}}
    registry_auth: {username: '${{ env.REGISTRY_USER }}', password: '${{ secrets.REGISTRY }}'}
  - name: prepare
    image: ubuntu
    commands: [echo prepared]
  - name: plain
    file: main.py
";

fn env(text: &str) -> TestEnv {
    let env = TestEnv::new();
    env.write(".dstack/workflows.yaml", text);
    env
}

fn show(env: &TestEnv, words: &[&str]) -> Output {
    finish(env.command([&["workflow", "show"], words].concat()).env("REGISTRY_USER", "ann"))
}

#[track_caller]
fn assert_snapshot(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_omit_expression(true);
    settings.set_prepend_module_to_snapshot(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

#[test]
fn what_would_run_is_shown() {
    let env = env(FILE);
    let flags =
        ["-e", "EPOCHS=5", "--gpu", "2", "-p", "8080:80", "-a", "logs:mount", "--name", "first", "--secret", "TOKEN"];
    let text = [
        show(&env, &["train"]).text(),
        show(&env, &[&["train"], &flags[..], &["--", "--lr", "it's"]].concat()).text(),
        show(&env, &["plain", "--format", "json", "--gpu", "1", "--", "--lr", "a b"]).text(),
    ];
    assert_snapshot("shown", &(text.join("\n---\n") + "\n"));
    assert!(!env.root().exists(), "nothing of that needs a store");
}

/// What is shown stands in a record, whose readers rely on its keys.
#[test]
fn both_formats_say_the_same() {
    let env = env(FILE);
    let json = show(&env, &["train", "--format", "json"]).json();
    assert_eq!(json["env"]["HF_TOKEN"], serde_json::Value::Null);
    assert_eq!(json["env"]["KEY"], "****");
    assert_eq!(json["registry_auth"], serde_json::json!({"username": "****", "password": "****"}));
    let yaml = show(&env, &["train"]).text();
    for key in json.as_object().unwrap().keys() {
        assert!(yaml.contains(&format!("{key}:")), "{key} is not in {yaml}");
    }
}

#[test]
fn mistakes_of_flags() {
    let env = env(FILE);
    let mut text = String::new();
    for words in [
        &["trian"][..],
        &["prepare", "--", "x"],
        &["train", "--env", "A B=c"],
        &["train", "-a", "../x"],
        &["train", "-a", "output/x"],
        &["train", "-a", "x:ro"],
        &["train", "-w", "../x"],
        &["train", "--cpu", "none"],
        &["train", "--memory", "16QB"],
        &["train", "--memory", "1"],
        &["train", "--shm-size", "0"],
        &["train", "--gpu", "-1"],
        &["train", "--gpu", "all"],
        &["train", "--gpu", "0", "--gpu-name", "K80"],
        &["train", "-p", "99999"],
        &["train", "-p", "6006:1"],
        &["train", "--secret", "A=b"],
        &["train", "--format", "toml"],
    ] {
        let output = show(&env, words);
        assert_eq!((output.code, output.stdout.as_str()), (125, ""), "{words:?}: {output:?}");
        text.push_str(&format!("$ dockless workflow show {}\n{}\n", words.join(" "), output.stderr));
    }
    assert_snapshot("flag_mistakes", &text);
    // `workflow run` takes the same flags, and finds the same before it opens a store.
    for words in
        [&["train", "-w", "../x"][..], &["prepare", "--artifact-owner", "ann"], &["prepare", "--grace", "soon"]]
    {
        let output = env.run([&["workflow", "run"], words].concat());
        assert_eq!(output.code, 125, "{output:?}");
    }
    assert!(!env.root().exists(), "nothing was opened");
}

#[test]
fn mistakes_of_a_workflow() {
    let mut text = String::new();
    for lines in [
        "image: i\ncommands: ['echo ${{ run.nmae }}']",
        "image: i\ncommands: |\n  one ${{ env.NONE }}\n",
        "image: i\ncommands: ['echo ${{ run.name']",
        "image: i:${{ secrets.TAG }}",
        "commands: [a]",
        "image: i\nbefore_run: [a]",
        "image: i\nentrypoint: a 'b",
        "image: i\nfile: a.py\nversion: three",
        "image: i\nhome_dir: root",
        "image: i\nartifacts: [a]\ncache: [a/b]",
        "image: i\ndeps: [{workflow: othr}]",
        "image: i\ndeps: [{workflow: other}]",
        "image: i\nports: [80, 80]",
        "image: i\nresources: {memory: 1MB}",
    ] {
        let indented: String = lines.lines().map(|line| format!("    {line}\n")).collect();
        let other = "  - {name: other, image: i, deps: [{workflow: me}]}\n";
        let env = env(&format!("workflows:\n  - name: me\n{indented}{other}"));
        let output = show(&env, &["me"]);
        assert_eq!((output.code, output.stdout.as_str()), (125, ""), "{lines}: {output:?}");
        text.push_str(&format!("{lines}\n\n{}\n\n", output.stderr));
    }
    assert_snapshot("workflow_mistakes", &text);
}
