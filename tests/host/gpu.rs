//! Containers with the GPUs of a made-up driver: what they find, what they cannot do, and how it ends.
//!
//! The nodes of such a driver have the right numbers and cannot be opened for want of a driver behind them, which is enough:
//! whether they may be opened is decided before.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::base::{base_image, debian, empty};
use crate::gpu_images::{debian_probe_image, distroless_image, glibc_image, musl_image};
use crate::support::driver::{DriverTree, TreeBuilder};
use crate::support::env::{Output, TestEnv, cgroup_mounts, entries, have, wait_until};
use crate::support::image::{Entry, ImageBuilder};

/// Where the probe finds the driver's library.
const CUDA: &str = "/usr/local/nvidia/lib64/libcuda.so.570.86.10 12080";

/// A place for a test with this image as `app`.
fn with_image(image: &ImageBuilder) -> Option<TestEnv> {
    let env = empty()?;
    env.store_image("app", &image.clone().build());
    Some(env)
}

/// A command line for `run` in a container of `app`, with the driver of the tree.
fn words<'a>(tree: &'a DriverTree, flags: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
    [&["--driver-root", tree.root()], flags, &["app"], command].concat()
}

/// Runs it to its end.
#[track_caller]
fn run(env: &TestEnv, tree: &DriverTree, flags: &[&str], command: &[&str]) -> Output {
    env.container(&words(tree, flags, command))
}

#[track_caller]
fn script(env: &TestEnv, tree: &DriverTree, flags: &[&str], text: &str) -> Output {
    run(env, tree, flags, &["sh", "-c", text])
}

/// Every way in which a driver is installed, in an image with Debian's loader and its cache.
#[test]
fn gpu_every_driver_is_found_by_the_loader() {
    let Some(env) = with_image(&glibc_image()) else { return };
    let trees: [(&str, TreeBuilder); 9] = [
        ("debian", DriverTree::debian()),
        ("debian's alternatives", DriverTree::debian_current()),
        ("rhel", DriverTree::rhel()),
        ("/usr/local/nvidia", DriverTree::local()),
        ("no cache", DriverTree::debian().no_cache()),
        ("no cache, /usr/local/nvidia", DriverTree::local().no_cache()),
        ("manifest", DriverTree::debian().manifest()),
        ("beside another version", DriverTree::debian().beside("535.104.05")),
        ("little more than CUDA", DriverTree::debian().without("nvoptix").without("firmware").without("libnvidia-ngx")),
    ];
    for (name, tree) in trees {
        let tree = tree.build();
        let output = run(&env, &tree, &["--gpus", "all"], &["/probe"]);
        assert_eq!((output.code, output.stdout.trim()), (0, CUDA), "{name}: {}", output.stderr);
    }
    let tree = DriverTree::wsl().build();
    let output = run(&env, &tree, &["--gpus", "all"], &["/probe"]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(output.stdout.starts_with("/usr/"), "{}", output.stdout);
    // All its GPUs have one node.
    let described = env.run(["gpu", "cdi", "--format", "json", "--driver-root", tree.root()]).code(0).json();
    assert_eq!(described["devices"][0]["containerEdits"]["deviceNodes"][0]["path"], "/dev/dxg", "{described}");
    env.assert_clean();
}

/// Images with every kind of loader, or without a shell and ldconfig.
#[test]
fn gpu_every_loader_finds_the_driver() {
    let tree = DriverTree::debian().build();
    for (name, image) in [("glibc", glibc_image()), ("distroless", distroless_image()), ("musl", musl_image())] {
        let Some(env) = with_image(&image) else { return };
        for flags in [&["--gpus", "all"][..], &["--gpus", "all", "--read-only", "--user", "1000"]] {
            let found = run(&env, &tree, flags, &["/probe"]);
            let path = found.stdout.split(' ').next().unwrap_or_default();
            // musl knows a library by the path it was found at.
            let expected = path.starts_with("/usr/local/nvidia/lib64/libcuda.so.");
            assert!(found.code == 0 && expected, "{name} {flags:?}: {}{}", found.stdout, found.stderr);
            for library in ["libcuda.so", "libnvidia-ml.so.1"] {
                let symbol = if library == "libcuda.so" { "cuInit" } else { "nothing" };
                let other = run(&env, &tree, flags, &["/probe", library, symbol]);
                assert!(other.code == 0 || symbol == "nothing", "{name} {library}: {}", other.stderr);
            }
        }
        // Without GPUs there is nothing to find.
        assert_eq!(run(&env, &tree, &[], &["/probe"]).code, 3, "{name}");
        env.assert_clean();
    }
}

#[test]
fn gpu_a_real_debian_finds_the_driver() {
    if !have(&["debootstrap"]) {
        return;
    }
    let Some(env) = with_image(&debian_probe_image()) else { return };
    let tree = DriverTree::debian().build();
    assert_eq!(run(&env, &tree, &["--gpus", "1"], &["/probe"]).text(), CUDA);
    // The image's own ldconfig writes a new cache that still has the driver, and its programs still run.
    let text = "ldconfig && /probe && ldconfig -p | grep -c nvidia/lib64 && python3 -c 'import ctypes; \
                print(ctypes.CDLL(\"libcuda.so.1\").cuInit(0))'";
    let output = script(&env, &tree, &["--gpus", "1"], text).code(0);
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert!(lines[0].starts_with("/usr/local/nvidia/lib64/libcuda.so") && lines[2] == "0", "{}", output.stdout);
    assert!(lines[1].parse::<u32>().unwrap() > 3, "{}", output.stdout);
    env.assert_clean();
}

/// The page's example, on a machine that has the K80 and on one that has another GPU.
#[test]
fn gpu_the_example_of_the_page_runs_on_a_k80() {
    let Some(env) = debian() else { return };
    let page = "workflows:\n  - name: train\n    provider: docker\n    image: ubuntu\n    commands:\n      - mkdir -p output\n      \
                - echo 'Hello, world!' > output/hello.txt\n      - echo $DOCKLESS_GPUS_NUM\n    artifacts:\n      - path: output\n    \
                resources:\n      gpu:\n        name: \"K80\"\n        count: 1\n";
    env.write(".dstack/workflows.yaml", page);
    let tree = DriverTree::debian().version("470.256.02").gpus(&["K80", "K80"]).build();
    let name = env.name();
    let output = env.run(["workflow", "run", "train", "--name", &name, "--driver-root", tree.root()]).code(0);
    assert!(output.stdout.contains("\n1\n") || output.stdout.starts_with("1\n"), "{}", output.stdout);
    assert!(output.stderr.contains("saved artifacts: 1 file"), "{}", output.stderr);
    let record = env.record(&name);
    assert_eq!(record["gpus"][0]["model"], "Tesla K80");
    assert_eq!(record["gpus"][0]["uuid"], tree.uuids()[0].as_str());
    assert!(env.run(["ps", "-a"]).code(0).stdout.contains("Tesla K80"));

    let other = DriverTree::debian().gpus(&["H200", "T4"]).build();
    let refused = env.run(["workflow", "run", "train", "--driver-root", other.root()]);
    refused.refused(125, &["gpu: asked for 1 × K80", "NVIDIA H200", "Tesla T4", "--ignore-host-check"]);
    let output = env.run(["workflow", "run", "train", "--driver-root", other.root(), "--ignore-host-check"]).code(0);
    assert!(output.stdout.contains('0') && output.stderr.contains("K80"), "{output:?}");
    env.run(["workflow", "run", "train"]).refused(125, &["gpu: asked for 1 × K80", "no NVIDIA driver runs here"]);
    env.assert_clean();
}

fn device_rules(env: &TestEnv) -> Vec<String> {
    let v1 = cgroup_mounts().into_iter().find(|mount| mount.join("devices.list").exists());
    let Some(mount) = v1 else { return Vec::new() };
    let of_ours = env.cgroups().into_iter().find(|cgroup| cgroup.starts_with(&mount));
    let text = of_ours.and_then(|cgroup| fs::read_to_string(cgroup.join("devices.list")).ok()).unwrap_or_default();
    text.lines()
        .filter(|line| line.contains("195:") || line.contains("511:") || line.contains("226:"))
        .map(str::to_owned)
        .collect()
}

/// One of two GPUs: its nodes and no others, in the container and in the rules of its cgroup.
#[test]
fn gpu_a_container_has_the_devices_of_its_gpus_alone() {
    let Some(env) = with_image(&glibc_image()) else { return };
    let tree = DriverTree::debian().gpus(&["A100", "T4"]).build();
    let text = "ls -l /dev | grep nvidia | awk '{print $1, $5 $6, $NF}'; echo ready; read x";
    let name = env.name();
    let flags = ["-i", "--rm", "--name", name.as_str(), "--gpus", "device=0"];
    let mut command = env.command([&["run"], &words(&tree, &flags, &["sh", "-c", text])[..]].concat());
    command.stdin(std::process::Stdio::piped());
    let mut running = crate::support::env::Running::start(&mut command);
    running.wait_for("ready");
    let mut rules = device_rules(&env);
    rules.sort();
    drop(running.stdin());
    let output = running.finish();
    // The first GPU of the bus has the second minor.
    let expected = "crw-rw-rw- 511,0 nvidia-uvm\ncrw-rw-rw- 511,1 nvidia-uvm-tools\ncrw-rw-rw- 195,1 nvidia1\n\
                    crw-rw-rw- 195,255 nvidiactl\nready\n";
    assert_eq!(output.stdout, expected, "{}", output.stderr);
    if !rules.is_empty() {
        assert_eq!(rules, ["c 195:1 rw", "c 195:255 rw", "c 511:0 rw", "c 511:1 rw"]);
    }
    // What is given can be opened (and has no driver behind it), what is not cannot even be made.
    let text = "cat /dev/nvidia1; mknod /tmp/n c 195 0; mknod /tmp/m c 195 1; cat /tmp/n; true";
    let output = script(&env, &tree, &["--gpus", "device=0"], text).code(0);
    let errors = output.stderr;
    assert!(errors.contains("'/dev/nvidia1': No such device or address"), "{errors}");
    assert!(errors.contains("mknod: /tmp/n: Operation not permitted"), "{errors}");
    env.assert_clean();
}

/// `/proc/driver/nvidia` and the environment.
#[test]
fn gpu_a_container_is_told_of_its_gpus_alone() {
    let Some(env) = with_image(&glibc_image().env("NVIDIA_VISIBLE_DEVICES", "all")) else { return };
    let tree = DriverTree::debian().gpus(&["A100", "T4", "K80"]).build();
    let text = "cd /proc/driver/nvidia; ls gpus; grep Modify params; head -n 1 version; echo $NVIDIA_VISIBLE_DEVICES \
                $CUDA_DEVICE_ORDER; echo x >params; true";
    let output = script(&env, &tree, &["--gpus", "name=T4"], text).code(0);
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(lines[..2], [DriverTree::address(1).as_str(), "ModifyDeviceFiles: 0"], "{output:?}");
    assert!(lines[2].contains("570.86.10") && lines[3] == "void PCI_BUS_ID", "{}", output.stdout);
    assert!(output.stderr.contains("Read-only file system"), "{}", output.stderr);
    // What the image says of itself gives it nothing.
    let output =
        script(&env, &tree, &[], "ls /dev | grep -c nvidia; ls -d /usr/local/nvidia; echo $NVIDIA_VISIBLE_DEVICES");
    assert_eq!(output.stdout, "0\nall\n", "{}", output.stderr);
    env.assert_clean();
}

#[test]
fn gpu_capabilities_decide_what_of_the_driver_is_there() {
    let Some(env) = with_image(&glibc_image()) else { return };
    let tree = DriverTree::debian().build();
    let list = "cd /usr/local/nvidia; ls lib64 bin; true";
    let has = |flags: &[&str], name: &str| {
        let output = script(&env, &tree, &[&["--gpus", "1"], flags].concat(), list).code(0);
        output.stdout.lines().any(|line| line.starts_with(name))
    };
    for (flags, name, expected) in [
        (&[][..], "libcuda.so", true),
        (&[], "nvidia-smi", true),
        (&[], "libnvidia-eglcore", false),
        (&[], "libGL.so", false),
        (&["--gpu-capabilities", "all"], "libnvidia-eglcore", true),
        (&["--gpu-capabilities", "all"], "libGL.so", false),
        (&["--gpu-capabilities", "utility"], "nvidia-smi", true),
        (&["--gpu-capabilities", "utility"], "libcuda.so", false),
        (&["-e", "NVIDIA_DRIVER_CAPABILITIES=graphics"], "libnvidia-eglcore", true),
    ] {
        assert_eq!(has(flags, name), expected, "{flags:?} {name}");
    }
    run(&env, &tree, &["--gpus", "1", "--gpu-capabilities", "cuda"], &["true"]).refused(125, &["`cuda` is unknown"]);
    env.assert_clean();
}

#[test]
fn gpu_a_driver_that_does_not_fit_is_refused_before_the_image_is_fetched() {
    let Some(env) = with_image(&glibc_image()) else { return };
    let mismatch = DriverTree::debian().without("570.86.10").beside("535.104.05").build();
    env.run(["run", "--driver-root", mismatch.root(), "--gpus", "1", "nowhere.invalid/absent:1", "true"])
        .refused(125, &["driver/library version mismatch", "570.86.10", "535.104.05", "hint:"]);
    let without = DriverTree::debian().without("libcuda").build();
    run(&env, &without, &["--gpus", "1"], &["true"])
        .refused(125, &["`libcuda.so.570.86.10` of NVIDIA's driver", "hint:"]);
    let tree = DriverTree::debian().gpus(&["T4"]).build();
    for (request, words) in [
        ("2", &["2 ", "Tesla T4"][..]),
        ("name=H200", &["H200", "Tesla T4"]),
        ("memory=80GB", &["80 GB", "Tesla T4"]),
        ("device=3", &["`3`", "Tesla T4"]),
        ("device=GPU-ffff", &["GPU-ffff"]),
        ("many", &["`many`", "hint:"]),
    ] {
        let root = tree.root();
        let output = env.run(["run", "--driver-root", root, "--gpus", request, "nowhere.invalid/absent:1", "true"]);
        output.refused(125, words);
    }
    assert!(entries(&env.root().join("runs")).is_empty());
    env.assert_clean();
}

/// One run at a time; who waits gets it; who shares says so.
#[test]
fn gpu_belongs_to_one_run() {
    let Some(env) = with_image(&glibc_image()) else { return };
    let tree = DriverTree::debian().gpus(&["A100", "T4"]).build();
    let name = env.name();
    let flags = ["--name", name.as_str(), "--gpus", "name=A100"];
    let holder = env.spawn([&["run"], &words(&tree, &flags, &["sh", "-c", "echo here; sleep 600"])[..]].concat());
    holder.wait_for("here");
    run(&env, &tree, &["--gpus", "all"], &["true"]).refused(125, &[name.as_str(), "A100"]);
    run(&env, &tree, &["--gpus", "name=A100", "--gpus-shared"], &["true"]).refused(125, &[name.as_str()]);
    assert_eq!(run(&env, &tree, &["--gpus", "1"], &["/probe"]).code(0).stdout.trim(), CUDA, "the other one is free");
    let short = run(&env, &tree, &["--gpus", "name=A100", "--gpu-wait=1s"], &["true"]);
    short.refused(125, &["waited 1s", name.as_str()]);
    let waiter = env.name();
    let flags = ["--rm", "--name", waiter.as_str(), "--gpus", "name=A100", "--gpu-wait"];
    let waiting = env.spawn([&["run"], &words(&tree, &flags, &["/probe"])[..]].concat());
    assert!(wait_until(|| env.run(["ps"]).stdout.contains(&waiter)), "a run that waits is seen");
    let listed = env.run(["gpu", "list", "--driver-root", tree.root()]).code(0).stdout;
    assert!(listed.contains(&name) && !listed.contains(&waiter), "{listed}");
    // Its supervisor is killed: nobody gives the GPU back, and yet it is free.
    nix::sys::signal::kill(holder.supervisor(), Signal::SIGKILL).unwrap();
    let output = waiting.finish();
    assert_eq!((output.code, output.stdout.trim()), (0, CUDA), "{}", output.stderr);
    assert!(output.stderr.contains("waiting for GPUs"), "{}", output.stderr);
    holder.finish();
    env.run(["rm", &name]).code(0);

    let sharer = env.name();
    let flags = ["--name", sharer.as_str(), "--gpus", "name=T4", "--gpus-shared"];
    let sharing = env.spawn([&["run"], &words(&tree, &flags, &["sh", "-c", "echo here; sleep 600"])[..]].concat());
    sharing.wait_for("here");
    run(&env, &tree, &["--gpus", "name=T4", "--gpus-shared"], &["true"]).code(0);
    run(&env, &tree, &["--gpus", "name=T4"], &["true"]).refused(125, &[sharer.as_str()]);
    env.run(["stop", &sharer]).code(0);
    sharing.finish();
    env.run(["rm", &sharer]).code(0);
    env.assert_clean();
}

/// Eight GPUs of several models, asked for by many at once.
#[test]
fn gpu_many_runs_share_out_eight_gpus() {
    let Some(env) = with_image(&glibc_image()) else { return };
    let tree = DriverTree::debian().gpus(&["A100", "T4", "A100", "H200", "A100", "K80", "V100", "H100"]).build();
    let text = "ls /proc/driver/nvidia/gpus; echo ready; sleep 600";
    let start = |request: &str, count: usize| -> Vec<_> {
        let names: Vec<String> = (0..count).map(|_| env.name()).collect();
        names
            .into_iter()
            .map(|name| {
                let flags = ["--name", &name, "--gpus", request, "--gpu-wait=60s"];
                let words = [&["run", "-d"], &words(&tree, &flags, &["sh", "-c", text])[..]].concat();
                (env.spawn(words), name)
            })
            .collect()
    };
    let mut had = Vec::new();
    // Those that do not care would take what is asked for by name.
    let (pair, name) = start("name=A100,count=2", 1).remove(0);
    pair.finish().code(0);
    let mut started = vec![name];
    let others = start("1", 6);
    started.extend(others.into_iter().map(|(running, name)| {
        running.finish().code(0);
        name
    }));
    for name in started {
        assert!(wait_until(|| env.run(["logs", &name]).stdout.contains("ready")));
        let log = env.run(["logs", &name]).stdout;
        had.extend(log.lines().filter(|line| line.starts_with("0000:")).map(str::to_owned));
    }
    let count = had.len();
    had.sort();
    had.dedup();
    assert_eq!((count, had.len()), (8, 8), "each GPU is given once");
    run(&env, &tree, &["--gpus", "1"], &["true"]).refused(125, &["H100", "T4"]);
    let names = env.run(["ps", "-q"]).stdout;
    let names: Vec<&str> = names.lines().collect();
    env.run([&["stop", "--grace", "0s"][..], &names].concat()).code(0);
    run(&env, &tree, &["--gpus", "all"], &["true"]).code(0);
    env.run([&["rm"][..], &names].concat()).code(0);
    env.assert_clean();
}

/// What a batch system grants is all that there is.
#[test]
fn gpu_only_what_the_job_grants_is_used() {
    let Some(env) = with_image(&glibc_image()) else { return };
    let tree = DriverTree::debian().gpus(&["A100", "A100", "A100"]).build();
    let run = |variable: &str, value: &str, request: &str| {
        let flags = ["--rm", "--gpus", request];
        let mut command =
            env.command([&["run"], &words(&tree, &flags, &["sh", "-c", "ls /proc/driver/nvidia/gpus"])[..]].concat());
        crate::support::env::finish(command.env(variable, value))
    };
    let second = tree.uuids()[1].clone();
    let granted = run("CUDA_VISIBLE_DEVICES", &second, "all").code(0);
    assert_eq!(granted.stdout.trim(), DriverTree::address(1));
    run("CUDA_VISIBLE_DEVICES", &second, "2").refused(125, &["not granted"]);
    run("CUDA_VISIBLE_DEVICES", "", "1").refused(125, &["granted"]);
    env.assert_clean();
}

/// Images that would like to have our files elsewhere.
#[test]
fn gpu_hostile_images_change_nothing_outside() {
    let tree = DriverTree::debian().build();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("kept"), "kept").unwrap();
    let target = outside.path().to_str().unwrap();
    let up = format!("../../../../../..{target}");
    for link in [
        "usr/local/nvidia",
        "usr/local/nvidia/lib64",
        "etc/ld.so.conf.d",
        "etc/ld.so.cache",
        "lib/firmware",
        "usr/bin",
        "usr/local",
    ] {
        for target in [target, up.as_str(), "/proc/self/root", "/dev", "/proc/driver/nvidia"] {
            let mut image = base_image().dir("lib").dir("usr");
            for parent in Path::new(link).ancestors().skip(1).filter(|parent| *parent != Path::new("")) {
                image = image.dir(parent.to_str().unwrap());
            }
            let Some(env) = with_image(&image.entry(Entry::symlink(link, target))) else { return };
            let output = script(&env, &tree, &["--gpus", "1"], "ls -l /usr/local/nvidia/lib64/libcuda.so.1");
            let names: Vec<_> = entries(outside.path());
            assert_eq!(names, [outside.path().join("kept")], "{link} -> {target}: {}", output.stderr);
            assert_eq!(fs::read_to_string(outside.path().join("kept")).unwrap(), "kept");
            // What is ours is replaced; what is the image's own may keep it from working.
            let is_ours = link.starts_with("usr/local/nvidia") || link == "etc/ld.so.cache";
            assert!(output.code == 0 || !is_ours, "{link} -> {target}: {output:?}");
            env.assert_clean();
        }
    }
    // Nor has the driver itself changed.
    assert!(!tree.path().join("usr/lib/x86_64-linux-gnu/kept").exists());
}

/// The loader's environment of an image reaches nothing that we run.
#[test]
fn gpu_an_images_preload_is_its_own_affair() {
    let tree = DriverTree::debian().build();
    let image = glibc_image().env("LD_PRELOAD", "/evil.so").env("LD_LIBRARY_PATH", "/nowhere");
    let Some(env) = with_image(&image) else { return };
    let output = run(&env, &tree, &["--gpus", "1"], &["/probe"]);
    // The image's own program is told by its own loader, and still finds the driver.
    assert!(output.stderr.contains("/evil.so") && output.stdout.trim() == CUDA, "{output:?}");
    env.assert_clean();
}

#[test]
fn gpu_nodes_that_are_missing_are_made() {
    let Some(env) = with_image(&glibc_image()) else { return };
    let tree = DriverTree::debian().build();
    for name in ["nvidia-uvm", "nvidia-uvm-tools", "nvidia0"] {
        fs::remove_file(tree.path().join("dev").join(name)).unwrap();
    }
    assert_eq!(run(&env, &tree, &["--gpus", "1"], &["/probe"]).text(), CUDA);
    assert!(tree.path().join("dev/nvidia-uvm").exists() && tree.path().join("dev/nvidia0").exists());
    // The kernel gives out another number after a new load.
    tree.write("proc/devices", fs::read_to_string(tree.path().join("proc/devices")).unwrap().replace("511", "237"));
    let output = script(&env, &tree, &["--gpus", "1"], "ls -l /dev/nvidia-uvm");
    assert!(output.stdout.contains("237,"), "{output:?}");
    env.assert_clean();
}

/// A bundle for other runtimes has the driver too.
#[test]
fn gpu_a_bundle_runs_in_runc() {
    let Some(env) = with_image(&glibc_image()).filter(|_| have(&["runc"])) else { return };
    let tree = DriverTree::debian().build();
    let bundle = env.work().join("bundle");
    let place = bundle.to_str().unwrap();
    env.run(["bundle", "--driver-root", tree.root(), "--gpus", "all", "app", place, "/probe"]).code(0);
    let config: Value = serde_json::from_slice(&fs::read(bundle.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["linux"]["devices"].as_array().unwrap().len(), 4);
    let name = env.name();
    let output =
        crate::support::env::finish(&mut crate::support::env::program("runc", ["run", "--bundle", place, &name]));
    assert_eq!((output.code, output.stdout.trim()), (0, CUDA), "{}", output.stderr);
}

/// A node of this machine, and devices that a specification describes.
#[test]
fn gpu_devices_of_other_kinds() {
    let Some(env) = with_image(&glibc_image()) else { return };
    let look = ["sh", "-c", "ls -l /dev/own | cut -c1-10; echo x >/dev/own && echo written; true"];
    let output = env.container(&[&["--device", "/dev/full:/dev/own:r", "app"], &look[..]].concat());
    assert!(output.stdout.starts_with("crw-rw-rw-\n") && !output.stdout.contains("written"), "{output:?}");
    env.container(&["--device", "/dev/absent", "app", "true"]).refused(125, &["/dev/absent"]);
    env.container(&["--device", "vendor.example/x=0", "app", "true"]).refused(125, &["vendor.example/x"]);
    env.container(&["--gpu-wait", "app", "true"]).refused(125, &["`--gpus`", "hint: "]);
    env.assert_clean();
}

#[test]
fn gpu_files_of_the_driver_cannot_be_written() {
    let Some(env) = with_image(&glibc_image()) else { return };
    let tree = DriverTree::debian().build();
    let before = fs::read(tree.path().join("usr/lib/x86_64-linux-gnu/libcuda.so.1")).unwrap();
    let text = "cd /usr/local/nvidia/lib64; echo x >libcuda.so.570.86.10; rm -f libcuda.so.570.86.10; \
                mount -o remount,rw libcuda.so.570.86.10; /probe";
    let output = script(&env, &tree, &["--gpus", "1"], text);
    assert_eq!(output.stdout.trim(), CUDA, "{}", output.stderr);
    assert_eq!(fs::read(tree.path().join("usr/lib/x86_64-linux-gnu/libcuda.so.1")).unwrap(), before);
    // A link in the driver's root leads nowhere else.
    let secret = env.write("secret", "secret");
    let leading = DriverTree::debian().without("libnvidia-cfg").build();
    symlink(&secret, leading.path().join("usr/lib/x86_64-linux-gnu/libnvidia-cfg.so.570.86.10")).unwrap();
    let output = script(&env, &leading, &["--gpus", "1"], "cat /usr/local/nvidia/lib64/libnvidia-cfg* 2>&1; true");
    assert!(!output.stdout.contains("secret"), "{}", output.stdout);
    env.assert_clean();
}

/// What is not as the driver leaves it is told or passed over, and never waited for.
#[test]
fn gpu_odd_files_in_the_drivers_tree_hold_nobody_up() {
    let Some(env) = with_image(&glibc_image()) else { return };
    let fifo = |path: &Path| {
        drop(fs::remove_file(path));
        nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    };
    for (path, code) in [
        ("etc/ld.so.cache", 0),
        ("proc/driver/nvidia/params", 0),
        ("proc/devices", 125),
        ("proc/driver/nvidia/version", 125),
        ("usr/bin/nvidia-smi", 0),
    ] {
        let tree = DriverTree::debian().build();
        fifo(&tree.path().join(path));
        let output = run(&env, &tree, &["--gpus", "1"], &["/probe"]);
        assert_eq!(output.code, code, "{path}: {}", output.stderr);
    }
    // A library that an installer did not finish is told of.
    let tree = DriverTree::debian().build();
    let library = tree.path().join("usr/lib/x86_64-linux-gnu/libcuda.so.570.86.10");
    fs::File::options().write(true).open(library).unwrap().set_len(100).unwrap();
    let output = run(&env, &tree, &["--gpus", "1"], &["/probe"]).code(3);
    assert!(output.stderr.contains("libcuda.so.570.86.10` is damaged"), "{}", output.stderr);
    // More than any cache has, and more than there is memory for.
    let tree = DriverTree::debian().build();
    fs::File::create(tree.path().join("etc/ld.so.cache")).unwrap().set_len(1 << 40).unwrap();
    assert_eq!(run(&env, &tree, &["--gpus", "1"], &["/probe"]).code(0).stdout.trim(), CUDA);
    env.assert_clean();
}

/// One that was killed while it waited keeps nothing, not even a note for others to clear away.
#[test]
fn gpu_nothing_is_left_of_a_killed_waiter() {
    let Some(env) = with_image(&glibc_image()) else { return };
    let tree = DriverTree::debian().gpus(&["A100", "T4"]).build();
    // Named as seen from where commands are run.
    let leases = env.work().join("leases");
    let start = |name: &str, flags: &[&str]| {
        let flags = [&["--name", name][..], flags].concat();
        let words = words(&tree, &flags, &["sh", "-c", "echo here; sleep 600"]);
        let mut command = env.command([&["run"], &words[..]].concat());
        crate::support::env::Running::start(command.env("DOCKLESS_GPU_LEASES", "leases"))
    };
    let notes = || {
        let names = entries(&leases).into_iter().filter_map(|path| path.file_name()?.to_str().map(str::to_owned));
        names.filter(|name| name.starts_with("holder.")).count()
    };
    let (first, second) = (env.name(), env.name());
    let holder = start(&first, &["--gpus", "name=A100"]);
    holder.wait_for("here");
    let waiting = start(&second, &["--gpus", "all", "--gpu-wait"]);
    assert!(wait_until(|| notes() == 2), "it keeps the other one meanwhile");
    waiting.signal(Signal::SIGKILL);
    waiting.finish();
    let listed = crate::support::env::finish(env.command(["ps", "-a"]).env("DOCKLESS_GPU_LEASES", &leases)).code(0);
    assert!(listed.stdout.contains(&second) && notes() == 1, "{} {}", notes(), listed.stdout);
    env.run(["stop", "--grace", "0s", &first]).code(0);
    holder.finish();
    assert_eq!(notes(), 0);
    env.run(["rm", &first, &second]).code(0);
    env.assert_clean();
}

/// Who asks for a GPU and for its node, or twice for a node, has it once.
#[test]
fn gpu_a_node_that_is_asked_for_twice_is_there_once() {
    let Some(env) = with_image(&glibc_image()) else { return };
    let tree = DriverTree::debian().build();
    let node = format!("{}/dev/nvidia0:/dev/nvidia0:r", tree.root());
    let flags = ["--gpus", "all", "--device", &node, "--device", &node];
    let output = script(&env, &tree, &flags, "/probe && ls /dev | grep -c '^nvidia0$'").code(0);
    assert_eq!(output.stdout, format!("{CUDA}\n1\n"), "{}", output.stderr);
    env.assert_clean();
}
