//! Against the real ldconfig and the real loader.

use std::fs;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;

use super::*;

#[expect(clippy::disallowed_methods, reason = "the real programs judge")]
fn program(name: &str) -> Command {
    Command::new(name)
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Compiles a library; its only function returns `number`.
fn library(path: &Path, soname: &str, number: u32) {
    let source = path.with_extension("c");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&source, format!("int which(void) {{ return {number}; }}\n")).unwrap();
    let name = format!("-Wl,-soname,{soname}");
    run(program("cc").args(["-shared", "-nostdlib", "-fPIC", &name, "-o"]).arg(path).arg(&source));
    fs::remove_file(source).unwrap();
}

/// A root whose cache the real ldconfig has made.
fn root(libraries: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, soname) in libraries {
        library(&root.path().join(path), soname, 1);
    }
    fs::create_dir_all(root.path().join("etc")).unwrap();
    fs::write(root.path().join("etc/ld.so.conf"), "/opt/lib\n/usr/lib/x86_64-linux-gnu\n").unwrap();
    run(program("ldconfig").arg("-r").arg(root.path()));
    root
}

/// What `ldconfig -p` says of a cache: name and path in its order.
fn printed(cache: &Path) -> Vec<(String, String)> {
    let text = run(program("ldconfig").arg("-p").arg("-C").arg(cache));
    let line = |line: &str| {
        let (name, path) = line.trim().split_once(" => ")?;
        let name = name.split(" (").next()?;
        // Directories for special processors are part of the words in parentheses.
        Some((name.to_owned(), path.to_owned()))
    };
    text.lines().filter_map(line).collect()
}

fn pairs(entries: &[Entry]) -> Vec<(String, String)> {
    entries.iter().map(|entry| (entry.soname(), entry.path())).collect()
}

const LIBRARIES: [(&str, &str); 8] = [
    ("opt/lib/liba.so.1.2", "liba.so.1"),
    ("opt/lib/liba.so.1.10", "liba.so.10"),
    ("opt/lib/liba.so.9", "liba.so.9"),
    ("opt/lib/libab.so", "libab.so"),
    ("opt/lib/lib2a.so.0", "lib2a.so.0"),
    ("usr/lib/x86_64-linux-gnu/liba.so.1.3", "liba.so.1"),
    ("opt/lib/glibc-hwcaps/x86-64-v2/liba.so.1.2", "liba.so.1"),
    ("opt/lib/glibc-hwcaps/x86-64-v3/libab.so", "libab.so"),
];

#[test]
fn what_ldconfig_writes_is_read() {
    let root = root(&LIBRARIES);
    let cache = root.path().join("etc/ld.so.cache");
    let entries = parse(&fs::read(&cache).unwrap()).unwrap();
    assert!(entries.len() >= LIBRARIES.len(), "{entries:?}");
    assert_eq!(pairs(&entries), printed(&cache));
    let special: Vec<String> = entries
        .iter()
        .filter_map(|entry| match &entry.hwcap {
            Hwcap::Directory(name) => Some(String::from_utf8(name.clone()).unwrap()),
            Hwcap::Bits(_) => None,
        })
        .collect();
    assert_eq!(special, ["x86-64-v3", "x86-64-v2"]);
    // This machine's own, too.
    let own = Path::new("/etc/ld.so.cache");
    assert_eq!(pairs(&parse(&fs::read(own).unwrap()).unwrap()), printed(own));
}

#[test]
fn what_is_written_is_what_ldconfig_writes() {
    let root = root(&LIBRARIES);
    let cache = root.path().join("etc/ld.so.cache");
    let entries = parse(&fs::read(&cache).unwrap()).unwrap();
    let again = merged(&entries, &[]);
    assert_eq!(parse(&again).unwrap(), entries, "the order of ldconfig is ours");
    let copy = root.path().join("copy");
    fs::write(&copy, again).unwrap();
    assert_eq!(printed(&copy), printed(&cache));
    assert_eq!(run(program("ldconfig").arg("-p").arg("-C").arg(&copy)).lines().count(), entries.len() + 1);
}

#[test]
fn ours_win_over_the_images() {
    let root = root(&LIBRARIES);
    let image = parse(&fs::read(root.path().join("etc/ld.so.cache")).unwrap()).unwrap();
    let ours = [
        Entry::new("liba.so.1", "/ours/liba.so.1", Loader::X8664),
        Entry::new("libcuda.so.1", "/ours/libcuda.so.570.86.10", Loader::X8664),
        Entry::new("liba.so.9", "/ours/32/liba.so.9", Loader::I386),
    ];
    let entries = parse(&merged(&image, &ours)).unwrap();
    let of = |name: &str| -> Vec<String> {
        entries.iter().filter(|entry| entry.soname() == name).map(Entry::path).collect()
    };
    assert_eq!(of("liba.so.1"), ["/ours/liba.so.1"]);
    assert_eq!(of("libcuda.so.1"), ["/ours/libcuda.so.570.86.10"]);
    assert_eq!(of("liba.so.9").len(), 2, "another loader's is not replaced");
    assert_eq!(of("libab.so").len(), 2);
    let disguised = [Entry::new("liba.so.01", "/evil", Loader::X8664)];
    assert_eq!(pairs(&parse(&merged(&disguised, &ours[..1])).unwrap()), pairs(&ours[..1]));
}

/// The loader itself, in a root with nothing but itself, finds a library through a cache of ours.
#[test]
fn the_real_loader_finds_what_is_written() {
    if !nix::unistd::geteuid().is_root() || cfg!(not(target_arch = "x86_64")) {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    for name in ["lib64/ld-linux-x86-64.so.2", "lib/x86_64-linux-gnu/libc.so.6"] {
        fs::create_dir_all(path(name).parent().unwrap()).unwrap();
        fs::copy(Path::new("/").join(name), path(name)).unwrap();
    }
    let source = path("probe.c");
    fs::write(
        &source,
        "#include <dlfcn.h>\n#include <stdio.h>\nint main(int n, char **w) { for (int i = 1; i < n; i++) { void *l = \
         dlopen(w[i], RTLD_NOW); int (*f)(void) = l ? (int (*)(void))dlsym(l, \"which\") : 0; printf(\"%d \", f ? f() : -1); } \
         return 0; }\n",
    )
    .unwrap();
    run(program("cc").arg("-o").arg(path("probe")).arg(&source).arg("-ldl"));
    let mut ours = Vec::new();
    // Many names, so that the bisection takes all its turns.
    let numbers = [0, 1, 2, 9, 10, 11, 99, 100];
    for number in numbers {
        let soname = format!("libx{number}.so.{number}");
        library(&path(&format!("far/{soname}.1")), &soname, number);
        ours.push(Entry::new(&soname, &format!("/far/{soname}.1"), Loader::X8664));
    }
    let image = [
        Entry::new("libx9.so.9", "/wrong", Loader::X8664),
        Entry::new("libc.so.6", "/lib/x86_64-linux-gnu/libc.so.6", Loader::X8664),
    ];
    fs::create_dir(path("etc")).unwrap();
    fs::write(path("etc/ld.so.cache"), merged(&image, &ours)).unwrap();
    let mut probe = program("chroot");
    probe.arg(root.path()).arg("/probe").args(numbers.map(|number| format!("libx{number}.so.{number}")));
    let found = run(probe.arg("libx3.so.3"));
    assert_eq!(found.trim(), "0 1 2 9 10 11 99 100 -1");
}

#[test]
fn the_older_format_may_stand_before() {
    let new = merged(&[], &[Entry::new("libcuda.so.1", "/x", Loader::X8664)]);
    let mut both = OLD_MAGIC.to_vec();
    both.resize(12, 0);
    both.extend(1_u32.to_le_bytes());
    both.extend([0; OLD_ENTRY_BYTES]);
    both.resize(both.len().next_multiple_of(8), 0);
    both.extend(&new);
    assert_eq!(parse(&both).unwrap(), parse(&new).unwrap());
}

#[test]
fn damage_is_told() {
    let good = merged(&[], &[Entry::new("libcuda.so.1", "/x", Loader::X8664)]);
    let with = |at: usize, bytes: [u8; 4]| {
        let mut bad = good.clone();
        bad[at..at + 4].copy_from_slice(&bytes);
        parse(&bad).unwrap_err()
    };
    assert_eq!(parse(b"").unwrap_err(), LdCacheError::Magic);
    assert_eq!(parse(&good[..40]).unwrap_err(), LdCacheError::Truncated);
    assert_eq!(with(20, [255; 4]), LdCacheError::Truncated);
    assert_eq!(with(28, [3, 0, 0, 0]), LdCacheError::ByteOrder);
    assert_eq!(with(52, [255; 4]), LdCacheError::Offset);
    assert_eq!(parse(&vec![0; MAX_CACHE_BYTES + 1]).unwrap_err(), LdCacheError::TooLarge(MAX_CACHE_BYTES + 1));
}

#[test]
fn names_compare_as_the_loader_compares_them() {
    for (left, right, expected) in [
        ("liba.so.2", "liba.so.10", Ordering::Less),
        ("liba.so.1", "liba.so", Ordering::Greater),
        ("liba", "lib2", Ordering::Less),
        ("lib-a", "liba", Ordering::Less),
        ("libc.so.6", "libc.so.6", Ordering::Equal),
        ("libx01", "libx1", Ordering::Equal),
        ("", "a", Ordering::Less),
    ] {
        assert_eq!(compare_names(left.as_bytes(), right.as_bytes()), expected, "{left} {right}");
        assert_eq!(compare_names(right.as_bytes(), left.as_bytes()), expected.reverse(), "{right} {left}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), with_magic: bool) {
        let bytes = if with_magic { [MAGIC, &bytes].concat() } else { bytes };
        drop(parse(&bytes));
    }

    #[test]
    fn no_change_makes_it_panic(at in 0..400_usize, byte: u8, cut in 0..400_usize) {
        let entries: Vec<Entry> =
            (0..6).map(|number| Entry::new(&format!("lib{number}.so.1"), "/some/path", Loader::X8664)).collect();
        let mut bytes = merged(&entries, &[]);
        let length = bytes.len();
        bytes[at % length] = byte;
        bytes.truncate(length - cut % length);
        if let Ok(entries) = parse(&bytes) {
            prop_assert!(entries.len() <= 6);
            drop(merged(&entries, &[]));
        }
    }

    #[test]
    fn what_is_written_is_read(names in prop::collection::vec("[a-z0-9.]{1,8}", 0..20)) {
        let ours: Vec<Entry> = names.iter().map(|name| Entry::new(name, &format!("/p/{name}"), Loader::X8664)).collect();
        let read = parse(&merged(&[], &ours)).unwrap();
        prop_assert_eq!(read.len(), ours.len());
        prop_assert!(ours.iter().all(|entry| read.contains(entry)));
        prop_assert!(read.windows(2).all(|pair| order(&pair[0], &pair[1]) != Ordering::Greater));
    }
}
