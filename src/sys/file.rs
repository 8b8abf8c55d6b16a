//! Files that stand where something else may have been put: a FIFO without a writer makes open(2) wait for ever, and a file that is
//! sparse may be larger than memory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc;

/// Opens a regular file for reading; what is none is refused and not waited for.
///
/// # Errors
/// Those of open(2), and [`io::ErrorKind::InvalidInput`] for what is no regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::new(io::ErrorKind::InvalidInput, NOT_REGULAR)) }
}

/// Reads a regular file of at most `max_bytes`.
///
/// # Errors
/// Those of [`open_regular`] and of read(2), and [`io::ErrorKind::FileTooLarge`] for what is larger.
pub fn read_bounded(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        let found = format!("it has more than the {max_bytes} bytes that such a file may have");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, found));
    }
    Ok(bytes)
}

const NOT_REGULAR: &str = "it is not a regular file";

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (fifo, file) = (dir.path().join("fifo"), dir.path().join("file"));
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        std::fs::write(&file, "abc").unwrap();
        for path in [fifo.as_path(), dir.path()] {
            assert_eq!(open_regular(path).unwrap_err().kind(), ErrorKind::InvalidInput);
        }
        assert_eq!(read_bounded(&file, 3).unwrap(), b"abc");
        assert_eq!(read_bounded(&file, 2).unwrap_err().kind(), ErrorKind::FileTooLarge);
        File::create(&file).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(read_bounded(&file, 1 << 20).unwrap_err().kind(), ErrorKind::FileTooLarge);
    }
}
