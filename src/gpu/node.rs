//! Device nodes of this machine, looked at.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use crate::spec::{Device, DeviceKind};

/// Nodes and mounts that the runtime itself makes below `/dev`; a second one at the same place would fail.
const RUNTIMES_OWN: [&str; 15] = [
    "console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout",
    "tty", "zero",
];

/// Why something is no device node that a container can be given.
#[derive(Debug, thiserror::Error)]
pub enum NodeProblem {
    /// Nothing there, or it cannot be looked at.
    #[error("there is no device `{}`{}", .path.display(), reason(.source))]
    Missing {
        /// On this machine.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something else.
    #[error("`{}` is {found}, expected a device", .path.display())]
    NotADevice {
        /// On this machine.
        path: PathBuf,
        /// With an article.
        found: &'static str,
    },
    /// A place in the container where no node can be.
    #[error("`{}` {problem}", .path.escape_debug())]
    Place {
        /// In the container.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

fn reason(source: &io::Error) -> String {
    if source.kind() == io::ErrorKind::NotFound { String::new() } else { format!(": {source}") }
}

/// The node at `host` (links are followed: `/dev` is root's) as a container sees it at `path`.
pub(super) fn device(host: &Path, path: &Path, access: &str) -> Result<Device, NodeProblem> {
    let metadata = std::fs::metadata(host).map_err(|source| NodeProblem::Missing { path: host.to_owned(), source })?;
    of_metadata(&metadata, path, access)
        .ok_or_else(|| NodeProblem::NotADevice { path: host.to_owned(), found: words(&metadata) })
}

/// The same of what was looked at already; nothing if it is no device.
pub(super) fn of_metadata(metadata: &Metadata, path: &Path, access: &str) -> Option<Device> {
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => DeviceKind::Char,
        kind if kind.is_block_device() => DeviceKind::Block,
        _ => return None,
    };
    Some(Device {
        path: path.to_owned(),
        kind,
        major: rustix::fs::major(metadata.rdev()),
        minor: rustix::fs::minor(metadata.rdev()),
        mode: metadata.mode() & 0o777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        access: access.to_owned(),
    })
}

/// What something is, with an article.
pub(super) fn words(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_file() {
        "a regular file"
    } else {
        "a device"
    }
}

/// Checks where in a container a node is to be: an absolute path of plain names, not one that the runtime fills itself.
pub(super) fn place(text: &str) -> Result<PathBuf, NodeProblem> {
    let error = |problem| NodeProblem::Place { path: text.to_owned(), problem };
    let path = plain_path(text).map_err(error)?;
    let own = |name: &str| path.strip_prefix("/dev").is_ok_and(|below| below.starts_with(name));
    let urandom = path == Path::new("/dev/urandom");
    if path == Path::new("/dev") || urandom || RUNTIMES_OWN.into_iter().any(own) {
        return Err(error("belongs to the runtime, every container has it already"));
    }
    if path.starts_with("/proc") || path.starts_with("/sys") {
        return Err(error("is no place for a device"));
    }
    Ok(path)
}

/// An absolute path that says what it means: no `..`, nothing that drives a terminal, not the root.
pub(super) fn plain_path(text: &str) -> Result<PathBuf, &'static str> {
    let path = Path::new(text);
    if text.is_empty() {
        return Err("is empty");
    }
    if text.contains('\0') {
        return Err("holds a NUL byte");
    }
    if text.contains(char::is_control) {
        return Err("holds a control character");
    }
    if !path.is_absolute() {
        return Err("is not absolute");
    }
    if path.components().any(|component| component == Component::ParentDir) {
        return Err("holds `..`");
    }
    let clean: PathBuf = path.components().filter(|component| *component != Component::CurDir).collect();
    if clean == Path::new("/") { Err("is the root") } else { Ok(clean) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_read_from_the_machine() {
        let device = device(Path::new("/dev/zero"), Path::new("/dev/mine"), "rw").unwrap();
        assert_eq!((device.kind, device.major, device.minor), (DeviceKind::Char, 1, 5));
        assert_eq!((device.path.to_str(), device.access.as_str()), (Some("/dev/mine"), "rw"));
        for (path, message) in [
            ("/dev/nothing-here", "there is no device `/dev/nothing-here`"),
            ("/dev", "`/dev` is a directory, expected a device"),
            ("/proc/self/status", "`/proc/self/status` is a regular file, expected a device"),
            ("/proc/self/status/x", "there is no device `/proc/self/status/x`: Not a directory"),
        ] {
            let error = super::device(Path::new(path), Path::new("/dev/x"), "rw").unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }

    #[test]
    fn places_are_plain() {
        for (text, clean) in [
            ("/dev/nvidia0", "/dev/nvidia0"),
            ("/dev//dri/./card0/", "/dev/dri/card0"),
            ("/opt/x", "/opt/x"),
            ("/dev/nullb0", "/dev/nullb0"),
        ] {
            assert_eq!(place(text).unwrap(), Path::new(clean), "{text}");
        }
        for (text, message) in [
            ("", "is empty"),
            ("dev/x", "is not absolute"),
            ("/", "is the root"),
            ("/dev/../etc/shadow", "holds `..`"),
            ("/dev/a\0b", "`/dev/a\\0b` holds a NUL byte"),
            ("/dev/a\u{1b}[2J", "`/dev/a\\u{1b}[2J` holds a control character"),
            ("/dev", "belongs to the runtime"),
            ("/dev/null", "belongs to the runtime"),
            ("/dev/urandom", "belongs to the runtime"),
            ("/dev/pts/0", "belongs to the runtime"),
            ("/proc/x", "is no place"),
            ("/sys/x", "is no place"),
        ] {
            let error = place(text).unwrap_err().to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
    }
}
