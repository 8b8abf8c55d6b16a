//! Pulls from a registry that misbehaves: what comes through, what is refused, what is said, and what is left behind.

mod arrival;
mod credentials;
mod documents;
mod given;
mod hosts;
mod layers;
mod lines;
mod memory;
mod secrets;

use std::error::Error;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dockless::image::{Descriptor, Digest, MediaType, Observer, Platform, PullEvent, Reference};
use dockless::registry::{Registry, RegistryError, Resolved, RetryPolicy, Settings, Timeouts, store_documents};
use dockless::store::Store;
use serde_json::json;

use crate::support::image::{BuiltImage, ImageBuilder, Packing};
use crate::support::registry::{TestRegistry, base64};

/// A store of its own, and a client for it.
struct Puller {
    dir: tempfile::TempDir,
    store: Store,
    registry: Registry,
    heard: Heard,
}

/// Writes down events.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl Observer for Heard {
    fn pull(&self, event: &PullEvent<'_>) {
        self.0.lock().unwrap().push(format!("{event:?}"));
    }
}

impl Heard {
    fn of(&self, kind: &str) -> Vec<String> {
        self.0.lock().unwrap().iter().filter(|event| event.starts_with(kind)).cloned().collect()
    }
}

fn quick() -> Settings {
    Settings {
        timeouts: Timeouts { connect: Duration::from_secs(5), idle: Duration::from_secs(10) },
        retry: RetryPolicy {
            base_delay: Duration::from_millis(2),
            max_server_delay: Duration::from_secs(2),
            ..RetryPolicy::default()
        },
        ..Settings::default()
    }
}

impl Puller {
    fn new() -> Self {
        Self::with(|_, _| {})
    }

    /// `change` gets the settings and a directory for files.
    fn with(change: impl FnOnce(&mut Settings, &Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = quick();
        change(&mut settings, dir.path());
        let store = Store::open(&dir.path().join("store")).unwrap();
        Self { dir, store, registry: Registry::new(settings).unwrap(), heard: Heard::default() }
    }

    /// With an auth file that has an entry for `host`.
    fn with_login(host: &str, user: &str, password: &str) -> Self {
        let entry = json!({ "auths": { host: { "auth": base64(format!("{user}:{password}").as_bytes()) } } });
        Self::with(|settings, dir| settings.auth_files = vec![file(&dir.join("auth.json"), &entry.to_string())])
    }

    async fn resolve(&self, reference: &Reference, platform: &str) -> Result<Resolved, RegistryError> {
        self.registry.resolve(reference, &platform.parse::<Platform>().unwrap(), &self.heard).await
    }

    async fn pull(&self, reference: &Reference) -> Result<Resolved, RegistryError> {
        let resolved = self.resolve(reference, "linux/amd64").await?;
        store_documents(&self.store, &resolved).await?;
        for (layer, _) in resolved.image.layers() {
            self.registry.fetch_blob(reference, layer, &self.store, &self.heard).await?;
        }
        Ok(resolved)
    }

    /// Pulls what must not come; returns what is said, with the places that vary named.
    async fn refused(&self, reference: &Reference) -> (RegistryError, String) {
        let error = self.pull(reference).await.expect_err("it was pulled");
        let said = self.said(&error, reference);
        (error, said)
    }

    fn said(&self, error: &RegistryError, reference: &Reference) -> String {
        let mut said = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            write!(said, "\n- {inner}").unwrap();
            cause = inner.source();
        }
        said.replace(reference.registry(), "HOST").replace(&self.dir.path().display().to_string(), "DIR")
    }

    /// Blobs, and what should not be there: temporary files and locks.
    fn left(&self) -> (usize, usize) {
        let count = |name: &str| std::fs::read_dir(self.store.root().join(name)).unwrap().count();
        // The lock of the index stays.
        (count("blobs/sha256"), count("tmp") + count("locks") - 1)
    }

    fn blob(&self, digest: &Digest) -> Vec<u8> {
        std::fs::read(self.store.blob_path(digest)).unwrap()
    }
}

fn file(path: &Path, text: &str) -> PathBuf {
    std::fs::write(path, text).unwrap();
    path.to_owned()
}

/// An image with one layer of about `size` bytes that do not compress.
fn image_of(size: usize) -> BuiltImage {
    let mut state = 7_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    })
    .take(size)
    .collect();
    ImageBuilder::new().packing(Packing::Plain).file("/noise", noise).build()
}

fn small() -> BuiltImage {
    ImageBuilder::new().file("/hi", "x").cmd(["cat", "/hi"]).env("A", "b").build()
}

fn pattern_layer(digest: &Digest, size: u64) -> Descriptor {
    Descriptor {
        media_type: MediaType("application/vnd.oci.image.layer.v1.tar".to_owned()),
        digest: digest.clone(),
        size,
        urls: Vec::new(),
        platform: None,
        annotations: std::collections::BTreeMap::new(),
    }
}

/// What the layer's requests asked for, after the `Range` header.
fn ranges(registry: &TestRegistry, layer: &Digest) -> Vec<String> {
    let requests = registry.requests_for(&layer.to_string());
    requests.iter().map(|seen| seen.header("range").unwrap_or("all").to_owned()).collect()
}

/// Runs an ignored test of this binary in a process of its own, for what a process has only one of.
#[expect(clippy::disallowed_methods, reason = "the test binary starts itself anew")]
fn in_own_process(test: &str, variables: &[(&str, &str)]) {
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    assert!(child.status.success() && out.contains("1 passed"), "{out}\n{err}");
}

/// What [`in_own_process`] handed over.
#[expect(clippy::disallowed_methods, reason = "a test in its own process is told what to do by its environment")]
fn variable(name: &str) -> String {
    std::env::var(name).unwrap()
}
