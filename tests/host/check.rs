//! Damage on disk: `check` finds it, `check --repair` mends it, and images that have none of it keep working.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::base::{empty, few_programs};
use crate::support::env::{Output, TestEnv, entries, tool, wait_until};
use crate::support::image::{BuiltImage, BuiltIndex, Entry};
use crate::support::registry::TestRegistry;

type Damage = fn(&Path);

/// A store with two images of a registry; the layer below they have in common.
struct Stored {
    env: TestEnv,
    registry: TestRegistry,
    image: BuiltImage,
    app: String,
    other: String,
}

fn stored() -> Option<Stored> {
    let env = empty()?;
    let registry = TestRegistry::start();
    let image = few_programs()
        .dir("d")
        .entry(Entry::file("d/file", "content").mode(0o640).owner(12, 34).mtime(1_000_000_000))
        .entry(Entry::file("d/labelled", "x").xattr("user.who", "me"))
        .hardlink("d/linked", "d/file")
        .symlink("d/link", "file")
        .whiteout("tmp")
        .build();
    let app = registry.push("app:1", &image).to_string();
    let other = registry.push("other:1", &few_programs().file("mine", "other").build()).to_string();
    for name in [&app, &other] {
        env.run(["pull", "-q", name]).code(0);
    }
    Some(Stored { env, registry, image, app, other })
}

impl Stored {
    fn blob(&self, digest: &str) -> PathBuf {
        self.env.root().join("blobs/sha256").join(digest.strip_prefix("sha256:").unwrap_or(digest))
    }

    fn manifest(&self) -> PathBuf {
        self.blob(&self.image.digest().to_string())
    }

    fn config(&self) -> PathBuf {
        let manifest: Value = serde_json::from_slice(&self.image.manifest).unwrap();
        self.blob(manifest["config"]["digest"].as_str().unwrap())
    }

    fn top_blob(&self) -> PathBuf {
        self.blob(&self.image.layers.last().unwrap().digest.to_string())
    }

    /// The directory of the topmost layer, which no other image has.
    fn top_layer(&self) -> PathBuf {
        let shown = self.env.run(["inspect", &self.app]).json();
        PathBuf::from(shown[0]["unpacked"].as_array().unwrap().last().unwrap().as_str().unwrap())
    }

    #[track_caller]
    fn check(&self, flags: &[&str], code: i32) -> Vec<Value> {
        let output = self.env.run(["check", "--format", "json"].iter().chain(flags)).code(code);
        serde_json::from_str::<Value>(&output.stdout).unwrap().as_array().unwrap().clone()
    }

    /// Fails unless exactly one thing is found, of this kind and name, in this state, and needed by the one image alone.
    #[track_caller]
    fn finds_one(&self, flags: &[&str], code: i32, state: &str, kind: &str, path: &Path, problem: &str) -> Value {
        let found = self.check(flags, code);
        assert_eq!(found.len(), 1, "{found:#?}");
        let one = &found[0];
        assert_eq!((one["state"].as_str(), one["kind"].as_str()), (Some(state), Some(kind)), "{one:#}");
        assert!(one["name"].as_str().unwrap().ends_with(path.file_name().unwrap().to_str().unwrap()), "{one:#}");
        assert!(one["problem"].as_str().unwrap().contains(problem), "`{problem}` is not in {one:#}");
        let app: dockless::image::Reference = self.app.parse().unwrap();
        assert_eq!(one["images"], serde_json::json!([app.familiar()]), "{one:#}");
        one.clone()
    }

    #[track_caller]
    fn runs(&self, image: &str, path: &str, content: &str) {
        assert_eq!(self.env.container(&["-q", "--pull", "never", image, "cat", path]).text(), content);
    }

    fn run_app(&self, flags: &[&str]) -> Output {
        self.env.run([&["run", "-q", "--rm"], flags, &[&self.app, "cat", "/d/file"]].concat())
    }

    #[track_caller]
    fn is_well(&self) {
        assert_eq!(self.check(&[], 0), [] as [Value; 0]);
        self.runs(&self.app, "/d/file", "content");
        self.env.assert_clean();
    }
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let time = fs::metadata(path).unwrap().modified().unwrap();
    fs::write(path, bytes).unwrap();
    File::open(path).unwrap().set_modified(time).unwrap();
}

fn truncate(path: &Path) {
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(5).unwrap();
}

fn remove(path: &Path) {
    fs::remove_file(path).unwrap();
}

/// Changes something in a directory and makes it look as old as before.
fn unnoticed(dir: &Path, change: impl FnOnce()) {
    let time = fs::metadata(dir).unwrap().modified().unwrap();
    change();
    File::open(dir).unwrap().set_modified(time).unwrap();
}

#[test]
fn damaged_blobs_and_documents_are_found_and_fetched_again() {
    let Some(stored) = stored() else { return };
    assert_eq!(stored.check(&[], 0), [] as [Value; 0]);
    // The tag has moved on: what is fetched is what was there.
    stored.registry.push("app:1", &few_programs().file("d/file", "newer").build());
    let cases: [(&str, PathBuf, Damage, &str, bool); 9] = [
        ("blob", stored.top_blob(), flip, "has other content", false),
        ("blob", stored.top_blob(), truncate, "has 5 bytes, expected", true),
        ("blob", stored.top_blob(), remove, "is missing", true),
        ("config", stored.config(), flip, "has other content", true),
        ("config", stored.config(), truncate, "has other content", true),
        ("config", stored.config(), remove, "is missing", true),
        ("manifest", stored.manifest(), flip, "has other content", true),
        ("manifest", stored.manifest(), truncate, "has other content", true),
        ("manifest", stored.manifest(), remove, "is missing", true),
    ];
    for (kind, path, damage, problem, is_quick) in cases {
        damage(&path);
        let flags: &[&str] = if is_quick { &["--quick"] } else { &[] };
        let found = stored.finds_one(flags, 1, "damaged", kind, &path, problem);
        assert!(found["hint"].as_str().unwrap().contains("`dockless check --repair` fetches it again"), "{found:#}");
        if !is_quick {
            assert_eq!(stored.check(&["--quick"], 0), [] as [Value; 0]);
        }
        let repaired = stored.finds_one(&["--repair"], 0, "repaired", kind, &path, problem);
        assert!(repaired["problem"].as_str().unwrap().contains("; fetched again from `"), "{repaired:#}");
    }
    stored.is_well();
}

#[test]
fn other_images_keep_working_and_every_command_does() {
    let Some(stored) = stored() else { return };
    let layer = stored.top_layer();
    let damages: [&dyn Fn(); 6] = [
        &|| remove(&stored.manifest()),
        &|| truncate(&stored.manifest()),
        &|| truncate(&stored.top_blob()),
        &|| fs::write(layer.join("layer.json"), "\0\0\0").unwrap(),
        &|| fs::remove_dir_all(layer.join("fs")).unwrap(),
        &|| {
            let index = stored.env.root().join("index.json");
            let mut list: Value = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
            list["manifests"].as_array_mut().unwrap().insert(0, serde_json::json!({ "digest": "sha256:../../x" }));
            fs::write(index, list.to_string()).unwrap();
        },
    ];
    for (number, damage) in damages.iter().enumerate() {
        damage();
        stored.env.run(["images"]).code(0);
        stored.env.run(["ps", "-a"]).code(0);
        stored.runs(&stored.other, "/mine", "other");
        if number % 2 == 0 {
            // A pull mends what it comes across.
            stored.env.run(["pull", "-q", &stored.app]).code(0);
            stored.runs(&stored.app, "/d/file", "content");
        } else {
            stored.check(&["--repair"], 0);
        }
    }
    // The entry that is no image is told, and stays for whoever knows it.
    let found = stored.check(&[], 0);
    assert!(found.len() == 1 && found[0]["state"] == "notice" && found[0]["kind"] == "index", "{found:#?}");
    truncate(&stored.manifest());
    stored.env.run(["rmi", &stored.other]).code(0);
    stored.env.run(["rmi", &stored.app]).code(0);
    stored.env.assert_clean();
    assert!(stored.env.stored().is_empty(), "{:?}", stored.env.stored());
}

/// What a container would see, each kind of it; the registry is not asked.
#[test]
fn damaged_layers_are_found_and_unpacked_again() {
    let Some(stored) = stored() else { return };
    stored.registry.when("/").refuse(500, "", "");
    let layer = stored.top_layer();
    let (dir, file) = (layer.join("fs/d"), layer.join("fs/d/file"));
    let epoch = SystemTime::UNIX_EPOCH + Duration::from_secs(5);
    let json = layer.join("layer.json");
    let damages: [(&dyn Fn(), &str); 18] = [
        (&|| flip(&file), "`/d/file` has other content, from byte 3 on"),
        (
            &|| fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap(),
            "`/d/file` has mode 0644, expected 0640",
        ),
        (&|| chown(&file, Some(0), None).unwrap(), "`/d/file` is owned by 0:34, expected 12:34"),
        (
            &|| drop(tool("setfattr", ["-n", "user.who", "-v", "you", dir.join("labelled").to_str().unwrap()])),
            "`/d/labelled` has another extended attribute `user.who`",
        ),
        (
            &|| File::open(&file).unwrap().set_modified(epoch).unwrap(),
            "`/d/file` was modified at 5.000000000, expected 1000000000",
        ),
        (&|| unnoticed(&dir, || remove(&dir.join("link"))), "`/d/link` is missing"),
        (&|| unnoticed(&dir, || fs::write(dir.join("new"), "").unwrap()), "`/d/new` is there and should not be"),
        (
            &|| {
                unnoticed(&dir, || {
                    remove(&dir.join("linked"));
                    fs::copy(&file, dir.join("linked")).unwrap();
                });
            },
            "`/d/",
        ),
        (&|| unnoticed(&layer.join("fs"), || remove(&layer.join("fs/tmp"))), "`/tmp` is missing"),
        (
            &|| {
                unnoticed(&layer.join("fs"), || {
                    remove(&layer.join("fs/tmp"));
                    fs::write(layer.join("fs/tmp"), "").unwrap();
                });
            },
            "`/tmp` is a regular file, expected a character device",
        ),
        (&|| truncate(&file), "`/d/file` has 5 bytes, expected 7"),
        (&|| remove(&json), "cannot read"),
        (&|| flip(&json), "layer.json"),
        (&|| truncate(&json), "is damaged"),
        (&|| fs::write(&json, "junk").unwrap(), "is damaged"),
        (&|| fs::write(&json, r#"{"schema":9,"other":1}"#).unwrap(), "has format `9`, expected `1`"),
        (&|| fs::remove_dir_all(&layer).unwrap(), "is missing"),
        (
            &|| {
                fs::remove_dir_all(&layer).unwrap();
                fs::write(&layer, "a file").unwrap();
            },
            "has no tree",
        ),
    ];
    for (number, (damage, problem)) in damages.into_iter().enumerate() {
        damage();
        // It unpacks and compares as a repair does: one of each sort will do.
        if number % 6 == 0 {
            stored.finds_one(&[], 1, "damaged", "layer", &layer, problem);
        }
        let repaired = stored.finds_one(&["--repair"], 0, "repaired", "layer", &layer, problem);
        assert!(repaired["problem"].as_str().unwrap().ends_with("; unpacked again"), "{repaired:#}");
    }
    stored.is_well();
}

#[test]
fn a_quick_check_sees_what_is_missing_only() {
    let Some(stored) = stored() else { return };
    let layer = stored.top_layer();
    flip(&layer.join("fs/d/file"));
    assert_eq!(stored.check(&["--quick"], 0), [] as [Value; 0]);
    remove(&layer.join("layer.json"));
    stored.finds_one(&["--quick"], 1, "damaged", "layer", &layer, "layer.json");
    // Where there is something to mend it is mended for good.
    stored.finds_one(&["--quick", "--repair"], 0, "repaired", "layer", &layer, "unpacked again");
    stored.is_well();
}

#[test]
fn what_cannot_be_fetched_is_told_and_the_rest_is_mended() {
    let Some(stored) = stored() else { return };
    let (blob, layer) = (stored.top_blob(), stored.top_layer());
    let layers = stored.env.root().join("layers/sha256");
    let base = entries(&layers).into_iter().find(|layer| layer.join("fs/bin/busybox").exists()).unwrap();
    flip(&blob);
    fs::set_permissions(base.join("fs/bin/busybox"), Permissions::from_mode(0o700)).unwrap();
    let damaged = fs::read(&blob).unwrap();
    stored.registry.remove_blob(&stored.image.layers.last().unwrap().digest);
    let found = stored.check(&["--repair"], 1);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert_eq!((&found[0]["state"], &found[0]["kind"]), (&"damaged".into(), &"blob".into()));
    let problem = found[0]["problem"].as_str().unwrap();
    assert!(problem.contains("it cannot be fetched again: "), "{problem}");
    assert!(found[0]["hint"].as_str().unwrap().contains("`dockless rmi "), "{found:#?}");
    assert_eq!((&found[1]["state"], &found[1]["kind"]), (&"repaired".into(), &"layer".into()));
    assert_eq!(found[1]["images"].as_array().unwrap().len(), 2, "{found:#?}");
    // Nothing is lost: the layer works on, and the blob is as it was.
    assert_eq!(fs::read(&blob).unwrap(), damaged);
    assert!(layer.join("fs/d/file").exists());
    stored.runs(&stored.app, "/d/file", "content");
    stored.runs(&stored.other, "/mine", "other");
    stored.env.run(["check", "-q", &stored.other]).code(0);
    let shown = stored.env.run(["check", "-q"]).code(1).stdout;
    assert!(shown.starts_with("damaged: blob sha256:") && shown.contains("\n  hint: "), "{shown}");
    stored.env.assert_clean();
}

#[test]
fn the_layer_of_a_live_run_is_not_touched() {
    let Some(stored) = stored() else { return };
    let layer = stored.top_layer();
    let name = stored.env.name();
    let script = "trap 'cat /d/file; exit 0' TERM; echo ready; while :; do usleep 20000; done";
    let run = stored.env.spawn(["run", "-q", "--name", &name, &stored.app, "sh", "-c", script]);
    run.wait_for("ready");
    fs::set_permissions(layer.join("fs/d/labelled"), Permissions::from_mode(0o600)).unwrap();
    let found = stored.finds_one(&["--repair"], 1, "damaged", "layer", &layer, "has mode 0600");
    let hint = format!("run `{name}` has it mounted: stop it, then `dockless check --repair` unpacks it again");
    assert_eq!(found["hint"], hint);
    run.signal(Signal::SIGTERM);
    assert_eq!(run.finish().text(), "ready\ncontent");
    stored.finds_one(&["--repair"], 0, "repaired", "layer", &layer, "has mode 0600");
    stored.is_well();
}

#[test]
fn a_damaged_list_of_images_is_made_anew() {
    let Some(stored) = stored() else { return };
    let index = stored.env.root().join("index.json");
    stored.env.run(["run", "-q", "--name", &stored.env.name(), &stored.app, "true"]).code(0);
    for damaged in ["", "{ half"] {
        fs::write(&index, damaged).unwrap();
        stored.env.run(["images"]).refused(125, &["index.json", "hint: `dockless check --repair`"]);
        stored.env.run(["ps", "-a"]).code(0);
        assert_eq!(stored.check(&[], 1)[0]["kind"], "index");
        let found = stored.check(&["--repair"], 0);
        assert_eq!((&found[0]["state"], found.len()), (&"repaired".into(), 1), "{found:#?}");
        assert_eq!(fs::read_to_string(index.with_extension("json.damaged")).unwrap(), damaged);
        // The record of a run knew one name; the other image is there without one, and gets it again without a download.
        let images = stored.env.run(["images", "--format", "json"]).json();
        let mut names: Vec<&str> =
            images.as_array().unwrap().iter().map(|image| image["name"].as_str().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names, ["", &stored.app]);
        stored.is_well();
    }
    remove(&index);
    assert_eq!(stored.check(&[], 1)[0]["problem"], "is missing");
    stored.check(&["--repair"], 0);
    stored.env.run(["pull", "-q", &stored.other]).code(0);
    stored.runs(&stored.other, "/mine", "other");
    stored.is_well();
}

#[test]
fn an_image_of_an_index_is_mended_like_any_other() {
    let Some(env) = empty() else { return };
    let registry = TestRegistry::start();
    let image = few_programs().file("d", "x").build();
    let index = BuiltIndex::of([few_programs().platform("linux/arm64").build(), image.clone()]);
    let name = registry.push_index("app:1", &index).to_string();
    env.run(["pull", "-q", &name]).code(0);
    let blob = |digest: String| env.root().join("blobs/sha256").join(&digest["sha256:".len()..]);
    for path in [blob(image.digest().to_string()), blob(index.digest().to_string())] {
        for damage in [flip, remove] {
            damage(&path);
            env.run(["check", "-q"]).code(1);
            let output = env.run(["check", "-q", "--repair"]).code(0);
            assert!(output.stdout.starts_with("repaired: manifest sha256:"), "{}", output.stdout);
            assert_eq!(env.run(["check", "-q"]).text(), "");
        }
    }
    assert_eq!(env.container(&["-q", "--pull", "never", &name, "cat", "/d"]).text(), "x");
    env.assert_clean();
}

/// Whatever a kill leaves, the next repair mends, and what was in between is swept.
#[test]
fn a_killed_repair_is_finished_by_the_next() {
    let Some(stored) = stored() else { return };
    let layer = stored.top_layer();
    for delay_ms in [5, 20, 35, 50, 80, 120] {
        truncate(&stored.top_blob());
        fs::set_permissions(layer.join("fs/d/file"), Permissions::from_mode(0o777)).unwrap();
        let repair = stored.env.spawn(["check", "--repair"]);
        std::thread::sleep(Duration::from_millis(delay_ms));
        repair.signal(Signal::SIGKILL);
        drop(repair);
        stored.runs(&stored.other, "/mine", "other");
        stored.check(&["--repair"], 0);
    }
    // In the middle of a download: what is there already goes with the next command.
    flip(&stored.top_blob());
    let asked = stored.registry.requests_for("/blobs/").len();
    stored.registry.when("/blobs/").times(1).stall_after(10);
    let repair = stored.env.spawn(["check", "--repair"]);
    let tmp = stored.env.root().join("tmp");
    assert!(wait_until(|| stored.registry.requests_for("/blobs/").len() > asked));
    assert_eq!(fs::read_dir(&tmp).unwrap().count(), 1);
    repair.signal(Signal::SIGKILL);
    drop(repair);
    stored.runs(&stored.app, "/d/file", "content");
    assert_eq!(fs::read_dir(&tmp).unwrap().count(), 0);
    stored.check(&["--repair"], 0);
    stored.is_well();
}

#[test]
fn what_belongs_to_nothing_is_told_and_is_no_damage() {
    let Some(stored) = stored() else { return };
    let root = stored.env.root();
    fs::write(root.join("blobs/sha256").join("0".repeat(64)), "lonely").unwrap();
    fs::write(root.join("layers/sha256/notes"), "x").unwrap();
    let name = stored.env.name();
    stored.env.run(["run", "-q", "--name", &name, &stored.app, "true"]).code(0);
    let found = stored.check(&[], 0);
    let kinds: Vec<&str> = found.iter().map(|finding| finding["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["blob", "stray"], "{found:#?}");
    assert!(found.iter().all(|finding| finding["state"] == "notice"), "{found:#?}");
    fs::write(root.join("runs").join(&name).join("run.json"), "{ half").unwrap();
    let found = stored.check(&[], 1);
    assert_eq!((&found[0]["kind"], &found[0]["name"]), (&"run".into(), &name.clone().into()), "{found:#?}");
    // One image alone is not made answerable for the rest.
    assert_eq!(stored.check(&[&stored.app], 0), [] as [Value; 0]);
    stored.env.run(["check", "typo"]).refused(125, &["no image `typo`"]);
    stored.env.run(["rm", &name]).code(0);
    stored.env.assert_clean();
}

/// What a run meets that comes upon damage before any check does.
#[test]
fn a_run_mends_what_it_needs() {
    let Some(stored) = stored() else { return };
    let (layer, blob) = (stored.top_layer(), stored.top_blob());
    let run = |flags: &[&str]| stored.run_app(flags);
    let unpacked_again = || assert_eq!(run(&[]).text(), "content");
    // The blob is there, or can be had, whatever the tag names by now.
    stored.registry.push("app:1", &few_programs().file("d/file", "newer").build());
    fs::remove_dir_all(&layer).unwrap();
    unpacked_again();
    fs::write(layer.join("layer.json"), r#"{"schema":9,"other":1}"#).unwrap();
    unpacked_again();
    for damage in [remove, truncate] {
        fs::remove_dir_all(&layer).unwrap();
        damage(&blob);
        run(&["--pull", "never"]).refused(125, &["hint: "]);
        unpacked_again();
    }
    // A layer that is whole needs no blob.
    remove(&blob);
    unpacked_again();
    fs::remove_dir_all(&layer).unwrap();
    stored.registry.when("/").refuse(403, "", "");
    run(&[]).refused(125, &["403"]);
    stored.registry.behave();
    unpacked_again();
    stored.is_well();
}

/// Damage under the right size is noticed when it is read.
#[test]
fn a_run_says_what_mends_what_it_cannot() {
    let Some(stored) = stored() else { return };
    let (layer, blob) = (stored.top_layer(), stored.top_blob());
    let mends: [(&dyn Fn(), &Path); 3] =
        [(&|| fs::remove_dir_all(&layer).unwrap(), &blob), (&|| {}, &stored.config()), (&|| {}, &stored.manifest())];
    for (prepare, damaged) in mends {
        prepare();
        flip(damaged);
        stored.run_app(&[]).refused(125, &["hint: `dockless check --repair`"]);
        stored.runs(&stored.other, "/mine", "other");
        stored.check(&["--repair"], 0);
        assert_eq!(stored.run_app(&[]).text(), "content");
    }
    stored.is_well();
}

#[test]
fn nothing_is_lost_when_the_registry_is_gone() {
    let Some(stored) = stored() else { return };
    let (layer, blob, index) = (stored.top_layer(), stored.top_blob(), stored.env.root().join("index.json"));
    let Stored { env, registry, image, app, other } = stored;
    drop(registry);
    let manifest = env.root().join("blobs/sha256").join(image.digest().hex());
    let list = fs::read(&index).unwrap();
    for (damaged, kind) in [(&blob, "blob"), (&manifest, "manifest")] {
        let whole = fs::read(damaged).unwrap();
        flip(damaged);
        let left = fs::read(damaged).unwrap();
        let output = env.run(["check", "-q", "--repair"]).code(1);
        let words = format!("damaged: {kind} sha256:");
        assert!(output.stdout.starts_with(&words) && output.stdout.contains("cannot be fetched again"), "{output:?}");
        assert_eq!((fs::read(damaged).unwrap(), fs::read(&index).unwrap()), (left, list.clone()));
        assert!(layer.join("fs/d/file").exists());
        assert_eq!(env.container(&["-q", "--pull", "never", &other, "cat", "/mine"]).text(), "other");
        fs::write(damaged, whole).unwrap();
    }
    assert_eq!(env.container(&["-q", "--pull", "never", &app, "cat", "/d/file"]).text(), "content");
    assert_eq!(env.run(["check", "-q"]).text(), "");
    env.assert_clean();
}

/// A check reads beside a pull, and a repair waits for it only where it replaces a layer.
#[test]
fn a_pull_and_a_check_go_on_at_once() {
    let Some(stored) = stored() else { return };
    let layer = stored.top_layer();
    let name = stored.registry.push("late:1", &few_programs().file("late", "x").build()).to_string();
    let asked = stored.registry.requests_for("/blobs/").len();
    stored.registry.when("/blobs/").times(1).stall_after(10);
    let pull = stored.env.spawn(["pull", "-q", &name]);
    assert!(wait_until(|| stored.registry.requests_for("/blobs/").len() > asked));
    assert!(stored.check(&[], 0).iter().all(|finding| finding["state"] == "notice"));
    flip(&stored.top_blob());
    assert!(stored.check(&["--repair"], 0).iter().any(|finding| finding["state"] == "repaired"));
    flip(&layer.join("fs/d/file"));
    let repair = stored.env.spawn(["check", "--repair"]);
    repair.wait_for_stderr("waiting for other commands to finish before layers are replaced");
    assert_ne!(fs::read(layer.join("fs/d/file")).unwrap(), b"content");
    pull.signal(Signal::SIGKILL);
    drop(pull);
    assert!(repair.finish().code(0).stdout.contains("unpacked again"));
    stored.env.run(["pull", "-q", &name]).code(0);
    stored.runs(&name, "/late", "x");
    stored.is_well();
}

/// The store's own version: one from before it was written down goes on as it is, one of the future is left alone.
#[test]
fn a_store_of_another_version_is_migrated_or_refused() {
    let Some(stored) = stored() else { return };
    let version = stored.env.root().join("store.json");
    let ours = fs::read_to_string(&version).unwrap();
    remove(&version);
    stored.is_well();
    assert_eq!(fs::read_to_string(&version).unwrap(), ours);
    fs::write(&version, r#"{"version":2}"#).unwrap();
    for command in [&["images"][..], &["check", "--repair"], &["run", &stored.app, "true"], &["ps"]] {
        stored.env.run(command).refused(125, &["has version `2`, expected at most `1`", "hint: "]);
    }
    fs::write(&version, "{ half").unwrap();
    stored.env.run(["images"]).refused(125, &["store.json", "is damaged", "hint: remove the file"]);
    remove(&version);
    stored.is_well();
}

/// Images that share layers: of one that was only loaded the others are not there yet, which is no damage.
#[test]
fn a_layer_that_was_never_unpacked_is_not_missing() {
    let Some(env) = empty() else { return };
    for name in ["first", "second"] {
        let layout = env.work().join(name);
        few_programs().file("name", name).build().write_layout(&layout, name);
        let archive = env.work().join(format!("{name}.tar"));
        tool("tar", ["-cf".as_ref(), archive.as_os_str(), "-C".as_ref(), layout.as_os_str(), ".".as_ref()]);
        env.run(["load", "-q", "-i", archive.to_str().unwrap()]).code(0);
    }
    let first = || env.container(&["localhost/first:first", "cat", "/name"]).text();
    assert_eq!(first(), "first");
    for command in [&["check"][..], &["check", "--quick"]] {
        assert!(!env.run(command).code(0).stdout.contains("missing"));
    }
    let lost = entries(&env.root().join("layers/sha256")).into_iter().find(|layer| layer.join("fs/name").exists());
    fs::remove_dir_all(lost.unwrap()).unwrap();
    assert!(env.run(["check"]).code(1).stdout.contains("is missing"));
    assert_eq!(first(), "first");
    env.run(["check"]).code(0);
}
