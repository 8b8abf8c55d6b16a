//! Runs whose artifacts go to a bucket of a real S3 server, or to another directory.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use crate::base::app;
use crate::support::env::{Output, Running, TestEnv, finish, program, wait_until};
use crate::support::s3::{BUCKET, Line, S3Server};

const WORKFLOWS: &str = "\
workflows:
  - name: train
    image: app
    artifacts: [out]
    commands: [echo model > out/model, ln -s /etc/passwd out/link]
  - name: live
    image: app
    artifacts: [{ path: log, mount: true }, late]
    commands:
      - echo one > log/one; echo late > late/x; echo ready
      - while ! test -e stop; do usleep 20000; done
      - echo two > log/two
  - name: use
    image: app
    deps: [{ workflow: train }]
    commands: [cat out/model, '! touch out/new 2>/dev/null']
";

struct Place {
    env: TestEnv,
    server: S3Server,
    address: String,
}

impl Place {
    fn new() -> Option<Self> {
        let (env, server) = (app()?, S3Server::start()?);
        env.write(".dstack/workflows.yaml", WORKFLOWS);
        let address = server.address().to_owned();
        Some(Self { env, server, address })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.env.command(arguments);
        command.envs(S3Server::variables(&self.address));
        command.env("DOCKLESS_ARTIFACT_STORE", format!("s3://{BUCKET}/project"));
        command
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> Output {
        finish(&mut self.command(arguments))
    }

    fn spawn(&self, arguments: &[&str]) -> Running {
        Running::start(&mut self.command(arguments))
    }

    fn object(&self, key: &str) -> PathBuf {
        self.server.object(&format!("project/{key}"))
    }
}

#[test]
fn a_workflow_saves_to_a_bucket_and_another_one_reads_it() {
    let Some(place) = Place::new() else { return };
    let name = place.env.name();
    let output = place.run(&["workflow", "run", "train", "--name", &name, "-t", "v1"]).code(0);
    assert!(output.stderr.contains("saved artifacts: 2 files"), "{}", output.stderr);
    assert!(place.object(&format!("{name}/manifest.json")).exists());
    assert!(!place.env.root().join("artifacts").join(&name).exists(), "nothing is kept twice");
    assert!(!place.env.root().join("runs").join(&name).join("artifacts").exists());
    assert_eq!(place.env.record(&name)["artifact_store"], format!("s3://{BUCKET}/project"));

    let listed = place.run(&["artifacts", "ls", ":v1", "--format", "json"]).json();
    assert_eq!((&listed[0]["path"], &listed[1]["path"]), (&"out/link".into(), &"out/model".into()));
    place.run(&["artifacts", "cp", &name, "saved"]).code(0);
    assert_eq!(fs::read_to_string(place.env.work().join("saved/out/model")).unwrap(), "model\n");
    assert_eq!(fs::read_link(place.env.work().join("saved/out/link")).unwrap().to_str(), Some("/etc/passwd"));

    assert_eq!(place.run(&["workflow", "run", "use"]).text(), "model");
    place.run(&["artifacts", "rm", &name]).code(0);
    assert!(!place.object(&format!("{name}/manifest.json")).exists());
    place.run(&["artifacts", "ls", &name]).refused(125, &[&name]);
    place.env.assert_clean();
}

/// A run of another machine: there is no record of it here.
#[test]
fn the_artifacts_of_another_machine_can_be_had() {
    let Some(place) = Place::new() else { return };
    let name = place.env.name();
    place.run(&["workflow", "run", "train", "--name", &name]).code(0);
    let other = TestEnv::new();
    let mut command = other.command(["artifacts", "cp", &name, "saved"]);
    command.envs(S3Server::variables(&place.address)).env("DOCKLESS_ARTIFACT_STORE", format!("s3://{BUCKET}/project"));
    finish(&mut command).code(0);
    assert_eq!(fs::read_to_string(other.work().join("saved/out/model")).unwrap(), "model\n");
    let mut command = other.command(["artifacts", "ls", &name]);
    finish(&mut command).refused(125, &[&name]);
}

#[test]
fn files_are_in_the_bucket_within_five_seconds() {
    let Some(place) = Place::new() else { return };
    let name = place.env.name();
    let run = place.spawn(&["workflow", "run", "live", "--name", &name]);
    run.wait_for("ready");
    let start = Instant::now();
    let listed = || place.run(&["artifacts", "ls", &name]).stdout;
    assert!(wait_until(|| listed().contains("log/one")));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(!listed().contains("late/x"), "what is not in real time is saved at the end");
    place.env.write("stop", "");
    run.finish().code(0);
    let listed = listed();
    assert!(["log/one", "log/two", "late/x"].iter().all(|path| listed.contains(path)), "{listed}");
    place.env.assert_clean();
}

#[test]
fn a_bucket_that_is_away_loses_nothing() {
    let Some(mut place) = Place::new() else { return };
    let line = Line::to(place.server.address());
    line.address().clone_into(&mut place.address);
    let name = place.env.name();
    let run = place.spawn(&["workflow", "run", "live", "--name", &name]);
    run.wait_for("ready");
    let supervisor = run.supervisor();
    line.cut_after(0);
    // Sooner than the minute that a save has: what the supervisor leaves is what counts.
    place.env.write("stop", "");
    assert!(wait_until(|| place.env.record(&name)["state"] == "saving"));
    kill(supervisor, Signal::SIGKILL).unwrap();
    let output = run.finish();
    assert!(output.stderr.contains(&format!("dockless artifacts save {name}")), "{}", output.stderr);
    assert!(place.env.root().join("runs").join(&name).join("artifacts/files/log/two").exists());
    line.mend();
    let saved = place.run(&["artifacts", "save", &name]).code(0);
    assert!(saved.stderr.contains("saved artifacts: 3 files"), "{}", saved.stderr);
    assert!(place.object(&format!("{name}/manifest.json")).exists());
    place.run(&["artifacts", "save", &name]).refused(125, &["nothing unsaved"]);
    place.env.assert_clean();
}

#[test]
fn a_bad_bucket_is_told_before_anything_runs() {
    let Some(place) = Place::new() else { return };
    let command = || place.command(&["workflow", "run", "train"]);
    let refused = |command: &mut Command, words: &[&str]| {
        finish(command).refused(125, words);
        assert_eq!(place.env.run(["ps", "-a", "-q"]).text(), "");
        place.env.assert_clean();
    };
    refused(command().env("AWS_SECRET_ACCESS_KEY", "wrong"), &["bucket", "hint: "]);
    refused(command().env_remove("AWS_ACCESS_KEY_ID"), &["AWS_ACCESS_KEY_ID"]);
    refused(command().arg("--artifact-store=s3://no-such-bucket/x"), &["no-such-bucket"]);
    refused(command().arg("--artifact-store=ftp://x/y"), &["`ftp`", "s3://"]);
}

#[test]
fn an_aborted_run_stops_uploading() {
    let Some(place) = Place::new() else { return };
    let name = place.env.name();
    let run = place.spawn(&["workflow", "run", "live", "--name", &name]);
    run.wait_for("ready");
    sleep(Duration::from_millis(500));
    place.run(&["stop", "--abort", &name]).code(0);
    let output = run.finish().code(137);
    assert!(output.stderr.contains("artifacts rm"), "{}", output.stderr);
    assert!(!place.object(&format!("{name}/manifest.json")).exists());
    assert!(!place.env.root().join("runs").join(&name).join("artifacts").exists());
    place.env.assert_clean();
}

#[test]
fn another_directory_keeps_artifacts_too() {
    let Some(env) = app() else { return };
    env.write(".dstack/workflows.yaml", WORKFLOWS);
    let name = env.name();
    env.run(["workflow", "run", "train", "--name", &name, "--artifact-store", "elsewhere"]).code(0);
    assert!(env.work().join("elsewhere").join(&name).join("saved/files/out/model").exists());
    env.run(["artifacts", "cp", &name, "saved"]).code(0);
    assert_eq!(fs::read_to_string(env.work().join("saved/out/model")).unwrap(), "model\n");
    assert_eq!(env.run(["workflow", "run", "use"]).text(), "model");
    env.run(["rm", &name]).code(0);
    assert!(!env.work().join("elsewhere").join(&name).exists());
    env.assert_clean();
}

#[test]
fn no_key_is_written_anywhere() {
    let Some(place) = Place::new() else { return };
    let name = place.env.name();
    place.run(&["workflow", "run", "train", "--name", &name]).code(0);
    let found = finish(program("grep", ["-r", "-l", crate::support::s3::SECRET_KEY]).arg(place.env.root()));
    assert_eq!((found.code, found.stdout.as_str()), (1, ""));
}
