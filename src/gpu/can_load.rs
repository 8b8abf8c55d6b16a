//! Whether a container can load the driver that is put into it, told without running anything of its image.
//!
//! NVIDIA's libraries are linked with glibc. An image with another libc, an old glibc or none at all takes them in and then
//! says that there is no GPU, so this is said before: a warning, because the check knows less than the loader does (a program
//! may bring a loader of its own).
//!
//! What is asked: glibc's loader, each library that libcuda needs, found as the loader finds it (its cache, then its own
//! directories), and of each the versions that libcuda was linked with. Only headers and tables of the files are read.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::elf::{self, Elf, GlibcVersion, Linkage};
use super::ldcache::{self, Loader, MAX_CACHE_BYTES};
use crate::rootfs::{RootfsError, View};
use crate::sys::beneath::FileKind;
use crate::words::printable;

const HINT_GLIBC: &str = "hint: use an image based on Debian, Ubuntu, Fedora or another distribution with glibc";
const HINT_NEWER: &str = "hint: use an image of a newer distribution";

/// What glibc has in which place on one architecture.
struct Layout {
    /// For which libraries it is.
    cache: Loader,
    /// glibc's loader, as programs name it.
    loader: &'static str,
    musl: &'static str,
    /// Where the loader looks when its cache does not know; Debian's are first, no image has both.
    directories: [&'static str; 6],
}

const LAYOUTS: [Layout; 2] = [
    Layout {
        cache: Loader::X8664,
        loader: "/lib64/ld-linux-x86-64.so.2",
        musl: "/lib/ld-musl-x86_64.so.1",
        directories: ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"],
    },
    Layout {
        cache: Loader::Aarch64,
        loader: "/lib/ld-linux-aarch64.so.1",
        musl: "/lib/ld-musl-aarch64.so.1",
        directories: [
            "/lib/aarch64-linux-gnu",
            "/usr/lib/aarch64-linux-gnu",
            "/lib64",
            "/usr/lib64",
            "/lib",
            "/usr/lib",
        ],
    },
];

/// Why nothing could be told.
#[derive(Debug, thiserror::Error)]
pub enum CanLoadError {
    /// libcuda cannot be read.
    #[error("cannot read `{}`", path.display())]
    Driver {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// libcuda is something else.
    #[error("`{}` is no library for x86-64 or 64-bit Arm\nhint: install NVIDIA's driver anew", .0.display())]
    NotADriver(PathBuf),
    /// The image cannot be read.
    #[error("cannot tell whether the image can load NVIDIA's driver")]
    Image(#[from] RootfsError),
}

/// Looks for what would keep programs of the image from loading the host's libcuda; each problem is a text for a warning,
/// with a hint. `given` are names of libraries that the run puts into the container itself.
///
/// # Errors
/// [`CanLoadError`], when a file that must be read cannot be.
pub fn can_load(libcuda_on_host: &Path, image: &View, given: &[&str]) -> Result<Vec<String>, CanLoadError> {
    let driver = read_driver(libcuda_on_host)?;
    let not_a_driver = || CanLoadError::NotADriver(libcuda_on_host.to_owned());
    let layout = layout_of(&driver.elf).ok_or_else(not_a_driver)?;
    let name = libcuda_on_host.file_name().map_or_else(|| "libcuda".into(), |name| name.to_string_lossy().into_owned());
    if let Some(problem) = without_loader(layout, image)? {
        return Ok(vec![problem]);
    }
    let (mut problems, mut missing) = (Vec::new(), Vec::new());
    let finder = Finder { layout, image, cache: read_cache(layout, image)? };
    for needed in driver.needed.iter().filter(|needed| !given.contains(&needed.as_str())) {
        let Some((path, found)) = finder.find(needed)? else {
            missing.push(format!("`{needed}`"));
            continue;
        };
        let wanted = driver.needs_glibc.get(needed).copied();
        problems.extend(wanted.and_then(|wanted| too_old(&name, needed, &path, wanted, found.offers_glibc)));
    }
    if !missing.is_empty() {
        let missing = missing.join(", ");
        problems
            .push(format!("the image lacks {missing}, which `{name}` needs\nhint: install the package that has it"));
    }
    Ok(problems)
}

fn read_driver(path: &Path) -> Result<Linkage, CanLoadError> {
    let failed = |source| CanLoadError::Driver { path: path.to_owned(), source };
    let metadata = std::fs::metadata(path).map_err(failed)?;
    let linkage = metadata.is_file().then(|| File::open(path)).transpose().map_err(failed)?.and_then(elf::linkage);
    linkage.ok_or_else(|| CanLoadError::NotADriver(path.to_owned()))
}

fn layout_of(elf: &Elf) -> Option<&'static Layout> {
    LAYOUTS.iter().find(|layout| fits(elf, layout))
}

fn fits(elf: &Elf, layout: &Layout) -> bool {
    elf.loader() == Some(layout.cache)
}

/// What is said of an image that has no loader of glibc's; `None` when it has.
fn without_loader(layout: &Layout, image: &View) -> Result<Option<String>, RootfsError> {
    let loader = layout.loader;
    // Alpine's gcompat puts a stub there that loads musl. glibc's own offers versions, as all of its libraries do.
    let real = match open(image, loader)? {
        Some(file) => elf::linkage(file).is_some_and(|found| found.offers_glibc.is_some() && fits(&found.elf, layout)),
        None => false,
    };
    if real {
        return Ok(None);
    }
    if image.kind(layout.musl)?.is_some() {
        return Ok(Some(format!("the image has musl's loader only, NVIDIA's driver needs glibc\n{HINT_GLIBC}")));
    }
    let problem =
        format!("the image has no `{loader}`, so only static programs run in it; NVIDIA's driver needs glibc");
    Ok(Some(format!("{problem}\n{HINT_GLIBC}")))
}

/// What the loader's cache has for this architecture. The loader does without one that is damaged, and so does this.
fn read_cache(layout: &Layout, image: &View) -> Result<Vec<ldcache::Entry>, RootfsError> {
    let bytes = match image.read_file("/etc/ld.so.cache", MAX_CACHE_BYTES as u64) {
        Err(RootfsError::FileTooLarge { .. }) => None,
        read => read?,
    };
    let mut entries = bytes.and_then(|bytes| ldcache::parse(&bytes).ok()).unwrap_or_default();
    entries.retain(|entry| entry.is_for(layout.cache));
    Ok(entries)
}

struct Finder<'a> {
    layout: &'static Layout,
    image: &'a View,
    cache: Vec<ldcache::Entry>,
}

impl Finder<'_> {
    /// The first library of this name that is for the machine, with its path.
    fn find(&self, name: &str) -> Result<Option<(String, Linkage)>, RootfsError> {
        let cached = self.cache.iter().filter(|entry| entry.soname() == name).map(ldcache::Entry::path);
        let usual = self.layout.directories.iter().map(|directory| format!("{directory}/{name}"));
        for path in cached.chain(usual) {
            let found = open(self.image, &path)?.and_then(elf::linkage);
            if let Some(found) = found.filter(|found| fits(&found.elf, self.layout)) {
                return Ok(Some((path, found)));
            }
        }
        Ok(None)
    }
}

/// The file at `path`; nothing where something else is.
fn open(image: &View, path: &str) -> Result<Option<File>, RootfsError> {
    if image.kind(path)? == Some(FileKind::Regular) { image.open_file(path) } else { Ok(None) }
}

fn too_old(
    driver: &str,
    library: &str,
    path: &str,
    wanted: GlibcVersion,
    offered: Option<GlibcVersion>,
) -> Option<String> {
    match offered {
        Some(offered) if offered >= wanted => None,
        Some(offered) => {
            let problem = format!("the image's glibc is {offered} (`{library}`), `{driver}` needs {wanted}");
            Some(format!("{problem}\n{HINT_NEWER}"))
        }
        None => Some(format!(
            "`{}` in the image is not glibc's, `{driver}` needs glibc {wanted}\n{HINT_GLIBC}",
            printable(path)
        )),
    }
}

#[cfg(test)]
mod tests;
