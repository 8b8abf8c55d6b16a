//! Indexes, manifests and configurations that are missing, malformed or lies.

use dockless::image::{Digest, MediaType};
use dockless::registry::RegistryError;
use serde_json::json;

use super::{Puller, image_of, small};
use crate::support::image::{BuiltIndex, descriptor};
use crate::support::registry::TestRegistry;

#[tokio::test]
async fn an_unknown_tag_is_told_with_those_there_are() {
    let (registry, puller) = (TestRegistry::start(), Puller::new());
    for tag in ["1.0", "1.1", "latest"] {
        registry.push(&format!("team/app:{tag}"), &small());
    }
    insta::assert_snapshot!(puller.refused(&registry.reference("team/app:1.00")).await.1, @r"
    `HOST/team/app` has no tag `1.00`: 404 MANIFEST_UNKNOWN: manifest unknown
    hint: there are `1.0`, `1.1`, `latest`
    ");
    assert_eq!(puller.left(), (0, 0));
}

#[tokio::test]
async fn an_unknown_repository_is_told() {
    let (registry, puller) = (TestRegistry::start(), Puller::new());
    insta::assert_snapshot!(puller.refused(&registry.reference("nothing:1")).await.1, @r"
    registry `HOST` has no repository `nothing`: 404 NAME_UNKNOWN: repository name not known to registry
    hint: check the name; a registry may also hide what a login would show
    ");
    let digest = Digest::sha256(b"x");
    let (_, said) = puller.refused(&registry.reference(&format!("nothing@{digest}"))).await;
    assert!(said.contains(&format!("has no image `{digest}`")), "{said}");
}

#[tokio::test]
async fn what_is_not_a_manifest_is_refused() {
    let both = json!({ "schemaVersion": 2, "manifests": [], "layers": [], "config": descriptor("x/y", b"{}") });
    for (body, expected) in [
        ("<html>hello</html>".to_owned(), "is not an image manifest or index"),
        ("{}".to_owned(), "has neither `layers` and `config` nor `manifests`"),
        (both.to_string(), "is both a manifest and an index, refused (CVE-2021-41190)"),
        (r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(), "docker schema 1"),
        (String::new(), "is not an image manifest or index"),
    ] {
        let (registry, puller) = (TestRegistry::start(), Puller::new());
        registry.put_manifest("app:1", MediaType::OCI_MANIFEST, body.as_bytes());
        let (error, said) = puller.refused(&registry.reference("app:1")).await;
        assert!(matches!(error, RegistryError::Document { .. }), "{body}: {error}");
        assert!(
            said.starts_with("`HOST/app:1` is not an image that can be run\nhint: ") && said.contains(expected),
            "{said}"
        );
        assert_eq!(puller.left(), (0, 0));
    }
}

#[tokio::test]
async fn an_index_that_mislabels_is_refused() {
    let (registry, puller) = (TestRegistry::start(), Puller::new());
    let index =
        BuiltIndex::of([small()]).with_index(|index| index["manifests"][0]["mediaType"] = json!(MediaType::OCI_INDEX));
    let reference = registry.push_index("app:1", &index);
    assert!(matches!(puller.refused(&reference).await.0, RegistryError::Mislabelled { .. }));
}

#[tokio::test]
async fn documents_have_a_largest_size() {
    let huge = vec![b' '; (4 << 20) + 1];
    let (registry, puller) = (TestRegistry::start(), Puller::new());
    registry.put_manifest("app:1", MediaType::OCI_MANIFEST, &huge);
    let reference = registry.reference("app:1");
    assert!(matches!(puller.refused(&reference).await.0, RegistryError::TooLarge { .. }));
    registry.when("/manifests/").hide_size();
    assert!(matches!(puller.refused(&reference).await.0, RegistryError::TooLarge { .. }));
    registry.behave();
    let image = small().with_manifest(|manifest| manifest["config"]["size"] = json!(5 << 20));
    assert!(matches!(puller.refused(&registry.push("app:2", &image)).await.0, RegistryError::TooLarge { .. }));
    assert_eq!(registry.requests_for("/blobs/").len(), 0);
}

#[tokio::test]
async fn a_configuration_must_be_the_one_that_was_named() {
    let (registry, puller) = (TestRegistry::start(), Puller::new());
    let image = small();
    let reference = registry.push("app:1", &image);
    let config = Digest::sha256(&image.config);
    registry.when("/blobs/").times(1).replace(b"{}");
    assert!(matches!(puller.refused(&reference).await.0, RegistryError::Digest { .. }));
    registry.remove_blob(&config);
    let (_, said) = puller.refused(&reference).await;
    assert!(
        said.starts_with(&format!("`HOST` has lost `{config}`, a part of `HOST/app:1`: 404 BLOB_UNKNOWN")),
        "{said}"
    );
    let shorter = image.clone().with_manifest(|manifest| manifest["config"]["size"] = json!(1));
    assert!(matches!(puller.refused(&registry.push("app:2", &shorter)).await.0, RegistryError::Size { .. }));
    let fewer = image.with_manifest(|manifest| manifest["layers"] = json!([]));
    let (_, said) = puller.refused(&registry.push("app:3", &fewer)).await;
    assert!(said.contains("has 0 layers but its configuration has 1 diff IDs"), "{said}");
}

#[tokio::test]
async fn a_registry_that_contradicts_itself_is_not_believed() {
    let (registry, puller) = (TestRegistry::start(), Puller::new());
    let reference = registry.push("app:1", &small());
    registry.when("/manifests/1").replace(&image_of(10).manifest);
    assert!(matches!(puller.refused(&reference).await.0, RegistryError::Digest { .. }));
}
