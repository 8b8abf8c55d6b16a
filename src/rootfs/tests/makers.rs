//! Archives of real makers, GNU tar, bsdtar and Python, in every format they write; judged against GNU tar's own unpacking.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use super::Fixture;
use crate::rootfs::testing::{is_root, listing};

#[expect(clippy::disallowed_methods, reason = "the real programs judge")]
fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    command.env("LC_ALL", "C.UTF-8");
    command
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn have(name: &str) -> bool {
    let found = program(name).arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("skipped: `{name}` is not installed");
    }
    found
}

/// How far a format goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Names of 99 bytes, small numbers, whole seconds, no devices.
    Seventh,
    /// Names of 155 + 100 bytes, numbers of 7 octal digits, whole seconds.
    Ustar,
    /// Names of any length, numbers of any size, whole seconds.
    Gnu,
    /// All, with attributes and fractions of seconds.
    Pax,
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

/// A file of `size` bytes with content at a few places only.
fn holed(path: &Path, size: u64, pieces: &[(u64, usize)]) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    for (offset, length) in pieces {
        file.write_all_at(&vec![b'x'; *length], *offset).unwrap();
    }
}

/// A tree with all that a format can hold, and a little of what makes tar programs stumble.
fn tree(root: &Path, reach: Reach) {
    fs::create_dir_all(root.join("dir/empty")).unwrap();
    fs::write(root.join("dir/file"), "content").unwrap();
    fs::write(root.join("dir/empty file"), "").unwrap();
    fs::write(root.join("dir/block"), [7; 512]).unwrap();
    fs::write(root.join("large"), vec![9; 700_001]).unwrap();
    fs::write(root.join(OsStr::from_bytes(b"\xff\xfe-raw")), "raw").unwrap();
    fs::write(root.join("line\nbreak\\ and \"quote\""), "odd").unwrap();
    fs::hard_link(root.join("dir/file"), root.join("hard")).unwrap();
    symlink("dir/file", root.join("soft")).unwrap();
    symlink("../../..//nowhere/", root.join("dir/dangling")).unwrap();
    symlink("l".repeat(99), root.join("just fits")).unwrap();
    fs::write(root.join("n".repeat(97)), "97").unwrap();
    fs::write(root.join("suid"), "x").unwrap();
    if reach != Reach::Seventh {
        mknod(&root.join("pipe"), SFlag::S_IFIFO, Mode::from_bits_truncate(0o622), 0).unwrap();
        mknod(&root.join("null"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 3)).unwrap();
        mknod(&root.join("disk"), SFlag::S_IFBLK, Mode::from_bits_truncate(0o660), makedev(259, 7)).unwrap();
        let inner = root.join("p".repeat(90));
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join("q".repeat(95)), "prefixed").unwrap();
        fs::hard_link(root.join("soft"), root.join("hard link to a soft one")).unwrap();
    }
    if matches!(reach, Reach::Gnu | Reach::Pax) {
        let inner = root.join("r".repeat(255)).join("s".repeat(255));
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("t".repeat(255)), "long").unwrap();
        fs::hard_link(inner.join("t".repeat(255)), root.join("long hard")).unwrap();
        symlink("u".repeat(300), root.join("long soft")).unwrap();
        fs::write(root.join("whose"), "x").unwrap();
        std::os::unix::fs::lchown(root.join("whose"), Some(4_294_967_294), Some(4_294_967_293)).unwrap();
        fs::write(root.join("old"), "x").unwrap();
        touch(&root.join("old"), -1_000_000_000, 0);
    }
    if reach == Reach::Pax {
        fs::write(root.join("attributes"), "x").unwrap();
        set_xattr(&root.join("attributes"), "user.a", b"1\n2=3\0");
        set_xattr(&root.join("attributes"), "user.b", b"");
        set_xattr(&root.join("dir"), "user.c", b"of a directory");
        set_xattr(&root.join("soft"), "trusted.d", b"of a link");
        fs::write(root.join("fraction"), "x").unwrap();
        touch(&root.join("fraction"), -1, 123_456_789);
    }
    std::os::unix::fs::chown(root.join("suid"), Some(70_000), Some(80_000)).unwrap();
    fs::set_permissions(root.join("suid"), fs::Permissions::from_mode(0o6751)).unwrap();
    fs::set_permissions(root.join("dir/empty"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::set_permissions(root.join("dir/file"), fs::Permissions::from_mode(0o0)).unwrap();
    std::os::unix::fs::lchown(root.join("soft"), Some(5), Some(6)).unwrap();
    touch(&root.join("dir"), 1_234_567_890, 0);
    fs::set_permissions(root, fs::Permissions::from_mode(0o751)).unwrap();
    touch(root, 1_222_333_444, 0);
}

fn touch(path: &Path, seconds: i64, nanoseconds: i64) {
    let moment = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = rustix::fs::Timestamps { last_access: moment, last_modification: moment };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// A source tree and what others and we make of its archives.
struct Judge {
    dir: tempfile::TempDir,
    fixture: Fixture,
}

impl Judge {
    fn new(reach: Reach) -> Self {
        let judge = Self { dir: tempfile::tempdir().unwrap(), fixture: Fixture::new() };
        fs::create_dir(judge.source()).unwrap();
        tree(&judge.source(), reach);
        judge
    }

    fn source(&self) -> PathBuf {
        self.dir.path().join("source")
    }

    /// The archive that `command` writes to the file of this name.
    fn archive(&self) -> PathBuf {
        self.dir.path().join("archive.tar")
    }

    /// Unpacks the archive with GNU tar and with ours: no difference may show. Returns our tree.
    fn agree(&self, what: &str) -> PathBuf {
        let theirs = self.dir.path().join("theirs");
        fs::remove_dir_all(&theirs).ok();
        fs::create_dir(&theirs).unwrap();
        run(program("tar")
            .args(["--numeric-owner", "--same-owner", "--xattrs", "--xattrs-include=*", "--delay-directory-restore"])
            .arg("-C")
            .arg(&theirs)
            .arg("-xpf")
            .arg(self.archive()));
        let ours = self.fixture.layer(&fs::read(self.archive()).unwrap());
        let (ours_listed, theirs_listed) = (listing(&ours), listing(&theirs));
        for (ours, theirs) in ours_listed.iter().zip(&theirs_listed) {
            assert_eq!(ours, theirs, "{what}: ours (left) and GNU tar's (right)");
        }
        assert_eq!(ours_listed.len(), theirs_listed.len(), "{what}");
        ours
    }
}

#[test]
fn all_formats_of_gnu_tar() {
    if !is_root() {
        return;
    }
    for (format, reach) in [
        ("v7", Reach::Seventh),
        ("ustar", Reach::Ustar),
        ("oldgnu", Reach::Gnu),
        ("gnu", Reach::Gnu),
        ("posix", Reach::Pax),
    ] {
        let judge = Judge::new(reach);
        for sort in [&["--sort=name"][..], &["--hard-dereference"], &["--blocking-factor=1", "--totals"]] {
            let attributes: &[&str] = if reach == Reach::Pax { &["--xattrs", "--xattrs-include=*"] } else { &[] };
            let mut tar = program("tar");
            tar.arg(format!("--format={format}")).args(sort).args(attributes).arg("--numeric-owner");
            run(tar.arg("-C").arg(judge.source()).arg("-cf").arg(judge.archive()).arg("."));
            let ours = judge.agree(format);
            // This one has room for everything, so that nothing may be missing at all.
            if format == "posix" && sort == ["--sort=name"] {
                assert_eq!(listing(&ours), listing(&judge.source()), "{format}: ours (left) and the source (right)");
            }
        }
    }
}

#[test]
fn all_formats_of_bsdtar() {
    if !is_root() || !have("bsdtar") {
        return;
    }
    for (format, reach) in [
        ("v7", Reach::Seventh),
        ("ustar", Reach::Ustar),
        ("gnutar", Reach::Gnu),
        ("pax", Reach::Pax),
        ("paxr", Reach::Pax),
    ] {
        let judge = Judge::new(reach);
        let mut tar = program("bsdtar");
        tar.arg(format!("--format={format}")).arg("--numeric-owner");
        run(tar.arg("-C").arg(judge.source()).arg("-cf").arg(judge.archive()).arg("."));
        judge.agree(&format!("bsdtar {format}"));
    }
}

#[test]
fn all_formats_of_python() {
    if !is_root() || !have("python3") {
        return;
    }
    for (format, reach) in [("USTAR", Reach::Ustar), ("GNU", Reach::Gnu), ("PAX", Reach::Gnu)] {
        let judge = Judge::new(reach);
        // Python writes no device numbers that are wide, and marks no holes.
        let script = "import sys, tarfile\n\
                      t = tarfile.open(sys.argv[1], 'w', format=getattr(tarfile, sys.argv[3] + '_FORMAT'))\n\
                      t.add(sys.argv[2], '.')\n\
                      t.close()\n";
        let mut python = program("python3");
        run(python.args(["-c", script]).arg(judge.archive()).arg(judge.source()).arg(format));
        judge.agree(&format!("python {format}"));
    }
}

/// Where a file has content, as the file system tells.
fn data(path: &Path) -> Vec<(u64, u64)> {
    use rustix::fs::{SeekFrom, seek};
    let file = File::open(path).unwrap();
    let (mut pieces, mut at) = (Vec::new(), 0);
    while let Ok(start) = seek(&file, SeekFrom::Data(at)) {
        at = seek(&file, SeekFrom::Hole(start)).unwrap();
        pieces.push((start, at));
    }
    pieces
}

/// Writes the archive.
type Make<'a> = Box<dyn Fn() + 'a>;

#[test]
fn holes_of_real_makers_stay_holes() {
    if !is_root() {
        return;
    }
    let judge = Judge { dir: tempfile::tempdir().unwrap(), fixture: Fixture::new() };
    let source = judge.source();
    fs::create_dir(&source).unwrap();
    holed(&source.join("all"), 5_000_000, &[]);
    holed(&source.join("middle"), 1 << 20, &[(0, 10), (1_048_570, 6)]);
    holed(&source.join("at the end"), 9_000_000, &[(0, 4096)]);
    holed(&source.join("at the start"), 9_000_000, &[(8_999_000, 1000)]);
    let many: Vec<(u64, usize)> = (0..70).map(|piece| (piece * 65_536, 1000)).collect();
    holed(&source.join("many"), 70 * 65_536, &many);
    holed(&source.join("large"), 9 << 30, &[(0, 1), (5 << 30, 5), ((9 << 30) - 1, 1)]);
    fs::create_dir(source.join("d".repeat(90))).unwrap();
    holed(&source.join("d".repeat(90)).join("far"), 1 << 20, &[(500_000, 10)]);
    fs::write(source.join("zz after"), "after").unwrap();
    let names: BTreeMap<String, Vec<(u64, u64)>> = ["all", "middle", "at the end", "at the start", "many", "large"]
        .map(|n| (n.into(), data(&source.join(n))))
        .into();
    let gnu = |format: &[&str]| {
        let mut tar = program("tar");
        tar.args(format).args(["--numeric-owner", "--sparse"]);
        run(tar.arg("-C").arg(&source).arg("-cf").arg(judge.archive()).arg("."));
    };
    let mut makers: Vec<(&str, Make<'_>)> = vec![
        ("oldgnu", Box::new(|| gnu(&["--format=oldgnu"]))),
        ("gnu", Box::new(|| gnu(&["--format=gnu"]))),
        ("pax 0.0", Box::new(|| gnu(&["--format=posix", "--sparse-version=0.0"]))),
        ("pax 0.1", Box::new(|| gnu(&["--format=posix", "--sparse-version=0.1"]))),
        ("pax 1.0", Box::new(|| gnu(&["--format=posix", "--sparse-version=1.0"]))),
        ("found by reading", Box::new(|| gnu(&["--format=gnu", "--hole-detection=raw", "--exclude=large"]))),
    ];
    if have("bsdtar") {
        makers.push((
            "bsdtar",
            Box::new(|| run(program("bsdtar").arg("-C").arg(&source).arg("-cf").arg(judge.archive()).arg("."))),
        ));
    }
    for (what, make) in makers {
        make();
        assert!(fs::metadata(judge.archive()).unwrap().len() < 1 << 20, "{what}: the archive has no holes");
        let ours = judge.fixture.layer(&fs::read(judge.archive()).unwrap());
        assert_eq!(fs::read(ours.join("zz after")).unwrap(), b"after", "{what}");
        for (name, pieces) in &names {
            if what == "found by reading" && name == "large" {
                continue;
            }
            let (ours, source) = (ours.join(name), source.join(name));
            assert_eq!(fs::metadata(&ours).unwrap().len(), fs::metadata(&source).unwrap().len(), "{what}: {name}");
            assert!(fs::metadata(&ours).unwrap().blocks() <= fs::metadata(&source).unwrap().blocks(), "{what}: {name}");
            let (ours_file, source_file) = (File::open(&ours).unwrap(), File::open(&source).unwrap());
            for (start, end) in pieces {
                let length = usize::try_from(end - start).unwrap();
                let mut read = [vec![0; length], vec![0; length]];
                ours_file.read_exact_at(&mut read[0], *start).unwrap();
                source_file.read_exact_at(&mut read[1], *start).unwrap();
                assert!(read[0] == read[1], "{what}: {name} at {start}");
            }
            let end = data(&ours).iter().all(|ours| pieces.iter().any(|piece| piece.0 <= ours.0 && ours.1 <= piece.1));
            assert!(end, "{what}: {name}: {:?} and {pieces:?}", data(&ours));
        }
    }
}

/// GNU tar with `--acls` and bsdtar write lists in words.
#[test]
fn access_control_lists_of_real_makers() {
    if !is_root() {
        return;
    }
    let judge = Judge { dir: tempfile::tempdir().unwrap(), fixture: Fixture::new() };
    let source = judge.source();
    fs::create_dir_all(source.join("d")).unwrap();
    fs::write(source.join("f"), "x").unwrap();
    fs::write(source.join("d/inherits not"), "x").unwrap();
    let list = |words: &str| crate::rootfs::acl::from_words(words.as_bytes()).unwrap();
    let access = list("user::rw-,user:54321:rw-,user:70007:---,group::---,group:60006:r--,mask::rw-,other::---");
    set_xattr(&source.join("f"), "system.posix_acl_access", &access);
    set_xattr(&source.join("d"), "system.posix_acl_access", &list("u::rwx,g::rx,g:60006:rwx,m::rwx,o::-"));
    set_xattr(&source.join("d"), "system.posix_acl_default", &list("u::rwx,u:2147483647:r,g::rx,m::rx,o::-"));
    for (what, program_name, flags) in [
        ("GNU tar", "tar", &["--format=posix", "--acls", "--numeric-owner"][..]),
        ("both kinds of GNU tar", "tar", &["--format=posix", "--acls", "--xattrs", "--xattrs-include=*"]),
        ("bsdtar", "bsdtar", &["--acls"]),
    ] {
        if program_name != "tar" && !have(program_name) {
            continue;
        }
        run(program(program_name).args(flags).arg("-C").arg(&source).arg("-cf").arg(judge.archive()).arg("."));
        let ours = listing(&judge.fixture.layer(&fs::read(judge.archive()).unwrap()));
        for (ours, source) in ours.iter().zip(listing(&source)) {
            let acl = |line: &str| line.split_once(" system.").map(|(_, acl)| acl.to_owned());
            assert_eq!(acl(ours), acl(&source), "{what}: ours (left) and the source (right)");
        }
    }
}

/// A dump of GNU tar names what was in a directory; a label is no file; archives are joined or padded.
#[test]
fn dumps_labels_and_joined_archives() {
    if !is_root() {
        return;
    }
    let judge = Judge::new(Reach::Gnu);
    let snapshot = judge.dir.path().join("snapshot");
    for (what, flags) in [
        ("dump", vec![format!("--listed-incremental={}", snapshot.display())]),
        ("label", vec!["--label=an archive".to_owned()]),
        ("label in pax", vec!["--label=an archive".to_owned(), "--format=posix".to_owned()]),
        ("global", vec!["--format=posix".to_owned(), "--pax-option=globexthdr.name=g,comment=hello".to_owned()]),
        ("deleted times", vec!["--format=posix".to_owned(), "--pax-option=delete=atime,delete=ctime".to_owned()]),
        ("wide block", vec!["--blocking-factor=2000".to_owned()]),
    ] {
        run(program("tar").args(flags).arg("-C").arg(judge.source()).arg("-cf").arg(judge.archive()).arg("."));
        judge.agree(what);
    }
    // A file of several volumes begins elsewhere.
    let part = judge.dir.path().join("part");
    fs::write(judge.dir.path().join("big"), vec![1; 300_000]).unwrap();
    let mut tar = program("tar");
    let parts = format!("--file={} --file={}.2", part.display(), part.display());
    tar.args(["--create", "--multi-volume", "--tape-length=200"]).args(parts.split(' '));
    run(tar.arg("-C").arg(judge.dir.path()).arg("big"));
    let second = judge.fixture.refusal(&fs::read(judge.dir.path().join("part.2")).unwrap());
    assert!(second.to_string().contains("volume"), "{second}");
}
