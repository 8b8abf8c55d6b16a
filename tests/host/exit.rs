//! Exit codes: the workload's own, and those of a workload that never started.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::base::{app, app_with};
use crate::support::image::Entry;

#[test]
fn the_code_is_the_workloads() {
    let Some(env) = app() else { return };
    for code in [0, 1, 7, 125, 126, 127, 137, 255] {
        let output = env.script(&[], &format!("exit {code}")).code(code);
        assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", ""), "exit {code}");
    }
    env.assert_clean();
}

#[test]
fn a_command_that_cannot_run_says_why() {
    let image = |image: crate::support::image::ImageBuilder| {
        image
            .program("bin/script", "#!/no/such/python3 -u\nprint()\n")
            .program("bin/foreign", b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xb7\0rest")
            .program("bin/bare", "echo no interpreter\n")
            .file("etc/plain", "text")
            .symlink("bin/dangling", "/nowhere")
            .entry(Entry::file("bin/roots", "#!/bin/sh\n").mode(0o700))
    };
    let Some(env) = app_with(image) else { return };
    for (flags, command, code, words) in [
        (&[][..], "nothing", 127, "`nothing` was not found in the container's PATH (looked in /bin)"),
        (&[], "/no/such", 127, "`/no/such` does not exist in the container"),
        (&[], "dangling", 127, "`dangling` was not found"),
        (&[], "script", 127, "its interpreter `/no/such/python3` is not in the image"),
        (&[], "/etc", 126, "`/etc` is a directory"),
        (&[], "/etc/plain", 126, "`/etc/plain` is not executable for the container's user\nhint: "),
        (&[], "foreign", 126, "exec format error\nhint: "),
        (&[], "bare", 126, "exec format error\nhint: "),
        (&["-u", "app"], "roots", 126, "not executable for the container's user"),
        (&["-e", "PATH=/nowhere"], "sh", 127, "looked in /nowhere"),
    ] {
        env.container(&[flags, &["app", command]].concat()).refused(code, &[words]);
        env.assert_clean();
    }
}

/// Init of a PID namespace is killed from outside only.
#[test]
fn a_signal_that_ends_the_workload_is_128_and_its_number() {
    let Some(env) = app() else { return };
    let name = env.name();
    let run = env.spawn(["run", "--name", &name, "app", "sh", "-c", "echo ready; sleep 1000"]);
    run.wait_for("ready");
    let pid = env.record(&name)["pid"].as_i64().unwrap();
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
    run.finish().code(137);
    let exit = env.record(&name)["exit"].clone();
    assert_eq!((exit["reason"].as_str(), exit["signal"].as_i64()), (Some("signalled"), Some(9)));
    assert_eq!(exit["message"], "killed by SIGKILL");
    env.assert_clean();
}

#[test]
fn a_crash_of_the_workload_is_128_and_its_number() {
    let Some(env) = app() else { return };
    // The shell says of its child what we would say of the shell.
    env.script(&[], "sh -c 'kill -SEGV $$'; exit $?").code(139);
    env.script(&[], "sh -c 'kill -TERM $$'; exit $?").code(143);
}

/// Mistakes in what was asked for are found before anything runs, end with 125 and leave nothing.
#[test]
fn what_makes_no_sense_is_refused() {
    let Some(env) = app() else { return };
    let file = env.write("env", "A=1\nB B=2\n");
    for (arguments, words) in [
        (&["-u", "nobody", "app"][..], &["user `nobody` of `--user` is not in the image's /etc/passwd", "hint: "][..]),
        (&["-u", "0:staff", "app"], &["group `staff`", "/etc/group", "hint: "]),
        (&["-u", "99999999999", "app"], &["is too large"]),
        (&["-w", "relative", "app"], &["working directory `relative`", "hint: `--workdir /relative`"]),
        (&["--mount", "type=bind,source=/no/such/place,target=/x", "app"], &["`/no/such/place`", "hint: "]),
        (&["-v", "/tmp:/x", "--tmpfs", "/x", "app"], &["two mounts have the destination `/x`"]),
        (&["--env-file", &file, "app"], &["`B B`", "line 2"]),
        (&["--env-file", "missing", "app"], &["cannot read `missing`"]),
        (
            &["--pull", "never", "other"],
            &["image `other:latest` is not in the store", "hint: `dockless pull other:latest`"],
        ),
        (&["--pull", "never", "--platform", "linux/s390x", "app"], &["not in the store", "hint: "]),
        (&["--rootfs", "magic", "app"], &["magic"]),
        (&["--name", "a/b", "app"], &["run name `a/b` is malformed"]),
    ] {
        env.run(["run"].iter().chain(arguments)).refused(125, words);
        env.assert_clean();
        assert_eq!(env.run(["ps", "-a", "--format", "json"]).json(), serde_json::json!([]), "{arguments:?}");
    }
}

#[test]
fn an_image_without_a_command_needs_one() {
    let Some(env) = app_with(|image| image.cmd([])) else { return };
    env.container(&["app"]).refused(125, &["there is no command to run", "hint: "]);
    env.container(&["app", "true"]).code(0);
    env.assert_clean();
}
