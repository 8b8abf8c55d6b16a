//! Finding and reading workflow files.
//!
//! In each directory from the start upwards to the repository root (the directory with `.git`) or `/`, these count, in
//! this order: `.dstack/workflows.yaml`, `.dstack/workflows.yml`, `.dstack/workflows/*.{yaml,yml}` by name,
//! `dockless.yaml`. The first directory that has one is the project, which a run mounts at `/workflow`, and all that it
//! has are read. A project further up must belong to root or to the owner of the directory the search started in: what
//! somebody else left in `/tmp` is not run by accident.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::file::{self, Workflow, WorkflowFile};
use super::mistake::{Mistake, shown};
use crate::words::nearest;

/// Largest workflow file; 10,000 workflows fit.
pub const MAX_FILE_BYTES: u64 = 4 << 20;
/// Most files in one `.dstack/workflows/`.
const MAX_FILES: usize = 1000;

const SINGLE_FILES: [&str; 2] = [".dstack/workflows.yaml", ".dstack/workflows.yml"];
const FILES_DIR: &str = ".dstack/workflows";
const OWN_FILE: &str = "dockless.yaml";

/// Where workflow files stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    /// The project directory; absolute when the start was.
    pub root: PathBuf,
    /// The files in their order; at least one.
    pub files: Vec<PathBuf>,
    /// Messages name files relative to this directory where they can.
    seen_from: PathBuf,
}

/// All workflows of a project. No two have one name.
#[derive(Debug)]
pub struct Workflows {
    files: Vec<WorkflowFile>,
}

/// A line of `workflow list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// The name.
    pub name: String,
    /// What `help` says, as it stands in the file.
    pub help: Option<String>,
    /// `file:line`.
    pub place: String,
}

/// Why workflows were not found or not read.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// There is no file from the start up to the end of the search.
    #[error(
        "no workflow file in `{start}` or above it, up to `{end}`: looked for `.dstack/workflows.yaml`, `.dstack/workflows.yml`, `.dstack/workflows/*.yaml`, `dockless.yaml`\nhint: make `.dstack/workflows.yaml`, or name a file with `-f FILE`"
    )]
    NoFile {
        /// Where the search began.
        start: PathBuf,
        /// The last directory that was searched.
        end: PathBuf,
    },
    /// A project above the start that belongs to somebody else.
    #[error(
        "the workflow file `{path}` belongs to user {owner}, expected root or user {start_owner}, the owner of `{start}`\nhint: name the file with `-f {path}` if you trust it"
    )]
    ForeignOwner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Where the search began.
        start: PathBuf,
        /// Whose that is.
        start_owner: u32,
    },
    /// A file or directory cannot be read.
    #[error("cannot read `{path}`")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something else than a regular file.
    #[error("`{path}` is not a regular file")]
    NotAFile {
        /// Which.
        path: PathBuf,
    },
    /// A file that no person wrote.
    #[error(
        "workflow file `{path}` has more than {MAX_FILE_BYTES} bytes\nhint: split it into files in `.dstack/workflows/`"
    )]
    FileTooLarge {
        /// Which.
        path: PathBuf,
    },
    /// A directory full of files.
    #[error("`{path}` has more than {MAX_FILES} workflow files")]
    TooManyFiles {
        /// Which.
        path: PathBuf,
    },
    /// A file is wrong.
    #[error(transparent)]
    Mistake(#[from] Mistake),
    /// The workflow that was asked for is not there.
    #[error("no workflow `{name}` in {files}\nhint: {hint}")]
    UnknownWorkflow {
        /// What was asked for.
        name: String,
        /// Where was looked.
        files: String,
        /// The nearest name, or how to list them.
        hint: String,
    },
}

/// Searches for workflow files from `start`, an absolute path, upwards.
pub fn find(start: &Path) -> Result<Project, FindError> {
    for directory in start.ancestors() {
        let files = files_in(directory)?;
        if !files.is_empty() {
            if directory != start {
                files.iter().try_for_each(|file| check_owner(file, start))?;
            }
            return Ok(Project { root: directory.to_owned(), files, seen_from: start.to_owned() });
        }
        if directory.join(".git").exists() || directory.parent().is_none() {
            return Err(FindError::NoFile { start: start.to_owned(), end: directory.to_owned() });
        }
    }
    Err(FindError::NoFile { start: start.to_owned(), end: start.to_owned() })
}

/// The project of one file that was named: the directory that holds `.dstack/` when the file is in there, else its own.
pub fn named(file: &Path, current_dir: &Path) -> Result<Project, FindError> {
    let path = current_dir.join(file);
    // Through a link the file's name would lead to another project than the one it stands in.
    let directory = path.parent().unwrap_or(current_dir);
    let directory = directory.canonicalize().map_err(|source| FindError::Read { path: path.clone(), source })?;
    let holder = directory.ancestors().take(2).find(|ancestor| ancestor.ends_with(".dstack")).and_then(Path::parent);
    let root = holder.unwrap_or(&directory).to_owned();
    Ok(Project { root, files: vec![path], seen_from: current_dir.to_owned() })
}

impl Project {
    /// The files one after the other: the name that messages show, and the bytes.
    pub fn contents(&self) -> impl Iterator<Item = Result<(String, Vec<u8>), FindError>> {
        self.files.iter().map(|path| {
            let shown_path = path.strip_prefix(&self.seen_from).unwrap_or(path);
            Ok((shown_path.display().to_string(), read(path)?))
        })
    }
}

/// Reads and parses all files of a project.
pub fn load(project: &Project) -> Result<Workflows, FindError> {
    let mut files: Vec<WorkflowFile> = Vec::new();
    let mut places = HashMap::new();
    for path in &project.files {
        let shown_path = path.strip_prefix(&project.seen_from).unwrap_or(path);
        let file = file::parse(&shown_path.display().to_string(), &read(path)?)?;
        for workflow in &file.workflows {
            let place = (workflow.source.name().to_owned(), workflow.name.span);
            if let Some((first_file, first)) = places.insert(workflow.name.value.clone(), place) {
                return Err(file::duplicate_name(workflow, &first_file, first).into());
            }
        }
        files.push(file);
    }
    Ok(Workflows { files })
}

impl Workflows {
    /// Those of one file that was parsed already.
    #[cfg(test)]
    pub(super) fn of(file: WorkflowFile) -> Self {
        Self { files: vec![file] }
    }

    /// All of them, in the order of the files.
    pub fn iter(&self) -> impl Iterator<Item = &Workflow> {
        self.files.iter().flat_map(|file| &file.workflows)
    }

    /// The workflow of that name.
    pub fn get(&self, name: &str) -> Result<&Workflow, FindError> {
        self.iter().find(|workflow| workflow.name.value == name).ok_or_else(|| {
            let names = self.iter().map(|workflow| workflow.name.value.as_str());
            FindError::UnknownWorkflow {
                name: shown(name),
                files: self.files.iter().map(|file| format!("`{}`", file.source.name())).collect::<Vec<_>>().join(", "),
                hint: match nearest(name, names) {
                    Some(known) => format!("did you mean `{known}`?"),
                    None => "`dockless workflow list` shows them".to_owned(),
                },
            }
        })
    }

    /// What `workflow list` shows.
    #[must_use]
    pub fn list(&self) -> Vec<Listed> {
        self.iter().map(Listed::of).collect()
    }
}

impl Listed {
    fn of(workflow: &Workflow) -> Self {
        let help = workflow.help.as_ref().map(|help| match &help.value {
            super::Text::Literal(text) | super::Text::Template(text) => text.clone(),
        });
        let place = format!("{}:{}", workflow.source.name(), workflow.name.span.line);
        Self { name: workflow.name.value.clone(), help, place }
    }
}

/// The workflow files of one directory.
fn files_in(directory: &Path) -> Result<Vec<PathBuf>, FindError> {
    let single = SINGLE_FILES.into_iter().map(|name| directory.join(name)).filter(|path| path.exists());
    let mut files: Vec<PathBuf> = single.collect();
    files.extend(yaml_files(&directory.join(FILES_DIR))?);
    let own = directory.join(OWN_FILE);
    if own.exists() {
        files.push(own);
    }
    Ok(files)
}

fn yaml_files(directory: &Path) -> Result<Vec<PathBuf>, FindError> {
    let failed = |source| FindError::Read { path: directory.to_owned(), source };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(source) => return Err(failed(source)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        // An editor's `.train.yaml` in the making is nobody's workflow.
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            return Err(FindError::TooManyFiles { path: directory.to_owned() });
        }
    }
    files.sort();
    Ok(files)
}

/// A file of a project above the start, the directory it is in, and whatever a link leads to are somebody's to trust.
fn check_owner(file: &Path, start: &Path) -> Result<(), FindError> {
    let failed = |path: &Path, source| FindError::Read { path: path.to_owned(), source };
    let start_owner = std::fs::metadata(start).map_err(|source| failed(start, source))?.uid();
    for path in [Some(file), file.parent()].into_iter().flatten() {
        let metadata = [std::fs::symlink_metadata(path), std::fs::metadata(path)];
        for metadata in metadata {
            let owner = metadata.map_err(|source| failed(path, source))?.uid();
            if owner != 0 && owner != start_owner {
                let (path, start) = (file.to_owned(), start.to_owned());
                return Err(FindError::ForeignOwner { path, owner, start, start_owner });
            }
        }
    }
    Ok(())
}

/// The bytes of a workflow file; it may be a link, and nothing but a regular file behind it.
fn read(path: &Path) -> Result<Vec<u8>, FindError> {
    let failed = |source| FindError::Read { path: path.to_owned(), source };
    // Without O_NONBLOCK, opening a FIFO would wait for its writer.
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file: File = OpenOptions::new().read(true).custom_flags(nonblocking).open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(FindError::NotAFile { path: path.to_owned() });
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(FindError::FileTooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with files; each is a path and the names of the workflows in it.
    fn project(files: &[(&str, &[&str])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, names) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let items =
                names.iter().map(|name| format!("  - name: {name}\n    image: x\n")).collect::<Vec<_>>().concat();
            std::fs::write(&path, format!("workflows:\n{items}")).unwrap();
        }
        dir
    }

    fn found(dir: &tempfile::TempDir, start: &str) -> Vec<String> {
        let project = find(&dir.path().join(start)).unwrap();
        assert_eq!(project.root, dir.path());
        project.files.iter().map(|f| f.strip_prefix(dir.path()).unwrap().display().to_string()).collect()
    }

    #[test]
    fn files_come_in_a_fixed_order() {
        let dir = project(&[
            (".dstack/workflows/b.yml", &["b"]),
            (".dstack/workflows/a.yaml", &["a"]),
            (".dstack/workflows/notes.txt", &["n"]),
            (".dstack/workflows/.a.yaml", &["n"]),
            (".dstack/workflows.yml", &["d"]),
            (".dstack/workflows.yaml", &["c"]),
            ("dockless.yaml", &["e"]),
            ("src/deep/x", &["n"]),
        ]);
        let expected = [
            ".dstack/workflows.yaml",
            ".dstack/workflows.yml",
            ".dstack/workflows/a.yaml",
            ".dstack/workflows/b.yml",
            "dockless.yaml",
        ];
        assert_eq!(found(&dir, ""), expected);
        assert_eq!(found(&dir, "src/deep"), expected);
        let workflows = load(&find(dir.path()).unwrap()).unwrap();
        let names: Vec<&str> = workflows.iter().map(|workflow| workflow.name.value.as_str()).collect();
        assert_eq!(names, ["c", "d", "a", "b", "e"]);
    }

    #[test]
    fn the_search_ends_at_the_repository_root() {
        let dir = project(&[("dockless.yaml", &["a"]), ("repo/src/x", &[]), ("repo/.git/config", &[])]);
        let error = find(&dir.path().join("repo/src")).unwrap_err();
        let FindError::NoFile { start, end } = &error else { panic!("{error}") };
        assert_eq!((start, end), (&dir.path().join("repo/src"), &dir.path().join("repo")));
        assert!(error.to_string().contains("hint: make `.dstack/workflows.yaml`"), "{error}");
        assert_eq!(found(&dir, ""), ["dockless.yaml"]);
        assert!(matches!(find(Path::new("/")), Err(FindError::NoFile { .. })));
    }

    #[test]
    fn a_foreign_project_above_is_not_run_by_accident() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: needs root to change the owner of a file");
            return;
        }
        let dir = project(&[(".dstack/workflows.yaml", &["a"]), ("mine/x", &[])]);
        let start = dir.path().join("mine");
        assert_eq!(found(&dir, "mine"), [".dstack/workflows.yaml"]);
        for path in [".dstack", ".dstack/workflows.yaml"] {
            let path = dir.path().join(path);
            std::os::unix::fs::chown(&path, Some(1234), None).unwrap();
            let error = find(&start).unwrap_err();
            assert!(error.to_string().contains("belongs to user 1234, expected root or user 0"), "{error}");
            assert!(error.to_string().contains("hint: name the file with `-f "), "{error}");
            std::os::unix::fs::chown(&start, Some(1234), None).unwrap();
            assert_eq!(found(&dir, "mine"), [".dstack/workflows.yaml"]);
            std::os::unix::fs::chown(&start, Some(0), None).unwrap();
            std::os::unix::fs::chown(&path, Some(0), None).unwrap();
        }
    }

    #[test]
    fn a_named_file_has_the_project_it_stands_in() {
        let dir = project(&[
            (".dstack/workflows.yaml", &["a"]),
            (".dstack/workflows/b.yaml", &["b"]),
            ("sub/dockless.yaml", &["c"]),
        ]);
        let root = dir.path().canonicalize().unwrap();
        for (file, expected) in
            [(".dstack/workflows.yaml", ""), (".dstack/workflows/b.yaml", ""), ("sub/dockless.yaml", "sub")]
        {
            let project = named(Path::new(file), dir.path()).unwrap();
            assert_eq!(project.root, root.join(expected).components().collect::<PathBuf>(), "{file}");
            assert_eq!(load(&project).unwrap().iter().count(), 1);
        }
        assert!(matches!(named(Path::new("none/x.yaml"), dir.path()), Err(FindError::Read { .. })));
        let missing = named(Path::new("none.yaml"), dir.path()).unwrap();
        assert!(matches!(load(&missing), Err(FindError::Read { .. })));
    }

    #[test]
    fn names_are_unique_over_all_files() {
        let dir = project(&[(".dstack/workflows.yaml", &["a", "b"]), (".dstack/workflows/x.yaml", &["c", "b"])]);
        let error = load(&find(dir.path()).unwrap()).unwrap_err().to_string();
        assert!(
            error.starts_with(
                ".dstack/workflows/x.yaml:4:11: workflow name `b` stands twice, first at .dstack/workflows.yaml:4:11"
            ),
            "{error}"
        );
    }

    #[test]
    fn workflows_by_name() {
        let dir = project(&[(".dstack/workflows.yaml", &["train", "test"]), ("sub/x", &[])]);
        let workflows = load(&find(dir.path()).unwrap()).unwrap();
        assert_eq!(workflows.get("test").unwrap().name.value, "test");
        let error = workflows.get("trian").unwrap_err().to_string();
        assert_eq!(error, "no workflow `trian` in `.dstack/workflows.yaml`\nhint: did you mean `train`?");
        let error = workflows.get("deploy").unwrap_err().to_string();
        assert!(error.ends_with("hint: `dockless workflow list` shows them"), "{error}");
        let listed = &workflows.list()[1];
        assert_eq!((listed.name.as_str(), listed.place.as_str()), ("test", ".dstack/workflows.yaml:4"));
        let from_below = load(&find(&dir.path().join("sub")).unwrap()).unwrap();
        let full = dir.path().join(".dstack/workflows.yaml:2").display().to_string();
        assert_eq!(from_below.list()[0].place, full);
    }

    #[test]
    fn only_regular_files_of_some_size_are_read() {
        let dir = project(&[("x", &[])]);
        let path = dir.path().join("dockless.yaml");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(matches!(load(&find(dir.path()).unwrap()), Err(FindError::NotAFile { .. })));
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(matches!(load(&find(dir.path()).unwrap()), Err(FindError::NotAFile { .. })));
        std::fs::remove_dir(&path).unwrap();
        std::fs::write(&path, vec![b'#'; usize::try_from(MAX_FILE_BYTES).unwrap() + 1]).unwrap();
        assert!(matches!(load(&find(dir.path()).unwrap()), Err(FindError::FileTooLarge { .. })));
    }
}
