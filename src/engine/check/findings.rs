//! What a check found, as it is told and as it is written in JSON (docs/json.md).

use serde::Serialize;

/// Something that is not as it should be, or that is worth knowing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How it stands.
    pub state: FindingState,
    /// What kind of thing it is about.
    pub kind: FindingKind,
    /// Digest, name or path of that.
    pub name: String,
    /// What is wrong with it, in words that follow its name.
    pub problem: String,
    /// Names of the images that need it, among those that were checked.
    pub images: Vec<String>,
    /// What helps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// How something stands that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingState {
    /// It is damaged.
    Damaged,
    /// It was damaged, and is not any more.
    Repaired,
    /// It could not be looked at.
    Unchecked,
    /// It harms nothing.
    Notice,
}

/// What something is that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// The list of images.
    Index,
    /// A manifest, or an index of several.
    Manifest,
    /// The configuration of an image.
    Config,
    /// A layer as it travels.
    Blob,
    /// A layer as it is unpacked.
    Layer,
    /// An image as a whole.
    Image,
    /// The record of a run.
    Run,
    /// Something that is not ours.
    Stray,
}

impl FindingState {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Damaged => "damaged",
            Self::Repaired => "repaired",
            Self::Unchecked => "unchecked",
            Self::Notice => "notice",
        }
    }
}

impl FindingKind {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Index => "index",
            Self::Manifest => "manifest",
            Self::Config => "config",
            Self::Blob => "blob",
            Self::Layer => "layer",
            Self::Image => "image",
            Self::Run => "run",
            Self::Stray => "stray",
        }
    }
}

impl Finding {
    pub(super) fn new(kind: FindingKind, name: &str, state: FindingState, problem: String) -> Self {
        Self { state, kind, name: name.to_owned(), problem, images: Vec::new(), hint: None }
    }

    pub(super) fn hint(mut self, hint: &str) -> Self {
        self.hint = Some(hint.to_owned());
        self
    }

    pub(super) fn image(mut self, image: &str) -> Self {
        self.images.push(image.to_owned());
        self
    }
}

/// Findings, one for each thing.
#[derive(Default)]
pub(super) struct Findings(Vec<Finding>);

impl Findings {
    /// Takes a finding in; one of the same thing takes the place of what was known of it.
    pub(super) fn add(&mut self, finding: Finding) {
        // Entries of the index have one name between them.
        let same = |known: &Finding| {
            (known.kind, &known.name) == (finding.kind, &finding.name) && finding.kind != FindingKind::Index
        };
        let Some(known) = self.0.iter_mut().find(|known| same(known)) else { return self.0.push(finding) };
        let mut images = std::mem::take(&mut known.images);
        let others: Vec<String> = finding.images.into_iter().filter(|image| !images.contains(image)).collect();
        images.extend(others);
        *known = Finding { images, ..finding };
    }

    /// Notes that another image needs the same thing, if anything was found about it.
    pub(super) fn also_needed(&mut self, kind: FindingKind, name: &str, image: &str) {
        let found = self.0.iter_mut().find(|known| known.kind == kind && known.name == name);
        if let Some(found) = found.filter(|found| !found.images.iter().any(|known| known == image)) {
            found.images.push(image.to_owned());
        }
    }

    pub(super) fn into_list(self) -> Vec<Finding> {
        self.0
    }
}
