//! What an end most likely means, where the code alone tells little.

use nix::sys::signal::Signal;

use crate::image::ByteSize;

/// The size of /dev/shm when none is asked for; docker's.
const DEFAULT_SHM_SIZE: ByteSize = ByteSize(64 << 20);

/// The likely cause of a bus error: a tmpfs that is full gives one to whoever writes to a mapping of it, as the workers of a
/// data loader do (`mmap(2)`, SIGBUS). `code` is what a shell would see, so that a workload counts which ran under one.
#[must_use]
pub fn shm_hint(code: i32, shm_size: Option<ByteSize>) -> Option<String> {
    (code == 128 + Signal::SIGBUS as i32).then(|| {
        let size = shm_size.unwrap_or(DEFAULT_SHM_SIZE);
        format!(
            "bus error; /dev/shm ({size}) may have been too small\nhint: `--shm-size`, or `resources.shm_size` in a workflow"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bus_error_is_explained() {
        let expected = "bus error; /dev/shm (64 MiB) may have been too small\n\
                        hint: `--shm-size`, or `resources.shm_size` in a workflow";
        assert_eq!(shm_hint(135, None).unwrap(), expected);
        assert!(shm_hint(135, Some(ByteSize(1 << 30))).unwrap().contains("(1 GiB)"));
        for code in [0, 1, 7, 134, 137, 139] {
            assert_eq!(shm_hint(code, None), None);
        }
    }
}
