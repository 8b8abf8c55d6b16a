//! dockless: a daemonless container executor for machines without docker, as a library.
//!
//! A program that embeds it begins its `main` with [`engine::entry`], before any thread: the engine executes that program
//! again for each of its helper processes. Then it opens an [`engine::Engine`] and asks for runs. There is no terminal, no
//! environment and no state but the directories that it names. It needs root.
//!
//! ```no_run
//! use std::error::Error;
//! use std::process::ExitCode;
//! use std::sync::Arc;
//!
//! use dockless::engine::{Engine, Event, ImageRequest, Output, Settings, entry};
//! use dockless::image::{Observer, Silent};
//!
//! fn main() -> ExitCode {
//!     if let Some(code) = entry(std::env::args_os()) {
//!         return code;
//!     }
//!     let runtime = tokio::runtime::Runtime::new().expect("a runtime");
//!     match runtime.block_on(hello()) {
//!         Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
//!         Err(error) => {
//!             eprintln!("{error}");
//!             ExitCode::FAILURE
//!         }
//!     }
//! }
//!
//! async fn hello() -> Result<i32, Box<dyn Error>> {
//!     let (engine, _told) = Engine::open(Settings::new("/var/lib/my-scheduler"))?;
//!     let image = ImageRequest::new("docker.io/library/busybox:1.36".parse()?);
//!     let mut request = engine.request(&"job-1".parse()?, image)?;
//!     request.options.command = vec!["echo".to_owned(), "hello".to_owned()];
//!     request.options.memory = Some("64m".parse()?);
//!     request.remove = true;
//!     let (output, pipes) = Output::pipes()?;
//!     request.output = output;
//!
//!     // `Silent` shows nothing; an `Observer` of yours is called for each step of the pull.
//!     let observer: Arc<dyn Observer> = Arc::new(Silent);
//!     let mut run = Box::pin(engine.run(request, &observer)).await?;
//!     let output = tokio::spawn(pipes.for_each(|stream, bytes| println!("{stream:?}: {} bytes", bytes.len())));
//!     while let Some(event) = run.event().await {
//!         if let Event::Started { pid } = event {
//!             println!("process {pid} of this machine");
//!         }
//!     }
//!     let exit = run.exit(&engine).await?;
//!     output.await??;
//!     println!("{:?}: {:?}", exit.reason, exit.message);
//!     Ok(exit.code)
//! }
//! ```
//!
//! An [`engine::EngineError`] is matched on by its variants, which are the errors of the modules below; its `Display` names
//! what failed and what to try, its sources say why.
//!
//! # Inside
//!
//! ```text
//! &str ─parse→ Reference ─resolve→ Resolved ─fetch→ blobs ─unpack→ layers ─spec::build→ config.json
//!      ─create→ Container<Created> ─start→ Container<Running> ─wait→ Exit ─save→ artifacts
//! ```
//!
//! | layer | what it is for |
//! |---|---|
//! | `cli` | arguments, printing, exit codes |
//! | [`workflow`] | workflow files |
//! | [`engine`] | the whole job in one place; where an embedding program starts |
//! | `supervisor` | the process that lives with a run |
//! | `container` | libcontainer and cgroups |
//! | [`gpu`] | GPUs and CDI devices |
//! | [`network`] | a network of a container's own |
//! | [`artifact`] | what a run leaves |
//! | [`transport`] | images in directories and archives |
//! | [`rootfs`] | layers and root file systems |
//! | [`registry`] | fetching |
//! | [`spec`] | the OCI runtime spec |
//! | [`store`] | what is kept on disk |
//! | [`image`] | names and documents of images |
//! | `sys`, `words` | system calls, text |
//!
//! What has no link is no interface: it is public for our own binary and tests only, and changes as it must. A module imports only modules further down; ARCHITECTURE.md says why each is there.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod artifact;
#[doc(hidden)]
pub mod cli;
#[doc(hidden)]
pub mod container;
pub mod engine;
pub mod gpu;
pub mod image;
pub mod network;
pub mod registry;
pub mod rootfs;
pub mod spec;
pub mod store;
#[doc(hidden)]
pub mod supervisor;
#[doc(hidden)]
pub mod sys;
pub mod transport;
#[doc(hidden)]
pub mod words;
pub mod workflow;
