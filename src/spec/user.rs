//! `user[:group]` looked up in the text of the image's passwd and group files.
//!
//! Docker's rules: an entry matches by name or, for digits, by number, the first in the file wins. A number that no
//! entry has is taken as it stands with group 0; a name must be there. Supplementary groups are those that list the
//! user's *name*, and only when no group was given. Stricter than docker: a line whose numbers do not parse is skipped
//! (docker reads such a number as 0, which is root), and digits that do not fit are an error (CVE-2024-40635).

use super::error::{Origin, SpecError};
use super::flag_error::FlagProblem;
use super::{ImageFiles, MAX_GROUPS, MAX_ID, MAX_IDENTITY_FILE_BYTES};

/// Who the workload runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups for `setgroups`, the primary one first. Never empty: the runtime skips `setgroups` for an empty list,
    /// and the caller's own groups would stay.
    pub groups: Vec<u32>,
    /// Home directory, `/` when passwd names none.
    pub home: String,
}

impl Identity {
    /// Looks `text` up; empty is the user with the id 0.
    pub fn resolve(text: &str, origin: Origin, files: &ImageFiles<'_>) -> Result<Self, SpecError> {
        let (user, group) = split(text, origin)?;
        check_size("/etc/passwd", files.passwd)?;
        check_size("/etc/group", files.group)?;
        let found = find_user(user, files.passwd);
        let (uid, mut gid, home) = match (&found, user) {
            (Some(entry), _) => (entry.uid, entry.gid, home_or_root(entry.home)),
            (None, "") => (0, 0, "/".to_owned()),
            (None, user) => (parse_user_number(user, origin, files)?, 0, "/".to_owned()),
        };
        let mut groups = Vec::new();
        if group.is_empty() {
            groups = found.map(|entry| memberships(entry.name, files.group)).unwrap_or_default();
        } else {
            gid = find_group(group, origin, files)?;
        }
        Ok(Self { uid, gid, groups: with_primary(gid, groups, user)?, home })
    }

    /// The same with `--group-add`: names of the image, or numbers.
    pub(super) fn with_groups(mut self, more: &[String], files: &ImageFiles<'_>) -> Result<Self, SpecError> {
        for text in more {
            let gid = find_group(text, Origin::Flag("--group-add"), files).map_err(|error| match error {
                SpecError::GroupUnknown { name, missing, .. } => {
                    SpecError::flag("--group-add", &name, FlagProblem::GroupUnknown { missing })
                }
                other => other,
            })?;
            if !self.groups.contains(&gid) {
                self.groups.push(gid);
            }
        }
        if self.groups.len() > MAX_GROUPS {
            return Err(SpecError::TooManyGroups { user: self.uid.to_string(), count: self.groups.len() });
        }
        Ok(self)
    }

    /// Whether the workload has root's powers in the container.
    #[must_use]
    pub const fn is_root(&self) -> bool {
        self.uid == 0
    }
}

fn split(text: &str, origin: Origin) -> Result<(&str, &str), SpecError> {
    let (user, group) = text.split_once(':').unwrap_or((text, ""));
    if group.contains(':') || text.contains(['\0', '\n']) {
        return Err(SpecError::UserMalformed { text: text.to_owned(), origin });
    }
    Ok((user, group))
}

fn check_size(path: &'static str, text: Option<&str>) -> Result<(), SpecError> {
    match text.map_or(0, str::len) {
        bytes if bytes > MAX_IDENTITY_FILE_BYTES => Err(SpecError::IdentityFileTooLarge { path, bytes }),
        _ => Ok(()),
    }
}

fn home_or_root(home: &str) -> String {
    if home.is_empty() { "/".to_owned() } else { home.to_owned() }
}

fn with_primary(gid: u32, others: Vec<u32>, user: &str) -> Result<Vec<u32>, SpecError> {
    let mut seen = std::collections::HashSet::new();
    let groups: Vec<u32> = std::iter::once(gid).chain(others).filter(|gid| seen.insert(*gid)).collect();
    if groups.len() > MAX_GROUPS {
        return Err(SpecError::TooManyGroups { user: user.to_owned(), count: groups.len() });
    }
    Ok(groups)
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// `name:password:uid:gid:comment:home:shell`
fn passwd_entry(line: &str) -> Option<PasswdEntry<'_>> {
    let mut fields = line.trim().split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let uid = id(fields.nth(1)?)?;
    let gid = id(fields.next()?)?;
    Some(PasswdEntry { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
}

/// `name:password:gid:member,member`
fn group_entry(line: &str) -> Option<(&str, u32, &str)> {
    let mut fields = line.trim().split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let gid = id(fields.nth(1)?)?;
    Some((name, gid, fields.next().unwrap_or_default()))
}

fn id(digits: &str) -> Option<u32> {
    is_number(digits).then(|| digits.parse().ok()).flatten().filter(|&id| id <= MAX_ID)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn find_user<'a>(user: &str, passwd: Option<&'a str>) -> Option<PasswdEntry<'a>> {
    let number = if user.is_empty() { Some(0) } else { id(user) };
    passwd?
        .lines()
        .filter_map(passwd_entry)
        .find(|entry| (!user.is_empty() && entry.name == user) || Some(entry.uid) == number)
}

fn find_group(group: &str, origin: Origin, files: &ImageFiles<'_>) -> Result<u32, SpecError> {
    let number = id(group);
    let mut entries = files.group.into_iter().flat_map(str::lines).filter_map(group_entry);
    if let Some((_, gid, _)) = entries.find(|(name, gid, _)| *name == group || Some(*gid) == number) {
        return Ok(gid);
    }
    number.ok_or_else(|| {
        let name = group.to_owned();
        if is_number(group) {
            SpecError::IdTooLarge { what: "group", text: name, origin }
        } else {
            SpecError::GroupUnknown { name, origin, missing: missing(files.group) }
        }
    })
}

fn parse_user_number(user: &str, origin: Origin, files: &ImageFiles<'_>) -> Result<u32, SpecError> {
    id(user).ok_or_else(|| {
        let name = user.to_owned();
        if is_number(user) {
            SpecError::IdTooLarge { what: "user", text: name, origin }
        } else {
            SpecError::UserUnknown { name, origin, missing: missing(files.passwd) }
        }
    })
}

const fn missing(file: Option<&str>) -> &'static str {
    if file.is_some() { "" } else { ", which is missing" }
}

fn memberships(user: &str, group: Option<&str>) -> Vec<u32> {
    let entries = group.into_iter().flat_map(str::lines).filter_map(group_entry);
    entries.filter(|(_, _, members)| members.split(',').any(|member| member == user)).map(|(_, gid, _)| gid).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\
        # a comment\n\
        broken\n\
        zero:x:bogus:0::/zero:\n\
        huge:x:4294967296:0::/huge:\n\
        app:x:1000:1001:App:/home/app:/bin/sh\n\
        app:x:7:7::/second:\n\
        homeless:x:1002:1002:::\n\
        short:x:1003:1003\n\
        55:x:66:66::/named-by-digits:\n\
        \x20\x20spaced:x:1004:1004::/spaced:\r\n\
        +::::::\n";
    const GROUP: &str = "root:x:0:\n\
        wheel:x:10:root,app\n\
        bad:x:x:app\n\
        app:x:1001:app\n\
        video:x:44:other,app\n\
        appendix:x:45:application\n\
        dup:x:44:app\n\
        lone:x:77\n";

    fn resolve(text: &str) -> Result<Identity, SpecError> {
        let files = ImageFiles { passwd: Some(PASSWD), group: Some(GROUP) };
        Identity::resolve(text, Origin::Flag("--user"), &files)
    }

    #[test]
    fn finds_users_and_groups() {
        for (text, uid, gid, groups, home) in [
            ("", 0, 0, &[0, 10][..], "/root"),
            ("root", 0, 0, &[0, 10], "/root"),
            ("0", 0, 0, &[0, 10], "/root"),
            ("00", 0, 0, &[0, 10], "/root"),
            ("app", 1000, 1001, &[1001, 10, 44], "/home/app"),
            ("1000", 1000, 1001, &[1001, 10, 44], "/home/app"),
            ("app:", 1000, 1001, &[1001, 10, 44], "/home/app"),
            ("app:video", 1000, 44, &[44], "/home/app"),
            ("app:5", 1000, 5, &[5], "/home/app"),
            (":video", 0, 44, &[44], "/root"),
            ("2000", 2000, 0, &[0], "/"),
            ("2000:lone", 2000, 77, &[77], "/"),
            ("2147483647:2147483647", 2_147_483_647, 2_147_483_647, &[2_147_483_647], "/"),
            ("homeless", 1002, 1002, &[1002], "/"),
            ("short", 1003, 1003, &[1003], "/"),
            ("spaced", 1004, 1004, &[1004], "/spaced"),
            ("55", 66, 66, &[66], "/named-by-digits"),
            ("7", 7, 7, &[7, 10, 1001, 44], "/second"),
        ] {
            let expected = Identity { uid, gid, groups: groups.to_vec(), home: home.to_owned() };
            assert_eq!(resolve(text).unwrap(), expected, "`{text}`");
        }
    }

    #[test]
    fn refuses_what_is_not_there() {
        for bad in [
            "nobody",
            "zero",
            "huge",
            "broken",
            "+",
            "-1",
            "+5",
            "0x0",
            " root",
            "app:nogroup",
            "app:bad",
            "a:b:c",
            "root\0",
        ] {
            assert!(resolve(bad).is_err(), "`{bad}` was accepted as {:?}", resolve(bad));
        }
        let message = resolve("nobody").unwrap_err().to_string();
        assert!(
            message.starts_with("user `nobody` of `--user` is not in the image's /etc/passwd\nhint: "),
            "{message}"
        );
    }

    #[test]
    fn numbers_that_do_not_fit_are_never_root() {
        for bad in ["2147483648", "4294967295", "4294967296", "18446744073709551616", "99999999999999999999999"] {
            let message = resolve(bad).unwrap_err().to_string();
            assert!(message.contains("is too large, the largest is 2147483647"), "{bad}: {message}");
            assert!(resolve(&format!("0:{bad}")).is_err());
        }
    }

    #[test]
    fn an_image_without_files_knows_numbers_only() {
        let files = ImageFiles::default();
        let root = Identity { uid: 0, gid: 0, groups: vec![0], home: "/".to_owned() };
        assert_eq!(Identity::resolve("", Origin::Image, &files).unwrap(), root);
        assert_eq!(Identity::resolve("5", Origin::Image, &files).unwrap().uid, 5);
        let message = Identity::resolve("root", Origin::Image, &files).unwrap_err().to_string();
        assert!(
            message.contains("user `root` of the image is not in the image's /etc/passwd, which is missing"),
            "{message}"
        );
    }

    #[test]
    fn files_are_bounded() {
        let large = "x".repeat(MAX_IDENTITY_FILE_BYTES + 1);
        let files = ImageFiles { passwd: Some(&large), group: None };
        assert!(matches!(Identity::resolve("0", Origin::Image, &files), Err(SpecError::IdentityFileTooLarge { .. })));
        let many: String = (1..=MAX_GROUPS + 1).map(|gid| format!("g:x:{gid}:a")).collect::<Vec<_>>().join("\n");
        let files = ImageFiles { passwd: Some("a:x:1:0:::"), group: Some(&many) };
        assert!(matches!(Identity::resolve("a", Origin::Image, &files), Err(SpecError::TooManyGroups { .. })));
    }

    proptest! {
        #[test]
        fn an_unknown_user_is_never_root(user in "[a-z0-9_.+ -]{1,24}", passwd in "([a-z:0-9\n]|4294967296|:0:){0,60}") {
            let files = ImageFiles { passwd: Some(&passwd), group: None };
            let known = passwd.lines().filter_map(passwd_entry).any(|entry| entry.name == user);
            if let Ok(identity) = Identity::resolve(&user, Origin::Image, &files) {
                let asked_for_zero = is_number(&user) && user.bytes().all(|byte| byte == b'0');
                prop_assert!(identity.uid != 0 || known || asked_for_zero, "`{}` became root", user);
                prop_assert_eq!(identity.groups.first(), Some(&identity.gid));
            }
        }

        #[test]
        fn nothing_makes_it_panic(text in any::<String>(), passwd in any::<String>(), group in any::<String>()) {
            let files = ImageFiles { passwd: Some(&passwd), group: Some(&group) };
            let _ = Identity::resolve(&text, Origin::Image, &files);
        }
    }
}
