//! Any bytes as a layer.

use std::io::Write;

use dockless::image::Digest;
use dockless::rootfs::{Inflate, Members, RootfsError};

use super::world::{Place, looks};
use crate::rootfs::testing::seal;

const BLOCK_BYTES: usize = 512;
/// The bits of the first byte.
const IS_SEALED: u8 = 1;
const TWO_LAYERS: u8 = 2;

/// The first byte says whether headers get right checksums first, which no mutation would find, and whether the archive is
/// cut into two layers. Nothing outside the layers' trees may change; what was unpacked can be copied and mounted, and
/// both show the same.
pub(super) fn run(place: &Place, input: &[u8]) {
    let Some((&options, archive)) = input.split_first() else { return };
    let mut archive = archive.to_vec();
    if options & IS_SEALED != 0 {
        seal_all(&mut archive);
    }
    look_through(&archive);
    let middle = if options & TWO_LAYERS == 0 { 0 } else { archive.len() / 2 / BLOCK_BYTES * BLOCK_BYTES };
    let (lower, upper) = archive.split_at(middle);
    // Whoever wants to see streams uncompressed has a target of their own.
    let is_plain = |layer: &&[u8]| Inflate::new(*layer).is_ok_and(|layer| layer.suffix().is_empty());
    if ![lower, upper].iter().all(is_plain) {
        return;
    }
    let layers = [lower.to_vec(), upper.to_vec()].map(|layer| (layer.clone(), Digest::sha256(&layer)));
    let image = place.image(if middle == 0 { &layers[1..] } else { &layers });
    match place.unpack(&image, true) {
        Ok(layers) => {
            if let Some((copy, overlay)) = looks(&layers) {
                assert_eq!(copy, overlay, "the copy (left) and the overlay (right) differ");
            }
        }
        Err(RootfsError::Layer { .. }) => {}
        Err(other) => panic!("the layer was not what failed: {other:?}"),
    }
    place.check_and_clear();
}

/// The members as an archive of images is read; the content of each is inside the file.
fn look_through(archive: &[u8]) {
    let mut file =
        std::fs::OpenOptions::new().read(true).write(true).create_new(true).open("/scratch/archive").unwrap();
    file.write_all(archive).unwrap();
    for member in Members::of(&file).unwrap().map_while(Result::ok) {
        if let dockless::rootfs::MemberKind::File { offset, size } = member.kind {
            assert!(offset + size <= archive.len() as u64, "a member outside its archive");
        }
    }
    std::fs::remove_file("/scratch/archive").unwrap();
}

/// Gives every block that stands where a header would a checksum that is right.
fn seal_all(archive: &mut [u8]) {
    let mut at = 0;
    while let Some(block) = archive.get_mut(at..at + BLOCK_BYTES) {
        let header: &mut [u8; BLOCK_BYTES] = block.try_into().unwrap();
        if header.iter().any(|byte| *byte != 0) {
            seal(header);
        }
        let digits = header[124..136].iter().skip_while(|byte| **byte == b' ').take_while(|byte| byte.is_ascii_digit());
        let size = digits.fold(0_usize, |size, digit| size.saturating_mul(8).saturating_add(usize::from(digit - b'0')));
        at = at.saturating_add(BLOCK_BYTES).saturating_add(size.min(archive.len()).next_multiple_of(BLOCK_BYTES));
    }
}
