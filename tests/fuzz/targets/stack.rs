//! See `dockless_fuzz::harness::Target::Stack`.
#![no_main]

dockless_fuzz::target!(Stack);
