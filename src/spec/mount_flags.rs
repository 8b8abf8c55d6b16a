//! The grammar of `-v`, `--mount` and `--tmpfs`, as docker's.
//!
//! Nothing is taken and then not done: libcontainer 0.7 ignores or fails on mount propagation other than the default,
//! `sync`, `nosymfollow`, `tmpcopyup` and id-mapped mounts, so those are refused here. Options that can have no effect
//! are taken: `nocopy` (a directory is never copied into a bind mount), `cached`, `delegated` and `consistent` (they
//! speak to virtual machines on other systems). `z` and `Z` relabel for `SELinux`; where it is on, a warning says that
//! this is not done.

use std::path::{Path, PathBuf};

use super::MAX_ID;
use super::error::{MountProblem, SpecError};
use super::path::clean;
use crate::image::ByteSize;

/// Files under `/proc` that may be replaced: those that lxcfs emulates, and runc's own two.
const REPLACEABLE_UNDER_PROC: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];
const PROPAGATIONS: [&str; 5] = ["private", "shared", "rshared", "slave", "rslave"];
/// Docker's for every tmpfs, and the mode that the kernel gives a new one, said aloud: runc would copy the mode of the
/// directory beneath. Without a size the kernel lets it grow to half of the machine's memory.
const TMPFS_DEFAULTS: [&str; 4] = ["noexec", "nosuid", "nodev", "mode=1777"];
const MAX_MODE: u32 = 0o7777;

/// One mount that the user asked for; paths are absolute and clean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountSetting {
    /// A directory or file of this machine, with everything mounted below it.
    Bind(BindMount),
    /// A fresh file system in memory.
    Tmpfs(TmpfsMount),
}

/// A directory or file of this machine seen in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindMount {
    source: PathBuf,
    destination: PathBuf,
    read_only: bool,
    create_source: bool,
    relabel: bool,
}

/// A file system in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TmpfsMount {
    destination: PathBuf,
    options: Vec<String>,
}

impl BindMount {
    /// Absolute path on this machine.
    #[must_use]
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// Absolute path in the container.
    #[must_use]
    pub fn destination(&self) -> &Path {
        &self.destination
    }

    /// Whether it is read-only, with all that is mounted below it.
    #[must_use]
    pub const fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Whether a source that does not exist is to be made as a directory (`-v`) or is an error (`--mount`).
    #[must_use]
    pub const fn creates_source(&self) -> bool {
        self.create_source
    }

    /// Whether `z` or `Z` was given.
    pub(super) const fn wants_relabel(&self) -> bool {
        self.relabel
    }
}

impl TmpfsMount {
    /// Absolute path in the container.
    #[must_use]
    pub fn destination(&self) -> &Path {
        &self.destination
    }

    /// Mount options, docker's defaults included.
    #[must_use]
    pub fn options(&self) -> &[String] {
        &self.options
    }
}

impl MountSetting {
    /// A writable bind mount from within the program, not from a flag; `what` names it in errors. The source must exist.
    pub fn bind(what: &'static str, source: &Path, destination: &Path) -> Result<Self, SpecError> {
        Self::existing(source, destination, false)
            .map_err(|problem| error(what, &source.display().to_string(), problem))
    }

    /// The same, read-only with all that is mounted below the source.
    pub fn bind_read_only(what: &'static str, source: &Path, destination: &Path) -> Result<Self, SpecError> {
        Self::existing(source, destination, true).map_err(|problem| error(what, &source.display().to_string(), problem))
    }

    fn existing(source: &Path, destination: &Path, read_only: bool) -> Result<Self, MountProblem> {
        let source = clean(source).ok_or_else(|| MountProblem::SourceRelative(source.display().to_string()))?;
        let destination = container_path(destination)?;
        Ok(Self::Bind(BindMount { source, destination, read_only, create_source: false, relabel: false }))
    }

    /// Reads `-v SRC:DST[:OPTIONS]`; a source that starts with `./` or `../` is relative to `directory`.
    pub fn from_volume(text: &str, directory: &Path) -> Result<Self, SpecError> {
        volume(text, directory).map_err(|problem| error("--volume", text, problem))
    }

    /// Reads `--mount type=bind|tmpfs,…`; a source that starts with `./` or `../` is relative to `directory`.
    pub fn from_mount(text: &str, directory: &Path) -> Result<Self, SpecError> {
        fields(text)
            .and_then(|fields| MountFields::read(&fields)?.finish(directory))
            .map_err(|problem| error("--mount", text, problem))
    }

    /// Reads `--tmpfs DST[:OPTIONS]`.
    pub fn from_tmpfs(text: &str) -> Result<Self, SpecError> {
        let (destination, options) = text.split_once(':').unwrap_or((text, ""));
        container_path(Path::new(destination))
            .and_then(|destination| {
                let options = tmpfs_options(options.split(',').filter(|option| !option.is_empty()))?;
                Ok(Self::Tmpfs(TmpfsMount { destination, options }))
            })
            .map_err(|problem| error("--tmpfs", text, problem))
    }

    /// Absolute path in the container.
    #[must_use]
    pub fn destination(&self) -> &Path {
        match self {
            Self::Bind(mount) => &mount.destination,
            Self::Tmpfs(mount) => &mount.destination,
        }
    }
}

fn error(flag: &'static str, text: &str, problem: MountProblem) -> SpecError {
    SpecError::Mount { flag, text: text.to_owned(), problem }
}

fn volume(text: &str, directory: &Path) -> Result<MountSetting, MountProblem> {
    const SHAPE: MountProblem = MountProblem::Shape("SRC:DST[:OPTIONS]");
    let parts: Vec<&str> = text.splitn(3, ':').collect();
    let (source, destination, options) = match parts[..] {
        [destination] if destination.starts_with('/') => {
            return Err(MountProblem::AnonymousVolume(destination.to_owned()));
        }
        ["", ..] | [_] | [_, ""] | [_, "", _] | [_, _, ""] => return Err(SHAPE),
        [source, destination] => (source, destination, None),
        [source, destination, options] => (source, destination, Some(options)),
        _ => return Err(SHAPE),
    };
    let source = host_path(source, directory).map_err(|()| MountProblem::NamedVolume(source.to_owned()))?;
    let destination = container_path(Path::new(destination))?;
    let mut mount = BindMount { source, destination, read_only: false, create_source: true, relabel: false };
    no_nul(&mount.source)?;
    let mut access = None;
    for option in options.into_iter().flat_map(|options| options.split(',')) {
        apply_volume_option(&mut mount, &mut access, option)?;
    }
    Ok(MountSetting::Bind(mount))
}

fn apply_volume_option<'a>(
    mount: &mut BindMount,
    access: &mut Option<&'a str>,
    option: &'a str,
) -> Result<(), MountProblem> {
    const EXPECTED: &str = "`ro`, `rw`, `z`, `Z`, `nocopy` or `rprivate`";
    match option {
        "ro" | "rw" => {
            if let Some(before) = access.replace(option).filter(|before| *before != option) {
                return Err(MountProblem::Conflict(before.to_owned(), option.to_owned()));
            }
            mount.read_only = option == "ro";
        }
        "z" | "Z" => mount.relabel = true,
        "rprivate" | "nocopy" | "cached" | "delegated" | "consistent" => {}
        other if PROPAGATIONS.contains(&other) => return Err(MountProblem::Unsupported(other.to_owned())),
        other => return Err(MountProblem::Unknown { option: other.to_owned(), expected: EXPECTED }),
    }
    Ok(())
}

/// A path of this machine; `Err` for what is not a path but a name.
fn host_path(text: &str, directory: &Path) -> Result<PathBuf, ()> {
    let relative = matches!(text, "." | "..") || text.starts_with("./") || text.starts_with("../");
    let path = if relative { directory.join(text) } else { PathBuf::from(text) };
    clean(&path).ok_or(())
}

fn no_nul(path: &Path) -> Result<(), MountProblem> {
    if path.as_os_str().as_encoded_bytes().contains(&0) { Err(MountProblem::Nul) } else { Ok(()) }
}

/// Checks a place in the container. `/dev` and `/proc` are the runtime's: it makes nodes and links in `/dev`, which would
/// land in the source of a bind mount, and masks files of `/proc`.
pub fn container_path(path: &Path) -> Result<PathBuf, MountProblem> {
    let cleaned = clean(path).ok_or_else(|| MountProblem::DestinationRelative(path.display().to_string()))?;
    no_nul(&cleaned)?;
    if cleaned == Path::new("/") {
        return Err(MountProblem::DestinationRoot);
    }
    let in_proc = cleaned.starts_with("/proc") && !REPLACEABLE_UNDER_PROC.iter().any(|file| cleaned == Path::new(file));
    if in_proc || cleaned == Path::new("/dev") {
        return Err(MountProblem::DestinationReserved(cleaned.display().to_string()));
    }
    Ok(cleaned)
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

/// The keys of one `--mount`, as they stand.
#[derive(Default)]
struct MountFields<'a> {
    kind: Option<&'a str>,
    source: Option<&'a str>,
    target: Option<&'a str>,
    read_only: bool,
    tmpfs: Vec<String>,
}

impl<'a> MountFields<'a> {
    fn read(fields: &'a [String]) -> Result<Self, MountProblem> {
        let mut read = Self::default();
        for field in fields {
            let (key, value) = field.split_once('=').map_or((field.as_str(), None), |(key, value)| (key, Some(value)));
            read.apply(key, value, field)?;
        }
        Ok(read)
    }

    fn apply(&mut self, key: &str, value: Option<&'a str>, field: &str) -> Result<(), MountProblem> {
        const KEYS: &str = "`type`, `source`, `target`, `readonly`, `bind-propagation`, `tmpfs-size` or `tmpfs-mode`";
        let bad = |expected| MountProblem::Value { option: field.to_owned(), expected };
        let required = || value.filter(|value| !value.is_empty()).ok_or_else(|| bad("a value after `=`"));
        match key {
            "type" => self.kind = Some(required()?),
            "source" | "src" => self.source = Some(required()?),
            "target" | "destination" | "dst" => self.target = Some(required()?),
            "readonly" | "ro" => {
                self.read_only = match value {
                    None | Some("true" | "1") => true,
                    Some("false" | "0") => false,
                    Some(_) => return Err(bad("`true` or `false`")),
                }
            }
            "tmpfs-size" => self.tmpfs.push(format!("size={}", required()?)),
            "tmpfs-mode" => self.tmpfs.push(format!("mode={}", required()?)),
            "bind-propagation" if value == Some("rprivate") => {}
            "consistency" => {}
            "bind-propagation" | "bind-nonrecursive" | "bind-recursive" => {
                return Err(MountProblem::Unsupported(field.to_owned()));
            }
            _ if key.starts_with("volume-") => return Err(MountProblem::Unsupported(field.to_owned())),
            _ => return Err(MountProblem::Unknown { option: key.to_owned(), expected: KEYS }),
        }
        Ok(())
    }

    fn finish(self, directory: &Path) -> Result<MountSetting, MountProblem> {
        let target = self.target.ok_or(MountProblem::Missing("target="));
        match self.kind {
            Some("bind") => {
                if let Some(option) = self.tmpfs.first() {
                    return Err(MountProblem::Conflict("type=bind".to_owned(), format!("tmpfs-{option}")));
                }
                let source = self.source.ok_or(MountProblem::Missing("source="))?;
                let path =
                    host_path(source, directory).map_err(|()| MountProblem::SourceRelative(source.to_owned()))?;
                no_nul(&path)?;
                MountSetting::existing(&path, Path::new(target?), self.read_only)
            }
            Some("tmpfs") => {
                if let Some(source) = self.source {
                    return Err(MountProblem::Conflict("type=tmpfs".to_owned(), format!("source={source}")));
                }
                let destination = container_path(Path::new(target?))?;
                let access = if self.read_only { &["ro"][..] } else { &[] };
                let options = tmpfs_options(self.tmpfs.iter().map(String::as_str).chain(access.iter().copied()))?;
                Ok(MountSetting::Tmpfs(TmpfsMount { destination, options }))
            }
            Some(kind @ ("volume" | "npipe" | "cluster" | "image")) => {
                Err(MountProblem::Unsupported(format!("type={kind}")))
            }
            // Docker's default is a named volume.
            None => Err(MountProblem::Missing("type=bind` or `type=tmpfs")),
            Some(kind) => {
                Err(MountProblem::Unknown { option: format!("type={kind}"), expected: "`type=bind` or `type=tmpfs`" })
            }
        }
    }
}

/// Docker's defaults with the given options over them; a later option replaces an earlier one of its kind.
fn tmpfs_options<'a>(given: impl Iterator<Item = &'a str>) -> Result<Vec<String>, MountProblem> {
    let mut options: Vec<(&str, String)> =
        TMPFS_DEFAULTS.iter().map(|option| (option_kind(option), (*option).to_owned())).collect();
    for option in given {
        if matches!(option, "defaults" | "rprivate") {
            continue;
        }
        let kind = option_kind(option);
        let checked = tmpfs_option(option)?;
        match options.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, value)) => *value = checked,
            None => options.push((kind, checked)),
        }
    }
    Ok(options.into_iter().map(|(_, option)| option).collect())
}

/// What an option is about: `noexec` is about `exec`, `size=1` about `size`.
fn option_kind(option: &str) -> &str {
    match option {
        "ro" | "rw" => "access",
        "noexec" => "exec",
        "nosuid" => "suid",
        "nodev" => "dev",
        "nodiratime" => "diratime",
        "noatime" | "relatime" | "strictatime" => "atime",
        other => other.split_once('=').map_or(other, |(key, _)| key),
    }
}

fn tmpfs_option(option: &str) -> Result<String, MountProblem> {
    const EXPECTED: &str = "`size=`, `mode=`, `uid=`, `gid=`, `nr_inodes=`, `nr_blocks=`, or one of `ro`, `rw`, `exec`, `noexec`, `suid`, `nosuid`, `dev`, `nodev`, `noatime`, `relatime`, `strictatime`";
    let bad = |expected| MountProblem::Value { option: option.to_owned(), expected };
    if let Some((key, value)) = option.split_once('=') {
        let number = |expected| ByteSize::from_docker(value).map_err(|_| bad(expected)).map(|size| size.0.to_string());
        let value = match key {
            "size" if value.ends_with('%') => percentage(value).ok_or_else(|| bad("a percentage from 1% to 100%"))?,
            "size" => number("a size like `64m`, or a percentage of the machine's memory like `50%`")?,
            "nr_inodes" | "nr_blocks" => number("a number")?,
            "mode" => mode(value).ok_or_else(|| bad("an octal mode, e.g. `1777` or `755`"))?,
            "uid" | "gid" => id(value).ok_or_else(|| bad("a number up to 2147483647"))?,
            "mpol" | "huge" => return Err(MountProblem::Unsupported(option.to_owned())),
            _ => return Err(MountProblem::Unknown { option: key.to_owned(), expected: EXPECTED }),
        };
        return Ok(format!("{key}={value}"));
    }
    match option {
        "ro" | "rw" | "exec" | "noexec" | "suid" | "nosuid" | "dev" | "nodev" | "atime" | "noatime" | "relatime"
        | "strictatime" | "diratime" | "nodiratime" => Ok(option.to_owned()),
        "sync" | "async" | "dirsync" | "mand" | "nomand" | "nosymfollow" | "tmpcopyup" | "notmpcopyup" => {
            Err(MountProblem::Unsupported(option.to_owned()))
        }
        other if PROPAGATIONS.contains(&other) => Err(MountProblem::Unsupported(other.to_owned())),
        other => Err(MountProblem::Unknown { option: other.to_owned(), expected: EXPECTED }),
    }
}

fn percentage(text: &str) -> Option<String> {
    let percent = text.strip_suffix('%').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    percent.parse::<u32>().ok().filter(|percent| (1..=100).contains(percent)).map(|percent| format!("{percent}%"))
}

fn mode(text: &str) -> Option<String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let mode = digits.then(|| u32::from_str_radix(text, 8).ok()).flatten()?;
    (mode <= MAX_MODE).then(|| format!("{mode:o}"))
}

fn id(text: &str) -> Option<String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let id = digits.then(|| text.parse::<u32>().ok()).flatten()?;
    (id <= MAX_ID).then(|| id.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn here() -> &'static Path {
        Path::new("/work dir")
    }

    fn bind(text: &str) -> BindMount {
        match MountSetting::from_volume(text, here()).unwrap() {
            MountSetting::Bind(mount) => mount,
            MountSetting::Tmpfs(_) => panic!("{text} is a tmpfs"),
        }
    }

    fn mount(text: &str) -> MountSetting {
        MountSetting::from_mount(text, here()).unwrap()
    }

    #[test]
    fn volumes() {
        for (text, source, destination, read_only) in [
            ("/a:/b", "/a", "/b", false),
            ("/a:/b:ro", "/a", "/b", true),
            ("/a:/b:rw,z", "/a", "/b", false),
            ("/a:/b:Z,ro,rprivate,nocopy,cached", "/a", "/b", true),
            ("/a/../c/:/b//d/.", "/c", "/b/d", false),
            ("./x:/b", "/work dir/x", "/b", false),
            ("../x:/b", "/x", "/b", false),
            (".:/b:ro", "/work dir", "/b", true),
            ("/:/host", "/", "/host", false),
            ("/f:/proc/cpuinfo", "/f", "/proc/cpuinfo", false),
            ("/s:/dev/shm", "/s", "/dev/shm", false),
        ] {
            let mount = bind(text);
            assert_eq!(
                (mount.source(), mount.destination(), mount.is_read_only(), mount.creates_source()),
                (Path::new(source), Path::new(destination), read_only, true),
                "{text}"
            );
        }
        assert!(bind("/a:/b:z").wants_relabel() && !bind("/a:/b").wants_relabel());
    }

    #[test]
    fn bad_volumes_say_why() {
        for (text, reason) in [
            ("", "expected `SRC:DST[:OPTIONS]`"),
            (":/b", "expected `SRC:DST[:OPTIONS]`"),
            ("/a:", "expected `SRC:DST[:OPTIONS]`"),
            ("/a:/b:", "expected `SRC:DST[:OPTIONS]`"),
            ("data", "expected `SRC:DST[:OPTIONS]`"),
            ("/data", "volumes without a source are not supported yet\nhint: "),
            (
                "data:/b",
                "`data` names a volume, which is not supported yet\nhint: for a directory give a path, `./data`",
            ),
            ("sub/dir:/b", "`sub/dir` names a volume"),
            ("/a:b", "the destination `b` is not absolute"),
            ("/a:ro", "the destination `ro` is not absolute"),
            ("/a:/", "the root of the container"),
            ("/a:/b/..", "the root of the container"),
            ("/a:/proc", "`/proc` belongs to the runtime"),
            ("/a:/x/../proc/sys", "`/proc/sys` belongs to the runtime"),
            ("/a:/dev", "`/dev` belongs to the runtime"),
            ("/a:/b:ro,rw", "`ro` and `rw` exclude each other"),
            ("/a:/b:rshared", "`rshared` is not supported yet"),
            ("/a:/b:slave", "`slave` is not supported yet"),
            ("/a:/b:oops", "`oops` is unknown, expected `ro`"),
            ("/a:/b:ro:x", "`ro:x` is unknown"),
            ("/a\0:/b", "NUL"),
            ("/a:/b\0", "NUL"),
        ] {
            let message = MountSetting::from_volume(text, here()).unwrap_err().to_string();
            assert!(
                message.starts_with(&format!("`--volume {text}`: ")) && message.contains(reason),
                "{text}: {message}"
            );
        }
    }

    #[test]
    fn long_form() {
        let MountSetting::Bind(bind) = mount("type=bind,src=./a,dst=/b,readonly,bind-propagation=rprivate") else {
            panic!("not a bind mount")
        };
        assert_eq!((bind.source(), bind.is_read_only()), (Path::new("/work dir/a"), true));
        assert!(!bind.creates_source());
        let quoted = mount("type=bind,\"source=/a,b\"\"c\",target=/b,ro=false");
        assert_eq!(quoted, MountSetting::existing(Path::new("/a,b\"c"), Path::new("/b"), false).unwrap());
        let MountSetting::Tmpfs(tmpfs) = mount("type=tmpfs,destination=/t,tmpfs-size=1g,tmpfs-mode=0700,ro=1") else {
            panic!("not a tmpfs")
        };
        assert_eq!(tmpfs.options(), ["noexec", "nosuid", "nodev", "mode=700", "size=1073741824", "ro"]);
    }

    #[test]
    fn bad_long_form_says_why() {
        for (text, reason) in [
            ("", "`` is unknown, expected `type`"),
            ("source=/a,target=/b", "`type=bind` or `type=tmpfs` is missing"),
            ("type=volume,source=a,target=/b", "`type=volume` is not supported yet"),
            ("type=oops,target=/b", "`type=oops` is unknown, expected `type=bind`"),
            ("type=bind,target=/b", "`source=` is missing"),
            ("type=bind,source=/a", "`target=` is missing"),
            ("type=bind,source=a,target=/b", "the source `a` is not absolute"),
            ("type=bind,source=,target=/b", "`source=` has a bad value"),
            ("type=bind,source=/a,target=b", "the destination `b` is not absolute"),
            ("type=bind,source=/a,target=/b,ro=x", "`ro=x` has a bad value, expected `true` or `false`"),
            ("type=bind,source=/a,target=/b,tmpfs-size=1", "exclude each other"),
            ("type=bind,source=/a,target=/b,bind-propagation=rslave", "`bind-propagation=rslave` is not supported yet"),
            ("type=bind,source=/a,target=/b,volume-nocopy", "`volume-nocopy` is not supported yet"),
            ("type=bind,source=/a,target=/b,oops=1", "`oops` is unknown"),
            ("type=tmpfs,source=/a,target=/b", "exclude each other"),
            ("type=tmpfs,target=/b,tmpfs-mode=9", "an octal mode"),
            ("type=tmpfs,target=/b,tmpfs-size=much", "a size like"),
            ("type=bind,\"source=/a,target=/b", "quote"),
            ("type=bind,\"source=/a\"x,target=/b", "quote"),
            ("type=bind,sour\"ce=/a,target=/b", "quote"),
        ] {
            let message = MountSetting::from_mount(text, here()).unwrap_err().to_string();
            assert!(message.contains(reason), "{text}: {message}");
        }
    }

    #[test]
    fn tmpfs() {
        for (text, options) in [
            ("/t", "noexec nosuid nodev mode=1777"),
            ("/t:", "noexec nosuid nodev mode=1777"),
            ("/t:rw,exec,size=64m,mode=755", "exec nosuid nodev mode=755 rw size=67108864"),
            ("/t:size=1k,size=50%,dev,suid,nodev", "noexec suid nodev mode=1777 size=50%"),
            (
                "/t:uid=1000,gid=5,nr_inodes=1k,noatime",
                "noexec nosuid nodev mode=1777 uid=1000 gid=5 nr_inodes=1024 noatime",
            ),
            ("/t:defaults,rprivate,ro,rw", "noexec nosuid nodev mode=1777 rw"),
        ] {
            let MountSetting::Tmpfs(mount) = MountSetting::from_tmpfs(text).unwrap() else { panic!("{text}") };
            assert_eq!(mount.options().join(" "), options, "{text}");
        }
        for (text, reason) in [
            ("", "not absolute"),
            ("t", "not absolute"),
            ("/:size=1", "root of the container"),
            ("/t:sync", "`sync` is not supported yet"),
            ("/t:tmpcopyup", "`tmpcopyup` is not supported yet"),
            ("/t:nosymfollow", "`nosymfollow` is not supported yet"),
            ("/t:rshared", "`rshared` is not supported yet"),
            ("/t:mpol=bind:0", "not supported yet"),
            ("/t:idmap", "`idmap` is unknown"),
            ("/t:size=", "bad value"),
            ("/t:size=0%", "a percentage from 1%"),
            ("/t:size=101%", "a percentage from 1%"),
            ("/t:mode=888", "an octal mode"),
            ("/t:mode=17777", "an octal mode"),
            ("/t:uid=4294967296", "a number up to"),
            ("/t:uid=-1", "a number up to"),
            ("/t:lowerdir=/etc", "`lowerdir` is unknown"),
        ] {
            let message = MountSetting::from_tmpfs(text).unwrap_err().to_string();
            assert!(message.contains(reason), "{text}: {message}");
        }
    }

    proptest! {
        #[test]
        fn the_forms_agree(source in "(/[a-z.,\" ]{1,6}){1,3}", destination in "(/[a-z, ]{1,6}){1,3}", read_only: bool) {
            let long = format!(
                "type=bind,\"source={}\",\"target={}\",readonly={read_only}",
                source.replace('"', "\"\""), destination.replace('"', "\"\"")
            );
            let built = MountSetting::existing(Path::new(&source), Path::new(&destination), read_only);
            let read = MountSetting::from_mount(&long, here());
            prop_assert_eq!(read.as_ref().ok(), built.as_ref().ok());
            let short = format!("{source}:{destination}:{}", if read_only { "ro" } else { "rw" });
            let short = MountSetting::from_volume(&short, here()).ok().map(|mount| match mount {
                MountSetting::Bind(mount) => MountSetting::Bind(BindMount { create_source: false, ..mount }),
                other @ MountSetting::Tmpfs(_) => other,
            });
            prop_assert_eq!(short, built.ok());
        }

        #[test]
        fn nothing_makes_it_panic_or_land_in_a_reserved_place(text in "[a-z/.:,=\"%0-9]{0,40}") {
            let parsed = [
                MountSetting::from_volume(&text, here()),
                MountSetting::from_mount(&text, here()),
                MountSetting::from_mount(&format!("type=bind,source=/a,target={text}"), here()),
                MountSetting::from_tmpfs(&text),
            ];
            for mount in parsed.into_iter().flatten() {
                let again = container_path(mount.destination());
                prop_assert_eq!(again, Ok(mount.destination().to_owned()));
            }
        }
    }
}
