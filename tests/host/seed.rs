//! Each property of the reference page, with its effect seen in containers of a real Debian 12 with a real Python.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;

use crate::base::debian;
use crate::support::env::{Output, TestEnv, entries, finish, wait_until};

/// The example of the page.
const TRAIN: &str = "\
workflows:
  - name: train
    provider: docker
    image: ubuntu
    commands:
      - mkdir -p output
      - echo 'Hello, world!' > output/hello.txt
    artifacts:
      - path: output
    resources:
      gpu:
        name: \"K80\"
        count: 1
";

/// Writes one workflow `w` with these lines and the image `ubuntu`.
fn write(env: &TestEnv, lines: &str) {
    let indented = lines.lines().map(|line| format!("    {line}\n")).collect::<Vec<_>>().concat();
    env.write(".dstack/workflows.yaml", format!("workflows:\n  - name: w\n    image: ubuntu\n{indented}"));
}

/// `workflow run w` with a name of its own, which it returns.
#[track_caller]
fn run(env: &TestEnv) -> (String, Output) {
    let name = env.name();
    let output = env.run(["workflow", "run", "w", "--name", &name]);
    (name, output)
}

/// The content of a saved file.
#[track_caller]
fn saved(env: &TestEnv, run: &str, path: &str) -> String {
    let copy = env.name();
    env.run(["artifacts", "cp", run, &copy]).code(0);
    fs::read_to_string(env.work().join(copy).join(path)).unwrap_or_else(|error| panic!("`{path}` of `{run}`: {error}"))
}

/// `provider`, `image`, `commands`, `artifacts.path`, and `resources.gpu` as far as a machine without such a GPU can.
#[test]
fn the_example_runs_as_it_stands_on_the_page() {
    let Some(env) = debian() else { return };
    env.write(".dstack/workflows.yaml", TRAIN);
    let refused = env.run(["workflow", "run", "train"]);
    refused.refused(125, &["\n  gpu: asked for 1 × K80, and ", "hint: ", "--ignore-host-check"]);
    assert!(entries(&env.root().join("runs")).is_empty(), "a refused run leaves nothing");
    for (flags, warning) in [(&["--gpu", "0"][..], false), (&["--ignore-host-check"], true)] {
        let name = env.name();
        let output = env.run([&["workflow", "run", "train", "--name", &name], flags].concat()).code(0);
        assert_eq!(output.stderr.contains("gpu: asked for 1 × K80"), warning, "{}", output.stderr);
        assert!(output.stderr.contains("saved artifacts: 1 file, 14 B"), "{}", output.stderr);
        assert_eq!(saved(&env, &name, "output/hello.txt"), "Hello, world!\n");
    }
    assert!(!env.work().join("output/hello.txt").exists(), "nor does the project get it");
    env.assert_clean();
}

/// `name`, `count` and `memory` of `resources.gpu`: each stands in what is asked for.
#[test]
fn gpus_are_asked_for_by_name_count_and_memory() {
    let Some(env) = debian() else { return };
    for (gpu, asked) in [
        ("2", &["\n  gpu: asked for 2 GPUs, and "][..]),
        ("{ name: V100 }", &["\n  gpu: asked for 1 × V100, and "]),
        ("{ name: A100, count: 1000, memory: 40GB }", &["\n  gpu: asked for 1000 × A100", "40 GB"]),
        ("{ memory: 900TB }", &["\n  gpu: asked for 1 GPU with 900 TB"]),
    ] {
        write(&env, &format!("commands: [echo $DOCKLESS_GPUS_NUM]\nresources: {{ gpu: {gpu} }}"));
        run(&env).1.refused(125, asked);
        let output = env.run(["workflow", "run", "w", "--name", &env.name(), "--gpu", "0"]);
        assert_eq!(output.text(), "0", "{gpu}");
    }
    env.assert_clean();
}

/// `image`: its own files, and its own command where nothing else is given; `provider`: `docker` and no other.
#[test]
fn provider_image_and_commands_choose_what_runs() {
    let Some(env) = debian() else { return };
    write(&env, "provider: docker\ncommands:\n  - cd /etc\n  - X=$(cat debian_version)\n  - 'echo $PWD ${X%%.*}'");
    assert_eq!(run(&env).1.text(), "/etc 12");
    write(&env, "commands: [echo one, 'ls /nowhere', echo never]");
    let output = run(&env).1.code(2);
    assert_eq!(output.stdout, "one\n");
    assert!(output.stderr.contains("command 2 of 3, `ls /nowhere`"), "{}", output.stderr);
    write(&env, "provider: bash\ncommands: ['true']");
    run(&env).1.refused(125, &["workflows.yaml:4:15", "`bash`", "`docker`"]);
    env.assert_clean();
}

/// A package that pip has to install before the program runs.
const WHEEL: &str = r#"
import os, zipfile

info = "greeting-1.0.dist-info/"
os.makedirs("wheels", exist_ok=True)
with zipfile.ZipFile("wheels/greeting-1.0-py3-none-any.whl", "w") as wheel:
    wheel.writestr("greeting.py", "WORD = 'Hello'\n")
    wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n")
    wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(info + "RECORD", "")
"#;
const TRAINER: &str = "\
import greeting, os, sys
print(greeting.WORD, os.environ['WHO'], os.getcwd(), sys.version_info[:2], sys.argv[1:])
";

/// `file`, `requirements`, `version`, `before_run`, `environment` and `working_dir`, all at once, with a real pip.
#[test]
fn a_python_file_runs_with_its_requirements() {
    let Some(env) = debian() else { return };
    env.write("src/make_wheel.py", WHEEL);
    env.write("src/train.py", TRAINER);
    env.write("src/requirements.txt", "--no-index\n--find-links ./wheels\ngreeting==1.0\n");
    let keys = "file: train.py\nrequirements: requirements.txt\nversion: 3.11\nworking_dir: src\n\
                environment:\n  - WHO=Ada\n  - CALLER\n";
    write(&env, &format!("{keys}before_run:\n  - python3 make_wheel.py\n  - echo before $CALLER"));
    let name = env.name();
    let mut command = env.command(["workflow", "run", "w", "--name", &name, "--", "--lr", "0 1"]);
    let output = finish(command.env("CALLER", "caller")).code(0).stdout;
    let (before, rest) = output.split_once('\n').unwrap();
    assert_eq!(before, "before caller");
    assert!(rest.contains("Successfully installed greeting-1.0\n"), "{rest}");
    assert!(rest.ends_with("Hello Ada /workflow/src (3, 11) ['--lr', '0 1']\n"), "{rest}");

    // Each of them is missed when it is not there.
    write(&env, keys.trim_end_matches("  - CALLER\n"));
    fs::remove_dir_all(env.work().join("src/wheels")).unwrap();
    let output = run(&env).1.code(1);
    assert!(output.stderr.contains("command 1 of 2, `python3.11 -m pip install -r requirements.txt`"), "{output:?}");
    write(&env, "file: train.py\nversion: 3.11\nworking_dir: src");
    let output = run(&env).1.code(1);
    assert!(format!("{output:?}").contains("No module named 'greeting'"), "{output:?}");
    write(&env, "file: train.py\nversion: 3.9\nworking_dir: src");
    let output = run(&env).1.code(127);
    assert!(output.stderr.contains("python3.9 train.py"), "{output:?}");
    env.assert_clean();
}

#[test]
fn before_run_ends_a_run_that_it_cannot_prepare() {
    let Some(env) = debian() else { return };
    write(&env, "before_run: ['exit 7']\ncommands: [echo never]");
    let output = run(&env).1.code(7);
    assert_eq!(output.stdout, "");
    assert!(output.stderr.contains("command 1 of 2, `exit 7`"), "{}", output.stderr);
    env.assert_clean();
}

#[test]
fn environment_and_env_are_the_same() {
    let Some(env) = debian() else { return };
    for key in ["environment", "env"] {
        write(
            &env,
            &format!("{key}:\n  - A=1\n  - B=x=y z\n  - EMPTY=\ncommands: ['echo \"$A|$B|${{EMPTY-unset}}\"']"),
        );
        assert_eq!(run(&env).1.text(), "1|x=y z|", "{key}");
    }
    env.assert_clean();
}

/// `resources.cpu`, `memory` and `shm_size`: as the container sees them, and as it feels them.
#[test]
fn cores_memory_and_shared_memory_are_limited() {
    let Some(env) = debian() else { return };
    let limits = "cg=/sys/fs/cgroup; if test -e $cg/cpu.max; then cat $cg/cpu.max $cg/memory.max; else \
                  echo $(cat $cg/cpu/cpu.cfs_quota_us $cg/cpu/cpu.cfs_period_us); cat $cg/memory/memory.limit_in_bytes; fi";
    write(
        &env,
        &format!(
            "resources: {{ cpu: 0.5, memory: \"96MiB\", shm_size: \"24MB\" }}\ncommands:\n  - {limits}\n  \
             - df -B1 --output=size /dev/shm | tail -n 1\n  \
             - '! dd if=/dev/zero of=/dev/shm/x bs=1M count=30 2>/dev/null'\n  - stat -c %s /dev/shm/x"
        ),
    );
    let output = run(&env).1.text();
    let lines: Vec<&str> = output.lines().map(str::trim).collect();
    let pages = 24_000_000_u64.div_ceil(4096) * 4096;
    let size: u64 = lines[2].parse().unwrap();
    assert_eq!(lines[..2], ["50000 100000", "100663296"]);
    assert!(size == pages || size == pages - 4096, "{size} bytes of /dev/shm");
    assert_eq!(lines[3], lines[2], "what is beyond it has no space");

    // A second of one processor takes two seconds and more; the quota of one period may be used before the clock is read.
    let spin = "import time; t = time.monotonic(); c = time.process_time()\\n\
                while time.process_time() < c + 1: pass\\nprint(time.monotonic() - t)";
    write(&env, &format!("resources: {{ cpu: 0.5 }}\ncommands: [\"python3 -c $'{spin}'\"]\nentrypoint: /bin/bash -c"));
    let seconds: f64 = run(&env).1.text().parse().unwrap();
    assert!(seconds > 1.7, "{seconds}");

    write(
        &env,
        "resources: { memory: 64MiB }\nartifacts: [out]\n\
         commands: ['echo begun > out/state', 'exec python3 -c \"x = b\\\"x\\\" * (300 << 20)\"']",
    );
    let (name, output) = run(&env);
    let told = output.code(137).stderr;
    assert!(told.contains("killed: out of memory (") && told.contains("limit 64 MiB"), "{told}");
    assert_eq!(env.record(&name)["exit"]["reason"], "oom_killed");
    assert_eq!(saved(&env, &name, "out/state"), "begun\n");
    env.assert_clean();
}

/// `artifacts`: with `mount` its files are there while the run goes on, without it when it ends.
#[test]
fn artifacts_are_saved_at_the_end_or_in_real_time() {
    let Some(env) = debian() else { return };
    write(
        &env,
        "artifacts:\n  - path: output\n  - path: checkpoints\n    mount: true\n  - path: model\n    mount: false\n\
         commands:\n  - echo 1 > checkpoints/1; echo early > output/x; install -m 751 /bin/true model/run; echo ready\n  \
         - until test -e stop; do sleep 0.02; done\n  - echo 2 > checkpoints/2; exit 3",
    );
    let name = env.name();
    let running = env.spawn(["workflow", "run", "w", "--name", &name]);
    running.wait_for("ready");
    let listed = || {
        let files = env.run(["artifacts", "ls", &name, "--format", "json"]).json();
        files.as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(listed(), ["checkpoints/1"]);
    assert_eq!(saved(&env, &name, "checkpoints/1"), "1\n");
    env.write("stop", "");
    running.finish().code(3);
    assert_eq!(listed(), ["checkpoints/1", "checkpoints/2", "model/run", "output/x"]);
    assert_eq!(saved(&env, &name, "output/x"), "early\n");
    env.run(["artifacts", "cp", &name, "all"]).code(0);
    let mode = fs::metadata(env.work().join("all/model/run")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o751);
    env.assert_clean();
}

/// Trains until it is told to stop, and leaves a checkpoint then.
const INTERRUPTED: &str = "\
import signal, sys, time

def stop(number, frame):
    open('checkpoints/last', 'w').write('step 7')
    sys.exit(0)

signal.signal(signal.SIGTERM, stop)
print('ready')
while True:
    time.sleep(0.05)
";

/// `resources.interruptible`: the machine is taken away, the checkpoint is not; without it the run is only stopped.
#[test]
fn an_interruptible_run_keeps_its_checkpoint() {
    let Some(env) = debian() else { return };
    env.write("train.py", INTERRUPTED);
    for (interruptible, code, state) in [(true, 143, "interrupted"), (false, 0, "stopped")] {
        write(
            &env,
            &format!(
                "file: train.py\nversion: 3.11\nartifacts: [checkpoints]\n\
                 resources:\n  interruptible: {interruptible}"
            ),
        );
        let name = env.name();
        let running = env.spawn(["workflow", "run", "w", "--name", &name]);
        running.wait_for("ready");
        assert!(wait_until(|| env.record(&name)["state"] == "running"));
        running.signal(Signal::SIGTERM);
        running.finish().code(code);
        assert_eq!(env.record(&name)["state"], state);
        assert_eq!(saved(&env, &name, "checkpoints/last"), "step 7");
    }
    env.assert_clean();
}
