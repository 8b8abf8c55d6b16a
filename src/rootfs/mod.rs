//! Root file systems: layers from blobs to trees in the store, and from those trees to what a container starts in.
//!
//! ```text
//! blob ──stream──> archive ──tree──> layers/…/fs ──(mend)──┬── assemble   overlay with a fresh upper, or a flat copy
//!                                                          ├── copy       a plain tree for other runtimes
//!                                                          └── view       reading files without mounting
//! ```
//!
//! Everything that comes from an image is hostile: `stream` and `archive` are bounded by named constants, `path` holds
//! names that cannot point outwards, and all that is written or read goes through [`crate::sys::beneath`], which follows no
//! link. Trees are in overlay form (whiteouts are character devices 0:0, opaque directories carry an attribute; `Marks` says
//! what stands for them where they cannot be made), one directory per layer, so that layers unpack in parallel and are
//! shared by images; what depends on the layers below is mended afterwards (see `layers`). `merged` sees several such trees
//! as one, by the kernel's rules.
//!
//! Deliberate, where tools differ: names are cleaned as Go's `path.Clean` does before links are followed; global PAX headers
//! count (docker ignores them), but name no file as GNU tar lets them; a directory that replaces a file of its own layer hides
//! what is below; AUFS' `.wh..wh.*` files are skipped; ACLs in words are kept where they have numbers for all users;
//! all access times are the modification times. Row by row it stands at the head of `tests`.

mod acl;
mod archive;
mod assemble;
mod attributes;
mod compare;
mod copy;
mod edits;
mod error;
mod export;
mod layers;
mod mapped;
mod member;
mod merged;
mod path;
mod pax;
mod places;
mod prepare;
mod stream;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod transfer;
mod tree;
mod unpack;
mod view;

pub use archive::TarError;
pub use assemble::{Choice, ChoiceError, Method, Rootfs, assemble, mount_overlay, probe};
pub use compare::compare_trees;
pub use copy::copy_flat;
pub use edits::{RootEdits, RootFile, RootLink, apply};
pub use error::{EntryError, LayerError, RootfsError};
pub use export::export;
pub use layers::{Layers, Unpacker, possible_keys, ready, standing};
pub use mapped::{Owners, namespace_for, remount, remount_mapped};
pub use member::{Inflate, Member, MemberKind, Members};
pub use path::{ImagePath, MAX_DEPTH, MAX_NAME_BYTES, MAX_PATH_BYTES, PathError};
pub use pax::MAX_RECORD_BYTES;
pub use places::{Cover, MountPlaces};
pub use prepare::{preflight, prepare, replace_etc_links, seed_volume};
pub use stream::StreamError;
pub use unpack::{MAX_LAYER_BYTES, MAX_LAYER_ENTRIES, MAX_LAYER_NAME_BYTES};
pub use view::View;
