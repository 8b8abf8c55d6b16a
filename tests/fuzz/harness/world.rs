//! A root file system of its own, on a tmpfs in a mount namespace of its own, in which archives are unpacked: what gets
//! out of its tree changes something here, and whatever it is, it is seen. It is bounded, and gone with its thread.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use dockless::image::{Descriptor, Digest, Image, ImageConfig, Manifest, MediaType, Silent};
use dockless::rootfs::{Layers, RootfsError, Unpacker, copy_flat, mount_overlay};
use dockless::store::Store;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::rootfs::testing::listing;

/// Bytes and files that the world may hold.
const BOUNDS: &str = "size=512m,nr_inodes=200k,mode=755";
/// What must stay as it is.
const KEPT: [&str; 5] = ["/etc", "/victim", "/a", "/store/secrets", "/store/tags"];
const FILES: [&str; 8] = [
    "/etc/passwd",
    "/victim/file",
    "/victim/sub/file",
    "/a/b",
    "/a/c",
    "/file",
    "/store/secrets/victim",
    "/store/tags/victim",
];

type Job = Box<dyn FnOnce(&Place) + Send>;

/// The world, as seen from outside.
pub struct World {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    /// Where it is mounted; only its own thread sees that.
    _directory: tempfile::TempDir,
}

impl World {
    pub(super) fn new() -> Self {
        let (jobs, received) = channel();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        let thread = std::thread::Builder::new().stack_size(8 << 20).spawn(move || live(&path, &received)).unwrap();
        Self { jobs: Some(jobs), thread: Some(thread), _directory: directory }
    }

    /// Runs `job` inside and waits for it; its panic becomes ours.
    pub(super) fn run(&self, job: impl FnOnce(&Place) + Send + 'static) {
        let (tell, told) = channel();
        let job: Job = Box::new(move |place| {
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(place)));
            tell.send(done).unwrap();
        });
        self.jobs.as_ref().unwrap().send(job).unwrap();
        if let Err(panic) = told.recv().unwrap() {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.jobs.take());
        drop(self.thread.take().map(JoinHandle::join));
    }
}

fn live(root: &Path, jobs: &Receiver<Job>) {
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).unwrap();
    mount(Some("tmpfs"), root, Some("tmpfs"), MsFlags::empty(), Some(BOUNDS)).unwrap();
    let proc = root.join("proc");
    std::fs::create_dir(&proc).unwrap();
    mount(Some("/proc"), &proc, none, MsFlags::MS_BIND, none).unwrap();
    nix::unistd::chroot(root).unwrap();
    nix::unistd::chdir("/").unwrap();
    let place = Place::new();
    for job in jobs {
        job(&place);
    }
}

/// The world, as seen from inside.
pub struct Place {
    pub(super) store: Store,
    before: Vec<String>,
}

impl Place {
    fn new() -> Self {
        let store = Store::open(Path::new("/store")).unwrap();
        for directory in ["/etc", "/victim", "/victim/sub", "/a", "/scratch"] {
            std::fs::create_dir(directory).unwrap();
        }
        for file in FILES {
            std::fs::write(file, "untouched").unwrap();
        }
        let before = outside();
        Self { store, before }
    }

    /// An image of layers as they are stored, lowest first, each with its diff ID.
    pub(super) fn image(&self, layers: &[(Vec<u8>, Digest)]) -> Image {
        let descriptors: Vec<Descriptor> = layers.iter().map(|(blob, _)| self.put(blob)).collect();
        let config = ImageConfig { diff_ids: layers.iter().map(|(_, id)| id.clone()).collect(), ..Default::default() };
        let digest = Digest::sha256(format!("{:?}", config.diff_ids).as_bytes());
        let manifest = Manifest { config: self.put(b"{}"), layers: descriptors };
        Image::new("test".parse().unwrap(), digest, manifest, config).unwrap()
    }

    fn put(&self, blob: &[u8]) -> Descriptor {
        let digest = Digest::sha256(blob);
        self.store.put_document(&digest, blob).unwrap();
        Descriptor {
            media_type: MediaType("application/vnd.oci.image.layer.v1.tar".to_owned()),
            digest,
            size: blob.len() as u64,
            urls: Vec::new(),
            platform: None,
            annotations: BTreeMap::new(),
        }
    }

    /// Unpacks the layers, the topmost first or the lowest.
    pub(super) fn unpack(&self, image: &Image, topmost_first: bool) -> Result<Layers, RootfsError> {
        let unpacker = Unpacker::begin(&self.store, image, &Silent)?;
        let mut missing = unpacker.missing();
        if topmost_first {
            missing.reverse();
        }
        for index in missing {
            unpacker.unpack(index)?;
        }
        Layers::load(&self.store, &unpacker.finish()?)
    }

    /// Panics unless everything outside the layers is as it was, and then removes them.
    pub(super) fn check_and_clear(&self) {
        assert_eq!(outside(), self.before, "what is outside has changed");
        assert_eq!(names(Path::new("/store/tmp")), Vec::<PathBuf>::new(), "something was left aside");
        for directory in ["/store/layers/sha256", "/store/blobs/sha256", "/scratch"] {
            for name in names(Path::new(directory)) {
                std::fs::remove_dir_all(&name).or_else(|_| std::fs::remove_file(&name)).unwrap();
            }
        }
    }
}

/// What a copy of the layers and what an overlay of them holds; `None` where that is too much to read.
pub(super) fn looks(layers: &Layers) -> Option<(Vec<String>, Vec<String>)> {
    let (copied, mounted) = (Path::new("/scratch/copied"), Path::new("/scratch/mounted"));
    std::fs::create_dir(copied).unwrap();
    std::fs::create_dir(mounted).unwrap();
    copy_flat(layers, copied).unwrap();
    if !is_small(copied) {
        return None;
    }
    mount_overlay(layers, Path::new("/scratch"), mounted, true).unwrap();
    let overlay = listing(mounted);
    umount2(mounted, MntFlags::empty()).unwrap();
    Some((listing(copied), overlay))
}

/// Whether no file is larger than what is read in a moment; holes count.
fn is_small(tree: &Path) -> bool {
    const MOST_BYTES: u64 = 4 << 20;
    let mut waiting = vec![tree.to_owned()];
    while let Some(directory) = waiting.pop() {
        for name in names(&directory) {
            // By the whole path, so nothing too deep for that; the copy is all ours, no link is followed.
            let Ok(metadata) = std::fs::symlink_metadata(&name) else { return false };
            if metadata.is_dir() {
                waiting.push(name);
            } else if metadata.size() > MOST_BYTES {
                return false;
            }
        }
    }
    true
}

/// All that no layer may change.
fn outside() -> Vec<String> {
    let mut lines: Vec<String> = KEPT.iter().flat_map(|directory| listing(Path::new(directory))).collect();
    for directory in ["/", "/store"] {
        let metadata = std::fs::symlink_metadata(directory).unwrap();
        let mut paths = names(Path::new(directory));
        paths.sort();
        lines.push(format!("{directory} {:o} {} {}: {paths:?}", metadata.mode(), metadata.uid(), metadata.gid()));
        for path in paths.iter().filter(|path| *path != Path::new("/proc")) {
            let metadata = std::fs::symlink_metadata(path).unwrap();
            // The store's own directories change when layers come and go.
            let time = if metadata.is_file() { (metadata.mtime(), metadata.mtime_nsec()) } else { (0, 0) };
            let content = if metadata.is_file() { std::fs::read(path).unwrap() } else { Vec::new() };
            let (mode, uid, gid) = (metadata.mode(), metadata.uid(), metadata.gid());
            lines.push(format!("{} {mode:o} {uid} {gid} {time:?} {}", path.display(), content.escape_ascii()));
        }
    }
    lines
}

fn names(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory).map(|entries| entries.map(|entry| entry.unwrap().path()).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::rootfs::testing::is_root;

    #[test]
    fn what_gets_out_is_seen() {
        if !is_root() {
            return;
        }
        let escapes: [fn(); 7] = [
            || fs::write("/victim/sub/file", "evil").unwrap(),
            || fs::write("/file", "touched").unwrap(),
            || fs::write("/new", "").unwrap(),
            || fs::remove_file("/a/b").unwrap(),
            || fs::set_permissions("/etc", fs::Permissions::from_mode(0o777)).unwrap(),
            || symlink("/etc", "/store/new").unwrap(),
            || fs::write("/store/tmp/left", "").unwrap(),
        ];
        for escape in escapes {
            let world = World::new();
            world.run(Place::check_and_clear);
            let seen = std::panic::AssertUnwindSafe(|| {
                world.run(move |place| {
                    escape();
                    place.check_and_clear();
                });
            });
            assert!(std::panic::catch_unwind(seen).is_err());
        }
    }
}
