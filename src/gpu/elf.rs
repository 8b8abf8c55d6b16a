//! The little that is asked of an ELF file: for which machine it is, by which name programs ask for it, what it needs and
//! what it offers.
//!
//! Files are large (libcuda has 100 MB) and those of an image are hostile, so only the parts that are needed are read, and
//! each of them is bounded. Everything but [`note`] goes by the segments, as the loader does: sections may be stripped. The
//! layout of version tables is that of the Linux Standard Base, "Symbol Versioning"; of notes, elf(5).

#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{Read, Seek};

use super::ldcache::Loader;
use object::elf::{
    DT_NEEDED, DT_SONAME, DT_STRSZ, DT_STRTAB, DT_VERDEF, DT_VERNEED, EM_386, EM_AARCH64, EM_X86_64, FileHeader32,
    FileHeader64, Machine, PT_DYNAMIC, PT_LOAD, SHT_NOTE, Verdaux, Verdef, Vernaux, Verneed,
};
use object::read::elf::{Dyn, FileHeader, ProgramHeader, SectionHeader};
use object::{Endianness, FileKind, Pod, ReadCache, ReadRef};

/// Segments of a header table; libraries have about ten.
const MAX_SEGMENTS: u16 = 256;
/// Sections of a header table; libraries have about forty.
const MAX_SECTIONS: u16 = 4096;
/// Bytes of a dynamic section; that of libcuda has 1 kB.
const MAX_DYNAMIC_BYTES: u64 = 1 << 20;
/// Bytes of a name in it.
const MAX_NAME_BYTES: u64 = 256;
/// Libraries that one needs; libcuda needs five.
const MAX_NEEDED: usize = 256;
/// Records of a version table; libc has about fifty.
const MAX_VERSION_RECORDS: usize = 2048;
/// Bytes of a section of notes.
const MAX_NOTE_BYTES: u64 = 64 << 10;
/// Bytes before a note's name: the sizes of name and content, and a type.
const NOTE_HEADER_BYTES: usize = 12;

/// Word size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bits {
    /// The machine's own programs.
    B64,
    /// `compat32`.
    B32,
}

/// What a file says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Elf {
    pub(super) bits: Bits,
    /// Number of the machine (`EM_X86_64`).
    pub(super) machine: u16,
    /// `DT_SONAME`.
    pub(super) soname: Option<String>,
}

impl Elf {
    /// The loader that loads it; `None` for machines that no driver of NVIDIA's is made for.
    pub(super) fn loader(&self) -> Option<Loader> {
        match (self.bits, Machine(self.machine)) {
            (Bits::B64, EM_X86_64) => Some(Loader::X8664),
            (Bits::B64, EM_AARCH64) => Some(Loader::Aarch64),
            (Bits::B32, EM_386) => Some(Loader::I386),
            _ => None,
        }
    }
}

/// A version of glibc as its symbols name it: `GLIBC_2.2.5`, `GLIBC_2.27`. They sort by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GlibcVersion(u32, u32, u32);

impl GlibcVersion {
    /// Reads `GLIBC_2.27`; nothing else of what libc offers, `GLIBC_PRIVATE`, has a number.
    fn parse(name: &str) -> Option<Self> {
        let mut numbers = name.strip_prefix("GLIBC_")?.split('.').map(str::parse);
        let (major, minor) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        let patch = numbers.next().unwrap_or(Ok(0)).ok()?;
        numbers.next().is_none().then_some(Self(major, minor, patch))
    }
}

impl fmt::Display for GlibcVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(major, minor, patch) = self;
        write!(f, "{major}.{minor}")?;
        if *patch > 0 { write!(f, ".{patch}") } else { Ok(()) }
    }
}

/// What must be there for a library to be loaded, and what it offers to others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Linkage {
    pub(super) elf: Elf,
    /// `DT_NEEDED`, in order.
    pub(super) needed: Vec<String>,
    /// The newest version of glibc that is needed of each library, by its name (`libc.so.6`).
    pub(super) needs_glibc: BTreeMap<String, GlibcVersion>,
    /// The newest version of glibc that it offers; libc and its companions only.
    pub(super) offers_glibc: Option<GlibcVersion>,
}

/// Reads a file's header and name; `None` when it is no ELF file.
pub(super) fn read<R: Read + Seek>(file: R) -> Option<Elf> {
    fn of<H: Header, R: Read + Seek>(cache: &ReadCache<R>, bits: Bits) -> Option<Elf> {
        Some(Image::<H, R>::open(cache)?.elf(bits))
    }
    let cache = ReadCache::new(file);
    match FileKind::parse(&cache).ok()? {
        FileKind::Elf64 => of::<FileHeader64<Endianness>, R>(&cache, Bits::B64),
        FileKind::Elf32 => of::<FileHeader32<Endianness>, R>(&cache, Bits::B32),
        _ => None,
    }
}

/// Reads what a file needs and offers; `None` when it is no ELF file.
pub(super) fn linkage<R: Read + Seek>(file: R) -> Option<Linkage> {
    fn of<H: Header, R: Read + Seek>(cache: &ReadCache<R>, bits: Bits) -> Option<Linkage> {
        Some(Image::<H, R>::open(cache)?.linkage(bits))
    }
    let cache = ReadCache::new(file);
    match FileKind::parse(&cache).ok()? {
        FileKind::Elf64 => of::<FileHeader64<Endianness>, R>(&cache, Bits::B64),
        FileKind::Elf32 => of::<FileHeader32<Endianness>, R>(&cache, Bits::B32),
        _ => None,
    }
}

/// The content of the first note in the section of this name, if `owner` wrote it.
pub(super) fn note<R: Read + Seek>(file: R, section: &str, owner: &str) -> Option<Vec<u8>> {
    let cache = ReadCache::new(file);
    match FileKind::parse(&cache).ok()? {
        FileKind::Elf64 => Image::<FileHeader64<Endianness>, R>::open(&cache)?.note(section, owner),
        FileKind::Elf32 => Image::<FileHeader32<Endianness>, R>::open(&cache)?.note(section, owner),
        _ => None,
    }
}

/// Headers of either word size.
trait Header: FileHeader<Endian = Endianness> {}
impl<H: FileHeader<Endian = Endianness>> Header for H {}

/// An ELF file, open.
struct Image<'d, H: Header, R: Read + Seek> {
    data: &'d ReadCache<R>,
    header: &'d H,
    endian: Endianness,
    segments: &'d [H::ProgramHeader],
    dynamic: &'d [H::Dyn],
    /// Address and size of the table of strings.
    strings: Option<(u64, u64)>,
}

impl<'d, H: Header, R: Read + Seek> Image<'d, H, R> {
    fn open(data: &'d ReadCache<R>) -> Option<Self> {
        let header = H::parse(data).ok()?;
        let endian = header.endian().ok()?;
        let segments = Self::segments(data, header, endian).unwrap_or_default();
        let dynamic = Self::dynamic(data, segments, endian).unwrap_or_default();
        let value = |tag| dynamic.iter().find(|entry| entry.tag(endian) == tag).map(|entry| entry.val(endian));
        let strings = value(DT_STRTAB).zip(value(DT_STRSZ));
        Some(Self { data, header, endian, segments, dynamic, strings })
    }

    fn segments(data: &'d ReadCache<R>, header: &H, endian: Endianness) -> Option<&'d [H::ProgramHeader]> {
        if header.e_phnum(endian) > MAX_SEGMENTS {
            return None;
        }
        header.program_headers(endian, data).ok()
    }

    fn dynamic(data: &'d ReadCache<R>, segments: &[H::ProgramHeader], endian: Endianness) -> Option<&'d [H::Dyn]> {
        let segment = segments.iter().find(|segment| segment.p_type(endian) == PT_DYNAMIC)?;
        if segment.p_filesz(endian).into() > MAX_DYNAMIC_BYTES {
            return None;
        }
        segment.dynamic(endian, data).ok()?
    }

    fn elf(&self, bits: Bits) -> Elf {
        let soname = self.values(DT_SONAME).next().and_then(|offset| self.name(offset));
        Elf { bits, machine: self.header.e_machine(self.endian).0, soname }
    }

    fn linkage(&self, bits: Bits) -> Linkage {
        let needed = self.values(DT_NEEDED).take(MAX_NEEDED).filter_map(|offset| self.name(offset)).collect();
        let offered = self.defined_versions();
        Linkage {
            elf: self.elf(bits),
            needed,
            needs_glibc: self.needed_versions(),
            offers_glibc: offered.last().copied(),
        }
    }

    fn values(&self, tag: object::elf::DynamicTag) -> impl Iterator<Item = u64> + '_ {
        self.dynamic.iter().filter(move |entry| entry.tag(self.endian) == tag).map(|entry| entry.val(self.endian))
    }

    /// Where in the file the byte is that will stand at this address.
    fn offset(&self, address: u64) -> Option<u64> {
        let endian = self.endian;
        let load = self.segments.iter().filter(|segment| segment.p_type(endian) == PT_LOAD).find(|segment| {
            let (start, length) = (segment.p_vaddr(endian).into(), segment.p_filesz(endian).into());
            address >= start && address - start < length
        })?;
        load.p_offset(endian).into().checked_add(address - load.p_vaddr(endian).into())
    }

    /// A text of the table of strings.
    fn text(&self, offset: u64) -> Option<&'d str> {
        let (table, size) = self.strings?;
        let left = size.checked_sub(offset).filter(|left| *left > 0)?;
        let start = self.offset(table.checked_add(offset)?)?;
        let end = start.checked_add(left.min(MAX_NAME_BYTES))?;
        std::str::from_utf8(self.data.read_bytes_at_until(start..end, 0).ok()?).ok()
    }

    fn name(&self, offset: u64) -> Option<String> {
        file_name(self.text(offset)?)
    }

    fn record<T: Pod>(&self, offset: u64) -> Option<&'d T> {
        self.data.read_at::<T>(offset).ok()
    }

    /// `DT_VERNEED`: for each library a list of versions.
    fn needed_versions(&self) -> BTreeMap<String, GlibcVersion> {
        let (endian, mut found) = (self.endian, BTreeMap::new());
        let mut steps = MAX_VERSION_RECORDS;
        let mut at = self.values(DT_VERNEED).next().and_then(|address| self.offset(address));
        while let Some((offset, need)) = at.and_then(|at| Some((at, self.record::<Verneed<Endianness>>(at)?))) {
            let mut newest = None;
            let mut aux_at = next(offset, need.vn_aux.get(endian));
            while let Some((aux_offset, aux)) =
                aux_at.and_then(|at| Some((at, self.record::<Vernaux<Endianness>>(at)?)))
            {
                newest = newest.max(self.text(aux.vna_name.get(endian).into()).and_then(GlibcVersion::parse));
                steps = steps.saturating_sub(1);
                aux_at = next(aux_offset, aux.vna_next.get(endian)).filter(|_| steps > 0);
            }
            if let (Some(name), Some(version)) = (self.name(need.vn_file.get(endian).into()), newest) {
                found.insert(name, version);
            }
            steps = steps.saturating_sub(1);
            at = next(offset, need.vn_next.get(endian)).filter(|_| steps > 0);
        }
        found
    }

    /// `DT_VERDEF`: each version is named by the first of its texts, the others are those it follows.
    fn defined_versions(&self) -> BTreeSet<GlibcVersion> {
        let (endian, mut found) = (self.endian, BTreeSet::new());
        let mut steps = MAX_VERSION_RECORDS;
        let mut at = self.values(DT_VERDEF).next().and_then(|address| self.offset(address));
        while let Some((offset, definition)) = at.and_then(|at| Some((at, self.record::<Verdef<Endianness>>(at)?))) {
            let aux = next(offset, definition.vd_aux.get(endian)).and_then(|at| self.record::<Verdaux<Endianness>>(at));
            let text = aux.and_then(|aux| self.text(aux.vda_name.get(endian).into()));
            found.extend(text.and_then(GlibcVersion::parse));
            steps -= 1;
            at = next(offset, definition.vd_next.get(endian)).filter(|_| steps > 0);
        }
        found
    }

    fn note(&self, section: &str, owner: &str) -> Option<Vec<u8>> {
        let (header, endian) = (self.header, self.endian);
        // The extended numbering of files with very many sections (0 here) is not followed: it has no bound.
        if header.e_shnum(endian) == 0 || header.e_shnum(endian) > MAX_SECTIONS {
            return None;
        }
        let sections = header.section_headers(endian, self.data).ok()?;
        let strings = header.section_strings(endian, self.data, sections).ok()?;
        let found = sections.iter().find(|candidate| {
            candidate.sh_type(endian) == SHT_NOTE
                && candidate.name(endian, strings).is_ok_and(|name| name == section.as_bytes())
        })?;
        let size = found.sh_size(endian).into();
        if size > MAX_NOTE_BYTES {
            return None;
        }
        let bytes = self.data.read_bytes_at(found.sh_offset(endian).into(), size).ok()?;
        let align = if found.sh_addralign(endian).into() == 8 { 8 } else { 4 };
        self.note_content(bytes, align, owner).map(<[u8]>::to_vec)
    }

    /// The first note of these: sizes of name and content and a type, then both, padded.
    fn note_content(&self, bytes: &'d [u8], align: usize, owner: &str) -> Option<&'d [u8]> {
        let size = |at: usize| usize::try_from(self.word(bytes.get(at..at + 4)?)).ok();
        let (name_bytes, content_bytes) = (size(0)?, size(4)?);
        let name = bytes.get(NOTE_HEADER_BYTES..NOTE_HEADER_BYTES.checked_add(name_bytes)?)?;
        let start = NOTE_HEADER_BYTES.checked_add(name_bytes.checked_next_multiple_of(align)?)?;
        // Libraries for Tegra say more than the section has.
        let content = bytes.get(start..start.checked_add(content_bytes)?.min(bytes.len()))?;
        (trimmed(name) == owner.as_bytes()).then(|| trimmed(content))
    }

    fn word(&self, bytes: &[u8]) -> u32 {
        let bytes = <[u8; 4]>::try_from(bytes).unwrap_or_default();
        if self.endian == Endianness::Big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    }
}

/// Where the record after this one stands; 0 ends a list.
fn next(offset: u64, distance: u32) -> Option<u64> {
    (distance != 0).then(|| offset.checked_add(distance.into())).flatten()
}

/// Without the zeroes that pad it.
fn trimmed(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    &bytes[..end]
}

/// A library's name becomes a link in the container: it must be the name of a file and no path.
fn file_name(name: &str) -> Option<String> {
    let good = !name.is_empty()
        && !matches!(name, "." | "..")
        && name.chars().all(|character| character.is_ascii_graphic() && character != '/');
    good.then(|| name.to_owned())
}
