//! The artifact store against real file systems: by rename, by copy to another file system, with a full one.
//!
//! Owners and devices need root; without it a test says so and passes.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, XattrFlags};

use super::copy::{Method, copy_content};
use super::*;
use crate::image::ByteSize;
use crate::store::RunName;

const OWNER: Owner = (1234, 2345);

/// A file system that is not the one of temporary files.
const MEMORY: &str = "/dev/shm";

/// A run whose directory is on `run_fs` and whose artifact store is on `store_fs`.
struct Fixture {
    run_dir: tempfile::TempDir,
    store_dir: tempfile::TempDir,
    run: RunName,
}

/// How the artifacts get into the store.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Rename,
    Copy,
}

const BOTH: [Way; 2] = [Way::Rename, Way::Copy];

impl Fixture {
    /// The store on disk.
    fn new(way: Way) -> Self {
        Self::at(way, &std::env::temp_dir(), Path::new(MEMORY))
    }

    /// The store in memory, where a sync takes no time: for trees so large that the disk's would be what is measured.
    fn large(way: Way) -> Self {
        Self::at(way, Path::new(MEMORY), &std::env::temp_dir())
    }

    fn at(way: Way, place: &Path, other_place: &Path) -> Self {
        let store_dir = tempfile::tempdir_in(place).unwrap();
        let run_dir = tempfile::tempdir_in(if way == Way::Rename { place } else { other_place }).unwrap();
        let device = |dir: &tempfile::TempDir| fs::metadata(dir.path()).unwrap().dev();
        assert_eq!(device(&store_dir) == device(&run_dir), way == Way::Rename, "{MEMORY} must not be where TMPDIR is");
        Self { run_dir, store_dir, run: "clever-otter-1".parse().unwrap() }
    }

    fn store(&self) -> ArtifactStore {
        ArtifactStore::new(self.store_dir.path().join("artifacts"))
    }

    fn prepare(&self, paths: &[(&str, bool)]) -> Vec<Prepared> {
        let declared: Vec<Declared> = paths.iter().map(|(path, mount)| declare(path, *mount)).collect();
        self.store().prepare(&self.run, self.run_dir.path(), &declared).unwrap()
    }

    fn try_save(&self, prepared: &[Prepared]) -> Result<Saved, ArtifactError> {
        self.store().save(&SaveRequest {
            run: &self.run,
            run_dir: self.run_dir.path(),
            prepared,
            outcome: Outcome::Failed,
            owner: Some(OWNER),
            saved_at: "2024-05-01T12:00:00Z".parse().unwrap(),
        })
    }

    fn save(&self, prepared: &[Prepared]) -> Saved {
        self.try_save(prepared).unwrap()
    }

    /// Where the one artifact `out` is once it is saved.
    fn saved(&self) -> PathBuf {
        self.store_dir.path().join("artifacts/clever-otter-1/saved/files/out")
    }

    fn staging(&self) -> PathBuf {
        self.run_dir.path().join("artifacts")
    }
}

fn declare(path: &str, mount: bool) -> Declared {
    Declared::new(path.parse().unwrap(), mount, Path::new("/workflow"), Some(Path::new("/root"))).unwrap()
}

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("skipped: needs root to change owners and make devices");
    }
    root
}

fn make_node(path: &Path, kind: FileType) {
    let device = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(0o666), device).unwrap();
}

fn listed(store: &ArtifactStore, run: &RunName) -> Vec<String> {
    store.list(run).unwrap().files.iter().map(|file| file.path.display().to_string()).collect()
}

/// Ids of what a path names, not following a link.
fn owner_of(path: &Path) -> Owner {
    let metadata = fs::symlink_metadata(path).unwrap();
    (metadata.uid(), metadata.gid())
}

fn mode_of(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn saved_at_the_end_or_visible_all_along() {
    for way in BOTH {
        let fixture = Fixture::new(way);
        let store = fixture.store();
        let prepared = fixture.prepare(&[("out/deep", false), ("logs", true), ("/models", false), ("~/home", false)]);
        for artifact in &prepared {
            assert_eq!(mode_of(&artifact.host_dir), 0o777, "every user of the container can write");
            assert!(artifact.host_dir.starts_with(if artifact.declared.mount {
                fixture.store_dir.path()
            } else {
                fixture.run_dir.path()
            }));
            fs::write(artifact.host_dir.join("file"), "hello").unwrap();
        }
        for private in
            [fixture.store_dir.path().join("artifacts"), fixture.staging(), fixture.staging().join("files/out")]
        {
            assert_eq!(mode_of(&private), 0o700, "{}", private.display());
        }
        assert_eq!(listed(&store, &fixture.run), ["logs/file"]);
        assert_eq!(store.manifest(&fixture.run).unwrap().outcome, None);

        let saved = fixture.save(&prepared);
        assert_eq!(saved, Saved { files: 4, bytes: ByteSize(20), warnings: Vec::new() }, "{way:?}");
        assert_eq!(listed(&store, &fixture.run), ["/models/file", "logs/file", "out/deep/file", "~/home/file"]);
        assert!(!fixture.staging().exists());
        assert_eq!(store.runs().unwrap(), std::slice::from_ref(&fixture.run));
        let run = fixture.store_dir.path().join("artifacts/clever-otter-1");
        assert!(!run.join("saving").exists());
        assert_eq!(mode_of(&run.join("saved/absolute/models")), 0o755);
        assert_eq!(mode_of(&run.join("live/files/logs")), 0o755);
        assert_eq!(fs::read_to_string(run.join("saved/home/home/file")).unwrap(), "hello");
    }
}

#[test]
fn the_manifest_on_disk() {
    let fixture = Fixture::new(Way::Rename);
    let prepared = fixture.prepare(&[("out", false)]);
    let run = fixture.store_dir.path().join("artifacts/clever-otter-1");
    let json =
        |path: &str| -> serde_json::Value { serde_json::from_slice(&fs::read(run.join(path)).unwrap()).unwrap() };
    let mut expected = serde_json::json!({
        "schema": 1,
        "run": "clever-otter-1",
        "artifacts": [{"path": "out", "container_path": "/workflow/out", "mount": false, "files": 0, "bytes": 0}],
    });
    assert_eq!(json("manifest.json"), expected);
    fs::write(prepared[0].host_dir.join("a"), "xyz").unwrap();
    fixture.save(&prepared);
    expected["outcome"] = "failed".into();
    expected["saved_at"] = "2024-05-01T12:00:00Z".into();
    expected["artifacts"][0]["files"] = 1.into();
    expected["artifacts"][0]["bytes"] = 3.into();
    assert_eq!(json("saved/manifest.json"), expected);
    fs::write(run.join("saved/manifest.json"), "{\"schema\": 1, \"more\": 2}").unwrap();
    assert!(matches!(fixture.store().manifest(&fixture.run), Err(ArtifactError::Json { .. })));
}

#[test]
fn what_root_wrote_becomes_the_owners() {
    if !is_root() {
        return;
    }
    for way in BOTH {
        for mount in [false, true] {
            let fixture = Fixture::new(way);
            let prepared = fixture.prepare(&[("out", mount)]);
            let out = prepared[0].host_dir.clone();
            fs::create_dir(out.join("dir")).unwrap();
            fs::write(out.join("dir/roots"), "").unwrap();
            fs::write(out.join("theirs"), "").unwrap();
            lchown(out.join("theirs"), Some(1000), Some(0)).unwrap();
            symlink("/etc/passwd", out.join("link")).unwrap();
            fixture.save(&prepared);
            let saved = if mount { out } else { fixture.saved() };
            for name in ["", "dir", "dir/roots", "link"] {
                assert_eq!(owner_of(&saved.join(name)), OWNER, "{way:?} {mount} {name}");
            }
            assert_eq!(owner_of(&saved.join("theirs")), (1000, 0), "{way:?} {mount}");
            assert_eq!(fs::metadata("/etc/passwd").unwrap().uid(), 0, "a link was followed");
        }
    }
}

#[test]
fn links_are_kept_and_never_followed() {
    for way in BOTH {
        let fixture = Fixture::new(way);
        let secret = tempfile::tempdir().unwrap();
        fs::write(secret.path().join("secret"), "secret").unwrap();
        fs::set_permissions(secret.path().join("secret"), fs::Permissions::from_mode(0o4755)).unwrap();
        let before = fs::metadata(secret.path().join("secret")).unwrap();
        let prepared = fixture.prepare(&[("out", false)]);
        let out = &prepared[0].host_dir;
        symlink("/etc/passwd", out.join("passwd")).unwrap();
        symlink(secret.path(), out.join("dir")).unwrap();
        symlink(secret.path().join("secret"), out.join("file")).unwrap();
        symlink("../../../../../..", out.join("up")).unwrap();
        symlink("loop", out.join("loop")).unwrap();
        let saved = fixture.save(&prepared);
        assert_eq!((saved.files, saved.bytes, saved.warnings.len()), (5, ByteSize(0), 0), "{way:?}");
        assert_eq!(fs::read_link(fixture.saved().join("passwd")).unwrap(), Path::new("/etc/passwd"));
        assert_eq!(fs::read_link(fixture.saved().join("dir")).unwrap(), secret.path());
        let after = fs::metadata(secret.path().join("secret")).unwrap();
        assert_eq!((after.uid(), after.mode(), after.ctime()), (before.uid(), before.mode(), before.ctime()));
        assert_eq!(listed(&fixture.store(), &fixture.run).len(), 5);

        let copy = tempfile::tempdir().unwrap();
        fixture.store().copy_out(&fixture.run, None, copy.path()).unwrap();
        assert_eq!(fs::read_link(copy.path().join("out/up")).unwrap(), Path::new("../../../../../.."));
        let through_link = fixture.store().copy_out(&fixture.run, Some("out/dir/secret"), copy.path());
        assert!(matches!(through_link, Err(ArtifactError::NoSuchPath { .. })));
        fixture.store().remove(&fixture.run).unwrap();
        assert!(secret.path().join("secret").exists());
    }
}

#[test]
fn special_files_are_left_out_with_a_warning() {
    for way in BOTH {
        for mount in [false, true] {
            let fixture = Fixture::new(way);
            let prepared = fixture.prepare(&[("out", mount)]);
            let out = prepared[0].host_dir.clone();
            fs::create_dir(out.join("d")).unwrap();
            fs::write(out.join("file"), "x").unwrap();
            make_node(&out.join("d/pipe\u{1b}[2J"), FileType::Fifo);
            let mut expected = 1;
            if is_root() {
                make_node(&out.join("d/null"), FileType::CharacterDevice);
                make_node(&out.join("d/disk"), FileType::BlockDevice);
                expected = 3;
            }
            drop(std::os::unix::net::UnixListener::bind(out.join("d/socket")).map(|_| expected += 1));
            let saved = fixture.save(&prepared);
            let [warning @ Warning::LeftOut { count, .. }] = &saved.warnings[..] else { panic!("{saved:?}") };
            assert_eq!(*count, expected, "{way:?} {mount}");
            assert!(!warning.to_string().contains('\u{1b}'), "{warning:?}");
            assert_eq!((saved.files, saved.bytes), (1, ByteSize(1)));
            let kept = if mount { out } else { fixture.saved() };
            assert_eq!(fs::read_dir(kept.join("d")).unwrap().count(), 0, "{way:?} {mount}");
        }
    }
}

#[test]
fn privileges_do_not_leave_the_container() {
    if !is_root() {
        return;
    }
    // `cap_sys_admin+ep` as the kernel keeps it (`struct vfs_cap_data`, revision 2).
    let mut capability = 0x0200_0001_u32.to_le_bytes().to_vec();
    capability.extend((1_u32 << 21).to_le_bytes());
    capability.extend([0; 12]);
    for way in BOTH {
        for mount in [false, true] {
            for uid in [0, 1000] {
                let fixture = Fixture::new(way);
                let prepared = fixture.prepare(&[("out", mount)]);
                let out = prepared[0].host_dir.clone();
                for (name, mode) in [("suid", 0o4755), ("sgid", 0o2644), ("both", 0o6000), ("sticky", 0o1755)] {
                    fs::write(out.join(name), "").unwrap();
                    lchown(out.join(name), Some(uid), Some(uid)).unwrap();
                    fs::set_permissions(out.join(name), fs::Permissions::from_mode(mode)).unwrap();
                }
                fs::write(out.join("capable"), "").unwrap();
                lchown(out.join("capable"), Some(uid), Some(uid)).unwrap();
                let set =
                    rustix::fs::lsetxattr(out.join("capable"), "security.capability", &capability, XattrFlags::empty());
                set.unwrap();
                let saved = fixture.save(&prepared);
                assert_eq!(saved.warnings.len(), 1, "{way:?} {mount} {uid}: {saved:?}");
                assert!(matches!(saved.warnings[0], Warning::Disarmed { count: 3, .. }), "{saved:?}");
                let kept = if mount { out } else { fixture.saved() };
                for (name, mode) in [("suid", 0o755), ("sgid", 0o644), ("both", 0), ("sticky", 0o1755)] {
                    assert_eq!(mode_of(&kept.join(name)), mode, "{way:?} {mount} {uid} {name}");
                }
                let mut value = [0; 64];
                let read = rustix::fs::lgetxattr(kept.join("capable"), "security.capability", &mut value[..]);
                assert_eq!(read.err(), Some(rustix::io::Errno::NODATA), "{way:?} {mount} {uid}");
            }
        }
    }
}

#[test]
fn ten_thousand_files() {
    for way in BOTH {
        let fixture = Fixture::large(way);
        let prepared = fixture.prepare(&[("out", false)]);
        for directory in 0..100 {
            let directory = prepared[0].host_dir.join(format!("d{directory}"));
            fs::create_dir(&directory).unwrap();
            for file in 0..100 {
                fs::write(directory.join(format!("f{file}")), "content").unwrap();
            }
        }
        let saved = fixture.save(&prepared);
        assert_eq!((saved.files, saved.bytes), (10_000, ByteSize(70_000)), "{way:?}");
        let copy = tempfile::tempdir_in(MEMORY).unwrap();
        let copied = fixture.store().copy_out(&fixture.run, None, copy.path()).unwrap();
        assert_eq!((copied.files, copied.bytes), (10_000, ByteSize(70_000)));
        assert!(fixture.store().remove(&fixture.run).unwrap());
    }
}

/// Deeper than a path can say and than descriptors could be kept open.
#[test]
fn a_very_deep_tree() {
    const DEPTH: usize = 3000;
    for way in BOTH {
        let fixture = Fixture::large(way);
        let prepared = fixture.prepare(&[("out", false)]);
        let mut current = tree::open_top(&prepared[0].host_dir).unwrap();
        for _ in 0..DEPTH {
            rustix::fs::mkdirat(&current, c"d", Mode::from_raw_mode(0o755)).unwrap();
            current = rustix::fs::openat(&current, c"d", OFlags::RDONLY, Mode::empty()).unwrap();
        }
        let file =
            rustix::fs::openat(&current, c"end", OFlags::WRONLY | OFlags::CREATE, Mode::from_raw_mode(0o644)).unwrap();
        rustix::io::write(&file, b"deep").unwrap();
        // A second name of that file is beyond what a path can say: it is copied once more instead.
        rustix::fs::linkat(&current, c"end", &current, c"again", AtFlags::empty()).unwrap();
        drop((current, file));
        let saved = fixture.save(&prepared);
        assert_eq!(saved.files, 2, "{way:?}");
        assert_eq!(fixture.store().list(&fixture.run).unwrap().files.len(), 2);
        assert!(fixture.store().remove(&fixture.run).unwrap());
        assert!(!fixture.staging().exists());
    }
}

#[test]
fn copies_are_true() {
    let fixture = Fixture::new(Way::Copy);
    let prepared = fixture.prepare(&[("out", false)]);
    let out = &prepared[0].host_dir;
    fs::create_dir(out.join("dir")).unwrap();
    fs::write(out.join("dir/one"), "linked").unwrap();
    fs::hard_link(out.join("dir/one"), out.join("two")).unwrap();
    fs::hard_link(out.join("dir/one"), out.join("dir/three")).unwrap();
    fs::set_permissions(out.join("two"), fs::Permissions::from_mode(0o640)).unwrap();
    let sparse = fs::File::create(out.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_at(&sparse, b"end", (64 << 20) - 3).unwrap();
    fs::File::create(out.join("hole")).unwrap().set_len(1 << 20).unwrap();
    fs::write(out.join("big"), vec![7; 3 << 20]).unwrap();
    let time = |seconds| std::time::UNIX_EPOCH + std::time::Duration::new(seconds, 5_000);
    let times = |seconds| fs::FileTimes::new().set_accessed(time(seconds)).set_modified(time(seconds));
    fs::File::open(out.join("big")).unwrap().set_times(times(1000)).unwrap();
    fs::File::open(out.join("dir")).unwrap().set_times(times(2000)).unwrap();
    fs::set_permissions(out.join("dir"), fs::Permissions::from_mode(0o2750)).unwrap();
    let named = |name: &'static str, path: &Path| rustix::fs::setxattr(path, name, b"value", XattrFlags::empty());
    let attributes = named("user.comment", &out.join("big")).is_ok();
    let saved = fixture.save(&prepared);
    assert_eq!((saved.files, saved.bytes), (6, ByteSize(6 + (64 << 20) + (1 << 20) + (3 << 20))), "{saved:?}");

    let saved = fixture.saved();
    let metadata = |name: &str| fs::symlink_metadata(saved.join(name)).unwrap();
    assert_eq!(metadata("two").ino(), metadata("dir/one").ino());
    assert_eq!(metadata("two").nlink(), 3);
    assert_eq!(metadata("two").mode() & 0o7777, 0o640);
    assert_eq!(metadata("sparse").size(), 64 << 20);
    assert!(metadata("sparse").blocks() * 512 < 1 << 20, "{} blocks", metadata("sparse").blocks());
    assert_eq!((metadata("hole").size(), metadata("hole").blocks()), (1 << 20, 0));
    let content = fs::read(saved.join("sparse")).unwrap();
    assert!(content.ends_with(b"\0end") && content[..(64 << 20) - 3].iter().all(|b| *b == 0));
    assert_eq!(fs::read(saved.join("big")).unwrap(), vec![7; 3 << 20]);
    assert_eq!(metadata("big").modified().unwrap(), time(1000));
    assert_eq!(metadata("dir").modified().unwrap(), time(2000));
    assert_eq!(metadata("dir").mode() & 0o7777, 0o2750);
    if attributes {
        let mut value = [0; 8];
        assert_eq!(rustix::fs::getxattr(saved.join("big"), "user.comment", &mut value[..]), Ok(5));
    } else {
        println!("skipped: no user attributes on /dev/shm");
    }
}

#[test]
fn each_way_to_copy_content() {
    let (disk, memory) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in(MEMORY).unwrap());
    let mut content = vec![0; 1 << 20];
    content.extend((0_u32..300_000).flat_map(u32::to_le_bytes));
    content.extend(vec![0; 1 << 20]);
    content.extend(b"end");
    for (from_dir, to_dir) in [(&disk, &disk), (&disk, &memory), (&memory, &disk), (&memory, &memory)] {
        for method in [Method::Reflink, Method::Kernel, Method::Buffer] {
            let from = from_dir.path().join("from");
            let sparse = fs::File::create(&from).unwrap();
            std::os::unix::fs::FileExt::write_at(&sparse, &content[1 << 20..2_300_000], 1 << 20).unwrap();
            std::os::unix::fs::FileExt::write_at(&sparse, b"end", content.len() as u64 - 3).unwrap();
            let to = to_dir.path().join("to");
            let (source, target) = (fs::File::open(&from).unwrap(), fs::File::create(&to).unwrap());
            let used = copy_content(
                std::os::fd::AsFd::as_fd(&source),
                std::os::fd::AsFd::as_fd(&target),
                content.len() as u64,
                method,
            );
            assert!(used.unwrap() as u8 >= method as u8, "never a better method than asked for");
            assert!(fs::read(&to).unwrap() == content, "{method:?}");
            fs::remove_file(&to).unwrap();
        }
    }
}

#[test]
fn nothing_written_is_a_warning() {
    for way in BOTH {
        let fixture = Fixture::new(way);
        let prepared = fixture.prepare(&[("out", false), ("logs", true), ("used", false)]);
        fs::create_dir(prepared[2].host_dir.join("empty")).unwrap();
        let saved = fixture.save(&prepared);
        let never = |path: &str| Warning::NeverWritten { artifact: path.parse().unwrap() };
        assert_eq!(saved.warnings, [never("out"), never("logs")], "{way:?}");
        assert!(fixture.saved().is_dir());
    }
}

#[test]
fn a_save_that_was_cut_short_is_done_again() {
    for way in BOTH {
        let fixture = Fixture::new(way);
        let prepared = fixture.prepare(&[("out", false)]);
        fs::write(prepared[0].host_dir.join("a"), "x").unwrap();
        // Killed in the middle of a copy: half a tree is left.
        let saving = fixture.store_dir.path().join("artifacts/clever-otter-1/saving");
        fs::create_dir_all(saving.join("files/out/junk")).unwrap();
        assert_eq!(listed(&fixture.store(), &fixture.run), Vec::<String>::new());
        assert_eq!(fixture.save(&prepared).files, 1);
        assert_eq!(listed(&fixture.store(), &fixture.run), ["out/a"]);
        // Killed after the last rename: the run's directory is left.
        fs::create_dir_all(fixture.staging().join("files/out")).unwrap();
        assert_eq!(fixture.save(&prepared).files, 1);
        assert!(!fixture.staging().exists());
        assert_eq!(listed(&fixture.store(), &fixture.run), ["out/a"]);
    }
}

/// Mounts a small file system for this thread alone; gone with the thread.
fn mount_small(at: &Path, options: &std::ffi::CStr) {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).unwrap();
    fs::create_dir_all(at).unwrap();
    mount("tmpfs", at, "tmpfs", MountFlags::empty(), options).unwrap();
}

#[test]
fn a_full_store_leaves_the_run_as_it_was() {
    if !is_root() {
        return;
    }
    let small = |options: &'static std::ffi::CStr, content: Vec<u8>, files: usize| {
        // Made out here: in there its directory is a mount point and could not be removed.
        let fixture = Fixture::new(Way::Rename);
        let work = || {
            mount_small(&fixture.store_dir.path().join("artifacts"), options);
            let prepared = fixture.prepare(&[("out", false)]);
            for file in 0..files {
                fs::write(prepared[0].host_dir.join(format!("f{file}")), &content).unwrap();
            }
            let error = fixture.try_save(&prepared).unwrap_err();
            let ArtifactError::NoSpace { needed, kept_in, .. } = &error else { panic!("{error:?}") };
            assert!(needed.0 >= (content.len() * files) as u64, "{error}");
            assert_eq!(kept_in, &fixture.staging());
            assert!(error.to_string().contains("hint: make space"), "{error}");
            assert_eq!(fs::read_dir(&prepared[0].host_dir).unwrap().count(), files);
            assert_eq!(owner_of(&prepared[0].host_dir.join("f0")), (0, 0));
            assert!(!fixture.store_dir.path().join("artifacts/clever-otter-1/saving").exists());
            assert_eq!(listed(&fixture.store(), &fixture.run), Vec::<String>::new());

            let store = fixture.store_dir.path().join("artifacts");
            rustix::mount::mount_remount(&store, rustix::mount::MountFlags::empty(), c"size=64m,nr_inodes=1000")
                .unwrap();
            assert_eq!(fixture.save(&prepared).files, files as u64);
        };
        std::thread::scope(|scope| scope.spawn(work).join().unwrap());
    };
    // Found out before the copy.
    small(c"size=1m", vec![1; 2 << 20], 2);
    // Found out in the middle of it.
    small(c"size=64m,nr_inodes=20", vec![1; 10], 30);
}

/// One file system, and still no rename from one mount of it to another.
#[test]
fn two_mounts_of_one_file_system() {
    use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};

    if !is_root() {
        return;
    }
    let fixture = Fixture::new(Way::Rename);
    let store = fixture.store_dir.path().join("artifacts");
    fs::create_dir(&store).unwrap();
    let work = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).unwrap();
        mount_bind(&store, &store).unwrap();
        let prepared = fixture.prepare(&[("out", false), ("unused", false)]);
        fs::write(prepared[0].host_dir.join("a"), "x").unwrap();
        make_node(&prepared[0].host_dir.join("pipe"), FileType::Fifo);
        let saved = fixture.save(&prepared);
        assert_eq!((saved.files, saved.warnings.len()), (1, 2), "{saved:?}");
        assert_eq!(owner_of(&fixture.saved().join("a")), OWNER);
        assert_eq!(listed(&fixture.store(), &fixture.run), ["out/a"]);
        assert!(!fixture.staging().exists());
    };
    std::thread::scope(|scope| scope.spawn(work).join().unwrap());
}

#[test]
fn prepare_makes_all_or_nothing() {
    let fixture = Fixture::new(Way::Rename);
    let store = fixture.store();
    assert_eq!(store.prepare(&fixture.run, fixture.run_dir.path(), &[]).unwrap(), []);
    assert!(!store.directory().exists() && !fixture.staging().exists());
    let nested = [declare("a/b", false), declare("/workflow/a", true)];
    let overlapping = store.prepare(&fixture.run, fixture.run_dir.path(), &nested);
    assert!(matches!(overlapping, Err(ArtifactError::Overlap { .. })));

    // Artifacts of an earlier run that were not saved.
    fs::create_dir_all(fixture.staging().join("files/out")).unwrap();
    let failed = store.prepare(&fixture.run, fixture.run_dir.path(), &[declare("a", true)]).unwrap_err();
    assert!(failed.to_string().starts_with("cannot make `"), "{failed}");
    assert_eq!(store.runs().unwrap(), []);
    assert!(fixture.staging().join("files/out").exists());
    fs::remove_dir_all(fixture.staging()).unwrap();
    // A directory that cannot be made: what was made before it goes.
    let long = vec!["x".repeat(250); 4].join("/");
    let too_long = [declare("a", true), declare("b", false), declare(&long, false)];
    let deep = fixture.run_dir.path().join(vec!["y".repeat(250); 13].join("/"));
    fs::create_dir_all(&deep).unwrap();
    assert!(store.prepare(&fixture.run, &deep, &too_long).is_err());
    assert_eq!((store.runs().unwrap(), deep.join("artifacts").exists()), (Vec::new(), false));

    fixture.prepare(&[("a", true), ("b", false)]);
    let again = store.prepare(&fixture.run, fixture.run_dir.path(), &[declare("a", true)]);
    assert!(matches!(again, Err(ArtifactError::AlreadyThere { .. })));
    let saved = store.save(&SaveRequest {
        run: &fixture.run,
        run_dir: fixture.run_dir.path(),
        prepared: &[],
        outcome: Outcome::Done,
        owner: None,
        saved_at: jiff::Timestamp::UNIX_EPOCH,
    });
    assert_eq!(saved.unwrap().files, 0);
}

#[test]
fn what_was_prepared_can_be_read_back() {
    for way in BOTH {
        let fixture = Fixture::new(way);
        let store = fixture.store();
        assert_eq!(store.prepared(&fixture.run, fixture.run_dir.path()).unwrap(), []);
        let prepared = fixture.prepare(&[("out", false), ("logs", true), ("/models/x", false)]);
        fs::write(prepared[0].host_dir.join("a"), "x").unwrap();
        assert_eq!(store.prepared(&fixture.run, fixture.run_dir.path()).unwrap(), prepared);
        assert_eq!(fixture.save(&prepared).files, 1);
    }
}

#[test]
fn only_what_was_never_used_is_discarded() {
    let fixture = Fixture::new(Way::Rename);
    let store = fixture.store();
    assert!(!store.discard(&fixture.run).unwrap());
    let prepared = fixture.prepare(&[("out", false), ("logs", true)]);
    assert!(store.discard(&fixture.run).unwrap());
    assert_eq!(store.runs().unwrap(), []);
    fs::remove_dir_all(fixture.staging()).unwrap();

    assert_eq!(fixture.prepare(&[("out", false), ("logs", true)]), prepared);
    fs::write(prepared[1].host_dir.join("written"), "x").unwrap();
    assert!(!store.discard(&fixture.run).unwrap());
    fs::remove_file(prepared[1].host_dir.join("written")).unwrap();
    fixture.save(&prepared);
    assert!(!store.discard(&fixture.run).unwrap());
    assert_eq!(store.manifest(&fixture.run).unwrap().outcome, Some(Outcome::Failed));
}

#[test]
fn copies_for_the_user() {
    let fixture = Fixture::new(Way::Rename);
    let store = fixture.store();
    let prepared = fixture.prepare(&[("out", false), ("logs/x", true), ("/models", false)]);
    for (artifact, file) in prepared.iter().zip(["a/b.txt", "log", "m.bin"]) {
        let path = artifact.host_dir.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let copy = |path: Option<&str>, to: &str| {
        store.copy_out(&fixture.run, path, &dir.path().join(to)).map(|copied| copied.files)
    };
    let has = |path: &str| fs::read_to_string(dir.path().join(path)).is_ok_and(|text| path.ends_with(&text));

    // While the run goes on: what is mounted, and nothing else.
    assert_eq!(copy(None, "early").unwrap(), 1);
    assert!(has("early/logs/x/log") && !dir.path().join("early/out").exists());
    assert_eq!(mode_of(&dir.path().join("early/logs/x")), 0o755);
    assert!(matches!(copy(Some("out"), "early"), Err(ArtifactError::NoSuchPath { .. })));
    fixture.save(&prepared);

    assert_eq!(copy(None, "all/new").unwrap(), 3);
    assert!(has("all/new/out/a/b.txt") && has("all/new/logs/x/log") && has("all/new/models/m.bin"));
    fs::create_dir(dir.path().join("d")).unwrap();
    assert_eq!(copy(Some("out"), "d").unwrap(), 1);
    assert!(has("d/out/a/b.txt"));
    assert_eq!(copy(Some("./out/a/"), "renamed").unwrap(), 1);
    assert_eq!(fs::read_to_string(dir.path().join("renamed/b.txt")).unwrap(), "a/b.txt");
    assert_eq!(copy(Some("/models/m.bin"), "d").unwrap(), 1);
    assert!(has("d/m.bin"));
    assert_eq!(copy(Some("out/a/b.txt"), "one.txt").unwrap(), 1);
    assert_eq!(fs::read_to_string(dir.path().join("one.txt")).unwrap(), "a/b.txt");
    for missing in ["none", "out/none", "out/a/b.txt/c", "logs", "models", "", "/", "../x", "out/../../x"] {
        let error = copy(Some(missing), "d").unwrap_err();
        assert!(matches!(error, ArtifactError::NoSuchPath { .. }), "{missing}: {error}");
        assert!(error.to_string().contains("hint: `dockless artifacts ls clever-otter-1`"), "{error}");
    }
}

#[test]
fn copies_overwrite_nothing() {
    let fixture = Fixture::new(Way::Rename);
    let store = fixture.store();
    let prepared = fixture.prepare(&[("out", false)]);
    fs::create_dir(prepared[0].host_dir.join("sub")).unwrap();
    fs::write(prepared[0].host_dir.join("sub/file"), "new").unwrap();
    fs::write(prepared[0].host_dir.join("other"), "new").unwrap();
    fixture.save(&prepared);
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("out/sub")).unwrap();
    fs::write(dir.path().join("out/mine"), "old").unwrap();
    fs::write(dir.path().join("out/sub/file"), "old").unwrap();
    let error = store.copy_out(&fixture.run, None, dir.path()).unwrap_err();
    let ArtifactError::Exists { path } = &error else { panic!("{error}") };
    assert_eq!(path, &dir.path().join("out/sub/file"));
    assert!(!dir.path().join("out/other").exists(), "a part was copied");
    assert_eq!(fs::read_to_string(dir.path().join("out/sub/file")).unwrap(), "old");
    for taken in [Some("out"), Some("out/sub")] {
        fs::create_dir_all(dir.path().join("sub")).unwrap();
        assert!(matches!(store.copy_out(&fixture.run, taken, dir.path()), Err(ArtifactError::Exists { .. })));
    }
    // A link to a directory is in the way too: what is copied stays where it was asked to go.
    fs::remove_dir_all(dir.path().join("out/sub")).unwrap();
    symlink(elsewhere.path(), dir.path().join("out/sub")).unwrap();
    assert!(matches!(store.copy_out(&fixture.run, None, dir.path()), Err(ArtifactError::Exists { .. })));
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    // What is not in the way is left alone, and directories are shared.
    fs::remove_file(dir.path().join("out/sub")).unwrap();
    fs::create_dir(dir.path().join("out/sub")).unwrap();
    fs::set_permissions(dir.path().join("out/sub"), fs::Permissions::from_mode(0o711)).unwrap();
    assert_eq!(store.copy_out(&fixture.run, None, dir.path()).unwrap().files, 2);
    assert_eq!(fs::read_to_string(dir.path().join("out/sub/file")).unwrap(), "new");
    assert_eq!(mode_of(&dir.path().join("out/sub")), 0o711);
    assert_eq!(fs::read_to_string(dir.path().join("out/mine")).unwrap(), "old");
}

#[test]
fn two_artifacts_with_one_place_are_copied_one_by_one() {
    let fixture = Fixture::new(Way::Rename);
    let prepared = fixture.prepare(&[("models", false), ("/models", false)]);
    fs::write(prepared[0].host_dir.join("a"), "relative").unwrap();
    fs::write(prepared[1].host_dir.join("a"), "absolute").unwrap();
    fixture.save(&prepared);
    let dir = tempfile::tempdir().unwrap();
    let both = fixture.store().copy_out(&fixture.run, None, dir.path());
    assert!(matches!(both, Err(ArtifactError::SamePlace { .. })));
    fixture.store().copy_out(&fixture.run, Some("/models/a"), &dir.path().join("x")).unwrap();
    fixture.store().copy_out(&fixture.run, Some("models/a"), &dir.path().join("y")).unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("x")).unwrap(), "absolute");
    assert_eq!(fs::read_to_string(dir.path().join("y")).unwrap(), "relative");
}

#[test]
fn removal() {
    let fixture = Fixture::new(Way::Rename);
    let store = fixture.store();
    assert!(!store.remove(&fixture.run).unwrap());
    assert!(matches!(store.manifest(&fixture.run), Err(ArtifactError::NoArtifacts { .. })));
    let prepared = fixture.prepare(&[("out", true)]);
    fs::create_dir(prepared[0].host_dir.join("closed")).unwrap();
    fs::write(prepared[0].host_dir.join("closed/file"), "").unwrap();
    fs::set_permissions(prepared[0].host_dir.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
    assert!(store.remove(&fixture.run).unwrap());
    assert_eq!(fs::read_dir(store.directory()).unwrap().count(), 0);
    // Killed while removing.
    fs::create_dir_all(store.directory().join(".removing-a/live/files/out")).unwrap();
    assert_eq!(store.runs().unwrap(), []);
    store.sweep().unwrap();
    assert_eq!(fs::read_dir(store.directory()).unwrap().count(), 0);
    ArtifactStore::new(fixture.store_dir.path().join("none")).sweep().unwrap();
}
