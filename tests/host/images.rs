//! Images in the store: listed, shown, removed together with what only they need.

use nix::sys::signal::Signal;

use crate::base::{app, app_with, base_image, empty};
use crate::support::image::{BuiltIndex, ImageBuilder};
use crate::support::registry::TestRegistry;

#[test]
fn images_are_listed() {
    let Some(env) = empty() else { return };
    let registry = TestRegistry::start();
    let image = base_image().label("who", "me").build();
    let reference = registry.push("team/app:1.0", &image).to_string();
    assert_eq!(env.run(["images", "--format", "json"]).json(), serde_json::json!([]));
    assert_eq!(env.run(["pull", &reference]).text(), image.digest().to_string());
    let list = env.run(["images", "--format", "json"]).json();
    let size: usize = image.layers.iter().map(|layer| layer.bytes.len()).sum();
    assert_eq!(list[0]["name"], reference);
    assert_eq!(list[0]["digest"], image.digest().to_string());
    assert_eq!(list[0]["platform"], "linux/amd64");
    assert_eq!(list[0]["size_bytes"], size);
    let table = env.run(["images"]).text();
    assert!(
        table.starts_with("NAME ") && table.contains(&reference) && table.contains(image.digest().short()),
        "{table}"
    );
    let shown = env.run(["inspect", &reference]).json();
    assert_eq!(shown[0]["config"]["config"]["Labels"]["who"], "me");
    assert_eq!(shown[0]["unpacked"].as_array().unwrap().len(), image.layers.len());
    env.assert_clean();
}

#[test]
fn an_image_of_an_index_is_shown_and_kept_like_any_other() {
    let Some(env) = empty() else { return };
    let registry = TestRegistry::start();
    let image = base_image().build();
    let reference = registry.push_index("app:1", &BuiltIndex::of([image.clone()])).to_string();
    env.run(["pull", &reference]).code(0);
    let line = &env.run(["images", "--format", "json"]).json()[0];
    let size: usize = image.layers.iter().map(|layer| layer.bytes.len()).sum();
    assert_eq!((line["platform"].as_str(), line["size_bytes"].as_u64()), (Some("linux/amd64"), Some(size as u64)));
    let shown = env.run(["inspect", &reference]).json();
    assert_eq!(shown[0]["manifest_digest"], image.digest().to_string());
    assert!(shown[0]["index"].is_object() && shown[0]["config"].is_object() && shown[0]["unpacked"].is_array());
    let script = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done";
    let run = env.spawn(["run", "--rm", &reference, "sh", "-c", script]);
    run.wait_for("ready");
    env.run(["rmi", &reference]).refused(125, &["is used by run"]);
    run.signal(Signal::SIGTERM);
    run.finish().code(0);
    env.run(["rmi", &reference]).code(0);
    env.assert_nothing_stored();
    env.assert_clean();
}

#[test]
fn rmi_frees_what_nobody_else_needs() {
    let Some(env) = empty() else { return };
    let registry = TestRegistry::start();
    let [one, two] = ["one", "two"].map(|name| base_image().file(name, name).build());
    let names = [registry.push("one:1", &one), registry.push("two:1", &two)].map(|name| name.to_string());
    for name in &names {
        env.run(["pull", "-q", name]).code(0);
    }
    // Two layers in common, a layer, a configuration and a manifest each.
    assert_eq!(env.stored().len(), (2 + 3 + 3) + (2 + 1 + 1));
    env.run(["rmi", &names[0], "typo"]).refused(125, &["no image `typo`", "hint: "]);
    assert_eq!(env.run(["rmi", &names[0]]).text(), names[0]);
    assert_eq!(env.stored().len(), (2 + 3) + (2 + 1));
    env.container(&["--pull", "never", &names[1], "cat", "/two"]).code(0);
    // By the first digits of its digest.
    env.run(["rmi", two.digest().short()]).code(0);
    env.assert_clean();
    env.assert_nothing_stored();
}

#[test]
fn an_image_that_runs_is_not_removed() {
    let Some(env) = app() else { return };
    let name = env.name();
    let script = "trap 'exit 0' TERM; echo ready; while :; do usleep 20000; done";
    let running = env.spawn(["run", "--name", &name, "app", "sh", "-c", script]);
    running.wait_for("ready");
    env.run(["rmi", "app"]).refused(125, &[&format!("image `app` is used by run `{name}`"), "hint: "]);
    running.signal(Signal::SIGTERM);
    running.finish().code(0);
    env.run(["rmi", "app"]).code(0);
    assert!(env.stored().is_empty(), "{:?}", env.stored());
    // The record of the run does not need it.
    assert_eq!(env.run(["ps", "-a", "--format", "json"]).json()[0]["name"], name);
    env.assert_clean();
}

/// Layers of a running container stay even when another tool took the name away.
#[test]
fn layers_of_a_run_stay_while_it_goes_on() {
    let Some(env) = app_with(|image| image.file("late", "still here")) else { return };
    env.store_image("other", &base_image().file("x", "x").build());
    let script = "trap 'cat /late; exit 0' TERM; echo ready; while :; do usleep 20000; done";
    let running = env.spawn(["run", "--rm", "--name", &env.name(), "app", "sh", "-c", script]);
    running.wait_for("ready");
    let index = env.root().join("index.json");
    let text = std::fs::read_to_string(&index).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["manifests"].as_array_mut().unwrap().remove(0);
    std::fs::write(&index, json.to_string()).unwrap();
    env.run(["rmi", "other"]).code(0);
    running.signal(Signal::SIGTERM);
    assert_eq!(running.finish().text(), "ready\nstill here");
}

#[test]
fn a_moved_tag_is_fetched_when_asked_for() {
    let Some(env) = empty() else { return };
    let registry = TestRegistry::start();
    let image = |text: &str| -> crate::support::image::BuiltImage { base_image().file("version", text).build() };
    let reference = registry.push("app:latest", &image("old")).to_string();
    let version = |pull: &str| env.container(&["-q", "--pull", pull, &reference, "cat", "/version"]).text();
    assert_eq!(version("missing"), "old");
    registry.push("app:latest", &image("new"));
    assert_eq!([version("missing"), version("never")], ["old", "old"]);
    assert_eq!(version("always"), "new");
    assert_eq!(version("never"), "new");
}

#[test]
fn the_image_for_this_platform_is_chosen() {
    let Some(env) = empty() else { return };
    let registry = TestRegistry::start();
    let image = |platform: &str| base_image().platform(platform).file("platform", platform).build();
    let index = crate::support::image::BuiltIndex::of([image("linux/arm64"), image("linux/amd64")]);
    let reference = registry.push_index("app:1", &index).to_string();
    assert_eq!(env.container(&["-q", &reference, "cat", "/platform"]).text(), "linux/amd64");
    // By itself, as busybox of this machine runs whatever the image says.
    let other = env.container(&["-q", "--platform", "linux/arm64", &reference, "cat", "/platform"]);
    assert_eq!(other.text(), "linux/arm64");
    env.assert_clean();
}

/// A layer without any entry, and an image of one layer without any directory for mounts.
#[test]
fn an_image_with_hardly_anything_in_it_runs() {
    let Some(env) = empty() else { return };
    let busybox = std::fs::read("/bin/busybox").unwrap();
    env.store_image("tiny", &ImageBuilder::new().program("sh", busybox).layer().entrypoint(["/sh"]).build());
    let output = env.container(&["tiny", "-c", "echo $$ $PWD; test -e /proc/self/exe && test -c /dev/null && echo ok"]);
    assert_eq!(output.text(), "1 /\nok");
    env.assert_clean();
}
