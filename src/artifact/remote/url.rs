//! Where artifacts are kept, as the user writes it: a directory or a place in a bucket.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest prefix in bytes: keys of S3 have 1024 at most, and the run's name and the files' paths come behind it.
const MAX_PREFIX_BYTES: usize = 256;

/// A store for artifacts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ArtifactStoreUrl {
    /// A directory of this machine (`/dir`, `dir` or `file:///dir`).
    Local(PathBuf),
    /// A place in a bucket (`s3://bucket/prefix`).
    S3(S3Url),
}

/// A bucket of an S3-compatible store, and the prefix of everything that is ours in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Url {
    bucket: String,
    /// Without slashes at its ends; empty for the whole bucket.
    prefix: String,
}

/// Why a text names no artifact store.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ArtifactStoreUrlError {
    /// Nothing there.
    #[error("artifact store is empty, expected a directory or `s3://bucket/prefix`")]
    Empty,
    /// Some other scheme.
    #[error("artifact store `{url}` has the scheme `{scheme}`, expected a directory, `file://` or `s3://`{hint}")]
    Scheme {
        /// As given.
        url: String,
        /// What stands before `://`.
        scheme: String,
        /// What to write instead.
        hint: &'static str,
    },
    /// A directory where only a bucket will do.
    #[error("artifact store `{0}` is a directory, expected `s3://bucket/prefix`")]
    NotS3(String),
    /// `file://host/dir`.
    #[error("artifact store `{0}` names another machine, expected `file:///directory`\nhint: three slashes")]
    FileHost(String),
    /// A user or password in the URL.
    #[error(
        "artifact store `s3://…@…` holds credentials\nhint: leave them out and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )]
    Credentials,
    /// Not the name of a bucket.
    #[error(
        "bucket `{bucket}` of the artifact store is malformed, expected 3 to 63 lower-case letters, digits, `.` and `-`\nhint: write `s3://bucket/prefix`, and the server in AWS_ENDPOINT_URL"
    )]
    Bucket {
        /// The name.
        bucket: String,
    },
    /// Not a prefix.
    #[error(
        "prefix `{prefix}` of the artifact store is malformed, expected names of letters, digits and `!-_.'()` between single slashes, {MAX_PREFIX_BYTES} bytes at most"
    )]
    Prefix {
        /// As given.
        prefix: String,
    },
}

impl S3Url {
    /// The bucket.
    #[must_use]
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The key of something below the prefix.
    #[must_use]
    pub(super) fn key(&self, rest: &str) -> String {
        if self.prefix.is_empty() { rest.to_owned() } else { format!("{}/{rest}", self.prefix) }
    }

    fn parse(rest: &str) -> Result<Self, ArtifactStoreUrlError> {
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.contains('@') {
            return Err(ArtifactStoreUrlError::Credentials);
        }
        let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        let name = bucket.as_bytes();
        let good = (3..=63).contains(&name.len())
            && name.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-'))
            && edge(name.first())
            && edge(name.last())
            && !bucket.contains("..");
        if !good {
            return Err(ArtifactStoreUrlError::Bucket { bucket: bucket.escape_debug().to_string() });
        }
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let good_part = |part: &str| {
            !matches!(part, "" | "." | "..")
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!-_.'()".contains(&b))
        };
        if prefix.len() > MAX_PREFIX_BYTES || !prefix.is_empty() && !prefix.split('/').all(good_part) {
            return Err(ArtifactStoreUrlError::Prefix { prefix: prefix.escape_debug().to_string() });
        }
        Ok(Self { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

impl fmt::Display for S3Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

impl FromStr for S3Url {
    type Err = ArtifactStoreUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse()? {
            ArtifactStoreUrl::S3(url) => Ok(url),
            ArtifactStoreUrl::Local(_) => Err(ArtifactStoreUrlError::NotS3(text.escape_debug().to_string())),
        }
    }
}

impl FromStr for ArtifactStoreUrl {
    type Err = ArtifactStoreUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(ArtifactStoreUrlError::Empty);
        }
        let Some((scheme, rest)) = text.split_once("://") else { return Ok(Self::Local(PathBuf::from(text))) };
        match scheme.to_ascii_lowercase().as_str() {
            "s3" => S3Url::parse(rest).map(Self::S3),
            "file" if rest.starts_with('/') => Ok(Self::Local(PathBuf::from(rest))),
            "file" => Err(ArtifactStoreUrlError::FileHost(text.escape_debug().to_string())),
            // The rest may hold a password, and is not shown.
            other => Err(ArtifactStoreUrlError::Scheme {
                url: format!("{}://…", scheme.escape_debug()),
                scheme: other.escape_debug().to_string(),
                hint: scheme_hint(other),
            }),
        }
    }
}

fn scheme_hint(scheme: &str) -> &'static str {
    match scheme {
        "http" | "https" => "\nhint: write `s3://bucket/prefix`, and set AWS_ENDPOINT_URL to the server",
        "gs" => "\nhint: Google's buckets speak S3 at AWS_ENDPOINT_URL=https://storage.googleapis.com",
        "s3a" | "s3n" => "\nhint: write `s3://`",
        _ => "",
    }
}

impl fmt::Display for ArtifactStoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => path.display().fmt(f),
            Self::S3(url) => url.fmt(f),
        }
    }
}

impl TryFrom<String> for ArtifactStoreUrl {
    type Error = ArtifactStoreUrlError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ArtifactStoreUrl> for String {
    fn from(url: ArtifactStoreUrl) -> Self {
        url.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_and_buckets() {
        for (text, shown, key) in [
            ("s3://bucket", "s3://bucket", "run/x"),
            ("s3://bucket/", "s3://bucket", "run/x"),
            ("S3://my.bucket-1/a/b_c/", "s3://my.bucket-1/a/b_c", "a/b_c/run/x"),
        ] {
            let url: ArtifactStoreUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), shown);
            let ArtifactStoreUrl::S3(url) = url else { panic!("`{text}` is no directory") };
            assert_eq!(url.key("run/x"), key);
        }
        for (text, path) in [("/srv/a", "/srv/a"), ("file:///srv/a", "/srv/a"), ("dir", "dir"), ("s3:x", "s3:x")] {
            assert_eq!(text.parse(), Ok(ArtifactStoreUrl::Local(PathBuf::from(path))));
        }
    }

    #[test]
    fn what_is_no_store() {
        for (text, message) in [
            ("", "is empty"),
            ("https://host/bucket", "hint: write `s3://bucket/prefix`, and set AWS_ENDPOINT_URL"),
            ("ftp://user:hunter2@host/x", "has the scheme `ftp`"),
            ("gs://bucket", "storage.googleapis.com"),
            ("file://host/x", "names another machine"),
            ("s3://", "bucket `` of"),
            ("s3://ab", "bucket `ab` of"),
            ("s3://Bucket", "bucket `Bucket` of"),
            ("s3://host:9000/bucket", "bucket `host:9000` of"),
            ("s3://a..b/x", "bucket `a..b` of"),
            ("s3://key:hunter2@bucket", "holds credentials"),
            ("s3://bucket//x", "prefix `/x` of"),
            ("s3://bucket/a/../b", "prefix `a/../b` of"),
            ("s3://bucket/a b", "prefix `a b` of"),
            ("s3://bucket/a?x=y", "prefix `a?x=y` of"),
            ("s3://bucket/\u{1b}", "prefix `\\u{1b}` of"),
        ] {
            let error = text.parse::<ArtifactStoreUrl>().unwrap_err().to_string();
            assert!(error.contains(message), "`{text}` gave: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
