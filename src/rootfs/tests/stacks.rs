//! Several layers, seen through a real overlay: each row of what is right that concerns more than one of them.

use std::path::Path;

use super::{Fixture, Heard, chain};
use crate::image::Digest;
use crate::rootfs::error::{EntryError, LayerError, RootfsError};
use crate::rootfs::testing::{Item, dir, file, hardlink, in_own_mounts, is_root, listing, symlink, tar, whiteout};
use crate::rootfs::{Layers, Unpacker, copy_flat, mount_overlay, ready};

/// What the layers, lowest first, look like as an overlay; as a copy they must look the same.
fn merged(stack: &[Vec<Item>]) -> Vec<String> {
    shown(&stack.iter().map(|items| tar(items)).collect::<Vec<_>>())
}

/// The same of archives.
pub(super) fn shown(archives: &[Vec<u8>]) -> Vec<String> {
    let fixture = Fixture::new();
    let layers = fixture.layers(archives);
    let lines = overlay(&layers, fixture.path());
    let copied = fixture.path().join("copied");
    std::fs::create_dir(&copied).unwrap();
    copy_flat(&layers, &copied).unwrap();
    assert_eq!(lines, listing(&copied), "overlay (left) and copy (right)");
    lines.into_iter().skip(1).collect()
}

/// What an overlay of the layers shows.
fn overlay(layers: &Layers, scratch: &Path) -> Vec<String> {
    let target = scratch.join("mounted");
    std::fs::create_dir(&target).unwrap();
    let mut lines = Vec::new();
    in_own_mounts(|| {
        mount_overlay(layers, scratch, &target, true).unwrap();
        lines = listing(&target);
    });
    lines
}

fn paths(lines: &[String]) -> Vec<&str> {
    lines.iter().map(|line| line.split(' ').next().unwrap()).collect()
}

macro_rules! root_only {
    () => {
        if !is_root() {
            return;
        }
    };
}

#[test]
fn a_lower_link_is_followed_where_the_layer_has_no_directory_entry() {
    root_only!();
    let base = vec![dir("usr"), dir("usr/bin").mode(0o711), symlink("bin", "usr/bin"), file("usr/bin/sh", "")];
    let lines = merged(&[base.clone(), vec![file("bin/foo", "x"), file("bin/deep/er", ""), hardlink("h", "bin/sh")]]);
    assert_eq!(
        paths(&lines),
        ["/bin", "/h", "/usr", "/usr/bin", "/usr/bin/deep", "/usr/bin/deep/er", "/usr/bin/foo", "/usr/bin/sh"]
    );
    assert!(lines[0].contains("-> usr/bin") && lines[3].contains(" 711 ") && lines[7].ends_with(" = /h"), "{lines:?}");

    // An entry of its own replaces the link.
    let lines = merged(&[base, vec![dir("bin"), file("bin/foo", "x")]]);
    assert_eq!(paths(&lines), ["/bin", "/bin/foo", "/usr", "/usr/bin", "/usr/bin/sh"]);
}

#[test]
fn whiteouts_through_a_lower_link_hide_what_is_behind_it() {
    root_only!();
    let base = vec![
        dir("usr"),
        dir("usr/bin"),
        symlink("bin", "/usr/bin"),
        file("usr/bin/gone", ""),
        file("usr/bin/stays", ""),
    ];
    let lines = merged(&[base, vec![whiteout("bin/.wh.gone")]]);
    assert_eq!(paths(&lines), ["/bin", "/usr", "/usr/bin", "/usr/bin/stays"]);
}

#[test]
fn a_replaced_directory_hides_what_was_in_it() {
    root_only!();
    let base = vec![dir("d").mode(0o700).owner(1, 1), file("d/old", ""), dir("d/sub"), file("d/sub/x", "")];
    for upper in [
        vec![whiteout(".wh.d"), dir("d"), file("d/new", "")],
        vec![dir("d"), file("d/new", ""), whiteout(".wh.d")],
        vec![whiteout(".wh.d"), file("d/new", "")],
        vec![file("d/new", ""), whiteout(".wh.d"), whiteout("d/.wh.old")],
        vec![dir("d"), whiteout("d/.wh..wh..opq"), file("d/new", "")],
        vec![dir("d"), file("d/new", ""), whiteout("d/.wh.old"), whiteout("d/.wh..wh..opq")],
    ] {
        let lines = merged(&[base.clone(), upper.clone()]);
        assert_eq!(paths(&lines), ["/d", "/d/new"], "{upper:?}");
        assert!(lines[0].contains(" 755 0:0 "), "{upper:?}: {lines:?}");
    }
    // Opaque without an entry of its own: empty, but the same directory.
    let lines = merged(&[base, vec![whiteout("d/.wh..wh..opq"), file("d/new", "")]]);
    assert_eq!(paths(&lines), ["/d", "/d/new"]);
    assert!(lines[0].contains(" 700 1:1 "), "{lines:?}");
}

#[test]
fn a_whiteout_and_what_it_hides_in_one_directory() {
    root_only!();
    let base = vec![dir("d"), file("d/a", "old"), file("d/b", "")];
    for upper in [vec![file("d/a", "new"), whiteout("d/.wh.a")], vec![whiteout("d/.wh.a"), file("d/a", "new")]] {
        let lines = merged(&[base.clone(), upper]);
        assert_eq!(paths(&lines), ["/d", "/d/a", "/d/b"]);
        assert!(lines[1].contains("\"new\""), "{lines:?}");
    }
    let lines = merged(&[base.clone(), vec![whiteout("d/.wh.a"), whiteout(".wh.d")]]);
    assert_eq!(paths(&lines), Vec::<&str>::new());
    let lines = merged(&[base, vec![whiteout(".wh.d")], vec![file("d/a", "again")]]);
    assert_eq!(paths(&lines), ["/d", "/d/a"]);
}

#[test]
fn whiteouts_of_nothing_leave_no_trace() {
    root_only!();
    // A directory that is in one layer only is read by the kernel as it is, whiteouts and all.
    let lines = merged(&[
        vec![whiteout(".wh.nothing"), dir("d"), whiteout("d/.wh.x"), file("f", "")],
        vec![
            dir("new"),
            whiteout("new/.wh.x"),
            whiteout("missing/.wh.x"),
            whiteout("f/.wh.x"),
            whiteout("d/.wh..wh..opq"),
        ],
    ]);
    assert_eq!(paths(&lines), ["/d", "/f", "/new"]);
}

#[test]
fn an_opaque_root_hides_everything_below() {
    root_only!();
    let base = vec![dir("./").mode(0o711), dir("d"), file("d/x", ""), file("f", "")];
    let lines = merged(&[base.clone(), vec![whiteout(".wh..wh..opq"), file("d/new", "")], vec![file("g", "")]]);
    assert_eq!(paths(&lines), ["/d", "/d/new", "/g"]);
    assert!(lines[0].contains(" 755 0:0 0.0"), "{lines:?}");
}

#[test]
fn whiteouts_below_something_opaque_leave_no_directory() {
    root_only!();
    // The second one hides the directory that the first one was put into.
    let hiding = |above: &str| vec![whiteout(&format!("{above}a/c/.wh.c")), whiteout(&format!("{above}a/.wh.c"))];
    let base = vec![dir("d"), dir("d/a"), dir("d/a/c"), file("d/a/c/c", "")];
    for above in ["", "d/"] {
        let opaque = whiteout(&format!("{above}.wh..wh..opq"));
        let upper = [vec![opaque], hiding(above), vec![dir("d")]].concat();
        assert_eq!(paths(&merged(std::slice::from_ref(&upper))), ["/d"], "alone, in `{above}`");
        assert_eq!(paths(&merged(&[base.clone(), upper])), ["/d"], "above another, in `{above}`");
    }
}

#[test]
fn hard_links_to_files_of_lower_layers() {
    root_only!();
    let base = vec![
        dir("d").mode(0o700).at(5, 6),
        file("d/f", "content").mode(0o4711).owner(3, 4).at(7, 8).xattr("user.a", "1"),
        symlink("d/s", "f").owner(9, 9),
    ];
    let middle = vec![file("other", "")];
    let upper = vec![hardlink("one", "d/f"), hardlink("two", "d/f"), hardlink("three", "one"), hardlink("link", "d/s")];
    let lines = merged(&[base, middle, upper]);
    assert_eq!(
        lines,
        [
            "/d dir 700 0:0 5.000000006",
            "/d/f file \"content\" 4711 3:4 7.000000008 user.a=1",
            "/d/s -> f 777 9:9 1000000000.000000000",
            "/link -> f 777 9:9 1000000000.000000000 = /d/s",
            "/one file \"content\" 4711 3:4 7.000000008 user.a=1 = /d/f",
            "/other file \"\" 644 0:0 1000000000.000000000",
            "/three file \"content\" 4711 3:4 7.000000008 user.a=1 = /d/f",
            "/two file \"content\" 4711 3:4 7.000000008 user.a=1 = /d/f",
        ]
    );
}

#[test]
fn hard_links_to_what_an_upper_layer_has_hidden() {
    root_only!();
    let fixture = Fixture::new();
    let stack = [tar(&[file("f", "")]), tar(&[whiteout(".wh.f")]), tar(&[hardlink("h", "f")])];
    let error = fixture.unpack(&fixture.image(&stack)).unwrap_err();
    assert!(
        matches!(
            &error,
            RootfsError::Layer { source: LayerError::Entry { source: EntryError::LinkTarget { .. }, .. }, .. }
        ),
        "{}",
        chain(&error)
    );
    assert_eq!(fixture.count("tmp"), 0);
}

#[test]
fn parents_without_an_entry_are_the_lower_layers() {
    root_only!();
    let base = vec![
        dir("a").mode(0o2775).owner(1, 2).at(10, 11).xattr("user.x", "1").xattr("trusted.y", "2"),
        dir("a/b").mode(0o1777).owner(3, 4).at(-12, 13),
    ];
    let lines = merged(&[base.clone(), vec![file("a/b/c/f", "")], vec![file("a/b/g", "")]]);
    assert_eq!(
        lines[..3],
        [
            "/a dir 2775 1:2 10.000000011 trusted.y=2 user.x=1",
            "/a/b dir 1777 3:4 -12.000000013",
            "/a/b/c dir 755 0:0 0.000000000",
        ]
    );
    // A lower layer's file in the way is replaced.
    let lines = merged(&[base, vec![file("x", "")], vec![file("x/f", "")]]);
    assert_eq!(paths(&lines), ["/a", "/a/b", "/x", "/x/f"]);
}

#[test]
fn the_root_is_what_the_topmost_layer_with_an_entry_says() {
    root_only!();
    let fixture = Fixture::new();
    let stack =
        [tar(&[dir("./").mode(0o700)]), tar(&[dir("./").mode(0o711).owner(1, 2).at(3, 4)]), tar(&[file("f", "")])];
    assert_eq!(overlay(&fixture.layers(&stack), fixture.path())[0], "/ dir 711 1:2 3.000000004");
}

#[test]
fn one_diff_id_twice_is_one_directory() {
    root_only!();
    let fixture = Fixture::new();
    let (a, b) = (tar(&[dir("d"), file("d/f", "a")]), tar(&[dir("d"), file("d/f", "b"), file("d/g", "b")]));
    let image = fixture.image(&[a.clone(), b.clone(), a.clone()]);
    let keys = fixture.unpack(&image).unwrap();
    assert_eq!(keys, [Digest::sha256(&b), Digest::sha256(&a)]);
    let lines = overlay(&Layers::load(&fixture.store, &keys).unwrap(), fixture.path());
    assert!(lines[2].contains("\"a\"") && lines.len() == 4, "{lines:?}");
    assert_eq!(ready(&fixture.store, &image).unwrap().len(), 3);
}

#[test]
fn a_layer_made_for_one_image_is_not_taken_for_another() {
    root_only!();
    let fixture = Fixture::new();
    // Alone, `d` is root's; above another layer it is that one's.
    let upper = tar(&[file("d/f", "")]);
    let lower = tar(&[dir("d").mode(0o700).owner(5, 5)]);
    let alone = fixture.image(std::slice::from_ref(&upper));
    let above = fixture.image(&[lower, upper.clone()]);
    let first = fixture.unpack(&alone).unwrap();
    assert_eq!(ready(&fixture.store, &above), None);
    let second = fixture.unpack(&above).unwrap();
    assert_eq!(first, [Digest::sha256(&upper)]);
    assert!(second[1] != first[0], "{second:?}");
    let layers = Layers::load(&fixture.store, &second).unwrap();
    assert!(overlay(&layers, fixture.path())[1].starts_with("/d dir 700 5:5 "));
    assert_eq!(ready(&fixture.store, &alone), Some(first));
    assert_eq!(ready(&fixture.store, &above), Some(second));
}

#[test]
fn layers_come_in_any_order_and_once() {
    root_only!();
    let fixture = Fixture::new();
    let stack = [
        tar(&[dir("a"), file("a/x", "")]),
        tar(&[whiteout("a/.wh.x")]),
        tar(&[file("a/y", "")]),
        tar(&[hardlink("z", "a/y")]),
        tar(&[dir("clean")]),
    ];
    let image = fixture.image(&stack);
    for order in [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 4, 0, 3, 1]] {
        let fixture = Fixture::new();
        let image = fixture.image(&stack);
        let heard = Heard::default();
        let unpacker = Unpacker::begin(&fixture.store, &image, &heard).unwrap();
        assert_eq!(unpacker.missing(), [0, 1, 2, 3, 4]);
        for index in order {
            unpacker.unpack(index).unwrap();
        }
        assert_eq!(unpacker.missing(), Vec::<usize>::new());
        let keys = unpacker.finish().unwrap();
        assert_eq!(ready(&fixture.store, &image).unwrap(), keys);
        let told = heard.0.lock().unwrap().iter().filter(|word| *word == "unpacked").count();
        assert_eq!(told, 5);
        assert_eq!(
            paths(&overlay(&Layers::load(&fixture.store, &keys).unwrap(), fixture.path())),
            ["/", "/a", "/a/y", "/clean", "/z"]
        );
        assert_eq!(fixture.count("tmp"), 0);
        assert!(fixture.count("locks") <= 1, "locks of digests were left");

        let again = Heard::default();
        assert_eq!(fixture.unpack_with(&image, &again).unwrap(), keys);
        assert_eq!(*again.0.lock().unwrap(), ["exists"; 5]);
    }
    // In threads.
    let unpacker = Unpacker::begin(&fixture.store, &image, &crate::image::Silent).unwrap();
    std::thread::scope(|scope| {
        for index in [3, 1, 4, 0, 2] {
            let unpacker = &unpacker;
            scope.spawn(move || unpacker.unpack(index).unwrap());
        }
    });
    assert_eq!(unpacker.finish().unwrap().len(), 5);
}

#[test]
fn an_unfinished_image_is_not_used_and_leaves_nothing_aside() {
    root_only!();
    let fixture = Fixture::new();
    let image = fixture.image(&[tar(&[dir("a")]), tar(&[file("a/f", "")])]);
    let unpacker = Unpacker::begin(&fixture.store, &image, &crate::image::Silent).unwrap();
    unpacker.unpack(1).unwrap();
    assert_eq!((fixture.count("tmp"), unpacker.missing()), (1, vec![0, 1]));
    assert!(matches!(unpacker.finish(), Err(RootfsError::LayerMissing { .. })));
    assert_eq!(fixture.count("tmp"), 0);
}

#[test]
fn another_process_waits_for_the_image() {
    root_only!();
    let fixture = Fixture::new();
    let image = fixture.image(&[tar(&[file("f", "")])]);
    let heard = Heard::default();
    let first = Unpacker::begin(&fixture.store, &image, &heard).unwrap();
    std::thread::scope(|scope| {
        // Locks are of open files, so a thread stands for a process.
        let second = scope.spawn(|| fixture.unpack_with(&image, &heard).unwrap());
        while heard.0.lock().unwrap().is_empty() {
            std::thread::yield_now();
        }
        first.unpack(0).unwrap();
        let keys = first.finish().unwrap();
        assert_eq!(second.join().unwrap(), keys);
    });
    let heard = heard.0.into_inner().unwrap();
    assert_eq!(
        (heard.first().map(String::as_str), heard.last().map(String::as_str)),
        (Some("waiting"), Some("exists"))
    );
}

#[test]
fn two_hundred_layers() {
    root_only!();
    let fixture = Fixture::new();
    let stack: Vec<Vec<u8>> =
        (0..200).map(|n| tar(&[dir("d"), file(format!("d/{n}"), ""), file("last", n.to_string())])).collect();
    let layers = fixture.layers(&stack);
    let lines = overlay(&layers, fixture.path());
    assert_eq!(lines.len(), 203);
    assert!(lines.last().unwrap().contains("\"199\""));
}

#[test]
fn images_of_nothing() {
    root_only!();
    let fixture = Fixture::new();
    let image = fixture.image(&[]);
    assert_eq!(fixture.unpack(&image).unwrap(), []);
    let none = Layers::load(&fixture.store, &[]).unwrap();
    assert_eq!(overlay(&none, fixture.path()), ["/ dir 755 0:0 0.000000000"]);
    assert_eq!(merged(&[vec![], vec![]]), Vec::<String>::new());
}

#[test]
fn a_nasty_stack_is_the_same_as_overlay_and_as_copy() {
    root_only!();
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let sparse = file("GNUSparseFile.0/s", "ab")
        .pax("GNU.sparse.name", "sparse")
        .pax("GNU.sparse.size", "5000000")
        .pax("GNU.sparse.map", "0,1,4000000,1");
    let lines = merged(&[
        vec![
            dir("./").mode(0o751),
            dir("d").mode(0o1777).owner(1, 2),
            file("d/cap", "x").mode(0o755).xattr("security.capability", capability),
            file("d/suid", "x").mode(0o6755).owner(5, 6),
            hardlink("d/hard", "d/suid"),
            hardlink("hard", "d/suid"),
            symlink("d/dangling", "/no/where"),
            Item::new("d/pipe", b'6').mode(0o622),
            crate::rootfs::testing::device("d/null", b'3', 1, 3).mode(0o666),
            sparse,
            file(b"\xff\xfename", "x").at(-99, 5),
        ],
        vec![whiteout("d/.wh.hard"), dir("e").xattr("user.a", "1"), file("e/1", ""), file("e/2", "")],
        vec![whiteout("e/.wh..wh..opq"), file("e/3", ""), file("d/suid", "replaced")],
        vec![file("new/parent/f", ""), dir("d").mode(0o700).owner(7, 8)],
    ]);
    assert_eq!(lines.len(), 14, "{lines:?}");
}
