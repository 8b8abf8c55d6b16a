//! How requests travel: which scheme a registry speaks, whether its certificate is verified, proxies, redirects, bounds.
//!
//! Redirects are followed here and not by the http library, so that the rules stand in one place: authorization never
//! leaves the origin it was meant for, and nothing falls back from https to http.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use oci_distribution::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use reqwest::header::{ACCEPT, LOCATION, RANGE};
use reqwest::{NoProxy, Proxy, RequestBuilder, Response, Url};
use tokio::sync::Mutex;

use super::credential::{Login, Secret};
use super::error::RegistryError;
use super::failure::Failure;
use super::hosts::{host_of, is_loopback, is_marked, is_metadata_service};
use super::retry::Backoff;
use super::{Proxies, Settings};

/// What we call ourselves.
const USER_AGENT: &str = concat!("dockless/", env!("CARGO_PKG_VERSION"));
/// Hosts that a redirect may lead through.
const MAX_REDIRECTS: usize = 10;
/// How long a registry on a loopback or insecure host may take to show whether it speaks https.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a token stays in the blob client's memory; whether it is still good is for the registry to say.
const TOKEN_MEMORY_SECONDS: usize = 24 * 60 * 60;
/// Never reached through a proxy.
const NEVER_PROXIED: &str = "localhost,127.0.0.0/8,::1";

/// What goes into the `Authorization` header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Authorization {
    None,
    Basic(Login),
    Bearer(Secret),
}

impl Authorization {
    fn apply(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Self::None => request,
            Self::Basic(login) => request.basic_auth(&login.user, Some(login.password.expose())),
            Self::Bearer(token) => request.bearer_auth(token.expose()),
        }
    }
}

/// A registry that is talked to.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// `host[:port]`.
    pub(super) host: String,
    pub(super) is_http: bool,
    /// Whether certificates go unverified.
    pub(super) is_lenient: bool,
    /// Whether it has ever answered.
    pub(super) answered: AtomicBool,
}

impl Endpoint {
    pub(super) const fn scheme(&self) -> &'static str {
        if self.is_http { "http" } else { "https" }
    }
}

/// A GET request.
#[derive(Debug, Clone)]
pub(super) struct Get<'a> {
    pub(super) url: Url,
    pub(super) accept: Option<&'a str>,
    pub(super) range: Option<&'a str>,
    /// Whether another origin may answer; it never sees the authorization.
    pub(super) may_leave_origin: bool,
}

/// The clients and what is known about hosts.
pub(super) struct Transport {
    settings: Arc<Settings>,
    ca_pem: Option<Vec<u8>>,
    verifying: OnceLock<reqwest::Client>,
    lenient: OnceLock<reqwest::Client>,
    endpoints: Mutex<HashMap<String, Arc<Endpoint>>>,
    next_seed: AtomicU64,
}

impl Transport {
    pub(super) fn new(settings: Arc<Settings>) -> Result<Self, RegistryError> {
        // Fails when a provider is installed already, which serves us as well.
        drop(rustls::crypto::ring::default_provider().install_default());
        let ca_pem = settings.ca_file.as_deref().map(read_ca_file).transpose()?;
        Ok(Self {
            next_seed: AtomicU64::new(settings.jitter_seed),
            settings,
            ca_pem,
            verifying: OnceLock::new(),
            lenient: OnceLock::new(),
            endpoints: Mutex::new(HashMap::new()),
        })
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A count of attempts with its own share of randomness.
    pub(super) fn backoff(&self) -> Backoff {
        Backoff::new(self.settings.retry, self.next_seed.fetch_add(1, Ordering::Relaxed))
    }

    /// How long the blob client may take until it has read the head of an answer. It reads the whole body of a refusal
    /// before it returns, and without a bound; this is the only one there is.
    pub(super) fn answer_timeout(&self) -> Duration {
        2 * (self.settings.timeouts.connect + self.settings.timeouts.idle)
    }

    fn is_lenient(&self, host: &str) -> bool {
        is_loopback(host) || is_marked(&self.settings.insecure_hosts, host)
    }

    /// How to talk to a registry. A lenient one is asked once whether it speaks https.
    pub(super) async fn endpoint(&self, host: &str) -> Result<Arc<Endpoint>, Failure> {
        let mut endpoints = self.endpoints.lock().await;
        if let Some(known) = endpoints.get(host) {
            return Ok(Arc::clone(known));
        }
        let is_lenient = self.is_lenient(host);
        let is_http = is_lenient && !self.speaks_https(host).await?;
        let endpoint =
            Arc::new(Endpoint { host: host.to_owned(), is_http, is_lenient, answered: AtomicBool::new(is_lenient) });
        endpoints.insert(host.to_owned(), Arc::clone(&endpoint));
        Ok(endpoint)
    }

    /// Tries https, then http, as docker does; any HTTP answer counts.
    async fn speaks_https(&self, host: &str) -> Result<bool, Failure> {
        let client = self.client(true)?;
        let probe = |scheme: &str| client.get(format!("{scheme}://{host}/v2/")).timeout(PROBE_TIMEOUT).send();
        if probe("https").await.is_ok() {
            return Ok(true);
        }
        probe("http").await?;
        Ok(false)
    }

    /// The client, made when it is first needed: verifying ones read the machine's root certificates, which a machine that
    /// talks to a local registry only need not have.
    fn client(&self, lenient: bool) -> Result<&reqwest::Client, Failure> {
        let place = if lenient { &self.lenient } else { &self.verifying };
        if let Some(client) = place.get() {
            return Ok(client);
        }
        let built = self.build_client(lenient).map_err(Failure::Client)?;
        Ok(place.get_or_init(|| built))
    }

    fn build_client(&self, lenient: bool) -> reqwest::Result<reqwest::Client> {
        let mut builder = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(self.settings.timeouts.connect)
            .read_timeout(self.settings.timeouts.idle)
            .redirect(reqwest::redirect::Policy::none())
            .tls_danger_accept_invalid_certs(lenient)
            .no_proxy();
        if let Some(pem) = &self.ca_pem {
            builder = builder.tls_certs_merge(reqwest::Certificate::from_pem_bundle(pem)?);
        }
        let Proxies { http, https, bypass } = &self.settings.proxies;
        let bypass = NoProxy::from_string(&format!("{bypass},{NEVER_PROXIED}"));
        if let Some(proxy) = http {
            builder = builder.proxy(Proxy::http(proxy.expose())?.no_proxy(bypass.clone()));
        }
        if let Some(proxy) = https {
            builder = builder.proxy(Proxy::https(proxy.expose())?.no_proxy(bypass));
        }
        builder.build()
    }

    /// The same for the client that downloads blobs.
    pub(super) fn blob_client_config(&self, endpoint: &Endpoint) -> ClientConfig {
        let certificate = |pem: &Vec<u8>| Certificate { encoding: CertificateEncoding::Pem, data: pem.clone() };
        let Proxies { http, https, bypass } = &self.settings.proxies;
        let mut config = ClientConfig {
            protocol: if endpoint.is_http { ClientProtocol::Http } else { ClientProtocol::Https },
            accept_invalid_certificates: endpoint.is_lenient,
            extra_root_certificates: self.ca_pem.iter().map(certificate).collect(),
            default_token_expiration_secs: TOKEN_MEMORY_SECONDS,
            read_timeout: Some(self.settings.timeouts.idle),
            connect_timeout: Some(self.settings.timeouts.connect),
            user_agent: USER_AGENT,
            http_proxy: http.as_ref().map(|proxy| proxy.expose().to_owned()),
            https_proxy: https.as_ref().map(|proxy| proxy.expose().to_owned()),
            no_proxy: Some(format!("{bypass},{NEVER_PROXIED}")),
            ..ClientConfig::default()
        };
        if http.is_none() && https.is_none() {
            // Without any proxy it would look for one in the environment; one that is never used keeps it from that.
            config.http_proxy = Some("http://localhost".to_owned());
            // The star means all names; addresses go by networks.
            config.no_proxy = Some("*,0.0.0.0/0,::/0".to_owned());
        }
        config
    }

    /// Sends a GET request and follows redirects; any status is a success here.
    pub(super) async fn get(&self, get: &Get<'_>, authorization: &Authorization) -> Result<Response, Failure> {
        let mut url = get.url.clone();
        let mut at_origin = true;
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.client(self.is_lenient(&host_of(&url)))?.get(url.clone());
            request = get.accept.into_iter().fold(request, |request, accept| request.header(ACCEPT, accept));
            request = get.range.into_iter().fold(request, |request, range| request.header(RANGE, range));
            if at_origin {
                request = authorization.apply(request);
            }
            let response = request.send().await?;
            let Some(next) = self.redirection(&response, &url)? else { return Ok(response) };
            at_origin &= next.origin() == get.url.origin();
            if !at_origin && !get.may_leave_origin {
                return Err(Failure::Redirect(format!("it redirects to another host, `{}`", host_of(&next))));
            }
            url = next;
        }
        Err(Failure::Redirect(format!("it redirects more than {MAX_REDIRECTS} times")))
    }

    /// Sends a form. Redirects are not followed: the form holds a secret.
    pub(super) async fn post_form(&self, url: Url, form: String) -> Result<Response, Failure> {
        let request = self.client(self.is_lenient(&host_of(&url)))?.post(url);
        let typed = request.header(reqwest::header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        Ok(typed.body(form).send().await?)
    }

    fn redirection(&self, response: &Response, from: &Url) -> Result<Option<Url>, Failure> {
        if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Ok(None);
        }
        let target = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let bad = |reason: String| Err(Failure::Redirect(reason));
        let Some(next) = target.and_then(|target| from.join(target).ok()) else {
            return bad("it redirects to nowhere".to_owned());
        };
        let host = host_of(&next);
        match next.scheme() {
            "https" => {}
            "http" if from.scheme() == "http" || self.is_lenient(&host) => {}
            _ => return bad(format!("it redirects from https to `{}://{host}`", next.scheme())),
        }
        if is_metadata_service(&next) {
            return bad(format!("it redirects to `{host}`, the address of a metadata service"));
        }
        Ok(Some(next))
    }

    /// Whether a foreign layer may be fetched from there: https, or http where http is allowed.
    pub(super) fn may_fetch(&self, url: &Url) -> bool {
        let scheme_good = url.scheme() == "https" || url.scheme() == "http" && self.is_lenient(&host_of(url));
        scheme_good && url.host_str().is_some() && !is_metadata_service(url)
    }
}

/// Reads a body of at most `limit` bytes.
pub(super) async fn read_bounded(mut response: Response, limit: u64) -> Result<Vec<u8>, Failure> {
    if response.content_length().is_some_and(|length| length > limit) {
        return Err(Failure::TooLarge(limit));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if (body.len() + chunk.len()) as u64 > limit {
            return Err(Failure::TooLarge(limit));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn read_ca_file(path: &Path) -> Result<Vec<u8>, RegistryError> {
    let pem = std::fs::read(path).map_err(|source| RegistryError::CaFile { path: path.to_owned(), source })?;
    let certificates = reqwest::Certificate::from_pem_bundle(&pem);
    if certificates.is_ok_and(|certificates| !certificates.is_empty()) {
        return Ok(pem);
    }
    Err(RegistryError::CaFileFormat { path: path.to_owned() })
}
