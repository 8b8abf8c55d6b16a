//! Archives that try to get out. Whatever they hold, nothing beside the layer's tree may change.

use std::path::Path;

use proptest::prelude::*;

use super::Fixture;
use crate::rootfs::testing::{Item, dir, file, hardlink, is_root, listing, symlink, tar};
use crate::rootfs::{Layers, copy_flat};

/// A tree with something to lose, in which everything happens.
struct Canary {
    fixture: Fixture,
    before: Vec<String>,
}

impl Canary {
    fn new() -> Self {
        let fixture = Fixture::new();
        for directory in ["etc", "victim", "victim/sub", "a", "b"] {
            std::fs::create_dir(fixture.path().join(directory)).unwrap();
        }
        for name in ["etc/passwd", "victim/file", "victim/sub/file", "a/b", "b/a", "file"] {
            std::fs::write(fixture.path().join(name), "untouched").unwrap();
        }
        let before = Self::outside(&fixture);
        Self { fixture, before }
    }

    /// All that is not in the store, with every attribute.
    fn outside(fixture: &Fixture) -> Vec<String> {
        let mut lines = listing(fixture.path());
        // The store's own directory changes when locks come and go.
        lines.retain(|line| !line.starts_with("/store"));
        lines
    }

    fn unpack(&self, stack: &[Vec<Item>]) -> bool {
        let archives: Vec<Vec<u8>> = stack.iter().map(|items| tar(items)).collect();
        let image = self.fixture.image(&archives);
        let unpacked = self.fixture.unpack(&image);
        if let Ok(keys) = &unpacked {
            let layers = Layers::load(&self.fixture.store, keys).unwrap();
            let copy = tempfile::tempdir_in(self.fixture.store.root()).unwrap();
            copy_flat(&layers, copy.path()).unwrap();
        }
        unpacked.is_ok()
    }

    fn is_untouched(&self) -> bool {
        Self::outside(&self.fixture) == self.before
    }
}

/// Ways out of the layer's tree: it is `store/tmp/NAME/fs`, so four levels up is where the canaries sit.
fn ways_out(root: &Path) -> Vec<String> {
    let up = "../".repeat(4);
    vec![
        format!("{up}victim"),
        format!("{up}file"),
        root.join("victim").display().to_string(),
        "..".to_owned(),
        "/".to_owned(),
    ]
}

#[test]
fn known_attacks_change_nothing_outside() {
    if !is_root() {
        return;
    }
    let canary = Canary::new();
    for way in ways_out(canary.fixture.path()) {
        for attack in [
            vec![file(&way, "evil")],
            vec![file(format!("{way}/file"), "evil")],
            vec![symlink("l", &way), file("l/file", "evil"), file("l", "evil")],
            vec![symlink("l", &way), dir("l/sub").mode(0o777), file("l/sub/file", "evil")],
            vec![symlink("x", "."), symlink("x/l", &way), symlink("m", "l"), file("m/file", "evil")],
            vec![dir("d"), symlink("d/l", &way), hardlink("h", "d/l/file"), file("h", "evil")],
            vec![hardlink("h", &way), hardlink("h2", format!("{way}/file"))],
            vec![symlink("l", &way), file("l/.wh.file", ""), file("l/.wh..wh..opq", "")],
            vec![symlink("l", &way), file("l", "replaces the link itself").mode(0o777)],
            vec![symlink("l", format!("/proc/self/cwd/{way}")), file("l/file", "evil")],
            vec![symlink("l", format!("/proc/self/root{}", canary.fixture.path().display())), file("l/file", "evil")],
        ] {
            canary.unpack(std::slice::from_ref(&attack));
            assert!(canary.is_untouched(), "{attack:?}");
            // The same with the link in a lower layer.
            let (lower, upper) = attack.split_at(attack.len() / 2);
            canary.unpack(&[lower.to_vec(), upper.to_vec()]);
            assert!(canary.is_untouched(), "{attack:?} in two layers");
        }
    }
}

fn name() -> impl Strategy<Value = String> {
    let component = prop::sample::select(vec!["a", "b", "victim", "file", "..", ".", "", "etc", "l"]);
    prop::collection::vec(component, 1..6).prop_map(|components| components.join("/"))
}

fn item() -> impl Strategy<Value = Item> {
    let out = prop::sample::select(ways_out(Path::new("/")));
    prop_oneof![
        3 => name().prop_map(|name| file(name, "evil").mode(0o777).owner(1, 1)),
        3 => name().prop_map(|name| dir(name).mode(0o777).owner(1, 1)),
        2 => (name(), name()).prop_map(|(name, target)| symlink(name, target)),
        3 => (name(), out).prop_map(|(name, target)| symlink(name, target)),
        2 => (name(), name()).prop_map(|(name, target)| hardlink(name, target)),
        1 => name().prop_map(|name| file(format!("{name}/.wh.file"), "")),
        1 => name().prop_map(|name| file(format!("{name}/.wh..wh..opq"), "")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if ProptestConfig::default().cases == 256 { 48 } else { ProptestConfig::default().cases }))]

    #[test]
    fn random_archives_change_nothing_outside(
        stack in prop::collection::vec(prop::collection::vec(item(), 0..8), 1..3),
    ) {
        if !is_root() {
            return Ok(());
        }
        let canary = Canary::new();
        canary.unpack(&stack);
        prop_assert!(canary.is_untouched());
    }
}
