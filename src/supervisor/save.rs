//! The last thing a run does: its artifacts are saved, the tag that was asked for is set.
//!
//! To a bucket they go through an uploader, a process of its own, since this one has neither threads nor a runtime. With
//! artifacts in real time it runs as long as the container does.

use jiff::Timestamp;

use super::life::Life;
use super::protocol::Event;
use crate::artifact::{
    ArtifactError, ArtifactStore, Finish, Outcome, SaveRequest, Saved, UploadEvent, UploadRequest, Uploader,
};
use crate::store::{Exit, Happening, RunState, Store, StoreError, TagName};
use crate::words::describe;

impl Life {
    /// Starts uploading what the run writes in real time, if there is such a thing.
    pub(super) fn start_uploader(&mut self) {
        let Some(upload) = &self.request.upload else { return };
        if !upload.prepared.iter().any(|prepared| prepared.declared.mount) {
            return;
        }
        match Uploader::start(upload) {
            Ok(uploader) => self.uploader = Some(uploader),
            Err(error) => self.warn(format!("nothing is uploaded before the run's end: {}", describe(&error))),
        }
    }

    /// Saves the artifacts and records that; `None` when there are none.
    pub(super) fn save_artifacts(&mut self, exit: &Exit) -> Option<Result<(), StoreError>> {
        if self.request.artifacts.is_empty() {
            return None;
        }
        let saved = match RunState::after(exit) {
            RunState::Done => self.save(Outcome::Done),
            RunState::Stopped | RunState::Interrupted => self.save(Outcome::Interrupted),
            RunState::Aborted => return Some(self.give_up_artifacts(exit)),
            _ => self.save(Outcome::Failed),
        };
        match saved {
            Ok(saved) => {
                for warning in saved.warnings {
                    self.warn(warning.to_string());
                }
                self.happens(Happening::ArtifactsSaved { files: saved.files, size_bytes: saved.bytes });
                self.tell(&Event::Saved { files: saved.files, bytes: saved.bytes.0 });
            }
            Err(error) => {
                // What could not be saved stays in the run's directory, so that nothing is lost.
                self.request.record.remove = false;
                let (why, name) = (describe(&error), self.request.record.name.clone());
                let hint = format!("\nhint: `dockless artifacts save {name}` tries again");
                let hint = if why.contains("artifacts save") { String::new() } else { hint };
                self.warn(format!("artifacts were not saved: {why}{hint}"));
            }
        }
        self.request.record.state = RunState::after(exit);
        Some(self.run.write_record(&self.request.record))
    }

    fn save(&mut self, outcome: Outcome) -> Result<Saved, ArtifactError> {
        let (owner, saved_at) = (self.request.artifact_owner, Timestamp::now());
        if let Some(upload) = self.request.upload.clone() {
            return self.upload(&upload, &Finish { outcome, owner, saved_at });
        }
        ArtifactStore::new(self.request.artifact_store.clone()).save(&SaveRequest {
            run: &self.request.record.name,
            run_dir: self.run.path(),
            prepared: &self.request.artifacts,
            outcome,
            owner,
            saved_at,
        })
    }

    fn upload(&mut self, upload: &UploadRequest, finish: &Finish) -> Result<Saved, ArtifactError> {
        // One that died while the run went on has left its journal to the next.
        let running = self.uploader.take().filter(Uploader::is_there);
        let uploader = running.map_or_else(|| Uploader::start(upload), Ok)?;
        let mut warnings = Vec::new();
        let saved = uploader.finish(finish, |event| {
            if let UploadEvent::Warning { text } = event {
                warnings.push(text);
            }
        });
        for text in warnings {
            self.warn(text);
        }
        saved
    }

    /// Notes that the caches were used until now, for whoever removes old ones.
    pub(super) fn touch_caches(&mut self) {
        let caches = Store::at(self.request.store.clone()).caches();
        for key in self.request.record.caches.clone() {
            let touched = caches.touch(&key, &Timestamp::now().to_string());
            self.warn_if(touched.map_err(|error| describe(&error)));
        }
    }

    /// Gives a run that has ended well the tag that was asked for.
    pub(super) fn set_tag(&mut self) {
        let record = &self.request.record;
        let Some(tag) = &record.tag else { return };
        if record.state != RunState::Done || self.run.has_unsaved_artifacts() {
            let hint = format!("hint: `dockless tags add {tag} {}` sets it", record.name);
            return self.warn(format!("the tag `{tag}` was not set, because the run did not end well\n{hint}"));
        }
        let tags = Store::at(self.request.store.clone()).tags();
        let set = tag.parse().map_err(|error| describe(&error)).and_then(|tag: TagName| {
            tags.set(&tag, &record.name, &Timestamp::now().to_string()).map_err(|error| describe(&error))
        });
        match set {
            Ok(Some(before)) if before != record.name => {
                self.warn(format!("the tag `{tag}` named run `{before}` before"));
            }
            Ok(_) => {}
            Err(why) => self.warn(format!("the tag `{tag}` was not set: {why}")),
        }
    }

    /// Somebody wanted nothing of it to stay.
    fn give_up_artifacts(&mut self, exit: &Exit) -> Result<(), StoreError> {
        let name = self.request.record.name.clone();
        let store = ArtifactStore::new(self.request.artifact_store.clone());
        let given_up = store.give_up(&name, self.run.path());
        self.warn_if(given_up.map_err(|error| describe(&error)));
        if self.uploader.take().is_some() {
            self.warn(format!(
                "what was uploaded so far stays in the bucket\nhint: `dockless artifacts rm {name}` removes it"
            ));
        }
        self.request.record.state = RunState::after(exit);
        self.run.write_record(&self.request.record)
    }
}
