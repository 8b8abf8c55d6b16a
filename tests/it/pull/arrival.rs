//! What is right comes through.

use dockless::image::{Digest, Platform, Reference, Silent};
use dockless::registry::RegistryError;
use dockless::store::Store;
use serde_json::json;

use super::{Puller, image_of, pattern_layer, small};
use crate::support::image::{BuiltIndex, ImageBuilder, Packing, descriptor};
use crate::support::registry::TestRegistry;

#[tokio::test]
async fn an_image_arrives_as_it_was_pushed() {
    for image in [
        small(),
        ImageBuilder::new().docker_schema2().file("/hi", "x").layer().file("/ho", "y").build(),
        ImageBuilder::new().packing(Packing::Zstd).file("/hi", "x").layer().packing(Packing::Plain).dir("/d").build(),
    ] {
        let (registry, puller) = (TestRegistry::start(), Puller::new());
        let reference = registry.push("library/app:1", &image);
        let resolved = puller.pull(&reference).await.unwrap();
        assert_eq!(resolved.image.manifest_digest, image.digest());
        assert_eq!(resolved.top().media_type.0, image.media_type);
        assert_eq!(puller.blob(&image.digest()), image.manifest);
        for (digest, bytes) in image.blobs() {
            assert_eq!(puller.blob(&digest), bytes);
        }
        assert_eq!(puller.left(), (image.layers.len() + 2, 0));
    }
}

#[tokio::test]
async fn a_second_pull_fetches_no_layer() {
    let (registry, puller) = (TestRegistry::start(), Puller::new());
    let image = small();
    let reference = registry.push("app:1", &image);
    puller.pull(&reference).await.unwrap();
    puller.pull(&reference).await.unwrap();
    assert_eq!(registry.requests_for(&image.layers[0].digest.to_string()).len(), 1);
}

#[tokio::test]
async fn an_empty_blob_needs_no_request() {
    let (registry, puller) = (TestRegistry::start(), Puller::new());
    let digest = Digest::sha256(b"");
    let reference = registry.reference("app:1");
    puller.registry.fetch_blob(&reference, &pattern_layer(&digest, 0), &puller.store, &Silent).await.unwrap();
    assert_eq!(puller.blob(&digest), b"");
    assert!(registry.requests_for("/blobs/").is_empty());
}

#[tokio::test]
async fn the_platform_chooses_from_an_index() {
    let registry = TestRegistry::start();
    let image = |platform: &str| ImageBuilder::new().platform(platform).file("/platform", platform).build();
    let platforms = ["linux/amd64", "linux/arm/v6", "linux/arm/v7", "linux/arm64"];
    let index = BuiltIndex::of(platforms.map(image));
    let reference = registry.push_index("app:1", &index);
    for (wanted, expected) in
        [("linux/amd64", 0), ("linux/amd64/v3", 0), ("linux/arm/v6", 1), ("linux/arm/v8", 2), ("linux/aarch64", 3)]
    {
        let resolved = Puller::new().resolve(&reference, wanted).await.unwrap();
        assert_eq!(resolved.image.manifest_digest, index.images[expected].digest(), "{wanted}");
        assert_eq!(resolved.top().digest, index.digest());
    }
    let puller = Puller::new();
    let error = puller.resolve(&reference, "linux/s390x").await.unwrap_err();
    insta::assert_snapshot!(puller.said(&error, &reference), @r"
    `HOST/app:1` has no image for `linux/s390x`, it offers `linux/amd64`, `linux/arm/v6`, `linux/arm/v7`, `linux/arm64`
    hint: choose one of them with `--platform`
    ");
}

#[tokio::test]
async fn an_image_without_an_index_is_judged_by_its_configuration() {
    let (registry, puller) = (TestRegistry::start(), Puller::new());
    let reference = registry.push("app:1", &ImageBuilder::new().platform("linux/arm64").build());
    assert!(
        matches!(puller.refused(&reference).await.0, RegistryError::NoPlatform { offered, .. } if offered == "`linux/arm64`")
    );
    assert!(puller.resolve(&reference, "linux/arm64").await.is_ok());
}

#[tokio::test]
async fn an_entry_that_stands_alone_needs_no_label() {
    let (registry, puller) = (TestRegistry::start(), Puller::new());
    let unlabelled = |platform: &str| {
        BuiltIndex::of([ImageBuilder::new().platform(platform).build()])
            .with_index(|index| drop(index["manifests"][0].as_object_mut().unwrap().remove("platform")))
    };
    let reference = registry.push_index("app:1", &unlabelled("linux/amd64"));
    assert!(puller.pull(&reference).await.is_ok());
    let reference = registry.push_index("app:2", &unlabelled("linux/riscv64"));
    assert!(matches!(puller.refused(&reference).await.0, RegistryError::NoPlatform { .. }));
}

#[tokio::test]
async fn indexes_nest_but_not_without_end() {
    let (registry, puller) = (TestRegistry::start(), Puller::new());
    let mut index = BuiltIndex::of([small()]);
    for depth in 1..=6 {
        let name = format!("app:{depth}");
        let reference = registry.push_index(&name, &index);
        let outcome = puller.resolve(&reference, "linux/amd64").await;
        if depth <= 4 {
            assert_eq!(outcome.unwrap().documents.len(), depth + 1);
        } else {
            assert!(matches!(outcome, Err(RegistryError::TooDeep { .. })));
        }
        let mut entry = descriptor(&index.media_type, &index.bytes);
        entry["platform"] = json!({ "os": "linux", "architecture": "amd64" });
        index = index.with_index(|outer| outer["manifests"] = json!([entry]));
    }
}

#[tokio::test]
async fn a_digest_in_the_reference_is_what_counts() {
    let (registry, puller) = (TestRegistry::start(), Puller::new());
    let (image, other) = (small(), image_of(10));
    registry.push("app:1", &image);
    registry.push("app:2", &other);
    let name = format!("app:2@{}", image.digest());
    assert_eq!(puller.pull(&registry.reference(&name)).await.unwrap().image.manifest_digest, image.digest());
    registry.when("/manifests/").replace(&other.manifest);
    let (error, said) = puller.refused(&registry.reference(&name)).await;
    assert!(matches!(error, RegistryError::Digest { actual, .. } if actual == other.digest()));
    assert!(said.contains("nothing of it was kept"), "{said}");
}

#[test]
fn a_layout_that_the_builder_writes_is_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (small(), ImageBuilder::new().docker_schema2().file("/ho", "y").build());
    one.write_layout(dir.path(), "one:1");
    two.write_layout(dir.path(), "two:1");
    let store = Store::open(dir.path()).unwrap();
    for (name, image) in [("one:1", one), ("two:1", two)] {
        let reference: Reference = name.parse().unwrap();
        let stored = store.lookup(&reference).unwrap().unwrap();
        let loaded = store.load(&reference, &stored, &Platform::new("linux", "amd64", None)).unwrap().unwrap();
        assert_eq!(loaded.manifest_digest, image.digest());
        assert_eq!(loaded.layers().next().unwrap().1, &image.layers[0].diff_id);
    }
}
