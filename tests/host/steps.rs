//! `kill -9` and power cuts at each step of a command that changes the store: the next command works, nothing half-made
//! is seen, nothing leaks, and the same command once more gets there.
//!
//! A step is a write, rename, link, removal or sync ([`crate::support::tracer`]). CI takes some of them; with
//! `DOCKLESS_TEST_THOROUGH=1` it is every one.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::base::{empty, noise};
use crate::support::env::{TestEnv, finish, is_thorough, program, say, tool, wait_until};
use crate::support::image::{BuiltImage, Entry, ImageBuilder};
use crate::support::registry::TestRegistry;
use crate::support::tracer::{Traced, run_until};

/// Steps that are tried when not all are.
const SOME_STEPS: usize = 12;

/// A bit of everything, so that each kind of step comes up: small, because all of it is done again for each step.
fn image() -> BuiltImage {
    ImageBuilder::new()
        .dir("etc")
        .file("etc/hosts", "nobody")
        .file("etc/noise", noise(300_000))
        .entry(Entry::file("etc/owned", "x").owner(1000, 1001).mode(0o4755))
        .symlink("etc/link", "hosts")
        .hardlink("etc/hard", "etc/hosts")
        .layer()
        .file("etc/.wh.hosts", "")
        .file("etc/new", "new")
        .dir("opaque")
        .file("opaque/.wh..wh..opq", "")
        .build()
}

/// The steps to try of so many.
fn chosen(steps: usize) -> impl Iterator<Item = usize> {
    let stride = if is_thorough() { 1 } else { steps.div_ceil(SOME_STEPS) };
    (1..=steps).step_by(stride)
}

/// One command that is stopped again and again, in a fresh store each time.
struct Crash {
    env: TestEnv,
    _registry: TestRegistry,
    reference: String,
    stores: PathBuf,
    /// What the power is cut of; without it the command is killed.
    disk: Option<Disk>,
}

impl Crash {
    fn by_signal() -> Option<Self> {
        let env = empty()?;
        Some(Self::new(env.dir().join("stores"), env, None))
    }

    fn by_power_cut() -> Option<Self> {
        let env = empty()?;
        let disk = Disk::new();
        Some(Self::new(disk.mounted(), env, Some(disk)))
    }

    fn new(stores: PathBuf, env: TestEnv, disk: Option<Disk>) -> Self {
        let registry = TestRegistry::start();
        let reference = registry.push("app:1", &image()).to_string();
        Self { env, _registry: registry, reference, stores, disk }
    }

    /// Has the store at `name` from now on.
    fn switch(&self, name: &str) -> PathBuf {
        let store = self.stores.join(name);
        self.point_to(&store);
        store
    }

    fn point_to(&self, store: &Path) {
        fs::create_dir_all(store).unwrap();
        drop(fs::remove_file(self.env.root()));
        std::os::unix::fs::symlink(store, self.env.root()).unwrap();
    }

    fn stop(&self, arguments: &[&str], store: &Path, step: usize) -> Traced {
        run_until(&self.env.command(arguments), store, step, &self.env.work().join("log"))
    }

    /// Whatever happened to the store: what it shows is sound, and a pull completes.
    fn assert_recovers(&self, when: &str) {
        say(when);
        self.env.run(["ps", "-a"]).code(0);
        let listed = self.env.run(["images", "--format", "json"]).json();
        if listed.as_array().is_some_and(|images| !images.is_empty()) {
            self.env.run(["check"]).code(0);
        }
        self.assert_nothing_half_made(when);
        self.env.run(["pull", "-q", &self.reference]).code(0);
        self.env.run(["check"]).code(0);
        self.env.assert_clean();
        self.env.run(["rmi", &self.reference]).code(0);
        self.env.assert_nothing_stored();
    }

    /// What is in `tmp` is a download to go on with, and no other file than a sound one is in place.
    fn assert_nothing_half_made(&self, when: &str) {
        for entry in crate::support::env::entries(&self.env.root().join("tmp")) {
            assert!(entry.extension().is_some_and(|kind| kind == "partial"), "{when}: {}", entry.display());
        }
        for blob in crate::support::env::entries(&self.env.root().join("blobs/sha256")) {
            let digest = dockless::image::Digest::sha256(&fs::read(&blob).unwrap());
            assert_eq!(blob.file_name().unwrap().to_str().unwrap(), digest.hex(), "{when}");
        }
        for layer in crate::support::env::entries(&self.env.root().join("layers/sha256")) {
            assert!(layer.join("layer.json").exists() && layer.join("fs").exists(), "{when}: {}", layer.display());
        }
    }
}

/// A disk in a file. Nothing of it reaches the file but what the file system has written out.
struct Disk {
    dir: TempDir,
}

impl Disk {
    /// ext4 at its least careful: it neither orders data before names nor guesses what a rename is meant to keep.
    const OPTIONS: &str = "loop,data=writeback,noauto_da_alloc,commit=300";

    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("dockless-test-disk-").tempdir().unwrap();
        let disk = Self { dir };
        fs::File::create(disk.file()).unwrap().set_len(48 << 20).unwrap();
        tool("mkfs.ext4", ["-q".as_ref(), disk.file().as_os_str()]);
        disk.mount();
        disk
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("file")
    }

    fn mounted(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }

    fn mount(&self) {
        fs::create_dir_all(self.mounted()).unwrap();
        tool("mount", ["-o".as_ref(), Self::OPTIONS.as_ref(), self.file().as_os_str(), self.mounted().as_os_str()]);
    }

    /// Another disk with what this one would have after a power cut.
    fn cut(&self) -> Self {
        let dir = tempfile::Builder::new().prefix("dockless-test-disk-").tempdir().unwrap();
        let disk = Self { dir };
        tool("cp", ["--sparse=always".as_ref(), self.file().as_os_str(), disk.file().as_os_str()]);
        disk.mount();
        disk
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A process that another test has just forked may still have it open.
        wait_until(|| finish(&mut program("umount", [self.mounted()])).code == 0);
    }
}

/// Stops the command at the steps it takes, each time in a store that `prepare` has filled.
fn stop_at_steps(crash: &Crash, arguments: &[&str], prepare: impl Fn(&Path)) {
    let start = |name: &str| {
        let store = crash.switch(name);
        prepare(&store);
        // What was there before is older than the power cut.
        rustix::fs::syncfs(fs::File::open(&store).unwrap()).unwrap();
        store
    };
    let whole = crash.stop(arguments, &start("0"), usize::MAX);
    assert_eq!(whole.code, Some(0));
    for step in chosen(whole.steps) {
        let name = step.to_string();
        let store = start(&name);
        let stopped = crash.stop(arguments, &store, step);
        let after = crash.disk.as_ref().map(Disk::cut);
        if let Some(after) = &after {
            crash.point_to(&after.mounted().join(&name));
        }
        let how = if after.is_some() { "cut off" } else { "killed" };
        crash.assert_recovers(&format!("{} {how} at step {} of {}", arguments[0], stopped.steps, whole.steps));
        fs::remove_dir_all(store).unwrap();
    }
}

fn pull(crash: &Crash) {
    stop_at_steps(crash, &["pull", "-q", &crash.reference], |_| {});
}

fn remove(crash: &Crash) {
    let full = crash.switch("full");
    crash.env.run(["pull", "-q", &crash.reference]).code(0);
    stop_at_steps(crash, &["rmi", &crash.reference], |store| {
        tool("cp", ["-a".as_ref(), full.join(".").as_os_str(), store.as_os_str()]);
    });
}

fn load(crash: &Crash) {
    crash.switch("full");
    let file = crash.env.work().join("image.tar").into_os_string().into_string().unwrap();
    crash.env.run(["pull", "-q", &crash.reference]).code(0);
    crash.env.run(["save", "--format", "oci-archive", "-o", &file, &crash.reference]).code(0);
    stop_at_steps(crash, &["load", "-q", "-i", &file], |_| {});
}

#[test]
fn a_pull_killed_at_any_step_is_repeated() {
    Crash::by_signal().iter().for_each(pull);
}

#[test]
fn an_image_removed_and_killed_at_any_step_is_there_or_gone() {
    Crash::by_signal().iter().for_each(remove);
}

#[test]
fn an_archive_loaded_and_killed_at_any_step_is_there_or_not() {
    Crash::by_signal().iter().for_each(load);
}

#[test]
fn a_pull_cut_off_at_any_step_is_repeated() {
    Crash::by_power_cut().iter().for_each(pull);
}

#[test]
fn an_image_removed_and_cut_off_at_any_step_is_there_or_gone() {
    Crash::by_power_cut().iter().for_each(remove);
}

#[test]
fn an_archive_loaded_and_cut_off_at_any_step_is_there_or_not() {
    Crash::by_power_cut().iter().for_each(load);
}
