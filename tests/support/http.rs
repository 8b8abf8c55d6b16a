//! HTTP/1.1 as far as [`super::registry`] needs it: requests as they came, answers and what goes wrong while they are sent.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// One request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// With the query.
    pub(crate) path: String,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// Content of a blob.
#[derive(Debug, Clone)]
pub(super) enum Blob {
    Bytes(Arc<Vec<u8>>),
    /// As many bytes as that, made while they are sent.
    Pattern(u64),
}

impl Blob {
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Pattern(size) => *size,
        }
    }

    /// The bytes from `offset` to `end`. A pattern is made of blocks that begin with their own number.
    pub(super) fn read(&self, offset: u64, end: u64) -> Vec<u8> {
        const BLOCK: u64 = 64 << 10;
        let index = |at: u64| usize::try_from(at).expect("a place in memory");
        if let Self::Bytes(bytes) = self {
            return bytes[index(offset)..index(end)].to_vec();
        }
        let mut bytes = Vec::new();
        let mut at = offset;
        while at < end {
            let (number, start) = (at / BLOCK, at % BLOCK);
            let mut block = vec![b'.'; index(BLOCK)];
            block[..8].copy_from_slice(&number.to_be_bytes());
            let stop = BLOCK.min(start + end - at);
            bytes.extend_from_slice(&block[index(start)..index(stop)]);
            at += stop - start;
        }
        bytes
    }
}

/// How an answer to a range is not what was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum RangeLie {
    /// All bytes from the start.
    FromStart,
    /// As many bytes as asked for, but others.
    Shifted,
}

/// Reads the next request; `None` when the client has gone, or does not speak HTTP.
pub(super) fn read_request(stream: &mut impl BufRead) -> io::Result<Option<Seen>> {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line)?;
    // Somebody greets a plain server in TLS: hang up, as real servers do.
    let Ok(line) = String::from_utf8(line) else { return Ok(None) };
    let mut words = line.split_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(None) };
    // A proxy is asked with the whole URL.
    let path = target.strip_prefix("http://").and_then(|rest| rest.find('/').map(|slash| &rest[slash..]));
    let mut seen = Seen {
        method: method.to_owned(),
        path: path.unwrap_or(target).to_owned(),
        headers: BTreeMap::new(),
        body: String::new(),
    };
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        seen.headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = seen.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    stream.take(length).read_to_string(&mut seen.body)?;
    Ok(Some(seen))
}

pub(super) fn parse_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()))
}

/// An answer and what goes wrong while it is sent.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Blob,
    /// Whether a range of it may be asked for.
    pub(super) ranges: bool,
    /// Whether its length is said.
    pub(super) is_sized: bool,
    /// Bytes after which the connection ends.
    pub(super) cut: Option<u64>,
    /// Bytes after which nothing comes any more.
    pub(super) stall: Option<u64>,
    /// The part of the body that is sent.
    part: Option<(u64, u64)>,
}

impl Reply {
    pub(super) fn of(status: u16, headers: Vec<(String, String)>, body: Vec<u8>) -> Self {
        let body = Blob::Bytes(Arc::new(body));
        Self { status, headers, body, part: None, ranges: false, is_sized: true, cut: None, stall: None }
    }

    /// Makes it a partial one.
    pub(super) fn take_range(&mut self, (first, last): (u64, Option<u64>), lie: Option<RangeLie>) {
        let size = self.body.size();
        if first >= size {
            *self = Self::of(416, vec![("Content-Range".to_owned(), format!("bytes */{size}"))], vec![]);
            return;
        }
        let end = last.map_or(size, |last| (last + 1).min(size));
        let (start, end) = match lie {
            Some(RangeLie::FromStart) => (0, size),
            Some(RangeLie::Shifted) if first > 0 => (first - 1, end - 1),
            _ => (first, end),
        };
        self.status = 206;
        self.headers.push(("Content-Range".to_owned(), format!("bytes {start}-{}/{size}", end - 1)));
        self.part = Some((start, end));
    }

    /// Sends it; false when the connection ends with it.
    pub(super) fn send(&self, request: &Seen, stream: &mut impl Write, stop: &AtomicBool) -> io::Result<bool> {
        const STEP: u64 = 64 << 10;
        let (mut at, end) = self.part.unwrap_or((0, self.body.size()));
        let mut head = format!("HTTP/1.1 {} Test\r\n", self.status);
        for (name, value) in &self.headers {
            write!(head, "{name}: {value}\r\n").expect("written to memory");
        }
        let ending =
            if self.is_sized { format!("Content-Length: {}", end - at) } else { "Connection: close".to_owned() };
        stream.write_all(format!("{head}{ending}\r\n\r\n").as_bytes())?;
        if request.method == "HEAD" {
            return Ok(true);
        }
        let stops_at = self.cut.or(self.stall).map_or(end, |bytes| (at + bytes).min(end));
        while at < stops_at {
            let next = (at + STEP).min(stops_at);
            stream.write_all(&self.body.read(at, next))?;
            at = next;
        }
        stream.flush()?;
        while self.stall.is_some() && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(self.is_sized && self.cut.is_none() && self.stall.is_none())
    }
}
