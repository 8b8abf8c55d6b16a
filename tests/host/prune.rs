//! Removing images under every hardship: while they run, on a full disk, killed in the middle, with hostile trees; and what
//! `system df` says of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::base::{app, app_with, base_image, empty};
use crate::support::env::{TestEnv, entries, finish, have, program, skip, tool, wait_until};
use crate::support::image::{BuiltImage, Entry, ImageBuilder, Packing};

const WAITS: &str = "trap 'cat /late; exit 0' TERM; echo ready; while :; do usleep 20000; done";

/// An ext4 of its own below the store of a test, as small as is asked for.
struct SmallDisk {
    path: PathBuf,
    _file: tempfile::TempDir,
}

impl SmallDisk {
    fn on(path: PathBuf, options: &[&str]) -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let file = dir.path().join("disk").into_os_string().into_string().unwrap();
        // Nothing is left to root alone.
        let fixed = ["-q", "-F", "-m", "0", "-O", "^has_journal"];
        tool("mkfs.ext4", [&fixed[..], options, &[&file, "48m"]].concat());
        fs::create_dir_all(&path).unwrap();
        tool("mount", ["-o", "loop", &file, path.to_str().unwrap()]);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        Self { path, _file: dir }
    }

    fn free(&self) -> (u64, u64) {
        let stat = nix::sys::statvfs::statvfs(&self.path).unwrap();
        (stat.blocks_available(), stat.files_free())
    }

    /// Leaves no byte, or no inode.
    fn fill(&self, what: &str) {
        let dir = self.path.join("others");
        fs::create_dir(&dir).unwrap();
        if what == "inodes" {
            let mut number = 0;
            while fs::File::create(dir.join(number.to_string())).is_ok() {
                number += 1;
            }
            assert_eq!(self.free().1, 0);
        } else {
            for size in ["1M", "4k", "512"] {
                let target = format!("of={}/{size}", dir.display());
                let filled =
                    finish(&mut program("dd", ["if=/dev/zero", &target, &format!("bs={size}"), "status=none"]));
                assert_ne!(filled.code, 0, "there was room");
            }
            assert_eq!(self.free().0, 0);
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        tool("umount", ["-l", self.path.to_str().unwrap()]);
    }
}

fn big(name: &str) -> BuiltImage {
    let files = (0..40).fold(base_image(), |image, number| image.file(&format!("data/{number}"), noise(name, number)));
    files.build()
}

/// What no compression makes smaller.
fn noise(seed: &str, number: usize) -> Vec<u8> {
    let mut state = seed.bytes().fold(number as u64 + 1, |state, byte| state * 31 + u64::from(byte));
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    (0..100_000).map(|_| next()).collect()
}

fn names(env: &TestEnv) -> Vec<String> {
    let list = env.run(["images", "--format", "json"]).json();
    list.as_array().unwrap().iter().map(|line| line["name"].as_str().unwrap().to_owned()).collect()
}

fn trash(env: &TestEnv) -> Vec<PathBuf> {
    entries(&env.root().join("trash"))
}

#[track_caller]
fn assert_no_trash(env: &TestEnv) {
    assert!(wait_until(|| trash(env).is_empty()), "{:?}", trash(env));
}

#[test]
fn a_full_disk_is_freed() {
    let Some(env) = empty().filter(|_| have(&["mkfs.ext4"])) else { return };
    let image = big("one");
    // Without a reserve the layers make room; an image that is not unpacked has none.
    for (what, command, with_reserve, is_unpacked) in [
        ("bytes", &["rmi", "one"][..], true, false),
        ("bytes", &["rmi", "one"], false, true),
        ("bytes", &["prune", "images", "--all", "-f"], true, true),
        ("inodes", &["system", "prune", "--all", "-f"], true, true),
        ("inodes", &["rmi", "one"], false, true),
    ] {
        let inodes = if what == "inodes" { "700" } else { "4000" };
        let disk = SmallDisk::on(env.root(), &["-N", inodes]);
        env.store_image("one", &image);
        env.run(if is_unpacked { ["spec", "one"] } else { ["ps", "-a"] }).code(0);
        assert!(env.root().join("reserve").exists());
        if !with_reserve {
            fs::remove_file(env.root().join("reserve")).unwrap();
            // A pull makes it; the reserve has an inode for it, and nothing else has.
            fs::write(env.root().join("locks/index"), "").unwrap();
        }
        disk.fill(what);
        let before = disk.free();
        let output = env.run(command).code(0);
        assert!(!output.stderr.contains("warning"), "{what} {command:?}: {}", output.stderr);
        assert_no_trash(&env);
        assert!(disk.free().0 > before.0 + 800 && disk.free().1 > before.1, "{what} {command:?}");
        assert!(names(&env).is_empty() && env.stored().is_empty(), "{what} {command:?}: {:?}", env.stored());
        assert!(wait_until(|| env.root().join("reserve").exists()), "it is laid in again");
        let sum = fs::read_to_string(env.root().join("index.json")).unwrap();
        assert!(serde_json::from_str::<Value>(&sum).is_ok(), "{sum}");
    }
}

/// More layers than names fit into the directory of the trash, which cannot grow.
#[test]
fn many_layers_go_from_a_full_disk() {
    let Some(env) = empty().filter(|_| have(&["mkfs.ext4"])) else { return };
    let disk = SmallDisk::on(env.root(), &["-N", "8000", "-b", "1024"]);
    let mut image = base_image();
    for number in 0..120 {
        image = image.file(&format!("layer-{number}"), &noise("many", number)[..2000]).layer();
    }
    env.store_image("many", &image.build());
    env.run(["spec", "many"]).code(0);
    disk.fill("bytes");
    env.run(["rmi", "many"]).code(0);
    assert_no_trash(&env);
    assert!(env.stored().is_empty() && disk.free().0 > 1000);
}

#[test]
fn what_a_container_reads_stays() {
    let Some(env) = app_with(|image| image.file("late", "still here")) else { return };
    env.store_image("other", &base_image().file("x", "x").build());
    let (name, kept) = (env.name(), env.name());
    let running = env.spawn(["run", "--name", &name, "app", "sh", "-c", WAITS]);
    running.wait_for("ready");
    env.run(["rmi", "app"]).refused(125, &[&format!("image `app` is used by run `{name}`"), "--force"]);
    env.run(["rmi", "--all"]).refused(125, &["is used by run"]);
    let pruned = env.run(["prune", "images", "--all", "-f", "--verbose"]).code(0);
    assert!(
        pruned.stdout == "other\n"
            && pruned.stderr.contains(&format!("kept image `app:latest`: run `{name}` needs it"))
    );
    let forced = env.run(["rmi", "-f", "app", "nothing"]).code(0);
    assert_eq!(forced.stdout, "app\n");
    assert!(forced.stderr.contains(&format!("run `{name}` keeps the layers of `app`")), "{}", forced.stderr);
    assert!(forced.stderr.contains("no image `nothing`"), "{}", forced.stderr);
    env.run(["prune", "images", "--all", "-f"]).code(0);
    env.run(["system", "prune", "--all", "-f"]).code(0);
    assert!(names(&env).is_empty());
    running.signal(Signal::SIGTERM);
    assert_eq!(running.finish().text(), "ready\nstill here");
    env.run(["system", "prune", "--all", "-f"]).code(0);
    assert_no_trash(&env);
    env.assert_nothing_stored();

    // One that has ended and kept its writable layer needs them too.
    env.store_image("app", &base_image().build());
    env.run(["run", "--keep", "--name", &kept, "app", "touch", "/mine"]).code(0);
    env.run(["rmi", "app"]).refused(125, &[&format!("used by run `{kept}`")]);
    env.run(["prune", "images", "--all", "-f"]).code(0);
    assert_eq!(names(&env), ["app"]);
    // With the run the image may go in one step.
    let all = env.run(["system", "prune", "--all", "-f", "--format", "json"]).json();
    assert_eq!((&all["runs"], &all["images"][0]["name"]), (&json!([kept]), &json!("app")));
    assert_no_trash(&env);
    env.assert_nothing_stored();
    env.assert_clean();
}

#[test]
fn a_removal_that_is_killed_leaves_whole_images_and_no_leak() {
    let Some(env) = empty() else { return };
    let images = ["one", "two", "three"].map(|name| (name, big(name)));
    for round in 0..8 {
        for (name, image) in &images {
            if !names(&env).contains(&(*name).to_owned()) {
                env.store_image(name, image);
            }
            env.run(["spec", name]).code(0);
        }
        let command: &[&str] =
            if round % 2 == 0 { &["rmi", "one", "two"] } else { &["prune", "images", "--all", "-f"] };
        let removal = env.spawn(command);
        std::thread::sleep(Duration::from_millis(3 + round * 3));
        // It may have ended.
        removal.signal(Signal::SIGKILL);
        drop(removal.finish());
        let left = names(&env);
        for name in &left {
            let read = env.container(&["--pull", "never", name, "sh", "-c", "cat /data/* | wc -c"]);
            assert_eq!(read.text(), "4000000", "round {round}: {name}");
        }
        let mended = wait_until(|| {
            // One that finds the store in use leaves it to the next.
            env.run(["prune", "runs", "-f"]).code(0);
            trash(&env).is_empty()
        });
        assert!(mended && shares(&env)("orphans")["total"] == 0, "round {round}: {:?} {:?}", trash(&env), env.stored());
    }
    env.run(["rmi", "--all", "-f"]).code(0);
    assert_no_trash(&env);
    env.assert_nothing_stored();
    env.assert_clean();
}

fn many_files(count: usize) -> BuiltImage {
    let files = (0..count).map(|number| format!("tree/{}/{number}", number / 1000));
    files.fold(ImageBuilder::new().packing(Packing::Plain), |image, path| image.file(&path, "x")).cmd(["x"]).build()
}

#[test]
fn much_is_unlinked_by_a_process_of_its_own() {
    let Some(env) = empty() else { return };
    env.store_image("many", &many_files(2500));
    env.run(["spec", "many"]).code(0);
    // `finish` waits until nobody holds the pipes.
    let output = env.run(["rmi", "many"]).code(0);
    assert!(output.stderr.contains("removed 3 blobs and 1 layers"), "{}", output.stderr);
    env.assert_nothing_stored();
    assert_no_trash(&env);
    // One that was killed: the next command starts another.
    let layer = env.dir().join("layer");
    for number in 0..2500 {
        let dir = layer.join(format!("fs/{}", number / 100));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(number.to_string()), "x").unwrap();
    }
    // In one step, as everything comes there: the first process may still be looking.
    fs::rename(layer, env.root().join("trash/layer-x-0")).unwrap();
    env.run(["prune", "runs", "-f"]).code(0);
    assert_no_trash(&env);
    env.assert_clean();
}

#[test]
fn hostile_trees_go() {
    let Some(env) = app_with(|image| {
        image
            .entry(Entry::dir("closed").mode(0o000))
            .entry(Entry::file("closed/file", "x").mode(0o000))
            .entry(Entry::fifo("pipe"))
    }) else {
        return;
    };
    // Longer than a path can be.
    let script = "cd /tmp; n=$(printf %0200d 0); mkdir $n; for i in $(seq 30); do mkdir e; mv $n e/; mv e $n; done";
    let name = env.name();
    env.run(["run", "--keep", "--name", &name, "app", "sh", "-c", script]).code(0);
    env.run(["system", "prune", "--all", "-f"]).code(0);
    assert_no_trash(&env);
    env.assert_nothing_stored();
    env.assert_clean();
}

#[test]
fn what_is_immutable_is_told() {
    let Some(env) = app_with(|image| image.file("kept/stone", "x").file("kept/sand", "x")) else { return };
    let stone = entries(&env.root().join("layers/sha256")).into_iter().map(|layer| layer.join("fs/kept/stone"));
    let stone = stone.into_iter().find(|path| path.exists()).unwrap();
    if finish(&mut program("chattr", ["+i", stone.to_str().unwrap()])).code != 0 {
        skip("this file system knows no immutable files");
        return;
    }
    let output = env.run(["rmi", "app"]).code(0);
    assert!(output.stderr.contains("warning: cannot remove") && output.stderr.contains("`stone`"), "{}", output.stderr);
    assert!(output.stderr.contains("chattr -R -i -a"), "{}", output.stderr);
    let left = trash(&env);
    assert!(left.len() == 1 && left[0].join("fs/kept/stone").exists() && !left[0].join("fs/kept/sand").exists());
    // It keeps nobody from anything, and is told again by who would remove it.
    assert_eq!(env.run(["prune", "runs", "-f"]).code(0).stderr, "no runs to remove\n");
    let df = env.run(["system", "df", "--format", "json"]).json();
    assert_eq!((&df[6]["type"], &df[6]["total"]), (&json!("left_overs"), &json!(1)));
    assert!(env.run(["system", "prune", "-f"]).code(0).stderr.contains("is it immutable?"));
    tool("chattr", ["-R", "-i", left[0].to_str().unwrap()]);
    assert!(!env.run(["system", "prune", "-f"]).code(0).stderr.contains("warning"));
    assert_no_trash(&env);
    env.assert_clean();
}

fn set_last_used(env: &TestEnv, image: &BuiltImage, days: u64) {
    let blob = env.root().join("blobs/sha256").join(image.digest().hex());
    let time = std::time::SystemTime::now() - Duration::from_secs(days * 86_400);
    fs::File::open(blob).unwrap().set_modified(time).unwrap();
}

#[test]
fn images_are_pruned_by_use_label_and_name() {
    let Some(env) = empty() else { return };
    let image = |name: &str| base_image().file(name, name).label("who", name).build();
    let [old, used, young, unnamed] = ["old", "used", "young", "unnamed"].map(image);
    for (name, image) in [("old", &old), ("used", &used), ("young", &young), ("", &unnamed)] {
        env.store_image(name, image);
    }
    for image in [&old, &used] {
        set_last_used(&env, image, 9);
    }
    env.container(&["--pull", "never", "used", "true"]).code(0);
    let prune = |arguments: &[&str]| {
        let output = env.run(["prune", "images"].iter().chain(arguments)).code(0);
        (output.stdout, output.stderr)
    };
    let dry = prune(&["--all", "--older-than", "7d", "--dry-run"]);
    assert!(dry.0 == "old\n" && dry.1.contains("would remove 1 image, "), "{dry:?}");
    assert_eq!(prune(&["--all", "--filter", "until=7d", "--dry-run"]).0, "old\n");
    assert_eq!(prune(&["--all", "--filter", "label=who=young", "--dry-run"]).0, "young\n");
    let negated = ["--all", "--filter", "label!=who=young", "--filter", "label=who", "--dry-run"];
    assert_eq!(prune(&negated).0, format!("old\nused\n{}\n", unnamed.digest()));
    assert_eq!(prune(&["--filter", "dangling=false", "--dry-run", "-q"]).0.lines().count(), 4);
    env.run(["prune", "images", "--filter", "size=3"]).refused(125, &["`--filter size=3` is malformed"]);
    let nobody = env.run(["prune", "images"]).code(125);
    assert!(nobody.stderr.contains("1 image, ") && nobody.stderr.contains("hint: `--force`"), "{}", nobody.stderr);
    assert_eq!(prune(&["-f"]).0, format!("{}\n", unnamed.digest()));
    assert_eq!(prune(&["-f"]), (String::new(), "no images to remove\n".to_owned()));
    assert_eq!(prune(&["--all", "-f", "--older-than", "7d"]).0, "old\n");
    assert_eq!(names(&env), ["used", "young"]);
    // A digest with several names is asked about.
    env.store_image("twin", &young);
    env.run(["rmi", young.digest().short()]).refused(125, &["`young`, `twin`"]);
    assert_eq!(env.run(["rmi", "-f", young.digest().short()]).code(0).stdout, "young\ntwin\n");
    assert_eq!(names(&env), ["used"]);
    env.container(&["--pull", "never", "used", "true"]).code(0);
    env.assert_clean();
}

fn shares(env: &TestEnv) -> impl Fn(&str) -> Value {
    let df = env.run(["system", "df", "--format", "json"]).json();
    move |kind| df.as_array().unwrap().iter().find(|share| share["type"] == kind).unwrap().clone()
}

fn du(path: &Path) -> u64 {
    let text = tool("du", ["-s", "--block-size=1", path.to_str().unwrap()]);
    text.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn df_counts_what_is_shared_once() {
    let Some(env) = app() else { return };
    env.store_image("twin", &base_image().file("x", noise("x", 0)).build());
    env.run(["spec", "twin"]).code(0);
    let name = env.name();
    let running = env.spawn([
        "run",
        "--name",
        &name,
        "app",
        "sh",
        "-c",
        "trap 'exit 0' TERM; dd if=/dev/zero of=/big bs=1M count=3; echo ready; while :; do usleep 20000; done",
    ]);
    running.wait_for("ready");
    let share = shares(&env);
    let sizes =
        |kind: &str| (share(kind)["size_bytes"].as_u64().unwrap(), share(kind)["reclaimable_bytes"].as_u64().unwrap());
    let blobs: u64 = entries(&env.root().join("blobs/sha256")).iter().map(|path| du(path)).sum();
    let layers: u64 = entries(&env.root().join("layers/sha256")).iter().map(|path| du(path)).sum();
    assert_eq!((share("images")["total"].as_u64(), share("images")["active"].as_u64()), (Some(2), Some(1)));
    assert_eq!((sizes("images").0, sizes("layers").0), (blobs, layers));
    assert!((100_000..200_000).contains(&sizes("layers").1), "only the layer of `twin`: {:?}", sizes("layers"));
    assert!(sizes("runs").0 >= 3 << 20 && sizes("runs").1 == 0, "{:?}", sizes("runs"));
    assert_eq!((sizes("orphans").0, sizes("left_overs").0), (0, 0));
    fs::write(env.root().join("tmp/sha256-0.blob"), vec![1; 50_000]).unwrap();
    env.run(["rmi", "-f", "app"]).code(0);
    running.signal(Signal::SIGTERM);
    drop(running.finish());
    fs::write(env.root().join("tmp/sha256-0.blob"), vec![1; 50_000]).unwrap();
    let share = shares(&env);
    assert!(share("orphans")["size_bytes"].as_u64() == share("orphans")["reclaimable_bytes"].as_u64());
    assert!(share("left_overs")["size_bytes"].as_u64() >= Some(50_000));
    assert!(env.run(["system", "df", "--details"]).text().contains("sha256-0.blob"));
    let freed = env.run(["system", "prune", "--all", "-f"]).code(0);
    assert!(freed.stderr.contains("removed 1 run, 1 image ("), "{}", freed.stderr);
    assert_no_trash(&env);
    let share = shares(&env);
    for kind in ["images", "layers", "runs", "artifacts", "caches", "orphans", "left_overs"] {
        assert_eq!(share(kind)["total"], 0, "{kind}");
    }
    assert_eq!(env.run(["system", "prune"]).code(0).stderr, "nothing to remove\n");
    env.assert_clean();
}

/// The process that unlinks what was removed from this store.
fn reaper(env: &TestEnv) -> Option<PathBuf> {
    let words = format!("dockless-reaper\0{}\0", env.root().canonicalize().unwrap().display());
    entries(Path::new("/proc"))
        .into_iter()
        .find(|process| fs::read(process.join("cmdline")).is_ok_and(|found| found == words.as_bytes()))
}

#[test]
fn a_prompt_comes_back_before_the_files_are_gone() {
    let Some(env) = empty() else { return };
    env.store_image("many", &many_files(8000));
    env.run(["spec", "many"]).code(0);
    let begun = Instant::now();
    env.run(["rmi", "many"]).code(0);
    let returned = begun.elapsed();
    // A very fast disk has ended it already.
    if let Some(process) = reaper(&env) {
        for number in 0..3 {
            let open = fs::read_link(process.join(format!("fd/{number}"))).unwrap_or_else(|_| "/dev/null".into());
            assert_eq!(open, Path::new("/dev/null"), "{number}");
        }
        let pid = process.file_name().unwrap().to_str().unwrap();
        let has_own_session = wait_until(|| {
            let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
            stat.is_empty() || stat.rsplit(") ").next().unwrap().split(' ').nth(3) == Some(pid)
        });
        assert!(has_own_session, "the terminal's signals reach it");
        // It may be gone by now.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.parse().unwrap()), Signal::SIGKILL);
        // A process that is being killed holds its lock until it is gone; the first command after that starts another.
        assert!(wait_until(|| {
            env.run(["prune", "runs", "-f"]).code(0);
            trash(&env).is_empty()
        }));
    }
    assert_no_trash(&env);
    crate::support::env::say(&format!("rmi of 8,000 files: {returned:?}, all gone after {:?}", begun.elapsed()));
    env.assert_clean();
}
