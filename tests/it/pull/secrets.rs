//! Secrets stay where they belong, wherever a registry points.

use dockless::registry::RegistryError;
use serde_json::json;

use super::{Puller, small};
use crate::support::image::ImageBuilder;
use crate::support::registry::{TestRegistry, TokenService};

#[tokio::test]
async fn a_secret_never_goes_to_a_plain_http_realm_of_an_https_registry() {
    let (registry, thief) = (TestRegistry::start_tls(), TestRegistry::start());
    let reference = registry.push("app:1", &small());
    let service = TokenService::new();
    thief.serve_tokens(&service);
    registry.require_token_from(&format!("{}/token", thief.url()), &service);
    let (error, said) = Puller::with_login(&registry.host(), "ann", "s3cret").refused(&reference).await;
    assert!(matches!(error, RegistryError::Realm { .. }), "{said}");
    assert!(said.contains("a secret would travel in the clear"), "{said}");
    assert!(thief.requests().is_empty());
}

#[tokio::test]
async fn a_secret_never_goes_to_a_metadata_service() {
    for realm in
        ["http://169.254.169.254/token", "https://[fd00:ec2::254]/token", "http://user@h.io/", "file:///etc/passwd"]
    {
        let registry = TestRegistry::start();
        let reference = registry.push("app:1", &small());
        registry.require_token_from(realm, &TokenService::new());
        let (error, said) = Puller::with_login(&registry.host(), "ann", "s3cret").refused(&reference).await;
        assert!(matches!(error, RegistryError::Realm { .. }), "{said}");
    }
}

#[tokio::test]
async fn a_token_service_on_another_host_may_be_named_but_not_redirected_to() {
    let (registry, service_host, thief) = (TestRegistry::start(), TestRegistry::start(), TestRegistry::start());
    let reference = registry.push("app:1", &small());
    let service = TokenService::new().only_for("ann", "s3cret");
    service_host.serve_tokens(&service);
    thief.serve_tokens(&TokenService::new());
    registry.require_token_from(&format!("{}/token", service_host.url()), &service);
    Puller::with_login(&registry.host(), "ann", "s3cret").pull(&reference).await.unwrap();
    service_host.when("/token").redirect(&format!("{}/token", thief.url()));
    let (error, said) = Puller::with_login(&registry.host(), "ann", "s3cret").refused(&reference).await;
    assert!(matches!(error, RegistryError::Redirect { .. }), "{said}");
    assert!(thief.requests().is_empty());
}

#[tokio::test]
async fn a_redirect_to_another_host_loses_the_authorization() {
    for token in [false, true] {
        let (registry, storage) = (TestRegistry::start(), TestRegistry::start());
        let image = small();
        let reference = registry.push("app:1", &image);
        for (digest, bytes) in image.blobs() {
            storage.put_blob(&digest, bytes);
            registry
                .when(&format!("/blobs/{digest}"))
                .redirect(&format!("{}/v2/x/blobs/{digest}?X-Signature=s3cret", storage.url()));
        }
        if token {
            registry.require_token(&TokenService::new());
        } else {
            registry.require_basic("ann", "s3cret");
        }
        let puller = Puller::with_login(&registry.host(), "ann", "s3cret");
        puller.pull(&reference).await.unwrap();
        assert_eq!(puller.blob(&image.layers[0].digest), image.layers[0].bytes);
        let sent: Vec<_> =
            registry.requests_for("/blobs/").iter().map(|seen| seen.header("authorization").is_some()).collect();
        assert_eq!(sent, [true, true]);
        assert_eq!(storage.requests().len(), 2);
        assert!(storage.requests().iter().all(|seen| seen.header("authorization").is_none()));
        // A signed URL is as good as a secret.
        storage.when("/blobs/").hang_up();
        let (_, said) = Puller::with_login(&registry.host(), "ann", "s3cret").refused(&reference).await;
        assert!(!said.contains("s3cret"), "{said}");
    }
}

#[tokio::test]
async fn redirects_that_lead_astray_are_refused() {
    for (target, expected) in [
        ("/v2/app/manifests/1", "it redirects more than 10 times"),
        ("http://169.254.169.254/latest/meta-data", "the address of a metadata service"),
        ("file:///etc/passwd", "it redirects from https to `file://"),
        ("http://", "it redirects to nowhere"),
    ] {
        let (registry, puller) = (TestRegistry::start(), Puller::new());
        let reference = registry.push("app:1", &small());
        registry.when("/manifests/").redirect(target);
        let (error, said) = puller.refused(&reference).await;
        assert!(matches!(error, RegistryError::Redirect { .. }), "{said}");
        assert!(said.contains(expected), "{said}");
    }
}

#[tokio::test]
async fn an_unknown_kind_of_challenge_is_told() {
    let (registry, puller) = (TestRegistry::start(), Puller::new());
    let reference = registry.push("app:1", &small());
    registry.when("/manifests/").refuse_with(401, &[("WWW-Authenticate", "Negotiate abc")], b"");
    insta::assert_snapshot!(puller.refused(&reference).await.1, @"registry `HOST` asks for authentication as `Negotiate abc`, expected `Bearer` or `Basic`");
}

#[tokio::test]
async fn foreign_layers_come_from_where_https_or_loopback_allows() {
    let (registry, elsewhere, forbidden) =
        (TestRegistry::start(), TestRegistry::start(), TestRegistry::start_at("0.0.0.0", false));
    let plain = small();
    let digest = plain.layers[0].digest.clone();
    let path = |host: &TestRegistry| format!("{}/v2/x/blobs/{digest}", host.url());
    for host in [&elsewhere, &forbidden] {
        host.put_blob(&digest, &plain.layers[0].bytes);
    }
    let image = ImageBuilder::new().file("/hi", "x").foreign(&[&path(&forbidden), &path(&elsewhere)]).build();
    assert_eq!(image.layers[0].digest, digest);
    let reference = registry.push("app:1", &image);
    registry.remove_blob(&digest);
    registry.require_basic("ann", "s3cret");
    let puller = Puller::with_login(&registry.host(), "ann", "s3cret");
    puller.pull(&reference).await.unwrap();
    assert_eq!(puller.blob(&digest), image.layers[0].bytes);
    assert!(forbidden.requests().is_empty());
    assert!(elsewhere.requests().iter().all(|seen| seen.header("authorization").is_none()));
    // The same URLs at a layer that is not foreign are not looked at.
    let image = image.with_manifest(|manifest| {
        manifest["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+gzip");
    });
    let reference = registry.push("app:2", &image);
    registry.remove_blob(&digest);
    let puller = Puller::with_login(&registry.host(), "ann", "s3cret");
    assert!(matches!(puller.refused(&reference).await.0, RegistryError::NoBlob { .. }));
    assert_eq!(elsewhere.requests().len(), 1);
}
