//! The kernel's log, which the driver writes its errors to as well; for when NVML does not watch.
//!
//! `/dev/kmsg` (kernel: Documentation/ABI/testing/dev-kmsg) gives one record a read: `6,339,5140900,-;NVRM: Xid (PCI:0000:41:00): 79,
//! …` and lines of it that begin with a space. The first number is `facility * 8 + level`. Facility 0 is the kernel's own: what
//! programs write to that file never gets it, so a container cannot make up an error. Control characters are escaped.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{OFlags, SeekFrom, makedev, seek};
use rustix::io::Errno;

use super::inventory::PciAddress;

/// More than the longest record; a shorter buffer makes the kernel refuse the read.
const BUFFER_BYTES: usize = 16 << 10;
/// Major and minor of `/dev/kmsg` (kernel: Documentation/admin-guide/devices.txt).
const KMSG: (u32, u32) = (1, 11);
/// Records that one call reads; what is left makes the file readable again.
const MAX_READS: usize = 1024;

/// An error that the driver wrote down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelXid {
    /// The GPU.
    pub pci: PciAddress,
    /// Id of the GPU instance that it concerns, where the driver says one (`GPU-I:05`).
    pub gpu_instance: Option<u32>,
    /// The number in NVIDIA's catalogue.
    pub number: u64,
}

/// The log from the moment of opening on.
#[derive(Debug)]
pub struct KernelLog {
    file: File,
    /// The start of a line whose end is not read yet.
    unread: Vec<u8>,
}

impl KernelLog {
    /// Opens `/dev/kmsg`, or a FIFO that stands for it. Users other than root seldom may.
    ///
    /// In containers `/dev/kmsg` often is `/dev/null`, which is readable at all times, or a terminal, whose input is not ours.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
        let file = File::options().read(true).custom_flags(flags).open(path)?;
        let metadata = file.metadata()?;
        let is_log = metadata.file_type().is_char_device() && metadata.rdev() == makedev(KMSG.0, KMSG.1);
        if !is_log && !metadata.file_type().is_fifo() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not the kernel's log"));
        }
        match seek(&file, SeekFrom::End(0)) {
            // A FIFO has no end to go to.
            Ok(_) | Err(Errno::SPIPE) => Ok(Self { file, unread: Vec::new() }),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Readable when there are records.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The errors since the last call, without waiting.
    pub fn read_events(&mut self) -> io::Result<Vec<KernelXid>> {
        let mut events = Vec::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        for _ in 0..MAX_READS {
            match self.file.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => self.take(&buffer[..count], &mut events),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Records were overwritten before they were read (EPIPE); the next read goes on behind the gap.
                Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(events)
    }

    fn take(&mut self, bytes: &[u8], events: &mut Vec<KernelXid>) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            // What has no end is no record of the kernel's; its rest is none either, having no number at its start.
            if self.unread.len() + piece.len() > BUFFER_BYTES {
                self.unread.clear();
            }
            self.unread.extend_from_slice(piece);
            if self.unread.ends_with(b"\n") {
                events.extend(parse(&String::from_utf8_lossy(&self.unread)));
                self.unread.clear();
            }
        }
    }
}

/// The error that a record tells of.
fn parse(record: &str) -> Option<KernelXid> {
    let (prefix, message) = record.split_once(';')?;
    let (priority, _) = prefix.split_once(',')?;
    if priority.parse::<u32>().ok()? >> 3 != 0 {
        return None;
    }
    // `NVRM: Xid (PCI:0000:41:00): 79, …`, with ` GPU-I:05` behind the address for MIG; older drivers have no `PCI:`.
    let (place, after) = message.strip_prefix("NVRM: Xid (")?.split_once("): ")?;
    let mut words = place.split_whitespace();
    let address = words.next()?;
    let pci = address.strip_prefix("PCI:").unwrap_or(address).parse().ok()?;
    let gpu_instance = words.find_map(|word| word.strip_prefix("GPU-I:")?.parse().ok());
    let digits = after.split(|c: char| !c.is_ascii_digit()).next()?;
    Some(KernelXid { pci, gpu_instance, number: digits.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn records_of_all_forms_are_read() {
        let read = |record| parse(record).map(|xid| (xid.pci.to_string(), xid.gpu_instance, xid.number));
        let at = |instance, number| Some(("0000:41:00.0".to_owned(), instance, number));
        for (record, expected) in [
            ("6,339,5140900,-;NVRM: Xid (PCI:0000:41:00): 79, pid=12, GPU has fallen off the bus.\n", at(None, 79)),
            ("4,1,2,-,caller=T7;NVRM: Xid (PCI:0000:41:00): 31, Ch 00000010\n", at(None, 31)),
            ("4,1,2,-;NVRM: Xid (PCI:0000:41:00 GPU-I:05): 13, pid=1, name=x\n", at(Some(5), 13)),
            ("4,1,2,-;NVRM: Xid (0000:41:00): 8, Channel 0000007e\n", at(None, 8)),
            ("4,1,2,-;NVRM: Xid (PCI:0000:41:00): 43\n", at(None, 43)),
            // Facility 1 is what a program wrote.
            ("12,1,2,-;NVRM: Xid (PCI:0000:41:00): 79, pid=1\n", None),
            ("6,1,2,-;comm NVRM: Xid (PCI:0000:41:00): 79, pid=1\n", None),
            ("6,1,2,-;NVRM: Xid (PCI:zz): 79\n", None),
            ("6,1,2,-;NVRM: Xid (PCI:0000:41:00): , pid=1\n", None),
            (" NVRM: Xid (PCI:0000:41:00): 79, pid=1\n", None),
            ("\n", None),
        ] {
            assert_eq!(read(record), expected, "{record}");
        }
    }

    #[test]
    fn the_kernels_own_log_is_read_from_now_on_without_waiting() {
        match KernelLog::open(Path::new("/dev/kmsg")) {
            // What was said long ago is not told, and to have nothing new is no error.
            Ok(mut log) => assert_eq!(log.read_events().unwrap(), []),
            Err(error) => {
                use io::ErrorKind::{InvalidInput, NotFound, PermissionDenied};
                assert!(matches!(error.kind(), PermissionDenied | NotFound | InvalidInput), "{error}");
            }
        }
    }

    /// They are readable at all times, and whoever polls them never sleeps.
    #[test]
    fn what_stands_for_the_log_in_containers_is_not_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for path in [Path::new("/dev/null"), Path::new("/dev/zero"), file.path(), Path::new("/")] {
            assert!(KernelLog::open(path).is_err(), "{}", path.display());
        }
    }

    #[test]
    fn a_fifo_is_read_without_waiting_and_over_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kmsg");
        mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
        let mut log = KernelLog::open(&path).unwrap();
        assert_eq!(log.read_events().unwrap(), []);
        let mut writer = File::options().write(true).open(&path).unwrap();
        let numbers = |log: &mut KernelLog| -> Vec<u64> {
            log.read_events().unwrap().into_iter().map(|xid| xid.number).collect()
        };
        assert!(numbers(&mut log).is_empty());
        write!(writer, "6,1,2,-;NVRM: Xid (PCI:0000:41:00): 13, a\n DEVICE=+pci\n6,2,3,-;other\n6,3,4,-;NVRM: Xi")
            .unwrap();
        assert_eq!(numbers(&mut log), [13]);
        writeln!(writer, "d (PCI:0000:41:00): 79, b").unwrap();
        assert_eq!(numbers(&mut log), [79]);
        // A line without end is not kept, and what comes after it is read.
        for _ in 0..4 {
            writer.write_all(&[b'x'; BUFFER_BYTES]).unwrap();
            assert!(numbers(&mut log).is_empty() && log.unread.len() <= BUFFER_BYTES);
        }
        write!(writer, "\n6,1,2,-;NVRM: Xid (PCI:0000:41:00): 31, c\n").unwrap();
        assert_eq!(numbers(&mut log), [31]);
        drop(writer);
        assert!(numbers(&mut log).is_empty());
    }
}
