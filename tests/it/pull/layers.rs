//! Layers that are missing or not what was named.

use dockless::registry::RegistryError;
use dockless::store::StoreError;
use serde_json::json;

use super::{Puller, image_of, small};
use crate::support::registry::TestRegistry;

#[tokio::test]
async fn a_layer_with_wrong_content_is_not_kept() {
    let image = image_of(5000);
    let right = image.layers[0].bytes.clone();
    let mut wrong = right.clone();
    wrong[100] ^= 1;
    for (content, hidden, expected) in [
        (wrong, false, "has the wrong content"),
        (right[..right.len() - 1].to_vec(), false, "bytes, expected"),
        ([right.as_slice(), b"more"].concat(), false, "bytes, expected"),
        ([right.as_slice(), b"more"].concat(), true, "or more, expected"),
    ] {
        let (registry, puller) = (TestRegistry::start(), Puller::new());
        let reference = registry.push("app:1", &image);
        registry.put_blob(&image.layers[0].digest, &content);
        if hidden {
            registry.when(&image.layers[0].digest.to_string()).hide_size();
        }
        let (error, said) = puller.refused(&reference).await;
        assert!(matches!(error, RegistryError::Store(StoreError::Digest { .. } | StoreError::Size { .. })), "{error}");
        assert!(said.contains(expected) && said.contains("nothing of it was kept"), "{said}");
        assert_eq!(puller.left(), (2, 0));
    }
}

#[tokio::test]
async fn a_layer_that_is_missing_is_told() {
    let (registry, puller) = (TestRegistry::start(), Puller::new());
    let image = image_of(100);
    let reference = registry.push("app:1", &image);
    registry.remove_blob(&image.layers[0].digest);
    let (error, said) = puller.refused(&reference).await;
    assert!(matches!(error, RegistryError::NoBlob { .. }));
    assert!(said.ends_with("404 BLOB_UNKNOWN: blob unknown to registry\nhint: push the image again"), "{said}");
    assert_eq!(puller.left(), (2, 0));
}

#[tokio::test]
async fn what_cannot_fit_is_not_begun() {
    let (registry, puller) = (TestRegistry::start(), Puller::new());
    let image = small().with_manifest(|manifest| manifest["layers"][0]["size"] = json!(1_u64 << 60));
    let reference = registry.push("app:1", &image);
    let (error, _) = puller.refused(&reference).await;
    assert!(matches!(error, RegistryError::Store(StoreError::Space { .. })), "{error}");
    assert!(registry.requests_for(&image.layers[0].digest.to_string()).is_empty());
    assert_eq!(puller.left(), (2, 0));
}
