//! The image that most tests run in: busybox under all its names.

use std::sync::OnceLock;

use crate::support::env::{TestEnv, have_root, skip, tool};
use crate::support::image::{Entry, ImageBuilder, Packing, pack};

/// A layer with busybox, as it travels and as a tar. Made once, because it is the same for all tests.
fn busybox() -> &'static (Vec<u8>, Vec<u8>) {
    static LAYER: OnceLock<(Vec<u8>, Vec<u8>)> = OnceLock::new();
    LAYER.get_or_init(|| {
        let program = ["/bin/busybox", "/usr/bin/busybox"].iter().find_map(|path| std::fs::read(path).ok());
        let program = program.expect("busybox-static is installed; scripts/setup does that");
        let layer = ImageBuilder::new().packing(Packing::Plain).dir("bin").program("bin/busybox", program);
        let names = tool("busybox", ["--list"]);
        let names = names.lines().filter(|name| *name != "busybox");
        let layer = names.fold(layer, |layer, name| layer.symlink(&format!("bin/{name}"), "busybox"));
        let tar = layer.build().layers.remove(0).bytes;
        (pack(&tar, Packing::Gzip), tar)
    })
}

/// An image with busybox, a few users and nothing else; entries that are added now go into a layer above.
pub(crate) fn base_image() -> ImageBuilder {
    let (bytes, tar) = busybox();
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
