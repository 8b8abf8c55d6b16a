//! Content digests (`sha256:…`, `sha512:…`), chain IDs and the hasher that makes them.
//!
//! A [`Digest`] holds only lower-case hexadecimal of the right length, so it can stand in a path as it is
//! (CVE-2024-3727 was a digest that climbed out of the store). Other algorithms of the OCI grammar are refused:
//! what we cannot verify we do not accept.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// A hash function that names content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, what every registry uses.
    Sha256,
    /// SHA-512, registered by the OCI specification.
    Sha512,
}

impl Algorithm {
    /// The name before the colon.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    const fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// A verified-in-form content digest.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest {
    algorithm: Algorithm,
    hex: String,
}

/// Why a string is not a digest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DigestError {
    /// No colon, or an algorithm that we cannot compute.
    #[error("digest `{0}` has an unknown algorithm, expected `sha256:…` or `sha512:…`")]
    Algorithm(String),
    /// Wrong length or a character outside `0-9a-f`.
    #[error("digest `{0}` is malformed, expected {1} lower-case hexadecimal digits after the colon")]
    Hex(String, usize),
}

impl Digest {
    /// The hash function.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hexadecimal part: `[0-9a-f]` only, safe as a file name.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// The first twelve digits, as docker shows them.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.hex[..12]
    }

    /// The SHA-256 digest of `bytes`.
    #[must_use]
    pub fn sha256(bytes: &[u8]) -> Self {
        Self::of(Algorithm::Sha256, bytes)
    }

    /// The digest of `bytes` under `algorithm`.
    #[must_use]
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, hex) = text.split_once(':').ok_or_else(|| DigestError::Algorithm(text.to_owned()))?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => return Err(DigestError::Algorithm(text.to_owned())),
        };
        let well_formed =
            hex.len() == algorithm.hex_len() && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !well_formed {
            return Err(DigestError::Hex(text.to_owned(), algorithm.hex_len()));
        }
        Ok(Self { algorithm, hex: hex.to_owned() })
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex)
    }
}

/// Computes a [`Digest`] while bytes stream by.
#[derive(Debug, Clone)]
pub struct Hasher(State);

#[derive(Debug, Clone)]
enum State {
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
}

impl Hasher {
    /// A hasher that has seen nothing yet.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => State::Sha512(sha2::Sha512::new()),
        })
    }

    /// Takes in the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(hasher) => hasher.update(bytes),
            State::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of all that was taken in.
    #[must_use]
    pub fn finish(self) -> Digest {
        match self.0 {
            State::Sha256(hasher) => Digest { algorithm: Algorithm::Sha256, hex: hex(&hasher.finalize()) },
            State::Sha512(hasher) => Digest { algorithm: Algorithm::Sha512, hex: hex(&hasher.finalize()) },
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]).map(char::from).collect()
}

/// The name of a layer together with all layers below it
/// (`ChainID(L0|…|Ln) = digest(ChainID(L0|…|Ln-1) + " " + DiffID(Ln))`, OCI image specification, "Layer `ChainID`").
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ChainId(Digest);

impl ChainId {
    /// The chain of the lowest layer: its diff ID.
    #[must_use]
    pub fn base(diff_id: &Digest) -> Self {
        Self(diff_id.clone())
    }

    /// The chain that has `diff_id` on top of this one.
    #[must_use]
    pub fn push(&self, diff_id: &Digest) -> Self {
        Self(Digest::of(self.0.algorithm, format!("{} {diff_id}", self.0).as_bytes()))
    }

    /// The digest that names it.
    #[must_use]
    pub const fn digest(&self) -> &Digest {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_what_the_standard_says() {
        // FIPS 180-2, appendix B.1 and C.1: the message "abc".
        assert_eq!(
            Digest::sha256(b"abc").to_string(),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert!(
            Digest::of(Algorithm::Sha512, b"abc").to_string().starts_with("sha512:ddaf35a193617abacc417349ae204131")
        );
    }

    #[test]
    fn refuses_what_is_not_a_digest() {
        let good = Digest::sha256(b"").to_string();
        assert_eq!(good.parse::<Digest>().unwrap().to_string(), good);
        for bad in [
            String::new(),
            "sha256".to_owned(),
            "sha256:".to_owned(),
            "md5:d41d8cd98f00b204e9800998ecf8427e".to_owned(),
            "sha256:../../../../etc/passwd".to_owned(),
            good.to_uppercase(),
            format!("{good}0"),
            good.replace("sha256", "sha512"),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn chain_of_one_layer_is_its_diff_id() {
        let (a, b) = (Digest::sha256(b"a"), Digest::sha256(b"b"));
        let chain = ChainId::base(&a);
        assert_eq!(chain.digest(), &a);
        assert_eq!(chain.push(&b).digest(), &Digest::sha256(format!("{a} {b}").as_bytes()));
    }
}
