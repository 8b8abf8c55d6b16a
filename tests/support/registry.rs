//! A registry in this process that can misbehave: `registry.when("/blobs/").times(2).refuse(503, "", "")`.
//!
//! HTTP/1.1 over plain sockets or TLS, a thread per connection. It serves what was pushed into it, guards it with Basic
//! or with tokens, applies the rules that a test sets, and writes down every request.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use dockless::image::{Digest, Hasher, Reference};
use serde_json::json;

use super::http::{Blob, RangeLie, Reply, Seen, parse_range, read_request};
use super::image::{BuiltImage, BuiltIndex};

/// What a rule does to the requests that it fits.
#[derive(Debug, Clone)]
enum Action {
    Answer {
        status: u16,
        headers: Vec<(String, String)>,
        body: Vec<u8>,
    },
    /// The connection ends after so many bytes of the body.
    Cut(u64),
    /// Nothing comes any more after so many bytes of the body.
    Stall(u64),
    /// Other bytes with all else in order.
    Replace(Vec<u8>),
    /// Neither length nor anything else is said about the body but that it ends with the connection.
    Unsized,
    /// As if the request had no `Range`.
    IgnoreRange,
    /// 206 with something else.
    Range(RangeLie),
    /// The connection ends without an answer.
    HangUp,
    Header(String, String),
}

#[derive(Debug)]
struct Rule {
    path_part: String,
    skip: usize,
    times: usize,
    action: Action,
}

/// What guards the content.
#[derive(Debug, Clone)]
enum Gate {
    Open,
    Basic { user: String, password: String },
    Token { realm: String, service: TokenService },
}

/// A service that gives tokens for docker's protocol; a clone is the same service.
#[derive(Debug, Clone, Default)]
pub(crate) struct TokenService {
    login: Option<(String, String)>,
    identity: Option<String>,
    uses: Option<usize>,
    expired_status: Option<u16>,
    issued: Arc<Mutex<HashMap<String, usize>>>,
}

impl TokenService {
    /// One that gives tokens to anybody.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Gives tokens to this user only.
    pub(crate) fn only_for(mut self, user: &str, password: &str) -> Self {
        self.login = Some((user.to_owned(), password.to_owned()));
        self
    }

    /// Takes this refresh token.
    pub(crate) fn refreshing(mut self, identity: &str) -> Self {
        self.identity = Some(identity.to_owned());
        self
    }

    /// A token runs out after so many requests, and the registry answers with `status` then.
    pub(crate) fn running_out(mut self, after_requests: usize, status: u16) -> Self {
        (self.uses, self.expired_status) = (Some(after_requests), Some(status));
        self
    }

    /// Tokens given so far.
    pub(crate) fn issued(&self) -> usize {
        lock(&self.issued).len()
    }

    fn issue(&self) -> String {
        let mut issued = lock(&self.issued);
        let token = format!("token-{}", issued.len() + 1);
        issued.insert(token.clone(), self.uses.unwrap_or(usize::MAX));
        token
    }

    /// Takes one use of the token; false when it has none left or was never given.
    fn accept(&self, token: &str) -> bool {
        match lock(&self.issued).get_mut(token) {
            Some(left) if *left > 0 => {
                *left -= 1;
                true
            }
            _ => false,
        }
    }
}

#[derive(Debug)]
struct State {
    blobs: HashMap<String, Blob>,
    /// By repository and selector (tag or digest).
    manifests: BTreeMap<(String, String), (String, Vec<u8>)>,
    rules: Vec<Rule>,
    requests: Vec<Seen>,
    gate: Gate,
    tokens: Option<TokenService>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// See the module.
#[derive(Debug)]
pub(crate) struct TestRegistry {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    certificate_pem: Option<String>,
}

impl TestRegistry {
    /// Plain http on a free port of 127.0.0.1.
    pub(crate) fn start() -> Self {
        Self::start_at("127.0.0.1", false)
    }

    /// https with a certificate of its own making ([`Self::certificate`]).
    pub(crate) fn start_tls() -> Self {
        Self::start_at("127.0.0.1", true)
    }

    /// On another address. `0.0.0.0` reaches this machine on Linux and is no loopback address by name, so it is treated
    /// as a foreign host.
    pub(crate) fn start_at(address: &str, tls: bool) -> Self {
        let listener = TcpListener::bind((address, 0)).expect("a free port");
        let address = listener.local_addr().expect("the address of a bound socket");
        let state = Arc::new(Mutex::new(State {
            blobs: HashMap::new(),
            manifests: BTreeMap::new(),
            rules: Vec::new(),
            requests: Vec::new(),
            gate: Gate::Open,
            tokens: None,
        }));
        let stop = Arc::new(AtomicBool::new(false));
        let (config, certificate_pem) = tls.then(|| tls_config(address)).unzip();
        std::thread::spawn({
            let (state, stop) = (Arc::clone(&state), Arc::clone(&stop));
            move || accept(&listener, &state, &stop, config.as_ref())
        });
        Self { address, state, stop, certificate_pem }
    }

    /// `host:port`
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn url(&self) -> String {
        let scheme = if self.certificate_pem.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// The reference under which this registry has `name`.
    pub(crate) fn reference(&self, name: &str) -> Reference {
        format!("{}/{name}", self.address).parse().expect("a good reference")
    }

    /// The certificate of a TLS registry as PEM.
    pub(crate) fn certificate(&self) -> &str {
        self.certificate_pem.as_ref().expect("a TLS registry")
    }

    /// Puts an image under `name` (`repository:tag`); returns its reference.
    pub(crate) fn push(&self, name: &str, image: &BuiltImage) -> Reference {
        let reference = self.reference(name);
        self.put_image(reference.repository(), image);
        self.put_manifest(name, &image.media_type, &image.manifest);
        reference
    }

    /// Puts all images of an index and the index under `name`; returns its reference.
    pub(crate) fn push_index(&self, name: &str, index: &BuiltIndex) -> Reference {
        let reference = self.reference(name);
        for image in &index.images {
            self.put_image(reference.repository(), image);
        }
        self.put_manifest(name, &index.media_type, &index.bytes);
        reference
    }

    fn put_image(&self, repository: &str, image: &BuiltImage) {
        for (digest, bytes) in image.blobs() {
            self.put_blob(&digest, bytes);
        }
        let name = format!("{repository}@{}", image.digest());
        self.put_manifest(&name, &image.media_type, &image.manifest);
    }

    /// Puts any bytes as a manifest, under the tag or digest of `name` and under their own digest.
    pub(crate) fn put_manifest(&self, name: &str, media_type: &str, bytes: &[u8]) {
        let reference = self.reference(name);
        let mut state = lock(&self.state);
        for selector in [reference.manifest_selector(), Digest::sha256(bytes).to_string()] {
            let key = (reference.repository().to_owned(), selector);
            state.manifests.insert(key, (media_type.to_owned(), bytes.to_vec()));
        }
    }

    /// Puts any bytes as a blob, right or wrong.
    pub(crate) fn put_blob(&self, digest: &Digest, bytes: &[u8]) {
        lock(&self.state).blobs.insert(digest.to_string(), Blob::Bytes(Arc::new(bytes.to_vec())));
    }

    /// Puts a blob of any size that takes no memory; returns its digest.
    pub(crate) fn put_pattern(&self, size: u64) -> Digest {
        let blob = Blob::Pattern(size);
        let mut hasher = Hasher::new(dockless::image::Algorithm::Sha256);
        for offset in (0..size).step_by(1 << 20) {
            hasher.update(&blob.read(offset, size.min(offset + (1 << 20))));
        }
        let digest = hasher.finish();
        lock(&self.state).blobs.insert(digest.to_string(), blob);
        digest
    }

    pub(crate) fn remove_blob(&self, digest: &Digest) {
        lock(&self.state).blobs.remove(&digest.to_string());
    }

    /// Wants user and password from now on.
    pub(crate) fn require_basic(&self, user: &str, password: &str) {
        lock(&self.state).gate = Gate::Basic { user: user.to_owned(), password: password.to_owned() };
    }

    /// Wants a token from now on, and gives them at `/token`.
    pub(crate) fn require_token(&self, service: &TokenService) {
        self.serve_tokens(service);
        self.require_token_from(&format!("{}/token", self.url()), service);
    }

    /// Wants a token from now on that somebody else gives, whatever URL that is.
    pub(crate) fn require_token_from(&self, realm: &str, service: &TokenService) {
        lock(&self.state).gate = Gate::Token { realm: realm.to_owned(), service: service.clone() };
    }

    /// Gives tokens at `/token` without wanting any.
    pub(crate) fn serve_tokens(&self, service: &TokenService) {
        lock(&self.state).tokens = Some(service.clone());
    }

    /// Begins a rule for requests whose path contains `path_part`; it holds for all of them unless it is told otherwise.
    /// The first rule that fits a request is the only one applied to it.
    pub(crate) fn when(&self, path_part: &str) -> RuleBuilder<'_> {
        RuleBuilder { registry: self, path_part: path_part.to_owned(), skip: 0, times: usize::MAX }
    }

    /// All rules end.
    pub(crate) fn behave(&self) {
        lock(&self.state).rules.clear();
    }

    /// Every request so far.
    pub(crate) fn requests(&self) -> Vec<Seen> {
        lock(&self.state).requests.clone()
    }

    /// Requests so far whose path contains `path_part`.
    pub(crate) fn requests_for(&self, path_part: &str) -> Vec<Seen> {
        self.requests().into_iter().filter(|seen| seen.path.contains(path_part)).collect()
    }
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // The listener waits for a connection.
        drop(TcpStream::connect(self.address));
    }
}

/// A rule in the making; the last call says what happens.
pub(crate) struct RuleBuilder<'a> {
    registry: &'a TestRegistry,
    path_part: String,
    skip: usize,
    times: usize,
}

impl RuleBuilder<'_> {
    /// Lets so many requests pass first.
    pub(crate) fn skip(mut self, requests: usize) -> Self {
        self.skip = requests;
        self
    }

    /// Ends after so many requests.
    pub(crate) fn times(mut self, requests: usize) -> Self {
        self.times = requests;
        self
    }

    fn act(self, action: Action) {
        let Self { registry, path_part, skip, times } = self;
        lock(&registry.state).rules.push(Rule { path_part, skip, times, action });
    }

    /// A refusal in the specification's form.
    pub(crate) fn refuse(self, status: u16, code: &str, message: &str) {
        self.refuse_with(status, &[], &error_body(code, message));
    }

    /// Any answer.
    pub(crate) fn refuse_with(self, status: u16, headers: &[(&str, &str)], body: &[u8]) {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.act(Action::Answer { status, headers, body: body.to_vec() });
    }

    pub(crate) fn redirect(self, url: &str) {
        self.refuse_with(307, &[("Location", url)], b"");
    }

    pub(crate) fn cut_after(self, bytes: u64) {
        self.act(Action::Cut(bytes));
    }

    pub(crate) fn stall_after(self, bytes: u64) {
        self.act(Action::Stall(bytes));
    }

    pub(crate) fn replace(self, bytes: &[u8]) {
        self.act(Action::Replace(bytes.to_vec()));
    }

    pub(crate) fn hide_size(self) {
        self.act(Action::Unsized);
    }

    pub(crate) fn ignore_range(self) {
        self.act(Action::IgnoreRange);
    }

    pub(crate) fn range_from_start(self) {
        self.act(Action::Range(RangeLie::FromStart));
    }

    pub(crate) fn range_shifted(self) {
        self.act(Action::Range(RangeLie::Shifted));
    }

    pub(crate) fn hang_up(self) {
        self.act(Action::HangUp);
    }

    pub(crate) fn add_header(self, name: &str, value: &str) {
        self.act(Action::Header(name.to_owned(), value.to_owned()));
    }
}

fn error_body(code: &str, message: &str) -> Vec<u8> {
    json!({ "errors": [{ "code": code, "message": message }] }).to_string().into_bytes()
}

fn tls_config(address: SocketAddr) -> (Arc<rustls::ServerConfig>, String) {
    let names = vec!["localhost".to_owned(), address.ip().to_string()];
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("protocol versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a certificate that fits its key");
    (Arc::new(config), made.cert.pem())
}

fn accept(
    listener: &TcpListener,
    state: &Arc<Mutex<State>>,
    stop: &Arc<AtomicBool>,
    tls: Option<&Arc<rustls::ServerConfig>>,
) {
    for socket in listener.incoming() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let Ok(socket) = socket else { continue };
        drop(socket.set_nodelay(true));
        let (state, stop, tls) = (Arc::clone(state), Arc::clone(stop), tls.cloned());
        std::thread::spawn(move || {
            // A client that goes away in the middle is nothing to report.
            let raw = socket.try_clone();
            drop(match tls {
                None => serve(socket, &state, &stop),
                Some(config) => rustls::ServerConnection::new(config)
                    .map_err(io::Error::other)
                    .and_then(|connection| serve(rustls::StreamOwned::new(connection, socket), &state, &stop)),
            });
            drop(raw.and_then(|raw| raw.shutdown(Shutdown::Both)));
        });
    }
}

/// Answers the requests of one connection until it ends.
fn serve(stream: impl Read + Write, state: &Mutex<State>, stop: &AtomicBool) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read_request(&mut stream)? {
        let reply = {
            let mut state = lock(state);
            state.requests.push(request.clone());
            state.reply(&request)
        };
        let Some(reply) = reply else { return Ok(()) };
        if !reply.send(&request, stream.get_mut(), stop)? {
            return Ok(());
        }
    }
    Ok(())
}

impl State {
    /// `None` hangs up.
    fn reply(&mut self, request: &Seen) -> Option<Reply> {
        let action = self.action(&request.path);
        match action {
            Some(Action::HangUp) => return None,
            Some(Action::Answer { status, headers, body }) => return Some(Reply::of(status, headers, body)),
            _ => {}
        }
        let mut reply = self.content(request);
        if reply.status != 200 {
            return Some(reply);
        }
        let range = request.header("range").and_then(parse_range).filter(|_| reply.ranges);
        match &action {
            Some(Action::Replace(bytes)) => reply.body = Blob::Bytes(Arc::new(bytes.clone())),
            Some(Action::Header(name, value)) => reply.headers.push((name.clone(), value.clone())),
            _ => {}
        }
        match (range, &action) {
            (None, _) | (_, Some(Action::IgnoreRange)) => {}
            (Some(range), Some(Action::Range(lie))) => reply.take_range(range, Some(*lie)),
            (Some(range), _) => reply.take_range(range, None),
        }
        match action {
            Some(Action::Cut(bytes)) => reply.cut = Some(bytes),
            Some(Action::Stall(bytes)) => reply.stall = Some(bytes),
            Some(Action::Unsized) => reply.is_sized = false,
            _ => {}
        }
        Some(reply)
    }

    fn action(&mut self, path: &str) -> Option<Action> {
        let rule = self.rules.iter_mut().find(|rule| rule.times > 0 && path.contains(&rule.path_part))?;
        if rule.skip > 0 {
            rule.skip -= 1;
            return None;
        }
        rule.times -= 1;
        Some(rule.action.clone())
    }

    fn content(&self, request: &Seen) -> Reply {
        let path = request.path.split('?').next().unwrap_or_default();
        if path == "/token" {
            return self.tokens.as_ref().map_or_else(not_found, |service| give_token(service, request));
        }
        if let Some(refusal) = self.guard(request) {
            return refusal;
        }
        if path == "/v2/" {
            return Reply::of(200, vec![], b"{}".to_vec());
        }
        let rest = path.strip_prefix("/v2/").unwrap_or_default();
        if let Some((repository, selector)) = rest.split_once("/manifests/") {
            return self.manifest(repository, selector);
        }
        if let Some((_, digest)) = rest.split_once("/blobs/") {
            let Some(blob) = self.blobs.get(digest) else {
                return Reply::of(404, vec![], error_body("BLOB_UNKNOWN", "blob unknown to registry"));
            };
            let mut reply = Reply::of(200, vec![("Docker-Content-Digest".to_owned(), digest.to_owned())], vec![]);
            (reply.body, reply.ranges) = (blob.clone(), true);
            return reply;
        }
        rest.strip_suffix("/tags/list").map_or_else(not_found, |repository| self.tags(repository))
    }

    fn manifest(&self, repository: &str, selector: &str) -> Reply {
        let Some((media_type, bytes)) = self.manifests.get(&(repository.to_owned(), selector.to_owned())) else {
            return Reply::of(404, vec![], error_body("MANIFEST_UNKNOWN", "manifest unknown"));
        };
        let digest = Digest::sha256(bytes).to_string();
        let headers =
            vec![("Content-Type".to_owned(), media_type.clone()), ("Docker-Content-Digest".to_owned(), digest)];
        Reply::of(200, headers, bytes.clone())
    }

    fn tags(&self, repository: &str) -> Reply {
        let of_repository = self.manifests.keys().filter(|(name, _)| name == repository);
        let tags: Vec<&str> = of_repository.map(|(_, tag)| tag.as_str()).filter(|tag| !tag.contains(':')).collect();
        if tags.is_empty() {
            return Reply::of(404, vec![], error_body("NAME_UNKNOWN", "repository name not known to registry"));
        }
        Reply::of(200, vec![], json!({ "name": repository, "tags": tags }).to_string().into_bytes())
    }

    /// What is said to a request that does not prove itself.
    fn guard(&self, request: &Seen) -> Option<Reply> {
        let shown = request.header("authorization").unwrap_or_default();
        let refusal = |status: u16, challenge: String| {
            let headers = vec![("WWW-Authenticate".to_owned(), challenge)];
            Some(Reply::of(status, headers, error_body("UNAUTHORIZED", "authentication required")))
        };
        match &self.gate {
            Gate::Open => None,
            Gate::Basic { user, password } if shown == basic(user, password) => None,
            Gate::Basic { .. } => refusal(401, r#"Basic realm="test""#.to_owned()),
            Gate::Token { realm, service } => {
                let token = shown.strip_prefix("Bearer ");
                if token.is_some_and(|token| service.accept(token)) {
                    return None;
                }
                let ran_out = token.is_some_and(|token| lock(&service.issued).contains_key(token));
                let status = service.expired_status.filter(|_| ran_out).unwrap_or(401);
                refusal(status, format!(r#"Bearer realm="{realm}",service="test-registry",scope="repository:x:pull""#))
            }
        }
    }
}

fn give_token(service: &TokenService, request: &Seen) -> Reply {
    let allowed = if request.method == "POST" {
        let sent = service.identity.as_ref().map(|token| format!("refresh_token={token}"));
        sent.is_some_and(|sent| request.body.split('&').any(|field| field == sent))
    } else {
        let wanted = service.login.as_ref().map(|(user, password)| basic(user, password));
        wanted.is_none_or(|wanted| request.header("authorization") == Some(wanted.as_str()))
    };
    if !allowed {
        return Reply::of(401, vec![], br#"{"details":"incorrect username or password"}"#.to_vec());
    }
    Reply::of(200, vec![], json!({ "token": service.issue(), "expires_in": 300 }).to_string().into_bytes())
}

fn not_found() -> Reply {
    Reply::of(404, vec![], b"not found".to_vec())
}

/// The `Authorization` header of user and password.
pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64(format!("{user}:{password}").as_bytes()))
}

/// RFC 4648, for headers and auth files.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let at = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..4 {
            let value = (bits >> (18 - 6 * digit)) & 63;
            text.push(if digit > group.len() { '=' } else { char::from(DIGITS[value as usize]) });
        }
    }
    text
}
