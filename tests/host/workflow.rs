//! Workflows: what they run, what they leave, what is refused.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::base::{app, app_with};
use crate::support::env::{Output, TestEnv, finish};

/// The example of the reference page, but for the image.
const TRAIN: &str = "\
workflows:
  - name: train
    provider: docker
    image: app
    commands:
      - mkdir -p output
      - echo 'Hello, world!' > output/hello.txt
    artifacts:
      - path: output
";

fn write(env: &TestEnv, workflows: &str) {
    env.write(".dstack/workflows.yaml", workflows);
}

/// `workflow run` with a name that nobody else has; returns it.
#[track_caller]
fn run(env: &TestEnv, workflow: &str) -> (String, Output) {
    let name = env.name();
    let output = env.run(["workflow", "run", workflow, "--name", &name]);
    (name, output)
}

#[test]
fn the_example_leaves_its_artifact() {
    let Some(env) = app() else { return };
    write(&env, TRAIN);
    let output = env.run(["workflow", "run", "train"]).code(0);
    assert!(output.stderr.contains("saved artifacts: 1 file, 14 B"), "{}", output.stderr);
    let runs = env.run(["ps", "-a", "--format", "json"]).json();
    let name = runs[0]["name"].as_str().unwrap().to_owned();
    assert_eq!((runs[0]["workflow"].as_str(), runs[0]["state"].as_str()), (Some("train"), Some("done")));

    let table = env.run(["artifacts", "ls", &name]).text();
    assert!(table.contains("output/hello.txt") && table.contains("14"), "{table}");
    let listed = env.run(["artifacts", "ls", &name, "--format", "json"]).json();
    assert_eq!((listed[0]["path"].as_str(), listed[0]["size_bytes"].as_u64()), (Some("output/hello.txt"), Some(14)));
    env.run(["artifacts", "cp", &name, "saved"]).code(0);
    assert_eq!(fs::read_to_string(env.work().join("saved/output/hello.txt")).unwrap(), "Hello, world!\n");
    env.run(["artifacts", "cp", &format!("{name}/output/hello.txt"), "one"]).code(0);
    assert_eq!(fs::read_to_string(env.work().join("one")).unwrap(), "Hello, world!\n");
    // The artifact is not left in the project.
    assert!(!env.work().join("output/hello.txt").exists());
    env.assert_clean();
    env.run(["rm", &name]).code(0);
    env.run(["artifacts", "ls", &name]).code(125);
    env.assert_clean();
}

#[test]
fn artifacts_belong_to_whoever_ran_sudo() {
    let Some(env) = app() else { return };
    write(&env, &TRAIN.replace("mkdir -p output", "touch output/roots; touch output/users; chown 77:78 output/users"));
    let name = env.name();
    let mut command = env.command(["workflow", "run", "train", "--name", &name]);
    finish(command.env("SUDO_UID", "1234").env("SUDO_GID", "2345")).code(0);
    env.run(["artifacts", "cp", &name, "saved"]).code(0);
    let owner = |path: &str| {
        let metadata = fs::metadata(env.work().join("saved/output").join(path)).unwrap();
        (metadata.uid(), metadata.gid())
    };
    assert_eq!(owner("hello.txt"), (1234, 2345));
    assert_eq!(owner("roots"), (1234, 2345));
    assert_eq!(owner("users"), (77, 78));
}

#[test]
fn a_failed_run_saves_its_artifacts_and_ends_with_its_code() {
    let Some(env) = app() else { return };
    write(&env, &TRAIN.replace("output/hello.txt\n", "output/hello.txt\n      - exit 42\n"));
    let (name, output) = run(&env, "train");
    assert!(output.code(42).stderr.contains("saved artifacts: 1 file"));
    env.run(["artifacts", "cp", &name, "saved"]).code(0);
    assert_eq!(fs::read_to_string(env.work().join("saved/output/hello.txt")).unwrap(), "Hello, world!\n");
    assert_eq!(env.record(&name)["state"], "failed");
    env.assert_clean();
}

#[test]
fn a_run_that_never_starts_leaves_its_record() {
    let Some(env) = app_with(|image| image.whiteout("bin/sh")) else { return };
    write(&env, TRAIN);
    let (name, output) = run(&env, "train");
    output.refused(127, &["/bin/sh"]);
    assert_eq!(env.record(&name)["exit"]["reason"], "start_failed");
    env.assert_clean();
}

#[test]
fn commands_stop_at_the_first_that_fails() {
    let Some(env) = app() else { return };
    write(&env, "workflows: [{ name: w, image: app, commands: [echo one, cd /tmp, pwd, 'false', echo never] }]");
    let (_, output) = run(&env, "w");
    assert_eq!(output.code(1).stdout, "one\n/tmp\n");
}

#[test]
fn the_project_is_mounted_and_the_environment_set() {
    let Some(env) = app() else { return };
    write(
        &env,
        "workflows:
  - name: w
    image: app
    working_dir: src
    env: [A=1, CALLER, 'EMPTY=']
    resources: { cpu: 1, memory: 96MiB, shm_size: 32MiB }
    artifacts: [/abs/out, rel]
    commands: |
      pwd
      cat hello
      echo written > new
      echo $A $CALLER ${EMPTY-unset} $RUN_NAME $JOB_ID $PYTHONUNBUFFERED $DOCKLESS_GPUS_NUM
      df -k /dev/shm | tail -n 1 | awk '{ print $2 }'
      cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes
      echo x > /abs/out/x; echo y > rel/y
  - { name: other, image: app, environment: { B: two }, commands: [echo $B] }
",
    );
    env.write("src/hello", "from the project\n");
    let name = env.name();
    let mut command = env.command(["workflow", "run", "w", "--name", &name]);
    let output = finish(command.env("CALLER", "caller")).text();
    assert_eq!(output, format!("/workflow/src\nfrom the project\n1 caller {name} {name} 1 0\n32768\n100663296"));
    assert_eq!(fs::read_to_string(env.work().join("src/new")).unwrap(), "written\n");
    let listed = env.run(["artifacts", "ls", &name, "--format", "json"]).json();
    let paths: Vec<&str> = listed.as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["/abs/out/x", "rel/y"]);
    assert_eq!(run(&env, "other").1.text(), "two");
    env.assert_clean();
}

#[test]
fn artifacts_that_are_mounted_are_seen_while_the_run_goes_on() {
    let Some(env) = app() else { return };
    write(
        &env,
        "workflows: [{ name: w, image: app, artifacts: [{ path: out, mount: true }], \
         commands: ['echo early > out/x', echo ready, 'while ! test -e stop; do usleep 20000; done'] }]",
    );
    let name = env.name();
    let running = env.spawn(["workflow", "run", "w", "--name", &name]);
    running.wait_for("ready");
    env.run(["artifacts", "cp", &name, "early"]).code(0);
    assert_eq!(fs::read_to_string(env.work().join("early/out/x")).unwrap(), "early\n");
    env.write("stop", "");
    running.finish().code(0);
    env.run(["artifacts", "cp", &name, "late"]).code(0);
    assert_eq!(fs::read_to_string(env.work().join("late/out/x")).unwrap(), "early\n");
    env.assert_clean();
}

#[test]
fn workflows_are_found_from_below_and_listed() {
    let Some(env) = app() else { return };
    write(
        &env,
        &format!("{TRAIN}  - name: other\n    help: Does something else\n    image: app\n    commands: [pwd]\n"),
    );
    env.write("deep/er/file", "");
    let mut command = env.command(["workflow", "list", "--format", "json"]);
    let list = finish(command.current_dir(env.work().join("deep/er"))).json();
    let names: Vec<&str> = list.as_array().unwrap().iter().map(|workflow| workflow["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["train", "other"]);
    let table = env.run(["workflow", "list"]).text();
    assert!(table.contains("Does something else") && table.contains("workflows.yaml"), "{table}");
    let mut command = env.command(["workflow", "run", "other", "--name", &env.name()]);
    assert_eq!(finish(command.current_dir(env.work().join("deep"))).text(), "/workflow");
}

#[test]
fn mistakes_are_told_with_their_place() {
    let Some(env) = app() else { return };
    for (text, words) in [
        (TRAIN.replace("commands:", "comands:"), &["workflows.yaml:5:5", "`comands`", "`commands`"][..]),
        (
            TRAIN.replace("image: app", "image: [app]"),
            &["workflows.yaml:4:12", "`image` must be an image reference, found a list"],
        ),
        (TRAIN.replace("    image: app\n", ""), &["workflows.yaml:2:11", "workflow `train` has no `image`", "hint: "]),
        (TRAIN.replace("image: app", "image: App/Up"), &["workflows.yaml:4:12", "App/Up"]),
        (TRAIN.replace("path: output", "path: ../x"), &["workflows.yaml:9:15", "../x"]),
        (
            TRAIN.replace("    image: app", "    image: app\n    cache: [output/x]"),
            &["workflows.yaml:5:13", "`output/x` and `output` on line 10", "hint: "],
        ),
        (
            TRAIN.replace("    image: app", "    image: app\n    deps: [{ workflow: trian }]"),
            &["workflows.yaml:5:24", "there is no workflow `trian` in this project"],
        ),
        (
            TRAIN.replace("    image: app", "    image: app\n    env: ['A=${{ secrets.NONE }}']"),
            &["workflows.yaml:5:14", "there is no secret `NONE`", "hint: "],
        ),
        (TRAIN.replace("workflows:", "workflow:"), &["workflows.yaml:1:1", "`workflow`", "`workflows`"]),
        (TRAIN.replace("image: app", "image: 'app"), &["workflows.yaml:"]),
        (TRAIN.replace("- echo", "- echo ${{ run.nmae }}; echo"), &["workflows.yaml:7:14", "did you mean `run.name`?"]),
    ] {
        write(&env, &text);
        env.run(["workflow", "run", "train"]).refused(125, words);
        env.assert_clean();
        assert!(crate::support::env::entries(&env.root().join("runs")).is_empty(), "{text}");
    }
    write(&env, TRAIN);
    env.run(["workflow", "run", "trian"]).refused(125, &["`trian`", "`train`"]);
    fs::remove_dir_all(env.work().join(".dstack")).unwrap();
    env.run(["workflow", "run", "train"]).refused(125, &[".dstack/workflows.yaml", "hint: "]);
}

#[test]
fn a_workflow_file_can_be_named() {
    let Some(env) = app() else { return };
    let file = env.write("elsewhere/my.yaml", TRAIN);
    let name = env.name();
    env.run(["workflow", "run", "train", "-f", &file, "--name", &name]).code(0);
    let listed = env.run(["artifacts", "ls", &name, "--format", "json"]).json();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    env.run(["workflow", "run", "train", "-f", "missing.yaml"]).refused(125, &["missing.yaml"]);
}

#[test]
fn an_artifact_never_written_is_a_warning() {
    let Some(env) = app() else { return };
    write(&env, "workflows: [{ name: w, image: app, artifacts: [out], commands: ['true'] }]");
    let (name, output) = run(&env, "w");
    assert!(output.code(0).stderr.contains("warning: nothing was written to the artifact `out`"));
    assert_eq!(env.run(["artifacts", "ls", &name, "--format", "json"]).json(), serde_json::json!([]));
}

/// What a workload wrote is taken as data: links are kept as links, and nothing behind them is read.
#[test]
fn links_in_artifacts_are_never_followed() {
    let Some(env) = app() else { return };
    let secret = env.write("secret", "secret of the host");
    write(
        &env,
        &format!(
            "workflows: [{{ name: w, image: app, artifacts: [out], commands: [\
             'ln -s {secret} out/link', 'ln -s / out/dir', mkfifo out/fifo, 'echo x > out/plain'] }}]"
        ),
    );
    let (name, output) = run(&env, "w");
    let output = output.code(0);
    assert!(output.stderr.contains("warning: left 1 special files out"), "{}", output.stderr);
    env.run(["artifacts", "cp", &name, "saved"]).code(0);
    let saved = env.work().join("saved/out");
    assert_eq!(fs::read_link(saved.join("link")).unwrap().to_str().unwrap(), secret);
    assert_eq!(fs::read_link(saved.join("dir")).unwrap().to_str().unwrap(), "/");
    assert!(!saved.join("fifo").exists());
}
