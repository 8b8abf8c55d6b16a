//! What can go wrong between us and a registry.
//!
//! Each error says which registry, which image, what the server answered and which credential was used. Text of the
//! server's is escaped and bounded before it gets here.

use std::io;
use std::path::PathBuf;

use super::answer::Answer;
use super::credential::GIVEN;
use super::failure::Fault;
use crate::image::{ConfigError, Digest, DocumentError};
use crate::store::StoreError;

/// An operation on a registry that failed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The file of extra root certificates cannot be read.
    #[error("cannot read the certificate file `{path}`")]
    CaFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file of extra root certificates holds none.
    #[error("`{path}` holds no certificates, expected `-----BEGIN CERTIFICATE-----`")]
    CaFileFormat {
        /// The file.
        path: PathBuf,
    },
    /// The HTTP client cannot be made: no root certificates, a proxy that is not a URL.
    #[error("cannot set up a client for `{host}`\nhint: root certificates come with the package `ca-certificates`")]
    Client {
        /// The registry or token service.
        host: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The blob client cannot be made.
    #[error("cannot set up a client for `{host}`\nhint: root certificates come with the package `ca-certificates`")]
    BlobClient {
        /// The registry.
        host: String,
        /// Why.
        #[source]
        source: Box<oci_distribution::errors::OciDistributionError>,
    },
    /// An auth file is there but cannot be read.
    #[error("cannot read the auth file `{path}`")]
    AuthFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An auth file is not JSON.
    #[error("the auth file `{path}` is not json\nhint: `docker login` and `podman login` write such files")]
    AuthFileJson {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// The entry for the registry is unusable.
    #[error("the entry `{key}` of the auth file `{path}` is not a credential: {reason}\nhint: log in anew")]
    AuthFileEntry {
        /// The file.
        path: PathBuf,
        /// The key in `auths`.
        key: String,
        /// What is wrong, without the value.
        reason: String,
    },
    /// A credential helper did not do its work.
    #[error(
        "the credential helper `docker-credential-{helper}`, which `{path}` names for `{registry}`, failed: {reason}"
    )]
    Helper {
        /// What follows `docker-credential-`.
        helper: String,
        /// The file that names it.
        path: PathBuf,
        /// The registry it was asked about.
        registry: String,
        /// What it said, or why it could not be asked.
        reason: String,
    },
    /// No answer.
    #[error("cannot reach `{host}` for `{what}`: {fault}{}", fault_hint(*fault, host))]
    Connect {
        /// The registry or token service.
        host: String,
        /// What was asked for.
        what: String,
        /// Why, as far as it can be told.
        fault: Fault,
        /// The whole story.
        #[source]
        source: reqwest::Error,
    },
    /// An answer that takes for ever.
    #[error("`{host}` did not finish its answer about `{what}` in {seconds} s")]
    Slow {
        /// The registry or token service.
        host: String,
        /// What was asked for.
        what: String,
        /// The time it had.
        seconds: u64,
    },
    /// A redirect that is not followed.
    #[error("the answer of `{host}` about `{what}` leads astray: {reason}")]
    Redirect {
        /// The registry or token service.
        host: String,
        /// What was asked for.
        what: String,
        /// Where it leads.
        reason: String,
    },
    /// The registry names a token service that gets no secret from us.
    #[error("registry `{host}` wants a token from `{realm}`, refused: {reason}")]
    Realm {
        /// The registry.
        host: String,
        /// What it names.
        realm: String,
        /// Why not.
        reason: &'static str,
    },
    /// The registry wants a kind of proof that we do not have.
    #[error("registry `{host}` asks for authentication as `{challenge}`, expected `Bearer` or `Basic`")]
    Challenge {
        /// The registry.
        host: String,
        /// Its header.
        challenge: String,
    },
    /// The token service said no.
    #[error("no token for `{image}` from `{realm}`: {answer}\nasked {access}{}", denial_hint(answer, access))]
    Token {
        /// What the token is for.
        image: String,
        /// Host of the token service.
        realm: String,
        /// As whom we asked.
        access: String,
        /// What it said.
        answer: Box<Answer>,
    },
    /// The token service's answer holds no usable token.
    #[error("the token service `{realm}` sent no usable token for `{image}`: {reason}")]
    TokenFormat {
        /// What the token is for.
        image: String,
        /// Host of the token service.
        realm: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The registry said 401 or 403.
    #[error("registry `{host}` refuses access to `{image}`: {answer}\nasked {access}{}", denial_hint(answer, access))]
    Denied {
        /// The registry.
        host: String,
        /// What was asked for.
        image: String,
        /// As whom we asked.
        access: String,
        /// What it said.
        answer: Box<Answer>,
    },
    /// The registry has no such repository, tag or digest.
    #[error("{missing}: {answer}\nhint: {hint}")]
    NoImage {
        /// What is missing and where, a sentence.
        missing: String,
        /// What the registry said.
        answer: Box<Answer>,
        /// What to try.
        hint: String,
    },
    /// The image does not exist for the platform.
    #[error("`{image}` has no image for `{wanted}`, it offers {offered}\nhint: choose one of them with `--platform`")]
    NoPlatform {
        /// The image.
        image: String,
        /// The platform that was asked for.
        wanted: String,
        /// The platforms there are.
        offered: String,
    },
    /// The registry lacks a part of an image that it has.
    #[error("`{host}` has lost `{digest}`, a part of `{image}`: {answer}\nhint: push the image again")]
    NoBlob {
        /// The registry.
        host: String,
        /// The image.
        image: String,
        /// The part.
        digest: Digest,
        /// What the registry said.
        answer: Box<Answer>,
    },
    /// Any other refusal, after as many attempts as make sense.
    #[error("`{host}` does not serve `{what}`: {answer}{}", refusal_hint(answer, *wait_seconds))]
    Refused {
        /// The registry or token service.
        host: String,
        /// What was asked for.
        what: String,
        /// What it said.
        answer: Box<Answer>,
        /// How long it asks to wait.
        wait_seconds: Option<u64>,
    },
    /// A manifest, index or configuration that is too large to be one.
    #[error("`{what}` from `{host}` is larger than {limit_bytes} bytes, the most that is read of such a document")]
    TooLarge {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// The bound.
        limit_bytes: u64,
    },
    /// A document that hashes to something else.
    #[error(
        "`{what}` from `{host}` has the wrong content: it hashes to `{actual}`, expected `{expected}`; nothing of it was kept{HINT_CHANGED}"
    )]
    Digest {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// What it should hash to.
        expected: Digest,
        /// What it hashes to.
        actual: Digest,
    },
    /// A document with another size than its descriptor says.
    #[error("`{what}` from `{host}` has {actual} bytes, expected {expected}; nothing of it was kept{HINT_CHANGED}")]
    Size {
        /// The registry.
        host: String,
        /// What was asked for.
        what: String,
        /// What its descriptor says.
        expected: u64,
        /// What came.
        actual: u64,
    },
    /// A document that is no manifest, or one that does not fit its configuration.
    #[error(
        "`{image}` is not an image that can be run\nhint: is that its name? charts and other artifacts have none to run"
    )]
    Document {
        /// The image.
        image: String,
        /// What is wrong with it.
        #[source]
        source: DocumentError,
    },
    /// A configuration that is none.
    #[error(
        "`{image}` is not an image that can be run\nhint: is that its name? charts and other artifacts have none to run"
    )]
    Config {
        /// The image.
        image: String,
        /// What is wrong with it.
        #[source]
        source: ConfigError,
    },
    /// An index that calls a manifest an index or the other way round.
    #[error("`{image}` is inconsistent: its index calls `{digest}` a `{announced}`, which it is not")]
    Mislabelled {
        /// The image.
        image: String,
        /// The document.
        digest: Digest,
        /// The media type in the index.
        announced: String,
    },
    /// Indexes of indexes without end.
    #[error("`{image}` is an index of indexes more than {limit} deep")]
    TooDeep {
        /// The image.
        image: String,
        /// The bound.
        limit: usize,
    },
    /// A blob that did not come in whole, however often it was tried.
    #[error(
        "`{digest}` from `{host}` broke off at {done} of {total} bytes, {attempts} attempts in a row: {reason}\nhint: try again, which goes on from there; a proxy on the way may cut long downloads short"
    )]
    Interrupted {
        /// The registry.
        host: String,
        /// The blob.
        digest: Digest,
        /// Bytes that came.
        done: u64,
        /// Bytes there are.
        total: u64,
        /// Attempts that failed without progress between them.
        attempts: u32,
        /// How the last one ended.
        reason: String,
    },
    /// The store refused: wrong digest or size, no space.
    #[error(transparent)]
    Store(#[from] StoreError),
}

const HINT_CHANGED: &str =
    "\nhint: try again; if it stays so, the registry or a proxy on the way changes what it serves";

fn fault_hint(fault: Fault, host: &str) -> String {
    match fault {
        Fault::Refused => "\nhint: is the registry running, and is the port right?".to_owned(),
        Fault::UnknownHost => "\nhint: is the registry's name right, and does name resolution work?".to_owned(),
        Fault::NotTls => format!("\nhint: if it is a plain http registry, say so: `--insecure-registry {host}`"),
        Fault::Certificate => {
            format!("\nhint: name its certificate authority, or mark it: `--insecure-registry {host}`")
        }
        Fault::Timeout | Fault::Broken => String::new(),
    }
}

fn denial_hint(answer: &Answer, access: &str) -> &'static str {
    match answer.status {
        401 | 403 if access.contains(GIVEN) => {
            "\nhint: check the image's name, and `username` and `password` of `registry_auth`"
        }
        401 | 403 => {
            "\nhint: check the image's name, and that `docker login` or `podman login` was done for its registry"
        }
        _ => "",
    }
}

fn refusal_hint(answer: &Answer, wait_seconds: Option<u64>) -> String {
    match (answer.status, wait_seconds) {
        (_, Some(seconds)) => format!("\nhint: it asks to wait {seconds} s"),
        (429, None) => "\nhint: wait, or log in: many registries allow more to those they know".to_owned(),
        _ => String::new(),
    }
}
