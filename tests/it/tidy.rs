//! House rules that neither rustc nor clippy knows, checked on the tokens of every file in `src` and `tests`.
//!
//! A rule is a function of one file's text, so that each is also fed a planted violation here. Comments and literals
//! are no tokens: to name `unsafe` in a comment breaks nothing.

mod source;

use std::collections::VecDeque;
use std::fs;
use std::path::Path;

use source::{Source, paths};

/// The modules from the uppermost to the lowest: each imports only what stands further down.
const LAYERS: [&str; 18] = [
    "main",
    "lib",
    "cli",
    "workflow",
    "engine",
    "supervisor",
    "container",
    "gpu",
    "network",
    "artifact",
    "transport",
    "rootfs",
    "registry",
    "spec",
    "store",
    "image",
    "sys",
    "words",
];

/// How many lines a file has at most, its `#[cfg(test)]` modules left out.
const MAX_LINES: usize = 600;

#[test]
fn modules_import_downwards() {
    assert_tree_obeys(imports_downwards);
}

#[test]
fn imports_upwards_are_found() {
    let cases = [
        ("src/store/mod.rs", "use crate::engine::Run;", vec![1]),
        ("src/store/mod.rs", "use crate::image::Digest;\nuse crate::store::Lock;", vec![]),
        ("src/store/mod.rs", "use crate::{\n    image::{Digest, self},\n    registry::Auth as A,\n};", vec![3]),
        ("src/store/mod.rs", "use crate::registry;", vec![1]),
        ("src/store/mod.rs", "fn f() { crate::image::g::<crate::cli::Printer>() }", vec![1]),
        ("src/store/mod.rs", "use crate::Rerun;", vec![1]),
        ("src/store/mod.rs", "use crate::*;", vec![1]),
        ("src/store/mod.rs", "pub(crate) fn f() {}\npub(super) fn g() {}", vec![]),
        (
            "src/store/mod.rs",
            "// use crate::engine;\n/* crate::engine /* */ */ const A: &str = \"crate::engine\";",
            vec![],
        ),
        ("src/store/lock.rs", "use super::super::gpu::Lease;", vec![1]),
        ("src/store/lock.rs", "use super::{super::gpu, Layer};", vec![1]),
        ("src/store/lock.rs", "use super::Layer;\nuse super::super::sys::flock;", vec![]),
        ("src/store/lock.rs", "mod tests {\n    use super::super::engine;\n}\nuse super::super::engine;", vec![4]),
        ("src/store/lock.rs", "mod tests { mod deep { use super::super::super::super::engine; } }", vec![1]),
        ("src/engine.rs", "use super::cli;", vec![1]),
        ("src/engine.rs", "use super::registry;\nuse self::super::lib;", vec![2]),
        ("src/lib.rs", "pub mod engine;\npub use crate::engine::Run;", vec![]),
        ("src/main.rs", "use dockless::{cli, supervisor};", vec![]),
        ("src/main.rs", "fn main() { crate::run() }", vec![]),
        ("src/unlisted.rs", "", vec![1]),
    ];
    assert_finds(imports_downwards, &cases);
}

#[test]
fn files_start_with_their_purpose() {
    assert_tree_obeys(starts_with_purpose);
}

#[test]
fn files_without_purpose_are_found() {
    let cases = [
        ("src/store/mod.rs", "//! Blobs.\n", vec![]),
        ("src/store/mod.rs", "\n//! Blobs.\n", vec![]),
        ("src/store/mod.rs", "// Blobs.\n", vec![1]),
        ("src/store/mod.rs", "//!\n", vec![1]),
        ("src/store/mod.rs", "use std::fs;\n//! Blobs.\n", vec![1]),
        ("tests/it/main.rs", "mod tidy;", vec![1]),
        ("tests/it/main.rs", "", vec![1]),
    ];
    assert_finds(starts_with_purpose, &cases);
}

#[test]
fn unsafe_stays_in_sys() {
    assert_tree_obeys(unsafe_in_sys);
}

#[test]
fn unsafe_elsewhere_is_found() {
    let cases = [
        ("src/store/mod.rs", "fn f() {\n    unsafe { g() }\n}", vec![2]),
        ("tests/it/main.rs", "unsafe impl Send for A {}", vec![1]),
        ("src/sys/flock.rs", "fn f() { unsafe { g() } }", vec![]),
        ("src/system.rs", "unsafe fn f() {}", vec![1]),
        ("src/store/mod.rs", "// unsafe\n/// unsafe\nconst A: &str = \"unsafe\";", vec![]),
        (
            "src/store/mod.rs",
            "const A: &str = r#\"\" unsafe\"#; fn f<'a>(b: &'a u8) -> char { '\"' }\nunsafe {}",
            vec![2],
        ),
        ("src/store/mod.rs", "const A: [u8; 2] = [b'\\'', b'\"'];\nconst B: &[u8] = b\"\\\" unsafe\";", vec![]),
        ("src/store/mod.rs", "#![deny(unsafe_code)]", vec![]),
    ];
    assert_finds(unsafe_in_sys, &cases);
}

#[test]
fn libcontainer_stays_in_its_room() {
    assert_tree_obeys(libcontainer_in_its_room);
}

#[test]
fn libcontainer_elsewhere_is_found() {
    let cases = [
        ("src/container/youki/mod.rs", "use libcontainer::container::Container;", vec![]),
        ("src/container/mod.rs", "use libcontainer::container::Container;", vec![1]),
        ("src/spec/mod.rs", "\nfn f() -> libcontainer::oci_spec::Spec {}", vec![2]),
        ("src/spec/mod.rs", "//! For libcontainer.", vec![]),
    ];
    assert_finds(libcontainer_in_its_room, &cases);
}

#[test]
fn ambient_state_stays_in_cli() {
    assert_tree_obeys(ambient_state_in_cli);
}

#[test]
fn ambient_state_elsewhere_is_found() {
    let cases = [
        ("src/store/mod.rs", "fn f() {\n    println!(\"x\");\n    eprint!(\"x\");\n}", vec![2, 3]),
        ("src/store/mod.rs", "use std::env;", vec![1]),
        ("src/store/mod.rs", "use std::{fs, env::{self, VarError}, io};", vec![1, 1]),
        ("src/store/mod.rs", "fn f() { ::std::env::var(\"HOME\") }", vec![1]),
        ("src/store/mod.rs", "fn f() { std::process::exit(1) }", vec![1]),
        ("src/store/mod.rs", "use std::process;\nfn f() { process::exit(1) }", vec![2]),
        ("src/store/mod.rs", "use std::process::{ExitCode, exit};", vec![1]),
        ("src/store/mod.rs", "fn f() -> &str { std::env::consts::ARCH }", vec![]),
        ("src/store/mod.rs", "fn f() { writeln!(a, env!(\"A\")); print != 1 }", vec![]),
        ("src/store/mod.rs", "#[cfg(test)]\nmod tests {\n    use std::env;\n}\nuse std::env;", vec![5]),
        ("src/store/tests.rs", "use std::env;", vec![]),
        ("src/cli/args.rs", "use std::env;", vec![]),
        ("src/client.rs", "use std::env;", vec![1]),
        ("src/main.rs", "use std::env;", vec![]),
        ("tests/it/main.rs", "use std::env;", vec![]),
    ];
    assert_finds(ambient_state_in_cli, &cases);
}

#[test]
fn files_are_short() {
    assert_tree_obeys(short_without_tests);
}

#[test]
fn long_files_are_found() {
    let long = "//\n".repeat(MAX_LINES);
    let with_tests = format!("{long}#[cfg(test)]\n#[allow(dead_code)]\nmod tests {{\n    //\n}}\n");
    let with_code_behind = format!("{with_tests}fn f() {{}}\n");
    let cases = [
        ("src/store/mod.rs", long.as_str(), vec![]),
        ("src/store/mod.rs", with_tests.as_str(), vec![]),
        ("src/store/mod.rs", with_code_behind.as_str(), vec![MAX_LINES + 6]),
        ("tests/support/mod.rs", with_code_behind.as_str(), vec![MAX_LINES + 6]),
        ("tests/it/main.rs", with_code_behind.as_str(), vec![]),
    ];
    assert_finds(short_without_tests, &cases);
}

/// A place where a rule is broken.
struct Finding {
    /// Counted from 1.
    line: usize,
    message: String,
}

type Rule = fn(&Source) -> Vec<Finding>;

fn assert_tree_obeys(rule: Rule) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut directories = VecDeque::from([root.join("src"), root.join("tests")]);
    let (mut findings, mut files) = (Vec::new(), 0);
    while let Some(directory) = directories.pop_front() {
        for entry in fs::read_dir(&directory).expect("a directory of the package") {
            let path = entry.expect("an entry of the package").path();
            if path.is_dir() && !path.ends_with("target") {
                directories.push_back(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let relative = path.strip_prefix(root).expect("a path below the root").to_string_lossy().into_owned();
                let text = fs::read_to_string(&path).expect("a source file in UTF-8");
                let broken = rule(&Source::new(&relative, &text));
                findings.extend(broken.iter().map(|it| format!("{relative}:{}: {}", it.line, it.message)));
                files += 1;
            }
        }
    }
    assert!(files > 10, "only {files} files were looked at");
    assert!(findings.is_empty(), "{} found:\n{}", findings.len(), findings.join("\n"));
}

/// Each case is a path, a text, and the lines in which the rule finds something.
fn assert_finds(rule: Rule, cases: &[(&str, &str, Vec<usize>)]) {
    for (path, text, expected) in cases {
        let lines: Vec<usize> = rule(&Source::new(path, text)).iter().map(|finding| finding.line).collect();
        assert_eq!(&lines, expected, "in {path}:\n{text}");
    }
}

fn imports_downwards(source: &Source) -> Vec<Finding> {
    let Some(modules) = source.modules() else { return Vec::new() };
    let own = match source.path {
        "src/main.rs" => "main",
        _ => modules.first().copied().unwrap_or("lib"),
    };
    let Some(own_rank) = rank(own) else {
        let message = format!("`{own}` has no place in the order of modules: put it into LAYERS and ARCHITECTURE.md");
        return vec![Finding { line: 1, message }];
    };
    let mut findings = Vec::new();
    for path in paths(&source.tokens) {
        let Some(target) = path.top_module(own, modules.len()) else { continue };
        // What is no module can only be something that lib.rs has or re-exports.
        let (name, target_rank) = rank(target).map_or(("lib", 1), |rank| (target, rank));
        if target_rank < own_rank {
            let message =
                format!("`{own}` is below `{name}` and must not import from it: `{}`", path.segments.join("::"));
            findings.push(Finding { line: path.line, message });
        }
    }
    findings
}

fn rank(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| *layer == module)
}

fn starts_with_purpose(source: &Source) -> Vec<Finding> {
    let first = source.text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    match first.strip_prefix("//!") {
        Some(purpose) if !purpose.trim().is_empty() => Vec::new(),
        _ => vec![Finding { line: 1, message: "a file starts with `//!` and its purpose".into() }],
    }
}

fn unsafe_in_sys(source: &Source) -> Vec<Finding> {
    if source.path.starts_with("src/sys/") || source.path == "src/sys.rs" {
        return Vec::new();
    }
    findings_at(&source.lines_with("unsafe"), "`unsafe` is for `src/sys` only")
}

fn libcontainer_in_its_room(source: &Source) -> Vec<Finding> {
    if source.path.starts_with("src/container/youki/") {
        return Vec::new();
    }
    findings_at(&source.lines_with("libcontainer"), "only `src/container/youki/` knows libcontainer")
}

fn ambient_state_in_cli(source: &Source) -> Vec<Finding> {
    let path = source.path;
    let excepted = path.starts_with("src/cli/") || ["src/cli.rs", "src/main.rs"].contains(&path);
    if excepted || !source.is_product() {
        return Vec::new();
    }
    let tokens = source.without_test_modules().0;
    let mut findings = Vec::new();
    for window in tokens.windows(3) {
        let [name, bang, next] = window else { unreachable!("windows of three") };
        let prints = ["print", "println", "eprint", "eprintln"].contains(&name.text.as_str());
        if prints && bang.text == "!" && next.text != "=" {
            findings.push(Finding { line: name.line, message: format!("`{}!` is for `cli` only", name.text) });
        }
    }
    for path in paths(tokens) {
        let segments: Vec<&str> = path.segments.iter().map(String::as_str).collect();
        let ambient = matches!(segments[..], ["std", "env", ref rest @ ..] if rest.first() != Some(&"consts"));
        if ambient || segments.ends_with(&["process", "exit"]) {
            findings.push(Finding { line: path.line, message: format!("`{}` is for `cli` only", segments.join("::")) });
        }
    }
    findings
}

fn short_without_tests(source: &Source) -> Vec<Finding> {
    let lines = source.text.lines().count();
    let test_lines = source.without_test_modules().1;
    if !source.is_product() && !source.path.starts_with("tests/support/") || lines - test_lines <= MAX_LINES {
        return Vec::new();
    }
    let message = format!("{} lines without tests, {MAX_LINES} at most", lines - test_lines);
    vec![Finding { line: lines, message }]
}

fn findings_at(lines: &[usize], message: &str) -> Vec<Finding> {
    lines.iter().map(|line| Finding { line: *line, message: message.into() }).collect()
}
