//! What can go wrong between here and an object store.

use std::io;
use std::path::PathBuf;

use crate::store::RunName;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// An operation on an object store that failed.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// Nobody to be.
    #[error("no credentials for the artifact store: {variable} is not set\nhint: set {variable}, or use a local store")]
    NoCredentials {
        /// What is missing.
        variable: &'static str,
    },
    /// Neither true nor false.
    #[error("{variable} is `{value}`, expected `true` or `false`")]
    Flag {
        /// The variable.
        variable: &'static str,
        /// What it says.
        value: String,
    },
    /// Not a server's URL.
    #[error("AWS_ENDPOINT_URL is `{endpoint}`, expected `https://host[:port]`")]
    Endpoint {
        /// As given, without a login in it.
        endpoint: String,
    },
    /// Keys would travel in the clear.
    #[error(
        "AWS_ENDPOINT_URL is `{endpoint}`, over which anybody could read keys and artifacts\nhint: use https, or set AWS_ALLOW_HTTP=true if the network is yours alone"
    )]
    InsecureEndpoint {
        /// As given.
        endpoint: String,
    },
    /// The client cannot be made.
    #[error("cannot set up the connection to `{server}`")]
    Client {
        /// The server.
        server: String,
        /// Why.
        #[source]
        source: Cause,
    },
    /// The server has said no.
    #[error("`{server}` refuses to {operation} `{object}`: {answer}{hint}")]
    Refused {
        /// The server.
        server: String,
        /// What was done.
        operation: &'static str,
        /// To what: `s3://bucket/key`.
        object: String,
        /// Status, code and message.
        answer: String,
        /// Whether there is no such object.
        missing: bool,
        /// What to do, with its `\nhint: `.
        hint: &'static str,
    },
    /// The server cannot be talked to.
    #[error("cannot {operation} `{object}`: `{server}` does not answer as it should, tried for {tried_s} s")]
    Unreachable {
        /// The server.
        server: String,
        /// What was done.
        operation: &'static str,
        /// To what.
        object: String,
        /// How long.
        tried_s: u64,
        /// Why.
        #[source]
        source: Cause,
    },
    /// Another run has that name there.
    #[error(
        "there are artifacts of another run `{run}` in `{store}`\nhint: choose another `--name`, or remove them with `dockless artifacts rm {run}`"
    )]
    Taken {
        /// The run.
        run: RunName,
        /// The store.
        store: String,
    },
    /// What was downloaded is not what was saved.
    #[error("`{object}` is damaged: {why}")]
    Damaged {
        /// What.
        object: String,
        /// How that shows.
        why: String,
    },
    /// The uploading process fails us.
    #[error("cannot {operation} the uploader")]
    Process {
        /// What was done.
        operation: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The artifacts are not in the store, but nothing is lost.
    #[error(
        "the artifacts of run `{run}` are not saved: {told}\nhint: they stay in `{kept_in}`; `dockless artifacts save {run}` tries again and sends only what is missing"
    )]
    NotSaved {
        /// The run.
        run: RunName,
        /// Why, in words.
        told: String,
        /// Where they are.
        kept_in: PathBuf,
    },
}

impl RemoteError {
    /// Whether the server says that there is no such object.
    pub(super) const fn is_missing(&self) -> bool {
        matches!(self, Self::Refused { missing: true, .. })
    }
}
