//! `--userns`, `--uidmap`, `--gidmap`: a container whose root is nobody on the machine.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use nix::sys::signal::{Signal, kill};

use crate::base::{app, app_with};
use crate::support::env::{Running, TestEnv, find_program, finish, program, tool, wait_until};
use crate::support::image::Entry;

/// Where the users of these tests are on the machine.
const FIRST: u32 = 700_000;
const MAP: &str = "0:700000:65536";

/// A run that goes on after its script has got ready.
fn started(env: &TestEnv, flags: &[&str], script: &str) -> Running {
    let script = format!("{script}; echo ready; while :; do usleep 20000; done");
    let run = env.spawn([&["run", "--name", "box"], flags, &["app", "sh", "-c", &script]].concat());
    run.wait_for("ready");
    run
}

fn stop(env: &TestEnv, run: Running) {
    env.run(["stop", "--grace", "0s", "box"]).code(0);
    drop(run.finish());
    env.assert_clean();
}

/// User and group of a file of this machine.
fn owner(path: &Path) -> (u32, u32) {
    let found = path.symlink_metadata().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    (found.uid(), found.gid())
}

#[test]
fn root_of_the_container_is_nobody_on_the_machine() {
    let Some(env) = app() else { return };
    let secret = env.work().join("secret");
    fs::write(&secret, "of root").unwrap();
    fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
    fs::write(env.work().join("public"), "of all").unwrap();
    let volume = format!("{}:/host", env.work().display());
    let run = started(&env, &["--uidmap", MAP, "-v", &volume], "touch /made");
    let pid = env.record("box")["pid"].to_string();
    let proc = Path::new("/proc").join(&pid);
    let status = fs::read_to_string(proc.join("status")).unwrap();
    for name in ["Uid", "Gid"] {
        assert!(status.contains(&format!("{name}:\t{FIRST}\t{FIRST}\t{FIRST}\t{FIRST}\n")), "{status}");
    }
    for name in ["uid_map", "gid_map"] {
        let text = fs::read_to_string(proc.join(name)).unwrap();
        assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["0", "700000", "65536"]);
    }
    let maps = env.run(["inspect", "box"]).text();
    assert!(maps.contains("\"id_maps\"") && maps.contains("700000"), "{maps}");
    // What it makes belongs to it, which outside is whom it stands for; on the disk it is the container's own id.
    assert_eq!(owner(&proc.join("root/made")), (FIRST, FIRST));
    assert_eq!(owner(&env.root().join("runs/box/upper/made")), (0, 0));
    let script = "id -u; ls -ln /host/secret | cut -c1-30; cat /host/public; echo; cat /host/secret; echo > /host/new; chown 0 /host/public";
    let exec = env.run(["exec", "box", "sh", "-c", script]);
    let lines: Vec<&str> = exec.stdout.lines().collect();
    assert_eq!((lines[0], lines[2]), ("0", "of all"), "{exec:?}");
    assert!(lines[1].contains("65534"), "{exec:?}");
    for word in
        ["'/host/secret': Permission denied", "/host/new: Permission denied", "/host/public: Operation not permitted"]
    {
        assert!(exec.stderr.contains(word), "`{word}`: {exec:?}");
    }
    stop(&env, run);
    assert!(!env.work().join("new").exists());
}

#[test]
fn files_of_the_image_behave_as_ever() {
    // `cap_net_bind_service+ep` as the kernel keeps it.
    let capability: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let busybox = fs::read(find_program("busybox").unwrap()).unwrap();
    let Some(env) = app_with(|image| {
        let program = |path: &str| Entry::file(path, &busybox);
        image
            .entry(Entry::dir("odd"))
            .entry(Entry::dir("odd/suid"))
            .entry(program("odd/suid/cat").mode(0o4755).owner(1000, 1001))
            .entry(Entry::dir("odd/caps"))
            .entry(program("odd/caps/cat").mode(0o755).xattr("security.capability", capability))
            .entry(Entry::file("odd/theirs", "x").mode(0o600).owner(1000, 1001))
            .entry(Entry::dir("gone"))
            .file("gone/file", "x")
    }) else {
        return;
    };
    let flags = ["--uidmap", MAP, "--tmpfs", "/scratch:uid=1000"];
    // Copying up, whiteouts, opaque directories, owners.
    let script = "ls -ln /odd/theirs; echo more >> /odd/theirs; cat /odd/theirs
        rm /etc/group; rm -r /gone; mkdir /gone; ls /gone; mkdir /new; mv /new /new2; ln -s x /link; mknod /fifo p
        touch /x; chown 1000:1001 /x; ls -ln /x; chown 70000 /x; chmod u+s /x; ls -ld /scratch /x
        /odd/suid/cat /proc/self/status | grep Uid";
    let output = env.script(&flags, script);
    let lines: Vec<&str> = output.stdout.lines().collect();
    let owners = |line: &str| line.split_whitespace().skip(2).take(2).map(str::to_owned).collect::<Vec<_>>().join(":");
    assert_eq!((owners(lines[0]).as_str(), lines[1]), ("1000:1001", "xmore"), "{output:?}");
    assert_eq!(owners(lines[2]), "1000:1001", "{output:?}");
    assert!(output.stderr.contains("chown: /x: Invalid argument"), "{output:?}");
    assert!(lines[3].contains("app") && lines[4].starts_with("-rwS"), "{output:?}");
    // Its saved user: the others it has given up by itself.
    assert_eq!(lines[5].split_whitespace().nth(3), Some("1000"), "{output:?}");
    let user = [&flags[..], &["-u", "app"]].concat();
    let script = "id; /odd/caps/cat /proc/self/status | grep CapPrm; cat /odd/theirs; echo > /etc/x";
    let output = env.script(&user, script);
    assert!(output.stdout.contains("uid=1000(app) gid=1001(app)"), "{output:?}");
    assert!(output.stdout.contains("CapPrm:\t0000000000000400") && output.stdout.ends_with('x'), "{output:?}");
    assert!(output.stderr.contains("/etc/x: Permission denied"), "{output:?}");
    // The same on a copy.
    let copied = env.script(&[&flags[..], &["--rootfs", "copy"]].concat(), "ls -ln /odd/theirs; touch /x; ls -ln /x");
    let owned: Vec<String> = copied.stdout.lines().map(owners).collect();
    assert_eq!(owned, ["1000:1001", "0:0"], "{copied:?}");
    env.assert_clean();
}

#[test]
fn commands_and_files_go_in_and_out() {
    let Some(env) = app() else { return };
    let flags = ["--uidmap", MAP, "--keep", "--artifact", "/out", "--tmpfs", "/scratch"];
    let script = "mkdir /d; echo x > /d/f; chown 1000:1001 /d/f; echo r > /out/r; echo u > /out/u; chown 1000 /out/u";
    let run = started(&env, &flags, script);
    let exec = |words: &[&str]| env.run([&["exec"], words].concat());
    assert_eq!(exec(&["-u", "app", "box", "id", "-u"]).text(), "1000");
    exec(&["-u", "70000", "box", "id"]).refused(125, &["user 70000 is not mapped", "0 to 65535", "hint: "]);
    let privileged = exec(&["--privileged", "box", "sh", "-c", "id -u; echo 1 > /proc/sys/kernel/panic"]);
    assert!(privileged.code != 0 && privileged.stderr.contains("/proc/sys/kernel/panic"), "{privileged:?}");
    // Into it.
    env.write("in/file", "in");
    std::os::unix::fs::chown(env.work().join("in/file"), Some(1000), Some(5)).unwrap();
    let source = env.work().join("in").display().to_string();
    env.run(["cp", &source, "box:/made"]).code(0);
    env.run(["cp", "-a", &source, "box:/same"]).code(0);
    env.run(["cp", &source, "box:/scratch/made"]).code(0);
    let owners =
        exec(&["box", "stat", "-c", "%u:%g", "/made", "/made/file", "/same/file", "/scratch/made/file"]).text();
    assert_eq!(owners, "0:0\n0:0\n1000:5\n0:0");
    std::os::unix::fs::chown(env.work().join("in/file"), Some(70_000), None).unwrap();
    env.run(["cp", "-a", &source, "box:/not"]).refused(125, &["belongs to 70000", "hint: without `-a`"]);
    // Out of it: as the container sees it.
    let out = env.work().join("out");
    env.run(["cp", "-a", "box:/d", &out.display().to_string()]).code(0);
    assert_eq!(owner(&out.join("f")), (1000, 1001));
    let listed = |words: &[&str], archive: &str| {
        let path = env.work().join(archive);
        fs::write(&path, env.command(words).output().unwrap().stdout).unwrap();
        tool("tar", ["--numeric-owner", "-tvf", path.to_str().unwrap()])
    };
    for (words, archive) in [(&["cp", "box:/d", "-"][..], "live.tar"), (&["export", "box"], "export.tar")] {
        let text = listed(words, archive);
        assert!(text.contains("1000/1001") && !text.contains("700000"), "{words:?}: {text}");
    }
    stop(&env, run);
    // Kept: the same.
    let text = listed(&["cp", "box:/d", "-"], "kept.tar");
    assert!(text.contains("1000/1001"), "{text}");
    // Saved as by any other run.
    let saved = env.root().join("artifacts/box/saved/absolute/out");
    assert_eq!((owner(&saved.join("r")).0, owner(&saved.join("u")).0), (0, 1000));
}

#[test]
fn ranges_that_no_other_run_has() {
    let Some(env) = app() else { return };
    let run = started(&env, &["--userns", "auto"], "true");
    let other = env.script(&["--userns", "auto:size=70000"], "cat /proc/self/uid_map; touch /x; chown 69999 /x").text();
    let number = |text: &str, index: usize| text.split_whitespace().nth(index).unwrap().parse::<u64>().unwrap();
    let first = env.record("box")["id_maps"]["uids"][0].clone();
    let (host, length) = (first["host"].as_u64().unwrap(), first["length"].as_u64().unwrap());
    assert_eq!((length, number(&other, 0), number(&other, 2)), (65_536, 0, 70_000));
    let second = number(&other, 1);
    assert!(second + 70_000 <= host || host + length <= second, "{host} {second}");
    stop(&env, run);
    env.script(&["--userns", "auto:size=1"], "echo fine > /x; cat /x").code(0);
}

#[test]
fn namespaces_and_mounts_of_its_own() {
    let Some(env) = app() else { return };
    env.write("dir/file", "x");
    let dir = env.work().join("dir");
    let (plain, mapped) = (format!("{}:/plain:ro", dir.display()), format!("{}:/mapped:idmap", dir.display()));
    let script = "ping -c1 -w2 127.0.0.1 >/dev/null && echo ping; cat /proc/sys/net/ipv4/ping_group_range
        grep ' /sys ' /proc/mounts | cut -d' ' -f3; echo x > /dev/shm/x && echo shm
        ls -ln /plain/file /mapped/file | awk '{print $3}'; echo > /mapped/made
        cat /etc/hostname >/dev/null && echo names; echo > /dev/null && ls -l /dev/other | cut -c1";
    let flags = ["--uidmap", MAP, "--network", "none", "-v", &plain, "-v", &mapped, "--device", "/dev/null:/dev/other"];
    let output = env.script(&flags, script).text();
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines, ["ping", "0\t65535", "sysfs", "shm", "0", "65534", "names", "c"]);
    assert_eq!(owner(&dir.join("made")), (0, 0));
    // Another image beside its own, and a part of one.
    let part = "type=image,src=app,dst=/part,subpath=home/app";
    let flags = ["--userns", "auto", "--mount", "type=image,src=app,dst=/image,rw", "--mount", part];
    let script = "stat -c %u:%g /image/etc/passwd /image/home/app /part; echo > /image/new; rm /image/etc/group
        stat -c %u:%g /image/new; ls /image/etc; echo > /part/new";
    let output = env.script(&flags, script);
    assert_eq!(output.stdout, "0:0\n1000:1001\n1000:1001\n0:0\npasswd\n", "{output:?}");
    assert!(output.stderr.contains("/part/new: Read-only file system"), "{output:?}");
    // The machine's network, message queues and terminal.
    let flags = ["--uidmap", MAP, "--ipc", "host", "--init", "--read-only", "--cap-add", "SYS_ADMIN"];
    let script = "grep -c ' /dev/mqueue mqueue' /proc/mounts; grep ' /sys ' /proc/mounts | grep -c ro,
        touch /x; mount -o remount,rw / ; mount -o remount,rw /sys; touch /x; readlink /proc/1/exe";
    let output = env.script(&flags, script);
    assert_eq!(output.stdout.lines().take(2).collect::<Vec<_>>(), ["1", "1"], "{output:?}");
    assert!(output.stderr.contains("Read-only file system"), "{output:?}");
    let terminal =
        env.container(&["-t", "--uidmap", MAP, "app", "sh", "-c", "ls -ln $(tty); test -w $(tty) && echo mine"]);
    assert!(terminal.stdout.contains("mine") && terminal.stdout.contains(" 0        5 "), "{terminal:?}");
    env.assert_clean();
}

#[test]
fn several_lines_and_few_ids() {
    let Some(env) = app() else { return };
    let flags = ["--uidmap", "0:700000:10", "--uidmap", "1000:800000:1", "--gidmap", "0:900000:2000"];
    let output = env.script(&[&flags[..], &["-u", "app"]].concat(), "cat /proc/self/uid_map /proc/self/gid_map; id -u");
    let words: Vec<&str> = output.stdout.split_whitespace().collect();
    assert_eq!(words.join(" "), "0 700000 10 1000 800000 1 0 900000 2000 1000", "{output:?}");
    // Group 5, whose terminals are, is not there.
    env.container(&["-t", "--uidmap", "0:700000:2", "app", "tty"]).code(0);
    let warned = env.script(&["--uidmap", "0:0:2000"], "id -u").code(0);
    assert!(warned.stderr.contains("is root on this machine"), "{warned:?}");
    env.assert_clean();
}

#[test]
fn what_cannot_be_is_refused() {
    let Some(env) = app() else { return };
    for (flags, words) in [
        (&["--uidmap", "0:1:1", "--uidmap", "0:9:1"][..], "overlaps with `0:1:1`"),
        (&["--uidmap", "0:1:0"], "the length is 0"),
        (&["--gidmap", "0:4294967295:1"], "an id above"),
        (&["--uidmap", "1:1:1"], "root is not mapped"),
        (&["--userns", "auto", "--uidmap", "0:1:1"], "exclude each other"),
        (&["--userns", "container:x"], "is not supported"),
        (&["--userns", "auto", "--pid", "host"], "exclude each other"),
        (&["--userns", "auto", "--network", "container:x"], "exclude each other"),
        (&["--userns", "auto", "-v", "/tmp:/t:rslave"], "exclude each other"),
        (&["-v", "/tmp:/t:idmap"], "`--userns host` exclude each other"),
        (&["--subuidname", "no-such-name"], "`/etc/subuid` gives no range"),
        (&["--userns", "auto:size=9", "-u", "app"], "user 1000 is not mapped"),
        (&["--userns", "auto:size=9", "--tmpfs", "/x:uid=9"], "`uid=9` of a tmpfs is not mapped"),
    ] {
        env.script(flags, "true").refused(125, &[words]);
    }
    env.run(["bundle", "--uidmap", MAP, "app", "/nowhere"]).refused(125, &["is for `run` only"]);
    env.assert_clean();
}

#[test]
fn a_store_that_cannot_be_mounted_for_others_is_refused() {
    let Some(env) = app() else { return };
    let archive = env.work().join("app.tar").display().to_string();
    env.run(["save", "-o", &archive, "app"]).code(0);
    // An overlay cannot be mounted with other owners; nobody sees this one but what runs in here.
    let script = "set -e; cd \"$1\"; mkdir l u w m; mount -t overlay o -o lowerdir=l,upperdir=u,workdir=w m
        \"$2\" load --root m/store -i \"$3\" >&2; exec \"$2\" run --root m/store --userns auto app true";
    let ours = env.command(["version"]);
    let (work, binary) = (env.work().display().to_string(), ours.get_program().to_str().unwrap());
    let words = ["-m", "sh", "-c", script, "sh", &work, binary, &archive];
    let mut inside = program("unshare", words);
    inside.envs(ours.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = finish(&mut inside).code(125);
    for word in ["cannot mount", "with other owners", "hint: a store on ext4, xfs or btrfs"] {
        assert!(output.stderr.contains(word), "{output:?}");
    }
}

#[test]
fn nothing_is_left_of_a_killed_one() {
    let Some(env) = app() else { return };
    let run = started(&env, &["--userns", "auto", "--init"], "touch /x");
    let pid = env.record("box")["pid"].to_string();
    kill(run.supervisor(), Signal::SIGKILL).unwrap();
    run.finish().code(137);
    let ended = || fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "));
    assert!(wait_until(ended));
    env.run(["ps"]).code(0);
    assert!(!env.root().join("runs/box/staged").exists());
    env.assert_clean();
}
