//! The two ways a tar archive writes numbers and text: fixed fields of a header and records of a PAX extended header.
//!
//! A record is `LENGTH KEY=VALUE\n`, where LENGTH counts all of it (POSIX.1, pax, "Extended Header"). It is read by that
//! length, because values are arbitrary bytes: an attribute with a line break in it must not be able to pose as a record.

use std::collections::BTreeMap;

use super::acl::from_words;
use crate::sys::beneath::Time;

/// Most bytes of an extended header, and of all global ones together.
pub const MAX_RECORD_BYTES: u64 = 1 << 20;

/// The extended attributes of a file by name, as an archive holds them.
pub(super) type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// What extended headers say about an entry; `None` where the plain header counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Records {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub modified: Option<Time>,
    pub xattrs: Xattrs,
    pub sparse: SparseRecords,
}

/// GNU's description of a file with holes (GNU tar manual, "Storing Sparse Files", formats 0.0, 0.1 and 1.0).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SparseRecords {
    /// Format 1.0: the map stands before the content.
    pub map_in_content: bool,
    pub path: Option<Vec<u8>>,
    pub real_size: Option<u64>,
    /// Offset and length of each piece, flat.
    pub map: Vec<u64>,
}

impl Records {
    /// Takes in the records of one extended header; later ones win.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Result<(), &'static str> {
        while !bytes.is_empty() {
            let (key, value, rest) = record(bytes).ok_or("an extended header has a malformed record")?;
            self.set(key, value)?;
            bytes = rest;
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        const NUMBER: &str = "an extended header has a malformed number";
        // An empty value takes back what a global header said.
        let number = || if value.is_empty() { Ok(None) } else { decimal(value).map(Some).ok_or(NUMBER) };
        let text = || (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => self.path = text(),
            b"linkpath" => self.link = text(),
            b"size" => self.size = number()?,
            b"uid" => self.uid = number()?,
            b"gid" => self.gid = number()?,
            b"mtime" if value.is_empty() => self.modified = None,
            b"SCHILY.acl.access" => self.set_acl(b"system.posix_acl_access", value),
            b"SCHILY.acl.default" => self.set_acl(b"system.posix_acl_default", value),
            b"mtime" => self.modified = Some(time(value).ok_or("an extended header has a malformed time")?),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.insert(name.to_vec(), value.to_vec());
                } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                    let value = base64(value).ok_or("an extended header has malformed base64")?;
                    self.xattrs.entry(percent_decoded(name)).or_insert(value);
                } else if let Some(name) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.set(name, value).ok_or(NUMBER)?;
                }
            }
        }
        Ok(())
    }

    /// A list in words counts less than the attribute itself, which says the same.
    fn set_acl(&mut self, name: &[u8], words: &[u8]) {
        if let Some(value) = from_words(words) {
            self.xattrs.entry(name.to_vec()).or_insert(value);
        }
    }

    /// What a global header may say: not what only one file can have.
    pub(super) fn keep_global(&mut self) -> Result<(), &'static str> {
        (self.path, self.link, self.size, self.sparse) = (None, None, None, SparseRecords::default());
        let bytes: usize = self.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes as u64 > MAX_RECORD_BYTES { Err("the global extended headers are too large") } else { Ok(()) }
    }
}

impl SparseRecords {
    fn set(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        match name {
            b"major" => self.map_in_content = decimal(value)? == 1,
            b"name" => self.path = Some(value.to_vec()),
            b"size" | b"realsize" => self.real_size = Some(decimal(value)?),
            b"offset" | b"numbytes" => self.map.push(decimal(value)?),
            b"map" if value.is_empty() => {}
            b"map" => self.map = value.split(|byte| *byte == b',').map(decimal).collect::<Option<_>>()?,
            _ => {}
        }
        Some(())
    }
}

/// The first record: key, value, what follows.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(12).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&bytes[..space])?).ok()?;
    let body = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|byte| *byte == b'=')?;
    (equals > 0).then(|| (&body[..equals], &body[equals + 1..], &bytes[length..]))
}

/// An unsigned decimal number without sign or blanks.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds with an optional sign and fraction; digits past the nanosecond are cut off.
fn time(text: &[u8]) -> Option<Time> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = match text.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanoseconds =
        (0..9).fold(0, |sum, place| sum * 10 + u32::from(fraction.get(place).map_or(0, |digit| digit - b'0')));
    Some(match (negative, nanoseconds) {
        (false, _) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: -seconds, nanoseconds },
        // One and a half before the epoch is two before and a half after that.
        (true, _) => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

/// A numeric field of a header: octal text, or base-256 with the top bit set (GNU), which may be negative.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 == 0 {
        return octal(field);
    }
    let negative = first & 0x40 != 0;
    let mut value: i128 = i128::from(first & 0x3f) - if negative { 0x40 } else { 0 };
    for byte in &field[1..] {
        value = value.checked_mul(256)? + i128::from(*byte);
    }
    i64::try_from(value).ok()
}

/// Octal digits between blanks and NULs; nothing at all is zero.
fn octal(field: &[u8]) -> Option<i64> {
    let blank = |byte: &u8| matches!(*byte, b' ' | 0);
    let Some(start) = field.iter().position(|byte| !blank(byte)) else { return Some(0) };
    let digits = field[start..].split(blank).next()?;
    digits.iter().try_fold(0_i64, |sum, digit| {
        (b'0'..=b'7').contains(digit).then_some(())?;
        sum.checked_mul(8)?.checked_add(i64::from(digit - b'0'))
    })
}

fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let digit = |byte: Option<&u8>| u8::try_from(char::from(*byte?).to_digit(16)?).ok();
    let mut decoded = Vec::with_capacity(text.len());
    let mut position = 0;
    while let Some(&byte) = text.get(position) {
        let digits = digit(text.get(position + 1)).zip(digit(text.get(position + 2)));
        if let (b'%', Some((high, low))) = (byte, digits) {
            decoded.push(high << 4 | low);
            position += 3;
        } else {
            decoded.push(byte);
            position += 1;
        }
    }
    decoded
}

/// Base64 with or without padding, as libarchive writes it.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let end = text.iter().rposition(|byte| *byte != b'=').map_or(0, |last| last + 1);
    let mut decoded = Vec::with_capacity(end * 3 / 4);
    for group in text[..end].chunks(4) {
        if group.len() == 1 {
            return None;
        }
        let mut bits: u32 = 0;
        for byte in group {
            bits = bits << 6 | u32::from(base64_digit(*byte)?);
        }
        bits <<= 6 * (4 - group.len());
        let bytes = bits.to_be_bytes();
        decoded.extend_from_slice(&bytes[1..=group.len() * 3 / 4]);
    }
    Some(decoded)
}

fn base64_digit(byte: u8) -> Option<u8> {
    Some(match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rootfs::testing::pax_record;

    fn read(text: &[u8]) -> Result<Records, &'static str> {
        let mut records = Records::default();
        records.read(text).map(|()| records)
    }

    #[test]
    fn a_value_with_line_breaks_is_no_record() {
        let value = [b"\n".to_vec(), pax_record("path", b"evil"), b"\n".to_vec()].concat();
        let records = read(&[pax_record("SCHILY.xattr.user.x", &value), pax_record("path", b"good")].concat()).unwrap();
        assert_eq!(records.path.as_deref(), Some(&b"good"[..]));
        assert_eq!(records.xattrs[&b"user.x"[..]], value);
    }

    #[test]
    fn malformed_records_are_told() {
        for bad in
            [&b"6 a=\n"[..], b"99 a=b\n", b"6 a=bc", b"x a=b\n", b"6 abc\n", b"6 =bc\n", b"-6 a=b\n", b"13 size=abcd\n"]
        {
            assert!(read(bad).is_err(), "{:?} was accepted", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn times_before_the_epoch_and_between_seconds() {
        for (text, seconds, nanoseconds) in [
            ("0", 0, 0),
            ("1.5", 1, 500_000_000),
            ("1.123456789999", 1, 123_456_789),
            ("-1", -1, 0),
            ("-1.25", -2, 750_000_000),
            ("-0.000000001", -1, 999_999_999),
            ("5.", 5, 0),
        ] {
            assert_eq!(time(text.as_bytes()), Some(Time { seconds, nanoseconds }), "{text}");
        }
        for bad in ["", "-", "1e9", "1.x", "99999999999999999999", "+1"] {
            assert_eq!(time(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn numbers_of_headers() {
        let base256 = |value: i64| {
            [&[if value < 0 { 0xff } else { 0x80 }, 0xff * u8::from(value < 0)], &value.to_be_bytes()[..]].concat()
        };
        for (field, value) in [
            (b"0000644\0".to_vec(), Some(0o644)),
            (b"   644 \0".to_vec(), Some(0o644)),
            (b"644\0junk".to_vec(), Some(0o644)),
            (vec![0; 8], Some(0)),
            (b"12345678".to_vec(), None),
            (b"-1\0\0\0\0\0\0".to_vec(), None),
            (base256(5_000_000_000), Some(5_000_000_000)),
            (base256(-86_400), Some(-86_400)),
            (vec![0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], None),
        ] {
            assert_eq!(number(&field), value, "{field:?}");
        }
    }

    #[test]
    fn attributes_of_libarchive() {
        let libarchive = pax_record("LIBARCHIVE.xattr.user.a%3db", b"AQID");
        assert_eq!(read(&libarchive).unwrap().xattrs[&b"user.a=b"[..]], [1, 2, 3]);
        let both = [pax_record("SCHILY.xattr.user.c", b"raw"), pax_record("LIBARCHIVE.xattr.user.c", b"AQID")].concat();
        assert_eq!(read(&both).unwrap().xattrs[&b"user.c"[..]], *b"raw");
        assert_eq!(base64(b"AQ").unwrap(), [1]);
        assert_eq!(base64(b"AQI=").unwrap(), [1, 2]);
        assert!(base64(b"").unwrap().is_empty());
        assert!(base64(b"A*").is_none() && base64(b"A").is_none());
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = read(&bytes);
            let _ = (number(&bytes), time(&bytes), base64(&bytes), percent_decoded(&bytes));
        }
    }
}
