//! Memory stays small whatever the size of a layer.

use dockless::image::{Digest, Reference, Silent};
use dockless::registry::Timeouts;

use super::{Puller, in_own_process, pattern_layer, variable};
use crate::support::registry::TestRegistry;

const TASK: &str = "DOCKLESS_TEST_TASK";
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
fn memory_stays_small_for_a_large_layer() {
    let registry = TestRegistry::start();
    let digest = registry.put_pattern(LARGE_BYTES);
    let task = format!("{} {digest}", registry.reference("app:1"));
    in_own_process("pull::memory::in_own_process_memory", &[(TASK, &task)]);
}

#[test]
#[ignore = "run by memory_stays_small_for_a_large_layer"]
fn in_own_process_memory() {
    let task = variable(TASK);
    let (reference, digest) = task.split_once(' ').unwrap();
    let (reference, digest): (Reference, Digest) = (reference.parse().unwrap(), digest.parse().unwrap());
    let puller = Puller::with(|settings, _| settings.timeouts = Timeouts::default());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let layer = pattern_layer(&digest, LARGE_BYTES);
    runtime.block_on(puller.registry.fetch_blob(&reference, &layer, &puller.store, &Silent)).unwrap();
    assert!(puller.store.has_blob(&layer));
    assert!(peak_kib() < MEMORY_BOUND_KIB, "peak memory is {} KiB", peak_kib());
}
