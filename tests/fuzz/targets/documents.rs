//! See `dockless_fuzz::harness::Target::Documents`.
#![no_main]

dockless_fuzz::target!(Documents);
