//! What a container may do with its GPUs: NVIDIA's driver capabilities, which decide what of the driver it is given.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// One driver capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Capability {
    /// CUDA and `OpenCL`.
    Compute,
    /// nvidia-smi and NVML.
    Utility,
    /// Video codec SDK.
    Video,
    /// OpenGL and Vulkan.
    Graphics,
    /// X11.
    Display,
    /// NGX (DLSS).
    Ngx,
    /// 32-bit libraries.
    Compat32,
}

impl Capability {
    /// All, in NVIDIA's order.
    pub const ALL: [Self; 7] =
        [Self::Compute, Self::Utility, Self::Video, Self::Graphics, Self::Display, Self::Ngx, Self::Compat32];

    /// As in `NVIDIA_DRIVER_CAPABILITIES`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::Utility => "utility",
            Self::Video => "video",
            Self::Graphics => "graphics",
            Self::Display => "display",
            Self::Ngx => "ngx",
            Self::Compat32 => "compat32",
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A set of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities(BTreeSet<Capability>);

/// Why a text is not a list of driver capabilities.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "driver capability `{0}` is unknown, expected `all` or some of `compute`, `utility`, `video`, `graphics`, `display`, \
     `ngx`, `compat32`"
)]
pub struct CapabilityError(String);

impl Capabilities {
    /// All of them.
    #[must_use]
    pub fn all() -> Self {
        Self(Capability::ALL.into())
    }

    /// Exactly these.
    #[must_use]
    pub fn of(list: &[Capability]) -> Self {
        Self(list.iter().copied().collect())
    }

    /// Whether it is one of them.
    #[must_use]
    pub fn has(&self, capability: Capability) -> bool {
        self.0.contains(&capability)
    }

    /// In NVIDIA's order.
    pub fn iter(&self) -> impl Iterator<Item = Capability> + '_ {
        self.0.iter().copied()
    }
}

/// What NVIDIA's own tools give when nothing is said.
impl Default for Capabilities {
    fn default() -> Self {
        Self::of(&[Capability::Compute, Capability::Utility])
    }
}

impl FromStr for Capabilities {
    type Err = CapabilityError;

    /// Reads `compute,utility` or `all`; an empty text is the default.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let names: Vec<&str> = text.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        if names.is_empty() {
            return Ok(Self::default());
        }
        let mut found = BTreeSet::new();
        for name in names {
            match Capability::ALL.into_iter().find(|capability| capability.name() == name) {
                Some(capability) => drop(found.insert(capability)),
                None if name == "all" => found.extend(Capability::ALL),
                None => return Err(CapabilityError(name.to_owned())),
            }
        }
        Ok(Self(found))
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(|capability| capability.name()).collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_nvidias() {
        for (text, shown) in [
            ("", "compute,utility"),
            ("utility,compute", "compute,utility"),
            (" video , graphics", "video,graphics"),
            ("all", "compute,utility,video,graphics,display,ngx,compat32"),
            ("compute,all", "compute,utility,video,graphics,display,ngx,compat32"),
        ] {
            assert_eq!(text.parse::<Capabilities>().unwrap().to_string(), shown, "{text}");
        }
        let message = "compute,gpu".parse::<Capabilities>().unwrap_err().to_string();
        assert!(message.starts_with("driver capability `gpu` is unknown, expected `all` or"), "{message}");
    }
}
