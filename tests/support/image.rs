//! Images made by code: `ImageBuilder::new().file("/hi", "x").cmd(["cat", "/hi"]).build()`.
//!
//! Entries go into the current layer; [`ImageBuilder::layer`] begins the next one. Nothing depends on the clock or on the
//! machine, so the same calls make the same digests.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use dockless::image::Digest;
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

/// How a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Gzip,
    Zstd,
    Plain,
}

/// Which family of media types an image has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Oci,
    Docker,
}

/// One entry of a layer, for what the short methods of [`ImageBuilder`] cannot say.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    path: Vec<u8>,
    kind: EntryType,
    content: Vec<u8>,
    link: Option<Vec<u8>>,
    mode: u32,
    owner: (u64, u64),
    mtime: u64,
    device: Option<(u32, u32)>,
    extensions: Vec<(String, Vec<u8>)>,
}

impl Entry {
    fn new(path: impl AsRef<[u8]>, kind: EntryType, mode: u32) -> Self {
        // Archives name their entries without the leading slash.
        let path = path.as_ref();
        let path = path.strip_prefix(b"/").unwrap_or(path).to_vec();
        let (content, link, device, extensions) = (Vec::new(), None, None, Vec::new());
        Self { path, kind, content, link, mode, owner: (0, 0), mtime: 1_700_000_000, device, extensions }
    }

    pub(crate) fn file(path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        Self { content: content.as_ref().to_vec(), ..Self::new(path, EntryType::Regular, 0o644) }
    }

    pub(crate) fn dir(path: impl AsRef<[u8]>) -> Self {
        Self::new(path, EntryType::Directory, 0o755)
    }

    pub(crate) fn symlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self { link: Some(target.as_ref().to_vec()), ..Self::new(path, EntryType::Symlink, 0o777) }
    }

    /// `target` is a path in the archive, so it too loses its leading slash.
    pub(crate) fn hardlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        let target = target.as_ref();
        let target = target.strip_prefix(b"/").unwrap_or(target);
        Self { link: Some(target.to_vec()), ..Self::new(path, EntryType::Link, 0o644) }
    }

    pub(crate) fn fifo(path: impl AsRef<[u8]>) -> Self {
        Self::new(path, EntryType::Fifo, 0o644)
    }

    pub(crate) fn char_device(path: impl AsRef<[u8]>, major: u32, minor: u32) -> Self {
        Self { device: Some((major, minor)), ..Self::new(path, EntryType::Char, 0o666) }
    }

    /// The path exactly as given, a leading slash and `..` included.
    pub(crate) fn raw_path(mut self, path: impl AsRef<[u8]>) -> Self {
        self.path = path.as_ref().to_vec();
        self
    }

    pub(crate) fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    pub(crate) fn owner(mut self, uid: u64, gid: u64) -> Self {
        self.owner = (uid, gid);
        self
    }

    /// Seconds since the epoch.
    pub(crate) fn mtime(mut self, seconds: u64) -> Self {
        self.mtime = seconds;
        self
    }

    /// A PAX record, e.g. `mtime` = `-1.5`.
    pub(crate) fn pax(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.extensions.push((key.to_owned(), value.as_ref().to_vec()));
        self
    }

    pub(crate) fn xattr(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax(&format!("SCHILY.xattr.{name}"), value)
    }

    fn append_to(&self, tar: &mut Builder<Vec<u8>>) {
        let mut extensions: Vec<(&str, &[u8])> =
            self.extensions.iter().map(|(key, value)| (key.as_str(), value.as_slice())).collect();
        let mut header = Header::new_ustar();
        let link = self.link.as_deref().unwrap_or_default();
        // What does not fit the header goes into PAX records; so do paths that a header setter would refuse.
        if !set_field(&mut header.as_old_mut().name, &self.path) {
            extensions.push(("path", &self.path));
        }
        if !set_field(&mut header.as_old_mut().linkname, link) {
            extensions.push(("linkpath", link));
        }
        header.set_entry_type(self.kind);
        header.set_mode(self.mode);
        header.set_uid(self.owner.0);
        header.set_gid(self.owner.1);
        header.set_mtime(self.mtime);
        header.set_size(self.content.len() as u64);
        if let Some((major, minor)) = self.device {
            header.set_device_major(major).expect("a ustar header");
            header.set_device_minor(minor).expect("a ustar header");
        }
        header.set_cksum();
        if !extensions.is_empty() {
            tar.append_pax_extensions(extensions).expect("written to memory");
        }
        tar.append(&header, self.content.as_slice()).expect("written to memory");
    }
}

fn set_field(field: &mut [u8], value: &[u8]) -> bool {
    let fits = value.len() <= field.len();
    let end = value.len().min(field.len());
    field[..end].copy_from_slice(&value[..end]);
    fits
}

/// A layer as it travels.
#[derive(Debug, Clone)]
pub(crate) struct BuiltLayer {
    pub(crate) media_type: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: Digest,
    /// Digest of the tar inside.
    pub(crate) diff_id: Digest,
    pub(crate) urls: Vec<String>,
}

/// An image as it travels.
#[derive(Debug, Clone)]
pub(crate) struct BuiltImage {
    pub(crate) layers: Vec<BuiltLayer>,
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
    pub(crate) media_type: String,
    platform: Value,
}

/// Several images under one name.
#[derive(Debug, Clone)]
pub(crate) struct BuiltIndex {
    pub(crate) images: Vec<BuiltImage>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) media_type: String,
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct ImageBuilder {
    family: Family,
    packing: Packing,
    layers: Vec<Vec<Step>>,
    config: serde_json::Map<String, Value>,
    platform: (String, String, Option<String>),
}

#[derive(Debug, Clone)]
enum Step {
    Entry(Entry),
    /// A layer that is given whole: its bytes on the way and its tar.
    Raw {
        bytes: Vec<u8>,
        tar: Vec<u8>,
    },
    Packing(Packing),
    Urls(Vec<String>),
}

impl Default for ImageBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl ImageBuilder {
    /// An OCI image for linux/amd64 with one gzip layer, which is empty so far.
    pub(crate) fn new() -> Self {
        Self {
            family: Family::Oci,
            packing: Packing::Gzip,
            layers: vec![Vec::new()],
            config: serde_json::Map::new(),
            platform: ("linux".to_owned(), "amd64".to_owned(), None),
        }
    }

    /// Docker's media types instead of OCI's.
    pub(crate) fn docker_schema2(mut self) -> Self {
        self.family = Family::Docker;
        self
    }

    /// How layers are packed from the current one on.
    pub(crate) fn packing(self, packing: Packing) -> Self {
        let mut builder = self.step(Step::Packing(packing));
        builder.packing = packing;
        builder
    }

    /// Begins the next layer.
    pub(crate) fn layer(mut self) -> Self {
        self.layers.push(vec![Step::Packing(self.packing)]);
        self
    }

    /// Begins a layer that consists of `bytes`, whatever they are; `tar` is what they unpack to.
    pub(crate) fn raw_layer(mut self, bytes: impl Into<Vec<u8>>, tar: impl Into<Vec<u8>>) -> Self {
        self.layers.push(vec![Step::Raw { bytes: bytes.into(), tar: tar.into() }]);
        self
    }

    /// Makes the current layer a foreign one, which may be had at `urls`.
    pub(crate) fn foreign(self, urls: &[&str]) -> Self {
        self.step(Step::Urls(urls.iter().map(|url| (*url).to_owned()).collect()))
    }

    pub(crate) fn entry(self, entry: Entry) -> Self {
        self.step(Step::Entry(entry))
    }

    pub(crate) fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.entry(Entry::file(path, content))
    }

    /// A file that may be executed.
    pub(crate) fn program(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.entry(Entry::file(path, content).mode(0o755))
    }

    pub(crate) fn dir(self, path: &str) -> Self {
        self.entry(Entry::dir(path))
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(Entry::symlink(path, target))
    }

    pub(crate) fn hardlink(self, path: &str, target: &str) -> Self {
        self.entry(Entry::hardlink(path, target))
    }

    /// Hides `path` of the layers below.
    pub(crate) fn whiteout(self, path: &str) -> Self {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        self.entry(Entry::file(format!("{dir}/.wh.{name}"), ""))
    }

    /// Hides all that is in the directory in the layers below.
    pub(crate) fn opaque(self, dir: &str) -> Self {
        self.entry(Entry::file(format!("{dir}/.wh..wh..opq"), ""))
    }

    pub(crate) fn entrypoint<const N: usize>(self, words: [&str; N]) -> Self {
        self.config("Entrypoint", json!(words.as_slice()))
    }

    pub(crate) fn cmd<const N: usize>(self, words: [&str; N]) -> Self {
        self.config("Cmd", json!(words.as_slice()))
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        let list = self.config.entry("Env").or_insert_with(|| json!([]));
        list.as_array_mut().expect("it was made as one").push(json!(format!("{name}={value}")));
        self
    }

    pub(crate) fn user(self, user: &str) -> Self {
        self.config("User", json!(user))
    }

    pub(crate) fn working_dir(self, dir: &str) -> Self {
        self.config("WorkingDir", json!(dir))
    }

    pub(crate) fn volume(self, path: &str) -> Self {
        self.config("Volumes", json!({ path: {} }))
    }

    pub(crate) fn stop_signal(self, signal: &str) -> Self {
        self.config("StopSignal", json!(signal))
    }

    pub(crate) fn label(self, name: &str, value: &str) -> Self {
        self.config("Labels", json!({ name: value }))
    }

    /// `linux/arm/v7`
    pub(crate) fn platform(mut self, platform: &str) -> Self {
        let mut parts = platform.split('/').map(str::to_owned);
        self.platform = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default(), parts.next());
        self
    }

    /// Any key of the configuration's `config`.
    pub(crate) fn config(mut self, key: &str, value: Value) -> Self {
        self.config.insert(key.to_owned(), value);
        self
    }

    fn step(mut self, step: Step) -> Self {
        self.layers.last_mut().expect("there is always one").push(step);
        self
    }

    pub(crate) fn build(self) -> BuiltImage {
        let layers: Vec<BuiltLayer> = self.layers.iter().map(|steps| build_layer(steps, self.family)).collect();
        let platform = platform_json(&self.platform);
        let diff_ids: Vec<String> = layers.iter().map(|layer| layer.diff_id.to_string()).collect();
        let mut config = json!({ "config": self.config, "rootfs": { "type": "layers", "diff_ids": diff_ids } });
        merge(&mut config, &platform);
        let config = config.to_string().into_bytes();
        let (media_type, config_type) = match self.family {
            Family::Oci => ("application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.config.v1+json"),
            Family::Docker => (
                "application/vnd.docker.distribution.manifest.v2+json",
                "application/vnd.docker.container.image.v1+json",
            ),
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": descriptor(config_type, &config),
            "layers": layers.iter().map(BuiltLayer::descriptor).collect::<Vec<_>>(),
        });
        let manifest = manifest.to_string().into_bytes();
        BuiltImage { layers, config, manifest, media_type: media_type.to_owned(), platform }
    }
}

fn build_layer(steps: &[Step], family: Family) -> BuiltLayer {
    let mut builder = Builder::new(Vec::new());
    let (mut packing, mut urls, mut raw) = (Packing::Gzip, Vec::new(), None);
    for step in steps {
        match step {
            Step::Entry(entry) => entry.append_to(&mut builder),
            Step::Packing(chosen) => packing = *chosen,
            Step::Urls(list) => urls.clone_from(list),
            Step::Raw { bytes, tar } => raw = Some((bytes.clone(), tar.clone())),
        }
    }
    let (bytes, tar) = raw.unwrap_or_else(|| {
        let tar = builder.into_inner().expect("written to memory");
        (pack(&tar, packing), tar)
    });
    let kind = match (family, urls.is_empty()) {
        (Family::Oci, true) => "application/vnd.oci.image.layer.v1.tar",
        (Family::Oci, false) => "application/vnd.oci.image.layer.nondistributable.v1.tar",
        (Family::Docker, true) => "application/vnd.docker.image.rootfs.diff.tar",
        (Family::Docker, false) => "application/vnd.docker.image.rootfs.foreign.diff.tar",
    };
    let suffix = match (packing, family) {
        (Packing::Plain, _) => "",
        (Packing::Gzip, Family::Oci) => "+gzip",
        (Packing::Gzip, Family::Docker) => ".gzip",
        (Packing::Zstd, Family::Oci) => "+zstd",
        (Packing::Zstd, Family::Docker) => ".zstd",
    };
    let (digest, diff_id) = (Digest::sha256(&bytes), Digest::sha256(&tar));
    BuiltLayer { media_type: format!("{kind}{suffix}"), bytes, digest, diff_id, urls }
}

/// Packs bytes as a layer is packed.
pub(crate) fn pack(bytes: &[u8], packing: Packing) -> Vec<u8> {
    match packing {
        Packing::Plain => bytes.to_vec(),
        Packing::Zstd => zstd::encode_all(bytes, 3).expect("written to memory"),
        Packing::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("written to memory")
        }
    }
}

fn platform_json((os, architecture, variant): &(String, String, Option<String>)) -> Value {
    let mut platform = json!({ "os": os, "architecture": architecture });
    if let Some(variant) = variant {
        platform["variant"] = json!(variant);
    }
    platform
}

fn merge(into: &mut Value, from: &Value) {
    for (key, value) in from.as_object().into_iter().flatten() {
        into[key] = value.clone();
    }
}

/// A descriptor of `bytes`.
pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": Digest::sha256(bytes).to_string(), "size": bytes.len() })
}

impl BuiltLayer {
    fn descriptor(&self) -> Value {
        let mut descriptor = descriptor(&self.media_type, &self.bytes);
        if !self.urls.is_empty() {
            descriptor["urls"] = json!(self.urls);
        }
        descriptor
    }
}

impl BuiltImage {
    pub(crate) fn digest(&self) -> Digest {
        Digest::sha256(&self.manifest)
    }

    /// The same image with another manifest, for lies.
    pub(crate) fn with_manifest(mut self, change: impl FnOnce(&mut Value)) -> Self {
        let mut manifest = serde_json::from_slice(&self.manifest).expect("it was made as json");
        change(&mut manifest);
        self.manifest = manifest.to_string().into_bytes();
        self
    }

    /// Configuration and layers by digest.
    pub(crate) fn blobs(&self) -> BTreeMap<Digest, &[u8]> {
        let layers = self.layers.iter().map(|layer| (layer.digest.clone(), layer.bytes.as_slice()));
        layers.chain([(Digest::sha256(&self.config), self.config.as_slice())]).collect()
    }

    /// Writes the image into an OCI image layout at `dir` under `name`, so that other tools can read it.
    pub(crate) fn write_layout(&self, dir: &Path, name: &str) {
        let blobs = dir.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).expect("a directory for the layout");
        let manifest_digest = self.digest();
        for (digest, bytes) in self.blobs().into_iter().chain([(manifest_digest, self.manifest.as_slice())]) {
            std::fs::write(blobs.join(digest.hex()), bytes).expect("a blob of the layout");
        }
        let path = dir.join("index.json");
        let index = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        let mut index = index.unwrap_or_else(|| json!({ "schemaVersion": 2, "manifests": [] }));
        let mut entry = descriptor(&self.media_type, &self.manifest);
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        index["manifests"].as_array_mut().expect("a list of manifests").push(entry);
        std::fs::write(path, index.to_string()).expect("the index of the layout");
        std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("the layout's version");
    }
}

impl BuiltIndex {
    /// An OCI index of the images, each under its own platform.
    pub(crate) fn of(images: impl IntoIterator<Item = BuiltImage>) -> Self {
        let images: Vec<BuiltImage> = images.into_iter().collect();
        let entry = |image: &BuiltImage| {
            let mut entry = descriptor(&image.media_type, &image.manifest);
            entry["platform"] = image.platform.clone();
            entry
        };
        let media_type = "application/vnd.oci.image.index.v1+json".to_owned();
        let manifests: Vec<Value> = images.iter().map(entry).collect();
        let index = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests });
        Self { images, bytes: index.to_string().into_bytes(), media_type }
    }

    /// The same index with other content, for lies and nests.
    pub(crate) fn with_index(mut self, change: impl FnOnce(&mut Value)) -> Self {
        let mut index = serde_json::from_slice(&self.bytes).expect("it was made as json");
        change(&mut index);
        self.bytes = index.to_string().into_bytes();
        self
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::sha256(&self.bytes)
    }
}
