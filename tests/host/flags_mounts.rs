//! Options of mounts: access, attributes, propagation; mounted images; what stays writable in a read-only container.

use std::fs;
use std::path::Path;

use crate::base::{app, app_with, base_image, empty};
use crate::support::env::{Output, TestEnv, find_program, finish, program};

/// Runs a script on a mount tree of its own in which `$DATA` is a shared tmpfs with a mount `inner` on it. `run` starts a
/// container with the flags that follow, `await` waits for a file.
fn beside_shared_mount(env: &TestEnv, script: &str) -> Output {
    let data = env.work().join("data");
    fs::create_dir_all(&data).unwrap();
    let name = env.name();
    let quoted = |command: &std::process::Command| {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words.map(|word| format!("'{}'", word.to_str().unwrap())).collect::<Vec<_>>().join(" ")
    };
    let run = env.command(["run", "--rm", "--name", &name]);
    let text = format!(
        "mount -t tmpfs data $DATA; mount --make-shared $DATA; mkdir $DATA/inner $DATA/sub\n\
         mount -t tmpfs inner $DATA/inner; mkdir $DATA/inner/deep\n\
         run() {{ {} \"$@\"; }}\nstop() {{ {}; }}\n\
         await() {{ n=0; until [ -e $1 ] || [ $n = 50 ]; do n=$((n+1)); sleep 0.1; done; }}\n{script}",
        quoted(&run),
        quoted(&env.command(["stop", "--grace", "0s", &name])),
    );
    let mut shell = program("unshare", ["-m", "--propagation", "private", "sh", "-ec", &text]);
    shell.env("DATA", &data).env("RECORD", env.root().join("runs").join(&name).join("run.json"));
    for (key, value) in run.get_envs() {
        if let Some(value) = value {
            shell.env(key, value);
        }
    }
    finish(&mut shell)
}

#[test]
fn later_mounts_of_the_host_are_seen_by_slaves_only() {
    let Some(env) = app() else { return };
    // It waits for files on mounts that are made after its start, in the mount itself and in one below it.
    let watch = "touch /d/ready; n=0; until [ -e /d/sub/x ] || [ $n = 5 ]; do n=$((n+1)); usleep 100000; done; \
        echo $(ls /d/sub) $(ls /d/inner/deep) $(grep ' /d ' /proc/self/mountinfo | grep -o 'shared:\\|master:'); touch /d/stay";
    for (option, seen) in
        [("rslave", "x y master:"), ("slave", "x master:"), ("rprivate", ""), ("rshared", "x y shared:")]
    {
        let script = format!(
            "run -v $DATA:/d:{option} app sh -c '{}' >$DATA.out & await $DATA/ready\n\
             mount -t tmpfs deep $DATA/inner/deep; touch $DATA/inner/deep/y\n\
             mkdir $DATA.new; mount -t tmpfs x $DATA.new; touch $DATA.new/x; mount --move $DATA.new $DATA/sub\n\
             wait $!; cat $DATA.out; rmdir $DATA.new",
            watch.replace('\'', "'\\''")
        );
        let output = beside_shared_mount(&env, &script).code(0);
        assert_eq!(output.stdout.trim(), seen, "{option}: {}", output.stderr);
        fs::remove_dir_all(env.work().join("data")).unwrap();
    }
    env.assert_clean();
}

#[test]
fn mounts_of_the_container_are_seen_by_the_host_when_shared() {
    let Some(env) = app() else { return };
    let script = "run -d --mount type=bind,source=$DATA/sub,target=/d,bind-propagation=rshared -v $DATA/sub:/p \
         -v $DATA/sub:/s:rslave app sleep 60 >/dev/null\n\
         mkdir $DATA/sub/shared $DATA/sub/private $DATA/sub/slave\n\
         pid=$(grep -o '\"pid\": [0-9]*' $RECORD | grep -o '[0-9]*')\n\
         for place in d/shared p/private s/slave; do nsenter -t $pid -m mount -t tmpfs made /$place; done\n\
         grep -o '/sub/[a-z]* ' /proc/self/mountinfo; stop >/dev/null; grep -c '/sub/shared ' /proc/self/mountinfo";
    // What was mounted in the container stays, as with docker.
    let output = beside_shared_mount(&env, script).code(0);
    assert_eq!(output.stdout, "/sub/shared \n1\n", "{}", output.stderr);
    env.assert_clean();
}

/// What is mounted later is not made read-only by the mount that it comes through, as with docker.
#[test]
fn a_shared_mount_may_be_read_only() {
    let Some(env) = app() else { return };
    for (option, word) in [("ro,rshared", "shared:"), ("rslave,ro", "master:")] {
        let watch = "touch /d/new 2>&1; n=0; until [ -e /d/sub/x ] || [ $n = 50 ]; do n=$((n+1)); usleep 100000; done; \
            echo $(ls /d/sub) $(grep ' /d ' /proc/self/mountinfo | grep -o 'shared:\\|master:'); touch /o/stay";
        let script = format!(
            "mkdir $DATA.o; run -v $DATA:/d:{option} -v $DATA.o:/o app sh -c 'touch /o/ready; {}' >$DATA.out & await $DATA.o/ready\n\
             mount -t tmpfs x $DATA/sub; touch $DATA/sub/x; wait $!; cat $DATA.out; rm -r $DATA.o",
            watch.replace('\'', "'\\''")
        );
        let output = beside_shared_mount(&env, &script).code(0);
        assert!(output.stdout.contains("Read-only file system"), "{option}: {output:?}");
        assert!(output.stdout.ends_with(&format!("x {word}\n")), "{option}: {output:?}");
        fs::remove_dir_all(env.work().join("data")).unwrap();
    }
    env.assert_clean();
}

#[test]
fn a_private_mount_cannot_be_followed() {
    let Some(env) = app() else { return };
    for option in ["rshared", "shared", "rslave", "slave"] {
        let script = format!("mount --make-rprivate $DATA; run -v $DATA/sub:/d:{option} app true");
        let output = beside_shared_mount(&env, &script).code(125);
        let wanted = if option.ends_with("slave") { "a shared or slave mount" } else { "a shared mount" };
        assert!(output.stderr.contains(wanted) && output.stderr.contains("--make-shared"), "{output:?}");
    }
    env.assert_clean();
}

#[test]
fn volumes_have_their_options() {
    let Some(env) = app() else { return };
    let data = env.work().join("data");
    fs::create_dir_all(&data).unwrap();
    fs::copy(find_program("busybox").unwrap(), data.join("busybox")).unwrap();
    let volume = |options: &str| format!("{}:/d:{options}", data.display());
    let exec = "/d/busybox true && echo ran";
    assert_eq!(env.script(&["-v", &volume("exec")], exec).text(), "ran");
    assert!(env.script(&["-v", &volume("noexec")], exec).code(126).stderr.contains("Permission denied"));
    let options = "grep ' /d ' /proc/self/mountinfo | cut -d ' ' -f 6";
    let listed = env.script(&["-v", &volume("nosuid,nodev,ro,noexec")], options).text();
    assert!(
        ["ro", "nosuid", "nodev", "noexec"].iter().all(|word| listed.split(',').any(|have| have == *word)),
        "{listed}"
    );
    assert!(env.script(&["-v", &volume("rw,z,nocopy,rprivate")], "touch /d/x").code(0).stderr.is_empty());
    let mount = format!("type=bind,source={},target=/d,noexec,ro", data.display());
    env.script(&["--mount", &mount], exec).code(126);
    let mount = format!("type=bind,source={},target=/d,bind-create-src", env.work().join("new").display());
    env.script(&["--mount", &mount], "touch /d/x").code(0);
    assert!(env.work().join("new/x").is_file());
}

#[test]
fn what_is_mounted_below_comes_along_or_not() {
    let Some(env) = app() else { return };
    let script = "touch $DATA/inner/below; m=type=bind,source=$DATA,target=/d\n\
        for o in bind-nonrecursive bind-recursive=disabled bind-recursive=enabled; do run --mount $m,$o app ls /d/inner; echo; done\n\
        run --mount $m,ro,bind-recursive=writable app sh -c 'touch /d/inner/new && ! touch /d/new 2>/dev/null && echo below'\n\
        run -v $DATA:/d:ro,bind app sh -c 'touch /d/inner/x' || echo read-only";
    let output = beside_shared_mount(&env, script).code(0);
    assert_eq!(output.stdout, "\n\nbelow\ndeep\n\nbelow\nread-only\n", "{}", output.stderr);
}

#[test]
fn images_are_mounted() {
    let Some(env) = app() else { return };
    let outside = env.write("secret", "of the host");
    let tools = base_image()
        .dir("usr")
        .file("usr/tool", "one tool")
        .file("etc/passwd", "of the tools\n")
        .symlink("out", Path::new(&outside).parent().unwrap().to_str().unwrap());
    env.store_image("tools", &tools.build());
    let mount = |rest: &str| format!("type=image,source=tools,target=/t{rest}");
    let script =
        "cat /t/usr/tool; tail -n 1 /etc/passwd; touch /t/x 2>&1 | grep -o Read-only; ls /t/bin | grep -c '^sh$'";
    let output = env.script(&["--mount", &mount("")], script).text();
    assert_eq!(output, "one toolapp:x:1000:1001::/home/app:/bin/sh\nRead-only\n1");
    // What is written is the run's own.
    let script = "cat /t/x 2>/dev/null; echo mine >/t/x; cat /t/x; rm /t/usr/tool";
    for _ in 0..2 {
        assert_eq!(env.script(&["--mount", &mount(",rw=true")], script).text(), "mine");
    }
    // A part of it, a directory or a file; what a link says is meant within the image.
    assert_eq!(env.script(&["--mount", &mount(",subpath=usr")], "ls /t").text(), "tool");
    assert_eq!(env.script(&["--mount", &mount(",subpath=/usr/tool")], "cat /t").text(), "one tool");
    let output = env.script(&["--mount", &mount(",subpath=out/secret")], "cat /t").code(125);
    assert!(output.stderr.contains("cannot find `/out/secret` in the mounted image"), "{output:?}");
    // With a copied root the mounted image is copied too.
    let output =
        env.script(&["--rootfs", "copy", "--mount", &mount("")], "cat /t/usr/tool; touch /t/x 2>/dev/null || echo ro");
    assert_eq!(output.text(), "one toolro");
    env.container(&["--mount", "type=image,source=absent,target=/t", "--pull", "never", "app"])
        .refused(125, &["absent"]);
    env.run(["spec", "--mount", &mount(""), "app"]).refused(125, &["type=image` is for `run` only"]);
    env.assert_clean();
}

#[test]
fn a_mounted_image_is_kept_while_the_run_goes_on() {
    let Some(env) = empty() else { return };
    env.store_image("app", &base_image().build());
    env.store_image("tools", &base_image().file("tool", "here").build());
    let name = env.name();
    let mount = "type=image,source=tools,target=/t";
    let script = "until [ -e /tmp/go ]; do usleep 50000; done; cat /t/tool";
    env.run(["run", "-d", "--name", &name, "--mount", mount, "app", "sh", "-c", script]).code(0);
    let record = env.record(&name);
    assert_eq!(record["mounted"].as_array().unwrap().len(), 1, "{record}");
    env.run(["rmi", "tools"]).refused(125, &["tools", &name]);
    env.run(["rmi", "--force", "tools"]).code(0);
    let go = format!("/proc/{}/root/tmp/go", record["pid"]);
    fs::write(go, "").unwrap();
    env.run(["wait", &name]).code(0);
    assert_eq!(env.run(["logs", &name]).text(), "here");
    // Now nothing needs it any more.
    env.run(["prune", "images", "--all", "--force"]);
    env.run(["rm", &name]).code(0);
    env.assert_clean();
}

#[test]
fn tmpfs_has_all_its_options() {
    let Some(env) = app() else { return };
    let script = "cp /bin/busybox /s/true && /s/true && echo ran; stat -c '%a %u %g' /s; df -i /s | tail -n 1 | awk '{ print $2 }'; \
        grep ' /s ' /proc/mounts";
    let output = env.script(&["--tmpfs", "/s:exec,size=8m,mode=711,uid=7,gid=8,nr_inodes=9,noatime"], script).text();
    assert!(output.starts_with("ran\n711 7 8\n9\n"), "{output}");
    assert!(output.contains("nosuid,nodev,noatime") && output.contains("size=8192k"), "{output}");
    let output = env.script(&["--tmpfs", "/s:size=8m"], script);
    assert!(!output.stdout.contains("ran") && output.stdout.contains("1777 0 0"), "{output:?}");
    let output = env.script(&["--mount", "type=tmpfs,target=/s,ro,tmpfs-mode=700"], "stat -c %a /s; touch /s/x");
    assert!(output.stdout.starts_with("700") && output.stderr.contains("Read-only"), "{output:?}");
}

#[test]
fn a_read_only_root_with_writable_places() {
    let Some(env) = app_with(|image| image.dir("run").file("run/here", "x").dir("var").dir("var/tmp")) else { return };
    let script = "for d in / /etc /tmp /var/tmp /run /dev/shm; do touch $d/x 2>/dev/null && echo $d; done; ls /run; stat -c %a /tmp /run";
    let output = env.script(&["--read-only", "--read-only-tmpfs"], script).text();
    assert_eq!(output, "/tmp\n/var/tmp\n/run\n/dev/shm\nx\n1777\n755");
    let output = env.script(&["--read-only", "--read-only-tmpfs=false"], script).code(0).stdout;
    assert!(output.starts_with("/dev/shm\nhere\n"), "{output}");
    env.container(&["--read-only-tmpfs", "app"]).refused(125, &["--read-only"]);
}

#[test]
fn bad_mounts_are_refused_before_anything_is_made() {
    let Some(env) = app() else { return };
    let here = env.work();
    let here = here.to_str().unwrap();
    for (flag, value, words) in [
        ("-v", format!("{here}:/d:ro,rw"), "exclude each other"),
        ("-v", format!("{here}:/d:rslave,rshared"), "exclude each other"),
        ("-v", format!("{here}:/d:U"), "`U` is not supported yet"),
        ("-v", format!("{here}:/d:idmap"), "`--userns host` exclude each other"),
        ("-v", format!("{here}:/d:oops"), "`oops` is unknown"),
        ("-v", "named:/d".to_owned(), "names a volume, which is not supported yet\nhint: "),
        ("--mount", format!("type=bind,source={here},target=/d,bind-propagation=all"), "has a bad value"),
        ("--mount", "type=image,source=app,target=/d,subpath=../x".to_owned(), "without `..`"),
        ("--mount", "type=image,target=/d".to_owned(), "`source=` is missing"),
        ("--mount", "type=volume,target=/d".to_owned(), "not supported yet"),
        ("--tmpfs", "/d:size=-1".to_owned(), "a size like"),
        ("--tmpfs", "/d:tmpcopyup".to_owned(), "not supported yet"),
        ("--volumes-from", "other".to_owned(), "`--volumes-from other` is not supported"),
    ] {
        env.container(&[flag, &value, "app"]).refused(125, &[words]);
    }
    env.assert_clean();
}

/// What a device may be used for is enforced by the kernel, whoever the container's user is.
#[test]
fn permissions_of_devices_are_enforced() {
    let Some(env) = app() else { return };
    // Nobody needs a right of its own to open it for writing.
    let script = "exec 4>/dev/mine && echo opened";
    let device = |permissions: &str| format!("/dev/kmsg:/dev/mine:{permissions}");
    assert_eq!(env.script(&["--device", &device("w")], script).text(), "opened");
    let output = env.script(&["--device", &device("r")], script);
    assert!(output.stdout.is_empty() && output.stderr.contains("Operation not permitted"), "{output:?}");
}
