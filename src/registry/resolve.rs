//! From a reference to the verified manifest and configuration of one platform.

use reqwest::header::{CONTENT_TYPE, HeaderMap};
use serde_json::Value;

use super::answer::{Answer, shown};
use super::error::RegistryError;
use super::session::{Body, Fetched, Session, Want, blob_path};
use crate::image::{
    Algorithm, Descriptor, Digest, Document, Image, ImageConfig, Index, MAX_DOCUMENT_BYTES, Manifest, MediaType,
    Observer, Platform, PullEvent, Reference,
};

/// Indexes that may stand one in another before a manifest comes.
const MAX_INDEX_DEPTH: usize = 4;
/// Largest list of tags that is read to make a hint.
const MAX_TAG_LIST_BYTES: u64 = 1 << 20;
/// Tags that a hint shows.
const TAGS_SHOWN: usize = 5;

/// A document as it came, verified against its descriptor.
#[derive(Debug, Clone)]
pub struct RawDocument {
    /// Digest, size and kind.
    pub descriptor: Descriptor,
    /// What it hashes from.
    pub bytes: Vec<u8>,
}

/// What a reference stands for on a platform.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The image; its layers are still to be fetched.
    pub image: Image,
    /// The documents on the way there, from what the reference names (an index or the manifest) to the manifest.
    pub documents: Vec<RawDocument>,
    /// The configuration.
    pub config: RawDocument,
}

impl Resolved {
    /// What the reference itself names: an index, or the manifest when there is no index.
    #[must_use]
    pub fn top(&self) -> &Descriptor {
        &self.documents[0].descriptor
    }
}

/// One resolution.
pub(super) struct Resolver<'a> {
    pub(super) session: &'a Session,
    pub(super) reference: &'a Reference,
    pub(super) platform: &'a Platform,
    pub(super) observer: &'a dyn Observer,
}

impl Resolver<'_> {
    pub(super) async fn resolve(&self) -> Result<Resolved, RegistryError> {
        let mut documents = vec![self.fetch_top().await?];
        let mut labelled = false;
        let (digest, manifest) = loop {
            let RawDocument { descriptor, bytes } = &documents[documents.len() - 1];
            let parsed = Document::parse(bytes, &descriptor.digest);
            let parsed = parsed.map_err(|source| RegistryError::Document { image: self.image(), source })?;
            self.check_label(descriptor, &parsed)?;
            let index = match parsed {
                Document::Manifest(manifest) => break (descriptor.digest.clone(), manifest),
                Document::Index(index) => index,
            };
            if documents.len() > MAX_INDEX_DEPTH {
                return Err(RegistryError::TooDeep { image: self.image(), limit: MAX_INDEX_DEPTH });
            }
            let chosen = self.choose(&index)?;
            labelled |= chosen.platform.is_some();
            let what = format!("{}@{}", self.session.name(), chosen.digest);
            documents.push(self.fetch_part(&format!("manifests/{}", chosen.digest), &what, chosen).await?);
        };
        let config = self.fetch_config(&manifest).await?;
        let image = self.assemble(digest, manifest, &config, labelled)?;
        let layers: Vec<(Digest, u64)> = image.layers().map(|(layer, _)| (layer.digest.clone(), layer.size)).collect();
        self.observer.pull(&PullEvent::Resolved {
            reference: self.reference,
            manifest: &image.manifest_digest,
            layers: &layers,
        });
        Ok(Resolved { image, documents, config })
    }

    fn image(&self) -> String {
        self.reference.to_string()
    }

    fn host(&self) -> String {
        self.session.endpoint().host.clone()
    }

    /// Fetches what the reference names. A digest in it is checked; for a tag the registry's own word about the digest is.
    pub(super) async fn fetch_top(&self) -> Result<RawDocument, RegistryError> {
        let what = self.image();
        let path = format!("manifests/{}", self.reference.manifest_selector());
        let (headers, bytes) = match self.fetch(path, &what, true, MAX_DOCUMENT_BYTES).await? {
            Fetched::Found { headers, bytes } => (headers, bytes),
            Fetched::Missing(answer) => return Err(self.explain_missing(answer).await),
        };
        let expected = self.reference.digest().cloned().or_else(|| announced_digest(&headers));
        let digest = Digest::of(expected.as_ref().map_or(Algorithm::Sha256, Digest::algorithm), &bytes);
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            return Err(RegistryError::Digest { host: self.host(), what, expected, actual: digest });
        }
        let descriptor = Descriptor {
            media_type: media_type(&headers, &bytes),
            digest,
            size: bytes.len() as u64,
            urls: Vec::new(),
            platform: None,
            annotations: std::collections::BTreeMap::new(),
        };
        Ok(RawDocument { descriptor, bytes })
    }

    async fn fetch_config(&self, manifest: &Manifest) -> Result<RawDocument, RegistryError> {
        let what = format!("the configuration of {}", self.image());
        self.fetch_part(&blob_path(&manifest.config.digest), &what, &manifest.config).await
    }

    /// Fetches a document that another one describes.
    async fn fetch_part(&self, path: &str, what: &str, descriptor: &Descriptor) -> Result<RawDocument, RegistryError> {
        let (host, what) = (self.host(), what.to_owned());
        if descriptor.size > MAX_DOCUMENT_BYTES {
            return Err(RegistryError::TooLarge { host, what, limit_bytes: MAX_DOCUMENT_BYTES });
        }
        let is_manifest = path.starts_with("manifests/");
        let bytes = match self.fetch(path.to_owned(), &what, is_manifest, MAX_DOCUMENT_BYTES).await? {
            Fetched::Found { bytes, .. } => bytes,
            Fetched::Missing(answer) => {
                let (image, digest) = (self.image(), descriptor.digest.clone());
                return Err(RegistryError::NoBlob { host, image, digest, answer: Box::new(answer) });
            }
        };
        let actual = Digest::of(descriptor.digest.algorithm(), &bytes);
        if actual != descriptor.digest {
            return Err(RegistryError::Digest { host, what, expected: descriptor.digest.clone(), actual });
        }
        let size = bytes.len() as u64;
        if size != descriptor.size {
            return Err(RegistryError::Size { host, what, expected: descriptor.size, actual: size });
        }
        Ok(RawDocument { descriptor: descriptor.clone(), bytes })
    }

    async fn fetch(&self, path: String, what: &str, is_manifest: bool, limit: u64) -> Result<Fetched, RegistryError> {
        let accepted = MediaType::ACCEPTED.join(", ");
        let accept = is_manifest.then_some(accepted.as_str());
        self.session.fetch(&Want { path, what, accept, body: Body::UpTo(limit) }, self.observer).await
    }

    /// A manifest that its index calls an index, or the reverse, is read differently by different tools.
    fn check_label(&self, descriptor: &Descriptor, parsed: &Document) -> Result<(), RegistryError> {
        let fits = match parsed {
            Document::Manifest(_) => !descriptor.media_type.is_index(),
            Document::Index(_) => !descriptor.media_type.is_manifest(),
        };
        if fits {
            return Ok(());
        }
        Err(RegistryError::Mislabelled {
            image: self.image(),
            digest: descriptor.digest.clone(),
            announced: shown(&descriptor.media_type.0),
        })
    }

    /// The entry for the platform; one that stands alone without a label is taken, and judged by its configuration.
    fn choose<'i>(&self, index: &'i Index) -> Result<&'i Descriptor, RegistryError> {
        let alone = match index.manifests.as_slice() {
            [only] if only.platform.is_none() => Some(only),
            _ => None,
        };
        index.select(self.platform).or(alone).ok_or_else(|| self.no_platform(&index.platforms()))
    }

    fn no_platform(&self, offered: &[String]) -> RegistryError {
        let quoted: Vec<String> = offered.iter().map(|platform| format!("`{}`", shown(platform))).collect();
        RegistryError::NoPlatform {
            image: self.image(),
            wanted: self.platform.to_string(),
            offered: if quoted.is_empty() { "none".to_owned() } else { quoted.join(", ") },
        }
    }

    fn assemble(
        &self,
        digest: Digest,
        manifest: Manifest,
        config: &RawDocument,
        labelled: bool,
    ) -> Result<Image, RegistryError> {
        let parsed = ImageConfig::parse(&config.bytes, &config.descriptor.digest)
            .map_err(|source| RegistryError::Config { image: self.image(), source })?;
        // What an index says about its entries is more reliable than the configurations of old builders.
        if !labelled
            && let Some(offered) = &parsed.platform
            && self.platform.rank(offered).is_none()
        {
            return Err(self.no_platform(&[offered.to_string()]));
        }
        Image::new(self.reference.clone(), digest, manifest, parsed)
            .map_err(|source| RegistryError::Document { image: self.image(), source })
    }

    /// Finds out whether the repository or only the tag is missing, and which tags there are.
    async fn explain_missing(&self, answer: Answer) -> RegistryError {
        let name = self.session.name();
        let no_repository = |answer: Answer| RegistryError::NoImage {
            missing: format!("registry `{}` has no repository `{}`", self.host(), self.reference.repository()),
            answer: Box::new(answer),
            hint: "check the name; a registry may also hide what a login would show".to_owned(),
        };
        if answer.has_code("NAME_UNKNOWN") {
            return no_repository(answer);
        }
        let no_image = |hint: String| {
            let missing = match (self.reference.digest(), self.reference.tag()) {
                (Some(digest), _) => format!("`{name}` has no image `{digest}`"),
                (None, tag) => format!("`{name}` has no tag `{}`", tag.unwrap_or_default()),
            };
            RegistryError::NoImage { missing, answer: Box::new(answer.clone()), hint }
        };
        let Some(tag) = self.reference.tag().filter(|_| self.reference.digest().is_none()) else {
            return no_image("check the digest; images may have been removed from the registry".to_owned());
        };
        match self.fetch("tags/list".to_owned(), &name, false, MAX_TAG_LIST_BYTES).await {
            Ok(Fetched::Missing(answer)) => no_repository(answer),
            Ok(Fetched::Found { bytes, .. }) => no_image(tag_hint(tag, &bytes)),
            Err(_) => no_image("check the name and the tag".to_owned()),
        }
    }
}

fn announced_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get("docker-content-digest")?.to_str().ok()?.parse().ok()
}

/// The document's own word, else the header's, else what it looks like.
fn media_type(headers: &HeaderMap, bytes: &[u8]) -> MediaType {
    let document: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let header = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_index = document["manifests"].is_array();
    let declared = document["mediaType"].as_str().or(header).map(|text| MediaType(text.to_owned()));
    let looks_like = if is_index { MediaType::OCI_INDEX } else { MediaType::OCI_MANIFEST };
    declared
        .filter(|declared| if is_index { declared.is_index() } else { declared.is_manifest() })
        .unwrap_or_else(|| MediaType(looks_like.to_owned()))
}

fn tag_hint(wanted: &str, list: &[u8]) -> String {
    let list: Value = serde_json::from_slice(list).unwrap_or_default();
    let mut tags: Vec<&str> = list["tags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if tags.is_empty() {
        return "the repository has no tags".to_owned();
    }
    tags.sort_by_key(|tag| strsim::damerau_levenshtein(tag, wanted));
    let more = if tags.len() > TAGS_SHOWN { ", …" } else { "" };
    let nearest: Vec<String> = tags.iter().take(TAGS_SHOWN).map(|tag| format!("`{}`", shown(tag))).collect();
    format!("there are {}{more}", nearest.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_a_document_is_its_own_word() {
        let (index, docker) = (MediaType::OCI_INDEX, MediaType::ACCEPTED[3]);
        for (body, header, expected) in [
            (format!(r#"{{"mediaType":"{docker}","layers":[]}}"#), "text/plain", docker),
            (r#"{"layers":[]}"#.to_owned(), docker, docker),
            (r#"{"layers":[]}"#.to_owned(), "application/json", MediaType::OCI_MANIFEST),
            (r#"{"layers":[]}"#.to_owned(), index, MediaType::OCI_MANIFEST),
            (r#"{"manifests":[]}"#.to_owned(), docker, index),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, header.parse().unwrap())]);
            assert_eq!(media_type(&headers, body.as_bytes()).0, expected, "{body} with {header}");
        }
    }

    #[test]
    fn hints_name_the_nearest_tags() {
        let hint = tag_hint("12.1", br#"{"tags":["latest","12","12.10","9","10","11","12.2"]}"#);
        assert!(hint.starts_with("there are `12.10`, `12.2`"), "{hint}");
        assert!(hint.ends_with('…'), "{hint}");
        assert_eq!(tag_hint("a", br#"{"tags":null}"#), "the repository has no tags");
        assert_eq!(tag_hint("a", b"junk"), "the repository has no tags");
        assert!(!tag_hint("a", br#"{"tags":["\u001b[2J"]}"#).contains('\u{1b}'));
    }
}
