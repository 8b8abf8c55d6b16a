//! What is seen of GPUs while a run goes on, and said at its end. NVML is a library made for the test, loaded as the real one is.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;

use crate::base::{app, empty};
use crate::gpu_images::glibc_image;
use crate::support::driver::DriverTree;
use crate::support::env::{Output, Running, TestEnv, wait_until};

/// Starts a run that ends with `code` when the file `end` is made in the project directory of the test.
fn start(env: &TestEnv, tree: &DriverTree, name: &str, gpus: &str, code: u32) -> Running {
    let project = env.work().to_str().unwrap().to_owned();
    let volume = format!("{project}:/end:ro");
    let script = format!("echo here; while ! [ -e /end/end ]; do sleep 0.05; done; exit {code}");
    let flags = ["run", "--name", name, "--driver-root", tree.root(), "--gpus", gpus, "-v", &volume];
    let running = env.spawn([&flags[..], &["app", "sh", "-c", &script]].concat());
    running.wait_for("here");
    running
}

fn end(env: &TestEnv, running: Running) -> Output {
    fs::write(env.work().join("end"), "").unwrap();
    running.finish()
}

#[test]
fn gpu_use_is_in_the_record() {
    let Some(env) = app() else { return };
    let tree = DriverTree::debian().gpus(&["A100", "T4"]).nvml().build();
    tree.set_utilisation(0, 35, 1024);
    let name = env.name();
    let running = start(&env, &tree, &name, "name=A100", 0);
    sleep(Duration::from_millis(1500));
    tree.set_utilisation(0, 90, 20_000);
    sleep(Duration::from_millis(2500));
    let list = env.run(["gpu", "list", "--driver-root", tree.root(), "--format", "json"]).json();
    assert_eq!(
        (&list[0]["compute_percent"], &list[0]["holders"][0]["run"]),
        (&Value::from(90), &Value::from(name.as_str()))
    );
    assert_eq!(
        (list[0]["memory_bytes"].as_u64(), list[1]["holders"].as_array().unwrap().len()),
        (Some(40960 << 20), 0)
    );
    end(&env, running).code(0);
    let exit = env.record(&name)["exit"].clone();
    assert_eq!(exit["gpus"].as_array().unwrap().len(), 1, "{exit}");
    let gpu = &exit["gpus"][0];
    assert_eq!(
        (gpu["uuid"].as_str(), gpu["memory_peak"].as_u64()),
        (Some(tree.uuids()[0].as_str()), Some(20_000 << 20))
    );
    let mean = gpu["compute_percent_mean"].as_f64().unwrap();
    assert!(gpu["compute_percent_max"] == 90 && (35.0..90.0).contains(&mean), "{gpu}");
    env.run(["rm", &name]).code(0);
    env.assert_clean();
}

#[test]
fn gpu_that_is_lost_is_the_reason_of_the_end() {
    let Some(env) = app() else { return };
    for (code, reason) in [(9, "gpu_lost"), (0, "exited")] {
        drop(fs::remove_file(env.work().join("end")));
        let tree = DriverTree::debian().gpus(&["A100"]).nvml().build();
        let name = env.name();
        let running = start(&env, &tree, &name, "all", code);
        tree.raise_xid(0, 31);
        sleep(Duration::from_millis(2500));
        tree.lose(0);
        sleep(Duration::from_millis(2500));
        let output = end(&env, running).code(i32::try_from(code).unwrap());
        assert!(output.stderr.contains("Xid 31: ") && output.stderr.contains("cannot be reached"), "{}", output.stderr);
        let exit = env.record(&name)["exit"].clone();
        assert_eq!(exit["reason"], reason, "{exit} {}", output.stderr);
        let message = exit["message"].as_str().unwrap();
        assert!(message.starts_with("a GPU was lost: NVIDIA A100") && message.contains(&tree.uuids()[0]), "{message}");
        env.run(["rm", &name]).code(0);
    }
    env.assert_clean();
}

/// Without NVML the kernel's log tells; what is not the kernel's own word counts for nothing.
#[test]
fn gpu_loss_is_read_in_the_kernels_log() {
    let Some(env) = app() else { return };
    let tree = DriverTree::debian().gpus(&["A100", "T4"]).build();
    let log = tree.path().join("dev/kmsg");
    mkfifo(&log, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    // Held open, so that the reader never sees an end.
    let mut log = OpenOptions::new().read(true).write(true).open(&log).unwrap();
    let name = env.name();
    let running = start(&env, &tree, &name, "device=0", 1);
    let record = |prefix: &str, gpu: usize| {
        let address = DriverTree::address(gpu);
        let address = address.trim_end_matches(".0");
        format!("{prefix};NVRM: Xid (PCI:{address}): 79, pid=1, GPU has fallen off the bus.\n")
    };
    log.write_all(record("12,1,100,-", 0).as_bytes()).unwrap();
    log.write_all(record("4,2,200,-", 1).as_bytes()).unwrap();
    sleep(Duration::from_millis(300));
    log.write_all(record("4,3,300,-", 0).as_bytes()).unwrap();
    sleep(Duration::from_millis(500));
    let output = end(&env, running).code(1);
    assert_eq!(output.stderr.matches("Xid 79").count(), 2, "once at once, once at the end: {}", output.stderr);
    assert_eq!(env.record(&name)["exit"]["reason"], "gpu_lost");
    env.run(["rm", &name]).code(0);
    env.assert_clean();
}

/// In containers `/dev/kmsg` often is `/dev/null`, which always has something to read.
#[test]
fn gpu_supervisor_sleeps_where_there_is_no_kernels_log() {
    let Some(env) = app() else { return };
    let tree = DriverTree::debian().gpus(&["A100"]).build();
    std::os::unix::fs::symlink("/dev/null", tree.path().join("dev/kmsg")).unwrap();
    let name = env.name();
    let running = start(&env, &tree, &name, "all", 0);
    let ticks = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", running.supervisor())).unwrap();
        let numbers = stat.rsplit(") ").next().unwrap().split(' ').skip(11).take(2);
        numbers.map(|number| number.parse::<u64>().unwrap()).sum::<u64>()
    };
    let before = ticks();
    sleep(Duration::from_secs(2));
    assert!(ticks() - before < 50, "{} hundredths of a second in two", ticks() - before);
    end(&env, running).code(0);
    env.run(["rm", &name]).code(0);
    env.assert_clean();
}

/// A library that hangs or crashes harms neither the run nor its supervisor.
#[test]
fn gpu_run_survives_a_broken_nvml() {
    let Some(env) = empty() else { return };
    env.store_image("app", &glibc_image().build());
    for break_it in [DriverTree::hang_nvml as fn(&DriverTree), DriverTree::crash_nvml] {
        let tree = DriverTree::debian().gpus(&["A100"]).nvml().build();
        drop(fs::remove_file(env.work().join("end")));
        let name = env.name();
        let running = start(&env, &tree, &name, "all", 0);
        break_it(&tree);
        sleep(Duration::from_millis(1500));
        end(&env, running).code(0);
        assert_eq!(env.record(&name)["exit"]["reason"], "exited");
        env.run(["rm", &name]).code(0);
    }
    assert!(wait_until(|| env.run(["ps", "-q"]).stdout.is_empty()));
    env.assert_clean();
}

#[test]
fn gpu_parts_are_given_one_by_one() {
    let Some(env) = app() else { return };
    let tree = DriverTree::debian().gpus(&["H100"]).mig(0, &["1g.10gb", "3g.40gb"]).nvml().build();
    let (name, uuid) = (env.name(), tree.mig_uuid(0, 1));
    let text = "ls /dev/nvidia-caps; cd /proc/driver/nvidia; find capabilities -name access | sort; echo $CUDA_VISIBLE_DEVICES";
    let words =
        ["run", "--name", &name, "--driver-root", tree.root(), "--gpus", "mig=3g.40gb", "app", "sh", "-c", text];
    let output = env.run(words).code(0);
    let expected = format!(
        "nvidia-cap5\nnvidia-cap6\ncapabilities/gpu0/mig/gi8/access\ncapabilities/gpu0/mig/gi8/ci0/access\n{uuid}\n"
    );
    assert_eq!(output.stdout, expected, "{}", output.stderr);
    assert_eq!(env.record(&name)["gpus"][0]["uuid"], uuid.as_str());
    let listed = env.run(["gpu", "list", "--driver-root", tree.root()]).code(0).stdout;
    assert!(listed.contains("part 1g.10gb") && listed.contains(&uuid) && listed.contains("0:1"), "{listed}");
    env.run(["run", "--rm", "--driver-root", tree.root(), "--gpus", "mig=7g.80gb", "app", "true"])
        .refused(125, &["7g.80gb", "3g.40gb"]);
    env.run(["rm", &name]).code(0);
    env.assert_clean();
}
