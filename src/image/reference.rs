//! Image references: `[registry[:port]/]repository[:tag][@digest]`, with docker's short names.
//!
//! The grammar is that of the distribution project (`reference.go`): a first component that holds a dot or a colon, or is
//! `localhost`, names the registry; without one the registry is docker's hub, where a bare name means `library/NAME`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::digest::{Digest, DigestError};

const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
const MAX_NAME_LEN: usize = 255;
const MAX_TAG_LEN: usize = 128;

/// A parsed reference; it always has a tag, a digest or both.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a string is not an image reference.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReferenceError {
    /// Nothing there.
    #[error("image reference is empty, expected `[registry/]name[:tag]`")]
    Empty,
    /// A URL was given.
    #[error("image reference `{0}` has a scheme, expected `[registry/]name[:tag]`\nhint: leave `{1}://` away")]
    Scheme(String, String),
    /// The repository breaks the grammar.
    #[error(
        "image reference `{reference}` has a bad repository name `{repository}`, expected lower-case letters, digits and single `.`, `_`, `__`, `-` between them, parts separated by `/`{hint}"
    )]
    Repository {
        /// The whole reference.
        reference: String,
        /// The part that is wrong.
        repository: String,
        /// A second line with advice, or nothing.
        hint: String,
    },
    /// The host part breaks the grammar.
    #[error("image reference `{0}` has a bad registry `{1}`, expected a host name or address with an optional port")]
    Registry(String, String),
    /// The tag breaks the grammar.
    #[error(
        "image reference `{0}` has a bad tag `{1}`, expected up to 128 letters, digits, `_`, `.`, `-`, not starting with `.` or `-`"
    )]
    Tag(String, String),
    /// The digest breaks the grammar.
    #[error("image reference `{0}` has a bad digest")]
    Digest(String, #[source] DigestError),
}

impl Reference {
    /// Host and port of the registry, `docker.io` when none was given.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Host and port to talk to: docker's hub answers under another name than the one its images carry.
    #[must_use]
    pub fn registry_host(&self) -> &str {
        match self.registry.as_str() {
            "docker.io" | "index.docker.io" => "registry-1.docker.io",
            other => other,
        }
    }

    /// The repository, `library/` included.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if there is one.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if there is one; it wins over the tag.
    #[must_use]
    pub const fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What comes last in `/v2/<repository>/manifests/`.
    #[must_use]
    pub fn manifest_selector(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }

    /// The name as a person would write it: without `docker.io/` and `library/`, where it stays the same name without them.
    #[must_use]
    pub fn familiar(&self) -> String {
        let bare = self.repository.strip_prefix("library/").filter(|name| !name.contains('/'));
        let short = bare.unwrap_or(&self.repository);
        let reads_as_registry = short.split_once('/').is_some_and(|(first, _)| names_registry(first));
        let name = if self.registry == DEFAULT_REGISTRY && !reads_as_registry {
            short.to_owned()
        } else {
            format!("{}/{}", self.registry, self.repository)
        };
        format!("{name}{}", self.suffix())
    }

    fn suffix(&self) -> String {
        let tag = self.tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = self.digest.as_ref().map(|digest| format!("@{digest}")).unwrap_or_default();
        format!("{tag}{digest}")
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if let Some((scheme, _)) = text.split_once("://") {
            return Err(ReferenceError::Scheme(text.to_owned(), scheme.to_owned()));
        }
        let (rest, digest) = split_digest(text)?;
        let (name, tag) = split_tag(text, rest)?;
        let (registry, repository) = split_registry(text, name)?;
        check_repository(text, &repository)?;
        let tag = tag.or_else(|| digest.is_none().then(|| DEFAULT_TAG.to_owned()));
        Ok(Self { registry, repository, tag, digest })
    }
}

fn split_digest(text: &str) -> Result<(&str, Option<Digest>), ReferenceError> {
    let Some((rest, digest)) = text.split_once('@') else { return Ok((text, None)) };
    let digest = digest.parse().map_err(|source| ReferenceError::Digest(text.to_owned(), source))?;
    Ok((rest, Some(digest)))
}

fn split_tag<'a>(text: &str, rest: &'a str) -> Result<(&'a str, Option<String>), ReferenceError> {
    // A colon before the last slash belongs to the registry's port.
    let last = rest.rfind('/').map_or(0, |slash| slash + 1);
    let Some(colon) = rest[last..].find(':') else { return Ok((rest, None)) };
    let (name, tag) = (&rest[..last + colon], &rest[last + colon + 1..]);
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let good = !tag.is_empty()
        && tag.len() <= MAX_TAG_LEN
        && word(tag.as_bytes()[0])
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-');
    if !good {
        return Err(ReferenceError::Tag(text.to_owned(), tag.to_owned()));
    }
    Ok((name, Some(tag.to_owned())))
}

fn split_registry(text: &str, name: &str) -> Result<(String, String), ReferenceError> {
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest)) if names_registry(first) => (first.to_ascii_lowercase(), rest),
        _ => (DEFAULT_REGISTRY.to_owned(), name),
    };
    let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY.to_owned() } else { registry };
    if !is_host_and_port(&registry) {
        return Err(ReferenceError::Registry(text.to_owned(), registry));
    }
    let repository = if registry == DEFAULT_REGISTRY && !repository.contains('/') && !repository.is_empty() {
        format!("library/{repository}")
    } else {
        repository.to_owned()
    };
    Ok((registry, repository))
}

/// Whether the first of several components is the registry.
fn names_registry(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':'])
}

fn is_host_and_port(registry: &str) -> bool {
    let (host, port) = match registry.rsplit_once(':') {
        // Inside brackets the last colon belongs to an IPv6 address.
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (registry, None),
    };
    let port_good = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port != 0));
    let host_good = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.split('.').all(is_host_label),
    };
    port_good && host_good
}

fn is_host_label(label: &str) -> bool {
    !label.is_empty()
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn check_repository(text: &str, repository: &str) -> Result<(), ReferenceError> {
    let good =
        !repository.is_empty() && repository.len() <= MAX_NAME_LEN && repository.split('/').all(is_path_component);
    if good {
        return Ok(());
    }
    let hint = if repository.bytes().any(|b| b.is_ascii_uppercase()) {
        format!("\nhint: use lower case: `{}`", text.to_ascii_lowercase())
    } else {
        String::new()
    };
    Err(ReferenceError::Repository { reference: text.to_owned(), repository: repository.to_owned(), hint })
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return false };
    let separators_good = component
        .split(|c: char| c.is_ascii() && alphanumeric(c as u8))
        .filter(|run| !run.is_empty())
        .all(|run| matches!(run, "." | "_" | "__") || run.bytes().all(|b| b == b'-'));
    alphanumeric(first) && alphanumeric(last) && separators_good
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.registry, self.repository, self.suffix())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn full(text: &str) -> String {
        text.parse::<Reference>().map_or_else(|error| format!("error: {error}"), |reference| reference.to_string())
    }

    #[test]
    fn short_names_are_dockers() {
        assert_eq!(full("ubuntu"), "docker.io/library/ubuntu:latest");
        assert_eq!(full("ubuntu:22.04"), "docker.io/library/ubuntu:22.04");
        assert_eq!(full("a/b"), "docker.io/a/b:latest");
        assert_eq!(full("index.docker.io/library/a"), "docker.io/library/a:latest");
        assert_eq!(full("localhost/a"), "localhost/a:latest");
        assert_eq!(full("localhost:5000/a/b:1"), "localhost:5000/a/b:1");
        assert_eq!(full("[::1]:5000/a"), "[::1]:5000/a:latest");
        assert_eq!(full("ghcr.io/Owner/x"), full("ghcr.io/Owner/x"));
        let digest = Digest::sha256(b"");
        assert_eq!(full(&format!("a@{digest}")), format!("docker.io/library/a@{digest}"));
        assert_eq!(full(&format!("a:1@{digest}")), format!("docker.io/library/a:1@{digest}"));
    }

    #[test]
    fn familiar_names_never_name_another_registry() {
        for text in ["library/a.io/b", "docker.io/a.io/b", "docker.io/localhost/b", "library/library/a", "library/a/b"]
        {
            let reference = text.parse::<Reference>().unwrap();
            assert_eq!(reference.familiar().parse(), Ok(reference), "{text}");
        }
    }

    #[test]
    fn familiar_names_leave_the_hub_out() {
        assert_eq!("ubuntu".parse::<Reference>().unwrap().familiar(), "ubuntu:latest");
        assert_eq!("a/b:1".parse::<Reference>().unwrap().familiar(), "a/b:1");
        assert_eq!("h.io/a".parse::<Reference>().unwrap().familiar(), "h.io/a:latest");
    }

    #[test]
    fn refuses_bad_names_with_a_reason() {
        for bad in [
            "",
            "A",
            "a b",
            "a//b",
            "/a",
            "a/",
            "a:",
            "a:-x",
            "a@sha256:12",
            "-.io/a",
            "h.io:0/a",
            "h.io:99999/a",
            "..",
            "a/../b",
            "http://a/b",
            "a--",
            "x.io/",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "`{bad}` was accepted as {}", full(bad));
        }
        assert!(full("Ubuntu").contains("hint: use lower case: `ubuntu`"));
        assert!(full("https://ghcr.io/a").contains("leave `https://` away"));
    }

    proptest! {
        #[test]
        fn printing_and_parsing_agree(text in "[a-z0-9.:/_@-]{0,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(&reference.to_string().parse::<Reference>().unwrap(), &reference);
                prop_assert_eq!(&reference.familiar().parse::<Reference>().unwrap(), &reference);
                prop_assert!(!reference.repository().contains(".."));
            }
        }
    }
}
