//! dockless: a daemonless container executor for machines without docker.
//!
//! ```text
//! &str ─parse→ Reference ─resolve→ Resolved ─fetch→ blobs ─unpack→ layers ─spec::build→ config.json
//!      ─create→ Container<Created> ─start→ Container<Running> ─wait→ Exit ─save→ artifacts
//! ```
//!
//! | layer | what it is for |
//! |---|---|
//! | [`cli`] | arguments, printing, exit codes |
//! | [`workflow`] | workflow files |
//! | [`engine`] | the whole job in one place; where an embedding program starts |
//! | [`supervisor`] | the process that lives with a run |
//! | [`container`] | libcontainer and cgroups |
//! | [`gpu`] | GPUs and CDI devices |
//! | [`network`] | a network of a container's own |
//! | [`artifact`] | what a run leaves |
//! | [`transport`] | images in directories and archives |
//! | [`rootfs`] | layers and root file systems |
//! | [`registry`] | fetching |
//! | [`spec`] | the OCI runtime spec |
//! | [`store`] | what is kept on disk |
//! | [`image`] | names and documents of images |
//! | [`sys`], [`words`] | system calls, text |
//!
//! A module imports only modules further down; ARCHITECTURE.md says why each is there.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod artifact;
pub mod cli;
pub mod container;
pub mod engine;
pub mod gpu;
pub mod image;
pub mod network;
pub mod registry;
pub mod rootfs;
pub mod spec;
pub mod store;
pub mod supervisor;
pub mod sys;
pub mod transport;
pub mod words;
pub mod workflow;
