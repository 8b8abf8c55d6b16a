//! What is mounted into containers: directories and files of the host, tmpfs, volumes of the image.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::base::{app, app_with};

#[test]
fn volumes_are_written_to_unless_read_only() {
    let Some(env) = app() else { return };
    let file = env.write("data/file", "from the host");
    let data = env.work().join("data");
    let data = data.to_str().unwrap();
    let script = "cat /data/file; echo changed >/data/new && echo written";
    let output = env.script(&["-v", &format!("{data}:/data")], script).text();
    assert_eq!(output, "from the hostwritten");
    assert_eq!(fs::read_to_string(env.work().join("data/new")).unwrap(), "changed\n");

    let output = env.script(&["-v", &format!("{data}:/data:ro")], script).code(1);
    assert!(output.stdout == "from the host" && output.stderr.contains("Read-only file system"), "{output:?}");
    let mount = format!("type=bind,source={data},target=/data,readonly");
    assert!(env.script(&["--mount", &mount], script).code(1).stderr.contains("Read-only file system"));
    let mount = format!("type=bind,src={data},dst=/data");
    env.script(&["--mount", &mount], script).code(0);

    // A single file, and a path relative to where we are.
    assert_eq!(env.script(&["-v", &format!("{file}:/etc/some.conf:ro")], "cat /etc/some.conf").text(), "from the host");
    assert_eq!(env.script(&["-v", "./data:/d"], "cat /d/file").text(), "from the host");
    env.assert_clean();
}

/// `ro` holds for what is mounted below as well.
#[test]
fn a_read_only_volume_is_so_with_all_below_it() {
    let Some(env) = app() else { return };
    let data = env.work().join("data");
    fs::create_dir_all(data.join("sub")).unwrap();
    let script = "\
        mount -t tmpfs none \"$0\"/sub && exec \"$@\" sh -c 'touch /data/sub/x'";
    let command =
        env.command(["run", "--rm", "--name", &env.name(), "-v", &format!("{}:/data:ro", data.display()), "app"]);
    let mut unshare = crate::support::env::program("unshare", ["-m", "sh", "-c", script]);
    unshare.arg(&data).arg(command.get_program()).args(command.get_args());
    let output = crate::support::env::finish(&mut unshare).code(1);
    assert!(output.stderr.contains("Read-only file system"), "{}", output.stderr);
}

#[test]
fn missing_sources_are_made_for_volumes_only() {
    let Some(env) = app() else { return };
    let made = env.work().join("not/there/yet");
    env.script(&["-v", &format!("{}:/x", made.display())], "touch /x/file").code(0);
    assert!(made.join("file").is_file());
    let missing = env.work().join("missing");
    let mount = format!("type=bind,source={},target=/x", missing.display());
    env.container(&["--mount", &mount, "app"]).refused(125, &["does not exist", "hint: "]);
    assert!(!missing.exists());
}

#[test]
fn tmpfs_has_its_options() {
    let Some(env) = app() else { return };
    let script = "grep ' /scratch ' /proc/mounts; stat -c %a /scratch; echo x >/scratch/x && cat /scratch/x";
    let output = env.script(&["--tmpfs", "/scratch:size=4m,mode=700"], script).text();
    assert!(output.contains("size=4096k") && output.ends_with("700\nx"), "{output}");
    let mount = "type=tmpfs,target=/scratch,tmpfs-size=2m";
    assert!(env.script(&["--mount", mount], script).text().contains("size=2048k"));
}

#[test]
fn a_read_only_root_is_so_but_for_what_is_mounted() {
    let Some(env) = app_with(|image| image.dir("data").volume("/data")) else { return };
    let script = "for d in / /etc /bin /data /scratch /dev/shm /tmp; do touch $d/x 2>/dev/null && echo $d; done; true";
    let output = env.script(&["--read-only", "--tmpfs", "/scratch"], script).text();
    assert_eq!(output, "/data\n/scratch\n/dev/shm");
    env.assert_clean();
}

#[test]
fn volumes_of_the_image_hold_what_it_has_there() {
    let Some(env) = app_with(|image| image.dir("data").file("data/seed", "seed").volume("/data")) else { return };
    assert_eq!(env.script(&[], "cat /data/seed; touch /data/new").text(), "seed");
}

#[test]
fn volumes_of_a_read_only_root_hold_what_the_image_has_there() {
    let Some(env) = app_with(|image| image.dir("data").file("data/seed", "seed").volume("/data")) else { return };
    assert_eq!(env.script(&["--read-only"], "cat /data/seed; touch /data/new").text(), "seed");
}

#[test]
fn the_root_is_writable_and_forgotten() {
    let Some(env) = app() else { return };
    assert_eq!(env.script(&[], "rm /bin/vi; echo new >/etc/passwd; touch /x; ls /").code(0).stderr, "");
    let output = env.script(&[], "ls /bin/vi; head -n 1 /etc/passwd; ls /x 2>&1").code(1);
    assert!(output.stdout.starts_with("/bin/vi\nroot:x:0:0"), "{}", output.stdout);
}

/// A mount of the user never goes through a link of the image to somewhere else on the host.
#[test]
fn links_of_the_image_do_not_lead_outside() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("victim");
    fs::create_dir(&target).unwrap();
    let inode = fs::metadata(&target).unwrap().ino();
    let Some(env) = app_with(|image| {
        let target = target.to_str().unwrap();
        image
            .symlink("evil", target)
            .symlink("etc/resolv.conf", &format!("{target}/resolv.conf"))
            .working_dir("/evil/w")
    }) else {
        return;
    };
    let data = env.write("data/file", "x");
    let data = data.strip_suffix("/file").unwrap();
    let output = env.script(&["-v", &format!("{data}:/evil/d"), "--tmpfs", "/evil/t"], "ls /evil");
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0, "{output:?}");
    assert_eq!(fs::metadata(&target).unwrap().ino(), inode);
    env.assert_clean();
}

#[test]
fn files_for_name_lookup_are_those_of_the_host() {
    let Some(env) = app() else { return };
    let host = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    assert_eq!(env.script(&[], "cat /etc/resolv.conf").text(), host.trim());
    let output =
        env.script(&["-u", "app"], "cat /etc/resolv.conf /etc/hosts /etc/hostname >/dev/null && echo readable");
    assert_eq!(output.text(), "readable");
}
