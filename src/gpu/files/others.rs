//! Everything of the driver that is not a library: programs, firmware, configuration, modules of X, sockets; and Windows'
//! driver under WSL 2.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::libraries::Libraries;
use super::lists::{
    CONFIGURATION, CONFIGURATION_DIRECTORIES, FIRMWARE_DIRECTORIES, PROGRAM_DIRECTORIES, PROGRAMS, SOCKETS,
    WSL_DRIVER_STORES, WSL_LIBRARIES, X_MODULES, library_of,
};
use super::manifest::{Entry, Kind as ManifestKind};
use super::search::{Kind, Real, Root};
use super::{
    Bits, Capability, DriverFile, DriverFiles, FileKind, MissingFile, Places, Rule, Version, Wanted, elf, split_library,
};

/// Directories of Windows' drivers that are looked into.
const MAX_DRIVER_STORES: usize = 1000;
/// Longest `path` parameter of `firmware_class` (kernel, `drivers/base/firmware_loader/main.c`).
const MAX_FIRMWARE_PATH_BYTES: u64 = 4096;
/// Files that name a library; they have 1 kB at most.
const MAX_CONFIGURATION_BYTES: u64 = 64 << 10;
const ANY: &[Capability] = &[
    Capability::Compute,
    Capability::Utility,
    Capability::Video,
    Capability::Graphics,
    Capability::Display,
    Capability::Ngx,
];

pub(super) fn programs(root: &Root, wanted: Wanted<'_>, manifest: &[Entry], files: &mut DriverFiles) {
    let entries: Vec<&Entry> = manifest.iter().filter(|entry| entry.kind == ManifestKind::Program).collect();
    let by_manifest = |name: &str| {
        let entry = entries.iter().find(|entry| entry.name == name)?;
        wanted.first(&entry.wanted_by)
    };
    for program in PROGRAMS {
        let manifest = by_manifest(program.name).map(|capability| (capability, Rule::Manifest));
        let claim = manifest.or_else(|| Some((wanted.first(program.wanted_by)?, Rule::List)));
        let Some((wanted_by, rule)) = claim else { continue };
        match program_file(root, program.name, program.purpose, wanted_by, rule) {
            Some(file) => files.found.push(file),
            None => files.missing.extend(program.loss.as_ref().map(|loss| MissingFile {
                name: program.name.to_owned(),
                wanted_by,
                needed: loss.needed,
                meaning: loss.meaning.to_owned(),
            })),
        }
    }
    for entry in entries.iter().filter(|entry| PROGRAMS.iter().all(|program| program.name != entry.name)) {
        let Some(wanted_by) = wanted.first(&entry.wanted_by) else { continue };
        files.found.extend(program_file(root, &entry.name, "", wanted_by, Rule::Manifest));
    }
}

fn program_file(
    root: &Root,
    name: &str,
    purpose: &'static str,
    wanted_by: Capability,
    rule: Rule,
) -> Option<DriverFile> {
    PROGRAM_DIRECTORIES.iter().find_map(|directory| {
        let seen = Path::new(directory).join(name);
        let real = root.resolve(&seen).filter(|real| real.kind == Kind::File { executable: true })?;
        Some(DriverFile {
            host: real.host,
            seen,
            kind: FileKind::Program { name: name.to_owned() },
            wanted_by,
            purpose,
            rule,
        })
    })
}

/// The firmware of the GPU's own processor, from the first directory that has some for this driver.
pub(super) fn firmware(root: &Root, sys: &Path, wanted: Wanted<'_>, version: &Version, files: &mut DriverFiles) {
    let Some(wanted_by) = wanted.first(ANY) else { return };
    let configured = configured_firmware(sys);
    let directories = configured.iter().map(PathBuf::as_path).chain(FIRMWARE_DIRECTORIES.iter().map(Path::new));
    let place = Path::new("/lib/firmware/nvidia").join(version.as_str());
    for directory in directories {
        let directory = directory.join("nvidia").join(version.as_str());
        let names = root.names(&directory).into_iter().filter(|name| is_gsp(name));
        let found: Vec<DriverFile> = names
            .filter_map(|name| {
                let seen = directory.join(&name);
                let real = root.resolve(&seen).filter(Real::is_file)?;
                let kind = FileKind::Firmware(place.join(name));
                let purpose = "runs on the GPU's own processor";
                Some(DriverFile { host: real.host, seen, kind, wanted_by, purpose, rule: Rule::Directory })
            })
            .collect();
        if !found.is_empty() {
            files.found.extend(found);
            return;
        }
    }
}

/// `gsp_ga10x.bin`
fn is_gsp(name: &str) -> bool {
    name.starts_with("gsp") && Path::new(name).extension().is_some_and(|extension| extension == "bin")
}

/// The directory that the kernel was told to look in first.
fn configured_firmware(sys: &Path) -> Option<PathBuf> {
    let parameters = Root::open(&sys.join("module/firmware_class/parameters")).ok()?;
    let text = parameters.read(Path::new("path"), MAX_FIRMWARE_PATH_BYTES).ok()??;
    let path = PathBuf::from(std::str::from_utf8(&text).ok()?.trim());
    path.is_absolute().then_some(path)
}

pub(super) fn configuration(root: &Root, wanted: Wanted<'_>, files: &mut DriverFiles) {
    for file in CONFIGURATION {
        let Some(wanted_by) = wanted.first(file.wanted_by) else { continue };
        let found = CONFIGURATION_DIRECTORIES.iter().find_map(|directory| {
            let seen = Path::new(directory).join(file.tail);
            let real = root.resolve(&seen).filter(Real::is_file)?;
            files.notes.extend(foreign_path(root, &seen));
            let kind = FileKind::Configuration(Path::new(file.base).join(file.tail));
            Some(DriverFile { host: real.host, seen, kind, wanted_by, purpose: file.purpose, rule: Rule::List })
        });
        files.found.extend(found);
    }
}

/// `NixOS` names libraries by their path in its store, where a container has nothing.
fn foreign_path(root: &Root, seen: &Path) -> Option<String> {
    let text = root.read(seen, MAX_CONFIGURATION_BYTES).ok()??;
    let document: serde_json::Value = serde_json::from_slice(&text).ok()?;
    let parts = ["ICD", "layer"].iter().filter_map(|part| document.get(part)?.get("library_path")?.as_str());
    let path = parts.into_iter().find(|path| path.starts_with('/'))?;
    let file = seen.display();
    Some(format!(
        "`{file}` names the library `{path}` by its path, at which the container has none: it may not be found"
    ))
}

pub(super) fn x_modules(root: &Root, wanted: Wanted<'_>, libraries: &Libraries, files: &mut DriverFiles) {
    if !wanted.has(Capability::Display) {
        return;
    }
    let directories = libraries.x_directories();
    for module in X_MODULES {
        let versioned = format!("{module}.{}", libraries.version());
        let names = [versioned.as_str(), module];
        let found = directories.iter().flat_map(|directory| names.map(|name| directory.join(name))).find_map(|seen| {
            let real = root.resolve(&seen).filter(Real::is_file)?;
            // A link may lead to the module of another driver.
            let fits = split_library(real.name()?)?.1;
            if !fits.is_empty() && fits != libraries.version().as_str() {
                return None;
            }
            let kind = FileKind::XModule(seen.clone());
            let (wanted_by, purpose) = (Capability::Display, "lets the X server use the GPU");
            Some(DriverFile { host: real.host, seen, kind, wanted_by, purpose, rule: Rule::List })
        });
        files.found.extend(found);
    }
}

pub(super) fn sockets(root: &Root, user: u32, wanted: Wanted<'_>, files: &mut DriverFiles) {
    for (path, wanted_by, purpose) in SOCKETS {
        let Some(wanted_by) = wanted.first(*wanted_by) else { continue };
        let place = PathBuf::from(path);
        // `/tmp` is everybody's: a link there could name any directory of this machine.
        let Some(real) = root.resolve_unlinked(&place) else { continue };
        let kind = match real.kind {
            Kind::Socket => FileKind::Socket(place.clone()),
            Kind::Directory if real.uid == 0 || real.uid == user => FileKind::Pipes(place.clone()),
            Kind::Directory => {
                let owner = real.uid;
                files.notes.push(format!("`{path}` is not given: it belongs to user {owner}, who may be anybody"));
                continue;
            }
            Kind::File { .. } | Kind::Other => continue,
        };
        files.found.push(DriverFile { host: real.host, seen: place, kind, wanted_by, purpose, rule: Rule::List });
    }
}

/// Windows' driver under WSL 2: libraries without a version in their names, and the directories with the driver proper.
pub(super) fn windows(root: &Root, places: &Places<'_>, wanted: Wanted<'_>) -> DriverFiles {
    let mut files = DriverFiles::default();
    let mut names = root.names(Path::new(WSL_LIBRARIES));
    // `libcuda.so.1.1` before `libcuda.so.1` and `libcuda.so`, which are the same.
    names.reverse();
    let mut taken = HashSet::new();
    for name in names {
        let seen = Path::new(WSL_LIBRARIES).join(&name);
        let Some(real) = root.resolve(&seen).filter(Real::is_file) else { continue };
        if name == "nvidia-smi" {
            let purpose = PROGRAMS.iter().find(|program| program.name == name).map_or("", |program| program.purpose);
            let kind = FileKind::Program { name };
            let claim = wanted.first(&[Capability::Utility]);
            let file = |wanted_by| DriverFile { host: real.host, seen, kind, wanted_by, purpose, rule: Rule::List };
            files.found.extend(claim.map(file));
            continue;
        }
        let Some((stem, _)) = split_library(&name) else { continue };
        let Some((wanted_by, rule)) = windows_claim(stem, wanted) else { continue };
        let elf = root.open_file(&real.inside).and_then(elf::read);
        let Some(elf) = elf.filter(|elf| elf.bits == Bits::B64 && elf.machine == places.arch.machine(elf.bits)) else {
            continue;
        };
        if taken.insert(stem.to_owned()) {
            let purpose = library_of(stem).map_or("reaches the GPUs of Windows", |library| library.purpose);
            let kind = FileKind::Library { name, soname: elf.soname, bits: elf.bits };
            files.found.push(DriverFile { host: real.host, seen, kind, wanted_by, purpose, rule });
        }
    }
    files.found.extend(wanted.first(ANY).into_iter().flat_map(|wanted_by| driver_stores(root, wanted_by)));
    windows_missing(&taken, wanted, &mut files);
    files
}

fn windows_claim(stem: &str, wanted: Wanted<'_>) -> Option<(Capability, Rule)> {
    if stem == "libdxcore" {
        return wanted.first(ANY).map(|capability| (capability, Rule::List));
    }
    if let Some(library) = library_of(stem) {
        return wanted.first(library.wanted_by).map(|capability| (capability, Rule::List));
    }
    let nvidias = stem.starts_with("libnv") || stem.starts_with("libcuda");
    (nvidias && wanted.has(Capability::Compute)).then_some((Capability::Compute, Rule::Directory))
}

/// Whole directories: what in them is needed changes with Windows' driver.
fn driver_stores(root: &Root, wanted_by: Capability) -> Vec<DriverFile> {
    let names = root.names(Path::new(WSL_DRIVER_STORES)).into_iter().take(MAX_DRIVER_STORES);
    let stores = names.map(|name| Path::new(WSL_DRIVER_STORES).join(name));
    let nvidias = stores.filter(|store| root.resolve(&store.join("libcuda.so.1.1")).is_some_and(|real| real.is_file()));
    nvidias
        .filter_map(|seen| {
            let real = root.resolve_unlinked(&seen).filter(|real| real.kind == Kind::Directory)?;
            let kind = FileKind::DriverStore(seen.clone());
            let purpose = "Windows' driver itself";
            Some(DriverFile { host: real.host, seen, kind, wanted_by, purpose, rule: Rule::Directory })
        })
        .collect()
}

fn windows_missing(taken: &HashSet<String>, wanted: Wanted<'_>, files: &mut DriverFiles) {
    let mut tell = |name: &str, wanted_by: Option<Capability>, needed: bool, meaning: &str| {
        let (name, meaning) = (name.to_owned(), meaning.to_owned());
        files.missing.extend(wanted_by.map(|wanted_by| MissingFile { name, wanted_by, needed, meaning }));
    };
    if !taken.contains("libdxcore") {
        tell("libdxcore.so", wanted.first(ANY), true, "no GPU of Windows can be reached");
    }
    for (stem, name) in [("libcuda", "libcuda.so.1"), ("libnvidia-ml", "libnvidia-ml.so.1")] {
        let library = library_of(stem).filter(|_| !taken.contains(stem));
        if let Some((library, loss)) = library.and_then(|library| Some((library, library.loss.as_ref()?))) {
            tell(name, wanted.first(library.wanted_by), loss.needed, loss.meaning);
        }
    }
}
