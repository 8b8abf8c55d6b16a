//! What tar allows, or what some writer did, entry by entry; and the layers of builders that have a style of their own.

use super::Fixture;
use crate::rootfs::error::LayerError;
use crate::rootfs::testing::{
    Item, device, dir, entry, file, hardlink, header, is_root, listing, pax_record, seal, symlink, tar, whiteout,
};

const AT: &str = "1000000000.000000000";

macro_rules! root_only {
    () => {
        if !is_root() {
            return;
        }
    };
}

/// The listing of the layer, without its root.
fn tree(archive: &[u8]) -> Vec<String> {
    let fixture = Fixture::new();
    listing(&fixture.layer(archive)).into_iter().skip(1).collect()
}

fn extended(flag: u8, records: &[(&str, &[u8])]) -> Vec<u8> {
    let content: Vec<u8> = records.iter().flat_map(|(key, value)| pax_record(key, value)).collect();
    entry(&Item { content, ..Item::new("extended", flag) })
}

/// A plain header with other bytes at some places.
fn changed(item: &Item, changes: &[(usize, &[u8])]) -> Vec<u8> {
    let mut block = header(item, item.content.len() as u64);
    for (at, bytes) in changes {
        block[*at..*at + bytes.len()].copy_from_slice(bytes);
    }
    seal(&mut block);
    let mut bytes = block.to_vec();
    bytes.extend_from_slice(&item.content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

#[test]
fn global_headers_count_but_name_no_file() {
    root_only!();
    let archive = [
        extended(b'g', &[("uid", b"42"), ("mtime", b"7.5"), ("path", b"evil"), ("linkpath", b"evil"), ("size", b"9")]),
        tar(&[file("a", "a"), symlink("l", "a")]),
    ];
    // Without the end marker, so that more can follow.
    let first = archive.concat();
    let first = &first[..first.len() - 1024];
    let more = [
        // The file's own word counts more, and an empty one takes back what the global one says.
        entry(&file("b", "").pax("uid", "1")),
        entry(&file("c", "").owner(3, 0).pax("uid", "").pax("mtime", "")),
        extended(b'g', &[("uid", b""), ("gid", b"8")]),
        tar(&[file("d", "").owner(4, 4)]),
    ]
    .concat();
    assert_eq!(
        tree(&[first, &more].concat()),
        [
            "/a file \"a\" 644 42:0 7.500000000",
            "/b file \"\" 644 1:0 7.500000000",
            "/c file \"\" 644 3:0 1000000000.000000000",
            "/d file \"\" 644 4:8 7.500000000",
            "/l -> a 777 42:0 7.500000000",
        ]
    );
}

#[test]
fn names_are_bytes_whatever_their_charset_is_called() {
    root_only!();
    let latin = b"caf\xe9 \x01\x7f".as_slice();
    let archive = [
        extended(b'x', &[("hdrcharset", b"BINARY"), ("path", latin), ("linkpath", b"\xff\xfe")]),
        entry(&symlink("short", "short")),
        extended(b'x', &[("hdrcharset", b"ISO-IR 10646 2000 UTF-8"), ("path", "caf\u{e9}".as_bytes())]),
        tar(&[file("short", "")]),
    ];
    let lines = tree(&archive.concat());
    assert_eq!(
        lines,
        [format!("/caf\\xc3\\xa9 file \"\" 644 0:0 {AT}"), format!("/caf\\xe9 \\x01\\x7f -> \\xff\\xfe 777 0:0 {AT}")]
    );
}

#[test]
fn numbers_at_their_ends() {
    root_only!();
    let mut base256 = vec![0xff; 4];
    base256.extend((-1_000_i64).to_be_bytes());
    let archive = [
        changed(&file("negative", ""), &[(136, &base256)]),
        // Old writers fill fields to the last byte, with blanks before or behind.
        changed(&file("blanks", ""), &[(100, b"   755 \0"), (108, b"    12 \0"), (116, b"00000015")]),
        changed(&file("file type", ""), &[(100, b"0104750\0")]),
        changed(&file("nothing", ""), &[(100, &[0; 8]), (108, &[b' '; 8]), (136, &[0; 12])]),
        tar(&[file("largest", "").owner(4_294_967_294, 4_294_967_294)]),
    ];
    assert_eq!(
        tree(&archive.concat()),
        [
            format!("/blanks file \"\" 755 10:13 {AT}"),
            format!("/file type file \"\" 4750 0:0 {AT}"),
            format!("/largest file \"\" 644 4294967294:4294967294 {AT}"),
            "/negative file \"\" 644 0:0 -1000.000000000".to_owned(),
            "/nothing file \"\" 0 0:0 0.000000000".to_owned(),
        ]
    );
}

#[test]
fn headers_of_star_solaris_and_the_seventh_edition() {
    root_only!();
    let prefix = [b"p".repeat(131), b"00000000001".to_vec(), vec![b' '], b"00000000002".to_vec(), vec![b' ']].concat();
    let archive = [
        changed(&file("of star", ""), &[(345, &prefix), (508, b"tar\0")]),
        extended(b'X', &[("path", b"of solaris")]),
        entry(&file("short", "")),
        // No magic, no kind: a directory by its slash, also when the slash stands in a long name.
        changed(&Item::new("old dir/", 0).mode(0o700), &[(257, &[0; 8])]),
        extended(b'x', &[("path", b"old long dir/")]),
        changed(&Item::new("old", 0).mode(0o700), &[(257, &[0; 8])]),
        changed(&Item { content: b"x".to_vec(), ..Item::new("old file", 0) }, &[(257, &[0; 8])]),
        changed(&Item { link: b"old file".to_vec(), ..Item::new("old link", b'1') }, &[(257, &[0; 8])]),
        // Contiguous files are files.
        tar(&[Item { content: b"y".to_vec(), ..Item::new("contiguous", b'7') }]),
    ];
    assert_eq!(
        tree(&archive.concat()),
        [
            format!("/contiguous file \"y\" 644 0:0 {AT}"),
            format!("/of solaris file \"\" 644 0:0 {AT}"),
            format!("/old dir dir 700 0:0 {AT}"),
            format!("/old file file \"x\" 644 0:0 {AT}"),
            format!("/old link file \"x\" 644 0:0 {AT} = /old file"),
            format!("/old long dir dir 700 0:0 {AT}"),
            format!("/{} dir 755 0:0 0.000000000", "p".repeat(131)),
            format!("/{}/of star file \"\" 644 0:0 {AT}", "p".repeat(131)),
        ]
    );
}

#[test]
fn kinds_that_no_layer_has_are_refused_by_name() {
    root_only!();
    let fixture = Fixture::new();
    for (kind, words) in [
        (b'M', "`M` at byte 0, the continuation of a file"),
        (b'N', "`N` at byte 0, names"),
        (b'A', "`A` at byte 0, access control"),
        (b'8', "`8` at byte 0"),
        (b's', "`s` at byte 0"),
        (0xff, "at byte 0"),
    ] {
        let refused = fixture.refusal(&tar(&[Item::new("f", kind)]));
        assert!(matches!(refused, LayerError::Archive(_)) && refused.to_string().contains(words), "{refused}");
    }
    assert_eq!((fixture.count("layers/sha256"), fixture.count("tmp")), (0, 0));
}

#[test]
fn labels_and_dumps_are_passed_over() {
    root_only!();
    let mut label = Item { content: vec![b'x'; 700], ..Item::new("label", b'V') };
    label.declared_size = None;
    let dump = Item { content: b"Yfile\0Nother\0\0".to_vec(), ..Item::new("dumped/", b'D').mode(0o750) };
    assert_eq!(
        tree(&tar(&[label, dump, file("dumped/file", "x")])),
        [format!("/dumped dir 750 0:0 {AT}"), format!("/dumped/file file \"x\" 644 0:0 {AT}")]
    );
}

/// What belongs to the entry before it must not leak into the next one.
#[test]
fn extended_headers_hold_for_one_entry() {
    root_only!();
    let archive = [
        extended(b'x', &[("path", b"first"), ("uid", b"5"), ("SCHILY.xattr.user.a", b"1")]),
        // The second in a row replaces the first, as everywhere.
        extended(b'x', &[("path", b"second")]),
        entry(&file("short", "")),
        entry(&Item { content: b"long\0".to_vec(), ..Item::new("././@LongLink", b'L') }),
        // A global header or a label in between changes nothing.
        extended(b'g', &[("comment", b"0123456789abcdef")]),
        entry(&Item::new("label", b'V')),
        entry(&dir("short")),
        tar(&[file("plain", "")]),
    ];
    assert_eq!(
        tree(&archive.concat()),
        [
            format!("/long dir 755 0:0 {AT}"),
            format!("/plain file \"\" 644 0:0 {AT}"),
            format!("/second file \"\" 644 0:0 {AT}")
        ]
    );
}

#[test]
fn hard_links_of_all_sorts() {
    root_only!();
    let mut with_size = hardlink("with size", "f");
    with_size.declared_size = Some(12_345);
    let lines = tree(&tar(&[
        file("f", "x").mode(0o600).xattr("user.a", "1"),
        symlink("s", "nowhere"),
        device("c", b'3', 1, 3),
        Item::new("p", b'6'),
        // The size that some writers give a link is that of the file; no content follows.
        with_size,
        hardlink("./to a link", "/s"),
        hardlink("to a device", "c"),
        hardlink("to a pipe", "p"),
        hardlink("to a hard link", "with size"),
        // What a link's own header says about owner and mode counts for nothing: it is the same file.
        hardlink("other mode", "f").mode(0o777).owner(9, 9).at(1, 0),
        dir("d"),
        symlink("d/up", ".."),
        hardlink("d/through", "d/up/f"),
        hardlink("f", "f"),
        hardlink("s", "to a link"),
    ]));
    let same = lines.iter().filter(|line| line.contains("file \"x\" 600 0:0 ")).count();
    assert_eq!(same, 5, "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("/to a link -> nowhere") && line.ends_with(" = /s")), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("/to a pipe Fifo") && line.ends_with(" = /p")), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("/to a device Char") && line.ends_with(" = /c")), "{lines:?}");
}

#[test]
fn the_root_by_all_its_names() {
    root_only!();
    let fixture = Fixture::new();
    for (number, name) in ["./", "/", ".", "", "//", "./.", "a/.."].iter().enumerate() {
        let root = dir(name).mode(0o2711).owner(3, 4).at(i64::try_from(number).unwrap(), 5).xattr("user.a", "1");
        // The last word counts, and of the first nothing stays.
        let first = dir("./").mode(0o700).xattr("user.old", "1");
        let layer = fixture.layer(&tar(&[first, root, file("f", "")]));
        assert_eq!(listing(&layer)[0], format!("/ dir 2711 3:4 {number}.000000005 user.a=1"), "`{name}`");
    }
}

#[test]
fn ends_of_all_sorts() {
    root_only!();
    let whole = tar(&[file("f", "x")]);
    let body = &whole[..1024];
    for (what, archive) in [
        ("two blocks", whole.clone()),
        ("none", body.to_vec()),
        ("half a block", [body, &[0; 512]].concat()),
        ("a lone block", [body, &[0; 512], &tar(&[file("hidden", "")])].concat()),
        ("zeros", [body, &vec![0; 1 << 20]].concat()),
        ("zeros that are no block", [body, &[0; 700]].concat()),
        ("garbage", [&whole, b"garbage \xff".as_slice()].concat()),
        ("another archive", [whole.clone(), tar(&[file("hidden", "")])].concat()),
    ] {
        assert_eq!(tree(&archive), [format!("/f file \"x\" 644 0:0 {AT}")], "{what}");
    }
    let fixture = Fixture::new();
    for (what, archive) in [
        ("a cut header", [body, &whole[..100]].concat()),
        ("garbage without an end", [body, &[b'x'; 512]].concat()),
        ("cut content", whole[..512].to_vec()),
        ("a header of headers only", extended(b'x', &[("path", b"p")])),
    ] {
        assert!(matches!(fixture.refusal(&archive), LayerError::Archive(_)), "{what}");
    }
    assert_eq!((fixture.count("layers/sha256"), fixture.count("tmp")), (0, 0));
}

/// A map without line breaks was collected until the memory was full.
#[test]
fn the_map_of_a_sparse_file_is_bounded() {
    root_only!();
    let fixture = Fixture::new();
    let sparse = |content: Vec<u8>| {
        let item = file("GNUSparseFile.0/f", content).pax("GNU.sparse.name", "f").pax("GNU.sparse.realsize", "10");
        tar(&[item.pax("GNU.sparse.major", "1").pax("GNU.sparse.minor", "0")])
    };
    let mut zeros_first = vec![b'0'; 19];
    zeros_first.extend(b"1\n0\n10\n");
    zeros_first.resize(512, 0);
    zeros_first.extend(b"0123456789");
    assert_eq!(tree(&sparse(zeros_first)), [format!("/f file \"0123456789\" 644 0:0 {AT}")]);
    for content in [vec![b'1'; 4 << 20], vec![0; 4 << 20], b"99999999\n".to_vec(), b"2\n0\n5".to_vec()] {
        let refused = fixture.refusal(&sparse(content));
        assert!(matches!(refused, LayerError::Archive(_)), "{refused}");
    }
}

/// Kaniko: absolute names, parents named before, the root as `/`, whiteouts after the files.
#[test]
fn layers_in_the_style_of_kaniko() {
    root_only!();
    let base = tar(&[dir("etc/"), file("etc/old", ""), file("etc/kept", ""), dir("tmp/").mode(0o1777)]);
    let upper = tar(&[
        dir("/"),
        dir("/etc/").mode(0o750),
        file("/etc/new", "new"),
        symlink("/etc/link", "/etc/new"),
        dir("/workspace/"),
        file("/workspace/app", "").mode(0o755).pax("size", "0"),
        file("/etc/.wh.old", ""),
    ]);
    assert_eq!(
        super::stacks::shown(&[base, upper]),
        [
            format!("/etc dir 750 0:0 {AT}"),
            format!("/etc/kept file \"\" 644 0:0 {AT}"),
            format!("/etc/link -> /etc/new 777 0:0 {AT}"),
            format!("/etc/new file \"new\" 644 0:0 {AT}"),
            format!("/tmp dir 1777 0:0 {AT}"),
            format!("/workspace dir 755 0:0 {AT}"),
            format!("/workspace/app file \"\" 755 0:0 {AT}"),
        ]
    );
}

/// Bazel's rules and ko: `./` before each name, times of the epoch, few directories or none, layers that repeat `/`.
#[test]
fn layers_in_the_style_of_bazel_and_ko() {
    root_only!();
    let bazel = tar(&[
        dir("./").mode(0o555).at(0, 0),
        dir("./app").mode(0o555).at(0, 0),
        file("./app/binary", "x").mode(0o555).at(0, 0),
        symlink("./app/binary.runfiles/lib", "../../lib").at(0, 0),
    ]);
    let ko = tar(&[
        dir("ko-app").mode(0o555).at(0, 0),
        file("/ko-app/server", "y").mode(0o555).at(0, 0),
        dir("var/run/ko").mode(0o555).at(0, 0),
        file("/var/run/ko/LICENSE", "z").mode(0o444).at(0, 0),
    ]);
    assert_eq!(
        super::stacks::shown(&[bazel, ko]),
        [
            "/app dir 555 0:0 0.000000000",
            "/app/binary file \"x\" 555 0:0 0.000000000",
            "/app/binary.runfiles dir 755 0:0 0.000000000",
            "/app/binary.runfiles/lib -> ../../lib 777 0:0 0.000000000",
            "/ko-app dir 555 0:0 0.000000000",
            "/ko-app/server file \"y\" 555 0:0 0.000000000",
            "/var dir 755 0:0 0.000000000",
            "/var/run dir 755 0:0 0.000000000",
            "/var/run/ko dir 555 0:0 0.000000000",
            "/var/run/ko/LICENSE file \"z\" 444 0:0 0.000000000",
        ]
    );
}

/// Docker and `BuildKit`: opaque marks first in the directory, names in order, hard links after their targets.
#[test]
fn layers_in_the_style_of_docker() {
    root_only!();
    let base = tar(&[
        dir("etc/"),
        dir("etc/opaque/"),
        file("etc/opaque/old", ""),
        dir("usr/"),
        dir("usr/bin/"),
        file("usr/bin/tool", "t").mode(0o755),
        symlink("bin", "usr/bin"),
        dir("gone/"),
        file("gone/deep", ""),
    ]);
    let upper = tar(&[
        whiteout(".wh.gone"),
        dir("etc/"),
        dir("etc/opaque/"),
        whiteout("etc/opaque/.wh..wh..opq"),
        file("etc/opaque/new", ""),
        dir("usr/"),
        dir("usr/bin/"),
        file("usr/bin/a", "a").pax("mtime", "1000000000.5"),
        hardlink("usr/bin/b", "usr/bin/a"),
        hardlink("usr/bin/tool2", "usr/bin/tool"),
        file("bin/through", ""),
    ]);
    let lines = super::stacks::shown(&[base, upper]);
    let paths: Vec<&str> = lines.iter().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(
        paths,
        [
            "/bin",
            "/etc",
            "/etc/opaque",
            "/etc/opaque/new",
            "/usr",
            "/usr/bin",
            "/usr/bin/a",
            "/usr/bin/b",
            "/usr/bin/through",
            "/usr/bin/tool",
            "/usr/bin/tool2"
        ]
    );
    assert!(lines[7].ends_with(" = /usr/bin/a") && lines[10].ends_with(" = /usr/bin/tool"), "{lines:?}");
}
