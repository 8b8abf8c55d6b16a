//! The Container Device Interface, versions 0.3 to 1.1: files in which vendors say what their devices bring into a
//! container. Read for any vendor, written for the GPUs of this machine.
//!
//! ```text
//! directories ─Registry::read→ Registry ─resolve(names)→ Injected{spec edits, root file system edits, actions, warnings}
//! inventory, edits ─write→ the text of a file
//! ```
//!
//! Source: SPEC.md of cncf-tags/container-device-interface, and what its library does where that text is silent. Where the
//! two differ from what is done here:
//!
//! - A broken file is a warning and costs only its own devices; a device that two files of one directory describe cannot be
//!   used, unless a directory of higher priority describes it as well.
//! - Numbers of device nodes are always read from this machine: files outlive the boot that they were written in.
//! - Files, and programs to be run, count only when nobody but root (or who runs us) can change them: they say which
//!   directories of this machine a container sees.
//! - Nothing is dropped: what the runtime cannot do (options, kinds of mounts, `intelRdt`, `netDevices`) is an error.
//! - NVIDIA's hooks are no programs here but edits (`hook`), so they work where the program is not installed.

mod document;
mod edits;
mod error;
mod hook;
mod name;
mod registry;
#[cfg(test)]
mod tests;
mod trust;
mod write;

pub use document::{
    ContainerEdits, DeviceNode, Document, DocumentDevice, Hook, IntelRdt, MAX_DOCUMENT_BYTES, Mount, NetDevice, Syntax,
};
pub use edits::Injected;
pub use error::{CdiError, DocumentProblem, EditProblem};
pub use hook::NativeAction;
pub use name::{Kind, NameError, QualifiedName};
pub use registry::{DEFAULT_DIRECTORIES, Registry, Warning};
pub use write::{Format, Output, WriteError, device_names, installed_hook, standard_directories, write};
