//! `cp`: docker's table in both directions, what is kept of a file, archives, and workloads that change what is copied.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::base::app;
use crate::support::env::{Output, Running, TestEnv, finish, tool, wait_until};

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

#[track_caller]
fn cp(env: &TestEnv, words: &[&str]) -> Output {
    env.run([&["cp"], words].concat())
}

fn read(env: &TestEnv, path: &str) -> String {
    fs::read_to_string(env.work().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Paths below a directory, as find(1) prints them.
fn listing(dir: &Path) -> String {
    let dir = dir.to_str().unwrap();
    tool("sh", ["-c", &format!("cd {dir} && find . -printf '%P %y %m %l\\n' | sort")])
}

const TREE: &str = "mkdir -p /t/d/sub /t/empty; echo one >/t/f; echo two >/t/d/sub/g; ln -s sub/g /t/d/link; ln -s d /t/dl; ln -s f /t/fl";

#[test]
fn dockers_table_out() {
    let Some(env) = app() else { return };
    let run = started(&env, &[], TREE);
    fs::create_dir(env.work().join("dir")).unwrap();
    env.write("file", "old");
    // A file to nothing, to a file, to a directory; a relative path starts at `/`.
    cp(&env, &["box:/t/f", "new"]).code(0);
    cp(&env, &["box:t/f", "file"]).code(0);
    cp(&env, &["-q", "box:/t/f", "dir"]).code(0);
    assert_eq!([read(&env, "new"), read(&env, "file"), read(&env, "dir/f")], ["one\n", "one\n", "one\n"]);
    cp(&env, &["box:/t/f", "nothing/"]).refused(125, &["there is no directory", "nothing", "hint: "]);
    cp(&env, &["box:/t/f", "nothing/x"]).refused(125, &["there is no directory", "nothing", "hint: "]);
    cp(&env, &["box:/t/f", "file/"]).refused(125, &["is a regular file, expected a directory"]);
    // A directory to nothing, to a directory, its content, to a file.
    let copied = cp(&env, &["box:/t/d", "made"]).code(0);
    assert!(copied.stderr.contains("copied 4 entries"), "{}", copied.stderr);
    cp(&env, &["box:/t/d", "dir"]).code(0);
    cp(&env, &["box:/t/d/.", "dir"]).code(0);
    let tree = " d 755 \nlink l 777 sub/g\nsub d 755 \nsub/g f 644";
    assert_eq!(listing(&env.work().join("made")), tree.trim());
    assert_eq!(listing(&env.work().join("dir/d")), tree.trim());
    assert_eq!(read(&env, "dir/sub/g"), "two\n");
    cp(&env, &["box:/t/d", "file"]).refused(125, &["is a regular file, expected a directory"]);
    assert!(cp(&env, &["-q", "box:/t/d", "dir"]).code(0).stderr.is_empty());
    // Links are copied, unless they are to be followed or a directory is meant.
    cp(&env, &["box:/t/fl", "."]).code(0);
    cp(&env, &["-L", "box:/t/fl", "followed"]).code(0);
    cp(&env, &["box:/t/dl/", "slash"]).code(0);
    assert_eq!(fs::read_link(env.work().join("fl")).unwrap(), Path::new("f"));
    assert_eq!([read(&env, "followed"), read(&env, "slash/sub/g")], ["one\n", "two\n"]);
    cp(&env, &["box:/t/missing", "."]).refused(125, &["there is no `box:/t/missing`"]);
    cp(&env, &["box:/t/f/", "."]).refused(125, &["is a regular file, expected a directory"]);
    cp(&env, &["box:/t/f", "box:/t/x"]).refused(125, &["between two runs", "hint: "]);
    cp(&env, &["file", "dir"]).refused(125, &["neither side is in a run"]);
    cp(&env, &["box:/proc/1/environ", "."]).refused(125, &["made up by the kernel"]);
    // What is mounted upon a file is what is there.
    cp(&env, &["box:/etc/hosts", "hosts"]).code(0);
    assert!(read(&env, "hosts").contains("localhost"));
    stop(&env, run);
    cp(&env, &["box:/t/f", "."]).refused(125, &["was not kept", "hint: `run --keep`"]);
    cp(&env, &["file", "box:/t/f"]).refused(125, &["has ended"]);
}

#[test]
fn dockers_table_in() {
    let Some(env) = app() else { return };
    fs::create_dir(env.work().join("vol")).unwrap();
    let volume = format!("{}:/vol", env.work().join("vol").display());
    let run = started(
        &env,
        &["--tmpfs", "/w", "-v", &volume],
        "echo old >/w/file; mkdir /w/dir; ln -s dir /w/dl; ln -s /w/dir/gone /w/dangling",
    );
    env.write("f", "one\n");
    env.write("d/sub/g", "two\n");
    std::os::unix::fs::chown(env.work().join("f"), Some(1234), Some(1235)).unwrap();
    fs::set_permissions(env.work().join("f"), fs::Permissions::from_mode(0o4751)).unwrap();
    for words in
        [["f", "box:/w/new"], ["./f", "box:/w/file"], ["f", "box:w/dir"], ["d", "box:/w/made"], ["d", "box:/w/dir"]]
    {
        cp(&env, &words).code(0);
    }
    cp(&env, &["d/.", "box:/w/dir/"]).code(0);
    // Links of the destination are followed, inside the container.
    cp(&env, &["f", "box:/w/dl/through"]).code(0);
    cp(&env, &["f", "box:/w/dangling"]).code(0);
    cp(&env, &["-a", "f", "box:/w/kept"]).code(0);
    cp(&env, &["f", "box:/vol/x"]).code(0);
    // The one that is mounted stays mounted.
    cp(&env, &["f", "box:/etc/hostname"]).code(0);
    let root = format!("/proc/{}/root", env.record("box")["pid"]);
    let inside = |path: &str| fs::read_to_string(format!("{root}{path}")).unwrap_or_else(|e| panic!("{path}: {e}"));
    for path in ["/w/new", "/w/file", "/w/dir/f", "/w/dir/through", "/w/dir/gone", "/vol/x", "/etc/hostname"] {
        assert_eq!(inside(path), "one\n", "{path}");
    }
    for path in ["/w/made/sub/g", "/w/dir/d/sub/g", "/w/dir/sub/g"] {
        assert_eq!(inside(path), "two\n", "{path}");
    }
    let stat =
        |path: &str| fs::metadata(format!("{root}{path}")).map(|m| (m.uid(), m.gid(), m.mode() & 0o7777)).unwrap();
    assert_eq!(stat("/w/new"), (0, 0, 0o751));
    assert_eq!(stat("/w/kept"), (1234, 1235, 0o4751));
    assert!(
        fs::read_to_string(format!("/proc/{}/mountinfo", env.record("box")["pid"]))
            .unwrap()
            .contains(" /etc/hostname ")
    );
    cp(&env, &["f", "box:/w/no/x"]).refused(125, &["there is no directory `box:/w/no`"]);
    cp(&env, &["f", "box:/w/no/"]).refused(125, &["there is no directory"]);
    cp(&env, &["d", "box:/w/new"]).refused(125, &["is a regular file, expected a directory"]);
    cp(&env, &["missing", "box:/w"]).refused(125, &["there is no `", "missing"]);
    cp(&env, &["f", "box:/dev/null"]).refused(125, &["a character device"]);
    cp(&env, &["f", "box:/sys/x"]).refused(125, &["made up by the kernel"]);
    let names = tool("sh", ["-c", &format!("ls -A {root}/w {root}/w/dir {root}/etc")]);
    assert!(!names.contains("dockless-cp"), "{names}");
    stop(&env, run);
    let run = Running::start(&mut env.command([
        "run",
        "--name",
        "ro",
        "--read-only",
        "app",
        "sh",
        "-c",
        "echo ready; while :; do usleep 20000; done",
    ]));
    run.wait_for("ready");
    cp(&env, &["f", "ro:/x"]).refused(125, &["cannot write `/x`", "read-only", "hint: "]);
    env.run(["stop", "--grace", "0s", "ro"]).code(0);
    drop(run.finish());
    env.assert_clean();
}

#[test]
fn what_is_kept_of_files() {
    let Some(env) = app() else { return };
    let script = "mkdir /k; cd /k; echo x >a; ln a b; chown 1000:1001 a; chmod 6755 a; touch -d '2001-02-03 04:05:06' a; \
                  dd if=/dev/zero of=holes bs=1 count=1 seek=64M 2>/dev/null; mkfifo pipe; mkdir -m 1770 sticky";
    let run = started(&env, &[], script);
    let root = format!("/proc/{}/root/k", env.record("box")["pid"]);
    rustix::fs::lsetxattr(format!("{root}/a"), "user.mine", b"value", rustix::fs::XattrFlags::empty()).unwrap();
    cp(&env, &["box:/k", "plain"]).code(0);
    cp(&env, &["-a", "box:/k", "all"]).code(0);
    for (dir, owner, mode) in [("plain", (0, 0), 0o755), ("all", (1000, 1001), 0o6755)] {
        let path = env.work().join(dir);
        let file = fs::metadata(path.join("a")).unwrap();
        assert_eq!(((file.uid(), file.gid()), file.mode() & 0o7777), (owner, mode), "{dir}");
        assert_eq!((file.mtime(), file.nlink()), (981_173_106, 2));
        assert_eq!(file.ino(), fs::metadata(path.join("b")).unwrap().ino());
        let mut value = [0; 16];
        let length = rustix::fs::lgetxattr(path.join("a"), "user.mine", &mut value[..]).unwrap();
        assert_eq!(&value[..length], b"value");
        let holes = fs::metadata(path.join("holes")).unwrap();
        assert!(holes.len() == (64 << 20) + 1 && holes.blocks() < 1000, "{} blocks", holes.blocks());
        assert_eq!(fs::metadata(path.join("sticky")).unwrap().mode() & 0o7777, 0o1770);
    }
    assert!(listing(&env.work().join("plain")).contains("pipe p 644"));
    // Devices only when they are asked for.
    cp(&env, &["box:/dev/null", "null"]).refused(125, &["a character device", "hint: `-a`"]);
    cp(&env, &["-a", "box:/dev/null", "null"]).code(0);
    assert_eq!(fs::metadata(env.work().join("null")).unwrap().rdev(), fs::metadata("/dev/null").unwrap().rdev());
    stop(&env, run);
}

#[test]
fn archives_both_ways() {
    let Some(env) = app() else { return };
    let long = "n".repeat(150);
    let script = format!(
        "{TREE}; echo long >/t/{long}; ln /t/f /t/hard; chown 5:6 /t/f; dd if=/dev/zero of=/t/holes bs=1 count=1 seek=8M 2>/dev/null; mkdir /back"
    );
    let run = started(&env, &[], &script);
    let tar = env.work().join("out.tar");
    let tar_text = tar.to_str().unwrap();
    let bytes = {
        use std::io::Read;
        let mut child = env.command(["cp", "box:/t", "-"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut bytes = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut bytes).unwrap();
        assert!(child.wait().unwrap().success());
        bytes
    };
    fs::write(&tar, &bytes).unwrap();
    assert!(bytes.len() < 1 << 20, "the hole was written: {} bytes", bytes.len());
    fs::create_dir(env.work().join("gnu")).unwrap();
    let gnu = env.work().join("gnu");
    tool("tar", ["-xf", tar_text, "-C", gnu.to_str().unwrap()]);
    cp(&env, &["-a", "box:/t", "ours"]).code(0);
    assert_eq!(listing(&gnu.join("t")), listing(&env.work().join("ours")));
    assert_eq!(fs::metadata(gnu.join("t/holes")).unwrap().len(), (8 << 20) + 1);
    assert_eq!(fs::metadata(gnu.join("t/f")).unwrap().uid(), 5);
    assert_eq!(fs::metadata(gnu.join("t/f")).unwrap().ino(), fs::metadata(gnu.join("t/hard")).unwrap().ino());
    // GNU tar's own archive goes in, packed.
    let packed = env.work().join("in.tgz");
    tool("tar", ["-C", gnu.to_str().unwrap(), "-czSf", packed.to_str().unwrap(), "t"]);
    finish(env.command(["cp", "-a", "-", "box:/back"]).stdin(fs::File::open(&packed).unwrap())).code(0);
    cp(&env, &["-a", "box:/back/t", "again"]).code(0);
    assert_eq!(listing(&env.work().join("again")), listing(&env.work().join("ours")));
    tool("diff", ["-r", env.work().join("again").to_str().unwrap(), gnu.join("t").to_str().unwrap()]);
    finish(env.command(["cp", "-", "box:/t/f"]).stdin(fs::File::open(&packed).unwrap()))
        .refused(125, &["expected a directory"]);
    finish(env.command(["cp", "-", "box:/back"]).stdin(fs::File::open("/bin/true").unwrap()))
        .refused(125, &["cannot read the tar archive"]);
    // Names that lead out stay inside; links are not gone through.
    env.write("evil/up", "evil");
    let evil = env.work().join("evil.tar");
    symlink("/etc", env.work().join("evil/l")).unwrap();
    tool(
        "tar",
        [
            "-C",
            env.work().join("evil").to_str().unwrap(),
            "-cf",
            evil.to_str().unwrap(),
            "--transform",
            "s,^up,../../../up,",
            "-P",
            "up",
            "l",
        ],
    );
    finish(env.command(["cp", "-", "box:/back"]).stdin(fs::File::open(&evil).unwrap())).code(0);
    cp(&env, &["box:/back/up", "-q", "up"]).code(0);
    tool(
        "tar",
        [
            "-C",
            env.work().join("evil").to_str().unwrap(),
            "-cf",
            evil.to_str().unwrap(),
            "--transform",
            "s,^up,l/up,",
            "up",
        ],
    );
    finish(env.command(["cp", "-", "box:/back"]).stdin(fs::File::open(&evil).unwrap()))
        .refused(125, &["a link or a file"]);
    stop(&env, run);
}

/// CVE-2018-15664 and its kin: a workload exchanges a directory with a link to `/` as fast as it can.
#[test]
fn exchanged_links_lead_nowhere() {
    let Some(env) = app() else { return };
    // The name exists on the machine, with other content; the container's `/` has the same.
    let marker = env.write("outside/marker", "OUTSIDE");
    let outside = env.work().join("outside");
    let outside = outside.to_str().unwrap();
    let script = format!(
        "mkdir -p /x/dir{outside} {outside} /x/dir/deep; echo INSIDE >/x/dir/marker; echo INSIDE >{outside}/marker; ln -s {outside} /x/link; \
         (while :; do mv -T /x/dir /x/tmp; mv -T /x/link /x/dir; mv -T /x/dir /x/link; mv -T /x/tmp /x/dir; done) & "
    );
    let run = env.spawn(["run", "--name", "box", "app", "sh", "-c", &format!("{script} echo ready; wait")]);
    run.wait_for("ready");
    env.write("in", "INSIDE");
    let until = Instant::now() + Duration::from_secs(3);
    let mut succeeded = 0;
    while Instant::now() < until {
        // Either may find nothing at that moment; what is found is the container's.
        let got = cp(&env, &["-q", "box:/x/dir/marker", "got"]);
        if got.code == 0 {
            succeeded += 1;
            assert_eq!(read(&env, "got").trim(), "INSIDE");
        }
        drop(cp(&env, &["-q", "in", "box:/x/dir/marker"]));
        drop(cp(&env, &["-q", "in", "box:/x/dir/planted"]));
        drop(cp(&env, &["-q", "box:/x", "tree"]));
        drop(fs::remove_dir_all(env.work().join("tree")));
    }
    assert!(succeeded > 0, "nothing was copied");
    assert_eq!(fs::read_to_string(&marker).unwrap(), "OUTSIDE");
    assert_eq!(fs::read_dir(outside).unwrap().count(), 1, "something was planted");
    stop(&env, run);
}

#[test]
fn many_files_and_an_ended_run() {
    let Some(env) = app() else { return };
    let script = "rm /bin/vi; mkdir /m; cd /m; i=0; while [ $i -lt 10000 ]; do : >f$i; i=$((i+1)); done; rm -r /home; mkdir /home; ln -s /m /ml";
    env.run(["run", "--name", "box", "--keep", "app", "sh", "-c", script]).code(0);
    cp(&env, &["box:/m", "many"]).code(0);
    assert_eq!(fs::read_dir(env.work().join("many")).unwrap().count(), 10_000);
    // What is of the image, what was removed, and what is opaque.
    cp(&env, &["box:/etc/passwd", "passwd"]).code(0);
    assert!(read(&env, "passwd").contains("app:x:1000"));
    cp(&env, &["box:/bin/vi", "vi"]).refused(125, &["there is no `box:/bin/vi`"]);
    cp(&env, &["box:/home", "home"]).code(0);
    assert_eq!(fs::read_dir(env.work().join("home")).unwrap().count(), 0);
    cp(&env, &["box:/ml", "ml"]).code(0);
    assert_eq!(fs::read_link(env.work().join("ml")).unwrap(), Path::new("/m"));
    cp(&env, &["-L", "box:/ml", "mlf"]).code(0);
    assert_eq!(fs::read_dir(env.work().join("mlf")).unwrap().count(), 10_000);
    cp(&env, &["passwd", "box:/etc/passwd"]).refused(125, &["has ended, expected one that is running"]);
    env.assert_clean();
}

#[test]
fn a_paused_run_and_an_interrupted_copy() {
    let Some(env) = app() else { return };
    let run = started(&env, &[], TREE);
    let freezers: Vec<_> = env
        .cgroups()
        .into_iter()
        .flat_map(|dir| [(dir.join("freezer.state"), ["FROZEN", "THAWED"]), (dir.join("cgroup.freeze"), ["1", "0"])])
        .filter(|(file, _)| file.exists())
        .collect();
    assert!(!freezers.is_empty(), "no freezer");
    for (file, words) in &freezers {
        fs::write(file, words[0]).unwrap();
    }
    let out = cp(&env, &["box:/t/f", "f"]);
    let back = cp(&env, &["f", "box:/t/back"]);
    for (file, words) in &freezers {
        fs::write(file, words[1]).unwrap();
    }
    assert_eq!((out.code, back.code), (0, 0), "{}{}", out.stderr, back.stderr);
    assert_eq!(read(&env, "f"), "one\n");
    // One that waits for its input ends when it is told to.
    let mut stalled = Running::start(env.command(["cp", "-", "box:/t"]).stdin(Stdio::piped()));
    let input = stalled.stdin();
    let pid = stalled.pid();
    let blocks =
        || fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| status.contains("Threads:\t2"));
    assert!(wait_until(blocks), "it does not listen to signals");
    stalled.signal(Signal::SIGTERM);
    stalled.finish().code(143);
    drop(input);
    stop(&env, run);
}
