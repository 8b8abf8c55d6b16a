//! `gpu list`, `explain` and `cdi`.

pub(super) mod cdi;
pub(super) mod explain;
pub(super) mod list;

use super::context::lease_dir;
use super::devices::{grant, roots};
