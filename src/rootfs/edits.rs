//! What devices change in a root file system: directories, links, small files and places to mount upon.
//!
//! All of it is done beneath the root with links followed inside it, before anything is mounted there, and only in the
//! writable layer. What the image has in the way of a file or link of ours is replaced, never followed.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::RootfsError;
use super::path::ImagePath;
use super::prepare::{make_directory, new_directory};
use crate::sys::beneath::{Dir, FileKind};

/// Changes to a root file system, applied in the order of the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootEdits {
    /// Directories of ours, parents first: a link or file that the image has there is replaced by a real one.
    pub own_directories: Vec<PathBuf>,
    /// Places that a directory is mounted upon.
    pub mounted_directories: Vec<PathBuf>,
    /// Places that a file is mounted upon.
    pub mounted_files: Vec<PathBuf>,
    /// Files with their content.
    pub files: Vec<RootFile>,
    /// Symbolic links.
    pub links: Vec<RootLink>,
}

/// A file of a root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootFile {
    /// Absolute, in the container.
    pub path: PathBuf,
    /// What it holds.
    #[serde(with = "base64_text")]
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// A symbolic link of a root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootLink {
    /// Absolute, in the container.
    pub path: PathBuf,
    /// What it says.
    pub target: PathBuf,
}

/// File systems that the runtime mounts anew: what is done below them now would not be seen.
const MOUNTED_BY_RUNTIME: [&str; 3] = ["/dev", "/proc", "/sys"];
/// Mode of files that are mounted upon.
const PLACE_MODE: u32 = 0o644;

/// Makes the changes in the root file system at `root`.
///
/// # Errors
/// [`RootfsError::NotDirectory`] and [`RootfsError::InTheWay`] name what of the image stands where nothing can be done.
pub fn apply(root: &Path, edits: &RootEdits) -> Result<(), RootfsError> {
    let host = |source| RootfsError::Host { operation: "look into", path: root.to_owned(), source };
    let root = Dir::open(root).map_err(host)?;
    for path in reachable(&edits.own_directories) {
        own_directory(&root, path)?;
    }
    for path in reachable(&edits.mounted_directories) {
        make_directory(&root, text(path)?)?;
    }
    for path in reachable(&edits.mounted_files) {
        place(&root, path)?;
    }
    for RootFile { path, content, mode } in &edits.files {
        let (dir, name) = parent(&root, path)?;
        clear(&dir, name, path)?;
        write(&dir, name, content, *mode).map_err(|source| failed(path, source))?;
    }
    for RootLink { path, target } in &edits.links {
        let (dir, name) = parent(&root, path)?;
        clear(&dir, name, path)?;
        dir.make_symlink(name, target.as_os_str()).map_err(|source| failed(path, source))?;
    }
    Ok(())
}

fn reachable(paths: &[PathBuf]) -> impl Iterator<Item = &PathBuf> {
    paths.iter().filter(|path| !MOUNTED_BY_RUNTIME.iter().any(|mounted| path.starts_with(mounted)))
}

/// A real directory at `path`, whatever stands there.
fn own_directory(root: &Dir, path: &Path) -> Result<(), RootfsError> {
    let (dir, name) = parent(root, path)?;
    if dir.stat(name).map_err(|source| failed(path, source))?.is_some_and(|found| found.is_dir()) {
        return Ok(());
    }
    clear(&dir, name, path)?;
    new_directory(&dir, name).map_err(|source| failed(path, source))
}

/// A file that another can be mounted upon. A link is taken away: the runtime would follow it.
fn place(root: &Dir, path: &Path) -> Result<(), RootfsError> {
    let (dir, name) = parent(root, path)?;
    let found = dir.stat(name).map_err(|source| failed(path, source))?;
    if found.is_some_and(|found| found.kind == FileKind::Regular) {
        return Ok(());
    }
    clear(&dir, name, path)?;
    write(&dir, name, b"", PLACE_MODE).map_err(|source| failed(path, source))
}

/// The directory that `path` stands in, made when missing, links on the way followed inside the root; and its last component.
fn parent<'a>(root: &Dir, path: &'a Path) -> Result<(Dir, &'a OsStr), RootfsError> {
    let invalid = || failed(path, io::ErrorKind::InvalidInput.into());
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { return Err(invalid()) };
    ImagePath::parse(path.as_os_str().as_bytes())
        .map_err(|source| RootfsError::Name { path: path.display().to_string(), source })?;
    Ok((make_directory(root, text(above)?)?, name))
}

fn text(path: &Path) -> Result<&str, RootfsError> {
    path.to_str().ok_or_else(|| failed(path, io::ErrorKind::InvalidInput.into()))
}

/// Takes away what stands under `name`; a directory is the image's own and stays.
fn clear(dir: &Dir, name: &OsStr, path: &Path) -> Result<(), RootfsError> {
    match dir.stat(name).map_err(|source| failed(path, source))? {
        None => Ok(()),
        Some(found) if found.is_dir() => Err(RootfsError::InTheWay { path: path.to_owned() }),
        Some(_) => dir.remove_file(name).map_err(|source| failed(path, source)),
    }
}

fn write(dir: &Dir, name: &OsStr, content: &[u8], mode: u32) -> io::Result<()> {
    dir.create_file(name, mode)?.write_all(content)?;
    // The umask is ours, not the image's.
    dir.set_owner(name, 0, 0)?;
    dir.set_mode(name, mode)
}

fn failed(path: &Path, source: io::Error) -> RootfsError {
    RootfsError::Edit { path: path.to_owned(), source }
}

/// Content in JSON: base64.
mod base64_text {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn edits() -> RootEdits {
        RootEdits {
            own_directories: ["/usr/local/nvidia", "/usr/local/nvidia/lib64"].map(PathBuf::from).to_vec(),
            mounted_directories: ["/run/mps", "/proc/driver/nvidia"].map(PathBuf::from).to_vec(),
            mounted_files: [
                "/usr/local/nvidia/lib64/libcuda.so.1",
                "/usr/bin/nvidia-smi",
                "/lib/firmware/nvidia/g.bin",
            ]
            .map(PathBuf::from)
            .to_vec(),
            files: vec![RootFile { path: "/etc/ld.so.cache".into(), content: b"\x00cache".to_vec(), mode: 0o644 }],
            links: vec![RootLink { path: "/usr/local/nvidia/lib64/libcuda.so".into(), target: "libcuda.so.1".into() }],
        }
    }

    /// A root, and a directory outside of it that an image would like to reach.
    fn places() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        fs::create_dir(&root).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "kept").unwrap();
        (dir, root, outside)
    }

    fn assert_made(root: &Path) {
        assert!(fs::symlink_metadata(root.join("usr/local/nvidia/lib64")).unwrap().is_dir());
        assert_eq!(fs::read(root.join("etc/ld.so.cache")).unwrap(), b"\x00cache");
        let link = fs::read_link(root.join("usr/local/nvidia/lib64/libcuda.so")).unwrap();
        assert_eq!(link, Path::new("libcuda.so.1"));
        assert!(fs::symlink_metadata(root.join("usr/local/nvidia/lib64/libcuda.so.1")).unwrap().is_file());
        assert!(!root.join("proc/driver").exists(), "what is mounted over needs nothing");
    }

    #[test]
    fn an_empty_root_gets_all_of_it() {
        let (_dir, root, _) = places();
        apply(&root, &edits()).unwrap();
        assert_made(&root);
        for (path, mode) in [("usr/local/nvidia", 0o755), ("etc/ld.so.cache", 0o644), ("usr/bin/nvidia-smi", 0o644)] {
            let found = fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o7777;
            assert_eq!(found, mode, "{path}");
        }
        // Once more changes nothing.
        apply(&root, &edits()).unwrap();
        assert_made(&root);
    }

    #[test]
    fn a_hostile_image_reaches_nothing_outside() {
        let outside_names = |outside: &Path| {
            let mut names: Vec<_> = fs::read_dir(outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        for link in [
            "usr",
            "usr/local",
            "usr/local/nvidia",
            "usr/local/nvidia/lib64",
            "usr/local/nvidia/lib64/libcuda.so",
            "usr/local/nvidia/lib64/libcuda.so.1",
            "usr/bin",
            "usr/bin/nvidia-smi",
            "etc",
            "etc/ld.so.cache",
            "lib",
            "lib/firmware",
            "lib/firmware/nvidia/g.bin",
            "run/mps",
        ] {
            for target in ["absolute", "../../../../../../outside", "/proc/self/cwd", "/proc/1/root"] {
                let (_dir, root, outside) = places();
                let at = root.join(link);
                fs::create_dir_all(at.parent().unwrap()).unwrap();
                let target = if target == "absolute" { outside.clone() } else { PathBuf::from(target) };
                symlink(&target, &at).unwrap();
                // It may be refused, but nothing outside changes.
                drop(apply(&root, &edits()));
                assert_eq!(outside_names(&outside), ["kept"], "{link} -> {}", target.display());
                assert_eq!(fs::read(outside.join("kept")).unwrap(), b"kept");
            }
        }
    }

    #[test]
    fn links_and_odd_files_at_our_places_are_replaced() {
        let (_dir, root, outside) = places();
        for dir in ["usr/local", "usr/bin", "etc"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        symlink(&outside, root.join("usr/local/nvidia")).unwrap();
        symlink("/etc/passwd", root.join("etc/ld.so.cache")).unwrap();
        nix::unistd::mkfifo(&root.join("usr/bin/nvidia-smi"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        apply(&root, &edits()).unwrap();
        assert_made(&root);
        assert!(fs::symlink_metadata(root.join("usr/bin/nvidia-smi")).unwrap().is_file());
    }

    #[test]
    fn a_directory_of_the_image_is_not_taken_away() {
        let (_dir, root, _) = places();
        fs::create_dir_all(root.join("etc/ld.so.cache/x")).unwrap();
        let error = apply(&root, &edits()).unwrap_err();
        assert!(error.to_string().contains("`/etc/ld.so.cache`"), "{error}");
        assert!(root.join("etc/ld.so.cache/x").is_dir());
    }

    #[test]
    fn content_of_any_bytes_travels() {
        let json = serde_json::to_string(&edits()).unwrap();
        assert!(json.contains("AGNhY2hl"), "{json}");
        assert_eq!(serde_json::from_str::<RootEdits>(&json).unwrap(), edits());
    }
}
