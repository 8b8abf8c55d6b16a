//! Well-formed layers made of choices, against the model.

use dockless::image::Digest;
use dockless::rootfs::RootfsError;

use super::choices::Choices;
use super::inflate::{gzip, zstd_frame};
use super::world::{Place, looks};
use crate::rootfs::model::{Model, Refused};
use crate::rootfs::testing::{Item, device, dir, file, hardlink, symlink, tar};

const MAX_LAYERS: usize = 3;
const MAX_ITEMS: usize = 10;

/// Up to three layers; an overlay and a copy of them show what the model says, or both refuse them.
pub(super) fn run(place: &Place, input: &[u8]) {
    let mut choices = Choices::new(input);
    let order = choices.byte() & 1 == 0;
    let mut stack = Vec::new();
    let mut blobs = Vec::new();
    while stack.is_empty() || (stack.len() < MAX_LAYERS && !choices.is_empty()) {
        let items = layer(&mut choices);
        let archive = tar(&items);
        let id = Digest::sha256(&archive);
        let blob = match choices.below(6) {
            4 => gzip(&archive),
            5 => zstd_frame(&archive),
            _ => archive,
        };
        stack.push(items);
        blobs.push((blob, id));
    }
    let mut model = Model::new();
    let applied: Result<Vec<()>, Refused> = stack.iter().map(|items| model.apply(items)).collect();
    match (place.unpack(&place.image(&blobs), order), applied) {
        (Ok(layers), Ok(_)) => {
            let (copy, overlay) = looks(&layers).unwrap();
            assert_eq!(overlay, model.listing(), "overlay (left) and model (right) of {stack:#?}");
            assert_eq!(copy, model.listing(), "copy (left) and model (right) of {stack:#?}");
        }
        (Err(RootfsError::Layer { .. }), Err(Refused)) => {}
        (Ok(_), Err(Refused)) => panic!("a bad stack was accepted: {stack:#?}"),
        (Err(error), Ok(_)) => panic!("a good stack was refused: {error:?}: {stack:#?}"),
        (Err(error), Err(Refused)) => panic!("the layer was not what failed: {error:?}: {stack:#?}"),
    }
    place.check_and_clear();
}

/// Whiteouts first, and of those the ones that hide most, as it is a question of order otherwise what they name once links
/// are about: one behind a link that leads nowhere is refused by whoever has not yet seen that the link is hidden.
fn layer(choices: &mut Choices<'_>) -> Vec<Item> {
    let (mut whiteouts, mut items) = (Vec::new(), Vec::new());
    for _ in 0..choices.below(MAX_ITEMS + 1) {
        match choices.below(8) {
            0 => whiteouts.push(whiteout(choices)),
            _ => items.push(item(choices)),
        }
    }
    whiteouts.sort_by_key(|whiteout| Model::clean(&whiteout.name).0.len());
    [whiteouts, items].concat()
}

fn name(choices: &mut Choices<'_>) -> String {
    const LONG: &str = concat!(
        "llllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllll",
        "oooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooo"
    );
    const COMPONENTS: [&str; 10] = ["a", "b", "c", "d", "a", "b", "..", ".", "", LONG];
    let count = 1 + choices.below(3);
    let components: Vec<&str> = (0..count).map(|_| choices.of(&COMPONENTS)).collect();
    components.join("/")
}

fn item(choices: &mut Choices<'_>) -> Item {
    const TARGETS: [&str; 9] = ["a", "b/c", "../d", "/c", "/a/b", "..", "missing", "../../../../etc", "/"];
    let name = name(choices);
    let item = match choices.below(8) {
        // What the root is cannot be anything but a directory.
        _ if Model::clean(name.as_bytes()).1.is_none() => dir(name),
        0 | 1 => file(name, choices.byte().to_string()),
        2 | 3 => dir(name),
        4 => symlink(name, choices.of(&TARGETS)),
        5 => {
            let target = self::name(choices);
            hardlink(name, target)
        }
        6 => Item::new(name, b'6'),
        _ => device(name, b'3', 1, 5),
    };
    let details = choices.number();
    let mode = if item.flag == b'2' { 0o777 } else { u32::from(details) & 0o7777 };
    // The owner, the time and the attribute tell one item from another.
    let tag = choices.byte();
    let (uid, seconds) = (u64::from(tag & 3), i64::from(tag) - 5);
    let item = item.mode(mode).owner(uid, 1).at(seconds, u32::from(details));
    if details & 0x8000 != 0 && item.flag != b'1' { item.xattr("trusted.t", tag.to_string()) } else { item }
}

fn whiteout(choices: &mut Choices<'_>) -> Item {
    let parent = name(choices);
    match choices.below(4) {
        0 => file(format!("{parent}/.wh..wh..opq"), ""),
        _ => file(format!("{parent}/.wh.{}", choices.of(&["a", "b", "c", "d"])), ""),
    }
}
