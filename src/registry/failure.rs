//! How one attempt at a request failed, before it is known whether another will be made.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use reqwest::header::WWW_AUTHENTICATE;
use reqwest::{Response, StatusCode};

use super::answer::Answer;
use super::challenge::{self, Challenge};
use super::error::RegistryError;
use super::retry::retry_after;

/// Bytes of a refusal's body that are read.
const MAX_REFUSAL_BYTES: usize = 16 << 10;

/// Why no answer came, as far as it can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nobody listens there.
    Refused,
    /// The name does not resolve.
    UnknownHost,
    /// Whoever answers there does not speak TLS.
    NotTls,
    /// The certificate is not to be trusted.
    Certificate,
    /// Nothing came for too long.
    Timeout,
    /// The connection broke.
    Broken,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "connection refused",
            Self::UnknownHost => "unknown host",
            Self::NotTls => "it does not speak https",
            Self::Certificate => "its certificate cannot be trusted",
            Self::Timeout => "no answer in time",
            Self::Broken => "the connection broke",
        })
    }
}

/// One failed attempt.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server said no.
    Answer(Box<Refusal>),
    /// No answer, or not all of it.
    Transport(Fault, reqwest::Error),
    /// An answer took longer in all than it may.
    Deadline(Duration),
    /// More bytes than a document may have.
    TooLarge(u64),
    /// A redirect that is not followed, and why.
    Redirect(String),
    /// The client itself could not be made.
    Client(reqwest::Error),
}

/// What the server said, and what its headers ask for.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) answer: Answer,
    pub(super) challenge: Option<Challenge>,
    /// The challenges as they stand in the header, for an error message.
    pub(super) challenge_text: String,
    retry_after: Option<Duration>,
}

impl Failure {
    /// Reads a refusal, its body as far as it may go.
    pub(super) async fn from_response(mut response: Response) -> Self {
        let status = response.status().as_u16();
        let retry_after = retry_after(response.headers());
        let headers = response.headers().get_all(WWW_AUTHENTICATE);
        let challenges: Vec<&str> = headers.iter().filter_map(|value| value.to_str().ok()).collect();
        let challenge = challenge::choose(challenges.iter().copied());
        let challenge_text = challenges.join(", ");
        let mut body = Vec::new();
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk[..chunk.len().min(MAX_REFUSAL_BYTES - body.len())]);
            if body.len() == MAX_REFUSAL_BYTES {
                break;
            }
        }
        let answer = Answer::parse(status, &body);
        Self::Answer(Box::new(Refusal { answer, challenge, challenge_text, retry_after }))
    }

    /// Whether another attempt may fare better.
    pub(super) fn is_passing(&self, was_there_before: bool) -> bool {
        match self {
            Self::Answer(refusal) => matches!(refusal.answer.status, 408 | 429 | 500 | 502 | 503 | 504),
            Self::Transport(Fault::Timeout | Fault::Broken, _) | Self::Deadline(_) => true,
            Self::Transport(Fault::Refused | Fault::UnknownHost | Fault::NotTls, _) => was_there_before,
            Self::Transport(Fault::Certificate, _) | Self::TooLarge(_) | Self::Redirect(_) | Self::Client(_) => false,
        }
    }

    /// How long the server asks to wait.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Answer(refusal) => refusal.retry_after,
            _ => None,
        }
    }

    /// The error that is told when there will be no further attempt.
    pub(super) fn into_error(self, host: &str, what: &str) -> RegistryError {
        let (host, what) = (host.to_owned(), what.to_owned());
        match self {
            Self::Answer(refusal) => {
                let wait_seconds = refusal.retry_after.map(|wait| wait.as_secs());
                RegistryError::Refused { host, what, answer: Box::new(refusal.answer), wait_seconds }
            }
            Self::Transport(fault, source) => RegistryError::Connect { host, what, fault, source },
            Self::Deadline(limit) => RegistryError::Slow { host, what, seconds: limit.as_secs() },
            Self::TooLarge(limit_bytes) => RegistryError::TooLarge { host, what, limit_bytes },
            Self::Redirect(reason) => RegistryError::Redirect { host, what, reason },
            Self::Client(source) => RegistryError::Client { host, source },
        }
    }

    /// The refusal, if it is one that a better proof may turn. ECR says 403 where others say 401.
    pub(super) fn denial(&self) -> Option<&Refusal> {
        match self {
            Self::Answer(refusal) if matches!(refusal.answer.status, 401 | 403) => Some(refusal),
            _ => None,
        }
    }
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        // The URL may be a signed one, which is as good as a secret.
        let error = error.without_url();
        if error.is_builder() {
            return Self::Client(error);
        }
        Self::Transport(fault_of(&error), error)
    }
}

/// For the line that announces a retry.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(refusal) => write!(f, "{}", refusal.answer),
            Self::Transport(fault, _) => write!(f, "{fault}"),
            Self::Deadline(limit) => write!(f, "no whole answer in {} s", limit.as_secs()),
            Self::TooLarge(limit) => write!(f, "more than {limit} bytes"),
            Self::Redirect(reason) => f.write_str(reason),
            Self::Client(error) => write!(f, "{error}"),
        }
    }
}

/// Looks through the causes for the one that says most.
pub(super) fn fault_of(error: &reqwest::Error) -> Fault {
    if error.is_timeout() {
        return Fault::Timeout;
    }
    let mut current: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(cause) = current {
        if let Some(fault) = fault_of_cause(cause, error.is_connect()) {
            return fault;
        }
        // An io error that wraps another one passes over it in `source`.
        let wrapped = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        current = wrapped.map_or_else(|| cause.source(), |inner| Some(inner));
    }
    Fault::Broken
}

fn fault_of_cause(cause: &(dyn Error + 'static), connecting: bool) -> Option<Fault> {
    if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
        return Some(match tls {
            rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => Fault::Certificate,
            rustls::Error::InvalidMessage(_) => Fault::NotTls,
            _ => Fault::Broken,
        });
    }
    if let Some(error) = cause.downcast_ref::<io::Error>() {
        return match error.kind() {
            io::ErrorKind::ConnectionRefused => Some(Fault::Refused),
            io::ErrorKind::TimedOut => Some(Fault::Timeout),
            // In a handshake: a server that took our greeting for nonsense and hung up.
            io::ErrorKind::UnexpectedEof if connecting => Some(Fault::NotTls),
            _ => None,
        };
    }
    // The resolver's error type is private to the connector; this is its text.
    (cause.to_string() == "dns error").then_some(Fault::UnknownHost)
}

/// Whether a status means that the answer is the one that was asked for.
pub(super) fn is_success(status: StatusCode) -> bool {
    matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT)
}
