//! What an end most likely means, where the code alone tells little.

use nix::sys::signal::Signal;

use crate::image::ByteSize;

/// The size of /dev/shm when none is asked for; docker's.
const DEFAULT_SHM_SIZE: ByteSize = ByteSize(64 << 20);
/// What may be left of a file system that has run full: whoever wanted more than that got nothing.
const NEARLY_FULL_DIVISOR: u64 = 20;

/// The likely cause of a bus error: a tmpfs that is full gives one to whoever writes to a mapping of it, as the workers of a
/// data loader do (`mmap(2)`, SIGBUS). `code` is what a shell would see, so that a workload counts which ran under one;
/// `peak` is the most that was seen in it.
#[must_use]
pub fn shm_hint(code: i32, shm_size: Option<ByteSize>, peak: Option<ByteSize>) -> Option<String> {
    (code == 128 + Signal::SIGBUS as i32).then(|| {
        let size = shm_size.unwrap_or(DEFAULT_SHM_SIZE);
        let was_full = peak.is_some_and(|peak| peak.0 >= size.0 - size.0 / NEARLY_FULL_DIVISOR);
        let what = if was_full { "was full" } else { "may have been too small" };
        format!("bus error; /dev/shm ({size}) {what}\nhint: `--shm-size`, or `resources.shm_size` in a workflow")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bus_error_is_explained() {
        let expected = "bus error; /dev/shm (64 MiB) may have been too small\n\
                        hint: `--shm-size`, or `resources.shm_size` in a workflow";
        assert_eq!(shm_hint(135, None, None).unwrap(), expected);
        assert!(shm_hint(135, Some(ByteSize(1 << 30)), Some(ByteSize(1))).unwrap().contains("(1 GiB) may have been"));
        assert!(shm_hint(135, None, Some(DEFAULT_SHM_SIZE)).unwrap().contains("(64 MiB) was full"));
        for code in [0, 1, 7, 134, 137, 139] {
            assert_eq!(shm_hint(code, None, Some(DEFAULT_SHM_SIZE)), None);
        }
    }
}
