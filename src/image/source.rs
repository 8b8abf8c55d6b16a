//! Where an image comes from: a registry, or a directory or file in one of the forms of containers-transports(5).
//!
//! ```text
//! NAME, docker://NAME                        a registry
//! oci:DIR[:NAME|:@N]                         an OCI image layout
//! oci-archive:FILE[:NAME|:@N]                the same in a tar archive
//! docker-archive:FILE[:REFERENCE|:@N]        what `docker save` writes
//! ```
//!
//! As in skopeo and podman the first colon behind the path ends it, because what follows may hold colons itself
//! (`oci:DIR:docker.io/library/app:1`); so a path with a colon in it cannot be named. `@N` is the Nth image, from 0 on.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::reference::{Reference, ReferenceError};

/// Most bytes of a name inside a layout.
const MAX_NAME_BYTES: usize = 512;
/// Most bytes of a name that is made from a file's.
const MAX_BASE_BYTES: usize = 100;
/// What files of images are called, longest endings first.
const ENDINGS: [&str; 6] = [".tar.zst", ".tar.gz", ".tgz", ".tzst", ".tar", ".oci"];
/// Transports of other tools, with what leads from them to one of ours.
const FOREIGN: [(&str, &str); 5] = [
    ("oci-dir", "`oci:DIR` is what it is called here"),
    ("dir", "`skopeo copy dir:PATH oci:DIR` makes a layout of it"),
    ("containers-storage", "`podman save --format oci-archive -o FILE IMAGE` makes a file of it"),
    ("docker-daemon", "`docker save -o FILE IMAGE` makes a file of it"),
    ("sif", "`apptainer pull` made it of an image in a registry, take that"),
];

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A registry.
    Registry(Reference),
    /// A directory or a file.
    Local(LocalSource),
}

/// An image in a directory or a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalSource {
    /// In which form.
    pub form: Form,
    /// Where.
    pub path: PathBuf,
    /// Which image of it.
    pub which: Which,
}

/// The forms in which images stand in directories and files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// An OCI image layout.
    OciDir,
    /// An OCI image layout in a tar archive.
    OciArchive,
    /// The archive of `docker save`.
    DockerArchive,
}

/// Which image of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// The only one.
    Only,
    /// The one of this name or tag.
    Name(String),
    /// The one at this place, from 0 on.
    Place(usize),
}

/// Why a string does not say where an image comes from.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SourceError {
    /// It is no reference either.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// No path behind the transport.
    #[error("`{0}` has no path, expected `{1}`")]
    NoPath(String, String),
    /// What stands behind the path is no name.
    #[error("`{source_text}` has a bad image name `{name}`\nhint: a path must not hold a colon, the first one ends it")]
    Name {
        /// The whole string.
        source_text: String,
        /// The part that is wrong.
        name: String,
    },
    /// A transport that only others have.
    #[error("`{0}` has the transport `{1}`, expected `oci`, `oci-archive`, `docker-archive` or `docker`\nhint: {2}")]
    Transport(String, String, &'static str),
    /// A path where its form must be said.
    #[error(
        "`{0}` is a path, and does not say what is there\nhint: `docker-archive:{0}`, `oci-archive:{0}` or `oci:{0}`"
    )]
    Path(String),
    /// A place where a name is wanted.
    #[error(
        "`{0}` is a place, expected the name of an image\nhint: `dockless pull {0}` takes the image into the store and names it"
    )]
    Place(String),
}

impl Form {
    const ALL: [Self; 3] = [Self::OciDir, Self::OciArchive, Self::DockerArchive];

    /// The transport's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OciDir => "oci",
            Self::OciArchive => "oci-archive",
            Self::DockerArchive => "docker-archive",
        }
    }

    const fn pattern(self) -> &'static str {
        match self {
            Self::OciDir => "oci:DIR[:NAME]",
            Self::OciArchive => "oci-archive:FILE[:NAME]",
            Self::DockerArchive => "docker-archive:FILE[:NAME]",
        }
    }
}

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(name) = text.strip_prefix("docker://") {
            return Ok(Self::Registry(name.parse()?));
        }
        if text.starts_with(['.', '/']) {
            return Err(SourceError::Path(text.to_owned()));
        }
        let Some((transport, rest)) = text.split_once(':') else { return Ok(Self::Registry(text.parse()?)) };
        if let Some(form) = Form::ALL.into_iter().find(|form| form.name() == transport) {
            return Ok(Self::Local(LocalSource::parse(form, text, rest)?));
        }
        // `dir:1` may be an image of that name; a path is none, and `oci-dir` is what `save` calls a layout.
        let is_path = rest.contains('/') || transport == "oci-dir";
        let foreign = FOREIGN.iter().find(|(name, _)| is_path && *name == transport);
        match foreign {
            Some((name, hint)) => Err(SourceError::Transport(text.to_owned(), (*name).to_owned(), hint)),
            None => Ok(Self::Registry(text.parse()?)),
        }
    }
}

/// A name where only a name will do: what would be a place elsewhere is refused, as `oci-archive:app.tar` could be the
/// name of an image too.
///
/// # Errors
/// [`SourceError::Place`], and what is wrong with a name.
pub fn image_name(text: &str) -> Result<Reference, SourceError> {
    match text.parse() {
        Ok(Source::Local(_)) => Err(SourceError::Place(text.to_owned())),
        _ => Ok(text.parse()?),
    }
}

impl LocalSource {
    fn parse(form: Form, text: &str, rest: &str) -> Result<Self, SourceError> {
        let (path, name) = rest.split_once(':').map_or((rest, None), |(path, name)| (path, Some(name)));
        if path.is_empty() {
            return Err(SourceError::NoPath(text.to_owned(), form.pattern().to_owned()));
        }
        let bad = |name: &str| SourceError::Name { source_text: text.to_owned(), name: name.to_owned() };
        let which = match name {
            None => Which::Only,
            Some(name) => match name.strip_prefix('@') {
                Some(place) => Which::Place(place.parse().map_err(|_| bad(name))?),
                None => Which::Name(name.to_owned()).checked(form).ok_or_else(|| bad(name))?,
            },
        };
        Ok(Self { form, path: PathBuf::from(path), which })
    }
}

impl Which {
    fn checked(self, form: Form) -> Option<Self> {
        let Self::Name(name) = &self else { return Some(self) };
        let printable = !name.is_empty() && name.len() <= MAX_NAME_BYTES && !name.chars().any(char::is_control);
        let good = printable && (form != Form::DockerArchive || name.parse::<Reference>().is_ok());
        good.then_some(self)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(reference) => write!(f, "docker://{reference}"),
            Self::Local(local) => local.fmt(f),
        }
    }
}

impl fmt::Display for LocalSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.form.name(), self.path.display())?;
        match &self.which {
            Which::Only => Ok(()),
            Which::Name(name) => write!(f, ":{name}"),
            Which::Place(place) => write!(f, ":@{place}"),
        }
    }
}

/// The repository of an image that has no full name, made from the name of its file or directory: `localhost/BASE`.
#[must_use]
pub fn local_repository(path: &Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let stem = ENDINGS.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(&name);
    let mut base = String::new();
    let mut between = String::new();
    for c in stem.chars() {
        if !c.is_ascii_alphanumeric() {
            between.push(c);
            continue;
        }
        if base.len() + between.len() >= MAX_BASE_BYTES {
            break;
        }
        if !base.is_empty() && !between.is_empty() {
            // The grammar of references has these between letters, and nothing else.
            base.push_str(if matches!(between.as_str(), "." | "_" | "__") { &between } else { "-" });
        }
        between.clear();
        base.push(c);
    }
    format!("localhost/{}", if base.is_empty() { "image" } else { &base })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> String {
        match text.parse::<Source>() {
            Ok(Source::Registry(reference)) => reference.to_string(),
            Ok(Source::Local(LocalSource { form, path, which })) => format!("{form:?} {} {which:?}", path.display()),
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn sources_are_those_of_containers_transports() {
        for (text, expected) in [
            ("ubuntu", "docker.io/library/ubuntu:latest"),
            ("docker://ghcr.io/a/b:1", "ghcr.io/a/b:1"),
            ("localhost:5000/a", "localhost:5000/a:latest"),
            ("dir:1", "docker.io/library/dir:1"),
            ("oci:/a/b", "OciDir /a/b Only"),
            ("oci:a:1", "OciDir a Name(\"1\")"),
            ("oci:/a:docker.io/library/x:1", "OciDir /a Name(\"docker.io/library/x:1\")"),
            ("oci-archive:/a.tar:@2", "OciArchive /a.tar Place(2)"),
            ("docker-archive:a.tar", "DockerArchive a.tar Only"),
            ("docker-archive:a.tar:localhost:5000/x:1", "DockerArchive a.tar Name(\"localhost:5000/x:1\")"),
        ] {
            assert_eq!(shown(text), expected);
        }
    }

    #[test]
    fn what_is_none_is_refused_with_a_reason() {
        for (text, words) in [
            ("oci:", "expected `oci:DIR[:NAME]`"),
            ("docker-archive::x", "has no path"),
            ("docker-archive:/a:X Y", "bad image name `X Y`"),
            ("oci:/a:", "bad image name ``"),
            ("oci:/a:@x", "bad image name `@x`"),
            ("dir:/a", "transport `dir`"),
            ("oci-dir:a", "hint: `oci:DIR`"),
            ("./a.tar", "hint: `docker-archive:./a.tar`"),
            ("docker://", "empty"),
            ("https://ghcr.io/a", "leave `https://` away"),
        ] {
            assert!(shown(text).contains(words), "{text}: {}", shown(text));
        }
    }

    #[test]
    fn a_place_is_no_name() {
        assert_eq!(image_name("a/b:1").unwrap().to_string(), "docker.io/a/b:1");
        for (text, words) in [
            ("oci-archive:a.tar", "hint: `dockless pull oci-archive:a.tar`"),
            ("oci:/a:1", "expected the name of an image"),
            ("docker://a", "leave `docker://` away"),
            ("oci:", "bad"),
        ] {
            let told = image_name(text).unwrap_err().to_string();
            assert!(told.contains(words), "{text}: {told}");
        }
    }

    #[test]
    fn repositories_are_made_from_files() {
        for (path, expected) in [
            ("/x/App.tar.gz", "localhost/app"),
            ("my image (1).tar", "localhost/my-image-1"),
            ("a.b__c-.oci", "localhost/a.b__c"),
            ("/", "localhost/image"),
            ("ÄÖ", "localhost/image"),
        ] {
            assert_eq!(local_repository(Path::new(path)), expected);
        }
    }

    proptest! {
        #[test]
        fn printing_and_parsing_agree(text in "(oci|oci-archive|docker-archive|docker):[a-z0-9.:/_@-]{0,30}") {
            if let Ok(source) = text.parse::<Source>() {
                prop_assert_eq!(&source.to_string().parse::<Source>().unwrap(), &source);
            }
        }

        #[test]
        fn every_file_gives_a_repository(name in "\\PC{0,300}") {
            let reference = format!("{}:1", local_repository(Path::new(&name))).parse::<Reference>();
            prop_assert!(reference.is_ok(), "{reference:?}");
        }
    }
}
