//! Helpers of this module's tests: a small tar writer that can also write what no sane tool does.

use std::path::Path;

use crate::sys::beneath::Time;

/// One record of a PAX extended header.
pub(super) fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let body = key.len() + value.len() + 3;
    let mut length = body + 1;
    while body + length.to_string().len() != length {
        length += 1;
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

/// What an entry is like; see the constructors.
#[derive(Clone)]
pub(super) struct Item {
    pub name: Vec<u8>,
    pub flag: u8,
    pub link: Vec<u8>,
    pub content: Vec<u8>,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub modified: Time,
    pub device: (u32, u32),
    pub pax: Vec<(String, Vec<u8>)>,
    pub declared_size: Option<u64>,
}

impl Item {
    pub(super) fn new(name: impl AsRef<[u8]>, flag: u8) -> Self {
        Self {
            name: name.as_ref().to_vec(),
            flag,
            link: Vec::new(),
            content: Vec::new(),
            mode: if flag == b'5' { 0o755 } else { 0o644 },
            uid: 0,
            gid: 0,
            modified: Time { seconds: 1_000_000_000, nanoseconds: 0 },
            device: (0, 0),
            pax: Vec::new(),
            declared_size: None,
        }
    }

    pub(super) fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    pub(super) fn owner(mut self, uid: u64, gid: u64) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    pub(super) fn at(mut self, seconds: i64, nanoseconds: u32) -> Self {
        self.modified = Time { seconds, nanoseconds };
        self
    }

    pub(super) fn pax(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax.push((key.to_owned(), value.as_ref().to_vec()));
        self
    }

    pub(super) fn xattr(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax(&format!("SCHILY.xattr.{name}"), value)
    }
}

pub(super) fn file(name: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Item {
    Item { content: content.as_ref().to_vec(), ..Item::new(name, b'0') }
}

pub(super) fn dir(name: impl AsRef<[u8]>) -> Item {
    Item::new(name, b'5')
}

pub(super) fn symlink(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Item {
    Item { link: target.as_ref().to_vec(), ..Item::new(name, b'2').mode(0o777) }
}

pub(super) fn hardlink(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Item {
    Item { link: target.as_ref().to_vec(), ..Item::new(name, b'1') }
}

pub(super) fn device(name: impl AsRef<[u8]>, flag: u8, major: u32, minor: u32) -> Item {
    Item { device: (major, minor), ..Item::new(name, flag) }
}

pub(super) fn whiteout(name: &str) -> Item {
    file(name, "")
}

/// The archive of `items`, with its end marker.
pub(super) fn tar(items: &[Item]) -> Vec<u8> {
    let mut bytes: Vec<u8> = items.iter().flat_map(entry).collect();
    bytes.extend([0; 1024]);
    bytes
}

/// One entry with the extended headers it needs.
pub(super) fn entry(item: &Item) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut pax: Vec<u8> = item.pax.iter().flat_map(|(key, value)| pax_record(key, value)).collect();
    let time = item.modified;
    if time.seconds < 0 || time.nanoseconds != 0 {
        let whole = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds);
        let sign = if whole < 0 { "-" } else { "" };
        let text = format!("{sign}{}.{:09}", whole.abs() / 1_000_000_000, whole.abs() % 1_000_000_000);
        pax.extend(pax_record("mtime", text.as_bytes()));
    }
    if item.name.len() > 100 {
        pax.extend(pax_record("path", &item.name));
    }
    if item.link.len() > 100 {
        pax.extend(pax_record("linkpath", &item.link));
    }
    if !pax.is_empty() {
        bytes.extend(header(&Item::new("pax", b'x'), pax.len() as u64));
        bytes.extend(padded(&pax));
    }
    bytes.extend(header(item, item.declared_size.unwrap_or(item.content.len() as u64)));
    bytes.extend(padded(&item.content));
    bytes
}

fn padded(content: &[u8]) -> Vec<u8> {
    let mut bytes = content.to_vec();
    bytes.resize(content.len().next_multiple_of(512), 0);
    bytes
}

/// A ustar header of `item` with the given size of content.
pub(super) fn header(item: &Item, size: u64) -> [u8; 512] {
    let mut header = [0; 512];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &item.name[..item.name.len().min(100)]);
    put(100, format!("{:07o}", item.mode).as_bytes());
    put(108, &number(item.uid, 8));
    put(116, &number(item.gid, 8));
    put(124, &number(size, 12));
    put(136, &number(u64::try_from(item.modified.seconds).unwrap_or(0), 12));
    put(156, &[item.flag]);
    put(157, &item.link[..item.link.len().min(100)]);
    put(257, b"ustar\x0000");
    put(329, &number(u64::from(item.device.0), 8));
    put(337, &number(u64::from(item.device.1), 8));
    seal(&mut header);
    header
}

/// Writes the checksum of a header.
pub(super) fn seal(header: &mut [u8; 512]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Octal where it fits, GNU's base-256 otherwise.
fn number(value: u64, width: usize) -> Vec<u8> {
    let text = format!("{value:0width$o}", width = width - 1);
    if text.len() < width {
        return text.into_bytes();
    }
    let mut bytes = vec![0; width];
    let tail = value.to_be_bytes();
    let length = width.min(8);
    bytes[width - length..].copy_from_slice(&tail[8 - length..]);
    bytes[0] |= 0x80;
    bytes
}

/// Everything below `root` with all metadata, one line each, sorted: what two trees are compared by.
pub(super) fn listing(root: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;

    use crate::sys::beneath::Dir;
    let mut lines = Vec::new();
    let mut inodes: Vec<(u64, u64)> = Vec::new();
    let mut waiting = vec![root.to_path_buf()];
    while let Some(path) = waiting.pop() {
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        let shown = path.strip_prefix(root).unwrap().display().to_string();
        let what = if metadata.is_dir() {
            let mut children: Vec<_> = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
            children.sort();
            waiting.extend(children.into_iter().rev());
            "dir".to_owned()
        } else if metadata.is_file() {
            let hash = crate::image::Digest::sha256(&std::fs::read(&path).unwrap());
            format!("file {} {}", metadata.len(), hash.short())
        } else if metadata.is_symlink() {
            format!("-> {}", std::fs::read_link(&path).unwrap().display())
        } else {
            format!("node {:o} {:x}", metadata.mode() & 0o170_000, metadata.rdev())
        };
        let same = if metadata.is_dir() || metadata.nlink() == 1 {
            String::new()
        } else {
            let identity = (metadata.dev(), metadata.ino());
            let number = inodes.iter().position(|seen| *seen == identity).unwrap_or_else(|| {
                inodes.push(identity);
                inodes.len() - 1
            });
            format!(" inode {number}")
        };
        let (parent, name) = match path.file_name() {
            Some(name) if path != root => (path.parent().unwrap(), name.to_owned()),
            _ => (root, ".".into()),
        };
        let parent = Dir::open(parent).unwrap();
        let mut xattrs: Vec<String> = Vec::new();
        for attribute in parent.xattr_names(&name).unwrap() {
            let value = parent.xattr(&name, &attribute).unwrap().unwrap_or_default();
            xattrs.push(format!(" {}={value:?}", attribute.display()));
        }
        xattrs.sort();
        let time = format!("{}.{:09}", metadata.mtime(), metadata.mtime_nsec());
        lines.push(format!(
            "/{shown} {what} {:o} {}:{} {time}{same}{}",
            metadata.mode() & 0o7777,
            metadata.uid(),
            metadata.gid(),
            xattrs.concat()
        ));
    }
    lines.sort();
    lines
}

/// Whether tests that need root can run; says so when they cannot.
pub(super) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

/// Runs `body` in a thread with a mount namespace of its own, which goes with all its mounts when the thread ends.
pub(super) fn in_own_mounts(body: impl FnOnce() + Send) {
    use nix::sched::{CloneFlags, unshare};
    use rustix::mount::MountPropagationFlags;
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
                let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
                rustix::mount::mount_change("/", private).unwrap();
                body();
            })
            .join()
            .unwrap();
    });
}
