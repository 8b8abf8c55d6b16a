//! The grammar of `-v`, `--mount` and `--tmpfs`, as docker's.
//!
//! Nothing is taken and then not done: libcontainer 0.7 ignores or fails on `sync`, `nosymfollow`, `tmpcopyup` and
//! id-mapped mounts, so those are refused here. Options that can have no effect are taken: `nocopy` (a directory is never
//! copied into a bind mount), `cached`, `delegated` and `consistent` (they speak to virtual machines on other systems).
//! `z` and `Z` relabel for `SELinux`; where it is on, a warning says that this is not done.

use std::path::{Path, PathBuf};

use super::MAX_ID;
use super::bind_options::BindOptions;
pub use super::bind_options::Propagation;
use super::error::{MountProblem, SpecError};
use super::mount_fields;
use super::path::clean;
use crate::image::{ByteSize, Reference};

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
    /// The files of another image.
    Image(ImageMount),
}

/// A directory or file of this machine seen in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindMount {
    source: PathBuf,
    destination: PathBuf,
    create_source: bool,
    options: BindOptions,
}

/// A file system in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TmpfsMount {
    destination: PathBuf,
    options: Vec<String>,
}

/// The root file system of another image, or a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageMount {
    /// Which image; of the container's platform.
    pub reference: Reference,
    /// Absolute path in the container.
    pub destination: PathBuf,
    /// Whether it can be written; what is written is gone with the run.
    pub writable: bool,
    /// Absolute path in the image of the only part that is mounted.
    pub subpath: Option<PathBuf>,
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
        self.options.read_only
    }

    /// Whether a source that does not exist is to be made as a directory (`-v`) or is an error (`--mount`).
    #[must_use]
    pub const fn creates_source(&self) -> bool {
        self.create_source
    }

    /// Which mounts that are made later are seen on the other side.
    #[must_use]
    pub const fn propagation(&self) -> Propagation {
        self.options.propagation
    }

    /// Whether what is mounted below the source comes along.
    #[must_use]
    pub const fn is_recursive(&self) -> bool {
        self.options.recursive
    }

    /// Whether its files belong to the container's users (`idmap`).
    pub(super) const fn is_mapped(&self) -> bool {
        self.options.is_mapped
    }

    /// Whether `z` or `Z` was given.
    pub(super) const fn wants_relabel(&self) -> bool {
        self.options.relabel
    }

    pub(super) const fn options(&self) -> &BindOptions {
        &self.options
    }

    pub(super) fn new(
        source: &Path,
        destination: &Path,
        create_source: bool,
        options: BindOptions,
    ) -> Result<Self, MountProblem> {
        let source = clean(source).ok_or_else(|| MountProblem::SourceRelative(source.display().to_string()))?;
        no_nul(&source)?;
        Ok(Self { source, destination: container_path(destination)?, create_source, options })
    }
}

impl TmpfsMount {
    pub(super) fn new<'a>(destination: PathBuf, given: impl Iterator<Item = &'a str>) -> Result<Self, MountProblem> {
        Ok(Self { destination, options: tmpfs_options(given)? })
    }

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

    /// Marks it as the run's own: in a container with other users than the machine's its files belong to those.
    #[must_use]
    pub fn of_run(self) -> Self {
        match self {
            Self::Bind(mut mount) => {
                mount.options.is_of_run = true;
                Self::Bind(mount)
            }
            other => other,
        }
    }

    fn existing(source: &Path, destination: &Path, read_only: bool) -> Result<Self, MountProblem> {
        BindMount::new(source, destination, false, BindOptions::plain(read_only)).map(Self::Bind)
    }

    /// Reads `-v SRC:DST[:OPTIONS]`; a source that starts with `./` or `../` is relative to `directory`.
    pub fn from_volume(text: &str, directory: &Path) -> Result<Self, SpecError> {
        volume(text, directory).map_err(|problem| error("--volume", text, problem))
    }

    /// Reads `--mount type=bind|tmpfs|image,…`; a source that starts with `./` or `../` is relative to `directory`.
    pub fn from_mount(text: &str, directory: &Path) -> Result<Self, SpecError> {
        mount_fields::read(text, directory).map_err(|problem| error("--mount", text, problem))
    }

    /// Reads `--tmpfs DST[:OPTIONS]`.
    pub fn from_tmpfs(text: &str) -> Result<Self, SpecError> {
        let (destination, options) = text.split_once(':').unwrap_or((text, ""));
        container_path(Path::new(destination))
            .and_then(|destination| {
                TmpfsMount::new(destination, options.split(',').filter(|option| !option.is_empty()))
            })
            .map(Self::Tmpfs)
            .map_err(|problem| error("--tmpfs", text, problem))
    }

    /// Absolute path in the container.
    #[must_use]
    pub fn destination(&self) -> &Path {
        match self {
            Self::Bind(mount) => &mount.destination,
            Self::Tmpfs(mount) => &mount.destination,
            Self::Image(mount) => &mount.destination,
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
    let mut mount = BindMount::new(&source, Path::new(destination), true, BindOptions::default())?;
    options.into_iter().flat_map(|options| options.split(',')).try_for_each(|option| mount.options.apply(option))?;
    Ok(MountSetting::Bind(mount))
}

/// A path of this machine; `Err` for what is not a path but a name.
pub(super) fn host_path(text: &str, directory: &Path) -> Result<PathBuf, ()> {
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
            other => panic!("{text} is {other:?}"),
        }
    }

    fn mount(text: &str) -> MountSetting {
        MountSetting::from_mount(text, here()).unwrap()
    }

    /// The mount as if it had been made from within the program.
    fn plain(mount: MountSetting) -> MountSetting {
        let MountSetting::Bind(bind) = mount else { panic!("{mount:?} is no bind mount") };
        MountSetting::existing(bind.source(), bind.destination(), bind.is_read_only()).unwrap()
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
            ("/a:/b:rshared,slave", "`rshared` and `slave` exclude each other"),
            ("/a:/b:U", "`U` is not supported yet"),
            ("/a:/b:idmap=uids=0-1-2", "is not supported yet"),
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
        assert_eq!(plain(quoted), MountSetting::existing(Path::new("/a,b\"c"), Path::new("/b"), false).unwrap());
        let MountSetting::Tmpfs(tmpfs) = mount("type=tmpfs,destination=/t,tmpfs-size=1g,tmpfs-mode=0700,ro=1") else {
            panic!("not a tmpfs")
        };
        assert_eq!(tmpfs.options(), ["noexec", "nosuid", "nodev", "mode=700", "size=1073741824", "ro"]);
    }

    #[test]
    fn long_form_has_the_options_of_the_short_one() {
        for (text, expected) in [
            ("bind-propagation=rslave,bind-nonrecursive", "bind rslave"),
            ("bind-nonrecursive=false,bind-propagation=private", "rbind rprivate"),
            ("bind-recursive=disabled,ro", "bind rprivate ro"),
            ("bind-recursive=writable,ro", "rbind rprivate ro"),
            ("bind-recursive=readonly,ro", "rbind rprivate ro rro"),
            ("noexec,relabel=shared", "rbind rprivate noexec rnoexec"),
        ] {
            let MountSetting::Bind(bind) = mount(&format!("type=bind,src=/a,dst=/b,{text}")) else { panic!("{text}") };
            assert_eq!(bind.options().in_spec(bind.propagation()).join(" "), expected, "{text}");
        }
        let MountSetting::Image(image) = mount("type=image,source=app:1,target=/i,rw=true,subpath=usr//share/") else {
            panic!("not an image")
        };
        assert!(image.writable && image.reference.to_string().ends_with("app:1"), "{image:?}");
        assert_eq!(image.subpath.as_deref(), Some(Path::new("/usr/share")));
        let MountSetting::Image(image) = mount("type=image,src=app,dst=/i,readonly") else { panic!("not an image") };
        assert!(!image.writable && image.subpath.is_none());
    }

    #[test]
    fn bad_long_form_says_why() {
        for (text, reason) in [
            ("", "`` is unknown, expected `type`"),
            ("source=/a,target=/b", "`type=bind`, `type=tmpfs` or `type=image` is missing"),
            ("type=volume,source=a,target=/b", "`type=volume` is not supported yet"),
            ("type=oops,target=/b", "`type=oops` is unknown, expected `type=bind`"),
            ("type=image,target=/b", "`source=` is missing"),
            ("type=image,source=UPPER,target=/b", "the image `UPPER` is malformed"),
            ("type=image,source=app,target=/b,bind-propagation=rslave", "exclude each other"),
            ("type=image,source=app,target=/b,ro,rw", "exclude each other"),
            ("type=image,source=app,target=/b,subpath=../etc", "`subpath=../etc` has a bad value"),
            ("type=bind,source=/a,target=/b,subpath=x", "exclude each other"),
            ("type=bind,source=/a,target=/b,bind-recursive=no", "`bind-recursive=no` has a bad value"),
            ("type=bind,source=/a,target=/b,bind-recursive=readonly", "`readonly` is missing"),
            ("type=bind,source=/a,target=/b,U=true", "not supported yet"),
            ("type=tmpfs,target=/b,bind-nonrecursive", "exclude each other"),
            ("type=bind,target=/b", "`source=` is missing"),
            ("type=bind,source=/a", "`target=` is missing"),
            ("type=bind,source=a,target=/b", "the source `a` is not absolute"),
            ("type=bind,source=,target=/b", "`source=` has a bad value"),
            ("type=bind,source=/a,target=b", "the destination `b` is not absolute"),
            ("type=bind,source=/a,target=/b,ro=x", "`ro=x` has a bad value, expected `true` or `false`"),
            ("type=bind,source=/a,target=/b,tmpfs-size=1", "exclude each other"),
            ("type=bind,source=/a,target=/b,bind-propagation=x", "`bind-propagation=x` has a bad value"),
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
            prop_assert_eq!(read.ok().map(plain), built.as_ref().ok().cloned());
            let short = format!("{source}:{destination}:{}", if read_only { "ro" } else { "rw" });
            let short = MountSetting::from_volume(&short, here()).ok().map(plain);
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
