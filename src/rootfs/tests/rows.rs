//! One layer at a time: each row of what is right, where tools differ.

use std::os::unix::fs::MetadataExt;

use super::{Fixture, chain, gzip};
use crate::image::Digest;
use crate::rootfs::error::{EntryError, LayerError, RootfsError};
use crate::rootfs::path::MAX_DEPTH;
use crate::rootfs::pax::MAX_RECORD_BYTES;
use crate::rootfs::testing::{
    Item, device, dir, entry, file, hardlink, header, is_root, listing, symlink, tar, whiteout,
};

/// A time that the files of these tests have, and how it is listed.
const AT: &str = "1000000000.000000000";

/// The listing of the layer, without its root.
fn tree(items: &[Item]) -> Vec<String> {
    let fixture = Fixture::new();
    let lines = listing(&fixture.layer(&tar(items)));
    lines.into_iter().skip(1).collect()
}

macro_rules! root_only {
    () => {
        if !is_root() {
            return;
        }
    };
}

#[test]
fn every_kind_with_owner_mode_and_time() {
    root_only!();
    let lines = tree(&[
        dir("d").mode(0o1777).owner(1, 2).at(-1, 500_000_000),
        file("d/f", "content").mode(0o640).owner(4_294_967_294, 3).at(1_500_000_000, 123_456_789),
        file(b"d/\xff\xfe", ""),
        symlink("d/s", "../../nowhere").owner(5, 6).at(-86_400, 0),
        hardlink("h", "d/f"),
        device("null", b'3', 1, 3).mode(0o666),
        device("disk", b'4', 8, 1),
        Item::new("pipe", b'6').mode(0o600),
    ]);
    let null = rustix::fs::makedev(1, 3);
    let disk = rustix::fs::makedev(8, 1);
    assert_eq!(
        lines,
        [
            "/d dir 1777 1:2 -1.500000000".to_owned(),
            "/d/\\xff\\xfe file \"\" 644 0:0 1000000000.000000000".to_owned(),
            "/d/f file \"content\" 640 4294967294:3 1500000000.123456789".to_owned(),
            "/d/s -> ../../nowhere 777 5:6 -86400.000000000".to_owned(),
            format!("/disk BlockDevice({disk}) 644 0:0 {AT}"),
            "/h file \"content\" 640 4294967294:3 1500000000.123456789 = /d/f".to_owned(),
            format!("/null CharDevice({null}) 666 0:0 {AT}"),
            format!("/pipe Fifo 600 0:0 {AT}"),
        ]
    );
}

#[test]
fn setuid_and_capabilities_survive_the_change_of_owner() {
    root_only!();
    // cap_net_raw+ep, VFS_CAP_REVISION_2; its bytes hold a line break, to be sure.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0];
    let lines = tree(&[
        file("suid", "x").mode(0o6755).owner(7, 8),
        file("ping", "x").mode(0o755).owner(7, 8).xattr("security.capability", capability),
    ]);
    assert!(
        lines[0].contains("755 7:8") && lines[0].contains(" security.capability=\\x01\\x00\\x00\\x02\\x00 "),
        "{lines:?}"
    );
    assert_eq!(lines[1], format!("/suid file \"x\" 6755 7:8 {AT}"));
}

#[test]
fn attributes_are_kept_but_for_the_hosts_and_the_overlays() {
    root_only!();
    let item = |item: Item| {
        item.xattr("user.a", b"1\n2")
            .xattr("trusted.b", "3")
            .xattr("security.selinux", "evil")
            .xattr("trusted.overlay.opaque", "y")
            .xattr("trusted.overlay.redirect", "/etc")
            .xattr("user.overlay.opaque", "y")
            .pax("LIBARCHIVE.xattr.user.c%2Fd", "BAUG")
    };
    let lines = tree(&[item(file("f", "")), item(dir("d")), item(symlink("s", "f")), item(Item::new("p", b'6'))]);
    assert_eq!(
        lines,
        [
            format!("/d dir 755 0:0 {AT} trusted.b=3 user.a=1\\n2 user.c/d=\\x04\\x05\\x06"),
            format!("/f file \"\" 644 0:0 {AT} trusted.b=3 user.a=1\\n2 user.c/d=\\x04\\x05\\x06"),
            // Links and pipes cannot have `user.*`.
            format!("/p Fifo 644 0:0 {AT} trusted.b=3"),
            format!("/s -> f 777 0:0 {AT} trusted.b=3"),
        ]
    );
}

#[test]
fn what_new_files_inherit_is_not_inherited_by_the_layers_own() {
    root_only!();
    // user::rwx group::r-x group:7:rwx mask::rwx other::r-x, as the kernel stores it.
    let entry =
        |tag: u16, bits: u16, id: u32| [&tag.to_le_bytes()[..], &bits.to_le_bytes(), &id.to_le_bytes()].concat();
    let none = u32::MAX;
    let acl = [
        2_u32.to_le_bytes().to_vec(),
        entry(1, 7, none),
        entry(4, 5, none),
        entry(8, 7, 7),
        entry(16, 7, none),
        entry(32, 5, none),
    ];
    let items = [
        dir("d").mode(0o2775).owner(0, 50).xattr("system.posix_acl_default", acl.concat()),
        file("d/f", "").mode(0o640),
        dir("d/sub"),
    ];
    let lines = tree(&items);
    assert!(lines[0].starts_with("/d dir 2775 0:50") && lines[0].contains("posix_acl_default"), "{lines:?}");
    assert_eq!(lines[1..], [format!("/d/f file \"\" 640 0:0 {AT}"), format!("/d/sub dir 755 0:0 {AT}")]);
}

#[test]
fn whiteouts_become_devices_and_hide_lower_layers_only() {
    root_only!();
    // Alone in its image a layer has nothing to hide, so the raw tree is looked at above another one.
    let fixture = Fixture::new();
    let lower = tar(&[file("gone", ""), dir("d"), file("d/a", ""), file("d/old", ""), dir("o"), file("o/x", "")]);
    for whiteouts_first in [true, false] {
        let whiteouts = [
            whiteout(".wh.gone"),
            whiteout("d/.wh.a"),
            whiteout(".wh.d"),
            whiteout("o/.wh..wh..opq"),
            whiteout("o/.wh.x"),
        ];
        let made = [dir("d"), file("d/a", "new"), file("d/new", ""), dir("o"), file("o/y", "")];
        let items = if whiteouts_first { [&whiteouts[..], &made].concat() } else { [&made[..], &whiteouts].concat() };
        let layers = fixture.layers(&[lower.clone(), tar(&items)]);
        let raw: Vec<String> = listing(&layers.paths()[0]).into_iter().skip(1).collect();
        assert_eq!(
            raw,
            [
                // `d` hides what is below as a whole; the whiteouts inside need not be there.
                format!("/d dir 755 0:0 {AT} trusted.overlay.opaque=y"),
                format!("/d/a file \"new\" 644 0:0 {AT}"),
                format!("/d/new file \"\" 644 0:0 {AT}"),
                raw.iter().find(|line| line.starts_with("/gone CharDevice(0) ")).cloned().unwrap_or_default(),
                format!("/o dir 755 0:0 {AT} trusted.overlay.opaque=y"),
                format!("/o/y file \"\" 644 0:0 {AT}"),
            ],
            "whiteouts first: {whiteouts_first}"
        );
    }
}

#[test]
fn names_that_are_no_whiteouts_are_refused() {
    root_only!();
    let fixture = Fixture::new();
    for name in [".wh.", ".wh..", ".wh...", "d/.wh.", "d/.wh...", ".wh.d/x"] {
        let refused = fixture.refusal(&tar(&[dir("d"), file("d/f", ""), whiteout(name)]));
        assert!(matches!(refused, LayerError::Entry { source: EntryError::Whiteout, .. }), "`{name}`: {refused}");
    }
    assert_eq!((fixture.count("layers/sha256"), fixture.count("tmp")), (0, 0));
}

#[test]
fn the_files_of_aufs_are_skipped() {
    root_only!();
    let lines = tree(&[dir(".wh..wh.plnk"), file(".wh..wh.plnk/1.2", "x"), file(".wh..wh.aufs", ""), file("f", "")]);
    assert_eq!(lines, [format!("/f file \"\" 644 0:0 {AT}")]);
}

#[test]
fn a_device_that_is_a_whiteout_is_refused() {
    root_only!();
    let refused = Fixture::new().refusal(&tar(&[device("c", b'3', 0, 0)]));
    assert!(matches!(refused, LayerError::Entry { source: EntryError::NullDevice { minor: 0 }, .. }), "{refused}");
}

#[test]
fn the_last_entry_of_a_name_wins() {
    root_only!();
    let lines = tree(&[
        file("a", "first").mode(0o600).xattr("user.old", "1"),
        file("a", "second"),
        dir("b"),
        file("b/x", ""),
        file("b", "now a file"),
        file("c", "was a file"),
        dir("c"),
        file("c/x", ""),
        symlink("d", "a"),
        file("d", "no longer a link"),
        dir("e").mode(0o700).owner(1, 1).xattr("user.old", "1"),
        file("e/stays", ""),
        dir("e").xattr("user.new", "2"),
        hardlink("f", "a"),
        hardlink("f", "d"),
        hardlink("f", "f"),
    ]);
    assert_eq!(
        lines,
        [
            format!("/a file \"second\" 644 0:0 {AT}"),
            format!("/b file \"now a file\" 644 0:0 {AT}"),
            // The file had hidden what is below; so does the directory.
            format!("/c dir 755 0:0 {AT} trusted.overlay.opaque=y"),
            format!("/c/x file \"\" 644 0:0 {AT}"),
            format!("/d file \"no longer a link\" 644 0:0 {AT}"),
            format!("/e dir 755 0:0 {AT} user.new=2"),
            format!("/e/stays file \"\" 644 0:0 {AT}"),
            format!("/f file \"no longer a link\" 644 0:0 {AT} = /d"),
        ]
    );
}

#[test]
fn names_are_clamped_and_links_stay_inside() {
    root_only!();
    let lines = tree(&[
        file("/absolute", ""),
        file("../../up", ""),
        file("a/../../../b", ""),
        dir("real"),
        symlink("out", "/../../real"),
        file("out/inside", ""),
        symlink("tmp", "/real/../nowhere"),
        file("tmp/deep/f", ""),
        hardlink("linked", "../../out/inside"),
        hardlink("link-of-link", "out"),
    ]);
    let paths: Vec<&str> = lines.iter().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(
        paths,
        [
            "/absolute",
            "/b",
            "/link-of-link",
            "/linked",
            "/nowhere",
            "/nowhere/deep",
            "/nowhere/deep/f",
            "/out",
            "/real",
            "/real/inside",
            "/tmp",
            "/up"
        ]
    );
    assert!(lines[2].contains("-> /../../real"), "{lines:?}");
    assert!(lines[9].contains(" = /linked"), "{lines:?}");
}

#[test]
fn hard_links_to_nothing_and_to_directories_are_refused() {
    root_only!();
    let fixture = Fixture::new();
    for (what, items) in [
        ("nowhere", vec![hardlink("h", "missing")]),
        ("forward", vec![hardlink("h", "f"), file("f", "")]),
        ("hidden", vec![whiteout(".wh.f"), hardlink("h", "f")]),
        ("in a hidden directory", vec![whiteout(".wh.d"), hardlink("h", "d/f")]),
    ] {
        let refused = fixture.refusal(&tar(&items));
        assert!(
            matches!(refused, LayerError::Entry { source: EntryError::LinkTarget { .. }, .. }),
            "{what}: {refused}"
        );
    }
    for target in ["d", "/", ".."] {
        let refused = fixture.refusal(&tar(&[dir("d"), hardlink("h", target)]));
        assert!(
            matches!(refused, LayerError::Entry { source: EntryError::LinkDirectory { .. }, .. }),
            "{target}: {refused}"
        );
    }
}

#[test]
fn ways_that_lead_nowhere_are_refused() {
    root_only!();
    let fixture = Fixture::new();
    let through_a_file = fixture.refusal(&tar(&[file("f", ""), file("f/x", "")]));
    assert!(matches!(through_a_file, LayerError::Entry { source: EntryError::NotDirectory { .. }, .. }));
    let in_circles = fixture.refusal(&tar(&[symlink("a", "b"), symlink("b", "a"), file("a/x", "")]));
    assert!(matches!(in_circles, LayerError::Entry { source: EntryError::Io { .. }, .. }), "{in_circles}");
    let root = fixture.refusal(&tar(&[symlink("./", "/etc")]));
    assert!(matches!(root, LayerError::Entry { source: EntryError::Root, .. }), "{root}");
}

#[test]
fn the_root_may_have_an_entry() {
    root_only!();
    let fixture = Fixture::new();
    let with = fixture.layer(&tar(&[dir("./").mode(0o711).owner(3, 4)]));
    assert_eq!(listing(&with), [format!("/ dir 711 3:4 {AT}")]);
    let without = fixture.layer(&tar(&[]));
    assert_eq!(listing(&without), ["/ dir 755 0:0 0.000000000"]);
}

#[test]
fn holes_stay_holes() {
    root_only!();
    let fixture = Fixture::new();
    let size = 8_u64 << 30;
    let map = format!("0,5,{},3,{size},0", 4_u64 << 30);
    let sparse = file("GNUSparseFile.0/big", "startend")
        .pax("GNU.sparse.name", "big")
        .pax("GNU.sparse.size", size.to_string())
        .pax("GNU.sparse.map", map);
    let layer = fixture.layer(&tar(&[sparse]));
    let metadata = std::fs::metadata(layer.join("big")).unwrap();
    assert_eq!(metadata.len(), size);
    assert!(metadata.blocks() * 512 < 1 << 20, "{} bytes on disk", metadata.blocks() * 512);
    let mut piece = [0; 4];
    let big = std::fs::File::open(layer.join("big")).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&big, &mut piece, 4 << 30).unwrap();
    assert_eq!(&piece, b"end\0");
}

#[test]
fn a_truncated_archive_is_refused_and_junk_behind_the_end_is_hashed() {
    root_only!();
    let fixture = Fixture::new();
    let whole = tar(&[file("f", "x".repeat(2000))]);
    for cut in [100, 600, 2048] {
        assert!(matches!(fixture.refusal(&whole[..cut]), LayerError::Archive(_)), "cut at {cut}");
    }
    // The digest of the image is that of all bytes, which the fixture computes.
    fixture.layer(&[whole, b"junk".repeat(100_000)].concat());
}

#[test]
fn a_wrong_diff_id_leaves_nothing() {
    root_only!();
    let fixture = Fixture::new();
    let archive = tar(&[file("f", "x")]);
    let claimed = Digest::sha256(b"something else");
    let image = fixture.image_of_blobs(&[(gzip(&archive), claimed.clone())]);
    let error = fixture.unpack(&image).unwrap_err();
    assert!(
        matches!(&error, RootfsError::Layer { source: LayerError::DiffId { expected, actual }, .. }
            if *expected == claimed && *actual == Digest::sha256(&archive)),
        "{}",
        chain(&error)
    );
    assert_eq!((fixture.count("layers/sha256"), fixture.count("tmp")), (0, 0));
}

#[test]
fn damaged_blobs_leave_nothing() {
    root_only!();
    let fixture = Fixture::new();
    let archive = tar(&[file("f", "x".repeat(100_000))]);
    let blob = gzip(&archive);
    let mut damaged = blob.clone();
    let middle = blob.len() / 2;
    damaged[middle..middle + 20].fill(0x55);
    for bad in [&blob[..blob.len() - 3], &damaged, &[blob.as_slice(), b"garbage"].concat(), b"BZh91AY&SY"] {
        let image = fixture.image_of_blobs(&[(bad.to_vec(), Digest::sha256(&archive))]);
        let error = fixture.unpack(&image).unwrap_err();
        assert!(matches!(error, RootfsError::Layer { .. }), "{}", chain(&error));
    }
    assert_eq!((fixture.count("layers/sha256"), fixture.count("tmp")), (0, 0));
}

#[test]
fn sha512_diff_ids_and_zstd_and_plain_blobs() {
    root_only!();
    let fixture = Fixture::new();
    let archive = tar(&[file("f", "x")]);
    let sha512 = Digest::of(crate::image::Algorithm::Sha512, &archive);
    let zstd = zstd::encode_all(archive.as_slice(), 3).unwrap();
    for blob in [(gzip(&archive), sha512), (zstd, Digest::sha256(&archive))] {
        let keys = fixture.unpack(&fixture.image_of_blobs(std::slice::from_ref(&blob))).unwrap();
        assert_eq!(keys, [blob.1]);
    }
    let plain = tar(&[file("g", "x")]);
    fixture.unpack(&fixture.image_of_blobs(&[(plain.clone(), Digest::sha256(&plain))])).unwrap();
    let empty = fixture.unpack(&fixture.image_of_blobs(&[(Vec::new(), Digest::sha256(b""))])).unwrap();
    assert_eq!(empty, [Digest::sha256(b"")]);
}

#[test]
fn bounds_of_names_and_depth() {
    root_only!();
    let fixture = Fixture::new();
    let deep = "d/".repeat(MAX_DEPTH + 1);
    let long_name = "n".repeat(256);
    let long_path = format!("{}/", "p".repeat(200)).repeat(21);
    for name in [deep.as_str(), &long_name, &long_path, "nul\0byte"] {
        let item = dir("x").pax("path", name);
        let refused = fixture.refusal(&tar(&[item]));
        assert!(matches!(refused, LayerError::Entry { source: EntryError::Name(_), .. }), "{refused}");
    }
    // Links must not lead deeper either.
    let half = "d/".repeat(MAX_DEPTH - 1);
    let refused = fixture.refusal(&tar(&[symlink("l", &half), dir(format!("l/{half}"))]));
    assert!(matches!(refused, LayerError::Entry { source: EntryError::Name(_), .. }), "{refused}");
    assert_eq!(fixture.count("tmp"), 0);
}

#[test]
fn bounds_of_entries_bytes_and_names() {
    use crate::rootfs::attributes::Marks;
    use crate::rootfs::unpack::{Layer, Limits, unpack_alone};
    root_only!();
    let archive = tar(&[file("p/q/a", ""), whiteout("p/q/.wh.w"), file("c", "x".repeat(5000))]);
    let diff_id = Digest::sha256(&archive);
    let unpack = |limits: Limits| {
        let root = tempfile::tempdir().unwrap();
        let mut blob = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut blob, &archive).unwrap();
        std::io::Seek::rewind(&mut blob).unwrap();
        unpack_alone(Layer { blob, diff_id: &diff_id, limits, marks: Marks::default(), progress: &|_| {} }, root.path())
    };
    let bytes = archive.len() as u64;
    // The directories `p`, `p/q` and the whiteout `p/q/w` have nine bytes of names.
    let exact = Limits { bytes, entries: 3, name_bytes: 9 };
    assert!(unpack(exact).is_ok());
    assert!(matches!(unpack(Limits { entries: 2, ..exact }), Err(LayerError::Entries { limit: 2 })));
    assert!(matches!(unpack(Limits { bytes: bytes - 1, ..exact }), Err(LayerError::Stream(_))));
    let names = unpack(Limits { name_bytes: 8, ..exact });
    assert!(matches!(names, Err(LayerError::Entry { source: EntryError::Names { .. }, .. })), "{names:?}");
}

#[test]
fn bounds_of_attributes_and_headers() {
    root_only!();
    let fixture = Fixture::new();
    // The kernel's own bound of a value; ext4 has a smaller one. The attribute is named in either case.
    let refused = fixture.refusal(&tar(&[file("f", "").xattr("user.large", vec![b'x'; 65_537])]));
    assert!(chain(&refused).contains("attribute `user.large`"), "{}", chain(&refused));
    let refused = fixture.refusal(&tar(&[file("f", "").xattr("security.capability", "nonsense")]));
    assert!(chain(&refused).contains("attribute `security.capability`: Invalid argument"), "{}", chain(&refused));
    let record = vec![b'x'; usize::try_from(MAX_RECORD_BYTES).unwrap()];
    let refused = fixture.refusal(&tar(&[file("f", "").pax("comment", &record)]));
    assert!(refused.to_string().contains("extended header at byte 512 is too large"), "{refused}");
    // What waits in memory: 65 default ACLs of more than 250 KiB each.
    let acls: Vec<Item> =
        (0..65).map(|n| dir(format!("{n}")).xattr("system.posix_acl_default", vec![0; 260_000])).collect();
    let refused = fixture.refusal(&tar(&acls));
    assert!(matches!(refused, LayerError::Entry { source: EntryError::Acls { .. }, .. }), "{refused}");
    assert_eq!((fixture.count("layers/sha256"), fixture.count("tmp")), (0, 0));
}

#[test]
fn a_path_of_four_thousand_bytes() {
    root_only!();
    let name = format!("{}/", "p".repeat(199)).repeat(20);
    let fixture = Fixture::new();
    let layer = fixture.layer(&tar(&[dir(&name), file(format!("{name}file"), "x")]));
    assert_eq!(listing(&layer).len(), 22);
}

#[test]
fn headers_of_old_and_odd_writers() {
    root_only!();
    // A directory by its slash only; a label of a volume; a name in GNU's way.
    let mut bytes = header(&Item::new("olddir/", 0).mode(0o755), 0).to_vec();
    bytes.extend(header(&Item::new("label", b'V'), 0));
    bytes.extend(entry(&Item { content: b"long name\0".to_vec(), ..Item::new("././@LongLink", b'L') }));
    bytes.extend(tar(&[file("short", "x")]));
    let fixture = Fixture::new();
    let layer = fixture.layer(&bytes);
    let paths: Vec<String> = listing(&layer).iter().map(|line| line.split(" 644").next().unwrap().to_owned()).collect();
    assert_eq!(paths[1..], ["/long name file \"x\"".to_owned(), format!("/olddir dir 755 0:0 {AT}")]);
}

#[test]
fn nothing_is_inherited_from_the_stores_directories() {
    use std::os::unix::fs::PermissionsExt;
    root_only!();
    let fixture = Fixture::new();
    let tmp = fixture.store.root().join("tmp");
    std::os::unix::fs::chown(&tmp, Some(0), Some(50)).unwrap();
    std::fs::set_permissions(&tmp, std::fs::Permissions::from_mode(0o2700)).unwrap();
    let layer = fixture.layer(&tar(&[file("f", ""), dir("d"), file("d/g", ""), symlink("s", "f")]));
    let lines = listing(&layer);
    assert!(lines.iter().all(|line| line.contains(" 0:0 ")), "{lines:?}");
    assert!(lines[0].starts_with("/ dir 755 "), "{lines:?}");
}
