//! Trees with libraries of the real linker stand for images; the versions in them are those of distributions.

use std::fs;
use std::os::unix::fs::symlink;

use super::*;
use crate::gpu::elf::testing::{library, user, versioned};
use crate::rootfs::Layers;

const NATIVE: &Layout = &LAYOUTS[if cfg!(target_arch = "aarch64") { 1 } else { 0 }];
const LIBC: &str = "GLIBC_2.2.5 GLIBC_2.17";
const NEWER: &str = "GLIBC_2.2.5 GLIBC_2.17 GLIBC_2.27";

/// An image and a driver.
struct Case(tempfile::TempDir);

impl Case {
    fn new() -> Self {
        let case = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(case.image("/etc")).unwrap();
        case
    }

    fn image(&self, path: &str) -> PathBuf {
        self.0.path().join("image").join(path.trim_start_matches('/'))
    }

    fn driver(&self) -> PathBuf {
        self.0.path().join("driver/libcuda.so.570.86.10")
    }

    fn versioned(self, path: &str, versions: &str) -> Self {
        let name = path.rsplit('/').next().unwrap();
        versioned(&self.image(path), name, &versions.split(' ').collect::<Vec<_>>());
        self
    }

    /// A glibc with these versions in a directory.
    fn glibc(self, directory: &str, versions: &str) -> Self {
        self.versioned(NATIVE.loader, "GLIBC_2.2.5")
            .versioned(&format!("{directory}/libc.so.6"), versions)
            .versioned(&format!("{directory}/libm.so.6"), "GLIBC_2.2.5")
    }

    /// A libcuda that was linked with a glibc of 2.27.
    fn linked(self) -> Self {
        let host = |name: &str| self.0.path().join("host").join(name);
        versioned(&host("libc.so.6"), "libc.so.6", &["GLIBC_2.27"]);
        versioned(&host("libm.so.6"), "libm.so.6", &["GLIBC_2.2.5"]);
        let libraries = [host("libc.so.6"), host("libm.so.6")];
        let libraries = libraries.iter().map(PathBuf::as_path).collect::<Vec<_>>();
        fs::create_dir_all(self.driver().parent().unwrap()).unwrap();
        user(&self.driver(), "libcuda.so.1", &["GLIBC_2.27", "GLIBC_2.2.5"], &libraries);
        self
    }

    fn view(&self) -> View {
        View::open(&Layers::from_paths(vec![self.image("/")], None)).unwrap()
    }

    fn problems(&self) -> Vec<String> {
        can_load(&self.driver(), &self.view(), &[]).unwrap()
    }
}

#[test]
fn a_new_glibc_loads_it_from_every_usual_directory() {
    for directory in NATIVE.directories {
        let case = Case::new().glibc(directory, NEWER).linked();
        assert_eq!(case.problems(), [""; 0], "{directory}");
    }
}

#[test]
fn an_old_glibc_is_told_with_both_versions() {
    let problems = Case::new().glibc("/lib64", LIBC).linked().problems();
    let expected = "the image's glibc is 2.17 (`libc.so.6`), `libcuda.so.570.86.10` needs 2.27\n\
                    hint: use an image of a newer distribution";
    assert_eq!(problems, [expected]);
}

#[test]
fn musl_is_told_with_and_without_a_stub_for_glibc() {
    let expected = "the image has musl's loader only, NVIDIA's driver needs glibc\n\
                    hint: use an image based on Debian, Ubuntu, Fedora or another distribution with glibc";
    let case = Case::new().linked();
    library(&case.image(NATIVE.musl), "libc.musl.so.1", "int f(void) { return 1; }", &[]);
    assert_eq!(case.problems(), [expected]);
    let stub = case.image(NATIVE.loader);
    fs::create_dir_all(stub.parent().unwrap()).unwrap();
    fs::copy(case.image(NATIVE.musl), stub).unwrap();
    assert_eq!(case.problems(), [expected]);
}

#[test]
fn an_image_with_nothing_is_told_in_one_line() {
    let problems = Case::new().linked().problems();
    let [problem] = &problems[..] else { panic!("{problems:?}") };
    assert!(problem.starts_with("the image has no `/lib"), "{problem}");
    assert!(problem.contains("only static programs run in it"), "{problem}");
}

#[test]
fn libraries_that_are_missing_are_told_together_unless_given() {
    let case = Case::new().versioned(NATIVE.loader, "GLIBC_2.2.5").linked();
    let expected = "the image lacks `libc.so.6`, `libm.so.6`, which `libcuda.so.570.86.10` needs\n\
                    hint: install the package that has it";
    assert_eq!(case.problems(), [expected]);
    assert_eq!(can_load(&case.driver(), &case.view(), &["libc.so.6", "libm.so.6"]).unwrap(), [""; 0]);
}

#[test]
fn what_is_no_library_is_passed_over() {
    let case = Case::new().glibc("/usr/lib64", NEWER).linked();
    fs::create_dir_all(case.image("/usr/lib/libm.so.6")).unwrap();
    fs::create_dir_all(case.image("/lib64")).unwrap();
    fs::write(case.image("/lib64/libc.so.6"), "GROUP ( /lib64/libc.so.6 )\n").unwrap();
    symlink("/../../../../../../lib/x86_64-linux-gnu/libm.so.6", case.image("/lib64/libm.so.6")).unwrap();
    assert_eq!(case.problems(), [""; 0]);
}

#[test]
fn the_cache_is_asked_first_and_may_be_damaged() {
    let case = Case::new().glibc("/opt/glibc", NEWER).linked();
    let entry = |name: &str| ldcache::Entry::new(name, &format!("/opt/glibc/{name}"), NATIVE.cache);
    let cache = ldcache::merged(&[entry("libc.so.6"), entry("libm.so.6")], &[]);
    assert!(case.problems()[0].starts_with("the image lacks"));
    fs::write(case.image("/etc/ld.so.cache"), &cache).unwrap();
    assert_eq!(case.problems(), [""; 0]);
    // Before what stands in the usual places, even a newer one.
    let case = case.glibc("/lib64", NEWER).glibc("/opt/glibc", LIBC);
    assert!(case.problems()[0].starts_with("the image's glibc is 2.17"));
    fs::write(case.image("/etc/ld.so.cache"), &cache[..cache.len() / 2]).unwrap();
    assert_eq!(case.problems(), [""; 0]);
}

#[test]
fn a_driver_that_is_none_is_an_error() {
    let case = Case::new();
    assert!(matches!(can_load(&case.driver(), &case.view(), &[]), Err(CanLoadError::Driver { .. })));
    fs::create_dir_all(case.driver()).unwrap();
    assert!(matches!(can_load(&case.driver(), &case.view(), &[]), Err(CanLoadError::NotADriver(_))));
    fs::remove_dir(case.driver()).unwrap();
    fs::write(case.driver(), "text").unwrap();
    assert!(matches!(can_load(&case.driver(), &case.view(), &[]), Err(CanLoadError::NotADriver(_))));
}

/// The machine's own root as image; what the real linker makes here can be loaded here.
#[test]
fn this_machine_loads_what_is_linked_on_it() {
    let case = Case::new();
    let code = "#include <math.h>\n#include <stdio.h>\ndouble f(double x) { puts(\"\"); return pow(x, 2.5); }";
    library(&case.driver(), "libcuda.so.1", code, &["-lm", "-lc"]);
    let view = View::open(&Layers::from_paths(vec![PathBuf::from("/")], None)).unwrap();
    if !Path::new(NATIVE.loader).exists() {
        eprintln!("skipped: this machine has no glibc");
        return;
    }
    let started = std::time::Instant::now();
    let problems = can_load(&case.driver(), &view, &[]).unwrap();
    eprintln!("{:?}", started.elapsed());
    assert_eq!(problems, [""; 0]);
}
