//! Helpers of this module's tests and of the fuzz targets: a small tar writer that can also write what no sane tool does.

use std::path::Path;

use crate::sys::beneath::Time;

/// One record of a PAX extended header.
pub(crate) fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let body = key.len() + value.len() + 3;
    let mut length = body + 1;
    while body + length.to_string().len() != length {
        length += 1;
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

/// What an entry is like; see the constructors.
#[derive(Clone)]
pub(crate) struct Item {
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

impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { mode, uid, gid, modified, .. } = self;
        write!(f, "{} {:?}", char::from(self.flag), self.name.escape_ascii().to_string())?;
        if !self.link.is_empty() {
            write!(f, " to {}", self.link.escape_ascii())?;
        }
        write!(f, " {mode:o} {uid}:{gid} {}.{}", modified.seconds, modified.nanoseconds)
    }
}

impl Item {
    pub(crate) fn new(name: impl AsRef<[u8]>, flag: u8) -> Self {
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

    pub(crate) fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    pub(crate) fn owner(mut self, uid: u64, gid: u64) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    pub(crate) fn at(mut self, seconds: i64, nanoseconds: u32) -> Self {
        self.modified = Time { seconds, nanoseconds };
        self
    }

    pub(crate) fn pax(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax.push((key.to_owned(), value.as_ref().to_vec()));
        self
    }

    pub(crate) fn xattr(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax(&format!("SCHILY.xattr.{name}"), value)
    }
}

pub(crate) fn file(name: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Item {
    Item { content: content.as_ref().to_vec(), ..Item::new(name, b'0') }
}

pub(crate) fn dir(name: impl AsRef<[u8]>) -> Item {
    Item::new(name, b'5')
}

pub(crate) fn symlink(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Item {
    Item { link: target.as_ref().to_vec(), ..Item::new(name, b'2').mode(0o777) }
}

pub(crate) fn hardlink(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Item {
    Item { link: target.as_ref().to_vec(), ..Item::new(name, b'1') }
}

pub(crate) fn device(name: impl AsRef<[u8]>, flag: u8, major: u32, minor: u32) -> Item {
    Item { device: (major, minor), ..Item::new(name, flag) }
}

pub(crate) fn whiteout(name: &str) -> Item {
    file(name, "")
}

/// The archive of `items`, with its end marker.
pub(crate) fn tar(items: &[Item]) -> Vec<u8> {
    let mut bytes: Vec<u8> = items.iter().flat_map(entry).collect();
    bytes.extend([0; 1024]);
    bytes
}

/// One entry with the extended headers it needs.
pub(crate) fn entry(item: &Item) -> Vec<u8> {
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
pub(crate) fn header(item: &Item, size: u64) -> [u8; 512] {
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
pub(crate) fn seal(header: &mut [u8; 512]) {
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

/// What a file is like, for comparing trees: one line without its hard links.
pub(crate) struct Line {
    pub path: String,
    pub text: String,
    /// Tells which names are one file.
    pub identity: (u64, u64),
    pub is_dir: bool,
}

/// The lines in order, with the hard links among them.
pub(crate) fn lines(mut lines: Vec<Line>) -> Vec<String> {
    lines.sort_by(|a, b| a.path.cmp(&b.path));
    let mut first: std::collections::HashMap<(u64, u64), String> = std::collections::HashMap::new();
    let mut texts = Vec::new();
    for line in lines {
        let same = first.get(&line.identity).filter(|_| !line.is_dir).map(|path| format!(" = {path}"));
        texts.push(format!("{} {}{}", line.path, line.text, same.unwrap_or_default()));
        first.entry(line.identity).or_insert(line.path);
    }
    texts
}

/// One line's text.
pub(crate) fn line_text(
    what: &str,
    mode: u32,
    (uid, gid): (u32, u32),
    time: Time,
    xattrs: &std::collections::BTreeMap<Vec<u8>, Vec<u8>>,
) -> String {
    let mut text = format!("{what} {mode:o} {uid}:{gid} {}.{:09}", time.seconds, time.nanoseconds);
    for (name, value) in xattrs {
        text += &[" ", &name.escape_ascii().to_string(), "=", &value.escape_ascii().to_string()].concat();
    }
    text
}

/// Everything at and below `root` with all metadata, in order: what two trees are compared by.
pub(crate) fn listing(root: &Path) -> Vec<String> {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use crate::sys::beneath::{Dir, FileKind, Metadata};
    let mut found = Vec::new();
    let mut add = |path: &str, dir: &Dir, name: &OsStr, metadata: &Metadata| {
        let what = match metadata.kind {
            FileKind::Directory => "dir".to_owned(),
            FileKind::Symlink => format!("-> {}", dir.read_link(name).unwrap().escape_ascii()),
            FileKind::Regular => {
                let mut content = Vec::new();
                std::io::Read::read_to_end(&mut dir.open_file(name).unwrap().unwrap(), &mut content).unwrap();
                content_text(&content)
            }
            other => format!("{other:?}"),
        };
        let mut xattrs = std::collections::BTreeMap::new();
        for attribute in dir.xattr_names(name).unwrap() {
            // What the host's policy labels every file with is no part of the tree.
            if attribute != "security.selinux" {
                let value = dir.xattr(name, &attribute).unwrap().unwrap_or_default();
                xattrs.insert(attribute.as_bytes().to_vec(), value);
            }
        }
        let text = line_text(&what, metadata.mode, (metadata.uid, metadata.gid), metadata.modified, &xattrs);
        found.push(Line { path: path.to_owned(), text, identity: metadata.identity, is_dir: metadata.is_dir() });
    };
    let top = Dir::open(root).unwrap();
    add("/", &top, OsStr::new("."), &top.metadata().unwrap());
    let mut waiting = vec![(String::new(), top)];
    while let Some((above, dir)) = waiting.pop() {
        for name in dir.names().unwrap() {
            let path = format!("{above}/{}", name.as_bytes().escape_ascii());
            // A name that is listed but not there is what a stray whiteout looks like in an overlay.
            let metadata = dir.stat(&name).unwrap().unwrap_or_else(|| panic!("`{path}` is listed and not there"));
            add(&path, &dir, &name, &metadata);
            if metadata.is_dir() {
                waiting.push((path, dir.open_dir(&name).unwrap()));
            }
        }
    }
    lines(found)
}

/// A file's content in a line.
pub(crate) fn content_text(content: &[u8]) -> String {
    let hash = crate::image::Digest::sha256(content);
    if content.len() < 32 {
        format!("file \"{}\"", content.escape_ascii())
    } else {
        format!("file {} {}", content.len(), hash.short())
    }
}

/// Whether tests that need root can run; says so when they cannot.
pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

/// Runs `body` in a thread with a mount namespace of its own, which goes with all its mounts when the thread ends.
pub(crate) fn in_own_mounts(body: impl FnOnce() + Send) {
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
