//! Access to one repository: asks, proves who asks when it is told to, and asks again.
//!
//! A proof is shown only after a challenge. It is renewed once per request when the registry turns it down (tokens run
//! out in the middle of long pulls; ECR says 403 for that, others 401); after that the refusal stands.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use oci_distribution::secrets::RegistryAuth;
use oci_distribution::token_cache::RegistryTokenType;
use oci_distribution::{Client, RegistryOperation};
use reqwest::Url;
use reqwest::header::HeaderMap;
use tokio::sync::Mutex;

use super::answer::{Answer, shown};
use super::challenge::Challenge;
use super::credential::{Credential, Origin, Proof};
use super::error::RegistryError;
use super::failure::{Failure, Refusal, is_success};
use super::hosts::check_realm;
use super::retry::with_retries;
use super::transport::{Authorization, Endpoint, Get, Transport, read_bounded};
use super::{auth_file, token};
use crate::image::{Digest, Observer, Reference};

/// How long a document may take in all, however steadily it trickles.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(120);

/// A GET request below `/v2/<repository>/`.
pub(super) struct Want<'a> {
    /// `manifests/latest`, `blobs/sha256:…`
    pub(super) path: String,
    /// For messages.
    pub(super) what: &'a str,
    pub(super) accept: Option<&'a str>,
    pub(super) body: Body,
}

/// How much of the answer is wanted.
#[derive(Clone, Copy)]
pub(super) enum Body {
    /// All of it, up to so many bytes.
    UpTo(u64),
    /// Only whether there is one.
    Ignored,
}

/// What came of it.
pub(super) enum Fetched {
    Found { headers: HeaderMap, bytes: Vec<u8> },
    Missing(Answer),
}

/// One repository of one registry.
pub(super) struct Session {
    transport: Arc<Transport>,
    endpoint: Arc<Endpoint>,
    /// As it stands in references, for auth files and messages.
    registry: String,
    repository: String,
    grant: Mutex<Grant>,
}

/// What is shown to the registry at the moment.
struct Grant {
    /// Counts renewals, so that requests that failed together renew once.
    generation: u64,
    authorization: Authorization,
    challenge: Option<Challenge>,
    access: String,
    /// Made when it is first needed; it keeps its authorization for its whole life.
    client: Option<Client>,
}

impl Session {
    pub(super) fn new(transport: Arc<Transport>, endpoint: Arc<Endpoint>, reference: &Reference) -> Self {
        let grant = Grant {
            generation: 0,
            authorization: Authorization::None,
            challenge: None,
            access: "anonymously".to_owned(),
            client: None,
        };
        Self {
            transport,
            endpoint,
            registry: reference.registry().to_owned(),
            repository: reference.repository().to_owned(),
            grant: Mutex::new(grant),
        }
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(super) fn transport(&self) -> &Transport {
        &self.transport
    }

    /// `registry/repository`, for messages.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// Sends a request, with retries and a renewed proof as needed.
    pub(super) async fn fetch(&self, want: &Want<'_>, observer: &dyn Observer) -> Result<Fetched, RegistryError> {
        let mut renewed = false;
        loop {
            let (generation, authorization) = self.authorization().await;
            let backoff = self.transport.backoff();
            let answered = &self.endpoint.answered;
            let attempt = || self.attempt(want, &authorization);
            let failure = match with_retries(backoff, want.what, answered, observer, attempt).await {
                Ok(found) => return Ok(found),
                Err(failure) => failure,
            };
            if let Some(refusal) = failure.denial() {
                if !renewed && self.renew(generation, refusal, observer).await? {
                    renewed = true;
                    continue;
                }
                return Err(self.denied(want.what, refusal).await);
            }
            return match failure {
                Failure::Answer(refusal) if refusal.answer.status == 404 => Ok(Fetched::Missing(refusal.answer)),
                other => Err(other.into_error(&self.endpoint.host, want.what)),
            };
        }
    }

    async fn attempt(&self, want: &Want<'_>, authorization: &Authorization) -> Result<Fetched, Failure> {
        let range = matches!(want.body, Body::Ignored).then_some("bytes=0-0");
        let get = Get { url: self.url(&want.path)?, accept: want.accept, range, may_leave_origin: true };
        let exchange = async {
            let response = self.transport.get(&get, authorization).await?;
            if !is_success(response.status()) {
                return Err(Failure::from_response(response).await);
            }
            let headers = response.headers().clone();
            let bytes = match want.body {
                Body::UpTo(limit) => read_bounded(response, limit).await?,
                Body::Ignored => Vec::new(),
            };
            Ok(Fetched::Found { headers, bytes })
        };
        tokio::time::timeout(DOCUMENT_TIMEOUT, exchange).await.map_err(|_| Failure::Deadline(DOCUMENT_TIMEOUT))?
    }

    fn url(&self, path: &str) -> Result<Url, Failure> {
        let Endpoint { host, .. } = &*self.endpoint;
        let text = format!("{}://{host}/v2/{}/{path}", self.endpoint.scheme(), self.repository);
        text.parse().map_err(|_| Failure::Redirect(format!("`{text}` is not a url")))
    }

    async fn authorization(&self) -> (u64, Authorization) {
        let grant = self.grant.lock().await;
        (grant.generation, grant.authorization.clone())
    }

    /// Changes whenever the proof does.
    pub(super) async fn generation(&self) -> u64 {
        self.grant.lock().await.generation
    }

    /// Looks for a better proof than the one of `generation`; false when there is none.
    async fn renew(&self, used: u64, refusal: &Refusal, observer: &dyn Observer) -> Result<bool, RegistryError> {
        let mut grant = self.grant.lock().await;
        if grant.generation != used {
            return Ok(true);
        }
        let Some(challenge) = refusal.challenge.clone().or_else(|| grant.challenge.clone()) else {
            if refusal.challenge_text.is_empty() {
                return Ok(false);
            }
            let challenge = shown(&refusal.challenge_text);
            return Err(RegistryError::Challenge { host: self.endpoint.host.clone(), challenge });
        };
        let credential = self.credential().await?;
        grant.access = self.access(credential.as_ref());
        let authorization = match (&challenge, credential.as_ref().map(|credential| &credential.proof)) {
            (_, Some(Proof::Bearer(token))) => Authorization::Bearer(token.clone()),
            (Challenge::Basic, Some(Proof::Password(login))) => Authorization::Basic(login.clone()),
            (Challenge::Basic, _) => Authorization::None,
            (Challenge::Bearer { realm, service }, _) => {
                let service = service.as_deref();
                Authorization::Bearer(self.token(realm, service, credential.as_ref(), &grant.access, observer).await?)
            }
        };
        if authorization == grant.authorization {
            return Ok(false);
        }
        grant.generation += 1;
        grant.authorization = authorization;
        grant.challenge = Some(challenge);
        grant.client = None;
        Ok(true)
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        credential: Option<&Credential>,
        access: &str,
        observer: &dyn Observer,
    ) -> Result<super::Secret, RegistryError> {
        let realm = check_realm(realm, self.endpoint.is_http).map_err(|reason| RegistryError::Realm {
            host: self.endpoint.host.clone(),
            realm: shown(realm),
            reason,
        })?;
        let wanted = token::Wanted {
            realm,
            service,
            repository: &self.repository,
            image: &self.name(),
            credential,
            access: access.to_owned(),
        };
        token::fetch(&self.transport, &wanted, self.transport.backoff(), observer).await
    }

    /// Looked up anew for each renewal: a helper may have a fresh one by then.
    async fn credential(&self) -> Result<Option<Credential>, RegistryError> {
        if let Some(login) = &self.transport.settings().login {
            return Ok(Some(Credential { proof: Proof::Password(login.clone()), origin: Origin::Caller }));
        }
        auth_file::find(&self.transport.settings().auth_files, &self.registry, &self.repository).await
    }

    fn access(&self, credential: Option<&Credential>) -> String {
        let quoted = |path: &PathBuf| format!("`{}`", path.display());
        match credential {
            Some(credential) => format!("with {credential}"),
            None if self.transport.settings().auth_files.is_empty() => "anonymously: no auth file was given".to_owned(),
            None => {
                let files: Vec<String> = self.transport.settings().auth_files.iter().map(quoted).collect();
                format!("anonymously: no credential for `{}` in {}", self.registry, files.join(", "))
            }
        }
    }

    async fn denied(&self, what: &str, refusal: &Refusal) -> RegistryError {
        RegistryError::Denied {
            host: self.endpoint.host.clone(),
            image: what.to_owned(),
            access: self.grant.lock().await.access.clone(),
            answer: Box::new(refusal.answer.clone()),
        }
    }

    /// The client that downloads blobs, with the present proof, so that it never authenticates by itself: its own way
    /// would show the secret to any realm and try again without it.
    pub(super) async fn blob_client(&self) -> Result<Client, RegistryError> {
        let mut grant = self.grant.lock().await;
        if let Some(client) = &grant.client {
            return Ok(client.clone());
        }
        let config = self.transport.blob_client_config(&self.endpoint);
        let client = Client::try_from(config).map_err(|source| RegistryError::BlobClient {
            host: self.endpoint.host.clone(),
            source: Box::new(source),
        })?;
        match &grant.authorization {
            Authorization::None => {}
            Authorization::Bearer(token) => {
                let auth = RegistryAuth::Bearer(token.expose().to_owned());
                client.store_auth_if_needed(&self.endpoint.host, &auth).await;
            }
            Authorization::Basic(login) => {
                let basic = RegistryTokenType::Basic(login.user.clone(), login.password.expose().to_owned());
                client.tokens.insert(&self.repository_reference(), RegistryOperation::Pull, basic).await;
                client.store_auth_if_needed(&self.endpoint.host, &RegistryAuth::Anonymous).await;
            }
        }
        grant.client = Some(client.clone());
        Ok(client)
    }

    /// The repository as the blob client names it. The tag is not used for blobs.
    pub(super) fn repository_reference(&self) -> oci_distribution::Reference {
        let (host, repository) = (self.endpoint.host.clone(), self.repository.clone());
        oci_distribution::Reference::with_tag(host, repository, "latest".to_owned())
    }
}

/// The path of a blob.
pub(super) fn blob_path(digest: &Digest) -> String {
    format!("blobs/{digest}")
}
