//! Tests that need no privilege, in one binary.

mod tidy;
