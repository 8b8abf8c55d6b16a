//! See `dockless_fuzz::harness::Target::Inflate`.
#![no_main]

dockless_fuzz::target!(Inflate);
