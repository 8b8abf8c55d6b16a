//! What a file system says of itself: free space, and whether other machines share it.

use std::io;
use std::path::Path;

/// Free space for ordinary users at `path`; [`u64::MAX`] where the file system has no size of its own (ramfs).
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let space = rustix::fs::statvfs(path)?;
    let is_counted = space.f_blocks > 0;
    Ok(if is_counted { space.f_bavail.saturating_mul(space.f_frsize) } else { u64::MAX })
}

/// Network and cluster file systems by the number that statfs(2) gives: `linux/magic.h` and the sources of those that
/// are not part of the kernel.
const NETWORK: [(u32, &str); 13] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x1983_0326, "BeeGFS"),
    (0x00c3_6400, "CephFS"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x7375_7245, "Coda"),
    (0xaad7_aaea, "PanFS"),
    (0x2003_0528, "OrangeFS"),
];

/// Whether `path` is on a file system in memory.
pub fn is_tmpfs(path: &Path) -> io::Result<bool> {
    const TMPFS_MAGIC: u32 = 0x0102_1994;
    Ok(kind_number(&rustix::fs::statfs(path)?) == TMPFS_MAGIC)
}

/// The name of the network file system that `path` is on, if it is on one.
pub fn network_file_system(path: &Path) -> io::Result<Option<&'static str>> {
    Ok(name_of(kind_number(&rustix::fs::statfs(path)?)))
}

/// The number that tells one kind of file system from others: a signed word on some machines, an unsigned one on others, of
/// which 32 bits mean something.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "see above")]
pub(super) const fn kind_number(found: &rustix::fs::StatFs) -> u32 {
    found.f_type as u32
}

fn name_of(number: u32) -> Option<&'static str> {
    NETWORK.iter().find(|(known, _)| *known == number).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_of_other_machines_have_names() {
        assert_eq!(
            (name_of(0x6969), name_of(0x0bd0_0bd0), name_of(0xff53_4d42)),
            (Some("NFS"), Some("Lustre"), Some("CIFS"))
        );
        // ext4, tmpfs, overlay.
        assert_eq!([0xef53, 0x0102_1994, 0x794c_7630].map(name_of), [None; 3]);
        assert_eq!(network_file_system(Path::new("/proc")).unwrap(), None);
    }

    #[test]
    fn space_is_what_there_is() {
        assert!(free_bytes(Path::new("/")).unwrap() > 0);
        // It has no size, as ramfs.
        assert_eq!(free_bytes(Path::new("/proc")).unwrap(), u64::MAX);
        assert!(free_bytes(Path::new("/nowhere")).is_err());
    }
}
