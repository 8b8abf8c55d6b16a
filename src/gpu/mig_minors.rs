//! Minors of the nodes in `/dev/nvidia-caps` that let a MIG device be used.
//!
//! `/proc/driver/nvidia-caps/mig-minors` has a line for each, whether its instance exists or not:
//! `gpu0/gi7/access 66`, `gpu0/gi7/ci0/access 67`; GPUs are counted by the minors of their nodes. The same numbers stand in
//! `/proc/driver/nvidia/capabilities/gpu0/mig/gi7[/ci0]/access` as `DeviceFileMinor: 66`, for what exists.

use std::path::Path;

use super::inventory::Gpu;
use super::small_file::{MAX_BYTES, read};

/// Thousands of lines: 32 GPUs of 15 instances, each with 8 within.
const MAX_LIST_BYTES: u64 = 1 << 20;

/// Fills in those of a GPU's MIG devices.
pub(super) fn complete(proc: &Path, gpu: &mut Gpu) {
    let Some(minor) = gpu.minor.filter(|_| !gpu.mig.is_empty()) else { return };
    let list = read(&proc.join("driver/nvidia-caps/mig-minors"), MAX_LIST_BYTES).ok().flatten();
    let list = list.unwrap_or_default();
    for part in &mut gpu.mig {
        let ids = &mut part.minors;
        let instance = format!("gi{}", ids.gpu_instance);
        let inner = format!("{instance}/ci{}", ids.compute_instance);
        let find = |instance: &str| {
            in_list(&list, &format!("gpu{minor}/{instance}/access")).or_else(|| {
                in_capability(&proc.join(format!("driver/nvidia/capabilities/gpu{minor}/mig/{instance}/access")))
            })
        };
        ids.gpu_instance_minor = find(&instance);
        ids.compute_instance_minor = find(&inner);
    }
}

fn in_list(list: &str, name: &str) -> Option<u32> {
    list.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

fn in_capability(path: &Path) -> Option<u32> {
    let text = read(path, MAX_BYTES).ok().flatten()?;
    text.lines().find_map(|line| line.strip_prefix("DeviceFileMinor:")?.trim().parse().ok())
}
