//! Names and hardware addresses of containers, as they are asked for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::NetworkError;

const MAX_NAME_BYTES: usize = 63;
/// First bit of a hardware address: it is that of a group (IEEE 802).
const MULTICAST: u8 = 1;

/// One more name of a container. aardvark-dns keeps names in lines of words and commas, so there are none in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Alias(String);

impl FromStr for Alias {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        let starts_well = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if starts_well && text.len() <= MAX_NAME_BYTES && text.bytes().all(is_good) {
            return Ok(Self(text.to_owned()));
        }
        Err(NetworkError::Alias(text.escape_debug().to_string()))
    }
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mac([u8; 6]);

impl FromStr for Mac {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || NetworkError::Mac(text.escape_debug().to_string());
        let mut bytes = [0; 6];
        let mut words = text.split(':');
        for byte in &mut bytes {
            let word =
                words.next().filter(|word| word.len() == 2 && word.bytes().all(|digit| digit.is_ascii_hexdigit()));
            *byte = word.and_then(|word| u8::from_str_radix(word, 16).ok()).ok_or_else(bad)?;
        }
        if words.next().is_some() || bytes[0] & MULTICAST != 0 || bytes == [0; 6] {
            return Err(bad());
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        f.write_str(&words.join(":"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses() {
        assert_eq!("02:42:AC:11:00:02".parse::<Mac>().unwrap().to_string(), "02:42:ac:11:00:02");
        let bad = ["", "02:42:ac:11:00", "02:42:ac:11:00:02:03", "2:42:ac:11:00:02", "+2:42:ac:11:00:02"];
        for bad in bad.into_iter().chain(["01:00:00:00:00:00", "00:00:00:00:00:00", "02-42-ac-11-00-02"]) {
            assert!(bad.parse::<Mac>().is_err(), "`{bad}` was accepted");
        }
    }

    #[test]
    fn aliases_are_words() {
        for good in ["db", "a.b_c-d", "9", &"a".repeat(63)] {
            assert_eq!(good.parse::<Alias>().unwrap().to_string(), good);
        }
        for bad in ["", "a b", "a,b", "-a", ".", "a\n", "ü", &"a".repeat(64)] {
            assert!(bad.parse::<Alias>().is_err(), "`{bad}` was accepted");
        }
    }
}
