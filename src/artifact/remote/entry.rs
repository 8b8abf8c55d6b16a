//! The documents that stand beside a run's files in a bucket.
//!
//! Objects carry neither modes nor links, and know no directories. So one line of JSON for each file, link and directory
//! stands in an index, and the manifest names the index by its sha256. Names that a container chose may be any bytes: what
//! is not UTF-8, control characters, `%` and `\` are written as `%XX`, in the documents and in keys alike.

use std::ffi::OsString;
use std::fmt::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::artifact::manifest::Manifest;

/// Longest path that is a key as well; S3 takes 1024 bytes, of which the prefix and the run's name need some.
const MAX_KEY_BYTES: usize = 640;

/// `manifest.json` and `unfinished.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RemoteManifest {
    /// Tells runs of one name apart.
    pub(super) run_id: String,
    /// The index; absent before there is anything to list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) index: Option<IndexRef>,
    /// What the local store says as well.
    pub(super) manifest: Manifest,
}

/// Which index belongs to a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IndexRef {
    pub(super) sha256: String,
    pub(super) bytes: u64,
}

impl IndexRef {
    /// Its key below that of the run.
    pub(super) fn key(&self) -> String {
        format!("index-{}.jsonl", self.sha256.get(..16).unwrap_or(&self.sha256))
    }
}

/// One line of an index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    /// Path below the run, encoded: `files/output/hello.txt`.
    pub(super) path: String,
    pub(super) kind: EntryKind,
    /// Permission bits; no setuid and setgid.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Last change: seconds since 1970, and nanoseconds.
    pub(super) mtime: i64,
    pub(super) mtime_ns: u32,
    /// Bytes of a file; 0 of anything else.
    pub(super) size: u64,
    /// Of a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sha256: Option<String>,
    /// The key below the run's where the content of a file is, when that is not its path: names of one file share one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) object: Option<String>,
    /// What a link says, encoded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) target: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum EntryKind {
    File,
    Link,
    Directory,
}

impl Entry {
    /// The key of its content below the run's.
    pub(super) fn object(&self) -> &str {
        self.object.as_deref().unwrap_or(&self.path)
    }

    /// The path on disk; `None` unless it stays below where it starts.
    pub(super) fn path_below(&self) -> Option<PathBuf> {
        let path = PathBuf::from(decode(&self.path)?);
        let good = path.components().all(|part| matches!(part, Component::Normal(_)))
            && path.components().count() == self.path.split('/').count()
            && !path.as_os_str().as_bytes().contains(&0);
        good.then_some(path)
    }
}

/// The key below the run's for a file at that (encoded) path; `None` when it is the path itself.
pub(super) fn object_for(path: &str) -> Option<String> {
    (path.len() > MAX_KEY_BYTES).then(|| format!("long/{}", sha256_hex(path.as_bytes())))
}

pub(super) fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Writes a path or a link's text with `%XX` for what is special.
pub(super) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || matches!(c, '%' | '\\') {
                let mut buffer = [0; 4];
                escape(&mut text, c.encode_utf8(&mut buffer).as_bytes());
            } else {
                text.push(c);
            }
        }
        escape(&mut text, chunk.invalid());
    }
    text
}

fn escape(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(text, "%{byte:02X}");
    }
}

/// The way back.
pub(super) fn decode(text: &str) -> Option<OsString> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    Some(OsString::from_vec(bytes))
}

/// Encodes a path.
pub(super) fn encode_path(path: &Path) -> String {
    encode(path.as_os_str().as_bytes())
}

/// One line for each entry, and what the manifest says of it.
pub(super) fn write_index<'a>(entries: impl Iterator<Item = &'a Entry>) -> serde_json::Result<(Vec<u8>, IndexRef)> {
    let mut bytes = Vec::new();
    for entry in entries {
        serde_json::to_writer(&mut bytes, entry)?;
        bytes.push(b'\n');
    }
    let index = IndexRef { sha256: sha256_hex(&bytes), bytes: bytes.len() as u64 };
    Ok((bytes, index))
}

/// Reads an index back, parents before what is in them.
pub(super) fn read_index(bytes: &[u8]) -> Result<Vec<(PathBuf, Entry)>, String> {
    let mut entries = Vec::new();
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let entry: Entry = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        let path = entry.path_below().ok_or_else(|| format!("it has the path `{}`", entry.path.escape_debug()))?;
        entries.push((path, entry));
    }
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(path: &str) -> Entry {
        let (mode, object, target, sha256) = (0o644, None, None, None);
        let kind = EntryKind::File;
        Entry { path: path.into(), kind, mode, uid: 0, gid: 0, mtime: 0, mtime_ns: 0, size: 0, sha256, object, target }
    }

    #[test]
    fn names_of_any_bytes() {
        for (bytes, text) in [
            (&b"output/a b.txt"[..], "output/a b.txt"),
            ("über/😀".as_bytes(), "über/😀"),
            (b"\xff\xfe", "%FF%FE"),
            (b"100%\\\n", "100%25%5C%0A"),
            ("\u{85}".as_bytes(), "%C2%85"),
        ] {
            assert_eq!(encode(bytes), text);
            assert_eq!(decode(text).unwrap().into_vec(), bytes);
        }
        assert!(decode("%F").is_none() && decode("%zz").is_none());
        assert_eq!(object_for("files/a"), None);
        assert_eq!(object_for(&"x".repeat(641)).unwrap().len(), 69);
    }

    #[test]
    fn an_index_cannot_lead_elsewhere() {
        for path in ["", "/etc/passwd", "a/../b", "..", "a//b", "./a", "a/.", "%2e%2e/b", "a/%00", "%2Fetc", "a/"] {
            assert_eq!(entry(path).path_below(), None, "{path}");
            let line = serde_json::to_vec(&entry(path)).unwrap();
            assert!(read_index(&line).is_err(), "{path}");
        }
        let all = [entry("b/c"), entry("a"), entry("b")];
        let (bytes, index) = write_index(all.iter()).unwrap();
        assert_eq!(index.bytes, bytes.len() as u64);
        let paths: Vec<_> = read_index(&bytes).unwrap().into_iter().map(|(path, _)| path).collect();
        assert_eq!(paths, [Path::new("a"), Path::new("b"), Path::new("b/c")]);
    }

    proptest! {
        #[test]
        fn whatever_is_encoded_comes_back(bytes: Vec<u8>) {
            let text = encode(&bytes);
            prop_assert!(!text.chars().any(char::is_control));
            prop_assert_eq!(decode(&text).unwrap().into_vec(), bytes);
        }
    }
}
