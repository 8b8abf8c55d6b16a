//! The flags of `run`: command, user, directory, environment, host name, network, standard input.

use crate::base::{app, app_with};
use crate::support::env::{finish, finish_with, tool};

#[test]
fn command_and_entrypoint_are_dockers() {
    let Some(env) = app_with(|image| image.entrypoint(["echo", "entry"]).cmd(["command"])) else { return };
    for (arguments, expected) in [
        (&["app"][..], "entry command"),
        (&["app", "a", "b c"], "entry a b c"),
        (&["--entrypoint", "printf", "app", "%s.", "x", "y"], "x.y."),
        (&["--entrypoint", "", "app", "echo", "-v", "--rm"], "-v --rm"),
        (&["app", "--name", "x"], "entry --name x"),
    ] {
        assert_eq!(env.container(arguments).text(), expected, "{arguments:?}");
    }
    // The replaced entrypoint takes the image's command away.
    env.container(&["--entrypoint", "echo", "app"]).code(0);
}

#[test]
fn the_working_directory_is_made_when_missing() {
    let Some(env) = app_with(|image| image.working_dir("/made/by/image").user("app")) else { return };
    let pwd = |flags: &[&str]| env.script(flags, "pwd; stat -c %u:%g .").text();
    // Root's, as with docker.
    assert_eq!(pwd(&[]), "/made/by/image\n0:0");
    assert_eq!(pwd(&["-w", "/a/b"]), "/a/b\n0:0");
    assert_eq!(pwd(&["-w", "/home/app"]), "/home/app\n1000:1001");
    assert_eq!(pwd(&["-w", "/tmp/../bin/."]), "/bin\n0:0");
}

#[test]
fn users_are_looked_up_in_the_image() {
    let Some(env) = app() else { return };
    for (user, expected) in [
        ("root", "0 0 0 /root"),
        ("app", "1000 1001 1001 44 /home/app"),
        ("1000", "1000 1001 1001 44 /home/app"),
        ("app:video", "1000 44 44 /home/app"),
        ("app:7", "1000 7 7 /home/app"),
        ("4321", "4321 0 0 /"),
        ("4321:8765", "4321 8765 8765 /"),
    ] {
        let output = env.script(&["-u", user], "echo $(id -u) $(id -g) $(id -G) $HOME");
        assert_eq!(output.text(), expected, "`{user}`");
    }
}

#[test]
fn environments_are_merged() {
    let Some(env) = app_with(|image| image.env("A", "image").env("B", "image")) else { return };
    let file = env.write("env", "# comment\nA=file\nC=of the file\nCALLER\n\n");
    let mut command = env.command(["run", "--rm", "--env-file", &file]);
    command.args(["-e", "C=flag", "-e", "D=x=y", "-e", "CALLER2", "-e", "ABSENT", "-e", "EMPTY=", "app", "env"]);
    command.env("CALLER", "from outside").env("CALLER2", "two").env("LEAK", "never");
    let output = finish(&mut command).text();
    let mut lines: Vec<&str> = output.lines().filter(|line| !line.starts_with("HOSTNAME=")).collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "A=file",
            "B=image",
            "C=flag",
            "CALLER2=two",
            "CALLER=from outside",
            "D=x=y",
            "EMPTY=",
            "HOME=/root",
            "PATH=/bin"
        ]
    );
}

#[test]
fn host_names() {
    let Some(env) = app() else { return };
    let script = "hostname; cat /etc/hostname; echo $HOSTNAME";
    assert_eq!(env.script(&["--hostname", "node-7"], script).text(), "node-7\nnode-7\nnode-7");
    let name = env.name();
    let own = env.run(["run", "--rm", "--name", &name, "--network", "none", "app", "sh", "-c", script]).text();
    let first = own.lines().next().unwrap();
    assert_eq!(own, format!("{first}\n{first}\n{first}"));
    assert!(!first.is_empty());
}

#[test]
fn without_network_there_is_a_loopback_interface_that_is_up() {
    let Some(env) = app() else { return };
    let script =
        "ls /sys/class/net; ip addr show lo | grep -c 'UP.*LOWER_UP\\|inet 127.0.0.1'; grep -c localhost /etc/hosts";
    assert_eq!(env.script(&["--network", "none"], script).text(), "lo\n2\n2");
    // Something that listens is reached.
    let script = "echo hello | nc -l -p 9 127.0.0.1 & usleep 300000; nc -w 2 127.0.0.1 9 </dev/null";
    assert_eq!(env.script(&["--network", "none"], script).text(), "hello");
}

#[test]
fn the_hosts_network_is_the_default() {
    let Some(env) = app() else { return };
    let script = "readlink /proc/self/ns/net; cat /etc/hosts";
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap();
    let expected = format!("{}\n{hosts}", own.display());
    assert_eq!(env.script(&[], script).text(), expected.trim());
    assert_ne!(env.script(&["--network", "none"], "readlink /proc/self/ns/net").text(), own.display().to_string());
    env.container(&["--network", "macvlan", "app"]).refused(125, &["macvlan"]);
}

#[test]
fn standard_input_reaches_the_container_when_asked_for() {
    let Some(env) = app() else { return };
    let large = "0123456789abcdef\n".repeat(40_000);
    let output = finish_with(&mut env.command(["run", "--rm", "-i", "app", "md5sum"]), large.as_bytes()).text();
    let expected = finish_with(&mut crate::support::env::program("md5sum", [""; 0]), large.as_bytes()).text();
    assert_eq!(output, expected);
    let output = finish_with(&mut env.command(["run", "--rm", "-i", "app", "head", "-c", "3"]), b"abcdef").text();
    assert_eq!(output, "abc");
    // Without it there is nothing to read.
    let mut command = env.command(["run", "--rm", "app", "sh", "-c", "cat; readlink /proc/self/fd/0"]);
    assert_eq!(finish(command.stdin(std::process::Stdio::piped())).text(), "/dev/null");
    env.assert_clean();
}

#[test]
fn both_streams_and_all_their_bytes_come_through() {
    let Some(env) = app() else { return };
    let output = env.script(&[], "echo out; echo err >&2; printf 'no newline'").code(0);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\nno newline", "err\n"));
    // As text, because everything else here takes output for text.
    let script = "dd if=/dev/urandom of=/tmp/x bs=64k count=64 2>/dev/null; md5sum </tmp/x >&2; xxd -p /tmp/x";
    let output = env.script(&[], script).code(0);
    let back = ["run", "--rm", "-i", "app", "sh", "-c", "xxd -r -p | md5sum"];
    assert_eq!(finish_with(&mut env.command(back), output.stdout.as_bytes()).text(), output.stderr.trim());
}

#[test]
fn the_spec_says_what_a_run_has() {
    let Some(env) = app() else { return };
    let flags = ["spec", "--cpus", "1.5", "-m", "1g", "-u", "app", "-e", "X=1", "--read-only", "app", "a", "b"];
    let spec = env.run(flags).json();
    assert_eq!(spec["process"]["args"], serde_json::json!(["a", "b"]));
    assert_eq!(spec["process"]["user"], serde_json::json!({ "uid": 1000, "gid": 1001, "additionalGids": [1001, 44] }));
    assert_eq!(spec["root"]["readonly"], true);
    assert_eq!(spec["linux"]["resources"]["memory"]["limit"], 1 << 30);
    assert_eq!(spec["linux"]["resources"]["cpu"]["quota"], 150_000);
    assert!(spec["process"]["env"].as_array().unwrap().contains(&"X=1".into()));
    env.assert_clean();
}

/// Groups of whoever starts a container are none of the container's business.
#[test]
fn groups_of_the_caller_stay_outside() {
    let Some(env) = app() else { return };
    let command = env.command(["run", "--rm", "app", "id", "-G"]);
    let mut words = vec!["--groups=4,27,44".to_owned(), command.get_program().to_str().unwrap().to_owned()];
    words.extend(command.get_args().map(|word| word.to_str().unwrap().to_owned()));
    assert_eq!(tool("setpriv", words).trim(), "0");
}

/// docker's rule: the image's, and over them the run's.
#[test]
fn labels_of_the_image_are_the_runs_too() {
    let labels = serde_json::json!({"team": "vision", "from": "image"});
    let Some(env) = app_with(|image| image.config("Labels", labels)) else { return };
    let [plain, other] = [env.name(), env.name()];
    env.run(["run", "--name", &plain, "app", "true"]).code(0);
    env.run(["run", "--name", &other, "--label", "team=sound", "--label", "own=1", "app", "true"]).code(0);
    let labels = |name: &str| env.run(["inspect", name]).json()[0]["labels"].clone();
    assert_eq!(labels(&plain), serde_json::json!({"from": "image", "team": "vision"}));
    assert_eq!(labels(&other), serde_json::json!({"from": "image", "own": "1", "team": "sound"}));
    assert_eq!(env.run(["ps", "-aq", "--filter", "label=team=vision"]).text(), plain);
    assert_eq!(env.run(["ps", "-aq", "--filter", "label=from=image", "--filter", "label=team=sound"]).text(), other);
    env.assert_clean();
}

/// Nobody sets up the network of a bundle.
#[test]
fn a_bundle_says_that_its_network_is_empty() {
    let Some(env) = app() else { return };
    let bundle = env.work().join("bundle");
    let output = env.run(["bundle", "--network", "private", "app", bundle.to_str().unwrap(), "true"]).code(0);
    assert!(output.stderr.contains("empty network namespace") && output.stderr.contains("hint: "), "{}", output.stderr);
    assert!(env.run(["spec", "--network", "private", "app"]).code(0).stderr.contains("empty network namespace"));
    assert!(!env.run(["spec", "--network", "none", "app"]).code(0).stderr.contains("empty"));
}
