//! The rule as a table; notes and libraries made by the real assembler.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::*;
use crate::gpu::elf::testing::{library, note_code};
use crate::rootfs::Layers;

const NATIVE: Loader = if cfg!(target_arch = "aarch64") { Loader::Aarch64 } else { Loader::X8664 };
const NOTE: &str = r#"{"format":1,"CUDA version":"12.9","driver":[535,550,560,565,570,575],"device":[1,2,7,8]}"#;

fn candidate(path: &str, note: Option<&str>) -> Candidate {
    let version = path.split_once(".so.").unwrap().1;
    let note = note.map(|note| serde_json::from_str(note).unwrap());
    Candidate { path: path.into(), version: Version::new(version), note }
}

fn words(decision: &Decision) -> String {
    match decision {
        Decision::Use { directory, why } => format!("{directory}: {why}"),
        Decision::No { why } => format!("no: {why}"),
    }
}

/// What is decided of one libcuda, without the words that all answers have.
fn decided(path: &str, note: Option<&str>, driver: Option<&str>, cuda: Option<(u32, u32)>) -> String {
    let driver = driver.map(Version::new);
    let decision = decide(Host { driver: driver.as_ref(), cuda }, &[candidate(path, note)]);
    words(&decision).replace("the image's libcuda", "it")
}

const NEW: &str = "/c/libcuda.so.575.57.08";

#[test]
fn a_note_and_a_driver_are_compared_by_branches() {
    let branches = "only on the branches 535, 550, 560, 565, 570, 575";
    for (driver, expected) in [
        ("570.211.01", "/c: it 575.57.08 is newer than driver 570.211.01 and says that it runs on it"),
        ("575.10.10", "/c: it 575.57.08 is newer than driver 575.10.10 and says that it runs on it"),
        ("575.57.08", "no: it 575.57.08 is not newer than driver 575.57.08"),
        ("575.99.99", "no: it 575.57.08 is not newer than driver 575.99.99"),
        ("590.44.01", &format!("no: it 575.57.08 does not run on driver 590.44.01, {branches}")),
        // Older than the image's, but of a branch that it was not made for.
        ("545.23.06", &format!("no: it 575.57.08 does not run on driver 545.23.06, {branches}")),
    ] {
        for cuda in [None, Some((12, 0)), Some((13, 0))] {
            assert_eq!(decided(NEW, Some(NOTE), Some(driver), cuda), expected, "{driver} {cuda:?}");
        }
    }
}

#[test]
fn a_note_without_a_driver_is_compared_by_cuda() {
    let (orin, only_cuda) = ("/c/libcuda.so.1.1", r#"{"format":1,"CUDA version":"13.2"}"#);
    for (path, note, cuda, expected) in [
        (NEW, NOTE, Some((12, 8)), "/c: it 575.57.08 has CUDA 12.9, the driver CUDA 12.8"),
        (NEW, NOTE, Some((12, 9)), "no: it 575.57.08 has CUDA 12.9, the driver CUDA 12.9"),
        (NEW, NOTE, Some((12, 10)), "no: it 575.57.08 has CUDA 12.9, the driver CUDA 12.10"),
        (orin, only_cuda, Some((13, 1)), "/c: it 1.1 has CUDA 13.2, the driver CUDA 13.1"),
        (orin, "{}", Some((13, 1)), "no: it 1.1 does not say its version of CUDA"),
        (NEW, NOTE, None, "no: the driver's version is not known"),
    ] {
        assert_eq!(decided(path, Some(note), None, cuda), expected);
    }
}

#[test]
fn without_a_note_only_a_newer_branch_wins() {
    for (driver, cuda, expected) in [
        (Some("570.86.10"), None, "/c: it 575.57.08 is of a newer branch than driver 570.86.10"),
        (Some("575.10.10"), None, "no: it 575.57.08 is not of a newer branch than driver 575.10.10"),
        (Some("570.86.10"), Some((12, 8)), "no: it 575.57.08 does not say on which drivers it runs"),
        (None, Some((12, 8)), "no: it 575.57.08 does not say on which drivers it runs"),
        (None, None, "no: the driver's version is not known"),
    ] {
        assert_eq!(decided(NEW, None, driver, cuda), expected);
    }
}

#[test]
fn of_several_the_newest_that_can_be_used() {
    let driver = Version::new("570.86.10");
    let host = Host { driver: Some(&driver), cuda: None };
    let all = [
        candidate("/a/libcuda.so.575.9.1", Some(NOTE)),
        candidate("/b/libcuda.so.575.57.08", Some(NOTE)),
        candidate("/c/libcuda.so.590.44.01", Some(r#"{"driver":[580,590]}"#)),
        candidate("/d/libcuda.so.575.60.1", Some(NOTE)),
        candidate("/d/libcuda.so.575.60.2", Some(NOTE)),
    ];
    assert!(words(&decide(host, &all)).starts_with("/b: "));
    assert_eq!(
        words(&decide(host, &all[2..])),
        "no: the image's libcuda 590.44.01 does not run on driver 570.86.10, only on the branches 580, 590; \
         `/d` has 2 versions of libcuda, expected one"
    );
    assert_eq!(words(&decide(host, &[])), "no: the image has no libraries for forward compatibility");
}

/// A tree that stands for an image.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, path: &str) -> PathBuf {
        let at = self.0.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        at
    }

    fn library(self, path: &str, soname: &str, section: &str, owner: &str, note: &str) -> Self {
        library(&self.at(path), soname, &note_code(section, owner, note), &[]);
        self
    }

    fn libcuda(self, path: &str) -> Self {
        self.library(path, "libcuda.so.1", NOTE_SECTION, NOTE_OWNER, NOTE)
    }

    fn link(self, path: &str, target: &str) -> Self {
        symlink(target, self.at(path)).unwrap();
        self
    }

    fn file(self, path: &str, content: &str) -> Self {
        fs::write(self.at(path), content).unwrap();
        self
    }

    fn view(&self) -> View {
        View::open(&Layers::from_paths(vec![self.0.path().to_owned()], None)).unwrap()
    }
}

#[test]
fn an_image_is_read_as_the_package_makes_it() {
    let compat = "/usr/local/cuda-12.9/compat";
    let tree = Tree::new()
        .libcuda(&format!("{compat}/libcuda.so.575.57.08"))
        .link(&format!("{compat}/libcuda.so.1"), "libcuda.so.575.57.08")
        .link(&format!("{compat}/libcuda.so"), "libcuda.so.1")
        .link(&format!("{compat}/libcuda.so.99.1"), "libcuda.so.1")
        .library(&format!("{compat}/libnvidia-nvvm.so.575.57.08"), "libnvidia-nvvm.so.4", ".note.x", "X", "")
        .file(&format!("{compat}/libcuda.so.text"), "")
        .file(&format!("{compat}/libempty.so.1"), "")
        .link("/usr/local/cuda", "/etc/alternatives/cuda")
        .link("/etc/alternatives/cuda", "/usr/local/cuda-12.9");
    let found = candidates(&tree.view()).unwrap();
    assert_eq!(found, [candidate("/usr/local/cuda/compat/libcuda.so.575.57.08", Some(NOTE))]);
    let note = found[0].note.as_ref().unwrap();
    assert_eq!((note.cuda(), note.driver.len()), (Some((12, 9)), 6));

    let entries = libraries(&tree.view(), COMPAT_DIRECTORY, NATIVE).unwrap();
    let entry = |soname, path| Entry::new(soname, path, NATIVE);
    assert_eq!(
        entries,
        [
            entry("libcuda.so.1", "/usr/local/cuda/compat/libcuda.so.1"),
            entry("libnvidia-nvvm.so.4", "/usr/local/cuda/compat/libnvidia-nvvm.so.575.57.08"),
        ]
    );
    assert_eq!(libraries(&tree.view(), COMPAT_DIRECTORY, Loader::I386).unwrap(), []);
}

#[test]
fn without_the_link_each_version_of_cuda_is_looked_at() {
    let tree = Tree::new()
        .libcuda("/usr/local/cuda-12.9/compat/libcuda.so.575.57.08")
        .libcuda("/usr/local/cuda-12.8/compat/libcuda.so.570.1.1")
        .libcuda("/usr/local/other/compat/libcuda.so.580.1.1");
    let found = candidates(&tree.view()).unwrap();
    let paths = found.iter().map(|candidate| candidate.path.as_str()).collect::<Vec<_>>();
    let expected =
        ["/usr/local/cuda-12.8/compat/libcuda.so.570.1.1", "/usr/local/cuda-12.9/compat/libcuda.so.575.57.08"];
    assert_eq!(paths, expected);
    assert_eq!(candidates(&Tree::new().view()).unwrap(), []);
}

#[test]
fn a_note_that_is_damaged_or_of_another_is_none() {
    let broken = r#"{"format":1,"CUDA version":"13.2",}"#;
    let cases = [
        (".note.cuda.other", NOTE_OWNER, NOTE),
        (NOTE_SECTION, "Somebody", NOTE),
        (NOTE_SECTION, NOTE_OWNER, broken),
        (NOTE_SECTION, NOTE_OWNER, r#"{"driver":[-1]}"#),
    ];
    for (section, owner, note) in cases {
        let tree = Tree::new().library("/c/libcuda.so.1.1", "libcuda.so.1", section, owner, note);
        assert_eq!(candidates_in(&tree.view(), "/c").unwrap(), [candidate("/c/libcuda.so.1.1", None)], "{note}");
    }
    let tree = Tree::new().file("/c/libcuda.so.1.1", "no library");
    assert_eq!(candidates_in(&tree.view(), "/c").unwrap(), [candidate("/c/libcuda.so.1.1", None)]);
}

#[test]
fn what_is_listed_is_bounded() {
    let tree = (0..=MAX_NAMES).fold(Tree::new(), |tree, number| tree.file(&format!("/c/{number}"), ""));
    let error = candidates_in(&tree.view(), "/c").unwrap_err();
    assert!(matches!(error, RootfsError::Read { .. }), "{error}");
}
