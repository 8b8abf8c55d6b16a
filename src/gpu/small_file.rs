//! Small files of the kernel and the driver, read whole; in a driver's root of its own anything may stand in their place.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc;

/// The most that is read where nothing else is said.
pub(super) const MAX_BYTES: u64 = 64 << 10;

/// The first `limit` bytes of a file as text; `None` when it is not there.
pub(super) fn read(path: &Path, limit: u64) -> io::Result<Option<String>> {
    Ok(read_bytes(path, limit)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// The same as it is. A named pipe is not waited for.
pub(super) fn read_bytes(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}
