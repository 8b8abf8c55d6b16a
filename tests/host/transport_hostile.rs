//! Images in and out: archives and layouts that are damaged, or lie, or want too much.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use dockless::image::Digest;

use crate::base::empty;
use crate::support::env::{Running, entries, finish_with, program, tool};
use crate::support::image::{Entry, ImageBuilder, Packing, descriptor, pack};
use crate::transport::{archive, config_digest, digests, docker_24, docker_25, names, plain, small};

#[test]
fn damaged_archives_leave_nothing() {
    let Some(env) = empty() else { return };
    let image = small();
    for (name, entries) in [("old", docker_24(&image, "app:1")), ("new", docker_25(&image, "app:1"))] {
        let bytes = archive(entries);
        for cut in [100, bytes.len() / 3, bytes.len() / 2] {
            finish_with(&mut env.command(["load"]), &bytes[..cut]).refused(125, &["standard input", "hint: "]);
            env.write("cut.tar", &bytes[..cut]);
            env.run(["load", "-i", "cut.tar"]).refused(125, &["cut.tar", "hint: "]);
        }
        let packed = pack(&bytes, Packing::Gzip);
        finish_with(&mut env.command(["load"]), &packed[..packed.len() / 2]).refused(125, &["ends early"]);
        for needle in [&b"hello"[..], b"\"rootfs\""] {
            let mut flipped = bytes.clone();
            let at = flipped.windows(needle.len()).rposition(|window| window == needle).unwrap();
            flipped[at + 1] ^= 1;
            env.write("flipped.tar", flipped);
            let words = ["hashes to", "expected `sha256:", "hint: it is damaged"];
            env.run(["load", "-i", "flipped.tar"]).refused(125, &words);
        }
        assert_eq!(names(&env), Vec::<String>::new(), "{name}");
        // A layer that came before the damage may be there, without a name.
        env.assert_clean();
    }
}

#[test]
fn lying_archives_are_refused() {
    let Some(env) = empty() else { return };
    let image = small();
    let config = format!("{}.json", config_digest(&image).hex());
    let with = |manifest: Value, more: Vec<Entry>| {
        let files = [Entry::file(&config, &image.config), Entry::file("manifest.json", manifest.to_string())];
        archive(files.into_iter().chain(more))
    };
    let entry = |layers: &[&str]| json!([{ "Config": config, "RepoTags": null, "Layers": layers }]);
    let layer = plain(&image.layers[0]);
    for (bytes, words) in [
        (with(entry(&["a"]), vec![]), "has 1 layers for an image with 2 diff IDs"),
        (with(entry(&["a", "b"]), vec![]), "has no `a`"),
        (with(entry(&["../../../etc/passwd", "b"]), vec![]), "has no `../../../etc/passwd`"),
        (with(entry(&["/etc/passwd", "b"]), vec![]), "has no `/etc/passwd`"),
        (with(entry(&["a", "b"]), vec![Entry::symlink("a", "/etc/passwd")]), "leads nowhere in the archive"),
        (with(entry(&["a", "b"]), vec![Entry::symlink("a", "b"), Entry::symlink("b", "a")]), "leads nowhere"),
        (with(entry(&["a", "a"]), vec![Entry::file("a", &layer)]), "hashes to"),
        (with(entry(&["a", "b"]), vec![Entry::fifo("a")]), "has no `a`"),
        (with(json!({}), vec![]), "`manifest.json` in `lie.tar` is damaged"),
        (archive([Entry::file("manifest.json", "[".repeat(5 << 20))]), "is too large"),
    ] {
        env.write("lie.tar", bytes);
        env.run(["load", "-i", "lie.tar"]).refused(125, &[words]);
    }
    assert_eq!(names(&env), Vec::<String>::new());
    env.assert_clean();
}

#[test]
fn a_name_cannot_lie_about_its_digest() {
    let Some(env) = empty() else { return };
    let (image, other) = (small(), Digest::sha256(b"other"));
    let layout = env.work().join("lie");
    image.write_layout(&layout, &format!("docker.io/library/a@{other}"));
    assert_eq!(env.run(["load", "-q", "-i", "lie"]).text(), "Loaded image: localhost/lie:latest");
    env.run(["pull", "-q", "oci:lie"]).code(0);
    assert_eq!(names(&env), ["localhost/lie:latest"]);
    let honest = env.work().join("honest");
    image.write_layout(&honest, &format!("docker.io/library/a@{}", image.digest()));
    assert_eq!(env.run(["load", "-q", "-i", "honest"]).text(), format!("Loaded image: a@{}", image.digest()));
}

#[test]
fn layouts_do_not_lead_out_of_their_directory() {
    let Some(env) = empty() else { return };
    let image = small();
    let layout = env.work().join("layout");
    image.write_layout(&layout, "tag");
    let blob = |digest: &Digest| layout.join("blobs/sha256").join(digest.hex());
    let layer = blob(&image.layers[0].digest);
    let outside = env.write("outside", fs::read(&layer).unwrap());
    fs::remove_file(&layer).unwrap();
    std::os::unix::fs::symlink(&outside, &layer).unwrap();
    env.run(["pull", "oci:layout"]).refused(125, &["oci:layout", image.layers[0].digest.hex(), "it is incomplete"]);
    fs::remove_file(&layer).unwrap();
    tool("mkfifo", [&layer]);
    env.run(["pull", "oci:layout"]).refused(125, &["it is incomplete"]);
    fs::remove_file(&layer).unwrap();
    fs::copy(outside, &layer).unwrap();
    env.run(["pull", "oci:layout"]).code(0);
    fs::rename(layout.join("blobs"), env.work().join("blobs")).unwrap();
    std::os::unix::fs::symlink(env.work().join("blobs"), layout.join("blobs")).unwrap();
    env.run(["rmi", "localhost/layout:tag"]).code(0);
    env.run(["pull", "oci:layout"]).refused(125, &["oci:layout"]);
    env.assert_nothing_stored();
}

/// Puts a document into a layout and makes it all that `index.json` lists.
fn list(layout: &Path, media_type: &str, document: &[u8]) -> Value {
    let entry = descriptor(media_type, document);
    fs::write(layout.join("blobs/sha256").join(Digest::sha256(document).hex()), document).unwrap();
    write_index(layout, std::slice::from_ref(&entry));
    entry
}

fn write_index(layout: &Path, entries: &[Value]) {
    let index = json!({ "schemaVersion": 2, "manifests": entries });
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
}

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What is done to a layout, and what is said of it.
type Lie = (&'static str, fn(&Path), &'static str);

const LIES: [Lie; 13] = [
    (
        "a changed layer",
        |layout| change(layout, &small().layers[1].digest, |bytes| bytes[0] ^= 1),
        "hashes to `sha256:",
    ),
    ("a short layer", |layout| change(layout, &small().layers[1].digest, Vec::clear), "has 0 bytes, expected "),
    ("a changed manifest", |layout| change(layout, &small().digest(), |bytes| bytes[0] ^= 1), "hashes to `sha256:"),
    ("a changed configuration", |layout| change(layout, &config_digest(&small()), |bytes| bytes[0] ^= 1), "hashes to"),
    ("no layer", |layout| fs::remove_file(blob(layout, &small().layers[1].digest)).unwrap(), "it is incomplete"),
    (
        "an endless index",
        |layout| fs::write(layout.join("index.json"), "[".repeat(5 << 20)).unwrap(),
        "is too large, at most 4 MiB",
    ),
    (
        "another version",
        |layout| fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap(),
        "version `2.0.0`, expected `1.0.0`",
    ),
    ("no image", |layout| write_index(layout, &[]), "has not got an image\nhint: there is no image at all"),
    (
        "a digest that climbs",
        |layout| {
            write_index(layout, &[json!({ "mediaType": MANIFEST, "digest": "sha256:../../../etc/passwd", "size": 7 })]);
        },
        "`index.json` in",
    ),
    (
        "a manifest of a gigabyte",
        |layout| {
            let mut entry = descriptor(MANIFEST, &small().manifest);
            entry["size"] = json!(1 << 30);
            write_index(layout, &[entry]);
        },
        "is too large, at most 4 MiB",
    ),
    (
        "a manifest that is called an index",
        |layout| {
            list(layout, INDEX, &small().manifest);
        },
        "CVE-2021-41190",
    ),
    (
        "indexes in indexes",
        |layout| {
            let mut inner = descriptor(MANIFEST, &small().manifest);
            for _ in 0..6 {
                let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [inner] });
                inner = list(layout, INDEX, index.to_string().as_bytes());
            }
        },
        "holds indexes more than 4 deep",
    ),
    (
        "a thousand and one images",
        |layout| write_index(layout, &vec![descriptor(MANIFEST, &small().manifest); 1001]),
        "`index.json` is too large, at most 1000 images",
    ),
];

fn blob(layout: &Path, digest: &Digest) -> std::path::PathBuf {
    layout.join("blobs/sha256").join(digest.hex())
}

fn change(layout: &Path, digest: &Digest, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(blob(layout, digest)).unwrap();
    change(&mut bytes);
    fs::write(blob(layout, digest), bytes).unwrap();
}

#[test]
fn lying_layouts_are_refused_each_for_its_reason() {
    let Some(env) = empty() else { return };
    for (number, (what, lie, words)) in LIES.into_iter().enumerate() {
        let name = format!("lie{number}");
        let layout = env.work().join(&name);
        small().write_layout(&layout, "tag");
        lie(&layout);
        for command in [["load", "-i", name.as_str()], ["pull", "-q", &format!("oci:{name}")]] {
            let told = env.run(command);
            assert!(told.code == 125 && told.stderr.contains(words), "{what}: expected `{words}` in {}", told.stderr);
            assert!(told.stderr.contains(&name), "{what}: {}", told.stderr);
        }
        assert_eq!(names(&env), Vec::<String>::new(), "{what}");
    }
    env.assert_clean();
}

#[test]
fn what_an_archive_says_does_not_drive_the_terminal() {
    let Some(env) = empty() else { return };
    let layout = env.work().join("loud");
    small().write_layout(&layout, "tag");
    let mut entry = descriptor(MANIFEST, &small().manifest);
    entry["digest"] = json!("sha256:\u{1b}]0;title\u{7}");
    write_index(&layout, &[entry]);
    let told = env.run(["load", "-i", "loud"]).refused(125, &["sha256:\\u{1b}]0;title\\u{7}"]);
    assert!(!told.stderr.contains('\u{1b}'), "{}", told.stderr);
}

#[test]
fn indexes_that_multiply_are_looked_at_once() {
    let Some(env) = empty() else { return };
    let layout = env.work().join("many");
    small().write_layout(&layout, "tag");
    let mut inner = descriptor(MANIFEST, &small().manifest);
    for _ in 0..4 {
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": vec![inner; 2000] });
        inner = list(&layout, INDEX, index.to_string().as_bytes());
    }
    // Sixteen million million manifests, if they were counted.
    assert_eq!(env.run(["load", "-q", "-i", "many"]).text(), "Loaded image: localhost/many:latest");
    assert_eq!(names(&env), ["localhost/many:latest"]);
    env.run(["inspect", "localhost/many"]).code(0);
    env.run(["check", "-q", "localhost/many"]).code(0);
    for format in ["docker-archive", "oci-archive"] {
        env.run(["save", "--format", format, "-o", "many.tar", "localhost/many"]).code(0);
    }
    env.run(["rmi", "localhost/many"]).code(0);
    env.assert_nothing_stored();
}

#[test]
fn of_two_members_of_one_name_the_later_counts() {
    let Some(env) = empty() else { return };
    let image = small();
    let config = format!("{}.json", config_digest(&image).hex());
    let with = |first: bool| {
        let mut all = docker_24(&image, "app:1");
        let place = if first { 0 } else { all.len() };
        all.insert(place, Entry::file(&config, "{}"));
        archive(all)
    };
    env.write("later.tar", with(false));
    env.run(["load", "-i", "later.tar"]).refused(125, &[&config, "hashes to"]);
    env.write("first.tar", with(true));
    env.run(["load", "-i", "first.tar"]).code(0);
}

#[test]
fn members_and_layers_without_number_are_refused() {
    let Some(env) = empty() else { return };
    let member = &archive([Entry::file("x", "")])[..512];
    let told = finish_with(&mut env.command(["load"]), &member.repeat(100_001));
    told.refused(125, &["the archive is too large, at most 100000 members"]);
    // A list that is small enough, and makes a manifest that nobody would read again.
    let mut image = ImageBuilder::new().packing(Packing::Plain).file("a", "a").build();
    let layer = plain(&image.layers[0]);
    let mut config: Value = serde_json::from_slice(&image.config).unwrap();
    config["rootfs"]["diff_ids"] = json!(vec![image.layers[0].diff_id.to_string(); 30_000]);
    config["history"] = json!([]);
    image.config = config.to_string().into_bytes();
    let name = format!("{}.json", config_digest(&image).hex());
    let manifest = json!([{ "Config": name, "RepoTags": ["a:1"], "Layers": vec!["a"; 30_000] }]);
    let files = [("manifest.json", manifest.to_string().into_bytes()), (&name, image.config), ("a", layer)];
    env.write("many.tar", archive(files.map(|(name, bytes)| Entry::file(name, bytes))));
    env.run(["load", "-i", "many.tar"]).refused(125, &["the list of layers is too large, at most 4 MiB"]);
    assert_eq!(names(&env), Vec::<String>::new());
    env.assert_clean();
}

#[test]
fn an_archive_without_end_stops_where_the_disk_does() {
    let Some(env) = empty() else { return };
    fs::create_dir(env.root()).unwrap();
    let script = "
        root=$1; shift
        mount -t tmpfs -o size=128m none $root || exit 99
        \"$@\"; code=$?
        du -sk --exclude=reserve $root | cut -f 1
        exit $code";
    let mut unshare = program("unshare", ["-m", "sh", "-c", script, "sh"]);
    let load = env.command(["load"]);
    unshare.arg(env.root()).arg(load.get_program()).args(load.get_args());
    let told = finish_with(&mut unshare, &pack(&vec![0; 256 << 20], Packing::Gzip));
    let told = told.refused(125, &["not enough space in", "MiB needed", "hint: "]);
    let left_kib: u64 = told.stdout.trim().parse().unwrap();
    assert!(left_kib < 100, "{left_kib} KiB stay on the disk");
}

#[test]
fn a_killed_load_leaves_nothing_and_the_next_one_succeeds() {
    let Some(env) = empty() else { return };
    let big = ImageBuilder::new().packing(Packing::Plain).file("zeros", vec![0; 96 << 20]).build();
    let bytes = archive(docker_25(&big, "app:1"));
    // While it reads: what it has read has no name.
    let mut load = Running::start(env.command(["load", "-q"]).stdin(Stdio::piped()));
    let mut stdin = load.stdin();
    stdin.write_all(&bytes[..bytes.len() / 2]).unwrap();
    load.signal(Signal::SIGKILL);
    load.finish().code(137);
    env.assert_clean();
    env.assert_nothing_stored();
    // While it copies a layer.
    let path = env.write("app.tar", &bytes);
    let half_written =
        || entries(&env.root().join("tmp")).iter().any(|path| fs::metadata(path).is_ok_and(|m| m.len() > 0));
    let mut killed = false;
    for _ in 0..5 {
        let load = env.spawn(["load", "-q", "-i", &path]);
        let stat = format!("/proc/{}/stat", load.pid());
        while !half_written() && !fs::read_to_string(&stat).unwrap().contains(") Z ") {
            sleep(Duration::from_micros(200));
        }
        load.signal(Signal::SIGKILL);
        killed = load.finish().code == 137;
        if killed {
            break;
        }
        env.run(["rmi", "app:1"]).code(0);
    }
    assert!(killed, "it was never caught while it copied");
    assert_eq!(fs::read_to_string(env.root().join("index.json")).unwrap_or_default().matches("app").count(), 0);
    assert_eq!(names(&env), Vec::<String>::new());
    assert_eq!(env.run(["load", "-q", "-i", &path]).text(), "Loaded image: app:1");
    assert_eq!(digests(&env, "app:1").0, big.digest().to_string());
    env.assert_clean();
}
