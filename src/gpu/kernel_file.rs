//! Small files of the kernel, and what stands in their place in a driver's root of its own.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc;

/// The most that is read where nothing else is said.
pub(super) const MAX_BYTES: u64 = 64 << 10;

/// The first `limit` bytes of a file as text; `None` when it is not there. A named pipe is not waited for.
pub(super) fn read(path: &Path, limit: u64) -> io::Result<Option<String>> {
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
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}
