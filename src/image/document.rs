//! Manifests and indexes, OCI and docker schema 2, parsed once into types that can be relied upon.
//!
//! A document that is both a manifest and an index is refused (CVE-2021-41190), and so is anything larger than
//! [`MAX_DOCUMENT_BYTES`]. `mediaType` inside the document wins over the header that came with it, when there is one.

use std::collections::BTreeMap;

use oci_spec::image as oci;
use serde::{Deserialize, Serialize};

use super::digest::{Digest, DigestError};
use super::platform::Platform;

/// Largest manifest, index or configuration that is read: what registries themselves allow (distribution-spec, 4 MiB).
pub const MAX_DOCUMENT_BYTES: u64 = 4 << 20;

/// A media type as it stands in a descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MediaType(pub String);

impl MediaType {
    /// Every media type that a manifest request accepts.
    pub const ACCEPTED: [&'static str; 4] = [
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    ];

    /// The OCI image manifest.
    pub const OCI_MANIFEST: &'static str = Self::ACCEPTED[1];
    /// The OCI image index.
    pub const OCI_INDEX: &'static str = Self::ACCEPTED[0];

    /// An index or a manifest list.
    #[must_use]
    pub fn is_index(&self) -> bool {
        self.0 == Self::ACCEPTED[0] || self.0 == Self::ACCEPTED[2]
    }

    /// An image manifest.
    #[must_use]
    pub fn is_manifest(&self) -> bool {
        self.0 == Self::ACCEPTED[1] || self.0 == Self::ACCEPTED[3]
    }

    /// A layer that its registry need not hold (`foreign`, `nondistributable`).
    #[must_use]
    pub fn is_foreign_layer(&self) -> bool {
        self.0.contains("nondistributable") || self.0.contains("rootfs.foreign")
    }

    /// A layer of a file system, as opposed to some artifact's payload.
    #[must_use]
    pub fn is_layer(&self) -> bool {
        self.0.starts_with("application/vnd.oci.image.layer.")
            || self.0.starts_with("application/vnd.docker.image.rootfs.")
    }
}

/// Where content is: its digest, exact size and kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the content is.
    pub media_type: MediaType,
    /// What it must hash to.
    pub digest: Digest,
    /// How many bytes it has.
    pub size: u64,
    /// Other places a foreign layer may be fetched from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// In an index: what the manifest is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Free text; data only.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// An image manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The image configuration.
    pub config: Descriptor,
    /// Layers, lowest first.
    pub layers: Vec<Descriptor>,
}

/// An image index (docker: manifest list).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// What is listed, in order.
    pub manifests: Vec<Descriptor>,
}

/// What a manifest request can answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// A list of images by platform.
    Index(Index),
}

/// Why bytes are not a manifest or do not fit together.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Not JSON, or not the shape of a manifest.
    #[error("`{digest}` is not an image manifest or index")]
    Json {
        /// Digest of the bytes.
        digest: Digest,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// JSON of another kind.
    #[error("`{digest}` is not an image manifest or index: {found}{hint}")]
    Kind {
        /// Digest of the bytes.
        digest: Digest,
        /// What it looks like instead.
        found: String,
        /// A second line with advice, or nothing.
        hint: String,
    },
    /// Both `layers` and `manifests`.
    #[error("`{digest}` is both a manifest and an index, refused (CVE-2021-41190)")]
    Ambiguous {
        /// Digest of the bytes.
        digest: Digest,
    },
    /// A digest inside is malformed or of an algorithm that cannot be verified.
    #[error("`{digest}` names a bad digest")]
    Digest {
        /// Digest of the document.
        digest: Digest,
        /// What is wrong with the one inside.
        #[source]
        source: DigestError,
    },
    /// The two lists that must run in step do not.
    #[error("manifest `{digest}` has {layers} layers but its configuration has {diff_ids} diff IDs")]
    LayerCount {
        /// Digest of the manifest.
        digest: Digest,
        /// Layers in the manifest.
        layers: usize,
        /// Diff IDs in the configuration.
        diff_ids: usize,
    },
}

/// The fields that tell what a document is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    schema_version: Option<u32>,
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    fs_layers: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Parses the bytes of a manifest or index; `digest` (of the bytes) only names them in errors.
    ///
    /// # Errors
    /// [`DocumentError`] when they are neither, or both.
    pub fn parse(bytes: &[u8], digest: &Digest) -> Result<Self, DocumentError> {
        let json = |source| DocumentError::Json { digest: digest.clone(), source };
        let probe: Probe = serde_json::from_slice(bytes).map_err(json)?;
        let kind = |found: &str, hint: &str| DocumentError::Kind {
            digest: digest.clone(),
            found: found.to_owned(),
            hint: hint.to_owned(),
        };
        if probe.manifests.is_some() && (probe.layers.is_some() || probe.config.is_some()) {
            return Err(DocumentError::Ambiguous { digest: digest.clone() });
        }
        if probe.schema_version == Some(1) || probe.fs_layers.is_some() {
            return Err(kind("docker schema 1", "\nhint: push the image again with a docker of 2017 or later"));
        }
        let declared = probe.media_type.map(MediaType);
        if probe.manifests.is_some() {
            if declared.as_ref().is_some_and(|declared| !declared.is_index()) {
                return Err(DocumentError::Ambiguous { digest: digest.clone() });
            }
            let index: oci::ImageIndex = serde_json::from_slice(bytes).map_err(json)?;
            let manifests = descriptors(index.manifests(), digest)?;
            return Ok(Self::Index(Index { manifests }));
        }
        if probe.layers.is_none() || probe.config.is_none() {
            return Err(kind("it has neither `layers` and `config` nor `manifests`", ""));
        }
        if declared.as_ref().is_some_and(|declared| !declared.is_manifest()) {
            return Err(kind("its media type is that of something else", ""));
        }
        let manifest: oci::ImageManifest = serde_json::from_slice(bytes).map_err(json)?;
        let config = descriptor(manifest.config(), digest)?;
        let layers = descriptors(manifest.layers(), digest)?;
        if let Some(layer) = layers.iter().find(|layer| !layer.media_type.is_layer()) {
            let found = format!("it is an artifact, not an image (a layer is `{}`)", layer.media_type.0);
            return Err(kind(&found, ""));
        }
        Ok(Self::Manifest(Manifest { config, layers }))
    }
}

impl Index {
    /// The manifest that suits `platform` best, the first of equals; attestations and other non-images never match.
    #[must_use]
    pub fn select(&self, platform: &Platform) -> Option<&Descriptor> {
        let mut best: Option<(u32, &Descriptor)> = None;
        for candidate in self.manifests.iter().filter(|d| d.media_type.is_manifest() || d.media_type.is_index()) {
            let Some(rank) = candidate.platform.as_ref().and_then(|offered| platform.rank(offered)) else { continue };
            if best.is_none_or(|(highest, _)| rank > highest) {
                best = Some((rank, candidate));
            }
        }
        best.map(|(_, descriptor)| descriptor)
    }

    /// The same for what is here already: an entry that stands alone and names no platform is the image, whose configuration
    /// then says what it is for.
    #[must_use]
    pub fn select_or_only(&self, platform: &Platform) -> Option<&Descriptor> {
        let only = match self.manifests.as_slice() {
            [only] if only.platform.is_none() => Some(only),
            _ => None,
        };
        self.select(platform).or(only)
    }

    /// The platforms on offer, for an error message.
    #[must_use]
    pub fn platforms(&self) -> Vec<String> {
        self.manifests
            .iter()
            .filter_map(|d| d.platform.as_ref())
            .filter(|platform| platform.os != "unknown")
            .map(ToString::to_string)
            .collect()
    }
}

fn descriptors(list: &[oci::Descriptor], document: &Digest) -> Result<Vec<Descriptor>, DocumentError> {
    list.iter().map(|one| descriptor(one, document)).collect()
}

fn descriptor(one: &oci::Descriptor, document: &Digest) -> Result<Descriptor, DocumentError> {
    let digest = one
        .digest()
        .to_string()
        .parse()
        .map_err(|source| DocumentError::Digest { digest: document.clone(), source })?;
    Ok(Descriptor {
        media_type: MediaType(one.media_type().to_string()),
        digest,
        size: one.size(),
        urls: one.urls().clone().unwrap_or_default(),
        platform: one.platform().as_ref().map(|platform| {
            Platform::new(
                &platform.os().to_string(),
                &platform.architecture().to_string(),
                platform.variant().as_deref(),
            )
        }),
        annotations: one.annotations().clone().unwrap_or_default().into_iter().collect(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(value: &serde_json::Value) -> Result<Document, DocumentError> {
        let bytes = serde_json::to_vec(value).unwrap();
        Document::parse(&bytes, &Digest::sha256(&bytes))
    }

    fn entry(media_type: &str, platform: Option<(&str, &str)>) -> serde_json::Value {
        let mut entry = json!({
            "mediaType": media_type, "size": 1, "digest": Digest::sha256(media_type.as_bytes()).to_string()
        });
        if let Some((os, architecture)) = platform {
            entry["platform"] = json!({ "os": os, "architecture": architecture });
        }
        entry
    }

    const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

    #[test]
    fn reads_both_families() {
        let docker = json!({
            "schemaVersion": 2,
            "mediaType": MediaType::ACCEPTED[3],
            "config": entry("application/vnd.docker.container.image.v1+json", None),
            "layers": [entry(DOCKER_LAYER, None)],
        });
        let Document::Manifest(manifest) = parse(&docker).unwrap() else { panic!("not a manifest") };
        assert_eq!(manifest.layers.len(), 1);

        let index = json!({ "schemaVersion": 2, "manifests": [
            entry(MediaType::OCI_MANIFEST, Some(("unknown", "unknown"))),
            entry(MediaType::OCI_MANIFEST, Some(("linux", "arm64"))),
            entry(MediaType::OCI_MANIFEST, Some(("linux", "amd64"))),
        ]});
        let Document::Index(index) = parse(&index).unwrap() else { panic!("not an index") };
        assert_eq!(index.platforms(), ["linux/arm64", "linux/amd64"]);
        let chosen = index.select(&"linux/amd64".parse().unwrap()).unwrap();
        assert_eq!(chosen.platform.as_ref().unwrap().architecture, "amd64");
        assert!(index.select(&"linux/s390x".parse().unwrap()).is_none());
    }

    #[test]
    fn refuses_what_is_both_or_neither() {
        let both = json!({ "schemaVersion": 2, "manifests": [], "layers": [], "config": entry("x/y", None) });
        assert!(matches!(parse(&both), Err(DocumentError::Ambiguous { .. })));
        let dressed_up = json!({ "schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST, "manifests": [] });
        assert!(matches!(parse(&dressed_up), Err(DocumentError::Ambiguous { .. })));
        assert!(matches!(parse(&json!({ "schemaVersion": 2 })), Err(DocumentError::Kind { .. })));
        assert!(matches!(parse(&json!({ "schemaVersion": 1, "fsLayers": [] })), Err(DocumentError::Kind { .. })));
        assert!(matches!(parse(&json!("hello")), Err(DocumentError::Json { .. })));
        let mut climbing =
            json!({ "schemaVersion": 2, "config": entry("x/y", None), "layers": [entry(DOCKER_LAYER, None)] });
        climbing["layers"][0]["digest"] = json!("sha256:../../../../../../etc/passwd");
        assert!(parse(&climbing).is_err());
    }
}
