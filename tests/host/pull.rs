//! Pulls under strain: many at once, a disk that is full.

use crate::base::{base_image, empty, noise};
use crate::support::env::{Output, TestEnv, finish, program, wait_until};
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

/// Whoever waited goes on from the bytes that are there.
#[test]
fn a_killed_pull_is_taken_over_in_the_middle() {
    let Some(env) = empty() else { return };
    let registry = TestRegistry::start();
    let image = base_image().file("noise", noise(8 << 20)).build();
    let reference = registry.push("app:1", &image).to_string();
    let layer = image.layers.last().unwrap();
    let path = format!("/blobs/{}", layer.digest);
    registry.when(&path).times(1).stall_after(5 << 20);
    let first = env.spawn(["pull", &reference]);
    let partial = env.root().join("tmp").join(format!("sha256-{}.partial", layer.digest.hex()));
    let arrived = || std::fs::metadata(&partial).map_or(0, |metadata| metadata.len());
    assert!(wait_until(|| arrived() == 5 << 20), "{} bytes", arrived());

    let second = env.spawn(["run", "--rm", "--name", &env.name(), &reference, "true"]);
    let holder = first.pid();
    second.wait_for_stderr(&format!("process {holder}"));
    first.signal(nix::sys::signal::Signal::SIGKILL);
    second.finish().code(0);
    let ranges: Vec<_> =
        registry.requests_for(&path).iter().map(|seen| seen.header("range").unwrap_or_default().to_owned()).collect();
    assert_eq!(ranges, ["bytes=0-", &format!("bytes={}-", 5 << 20)]);
    first.finish();
    env.assert_clean();
}

/// Hours later, in another process, as if the machine had been switched off: what a power cut spoiled is fetched anew.
#[test]
fn a_broken_download_is_gone_on_with_by_the_next_command() {
    let Some(env) = empty() else { return };
    let registry = TestRegistry::start();
    let image = base_image().file("noise", noise(8 << 20)).build();
    let reference = registry.push("app:1", &image).to_string();
    let layer = image.layers.last().unwrap();
    let path = format!("/blobs/{}", layer.digest);
    let partial = env.root().join("tmp").join(format!("sha256-{}.partial", layer.digest.hex()));
    for is_spoiled in [false, true] {
        registry.when(&path).times(1).stall_after(5 << 20);
        let before = registry.requests_for(&path).len();
        let pull = env.spawn(["pull", &reference]);
        assert!(wait_until(|| std::fs::metadata(&partial).is_ok_and(|metadata| metadata.len() == 5 << 20)));
        pull.signal(nix::sys::signal::Signal::SIGKILL);
        pull.finish();
        if is_spoiled {
            let file = std::fs::OpenOptions::new().write(true).open(&partial).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &[0; 4096], 1 << 20).unwrap();
        }
        env.run(["ps"]).code(0);
        env.run(["pull", &reference]).code(0);
        let requests = registry.requests_for(&path);
        let ranges: Vec<_> = requests[before..].iter().map(|seen| seen.header("range").unwrap_or("none")).collect();
        let rest = format!("bytes={}-", 5 << 20);
        let expected = if is_spoiled { vec!["bytes=0-", &rest, "none"] } else { vec!["bytes=0-", &rest] };
        assert_eq!(ranges, expected, "spoiled: {is_spoiled}");
        env.run(["run", "--rm", "--name", &env.name(), &reference, "true"]).code(0);
        env.assert_clean();
        env.run(["rmi", &reference]).code(0);
    }
    registry.when(&path).times(1).stall_after(5 << 20);
    let pull = env.spawn(["pull", &reference]);
    assert!(wait_until(|| std::fs::metadata(&partial).is_ok_and(|metadata| metadata.len() == 5 << 20)));
    pull.signal(nix::sys::signal::Signal::SIGKILL);
    pull.finish();
    let output = env.run(["prune", "images", "-f"]).code(0);
    assert!(!partial.exists() && output.stderr.contains(" MiB"), "{}", output.stderr);
    env.assert_clean();
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
