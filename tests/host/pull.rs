//! Pulls under strain: many at once, a disk that is full.

use crate::base::{base_image, empty};
use crate::support::env::{Output, TestEnv, finish, program};
use crate::support::image::BuiltImage;
use crate::support::registry::TestRegistry;

#[test]
fn twenty_runs_at_once_fetch_each_blob_once() {
    let Some(env) = empty() else { return };
    let registry = TestRegistry::start();
    let image = base_image().file("hello", "hello").build();
    let reference = registry.push("app:1", &image).to_string();
    let runs: Vec<_> =
        (0..20).map(|_| env.spawn(["run", "-q", "--rm", "--name", &env.name(), &reference, "cat", "/hello"])).collect();
    for run in runs {
        assert_eq!(run.finish().text(), "hello");
    }
    for layer in &image.layers {
        let fetched = registry.requests_for(&format!("/blobs/{}", layer.digest)).len();
        assert_eq!(fetched, 1, "{}", layer.digest);
    }
    env.assert_clean();
    assert_eq!(env.run(["images", "--format", "json"]).json().as_array().unwrap().len(), 1);
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
        find $root -type f ! -path '*/locks/*' ! -name oci-layout | sort
        exit $code";
    let command = env.command(["pull", "-q", &reference]);
    let mut unshare = program("unshare", ["-m", "sh", "-c", script, "sh"]);
    unshare.arg(env.root()).arg(size).arg(command.get_program()).args(command.get_args());
    finish(&mut unshare)
}

#[test]
fn an_image_larger_than_the_disk_is_not_even_begun() {
    let Some(env) = empty() else { return };
    // Does not shrink when it is packed.
    let mut state = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    })
    .take(12 << 20)
    .collect();
    let output = pull_into("8m", &env, &base_image().file("noise", noise).build());
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
