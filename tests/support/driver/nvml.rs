//! What the made-up NVML of a tree says; it can be changed while programs ask it.
//!
//! The library is `nvml.c`, compiled for each tree with the path of the file that its answers stand in.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use super::{DriverTree, TreeBuilder, cuda_version};

/// Where the answers stand below the root of the tree.
const STATE: &str = "nvml.state";
const SOURCE: &str = include_str!("nvml.c");

/// How a tree's NVML is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nvml {
    /// An ELF file with nothing in it.
    Empty,
    /// All that we ask for.
    Full,
    /// What drivers before 510 lack is not there.
    Old,
}

impl TreeBuilder {
    /// NVML answers.
    pub(crate) fn nvml(mut self) -> Self {
        self.nvml = Nvml::Full;
        self
    }

    /// NVML answers as that of drivers before 510 did.
    pub(crate) fn old_nvml(mut self) -> Self {
        self.nvml = Nvml::Old;
        self
    }

    /// Source and flags of the library.
    pub(super) fn nvml_source(&self, root: &Path) -> Option<(&'static str, Vec<String>)> {
        let state = format!("-DSTATE=\"{}\"", root.join(STATE).display());
        match self.nvml {
            Nvml::Empty => None,
            Nvml::Full => Some((SOURCE, vec![state])),
            Nvml::Old => Some((SOURCE, vec![state, "-DOLD".to_owned()])),
        }
    }

    /// The first answers.
    pub(super) fn nvml_state(&self, tree: &DriverTree) {
        let mut text = format!(
            "version {}\ncuda {}\ncount {}\nxids 0\n",
            self.version,
            cuda_version(&self.version),
            self.gpus.len()
        );
        for (index, ((model, mib, capability, _), uuid)) in self.gpus.iter().zip(&tree.uuids).enumerate() {
            // As newer drivers have it.
            let brand = if model.starts_with("Tesla") { 2 } else { 14 };
            let (pci, used, percent) = (DriverTree::address(index), index + 1, 10 * index);
            let mut say = |key: &str, value: &dyn std::fmt::Display| {
                writeln!(text, "{index}.{key} {value}").expect("memory");
            };
            say("uuid", uuid);
            say("name", model);
            say("pci", &pci);
            say("total", mib);
            say("used", &used);
            say("percent", &percent);
            say("capability", capability);
            say("brand", &brand);
            let Some(profiles) = self.mig.get(&index) else { continue };
            say("parts", &profiles.len());
            for (part, profile) in profiles.iter().enumerate() {
                let mut say = |key: &str, value: &dyn std::fmt::Display| say(&format!("mig.{part}.{key}"), value);
                say("uuid", &tree.mig_uuid(index, part));
                say("name", &format!("{model} MIG {profile}"));
                say("total", &mig_mebibytes(profile));
                say("used", &(part + 1));
                say("gi", &(7 + part));
                say("ci", &0);
            }
        }
        fs::write(tree.path().join(STATE), text).expect("the state of NVML");
    }
}

/// Of `1g.10gb`: a little less than it is called.
pub(crate) fn mig_mebibytes(profile: &str) -> u32 {
    let gigabytes: u32 =
        profile.split('.').nth(1).and_then(|part| part.strip_suffix("gb")?.parse().ok()).expect("a profile");
    gigabytes * 1024 - 256
}

impl DriverTree {
    /// The file of the driver's NVML.
    pub(crate) fn nvml_library(&self) -> PathBuf {
        self.path().join(self.libraries).join(format!("libnvidia-ml.so.{}", self.version))
    }

    /// The driver's nvidia-smi.
    pub(crate) fn smi(&self) -> PathBuf {
        self.path().join(self.programs).join("nvidia-smi")
    }

    /// NVML says so from now on. Whoever reads sees the old answers or all of the new ones.
    fn say(&self, lines: &str) {
        let (path, new) = (self.path().join(STATE), self.path().join("nvml.state.new"));
        let text = fs::read_to_string(&path).expect("a tree with NVML") + lines;
        fs::write(&new, text).expect("the state of NVML");
        fs::rename(new, path).expect("the state of NVML");
    }

    pub(crate) fn set_utilisation(&self, gpu: usize, percent: u32, used_mebibytes: u32) {
        self.say(&format!("{gpu}.percent {percent}\n{gpu}.used {used_mebibytes}\n"));
    }

    /// The GPU has fallen off the bus.
    pub(crate) fn lose(&self, gpu: usize) {
        self.say(&format!("{gpu}.lost 1\n"));
    }

    /// The driver reports an error of the GPU.
    pub(crate) fn raise_xid(&self, gpu: usize, number: u64) {
        self.raise(gpu, number, "");
    }

    /// The driver reports an error of the n-th MIG device of the GPU.
    pub(crate) fn raise_mig_xid(&self, gpu: usize, device: usize, number: u64) {
        self.raise(gpu, number, &format!("gi {}\nci 0\n", 7 + device));
    }

    fn raise(&self, gpu: usize, number: u64, more: &str) {
        let text = fs::read_to_string(self.path().join(STATE)).expect("a tree with NVML");
        let count = text.lines().filter_map(|line| line.strip_prefix("xids ")?.parse::<u32>().ok()).max();
        let count = count.expect("a count");
        let lines: String = format!("gpu {gpu}\nnumber {number}\n{more}")
            .lines()
            .fold(String::new(), |text, line| text + &format!("xid.{count}.{line}\n"));
        self.say(&format!("{lines}xids {}\n", count + 1));
    }

    /// The driver cannot tell of errors of this GPU.
    pub(crate) fn no_events(&self, gpu: usize) {
        self.say(&format!("{gpu}.no-events 1\n"));
    }

    /// Whoever asks NVML waits for ever.
    pub(crate) fn hang_nvml(&self) {
        self.say("hang 1\n");
    }

    /// Whoever asks NVML dies.
    pub(crate) fn crash_nvml(&self) {
        self.say("crash 1\n");
    }

    /// What starting NVML returns, e.g. 18: the library is of another version than the kernel's driver.
    pub(crate) fn fail_nvml(&self, code: u32) {
        self.say(&format!("init {code}\n"));
    }
}
