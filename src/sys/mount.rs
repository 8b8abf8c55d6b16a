//! Mounting overlays, with the mount API of Linux 5.2 and `lowerdir+` of Linux 6.8, or with mount(2) where those are missing.
//!
//! mount(2) takes one page of options, which forty paths of layers fill; there the layers are named by descriptors.

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags};

/// Most lower layers of one overlay (kernel, `fs/overlayfs/params.h`, `OVL_MAX_STACK`).
pub const MAX_OVERLAY_LOWERS: usize = 500;
/// Longest value that fsconfig(2) takes, less its terminator.
const MAX_FSCONFIG_BYTES: usize = 255;
/// Longest options that mount(2) takes, less their terminator.
const MAX_OPTIONS_BYTES: usize = 4095;
/// What the mount is called in `/proc/mounts`.
const SOURCE: &str = "dockless";

/// An overlay to be mounted. All paths are absolute.
#[derive(Debug, Clone, Copy)]
pub struct Overlay<'a> {
    /// Lower layers, topmost first; at least one.
    pub lowers: &'a [PathBuf],
    /// The writable layer.
    pub upper: &'a Path,
    /// An empty directory on the file system of `upper`.
    pub work: &'a Path,
    /// Whether nothing need be durable: then neither fsync nor the unmount writes anything back. Not to be mounted again.
    pub volatile: bool,
}

/// A step of mounting that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation}")]
pub struct MountError {
    /// The step.
    pub operation: &'static str,
    /// What the kernel wrote about it, or nothing.
    pub log: String,
    /// Why.
    #[source]
    pub source: io::Error,
}

impl Overlay<'_> {
    /// Mounts it at `target`.
    pub fn mount(&self, target: &Path) -> Result<(), MountError> {
        match self.detached() {
            Ok(mount) => {
                let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
                rustix::mount::move_mount(&mount, c"", rustix::fs::CWD, target, flags)
                    .map_err(|errno| plain("attach the mount", errno))
            }
            // Where the other way fails too, who has said why is right.
            Err(error) if is_unknown(&error) => {
                self.mount_by_options(target).map_err(|other| if error.log.is_empty() { other } else { error })
            }
            Err(error) => Err(error),
        }
    }

    /// Mounts it nowhere: reachable only through the descriptor, gone when that is closed.
    pub fn detached(&self) -> Result<OwnedFd, MountError> {
        let context = rustix::mount::fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)
            .map_err(|errno| plain("open a context for an overlay", errno))?;
        let failed = |operation: &'static str, errno: Errno| MountError {
            operation,
            log: read_log(&context),
            source: errno.into(),
        };
        let set = |key: &'static str, value: &[u8]| {
            rustix::mount::fsconfig_set_string(context.as_fd(), key, value).map_err(|errno| failed(step(key), errno))
        };
        let mut held = Vec::new();
        set("source", SOURCE.as_bytes())?;
        for lower in self.lowers {
            set("lowerdir+", &short_name(lower, MAX_FSCONFIG_BYTES, &mut held)?)?;
        }
        set("upperdir", &short_name(self.upper, MAX_FSCONFIG_BYTES, &mut held)?)?;
        set("workdir", &short_name(self.work, MAX_FSCONFIG_BYTES, &mut held)?)?;
        set("index", b"off")?;
        set("metacopy", b"off")?;
        if self.volatile {
            rustix::mount::fsconfig_set_flag(context.as_fd(), c"volatile")
                .map_err(|errno| failed(step("volatile"), errno))?;
        }
        rustix::mount::fsconfig_create(context.as_fd()).map_err(|errno| failed(CREATE, errno))?;
        rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
            .map_err(|errno| failed("make the mount", errno))
    }

    /// The way of kernels before 6.8.
    fn mount_by_options(&self, target: &Path) -> Result<(), MountError> {
        let mut held = Vec::new();
        // With short names only, so that many layers fit.
        let mut options = b"lowerdir=".to_vec();
        for (place, lower) in self.lowers.iter().enumerate() {
            if place > 0 {
                options.push(b':');
            }
            options.extend(short_name(lower, 0, &mut held)?);
        }
        for (key, path) in [(",upperdir=", self.upper), (",workdir=", self.work)] {
            options.extend_from_slice(key.as_bytes());
            options.extend(short_name(path, 0, &mut held)?);
        }
        options.extend_from_slice(b",index=off,metacopy=off");
        let mount = |options: Vec<u8>| {
            if options.len() > MAX_OPTIONS_BYTES {
                return Err(Errno::TOOBIG);
            }
            let options = CString::new(options).map_err(|_| Errno::INVAL)?;
            rustix::mount::mount(SOURCE, target, c"overlay", MountFlags::empty(), options.as_c_str())
        };
        let volatile = [options.as_slice(), b",volatile"].concat();
        let mounted = match if self.volatile { mount(volatile) } else { Err(Errno::INVAL) } {
            // Kernels before 5.10 do not know the word.
            Err(Errno::INVAL) => mount(options),
            other => other,
        };
        mounted.map_err(|errno| plain("mount", errno))
    }
}

/// Takes the mount at `target` away, at once from sight and for good when nothing uses it any more.
pub fn unmount(target: &Path) -> io::Result<()> {
    Ok(rustix::mount::unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?)
}

/// Whether the kernel does not know the call or the option, as opposed to not liking what it was given. Before Linux 6.5 an
/// overlay takes any option and finds out when it is created.
fn is_unknown(error: &MountError) -> bool {
    let errno = Errno::from_io_error(&error.source);
    errno == Some(Errno::NOSYS)
        || (errno == Some(Errno::INVAL)
            && [step("lowerdir+"), step("volatile"), step("index"), CREATE].contains(&error.operation))
}

/// What making the overlay of its options is called in an error.
const CREATE: &str = "create the overlay";

/// What setting an option is called in an error.
const fn step(key: &str) -> &'static str {
    match key.as_bytes() {
        b"lowerdir+" => "add a lower layer",
        b"upperdir" => "set the writable layer",
        b"workdir" => "set the working directory",
        b"volatile" => "make the overlay volatile",
        b"source" => "name the overlay",
        _ => "set an option of the overlay",
    }
}

fn plain(operation: &'static str, errno: Errno) -> MountError {
    MountError { operation, log: String::new(), source: errno.into() }
}

/// A name for `path` that is at most `limit` bytes and needs no escaping: itself, or one through a descriptor in `held`.
fn short_name(path: &Path, limit: usize, held: &mut Vec<OwnedFd>) -> Result<Vec<u8>, MountError> {
    let bytes = path.as_os_str().as_bytes();
    let is_plain = bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(byte));
    if is_plain && bytes.len() <= limit {
        return Ok(bytes.to_vec());
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| plain("open a layer", errno))?;
    let name = format!("/proc/self/fd/{}", directory.as_raw_fd());
    held.push(directory);
    Ok(name.into_bytes())
}

/// What the kernel has to say, one message after the other, each with its level in front.
fn read_log(context: &OwnedFd) -> String {
    let mut messages = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(length @ 1..) = rustix::io::read(context, &mut buffer) {
        let message = OsString::from_vec(buffer[..length].to_vec());
        let message = message.to_string_lossy();
        messages.push(message.split_once(' ').map_or(&*message, |(_, text)| text).trim().to_owned());
    }
    messages.join("; ")
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};
    use rustix::mount::MountPropagationFlags;

    use super::*;

    #[test]
    fn both_ways_of_mounting_show_the_same() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let temporary = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = temporary.path().join(name);
            std::fs::create_dir_all(&path).unwrap();
            path
        };
        let lowers: Vec<PathBuf> = (0..150).map(|number| make(&format!("lower{number}"))).collect();
        for (number, lower) in lowers.iter().enumerate() {
            std::fs::write(lower.join(number.to_string()), "").unwrap();
            std::fs::write(lower.join("top"), number.to_string()).unwrap();
        }
        let many: Vec<PathBuf> = lowers.iter().cycle().take(300).cloned().collect();
        let mounted = |name: &str, old: bool, volatile: bool| {
            let (upper, work, target) =
                (make(&format!("{name}/upper")), make(&format!("{name}/work")), make(&format!("{name}/target")));
            let overlay = Overlay { lowers: &lowers, upper: &upper, work: &work, volatile };
            if old {
                overlay.mount_by_options(&target).unwrap();
            } else {
                overlay.mount(&target).unwrap();
            }
            let seen =
                (std::fs::read_to_string(target.join("top")).unwrap(), std::fs::read_dir(&target).unwrap().count());
            let too_many = Overlay { lowers: &many, ..overlay }.mount_by_options(&target).unwrap_err();
            assert_eq!(Errno::from_io_error(&too_many.source), Some(Errno::TOOBIG));
            unmount(&target).unwrap();
            assert_eq!(std::fs::read_dir(&target).unwrap().count(), 0);
            seen
        };
        std::thread::scope(|scope| {
            let body = || {
                unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
                let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
                rustix::mount::mount_change("/", private).unwrap();
                for (name, old, volatile) in
                    [("a", true, true), ("b", true, false), ("c", false, true), ("d", false, false)]
                {
                    assert_eq!(mounted(name, old, volatile), ("0".to_owned(), 151), "{name}");
                }
            };
            scope.spawn(body).join().unwrap();
        });
    }

    #[test]
    fn the_kernel_says_why() {
        let temporary = tempfile::tempdir().unwrap();
        let missing = temporary.path().join("missing");
        let lowers = [temporary.path().to_owned()];
        let overlay = Overlay { lowers: &lowers, upper: &missing, work: &missing, volatile: false };
        let error = overlay.mount(temporary.path()).unwrap_err();
        assert!(!error.operation.is_empty());
    }
}
