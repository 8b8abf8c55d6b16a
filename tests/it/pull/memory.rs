//! Memory stays small whatever the size of a layer.

use dockless::image::{Digest, Reference, Silent};
use dockless::registry::Timeouts;

use super::{Puller, pattern_layer};
use crate::support::registry::TestRegistry;

const HELPER_VARIABLE: &str = "DOCKLESS_TEST_PULL_PATTERN";
const LARGE_BYTES: u64 = 300 << 20;
const MEMORY_BOUND_KIB: u64 = 64 << 10;

/// Peak resident memory of this process so far.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Pulls in a process of its own, so that the memory of the server and of other tests does not count.
#[test]
#[expect(clippy::disallowed_methods, reason = "the test starts itself anew and tells it what to do")]
fn memory_stays_small_for_a_large_layer() {
    let registry = TestRegistry::start();
    let digest = registry.put_pattern(LARGE_BYTES);
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "pull::memory::memory_helper", "--ignored", "--nocapture"])
        .env(HELPER_VARIABLE, format!("{} {digest}", registry.reference("app:1")))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed"), "{said}\n{}", String::from_utf8_lossy(&child.stderr));
}

#[test]
#[ignore = "run by memory_stays_small_for_a_large_layer in a process of its own"]
#[expect(clippy::disallowed_methods, reason = "it is told what to do by the test that starts it")]
fn memory_helper() {
    let task = std::env::var(HELPER_VARIABLE).unwrap();
    let (reference, digest) = task.split_once(' ').unwrap();
    let (reference, digest): (Reference, Digest) = (reference.parse().unwrap(), digest.parse().unwrap());
    let puller = Puller::with(|settings, _| settings.timeouts = Timeouts::default());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let before = peak_kib();
    let layer = pattern_layer(&digest, LARGE_BYTES);
    runtime.block_on(puller.registry.fetch_blob(&reference, &layer, &puller.store, &Silent)).unwrap();
    let grown = peak_kib() - before;
    assert!(puller.store.has_blob(&layer));
    println!("peak memory grew by {grown} KiB");
    assert!(peak_kib() < MEMORY_BOUND_KIB, "peak memory is {} KiB, it grew by {grown} KiB", peak_kib());
}
