//! Names for the numbers of users and groups, as a run's container or this machine has them.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;

use super::Engine;
use crate::container::live_root;
use crate::spec::MAX_IDENTITY_FILE_BYTES;
use crate::store::RunDir;

/// Users and groups of one place.
#[derive(Debug, Clone, Default)]
pub struct Names {
    passwd: String,
    group: String,
}

impl Names {
    /// Of a place whose files `/etc/passwd` and `/etc/group` have this text.
    #[must_use]
    pub const fn new(passwd: String, group: String) -> Self {
        Self { passwd, group }
    }

    /// Of this machine. A file that cannot be read has no names.
    #[must_use]
    pub fn of_machine() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self::new(read("/etc/passwd"), read("/etc/group"))
    }

    /// The user's name, or the number.
    #[must_use]
    pub fn user(&self, uid: u32) -> String {
        name_of(&self.passwd, uid)
    }

    /// The group's name, or the number.
    #[must_use]
    pub fn group(&self, gid: u32) -> String {
        name_of(&self.group, gid)
    }
}

/// Both files have name and number in the same places (passwd(5), group(5)).
fn name_of(text: &str, number: u32) -> String {
    let found = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        (fields.nth(1)?.parse() == Ok(number)).then(|| name.to_owned())
    });
    found.unwrap_or_else(|| number.to_string())
}

impl Engine {
    /// The names that a run's container has as it is now; none when it cannot be looked into, as when it is paused.
    #[must_use]
    pub fn names_in(&self, run: &RunDir) -> Names {
        let Ok(root) = live_root(run) else { return Names::default() };
        let read = |path: &str| {
            let mut bytes = Vec::new();
            let file = root.open_file_in_root(OsStr::new(path)).ok().flatten();
            let read = file.map(|file| file.take(MAX_IDENTITY_FILE_BYTES as u64).read_to_end(&mut bytes));
            read.map(|_| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
        };
        Names::new(read("etc/passwd"), read("etc/group"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_names_where_there_are_some() {
        let names = Names::new(
            "\n:x:7:\nroot:x:0:0::/:\nx\napp:x:1000\nlate:x:1000:\n".to_owned(),
            "more:x:7:app\n".to_owned(),
        );
        assert_eq!(["root", "app", "7"], [0, 1000, 7].map(|uid| names.user(uid)).each_ref().map(String::as_str));
        assert_eq!((names.group(7), names.group(8)), ("more".to_owned(), "8".to_owned()));
    }
}
