//! See `dockless_fuzz::harness::Target::Tar`.
#![no_main]

dockless_fuzz::target!(Tar);
