//! What the targets run, for libFuzzer. `main.rs` is the same for `cargo test`.
#![allow(clippy::unwrap_used, reason = "a panic is how a target tells what it found")]

// The files of src/rootfs that are shared name these.
use dockless::{image, sys};

pub mod harness;
#[doc(hidden)]
pub use libfuzzer_sys;
mod rootfs;

/// The entry point of a target, which first writes what it starts from into the corpus.
#[macro_export]
macro_rules! target {
    ($target:ident) => {
        use $crate::libfuzzer_sys;

        static RUNNER: std::sync::LazyLock<$crate::harness::Runner> =
            std::sync::LazyLock::new(|| $crate::harness::Target::$target.runner());

        libfuzzer_sys::fuzz_target!(
            init: $crate::begin($crate::harness::Target::$target),
            |input: &[u8]| {
                RUNNER.run(input);
            }
        );
    };
}

/// Writes the seeds into the directory that is the first argument, if it is one.
pub fn begin(target: harness::Target) {
    // Libfuzzer-sys ends the process in the thread that panics. Ours may have another root, below which libFuzzer would
    // write what it found; so panics go on to its own thread first, where it ends the process as well.
    drop(std::panic::take_hook());
    let corpus = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).map(std::path::PathBuf::from);
    let Some(corpus) = corpus.filter(|path| path.is_dir()) else { return };
    for (name, bytes) in harness::seeds(target) {
        std::fs::write(corpus.join(format!("seed-{name}")), bytes).unwrap();
    }
}
