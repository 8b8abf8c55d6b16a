//! Talking to an S3-compatible server: each operation is tried again for a while, and a refusal says who, what and why.
//!
//! `object_store` signs, and sends a sha256 along with every body, which the server compares with what it got. Its own
//! repetition is off: it leaves out what is not idempotent, and all our operations may be done twice.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use futures_util::StreamExt;
use object_store::aws::{AmazonS3, AmazonS3Builder, Checksum};
use object_store::client::{
    ClientOptions, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, RetryConfig};
use tokio::time::Instant;

use super::error::RemoteError;
use super::settings::RemoteSettings;
use super::url::S3Url;
use crate::words::printable;

const USER_AGENT: &str = concat!("dockless/", env!("CARGO_PKG_VERSION"));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A line that has gone dead is noticed after this long, however long a request may take (tcp(7), `TCP_USER_TIMEOUT`).
const DEAD_LINE_TIMEOUT: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Of a refusal's body no more is read.
const MAX_REFUSAL_BYTES: usize = 16 << 10;

/// A bucket that is talked to.
#[derive(Debug, Clone)]
pub(super) struct Client {
    store: AmazonS3,
    url: S3Url,
    settings: RemoteSettings,
}

impl Client {
    pub(super) fn new(url: &S3Url, settings: &RemoteSettings) -> Result<Self, RemoteError> {
        let failed = |source| RemoteError::Client { server: settings.server().to_owned(), source };
        let connector = Connector { client: http_client(settings).map_err(failed)? };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(url.bucket())
            .with_region(&settings.region)
            .with_access_key_id(settings.access_key_id.expose())
            .with_secret_access_key(settings.secret_access_key.expose())
            .with_virtual_hosted_style_request(!settings.path_style)
            .with_checksum_algorithm(Checksum::SHA256)
            .with_allow_http(true)
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
            .with_http_connector(connector);
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.with_endpoint(if settings.path_style {
                endpoint.clone()
            } else {
                endpoint.replacen("://", &format!("://{}.", url.bucket()), 1)
            });
        }
        if let Some(token) = &settings.session_token {
            builder = builder.with_token(token.expose());
        }
        let store = builder.build().map_err(|error| failed(Box::new(error)))?;
        Ok(Self { store, url: url.clone(), settings: settings.clone() })
    }

    pub(super) const fn url(&self) -> &S3Url {
        &self.url
    }

    pub(super) fn with_settings(&self, settings: &RemoteSettings) -> Self {
        Self { settings: settings.clone(), ..self.clone() }
    }

    pub(super) const fn settings(&self) -> &RemoteSettings {
        &self.settings
    }

    /// What a key is called in messages.
    pub(super) fn shown(&self, key: &str) -> String {
        printable(&format!("s3://{}/{key}", self.url.bucket()))
    }

    pub(super) async fn put(&self, key: &str, body: PutPayload) -> Result<(), RemoteError> {
        let path = self.path(key)?;
        let put = || async { self.store.put(&path, body.clone()).await.map(drop) };
        self.persist("write", key, put).await
    }

    /// `false` when there is such an object already. After a line that broke, it may be our own.
    pub(super) async fn put_new(&self, key: &str, body: PutPayload) -> Result<bool, RemoteError> {
        let path = self.path(key)?;
        let options = || PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let put = || async { self.store.put_opts(&path, body.clone(), options()).await.map(drop) };
        match self.persist("write", key, put).await {
            Err(RemoteError::Refused { answer, .. }) if answer.starts_with("409 ") || answer.starts_with("412 ") => {
                Ok(false)
            }
            put => put.map(|()| true),
        }
    }

    /// A whole object of at most `limit` bytes; `None` when it is not there.
    pub(super) async fn get(&self, key: &str, limit: u64) -> Result<Option<Vec<u8>>, RemoteError> {
        let path = self.path(key)?;
        let get = || async {
            let got = self.store.get(&path).await?;
            if got.meta.size > limit {
                return Ok(None);
            }
            got.bytes().await.map(|bytes| Some(bytes.to_vec()))
        };
        match self.persist("read", key, get).await {
            Ok(None) => Err(RemoteError::Damaged { object: self.shown(key), why: format!("over {limit} bytes") }),
            Err(error) if error.is_missing() => Ok(None),
            got => got,
        }
    }

    /// Hands an object to `sink` piece by piece; after a line that broke, from its start with a new sink.
    pub(super) async fn stream<S>(
        &self,
        key: &str,
        mut start: impl FnMut() -> std::io::Result<S>,
        mut sink: impl FnMut(&mut S, &[u8]) -> std::io::Result<()>,
    ) -> Result<std::io::Result<S>, RemoteError> {
        let path = self.path(key)?;
        let mut steps = |state: &mut Option<S>, piece: Option<&[u8]>| -> std::io::Result<()> {
            match (piece, state) {
                (Some(piece), Some(state)) => sink(state, piece),
                (_, state) => start().map(|new| *state = Some(new)),
            }
        };
        let mut trial = Trial::new(self, "read", key);
        loop {
            let mut state = None;
            if let Err(error) = steps(&mut state, None) {
                return Ok(Err(error));
            }
            let got: object_store::Result<std::io::Result<()>> = async {
                let mut pieces = self.store.get(&path).await?.into_stream();
                while let Some(piece) = pieces.next().await {
                    if let Err(error) = steps(&mut state, Some(&piece?)) {
                        return Ok(Err(error));
                    }
                }
                Ok(Ok(()))
            }
            .await;
            match (got, state) {
                (Ok(done), Some(state)) => return Ok(done.map(|()| state)),
                (Err(error), _) => trial.failed(error).await?,
                (Ok(_), None) => {}
            }
        }
    }

    /// What is missing is fine.
    pub(super) async fn delete(&self, key: &str) -> Result<(), RemoteError> {
        let path = self.path(key)?;
        match self.persist("remove", key, || async { self.store.delete(&path).await }).await {
            Err(error) if error.is_missing() => Ok(()),
            deleted => deleted,
        }
    }

    /// All keys that begin with `prefix` and a slash.
    pub(super) async fn keys(&self, prefix: &str) -> Result<Vec<String>, RemoteError> {
        let path = self.path(prefix)?;
        let list = || async {
            let mut keys = Vec::new();
            let mut objects = self.store.list(Some(&path));
            while let Some(object) = objects.next().await {
                keys.push(object?.location.to_string());
            }
            Ok(keys)
        };
        self.persist("list", prefix, list).await
    }

    /// The names of what stands directly below `prefix` and has something below itself.
    pub(super) async fn directories(&self, prefix: &str) -> Result<Vec<String>, RemoteError> {
        let path = self.path(prefix)?;
        let list = || async { self.store.list_with_delimiter(Some(&path)).await };
        let found = self.persist("list", prefix, list).await?.common_prefixes;
        Ok(found.iter().filter_map(|prefix| prefix.filename().map(str::to_owned)).collect())
    }

    pub(super) async fn start_multipart(&self, key: &str) -> Result<String, RemoteError> {
        let path = self.path(key)?;
        self.persist("write", key, || async { self.store.create_multipart(&path).await }).await
    }

    /// Sends the part with that index, counted from 0; what it gives belongs into [`complete`](Self::complete).
    pub(super) async fn put_part(
        &self,
        key: &str,
        upload: &str,
        index: usize,
        body: PutPayload,
    ) -> Result<String, RemoteError> {
        let (path, upload) = (self.path(key)?, upload.to_owned());
        let put = || async { self.store.put_part(&path, &upload, index, body.clone()).await };
        self.persist("write a part of", key, put).await.map(|part| part.content_id)
    }

    pub(super) async fn complete(&self, key: &str, upload: &str, parts: &[String]) -> Result<(), RemoteError> {
        let (path, upload) = (self.path(key)?, upload.to_owned());
        let parts = || parts.iter().map(|id| PartId { content_id: id.clone() }).collect();
        let complete = || async { self.store.complete_multipart(&path, &upload, parts()).await.map(drop) };
        self.persist("complete", key, complete).await
    }

    /// An upload that is gone is fine.
    pub(super) async fn abort(&self, key: &str, upload: &str) -> Result<(), RemoteError> {
        let (path, upload) = (self.path(key)?, upload.to_owned());
        match self.persist("abort", key, || async { self.store.abort_multipart(&path, &upload).await }).await {
            Err(error) if error.is_missing() => Ok(()),
            aborted => aborted,
        }
    }

    fn path(&self, key: &str) -> Result<Key, RemoteError> {
        let bad =
            |why: object_store::path::Error| RemoteError::Damaged { object: self.shown(key), why: why.to_string() };
        Key::parse(key).map_err(bad)
    }

    async fn persist<T, A: Future<Output = object_store::Result<T>>>(
        &self,
        operation: &'static str,
        key: &str,
        mut attempt: impl FnMut() -> A,
    ) -> Result<T, RemoteError> {
        let mut trial = Trial::new(self, operation, key);
        loop {
            match attempt().await {
                Ok(value) => return Ok(value),
                Err(error) => trial.failed(error).await?,
            }
        }
    }
}

/// The attempts at one operation.
struct Trial<'a> {
    client: &'a Client,
    operation: &'static str,
    key: &'a str,
    since: Option<Instant>,
    pause: Duration,
}

impl<'a> Trial<'a> {
    const fn new(client: &'a Client, operation: &'static str, key: &'a str) -> Self {
        Self { client, operation, key, since: None, pause: FIRST_PAUSE }
    }

    /// Waits until it is time for another attempt, or says why there is none.
    async fn failed(&mut self, error: object_store::Error) -> Result<(), RemoteError> {
        let patience = self.client.settings.patience;
        let since = *self.since.get_or_insert_with(Instant::now);
        let refusal = find::<Refusal>(&error);
        let passing = refusal.map_or_else(|| find::<HttpError>(&error).is_some(), Refusal::is_passing);
        if passing && since.elapsed() + self.pause < patience.give_up_after() {
            tokio::time::sleep(self.pause).await;
            self.pause = (2 * self.pause).min(Duration::from_millis(patience.longest_pause_ms));
            return Ok(());
        }
        let server = self.client.settings.server().to_owned();
        let (operation, object) = (self.operation, self.client.shown(self.key));
        Err(match refusal {
            Some(refusal) => RemoteError::Refused {
                server,
                operation,
                object,
                answer: refusal.to_string(),
                missing: refusal.is_missing(),
                hint: refusal.hint(),
            },
            None => RemoteError::Unreachable {
                server,
                operation,
                object,
                tried_s: since.elapsed().as_secs(),
                source: Box::new(error),
            },
        })
    }
}

/// The first cause of that type.
fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// An answer that is no success.
#[derive(Debug)]
struct Refusal {
    status: u16,
    /// S3's word for it, e.g. `NoSuchBucket`; empty when the body does not say.
    code: String,
    message: String,
}

impl Refusal {
    fn parse(status: u16, body: &[u8]) -> Self {
        let body = String::from_utf8_lossy(body);
        let element = |name: &str| {
            let (_, rest) = body.split_once(&format!("<{name}>"))?;
            let (text, _) = rest.split_once(&format!("</{name}>"))?;
            Some(printable(text).chars().take(300).collect::<String>())
        };
        let element = |name| element(name).unwrap_or_default();
        Self { status, code: element("Code"), message: element("Message") }
    }

    /// Whether the same request may well succeed later.
    fn is_passing(&self) -> bool {
        matches!(self.status, 408 | 429 | 500 | 502..=504)
            || matches!(self.code.as_str(), "RequestTimeout" | "OperationAborted" | "SlowDown")
    }

    fn is_missing(&self) -> bool {
        self.status == 404 && self.code != "NoSuchBucket"
    }

    fn hint(&self) -> &'static str {
        match (self.code.as_str(), self.status) {
            ("NoSuchBucket", _) => "\nhint: create the bucket, or correct its name in the artifact store's URL",
            ("InvalidAccessKeyId" | "SignatureDoesNotMatch" | "NotSignedUp", _) => {
                "\nhint: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            }
            ("ExpiredToken" | "InvalidToken", _) => {
                "\nhint: get new credentials; AWS_SESSION_TOKEN is not valid any more"
            }
            ("RequestTimeTooSkewed", _) => "\nhint: set this machine's clock",
            ("AuthorizationHeaderMalformed" | "PermanentRedirect" | "TemporaryRedirect", _) | (_, 300..=399) => {
                "\nhint: set AWS_REGION to the bucket's region"
            }
            (_, 401 | 403) => "\nhint: the credentials need the rights to read, write, list and remove objects there",
            _ => "",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        let words = [&self.code, &self.message];
        words.iter().filter(|word| !word.is_empty()).try_for_each(|word| write!(f, " {word}"))
    }
}

impl Error for Refusal {}

fn http_client(settings: &RemoteSettings) -> Result<reqwest::Client, Box<dyn Error + Send + Sync>> {
    // Fails when a provider is installed already, which serves us as well.
    drop(rustls::crypto::ring::default_provider().install_default());
    let mut builder = reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(settings.patience.request_timeout())
        .tcp_user_timeout(DEAD_LINE_TIMEOUT)
        // Many parts at once want many connections.
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy();
    if let Some(path) = &settings.ca_file {
        builder = builder.tls_certs_merge(reqwest::Certificate::from_pem_bundle(&std::fs::read(path)?)?);
    }
    Ok(builder.build()?)
}

#[derive(Debug)]
struct Connector {
    client: reqwest::Client,
}

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Service { client: self.client.clone() }))
    }
}

/// Turns refusals into errors that keep their code.
#[derive(Debug)]
struct Service {
    client: reqwest::Client,
}

impl HttpService for Service {
    fn call<'a, 'b>(
        &'a self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let response = self.client.call(request).await?;
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            let mut body = Vec::new();
            let mut pieces = response.into_body().bytes_stream();
            while let Some(Ok(piece)) = pieces.next().await {
                body.extend_from_slice(&piece[..piece.len().min(MAX_REFUSAL_BYTES - body.len())]);
                if body.len() == MAX_REFUSAL_BYTES {
                    break;
                }
            }
            Err(HttpError::new(HttpErrorKind::Unknown, Refusal::parse(status.as_u16(), &body)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_what_to_do() {
        let xml = |code: &str| format!("<?xml?><Error><Code>{code}</Code><Message>a\u{1b}b</Message></Error>");
        for (status, body, shown, hint) in [
            (404, xml("NoSuchBucket"), "404 NoSuchBucket a\\u{1b}b", "create the bucket"),
            (403, xml("SignatureDoesNotMatch"), "403 SignatureDoesNotMatch a\\u{1b}b", "AWS_SECRET_ACCESS_KEY"),
            (403, String::new(), "403", "rights"),
            (301, xml("PermanentRedirect"), "301 PermanentRedirect a\\u{1b}b", "AWS_REGION"),
            (400, "<html>".to_owned(), "400", ""),
        ] {
            let refusal = Refusal::parse(status, body.as_bytes());
            assert_eq!(refusal.to_string(), shown);
            assert!(refusal.hint().contains(hint) && !refusal.is_passing() && !refusal.is_missing());
        }
        assert!(
            Refusal::parse(503, b"").is_passing() && Refusal::parse(400, xml("RequestTimeout").as_bytes()).is_passing()
        );
        assert!(Refusal::parse(404, xml("NoSuchKey").as_bytes()).is_missing());
    }
}
