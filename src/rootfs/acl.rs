//! Access control lists as GNU tar, star and bsdtar write them, in words: `user::rw-,user:ada:r--:1000,group::---,…`.
//!
//! Without them a file would be open to more than it should be: where there is a list, the group's bits of the mode are its
//! mask, the most that anybody named in it has (acl(5)). Users are taken by number only, the fourth field or the second one: names
//! mean something on the machine that packed the archive. A list that names somebody otherwise is not kept.

/// Of entries that are for nobody by name.
const NOBODY: u32 = u32::MAX;

/// The value of `system.posix_acl_access` or `system.posix_acl_default` (kernel, `include/uapi/linux/posix_acl_xattr.h`);
/// `None` for what is no list or has names without numbers.
pub(super) fn from_words(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    let words = text.split([',', '\n']).map(str::trim).filter(|word| !word.is_empty());
    let mut entries = words.map(entry).collect::<Option<Vec<_>>>()?;
    // The kernel wants them in this order.
    entries.sort_by_key(|(tag, _, id)| (*tag, *id));
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, bits, id) in &entries {
        value.extend(tag.to_le_bytes());
        value.extend(bits.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    (!entries.is_empty()).then_some(value)
}

/// Tag, permissions and ID.
fn entry(word: &str) -> Option<(u16, u16, u32)> {
    let mut fields = word.split(':');
    let (kind, name, bits) = (fields.next()?, fields.next()?, fields.next()?);
    let id = fields.next().unwrap_or(name);
    let (unnamed, named) = match kind {
        "user" | "u" => (1, Some(2)),
        "group" | "g" => (4, Some(8)),
        "mask" | "m" => (16, None),
        "other" | "o" => (32, None),
        _ => return None,
    };
    let bits = bits.chars().try_fold(0, |bits, letter| match letter {
        'r' => Some(bits | 4),
        'w' => Some(bits | 2),
        'x' => Some(bits | 1),
        '-' => Some(bits),
        _ => None,
    })?;
    if name.is_empty() { Some((unnamed, bits, NOBODY)) } else { Some((named?, bits, id.parse().ok()?)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_in_all_spellings() {
        let long = from_words(b"user::rw-,user:ada:r--:1000,group::---,mask::r--,other::---").unwrap();
        assert_eq!(long.len(), 4 + 5 * 8);
        for same in [
            &b"user::rw-\nuser:1000:r--\ngroup::---\nmask::r--\nother::---\n"[..],
            b"u::rw,o::-, m::r,g::-,u:1000:r",
            b"other::---,mask::r--,group::---,user:1000:r--:1000,user::rw-",
        ] {
            assert_eq!(from_words(same).as_ref(), Some(&long), "{}", same.escape_ascii());
        }
        for none in [&b""[..], b"user:ada:r--", b"user::rwz", b"mask:1:r--", b"nobody::r--", b"user", b"\xff::r"] {
            assert_eq!(from_words(none), None, "{}", none.escape_ascii());
        }
    }
}
