//! Against files of the real linker, whole and damaged.

use std::fs::{self, File};
use std::io::Cursor;
use std::sync::OnceLock;

use object::elf::{EM_AARCH64, EM_X86_64};
use proptest::prelude::*;

use super::testing::{library, note_code, user, versioned};
use super::*;

const SECTION: &str = ".note.test";

/// A library that has everything that is read.
fn whole() -> &'static [u8] {
    static WHOLE: OnceLock<Vec<u8>> = OnceLock::new();
    WHOLE.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        versioned(&at("libc.so.6"), "libc.so.6", &["GLIBC_2.2.5", "GLIBC_2.9", "GLIBC_2.17"]);
        versioned(&at("libm.so.6"), "libm.so.6", &["GLIBC_2.29"]);
        let map = at("map");
        fs::write(&map, "GLIBC_2.1 { global: own; };\nGLIBC_2.30 { };\nGLIBC_PRIVATE { };\n").unwrap();
        let code = "extern int f_GLIBC_2_2_5(void), f_GLIBC_2_9(void), f_GLIBC_2_29(void);\n\
                    int own(void) { return f_GLIBC_2_2_5() + f_GLIBC_2_9() + f_GLIBC_2_29(); }\n";
        let code = format!("{code}{}", note_code(SECTION, "Somebody", "words"));
        let script = format!("-Wl,--version-script={}", map.display());
        let paths = [at("libc.so.6"), at("libm.so.6")];
        let options = [&script, paths[0].to_str().unwrap(), paths[1].to_str().unwrap()];
        library(&at("libown.so.1.2"), "libown.so.1", &code, &options);
        fs::read(at("libown.so.1.2")).unwrap()
    })
}

#[test]
fn everything_is_read() {
    let read = linkage(Cursor::new(whole())).unwrap();
    assert_eq!(read.elf, super::read(Cursor::new(whole())).unwrap());
    assert_eq!(read.elf.soname.as_deref(), Some("libown.so.1"));
    assert_eq!(read.elf.bits, Bits::B64);
    assert_eq!(read.elf.machine, if cfg!(target_arch = "aarch64") { EM_AARCH64.0 } else { EM_X86_64.0 });
    assert_eq!(read.needed, ["libc.so.6", "libm.so.6"]);
    let needs = read.needs_glibc.iter().map(|(name, version)| format!("{name} {version}")).collect::<Vec<_>>();
    assert_eq!(needs, ["libc.so.6 2.9", "libm.so.6 2.29"]);
    assert_eq!(read.offers_glibc, GlibcVersion::parse("GLIBC_2.30"));
    assert_eq!(note(Cursor::new(whole()), SECTION, "Somebody").as_deref(), Some(&b"words"[..]));
    assert_eq!(note(Cursor::new(whole()), SECTION, "Nobody"), None);
    assert_eq!(note(Cursor::new(whole()), ".note.other", "Somebody"), None);
}

#[test]
fn a_note_that_says_more_than_its_section_has_is_read() {
    let mut bytes = whole().to_vec();
    let owner = bytes.windows(9).position(|window| window == b"Somebody\0").unwrap();
    bytes[owner - 8..owner - 4].copy_from_slice(&1000_u32.to_ne_bytes());
    assert_eq!(note(Cursor::new(&bytes), SECTION, "Somebody").as_deref(), Some(&b"words"[..]));
    bytes[owner - 8..owner - 4].copy_from_slice(&u32::MAX.to_ne_bytes());
    bytes[owner - 12..owner - 8].copy_from_slice(&u32::MAX.to_ne_bytes());
    assert_eq!(note(Cursor::new(&bytes), SECTION, "Somebody"), None);
}

#[test]
fn a_plain_library_has_no_versions() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("plain.so");
    user(&path, "libplain.so.1", &[], &[]);
    let read = linkage(File::open(&path).unwrap()).unwrap();
    assert_eq!((read.needed, read.needs_glibc, read.offers_glibc), (vec![], BTreeMap::new(), None));
    assert_eq!(linkage(Cursor::new(b"#!/bin/sh\n")), None);
    assert_eq!(linkage(Cursor::new(b"")), None);
}

#[test]
fn versions_are_numbers() {
    let parsed = |text: &str| GlibcVersion::parse(text).map(|version| version.to_string());
    for (text, expected) in [
        ("GLIBC_2.2.5", Some("2.2.5")),
        ("GLIBC_2.27", Some("2.27")),
        ("GLIBC_PRIVATE", None),
        ("GLIBC_ABI_DT_RELR", None),
        ("GLIBC_2", None),
        ("GLIBC_2.1.2.3", None),
        ("GLIBC_2.99999999999", None),
        ("GLIBCXX_3.4", None),
    ] {
        assert_eq!(parsed(text).as_deref(), expected, "`{text}`");
    }
    assert!(GlibcVersion::parse("GLIBC_2.9") < GlibcVersion::parse("GLIBC_2.17"));
}

/// Where damage does most: the headers and tables at the beginning, and the sections' at the end.
fn places() -> impl Strategy<Value = usize> {
    let length = whole().len();
    prop_oneof![0..64_usize, 64..2048_usize.min(length), length.saturating_sub(4096)..length, 0..length]
}

proptest! {
    #[test]
    fn damaged_files_never_panic(
        changes in prop::collection::vec((places(), any::<u8>()), 1..12),
        keep in prop_oneof![Just(usize::MAX), places()],
    ) {
        let mut bytes = whole().to_vec();
        for (place, byte) in changes {
            bytes[place] = byte;
        }
        bytes.truncate(keep);
        let _ = read(Cursor::new(&bytes));
        let _ = linkage(Cursor::new(&bytes));
        let _ = note(Cursor::new(&bytes), SECTION, "Somebody");
    }

    #[test]
    fn other_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let bytes = [&b"\x7fELF\x02\x01\x01"[..], &bytes].concat();
        let _ = linkage(Cursor::new(&bytes));
        let _ = note(Cursor::new(&bytes), SECTION, "Somebody");
    }
}

/// The library with this many empty records put between its first version and its newest one.
fn with_long_list(records: u32) -> Vec<u8> {
    let cache = ReadCache::new(Cursor::new(whole()));
    let image = Image::<FileHeader64<Endianness>, _>::open(&cache).unwrap();
    let start = image.values(DT_VERDEF).next().and_then(|address| image.offset(address)).unwrap();
    let start = usize::try_from(start).unwrap();
    let mut bytes = whole().to_vec();
    let next_of = |bytes: &[u8], at: usize| u32::from_ne_bytes(bytes[at + 16..at + 20].try_into().unwrap());
    let second = start + next_of(&bytes, start) as usize;
    let newest = second + next_of(&bytes, second) as usize;

    let end = u32::try_from(bytes.len() - start).unwrap();
    bytes[start + 16..start + 20].copy_from_slice(&end.to_ne_bytes());
    let empty = [[0_u8; 16].as_slice(), &20_u32.to_ne_bytes()].concat();
    bytes.extend(empty.repeat(records as usize));
    // A record, and its text right behind it.
    assert_eq!(bytes[newest + 12..newest + 16], 20_u32.to_ne_bytes());
    let copy = bytes[newest..newest + 28].to_vec();
    bytes.extend(copy);
    bytes
}

#[test]
fn long_lists_end_at_the_bound() {
    let offered = |records| linkage(Cursor::new(with_long_list(records))).unwrap().offers_glibc;
    assert_eq!(offered(100), GlibcVersion::parse("GLIBC_2.30"));
    assert_eq!(offered(100_000), None);
}
