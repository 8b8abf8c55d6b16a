//! `ps --filter KEY=VALUE`: which runs are listed. Values of one key are alternatives, but for labels, which must all be
//! there; different keys must all fit, as with docker.

use std::str::FromStr;

use crate::image::Reference;
use crate::store::{HealthStatus, RunRecord, RunState};

/// What can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) enum Filter {
    /// A part of the name.
    Name(String),
    /// The beginning of the id.
    Id(String),
    /// How it stands.
    Status(Status),
    /// A label, or a label with its value.
    Label(String, Option<String>),
    /// The image: its name, or a digest.
    Ancestor(String),
    /// The exit code.
    Exited(i32),
    /// What its health check says; `None` for a run without one.
    Health(Option<HealthStatus>),
}

/// Our states, and docker's words for several of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Status {
    One(RunState),
    /// Not running yet.
    Created,
    /// Ended, however it was.
    Exited,
}

const STATES: [RunState; 12] = [
    RunState::Submitted,
    RunState::Pulling,
    RunState::Creating,
    RunState::Running,
    RunState::Paused,
    RunState::Restarting,
    RunState::Saving,
    RunState::Done,
    RunState::Failed,
    RunState::Stopped,
    RunState::Interrupted,
    RunState::Aborted,
];

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const KEYS: &str = "`name`, `id`, `status`, `label`, `ancestor`, `exited`, `health`";
        let (key, value) = text.split_once('=').ok_or_else(|| format!("expected `KEY=VALUE`, KEY one of {KEYS}"))?;
        let owned = || value.to_owned();
        match key {
            "name" => Ok(Self::Name(owned())),
            "id" => Ok(Self::Id(owned())),
            "status" => value.parse().map(Self::Status),
            "label" => Ok(match value.split_once('=') {
                Some((label, value)) => Self::Label(label.to_owned(), Some(value.to_owned())),
                None => Self::Label(owned(), None),
            }),
            "ancestor" => Ok(Self::Ancestor(owned())),
            "exited" => match value.parse() {
                Ok(code @ 0..=255) => Ok(Self::Exited(code)),
                _ => Err(format!("`{value}` is no exit code, expected 0 to 255")),
            },
            "health" => health(value).map(Self::Health),
            _ => Err(format!("there is no filter `{key}`, expected one of {KEYS}")),
        }
    }
}

fn health(text: &str) -> Result<Option<HealthStatus>, String> {
    match text {
        "none" => Ok(None),
        "starting" => Ok(Some(HealthStatus::Starting)),
        "healthy" => Ok(Some(HealthStatus::Healthy)),
        "unhealthy" => Ok(Some(HealthStatus::Unhealthy)),
        _ => Err(format!("there is no health `{text}`, expected `starting`, `healthy`, `unhealthy` or `none`")),
    }
}

impl FromStr for Status {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let state = STATES.into_iter().find(|state| state.to_string() == text);
        match text {
            "created" => Ok(Self::Created),
            "exited" => Ok(Self::Exited),
            _ => state.map(Self::One).ok_or_else(|| {
                let known: Vec<String> = STATES.iter().map(|state| format!("`{state}`")).collect();
                format!("there is no status `{text}`, expected `created`, `exited`, {}", known.join(", "))
            }),
        }
    }
}

impl Filter {
    fn fits(&self, record: &RunRecord) -> bool {
        match self {
            Self::Name(part) => record.name.as_str().contains(part.as_str()),
            Self::Id(start) => record.id.starts_with(start.as_str()),
            Self::Status(Status::One(state)) => record.state == *state,
            Self::Status(Status::Created) => {
                matches!(record.state, RunState::Submitted | RunState::Pulling | RunState::Creating)
            }
            Self::Status(Status::Exited) => record.state.is_final(),
            Self::Label(label, None) => record.labels.contains_key(label),
            Self::Label(label, Some(value)) => record.labels.get(label) == Some(value),
            Self::Ancestor(image) => {
                let digest = record.manifest.as_ref().map(ToString::to_string).unwrap_or_default();
                image.parse::<Reference>().is_ok_and(|wanted| wanted == record.image)
                    || digest == *image
                    || (!image.is_empty() && digest.strip_prefix("sha256:").is_some_and(|hex| hex.starts_with(image)))
            }
            Self::Health(wanted) => {
                record.health.as_ref().filter(|_| record.has_health()).map(|health| health.status) == *wanted
            }
            Self::Exited(code) => {
                record.state.is_final() && record.exit.as_ref().is_some_and(|exit| exit.code == *code)
            }
        }
    }

    /// Whether it asks about ended runs too, so that `--all` goes without saying.
    fn is_about_all(&self) -> bool {
        matches!(self, Self::Status(_) | Self::Exited(_))
    }
}

/// Whether ended runs are looked at too.
pub(in crate::cli) fn are_about_all(filters: &[Filter]) -> bool {
    filters.iter().any(Filter::is_about_all)
}

/// Whether a run is wanted.
pub(in crate::cli) fn fit(filters: &[Filter], record: &RunRecord) -> bool {
    filters.iter().all(|filter| {
        let mut same = filters.iter().filter(|other| std::mem::discriminant(*other) == std::mem::discriminant(filter));
        if matches!(filter, Filter::Label(..)) { filter.fits(record) } else { same.any(|other| other.fits(record)) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::record;

    fn fits(filters: &[&str]) -> bool {
        let mut record = record("calm-fox-1");
        record.labels.insert("team".to_owned(), "vision".to_owned());
        let filters: Vec<Filter> = filters.iter().map(|text| text.parse().unwrap()).collect();
        fit(&filters, &record)
    }

    #[test]
    fn one_key_is_or_and_several_are_and() {
        for good in [
            &[][..],
            &["name=fox"],
            &["name=owl", "name=fox"],
            &["id=calm-fox-1-"],
            &["status=done"],
            &["status=exited", "exited=0"],
            &["exited=7", "exited=0"],
            &["label=team"],
            &["label=team=vision", "name=calm"],
            &["ancestor=app"],
            &["ancestor=docker.io/library/app:latest"],
            &["health=none"],
        ] {
            assert!(fits(good), "{good:?}");
        }
        for bad in [
            &["name=owl"][..],
            &["name=fox", "status=running"],
            &["status=created"],
            &["exited=1"],
            &["label=team=sound"],
            &["label=team", "label=other"],
            &["ancestor=app:2"],
            &["ancestor="],
            &["health=healthy"],
            &["id=fox"],
        ] {
            assert!(!fits(bad), "{bad:?}");
        }
    }

    #[test]
    fn what_cannot_be_asked_is_told() {
        for (text, told) in [
            ("name", "KEY=VALUE"),
            ("nmae=x", "`nmae`"),
            ("status=gone", "`running`"),
            ("exited=-1", "0 to 255"),
            ("exited=x", "`x`"),
            ("health=ill", "`ill`"),
        ] {
            let error = text.parse::<Filter>().unwrap_err();
            assert!(error.contains(told), "{error}");
        }
        assert!(are_about_all(&["exited=0".parse().unwrap()]) && !are_about_all(&["name=x".parse().unwrap()]));
    }
}
