//! `--device`, as docker's: `HOST[:CONTAINER[:ACCESS]]` for nodes of this machine, `vendor.com/class=name` for devices that a
//! file of the Container Device Interface describes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::cdi::{NameError, QualifiedName};
use super::node::{self, NodeProblem};
use crate::spec::Device;

/// Docker's default.
const ALL_ACCESS: &str = "rwm";
/// The most nodes that one directory gives.
const MAX_NODES: usize = 1024;
/// How deep a directory is looked into.
const MAX_DEPTH: usize = 8;
/// What is in `/dev` and no device: docker leaves these out of a directory too.
const NO_DEVICES: [&str; 6] = ["fd", "mqueue", "pts", "shm", "console", ".udev"];

/// One `--device`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceFlag {
    /// Described by a file.
    Cdi(QualifiedName),
    /// A node, or a directory of nodes.
    Host(HostDevice),
}

/// A node of this machine, or a directory of them, that a container is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDevice {
    source: PathBuf,
    destination: PathBuf,
    access: String,
}

/// Why a `--device` cannot be understood or done.
#[derive(Debug, thiserror::Error)]
pub enum DeviceFlagError {
    /// Neither path nor name.
    #[error(
        "`--device {}`: expected a path like `/dev/fuse[:/dev/fuse[:rwm]]`, or the name of a device like `vendor.com/class=name`",
        .0.escape_debug()
    )]
    Shape(String),
    /// A malformed name.
    #[error("`--device {}`", .text.escape_debug())]
    Name {
        /// The flag.
        text: String,
        /// What is wrong with it.
        #[source]
        source: NameError,
    },
    /// Permissions that there are not.
    #[error("`--device {}`: `{}` is no access, expected some of `r`, `w` and `m`", .text.escape_debug(), .access.escape_debug())]
    Access {
        /// The flag.
        text: String,
        /// Its third part.
        access: String,
    },
    /// Something else than a device, or nothing.
    #[error("`--device {}`", .text.escape_debug())]
    Node {
        /// The flag.
        text: String,
        /// What is wrong.
        #[source]
        source: NodeProblem,
    },
    /// A directory without nodes, or with too many.
    #[error("`--device {}`: {problem}", .path.display())]
    Directory {
        /// On this machine.
        path: PathBuf,
        /// In words.
        problem: String,
    },
}

/// Reads one `--device`. Nothing is looked at.
pub fn parse_device(text: &str) -> Result<DeviceFlag, DeviceFlagError> {
    if text.starts_with('/') {
        return host(text).map(DeviceFlag::Host);
    }
    let looks_like_name = text.split_once('=').is_some_and(|(kind, _)| kind.contains('/'));
    if !looks_like_name || text.starts_with('.') {
        return Err(DeviceFlagError::Shape(text.to_owned()));
    }
    let name = text.parse().map_err(|source| DeviceFlagError::Name { text: text.to_owned(), source })?;
    Ok(DeviceFlag::Cdi(name))
}

fn host(text: &str) -> Result<HostDevice, DeviceFlagError> {
    let is_access = |part: &str| !part.is_empty() && part.bytes().all(|byte| ALL_ACCESS.as_bytes().contains(&byte));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, destination, access) = match parts[..] {
        [source] => (source, source, ALL_ACCESS),
        [source, access] if is_access(access) => (source, source, access),
        [source, destination] => (source, destination, ALL_ACCESS),
        [source, destination, access] if is_access(access) => (source, destination, access),
        [_, _, access] => return Err(DeviceFlagError::Access { text: text.to_owned(), access: access.to_owned() }),
        _ => return Err(DeviceFlagError::Shape(text.to_owned())),
    };
    let error = |source| DeviceFlagError::Node { text: text.to_owned(), source };
    let place = |problem| error(NodeProblem::Place { path: source.to_owned(), problem });
    let source = node::plain_path(source).map_err(place)?;
    let destination = node::place(destination).map_err(error)?;
    let access = ALL_ACCESS.chars().filter(|letter| access.contains(*letter)).collect();
    Ok(HostDevice { source, destination, access })
}

impl HostDevice {
    /// On this machine.
    #[must_use]
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// In the container.
    #[must_use]
    pub fn destination(&self) -> &Path {
        &self.destination
    }

    /// Looks at this machine: the node, or all nodes below the directory, in the order of their names.
    pub fn nodes(&self) -> Result<Vec<Device>, DeviceFlagError> {
        if !self.source.is_dir() {
            let text = self.source.display().to_string();
            let error = |source| DeviceFlagError::Node { text, source };
            return Ok(vec![node::device(&self.source, &self.destination, &self.access).map_err(error)?]);
        }
        let mut nodes = Vec::new();
        self.walk(&self.source, &self.destination, MAX_DEPTH, &mut nodes)?;
        if nodes.is_empty() {
            return Err(self.directory("there is no device in this directory".to_owned()));
        }
        nodes.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(nodes)
    }

    fn directory(&self, problem: String) -> DeviceFlagError {
        DeviceFlagError::Directory { path: self.source.clone(), problem }
    }

    /// Links are left out: what they lead to is elsewhere.
    fn walk(&self, from: &Path, to: &Path, depth: usize, nodes: &mut Vec<Device>) -> Result<(), DeviceFlagError> {
        let unreadable = |error: io::Error| self.directory(format!("`{}` cannot be read: {error}", from.display()));
        for entry in fs::read_dir(from).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            // Nodes come and go while one looks.
            let Ok(metadata) = entry.metadata() else { continue };
            let destination = to.join(entry.file_name());
            if metadata.is_dir() {
                let no_devices = NO_DEVICES.iter().any(|name| entry.file_name() == *name);
                if depth > 0 && !no_devices {
                    self.walk(&entry.path(), &destination, depth - 1, nodes)?;
                }
                continue;
            }
            let free = destination.to_str().is_some_and(|text| node::place(text).is_ok());
            nodes.extend(node::of_metadata(&metadata, &destination, &self.access).filter(|_| free));
            if nodes.len() > MAX_NODES {
                return Err(self.directory(format!("there are more than {MAX_NODES} devices in this directory")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::spec::DeviceKind;
    use crate::words::describe;

    fn host(text: &str) -> HostDevice {
        let DeviceFlag::Host(host) = parse_device(text).unwrap() else { panic!("{text} is no path") };
        host
    }

    #[test]
    fn paths_are_read_as_dockers() {
        for (text, source, destination, access) in [
            ("/dev/fuse", "/dev/fuse", "/dev/fuse", "rwm"),
            ("/dev/fuse:/dev/mine", "/dev/fuse", "/dev/mine", "rwm"),
            ("/dev/fuse:r", "/dev/fuse", "/dev/fuse", "r"),
            ("/dev/fuse:/dev/mine:mr", "/dev/fuse", "/dev/mine", "rm"),
            ("/dev/null:/dev/mine:rw", "/dev/null", "/dev/mine", "rw"),
            ("/dev//dri/", "/dev/dri", "/dev/dri", "rwm"),
        ] {
            let host = host(text);
            let found = (host.source().to_str().unwrap(), host.destination().to_str().unwrap(), host.access.as_str());
            assert_eq!(found, (source, destination, access), "{text}");
        }
        let name = parse_device("nvidia.com/gpu=0:1").unwrap();
        assert_eq!(name, DeviceFlag::Cdi("nvidia.com/gpu=0:1".parse().unwrap()));
    }

    #[test]
    fn mistakes_are_told() {
        for (text, message) in [
            ("", "`--device `: expected a path like `/dev/fuse[:/dev/fuse[:rwm]]`, or the name of a device"),
            ("fuse", "expected a path like"),
            ("./fuse", "expected a path like"),
            ("../a=b/c=d", "expected a path like"),
            ("gpu=0", "expected a path like"),
            ("nvidia.com/gpu", "expected a path like"),
            ("nvidia.com/gpu=", "`--device nvidia.com/gpu=`: device name `` is malformed"),
            ("/dev/fuse:/dev/fuse:x", "`x` is no access, expected some of `r`, `w` and `m`"),
            ("/dev/fuse:/dev/fuse:", "`` is no access"),
            ("/dev/fuse:x", "`--device /dev/fuse:x`: `x` is not absolute"),
            ("/dev/fuse:/a:/b:rw", "expected a path like"),
            ("/dev/fuse:/a:rw:r", "expected a path like"),
            ("/dev/../etc:/dev/x", "`/dev/../etc` holds `..`"),
            ("/dev/fuse:/dev/null", "`/dev/null` belongs to the runtime"),
            ("/dev/fu\0se", "holds a NUL byte"),
        ] {
            let error = describe(&parse_device(text).unwrap_err());
            assert!(error.contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn nodes_and_directories_of_nodes() {
        let nodes = host("/dev/zero:/dev/mine:r").nodes().unwrap();
        assert_eq!((nodes.len(), nodes[0].kind, nodes[0].major, nodes[0].minor), (1, DeviceKind::Char, 1, 5));
        assert_eq!((nodes[0].path.to_str(), nodes[0].access.as_str()), (Some("/dev/mine"), "r"));
        // All that is in `/dev`, at another place: nothing of it is the runtime's there.
        let all = host("/dev:/dev/all").nodes().unwrap();
        assert!(all.iter().any(|node| node.path == Path::new("/dev/all/zero")), "{all:?}");
        assert!(all.iter().all(|node| !node.path.starts_with("/dev/all/pts")));
        assert!(all.is_sorted_by(|one, other| one.path < other.path));
        for (text, message) in [
            ("/dev/no-such-node", "there is no device `/dev/no-such-node`"),
            ("/etc/passwd:/dev/x", "`/etc/passwd` is a regular file, expected a device"),
        ] {
            let error = describe(&host(text).nodes().unwrap_err());
            assert!(error.contains(message), "{text}: {error}");
        }
        let empty = tempfile::tempdir().unwrap();
        fs::write(empty.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink("/dev/zero", empty.path().join("zero")).unwrap();
        let error = host(&format!("{}:/dev/x", empty.path().display())).nodes().unwrap_err();
        assert!(error.to_string().contains("there is no device in this directory"), "{error}");
    }

    proptest! {
        #[test]
        fn no_flag_leads_out(text in "/[a-z./:]{0,24}|[ -~]{0,24}") {
            if let Ok(DeviceFlag::Host(host)) = parse_device(&text) {
                for path in [host.source(), host.destination()] {
                    prop_assert!(path.is_absolute());
                    prop_assert!(path.components().all(|it| it != std::path::Component::ParentDir));
                }
                prop_assert!(host.destination() != Path::new("/dev"));
            }
        }
    }
}
