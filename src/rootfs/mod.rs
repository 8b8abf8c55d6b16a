//! rootfs
mod archive;
mod path;
mod pax;
#[cfg(test)]
mod testing;
