//! Debian's docker-registry on a free port, with its files in a temporary directory.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::support::env::{Running, have, program, tool, wait_until};

/// A registry that ends with this value.
pub(crate) struct RegistryService {
    dir: TempDir,
    host: String,
    login: Option<(String, String)>,
    _process: Running,
}

impl RegistryService {
    /// One that lets everybody in; `None`, and a word about it, where it is not installed.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(None)
    }

    /// One that wants user and password.
    pub(crate) fn start_guarded(user: &str, password: &str) -> Option<Self> {
        Self::start_with(Some((user.to_owned(), password.to_owned())))
    }

    fn start_with(login: Option<(String, String)>) -> Option<Self> {
        if !have(&["docker-registry", "skopeo", "htpasswd"]) {
            return None;
        }
        let dir = tempfile::tempdir().expect("a directory for the registry");
        let path = dir.path().display();
        let auth = login.as_ref().map_or_else(String::new, |(user, password)| {
            let line = tool("htpasswd", ["-nbB", user, password]);
            fs::write(dir.path().join("htpasswd"), line).expect("a file of ours");
            format!("auth: {{ htpasswd: {{ realm: test, path: {path}/htpasswd }} }}\n")
        });
        // The kernel picks the port, and the log tells which.
        let config = format!(
            "version: 0.1\nlog: {{ level: info, accesslog: {{ disabled: true }} }}\n\
             storage: {{ filesystem: {{ rootdirectory: {path}/data }} }}\n{auth}http: {{ addr: '127.0.0.1:0' }}\n"
        );
        fs::write(dir.path().join("config.yml"), config).expect("a file of ours");
        let mut command = program("sh", ["-c", "exec docker-registry serve \"$0\"/config.yml >\"$0\"/log 2>&1"]);
        let process = Running::start(command.arg(dir.path()));
        let mut host = None;
        wait_until(|| {
            host = listening_on(&fs::read_to_string(dir.path().join("log")).unwrap_or_default());
            host.is_some()
        });
        let host = host.expect("a port in the registry's log");
        Some(Self { dir, host, login, _process: process })
    }

    /// Puts an image of an OCI layout into it; returns its reference.
    pub(crate) fn push(&self, layout: &Path, tag: &str, name: &str) -> String {
        let reference = format!("{}/{name}", self.host);
        let mut words = vec!["copy".to_owned(), "--quiet".to_owned(), "--dest-tls-verify=false".to_owned()];
        if let Some((user, password)) = &self.login {
            words.push(format!("--dest-creds={user}:{password}"));
        }
        words.extend([format!("oci:{}:{tag}", layout.display()), format!("docker://{reference}")]);
        tool("skopeo", words);
        reference
    }

    /// `127.0.0.1:PORT`
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }
}

fn listening_on(log: &str) -> Option<String> {
    let rest = &log[log.find("listening on ")? + "listening on ".len()..];
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':')?;
    Some(rest[..end].to_owned())
}
