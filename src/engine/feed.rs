//! The pull of a run's image, told to programs beside whoever shows it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Clock;
use crate::image::{Digest, Observer, PullEvent};
use crate::store::{Feed, Happening};

/// Hears of a pull and passes it on.
pub(super) struct PullFeed {
    state: Mutex<State>,
    clock: Clock,
    next: Arc<dyn Observer>,
}

struct State {
    feed: Feed,
    /// What was resolved: the image and its manifest.
    pulled: Option<(String, Digest)>,
    sizes: BTreeMap<Digest, u64>,
}

impl PullFeed {
    pub(super) fn new(feed: Feed, clock: Clock, next: Arc<dyn Observer>) -> Arc<Self> {
        let state = State { feed, pulled: None, sizes: BTreeMap::new() };
        Arc::new(Self { state: Mutex::new(state), clock, next })
    }

    /// The image is there; what happens from now on is told by somebody else.
    pub(super) fn hand_over<T>(&self, work: impl FnOnce(&Feed) -> T) -> T {
        let mut state = self.lock();
        if let Some((image, manifest)) = state.pulled.take() {
            state.feed.tell(self.now(), Happening::PullDone { image, manifest });
        }
        work(&state.feed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> String {
        format!("{:.9}", (self.clock)())
    }

    fn layer(&self, digest: &Digest, existed: bool) {
        let mut state = self.lock();
        let size_bytes = state.sizes.get(digest).copied().unwrap_or_default();
        state.feed.tell(self.now(), Happening::PullLayer { digest: digest.clone(), size_bytes, existed });
    }
}

impl Observer for PullFeed {
    fn pull(&self, event: &PullEvent<'_>) {
        match event {
            PullEvent::Resolved { reference, manifest, layers } => {
                let mut state = self.lock();
                state.pulled = Some((reference.to_string(), (*manifest).clone()));
                state.sizes = layers.iter().cloned().collect();
            }
            PullEvent::LayerExists { digest } => self.layer(digest, true),
            PullEvent::Unpacked { digest } => self.layer(digest, false),
            PullEvent::Waiting { .. }
            | PullEvent::Downloading { .. }
            | PullEvent::Downloaded { .. }
            | PullEvent::Retrying { .. }
            | PullEvent::Unpacking { .. } => {}
        }
        self.next.pull(event);
    }

    fn waiting(&self, text: &str) {
        self.next.waiting(text);
    }
}
