//! Root file systems, views of images, and what is made ready in them.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::{Fixture, chain};
use crate::rootfs::error::RootfsError;
use crate::rootfs::testing::{Item, dir, file, hardlink, in_own_mounts, is_root, listing, symlink, tar, whiteout};
use crate::rootfs::{Choice, Layers, Method, View, assemble, copy_flat, mount_overlay, preflight, prepare, probe};
use crate::sys::beneath::FileKind;

macro_rules! root_only {
    () => {
        if !is_root() {
            return;
        }
    };
}

#[test]
fn choices_are_read() {
    assert_eq!("auto".parse(), Ok(Choice::Auto));
    assert_eq!("copy".parse(), Ok(Choice::Copy));
    assert!("both".parse::<Choice>().unwrap_err().to_string().contains("expected `auto`, `overlay` or `copy`"));
}

#[test]
fn a_view_reads_through_layers_and_links() {
    root_only!();
    let fixture = Fixture::new();
    let layers = fixture.layers(&[
        tar(&[
            dir("etc"),
            file("etc/passwd", "old"),
            file("etc/gone", ""),
            dir("usr"),
            dir("usr/lib"),
            file("usr/lib/os-release", "ID=x"),
            symlink("etc/os-release", "../usr/lib/os-release"),
            symlink("etc/absolute", "/etc/os-release"),
            symlink("etc/escape", "../../../../../../etc/hostname"),
            symlink("etc/loop", "loop"),
            symlink("lib", "usr/lib"),
        ]),
        tar(&[dir("etc"), file("etc/passwd", "new"), whiteout("etc/.wh.gone"), Item::new("etc/group", b'6')]),
    ]);
    let view = View::open(&layers).unwrap();
    let read = |path: &str| view.read_file(path, 100).map(|content| content.map(|c| String::from_utf8(c).unwrap()));
    assert_eq!(read("/etc/passwd").unwrap().as_deref(), Some("new"));
    assert_eq!(read("etc/../etc/./passwd").unwrap().as_deref(), Some("new"));
    assert_eq!(read("/etc/absolute").unwrap().as_deref(), Some("ID=x"));
    assert_eq!(read("/lib/os-release").unwrap().as_deref(), Some("ID=x"));
    for missing in ["/etc/gone", "/etc/escape", "/nowhere/x", "/etc/passwd/x", ""] {
        let found = read(missing);
        assert!(matches!(found, Ok(None)) || missing.is_empty(), "`{missing}`: {found:?}");
    }
    for refused in ["/etc/group", "/etc/loop", "/etc", "/"] {
        assert!(matches!(read(refused), Err(RootfsError::Read { .. })), "`{refused}`");
    }
    assert!(matches!(view.read_file("/etc/passwd", 2), Err(RootfsError::FileTooLarge { .. })));
    assert_eq!(view.kind("/lib").unwrap(), Some(FileKind::Directory));
    assert_eq!(view.kind("/").unwrap(), Some(FileKind::Directory));
    assert_eq!(view.kind("/etc/group").unwrap(), Some(FileKind::Fifo));
    assert_eq!(view.kind("/etc/gone").unwrap(), None);
    let mut content = String::new();
    view.open_file("/lib/os-release").unwrap().unwrap().read_to_string(&mut content).unwrap();
    assert_eq!(content, "ID=x");
    assert!(view.open_file("/etc/gone").unwrap().is_none());
    assert!(matches!(view.open_file("/etc/group"), Err(RootfsError::Read { .. })));
    let lib = [("os-release".to_owned(), FileKind::Regular)];
    assert_eq!(view.names("/lib", 1).unwrap().as_deref(), Some(&lib[..]));
    let etc = view.names("/etc", 7).unwrap().unwrap();
    let etc = etc.iter().map(|(name, kind)| format!("{name} {}", kind.words())).collect::<Vec<_>>().join(", ");
    assert_eq!(
        etc,
        "absolute a symbolic link, escape a symbolic link, group a named pipe, loop a symbolic link, \
         os-release a symbolic link, passwd a regular file"
    );
    assert!(matches!(view.names("/etc", 6), Err(RootfsError::Read { .. })));
    for none in ["/nowhere", "/etc/passwd"] {
        assert_eq!(view.names(none, 9).unwrap(), None, "`{none}`");
    }
}

#[test]
fn forced_methods_and_the_automatic_one() {
    root_only!();
    let fixture = Fixture::new();
    let layers = fixture.layers(&[tar(&[dir("./").mode(0o711), file("f", "x")]), tar(&[file("g", "y")])]);
    in_own_mounts(|| {
        let mut seen = Vec::new();
        for (name, choice, method) in [
            ("1", Choice::Overlay, Method::Overlay),
            ("2", Choice::Copy, Method::Copy),
            ("3", Choice::Auto, Method::Overlay),
        ] {
            let scratch = fixture.path().join(name);
            let target = scratch.join("rootfs");
            std::fs::create_dir_all(&target).unwrap();
            let rootfs = assemble(choice, &layers, &scratch, &target, false).unwrap();
            assert_eq!((rootfs.method, &rootfs.path), (method, &target));
            seen.push(listing(&target));
            std::fs::write(target.join("written"), "x").unwrap();
            assert_eq!(scratch.join("upper/written").exists(), method == Method::Overlay);
        }
        assert!(seen[0] == seen[1] && seen[1] == seen[2], "{seen:?}");
    });
    assert!(layers.paths().iter().all(|path| !path.join("written").exists()), "a layer was written to");
}

#[test]
fn an_overlay_on_an_overlay_becomes_a_copy() {
    root_only!();
    let fixture = Fixture::new();
    let layers = fixture.layers(&[tar(&[file("f", "x")])]);
    in_own_mounts(|| {
        let (scratch, target) = (fixture.path().join("outer"), fixture.path().join("outer/rootfs"));
        std::fs::create_dir_all(&target).unwrap();
        mount_overlay(&layers, &scratch, &target, true).unwrap();
        assert!(probe(fixture.path()).is_ok());
        let refused = probe(&target).unwrap_err();
        assert!(matches!(refused, RootfsError::Mount { .. }), "{}", chain(&refused));
        assert_eq!(std::fs::read_dir(&target).unwrap().count(), 1, "the probe left something");

        let inner = target.join("inner");
        std::fs::create_dir_all(inner.join("rootfs")).unwrap();
        let error = assemble(Choice::Overlay, &layers, &inner, &inner.join("rootfs"), false).unwrap_err();
        assert!(chain(&error).contains("--rootfs copy"), "{}", chain(&error));
        let rootfs = assemble(Choice::Auto, &layers, &inner, &inner.join("rootfs"), false).unwrap();
        assert_eq!(rootfs.method, Method::Copy);
        assert!(rootfs.why.contains("cannot mount an overlay"), "{}", rootfs.why);
        assert_eq!(std::fs::read_to_string(inner.join("rootfs/f")).unwrap(), "x");
        assert!(!inner.join("upper").exists() && !inner.join("work").exists());
    });
}

#[test]
fn odd_and_long_paths_are_mounted() {
    root_only!();
    let fixture = Fixture::new();
    let layers = fixture.layers(&[tar(&[file("f", "x")])]);
    let odd = fixture.path().join("a:b,c\\d=e f").join("long".repeat(50)).join("long".repeat(50));
    let (lower, target) = (odd.join("lower"), odd.join("rootfs"));
    std::fs::create_dir_all(&target).unwrap();
    std::fs::create_dir(&lower).unwrap();
    copy_flat(&layers, &lower).unwrap();
    in_own_mounts(|| {
        mount_overlay(&Layers::from_paths(vec![lower.clone()], None), &odd, &target, false).unwrap();
        assert_eq!(std::fs::read_to_string(target.join("f")).unwrap(), "x");
    });
}

#[test]
fn more_layers_than_the_kernel_stacks_are_refused() {
    let layers = Layers::from_paths(vec![PathBuf::from("/x"); 501], None);
    let dir = tempfile::tempdir().unwrap();
    let error = mount_overlay(&layers, dir.path(), dir.path(), true).unwrap_err();
    assert!(matches!(error, RootfsError::TooManyLayers { layers: 501, limit: 500 }));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn copies_keep_holes() {
    root_only!();
    let fixture = Fixture::new();
    let sparse = file("GNUSparseFile.0/s", "ab")
        .pax("GNU.sparse.name", "sparse")
        .pax("GNU.sparse.size", "50000000")
        .pax("GNU.sparse.map", "0,1,40000000,1");
    let layers = fixture.layers(&[tar(&[sparse])]);
    let target = fixture.path().join("copy");
    std::fs::create_dir(&target).unwrap();
    copy_flat(&layers, &target).unwrap();
    let metadata = std::fs::metadata(target.join("sparse")).unwrap();
    assert!(metadata.len() == 50_000_000 && metadata.blocks() < 1000, "{} blocks", metadata.blocks());
}

/// A root file system of the items, as a copy.
fn root(items: &[Item]) -> (Fixture, PathBuf) {
    let fixture = Fixture::new();
    let layers = fixture.layers(&[tar(items)]);
    let target = fixture.path().join("root");
    std::fs::create_dir(&target).unwrap();
    copy_flat(&layers, &target).unwrap();
    (fixture, target)
}

#[test]
fn working_directories_and_volumes_are_made_inside() {
    root_only!();
    let (fixture, root) = root(&[
        dir("srv").mode(0o2700).owner(1, 50),
        symlink("out", "../../../../../victim"),
        symlink("abs", "/srv"),
        file("file", ""),
    ]);
    std::fs::create_dir(fixture.path().join("victim")).unwrap();
    let volumes = ["/srv/data".to_owned(), "abs/more".to_owned(), "/out/deep".to_owned()];
    prepare(&root, "/work/../work/dir", &volumes).unwrap();
    prepare(&root, "", &[]).unwrap();
    for made in ["srv/data", "srv/more", "victim/deep", "work/dir"] {
        let metadata = std::fs::metadata(root.join(made)).unwrap();
        assert!(metadata.is_dir() && metadata.mode() & 0o7777 == 0o755 && metadata.gid() == 0, "{made}: {metadata:?}");
    }
    assert_eq!(std::fs::read_dir(fixture.path().join("victim")).unwrap().count(), 0);
    let refused = prepare(&root, "/file/x", &[]).unwrap_err();
    assert!(refused.to_string().contains("`/file` of the image is a regular file, expected a directory"), "{refused}");
}

#[test]
fn links_where_the_runtime_mounts_are_refused() {
    root_only!();
    for name in ["dev", "proc", "sys", "etc"] {
        let (_fixture, root) = root(&[symlink(name, "/tmp")]);
        let refused = preflight(&root).unwrap_err();
        let expected = format!("`/{name}` of the image is a symbolic link, expected a directory");
        assert_eq!(refused.to_string(), expected);
    }
    let (_fixture, root) = root(&[dir("dev"), dir("proc"), file("f", ""), hardlink("g", "f")]);
    preflight(&root).unwrap();
}
