//! The fuzz targets: each takes any bytes and panics when something is wrong.
//!
//! One directory for two programs: `main.rs` runs it in `cargo test`, `targets/` under libFuzzer.

mod choices;
mod documents;
mod inflate;
mod seeds;
mod stack;
mod tar;
mod world;

pub use seeds::seeds;

use world::World;

/// What is fuzzed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Any bytes as a layer: nothing beside its tree changes.
    Tar,
    /// Well-formed layers: what they become is what the model says.
    Stack,
    /// Compressed streams: bounded, the same however they are read, exact where they are whole.
    Inflate,
    /// Documents and names of images.
    Documents,
}

impl Target {
    /// Whether it makes trees and mounts.
    #[must_use]
    pub fn needs_root(self) -> bool {
        matches!(self, Self::Tar | Self::Stack)
    }

    /// What runs it, with what one run leaves for the next.
    #[must_use]
    pub fn runner(self) -> Runner {
        match self {
            Self::Tar => Runner::InWorld(World::new(), tar::run),
            Self::Stack => Runner::InWorld(World::new(), stack::run),
            Self::Inflate => Runner::Alone(inflate::run),
            Self::Documents => Runner::Alone(documents::run),
        }
    }
}

/// Runs a target again and again.
pub enum Runner {
    /// In a root file system of its own.
    InWorld(World, fn(&world::Place, &[u8])),
    /// Anywhere.
    Alone(fn(&[u8])),
}

impl Runner {
    /// Runs the target with an input.
    pub fn run(&self, input: &[u8]) {
        match self {
            Self::InWorld(world, run) => {
                let (run, input) = (*run, input.to_vec());
                world.run(move |place| run(place, &input));
            }
            Self::Alone(run) => run(input),
        }
    }
}
