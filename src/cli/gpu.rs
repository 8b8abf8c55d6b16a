//! `gpu list`, `explain` and `cdi`.

pub(super) mod cdi;
pub(super) mod explain;
pub(super) mod list;

use super::devices::{grant, lease_dir, roots};
