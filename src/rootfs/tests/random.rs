//! Random stacks of layers against the model: what is mounted and what is copied must both be what it says.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::Fixture;
use super::model::{Model, Refused};
use crate::rootfs::testing::{Item, device, dir, file, hardlink, in_own_mounts, is_root, listing, symlink, tar};
use crate::rootfs::{copy_flat, mount_overlay};

fn name() -> impl Strategy<Value = String> {
    let component = prop::sample::select(vec!["a", "b", "c", "d"]);
    prop::collection::vec(component, 1..4).prop_map(|components| components.join("/"))
}

/// Anything that makes something. Every item is told from every other by its time.
fn item() -> impl Strategy<Value = Item> {
    let target = prop::sample::select(vec!["a", "b/c", "../d", "/c", "/a/b", "..", "missing"]);
    let kind = prop_oneof![
        4 => (name(), any::<u16>()).prop_map(|(name, content)| file(name, content.to_string())),
        4 => name().prop_map(dir),
        2 => (name(), target).prop_map(|(name, target)| symlink(name, target)),
        2 => (name(), name()).prop_map(|(name, target)| hardlink(name, target)),
        1 => name().prop_map(|name| Item::new(name, b'6')),
        1 => name().prop_map(|name| device(name, b'3', 1, 5)),
        1 => Just(dir("./")),
    ];
    let bits = (0_u32..0o10000, 0_u64..3, 0_u64..3, -5_i64..1000, 0_u32..1_000_000_000, any::<bool>());
    (kind, bits).prop_map(|(item, (mode, uid, gid, seconds, nanoseconds, attribute))| {
        let mode = if item.flag == b'2' { 0o777 } else { mode };
        let item = item.mode(mode).owner(uid, gid).at(seconds, nanoseconds);
        if attribute && item.flag != b'1' { item.xattr("trusted.t", seconds.to_string()) } else { item }
    })
}

/// Anything that hides something.
fn whiteout() -> impl Strategy<Value = Item> {
    (name(), 0_u8..4).prop_map(|(name, kind)| {
        let (parent, last) = name.rsplit_once('/').map_or(("", name.as_str()), |(parent, last)| (parent, last));
        match kind {
            0 => file(format!("{name}/.wh..wh..opq"), ""),
            _ => file(format!("{parent}/.wh.{last}"), ""),
        }
    })
}

fn layer() -> impl Strategy<Value = (Vec<Item>, Vec<Item>)> {
    (prop::collection::vec(whiteout(), 0..3), prop::collection::vec(item(), 0..7))
}

/// What is mounted and what is copied, or that the stack was refused.
fn real(fixture: &Fixture, stack: &[Vec<Item>]) -> Option<(Vec<String>, Vec<String>)> {
    let archives: Vec<Vec<u8>> = stack.iter().map(|items| tar(items)).collect();
    let keys = fixture.unpack(&fixture.image(&archives)).ok()?;
    let layers = crate::rootfs::Layers::load(&fixture.store, &keys).unwrap();
    let scratch = tempfile::tempdir_in(fixture.path()).unwrap();
    let (mounted, copied) = (scratch.path().join("mounted"), scratch.path().join("copied"));
    std::fs::create_dir(&mounted).unwrap();
    std::fs::create_dir(&copied).unwrap();
    copy_flat(&layers, &copied).unwrap();
    let mut overlay = Vec::new();
    in_own_mounts(|| {
        mount_overlay(&layers, scratch.path(), &mounted, true).unwrap();
        overlay = listing(&mounted);
    });
    Some((overlay, listing(&copied)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn stacks_look_as_if_applied_one_after_the_other(stack in prop::collection::vec(layer(), 1..5)) {
        if !is_root() {
            return Ok(());
        }
        let stack: Vec<Vec<Item>> = stack.into_iter().map(|(whiteouts, items)| [whiteouts, items].concat()).collect();
        let mut model = Model::new();
        let applied: Result<Vec<()>, Refused> = stack.iter().map(|items| model.apply(items)).collect();
        let real = real(&Fixture::new(), &stack);
        match applied {
            Ok(_) => {
                let (overlay, copy) = real.ok_or_else(|| TestCaseError::fail("a good stack was refused"))?;
                prop_assert_eq!(&overlay, &model.listing(), "overlay (left) and model (right)");
                prop_assert_eq!(&copy, &model.listing(), "copy (left) and model (right)");
            }
            Err(Refused) => prop_assert!(real.is_none(), "a bad stack was accepted"),
        }
    }

    #[test]
    fn whiteouts_may_come_at_any_place(
        lower in prop::collection::vec(item(), 0..8),
        (whiteouts, items) in layer(),
        places in prop::collection::vec(any::<prop::sample::Index>(), 3),
    ) {
        if !is_root() {
            return Ok(());
        }
        // Links in the way make it a question of order what an entry even names.
        let plain = |items: Vec<Item>| -> Vec<Item> {
            items.into_iter().filter(|item| !matches!(item.flag, b'1' | b'2')).collect()
        };
        let (lower, items) = (plain(lower), plain(items));
        let first = [whiteouts.clone(), items.clone()].concat();
        let mut mixed = items;
        for (whiteout, place) in whiteouts.into_iter().zip(places) {
            mixed.insert(place.index(mixed.len() + 1), whiteout);
        }
        let expected = real(&Fixture::new(), &[lower.clone(), first]);
        prop_assert_eq!(real(&Fixture::new(), &[lower, mixed]), expected);
    }
}

/// Found by long runs: (lower, upper) pairs where what hides stands behind a link that is hidden too.
#[test]
fn whiteouts_behind_hidden_links() {
    if !is_root() {
        return;
    }
    let links = [
        vec![symlink("c", "/c")],
        vec![dir("d"), file("d/x", "1"), symlink("c", "d")],
        vec![dir("d"), dir("d/x"), file("d/x/y", "1"), symlink("c", "/d"), symlink("d/x/l", "../x")],
    ];
    let hiding = [
        ["c/.wh.x", ".wh.c"],
        [".wh.c", "c/.wh.x"],
        ["c/.wh..wh..opq", ".wh.c"],
        ["c/x/.wh.y", ".wh.c"],
        ["c/x/.wh.y", "c/.wh.x"],
        ["c/x/l/.wh.y", "c/x/.wh.l"],
        ["c/.wh.c", ".wh.c"],
    ];
    for lower in &links {
        for names in &hiding {
            for upper in [
                names.map(|name| file(name, "")).to_vec(),
                vec![file(names[0], ""), file(names[1], ""), file("c/new", "")],
            ] {
                let mut model = Model::new();
                let applied: Result<Vec<()>, Refused> =
                    [lower, &upper].into_iter().map(|items| model.apply(items)).collect();
                let seen = real(&Fixture::new(), &[lower.clone(), upper.clone()]);
                let expected = applied.ok().map(|_| (model.listing(), model.listing()));
                assert_eq!(seen, expected, "{lower:?}\n{upper:?}");
            }
        }
    }
}

/// How many stacks are tried; long runs set `PROPTEST_CASES`, which is for tests alone.
fn cases() -> u32 {
    let asked = ProptestConfig::default().cases;
    if asked == 256 { 64 } else { asked }
}

#[test]
fn the_model_itself() {
    let mut model = Model::new();
    model.apply(&[dir("a"), file("a/x", "1"), symlink("l", "a"), file("l/y", "2")]).unwrap();
    model.apply(&[file("a/.wh.x", ""), hardlink("z", "a/y")]).unwrap();
    let paths: BTreeSet<String> =
        model.listing().iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(paths.into_iter().collect::<Vec<_>>(), ["/", "/a", "/a/y", "/l", "/z"]);
}
