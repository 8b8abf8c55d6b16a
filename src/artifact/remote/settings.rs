//! How an S3-compatible server is reached and who we are there, from the variables that other tools read as well.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::error::RemoteError;

/// The region where none is named; servers other than Amazon's rarely care.
const DEFAULT_REGION: &str = "us-east-1";

/// Something that is never shown. It goes over a socket to our own process and is written nowhere.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretText(String);

impl SecretText {
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(…)")
    }
}

/// How often and how long is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Patience {
    /// From the first failure of a request on, how long it is tried again.
    pub give_up_after_ms: u64,
    /// Longest pause between two attempts.
    pub longest_pause_ms: u64,
    /// Longest time for one request, its body included.
    pub request_timeout_ms: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self { give_up_after_ms: 60_000, longest_pause_ms: 5_000, request_timeout_ms: 300_000 }
    }
}

impl Patience {
    pub(super) const fn give_up_after(self) -> Duration {
        Duration::from_millis(self.give_up_after_ms)
    }

    pub(super) const fn request_timeout(self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }
}

/// Everything about a server but the bucket. `Debug` shows no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteSettings {
    /// URL of the server; `None` for Amazon's.
    pub(super) endpoint: Option<String>,
    pub(super) region: String,
    /// `http://server/bucket/key` instead of `http://bucket.server/key`.
    pub(super) path_style: bool,
    pub(super) access_key_id: SecretText,
    pub(super) secret_access_key: SecretText,
    pub(super) session_token: Option<SecretText>,
    /// Certificates that are trusted besides the machine's, in PEM.
    pub(super) ca_file: Option<PathBuf>,
    /// How often and how long is tried.
    pub patience: Patience,
}

impl RemoteSettings {
    /// Reads the settings by `lookup`, which gives the value of a variable such as `AWS_REGION`.
    ///
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION` or `AWS_DEFAULT_REGION`,
    /// `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`, `AWS_S3_FORCE_PATH_STYLE` or `AWS_VIRTUAL_HOSTED_STYLE_REQUEST`,
    /// `AWS_ALLOW_HTTP`, `AWS_CA_BUNDLE`. Empty ones count as absent. With an endpoint path style is the default.
    pub fn from_variables(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, RemoteError> {
        let get = |names: &[&str]| names.iter().find_map(|name| lookup(name).filter(|value| !value.is_empty()));
        let secret = |name| get(&[name]).map(SecretText);
        let flag = |names: &[&'static str]| names.iter().find_map(|name| Some((*name, get(&[name])?)));
        let key = |name| secret(name).ok_or(RemoteError::NoCredentials { variable: name });
        let endpoint = get(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]);
        let allow_http = flag(&["AWS_ALLOW_HTTP"]).map(parse_flag).transpose()?.unwrap_or(false);
        if let Some(endpoint) = &endpoint {
            check_endpoint(endpoint, allow_http)?;
        }
        let path_style = flag(&["AWS_S3_FORCE_PATH_STYLE"]).map(parse_flag).transpose()?;
        let virtual_style = flag(&["AWS_VIRTUAL_HOSTED_STYLE_REQUEST"]).map(parse_flag).transpose()?;
        let path_style = path_style.or(virtual_style.map(|virtual_style| !virtual_style));
        Ok(Self {
            path_style: path_style.unwrap_or(endpoint.is_some()),
            endpoint: endpoint.map(|endpoint| endpoint.trim_end_matches('/').to_owned()),
            region: get(&["AWS_REGION", "AWS_DEFAULT_REGION"]).unwrap_or_else(|| DEFAULT_REGION.to_owned()),
            access_key_id: key("AWS_ACCESS_KEY_ID")?,
            secret_access_key: key("AWS_SECRET_ACCESS_KEY")?,
            session_token: secret("AWS_SESSION_TOKEN"),
            ca_file: get(&["AWS_CA_BUNDLE"]).map(PathBuf::from),
            patience: Patience::default(),
        })
    }

    /// For messages.
    pub(super) fn server(&self) -> &str {
        self.endpoint.as_deref().unwrap_or("Amazon S3")
    }
}

fn parse_flag((name, value): (&'static str, String)) -> Result<bool, RemoteError> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err(RemoteError::Flag { variable: name, value: value.escape_debug().to_string() }),
    }
}

/// Keys and artifacts go over http only where nobody can listen, or where the user says so.
fn check_endpoint(endpoint: &str, allow_http: bool) -> Result<(), RemoteError> {
    let bad = || RemoteError::Endpoint { endpoint: hide_login(endpoint) };
    let url: Url = endpoint.parse().map_err(|_| bad())?;
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(bad)?;
    let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    if !plain || !matches!(url.scheme(), "http" | "https") {
        return Err(bad());
    }
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    let is_loopback = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
    if url.scheme() == "https" || is_loopback || allow_http {
        return Ok(());
    }
    Err(RemoteError::InsecureEndpoint { endpoint: endpoint.to_owned() })
}

/// A URL for a message, without what stands before an `@`.
fn hide_login(url: &str) -> String {
    let shown = match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://…@{host}"),
        _ => url.to_owned(),
    };
    shown.escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<RemoteSettings, RemoteError> {
        let keys = [("AWS_ACCESS_KEY_ID", "AKIAhunter2"), ("AWS_SECRET_ACCESS_KEY", "hunter2")];
        let all: Vec<_> = variables.iter().chain(&keys).collect();
        RemoteSettings::from_variables(|name| {
            all.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn variables_of_other_tools() {
        let amazon = settings(&[("AWS_REGION", ""), ("AWS_DEFAULT_REGION", "eu-central-1")]).unwrap();
        assert_eq!((amazon.region.as_str(), amazon.path_style, amazon.endpoint), ("eu-central-1", false, None));
        let own = settings(&[
            ("AWS_ENDPOINT_URL", "https://other"),
            ("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9000/"),
            ("AWS_SESSION_TOKEN", "hunter2"),
        ])
        .unwrap();
        assert_eq!(own.endpoint.as_deref(), Some("http://127.0.0.1:9000"));
        assert!(own.path_style && own.region == "us-east-1" && own.session_token.is_some());
        assert!(!format!("{own:?}").contains("hunter2"), "{own:?}");
        let style = |name, value| settings(&[("AWS_ENDPOINT_URL", "https://host"), (name, value)]).unwrap().path_style;
        assert!(!style("AWS_S3_FORCE_PATH_STYLE", "false"));
        assert!(!style("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true"));
        let sent = serde_json::to_string(&own).unwrap();
        assert_eq!(serde_json::from_str::<RemoteSettings>(&sent).unwrap(), own);
    }

    #[test]
    fn what_is_refused() {
        for (variables, message) in [
            (vec![("AWS_ACCESS_KEY_ID", "")], "set AWS_ACCESS_KEY_ID"),
            (vec![("AWS_SECRET_ACCESS_KEY", "")], "set AWS_SECRET_ACCESS_KEY"),
            (vec![("AWS_ENDPOINT_URL", "http://storage.example")], "hint: use https, or set AWS_ALLOW_HTTP=true"),
            (vec![("AWS_ENDPOINT_URL", "host:9000")], "expected `https://host[:port]`"),
            (vec![("AWS_ENDPOINT_URL", "https://me:hunter2@host")], "`https://…@host`"),
            (vec![("AWS_ALLOW_HTTP", "maybe")], "AWS_ALLOW_HTTP is `maybe`"),
        ] {
            // What is found first wins.
            let error = settings(&variables).unwrap_err().to_string();
            assert!(error.contains(message) && !error.contains("hunter2"), "{variables:?} gave: {error}");
        }
        for good in ["http://localhost:1", "http://[::1]:9000", "https://storage.example"] {
            settings(&[("AWS_ENDPOINT_URL", good)]).unwrap();
        }
        settings(&[("AWS_ENDPOINT_URL", "http://storage.example"), ("AWS_ALLOW_HTTP", "1")]).unwrap();
    }
}
