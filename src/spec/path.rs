//! Paths as text: made absolute and cleaned without a look at any file system, as docker cleans them.

use std::path::{Component, Path, PathBuf};

/// Resolves `.` and `..` by name; `None` when the path is not absolute. `..` above the root stays at the root.
pub(super) fn clean(path: &Path) -> Option<PathBuf> {
    path.is_absolute().then(|| {
        path.components().fold(PathBuf::from("/"), |mut cleaned, component| {
            match component {
                Component::Normal(name) => cleaned.push(name),
                Component::ParentDir => {
                    cleaned.pop();
                }
                Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
            }
            cleaned
        })
    })
}

/// Number of names below the root; parents of a mount have fewer than the mount.
pub(super) fn depth(path: &Path) -> usize {
    path.components().filter(|component| matches!(component, Component::Normal(_))).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cleans_by_name() {
        for (path, cleaned) in [
            ("/", Some("/")),
            ("//a///b/", Some("/a/b")),
            ("/a/./b/../c", Some("/a/c")),
            ("/../../etc", Some("/etc")),
            ("/a/..", Some("/")),
            ("a/b", None),
            ("", None),
            ("./a", None),
        ] {
            assert_eq!(clean(Path::new(path)), cleaned.map(PathBuf::from), "{path}");
        }
        assert_eq!(depth(Path::new("/")), 0);
        assert_eq!(depth(Path::new("/a/b")), 2);
    }

    proptest! {
        #[test]
        fn cleaned_paths_stay_as_they_are(path in "/[a-c./]{0,20}") {
            let cleaned = clean(Path::new(&path)).unwrap();
            prop_assert!(cleaned.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_))));
            prop_assert_eq!(clean(&cleaned), Some(cleaned));
        }
    }
}
