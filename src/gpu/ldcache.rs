//! The cache of glibc's dynamic loader, `/etc/ld.so.cache`, read and written without ldconfig.
//!
//! ```text
//! 0   "glibc-ld.so.cache1.1"  number of entries u32  bytes of strings u32  byte order u8 (2: little)  3 unused
//! 32  offset of the extensions u32 (0: none)  12 unused
//! 48  entries, 24 bytes each: flags i32, offset of the soname u32, offset of the path u32, 4 unused, hwcap u64
//!     strings, each ended by a NUL; all offsets count from the beginning of this header
//!     extensions: 0xeaa42174 u32, count u32; each: tag u32, flags u32, offset u32, size u32
//! ```
//!
//! Tag 1 lists the names of directories below `glibc-hwcaps`; an entry whose hwcap has bit 62 belongs to the one whose number
//! its lower half is. Before this format there may be an older one, `ld.so-1.7.0`, for loaders of the last century (facts from
//! `sysdeps/generic/dl-cache.h` and `elf/cache.c` of glibc 2.36).
//!
//! The loader looks names up by bisection, so the order is part of the format; of several entries with one name the first that
//! fits wins. A cache of an image is hostile: what is read is bounded and checked.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const OLD_MAGIC: &[u8] = b"ld.so-1.7.0";
const HEADER_BYTES: usize = 48;
const ENTRY_BYTES: usize = 24;
const OLD_HEADER_BYTES: usize = 16;
const OLD_ENTRY_BYTES: usize = 12;
const EXTENSION_MAGIC: u32 = 0xeaa4_2174;
const TAG_HWCAPS: u32 = 1;
const HWCAP_EXTENSION: u64 = 1 << 62;
const LITTLE_ENDIAN: u8 = 2;
/// Names of one directory of `glibc-hwcaps`.
const MAX_HWCAPS: usize = 256;
/// `PATH_MAX`.
const MAX_STRING_BYTES: usize = 4096;
/// The most that is read of an image's cache; that of a full desktop has 200 kB.
pub const MAX_CACHE_BYTES: usize = 4 << 20;

/// For which loader a library is: the flags of its entry (`FLAG_ELF_LIBC6` and the architecture's).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loader {
    /// x86-64.
    X8664,
    /// 64-bit Arm.
    Aarch64,
    /// 32-bit x86.
    I386,
}

impl Loader {
    const fn flags(self) -> i32 {
        match self {
            Self::X8664 => 0x0303,
            Self::Aarch64 => 0x0a03,
            Self::I386 => 0x0003,
        }
    }
}

/// What a processor must have for a library.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Hwcap {
    /// Bits of the old scheme; nothing in most entries.
    Bits(u64),
    /// The name of a directory of `glibc-hwcaps`.
    Directory(Vec<u8>),
}

/// A library that the loader knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    soname: Vec<u8>,
    path: Vec<u8>,
    flags: i32,
    hwcap: Hwcap,
}

impl Entry {
    /// A library that every processor can use.
    #[must_use]
    pub fn new(soname: &str, path: &str, loader: Loader) -> Self {
        Self {
            soname: soname.as_bytes().to_vec(),
            path: path.as_bytes().to_vec(),
            flags: loader.flags(),
            hwcap: Hwcap::Bits(0),
        }
    }

    /// What programs ask for.
    #[must_use]
    pub fn soname(&self) -> String {
        String::from_utf8_lossy(&self.soname).into_owned()
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }

    /// Whether it is for this loader.
    #[must_use]
    pub const fn is_for(&self, loader: Loader) -> bool {
        self.flags == loader.flags()
    }
}

/// Why bytes are not a loader cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LdCacheError {
    /// It begins with something else.
    #[error("it is of another format than glibc's since 2.2")]
    Magic,
    /// It was written on a machine with the other byte order.
    #[error("it is for a machine of the other byte order")]
    ByteOrder,
    /// It says that it is larger than it is.
    #[error("it ends too early")]
    Truncated,
    /// An offset leads out of it, or to what is no text.
    #[error("one of its entries leads nowhere")]
    Offset,
    /// Too large to be read.
    #[error("it has {0} bytes, at most {MAX_CACHE_BYTES} are read")]
    TooLarge(usize),
}

/// Reads a cache; the entries stand in the order in which the loader sees them.
pub fn parse(bytes: &[u8]) -> Result<Vec<Entry>, LdCacheError> {
    if bytes.len() > MAX_CACHE_BYTES {
        return Err(LdCacheError::TooLarge(bytes.len()));
    }
    let cache = new_part(bytes)?;
    match cache.get(28) {
        Some(0 | &LITTLE_ENDIAN) => {}
        Some(_) => return Err(LdCacheError::ByteOrder),
        None => return Err(LdCacheError::Truncated),
    }
    let count = number(cache, 20)?;
    let end = count.checked_mul(ENTRY_BYTES).and_then(|size| size.checked_add(HEADER_BYTES));
    if end.is_none_or(|end| end > cache.len()) {
        return Err(LdCacheError::Truncated);
    }
    let directories = directories(cache)?;
    (0..count).map(|index| entry(cache, HEADER_BYTES + index * ENTRY_BYTES, &directories)).collect()
}

/// The part of a cache that has the format of today.
fn new_part(bytes: &[u8]) -> Result<&[u8], LdCacheError> {
    let mut cache = bytes;
    if bytes.starts_with(OLD_MAGIC) {
        let entries = number(bytes, 12)?.checked_mul(OLD_ENTRY_BYTES).ok_or(LdCacheError::Truncated)?;
        let start = OLD_HEADER_BYTES.checked_add(entries).ok_or(LdCacheError::Truncated)?.next_multiple_of(8);
        cache = bytes.get(start..).ok_or(LdCacheError::Truncated)?;
    }
    if cache.starts_with(MAGIC) { Ok(cache) } else { Err(LdCacheError::Magic) }
}

fn word(bytes: &[u8], at: usize) -> Result<u32, LdCacheError> {
    let end = at.checked_add(4).ok_or(LdCacheError::Truncated)?;
    let word = bytes.get(at..end).and_then(|word| word.try_into().ok()).ok_or(LdCacheError::Truncated)?;
    Ok(u32::from_le_bytes(word))
}

fn number(bytes: &[u8], at: usize) -> Result<usize, LdCacheError> {
    usize::try_from(word(bytes, at)?).map_err(|_| LdCacheError::Truncated)
}

fn string(cache: &[u8], at: usize) -> Result<Vec<u8>, LdCacheError> {
    let rest = cache.get(at..).ok_or(LdCacheError::Offset)?;
    let rest = &rest[..rest.len().min(MAX_STRING_BYTES)];
    let length = rest.iter().position(|byte| *byte == 0).ok_or(LdCacheError::Offset)?;
    Ok(rest[..length].to_vec())
}

fn entry(cache: &[u8], at: usize, directories: &[Vec<u8>]) -> Result<Entry, LdCacheError> {
    let bits = u64::from(word(cache, at + 16)?) | (u64::from(word(cache, at + 20)?) << 32);
    let hwcap = if bits & HWCAP_EXTENSION == 0 {
        Hwcap::Bits(bits)
    } else {
        let index = usize::try_from(bits & 0xffff_ffff).map_err(|_| LdCacheError::Offset)?;
        Hwcap::Directory(directories.get(index).ok_or(LdCacheError::Offset)?.clone())
    };
    Ok(Entry {
        flags: word(cache, at)?.cast_signed(),
        soname: string(cache, number(cache, at + 4)?)?,
        path: string(cache, number(cache, at + 8)?)?,
        hwcap,
    })
}

/// Names of directories below `glibc-hwcaps`, by their number.
fn directories(cache: &[u8]) -> Result<Vec<Vec<u8>>, LdCacheError> {
    let start = number(cache, 32)?;
    if start == 0 || word(cache, start)? != EXTENSION_MAGIC {
        return Ok(Vec::new());
    }
    let count = number(cache, start + 4)?.min(MAX_HWCAPS);
    for section in (0..count).map(|index| start + 8 + index * 16) {
        if word(cache, section)? != TAG_HWCAPS {
            continue;
        }
        let (offset, size) = (number(cache, section + 8)?, number(cache, section + 12)?);
        let names = (0..(size / 4).min(MAX_HWCAPS)).map(|index| offset.saturating_add(index * 4));
        return names.map(|at| string(cache, number(cache, at)?)).collect();
    }
    Ok(Vec::new())
}

/// A cache with our libraries and those of the image; where both have one of a name, for one loader, ours is the only one.
/// `libcuda.so.01` is the same name to the loader.
#[must_use]
pub fn merged(image: &[Entry], ours: &[Entry]) -> Vec<u8> {
    let is_ours = |entry: &Entry| {
        let same = |our: &Entry| our.flags == entry.flags && compare_names(&our.soname, &entry.soname).is_eq();
        ours.iter().any(same)
    };
    let others = image.iter().filter(|entry| !is_ours(entry));
    let mut entries: Vec<&Entry> = ours.iter().chain(others).collect();
    entries.sort_by(|left, right| order(left, right));
    write(&entries)
}

/// ldconfig's: names from the last to the first; of one name higher flags first, then those for special processors.
fn order(left: &Entry, right: &Entry) -> Ordering {
    compare_names(&right.soname, &left.soname).then_with(|| right.flags.cmp(&left.flags)).then_with(|| {
        match (&left.hwcap, &right.hwcap) {
            (Hwcap::Directory(_), Hwcap::Bits(_)) => Ordering::Less,
            (Hwcap::Bits(_), Hwcap::Directory(_)) => Ordering::Greater,
            (Hwcap::Directory(left), Hwcap::Directory(right)) => left.cmp(right),
            (Hwcap::Bits(left), Hwcap::Bits(right)) => right.cmp(left),
        }
    })
}

/// The loader's comparison: runs of digits by their value, a digit after any other character.
fn compare_names(mut left: &[u8], mut right: &[u8]) -> Ordering {
    loop {
        let (Some(&first), Some(&second)) = (left.first(), right.first()) else {
            // The shorter first; against a digit it is the end that comes first as well.
            return left.len().min(1).cmp(&right.len().min(1));
        };
        match (first.is_ascii_digit(), second.is_ascii_digit()) {
            (true, true) => {
                let (one, other) = (take_number(&mut left), take_number(&mut right));
                if one != other {
                    return one.cmp(&other);
                }
            }
            (true, false) => return Ordering::Greater,
            (false, true) => return Ordering::Less,
            // Characters are signed there.
            (false, false) if first != second => return first.cast_signed().cmp(&second.cast_signed()),
            (false, false) => (left, right) = (&left[1..], &right[1..]),
        }
    }
}

/// The number at the beginning, which overflows as in the loader.
fn take_number(text: &mut &[u8]) -> i32 {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    *text = rest;
    digits.iter().fold(0, |value: i32, digit| value.wrapping_mul(10).wrapping_add(i32::from(digit - b'0')))
}

/// All strings of a cache, each once.
#[derive(Default)]
struct Strings {
    bytes: Vec<u8>,
    known: BTreeMap<Vec<u8>, u32>,
    start: usize,
}

impl Strings {
    fn offset(&mut self, text: &[u8]) -> u32 {
        if let Some(known) = self.known.get(text) {
            return *known;
        }
        let offset = to_word(self.start + self.bytes.len());
        self.bytes.extend_from_slice(text);
        self.bytes.push(0);
        self.known.insert(text.to_vec(), offset);
        offset
    }
}

/// What is written is bounded by what was read and by the few libraries of a driver.
fn to_word(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn write(entries: &[&Entry]) -> Vec<u8> {
    let mut strings = Strings { start: HEADER_BYTES + entries.len() * ENTRY_BYTES, ..Strings::default() };
    let directories: BTreeSet<&[u8]> = entries
        .iter()
        .filter_map(|entry| match &entry.hwcap {
            Hwcap::Directory(name) => Some(name.as_slice()),
            Hwcap::Bits(_) => None,
        })
        .collect();
    let mut list = Vec::with_capacity(entries.len() * ENTRY_BYTES);
    for entry in entries {
        let hwcap = match &entry.hwcap {
            Hwcap::Bits(bits) => *bits,
            Hwcap::Directory(name) => {
                HWCAP_EXTENSION | directories.iter().position(|known| known == name).unwrap_or_default() as u64
            }
        };
        list.extend(entry.flags.to_le_bytes());
        list.extend(strings.offset(&entry.soname).to_le_bytes());
        list.extend(strings.offset(&entry.path).to_le_bytes());
        list.extend([0; 4]);
        list.extend(hwcap.to_le_bytes());
    }
    let names: Vec<u32> = directories.iter().map(|name| strings.offset(name)).collect();
    let strings_end = strings.start + strings.bytes.len();
    let extension = strings_end.next_multiple_of(4);
    let mut cache = MAGIC.to_vec();
    cache.extend(to_word(entries.len()).to_le_bytes());
    cache.extend(to_word(strings.bytes.len()).to_le_bytes());
    cache.extend([LITTLE_ENDIAN, 0, 0, 0]);
    cache.extend(if names.is_empty() { [0; 4] } else { to_word(extension).to_le_bytes() });
    cache.extend([0; 12]);
    cache.extend(list);
    cache.extend(strings.bytes);
    if !names.is_empty() {
        cache.resize(extension, 0);
        let content = extension + 8 + 16;
        for word in [EXTENSION_MAGIC, 1, TAG_HWCAPS, 0, to_word(content), to_word(names.len() * 4)] {
            cache.extend(word.to_le_bytes());
        }
        cache.extend(names.iter().flat_map(|name| name.to_le_bytes()));
    }
    cache
}

#[cfg(test)]
mod tests;
