//! What the targets share with the tests in src/rootfs, under the name that it has there.
#![allow(dead_code, reason = "not everything is of use here")]

#[path = "../../src/rootfs/tests/model.rs"]
pub(crate) mod model;
#[path = "../../src/rootfs/testing.rs"]
pub(crate) mod testing;
