//! Auth files of docker (`config.json`) and podman (`auth.json`), and the credential helpers they name.
//!
//! Keys of `auths` come in several forms: `host`, `https://host/v1/` (docker), `host/namespace/repository` (podman; the
//! longest that fits wins, containers-auth.json(5)). Docker's hub goes by `docker.io`, `index.docker.io` and
//! `registry-1.docker.io`. Within a file a helper for the host comes first, then an entry, then the general helper;
//! the first file that has something wins. Values are never quoted in errors: they may be secrets.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use docker_credential::{CredentialRetrievalError, DockerCredential};
use serde_json::{Value, json};

use super::answer::shown;
use super::credential::{Credential, Login, Origin, Proof, Secret};
use super::error::RegistryError;

/// Largest auth file that is read.
const MAX_AUTH_FILE_BYTES: u64 = 1 << 20;
/// How long a helper may think; some ask a person for a password.
const HELPER_TIMEOUT: Duration = Duration::from_secs(60);
/// What docker calls its hub in its own files and to its helpers.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// Finds the credential for a repository of `registry` (as it stands in the reference) in the first of `files` that has
/// one. Files that are not there are passed over.
pub(super) async fn find(
    files: &[PathBuf],
    registry: &str,
    repository: &str,
) -> Result<Option<Credential>, RegistryError> {
    for path in files {
        let Some(document) = read(path)? else { continue };
        for found in lookup(&document, registry, repository) {
            let credential = match found {
                Found::Entry { key, entry } => from_entry(path, key, entry)?,
                Found::Helper(name) => from_helper(path, name, registry).await?,
            };
            if credential.is_some() {
                return Ok(credential);
            }
        }
    }
    Ok(None)
}

fn read(path: &Path) -> Result<Option<Value>, RegistryError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_AUTH_FILE_BYTES + 1).read_to_end(&mut bytes));
    match read {
        Ok(size) if size as u64 > MAX_AUTH_FILE_BYTES => {
            let source = io::Error::other(format!("larger than {MAX_AUTH_FILE_BYTES} bytes"));
            Err(RegistryError::AuthFile { path: path.to_owned(), source })
        }
        // An empty file is what `touch` and some installers leave.
        Ok(0) => Ok(None),
        Ok(_) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| RegistryError::AuthFileJson { path: path.to_owned(), source }),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(source) => Err(RegistryError::AuthFile { path: path.to_owned(), source }),
    }
}

/// Something in an auth file that may lead to a credential.
#[derive(Debug, PartialEq)]
enum Found<'a> {
    Entry { key: &'a str, entry: &'a Value },
    Helper(&'a str),
}

/// What the file has for the repository, in the order to try.
fn lookup<'a>(document: &'a Value, registry: &str, repository: &str) -> Vec<Found<'a>> {
    let scopes = scopes(registry, repository);
    let best = |section: &str| {
        let entries = document[section].as_object()?;
        scopes.iter().find_map(|scope| entries.iter().find(|(key, _)| normalized(key) == *scope))
    };
    let named = |value: &'a Value| value.as_str().filter(|name| !name.is_empty()).map(Found::Helper);
    let own_helper = best("credHelpers").and_then(|(_, name)| named(name));
    let entry = best("auths").map(|(key, entry)| Found::Entry { key, entry });
    [own_helper, entry, named(&document["credsStore"])].into_iter().flatten().collect()
}

/// The names under which a credential for the repository may stand, the most special first.
fn scopes(registry: &str, repository: &str) -> Vec<String> {
    let full = format!("{}/{repository}", canonical_host(registry));
    let cuts = full.match_indices('/').map(|(at, _)| full[..at].to_owned()).collect::<Vec<_>>();
    std::iter::once(full).chain(cuts.into_iter().rev()).collect()
}

fn canonical_host(host: &str) -> &str {
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    }
}

/// A key of an auth file as `host[/namespace]`.
fn normalized(key: &str) -> String {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let (host, path) = bare.unwrap_or(key).split_once('/').unwrap_or((bare.unwrap_or(key), ""));
    let path = path.trim_end_matches('/');
    // A key that is a URL is docker's and means the whole host; so do the version suffixes of old files.
    if bare.is_some() || matches!(path, "" | "v1" | "v2") {
        return canonical_host(host).to_owned();
    }
    format!("{}/{path}", canonical_host(host))
}

fn from_entry(path: &Path, key: &str, entry: &Value) -> Result<Option<Credential>, RegistryError> {
    let bad = |reason: &str| RegistryError::AuthFileEntry {
        path: path.to_owned(),
        key: key.to_owned(),
        reason: reason.to_owned(),
    };
    let field = |name: &str| match &entry[name] {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        _ => Err(bad(&format!("`{name}` is not a string"))),
    };
    if !entry.is_object() && !entry.is_null() {
        return Err(bad("it is not an object"));
    }
    let origin = Origin::File(path.to_owned());
    if let Some(token) = field("registrytoken")? {
        return Ok(Some(Credential { proof: Proof::Bearer(Secret::new(token)), origin }));
    }
    let mut fields = serde_json::Map::new();
    for name in ["auth", "username", "password", "identitytoken"] {
        if let Some(text) = field(name)? {
            fields.insert(name.to_owned(), json!(text));
        }
    }
    // With a general helper docker leaves empty entries behind as a list of where one is logged in.
    if fields.is_empty() {
        return Ok(None);
    }
    let alone = json!({ "auths": { "it": fields } }).to_string();
    match docker_credential::get_credential_from_reader(alone.as_bytes(), "it") {
        Ok(credential) => Ok(Some(Credential { proof: proof(credential), origin })),
        Err(CredentialRetrievalError::CredentialDecodingError) => Err(bad("`auth` is not base64 of `user:password`")),
        Err(CredentialRetrievalError::CredentialMismatchError) => {
            Err(bad("`auth` disagrees with `username` and `password`"))
        }
        Err(_) => Err(bad("it is incomplete, expected `auth`, or `username` and `password`, or `identitytoken`")),
    }
}

fn proof(credential: DockerCredential) -> Proof {
    match credential {
        DockerCredential::IdentityToken(token) => Proof::Identity(Secret::new(token)),
        DockerCredential::UsernamePassword(user, password) => {
            // Old dockers padded the password with zero bytes.
            Proof::Password(Login { user, password: Secret::new(password.trim_end_matches('\0')) })
        }
    }
}

/// Asks `docker-credential-<name>` (found on `PATH`, as docker does); `None` when it has nothing for the registry.
async fn from_helper(path: &Path, name: &str, registry: &str) -> Result<Option<Credential>, RegistryError> {
    let failed = |reason: String| RegistryError::Helper {
        helper: shown(name),
        path: path.to_owned(),
        registry: registry.to_owned(),
        reason,
    };
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        return Err(failed("its name has characters other than letters, digits, `-`, `_`, `.`".to_owned()));
    }
    let server = if canonical_host(registry) == "docker.io" { HUB_KEY } else { registry };
    let request = json!({ "credHelpers": { server: name } }).to_string();
    let (tell, told) = tokio::sync::oneshot::channel();
    let server = server.to_owned();
    // A thread of its own and not one of the runtime's: a helper that hangs must not keep the runtime from ending.
    std::thread::Builder::new()
        .name("credential-helper".to_owned())
        .spawn(move || drop(tell.send(docker_credential::get_credential_from_reader(request.as_bytes(), &server))))
        .map_err(|error| failed(error.to_string()))?;
    let answer = tokio::time::timeout(HELPER_TIMEOUT, told)
        .await
        .map_err(|_| failed(format!("no answer in {} s", HELPER_TIMEOUT.as_secs())))?
        .map_err(|_| failed("it could not be asked".to_owned()))?;
    let origin = Origin::Helper { name: name.to_owned(), file: path.to_owned() };
    match answer {
        Ok(credential) => Ok(Some(Credential { proof: proof(credential), origin })),
        // The helper protocol has only this sentence for it (docker-credential-helpers, `credentials/error.go`).
        Err(CredentialRetrievalError::HelperFailure { stdout, .. }) if stdout.contains("credentials not found") => {
            Ok(None)
        }
        Err(CredentialRetrievalError::HelperFailure { stdout, stderr, .. }) => {
            let said = if stderr.trim().is_empty() { stdout } else { stderr };
            Err(failed(format!("it said `{}`", shown(&said))))
        }
        Err(CredentialRetrievalError::HelperCommunicationError) => Err(failed("it cannot be started".to_owned())),
        Err(_) => Err(failed("its answer is not what the helper protocol expects".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// base64 of `ann:pass`.
    const ANN: &str = "YW5uOnBhc3M=";

    fn key_for(document: &Value, registry: &str, repository: &str) -> Option<String> {
        lookup(document, registry, repository).into_iter().find_map(|found| match found {
            Found::Entry { key, .. } => Some(key.to_owned()),
            Found::Helper(_) => None,
        })
    }

    #[test]
    fn every_form_of_key_is_found() {
        for (key, registry, repository, fits) in [
            ("ghcr.io", "ghcr.io", "a/b", true),
            ("https://ghcr.io", "ghcr.io", "a/b", true),
            ("https://ghcr.io/v1/", "ghcr.io", "a/b", true),
            ("http://h:5000/v2/", "h:5000", "a", true),
            ("h:5000", "h", "a", false),
            ("h", "h:5000", "a", false),
            ("ghcr.io/a", "ghcr.io", "a/b", true),
            ("ghcr.io/a/b", "ghcr.io", "a/b", true),
            ("ghcr.io/a/b", "ghcr.io", "a/bc", false),
            ("ghcr.io/a", "ghcr.io", "ab", false),
            ("https://index.docker.io/v1/", "docker.io", "library/a", true),
            ("index.docker.io", "docker.io", "library/a", true),
            ("docker.io/library", "docker.io", "library/a", true),
            ("docker.io", "evil.io", "docker.io/a", false),
            ("ghcr.io.evil.io", "ghcr.io", "a", false),
        ] {
            let document = json!({ "auths": { key: { "auth": ANN } } });
            let found = key_for(&document, registry, repository);
            assert_eq!(found.is_some(), fits, "key {key} for {registry}/{repository}");
        }
    }

    #[test]
    fn the_most_special_key_wins() {
        let document = json!({ "auths": { "h.io": {}, "h.io/a": {}, "h.io/a/b": {}, "https://h.io/v1/": {} } });
        assert_eq!(key_for(&document, "h.io", "a/b").unwrap(), "h.io/a/b");
        assert_eq!(key_for(&document, "h.io", "a/c").unwrap(), "h.io/a");
        assert_eq!(key_for(&document, "h.io", "c").unwrap(), "h.io");
    }

    #[test]
    fn helpers_stand_around_the_entries() {
        let document = json!({
            "auths": { "h.io": {} }, "credHelpers": { "h.io": "ecr-login", "o.io": "" }, "credsStore": "pass"
        });
        let order = lookup(&document, "h.io", "a");
        assert_eq!(order[0], Found::Helper("ecr-login"));
        assert!(matches!(order[1], Found::Entry { .. }));
        assert_eq!(order[2], Found::Helper("pass"));
        assert_eq!(lookup(&document, "o.io", "a"), [Found::Helper("pass")]);
        assert_eq!(lookup(&json!({ "auths": null }), "o.io", "a"), []);
    }

    fn entry(entry: &Value) -> Result<Option<Proof>, String> {
        from_entry(Path::new("/auth.json"), "h.io", entry)
            .map(|credential| credential.map(|credential| credential.proof))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn entries_are_decoded() {
        let ann = Proof::Password(Login { user: "ann".to_owned(), password: Secret::new("pass") });
        assert_eq!(entry(&json!({ "auth": ANN })), Ok(Some(ann.clone())));
        assert_eq!(entry(&json!({ "auth": "YW5uOnBhc3MAAA==" })), Ok(Some(ann.clone())));
        assert_eq!(entry(&json!({ "username": "ann", "password": "pass" })), Ok(Some(ann)));
        let identity = json!({ "auth": ANN, "identitytoken": "t" });
        assert_eq!(entry(&identity), Ok(Some(Proof::Identity(Secret::new("t")))));
        assert_eq!(entry(&json!({ "registrytoken": "t" })), Ok(Some(Proof::Bearer(Secret::new("t")))));
        assert_eq!(entry(&json!({})), Ok(None));
        assert_eq!(entry(&json!({ "auth": "", "identitytoken": null })), Ok(None));
    }

    #[test]
    fn bad_entries_are_told_without_their_values() {
        for bad in [
            json!("s3cret"),
            json!({ "auth": "s3cret!" }),
            json!({ "auth": ["s3cret"] }),
            json!({ "username": "s3cret" }),
            json!({ "auth": ANN, "username": "ann", "password": "s3cret" }),
        ] {
            let message = entry(&bad).unwrap_err();
            assert!(message.contains("`h.io`") && message.contains("`/auth.json`"), "{message}");
            assert!(!message.contains("s3cret"), "{message}");
        }
    }

    #[tokio::test]
    async fn the_first_file_that_has_something_wins() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let files = [
            dir.path().join("missing.json"),
            write("empty.json", ""),
            write("other.json", r#"{"auths":{"other.io":{"auth":"YW5uOnBhc3M="}}}"#),
            write("one.json", r#"{"auths":{"h.io":{"username":"one","password":"p"}}}"#),
            write("two.json", r#"{"auths":{"h.io":{"username":"two","password":"p"}}}"#),
        ];
        let found = find(&files, "h.io", "a").await.unwrap().unwrap();
        assert!(found.to_string().contains("`one`") && found.to_string().contains("one.json"), "{found}");
        assert_eq!(find(&files, "nowhere.io", "a").await.unwrap(), None);
        let broken = write("broken.json", r#"{"auths": "#);
        let error = find(&[broken], "h.io", "a").await.unwrap_err();
        assert!(matches!(error, RegistryError::AuthFileJson { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_helper_that_cannot_be_asked_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, r#"{"credHelpers":{"h.io":"no-such-helper-here"}}"#).unwrap();
        let error = find(std::slice::from_ref(&path), "h.io", "a").await.unwrap_err().to_string();
        assert!(error.contains("`docker-credential-no-such-helper-here`") && error.contains("started"), "{error}");
        std::fs::write(&path, r#"{"credsStore":"../../bin/sh"}"#).unwrap();
        let error = find(&[path], "h.io", "a").await.unwrap_err().to_string();
        assert!(error.contains("characters"), "{error}");
    }
}
