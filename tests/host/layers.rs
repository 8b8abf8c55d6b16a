//! Layers on top of each other, as the workload sees them.

use crate::base::{app_with, base_image, empty};
use crate::support::env::{finish, program};
use crate::support::image::{Entry, ImageBuilder, Packing};

/// A layer of files to be hidden by the layers above.
fn lower(image: ImageBuilder) -> ImageBuilder {
    image
        .dir("d")
        .file("d/a", "a")
        .file("d/b", "b")
        .dir("d/sub")
        .file("d/sub/c", "c")
        .dir("e")
        .file("e/old", "old")
        .symlink("link", "d")
}

#[test]
fn whiteouts_hide_what_lies_below() {
    let image = |image| lower(image).layer().whiteout("d/a").whiteout("d/sub").whiteout("link").file("d/new", "new");
    let Some(env) = app_with(image) else { return };
    assert_eq!(env.script(&[], "cd /; find d e link 2>/dev/null | sort").stdout.trim(), "d\nd/b\nd/new\ne\ne/old");
}

#[test]
fn opaque_directories_hide_all_below() {
    let image = |image| lower(image).layer().dir("d").file("d/new", "new").opaque("d").layer().file("d/top", "top");
    let Some(env) = app_with(image) else { return };
    assert_eq!(env.script(&[], "cd /; find d | sort").text(), "d\nd/new\nd/top");
}

#[test]
fn what_was_hidden_may_come_back_as_something_else() {
    let image = |image| {
        let image = lower(image).layer().whiteout("d/sub").whiteout("e").whiteout("d/a");
        image.layer().file("d/sub", "now a file").dir("e").file("e/new", "new").dir("d/a").file("d/a/x", "x")
    };
    let Some(env) = app_with(image) else { return };
    assert_eq!(
        env.script(&[], "cd /; find d/a d/sub e | sort; cat d/sub").text(),
        "d/a\nd/a/x\nd/sub\ne\ne/new\nnow a file"
    );
}

/// A file in the place of a directory, and the other way round, without a whiteout.
#[test]
fn a_later_entry_replaces_an_earlier_one_of_another_kind() {
    let image = |image| {
        lower(image).layer().file("e", "file now").dir("d/a").file("d/a/x", "x").dir("link").file("link/y", "y")
    };
    let Some(env) = app_with(image) else { return };
    assert_eq!(env.script(&[], "cd /; cat e; find d/a link | sort").text(), "file nowd/a\nd/a/x\nlink\nlink/y");
}

#[test]
fn deleted_files_can_be_made_again_and_the_lower_ones_stay_deleted() {
    let image = |image| lower(image).layer().whiteout("d/a");
    let Some(env) = app_with(image) else { return };
    let script = "cd /; rm -r e; mkdir e; ls e; rm d/b; ls d; echo again >d/a; cat d/a";
    assert_eq!(env.script(&[], script).text(), "sub\nagain");
}

#[test]
fn hardlinks_owners_modes_times_and_devices_are_kept() {
    let image = |image: ImageBuilder| {
        image
            .dir("k")
            .entry(Entry::file("k/one", "linked").mode(0o640).owner(12, 34).mtime(1_000_000_000))
            .hardlink("k/two", "k/one")
            .entry(Entry::file("k/setuid", "x").mode(0o4755))
            .entry(Entry::file("k/setgid", "x").mode(0o2755))
            .entry(Entry::dir("k/sticky").mode(0o1777).owner(5, 6).mtime(1_100_000_000))
            .file("k/sticky/inside", "")
            .entry(Entry::fifo("k/fifo"))
            .symlink("k/dangling", "/no/such/place")
            .entry(Entry::file("k/none", "x").mode(0))
    };
    let Some(env) = app_with(image) else { return };
    let script = r"cd /k; for f in one setuid setgid sticky fifo none; do stat -c '%n %a %u:%g %h %Y %F' $f; done
        [ one -ef two ] && echo same; readlink dangling";
    assert_eq!(
        env.script(&[], script).text(),
        "one 640 12:34 2 1000000000 regular file\n\
         setuid 4755 0:0 1 1700000000 regular file\n\
         setgid 2755 0:0 1 1700000000 regular file\n\
         sticky 1777 5:6 2 1100000000 directory\n\
         fifo 644 0:0 1 1700000000 fifo\n\
         none 0 0:0 1 1700000000 regular file\n\
         same\n/no/such/place"
    );
}

/// A hardlink to a file of a layer below, as `docker build` writes it after `ln`.
#[test]
fn hardlinks_reach_into_lower_layers() {
    let image = |image| lower(image).layer().dir("d").hardlink("d/linked", "d/a");
    let Some(env) = app_with(image) else { return };
    assert_eq!(env.script(&[], "cat /d/linked").text(), "a");
}

/// A directory that only a path implies keeps owner and mode that it has below.
#[test]
fn directories_without_an_entry_are_those_below() {
    let image = |image: ImageBuilder| {
        let image =
            image.entry(Entry::dir("p").mode(0o750).owner(7, 8)).entry(Entry::dir("p/q").mode(0o711).owner(9, 9));
        image.layer().file("p/q/new", "new").file("brand/new/file", "x")
    };
    let Some(env) = app_with(image) else { return };
    let script = "stat -c '%a %u:%g' /p /p/q /brand /brand/new; cat /p/q/new";
    assert_eq!(env.script(&[], script).text(), "750 7:8\n711 9:9\n755 0:0\n755 0:0\nnew");
}

#[test]
fn all_packings_and_both_families_of_media_types_run() {
    for packing in [Packing::Gzip, Packing::Zstd, Packing::Plain] {
        for docker in [false, true] {
            let image = |image: ImageBuilder| {
                let image = image.packing(packing).file("packed", format!("{packing:?} {docker}"));
                if docker { image.docker_schema2() } else { image }
            };
            let Some(env) = app_with(image) else { return };
            assert_eq!(env.container(&["app", "cat", "/packed"]).text(), format!("{packing:?} {docker}"));
        }
    }
}

/// overlayfs refuses a directory that is named twice.
#[test]
fn an_image_may_have_the_same_layer_twice() {
    let image = |image: ImageBuilder| {
        image.file("same", "1").layer().file("between", "2").layer().file("same", "1").layer().layer()
    };
    let Some(env) = app_with(image) else { return };
    assert_eq!(env.container(&["app", "cat", "/same", "/between"]).text(), "12");
}

#[test]
fn an_image_may_have_many_layers() {
    let image = |image: ImageBuilder| {
        (0..100).fold(image.dir("many"), |image, number| {
            image.layer().file(&format!("many/{number}"), format!("{number}")).file("many/last", format!("{number}"))
        })
    };
    let Some(env) = app_with(image) else { return };
    assert_eq!(env.script(&[], "ls /many | wc -l; cat /many/last").text(), "101\n99");
}

/// Copying is what is done where overlay cannot be mounted; what the workload sees is the same.
#[test]
fn a_copied_root_is_like_a_mounted_one() {
    let image = |image: ImageBuilder| {
        let image =
            lower(image).entry(Entry::file("d/suid", "x").mode(0o4755).owner(3, 4)).hardlink("d/suid2", "d/suid");
        image.layer().whiteout("d/a").dir("e").opaque("e").file("e/new", "new")
    };
    let Some(env) = app_with(image) else { return };
    let script =
        "cd /; find d e link | sort | xargs stat -c '%n %a %u:%g %h %s %Y %F'; grep ' / ' /proc/mounts | cut -d' ' -f3";
    let [overlay, copy] = ["overlay", "copy"].map(|how| env.script(&["--rootfs", how], script).text());
    let (overlay, kind) = overlay.rsplit_once('\n').unwrap();
    let (copy, other_kind) = copy.rsplit_once('\n').unwrap();
    // Directories count their links differently on each file system.
    let without_directories =
        |text: &str| text.lines().filter(|line| !line.ends_with("directory")).collect::<Vec<_>>().join("\n");
    assert_eq!(without_directories(overlay), without_directories(copy));
    assert_eq!(kind, "overlay");
    assert_ne!(other_kind, "overlay");
    env.assert_clean();
}

/// Where whiteouts cannot be made, as on an overlay, or attributes cannot be kept, as on ramfs of old kernels, layers are kept
/// in a plain form, and a copy of them is the same.
#[test]
fn a_store_on_any_file_system_gives_the_same_tree() {
    let Some(env) = empty() else { return };
    let image = lower(base_image()).file("etc/kept", "").layer().whiteout("d/a").dir("e").opaque("e");
    let image =
        image.file("e/new", "new").whiteout("etc/nothing").layer().file("d/above", "").whiteout("e/new").build();
    image.write_layout(&env.work().join("layout"), "app");
    std::fs::create_dir(env.root()).unwrap();
    let script = "cd /; find d e link etc/kept | sort | xargs stat -c '%n %a %u:%g %s %Y %F' | grep -v directory$";
    let run = |mount: &str, how: &str| {
        let mut shell = program("unshare", ["-m", "sh", "-c"]);
        shell.arg(format!(
            "set -e; root=$1; {mount}; shift; \"$@\" run --rm --name {} --rootfs {how} oci:layout:app sh -c \"{script}\";
             \"$@\" check >&2",
            env.name()
        ));
        let command = env.command::<&str>([]);
        shell.arg("sh").arg(env.root()).arg(command.get_program()).args(command.get_args());
        finish(shell.current_dir(env.work()))
    };
    let expected = run("mount -t tmpfs none $root", "overlay").text();
    assert!(expected.contains("d/above") && !expected.contains("d/a ") && !expected.contains("e/"), "{expected}");
    let overlay = "mount -t tmpfs none $root; mkdir $root/l $root/u $root/w;
        mount -t overlay -o lowerdir=$root/l,upperdir=$root/u,workdir=$root/w none $root";
    for mount in [overlay, "mount -t ramfs none $root"] {
        assert_eq!(run(mount, "copy").text(), expected, "{mount}");
        assert_eq!(run(mount, "auto").text(), expected, "{mount}");
    }
    run(overlay, "overlay").refused(125, &["in a form for copying", "--rootfs copy"]);
    env.assert_clean();
}

/// Entries that name places outside of the layer are refused, and nothing of the image stays.
#[test]
fn entries_that_lead_outside_write_nothing_there() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    for (name, image) in [
        (
            "dots",
            ImageBuilder::new().entry(Entry::file("x", "evil").raw_path(format!("../../../../../../..{target}/dots"))),
        ),
        ("absolute", ImageBuilder::new().entry(Entry::file("x", "evil").raw_path(format!("{target}/absolute")))),
        ("link", ImageBuilder::new().symlink("evil", target).file("evil/link", "evil")),
        ("hard", ImageBuilder::new().symlink("evil", target).entry(Entry::hardlink("evil/hard", "etc/passwd"))),
        ("lower", ImageBuilder::new().symlink("evil", target).layer().file("evil/lower", "evil")),
    ] {
        let Some(env) = empty() else { return };
        env.store_image("evil", &image.build());
        // Refused or led back into the layer: both are right.
        env.container(&["evil", "/none"]);
        assert!(!outside.path().join(name).exists(), "{name}");
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0, "{name}");
        env.assert_clean();
    }
}
