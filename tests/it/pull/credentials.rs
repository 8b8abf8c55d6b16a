//! Who is shown which credential, and what is said when it does not do.

use dockless::registry::{Login, RegistryError, Secret};
use serde_json::json;

use super::{Puller, file, image_of, in_own_process, ranges, small};
use crate::support::registry::{TestRegistry, TokenService, base64, basic};

#[tokio::test]
async fn a_registry_that_wants_basic_gets_it_from_the_auth_file() {
    let registry = TestRegistry::start();
    let image = small();
    let reference = registry.push("app:1", &image);
    registry.require_basic("ann", "s3cret");
    Puller::with_login(&registry.host(), "ann", "s3cret").pull(&reference).await.unwrap();
    let layer = registry.requests_for(&image.layers[0].digest.to_string());
    assert_eq!(layer[0].header("authorization"), Some(basic("ann", "s3cret").as_str()));
    let given = Login { user: "ann".to_owned(), password: Secret::new("s3cret") };
    Puller::with(|settings, _| settings.login = Some(given)).pull(&reference).await.unwrap();
}

#[tokio::test]
async fn a_refusal_names_the_credential_that_was_used() {
    let registry = TestRegistry::start();
    let reference = registry.push("app:1", &small());
    registry.require_basic("ann", "s3cret");
    insta::assert_snapshot!(Puller::with_login(&registry.host(), "ann", "wr0ng").refused(&reference).await.1, @r"
    registry `HOST` refuses access to `HOST/app:1`: 401 UNAUTHORIZED: authentication required
    asked with the credential of user `ann` from `DIR/auth.json`
    hint: check the image's name, and that `docker login` or `podman login` was done for its registry
    ");
    insta::assert_snapshot!(Puller::with_login("other.io", "ann", "s3cret").refused(&reference).await.1, @r"
    registry `HOST` refuses access to `HOST/app:1`: 401 UNAUTHORIZED: authentication required
    asked anonymously: no credential for `HOST` in `DIR/auth.json`
    hint: check the image's name, and that `docker login` or `podman login` was done for its registry
    ");
    let shown: Vec<_> =
        registry.requests().iter().filter_map(|seen| seen.header("authorization").map(str::to_owned)).collect();
    assert_eq!(shown, [basic("ann", "wr0ng")]);
}

#[tokio::test]
async fn a_registry_that_asks_for_nothing_gets_nothing() {
    let registry = TestRegistry::start();
    let reference = registry.push("app:1", &small());
    let puller = Puller::with_login(&registry.host(), "ann", "s3cret");
    puller.pull(&reference).await.unwrap();
    assert!(registry.requests().iter().all(|seen| seen.header("authorization").is_none()));
    registry.when("/manifests/").refuse(403, "DENIED", "not for you");
    let (_, said) = puller.refused(&reference).await;
    assert!(said.contains("403 DENIED: not for you\nasked anonymously\n"), "{said}");
}

#[tokio::test]
async fn tokens_are_fetched_with_and_without_a_credential() {
    for secret in [true, false] {
        let registry = TestRegistry::start();
        let reference = registry.push("team/app:1", &small());
        let service = if secret { TokenService::new().only_for("ann", "s3cret") } else { TokenService::new() };
        registry.require_token(&service);
        let known_host = if secret { registry.host() } else { "other.io".to_owned() };
        Puller::with_login(&known_host, "ann", "s3cret").pull(&reference).await.unwrap();
        assert_eq!(service.issued(), 1);
        let asked = &registry.requests_for("/token")[0];
        assert!(asked.path.contains("scope=repository%3Ateam%2Fapp%3Apull&service=test-registry"), "{}", asked.path);
        assert_eq!(asked.header("authorization"), secret.then_some(basic("ann", "s3cret").as_str()));
        let content = registry.requests_for("/v2/team/");
        assert!(content[1..].iter().all(|seen| seen.header("authorization") == Some("Bearer token-1")));
    }
}

#[tokio::test]
async fn a_refresh_token_is_posted() {
    let registry = TestRegistry::start();
    let reference = registry.push("app:1", &small());
    registry.require_token(&TokenService::new().only_for("", "").refreshing("r3fresh"));
    let entry = json!({ "auths": { registry.host(): { "auth": base64(b"00000000:"), "identitytoken": "r3fresh" } } });
    let puller =
        Puller::with(|settings, dir| settings.auth_files = vec![file(&dir.join("auth.json"), &entry.to_string())]);
    puller.pull(&reference).await.unwrap();
    let asked = &registry.requests_for("/token")[0];
    assert!(
        asked.method == "POST" && asked.body.contains("grant_type=refresh_token") && !asked.path.contains("r3fresh")
    );
}

#[tokio::test]
async fn a_credential_that_the_token_service_refuses_is_not_dropped_in_silence() {
    let registry = TestRegistry::start();
    let reference = registry.push("app:1", &small());
    registry.require_token(&TokenService::new().only_for("ann", "s3cret"));
    let puller = Puller::with_login(&registry.host(), "ann", "wr0ng");
    insta::assert_snapshot!(puller.refused(&reference).await.1, @r"
    no token for `HOST/app` from `HOST`: 401 incorrect username or password
    asked with the credential of user `ann` from `DIR/auth.json`
    hint: check the image's name, and that `docker login` or `podman login` was done for its registry
    ");
    let asked = registry.requests_for("/token");
    assert!(asked.len() == 1 && asked[0].header("authorization").is_some());
    assert_eq!(registry.requests_for("/manifests/").len(), 1);
}

#[tokio::test]
async fn a_token_that_runs_out_is_renewed_and_the_layer_goes_on() {
    for expired_status in [401, 403] {
        let registry = TestRegistry::start();
        let image = image_of(500_000);
        let layer = &image.layers[0];
        let reference = registry.push("app:1", &image);
        // Manifest, configuration, the first part of the layer; then a fresh one is needed for the probe and the rest.
        let service = TokenService::new().running_out(3, expired_status);
        registry.require_token(&service);
        registry.when(&layer.digest.to_string()).times(1).cut_after(100_000);
        let puller = Puller::new();
        puller.pull(&reference).await.unwrap();
        assert_eq!(puller.blob(&layer.digest), layer.bytes);
        assert_eq!(service.issued(), 2, "after {expired_status}");
        let expected = ["bytes=0-", "bytes=100000-", "bytes=0-0", "bytes=0-0", "bytes=100000-"];
        assert_eq!(ranges(&registry, &layer.digest), expected);
    }
}

#[tokio::test]
async fn a_token_that_is_never_good_ends_the_pull() {
    let registry = TestRegistry::start();
    let reference = registry.push("app:1", &small());
    let service = TokenService::new().running_out(0, 401);
    registry.require_token(&service);
    assert!(matches!(Puller::new().refused(&reference).await.0, RegistryError::Denied { .. }));
    assert_eq!(service.issued(), 1);
    // One use each: the request that finds it good uses it up.
    let service = TokenService::new().running_out(1, 401);
    registry.require_token(&service);
    let puller = Puller::new();
    assert!(puller.pull(&reference).await.is_err());
    assert!(service.issued() < 20);
    assert_eq!(puller.left().1, 0);
}

#[tokio::test]
async fn a_token_that_would_break_the_header_is_refused() {
    for answer in [&br#"{"token":"a\r\nX-Evil: 1"}"#[..], b"{}", b"<html>", &vec![b' '; 300 << 10]] {
        let registry = TestRegistry::start();
        let reference = registry.push("app:1", &small());
        registry.require_token(&TokenService::new());
        registry.when("/token").refuse_with(200, &[], answer);
        let (error, said) = Puller::new().refused(&reference).await;
        assert!(matches!(error, RegistryError::TokenFormat { .. }), "{said}");
    }
}

/// Helpers are found on `PATH`, which belongs to the process.
#[test]
fn credential_helpers_are_asked() {
    let dir = tempfile::tempdir().unwrap();
    let helper = |name: &str, script: &str| {
        let path = file(&dir.path().join(format!("docker-credential-{name}")), &format!("#!/bin/sh\n{script}\n"));
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    };
    // It is asked with the registry's host on its standard input, and must be told so.
    helper("good", r#"read host; echo "{\"ServerURL\":\"$host\",\"Username\":\"ann\",\"Secret\":\"for-$host\"}""#);
    helper("token", r#"cat >/dev/null; echo '{"ServerURL":"","Username":"<token>","Secret":"r3fresh"}'"#);
    helper("empty", "cat >/dev/null; echo 'credentials not found in native keychain'; exit 1");
    helper("broken", r"cat >/dev/null; printf 'the \033[31mvault is sealed\nsecond line' >&2; exit 1");
    helper("silly", "cat >/dev/null; echo hello");
    let path = format!("{}:/usr/bin:/bin", dir.path().display());
    in_own_process("pull::credentials::in_own_process_helpers", &[("PATH", &path)]);
}

#[tokio::test]
#[ignore = "run by credential_helpers_are_asked"]
async fn in_own_process_helpers() {
    let registry = TestRegistry::start();
    let reference = registry.push("app:1", &small());
    let host = registry.host();
    let with = |document: serde_json::Value| {
        Puller::with(|settings, dir| settings.auth_files = vec![file(&dir.join("config.json"), &document.to_string())])
    };
    registry.require_basic("ann", &format!("for-{host}"));
    with(json!({ "credHelpers": { host.as_str(): "good" } })).pull(&reference).await.unwrap();
    with(json!({ "credsStore": "good", "auths": { host.as_str(): {} } })).pull(&reference).await.unwrap();
    // A helper that has nothing is passed over, one that fails is not.
    with(json!({ "credsStore": "good", "credHelpers": { host.as_str(): "empty" } })).pull(&reference).await.unwrap();
    let puller = with(json!({ "credsStore": "good", "credHelpers": { host.as_str(): "broken" } }));
    insta::assert_snapshot!(puller.refused(&reference).await.1, @r"the credential helper `docker-credential-broken`, which `DIR/config.json` names for `HOST`, failed: it said `the \u{1b}[31mvault is sealed`");
    let (_, said) = with(json!({ "credsStore": "silly" })).refused(&reference).await;
    assert!(said.contains("not what the helper protocol expects"), "{said}");
    registry.require_token(&TokenService::new().only_for("", "").refreshing("r3fresh"));
    with(json!({ "credsStore": "token" })).pull(&reference).await.unwrap();
}
