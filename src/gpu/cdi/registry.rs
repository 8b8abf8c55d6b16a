//! All devices that the files of some directories describe.
//!
//! A directory named later has priority: what it describes hides the same name of an earlier one. Every file that cannot be
//! used is told, with its path and the reason, and hides nothing.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::document::{Document, DocumentDevice, MAX_DOCUMENT_BYTES, Syntax};
use super::edits::{Collector, Injected};
use super::error::{CdiError, DocumentProblem};
use super::name::{Kind, QualifiedName};
use super::trust;
use crate::words::nearest;

/// Where vendors and administrators put files, and where programs put those of the running machine.
pub const DEFAULT_DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// The most files that are read of one directory.
const MAX_FILES: usize = 1000;
/// How many names an error lists.
const MAX_LISTED: usize = 20;
/// Stands for every device of a kind, where no file describes a device of this name.
const ALL: &str = "all";

/// A file or directory that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Which.
    pub path: PathBuf,
    /// Why, in words.
    pub reason: String,
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` is left out: {}", self.path.display(), self.reason)
    }
}

/// Devices by name.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    documents: Vec<Loaded>,
    devices: BTreeMap<QualifiedName, Place>,
    warnings: Vec<Warning>,
}

#[derive(Debug, Clone)]
struct Loaded {
    path: PathBuf,
    priority: usize,
    document: Document,
}

/// Where a device is described: at one place, unless two files of the same priority do.
#[derive(Debug, Clone)]
struct Place {
    document: usize,
    device: usize,
    /// More files of the same priority.
    others: Vec<usize>,
}

impl Registry {
    /// Reads the directories, each of higher priority than those before it. One that does not exist is empty.
    #[must_use]
    pub fn read(directories: &[impl AsRef<Path>]) -> Self {
        let mut registry = Self::default();
        for (priority, directory) in directories.iter().enumerate() {
            let directory = directory.as_ref();
            match files(directory) {
                Ok(files) => files.into_iter().for_each(|(path, syntax)| registry.load(path, syntax, priority)),
                Err(reason) => registry.warnings.push(Warning { path: directory.to_owned(), reason }),
            }
        }
        registry.index();
        registry
    }

    /// Every device that can be asked for, sorted.
    pub fn names(&self) -> impl Iterator<Item = &QualifiedName> {
        self.devices.iter().filter(|(_, place)| place.others.is_empty()).map(|(name, _)| name)
    }

    /// What was left out and why.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// What the devices bring into a container: for each file what it says for all, then each device's own.
    pub fn resolve(&self, names: &[QualifiedName]) -> Result<Injected, CdiError> {
        let mut collector = Collector::default();
        let mut seen = Vec::new();
        for name in names {
            for (name, place) in self.places(name)? {
                let loaded = &self.documents[place.document];
                let edit = |problem| CdiError::Edit {
                    name: name.clone(),
                    file: loaded.path.clone(),
                    problem: Box::new(problem),
                };
                if !seen.contains(&place.document) {
                    seen.push(place.document);
                    collector.add(&loaded.document.container_edits).map_err(edit)?;
                }
                let device: &DocumentDevice = &loaded.document.devices[place.device];
                collector.add(&device.container_edits).map_err(edit)?;
            }
        }
        Ok(collector.finish())
    }

    fn places<'a>(&'a self, name: &'a QualifiedName) -> Result<Vec<(&'a QualifiedName, &'a Place)>, CdiError> {
        let found: Vec<_> = match self.devices.get_key_value(name) {
            Some(found) => vec![found],
            None if name.device() == ALL => self.devices.iter().filter(|(it, _)| it.kind() == name.kind()).collect(),
            None => Vec::new(),
        };
        if found.is_empty() {
            return Err(CdiError::Unknown { name: name.clone(), known: self.known(name) });
        }
        for (name, place) in &found {
            if !place.others.is_empty() {
                let documents = std::iter::once(&place.document).chain(&place.others);
                let files = documents.map(|index| self.documents[*index].path.clone()).collect();
                return Err(CdiError::Conflict { name: (*name).clone(), files });
            }
        }
        Ok(found)
    }

    /// The end of the message about a device that nobody describes.
    fn known(&self, wanted: &QualifiedName) -> String {
        let all: Vec<String> = self.names().map(ToString::to_string).collect();
        let left_out = if self.warnings.is_empty() {
            String::new()
        } else {
            let list: Vec<String> = self.warnings.iter().map(ToString::to_string).collect();
            format!("; {}", list.join("; "))
        };
        if all.is_empty() {
            return format!(": no file describes any{left_out}\nhint: `dockless gpu cdi` writes one for NVIDIA's GPUs");
        }
        let of_kind: Vec<&String> =
            self.names().zip(&all).filter(|(it, _)| it.kind() == wanted.kind()).map(|(_, it)| it).collect();
        let listed = if of_kind.is_empty() { all.iter().collect() } else { of_kind };
        let more = listed.len().saturating_sub(MAX_LISTED);
        let names: Vec<String> = listed.iter().take(MAX_LISTED).map(|name| format!("`{name}`")).collect();
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        let meant = nearest(&wanted.to_string(), all.iter().map(String::as_str));
        let hint = meant.map(|meant| format!("\nhint: did you mean `{meant}`?")).unwrap_or_default();
        format!(", expected one of {}{more}{left_out}{hint}", names.join(", "))
    }

    fn load(&mut self, path: PathBuf, syntax: Syntax, priority: usize) {
        let read = text(&path)
            .and_then(|text| Document::parse(&text, syntax).map_err(|problem: DocumentProblem| problem.to_string()));
        match read {
            Ok(document) => self.documents.push(Loaded { path, priority, document }),
            Err(reason) => self.warnings.push(Warning { path, reason }),
        }
    }

    fn index(&mut self) {
        for (index, loaded) in self.documents.iter().enumerate() {
            // The document was checked: all names are good.
            let Ok(kind) = loaded.document.kind() else { continue };
            for (device, description) in loaded.document.devices.iter().enumerate() {
                let Ok(name) = Kind::device(&kind, &description.name) else { continue };
                let place = Place { document: index, device, others: Vec::new() };
                match self.devices.get_mut(&name) {
                    // Documents come in the order of priority.
                    Some(known) if self.documents[known.document].priority == loaded.priority => {
                        known.others.push(index);
                    }
                    Some(known) => *known = place,
                    None => drop(self.devices.insert(name, place)),
                }
            }
        }
        for (name, place) in &self.devices {
            if let Some(other) = place.others.first() {
                let first = self.documents[place.document].path.display();
                let reason =
                    format!("its device `{name}` is described by `{first}` as well, and can be used from neither");
                self.warnings.push(Warning { path: self.documents[*other].path.clone(), reason });
            }
        }
    }
}

/// The files of a directory in the order of their names; others than `.json` and `.yaml` are nobody's business.
fn files(directory: &Path) -> Result<Vec<(PathBuf, Syntax)>, String> {
    let metadata = match directory.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.to_string()),
        Ok(metadata) => metadata,
    };
    if let Some(doubt) = trust::doubt(&metadata) {
        return Err(doubt);
    }
    let mut files = Vec::new();
    for entry in directory.read_dir().map_err(|error| error.to_string())? {
        let path = entry.map_err(|error| error.to_string())?.path();
        let syntax = match path.extension().map(OsStrExt::as_bytes) {
            Some(b"json") => Syntax::Json,
            Some(b"yaml") => Syntax::Yaml,
            _ => continue,
        };
        if files.len() == MAX_FILES {
            return Err(format!("it holds more than {MAX_FILES} files"));
        }
        if !path.is_dir() {
            files.push((path, syntax));
        }
    }
    files.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(files)
}

/// Reads one file. Links are followed: the directory is root's. What is no regular file is not waited for.
fn text(path: &Path) -> Result<String, String> {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let open = || File::options().read(true).custom_flags(nonblocking).open(path);
    let file = open().map_err(|error| format!("it cannot be opened: {error}"))?;
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err(format!("it is {}, expected a regular file", crate::gpu::node::words(&metadata)));
    }
    if let Some(doubt) = trust::doubt(&metadata) {
        return Err(doubt);
    }
    let mut bytes = Vec::new();
    file.take(MAX_DOCUMENT_BYTES + 1).read_to_end(&mut bytes).map_err(|error| format!("it cannot be read: {error}"))?;
    if bytes.len() as u64 > MAX_DOCUMENT_BYTES {
        return Err(format!("it is larger than {} MiB", MAX_DOCUMENT_BYTES >> 20));
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
}
