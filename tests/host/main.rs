//! The whole program on a real kernel: cgroups, mounts, namespaces, other people's tools as judges. Needs root.
//!
//! Each test has a store of its own and may run beside the others. A test that cannot run here says why.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod attach;
mod base;
mod buckets;
mod cgroups;
mod check;
mod control;
mod control_rename;
mod control_stats;
mod cp;
mod crash;
mod doctor;
mod early;
mod ends;
mod exec;
mod exit;
mod faults;
mod flags_dns;
mod flags_limits;
mod flags_mounts;
mod flags_namespaces;
mod flags_security;
mod forms;
mod gpu;
mod gpu_cdi;
mod gpu_device;
mod gpu_docs;
mod gpu_images;
mod gpu_watch;
mod health;
mod hostile;
mod images;
mod init;
mod isolation;
mod judges;
mod kept;
mod layers;
mod life;
mod limits;
mod mounts;
mod needs;
mod network;
mod options;
mod prune;
mod pull;
mod registry_service;
mod restart;
mod runs;
mod s3;
mod seed;
mod signals;
mod soak;
mod steps;
#[path = "../support/mod.rs"]
mod support;
mod sweep;

mod transport;
mod transport_hostile;
mod tty;
mod userns;
mod workflow;
mod workflow_keys;
