//! The long form, `--mount type=…,key=value,…`: docker's keys, and podman's for images.

use std::path::{Path, PathBuf};

use super::bind_options::BindOptions;
use super::error::MountProblem;
use super::mount_flags::{BindMount, ImageMount, MountSetting, TmpfsMount, container_path, host_path};
use super::path::clean;
use crate::image::Reference;

/// Reads the value of one `--mount`.
pub(super) fn read(text: &str, directory: &Path) -> Result<MountSetting, MountProblem> {
    let fields = fields(text)?;
    let mut read = MountFields::default();
    for field in &fields {
        let (key, value) = field.split_once('=').map_or((field.as_str(), None), |(key, value)| (key, Some(value)));
        read.apply(key, value, field)?;
    }
    read.finish(directory)
}

/// Splits a line of comma-separated values; a field in double quotes may hold commas, and quotes written twice.
fn fields(text: &str) -> Result<Vec<String>, MountProblem> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let (field, after) = if let Some(quoted) = rest.strip_prefix('"') {
            quoted_field(quoted)?
        } else {
            let end = rest.find([',', '"']).unwrap_or(rest.len());
            (rest[..end].to_owned(), &rest[end..])
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(fields),
            None => return Err(MountProblem::Quotes),
        }
    }
}

/// Reads up to the closing quote; gives the field and what follows it.
fn quoted_field(quoted: &str) -> Result<(String, &str), MountProblem> {
    let mut field = String::new();
    let mut rest = quoted;
    loop {
        let end = rest.find('"').ok_or(MountProblem::Quotes)?;
        field.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(next) => {
                field.push('"');
                rest = next;
            }
            None => return Ok((field, rest)),
        }
    }
}

/// What follows from `bind-recursive`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Recursion {
    Disabled,
    Writable,
    ReadOnly,
}

/// The keys of one `--mount`, as they stand.
#[derive(Default)]
struct MountFields<'a> {
    kind: Option<&'a str>,
    source: Option<&'a str>,
    target: Option<&'a str>,
    /// `ro` or `rw`, when one was given.
    access: Option<&'static str>,
    bind: BindOptions,
    recursion: Option<Recursion>,
    create_source: bool,
    tmpfs: Vec<String>,
    subpath: Option<&'a str>,
    /// The first key of each type that means nothing for the others.
    only_bind: Option<&'a str>,
    only_tmpfs: Option<&'a str>,
    only_image: Option<&'a str>,
}

impl<'a> MountFields<'a> {
    fn apply(&mut self, key: &'a str, value: Option<&'a str>, field: &'a str) -> Result<(), MountProblem> {
        let bad = |expected| MountProblem::Value { option: field.to_owned(), expected };
        let required = || value.filter(|value| !value.is_empty()).ok_or_else(|| bad("a value after `=`"));
        match key {
            "type" => self.kind = Some(required()?),
            "source" | "src" => self.source = Some(required()?),
            "target" | "destination" | "dst" => self.target = Some(required()?),
            "readonly" | "ro" => self.set_access(if flag(value, field)? { "ro" } else { "rw" })?,
            "rw" | "readwrite" => self.set_access(if flag(value, field)? { "rw" } else { "ro" })?,
            "tmpfs-size" | "tmpfs-mode" => {
                let option = key.strip_prefix("tmpfs-").unwrap_or(key);
                self.tmpfs.push(format!("{option}={}", required()?));
                self.only_tmpfs.get_or_insert(field);
            }
            "subpath" | "image-subpath" => {
                self.subpath = Some(required()?);
                self.only_image.get_or_insert(field);
            }
            "consistency" => {}
            "exec" | "noexec" | "suid" | "nosuid" | "dev" | "nodev" if value.is_none() => {
                self.bind.apply(key)?;
                self.tmpfs.push(key.to_owned());
            }
            _ => {
                self.apply_bind(key, value, field)?;
                self.only_bind.get_or_insert(field);
            }
        }
        Ok(())
    }

    fn apply_bind(&mut self, key: &'a str, value: Option<&'a str>, field: &'a str) -> Result<(), MountProblem> {
        const KEYS: &str = "`type`, `source`, `target`, `readonly`, `bind-propagation`, `bind-recursive`, `bind-nonrecursive`, `relabel`, `tmpfs-size`, `tmpfs-mode`, `rw` or `subpath`";
        const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];
        let bad = |expected| MountProblem::Value { option: field.to_owned(), expected };
        match (key, value.unwrap_or_default()) {
            ("bind-propagation", mode) if PROPAGATIONS.contains(&mode) => self.bind.apply(mode)?,
            ("bind-propagation", _) => {
                return Err(bad("`rprivate`, `private`, `rshared`, `shared`, `rslave` or `slave`"));
            }
            ("bind-nonrecursive", _) => {
                let option = if flag(value, field)? { "bind" } else { "rbind" };
                self.bind.apply(option)?;
            }
            ("bind-recursive", "enabled") => {}
            ("bind-recursive", "disabled") => self.recursion = Some(Recursion::Disabled),
            ("bind-recursive", "writable") => self.recursion = Some(Recursion::Writable),
            ("bind-recursive", "readonly") => self.recursion = Some(Recursion::ReadOnly),
            ("bind-recursive", _) => return Err(bad("`enabled`, `disabled`, `writable` or `readonly`")),
            ("bind-create-src", _) => self.create_source = flag(value, field)?,
            ("relabel", "shared" | "private") => self.bind.relabel = true,
            ("relabel", _) => return Err(bad("`shared` or `private`")),
            ("idmap", "") => self.bind.apply("idmap")?,
            ("U" | "chown" | "idmap" | "tmpcopyup" | "notmpcopyup", _) => {
                return Err(MountProblem::Unsupported(field.to_owned()));
            }
            _ if key.starts_with("volume-") => return Err(MountProblem::Unsupported(field.to_owned())),
            _ => return Err(MountProblem::Unknown { option: key.to_owned(), expected: KEYS }),
        }
        Ok(())
    }

    fn set_access(&mut self, access: &'static str) -> Result<(), MountProblem> {
        match self.access.replace(access) {
            Some(before) if before != access => Err(MountProblem::Conflict(before.to_owned(), access.to_owned())),
            _ => Ok(()),
        }
    }

    fn finish(self, directory: &Path) -> Result<MountSetting, MountProblem> {
        match self.kind {
            Some("bind") => self.finish_bind(directory).map(MountSetting::Bind),
            Some("tmpfs") => self.finish_tmpfs().map(MountSetting::Tmpfs),
            Some("image") => self.finish_image().map(MountSetting::Image),
            Some(kind @ ("volume" | "npipe" | "cluster" | "devpts" | "ramfs" | "glob" | "artifact")) => {
                Err(MountProblem::Unsupported(format!("type={kind}")))
            }
            // Docker's default is a named volume.
            None => Err(MountProblem::Missing("type=bind`, `type=tmpfs` or `type=image")),
            Some(kind) => Err(MountProblem::Unknown {
                option: format!("type={kind}"),
                expected: "`type=bind`, `type=tmpfs` or `type=image`",
            }),
        }
    }

    /// Keys of other types have no meaning.
    fn refuse(kind: &str, others: [Option<&str>; 2]) -> Result<(), MountProblem> {
        match others.into_iter().flatten().next() {
            Some(other) => Err(MountProblem::Conflict(format!("type={kind}"), other.to_owned())),
            None => Ok(()),
        }
    }

    fn target(&self) -> Result<&'a Path, MountProblem> {
        self.target.map(Path::new).ok_or(MountProblem::Missing("target="))
    }

    fn source(&self) -> Result<&'a str, MountProblem> {
        self.source.ok_or(MountProblem::Missing("source="))
    }

    fn finish_bind(mut self, directory: &Path) -> Result<BindMount, MountProblem> {
        Self::refuse("bind", [self.only_tmpfs, self.only_image])?;
        let (source, target) = (self.source()?, self.target()?);
        let path = host_path(source, directory).map_err(|()| MountProblem::SourceRelative(source.to_owned()))?;
        self.bind.read_only = self.access == Some("ro");
        match self.recursion {
            Some(Recursion::Disabled) => self.bind.apply("bind")?,
            Some(Recursion::Writable) => self.bind.read_only_below = false,
            Some(Recursion::ReadOnly) if !self.bind.read_only => return Err(MountProblem::Missing("readonly")),
            None | Some(Recursion::ReadOnly) => {}
        }
        BindMount::new(&path, target, self.create_source, self.bind)
    }

    fn finish_tmpfs(self) -> Result<TmpfsMount, MountProblem> {
        Self::refuse("tmpfs", [self.only_bind, self.only_image])?;
        if let Some(source) = self.source {
            return Err(MountProblem::Conflict("type=tmpfs".to_owned(), format!("source={source}")));
        }
        TmpfsMount::new(container_path(self.target()?)?, self.tmpfs.iter().map(String::as_str).chain(self.access))
    }

    fn finish_image(self) -> Result<ImageMount, MountProblem> {
        Self::refuse("image", [self.only_bind, self.only_tmpfs])?;
        if let Some(option) = self.tmpfs.first() {
            return Err(MountProblem::Conflict("type=image".to_owned(), option.clone()));
        }
        let source = self.source()?;
        let reference: Reference = source.parse().map_err(|_| MountProblem::Image(source.to_owned()))?;
        Ok(ImageMount {
            reference,
            destination: container_path(self.target()?)?,
            writable: self.access == Some("rw"),
            subpath: self.subpath.map(subpath).transpose()?,
        })
    }
}

/// A key that may stand alone.
fn flag(value: Option<&str>, field: &str) -> Result<bool, MountProblem> {
    match value {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(_) => Err(MountProblem::Value { option: field.to_owned(), expected: "`true` or `false`" }),
    }
}

/// A path within an image, which names no parent of the root.
fn subpath(text: &str) -> Result<PathBuf, MountProblem> {
    let expected = "a path in the image without `..`";
    let bad = || MountProblem::Value { option: format!("subpath={text}"), expected };
    if text.split('/').any(|name| name == "..") || text.contains('\0') {
        return Err(bad());
    }
    clean(&Path::new("/").join(text)).ok_or_else(bad)
}
