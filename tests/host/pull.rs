//! Pulls under strain: many at once, a disk that is full.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::base::{base_image, empty, noise};
use crate::support::env::{Output, Running, TestEnv, finish, program, wait_until};
use crate::support::image::BuiltImage;
use crate::support::registry::TestRegistry;

#[test]
fn two_hundred_runs_and_pulls_at_once_fetch_each_blob_once() {
    let Some(env) = empty() else { return };
    let registry = TestRegistry::start();
    let image = base_image().file("hello", "hello").build();
    let reference = registry.push("app:1", &image).to_string();
    let (mut runs, mut pulls) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        runs.push(env.spawn(["run", "-q", "--rm", "--name", &env.name(), &reference, "cat", "/hello"]));
        pulls.push(env.spawn(["pull", "-q", &reference]));
    }
    for run in runs {
        assert_eq!(run.finish().text(), "hello");
    }
    for pull in pulls {
        pull.finish().code(0);
    }
    for layer in &image.layers {
        let fetched = registry.requests_for(&format!("/blobs/{}", layer.digest)).len();
        assert_eq!(fetched, 1, "{}", layer.digest);
    }
    env.assert_clean();
    assert_eq!(env.run(["images", "--format", "json"]).json().as_array().unwrap().len(), 1);
}

/// Whatever is done to one store at once, each command does what it is to do, and nothing is left of them.
#[test]
fn every_command_at_once() {
    let Some(env) = empty() else { return };
    let registry = TestRegistry::start();
    let references = ["a:1", "b:1"].map(|name| {
        let image = base_image().file("hello", "hello").layer().whiteout("home").file("name", name).build();
        registry.push(name, &image).to_string()
    });
    base_image().file("hello", "hello").build().write_layout(&env.work().join("layout"), "c");
    let [a, b] = &references;
    let run = |image| ["run", "-q", "--rm", image, "cat", "/hello"].to_vec();
    let commands = [
        run(a),
        run(b),
        run("oci:layout:c"),
        vec!["pull", "-q", a],
        vec!["rmi", "-f", a],
        vec!["prune", "images", "--all", "-f"],
        vec!["check", "-q", "--repair"],
        vec!["system", "df"],
        vec!["images"],
    ];
    let until = Instant::now() + Duration::from_secs(4);
    std::thread::scope(|scope| {
        for command in &commands {
            let env = &env;
            scope.spawn(move || {
                while Instant::now() < until {
                    let output = env.run(command).code(0);
                    assert!(command[0] != "run" || output.stdout == "hello", "{output:?}");
                }
            });
        }
    });
    env.run(["check"]).code(0);
    env.run(["rmi", "-f", "--all"]).code(0);
    env.assert_nothing_stored();
    env.assert_clean();
}

/// A download that stops where most of it has come.
struct Stalled {
    env: TestEnv,
    registry: TestRegistry,
    reference: String,
    /// Of the layer, in the registry.
    path: String,
    /// What has come of it.
    partial: PathBuf,
}

impl Stalled {
    const BYTES: u64 = 5 << 20;

    fn new() -> Option<Self> {
        let (env, registry) = (empty()?, TestRegistry::start());
        let image = base_image().file("noise", noise(8 << 20)).build();
        let reference = registry.push("app:1", &image).to_string();
        let layer = &image.layers.last().unwrap().digest;
        let partial = env.root().join("tmp").join(format!("sha256-{}.partial", layer.hex()));
        Some(Self { env, registry, reference, path: format!("/blobs/{layer}"), partial })
    }

    /// A pull that has come so far.
    fn pull(&self) -> Running {
        self.registry.when(&self.path).times(1).stall_after(Self::BYTES);
        let pull = self.env.spawn(["pull", &self.reference]);
        let arrived = || std::fs::metadata(&self.partial).map_or(0, |metadata| metadata.len());
        assert!(wait_until(|| arrived() == Self::BYTES), "{} bytes", arrived());
        pull
    }

    fn killed_pull(&self) {
        let pull = self.pull();
        pull.signal(Signal::SIGKILL);
        pull.finish();
    }

    /// What was asked for so far.
    fn ranges(&self) -> Vec<String> {
        let seen = self.registry.requests_for(&self.path).into_iter();
        seen.map(|seen| seen.header("range").unwrap_or("none").to_owned()).collect()
    }

    fn rest() -> String {
        format!("bytes={}-", Self::BYTES)
    }
}

/// Whoever waited goes on from the bytes that are there.
#[test]
fn a_killed_pull_is_taken_over_in_the_middle() {
    let Some(stalled) = Stalled::new() else { return };
    let first = stalled.pull();
    let env = &stalled.env;
    let second = env.spawn(["run", "--rm", "--name", &env.name(), &stalled.reference, "true"]);
    second.wait_for_stderr(&format!("process {}", first.pid()));
    first.signal(Signal::SIGKILL);
    second.finish().code(0);
    assert_eq!(stalled.ranges(), ["bytes=0-".to_owned(), Stalled::rest()]);
    first.finish();
    env.assert_clean();
}

#[test]
fn a_broken_download_is_gone_on_with_by_the_next_command() {
    let Some(stalled) = Stalled::new() else { return };
    let (env, reference) = (&stalled.env, &stalled.reference);
    stalled.killed_pull();
    env.run(["ps"]).code(0);
    env.run(["run", "--rm", "--name", &env.name(), reference, "true"]).code(0);
    assert_eq!(stalled.ranges(), ["bytes=0-".to_owned(), Stalled::rest()]);
    env.assert_clean();
}

/// A power cut can leave anything there.
#[test]
fn a_broken_download_that_is_spoiled_is_fetched_anew() {
    let Some(stalled) = Stalled::new() else { return };
    let env = &stalled.env;
    stalled.killed_pull();
    let file = std::fs::OpenOptions::new().write(true).open(&stalled.partial).unwrap();
    file.write_all_at(&[0; 4096], 1 << 20).unwrap();
    env.run(["run", "--rm", "--name", &env.name(), &stalled.reference, "true"]).code(0);
    assert_eq!(stalled.ranges(), ["bytes=0-".to_owned(), Stalled::rest(), "none".to_owned()]);
    env.assert_clean();
}

#[test]
fn a_broken_download_is_pruned() {
    let Some(stalled) = Stalled::new() else { return };
    stalled.killed_pull();
    let output = stalled.env.run(["prune", "images", "-f"]).code(0);
    assert!(!stalled.partial.exists() && output.stderr.contains(" MiB"), "{}", output.stderr);
    stalled.env.assert_clean();
}

/// Pulls with a store of `size` on a tmpfs that nobody else sees. Standard output lists what is in it afterwards.
fn pull_into(size: &str, env: &TestEnv, image: &BuiltImage) -> Output {
    let registry = TestRegistry::start();
    let reference = registry.push("app:1", image).to_string();
    std::fs::create_dir(env.root()).unwrap();
    let script = "
        root=$1 size=$2; shift 2
        mount -t tmpfs -o size=$size none $root || exit 99
        \"$@\" >/dev/null; code=$?
        find $root -type f ! -path '*/locks/*' ! -name oci-layout ! -name store.json ! -name reserve | sort
        exit $code";
    let command = env.command(["pull", "-q", &reference]);
    let mut unshare = program("unshare", ["-m", "sh", "-c", script, "sh"]);
    unshare.arg(env.root()).arg(size).arg(command.get_program()).args(command.get_args());
    finish(&mut unshare)
}

#[test]
fn an_image_larger_than_the_disk_is_not_even_begun() {
    let Some(env) = empty() else { return };
    let output = pull_into("8m", &env, &base_image().file("noise", noise(12 << 20)).build());
    let output = output.refused(125, &["not enough space in", "MiB needed", "free\nhint: "]);
    assert_eq!(output.stdout, "");
    env.assert_clean();
}

#[test]
fn a_disk_that_fills_up_while_unpacking_is_told() {
    let Some(env) = empty() else { return };
    let zeros = vec![0; 64 << 20];
    let output = pull_into("24m", &env, &base_image().file("zeros", zeros).build());
    let output = output.refused(125, &["No space left on device", "hint: "]);
    // Whole blobs may stay for the next attempt; nothing half-made, and no name for what is not there.
    let left: Vec<&str> = output.stdout.lines().filter(|path| !path.contains("/blobs/")).collect();
    assert!(left.iter().all(|path| path.contains("/layers/") && !path.contains("zeros")), "{left:?}");
    env.assert_clean();
}
