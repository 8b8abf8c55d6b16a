//! The libraries of a driver: which are there, which of them are wanted, which are missing.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use super::lists::{self, LIBRARIES, OWN_VERSIONS, X_DIRECTORIES};
use super::manifest::{self, Entry as Listed, Kind};
use super::search::{Real, Root};
use super::{
    Arch, Bits, Capability, DRIVER_CONTAINER, DriverFile, DriverFiles, FileKind, FilesError, MissingFile, Places, Rule,
    Version, Wanted, WithheldFile, elf, file_name, is_driver_version, split_library,
};

/// Directories that links lead to beside those that are listed.
const MAX_DIRECTORIES: usize = 64;

/// What was seen in the directories of libraries.
pub(super) struct Libraries {
    /// Directories in the order in which they count, with the libraries seen there.
    seen: Vec<(PathBuf, Vec<String>)>,
    version: Version,
    arch: Arch,
}

impl Libraries {
    /// The libraries in the driver's root, or those of a driver container below it when only there are some that belong to
    /// the running driver.
    pub(super) fn best(root: Root, places: &Places<'_>, version: &Version) -> (Root, Self) {
        let own = Self::see(&root, places.cache_paths, places.arch, version);
        if !own.has_version() {
            let inner = root.below(Path::new(DRIVER_CONTAINER));
            let inner = inner.map(|inner| (Self::see(&inner, &[], places.arch, version), inner));
            if let Some((libraries, inner)) = inner.filter(|(libraries, _)| libraries.has_version()) {
                return (inner, libraries);
            }
        }
        (root, own)
    }

    fn see(root: &Root, cache_paths: &[PathBuf], arch: Arch, version: &Version) -> Self {
        let (multiarch, multiarch_32) = arch.multiarch();
        let cached = cache_paths.iter().filter(|path| is_known(path)).filter_map(|path| path.parent());
        let listed = lists::library_directories(multiarch, multiarch_32).into_iter().map(PathBuf::from);
        let mut waiting: Vec<PathBuf> = cached.map(Path::to_owned).chain(listed).collect();
        let (mut known, mut seen) = (HashSet::new(), Vec::new());
        let mut at = 0;
        while at < waiting.len() && seen.len() < MAX_DIRECTORIES {
            // The same directory by two names (`/lib64` and `/usr/lib64`) is one.
            let directory = waiting[at].clone();
            at += 1;
            let Some(real) = root.resolve(&directory) else { continue };
            if !known.insert(real.inside.clone()) {
                continue;
            }
            let names = relevant(root.names(&directory), version);
            waiting.extend(beside_libcuda(root, &directory, &names));
            seen.push((directory.clone(), names));
            let vdpau = directory.join("vdpau");
            let names = relevant(root.names(&vdpau), version);
            if !names.is_empty() {
                seen.push((vdpau, names));
            }
        }
        Self { seen, version: version.clone(), arch }
    }

    /// All libraries with their paths, in the order in which they count.
    fn paths(&self) -> impl Iterator<Item = (PathBuf, &str, &str)> {
        self.seen.iter().flat_map(|(directory, names)| {
            names.iter().filter_map(|name| {
                let (stem, version) = split_library(name)?;
                Some((directory.join(name), stem, version))
            })
        })
    }

    fn has_version(&self) -> bool {
        self.has("libcuda") || self.has("libnvidia-ml")
    }

    /// Whether the library is there in the running driver's version.
    fn has(&self, wanted: &str) -> bool {
        self.paths().any(|(_, stem, version)| stem == wanted && version == self.version.as_str())
    }

    /// Fails when the libraries that are there belong to another driver than the one that runs. Libcuda decides; NVML does
    /// where there is no libcuda, or where nobody computes.
    pub(super) fn check(&self, wanted: Wanted<'_>) -> Result<(), FilesError> {
        let computes = wanted.first(&[Capability::Compute, Capability::Video]).is_some();
        let asks = wanted.has(Capability::Utility) && !(computes && self.has("libcuda"));
        let decisive = [("libcuda", computes), ("libnvidia-ml", asks)];
        for (decisive, _) in decisive.iter().filter(|(stem, asked)| *asked && !self.has(stem)) {
            let other = self.paths().find(|(_, stem, version)| stem == decisive && is_driver_version(version));
            if let Some((library, _, version)) = other {
                let (running, installed) = (self.version.clone(), Version::new(version));
                return Err(FilesError::VersionMismatch { running, installed, library });
            }
        }
        Ok(())
    }

    /// The driver's own manifest, when it is there, readable, and that of the running driver.
    pub(super) fn manifest(&self, root: &Root, notes: &mut Vec<String>) -> Vec<Listed> {
        for path in manifest::PATHS {
            let entries = match root.read(Path::new(path), manifest::MAX_BYTES) {
                Ok(None) => continue,
                Ok(Some(text)) => manifest::parse(&text),
                Err(error) => Err(error.to_string()),
            };
            match entries {
                Ok(entries) if self.belongs(&entries) => return entries,
                Ok(_) => notes.push(format!(
                    "the driver's list of its files `{path}` is not used: it does not belong to driver {}",
                    self.version
                )),
                Err(problem) => notes.push(format!("the driver's list of its files `{path}` is not used: {problem}")),
            }
        }
        Vec::new()
    }

    fn belongs(&self, entries: &[Listed]) -> bool {
        let mut versions = entries.iter().filter_map(|entry| split_library(&entry.name));
        versions.any(|(stem, version)| is_anchor(stem) && version == self.version.as_str())
    }

    /// Adds the wanted libraries to `files`, with what is missing and what is withheld.
    pub(super) fn take(&self, root: &Root, wanted: Wanted<'_>, manifest: &[Listed], files: &mut DriverFiles) {
        let holds_libcuda =
            |names: &[String]| names.iter().filter_map(|name| split_library(name)).any(|(stem, _)| stem == "libcuda");
        let anchors: HashSet<&Path> =
            self.seen.iter().filter(|(_, names)| holds_libcuda(names)).map(|(path, _)| path.as_path()).collect();
        let mut taken = BTreeMap::new();
        let mut withheld = HashSet::new();
        for (path, stem, version) in self.paths() {
            if let Some(why) = lists::withheld(stem) {
                if withheld.insert(stem) {
                    files.withheld.push(WithheldFile { seen: path, why });
                }
                continue;
            }
            let beside = path.parent().is_some_and(|parent| {
                anchors.contains(parent) || parent.parent().is_some_and(|above| anchors.contains(above))
            });
            let Some((wanted_by, rule)) = self.claim(stem, version, beside, wanted, manifest) else { continue };
            let Some(file) = self.library(root, &path, stem, wanted_by, rule, wanted) else { continue };
            let FileKind::Library { bits, .. } = &file.kind else { continue };
            match taken.entry((position(stem), stem.to_owned(), *bits)) {
                Entry::Vacant(place) => drop(place.insert(file)),
                // One that says its version counts more than one that does not, wherever they are.
                Entry::Occupied(mut place) if self.is_exact(&file) && !self.is_exact(place.get()) => {
                    place.insert(file);
                }
                Entry::Occupied(_) => {}
            }
        }
        let there: HashSet<String> =
            taken.keys().filter(|(.., bits)| *bits == Bits::B64).map(|(_, stem, _)| stem.clone()).collect();
        files.found.extend(taken.into_values());
        self.missing(wanted, manifest, &there, files);
    }

    /// Whether the running driver's version is in the file's name.
    fn is_exact(&self, file: &DriverFile) -> bool {
        let version = file_name(&file.host).and_then(split_library).map(|(_, version)| version);
        version == Some(self.version.as_str())
    }

    /// Who wants a library, and how that is known; `None` when nobody does.
    fn claim(
        &self,
        stem: &str,
        version: &str,
        beside: bool,
        wanted: Wanted<'_>,
        manifest: &[Listed],
    ) -> Option<(Capability, Rule)> {
        let own_version = OWN_VERSIONS.contains(&stem);
        // Without a version in its name nothing speaks against it: some installers leave it out.
        let fits = version == self.version.as_str() || own_version || !is_driver_version(version) && is_plain(version);
        if !fits {
            return None;
        }
        let listed = lists::library_of(stem);
        let by_manifest = manifest
            .iter()
            .filter(|entry| entry.kind == Kind::Library)
            .find(|entry| split_library(&entry.name).is_some_and(|(name, _)| name == stem));
        if let Some(capability) = by_manifest.and_then(|entry| wanted.first(&entry.wanted_by)) {
            return Some((capability, Rule::Manifest));
        }
        if let Some(library) = listed {
            return wanted.first(library.wanted_by).map(|capability| (capability, Rule::List));
        }
        let new =
            version == self.version.as_str() && beside && by_manifest.is_none_or(|entry| entry.wanted_by.is_empty());
        (new && wanted.has(Capability::Compute)).then_some((Capability::Compute, Rule::VersionSuffix))
    }

    /// The library at `path`, when it is one for this machine.
    fn library(
        &self,
        root: &Root,
        path: &Path,
        stem: &str,
        wanted_by: Capability,
        rule: Rule,
        wanted: Wanted<'_>,
    ) -> Option<DriverFile> {
        let real = root.resolve(path).filter(Real::is_file)?;
        let name = real.name().filter(|name| split_library(name).is_some_and(|(real, _)| real == stem));
        let name = name.or_else(|| file_name(path))?.to_owned();
        // A link without a version in its name may lead to the library of another driver.
        let (_, version) = split_library(&name)?;
        if is_driver_version(version) && version != self.version.as_str() && !OWN_VERSIONS.contains(&stem) {
            return None;
        }
        let elf = elf::read(root.open_file(&real.inside)?)?;
        if elf.machine != self.arch.machine(elf.bits) || (elf.bits == Bits::B32 && !wanted.has(Capability::Compat32)) {
            return None;
        }
        let kind = FileKind::Library { name, soname: elf.soname, bits: elf.bits };
        let purpose = lists::library_of(stem).map_or("", |library| library.purpose);
        Some(DriverFile { host: real.host, seen: path.to_owned(), kind, wanted_by, purpose, rule })
    }

    fn missing(&self, wanted: Wanted<'_>, manifest: &[Listed], there: &HashSet<String>, files: &mut DriverFiles) {
        let mut told = BTreeSet::new();
        for library in LIBRARIES.iter().filter(|library| !there.contains(library.stem)) {
            let (Some(loss), Some(wanted_by)) = (&library.loss, wanted.first(library.wanted_by)) else { continue };
            told.insert(library.stem);
            let name = format!("{}.so.{}", library.stem, self.version);
            let meaning = loss.meaning.to_owned();
            files.missing.push(MissingFile { name, wanted_by, needed: loss.needed, meaning });
        }
        let entries = manifest.iter().filter(|entry| entry.kind == Kind::Library && !entry.optional);
        for entry in entries {
            let Some((stem, _)) = split_library(&entry.name) else { continue };
            let known = there.contains(stem) || told.contains(stem) || lists::withheld(stem).is_some();
            let Some(wanted_by) = wanted.first(&entry.wanted_by).filter(|_| !known) else { continue };
            told.insert(stem);
            let meaning = "the driver lists it as its own, so a feature of it may not work".to_owned();
            files.missing.push(MissingFile { name: entry.name.clone(), wanted_by, needed: false, meaning });
        }
    }

    /// Directories that modules of the X server may be in.
    pub(super) fn x_directories(&self) -> Vec<PathBuf> {
        let below = ["/usr/lib", "/usr/lib64"].map(PathBuf::from);
        let own = self.seen.iter().map(|(directory, _)| directory.clone()).chain(below);
        let mut directories: Vec<PathBuf> = Vec::new();
        for directory in own.flat_map(|own| X_DIRECTORIES.iter().map(move |tail| own.join(tail))) {
            if !directories.contains(&directory) {
                directories.push(directory);
            }
        }
        directories
    }

    pub(super) const fn version(&self) -> &Version {
        &self.version
    }
}

/// The libraries that tell which driver is installed.
fn is_anchor(stem: &str) -> bool {
    matches!(stem, "libcuda" | "libnvidia-ml")
}

/// `1` of `libcuda.so.1`, or nothing.
fn is_plain(version: &str) -> bool {
    !version.contains('.')
}

fn is_known(path: &Path) -> bool {
    file_name(path).and_then(split_library).is_some_and(|(stem, _)| lists::library_of(stem).is_some())
}

/// The place in our list; what is not on it comes last.
fn position(stem: &str) -> usize {
    LIBRARIES.iter().position(|library| library.stem == stem).unwrap_or(LIBRARIES.len())
}

/// What may be the driver's among the names in a directory; those with a version first, as they say what they are.
fn relevant(mut names: Vec<String>, version: &Version) -> Vec<String> {
    names.retain(|name| {
        split_library(name).is_some_and(|(stem, suffix)| {
            suffix == version.as_str() || lists::library_of(stem).is_some() || lists::withheld(stem).is_some()
        })
    });
    names.sort_by_key(|name| !name.ends_with(&format!(".so.{version}")));
    names
}

/// The directories that the links of libcuda lead to: Debian's alternatives, `NixOS`' store.
fn beside_libcuda(root: &Root, directory: &Path, names: &[String]) -> Vec<PathBuf> {
    let links = names.iter().filter(|name| split_library(name).is_some_and(|(stem, _)| is_anchor(stem)));
    let real = links.filter_map(|name| root.resolve(&directory.join(name)));
    real.filter_map(|real| real.inside.parent().map(Path::to_owned)).collect()
}
