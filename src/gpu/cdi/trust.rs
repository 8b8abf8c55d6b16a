//! Whether somebody who is not root could have written a file or program that decides about root's files.

use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

const WRITABLE_BY_ALL: u32 = 0o002;
const WRITABLE_BY_GROUP: u32 = 0o020;
const EXECUTABLE: u32 = 0o111;

/// Why a file or directory of descriptions is not believed. Its owner is root or who runs us; a group that may write was
/// chosen by them.
pub(super) fn doubt(metadata: &Metadata) -> Option<String> {
    let (owner, me) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != 0 && owner != me {
        return Some(format!("it belongs to user {owner}, expected root"));
    }
    (metadata.mode() & WRITABLE_BY_ALL != 0).then(|| "every user of this machine can change it".to_owned())
}

/// A program that only root can have put there, without links.
pub(super) fn program(path: &Path) -> Result<PathBuf, String> {
    let real = path.canonicalize().map_err(|error| format!("it cannot be found: {error}"))?;
    let metadata = look(&real)?;
    if !metadata.is_file() {
        return Err("it is no regular file".to_owned());
    }
    if metadata.permissions().mode() & EXECUTABLE == 0 {
        return Err("it is not executable".to_owned());
    }
    // The way that the file names as well: who can change it chooses the program.
    for ancestor in real.ancestors().chain(path.ancestors().skip(1)) {
        only_roots(ancestor, &look(ancestor)?)?;
    }
    Ok(real)
}

fn look(path: &Path) -> Result<Metadata, String> {
    path.metadata().map_err(|error| format!("`{}` cannot be looked at: {error}", path.display()))
}

fn only_roots(path: &Path, metadata: &Metadata) -> Result<(), String> {
    if metadata.uid() != 0 {
        return Err(format!("`{}` belongs to user {}, expected root", path.display(), metadata.uid()));
    }
    let group = metadata.mode() & WRITABLE_BY_GROUP != 0 && metadata.gid() != 0;
    if group || metadata.mode() & WRITABLE_BY_ALL != 0 {
        return Err(format!("`{}` can be changed by others than root", path.display()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn programs_of_the_system_are_trusted() {
        assert_eq!(program(Path::new("/bin/true")).unwrap(), Path::new("/bin/true").canonicalize().unwrap());
    }

    #[test]
    fn programs_that_others_could_change_are_not() {
        // `/tmp` is everybody's: whatever lies below it could be replaced.
        let directory = tempfile::tempdir_in("/tmp").unwrap();
        let path = directory.path().join("hook");
        fs::write(&path, "#!/bin/sh\n").unwrap();
        assert!(program(&path).unwrap_err().contains("not executable"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let error = program(&path).unwrap_err();
        assert!(error.contains("can be changed by others") || error.contains("belongs to user"), "{error}");
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("/bin/true", &link).unwrap();
        let error = program(&link).unwrap_err();
        assert!(error.contains("can be changed by others") || error.contains("belongs to user"), "{error}");
        assert!(program(directory.path()).unwrap_err().contains("no regular file"));
        assert!(program(&directory.path().join("none")).unwrap_err().contains("cannot be found"));
    }

    #[test]
    fn descriptions_that_all_can_change_are_doubted() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(doubt(&directory.path().metadata().unwrap()), None);
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(doubt(&directory.path().metadata().unwrap()).unwrap().contains("every user"));
    }
}
