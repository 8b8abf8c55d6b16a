//! The images that tests run in: for most busybox under all its names, for some a real Debian with Python.

use std::sync::OnceLock;

use crate::support::env::{TestEnv, find_program, have, have_root, program, skip, tool};
use crate::support::image::{Entry, ImageBuilder, Packing, pack};

/// A layer as it travels and as a tar. Made once, because it is the same for all tests.
type MadeOnce = OnceLock<(Vec<u8>, Vec<u8>)>;

/// A layer with busybox under these names.
fn busybox<'n>(names: impl Iterator<Item = &'n str>) -> (Vec<u8>, Vec<u8>) {
    let program = find_program("busybox").and_then(|path| std::fs::read(path).ok());
    let program = program.expect("busybox-static is installed; scripts/setup does that");
    let layer = ImageBuilder::new().packing(Packing::Plain).dir("bin").program("bin/busybox", program);
    let names = names.filter(|name| *name != "busybox");
    let layer = names.fold(layer, |layer, name| layer.symlink(&format!("bin/{name}"), "busybox"));
    let tar = layer.build().layers.remove(0).bytes;
    (pack(&tar, Packing::Gzip), tar)
}

/// An image with the few programs of busybox that [`crate::check`] runs, for tests that unpack it many times.
pub(crate) fn few_programs() -> ImageBuilder {
    static LAYER: MadeOnce = OnceLock::new();
    let (bytes, tar) = LAYER.get_or_init(|| busybox(["cat", "sh", "true", "usleep"].into_iter()));
    ImageBuilder::new().dir("tmp").raw_layer(bytes.as_slice(), tar.as_slice()).layer().env("PATH", "/bin")
}

/// An image with busybox, a few users and nothing else; entries that are added now go into a layer above.
pub(crate) fn base_image() -> ImageBuilder {
    static LAYER: MadeOnce = OnceLock::new();
    let (bytes, tar) = LAYER.get_or_init(|| busybox(tool("busybox", ["--list"]).lines()));
    ImageBuilder::new()
        .dir("etc")
        .file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n")
        .file("etc/group", "root:x:0:\napp:x:1001:\nvideo:x:44:app\n")
        .dir("root")
        .entry(Entry::dir("tmp").mode(0o1777))
        .dir("home")
        .entry(Entry::dir("home/app").owner(1000, 1001))
        .raw_layer(bytes.as_slice(), tar.as_slice())
        .layer()
        .env("PATH", "/bin")
        .cmd(["sh"])
}

/// A place for a test with the image `app` in its store: [`base_image`] and what `change` does to it.
///
/// `None`, and a word about it, where containers cannot be run.
pub(crate) fn app_with(change: impl FnOnce(ImageBuilder) -> ImageBuilder) -> Option<TestEnv> {
    let env = empty()?;
    env.store_image("app", &change(base_image()).build());
    // Unpacks it, so that the first run has no more to tell than the others.
    env.run(["spec", "app"]);
    Some(env)
}

/// The same with the image as it is.
pub(crate) fn app() -> Option<TestEnv> {
    app_with(|image| image)
}

/// A place for a test with an empty store.
pub(crate) fn empty() -> Option<TestEnv> {
    let can_run = have_root() && (cfg!(target_arch = "x86_64") || skip("test images are made for x86_64"));
    can_run.then(TestEnv::new)
}

/// The root of a real Debian 12 with Python 3.11 and pip, as a tar; the first time on a machine, minutes go by.
fn debian_root() -> &'static [u8] {
    static TAR: OnceLock<Vec<u8>> = OnceLock::new();
    TAR.get_or_init(|| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/debian-root");
        let output = program(script, ["python3", "python3-pip"]).output().expect("scripts/debian-root starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let path = String::from_utf8(output.stdout).expect("a path");
        std::fs::read(path.trim()).expect("the archive that scripts/debian-root names")
    })
}

/// An image of [`debian_root`]. As in images made for Python, pip may install into it.
pub(crate) fn debian_image() -> ImageBuilder {
    let tar = debian_root();
    ImageBuilder::new()
        .packing(Packing::Plain)
        .raw_layer(tar, tar)
        .packing(Packing::Plain)
        .layer()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("PIP_BREAK_SYSTEM_PACKAGES", "1")
        .cmd(["bash"])
}

/// A place for a test with the image `ubuntu` in its store, which is [`debian_image`]; `None`, and a word about it, where
/// there is no debootstrap to make it.
pub(crate) fn debian() -> Option<TestEnv> {
    let env = empty().filter(|_| have(&["debootstrap"]))?;
    env.store_image("ubuntu", &debian_image().build());
    Some(env)
}

/// Bytes that do not shrink when they are packed.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}
