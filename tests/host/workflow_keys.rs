//! Each key and each flag of a workflow by what it does in a real container.

use std::fs;

use crate::base::{app, app_with};
use crate::support::env::{Output, TestEnv, finish};
use crate::support::image::ImageBuilder;

/// Writes one workflow `w` with these lines and the image `app`.
fn write(env: &TestEnv, lines: &str) {
    let indented: String = lines.lines().map(|line| format!("    {line}\n")).collect();
    env.write(".dstack/workflows.yaml", format!("workflows:\n  - name: w\n    image: app\n{indented}"));
}

/// `workflow run w` with these flags and a name of its own.
#[track_caller]
fn run(env: &TestEnv, flags: &[&str]) -> Output {
    let name = env.name();
    env.run([&["workflow", "run", "w", "--name", &name], flags].concat())
}

/// What the workflow prints.
#[track_caller]
fn printed(env: &TestEnv, lines: &str, flags: &[&str]) -> String {
    write(env, lines);
    run(env, flags).text()
}

/// A program that prints how it was called.
fn teller(image: ImageBuilder, path: &str) -> ImageBuilder {
    let name = path.rsplit('/').next().unwrap();
    image.program(path, format!("#!/bin/sh\necho {name}:\nfor word in \"$@\"; do echo \"<$word>\"; done\n"))
}

fn python(image: ImageBuilder) -> ImageBuilder {
    ["bin/python", "bin/python3.10", "bin/python3.11"].into_iter().fold(image, teller)
}

#[test]
fn before_run_comes_first_and_in_the_same_shell() {
    let Some(env) = app() else { return };
    for key in ["before_run", "setup"] {
        let lines = format!("{key}: ['cd /tmp', X=1]\ncommands: ['echo $PWD $X']");
        assert_eq!(printed(&env, &lines, &[]), "/tmp 1", "{key}");
        write(&env, &format!("{key}: |\n  (exit 7)\n  echo no\ncommands: [echo never]"));
        assert_eq!(run(&env, &[]).code(7).stdout, "");
    }
    env.assert_clean();
}

#[test]
fn the_failing_command_is_named() {
    let Some(env) = app() else { return };
    write(&env, "before_run: ['true']\ncommands: [echo one, 'cd /nowhere; exit 9', echo two]");
    let name = env.name();
    let output = env.run(["workflow", "run", "w", "--name", &name]).code(9);
    assert!(output.stderr.contains("command 3 of 4, `cd /nowhere; exit 9`"), "{}", output.stderr);
    let failed = &env.record(&name)["exit"]["failed_command"];
    assert_eq!((failed["index"].as_u64(), failed["of"].as_u64(), failed["code"].as_i64()), (Some(3), Some(4), Some(9)));
    write(&env, "commands: ['(exit 3)']");
    let output = run(&env, &[]).code(3);
    assert!(output.stderr.contains("command 1 of 1, `(exit 3)`"), "{}", output.stderr);
    // A container's user that is not root notes its steps as well.
    let Some(env) = app_with(|image| image.user("app")) else { return };
    write(&env, "commands: [id -u, 'exit 4']");
    let output = run(&env, &[]).code(4);
    assert!(output.stdout == "1000\n" && output.stderr.contains("command 2 of 2, `exit 4`"), "{}", output.stderr);
    env.assert_clean();
}

#[test]
fn python_keys_run_a_file() {
    let Some(env) = app_with(python) else { return };
    assert_eq!(printed(&env, "file: 'my train.py'", &[]), "python:\n<my train.py>");
    assert_eq!(printed(&env, "file: a.py", &["--", "--lr", "1 2"]), "python:\n<a.py>\n<--lr>\n<1 2>");
    assert_eq!(printed(&env, "file: a.py\nversion: 3.10", &[]), "python3.10:\n<a.py>");
    assert_eq!(
        printed(&env, "file: a.py\nrequirements: r.txt\nversion: 3.11", &[]),
        "python3.11:\n<-m>\n<pip>\n<install>\n<-r>\n<r.txt>\npython3.11:\n<a.py>"
    );
    assert_eq!(
        printed(&env, "requirements: r.txt\nbefore_run: [echo before]\ncommands: [echo after]", &[]),
        "before\npython:\n<-m>\n<pip>\n<install>\n<-r>\n<r.txt>\nafter"
    );
    env.assert_clean();
}

#[test]
fn without_an_image_a_file_gets_one_with_python() {
    let Some(env) = app_with(python) else { return };
    env.store_image("python:3.10", &python(crate::base::base_image()).build());
    env.store_image("python:3.11", &python(crate::base::base_image().env("WHICH", "3.11")).build());
    for (lines, expected) in
        [("file: a.py", "python:\n<a.py>"), ("file: a.py\n    version: 3.11", "python3.11:\n<a.py>")]
    {
        env.write(".dstack/workflows.yaml", format!("workflows:\n  - name: w\n    {lines}\n"));
        assert_eq!(env.run(["workflow", "run", "w", "--name", &env.name()]).text(), expected, "{lines}");
    }
}

/// The image has an entrypoint and a command, so that it is seen what becomes of them.
#[test]
fn entrypoint_and_commands_make_the_arguments() {
    let image =
        |image: ImageBuilder| teller(teller(image, "bin/tell"), "bin/other").entrypoint(["/bin/tell"]).cmd(["cmd"]);
    let Some(env) = app_with(image) else { return };
    for (lines, expected) in [
        ("help: neither", "tell:\n<cmd>"),
        ("entrypoint: /bin/other 'a b' c", "other:\n<a b>\n<c>"),
        ("entrypoint: [/bin/other, 'a b']", "other:\n<a b>"),
        ("entrypoint: [/bin/other, x]\ncommands: [one, two]", "other:\n<x>\n<one && two>"),
        ("commands: ['tell \"$0\"']", "tell:\n</bin/sh>"),
        ("entrypoint: /bin/sh -u -c\ncommands: ['echo ${NONE-unset}', 'echo two']", "unset\ntwo"),
    ] {
        assert_eq!(printed(&env, lines, &[]), expected, "{lines}");
    }
    env.assert_clean();
}

#[test]
fn directories_are_as_asked() {
    let Some(env) = app() else { return };
    let lines = "environment: {A: x}\nworking_dir: src/deep\nhome_dir: /home/app\nartifacts: [~/saved]\n\
                 commands: ['echo $A $PWD $HOME ~', echo s > ~/saved/s]";
    write(&env, lines);
    run(&env, &[]).refused(125, &["`working_dir`: there is no directory `src/deep`", "hint: "]);
    env.write("src/deep/file", "");
    let name = env.name();
    let output = env.run(["workflow", "run", "w", "--name", &name]).text();
    assert_eq!(output, "x /workflow/src/deep /home/app /home/app");
    let listed = env.run(["artifacts", "ls", &name, "--format", "json"]).json();
    assert_eq!(listed[0]["path"], "~/saved/s");
    // The workflow's own variables win over what is built in.
    assert_eq!(
        printed(&env, "home_dir: /h\nenv: [HOME=/other, RUN_NAME=mine]\ncommands: ['echo $HOME $RUN_NAME']", &[]),
        "/other mine"
    );
}

#[test]
fn arguments_arrive_word_for_word() {
    let Some(env) = app_with(|image| teller(image, "bin/tell")) else { return };
    let args = ["a b", "it's", "\"quoted\"", "$HOME `id` \\", "", "*", "--flag", "one\ntwo", "\u{e4}"];
    let expected: String = args.iter().map(|arg| format!("<{arg}>\n")).collect();
    for lines in [
        "commands: ['tell ${{ run.args }}']",
        "commands: [cd /, 'tell ${{ run.args }} | cat', 'true']",
        "commands: |\n  cd /\n  tell ${{ run.args }}",
        "entrypoint: [/bin/tell, '${{ run.args }}']",
        "entrypoint: /bin/tell ${{ run.args }}",
    ] {
        write(&env, lines);
        let output = run(&env, &[&["--"][..], &args].concat()).code(0);
        assert_eq!(output.stdout, format!("tell:\n{expected}"), "{lines}");
    }
    write(&env, "commands: [tell]");
    run(&env, &["--", "x"]).refused(125, &["`-- ARGS` is wrong", "${{ run.args }}"]);
    env.assert_clean();
}

#[test]
fn variables_of_the_caller_are_filled_in() {
    let Some(env) = app() else { return };
    env.write("anndir/file", "");
    write(
        &env,
        "env: ['GREETING=${{ env.WHO }} in ${{ run.name }}']\nresources: {memory: '${{ env.SIZE }}MiB'}\n\
         artifacts: ['${{ env.WHO }}']\nworking_dir: ${{ env.WHO }}dir\n\
         commands:\n  - echo $GREETING $$ '$${{ x }}'\n  - pwd\n\
         \x20 - cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes",
    );
    let name = env.name();
    let mut command = env.command(["workflow", "run", "w", "--name", &name]);
    let output = finish(command.env("WHO", "ann").env("SIZE", "64")).text();
    // To the shell, `$$` is its process number.
    assert_eq!(output, format!("ann in {name} 1 ${{{{ x }}}}\n/workflow/anndir\n67108864"));
    write(&env, "commands: [\"echo $$ '${{ env.WHO }}'\"]");
    let mut command = env.command(["workflow", "run", "w", "--name", &env.name()]);
    assert_eq!(finish(command.env("WHO", "${{ run.name }} $(echo x)")).text(), "1 ${{ run.name }} $(echo x)");
    run(&env, &[]).refused(125, &["workflows.yaml:4:26", "the variable `WHO` is not set", "hint: "]);
}

#[test]
fn flags_win_over_the_file() {
    let Some(env) = app() else { return };
    write(
        &env,
        "env: [A=file, B=file]\nresources: {cpu: 0.5, memory: 64MiB, shm_size: 16MiB, gpu: 4}\nartifacts: [out]\n\
         commands:\n  - echo $A $B $C $CALLER\n  - pwd\n  - df -k /dev/shm | tail -n 1 | awk '{ print $2 }'\n\
         \x20 - cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes\n\
         \x20 - touch out/x more/y; echo $DOCKLESS_GPUS_NUM",
    );
    env.write("src/file", "");
    let name = env.name();
    let flags = [
        "-e",
        "A=flag",
        "--env",
        "C=new",
        "-e",
        "CALLER",
        "-w",
        "src",
        "--cpu",
        "1",
        "--memory",
        "96MiB",
        "--shm-size",
        "32MiB",
        "--gpu",
        "0",
        "-a",
        "more",
        "--artifact-owner",
        "1234:2345",
    ];
    let mut command = env.command([&["workflow", "run", "w", "--name", &name][..], &flags].concat());
    let output = finish(command.env("CALLER", "caller")).text();
    assert_eq!(output, "flag file new caller\n/workflow/src\n32768\n100663296\n0");
    let listed = env.run(["artifacts", "ls", &name, "--format", "json"]).json();
    let paths: Vec<&str> = listed.as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["more/y", "out/x"]);
    env.run(["artifacts", "cp", &name, "saved"]).code(0);
    let owner = fs::metadata(env.work().join("saved/more/y")).unwrap();
    assert_eq!(
        (std::os::unix::fs::MetadataExt::uid(&owner), std::os::unix::fs::MetadataExt::gid(&owner)),
        (1234, 2345)
    );
    let resolved = &env.record(&name)["resolved"];
    assert_eq!(
        (resolved["env"]["A"].as_str(), resolved["resources"]["memory"].as_str()),
        (Some("flag"), Some("96MiB"))
    );
    env.assert_clean();
}

#[test]
fn a_run_of_an_image_keeps_artifacts_as_well() {
    let Some(env) = app() else { return };
    let name = env.name();
    let words = ["run", "--name", &name, "-w", "/tmp", "-a", "out", "-a", "/abs:mount", "app", "sh", "-c"];
    env.run([&words[..], &["echo o > out/o; echo a > /abs/a"]].concat()).code(0);
    env.run(["artifacts", "cp", &name, "saved"]).code(0);
    let read = |path: &str| fs::read_to_string(env.work().join("saved").join(path)).unwrap();
    assert_eq!((read("out/o").as_str(), read("abs/a").as_str()), ("o\n", "a\n"));
    for (flags, words) in [
        (&["-a", "out"][..], &["`out` is relative", "--workdir"][..]),
        (&["-a", "/a:ro"], &["`/a:ro` ends in `:ro`"]),
        (&["-a", "~/x"], &["`~/x` needs a home directory", "hint: "]),
        (&["-a", "/a", "-a", "/a/b"], &["`/a` and `/a/b`"]),
        (&["-a", "/proc/x"], &["which the kernel provides"]),
    ] {
        env.run([&["run"], flags, &["app", "true"]].concat()).refused(125, words);
    }
    env.assert_clean();
}
