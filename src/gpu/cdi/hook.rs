//! NVIDIA's own hooks, read instead of run.
//!
//! `nvidia-ctk hook COMMAND …` up to toolkit 1.16, `nvidia-cdi-hook COMMAND …` since; the commands and their flags are those
//! of `cmd/nvidia-cdi-hook` there, with what older releases had (`create-soname-symlinks`, `chmod`). Flags stand as
//! `--flag VALUE` and `--flag=VALUE`; those that make a list take several values with commas between. A command or flag that
//! is not known here makes the hook a program like any other.

use std::path::{Path, PathBuf};

use super::document::Hook;
use super::error::EditProblem;
use crate::gpu::Version;
use crate::gpu::node::plain_path;
use crate::rootfs::RootLink;

const PROGRAMS: [&str; 2] = ["nvidia-cdi-hook", "nvidia-ctk"];
/// Flags before the command; none of them has a value.
const GLOBAL_FLAGS: [&str; 5] = ["--debug", "-d", "--quiet", "-q", "--debug=false"];
const DEFAULT_COMPAT_DIRECTORY: &str = "/usr/local/cuda/compat";
const MAX_PATH_BYTES: usize = 4096;

/// What one of NVIDIA's hooks would do, for who can do it: all but `Link` and `Chmod` depend on what the image holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NativeAction {
    /// A link below `/dev`, which is made anew for each container: edits of the root file system do not reach it.
    Link(RootLink),
    /// The loader has to find what lies in this directory of the container (`update-ldcache`).
    LoaderDirectory(PathBuf),
    /// Each library in this directory of the container needs a link by its soname (`create-soname-symlinks`).
    SonameLinks(PathBuf),
    /// The image's own driver libraries win if they are newer (`enable-cuda-compat`).
    CudaCompat {
        /// Of the driver that runs here.
        driver_version: Option<Version>,
        /// The newest CUDA that it speaks, `12.8`.
        cuda_version: Option<String>,
        /// Where the image has them.
        directory: PathBuf,
    },
    /// Permission bits of a file or directory of the container.
    Chmod {
        /// Absolute, in the container.
        path: PathBuf,
        /// The bits.
        mode: u32,
    },
    /// The driver's libraries are to be told not to make device nodes (`disable-device-node-modification`).
    HideDeviceFileModification,
}

/// A hook as steps of ours.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A link in the root file system.
    Link(RootLink),
    /// Anything else.
    Action(NativeAction),
    /// EGL is to see only the GPUs of the container (`update-application-profile`, toolkit 1.20).
    ApplicationProfile,
}

/// What the hook would do, if it is one of NVIDIA's that is known here.
pub(super) fn steps(hook: &Hook) -> Result<Option<Vec<Step>>, EditProblem> {
    let name = Path::new(&hook.path).file_name().and_then(|name| name.to_str());
    if !name.is_some_and(|name| PROGRAMS.contains(&name)) {
        return Ok(None);
    }
    let mut words =
        hook.args.iter().skip(1).map(String::as_str).skip_while(|word| GLOBAL_FLAGS.contains(word)).peekable();
    words.next_if_eq(&"hook");
    let Some(command) = words.find(|word| !GLOBAL_FLAGS.contains(word)) else { return Ok(None) };
    let Some(flags) = flags(words) else { return Ok(None) };
    command_steps(command, &flags).map_err(|problem| EditProblem::Argument { command: command.to_owned(), problem })
}

/// Pairs of flag and value; nothing if the words are not of that form.
fn flags<'a>(mut words: impl Iterator<Item = &'a str>) -> Option<Vec<(&'a str, &'a str)>> {
    let mut flags = Vec::new();
    while let Some(word) = words.next() {
        let flag = word.strip_prefix("--").or_else(|| word.strip_prefix('-'))?;
        flags.push(match flag.split_once('=') {
            Some(pair) => pair,
            None => (flag, words.next()?),
        });
    }
    Some(flags)
}

fn command_steps(command: &str, flags: &[(&str, &str)]) -> Result<Option<Vec<Step>>, String> {
    let known: &[&str] = match command {
        "create-symlinks" => &["link"],
        "update-ldcache" | "create-soname-symlinks" => &["folder", "ldconfig-path"],
        "enable-cuda-compat" => &["host-driver-version", "host-cuda-version", "cuda-compat-container-root"],
        "chmod" => &["mode", "path"],
        "disable-device-node-modification" | "update-application-profile" => &[],
        _ => return Ok(None),
    };
    if flags.iter().any(|(flag, _)| !known.contains(flag)) {
        return Ok(None);
    }
    let list = |wanted: &'static str| {
        flags.iter().filter(move |(flag, _)| *flag == wanted).flat_map(|(_, value)| value.split(','))
    };
    let newest = |wanted: &str| flags.iter().rev().find(|(flag, _)| *flag == wanted).map(|(_, value)| *value);
    let paths = |wanted| list(wanted).map(path).collect::<Result<Vec<PathBuf>, String>>();
    let actions = |actions: Vec<NativeAction>| actions.into_iter().map(Step::Action).collect();
    Ok(Some(match command {
        "create-symlinks" => list("link").map(link).collect::<Result<_, _>>()?,
        "update-ldcache" => actions(paths("folder")?.into_iter().map(NativeAction::LoaderDirectory).collect()),
        "create-soname-symlinks" => actions(paths("folder")?.into_iter().map(NativeAction::SonameLinks).collect()),
        "enable-cuda-compat" => actions(cuda_compat(&newest)?),
        "chmod" => {
            let mode = octal_mode(newest("mode").unwrap_or_default())?;
            actions(paths("path")?.into_iter().map(|path| NativeAction::Chmod { path, mode }).collect())
        }
        "update-application-profile" => vec![Step::ApplicationProfile],
        _ => actions(vec![NativeAction::HideDeviceFileModification]),
    }))
}

/// Without a version of either sort the hook does nothing.
fn cuda_compat<'a>(newest: &impl Fn(&str) -> Option<&'a str>) -> Result<Vec<NativeAction>, String> {
    let version = |flag| newest(flag).filter(|text| !text.is_empty()).map(digits).transpose();
    let driver_version = version("host-driver-version")?.map(Version::new);
    let cuda_version = version("host-cuda-version")?.map(str::to_owned);
    let directory = path(newest("cuda-compat-container-root").unwrap_or(DEFAULT_COMPAT_DIRECTORY))?;
    if driver_version.is_none() && cuda_version.is_none() {
        return Ok(Vec::new());
    }
    Ok(vec![NativeAction::CudaCompat { driver_version, cuda_version, directory }])
}

fn digits(text: &str) -> Result<&str, String> {
    let good = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') && text.len() <= 32;
    if good { Ok(text) } else { Err(format!("`{}` is no version, expected e.g. `570.86.10`", text.escape_debug())) }
}

fn octal_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
    mode.ok_or_else(|| format!("`{}` is no mode, expected octal digits, e.g. `755`", text.escape_debug()))
}

fn path(text: &str) -> Result<PathBuf, String> {
    plain_path(text).map_err(|problem| format!("`{}` {problem}", text.escape_debug()))
}

/// `TARGET::LINK`. The target is only text: what it leads to is decided in the container.
fn link(text: &str) -> Result<Step, String> {
    let shape = || format!("`{}` is no link, expected `TARGET::LINK`", text.escape_debug());
    let (target, place) = text.split_once("::").ok_or_else(shape)?;
    let bad_target = target.is_empty() || target.len() >= MAX_PATH_BYTES || target.contains('\0');
    if bad_target || place.contains("::") {
        return Err(shape());
    }
    let link = RootLink { path: path(place)?, target: PathBuf::from(target) };
    Ok(if is_runtimes(&link.path) { Step::Action(NativeAction::Link(link)) } else { Step::Link(link) })
}

/// Whether the runtime mounts something of its own there, over what the root file system holds.
pub(super) fn is_runtimes(path: &Path) -> bool {
    ["/dev", "/proc", "/sys"].iter().any(|root| path.starts_with(root))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(path: &str, args: &[&str]) -> Hook {
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        Hook { hook_name: "createContainer".to_owned(), path: path.to_owned(), args, ..Hook::default() }
    }

    fn root_link(target: &str, path: &str) -> RootLink {
        RootLink { path: path.into(), target: target.into() }
    }

    fn new(args: &[&str]) -> Result<Option<Vec<Step>>, EditProblem> {
        steps(&hook("/usr/bin/nvidia-cdi-hook", &[&["nvidia-cdi-hook"], args].concat()))
    }

    #[test]
    fn old_and_new_forms_say_the_same() {
        let expected = vec![
            Step::Link(root_link("libcuda.so.1", "/usr/lib64/libcuda.so")),
            Step::Action(NativeAction::Link(root_link("../card1", "/dev/dri/by-path/pci-0000:41:00.0-card"))),
        ];
        let links = ["libcuda.so.1::/usr/lib64/libcuda.so", "../card1::/dev/dri/by-path/pci-0000:41:00.0-card"];
        let both = links.join(",");
        for (path, args) in [
            (
                "/usr/bin/nvidia-cdi-hook",
                vec!["nvidia-cdi-hook", "create-symlinks", "--link", links[0], "--link", links[1]],
            ),
            (
                "/usr/bin/nvidia-ctk",
                vec!["nvidia-ctk", "hook", "create-symlinks", "--link", links[0], "--link", links[1]],
            ),
            ("/opt/nvidia-ctk", vec!["nvidia-ctk", "--debug", "hook", "create-symlinks", "--link", &both]),
        ] {
            assert_eq!(steps(&hook(path, &args)).unwrap().unwrap(), expected, "{args:?}");
        }
        let equals = format!("--link={both}");
        assert_eq!(new(&["create-symlinks", &equals]).unwrap().unwrap(), expected);
    }

    #[test]
    fn every_command_is_read() {
        let directory = |path: &str| Step::Action(NativeAction::LoaderDirectory(path.into()));
        for (args, expected) in [
            (
                vec![
                    "update-ldcache",
                    "--ldconfig-path",
                    "/sbin/ldconfig",
                    "--folder",
                    "/usr/lib64",
                    "--folder",
                    "/a/b",
                ],
                vec![directory("/usr/lib64"), directory("/a/b")],
            ),
            (vec!["update-ldcache"], vec![]),
            (
                vec!["create-soname-symlinks", "--folder", "/usr/lib64"],
                vec![Step::Action(NativeAction::SonameLinks("/usr/lib64".into()))],
            ),
            (
                vec!["enable-cuda-compat", "--host-driver-version=570.86.10"],
                vec![Step::Action(NativeAction::CudaCompat {
                    driver_version: Some(Version::new("570.86.10")),
                    cuda_version: None,
                    directory: "/usr/local/cuda/compat".into(),
                })],
            ),
            (vec!["enable-cuda-compat", "--host-driver-version="], vec![]),
            (
                vec!["chmod", "--mode", "755", "--path", "/dev/dri"],
                vec![Step::Action(NativeAction::Chmod { path: "/dev/dri".into(), mode: 0o755 })],
            ),
            (vec!["disable-device-node-modification"], vec![Step::Action(NativeAction::HideDeviceFileModification)]),
            (vec!["update-application-profile"], vec![Step::ApplicationProfile]),
        ] {
            assert_eq!(new(&args).unwrap().unwrap(), expected, "{args:?}");
        }
    }

    #[test]
    fn what_is_not_known_is_a_program() {
        for args in [
            vec![],
            vec!["teleport"],
            vec!["create-symlinks", "--quantum", "1"],
            vec!["create-symlinks", "link"],
            vec!["create-symlinks", "--link"],
            vec!["disable-device-node-modification", "--container-spec", "/x"],
        ] {
            assert_eq!(new(&args).unwrap(), None, "{args:?}");
        }
        assert_eq!(steps(&hook("/usr/bin/habana", &["habana", "create-symlinks"])).unwrap(), None);
        assert_eq!(steps(&hook("/usr/bin/nvidia-ctk", &[])).unwrap(), None);
    }

    #[test]
    fn bad_arguments_are_told() {
        for (args, message) in [
            (["create-symlinks", "--link", "a"], "`a` is no link, expected `TARGET::LINK`"),
            (["create-symlinks", "--link", "::/a"], "is no link"),
            (["create-symlinks", "--link", "a::/b::/c"], "is no link"),
            (["create-symlinks", "--link", "a::b"], "`b` is not absolute"),
            (["create-symlinks", "--link", "a::/b/../../etc/passwd"], "holds `..`"),
            (["create-symlinks", "--link", "a\0::/b"], "is no link"),
            (["update-ldcache", "--folder", "lib"], "`lib` is not absolute"),
            (["update-ldcache", "--folder", "/"], "`/` is the root"),
            (["enable-cuda-compat", "--host-driver-version", "570-x"], "`570-x` is no version"),
            (["chmod", "--mode", "8"], "`8` is no mode"),
            (["chmod", "--path", "/a"], "`` is no mode"),
        ] {
            let error = new(&args).unwrap_err().to_string();
            assert!(error.contains(message), "{args:?}: {error}");
            assert!(error.starts_with(&format!("hook `{}` has a bad argument: ", args[0])), "{error}");
        }
    }
}
