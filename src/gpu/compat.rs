//! CUDA's forward compatibility: an image may bring a libcuda that is newer than the driver here and still speaks with it.
//!
//! The package `cuda-compat` puts it into `/usr/local/cuda/compat`. Since CUDA 12.9 it says itself on what it runs, in a note
//! of the section `.note.cuda.fwd_compatibility`, written by "NVIDIA Corporation", type 0:
//!
//! ```json
//! {"format":1,"CUDA version":"12.9","driver":[535,550,560,565,570,575],"device":[1,2,7,8,9,10]}
//! ```
//!
//! `driver` are branches of drivers. The rule is that of `nvidia-cdi-hook enable-cuda-compat` (NVIDIA Container Toolkit,
//! `cmd/nvidia-cdi-hook/cudacompat`, as of August 2026); `device` is not looked at there either:
//!
//! | note | driver's version known | wins if |
//! |------|------------------------|---------|
//! | yes  | yes | the driver's branch is listed and the image's version is higher |
//! | yes  | no  | the note's CUDA version is higher than the driver's |
//! | no   | yes | the image's branch is higher, and no CUDA version was said for the driver |
//! | no   | no  | never |
//!
//! A damaged note counts as none. A directory with more than one `libcuda.so.<version>` is not used.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::Deserialize;

use super::elf;
use super::inventory::Version;
use super::ldcache::{Entry, Loader};
use crate::rootfs::{RootfsError, View};
use crate::sys::beneath::FileKind;
use crate::words::printable;

/// Where the package puts the libraries; `/usr/local/cuda` is a link to the version in use.
pub const COMPAT_DIRECTORY: &str = "/usr/local/cuda/compat";
const CUDA_PARENT: &str = "/usr/local";
const LIBRARY_PREFIX: &str = "libcuda.so.";
const NOTE_SECTION: &str = ".note.cuda.fwd_compatibility";
const NOTE_OWNER: &str = "NVIDIA Corporation";
/// Names in one directory; the package has ten files, `/usr/local` about as many.
const MAX_NAMES: usize = 1024;
/// Versions of CUDA in one image.
const MAX_DIRECTORIES: usize = 16;

/// Branches that a message tells of; a real note has six.
const MAX_BRANCHES_SHOWN: usize = 16;

/// What a libcuda says about where it can be used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Note {
    /// The version of CUDA that it has.
    #[serde(rename = "CUDA version", alias = "CUDA Version", default)]
    cuda_version: String,
    /// Branches of drivers that it runs on.
    #[serde(default)]
    driver: Vec<u32>,
}

impl Note {
    fn cuda(&self) -> Option<(u32, u32)> {
        let mut numbers = self.cuda_version.split('.').map(|part| part.parse().ok());
        Some((numbers.next()??, numbers.next().unwrap_or(Some(0))?))
    }
}

/// A libcuda of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Where it is in the image.
    pub path: String,
    /// The version in its name.
    pub version: Version,
    /// What it says of itself.
    pub note: Option<Note>,
}

impl Candidate {
    fn directory(&self) -> &str {
        self.path.rsplit_once('/').map_or("", |(directory, _)| directory)
    }
}

/// What is known of the driver that runs here.
#[derive(Debug, Clone, Copy)]
pub struct Host<'a> {
    /// Its version; `None` where it cannot be compared with those of libraries, as on Tegra.
    pub driver: Option<&'a Version>,
    /// The newest CUDA that it speaks. NVIDIA's tools say it on Tegra only, and its presence changes the rule: leave it out
    /// elsewhere.
    pub cuda: Option<(u32, u32)>,
}

/// Whose libcuda a container is to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The image's: the loader has to find what is in this directory before the driver's.
    Use {
        /// In the image.
        directory: String,
        /// In words, for `gpu explain`.
        why: String,
    },
    /// The driver's.
    No {
        /// In words.
        why: String,
    },
}

/// Chooses between the driver's libcuda and those of the image; of several that could be used the newest.
#[must_use]
pub fn decide(host: Host<'_>, candidates: &[Candidate]) -> Decision {
    let mut directories = BTreeMap::<&str, Vec<&Candidate>>::new();
    for candidate in candidates {
        directories.entry(candidate.directory()).or_default().push(candidate);
    }
    let (mut best, mut refused) = (None::<(&Candidate, String)>, Vec::new());
    for (directory, inside) in directories {
        let [candidate] = inside[..] else {
            let directory = printable(directory);
            refused.push(format!("`{directory}` has {} versions of libcuda, expected one", inside.len()));
            continue;
        };
        match judge(host, candidate) {
            Ok(why) if best.as_ref().is_none_or(|(best, _)| candidate.version > best.version) => {
                best = Some((candidate, why));
            }
            Ok(_) => {}
            Err(why) => refused.push(why),
        }
    }
    match best {
        Some((candidate, why)) => Decision::Use { directory: candidate.directory().to_owned(), why },
        None if refused.is_empty() => {
            Decision::No { why: "the image has no libraries for forward compatibility".into() }
        }
        None => Decision::No { why: refused.join("; ") },
    }
}

/// Why this one is used, or is not.
fn judge(host: Host<'_>, candidate: &Candidate) -> Result<String, String> {
    let of_image = format!("the image's libcuda {}", candidate.version);
    match (&candidate.note, host.driver, host.cuda) {
        (Some(note), Some(driver), _) => judge_by_branches(&of_image, candidate, note, driver),
        (Some(note), None, Some(cuda)) => judge_by_cuda(&of_image, note, cuda),
        (None, Some(driver), None) => judge_by_major(&of_image, candidate, driver),
        (None, _, Some(_)) => Err(format!("{of_image} does not say on which drivers it runs")),
        (_, None, None) => Err("the driver's version is not known".into()),
    }
}

fn judge_by_branches(of_image: &str, candidate: &Candidate, note: &Note, driver: &Version) -> Result<String, String> {
    let listed = driver.major().is_some_and(|major| note.driver.contains(&major));
    if !listed {
        let shown = note.driver.iter().take(MAX_BRANCHES_SHOWN);
        let branches = shown.map(u32::to_string).collect::<Vec<_>>().join(", ");
        return Err(format!("{of_image} does not run on driver {driver}, only on the branches {branches}"));
    }
    if candidate.version.partial_cmp(driver) == Some(Ordering::Greater) {
        return Ok(format!("{of_image} is newer than driver {driver} and says that it runs on it"));
    }
    Err(format!("{of_image} is not newer than driver {driver}"))
}

fn judge_by_cuda(of_image: &str, note: &Note, (major, minor): (u32, u32)) -> Result<String, String> {
    let Some((own_major, own_minor)) = note.cuda() else {
        return Err(format!("{of_image} does not say its version of CUDA"));
    };
    let words = format!("has CUDA {own_major}.{own_minor}, the driver CUDA {major}.{minor}");
    let newer = (own_major, own_minor) > (major, minor);
    if newer { Ok(format!("{of_image} {words}")) } else { Err(format!("{of_image} {words}")) }
}

fn judge_by_major(of_image: &str, candidate: &Candidate, driver: &Version) -> Result<String, String> {
    let newer = candidate.version.major().zip(driver.major()).is_some_and(|(own, host)| own > host);
    if newer {
        return Ok(format!("{of_image} is of a newer branch than driver {driver}"));
    }
    Err(format!("{of_image} is not of a newer branch than driver {driver}"))
}

/// What an image has: in `/usr/local/cuda/compat`, else, where there is no such directory, in `/usr/local/cuda-*/compat`.
///
/// # Errors
/// [`RootfsError::Read`], when the image cannot be read or a directory has too many names.
pub fn candidates(image: &View) -> Result<Vec<Candidate>, RootfsError> {
    if image.kind(COMPAT_DIRECTORY)? == Some(FileKind::Directory) {
        return candidates_in(image, COMPAT_DIRECTORY);
    }
    let names = image.names(CUDA_PARENT, MAX_NAMES)?.unwrap_or_default();
    let mut found = Vec::new();
    for (name, _) in names.iter().filter(|(name, _)| name.starts_with("cuda-")).take(MAX_DIRECTORIES) {
        found.extend(candidates_in(image, &format!("{CUDA_PARENT}/{name}/compat"))?);
    }
    Ok(found)
}

/// What an image has in this directory: regular files named `libcuda.so.<version>` with at least two numbers.
///
/// # Errors
/// As [`candidates`].
pub fn candidates_in(image: &View, directory: &str) -> Result<Vec<Candidate>, RootfsError> {
    let mut found = Vec::new();
    for (name, kind) in image.names(directory, MAX_NAMES)?.unwrap_or_default() {
        let version = name.strip_prefix(LIBRARY_PREFIX).filter(|text| is_version(text));
        let (Some(version), FileKind::Regular) = (version, kind) else { continue };
        let path = format!("{directory}/{name}");
        let note = image.open_file(&path)?.and_then(|file| elf::note(file, NOTE_SECTION, NOTE_OWNER));
        let note = note.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        found.push(Candidate { version: Version::new(version), path, note });
    }
    Ok(found)
}

fn is_version(text: &str) -> bool {
    let parts = text.split('.').collect::<Vec<_>>();
    parts.len() > 1 && parts.iter().all(|part| part.parse::<u32>().is_ok())
}

/// The libraries of a directory as the loader's cache is to have them, for [`Decision::Use`]: each by the name that programs
/// ask for. Put them before the driver's, whose entries of the same names would win otherwise.
///
/// # Errors
/// As [`candidates`].
pub fn libraries(image: &View, directory: &str, loader: Loader) -> Result<Vec<Entry>, RootfsError> {
    let names = image.names(directory, MAX_NAMES)?.unwrap_or_default();
    let mut found = BTreeMap::new();
    for (name, _) in names.iter().filter(|(name, kind)| name.contains(".so") && *kind == FileKind::Regular) {
        let elf = image.open_file(&format!("{directory}/{name}"))?.and_then(elf::read);
        let Some(elf) = elf.filter(|elf| elf.loader() == Some(loader)) else { continue };
        let Some(soname) = elf.soname else { continue };
        // The package has links by these names; what they lead to may change with it, the name does not.
        let linked = names.iter().any(|(other, _)| *other == soname);
        let path = format!("{directory}/{}", if linked { &soname } else { name });
        found.insert(soname.clone(), Entry::new(&soname, &path, loader));
    }
    Ok(found.into_values().collect())
}

#[cfg(test)]
mod tests;
