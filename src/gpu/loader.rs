//! How the container's dynamic loader finds the driver's libraries, without an environment variable and without running anything:
//! glibc's cache and ldconfig's configuration, musl's path file, and links by the names that programs ask for.
//!
//! glibc looks into its cache before its default directories, so an image without a cache gets one with nothing but the driver
//! in it, and finds its own libraries as before. musl reads `/etc/ld-musl-<architecture>.path` instead of its default list.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::elf;
use super::files::Bits;
use super::ldcache::{self, Entry, Loader, MAX_CACHE_BYTES};
use crate::rootfs::{RootEdits, RootFile, RootLink, RootfsError, View};

const CACHE: &str = "/etc/ld.so.cache";
const CONFIGURATION: &str = "/etc/ld.so.conf.d/00-dockless-nvidia.conf";
const FILE_MODE: u32 = 0o644;
/// What musl searches when its file is missing (`ldso/dynlink.c`).
const MUSL_DEFAULT: &str = "/lib:/usr/local/lib:/usr/lib";
const MAX_MUSL_PATH_BYTES: u64 = 64 << 10;

/// The loaders of one architecture.
#[derive(Debug, Clone, Copy)]
struct Native {
    loader: Loader,
    /// Where glibc's is in every image that has it.
    glibc: &'static str,
    /// As musl names the architecture.
    musl: &'static str,
}

/// The loader of programs of this machine's architecture.
pub const NATIVE_LOADER: Loader = NATIVE.loader;

const NATIVE: Native = if cfg!(target_arch = "aarch64") {
    Native { loader: Loader::Aarch64, glibc: "/lib/ld-linux-aarch64.so.1", musl: "aarch64" }
} else {
    Native { loader: Loader::X8664, glibc: "/lib64/ld-linux-x86-64.so.2", musl: "x86_64" }
};

/// What of an image its loaders read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageLoaders {
    /// glibc's is there.
    pub glibc: bool,
    /// musl's is there.
    pub musl: bool,
    /// glibc's cache.
    pub cache: Option<Vec<u8>>,
    /// musl's path file.
    pub musl_path: Option<String>,
}

impl ImageLoaders {
    /// Looks into an image. A cache that is too large or no file is as good as none.
    pub fn of(view: &View) -> Result<Self, RootfsError> {
        let there = |path: &str| view.kind(path).map(|kind| kind.is_some());
        let read = |path: &str, limit| view.read_file(path, limit).ok().flatten();
        let musl_path = read(&musl_file(), MAX_MUSL_PATH_BYTES);
        Ok(Self {
            glibc: there(NATIVE.glibc)?,
            musl: there(&format!("/lib/ld-musl-{}.so.1", NATIVE.musl))?,
            cache: read(CACHE, MAX_CACHE_BYTES as u64),
            musl_path: musl_path.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        })
    }
}

fn musl_file() -> String {
    format!("/etc/ld-musl-{}.path", NATIVE.musl)
}

/// A library in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    /// Where.
    pub path: PathBuf,
    /// What programs ask for.
    pub soname: String,
    /// It is for 32-bit programs of a 64-bit machine.
    pub is_32_bit: bool,
}

/// The name that programs ask a library of this machine for, and whether it is a 32-bit one; nothing for other files.
#[must_use]
pub fn soname(library: &Path) -> Option<(String, bool)> {
    let elf = elf::read(std::fs::File::open(library).ok()?)?;
    Some((elf.soname?, elf.bits == Bits::B32))
}

/// What the loaders need to find these libraries, and a note for people if the image's own cache is not used.
///
/// `preferred` are libraries of the image that win over them. `links` are other names for them, in the same directories.
#[must_use]
pub fn loader_edits(
    image: &ImageLoaders,
    preferred: &[Entry],
    libraries: &[Library],
    links: &[RootLink],
) -> (RootEdits, Option<String>) {
    let mut edits = RootEdits::default();
    let mut note = None;
    if libraries.is_empty() {
        return (edits, note);
    }
    let directories: BTreeSet<&Path> = libraries.iter().filter_map(|library| library.path.parent()).collect();
    edits.links = libraries.iter().filter_map(|library| link(library, preferred)).collect();
    if image.glibc || !image.musl {
        let own = match image.cache.as_deref().map(ldcache::parse) {
            None => Vec::new(),
            Some(Ok(entries)) => entries,
            Some(Err(error)) => {
                note = Some(format!("the image's `{CACHE}` is replaced: {error}"));
                Vec::new()
            }
        };
        let entries = [preferred, &entries(libraries, links)].concat();
        edits.files.push(file(CACHE, ldcache::merged(&own, &entries)));
        let text: String =
            directories.iter().flat_map(|directory| [directory.display().to_string(), "\n".to_owned()]).collect();
        edits.files.push(file(CONFIGURATION, text.into_bytes()));
    }
    if image.musl {
        let native = libraries.iter().filter(|library| !library.is_32_bit);
        let ours: BTreeSet<&Path> = native.filter_map(|library| library.path.parent()).collect();
        edits.files.push(file(&musl_file(), musl_path(&ours, image.musl_path.as_deref()).into_bytes()));
    }
    (edits, note)
}

fn file(path: &str, content: Vec<u8>) -> RootFile {
    RootFile { path: path.into(), content, mode: FILE_MODE }
}

/// The name that programs ask for, where the file itself has another. It leads to the image's own library if that is preferred:
/// many images have our directory on `LD_LIBRARY_PATH`, which comes before any cache.
fn link(library: &Library, preferred: &[Entry]) -> Option<RootLink> {
    let (directory, name) = (library.path.parent()?, library.path.file_name()?);
    let is_other = !library.soname.contains('/') && name != library.soname.as_str();
    let better = preferred.iter().find(|entry| !library.is_32_bit && entry.soname() == library.soname);
    let target = better.map_or_else(|| name.into(), |entry| entry.path().into());
    is_other.then(|| RootLink { path: directory.join(&library.soname), target })
}

fn entries(libraries: &[Library], links: &[RootLink]) -> Vec<Entry> {
    let loader = |is_32_bit| if is_32_bit { Loader::I386 } else { NATIVE.loader };
    let text = |path: &Path| path.to_str().map(str::to_owned);
    let mut entries: Vec<Entry> = libraries
        .iter()
        .filter_map(|library| Some(Entry::new(&library.soname, &text(&library.path)?, loader(library.is_32_bit))))
        .collect();
    for link in links {
        let beside = libraries.iter().find(|library| library.path.parent() == link.path.parent());
        if let (Some(beside), Some(name), Some(path)) =
            (beside, link.path.file_name().and_then(|name| name.to_str()), text(&link.path))
        {
            entries.push(Entry::new(name, &path, loader(beside.is_32_bit)));
        }
    }
    entries
}

/// Our directories first: a stand-in for the driver that an image may have must not win over it.
fn musl_path(ours: &BTreeSet<&Path>, image: Option<&str>) -> String {
    let own = image.map_or(MUSL_DEFAULT, str::trim).split([':', '\n']).filter(|directory| !directory.is_empty());
    let ours: Vec<String> = ours.iter().map(|directory| directory.display().to_string()).collect();
    let own = own.filter(|directory| !ours.iter().any(|known| known == directory)).map(str::to_owned);
    ours.iter().cloned().chain(own).flat_map(|directory| [directory, "\n".to_owned()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn libraries() -> Vec<Library> {
        let library =
            |path: &str, soname: &str, is_32_bit| Library { path: path.into(), soname: soname.to_owned(), is_32_bit };
        vec![
            library("/usr/local/nvidia/lib64/libcuda.so.570.86.10", "libcuda.so.1", false),
            library("/usr/local/nvidia/lib64/libnvidia-tls.so.570.86.10", "libnvidia-tls.so.570.86.10", false),
            library("/usr/local/nvidia/lib32/libcuda.so.570.86.10", "libcuda.so.1", true),
        ]
    }

    fn links() -> Vec<RootLink> {
        vec![RootLink { path: "/usr/local/nvidia/lib64/libcuda.so".into(), target: "libcuda.so.1".into() }]
    }

    fn content<'a>(edits: &'a RootEdits, path: &str) -> Option<&'a [u8]> {
        edits.files.iter().find(|file| file.path == Path::new(path)).map(|file| file.content.as_slice())
    }

    #[test]
    fn glibc_finds_them_by_every_name() {
        let image = ImageLoaders { glibc: true, ..ImageLoaders::default() };
        let (edits, note) = loader_edits(&image, &[], &libraries(), &links());
        assert_eq!(note, None);
        let entries = ldcache::parse(content(&edits, CACHE).unwrap()).unwrap();
        let of = |name: &str, loader| {
            entries.iter().find(|entry| entry.soname() == name && entry.is_for(loader)).map(Entry::path)
        };
        let place = |name: &str| Some(format!("/usr/local/nvidia/{name}"));
        assert_eq!(of("libcuda.so.1", NATIVE.loader), place("lib64/libcuda.so.570.86.10"));
        assert_eq!(of("libcuda.so", NATIVE.loader), place("lib64/libcuda.so"));
        assert_eq!(of("libcuda.so.1", Loader::I386), place("lib32/libcuda.so.570.86.10"));
        let made: Vec<&str> = edits.links.iter().map(|link| link.path.to_str().unwrap()).collect();
        assert_eq!(made, ["/usr/local/nvidia/lib64/libcuda.so.1", "/usr/local/nvidia/lib32/libcuda.so.1"]);
        let lines = String::from_utf8(content(&edits, CONFIGURATION).unwrap().to_vec()).unwrap();
        assert_eq!(lines, "/usr/local/nvidia/lib32\n/usr/local/nvidia/lib64\n");
    }

    #[test]
    fn newer_libraries_of_the_image_win_in_every_way() {
        let image = ImageLoaders { glibc: true, ..ImageLoaders::default() };
        let newer = [Entry::new("libcuda.so.1", "/usr/local/cuda/compat/libcuda.so.1", NATIVE.loader)];
        let (edits, _) = loader_edits(&image, &newer, &libraries(), &links());
        let entries = ldcache::parse(content(&edits, CACHE).unwrap()).unwrap();
        let first = entries.iter().find(|entry| entry.soname() == "libcuda.so.1" && entry.is_for(NATIVE.loader));
        assert_eq!(first.map(Entry::path).as_deref(), Some("/usr/local/cuda/compat/libcuda.so.1"));
        let target = |directory: &str| {
            let path = Path::new("/usr/local/nvidia").join(directory).join("libcuda.so.1");
            edits.links.iter().find(|link| link.path == path).map(|link| link.target.clone()).unwrap()
        };
        assert_eq!(target("lib64"), Path::new("/usr/local/cuda/compat/libcuda.so.1"));
        assert_eq!(target("lib32"), Path::new("libcuda.so.570.86.10"));
    }

    #[test]
    fn what_the_image_knows_stays_known() {
        let own = [Entry::new("libz.so.1", "/lib/libz.so.1", NATIVE.loader)];
        let cache = Some(ldcache::merged(&own, &[]));
        let image = ImageLoaders { glibc: true, cache, ..ImageLoaders::default() };
        let (edits, _) = loader_edits(&image, &[], &libraries(), &[]);
        let entries = ldcache::parse(content(&edits, CACHE).unwrap()).unwrap();
        assert!(entries.contains(&own[0]) && entries.len() == 4, "{entries:?}");
        let damaged = ImageLoaders { cache: Some(b"no cache".to_vec()), ..image };
        let (edits, note) = loader_edits(&damaged, &[], &libraries(), &[]);
        assert!(note.unwrap().contains("another format"));
        assert_eq!(ldcache::parse(content(&edits, CACHE).unwrap()).unwrap().len(), 3);
    }

    #[test]
    fn musl_searches_them_first() {
        let image = ImageLoaders { musl: true, ..ImageLoaders::default() };
        for (path, expected) in [
            (None, "/usr/local/nvidia/lib64\n/lib\n/usr/local/lib\n/usr/lib\n"),
            (Some("/opt/lib:/lib\n"), "/usr/local/nvidia/lib64\n/opt/lib\n/lib\n"),
            (Some("/usr/local/nvidia/lib64\n/lib"), "/usr/local/nvidia/lib64\n/lib\n"),
        ] {
            let image = ImageLoaders { musl_path: path.map(str::to_owned), ..image.clone() };
            let (edits, _) = loader_edits(&image, &[], &libraries(), &[]);
            assert_eq!(content(&edits, &musl_file()).unwrap(), expected.as_bytes());
            assert_eq!(content(&edits, CACHE), None, "glibc is not there");
        }
    }

    #[test]
    fn no_library_no_change() {
        let (edits, note) = loader_edits(&ImageLoaders::default(), &[], &[], &[]);
        assert_eq!((edits, note), (RootEdits::default(), None));
    }
}
