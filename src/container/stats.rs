//! What a container uses at the moment: counters of both cgroup versions (kernel documentation, cgroup-v1/memory.rst,
//! cgroup-v1/blkio-controller.rst; cgroup-v2.rst).

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::cgroup::{Cgroup, read_key, read_number};
use crate::image::ByteSize;

/// One look at a container; counters count from its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    /// Time on processors.
    pub cpu: Duration,
    /// Memory that it could not do without: what the kernel may drop at any time does not count, as with docker.
    pub memory: u64,
    /// Most that it may have; `None` without a limit.
    pub memory_limit: Option<ByteSize>,
    /// Bytes read from disks.
    pub block_read: u64,
    /// Bytes written to disks.
    pub block_written: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Bytes received and sent, where it has a network of its own.
    pub network: Option<(u64, u64)>,
    /// Bytes used in `/dev/shm`, and its size.
    pub shm: Option<(u64, u64)>,
}

impl Cgroup {
    /// Looks at it; `None` when nothing runs in it any more. `init` is the number of a process that is probably still in it.
    #[must_use]
    pub fn sample(&self, init: i32) -> Option<Sample> {
        let pids = self.pids();
        if pids.is_empty() {
            return None;
        }
        let mut sample = match self.unified_dir() {
            Some(dir) => of_v2(&dir),
            None => self.of_v1(),
        };
        sample.cpu = self.usage().cpu.unwrap_or_default();
        sample.pids = sample.pids.max(u64::try_from(pids.len()).unwrap_or(0));
        if let Some(process) = self.open_process(init) {
            sample.network = process.network();
            sample.shm = process.shm().ok();
        }
        Some(sample)
    }

    fn of_v1(&self) -> Sample {
        let dir = |controller| self.v1_dir(controller).unwrap_or_default();
        let (memory, blkio) = (dir("memory"), dir("blkio"));
        let used = read_number(&memory.join("memory.usage_in_bytes")).unwrap_or(0);
        let droppable = read_key(&memory.join("memory.stat"), "total_inactive_file").unwrap_or(0);
        let read = |name: &str| fs::read_to_string(blkio.join(name)).ok();
        let blocks =
            read("blkio.throttle.io_service_bytes_recursive").or_else(|| read("blkio.throttle.io_service_bytes"));
        let (block_read, block_written) = v1_blocks(&blocks.unwrap_or_default());
        Sample {
            memory: used.saturating_sub(droppable),
            memory_limit: limit(&memory.join("memory.limit_in_bytes")),
            block_read,
            block_written,
            pids: read_number(&dir("pids").join("pids.current")).unwrap_or(0),
            ..Sample::default()
        }
    }
}

fn of_v2(dir: &Path) -> Sample {
    let used = read_number(&dir.join("memory.current")).unwrap_or(0);
    let droppable = read_key(&dir.join("memory.stat"), "inactive_file").unwrap_or(0);
    let (block_read, block_written) = v2_blocks(&fs::read_to_string(dir.join("io.stat")).unwrap_or_default());
    Sample {
        memory: used.saturating_sub(droppable),
        memory_limit: limit(&dir.join("memory.max")),
        block_read,
        block_written,
        pids: read_number(&dir.join("pids.current")).unwrap_or(0),
        ..Sample::default()
    }
}

/// v1 without a limit has the largest number of whole pages there.
fn limit(path: &Path) -> Option<ByteSize> {
    const NONE: u64 = 1 << 62;
    read_number(path).filter(|bytes| *bytes < NONE).map(ByteSize)
}

/// Lines of `8:0 Read 4096`.
fn v1_blocks(text: &str) -> (u64, u64) {
    let sum = |kind: &str| {
        let of_kind = text.lines().filter_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            (words.next()? == kind).then(|| words.next()?.parse::<u64>().ok()).flatten()
        });
        of_kind.fold(0_u64, u64::saturating_add)
    };
    (sum("Read"), sum("Write"))
}

/// Lines of `8:0 rbytes=4096 wbytes=0 rios=1 …`.
fn v2_blocks(text: &str) -> (u64, u64) {
    let sum = |key: &str| {
        let words = text.split_whitespace().filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok());
        words.fold(0_u64, u64::saturating_add)
    };
    (sum("rbytes="), sum("wbytes="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_summed() {
        let v1 = "8:0 Read 4096\n8:0 Write 100\n8:0 Sync 9\n8:16 Read 4\nTotal 4209\n";
        assert_eq!(v1_blocks(v1), (4100, 100));
        let v2 = "8:0 rbytes=4096 wbytes=100 rios=1 wios=1 dbytes=0 dios=0\n8:16 rbytes=4 wbytes=0\n";
        assert_eq!(v2_blocks(v2), (4100, 100));
        assert_eq!((v1_blocks("x\n\n"), v2_blocks("rbytes=x")), ((0, 0), (0, 0)));
    }

    #[test]
    fn memory_is_what_cannot_be_dropped() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("memory.current", "1000\n"),
            ("memory.stat", "anon 5\ninactive_file 300\nactive_file 7\n"),
            ("memory.max", "max\n"),
            ("pids.current", "3\n"),
        ] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let sample = of_v2(dir.path());
        assert_eq!((sample.memory, sample.memory_limit, sample.pids), (700, None, 3));
        fs::write(dir.path().join("memory.max"), "9223372036854771712\n").unwrap();
        assert_eq!(of_v2(dir.path()).memory_limit, None);
        fs::write(dir.path().join("memory.max"), "4096\n").unwrap();
        assert_eq!(of_v2(dir.path()).memory_limit, Some(ByteSize(4096)));
    }
}
