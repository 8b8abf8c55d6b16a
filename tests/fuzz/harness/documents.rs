//! Documents and names of images.

use std::fmt::{Debug, Display};
use std::str::FromStr;
use std::sync::LazyLock;

use dockless::image::{
    Descriptor, Digest, Document, Image, ImageConfig, MAX_DOCUMENT_BYTES, Platform, Reference, Silent, Source,
};
use dockless::store::{LayerInfo, Store};
use dockless::transport::{Input, load};

use crate::rootfs::testing::{file, tar};

/// The first byte chooses what the rest is.
pub(super) fn run(input: &[u8]) {
    let Some((&what, rest)) = input.split_first() else { return };
    match what % 8 {
        0 => names(&String::from_utf8_lossy(rest)),
        1 | 2 => document(rest),
        3 => config(rest),
        4 => layer_info(rest),
        5 => archive(&tar(&[file("manifest.json", rest), file("c.json", CONFIG), file("l.tar", [0; 1024])])),
        6 => {
            let layout = r#"{"imageLayoutVersion":"1.0.0"}"#;
            archive(&tar(&[file("oci-layout", layout), file("index.json", rest), file("manifest.json", "[]")]));
        }
        _ => archive(rest),
    }
}

/// The configuration of one empty layer, for the archives of `docker save`.
pub(super) const CONFIG: &str = concat!(
    r#"{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["#,
    r#""sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"]}}"#
);

/// What is printed is read as the same again.
fn again<T: FromStr<Err: Debug> + Display + Debug + PartialEq>(text: &str) {
    if let Ok(first) = text.parse::<T>() {
        let printed = first.to_string();
        let second = printed.parse::<T>();
        assert!(second.as_ref().is_ok_and(|second| *second == first), "`{printed}`: {first:?}, then {second:?}");
    }
}

fn names(text: &str) {
    again::<Reference>(text);
    again::<Source>(text);
    again::<Digest>(text);
    again::<Platform>(text);
    let Ok(reference) = text.parse::<Reference>() else { return };
    assert_eq!(reference.familiar().parse().as_ref(), Ok(&reference), "the familiar form");
    let json = serde_json::to_string(&reference).unwrap();
    assert_eq!(serde_json::from_str::<Reference>(&json).unwrap(), reference);
    // It becomes a path of a registry's address.
    let climbs = reference.repository().split('/').any(|part| matches!(part, "" | "." | ".."));
    assert!(!climbs && !reference.manifest_selector().contains('/'), "{reference:?}");
}

fn document(bytes: &[u8]) {
    let digest = Digest::sha256(bytes);
    let descriptors = match Document::parse(bytes, &digest) {
        Ok(Document::Manifest(manifest)) => {
            let config = ImageConfig { diff_ids: vec![digest.clone()], ..Default::default() };
            let fits = manifest.layers.len() == 1;
            let image = Image::new("a".parse().unwrap(), digest, manifest.clone(), config);
            assert_eq!(image.is_ok(), fits, "{image:?}");
            [vec![manifest.config], manifest.layers].concat()
        }
        Ok(Document::Index(index)) => {
            let chosen = index.select_or_only(&Platform::host());
            assert!(chosen.is_none_or(|chosen| index.manifests.contains(chosen)));
            drop(index.platforms());
            index.manifests
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            Vec::new()
        }
    };
    for descriptor in descriptors {
        let json = serde_json::to_string(&descriptor).unwrap();
        assert_eq!(serde_json::from_str::<Descriptor>(&json).unwrap(), descriptor);
    }
}

fn config(bytes: &[u8]) {
    let digest = Digest::sha256(bytes);
    match ImageConfig::parse(bytes, &digest) {
        Ok(config) => assert_eq!(Ok(config), ImageConfig::parse(bytes, &digest).map_err(drop)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn layer_info(bytes: &[u8]) {
    let (_, store) = &*STORE;
    let key = Digest::sha256(b"layer");
    let directory = store.layer_dir(&key);
    std::fs::create_dir_all(directory.join("fs")).unwrap();
    std::fs::write(directory.join("layer.json"), bytes).unwrap();
    if let Some(info) = store.whole_layer(&key) {
        assert_eq!(info.schema, LayerInfo::SCHEMA);
        let json = serde_json::to_string(&info).unwrap();
        assert_eq!(serde_json::from_str::<LayerInfo>(&json).unwrap(), info);
    }
}

static STORE: LazyLock<(tempfile::TempDir, Store)> = LazyLock::new(|| {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store")).unwrap();
    (directory, store)
});

/// An archive that is loaded: what it names is then in the store, whole.
fn archive(bytes: &[u8]) {
    let (_, store) = &*STORE;
    let _lock = store.shared().unwrap();
    let Ok(loaded) = load(store, Input::Stream("fuzz", Box::new(std::io::Cursor::new(bytes.to_vec()))), &Silent) else {
        return;
    };
    for image in loaded {
        // What was named stands in the store.
        let document = store.read_document(&image.descriptor.digest).unwrap();
        assert!(document.len() as u64 <= MAX_DOCUMENT_BYTES);
        assert_eq!(Digest::sha256(&document), image.descriptor.digest);
    }
    // Names would gather.
    std::fs::remove_dir_all(store.root()).unwrap();
    Store::open(store.root()).unwrap();
}
