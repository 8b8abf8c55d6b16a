//! Trees for overlays that are mounted with `userxattr`, as without root: made through a parameter, shown by the kernel.

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};

use super::chain;
use crate::image::Digest;
use crate::rootfs::attributes::Marks;
use crate::rootfs::merged::Merged;
use crate::rootfs::testing::{device, dir, file, hardlink, in_own_mounts, is_root, listing, symlink, tar, whiteout};
use crate::rootfs::unpack::{Layer, Limits, Unpacked, mend, unpack_alone, unpack_upon};

/// Unpacks archives, lowest first, into trees marked for `marks`, as the store does it; topmost first.
fn trees(at: &Path, archives: &[Vec<u8>], marks: Marks) -> Vec<PathBuf> {
    let mut made: Vec<PathBuf> = Vec::new();
    for (number, archive) in archives.iter().enumerate() {
        let diff_id = Digest::sha256(archive);
        let blob = || -> File {
            let mut blob = tempfile::tempfile().unwrap();
            blob.write_all(archive).unwrap();
            blob.rewind().unwrap();
            blob
        };
        let layer = || Layer { blob: blob(), diff_id: &diff_id, limits: Limits::default(), marks, progress: &|_| {} };
        let lowers = Merged::open(made.iter().map(PathBuf::as_path), marks).unwrap();
        let root = at.join(format!("{number}"));
        fs::create_dir(&root).unwrap();
        let done = match unpack_alone(layer(), &root).unwrap_or_else(|error| panic!("{}", chain(&error))) {
            Unpacked::Clean(_) => true,
            Unpacked::Needs(_, needs) => mend(&root, &needs, &lowers).unwrap(),
            Unpacked::Again => false,
        };
        if !done {
            fs::remove_dir_all(&root).unwrap();
            fs::create_dir(&root).unwrap();
            unpack_upon(layer(), &root, &lowers).unwrap_or_else(|error| panic!("{}", chain(&error)));
        }
        made.insert(0, root);
    }
    made
}

fn stack() -> Vec<Vec<u8>> {
    vec![
        tar(&[
            dir("d").mode(0o750),
            file("d/old", ""),
            file("gone", ""),
            dir("e"),
            file("e/old", ""),
            symlink("l", "d"),
        ]),
        tar(&[
            dir("d"),
            whiteout("d/.wh..wh..opq"),
            file("d/new", "new").xattr("user.a", "1").xattr("user.overlay.opaque", "y"),
            whiteout(".wh.gone"),
            whiteout(".wh.e"),
            dir("e"),
            file("e/new", ""),
        ]),
        tar(&[file("d/above", ""), hardlink("linked", "d/new"), whiteout("e/.wh.new"), file("l/through", "")]),
    ]
}

fn shown(lowers: &[PathBuf], scratch: &Path, options: &str) -> Vec<String> {
    let target = scratch.join("target");
    fs::create_dir(&target).unwrap();
    let lowers = lowers.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(":");
    let options = std::ffi::CString::new(format!("lowerdir={lowers}{options}")).unwrap();
    let mut lines = Vec::new();
    in_own_mounts(|| {
        let flags = rustix::mount::MountFlags::RDONLY;
        rustix::mount::mount("test", &target, c"overlay", flags, options.as_c_str()).unwrap();
        lines = listing(&target);
    });
    lines
}

#[test]
fn the_kernel_shows_the_same_with_marks_of_either_kind() {
    if !is_root() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let [trusted, user] = ["trusted", "user"].map(|name| place.path().join(name));
    fs::create_dir_all(&trusted).unwrap();
    fs::create_dir_all(&user).unwrap();
    let of_root = trees(&trusted, &stack(), Marks::Trusted);
    let of_user = trees(&user, &stack(), Marks::User);
    let expected = shown(&of_root, &trusted, "");
    assert_eq!(shown(&of_user, &user, ",userxattr"), expected, "for users (left) and for root (right)");
    let paths: Vec<&str> = expected.iter().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(paths, ["/", "/d", "/d/above", "/d/new", "/d/through", "/e", "/l", "/linked"]);
    let raw = listing(&of_user[1]);
    assert!(raw.iter().any(|line| line.starts_with("/d ") && line.ends_with(" user.overlay.opaque=y")), "{raw:?}");
    assert!(raw.iter().all(|line| !line.contains("trusted.")), "{raw:?}");
    // An image cannot mark by itself.
    assert!(raw.iter().any(|line| line.starts_with("/d/new ") && line.ends_with(" user.a=1")), "{raw:?}");
}

/// A file system without attributes loses them; that is no reason to have no image at all.
#[test]
fn where_attributes_cannot_be_stored_they_are_left_out() {
    if !is_root() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let capability = [1, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let archive = tar(&[
        file("f", "x").mode(0o4755).owner(7, 8).xattr("user.a", "1").xattr("security.capability", capability),
        dir("d").xattr("user.a", "1").xattr("trusted.b", "2"),
        symlink("s", "f").xattr("trusted.b", "2"),
        file("unknown", "").xattr("no.such.namespace", "1").xattr("nameless", "1"),
    ]);
    in_own_mounts(|| {
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("test", place.path(), c"ramfs", flags, None::<&std::ffi::CStr>).unwrap();
        let made = trees(place.path(), std::slice::from_ref(&archive), Marks::Trusted);
        let lines = listing(&made[0]);
        assert_eq!(lines[2], "/f file \"x\" 4755 7:8 1000000000.000000000");
        assert!(lines.len() == 5 && lines.iter().all(|line| !line.contains('=')), "{lines:?}");
    });
}

#[test]
fn devices_are_left_out_where_they_cannot_be_made() {
    if !is_root() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let lower = tar(&[file("null", "hidden"), file("g", "")]);
    let upper = [file("disk", ""), device("null", b'3', 1, 3), device("disk", b'4', 8, 1), file("f", "")];
    let made = trees(place.path(), &[lower, tar(&upper)], Marks::User);
    let lines = shown(&made, place.path(), ",userxattr");
    let paths: Vec<&str> = lines.iter().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(paths, ["/", "/f", "/g"]);
}
