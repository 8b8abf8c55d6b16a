//! The little that is asked of an ELF file: for which machine it is and by which name programs ask for it.
//!
//! Files are large (libcuda has 100 MB), so only the parts that are needed are read, and each of them is bounded.

use std::fs::File;

use object::elf::{DT_SONAME, DT_STRSZ, DT_STRTAB, FileHeader32, FileHeader64, PT_DYNAMIC, PT_LOAD};
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use object::{Endianness, FileKind, ReadCache, ReadRef};

/// Segments of a header table; libraries have about ten.
const MAX_SEGMENTS: u16 = 256;
/// Bytes of a dynamic section; that of libcuda has 1 kB.
const MAX_DYNAMIC_BYTES: u64 = 1 << 20;
/// Bytes of a name in it.
const MAX_NAME_BYTES: u64 = 256;

/// Word size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bits {
    /// The machine's own programs.
    B64,
    /// `compat32`.
    B32,
}

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Elf {
    pub(super) bits: Bits,
    /// Number of the machine (`EM_X86_64`).
    pub(super) machine: u16,
    /// `DT_SONAME`.
    pub(super) soname: Option<String>,
}

/// Reads a file; `None` when it is no ELF file.
pub(super) fn read(file: File) -> Option<Elf> {
    let cache = ReadCache::new(file);
    match FileKind::parse(&cache).ok()? {
        FileKind::Elf64 => inspect::<FileHeader64<Endianness>>(&cache, Bits::B64),
        FileKind::Elf32 => inspect::<FileHeader32<Endianness>>(&cache, Bits::B32),
        _ => None,
    }
}

fn inspect<H: FileHeader<Endian = Endianness>>(data: &ReadCache<File>, bits: Bits) -> Option<Elf> {
    let header = H::parse(data).ok()?;
    let endian = header.endian().ok()?;
    Some(Elf { bits, machine: header.e_machine(endian).0, soname: soname(header, endian, data) })
}

fn soname<H: FileHeader<Endian = Endianness>>(
    header: &H,
    endian: Endianness,
    data: &ReadCache<File>,
) -> Option<String> {
    if header.e_phnum(endian) > MAX_SEGMENTS {
        return None;
    }
    let segments = header.program_headers(endian, data).ok()?;
    let dynamic = segments.iter().find(|segment| segment.p_type(endian) == PT_DYNAMIC)?;
    if dynamic.p_filesz(endian).into() > MAX_DYNAMIC_BYTES {
        return None;
    }
    let entries = dynamic.dynamic(endian, data).ok()??;
    let value = |tag| entries.iter().find(|entry| entry.tag(endian) == tag).map(|entry| entry.val(endian));
    let (name, table, size) = (value(DT_SONAME)?, value(DT_STRTAB)?, value(DT_STRSZ)?);
    if name >= size {
        return None;
    }
    let address = table.checked_add(name)?;
    let load = segments.iter().filter(|segment| segment.p_type(endian) == PT_LOAD).find(|segment| {
        let (start, length) = (segment.p_vaddr(endian).into(), segment.p_filesz(endian).into());
        address >= start && address - start < length
    })?;
    let offset = load.p_offset(endian).into().checked_add(address - load.p_vaddr(endian).into())?;
    let end = offset.checked_add((size - name).min(MAX_NAME_BYTES))?;
    let name = data.read_bytes_at_until(offset..end, 0).ok()?;
    file_name(std::str::from_utf8(name).ok()?)
}

/// A library's name becomes a link in the container: it must be the name of a file and no path.
fn file_name(name: &str) -> Option<String> {
    let good = !name.is_empty()
        && !matches!(name, "." | "..")
        && name.chars().all(|character| character.is_ascii_graphic() && character != '/');
    good.then(|| name.to_owned())
}
