//! Which hosts may speak what, certificates and proxies.

use dockless::image::Reference;
use dockless::registry::{Fault, Proxies, Registry, RegistryError, Secret, Settings};

use super::{Puller, file, quick, small};
use crate::support::registry::TestRegistry;

#[tokio::test]
async fn https_is_tried_first_on_loopback_and_needs_no_authority_there() {
    let (registry, puller) = (TestRegistry::start_tls(), Puller::new());
    let reference = registry.push("app:1", &small());
    puller.pull(&reference).await.unwrap();
    let localhost: Reference = reference.to_string().replace("127.0.0.1", "localhost").parse().unwrap();
    puller.pull(&localhost).await.unwrap();
}

#[tokio::test]
async fn a_foreign_host_must_speak_https_with_a_certificate_that_verifies() {
    let registry = TestRegistry::start_at("0.0.0.0", true);
    let reference = registry.push("app:1", &small());
    let (error, said) = Puller::new().refused(&reference).await;
    assert!(matches!(error, RegistryError::Connect { fault: Fault::Certificate, .. }), "{said}");
    let hint = "its certificate cannot be trusted\nhint: name its certificate authority, or mark it: `--insecure-registry HOST`\n";
    assert!(said.contains(hint), "{said}");

    let with_authority = Puller::with(|settings, dir| {
        // A bundle, as they come: the right one is not the first.
        let (path, other) = (dir.join("ca.pem"), TestRegistry::start_tls());
        std::fs::write(&path, [other.certificate(), registry.certificate()].concat()).unwrap();
        settings.ca_file = Some(path);
    });
    with_authority.pull(&reference).await.unwrap();
    let marked = Puller::with(|settings, _| settings.insecure_hosts = vec![registry.host()]);
    marked.pull(&reference).await.unwrap();
}

#[tokio::test]
async fn a_foreign_host_that_speaks_plain_http_must_be_marked() {
    let registry = TestRegistry::start_at("0.0.0.0", false);
    let reference = registry.push("app:1", &small());
    let puller = Puller::new();
    let (error, said) = puller.refused(&reference).await;
    assert!(matches!(error, RegistryError::Connect { fault: Fault::NotTls, .. }), "{said}");
    let hint = "it does not speak https\nhint: if it is a plain http registry, say so: `--insecure-registry HOST`\n";
    assert!(said.contains(hint), "{said}");
    assert!(registry.requests().is_empty());
    assert!(puller.heard.of("Retrying").is_empty());
    let marked = Puller::with(|settings, _| settings.insecure_hosts = vec!["0.0.0.0".to_owned()]);
    marked.pull(&reference).await.unwrap();
}

#[tokio::test]
async fn a_certificate_file_must_hold_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let missing = Settings { ca_file: Some(dir.path().join("missing.pem")), ..quick() };
    assert!(matches!(Registry::new(missing), Err(RegistryError::CaFile { .. })));
    for text in ["", "hello", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"] {
        let settings = Settings { ca_file: Some(file(&dir.path().join("ca.pem"), text)), ..quick() };
        assert!(matches!(Registry::new(settings), Err(RegistryError::CaFileFormat { .. })), "{text}");
    }
}

#[tokio::test]
async fn proxies_are_used_for_all_but_loopback() {
    let proxy = TestRegistry::start();
    let image = small();
    proxy.push("app:1", &image);
    let reference: Reference = "registry.invalid:80/app:1".parse().unwrap();
    let through = || {
        Puller::with(|settings, _| {
            settings.insecure_hosts = vec!["registry.invalid".to_owned()];
            settings.proxies = Proxies {
                http: Some(Secret::new(proxy.url())),
                https: Some(Secret::new(proxy.url())),
                bypass: String::new(),
            };
        })
    };
    through().pull(&reference).await.unwrap();
    assert_eq!(proxy.requests_for("/blobs/").len(), 2);
    // The same puller reaches a local registry directly.
    let local = TestRegistry::start();
    through().pull(&local.push("app:1", &image)).await.unwrap();
    assert_eq!(proxy.requests_for("/blobs/").len(), 2);
}
