//! Registries: from a reference to verified documents and blobs in the store.
//!
//! The blobs come through `oci_distribution`; around it stands what it leaves to its user: credentials and whom they may
//! be shown to, tokens that run out, retries, resumed downloads, bounds on whatever a server sends, and errors that say
//! which registry, which credential and what answer. Everything here is given by the caller ([`Settings`]); nothing is
//! read from the environment, except by the credential helpers that an auth file names.
//!
//! ```text
//! Registry ─ resolve ─► Resolver ─┐
//!          └ fetch_blob ► Download ┤► Session (one repository: proof, renewal) ─► Transport (http, redirects, TLS)
//!                                          └► token, auth_file, challenge            └► retry, failure, answer, hosts
//! ```

mod answer;
mod auth_file;
mod blob;
mod challenge;
mod credential;
mod error;
mod failure;
mod hosts;
mod resolve;
mod retry;
mod session;
mod token;
mod transport;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

pub use answer::Answer;
pub use credential::{Login, Secret};
pub use error::RegistryError;
pub use failure::Fault;
pub use resolve::{RawDocument, Resolved};
pub use retry::RetryPolicy;

use crate::image::{Descriptor, Observer, Platform, Reference};
use crate::store::Store;
use resolve::Resolver;
use session::Session;
use transport::Transport;

/// What the caller decides.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// A login for the registry of every image that is asked of this client; the auth files are not looked at then.
    pub login: Option<Login>,
    /// Auth files of docker and podman in the order to try; those that do not exist are passed over.
    pub auth_files: Vec<PathBuf>,
    /// Hosts (`host` for any port, or `host:port`) that may speak plain http or have a certificate that cannot be verified.
    /// Loopback addresses always may, as with docker.
    pub insecure_hosts: Vec<String>,
    /// A PEM file of root certificates to trust beside those of the machine.
    pub ca_file: Option<PathBuf>,
    /// Proxies; loopback addresses are never reached through them.
    pub proxies: Proxies,
    /// How long to wait for a server.
    pub timeouts: Timeouts,
    /// How often to ask again.
    pub retry: RetryPolicy,
    /// Any number that differs between processes; it spreads their retries.
    pub jitter_seed: u64,
}

/// Proxies, as the environment variables of that name give them.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    /// URL of the proxy for http (`http_proxy`); it may hold a password.
    pub http: Option<Secret>,
    /// URL of the proxy for https (`HTTPS_PROXY`).
    pub https: Option<Secret>,
    /// Hosts, domains and networks that are reached directly, separated by commas (`NO_PROXY`).
    pub bypass: String,
}

/// How long to wait for a server.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Until a connection stands.
    pub connect: Duration,
    /// Until the next byte.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), idle: Duration::from_secs(60) }
    }
}

/// Access to registries; cheap to clone. Keeps connections, tokens and what it learnt about hosts.
#[derive(Clone)]
pub struct Registry {
    transport: Arc<Transport>,
    /// By `host/repository`.
    sessions: Arc<Mutex<HashMap<String, Arc<Session>>>>,
}

impl Registry {
    /// Makes ready; nothing is sent yet.
    ///
    /// # Errors
    /// When the certificate file cannot be used.
    pub fn new(settings: Settings) -> Result<Self, RegistryError> {
        let transport = Arc::new(Transport::new(Arc::new(settings))?);
        Ok(Self { transport, sessions: Arc::default() })
    }

    /// Finds the image that `reference` names for `platform`: fetches and verifies index, manifest and configuration.
    pub async fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
        observer: &dyn Observer,
    ) -> Result<Resolved, RegistryError> {
        let session = self.session(reference).await?;
        Resolver { session: &session, reference, platform, observer }.resolve().await
    }

    /// Fetches the manifest or index that `reference` names by its digest, verified, and nothing of what it names.
    pub async fn fetch_manifest(
        &self,
        reference: &Reference,
        observer: &dyn Observer,
    ) -> Result<RawDocument, RegistryError> {
        let session = self.session(reference).await?;
        Resolver { session: &session, reference, platform: &Platform::host(), observer }.fetch_top().await
    }

    /// Brings a blob of the image into the store, verified. Returns at once when it is there; waits when another process
    /// is fetching it. The caller holds [`Store::shared`]. Memory stays small whatever the size; nothing stays in the store of a download that failed or
    /// was called off.
    pub async fn fetch_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        store: &Store,
        observer: &dyn Observer,
    ) -> Result<(), RegistryError> {
        blob::fetch(self, reference, descriptor, store, observer).await
    }

    async fn session(&self, reference: &Reference) -> Result<Arc<Session>, RegistryError> {
        let host = reference.registry_host();
        let endpoint = self.transport.endpoint(host).await;
        let endpoint = endpoint.map_err(|failure| failure.into_error(host, &reference.to_string()))?;
        let key = format!("{host}/{}", reference.repository());
        let mut sessions = self.sessions.lock().await;
        let session = sessions
            .entry(key)
            .or_insert_with(|| Arc::new(Session::new(Arc::clone(&self.transport), endpoint, reference)));
        Ok(Arc::clone(session))
    }
}

/// Puts the documents of an image into the store; the layers are fetched one by one ([`Registry::fetch_blob`]).
pub async fn store_documents(store: &Store, resolved: &Resolved) -> Result<(), RegistryError> {
    let store = store.clone();
    let documents: Vec<RawDocument> = resolved.documents.iter().chain([&resolved.config]).cloned().collect();
    blob::blocking(move || {
        documents.iter().try_for_each(|document| store.put_document(&document.descriptor.digest, &document.bytes))
    })
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Silent;

    /// The engine runs several downloads as tasks.
    #[test]
    fn futures_may_move_between_threads() {
        fn movable(_: impl Send) {}
        let dir = tempfile::tempdir().unwrap();
        let (registry, store) = (Registry::new(Settings::default()).unwrap(), Store::open(dir.path()).unwrap());
        let (reference, platform): (Reference, Platform) = ("app".parse().unwrap(), Platform::host());
        let descriptor: Descriptor = serde_json::from_value(serde_json::json!({
            "mediaType": "x/y", "size": 0, "digest": crate::image::Digest::sha256(b"").to_string()
        }))
        .unwrap();
        movable(registry.resolve(&reference, &platform, &Silent));
        movable(registry.fetch_blob(&reference, &descriptor, &store, &Silent));
    }

    #[test]
    fn settings_show_no_secret() {
        let secret = || Some(Secret::new("s3cret"));
        let login = Login { user: "ann".to_owned(), password: Secret::new("s3cret") };
        let proxies = Proxies { http: secret(), https: secret(), bypass: String::new() };
        let settings = Settings { login: Some(login), proxies, ..Settings::default() };
        assert!(!format!("{settings:?}").contains("s3cret"));
    }
}
