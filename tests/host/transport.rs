//! Images in and out: archives and layouts that other tools wrote and read, and hostile ones.

use std::fs;
use std::io::Read;
use std::path::Path;

use serde_json::{Value, json};

use dockless::image::Digest;

use crate::base::{app, base_image, empty};
use crate::support::env::{TestEnv, entries, find_program, finish, finish_with, have, program, tool};
use crate::support::image::{BuiltImage, BuiltIndex, BuiltLayer, Entry, ImageBuilder, Packing, descriptor, pack};

/// Where no registry is, the file that an image came from is.
#[test]
fn loading_once_more_heals() {
    let Some(env) = empty() else { return };
    let image = base_image().file("hello", "hello").build();
    let path = env.write("app.tar", archive(docker_25(&image, "app:1")));
    env.run(["load", "-i", &path]).code(0);
    let mut damaged = 0;
    for blob in entries(&env.root().join("blobs/sha256")) {
        let mut bytes = fs::read(&blob).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&blob, bytes).unwrap();
        damaged += 1;
    }
    assert!(damaged > 3);
    env.run(["check", "-q"]).code(1);
    env.run(["load", "-i", &path]).code(0);
    env.run(["check", "-q"]).code(0);
    assert_eq!(env.container(&["app:1", "cat", "/hello"]).text(), "hello");
    env.assert_clean();
}

/// A tar archive of these entries.
pub(crate) fn archive(entries: impl IntoIterator<Item = Entry>) -> Vec<u8> {
    let builder = ImageBuilder::new().packing(Packing::Plain);
    entries.into_iter().fold(builder, ImageBuilder::entry).build().layers.remove(0).bytes
}

/// The tar of a layer.
pub(crate) fn plain(layer: &BuiltLayer) -> Vec<u8> {
    let mut tar = Vec::new();
    match layer.bytes.get(..2) {
        Some([0x1f, 0x8b]) => flate2::read::MultiGzDecoder::new(layer.bytes.as_slice()).read_to_end(&mut tar).unwrap(),
        _ => layer.bytes.as_slice().read_to_end(&mut tar).unwrap(),
    };
    tar
}

pub(crate) fn config_digest(image: &BuiltImage) -> Digest {
    Digest::sha256(&image.config)
}

/// What docker 24 writes: a directory for each layer; a layer that is there already is a link to it. What is hostile in
/// it comes first and last.
pub(crate) fn docker_24(image: &BuiltImage, name: &str) -> Vec<Entry> {
    let mut entries = vec![Entry::file("x", "no").raw_path("../../etc/x"), Entry::file("x", "no").raw_path("/etc/x")];
    let (mut names, mut seen): (Vec<String>, Vec<(Digest, String)>) = (Vec::new(), Vec::new());
    for (place, layer) in image.layers.iter().enumerate() {
        let dir = format!("{place:064}");
        let file = format!("{dir}/layer.tar");
        entries.extend([Entry::dir(&dir), Entry::file(format!("{dir}/VERSION"), "1.0")]);
        match seen.iter().find(|(diff_id, _)| *diff_id == layer.diff_id) {
            Some((_, first)) => entries.push(Entry::symlink(&file, format!("../{first}"))),
            None => entries.push(Entry::file(&file, plain(layer))),
        }
        seen.push((layer.diff_id.clone(), file.clone()));
        names.push(file);
    }
    let config = format!("{}.json", config_digest(image).hex());
    entries.push(Entry::file(&config, &image.config));
    let manifest = json!([{ "Config": config, "RepoTags": [name], "Layers": names }]);
    entries.push(Entry::file("manifest.json", manifest.to_string()));
    entries.push(Entry::symlink("blobs", "/etc"));
    entries
}

/// What docker 25 and later write: an OCI layout with docker's list beside it.
pub(crate) fn docker_25(image: &BuiltImage, name: &str) -> Vec<Entry> {
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::sha256(bytes).hex());
    let mut entries = vec![Entry::dir("blobs"), Entry::dir("blobs/sha256")];
    entries.extend(image.blobs().into_values().map(|bytes| Entry::file(blob(bytes), bytes)));
    entries.push(Entry::file(blob(&image.manifest), &image.manifest));
    let layers: Vec<String> = image.layers.iter().map(|layer| blob(&layer.bytes)).collect();
    let manifest = json!([{ "Config": blob(&image.config), "RepoTags": [name], "Layers": layers }]);
    let mut entry = descriptor(&image.media_type, &image.manifest);
    entry["annotations"] = json!({
        "io.containerd.image.name": format!("docker.io/library/{name}"),
        "org.opencontainers.image.ref.name": name.rsplit(':').next(),
    });
    let index = json!({ "schemaVersion": 2, "manifests": [entry] });
    entries.push(Entry::file("index.json", index.to_string()));
    entries.push(Entry::file("manifest.json", manifest.to_string()));
    entries.push(Entry::file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#));
    entries
}

/// A small image without programs, for tests that do not run it.
pub(crate) fn small() -> BuiltImage {
    ImageBuilder::new().packing(Packing::Plain).file("hello", "hello").layer().file("more", "more").build()
}

pub(crate) fn names(env: &TestEnv) -> Vec<String> {
    let list = env.run(["images", "--format", "json"]).json();
    let mut names: Vec<String> =
        list.as_array().unwrap().iter().map(|image| image["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// The digests of manifest and configuration of an image in the store.
pub(crate) fn digests(env: &TestEnv, name: &str) -> (String, String) {
    let image = env.run(["inspect", name]).json().remove_first();
    let digest = |value: &Value| value.as_str().unwrap().to_owned();
    (digest(&image["manifest_digest"]), digest(&image["manifest"]["config"]["digest"]))
}

trait First {
    fn remove_first(self) -> Value;
}

impl First for Value {
    fn remove_first(mut self) -> Value {
        self.as_array_mut().unwrap().remove(0)
    }
}

#[test]
fn what_skopeo_writes_is_loaded_and_run() {
    let Some(env) = empty() else { return };
    if !have(&["skopeo"]) {
        return;
    }
    let image = base_image().file("hello", "hello").build();
    let layout = env.work().join("My Layout");
    image.write_layout(&layout, "tag");
    let from = format!("oci:{}:tag", layout.display());
    let (oci, docker) = (env.work().join("o.tar"), env.work().join("d.tar"));
    tool("skopeo", ["copy", "-q", &from, &format!("oci-archive:{}:team/app:1", oci.display())]);
    tool("skopeo", ["copy", "-q", &from, &format!("docker-archive:{}:team/app:2", docker.display())]);
    // Without loading first, and no registry is asked.
    let run = |source: &str| env.container(&["-q", "--pull", "never", source, "cat", "/hello"]).text();
    assert_eq!(run(&from), "hello");
    assert_eq!(run("oci-archive:o.tar"), "hello");
    assert_eq!(run("docker-archive:d.tar:team/app:2"), "hello");
    assert_eq!(names(&env), ["docker.io/team/app:1", "docker.io/team/app:2", "localhost/my-layout:tag"]);
    assert_eq!(digests(&env, "localhost/my-layout:tag").0, image.digest().to_string());
    assert_eq!(digests(&env, "team/app:1").0, image.digest().to_string());
    assert_eq!(digests(&env, "team/app:2").1, config_digest(&image).to_string());
    env.run(["rmi", "team/app:1", "team/app:2", "localhost/my-layout:tag"]).code(0);
    env.assert_nothing_stored();
    assert_eq!(env.run(["load", "-q", "-i", "d.tar"]).text(), "Loaded image: team/app:2");
    assert_eq!(env.run(["load", "--input", "o.tar"]).text(), "Loaded image: team/app:1");
    assert_eq!(env.run(["load", "-i", "My Layout"]).text(), "Loaded image: localhost/my-layout:tag");
    assert_eq!(env.container(&["-q", "team/app:2", "cat", "/hello"]).text(), "hello");
    env.assert_clean();
}

#[test]
fn what_is_saved_is_read_by_skopeo_with_the_same_digests() {
    let Some(env) = app() else { return };
    if !have(&["skopeo"]) {
        return;
    }
    let (manifest, config) = digests(&env, "app");
    env.run(["save", "-o", "d.tar", "app"]).code(0);
    env.run(["save", "-o", "o.tar", "--format", "oci-archive", "app"]).code(0);
    env.run(["save", "-o", "layout", "--format", "oci-dir", "app"]).code(0);
    let place = |name: &str| env.work().join(name).display().to_string();
    let inspect = |source: String| serde_json::from_str::<Value>(&tool("skopeo", ["inspect", &source])).unwrap();
    assert_eq!(inspect(format!("oci-archive:{}", place("o.tar")))["Digest"], manifest);
    assert_eq!(inspect(format!("oci:{}", place("layout")))["Digest"], manifest);
    let raw = tool("skopeo", ["inspect", "--raw", &format!("docker-archive:{}:app:latest", place("d.tar"))]);
    assert_eq!(serde_json::from_str::<Value>(&raw).unwrap()["config"]["digest"], config);
    // Every layer is read and verified by it.
    tool("skopeo", ["copy", "-q", &format!("docker-archive:{}", place("d.tar")), &format!("dir:{}", place("copied"))]);
    tool("skopeo", ["copy", "-q", &format!("oci-archive:{}", place("o.tar")), &format!("dir:{}", place("copied2"))]);
    env.assert_clean();
}

/// The image IDs that another engine of the containers family gives what we save, read by `load` in both forms.
fn ids(env: &TestEnv, engine: &str, load: &[&str], line: &str) -> Vec<String> {
    let storage = env.dir().join(engine);
    let ask = |words: &[&str]| {
        let mut command = program(engine, ["--storage-driver", "vfs", "--root"]);
        command.arg(storage.join("root")).arg("--runroot").arg(storage.join("run")).args(words);
        finish(command.current_dir(env.work()).env("HOME", env.home()))
    };
    let mut ids = Vec::new();
    for source in ["docker-archive:d.tar", "oci-archive:o.tar"] {
        let file = source.split_once(':').unwrap().1;
        let words: Vec<&str> =
            load.iter().copied().chain([if load == ["pull", "-q"] { source } else { file }]).collect();
        ask(&words).code(0);
        ids.push(ask(&["images", "--no-trunc", "--format", line]).text());
        ask(&["rmi", "--all", "--force"]).code(0);
    }
    ids
}

/// Debian's podman and buildah have the reader of skopeo, and stores of their own.
#[test]
fn podman_and_buildah_load_what_is_saved() {
    let Some(env) = empty() else { return };
    let image = small();
    env.store_image("team/app:1", &image);
    env.run(["save", "-o", "d.tar", "team/app:1"]).code(0);
    env.run(["save", "--format", "oci-archive", "-o", "o.tar", "team/app:1"]).code(0);
    let id = config_digest(&image).to_string();
    let judge = |engine: &str, load: &[&str], line: &str| {
        for line in ids(&env, engine, load, line) {
            assert!(line.contains(&id) && line.contains("/team/app:1"), "{engine}: {line}, expected {id}");
        }
    };
    if have(&["buildah"]) {
        judge("buildah", &["pull", "-q"], "{{.ID}} {{.Name}}:{{.Tag}}");
    }
    // scripts/setup installs it for comparisons of speed only.
    if find_program("podman").is_some() {
        judge("podman", &["load", "-q", "-i"], "{{.ID}} {{.Repository}}:{{.Tag}}");
    }
}

#[test]
fn saving_and_loading_go_round_and_give_the_same_bytes() {
    let Some((from, to)) = empty().zip(empty()) else { return };
    let (one, two) = (small(), ImageBuilder::new().packing(Packing::Zstd).file("z", "z".repeat(5000)).build());
    from.store_image("one:1", &one);
    from.store_image("ghcr.io/team/two:2", &two);
    from.run(["tag", "one:1", "again"]).code(0);
    for format in ["docker-archive", "oci-archive"] {
        let save = ["save", "--format", format, "ghcr.io/team/two:2", "one:1", "again", "-o"];
        from.run(save.iter().chain(&["a.tar"])).code(0);
        from.run(save.iter().chain(&["b.tar"])).code(0);
        let bytes = fs::read(from.work().join("a.tar")).unwrap();
        assert_eq!(Digest::sha256(&bytes), Digest::sha256(&fs::read(from.work().join("b.tar")).unwrap()), "{format}");
        let loaded = finish_with(&mut to.command(["load"]), &bytes).text();
        for name in ["one:1", "again:latest", "ghcr.io/team/two:2"] {
            assert!(loaded.contains(&format!("Loaded image: {name}")), "{loaded}");
            let (before, after) = (digests(&from, name), digests(&to, name));
            assert_eq!(before.1, after.1, "{format}");
            assert!(format == "docker-archive" || before == after, "{format}");
        }
        // What came out of one archive gives the same archive again.
        to.run(save.iter().chain(&["c.tar"])).code(0);
        assert_eq!(Digest::sha256(&bytes), Digest::sha256(&fs::read(to.work().join("c.tar")).unwrap()), "{format}");
        to.run(["rmi", "one:1", "again", "ghcr.io/team/two:2"]).code(0);
        to.assert_nothing_stored();
    }
    to.assert_clean();
}

/// `again` has both layers twice.
fn twice() -> BuiltImage {
    let layer = |image: ImageBuilder| image.file("a", "a");
    layer(layer(layer(ImageBuilder::new()).layer().file("b", "b").layer()).layer()).build()
}

#[test]
fn archives_of_old_and_new_docker_are_loaded() {
    let Some(env) = empty() else { return };
    let image = twice();
    assert_eq!(image.layers[0].diff_id, image.layers[2].diff_id);
    env.write("old.tar", archive(docker_24(&image, "old:1")));
    env.write("new.tar", archive(docker_25(&image, "new:1")));
    assert_eq!(env.run(["load", "-i", "old.tar"]).text(), "Loaded image: old:1");
    assert_eq!(env.run(["load", "-i", "new.tar"]).text(), "Loaded image: new:1");
    // The old one has no manifest; one is made, over the same configuration.
    assert_eq!(digests(&env, "old:1").1, config_digest(&image).to_string());
    assert_eq!(digests(&env, "new:1"), (image.digest().to_string(), config_digest(&image).to_string()));
    // The new one read as the old one: its layers are compressed here, which docker does not do and others do.
    assert!(env.run(["pull", "-q", "docker-archive:new.tar"]).text().starts_with("sha256:"));
    let layers = env.run(["inspect", "new:1"]).json().remove_first()["manifest"]["layers"].clone();
    assert_eq!(layers[0]["digest"], image.layers[0].digest.to_string());
    assert_eq!(layers[0]["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
    assert!(env.run(["pull", "-q", "oci-archive:old.tar"]).refused(125, &["hint: `docker-archive:"]).stdout.is_empty());
    env.assert_clean();
}

#[test]
fn compressed_archives_and_streams_are_loaded() {
    let Some(env) = empty() else { return };
    let bytes = archive(docker_24(&small(), "app:1"));
    env.write("z.tar.zst", pack(&bytes, Packing::Zstd));
    assert_eq!(env.run(["load", "-i", "z.tar.zst"]).text(), "Loaded image: app:1");
    for packing in [Packing::Plain, Packing::Gzip] {
        env.run(["rmi", "app:1"]).code(0);
        let loaded = finish_with(&mut env.command(["load", "-q"]), &pack(&bytes, packing));
        assert_eq!(loaded.text(), "Loaded image: app:1");
    }
    env.run(["rmi", "app:1"]).code(0);
    // A FIFO is a stream.
    let script = "mkfifo pipe; cat z.tar.zst >pipe & exec \"$@\"";
    let mut command = program("sh", ["-c", script, "sh"]);
    let load = env.command(["load", "-i", "pipe"]);
    command.arg(load.get_program()).args(load.get_args()).current_dir(env.work());
    assert_eq!(finish(command.env("DOCKLESS_GPU_LEASES", env.leases())).text(), "Loaded image: app:1");
    env.assert_clean();
}

#[test]
fn of_several_images_one_is_named() {
    let Some(env) = empty() else { return };
    let layout = env.work().join("set");
    let images = ["one", "two"].map(|word| ImageBuilder::new().file("word", word).build());
    images[0].write_layout(&layout, "one");
    images[1].write_layout(&layout, "two");
    env.run(["pull", "oci:set"]).refused(125, &["holds several images", "`one`, `two`", "dockless load"]);
    env.run(["pull", "oci:set:three"]).refused(125, &["has not got `three`", "hint: there is `one`, `two`"]);
    env.run(["pull", "oci:set:@2"]).refused(125, &["has not got `@2`"]);
    env.assert_nothing_stored();
    assert_eq!(env.run(["pull", "-q", "oci:set:@1"]).text(), images[1].digest().to_string());
    assert_eq!(env.run(["pull", "-q", "oci:set:one"]).text(), images[0].digest().to_string());
    assert_eq!(names(&env), ["localhost/set:one", "localhost/set:two"]);
    // Without names they are told apart by their digests.
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let bare = index.to_string().replace("org.opencontainers.image.ref.name", "x");
    fs::write(layout.join("index.json"), bare).unwrap();
    let loaded = env.run(["load", "-q", "-i", "set"]).text();
    let expected = images.map(|image| format!("Loaded image: localhost/set:{}", image.digest().short()));
    assert_eq!(loaded.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn an_index_of_one_image_that_names_no_platform_runs() {
    let Some(env) = empty() else { return };
    let image = base_image().file("hello", "hello").build();
    let layout = env.work().join("one");
    image.write_layout(&layout, "x");
    let inner =
        json!({ "schemaVersion": 2, "manifests": [descriptor(&image.media_type, &image.manifest)] }).to_string();
    fs::write(layout.join("blobs/sha256").join(Digest::sha256(inner.as_bytes()).hex()), &inner).unwrap();
    let media_type = "application/vnd.oci.image.index.v1+json";
    let top = json!({ "schemaVersion": 2, "manifests": [descriptor(media_type, inner.as_bytes())] });
    fs::write(layout.join("index.json"), top.to_string()).unwrap();
    assert_eq!(env.container(&["-q", "oci:one", "cat", "/hello"]).text(), "hello");
    assert_eq!(env.container(&["-q", "--pull", "never", "localhost/one", "cat", "/hello"]).text(), "hello");
    env.run(["pull", "--platform", "linux/arm64", "oci:one"]).refused(125, &["is for linux/amd64"]);
}

#[test]
fn an_index_is_kept_whole_and_brought_in_part() {
    let Some(env) = empty() else { return };
    let image = |platform: &str| ImageBuilder::new().platform(platform).file("p", platform).build();
    let index = BuiltIndex::of([image("linux/amd64"), image("linux/arm64")]);
    let layout = env.work().join("multi");
    for image in &index.images {
        image.write_layout(&layout, "x");
    }
    fs::write(layout.join("blobs/sha256").join(index.digest().hex()), &index.bytes).unwrap();
    let top = json!({ "schemaVersion": 2, "manifests": [descriptor(&index.media_type, &index.bytes)] });
    fs::write(layout.join("index.json"), top.to_string()).unwrap();
    env.run(["pull", "--platform", "linux/s390x", "oci:multi"]).refused(125, &["expected linux/s390x", "linux/arm64"]);
    env.assert_nothing_stored();
    assert_eq!(env.run(["pull", "-q", "oci:multi"]).text(), index.images[0].digest().to_string());
    let stored = |env: &TestEnv| env.stored().len();
    let part = stored(&env);
    // Of what is here in part, that part is saved, and is no index any more.
    env.run(["save", "--format", "oci-dir", "-o", "part", "localhost/multi"]).code(0);
    let saved: Value = serde_json::from_slice(&fs::read(env.work().join("part/index.json")).unwrap()).unwrap();
    assert_eq!(saved["manifests"][0]["digest"], index.images[0].digest().to_string());
    env.run(["load", "-q", "-i", "multi"]).code(0);
    assert!(stored(&env) > part);
    env.run(["save", "--format", "oci-archive", "-o", "whole.tar", "localhost/multi"]).code(0);
    env.run(["rmi", "localhost/multi"]).code(0);
    env.run(["load", "-q", "-i", "whole.tar"]).code(0);
    let line = env.run(["images", "--format", "json"]).json().remove_first();
    assert_eq!((&line["name"], &line["digest"]), (&json!("localhost/multi:latest"), &json!(index.digest())));
    let arm = ["save", "--platform", "linux/arm64", "-o", "arm.tar", "localhost/multi"];
    env.run(arm).code(0);
    env.run(["pull", "docker-archive:arm.tar"]).refused(125, &["is for linux/arm64, expected linux/amd64"]);
    env.run(["save", "--platform", "linux/s390x", "-o", "no.tar", "localhost/multi"]).refused(125, &["`--platform`"]);
    assert!(!env.work().join("no.tar").exists());
}

#[test]
fn what_is_no_image_is_told() {
    let Some(env) = empty() else { return };
    env.write("zip", b"PK\x03\x04");
    env.write("empty", "");
    env.write("text", "x".repeat(2000));
    env.write("root.tar", archive([Entry::dir("etc"), Entry::file("etc/passwd", "x")]));
    env.write("x.xz", b"\xfd7zXZ\0rest");
    env.write("sub/file", "x");
    for (source, words) in [
        ("zip", "it is a zip file"),
        ("empty", "the file is empty"),
        ("text", "it is no tar archive"),
        ("root.tar", "looks like a root file system"),
        ("x.xz", "compressed with xz"),
        ("sub", "has no `oci-layout`"),
        ("none", "cannot open `none`"),
    ] {
        env.run(["load", "-i", source]).refused(125, &[words]);
    }
    for (source, words) in [
        ("oci:root.tar", "is a file, expected the directory of an OCI layout"),
        ("oci-archive:sub", "is a directory, expected a file"),
        ("docker-archive:none", "cannot open `none`"),
        ("oci:", "has no path"),
    ] {
        env.run(["pull", source]).refused(125, &[words]);
    }
    env.assert_nothing_stored();
    env.assert_clean();
}

#[test]
fn saving_leaves_all_or_nothing() {
    let Some(env) = empty() else { return };
    let image = small();
    env.store_image("app", &image);
    env.write("there.tar", "old");
    env.write("full/x", "");
    env.run(["save", "nothing", "-o", "there.tar"]).refused(125, &["nothing"]);
    env.run(["save", "--format", "oci-dir", "app", "-o", "full"]).refused(125, &["`full` exists"]);
    env.run(["save", "--format", "oci-dir", "app"]).refused(125, &["--output"]);
    env.run(["save", "app", "-o", "none/x.tar"]).refused(125, &["cannot write `none/x.tar`"]);
    let before = entries(&env.work()).len();
    let blob = env.root().join("blobs/sha256").join(image.layers[1].digest.hex());
    let mut bytes = fs::read(&blob).unwrap();
    bytes[0] ^= 1;
    fs::write(&blob, bytes).unwrap();
    for format in ["docker-archive", "oci-archive", "oci-dir"] {
        let output = if format == "oci-dir" { "new" } else { "there.tar" };
        env.run(["save", "--format", format, "app", "-o", output]).refused(125, &["is damaged", "hint: "]);
    }
    fs::remove_file(&blob).unwrap();
    for format in ["docker-archive", "oci-archive"] {
        env.run(["save", "--format", format, "app", "-o", "there.tar"]).refused(125, &["is incomplete"]);
    }
    assert_eq!(fs::read(env.work().join("there.tar")).unwrap(), b"old");
    assert_eq!(entries(&env.work()).len(), before);
}

#[test]
fn specs_and_bundles_are_made_of_every_source() {
    let Some(env) = empty() else { return };
    let image = base_image().file("hello", "hello").cmd(["cat", "/hello"]).build();
    image.write_layout(&env.work().join("layout"), "tag");
    env.write("d.tar.gz", pack(&archive(docker_24(&image, "app:1")), Packing::Gzip));
    env.write("o.tar", archive(docker_25(&image, "app:2")));
    for (place, source) in ["oci:layout:tag", "docker-archive:d.tar.gz", "oci-archive:o.tar:app:2"].iter().enumerate() {
        assert_eq!(env.run(["spec", "-q", source]).json()["process"]["args"], json!(["cat", "/hello"]));
        let bundle = format!("bundle{place}");
        env.run(["bundle", "-q", source, &bundle]).code(0);
        assert_eq!(fs::read(env.work().join(&bundle).join("rootfs/hello")).unwrap(), b"hello");
        if have(&["runc"]) {
            let mut runc = program("runc", ["--root"]);
            runc.arg(env.dir().join("runc")).args(["run", "--bundle"]).arg(env.work().join(&bundle)).arg(env.name());
            assert_eq!(finish(&mut runc).text(), "hello");
        }
    }
    drop(fs::remove_dir_all(env.dir().join("runc")));
    env.assert_clean();
}

/// A workflow file goes from machine to machine, and so it has names; `load` gives an image the one it asks for.
#[test]
fn workflows_run_what_was_loaded_and_take_no_places() {
    let Some(env) = empty() else { return };
    let image = base_image().file("hello", "hello").build();
    env.write("app.tar", archive(docker_24(&image, "registry.example/team/app:1")));
    let workflow = |image: &str| {
        let text = format!("workflows: [{{ name: w, image: \"{image}\", commands: [cat /hello] }}]");
        env.write(".dstack/workflows.yaml", text);
        env.run(["workflow", "run", "w", "--name", &env.name()])
    };
    let hint = "hint: `dockless pull docker-archive:app.tar` takes the image into the store";
    workflow("docker-archive:app.tar").refused(125, &["`docker-archive:app.tar` is a place", hint]);
    env.run(["load", "-i", "app.tar"]).code(0);
    assert_eq!(workflow("registry.example/team/app:1").text(), "hello");
    env.assert_clean();
}

/// The manifest that is made for an archive without one is the same everywhere and for ever.
#[test]
fn made_manifests_never_change() {
    let Some(env) = empty() else { return };
    let image = small();
    env.write("old.tar", archive(docker_24(&image, "old:1")));
    env.run(["load", "-i", "old.tar"]).code(0);
    let layer = |layer: &BuiltLayer| {
        let (digest, size) = (&layer.diff_id, plain(layer).len());
        format!(r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{digest}","size":{size}}}"#)
    };
    let expected = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[{},{}]}}"#,
        config_digest(&image),
        image.config.len(),
        layer(&image.layers[0]),
        layer(&image.layers[1]),
    );
    assert_eq!(digests(&env, "old:1").0, Digest::sha256(expected.as_bytes()).to_string(), "{expected}");
}

#[test]
fn an_archive_is_no_text_for_a_terminal() {
    let Some(env) = empty() else { return };
    if find_program("script").is_none() {
        return;
    }
    env.store_image("app", &small());
    let save = env.command(["save", "app"]);
    let words: Vec<String> = std::iter::once(save.get_program())
        .chain(save.get_args())
        .map(|word| format!("'{}'", Path::new(word).display()))
        .collect();
    let told = finish(&mut program("script", ["-qec", &words.join(" "), "/dev/null"]));
    assert!(told.code == 125 && told.stdout.contains("standard output is a terminal"), "{told:?}");
}

#[test]
fn images_get_more_names() {
    let Some(env) = empty() else { return };
    let image = small();
    env.store_image("app:1", &image);
    env.run(["tag", "app:1", "ghcr.io/team/app:2"]).code(0);
    env.run(["tag", image.digest().short(), "third"]).code(0);
    assert_eq!(names(&env), ["app:1", "docker.io/library/third:latest", "ghcr.io/team/app:2"]);
    assert_eq!(digests(&env, "third").0, image.digest().to_string());
    env.run(["rmi", "app:1"]).code(0);
    env.run(["rmi", "third"]).code(0);
    // The last name keeps all that it stands for.
    env.run(["save", "-o", "x.tar", "ghcr.io/team/app:2"]).code(0);
    env.run(["tag", "nothing", "x"]).refused(125, &["nothing"]);
    let digest = format!("x@{}", image.digest());
    env.run(["tag", "ghcr.io/team/app:2", &digest]).refused(125, &["has a digest", "hint: "]);
    env.run(["tag", "ghcr.io/team/app:2", "UPPER"]).refused(125, &["lower case"]);
}
