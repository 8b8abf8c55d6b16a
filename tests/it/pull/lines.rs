//! Connections that break, servers that are busy or silent, and pulls that meet.

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use dockless::image::Reference;
use dockless::registry::{Fault, RegistryError, Timeouts};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, socket};

use super::{Puller, image_of, ranges, small};
use crate::support::registry::TestRegistry;

#[tokio::test]
async fn a_layer_that_breaks_off_goes_on_where_it_was() {
    let (registry, puller) = (TestRegistry::start(), Puller::new());
    let image = image_of(1_000_000);
    let reference = registry.push("app:1", &image);
    let layer = &image.layers[0];
    registry.when(&layer.digest.to_string()).times(3).cut_after(200_000);
    puller.pull(&reference).await.unwrap();
    assert_eq!(puller.blob(&layer.digest), layer.bytes);
    let expected = ["bytes=0-", "bytes=200000-", "bytes=400000-", "bytes=600000-"];
    assert_eq!(ranges(&registry, &layer.digest), expected);
    let told = puller.heard.of("Retrying");
    assert!(
        told.len() == 3 && told[0].contains("connection broke") && told[0].contains(layer.digest.short()),
        "{told:?}"
    );
}

#[tokio::test]
async fn a_layer_over_tls_that_breaks_off_goes_on_where_it_was() {
    let (registry, puller) = (TestRegistry::start_tls(), Puller::new());
    let image = image_of(100_000);
    let reference = registry.push("app:1", &image);
    registry.when(&image.layers[0].digest.to_string()).times(1).cut_after(40_000);
    puller.pull(&reference).await.unwrap();
    assert_eq!(ranges(&registry, &image.layers[0].digest), ["bytes=0-", "bytes=40000-"]);
}

#[tokio::test]
async fn a_server_that_cannot_resume_is_asked_for_the_whole() {
    let image = image_of(100_000);
    let layer = image.layers[0].digest.clone();
    let part = layer.to_string();
    let run = async |misbehave: &dyn Fn(&TestRegistry)| {
        let (registry, puller) = (TestRegistry::start(), Puller::new());
        let reference = registry.push("app:1", &image);
        registry.when(&part).times(1).cut_after(30_000);
        misbehave(&registry);
        puller.pull(&reference).await.unwrap();
        assert_eq!(puller.blob(&layer), image.layers[0].bytes);
        assert_eq!(puller.left(), (3, 0));
        ranges(&registry, &layer)
    };
    // It says 200 and sends all: that is taken.
    assert_eq!(run(&|registry| registry.when(&part).ignore_range()).await, ["bytes=0-", "bytes=30000-"]);
    // It says 206 and sends all: told by the length.
    let expected = ["bytes=0-", "bytes=30000-", "all"];
    assert_eq!(run(&|registry| registry.when(&part).times(1).range_from_start()).await, expected);
    // It says 206 and sends other bytes of the right number: told by the digest.
    assert_eq!(run(&|registry| registry.when(&part).times(1).range_shifted()).await, expected);
    // It does not know of ranges at all.
    let refuse = |registry: &TestRegistry| registry.when(&part).times(1).refuse_with(416, &[], b"");
    assert_eq!(run(&refuse).await, expected);
}

#[tokio::test]
async fn a_layer_that_never_comes_ends_the_pull() {
    let (registry, puller) = (TestRegistry::start(), Puller::new());
    let image = image_of(100_000);
    let reference = registry.push("app:1", &image);
    registry.when(&image.layers[0].digest.to_string()).cut_after(0);
    let (_, said) = puller.refused(&reference).await;
    let expected = format!(
        "`{}` from `HOST` broke off at 0 of {} bytes, 5 attempts in a row: the connection broke\nhint: try again, which goes on from there; \
         a proxy on the way may cut long downloads short",
        image.layers[0].digest,
        image.layers[0].bytes.len()
    );
    assert_eq!(said, expected);
    assert_eq!(puller.left(), (2, 0));
}

#[tokio::test]
async fn progress_keeps_a_bad_line_going_but_not_without_it() {
    let image = image_of(12 << 20);
    let layer = &image.layers[0];
    let (registry, puller) = (TestRegistry::start(), Puller::new());
    let reference = registry.push("app:1", &image);
    // Ten cuts are more than five attempts, but each comes after more than a megabyte.
    registry.when(&layer.digest.to_string()).cut_after(1_200_000);
    puller.pull(&reference).await.unwrap();
    assert!(ranges(&registry, &layer.digest).len() > 8);
    // Without ranges it never gets beyond the first cut.
    let (registry, puller) = (TestRegistry::start(), Puller::new());
    let reference = registry.push("app:1", &image);
    registry.when(&layer.digest.to_string()).times(1).cut_after(1_200_000);
    registry.when(&layer.digest.to_string()).times(1).range_from_start();
    registry.when(&layer.digest.to_string()).cut_after(1_300_000);
    assert!(matches!(puller.refused(&reference).await.0, RegistryError::Interrupted { .. }));
    assert!(ranges(&registry, &layer.digest).len() < 12);
}

#[tokio::test]
async fn a_server_that_falls_silent_is_left() {
    let registry = TestRegistry::start();
    let puller = Puller::with(|settings, _| settings.timeouts.idle = Duration::from_millis(400));
    let image = image_of(100_000);
    let reference = registry.push("app:1", &image);
    registry.when("/manifests/").times(1).stall_after(10);
    registry.when(&image.layers[0].digest.to_string()).times(1).stall_after(10_000);
    puller.pull(&reference).await.unwrap();
    assert_eq!(ranges(&registry, &image.layers[0].digest), ["bytes=0-", "bytes=10000-"]);
    assert!(puller.heard.of("Retrying").iter().all(|told| told.contains("no answer in time")));
}

#[tokio::test]
async fn passing_refusals_are_waited_out() {
    for status in [429, 500, 502, 503, 504] {
        let (registry, puller) = (TestRegistry::start(), Puller::new());
        let image = image_of(1000);
        let reference = registry.push("app:1", &image);
        registry.when("/manifests/").times(2).refuse(status, "TOOMANYREQUESTS", "slow down");
        registry.when("/blobs/").times(4).refuse(status, "UNAVAILABLE", "later");
        puller.pull(&reference).await.unwrap();
        assert_eq!(puller.blob(&image.layers[0].digest), image.layers[0].bytes);
    }
}

#[tokio::test]
async fn a_connection_that_is_dropped_is_made_again() {
    let (registry, puller) = (TestRegistry::start(), Puller::new());
    let image = image_of(1000);
    let reference = registry.push("app:1", &image);
    registry.when("/manifests/").times(2).hang_up();
    registry.when("/blobs/").times(2).hang_up();
    puller.pull(&reference).await.unwrap();
}

#[tokio::test]
async fn refusals_that_do_not_pass_are_told() {
    let (registry, puller) = (TestRegistry::start(), Puller::new());
    let reference = registry.push("app:1", &small());
    registry.when("/manifests/").refuse_with(503, &[], b"maintenance\x1b[31m\nuntil noon");
    insta::assert_snapshot!(puller.refused(&reference).await.1, @r"`HOST` does not serve `HOST/app:1`: 503 maintenance\u{1b}[31m");
    assert_eq!(registry.requests_for("/manifests/").len(), 5);
    registry.behave();
    registry.when("/manifests/").refuse(400, "NAME_INVALID", "bad name");
    puller.refused(&reference).await;
    assert_eq!(registry.requests_for("/manifests/").len(), 6);
}

#[tokio::test]
async fn the_server_says_how_long_to_wait() {
    let (registry, puller) = (TestRegistry::start(), Puller::new());
    let image = image_of(1000);
    let reference = registry.push("app:1", &image);
    let busy = |path: &str, times: usize, seconds: &str| {
        let body = br#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#;
        registry.when(path).times(times).refuse_with(429, &[("Retry-After", seconds)], body);
    };
    busy("/manifests/", 1, "1");
    // The second is seen by our own request for one byte: the blob client hides the header.
    busy(&image.layers[0].digest.to_string(), 2, "1");
    let start = Instant::now();
    puller.pull(&reference).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(2), "{:?}", start.elapsed());
    let told = puller.heard.of("Retrying");
    assert!(told.iter().filter(|told| told.contains("delay_ms: 1000")).count() == 2, "{told:?}");
    // Longer than we are willing to wait.
    busy("/manifests/", 1, "3600");
    let start = Instant::now();
    insta::assert_snapshot!(puller.refused(&reference).await.1, @r"
    `HOST` does not serve `HOST/app:1`: 429 TOOMANYREQUESTS: slow down
    hint: it asks to wait 3600 s
    ");
    assert!(start.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn a_registry_that_is_down_is_told_at_once() {
    let puller = Puller::new();
    // A port that is taken and where nobody listens.
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).unwrap();
    bind(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
    let port = getsockname::<SockaddrIn>(socket.as_raw_fd()).unwrap().port();
    let reference: Reference = format!("127.0.0.1:{port}/app:1").parse().unwrap();
    let (error, said) = puller.refused(&reference).await;
    assert!(matches!(error, RegistryError::Connect { fault: Fault::Refused, .. }), "{said}");
    let expected = "cannot reach `HOST` for `HOST/app:1`: connection refused\nhint: is the registry running, and is the port right?\n- ";
    assert!(said.starts_with(expected), "{said}");
    assert!(puller.heard.of("Retrying").is_empty());
}

#[tokio::test]
async fn a_host_that_does_not_exist_is_told() {
    let puller = Puller::new();
    let reference: Reference = "no-such-host.invalid/app:1".parse().unwrap();
    let (error, said) = puller.refused(&reference).await;
    assert!(matches!(error, RegistryError::Connect { fault: Fault::UnknownHost, .. }), "{said}");
}

#[tokio::test]
async fn a_pull_that_is_called_off_leaves_what_it_has_for_the_next() {
    let registry = TestRegistry::start();
    let puller = Puller::with(|settings, _| settings.timeouts = Timeouts::default());
    let image = image_of(100_000);
    let reference = registry.push("app:1", &image);
    let layer = image.layers[0].digest.to_string();
    registry.when(&layer).stall_after(50_000);
    let midway = async {
        while registry.requests_for(&layer).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(puller.left(), (2, 2), "not the documents, a temporary file and a lock");
    };
    tokio::select! {
        outcome = puller.pull(&reference) => panic!("it ended: {outcome:?}"),
        () = midway => {}
    }
    // The writing thread ends by itself, soon.
    let start = Instant::now();
    while puller.left() != (2, 1) && start.elapsed() < Duration::from_secs(5) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(puller.left(), (2, 1), "the bytes, no lock");
    registry.behave();
    puller.pull(&reference).await.unwrap();
    assert_eq!(ranges(&registry, &image.layers[0].digest), ["bytes=0-", "bytes=50000-"]);
    assert_eq!(puller.left().1, 0);
}

#[tokio::test]
async fn the_same_blob_is_fetched_once_and_waited_for() {
    let registry = TestRegistry::start();
    let puller = Puller::with(|settings, _| settings.timeouts.idle = Duration::from_millis(400));
    let image = image_of(100_000);
    let reference = registry.push("app:1", &image);
    let layer = &image.layers[0];
    registry.when(&layer.digest.to_string()).times(1).stall_after(50_000);
    let resolved = puller.resolve(&reference, "linux/amd64").await.unwrap();
    let descriptor = &resolved.image.manifest.layers[0];
    let fetch = || puller.registry.fetch_blob(&reference, descriptor, &puller.store, &puller.heard);
    let (one, two, three) = tokio::join!(fetch(), fetch(), fetch());
    one.and(two).and(three).unwrap();
    assert_eq!(ranges(&registry, &layer.digest), ["bytes=0-", "bytes=50000-"]);
    let waiting = puller.heard.of("Waiting");
    assert!(waiting.len() == 2 && waiting[0].contains(&format!("Some({})", std::process::id())), "{waiting:?}");
    assert_eq!(puller.left(), (1, 0));
}
