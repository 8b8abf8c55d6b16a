//! Credentials that are given with an image (`registry_auth`): for its registry alone, and before those of auth files.

use std::path::Path;
use std::sync::Arc;

use dockless::engine::{self, Engine, EngineError, ImageRequest, PullPolicy};
use dockless::image::{Observer, Platform, Reference, Silent};
use dockless::network::Places;
use dockless::registry::{Login, Secret};
use dockless::words::describe;
use serde_json::json;

use super::{file, quick, small};
use crate::support::env::have_root;
use crate::support::registry::{TestRegistry, TokenService, base64, basic};

fn login(user: &str, password: &str) -> Login {
    Login { user: user.to_owned(), password: Secret::new(password) }
}

/// An engine in `dir` whose auth file has a wrong entry for each of `hosts`; `None` without root, which it needs.
fn engine(dir: &Path, hosts: &[String]) -> Option<Engine> {
    let mut auths = json!({});
    for host in hosts {
        auths[host] = json!({ "auth": base64(b"file:of-the-file") });
    }
    let mut registry = quick();
    registry.auth_files = vec![file(&dir.join("auth.json"), &json!({ "auths": auths }).to_string())];
    let mut settings = engine::Settings::new(dir.join("root"));
    settings.state = dir.join("state");
    settings.registry = registry;
    settings.leases = dir.join("gpus");
    settings.network = Places { dir: dir.join("network"), tools: Vec::new() };
    // Only pulls: no helper of this program is started.
    assert!(engine::entry(std::env::args_os()).is_none());
    have_root().then(|| Engine::open(settings).unwrap().0)
}

async fn pull(engine: &Engine, reference: &Reference, login: Option<Login>) -> Result<(), EngineError> {
    let mut request = ImageRequest::new(reference.clone());
    request.platform = "linux/amd64".parse::<Platform>().unwrap();
    (request.pull, request.login) = (PullPolicy::Always, login);
    let observer: Arc<dyn Observer> = Arc::new(Silent);
    engine.image(&request, &observer).await.map(drop)
}

/// What was shown to a registry as authorization, without repetitions.
fn shown(registry: &TestRegistry) -> Vec<String> {
    let requests = registry.requests();
    let mut shown: Vec<_> =
        requests.iter().filter_map(|seen| seen.header("authorization").map(str::to_owned)).collect();
    shown.dedup();
    shown
}

#[tokio::test]
async fn it_wins_over_the_auth_file_and_stays_with_its_registry() {
    let (registry, other) = (TestRegistry::start(), TestRegistry::start());
    let dir = tempfile::tempdir().unwrap();
    let Some(engine) = engine(dir.path(), &[registry.host(), other.host()]) else { return };
    let reference = registry.push("app:1", &small());
    registry.require_basic("ann", "s3cret");
    pull(&engine, &reference, Some(login("ann", "s3cret"))).await.unwrap();
    assert_eq!(shown(&registry), [basic("ann", "s3cret")]);
    // The next image of the same engine has the auth file's again.
    let elsewhere = other.push("app:1", &small());
    other.require_basic("file", "of-the-file");
    pull(&engine, &elsewhere, None).await.unwrap();
    assert_eq!(shown(&other), [basic("file", "of-the-file")]);
}

#[tokio::test]
async fn it_is_exchanged_for_a_token() {
    let registry = TestRegistry::start();
    let dir = tempfile::tempdir().unwrap();
    let Some(engine) = engine(dir.path(), &[registry.host()]) else { return };
    let reference = registry.push("team/app:1", &small());
    registry.require_token(&TokenService::new().only_for("ann", "s3cret"));
    pull(&engine, &reference, Some(login("ann", "s3cret"))).await.unwrap();
    assert_eq!(registry.requests_for("/token")[0].header("authorization"), Some(basic("ann", "s3cret").as_str()));
    let content = registry.requests_for("/v2/team/");
    assert!(content[1..].iter().all(|seen| seen.header("authorization") == Some("Bearer token-1")));
}

#[tokio::test]
async fn it_does_not_follow_a_redirect() {
    let (registry, storage) = (TestRegistry::start(), TestRegistry::start());
    let dir = tempfile::tempdir().unwrap();
    let Some(engine) = engine(dir.path(), &[]) else { return };
    let image = small();
    let reference = registry.push("app:1", &image);
    for (digest, bytes) in image.blobs() {
        storage.put_blob(&digest, bytes);
        registry.when(&format!("/blobs/{digest}")).redirect(&format!("{}/v2/x/blobs/{digest}", storage.url()));
    }
    registry.require_basic("ann", "s3cret");
    pull(&engine, &reference, Some(login("ann", "s3cret"))).await.unwrap();
    assert!(!storage.requests().is_empty() && shown(&storage).is_empty());
}

#[tokio::test]
async fn a_wrong_one_is_told_by_its_place_and_not_by_its_value() {
    let basic_registry = TestRegistry::start();
    let token_registry = TestRegistry::start();
    let dir = tempfile::tempdir().unwrap();
    let Some(engine) = engine(dir.path(), &[basic_registry.host(), token_registry.host()]) else { return };
    basic_registry.require_basic("file", "of-the-file");
    token_registry.require_token(&TokenService::new().only_for("file", "of-the-file"));
    for (registry, expected) in [
        (
            &basic_registry,
            "registry `HOST` refuses access to `HOST/app:1`: 401 UNAUTHORIZED: authentication required\n\
             asked with the credential from `registry_auth`\n\
             hint: check the image's name, and `username` and `password` of `registry_auth`",
        ),
        (
            &token_registry,
            "no token for `HOST/app` from `HOST`: 401 incorrect username or password\n\
             asked with the credential from `registry_auth`\n\
             hint: check the image's name, and `username` and `password` of `registry_auth`",
        ),
    ] {
        let reference = registry.push("app:1", &small());
        let given = login("us3r-name", "wr0ng");
        assert!(!format!("{given:?}").contains("us3r-name") && !format!("{given:?}").contains("wr0ng"));
        let error = pull(&engine, &reference, Some(given)).await.expect_err("it was pulled");
        assert_eq!(describe(&error).replace(&registry.host(), "HOST"), expected);
        // No second try with the one of the file, which would have been good.
        assert!(!shown(registry).contains(&basic("file", "of-the-file")));
    }
}
