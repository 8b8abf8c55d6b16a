//! The fuzz targets without a fuzzer: what they start from, and a bounded number of random changes of it, always the same ones.
//!
//! `scripts/fuzz` runs the same functions under libFuzzer, which sees what they cover and goes on for as long as it may.
//! The package in this directory is for that alone; here no more than `cargo test` is needed.
#![allow(clippy::unwrap_used, reason = "a panic is how a target tells what it found")]
#![allow(clippy::print_stderr, reason = "what is skipped and what was found is said")]

// The files of src/rootfs that are shared name these.
use dockless::{image, sys};

#[allow(unreachable_pub, reason = "it is public where it is a library")]
mod harness;
mod mutate;
mod rootfs;

use harness::{Target, seeds};
use mutate::Mutator;
use rootfs::testing::is_root;

/// Runs what a target starts from, and then `turns` random changes of it.
fn replay(target: Target, turns: usize) {
    if target.needs_root() && !is_root() {
        return;
    }
    let corpus: Vec<Vec<u8>> = seeds(target).into_iter().map(|(_, bytes)| bytes).collect();
    let mut mutator = Mutator::new(1);
    let changed = (0..turns).map(|turn| mutator.change(&corpus[turn % corpus.len()], &corpus));
    let runner = target.runner();
    for input in corpus.iter().cloned().chain(changed) {
        let run = std::panic::AssertUnwindSafe(|| runner.run(&input));
        if let Err(panic) = std::panic::catch_unwind(run) {
            eprintln!("the input was `{}`", input.escape_ascii());
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn archives_stay_in_their_root() {
    replay(Target::Tar, 600);
}

#[test]
fn stacks_are_what_the_model_says() {
    replay(Target::Stack, 400);
}

#[test]
fn streams_are_bounded_and_exact() {
    replay(Target::Inflate, 10_000);
}

#[test]
fn documents_are_refused_or_understood() {
    replay(Target::Documents, 10_000);
}
