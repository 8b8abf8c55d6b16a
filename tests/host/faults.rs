//! Faults while artifacts are saved, and secrets in every disguise: nothing is lost, nothing leaks.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};

use crate::base::app;
use crate::support::env::{TestEnv, finish_with, tool, wait_until};

/// A small file system on a directory of the test, gone with this value.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// With a limit of tmpfs: `size=20m`, `nr_inodes=500`.
    pub(crate) fn on(path: PathBuf, limit: &str) -> Self {
        fs::create_dir_all(&path).unwrap();
        tool("mount", ["-t", "tmpfs", "-o", limit, "none", path.to_str().unwrap()]);
        Self(path)
    }

    pub(crate) fn grow(&self, limit: &str) {
        tool("mount", ["-o", &format!("remount,{limit}"), self.0.to_str().unwrap()]);
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        tool("umount", ["-l", self.0.to_str().unwrap()]);
    }
}

fn write(env: &TestEnv, workflows: &str) {
    env.write(".dstack/workflows.yaml", workflows);
}

const BIG: &str = "workflows: [{ name: big, image: app, artifacts: [out], \
                   commands: ['dd if=/dev/zero of=out/data bs=1M count=8 2>/dev/null', echo kept > out/word] }]";

#[test]
fn a_full_artifact_disk_loses_nothing() {
    let Some(env) = app() else { return };
    write(&env, BIG);
    let name = env.name();
    {
        let disk = SmallDisk::on(env.work().join("disk"), "size=4m");
        let output =
            env.run(["workflow", "run", "big", "--name", &name, "-t", "v1", "--artifact-store", "disk"]).code(0);
        for words in ["artifacts were not saved: no space", "needed", &format!("dockless artifacts save {name}")] {
            assert!(output.stderr.contains(words), "`{words}` is not in: {}", output.stderr);
        }
        assert!(output.stderr.contains("the tag `v1` was not set"), "{}", output.stderr);
        env.run(["artifacts", "ls", &name, "--format", "json"]);
        assert!(env.root().join("runs").join(&name).join("artifacts/files/out/data").exists());
        // It is still full.
        env.run(["artifacts", "save", &name]).refused(125, &["no space"]);
        env.run(["prune", "runs", "-f"]).code(0);
        disk.grow("size=64m");
        env.run(["artifacts", "save", &name, "--artifact-owner", "me"]).refused(125, &["`me`", "`UID`"]);
        env.run(["artifacts", "save", &name, "--artifact-owner", "1234:56"]).code(0);
        env.run(["artifacts", "cp", &name, "saved"]).code(0);
        let word = fs::metadata(env.work().join("saved/out/word")).unwrap();
        assert_eq!((word.uid(), word.gid()), (1234, 56));
        assert_eq!(fs::read_to_string(env.work().join("saved/out/word")).unwrap(), "kept\n");
        assert_eq!(fs::metadata(env.work().join("saved/out/data")).unwrap().len(), 8 << 20);
    }
    // Supervisors of tests beside this one may still have the small disk in their mount namespaces.
}

/// The artifacts are copied to another file system when their saver is killed, again and again.
#[test]
fn a_save_that_is_killed_is_finished_later() {
    let Some(env) = app() else { return };
    let _disk = SmallDisk::on(env.work().join("disk"), "size=256m");
    write(
        &env,
        "workflows: [{ name: many, image: app, artifacts: [out], \
         commands: ['cd out; i=0; while test $i -lt 3000; do echo $i > f$i; i=$((i+1)); done; echo ready'] }]",
    );
    for round in 0..4 {
        let name = env.name();
        let run = env.spawn(["workflow", "run", "many", "--name", &name, "--artifact-store", "disk"]);
        let supervisor = run.supervisor();
        assert!(wait_until(|| env.record(&name)["state"] == "saving" || env.record(&name)["state"] == "done"));
        std::thread::sleep(std::time::Duration::from_millis(round * 7));
        // It may have ended by now.
        let _ = kill(supervisor, Signal::SIGKILL);
        run.finish();
        env.run(["ps", "-a"]).code(0);
        let listed = env.run(["artifacts", "ls", &name, "--format", "json"]).json();
        assert_eq!(listed.as_array().unwrap().len(), 3000, "all or nothing");
        assert_eq!(env.record(&name)["exit"]["exit_code"], 0);
    }
}

#[test]
fn two_runs_that_set_one_tag_both_end_well() {
    let Some(env) = app() else { return };
    write(&env, "workflows: [{ name: w, image: app, artifacts: [out], commands: [echo $RUN_NAME > out/who] }]");
    for _ in 0..5 {
        let names = [env.name(), env.name()];
        let start = |name: &String| env.spawn(["workflow", "run", "w", "--name", name, "-t", "same"]);
        let runs: Vec<_> = names.iter().map(start).collect();
        for run in runs {
            run.finish().code(0);
        }
        let tags = env.run(["tags", "list", "--format", "json"]).json();
        let tagged = tags[0]["run"].as_str().unwrap().to_owned();
        assert!(names.contains(&tagged), "{tags}");
        env.run(["artifacts", "cp", ":same", &tagged]).code(0);
        assert_eq!(fs::read_to_string(env.work().join(&tagged).join("out/who")).unwrap().trim(), tagged);
        for name in &names {
            assert_eq!(env.record(name)["state"], "done");
        }
    }
    env.assert_clean();
}

const SECRET: &str = "-----BEGIN KEY-----\nfirst-line-of-it\n\nsecond line, of 'it'\n-----END KEY-----";

#[test]
fn a_secret_of_several_lines_is_seen_nowhere() {
    let Some(env) = app() else { return };
    finish_with(&mut env.command(["secrets", "add", "KEY"]), SECRET.as_bytes()).code(0);
    write(
        &env,
        "workflows:
  - name: leak
    image: app
    env: ['KEY=${{ secrets.KEY }}', 'IN=a ${{ secrets.KEY }} b']
    commands:
      - echo \"$KEY\"; echo \"$KEY\" >&2
      - for part in 'first-' 'line' '-of-it'; do printf %s \"$part\"; usleep 100000; done; echo
      - printf %s \"$KEY\" | base64
      - printf %s \"$KEY\" | sha256sum
      - echo \"$IN\" | head -n 1
      - echo \"${{ secrets.KEY }}\" && false
",
    );
    let name = env.name();
    let output = env.run(["workflow", "run", "leak", "--name", &name]).code(1);
    let sum = tool("sh", ["-c", "printf %s \"$1\" | sha256sum", "sh", SECRET]);
    assert!(output.stdout.contains(sum.split(' ').next().unwrap()), "it is whole inside: {}", output.stdout);
    assert!(output.stdout.contains("****"), "{}", output.stdout);
    let mut told = vec![output.stdout, output.stderr];
    for arguments in
        [&["logs", &name][..], &["inspect", &name], &["ps", "-a"], &["workflow", "show", "leak"], &["secrets", "list"]]
    {
        let output = env.run(arguments.iter().copied()).code(0);
        told.extend([output.stdout, output.stderr]);
    }
    told.extend(files_below(&env.root().join("runs")));
    for text in &told {
        for part in ["first-line-of-it", "second line", "BEGIN KEY", "Zmlyc3QtbGluZS"] {
            assert!(!text.contains(part), "`{part}` is in: {text}");
        }
    }
    let kept = env.root().join("secrets/KEY");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&fs::metadata(kept).unwrap().permissions()) & 0o7777, 0o600);
    env.assert_clean();
}

fn files_below(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for path in crate::support::env::entries(dir) {
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned());
        }
    }
    found
}

/// A tree is moved, not copied, when it stays on its file system.
#[test]
fn a_hundred_thousand_files_are_saved_by_one_rename() {
    let Some(env) = app() else { return };
    write(
        &env,
        "workflows: [{ name: many, image: app, artifacts: [out], \
         commands: ['cd out; for d in $(seq 100); do mkdir $d; (cd $d; touch $(seq 1000)); done; \
         dd if=/dev/zero of=big bs=1M count=0 seek=20480 2>/dev/null; ls -i big'] }]",
    );
    let name = env.name();
    let start = std::time::Instant::now();
    let output = env.run(["workflow", "run", "many", "--name", &name]).code(0);
    assert!(output.stderr.contains("saved artifacts: 100001 files"), "{}", output.stderr);
    let big = env.root().join("artifacts").join(&name).join("saved/files/out/big");
    let inode = fs::metadata(big).unwrap().ino();
    assert!(output.stdout.contains(&format!("{inode} big")), "{} is not {inode}", output.stdout);

    println!("whole run: {:?}", start.elapsed());
    env.run(["rm", &name]).code(0);
    env.assert_clean();
}
