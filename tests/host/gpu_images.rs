//! Images with different dynamic loaders, each with a program `/probe` that loads the driver and says what it found.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use crate::base::{base_image, debian_image};
use crate::support::env::tool;
use crate::support::image::ImageBuilder;

/// Prints the path of the `libcuda.so.1` that the loader finds, and the CUDA version that it tells; with an argument, the
/// same for another library without the version.
const PROBE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
int main(int count, char **words)
{
    const char *name = count > 1 ? words[1] : "libcuda.so.1";
    const char *symbol = count > 2 ? words[2] : "cuInit";
    void *library = dlopen(name, RTLD_NOW);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        return 3;
    }
    void *init = dlsym(library, symbol);
    Dl_info info;
    if (!init || !dladdr(init, &info)) {
        fprintf(stderr, "no %s in %s\n", symbol, name);
        return 4;
    }
    int version = 0;
    int (*get_version)(int *) = (int (*)(int *))dlsym(library, "cuDriverGetVersion");
    if (get_version)
        get_version(&version);
    printf("%s %d\n", info.dli_fname, version);
    return 0;
}
"#;

/// A program for images with glibc.
pub(crate) fn glibc_program(source: &str) -> Vec<u8> {
    compiled("gcc", source)
}

fn compiled(compiler: &str, text: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (source, binary) = (dir.path().join("probe.c"), dir.path().join("probe"));
    fs::write(&source, text).unwrap();
    tool(compiler, ["-O1".as_ref(), "-o".as_ref(), binary.as_os_str(), source.as_os_str(), "-ldl".as_ref()]);
    fs::read(binary).unwrap()
}

fn glibc_probe() -> &'static [u8] {
    static BINARY: OnceLock<Vec<u8>> = OnceLock::new();
    BINARY.get_or_init(|| glibc_program(PROBE))
}

const LOADER: &str = "lib64/ld-linux-x86-64.so.2";
const LIBRARIES: [&str; 5] = ["libc.so.6", "libdl.so.2", "libm.so.6", "libpthread.so.0", "librt.so.1"];

/// Debian's loader and C library over another image.
fn with_glibc(image: ImageBuilder) -> ImageBuilder {
    let read = |path: &str| fs::read(Path::new("/").join(path)).unwrap();
    let image = image.dir("lib64").program(LOADER, read(LOADER)).dir("lib").dir("lib/x86_64-linux-gnu");
    LIBRARIES.iter().map(|name| format!("lib/x86_64-linux-gnu/{name}")).fold(image, |image, path| {
        let content = read(&path);
        image.program(&path, content)
    })
}

/// A shell, and glibc with a loader cache that the real ldconfig has made.
pub(crate) fn glibc_image() -> ImageBuilder {
    const CONFIG: &str = "include /etc/ld.so.conf.d/*.conf\n";
    let root = tempfile::tempdir().unwrap();
    for dir in ["etc", "lib/x86_64-linux-gnu"] {
        fs::create_dir_all(root.path().join(dir)).unwrap();
    }
    for name in LIBRARIES {
        let path = Path::new("lib/x86_64-linux-gnu").join(name);
        fs::copy(Path::new("/").join(&path), root.path().join(&path)).unwrap();
    }
    fs::write(root.path().join("etc/ld.so.conf"), "/lib/x86_64-linux-gnu\n").unwrap();
    tool("ldconfig", ["-r".as_ref(), root.path().as_os_str()]);
    let cache = fs::read(root.path().join("etc/ld.so.cache")).unwrap();
    with_glibc(base_image())
        .dir("etc/ld.so.conf.d")
        .file("etc/ld.so.conf", CONFIG)
        .file("etc/ld.so.cache", cache)
        .program("probe", glibc_probe())
}

/// Nothing but a program and what it is linked to: no shell, no ldconfig, no loader cache.
pub(crate) fn distroless_image() -> ImageBuilder {
    with_glibc(ImageBuilder::new()).program("probe", glibc_probe()).cmd(["/probe"])
}

/// busybox and musl's loader.
pub(crate) fn musl_image() -> ImageBuilder {
    let loader = fs::read("/lib/ld-musl-x86_64.so.1").unwrap();
    base_image().dir("lib").program("lib/ld-musl-x86_64.so.1", loader).program("probe", compiled("musl-gcc", PROBE))
}

/// A real Debian.
pub(crate) fn debian_probe_image() -> ImageBuilder {
    debian_image().program("probe", glibc_probe())
}
