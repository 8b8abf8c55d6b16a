//! OCI image layouts (image-spec, "OCI Image Layout Specification"): `oci-layout`, `index.json`, `blobs/<algorithm>/<hex>`.
//!
//! Names: containerd and docker write the full one into `io.containerd.image.name`; the specification's own annotation
//! may hold a full name too (ours does) or only a tag, which is then a tag of the layout's own name.

use serde_json::Value;

use super::files::{Files, MARK};
use super::{Found, MAX_IMAGES, Root, TransportError};
use crate::image::{Descriptor, Digest, Reference};

pub(super) const INDEX: &str = "index.json";
pub(super) const VERSION: &str = "1.0.0";
pub(super) const FULL_NAME: &str = "io.containerd.image.name";
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Where a blob is in a layout.
pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

/// The images that the layout lists; those of one digest are one image under several names.
pub(super) fn find(files: &Files, repository: &str) -> Result<Vec<Found>, TransportError> {
    let layout = json(files, MARK)?;
    let version = layout["imageLayoutVersion"].as_str().unwrap_or("none");
    if version != VERSION {
        return Err(TransportError::Version { what: files.what(), found: crate::words::printable(version) });
    }
    let mut found: Vec<(Digest, Found)> = Vec::new();
    for entry in entries(files)? {
        let name = |key: &str| entry.annotations.get(key).filter(|name| !name.is_empty()).cloned();
        let (full, own) = (name(FULL_NAME), name(REF_NAME));
        let reference = full.as_deref().and_then(|name| name.parse().ok());
        let reference = reference.or_else(|| own.as_deref().and_then(|name| reference_of(name, repository)));
        let place = found.iter().position(|(digest, _)| *digest == entry.digest).unwrap_or_else(|| {
            // The name is no part of what it names.
            let root = Root::Oci(Descriptor { annotations: std::collections::BTreeMap::new(), ..entry.clone() });
            found.push((entry.digest, Found { labels: Vec::new(), names: Vec::new(), root }));
            found.len() - 1
        });
        let (_, image) = &mut found[place];
        image.labels.extend(full.into_iter().chain(own));
        image.names.extend(reference.filter(|name| !image.names.contains(name)));
    }
    Ok(found.into_iter().map(|(_, image)| image).collect())
}

/// What may be an image of what `index.json` lists; other things (signatures, for one) may stand there too.
fn entries(files: &Files) -> Result<Vec<Descriptor>, TransportError> {
    let damaged = |source| TransportError::Json { what: files.what(), name: INDEX.to_owned(), source };
    let list = match json(files, INDEX)?.get_mut("manifests").map(Value::take) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    if list.len() > MAX_IMAGES {
        let limit = format!("{MAX_IMAGES} images");
        return Err(TransportError::TooLarge { what: files.what(), name: format!("`{INDEX}`"), limit });
    }
    let entries: Result<Vec<Descriptor>, _> = list.into_iter().map(serde_json::from_value).collect();
    let is_image = |entry: &Descriptor| entry.media_type.is_manifest() || entry.media_type.is_index();
    Ok(entries.map_err(damaged)?.into_iter().filter(is_image).collect())
}

fn json(files: &Files, name: &str) -> Result<Value, TransportError> {
    let bytes = files.read(name)?;
    serde_json::from_slice(&bytes).map_err(|source| TransportError::Json {
        what: files.what(),
        name: name.to_owned(),
        source,
    })
}

/// A full name as it is; a bare tag under the name of the layout.
fn reference_of(name: &str, repository: &str) -> Option<Reference> {
    let full = name.contains([':', '/', '@']).then(|| name.parse().ok()).flatten();
    full.or_else(|| format!("{repository}:{name}").parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[test]
    fn an_index_that_is_no_object_lists_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        std::fs::write(directory.path().join(MARK), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        for index in ["5", "[]", "true", "null", r#""manifests""#, r#"{"manifests":5}"#, "{}"] {
            std::fs::write(directory.path().join(INDEX), index).unwrap();
            let files = Files::open(&store, directory.path(), "x".to_owned()).unwrap();
            assert!(find(&files, "localhost/x").unwrap().is_empty(), "{index}");
        }
    }

    #[test]
    fn bare_tags_get_the_name_of_the_layout() {
        for (name, expected) in [
            ("1.0", Some("localhost/x:1.0")),
            ("docker.io/library/a:1", Some("docker.io/library/a:1")),
            ("debian:12", Some("docker.io/library/debian:12")),
            ("a b", None),
            ("-x", None),
        ] {
            assert_eq!(reference_of(name, "localhost/x").map(|name| name.to_string()).as_deref(), expected, "{name}");
        }
    }
}
