//! Tests of the whole way from blobs to root file systems. Most need root, as layers hold devices and other people's files.
//!
//! What is right where tools differ, the test that holds us to it, and who does otherwise. Umoci 0.4.7 and podman 4.3.1 were
//! given these very archives; of containerd its package `archive` was read. Where nothing is said, none differs.
//!
//! | what | tests | who does otherwise |
//! |---|---|---|
//! | a link below, `bin/foo` without `bin/`: followed | `stacks::a_lower_link_is_followed_where_the_layer_has_no_directory_entry` | podman gives the directory behind it a new time |
//! | the same with `bin/`: the directory replaces the link | `stacks::a_lower_link_is_followed_where_the_layer_has_no_directory_entry` | |
//! | a whiteout through such a link | `stacks::whiteouts_through_a_lower_link_hide_what_is_behind_it` | |
//! | `.wh.d` and `d/` in either order: opaque | `stacks::a_replaced_directory_hides_what_was_in_it` `rows::whiteouts_become_devices_and_hide_lower_layers_only` | `d/` first: podman fails, containerd removes it, umoci loses its time |
//! | `d/a` and `d/.wh.a` in either order: the new one stays | `stacks::a_whiteout_and_what_it_hides_in_one_directory` | `d/a` first: podman and containerd remove it; the other way round podman changes the time of `d` |
//! | `.wh..wh..opq` first or last: the same | `stacks::a_replaced_directory_hides_what_was_in_it` `stacks::an_opaque_root_hides_everything_below` | |
//! | `.wh.d` with `d/.wh.a`: tolerated | `stacks::a_replaced_directory_hides_what_was_in_it` `stacks::a_whiteout_and_what_it_hides_in_one_directory` | podman leaves an empty `d` when `.wh.d` is first |
//! | whiteouts of nothing leave no trace | `stacks::whiteouts_of_nothing_leave_no_trace` `random::whiteouts_may_come_at_any_place` | |
//! | a hard link to a lower layer's file, a link to a link | `stacks::hard_links_to_files_of_lower_layers` `oddities::hard_links_of_all_sorts` | |
//! | a hard link to nothing, forwards, to what is hidden: refused | `rows::hard_links_to_nothing_and_to_directories_are_refused` `stacks::hard_links_to_what_an_upper_layer_has_hidden` | |
//! | an entry twice: the last wins | `rows::the_last_entry_of_a_name_wins` | podman fails |
//! | a parent without an entry: all of the lower one's | `stacks::parents_without_an_entry_are_the_lower_layers` | podman gives it a new time |
//! | wrong diff ID: refused, nothing stays | `rows::a_wrong_diff_id_leaves_nothing` | podman takes the layer |
//! | wrong digest or size, damage: refused, nothing stays | `rows::damaged_blobs_leave_nothing`, in `tests/it` also `a_layer_with_wrong_content_is_not_kept` | |
//! | `.wh.`, `.wh..`, `.wh...`: refused | `rows::names_that_are_no_whiteouts_are_refused` | umoci removes the root for `.wh.` and takes the others; podman removes the parent, then fails |
//! | negative and fractional times | `rows::every_kind_with_owner_mode_and_time` `oddities::numbers_at_their_ends` `makers::all_formats_of_gnu_tar` | umoci makes -1.5 to -2.5, podman to 0 |
//! | IDs up to 2^32-2, names of any bytes and length | `makers::all_formats_of_gnu_tar` `oddities::names_are_bytes_whatever_their_charset_is_called` `rows::a_path_of_four_thousand_bytes` | |
//! | PAX, global headers, GNU long names, base-256 | `makers::all_formats_of_bsdtar` `makers::all_formats_of_python` `oddities::global_headers_count_but_name_no_file` `oddities::extended_headers_hold_for_one_entry` | Go's programs ignore global headers |
//! | holes in all four formats stay holes | `makers::holes_of_real_makers_stay_holes` `rows::holes_stay_holes` `rest::copies_keep_holes` `oddities::the_map_of_a_sparse_file_is_bounded` | Go's programs fill them |
//! | star, Solaris, v7; dumps, labels; unknown kinds refused by name | `oddities::headers_of_star_solaris_and_the_seventh_edition` `oddities::labels_and_dumps_are_passed_over` `oddities::kinds_that_no_layer_has_are_refused_by_name` `makers::dumps_labels_and_joined_archives` | umoci, podman and containerd refuse dumps |
//! | gzip of several members, zeros behind; zstd frames | `rows::sha512_diff_ids_and_zstd_and_plain_blobs`, in `stream` also `what_it_is_is_told_by_its_first_bytes` | umoci and podman refuse the zeros |
//! | garbage behind the compressed data: refused | `rows::damaged_blobs_leave_nothing` | |
//! | attributes of both kinds, after the owner; capabilities | `rows::setuid_and_capabilities_survive_the_change_of_owner` `rows::attributes_are_kept_but_for_the_hosts_and_the_overlays` | umoci and podman lose `LIBARCHIVE.xattr` |
//! | the host's and the overlay's attributes: dropped | `rows::attributes_are_kept_but_for_the_hosts_and_the_overlays` `userxattr::the_kernel_shows_the_same_with_marks_of_either_kind` | podman sets `trusted.overlay.opaque`, both `user.overlay.opaque` |
//! | default ACLs are not inherited by the layer's own files | `rows::what_new_files_inherit_is_not_inherited_by_the_layers_own` | |
//! | ACLs in words, after the mode | `makers::access_control_lists_of_real_makers` | Go's programs lose them |
//! | no room for attributes at all: ignored; others named | `userxattr::where_attributes_cannot_be_stored_they_are_left_out` `rows::bounds_of_attributes_and_headers` | |
//! | setuid after the owner | `rows::setuid_and_capabilities_survive_the_change_of_owner` | |
//! | a device 0:0: refused | `rows::a_device_that_is_a_whiteout_is_refused` | umoci and podman make it |
//! | absolute names and `..`: clamped; links stay inside | `rows::names_are_clamped_and_links_stay_inside` `escape::known_attacks_change_nothing_outside` `escape::random_archives_change_nothing_outside` | podman fails where a link leads to what is not there yet |
//! | empty layers; images without layers | `stacks::images_of_nothing` `rows::sha512_diff_ids_and_zstd_and_plain_blobs` | |
//! | an early end: refused; junk behind the end: hashed | `rows::a_truncated_archive_is_refused_and_junk_behind_the_end_is_hashed` `oddities::ends_of_all_sorts` | |
//! | one diff ID twice: one directory | `stacks::one_diff_id_twice_is_one_directory` | |
//! | the root's own entry, by all its names | `oddities::the_root_by_all_its_names` `stacks::the_root_is_what_the_topmost_layer_with_an_entry_says` | containerd ignores it |
//! | times of directories last; layers mended in any order | `stacks::layers_come_in_any_order_and_once` `random::stacks_look_as_if_applied_one_after_the_other` | |
//! | a mended layer is its chain's, a clean one everybody's | `stacks::a_layer_made_for_one_image_is_not_taken_for_another` | |
//! | AUFS' own files: skipped | `rows::the_files_of_aufs_are_skipped` | |
//! | bounds: bytes, entries, names held in memory | `rows::bounds_of_entries_bytes_and_names` | |
//! | bounds: name, path, depth | `rows::bounds_of_names_and_depth` | |
//! | bounds: PAX records, attributes, ACLs in memory | `rows::bounds_of_attributes_and_headers` | |
//! | bounds: layers of an overlay | `rest::more_layers_than_the_kernel_stacks_are_refused` `stacks::two_hundred_layers` | |
//! | no overlay, or a store where no whiteouts can be made: a copy that is the same | in `tests/host` `a_store_on_any_file_system_gives_the_same_tree`, `rest::an_overlay_on_an_overlay_becomes_a_copy` `stacks::a_nasty_stack_is_the_same_as_overlay_and_as_copy` | |
//! | overlays without root | `userxattr::the_kernel_shows_the_same_with_marks_of_either_kind` `userxattr::devices_are_left_out_where_they_cannot_be_made` | |
//! | builders' styles | `oddities::layers_in_the_style_of_kaniko` `oddities::layers_in_the_style_of_bazel_and_ko` `oddities::layers_in_the_style_of_docker` | |
//!
//! `tests/host/forms.rs` runs what is large, deep or packed in odd ways.

mod escape;
mod makers;
mod model;
mod oddities;
mod random;
mod rest;
mod rows;
mod stacks;
mod userxattr;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;

use super::error::{LayerError, RootfsError};
use super::layers::{Layers, Unpacker};
use crate::image::{Descriptor, Digest, Image, ImageConfig, Manifest, MediaType, Observer, PullEvent, Silent};
use crate::store::Store;

/// A store in a temporary directory, and images made of archives.
struct Fixture {
    dir: tempfile::TempDir,
    store: Store,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        Self { dir, store }
    }

    /// An image of the given uncompressed layers, lowest first, whose blobs are in the store.
    fn image(&self, archives: &[Vec<u8>]) -> Image {
        let blobs: Vec<(Vec<u8>, Digest)> =
            archives.iter().map(|archive| (gzip(archive), Digest::sha256(archive))).collect();
        self.image_of_blobs(&blobs)
    }

    /// An image of blobs and the diff IDs that its configuration claims.
    fn image_of_blobs(&self, blobs: &[(Vec<u8>, Digest)]) -> Image {
        let layers: Vec<Descriptor> = blobs.iter().map(|(blob, _)| self.put(blob)).collect();
        let config = ImageConfig { diff_ids: blobs.iter().map(|(_, id)| id.clone()).collect(), ..Default::default() };
        let digest = Digest::sha256(format!("{layers:?} {:?}", config.diff_ids).as_bytes());
        let manifest = Manifest { config: self.put(b"{}"), layers };
        Image::new("test".parse().unwrap(), digest, manifest, config).unwrap()
    }

    fn put(&self, blob: &[u8]) -> Descriptor {
        let digest = Digest::sha256(blob);
        self.store.put_document(&digest, blob).unwrap();
        Descriptor {
            media_type: MediaType("application/vnd.oci.image.layer.v1.tar+gzip".to_owned()),
            digest,
            size: blob.len() as u64,
            urls: Vec::new(),
            platform: None,
            annotations: BTreeMap::new(),
        }
    }

    /// Unpacks all layers, the topmost first.
    fn unpack(&self, image: &Image) -> Result<Vec<Digest>, RootfsError> {
        self.unpack_with(image, &Silent)
    }

    fn unpack_with(&self, image: &Image, observer: &dyn Observer) -> Result<Vec<Digest>, RootfsError> {
        let unpacker = Unpacker::begin(&self.store, image, observer)?;
        for index in unpacker.missing().into_iter().rev() {
            unpacker.unpack(index)?;
        }
        unpacker.finish()
    }

    fn layers(&self, archives: &[Vec<u8>]) -> Layers {
        let keys = self.unpack(&self.image(archives)).unwrap_or_else(|error| panic!("{}", chain(&error)));
        Layers::load(&self.store, &keys).unwrap()
    }

    /// The tree of a layer that is alone in its image.
    fn layer(&self, archive: &[u8]) -> std::path::PathBuf {
        self.layers(&[archive.to_vec()]).paths()[0].clone()
    }

    /// Why a layer that is alone in its image cannot be unpacked.
    fn refusal(&self, archive: &[u8]) -> LayerError {
        match self.unpack(&self.image(&[archive.to_vec()])) {
            Err(RootfsError::Layer { source, .. }) => source,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// How many entries there are below a directory of the store.
    fn count(&self, directory: &str) -> usize {
        std::fs::read_dir(self.store.root().join(directory)).unwrap().count()
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}

/// Writes down what it hears.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Observer for Heard {
    fn pull(&self, event: &PullEvent<'_>) {
        let word = match event {
            PullEvent::LayerExists { .. } => "exists",
            PullEvent::Waiting { .. } => "waiting",
            PullEvent::Unpacking { .. } => "unpacking",
            PullEvent::Unpacked { .. } => "unpacked",
            _ => "other",
        };
        self.0.lock().unwrap().push(word.to_owned());
    }
}

/// The table above names tests that there are.
#[test]
fn every_row_has_its_test() {
    let files = [
        ("escape", include_str!("escape.rs")),
        ("makers", include_str!("makers.rs")),
        ("oddities", include_str!("oddities.rs")),
        ("random", include_str!("random.rs")),
        ("rest", include_str!("rest.rs")),
        ("rows", include_str!("rows.rs")),
        ("stacks", include_str!("stacks.rs")),
        ("userxattr", include_str!("userxattr.rs")),
    ];
    let rows = include_str!("mod.rs").lines().filter_map(|line| line.strip_prefix("//! | ")).skip(1);
    let mut count = 0;
    for row in rows {
        let tests = row.split(" | ").nth(1).unwrap();
        let named: Vec<(&str, &str)> = tests.split('`').filter_map(|word| word.split_once("::")).collect();
        assert!(!named.is_empty(), "{row}");
        for (file, test) in named {
            let (_, text) = files.iter().find(|(name, _)| *name == file).unwrap_or_else(|| panic!("{row}"));
            assert!(text.contains(&format!("fn {test}(")), "`{file}::{test}` is no test");
        }
        count += 1;
    }
    assert!(count > 40, "{count} rows");
}
