//! The real device: these tests run where NVIDIA's driver does, and say elsewhere that they do not.
//!
//! `scripts/gpu-test` runs them alone. Nothing of NVIDIA's but the driver is needed; where there is `nvcc`, a program that it
//! has compiled runs as well.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::base::empty;
use crate::gpu_images::{glibc_image, glibc_program};
use crate::support::env::{TestEnv, have, tool};
use crate::support::image::ImageBuilder;

/// Copies a number to the device and back through the driver's own interface.
const DRIVER_PROGRAM: &str = r#"
#include <dlfcn.h>
#include <stdio.h>
static void *library;
#define CALL(name, ...)                                                                                      \
    do {                                                                                                     \
        int (*function)() = (int (*)())dlsym(library, #name);                                                \
        int code = function ? function(__VA_ARGS__) : -1;                                                    \
        if (code) { fprintf(stderr, "%s: %d\n", #name, code); return 1; }                                    \
    } while (0)
int main(void)
{
    int count = 0, device = 0;
    void *context = 0;
    unsigned long long memory = 0;
    unsigned int there = 20261124, back = 0;
    library = dlopen("libcuda.so.1", RTLD_NOW);
    if (!library) { fprintf(stderr, "%s\n", dlerror()); return 2; }
    CALL(cuInit, 0);
    CALL(cuDeviceGetCount, &count);
    CALL(cuDeviceGet, &device, 0);
    CALL(cuCtxCreate_v2, &context, 0, device);
    CALL(cuMemAlloc_v2, &memory, (unsigned long)1 << 20);
    CALL(cuMemcpyHtoD_v2, memory, &there, (unsigned long)4);
    CALL(cuMemcpyDtoH_v2, &back, memory, (unsigned long)4);
    printf("%d %u\n", count, back);
    return 0;
}
"#;

/// Adds two vectors on the device, and tells how many sums are right.
const CUDA_PROGRAM: &str = r#"
#include <cstdio>
__global__ void add(const float *a, const float *b, float *c, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) c[i] = a[i] + b[i];
}
int main()
{
    const int n = 1 << 20;
    float *a, *b, *c;
    if (cudaMallocManaged(&a, n * 4) || cudaMallocManaged(&b, n * 4) || cudaMallocManaged(&c, n * 4)) return 1;
    for (int i = 0; i < n; i++) { a[i] = i; b[i] = 2 * i; }
    add<<<(n + 255) / 256, 256>>>(a, b, c, n);
    if (cudaError_t error = cudaDeviceSynchronize()) { printf("%s\n", cudaGetErrorString(error)); return 1; }
    int right = 0;
    for (int i = 0; i < n; i++) right += c[i] == 3.0f * i;
    printf("%d\n", right);
}
"#;

/// A place for a test with the image `app`; nothing, and a word about it, where there is no driver.
fn device() -> Option<TestEnv> {
    if !Path::new("/proc/driver/nvidia/version").exists() {
        // Not `skip`: CI has no GPU, and that is no fault of it.
        crate::support::env::say("skipped: no NVIDIA driver runs on this machine");
        return None;
    }
    let env = empty()?;
    let image = glibc_image().program("driver", glibc_program(DRIVER_PROGRAM));
    let image = with_cuda_program(image);
    env.store_image("app", &image.build());
    Some(env)
}

fn nvcc() -> Option<PathBuf> {
    let places = ["/usr/local/cuda/bin/nvcc", "/usr/bin/nvcc"];
    places.iter().map(PathBuf::from).find(|path| path.exists())
}

fn with_cuda_program(image: ImageBuilder) -> ImageBuilder {
    let Some(nvcc) = nvcc() else { return image };
    let dir = tempfile::tempdir().unwrap();
    let (source, binary) = (dir.path().join("add.cu"), dir.path().join("add"));
    fs::write(&source, CUDA_PROGRAM).unwrap();
    let name = nvcc.to_str().unwrap();
    // The static runtime, so that the image needs no CUDA; what C++ needs is linked in as well.
    let flags = ["-cudart=static", "-Xcompiler=-static-libgcc,-static-libstdc++", "-o"].map(OsStr::new);
    tool(name, flags.into_iter().chain([binary.as_os_str(), source.as_os_str()]));
    image.program("add", fs::read(binary).unwrap())
}

fn listed(env: &TestEnv) -> Vec<Value> {
    env.run(["gpu", "list", "--format", "json"]).json().as_array().unwrap().clone()
}

fn uuids(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| c.is_whitespace() || "()\",".contains(c));
    words.filter(|word| word.starts_with("GPU-")).map(str::to_owned).collect()
}

#[test]
fn gpu_device_is_listed_as_nvidia_smi_lists_it() {
    let Some(env) = device() else { return };
    let ours: BTreeSet<String> = listed(&env).iter().map(|gpu| gpu["uuid"].as_str().unwrap().to_owned()).collect();
    assert!(!ours.is_empty());
    if have(&["nvidia-smi"]) {
        assert_eq!(ours, uuids(&tool("nvidia-smi", ["-L"])));
        let memory = tool("nvidia-smi", ["--query-gpu=memory.total", "--format=csv,noheader,nounits"]);
        let theirs: Vec<u64> = memory.lines().map(|line| line.trim().parse::<u64>().unwrap() << 20).collect();
        let ours: Vec<u64> = listed(&env).iter().map(|gpu| gpu["memory_bytes"].as_u64().unwrap()).collect();
        assert_eq!(ours, theirs);
    }
    println!("{}", env.run(["gpu", "list"]).code(0).stdout);
    println!("{}", env.run(["gpu", "explain"]).code(0).stdout);
}

#[test]
fn gpu_device_is_seen_by_nvidia_smi_in_the_container() {
    let Some(env) = device() else { return };
    let all: BTreeSet<String> = listed(&env).iter().map(|gpu| gpu["uuid"].as_str().unwrap().to_owned()).collect();
    let output = env.container(&["--gpus", "all", "app", "nvidia-smi", "-L"]).code(0);
    assert_eq!(uuids(&output.stdout), all, "{}{}", output.stdout, output.stderr);
    // One of several is the only one that is seen.
    let one = all.iter().next().unwrap();
    let output = env.container(&["--gpus", &format!("device={one}"), "app", "nvidia-smi", "-L"]).code(0);
    assert_eq!(uuids(&output.stdout), BTreeSet::from([one.clone()]));
    env.assert_clean();
}

#[test]
fn gpu_device_computes_in_the_container() {
    let Some(env) = device() else { return };
    let output = env.container(&["--gpus", "1", "app", "/driver"]).code(0);
    assert_eq!(output.stdout, "1 20261124\n", "{}", output.stderr);
    // As another user, and with a root that cannot be written.
    let output = env.container(&["--gpus", "1", "--user", "app", "--read-only", "app", "/driver"]).code(0);
    assert_eq!(output.stdout, "1 20261124\n", "{}", output.stderr);
    if nvcc().is_some() {
        let output = env.container(&["--gpus", "1", "app", "/add"]).code(0);
        assert_eq!(output.stdout, format!("{}\n", 1 << 20), "{}", output.stderr);
    } else {
        crate::support::env::say("no nvcc: its program was left out");
    }
    env.assert_clean();
}

#[test]
fn gpu_device_is_not_there_unless_asked_for() {
    let Some(env) = device() else { return };
    let look = "ls /dev; ls /usr/local/nvidia; cat /dev/nvidia0; mknod /tmp/n c 195 0 && cat /tmp/n; echo end";
    for flags in [&[][..], &["--gpus", "none"], &["--gpus", "0"]] {
        let output = env.script(flags, look);
        assert!(output.stdout.ends_with("end\n") && !output.stdout.contains("nvidia"), "{}", output.stdout);
        assert!(!output.stderr.contains("/tmp/n: Input"), "the device was opened: {}", output.stderr);
    }
    env.assert_clean();
}

#[test]
fn gpu_device_belongs_to_one_run() {
    let Some(env) = device() else { return };
    let (holder, uuid) = (env.name(), listed(&env)[0]["uuid"].as_str().unwrap().to_owned());
    let request = format!("device={uuid}");
    let running = env.spawn(["run", "--name", &holder, "--gpus", &request, "app", "sh", "-c", "echo here; sleep 600"]);
    running.wait_for("here");
    let refused = env.container(&["--gpus", &request, "app", "true"]);
    refused.refused(125, &[holder.as_str(), &uuid]);
    assert!(env.run(["gpu", "list"]).code(0).stdout.contains(&holder));
    running.signal(Signal::SIGKILL);
    // The supervisor ends the run, and the GPU is free again.
    env.container(&["--gpus", &request, "app", "true"]);
    let waited = env.container(&["--gpus", &request, "--gpu-wait=60s", "app", "/driver"]).code(0);
    assert_eq!(waited.stdout, "1 20261124\n");
    env.run(["rm", &holder]);
    env.assert_clean();
}

#[test]
fn gpu_device_node_that_is_missing_is_made() {
    let Some(env) = device() else { return };
    let node = Path::new("/dev/nvidia-uvm");
    let before = fs::metadata(node).ok().filter(|node| node.file_type().is_char_device()).map(|node| node.rdev());
    if before.is_some() && fs::remove_file(node).is_err() {
        crate::support::env::say("skipped: /dev/nvidia-uvm cannot be removed here");
        return;
    }
    let output = env.container(&["--gpus", "1", "app", "/driver"]).code(0);
    assert_eq!(output.stdout, "1 20261124\n", "{}", output.stderr);
    let after = fs::metadata(node).unwrap();
    assert!(after.file_type().is_char_device());
    assert!(before.is_none_or(|before| before == after.rdev()));
    env.assert_clean();
}

#[test]
fn gpu_device_use_is_recorded() {
    let Some(env) = device() else { return };
    let name = env.name();
    let busy = "i=0; while [ $i -lt 5 ]; do /driver; sleep 0.5; i=$((i+1)); done";
    env.run(["run", "--name", &name, "--gpus", "1", "app", "sh", "-c", busy]).code(0);
    let record = env.record(&name);
    assert!(record["gpus"][0]["uuid"].as_str().unwrap().starts_with("GPU-"), "{record}");
    assert!(record["exit"]["gpus"][0]["memory_peak"].as_u64().unwrap() > 0, "{}", record["exit"]);
    env.run(["rm", &name]).code(0);
    env.assert_clean();
}
