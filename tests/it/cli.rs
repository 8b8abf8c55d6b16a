//! Bad input and bad registries, through the whole program: the message, the exit code, and that nothing stays.
//!
//! The snapshots hold every message in full; what differs from run to run is replaced by a word in brackets.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::support::env::{BINARY, Output, TestEnv, finish, have, have_root, make_executable, program};
use crate::support::image::{BuiltImage, BuiltIndex, ImageBuilder};
use crate::support::registry::{TestRegistry, base64};

/// Compares a text with `snapshots/it__cli__NAME.snap`.
#[track_caller]
fn assert_snapshot(name: &str, env: &TestEnv, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_omit_expression(true);
    settings.set_prepend_module_to_snapshot(true);
    settings.add_filter(&regex_of(env.dir()), "[DIR]");
    settings.add_filter(r"127\.0\.0\.1:\d+", "[REGISTRY]");
    settings.add_filter(r"sha256:[0-9a-f]{64}", "[DIGEST]");
    settings.add_filter(r"broke off at \d+ of \d+ bytes", "broke off at [N] of [N] bytes");
    settings.add_filter(r"this machine has \d+", "this machine has [CPUS]");
    settings.add_filter(r"0\.01 to \d+\.00", "0.01 to [CPUS].00");
    settings.bind(|| insta::assert_snapshot!(name, text));
}

fn regex_of(path: &Path) -> String {
    path.to_str().expect("a path in UTF-8").replace('.', r"\.")
}

/// The command and what came of it.
fn told(words: &[&str], output: &Output) -> String {
    let stdout = if output.stdout.is_empty() { String::new() } else { format!("stdout: {}", output.stdout) };
    format!("$ dockless {}\n{stdout}{}exit code {}\n\n", words.join(" "), output.stderr, output.code)
}

/// Runs each line of words, which must be refused with 125 and one message; all of that in one snapshot.
#[track_caller]
fn assert_refused(name: &str, env: &TestEnv, lines: &[&[&str]]) {
    let mut text = String::new();
    for words in lines {
        let output = env.run(*words);
        assert_eq!(output.code, 125, "{words:?}: {output:?}");
        assert!(output.stdout.is_empty(), "errors are no data: {output:?}");
        text.push_str(&told(words, &output));
        if env.root().exists() {
            env.assert_clean();
        }
    }
    assert_snapshot(name, env, &text);
}

#[test]
fn help() {
    let env = TestEnv::new();
    for (name, words) in [
        ("help", &["--help"][..]),
        ("help_of_run", &["run", "--help"]),
        ("help_of_rmi", &["rmi", "--help"]),
        ("help_of_prune_images", &["prune", "images", "--help"]),
        ("help_of_system_prune", &["system", "prune", "--help"]),
        ("help_of_system_df", &["system", "df", "--help"]),
    ] {
        let text = env.run(words).text();
        assert_snapshot(name, &env, &text);
    }
    assert!(env.run(["--version"]).text().starts_with("dockless "));
    assert!(!env.root().exists(), "help needs no store");
}

#[test]
fn usage_errors() {
    let env = TestEnv::new();
    let lines: [&[&str]; 9] = [
        &["fly"],
        &["run"],
        &["run", "--naem", "x", "app"],
        &["run", "--pull", "often", "app"],
        &["run", "--rm", "--keep", "app"],
        &["pull"],
        &["pull", "one", "two"],
        &["ps", "--format", "xml"],
        &["workflow", "start", "x"],
    ];
    assert_refused("usage_errors", &env, &lines);
    let nothing = env.run([""; 0]);
    assert!(nothing.code == 125 && nothing.stderr.contains("Usage: dockless"), "{nothing:?}");
    assert!(!env.root().exists(), "a typing error needs no store");
}

/// Found before the store is opened or anything is fetched.
#[test]
fn bad_values() {
    let env = TestEnv::new();
    let lines: [&[&str]; 22] = [
        &["run", "Upper/Case"],
        &["run", "https://example.org/app"],
        &["run", "app@sha256:123"],
        &["run", "app:bad tag"],
        &["run", ""],
        &["run", "--memory", "1", "app"],
        &["run", "--memory", "lots", "app"],
        &["run", "--memory", "-5m", "app"],
        &["run", "--cpus", "0", "app"],
        &["run", "--cpus", "many", "app"],
        &["run", "--cpus", "0.001", "app"],
        &["run", "--shm-size", "x", "app"],
        &["run", "-v", "/only", "app"],
        &["run", "-v", "/a:relative", "app"],
        &["run", "-v", "/a:/b:rx", "app"],
        &["run", "-v", "/a:/", "app"],
        &["run", "--mount", "type=volume,target=/x", "app"],
        &["run", "--mount", "type=bind,source=/x", "app"],
        &["run", "--tmpfs", "x", "app"],
        &["run", "--network", "macvlan", "app"],
        &["run", "--hostname", "a_b!", "app"],
        &["run", "--platform", "linux", "app"],
    ];
    assert_refused("bad_values", &env, &lines);
    assert!(!env.root().exists(), "nothing was opened");
}

#[test]
fn without_a_project() {
    let env = TestEnv::new();
    assert_refused("without_a_project", &env, &[&["workflow", "run", "train"], &["workflow", "list"]]);
}

#[test]
fn secrets_tags_and_pruning() {
    if !have_root() {
        return;
    }
    let env = TestEnv::new();
    let lines: [&[&str]; 16] = [
        &["secrets", "add", "TOKEN", "hunter2"],
        &["secrets", "add", "TOKEN=hunter2"],
        &["secrets", "add", "1"],
        &["secrets", "add", "TOKEN"],
        &["secrets", "add", "TOKEN", "--env", "UNSET"],
        &["secrets", "delete", "TOKEN"],
        &["tags", "add", "a/b", "run"],
        &["tags", "add", "best", "run"],
        &["tags", "add", "best", ":other"],
        &["tags", "delete", "best"],
        &["artifacts", "ls", ":best"],
        &["artifacts", "rm", "nobody"],
        &["artifacts", "save", "nobody"],
        &["rm", ":best"],
        &["prune", "runs", "--older-than", "soon"],
        &["prune"],
    ];
    assert_refused("secrets_tags_and_pruning", &env, &lines);
}

#[test]
fn what_is_not_there() {
    if !have_root() {
        return;
    }
    let env = TestEnv::new();
    let lines: [&[&str]; 7] = [
        &["logs", "nobody"],
        &["rm", "nobody"],
        &["inspect", "nobody"],
        &["rmi", "nothing"],
        &["artifacts", "ls", "nobody"],
        &["artifacts", "cp", "nobody", "to"],
        &["run", "--pull", "never", "app"],
    ];
    assert_refused("what_is_not_there", &env, &lines);
    env.assert_nothing_stored();
}

#[test]
fn not_root() {
    if !have_root() || !have(&["setpriv"]) {
        return;
    }
    let env = TestEnv::new();
    // Wherever the build is, nobody must be able to execute it.
    let dir = tempfile::tempdir().expect("a directory");
    make_executable(dir.path());
    let binary = dir.path().join("dockless");
    fs::copy(BINARY, &binary).expect("a copy of the program");
    make_executable(&binary);
    let mut command = program("setpriv", ["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.arg(&binary).arg("--root").arg(dir.path().join("root")).args(["run", "app", "true"]);
    let output = finish(command.env("HOME", "/nonexistent"));
    assert_eq!((output.code, output.stdout.as_str()), (125, ""));
    assert_snapshot("not_root", &env, &output.stderr);
    assert!(!dir.path().join("root").exists());
}

fn image() -> BuiltImage {
    ImageBuilder::new().dir("bin").program("bin/app", "#!/no\n".repeat(20_000)).cmd(["/bin/app"]).build()
}

/// Pulls `name` of the registry, which must be refused with 125, one message and its hint, and leave nothing.
#[track_caller]
fn assert_pull_fails(name: &str, env: &TestEnv, registry: &TestRegistry, words: &[&str], image: &str) {
    let reference = format!("{}/{image}", registry.host());
    let words = [&["pull", "-q"], words, &[&reference]].concat();
    let output = env.run(&words).refused(125, &["\nhint: "]);
    assert_snapshot(name, env, &told(&words, &output));
    env.assert_clean();
    env.assert_nothing_stored();
}

/// A place for a test and a registry with the image `app:1`.
fn with_registry() -> Option<(TestEnv, TestRegistry)> {
    let registry = TestRegistry::start();
    registry.push("app:1", &image());
    have_root().then(|| (TestEnv::new(), registry))
}

#[test]
fn unknown_tag() {
    let Some((env, registry)) = with_registry() else { return };
    assert_pull_fails("unknown_tag", &env, &registry, &[], "app:2");
}

#[test]
fn unknown_image() {
    let Some((env, registry)) = with_registry() else { return };
    assert_pull_fails("unknown_image", &env, &registry, &[], "nothing:1");
}

#[test]
fn unknown_platform() {
    let Some((env, registry)) = with_registry() else { return };
    let index =
        BuiltIndex::of(["linux/arm64", "linux/s390x"].map(|platform| ImageBuilder::new().platform(platform).build()));
    registry.push_index("multi:1", &index);
    assert_pull_fails("unknown_platform", &env, &registry, &[], "multi:1");
    assert_pull_fails("another_platform", &env, &registry, &["--platform", "linux/ppc64le"], "app:1");
}

#[test]
fn registry_down() {
    let Some((env, registry)) = with_registry() else { return };
    let host = registry.host();
    drop(registry);
    // The listener goes when its thread has seen the end.
    assert!(crate::support::env::wait_until(|| std::net::TcpStream::connect(&host).is_err()));
    let words = ["run", &format!("{host}/app:1"), "true"].map(str::to_owned);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    assert_refused("registry_down", &env, &[&words]);
    env.assert_nothing_stored();
}

#[test]
fn credentials_that_are_missing_or_wrong() {
    let Some((env, registry)) = with_registry() else { return };
    registry.require_basic("ada", "right");
    assert_pull_fails("no_credential", &env, &registry, &[], "app:1");
    let file = env.home().join(".docker/config.json");
    fs::create_dir(file.parent().expect("a parent")).expect("a directory");
    let auths = json!({ "auths": { registry.host(): { "auth": base64(b"ada:very-secret") } } });
    fs::write(&file, auths.to_string()).expect("an auth file");
    assert_pull_fails("wrong_credential", &env, &registry, &[], "app:1");
    registry.behave();
    registry.when("/manifests/").refuse(403, "DENIED", "requested access is denied");
    assert_pull_fails("forbidden", &env, &registry, &[], "app:1");
    for output in [env.run(["pull", "-vv"]), env.run(["-vv", "pull", &format!("{}/app:1", registry.host())])] {
        assert!(!output.stderr.contains("very-secret") && !output.stderr.contains(&base64(b"ada:very-secret")));
    }
}

#[test]
fn broken_auth_files() {
    let Some((env, registry)) = with_registry() else { return };
    registry.require_basic("ada", "right");
    let file = env.write("auth.json", "{ not json");
    assert_pull_fails("auth_file_not_json", &env, &registry, &["--authfile", &file], "app:1");
}

#[test]
fn a_layer_that_breaks_off() {
    let Some((env, registry)) = with_registry() else { return };
    let layer = image().layers[0].digest.to_string();
    // Of bytes that came some would be kept for the next attempt.
    registry.when(&layer).cut_after(0);
    assert_pull_fails("layer_breaks_off", &env, &registry, &[], "app:1");
}

#[test]
fn a_layer_with_other_bytes() {
    let Some((env, registry)) = with_registry() else { return };
    let mut bytes = image().layers[0].bytes.clone();
    *bytes.last_mut().expect("a layer with bytes") ^= 1;
    registry.when(&image().layers[0].digest.to_string()).replace(&bytes);
    assert_pull_fails("layer_with_other_bytes", &env, &registry, &[], "app:1");
}

#[test]
fn a_layer_that_is_no_archive() {
    let Some((env, registry)) = with_registry() else { return };
    let noise = ImageBuilder::new().raw_layer("this is no archive", "this is no archive").build();
    assert_unpacking_fails("layer_is_no_archive", &env, &registry, &noise);
    let lies = ImageBuilder::new().raw_layer(image().layers[0].bytes.clone(), "another tar").build();
    assert_unpacking_fails("layer_with_other_diff_id", &env, &registry, &lies);
}

/// Blobs and layers that are what they claim to be may stay for the next attempt; not `bad`, and no name.
#[track_caller]
fn assert_unpacking_fails(name: &str, env: &TestEnv, registry: &TestRegistry, image: &BuiltImage) {
    let reference = registry.push(&format!("{name}:1"), image).to_string();
    let words = ["pull", "-q", &reference];
    let output = env.run(words).refused(125, &[]);
    assert_snapshot(name, env, &told(&words, &output));
    env.assert_clean();
    let bad = image.layers.last().expect("a layer").diff_id.hex();
    assert!(env.stored().iter().all(|path| !path.ends_with(format!("layers/sha256/{bad}"))), "{:?}", env.stored());
    assert_eq!(env.run(["images", "--format", "json"]).json(), json!([]));
}

#[test]
fn what_is_no_manifest() {
    let Some((env, registry)) = with_registry() else { return };
    let manifest = "application/vnd.oci.image.manifest.v1+json";
    registry.put_manifest("html:1", "text/html", b"<html>Welcome to our portal</html>");
    registry.put_manifest("other:1", manifest, br#"{"hello":"world"}"#);
    registry.put_manifest(
        "schema1:1",
        "application/vnd.docker.distribution.manifest.v1+json",
        br#"{"schemaVersion":1}"#,
    );
    for (name, image) in
        [("no_manifest_html", "html:1"), ("no_manifest_other", "other:1"), ("no_manifest_schema1", "schema1:1")]
    {
        assert_pull_fails(name, &env, &registry, &[], image);
    }
}

#[test]
fn a_manifest_with_another_digest() {
    let Some((env, registry)) = with_registry() else { return };
    registry.when("/manifests/sha256").replace(b"{}");
    let name = format!("app@{}", image().digest());
    assert_pull_fails("manifest_with_another_digest", &env, &registry, &[], &name);
}

#[test]
fn a_registry_that_speaks_no_tls() {
    if !have_root() {
        return;
    }
    let env = TestEnv::new();
    // By this address the registry is no loopback one, so that it is spoken to in TLS.
    let registry = TestRegistry::start_at("0.0.0.0", false);
    let port = registry.host().rsplit_once(':').expect("a port").1.to_owned();
    let reference = format!("0.0.0.0:{port}/app:1");
    let output = env.run(["pull", "-q", &reference]).refused(125, &["\nhint: ", "--insecure-registry"]);
    assert_snapshot("no_tls", &env, &output.stderr.replace(&port, "[PORT]"));
    env.assert_nothing_stored();
}

#[test]
fn data_that_cannot_be_written_is_no_success() {
    let env = TestEnv::new();
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let root = env.dir().join("store");
    let output = program(BINARY, ["images", "--format", "json", "--root"]).arg(root).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.starts_with("dockless: cannot write to standard output: No space left"), "{told}");
}
